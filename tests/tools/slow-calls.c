/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LD_PRELOAD library for a server: system calls that change names below $SLOW_CALLS_IN, or that are
 * given by a directory and a name, wait before they begin, for as many milliseconds as the file
 * $SLOW_CALLS says, which may change at any time. While there is this file, each one adds its name
 * to $SLOW_CALLS.begun first.
 *
 * Of one process only, the one with number N, write() and pwritev() to files below $SLOW_CALLS_IN
 * wait as $SLOW_CALLS.N says, and add "write N". And in all processes but that whose number
 * $SLOW_CALLS.self says, readlink() of /proc/self waits as long as there is this file, and adds
 * "self N".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* As the library was loaded with them: sshd gives a session another environment. */
static char slow_calls[3000], slow_calls_in[1000];

__attribute__((constructor)) static void note_environment(void)
{
	const char *path = getenv("SLOW_CALLS"), *below = getenv("SLOW_CALLS_IN");

	(void)snprintf(slow_calls, sizeof(slow_calls), "%s", path ? path : "");
	(void)snprintf(slow_calls_in, sizeof(slow_calls_in), "%s", below ? below : "?");
}

static int raw_open(const char *path, int flags)
{
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0666);
}

static bool is_ours(const char *path)
{
	return strncmp(path, slow_calls_in, strlen(slow_calls_in)) == 0;
}

/* -1: there is no such file. */
static long said_in(const char *file)
{
	int fd = *slow_calls ? raw_open(file, O_RDONLY) : -1;
	char text[32] = "";

	if (fd < 0)
		return -1;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	(void)close(fd);
	return atol(text);
}

static void say(const char *call)
{
	char path[4096], line[64];
	int fd;

	(void)snprintf(path, sizeof(path), "%s.begun", slow_calls);
	(void)snprintf(line, sizeof(line), "%s\n", call);
	fd = raw_open(path, O_WRONLY | O_CREAT | O_APPEND);
	if (fd < 0)
		return;
	(void)!syscall(SYS_write, fd, line, strlen(line));
	(void)close(fd);
}

static void pause_ms(long ms)
{
	struct timespec pause = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
		;
}

static void delay(const char *call, const char *name)
{
	long ms = *name != '/' || is_ours(name) ? said_in(slow_calls) : -1;

	if (ms < 0)
		return;
	say(call);
	pause_ms(ms);
}

static void say_process(const char *call)
{
	char text[64];

	(void)snprintf(text, sizeof(text), "%s %d", call, (int)getpid());
	say(text);
}

static bool is_file_of_ours(int fd)
{
	char link[64], path[4096];
	struct stat st;
	long n;

	if (!*slow_calls || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof(path) - 1);
	path[n < 0 ? 0 : n] = '\0';
	return is_ours(path);
}

static void delay_write(int fd)
{
	char file[3100];
	long ms = -1;

	if (is_file_of_ours(fd)) {
		(void)snprintf(file, sizeof(file), "%s.%d", slow_calls, (int)getpid());
		ms = said_in(file);
	}
	if (ms >= 0) {
		say_process("write");
		pause_ms(ms);
	}
}

ssize_t write(int fd, const void *data, size_t size)
{
	delay_write(fd);
	return syscall(SYS_write, fd, data, size);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t off)
{
	ssize_t (*next)(int, const struct iovec *, int, off64_t) = NULL;
	void *found = dlsym(RTLD_NEXT, "pwritev64");

	delay_write(fd);
	memcpy(&next, &found, sizeof(next));
	return next(fd, iov, count, off);
}

ssize_t readlink(const char *path, char *target, size_t size)
{
	bool said = false;
	char file[3100];
	long free;

	(void)snprintf(file, sizeof(file), "%s.self", slow_calls);
	while (strcmp(path, "/proc/self") == 0 && (free = said_in(file)) >= 0 && free != getpid()) {
		if (!said)
			say_process("self");
		said = true;
		pause_ms(20);
	}
	return syscall(SYS_readlinkat, AT_FDCWD, path, target, size);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
	delay("mkdir", path);
	return (int)syscall(SYS_mkdirat, dir, path, mode);
}

int mkdir(const char *path, mode_t mode)
{
	return mkdirat(AT_FDCWD, path, mode);
}

int unlinkat(int dir, const char *path, int flags)
{
	delay("unlink", path);
	return (int)syscall(SYS_unlinkat, dir, path, flags);
}

int unlink(const char *path)
{
	return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
	return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	delay("rename", from);
	return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
}

int rename(const char *from, const char *to)
{
	return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	delay("link", to);
	return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to)
{
	return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int symlinkat(const char *target, int dir, const char *path)
{
	delay("symlink", path);
	return (int)syscall(SYS_symlinkat, target, dir, path);
}

int symlink(const char *target, const char *path)
{
	return symlinkat(target, AT_FDCWD, path);
}

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		delay("create", path);
	return (int)syscall(SYS_openat, dir, path, flags, mode);
}

#define OPEN_MODE(flags)                                                                           \
	mode_t mode = 0;                                                                           \
	if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                   \
		va_list args;                                                                      \
		va_start(args, flags);                                                             \
		mode = va_arg(args, mode_t);                                                       \
		va_end(args);                                                                      \
	}

int open(const char *path, int flags, ...)
{
	OPEN_MODE(flags)
	return open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	OPEN_MODE(flags)
	return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
	OPEN_MODE(flags)
	return open_at(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...)
{
	OPEN_MODE(flags)
	return open_at(dir, path, flags | O_LARGEFILE, mode);
}

/* Ganesha loads its back ends so that they would find the C library before us. */
void *dlopen(const char *file, int flags)
{
	void *(*next)(const char *, int) = NULL;
	void *found = dlsym(RTLD_NEXT, "dlopen");

	memcpy(&next, &found, sizeof(next));
	return next(file, flags & ~RTLD_DEEPBIND);
}
