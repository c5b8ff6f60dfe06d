/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the mount's shared counters (config/counters.h) up to date: operations are counted where
 * they end (backends/backend.c); this samples the rest, now and then, on the loop's own time.
 */
#ifndef CV_FUSE_METER_H
#define CV_FUSE_METER_H

#include "config/counters.h"
#include "config/loop.h"

struct cv_fs;

struct cv_meter {
	struct cv_fs *fs; /* NULL: not started */
	struct cv_counters *counters;
	struct cv_timer timer;
	uint64_t operations; /* at the last sample */
	/* What earlier workers had counted, and what of the engine's own is counted already. */
	uint64_t requests_before;
	uint64_t write_errors_before;
	uint64_t reconnects_seen;
	uint64_t error_seen_s;
};

/* The mount is connected, the shared memory mapped. From here on its operations are counted. */
void cv_meter_start(struct cv_meter *meter, struct cv_fs *fs);
void cv_meter_stop(struct cv_meter *meter); /* no-op when not started */

#endif
