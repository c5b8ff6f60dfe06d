/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An RPC server played by a test on loopback, in the client's own thread: each wait turns the
 * client's loop. Include after cmocka.h.
 */
#ifndef CV_TESTS_RPC_SERVER_H
#define CV_TESTS_RPC_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/rpc.h"
#include "config/cleanup.h"

#define LIMIT_MS 5000

struct server {
	int listener, fd;
	uint16_t port;
};

struct request {
	uint32_t xid, program, version, procedure;
	size_t size;
	uint8_t bytes[8192];
};

static struct cv_loop *loop;
static struct server server;

static void server_listen(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t n = sizeof(addr);

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(server.listener >= 0);
	assert_int_equal(bind(server.listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(server.listener, 8), 0);
	assert_int_equal(getsockname(server.listener, (struct sockaddr *)&addr, &n), 0);
	server.port = ntohs(addr.sin_port);
	server.fd = -1;
}

/* Turns the client's loop until fd can be read. */
static bool client_turns(int fd, int limit_ms)
{
	uint64_t until = cv_now_ns() + (uint64_t)limit_ms * 1000000;

	while (cv_now_ns() < until) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		assert_int_equal(cv_loop_turn(loop, 5), 0);
		if (poll(&p, 1, 0) > 0)
			return true;
	}
	return false;
}

static void server_accept(void)
{
	cv_close_fd(&server.fd);
	assert_true(client_turns(server.listener, LIMIT_MS));
	server.fd = accept(server.listener, NULL, NULL);
	assert_true(server.fd >= 0);
}

static void server_drop(void)
{
	const struct linger now = { .l_onoff = 1, .l_linger = 0 };

	(void)setsockopt(server.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	cv_close_fd(&server.fd);
}

static uint32_t word(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return ntohl(v);
}

static void server_read(uint8_t *p, size_t size)
{
	while (size) {
		ssize_t n;

		assert_true(client_turns(server.fd, LIMIT_MS));
		n = recv(server.fd, p, size, MSG_DONTWAIT);
		assert_true(n > 0);
		p += n;
		size -= (size_t)n;
	}
}

static void server_receive(struct request *ret)
{
	uint8_t mark[4];

	server_read(mark, 4);
	assert_true(word(mark) & 0x80000000u);
	ret->size = word(mark) & 0x7fffffff;
	assert_true(ret->size <= sizeof(ret->bytes));
	server_read(ret->bytes, ret->size);
	ret->xid = word(ret->bytes);
	ret->procedure = word(ret->bytes + 20);
	assert_int_equal(word(ret->bytes + 4), 0);
	assert_int_equal(word(ret->bytes + 8), 2);
	ret->program = word(ret->bytes + 12);
	ret->version = word(ret->bytes + 16);
}

static size_t put_words(uint8_t *p, const uint32_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t v = htonl(words[i]);

		memcpy(p + 4 * i, &v, 4);
	}
	return 4 * n;
}

static void server_write(const void *p, size_t size)
{
	assert_int_equal(send(server.fd, p, size, MSG_NOSIGNAL), (ssize_t)size);
}

/* A client that connects again asks whether there is a server, before it sends its calls. */
static void server_accept_again(void)
{
	struct request null;
	uint8_t reply[28];

	server_accept();
	server_receive(&null);
	assert_int_equal(null.procedure, 0);
	server_write(reply,
		     put_words(reply,
			       (const uint32_t[]){ 0x80000000u | 24, null.xid, 1, 0, 0, 0, 0 }, 7));
}

#endif
