/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls to an engine that wait for their completion, for unit tests. What an operation returned by
 * pointer is copied.
 */
#ifndef CV_TESTS_ENGINE_CALLS_H
#define CV_TESTS_ENGINE_CALLS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backend.h"
#include "config/cleanup.h"
#include "config/loop.h"

struct call {
	struct cv_op op;
	bool done;
	ssize_t result;
	char data[8192];
	char names[64][CV_NAME_MAX + 1]; /* of the last readdir */
	uint64_t next_off;
};

struct object {
	struct cv_object object;
	struct cv_entry entry;
	struct cv_handle parent;
	char path[1024], name[CV_NAME_MAX + 1];
};

static struct cv_loop *test_loop;
static struct cv_mount test_mount;
static struct cv_cred test_cred;

static void call_done(struct cv_op *op, ssize_t result)
{
	struct call *c = cv_container_of(op, struct call, op);

	assert_false(c->done);
	if (result > 0 && op->data)
		memcpy(c->data, op->data,
		       (size_t)result < sizeof(c->data) ? (size_t)result : sizeof(c->data));
	for (ssize_t i = 0; op->dirents && i < result; i++) {
		if (i < 64)
			(void)snprintf(c->names[i], sizeof(c->names[i]), "%s", op->dirents[i].name);
		c->next_off = op->dirents[i].next_off;
	}
	c->result = result;
	c->done = true;
}

static void call_start(struct call *c)
{
	c->done = false;
	cv_op_init(&c->op, call_done, &test_cred);
}

static ssize_t call_wait(struct call *c)
{
	for (int turns = 0; !c->done; turns++) {
		assert_true(turns < 1000);
		assert_true(cv_loop_turn(test_loop, 100) >= 0);
	}
	return c->result;
}

#define RUN(c, fn, ...) (call_start(c), fn(&test_mount, &(c)->op, __VA_ARGS__), call_wait(c))

static inline void object_set(struct object *o, const struct object *dir, const char *name,
			      const struct cv_entry *entry)
{
	memset(&o->object, 0, sizeof(o->object));
	if (dir)
		(void)snprintf(o->path, sizeof(o->path), "%.700s%s%.255s", dir->path,
			       dir->path[0] ? "/" : "", name);
	else
		o->path[0] = '\0';
	o->entry = *entry;
	if (!(test_mount.info.features & CV_FEAT_HANDLES)) {
		o->object.path = o->path;
		return;
	}
	o->object.handle = &o->entry.handle;
	if (dir) {
		o->parent = dir->entry.handle;
		(void)snprintf(o->name, sizeof(o->name), "%s", name);
		o->object.parent = &o->parent;
		o->object.name = o->name;
	}
}

static inline ssize_t lookup(const struct object *dir, const char *name, struct object *ret)
{
	struct call c;
	ssize_t r = RUN(&c, cv_lookup, &dir->object, name);

	if (r == 0 && ret)
		object_set(ret, dir, name, &c.op.entry);
	return r;
}

static inline ssize_t create(const struct object *dir, const char *name, uint32_t mode,
			     struct object *ret, struct cv_file **ret_file)
{
	struct call c;
	ssize_t r;

	if (ret_file)
		*ret_file = NULL;
	r = RUN(&c, cv_create, &dir->object, name, 2 /* O_RDWR */, mode);

	if (r < 0)
		return r;
	if (ret)
		object_set(ret, dir, name, &c.op.entry);
	if (ret_file)
		*ret_file = c.op.file;
	else
		cv_release(&test_mount, c.op.file);
	return 0;
}

static inline ssize_t make_dir(const struct object *dir, const char *name, struct object *ret)
{
	struct call c;
	ssize_t r = RUN(&c, cv_mkdir, &dir->object, name, 0755);

	if (r == 0 && ret)
		object_set(ret, dir, name, &c.op.entry);
	return r;
}

static inline ssize_t getattr(const struct object *o, struct cv_file *file, struct cv_attr *ret)
{
	struct call c;
	ssize_t r = RUN(&c, cv_getattr, &o->object, file);

	*ret = c.op.attr; /* zeros on failure */
	return r;
}

static inline ssize_t unlink_name(const struct object *dir, const char *name)
{
	struct call c;

	return RUN(&c, cv_unlink, &dir->object, name);
}

static inline ssize_t write_at(struct cv_file *file, const void *data, size_t size, uint64_t off)
{
	struct call c;

	return RUN(&c, cv_write, file, data, size, off);
}

#endif
