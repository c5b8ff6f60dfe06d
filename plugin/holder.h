/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that serves a mount, and its descriptors, without its help: it may hang, and a daemon
 * that starts waits for nobody. Needs the right to look into it (CAP_SYS_PTRACE, or the same user
 * where the kernel does not restrict that further).
 */
#ifndef CV_PLUGIN_HOLDER_H
#define CV_PLUGIN_HOLDER_H

#include <stdint.h>
#include <sys/types.h>

#include "plugin/state.h"

struct cv_holder {
	pid_t pid;
	uint64_t start; /* as of cv_process_start() */
	int pidfd;	/* owned, as the others are */
	int fuse_fd;
	int shm_fd;
};

/*
 * sock: connected to where the mount's worker listens, or -1 where that takes no more connections;
 * then what the record says must do, which does not know of successors. 0, -ESRCH when there is no
 * such process, -EPERM when we may not, or another -errno.
 */
int cv_holder_take(int sock, const struct cv_record *record, struct cv_holder *ret);

/*
 * The process alone, for who has the descriptors from elsewhere: one that is ending (SIGKILL ends
 * no call of the kernel that waits for a disk) shows nothing else any more. 0, -ESRCH or another
 * -errno.
 */
int cv_holder_find(int sock, const struct cv_record *record, struct cv_holder *ret);

#endif
