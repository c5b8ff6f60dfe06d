/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the checks of the conformance program share. A check runs in its own process, in its own
 * fresh and empty directory as current directory; it returns when it passed and ends its process
 * through the macros below otherwise. Processes it forks do the same, join() passes that on.
 */
#ifndef CV_TESTS_CONFORMANCE_H
#define CV_TESTS_CONFORMANCE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

struct check {
	const char *name;
	void (*fn)(void);
};

/* Each file's table; ends with name == NULL. */
extern const struct check file_checks[], name_checks[], dir_checks[], link_checks[],
	permission_checks[], random_checks[], special_checks[];

extern const char *arg_enospc;	 /* a directory that can be filled up, or NULL */
extern const char *arg_readonly; /* a directory on a read-only mount of the same kind, or NULL */
extern unsigned arg_seed, arg_seconds; /* of random_operations; 0 s: a fixed number of them */

enum { EXIT_FAILED = 1, EXIT_SKIPPED = 2 };

__attribute__((noreturn, format(printf, 3, 4))) void fail_at(const char *file, int line,
							     const char *fmt, ...);
__attribute__((noreturn, format(printf, 1, 2))) void skip(const char *fmt, ...);

#define NEED(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			fail_at(__FILE__, __LINE__, "%s (errno: %s)", #cond,                       \
				strerrorname_np(errno));                                           \
	} while (0)

/* The call fails with either: POSIX, or Linux's file systems, allow both. */
#define NEED_EITHER(call, a, b)                                                                    \
	do {                                                                                       \
		long result_ = (call);                                                             \
		need_error(__FILE__, __LINE__, #call, result_, a, b);                              \
	} while (0)
#define NEED_ERROR(call, want) NEED_EITHER(call, want, want)
void need_error(const char *file, int line, const char *what, long result, int a, int b);

/* Forked processes of a check. */
pid_t spawn(void (*fn)(int arg), int arg);
void join(pid_t pid); /* fails or skips as the child did */
void join_all(pid_t *pids, unsigned count);

void need_root(void);
/* For good: the process becomes another user with these supplementary groups. */
void become(uid_t uid, gid_t gid, const gid_t *groups, size_t ngroups);

/* Small helpers that do not return on failure. */
int make_file(const char *path, mode_t mode, const char *content); /* an O_RDWR descriptor */
void put_file(const char *path, const char *content);
void expect_content(const char *path, const char *content);
void make_dir(const char *path);
struct stat stat_of(const char *path); /* lstat */
bool exists(const char *path);
void pattern(void *buf, size_t size, uint64_t off, unsigned seed);
void write_all(int fd, const void *buf, size_t size, uint64_t off);
size_t read_all(int fd, void *buf, size_t size, uint64_t off);
size_t count_entries(const char *path); /* without "." and ".." */

#endif
