/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NFS engine against a server played by the test, for what a real one does rarely: answers that
 * are lost and calls that come twice, JUKEBOX, attributes left out, refused owners, restarts
 * between the pieces of a write.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h> /* RENAME_NOREPLACE */
#include <stdlib.h>
#include <sys/stat.h>

#include "tests/unit/nfs_server.h"

#define ST_OK	   0
#define ST_PERM	   1
#define ST_NOENT   2
#define ST_EXIST   17
#define ST_STALE   70
#define ST_NOTSUPP 10004
#define TYPE_DIR   2
#define TYPE_LNK   5

/* Results under construction. */
struct out {
	uint8_t bytes[1024];
	size_t size;
};

/* ---- results ---- */

static void put(struct out *o, uint32_t v)
{
	o->size += put_words(o->bytes + o->size, &v, 1);
}

static void put64(struct out *o, uint64_t v)
{
	put(o, (uint32_t)(v >> 32));
	put(o, (uint32_t)v);
}

static void put_bytes(struct out *o, const void *p, size_t n)
{
	memcpy(o->bytes + o->size, p, n);
	o->size += n;
}

static void put_opaque(struct out *o, const void *p, size_t n)
{
	put(o, (uint32_t)n);
	put_bytes(o, p, n);
	put_bytes(o, "\0\0\0", (4 - n % 4) % 4);
}

static uint64_t fsid = 1; /* of what is told next */

static void put_attr(struct out *o, uint32_t type, uint32_t mode, uint64_t size)
{
	const uint32_t head[] = { type, mode, 1, 500, 600 };

	for (size_t i = 0; i < CV_ARRAY_SIZE(head); i++)
		put(o, head[i]);
	put64(o, size);
	put64(o, 4096);
	put64(o, 0); /* rdev */
	put64(o, fsid);
	put64(o, 77);
	for (int i = 0; i < 6; i++)
		put(o, 1000 + (uint32_t)i);
}

/* post_op_attr, wcc_data without the part before */
static void put_post(struct out *o, uint32_t type, uint32_t mode, uint64_t size)
{
	put(o, 1);
	put_attr(o, type, mode, size);
}

static void put_wcc(struct out *o, uint32_t type, uint32_t mode, uint64_t size)
{
	put(o, 0);
	put_post(o, type, mode, size);
}

static void put_nothing(struct out *o, int words)
{
	while (words--)
		put(o, 0);
}

static struct out status(uint32_t st)
{
	struct out o = { .size = 0 };

	put(&o, st);
	return o;
}

/* What a LOOKUP brings. */
static struct out found(const char *handle, uint32_t type, uint32_t mode)
{
	struct out o = status(ST_OK);

	put_opaque(&o, handle, strlen(handle));
	put_post(&o, type, mode, 0);
	put(&o, 0);
	return o;
}

static struct out failed(uint32_t st)
{
	struct out o = status(st);

	put_nothing(&o, 4);
	return o;
}

static void reply(const struct request *req, const struct out *o)
{
	uint8_t head[28];
	const uint32_t words[] = {
		0x80000000u | (uint32_t)(24 + o->size), req->xid, 1, 0, 0, 0, 0
	};

	server_write(head, put_words(head, words, CV_ARRAY_SIZE(words)));
	server_write(o->bytes, o->size);
}

static void expect_call(struct request *req, uint32_t procedure)
{
	server_receive(req);
	assert_int_equal(req->program, CV_NFS_PROGRAM);
	assert_int_equal(req->version, 3);
	assert_int_equal(req->procedure, procedure);
}

static void serve(uint32_t procedure, struct out o)
{
	struct request req;

	expect_call(&req, procedure);
	reply(&req, &o);
}

/* The call comes, its answer is lost with the connection, it comes again. */
static void serve_second(uint32_t procedure, struct out o)
{
	struct request first, second;

	expect_call(&first, procedure);
	server_drop();
	server_accept_again();
	expect_call(&second, procedure);
	assert_int_equal(first.xid, second.xid);
	reply(&second, &o);
}

static const struct cv_backend *const engine = &cv_backend_nfs;

static int setup(void **state)
{
	(void)state;
	nfs_connect(3);
	nfs->fsid = fsid = 1;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	nfs_close();
	return 0;
}

/* ---- tests ---- */

static uint64_t ino_from(uint64_t file_system)
{
	struct run r;

	fsid = file_system;
	engine->lookup(nfs, op_of(&r), &dir, "a");
	serve(CV_NFS_LOOKUP, found("handle", TYPE_DIR, 0700));
	expect(&r, 0);
	return r.op.entry.attr.ino;
}

/* Two directories of the same number, one in a file system below the other's: a walk would think
 * that it goes in circles, a copy that two files are one. */
static void test_file_system_below(void **state)
{
	uint64_t below;

	(void)state;
	assert_int_equal(ino_from(1), 77);
	below = ino_from(2);
	assert_true(below != 77);
	assert_true(ino_from(3) != below && ino_from(3) != 77);
	assert_true(ino_from(2) == below);
	assert_int_equal(ino_from(1), 77);
}

static void test_removed_before(void **state)
{
	struct run r;

	(void)state;
	engine->unlink(nfs, op_of(&r), &dir, "a");
	serve(CV_NFS_REMOVE, failed(ST_NOENT));
	expect(&r, -ENOENT);
	engine->unlink(nfs, op_of(&r), &dir, "a");
	serve_second(CV_NFS_REMOVE, failed(ST_NOENT));
	expect(&r, 0);
	engine->rmdir(nfs, op_of(&r), &dir, "a");
	serve_second(CV_NFS_RMDIR, failed(ST_NOENT));
	expect(&r, 0);
}

static void test_renamed_before(void **state)
{
	struct run r;

	(void)state;
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", 0);
	serve_second(CV_NFS_RENAME, failed(ST_NOENT));
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
	expect(&r, 0);
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", 0);
	serve_second(CV_NFS_RENAME, failed(ST_NOENT));
	serve(CV_NFS_LOOKUP, failed(ST_NOENT));
	expect(&r, -ENOENT);
}

/* While the first transmission takes it away, the second may hear that it is stale. */
static void test_stale_in_between(void **state)
{
	struct run r;

	(void)state;
	engine->unlink(nfs, op_of(&r), &dir, "a");
	serve(CV_NFS_REMOVE, failed(ST_STALE));
	expect(&r, -ESTALE);
	engine->unlink(nfs, op_of(&r), &dir, "a");
	serve_second(CV_NFS_REMOVE, failed(ST_STALE));
	serve(CV_NFS_LOOKUP, failed(ST_NOENT));
	expect(&r, 0);
	op_of(&r)->repeated = true; /* a predecessor has sent it */
	engine->rmdir(nfs, &r.op, &dir, "a");
	serve(CV_NFS_RMDIR, failed(ST_STALE));
	serve(CV_NFS_LOOKUP, failed(ST_NOENT));
	expect(&r, 0);
	engine->unlink(nfs, op_of(&r), &dir, "a");
	serve_second(CV_NFS_REMOVE, failed(ST_STALE));
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
	expect(&r, -ESTALE);
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", 0);
	serve_second(CV_NFS_RENAME, failed(ST_STALE));
	serve(CV_NFS_LOOKUP, failed(ST_NOENT));
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
	expect(&r, 0);
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", 0);
	serve_second(CV_NFS_RENAME, failed(ST_STALE));
	serve(CV_NFS_LOOKUP, failed(ST_STALE)); /* it is the directory */
	expect(&r, -ESTALE);
}

static void test_made_before(void **state)
{
	struct out target = status(ST_OK);
	struct run r;

	(void)state;
	engine->mkdir(nfs, op_of(&r), &dir, "d", 0750);
	serve(CV_NFS_MKDIR, failed(ST_EXIST));
	expect(&r, -EEXIST);
	engine->mkdir(nfs, op_of(&r), &dir, "d", 0750);
	serve_second(CV_NFS_MKDIR, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("NEW", TYPE_DIR, 0750));
	expect(&r, 0);
	assert_int_equal(r.op.entry.handle.size, 3);
	engine->mkdir(nfs, op_of(&r), &dir, "d", 0750);
	serve_second(CV_NFS_MKDIR, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("NEW", TYPE_REG, 0750));
	expect(&r, -EEXIST);

	put(&target, 0);
	put_opaque(&target, "there", 5);
	engine->symlink(nfs, op_of(&r), &dir, "l", "there");
	serve_second(CV_NFS_SYMLINK, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("LINK", TYPE_LNK, 0777));
	serve(CV_NFS_READLINK, target);
	expect(&r, 0);
	engine->symlink(nfs, op_of(&r), &dir, "l", "elsewhere");
	serve_second(CV_NFS_SYMLINK, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("LINK", TYPE_LNK, 0777));
	serve(CV_NFS_READLINK, target);
	expect(&r, -EEXIST);

	engine->link(nfs, op_of(&r), &file, &dir, "n");
	serve_second(CV_NFS_LINK, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
	expect(&r, 0);
	engine->link(nfs, op_of(&r), &file, &dir, "n");
	serve_second(CV_NFS_LINK, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("OTHR", TYPE_REG, 0600));
	expect(&r, -EEXIST);
}

static void test_noreplace(void **state)
{
	struct run r;

	(void)state;
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", RENAME_NOREPLACE);
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
	serve_second(CV_NFS_LINK, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600)); /* our own */
	serve_second(CV_NFS_REMOVE, failed(ST_NOENT));
	expect(&r, 0);
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", RENAME_NOREPLACE);
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
	serve(CV_NFS_LINK, failed(ST_EXIST));
	expect(&r, -EEXIST);
	/* The old name stays, so the new one must go. */
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", RENAME_NOREPLACE);
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
	serve(CV_NFS_LINK, failed(ST_OK));
	serve(CV_NFS_REMOVE, failed(ST_PERM));
	serve(CV_NFS_REMOVE, failed(ST_OK));
	expect(&r, -EPERM);
	/* Where it is not known to stay, both do, rather than none. */
	for (int gone = 0; gone < 2; gone++) {
		engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", RENAME_NOREPLACE);
		serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
		serve(CV_NFS_LINK, failed(ST_OK));
		serve_second(CV_NFS_REMOVE, failed(ST_STALE));
		serve(CV_NFS_LOOKUP, gone ? failed(ST_NOENT) : found("FILE", TYPE_REG, 0600));
		expect(&r, gone ? 0 : -ESTALE);
	}
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", RENAME_NOREPLACE);
	serve(CV_NFS_LOOKUP, found("DIR2", TYPE_DIR, 0700));
	expect(&r, -EINVAL);
}

/* A file that our lost CREATE has made is ours, whatever its mode allows. */
static void test_create(void **state)
{
	struct out made = status(ST_OK), set = status(ST_OK), fresh = status(ST_OK);
	struct out access_none = status(ST_OK), access_all = status(ST_OK);
	struct request req;
	struct run r;

	(void)state;
	engine->create(nfs, op_of(&r), &dir, "f", O_RDWR, 0400);
	serve_second(CV_NFS_CREATE, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0400));
	expect(&r, 0);
	engine->release(nfs, r.op.file);

	/* Another's file is not. */
	put(&access_none, 0);
	put(&access_none, 1);
	engine->create(nfs, op_of(&r), &dir, "f", O_RDWR, 0400);
	serve(CV_NFS_CREATE, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0400));
	serve(CV_NFS_ACCESS, access_none);
	expect(&r, -EACCES);

	put(&access_all, 1);
	put_attr(&access_all, TYPE_REG, 0600, 9);
	put(&access_all, 0x2d);
	engine->create(nfs, op_of(&r), &dir, "f", O_RDWR, 0400);
	serve(CV_NFS_CREATE, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0600));
	serve(CV_NFS_ACCESS, access_all);
	expect(&r, 0);
	assert_int_equal(r.op.entry.attr.size, 9);
	assert_int_equal(r.op.attr.size, 9);
	engine->release(nfs, r.op.file);

	/* Removed by another client between the two: from the start. */
	put(&fresh, 1);
	put_opaque(&fresh, "FILE", 4);
	put_post(&fresh, TYPE_REG, 0400, 0);
	put_nothing(&fresh, 2);
	engine->create(nfs, op_of(&r), &dir, "f", O_RDWR, 0400);
	serve(CV_NFS_CREATE, failed(ST_EXIST));
	serve(CV_NFS_LOOKUP, failed(ST_NOENT));
	serve(CV_NFS_CREATE, fresh);
	expect(&r, 0);
	engine->release(nfs, r.op.file);

	/* O_EXCL: EXCLUSIVE, then the mode; no handle in the answer: looked up. */
	put_nothing(&made, 4);
	put_wcc(&set, TYPE_REG, 0640, 0);
	engine->create(nfs, op_of(&r), &dir, "f", O_RDWR | O_EXCL, 0640);
	expect_call(&req, CV_NFS_CREATE);
	assert_int_equal(word(req.bytes + req.size - 12), CV_NFS_EXCLUSIVE);
	reply(&req, &made);
	serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0));
	serve(CV_NFS_SETATTR, set);
	expect(&r, 0);
	assert_int_equal(r.op.attr.mode, S_IFREG | 0640);
	engine->release(nfs, r.op.file);

	engine->create(nfs, op_of(&r), &dir, "f", O_RDWR | O_EXCL, 0640);
	serve(CV_NFS_CREATE, failed(ST_EXIST));
	expect(&r, -EEXIST);

	/* A server without EXCLUSIVE. */
	engine->create(nfs, op_of(&r), &dir, "f", O_RDWR | O_EXCL, 0640);
	serve(CV_NFS_CREATE, failed(ST_NOTSUPP));
	serve(CV_NFS_CREATE, failed(ST_EXIST));
	expect(&r, -EEXIST);
}

/* What a CREATE or LOOKUP says of a file that was last read then. */
static struct out made_at(const uint8_t when[8], bool looked_up)
{
	struct out o = status(ST_OK);
	size_t attr;

	if (!looked_up)
		put(&o, 1);
	put_opaque(&o, "FILE", 4);
	attr = o.size + 4;
	put_post(&o, TYPE_REG, 0640, 0);
	memcpy(o.bytes + attr + 60, when, 8);
	put_nothing(&o, looked_up ? 1 : 2);
	return o;
}

/* O_EXCL in one call, where the server keeps the time of last access it is told. */
static void test_create_marked(void **state)
{
	static const uint8_t another[8] = { 1, 2, 3, 4, 0, 6, 7, 8 };
	struct request req, second;
	struct out o, plain = status(ST_OK), set = status(ST_OK);
	uint8_t when[2][8];
	struct run r;

	(void)state;
	nfs->mark_ns = 1;
	for (int i = 0; i < 2; i++) {
		engine->create(nfs, op_of(&r), &dir, "f", O_RDWR | O_EXCL, 0640);
		expect_call(&req, CV_NFS_CREATE);
		memcpy(when[i], req.bytes + req.size - 12, 8);
		o = made_at(when[i], false);
		reply(&req, &o);
		expect(&r, 0);
		engine->release(nfs, r.op.file);
	}
	assert_memory_not_equal(when[0] + 4, when[1] + 4, 4);
	/* Its answer got lost: is what is there now ours, or was somebody faster? */
	for (int ours = 0; ours <= 1; ours++) {
		engine->create(nfs, op_of(&r), &dir, "f", O_RDWR | O_EXCL, 0640);
		expect_call(&req, CV_NFS_CREATE);
		server_drop();
		server_accept_again();
		expect_call(&second, CV_NFS_CREATE);
		o = failed(ST_EXIST);
		reply(&second, &o);
		serve(CV_NFS_LOOKUP, made_at(ours ? req.bytes + req.size - 12 : another, true));
		expect(&r, ours ? 0 : -EEXIST);
		if (ours)
			engine->release(nfs, r.op.file);
	}
	/* Refused for the time: EXCLUSIVE, and from then on at once. */
	put(&plain, 1);
	put_opaque(&plain, "FILE", 4);
	put_post(&plain, TYPE_REG, 0640, 0);
	put_nothing(&plain, 2);
	put_wcc(&set, TYPE_REG, 0640, 0);
	for (int i = 0; i < 2; i++) {
		engine->create(nfs, op_of(&r), &dir, "f", O_RDWR | O_EXCL, 0640);
		if (i == 0)
			serve(CV_NFS_CREATE, failed(ST_PERM));
		expect_call(&req, CV_NFS_CREATE);
		assert_int_equal(word(req.bytes + req.size - 12), CV_NFS_EXCLUSIVE);
		reply(&req, &plain);
		serve(CV_NFS_SETATTR, set);
		expect(&r, 0);
		engine->release(nfs, r.op.file);
	}
	/* The server does not keep it. */
	nfs->mark_ns = 1;
	engine->create(nfs, op_of(&r), &dir, "f", O_RDWR | O_EXCL, 0640);
	serve(CV_NFS_CREATE, made_at(another, false));
	expect(&r, 0);
	engine->release(nfs, r.op.file);
	assert_int_equal(nfs->mark_ns, 0);
}

/*
 * The server does not keep that time; a worker that knew it dies behind its EXCLUSIVE, or behind
 * the SETATTR after that. Its successor, which does not know, finds the file to be its own.
 */
static void test_create_taken_over(void **state)
{
	struct cv_replay record = { .id = 0 }, left[3];
	struct out made = status(ST_OK), set = status(ST_OK), marked;
	struct request req;
	struct run r;

	(void)state;
	put(&made, 1);
	put_opaque(&made, "FILE", 4);
	put_post(&made, TYPE_REG, 0, 0);
	put_nothing(&made, 2);
	put_wcc(&set, TYPE_REG, 0640, 0);
	op_of(&r)->id = 9;
	r.op.replay = &record;
	engine->create(nfs, &r.op, &dir, "f", O_RDWR | O_EXCL, 0640);
	expect_call(&req, CV_NFS_CREATE);
	left[0] = record;
	cv_replay_keep_reply(&left[0], 9, made.bytes, made.size);
	reply(&req, &made);
	expect_call(&req, CV_NFS_SETATTR);
	left[1] = record;
	cv_replay_keep_reply(&left[1], 9, set.bytes, set.size);
	reply(&req, &set);
	expect(&r, 0);
	engine->release(nfs, r.op.file);
	for (int i = 0; i < 2; i++) {
		nfs->mark_ns = 1; /* as the server says */
		op_of(&r)->id = 9;
		r.op.replay = &left[i];
		r.op.repeated = true;
		engine->create(nfs, &r.op, &dir, "f", O_RDWR | O_EXCL, 0640);
		if (i == 0) {
			serve(CV_NFS_SETATTR, set);
		} else {
			serve(CV_NFS_CREATE, failed(ST_EXIST));
			serve(CV_NFS_LOOKUP, found("FILE", TYPE_REG, 0640));
		}
		expect(&r, 0);
		assert_int_equal(r.op.attr.mode, S_IFREG | 0640);
		assert_int_equal(nfs->mark_ns, 0);
		engine->release(nfs, r.op.file);
	}
	/* One that was marked is answered from what is left of it. */
	nfs->mark_ns = 1;
	op_of(&r)->id = 9;
	r.op.replay = &record;
	engine->create(nfs, &r.op, &dir, "f", O_RDWR | O_EXCL, 0640);
	expect_call(&req, CV_NFS_CREATE);
	marked = made_at(req.bytes + req.size - 12, false);
	left[2] = record;
	cv_replay_keep_reply(&left[2], 9, marked.bytes, marked.size);
	reply(&req, &marked);
	expect(&r, 0);
	engine->release(nfs, r.op.file);
	op_of(&r)->id = 9;
	r.op.replay = &left[2];
	r.op.repeated = true;
	engine->create(nfs, &r.op, &dir, "f", O_RDWR | O_EXCL, 0640);
	assert_int_equal(r.count, 1);
	expect(&r, 0);
	assert_int_equal(nfs->mark_ns, 1);
	engine->release(nfs, r.op.file);
}

static void test_jukebox(void **state)
{
	struct out ok = status(ST_OK);
	uint64_t start = cv_now_ns();
	struct run r;

	(void)state;
	put_attr(&ok, TYPE_REG, 0600, 5);
	engine->getattr(nfs, op_of(&r), &file, NULL);
	serve(CV_NFS_GETATTR, status(CV_NFS_JUKEBOX));
	serve(CV_NFS_GETATTR, status(CV_NFS_JUKEBOX));
	serve(CV_NFS_GETATTR, ok);
	expect(&r, 0);
	assert_true(cv_now_ns() - start > 250000000); /* not in a hurry */
	assert_int_equal(r.op.attr.size, 5);
	nfs->soft = true;
	nfs->timeout_ms = 300;
	engine->getattr(nfs, op_of(&r), &file, NULL);
	while (!r.count) {
		if (client_turns(server.fd, 20))
			serve(CV_NFS_GETATTR, status(CV_NFS_JUKEBOX));
	}
	expect(&r, -ETIMEDOUT);
}

static void test_owner(void **state)
{
	const struct cv_setattr chown_only = { .mask = CV_SET_UID | CV_SET_GID,
					       .uid = 1,
					       .gid = 2 };
	const struct cv_setattr both = { .mask = CV_SET_UID | CV_SET_MODE, .uid = 1, .mode = 0600 };
	struct out attr = status(ST_OK), set = status(ST_OK);
	struct request req;
	struct run r;

	(void)state;
	put_attr(&attr, TYPE_REG, 0600, 0);
	put_wcc(&set, TYPE_REG, 0600, 0);
	engine->setattr(nfs, op_of(&r), &file, NULL, &chown_only);
	serve(CV_NFS_SETATTR, failed(ST_PERM));
	expect(&r, -EPERM);
	nfs->chown_ignore = true;
	engine->setattr(nfs, op_of(&r), &file, NULL, &chown_only);
	serve(CV_NFS_SETATTR, failed(ST_PERM));
	serve(CV_NFS_GETATTR, attr);
	expect(&r, 0);
	engine->setattr(nfs, op_of(&r), &file, NULL, &both);
	serve(CV_NFS_SETATTR, failed(ST_PERM));
	serve(CV_NFS_SETATTR, set);
	expect(&r, 0);
	assert_int_equal(r.op.attr.uid, 500);
	/* uid=, gid=: sent and shown. */
	nfs->set_uid = nfs->set_gid = true;
	nfs->uid = 1;
	nfs->gid = 2;
	engine->setattr(nfs, op_of(&r), &file, NULL, &chown_only);
	expect_call(&req, CV_NFS_GETATTR);
	assert_int_equal(word(req.bytes + 44), 1);
	assert_int_equal(word(req.bytes + 48), 2);
	reply(&req, &attr);
	expect(&r, 0);
	assert_int_equal(r.op.attr.uid, 1);
	assert_int_equal(r.op.attr.gid, 2);
}

static void read_reply(struct out *o, const char *text, bool eof)
{
	*o = status(ST_OK);
	put(o, 0);
	put(o, (uint32_t)strlen(text));
	put(o, eof);
	put_opaque(o, text, strlen(text));
}

static void test_read(void **state)
{
	struct cv_file f = { .handle = file_handle };
	struct request req;
	struct out o;
	struct run r;

	(void)state;
	/* Short answers are not the end of the file. */
	engine->read(nfs, op_of(&r), &f, 10, 100);
	read_reply(&o, "abcd", false);
	serve(CV_NFS_READ, o);
	expect_call(&req, CV_NFS_READ);
	assert_int_equal(word(req.bytes + req.size - 8), 104);
	assert_int_equal(word(req.bytes + req.size - 4), 6);
	read_reply(&o, "efg", true);
	reply(&req, &o);
	expect(&r, 7);
	assert_memory_equal(r.data, "abcdefg", 7);
	/* No bytes, and not the end: nonsense, and not to be asked for again for ever. */
	engine->read(nfs, op_of(&r), &f, 10, 0);
	read_reply(&o, "", false);
	serve(CV_NFS_READ, o);
	expect(&r, -EIO);
	/* More than was asked for. */
	engine->read(nfs, op_of(&r), &f, 4, 0);
	read_reply(&o, "abcdefgh", true);
	serve(CV_NFS_READ, o);
	expect(&r, -EIO);
	/* A truncated answer. */
	engine->read(nfs, op_of(&r), &f, 10, 0);
	read_reply(&o, "abcdefgh", true);
	o.size -= 4;
	serve(CV_NFS_READ, o);
	expect(&r, -EIO);
}

/* ---- what is read along with an open ---- */

/* FILE, as put_attr() describes it. */
static struct cv_object seen_file(uint64_t size)
{
	const struct cv_attr attr = { .size = size,
				      .mtime = { 1002, 1003 },
				      .ctime = { 1004, 1005 } };
	struct cv_object obj = file;

	obj.seen_change = cv_change(&attr);
	obj.seen_size = size;
	return obj;
}

static struct out first_reply(uint32_t mode, const char *text)
{
	struct out o = status(ST_OK);

	put_post(&o, TYPE_REG, mode, strlen(text));
	put(&o, (uint32_t)strlen(text));
	put(&o, 1);
	put_opaque(&o, text, strlen(text));
	return o;
}

/* ACCESS grants reading. */
static struct out access_reply(void)
{
	struct out o = status(ST_OK);

	put_post(&o, TYPE_REG, 0600, 4);
	put(&o, CV_NFS_MAY_READ);
	return o;
}

/* An open that is answered so by READ, or then by ACCESS. */
static struct cv_file *open_with(const struct cv_object *obj, struct out first, bool then_access)
{
	struct run r;

	engine->open(nfs, op_of(&r), obj, O_RDONLY);
	serve(CV_NFS_READ, first);
	if (then_access)
		serve(CV_NFS_ACCESS, access_reply());
	expect(&r, 0);
	assert_true(r.op.have_attr);
	return r.op.file;
}

/* What a read gets, asked of the server or not, and the close. */
static void read_and_close(struct cv_file *f, bool asks)
{
	struct out o;
	struct run r;

	engine->read(nfs, op_of(&r), f, 10, 0);
	assert_int_equal(r.count, !asks);
	if (asks) {
		read_reply(&o, "newer", true);
		serve(CV_NFS_READ, o);
	}
	expect(&r, asks ? 5 : 4);
	assert_memory_equal(r.data, asks ? "newer" : "abcd", asks ? 5 : 4);
	engine->release(nfs, f);
}

static void test_first(void **state)
{
	const struct cv_setattr set = { .mask = CV_SET_SIZE };
	const struct cv_cred owner = { .uid = 500 };
	struct cv_object obj = seen_file(4), other = seen_file(5);
	struct out cut = status(ST_OK);
	struct cv_file *f;
	struct run r;

	(void)state;
	/* In two reads, since the kernel may want it so. */
	f = open_with(&obj, first_reply(0600, "abcd"), false);
	engine->read(nfs, op_of(&r), f, 2, 0);
	expect(&r, 2);
	assert_memory_equal(r.data, "ab", 2);
	engine->read(nfs, op_of(&r), f, 10, 2);
	expect(&r, 2);
	assert_memory_equal(r.data, "cd", 2);
	read_and_close(f, true); /* not twice */
	/* Changed by somebody since it was seen: whether before these bytes were read or after is
	 * not known. */
	f = open_with(&other, first_reply(0600, "abcd"), false);
	read_and_close(f, true);
	/* A change of our own. */
	f = open_with(&obj, first_reply(0600, "abcd"), false);
	op_of(&r)->call = CV_CALL_SETATTR;
	engine->setattr(nfs, &r.op, &file, NULL, &set);
	put_wcc(&cut, TYPE_REG, 0600, 0);
	serve(CV_NFS_SETATTR, cut);
	expect(&r, 0);
	read_and_close(f, true);
	/* Refused: ACCESS has the last word. */
	f = open_with(&obj, failed(ST_PERM), true);
	read_and_close(f, true);
	/* On tape: the open does not wait for it. */
	f = open_with(&obj, status(CV_NFS_JUKEBOX), true);
	read_and_close(f, true);
	/* The owner of what he may not read. */
	op_of(&r)->cred = &owner;
	engine->open(nfs, &r.op, &obj, O_RDONLY);
	serve(CV_NFS_READ, first_reply(0200, "abcd"));
	serve(CV_NFS_ACCESS, failed(ST_PERM));
	expect(&r, -EPERM);
	/* Not known, too long, or not to be read. */
	for (int i = 0; i < 3; i++) {
		const struct cv_object no[] = { file, seen_file(1 << 20), obj };

		engine->open(nfs, op_of(&r), &no[i], i < 2 ? O_RDONLY : O_WRONLY);
		serve(CV_NFS_ACCESS, failed(ST_PERM));
		expect(&r, -EPERM);
	}
	/* Nobody reads: it stops. Somebody does: it goes on. */
	read_and_close(open_with(&obj, first_reply(0600, "abcd"), false), false);
	for (int i = 0; i < 4; i++)
		engine->release(nfs, open_with(&obj, first_reply(0600, "abcd"), false));
	for (int i = 0; i < 7; i++) {
		engine->open(nfs, op_of(&r), &obj, O_RDONLY);
		serve(CV_NFS_ACCESS, access_reply());
		expect(&r, 0);
		engine->release(nfs, r.op.file);
	}
	for (int i = 0; i < 2; i++) {
		f = open_with(&obj, first_reply(0600, "abcd"), false);
		read_and_close(f, false);
	}
}

/* Another host has changed the file, and the worker is told so by other means than this open. */
static void test_first_outdated(void **state)
{
	const struct cv_object was = seen_file(4), is = seen_file(5);
	struct cv_file listed = { .handle = dir_handle, .reply_bytes = 65536 };
	struct cv_file *f;

	(void)state;
	for (int i = 0; i < 8; i++) {
		bool newer = i % 2;
		struct out o = status(ST_OK);
		struct run r;

		f = open_with(&was, first_reply(0600, "abcd"), false);
		switch (i / 2) {
		case 0:
			op_of(&r)->call = CV_CALL_LOOKUP;
			engine->lookup(nfs, &r.op, &dir, "f");
			put_opaque(&o, "FILE", 4);
			put_post(&o, TYPE_REG, 0600, newer ? 5 : 4);
			put(&o, 0);
			serve(CV_NFS_LOOKUP, o);
			expect(&r, 0);
			break;
		case 1:
			op_of(&r)->call = CV_CALL_GETATTR;
			engine->getattr(nfs, &r.op, &file, NULL);
			put_attr(&o, TYPE_REG, 0600, newer ? 5 : 4);
			serve(CV_NFS_GETATTR, o);
			expect(&r, 0);
			break;
		case 2:
			op_of(&r)->call = CV_CALL_OPEN;
			engine->open(nfs, &r.op, newer ? &is : &was, O_RDONLY);
			serve(CV_NFS_READ, first_reply(0600, newer ? "newer" : "abcd"));
			expect(&r, 0);
			engine->release(nfs, r.op.file);
			break;
		default:
			engine->readdir(nfs, op_of(&r), &listed, 0);
			put(&o, 0);
			put_bytes(&o, "verifier", 8);
			put(&o, 1);
			put64(&o, 77);
			put_opaque(&o, "f", 1);
			put64(&o, 3);
			put_post(&o, TYPE_REG, 0600, newer ? 5 : 4);
			put(&o, 1);
			put_opaque(&o, "FILE", 4);
			put(&o, 0);
			put(&o, 1);
			serve(CV_NFS_READDIRPLUS, o);
			expect(&r, 1);
			break;
		}
		read_and_close(f, newer);
	}
}

static void write_reply(struct out *o, uint32_t count, uint32_t committed, const char verf[8])
{
	*o = status(ST_OK);
	put_nothing(o, 2);
	put(o, count);
	put(o, committed);
	put_bytes(o, verf, 8);
}

static void test_write(void **state)
{
	struct cv_file f = { .handle = file_handle, .writable = true };
	struct request req;
	uint64_t verf;
	struct out o;
	struct run r;

	(void)state;
	/* A short write goes on where it ended; of two verifiers, the old one is reported. */
	engine->write(nfs, op_of(&r), &f, "abcdefgh", 8, 50);
	expect_call(&req, CV_NFS_WRITE);
	assert_memory_equal(req.bytes + req.size - 8, "abcdefgh", 8);
	assert_int_equal(word(req.bytes + req.size - 16), 0); /* UNSTABLE */
	write_reply(&o, 5, 0, "verf-old");
	reply(&req, &o);
	expect_call(&req, CV_NFS_WRITE);
	assert_memory_equal(req.bytes + req.size - 4, "fgh\0", 4);
	assert_int_equal(word(req.bytes + req.size - 8), 3);
	assert_int_equal(word(req.bytes + req.size - 20), 55);
	write_reply(&o, 3, 2, "verf-new");
	reply(&req, &o);
	expect(&r, 8);
	assert_false(r.op.stable);
	assert_false(r.op.have_attr);
	memcpy(&verf, "verf-old", 8);
	assert_true(r.op.verifier == verf);
	/* More than was sent. */
	engine->write(nfs, op_of(&r), &f, "abcd", 4, 0);
	write_reply(&o, 5, 0, "verf-old");
	serve(CV_NFS_WRITE, o);
	expect(&r, -EIO);
	engine->write(nfs, op_of(&r), &f, "abcd", 4, 0);
	write_reply(&o, 4, 2, "verf-old");
	serve(CV_NFS_WRITE, o);
	expect(&r, 4);
	assert_true(r.op.stable);
	/* FILE_SYNC where the caller waits for it; a server that does less is taken at its word. */
	op_of(&r)->sync = true;
	engine->write(nfs, &r.op, &f, "abcd", 4, 0);
	expect_call(&req, CV_NFS_WRITE);
	assert_int_equal(word(req.bytes + req.size - 12), 2);
	write_reply(&o, 4, 0, "verf-old");
	reply(&req, &o);
	expect(&r, 4);
	assert_false(r.op.stable);
	f.writable = false;
	engine->write(nfs, op_of(&r), &f, "abcd", 4, 0);
	expect(&r, -EBADF);
}

static void put_entry(struct out *o, const char *name, uint64_t cookie, bool full)
{
	put(o, 1);
	put64(o, 77);
	put_opaque(o, name, strlen(name));
	put64(o, cookie);
	if (full) {
		put_post(o, TYPE_REG, 0600, 0);
		put(o, 1);
		put_opaque(o, "FILE", 4);
	} else {
		put_nothing(o, 2);
	}
}

static struct out entries(void)
{
	struct out o = status(ST_OK);

	put(&o, 0);
	put_bytes(&o, "verifier", 8);
	return o;
}

static void test_readdir(void **state)
{
	struct out dots = entries(), some = entries(), stuck = entries();
	struct cv_file f = { .handle = dir_handle, .reply_bytes = 65536 };
	struct request req;
	struct run r;

	(void)state;
	/* "." and ".." alone are not an answer: it goes on, with their cookie and verifier. */
	put_entry(&dots, ".", 1, true);
	put_entry(&dots, "..", 2, false);
	put_nothing(&dots, 2);
	put_entry(&some, "full", 3, true);
	put_entry(&some, "bare", 4, false);
	put_entry(&some, "not/a name", 5, true);
	put(&some, 0);
	put(&some, 1);
	engine->readdir(nfs, op_of(&r), &f, 0);
	serve(CV_NFS_READDIRPLUS, dots);
	expect_call(&req, CV_NFS_READDIRPLUS);
	assert_memory_equal(req.bytes + req.size - 16, "verifier", 8);
	assert_int_equal(word(req.bytes + req.size - 20), 2);
	reply(&req, &some);
	expect(&r, 2);
	assert_true(r.op.eof);
	/* No progress: an error rather than a loop. */
	put_nothing(&stuck, 2);
	engine->readdir(nfs, op_of(&r), &f, 7);
	serve(CV_NFS_READDIRPLUS, stuck);
	expect(&r, -EIO);
	/* A server without READDIRPLUS. */
	engine->readdir(nfs, op_of(&r), &f, 0);
	serve(CV_NFS_READDIRPLUS, failed(ST_NOTSUPP));
	stuck.size -= 4;
	put(&stuck, 1);
	serve(CV_NFS_READDIR, stuck);
	expect(&r, 0);
	assert_true(r.op.eof);
}

/* ---- listings that are asked ahead ---- */

static const struct cv_handle walked[] = {
	{ .size = 4, .data = "DIRA" },
	{ .size = 4, .data = "DIRB" },
	{ .size = 4, .data = "DIRC" },
	{ .size = 4, .data = "DIRD" },
};

static void put_object(struct out *o, const struct cv_handle *h, uint32_t type)
{
	put(o, 1);
	put64(o, 77);
	put_opaque(o, h->data, h->size);
	put64(o, 1 + (uint64_t)h->data[3]);
	put_post(o, type, 0755, 0);
	put(o, 1);
	put_opaque(o, h->data, h->size);
}

/* The directory of directories is listed. */
static void list_walked(void)
{
	struct cv_file f = { .handle = dir_handle, .reply_bytes = 65536 };
	struct out o = entries();
	struct run r;

	for (size_t i = 0; i < CV_ARRAY_SIZE(walked); i++)
		put_object(&o, &walked[i], TYPE_DIR);
	put(&o, 0);
	put(&o, 1);
	engine->readdir(nfs, op_of(&r), &f, 0);
	serve(CV_NFS_READDIRPLUS, o);
	expect(&r, CV_ARRAY_SIZE(walked));
}

/* The next call lists h: it has one file. */
static void serve_listing(const struct cv_handle *h)
{
	struct out o = entries();
	struct request req;

	expect_call(&req, CV_NFS_READDIRPLUS);
	assert_memory_equal(req.bytes + req.size - 28, h->data, 4);
	put_object(&o, &file_handle, TYPE_REG);
	put(&o, 0);
	put(&o, 1);
	reply(&req, &o);
}

static void start_listing(struct run *r, struct cv_file *f, const struct cv_handle *h)
{
	*f = (struct cv_file){ .handle = *h, .reply_bytes = 65536 };
	engine->readdir(nfs, op_of(r), f, 0);
}

/* Root and A listed by the worker: B and C are asked along with A. */
static void walk_to_a(void)
{
	struct cv_file f;
	struct run r;

	list_walked();
	assert_false(client_turns(server.fd, 20)); /* who lists a directory does not yet walk */
	start_listing(&r, &f, &walked[0]);
	for (int i = 0; i < 3; i++)
		serve_listing(&walked[i]);
	expect(&r, 1);
	assert_true(r.op.age_ns == 0);
	assert_false(client_turns(server.fd, 20)); /* no more than that so far */
}

static void test_walk(void **state)
{
	struct cv_file f;
	struct run r;

	(void)state;
	walk_to_a();
	/* B is there, and the guess was good: D is asked, too. */
	start_listing(&r, &f, &walked[1]);
	expect(&r, 1);
	assert_true(r.op.age_ns > 0 && r.op.eof && r.have_entry);
	assert_memory_equal(f.verf, "verifier", 8);
	/* D's answer is waited for. */
	start_listing(&r, &f, &walked[3]);
	serve_listing(&walked[3]);
	expect(&r, 1);
	/* Once. */
	start_listing(&r, &f, &walked[1]);
	serve_listing(&walked[1]);
	expect(&r, 1);
}

static void test_walk_changed(void **state)
{
	const struct cv_setattr set = { .mask = CV_SET_MODE, .mode = 0600 };
	const struct cv_object c = { .nodeid = 3, .handle = &walked[2], .path = "" };
	struct out changed = status(ST_OK), made = status(ST_OK);
	struct cv_file f;
	struct run r;

	(void)state;
	walk_to_a();
	/* A file of B's: it is told by name alone. */
	op_of(&r)->call = CV_CALL_SETATTR;
	engine->setattr(nfs, &r.op, &file, NULL, &set);
	put_wcc(&changed, TYPE_REG, 0600, 0);
	serve(CV_NFS_SETATTR, changed);
	expect(&r, 0);
	start_listing(&r, &f, &walked[1]);
	expect(&r, 1);
	assert_false(r.have_entry);
	serve_listing(&walked[3]);
	/* C itself is asked again, even if the change is not yet answered. */
	op_of(&r)->call = CV_CALL_MKDIR;
	engine->mkdir(nfs, &r.op, &c, "new", 0755);
	put(&made, 1);
	put_opaque(&made, "NEWD", 4);
	put_post(&made, TYPE_DIR, 0755, 0);
	put_wcc(&made, TYPE_DIR, 0755, 0);
	{
		struct request req;
		struct run r2;

		expect_call(&req, CV_NFS_MKDIR);
		start_listing(&r2, &f, &walked[2]);
		serve_listing(&walked[2]);
		expect(&r2, 1);
		reply(&req, &made);
	}
	expect(&r, 0);
}

/* Another's change, seen in the directory's attributes; another user; an error. */
static void test_walk_others(void **state)
{
	const struct cv_cred other = { .uid = 9 };
	const struct cv_object c = { .nodeid = 3, .handle = &walked[2], .path = "" };
	struct out seen = status(ST_OK);
	struct cv_file f;
	struct run r;

	(void)state;
	walk_to_a();
	op_of(&r)->call = CV_CALL_GETATTR;
	engine->getattr(nfs, &r.op, &c, NULL);
	put_attr(&seen, TYPE_DIR, 0755, 5);
	serve(CV_NFS_GETATTR, seen);
	expect(&r, 0);
	/* D takes C's place, and is refused: nobody hears of that. */
	start_listing(&r, &f, &walked[2]);
	serve_listing(&walked[2]);
	expect(&r, 1);
	serve(CV_NFS_READDIRPLUS, failed(CV_NFS_JUKEBOX));
	op_of(&r)->cred = &other;
	f = (struct cv_file){ .handle = walked[1], .reply_bytes = 65536 };
	engine->readdir(nfs, &r.op, &f, 0);
	serve_listing(&walked[1]);
	expect(&r, 1);
	start_listing(&r, &f, &walked[3]);
	serve_listing(&walked[3]);
	expect(&r, 1);
	/* B has been asked for us all the same. */
	start_listing(&r, &f, &walked[1]);
	expect(&r, 1);
}

/* Another's change of a file, told since its directory was asked: the listing does not take it
 * back. What was seen before is not news. */
static void test_walk_told(void **state)
{
	struct cv_object seen = seen_file(5);

	(void)state;
	for (int i = 0; i < 4; i++) {
		bool news = i != 3;
		struct out o = status(ST_OK);
		struct cv_file f;
		struct run r;

		walk_to_a();
		switch (i) {
		case 0:
			op_of(&r)->call = CV_CALL_LOOKUP;
			engine->lookup(nfs, &r.op, &dir, "f");
			put_opaque(&o, "FILE", 4);
			put_post(&o, TYPE_REG, 0600, 5);
			put(&o, 0);
			serve(CV_NFS_LOOKUP, o);
			break;
		case 1:
			op_of(&r)->call = CV_CALL_OPEN;
			engine->open(nfs, &r.op, &file, O_RDONLY);
			serve(CV_NFS_ACCESS, access_reply());
			break;
		default:
			op_of(&r)->call = CV_CALL_GETATTR;
			engine->getattr(nfs, &r.op, news ? &file : &seen, NULL);
			put_attr(&o, TYPE_REG, 0600, 5);
			serve(CV_NFS_GETATTR, o);
			break;
		}
		expect(&r, 0);
		if (i == 1)
			engine->release(nfs, r.op.file);
		start_listing(&r, &f, &walked[1]);
		expect(&r, 1);
		assert_int_equal(r.have_entry, !news);
		serve_listing(&walked[3]);
		assert_int_equal(teardown(NULL), 0);
		assert_int_equal(setup(NULL), 0);
	}
}

/* What comes along about the directory: after, and before if the server says so. */
static void test_directory_after(void **state)
{
	struct cv_attr before = { .size = 9, .mtime = { 11, 12 }, .ctime = { 13, 14 } };
	struct out removed = status(ST_OK), renamed = status(ST_OK), spoilt = status(ST_OK);
	struct run r;

	(void)state;
	put(&removed, 1);
	put64(&removed, 9);
	for (uint32_t i = 11; i <= 14; i++)
		put(&removed, i);
	put_post(&removed, TYPE_DIR, 0755, 10);
	engine->unlink(nfs, op_of(&r), &dir, "a");
	serve(CV_NFS_REMOVE, removed);
	expect(&r, 0);
	assert_true(r.op.dir.have);
	assert_int_equal(r.op.dir.attr.size, 10);
	assert_true(r.op.dir.before == cv_change(&before));
	before.ctime.tv_nsec++;
	assert_false(r.op.dir.before == cv_change(&before));

	put_wcc(&renamed, TYPE_DIR, 0755, 20);
	put_wcc(&renamed, TYPE_DIR, 0755, 30);
	engine->rename(nfs, op_of(&r), &dir, "a", &dir, "b", 0);
	serve(CV_NFS_RENAME, renamed);
	expect(&r, 0);
	assert_true(r.op.dir.have && r.op.newdir.have);
	assert_int_equal(r.op.dir.attr.size, 20);
	assert_int_equal(r.op.newdir.attr.size, 30);
	assert_true(r.op.dir.before == 0 && r.op.newdir.before == 0);

	put(&spoilt, 0);
	put(&spoilt, 1);
	engine->rmdir(nfs, op_of(&r), &dir, "a");
	serve(CV_NFS_RMDIR, spoilt);
	expect(&r, 0);
	assert_false(r.op.dir.have);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_file_system_below),
		TEST(test_removed_before),
		TEST(test_renamed_before),
		TEST(test_stale_in_between),
		TEST(test_made_before),
		TEST(test_noreplace),
		TEST(test_create),
		TEST(test_create_marked),
		TEST(test_create_taken_over),
		TEST(test_jukebox),
		TEST(test_owner),
		TEST(test_read),
		TEST(test_first),
		TEST(test_first_outdated),
		TEST(test_write),
		TEST(test_readdir),
		TEST(test_walk),
		TEST(test_walk_changed),
		TEST(test_walk_others),
		TEST(test_walk_told),
		TEST(test_directory_after),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
