/* SPDX-License-Identifier: Apache-2.0 */
/* Who is on his way out, from lines of proc(5)'s stat; and when he is let go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "fuse/exiting.h"

static enum cv_exiting of(const char *name, unsigned long flags, int code)
{
	char line[1024];
	int n = snprintf(line, sizeof(line), "77 (%s) S 1 77 77 0 -1 %lu", name, flags);

	for (int field = 10; field < 52; field++)
		n += snprintf(line + n, sizeof(line) - (size_t)n, " 18446744073709551615");
	(void)snprintf(line + n, sizeof(line) - (size_t)n, " %d\n", code);
	return cv_exiting_parse(line);
}

static void test_parse(void **state)
{
	(void)state;
	assert_int_equal(of("sh", 0x400100, 0), CV_NOT_EXITING);
	assert_int_equal(of("sh", 0x400100, 9), CV_NOT_EXITING);
	assert_int_equal(of("sh", 0x400104, 0), CV_EXITING);
	assert_int_equal(of("sh", 0x400104, 3 << 8), CV_EXITING);
	assert_int_equal(of("sh", 0x400104, 9), CV_EXITING_KILLED);
	assert_int_equal(of("sh", 0x400104, 11 | 0x80), CV_EXITING_KILLED); /* with a core */
	assert_int_equal(of("a) b) (c 4 4 4", 0x400104, 9), CV_EXITING_KILLED);
	assert_int_equal(of(") S 1 1 1 1 1 4 ", 0x400100, 9), CV_NOT_EXITING);
}

static void test_cut_off(void **state)
{
	(void)state;
	assert_int_equal(cv_exiting_parse(""), CV_NOT_EXITING);
	assert_int_equal(cv_exiting_parse("77 (sh"), CV_NOT_EXITING);
	assert_int_equal(cv_exiting_parse("77 (sh)"), CV_NOT_EXITING);
	assert_int_equal(cv_exiting_parse("77 (sh) S 1 77 77 0 -1 "), CV_NOT_EXITING);
	assert_int_equal(cv_exiting_parse("77 (sh) S 1 77 77 0 -1 4"), CV_EXITING);
}

static void test_process(void **state)
{
	(void)state;
	assert_int_equal(cv_exiting(getpid()), CV_NOT_EXITING);
	assert_int_equal(cv_exiting(0), CV_NOT_EXITING);
	assert_int_equal(cv_exiting(-1), CV_NOT_EXITING);
}

static void test_let_go(void **state)
{
	(void)state;
	assert_false(cv_exiting_let_go(CV_NOT_EXITING, 3600000, true));
	assert_false(cv_exiting_let_go(CV_EXITING_KILLED, CV_EXIT_KILLED_MS - 1, true));
	assert_true(cv_exiting_let_go(CV_EXITING_KILLED, CV_EXIT_KILLED_MS, false));
	assert_false(cv_exiting_let_go(CV_EXITING, CV_EXIT_KILLED_MS - 1, true));
	assert_false(
		cv_exiting_let_go(CV_EXITING, 3600000, false)); /* a slow server is waited for */
	assert_true(cv_exiting_let_go(CV_EXITING, CV_EXIT_KILLED_MS, true));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_cut_off),
		cmocka_unit_test(test_process),
		cmocka_unit_test(test_let_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
