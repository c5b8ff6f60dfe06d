/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The running stream; ssh_login.c made the session, ssh_jump.c the way there.
 *
 * What libssh 0.10 needs from its user, none of which it documents:
 *  - it takes O_NONBLOCK off the socket once connected; send() would then block the loop;
 *  - a stream that fails its integrity check is reported by ssh_get_status() alone;
 *  - ssh_channel_write() with a closed window polls by itself, so the window is looked at first;
 *  - the receive window is only raised by asking to read more than it holds.
 */
#include "backends/ssh_transport.h"

#include <errno.h>
#include <libssh/callbacks.h>
#include <libssh/libssh.h>
#include <libssh/server.h> /* ssh_send_keepalive() */
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "backends/ssh_login.h"
#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/step.h"
#include "config/str.h"

#define LIBSSH_READ 4096	 /* bytes of one recv() */
#define TURNS_MAX   16		 /* dopoll calls per cv_ssh_turn(), a recv() each */
#define UNSENT_MAX  (512 * 1024) /* bytes in libssh's output buffer */

struct cv_ssh {
	struct cv_ssh *base;	 /* a further channel: of that connection */
	struct cv_ssh *channels; /* further ones of this connection */
	struct cv_ssh *next;
	bool opened; /* a further channel: the subsystem is to be started */
	ssh_session session;
	ssh_channel channel;
	ssh_event event;
	struct ssh_channel_callbacks_struct callbacks;
	struct ssh_counter_struct counter; /* of the socket */
	int fd;				   /* libssh's */
	struct cv_ssh_tunnel *tunnel;	   /* through jump hosts, or NULL */
	bool ended;			   /* peer sent EOF or closed the channel */
	void (*data)(void *user, const uint8_t *p, size_t n);
	void *user;
	uint64_t handed;   /* bytes given to libssh, ever */
	uint64_t sync_out; /* counter.out_bytes and handed when its buffer was last seen empty */
	uint64_t sync_handed;
	uint32_t window;  /* wanted receive window; 0: leave it alone */
	void *window_buf; /* window bytes, never touched */
	bool window_due;
	uint64_t in; /* bytes of this channel */
	uint64_t window_in;
	char error[256];
	char server[128];
	char cipher[64];
};

/* ---- channel ---- */

static int on_data(ssh_session session, ssh_channel channel, void *data, uint32_t len,
		   int is_stderr, void *userdata)
{
	struct cv_ssh *ssh = userdata;

	(void)session;
	(void)channel;
	if (is_stderr)
		cv_debug("sftp: server says: %.*s", len < 512 ? (int)len : 512, (char *)data);
	else if (ssh->data)
		ssh->data(ssh->user, data, len);
	ssh->in += len;
	return (int)len; /* what is left would be kept and moved with every packet */
}

static void on_eof(ssh_session session, ssh_channel channel, void *userdata)
{
	(void)session;
	(void)channel;
	((struct cv_ssh *)userdata)->ended = true;
}

static bool take_data(struct cv_ssh *ssh)
{
	ssh->callbacks.userdata = ssh;
	ssh->callbacks.channel_data_function = on_data;
	ssh->callbacks.channel_eof_function = on_eof;
	ssh->callbacks.channel_close_function = on_eof;
	ssh_callbacks_init(&ssh->callbacks);
	return ssh_set_channel_callbacks(ssh->channel, &ssh->callbacks) == SSH_OK;
}

static int open_channel(struct cv_ssh *ssh, struct cv_ssh_login *l)
{
	int r;

	l->limit->step = cv_step("opening a channel");
	ssh->channel = ssh_channel_new(ssh->session);
	if (!ssh->channel)
		return cv_ssh_login_failed(l, ENOMEM);
	while ((r = ssh_channel_open_session(ssh->channel)) == SSH_AGAIN) {
		int w = cv_ssh_login_wait(l);

		if (w < 0)
			return w;
	}
	if (r != SSH_OK)
		return cv_ssh_login_failed(l, EPROTO);
	l->limit->step = cv_step("starting the SFTP subsystem");
	while ((r = ssh_channel_request_sftp(ssh->channel)) == SSH_AGAIN) {
		int w = cv_ssh_login_wait(l);

		if (w < 0)
			return w;
	}
	if (r != SSH_OK)
		return cv_fail(l->err, EPROTO,
			       "sftp: %s does not offer SFTP to '%s' (%s): enable the sftp "
			       "subsystem in its sshd_config",
			       l->target->name, l->target->user, ssh_get_error(ssh->session));
	ssh->event = ssh_event_new();
	if (!ssh->event || !take_data(ssh) ||
	    ssh_event_add_session(ssh->event, ssh->session) != SSH_OK)
		return cv_ssh_login_failed(l, ENOMEM);
	ssh_channel_set_blocking(ssh->channel, 0);
	cv_ssh_set_nonblocking(ssh->fd);
	return 0;
}

static void note_session(struct cv_ssh *ssh, const struct cv_ssh_login *l)
{
	const char *server = ssh_get_serverbanner(l->session);
	const char *cipher = ssh_get_cipher_in(l->session);

	ssh->session = l->session;
	ssh->fd = l->fd;
	ssh->tunnel = l->tunnel;
	(void)cv_strcpy(ssh->server, sizeof(ssh->server), server ? server : "");
	(void)cv_strcpy(ssh->cipher, sizeof(ssh->cipher), cipher ? cipher : "");
}

/*
 * A worker that dies must leave nothing on its way, to arrive behind what its successor repeats:
 * with SO_LINGER at 0 the kernel drops what it has not sent.
 */
static void set_abortive(const struct cv_ssh *ssh, bool on)
{
	const struct linger value = { .l_onoff = on, .l_linger = 0 };

	if (ssh->fd >= 0)
		(void)setsockopt(ssh->fd, SOL_SOCKET, SO_LINGER, &value, sizeof(value));
}

int cv_ssh_open(const struct cv_dict *options, struct cv_ssh_limit *limit, struct cv_ssh **ret_ssh,
		struct cv_err *err)
{
	struct cv_ssh *ssh = calloc(1, sizeof(*ssh));
	struct cv_ssh_target target;
	struct cv_ssh_login l = { .target = &target, .limit = limit, .err = err };
	int r;

	if (!ssh)
		return cv_fail(err, ENOMEM, "sftp: out of memory");
	ssh->fd = -1;
	l.counter = &ssh->counter;
	r = cv_ssh_target_init(&target, options, NULL, err);
	if (r < 0) {
		free(ssh);
		return r;
	}
	r = cv_ssh_login(&l);
	if (r == 0) {
		note_session(ssh, &l);
		r = open_channel(ssh, &l);
	}
	cv_ssh_target_release(&target);
	if (r < 0) {
		cv_ssh_close(ssh);
		return r;
	}
	set_abortive(ssh, true);
	*ret_ssh = ssh;
	return 0;
}

struct cv_ssh *cv_ssh_channel(struct cv_ssh *base)
{
	struct cv_ssh *ssh = calloc(1, sizeof(*ssh));

	if (ssh)
		ssh->channel = ssh_channel_new(base->session);
	if (!ssh || !ssh->channel) {
		free(ssh);
		return NULL;
	}
	ssh->base = base;
	ssh->session = base->session;
	ssh->fd = base->fd;
	ssh->next = base->channels;
	base->channels = ssh;
	return ssh;
}

int cv_ssh_channel_start(struct cv_ssh *ssh)
{
	int r = ssh->opened ? SSH_OK : ssh_channel_open_session(ssh->channel);

	if (r == SSH_OK) {
		ssh->opened = true;
		r = ssh_channel_request_sftp(ssh->channel);
	}
	if (r == SSH_AGAIN)
		return 0;
	return r == SSH_OK && take_data(ssh) ? 1 : -EPROTO;
}

bool cv_ssh_channel_ended(const struct cv_ssh *ssh)
{
	return ssh->ended;
}

static void drop_channel(struct cv_ssh *ssh)
{
	struct cv_ssh **at = &ssh->base->channels;

	while (*at != ssh)
		at = &(*at)->next;
	*at = ssh->next;
	(void)ssh_remove_channel_callbacks(ssh->channel, &ssh->callbacks);
	ssh_channel_free(ssh->channel); /* tells the server, too */
	free(ssh->window_buf);
	free(ssh);
}

void cv_ssh_close(struct cv_ssh *ssh)
{
	if (!ssh)
		return;
	ssh->data = NULL;
	if (ssh->base) {
		drop_channel(ssh);
		return;
	}
	set_abortive(ssh, false); /* a good-bye arrives */
	if (ssh->event) {
		(void)ssh_event_remove_session(ssh->event, ssh->session);
		ssh_event_free(ssh->event);
	}
	cv_ssh_session_free(ssh->session); /* and its channel */
	cv_ssh_tunnel_end(ssh->tunnel);
	free(ssh->window_buf);
	free(ssh);
}

/* ---- running ---- */

void cv_ssh_set_data(struct cv_ssh *ssh, void (*data)(void *user, const uint8_t *p, size_t n),
		     void *user)
{
	ssh->data = data;
	ssh->user = user;
}

int cv_ssh_fd(const struct cv_ssh *ssh)
{
	return ssh->fd;
}

uint32_t cv_ssh_want(const struct cv_ssh *ssh)
{
	bool write = ssh_get_poll_flags(ssh->session) & SSH_WRITE_PENDING;

	return EPOLLIN | (write ? (uint32_t)EPOLLOUT : 0);
}

/* Returns 1 when something was done, 0 when there was nothing to do, -1 at the end of the stream.
 */
static int turn(struct cv_ssh *ssh)
{
	int r = ssh_event_dopoll(ssh->event, 0);

	if (r == SSH_ERROR || ssh->ended ||
	    (ssh_get_status(ssh->session) & (SSH_CLOSED | SSH_CLOSED_ERROR)))
		return -1;
	return r != SSH_AGAIN;
}

static int broken(struct cv_ssh *ssh)
{
	const char *text = ssh_get_error(ssh->session);

	if (!*ssh->error)
		(void)cv_strcpy(ssh->error, sizeof(ssh->error),
				*text	     ? text
				: ssh->ended ? "the server closed the SFTP channel"
					     : "connection lost");
	return -ECONNRESET;
}

/* The window is topped up once per quarter, outside the callbacks. */
static void raise_window(struct cv_ssh *ssh)
{
	int n;

	if (!ssh->window_buf || ssh->ended ||
	    (!ssh->window_due && ssh->in - ssh->window_in < ssh->window / 4))
		return;
	ssh->window_due = false;
	ssh->window_in = ssh->in;
	n = ssh_channel_read_timeout(ssh->channel, ssh->window_buf, ssh->window, 0, 0);
	if (n > 0 && ssh->data)
		ssh->data(ssh->user, ssh->window_buf, (size_t)n);
}

static void raise_windows(struct cv_ssh *ssh)
{
	raise_window(ssh);
	for (struct cv_ssh *channel = ssh->channels; channel; channel = channel->next)
		raise_window(channel);
}

int cv_ssh_settle(struct cv_ssh *ssh)
{
	if (!(ssh_get_poll_flags(ssh->session) & SSH_WRITE_PENDING) ||
	    (ssh_get_status(ssh->session) & SSH_WRITE_PENDING))
		return 0;
	if (turn(ssh) < 0)
		return broken(ssh);
	raise_windows(ssh);
	return 1;
}

int cv_ssh_turn(struct cv_ssh *ssh)
{
	for (int i = 0; i < TURNS_MAX; i++) {
		uint64_t before = ssh->counter.in_bytes;
		int r = turn(ssh);

		if (r < 0)
			return broken(ssh);
		/* Less than one read's worth: that was all, for now. */
		if (r == 0 || ssh->counter.in_bytes - before < LIBSSH_READ)
			break;
	}
	raise_windows(ssh);
	return 0;
}

const char *cv_ssh_error(const struct cv_ssh *ssh)
{
	return ssh->error;
}

/* libssh tells whether output is left, not how much; the socket's counter fills in the rest. */
static uint64_t unsent(struct cv_ssh *ssh)
{
	uint64_t given = ssh->handed - ssh->sync_handed;
	uint64_t gone = ssh->counter.out_bytes - ssh->sync_out;

	if (!(ssh_get_status(ssh->session) & SSH_WRITE_PENDING)) {
		ssh->sync_handed = ssh->handed;
		ssh->sync_out = ssh->counter.out_bytes;
		return 0;
	}
	return given > gone ? given - gone : 1;
}

/* Whose socket it is. */
static struct cv_ssh *connection(struct cv_ssh *ssh)
{
	return ssh->base ? ssh->base : ssh;
}

size_t cv_ssh_room(struct cv_ssh *ssh)
{
	uint64_t waiting = unsent(connection(ssh));
	uint32_t window = ssh_channel_window_size(ssh->channel);

	if (waiting >= UNSENT_MAX)
		return 0;
	return window < UNSENT_MAX - waiting ? window : (size_t)(UNSENT_MAX - waiting);
}

ssize_t cv_ssh_send(struct cv_ssh *ssh, const void *data, size_t size)
{
	size_t room = cv_ssh_room(ssh);
	int n;

	if (size > room)
		size = room;
	if (size == 0)
		return 0;
	n = ssh_channel_write(ssh->channel, data, (uint32_t)size);
	if (n < 0)
		return broken(ssh);
	connection(ssh)->handed += (uint64_t)n;
	return n;
}

void cv_ssh_set_window(struct cv_ssh *ssh, uint32_t size_bytes)
{
	void *buf;

	if (size_bytes <= ssh->window)
		return;
	/* Only there because a read must have somewhere to go: the callback takes everything, so
	 * the pages are never touched and cost nothing. */
	buf = malloc(size_bytes);
	if (!buf)
		return;
	free(ssh->window_buf);
	ssh->window_buf = buf;
	ssh->window = size_bytes;
	ssh->window_due = true;
}

void cv_ssh_provoke(struct cv_ssh *ssh)
{
	/* Where the answer to an earlier one is there, the first call only takes note of it; where
	 * that one is still owed, neither sends any. */
	(void)ssh_send_keepalive(ssh->session);
	(void)ssh_send_keepalive(ssh->session);
}

uint64_t cv_ssh_bytes_in(const struct cv_ssh *ssh)
{
	return ssh->base ? ssh->base->counter.in_bytes : ssh->counter.in_bytes;
}

uint64_t cv_ssh_bytes_taken(const struct cv_ssh *ssh, bool *ret_more)
{
	uint64_t out = ssh->base ? ssh->base->counter.out_bytes : ssh->counter.out_bytes;
	int queued = 0;

	if (ioctl(ssh->fd, SIOCOUTQ, &queued) < 0)
		queued = 0;
	*ret_more = queued > 0;
	return out - (uint64_t)queued;
}

bool cv_ssh_same_peer(const struct cv_ssh *a, const struct cv_ssh *b)
{
	struct sockaddr_storage peers[2] = { 0 };
	socklen_t sizes[2] = { sizeof(peers[0]), sizeof(peers[1]) };

	if (getpeername(a->fd, (struct sockaddr *)&peers[0], &sizes[0]) < 0 ||
	    getpeername(b->fd, (struct sockaddr *)&peers[1], &sizes[1]) < 0)
		return false;
	return sizes[0] == sizes[1] && memcmp(&peers[0], &peers[1], sizes[0]) == 0;
}

const char *cv_ssh_server(const struct cv_ssh *ssh)
{
	return ssh->server;
}

const char *cv_ssh_cipher(const struct cv_ssh *ssh)
{
	return ssh->cipher;
}

const char *cv_ssh_library_version(void)
{
	return ssh_version(0);
}
