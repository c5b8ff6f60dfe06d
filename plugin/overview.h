/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything the command line can find out about volumes and mounts: what the daemon says, and what
 * `cvol mount` mounted without it. Bounded: a hanging worker costs a fraction of a second.
 */
#ifndef CV_PLUGIN_OVERVIEW_H
#define CV_PLUGIN_OVERVIEW_H

#include "config/dict.h"
#include "config/err.h"
#include "plugin/message.h"

struct cv_overview {
	struct cv_view *views; /* owned; the daemon's volumes first */
	size_t count;
	bool have_daemon;
	struct cv_dict daemon; /* about itself */
	uint64_t taken_ms;     /* cv_clock_ms() */
};
void cv_overview_release(struct cv_overview *overview);
#define cv_cleanup_overview __attribute__((cleanup(cv_overview_release)))

/*
 * -ENOENT or -ECONNREFUSED: no daemon runs; the overview has the other mounts, and err says so.
 * Another -errno: there is one, but it could not be asked.
 */
int cv_overview_load(const char *socket_path, const char *run_dir, struct cv_overview *ret,
		     struct cv_err *err);
bool cv_overview_no_daemon(int r);

/* The volume or mount of the same name, borrowed; NULL: it is not there. */
const struct cv_view *cv_overview_find(const struct cv_overview *overview,
				       const struct cv_view *like);

/* Rates from two overviews, for what has none yet or, fresh, for all. */
void cv_overview_rates(const struct cv_overview *before, struct cv_overview *after, bool fresh);

#endif
