/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The RPC transport against a server played by the test, on loopback, in the same thread: what goes
 * over the wire, what a reply may look like, and that no connection's end loses, mixes up or
 * repeats an answer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/rpc.h"
#include "config/log.h"
#include "tests/unit/rpc_server.h"

#define PROGRAM 200001
#define VERSION 3

struct answer {
	struct cv_rpc_call call;
	int count, status;
	uint8_t reply[256];
	size_t size;
};

static const struct cv_cred cred = { .uid = 7, .gid = 8, .ngroups = 2, .groups = { 9, 10 } };

/* An accepted reply with one word of results, record mark included. */
static size_t make_reply(uint8_t *p, uint32_t xid, uint32_t result)
{
	const uint32_t words[] = { 0x80000000u | 28, xid, 1, 0, 0, 0, 0, result };

	return put_words(p, words, CV_ARRAY_SIZE(words));
}

static void server_answer(uint32_t xid, uint32_t result)
{
	uint8_t reply[64];

	server_write(reply, make_reply(reply, xid, result));
}

/* ---- the client's side ---- */

static void on_answer(struct cv_rpc_call *call, int status, const uint8_t *reply, size_t size)
{
	struct answer *a = cv_container_of(call, struct answer, call);

	a->count++;
	a->status = status;
	a->size = size < sizeof(a->reply) ? size : sizeof(a->reply);
	if (a->size)
		memcpy(a->reply, reply, a->size);
}

static void submit(struct cv_rpc *rpc, struct answer *a, uint32_t procedure)
{
	const uint8_t args[4] = { 'a', 'r', 'g', 's' };

	memset(a, 0, sizeof(*a));
	a->call.done = on_answer;
	assert_int_equal(cv_rpc_submit(rpc, &a->call, procedure, &cred, args, sizeof(args)), 0);
	assert_int_equal(a->count, 0);
}

static void wait_answer(struct answer *a)
{
	uint64_t until = cv_now_ns() + LIMIT_MS * 1000000ull;

	while (!a->count && cv_now_ns() < until)
		assert_int_equal(cv_loop_turn(loop, 5), 0);
	assert_int_equal(a->count, 1);
}

static void expect_result(struct answer *a, uint32_t result)
{
	wait_answer(a);
	assert_int_equal(a->status, 0);
	assert_int_equal(a->size, 4);
	assert_int_equal(word(a->reply), result);
}

static struct cv_rpc *client_new(bool soft, uint64_t timeout_ms)
{
	struct cv_rpc_config config = { .port = server.port,
					.program = PROGRAM,
					.version = VERSION,
					.soft = soft,
					.timeout_ms = timeout_ms };
	struct cv_err err = { 0 };
	struct cv_rpc *rpc;
	uint16_t port = 0;
	int fd;

	strcpy(config.host, "127.0.0.1");
	fd = cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, &port, &err);
	assert_true(fd >= 0);
	assert_int_equal(port, server.port);
	assert_int_equal(cv_rpc_new(loop, &config, fd, &rpc), 0);
	server_accept();
	return rpc;
}

static int setup(void **state)
{
	(void)state;
	cv_log_set_level(CV_LOG_ERROR);
	server_listen();
	return cv_loop_new(&loop);
}

static int teardown(void **state)
{
	(void)state;
	cv_close_fd(&server.fd);
	cv_close_fd(&server.listener);
	cv_loop_free(loop);
	return 0;
}

/* ---- tests ---- */

static void test_parse(void **state)
{
	static const struct {
		uint32_t words[8];
		size_t count;
		int expected;
	} cases[] = {
		{ { 5, 1, 0, 0, 0, 0, 42 }, 7, 0 },
		{ { 5, 1, 0, 0, 0, 0 }, 6, 0 },		   /* no results */
		{ { 5, 0, 0, 0, 0, 0, 42 }, 7, -EBADMSG }, /* a call */
		{ { 5, 1, 0, 0, 0 }, 5, -EBADMSG },
		{ { 5, 1 }, 2, -EBADMSG },
		{ { 5 }, 1, -EBADMSG },
		{ { 5, 1, 0, 0, 0xffffffff, 0 }, 6, -EBADMSG }, /* verifier's length */
		{ { 5, 1, 0, 0, 400, 0 }, 6, -EBADMSG },
		{ { 5, 1, 1, 1, 1 }, 5, -EACCES }, /* AUTH_ERROR */
		{ { 5, 1, 1, 0, 2, 2 }, 6, -EIO }, /* RPC_MISMATCH */
		{ { 5, 1, 0, 0, 0, 1 }, 6, -EPROTONOSUPPORT },
		{ { 5, 1, 0, 0, 0, 2, 2, 3 }, 8, -EPROTONOSUPPORT },
		{ { 5, 1, 0, 0, 0, 3 }, 6, -EOPNOTSUPP },
		{ { 5, 1, 0, 0, 0, 4 }, 6, -EIO },
	};

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(cases); i++) {
		/* Exactly as large as the record: the sanitizer sees a step too far. */
		size_t size = 4 * cases[i].count, left = 99;
		cv_cleanup_free uint8_t *record = malloc(size);
		const uint8_t *results = NULL;
		uint32_t xid = 0;

		(void)put_words(record, cases[i].words, cases[i].count);
		assert_int_equal(cv_rpc_parse_reply(record, size, &xid, &results, &left),
				 cases[i].expected);
		assert_int_equal(xid, 5);
		if (cases[i].expected == 0) {
			assert_ptr_equal(results, record + 24);
			assert_int_equal(left, size - 24);
		}
	}
}

static void test_wire(void **state)
{
	static const uint8_t data[] = "seven b";
	struct cv_rpc *rpc = client_new(false, 15000);
	struct request req;
	struct answer a;
	const uint8_t *p;

	(void)state;
	memset(&a, 0, sizeof(a));
	a.call.done = on_answer;
	a.call.data = data;
	a.call.data_size = 7;
	assert_int_equal(cv_rpc_submit(rpc, &a.call, 12, &cred, "args", 4), 0);
	server_receive(&req);
	assert_int_equal(req.program, PROGRAM);
	assert_int_equal(req.version, VERSION);
	assert_int_equal(req.procedure, 12);
	p = req.bytes + 24;
	assert_int_equal(word(p), 1); /* AUTH_SYS */
	assert_int_equal(word(p + 4), 4 + 4 + 4 + 4 + 4 + 4 + 2 * 4);
	assert_int_equal(word(p + 12), 4);
	assert_memory_equal(p + 16, "cvol", 4);
	assert_int_equal(word(p + 20), 7);
	assert_int_equal(word(p + 24), 8);
	assert_int_equal(word(p + 28), 2);
	assert_int_equal(word(p + 32), 9);
	assert_int_equal(word(p + 36), 10);
	assert_int_equal(word(p + 40), 0);
	assert_int_equal(word(p + 44), 0);
	assert_memory_equal(p + 48, "argsseven b\0", 12);
	assert_int_equal(req.size, 24 + 48 + 12);
	server_answer(req.xid, 99);
	expect_result(&a, 99);
	assert_false(a.call.resent);
	cv_rpc_free(rpc);
}

static void test_out_of_order(void **state)
{
	struct cv_rpc *rpc = client_new(false, 15000);
	struct request req[3];
	struct answer a[3];

	(void)state;
	for (uint32_t i = 0; i < 3; i++)
		submit(rpc, &a[i], i);
	for (uint32_t i = 0; i < 3; i++) {
		server_receive(&req[i]);
		assert_int_equal(req[i].procedure, i);
	}
	for (uint32_t i = 3; i-- > 0;)
		server_answer(req[i].xid, 100 + i);
	for (uint32_t i = 0; i < 3; i++)
		expect_result(&a[i], 100 + i);
	cv_rpc_free(rpc);
}

/* One word at a time, each in a fragment of its own, and those byte by byte. */
static void test_fragments(void **state)
{
	struct cv_rpc *rpc = client_new(false, 15000);
	struct request req;
	struct answer a, b;
	uint8_t reply[64], out[128];
	size_t n = 0;

	(void)state;
	submit(rpc, &a, 1);
	server_receive(&req);
	(void)make_reply(reply, req.xid, 77);
	for (size_t i = 4; i < 32; i += 4) {
		const uint32_t mark = (i == 28 ? 0x80000000u : 0) | 4;

		n += put_words(out + n, &mark, 1);
		memcpy(out + n, reply + i, 4);
		n += 4;
	}
	for (size_t i = 0; i < n; i++) {
		server_write(out + i, 1);
		assert_int_equal(cv_loop_turn(loop, 1), 0);
	}
	expect_result(&a, 77);
	submit(rpc, &b, 1); /* and the stream goes on */
	server_receive(&req);
	server_answer(req.xid, 78);
	expect_result(&b, 78);
	cv_rpc_free(rpc);
}

static void test_lost_amid_reply(void **state)
{
	struct cv_rpc *rpc = client_new(false, 15000);
	struct request first[3], again;
	struct cv_rpc_stats stats;
	struct answer a[3];
	uint8_t reply[64];

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		submit(rpc, &a[i], i);
		server_receive(&first[i]);
	}
	server_answer(first[1].xid, 1001);
	expect_result(&a[1], 1001);
	/* Half of an answer, whose other half never comes. */
	(void)make_reply(reply, first[0].xid, 0xdeadbeef);
	server_write(reply, 20);
	for (int i = 0; i < 5; i++)
		assert_int_equal(cv_loop_turn(loop, 2), 0);
	server_drop();
	server_accept_again();
	/* The unanswered ones again, in order, to the byte as they were. */
	for (uint32_t i = 0; i < 3; i += 2) {
		server_receive(&again);
		assert_int_equal(again.size, first[i].size);
		assert_memory_equal(again.bytes, first[i].bytes, again.size);
		assert_int_equal(a[i].count, 0);
		assert_true(a[i].call.resent);
		server_answer(again.xid, 2000 + i);
	}
	expect_result(&a[0], 2000);
	expect_result(&a[2], 2002);
	cv_rpc_stats(rpc, &stats);
	assert_true(stats.connected);
	assert_int_equal(stats.reconnects, 1);
	assert_int_equal(stats.in_flight, 0);
	assert_true(stats.last_error[0] != '\0');
	cv_rpc_free(rpc);
}

/* An answer to nobody is skipped; a record larger than any answer ends the connection. */
static void test_strange_replies(void **state)
{
	static const uint32_t huge = 0x80000000u | (CV_RPC_REPLY_MAX + 1);
	struct cv_rpc *rpc = client_new(false, 15000);
	struct request req;
	struct answer a;
	uint8_t mark[4];

	(void)state;
	submit(rpc, &a, 1);
	server_receive(&req);
	server_answer(req.xid + 1000, 13);
	for (int i = 0; i < 5; i++)
		assert_int_equal(cv_loop_turn(loop, 2), 0);
	assert_int_equal(a.count, 0);
	(void)put_words(mark, &huge, 1);
	server_write(mark, 4);
	server_accept_again();
	server_receive(&req);
	server_answer(req.xid, 14);
	expect_result(&a, 14);
	cv_rpc_free(rpc);
}

static void test_window(void **state)
{
	enum { CALLS = CV_RPC_WINDOW + 20 };
	struct cv_rpc *rpc = client_new(false, 15000);
	struct answer *a = calloc(CALLS, sizeof(*a));
	struct request req, first = { 0 };

	(void)state;
	assert_non_null(a);
	for (uint32_t i = 0; i < CALLS; i++)
		submit(rpc, &a[i], i);
	for (uint32_t i = 0; i < CV_RPC_WINDOW; i++) {
		server_receive(&req);
		if (i == 0)
			first = req;
	}
	assert_false(client_turns(server.fd, 50));
	server_answer(first.xid, 1);
	server_receive(&req);
	assert_int_equal(req.procedure, CV_RPC_WINDOW);
	assert_false(client_turns(server.fd, 50));
	cv_rpc_free(rpc);
	for (uint32_t i = 1; i < CALLS; i++) {
		assert_int_equal(a[i].count, 1);
		assert_int_equal(a[i].status, -ECANCELED);
	}
	free(a);
}

static void test_soft(void **state)
{
	struct cv_rpc *rpc = client_new(true, 300);
	struct request req;
	struct answer a, b;

	(void)state;
	submit(rpc, &a, 1);
	server_receive(&req);
	wait_answer(&a);
	assert_int_equal(a.status, -ETIMEDOUT);
	/* Silence has cost the connection; the next call goes over a new one. */
	submit(rpc, &b, 2);
	server_accept_again();
	server_receive(&req);
	assert_int_equal(req.procedure, 2);
	server_answer(req.xid, 5);
	expect_result(&b, 5);
	cv_rpc_free(rpc);
}

/* A silent server is asked whether it is there, and then left. */
static void test_silence(void **state)
{
	struct cv_rpc *rpc = client_new(false, 600);
	struct request req, again;
	struct answer a;

	(void)state;
	submit(rpc, &a, 1);
	server_receive(&req);
	server_receive(&again);
	assert_int_equal(again.procedure, 0);
	server_accept_again();
	server_receive(&again);
	assert_int_equal(again.xid, req.xid);
	server_answer(again.xid, 6);
	expect_result(&a, 6);
	cv_rpc_free(rpc);
}

/* A new connection is taken, and nobody is there: it costs neither the calls nor the timeout. */
static void test_no_greeting(void **state)
{
	struct cv_rpc *rpc = client_new(false, 60000);
	struct cv_rpc_stats stats;
	struct request req, again;
	struct answer a;

	(void)state;
	submit(rpc, &a, 1);
	server_receive(&req);
	server_drop();
	server_accept();
	server_receive(&again);
	assert_int_equal(again.procedure, 0);
	assert_false(client_turns(server.fd, 300)); /* nothing but that */
	cv_rpc_stats(rpc, &stats);
	assert_false(stats.connected);
	server_accept_again();
	server_receive(&again);
	assert_int_equal(again.xid, req.xid);
	server_answer(again.xid, 9);
	expect_result(&a, 9);
	cv_rpc_stats(rpc, &stats);
	assert_true(stats.connected);
	assert_int_equal(stats.reconnects, 1);
	cv_rpc_free(rpc);
}

/* It answers NULL, but the call itself it has lost. */
static void test_forgotten(void **state)
{
	struct cv_rpc *rpc = client_new(false, 300);
	struct request req, other;
	struct answer a;
	uint64_t until = cv_now_ns() + LIMIT_MS * 1000000ull;

	(void)state;
	submit(rpc, &a, 1);
	server_receive(&req);
	while (cv_now_ns() < until) {
		struct pollfd p[2] = { { .fd = server.fd, .events = POLLIN },
				       { .fd = server.listener, .events = POLLIN } };
		char byte;

		assert_int_equal(cv_loop_turn(loop, 5), 0);
		if (poll(p, 2, 0) > 0 && p[1].revents)
			break;
		if (p[0].revents && recv(server.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1) {
			server_receive(&other);
			assert_int_equal(other.procedure, 0);
			server_answer(other.xid, 0);
		}
	}
	server_accept_again();
	server_receive(&other);
	assert_int_equal(other.xid, req.xid);
	server_answer(other.xid, 8);
	expect_result(&a, 8);
	cv_rpc_free(rpc);
}

/* Without a server: attempts come ever more rarely, and nothing waits for the end of one. */
static void test_away(void **state)
{
	struct cv_rpc *rpc = client_new(false, 15000);
	struct cv_rpc_stats stats;
	struct request req;
	struct answer a;
	uint64_t start;
	int turns = 0;

	(void)state;
	submit(rpc, &a, 1);
	server_receive(&req);
	cv_close_fd(&server.listener);
	server_drop();
	start = cv_now_ns();
	while (cv_now_ns() - start < 1000000000) {
		assert_int_equal(cv_loop_turn(loop, 1000), 0);
		turns++;
	}
	assert_in_range(turns, 2, 40);
	cv_rpc_stats(rpc, &stats);
	assert_false(stats.connected);
	assert_int_equal(stats.in_flight, 1);
	assert_int_equal(a.count, 0);
	start = cv_now_ns();
	cv_rpc_free(rpc);
	assert_true(cv_now_ns() - start < 1000000000);
	assert_int_equal(a.status, -ECANCELED);
}

/* A busy server is asked for a sign of life, and not again before it has given it. */
static void test_provoke(void **state)
{
	struct cv_rpc *rpc = client_new(false, 15000);
	struct cv_rpc_stats before, after;
	struct request req, null;
	struct answer a;

	(void)state;
	submit(rpc, &a, 1);
	server_receive(&req);
	for (int i = 0; i < 2; i++) {
		cv_rpc_stats(rpc, &before);
		cv_rpc_provoke(rpc);
		server_receive(&null);
		assert_int_equal(null.procedure, 0);
		cv_rpc_provoke(rpc);
		assert_false(client_turns(server.fd, 50));
		cv_rpc_stats(rpc, &after);
		assert_true(after.heard_ns == before.heard_ns);
		server_answer(null.xid, 0);
		assert_false(client_turns(server.fd, 20));
		cv_rpc_stats(rpc, &after);
		assert_true(after.heard_ns > before.heard_ns);
		assert_int_equal(a.count, 0);
	}
	server_answer(req.xid, 7);
	expect_result(&a, 7);
	server_drop();
	assert_false(client_turns(server.fd, 5));
	cv_rpc_provoke(rpc); /* not connected: nothing happens */
	cv_rpc_free(rpc);
}

static void test_blocking(void **state)
{
	struct cv_rpc_config config = { .host = "127.0.0.1", .port = server.port };
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_err err = { 0 };
	size_t size = 0;
	int fd;

	(void)state;
	fd = cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, NULL, &err);
	assert_true(fd >= 0);
	/* Nobody answers: the deadline counts. */
	assert_int_equal(cv_rpc_call_blocking(fd, PROGRAM, VERSION, 1, &cred, "", 0,
					      cv_now_ns() + 100000000, &reply, &size),
			 -ETIMEDOUT);
	assert_null(reply);
	cv_close_fd(&fd);
	cv_close_fd(&server.listener);
	fd = cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, NULL, &err);
	assert_int_equal(fd, -ECONNREFUSED);
	assert_non_null(strstr(err.text, "127.0.0.1"));
	strcpy(config.host, "no-such-host.invalid");
	assert_true(cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, NULL, &err) < 0);
	assert_non_null(strstr(err.text, "resolving no-such-host.invalid"));
}

/* ---- a successor ---- */

#define REPLAY_ID    77
#define RESULT_BUSY  1 /* here: the server is at it */
#define RESULT_FINAL 2

struct successor {
	int fd, result;
	uint64_t timeout_ns;
	struct cv_left list[1];
	struct cv_replays replays;
};

static bool took(struct cv_replay *replay, int status, const uint8_t *reply, size_t size)
{
	if (status == 0 && word(reply) == RESULT_BUSY)
		return false;
	if (status == 0)
		cv_replay_keep_reply(replay, replay->id, reply, size);
	return true;
}

static void *successor_main(void *arg)
{
	struct successor *s = arg;

	s->result = cv_rpc_replay_blocking(
		s->fd, 0, &s->replays, s->timeout_ns ? s->timeout_ns : LIMIT_MS * 1000000ull, took);
	return NULL;
}

/* A worker sends a call and dies: what is left of it is the record. */
static void leave_call(struct cv_replay *replay, struct request *ret_sent)
{
	const uint8_t args[4] = { 'a', 'r', 'g', 's' };
	struct cv_rpc *rpc = client_new(false, 10000);
	struct answer a = { .call = {
				    .done = on_answer, .replay = replay, .replay_id = REPLAY_ID } };

	assert_int_equal(cv_rpc_submit(rpc, &a.call, 5, &cred, args, sizeof(args)), 0);
	server_receive(ret_sent);
	cv_rpc_free(rpc);
	assert_int_equal(replay->id, REPLAY_ID);
	assert_int_equal(replay->reply_size, 0);
	assert_int_equal(replay->call_size, ret_sent->size + 4);
	assert_memory_equal(replay->call + 4, ret_sent->bytes, ret_sent->size);
}

static void test_replay(void **state)
{
	static const uint8_t args[4] = { 'a', 'r', 'g', 's' }, other[4] = { 'a', 'R', 'g', 's' };
	const struct cv_rpc_part part = { .at = 1, .size = 1 };
	struct cv_rpc_config config = {
		.host = "127.0.0.1", .port = server.port, .program = PROGRAM, .version = VERSION
	};
	struct cv_replay replay = { .id = 0 };
	struct successor s = { .list = { { .replay = &replay } } };
	struct request sent, again;
	struct cv_rpc *rpc;
	pthread_t thread;
	struct cv_err err = { 0 };
	size_t size = 0;

	(void)state;
	leave_call(&replay, &sent);
	s.replays = (struct cv_replays){ .list = s.list, .count = 1 };
	s.fd = cv_rpc_dial(&config, (uint16_t)replay.port, cv_now_ns() + LIMIT_MS * 1000000ull,
			   NULL, &err);
	assert_true(s.fd >= 0);
	/* The one it was sent from, though that connection has just ended. */
	assert_int_equal(cv_rpc_source_port(s.fd), replay.port);
	server_accept();
	assert_int_equal(pthread_create(&thread, NULL, successor_main, &s), 0);
	for (int i = 0; i < 3; i++) {
		server_receive(&again);
		assert_int_equal(again.size, sent.size);
		assert_memory_equal(again.bytes, sent.bytes, sent.size);
		if (i == 1) /* the first is dropped, as some servers do */
			server_answer(again.xid, RESULT_BUSY);
	}
	server_answer(again.xid + 1, RESULT_FINAL); /* to nobody */
	server_answer(again.xid, RESULT_FINAL);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(s.result, 0);
	assert_int_equal(replay.reply_size, 4);

	assert_int_equal(cv_rpc_new(loop, &config, s.fd, &rpc), 0);
	assert_ptr_equal(cv_rpc_replayed(rpc, &replay, REPLAY_ID, 5, &cred, args, sizeof(args),
					 NULL, 0, &size),
			 replay.reply);
	assert_int_equal(size, 4);
	assert_int_equal(word(replay.reply), RESULT_FINAL);
	/* Another operation, procedure, argument: but for a part that may differ. */
	assert_null(cv_rpc_replayed(rpc, &replay, 1, 5, &cred, args, 4, NULL, 0, &size));
	assert_null(cv_rpc_replayed(rpc, &replay, REPLAY_ID, 6, &cred, args, 4, NULL, 0, &size));
	assert_null(cv_rpc_replayed(rpc, &replay, REPLAY_ID, 5, &cred, other, 4, NULL, 0, &size));
	assert_null(cv_rpc_replayed(rpc, &replay, REPLAY_ID, 5, NULL, args, 4, NULL, 0, &size));
	assert_null(cv_rpc_replayed(rpc, &replay, REPLAY_ID, 5, &cred, args, 3, NULL, 0, &size));
	assert_non_null(
		cv_rpc_replayed(rpc, &replay, REPLAY_ID, 5, &cred, other, 4, &part, 1, &size));
	cv_rpc_free(rpc);
}

/* Sends, as a worker that dies then, "args", data from `at` on, and "tail". */
static void leave_write(struct cv_replay *replay, const uint8_t *data, size_t at, size_t size)
{
	struct cv_rpc *rpc = client_new(false, 10000);
	struct answer a = { .call = { .done = on_answer,
				      .data = data + at,
				      .data_size = size,
				      .data_at = at,
				      .tail_size = 4,
				      .replay = replay,
				      .replay_id = REPLAY_ID } };

	assert_int_equal(cv_rpc_submit(rpc, &a.call, 7, &cred, "argstail", 8), 0);
	cv_rpc_free(rpc);
	server_drop();
}

/* Of written data the record has only where they are: whoever has them gives them. */
static void test_replay_data(void **state)
{
	static const uint8_t data[] = "not written";
	struct cv_rpc_config config = { .host = "127.0.0.1", .port = server.port };
	struct cv_replay replay = { .id = 0 };
	struct successor s = { .list = { { &replay, data, sizeof(data) - 1 } } };
	struct cv_left *left = &s.list[0];
	struct request again;
	pthread_t thread;
	struct cv_err err = { 0 };
	const uint8_t *p;

	(void)state;
	leave_write(&replay, data, 4, 7);
	/* One that came from elsewhere is not known there, and is not sent. */
	assert_int_equal(cv_rpc_replay_blocking(-1, (uint16_t)(replay.port + 1),
						&(struct cv_replays){ .list = left, .count = 1 },
						LIMIT_MS * 1000000ull, took),
			 1);
	assert_int_equal(replay.id, REPLAY_ID);
	assert_true(cv_left_is_open(left));
	left->data_size = 10; /* these are not the data it was sent with */
	assert_false(cv_left_is_open(left));
	left->data_size = sizeof(data) - 1;
	s.replays = (struct cv_replays){ .list = s.list, .count = 1 };
	s.fd = cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, NULL, &err);
	assert_true(s.fd >= 0);
	server_accept();
	assert_int_equal(pthread_create(&thread, NULL, successor_main, &s), 0);
	server_receive(&again);
	assert_int_equal(again.procedure, 7);
	p = again.bytes + again.size - 16;
	assert_memory_equal(p, "argswritten\0tail", 16);
	server_answer(again.xid, RESULT_FINAL);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(s.result, 0);
	assert_int_equal(replay.reply_size, 4);
	assert_false(cv_left_is_open(left));
	cv_close_fd(&s.fd);
}

/* What takes longer than the timeout on a slow line gets there. */
static void test_replay_slow_line(void **state)
{
	enum { PIECES = 13, PIECE = 256 << 10, PIECE_US = 100000 };
	struct cv_rpc_config config = { .host = "127.0.0.1", .port = server.port };
	cv_cleanup_free uint8_t *data = calloc(PIECES, PIECE), *buffer = malloc(PIECE);
	const struct cv_replay_data of_call = { .size = PIECES * PIECE };
	struct cv_replay replay = { .id = 0 };
	const struct cv_left list[] = { { &replay, data, PIECES * PIECE } };
	const struct cv_replays replays = { .list = list, .count = 1 };
	const int small = 4096;
	struct successor s = { .replays = replays };
	struct cv_err err = { 0 };
	uint8_t head[8] = { 0 };
	size_t left = sizeof(head) + PIECES * PIECE;
	pthread_t thread;

	(void)state;
	assert_non_null(data);
	assert_non_null(buffer);
	(void)put_words(head, (const uint32_t[]){ 0x80000000u | (4 + PIECES * PIECE) }, 1);
	cv_replay_keep_call(&replay, REPLAY_ID, 0, head, sizeof(head), &of_call);
	assert_int_equal(setsockopt(server.listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)),
			 0);
	s.fd = cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, NULL, &err);
	assert_true(s.fd >= 0);
	assert_int_equal(setsockopt(s.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	server_accept();
	s.timeout_ns = PIECES * PIECE_US * 1000ull * 2 / 3;
	assert_int_equal(pthread_create(&thread, NULL, successor_main, &s), 0);
	while (left) {
		ssize_t n = recv(server.fd, buffer, left < PIECE ? left : PIECE, MSG_WAITALL);

		assert_true(n > 0);
		left -= (size_t)n;
		(void)usleep(PIECE_US);
	}
	server_answer(0, RESULT_FINAL);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(s.result, 0);
	cv_close_fd(&s.fd);
}

/* No answer at all: the wait ends, and nothing is taken for one. */
static void test_replay_unanswered(void **state)
{
	struct cv_rpc_config config = { .host = "127.0.0.1", .port = server.port };
	struct cv_replay replay = { .id = 0 };
	const struct cv_left list[] = { { .replay = &replay } };
	const struct cv_replays replays = { .list = list, .count = 1 };
	struct request sent;
	struct cv_err err = { 0 };
	cv_cleanup_close int fd = -1;

	(void)state;
	leave_call(&replay, &sent);
	fd = cv_rpc_dial(&config, (uint16_t)replay.port, cv_now_ns() + LIMIT_MS * 1000000ull, NULL,
			 &err);
	assert_true(fd >= 0);
	assert_int_equal(cv_rpc_replay_blocking(fd, 0, &replays, 100000000, took), 1);
	assert_int_equal(replay.reply_size, 0);
	server_accept();
	server_drop();
	assert_true(cv_rpc_replay_blocking(fd, 0, &replays, LIMIT_MS * 1000000ull, took) < 0);
	assert_int_equal(replay.reply_size, 0);
}

/* An answer of which half comes in time: what comes next on the connection is its rest. */
static void test_replay_cut_off(void **state)
{
	struct cv_rpc_config config = { .host = "127.0.0.1", .port = server.port };
	struct cv_replay replay = { .id = 0 };
	const struct cv_left list[] = { { .replay = &replay } };
	const struct cv_replays replays = { .list = list, .count = 1 };
	struct request sent;
	uint8_t reply[64];
	struct cv_err err = { 0 };

	(void)state;
	leave_call(&replay, &sent);
	(void)make_reply(reply, sent.xid, RESULT_FINAL);
	for (size_t n = 2; n <= 20; n += 18) { /* of the mark, of the record */
		cv_cleanup_close int fd = -1;

		fd = cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, NULL, &err);
		assert_true(fd >= 0);
		server_accept();
		server_write(reply, n);
		assert_int_equal(cv_rpc_replay_blocking(fd, 0, &replays, 100000000, took),
				 -ECONNABORTED);
		assert_int_equal(replay.reply_size, 0);
	}
}

/* A server that does not read: calls are sent until one does not fit. */
static void test_replay_not_read(void **state)
{
	enum { COUNT = 4000, SIZE = CV_REPLAY_CALL_MAX };
	struct cv_rpc_config config = { .host = "127.0.0.1", .port = server.port };
	cv_cleanup_free struct cv_replay *replay = calloc(1, sizeof(*replay));
	cv_cleanup_free struct cv_left *list = calloc(COUNT, sizeof(*list));
	const struct cv_replays replays = { .list = list, .count = COUNT };
	const int small = 4096;
	struct cv_err err = { 0 };
	cv_cleanup_close int fd = -1;
	uint8_t buffer[65536];
	size_t sum = 0;
	ssize_t n;
	int result;

	(void)state;
	assert_non_null(replay);
	assert_non_null(list);
	replay->call_size = SIZE;
	(void)put_words(replay->call, (const uint32_t[]){ 0x80000000u | (SIZE - 4) }, 1);
	for (size_t i = 0; i < COUNT; i++)
		list[i].replay = replay;
	fd = cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, NULL, &err);
	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	server_accept();
	result = cv_rpc_replay_blocking(fd, 0, &replays, 200000000, took);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	while ((n = recv(server.fd, buffer, sizeof(buffer), 0)) > 0)
		sum += (size_t)n;
	assert_in_range(sum, SIZE, (size_t)SIZE * COUNT - 1);
	assert_int_equal(result, sum % SIZE ? -ECONNABORTED : COUNT);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		TEST(test_wire),
		TEST(test_out_of_order),
		TEST(test_fragments),
		TEST(test_lost_amid_reply),
		TEST(test_strange_replies),
		TEST(test_window),
		TEST(test_soft),
		TEST(test_silence),
		TEST(test_no_greeting),
		TEST(test_forgotten),
		TEST(test_away),
		TEST(test_provoke),
		TEST(test_blocking),
		TEST(test_replay),
		TEST(test_replay_data),
		TEST(test_replay_slow_line),
		TEST(test_replay_unanswered),
		TEST(test_replay_cut_off),
		TEST(test_replay_not_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
