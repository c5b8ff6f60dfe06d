/* SPDX-License-Identifier: Apache-2.0 */
/* Fifos, sockets, locks, extended attributes, a full and a read-only file system. */
#include "conformance.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static void fifo_writer(int unused)
{
	int fd = open("fifo", O_WRONLY);

	(void)unused;
	NEED(fd >= 0);
	NEED(write(fd, "through", 7) == 7);
	NEED(close(fd) == 0);
}

static void fifo(void)
{
	char buf[16];
	pid_t pid;
	int fd;

	if (mkfifo("fifo", 0600) < 0 && (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS))
		skip("no fifos");
	NEED(S_ISFIFO(stat_of("fifo").st_mode));
	pid = spawn(fifo_writer, 0);
	fd = open("fifo", O_RDONLY);
	NEED(fd >= 0);
	NEED(read(fd, buf, sizeof(buf)) == 7 && memcmp(buf, "through", 7) == 0);
	NEED(close(fd) == 0);
	join(pid);
	NEED_ERROR(mkfifo("fifo", 0600), EEXIST);
	NEED(unlink("fifo") == 0);
}

static void unix_socket(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "sock" };
	int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);

	NEED(server >= 0 && client >= 0);
	if (bind(server, (struct sockaddr *)&addr, sizeof(addr)) < 0 &&
	    (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS))
		skip("no sockets");
	NEED(S_ISSOCK(stat_of("sock").st_mode));
	NEED(listen(server, 1) == 0);
	NEED(connect(client, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	NEED(close(client) == 0);
	NEED(close(server) == 0);
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	NEED_ERROR(connect(client, (struct sockaddr *)&addr, sizeof(addr)), ECONNREFUSED);
	NEED(unlink("sock") == 0);
}

static void mknod_regular(void)
{
	NEED(mknod("f", S_IFREG | 0640, 0) == 0);
	NEED(S_ISREG(stat_of("f").st_mode) && (stat_of("f").st_mode & 0777) == 0640);
	NEED_ERROR(mknod("f", S_IFREG | 0640, 0), EEXIST);
	expect_content("f", "");
}

/* ---- locks: those of one mount among each other */

static int held[2], let_go[2];

static void wait_for(int fd)
{
	char c;

	NEED(read(fd, &c, 1) == 1);
}

static void signal_to(int fd)
{
	NEED(write(fd, "x", 1) == 1);
}

static void flock_holder(int unused)
{
	int fd = open("f", O_RDWR);

	(void)unused;
	NEED(fd >= 0);
	NEED(flock(fd, LOCK_EX) == 0);
	signal_to(held[1]);
	wait_for(let_go[0]);
}

static void flock_excludes(void)
{
	int fd = make_file("f", 0600, "x");
	pid_t pid;

	NEED(pipe(held) == 0 && pipe(let_go) == 0);
	pid = spawn(flock_holder, 0);
	wait_for(held[0]);
	NEED_ERROR(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	NEED_ERROR(flock(fd, LOCK_SH | LOCK_NB), EWOULDBLOCK);
	signal_to(let_go[1]);
	NEED(flock(fd, LOCK_EX) == 0); /* free when its holder has ended */
	join(pid);
	NEED(flock(fd, LOCK_UN) == 0);
	NEED(close(fd) == 0);
}

static struct flock range(short type, off_t start, off_t len)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };

	return l;
}

static void range_holder(int unused)
{
	struct flock l = range(F_WRLCK, 100, 50);
	int fd = open("f", O_RDWR);

	(void)unused;
	NEED(fd >= 0);
	NEED(fcntl(fd, F_SETLK, &l) == 0);
	signal_to(held[1]);
	wait_for(let_go[0]);
}

static void fcntl_ranges(void)
{
	struct flock inside = range(F_WRLCK, 120, 1), outside = range(F_WRLCK, 0, 100);
	struct flock test = range(F_WRLCK, 0, 0), all = range(F_WRLCK, 0, 0);
	int fd = make_file("f", 0600, "x");
	pid_t pid;

	NEED(pipe(held) == 0 && pipe(let_go) == 0);
	pid = spawn(range_holder, 0);
	wait_for(held[0]);
	NEED_EITHER(fcntl(fd, F_SETLK, &inside), EAGAIN, EACCES);
	NEED(fcntl(fd, F_SETLK, &outside) == 0);
	NEED(fcntl(fd, F_GETLK, &test) == 0);
	NEED(test.l_type == F_WRLCK && test.l_start == 100 && test.l_len == 50);
	NEED(test.l_pid == pid);
	signal_to(let_go[1]);
	NEED(fcntl(fd, F_SETLKW, &all) == 0);
	join(pid);
	NEED(close(fd) == 0);
}

static void counter(int unused)
{
	(void)unused;
	for (int i = 0; i < 50; i++) {
		struct flock l = range(F_WRLCK, 0, 0);
		int fd = open("count", O_RDWR);
		char buf[16] = "";

		NEED(fd >= 0);
		NEED(fcntl(fd, F_SETLKW, &l) == 0);
		NEED(pread(fd, buf, sizeof(buf) - 1, 0) >= 0);
		(void)snprintf(buf, sizeof(buf), "%d", atoi(buf) + 1);
		NEED(pwrite(fd, buf, strlen(buf), 0) == (ssize_t)strlen(buf));
		NEED(close(fd) == 0); /* lets go */
	}
}

/* Locks and data together: what the last holder wrote is what the next one reads. */
static void locked_counter(void)
{
	pid_t pids[4];

	put_file("count", "0");
	for (int i = 0; i < 4; i++)
		pids[i] = spawn(counter, 0);
	join_all(pids, 4);
	expect_content("count", "200");
}

/* ---- extended attributes */

static void xattrs(void)
{
	char buf[256];
	ssize_t n;

	put_file("f", "x");
	if (setxattr("f", "user.test", "value", 5, 0) < 0) {
		NEED(errno == EOPNOTSUPP);
		/* Then all of them say so. */
		NEED_ERROR(getxattr("f", "user.test", buf, sizeof(buf)), EOPNOTSUPP);
		n = listxattr("f", buf, sizeof(buf));
		NEED(n == 0 || (n < 0 && errno == EOPNOTSUPP));
		skip("no extended attributes");
	}
	NEED(getxattr("f", "user.test", buf, sizeof(buf)) == 5 && memcmp(buf, "value", 5) == 0);
	NEED(getxattr("f", "user.test", NULL, 0) == 5);
	NEED_ERROR(getxattr("f", "user.test", buf, 2), ERANGE);
	NEED_ERROR(getxattr("f", "user.other", buf, sizeof(buf)), ENODATA);
	NEED_ERROR(setxattr("f", "user.test", "x", 1, XATTR_CREATE), EEXIST);
	NEED_ERROR(setxattr("f", "user.other", "x", 1, XATTR_REPLACE), ENODATA);
	NEED(setxattr("f", "user.test", "longer value", 12, XATTR_REPLACE) == 0);
	n = listxattr("f", buf, sizeof(buf));
	NEED(n > 0 && memmem(buf, (size_t)n, "user.test", 10));
	NEED(removexattr("f", "user.test") == 0);
	NEED_ERROR(removexattr("f", "user.test"), ENODATA);
	make_dir("d");
	NEED(setxattr("d", "user.test", "on a directory", 14, 0) == 0);
	NEED(getxattr("d", "user.test", buf, sizeof(buf)) == 14);
}

/* ---- the file system itself */

static void statfs_sane(void)
{
	struct statvfs st;

	NEED(statvfs(".", &st) == 0);
	NEED(st.f_bsize >= 512 && st.f_frsize >= 512);
	NEED(st.f_blocks > 0);
	NEED(st.f_bavail <= st.f_blocks && st.f_bfree <= st.f_blocks);
	NEED(st.f_namemax >= 255);
}

static void readonly(void)
{
	const struct timespec ts[2] = { { 0, 0 }, { 0, 0 } };

	if (!arg_readonly)
		skip("needs --readonly DIR");
	NEED(chdir(arg_readonly) == 0);
	NEED_ERROR(open("new", O_RDWR | O_CREAT, 0600), EROFS);
	NEED_ERROR(mkdir("new", 0700), EROFS);
	NEED_ERROR(symlink("x", "new"), EROFS);
	NEED_ERROR(utimensat(AT_FDCWD, ".", ts, 0), EROFS);
	NEED_ERROR(chmod(".", 0700), EROFS);
	(void)count_entries(".");
}

static void no_space(void)
{
	char path[4096];
	uint8_t *block = malloc(1 << 20);
	uint64_t off = 0;
	struct stat st;
	int fd, error = 0;

	if (!arg_enospc)
		skip("needs --enospc DIR");
	(void)snprintf(path, sizeof(path), "%s/fill.%d", arg_enospc, (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	NEED(fd >= 0);
	memset(block, 'x', 1 << 20);
	/* The error may come with the write, the fsync, or the close at the latest. */
	while (!error && off < 4ull << 30) {
		ssize_t n = pwrite(fd, block, 1 << 20, (off_t)off);

		if (n < 0)
			error = errno;
		else
			off += (uint64_t)n;
		if (!error && off % (16 << 20) == 0 && fsync(fd) < 0)
			error = errno;
	}
	if (fsync(fd) < 0 && !error)
		error = errno;
	if (close(fd) < 0 && !error)
		error = errno;
	NEED(stat(path, &st) == 0);
	NEED(unlink(path) == 0);
	if (error != ENOSPC && error != EDQUOT)
		fail_at(__FILE__, __LINE__, "after %llu bytes: %s", (unsigned long long)off,
			error ? strerrorname_np(error) : "no error");
	/* And it is usable again. */
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	NEED(fd >= 0);
	write_all(fd, "fits", 4, 0);
	NEED(fsync(fd) == 0);
	NEED(close(fd) == 0);
	NEED(unlink(path) == 0);
	free(block);
}

const struct check special_checks[] = {
	{ "fifo", fifo },
	{ "unix_socket", unix_socket },
	{ "mknod_regular", mknod_regular },
	{ "flock_excludes", flock_excludes },
	{ "fcntl_ranges", fcntl_ranges },
	{ "locked_counter", locked_counter },
	{ "xattrs", xattrs },
	{ "statfs_sane", statfs_sane },
	{ "readonly", readonly },
	{ "no_space", no_space },
	{ NULL, NULL },
};
