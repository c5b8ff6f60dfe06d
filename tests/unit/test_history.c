/* SPDX-License-Identifier: Apache-2.0 */
/* Rates from counters, and the ring that keeps them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "plugin/history.h"
#include "plugin/process.h"

static void view_of(struct cv_view *v, const char *name, uint64_t reads)
{
	memset(v, 0, sizeof(*v));
	v->name = (char *)(uintptr_t)name;
	v->counted = true;
	v->counters.started_s = 1;
	v->counters.workers = 1;
	v->counters.calls[CV_CALL_READ].done = reads;
	v->counters.calls[CV_CALL_READ].errors = reads / 10;
	v->counters.bytes_read = reads * 1000;
	v->counters.latency[CV_LATENCY_READ].sum_ns = reads * 2000000;
}

static void test_rates(void **state)
{
	struct cv_view a, b;
	struct cv_rates r;

	(void)state;
	view_of(&a, "v", 100);
	view_of(&b, "v", 300);
	assert_true(cv_rates_between(&a.counters, &b.counters, 4, &r));
	assert_int_equal(r.operations, 50);
	assert_int_equal(r.errors, 5);
	assert_int_equal(r.bytes_read, 50000);
	assert_int_equal(r.bytes_written, 0);
	assert_int_equal(r.latency_us, 2000);
	assert_false(cv_rates_between(&a.counters, &b.counters, 0, &r));
	b.counters.started_s = 2; /* mounted anew: its counters began at zero */
	assert_false(cv_rates_between(&a.counters, &b.counters, 4, &r));
	assert_int_equal(r.interval_s, 0);
	view_of(&b, "v", 300);
	assert_true(cv_rates_between(&b.counters, &a.counters, 4, &r)); /* never below zero */
	assert_int_equal(r.operations, 0);
	assert_int_equal(r.latency_us, 0);
}

static void test_ring(void **state)
{
	struct cv_history *h = cv_history_new();
	struct cv_rates got[CV_HISTORY_MAX + 10];
	struct cv_view v, unknown = { .name = (char[]){ "never mounted" } };
	size_t n;

	(void)state;
	assert_non_null(h);
	for (uint64_t i = 0; i < CV_HISTORY_MAX + 5; i++) {
		view_of(&v, "v", i * i);
		cv_history_sample(h, &v, 1, i * 1000);
	}
	n = cv_history_get(h, "v", got, CV_HISTORY_MAX + 10);
	assert_int_equal(n, CV_HISTORY_MAX);
	for (size_t i = 1; i < n; i++) /* (i+1)^2 - i^2 grows by two each */
		assert_int_equal(got[i].operations - got[i - 1].operations, 2);
	assert_int_equal(cv_history_get(h, "v", got, 3), 3);
	assert_int_equal(got[2].operations, 2 * (CV_HISTORY_MAX + 5) - 3);
	view_of(&v, "v", 0);
	cv_history_fill(h, &v, 1);
	assert_int_equal(v.rates.operations, 2 * (CV_HISTORY_MAX + 5) - 3);
	cv_history_fill(NULL, &v, 1);

	cv_history_sample(h, &unknown, 1, 1000000);
	assert_int_equal(cv_history_get(h, "never mounted", got, 3), 0);
	assert_int_equal(cv_history_get(h, "v", got, 3), 0); /* gone, so forgotten */
	cv_history_free(h);
}

/* Not mounted for a while: no rate is made up across the gap. */
static void test_gap(void **state)
{
	struct cv_history *h = cv_history_new();
	struct cv_rates got[8];
	struct cv_view v;

	(void)state;
	view_of(&v, "v", 10);
	cv_history_sample(h, &v, 1, 1000);
	v.counted = false;
	cv_history_sample(h, &v, 1, 2000);
	view_of(&v, "v", 1000);
	cv_history_sample(h, &v, 1, 3000);
	view_of(&v, "v", 1001);
	cv_history_sample(h, &v, 1, 4000);
	assert_int_equal(cv_history_get(h, "v", got, 8), 4);
	assert_int_equal(got[1].interval_s, 0);
	assert_int_equal(got[2].interval_s, 0);
	assert_int_equal(got[3].operations, 1);
	cv_history_free(h);
}

static int source(void *ctx, struct cv_view **ret_views, size_t *ret_count)
{
	(void)ctx;
	*ret_views = NULL;
	*ret_count = 0;
	return 0;
}

static void test_thread(void **state)
{
	struct cv_history *h = cv_history_new();

	(void)state;
	assert_int_equal(cv_history_start(h, source, NULL), 0);
	cv_history_free(h); /* returns although the next step is seconds away */
	cv_history_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rates),
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_gap),
		cmocka_unit_test(test_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
