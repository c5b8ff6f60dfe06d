/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/creds.h"

#include <errno.h>
#include <stdlib.h>

#define ENTRIES	   256 /* direct-mapped by pid */
#define LIFE_NS	   1000000000ull
#define GROUPS_ALL 256

struct entry {
	pid_t pid;
	uint64_t until_ns;
	struct cv_cred cred;
};

struct cv_creds {
	struct entry entries[ENTRIES];
};

int cv_creds_new(struct cv_creds **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

void cv_creds_free(struct cv_creds *creds)
{
	free(creds);
}

void cv_creds_fill(struct cv_creds *creds, uint64_t now_ns, pid_t pid, uid_t uid, gid_t gid,
		   int (*get_groups)(void *arg, int size, gid_t list[]), void *arg,
		   struct cv_cred *ret)
{
	struct entry *e = &creds->entries[(unsigned)pid % ENTRIES];
	gid_t list[GROUPS_ALL];
	int n;

	ret->uid = uid;
	ret->gid = gid;
	ret->ngroups = 0;
	if (pid <= 0)
		return;
	if (e->pid == pid && e->until_ns > now_ns && e->cred.uid == uid && e->cred.gid == gid) {
		*ret = e->cred;
		return;
	}
	n = get_groups(arg, GROUPS_ALL, list);
	for (int i = 0; i < n && i < GROUPS_ALL && ret->ngroups < CV_GROUPS_MAX; i++) {
		if (list[i] != gid)
			ret->groups[ret->ngroups++] = list[i];
	}
	e->pid = pid;
	e->until_ns = now_ns + LIFE_NS;
	e->cred = *ret;
}
