/* SPDX-License-Identifier: Apache-2.0 */
/* Text helpers at their edges. See also test_options.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/str.h"

static void copying_never_overruns(void **state)
{
	char buf[8];

	(void)state;
	memset(buf, '#', sizeof(buf));
	assert_true(cv_strcpy(buf, 4, "abc"));
	assert_memory_equal(buf, "abc\0####", 8);
	memset(buf, '#', sizeof(buf));
	assert_false(cv_strcpy(buf, 4, "abcd"));
	assert_memory_equal(buf, "abc\0####", 8);
	memset(buf, '#', sizeof(buf));
	assert_false(cv_strcpy(buf, 1, "a"));
	assert_memory_equal(buf, "\0#######", 8);
	assert_true(cv_strcpy(buf, 1, ""));
	memset(buf, '#', sizeof(buf));
	assert_false(cv_strcpy(buf, 0, "a"));
	assert_memory_equal(buf, "########", 8);
}

static void comparing(void **state)
{
	(void)state;
	assert_true(cv_str_eq(NULL, NULL));
	assert_false(cv_str_eq(NULL, ""));
	assert_false(cv_str_eq("", NULL));
	assert_true(cv_str_eq("a", "a"));
	assert_false(cv_str_eq("a", "A"));
	assert_true(cv_str_starts("abc", "ab"));
	assert_true(cv_str_starts("abc", ""));
	assert_false(cv_str_starts("a", "ab"));
}

static void formatting(void **state)
{
	char *text = cv_sprintf("%s-%d", "a", 7);

	(void)state;
	assert_string_equal(text, "a-7");
	free(text);
}

/* The first and last code point of each length, and the nearest that are not allowed. */
static void utf8_at_its_bounds(void **state)
{
	static const char *const good[] = {
		"",
		"\x7f",
		"\xc2\x80",
		"\xdf\xbf",
		"\xe0\xa0\x80",
		"\xed\x9f\xbf",
		"\xee\x80\x80",
		"\xef\xbf\xbf",
		"\xf0\x90\x80\x80",
		"\xf4\x8f\xbf\xbf",
	};
	static const char *const bad[] = {
		"\x80",
		"\xbf",
		"\xc1\xbf",
		"\xe0\x9f\xbf",
		"\xed\xbf\xbf",
		"\xf0\x8f\xbf\xbf",
		"\xf5\x80\x80\x80",
		"\xfe",
		"\xc3",
		"\xc3(",
		"\xe2\x82(",
		"\xf0\x9f\x90",
		"a\xff",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		if (!cv_str_is_utf8(good[i]))
			fail_msg("good number %zu", i);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (cv_str_is_utf8(bad[i]))
			fail_msg("bad number %zu", i);
	}
}

static void numbers(void **state)
{
	uint64_t v = 5;

	(void)state;
	assert_int_equal(cv_parse_u64("18446744073709551615", 10, UINT64_MAX, &v), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(cv_parse_u64("18446744073709551616", 10, UINT64_MAX, &v), -ERANGE);
	assert_int_equal(cv_parse_u64("755", 8, 07777, &v), 0);
	assert_int_equal(v, 0755);
	assert_int_equal(cv_parse_u64("8", 8, 07777, &v), -EINVAL);
	assert_int_equal(cv_parse_u64("+1", 10, 9, &v), -EINVAL);
	assert_int_equal(cv_parse_u64("1 ", 10, 9, &v), -EINVAL);
	assert_int_equal(cv_parse_u64("\t1", 10, 9, &v), -EINVAL);
	assert_int_equal(cv_parse_u64("ff", 10, 999, &v), -EINVAL);
	assert_int_equal(v, 0755); /* untouched by failures */
}

static void booleans(void **state)
{
	static const char *const yes[] = { "", "1", "yes", "TRUE", "On" };
	static const char *const no[] = { "0", "no", "False", "OFF" };
	static const char *const bad[] = { "2", "y", " true", "truee", "00" };

	(void)state;
	for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
		bool b = false;

		assert_int_equal(cv_parse_bool(yes[i], &b), 0);
		assert_true(b);
	}
	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++) {
		bool b = true;

		assert_int_equal(cv_parse_bool(no[i], &b), 0);
		assert_false(b);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		bool b = true;

		assert_int_equal(cv_parse_bool(bad[i], &b), -EINVAL);
		assert_true(b);
	}
}

static void durations_and_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms, bytes; /* 0: not one */
	} cases[] = {
		{ "15", 15000, 15 },
		{ "15s", 15000, 0 },
		{ "500ms", 500, 0 },
		{ "2m", 120000, 2 << 20 },
		{ "1h", 3600000, 0 },
		{ "1H", 3600000, 0 },
		{ "64k", 0, 65536 },
		{ "64KiB", 0, 65536 },
		{ "64kb", 0, 65536 },
		{ "3G", 0, 3ull << 30 },
		{ "1TiB", 0, 1ull << 40 },
		{ "7b", 0, 7 },
		{ "1.5s", 0, 0 },
		{ "-1", 0, 0 },
		{ "", 0, 0 },
		{ "s", 0, 0 },
		{ "1 s", 0, 0 },
		{ "1d", 0, 0 },
		{ "5m0s", 0, 0 },
		{ "1kk", 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t ms = 0, bytes = 0;
		int r = cv_parse_duration_ms(cases[i].text, &ms);

		if (r != (cases[i].ms ? 0 : -EINVAL) || ms != cases[i].ms)
			fail_msg("duration '%s'", cases[i].text);
		r = cv_parse_size(cases[i].text, &bytes);
		if (r != (cases[i].bytes ? 0 : -EINVAL) || bytes != cases[i].bytes)
			fail_msg("size '%s'", cases[i].text);
	}
}

static void too_much(void **state)
{
	uint64_t v = 5;

	(void)state;
	assert_int_equal(cv_parse_duration_ms("99999999999999999999", &v), -ERANGE);
	assert_int_equal(cv_parse_duration_ms("9999999999999999h", &v), -ERANGE);
	assert_int_equal(cv_parse_size("9999999999999T", &v), -ERANGE);
	assert_int_equal(v, 5);
	/* signed 64-bit arithmetic stays safe */
	assert_int_equal(cv_parse_size("8388608T", &v), -ERANGE);
	assert_int_equal(cv_parse_size("8388607T", &v), 0);
	assert_true(v == 8388607ull << 40);
}

static void wiping(void **state)
{
	char secret[16] = "0123456789abcde", zero[16] = { 0 };

	(void)state;
	cv_wipe(secret + 4, 4);
	assert_memory_equal(secret,
			    "0123\0\0\0\0"
			    "89abcde",
			    16);
	cv_wipe(secret, sizeof(secret));
	assert_memory_equal(secret, zero, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copying_never_overruns),
		cmocka_unit_test(comparing),
		cmocka_unit_test(formatting),
		cmocka_unit_test(utf8_at_its_bounds),
		cmocka_unit_test(numbers),
		cmocka_unit_test(booleans),
		cmocka_unit_test(durations_and_sizes),
		cmocka_unit_test(too_much),
		cmocka_unit_test(wiping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
