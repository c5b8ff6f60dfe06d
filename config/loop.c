/* SPDX-License-Identifier: Apache-2.0 */
#include "config/loop.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"

#define EVENTS_MAX   64
#define POLL_MIN_NS  8000u
#define DELAY_MAX_MS (1ull << 43) /* 278 years: more would overflow due_ns */

struct cv_loop {
	int epoll_fd;
	int wake_fd; /* written by cv_loop_post() */
	uint64_t now_ns;
	bool stopped;
	struct epoll_event events[EVENTS_MAX]; /* of this turn; removed watches are scrubbed */
	int nevents;
	struct cv_timer **timers; /* binary heap, earliest first */
	size_t ntimers, timers_size;
	struct cv_deferred *deferred, **deferred_tail;
	struct cv_deferred *running; /* what is left of this turn's deferred work */
	pthread_mutex_t lock;	     /* protects posted */
	struct cv_posted *posted, **posted_tail;
	uint64_t poll_max_ns;
	uint64_t poll_ns[2]; /* as long as it pays: nothing, something under way */
	const uint64_t *under_way;
};

uint64_t cv_now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

uint64_t cv_loop_now_ns(const struct cv_loop *loop)
{
	return loop->now_ns;
}

int cv_loop_new(struct cv_loop **ret_loop)
{
	struct cv_loop *loop = calloc(1, sizeof(*loop));
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };
	int r;

	if (!loop)
		return -ENOMEM;
	loop->deferred_tail = &loop->deferred;
	loop->posted_tail = &loop->posted;
	loop->now_ns = cv_now_ns();
	(void)pthread_mutex_init(&loop->lock, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
	    epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &ev) < 0) {
		r = -errno;
		cv_loop_free(loop);
		return r;
	}
	*ret_loop = loop;
	return 0;
}

/* ---- descriptors ---- */

int cv_loop_add(struct cv_loop *loop, struct cv_watch *watch, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = watch };

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	watch->fd = fd;
	watch->events = events;
	return 0;
}

int cv_loop_modify(struct cv_loop *loop, struct cv_watch *watch, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = watch };

	if (watch->events == events)
		return 0;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &ev) < 0)
		return -errno;
	watch->events = events;
	return 0;
}

void cv_loop_remove(struct cv_loop *loop, struct cv_watch *watch)
{
	if (watch->fd < 0)
		return;
	(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->fd = -1;
	watch->events = 0;
	for (int i = 0; i < loop->nevents; i++) {
		if (loop->events[i].data.ptr == watch)
			loop->events[i].events = 0;
	}
}

/* ---- timers ---- */

static void heap_put(struct cv_loop *loop, size_t at, struct cv_timer *timer)
{
	loop->timers[at] = timer;
	timer->index = at + 1;
}

static void heap_up(struct cv_loop *loop, size_t at)
{
	struct cv_timer *timer = loop->timers[at];

	while (at > 0) {
		size_t parent = (at - 1) / 2;

		if (loop->timers[parent]->due_ns <= timer->due_ns)
			break;
		heap_put(loop, at, loop->timers[parent]);
		at = parent;
	}
	heap_put(loop, at, timer);
}

static void heap_down(struct cv_loop *loop, size_t at)
{
	struct cv_timer *timer = loop->timers[at];

	for (;;) {
		size_t child = at * 2 + 1;

		if (child >= loop->ntimers)
			break;
		if (child + 1 < loop->ntimers &&
		    loop->timers[child + 1]->due_ns < loop->timers[child]->due_ns)
			child++;
		if (timer->due_ns <= loop->timers[child]->due_ns)
			break;
		heap_put(loop, at, loop->timers[child]);
		at = child;
	}
	heap_put(loop, at, timer);
}

int cv_timer_set(struct cv_loop *loop, struct cv_timer *timer, uint64_t delay_ms)
{
	cv_timer_cancel(loop, timer);
	if (loop->ntimers == loop->timers_size) {
		size_t size = loop->timers_size ? loop->timers_size * 2 : 32;
		struct cv_timer **timers = realloc(loop->timers, size * sizeof(struct cv_timer *));

		if (!timers)
			return -ENOMEM;
		loop->timers = timers;
		loop->timers_size = size;
	}
	if (delay_ms > DELAY_MAX_MS)
		delay_ms = DELAY_MAX_MS;
	timer->due_ns = cv_now_ns() + delay_ms * 1000000ull;
	loop->timers[loop->ntimers] = timer;
	heap_up(loop, loop->ntimers++);
	return 0;
}

void cv_timer_cancel(struct cv_loop *loop, struct cv_timer *timer)
{
	struct cv_timer *moved;
	size_t at;

	if (!timer->index)
		return;
	at = timer->index - 1;
	timer->index = 0;
	loop->ntimers--;
	if (at == loop->ntimers)
		return;
	moved = loop->timers[loop->ntimers];
	heap_put(loop, at, moved);
	heap_up(loop, at);
	heap_down(loop, moved->index - 1);
}

/* Timers that a callback sets with no delay wait for the next turn: descriptors get theirs first.
 */
static void run_timers(struct cv_loop *loop)
{
	uint64_t now = loop->now_ns;

	while (loop->ntimers && loop->timers[0]->due_ns <= now) {
		struct cv_timer *timer = loop->timers[0];

		cv_timer_cancel(loop, timer);
		timer->fire(timer);
	}
}

/* ---- deferred and posted work ---- */

void cv_loop_defer(struct cv_loop *loop, struct cv_deferred *deferred)
{
	if (deferred->queued)
		return;
	deferred->queued = true;
	deferred->next = NULL;
	*loop->deferred_tail = deferred;
	loop->deferred_tail = &deferred->next;
}

/* Where list points to deferred, or the end of the list. */
static struct cv_deferred **find_deferred(struct cv_deferred **list,
					  const struct cv_deferred *deferred)
{
	while (*list && *list != deferred)
		list = &(*list)->next;
	return list;
}

void cv_loop_undefer(struct cv_loop *loop, struct cv_deferred *deferred)
{
	struct cv_deferred **p;

	if (!deferred->queued)
		return;
	p = find_deferred(&loop->deferred, deferred);
	if (*p) {
		*p = deferred->next;
		if (!*p)
			loop->deferred_tail = p;
	} else {
		p = find_deferred(&loop->running, deferred);
		if (*p)
			*p = deferred->next;
	}
	deferred->queued = false;
	deferred->next = NULL;
}

/*
 * What is deferred meanwhile, also by itself, belongs to the next turn: so this turn's work moves
 * to a list of its own. It is appended, for a callback may run a turn itself.
 */
static void run_deferred(struct cv_loop *loop)
{
	struct cv_deferred *d;

	*find_deferred(&loop->running, NULL) = loop->deferred;
	loop->deferred = NULL;
	loop->deferred_tail = &loop->deferred;
	while ((d = loop->running)) {
		loop->running = d->next;
		d->next = NULL;
		d->queued = false;
		d->run(d);
	}
}

void cv_loop_post(struct cv_loop *loop, struct cv_posted *posted)
{
	uint64_t one = 1;
	/* Held to the end: once posted has run, its owner may free the loop. */
	CV_SCOPED_LOCK(&loop->lock);

	posted->next = NULL;
	*loop->posted_tail = posted;
	loop->posted_tail = &posted->next;
	/* EAGAIN: the counter is full, so the loop is awake already. */
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		return;
}

static void run_posted(struct cv_loop *loop)
{
	struct cv_posted *list;
	uint64_t count;

	if (read(loop->wake_fd, &count, sizeof(count)) < 0)
		return;
	{
		CV_SCOPED_LOCK(&loop->lock);
		list = loop->posted;
		loop->posted = NULL;
		loop->posted_tail = &loop->posted;
	}
	while (list) {
		struct cv_posted *p = list;

		list = p->next;
		p->run(p);
	}
}

void cv_loop_free(struct cv_loop *loop)
{
	if (!loop)
		return;
	run_posted(loop);
	cv_close_fd(&loop->epoll_fd);
	cv_close_fd(&loop->wake_fd);
	(void)pthread_mutex_destroy(&loop->lock);
	free(loop->timers);
	free(loop);
}

/* ---- turns ---- */

static int turn_timeout(const struct cv_loop *loop, int timeout_ms)
{
	uint64_t now, due, ms;

	if (loop->deferred)
		return 0;
	if (!loop->ntimers)
		return timeout_ms;
	now = cv_now_ns();
	due = loop->timers[0]->due_ns;
	ms = due <= now ? 0 : (due - now + 999999) / 1000000;
	if (ms > 1000000)
		ms = 1000000;
	return timeout_ms >= 0 && (uint64_t)timeout_ms < ms ? timeout_ms : (int)ms;
}

void cv_loop_poll(struct cv_loop *loop, unsigned max_us, const uint64_t *under_way)
{
	cpu_set_t cpus;

	/* On a single CPU, whoever is waited for would be kept from running. */
	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) < 2)
		max_us = 0;
	loop->poll_max_ns = (uint64_t)max_us * 1000;
	loop->under_way = under_way;
}

/* Returns what epoll_wait() does. */
static int wait_for_events(struct cv_loop *loop, int timeout_ms)
{
	uint64_t *poll_ns = &loop->poll_ns[loop->under_way && *loop->under_way];
	uint64_t start, waited = 0;
	int n;

	/* A turn that a timer ends soon is not made longer. */
	if (timeout_ms == 0 || !loop->poll_max_ns ||
	    (timeout_ms > 0 && (uint64_t)timeout_ms * 1000000 < *poll_ns))
		return epoll_wait(loop->epoll_fd, loop->events, EVENTS_MAX, timeout_ms);
	start = cv_now_ns();
	while (waited < *poll_ns) {
		n = epoll_wait(loop->epoll_fd, loop->events, EVENTS_MAX, 0);
		if (n)
			return n;
		(void)sched_yield(); /* others who want this CPU have it first */
		waited = cv_now_ns() - start;
	}
	n = epoll_wait(loop->epoll_fd, loop->events, EVENTS_MAX, timeout_ms);
	waited = cv_now_ns() - start;
	if (waited > loop->poll_max_ns)
		*poll_ns = *poll_ns / 2 < POLL_MIN_NS ? 0 : *poll_ns / 2;
	else if (waited > *poll_ns)
		*poll_ns = *poll_ns ? *poll_ns * 2 : POLL_MIN_NS;
	if (*poll_ns > loop->poll_max_ns)
		*poll_ns = loop->poll_max_ns;
	return n;
}

int cv_loop_turn(struct cv_loop *loop, int timeout_ms)
{
	int n = wait_for_events(loop, turn_timeout(loop, timeout_ms));

	if (n < 0 && errno != EINTR)
		return -errno;
	loop->now_ns = cv_now_ns();
	loop->nevents = n < 0 ? 0 : n;
	for (int i = 0; i < loop->nevents; i++) {
		struct cv_watch *watch = loop->events[i].data.ptr;

		if (!watch)
			run_posted(loop);
		else if (loop->events[i].events)
			watch->ready(watch, loop->events[i].events);
	}
	loop->nevents = 0;
	run_timers(loop);
	run_deferred(loop);
	return 0;
}

int cv_loop_run(struct cv_loop *loop)
{
	int r = 0;

	/* Not reset at the start: a stop before the first turn must not get lost. */
	while (!loop->stopped && r == 0)
		r = cv_loop_turn(loop, -1);
	loop->stopped = false;
	return r;
}

void cv_loop_stop(struct cv_loop *loop)
{
	loop->stopped = true;
}
