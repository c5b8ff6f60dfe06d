/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/process.h"

#define TEMPORARY ".tmp-"

int cv_lock_exclusive(int fd, unsigned timeout_ms)
{
	const struct timespec pause = { .tv_nsec = 20000000 };
	uint64_t deadline = cv_clock_ms() + timeout_ms;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		if (cv_clock_ms() > deadline)
			return -EBUSY;
		(void)nanosleep(&pause, NULL);
	}
	return 0;
}

int cv_mkdir_p(const char *path, mode_t mode, struct cv_err *err)
{
	cv_cleanup_free char *copy = strdup(path);
	struct stat st;

	if (!copy)
		return cv_fail(err, ENOMEM, "out of memory");
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST && errno != EROFS)
			return cv_fail(err, errno, "cannot create directory %s: %s", copy,
				       cv_strerror(errno));
		*p = '/';
	}
	if (mkdir(copy, mode) == 0)
		return 0;
	/* A read-only file system answers EROFS although the directory is there. */
	if (stat(copy, &st) == 0 && S_ISDIR(st.st_mode))
		return 0;
	return cv_fail(err, errno, "cannot create directory %s: %s", path, cv_strerror(errno));
}

int cv_dir_open(int parent, const char *path, mode_t mode, struct cv_err *err)
{
	int fd = openat(parent, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT) {
		if (parent == AT_FDCWD) {
			int r = cv_mkdir_p(path, mode, err);

			if (r < 0)
				return r;
		} else if (mkdirat(parent, path, mode) < 0 && errno != EEXIST) {
			return cv_fail(err, errno, "cannot create directory %s: %s", path,
				       cv_strerror(errno));
		}
		fd = openat(parent, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		return cv_fail(err, errno, "cannot open directory %s: %s", path,
			       cv_strerror(errno));
	return fd;
}

int cv_file_read(int dirfd, const char *name, size_t max, char **ret_data, size_t *ret_size)
{
	cv_cleanup_close int fd =
		openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	cv_cleanup_free char *data = NULL;
	struct stat st;
	size_t used = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -ENOTSUP;
	if (st.st_size < 0 || (size_t)st.st_size > max)
		return -EFBIG;
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return -ENOMEM;
	while (used < (size_t)st.st_size) {
		ssize_t n = read(fd, data + used, (size_t)st.st_size - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	data[used] = '\0';
	*ret_data = cv_steal(&data);
	if (ret_size)
		*ret_size = used;
	return 0;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		size -= (size_t)n;
	}
	return 0;
}

int cv_file_replace(int dirfd, const char *name, const void *data, size_t size)
{
	static atomic_uint counter;
	cv_cleanup_close int fd = -1;
	char temporary[64];
	int r;

	/* Does not grow with name: a 255-byte name must still have a temporary one. */
	(void)snprintf(temporary, sizeof(temporary), TEMPORARY "%d-%u", (int)getpid(),
		       atomic_fetch_add(&counter, 1));
	fd = openat(dirfd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 && errno == EEXIST) { /* left by a process that had our number */
		(void)unlinkat(dirfd, temporary, 0);
		fd = openat(dirfd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
			    0600);
	}
	if (fd < 0)
		return -errno;
	r = write_all(fd, data, size);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dirfd, temporary, dirfd, name) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlinkat(dirfd, temporary, 0);
		return r;
	}
	/* The new content is in place; a directory that cannot be synced does not change that. */
	(void)fsync(dirfd);
	return 0;
}

int cv_file_is_temporary(const char *name)
{
	return cv_str_starts(name, TEMPORARY);
}
