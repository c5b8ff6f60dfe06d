/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounting, step by step, under one deadline: what NFSv3 (nfs_mount.c) and NFSv4 (nfs4_mount.c) do
 * differently stands in a table, the rest is shared. Everything here may block.
 */
#ifndef CV_BACKENDS_NFS_MOUNT_H
#define CV_BACKENDS_NFS_MOUNT_H

#include "backends/nfs.h"
#include "backends/nfs4.h"

#define CV_NFS_PATH_MAX	  1024 /* MNTPATHLEN */
#define CV_NFS_LISTED_MAX 400  /* bytes of exports named in an error */
#define CV_NFS_RETRY_MS	  200  /* between two questions to a server that is not ready */

struct cv_nfs_mount_procs;

struct cv_nfs_mount {
	const struct cv_dict *options;
	struct cv_nfs *nfs;
	struct cv_err *err;
	const struct cv_nfs_mount_procs *procs;
	const char *host;
	char path[CV_NFS_PATH_MAX + 1]; /* normalised: "/a/b", "/" */
	char rest[CV_NFS_PATH_MAX + 1]; /* below the export that was mounted: "b/c", "" */
	uint16_t port, mountport;	/* 0: the version's own, or the portmapper's */
	uint64_t deadline_ns;
	struct cv_rpc_config config;
	int fd; /* the nfsd; owned; -1: none */
	uint16_t connected_port;
	struct cv_cred cred;
	struct cv_handle root;		  /* how far we are */
	bool made;			  /* the directory we are in is our own work */
	const struct cv_replays *replays; /* may be NULL */
	bool settled;			  /* cv_info.settled */
};

/* Calls return 0 or -errno; those that take info or say so set m->err. */
struct cv_nfs_mount_procs {
	const char *name;
	uint32_t version;
	unsigned minor;
	uint16_t port;	    /* 0: asked of the portmapper */
	bool known_by_port; /* the server recognises a retransmission by where it comes from, too */
	/* As of cv_rpc_replay_blocking(). NULL: no records are kept. */
	bool (*took)(struct cv_replay *replay, int status, const uint8_t *reply, size_t size);
	/* Connects m->fd and finds the directory m->path: m->root. Sets m->err. */
	int (*find_root)(struct cv_nfs_mount *m);
	int (*getattr)(struct cv_nfs_mount *m, const struct cv_handle *h, struct cv_attr *ret);
	int (*lookup)(struct cv_nfs_mount *m, const struct cv_handle *dir, const char *name,
		      struct cv_handle *ret);
	int (*make_dir)(struct cv_nfs_mount *m, const struct cv_handle *dir, const char *name,
			uint32_t mode);
	/* Sizes, lengths, granularity: into m->nfs and info. Sets m->err. */
	int (*limits)(struct cv_nfs_mount *m, struct cv_info *info);
};
extern const struct cv_nfs_mount_procs cv_nfs40_mount_procs, cv_nfs41_mount_procs;

uint64_t cv_nfs_left_ns(const struct cv_nfs_mount *m);
/* m->fd, m->config; what a predecessor has sent is settled. Sets m->err. */
int cv_nfs_dial(struct cv_nfs_mount *m);
/* From m->root down. what: for the error. Missing directories are made when create is set. */
int cv_nfs_walk(struct cv_nfs_mount *m, const char *path, const char *what, bool create);
/* strerror(), but of what a call may fail with. */
const char *cv_nfs_why(int r);
/* What to do about a call that failed with r: "" or "; ..." */
const char *cv_nfs_call_hint(int r);
/* Adds a name to a list for people: as many as fit, then "...". */
void cv_nfs_add_listed(char *list, size_t size, const char *name);
/* rsize=, wsize=: they can only make less of what the server takes. */
uint32_t cv_nfs_wanted_size(const struct cv_nfs_mount *m, const char *option, uint32_t server_max);
uint32_t cv_nfs_limit(uint32_t value, uint32_t low, uint32_t high);

#endif
