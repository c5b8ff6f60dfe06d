/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks between hosts. fcntl(2) and flock(2) both become byte-range locks of the server, flock(2)
 * one of the whole file; what is held is remembered here too, to be claimed again when the server
 * has restarted. There is no callback: who waits asks again, less and less often.
 */
#include "backends/nfs4.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/log.h"

#define POLL_MIN_MS 10
#define POLL_MAX_MS 1000

/* ---- what is held ---- */

static struct cv_nfs4_lock *find(const struct cv_nfs4 *v4, const struct cv_handle *file,
				 const struct cv_lock *lock)
{
	for (struct cv_nfs4_lock *l = v4->locks; l; l = l->next) {
		if (l->kernel_owner == lock->owner && l->flock == lock->flock &&
		    cv_nfs_same_handle(&l->handle, file))
			return l;
	}
	return NULL;
}

static struct cv_nfs4_lock *lock_new(struct cv_nfs4 *v4, const struct cv_handle *file,
				     const struct cv_lock *lock)
{
	struct cv_nfs4_lock *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->handle = *file;
	l->kernel_owner = lock->owner;
	l->flock = lock->flock;
	l->pid = lock->pid;
	l->last = &l->first;
	cv_nfs4_new_owner(v4, &l->owner);
	l->next = v4->locks;
	v4->locks = l;
	return l;
}

/* Nothing is locked, and no request is about it. */
static bool is_idle(const struct cv_nfs4_lock *l)
{
	return !l->busy && !l->first && !l->polling && l->nranges == 0;
}

/*
 * Minor version 0 has an empty state of locks until the file is closed: Ganesha 4.3 crashes when
 * the owner is released before. So the next owner may have it, who is none but ours to the server.
 */
static struct cv_nfs4_lock *take_unused(struct cv_nfs4 *v4, const struct cv_nfs4_open *open,
					const struct cv_lock *lock)
{
	for (struct cv_nfs4_lock *l = v4->locks; l; l = l->next) {
		if (l->open != open || !l->have || !is_idle(l))
			continue;
		l->kernel_owner = lock->owner;
		l->flock = lock->flock;
		l->pid = lock->pid;
		return l;
	}
	return NULL;
}

static void lock_free(struct cv_nfs4 *v4, struct cv_nfs4_lock *l)
{
	struct cv_nfs4_lock **p = &v4->locks;

	while (*p && *p != l)
		p = &(*p)->next;
	if (*p)
		*p = l->next;
	if (v4->relocking == l)
		v4->relocking = NULL;
	if (v4->recovery && v4->recovery->v4.lock_owner == &l->owner)
		v4->recovery->v4.lock_owner = NULL;
	free(l->ranges);
	free(l);
}

static void free_if_unused(struct cv_nfs4 *v4, struct cv_nfs4_lock *l)
{
	if (!l->have && is_idle(l))
		lock_free(v4, l);
}

size_t cv_nfs4_locks_take(struct cv_nfs4 *v4, const struct cv_nfs4_open *open,
			  struct cv_nfs4_lock_state *states, size_t max)
{
	struct cv_nfs4_lock *next;
	size_t n = 0;

	for (struct cv_nfs4_lock *l = v4->locks; l; l = next) {
		next = l->next;
		if (l->open != open)
			continue;
		if (l->have && n < max)
			states[n++] = (struct cv_nfs4_lock_state){ l->stateid, l->owner };
		l->have = l->lost = false;
		l->nranges = 0;
		l->open = NULL;
		free_if_unused(v4, l);
	}
	return n;
}

bool cv_nfs4_is_locked(const struct cv_nfs4 *v4, const struct cv_nfs4_open *open)
{
	for (const struct cv_nfs4_lock *l = v4->locks; l; l = l->next) {
		if (l->open == open && l->nranges)
			return true;
	}
	return false;
}

void cv_nfs4_locks_free(struct cv_nfs4 *v4)
{
	while (v4->locks)
		lock_free(v4, v4->locks);
}

/* Room for what one change can add: two pieces of a range that is cut, and the new one. */
static bool reserve(struct cv_nfs4_lock *l)
{
	struct cv_nfs4_range *more;

	if (l->size - l->nranges >= 2)
		return true;
	more = realloc(l->ranges, (l->size * 2 + 4) * sizeof(*more));
	if (!more)
		return false;
	l->ranges = more;
	l->size = l->size * 2 + 4;
	return true;
}

/* The room is there. */
static void note_range(struct cv_nfs4_lock *l, const struct cv_lock *lock)
{
	struct cv_nfs4_range set = { .start = lock->start, .end = lock->end, .type = lock->type };
	size_t n = l->nranges;

	for (size_t i = 0; i < n;) {
		struct cv_nfs4_range r = l->ranges[i];

		if (r.end < set.start || r.start > set.end) {
			/* Neighbours of one kind become one. */
			bool touches = (r.end + 1 == set.start || set.end + 1 == r.start) &&
				       r.type == set.type;

			if (!touches) {
				i++;
				continue;
			}
			set.start = r.start < set.start ? r.start : set.start;
			set.end = r.end > set.end ? r.end : set.end;
			l->ranges[i] = l->ranges[--n];
			continue;
		}
		l->ranges[i] = l->ranges[--n];
		if (r.start < set.start)
			l->ranges[n++] = (struct cv_nfs4_range){ r.start, set.start - 1, r.type };
		if (r.end > set.end)
			l->ranges[n++] = (struct cv_nfs4_range){ set.end + 1, r.end, r.type };
		if (r.start < set.start || r.end > set.end)
			i = 0; /* the order has changed; what is cut does not overlap any more */
	}
	if (set.type != F_UNLCK)
		l->ranges[n++] = set;
	l->nranges = n;
}

static uint64_t length_of(uint64_t start, uint64_t end)
{
	return end >= CV_LOCK_EOF ? CV_NFS4_TO_EOF : end - start + 1;
}

static enum cv_nfs4_locktype type_of(int type)
{
	return type == F_RDLCK ? CV_NFS4_READ_LT : CV_NFS4_WRITE_LT;
}

/* ---- one call of an owner at a time ----
 *
 * Two first locks of one owner at once would both begin a state at the server.
 */

static void send_setlk(struct cv_nfs_req *q);
static void got_setlk(struct cv_nfs_req *q, int status, struct cv_xdr *x);

/* q has its turn, or waits for it. */
static void take_turn(struct cv_nfs_req *q)
{
	struct cv_nfs4_lock *l = q->v4.lock;

	if (l->busy) {
		q->next = NULL;
		*l->last = q;
		l->last = &q->next;
		return;
	}
	l->busy = q->v4.turn = true;
	cv_nfs_step(q, send_setlk, got_setlk);
}

static void end_turn(struct cv_nfs_req *q)
{
	struct cv_nfs4_lock *l = q->v4.lock;
	struct cv_nfs_req *next = l->first;

	l->busy = q->v4.turn = false;
	if (!next)
		return;
	l->first = next->next;
	if (!l->first)
		l->last = &l->first;
	take_turn(next);
}

void cv_nfs4_lock_leave(struct cv_nfs_req *q)
{
	struct cv_nfs4_lock *l = q->v4.lock;

	if (q->v4.turn)
		end_turn(q);
	q->v4.lock = NULL;
	free_if_unused(q->nfs->v4, l);
}

/* ---- set and release ---- */

static bool is_whole(const struct cv_lock *lock)
{
	return lock->type == F_UNLCK && lock->start == 0 && lock->end >= CV_LOCK_EOF;
}

/* LOCK by what l stands on. */
static void put_lock(struct cv_nfs4_call *c, const struct cv_nfs4_lock *l, int type, bool reclaim,
		     uint64_t start, uint64_t end)
{
	uint64_t length = length_of(start, end);

	if (l->have)
		cv_nfs4_put_lock(c, type_of(type), reclaim, start, length, &l->stateid, &l->owner);
	else
		cv_nfs4_put_first_lock(c, type_of(type), reclaim, start, length, &l->open->stateid,
				       &l->open->owner, &l->owner);
}

static void send_setlk(struct cv_nfs_req *q)
{
	const struct cv_lock *range = &q->v4.range;
	struct cv_nfs4_lock *l = q->v4.lock;
	struct cv_nfs4_call c;

	if (range->type == F_UNLCK && !l->have) {
		cv_nfs_finish(q, 0); /* released while it waited for its turn */
		return;
	}
	if (!reserve(l)) {
		cv_nfs_finish(q, -ENOLCK);
		return;
	}
	if (!l->have)
		l->open = q->v4.through;
	/* A release is not worth opening a file anew. */
	q->v4.open = range->type == F_UNLCK ? NULL : l->open;
	if (!l->have && l->open->stateless) {
		cv_nfs_finish(q, -ENOLCK); /* no state to stand on */
		return;
	}
	if (!cv_nfs4_start_owned(q, &c, l->have ? NULL : &l->open->owner, &l->owner))
		return;
	cv_nfs4_put_fh(&c, &l->handle);
	if (range->type == F_UNLCK) {
		cv_nfs4_put_locku(&c, &l->stateid, &l->owner, range->start,
				  length_of(range->start, range->end));
		if (is_whole(range) && c.minor > 0)
			cv_nfs4_put_free_stateid(&c, &l->stateid);
	} else {
		put_lock(&c, l, range->type, false, range->start, range->end);
		cv_nfs4_put_getattr(&c);
	}
	cv_nfs4_submit(q, &c);
}

static void got_unlock(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4_lock *l = q->v4.lock;
	struct cv_nfs4_stateid stateid;

	/* FREE_STATEID may fail, and an empty state be kept: that does no harm. */
	if (cv_nfs4_skip(x, CV_NFS4_PUTFH) && cv_nfs4_skip(x, CV_NFS4_LOCKU)) {
		cv_nfs4_get_stateid(x, &stateid);
		if (!x->bad)
			l->stateid = stateid;
		note_range(l, &q->v4.range);
		if (is_whole(&q->v4.range) && q->nfs->v4->minor > 0 &&
		    cv_nfs4_skip(x, CV_NFS4_FREE_STATEID))
			l->have = false;
		status = 0;
	} else if (cv_nfs4_state_is_lost(q->v4.status)) {
		note_range(l, &q->v4.range);
		l->have = false;
		l->lost = l->nranges > 0;
		l->claimed = 0;
		if (l->lost)
			cv_nfs4_recover(q->nfs->v4, false);
		status = 0;
	}
	cv_nfs_finish(q, q->again ? -EINTR : status);
}

/* Nobody waits for the lock that was just had: it is given back. */
static void give_back(struct cv_nfs_req *q)
{
	q->v4.range.type = F_UNLCK;
	q->again = true;
	cv_nfs_step(q, send_setlk, got_setlk);
}

static void ask_again(struct cv_nfs_req *q)
{
	q->v4.lock->polling--;
	if (q->op->abandoned)
		cv_nfs_finish(q, -EINTR);
	else
		take_turn(q);
}

static void ask_later(struct cv_nfs_req *q)
{
	q->delay_ms = q->delay_ms ? q->delay_ms * 2 : POLL_MIN_MS;
	if (q->delay_ms > POLL_MAX_MS)
		q->delay_ms = POLL_MAX_MS;
	q->send = ask_again;
	if (cv_timer_set(q->nfs->loop, &q->delay, q->delay_ms) < 0) {
		cv_nfs_finish(q, -ENOLCK);
		return;
	}
	q->v4.lock->polling++;
	end_turn(q);
}

static void got_setlk(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4_lock *l = q->v4.lock;
	struct cv_op *op = q->op;

	if (q->v4.range.type == F_UNLCK) {
		got_unlock(q, status, x);
		return;
	}
	if (q->v4.status == CV_NFS4ERR_DENIED && q->v4.wait) {
		if (op->abandoned)
			cv_nfs_finish(q, -EINTR);
		else
			ask_later(q);
		return;
	}
	if (status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_LOCK);
		cv_nfs4_get_stateid(x, &l->stateid);
		op->have_attr = cv_nfs4_take_attr(q, x, &op->attr);
		if (!op->have_attr)
			status = -EIO;
	}
	if (status < 0) {
		cv_nfs_finish(q, status);
		return;
	}
	l->have = true;
	note_range(l, &q->v4.range);
	if (op->abandoned)
		give_back(q);
	else
		cv_nfs_finish(q, 0);
}

void cv_nfs4_setlk(void *conn, struct cv_op *op, struct cv_file *file, const struct cv_lock *lock,
		   bool wait)
{
	struct cv_nfs *nfs = conn;
	struct cv_nfs4_lock *l = find(nfs->v4, &file->handle, lock);
	struct cv_nfs_req *q;

	if (!l && lock->type == F_UNLCK) {
		op->done(op, 0);
		return;
	}
	q = cv_nfs_req_new(conn, op);
	if (!q)
		return;
	q->obj = file->handle;
	if (!file->open) {
		cv_nfs_finish(q, -ENOLCK); /* no state to stand on */
		return;
	}
	if (!l)
		l = take_unused(nfs->v4, file->open, lock);
	if (!l)
		l = lock_new(nfs->v4, &file->handle, lock);
	if (!l) {
		cv_nfs_finish(q, -ENOLCK);
		return;
	}
	q->v4.lock = l;
	q->v4.through = file->open;
	q->v4.range = *lock;
	q->v4.wait = wait;
	take_turn(q);
}

/* ---- test ---- */

static void send_getlk(struct cv_nfs_req *q)
{
	const struct cv_lock *range = &q->v4.range;
	const struct cv_nfs4_lock *l;
	struct cv_nfs4_owner owner;
	struct cv_nfs4_call c;

	if (!cv_nfs4_start(q, &c, false))
		return;
	l = find(q->nfs->v4, &q->obj, range);
	if (l)
		owner = l->owner;
	else
		cv_nfs4_new_owner(q->nfs->v4, &owner); /* who has nothing yet is nobody else's */
	cv_nfs4_put_fh(&c, &q->obj);
	cv_nfs4_put_lockt(&c, type_of(range->type), range->start,
			  length_of(range->start, range->end), &owner);
	cv_nfs4_submit(q, &c);
}

/* 0 where it is another host's. */
static pid_t pid_of(const struct cv_nfs4 *v4, const struct cv_nfs4_owner *owner)
{
	for (const struct cv_nfs4_lock *l = v4->locks; l; l = l->next) {
		if (l->owner.clientid == owner->clientid && l->owner.size == owner->size &&
		    memcmp(l->owner.data, owner->data, owner->size) == 0)
			return l->pid;
	}
	return 0;
}

static void got_getlk(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_lock *ret = &q->op->lock;
	struct cv_nfs4_denied d;

	ret->type = F_UNLCK;
	if (q->v4.status == CV_NFS4ERR_DENIED) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_get_op(x, CV_NFS4_LOCKT);
		cv_nfs4_get_denied(x, &d);
		status = x->bad ? -EIO : 0;
		if (status == 0) {
			ret->type = d.type == CV_NFS4_READ_LT ? F_RDLCK : F_WRLCK;
			ret->start = d.off;
			ret->end = d.length == CV_NFS4_TO_EOF || d.length > CV_LOCK_EOF - d.off
					   ? CV_LOCK_EOF
					   : d.off + d.length - 1;
			ret->pid = pid_of(q->nfs->v4, &d.owner);
		}
	}
	cv_nfs_finish(q, status);
}

void cv_nfs4_getlk(void *conn, struct cv_op *op, struct cv_file *file, const struct cv_lock *lock)
{
	struct cv_nfs_req *q = cv_nfs_req_new(conn, op);

	if (!q)
		return;
	q->obj = file->handle;
	q->v4.range = *lock;
	cv_nfs_step(q, send_getlk, got_getlk);
}

/* ---- recovery ---- */

void cv_nfs4_locks_lost(struct cv_nfs4 *v4, const struct cv_nfs4_open *open)
{
	for (struct cv_nfs4_lock *l = v4->locks; l; l = l->next) {
		if (l->open == open) {
			l->have = false;
			l->lost = l->nranges > 0;
			l->claimed = 0;
		}
	}
}

struct cv_nfs4_lock *cv_nfs4_lock_find_lost(const struct cv_nfs4 *v4)
{
	for (struct cv_nfs4_lock *l = v4->locks; l; l = l->next) {
		if (l->lost && l->open && !l->open->lost && !l->open->dead)
			return l;
	}
	return NULL;
}

static void send_relock(struct cv_nfs_req *q)
{
	struct cv_nfs4_lock *l = q->nfs->v4->relocking;
	const struct cv_nfs4_range *r;
	struct cv_nfs4_call c;

	if (!l || l->claimed >= l->nranges) { /* released in the meantime */
		if (l)
			l->lost = false;
		q->then(q);
		return;
	}
	if (!cv_nfs4_start_owned(q, &c, l->have ? NULL : &l->open->owner, &l->owner))
		return;
	r = &l->ranges[l->claimed];
	cv_nfs4_put_fh(&c, &l->handle);
	put_lock(&c, l, r->type, q->plus, r->start, r->end);
	cv_nfs4_submit(q, &c);
}

static void got_relock(struct cv_nfs_req *q, int status, struct cv_xdr *x)
{
	struct cv_nfs4_lock *l = q->nfs->v4->relocking;

	if (cv_nfs4_recovery_ends(q, status))
		return;
	if (l && status == 0) {
		(void)cv_nfs4_skip(x, CV_NFS4_PUTFH);
		(void)cv_nfs4_skip(x, CV_NFS4_LOCK);
		cv_nfs4_get_stateid(x, &l->stateid);
		l->have = !x->bad;
		l->lost = ++l->claimed < l->nranges;
	} else if (l && q->plus) {
		q->plus = false; /* no grace: as a new lock, unless another has it by now */
		cv_nfs_step(q, send_relock, got_relock);
		return;
	} else if (l) {
		cv_error("a lock is lost: the server restarted and another client has it now");
		l->lost = false;
		l->open->dead = -EIO; /* what was done under it must not be gone on with */
	}
	q->then(q);
}

void cv_nfs4_relock(struct cv_nfs_req *q, bool reclaim, void (*then)(struct cv_nfs_req *))
{
	q->plus = reclaim;
	q->then = then;
	cv_nfs_step(q, send_relock, got_relock);
}
