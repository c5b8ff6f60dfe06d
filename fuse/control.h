/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker's side of config/handoff.h once it serves: the first control socket and those accepted
 * from the listening socket. Answers sync, fds and log. A socket that closes is forgotten;
 * that never ends the worker.
 */
#ifndef CV_FUSE_CONTROL_H
#define CV_FUSE_CONTROL_H

#include "fuse/fs.h"

struct cv_control;

/* Takes both descriptors; listen_fd may be -1. 0 or -errno. */
int cv_control_new(struct cv_fs *fs, int sock, int listen_fd, struct cv_control **ret);
void cv_control_free(struct cv_control *control);

/* Before there is a loop to serve them: the next caller of listen_fd gets the descriptors, if that
 * is what it wants, or a refusal. Never waits. */
void cv_control_answer_one(int listen_fd, int fuse_fd, int shm_fd);

#endif
