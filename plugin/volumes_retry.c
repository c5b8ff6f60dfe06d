/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/volumes_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/process.h"

#define MOUNT_MS       20000 /* dockerd waits 120 s; a managed plugin has 30 s */
#define PODMAN_MS      4000  /* Podman waits 5 s */
#define BOOT_MS	       (10 * 60 * 1000)
#define PAUSE_MS       1000		/* between attempts of one Mount */
#define RETRY_FIRST_MS 5000		/* between attempts in the background: at first, */
#define RETRY_LAST_MS  60000		/* and in the end */
#define RETRY_FOR_MS   (30 * 60 * 1000) /* then only a Mount tries again */
#define KEEP_MS	       (2 * 60 * 1000)	/* what came back with nobody there to use it */
#define THREAD_STACK   (256 * 1024)

/* What a server or a network that comes up late looks like; anything else is for a person. */
static bool is_transient(int r)
{
	switch (-r) {
	case EHOSTUNREACH: /* also: the name cannot be resolved */
	case ENETUNREACH:
	case ENETDOWN:
	case ECONNREFUSED:
	case ECONNRESET:
	case ECONNABORTED:
	case ETIMEDOUT:
	case EAGAIN:
	case EPIPE:
		return true;
	default:
		return false;
	}
}

/* ---- within a Mount ---- */

static bool is_booting(void)
{
	struct timespec up;

	return clock_gettime(CLOCK_BOOTTIME, &up) == 0 && up.tv_sec * 1000 < BOOT_MS;
}

void cv_volume_plan(struct cv_volumes *vs, const struct volume *v, const char *id,
		    struct cv_attempts *ret)
{
	uint64_t now = cv_clock_ms();
	bool podman = cv_str_eq(id, CV_PODMAN_ID), booting = vs->boot_wait_ms && is_booting();

	CV_SCOPED_LOCK(&vs->lock);
	ret->one_ms = v->mount_ms ? v->mount_ms : MOUNT_MS;
	if (podman && ret->one_ms > PODMAN_MS)
		ret->one_ms = PODMAN_MS;
	ret->last = now + ret->one_ms;
	if (booting && !podman && vs->boot_wait_ms > ret->one_ms)
		ret->last = now + vs->boot_wait_ms;
	ret->seen = v->attempts;
	ret->patient = booting || v->worked;
	ret->background = ret->patient || podman;
}

/* The failure of an attempt that ended while we waited for op: one for all who waited. */
static int shared_failure(struct cv_volumes *vs, const struct volume *v, unsigned seen,
			  struct cv_err *err)
{
	CV_SCOPED_LOCK(&vs->lock);
	if (v->attempts == seen || v->last.code >= 0)
		return 0;
	return cv_fail(err, v->last.code, "%s", v->last.text);
}

static void set_waiting(struct cv_volumes *vs, struct volume *v, uint64_t until)
{
	CV_SCOPED_LOCK(&vs->lock);
	v->waiting_until = until;
}

/* For the next attempt: its own limit, or what is left for all. */
static unsigned attempt_ms(const struct cv_attempts *plan)
{
	unsigned left = (unsigned)cv_clock_left_ms(plan->last);

	return left < plan->one_ms ? left : plan->one_ms;
}

int cv_volume_attempts(struct cv_volumes *vs, struct volume *v, const struct cv_attempts *plan,
		       struct cv_err *err)
{
	struct timespec pause = { .tv_sec = PAUSE_MS / 1000 };
	struct cv_err why = { 0 };
	unsigned count = 0;
	int r = shared_failure(vs, v, plan->seen, &why);

	if (r == 0)
		r = cv_volume_attempt(vs, v, attempt_ms(plan), &why);
	while (r < 0 && plan->patient && is_transient(r) && cv_clock_ms() + PAUSE_MS < plan->last) {
		set_waiting(vs, v, plan->last);
		(void)nanosleep(&pause, NULL);
		r = cv_volume_attempt(vs, v, attempt_ms(plan), &why);
		count++;
	}
	set_waiting(vs, v, 0);
	if (r == 0)
		return 0;
	cv_error("mounting failed: %s", why.text);
	if (plan->background && is_transient(r))
		cv_volume_retry_later(vs, v);
	return count ? cv_fail(err, r, "%s (tried %u times)", why.text, count + 1)
		     : cv_fail(err, r, "%s", why.text);
}

/* ---- in the background ---- */

void cv_volume_retry_done_locked(struct volume *v)
{
	v->retry_at = v->retry_until = 0;
}

/* With volumes->lock held: the one whose turn is next; *ret_at: when, 0: never. */
static struct volume *next_locked(struct cv_volumes *vs, uint64_t *ret_at)
{
	struct volume *next = NULL;

	for (struct volume *v = vs->list; v; v = v->next) {
		if (v->retry_at && !v->retrying && (!next || v->retry_at < next->retry_at))
			next = v;
	}
	*ret_at = next ? next->retry_at : 0;
	return next;
}

/* With op held. */
static void retry_locked_op(struct cv_volumes *vs, struct volume *v)
{
	unsigned limit = (unsigned)(v->mount_ms ? v->mount_ms : MOUNT_MS);
	struct cv_err err = { 0 };
	bool wanted;

	{
		CV_SCOPED_LOCK(&vs->lock);
		wanted = v->retry_at != 0;
	}
	if (!wanted || cv_volume_attempt(vs, v, limit, &err) < 0)
		return;
	cv_notice("volume '%s' (%s) can be reached again", v->name, v->source);
	{
		CV_SCOPED_LOCK(&vs->lock);
		v->kept_until = cv_clock_ms() + KEEP_MS;
	}
	cv_volume_record(vs, v);
}

static void retry_one(struct cv_volumes *vs, struct volume *v)
{
	struct cv_err err = { 0 };
	uint64_t now;

	/* Busy: a Mount is trying, which is as good. */
	if (cv_volume_lock(vs, v, cv_clock_ms(), &err) == 0) {
		retry_locked_op(vs, v);
		(void)pthread_mutex_unlock(&v->op);
	}
	now = cv_clock_ms();
	CV_SCOPED_LOCK(&vs->lock);
	v->retrying = false;
	if (v->retry_at == 0)
		return;
	if (now >= v->retry_until) {
		cv_volume_retry_done_locked(v);
		return;
	}
	v->retry_at = now + v->retry_pause_ms;
	v->retry_pause_ms =
		v->retry_pause_ms * 2 < RETRY_LAST_MS ? v->retry_pause_ms * 2 : RETRY_LAST_MS;
}

/* Waits for a volume's turn; referenced. NULL: it is time to end. */
static struct volume *take_turn(struct cv_volumes *vs)
{
	CV_SCOPED_LOCK(&vs->lock);
	while (!vs->retriers_stop) {
		uint64_t at;
		struct volume *v = next_locked(vs, &at);
		struct timespec until = cv_clock_timespec(at);

		if (v && at <= cv_clock_ms()) {
			v->retrying = true;
			v->refs++;
			return v;
		}
		if (v)
			(void)pthread_cond_timedwait(&vs->retriers_wake, &vs->lock, &until);
		else
			(void)pthread_cond_wait(&vs->retriers_wake, &vs->lock);
	}
	return NULL;
}

static void *retry_thread(void *arg)
{
	struct cv_volumes *vs = arg;
	struct volume *v;

	while ((v = take_turn(vs))) {
		retry_one(vs, v);
		cv_volume_unref(vs, v);
	}
	return NULL;
}

/* Most daemons never need one. With volumes->lock held. */
static void start_thread_locked(struct cv_volumes *vs)
{
	pthread_attr_t attr;

	if (vs->retrier_count == CV_RETRIERS)
		return;
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, THREAD_STACK);
	if (pthread_create(&vs->retriers[vs->retrier_count], &attr, retry_thread, vs) == 0)
		vs->retrier_count++;
	(void)pthread_attr_destroy(&attr);
}

void cv_volume_retry_later(struct cv_volumes *vs, struct volume *v)
{
	uint64_t now = cv_clock_ms();

	CV_SCOPED_LOCK(&vs->lock);
	if (vs->retriers_stop)
		return;
	v->retry_until = now + RETRY_FOR_MS;
	v->retry_pause_ms = RETRY_FIRST_MS;
	v->retry_at = now + RETRY_FIRST_MS;
	start_thread_locked(vs);
	(void)pthread_cond_signal(&vs->retriers_wake);
}

void cv_volumes_retry_init(struct cv_volumes *vs)
{
	pthread_condattr_t attr;

	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&vs->retriers_wake, &attr);
	(void)pthread_condattr_destroy(&attr);
}

void cv_volumes_retry_stop(struct cv_volumes *vs)
{
	{
		CV_SCOPED_LOCK(&vs->lock);
		vs->retriers_stop = true;
		(void)pthread_cond_broadcast(&vs->retriers_wake);
	}
	for (unsigned i = 0; i < vs->retrier_count; i++)
		(void)pthread_join(vs->retriers[i], NULL);
	vs->retrier_count = 0;
	(void)pthread_cond_destroy(&vs->retriers_wake);
}
