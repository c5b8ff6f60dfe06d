/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The status page: one HTML document that needs nothing else, no scripts, no other files. Text from
 * outside is escaped.
 */
#ifndef CV_PLUGIN_PAGE_H
#define CV_PLUGIN_PAGE_H

#include <stddef.h>

#include "plugin/history.h"
#include "plugin/message.h"

/* history may be NULL. NULL: out of memory. Caller frees. */
char *cv_page_format(const struct cv_view *views, size_t count, struct cv_history *history,
		     int64_t now_s);

#endif
