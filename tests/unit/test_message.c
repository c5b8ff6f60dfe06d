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

#include "plugin/message.h"

static int parse(const char *body, struct cv_request *request, struct cv_err *err)
{
	return cv_request_parse(body, strlen(body), request, err);
}

static void test_bodies_of_dockerd_and_podman(void **state)
{
	struct cv_request r = CV_REQUEST_INIT;
	struct cv_err err = { 0 };

	(void)state;
	assert_int_equal(parse("{\"Name\":\"v1\",\"Opts\":{\"k\":\"v\",\"e\":\"\"}}\n", &r, &err),
			 0);
	assert_string_equal(r.name, "v1");
	assert_null(r.id);
	assert_int_equal(r.opts.count, 2);
	assert_string_equal(cv_dict_get(&r.opts, "k"), "v");
	assert_string_equal(cv_dict_get(&r.opts, "e"), "");
	cv_request_release(&r);

	assert_int_equal(parse("{\"Name\":\"v1\",\"Opts\":null}", &r, &err), 0);
	assert_int_equal(r.opts.count, 0);
	cv_request_release(&r);

	assert_int_equal(parse("{\"Name\":\"v1\",\"ID\":\"abc\",\"Extra\":[{\"x\":1}]}", &r, &err),
			 0);
	assert_string_equal(r.id, "abc");
	cv_request_release(&r);
}

static void test_nothing_is_an_empty_request(void **state)
{
	static const char *const bodies[] = { "", "\n", "{}", " {} \r\n", "{\"Name\":null}" };
	struct cv_request r = CV_REQUEST_INIT;

	(void)state;
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
		assert_int_equal(parse(bodies[i], &r, NULL), 0);
		assert_null(r.name);
		assert_null(r.id);
		assert_int_equal(r.opts.count, 0);
		cv_request_release(&r);
	}
}

static void test_keys_have_no_case_and_values_become_text(void **state)
{
	struct cv_request r = CV_REQUEST_INIT;

	(void)state;
	assert_int_equal(
		parse("{\"name\":\"a\",\"id\":\"b\",\"opts\":{\"n\":12,\"t\":true,\"z\":null}}", &r,
		      NULL),
		0);
	assert_string_equal(r.name, "a");
	assert_string_equal(r.id, "b");
	assert_string_equal(cv_dict_get(&r.opts, "n"), "12");
	assert_string_equal(cv_dict_get(&r.opts, "t"), "true");
	assert_string_equal(cv_dict_get(&r.opts, "z"), "");
	cv_request_release(&r);
}

static void test_malformed_is_refused_with_a_reason(void **state)
{
	static const char *const bodies[] = {
		"{",
		"{\"Name\":\"v1\"",
		"{\"Name\":\"v1\"} x",
		"[]",
		"null",
		"\"text\"",
		"nonsense",
		"{\"Name\":5}",
		"{\"Name\":{}}",
		"{\"ID\":[]}",
		"{\"Name\":\"a\\u0000b\"}",
		"{\"Opts\":{\"k\":\"a\\u0000b\"}}",
		"{\"Opts\":{\"k\":{}}}",
		"{\"Opts\":[]}",
		"{\"Opts\":\"k=v\"}",
		"{\"Name\":\"\xff\xfe\"}",
		"{\"a\":[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
		struct cv_request r = CV_REQUEST_INIT;
		struct cv_err err = { 0 };

		if (parse(bodies[i], &r, &err) != -EBADMSG)
			fail_msg("accepted: %s", bodies[i]);
		assert_true(err.text[0] != '\0');
		assert_null(r.name);
	}
}

static void test_bounds(void **state)
{
	struct cv_request r = CV_REQUEST_INIT;
	size_t size = 300000;
	char *body = malloc(size + 1);

	(void)state;
	assert_non_null(body);
	memset(body, 'x', size);
	body[size] = '\0';
	memcpy(body, "{\"Opts\":{\"k\":\"", 14);
	memcpy(body + size - 3, "\"}}", 3);
	assert_int_equal(parse(body, &r, NULL), -EBADMSG); /* one value is too long */
	free(body);
}

static void test_answers(void **state)
{
	struct cv_view v = { .name = (char[]){ "v/1" },
			     .mountpoint = (char[]){ "/run/cvol/mnt/v%2F1" },
			     .source = (char[]){ "nfs://nas/x" },
			     .server = (char[]){ "" },
			     .error = (char[]){ "cut in a charact\xc3" },
			     .state = CV_VOLUME_WAITING,
			     .created = 1700000000 };
	struct cv_view *views = NULL;
	size_t count = 0;
	char *text = cv_message_volume(&v);

	(void)state;
	assert_non_null(text);
	assert_non_null(strstr(text, "\"Mountpoint\":\"/run/cvol/mnt/v%2F1\""));
	assert_non_null(strstr(text, "\"CreatedAt\":\"2023-11-14T22:13:20Z\""));
	assert_non_null(strstr(text, "\"Err\":\"\""));
	assert_non_null(strstr(text, "cut in a charact?"));
	assert_int_equal(cv_answer_views(text, &views, &count), 0);
	assert_int_equal(count, 1);
	assert_string_equal(views[0].name, "v/1");
	assert_int_equal(views[0].created, 1700000000);
	assert_int_equal(views[0].state, CV_VOLUME_WAITING);
	cv_views_free(views, count);
	free(text);

	text = cv_message_list(NULL, 0);
	assert_string_equal(text, "{\"Volumes\":[],\"Err\":\"\"}\n"); /* not null */
	free(text);
	text = cv_message_mountpoint("/a");
	assert_string_equal(text, "{\"Mountpoint\":\"/a\",\"Err\":\"\"}\n");
	free(text);
	text = cv_message_capabilities("local");
	assert_string_equal(text, "{\"Capabilities\":{\"Scope\":\"local\"}}\n");
	free(text);
}

/* What the daemon says is what the command line gets to know. */
static void test_status_round_trip(void **state)
{
	struct cv_view v = { .name = (char[]){ "v" },
			     .mountpoint = (char[]){ "/m" },
			     .source = (char[]){ "nfs://nas/x" },
			     .backend = (char[]){ "nfs" },
			     .server = (char[]){ "nas:2049" },
			     .error = (char[]){ "connection lost" },
			     .error_s = 1700000001,
			     .since = 1700000002,
			     .state = CV_VOLUME_WAITING,
			     .mounts = 3,
			     .counted = true,
			     .counters = { .workers = 2, .in_flight = 4, .bytes_read = 1ull << 40 },
			     .rates = { .interval_s = 5, .bytes_read = 1234.5 } };
	struct cv_dict daemon = CV_DICT_INIT, got = CV_DICT_INIT;
	struct cv_view *views = NULL;
	size_t count = 0;
	char *text;

	(void)state;
	v.counters.calls[CV_CALL_FSYNC] = (struct cv_call_counters){ .done = 5, .errors = 1 };
	v.counters.latency[CV_LATENCY_SYNC].bucket[CV_BUCKETS - 1] = 5;
	v.counters.latency[CV_LATENCY_SYNC].sum_ns = 77;
	v.counters.caches[CV_CACHE_ATTR].hits = 9;
	assert_int_equal(cv_dict_set(&daemon, "version", "1"), 0);
	text = cv_message_status(&v, 1, &daemon);
	assert_non_null(text);
	assert_int_equal(cv_answer_views(text, &views, &count), 0);
	assert_int_equal(cv_answer_daemon(text, &got), 0);
	assert_string_equal(cv_dict_get(&got, "version"), "1");
	assert_int_equal(count, 1);
	assert_int_equal(views[0].state, CV_VOLUME_WAITING);
	assert_int_equal(views[0].error_s, v.error_s);
	assert_int_equal(views[0].since, v.since);
	assert_int_equal(views[0].mounts, 3);
	assert_false(views[0].own);
	assert_true(views[0].counted);
	assert_memory_equal(&views[0].counters, &v.counters, sizeof(v.counters));
	assert_true(views[0].rates.bytes_read > 1234 && views[0].rates.bytes_read < 1235);
	cv_views_free(views, count);
	free(text);
	cv_dict_release(&daemon);
	cv_dict_release(&got);
	text = cv_message_status(NULL, 0, NULL); /* no daemon */
	assert_string_equal(text, "{\"Volumes\":[],\"Err\":\"\"}\n");
	assert_int_equal(cv_answer_daemon(text, &got), -EBADMSG);
	free(text);
}

static void test_errors_of_answers(void **state)
{
	char *text = cv_message_err("a \"quoted\" thing");
	char *err = cv_answer_err(text);

	(void)state;
	assert_string_equal(err, "a \"quoted\" thing");
	free(err);
	free(text);
	assert_null(cv_answer_err("{\"Err\":\"\"}"));
	assert_null(cv_answer_err("{\"Err\":null}"));
	err = cv_answer_err("plain text\nmore");
	assert_string_equal(err, "plain text");
	free(err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bodies_of_dockerd_and_podman),
		cmocka_unit_test(test_nothing_is_an_empty_request),
		cmocka_unit_test(test_keys_have_no_case_and_values_become_text),
		cmocka_unit_test(test_malformed_is_refused_with_a_reason),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_status_round_trip),
		cmocka_unit_test(test_errors_of_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
