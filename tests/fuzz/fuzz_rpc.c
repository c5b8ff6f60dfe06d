/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a server may send to the RPC transport: any bytes, in pieces of any size, while calls are in
 * flight. A word "XID0" to "XID3" in the input stands for the true number of a call, which the
 * fuzzer could not guess. Each call must end exactly once.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/rpc.h"
#include "config/cleanup.h"
#include "config/log.h"

#define CALLS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct counted {
	struct cv_rpc_call call;
	int count;
};

static volatile uint8_t sink;

static void on_done(struct cv_rpc_call *call, int status, const uint8_t *reply, size_t size)
{
	struct counted *c = cv_container_of(call, struct counted, call);

	c->count++;
	if (status == 0) {
		for (size_t i = 0; i < size; i++)
			sink = sink ^ reply[i];
	} else if (status > 0) {
		abort();
	}
}

static void parser_alone(const uint8_t *data, size_t size)
{
	const uint8_t *results;
	uint32_t xid;
	size_t n;

	if (cv_rpc_parse_reply(data, size, &xid, &results, &n) == 0 &&
	    (results < data || n > size || results + n != data + size))
		abort();
}

static void put_xids(uint8_t *p, size_t size, const struct counted calls[CALLS])
{
	for (size_t i = 0; i + 4 <= size; i++) {
		if (memcmp(p + i, "XID", 3) == 0 && p[i + 3] >= '0' && p[i + 3] < '0' + CALLS) {
			uint32_t xid = htonl(calls[p[i + 3] - '0'].call.xid);

			memcpy(p + i, &xid, 4);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct cv_rpc_config config = { .program = 1,
						     .version = 3,
						     .timeout_ms = 15000 };
	static const struct cv_cred cred;
	static struct cv_loop *loop;
	struct counted calls[CALLS] = { 0 };
	struct cv_rpc *rpc;
	uint8_t *copy;
	size_t chunk;
	int fds[2];

	if (!loop) {
		cv_log_set_level(CV_LOG_ERROR);
		if (cv_loop_new(&loop) < 0)
			abort();
	}
	parser_alone(data, size);
	if (size < 2 || size > 60000)
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		abort();
	if (cv_rpc_new(loop, &config, fds[0], &rpc) < 0)
		abort();
	for (int i = 0; i < CALLS; i++) {
		calls[i].call.done = on_done;
		if (cv_rpc_submit(rpc, &calls[i].call, 1, &cred, "", 0) < 0)
			abort();
	}
	(void)cv_loop_turn(loop, 0); /* out they go */
	chunk = data[0] ? data[0] : size;
	size--;
	copy = malloc(size);
	if (!copy)
		abort();
	memcpy(copy, data + 1, size);
	put_xids(copy, size, calls);
	for (size_t at = 0; at < size; at += chunk) {
		size_t n = size - at < chunk ? size - at : chunk;

		if (send(fds[1], copy + at, n, MSG_NOSIGNAL) < 0)
			break;
		(void)cv_loop_turn(loop, 0);
	}
	cv_rpc_free(rpc);
	for (int i = 0; i < CALLS; i++) {
		if (calls[i].count != 1)
			abort();
	}
	free(copy);
	(void)close(fds[1]);
	return 0;
}
