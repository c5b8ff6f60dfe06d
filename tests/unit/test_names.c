/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/names.h"

static void test_accepted(void **state)
{
	char longest[CV_VOLUME_NAME_MAX + 1];
	static const char *const names[] = {
		"v1",	  "a/b",  "with space", "\xc3\xbc\xe2\x82\xac",
		"a..b",	  "...",  ".hid",	"a\\b",
		"#x@y:z", "/abs", "%41",	"a~b",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct cv_err err = { 0 };

		if (cv_name_check(names[i], &err) != 0)
			fail_msg("%s: %s", names[i], err.text);
	}
	memset(longest, 'x', CV_VOLUME_NAME_MAX);
	longest[CV_VOLUME_NAME_MAX] = '\0';
	assert_int_equal(cv_name_check(longest, NULL), 0);
}

static void test_refused(void **state)
{
	char too_long[CV_VOLUME_NAME_MAX + 2];
	static const char *const names[] = {
		"",	 ".",	 "..",	     "../x",	  "a/../b",	  "a/..",
		"a/./b", "./a",	 "a\nb",     "\x01",	  "a\x7f",	  "\xc2\x85",
		"\xff",	 "\xc3", "\xc0\xaf", "../../etc", "\xed\xa0\x80",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct cv_err err = { 0 };

		if (cv_name_check(names[i], &err) != -EINVAL)
			fail_msg("accepted number %zu: %s", i, names[i]);
		assert_true(err.text[0] != '\0');
	}
	assert_int_equal(cv_name_check(NULL, NULL), -EINVAL);
	memset(too_long, 'x', CV_VOLUME_NAME_MAX + 1);
	too_long[CV_VOLUME_NAME_MAX + 1] = '\0';
	assert_int_equal(cv_name_check(too_long, NULL), -EINVAL);
}

static void test_encoding(void **state)
{
	static const struct {
		const char *name, *encoded;
	} cases[] = {
		{ "v1", "v1" },	    { "a/b", "a%2Fb" },	      { ".hid", "%2Ehid" },
		{ "a.b", "a.b" },   { "a b", "a%20b" },	      { "%2F", "%252F" },
		{ "a~b", "a%7Eb" }, { "\xc3\xbc", "%C3%BC" },
	};
	char out[CV_ENCODED_MAX + 1];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *back;

		cv_name_encode(cases[i].name, CV_ENCODED_MAX, out);
		assert_string_equal(out, cases[i].encoded);
		back = cv_name_decode(out);
		assert_string_equal(back, cases[i].name);
		free(back);
	}
	assert_null(cv_name_decode("%zz"));
	assert_null(cv_name_decode("%4"));
	assert_null(cv_name_decode("%"));
	assert_null(cv_name_decode("a%00b"));
	assert_null(cv_name_decode("..%2Fx"));
}

/* Long names that differ in one byte anywhere stay different, and short enough. */
static void test_long_names_stay_apart(void **state)
{
	char a[CV_VOLUME_NAME_MAX + 1], b[CV_VOLUME_NAME_MAX + 1];
	char out_a[CV_ENCODED_MAX + 1], out_b[CV_ENCODED_MAX + 1];

	(void)state;
	for (size_t i = 0; i < CV_VOLUME_NAME_MAX; i++)
		a[i] = i % 3 ? 'x' : '/';
	a[CV_VOLUME_NAME_MAX] = '\0';
	for (size_t i = 0; i < CV_VOLUME_NAME_MAX; i++) {
		memcpy(b, a, sizeof(a));
		b[i] = 'y';
		cv_name_encode(a, CV_ENCODED_MAX, out_a);
		cv_name_encode(b, CV_ENCODED_MAX, out_b);
		assert_true(strlen(out_a) <= CV_ENCODED_MAX);
		assert_string_not_equal(out_a, out_b);
		assert_null(strchr(out_a, '/'));
		cv_name_encode(a, CV_ENCODED_SOCKET, out_a);
		cv_name_encode(b, CV_ENCODED_SOCKET, out_b);
		assert_true(strlen(out_a) <= CV_ENCODED_SOCKET);
		assert_string_not_equal(out_a, out_b);
	}
}

static void test_sha256(void **state)
{
	char out[65], million[1000];

	(void)state;
	cv_sha256_hex("", 0, out);
	assert_string_equal(out,
			    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	cv_sha256_hex("abc", 3, out);
	assert_string_equal(out,
			    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	cv_sha256_hex("placeholder\n", 12, out);
	assert_string_equal(out,
			    "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2");
	memset(million, 'a', sizeof(million)); /* several blocks and a tail that needs two */
	cv_sha256_hex(million, 1000, out);
	assert_string_equal(out,
			    "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepted), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_encoding), cmocka_unit_test(test_long_names_stay_apart),
		cmocka_unit_test(test_sha256),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
