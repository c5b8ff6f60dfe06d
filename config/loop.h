/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: one epoll set, timers, work deferred to the end of a turn, and wake-ups posted
 * from helper threads. Everything except cv_loop_post() belongs to the thread that runs the loop.
 * Watches, timers and deferred items are embedded in the caller's structures and owned by it; the
 * loop allocates nothing per event. A callback may remove any watch or timer, also its own.
 */
#ifndef CV_CONFIG_LOOP_H
#define CV_CONFIG_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cv_loop;

struct cv_watch {
	int fd;		 /* -1: not watched */
	uint32_t events; /* EPOLLIN | EPOLLOUT, level-triggered */
	/* events as epoll_wait() reports them (EPOLLERR and EPOLLHUP included). */
	void (*ready)(struct cv_watch *watch, uint32_t events);
};
#define CV_WATCH_INIT(fn)                                                                          \
	{                                                                                          \
		.fd = -1, .events = 0, .ready = (fn)                                               \
	}

struct cv_timer {
	uint64_t due_ns; /* CLOCK_MONOTONIC; meaningful while armed */
	size_t index;	 /* heap position + 1; 0: not armed */
	void (*fire)(struct cv_timer *timer);
};
#define CV_TIMER_INIT(fn)                                                                          \
	{                                                                                          \
		.due_ns = 0, .index = 0, .fire = (fn)                                              \
	}

/* Runs once at the end of the turn it was queued in, e.g. to send what the turn coalesced. */
struct cv_deferred {
	struct cv_deferred *next;
	bool queued;
	void (*run)(struct cv_deferred *deferred);
};
#define CV_DEFERRED_INIT(fn)                                                                       \
	{                                                                                          \
		.next = NULL, .queued = false, .run = (fn)                                         \
	}

/* Handed over by another thread; runs on the loop's thread. Posted at most once until it ran. */
struct cv_posted {
	struct cv_posted *next;
	void (*run)(struct cv_posted *posted);
};

int cv_loop_new(struct cv_loop **ret_loop);
/* NULL is fine. Runs what has been posted; registered items stay the caller's. */
void cv_loop_free(struct cv_loop *loop);

/* Returns 0 or -errno. fd must stay open until removed. */
int cv_loop_add(struct cv_loop *loop, struct cv_watch *watch, int fd, uint32_t events);
int cv_loop_modify(struct cv_loop *loop, struct cv_watch *watch,
		   uint32_t events);				   /* cheap if equal */
void cv_loop_remove(struct cv_loop *loop, struct cv_watch *watch); /* no-op when not watched */

/* (Re)arms. Returns 0 or -ENOMEM (then the timer is not armed). */
int cv_timer_set(struct cv_loop *loop, struct cv_timer *timer, uint64_t delay_ms);
void cv_timer_cancel(struct cv_loop *loop, struct cv_timer *timer); /* no-op when not armed */

void cv_loop_defer(struct cv_loop *loop, struct cv_deferred *deferred);
void cv_loop_undefer(struct cv_loop *loop, struct cv_deferred *deferred);

/* Any thread. */
void cv_loop_post(struct cv_loop *loop, struct cv_posted *posted);

/* Time at the start of this turn, CLOCK_MONOTONIC. */
uint64_t cv_loop_now_ns(const struct cv_loop *loop);
/* The clock itself. */
uint64_t cv_now_ns(void);

/*
 * Busy polling: before a turn sleeps, it looks for events for up to max_us (0: never, which is the
 * beginning). Waking up on another CPU, out of its idle state, takes longer than many a request. It
 * is done only as long as it pays: how long to look follows from how long the last waits were, and
 * is nothing at all once they are longer than max_us. Waits for something under way
 * (*under_way != 0, e.g. answers of a server) are judged apart from those for something new.
 */
void cv_loop_poll(struct cv_loop *loop, unsigned max_us, const uint64_t *under_way);

/* Runs turns until cv_loop_stop(). Returns 0, or -errno when epoll_wait() fails for good. */
int cv_loop_run(struct cv_loop *loop);
/* One turn: waits at most timeout_ms (-1: until something happens). */
int cv_loop_turn(struct cv_loop *loop, int timeout_ms);
void cv_loop_stop(struct cv_loop *loop);

#endif
