/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks a storage engine against the contract in backends/backend.h, without FUSE:
 *
 *	engine_check [--uid N] [--gid N] [TYPE] [option=value…]
 *	engine_check --bench [read|write|getattr] [--mb N] [--depth N] [TYPE] [option=value…]
 *
 * TYPE may be left out when a source=… says it.
 *
 * Works in a fresh directory of the volume and removes it. TAP on stdout; exit status 1 when a
 *check failed, 2 when the engine could not be connected. --bench prints rates instead.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "backends/backend.h"
#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"

#define OP_TIMEOUT_NS 60000000000ull
#define PATH_SIZE     8192

/* ---- calls that wait ---- */

struct entry_copy {
	char name[CV_NAME_MAX + 1];
	uint64_t next_off, ino;
	uint32_t mode;
	bool have_entry;
	struct cv_entry entry;
};

struct call {
	struct cv_op op;
	bool done;
	ssize_t result;
	void *data;		    /* owned copy */
	struct entry_copy *entries; /* owned; grows over calls */
	size_t count, size;
};

struct obj {
	struct cv_object object;
	struct cv_handle handle, parent;
	struct cv_attr attr;
	char path[PATH_SIZE], name[CV_NAME_MAX + 1];
};

static struct cv_loop *loop;
static struct cv_mount mnt;
static struct cv_dict options;
static struct cv_cred cred;
static struct obj root, top;
static uint64_t next_nodeid = 2;
static bool handles;

static void on_done(struct cv_op *op, ssize_t result)
{
	struct call *c = cv_container_of(op, struct call, op);

	if (c->done) {
		printf("Bail out! an operation completed twice\n");
		exit(1);
	}
	if (result > 0 && op->data) {
		free(c->data);
		c->data = malloc((size_t)result + 1);
		memcpy(c->data, op->data, (size_t)result);
		((char *)c->data)[result] = '\0';
	}
	for (ssize_t i = 0; result > 0 && op->dirents && i < result; i++) {
		const struct cv_dirent *d = &op->dirents[i];
		struct entry_copy *e;

		if (c->count == c->size) {
			c->size = c->size ? 2 * c->size : 256;
			c->entries = realloc(c->entries, c->size * sizeof(*c->entries));
		}
		e = &c->entries[c->count++];
		(void)cv_strcpy(e->name, sizeof(e->name), d->name);
		e->next_off = d->next_off;
		e->ino = d->ino;
		e->mode = d->mode;
		e->have_entry = d->have_entry;
		e->entry = d->entry;
	}
	c->result = result;
	c->done = true;
}

static void call_start(struct call *c)
{
	c->done = false;
	c->result = 0;
	cv_op_init(&c->op, on_done, &cred);
}

static void call_release(struct call *c)
{
	free(c->data);
	free(c->entries);
	memset(c, 0, sizeof(*c));
}

#define CALL __attribute__((cleanup(call_release))) struct call

static ssize_t call_wait(struct call *c)
{
	uint64_t until = cv_now_ns() + OP_TIMEOUT_NS;

	while (!c->done) {
		int r = cv_loop_turn(loop, 1000);

		if (r < 0 || cv_now_ns() > until) {
			printf("Bail out! an operation never completed\n");
			exit(1);
		}
	}
	return c->result;
}

/* Starts the call c with the given function and waits for its result. */
#define RUN(c, fn, ...) (call_start(c), fn(&mnt, &(c)->op, __VA_ARGS__), call_wait(c))

/* The object points into its obj. */
static void point(struct obj *o, bool has_parent)
{
	o->object.handle = handles ? &o->handle : NULL;
	o->object.path = handles ? NULL : o->path;
	o->object.parent = handles && has_parent ? &o->parent : NULL;
	o->object.name = handles && has_parent ? o->name : NULL;
}

static void obj_set(struct obj *o, const struct obj *dir, const char *name,
		    const struct cv_entry *entry)
{
	size_t len = 0;

	if (dir) {
		len = strlen(dir->path);
		if (len + strlen(name) + 2 > PATH_SIZE) {
			printf("Bail out! path too long\n");
			exit(1);
		}
		memmove(o->path, dir->path, len);
		if (len > 0)
			o->path[len++] = '/';
		(void)stpcpy(o->path + len, name);
	} else {
		o->path[0] = '\0';
	}
	o->handle = entry->handle;
	o->attr = entry->attr;
	o->object.nodeid = dir ? next_nodeid++ : 1;
	if (dir)
		o->parent = dir->handle;
	(void)cv_strcpy(o->name, sizeof(o->name), name ? name : "");
	point(o, dir != NULL);
}

static ssize_t do_lookup(const struct obj *dir, const char *name, struct obj *ret)
{
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_lookup, &dir->object, name);

	if (r == 0 && ret)
		obj_set(ret, dir, name, &c.op.entry);
	return r;
}

static ssize_t do_create(const struct obj *dir, const char *name, int flags, uint32_t mode,
			 struct obj *ret, struct cv_file **ret_file)
{
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_create, &dir->object, name, flags, mode);

	if (r < 0)
		return r;
	if (ret)
		obj_set(ret, dir, name, &c.op.entry);
	if (ret_file)
		*ret_file = c.op.file;
	else
		cv_release(&mnt, c.op.file);
	return 0;
}

static ssize_t do_mkdir(const struct obj *dir, const char *name, uint32_t mode, struct obj *ret)
{
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_mkdir, &dir->object, name, mode);

	if (r == 0 && ret)
		obj_set(ret, dir, name, &c.op.entry);
	return r;
}

static ssize_t do_open(const struct obj *o, int flags, struct cv_file **ret_file)
{
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_open, &o->object, flags);

	if (r == 0)
		*ret_file = c.op.file;
	return r;
}

static ssize_t do_getattr(const struct obj *o, struct cv_file *file, struct cv_attr *ret)
{
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_getattr, &o->object, file);

	if (r == 0)
		*ret = c.op.attr;
	return r;
}

static ssize_t do_setattr(const struct obj *o, struct cv_file *file, const struct cv_setattr *set,
			  struct cv_attr *ret)
{
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_setattr, &o->object, file, set);

	if (r == 0 && ret)
		*ret = c.op.attr;
	return r;
}

static ssize_t do_unlink(const struct obj *dir, const char *name)
{
	CALL c = { 0 };

	return RUN(&c, cv_unlink, &dir->object, name);
}

static ssize_t do_rmdir(const struct obj *dir, const char *name)
{
	CALL c = { 0 };

	return RUN(&c, cv_rmdir, &dir->object, name);
}

static ssize_t do_rename(const struct obj *dir, const char *name, const struct obj *newdir,
			 const char *newname, unsigned flags)
{
	CALL c = { 0 };

	return RUN(&c, cv_rename, &dir->object, name, &newdir->object, newname, flags);
}

static ssize_t do_fsync(struct cv_file *file)
{
	CALL c = { 0 };

	return RUN(&c, cv_fsync, file, false);
}

/* In pieces of at most piece bytes, one after another. */
static ssize_t do_write(struct cv_file *file, const void *data, size_t size, uint64_t off,
			size_t piece)
{
	CALL c = { 0 };
	size_t put = 0;

	while (put < size) {
		size_t n = size - put < piece ? size - put : piece;
		ssize_t r = RUN(&c, cv_write, file, (const char *)data + put, n, off + put);

		if (r < 0)
			return r;
		put += n;
	}
	return (ssize_t)put;
}

static ssize_t do_read(struct cv_file *file, void *buf, size_t size, uint64_t off, size_t piece)
{
	CALL c = { 0 };
	size_t got = 0;

	while (got < size) {
		size_t n = size - got < piece ? size - got : piece;
		ssize_t r = RUN(&c, cv_read, file, n, off + got);

		if (r < 0)
			return r;
		if (r > 0)
			memcpy((char *)buf + got, c.data, (size_t)r);
		got += (size_t)r;
		if ((size_t)r < n)
			break;
	}
	return (ssize_t)got;
}

/* All entries after off, appended to c. */
static ssize_t do_list(struct cv_file *dir, uint64_t off, struct call *c)
{
	c->count = 0;
	for (;;) {
		ssize_t r = RUN(c, cv_readdir, dir, off);

		if (r < 0)
			return r;
		if (c->op.eof)
			return (ssize_t)c->count;
		off = c->entries[c->count - 1].next_off;
	}
}

static ssize_t do_opendir(const struct obj *dir, struct cv_file **ret_file)
{
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_opendir, &dir->object);

	if (r == 0)
		*ret_file = c.op.file;
	return r;
}

static ssize_t do_list_obj(const struct obj *dir, struct call *c)
{
	struct cv_file *file;
	ssize_t r = do_opendir(dir, &file);

	if (r < 0)
		return r;
	r = do_list(file, 0, c);
	cv_releasedir(&mnt, file);
	return r;
}

static void remove_tree(const struct obj *dir)
{
	CALL c = { 0 };
	ssize_t n = do_list_obj(dir, &c);

	for (ssize_t i = 0; i < n; i++) {
		const char *name = c.entries[i].name;
		struct obj child;

		if (do_unlink(dir, name) == 0)
			continue;
		if (do_lookup(dir, name, &child) == 0 && S_ISDIR(child.attr.mode)) {
			remove_tree(&child);
			(void)do_rmdir(dir, name);
		}
	}
}

/* ---- checks ---- */

static const char *current;
static bool current_failed;
static unsigned number, passed, failed, skipped;

__attribute__((format(printf, 3, 4))) static void fail_at(const char *file, int line,
							  const char *fmt, ...)
{
	va_list ap;

	printf("# %s:%d: ", file, line);
	va_start(ap, fmt);
	(void)vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	current_failed = true;
}

#define EXPECT(cond)                                                                               \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fail_at(__FILE__, __LINE__, "%s", #cond);                                  \
			return;                                                                    \
		}                                                                                  \
	} while (0)

/* The call's result is want. */
#define EXPECT_RESULT(call, want)                                                                  \
	do {                                                                                       \
		ssize_t result_ = (call), want_ = (want);                                          \
		if (result_ != want_) {                                                            \
			fail_at(__FILE__, __LINE__, "%s = %zd (%s), not %zd (%s)", #call, result_, \
				result_ < 0 ? cv_strerror((int)result_) : "ok", want_,             \
				want_ < 0 ? cv_strerror((int)want_) : "ok");                       \
			return;                                                                    \
		}                                                                                  \
	} while (0)

#define EXPECT_OK(call) EXPECT_RESULT(call, 0)

/* One of two errors that both are right. */
#define EXPECT_EITHER(call, a, b)                                                                  \
	do {                                                                                       \
		ssize_t either_ = (call);                                                          \
		if (either_ != (a) && either_ != (b)) {                                            \
			fail_at(__FILE__, __LINE__, "%s = %zd (%s), not %s or %s", #call, either_, \
				either_ < 0 ? cv_strerror((int)either_) : "ok", #a, #b);           \
			return;                                                                    \
		}                                                                                  \
	} while (0)

static char skip_reason[128];

#define SKIP(...)                                                                                  \
	do {                                                                                       \
		(void)snprintf(skip_reason, sizeof(skip_reason), __VA_ARGS__);                     \
		return;                                                                            \
	} while (0)

static bool unsupported(ssize_t r)
{
	return r == -ENOSYS || r == -EOPNOTSUPP;
}

static void pattern(uint8_t *p, size_t size, uint64_t off, unsigned seed)
{
	for (size_t i = 0; i < size; i++) {
		uint64_t x = (off + i) * 0x9e3779b97f4a7c15ull + seed;

		p[i] = (uint8_t)(x >> 40);
	}
}

static bool attr_same(const struct cv_attr *a, const struct cv_attr *b)
{
	return a->mode == b->mode && a->size == b->size && a->uid == b->uid && a->gid == b->gid &&
	       (a->ino == b->ino || !a->ino || !b->ino);
}

static void check_root(const struct obj *dir)
{
	struct cv_attr attr;

	(void)dir;
	EXPECT(S_ISDIR(mnt.info.root.attr.mode));
	EXPECT_OK(do_getattr(&root, NULL, &attr));
	EXPECT(S_ISDIR(attr.mode));
	EXPECT(attr.ino == mnt.info.root.attr.ino);
	EXPECT(mnt.info.server[0] != '\0');
}

static void check_lookup(const struct obj *dir)
{
	struct obj a, b;
	struct cv_attr attr;

	EXPECT_RESULT(do_lookup(dir, "absent", NULL), -ENOENT);
	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0640, &a, NULL));
	EXPECT_OK(do_lookup(dir, "a", &b));
	EXPECT(S_ISREG(b.attr.mode) && (b.attr.mode & 0777) == 0640);
	EXPECT(b.attr.size == 0);
	EXPECT(attr_same(&a.attr, &b.attr));
	EXPECT(!handles || (a.handle.size == b.handle.size &&
			    memcmp(a.handle.data, b.handle.data, a.handle.size) == 0));
	EXPECT_OK(do_getattr(&b, NULL, &attr));
	EXPECT(attr_same(&attr, &b.attr));
	/* The kernel does not ask this; it must not confuse the engine all the same. */
	EXPECT_EITHER(do_lookup(&a, "x", NULL), -ENOTDIR, -ENOENT);
}

static void check_create(const struct obj *dir)
{
	struct cv_file *file;
	struct obj a;
	char buf[8];

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, &file));
	EXPECT_RESULT(do_write(file, "content", 7, 0, 7), 7);
	EXPECT_RESULT(do_read(file, buf, sizeof(buf), 0, sizeof(buf)), 7);
	EXPECT(memcmp(buf, "content", 7) == 0);
	cv_release(&mnt, file);
	EXPECT_RESULT(do_create(dir, "a", O_RDWR | O_EXCL, 0600, NULL, NULL), -EEXIST);
	EXPECT_OK(do_create(dir, "a", O_RDWR, 0600, &a, &file));
	EXPECT_RESULT(do_read(file, buf, sizeof(buf), 0, sizeof(buf)), 7);
	cv_release(&mnt, file);
	EXPECT_OK(do_create(dir, "a", O_RDWR | O_TRUNC, 0600, &a, &file));
	EXPECT(a.attr.size == 0);
	EXPECT_RESULT(do_read(file, buf, sizeof(buf), 0, sizeof(buf)), 0);
	cv_release(&mnt, file);
	EXPECT_OK(do_create(dir, "empty mode", O_WRONLY | O_EXCL, 0, &a, &file));
	EXPECT_RESULT(do_write(file, "x", 1, 0, 1), 1);
	cv_release(&mnt, file);
	EXPECT((a.attr.mode & 07777) == 0);
}

static void check_open(const struct obj *dir)
{
	struct cv_file *file;
	struct obj a, sub;
	char buf[4];

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, &file));
	EXPECT_RESULT(do_write(file, "abc", 3, 0, 3), 3);
	cv_release(&mnt, file);
	EXPECT_OK(do_open(&a, O_RDONLY, &file));
	EXPECT_RESULT(do_read(file, buf, 4, 0, 4), 3);
	EXPECT(do_write(file, "x", 1, 0, 1) < 0);
	cv_release(&mnt, file);
	EXPECT_OK(do_open(&a, O_WRONLY, &file));
	EXPECT_RESULT(do_write(file, "X", 1, 1, 1), 1);
	cv_release(&mnt, file);
	EXPECT_OK(do_open(&a, O_RDWR | O_TRUNC, &file));
	EXPECT_RESULT(do_read(file, buf, 4, 0, 4), 0);
	cv_release(&mnt, file);
	EXPECT_OK(do_mkdir(dir, "sub", 0700, &sub));
	EXPECT(do_open(&sub, O_RDWR, &file) < 0);
	EXPECT_OK(do_unlink(dir, "a"));
	EXPECT_EITHER(do_open(&a, O_RDONLY, &file), -ENOENT, -ESTALE);
}

static void check_names(const struct obj *dir)
{
	static const char *const names[] = {
		"with space", " ",	   "-rf",
		"a\\b",	      "a:b",	   "\"q'`$(x)",
		"new\nline",  "tab\t",	   "\xff\xfe not utf-8 \xe9",
		"\xc3\xa9",   "...",	   ".hidden",
		"~",	      "*?[",	   "%41",
		"\x01",	      "CON",	   "a.",
		"#",	      "é\xcc\x81",
	};
	char name[CV_NAME_MAX + 2];
	CALL c = { 0 };
	size_t found = 0;

	memset(name, 'n', sizeof(name));
	name[CV_NAME_MAX] = '\0';
	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++) {
		EXPECT_OK(do_create(dir, names[i], O_RDWR | O_EXCL, 0600, NULL, NULL));
		EXPECT_OK(do_lookup(dir, names[i], NULL));
	}
	EXPECT_OK(do_create(dir, name, O_RDWR | O_EXCL, 0600, NULL, NULL));
	EXPECT_OK(do_lookup(dir, name, NULL));
	EXPECT_RESULT(do_list_obj(dir, &c), (ssize_t)CV_ARRAY_SIZE(names) + 1);
	for (size_t e = 0; e < c.count; e++) {
		for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++)
			found += strcmp(names[i], c.entries[e].name) == 0;
		found += strcmp(name, c.entries[e].name) == 0;
	}
	EXPECT(found == CV_ARRAY_SIZE(names) + 1);
	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++)
		EXPECT_OK(do_unlink(dir, names[i]));
	EXPECT_OK(do_unlink(dir, name));
	name[CV_NAME_MAX] = 'n';
	name[CV_NAME_MAX + 1] = '\0';
	EXPECT_RESULT(do_create(dir, name, O_RDWR, 0600, NULL, NULL), -ENAMETOOLONG);
	EXPECT_RESULT(do_mkdir(dir, name, 0700, NULL), -ENAMETOOLONG);
	EXPECT_RESULT(do_lookup(dir, name, NULL), -ENAMETOOLONG);
	EXPECT_RESULT(do_rename(dir, "x", dir, name, 0), -ENAMETOOLONG);
	EXPECT_RESULT(do_lookup(dir, "", NULL), -EINVAL);
	EXPECT_RESULT(do_lookup(dir, "..", NULL), -EINVAL);
	EXPECT_RESULT(do_lookup(dir, "a/b", NULL), -EINVAL);
}

static void check_mkdir_rmdir(const struct obj *dir)
{
	struct obj a, b;

	EXPECT_OK(do_mkdir(dir, "a", 0751, &a));
	EXPECT(S_ISDIR(a.attr.mode) && (a.attr.mode & 0777) == 0751);
	EXPECT_RESULT(do_mkdir(dir, "a", 0700, NULL), -EEXIST);
	EXPECT_OK(do_mkdir(&a, "b", 0700, &b));
	EXPECT_OK(do_create(&b, "f", O_RDWR | O_EXCL, 0600, NULL, NULL));
	EXPECT_EITHER(do_rmdir(&a, "b"), -ENOTEMPTY, -EEXIST);
	EXPECT_EITHER(do_unlink(dir, "a"), -EISDIR, -EPERM);
	EXPECT_RESULT(do_rmdir(&b, "f"), -ENOTDIR);
	EXPECT_OK(do_unlink(&b, "f"));
	EXPECT_RESULT(do_unlink(&b, "f"), -ENOENT);
	EXPECT_OK(do_rmdir(&a, "b"));
	EXPECT_OK(do_rmdir(dir, "a"));
	EXPECT_RESULT(do_rmdir(dir, "a"), -ENOENT);
	EXPECT_EITHER(do_create(&a, "x", O_RDWR, 0600, NULL, NULL), -ENOENT, -ESTALE);
}

static void check_deep(const struct obj *dir)
{
	struct obj at = *dir, next;
	char name[64];

	point(&at, true);
	memset(name, 'd', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	for (int i = 0; i < 50; i++) {
		EXPECT_OK(do_mkdir(&at, name, 0700, &next));
		at = next;
		point(&at, true);
	}
	EXPECT_OK(do_create(&at, "leaf", O_RDWR | O_EXCL, 0600, NULL, NULL));
	EXPECT_OK(do_lookup(&at, "leaf", NULL));
}

static void check_content(const struct obj *dir)
{
	static const size_t pieces[] = { CV_MAX_IO, 65536, 10007 };
	const size_t size = 3 * CV_MAX_IO + 12345;
	cv_cleanup_free uint8_t *want = malloc(size);
	cv_cleanup_free uint8_t *got = malloc(size + 10);
	struct cv_file *file;
	struct cv_attr attr;
	struct obj a;

	for (unsigned i = 0; i < CV_ARRAY_SIZE(pieces); i++) {
		size_t w = pieces[i] < mnt.info.write_max ? pieces[i] : mnt.info.write_max;
		size_t rd = pieces[i] < mnt.info.read_max ? pieces[i] : mnt.info.read_max;

		pattern(want, size, 0, i);
		EXPECT_OK(do_create(dir, "a", O_RDWR | O_TRUNC, 0600, &a, &file));
		EXPECT_RESULT(do_write(file, want, size, 0, w), (ssize_t)size);
		EXPECT_OK(do_fsync(file));
		memset(got, 0, size);
		EXPECT_RESULT(do_read(file, got, size + 10, 0, rd), (ssize_t)size);
		EXPECT(memcmp(want, got, size) == 0);
		EXPECT_OK(do_getattr(&a, file, &attr));
		EXPECT(attr.size == size);
		cv_release(&mnt, file);
		EXPECT_OK(do_open(&a, O_RDONLY, &file));
		memset(got, 0, size);
		EXPECT_RESULT(do_read(file, got, size + 10, 0, rd), (ssize_t)size);
		EXPECT(memcmp(want, got, size) == 0);
		EXPECT_RESULT(do_read(file, got, 10, size - 3, 10), 3);
		EXPECT_RESULT(do_read(file, got, 10, size, 10), 0);
		EXPECT_RESULT(do_read(file, got, 10, size + 100000, 10), 0);
		cv_release(&mnt, file);
	}
}

static void check_sparse(const struct obj *dir)
{
	const uint64_t far = (5ull << 30) + 123;
	uint8_t buf[4096];
	struct cv_file *file;
	struct cv_attr attr;
	struct obj a;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, &file));
	EXPECT_RESULT(do_write(file, "start", 5, 0, 5), 5);
	EXPECT_RESULT(do_write(file, "end", 3, far, 3), 3);
	EXPECT_OK(do_fsync(file));
	EXPECT_OK(do_getattr(&a, NULL, &attr));
	EXPECT(attr.size == far + 3);
	EXPECT_RESULT(do_read(file, buf, 8, far - 2, 8), 5);
	EXPECT(memcmp(buf, "\0\0end", 5) == 0);
	EXPECT_RESULT(do_read(file, buf, sizeof(buf), 1ull << 32, sizeof(buf)),
		      (ssize_t)sizeof(buf));
	for (size_t i = 0; i < sizeof(buf); i++)
		EXPECT(buf[i] == 0);
	cv_release(&mnt, file);
}

#define PARALLEL 64

/* Many at once, each its own place in one file. */
static void parallel_io(struct cv_file *file, size_t piece, uint8_t *data, bool writing)
{
	struct call *calls = calloc(PARALLEL, sizeof(*calls));

	for (unsigned i = 0; i < PARALLEL; i++) {
		call_start(&calls[i]);
		if (writing)
			cv_write(&mnt, &calls[i].op, file, data + i * piece, piece, i * piece);
		else
			cv_read(&mnt, &calls[i].op, file, piece, i * piece);
	}
	for (unsigned i = 0; i < PARALLEL; i++) {
		ssize_t r = call_wait(&calls[i]);

		if (r != (ssize_t)piece)
			fail_at(__FILE__, __LINE__, "piece %u: %zd", i, r);
		else if (!writing)
			memcpy(data + i * piece, calls[i].data, piece);
		call_release(&calls[i]);
	}
	free(calls);
}

static void check_parallel_io(const struct obj *dir)
{
	const size_t piece = 40000, size = PARALLEL * piece;
	cv_cleanup_free uint8_t *want = malloc(size);
	cv_cleanup_free uint8_t *got = calloc(1, size);
	struct cv_file *file;

	pattern(want, size, 0, 7);
	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, NULL, &file));
	parallel_io(file, piece, want, true);
	parallel_io(file, piece, got, false);
	cv_release(&mnt, file);
	EXPECT(memcmp(want, got, size) == 0);
	EXPECT(mnt.in_flight == 0);
}

static void check_parallel_names(const struct obj *dir)
{
	cv_cleanup_free struct call *calls = calloc(PARALLEL * 2, sizeof(*calls));
	char name[32];
	CALL list = { 0 };

	for (unsigned i = 0; i < PARALLEL; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		call_start(&calls[i]);
		cv_create(&mnt, &calls[i].op, &dir->object, name, O_RDWR | O_EXCL, 0600);
		(void)snprintf(name, sizeof(name), "d%u", i);
		call_start(&calls[PARALLEL + i]);
		cv_mkdir(&mnt, &calls[PARALLEL + i].op, &dir->object, name, 0700);
	}
	for (unsigned i = 0; i < 2 * PARALLEL; i++) {
		EXPECT_OK(call_wait(&calls[i]));
		if (i < PARALLEL)
			cv_release(&mnt, calls[i].op.file);
	}
	for (unsigned i = 0; i < PARALLEL; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		call_start(&calls[i]);
		cv_lookup(&mnt, &calls[i].op, &dir->object, name);
		call_start(&calls[PARALLEL + i]);
		cv_lookup(&mnt, &calls[PARALLEL + i].op, &dir->object, "absent");
	}
	for (unsigned i = 0; i < PARALLEL; i++) {
		EXPECT_OK(call_wait(&calls[i]));
		EXPECT_RESULT(call_wait(&calls[PARALLEL + i]), -ENOENT);
	}
	EXPECT_RESULT(do_list_obj(dir, &list), 2 * PARALLEL);
}

/* Of several O_EXCL creations of one name in flight, one wins. */
static void check_exclusive(const struct obj *dir)
{
	struct call calls[16];
	unsigned won = 0;

	memset(calls, 0, sizeof(calls));
	for (unsigned i = 0; i < 16; i++) {
		call_start(&calls[i]);
		cv_create(&mnt, &calls[i].op, &dir->object, "one", O_RDWR | O_EXCL, 0600);
	}
	for (unsigned i = 0; i < 16; i++) {
		ssize_t r = call_wait(&calls[i]);

		if (r == 0) {
			won++;
			cv_release(&mnt, calls[i].op.file);
		} else if (r != -EEXIST) {
			fail_at(__FILE__, __LINE__, "a loser got %zd", r);
		}
	}
	EXPECT(won == 1);
}

static void check_truncate(const struct obj *dir)
{
	struct cv_setattr set = { .mask = CV_SET_SIZE };
	struct cv_file *file;
	struct cv_attr attr;
	uint8_t buf[100];
	struct obj a;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, &file));
	EXPECT_RESULT(do_write(file, "0123456789", 10, 0, 10), 10);
	set.size = 4;
	EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
	EXPECT(attr.size == 4);
	set.size = 20;
	EXPECT_OK(do_setattr(&a, file, &set, &attr));
	EXPECT(attr.size == 20);
	EXPECT_RESULT(do_read(file, buf, 100, 0, 100), 20);
	EXPECT(memcmp(buf, "0123\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20) == 0);
	set.size = 5ull << 30;
	EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
	EXPECT(attr.size == 5ull << 30);
	set.size = 0;
	EXPECT_OK(do_setattr(&a, file, &set, &attr));
	EXPECT(attr.size == 0);
	cv_release(&mnt, file);
}

static void check_mode(const struct obj *dir)
{
	static const uint32_t modes[] = { 0, 0777, 0444, 01755, 04711, 02755, 0640 };
	struct cv_setattr set = { .mask = CV_SET_MODE };
	struct cv_attr attr;
	struct obj a;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	for (size_t i = 0; i < CV_ARRAY_SIZE(modes); i++) {
		set.mode = modes[i];
		EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
		EXPECT((attr.mode & 07777) == modes[i] && S_ISREG(attr.mode));
		EXPECT_OK(do_getattr(&a, NULL, &attr));
		EXPECT((attr.mode & 07777) == modes[i]);
	}
}

static void check_owner(const struct obj *dir)
{
	struct cv_setattr set = { .mask = CV_SET_UID, .uid = 1234, .gid = 2345 };
	struct cv_attr attr;
	struct obj a, l;
	CALL c = { 0 };
	ssize_t r;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	r = do_setattr(&a, NULL, &set, &attr);
	if (r == -EPERM || r == -EACCES)
		SKIP("the server does not let us change owners");
	EXPECT_OK(r);
	EXPECT(attr.uid == 1234 && attr.gid == a.attr.gid);
	set.mask = CV_SET_GID;
	EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
	EXPECT(attr.uid == 1234 && attr.gid == 2345);
	if (RUN(&c, cv_symlink, &dir->object, "l", "a") == 0) {
		obj_set(&l, dir, "l", &c.op.entry);
		set.mask = CV_SET_UID | CV_SET_GID;
		set.uid = 77;
		set.gid = 88;
		r = do_setattr(&l, NULL, &set, &attr);
		if (unsupported(r))
			SKIP("owners of symbolic links cannot be changed");
		EXPECT_OK(r);
		EXPECT(attr.uid == 77 && attr.gid == 88 && S_ISLNK(attr.mode));
		EXPECT_OK(do_getattr(&a, NULL, &attr));
		EXPECT(attr.uid == 1234);
	}
}

static void check_times(const struct obj *dir)
{
	const long ns = mnt.info.time_gran_ns == 1 ? 123456789 : 0;
	struct cv_setattr set = {
		.mask = CV_SET_MTIME,
		.atime = { .tv_sec = 1000000000, .tv_nsec = ns },
		.mtime = { .tv_sec = 1500000000, .tv_nsec = ns },
	};
	struct cv_attr attr, before;
	struct timespec now;
	struct obj a;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
	EXPECT(attr.mtime.tv_sec == 1500000000 && attr.mtime.tv_nsec == ns);
	before = attr;
	set.mask = CV_SET_ATIME;
	EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
	EXPECT(attr.atime.tv_sec == 1000000000 && attr.atime.tv_nsec == ns);
	EXPECT(attr.mtime.tv_sec == before.mtime.tv_sec &&
	       attr.mtime.tv_nsec == before.mtime.tv_nsec);
	set.mask = CV_SET_MTIME_NOW | CV_SET_ATIME_NOW;
	EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
	(void)clock_gettime(CLOCK_REALTIME, &now);
	/* The server may have another idea of now, but hardly by an hour. */
	EXPECT(llabs((long long)(attr.mtime.tv_sec - now.tv_sec)) < 3600);
	EXPECT(llabs((long long)(attr.atime.tv_sec - now.tv_sec)) < 3600);
	set.mask = CV_SET_MTIME | CV_SET_ATIME;
	set.mtime.tv_sec = 2147483600;
	EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
	EXPECT(attr.mtime.tv_sec == 2147483600 && attr.atime.tv_sec == 1000000000);
}

static void check_mtime_moves(const struct obj *dir)
{
	struct cv_setattr set = { .mask = CV_SET_MTIME, .mtime = { .tv_sec = 1000 } };
	struct cv_file *file;
	struct cv_attr attr;
	struct obj a;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, &file));
	EXPECT_OK(do_setattr(&a, NULL, &set, &attr));
	EXPECT_RESULT(do_write(file, "x", 1, 0, 1), 1);
	EXPECT_OK(do_fsync(file));
	EXPECT_OK(do_getattr(&a, file, &attr));
	EXPECT(attr.mtime.tv_sec > 1000);
	cv_release(&mnt, file);
}

static void check_rename(const struct obj *dir)
{
	struct obj a, b, sub, sub2;
	struct cv_attr attr;

	EXPECT_OK(do_mkdir(dir, "sub", 0700, &sub));
	EXPECT_OK(do_mkdir(dir, "sub2", 0700, &sub2));
	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0601, &a, NULL));
	EXPECT_OK(do_create(dir, "b", O_RDWR | O_EXCL, 0602, &b, NULL));
	EXPECT_RESULT(do_rename(dir, "absent", dir, "x", 0), -ENOENT);
	EXPECT_OK(do_rename(dir, "a", &sub, "moved", 0));
	EXPECT_RESULT(do_lookup(dir, "a", NULL), -ENOENT);
	if (handles) { /* survives the move */
		EXPECT_OK(do_getattr(&a, NULL, &attr));
		EXPECT((attr.mode & 0777) == 0601);
	}
	EXPECT_OK(do_rename(&sub, "moved", dir, "b", 0)); /* over a file */
	EXPECT_OK(do_lookup(dir, "b", &b));
	EXPECT((b.attr.mode & 0777) == 0601);
	EXPECT_OK(do_rename(dir, "b", dir, "b", 0));
	EXPECT_OK(do_rename(dir, "sub", dir, "sub2", 0)); /* over an empty directory */
	EXPECT_OK(do_lookup(dir, "sub2", &sub2));
	EXPECT_OK(do_create(&sub2, "f", O_RDWR | O_EXCL, 0600, NULL, NULL));
	EXPECT_OK(do_mkdir(dir, "sub3", 0700, NULL));
	EXPECT_EITHER(do_rename(dir, "sub3", dir, "sub2", 0), -ENOTEMPTY, -EEXIST);
	EXPECT_EITHER(do_rename(dir, "b", dir, "sub2", 0), -EISDIR, -EEXIST);
	EXPECT_EITHER(do_rename(dir, "sub2", dir, "b", 0), -ENOTDIR, -EEXIST);
	EXPECT(do_rename(dir, "sub2", &sub2, "self", 0) < 0);
}

static void check_rename_noreplace(const struct obj *dir)
{
	struct obj a;
	ssize_t r;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0601, NULL, NULL));
	EXPECT_OK(do_create(dir, "b", O_RDWR | O_EXCL, 0602, NULL, NULL));
	r = do_rename(dir, "a", dir, "b", RENAME_NOREPLACE);
	if (r == -EINVAL)
		SKIP("not possible atomically");
	EXPECT_RESULT(r, -EEXIST);
	EXPECT_OK(do_rename(dir, "a", dir, "c", RENAME_NOREPLACE));
	EXPECT_OK(do_lookup(dir, "c", &a));
	EXPECT((a.attr.mode & 0777) == 0601);
}

static void check_rename_exchange(const struct obj *dir)
{
	struct obj a, b;
	ssize_t r;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0601, NULL, NULL));
	EXPECT_OK(do_mkdir(dir, "b", 0702, NULL));
	r = do_rename(dir, "a", dir, "b", RENAME_EXCHANGE);
	if (r == -EINVAL)
		SKIP("not possible atomically");
	EXPECT_OK(r);
	EXPECT_OK(do_lookup(dir, "a", &a));
	EXPECT_OK(do_lookup(dir, "b", &b));
	EXPECT(S_ISDIR(a.attr.mode) && S_ISREG(b.attr.mode));
	EXPECT_RESULT(do_rename(dir, "a", dir, "absent", RENAME_EXCHANGE), -ENOENT);
}

static void check_link(const struct obj *dir)
{
	struct obj a, b;
	struct cv_attr attr;
	CALL c = { 0 };
	ssize_t r;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	r = RUN(&c, cv_link, &a.object, &dir->object, "b");
	if (!(mnt.info.features & CV_FEAT_HARD_LINKS)) {
		EXPECT(r < 0);
		SKIP("the engine has no hard links");
	}
	EXPECT_OK(r);
	EXPECT_OK(do_lookup(dir, "b", &b));
	EXPECT_OK(do_getattr(&a, NULL, &attr));
	/* Who has no numbers for objects cannot know their counts either (SFTP). */
	EXPECT(attr.nlink == 2 || attr.nlink == 0 || attr.ino == 0);
	EXPECT(attr.ino == b.attr.ino);
	EXPECT_RESULT(RUN(&c, cv_link, &a.object, &dir->object, "b"), -EEXIST);
	EXPECT_OK(do_unlink(dir, "a"));
	EXPECT_OK(do_lookup(dir, "b", &b));
	EXPECT_OK(do_getattr(&b, NULL, &attr));
	EXPECT(attr.nlink == 1);
}

static void check_symlink(const struct obj *dir)
{
	static const char *const targets[] = { "x",	   "/absolute/../target",
					       "dangling", "\xff\xfe bytes",
					       " ",	   "a/b/c" };
	char longest[1001], name[16];
	struct obj l, a;
	CALL c = { 0 };
	ssize_t r;

	for (size_t i = 0; i < CV_ARRAY_SIZE(targets); i++) {
		(void)snprintf(name, sizeof(name), "l%zu", i);
		r = RUN(&c, cv_symlink, &dir->object, name, targets[i]);
		if (unsupported(r))
			SKIP("the engine has no symbolic links");
		EXPECT_OK(r);
		EXPECT(S_ISLNK(c.op.entry.attr.mode));
		obj_set(&l, dir, name, &c.op.entry);
		EXPECT_RESULT(RUN(&c, cv_readlink, &l.object), (ssize_t)strlen(targets[i]));
		EXPECT(memcmp(c.data, targets[i], strlen(targets[i])) == 0);
	}
	EXPECT_RESULT(RUN(&c, cv_symlink, &dir->object, "l0", "other"), -EEXIST);
	memset(longest, 't', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	EXPECT_OK(RUN(&c, cv_symlink, &dir->object, "long", longest));
	EXPECT_OK(do_lookup(dir, "long", &l));
	EXPECT(S_ISLNK(l.attr.mode) && l.attr.size == 1000);
	EXPECT_RESULT(RUN(&c, cv_readlink, &l.object), 1000);
	EXPECT(memcmp(c.data, longest, 1000) == 0);
	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	EXPECT_RESULT(RUN(&c, cv_readlink, &a.object), -EINVAL);
}

static void check_mknod(const struct obj *dir)
{
	struct obj a;
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_mknod, &dir->object, "reg", S_IFREG | 0640, 0);

	EXPECT_OK(r);
	EXPECT(S_ISREG(c.op.entry.attr.mode) && (c.op.entry.attr.mode & 0777) == 0640);
	EXPECT_RESULT(RUN(&c, cv_mknod, &dir->object, "reg", S_IFREG | 0640, 0), -EEXIST);
	r = RUN(&c, cv_mknod, &dir->object, "fifo", S_IFIFO | 0600, 0);
	if (unsupported(r) || r == -EPERM)
		SKIP("the engine makes regular files only");
	EXPECT_OK(r);
	EXPECT(S_ISFIFO(c.op.entry.attr.mode));
	EXPECT_OK(RUN(&c, cv_mknod, &dir->object, "sock", S_IFSOCK | 0600, 0));
	EXPECT_OK(do_lookup(dir, "sock", &a));
	EXPECT(S_ISSOCK(a.attr.mode));
}

static void check_readdir_empty(const struct obj *dir)
{
	struct cv_file *file;
	CALL c = { 0 };

	EXPECT_OK(do_opendir(dir, &file));
	EXPECT_RESULT(do_list(file, 0, &c), 0);
	EXPECT_OK(do_create(dir, "new", O_RDWR | O_EXCL, 0600, NULL, NULL));
	EXPECT_RESULT(do_list(file, 0, &c), 1); /* from the start: what is there now */
	EXPECT_OK(do_unlink(dir, "new"));
	EXPECT_RESULT(do_list(file, 0, &c), 0);
	cv_releasedir(&mnt, file);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry_copy *)a)->name, ((const struct entry_copy *)b)->name);
}

static void make_many(const struct obj *dir, unsigned count)
{
	struct call calls[32];
	char name[32];

	memset(calls, 0, sizeof(calls));
	for (unsigned at = 0; at < count; at += 32) {
		for (unsigned i = 0; i < 32; i++) {
			(void)snprintf(name, sizeof(name), "entry-%05u", at + i);
			call_start(&calls[i]);
			cv_mknod(&mnt, &calls[i].op, &dir->object, name, S_IFREG | 0600, 0);
		}
		for (unsigned i = 0; i < 32; i++)
			EXPECT_OK(call_wait(&calls[i]));
	}
}

static void check_readdir_large(const struct obj *dir)
{
	const unsigned count = 5024;
	struct cv_file *file;
	struct obj a;
	CALL all = { 0 };
	CALL rest = { 0 };
	char name[32];

	make_many(dir, count);
	EXPECT_OK(do_opendir(dir, &file));
	EXPECT_RESULT(do_list(file, 0, &all), (ssize_t)count);
	for (size_t at = 1; at < count; at += 1499) {
		EXPECT_RESULT(do_list(file, all.entries[at - 1].next_off, &rest),
			      (ssize_t)(count - at));
		for (size_t i = 0; i < rest.count; i++)
			EXPECT(strcmp(rest.entries[i].name, all.entries[at + i].name) == 0);
	}
	cv_releasedir(&mnt, file);
	qsort(all.entries, all.count, sizeof(*all.entries), by_name);
	for (unsigned i = 0; i < count; i++) {
		const struct entry_copy *e = &all.entries[i];

		(void)snprintf(name, sizeof(name), "entry-%05u", i);
		EXPECT(strcmp(e->name, name) == 0);
		EXPECT(!e->mode || S_ISREG(e->mode));
		if (i % 500 != 0)
			continue;
		EXPECT_OK(do_lookup(dir, name, &a));
		EXPECT(!e->ino || e->ino == a.attr.ino);
		EXPECT(!e->have_entry || attr_same(&e->entry.attr, &a.attr));
		EXPECT(!e->have_entry || !handles ||
		       (e->entry.handle.size == a.handle.size &&
			memcmp(e->entry.handle.data, a.handle.data, a.handle.size) == 0));
	}
}

static void check_readdir_types(const struct obj *dir)
{
	struct obj a;
	CALL c = { 0 };

	EXPECT_OK(do_mkdir(dir, "dir", 0700, NULL));
	EXPECT_OK(do_create(dir, "file", O_RDWR | O_EXCL, 0600, NULL, NULL));
	(void)RUN(&c, cv_symlink, &dir->object, "link", "x");
	(void)RUN(&c, cv_mknod, &dir->object, "fifo", S_IFIFO | 0600, 0);
	EXPECT(do_list_obj(dir, &c) >= 2);
	for (size_t i = 0; i < c.count; i++) {
		EXPECT_OK(do_lookup(dir, c.entries[i].name, &a));
		EXPECT(!c.entries[i].mode ||
		       (c.entries[i].mode & S_IFMT) == (a.attr.mode & S_IFMT));
		EXPECT(!c.entries[i].ino || !a.attr.ino || c.entries[i].ino == a.attr.ino);
	}
}

static void check_unlink_open(const struct obj *dir)
{
	struct cv_setattr set = { .mask = CV_SET_SIZE, .size = 2 };
	struct cv_file *file;
	struct cv_attr attr;
	struct obj a;
	char buf[8];

	if (!(mnt.info.features & CV_FEAT_UNLINK_OPEN))
		SKIP("the worker keeps open files alive for this engine");
	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, &file));
	EXPECT_RESULT(do_write(file, "before", 6, 0, 6), 6);
	EXPECT_OK(do_unlink(dir, "a"));
	EXPECT_RESULT(do_read(file, buf, 8, 0, 8), 6);
	EXPECT_RESULT(do_write(file, "AFTER!", 6, 0, 6), 6);
	EXPECT_RESULT(do_read(file, buf, 8, 0, 8), 6);
	EXPECT(memcmp(buf, "AFTER!", 6) == 0);
	EXPECT_OK(do_getattr(&a, file, &attr));
	EXPECT(attr.nlink == 0 && attr.size == 6);
	EXPECT_OK(do_setattr(&a, file, &set, &attr));
	EXPECT(attr.size == 2);
	EXPECT_OK(do_fsync(file));
	cv_release(&mnt, file);
	EXPECT_RESULT(do_lookup(dir, "a", NULL), -ENOENT);
}

static void check_rename_over_open(const struct obj *dir)
{
	struct cv_file *file;
	struct obj a;
	char buf[8];

	if (!(mnt.info.features & CV_FEAT_UNLINK_OPEN))
		SKIP("the worker keeps open files alive for this engine");
	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, &file));
	EXPECT_RESULT(do_write(file, "old", 3, 0, 3), 3);
	EXPECT_OK(do_create(dir, "b", O_RDWR | O_EXCL, 0600, NULL, NULL));
	EXPECT_OK(do_rename(dir, "b", dir, "a", 0));
	EXPECT_RESULT(do_read(file, buf, 8, 0, 8), 3);
	EXPECT(memcmp(buf, "old", 3) == 0);
	cv_release(&mnt, file);
}

static void check_xattr(const struct obj *dir)
{
	struct obj a;
	CALL c = { 0 };
	ssize_t r;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	r = RUN(&c, cv_setxattr, &a.object, "user.cvol", "value", 5, 0);
	if (r == -EOPNOTSUPP)
		SKIP("the engine has no extended attributes");
	EXPECT_OK(r);
	EXPECT_RESULT(RUN(&c, cv_getxattr, &a.object, "user.cvol", 0), 5);
	EXPECT_RESULT(RUN(&c, cv_getxattr, &a.object, "user.cvol", 100), 5);
	EXPECT(memcmp(c.data, "value", 5) == 0);
	EXPECT_RESULT(RUN(&c, cv_getxattr, &a.object, "user.cvol", 4), -ERANGE);
	EXPECT_RESULT(RUN(&c, cv_getxattr, &a.object, "user.absent", 100), -ENODATA);
	EXPECT_RESULT(RUN(&c, cv_setxattr, &a.object, "user.cvol", "x", 1, XATTR_CREATE), -EEXIST);
	EXPECT_RESULT(RUN(&c, cv_setxattr, &a.object, "user.other", "x", 1, XATTR_REPLACE),
		      -ENODATA);
	EXPECT_OK(RUN(&c, cv_setxattr, &a.object, "user.empty", "", 0, 0));
	EXPECT_RESULT(RUN(&c, cv_getxattr, &a.object, "user.empty", 100), 0);
	r = RUN(&c, cv_listxattr, &a.object, 4096);
	EXPECT(r >= 21);
	EXPECT(memmem(c.data, (size_t)r, "user.cvol", 10) &&
	       memmem(c.data, (size_t)r, "user.empty", 11));
	EXPECT_RESULT(RUN(&c, cv_listxattr, &a.object, 0), r);
	EXPECT_RESULT(RUN(&c, cv_listxattr, &a.object, 5), -ERANGE);
	EXPECT_OK(RUN(&c, cv_removexattr, &a.object, "user.cvol"));
	EXPECT_RESULT(RUN(&c, cv_removexattr, &a.object, "user.cvol"), -ENODATA);
}

static void check_fallocate(const struct obj *dir)
{
	struct cv_file *file;
	struct cv_attr attr;
	uint8_t data[8192], got[8192];
	struct obj a;
	CALL c = { 0 };
	ssize_t r;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, &file));
	r = RUN(&c, cv_fallocate, file, 0, 0, 100000);
	if (unsupported(r)) {
		cv_release(&mnt, file);
		SKIP("the engine cannot allocate");
	}
	EXPECT_OK(r);
	EXPECT_OK(do_getattr(&a, file, &attr));
	EXPECT(attr.size == 100000);
	EXPECT_OK(RUN(&c, cv_fallocate, file, FALLOC_FL_KEEP_SIZE, 0, 200000));
	EXPECT_OK(do_getattr(&a, file, &attr));
	EXPECT(attr.size == 100000);
	pattern(data, sizeof(data), 0, 1);
	EXPECT_RESULT(do_write(file, data, sizeof(data), 0, sizeof(data)), 8192);
	r = RUN(&c, cv_fallocate, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, 5000);
	if (!unsupported(r)) {
		EXPECT_OK(r);
		memset(data + 1000, 0, 5000);
		EXPECT_RESULT(do_read(file, got, sizeof(got), 0, sizeof(got)), 8192);
		EXPECT(memcmp(data, got, sizeof(data)) == 0);
	}
	cv_release(&mnt, file);
}

static void check_lseek(const struct obj *dir)
{
	struct cv_file *file;
	CALL c = { 0 };
	ssize_t r;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, NULL, &file));
	EXPECT_RESULT(do_write(file, "x", 1, 10 << 20, 1), 1);
	r = RUN(&c, cv_lseek, file, 0, SEEK_DATA);
	if (unsupported(r)) {
		cv_release(&mnt, file);
		SKIP("the engine does not know about holes");
	}
	EXPECT_OK(r);
	EXPECT(c.op.offset <= 10 << 20);
	EXPECT_OK(RUN(&c, cv_lseek, file, 10 << 20, SEEK_HOLE));
	EXPECT(c.op.offset == (10 << 20) + 1);
	EXPECT_RESULT(RUN(&c, cv_lseek, file, (10 << 20) + 1, SEEK_DATA), -ENXIO);
	cv_release(&mnt, file);
}

static void check_statfs(const struct obj *dir)
{
	CALL c = { 0 };
	ssize_t r = RUN(&c, cv_statfs, &dir->object);

	if (unsupported(r))
		SKIP("the server does not say");
	EXPECT_OK(r);
	EXPECT(c.op.statvfs.f_bsize > 0 && c.op.statvfs.f_frsize > 0);
	EXPECT(c.op.statvfs.f_blocks > 0);
	EXPECT(c.op.statvfs.f_bfree <= c.op.statvfs.f_blocks);
	EXPECT(c.op.statvfs.f_namemax >= 255 || c.op.statvfs.f_namemax == 0);
}

static void check_copy(const struct obj *dir)
{
	static uint8_t data[1 << 20], got[(1 << 20) + 1];
	struct cv_file *src, *dst;
	struct cv_attr attr;
	struct obj a;
	CALL c = { 0 };
	size_t done = 0;
	ssize_t r;

	if (!(mnt.info.features & CV_FEAT_COPY))
		SKIP("the engine cannot copy");
	EXPECT_OK(do_create(dir, "src", O_RDWR | O_EXCL, 0600, NULL, &src));
	EXPECT_OK(do_create(dir, "dst", O_RDWR | O_EXCL, 0600, &a, &dst));
	pattern(data, sizeof(data), 0, 7);
	EXPECT_RESULT(do_write(src, data, sizeof(data), 0, sizeof(data)), sizeof(data));
	/* With a hole before it, at odd places, in as many steps as it likes. */
	while (done < sizeof(data) - 100) {
		ssize_t n = RUN(&c, cv_copy, src, 100 + done, dst, 4097 + done,
				sizeof(data) - 100 - done);

		EXPECT(n > 0);
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	EXPECT_OK(do_getattr(&a, dst, &attr));
	EXPECT(attr.size == 4097 + sizeof(data) - 100);
	EXPECT_RESULT(do_read(dst, got, sizeof(data) - 100, 4097, sizeof(data)),
		      sizeof(data) - 100);
	EXPECT(memcmp(data + 100, got, sizeof(data) - 100) == 0);
	/* Past the end: what there is, or a refusal; never a count that is not true. */
	r = RUN(&c, cv_copy, src, sizeof(data) - 10, dst, 0, 100);
	EXPECT(r == 10 || r == -EOPNOTSUPP);
	r = RUN(&c, cv_copy, src, sizeof(data), dst, 0, 100);
	EXPECT(r == 0 || r == -EOPNOTSUPP);
	EXPECT_OK(do_getattr(&a, dst, &attr));
	EXPECT(attr.size == 4097 + sizeof(data) - 100);
	cv_release(&mnt, src);
	cv_release(&mnt, dst);
}

static void check_fsync(const struct obj *dir)
{
	struct cv_file *file;
	uint64_t verifier = 0;
	CALL c = { 0 };
	ssize_t r;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, NULL, &file));
	EXPECT_RESULT(RUN(&c, cv_write, file, "x", 1, 0), 1);
	if (mnt.info.features & CV_FEAT_UNSTABLE_WRITES)
		verifier = c.op.verifier;
	else
		EXPECT(c.op.stable);
	if (!c.op.stable) {
		EXPECT_OK(RUN(&c, cv_fsync, file, true));
		EXPECT(c.op.verifier == verifier);
	}
	EXPECT_OK(RUN(&c, cv_fsync, file, false));
	EXPECT_OK(RUN(&c, cv_fsync, file, true));
	cv_release(&mnt, file);
	EXPECT_OK(do_opendir(dir, &file));
	r = RUN(&c, cv_fsyncdir, file, false);
	EXPECT(r == 0 || unsupported(r));
	cv_releasedir(&mnt, file);
}

static void check_caller(const struct obj *dir)
{
	const struct cv_cred self = cred;
	struct cv_setattr set = { .mask = CV_SET_MODE, .mode = 02777 };
	struct cv_setattr own = { .mask = CV_SET_GID, .gid = 4567 };
	struct obj open_dir, a, b, sub;
	struct cv_attr attr;
	CALL c = { 0 };

	if (!(mnt.info.features & CV_FEAT_CALLER_CREDS) && (mnt.info.rtt_us > 0 || geteuid() != 0))
		SKIP("the engine acts as one user");
	EXPECT_OK(do_mkdir(dir, "open", 0777, &open_dir));
	set.mode = 0777;
	EXPECT_OK(do_setattr(&open_dir, NULL, &set, &attr));
	cred.uid = 1001;
	cred.gid = 1002;
	EXPECT_OK(do_create(&open_dir, "a", O_RDWR | O_EXCL, 04750, &a, NULL));
	EXPECT_OK(do_mkdir(&open_dir, "sub", 0700, &sub));
	EXPECT_OK(RUN(&c, cv_symlink, &open_dir.object, "l", "x"));
	cred = self;
	EXPECT(a.attr.uid == 1001 && a.attr.gid == 1002 && (a.attr.mode & 07777) == 04750);
	EXPECT(sub.attr.uid == 1001 && sub.attr.gid == 1002);
	EXPECT(c.op.entry.attr.uid == 1001 && c.op.entry.attr.gid == 1002);
	/* The owner's group is the directory's where that is setgid. */
	if (do_setattr(&open_dir, NULL, &own, &attr) < 0)
		SKIP("the server does not let us change groups");
	set.mode = 02777;
	EXPECT_OK(do_setattr(&open_dir, NULL, &set, &attr));
	cred.uid = 1001;
	cred.gid = 1002;
	EXPECT_OK(do_create(&open_dir, "b", O_RDWR | O_EXCL, 0640, &b, NULL));
	EXPECT_OK(do_mkdir(&open_dir, "sub2", 0700, &sub));
	cred = self;
	EXPECT(b.attr.uid == 1001 && b.attr.gid == 4567);
	EXPECT(sub.attr.gid == 4567 && (sub.attr.mode & S_ISGID));
}

static void check_second_connection(const struct obj *dir)
{
	struct cv_mount other;
	struct cv_err err = { 0 };
	struct cv_attr attr;
	struct obj a;
	struct cv_mount first;
	ssize_t r;

	if (strcmp(mnt.backend->name, "mem") == 0)
		SKIP("content ends with the connection");
	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0604, &a, NULL));
	if (cv_mount_connect(&options, loop, &other, &err) < 0) {
		fail_at(__FILE__, __LINE__, "%s", err.text);
		return;
	}
	first = mnt;
	mnt = other;
	r = do_getattr(&a, NULL, &attr);
	other = mnt;
	mnt = first;
	cv_mount_disconnect(&other);
	EXPECT_OK(r);
	EXPECT((attr.mode & 0777) == 0604 && attr.ino == a.attr.ino);
}

/* ---- what another host does meanwhile; it has the connection `other` ---- */

static void change_places(struct cv_mount *other)
{
	struct cv_mount first = mnt;

	mnt = *other;
	*other = first;
}

static ssize_t put_elsewhere(struct cv_mount *other, const struct obj *o, const char *text)
{
	struct cv_file *file;
	ssize_t r;

	change_places(other);
	r = do_open(o, O_WRONLY | O_TRUNC, &file);
	if (r == 0) {
		r = do_write(file, text, strlen(text), 0, strlen(text));
		if (r >= 0)
			r = do_fsync(file);
		cv_release(&mnt, file);
	}
	change_places(other);
	return r;
}

/* How this host comes to know of the change. */
enum seen_by { SEEN_BY_OPEN, SEEN_BY_STAT, SEEN_BY_LOOKUP, SEEN_BY_LISTING, SEEN_BY_NUMBER };

/* False: without attributes, or not at all. */
static bool size_seen(const struct obj *dir, const struct obj *o, enum seen_by by, uint64_t *ret)
{
	struct cv_file *file;
	struct cv_attr attr;
	struct obj again;
	CALL c = { 0 };

	switch (by) {
	case SEEN_BY_OPEN:
		if (RUN(&c, cv_open, &o->object, O_RDONLY) < 0)
			return false;
		file = c.op.file;
		*ret = c.op.attr.size;
		cv_release(&mnt, file);
		return c.op.have_attr;
	case SEEN_BY_STAT:
		if (do_getattr(o, NULL, &attr) < 0)
			return false;
		*ret = attr.size;
		return true;
	case SEEN_BY_LOOKUP:
		if (do_lookup(dir, o->name, &again) < 0)
			return false;
		*ret = again.attr.size;
		return true;
	case SEEN_BY_LISTING:
		(void)do_list_obj(dir, &c);
		for (size_t i = 0; i < c.count; i++) {
			*ret = c.entries[i].entry.attr.size;
			if (strcmp(c.entries[i].name, o->name) == 0)
				return c.entries[i].have_entry;
		}
		return false;
	case SEEN_BY_NUMBER:
		break;
	}
	return false;
}

/* The pages of a file are shared: who reads late is not given what is older than the attributes
 * that somebody else has been told. */
static void data_is_as_told(const struct obj *dir, struct cv_mount *other)
{
	struct cv_file *file;
	char buf[16];
	uint64_t size;
	struct obj a;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	for (enum seen_by by = 0; by < SEEN_BY_NUMBER; by++) {
		EXPECT_RESULT(put_elsewhere(other, &a, "old"), 0);
		EXPECT_OK(do_open(&a, O_RDONLY, &file));
		EXPECT_RESULT(put_elsewhere(other, &a, "newer"), 0);
		if (size_seen(dir, &a, by, &size) && size == 5) {
			EXPECT_RESULT(do_read(file, buf, sizeof(buf), 0, sizeof(buf)), 5);
			EXPECT(memcmp(buf, "newer", 5) == 0);
		}
		cv_release(&mnt, file);
	}
	/* The same size, and where times are whole seconds the same time. */
	EXPECT_RESULT(put_elsewhere(other, &a, "old"), 0);
	EXPECT_OK(do_open(&a, O_RDONLY, &file));
	EXPECT_RESULT(put_elsewhere(other, &a, "new"), 0);
	EXPECT(size_seen(dir, &a, SEEN_BY_OPEN, &size) && size == 3);
	EXPECT_RESULT(do_read(file, buf, sizeof(buf), 0, sizeof(buf)), 3);
	EXPECT(memcmp(buf, "new", 3) == 0);
	cv_release(&mnt, file);
}

/* Entries older than the call say so. */
static void age_is_told(const struct obj *dir, struct cv_mount *other)
{
	struct cv_file *file;
	struct cv_attr attr;
	uint64_t since_ns;
	struct obj a;
	CALL c = { 0 };

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	EXPECT_OK(do_opendir(dir, &file));
	EXPECT_OK(do_getattr(dir, NULL, &attr)); /* what was asked along has come, too */
	since_ns = cv_now_ns();
	EXPECT_RESULT(put_elsewhere(other, &a, "text"), 0);
	EXPECT_RESULT(RUN(&c, cv_readdir, file, 0), 1);
	if (c.entries[0].have_entry && c.entries[0].entry.attr.size == 0)
		EXPECT(c.op.age_ns > c.op.begun_ns - since_ns);
	cv_releasedir(&mnt, file);
}

/* False: without attributes, or not there. */
static bool size_listed(struct cv_file *file, const char *name, uint64_t *ret)
{
	CALL c = { 0 };

	if (RUN(&c, cv_readdir, file, 0) <= 0)
		return false;
	for (size_t i = 0; i < c.count; i++) {
		*ret = c.entries[i].entry.attr.size;
		if (strcmp(c.entries[i].name, name) == 0)
			return c.entries[i].have_entry;
	}
	return false;
}

/* A listing that was asked before, and a name that was read in one, take nothing back to what it
 * was before something newer was told. */
static void listing_is_as_told(const struct obj *dir, struct cv_mount *other)
{
	struct cv_file *file;
	struct cv_attr attr;
	struct obj a, sub, again;
	uint64_t size;
	char name[16];
	ssize_t made;

	EXPECT_OK(do_create(dir, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	for (enum seen_by by = 0; by < SEEN_BY_NUMBER; by++) {
		EXPECT_RESULT(put_elsewhere(other, &a, "old"), 0);
		EXPECT_OK(do_opendir(dir, &file));
		EXPECT_OK(do_getattr(dir, NULL, &attr)); /* what was asked along has come, too */
		EXPECT_RESULT(put_elsewhere(other, &a, "newer"), 0);
		if (size_seen(dir, &a, by, &size) && size == 5 && size_listed(file, "a", &size))
			EXPECT(size == 5);
		cv_releasedir(&mnt, file);
	}
	/* In a directory of which this host knows nothing. */
	change_places(other);
	made = do_mkdir(dir, "sub", 0700, &sub);
	change_places(other);
	EXPECT_OK(made);
	EXPECT_OK(do_create(&sub, "a", O_RDWR | O_EXCL, 0600, &a, NULL));
	EXPECT_RESULT(put_elsewhere(other, &a, "old"), 0);
	for (int i = 0; i < 8; i++) { /* a reason to list it */
		(void)snprintf(name, sizeof(name), "none%d", i);
		EXPECT_RESULT(do_lookup(&sub, name, NULL), -ENOENT);
	}
	EXPECT_RESULT(put_elsewhere(other, &a, "newer"), 0);
	EXPECT(size_seen(&sub, &a, SEEN_BY_OPEN, &size) && size == 5);
	EXPECT_OK(do_lookup(&sub, "a", &again));
	EXPECT(again.attr.size == 5);
	EXPECT_OK(do_opendir(&sub, &file));
	if (size_listed(file, "a", &size))
		EXPECT(size == 5);
	cv_releasedir(&mnt, file);
}

static void with_another_host(const struct obj *dir,
			      void (*fn)(const struct obj *dir, struct cv_mount *other))
{
	struct cv_err err = { 0 };
	struct cv_mount other;

	if (strcmp(mnt.backend->name, "mem") == 0)
		SKIP("nobody else can see it");
	if (cv_mount_connect(&options, loop, &other, &err) < 0) {
		fail_at(__FILE__, __LINE__, "%s", err.text);
		return;
	}
	fn(dir, &other);
	cv_mount_disconnect(&other);
}

static void check_age_told(const struct obj *dir)
{
	with_another_host(dir, age_is_told);
}

static void check_listing_as_told(const struct obj *dir)
{
	with_another_host(dir, listing_is_as_told);
}

static void check_data_as_told(const struct obj *dir)
{
	with_another_host(dir, data_is_as_told);
}

static void check_stats(const struct obj *dir)
{
	struct cv_stats stats;

	(void)dir;
	cv_mount_stats(&mnt, &stats);
	EXPECT(stats.connected);
	EXPECT(stats.in_flight == 0);
	EXPECT(mnt.in_flight == 0);
	EXPECT(stats.bytes_written > 0 && stats.bytes_read > 0);
}

static const struct {
	const char *name;
	void (*fn)(const struct obj *dir);
} checks[] = {
	{ "root", check_root },
	{ "lookup", check_lookup },
	{ "create", check_create },
	{ "open", check_open },
	{ "names", check_names },
	{ "mkdir_rmdir", check_mkdir_rmdir },
	{ "deep", check_deep },
	{ "content", check_content },
	{ "sparse", check_sparse },
	{ "parallel_io", check_parallel_io },
	{ "parallel_names", check_parallel_names },
	{ "exclusive", check_exclusive },
	{ "truncate", check_truncate },
	{ "mode", check_mode },
	{ "owner", check_owner },
	{ "times", check_times },
	{ "mtime_moves", check_mtime_moves },
	{ "rename", check_rename },
	{ "rename_noreplace", check_rename_noreplace },
	{ "rename_exchange", check_rename_exchange },
	{ "link", check_link },
	{ "symlink", check_symlink },
	{ "mknod", check_mknod },
	{ "readdir_empty", check_readdir_empty },
	{ "readdir_large", check_readdir_large },
	{ "readdir_types", check_readdir_types },
	{ "unlink_open", check_unlink_open },
	{ "rename_over_open", check_rename_over_open },
	{ "xattr", check_xattr },
	{ "fallocate", check_fallocate },
	{ "lseek", check_lseek },
	{ "statfs", check_statfs },
	{ "copy", check_copy },
	{ "fsync", check_fsync },
	{ "caller", check_caller },
	{ "data_as_told", check_data_as_told },
	{ "listing_as_told", check_listing_as_told },
	{ "age_told", check_age_told },
	{ "second_connection", check_second_connection },
	{ "stats", check_stats },
};

static void run_check(size_t i)
{
	struct obj dir;
	char name[64];

	current = checks[i].name;
	current_failed = false;
	skip_reason[0] = '\0';
	number++;
	(void)snprintf(name, sizeof(name), "%s", current);
	if (do_mkdir(&top, name, 0755, &dir) < 0)
		fail_at(__FILE__, __LINE__, "cannot make the check's directory");
	else
		checks[i].fn(&dir);
	if (current_failed) {
		failed++;
		printf("not ok %u - %s\n", number, current);
	} else if (skip_reason[0]) {
		skipped++;
		printf("ok %u - %s # SKIP %s\n", number, current, skip_reason);
	} else {
		passed++;
		printf("ok %u - %s\n", number, current);
	}
	(void)fflush(stdout);
	cred.ngroups = 0;
}

/* ---- rates ---- */

#define DEPTH_MAX 64

static unsigned bench_depth = 32;

static double seconds_since(uint64_t start_ns)
{
	return (double)(cv_now_ns() - start_ns) / 1e9;
}

/*
 * Copies nothing: what is measured is the engine. Every file of bench_stream() holds the same
 * piece, as long as the engine's longest write, again and again.
 */
struct bench_call {
	struct cv_op op;
	const uint8_t *expected; /* the piece, when what is read is compared */
	uint64_t off;
	ssize_t result;
	bool done;
};

static void bench_done(struct cv_op *op, ssize_t result)
{
	struct bench_call *c = cv_container_of(op, struct bench_call, op);
	size_t piece = mnt.info.write_max;

	for (size_t i = 0; c->expected && result > 0 && i < (size_t)result;) {
		size_t at = (c->off + i) % piece;
		size_t n = piece - at < (size_t)result - i ? piece - at : (size_t)result - i;

		if (memcmp((const uint8_t *)op->data + i, c->expected + at, n) != 0)
			result = -EILSEQ;
		i += n;
	}
	c->result = result;
	c->done = true;
}

/* Waits for c and checks that all of it was moved. */
static int bench_wait(struct bench_call *c, size_t len)
{
	while (!c->done) {
		if (cv_loop_turn(loop, 1000) < 0)
			return -EIO;
	}
	if (c->result < 0)
		return (int)c->result;
	return (size_t)c->result == len ? 0 : -EIO;
}

static size_t bench_length(uint64_t off, uint64_t total, size_t piece)
{
	return total - off < piece ? (size_t)(total - off) : piece;
}

/* All of the file from its start, bench_depth calls in flight. */
static int bench_stream(struct cv_file *file, const uint8_t *data, uint64_t total, bool writing,
			bool compare)
{
	static struct bench_call calls[DEPTH_MAX];
	size_t piece = writing ? mnt.info.write_max : mnt.info.read_max;
	uint64_t started = 0, ended = 0; /* pieces */
	uint64_t pieces = (total + piece - 1) / piece;

	while (ended < pieces) {
		struct bench_call *c = &calls[started % bench_depth];
		size_t len;

		if (started == pieces || started - ended == bench_depth) {
			int r = bench_wait(&calls[ended % bench_depth],
					   bench_length(ended * piece, total, piece));

			if (r < 0)
				return r;
			ended++;
			continue;
		}
		*c = (struct bench_call){ .off = started * piece,
					  .expected = compare ? data : NULL };
		len = bench_length(c->off, total, piece);
		cv_op_init(&c->op, bench_done, &cred);
		if (writing)
			cv_write(&mnt, &c->op, file, data, len, c->off);
		else
			cv_read(&mnt, &c->op, file, len, c->off);
		started++;
	}
	return writing ? (int)do_fsync(file) : 0;
}

static int bench_rate(struct cv_file *file, const uint8_t *data, uint64_t total, bool writing)
{
	uint64_t start = cv_now_ns();
	int r = bench_stream(file, data, total, writing, false);

	if (r == 0)
		printf("%s: %.0f MB/s (%u KiB, %u in flight%s)\n", writing ? "write" : "read",
		       (double)total / 1e6 / seconds_since(start),
		       (writing ? mnt.info.write_max : mnt.info.read_max) / 1024, bench_depth,
		       writing ? ", fsync included" : "");
	return r;
}

static int bench_getattr(const struct obj *o, unsigned depth)
{
	static struct bench_call calls[DEPTH_MAX];
	uint64_t start = cv_now_ns(), count = 0;

	while (cv_now_ns() - start < 1500000000ull) {
		for (unsigned i = 0; i < depth; i++) {
			calls[i] = (struct bench_call){ 0 };
			cv_op_init(&calls[i].op, bench_done, &cred);
			cv_getattr(&mnt, &calls[i].op, &o->object, NULL);
		}
		for (unsigned i = 0; i < depth; i++) {
			int r = bench_wait(&calls[i], 0);

			if (r < 0)
				return r;
		}
		count += depth;
	}
	printf("getattr: %.0f/s (%u in flight)\n", (double)count / seconds_since(start), depth);
	return 0;
}

/* what: "read", "write", "getattr", or NULL for all of them. */
static int bench(const char *what, uint64_t megabytes)
{
	static uint8_t data[CV_MAX_IO];
	struct cv_file *file;
	struct obj a;
	ssize_t r = do_create(&top, "bench", O_RDWR, 0600, &a, &file);
	uint64_t total = megabytes << 20;

	if (r < 0)
		return (int)r;
	pattern(data, sizeof(data), 0, 1);
	printf("%s, round trip %u us\n", mnt.info.server, mnt.info.rtt_us);
	if (!what || cv_str_eq(what, "write"))
		r = bench_rate(file, data, total, true);
	else if (cv_str_eq(what, "read"))
		r = bench_stream(file, data, total, true, false);
	if (r == 0 && (!what || cv_str_eq(what, "read")))
		r = bench_rate(file, data, total, false);
	/* Outside of the measured time: what was written and read was right. */
	if (r == 0 && (!what || !cv_str_eq(what, "getattr")))
		r = bench_stream(file, data, total, false, true);
	cv_release(&mnt, file);
	if (r == 0 && (!what || cv_str_eq(what, "getattr"))) {
		r = bench_getattr(&a, 1);
		if (r == 0)
			r = bench_getattr(&a, DEPTH_MAX);
	}
	if (r < 0)
		printf("failed: %s\n", r == -EILSEQ ? "data differ" : cv_strerror((int)r));
	return (int)r;
}

/* ---- main ---- */

static int usage(void)
{
	(void)fprintf(stderr,
		      "usage: engine_check [--bench [read|write|getattr]] [--mb N] [--depth N] "
		      "[--uid N] [--gid N] [--debug] [TYPE] [option=value…]\n");
	return 2;
}

static int connect_engine(char **args)
{
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT;
	struct cv_err err = { 0 };

	if (!strchr(*args, '='))
		(void)cv_dict_set(&in, "type", *args++);
	for (; *args; args++) {
		char *eq = strchr(*args, '=');

		if (!eq)
			return usage();
		*eq = '\0';
		(void)cv_dict_set(&in, *args, eq + 1);
	}
	if (cv_options_parse(&in, &options, &err) < 0 || cv_loop_new(&loop) < 0 ||
	    cv_mount_connect(&options, loop, &mnt, &err) < 0) {
		(void)fprintf(stderr, "engine_check: %s\n", err.text);
		return 2;
	}
	handles = mnt.info.features & CV_FEAT_HANDLES;
	obj_set(&root, NULL, "", &mnt.info.root);
	return 0;
}

static void print_features(void)
{
	static const char *const names[] = { "handles",	   "caller_creds",    "unlink_open",
					     "hard_links", "unstable_writes", "write_behind" };

	printf("# %s: %s; read_max %u, write_max %u, round trip %u us;", mnt.backend->name,
	       mnt.info.server, mnt.info.read_max, mnt.info.write_max, mnt.info.rtt_us);
	for (unsigned i = 0; i < CV_ARRAY_SIZE(names); i++) {
		if (mnt.info.features & (1u << i))
			printf(" %s", names[i]);
	}
	printf("\n");
}

int main(int argc, char **argv)
{
	bool benching = false;
	const char *what = NULL;
	uint64_t megabytes = 256;
	char name[64];
	int i = 1, r;

	umask(0);
	cv_log_init("engine_check", CV_LOG_WARNING);
	for (; i < argc && argv[i][0] == '-'; i++) {
		bool more = i + 1 < argc;

		if (strcmp(argv[i], "--bench") == 0) {
			benching = true;
			if (more && (strcmp(argv[i + 1], "read") == 0 ||
				     strcmp(argv[i + 1], "write") == 0 ||
				     strcmp(argv[i + 1], "getattr") == 0))
				what = argv[++i];
		} else if (strcmp(argv[i], "--debug") == 0)
			cv_log_set_level(CV_LOG_DEBUG);
		else if (strcmp(argv[i], "--mb") == 0 && more)
			megabytes = strtoull(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--depth") == 0 && more)
			bench_depth = (unsigned)strtoul(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--uid") == 0 && more)
			cred.uid = (uint32_t)strtoul(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--gid") == 0 && more)
			cred.gid = (uint32_t)strtoul(argv[++i], NULL, 10);
		else
			return usage();
	}
	if (i == argc || bench_depth == 0 || bench_depth > DEPTH_MAX)
		return usage();
	r = connect_engine(argv + i);
	if (r != 0)
		return r;
	(void)snprintf(name, sizeof(name), "engine-check-%d", (int)getpid());
	r = (int)do_mkdir(&root, name, 0755, &top);
	if (r < 0) {
		(void)fprintf(stderr, "engine_check: cannot make %s: %s\n", name, cv_strerror(r));
		return 2;
	}
	if (benching) {
		failed = bench(what, megabytes) < 0;
	} else {
		print_features();
		printf("1..%zu\n", CV_ARRAY_SIZE(checks));
		for (size_t k = 0; k < CV_ARRAY_SIZE(checks); k++)
			run_check(k);
	}
	remove_tree(&top);
	r = (int)do_rmdir(&root, name);
	if (r < 0) {
		printf("# cannot remove %s: %s\n", name, cv_strerror(r));
		failed++;
	}
	cv_mount_disconnect(&mnt);
	cv_loop_free(loop);
	cv_dict_release(&options);
	if (!benching)
		printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
	return failed ? 1 : 0;
}
