/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/exiting.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PF_EXITING	0x4ul /* the kernel's include/linux/sched.h */
#define FIELD_FLAGS	9
#define FIELD_EXIT_CODE 52
#define STAT_MAX	1024

/* A number of proc(5)'s stat. The name in the second field may hold anything, but ends with the
 * last ')' of the line. */
static bool field(const char *stat, int number, unsigned long *ret)
{
	const char *p = strrchr(stat, ')');
	char *end;

	for (int i = 2; p && i < number; i++) {
		p = strchr(p, ' ');
		p = p ? p + 1 : NULL;
	}
	if (!p)
		return false;
	*ret = strtoul(p, &end, 10);
	return end != p;
}

enum cv_exiting cv_exiting_parse(const char *stat)
{
	unsigned long flags, code;

	if (!field(stat, FIELD_FLAGS, &flags) || !(flags & PF_EXITING))
		return CV_NOT_EXITING;
	/* As wait(2) gives it. Who may not look (no CAP_SYS_PTRACE) reads 0. */
	return field(stat, FIELD_EXIT_CODE, &code) && WIFSIGNALED((int)code) ? CV_EXITING_KILLED
									     : CV_EXITING;
}

enum cv_exiting cv_exiting(pid_t pid)
{
	char path[32], stat[STAT_MAX];
	ssize_t n;
	int fd;

	if (pid <= 0)
		return CV_NOT_EXITING;
	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return CV_NOT_EXITING;
	n = read(fd, stat, sizeof(stat) - 1);
	(void)close(fd);
	stat[n > 0 ? n : 0] = '\0';
	return cv_exiting_parse(stat);
}
