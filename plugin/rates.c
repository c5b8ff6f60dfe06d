/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/rates.h"

#include <string.h>

/* Words of a worker that is being replaced may go back by one or two: that is no traffic. */
static double growth(uint64_t before, uint64_t after)
{
	return after > before ? (double)(after - before) : 0;
}

bool cv_rates_between(const struct cv_counters *before, const struct cv_counters *after,
		      double interval_s, struct cv_rates *ret)
{
	double operations;

	memset(ret, 0, sizeof(*ret));
	if (interval_s <= 0 || before->started_s != after->started_s ||
	    after->workers < before->workers)
		return false;
	operations = growth(cv_counters_operations(before), cv_counters_operations(after));
	ret->interval_s = interval_s;
	ret->operations = operations / interval_s;
	ret->errors = growth(cv_counters_errors(before), cv_counters_errors(after)) / interval_s;
	ret->bytes_read = growth(before->bytes_read, after->bytes_read) / interval_s;
	ret->bytes_written = growth(before->bytes_written, after->bytes_written) / interval_s;
	if (operations > 0)
		ret->latency_us = growth(cv_counters_latency_sum_ns(before),
					 cv_counters_latency_sum_ns(after)) /
				  1000 / operations;
	return true;
}

void cv_histogram_between(const struct cv_histogram *before, const struct cv_histogram *after,
			  struct cv_histogram *ret)
{
	for (size_t i = 0; i < CV_BUCKETS; i++)
		ret->bucket[i] = after->bucket[i] > before->bucket[i]
					 ? after->bucket[i] - before->bucket[i]
					 : 0;
	ret->sum_ns = after->sum_ns > before->sum_ns ? after->sum_ns - before->sum_ns : 0;
}

void cv_histogram_add(struct cv_histogram *to, const struct cv_histogram *more)
{
	for (size_t i = 0; i < CV_BUCKETS; i++)
		to->bucket[i] += more->bucket[i];
	to->sum_ns += more->sum_ns;
}
