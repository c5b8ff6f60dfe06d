/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NFSv4 operations on names and attributes: one compound each, that also brings the attributes of
 * what it made and of the directory it changed.
 */
#include "backends/nfs4.h"

#include <errno.h>
#include <linux/fs.h> /* RENAME_NOREPLACE */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"

/* ---- results that several have ---- */

bool cv_nfs4_take_attr(struct cv_nfs_req *q, struct cv_xdr *x, struct cv_attr *ret)
{
	bool ok = cv_nfs4_get_attr(x, &q->nfs->v4->names, ret);

	cv_nfs_show(q->nfs, ret);
	return ok;
}

bool cv_nfs4_take_entry(struct cv_nfs_req *q, struct cv_xdr *x)
{
	return cv_nfs4_get_fh(x, &q->op->entry.handle) &&
	       cv_nfs4_take_attr(q, x, &q->op->entry.attr);
}

void cv_nfs4_take_dir(struct cv_nfs_req *q, struct cv_xdr *x, struct cv_dir_after *dir)
{
	dir->have = cv_nfs4_take_attr(q, x, &dir->attr);
}

/* ---- lookup, getattr, setattr, readlink, statfs ---- */

static void send_lookup(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_lookup(&c, q->name);
	cv_nfs4_put_op(&c, CV_NFS4_GETFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void got_lookup(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == 0 && !(cv_nfs4_skip(x, CV_NFS4_PUTFH) && cv_nfs4_skip(x, CV_NFS4_LOOKUP) &&
			     cv_nfs4_take_entry(q, x)))
		status = -EIO;
	if (status < 0)
		cv_nfs_finish(q, status);
	else
		q->then(q);
}

void cv_nfs4_fetch_entry(struct cv_nfs_req *q, void (*then)(struct cv_nfs_req *))
{
	q->then = then;
	cv_nfs_step(q, send_lookup, got_lookup);
}

void cv_nfs4_lookup(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (q)
		cv_nfs4_fetch_entry(q, cv_nfs_finish_ok);
}

void cv_nfs4_send_getattr(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void got_getattr(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;

	if (status == 0 && !(cv_nfs4_skip(x, CV_NFS4_PUTFH) && cv_nfs4_take_attr(q, x, &attr)))
		status = -EIO;
	if (status < 0)
		cv_nfs_finish(q, status);
	else
		cv_nfs_finish_attr(q, &attr);
}

void cv_nfs4_getattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		     struct cv_file *file)
{
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (!q)
		return;
	if (file)
		q->obj = file->handle;
	cv_nfs_step(q, cv_nfs4_send_getattr, got_getattr);
}

static void send_setattr(struct cv_nfs_req *q)
{
	const struct cv_nfs4_stateid *stateid = &cv_nfs4_anonymous;
	char owner[CV_NFS4_NAME_MAX], group[CV_NFS4_NAME_MAX];
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	/* An open file may be cut by who may not write to it any more. */
	if (q->v4.open)
		stateid = &q->v4.open->stateid;
	cv_owners_format(v4->owners, false, v4->send_names, q->set.uid, owner, sizeof(owner));
	cv_owners_format(v4->owners, true, v4->send_names, q->set.gid, group, sizeof(group));
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_setattr(&c, stateid, &q->set, owner, group);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void got_setattr(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;

	if (q->v4.status == CV_NFS4ERR_BADOWNER && !q->nfs->v4->send_names) {
		q->nfs->v4->send_names = true;
		cv_nfs_step(q, send_setattr, got_setattr);
		return;
	}
	if (cv_nfs_ignore_owner(q, status)) {
		if (q->set.mask)
			cv_nfs_step(q, send_setattr, got_setattr);
		else
			cv_nfs_step(q, cv_nfs4_send_getattr, got_getattr);
		return;
	}
	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_SETATTR);
		cv_nfs4_skip_bitmap(x);
		if (!cv_nfs4_take_attr(q, x, &attr))
			status = -EIO;
	}
	if (status < 0)
		cv_nfs_finish(q, status);
	else
		cv_nfs_finish_attr(q, &attr);
}

void cv_nfs4_setattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		     struct cv_file *file, const struct cv_setattr *set)
{
	struct cv_nfs_req *q = cv_nfs_on_attr(conn, op, obj, file, set);

	if (!q)
		return;
	if (file && file->writable && set->mask & CV_SET_SIZE)
		q->v4.open = file->open;
	if (q->set.mask)
		cv_nfs_step(q, send_setattr, got_setattr);
	else
		cv_nfs_step(q, cv_nfs4_send_getattr, got_getattr);
}

static void send_readlink(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_op(&c, CV_NFS4_READLINK);
	cv_nfs4_submit(q, &c);
}

/* The target, in the reply; NULL when spoilt. */
static const uint8_t *get_target(struct cv_xdr *x, size_t *ret_size)
{
	(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
	(void)cv_nfs4_skip(x, CV_NFS4_READLINK);
	return cv_xdr_opaque(x, 4096, ret_size);
}

static void got_readlink(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	size_t size = 0;
	const uint8_t *target = status == 0 ? get_target(x, &size) : NULL;

	cv_nfs_finish_target(q, status, target, size);
}

void cv_nfs4_readlink(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (q)
		cv_nfs_step(q, send_readlink, got_readlink);
}

static void send_statfs(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_getstatfs(&c);
	cv_nfs4_submit(q, &c);
}

static void got_statfs(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == 0 &&
	    !(cv_nfs4_skip(x, CV_NFS4_PUTFH) && cv_nfs4_get_statfs(x, &q->op->statvfs)))
		status = -EIO;
	q->op->statvfs.f_namemax = q->nfs->name_max;
	cv_nfs_finish(q, status);
}

void cv_nfs4_statfs(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (q)
		cv_nfs_step(q, send_statfs, got_statfs);
}

/* ---- making things ----
 *
 * The slot makes a repetition harmless unless the server has restarted and forgotten it: then
 * EEXIST may mean our own success, and the object is looked at.
 */

/* After RESTOREFH: the directory. */
static void take_changed_dir(struct cv_nfs_req *q, struct cv_xdr *x)
{
	(void)cv_nfs4_skip(x, CV_NFS4_RESTOREFH);
	cv_nfs4_take_dir(q, x, &q->op->dir);
}

static void send_create(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_op(&c, CV_NFS4_SAVEFH);
	cv_nfs4_put_create(&c, q->name, q->mode, q->rdev, q->target);
	cv_nfs4_put_op(&c, CV_NFS4_GETFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_put_op(&c, CV_NFS4_RESTOREFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void got_create(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == -EEXIST && q->resent) {
		cv_nfs4_fetch_entry(q, cv_nfs_check_made);
		return;
	}
	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_SAVEFH);
		(void)cv_nfs4_skip(x, CV_NFS4_CREATE);
		q->op->dir.before = cv_nfs4_get_change(x);
		cv_nfs4_skip_bitmap(x);
		if (cv_nfs4_take_entry(q, x))
			take_changed_dir(q, x);
		else
			status = -EIO;
	}
	q->op->empty = cv_nfs_is_new_dir(q, status);
	cv_nfs_finish(q, status);
}

/* A regular file: opened, and closed at once. */
static void send_create_file(struct cv_nfs_req *q)
{
	struct cv_nfs4_owner *owner = &q->v4.made->owner;
	struct cv_nfs4_call c;

	if (!cv_nfs4_start_owned(q, &c, owner, NULL))
		return;
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_op(&c, CV_NFS4_SAVEFH);
	cv_nfs4_put_open_create(&c, CV_NFS4_SHARE_WRITE, owner, true, false, q->mode, q->name);
	cv_nfs4_put_op(&c, CV_NFS4_GETFH);
	cv_nfs4_put_getattr(&c);
	if (c.minor > 0)
		cv_nfs4_put_close(&c, &cv_nfs4_current, owner);
	cv_nfs4_put_op(&c, CV_NFS4_RESTOREFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void close_made(struct cv_nfs_req *q)
{
	cv_nfs4_close(q->nfs, cv_steal(&q->v4.made));
	cv_nfs_finish(q, 0);
}

static void got_create_file(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4_open *made = q->v4.made;
	struct cv_nfs4_stateid ignored;
	bool confirm = false;

	if (status == -EEXIST && q->resent) {
		cv_nfs4_fetch_entry(q, cv_nfs_check_made);
		return;
	}
	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_SAVEFH);
		(void)cv_nfs4_skip(x, CV_NFS4_OPEN);
		confirm = cv_nfs4_get_open(x, &made->stateid, &q->op->dir.before);
		if (!cv_nfs4_take_entry(q, x))
			status = -EIO;
	}
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	made->handle = q->op->entry.handle;
	if (q->nfs->v4->minor > 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_CLOSE);
		cv_nfs4_get_stateid(x, &ignored);
	}
	take_changed_dir(q, x);
	if (q->nfs->v4->minor > 0)
		cv_nfs_finish(q, 0);
	else
		cv_nfs40_settle(q, confirm, close_made);
}

void cv_nfs4_mknod(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   uint32_t mode, uint64_t rdev)
{
	struct cv_nfs *nfs = conn;
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->mode = mode;
	q->rdev = S_ISCHR(mode) || S_ISBLK(mode) ? rdev : 0;
	if (!S_ISREG(mode)) {
		cv_nfs_step(q, send_create, got_create);
		return;
	}
	q->v4.made = cv_nfs4_open_new(nfs->v4, op->cred, 0);
	if (q->v4.made)
		cv_nfs_step(q, send_create_file, got_create_file);
	else
		cv_nfs_finish(q, -ENOMEM);
}

void cv_nfs4_mkdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   uint32_t mode)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->mode = (mode & 07777) | S_IFDIR;
	q->rdev = 0;
	cv_nfs_step(q, send_create, got_create);
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
		cv_nfs4_fetch_entry(q, check_made_symlink);
	else
		got_create(q, status, x);
}

void cv_nfs4_symlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		     const char *target)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->mode = S_IFLNK;
	q->rdev = 0;
	q->target = strdup(target);
	if (!q->target)
		cv_nfs_finish(q, -ENOMEM);
	else
		cv_nfs_step(q, send_create, got_symlink);
}

/* ---- links ---- */

/* The object q->obj gets the name. */
static void send_link(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_op(&c, CV_NFS4_SAVEFH);
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_link(&c, q->name);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_put_op(&c, CV_NFS4_RESTOREFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void got_link(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;

	if (status == -EEXIST && q->resent) {
		cv_nfs4_fetch_entry(q, cv_nfs_check_linked);
		return;
	}
	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_SAVEFH);
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_LINK);
		q->op->dir.before = cv_nfs4_get_change(x);
		cv_nfs4_take_dir(q, x, &q->op->dir);
		(void)cv_nfs4_skip(x, CV_NFS4_RESTOREFH);
		if (!cv_nfs4_take_attr(q, x, &attr))
			status = -EIO;
	}
	if (status == 0) {
		q->op->entry.handle = q->obj;
		q->op->entry.attr = attr;
	}
	cv_nfs_finish(q, status);
}

void cv_nfs4_link(void *conn, struct cv_op *op, const struct cv_object *obj,
		  const struct cv_object *dir, const char *name)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->obj = *obj->handle;
	cv_nfs_step(q, send_link, got_link);
}

/* ---- removing and renaming ---- */

/* The protocol has one REMOVE for all, so the type is made sure of. */
static void send_remove(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_op(&c, CV_NFS4_SAVEFH);
	cv_nfs4_put_lookup(&c, q->name);
	cv_nfs4_put_check_dir(&c, S_ISDIR(q->mode));
	cv_nfs4_put_op(&c, CV_NFS4_RESTOREFH);
	cv_nfs4_put_remove(&c, q->name);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void take_removed(struct cv_nfs_req *q, struct cv_xdr *x)
{
	(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
	(void)cv_nfs4_skip(x, CV_NFS4_SAVEFH);
	(void)cv_nfs4_skip(x, CV_NFS4_LOOKUP);
	(void)cv_nfs4_skip(x, S_ISDIR(q->mode) ? CV_NFS4_VERIFY : CV_NFS4_NVERIFY);
	(void)cv_nfs4_skip(x, CV_NFS4_RESTOREFH);
	(void)cv_nfs4_skip(x, CV_NFS4_REMOVE);
	q->op->dir.before = cv_nfs4_get_change(x);
	cv_nfs4_take_dir(q, x, &q->op->dir);
}

/* ENOENT for a call that went out twice: the first one has removed it (nfs_names.c). */
static void got_remove(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == 0)
		take_removed(q, x);
	else if (q->v4.status == CV_NFS4ERR_NOT_SAME)
		status = -ENOTDIR;
	else if (q->v4.status == CV_NFS4ERR_SAME)
		status = -EISDIR;
	cv_nfs_finish(q, status == -ENOENT && q->resent ? 0 : status);
}

static void remove_name(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
			uint32_t type)
{
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->mode = type;
	cv_nfs_step(q, send_remove, got_remove);
}

void cv_nfs4_unlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	remove_name(conn, op, dir, name, 0);
}

void cv_nfs4_rmdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	remove_name(conn, op, dir, name, S_IFDIR);
}

static void send_rename(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_op(&c, CV_NFS4_SAVEFH);
	cv_nfs4_put_fh(&c, &q->dir2);
	cv_nfs4_put_rename(&c, q->name, q->name2);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_put_op(&c, CV_NFS4_RESTOREFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

/* The old name is gone (ENOENT of the second transmission): with the new one there, we did it. */
static void got_rename(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == -ENOENT && q->resent) {
		q->dir = q->dir2;
		memcpy(q->name, q->name2, sizeof(q->name));
		cv_nfs4_fetch_entry(q, cv_nfs_finish_ok);
		return;
	}
	if (status == 0 && cv_nfs4_skip(x, CV_NFS4_PUTFH) && cv_nfs4_skip(x, CV_NFS4_SAVEFH) &&
	    cv_nfs4_skip(x, CV_NFS4_PUTFH) && cv_nfs4_skip(x, CV_NFS4_RENAME)) {
		q->op->dir.before = cv_nfs4_get_change(x);
		q->op->newdir.before = cv_nfs4_get_change(x);
		cv_nfs4_take_dir(q, x, &q->op->newdir);
		take_changed_dir(q, x);
	}
	if (status == 0)
		cv_nfs40_renamed(q->nfs->v4, &q->dir, q->name, &q->dir2, q->name2);
	cv_nfs_finish(q, status);
}

/* RENAME_NOREPLACE: LINK, which does not replace, then REMOVE, in one compound (nfs_names.c). */
static void send_rename_noreplace(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_op(&c, CV_NFS4_SAVEFH);
	cv_nfs4_put_fh(&c, &q->dir2);
	cv_nfs4_put_link(&c, q->name2);
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_remove(&c, q->name);
	cv_nfs4_submit(q, &c);
}

static void send_undo(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_fh(&c, &q->dir2);
	cv_nfs4_put_remove(&c, q->name2);
	cv_nfs4_submit(q, &c);
}

static void got_undo(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)status; /* what matters is why the old name could not be removed */
	(void)x;
	cv_nfs_finish(q, (ssize_t)(int64_t)q->off);
}

static void swap_names(struct cv_nfs_req *q)
{
	struct cv_handle dir = q->dir;
	char name[CV_NAME_MAX + 1];

	memcpy(name, q->name, sizeof(name));
	q->dir = q->dir2;
	memcpy(q->name, q->name2, sizeof(q->name));
	q->dir2 = dir;
	memcpy(q->name2, name, sizeof(q->name2));
}

/* The new name is there: is it ours? Then only the old one is left to remove. */
static void check_renamed(struct cv_nfs_req *q)
{
	if (!cv_nfs_same_handle(&q->op->entry.handle, &q->obj)) {
		cv_nfs_finish(q, -EEXIST);
		return;
	}
	swap_names(q);
	q->mode = 0; /* no directory */
	cv_nfs_step(q, send_remove, got_remove);
}

static void got_rename_noreplace(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == 0) {
		cv_nfs40_renamed(q->nfs->v4, &q->dir, q->name, &q->dir2, q->name2);
		cv_nfs_finish(q, 0);
	} else if (status == -EEXIST && q->resent) {
		swap_names(q);
		cv_nfs4_fetch_entry(q, check_renamed);
	} else if (cv_nfs4_skip(x, CV_NFS4_PUTFH) && cv_nfs4_skip(x, CV_NFS4_SAVEFH) &&
		   cv_nfs4_skip(x, CV_NFS4_PUTFH) && cv_nfs4_skip(x, CV_NFS4_LINK)) {
		if (status == -ENOENT && q->resent) {
			cv_nfs_finish(q, 0);
			return;
		}
		if (status == -ESTALE && q->resent) {
			cv_nfs_finish(q, status); /* the old name may be gone: nfs_names.c */
			return;
		}
		q->off = (uint64_t)(int64_t)status;
		cv_nfs_step(q, send_undo, got_undo);
	} else {
		cv_nfs_finish(q, status == -EOPNOTSUPP ? -EINVAL : status);
	}
}

static void rename_noreplace(struct cv_nfs_req *q)
{
	if (S_ISDIR(q->op->entry.attr.mode)) {
		cv_nfs_finish(q, -EINVAL); /* cannot be linked */
		return;
	}
	q->obj = q->op->entry.handle;
	cv_nfs_step(q, send_rename_noreplace, got_rename_noreplace);
}

void cv_nfs4_rename(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    const struct cv_object *newdir, const char *newname, unsigned flags)
{
	struct cv_nfs_req *q = cv_nfs_on_names(conn, op, dir, name, newdir, newname);

	if (!q)
		return;
	if (flags == 0)
		cv_nfs_step(q, send_rename, got_rename);
	else if (flags == RENAME_NOREPLACE)
		cv_nfs4_fetch_entry(q, rename_noreplace);
	else
		cv_nfs_finish(q, -EINVAL);
}
