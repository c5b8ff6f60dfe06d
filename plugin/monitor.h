/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What anybody on this host may read over a loopback port, if the administrator has asked for it:
 * metrics, the status page, the same as JSON. Read-only; nothing here changes anything.
 */
#ifndef CV_PLUGIN_MONITOR_H
#define CV_PLUGIN_MONITOR_H

#include "plugin/driver.h"
#include "plugin/server.h"

#define CV_MONITOR_BODY_MAX 1024 /* nobody has anything to say */

/* ctx is a struct cv_driver. */
extern const struct cv_http_handler cv_monitor_handler;

/* GET /metrics, also on the daemon's own socket. 0 or -errno with err. */
int cv_monitor_metrics(struct cv_driver *driver, struct cv_http_reply *reply, struct cv_err *err);

#endif
