/* SPDX-License-Identifier: Apache-2.0 */
/* Dictionaries: order, bounds, aliasing. See also test_options.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/dict.h"

static void keys_keep_their_order(void **state)
{
	cv_cleanup_dict struct cv_dict d = CV_DICT_INIT;
	static const char *const names[] = { "c", "a", "d", "b" };

	(void)state;
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(cv_dict_setf(&d, names[i], "%zu", i), 0);
	assert_int_equal(cv_dict_set(&d, "a", "new"), 0); /* keeps its place */
	for (size_t i = 0; i < 4; i++)
		assert_string_equal(d.items[i].key, names[i]);
	assert_string_equal(d.items[1].value, "new");
	assert_true(cv_dict_remove(&d, "a"));
	assert_int_equal(d.count, 3);
	assert_string_equal(d.items[1].key, "d");
	assert_string_equal(d.items[2].key, "b");
	assert_true(cv_dict_remove(&d, "b")); /* the last */
	assert_null(cv_dict_get(&d, "b"));
	assert_string_equal(cv_dict_get(&d, "d"), "2");
	assert_null(cv_dict_get(&d, "D"));
}

static void a_value_may_be_its_own_source(void **state)
{
	cv_cleanup_dict struct cv_dict d = CV_DICT_INIT;

	(void)state;
	assert_int_equal(cv_dict_set(&d, "k", "value"), 0);
	assert_int_equal(cv_dict_set(&d, "k", cv_dict_get(&d, "k")), 0);
	assert_string_equal(cv_dict_get(&d, "k"), "value");
	assert_int_equal(cv_dict_setf(&d, "k", "%s+%s", cv_dict_get(&d, "k"), d.items[0].key), 0);
	assert_string_equal(cv_dict_get(&d, "k"), "value+k");
	assert_int_equal(cv_dict_set(&d, cv_dict_get(&d, "k"), d.items[0].key), 0);
	assert_string_equal(cv_dict_get(&d, "value+k"), "k");
}

static void bounds(void **state)
{
	cv_cleanup_dict struct cv_dict d = CV_DICT_INIT;
	cv_cleanup_free char *text = malloc(CV_DICT_VALUE_MAX + 2);

	(void)state;
	assert_non_null(text);
	memset(text, 't', CV_DICT_VALUE_MAX + 1);
	text[CV_DICT_VALUE_MAX + 1] = '\0';
	assert_int_equal(cv_dict_set(&d, "k", text), -E2BIG);
	assert_int_equal(cv_dict_set(&d, text, ""), -E2BIG);
	assert_int_equal(cv_dict_setf(&d, "k", "%s", text), -E2BIG);
	assert_int_equal(d.count, 0);
	text[CV_DICT_VALUE_MAX] = '\0';
	assert_int_equal(cv_dict_set(&d, "k", text), 0);
	assert_int_equal(strlen(cv_dict_get(&d, "k")), CV_DICT_VALUE_MAX);
	for (int i = 1; i < CV_DICT_MAX; i++) {
		char key[16];

		(void)snprintf(key, sizeof(key), "%d", i);
		assert_int_equal(cv_dict_set(&d, key, ""), 0);
	}
	assert_int_equal(cv_dict_set(&d, "more", ""), -E2BIG);
	assert_int_equal(cv_dict_set(&d, "k", "replaced"), 0); /* full, but not for what is there */
	assert_string_equal(cv_dict_get(&d, "k"), "replaced");
	assert_int_equal(d.count, CV_DICT_MAX);
}

static void copies_are_their_own(void **state)
{
	cv_cleanup_dict struct cv_dict a = CV_DICT_INIT, b = CV_DICT_INIT, empty = CV_DICT_INIT;

	(void)state;
	assert_int_equal(cv_dict_copy(&b, &empty), 0);
	assert_int_equal(b.count, 0);
	assert_true(cv_dict_equal(&b, &empty));
	assert_int_equal(cv_dict_set(&a, "k", "1"), 0);
	assert_int_equal(cv_dict_set(&a, "l", "2"), 0);
	assert_int_equal(cv_dict_copy(&b, &a), 0);
	assert_true(cv_dict_equal(&a, &b));
	assert_int_equal(cv_dict_set(&b, "k", "x"), 0);
	assert_string_equal(cv_dict_get(&a, "k"), "1");
	assert_false(cv_dict_equal(&a, &b));
}

static void equality_ignores_order_alone(void **state)
{
	cv_cleanup_dict struct cv_dict a = CV_DICT_INIT, b = CV_DICT_INIT;

	(void)state;
	assert_int_equal(cv_dict_set(&a, "k", "1"), 0);
	assert_int_equal(cv_dict_set(&a, "l", "2"), 0);
	assert_int_equal(cv_dict_set(&b, "l", "2"), 0);
	assert_false(cv_dict_equal(&a, &b));
	assert_false(cv_dict_equal(&b, &a));
	assert_int_equal(cv_dict_set(&b, "m", "1"), 0); /* as many, another key */
	assert_false(cv_dict_equal(&a, &b));
	assert_true(cv_dict_remove(&b, "m"));
	assert_int_equal(cv_dict_set(&b, "k", "1"), 0);
	assert_true(cv_dict_equal(&a, &b));
}

static void releasing(void **state)
{
	struct cv_dict d = CV_DICT_INIT;

	(void)state;
	cv_dict_release(&d);
	assert_int_equal(cv_dict_set(&d, "k", "v"), 0);
	errno = EXDEV;
	cv_dict_release(&d);
	assert_int_equal(errno, EXDEV);
	assert_int_equal(d.count, 0);
	assert_null(d.items);
	assert_int_equal(cv_dict_set(&d, "k", "again"), 0); /* usable as before */
	cv_dict_release(&d);
	cv_dict_release(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_keep_their_order),
		cmocka_unit_test(a_value_may_be_its_own_source),
		cmocka_unit_test(bounds),
		cmocka_unit_test(copies_are_their_own),
		cmocka_unit_test(equality_ignores_order_alone),
		cmocka_unit_test(releasing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
