/* SPDX-License-Identifier: Apache-2.0 */
/* What tests/tools/engine_check.c cannot see of the memory engine: its limits and its accounting.
 */
#include "backends/backend.h"
#include "tests/unit/engine_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#define LIMIT (4u << 20)

static struct object root;

static void connect_mem(const char *path)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	struct cv_err err = { 0 };

	(void)cv_dict_set(&options, "type", "mem");
	(void)cv_dict_set(&options, "path", path);
	(void)cv_dict_setf(&options, "size", "%u", LIMIT);
	assert_int_equal(cv_loop_new(&test_loop), 0);
	assert_int_equal(cv_mount_connect(&options, test_loop, &test_mount, &err), 0);
	object_set(&root, NULL, "", &test_mount.info.root);
}

static int setup(void **state)
{
	(void)state;
	memset(&test_cred, 0, sizeof(test_cred));
	connect_mem("/");
	return 0;
}

static int setup_async(void **state)
{
	(void)state;
	memset(&test_cred, 0, sizeof(test_cred));
	connect_mem("/async");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	cv_mount_disconnect(&test_mount);
	cv_loop_free(test_loop);
	return 0;
}

static uint64_t bytes_free(void)
{
	struct call c;

	assert_int_equal(RUN(&c, cv_statfs, &root.object), 0);
	return (uint64_t)c.op.statvfs.f_bfree * c.op.statvfs.f_frsize;
}

static void full(void **state)
{
	const uint64_t before = bytes_free();
	static char block[65536];
	struct cv_file *file;
	ssize_t r = 0;
	uint64_t off = 0;

	(void)state;
	assert_int_equal(create(&root, "f", 0600, NULL, &file), 0);
	for (; r >= 0 && off < 2 * LIMIT; off += sizeof(block))
		r = write_at(file, block, sizeof(block), off);
	assert_int_equal(r, -ENOSPC);
	assert_true(off > LIMIT / 2 && off <= LIMIT);
	assert_int_equal(create(&root, "g", 0600, NULL, NULL), 0); /* a little is left */
	assert_int_equal(unlink_name(&root, "g"), 0);
	assert_int_equal(unlink_name(&root, "f"), 0);
	assert_true(bytes_free() < LIMIT / 2); /* still open */
	cv_release(&test_mount, file);
	assert_int_equal(bytes_free(), before);
}

static void objects_count(void **state)
{
	char name[32];
	ssize_t r = 0;
	unsigned n = 0;

	(void)state;
	for (; r == 0 && n < 10000; n++) {
		(void)snprintf(name, sizeof(name), "f%u", n);
		r = create(&root, name, 0600, NULL, NULL);
	}
	assert_int_equal(r, -ENOSPC);
	assert_true(n > 3000);
}

static void space_comes_back(void **state)
{
	const uint64_t before = bytes_free();
	struct cv_setattr cut = { .mask = CV_SET_SIZE };
	static char block[200000];
	struct object f, d;
	struct cv_attr attr;
	struct cv_file *file;
	struct call c;

	(void)state;
	assert_int_equal(make_dir(&root, "d", &d), 0);
	assert_int_equal(create(&d, "f", 0600, &f, &file), 0);
	assert_int_equal(write_at(file, block, sizeof(block), 1000), sizeof(block));
	assert_int_equal(RUN(&c, cv_setxattr, &f.object, "user.x", block, 50000, 0), 0);
	assert_int_equal(RUN(&c, cv_link, &f.object, &root.object, "g"), 0);
	assert_int_equal(unlink_name(&d, "f"), 0);
	assert_int_equal(getattr(&f, NULL, &attr), 0);
	assert_int_equal(attr.nlink, 1);
	assert_true(attr.blocks * 512 >= sizeof(block));
	assert_int_equal(RUN(&c, cv_setattr, &f.object, NULL, &cut), 0);
	assert_int_equal(c.op.attr.blocks, 0);
	assert_int_equal(write_at(file, block, 10, 1ull << 40), 10);
	assert_int_equal(RUN(&c, cv_fallocate, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			     1ull << 41),
			 0);
	assert_int_equal(getattr(&f, NULL, &attr), 0);
	assert_int_equal(attr.blocks, 0);
	assert_int_equal(attr.size, (1ull << 40) + 10);
	assert_int_equal(RUN(&c, cv_fallocate, file, FALLOC_FL_KEEP_SIZE, 1000, 300000), 0);
	assert_int_equal(getattr(&f, NULL, &attr), 0);
	assert_in_range(attr.blocks * 512, 300000, 400000);
	cv_release(&test_mount, file);
	assert_int_equal(unlink_name(&root, "g"), 0);
	assert_int_equal(RUN(&c, cv_rmdir, &root.object, "d"), 0);
	assert_int_equal(bytes_free(), before);
	assert_int_equal(getattr(&f, NULL, &attr), -ESTALE);
}

static void too_far(void **state)
{
	struct cv_setattr far = { .mask = CV_SET_SIZE, .size = INT64_MAX };
	struct object f;
	struct cv_file *file;
	struct call c;

	(void)state;
	assert_int_equal(create(&root, "f", 0600, &f, &file), 0);
	assert_int_equal(write_at(file, "x", 1, INT64_MAX - 1), -EFBIG);
	assert_int_equal(RUN(&c, cv_setattr, &f.object, NULL, &far), -EFBIG);
	assert_int_equal(RUN(&c, cv_fallocate, file, 0, 1, INT64_MAX - 1), -EFBIG);
	cv_release(&test_mount, file);
}

static uint32_t nlink_of(const struct object *o)
{
	struct cv_attr attr;

	assert_int_equal(getattr(o, NULL, &attr), 0);
	return attr.nlink;
}

static void directory_links(void **state)
{
	struct object a, b, x;
	struct call c;

	(void)state;
	assert_int_equal(make_dir(&root, "a", &a), 0);
	assert_int_equal(make_dir(&root, "b", &b), 0);
	assert_int_equal(make_dir(&a, "x", &x), 0);
	assert_int_equal(create(&b, "f", 0600, NULL, NULL), 0);
	assert_int_equal(nlink_of(&root), 4);
	assert_int_equal(nlink_of(&a), 3);
	assert_int_equal(RUN(&c, cv_rename, &a.object, "x", &b.object, "f", RENAME_EXCHANGE), 0);
	assert_int_equal(nlink_of(&a), 2);
	assert_int_equal(nlink_of(&b), 3);
	/* x is below b now: b cannot move into it, directly or by exchange. */
	assert_int_equal(RUN(&c, cv_rename, &root.object, "b", &x.object, "y", 0), -EINVAL);
	assert_int_equal(create(&x, "y", 0600, NULL, NULL), 0);
	assert_int_equal(RUN(&c, cv_rename, &x.object, "y", &root.object, "b", RENAME_EXCHANGE),
			 -EINVAL);
	assert_int_equal(unlink_name(&x, "y"), 0);
	assert_int_equal(make_dir(&a, "empty", NULL), 0);
	assert_int_equal(RUN(&c, cv_rename, &b.object, "f", &a.object, "empty", 0), 0);
	assert_int_equal(nlink_of(&a), 3);
	assert_int_equal(nlink_of(&b), 2);
	assert_int_equal(RUN(&c, cv_rename, &a.object, "empty", &root.object, "x", 0x80), -EINVAL);
}

/* What is removed while a listing is read must not disturb it. */
static void listing_and_removal(void **state)
{
	struct cv_file *dir;
	struct call c;
	char name[32];
	unsigned seen = 0;
	uint64_t off = 0;

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(create(&root, name, 0600, NULL, NULL), 0);
	}
	assert_int_equal(RUN(&c, cv_opendir, &root.object), 0);
	dir = c.op.file;
	do {
		ssize_t n = RUN(&c, cv_readdir, dir, off);

		assert_true(n > 0 || c.op.eof);
		off = c.next_off;
		for (unsigned i = seen; i < seen + n; i++) {
			struct call u;

			(void)snprintf(name, sizeof(name), "f%u", i);
			assert_int_equal(RUN(&u, cv_unlink, &root.object, name), 0);
		}
		seen += (unsigned)n;
	} while (!c.op.eof);
	assert_int_equal(seen, 1000);
	assert_int_equal(RUN(&c, cv_readdir, dir, 0), 0);
	assert_true(c.op.eof);
	cv_releasedir(&test_mount, dir);
}

static void another_life(void **state)
{
	struct object f;
	struct cv_attr attr;

	(void)state;
	assert_int_equal(create(&root, "f", 0600, &f, NULL), 0);
	(void)teardown(NULL);
	connect_mem("/");
	assert_int_equal(create(&root, "f", 0600, NULL, NULL), 0);
	assert_int_equal(getattr(&f, NULL, &attr), -ESTALE);
}

#define MANY 200

static struct call calls[MANY];
static unsigned order[MANY], completed;

static void note_order(struct cv_op *op, ssize_t result)
{
	struct call *c = cv_container_of(op, struct call, op);

	order[completed++] = (unsigned)(c - calls);
	call_done(op, result);
}

static void late_and_unordered(void **state)
{
	struct cv_file *file;
	bool in_order = true;
	uint32_t values[MANY];

	(void)state;
	completed = 0;
	assert_int_equal(create(&root, "f", 0600, NULL, &file), 0);
	for (unsigned i = 0; i < MANY; i++)
		values[i] = i * 7;
	assert_int_equal(write_at(file, values, sizeof(values), 0), sizeof(values));
	for (unsigned i = 0; i < MANY; i++) {
		calls[i].done = false;
		cv_op_init(&calls[i].op, note_order, &test_cred);
		cv_read(&test_mount, &calls[i].op, file, 4, i * 4);
	}
	assert_int_equal(completed, 0);
	assert_int_equal(test_mount.in_flight, MANY);
	for (unsigned i = 0; i < MANY; i++) {
		uint32_t value;

		assert_int_equal(call_wait(&calls[i]), 4);
		memcpy(&value, calls[i].data, 4);
		assert_int_equal(value, i * 7);
	}
	for (unsigned i = 0; i < MANY; i++)
		in_order = in_order && order[i] == i;
	assert_false(in_order);
	cv_release(&test_mount, file);
}

static void trusted_is_hidden(void **state)
{
	struct object f;
	struct call c;

	(void)state;
	assert_int_equal(create(&root, "f", 0600, &f, NULL), 0);
	assert_int_equal(RUN(&c, cv_setxattr, &f.object, "trusted.x", "1", 1, 0), 0);
	assert_int_equal(RUN(&c, cv_setxattr, &f.object, "user.x", "1", 1, 0), 0);
	assert_int_equal(RUN(&c, cv_setxattr, &f.object, "system.x", "1", 1, 0), -EOPNOTSUPP);
	assert_int_equal(RUN(&c, cv_listxattr, &f.object, 100), 17);
	test_cred.uid = 1000;
	assert_int_equal(RUN(&c, cv_listxattr, &f.object, 100), 7);
	assert_memory_equal(c.data, "user.x", 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(full, setup, teardown),
		cmocka_unit_test_setup_teardown(objects_count, setup, teardown),
		cmocka_unit_test_setup_teardown(space_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(too_far, setup, teardown),
		cmocka_unit_test_setup_teardown(directory_links, setup, teardown),
		cmocka_unit_test_setup_teardown(listing_and_removal, setup, teardown),
		cmocka_unit_test_setup_teardown(another_life, setup, teardown),
		cmocka_unit_test_setup_teardown(late_and_unordered, setup_async, teardown),
		cmocka_unit_test_setup_teardown(listing_and_removal, setup_async, teardown),
		cmocka_unit_test_setup_teardown(trusted_is_hidden, setup, teardown),
	};

	return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
