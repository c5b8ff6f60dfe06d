/* SPDX-License-Identifier: Apache-2.0 */
/* The worker program: where it is, and how it is started. What is said to it then:
 * config/handoff.h. */
#ifndef CV_PLUGIN_SPAWN_H
#define CV_PLUGIN_SPAWN_H

#include <sys/types.h>

#include "config/err.h"

#define CV_WORKER_PROGRAM "cvol-fuse"

/* given, or cvol-fuse beside this program, or the installed one. NULL: out of memory, or given does
 * not exist. Caller frees. */
char *cv_worker_find(const char *given);

/*
 * label: shown by ps. sock: becomes its descriptor 3; out: its standard output and error. Nothing
 * else is inherited, and little of the environment. 0 or -errno with err.
 */
int cv_worker_spawn(const char *path, const char *label, int sock, int out, pid_t *ret_pid,
		    struct cv_err *err);

/* Can the program go on with shared memory of that layout? Waits for it, a few seconds at most. */
int cv_worker_check_layout(const char *path, unsigned version, struct cv_err *err);

#endif
