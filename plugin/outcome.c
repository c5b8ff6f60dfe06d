/* SPDX-License-Identifier: Apache-2.0 */
/* How a command ended, for scripts: the objects of docs/scripting.md. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "config/cleanup.h"
#include "plugin/cmd.h"
#include "plugin/json.h"

int cv_print_outcome(const struct cv_outcome *o, int r, const struct cv_err *err)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();
	cv_cleanup_free char *text = NULL;
	const char *name = strerrorname_np(-r);
	bool ok;

	if (!o->json)
		return r < 0 ? cv_print_failure(err) : CV_EXIT_OK;
	ok = root && cv_json_add_text(root, "status", r < 0 ? "Failure" : "Success") &&
	     (r >= 0 || (cv_json_add_text(root, "code", name ? name : "EIO") &&
			 cv_json_add_text(root, "message", err->text))) &&
	     (r < 0 || cv_json_add(root, "already", json_object_new_boolean(o->already))) &&
	     (!o->mountpoint || cv_json_add_text(root, "mountpoint", o->mountpoint)) &&
	     (!o->source || cv_json_add_text(root, "source", o->source));
	text = cv_json_format(root, ok);
	(void)fputs(text ? text : "{\"status\":\"Failure\"}\n", stdout);
	return r < 0 ? CV_EXIT_FAILURE : CV_EXIT_OK;
}
