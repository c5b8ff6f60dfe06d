/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/ssh_tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "config/cleanup.h"
#include "config/loop.h"
#include "config/step.h"
#include "config/str.h"

/*
 * What has arrived is acknowledged at once, not with our next data or after 40 ms: sshd does not
 * set TCP_NODELAY before the session runs, so its next small packet waits for the acknowledgement
 * of the last one (Nagle's algorithm). The kernel forgets it, so it is said before each wait.
 */
static void acknowledge(int fd)
{
	int on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
}

int cv_ssh_wait(const struct cv_ssh_limit *limit, int fd, short events, int max_ms)
{
	for (;;) {
		struct pollfd p[2] = { { fd, events, 0 }, { limit->cancel_fd, POLLIN, 0 } };
		uint64_t now = cv_now_ns();
		uint64_t left_ms;
		int r;

		if (now >= limit->deadline_ns)
			return -ETIMEDOUT;
		if (events & POLLIN)
			acknowledge(fd);
		left_ms = (limit->deadline_ns - now) / 1000000 + 1;
		r = poll(p, limit->cancel_fd >= 0 ? 2 : 1,
			 left_ms < (uint64_t)max_ms ? (int)left_ms : max_ms);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0 && p[1].revents)
			return -ECANCELED;
		if (r > 0)
			return p[0].revents;
		if (r == 0)
			return left_ms < (uint64_t)max_ms ? -ETIMEDOUT : 0;
	}
}

struct cv_ssh_limit cv_ssh_limit_early(const struct cv_ssh_limit *limit)
{
	struct cv_ssh_limit early = *limit;

	if (early.greeting_ns && early.greeting_ns < early.deadline_ns)
		early.deadline_ns = early.greeting_ns;
	return early;
}

static void set_options(int fd, unsigned user_timeout_ms)
{
	int on = 1;
	int idle = 15;
	int interval = 5;
	int count = 3;

	/* None of these is needed for correctness, so a refusal is no error. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms,
			 sizeof(user_timeout_ms));
}

/* Returns the descriptor or -errno. */
static int try_address(const struct addrinfo *ai, const struct cv_ssh_limit *limit)
{
	cv_cleanup_close int fd = socket(
		ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
	int error = 0;
	socklen_t len = sizeof(error);
	int r;

	if (fd < 0)
		return -errno;
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
		if (errno != EINPROGRESS)
			return -errno;
		do {
			r = cv_ssh_wait(limit, fd, POLLOUT, 1000);
		} while (r == 0);
		if (r < 0)
			return r;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			return -errno;
		if (error)
			return -error;
	}
	return cv_steal_fd(&fd);
}

static void address_text(const struct addrinfo *ai, char *text, size_t size)
{
	if (getnameinfo(ai->ai_addr, ai->ai_addrlen, text, (socklen_t)size, NULL, 0,
			NI_NUMERICHOST) != 0)
		(void)cv_strcpy(text, size, "?");
}

static int resolve(const char *host, unsigned port, struct addrinfo **ret_list, struct cv_err *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC,
				  .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_ADDRCONFIG };
	char service[16];
	int r;

	(void)snprintf(service, sizeof(service), "%u", port);
	r = getaddrinfo(host, service, &hints, ret_list);
	if (r == EAI_NONAME || r == EAI_ADDRFAMILY) {
		/* AI_ADDRCONFIG leaves out ::1 on a host without other IPv6 addresses. */
		hints.ai_flags = 0;
		r = getaddrinfo(host, service, &hints, ret_list);
	}
	if (r == 0)
		return 0;
	return cv_fail(err, EHOSTUNREACH,
		       "sftp: cannot resolve host '%s': %s; is the name right, and known on this "
		       "host?",
		       host, r == EAI_SYSTEM ? cv_strerror(errno) : gai_strerror(r));
}

int cv_ssh_tcp_connect(const char *host, unsigned port, unsigned user_timeout_ms,
		       struct cv_ssh_limit *limit, int *ret_fd, struct cv_err *err)
{
	struct addrinfo *list = NULL;
	unsigned left = 0;
	int fd = -1;
	int r;

	limit->step = cv_step("resolving the host name");
	r = resolve(host, port, &list, err);
	if (r < 0)
		return r;
	for (const struct addrinfo *ai = list; ai; ai = ai->ai_next)
		left++;
	limit->step = cv_step("connecting");
	for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next, left--) {
		struct cv_ssh_limit part = cv_ssh_limit_early(limit);
		uint64_t now = cv_now_ns();
		char text[INET6_ADDRSTRLEN + 16];

		/* An address that does not answer must leave time for the next one. */
		if (now < part.deadline_ns)
			part.deadline_ns = now + (part.deadline_ns - now) / left;
		fd = try_address(ai, &part);
		if (fd < 0) {
			address_text(ai, text, sizeof(text));
			(void)cv_fail(err, fd,
				      "sftp: cannot connect to %s port %u (%s): %s; is sshd "
				      "running there and reachable?",
				      host, port, text, cv_strerror(fd));
			if (fd == -ECANCELED)
				break;
		}
	}
	freeaddrinfo(list);
	if (fd < 0)
		return fd;
	set_options(fd, user_timeout_ms);
	*ret_fd = fd;
	return 0;
}
