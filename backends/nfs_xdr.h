/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NFSv3 and MOUNTv3 on the wire (RFC 1813). Arguments are encoded by libnfs' XDR functions, in
 * nfs_xdr.c alone; results are decoded here, bounded, straight from the reply: servers are not
 * trusted, and READ data is not copied.
 */
#ifndef CV_BACKENDS_NFS_XDR_H
#define CV_BACKENDS_NFS_XDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/backend.h"
#include "backends/xdr.h"

#define CV_NFS_PROGRAM	 100003
#define CV_MOUNT_PROGRAM 100005
#define CV_NFS_VERSION	 3
#define CV_MOUNT_VERSION 3
#define CV_NFS_FH_MAX	 64
#define CV_NFS_ARGS_MAX	 10240 /* a symlink target of 4 KiB, two names and handles */
#define CV_NFS_VERF_SIZE 8

enum cv_nfs_proc {
	CV_NFS_GETATTR = 1,
	CV_NFS_SETATTR = 2,
	CV_NFS_LOOKUP = 3,
	CV_NFS_ACCESS = 4,
	CV_NFS_READLINK = 5,
	CV_NFS_READ = 6,
	CV_NFS_WRITE = 7,
	CV_NFS_CREATE = 8,
	CV_NFS_MKDIR = 9,
	CV_NFS_SYMLINK = 10,
	CV_NFS_MKNOD = 11,
	CV_NFS_REMOVE = 12,
	CV_NFS_RMDIR = 13,
	CV_NFS_RENAME = 14,
	CV_NFS_LINK = 15,
	CV_NFS_READDIR = 16,
	CV_NFS_READDIRPLUS = 17,
	CV_NFS_FSSTAT = 18,
	CV_NFS_FSINFO = 19,
	CV_NFS_PATHCONF = 20,
	CV_NFS_COMMIT = 21,
	CV_MOUNT_MNT = 1,
	CV_MOUNT_EXPORT = 5,
};

#define CV_NFS_JUKEBOX 10008 /* try again later */
#define CV_NFS_STABLE  2     /* WRITE's argument and answer: FILE_SYNC */

enum cv_nfs_access {
	CV_NFS_MAY_READ = 1,
	CV_NFS_MAY_MODIFY = 4,
	CV_NFS_MAY_EXTEND = 8,
	CV_NFS_MAY_EXECUTE = 32,
};

enum cv_nfs_create_mode { CV_NFS_UNCHECKED = 0, CV_NFS_GUARDED = 1, CV_NFS_EXCLUSIVE = 2 };

struct cv_nfs_args {
	uint8_t bytes[CV_NFS_ARGS_MAX];
	size_t size; /* 0: did not fit (-ENAMETOOLONG) */
	/* CREATE with a time of its own: where its seconds are; 0: nowhere. A repetition by a
	 * successor may have others. */
	size_t when_at;
};

/* GETATTR, READLINK, FSSTAT, FSINFO, PATHCONF */
void cv_nfs_put_handle(struct cv_nfs_args *a, const struct cv_handle *h);
/* LOOKUP, REMOVE, RMDIR */
void cv_nfs_put_name(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name);
/* wanted: CV_NFS_MAY_* */
void cv_nfs_put_access(struct cv_nfs_args *a, const struct cv_handle *h, uint32_t wanted);
void cv_nfs_put_setattr(struct cv_nfs_args *a, const struct cv_handle *h,
			const struct cv_setattr *set);
void cv_nfs_put_read(struct cv_nfs_args *a, const struct cv_handle *h, uint64_t off,
		     uint32_t count);
/* Up to the data, which the transport appends. sync: FILE_SYNC, else UNSTABLE. */
void cv_nfs_put_write(struct cv_nfs_args *a, const struct cv_handle *h, uint64_t off,
		      uint32_t count, bool sync);
/* EXCLUSIVE: verf (CV_NFS_VERF_SIZE bytes); else set. */
void cv_nfs_put_create(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
		       enum cv_nfs_create_mode how, const struct cv_setattr *set, const void *verf);
void cv_nfs_put_mkdir(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
		      const struct cv_setattr *set);
void cv_nfs_put_symlink(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
			const char *target);
void cv_nfs_put_mknod(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
		      uint32_t mode, uint64_t rdev);
void cv_nfs_put_rename(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
		       const struct cv_handle *newdir, const char *newname);
void cv_nfs_put_link(struct cv_nfs_args *a, const struct cv_handle *h, const struct cv_handle *dir,
		     const char *name);
void cv_nfs_put_readdir(struct cv_nfs_args *a, const struct cv_handle *dir, uint64_t cookie,
			const void *verf, uint32_t count, bool plus);
void cv_nfs_put_commit(struct cv_nfs_args *a, const struct cv_handle *h);
void cv_nfs_put_path(struct cv_nfs_args *a, const char *path); /* MNT */

int cv_nfs_errno(uint32_t status); /* nfsstat3 → 0 or -errno */

/* ---- results; each leaves x->bad set when something does not fit ---- */

void cv_nfs_get_attr(struct cv_xdr *x, struct cv_attr *ret);	  /* fattr3 */
bool cv_nfs_get_post_attr(struct cv_xdr *x, struct cv_attr *ret); /* true: attributes were there */
/* wcc_data: true when the attributes after are there; *ret_before: cv_change() before, or 0. */
bool cv_nfs_get_wcc(struct cv_xdr *x, struct cv_attr *ret, uint64_t *ret_before);
void cv_nfs_get_handle(struct cv_xdr *x, struct cv_handle *ret);
bool cv_nfs_get_post_handle(struct cv_xdr *x, struct cv_handle *ret);
/* The entries of a reply; both tables are the caller's, and sized by the reply. */
struct cv_nfs_entries {
	struct cv_dirent *list; /* names point into names */
	size_t count, max;
	char *names;
	size_t names_used, names_size; /* bytes */
	uint64_t last;		       /* cookie of the last one seen, also when left out */
	bool eof;
};
/* Adds one with that name; "." and ".." and names that are no names are left out. */
void cv_nfs_keep_entry(struct cv_xdr *x, struct cv_nfs_entries *entries, struct cv_dirent *d,
		       const uint8_t *name, size_t size);
/* READDIR(PLUS) results after the status. */
void cv_nfs_get_entries(struct cv_xdr *x, bool plus, struct cv_nfs_entries *entries,
			uint8_t verf[CV_NFS_VERF_SIZE]);

#endif
