/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The volume plugin protocol: which call does what, which HTTP status goes with it, and what
 * happens when the client did not wait for the answer. Also the calls of our own command line
 * (/cvol/…).
 */
#ifndef CV_PLUGIN_DRIVER_H
#define CV_PLUGIN_DRIVER_H

#include "config/dict.h"
#include "plugin/history.h"
#include "plugin/server.h"
#include "plugin/volumes.h"

struct cv_driver {
	struct cv_volumes *volumes;
	struct cv_history *history; /* borrowed; may be NULL: no rates */
	const char *scope;	    /* "local" or "global" */
	struct cv_dict status;	    /* about the daemon itself, for /cvol/status */
};

/* ctx is a struct cv_driver. */
extern const struct cv_http_handler cv_driver_handler;

#endif
