/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Callers on their way out. A process that ends closes what it has open in the kernel's exit path:
 * there it hears no signal any more, so nothing tells that nobody waits for the answer, and a FLUSH
 * (or the unlock of a flock) on a server that is away would keep it from ending. proc(5) tells.
 */
#ifndef CV_FUSE_EXITING_H
#define CV_FUSE_EXITING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CV_EXIT_LOOK_MS	  250  /* between looks at those that wait */
#define CV_EXIT_KILLED_MS 400  /* how long one that a signal ends waits: as for any signal */
#define CV_EXIT_SILENT_MS 2000 /* without any answer, where no server can be asked */

enum cv_exiting {
	CV_NOT_EXITING,
	CV_EXITING,	   /* by itself */
	CV_EXITING_KILLED, /* a signal ends it */
};

/*
 * pid: a thread, as fuse_in_header has it; the number stays its own while its request is not
 * answered. One that cannot be seen (0: in no PID namespace of ours) is not exiting. Never waits.
 */
enum cv_exiting cv_exiting(pid_t pid);

/* The same from a line of /proc/PID/stat, cut off with a NUL. */
enum cv_exiting cv_exiting_parse(const char *stat);

/* Is there nothing to wait for any more? silent: the server does not answer. */
static inline bool cv_exiting_let_go(enum cv_exiting state, uint64_t waited_ms, bool silent)
{
	return waited_ms >= CV_EXIT_KILLED_MS &&
	       (state == CV_EXITING_KILLED || (state == CV_EXITING && silent));
}

#endif
