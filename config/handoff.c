/* SPDX-License-Identifier: Apache-2.0 */
#include "config/handoff.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "config/cleanup.h"
#include "config/str.h"

void cv_handoff_release(struct cv_handoff *msg)
{
	cv_dict_release(&msg->args);
	for (size_t i = 0; i < CV_HANDOFF_FDS; i++)
		cv_close_fd(&msg->fds[i]);
	msg->nfds = 0;
}

static int append(char *buf, size_t *used, const char *text)
{
	size_t n = strlen(text) + 1;

	if (n > CV_HANDOFF_SIZE - *used)
		return -EMSGSIZE;
	memcpy(buf + *used, text, n);
	*used += n;
	return 0;
}

int cv_handoff_send(int sock, const char *verb, const struct cv_dict *args, const int *fds,
		    size_t nfds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CV_HANDOFF_FDS)];
	} control;
	cv_cleanup_free char *buf = malloc(CV_HANDOFF_SIZE);
	struct iovec iov = { .iov_base = buf };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t used = 0;
	ssize_t n;
	int r;

	if (!buf)
		return -ENOMEM;
	if (nfds > CV_HANDOFF_FDS || !*verb || strlen(verb) >= CV_HANDOFF_VERB)
		return -EINVAL;
	r = append(buf, &used, verb);
	for (size_t i = 0; r == 0 && args && i < args->count; i++) {
		r = append(buf, &used, args->items[i].key);
		if (r == 0)
			r = append(buf, &used, args->items[i].value);
	}
	if (r == 0) {
		iov.iov_len = used;
		if (nfds) {
			struct cmsghdr *c;

			memset(&control, 0, sizeof(control));
			msg.msg_control = control.bytes;
			msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
			c = CMSG_FIRSTHDR(&msg);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
			memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
		}
		do
			n = sendmsg(sock, &msg, MSG_NOSIGNAL);
		while (n < 0 && errno == EINTR);
		r = n < 0 ? -errno : 0;
	}
	cv_wipe(buf, used); /* options may hold secrets */
	return r;
}

int cv_handoff_parse(const void *data, size_t size, struct cv_handoff *ret_msg)
{
	const char *p = data, *end;
	size_t n;

	/* data may be NULL if size is 0 */
	if (!size || p[size - 1] != '\0')
		return -EBADMSG;
	end = p + size;
	n = strlen(p);
	if (!n || n >= CV_HANDOFF_VERB)
		return -EBADMSG;
	(void)cv_strcpy(ret_msg->verb, sizeof(ret_msg->verb), p);
	p += n + 1;
	while (p < end) {
		const char *key = p;
		const char *value = key + strlen(key) + 1;
		int r;

		if (value >= end)
			return -EBADMSG;
		r = cv_dict_set(&ret_msg->args, key, value);
		if (r < 0)
			return r == -ENOMEM ? r : -EBADMSG;
		p = value + strlen(value) + 1;
	}
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int wait_readable(int sock, int timeout_ms)
{
	int64_t until = now_ms() + timeout_ms;

	for (;;) {
		struct pollfd pfd = { .fd = sock, .events = POLLIN };
		int64_t left = timeout_ms < 0 ? -1 : until - now_ms();
		int r;

		if (timeout_ms >= 0 && left < 0)
			left = 0;
		r = poll(&pfd, 1, (int)left);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r == 0)
			return -ETIMEDOUT;
	}
}

static void take_fds(struct msghdr *msg, struct cv_handoff *ret_msg, bool *ret_excess)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (ret_msg->nfds < CV_HANDOFF_FDS) {
				ret_msg->fds[ret_msg->nfds++] = fd;
			} else {
				cv_close_fd(&fd);
				*ret_excess = true;
			}
		}
	}
}

int cv_handoff_recv(int sock, int timeout_ms, struct cv_handoff *ret_msg)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CV_HANDOFF_FDS)];
	} control;
	cv_cleanup_free char *buf = malloc(CV_HANDOFF_SIZE);
	struct iovec iov = { .iov_base = buf, .iov_len = CV_HANDOFF_SIZE };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	cv_cleanup_handoff struct cv_handoff got = CV_HANDOFF_INIT;
	bool excess = false;
	ssize_t n;
	int r;

	if (!buf)
		return -ENOMEM;
	if (timeout_ms != 0) {
		r = wait_readable(sock, timeout_ms);
		if (r < 0)
			return r;
	}
	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	take_fds(&msg, &got, &excess);
	if (n == 0 && !got.nfds)
		return -ECONNRESET;
	if (excess || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		r = -EBADMSG;
	else
		r = cv_handoff_parse(buf, (size_t)n, &got);
	cv_wipe(buf, (size_t)n);
	if (r < 0)
		return r;
	*ret_msg = got;
	got = (struct cv_handoff)CV_HANDOFF_INIT;
	return 0;
}
