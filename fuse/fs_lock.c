/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks that exclude other hosts, where the engine has them (CV_FEAT_LOCKS): fcntl(2) and flock(2).
 * A lock goes with what is done under it: before it is let go, what was written is on the server,
 * and when it is had, the kernel asks again what the file is like.
 */
#include "fuse/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#include "config/cleanup.h"

/* ---- test ---- */

static void getlk_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct flock l = { .l_type = (short)op->lock.type, .l_whence = SEEK_SET };

	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	if (op->lock.type != F_UNLCK) {
		l.l_start = (off_t)op->lock.start;
		l.l_len = op->lock.end >= CV_LOCK_EOF ? 0
						      : (off_t)(op->lock.end - op->lock.start + 1);
		l.l_pid = op->lock.pid;
	}
	if (r->req)
		(void)fuse_reply_lock(r->req, &l);
	r->req = NULL;
	cv_request_end(r);
}

static void set_lock(struct cv_request *r, const struct fuse_file_info *fi, const struct flock *l)
{
	r->lock = (struct cv_lock){ .owner = fi->lock_owner,
				    .type = l->l_type,
				    .start = (uint64_t)l->l_start,
				    .end = l->l_len ? (uint64_t)l->l_start + (uint64_t)l->l_len - 1
						    : CV_LOCK_EOF,
				    .pid = l->l_pid };
}

void cv_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *l)
{
	struct cv_request *r = cv_request_on_open(req, fi, false);

	(void)ino;
	if (!r)
		return;
	set_lock(r, fi, l);
	cv_request_op(r, getlk_done);
	cv_getlk(&r->fs->mount, &r->op, r->open->file, &r->lock);
}

/* ---- set ---- */

static void setlk_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	/* What another host has written before it let go is read from here on. */
	if (result == 0 && op->have_attr) {
		if (!cv_wb_pending(r->node, NULL))
			cv_fs_know(r->fs, r->node, &op->attr);
		(void)fuse_lowlevel_notify_inval_inode(r->fs->session, r->node->id, -1, 0);
	}
	cv_reply_err(r, (int)result);
}

static void setlk_go(struct cv_request *r)
{
	cv_request_op(r, setlk_done);
	cv_setlk(&r->fs->mount, &r->op, r->open->file, &r->lock, r->flags);
}

static void setlk(struct cv_request *r, bool wait)
{
	r->flags = wait;
	if (r->lock.type == F_WRLCK)
		setlk_go(r);
	else
		cv_request_after_drain(r, r->node, CV_WB_WRITTEN, setlk_go);
}

void cv_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *l,
		 int sleep)
{
	struct cv_request *r = cv_request_on_open(req, fi, false);

	(void)ino;
	if (!r)
		return;
	set_lock(r, fi, l);
	setlk(r, sleep);
}

void cv_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op)
{
	struct cv_request *r = cv_request_on_open(req, fi, false);
	int what = op & ~LOCK_NB;

	(void)ino;
	if (!r)
		return;
	r->lock = (struct cv_lock){ .owner = fi->lock_owner,
				    .flock = true,
				    .type = what == LOCK_SH   ? F_RDLCK
					    : what == LOCK_EX ? F_WRLCK
							      : F_UNLCK,
				    .end = CV_LOCK_EOF };
	setlk(r, !(op & LOCK_NB));
}

/* ---- close ---- */

static void unlocked(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	(void)result; /* the server takes it back with the lease, at the latest */
	r->resume(r);
}

void cv_fs_unlock_closed(struct cv_request *r, uint64_t owner, void (*resume)(struct cv_request *r))
{
	r->resume = resume;
	if (!(r->fs->mount.info.features & CV_FEAT_LOCKS)) {
		resume(r);
		return;
	}
	r->lock = (struct cv_lock){ .owner = owner, .type = F_UNLCK, .end = CV_LOCK_EOF };
	cv_request_op(r, unlocked);
	cv_setlk(&r->fs->mount, &r->op, r->open->file, &r->lock, false);
}
