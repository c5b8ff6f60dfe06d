/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NFSv4.1 against a server played by the test, for what a real one does rarely: calls that come
 * twice, answers that were not kept, lost sessions and lost opens, locks that are in the way. And
 * the names of owners.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "backends/nfs4.h"
#include "tests/unit/nfs_server.h"

#define OPS_AT	  64 /* of a call: RPC header with AUTH_SYS, no groups, name "cvol" */
#define SEQ_AT	  (OPS_AT + 12)
#define SESSION	  "SESSIONSESSIONSE"
#define NO_ANSWER 100 /* ms in which nothing may come */

static const struct cv_backend *const engine = &cv_backend_nfs4;

/* ---- answers ---- */

struct out {
	uint8_t bytes[2048];
	struct cv_xdr_out x;
};

/* A compound's head; status: of its last operation. */
static void bare(struct out *o, uint32_t status)
{
	o->x = cv_xdr_out_init(o->bytes, sizeof(o->bytes));
	cv_xdr_put_u32(&o->x, status);
	cv_xdr_put_u32(&o->x, 0);
	cv_xdr_put_u32(&o->x, 9);
}

static void put_op(struct out *o, uint32_t op, uint32_t status)
{
	cv_xdr_put_u32(&o->x, op);
	cv_xdr_put_u32(&o->x, status);
}

/* With a SEQUENCE that is well, and PUTFH. */
static void sequenced(struct out *o, uint32_t status)
{
	static const uint32_t rest[] = { 1, 0, 15, 15, 0 };

	bare(o, status);
	put_op(o, CV_NFS4_SEQUENCE, 0);
	cv_xdr_put_fixed(&o->x, SESSION, CV_NFS4_SESSION_SIZE);
	for (size_t i = 0; i < CV_ARRAY_SIZE(rest); i++)
		cv_xdr_put_u32(&o->x, rest[i]);
	put_op(o, CV_NFS4_PUTFH, 0);
}

static uint64_t file_change;

static void put_attr(struct out *o, const char *owner)
{
	uint8_t values[128];
	struct cv_xdr_out v = cv_xdr_out_init(values, sizeof(values));

	cv_xdr_put_u32(&v, TYPE_REG);
	cv_xdr_put_u64(&v, file_change);
	cv_xdr_put_u64(&v, 5);	/* size */
	cv_xdr_put_u64(&v, 77); /* fileid */
	cv_xdr_put_u32(&v, 0640);
	cv_xdr_put_opaque(&v, owner, strlen(owner));
	put_op(o, CV_NFS4_GETATTR, 0);
	cv_xdr_put_u32(&o->x, 2);
	cv_xdr_put_u32(&o->x, 1 << 1 | 1 << 3 | 1 << 4 | 1 << 20);
	cv_xdr_put_u32(&o->x, 1 << (33 - 32) | 1 << (36 - 32));
	cv_xdr_put_opaque(&o->x, values, (size_t)(v.p - values));
}

static void put_stateid(struct out *o, const char *other)
{
	cv_xdr_put_u32(&o->x, 1);
	cv_xdr_put_fixed(&o->x, other, CV_NFS4_OTHER_SIZE);
}

static void put_opened(struct out *o, const char *other)
{
	put_op(o, CV_NFS4_OPEN, 0);
	put_stateid(o, other);
	for (int i = 0; i < 8; i++) /* change_info, rflags, no attributes, no delegation */
		cv_xdr_put_u32(&o->x, 0);
}

static void put_data(struct out *o, const char *text)
{
	put_op(o, CV_NFS4_READ, 0);
	cv_xdr_put_u32(&o->x, 1); /* eof */
	cv_xdr_put_opaque(&o->x, text, strlen(text));
}

static void reply(const struct request *req, const struct out *o)
{
	size_t size = (size_t)(o->x.p - o->bytes);
	const uint32_t words[] = { 0x80000000u | (uint32_t)(24 + size), req->xid, 1, 0, 0, 0, 0 };
	uint8_t head[28];

	assert_false(o->x.bad);
	server_write(head, put_words(head, words, CV_ARRAY_SIZE(words)));
	server_write(o->bytes, size);
}

/* The nth operation's number is not at a fixed place; the first one's is. */
static void expect_first(struct request *req, uint32_t op)
{
	server_receive(req);
	assert_int_equal(req->version, 4);
	assert_int_equal(req->procedure, CV_NFS4_COMPOUND);
	assert_int_equal(word(req->bytes + SEQ_AT), op);
}

static uint32_t seq_of(const struct request *req)
{
	return word(req->bytes + SEQ_AT + 4 + CV_NFS4_SESSION_SIZE);
}

static uint32_t slot_of(const struct request *req)
{
	return word(req->bytes + SEQ_AT + 8 + CV_NFS4_SESSION_SIZE);
}

static int setup(void **state)
{
	(void)state;
	nfs_connect(4);
	file_change = 1234;
	nfs->v4 = cv_nfs4_new(nfs, NULL);
	assert_non_null(nfs->v4);
	nfs->v4->clientid = 1;
	nfs->v4->channel.max_slots = 4;
	cv_nfs4_reset_slots(nfs->v4);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	cv_rpc_free(nfs->rpc); /* the server played here does not answer a good-bye */
	nfs->rpc = NULL;
	nfs_close();
	return 0;
}

static void open_file(struct run *r, struct cv_file **ret)
{
	struct request req;
	struct out o;

	engine->open(nfs, op_of(r), &file, O_RDWR);
	expect_first(&req, CV_NFS4_SEQUENCE);
	sequenced(&o, 0);
	put_opened(&o, "OPEN-STATE-1");
	put_attr(&o, "500");
	reply(&req, &o);
	expect(r, 0);
	*ret = r->op.file;
}

/* ---- tests ---- */

static void test_getattr(void **state)
{
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	engine->getattr(nfs, op_of(&r), &file, NULL);
	expect_first(&req, CV_NFS4_SEQUENCE);
	sequenced(&o, 0);
	put_attr(&o, "500");
	reply(&req, &o);
	expect(&r, 0);
	assert_int_equal(r.op.attr.mode, S_IFREG | 0640);
	assert_int_equal(r.op.attr.size, 5);
	assert_int_equal(r.op.attr.ino, 77);
	assert_int_equal(r.op.attr.change, 1234);
	assert_int_equal(r.op.attr.uid, 500);
	assert_int_equal(r.op.attr.gid, CV_OWNER_NOBODY); /* was not sent */
}

/* READ along with OPEN: what it brings is read from there; that it fails does not matter. */
static void test_first(void **state)
{
	const uint32_t results[] = { CV_NFS4_OK, CV_NFS4ERR_OPENMODE };
	struct cv_object obj = file;
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	obj.seen_change = 1234;
	obj.seen_size = 5;
	for (size_t i = 0; i < CV_ARRAY_SIZE(results); i++) {
		struct cv_file *f;

		engine->open(nfs, op_of(&r), &obj, O_RDONLY);
		expect_first(&req, CV_NFS4_SEQUENCE);
		sequenced(&o, results[i]);
		put_opened(&o, "OPEN-STATE-1");
		put_attr(&o, "500");
		if (results[i])
			put_op(&o, CV_NFS4_READ, results[i]);
		else
			put_data(&o, "first");
		reply(&req, &o);
		expect(&r, 0);
		assert_int_equal(r.op.attr.change, 1234);
		f = r.op.file;
		engine->read(nfs, op_of(&r), f, 10, 0);
		assert_int_equal(r.count, results[i] == 0);
		if (results[i]) {
			expect_first(&req, CV_NFS4_SEQUENCE);
			sequenced(&o, 0);
			put_data(&o, "first");
			reply(&req, &o);
		}
		expect(&r, 5);
		assert_memory_equal(r.data, "first", 5);
		engine->release(nfs, f);
		expect_first(&req, CV_NFS4_SEQUENCE);
	}
	/* The open itself fails. */
	engine->open(nfs, op_of(&r), &obj, O_RDONLY);
	expect_first(&req, CV_NFS4_SEQUENCE);
	sequenced(&o, CV_NFS4ERR_OPENMODE);
	put_op(&o, CV_NFS4_OPEN, CV_NFS4ERR_OPENMODE);
	reply(&req, &o);
	expect(&r, cv_nfs4_errno(CV_NFS4ERR_OPENMODE));
}

/* Another host has changed the file, and a later open was told so. */
static void test_first_outdated(void **state)
{
	struct cv_object obj = file;
	struct cv_file *f[2];
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	obj.seen_change = 1234;
	obj.seen_size = 5;
	for (int i = 0; i < 2; i++) {
		op_of(&r)->call = CV_CALL_OPEN;
		engine->open(nfs, &r.op, &obj, O_RDONLY);
		expect_first(&req, CV_NFS4_SEQUENCE);
		sequenced(&o, 0);
		put_opened(&o, "OPEN-STATE-1");
		put_attr(&o, "500");
		put_data(&o, i ? "newer" : "older");
		reply(&req, &o);
		expect(&r, 0);
		f[i] = r.op.file;
		file_change++;
	}
	for (int i = 0; i < 2; i++) {
		engine->read(nfs, op_of(&r), f[i], 10, 0);
		assert_int_equal(r.count, i);
		if (i == 0) {
			expect_first(&req, CV_NFS4_SEQUENCE);
			sequenced(&o, 0);
			put_data(&o, "newer");
			reply(&req, &o);
		}
		expect(&r, 5);
		assert_memory_equal(r.data, "newer", 5);
		engine->release(nfs, f[i]);
		expect_first(&req, CV_NFS4_SEQUENCE);
	}
}

/* A fault of the server is asked again, once. */
static void test_open_fault(void **state)
{
	const uint32_t results[] = { 70 /* STALE */, CV_NFS4ERR_SERVERFAULT };
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(results); i++) {
		engine->open(nfs, op_of(&r), &file, O_RDONLY);
		for (int n = 0; n < 2; n++) {
			uint32_t result = n ? results[i] : CV_NFS4ERR_SERVERFAULT;

			expect_first(&req, CV_NFS4_SEQUENCE);
			sequenced(&o, result);
			put_op(&o, CV_NFS4_OPEN, result);
			reply(&req, &o);
		}
		expect(&r, i ? -EIO : -ESTALE);
	}
}

/* The same slot and number when it is sent twice; the next number when it was answered. */
static void test_numbers(void **state)
{
	struct request first, second;
	struct out o;
	struct run r;

	(void)state;
	for (uint32_t seq = 1; seq <= 2; seq++) {
		engine->getattr(nfs, op_of(&r), &file, NULL);
		expect_first(&first, CV_NFS4_SEQUENCE);
		server_drop();
		server_accept_again();
		expect_first(&second, CV_NFS4_SEQUENCE);
		assert_int_equal(first.size, second.size);
		assert_memory_equal(first.bytes, second.bytes, first.size);
		assert_int_equal(seq_of(&second), seq);
		assert_int_equal(slot_of(&second), 0);
		sequenced(&o, 0);
		put_attr(&o, "500");
		reply(&second, &o);
		expect(&r, 0);
	}
}

static void test_answer_not_kept(void **state)
{
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	engine->getattr(nfs, op_of(&r), &file, NULL);
	expect_first(&req, CV_NFS4_SEQUENCE);
	sequenced(&o, CV_NFS4ERR_RETRY_UNCACHED);
	reply(&req, &o);
	expect_first(&req, CV_NFS4_SEQUENCE);
	assert_int_equal(seq_of(&req), 2);
	sequenced(&o, 0);
	put_attr(&o, "500");
	reply(&req, &o);
	expect(&r, 0);
}

/* What was sent twice, the second time to a server that has restarted. */
static void test_removed_before(void **state)
{
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	engine->unlink(nfs, op_of(&r), &dir, "a");
	expect_first(&req, CV_NFS4_SEQUENCE);
	sequenced(&o, 2);
	reply(&req, &o);
	expect(&r, -ENOENT);
	engine->unlink(nfs, op_of(&r), &dir, "a");
	expect_first(&req, CV_NFS4_SEQUENCE);
	server_drop();
	server_accept_again();
	expect_first(&req, CV_NFS4_SEQUENCE);
	sequenced(&o, 2);
	reply(&req, &o);
	expect(&r, 0);
}

static void serve_new_session(uint64_t clientid)
{
	struct request req;
	struct out o;

	expect_first(&req, CV_NFS4_EXCHANGE_ID);
	bare(&o, 0);
	put_op(&o, CV_NFS4_EXCHANGE_ID, 0);
	cv_xdr_put_u64(&o.x, clientid);
	for (int i = 0; i < 3; i++) /* sequence, flags, no protection */
		cv_xdr_put_u32(&o.x, 0);
	reply(&req, &o);
	expect_first(&req, CV_NFS4_CREATE_SESSION);
	bare(&o, 0);
	put_op(&o, CV_NFS4_CREATE_SESSION, 0);
	cv_xdr_put_fixed(&o.x, "ANOTHERSESSIONXX", CV_NFS4_SESSION_SIZE);
	for (int i = 0; i < 9; i++)
		cv_xdr_put_u32(&o.x, 4);
	reply(&req, &o);
}

static void test_server_restarted(void **state)
{
	struct cv_file *f;
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	open_file(&r, &f);
	engine->read(nfs, op_of(&r), f, 64, 0);
	expect_first(&req, CV_NFS4_SEQUENCE);
	bare(&o, CV_NFS4ERR_BADSESSION);
	put_op(&o, CV_NFS4_SEQUENCE, CV_NFS4ERR_BADSESSION);
	reply(&req, &o);
	serve_new_session(2);
	expect_first(&req, CV_NFS4_SEQUENCE); /* OPEN, CLAIM_PREVIOUS */
	assert_memory_equal(req.bytes + SEQ_AT + 4, "ANOTHERSESSIONXX", CV_NFS4_SESSION_SIZE);
	assert_int_equal(seq_of(&req), 1);
	sequenced(&o, 0);
	put_opened(&o, "OPEN-STATE-2");
	reply(&req, &o);
	expect_first(&req, CV_NFS4_SEQUENCE); /* RECLAIM_COMPLETE */
	sequenced(&o, 0);
	reply(&req, &o);
	expect_first(&req, CV_NFS4_SEQUENCE);
	assert_non_null(memmem(req.bytes, req.size, "OPEN-STATE-2", CV_NFS4_OTHER_SIZE));
	sequenced(&o, 0);
	put_data(&o, "hello");
	reply(&req, &o);
	expect(&r, 5);
	assert_memory_equal(r.data, "hello", 5);
	engine->release(nfs, f);
}

/* One open is lost, not the session: it is opened like new, and the call goes out again. */
static void test_open_lost(void **state)
{
	struct cv_file *f;
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	open_file(&r, &f);
	engine->read(nfs, op_of(&r), f, 64, 0);
	expect_first(&req, CV_NFS4_SEQUENCE);
	sequenced(&o, CV_NFS4ERR_BAD_STATEID);
	reply(&req, &o);
	expect_first(&req, CV_NFS4_SEQUENCE); /* OPEN */
	sequenced(&o, 0);
	put_opened(&o, "OPEN-STATE-3");
	reply(&req, &o);
	expect_first(&req, CV_NFS4_SEQUENCE);
	assert_non_null(memmem(req.bytes, req.size, "OPEN-STATE-3", CV_NFS4_OTHER_SIZE));
	sequenced(&o, 0);
	put_data(&o, "x");
	reply(&req, &o);
	expect(&r, 1);
	engine->release(nfs, f);
}

/* ---- locks ---- */

static void serve_lock(uint32_t status)
{
	struct request req;
	struct out o;

	expect_first(&req, CV_NFS4_SEQUENCE);
	sequenced(&o, status);
	put_op(&o, CV_NFS4_LOCK, status);
	if (status) {
		cv_xdr_put_u64(&o.x, 0);
		cv_xdr_put_u64(&o.x, CV_NFS4_TO_EOF);
		cv_xdr_put_u32(&o.x, CV_NFS4_WRITE_LT);
		cv_xdr_put_u64(&o.x, 99);
		cv_xdr_put_opaque(&o.x, "other", 5);
	} else {
		put_stateid(&o, "LOCK-STATE-1");
		put_attr(&o, "500");
	}
	reply(&req, &o);
}

static void serve_unlock(void)
{
	struct request req;
	struct out o;

	expect_first(&req, CV_NFS4_SEQUENCE);
	assert_non_null(memmem(req.bytes, req.size, "LOCK-STATE-1", CV_NFS4_OTHER_SIZE));
	sequenced(&o, 0);
	put_op(&o, CV_NFS4_LOCKU, 0);
	put_stateid(&o, "LOCK-STATE-1");
	put_op(&o, CV_NFS4_FREE_STATEID, 0);
	reply(&req, &o);
}

static void test_lock_ranges(void **state)
{
	struct cv_lock lock = { .owner = 1, .type = F_WRLCK, .start = 0, .end = 99 };
	const struct cv_nfs4_lock *l;
	struct cv_file *f;
	struct run r;

	(void)state;
	open_file(&r, &f);
	engine->setlk(nfs, op_of(&r), f, &lock, false);
	serve_lock(0);
	expect(&r, 0);
	assert_true(r.op.have_attr);
	l = nfs->v4->locks;
	assert_int_equal(l->nranges, 1);
	lock = (struct cv_lock){ .owner = 1, .type = F_RDLCK, .start = 40, .end = 59 };
	engine->setlk(nfs, op_of(&r), f, &lock, false);
	serve_lock(0);
	expect(&r, 0);
	assert_int_equal(l->nranges, 3); /* 0 to 39, 40 to 59, 60 to 99 */
	lock.type = F_WRLCK;
	engine->setlk(nfs, op_of(&r), f, &lock, false);
	serve_lock(0);
	expect(&r, 0);
	assert_int_equal(l->nranges, 1);
	assert_true(l->ranges[0].start == 0 && l->ranges[0].end == 99);
	/* Nothing of another owner's: no call. */
	lock = (struct cv_lock){ .owner = 2, .type = F_UNLCK, .end = CV_LOCK_EOF };
	engine->setlk(nfs, op_of(&r), f, &lock, false);
	expect(&r, 0);
	lock.owner = 1;
	engine->setlk(nfs, op_of(&r), f, &lock, false);
	serve_unlock();
	expect(&r, 0);
	assert_null(nfs->v4->locks);
	engine->release(nfs, f);
}

static void test_lock_in_the_way(void **state)
{
	const struct cv_lock lock = { .owner = 1, .type = F_WRLCK, .end = CV_LOCK_EOF };
	struct cv_file *f;
	struct run r;

	(void)state;
	open_file(&r, &f);
	engine->setlk(nfs, op_of(&r), f, &lock, false);
	serve_lock(CV_NFS4ERR_DENIED);
	expect(&r, -EAGAIN);
	assert_null(nfs->v4->locks);
	/* Who waits asks again, and has it. */
	engine->setlk(nfs, op_of(&r), f, &lock, true);
	serve_lock(CV_NFS4ERR_DENIED);
	serve_lock(CV_NFS4ERR_DENIED);
	serve_lock(0);
	expect(&r, 0);
	engine->setlk(nfs, op_of(&r), f,
		      &(struct cv_lock){ .owner = 1, .type = F_UNLCK, .end = CV_LOCK_EOF }, false);
	serve_unlock();
	expect(&r, 0);
	/* Who does not wait any more asks no more. */
	engine->setlk(nfs, op_of(&r), f, &lock, true);
	serve_lock(CV_NFS4ERR_DENIED);
	r.op.abandoned = true;
	expect(&r, -EINTR);
	assert_false(client_turns(server.fd, NO_ANSWER));
	/* Or gives back what came too late. */
	engine->setlk(nfs, op_of(&r), f, &lock, true);
	r.op.abandoned = true;
	serve_lock(0);
	serve_unlock();
	expect(&r, -EINTR);
	assert_null(nfs->v4->locks);
	engine->release(nfs, f);
}

/* The mount ends amid a recovery: so does who waits for it, and who waits for that one's turn. */
static void test_end_in_recovery(void **state)
{
	const struct cv_lock lock = { .owner = 1, .type = F_WRLCK, .end = CV_LOCK_EOF };
	struct run r, first, second;
	struct request req;
	struct cv_file *f;

	(void)state;
	open_file(&r, &f);
	cv_nfs4_recover(nfs->v4, true);
	expect_first(&req, CV_NFS4_EXCHANGE_ID);
	engine->setlk(nfs, op_of(&first), f, &lock, false);
	engine->setlk(nfs, op_of(&second), f, &lock, false);
	cv_rpc_free(nfs->rpc);
	nfs->rpc = NULL;
	cv_nfs4_free(nfs->v4);
	nfs->v4 = NULL;
	expect(&first, -ECANCELED);
	expect(&second, -ECANCELED);
	free(f->open);
	free(f);
}

/* ---- minor version 0 ---- */

static int setup0(void **state)
{
	int r = setup(state);

	nfs->v4->minor = 0;
	return r;
}

/* What an OPEN of handle brings. */
static void opened0(struct out *o, const char *handle, bool confirm)
{
	bare(o, 0);
	put_op(o, CV_NFS4_PUTFH, 0);
	put_op(o, CV_NFS4_OPEN, 0);
	put_stateid(o, "OPEN-STATE-1");
	for (int i = 0; i < 8; i++) /* change_info, rflags, no attributes, no delegation */
		cv_xdr_put_u32(&o->x, i == 5 && confirm ? 2 : 0);
	put_op(o, CV_NFS4_GETFH, 0);
	cv_xdr_put_opaque(&o->x, handle, strlen(handle));
	put_attr(o, "500");
}

static void reply_opened(const struct request *req, bool confirm)
{
	struct out o;

	opened0(&o, "FILE", confirm);
	reply(req, &o);
}

/* A compound whose second operation is op, which begins with its owner's number: after PUTFH. */
static void expect_numbered(struct request *req, uint32_t op, uint32_t number)
{
	expect_first(req, CV_NFS4_PUTFH);
	assert_int_equal(word(req->bytes + SEQ_AT + 12), op);
	assert_int_equal(word(req->bytes + SEQ_AT + 16), number);
}

/* The answer to one whose second operation is op, which gives a state. */
static void reply_state(const struct request *req, uint32_t op, const char *stateid)
{
	struct out o;

	bare(&o, 0);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_op(&o, op, 0);
	put_stateid(&o, stateid);
	reply(req, &o);
}

static void start_open0(struct run *r)
{
	static const struct cv_object named = {
		.nodeid = 2, .handle = &file_handle, .parent = &dir_handle, .name = "name"
	};

	engine->open(nfs, op_of(r), &named, O_RDWR);
}

static void serve_confirm(void)
{
	struct request req;

	expect_first(&req, CV_NFS4_PUTFH);
	assert_int_equal(word(req.bytes + SEQ_AT + 12), CV_NFS4_OPEN_CONFIRM);
	assert_int_equal(word(req.bytes + SEQ_AT + 32), 1); /* OPEN had 0 */
	reply_state(&req, CV_NFS4_OPEN_CONFIRM, "OPEN-STATE-2");
}

/* A new owner is confirmed; the next open has it again, with the next number. */
static void test_owner_numbers(void **state)
{
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	start_open0(&r);
	expect_numbered(&req, CV_NFS4_OPEN, 0);
	assert_non_null(memmem(req.bytes, req.size, "name", 4));
	reply_opened(&req, true);
	serve_confirm();
	expect(&r, 0);
	engine->release(nfs, r.op.file);
	expect_numbered(&req, CV_NFS4_CLOSE, 2);
	assert_non_null(memmem(req.bytes, req.size, "OPEN-STATE-2", CV_NFS4_OTHER_SIZE));
	reply_state(&req, CV_NFS4_CLOSE, "OPEN-STATE-2");
	while (nfs->v4->own)
		assert_int_equal(cv_loop_turn(loop, 5), 0);
	assert_int_equal(nfs->v4->nidle, 1);
	/* An error counts, too, but not when the server came not as far as the number. */
	start_open0(&r);
	expect_numbered(&req, CV_NFS4_OPEN, 3);
	bare(&o, 13);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_op(&o, CV_NFS4_OPEN, 13);
	o.bytes[11] = 2; /* results */
	reply(&req, &o);
	expect(&r, -EACCES);
	start_open0(&r);
	expect_numbered(&req, CV_NFS4_OPEN, 4);
	bare(&o, 70);
	put_op(&o, CV_NFS4_PUTFH, 70);
	o.bytes[11] = 1;
	reply(&req, &o);
	expect(&r, -ESTALE);
	start_open0(&r);
	expect_numbered(&req, CV_NFS4_OPEN, 4);
	reply_opened(&req, false);
	expect(&r, 0);
	engine->release(nfs, r.op.file);
}

static void reply_refused(const struct request *req, uint32_t op, uint32_t status)
{
	struct out o;

	bare(&o, status);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_op(&o, op, status);
	o.bytes[11] = 2; /* results */
	reply(req, &o);
}

static void serve_confirm_refused(uint32_t status)
{
	struct request req;

	expect_first(&req, CV_NFS4_PUTFH);
	assert_int_equal(word(req.bytes + SEQ_AT + 12), CV_NFS4_OPEN_CONFIRM);
	reply_refused(&req, CV_NFS4_OPEN_CONFIRM, status);
}

static uint64_t owner_in(const struct request *req)
{
	uint64_t owner;

	/* Behind OPEN's number, share, client and the owner's length. */
	memcpy(&owner, req->bytes + SEQ_AT + 40, sizeof(owner));
	return owner;
}

/*
 * The server does not know the number, or the state, of what it was to confirm: nothing depends on
 * it so far, so it is opened from the start by another owner, and nobody else notices.
 */
static void test_confirm_refused(void **state)
{
	static const uint32_t refusals[] = { CV_NFS4ERR_BAD_SEQID, CV_NFS4ERR_BAD_STATEID,
					     CV_NFS4ERR_OLD_STATEID };
	struct request first, req;
	struct run r;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(refusals); i++) {
		start_open0(&r);
		expect_numbered(&first, CV_NFS4_OPEN, 0);
		reply_opened(&first, true);
		serve_confirm_refused(refusals[i]);
		expect_numbered(&req, CV_NFS4_OPEN, 0);
		assert_true(owner_in(&req) != owner_in(&first));
		reply_opened(&req, true);
		serve_confirm();
		expect(&r, 0);
		assert_int_equal(r.op.file->open->stateid.seq, 1);
		assert_memory_equal(r.op.file->open->stateid.other, "OPEN-STATE-2",
				    CV_NFS4_OTHER_SIZE);
		engine->release(nfs, r.op.file);
		expect_numbered(&req, CV_NFS4_CLOSE, 2);
		reply_refused(&req, CV_NFS4_CLOSE, CV_NFS4ERR_BAD_STATEID);
		while (nfs->v4->own)
			assert_int_equal(cv_loop_turn(loop, 5), 0);
		nfs->v4->nidle = 0; /* the next one is to be confirmed, too */
	}
}

/* The same for a file that was just made: by its name, and not made a second time. */
static void test_confirm_created(void **state)
{
	struct request first, req;
	struct out o;
	struct run r;

	(void)state;
	engine->create(nfs, op_of(&r), &dir, "new", O_RDWR | O_CREAT | O_EXCL, 0640);
	expect_first(&first, CV_NFS4_PUTFH);
	assert_int_equal(word(first.bytes + SEQ_AT + 16), CV_NFS4_OPEN);
	bare(&o, 0);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_op(&o, CV_NFS4_SAVEFH, 0);
	put_op(&o, CV_NFS4_OPEN, 0);
	put_stateid(&o, "OPEN-STATE-1");
	for (int i = 0; i < 8; i++)
		cv_xdr_put_u32(&o.x, i == 5 ? 2 : 0);
	put_op(&o, CV_NFS4_GETFH, 0);
	cv_xdr_put_opaque(&o.x, "FILE", 4);
	put_attr(&o, "500");
	put_op(&o, CV_NFS4_RESTOREFH, 0);
	put_attr(&o, "500");
	reply(&first, &o);
	serve_confirm_refused(CV_NFS4ERR_BAD_SEQID);
	expect_numbered(&req, CV_NFS4_OPEN, 0);
	assert_non_null(memmem(req.bytes, req.size, "new", 3));
	reply_opened(&req, false);
	expect(&r, 0);
	assert_int_equal(r.op.entry.attr.ino, 77);
	engine->release(nfs, r.op.file);
}

/* Then it is truncated: what was opened is not there any more, and is opened again. */
static void test_truncate_refused(void **state)
{
	static const struct cv_object named = {
		.nodeid = 2, .handle = &file_handle, .parent = &dir_handle, .name = "name"
	};
	struct request first, req;
	struct out o;
	struct run r;

	(void)state;
	engine->open(nfs, op_of(&r), &named, O_RDWR | O_TRUNC);
	expect_numbered(&first, CV_NFS4_OPEN, 0);
	reply_opened(&first, false);
	expect_first(&req, CV_NFS4_PUTFH);
	assert_int_equal(word(req.bytes + SEQ_AT + 12), CV_NFS4_SETATTR);
	reply_refused(&req, CV_NFS4_SETATTR, CV_NFS4ERR_BAD_STATEID);
	expect_numbered(&req, CV_NFS4_OPEN, 0);
	assert_true(owner_in(&req) != owner_in(&first));
	reply_opened(&req, false);
	expect_first(&req, CV_NFS4_PUTFH);
	assert_int_equal(word(req.bytes + SEQ_AT + 12), CV_NFS4_SETATTR);
	bare(&o, 0);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_op(&o, CV_NFS4_SETATTR, 0);
	cv_xdr_put_u32(&o.x, 0);
	put_attr(&o, "500");
	reply(&req, &o);
	expect(&r, 0);
	engine->release(nfs, r.op.file);
}

/* Opens a small file that has a name, for reading. */
static void start_first0(struct run *r)
{
	static const struct cv_object small = { .nodeid = 2,
						.handle = &file_handle,
						.parent = &dir_handle,
						.name = "name",
						.seen_change = 1234,
						.seen_size = 5 };

	engine->open(nfs, &r->op, &small, O_RDONLY);
}

/* What is read of r's file is asked of the server. */
static void expect_asked0(struct run *r)
{
	struct cv_file *f = r->op.file;
	struct request req;
	struct out o;

	engine->read(nfs, op_of(r), f, 10, 0);
	expect_first(&req, CV_NFS4_PUTFH);
	assert_int_equal(word(req.bytes + SEQ_AT + 12), CV_NFS4_READ);
	bare(&o, 0);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_data(&o, "asked");
	reply(&req, &o);
	expect(r, 5);
	assert_memory_equal(r->data, "asked", 5);
	engine->release(nfs, f);
}

/* A successor opens what was open; another file has the name now: its bytes are not the file's. */
static void test_first_elsewhere(void **state)
{
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	op_of(&r)->repeated = true;
	start_first0(&r);
	expect_numbered(&req, CV_NFS4_OPEN, 0);
	opened0(&o, "OTHR", true);
	put_data(&o, "other");
	reply(&req, &o);
	expect_first(&req, CV_NFS4_PUTFH);
	assert_int_equal(word(req.bytes + SEQ_AT + 12), CV_NFS4_GETATTR);
	bare(&o, 0);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_attr(&o, "500");
	reply(&req, &o);
	expect(&r, 0);
	expect_asked0(&r);
}

/* Opened anew before it was confirmed: the first one's bytes are older than these attributes. */
static void test_first_anew(void **state)
{
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	(void)op_of(&r);
	start_first0(&r);
	expect_numbered(&req, CV_NFS4_OPEN, 0);
	opened0(&o, "FILE", true);
	put_data(&o, "older");
	reply(&req, &o);
	serve_confirm_refused(CV_NFS4ERR_BAD_SEQID);
	expect_numbered(&req, CV_NFS4_OPEN, 0);
	opened0(&o, "FILE", false);
	put_op(&o, CV_NFS4_READ, CV_NFS4ERR_OPENMODE);
	reply(&req, &o);
	expect(&r, 0);
	expect_asked0(&r);
}

static void serve_new_client(uint64_t clientid)
{
	struct request req;
	struct out o;

	expect_first(&req, CV_NFS4_SETCLIENTID);
	bare(&o, 0);
	put_op(&o, CV_NFS4_SETCLIENTID, 0);
	cv_xdr_put_u64(&o.x, clientid);
	cv_xdr_put_fixed(&o.x, "CONFIRM!", CV_NFS_VERF_SIZE);
	reply(&req, &o);
	expect_first(&req, CV_NFS4_SETCLIENTID_CONFIRM);
	assert_non_null(memmem(req.bytes, req.size, "CONFIRM!", CV_NFS_VERF_SIZE));
	bare(&o, 0);
	put_op(&o, CV_NFS4_SETCLIENTID_CONFIRM, 0);
	reply(&req, &o);
}

static void serve_lock0(uint32_t status)
{
	struct request req;
	struct out o;

	expect_first(&req, CV_NFS4_PUTFH);
	assert_int_equal(word(req.bytes + SEQ_AT + 12), CV_NFS4_LOCK);
	if (status) {
		reply_refused(&req, CV_NFS4_LOCK, status);
		return;
	}
	bare(&o, 0);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_op(&o, CV_NFS4_LOCK, 0);
	put_stateid(&o, "LOCK-STATE-1");
	put_attr(&o, "500");
	reply(&req, &o);
}

static struct cv_file *open0(struct run *r)
{
	struct request req;

	start_open0(r);
	expect_numbered(&req, CV_NFS4_OPEN, 0);
	reply_opened(&req, false);
	expect(r, 0);
	return r->op.file;
}

/*
 * A number that the server does not expect, where there is state: all of it is had again as a new
 * client, locks included, and the call goes out again. A CLOSE has nothing left to be done then.
 */
static void test_number_lost(void **state)
{
	const struct cv_lock lock = { .owner = 1, .type = F_WRLCK, .start = 0, .end = 9 };
	const struct cv_lock more = { .owner = 1, .type = F_WRLCK, .start = 20, .end = 29 };
	struct request req;
	struct cv_file *f;
	struct run r;

	(void)state;
	f = open0(&r);
	engine->setlk(nfs, op_of(&r), f, &lock, false);
	serve_lock0(0);
	expect(&r, 0);
	engine->setlk(nfs, op_of(&r), f, &more, false);
	serve_lock0(CV_NFS4ERR_BAD_SEQID);
	serve_new_client(4711);
	expect_numbered(&req, CV_NFS4_OPEN, 2);
	reply_opened(&req, false);
	serve_lock0(0); /* the first one, claimed */
	assert_int_equal(r.count, 0);
	serve_lock0(0);
	expect(&r, 0);
	assert_int_equal(nfs->v4->locks->nranges, 2);
	engine->release(nfs, f);
	expect_first(&req, CV_NFS4_PUTFH); /* LOCKU, CLOSE */
	reply_refused(&req, CV_NFS4_LOCKU, CV_NFS4ERR_BAD_SEQID);
	serve_new_client(4712);
	while (nfs->v4->own)
		assert_int_equal(cv_loop_turn(loop, 5), 0);
	assert_false(client_turns(server.fd, NO_ANSWER));
	assert_null(nfs->v4->opens);
	assert_null(nfs->v4->locks);
}

/* The server has restarted: a new client, CLAIM_PREVIOUS, and the read goes out again. */
static void test_client_lost(void **state)
{
	struct cv_file *f;
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	f = open0(&r);
	engine->read(nfs, op_of(&r), f, 64, 0);
	expect_first(&req, CV_NFS4_PUTFH);
	bare(&o, CV_NFS4ERR_STALE_STATEID);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_op(&o, CV_NFS4_READ, CV_NFS4ERR_STALE_STATEID);
	reply(&req, &o);
	serve_new_client(4711);
	expect_numbered(&req, CV_NFS4_OPEN, 1);
	assert_non_null(memmem(req.bytes, req.size, "FILE", 4)); /* by its handle */
	reply_opened(&req, false);
	expect_first(&req, CV_NFS4_PUTFH);
	assert_int_equal(word(req.bytes + SEQ_AT + 12), CV_NFS4_READ);
	bare(&o, 0);
	put_op(&o, CV_NFS4_PUTFH, 0);
	put_data(&o, "hello");
	reply(&req, &o);
	expect(&r, 5);
	engine->release(nfs, f);
}

/* ---- owners ---- */

static void write_file(char *path, const char *text)
{
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	(void)close(fd);
}

static void test_owners(void **state)
{
	char passwd[] = "/tmp/test-nfs4-XXXXXX", group[] = "/tmp/test-nfs4-XXXXXX", text[64];
	struct cv_owners *o;

	(void)state;
	write_file(passwd, "root:x:0:0::/:\n# no line\nalice:x:1000:1000::/:\nbad:x:abc:1::/:\n\n");
	write_file(group, "root:x:0:\nstaff:x:50:alice\n");
	o = cv_owners_new(passwd, group);
	assert_non_null(o);
	assert_int_equal(cv_owners_uid(o, "4711"), 4711);
	assert_int_equal(cv_owners_uid(o, "4294967296"), CV_OWNER_NOBODY);
	assert_int_equal(cv_owners_uid(o, "alice@example.org"), 1000);
	assert_int_equal(cv_owners_uid(o, "alice"), 1000);
	assert_int_equal(cv_owners_uid(o, "12@example.org"), 12);
	assert_int_equal(cv_owners_uid(o, "mallory@example.org"), CV_OWNER_NOBODY);
	assert_int_equal(cv_owners_uid(o, "bad@example.org"), CV_OWNER_NOBODY);
	assert_int_equal(cv_owners_uid(o, ""), CV_OWNER_NOBODY);
	assert_int_equal(cv_owners_gid(o, "staff@example.org"), 50);
	assert_int_equal(cv_owners_gid(o, "alice@example.org"), CV_OWNER_NOBODY);
	cv_owners_format(o, false, false, 1000, text, sizeof(text));
	assert_string_equal(text, "1000");
	cv_owners_format(o, false, true, 1000, text, sizeof(text));
	assert_string_equal(text, "alice@example.org");
	cv_owners_format(o, true, true, 50, text, sizeof(text));
	assert_string_equal(text, "staff@example.org");
	cv_owners_format(o, true, true, 51, text, sizeof(text));
	assert_string_equal(text, "51");
	cv_owners_free(o);
	(void)unlink(passwd);
	(void)unlink(group);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_first),
		TEST(test_first_outdated),
		TEST(test_open_fault),
		TEST(test_getattr),
		TEST(test_numbers),
		TEST(test_answer_not_kept),
		TEST(test_removed_before),
		TEST(test_server_restarted),
		TEST(test_open_lost),
		TEST(test_lock_ranges),
		TEST(test_lock_in_the_way),
		TEST(test_end_in_recovery),
		cmocka_unit_test_setup_teardown(test_owner_numbers, setup0, teardown),
		cmocka_unit_test_setup_teardown(test_confirm_refused, setup0, teardown),
		cmocka_unit_test_setup_teardown(test_confirm_created, setup0, teardown),
		cmocka_unit_test_setup_teardown(test_truncate_refused, setup0, teardown),
		cmocka_unit_test_setup_teardown(test_first_elsewhere, setup0, teardown),
		cmocka_unit_test_setup_teardown(test_first_anew, setup0, teardown),
		cmocka_unit_test_setup_teardown(test_number_lost, setup0, teardown),
		cmocka_unit_test_setup_teardown(test_client_lost, setup0, teardown),
		cmocka_unit_test(test_owners),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
