/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last half hour of every volume, for rates and graphs: a ring of rates each, filled by a
 * thread of its own that reads counters, which never waits. Thread-safe.
 */
#ifndef CV_PLUGIN_HISTORY_H
#define CV_PLUGIN_HISTORY_H

#include <stddef.h>

#include "config/err.h"
#include "plugin/message.h"

#define CV_HISTORY_STEP_MS 5000
#define CV_HISTORY_MAX	   360 /* samples: 30 minutes */

struct cv_history;

/* What the thread asks every step. Returns 0 or -errno; the views are freed with cv_views_free().
 */
typedef int (*cv_history_source)(void *ctx, struct cv_view **ret_views, size_t *ret_count);

struct cv_history *cv_history_new(void); /* NULL: out of memory */
/* Starts the thread; source and ctx must outlive the history. 0 or -errno. */
int cv_history_start(struct cv_history *history, cv_history_source source, void *ctx);
/* Stops the thread first. NULL is fine. */
void cv_history_free(struct cv_history *history);

/* One step: what the thread does. Volumes that are not in views any more are forgotten. */
void cv_history_sample(struct cv_history *history, const struct cv_view *views, size_t count,
		       uint64_t now_ms);
/* Fills in the rates of the last step. history may be NULL. */
void cv_history_fill(struct cv_history *history, struct cv_view *views, size_t count);
/* The newest last; returns how many, at most max. Unknown steps have interval_s 0. */
size_t cv_history_get(struct cv_history *history, const char *volume, struct cv_rates *ret,
		      size_t max);

#endif
