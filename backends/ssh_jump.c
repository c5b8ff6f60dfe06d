/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jump hosts: a session of our own to the jump host, in it a channel to the next one, and a thread
 * that carries bytes between that channel and a socket pair. The session inside sees a socket and
 * knows nothing of it. libssh 0.10 would run `ssh -W` instead.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "backends/ssh_login.h"
#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/step.h"
#include "config/str.h"

#define CARRY_SIZE  65536
#define TURNS_MAX   64 /* dopoll calls at a time; each reads at most 4 KiB */
#define IDLE_MS	    1000
#define STACK_BYTES (256 * 1024)

/* The thread's own while it runs, but for `thread`. */
struct cv_ssh_tunnel {
	pthread_t thread;
	struct cv_ssh_tunnel *below; /* what the session leads through */
	ssh_session session;
	ssh_channel channel;
	ssh_event event;
	int session_fd; /* the session's */
	int fd;		/* our end of the pair */
	struct carry {
		size_t at, size;
		uint8_t data[CARRY_SIZE];
	} in, out; /* from the channel, to the channel */
};

static void tunnel_close(struct cv_ssh_tunnel *t)
{
	if (t->event) {
		(void)ssh_event_remove_session(t->event, t->session);
		ssh_event_free(t->event);
	}
	cv_ssh_session_free(t->session);
	cv_close_fd(&t->fd);
	cv_ssh_tunnel_end(t->below);
}

void cv_ssh_tunnel_end(struct cv_ssh_tunnel *t)
{
	if (!t)
		return;
	(void)pthread_join(t->thread, NULL);
	free(t);
}

/* Returns whether anything moved, or -1 at the end of either side. */
static int carry_in(struct cv_ssh_tunnel *t)
{
	struct carry *c = &t->in;
	ssize_t n;

	if (c->at == c->size) {
		int got = ssh_channel_read_nonblocking(t->channel, c->data, sizeof(c->data), 0);

		if (got < 0 || (got == 0 && ssh_channel_is_eof(t->channel)))
			return -1;
		c->at = 0;
		c->size = (size_t)got;
	}
	if (c->at == c->size)
		return 0;
	n = send(t->fd, c->data + c->at, c->size - c->at, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	c->at += (size_t)n;
	return n > 0;
}

static int carry_out(struct cv_ssh_tunnel *t)
{
	struct carry *c = &t->out;
	uint32_t window = ssh_channel_window_size(t->channel);
	int n;

	if (c->at == c->size) {
		ssize_t got = recv(t->fd, c->data, sizeof(c->data), MSG_DONTWAIT);

		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			return -1;
		if (got < 0)
			return 0;
		c->at = 0;
		c->size = (size_t)got;
	}
	/* With a closed window the call would wait; with output left, libssh would only hoard. */
	if (window == 0 || (ssh_get_status(t->session) & SSH_WRITE_PENDING))
		return 0;
	if (window > c->size - c->at)
		window = (uint32_t)(c->size - c->at);
	n = ssh_channel_write(t->channel, c->data + c->at, window);
	if (n < 0)
		return -1;
	c->at += (size_t)n;
	return n > 0;
}

/* Waits until there may be something to do. */
static void tunnel_wait(struct cv_ssh_tunnel *t)
{
	bool pending = ssh_get_poll_flags(t->session) & SSH_WRITE_PENDING;
	struct pollfd p[2] = {
		{ t->session_fd, (short)(POLLIN | (pending ? POLLOUT : 0)), 0 },
		{ t->fd,
		  (short)((t->out.at == t->out.size ? POLLIN : 0) |
			  (t->in.at < t->in.size ? POLLOUT : 0)),
		  0 },
	};

	(void)poll(p, 2, IDLE_MS);
}

static bool tunnel_turn(struct cv_ssh_tunnel *t)
{
	int in;
	int out;

	for (int i = 0; i < TURNS_MAX; i++) {
		int r = ssh_event_dopoll(t->event, 0);

		/* A stream that fails its integrity check shows in the status alone. */
		if (r == SSH_ERROR ||
		    (ssh_get_status(t->session) & (SSH_CLOSED | SSH_CLOSED_ERROR)))
			return false;
		if (r == SSH_AGAIN)
			break;
	}
	in = carry_in(t);
	out = carry_out(t);
	if (in < 0 || out < 0)
		return false;
	if (in == 0 && out == 0)
		tunnel_wait(t);
	return true;
}

static void *tunnel_main(void *arg)
{
	struct cv_ssh_tunnel *t = arg;

	while (tunnel_turn(t))
		;
	cv_debug("sftp: a tunnel through a jump host ended: %s", ssh_get_error(t->session));
	tunnel_close(t);
	return NULL;
}

/* ---- setting up ---- */

static int open_tunnel(struct cv_ssh_login *l, const struct cv_ssh_target *to,
		       struct cv_ssh_tunnel *t)
{
	int r;

	l->limit->step = cv_step("opening a tunnel through the jump host");
	t->channel = ssh_channel_new(l->session);
	if (!t->channel)
		return cv_ssh_login_failed(l, ENOMEM);
	while ((r = ssh_channel_open_forward(t->channel, to->host, (int)to->port, "127.0.0.1",
					     0)) == SSH_AGAIN) {
		int w = cv_ssh_login_wait(l);

		if (w < 0)
			return w;
	}
	if (r != SSH_OK)
		return cv_fail(l->err, EHOSTUNREACH,
			       "sftp: jump host %s does not lead to %s port %u: %s; is it "
			       "reachable from there, and does the jump host allow forwarding "
			       "(AllowTcpForwarding)?",
			       l->target->name, to->host, to->port, ssh_get_error(l->session));
	t->event = ssh_event_new();
	if (!t->event || ssh_event_add_session(t->event, l->session) != SSH_OK)
		return cv_ssh_login_failed(l, ENOMEM);
	ssh_channel_set_blocking(t->channel, 0);
	cv_ssh_set_nonblocking(l->fd);
	return 0;
}

static int start_thread(struct cv_ssh_tunnel *t)
{
	pthread_attr_t attr;
	sigset_t all;
	sigset_t before;
	int r;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = -pthread_create(&t->thread, &attr, tunnel_main, t);
	(void)pthread_attr_destroy(&attr);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

/* From a login at the jump host to a socket. Takes the session over. */
static int tunnel_new(struct cv_ssh_login *l, const struct cv_ssh_target *to, int *ret_fd,
		      struct cv_ssh_tunnel **ret_tunnel)
{
	struct cv_ssh_tunnel *t = calloc(1, sizeof(*t));
	cv_cleanup_close int far = -1;
	int pair[2];
	int r;

	if (!t) {
		cv_ssh_login_undo(l);
		return cv_fail(l->err, ENOMEM, "sftp: out of memory");
	}
	t->fd = -1;
	t->session = l->session;
	t->session_fd = l->fd;
	t->below = l->tunnel;
	r = open_tunnel(l, to, t);
	if (r == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		r = cv_fail(l->err, errno, "sftp: socketpair: %s", cv_strerror(errno));
	if (r == 0) {
		t->fd = pair[0];
		far = pair[1];
		r = start_thread(t);
		if (r < 0)
			(void)cv_fail(l->err, r, "sftp: cannot start a thread: %s", cv_strerror(r));
	}
	if (r < 0) {
		tunnel_close(t);
		free(t);
		return r;
	}
	*ret_fd = cv_steal_fd(&far);
	*ret_tunnel = t;
	return 0;
}

int cv_ssh_jump(const struct cv_ssh_target *target, unsigned hops, struct cv_ssh_limit *limit,
		int *ret_fd, struct cv_ssh_tunnel **ret_tunnel, struct cv_err *err)
{
	const char *comma = strrchr(target->via, ',');
	struct cv_ssh_target hop;
	struct cv_ssh_login l = { .target = &hop, .limit = limit, .err = err, .hops = hops + 1 };
	int r;

	if (hops == CV_SSH_HOPS_MAX)
		return cv_fail(err, ELOOP,
			       "sftp: more than %d jump hosts: does one lead to itself?",
			       CV_SSH_HOPS_MAX);
	r = cv_ssh_target_init(&hop, target->options, comma ? comma + 1 : target->via, err);
	if (r < 0)
		return r;
	if (comma) {
		/* The rest of the list says how to get there, whatever the configuration has. */
		free(hop.via);
		hop.via = strndup(target->via, (size_t)(comma - target->via));
		if (!hop.via)
			r = cv_fail(err, ENOMEM, "sftp: out of memory");
	}
	if (r == 0)
		r = cv_ssh_login(&l);
	if (r == 0)
		r = tunnel_new(&l, target, ret_fd, ret_tunnel);
	cv_ssh_target_release(&hop);
	return r;
}
