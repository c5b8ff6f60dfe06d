/* SPDX-License-Identifier: Apache-2.0 */
/* NFSv4 operations on open files and directories. */
#include "backends/nfs4.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"

/* ---- opens ---- */

void cv_nfs4_new_owner(struct cv_nfs4 *v4, struct cv_nfs4_owner *ret)
{
	uint64_t id = v4->next_owner++;

	*ret = (struct cv_nfs4_owner){ .clientid = v4->clientid, .size = sizeof(id) };
	memcpy(ret->data, &id, sizeof(id));
}

struct cv_nfs4_open *cv_nfs4_open_new(struct cv_nfs4 *v4, const struct cv_cred *cred, int flags)
{
	struct cv_nfs4_open *open = calloc(1, sizeof(*open));

	if (!open)
		return NULL;
	cv_nfs40_take_owner(v4, &open->owner);
	open->cred = *cred;
	if ((flags & O_ACCMODE) != O_WRONLY)
		open->share |= CV_NFS4_SHARE_READ;
	if ((flags & O_ACCMODE) != O_RDONLY)
		open->share |= CV_NFS4_SHARE_WRITE;
	return open;
}

void cv_nfs4_open_free(struct cv_nfs4 *v4, struct cv_nfs4_open *open)
{
	if (!open)
		return;
	cv_nfs40_keep_owner(v4, &open->owner);
	free(open->place);
	free(open);
}

static void list_add(struct cv_nfs4 *v4, struct cv_nfs4_open *open)
{
	open->next = v4->opens;
	open->prev = NULL;
	if (open->next)
		open->next->prev = open;
	v4->opens = open;
}

static void list_remove(struct cv_nfs4 *v4, struct cv_nfs4_open *open)
{
	if (open->prev)
		open->prev->next = open->next;
	else
		v4->opens = open->next;
	if (open->next)
		open->next->prev = open->prev;
	if (v4->reopening == open)
		v4->reopening = NULL;
}

void cv_nfs4_finish_open(struct cv_nfs_req *q, const struct cv_handle *handle)
{
	struct cv_file *file = calloc(1, sizeof(*file));

	if (!file) {
		cv_nfs_finish(q, -ENOMEM);
		return;
	}
	file->handle = *handle;
	file->writable = (q->flags & O_ACCMODE) != O_RDONLY;
	file->open = cv_steal(&q->v4.made);
	if (file->open) {
		file->open->handle = *handle;
		list_add(q->nfs->v4, file->open);
	}
	cv_nfs_first_give(q, file);
	q->op->file = file;
	cv_nfs_finish(q, 0);
}

bool cv_nfs4_truncates(int flags)
{
	return flags & O_TRUNC && (flags & O_ACCMODE) != O_RDONLY;
}

void cv_nfs4_put_truncate(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid)
{
	/* The time, too: truncating an empty file is a change of it. */
	const struct cv_setattr set = { .mask = CV_SET_SIZE | CV_SET_MTIME_NOW, .size = 0 };

	cv_nfs4_put_setattr(c, stateid, &set, NULL, NULL);
}

void cv_nfs4_put_first(struct cv_nfs_req *q, struct cv_nfs4_call *c)
{
	/* Not with what the server has put off: the open does not wait for the data. */
	if (q->first_size && !q->delay_ms)
		cv_nfs4_put_read(c, c->minor > 0 ? &cv_nfs4_current : &cv_nfs4_anonymous, 0,
				 q->first_size);
}

int cv_nfs4_take_first(struct cv_nfs_req *q, struct cv_xdr *x, int status, bool opened)
{
	const uint8_t *data;
	size_t size;
	bool eof;

	/* What an OPEN before this one brought is older than the attributes that this one brings.
	 */
	cv_nfs_first_forget(q);
	if (!opened)
		return status < 0 ? status : -EIO;
	if (!q->first_size || !cv_nfs4_skip(x, CV_NFS4_READ))
		return 0;
	eof = cv_xdr_bool(x);
	data = cv_xdr_opaque(x, q->first_size, &size);
	if (data)
		cv_nfs_first_got(q, cv_change(&q->op->attr), data, size, eof);
	return 0;
}

static void send_open(struct cv_nfs_req *q)
{
	struct cv_nfs4_open *open = q->v4.made;
	struct cv_nfs4_call c;

	if (!cv_nfs4_start_owned(q, &c, &open->owner, NULL))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_open(&c, open->share, &open->owner);
	if (cv_nfs4_truncates(q->flags))
		cv_nfs4_put_truncate(&c, &cv_nfs4_current);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_put_first(q, &c);
	cv_nfs4_submit(q, &c);
}

/*
 * What cannot be opened is used without state at the server, which lets the owner read and write: a
 * file that a successor may not open as it was opened before, like one that was made without the
 * right to write; in minor version 0 also one of which no name is known at the moment. That it is
 * there is all that is asked.
 */
static void send_look(struct cv_nfs_req *q)
{
	bool truncates = cv_nfs4_truncates(q->flags);
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, truncates))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	if (truncates)
		cv_nfs4_put_truncate(&c, &cv_nfs4_anonymous);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void got_look(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
	if (status == 0 && cv_nfs4_truncates(q->flags)) {
		(void)cv_nfs4_skip(x, CV_NFS4_SETATTR);
		cv_nfs4_skip_bitmap(x);
	}
	if (status == 0 && !cv_nfs4_take_attr(q, x, &q->op->attr))
		status = -EIO;
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	q->op->have_attr = true;
	cv_nfs4_finish_open(q, &q->obj);
}

void cv_nfs4_open_stateless(struct cv_nfs_req *q)
{
	cv_nfs4_open_free(q->nfs->v4, cv_steal(&q->v4.made));
	/* Perhaps of another file, which has the name now. */
	cv_nfs_first_forget(q);
	cv_nfs_step(q, send_look, got_look);
}

static void got_open(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_op *op = q->op;
	uint64_t ignored;

	(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
	(void)cv_nfs4_skip(x, CV_NFS4_OPEN);
	(void)cv_nfs4_get_open(x, &q->v4.made->stateid, &ignored);
	if (cv_nfs4_truncates(q->flags)) {
		(void)cv_nfs4_skip(x, CV_NFS4_SETATTR);
		cv_nfs4_skip_bitmap(x);
	}
	status = cv_nfs4_take_first(q, x, status, cv_nfs4_take_attr(q, x, &op->attr));
	/* Ganesha, while another client replaces the file: the second time it is STALE, and the
	 * kernel looks its name up again. */
	if (status < 0 && q->v4.status == CV_NFS4ERR_SERVERFAULT && !q->again) {
		q->again = true;
		cv_nfs_step(q, send_open, got_open);
		return;
	}
	if (status == -EACCES && op->repeated) {
		cv_nfs4_open_stateless(q);
		return;
	}
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	op->have_attr = true;
	op->entry.attr = op->attr; /* create() of what was there */
	cv_nfs4_finish_open(q, &q->obj);
}

void cv_nfs4_open_file(void *conn, struct cv_op *op, const struct cv_object *obj, int flags)
{
	struct cv_nfs *nfs = conn;
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (!q)
		return;
	q->flags = flags;
	q->v4.made = cv_nfs4_open_new(nfs->v4, op->cred, flags);
	cv_nfs_first_want(q, obj);
	if (!q->v4.made)
		cv_nfs_finish(q, -ENOMEM);
	else if (nfs->v4->minor > 0)
		cv_nfs_step(q, send_open, got_open);
	else
		cv_nfs40_open(q, obj->parent, obj->name);
}

/* ---- create ----
 *
 * Without O_EXCL: UNCHECKED, which opens what is there if the caller may have it. With O_EXCL:
 * GUARDED; in a session that is exactly-once as EXCLUSIVE is (in minor version 0 by the number that
 * its owner gives it), and needs no second call to put times and mode in the verifier's place (RFC
 * 8881, 18.16.3). Where the server has forgotten the first transmission in a restart, an empty file
 * with the mode asked for is taken as ours.
 */

static void send_create(struct cv_nfs_req *q)
{
	struct cv_nfs4_open *open = q->v4.made;
	struct cv_nfs4_call c;

	if (!cv_nfs4_start_owned(q, &c, &open->owner, NULL))
		return;
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_op(&c, CV_NFS4_SAVEFH);
	/* Minor version 0 has no name for the state of the operation before. */
	cv_nfs4_put_open_create(&c, open->share, &open->owner, q->flags & O_EXCL,
				c.minor == 0 && cv_nfs4_truncates(q->flags), q->mode, q->name);
	if (c.minor > 0 && cv_nfs4_truncates(q->flags))
		cv_nfs4_put_truncate(&c, &cv_nfs4_current);
	cv_nfs4_put_op(&c, CV_NFS4_GETFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_put_op(&c, CV_NFS4_RESTOREFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void open_made(struct cv_nfs_req *q)
{
	const struct cv_attr *attr = &q->op->entry.attr;

	if (!S_ISREG(attr->mode) || attr->size != 0 || (attr->mode & 07777) != (q->mode & 07777)) {
		cv_nfs_finish(q, -EEXIST);
		return;
	}
	q->obj = q->op->entry.handle;
	if (q->nfs->v4->minor > 0)
		cv_nfs_step(q, send_open, got_open);
	else
		cv_nfs40_open(q, &q->dir, q->name);
}

static void finish_create(struct cv_nfs_req *q)
{
	cv_nfs4_finish_open(q, &q->op->entry.handle);
}

static void got_create(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4_open *made = q->v4.made;
	struct cv_op *op = q->op;
	bool confirm = false;

	if (status == -EEXIST && q->resent) {
		cv_nfs4_fetch_entry(q, open_made);
		return;
	}
	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_SAVEFH);
		(void)cv_nfs4_skip(x, CV_NFS4_OPEN);
		confirm = cv_nfs4_get_open(x, &made->stateid, &op->dir.before);
		if (q->nfs->v4->minor > 0 && cv_nfs4_truncates(q->flags)) {
			(void)cv_nfs4_skip(x, CV_NFS4_SETATTR);
			cv_nfs4_skip_bitmap(x);
		}
		if (!cv_nfs4_take_entry(q, x))
			status = -EIO;
	}
	if (status < 0) {
		/* A link, or a device: the kernel looks again. */
		cv_nfs_finish(q, status == -ELOOP ? -ESTALE : status);
		return;
	}
	op->attr = op->entry.attr;
	op->have_attr = true;
	(void)cv_nfs4_skip(x, CV_NFS4_RESTOREFH);
	cv_nfs4_take_dir(q, x, &op->dir);
	if (q->nfs->v4->minor > 0) {
		finish_create(q);
	} else if (!cv_nfs40_set_place(made, &q->dir, q->name)) {
		cv_nfs_finish(q, -ENOMEM);
	} else {
		made->handle = op->entry.handle;
		cv_nfs40_settle(q, confirm, finish_create);
	}
}

void cv_nfs4_create(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    int flags, uint32_t mode)
{
	struct cv_nfs *nfs = conn;
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->flags = flags;
	q->mode = mode;
	q->v4.made = cv_nfs4_open_new(nfs->v4, op->cred, flags);
	if (q->v4.made)
		cv_nfs_step(q, send_create, got_create);
	else
		cv_nfs_finish(q, -ENOMEM);
}

/* ---- close: nobody waits for it ---- */

#define CLOSED_LOCKS                                                                               \
	8 /* of different owners: there is one as a rule; the lease ends the others                \
	   */

struct closing {
	struct cv_op op;
	struct cv_nfs4 *v4;
	struct cv_nfs4_open *open;		       /* owned */
	struct cv_nfs4_lock_state locks[CLOSED_LOCKS]; /* released first: servers insist on it */
	size_t nlocks;
};

static void closed(struct cv_op *op, ssize_t result)
{
	struct closing *closing = cv_container_of(op, struct closing, op);

	(void)result; /* gone with the lease, at the latest */
	closing->v4->own--;
	cv_nfs4_open_free(closing->v4, closing->open);
	free(closing);
}

static void send_close(struct cv_nfs_req *q)
{
	const struct closing *closing = cv_container_of(q->op, struct closing, op);
	struct cv_nfs4_open *open = closing->open;
	struct cv_nfs4_call c;

	if (open->owner.clientid != q->nfs->v4->clientid) {
		cv_nfs_finish(q, 0); /* went with the client it belonged to */
		return;
	}
	if (!cv_nfs4_start_owned(q, &c, &open->owner, NULL))
		return;
	cv_nfs4_put_fh(&c, &open->handle);
	for (size_t i = 0; i < closing->nlocks; i++) {
		const struct cv_nfs4_lock_state *lock = &closing->locks[i];

		cv_nfs4_put_locku(&c, &lock->stateid, &lock->owner, 0, CV_NFS4_TO_EOF);
	}
	cv_nfs4_put_close(&c, &open->stateid, &open->owner);
	/* Servers keep owners of locks that have none until they are told. */
	for (size_t i = 0; i < closing->nlocks && c.minor == 0; i++)
		cv_nfs4_put_release_lockowner(&c, &closing->locks[i].owner);
	cv_nfs4_submit(q, &c);
}

static void got_close(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct closing *closing = cv_container_of(q->op, struct closing, op);

	(void)x;
	if (status < 0 && q->v4.status && closing->nlocks) {
		closing->nlocks = 0; /* a lock may have been lost already */
		cv_nfs_step(q, send_close, got_close);
		return;
	}
	cv_nfs_finish(q, status);
}

void cv_nfs4_close(struct cv_nfs *nfs, struct cv_nfs4_open *open)
{
	struct closing *closing = calloc(1, sizeof(*closing));
	struct cv_nfs4_lock_state ignored[1];
	struct cv_nfs_req *q;
	size_t nlocks;

	nlocks = cv_nfs4_locks_take(nfs->v4, open, closing ? closing->locks : ignored,
				    closing ? CLOSED_LOCKS : 0);
	/* What the server has lost it need not close. */
	if (!closing || open->dead || open->lost || open->stateless) {
		free(closing);
		cv_nfs4_open_free(nfs->v4, open);
		return;
	}
	closing->nlocks = nlocks;
	closing->v4 = nfs->v4;
	closing->open = open;
	nfs->v4->own++;
	cv_op_init(&closing->op, closed, &open->cred);
	q = cv_nfs_req_new(nfs, &closing->op);
	if (q)
		cv_nfs_step(q, send_close, got_close);
}

void cv_nfs4_release(void *conn, struct cv_file *file)
{
	struct cv_nfs *nfs = conn;

	cv_nfs_first_leave(file);
	if (file->open) {
		list_remove(nfs->v4, file->open);
		cv_nfs4_close(nfs, file->open);
	}
	free(file);
}

/* ---- read ---- */

static const struct cv_nfs4_stateid *stateid_of(const struct cv_nfs_req *q)
{
	return q->v4.open ? &q->v4.open->stateid : &cv_nfs4_anonymous;
}

static void send_read(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_read(&c, stateid_of(q), q->off + q->done_bytes, cv_nfs_piece(q, q->nfs->rsize));
	cv_nfs4_submit(q, &c);
}

static void got_read(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	size_t asked = cv_nfs_piece(q, q->nfs->rsize), size = 0;
	const uint8_t *data = NULL;
	bool eof = false;

	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_READ);
		eof = cv_xdr_bool(x);
		data = cv_xdr_opaque(x, asked, &size);
		if (!data || (size == 0 && !eof))
			status = -EIO;
	}
	if (status < 0)
		cv_nfs_finish(q, status);
	else
		cv_nfs_take_data(q, data, size, eof);
}

void cv_nfs4_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		  uint64_t off)
{
	cv_nfs_begin_read(conn, op, file, size_bytes, off, send_read, got_read);
}

/* ---- write, commit ---- */

static void send_write(struct cv_nfs_req *q)
{
	uint32_t size = cv_nfs_piece(q, q->nfs->wsize);
	const uint8_t *mark;
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_write(&c, stateid_of(q), q->off + q->done_bytes, size, q->op->sync);
	mark = c.x.p;
	cv_nfs4_put_getattr(&c);
	q->call.data = q->data + q->done_bytes;
	q->call.data_at = q->done_bytes;
	q->call.data_size = size;
	q->call.tail_size = (size_t)(c.x.p - mark);
	cv_nfs4_submit(q, &c);
}

static void got_write(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_op *op = q->op;
	uint32_t count = 0, committed = 0;
	const uint8_t *verf = NULL;

	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_WRITE);
		count = cv_xdr_u32(x);
		committed = cv_xdr_u32(x);
		verf = cv_xdr_take(x, CV_NFS_VERF_SIZE);
		if (!verf || count == 0 || count > q->call.data_size)
			status = -EIO;
	}
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	op->have_attr = cv_nfs4_take_attr(q, x, &op->attr);
	cv_nfs_take_written(q, count, committed == CV_NFS_STABLE, verf);
	if (q->done_bytes < q->size)
		cv_nfs_step(q, send_write, got_write);
	else
		cv_nfs_finish(q, (ssize_t)q->size);
}

void cv_nfs4_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		   size_t size_bytes, uint64_t off)
{
	cv_nfs_begin_write(conn, op, file, data, size_bytes, off, send_write, got_write);
}

static void send_commit(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_commit(&c);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void got_commit(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	const uint8_t *verf;

	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_COMMIT);
		verf = cv_xdr_take(x, CV_NFS_VERF_SIZE);
		if (verf)
			memcpy(&q->op->verifier, verf, CV_NFS_VERF_SIZE);
		else
			status = -EIO;
		q->op->have_attr = cv_nfs4_take_attr(q, x, &q->op->attr);
	}
	cv_nfs_finish(q, status);
}

void cv_nfs4_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync)
{
	struct cv_nfs_req *q = cv_nfs_req_new(conn, op);

	(void)datasync;
	if (!q)
		return;
	q->obj = file->handle;
	cv_nfs_step(q, send_commit, got_commit);
}

/* ---- directories ---- */

static void send_readdir(struct cv_nfs_req *q)
{
	const struct cv_file *dir = q->data_dir;
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	cv_nfs4_put_fh(&c, &dir->handle);
	cv_nfs4_put_readdir(&c, q->off, dir->verf,
			    dir->reply_bytes < q->nfs->rsize ? dir->reply_bytes : q->nfs->rsize);
	cv_nfs4_submit(q, &c);
}

static void get_entries(struct cv_nfs_req *q, struct cv_xdr *x, struct cv_nfs_entries *entries)
{
	(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
	(void)cv_nfs4_skip(x, CV_NFS4_READDIR);
	cv_nfs4_get_entries(x, &q->nfs->v4->names, entries, q->data_dir->verf);
}

static void got_readdir(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (cv_nfs_forgot_cookies(q, status))
		return;
	if (status < 0)
		cv_nfs_finish(q, status);
	else
		cv_nfs_take_entries(q, x, get_entries);
}

void cv_nfs4_ask_readdir(struct cv_nfs *nfs, struct cv_op *op, struct cv_file *dir, uint64_t off)
{
	cv_nfs_begin_readdir(nfs, op, dir, off, send_readdir, got_readdir);
}

void cv_nfs4_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off)
{
	struct cv_nfs *nfs = conn;

	if (off != 0 || !cv_nfs_ahead_take(nfs, op, dir))
		cv_nfs4_ask_readdir(nfs, op, dir, off);
	cv_nfs_ahead_go(nfs);
}

/* ---- the table ---- */

/* Directories have no state: opening and leaving them is NFSv3's. */
const struct cv_backend cv_backend_nfs4 = {
	.name = "nfs",
	.connect = cv_nfs_connect,
	.disconnect = cv_nfs_disconnect,
	.stats = cv_nfs_stats,
	.provoke = cv_nfs_provoke,
	.lookup = cv_nfs4_lookup,
	.getattr = cv_nfs4_getattr,
	.setattr = cv_nfs4_setattr,
	.readlink = cv_nfs4_readlink,
	.mknod = cv_nfs4_mknod,
	.mkdir = cv_nfs4_mkdir,
	.symlink = cv_nfs4_symlink,
	.link = cv_nfs4_link,
	.unlink = cv_nfs4_unlink,
	.rmdir = cv_nfs4_rmdir,
	.rename = cv_nfs4_rename,
	.open = cv_nfs4_open_file,
	.create = cv_nfs4_create,
	.release = cv_nfs4_release,
	.read = cv_nfs4_read,
	.write = cv_nfs4_write,
	.fsync = cv_nfs4_fsync,
	.getlk = cv_nfs4_getlk,
	.setlk = cv_nfs4_setlk,
	.opendir = cv_nfs_opendir,
	.releasedir = cv_nfs_release,
	.readdir = cv_nfs4_readdir,
	.fsyncdir = cv_nfs_fsyncdir,
	.statfs = cv_nfs4_statfs,
};
