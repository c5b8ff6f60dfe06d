/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies on the server ("copy-data", OpenSSH 9.0). Its SFTP process does nothing else meanwhile, so
 * that a copy goes in pieces of about a tenth of a second, measured. A piece may be repeated after
 * a reconnect. The answer does not say how much was copied, and OpenSSH may call it a success when
 * the source has ended early: a look at the source, right behind it, tells.
 *
 * Whatever the server refuses is left to reading and writing, which has better words for what is
 * wrong, and may be allowed.
 */
#include "backends/sftp.h"

#include <errno.h>
#include <string.h>

#include "config/cleanup.h"

#define PIECE_FIRST (8u << 20)
#define PIECE_MIN   (1u << 20)
#define PIECE_MAX   (64u << 20)
#define PIECE_NS    100000000ull

static void adapt(struct sftp_engine *e, uint64_t took_ns, uint64_t size)
{
	uint64_t rtt_ns = e->link.session.rtt_us * 1000ull;

	if (took_ns > 2 * PIECE_NS + rtt_ns && e->copy_max > PIECE_MIN)
		e->copy_max /= 2;
	else if (took_ns < PIECE_NS / 2 + rtt_ns && size == e->copy_max && e->copy_max < PIECE_MAX)
		e->copy_max *= 2;
}

static void copy_done(struct sftp_call *call)
{
	const struct sftp_request *req = &call->req[0];
	const struct sftp_result *res = &call->res[0];
	struct sftp_engine *e = call->e;
	bool whole = call->have_attrs[1] && call->attrs[1].size >= req->source_offset + req->length;

	if (--e->copies == 0)
		sftp_backlog_go(e);
	(void)sftp_broken_promise(call, SFTP_EXT_COPY_DATA);
	if (res->status == CV_FX_PERMISSION_DENIED) /* both files are open: it is the request */
		e->refused |= SFTP_EXT_COPY_DATA;
	if (res->error && res->status == 0) {
		sftp_call_end(call, res->error); /* the link's own verdict */
	} else if (res->error || !whole) {
		sftp_call_end(call, -EOPNOTSUPP);
	} else {
		adapt(e, cv_now_ns() - call->op->begun_ns, req->length);
		sftp_file_grown(e, call->file, req->offset + req->length);
		sftp_call_end(call, (ssize_t)req->length);
	}
}

void sftp_op_copy(void *conn, struct cv_op *op, struct cv_file *src, uint64_t src_off,
		  struct cv_file *dst, uint64_t dst_off, size_t size)
{
	struct sftp_engine *e = conn;
	struct sftp_request *req;
	struct sftp_call *call;

	/* Within one file OpenSSH does not. */
	if ((!sftp_offers(e, SFTP_EXT_COPY_DATA) && e->link.state == SFTP_LINK_UP) ||
	    strcmp(src->open.path, dst->open.path) == 0) {
		op->done(op, -EOPNOTSUPP);
		return;
	}
	call = sftp_call_new(e, op);
	if (!call)
		return;
	call->path = strdup(dst->open.path);
	if (!call->path) {
		sftp_call_end(call, -ENOMEM);
		return;
	}
	sftp_call_changes(call, SFTP_CHANGES_PATH);
	sftp_files_touched(e, dst, call->path);
	call->file = dst;
	if (e->copy_max == 0)
		e->copy_max = PIECE_FIRST;
	req = sftp_call_request(call, 0, CV_FXP_EXTENDED);
	req->ext = SFTP_EXT_COPY_DATA;
	req->open = &dst->open;
	req->offset = dst_off;
	req->source = &src->open;
	req->source_offset = src_off;
	req->length = size < e->copy_max ? size : e->copy_max;
	req = sftp_call_request(call, 1, CV_FXP_FSTAT);
	req->open = &src->open;
	e->copies++;
	sftp_call_send(call, 2, copy_done);
}
