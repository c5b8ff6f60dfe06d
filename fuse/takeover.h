/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking over from a worker that died. Its mount, and all it knew that matters, are still there:
 *the daemon holds the FUSE descriptor and the shared memory file (shm.h). A successor
 *
 *	reads on at once, so that callers who get a signal are answered, and connects meanwhile,
 *	takes back what a half-executed request changed in the tables,
 *	repeats the requests that change names, for paths have to be right before files are opened,
 *	opens the open files again,
 *	repeats the other unanswered requests, in the order of their arrival.
 *
 * Nothing is lost when it dies on the way: the next one does the same again. A request that was
 *under way when three workers crashed is not given to a fourth.
 *
 * Loop thread only, except where said.
 */
#ifndef CV_FUSE_TAKEOVER_H
#define CV_FUSE_TAKEOVER_H

#include "fuse/fs.h"

/*
 * Takes back what the predecessor had begun in the tables; connects the engine, again and again
 * until it succeeds, while a thread reads what the kernel sends into slots and answers who connects
 * to listen_fd (-1: none). Blocks without limit, but not those who use the mount. abandon, called
 * on that thread when nobody uses the mount any more and nothing is left to be stored, must end the
 * process. Returns 0 or -ENOMEM, -errno.
 */
int cv_takeover_connect(struct cv_fs *fs, const struct cv_dict *options, int fuse_fd, int listen_fd,
			void (*abandon)(struct cv_fs *fs), struct cv_err *err);

/* When tables and session are there; the rest happens from the loop. 0 or -ENOMEM. */
int cv_takeover_start(struct cv_fs *fs);
/* A request that was received meanwhile. */
void cv_takeover_received(struct cv_takeover *t, struct cv_slot *slot);
/* No request is under way at the moment: the next step may begin. */
void cv_takeover_idle(struct cv_takeover *t);
void cv_takeover_free(struct cv_takeover *t);

#endif
