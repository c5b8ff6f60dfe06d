/* SPDX-License-Identifier: Apache-2.0 */
/* Counters in shared memory: written by one mapping, read through the descriptor. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/cleanup.h"
#include "config/counters.h"
#include "config/loop.h"

struct region {
	int fd;
	void *at;
};

static struct region region_new(void)
{
	struct region r = { .fd = memfd_create("test", MFD_CLOEXEC) };

	assert_true(r.fd >= 0);
	assert_int_equal(ftruncate(r.fd, CV_COUNTERS_OFFSET + CV_COUNTERS_MAX), 0);
	r.at = mmap(NULL, CV_COUNTERS_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd,
		    CV_COUNTERS_OFFSET);
	assert_true(r.at != MAP_FAILED);
	return r;
}

static void region_free(struct region *r)
{
	(void)munmap(r->at, CV_COUNTERS_MAX);
	(void)close(r->fd);
}
#define REGION __attribute__((cleanup(region_free))) struct region

static void test_nothing_there(void **state)
{
	REGION r = region_new();
	struct cv_counters c;

	(void)state;
	assert_int_equal(cv_counters_read(r.fd, &c), -ENODATA);
	assert_int_equal(cv_counters_read(-1, &c), -EBADF);
}

static void test_operations(void **state)
{
	REGION r = region_new();
	struct cv_counters *w = cv_counters_attach(r.at);
	struct cv_counters c;

	(void)state;
	cv_counters_begin(w, 1000);
	cv_counters_begin(w, 2000);
	cv_counters_begin(w, 3000);
	cv_counters_end(w, CV_CALL_READ, 1000, 51000, 4096);
	cv_counters_end(w, CV_CALL_LOOKUP, 2000, 52000, -ENOENT);
	assert_int_equal(cv_counters_read(r.fd, &c), 0);
	assert_int_equal(c.in_flight, 1);
	assert_int_equal(c.progress_ns, 52000);
	assert_int_equal(c.bytes_read, 4096);
	assert_int_equal(c.bytes_written, 0);
	assert_int_equal(cv_counters_operations(&c), 2);
	assert_int_equal(cv_counters_errors(&c), 0);
	assert_int_equal(c.last_error_s, 0);
	cv_counters_end(w, CV_CALL_WRITE, 3000, 53000, -EIO);
	assert_int_equal(cv_counters_read(r.fd, &c), 0);
	assert_int_equal(c.in_flight, 0);
	assert_int_equal(cv_counters_errors(&c), 1);
	assert_int_equal(c.calls[CV_CALL_WRITE].errors, 1);
	assert_non_null(strstr(c.last_error, "write"));
	assert_true(c.last_error_s > 0);
	assert_int_equal(c.latency[CV_LATENCY_READ].sum_ns, 50000);
}

/* The engine's own words stay, the errno that follows from them does not replace them. */
static void test_last_error(void **state)
{
	REGION r = region_new();
	struct cv_counters *w = cv_counters_attach(r.at);
	char longer[1000];
	struct cv_counters c;

	(void)state;
	cv_counters_error(w, "connection lost", (uint64_t)time(NULL));
	cv_counters_begin(w, 1);
	cv_counters_end(w, CV_CALL_WRITE, 1, 2, -EIO);
	assert_int_equal(cv_counters_read(r.fd, &c), 0);
	assert_string_equal(c.last_error, "connection lost");
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	cv_counters_error(w, longer, 1);
	assert_int_equal(cv_counters_read(r.fd, &c), 0);
	assert_int_equal(strlen(c.last_error), sizeof(c.last_error) - 1);
}

/* Prometheus' buckets are "less or equal". */
static void test_buckets(void **state)
{
	REGION r = region_new();
	struct cv_counters *w = cv_counters_attach(r.at);
	const struct cv_histogram *h = &w->latency[CV_LATENCY_META];

	(void)state;
	for (size_t i = 0; i + 1 < CV_BUCKETS; i++) {
		uint64_t ns = cv_bucket_bounds_us[i] * 1000;

		assert_true(i == 0 || cv_bucket_bounds_us[i] > cv_bucket_bounds_us[i - 1]);
		cv_counters_end(w, CV_CALL_OPEN, 0, ns, 0);
		assert_int_equal(h->bucket[i], i == 0 ? 1 : 2);
		cv_counters_end(w, CV_CALL_OPEN, 0, ns + 1000, 0);
		assert_int_equal(h->bucket[i + 1], 1);
	}
	cv_counters_end(w, CV_CALL_OPEN, 0, UINT64_MAX, 0);
	assert_int_equal(h->bucket[CV_BUCKETS - 1], 2);
}

static void test_quantile(void **state)
{
	struct cv_histogram h = { .bucket = { [3] = 50, [5] = 50 } }; /* 100–200 µs, 500–1000 µs */

	(void)state;
	assert_in_range(cv_histogram_quantile_us(&h, 0.25), 140, 160);
	assert_int_equal(cv_histogram_quantile_us(&h, 0.5), 200);
	assert_in_range(cv_histogram_quantile_us(&h, 0.99), 980, 1000);
	h = (struct cv_histogram){ .bucket = { [CV_BUCKETS - 1] = 1 } };
	assert_int_equal(cv_histogram_quantile_us(&h, 0.5), cv_bucket_bounds_us[CV_BUCKETS - 2]);
	h = (struct cv_histogram){ .sum_ns = 0 };
	assert_int_equal(cv_histogram_quantile_us(&h, 0.5), 0);
}

static void test_failures(void **state)
{
	(void)state;
	assert_false(cv_counters_is_failure(0));
	assert_false(cv_counters_is_failure(17));
	assert_false(cv_counters_is_failure(-ENOENT));
	assert_false(cv_counters_is_failure(-EACCES));
	assert_true(cv_counters_is_failure(-EIO));
	assert_true(cv_counters_is_failure(-ETIMEDOUT));
	assert_true(cv_counters_is_failure(-ESTALE));
	assert_true(cv_counters_is_failure(-ENOSPC));
}

/* A successor goes on counting; also after one that was killed in the middle of a text. */
static void test_successor(void **state)
{
	REGION r = region_new();
	struct cv_counters *w = cv_counters_attach(r.at);
	uint64_t started;
	struct cv_counters c;

	(void)state;
	started = w->started_s;
	cv_counters_begin(w, 1);
	cv_counters_end(w, CV_CALL_READ, 1, 2, 10);
	cv_counters_begin(w, 3); /* never ends */
	w->error_sequence++;
	memset(w->last_error, 'y', sizeof(w->last_error));
	assert_int_equal(cv_counters_read(r.fd, &c), 0); /* a bounded number of tries */
	assert_int_equal(strlen(c.last_error), sizeof(c.last_error) - 1);

	w = cv_counters_attach(r.at);
	assert_int_equal(cv_counters_read(r.fd, &c), 0);
	assert_int_equal(c.workers, 2);
	assert_int_equal(c.started_s, started);
	assert_int_equal(c.bytes_read, 10);
	assert_int_equal(c.in_flight, 0);
	assert_int_equal(c.error_sequence % 2, 0);

	w->version = CV_COUNTERS_VERSION + 1; /* another program version's */
	assert_int_equal(cv_counters_read(r.fd, &c), -ENODATA);
	w = cv_counters_attach(r.at);
	assert_int_equal(w->bytes_read, 0);
	assert_int_equal(w->workers, 1);
}

static void test_health(void **state)
{
	const uint64_t ms = 1000000, now = 1000000 * ms;
	struct cv_counters c = { .connected = 1, .connected_change_s = 77, .beat_ns = now };
	uint64_t since;

	(void)state;
	assert_int_equal(cv_counters_health(&c, now, &since), CV_HEALTH_OK);
	assert_int_equal(since, 0);
	c.in_flight = 1;
	c.progress_ns = now - CV_HEALTH_WAITING_MS * ms;
	assert_int_equal(cv_counters_health(&c, now, &since), CV_HEALTH_OK);
	c.progress_ns = now - 10000 * ms;
	assert_int_equal(cv_counters_health(&c, now, &since), CV_HEALTH_WAITING);
	assert_in_range(since, (uint64_t)time(NULL) - 11, (uint64_t)time(NULL) - 9);
	c.in_flight = 0; /* nobody asked for anything */
	assert_int_equal(cv_counters_health(&c, now, &since), CV_HEALTH_OK);
	c.connected = 0;
	assert_int_equal(cv_counters_health(&c, now, &since), CV_HEALTH_WAITING);
	assert_int_equal(since, 77);
	c.beat_ns = now - 60000 * ms;
	assert_int_equal(cv_counters_health(&c, now, &since), CV_HEALTH_HUNG);
	c.beat_ns = c.progress_ns = now + 5 * ms; /* written after the reader looked at its clock */
	c.connected = c.in_flight = 1;
	assert_int_equal(cv_counters_health(&c, now, &since), CV_HEALTH_OK);
}

static void test_names(void **state)
{
	(void)state;
	for (int i = 0; i < CV_CALL_COUNT; i++) {
		assert_non_null(cv_call_name((enum cv_call)i));
		assert_true(cv_latency_class((enum cv_call)i) < CV_LATENCY_COUNT);
	}
	assert_string_equal(cv_call_name(CV_CALL_COUNT), "?");
	assert_string_equal(cv_latency_name(CV_LATENCY_SYNC), "sync");
	assert_string_equal(cv_cache_name(CV_CACHE_LINK), "link");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_there), cmocka_unit_test(test_operations),
		cmocka_unit_test(test_last_error),    cmocka_unit_test(test_buckets),
		cmocka_unit_test(test_quantile),      cmocka_unit_test(test_failures),
		cmocka_unit_test(test_successor),     cmocka_unit_test(test_health),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
