/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuse/nodes.h"
#include "fuse/shm.h"

struct fixture {
	struct cv_shm shm;
	struct cv_nodes t;
};

static int shm_new(struct cv_shm *shm)
{
	struct cv_shm_header header = { .magic = CV_SHM_MAGIC, .version = CV_SHM_VERSION };
	struct cv_err err;
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)CV_SHM_SIZE), 0);
	assert_int_equal(pwrite(fd, &header, sizeof(header), 0), sizeof(header));
	return cv_shm_map(fd, shm, &err);
}

static int setup(void **state, bool by_handle)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cv_entry root = { .attr = { .ino = 77, .mode = S_IFDIR | 0755 } };

	assert_non_null(f);
	root.handle.size = 1;
	assert_int_equal(shm_new(&f->shm), 0);
	assert_int_equal(cv_nodes_init(&f->t, &f->shm, by_handle, &root), 0);
	*state = f;
	return 0;
}

static int setup_path(void **state)
{
	return setup(state, false);
}

static int setup_handle(void **state)
{
	return setup(state, true);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	cv_nodes_release(&f->t);
	cv_shm_release(&f->shm);
	free(f);
	return 0;
}

static struct cv_node *enter(struct fixture *f, uint32_t parent, const char *name, uint32_t mode,
			     uint8_t handle)
{
	struct cv_entry e = { .attr = { .mode = mode, .nlink = 1 } };
	struct cv_node *node;

	if (handle) {
		e.handle.size = 1;
		e.handle.data[0] = handle;
		e.attr.ino = handle;
	}
	node = cv_node_enter(&f->t, parent, name, &e);
	assert_non_null(node);
	cv_node_lookup(&f->t, node);
	return node;
}

static void paths_follow_renames(void **state)
{
	struct fixture *f = *state;
	struct cv_node *a = enter(f, CV_NODE_ROOT, "a", S_IFDIR, 0);
	struct cv_node *b = enter(f, a->id, "b", S_IFDIR, 0);
	struct cv_node *c = enter(f, b->id, "c", S_IFREG, 0);
	char *buf = malloc(CV_PATH_MAX);

	assert_non_null(buf);
	assert_string_equal(cv_node_path(&f->t, cv_node_get(&f->t, CV_NODE_ROOT), buf), "");
	assert_string_equal(cv_node_path(&f->t, c, buf), "a/b/c");
	cv_node_rename(&f->t, b, CV_NODE_ROOT, "x");
	assert_string_equal(cv_node_path(&f->t, c, buf), "x/c");
	assert_null(cv_node_find(&f->t, a->id, "b"));
	assert_ptr_equal(cv_node_find(&f->t, CV_NODE_ROOT, "x"), b);
	cv_node_unlink(&f->t, b);
	assert_null(cv_node_path(&f->t, c, buf));
	free(buf);
}

static void a_child_keeps_its_parent(void **state)
{
	struct fixture *f = *state;
	struct cv_node *a = enter(f, CV_NODE_ROOT, "a", S_IFDIR, 0);
	struct cv_node *c = enter(f, a->id, "c", S_IFREG, 0);
	uint32_t a_id = a->id;

	cv_node_forget(&f->t, a, 1);
	assert_ptr_equal(cv_node_get(&f->t, a_id), a);
	cv_node_forget(&f->t, c, 1);
	assert_null(cv_node_get(&f->t, a_id));
	assert_int_equal(f->t.count, 1);
}

static void numbers_stay_unique(void **state)
{
	struct fixture *f = *state;
	struct cv_node *old = enter(f, CV_NODE_ROOT, "log", S_IFREG, 0);
	uint64_t ino = old->record->ino;
	struct cv_node *fresh;

	assert_int_equal(cv_node_ino(&f->t, CV_NODE_ROOT, "log", 0), ino);
	cv_node_rename(&f->t, old, CV_NODE_ROOT, "log.1");
	fresh = enter(f, CV_NODE_ROOT, "log", S_IFREG, 0);
	assert_ptr_not_equal(fresh, old);
	assert_true(fresh->record->ino != ino);
	assert_int_equal(old->record->ino, ino);
}

static void handles_make_hard_links_one_node(void **state)
{
	struct fixture *f = *state;
	struct cv_node *a = enter(f, CV_NODE_ROOT, "a", S_IFREG, 7);
	struct cv_node *b = enter(f, CV_NODE_ROOT, "b", S_IFREG, 7);

	assert_ptr_equal(a, b);
	assert_int_equal(a->record->lookups, 2);
	/* the name leads to another object now */
	assert_ptr_not_equal(enter(f, CV_NODE_ROOT, "b", S_IFREG, 8), a);
	cv_node_forget(&f->t, a, 2);
}

static void type_change_is_another_object(void **state)
{
	struct fixture *f = *state;
	struct cv_node *a = enter(f, CV_NODE_ROOT, "a", S_IFREG, 0);
	struct cv_node *b = enter(f, CV_NODE_ROOT, "a", S_IFDIR, 0);

	assert_ptr_not_equal(a, b);
	assert_true(a->record->flags & CV_NODE_NAMELESS);
	assert_ptr_equal(cv_node_find(&f->t, CV_NODE_ROOT, "a"), b);
}

static void many_nodes_and_reuse(void **state)
{
	struct fixture *f = *state;
	enum { N = 20000 };
	char name[32];

	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < N; i++) {
			(void)snprintf(name, sizeof(name), "f%d", i);
			enter(f, CV_NODE_ROOT, name, S_IFREG, 0);
		}
		assert_int_equal(f->t.count, N + 1);
		for (int i = 0; i < N; i++) {
			struct cv_node *node;

			(void)snprintf(name, sizeof(name), "f%d", i);
			node = cv_node_find(&f->t, CV_NODE_ROOT, name);
			assert_non_null(node);
			assert_int_equal(node->record->generation, round + 1);
			cv_node_forget(&f->t, node, 1);
		}
		assert_int_equal(f->t.count, 1);
	}
	assert_true(f->t.top <= N + 2);
}

static void tables_are_found_again(void **state)
{
	struct fixture *f = *state;
	struct cv_node *a = enter(f, CV_NODE_ROOT, "a", S_IFDIR, 0);
	uint32_t id = enter(f, a->id, "b", S_IFREG, 0)->id;
	struct cv_entry root = { .attr = { .ino = 1, .mode = S_IFDIR } };
	struct cv_nodes again;
	char *buf = malloc(CV_PATH_MAX);

	assert_non_null(buf);
	assert_int_equal(cv_nodes_init(&again, &f->shm, false, &root), 0);
	assert_int_equal(again.count, 3);
	assert_string_equal(cv_node_path(&again, cv_node_get(&again, id), buf), "a/b");
	assert_int_equal(again.nodes[CV_NODE_ROOT]->record->ino, 77);
	cv_nodes_release(&again);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(paths_follow_renames, setup_path, teardown),
		cmocka_unit_test_setup_teardown(a_child_keeps_its_parent, setup_path, teardown),
		cmocka_unit_test_setup_teardown(numbers_stay_unique, setup_path, teardown),
		cmocka_unit_test_setup_teardown(handles_make_hard_links_one_node, setup_handle,
						teardown),
		cmocka_unit_test_setup_teardown(type_change_is_another_object, setup_path,
						teardown),
		cmocka_unit_test_setup_teardown(many_nodes_and_reuse, setup_path, teardown),
		cmocka_unit_test_setup_teardown(tables_are_found_again, setup_path, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
