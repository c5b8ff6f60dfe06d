/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Client id, session, lease; and recovery. A recovery is one request that walks through steps while
 * all others wait: EXCHANGE_ID, CREATE_SESSION, then each open that was lost, then
 * RECLAIM_COMPLETE. Whether the server still has our state, EXCHANGE_ID says. In minor version 0
 * (nfs40.c) SETCLIENTID takes the place of the first two, and nothing that of the last.
 */
#include "backends/nfs4.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"

#define GOODBYE_NS	1000000000ull
#define GOODBYE_TURN_MS 20
#define LEASE_S_MIN	3 /* what servers say is trusted within reason */
#define LEASE_S_MAX	3600

static const struct cv_cred machine; /* root: client and session are the mount's, not a user's */

struct cv_nfs4_channel cv_nfs4_wanted_channel(void)
{
	return (struct cv_nfs4_channel){
		.max_request = CV_MAX_IO + CV_NFS4_OVERHEAD + CV_NFS_ARGS_MAX,
		.max_response = CV_RPC_REPLY_MAX - CV_NFS4_OVERHEAD,
		.max_cached = 8192, /* a creation's answer: two handles, three sets of attributes */
		.max_ops = 16,
		.max_slots = CV_NFS4_SLOTS_MAX,
	};
}

/* ---- lease ---- */

static void renewed(struct cv_op *op, ssize_t result)
{
	struct cv_nfs4 *v4 = cv_container_of(op, struct cv_nfs4, renew_op);

	(void)result; /* what it found, it has set in motion */
	v4->renewing = false;
}

static void send_renew(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	if (c.minor == 0)
		cv_nfs4_put_renew(&c, q->nfs->v4->clientid);
	cv_nfs4_submit(q, &c);
}

static void got_renew(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)x;
	if (status == 0)
		q->nfs->v4->renewed_ns = cv_loop_now_ns(q->nfs->loop);
	cv_nfs_finish(q, status);
}

static void renew_fire(struct cv_timer *timer)
{
	struct cv_nfs4 *v4 = cv_container_of(timer, struct cv_nfs4, renew);
	uint64_t now = cv_loop_now_ns(v4->nfs->loop), period_ns = v4->lease_ms / 3 * 1000000ull;
	struct cv_nfs_req *q;

	(void)cv_timer_set(v4->nfs->loop, &v4->renew, v4->lease_ms / 6);
	if (v4->renewing || v4->recovering || now - v4->renewed_ns < period_ns / 2)
		return;
	v4->renewing = true;
	cv_op_init(&v4->renew_op, renewed, &machine);
	q = cv_nfs_req_new(v4->nfs, &v4->renew_op);
	if (q)
		cv_nfs_step(q, send_renew, got_renew);
}

int cv_nfs4_start_renewing(struct cv_nfs4 *v4)
{
	if (v4->lease_ms < LEASE_S_MIN * 1000)
		v4->lease_ms = LEASE_S_MIN * 1000;
	if (v4->lease_ms > LEASE_S_MAX * 1000)
		v4->lease_ms = LEASE_S_MAX * 1000;
	v4->renewed_ns = cv_now_ns();
	return cv_timer_set(v4->nfs->loop, &v4->renew, v4->lease_ms / 6);
}

/* ---- recovery ---- */

static void send_exchange_id(struct cv_nfs_req *q);
static void got_exchange_id(struct cv_nfs_req *q, int status, struct cv_xdr *x);

bool cv_nfs4_recovery_ends(struct cv_nfs_req *q, int status)
{
	if (status == 0 || q->v4.status)
		return false;
	cv_nfs_finish(q, status);
	return true;
}

void cv_nfs4_recover_later(struct cv_nfs_req *q, int status)
{
	if (!cv_nfs4_recovery_ends(q, status))
		cv_nfs_wait(q);
}

void cv_nfs4_lose_all(struct cv_nfs4 *v4)
{
	for (struct cv_nfs4_open *o = v4->opens; o; o = o->next) {
		o->lost = true;
		o->reclaim = true;
	}
}

static void send_create_session(struct cv_nfs_req *q)
{
	const struct cv_nfs4_channel wanted = cv_nfs4_wanted_channel();
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_call c;

	cv_nfs4_begin(&c, 1, NULL);
	cv_nfs4_put_create_session(&c, v4->clientid, (uint32_t)q->size, &wanted);
	cv_nfs4_submit_bare(q, &c);
}

static void got_create_session(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4 *v4 = q->nfs->v4;

	if (status < 0 || !cv_nfs4_get_create_session(x, v4->session, &v4->channel)) {
		/* STALE_CLIENTID: it has restarted once more. */
		q->send = send_exchange_id;
		q->got = got_exchange_id;
		cv_nfs4_recover_later(q, status < 0 ? status : -EIO);
		return;
	}
	cv_nfs4_reset_slots(v4);
	cv_nfs4_reopen_next(q);
}

static void send_exchange_id(struct cv_nfs_req *q)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_call c;

	cv_nfs4_begin(&c, 1, NULL);
	cv_nfs4_put_exchange_id(&c, &v4->verifier, v4->client);
	cv_nfs4_submit_bare(q, &c);
}

static void got_exchange_id(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_client client;

	if (status < 0 || !cv_nfs4_get_exchange_id(x, &client)) {
		cv_nfs4_recover_later(q, status < 0 ? status : -EIO);
		return;
	}
	if (!client.confirmed || client.id != v4->clientid) {
		cv_notice("the NFS server has restarted: open files are claimed again");
		cv_nfs4_lose_all(v4);
		q->again = true; /* RECLAIM_COMPLETE will be due */
	}
	v4->clientid = client.id;
	q->size = client.seq;
	cv_nfs_step(q, send_create_session, got_create_session);
}

static void send_reopen(struct cv_nfs_req *q)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_open *open = v4->reopening;
	struct cv_nfs4_call c;

	if (!open) { /* closed in the meantime */
		cv_nfs4_reopen_next(q);
		return;
	}
	if (!cv_nfs4_start_owned(q, &c, &open->owner, NULL))
		return;
	cv_nfs4_put_fh(&c, &open->handle);
	if (open->reclaim)
		cv_nfs4_put_open_reclaim(&c, open->share, &open->owner);
	else
		cv_nfs4_put_open(&c, open->share, &open->owner);
	cv_nfs4_submit(q, &c);
}

void cv_nfs4_reopened(struct cv_nfs4 *v4, struct cv_nfs4_open *open, int dead)
{
	open->lost = open->reclaim = false;
	open->dead = dead;
	open->epoch++;
	cv_nfs4_locks_lost(v4, open);
	if (dead)
		cv_error("an open file is lost: the server restarted and does not give it back: %s",
			 cv_strerror(dead));
}

static void got_reopen(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4_open *open = q->nfs->v4->reopening;
	struct cv_nfs4_stateid stateid;
	uint64_t ignored;

	if (cv_nfs4_recovery_ends(q, status))
		return;
	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_get_op(x, CV_NFS4_OPEN);
		cv_nfs4_get_open(x, &stateid, &ignored);
		if (x->bad)
			status = -EIO;
	}
	if (open && status == 0) {
		open->stateid = stateid;
		cv_nfs4_reopened(q->nfs->v4, open, 0);
	} else if (open && open->reclaim) {
		open->reclaim = false; /* no grace, or it does not remember us: like a new one */
	} else if (open) {
		cv_nfs4_reopened(q->nfs->v4, open, status);
	}
	cv_nfs4_reopen_next(q);
}

static void send_complete(struct cv_nfs_req *q)
{
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, true))
		return;
	cv_nfs4_put_reclaim_complete(&c);
	cv_nfs4_submit(q, &c);
}

static void got_complete(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)x;
	cv_nfs_finish(q, q->v4.status ? 0 : status);
}

/* Opens that can be claimed come first: what is opened like new must wait for the grace's end. */
static struct cv_nfs4_open *find_lost(const struct cv_nfs4 *v4, bool reclaim)
{
	for (struct cv_nfs4_open *o = v4->opens; o; o = o->next) {
		if (o->lost && o->reclaim == reclaim)
			return o;
	}
	return NULL;
}

bool cv_nfs4_find_lost(const struct cv_nfs4 *v4)
{
	return find_lost(v4, false) || find_lost(v4, true);
}

void cv_nfs4_reopen_next(struct cv_nfs_req *q)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_open *open = find_lost(v4, true);

	q->delay_ms = 0;
	v4->relocking = open ? NULL : cv_nfs4_lock_find_lost(v4);
	if (v4->relocking) {
		q->op->cred = &v4->relocking->open->cred;
		cv_nfs4_relock(q, q->again, cv_nfs4_reopen_next);
		return;
	}
	if (!open && q->again) {
		q->again = false;
		q->op->cred = &machine;
		if (v4->minor > 0) {
			cv_nfs_step(q, send_complete, got_complete);
			return;
		}
	}
	if (!open)
		open = find_lost(v4, false);
	v4->reopening = open;
	if (!open) {
		cv_nfs_finish(q, 0);
		return;
	}
	q->op->cred = &open->cred;
	if (v4->minor > 0)
		cv_nfs_step(q, send_reopen, got_reopen);
	else
		cv_nfs_step(q, cv_nfs40_send_reopen, cv_nfs40_got_reopen);
}

static void recovered(struct cv_op *op, ssize_t result)
{
	struct cv_nfs4 *v4 = cv_container_of(op, struct cv_nfs4, recovery_op);

	v4->recovering = v4->draining = false;
	v4->recovery = NULL;
	v4->reopening = NULL;
	v4->relocking = NULL;
	if (result == -ECANCELED)
		return;
	if (result < 0) {
		cv_nfs4_fail_waiting(v4, (int)result);
		return;
	}
	/* Lost again, or RECLAIM_COMPLETE came in between: what is left is opened like new. */
	if (cv_nfs4_find_lost(v4) || cv_nfs4_lock_find_lost(v4))
		cv_nfs4_recover(v4, false);
	else
		cv_nfs4_pump(v4);
}

static void begin_client(struct cv_nfs_req *q)
{
	if (q->nfs->v4->minor == 0) {
		cv_nfs40_begin_recovery(q);
	} else {
		q->send = send_exchange_id;
		q->got = got_exchange_id;
	}
}

/*
 * Minor version 0 numbers the calls of each owner: an answer to what was asked before must not
 * meddle with what is had anew. So it waits for all that is on its way.
 */
void cv_nfs4_recover_drained(struct cv_nfs4 *v4)
{
	v4->draining = false;
	begin_client(v4->recovery);
	v4->recovery->send(v4->recovery);
}

void cv_nfs4_recover(struct cv_nfs4 *v4, bool session)
{
	struct cv_nfs_req *q;

	if (v4->recovering)
		return;
	v4->recovering = true;
	cv_op_init(&v4->recovery_op, recovered, &machine);
	q = cv_nfs_req_new(v4->nfs, &v4->recovery_op);
	if (!q)
		return;
	q->v4.recovers = true;
	v4->recovery = q;
	v4->draining = v4->minor == 0 && v4->on_wire > 0;
	if (v4->draining)
		return;
	if (session || v4->minor == 0) {
		begin_client(q);
		q->send(q);
	} else {
		cv_nfs4_reopen_next(q);
	}
}

void cv_nfs4_recover_again(struct cv_nfs_req *q)
{
	q->v4.slot = -1;
	q->op->cred = &machine;
	q->nfs->v4->reopening = NULL;
	q->nfs->v4->relocking = NULL;
	begin_client(q);
	cv_nfs_wait(q);
}

/* ---- life ---- */

/*
 * A successor is the same client after a restart, to the server: what its predecessor had open and
 * locked goes at once, not with the lease, and is free to be had anew.
 */
#define IDENTITY      "NFSv4.%u %016" PRIx64
#define IDENTITY_SCAN "NFSv4.%*u %16" SCNx64

void cv_nfs4_say_identity(const struct cv_nfs4 *v4, char *ret, size_t size)
{
	(void)snprintf(ret, size, IDENTITY, v4->minor, v4->id);
}

struct cv_nfs4 *cv_nfs4_new(struct cv_nfs *nfs, const char *resume)
{
	struct cv_nfs4 *v4 = calloc(1, sizeof(*v4));
	uint64_t unique[2];
	char host[48] = "";

	if (!v4)
		return NULL;
	v4->owners = cv_owners_new("/etc/passwd", "/etc/group");
	if (!v4->owners) {
		free(v4);
		return NULL;
	}
	v4->nfs = nfs;
	v4->minor = 1;
	v4->names = (struct cv_nfs4_names){ .uid = cv_owners_uid,
					    .gid = cv_owners_gid,
					    .arg = v4->owners };
	v4->renew = (struct cv_timer)CV_TIMER_INIT(renew_fire);
	v4->waiting_tail = &v4->waiting;
	if (getrandom(unique, sizeof(unique), 0) < 0)
		unique[0] = unique[1] = cv_now_ns();
	if (!resume || sscanf(resume, IDENTITY_SCAN, &v4->id) != 1)
		v4->id = unique[0];
	v4->verifier = unique[1];
	(void)gethostname(host, sizeof(host) - 1);
	/* Each mount is a client of its own, so that mounts of one host exclude each other, too. */
	(void)snprintf(v4->client, sizeof(v4->client), "cvol %s %016" PRIx64, host, v4->id);
	return v4;
}

static void said(struct cv_op *op, ssize_t result)
{
	(void)result;
	op->engine = NULL;
}

static void send_destroy(struct cv_nfs_req *q)
{
	struct cv_nfs4 *v4 = q->nfs->v4;
	struct cv_nfs4_call c;

	cv_nfs4_begin(&c, 1, NULL);
	if (q->flags)
		cv_nfs4_put_destroy_clientid(&c, v4->clientid);
	else
		cv_nfs4_put_destroy_session(&c, v4->session);
	cv_nfs4_submit_bare(q, &c);
}

static void got_destroy(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	(void)x;
	if (status == 0 && !q->flags) {
		q->flags = 1;
		cv_nfs_step(q, send_destroy, got_destroy);
		return;
	}
	cv_nfs_finish(q, status); /* the lease ends it otherwise */
}

void cv_nfs4_say_goodbye(struct cv_nfs4 *v4)
{
	struct cv_nfs *nfs = v4->nfs;
	uint64_t until = cv_now_ns() + GOODBYE_NS;
	struct cv_rpc_stats stats;
	struct cv_op *op = &v4->goodbye_op; /* outlives this function: a server may not answer */
	struct cv_nfs_req *q;

	cv_timer_cancel(nfs->loop, &v4->renew);
	if (!nfs->rpc)
		return;
	cv_rpc_stats(nfs->rpc, &stats);
	if (!stats.connected || v4->recovering)
		return;
	while ((v4->own || v4->renewing) && cv_now_ns() < until)
		(void)cv_loop_turn(nfs->loop, GOODBYE_TURN_MS);
	if (v4->minor == 0)
		return; /* it has nothing for it: the lease ends the rest */
	cv_op_init(op, said, &machine);
	op->engine = v4;
	q = cv_nfs_req_new(nfs, op);
	if (!q)
		return;
	q->flags = 0;
	cv_nfs_step(q, send_destroy, got_destroy);
	while (op->engine && cv_now_ns() < until)
		(void)cv_loop_turn(nfs->loop, GOODBYE_TURN_MS);
}

void cv_nfs4_free(struct cv_nfs4 *v4)
{
	if (!v4)
		return;
	if (v4->recovery) { /* it waits for its next try */
		cv_timer_cancel(v4->nfs->loop, &v4->recovery->delay);
		cv_nfs_finish(v4->recovery, -ECANCELED);
	}
	/* There is no transport any more: whom they make room for waits, and ends, too. */
	v4->recovering = true;
	while (v4->waiting)
		cv_nfs4_fail_waiting(v4, -ECANCELED);
	cv_nfs4_locks_free(v4);
	cv_owners_free(v4->owners);
	free(v4);
}
