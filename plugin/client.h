/* SPDX-License-Identifier: Apache-2.0 */
/* The command line's side of the daemon's socket: one HTTP request, one answer, with a time limit.
 */
#ifndef CV_PLUGIN_CLIENT_H
#define CV_PLUGIN_CLIENT_H

#include "config/dict.h"
#include "config/err.h"

/*
 * body may be NULL. *ret_body is the answer's, NUL-terminated; caller frees. An answer that carries
 * an Err is a failure with that text.
 */
int cv_client_call(const char *socket_path, const char *method, const char *path, const char *body,
		   int timeout_ms, char **ret_body, struct cv_err *err);

#endif
