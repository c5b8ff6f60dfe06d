/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of the command line: one file each, one table in main.c. */
#ifndef CV_PLUGIN_CMD_H
#define CV_PLUGIN_CMD_H

#include <stdbool.h>

#include "config/err.h"

#define CV_DEFAULT_SOCKET    "/run/docker/plugins/cvol.sock"
#define CV_DEFAULT_STATE_DIR "/var/lib/cvol"
#define CV_DEFAULT_RUN_DIR   "/run/cvol"

enum cv_exit { CV_EXIT_OK = 0, CV_EXIT_FAILURE = 1, CV_EXIT_USAGE = 2 };

struct cv_command {
	const char *name;
	const char *args;		   /* after the name, in usage lines */
	const char *summary;		   /* one line */
	const char *help;		   /* what follows the usage line; ends with a newline */
	int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns enum cv_exit */
};

extern const struct cv_command cv_cmd_daemon, cv_cmd_mount, cv_cmd_unmount, cv_cmd_status,
	cv_cmd_volume, cv_cmd_options, cv_cmd_gc, cv_cmd_top, cv_cmd_check, cv_cmd_doctor,
	cv_cmd_log_level, cv_cmd_remote, cv_cmd_secret, cv_cmd_stage, cv_cmd_unstage,
	cv_cmd_publish, cv_cmd_unpublish, cv_cmd_upgrade_workers;

/* "cvol: text" on stderr; returns CV_EXIT_USAGE and CV_EXIT_FAILURE. */
__attribute__((format(printf, 2, 3))) int cv_usage_error(const struct cv_command *command,
							 const char *fmt, ...);
int cv_print_failure(const struct cv_err *err);
/* "2", "500ms", "1m": 100 ms to an hour. 0, or -1 when it is none. */
int cv_parse_interval(const char *text, double *ret_s);
/*
 * How a command for scripts ended (docs/scripting.md): one JSON object on stdout, or, without json,
 * the failure's text on stderr. r: 0 or -errno. Returns the exit status.
 */
struct cv_outcome {
	bool json;
	bool already;		/* there was nothing to do */
	const char *source;	/* NULL: not said */
	const char *mountpoint; /* likewise */
};
int cv_print_outcome(const struct cv_outcome *outcome, int r, const struct cv_err *err);

/* The help text of a command, on stdout; returns CV_EXIT_OK. */
int cv_print_help(const struct cv_command *command);

#endif
