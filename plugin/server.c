/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <microhttpd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"
#include "plugin/process.h"

#define CONNECTIONS_MAX 512
#define THREAD_STACK	(512 * 1024)
#define READ_TIMEOUT_S	20 /* between a client's bytes */
#define IDLE_TIMEOUT_S                                                                             \
	600 /* dockerd keeps its connection; closing it under a request costs a retry */

struct cv_server {
	const struct cv_http_handler *handler;
	void *ctx;
	size_t body_max;
	struct MHD_Daemon *daemon;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned active; /* requests being handled; protected by lock */
	bool draining;	 /* protected by lock; set by the thread that drains */
};

struct exchange {
	char *body; /* owned */
	size_t size;
	bool too_long;
	bool counted; /* in server->active */
	void *token;
};

/* ---- the socket ---- */

static int unix_address(const char *path, struct sockaddr_un *addr, struct cv_err *err)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (!cv_strcpy(addr->sun_path, sizeof(addr->sun_path), path))
		return cv_fail(err, ENAMETOOLONG,
			       "the socket path %s is too long: at most %zu bytes", path,
			       sizeof(addr->sun_path) - 1);
	return 0;
}

int cv_server_check_vacant(const char *path, struct cv_err *err)
{
	cv_cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr;
	struct stat st;
	int r = unix_address(path, &addr, err);

	if (r < 0)
		return r;
	if (lstat(path, &st) < 0)
		return errno == ENOENT
			       ? 0
			       : cv_fail(err, errno, "socket %s: %s", path, cv_strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return cv_fail(err, EEXIST, "%s exists and is not a socket: remove it first", path);
	if (fd < 0)
		return cv_fail(err, errno, "socket: %s", cv_strerror(errno));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 || errno == EAGAIN)
		return cv_fail(err, EADDRINUSE,
			       "another daemon answers on %s: stop it first, or use --socket",
			       path);
	return 0;
}

int cv_server_listen(const char *path, int *ret_fd, struct cv_err *err)
{
	cv_cleanup_close int fd = -1;
	cv_cleanup_free char *temporary = NULL;
	struct sockaddr_un addr;
	mode_t mask;
	int r;

	r = cv_server_check_vacant(path, err);
	if (r < 0)
		return r;
	/* Bound under another name and renamed when it can be connected to: never half there. */
	temporary = cv_sprintf("%s.%d", path, (int)getpid());
	if (!temporary)
		return cv_fail(err, ENOMEM, "out of memory");
	r = unix_address(temporary, &addr, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return cv_fail(err, errno, "socket: %s", cv_strerror(errno));
	(void)unlink(temporary);
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
	(void)umask(mask);
	if (r == 0 && (listen(fd, SOMAXCONN) < 0 || rename(temporary, path) < 0)) {
		r = -errno;
		(void)unlink(temporary);
	}
	if (r < 0)
		return cv_fail(err, -r, "cannot listen on %s: %s", path, cv_strerror(r));
	*ret_fd = cv_steal_fd(&fd);
	return 0;
}

static bool is_loopback(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)addr;

		return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	}
	return addr->sa_family == AF_INET6 &&
	       IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr);
}

static int listen_at(const struct addrinfo *at)
{
	cv_cleanup_close int fd =
		socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0)
		return -errno;
	return cv_steal_fd(&fd);
}

int cv_server_listen_tcp(const char *address, int *ret_fd, struct cv_err *err)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
				  .ai_socktype = SOCK_STREAM };
	const char *colon = strrchr(address, ':');
	bool brackets = *address == '[' && colon && colon > address && colon[-1] == ']';
	cv_cleanup_free char *host = NULL;
	struct addrinfo *at = NULL;
	int fd;

	if (colon)
		host = strndup(address + brackets,
			       (size_t)(colon - address) - 2 * (size_t)brackets);
	if (!host || !*host || getaddrinfo(host, colon + 1, &hints, &at) != 0)
		return cv_fail(err, EINVAL,
			       "'%s' is no address to listen on: write it as 127.0.0.1:9123 or "
			       "[::1]:9123",
			       address);
	if (is_loopback(at->ai_addr))
		fd = listen_at(at);
	else
		fd = -EACCES;
	freeaddrinfo(at);
	if (fd == -EACCES)
		return cv_fail(err, EACCES,
			       "%s is not a loopback address: everybody could read what is there; "
			       "put a server that asks for a password in front of 127.0.0.1",
			       address);
	if (fd < 0)
		return cv_fail(err, -fd, "cannot listen on %s: %s", address, cv_strerror(fd));
	*ret_fd = fd;
	return 0;
}

/* ---- requests ---- */

static bool enter(struct cv_server *s, struct exchange *x)
{
	CV_SCOPED_LOCK(&s->lock);
	if (s->draining)
		return false;
	s->active++;
	x->counted = true;
	return true;
}

static void leave(struct cv_server *s, struct exchange *x)
{
	if (!x->counted)
		return;
	CV_SCOPED_LOCK(&s->lock);
	if (--s->active == 0)
		(void)pthread_cond_broadcast(&s->idle);
}

static enum MHD_Result send_reply(struct cv_server *s, struct MHD_Connection *conn,
				  struct cv_http_reply *reply)
{
	static char no_memory[] = "{\"Err\":\"cvol: out of memory\"}\n";
	struct MHD_Response *response;
	enum MHD_Result r;

	if (reply->body) {
		response = MHD_create_response_from_buffer(strlen(reply->body), reply->body,
							   MHD_RESPMEM_MUST_FREE);
	} else {
		reply->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
		response = MHD_create_response_from_buffer(sizeof(no_memory) - 1, no_memory,
							   MHD_RESPMEM_PERSISTENT);
	}
	if (!response) {
		free(reply->body);
		return MHD_NO;
	}
	(void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
				      reply->content_type ? reply->content_type
							  : s->handler->content_type);
	/* For browsers: what we send loads nothing and is shown in nobody's frame. */
	(void)MHD_add_response_header(response, "Content-Security-Policy",
				      "default-src 'none'; style-src 'unsafe-inline'; "
				      "frame-ancestors 'none'");
	(void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	r = MHD_queue_response(conn, reply->status, response);
	MHD_destroy_response(response);
	return r;
}

/* Grows as data comes: what a Content-Length promises is not believed. */
static bool collect(struct cv_server *s, struct exchange *x, const char *data, size_t size)
{
	char *bigger;

	if (x->too_long || size > s->body_max - x->size) {
		x->too_long = true; /* the rest is read and dropped, so that the answer arrives */
		return true;
	}
	bigger = realloc(x->body, x->size + size + 1);
	if (!bigger)
		return false;
	memcpy(bigger + x->size, data, size);
	x->body = bigger;
	x->size += size;
	x->body[x->size] = '\0';
	return true;
}

static enum MHD_Result answer(struct cv_server *s, struct exchange *x, struct MHD_Connection *conn,
			      const char *url, const char *method)
{
	const char *accept =
		MHD_lookup_connection_value(conn, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);
	const char *host = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
	struct cv_http_request request = { .method = method,
					   .path = url,
					   .host = host ? host : "",
					   .accept = accept ? accept : "",
					   .body = x->body ? x->body : "",
					   .body_size = x->size };
	struct cv_http_reply reply = { .status = MHD_HTTP_INTERNAL_SERVER_ERROR };

	if (x->too_long) {
		reply.status = MHD_HTTP_CONTENT_TOO_LARGE;
		reply.body = s->handler->error_body("the request is too long");
	} else if (!enter(s, x)) {
		reply.status = MHD_HTTP_SERVICE_UNAVAILABLE;
		reply.body = s->handler->error_body("cvol is being stopped");
	} else {
		s->handler->handle(s->ctx, &request, &reply);
		x->token = reply.token;
	}
	return send_reply(s, conn, &reply);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *conn, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_size, void **per_request)
{
	struct cv_server *s = ctx;
	struct exchange *x = *per_request;

	(void)version;
	if (!x) { /* the headers are there */
		(void)MHD_set_connection_option(conn, MHD_CONNECTION_OPTION_TIMEOUT,
						(unsigned)READ_TIMEOUT_S);
		x = calloc(1, sizeof(*x));
		*per_request = x;
		return x ? MHD_YES : MHD_NO;
	}
	if (*upload_size) {
		bool ok = collect(s, x, upload, *upload_size);

		*upload_size = 0;
		return ok ? MHD_YES : MHD_NO;
	}
	return answer(s, x, conn, url, method);
}

static void on_completed(void *ctx, struct MHD_Connection *conn, void **per_request,
			 enum MHD_RequestTerminationCode code)
{
	struct cv_server *s = ctx;
	struct exchange *x = *per_request;

	if (!x)
		return;
	*per_request = NULL;
	if (x->token)
		s->handler->done(s->ctx, x->token, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
	leave(s, x);
	free(x->body);
	free(x);
	if (code == MHD_REQUEST_TERMINATED_COMPLETED_OK)
		(void)MHD_set_connection_option(conn, MHD_CONNECTION_OPTION_TIMEOUT,
						(unsigned)IDLE_TIMEOUT_S);
}

__attribute__((format(printf, 2, 0))) static void on_log(void *ctx, const char *fmt, va_list ap)
{
	char line[512];

	(void)ctx;
	(void)vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = '\0';
	cv_debug("http: %s", line);
}

int cv_server_start(int listen_fd, size_t body_max, const struct cv_http_handler *handler,
		    void *ctx, struct cv_server **ret, struct cv_err *err)
{
	struct cv_server *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s) {
		(void)close(listen_fd);
		return cv_fail(err, ENOMEM, "out of memory");
	}
	s->handler = handler;
	s->ctx = ctx;
	s->body_max = body_max;
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&s->idle, &attr);
	(void)pthread_condattr_destroy(&attr);
	s->daemon = MHD_start_daemon(
		MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL |
			MHD_USE_ITC | MHD_USE_ERROR_LOG,
		0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
		MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)READ_TIMEOUT_S,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
		MHD_OPTION_THREAD_STACK_SIZE, (size_t)THREAD_STACK, MHD_OPTION_END);
	if (!s->daemon) {
		(void)close(listen_fd);
		cv_server_free(s);
		return cv_fail(err, EIO, "the HTTP server cannot be started");
	}
	*ret = s;
	return 0;
}

bool cv_server_drain(struct cv_server *s, int timeout_ms)
{
	struct timespec until = cv_clock_timespec(cv_clock_ms() + (uint64_t)timeout_ms);
	int fd = s->draining ? -1 : MHD_quiesce_daemon(s->daemon);
	int r = 0;

	if (fd >= 0)
		(void)close(fd);
	CV_SCOPED_LOCK(&s->lock);
	s->draining = true;
	while (s->active && r == 0)
		r = pthread_cond_timedwait(&s->idle, &s->lock, &until);
	return s->active == 0;
}

bool cv_server_full(struct cv_server *s)
{
	const union MHD_DaemonInfo *info =
		MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);

	return info && info->num_connections + 1 >= CONNECTIONS_MAX;
}

void cv_server_free(struct cv_server *s)
{
	if (!s)
		return;
	if (s->daemon)
		MHD_stop_daemon(s->daemon);
	(void)pthread_cond_destroy(&s->idle);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}
