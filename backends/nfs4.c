/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/nfs4.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/log.h"

#define REPAIRS_MAX 8 /* state found lost, one time after the other */

/* ---- slots ---- */

void cv_nfs4_reset_slots(struct cv_nfs4 *v4)
{
	memset(v4->slots, 0, sizeof(v4->slots));
	for (uint32_t i = 0; i < CV_NFS4_SLOTS_MAX; i++)
		v4->slots[i].seq = 1;
	v4->nslots = v4->channel.max_slots < CV_NFS4_SLOTS_MAX ? v4->channel.max_slots
							       : CV_NFS4_SLOTS_MAX;
	v4->limit = v4->nslots;
	v4->session_nr++;
}

/* The lowest, so that the server may forget the others. */
static int take_slot(struct cv_nfs4 *v4)
{
	for (uint32_t i = 0; i < v4->limit; i++) {
		struct cv_nfs4_slot *slot = &v4->slots[i];

		if (!slot->busy && !slot->retired) {
			slot->busy = true;
			return (int)i;
		}
	}
	return -1;
}

static uint32_t highest_slot(const struct cv_nfs4 *v4)
{
	for (uint32_t i = v4->nslots; i-- > 0;) {
		if (v4->slots[i].busy)
			return i;
	}
	return 0;
}

enum outcome {
	USED,	/* the server has counted the call */
	UNKNOWN /* perhaps: the slot cannot be used again */
};

static void release_slot(struct cv_nfs_req *q, enum outcome outcome)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	int i = q->v4.slot;

	q->v4.slot = -1;
	if (i < 0 || q->v4.session != v4->session_nr)
		return;
	v4->slots[i].busy = false;
	if (outcome == USED)
		v4->slots[i].seq++;
	else
		v4->slots[i].retired = true;
	/* Not a single one left: calls were given up on all of them. A new session has new ones. */
	for (uint32_t s = 0; s < v4->nslots; s++) {
		if (!v4->slots[s].retired)
			return;
	}
	cv_nfs4_recover(v4, true);
}

void cv_nfs4_drop_slot(struct cv_nfs_req *q)
{
	release_slot(q, UNKNOWN);
}

/* ---- waiting ---- */

static void wait_in_line(struct cv_nfs_req *q)
{
	struct cv_nfs4 *v4 = q->nfs->v4;

	q->next = NULL;
	*v4->waiting_tail = q;
	v4->waiting_tail = &q->next;
	v4->nwaiting++;
}

static struct cv_nfs_req *next_in_line(struct cv_nfs4 *v4)
{
	struct cv_nfs_req *q = v4->waiting;

	if (q) {
		v4->waiting = q->next;
		if (!v4->waiting)
			v4->waiting_tail = &v4->waiting;
		v4->nwaiting--;
	}
	return q;
}

static bool may_go(const struct cv_nfs4 *v4)
{
	if (v4->recovering)
		return false;
	if (v4->minor == 0)
		return true; /* what the transport sends at a time is bounded */
	for (uint32_t i = 0; i < v4->limit; i++) {
		if (!v4->slots[i].busy && !v4->slots[i].retired)
			return true;
	}
	return false;
}

void cv_nfs4_pump(struct cv_nfs4 *v4)
{
	/* Each once: those whose owner is busy get in line again. */
	for (size_t n = v4->nwaiting; n && v4->waiting && may_go(v4); n--) {
		struct cv_nfs_req *q = next_in_line(v4);

		q->send(q);
	}
}

void cv_nfs4_fail_waiting(struct cv_nfs4 *v4, int result)
{
	struct cv_nfs_req *q = v4->waiting;

	v4->waiting = NULL; /* what they begin in turn waits in a line of its own */
	v4->waiting_tail = &v4->waiting;
	v4->nwaiting = 0;
	while (q) {
		struct cv_nfs_req *next = q->next;

		cv_nfs_finish(q, result);
		q = next;
	}
}

/* ---- sending ---- */

/*
 * Does the compound do something that is done for good? Opens and locks are not: they end with the
 * client that a successor replaces.
 */
static bool lasts(const struct cv_nfs_req *q)
{
	const unsigned changes = 1u << CV_CALL_SETATTR | 1u << CV_CALL_MKNOD | 1u << CV_CALL_MKDIR |
				 1u << CV_CALL_SYMLINK | 1u << CV_CALL_LINK | 1u << CV_CALL_UNLINK |
				 1u << CV_CALL_RMDIR | 1u << CV_CALL_RENAME | 1u << CV_CALL_CREATE |
				 1u << CV_CALL_WRITE;
	unsigned call = 1u << q->op->call;

	return call & changes || (call & 1u << CV_CALL_OPEN && q->flags & O_TRUNC);
}

bool cv_nfs4_start(struct cv_nfs_req *q, struct cv_nfs4_call *c, bool cache)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_seq seq = { .cache = cache };

	if (q->v4.open && q->v4.open->dead) {
		cv_nfs_finish(q, q->v4.open->dead);
		return false;
	}
	if (q->v4.session != v4->session_nr)
		q->v4.slot = -1; /* of a session that is gone */
	if (v4->minor == 0 && v4->unsure && !v4->recovering)
		cv_nfs4_recover(v4, true);
	if (v4->recovering && !q->v4.recovers) {
		wait_in_line(q);
		return false;
	}
	if (v4->minor == 0) {
		if (!cv_nfs40_may_start(q)) {
			wait_in_line(q);
			return false;
		}
		q->call.replay = NULL; /* no session that outlives us */
		cv_nfs4_begin(c, 0, NULL);
		return true;
	}
	if (q->v4.slot < 0)
		q->v4.slot = take_slot(v4);
	if (q->v4.slot < 0) {
		wait_in_line(q);
		return false;
	}
	q->v4.session = v4->session_nr;
	if (q->v4.open)
		q->v4.open_epoch = q->v4.open->epoch;
	memcpy(seq.session, v4->session, sizeof(seq.session));
	seq.slot = (uint32_t)q->v4.slot;
	seq.seq = v4->slots[seq.slot].seq;
	seq.highest = highest_slot(v4);
	q->call.replay = cache && q->op->replay && lasts(q) ? q->op->replay : NULL;
	q->call.replay_id = q->op->id;
	cv_nfs4_begin(c, 1, &seq);
	return true;
}

bool cv_nfs4_start_owned(struct cv_nfs_req *q, struct cv_nfs4_call *c,
			 struct cv_nfs4_owner *open_owner, struct cv_nfs4_owner *lock_owner)
{
	const struct cv_nfs4 *v4 = q->nfs->v4;

	q->v4.open_owner = open_owner;
	q->v4.lock_owner = lock_owner;
	/* What is read along does not fit into what the server keeps for a repetition. Such an open
	 * may be carried out twice: it is still one, the owner's. */
	if (!cv_nfs4_start(q, c, q->first_size == 0))
		return false;
	if (open_owner)
		open_owner->clientid = v4->clientid;
	if (lock_owner)
		lock_owner->clientid = v4->clientid;
	return true;
}

/* The slot was not used after all. */
static void return_slot(struct cv_nfs_req *q)
{
	if (q->v4.slot >= 0 && q->v4.session == q->nfs->v4->session_nr)
		q->nfs->v4->slots[q->v4.slot].busy = false;
	q->v4.slot = -1;
}

static void carried_out(struct cv_nfs_req *q, uint32_t status, struct cv_xdr *x);

/*
 * A predecessor's transmission has got its answer: exactly once, so that a refusal is one. What it
 * opened has ended with the predecessor, and is opened anew.
 */
static bool answered_before(struct cv_nfs_req *q, const struct cv_nfs4_call *c)
{
	const struct cv_rpc_part parts[] = {
		{ CV_NFS4_SEQ_AT, CV_NFS4_SEQ_SIZE },
		{ c->owner_at, c->owner_at ? CV_NFS4_OWNER_SIZE : 0 },
	};
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_seq_reply ignored;
	const uint8_t *reply;
	uint32_t compound;
	struct cv_xdr x;
	size_t size;

	if (!q->op->repeated)
		return false;
	reply = cv_rpc_replayed(q->nfs->rpc, q->call.replay, q->op->id, CV_NFS4_COMPOUND,
				cv_nfs_cred(q), c->a.bytes, c->a.size, parts, CV_ARRAY_SIZE(parts),
				&size);
	if (!reply)
		return false;
	return_slot(q);
	x = cv_xdr_init(reply, size);
	compound = cv_nfs4_get_compound(&x, NULL);
	(void)cv_nfs4_get_op(&x, CV_NFS4_SEQUENCE);
	cv_nfs4_get_sequence(&x, &ignored);
	q->resent = false;
	if (q->v4.made)
		q->v4.made->lost = true;
	carried_out(q, compound, &x);
	if (cv_nfs4_find_lost(v4))
		cv_nfs4_recover(v4, false);
	cv_nfs4_pump(v4);
	return true;
}

static void submit(struct cv_nfs_req *q, struct cv_nfs4_call *c,
		   void (*done)(struct cv_rpc_call *, int, const uint8_t *, size_t))
{
	int r = -ENAMETOOLONG;

	cv_nfs4_end(c);
	q->call.done = done;
	if (c->a.size && q->call.replay && answered_before(q, c))
		return;
	if (c->a.size)
		r = cv_rpc_submit(q->nfs->rpc, &q->call, CV_NFS4_COMPOUND, cv_nfs_cred(q),
				  c->a.bytes, c->a.size);
	if (r == 0) {
		if (c->minor == 0)
			cv_nfs40_sent(q, c);
		return;
	}
	return_slot(q);
	cv_nfs_finish(q, r);
}

/* ---- answers ---- */

/* The same again, as a new call, which may find what an earlier one has done. Under a storm of lost
 * connections that may be so many times. */
static void send_again(struct cv_nfs_req *q)
{
	if (++q->v4.repairs > REPAIRS_MAX)
		cv_nfs_wait(q);
	else
		q->send(q);
}

/* The server has not carried the call out, for a reason of the session. */
static void refused(struct cv_nfs_req *q, uint32_t status, struct cv_xdr *x)
{
	struct cv_nfs4 *v4 = q->nfs->v4;

	cv_debug("nfs: slot %d: SEQUENCE: status %u", q->v4.slot, status);
	switch (status) {
	case CV_NFS4ERR_DELAY:
		cv_nfs_wait(q); /* with its slot and number: an earlier copy is being worked on */
		return;
	case CV_NFS4ERR_RETRY_UNCACHED:
		release_slot(q, USED);
		send_again(q);
		return;
	case CV_NFS4ERR_SEQ_MISORDERED:
	case CV_NFS4ERR_SEQ_FALSE_RETRY:
		release_slot(q, UNKNOWN);
		send_again(q);
		return;
	case CV_NFS4ERR_BADSESSION:
	case CV_NFS4ERR_DEADSESSION:
	case CV_NFS4ERR_CONN_NOT_BOUND:
	case CV_NFS4ERR_STALE_CLIENTID:
	case CV_NFS4ERR_EXPIRED:
	case CV_NFS4ERR_BADSLOT:
	case CV_NFS4ERR_BAD_HIGH_SLOT:
		if (q->v4.recovers) {
			cv_nfs4_recover_again(q);
			return;
		}
		if (q->v4.session == v4->session_nr)
			cv_nfs4_recover(v4, true);
		q->v4.slot = -1;
		send_again(q);
		return;
	default:
		release_slot(q, UNKNOWN);
		q->got(q, cv_nfs4_errno(status), x);
		return;
	}
}

bool cv_nfs4_state_is_lost(uint32_t status)
{
	return status == CV_NFS4ERR_BAD_STATEID || status == CV_NFS4ERR_STALE_STATEID ||
	       status == CV_NFS4ERR_EXPIRED || status == CV_NFS4ERR_ADMIN_REVOKED ||
	       status == CV_NFS4ERR_DELEG_REVOKED;
}

bool cv_nfs4_is_final(uint32_t status)
{
	return status != CV_NFS4ERR_DELAY && status != CV_NFS4ERR_GRACE &&
	       status != CV_NFS4ERR_RETRY_UNCACHED && !cv_nfs4_state_is_lost(status);
}

/* The open is not what it was: it is opened anew, unless that has happened since, then used again.
 */
static void repair_open(struct cv_nfs_req *q, struct cv_xdr *x)
{
	struct cv_nfs4_open *open = q->v4.open;

	if (q->v4.repairs >= REPAIRS_MAX) {
		q->got(q, -EIO, x); /* given and denied in turn */
		return;
	}
	if (open->epoch == q->v4.open_epoch) {
		open->lost = true;
		cv_nfs4_recover(q->nfs->v4, false);
	}
	send_again(q);
}

/* Minor version 0: we start as a new client, and all is had again. */
static void lost_client(struct cv_nfs_req *q, uint32_t status, struct cv_xdr *x)
{
	cv_debug("nfs: state is lost: status %u", status);
	if (q->v4.recovers) {
		cv_nfs4_recover_again(q);
		return;
	}
	if (q->v4.repairs >= REPAIRS_MAX) {
		q->got(q, -EIO, x);
		return;
	}
	if (!cv_nfs40_start_over(q, status))
		cv_nfs4_recover(q->nfs->v4, true);
	send_again(q);
}

static void carried_out(struct cv_nfs_req *q, uint32_t status, struct cv_xdr *x)
{
	q->v4.status = status;
	if (status == CV_NFS4ERR_DELAY || status == CV_NFS4ERR_GRACE)
		cv_nfs_wait(q);
	else if (status == CV_NFS4ERR_RETRY_UNCACHED) /* here or as SEQUENCE's own: 2.10.6.1.3 */
		send_again(q);
	else if (q->nfs->v4->minor == 0 && cv_nfs40_is_lost(q, status))
		lost_client(q, status, x);
	else if (cv_nfs4_state_is_lost(status) && q->v4.open && !q->v4.recovers)
		repair_open(q, x);
	else
		q->got(q, cv_nfs4_errno(status), x);
}

static void follow_server(struct cv_nfs4 *v4, const struct cv_nfs4_seq_reply *r)
{
	v4->renewed_ns = cv_loop_now_ns(v4->nfs->loop);
	v4->limit =
		r->target + 1 < v4->nslots && r->target != UINT32_MAX ? r->target + 1 : v4->nslots;
}

static void answered(struct cv_rpc_call *call, int status, const uint8_t *reply, size_t size)
{
	struct cv_nfs_req *q = cv_container_of(call, struct cv_nfs_req, call);
	struct cv_xdr x = cv_xdr_init(reply, status == 0 ? size : 0);
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_seq_reply seq;
	uint32_t compound, sequence, ops;

	q->v4.status = 0;
	q->resent = q->resent_before = q->resent_before || call->resent || q->op->repeated;
	compound = cv_nfs4_get_compound(&x, &ops);
	if (v4->minor == 0) {
		if (status == 0 && x.bad)
			status = -EIO;
		cv_nfs40_answered(q, status, ops, compound);
		if (status == 0)
			carried_out(q, compound, &x);
		else
			q->got(q, status, &x);
		cv_nfs4_pump(v4);
		return;
	}
	if (status < 0) {
		release_slot(q, UNKNOWN);
		q->got(q, status, &x);
		cv_nfs4_pump(v4);
		return;
	}
	sequence = cv_nfs4_get_op(&x, CV_NFS4_SEQUENCE);
	if (!x.bad && sequence == CV_NFS4_OK)
		cv_nfs4_get_sequence(&x, &seq);
	if (x.bad) {
		release_slot(q, UNKNOWN);
		q->got(q, compound ? cv_nfs4_errno(compound) : -EIO, &x);
	} else if (sequence != CV_NFS4_OK) {
		refused(q, sequence, &x);
	} else {
		if (q->v4.session == v4->session_nr)
			follow_server(v4, &seq);
		release_slot(q, USED);
		if (call->replay && cv_nfs4_is_final(compound))
			cv_replay_keep_reply(call->replay, call->replay_id, reply, size);
		carried_out(q, compound, &x);
	}
	cv_nfs4_pump(v4);
}

static void answered_bare(struct cv_rpc_call *call, int status, const uint8_t *reply, size_t size)
{
	struct cv_nfs_req *q = cv_container_of(call, struct cv_nfs_req, call);
	struct cv_xdr x = cv_xdr_init(reply, status == 0 ? size : 0);

	q->v4.status = 0;
	if (q->nfs->v4->minor == 0)
		cv_nfs40_answered(q, status, 0, 0);
	if (status == 0) {
		q->v4.status = cv_nfs4_get_compound(&x, NULL);
		status = x.bad ? -EIO : cv_nfs4_errno(q->v4.status);
	}
	q->got(q, status, &x);
}

void cv_nfs4_submit(struct cv_nfs_req *q, struct cv_nfs4_call *c)
{
	submit(q, c, answered);
}

void cv_nfs4_submit_bare(struct cv_nfs_req *q, struct cv_nfs4_call *c)
{
	q->call.replay = NULL;
	submit(q, c, answered_bare);
}
