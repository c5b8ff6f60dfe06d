/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests/tools/engine_check.c cannot see of the dir engine: that it stays in its root, what it
 * does with descriptors, and whom new objects belong to. Each test runs with kernel handles and, in
 * a second group, without (the privilege they need is given up).
 */
#include "backends/backend.h"
#include "tests/unit/engine_calls.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct object root;
static char base[64]; /* holds "outside" and the engine's root */
static char root_path[96];

static void in_base(char path[256], const char *name)
{
	(void)snprintf(path, 256, "%s/%s", base, name);
}

static void put(const char *name, const char *text)
{
	char path[256];
	FILE *f;

	in_base(path, name);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int connect_at(const char *path, const char *subdir, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	int r;

	(void)cv_dict_set(&options, "type", "dir");
	(void)cv_dict_set(&options, "path", path);
	if (subdir)
		(void)cv_dict_set(&options, "subdir", subdir);
	r = cv_mount_connect(&options, test_loop, &test_mount, err);
	if (r == 0)
		object_set(&root, NULL, "", &test_mount.info.root);
	return r;
}

static int setup(void **state)
{
	char path[256];
	struct cv_err err = { 0 };

	(void)state;
	memset(&test_cred, 0, sizeof(test_cred));
	(void)snprintf(base, sizeof(base), "%s", "/tmp/cvol-test-dir-XXXXXX");
	assert_non_null(mkdtemp(base));
	(void)snprintf(root_path, sizeof(root_path), "%s/root", base);
	assert_int_equal(mkdir(root_path, 0777), 0);
	in_base(path, "outside");
	assert_int_equal(mkdir(path, 0755), 0);
	put("outside/secret", "secret");
	assert_int_equal(cv_loop_new(&test_loop), 0);
	assert_int_equal(connect_at(root_path, NULL, &err), 0);
	return 0;
}

/* By descriptors: one test makes a path longer than PATH_MAX. */
static void remove_below(int fd)
{
	DIR *d = fdopendir(fd);
	const struct dirent *e;

	assert_non_null(d);
	while ((e = readdir(d))) {
		int sub;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    unlinkat(fd, e->d_name, 0) == 0)
			continue;
		sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		assert_true(sub >= 0);
		remove_below(sub);
		assert_int_equal(unlinkat(fd, e->d_name, AT_REMOVEDIR), 0);
	}
	(void)closedir(d);
}

static int teardown(void **state)
{
	(void)state;
	cv_mount_disconnect(&test_mount);
	cv_loop_free(test_loop);
	remove_below(open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_int_equal(rmdir(base), 0);
	return 0;
}

/* Descriptors of this process that name something deleted, or anything. */
static unsigned open_fds(bool deleted)
{
	DIR *d = opendir("/proc/self/fd");
	const struct dirent *e;
	unsigned n = 0;

	assert_non_null(d);
	while ((e = readdir(d))) {
		char target[512];
		ssize_t len = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);

		if (len < 0)
			continue;
		target[len] = '\0';
		n += !deleted || strstr(target, " (deleted)");
	}
	(void)closedir(d);
	return n;
}

static void links_are_not_followed(void **state)
{
	struct object l, d;
	struct cv_attr attr;
	struct call c;
	char path[256];

	(void)state;
	assert_int_equal(RUN(&c, cv_symlink, &root.object, "up", "../outside"), 0);
	assert_int_equal(lookup(&root, "up", &l), 0);
	assert_true(S_ISLNK(l.entry.attr.mode));
	assert_true(lookup(&l, "secret", NULL) < 0);
	assert_true(create(&l, "new", 0600, NULL, NULL) < 0);
	assert_true(RUN(&c, cv_open, &l.object, O_RDONLY) < 0);
	assert_true(RUN(&c, cv_opendir, &l.object) < 0);
	assert_int_equal(RUN(&c, cv_symlink, &root.object, "file", "../outside/secret"), 0);
	assert_int_equal(lookup(&root, "file", &l), 0);
	assert_true(RUN(&c, cv_open, &l.object, O_RDWR | O_TRUNC) < 0);
	assert_int_equal(create(&root, "file", 0600, NULL, NULL), -ESTALE);
	/* A directory that somebody turns into a link while we know it. */
	assert_int_equal(make_dir(&root, "d", &d), 0);
	(void)snprintf(path, sizeof(path), "%s/d", root_path);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("../outside", path), 0);
	assert_true(lookup(&d, "secret", NULL) < 0);
	assert_true(create(&d, "new", 0600, NULL, NULL) < 0);
	assert_true(unlink_name(&d, "secret") < 0);
	in_base(path, "outside/secret");
	assert_int_equal(access(path, F_OK), 0);
	in_base(path, "outside/new");
	assert_int_equal(access(path, F_OK), -1);
	/* One further up: by its path it is gone, by its handle it is where it was. */
	assert_int_equal(make_dir(&root, "p", &l), 0);
	assert_int_equal(make_dir(&l, "q", &d), 0);
	(void)snprintf(path, sizeof(path), "%s/p", root_path);
	char moved[256];

	(void)snprintf(moved, sizeof(moved), "%s/p2", root_path);
	assert_int_equal(rename(path, moved), 0);
	assert_int_equal(symlink("p2", path), 0);
	if (test_mount.info.features & CV_FEAT_HANDLES)
		assert_int_equal(create(&d, "new", 0600, NULL, NULL), 0);
	else
		assert_true(create(&d, "new", 0600, NULL, NULL) < 0);
	/* setattr through a link changes the link. */
	assert_int_equal(RUN(&c, cv_symlink, &root.object, "t", "../outside/secret"), 0);
	assert_int_equal(lookup(&root, "t", &l), 0);
	struct cv_setattr set = { .mask = CV_SET_UID | CV_SET_MTIME,
				  .uid = 4321,
				  .mtime = { .tv_sec = 1000 } };
	assert_int_equal(RUN(&c, cv_setattr, &l.object, NULL, &set), 0);
	assert_int_equal(getattr(&l, NULL, &attr), 0);
	assert_int_equal(attr.uid, 4321);
	assert_int_equal(attr.mtime.tv_sec, 1000);
	struct stat st;

	in_base(path, "outside/secret");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_uid, 0);
	assert_true(st.st_mtime > 1000);
}

static void subdirs(void **state)
{
	struct cv_err err = { 0 };
	char path[256];
	struct stat st;

	(void)state;
	cv_mount_disconnect(&test_mount);
	assert_int_equal(connect_at(root_path, "a/b", &err), 0);
	assert_int_equal(create(&root, "f", 0600, NULL, NULL), 0);
	in_base(path, "root/a/b/f");
	assert_int_equal(stat(path, &st), 0);
	cv_mount_disconnect(&test_mount);
	assert_true(connect_at(root_path, "../outside", &err) < 0);
	assert_non_null(strstr(err.text, ".."));
	in_base(path, "root/link");
	assert_int_equal(symlink("../outside", path), 0);
	assert_true(connect_at(root_path, "link", &err) < 0);
	assert_true(connect_at(root_path, "link/deeper", &err) < 0);
	in_base(path, "outside/deeper");
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(connect_at(root_path, NULL, &err), 0);
}

static void refused_roots(void **state)
{
	struct cv_err err = { 0 };
	char path[256];

	(void)state;
	cv_mount_disconnect(&test_mount);
	in_base(path, "nothing");
	assert_int_equal(connect_at(path, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.text, path));
	in_base(path, "outside/secret");
	assert_int_equal(connect_at(path, NULL, &err), -ENOTDIR);
	assert_int_equal(connect_at("relative", NULL, &err), -EINVAL);
	assert_int_equal(connect_at("", NULL, &err), -EINVAL);
	assert_int_equal(connect_at(root_path, NULL, &err), 0);
}

static void deleted_files_are_let_go(void **state)
{
	struct cv_file *file;
	struct object o;
	struct call c;

	(void)state;
	assert_int_equal(create(&root, "a", 0600, NULL, NULL), 0);
	assert_int_equal(lookup(&root, "a", &o), 0);
	assert_int_equal(unlink_name(&root, "a"), 0);
	assert_int_equal(open_fds(true), 0);
	assert_int_equal(create(&root, "a", 0600, NULL, NULL), 0);
	assert_int_equal(create(&root, "b", 0600, NULL, NULL), 0);
	assert_int_equal(lookup(&root, "b", &o), 0);
	assert_int_equal(RUN(&c, cv_rename, &root.object, "a", &root.object, "b", 0), 0);
	assert_int_equal(open_fds(true), 0);
	assert_int_equal(make_dir(&root, "d", &o), 0);
	assert_int_equal(RUN(&c, cv_rmdir, &root.object, "d"), 0);
	assert_int_equal(open_fds(true), 0);
	assert_int_equal(create(&root, "c", 0600, &o, &file), 0);
	assert_int_equal(unlink_name(&root, "c"), 0);
	assert_int_equal(open_fds(true), 1); /* the caller's */
	cv_release(&test_mount, file);
	assert_int_equal(open_fds(true), 0);
}

static void few_descriptors(void **state)
{
	struct rlimit before, few;
	struct object *objects = calloc(600, sizeof(*objects));
	struct cv_err err = { 0 };
	struct cv_attr attr;
	struct call c;
	char name[32];

	(void)state;
	assert_non_null(objects);
	cv_mount_disconnect(&test_mount);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	few.rlim_cur = open_fds(false) + 20;
	few.rlim_max = before.rlim_max;
	assert_int_equal(connect_at(root_path, NULL, &err), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0); /* after: connect raises it */
	for (unsigned i = 0; i < 600; i++) {
		(void)snprintf(name, sizeof(name), "d%u", i);
		assert_int_equal(make_dir(&root, name, &objects[i]), 0);
		assert_int_equal(create(&objects[i], "f", 0600, NULL, NULL), 0);
	}
	for (unsigned i = 0; i < 600; i++) {
		assert_int_equal(getattr(&objects[i], NULL, &attr), 0);
		assert_int_equal(lookup(&objects[i], "f", NULL), 0);
		assert_int_equal(RUN(&c, cv_rename, &objects[i].object, "f",
				     &objects[(i + 1) % 600].object, "g", 0),
				 0);
	}
	/* When they are all in use it is an error, not a crash. */
	struct cv_file *files[64];
	unsigned n = 0;
	ssize_t r = 0;

	for (; n < 64; n++) {
		(void)snprintf(name, sizeof(name), "open%u", n);
		r = create(&root, name, 0600, NULL, &files[n]);
		if (r < 0)
			break;
	}
	assert_int_equal(r, -ENFILE);
	while (n > 0)
		cv_release(&test_mount, files[--n]);
	assert_int_equal(create(&root, "again", 0600, NULL, NULL), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	free(objects);
}

static void idle_descriptors_close(void **state)
{
	unsigned before;
	char name[32];

	(void)state;
	before = open_fds(false);
	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		assert_int_equal(create(&root, name, 0600, NULL, NULL), 0);
		assert_int_equal(lookup(&root, name, NULL), 0);
	}
	for (uint64_t until = cv_now_ns() + 9000000000ull;
	     cv_now_ns() < until && open_fds(false) > before;)
		assert_true(cv_loop_turn(test_loop, 500) >= 0);
	assert_true(open_fds(false) <= before);
	assert_int_equal(lookup(&root, "f7", NULL), 0);
}

static void devices_and_fifos_stay_closed(void **state)
{
	struct object o;
	struct call c;

	(void)state;
	assert_int_equal(RUN(&c, cv_mknod, &root.object, "fifo", S_IFIFO | 0600, 0), 0);
	assert_int_equal(lookup(&root, "fifo", &o), 0);
	assert_int_equal(RUN(&c, cv_open, &o.object, O_RDONLY), -ESTALE); /* and does not wait */
	assert_int_equal(create(&root, "fifo", 0600, NULL, NULL), -ESTALE);
	assert_int_equal(create(&root, "plain", 0600, NULL, NULL), 0);
	assert_int_equal(make_dir(&root, "d", &o), 0);
	assert_int_equal(create(&root, "d", 0600, NULL, NULL), -EISDIR);
}

static void owners(void **state)
{
	struct cv_setattr set = { .mask = CV_SET_MODE | CV_SET_GID, .mode = 02777, .gid = 3000 };
	struct object d, o;
	struct call c;
	struct stat st;
	char path[256];

	(void)state;
	test_cred.uid = 1001;
	test_cred.gid = 1002;
	assert_int_equal(create(&root, "f", 06755, &o, NULL), 0);
	assert_int_equal(o.entry.attr.uid, 1001);
	assert_int_equal(o.entry.attr.gid, 1002);
	assert_int_equal(o.entry.attr.mode & 07777, 06755);
	in_base(path, "root/f");
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_uid == 1001 && st.st_gid == 1002 && (st.st_mode & 07777) == 06755);
	assert_int_equal(RUN(&c, cv_mknod, &root.object, "fifo", S_IFIFO | 0600, 0), 0);
	assert_int_equal(c.op.entry.attr.uid, 1001);
	assert_int_equal(make_dir(&root, "d", &d), 0);
	assert_int_equal(RUN(&c, cv_setattr, &d.object, NULL, &set), 0);
	assert_int_equal(make_dir(&d, "sub", &o), 0);
	assert_true(o.entry.attr.uid == 1001 && o.entry.attr.gid == 3000);
	assert_true(o.entry.attr.mode & S_ISGID);
	assert_int_equal(create(&d, "f", 0600, &o, NULL), 0);
	assert_true(o.entry.attr.uid == 1001 && o.entry.attr.gid == 3000);
	/* Nothing of it sticks to us: the next one is root's again. */
	test_cred.uid = test_cred.gid = 0;
	assert_int_equal(create(&root, "g", 0600, &o, NULL), 0);
	assert_true(o.entry.attr.uid == 0 && o.entry.attr.gid == 0);
	/* A directory that only its owner may write to: the kernel above has decided. */
	set.mask = CV_SET_MODE;
	set.mode = 0555;
	assert_int_equal(RUN(&c, cv_setattr, &d.object, NULL, &set), 0);
	test_cred.uid = 1001;
	assert_int_equal(create(&d, "h", 0600, &o, NULL), 0);
}

static void stale(void **state)
{
	struct object f, d;
	struct cv_attr attr;
	char path[256];
	ssize_t r;

	(void)state;
	assert_int_equal(create(&root, "f", 0600, &f, NULL), 0);
	assert_int_equal(make_dir(&root, "d", &d), 0);
	/* Removed behind our back. */
	in_base(path, "root/f");
	assert_int_equal(unlink(path), 0);
	in_base(path, "root/d");
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(lookup(&root, "f", NULL), -ENOENT);
	r = create(&d, "x", 0600, NULL, NULL);
	assert_true(r == -ENOENT || r == -ESTALE);
	assert_int_equal(unlink_name(&root, "f"), -ENOENT);
	(void)getattr(&f, NULL, &attr); /* alive while remembered, then stale: both are fine */
}

static struct cv_file *nested_file;
static bool nested_ok;
static struct call inner;

static void outer_done(struct cv_op *op, ssize_t result)
{
	struct call *c = cv_container_of(op, struct call, op);

	/* Data is valid until done() returns, whatever is started meanwhile. */
	call_start(&inner);
	cv_read(&test_mount, &inner.op, nested_file, 4, 4);
	nested_ok = result == 4 && memcmp(op->data, "AAAA", 4) == 0 && inner.result == 4 &&
		    memcmp(inner.data, "BBBB", 4) == 0;
	c->result = result;
	c->done = true;
}

static void read_within_read(void **state)
{
	struct call c = { .done = false };

	(void)state;
	assert_int_equal(create(&root, "f", 0600, NULL, &nested_file), 0);
	assert_int_equal(write_at(nested_file, "AAAABBBB", 8, 0), 8);
	cv_op_init(&c.op, outer_done, &test_cred);
	cv_read(&test_mount, &c.op, nested_file, 4, 0);
	assert_true(nested_ok);
	cv_release(&test_mount, nested_file);
}

static void long_paths(void **state)
{
	struct object at = root;
	struct call c;

	(void)state;
	if (test_mount.info.features & CV_FEAT_HANDLES)
		skip(); /* nothing is named by its path */
	char *path = calloc(1, 64 * 100);
	size_t len = 0;

	assert_non_null(path);
	at.object.path = path;
	for (int i = 0; i < 60; i++) {
		char name[81];

		memset(name, 'a' + i % 26, 80);
		name[80] = '\0';
		assert_int_equal(RUN(&c, cv_mkdir, &at.object, name, 0700), 0);
		if (len)
			path[len++] = '/';
		memcpy(path + len, name, 81);
		len += 80;
	}
	assert_true(len > 4096);
	assert_int_equal(RUN(&c, cv_create, &at.object, "leaf", O_RDWR, 0600), 0);
	cv_release(&test_mount, c.op.file);
	assert_int_equal(RUN(&c, cv_lookup, &at.object, "leaf"), 0);
	assert_int_equal(RUN(&c, cv_getattr, &at.object, NULL), 0);
	memcpy(path + 81, "zz", 2); /* the second component, wrong */
	assert_int_equal(RUN(&c, cv_getattr, &at.object, NULL), -ENOENT);
	free(path);
}

static void acl_is_refused(void **state)
{
	struct object f;
	struct call c;

	(void)state;
	assert_int_equal(create(&root, "f", 0600, &f, NULL), 0);
	assert_int_equal(RUN(&c, cv_setxattr, &f.object, "system.posix_acl_access", "x", 1, 0),
			 -EOPNOTSUPP);
	assert_int_equal(RUN(&c, cv_getxattr, &f.object, "system.posix_acl_access", 100),
			 -EOPNOTSUPP);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

static void give_up_capability(unsigned cap)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	assert_int_equal(syscall(SYS_capget, &header, data), 0);
	data[cap / 32].effective &= ~(1u << (cap % 32));
	data[cap / 32].permitted &= ~(1u << (cap % 32));
	assert_int_equal(syscall(SYS_capset, &header, data), 0);
}

static int without_handles(void **state)
{
	(void)state;
	/* And the other way of creating as the caller. */
	assert_int_equal(prctl(PR_SET_SECUREBITS, 0UL, 0, 0, 0), 0);
	give_up_capability(CAP_SETPCAP);
	give_up_capability(CAP_DAC_READ_SEARCH);
	return 0;
}

static void has_no_handles(void **state)
{
	(void)state;
	assert_false(test_mount.info.features & CV_FEAT_HANDLES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(links_are_not_followed),
		TEST(subdirs),
		TEST(refused_roots),
		TEST(deleted_files_are_let_go),
		TEST(few_descriptors),
		TEST(idle_descriptors_close),
		TEST(devices_and_fifos_stay_closed),
		TEST(owners),
		TEST(stale),
		TEST(read_within_read),
		TEST(acl_is_refused),
	};
	const struct CMUnitTest tests_by_path[] = {
		TEST(has_no_handles),
		TEST(links_are_not_followed),
		TEST(subdirs),
		TEST(few_descriptors),
		TEST(devices_and_fifos_stay_closed),
		TEST(owners),
		TEST(stale),
		TEST(read_within_read),
		TEST(long_paths),
	};
	int failed;

	if (geteuid() != 0) {
		printf("1..0 # SKIP needs root\n");
		return 77;
	}
	umask(0);
	failed = cmocka_run_group_tests_name("dir", tests, NULL, NULL);
	return failed + cmocka_run_group_tests_name("dir without handles", tests_by_path,
						    without_handles, NULL);
}
