/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/message.h"
#include "plugin/process.h"

#define ANSWER_MAX (64u << 20)

static int connect_daemon(const char *path, struct cv_err *err)
{
	cv_cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (!cv_strcpy(addr.sun_path, sizeof(addr.sun_path), path))
		return cv_fail(err, ENAMETOOLONG, "the socket path %s is too long", path);
	if (fd < 0)
		return cv_fail(err, errno, "socket: %s", cv_strerror(errno));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return cv_fail(
			err, errno, "cannot reach the daemon on %s: %s%s", path, cv_strerror(errno),
			errno == EACCES ? " (try as root)" : "; is it running? (cvol daemon)");
	return cv_steal_fd(&fd);
}

static int wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd pfd = { .fd = fd, .events = events };
	int r;

	do {
		r = poll(&pfd, 1, cv_clock_left_ms(deadline));
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r == 0 ? -ETIMEDOUT : 0;
}

static int send_all(int fd, const char *data, size_t size, uint64_t deadline)
{
	while (size > 0) {
		int r = wait_for(fd, POLLOUT, deadline);
		ssize_t n;

		if (r < 0)
			return r;
		n = send(fd, data, size, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		}
	}
	return 0;
}

/* Until the end of the connection, which we asked for. */
static int read_all(int fd, char **ret, uint64_t deadline)
{
	cv_cleanup_free char *data = NULL;
	size_t used = 0, room = 0;

	for (;;) {
		int r = wait_for(fd, POLLIN, deadline);
		ssize_t n;

		if (r < 0)
			return r;
		if (room - used < 2) {
			char *bigger = room < ANSWER_MAX ? realloc(data, room * 2 + 4096) : NULL;

			if (!bigger)
				return -EFBIG;
			data = bigger;
			room = room * 2 + 4096;
		}
		n = recv(fd, data + used, room - used - 1, 0);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n == 0)
			break;
		if (n > 0)
			used += (size_t)n;
	}
	data[used] = '\0';
	*ret = cv_steal(&data);
	return 0;
}

static int take_answer(const char *answer, char **ret_body, struct cv_err *err)
{
	const char *body = strstr(answer, "\r\n\r\n");
	cv_cleanup_free char *text = NULL;
	unsigned status = 0;

	if (!body || sscanf(answer, "HTTP/1.%*d %u", &status) != 1)
		return cv_fail(err, EPROTO, "what answers there is no cvol daemon");
	body += 4;
	text = cv_answer_err(body);
	if (text)
		return cv_fail(err, EIO, "%s", text);
	if (status != 200)
		return cv_fail(err, EIO, "the daemon answered with HTTP status %u", status);
	*ret_body = strdup(body);
	return *ret_body ? 0 : cv_fail(err, ENOMEM, "out of memory");
}

int cv_client_call(const char *socket_path, const char *method, const char *path, const char *body,
		   int timeout_ms, char **ret_body, struct cv_err *err)
{
	uint64_t deadline = cv_clock_ms() + (uint64_t)timeout_ms;
	cv_cleanup_close int fd = connect_daemon(socket_path, err);
	cv_cleanup_free char *request = NULL;
	cv_cleanup_free char *answer = NULL;
	int r;

	if (fd < 0)
		return fd;
	if (!body)
		body = "";
	request = cv_sprintf("%s %s HTTP/1.1\r\nHost: cvol\r\nConnection: close\r\n"
			     "Content-Length: %zu\r\n\r\n%s",
			     method, path, strlen(body), body);
	r = request ? send_all(fd, request, strlen(request), deadline) : -ENOMEM;
	if (r == 0)
		r = read_all(fd, &answer, deadline);
	if (r == -ETIMEDOUT)
		return cv_fail(err, ETIMEDOUT, "the daemon did not answer within %d s",
			       timeout_ms / 1000);
	if (r < 0)
		return cv_fail(err, -r, "talking to the daemon: %s", cv_strerror(r));
	return take_answer(answer, ret_body, err);
}
