/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines as they leave: one each, whatever is in them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "config/log.h"

static char out[65536];

/* What cv_log() writes to standard error for this call. */
static const char *logged(const char *who, int journal, const char *format, enum cv_log_level level,
			  const char *message)
{
	int saved = dup(STDERR_FILENO), pipes[2];
	ssize_t n;

	assert_int_equal(pipe(pipes), 0);
	if (journal)
		(void)setenv("JOURNAL_STREAM", "8:1", 1);
	else
		(void)unsetenv("JOURNAL_STREAM");
	cv_log_init(who, CV_LOG_INFO);
	assert_int_equal(cv_log_set_format(format), 0);
	assert_true(dup2(pipes[1], STDERR_FILENO) >= 0);
	cv_log(level, "%s", message);
	assert_true(dup2(saved, STDERR_FILENO) >= 0);
	(void)close(saved);
	(void)close(pipes[1]);
	n = read(pipes[0], out, sizeof(out) - 1);
	(void)close(pipes[0]);
	out[n > 0 ? n : 0] = '\0';
	return out;
}

static void test_text(void **state)
{
	const char *line = logged("cvol", 0, "text", CV_LOG_WARNING, "two\nlines \x01");

	(void)state;
	assert_int_equal(strncmp(line, "20", 2), 0); /* a year */
	assert_non_null(strstr(line, "Z cvol: warning: two?lines ?\n"));
	assert_string_equal(logged("cvol-fuse[v]", 1, "text", CV_LOG_ERROR, "gone"),
			    "<3>cvol-fuse[v]: gone\n");
	assert_string_equal(logged("cvol", 0, "text", CV_LOG_DEBUG, "not shown"), "");
}

static struct json_object *parse(const char *line)
{
	struct json_object *o = json_tokener_parse(line);

	if (!o)
		fail_msg("no JSON: %s", line);
	assert_int_equal(strchr(line, '\n') - line, strlen(line) - 1);
	return o;
}

static const char *member(struct json_object *o, const char *key)
{
	struct json_object *value = NULL;

	return json_object_object_get_ex(o, key, &value) ? json_object_get_string(value) : NULL;
}

static void test_json(void **state)
{
	struct json_object *o = parse(
		logged("cvol-fuse[a \"b\\]", 0, "json", CV_LOG_NOTICE, "say \"hi\" \\ \xc3\xbc\n"));

	(void)state;
	assert_string_equal(member(o, "level"), "notice");
	assert_string_equal(member(o, "program"), "cvol-fuse");
	assert_string_equal(member(o, "volume"), "a \"b\\");
	assert_string_equal(member(o, "message"), "say \"hi\" \\ \xc3\xbc?");
	assert_int_equal(strlen(member(o, "time")), strlen("2026-01-01T00:00:00.000Z"));
	json_object_put(o);
	o = parse(logged("cvol", 0, "json", CV_LOG_INFO, "not UTF-8: \xff\xfe"));
	assert_null(member(o, "volume"));
	assert_string_equal(member(o, "message"), "not UTF-8: ??");
	json_object_put(o);
	assert_int_equal(strncmp(logged("cvol", 1, "json", CV_LOG_INFO, "x"), "<6>{", 4), 0);
}

/* Cut anywhere, it still is one line of JSON. */
static void test_long(void **state)
{
	static const char *const units[] = { "x", "\"", "\\", "\xc3\xbc", "\xf0\x9f\x90\xa7" };
	char text[6000];

	(void)state;
	for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
		for (size_t shift = 0; shift < 9; shift++) {
			struct json_object *o;
			size_t len = shift;

			memset(text, 'y', shift);
			while (len + strlen(units[u]) < sizeof(text)) {
				memcpy(text + len, units[u], strlen(units[u]));
				len += strlen(units[u]);
			}
			text[len] = '\0';
			o = parse(logged("cvol", 0, "json", CV_LOG_INFO, text));
			assert_true(strlen(member(o, "message")) > 900);
			json_object_put(o);
			(void)logged("cvol", 0, "text", CV_LOG_INFO, text);
			assert_int_equal(strchr(out, '\n') - out, strlen(out) - 1);
		}
	}
}

static void test_names(void **state)
{
	enum cv_log_level level = CV_LOG_INFO;

	(void)state;
	assert_int_equal(cv_log_set_format("xml"), -EINVAL);
	assert_int_equal(cv_log_set_format("json"), 0);
	assert_string_equal(cv_log_get_format(), "json");
	assert_int_equal(cv_log_level_parse("debug", &level), 0);
	assert_string_equal(cv_log_level_name(level), "debug");
	assert_int_equal(cv_log_level_parse("loud", &level), -EINVAL);
	assert_int_equal(level, CV_LOG_DEBUG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_long),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
