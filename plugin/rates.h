/* SPDX-License-Identifier: Apache-2.0 */
/* How fast: the difference of two readings of a mount's counters. */
#ifndef CV_PLUGIN_RATES_H
#define CV_PLUGIN_RATES_H

#include <stdbool.h>

#include "config/counters.h"

struct cv_rates {
	double interval_s; /* what it was measured over; 0: nothing is known */
	double operations; /* of the engine, per second */
	double errors;	   /* failures among them, per second */
	double bytes_read; /* per second */
	double bytes_written;
	double latency_us; /* mean of an operation; 0: there were none */
};

/*
 * False, and nothing known, when the two are not of the same mount or no time has passed between
 * them.
 */
bool cv_rates_between(const struct cv_counters *before, const struct cv_counters *after,
		      double interval_s, struct cv_rates *ret);
/* The operations between the two: all classes together, or one. */
void cv_histogram_between(const struct cv_histogram *before, const struct cv_histogram *after,
			  struct cv_histogram *ret);
void cv_histogram_add(struct cv_histogram *to, const struct cv_histogram *more);

#endif
