/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes as Prometheus' text format (version 0.0.4). The format alone; docs/monitoring.md lists
 * it. */
#ifndef CV_PLUGIN_METRICS_H
#define CV_PLUGIN_METRICS_H

#include <stddef.h>

#include "plugin/message.h"

#define CV_METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* NULL: out of memory. Caller frees. */
char *cv_metrics_format(const struct cv_view *views, size_t count);

#endif
