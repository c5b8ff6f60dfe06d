/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP for the SSH engine: name resolution and connect with a deadline, and the bounded, cancellable
 * wait that every step of a login uses. Runs on a helper thread; knows nothing of SSH.
 */
#ifndef CV_BACKENDS_SSH_TCP_H
#define CV_BACKENDS_SSH_TCP_H

#include <stdint.h>

#include "config/err.h"

/* How long a blocking step may take, and how another thread ends it early. */
struct cv_ssh_limit {
	uint64_t deadline_ns;	  /* CLOCK_MONOTONIC */
	uint64_t greeting_ns;	  /* until then the server itself must have said a word; 0: none */
	int cancel_fd;		  /* readable: give up; -1: none */
	const char *_Atomic step; /* what is being done, for people; read by other threads */
};

/*
 * Waits for poll(2) events on fd, at most max_ms and never past the deadline.
 * Returns revents, 0 (max_ms over), -ETIMEDOUT (deadline), -ECANCELED.
 */
int cv_ssh_wait(const struct cv_ssh_limit *limit, int fd, short events, int max_ms);
/* The same limit, for the steps before the server's greeting. */
struct cv_ssh_limit cv_ssh_limit_early(const struct cv_ssh_limit *limit);

/*
 * Resolves host and tries its addresses in turn. user_timeout_ms: after how long unacknowledged
 * data ends the connection (TCP_USER_TIMEOUT). The descriptor is CLOEXEC, O_NONBLOCK, TCP_NODELAY
 * and has keepalive on. Resolution itself cannot be bounded here (the C library's resolver blocks):
 * whoever waits for this thread must be able to leave it behind.
 */
int cv_ssh_tcp_connect(const char *host, unsigned port, unsigned user_timeout_ms,
		       struct cv_ssh_limit *limit, int *ret_fd, struct cv_err *err);

#endif
