/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP over a unix socket: the only place that knows libmicrohttpd. A thread per connection, so
 * that a call that takes long holds up nobody else; bounded bodies, connections and waiting times.
 * What a request means is the handler's affair.
 */
#ifndef CV_PLUGIN_SERVER_H
#define CV_PLUGIN_SERVER_H

#include <stdbool.h>
#include <stddef.h>

#include "config/err.h"

struct cv_http_request {
	const char *method;
	const char *path;
	const char *accept; /* header; "" if absent */
	const char *host;   /* likewise */
	const char *body;   /* NUL-terminated */
	size_t body_size;
};

struct cv_http_reply {
	unsigned status;
	char *body;		  /* owned by the server afterwards; NULL: out of memory */
	void *token;		  /* given back to done(); NULL: done() is not called */
	const char *content_type; /* static; NULL: the handler's */
};

struct cv_http_handler {
	/* Called in the connection's thread; may block. Fills reply. */
	void (*handle)(void *ctx, const struct cv_http_request *request,
		       struct cv_http_reply *reply);
	/* Needed where tokens are used. delivered: false when the client left before the answer was
	 * sent. */
	void (*done)(void *ctx, void *token, bool delivered);
	/* The answer to what never reaches handle(): a body that is too long. Caller frees. */
	char *(*error_body)(const char *text);
	const char *content_type;
};

struct cv_server;

/* 0 when no process answers at path; -EADDRINUSE when one does, -EEXIST when it is no socket. */
int cv_server_check_vacant(const char *path, struct cv_err *err);

/*
 * The socket at path, created 0600 and put in place ready to answer. Fails with -EADDRINUSE when
 * another process answers there; a dead socket is replaced.
 */
int cv_server_listen(const char *path, int *ret_fd, struct cv_err *err);

/* "127.0.0.1:9123", "[::1]:9123": loopback addresses only, for what anybody here may read. */
int cv_server_listen_tcp(const char *address, int *ret_fd, struct cv_err *err);

/* handler and ctx must outlive the server. listen_fd: becomes the server's. */
int cv_server_start(int listen_fd, size_t body_max, const struct cv_http_handler *handler,
		    void *ctx, struct cv_server **ret, struct cv_err *err);
/* No more connections or requests; waits up to timeout_ms for those under way. False: some remain.
 */
bool cv_server_drain(struct cv_server *server, int timeout_ms);
/* As many connections as it takes are open: the next one has to wait. */
bool cv_server_full(struct cv_server *server);
/* After a complete drain. */
void cv_server_free(struct cv_server *server);

#endif
