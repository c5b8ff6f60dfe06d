/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/history.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/process.h"

struct track {
	struct track *next;
	char *volume; /* owned */
	bool seen;    /* in this step */
	bool counted; /* last is there */
	struct cv_counters last;
	uint64_t last_ms;
	size_t used, newest;
	struct cv_rates ring[CV_HISTORY_MAX];
};

struct cv_history {
	pthread_mutex_t lock;
	pthread_cond_t stop_cond;
	bool stopping;	      /* protected by lock */
	struct track *tracks; /* protected by lock */
	pthread_t thread;
	bool have_thread;
	cv_history_source source;
	void *ctx;
};

struct cv_history *cv_history_new(void)
{
	struct cv_history *h = calloc(1, sizeof(*h));
	pthread_condattr_t attr;

	if (!h)
		return NULL;
	(void)pthread_mutex_init(&h->lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&h->stop_cond, &attr);
	(void)pthread_condattr_destroy(&attr);
	return h;
}

static void track_free(struct track *t)
{
	free(t->volume);
	free(t);
}

static struct track *find_locked(struct cv_history *h, const char *volume)
{
	struct track *t = h->tracks;

	while (t && !cv_str_eq(t->volume, volume))
		t = t->next;
	return t;
}

static struct track *add_locked(struct cv_history *h, const char *volume)
{
	struct track *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->volume = strdup(volume);
	if (!t->volume) {
		free(t);
		return NULL;
	}
	t->next = h->tracks;
	h->tracks = t;
	return t;
}

static void forget_unseen_locked(struct cv_history *h)
{
	struct track **p = &h->tracks;

	while (*p) {
		struct track *t = *p;

		if (t->seen) {
			t->seen = false;
			p = &t->next;
			continue;
		}
		*p = t->next;
		track_free(t);
	}
}

static void step(struct track *t, const struct cv_view *v, uint64_t now_ms)
{
	struct cv_rates rates = { 0 };

	if (t->counted && v->counted)
		(void)cv_rates_between(&t->last, &v->counters, (double)(now_ms - t->last_ms) / 1000,
				       &rates);
	t->newest = (t->newest + 1) % CV_HISTORY_MAX;
	t->ring[t->newest] = rates;
	if (t->used < CV_HISTORY_MAX)
		t->used++;
	t->counted = v->counted;
	t->last = v->counters;
	t->last_ms = now_ms;
}

void cv_history_sample(struct cv_history *h, const struct cv_view *views, size_t count,
		       uint64_t now_ms)
{
	CV_SCOPED_LOCK(&h->lock);
	for (size_t i = 0; i < count; i++) {
		struct track *t = find_locked(h, views[i].name);

		/* Only what has been mounted has a history. */
		if (!t && views[i].counted)
			t = add_locked(h, views[i].name);
		if (!t)
			continue;
		t->seen = true;
		step(t, &views[i], now_ms);
	}
	forget_unseen_locked(h);
}

void cv_history_fill(struct cv_history *h, struct cv_view *views, size_t count)
{
	if (!h)
		return;
	CV_SCOPED_LOCK(&h->lock);
	for (size_t i = 0; i < count; i++) {
		const struct track *t = find_locked(h, views[i].name);

		if (t)
			views[i].rates = t->ring[t->newest];
	}
}

size_t cv_history_get(struct cv_history *h, const char *volume, struct cv_rates *ret, size_t max)
{
	const struct track *t;
	size_t n = 0;

	CV_SCOPED_LOCK(&h->lock);
	t = find_locked(h, volume);
	if (t)
		n = t->used < max ? t->used : max;
	for (size_t i = 0; i < n; i++)
		ret[n - 1 - i] = t->ring[(t->newest + CV_HISTORY_MAX - i) % CV_HISTORY_MAX];
	return n;
}

/* ---- the thread ---- */

/* False: it is time to stop. */
static bool wait_step(struct cv_history *h)
{
	struct timespec until = cv_clock_timespec(cv_clock_ms() + CV_HISTORY_STEP_MS);
	int r = 0;

	CV_SCOPED_LOCK(&h->lock);
	while (!h->stopping && r == 0)
		r = pthread_cond_timedwait(&h->stop_cond, &h->lock, &until);
	return !h->stopping;
}

static void *run(void *arg)
{
	struct cv_history *h = arg;

	do {
		struct cv_view *views = NULL;
		size_t count = 0;

		if (h->source(h->ctx, &views, &count) == 0) {
			cv_history_sample(h, views, count, cv_clock_ms());
			cv_views_free(views, count);
		}
	} while (wait_step(h));
	return NULL;
}

int cv_history_start(struct cv_history *h, cv_history_source source, void *ctx)
{
	int r;

	h->source = source;
	h->ctx = ctx;
	r = pthread_create(&h->thread, NULL, run, h);
	h->have_thread = r == 0;
	return -r;
}

void cv_history_free(struct cv_history *h)
{
	if (!h)
		return;
	if (h->have_thread) {
		(void)pthread_mutex_lock(&h->lock);
		h->stopping = true;
		(void)pthread_cond_broadcast(&h->stop_cond);
		(void)pthread_mutex_unlock(&h->lock);
		(void)pthread_join(h->thread, NULL);
	}
	while (h->tracks) {
		struct track *t = h->tracks;

		h->tracks = t->next;
		track_free(t);
	}
	(void)pthread_cond_destroy(&h->stop_cond);
	(void)pthread_mutex_destroy(&h->lock);
	free(h);
}
