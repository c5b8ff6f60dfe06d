/* SPDX-License-Identifier: Apache-2.0 */
/* Write-behind against an engine whose completions the test holds back, reorders and fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "fuse/writeback.h"

#define FILE_SIZE (4u << 20)
#define PENDING	  256

static struct server {
	unsigned char content[FILE_SIZE]; /* what the server has */
	struct {
		struct cv_op *op;
		const void *data;
		size_t size;
		uint64_t off;
		bool commit;
		uint64_t found; /* state of the file that it finds; it leaves the next one */
	} pending[PENDING];
	size_t npending, nwrites, ncommits;
	bool stable;
	uint64_t verifier;
} server;

static void srv_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		      size_t size, uint64_t off)
{
	(void)conn;
	(void)file;
	assert_true(server.npending < PENDING);
	assert_true(off + size <= FILE_SIZE);
	/* No two writes in flight may overlap: the server may do them in any order. */
	for (size_t i = 0; i < server.npending; i++) {
		if (!server.pending[i].commit)
			assert_true(off + size <= server.pending[i].off ||
				    off >= server.pending[i].off + server.pending[i].size);
	}
	server.pending[server.npending].op = op;
	server.pending[server.npending].data = data;
	server.pending[server.npending].size = size;
	server.pending[server.npending].off = off;
	server.pending[server.npending].found = 0;
	server.pending[server.npending++].commit = false;
	server.nwrites++;
}

static void srv_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync)
{
	(void)conn;
	(void)file;
	(void)datasync;
	server.pending[server.npending].op = op;
	server.pending[server.npending].found = 0;
	server.pending[server.npending++].commit = true;
	server.ncommits++;
}

static const struct cv_backend backend = { .name = "test", .write = srv_write, .fsync = srv_fsync };

/* Answers pending operation i with err, or success. */
static void answer(size_t i, int err)
{
	struct cv_op *op = server.pending[i].op;
	bool commit = server.pending[i].commit;
	size_t size = server.pending[i].size;
	uint64_t found = server.pending[i].found;

	if (!commit && err == 0)
		memcpy(server.content + server.pending[i].off, server.pending[i].data, size);
	memmove(&server.pending[i], &server.pending[i + 1],
		(server.npending - i - 1) * sizeof(server.pending[0]));
	server.npending--;
	op->stable = server.stable;
	op->verifier = server.verifier;
	if (found) {
		op->have_attr = true;
		op->attr.change = commit ? found : found + 1;
		op->attr.ctime.tv_sec = (time_t)op->attr.change;
		op->before = found;
	}
	op->done(op, err ? err : commit ? 0 : (ssize_t)size);
}

struct fixture {
	struct cv_loop *loop;
	struct cv_mount mount;
	struct cv_shm shm;
	struct cv_nodes nodes;
	struct cv_node *node;
	struct cv_wb *wb;
	struct cv_cred cred;
	unsigned char expected[FILE_SIZE];
};

static bool handle_fn(void *arg, uint32_t handle, struct cv_wb_handle *ret)
{
	struct fixture *f = arg;

	(void)handle;
	ret->node = f->node;
	ret->file = NULL;
	ret->cred = &f->cred;
	return true;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cv_shm_header header = { .magic = CV_SHM_MAGIC, .version = CV_SHM_VERSION };
	struct cv_entry entry = { .attr = { .mode = S_IFDIR | 0755, .ino = 1 } };
	struct cv_err err;
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_non_null(f);
	memset(&server, 0, sizeof(server));
	server.stable = true;
	assert_int_equal(ftruncate(fd, (off_t)CV_SHM_SIZE), 0);
	assert_int_equal(pwrite(fd, &header, sizeof(header), 0), sizeof(header));
	assert_int_equal(cv_shm_map(fd, &f->shm, &err), 0);
	assert_int_equal(cv_loop_new(&f->loop), 0);
	f->mount.backend = &backend;
	f->mount.info.write_max = 1 << 20;
	assert_int_equal(cv_nodes_init(&f->nodes, &f->shm, false, &entry), 0);
	entry.attr.mode = S_IFREG;
	f->node = cv_node_enter(&f->nodes, CV_NODE_ROOT, "f", &entry);
	cv_node_lookup(&f->nodes, f->node);
	f->node->open_count = 1;
	assert_int_equal(cv_wb_new(f->loop, &f->mount, &f->nodes, &f->shm, handle_fn, f, &f->wb),
			 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	cv_wb_free(f->wb);
	cv_nodes_release(&f->nodes);
	cv_shm_release(&f->shm);
	cv_loop_free(f->loop);
	free(f);
	return 0;
}

struct wait {
	struct cv_wb_waiter w;
	bool done;
	int result;
};

static void wait_done(struct cv_wb_waiter *w, int result)
{
	struct wait *x = cv_container_of(w, struct wait, w);

	assert_false(x->done);
	x->done = true;
	x->result = result;
}

static void put(struct fixture *f, struct wait *x, size_t size, uint64_t off, unsigned char value)
{
	unsigned char *buf = malloc(size);

	assert_non_null(buf);
	memset(buf, value, size);
	memset(f->expected + off, value, size);
	*x = (struct wait){ .w = { .done = wait_done } };
	cv_wb_write(f->wb, &x->w, f->node, 0, buf, size, off);
	/* Only an answered write may let go of its data. */
	if (x->done)
		free(buf);
}

static void turn(struct fixture *f)
{
	assert_int_equal(cv_loop_turn(f->loop, 0), 0);
}

static void answer_all(struct fixture *f)
{
	while (server.npending) {
		answer(0, 0);
		turn(f);
	}
}

/* Nothing to do until the server answers: a turn waits as long as it may. (The timer may end one.)
 */
static bool idle(struct fixture *f)
{
	for (int i = 0; i < 3; i++) {
		uint64_t began_ns = cv_now_ns();

		assert_int_equal(cv_loop_turn(f->loop, 20), 0);
		if (cv_now_ns() - began_ns >= 15000000)
			return true;
	}
	return false;
}

static void drain(struct fixture *f, struct wait *x, enum cv_wb_level level)
{
	*x = (struct wait){ .w = { .done = wait_done } };
	cv_wb_drain(f->wb, &x->w, f->node, level);
}

static void small_writes_merge(void **state)
{
	struct fixture *f = *state;
	struct wait w, d;
	uint64_t end = 0;

	for (unsigned i = 0; i < 32; i++) {
		put(f, &w, 4096, i * 4096ull, (unsigned char)(i + 1));
		assert_true(w.done);
	}
	assert_int_equal(server.nwrites, 0);
	assert_true(cv_wb_pending(f->node, &end));
	assert_int_equal(end, 32 * 4096);
	drain(f, &d, CV_WB_WRITTEN);
	assert_false(d.done);
	assert_int_equal(server.nwrites, 1);
	answer(0, 0);
	turn(f);
	assert_true(d.done);
	assert_memory_equal(server.content, f->expected, FILE_SIZE);
	assert_int_equal(cv_wb_bytes(f->wb), 0);
}

/* What is sent can be repeated by a successor: it is told from all else, and has its own record. */
static void sent_writes_are_named(void **state)
{
	struct fixture *f = *state;
	struct wait a, b, c;

	put(f, &a, 4096, 0, 1);
	put(f, &b, 4096, 8192, 2);
	put(f, &c, 4096, 16384, 3);
	(void)cv_wb_send(f->node, &(uint32_t){ 0 });
	assert_int_equal(server.npending, 3);
	for (size_t i = 0; i < 3; i++) {
		const struct cv_op *op = server.pending[i].op;
		size_t found = 0;

		assert_int_not_equal(op->id, 0);
		for (size_t j = 0; j < i; j++)
			assert_int_not_equal(op->id, server.pending[j].op->id);
		for (uint32_t j = 0; j < CV_WB_BUFFERS; j++) {
			const struct cv_extent_record *r = &f->shm.extents[j];

			if (op->replay != cv_shm_extent_replay(&f->shm, j))
				continue;
			found++;
			assert_int_equal(r->state, CV_EXTENT_SENT);
			assert_int_equal(r->op_id, op->id);
			assert_ptr_equal(server.pending[i].data, cv_shm_wb_buffer(&f->shm, j));
		}
		assert_int_equal(found, 1);
	}
	answer_all(f);
}

static void sending_names_the_one_handle(void **state)
{
	struct fixture *f = *state;
	struct wait a, b;
	uint32_t handle = 99;

	assert_false(cv_wb_send(f->node, &handle));
	put(f, &a, 4096, 0, 1);
	assert_int_equal(server.nwrites, 0);
	assert_true(cv_wb_send(f->node, &handle));
	assert_int_equal(handle, 0);
	assert_int_equal(server.nwrites, 1);
	b = (struct wait){ .w = { .done = wait_done } };
	cv_wb_write(f->wb, &b.w, f->node, 7, "second", 6, 8192);
	assert_true(b.done);
	assert_false(cv_wb_send(f->node, &handle)); /* two handles: no order between them */
	assert_int_equal(server.nwrites, 2);
	answer(0, 0);
	assert_true(cv_wb_send(f->node, &handle));
	assert_int_equal(handle, 7);
	answer(0, 0);
	assert_false(cv_wb_send(f->node, &handle));
}

static void overlap_waits_for_what_was_sent(void **state)
{
	struct fixture *f = *state;
	struct wait a, b, c, d;

	put(f, &a, 1 << 20, 0, 1); /* as large as an extent: sent at once */
	assert_int_equal(server.nwrites, 1);
	put(f, &b, 4096, 8192, 2);
	turn(f);
	assert_false(b.done);
	assert_true(idle(f));
	put(f, &c, 4096, 3u << 20, 3); /* stays in line behind b */
	answer(0, 0);
	turn(f);
	assert_true(b.done);
	assert_true(c.done);
	free((void *)(uintptr_t)b.w.data);
	free((void *)(uintptr_t)c.w.data);
	drain(f, &d, CV_WB_WRITTEN);
	while (server.npending)
		answer(server.npending - 1, 0); /* last sent first */
	turn(f);
	assert_true(d.done);
	assert_memory_equal(server.content, f->expected, FILE_SIZE);
}

static void errors_reach_each_handle_once(void **state)
{
	struct fixture *f = *state;
	uint32_t mark1 = cv_wb_error_mark(f->node), mark2 = mark1;
	struct wait w, d;

	put(f, &w, 4096, 0, 1);
	drain(f, &d, CV_WB_WRITTEN);
	answer(0, -ENOSPC);
	turn(f);
	assert_true(d.done);
	assert_int_equal(cv_wb_error(f->node, &mark1), -ENOSPC);
	assert_int_equal(cv_wb_error(f->node, &mark1), 0);
	assert_int_equal(cv_wb_error(f->node, &mark2), -ENOSPC);
	assert_int_equal(cv_wb_bytes(f->wb), 0);
}

static void window_makes_writers_wait(void **state)
{
	struct fixture *f = *state;
	struct wait w[40];
	size_t n = 0;

	/* 128 buffers; each of these needs its own */
	for (unsigned i = 0; i < 200 && n < CV_ARRAY_SIZE(w); i++) {
		struct wait x;

		put(f, &x, 1, i * 8192ull, (unsigned char)i);
		if (!x.done) {
			turn(f);
			assert_true(idle(f));
			/* Only the first may wait on our stack; it is enough. */
			for (size_t k = 0; k < 10 && server.npending; k++)
				answer(0, 0);
			turn(f);
			assert_true(x.done);
			free((void *)(uintptr_t)x.w.data);
			n++;
		}
	}
	assert_true(n > 0);
	while (server.npending)
		answer(0, 0);
	{
		struct wait d;

		drain(f, &d, CV_WB_WRITTEN);
		while (server.npending)
			answer(0, 0);
		turn(f);
		assert_true(d.done);
	}
	assert_memory_equal(server.content, f->expected, FILE_SIZE);
}

static void unstable_data_is_sent_again(void **state)
{
	struct fixture *f = *state;
	struct wait w, d;

	server.stable = false;
	server.verifier = 1;
	put(f, &w, 65536, 0, 1);
	drain(f, &d, CV_WB_STABLE);
	answer(0, 0);
	turn(f);
	assert_false(d.done);
	assert_int_equal(server.ncommits, 1);
	/* The server restarts: what it had is lost, its verifier changes. */
	memset(server.content, 0, FILE_SIZE);
	server.verifier = 2;
	answer(0, 0);
	turn(f);
	assert_false(d.done);
	assert_int_equal(server.nwrites, 2);
	answer(0, 0);
	turn(f);
	assert_int_equal(server.ncommits, 2);
	answer(0, 0);
	turn(f);
	assert_true(d.done);
	assert_memory_equal(server.content, f->expected, FILE_SIZE);
}

/* What fits into one write and is waited for costs no COMMIT; with anything beside it, one COMMIT
 * is for all. */
static void one_write_is_asked_to_be_stable(void **state)
{
	struct fixture *f = *state;
	struct wait w, d;

	server.stable = false;
	put(f, &w, 4096, 0, 1);
	drain(f, &d, CV_WB_STABLE);
	assert_true(server.pending[0].op->sync);
	server.stable = true;
	answer(0, 0);
	turn(f);
	assert_true(d.done);
	assert_int_equal(server.ncommits, 0);

	server.stable = false;
	put(f, &w, 4096, 0, 2);
	put(f, &w, 4096, 65536, 3); /* elsewhere: the first is sent */
	drain(f, &d, CV_WB_STABLE);
	assert_int_equal(server.npending, 2);
	assert_false(server.pending[0].op->sync);
	assert_false(server.pending[1].op->sync);
	answer_all(f);
	assert_true(d.done);
	assert_int_equal(server.ncommits, 1);

	/* Nobody waits for the disk. */
	put(f, &w, 4096, 0, 4);
	drain(f, &d, CV_WB_WRITTEN);
	assert_false(server.pending[0].op->sync);
	answer(0, 0);
	turn(f);
	assert_true(d.done);
	/* What is in the server's memory only needs the COMMIT anyway. */
	put(f, &w, 4096, 65536, 5);
	drain(f, &d, CV_WB_STABLE);
	assert_false(server.pending[0].op->sync);
	answer_all(f);
	assert_true(d.done);
	assert_int_equal(server.ncommits, 2);
	assert_memory_equal(server.content, f->expected, FILE_SIZE);
}

static void rewriting_supersedes_uncommitted(void **state)
{
	struct fixture *f = *state;
	struct wait w, d;

	server.stable = false;
	put(f, &w, 4096, 0, 1);
	drain(f, &d, CV_WB_WRITTEN);
	answer(0, 0);
	turn(f);
	assert_true(d.done);
	put(f, &w, 4096, 0, 2); /* needs no COMMIT first */
	assert_true(w.done);
	drain(f, &d, CV_WB_STABLE);
	answer_all(f);
	assert_true(d.done);
	assert_int_equal(server.ncommits, 1);
	assert_memory_equal(server.content, f->expected, FILE_SIZE);
}

/* A write that would replace waiting data but has to wait itself must not take that data away. */
static void replacing_waits_with_the_old_data(void **state)
{
	struct fixture *f = *state;
	struct wait a, b, c, d;
	uint64_t end = 0;

	put(f, &a, 1 << 20, 0, 1); /* sent at once */
	put(f, &b, 4096, 1 << 20, 2);
	assert_true(b.done);
	put(f, &c, 8192, (1 << 20) - 4096, 3); /* overlaps the one, covers the other */
	assert_false(c.done);
	assert_true(cv_wb_pending(f->node, &end));
	assert_int_equal(end, (1 << 20) + 4096);
	drain(f, &d, CV_WB_WRITTEN); /* a reader comes: it must see b's data */
	while (!d.done) {
		assert_true(server.npending > 0);
		answer(server.npending - 1, 0);
		if (server.npending == 0)
			assert_int_equal(server.content[1 << 20], 2);
		turn(f);
	}
	assert_true(c.done);
	free((void *)(uintptr_t)c.w.data);
	drain(f, &d, CV_WB_WRITTEN);
	while (server.npending)
		answer(0, 0);
	turn(f);
	assert_true(d.done);
	assert_memory_equal(server.content, f->expected, FILE_SIZE);
}

/* Who waits for stable data is not told that it is while only its successor is on the way. */
static void rewriting_does_not_end_a_sync(void **state)
{
	struct fixture *f = *state;
	struct wait w, sync, again;

	server.stable = false;
	put(f, &w, 4096, 0, 1);
	drain(f, &sync, CV_WB_STABLE);
	answer(0, 0); /* the write; the COMMIT is not answered yet */
	turn(f);
	assert_int_equal(server.ncommits, 1);
	put(f, &again, 4096, 0, 2);
	assert_false(again.done);
	turn(f);
	assert_false(sync.done);
	answer(0, 0);
	turn(f);
	assert_true(sync.done);
	turn(f);
	assert_true(again.done);
	free((void *)(uintptr_t)again.w.data);
	drain(f, &w, CV_WB_STABLE);
	answer_all(f);
	assert_true(w.done);
	assert_memory_equal(server.content, f->expected, FILE_SIZE);
}

/* Random writes, completions in random order; a drain must leave the server equal to the model. */
static void random_writes(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 12345;

	for (int round = 0; round < 300; round++) {
		struct wait x, d;
		size_t size = 1 + (size_t)rand_r(&seed) % 20000;
		uint64_t off = (uint64_t)rand_r(&seed) % (FILE_SIZE / 8);

		server.stable = round % 3;
		put(f, &x, size, off, (unsigned char)rand_r(&seed));
		while (!x.done) {
			if (server.npending)
				answer((size_t)rand_r(&seed) % server.npending, 0);
			turn(f);
			if (x.done)
				free((void *)(uintptr_t)x.w.data);
		}
		if (round % 20)
			continue;
		drain(f, &d, round % 40 ? CV_WB_WRITTEN : CV_WB_STABLE);
		for (int i = 0; !d.done && i < 10000; i++) {
			if (server.npending)
				answer((size_t)rand_r(&seed) % server.npending, 0);
			turn(f);
		}
		assert_true(d.done);
		assert_memory_equal(server.content, f->expected, FILE_SIZE);
	}
	answer_all(f);
}

/* The states our writes lead through end where the file is, in whatever order answers come; with
 * another client's write in between they do not. */
static void others_changes_are_noticed(void **state)
{
	struct fixture *f = *state;
	struct cv_node_record *rec = f->node->record;
	uint64_t began, got_ns;
	struct cv_attr attr;
	struct wait w, d;

	for (int others = 0; others < 2; others++) {
		rec->own_change = 100;
		for (unsigned i = 0; i < 3; i++)
			put(f, &w, 1 << 20, (uint64_t)i << 20, 1);
		assert_int_equal(server.npending, 3);
		server.pending[0].found = 100;
		server.pending[1].found = others ? 105 : 101;
		server.pending[2].found = server.pending[1].found + 1;
		answer(1, 0);
		answer(1, 0);
		answer(0, 0);
		drain(f, &d, CV_WB_WRITTEN);
		turn(f);
		assert_true(d.done);
		assert_true(cv_wb_attr(f->node, &attr, &began, &got_ns));
		assert_int_equal(attr.change, others ? 107 : 103);
		assert_int_equal(rec->own_change == cv_change(&attr), !others);
	}
	/* A server that does not say leaves it open. */
	rec->own_change = 100;
	put(f, &w, 1 << 20, 0, 1);
	answer(0, 0);
	assert_true(rec->own_change == 0);
}

/* Attributes are the state after all writes only if they were asked for when those had landed. */
static void commit_brings_the_last_attributes(void **state)
{
	struct fixture *f = *state;
	uint64_t began, got_ns;
	struct cv_attr attr;
	struct wait w, d;

	server.stable = false;
	put(f, &w, 1 << 20, 0, 1);
	put(f, &w, 1 << 20, 1 << 20, 1);
	server.pending[0].found = 5;
	server.pending[1].found = 6;
	answer(0, 0);
	answer(0, 0);
	assert_true(cv_wb_attr(f->node, &attr, &began, &got_ns));
	assert_true(began < f->node->landed);
	drain(f, &d, CV_WB_STABLE);
	turn(f);
	assert_int_equal(server.ncommits, 1);
	server.pending[0].found = 7;
	answer(0, 0);
	turn(f);
	assert_true(d.done);
	assert_true(cv_wb_attr(f->node, &attr, &began, &got_ns));
	assert_true(began >= f->node->landed);
	assert_int_equal(attr.change, 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(small_writes_merge, setup, teardown),
		cmocka_unit_test_setup_teardown(sent_writes_are_named, setup, teardown),
		cmocka_unit_test_setup_teardown(sending_names_the_one_handle, setup, teardown),
		cmocka_unit_test_setup_teardown(overlap_waits_for_what_was_sent, setup, teardown),
		cmocka_unit_test_setup_teardown(errors_reach_each_handle_once, setup, teardown),
		cmocka_unit_test_setup_teardown(window_makes_writers_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(unstable_data_is_sent_again, setup, teardown),
		cmocka_unit_test_setup_teardown(one_write_is_asked_to_be_stable, setup, teardown),
		cmocka_unit_test_setup_teardown(rewriting_supersedes_uncommitted, setup, teardown),
		cmocka_unit_test_setup_teardown(replacing_waits_with_the_old_data, setup, teardown),
		cmocka_unit_test_setup_teardown(rewriting_does_not_end_a_sync, setup, teardown),
		cmocka_unit_test_setup_teardown(others_changes_are_noticed, setup, teardown),
		cmocka_unit_test_setup_teardown(commit_brings_the_last_attributes, setup, teardown),
		cmocka_unit_test_setup_teardown(random_writes, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
