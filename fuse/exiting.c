/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/exiting.h"

#include <stdlib.h>
#include <sys/wait.h>

#include "config/procstat.h"

#define PF_EXITING	0x4ul /* the kernel's include/linux/sched.h */
#define FIELD_FLAGS	9
#define FIELD_EXIT_CODE 52

static bool field(const char *stat, int number, unsigned long *ret)
{
	const char *p = cv_proc_stat_field(stat, number);
	char *end = NULL;

	if (p)
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
	char stat[CV_PROC_STAT_MAX];

	return pid > 0 && cv_proc_stat_read(pid, stat) ? cv_exiting_parse(stat) : CV_NOT_EXITING;
}
