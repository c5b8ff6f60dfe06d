/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/log.h"

#define SENT_FLAGS                                                                                 \
	(O_ACCMODE | O_TRUNC | O_EXCL) /* what an engine gets to see of open(2)'s flags */

static struct cv_fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* ---- handles ---- */

static int opens_reserve(struct cv_fs *fs, uint32_t index)
{
	uint32_t size = fs->opens_size ? fs->opens_size : 256;
	struct cv_open **opens;

	if (index < fs->opens_size)
		return 0;
	while (size <= index)
		size *= 2;
	opens = realloc(fs->opens, (size_t)size * sizeof(struct cv_open *));
	if (!opens)
		return -ENOMEM;
	memset(opens + fs->opens_size, 0,
	       (size_t)(size - fs->opens_size) * sizeof(struct cv_open *));
	fs->opens = opens;
	fs->opens_size = size;
	return 0;
}

/* The private side of the handle record with that index. */
static struct cv_open *open_attach(struct cv_fs *fs, uint32_t index, struct cv_node *node)
{
	struct cv_open *open;

	if (opens_reserve(fs, index) < 0)
		return NULL;
	open = calloc(1, sizeof(*open));
	if (!open)
		return NULL;
	open->record = &fs->shm.handles[index];
	open->index = index;
	open->node = node;
	cv_node_hold(node);
	fs->opens[index] = open;
	fs->opens_count++;
	if (index >= fs->shm.state->handles_top)
		fs->shm.state->handles_top = index + 1;
	return open;
}

struct cv_open *cv_open_new(struct cv_request *r, struct cv_node *node, struct cv_file *file,
			    int flags, bool is_dir)
{
	struct cv_fs *fs = r->fs;
	struct cv_handle_record *record;
	struct cv_open *open;
	uint32_t i = fs->opens_hint;

	while (i < fs->opens_size && fs->opens[i])
		i++;
	open = i < CV_HANDLES_MAX ? open_attach(fs, i, node) : NULL;
	if (!open)
		return NULL;
	fs->opens_hint = i + 1;
	open->file = file;
	record = open->record;
	record->node = node->id;
	record->flags = (uint32_t)(flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_APPEND));
	record->is_dir = is_dir;
	record->sequence = fs->shm.state->open_sequence++;
	record->cred = r->cred;
	record->error_mark = cv_wb_error_mark(node);
	if (r->slot) {
		r->slot->handle_sequence = record->sequence;
		cv_shm_barrier();
		r->slot->handle = i + 1;
	}
	cv_shm_barrier();
	record->used = 1;
	if (!is_dir)
		node->open_count++;
	return open;
}

int cv_opens_restore(struct cv_fs *fs)
{
	for (uint32_t i = 0; i < fs->shm.state->handles_top && i < CV_HANDLES_MAX; i++) {
		struct cv_handle_record *record = &fs->shm.handles[i];
		struct cv_node *node = record->used ? cv_node_get(&fs->nodes, record->node) : NULL;

		if (!node) {
			record->used = 0;
			continue;
		}
		if (!open_attach(fs, i, node))
			return -ENOMEM;
		if (!record->is_dir)
			node->open_count++;
	}
	return 0;
}

static void reopened(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0)
		cv_error("'%s' was open and cannot be opened again: %s; its users get 'Stale file "
			 "handle'",
			 r->node->record->name, cv_strerror((int)result));
	else
		r->open->file = op->file;
	cv_request_end(r);
}

static void reopen(struct cv_fs *fs, struct cv_open *open)
{
	struct cv_request *r = cv_request_internal(fs);
	struct cv_object obj;

	if (!r)
		return;
	r->open = cv_open_hold(open);
	r->node = open->node;
	cv_node_hold(r->node);
	r->cred = open->record->cred;
	r->repeated = true; /* what was allowed at open stays so */
	cv_request_op(r, reopened);
	if (cv_fs_object(fs, r->node, 0, &obj) < 0)
		reopened(&r->op, -ESTALE);
	else
		cv_open(&fs->mount, &r->op, &obj,
			(int)open->record->flags & SENT_FLAGS & ~(O_TRUNC | O_EXCL));
}

uint32_t cv_opens_reopen(struct cv_fs *fs)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < fs->opens_size; i++) {
		/* A directory is opened when somebody reads from it. */
		if (fs->opens[i] && !fs->opens[i]->record->is_dir) {
			reopen(fs, fs->opens[i]);
			count++;
		}
	}
	return count;
}

uint64_t cv_open_fh(const struct cv_open *open)
{
	return open->index | open->record->sequence << 32;
}

struct cv_open *cv_open_get(struct cv_fs *fs, uint64_t fh)
{
	uint32_t index = (uint32_t)fh;
	struct cv_open *open = index < fs->opens_size ? fs->opens[index] : NULL;

	return open && (uint32_t)open->record->sequence == (uint32_t)(fh >> 32) ? open : NULL;
}

void cv_open_free(struct cv_fs *fs, struct cv_open *open)
{
	struct cv_node *node = open->node;

	cv_locks_forget(fs, open->index);
	/* First: what follows may remove the file itself. */
	open->record->used = 0;
	cv_shm_barrier();
	if (open->record->is_dir) {
		if (open->file)
			cv_releasedir(&fs->mount, open->file);
	} else {
		if (open->file)
			cv_release(&fs->mount, open->file);
		node->open_count--;
		cv_wb_node_closed(fs->wb, node);
		if (node->open_count == 0 && (node->record->flags & CV_NODE_HIDDEN))
			cv_hidden_remove(fs, node, &open->record->cred);
	}
	cv_listing_free(open->listing);
	fs->opens[open->index] = NULL;
	if (open->index < fs->opens_hint)
		fs->opens_hint = open->index;
	fs->opens_count--;
	cv_node_drop(&fs->nodes, node);
	free(open);
}

struct cv_open *cv_open_hold(struct cv_open *open)
{
	open->users++;
	return open;
}

void cv_open_put(struct cv_open *open)
{
	struct cv_request *closer = open->closer;

	if (--open->users == 0 && closer) {
		open->closer = NULL;
		closer->resume(closer);
	}
}

void cv_open_close(struct cv_request *r, struct cv_open *open, void (*resume)(struct cv_request *r))
{
	r->closing = open;
	r->resume = resume;
	if (open->users)
		open->closer = r;
	else
		resume(r);
}

bool cv_open_for_writeback(void *arg, uint32_t handle, struct cv_wb_handle *ret)
{
	struct cv_fs *fs = arg;
	struct cv_open *open = handle < fs->opens_size ? fs->opens[handle] : NULL;

	if (!open || !open->file || open->record->is_dir)
		return false;
	ret->node = open->node;
	ret->file = open->file;
	ret->cred = &open->record->cred;
	return true;
}

struct cv_request *cv_request_on_release(fuse_req_t req, const struct fuse_file_info *fi,
					 bool is_dir)
{
	struct cv_fs *fs = fs_of(req);
	struct cv_open *open = cv_open_get(fs, fi->fh);
	struct cv_request *r;

	if (!open || (open->record->is_dir != 0) != is_dir) {
		(void)fuse_reply_err(req, EBADF);
		return NULL;
	}
	r = cv_request_new(fs, req, 0);
	if (!r)
		return NULL;
	r->open = cv_open_hold(open);
	r->node = open->node;
	cv_node_hold(r->node);
	/* As on a local file system, the right to read and write comes with the open file. */
	r->cred = open->record->cred;
	return r;
}

struct cv_request *cv_request_on_open(fuse_req_t req, const struct fuse_file_info *fi, bool is_dir)
{
	struct cv_request *r = cv_request_on_release(req, fi, is_dir);

	if (r && !is_dir && !r->open->file) {
		cv_reply_err(r, -ESTALE);
		return NULL;
	}
	return r;
}

enum cv_wb_level cv_fs_settled(const struct cv_fs *fs)
{
	return fs->mount.info.features & CV_FEAT_UNSTABLE_WRITES ? CV_WB_STABLE : CV_WB_WRITTEN;
}

/* ---- open, create ---- */

/* Where the kernel collects written data itself, it reads what surrounds them in a page, through
 * the same handle. */
static void widen(struct cv_request *r)
{
	r->widened = r->fs->writeback_cache && (r->fi.flags & O_ACCMODE) == O_WRONLY;
	if (r->widened)
		r->fi.flags = (r->fi.flags & ~O_ACCMODE) | O_RDWR;
}

/*
 * What is only written passes the page cache by, and is copied once less, into pages that are there
 * already. It would not be read from there: the time that a write sets on the server makes the
 * kernel drop what it has at the next open. Not beside others who have the file open: of a long
 * write the kernel drops their pages once, before it begins. What set-uid bits there are has to be
 * known: bits_to_clear().
 */
static void pass_by(struct cv_request *r, const struct cv_node *node)
{
	r->fi.direct_io = r->fs->direct_writes && (r->fi.flags & O_ACCMODE) == O_WRONLY &&
			  node->open_count == 1 && node->record->permissions;
}

static void open_go(struct cv_request *r);

static void open_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_fs *fs = r->fs;
	struct cv_open *open;
	bool only_change;

	if (result == -EACCES && r->widened) {
		r->fi.flags = (r->fi.flags & ~O_ACCMODE) | O_WRONLY;
		open_go(r);
		return;
	}
	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	only_change = r->node->changed <= r->clock && r->node->landed <= r->clock;
	if (r->truncating)
		cv_node_touch(&fs->nodes, r->node);
	else
		cv_node_unknow(r->node);
	open = cv_open_new(r, r->node, op->file, r->fi.flags, false);
	if (!open) {
		cv_release(&fs->mount, op->file);
		cv_reply_err(r, -ENFILE);
		return;
	}
	if (!r->req) {
		cv_open_free(fs, open);
		cv_request_end(r);
		return;
	}
	/* The kernel asks for them when it is told that what it has is not true any more. */
	if (op->have_attr && only_change)
		cv_fs_know(fs, r->node, &op->attr);
	/* Close-to-open: what another host has changed since is seen from here on. */
	if (op->have_attr && !r->truncating && !cv_wb_pending(r->node, NULL)) {
		r->fi.keep_cache = cv_fs_unchanged(r->node, &op->attr);
		cv_counters_cache(fs->mount.counters, CV_CACHE_PAGES, r->fi.keep_cache);
		if (r->node->record->seen_size != op->attr.size)
			(void)fuse_lowlevel_notify_inval_inode(fs->session, r->node->id, -1, 0);
	}
	/* Locks of who closes it are released by its flush. */
	r->fi.noflush =
		(r->fi.flags & O_ACCMODE) == O_RDONLY && !(fs->mount.info.features & CV_FEAT_LOCKS);
	pass_by(r, r->node);
	r->fi.fh = cv_open_fh(open);
	if (fuse_reply_open(r->req, &r->fi) < 0)
		cv_open_free(fs, open);
	r->req = NULL;
	cv_request_end(r);
}

static void open_go(struct cv_request *r)
{
	struct cv_object obj;
	int err = cv_fs_object(r->fs, r->node, 0, &obj);

	if (err < 0) {
		cv_reply_err(r, err);
		return;
	}
	r->truncating = r->fi.flags & O_TRUNC;
	if (r->truncating)
		cv_node_touch(&r->fs->nodes, r->node);
	if (r->fi.flags & O_DIRECT)
		obj.seen_change = 0; /* whoever reads so wants what is there when he does */
	cv_request_op(r, open_done);
	cv_open(&r->fs->mount, &r->op, &obj, r->fi.flags & SENT_FLAGS & ~O_EXCL);
}

void cv_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, ino);

	if (!r)
		return;
	r->fi = *fi;
	widen(r);
	cv_request_after_drain(r, r->node,
			       fi->flags & O_TRUNC ? cv_fs_settled(r->fs) : CV_WB_WRITTEN, open_go);
}

static void create_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_fs *fs = r->fs;
	struct fuse_entry_param e;
	struct cv_open *open;
	struct cv_node *node;

	cv_fs_dir_changed(r, r->node, &op->dir);
	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	cv_shm_undo_begin(&fs->shm, r->slot);
	node = r->req ? cv_fs_entry(fs, r->node, r->name, &op->entry, &e) : NULL;
	open = node ? cv_open_new(r, node, op->file, r->fi.flags, false) : NULL;
	if (!open) {
		cv_release(&fs->mount, op->file);
		if (node)
			cv_node_forget(&fs->nodes, node, 1);
		cv_reply_err(r, -ENFILE);
		return;
	}
	pass_by(r, node);
	r->fi.fh = cv_open_fh(open);
	if (fuse_reply_create(r->req, &e, &r->fi) < 0) {
		cv_open_free(fs, open);
		cv_node_forget(&fs->nodes, node, 1);
	}
	r->req = NULL;
	cv_request_end(r);
}

void cv_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		  struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, parent);
	struct cv_object dir;
	int err;

	if (!r)
		return;
	r->fi = *fi;
	widen(r);
	r->name = name;
	err = cv_fs_reserved(r->fs, r->node, name) ? -EPERM
	      : strlen(name) > CV_NAME_MAX	   ? -ENAMETOOLONG
						   : cv_fs_object(r->fs, r->node, 0, &dir);
	if (err < 0) {
		cv_reply_err(r, err);
		return;
	}
	cv_complete_name(&r->fs->complete, r->node, name);
	cv_request_op(r, create_done);
	cv_create(&r->fs->mount, &r->op, &dir, name, r->fi.flags & SENT_FLAGS, mode);
}

/* ---- read ---- */

static void read_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	if (r->req)
		(void)fuse_reply_buf(r->req, op->data, (size_t)result);
	r->req = NULL;
	cv_request_end(r);
}

static void read_go(struct cv_request *r)
{
	cv_request_op(r, read_done);
	cv_read(&r->fs->mount, &r->op, r->open->file, r->size, r->off);
}

void cv_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_on_open(req, fi, false);

	(void)ino;
	if (!r)
		return;
	r->size = size < CV_MAX_IO ? size : CV_MAX_IO;
	r->off = (uint64_t)off;
	cv_request_after_drain(r, r->node, CV_WB_WRITTEN, read_go);
}

/* ---- write ---- */

static void write_reply(struct cv_request *r)
{
	struct cv_node_record *rec = r->node->record;

	/* The kernel moves its idea of the size in the same way. */
	if (rec->seen_size < r->off + r->size)
		rec->seen_size = r->off + r->size;
	rec->seen_change = 0;
	cv_node_touch(&r->fs->nodes, r->node);
	if (r->req)
		(void)fuse_reply_write(r->req, r->size);
	r->req = NULL;
	cv_request_end(r);
}

static void write_direct_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0)
		cv_reply_err(r, (int)result);
	else
		write_reply(r);
}

/* An error is reported once per handle: not to a caller that does not hear it any more. */
static int take_error(struct cv_request *r)
{
	return r->req ? cv_wb_error(r->node, &r->open->record->error_mark) : 0;
}

static void write_through_done(struct cv_request *r)
{
	int err = take_error(r);

	if (err)
		cv_reply_err(r, err);
	else
		write_reply(r);
}

static void write_taken(struct cv_wb_waiter *w, int result)
{
	struct cv_request *r = cv_container_of(w, struct cv_request, waiter);
	bool through = !r->fs->write_behind || (r->open->record->flags & O_DIRECT) ||
		       cv_wb_error_mark(r->node) > 0;

	r->must_finish = true;
	if (result < 0)
		cv_reply_err(r, result);
	else if (through)
		cv_request_after_drain(r, r->node, CV_WB_WRITTEN, write_through_done);
	else
		write_reply(r);
}

static void write_go(struct cv_request *r)
{
	int err;

	if (r->fs->local) {
		cv_request_op(r, write_direct_done);
		cv_write(&r->fs->mount, &r->op, r->open->file, r->data, r->size, r->off);
		return;
	}
	err = cv_wb_error(r->node, &r->open->record->error_mark);
	if (err) {
		cv_reply_err(r, err);
		return;
	}
	r->waiter.done = write_taken;
	cv_wb_write(r->fs->wb, &r->waiter, r->node, r->open->index, r->data, r->size, r->off);
}

/*
 * Set-uid bits do not outlive a write by somebody who may not set them. Through the page cache the
 * kernel takes them away itself, past it the writer's request says so (and libfuse does not hand
 * that on). A server that knows who writes does it by itself.
 */
static unsigned bits_to_clear(const struct cv_request *r)
{
	unsigned mode = r->node->record->permissions;
	const uint8_t *request;

	if (!(mode & (S_ISUID | S_ISGID)) || !r->slot ||
	    (r->fs->mount.info.features & CV_FEAT_CALLER_CREDS))
		return 0;
	request = cv_shm_slot_request(&r->fs->shm, r->slot) + sizeof(struct fuse_in_header);
	if (!(((const struct fuse_write_in *)(const void *)request)->write_flags &
	      FUSE_WRITE_KILL_SUIDGID))
		return 0;
	/* Without the right to execute, set-gid is something else: mandatory locks. */
	return mode & (S_ISUID | (mode & S_IXGRP ? S_ISGID : 0));
}

static void bits_cleared(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	cv_node_touch(&r->fs->nodes, r->node);
	if (result < 0 || !r->req) { /* without a caller there are no data any more */
		cv_reply_err(r, result < 0 ? (int)result : -EINTR);
		return;
	}
	r->node->record->permissions = op->attr.mode & 07777;
	write_go(r);
}

void cv_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		 struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_on_open(req, fi, false);
	struct cv_object obj;
	unsigned clear;
	int err;

	(void)ino;
	if (!r)
		return;
	r->data = buf;
	r->size = size;
	r->off = (uint64_t)off;
	if (size == 0) {
		write_reply(r);
		return;
	}
	clear = bits_to_clear(r);
	if (!clear) {
		write_go(r);
		return;
	}
	err = cv_fs_object_open(r->fs, r->node, r->open, &obj);
	if (err < 0) {
		cv_reply_err(r, err);
		return;
	}
	r->set.mask = CV_SET_MODE;
	r->set.mode = r->node->record->permissions & ~clear;
	cv_request_op(r, bits_cleared);
	cv_setattr(&r->fs->mount, &r->op, &obj, r->open->file, &r->set);
}

/* ---- flush, fsync, release ---- */

static void flush_unlocked(struct cv_request *r)
{
	cv_reply_err(r, take_error(r));
}

static void flush_drained(struct cv_request *r)
{
	cv_fs_written(r->fs, r->node);
	cv_fs_unlock_closed(r, r->fi.lock_owner, flush_unlocked);
}

void cv_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_on_open(req, fi, false);

	(void)ino;
	if (!r)
		return;
	r->fi = *fi;
	cv_request_may_exit(r);
	/* All data of the file, as NFS clients do: another close of this handle may be waiting, and
	 * the kernel may have sent pages that were mapped through it with another handle. */
	cv_request_after_drain(r, r->node, cv_fs_settled(r->fs), flush_drained);
}

static void fsync_drained(struct cv_request *r)
{
	int err = take_error(r);

	cv_reply_err(r, err ? err : r->flags);
}

static void fsync_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	/* The engine cannot ask for more than it has done. */
	r->flags = result == -ENOSYS ? 0 : (int)result;
	/* The writes that went in front of it have been answered, but why one was refused may
	 * still be asked. */
	cv_request_after_drain(r, r->node, CV_WB_WRITTEN, fsync_drained);
}

static void fsync_go(struct cv_request *r)
{
	cv_request_op(r, fsync_done);
	/* Where writes are unstable, draining has committed them already. */
	if (r->fs->mount.info.features & CV_FEAT_UNSTABLE_WRITES)
		fsync_done(&r->op, 0);
	else
		cv_fsync(&r->fs->mount, &r->op, r->open->file, r->flags);
}

void cv_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_on_open(req, fi, false);
	uint32_t handle;

	(void)ino;
	if (!r)
		return;
	r->flags = datasync;
	/* In the order they are sent, so that the last writes and it take one round trip. */
	if ((r->fs->mount.info.features & CV_FEAT_ORDERED) && cv_wb_send(r->node, &handle) &&
	    handle == r->open->index) {
		fsync_go(r);
		return;
	}
	cv_request_after_drain(r, r->node, cv_fs_settled(r->fs), fsync_go);
}

static void release_drained(struct cv_request *r)
{
	int err = cv_wb_error(r->node, &r->closing->record->error_mark);

	/* After the last close nobody listens any more: pages written through a mapping. */
	if (err)
		cv_error("data of a closed file was lost: %s", cv_strerror(err));
	cv_open_free(r->fs, r->closing);
	cv_reply_err(r, 0);
}

static void release_go(struct cv_request *r)
{
	cv_request_after_drain(r, r->node, cv_fs_settled(r->fs), release_drained);
}

void cv_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_on_release(req, fi, false);
	struct cv_open *open;

	(void)ino;
	if (!r)
		return;
	r->must_finish = true;
	open = r->open;
	r->open = NULL;
	open->users--;
	cv_open_close(r, open, release_go);
}

/* ---- allocate, seek ---- */

static void fallocate_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	cv_node_touch(&r->fs->nodes, r->node);
	r->node->record->seen_change = 0;
	if (result == 0 && !(r->flags & FALLOC_FL_KEEP_SIZE) &&
	    r->node->record->seen_size < r->off + r->size)
		r->node->record->seen_size = r->off + r->size;
	cv_reply_err(r, (int)result);
}

static void fallocate_go(struct cv_request *r)
{
	cv_request_op(r, fallocate_done);
	cv_fallocate(&r->fs->mount, &r->op, r->open->file, r->flags, r->off, r->size);
}

void cv_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length,
		     struct fuse_file_info *fi)
{
	struct cv_request *r;

	(void)ino;
	if (!fs_of(req)->mount.backend->fallocate) {
		(void)fuse_reply_err(req, ENOSYS); /* the kernel remembers: EOPNOTSUPP */
		return;
	}
	r = cv_request_on_open(req, fi, false);
	if (!r)
		return;
	r->flags = mode;
	r->off = (uint64_t)off;
	r->size = (size_t)length;
	cv_request_after_drain(r, r->node, cv_fs_settled(r->fs), fallocate_go);
}

static void lseek_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	if (r->req)
		(void)fuse_reply_lseek(r->req, (off_t)op->offset);
	r->req = NULL;
	cv_request_end(r);
}

static void lseek_go(struct cv_request *r)
{
	cv_request_op(r, lseek_done);
	cv_lseek(&r->fs->mount, &r->op, r->open->file, r->off, r->flags);
}

void cv_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct cv_request *r;

	(void)ino;
	if (!fs_of(req)->mount.backend->lseek) {
		(void)fuse_reply_err(req, ENOSYS); /* the kernel does it: no holes */
		return;
	}
	r = cv_request_on_open(req, fi, false);
	if (!r)
		return;
	r->off = (uint64_t)off;
	r->flags = whence;
	cv_request_after_drain(r, r->node, CV_WB_WRITTEN, lseek_go);
}

/* ---- copy ---- */

static void copy_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_fs *fs = r->fs;
	struct cv_node_record *rec = r->node->record;

	/* Also if it failed: a part may have been copied. */
	cv_node_touch(&fs->nodes, r->node);
	r->node->landed = fs->nodes.clock;
	rec->seen_change = rec->own_change = 0;
	if (!r->req || (result < 0 && result != -EOPNOTSUPP)) {
		/* What the kernel does not know of. Its pages go with the next open: to drop them
		 * here could wait for one that we are to fill. */
		(void)fuse_lowlevel_notify_inval_inode(fs->session, r->node->id, -1, 0);
		cv_reply_err(r, result < 0 ? (int)result : 0);
		return;
	}
	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	/* The kernel drops the pages of that range, and moves its idea of the size. */
	if (rec->seen_size < r->off + (uint64_t)result)
		rec->seen_size = r->off + (uint64_t)result;
	(void)fuse_reply_write(r->req, (size_t)result);
	r->req = NULL;
	cv_request_end(r);
}

static void copy_go(struct cv_request *r)
{
	int err = take_error(r);

	if (err) {
		cv_reply_err(r, err);
		return;
	}
	cv_request_op(r, copy_done);
	cv_copy(&r->fs->mount, &r->op, r->source->file, r->source_off, r->open->file, r->off,
		r->size);
}

/* What is sent later must not come out on top of what is copied. */
static void copy_drained(struct cv_request *r)
{
	cv_request_after_drain(r, r->node, cv_fs_settled(r->fs), copy_go);
}

static bool overlaps(const struct cv_request *r)
{
	return r->source->node == r->node && r->off < r->source_off + r->size &&
	       r->source_off < r->off + r->size;
}

void cv_op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
			   struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
			   struct fuse_file_info *fi_out, size_t size, int flags)
{
	struct cv_fs *fs = fs_of(req);
	struct cv_open *source = cv_open_get(fs, fi_in->fh);
	struct cv_request *r;

	(void)ino_in;
	(void)ino_out;
	if (!(fs->mount.info.features & CV_FEAT_COPY)) {
		(void)fuse_reply_err(req, ENOSYS); /* the kernel copies by itself, now and later */
		return;
	}
	r = cv_request_on_open(req, fi_out, false);
	if (!r)
		return;
	if (!source || source->record->is_dir || !source->file || flags) {
		cv_reply_err(r, flags ? -EINVAL : source && !source->file ? -ESTALE : -EBADF);
		return;
	}
	r->source = cv_open_hold(source);
	r->source_off = (uint64_t)off_in;
	r->off = (uint64_t)off_out;
	r->size = size < CV_MAX_COPY ? size : CV_MAX_COPY;
	if (overlaps(r))
		cv_reply_err(r, -EINVAL);
	else
		cv_request_after_drain(r, source->node, CV_WB_WRITTEN, copy_drained);
}
