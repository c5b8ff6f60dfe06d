/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LD_PRELOAD library for a server: system calls that change names below $SLOW_CALLS_IN, or that are
 * given by a directory and a name, wait before they begin, for as many milliseconds as the file
 * $SLOW_CALLS says, which may change at any time. While there is this file, each one adds its name
 * to $SLOW_CALLS.begun first.
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

static long delay_ms(const char *name)
{
	bool ours = *name != '/' || strncmp(name, slow_calls_in, strlen(slow_calls_in)) == 0;
	int fd = *slow_calls && ours ? raw_open(slow_calls, O_RDONLY) : -1;
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
	(void)!write(fd, line, strlen(line));
	(void)close(fd);
}

static void delay(const char *call, const char *name)
{
	long ms = delay_ms(name);
	struct timespec pause = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	if (ms < 0)
		return;
	say(call);
	while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
		;
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
