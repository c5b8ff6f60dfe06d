/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP relay on loopback that misbehaves on command, for the fault tests.
 *
 *	delay-proxy [-c SOCKET] [-d MS] [-b BYTES_PER_SECOND] LISTEN_PORT TARGET_PORT
 *	delay-proxy -x SOCKET COMMAND        one command to a running relay; prints the answer
 *unless ok
 *
 * Commands, one a line, answered with one line:
 *
 *	delay MS       one-way delay of each direction from now on
 *	bw RATE        bytes per second for each direction of each connection; 0: no limit
 *	hole [up|down] nothing passes and nothing is read: senders stall, `resume` loses nothing
 *	               (up: client to server)
 *	swallow [up|down]  what arrives is read and thrown away
 *	resume         end of hole and swallow
 *	flip [up|down] one bit of what arrives next, once
 *	reset          every connection is aborted with RST
 *	close          every connection is closed with FIN
 *	refuse         new connections are refused
 *	mute           new connections are accepted and never served
 *	accept         end of refuse and mute
 *	stat           connections, bytes passed up and down
 *	turns          how often a client spoke after it was answered: the round trips it waited for
 *	quit
 *
 * One thread, one poll(). What it does not imitate: loss, slow start and the TCP window.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_SIZE 65536
#define HELD_MAX   (16u << 20) /* bytes held per direction before we stop reading */
#define CONNS_MAX  256
#define CTLS_MAX   8

enum direction { UP, DOWN, DIRECTIONS };

struct block {
	struct block *next;
	uint64_t due_us;
	size_t size;
	size_t sent;
	char data[];
};

struct stream {
	struct block *head, **tail;
	size_t held;
	bool eof;	  /* the sender has finished */
	bool shut;	  /* we passed that on */
	uint64_t free_us; /* the bandwidth limit lets the next byte go then */
};

struct conn {
	bool used;
	bool muted;
	bool connecting;
	int fd[DIRECTIONS]; /* fd[UP]: the client's, where "up" bytes come from; fd[DOWN]: the
			       server's */
	struct stream stream[DIRECTIONS];
};

static struct conn conns[CONNS_MAX];
static int ctls[CTLS_MAX];
static int listen_fd = -1, ctl_listen_fd = -1;
static uint16_t listen_port, target_port;
static uint64_t delay_us, rate;
static bool hole[DIRECTIONS], swallow[DIRECTIONS], flip[DIRECTIONS], mute;
static uint64_t passed[DIRECTIONS];
static uint64_t turns;
static bool answered;
static volatile sig_atomic_t quit;

static uint64_t now_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in loopback(uint16_t port)
{
	struct sockaddr_in sa;

	memset(&sa, 0, sizeof(sa));
	sa.sin_family = AF_INET;
	sa.sin_port = htons(port);
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return sa;
}

static int start_listening(void)
{
	struct sockaddr_in sa = loopback(listen_port);
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 128) < 0) {
		(void)close(fd);
		return -1;
	}
	listen_fd = fd;
	return 0;
}

static void stop_listening(void)
{
	if (listen_fd >= 0)
		(void)close(listen_fd);
	listen_fd = -1;
}

static void stream_release(struct stream *s)
{
	while (s->head) {
		struct block *b = s->head;

		s->head = b->next;
		free(b);
	}
	memset(s, 0, sizeof(*s));
	s->tail = &s->head;
}

static void conn_end(struct conn *c, bool with_rst)
{
	const struct linger rst = { .l_onoff = 1, .l_linger = 0 };

	for (int d = 0; d < DIRECTIONS; d++) {
		if (c->fd[d] >= 0) {
			if (with_rst)
				(void)setsockopt(c->fd[d], SOL_SOCKET, SO_LINGER, &rst,
						 sizeof(rst));
			(void)close(c->fd[d]);
		}
		c->fd[d] = -1;
		stream_release(&c->stream[d]);
	}
	c->used = false;
}

static void conns_end(bool with_rst)
{
	for (int i = 0; i < CONNS_MAX; i++) {
		if (conns[i].used)
			conn_end(&conns[i], with_rst);
	}
}

static int dial(bool *ret_connecting)
{
	struct sockaddr_in sa = loopback(target_port);
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*ret_connecting = false;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno != EINPROGRESS) {
			(void)close(fd);
			return -1;
		}
		*ret_connecting = true;
	}
	return fd;
}

static void accept_one(void)
{
	int one = 1;
	struct conn *c = NULL;
	int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	for (int i = 0; i < CONNS_MAX && !c; i++) {
		if (!conns[i].used)
			c = &conns[i];
	}
	if (!c) {
		(void)close(fd);
		return;
	}
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->used = true;
	c->muted = mute;
	c->connecting = false;
	c->fd[UP] = fd;
	c->fd[DOWN] = -1;
	for (int d = 0; d < DIRECTIONS; d++)
		stream_release(&c->stream[d]);
	if (c->muted)
		return;
	c->fd[DOWN] = dial(&c->connecting);
	if (c->fd[DOWN] < 0)
		conn_end(c, true);
}

/* Reads what has arrived from the sender of direction d. Returns false if the connection is over.
 */
static bool take_in(struct conn *c, enum direction d)
{
	struct stream *s = &c->stream[d];
	struct block *b = malloc(sizeof(*b) + BLOCK_SIZE);
	ssize_t n;

	if (!b)
		return false;
	n = recv(c->fd[d], b->data, BLOCK_SIZE, 0);
	if (n <= 0 || swallow[d]) {
		int err = errno;

		free(b);
		if (n == 0)
			s->eof = true;
		return n >= 0 || err == EAGAIN || err == EINTR;
	}
	turns += d == UP && answered;
	answered = answered && d != UP;
	if (flip[d]) {
		b->data[n / 2] ^= 1;
		flip[d] = false;
	}
	b->next = NULL;
	b->size = (size_t)n;
	b->sent = 0;
	b->due_us = now_us() + delay_us;
	*s->tail = b;
	s->tail = &b->next;
	s->held += b->size;
	return true;
}

/* When the next byte of the stream may go out; UINT64_MAX: none is waiting. */
static uint64_t stream_due(const struct stream *s)
{
	if (!s->head)
		return s->eof && !s->shut ? 0 : UINT64_MAX;
	return s->head->due_us > s->free_us ? s->head->due_us : s->free_us;
}

/* Sends what is due to the receiver of direction d. Returns false if the connection is over. */
static bool let_out(struct conn *c, enum direction d)
{
	struct stream *s = &c->stream[d];
	int fd = c->fd[d == UP ? DOWN : UP];

	while (s->head && stream_due(s) <= now_us()) {
		struct block *b = s->head;
		size_t want = b->size - b->sent;
		ssize_t n;

		/* Ten slices a second keep a slow line smooth. */
		if (rate && want > rate / 10 + 1)
			want = rate / 10 + 1;
		n = send(fd, b->data + b->sent, want, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		passed[d] += (uint64_t)n;
		answered = answered || d == DOWN;
		b->sent += (size_t)n;
		s->held -= (size_t)n;
		if (rate) {
			uint64_t now = now_us();

			if (s->free_us < now)
				s->free_us = now;
			s->free_us += (uint64_t)n * 1000000u / rate;
		}
		if (b->sent == b->size) {
			s->head = b->next;
			if (!s->head)
				s->tail = &s->head;
			free(b);
		}
	}
	if (!s->head && s->eof && !s->shut) {
		(void)shutdown(fd, SHUT_WR);
		s->shut = true;
	}
	return !(c->stream[UP].shut && c->stream[DOWN].shut);
}

static const char *set_direction(bool flags[DIRECTIONS], const char *arg)
{
	flags[UP] = !*arg || !strcmp(arg, "up");
	flags[DOWN] = !*arg || !strcmp(arg, "down");
	return flags[UP] || flags[DOWN] ? "ok" : "error: up or down";
}

static const char *stats_text(void)
{
	static char text[128];
	unsigned open_conns = 0;

	for (int i = 0; i < CONNS_MAX; i++)
		open_conns += conns[i].used;
	(void)snprintf(text, sizeof(text), "conns=%u up=%llu down=%llu", open_conns,
		       (unsigned long long)passed[UP], (unsigned long long)passed[DOWN]);
	return text;
}

static const char *turns_text(void)
{
	static char text[24];

	(void)snprintf(text, sizeof(text), "%llu", (unsigned long long)turns);
	return text;
}

static const char *command(char *line)
{
	char *arg = strchr(line, ' ');

	if (arg)
		*arg++ = '\0';
	else
		arg = line + strlen(line);
	if (!strcmp(line, "delay")) {
		delay_us = (uint64_t)(strtod(arg, NULL) * 1000);
	} else if (!strcmp(line, "bw")) {
		rate = strtoull(arg, NULL, 10);
	} else if (!strcmp(line, "hole")) {
		return set_direction(hole, arg);
	} else if (!strcmp(line, "swallow")) {
		return set_direction(swallow, arg);
	} else if (!strcmp(line, "flip")) {
		return set_direction(flip, arg);
	} else if (!strcmp(line, "resume")) {
		memset(hole, 0, sizeof(hole));
		memset(swallow, 0, sizeof(swallow));
	} else if (!strcmp(line, "reset")) {
		conns_end(true);
	} else if (!strcmp(line, "close")) {
		conns_end(false);
	} else if (!strcmp(line, "refuse")) {
		stop_listening();
	} else if (!strcmp(line, "mute")) {
		mute = true;
	} else if (!strcmp(line, "accept")) {
		mute = false;
		if (listen_fd < 0 && start_listening() < 0)
			return "error: cannot listen again";
	} else if (!strcmp(line, "stat")) {
		return stats_text();
	} else if (!strcmp(line, "turns")) {
		return turns_text();
	} else if (!strcmp(line, "quit")) {
		quit = 1;
	} else {
		return "error: unknown command";
	}
	return "ok";
}

/* One command per control connection and read: the client half below sends it in one piece. */
static void serve_ctl(int *fd)
{
	char line[256];
	const char *answer;
	ssize_t n = recv(*fd, line, sizeof(line) - 1, 0);

	if (n <= 0) {
		(void)close(*fd);
		*fd = -1;
		return;
	}
	line[n] = '\0';
	line[strcspn(line, "\r\n")] = '\0';
	answer = command(line);
	(void)send(*fd, answer, strlen(answer), MSG_NOSIGNAL);
	(void)send(*fd, "\n", 1, MSG_NOSIGNAL);
}

static void accept_ctl(void)
{
	int fd = accept4(ctl_listen_fd, NULL, NULL, SOCK_CLOEXEC);

	for (int i = 0; fd >= 0 && i < CTLS_MAX; i++) {
		if (ctls[i] < 0) {
			ctls[i] = fd;
			return;
		}
	}
	if (fd >= 0)
		(void)close(fd);
}

static int unix_socket(const char *path, struct sockaddr_un *sa)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(sa->sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(sa->sun_path, path);
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int send_command(const char *path, const char *text)
{
	struct sockaddr_un sa;
	char answer[256];
	ssize_t n;
	int fd = unix_socket(path, &sa);

	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		die(path);
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		die("send");
	n = recv(fd, answer, sizeof(answer) - 1, 0);
	if (n <= 0)
		die("no answer");
	answer[n] = '\0';
	answer[strcspn(answer, "\n")] = '\0';
	if (strcmp(answer, "ok") != 0)
		puts(answer);
	(void)close(fd);
	return strncmp(answer, "error", 5) ? 0 : 1;
}

static void on_signal(int sig)
{
	(void)sig;
	quit = 1;
}

struct poll_set {
	struct pollfd fds[2 + CTLS_MAX + 2 * CONNS_MAX];
	nfds_t count;
	uint64_t due_us;
};

/* Returns the index, or -1 if the descriptor is not to be watched this turn. */
static int poll_add(struct poll_set *set, int fd, short events)
{
	if (fd < 0)
		return -1;
	set->fds[set->count] = (struct pollfd){ .fd = fd, .events = events };
	return (int)set->count++;
}

static short poll_result(const struct poll_set *set, int index)
{
	return index < 0 ? 0 : set->fds[index].revents;
}

/* Which events matter for one end; asks for an early wake-up when something is merely not due. */
static short wanted(const struct conn *c, enum direction in, struct poll_set *set, uint64_t now)
{
	enum direction out = in == UP ? DOWN : UP;
	uint64_t due = stream_due(&c->stream[out]);
	short events = 0;

	if (c->connecting)
		return in == DOWN ? POLLOUT : 0;
	if (!c->muted && !hole[in] && !c->stream[in].eof && c->stream[in].held < HELD_MAX)
		events |= POLLIN;
	if (!hole[out] && due != UINT64_MAX) {
		if (due <= now)
			events |= POLLOUT;
		else if (due < set->due_us)
			set->due_us = due;
	}
	return events;
}

static void turn_conn(struct conn *c, const struct poll_set *set, const int index[DIRECTIONS])
{
	for (int d = 0; d < DIRECTIONS && c->used; d++) {
		short got = poll_result(set, index[d]);
		enum direction out = d == UP ? DOWN : UP;
		bool alive = true;

		if (c->connecting && d == DOWN && got) {
			int err = 0;
			socklen_t len = sizeof(err);

			(void)getsockopt(c->fd[d], SOL_SOCKET, SO_ERROR, &err, &len);
			c->connecting = false;
			if (err)
				conn_end(c, true);
			continue;
		}
		if (got & (POLLIN | POLLHUP | POLLERR))
			alive = take_in(c, (enum direction)d);
		if (alive && (got & POLLOUT))
			alive = let_out(c, out);
		if (!alive)
			conn_end(c, !c->stream[UP].shut || !c->stream[DOWN].shut);
	}
}

static void turn(void)
{
	static struct poll_set set;
	int at_listen, at_ctl_listen, at_ctl[CTLS_MAX], at_conn[CONNS_MAX][DIRECTIONS];
	uint64_t now = now_us();
	int timeout_ms = -1;

	set.count = 0;
	set.due_us = UINT64_MAX;
	at_listen = poll_add(&set, listen_fd, POLLIN);
	at_ctl_listen = poll_add(&set, ctl_listen_fd, POLLIN);
	for (int i = 0; i < CTLS_MAX; i++)
		at_ctl[i] = poll_add(&set, ctls[i], POLLIN);
	for (int i = 0; i < CONNS_MAX; i++) {
		for (int d = 0; d < DIRECTIONS; d++) {
			short events = 0;

			at_conn[i][d] = -1;
			if (conns[i].used)
				events = wanted(&conns[i], (enum direction)d, &set, now);
			/* With no events asked for, poll() would still report a hang-up, in a hole
			 * too. */
			if (events)
				at_conn[i][d] = poll_add(&set, conns[i].fd[d], events);
		}
	}
	if (set.due_us != UINT64_MAX)
		timeout_ms = (int)((set.due_us - now + 999) / 1000);
	if (poll(set.fds, set.count, timeout_ms) < 0)
		return;
	for (int i = 0; i < CONNS_MAX; i++) {
		if (conns[i].used)
			turn_conn(&conns[i], &set, at_conn[i]);
	}
	if (poll_result(&set, at_listen))
		accept_one();
	if (poll_result(&set, at_ctl_listen))
		accept_ctl();
	for (int i = 0; i < CTLS_MAX; i++) {
		if (ctls[i] >= 0 && poll_result(&set, at_ctl[i]))
			serve_ctl(&ctls[i]);
	}
}

static void listen_ctl(const char *path)
{
	struct sockaddr_un sa;

	ctl_listen_fd = unix_socket(path, &sa);
	(void)unlink(path);
	if (ctl_listen_fd < 0 || bind(ctl_listen_fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
	    listen(ctl_listen_fd, 8) < 0)
		die(path);
}

int main(int argc, char **argv)
{
	const char *ctl_path = NULL, *send_to = NULL;
	int opt;

	while ((opt = getopt(argc, argv, "c:x:d:b:")) != -1) {
		switch (opt) {
		case 'c':
			ctl_path = optarg;
			break;
		case 'x':
			send_to = optarg;
			break;
		case 'd':
			delay_us = (uint64_t)(strtod(optarg, NULL) * 1000);
			break;
		case 'b':
			rate = strtoull(optarg, NULL, 10);
			break;
		default:
			return 2;
		}
	}
	if (send_to && optind + 1 == argc)
		return send_command(send_to, argv[optind]);
	if (send_to || optind + 2 != argc) {
		(void)fprintf(stderr, "usage: delay-proxy [-c SOCKET] [-d MS] [-b RATE] "
				      "LISTEN_PORT TARGET_PORT\n");
		return 2;
	}
	listen_port = (uint16_t)strtoul(argv[optind], NULL, 10);
	target_port = (uint16_t)strtoul(argv[optind + 1], NULL, 10);
	for (int i = 0; i < CTLS_MAX; i++)
		ctls[i] = -1;
	if (start_listening() < 0)
		die("listen");
	if (ctl_path)
		listen_ctl(ctl_path);
	(void)signal(SIGTERM, on_signal);
	(void)signal(SIGINT, on_signal);
	while (!quit)
		turn();
	conns_end(false);
	if (ctl_path)
		(void)unlink(ctl_path);
	return 0;
}
