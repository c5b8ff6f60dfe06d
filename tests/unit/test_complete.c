/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuse/complete.h"
#include "fuse/makers.h"

#define NOW   1000u
#define LATER 2000u

struct dir {
	struct cv_node node;
	struct cv_node_record record;
	struct cv_attr attr;
};

static struct cv_complete complete;

static void new_dir(struct dir *d, uint32_t id)
{
	memset(d, 0, sizeof(*d));
	d->node.id = id;
	d->node.record = &d->record;
	d->record.generation = 1;
	d->attr.change = 100;
	cv_complete_made(&complete, &d->node, &d->attr, LATER);
}

static bool lacks(const struct dir *d, const char *name, uint64_t now)
{
	return cv_complete_lacks(&complete, &d->node, name, now);
}

/* A change of ours that found the directory with the change attribute before. */
static void change(struct dir *d, uint64_t before, uint64_t until_ns)
{
	struct cv_dir_after after = { .have = true, .before = before };

	d->attr.change++;
	after.attr = d->attr;
	cv_complete_changed(&complete, &d->node, &after, until_ns);
}

static int teardown(void **state)
{
	(void)state;
	cv_complete_release(&complete);
	return 0;
}

static void only_our_names_are_there(void **state)
{
	struct dir d, other = { .node = { .id = 6, .record = &d.record } };

	(void)state;
	new_dir(&d, 5);
	assert_true(lacks(&d, "a", NOW));
	assert_false(lacks(&d, "a", LATER));
	assert_false(lacks(&other, "a", NOW));
	cv_complete_name(&complete, &d.node, "a");
	assert_false(lacks(&d, "a", NOW));
	assert_true(lacks(&d, "b", NOW));
	/* The server may take two spellings for one. */
	assert_false(lacks(&d, "\xc3\xa4", NOW));
	/* The index belongs to another directory now. */
	d.record.generation++;
	assert_false(lacks(&d, "b", NOW));
}

static void each_change_of_ours_confirms_it(void **state)
{
	struct dir d;

	(void)state;
	new_dir(&d, 5);
	assert_false(lacks(&d, "b", LATER));
	change(&d, 100, 2 * LATER);
	assert_true(lacks(&d, "b", LATER));
	assert_false(lacks(&d, "b", 2 * LATER));
	change(&d, 101, 3 * LATER);
	assert_true(lacks(&d, "b", 2 * LATER));
}

static void anybody_elses_change_ends_it(void **state)
{
	const struct cv_dir_after nothing = { .have = false, .before = 100 };
	struct dir d;

	(void)state;
	new_dir(&d, 5);
	change(&d, 101, LATER);
	assert_false(lacks(&d, "b", NOW));
	change(&d, d.attr.change, LATER);
	assert_false(lacks(&d, "b", NOW)); /* for good */
	/* A server that does not say what it found. */
	new_dir(&d, 6);
	change(&d, 0, LATER);
	assert_false(lacks(&d, "b", NOW));
	new_dir(&d, 7);
	cv_complete_changed(&complete, &d.node, &nothing, LATER);
	assert_false(lacks(&d, "b", NOW));
}

static void many_names(void **state)
{
	char name[32];
	struct dir d;

	(void)state;
	new_dir(&d, 5);
	for (unsigned i = 0; i < CV_COMPLETE_NAMES; i++) {
		(void)snprintf(name, sizeof(name), "file-%u", i);
		cv_complete_name(&complete, &d.node, name);
		cv_complete_name(&complete, &d.node, name); /* counts once */
	}
	for (unsigned i = 0; i < CV_COMPLETE_NAMES; i++) {
		(void)snprintf(name, sizeof(name), "file-%u", i);
		assert_false(lacks(&d, name, NOW));
	}
	assert_true(lacks(&d, "another", NOW));
	cv_complete_name(&complete, &d.node, "one too many");
	assert_false(lacks(&d, "another", NOW));
}

/* The one that was changed longest ago makes room. */
static void many_directories(void **state)
{
	struct dir d[CV_COMPLETE_DIRS + 1];

	(void)state;
	for (uint32_t i = 0; i < CV_COMPLETE_DIRS; i++) {
		new_dir(&d[i], 10 + i);
		change(&d[i], 100, LATER + i);
	}
	change(&d[0], 101, 2 * LATER);
	new_dir(&d[CV_COMPLETE_DIRS], 1000);
	assert_true(lacks(&d[0], "a", NOW));
	assert_false(lacks(&d[1], "a", NOW));
	assert_true(lacks(&d[2], "a", NOW));
	assert_true(lacks(&d[CV_COMPLETE_DIRS], "a", NOW));
}

static void who_makes_names(void **state)
{
	const uint64_t second = 1000000000;
	static struct cv_makers makers;
	struct dir d, other;

	(void)state;
	new_dir(&d, 5);
	new_dir(&other, 6);
	cv_makers_note(&makers, &d.node, 77, second);
	cv_makers_note(&makers, &d.node, 78, second);
	assert_true(cv_makers_has(&makers, &d.node, 77, second));
	assert_true(cv_makers_has(&makers, &d.node, 78, second));
	assert_false(cv_makers_has(&makers, &d.node, 79, second));
	assert_false(cv_makers_has(&makers, &other.node, 77, second));
	assert_false(cv_makers_has(&makers, &d.node, 77, 2 * second)); /* long ago */
	d.record.generation++;
	assert_false(cv_makers_has(&makers, &d.node, 77, second)); /* another directory */
	/* who cannot be told from others */
	cv_makers_note(&makers, &other.node, 0, second);
	assert_false(cv_makers_has(&makers, &other.node, 0, second));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(only_our_names_are_there, teardown),
		cmocka_unit_test_teardown(each_change_of_ours_confirms_it, teardown),
		cmocka_unit_test_teardown(anybody_elses_change_ends_it, teardown),
		cmocka_unit_test_teardown(many_names, teardown),
		cmocka_unit_test_teardown(many_directories, teardown),
		cmocka_unit_test_teardown(who_makes_names, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
