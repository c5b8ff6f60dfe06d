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
#include "config/log.h"

/* ---- what is held ---- */

static struct cv_lock_record *free_record(struct cv_fs *fs)
{
	for (uint32_t i = 0; i < CV_LOCKS_MAX; i++) {
		if (fs->shm.locks[i].used)
			continue;
		if (i >= fs->locks_top)
			fs->locks_top = i + 1;
		return &fs->shm.locks[i];
	}
	return NULL;
}

static void add_record(struct cv_fs *fs, uint32_t handle, const struct cv_lock *lock)
{
	struct cv_lock_record *rec = free_record(fs);

	if (!rec)
		return; /* has_room() was asked before */
	rec->handle = handle;
	rec->lock = *lock;
	cv_shm_barrier();
	rec->used = 1;
}

/* For the pieces of one that is cut in the middle, and the new one. */
static bool has_room(const struct cv_fs *fs)
{
	unsigned room = 0;

	for (uint32_t i = 0; i < CV_LOCKS_MAX && room < 2; i++)
		room += !fs->shm.locks[i].used;
	return room == 2;
}

static bool same_owner(const struct cv_fs *fs, const struct cv_lock_record *rec,
		       const struct cv_open *open, const struct cv_lock *lock)
{
	return rec->used && rec->lock.owner == lock->owner && rec->lock.flock == lock->flock &&
	       fs->shm.handles[rec->handle].node == open->record->node;
}

/* lock's range of rec is its own no more. */
static void cut(struct cv_fs *fs, struct cv_lock_record *rec, const struct cv_lock *lock)
{
	struct cv_lock rest = rec->lock;

	if (rest.end < lock->start || rest.start > lock->end)
		return;
	if (rest.start < lock->start && rest.end > lock->end) {
		rest.start = lock->end + 1;
		add_record(fs, rec->handle, &rest);
	}
	if (rec->lock.start < lock->start)
		rec->lock.end = lock->start - 1;
	else if (rec->lock.end > lock->end)
		rec->lock.start = lock->end + 1;
	else
		rec->used = 0;
}

static void note_lock(struct cv_fs *fs, const struct cv_open *open, const struct cv_lock *lock)
{
	uint32_t top = fs->locks_top;

	for (uint32_t i = 0; i < top; i++) {
		if (same_owner(fs, &fs->shm.locks[i], open, lock))
			cut(fs, &fs->shm.locks[i], lock);
	}
	if (lock->type != F_UNLCK)
		add_record(fs, open->index, lock);
}

void cv_locks_forget(struct cv_fs *fs, uint32_t handle)
{
	for (uint32_t i = 0; i < fs->locks_top; i++) {
		if (fs->shm.locks[i].used && fs->shm.locks[i].handle == handle)
			fs->shm.locks[i].used = 0;
	}
}

/* ---- a successor ---- */

static void restored(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0) {
		cv_error("a lock of '%s' is lost: %s", r->node->record->name,
			 cv_strerror((int)result));
		note_lock(r->fs, r->open,
			  &(struct cv_lock){ .owner = r->lock.owner,
					     .flock = r->lock.flock,
					     .type = F_UNLCK,
					     .start = r->lock.start,
					     .end = r->lock.end });
	}
	cv_request_end(r);
}

static bool restore(struct cv_fs *fs, struct cv_lock_record *rec)
{
	struct cv_open *open = rec->handle < fs->opens_size ? fs->opens[rec->handle] : NULL;
	struct cv_request *r;

	if (!open || open->record->is_dir || !open->file) {
		rec->used = 0;
		return false;
	}
	r = cv_request_internal(fs);
	if (!r)
		return false;
	r->open = cv_open_hold(open);
	r->node = open->node;
	cv_node_hold(r->node);
	r->cred = open->record->cred;
	r->lock = rec->lock;
	cv_request_op(r, restored);
	cv_setlk(&fs->mount, &r->op, open->file, &r->lock, false);
	return true;
}

void cv_locks_drop(struct cv_fs *fs, uint64_t node, uint64_t owner, bool flock)
{
	for (uint32_t i = 0; i < CV_LOCKS_MAX; i++) {
		struct cv_lock_record *rec = &fs->shm.locks[i];

		if (rec->used && rec->lock.owner == owner && rec->lock.flock == flock &&
		    fs->shm.handles[rec->handle].node == node)
			rec->used = 0;
	}
}

uint32_t cv_locks_restore(struct cv_fs *fs)
{
	uint32_t count = 0;

	fs->locks_top = CV_LOCKS_MAX;
	for (uint32_t i = 0; i < CV_LOCKS_MAX; i++)
		count += fs->shm.locks[i].used && restore(fs, &fs->shm.locks[i]);
	return count;
}

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

	if (result == 0)
		note_lock(r->fs, r->open, &r->lock);
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
	if (r->lock.type == F_UNLCK)
		cv_request_may_exit(r);
	if (r->lock.type != F_UNLCK && !has_room(r->fs)) {
		cv_reply_err(r, -ENOLCK);
		return;
	}
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

	if (result == 0)
		note_lock(r->fs, r->open, &r->lock);
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
