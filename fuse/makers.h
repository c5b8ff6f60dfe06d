/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is making names in a directory. The kernel looks each name up before it is made; that it is
 * not there may be answered to such a thread from what we know of the directory. Anybody else may
 * have heard of a name that another host has just made, and is answered by the server.
 *
 * Bounded; what is forgotten costs a question. Loop thread only.
 */
#ifndef CV_FUSE_MAKERS_H
#define CV_FUSE_MAKERS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fuse/nodes.h"

#define CV_MAKERS 256 /* a power of two; direct-mapped */

struct cv_makers {
	struct cv_maker {
		uint32_t node, generation;
		pid_t pid; /* of the thread; 0: unused */
		uint64_t until_ns;
	} list[CV_MAKERS];
};

/* pid has just changed a name in dir, or made dir. 0: nobody whom we can tell from others. */
void cv_makers_note(struct cv_makers *m, const struct cv_node *dir, pid_t pid, uint64_t now_ns);
/* Has it, within the last half second? */
bool cv_makers_has(const struct cv_makers *m, const struct cv_node *dir, pid_t pid,
		   uint64_t now_ns);

#endif
