/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/holder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/str.h"
#include "plugin/names.h"
#include "plugin/process.h"
#include "plugin/spawn.h"

#define FUSE_MAJOR 10
#define FUSE_MINOR 229

/* The worker, which has called listen(2) last (fuse/main.c); 0: unknown. */
static pid_t listening(int sock)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);

	if (sock < 0 || getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return 0;
	return peer.pid;
}

/* One that does not listen itself leaves the number of the daemon that did, which may be anybody's
 * by now. */
static bool is_worker_of(pid_t pid, const char *volume)
{
	char path[32], got[sizeof(CV_WORKER_PROGRAM) + CV_VOLUME_NAME_MAX + 1];
	cv_cleanup_close int fd = -1;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, got, sizeof(got));
	return n == (ssize_t)(sizeof(CV_WORKER_PROGRAM) + strlen(volume) + 1) &&
	       memcmp(got, CV_WORKER_PROGRAM, sizeof(CV_WORKER_PROGRAM)) == 0 &&
	       memcmp(got + sizeof(CV_WORKER_PROGRAM), volume, strlen(volume) + 1) == 0;
}

static bool is_fuse(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(FUSE_MAJOR, FUSE_MINOR);
}

/* A copy of its descriptor called name, if it is one of the two. */
static int take_one(int pidfd, const char *name, struct cv_holder *h)
{
	cv_cleanup_close int fd = -1;
	struct cv_shm_header header;
	uint64_t number;
	struct stat st;

	if (cv_parse_u64(name, 10, INT32_MAX, &number) < 0)
		return 0;
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)number, 0); /* close-on-exec by itself */
	if (fd < 0)
		return errno == EBADF ? 0 : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (is_fuse(&st) && h->fuse_fd < 0)
		h->fuse_fd = cv_steal_fd(&fd);
	else if (S_ISREG(st.st_mode) && h->shm_fd < 0 &&
		 pread(fd, &header, sizeof(header), 0) == (ssize_t)sizeof(header) &&
		 header.magic == CV_SHM_MAGIC)
		h->shm_fd = cv_steal_fd(&fd);
	return 0;
}

/* Looked at by name first: a worker may have thousands of files open, on servers that hang. */
static bool may_be_one(int dirfd, const char *name)
{
	char target[64];
	ssize_t n = readlinkat(dirfd, name, target, sizeof(target) - 1);

	if (n <= 0)
		return false;
	target[n] = '\0';
	return cv_str_starts(target, "/memfd:cvol") || cv_str_eq(target, "/dev/fuse");
}

static int take_both(int pidfd, pid_t pid, struct cv_holder *h)
{
	cv_cleanup_closedir DIR *dir = NULL;
	struct dirent *entry;
	char path[32];
	int r = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? -ESRCH : -errno;
	while (r == 0 && (h->fuse_fd < 0 || h->shm_fd < 0) && (entry = readdir(dir))) {
		if (may_be_one(dirfd(dir), entry->d_name))
			r = take_one(pidfd, entry->d_name, h);
	}
	if (r == 0 && (h->fuse_fd < 0 || h->shm_fd < 0))
		r = -ESRCH;
	return r;
}

/* pidfd: given away. A process that has ended meanwhile, so that its number is another's, has no
 * descriptors that its pidfd leads to. */
static int take_from(int pidfd, pid_t pid, const char *volume, struct cv_holder *ret)
{
	struct cv_holder h = { .pid = pid, .pidfd = pidfd, .fuse_fd = -1, .shm_fd = -1 };
	int r;

	if (pidfd < 0)
		return pidfd;
	h.start = cv_process_start(pid);
	r = is_worker_of(pid, volume) ? take_both(pidfd, pid, &h) : -ESRCH;
	if (r < 0) {
		cv_close_fd(&h.fuse_fd);
		cv_close_fd(&h.shm_fd);
		cv_close_fd(&h.pidfd);
		return r;
	}
	*ret = h;
	return 0;
}

/* By the name that stays until the very end; the command line goes with the memory. */
static bool is_worker(pid_t pid)
{
	char path[32], got[sizeof(CV_WORKER_PROGRAM)];
	cv_cleanup_close int fd = -1;

	(void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, got, sizeof(got)) == (ssize_t)sizeof(got) &&
	       memcmp(got, CV_WORKER_PROGRAM "\n", sizeof(got)) == 0;
}

int cv_holder_find(int sock, const struct cv_record *record, struct cv_holder *ret)
{
	struct cv_holder h = { .pid = listening(sock), .fuse_fd = -1, .shm_fd = -1 };

	h.pidfd = h.pid > 0 ? cv_pidfd_open(h.pid) : -ESRCH;
	h.start = h.pidfd < 0 ? 0 : cv_process_start(h.pid);
	if (h.pidfd >= 0 && !is_worker(h.pid)) {
		cv_close_fd(&h.pidfd);
		h.pidfd = -ESRCH;
	}
	if (h.pidfd < 0) {
		h.pid = record->worker;
		h.start = record->worker_start;
		h.pidfd = cv_process_open(h.pid, h.start);
	}
	if (h.pidfd < 0)
		return h.pidfd;
	*ret = h;
	return 0;
}

int cv_holder_take(int sock, const struct cv_record *record, struct cv_holder *ret)
{
	pid_t pid = listening(sock);
	int r = pid > 0 ? take_from(cv_pidfd_open(pid), pid, record->volume, ret) : -ESRCH;

	if (r == -ESRCH)
		r = take_from(cv_process_open(record->worker, record->worker_start), record->worker,
			      record->volume, ret);
	return r;
}
