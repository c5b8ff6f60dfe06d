/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is asking: uid and gid come with each request, supplementary groups from /proc, which costs
 * about 10 us; they are remembered per process for a second. A caller that cannot be looked up
 * (another pid namespace, already gone) has no supplementary groups.
 */
#ifndef CV_FUSE_CREDS_H
#define CV_FUSE_CREDS_H

#include <stdint.h>
#include <sys/types.h>

#include "backends/backend.h"

struct cv_creds;

int cv_creds_new(struct cv_creds **ret);
void cv_creds_free(struct cv_creds *creds);
/* get_groups(arg, size, list) as fuse_req_getgroups(): the count, or -errno. */
void cv_creds_fill(struct cv_creds *creds, uint64_t now_ns, pid_t pid, uid_t uid, gid_t gid,
		   int (*get_groups)(void *arg, int size, gid_t list[]), void *arg,
		   struct cv_cred *ret);

#endif
