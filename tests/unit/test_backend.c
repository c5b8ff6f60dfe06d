/* SPDX-License-Identifier: Apache-2.0 */
/* The dispatcher against an engine that does what a script says: right, wrong, late or twice. */
#include "backends/backend.h"
#include "tests/unit/engine_calls.h"

#include <errno.h>
#include <sys/stat.h>

#include "config/log.h"

struct script {
	ssize_t result;
	bool later; /* complete only when asked */
	struct cv_op *op;
	struct cv_entry entry;
	struct cv_attr attr;
	bool have_attr;
	struct cv_file *file;
	const void *data;
	const struct cv_dirent *dirents;
	bool eof;
	unsigned calls, released, released_dirs;
};

static struct script script;
static char a_file;

static void answer(struct cv_op *op)
{
	script.calls++;
	script.op = op;
	if (script.later)
		return;
	op->entry = script.entry;
	op->attr = script.attr;
	op->have_attr = script.have_attr;
	op->file = script.file;
	op->data = script.data;
	op->dirents = script.dirents;
	op->eof = script.eof;
	op->done(op, script.result);
}

static void s_lookup(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	(void)conn, (void)dir, (void)name;
	answer(op);
}

static void s_getattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		      struct cv_file *file)
{
	(void)conn, (void)obj, (void)file;
	answer(op);
}

static void s_open(void *conn, struct cv_op *op, const struct cv_object *obj, int flags)
{
	(void)conn, (void)obj, (void)flags;
	answer(op);
}

static void s_opendir(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	(void)conn, (void)obj;
	answer(op);
}

static void s_release(void *conn, struct cv_file *file)
{
	(void)conn;
	assert_ptr_equal(file, &a_file);
	script.released++;
}

static void s_releasedir(void *conn, struct cv_file *file)
{
	(void)conn;
	assert_ptr_equal(file, &a_file);
	script.released_dirs++;
}

static void s_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size, uint64_t off)
{
	(void)conn, (void)file, (void)size, (void)off;
	answer(op);
}

static void s_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		    size_t size, uint64_t off)
{
	(void)conn, (void)file, (void)data, (void)size, (void)off;
	answer(op);
}

static void s_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off)
{
	(void)conn, (void)dir, (void)off;
	answer(op);
}

static void s_rename(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		     const struct cv_object *newdir, const char *newname, unsigned flags)
{
	(void)conn, (void)dir, (void)name, (void)newdir, (void)newname, (void)flags;
	answer(op);
}

static void s_getxattr(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name,
		       size_t size)
{
	(void)conn, (void)obj, (void)name, (void)size;
	answer(op);
}

static const struct cv_backend full = {
	.name = "script",
	.lookup = s_lookup,
	.getattr = s_getattr,
	.open = s_open,
	.opendir = s_opendir,
	.release = s_release,
	.releasedir = s_releasedir,
	.read = s_read,
	.write = s_write,
	.readdir = s_readdir,
	.rename = s_rename,
	.getxattr = s_getxattr,
};
static const struct cv_backend empty = { .name = "empty" };

static struct object obj;

static int setup(void **state)
{
	(void)state;
	memset(&script, 0, sizeof(script));
	memset(&test_mount, 0, sizeof(test_mount));
	memset(&obj, 0, sizeof(obj));
	test_mount.backend = &full;
	test_mount.conn = &script;
	test_mount.info.features = CV_FEAT_HANDLES;
	obj.object.handle = &obj.entry.handle;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(test_mount.in_flight, 0);
	return 0;
}

static void missing_members(void **state)
{
	struct cv_setattr set = { 0 };
	struct call c;

	(void)state;
	test_mount.backend = &empty;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), -ENOSYS);
	assert_int_equal(RUN(&c, cv_getattr, &obj.object, NULL), -ENOSYS);
	assert_int_equal(RUN(&c, cv_setattr, &obj.object, NULL, &set), -ENOSYS);
	assert_int_equal(RUN(&c, cv_readlink, &obj.object), -ENOSYS);
	assert_int_equal(RUN(&c, cv_mknod, &obj.object, "x", S_IFREG, 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_mkdir, &obj.object, "x", 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_symlink, &obj.object, "x", "y"), -ENOSYS);
	assert_int_equal(RUN(&c, cv_link, &obj.object, &obj.object, "x"), -ENOSYS);
	assert_int_equal(RUN(&c, cv_unlink, &obj.object, "x"), -ENOSYS);
	assert_int_equal(RUN(&c, cv_rmdir, &obj.object, "x"), -ENOSYS);
	assert_int_equal(RUN(&c, cv_rename, &obj.object, "x", &obj.object, "y", 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_open, &obj.object, 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_create, &obj.object, "x", 0, 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_read, NULL, 1, 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_write, NULL, "x", 1, 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_fsync, NULL, false), -ENOSYS);
	assert_int_equal(RUN(&c, cv_fallocate, NULL, 0, 0, 1), -ENOSYS);
	assert_int_equal(RUN(&c, cv_lseek, NULL, 0, 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_copy, NULL, 0, NULL, 0, 1), -EOPNOTSUPP);
	assert_int_equal(RUN(&c, cv_opendir, &obj.object), -ENOSYS);
	assert_int_equal(RUN(&c, cv_readdir, NULL, 0), -ENOSYS);
	assert_int_equal(RUN(&c, cv_fsyncdir, NULL, false), -ENOSYS);
	assert_int_equal(RUN(&c, cv_statfs, &obj.object), -ENOSYS);
	assert_int_equal(RUN(&c, cv_getxattr, &obj.object, "user.x", 0), -EOPNOTSUPP);
	assert_int_equal(RUN(&c, cv_listxattr, &obj.object, 0), -EOPNOTSUPP);
	assert_int_equal(RUN(&c, cv_setxattr, &obj.object, "user.x", "", 0, 0), -EOPNOTSUPP);
	assert_int_equal(RUN(&c, cv_removexattr, &obj.object, "user.x"), -EOPNOTSUPP);
}

static void names_are_checked(void **state)
{
	char name[CV_NAME_MAX + 2];
	struct call c;

	(void)state;
	memset(name, 'n', sizeof(name));
	name[CV_NAME_MAX + 1] = '\0';
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, name), -ENAMETOOLONG);
	assert_int_equal(RUN(&c, cv_rename, &obj.object, "a", &obj.object, name, 0), -ENAMETOOLONG);
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, ""), -EINVAL);
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "."), -EINVAL);
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, ".."), -EINVAL);
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "../x"), -EINVAL);
	assert_int_equal(RUN(&c, cv_rename, &obj.object, "a/b", &obj.object, "c", 0), -EINVAL);
	assert_int_equal(script.calls, 0);
	name[CV_NAME_MAX] = '\0';
	script.result = -ENOENT;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, name), -ENOENT);
	assert_int_equal(script.calls, 1);
}

static void counts_are_checked(void **state)
{
	struct call c;

	(void)state;
	script.data = "0123456789";
	script.result = 10;
	assert_int_equal(RUN(&c, cv_read, NULL, 10, 0), 10);
	assert_memory_equal(c.data, "0123456789", 10);
	assert_int_equal(RUN(&c, cv_read, NULL, 9, 0), -EIO); /* more than asked for */
	script.data = NULL;
	assert_int_equal(RUN(&c, cv_read, NULL, 10, 0), -EIO); /* nothing to read from */
	assert_int_equal(RUN(&c, cv_write, NULL, "0123456789", 10, 0), 10);
	assert_int_equal(RUN(&c, cv_write, NULL, "0123456789", 11, 0), -EIO); /* a part */
	script.result = -5000;
	assert_int_equal(RUN(&c, cv_read, NULL, 10, 0), -EIO); /* no errno */
	script.calls = 0;
	assert_int_equal(RUN(&c, cv_read, NULL, CV_MAX_IO + 1, 0), -EINVAL);
	assert_int_equal(RUN(&c, cv_read, NULL, 2, INT64_MAX), -EINVAL);
	assert_int_equal(script.calls, 0);
}

static void xattr_lengths(void **state)
{
	struct call c;

	(void)state;
	script.result = 300;
	assert_int_equal(RUN(&c, cv_getxattr, &obj.object, "user.x", 0), 300);
	assert_int_equal(RUN(&c, cv_getxattr, &obj.object, "user.x", 200), -EIO);
	assert_int_equal(RUN(&c, cv_getxattr, &obj.object, "user.x", 65536), -EIO); /* no data */
	script.result = 100000;
	assert_int_equal(RUN(&c, cv_getxattr, &obj.object, "user.x", 0), -EIO);
}

static void entries_are_checked(void **state)
{
	struct call c;

	(void)state;
	script.entry.attr.mode = S_IFREG;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), -EIO); /* no handle */
	script.entry.handle.size = CV_HANDLE_MAX;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), 0);
	script.entry.handle.size = CV_HANDLE_MAX + 1;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), -EIO);
	script.entry.handle.size = 4;
	script.entry.attr.mode = 0644; /* no type */
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), -EIO);
	script.entry.attr.mode = S_IFREG;
	script.result = 1;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), -EIO); /* not a count */
	test_mount.info.features = 0;
	script.result = 0;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), -EIO); /* an unexpected handle */
	script.entry.handle.size = 0;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), 0);
}

static void attributes_are_checked(void **state)
{
	struct call c;

	(void)state;
	script.attr.mode = S_IFDIR | 0755;
	assert_int_equal(RUN(&c, cv_getattr, &obj.object, NULL), -EIO); /* not filled in */
	script.have_attr = true;
	assert_int_equal(RUN(&c, cv_getattr, &obj.object, NULL), 0);
	assert_int_equal(c.op.attr.mode, S_IFDIR | 0755);
	script.attr.mode = S_IFMT;
	assert_int_equal(RUN(&c, cv_getattr, &obj.object, NULL), -EIO);
}

static void files_are_released(void **state)
{
	struct call c;

	(void)state;
	script.file = (struct cv_file *)(void *)&a_file;
	assert_int_equal(RUN(&c, cv_open, &obj.object, 0), -EIO); /* no attributes */
	assert_int_equal(script.released, 1);
	assert_null(c.op.file);
	script.attr.mode = S_IFREG;
	script.have_attr = true;
	assert_int_equal(RUN(&c, cv_open, &obj.object, 0), 0);
	assert_int_equal(script.released, 1);
	assert_ptr_equal(c.op.file, script.file);
	script.result = 3;
	assert_int_equal(RUN(&c, cv_opendir, &obj.object), -EIO);
	assert_int_equal(script.released_dirs, 1);
	script.file = NULL;
	script.result = 0;
	assert_int_equal(RUN(&c, cv_open, &obj.object, 0), -EIO); /* no file */
	assert_int_equal(script.released, 1);
}

static void listings_are_checked(void **state)
{
	struct cv_dirent d[2] = { { .name = "a", .next_off = 1 }, { .name = "b", .next_off = 2 } };
	static const char *const bad[] = { "", ".", "..", "a/b", "/", "../etc" };
	char name[CV_NAME_MAX + 2];
	struct call c;

	(void)state;
	script.dirents = d;
	script.result = 2;
	assert_int_equal(RUN(&c, cv_readdir, NULL, 0), 2);
	for (size_t i = 0; i < CV_ARRAY_SIZE(bad); i++) {
		d[1].name = bad[i];
		assert_int_equal(RUN(&c, cv_readdir, NULL, 0), -EIO);
	}
	memset(name, 'n', sizeof(name));
	name[CV_NAME_MAX + 1] = '\0';
	d[1].name = name;
	assert_int_equal(RUN(&c, cv_readdir, NULL, 0), -EIO);
	d[1].name = "b";
	d[1].next_off = 0;
	assert_int_equal(RUN(&c, cv_readdir, NULL, 0), -EIO);
	d[1].next_off = 2;
	d[1].have_entry = true; /* with an empty one */
	assert_int_equal(RUN(&c, cv_readdir, NULL, 0), -EIO);
	script.result = 0; /* nothing, but not the end: the worker would ask for ever */
	assert_int_equal(RUN(&c, cv_readdir, NULL, 0), -EIO);
	script.eof = true;
	assert_int_equal(RUN(&c, cv_readdir, NULL, 0), 0);
}

static void in_flight_until_done(void **state)
{
	struct call a, b;

	(void)state;
	script.later = true;
	call_start(&a);
	cv_rename(&test_mount, &a.op, &obj.object, "x", &obj.object, "y", 0);
	call_start(&b);
	cv_rename(&test_mount, &b.op, &obj.object, "x", &obj.object, "y", 0);
	assert_int_equal(test_mount.in_flight, 2);
	assert_false(a.done || b.done);
	b.op.done(&b.op, 0);
	assert_int_equal(test_mount.in_flight, 1);
	assert_true(b.done && !a.done);
	a.op.done(&a.op, -EIO);
	assert_int_equal(a.result, -EIO);
	assert_int_equal(test_mount.in_flight, 0);
}

static void completed_twice(void **state)
{
	struct call c;

	(void)state;
	script.later = true;
	call_start(&c);
	cv_rename(&test_mount, &c.op, &obj.object, "x", &obj.object, "y", 0);
	script.op->done(script.op, 0);
	assert_int_equal(c.result, 0);
	script.op->done(script.op, -EIO); /* call_done() would fail the test */
	assert_int_equal(c.result, 0);
	assert_int_equal(c.op.debug_done, 2);
	assert_int_equal(test_mount.in_flight, 0);
}

static void used_again(void **state)
{
	struct call c;

	(void)state;
	script.entry.handle.size = 1;
	script.entry.attr.mode = S_IFREG;
	assert_int_equal(RUN(&c, cv_lookup, &obj.object, "x"), 0);
	c.done = false;
	script.entry.handle.size = 0;
	script.result = -ENOENT;
	script.later = true;
	cv_lookup(&test_mount, &c.op, &obj.object, "x"); /* without cv_op_init() */
	assert_int_equal(c.op.entry.handle.size, 0);	 /* nothing left of the first result */
	c.op.done(&c.op, -ENOENT);
	assert_int_equal(c.result, -ENOENT);
}

static unsigned chain_left;

static void chain_done(struct cv_op *op, ssize_t result)
{
	assert_int_equal(result, -ENOENT);
	if (chain_left-- > 0) {
		cv_op_init(op, chain_done, &test_cred);
		cv_lookup(&test_mount, op, &obj.object, "next");
	}
}

/* done() may start the next operation with the same structure. */
static void started_from_done(void **state)
{
	struct cv_op op;

	(void)state;
	script.result = -ENOENT;
	chain_left = 5;
	cv_op_init(&op, chain_done, &test_cred);
	cv_lookup(&test_mount, &op, &obj.object, "first");
	assert_int_equal(script.calls, 6);
}

static void connecting(void **state)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	struct cv_err err = { 0 };
	struct cv_stats stats;

	(void)state;
	assert_int_equal(cv_loop_new(&test_loop), 0);
	assert_int_equal(cv_mount_connect(&options, test_loop, &test_mount, &err), -EINVAL);
	assert_int_equal(cv_dict_set(&options, "type", "floppy"), 0);
	assert_int_equal(cv_mount_connect(&options, test_loop, &test_mount, &err), -EINVAL);
	assert_non_null(strstr(err.text, "floppy"));
	assert_int_equal(cv_dict_set(&options, "type", "mem"), 0);
	assert_int_equal(cv_mount_connect(&options, test_loop, &test_mount, &err), 0);
	cv_mount_stats(&test_mount, &stats);
	assert_true(stats.connected);
	cv_mount_disconnect(&test_mount);
	cv_mount_disconnect(&test_mount); /* once more: nothing */
	cv_mount_stats(&test_mount, &stats);
	assert_false(stats.connected);
	cv_loop_free(test_loop);
	test_loop = NULL;
	assert_ptr_equal(cv_backend_find("dir"), &cv_backend_dir);
	assert_ptr_equal(cv_backend_find("nfs"), &cv_backend_nfs);
	assert_ptr_equal(cv_backend_find("sftp"), &cv_backend_sftp);
	assert_null(cv_backend_find(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(missing_members, setup, teardown),
		cmocka_unit_test_setup_teardown(names_are_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(counts_are_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(xattr_lengths, setup, teardown),
		cmocka_unit_test_setup_teardown(entries_are_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(attributes_are_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(files_are_released, setup, teardown),
		cmocka_unit_test_setup_teardown(listings_are_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(in_flight_until_done, setup, teardown),
		cmocka_unit_test_setup_teardown(completed_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(used_again, setup, teardown),
		cmocka_unit_test_setup_teardown(started_from_done, setup, teardown),
		cmocka_unit_test_setup_teardown(connecting, setup, teardown),
	};

	return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
