/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/nfs.h"

#include <errno.h>
#include <linux/fs.h> /* RENAME_NOREPLACE */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/log.h"

/* A success whose results are spoilt is an error. */
static int checked(int status, const struct cv_xdr *x)
{
	return status == 0 && x->bad ? -EIO : status;
}

/* ---- attributes and entries, as steps of others ---- */

static void send_getattr(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_handle(&a, &q->obj);
	cv_nfs_submit(q, CV_NFS_GETATTR, &a);
}

static void got_getattr(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;

	if (status == 0)
		cv_nfs_get_attr(x, &attr);
	status = checked(status, x);
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	cv_nfs_show(q->nfs, &attr);
	q->op->attr = attr;
	q->op->have_attr = true;
	q->then(q);
}

void cv_nfs_fetch_attr(struct cv_nfs_req *q, void (*then)(struct cv_nfs_req *))
{
	q->then = then;
	cv_nfs_step(q, send_getattr, got_getattr);
}

static void got_entry_attr(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == 0)
		cv_nfs_get_attr(x, &q->op->entry.attr);
	status = checked(status, x);
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	cv_nfs_show(q->nfs, &q->op->entry.attr);
	q->then(q);
}

static void send_entry_getattr(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_handle(&a, &q->op->entry.handle);
	cv_nfs_submit(q, CV_NFS_GETATTR, &a);
}

void cv_nfs_send_lookup(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_name(&a, &q->dir, q->name);
	cv_nfs_submit(q, CV_NFS_LOOKUP, &a);
}

void cv_nfs_got_lookup(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	bool have_attr = false;

	if (status == 0) {
		cv_nfs_get_handle(x, &q->op->entry.handle);
		have_attr = cv_nfs_get_post_attr(x, &q->op->entry.attr);
	}
	status = checked(status, x);
	if (status < 0) {
		cv_nfs_finish(q, status);
	} else if (have_attr) {
		cv_nfs_show(q->nfs, &q->op->entry.attr);
		q->then(q);
	} else {
		cv_nfs_step(q, send_entry_getattr, got_entry_attr);
	}
}

void cv_nfs_fetch_entry(struct cv_nfs_req *q, void (*then)(struct cv_nfs_req *))
{
	q->then = then;
	cv_nfs_step(q, cv_nfs_send_lookup, cv_nfs_got_lookup);
}

/* The directory of a change, behind what else a reply has; missing or spoilt it does no harm. */
static void take_dir(struct cv_nfs_req *q, struct cv_xdr *x, struct cv_dir_after *dir)
{
	dir->have = cv_nfs_get_wcc(x, &dir->attr, &dir->before);
	cv_nfs_show(q->nfs, &dir->attr);
}

bool cv_nfs_is_new_dir(const struct cv_nfs_req *q, int status)
{
	return status == 0 && S_ISDIR(q->mode) && !q->resent && !q->nfs->case_insensitive;
}

void cv_nfs_got_new(struct cv_nfs_req *q, struct cv_xdr *x, void (*then)(struct cv_nfs_req *))
{
	bool have_handle = cv_nfs_get_post_handle(x, &q->op->entry.handle);
	bool have_attr = cv_nfs_get_post_attr(x, &q->op->entry.attr);

	q->then = then;
	if (x->bad) {
		cv_nfs_finish(q, -EIO);
		return;
	}
	take_dir(q, x, &q->op->dir);
	if (!have_handle) {
		q->op->empty = false; /* whatever is there now */
		cv_nfs_fetch_entry(q, then);
	} else if (!have_attr) {
		cv_nfs_step(q, send_entry_getattr, got_entry_attr);
	} else {
		cv_nfs_show(q->nfs, &q->op->entry.attr);
		then(q);
	}
}

/* ---- lookup, getattr, setattr, readlink, statfs ---- */

void cv_nfs_lookup(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (q)
		cv_nfs_fetch_entry(q, cv_nfs_finish_ok);
}

void cv_nfs_getattr(void *conn, struct cv_op *op, const struct cv_object *obj, struct cv_file *file)
{
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (!q)
		return;
	if (file)
		q->obj = file->handle;
	cv_nfs_fetch_attr(q, cv_nfs_finish_ok);
}

bool cv_nfs_ignore_owner(struct cv_nfs_req *q, int status)
{
	const unsigned owner = CV_SET_UID | CV_SET_GID;

	if (!q->nfs->chown_ignore || !(q->set.mask & owner) ||
	    (status != -EPERM && status != -EACCES && status != -EINVAL))
		return false;
	q->set.mask &= ~owner;
	return true;
}

struct cv_nfs_req *cv_nfs_on_attr(void *conn, struct cv_op *op, const struct cv_object *obj,
				  struct cv_file *file, const struct cv_setattr *set)
{
	struct cv_nfs *nfs = conn;
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (!q)
		return NULL;
	if (file)
		q->obj = file->handle;
	q->set = *set;
	/* Under uid= and gid= an owner that is shown already is no change. */
	if (nfs->set_uid && q->set.uid == nfs->uid)
		q->set.mask &= ~(unsigned)CV_SET_UID;
	if (nfs->set_gid && q->set.gid == nfs->gid)
		q->set.mask &= ~(unsigned)CV_SET_GID;
	return q;
}

static void send_setattr(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_setattr(&a, &q->obj, &q->set);
	cv_nfs_submit(q, CV_NFS_SETATTR, &a);
}

static void got_setattr(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;
	bool have = false;

	if (cv_nfs_ignore_owner(q, status)) {
		if (q->set.mask)
			cv_nfs_step(q, send_setattr, got_setattr);
		else
			cv_nfs_fetch_attr(q, cv_nfs_finish_ok);
		return;
	}
	if (status == 0)
		have = cv_nfs_get_wcc(x, &attr, &q->op->before);
	status = checked(status, x);
	if (status < 0) {
		cv_nfs_finish(q, status);
	} else if (have) {
		cv_nfs_show(q->nfs, &attr);
		cv_nfs_finish_attr(q, &attr);
	} else {
		cv_nfs_fetch_attr(q, cv_nfs_finish_ok);
	}
}

void cv_nfs_setattr(void *conn, struct cv_op *op, const struct cv_object *obj, struct cv_file *file,
		    const struct cv_setattr *set)
{
	struct cv_nfs_req *q = cv_nfs_on_attr(conn, op, obj, file, set);

	if (!q)
		return;
	if (q->set.mask)
		cv_nfs_step(q, send_setattr, got_setattr);
	else
		cv_nfs_fetch_attr(q, cv_nfs_finish_ok);
}

void cv_nfs_finish_target(struct cv_nfs_req *q, int status, const uint8_t *target, size_t size)
{
	if (status == 0 && (!target || size == 0 || memchr(target, '\0', size)))
		status = -EIO;
	q->op->data = target;
	cv_nfs_finish(q, status < 0 ? status : (ssize_t)size);
}

void cv_nfs_finish_same_target(struct cv_nfs_req *q, const uint8_t *target, size_t size)
{
	bool same = target && size == strlen(q->target) && memcmp(target, q->target, size) == 0;

	cv_nfs_finish(q, same ? 0 : -EEXIST);
}

static void send_readlink(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_handle(&a, &q->obj);
	cv_nfs_submit(q, CV_NFS_READLINK, &a);
}

/* The target, in the reply; NULL when spoilt. */
static const uint8_t *get_target(struct cv_xdr *x, size_t *ret_size)
{
	struct cv_attr ignored;

	(void)cv_nfs_get_post_attr(x, &ignored);
	return cv_xdr_opaque(x, 4096, ret_size);
}

static void got_readlink(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	size_t size = 0;
	const uint8_t *target = status == 0 ? get_target(x, &size) : NULL;

	cv_nfs_finish_target(q, status, target, size);
}

void cv_nfs_readlink(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (q)
		cv_nfs_step(q, send_readlink, got_readlink);
}

static void send_statfs(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_handle(&a, &q->obj);
	cv_nfs_submit(q, CV_NFS_FSSTAT, &a);
}

static void got_statfs(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct statvfs *st = &q->op->statvfs;
	struct cv_attr ignored;

	if (status == 0) {
		(void)cv_nfs_get_post_attr(x, &ignored);
		memset(st, 0, sizeof(*st));
		st->f_bsize = st->f_frsize = 4096;
		st->f_blocks = cv_xdr_u64(x) / st->f_frsize;
		st->f_bfree = cv_xdr_u64(x) / st->f_frsize;
		st->f_bavail = cv_xdr_u64(x) / st->f_frsize;
		st->f_files = cv_xdr_u64(x);
		st->f_ffree = cv_xdr_u64(x);
		st->f_favail = cv_xdr_u64(x);
		st->f_namemax = q->nfs->name_max;
	}
	cv_nfs_finish(q, checked(status, x));
}

void cv_nfs_statfs(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (q)
		cv_nfs_step(q, send_statfs, got_statfs);
}

/* ---- making things ----
 *
 * When the answer to the first transmission was lost and the server's duplicate-request cache too
 * (a restart), the second one finds what the first has made: EEXIST. Then the object is looked at:
 * if it is what we asked for, it is taken as ours.
 */

void cv_nfs_check_made(struct cv_nfs_req *q)
{
	const struct cv_attr *attr = &q->op->entry.attr;
	bool same_type = (attr->mode & S_IFMT) == (q->mode & S_IFMT);
	bool same_mode = (attr->mode & 0777) == (q->mode & 0777);

	cv_nfs_finish(q, same_type && same_mode && attr->rdev == q->rdev ? 0 : -EEXIST);
}

static void got_made(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	q->op->empty = cv_nfs_is_new_dir(q, status);
	if (status == -EEXIST && q->resent)
		cv_nfs_fetch_entry(q, cv_nfs_check_made);
	else if (status < 0)
		cv_nfs_finish(q, status);
	else
		cv_nfs_got_new(q, x, cv_nfs_finish_ok);
}

static void send_mknod(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	if (S_ISREG(q->mode)) {
		q->set.mask = CV_SET_MODE;
		q->set.mode = q->mode & 07777;
		cv_nfs_put_create(&a, &q->dir, q->name, CV_NFS_GUARDED, &q->set, NULL);
		cv_nfs_submit(q, CV_NFS_CREATE, &a);
	} else {
		cv_nfs_put_mknod(&a, &q->dir, q->name, q->mode, q->rdev);
		cv_nfs_submit(q, CV_NFS_MKNOD, &a);
	}
}

void cv_nfs_mknod(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		  uint32_t mode, uint64_t rdev)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->mode = mode;
	q->rdev = S_ISCHR(mode) || S_ISBLK(mode) ? rdev : 0;
	cv_nfs_step(q, send_mknod, got_made);
}

static void send_mkdir(struct cv_nfs_req *q)
{
	const struct cv_setattr set = { .mask = CV_SET_MODE, .mode = q->mode & 07777 };
	struct cv_nfs_args a;

	cv_nfs_put_mkdir(&a, &q->dir, q->name, &set);
	cv_nfs_submit(q, CV_NFS_MKDIR, &a);
}

void cv_nfs_mkdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		  uint32_t mode)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->mode = (mode & 07777) | S_IFDIR;
	q->rdev = 0;
	cv_nfs_step(q, send_mkdir, got_made);
}

static void send_symlink(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_symlink(&a, &q->dir, q->name, q->target);
	cv_nfs_submit(q, CV_NFS_SYMLINK, &a);
}

static void got_made_target(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	size_t size = 0;
	const uint8_t *target = status == 0 ? get_target(x, &size) : NULL;

	cv_nfs_finish_same_target(q, target, size);
}

static void check_made_symlink(struct cv_nfs_req *q)
{
	if (!S_ISLNK(q->op->entry.attr.mode)) {
		cv_nfs_finish(q, -EEXIST);
		return;
	}
	q->obj = q->op->entry.handle;
	cv_nfs_step(q, send_readlink, got_made_target);
}

static void got_symlink(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == -EEXIST && q->resent)
		cv_nfs_fetch_entry(q, check_made_symlink);
	else
		got_made(q, status, x);
}

void cv_nfs_symlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    const char *target)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->target = strdup(target);
	if (!q->target)
		cv_nfs_finish(q, -ENOMEM);
	else
		cv_nfs_step(q, send_symlink, got_symlink);
}

/* The object q->obj at q->dir/q->name. */
static void send_link(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_link(&a, &q->obj, &q->dir, q->name);
	cv_nfs_submit(q, CV_NFS_LINK, &a);
}

/* XXX: a server may give one object handles of different bytes; then this says EEXIST. */
void cv_nfs_check_linked(struct cv_nfs_req *q)
{
	cv_nfs_finish(q, cv_nfs_same_handle(&q->op->entry.handle, &q->obj) ? 0 : -EEXIST);
}

static void finish_linked(struct cv_nfs_req *q)
{
	q->op->entry.attr = q->op->attr;
	cv_nfs_finish(q, 0);
}

static void got_link(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;
	bool have;

	if (status == -EEXIST && q->resent) {
		cv_nfs_fetch_entry(q, cv_nfs_check_linked);
		return;
	}
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	q->op->entry.handle = q->obj;
	have = cv_nfs_get_post_attr(x, &attr);
	take_dir(q, x, &q->op->dir);
	if (have) {
		cv_nfs_show(q->nfs, &attr);
		q->op->entry.attr = attr;
		cv_nfs_finish(q, 0);
	} else {
		cv_nfs_fetch_attr(q, finish_linked);
	}
}

void cv_nfs_link(void *conn, struct cv_op *op, const struct cv_object *obj,
		 const struct cv_object *dir, const char *name)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->obj = *obj->handle;
	cv_nfs_step(q, send_link, got_link);
}

/* ---- removing and renaming ---- */

static void send_remove(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_name(&a, &q->dir, q->name);
	cv_nfs_submit(q, q->flags ? CV_NFS_RMDIR : CV_NFS_REMOVE, &a);
}

/*
 * ESTALE for a call that went out twice: while one transmission takes an object away, the other may
 * hear that of it (Ganesha, when it has let go of what it had answered to a connection that is
 * lost). The kernel would look again and find no such name, though it was the caller who has taken
 * it away.
 */
static void got_whether_gone(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)x;
	if (status == -ENOENT)
		q->then(q);
	else
		cv_nfs_finish(q, -ESTALE);
}

static void look_whether_gone(struct cv_nfs_req *q, void (*then)(struct cv_nfs_req *q))
{
	q->then = then;
	cv_nfs_step(q, cv_nfs_send_lookup, got_whether_gone);
}

/*
 * ENOENT for a call that went out twice: the first one has removed it, and its answer was lost. To
 * ask with a LOOKUP would say nothing more: that it is not there is known, and if it is there again
 * by then, another client made it.
 */
static void got_remove(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	take_dir(q, x, &q->op->dir);
	if (status == -ESTALE && q->resent)
		look_whether_gone(q, cv_nfs_finish_ok);
	else
		cv_nfs_finish(q, status == -ENOENT && q->resent ? 0 : status);
}

void cv_nfs_unlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->flags = 0;
	cv_nfs_step(q, send_remove, got_remove);
}

void cv_nfs_rmdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->flags = 1;
	cv_nfs_step(q, send_remove, got_remove);
}

static void send_rename(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_rename(&a, &q->dir, q->name, &q->dir2, q->name2);
	cv_nfs_submit(q, CV_NFS_RENAME, &a);
}

/* The old name is gone (ENOENT of the second transmission): with the new one there, we did it. */
static void got_renamed(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)x;
	cv_nfs_finish(q, status);
}

static void look_for_new(struct cv_nfs_req *q)
{
	q->dir = q->dir2;
	memcpy(q->name, q->name2, sizeof(q->name));
	cv_nfs_step(q, cv_nfs_send_lookup, got_renamed);
}

static void got_rename(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	take_dir(q, x, &q->op->dir);
	take_dir(q, x, &q->op->newdir);
	if (status == -ENOENT && q->resent)
		look_for_new(q);
	else if (status == -ESTALE && q->resent)
		look_whether_gone(q, look_for_new);
	else
		cv_nfs_finish(q, status);
}

/*
 * RENAME_NOREPLACE: the protocol's RENAME replaces, its LINK does not. So link, then remove the old
 * name; for a moment both are there, as with any rename that a crash interrupts on the server.
 * Directories cannot be linked.
 */
static void send_remove_new(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_name(&a, &q->dir2, q->name2);
	cv_nfs_submit(q, CV_NFS_REMOVE, &a);
}

static void got_removed_new(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)status; /* what matters is why the old name could not be removed */
	(void)x;
	cv_nfs_finish(q, (ssize_t)q->off);
}

static void got_removed_old(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	take_dir(q, x, &q->op->dir);
	if (cv_nfs_same_handle(&q->dir, &q->dir2))
		q->op->dir.before = 0; /* our link has changed it since */
	if (status == 0 || (status == -ENOENT && q->resent)) {
		cv_nfs_finish(q, 0);
		return;
	}
	/* The old name may be gone, or go yet: then the new one is all there is. */
	if (status == -ESTALE && q->resent) {
		look_whether_gone(q, cv_nfs_finish_ok);
		return;
	}
	if (status == -ETIMEDOUT || status == -ECANCELED) {
		cv_nfs_finish(q, status);
		return;
	}
	q->off = (uint64_t)(int64_t)status;
	cv_nfs_step(q, send_remove_new, got_removed_new);
}

static void remove_old(struct cv_nfs_req *q)
{
	q->flags = 0;
	cv_nfs_step(q, send_remove, got_removed_old);
}

static void send_link_new(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_link(&a, &q->obj, &q->dir2, q->name2);
	cv_nfs_submit(q, CV_NFS_LINK, &a);
}

static void send_lookup_new(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_name(&a, &q->dir2, q->name2);
	cv_nfs_submit(q, CV_NFS_LOOKUP, &a);
}

static void got_lookup_new(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_handle handle;

	if (status == 0)
		cv_nfs_get_handle(x, &handle);
	if (status == 0 && !x->bad && cv_nfs_same_handle(&handle, &q->obj))
		remove_old(q);
	else
		cv_nfs_finish(q, -EEXIST);
}

static void got_link_new(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr ignored;

	(void)cv_nfs_get_post_attr(x, &ignored);
	take_dir(q, x, &q->op->newdir);
	if (status == -EEXIST && q->resent)
		cv_nfs_step(q, send_lookup_new, got_lookup_new);
	else if (status == -EOPNOTSUPP)
		cv_nfs_finish(q, -EINVAL); /* a server without hard links */
	else if (status < 0)
		cv_nfs_finish(q, status);
	else
		remove_old(q);
}

static void rename_noreplace(struct cv_nfs_req *q)
{
	if (S_ISDIR(q->op->entry.attr.mode)) {
		cv_nfs_finish(q, -EINVAL);
		return;
	}
	q->obj = q->op->entry.handle;
	cv_nfs_step(q, send_link_new, got_link_new);
}

void cv_nfs_rename(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   const struct cv_object *newdir, const char *newname, unsigned flags)
{
	struct cv_nfs_req *q = cv_nfs_on_names(conn, op, dir, name, newdir, newname);

	if (!q)
		return;
	if (flags == 0)
		cv_nfs_step(q, send_rename, got_rename);
	else if (flags == RENAME_NOREPLACE)
		cv_nfs_fetch_entry(q, rename_noreplace);
	else
		cv_nfs_finish(q, -EINVAL);
}
