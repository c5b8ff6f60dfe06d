/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/nfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"

#define DIR_REPLY_FIRST (64u * 1024)
#define DIR_REPLY_NEXT	(512u * 1024) /* a large directory: fewer round trips */
#define ENTRY_WIRE_MIN	24	      /* bytes a directory entry takes at least */
#define CREATE_TRIES	3

static struct cv_file *file_new(const struct cv_handle *handle, int flags)
{
	struct cv_file *file = calloc(1, sizeof(*file));

	if (file) {
		file->handle = *handle;
		file->writable = (flags & O_ACCMODE) != O_RDONLY;
		file->reply_bytes = DIR_REPLY_FIRST;
	}
	return file;
}

/* ---- open ----
 *
 * One round trip: ACCESS says whether the server will let us (it may know more than the mode does:
 * ACLs, squashing), and brings fresh attributes. SETATTR of the size does both for O_TRUNC, and so
 * does READ for a small file to be read (nfs_first.c).
 */

static void finish_open(struct cv_nfs_req *q)
{
	if (S_ISDIR(q->op->attr.mode)) {
		cv_nfs_finish(q, -EISDIR);
		return;
	}
	q->op->entry.attr = q->op->attr; /* create() of what was there */
	q->op->file = file_new(&q->obj, q->flags);
	if (q->op->file)
		cv_nfs_first_give(q, q->op->file);
	cv_nfs_finish(q, q->op->file ? 0 : -ENOMEM);
}

static uint32_t wanted_access(int flags)
{
	uint32_t wanted = 0;

	/* Programs are read by those who may only execute them; the server allows that. */
	if ((flags & O_ACCMODE) != O_WRONLY)
		wanted |= CV_NFS_MAY_READ | CV_NFS_MAY_EXECUTE;
	if ((flags & O_ACCMODE) != O_RDONLY)
		wanted |= CV_NFS_MAY_MODIFY | CV_NFS_MAY_EXTEND;
	return wanted;
}

static bool may_open(int flags, uint32_t granted)
{
	if ((flags & O_ACCMODE) != O_WRONLY && !(granted & (CV_NFS_MAY_READ | CV_NFS_MAY_EXECUTE)))
		return false;
	return (flags & O_ACCMODE) == O_RDONLY ||
	       (granted & (CV_NFS_MAY_MODIFY | CV_NFS_MAY_EXTEND)) != 0;
}

static void send_access(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_access(&a, &q->obj, wanted_access(q->flags));
	cv_nfs_submit(q, CV_NFS_ACCESS, &a);
}

static void got_access(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;
	uint32_t granted;
	bool have;

	if (status == -EOPNOTSUPP) {
		cv_nfs_fetch_attr(q, finish_open);
		return;
	}
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	have = cv_nfs_get_post_attr(x, &attr);
	granted = cv_xdr_u32(x);
	if (x->bad) {
		cv_nfs_finish(q, -EIO);
	} else if (!may_open(q->flags, granted)) {
		cv_nfs_finish(q, -EACCES);
	} else if (have) {
		cv_nfs_show(q->nfs, &attr);
		q->op->attr = attr;
		q->op->have_attr = true;
		finish_open(q);
	} else {
		cv_nfs_fetch_attr(q, finish_open);
	}
}

static void send_truncate(struct cv_nfs_req *q)
{
	/* The time, too: truncating an empty file is a change of it. */
	const struct cv_setattr set = { .mask = CV_SET_SIZE | CV_SET_MTIME_NOW, .size = 0 };
	struct cv_nfs_args a;

	cv_nfs_put_setattr(&a, &q->obj, &set);
	cv_nfs_submit(q, CV_NFS_SETATTR, &a);
}

static void got_truncate(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;
	uint64_t ignored;

	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	if (!cv_nfs_get_wcc(x, &attr, &ignored)) {
		cv_nfs_fetch_attr(q, finish_open);
		return;
	}
	cv_nfs_show(q->nfs, &attr);
	q->op->attr = attr;
	q->op->have_attr = true;
	finish_open(q);
}

static void send_first(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	/* The server has put it off, perhaps since it has the data on tape: to open needs none. */
	if (q->delay_ms) {
		cv_nfs_step(q, send_access, got_access);
		return;
	}
	cv_nfs_put_read(&a, &q->obj, 0, q->first_size);
	cv_nfs_submit(q, CV_NFS_READ, &a);
}

/* Servers let the owner read whatever the mode says (RFC 1813, 4.4). */
static bool is_owners_privilege(struct cv_nfs_req *q, const struct cv_attr *attr)
{
	return attr->uid == cv_nfs_cred(q)->uid && attr->uid != 0 &&
	       !(attr->mode & (S_IRUSR | S_IXUSR));
}

static void got_first(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	const uint8_t *data = NULL;
	struct cv_attr attr;
	bool eof, have;
	size_t size;

	if (status == -ETIMEDOUT || status == -ECANCELED) {
		cv_nfs_finish(q, status);
		return;
	}
	have = status == 0 && cv_nfs_get_post_attr(x, &attr);
	if (!have || is_owners_privilege(q, &attr)) {
		cv_nfs_step(q, send_access, got_access);
		return;
	}
	(void)cv_xdr_u32(x);
	eof = cv_xdr_bool(x);
	data = cv_xdr_opaque(x, q->first_size, &size);
	if (data && cv_change(&attr) == q->seen_change)
		cv_nfs_first_got(q, q->seen_change, data, size, eof);
	cv_nfs_show(q->nfs, &attr);
	q->op->attr = attr;
	q->op->have_attr = true;
	finish_open(q);
}

/* Opens q->obj by q->flags. */
static void open_object(struct cv_nfs_req *q)
{
	if (q->flags & O_TRUNC && (q->flags & O_ACCMODE) != O_RDONLY)
		cv_nfs_step(q, send_truncate, got_truncate);
	else if (q->first_size)
		cv_nfs_step(q, send_first, got_first);
	else
		cv_nfs_step(q, send_access, got_access);
}

void cv_nfs_open(void *conn, struct cv_op *op, const struct cv_object *obj, int flags)
{
	struct cv_nfs_req *q = cv_nfs_on_object(conn, op, obj);

	if (!q)
		return;
	q->flags = flags;
	cv_nfs_first_want(q, obj);
	open_object(q);
}

/* ---- create ----
 *
 * Without O_EXCL: GUARDED, and an object that is there already is opened like any other (UNCHECKED
 * would hand it out without asking whether the caller may have it). It also settles what a repeated
 * call finds. With O_EXCL it must be certain whose file a repeated call finds: it is GUARDED as
 * well, and gives the file a time of last access that no other creation gives, just as servers keep
 * EXCLUSIVE's verifier in the times. But this one is a time, the moment of creation but for its
 * smallest digits, so that no second call has to mend times and mode. Where the server's times are
 * too coarse for that, or are not what was asked for: EXCLUSIVE. That is learned in use, so
 * a predecessor may have known it: what it has begun so is finished so.
 */

static void send_create(struct cv_nfs_req *q);
static void got_create(struct cv_nfs_req *q, int status, struct cv_xdr *x);

static bool is_marked(const struct cv_nfs_req *q)
{
	return q->mark.tv_sec != 0;
}

static void mark(struct cv_nfs_req *q)
{
	uint64_t hash = cv_hash(0, &q->verifier, sizeof(q->verifier));

	(void)clock_gettime(CLOCK_REALTIME, &q->mark);
	q->mark.tv_nsec = (long)(hash % (1000000000 / q->nfs->mark_ns) * q->nfs->mark_ns);
}

/* The seconds of a repetition by a successor are not the same. */
static bool has_mark(const struct cv_nfs_req *q, const struct cv_attr *attr)
{
	return attr->atime.tv_nsec == q->mark.tv_nsec &&
	       (q->op->repeated || attr->atime.tv_sec == q->mark.tv_sec);
}

static void finish_create(struct cv_nfs_req *q)
{
	/* It was not kept, or refused before. */
	if (q->flags & O_EXCL && !(is_marked(q) && has_mark(q, &q->op->entry.attr)))
		q->nfs->mark_ns = 0;
	q->op->attr = q->op->entry.attr;
	q->op->have_attr = true;
	q->op->file = file_new(&q->op->entry.handle, q->flags);
	cv_nfs_finish(q, q->op->file ? 0 : -ENOMEM);
}

/* There already: op->entry. */
static void open_existing(struct cv_nfs_req *q)
{
	const struct cv_attr *attr = &q->op->entry.attr;
	bool ours = q->again &&
		    (is_marked(q) ? has_mark(q, attr)
				  : attr->size == 0 && (attr->mode & 07777) == (q->mode & 07777));

	q->obj = q->op->entry.handle;
	if (S_ISDIR(attr->mode))
		cv_nfs_finish(q, -EISDIR);
	else if (!S_ISREG(attr->mode))
		cv_nfs_finish(q, -ESTALE); /* a link, or a device: the kernel looks again */
	else if (ours)
		finish_create(q); /* its mode may forbid what the creator may do */
	else if (q->flags & O_EXCL)
		cv_nfs_finish(q, -EEXIST);
	else
		open_object(q);
}

/* Gone again between CREATE and LOOKUP: another client's hurry, so from the start. */
static void got_existing(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == -ENOENT && ++q->tries < CREATE_TRIES)
		cv_nfs_step(q, send_create, got_create);
	else
		cv_nfs_got_lookup(q, status, x);
}

/* The server stores the verifier in the times; mode and times are set afterwards. */
static void send_complete(struct cv_nfs_req *q)
{
	const struct cv_setattr set = {
		.mask = CV_SET_MODE | CV_SET_ATIME_NOW | CV_SET_MTIME_NOW,
		.mode = q->mode & 07777,
	};
	struct cv_nfs_args a;

	cv_nfs_put_setattr(&a, &q->op->entry.handle, &set);
	cv_nfs_submit(q, CV_NFS_SETATTR, &a);
}

static void send_undo(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_name(&a, &q->dir, q->name);
	cv_nfs_submit(q, CV_NFS_REMOVE, &a);
}

static void got_undo(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)status;
	(void)x;
	cv_nfs_finish(q, (ssize_t)(int64_t)q->off);
}

static void finish_completed(struct cv_nfs_req *q)
{
	q->op->entry.attr = q->op->attr;
	finish_create(q);
}

static void got_complete(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_attr attr;
	uint64_t ignored;

	if (status < 0) {
		q->off = (uint64_t)(int64_t)status;
		cv_nfs_step(q, send_undo, got_undo); /* no file with a strange mode stays */
		return;
	}
	if (cv_nfs_get_wcc(x, &attr, &ignored)) {
		cv_nfs_show(q->nfs, &attr);
		q->op->entry.attr = attr;
		finish_create(q);
		return;
	}
	q->obj = q->op->entry.handle;
	cv_nfs_fetch_attr(q, finish_completed);
}

static void complete_exclusive(struct cv_nfs_req *q)
{
	cv_nfs_step(q, send_complete, got_complete);
}

static bool is_exclusive(const struct cv_nfs_req *q)
{
	return q->flags & O_EXCL && !is_marked(q) && !q->nfs->no_exclusive;
}

static void put_create(struct cv_nfs_req *q, struct cv_nfs_args *a)
{
	if (is_exclusive(q)) {
		cv_nfs_put_create(a, &q->dir, q->name, CV_NFS_EXCLUSIVE, NULL, &q->verifier);
	} else {
		const struct cv_setattr set = {
			.mask = CV_SET_MODE | (is_marked(q) ? CV_SET_ATIME : 0),
			.mode = q->mode & 07777,
			.atime = q->mark,
		};

		cv_nfs_put_create(a, &q->dir, q->name, CV_NFS_GUARDED, &set, NULL);
	}
}

static void send_create(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	put_create(q, &a);
	cv_nfs_submit(q, CV_NFS_CREATE, &a);
}

static void got_create(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == -EOPNOTSUPP && is_exclusive(q)) {
		q->nfs->no_exclusive = true;
		cv_nfs_step(q, send_create, got_create);
	} else if (is_marked(q) &&
		   (status == -EPERM || status == -EINVAL || status == -EOPNOTSUPP)) {
		q->mark.tv_sec = 0; /* perhaps for that; if it works so, it was */
		cv_nfs_step(q, send_create, got_create);
	} else if (status == -EEXIST &&
		   (!(q->flags & O_EXCL) || q->op->repeated || (!is_exclusive(q) && q->resent))) {
		q->again = q->resent;
		q->then = open_existing;
		cv_nfs_step(q, cv_nfs_send_lookup, got_existing);
	} else if (status < 0) {
		cv_nfs_finish(q, status);
	} else {
		cv_nfs_got_new(q, x, is_exclusive(q) ? complete_exclusive : finish_create);
	}
}

/* A predecessor's last call is another than this marked one: its EXCLUSIVE, or what follows that.
 */
static bool was_unmarked(struct cv_nfs_req *q)
{
	const struct cv_replay *r = q->op->replay;
	struct cv_nfs_args a;
	size_t size;

	if (!q->op->repeated || !r || r->id != q->op->id || !r->call_size || !r->reply_size)
		return false;
	put_create(q, &a);
	return !cv_nfs_replayed(q, CV_NFS_CREATE, &a, &size);
}

void cv_nfs_create(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   int flags, uint32_t mode)
{
	struct cv_nfs *nfs = conn;
	struct cv_nfs_req *q = cv_nfs_on_name(conn, op, dir, name);

	if (!q)
		return;
	q->flags = flags;
	q->mode = mode;
	q->verifier = op->id ? op->id : nfs->verifier++;
	q->mark.tv_sec = 0;
	if (flags & O_EXCL && nfs->mark_ns) {
		mark(q);
		if (was_unmarked(q))
			q->mark.tv_sec = 0;
	}
	cv_nfs_step(q, send_create, got_create);
}

void cv_nfs_release(void *conn, struct cv_file *file)
{
	(void)conn;
	cv_nfs_first_leave(file);
	free(file);
}

/* ---- read ---- */

uint32_t cv_nfs_piece(const struct cv_nfs_req *q, uint32_t max)
{
	size_t left = q->size - q->done_bytes;

	return left < max ? (uint32_t)left : max;
}

static void send_read(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_read(&a, &q->obj, q->off + q->done_bytes, cv_nfs_piece(q, q->nfs->rsize));
	cv_nfs_submit(q, CV_NFS_READ, &a);
}

/* READ data is in the reply: usually it is handed on from there. */
void cv_nfs_take_data(struct cv_nfs_req *q, const uint8_t *data, size_t size, bool eof)
{
	q->nfs->bytes_read += size;
	if (!q->buf && (eof || size == q->size)) {
		q->op->data = data;
		cv_nfs_finish(q, (ssize_t)size);
		return;
	}
	if (!q->buf)
		q->buf = malloc(q->size);
	if (!q->buf) {
		cv_nfs_finish(q, -ENOMEM);
		return;
	}
	memcpy(q->buf + q->done_bytes, data, size);
	q->done_bytes += size;
	if (!eof && q->done_bytes < q->size) {
		cv_nfs_step(q, q->send, q->got);
		return;
	}
	q->op->data = q->buf;
	cv_nfs_finish(q, (ssize_t)q->done_bytes);
}

static void got_read(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	size_t asked = cv_nfs_piece(q, q->nfs->rsize), size = 0;
	const uint8_t *data = NULL;
	struct cv_attr attr;
	bool eof = false, have = false;
	uint32_t count = 0;

	if (status == 0) {
		have = cv_nfs_get_post_attr(x, &attr);
		count = cv_xdr_u32(x);
		eof = cv_xdr_bool(x);
		data = cv_xdr_opaque(x, asked, &size);
		if (!data || size != count || (size == 0 && !eof))
			status = -EIO;
	}
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	if (have) {
		cv_nfs_show(q->nfs, &attr);
		q->op->attr = attr;
		q->op->have_attr = true;
	}
	cv_nfs_take_data(q, data, size, eof);
}

void cv_nfs_begin_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		       uint64_t off, void (*send)(struct cv_nfs_req *),
		       void (*got)(struct cv_nfs_req *, int, struct cv_xdr *))
{
	struct cv_nfs_req *q;

	if (cv_nfs_first_read(op, file, size_bytes, off))
		return;
	q = cv_nfs_req_new(conn, op);
	if (!q)
		return;
	q->obj = file->handle;
	q->v4.open = file->open;
	q->size = size_bytes;
	q->off = off;
	if (size_bytes == 0) {
		op->data = "";
		cv_nfs_finish(q, 0);
		return;
	}
	cv_nfs_step(q, send, got);
}

void cv_nfs_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		 uint64_t off)
{
	cv_nfs_begin_read(conn, op, file, size_bytes, off, send_read, got_read);
}

/* ---- write, commit ---- */

static void send_write(struct cv_nfs_req *q)
{
	uint32_t size = cv_nfs_piece(q, q->nfs->wsize);
	struct cv_nfs_args a;

	cv_nfs_put_write(&a, &q->obj, q->off + q->done_bytes, size, q->op->sync);
	q->call.data = q->data + q->done_bytes;
	q->call.data_at = q->done_bytes;
	q->call.data_size = size;
	cv_nfs_submit(q, CV_NFS_WRITE, &a);
}

/* Of several pieces the first verifier counts: if the server restarted in between, COMMIT will
 * bring another one and everything is written again. */
void cv_nfs_take_written(struct cv_nfs_req *q, uint32_t count, bool stable, const uint8_t *verf)
{
	struct cv_op *op = q->op;

	if (q->done_bytes == 0) {
		memcpy(&op->verifier, verf, CV_NFS_VERF_SIZE);
		op->stable = true;
	}
	op->stable = op->stable && stable;
	q->nfs->bytes_written += count;
	q->done_bytes += count;
}

static void got_write(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_op *op = q->op;
	uint32_t count = 0, committed = 0;
	const uint8_t *verf = NULL;
	struct cv_attr attr;
	uint64_t before = 0;
	bool have = false;

	if (status == 0) {
		have = cv_nfs_get_wcc(x, &attr, &before);
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
	if (have) {
		cv_nfs_show(q->nfs, &attr);
		op->attr = attr;
	}
	op->have_attr = have;
	if (q->done_bytes == 0)
		op->before = before;
	cv_nfs_take_written(q, count, committed == CV_NFS_STABLE, verf);
	if (q->done_bytes < q->size)
		cv_nfs_step(q, send_write, got_write);
	else
		cv_nfs_finish(q, (ssize_t)q->size);
}

void cv_nfs_begin_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
			size_t size_bytes, uint64_t off, void (*send)(struct cv_nfs_req *),
			void (*got)(struct cv_nfs_req *, int, struct cv_xdr *))
{
	struct cv_nfs_req *q = cv_nfs_req_new(conn, op);

	if (!q)
		return;
	q->obj = file->handle;
	q->v4.open = file->open;
	q->data = data;
	q->size = size_bytes;
	q->off = off;
	if (!file->writable) {
		cv_nfs_finish(q, -EBADF);
		return;
	}
	if (size_bytes == 0) {
		op->stable = true;
		cv_nfs_finish(q, 0);
		return;
	}
	cv_nfs_step(q, send, got);
}

void cv_nfs_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		  size_t size_bytes, uint64_t off)
{
	cv_nfs_begin_write(conn, op, file, data, size_bytes, off, send_write, got_write);
}

static void send_commit(struct cv_nfs_req *q)
{
	struct cv_nfs_args a;

	cv_nfs_put_commit(&a, &q->obj);
	cv_nfs_submit(q, CV_NFS_COMMIT, &a);
}

static void got_commit(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	const uint8_t *verf = NULL;
	struct cv_attr attr;

	if (status == 0) {
		q->op->have_attr = cv_nfs_get_wcc(x, &attr, &q->op->before);
		verf = cv_xdr_take(x, CV_NFS_VERF_SIZE);
		if (!verf)
			status = -EIO;
	}
	if (verf) {
		memcpy(&q->op->verifier, verf, CV_NFS_VERF_SIZE);
		if (q->op->have_attr) {
			cv_nfs_show(q->nfs, &attr);
			q->op->attr = attr;
		}
	}
	cv_nfs_finish(q, status);
}

void cv_nfs_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync)
{
	struct cv_nfs_req *q = cv_nfs_req_new(conn, op);

	(void)datasync;
	if (!q)
		return;
	q->obj = file->handle;
	cv_nfs_step(q, send_commit, got_commit);
}

/* ---- directories ---- */

void cv_nfs_opendir(void *conn, struct cv_op *op, const struct cv_object *dir)
{
	(void)conn;
	op->file = file_new(dir->handle, O_RDONLY);
	op->done(op, op->file ? 0 : -ENOMEM);
}

static void send_readdir(struct cv_nfs_req *q)
{
	const struct cv_file *dir = q->data_dir;
	struct cv_nfs_args a;

	q->plus = !q->nfs->no_readdirplus;
	cv_nfs_put_readdir(&a, &dir->handle, q->off, dir->verf, dir->reply_bytes, q->plus);
	cv_nfs_submit(q, q->plus ? CV_NFS_READDIRPLUS : CV_NFS_READDIR, &a);
}

void cv_nfs_take_entries(struct cv_nfs_req *q, struct cv_xdr *x, cv_nfs_get_entries_fn *get)
{
	struct cv_nfs_entries e = {
		.max = x->left / ENTRY_WIRE_MIN + 1,
		.names_size = x->left + 1,
		.last = q->off,
	};
	cv_cleanup_free struct cv_dirent *list = malloc(e.max * sizeof(*list));
	cv_cleanup_free char *names = malloc(e.names_size);

	if (!list || !names) {
		cv_nfs_finish(q, -ENOMEM);
		return;
	}
	e.list = list;
	e.names = names;
	get(q, x, &e);
	if (x->bad || (e.last == q->off && !e.eof)) {
		cv_nfs_finish(q, -EIO);
		return;
	}
	q->data_dir->reply_bytes = DIR_REPLY_NEXT;
	if (e.count == 0 && !e.eof) {
		/* "." and ".." only */
		q->off = e.last;
		cv_nfs_step(q, q->send, q->got);
		return;
	}
	for (size_t i = 0; i < e.count; i++) {
		if (list[i].have_entry)
			cv_nfs_show(q->nfs, &list[i].entry.attr);
	}
	cv_nfs_ahead_listed(q, list, e.count);
	q->op->dirents = list;
	q->op->eof = e.eof;
	cv_nfs_finish(q, (ssize_t)e.count);
}

static void get_entries(struct cv_nfs_req *q, struct cv_xdr *x, struct cv_nfs_entries *entries)
{
	cv_nfs_get_entries(x, q->plus, entries, q->data_dir->verf);
}

bool cv_nfs_forgot_cookies(struct cv_nfs_req *q, int status)
{
	if (status != -ESTALE || q->off == 0 || q->again)
		return false;
	/* They are usually good still. */
	q->again = true;
	memset(q->data_dir->verf, 0, sizeof(q->data_dir->verf));
	cv_nfs_step(q, q->send, q->got);
	return true;
}

static void got_readdir(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == -EOPNOTSUPP && q->plus) {
		q->nfs->no_readdirplus = true;
		cv_nfs_step(q, send_readdir, got_readdir);
	} else if (cv_nfs_forgot_cookies(q, status)) {
		return;
	} else if (status < 0) {
		cv_nfs_finish(q, status);
	} else {
		cv_nfs_take_entries(q, x, get_entries);
	}
}

void cv_nfs_begin_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off,
			  void (*send)(struct cv_nfs_req *),
			  void (*got)(struct cv_nfs_req *, int, struct cv_xdr *))
{
	struct cv_nfs_req *q = cv_nfs_req_new(conn, op);

	if (!q)
		return;
	q->data_dir = dir;
	q->off = off;
	if (off == 0) {
		memset(dir->verf, 0, sizeof(dir->verf));
		dir->reply_bytes = DIR_REPLY_FIRST;
	}
	cv_nfs_step(q, send, got);
}

void cv_nfs_ask_readdir(struct cv_nfs *nfs, struct cv_op *op, struct cv_file *dir, uint64_t off)
{
	cv_nfs_begin_readdir(nfs, op, dir, off, send_readdir, got_readdir);
}

void cv_nfs_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off)
{
	struct cv_nfs *nfs = conn;

	if (off != 0 || !cv_nfs_ahead_take(nfs, op, dir))
		cv_nfs_ask_readdir(nfs, op, dir, off);
	cv_nfs_ahead_go(nfs);
}

/* An NFS server answers a change of a directory when it is on its disk. */
void cv_nfs_fsyncdir(void *conn, struct cv_op *op, struct cv_file *dir, bool datasync)
{
	(void)conn;
	(void)dir;
	(void)datasync;
	op->done(op, 0);
}
