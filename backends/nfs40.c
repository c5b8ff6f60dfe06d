/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NFSv4.0 (RFC 7530), where it is not as 4.1 with a session:
 *
 * - The calls of an owner are numbered and go one after the other, so that the server knows a
 *   repetition. Each open, and each lock's owner on each file, has an owner of its own: nobody
 *   waits for another. Owners whose file is closed are used again, since a new one costs a
 *   round trip to be confirmed. All other calls are told from repetitions by their xid, as with
 *   NFSv3.
 * - Files are opened by name. When the name is another file's by now, the kernel looks again. Who
 *   must go on with the file all the same, after a recovery, does so without state at the server.
 * - A client that is not known any more, or whose state is not, or who does not know whether a
 *   number was counted, introduces itself anew, with another verifier: the server drops what it may
 *   still have, and all is opened and locked again. One way for all of it, and no state is left
 *   behind.
 *
 * Callbacks are not taken, so there are no delegations.
 */
#include "backends/nfs4.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"

/* ---- owners ---- */

void cv_nfs40_take_owner(struct cv_nfs4 *v4, struct cv_nfs4_owner *ret)
{
	if (v4->nidle)
		*ret = v4->idle[--v4->nidle];
	else
		cv_nfs4_new_owner(v4, ret);
}

void cv_nfs40_keep_owner(struct cv_nfs4 *v4, const struct cv_nfs4_owner *owner)
{
	if (v4->recovery && v4->recovery->v4.open_owner == owner)
		v4->recovery->v4.open_owner = NULL;
	if (owner->confirmed && owner->clientid == v4->clientid && !v4->unsure &&
	    v4->nidle < CV_NFS40_IDLE)
		v4->idle[v4->nidle++] = *owner;
}

/* Errors that come before the number was looked at (9.1.7). */
static bool is_counted(uint32_t status)
{
	switch (status) {
	case CV_NFS4ERR_STALE_CLIENTID:
	case CV_NFS4ERR_STALE_STATEID:
	case CV_NFS4ERR_BAD_STATEID:
	case CV_NFS4ERR_BAD_SEQID:
	case CV_NFS4ERR_BADXDR:
	case CV_NFS4ERR_RESOURCE:
	case CV_NFS4ERR_NOFILEHANDLE:
	case CV_NFS4ERR_MOVED:
		return false;
	default:
		return true;
	}
}

bool cv_nfs40_may_start(struct cv_nfs_req *q)
{
	return !q->v4.open_owner || !q->v4.open_owner->busy;
}

void cv_nfs40_sent(struct cv_nfs_req *q, const struct cv_nfs4_call *c)
{
	q->nfs->v4->on_wire++;
	q->v4.numbered = c->numbered;
	if (q->v4.numbered && q->v4.open_owner)
		q->v4.open_owner->busy = true;
}

void cv_nfs40_answered(struct cv_nfs_req *q, int status, uint32_t ops, uint32_t compound)
{
	struct cv_nfs4_owner *owners[] = { q->v4.open_owner, q->v4.lock_owner };
	struct cv_nfs4 *v4 = q->nfs->v4;
	/* The last operation that was carried out has the compound's status, those before were
	 * successful. */
	bool counted = ops > q->v4.numbered || (ops == q->v4.numbered && is_counted(compound));

	v4->on_wire--;
	if (q->v4.numbered && status < 0 && status != -ECANCELED)
		v4->unsure = true;
	for (size_t i = 0; q->v4.numbered && i < CV_ARRAY_SIZE(owners); i++) {
		if (!owners[i])
			continue;
		owners[i]->busy = false;
		if (status == 0 && counted)
			owners[i]->seq++;
	}
	q->v4.numbered = 0;
	q->v4.open_owner = q->v4.lock_owner = NULL;
	if (v4->draining && v4->on_wire == 0)
		cv_nfs4_recover_drained(v4);
}

/* ---- the client ---- */

bool cv_nfs40_is_lost(struct cv_nfs_req *q, uint32_t status)
{
	switch (status) {
	case CV_NFS4ERR_STALE_CLIENTID:
	case CV_NFS4ERR_STALE_STATEID:
	case CV_NFS4ERR_EXPIRED:
	case CV_NFS4ERR_BAD_SEQID:
		return true;
	case CV_NFS4ERR_BAD_STATEID:
	case CV_NFS4ERR_OLD_STATEID:
	case CV_NFS4ERR_ADMIN_REVOKED:
		/* Not that of a CLOSE: what is not there is closed. */
		return q->v4.recovers || q->v4.open || q->v4.lock || q->v4.made;
	default:
		return false;
	}
}

static void send_setclientid(struct cv_nfs_req *q)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_call c;

	cv_nfs4_begin(&c, 0, NULL);
	cv_nfs4_put_setclientid(&c, &v4->verifier, v4->client);
	cv_nfs4_submit_bare(q, &c);
}

static void send_confirm_client(struct cv_nfs_req *q)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_call c;

	cv_nfs4_begin(&c, 0, NULL);
	cv_nfs4_put_setclientid_confirm(&c, v4->clientid, v4->confirm);
	cv_nfs4_submit_bare(q, &c);
}

static void got_confirm_client(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4 *v4 = q->nfs->v4;

	(void)x;
	if (status < 0) {
		cv_nfs40_begin_recovery(q); /* it has restarted once more */
		cv_nfs4_recover_later(q, status);
		return;
	}
	cv_notice("the NFS server has restarted, or the lease was lost: open files are claimed "
		  "again");
	v4->unsure = false;
	v4->nidle = 0;
	v4->renewed_ns = cv_loop_now_ns(v4->nfs->loop);
	cv_nfs4_lose_all(v4);
	q->again = true; /* locks are claimed, not new */
	cv_nfs4_reopen_next(q);
}

static void got_setclientid(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4 *v4 = q->nfs->v4;

	if (status == 0 && !cv_nfs4_get_setclientid(x, &v4->clientid, v4->confirm))
		status = -EIO;
	if (status < 0)
		cv_nfs4_recover_later(q, status);
	else
		cv_nfs_step(q, send_confirm_client, got_confirm_client);
}

void cv_nfs40_begin_recovery(struct cv_nfs_req *q)
{
	q->nfs->v4->verifier++;
	q->send = send_setclientid;
	q->got = got_setclientid;
}

/* ---- confirming an open ---- */

static void send_open_confirm(struct cv_nfs_req *q, struct cv_nfs4_open *open)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start_owned(q, &c, &open->owner, NULL))
		return;
	cv_nfs4_put_fh(&c, &open->handle);
	cv_nfs4_put_open_confirm(&c, &open->stateid, &open->owner);
	cv_nfs4_submit(q, &c);
}

/* Returns 0 or -EIO. */
static int take_confirmed(struct cv_nfs4_open *open, struct cv_xdr *x)
{
	(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
	(void)cv_nfs4_skip(x, CV_NFS4_OPEN_CONFIRM);
	cv_nfs4_get_stateid(x, &open->stateid);
	if (x->bad)
		return -EIO;
	open->owner.confirmed = true;
	return 0;
}

/* ---- opens that are lost ---- */

/* Locks cannot be had without state; what was done under one must not be gone on with. */
static void go_on_without_state(struct cv_nfs4 *v4, struct cv_nfs4_open *open)
{
	open->owner.confirmed = false;
	if (cv_nfs4_is_locked(v4, open)) {
		cv_nfs4_reopened(v4, open, -EIO);
		return;
	}
	open->stateless = true;
	open->stateid = cv_nfs4_anonymous;
	cv_nfs4_reopened(v4, open, 0);
}

static void send_reconfirm(struct cv_nfs_req *q)
{
	struct cv_nfs4_open *open = q->nfs->v4->reopening;

	if (open)
		send_open_confirm(q, open);
	else
		cv_nfs4_reopen_next(q);
}

static void got_reconfirm(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4_open *open = q->nfs->v4->reopening;

	if (cv_nfs4_recovery_ends(q, status))
		return;
	if (open && status == 0)
		status = take_confirmed(open, x);
	if (open && status == 0)
		cv_nfs4_reopened(q->nfs->v4, open, 0);
	else if (open)
		go_on_without_state(q->nfs->v4, open);
	cv_nfs4_reopen_next(q);
}

void cv_nfs40_send_reopen(struct cv_nfs_req *q)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_open *open = v4->reopening;
	struct cv_nfs4_call c;

	if (open && !open->reclaim && !open->place) {
		go_on_without_state(v4, open);
		open = NULL;
	}
	if (!open) {
		cv_nfs4_reopen_next(q);
		return;
	}
	if (!cv_nfs4_start_owned(q, &c, &open->owner, NULL))
		return;
	if (open->reclaim) {
		cv_nfs4_put_fh(&c, &open->handle);
		cv_nfs4_put_open_reclaim(&c, open->share, &open->owner);
	} else {
		cv_nfs4_put_fh(&c, &open->place->dir);
		cv_nfs4_put_open_name(&c, open->share, &open->owner, open->place->name);
	}
	cv_nfs4_put_op(&c, CV_NFS4_GETFH);
	cv_nfs4_submit(q, &c);
}

/* Another file of that name is left to be forgotten: no new owner is confirmed by itself. */
void cv_nfs40_got_reopen(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_open *open = v4->reopening;
	struct cv_nfs4_stateid stateid = { 0 };
	struct cv_handle handle;
	bool confirm = false;
	uint64_t ignored;

	if (cv_nfs4_recovery_ends(q, status))
		return;
	if (open && status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_OPEN);
		confirm = cv_nfs4_get_open(x, &stateid, &ignored);
		if (!cv_nfs4_get_fh(x, &handle))
			status = -EIO;
		else if (!cv_nfs_same_handle(&handle, &open->handle))
			status = -ENOENT;
	}
	if (open && status == 0) {
		open->stateid = stateid;
		open->stateless = false;
		if (confirm) {
			cv_nfs_step(q, send_reconfirm, got_reconfirm);
			return;
		}
		open->owner.confirmed = true;
		cv_nfs4_reopened(v4, open, 0);
	} else if (open && open->reclaim) {
		open->reclaim = false; /* no grace, or it does not remember us: like a new one */
	} else if (open) {
		go_on_without_state(v4, open);
	}
	cv_nfs4_reopen_next(q);
}

/* ---- places ---- */

bool cv_nfs40_set_place(struct cv_nfs4_open *open, const struct cv_handle *dir, const char *name)
{
	if (!open->place)
		open->place = malloc(sizeof(*open->place));
	if (!open->place)
		return false;
	open->place->dir = *dir;
	return cv_strcpy(open->place->name, sizeof(open->place->name), name);
}

void cv_nfs40_renamed(struct cv_nfs4 *v4, const struct cv_handle *dir, const char *name,
		      const struct cv_handle *newdir, const char *newname)
{
	if (v4->minor > 0)
		return;
	for (struct cv_nfs4_open *o = v4->opens; o; o = o->next) {
		if (o->place && cv_nfs_same_handle(&o->place->dir, dir) &&
		    cv_str_eq(o->place->name, name))
			(void)cv_nfs40_set_place(o, newdir, newname);
	}
}

/* ---- opening ----
 *
 * A recovery between two steps takes q->v4.made's state away: it is opened again then.
 */

static void send_open(struct cv_nfs_req *q);
static void got_open(struct cv_nfs_req *q, int status, struct cv_xdr *x);

static bool made_is_lost(const struct cv_nfs_req *q)
{
	return q->v4.made->owner.clientid != q->nfs->v4->clientid;
}

static void send_confirm(struct cv_nfs_req *q)
{
	struct cv_nfs4_open *made = q->v4.made;

	if (made_is_lost(q)) {
		q->obj = made->handle;
		cv_nfs_step(q, send_open, got_open);
		return;
	}
	send_open_confirm(q, made);
}

static void got_confirm(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == 0)
		status = take_confirmed(q->v4.made, x);
	if (status < 0)
		cv_nfs_finish(q, status);
	else
		q->then(q);
}

void cv_nfs40_settle(struct cv_nfs_req *q, bool confirm, void (*then)(struct cv_nfs_req *))
{
	q->then = then;
	q->v4.made->owner.confirmed = !confirm; /* the server may have forgotten an idle one */
	if (confirm)
		cv_nfs_step(q, send_confirm, got_confirm);
	else
		then(q);
}

static void send_truncate(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (made_is_lost(q)) {
		cv_nfs_step(q, send_open, got_open);
		return;
	}
	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_truncate(&c, &q->v4.made->stateid);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_submit(q, &c);
}

static void got_truncate(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_SETATTR);
		cv_nfs4_skip_bitmap(x);
		if (!cv_nfs4_take_attr(q, x, &q->op->attr))
			status = -EIO;
	}
	if (status < 0) {
		cv_nfs4_close(q->nfs, cv_steal(&q->v4.made));
		cv_nfs_finish(q, status);
		return;
	}
	cv_nfs4_finish_open(q, &q->obj);
}

/* Nothing is read, written or locked through it so far: the server may forget it and its owner. */
bool cv_nfs40_start_over(struct cv_nfs_req *q, uint32_t status)
{
	struct cv_nfs4_open *made = q->v4.made;

	if (!made || (status != CV_NFS4ERR_BAD_SEQID && status != CV_NFS4ERR_BAD_STATEID &&
		      status != CV_NFS4ERR_OLD_STATEID))
		return false;
	cv_nfs4_new_owner(q->nfs->v4, &made->owner);
	/* What the steps behind OPEN stand on is the former owner's. */
	if (q->send == send_confirm || q->send == send_truncate) {
		q->obj = made->handle;
		q->send = send_open;
		q->got = got_open;
	}
	return true;
}

/* Not in one call with the opening: it could be another file that has the name now. */
static void opened(struct cv_nfs_req *q)
{
	if (cv_nfs4_truncates(q->flags))
		cv_nfs_step(q, send_truncate, got_truncate);
	else
		cv_nfs4_finish_open(q, &q->obj);
}

static void send_open(struct cv_nfs_req *q)
{
	struct cv_nfs4_open *made = q->v4.made;
	struct cv_nfs4_call c;

	if (!cv_nfs4_start_owned(q, &c, &made->owner, NULL))
		return;
	cv_nfs4_put_fh(&c, &q->dir);
	cv_nfs4_put_open_name(&c, made->share, &made->owner, q->name);
	cv_nfs4_put_op(&c, CV_NFS4_GETFH);
	cv_nfs4_put_getattr(&c);
	cv_nfs4_put_first(q, &c);
	cv_nfs4_submit(q, &c);
}

/* The name does not lead to the file any more. */
static bool is_elsewhere(int status)
{
	return status == -ENOENT || status == -ESTALE || status == -ELOOP || status == -EISDIR ||
	       status == -ENOTDIR;
}

static void got_open(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4_open *made = q->v4.made;
	struct cv_op *op = q->op;
	uint64_t ignored;
	bool confirm;

	(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
	(void)cv_nfs4_skip(x, CV_NFS4_OPEN);
	confirm = cv_nfs4_get_open(x, &made->stateid, &ignored);
	status = cv_nfs4_take_first(q, x, status,
				    cv_nfs4_get_fh(x, &made->handle) &&
					    cv_nfs4_take_attr(q, x, &op->attr));
	if (status == 0 && !cv_nfs_same_handle(&made->handle, &q->obj)) {
		if (!confirm) /* else the server forgets it */
			cv_nfs4_close(q->nfs, cv_steal(&q->v4.made));
		status = -ESTALE;
	}
	if (op->repeated && (is_elsewhere(status) || status == -EACCES)) {
		cv_nfs4_open_stateless(q);
		return;
	}
	if (status < 0) {
		cv_nfs_finish(q, is_elsewhere(status) ? -ESTALE : status);
		return;
	}
	op->have_attr = true;
	op->entry.attr = op->attr; /* create() of what was there */
	cv_nfs40_settle(q, confirm, q->then);
}

void cv_nfs40_open(struct cv_nfs_req *q, const struct cv_handle *dir, const char *name)
{
	if (!dir || !name) {
		cv_nfs4_open_stateless(q);
		return;
	}
	q->then = opened;
	if (dir != &q->dir) {
		q->dir = *dir;
		if (!cv_nfs_set_name(q, q->name, name))
			return;
	}
	if (cv_nfs40_set_place(q->v4.made, &q->dir, q->name))
		cv_nfs_step(q, send_open, got_open);
	else
		cv_nfs_finish(q, -ENOMEM);
}
