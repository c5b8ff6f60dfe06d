/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File data. A read or write becomes requests of the server's size, all in flight at once; the
 * pieces of a read land side by side in one buffer. All of it may be repeated after a reconnect:
 * offsets are explicit.
 */
#include "backends/sftp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/log.h"

#define BACKLOG_LOOK 64 /* pieces passed over in search of one that can go */

struct sftp_piece {
	struct sftp_request req;
	struct sftp_piece *next; /* in the backlog */
	int way;		 /* sftp_bulk_way() */
	size_t at;		 /* in the buffer */
	size_t want;
	size_t got;
};

struct sftp_transfer {
	struct sftp_engine *e;
	struct cv_op *op;
	struct cv_file *file;
	uint8_t *buf; /* reads: from the pool */
	size_t size;
	uint64_t off;
	int error;	 /* the first */
	uint32_t status; /* that came with it */
	size_t pending;
	size_t count;
	struct sftp_piece pieces[];
};

/* ---- buffers ---- */

static uint8_t *buffer_get(struct sftp_engine *e)
{
	return e->pooled ? e->pool[--e->pooled] : malloc(CV_MAX_IO);
}

static void buffer_put(struct sftp_engine *e, uint8_t *buf)
{
	if (e->pooled < SFTP_POOL)
		e->pool[e->pooled++] = buf;
	else
		free(buf);
}

static size_t piece_size(uint32_t server_max)
{
	return server_max && server_max < SFTP_IO_MAX ? server_max : SFTP_IO_MAX;
}

static struct sftp_transfer *transfer_new(struct sftp_engine *e, struct cv_op *op,
					  struct cv_file *file, size_t size, uint64_t off,
					  size_t unit)
{
	size_t count = (size + unit - 1) / unit;
	struct sftp_transfer *t = calloc(1, sizeof(*t) + count * sizeof(t->pieces[0]));

	if (!t)
		return NULL;
	t->e = e;
	t->op = op;
	t->file = file;
	t->size = size;
	t->off = off;
	t->count = count;
	t->pending = count;
	for (size_t i = 0; i < count; i++) {
		struct sftp_piece *p = &t->pieces[i];

		p->at = i * unit;
		p->want = size - p->at < unit ? size - p->at : unit;
		p->req.open = &file->open;
		p->req.owner = t;
		p->req.offset = off + p->at;
		p->req.size = (uint32_t)p->want;
	}
	return t;
}

static int kind(const struct sftp_piece *p)
{
	return p->req.type == CV_FXP_WRITE ? SFTP_WRITES : SFTP_READS;
}

/* One more write of file is either done or has its place in the first connection's order. */
static void write_placed(struct cv_file *file)
{
	file->loose_writes--;
	sftp_bulk_settled(file);
}

static void piece_submit(struct sftp_transfer *t, struct sftp_piece *p, int way)
{
	struct cv_file *file = t->file;
	bool write = kind(p) == SFTP_WRITES;

	p->way = way;
	p->req.open = way ? file->further[way - 1] : &file->open;
	sftp_link_submit(way ? t->e->bulk.links[way - 1] : &t->e->link, &p->req);
	if (write && way > 0)
		file->far_writes++;
	else if (write)
		write_placed(file);
}

void sftp_backlog_go(struct sftp_engine *e)
{
	struct sftp_piece **at = &e->backlog;

	for (unsigned passed = 0; *at && passed < BACKLOG_LOOK;) {
		struct sftp_piece *p = *at;
		struct sftp_transfer *t = p->req.owner;
		bool write = kind(p) == SFTP_WRITES;
		int way = write && t->file->held ? -1 : sftp_bulk_way(e, t->file, kind(p));

		if (way < 0) {
			at = &p->next;
			passed++;
			continue;
		}
		*at = p->next;
		if (!*at)
			e->backlog_tail = at;
		piece_submit(t, p, way);
	}
}

/* Behind those that wait already. */
static void piece_start(struct sftp_transfer *t, struct sftp_piece *p)
{
	struct sftp_engine *e = t->e;

	p->next = NULL;
	if (!e->backlog)
		e->backlog_tail = &e->backlog;
	*e->backlog_tail = p;
	e->backlog_tail = &p->next;
}

/*
 * p is answered. Has its connection been lost, one of the further ones? Then it goes over the first
 * and true is returned.
 */
static bool piece_again(struct sftp_transfer *t, struct sftp_piece *p,
			const struct sftp_reply *reply)
{
	bool again = p->way && reply->error == -ESTALE;
	bool far_write = p->way && kind(p) == SFTP_WRITES;

	t->file->far_writes -= far_write;
	if (again)
		piece_submit(t, p, 0);
	else if (far_write)
		write_placed(t->file);
	sftp_backlog_go(t->e);
	return again;
}

static void transfer_start(struct sftp_transfer *t)
{
	struct sftp_engine *e = t->e;

	sftp_bulk_moved(e, t->file, t->size);
	if (kind(&t->pieces[0]) == SFTP_WRITES)
		t->file->loose_writes += (unsigned)t->count;
	for (size_t i = 0; i < t->count; i++)
		piece_start(t, &t->pieces[i]);
	sftp_backlog_go(e); /* the last answer may come during the last submit, and free t */
}

/* ---- read ---- */

static void read_end(struct sftp_transfer *t)
{
	struct sftp_engine *e = t->e;
	struct cv_op *op = t->op;
	uint8_t *buf = t->buf;
	ssize_t result = t->error;

	if (!result) {
		/* What follows a short piece is beyond the end of the file. */
		for (size_t i = 0; i < t->count; i++) {
			result += (ssize_t)t->pieces[i].got;
			if (t->pieces[i].got < t->pieces[i].want)
				break;
		}
	}
	free(t);
	op->data = buf;
	op->done(op, result);
	buffer_put(e, buf);
}

/*
 * Servers may return less than asked for, so only EOF is the end. But where OpenSSH, which reads
 * all there is, stops at the size we know, asking again would cost every small file a round trip.
 */
static bool at_end(const struct sftp_transfer *t, const struct sftp_piece *p)
{
	return t->e->link.session.openssh && t->off + p->at + p->got >= t->file->open.size_seen;
}

static void read_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_piece *p = cv_container_of(req, struct sftp_piece, req);
	struct sftp_transfer *t = req->owner;

	if (piece_again(t, p, reply))
		return;
	if (reply->error && reply->error != -ENODATA && !t->error)
		t->error = reply->error;
	if (reply->error == 0) {
		p->got += reply->size;
		if (reply->size && p->got < p->want && !at_end(t, p)) {
			req->offset += reply->size;
			req->dest += reply->size;
			req->size -= (uint32_t)reply->size;
			piece_start(t, p);
			sftp_backlog_go(t->e);
			return;
		}
	}
	if (--t->pending == 0)
		read_end(t);
}

void sftp_op_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size, uint64_t off)
{
	struct sftp_engine *e = conn;
	struct sftp_transfer *t;

	if (size == 0) {
		op->done(op, 0);
		return;
	}
	if (sftp_first_read(file, op, size, off))
		return;
	t = transfer_new(e, op, file, size, off, piece_size(e->link.session.read_max));
	if (t)
		t->buf = buffer_get(e);
	if (!t || !t->buf) {
		free(t);
		op->done(op, -ENOMEM);
		return;
	}
	for (size_t i = 0; i < t->count; i++) {
		struct sftp_piece *p = &t->pieces[i];

		p->req.type = CV_FXP_READ;
		p->req.dest = t->buf + p->at;
		p->req.done = read_done;
	}
	transfer_start(t);
}

/* ---- write ---- */

/* A file opened again after a reconnect must be at least that long. */
void sftp_file_grown(struct sftp_engine *e, struct cv_file *file, uint64_t end)
{
	for (struct cv_file *f = e->files; f; f = f->next) {
		if (!f->open.is_dir && f->open.size_seen < end &&
		    (f == file || strcmp(f->open.path, file->open.path) == 0))
			f->open.size_seen = end;
	}
}

static void write_end(struct sftp_transfer *t)
{
	struct sftp_engine *e = t->e;
	struct cv_op *op = t->op;
	struct cv_file *file = t->file;
	int error = t->error;
	bool unexplained = error && t->status == CV_FX_FAILURE;
	uint64_t end = t->off + t->size;
	ssize_t size = (ssize_t)t->size;

	free(t);
	sftp_ahead_changed(e, file->open.path, false);
	if (unexplained) {
		/* Is the disk full, or what? */
		struct sftp_call *call = sftp_call_new(e, op);

		if (call)
			sftp_call_explain(call, error);
		return;
	}
	if (!error)
		sftp_file_grown(e, file, end);
	op->stable = true;
	op->done(op, error ? error : size);
}

static void write_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_piece *p = cv_container_of(req, struct sftp_piece, req);
	struct sftp_transfer *t = req->owner;

	if (piece_again(t, p, reply))
		return;
	if (reply->error && !t->error) {
		t->error = reply->error;
		t->status = reply->status;
	}
	if (--t->pending == 0)
		write_end(t);
}

void sftp_op_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		   size_t size, uint64_t off)
{
	struct sftp_engine *e = conn;
	struct sftp_transfer *t;

	if (size == 0) {
		op->stable = true;
		op->done(op, 0);
		return;
	}
	t = transfer_new(e, op, file, size, off, piece_size(e->link.session.write_max));
	if (!t) {
		op->done(op, -ENOMEM);
		return;
	}
	for (size_t i = 0; i < t->count; i++) {
		struct sftp_piece *p = &t->pieces[i];

		p->req.type = CV_FXP_WRITE;
		p->req.payload = (const uint8_t *)data + p->at;
		p->req.done = write_done;
	}
	sftp_ahead_changed(e, file->open.path, false);
	if (file->open.untouched)
		sftp_files_touched(e, file, file->open.path);
	transfer_start(t);
}

/* ---- fsync ---- */

static void no_fsync(struct sftp_engine *e)
{
	if (!e->said_no_fsync)
		cv_notice("this SSH server has no fsync: data is on the server, but when it is on "
			  "its disk cannot be known");
	e->said_no_fsync = true;
}

static void fsync_done(struct sftp_call *call)
{
	if (sftp_broken_promise(call, SFTP_EXT_FSYNC)) {
		no_fsync(call->e);
		sftp_call_end(call, 0);
		return;
	}
	if (call->res[0].status == CV_FX_FAILURE)
		sftp_call_explain(call, call->res[0].error);
	else
		sftp_call_end(call, call->res[0].error);
}

static void fsync_send(struct sftp_call *call)
{
	struct sftp_request *req = sftp_call_request(call, 0, CV_FXP_EXTENDED);

	req->ext = SFTP_EXT_FSYNC;
	req->open = &call->file->open;
	sftp_call_send(call, 1, fsync_done);
}

void sftp_op_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync)
{
	struct sftp_engine *e = conn;
	struct sftp_call *call;

	(void)datasync;
	if (!sftp_offers(e, SFTP_EXT_FSYNC) && e->link.state == SFTP_LINK_UP) {
		no_fsync(e);
		op->done(op, 0);
		return;
	}
	call = sftp_call_new(e, op);
	if (!call)
		return;
	call->file = file;
	sftp_call_behind_writes(call, fsync_send);
}
