/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NFS engine, connected to a server played by the test (rpc_server.h), and its operations: what
 * the tests of its protocol versions share. Include after cmocka.h.
 */
#ifndef CV_TESTS_NFS_SERVER_H
#define CV_TESTS_NFS_SERVER_H

#include <stdlib.h>

#include "backends/nfs.h"
#include "config/log.h"
#include "tests/unit/rpc_server.h"

#define TYPE_REG 1

/* An operation. */
struct run {
	struct cv_op op;
	int count;
	ssize_t result;
	uint8_t data[64];
	bool have_entry; /* of the first of a listing */
};

static struct cv_nfs *nfs;
static const struct cv_cred cred = { .uid = 7, .gid = 8 };
static const struct cv_handle dir_handle = { .size = 3, .data = "DIR" };
static const struct cv_object dir = { .nodeid = 1, .handle = &dir_handle, .path = "" };
static const struct cv_handle file_handle = { .size = 4, .data = "FILE" };
static const struct cv_object file = { .nodeid = 2, .handle = &file_handle, .path = "" };

static void on_done(struct cv_op *op, ssize_t result)
{
	struct run *r = cv_container_of(op, struct run, op);

	r->count++;
	r->result = result;
	r->have_entry = result > 0 && op->dirents && op->dirents[0].have_entry;
	if (result > 0 && op->data && (size_t)result <= sizeof(r->data))
		memcpy(r->data, op->data, (size_t)result);
}

static struct cv_op *op_of(struct run *r)
{
	memset(r, 0, sizeof(*r));
	r->op.done = on_done;
	r->op.cred = &cred;
	return &r->op;
}

static void expect(struct run *r, ssize_t result)
{
	uint64_t until = cv_now_ns() + LIMIT_MS * 1000000ull;

	while (!r->count && cv_now_ns() < until)
		assert_int_equal(cv_loop_turn(loop, 5), 0);
	assert_int_equal(r->count, 1);
	assert_int_equal(r->result, result);
}

static void nfs_connect(uint32_t version)
{
	struct cv_rpc_config config = { .host = "127.0.0.1",
					.program = CV_NFS_PROGRAM,
					.version = version,
					.timeout_ms = 15000 };
	const struct cv_dict defaults = CV_DICT_INIT;
	struct cv_err err = { 0 };
	int fd;

	cv_log_set_level(CV_LOG_ERROR);
	server_listen();
	assert_int_equal(cv_loop_new(&loop), 0);
	config.port = server.port;
	nfs = calloc(1, sizeof(*nfs));
	assert_non_null(nfs);
	nfs->loop = loop;
	nfs->rsize = nfs->wsize = 4096;
	nfs->timeout_ms = 15000;
	fd = cv_rpc_dial(&config, 0, cv_now_ns() + LIMIT_MS * 1000000ull, NULL, &err);
	assert_true(fd >= 0);
	assert_int_equal(cv_rpc_new(loop, &config, fd, &nfs->rpc), 0);
	cv_nfs_ahead_init(nfs, &defaults, 0);
	server_accept();
}

static void nfs_close(void)
{
	cv_nfs_disconnect(nfs);
	cv_close_fd(&server.fd);
	cv_close_fd(&server.listener);
	cv_loop_free(loop);
}

#endif
