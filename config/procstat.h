/* SPDX-License-Identifier: Apache-2.0 */
/* What proc(5)'s /proc/PID/stat says of a process or a thread. Never waits. */
#ifndef CV_CONFIG_PROCSTAT_H
#define CV_CONFIG_PROCSTAT_H

#include <stdbool.h>
#include <sys/types.h>

#define CV_PROC_STAT_MAX 1024 /* bytes of a line, with its NUL */

/* False: there is no such process. */
bool cv_proc_stat_read(pid_t pid, char line[CV_PROC_STAT_MAX]);

/* Where field number n of such a line begins, counted from 1 as in proc(5), from the third on;
 * NULL: there is none. */
const char *cv_proc_stat_field(const char *line, int n);

#endif
