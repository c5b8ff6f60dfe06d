/* SPDX-License-Identifier: Apache-2.0 */
/* cvol log-level: more, or less, in the log of something that runs already. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"
#include "plugin/client.h"
#include "plugin/cmd.h"
#include "plugin/message.h"
#include "plugin/ownmount.h"
#include "plugin/supervisor.h"

#define TIMEOUT_MS 5000

struct args {
	const char *socket;
	const char *run_dir;
};

/* What `cvol mount` mounted: its worker is asked directly. */
static int set_own_mount(const struct args *a, const char *dir, const struct cv_dict *args,
			 struct cv_err *err)
{
	cv_cleanup_free char *path = cv_ownmount_resolve(dir, err);
	struct cv_ownmount own;
	int r;

	if (!path)
		return -ENOENT;
	r = cv_ownmount_open(a->run_dir, path, false, &own, err);
	if (r < 0)
		return r;
	r = cv_worker_call(own.dir, own.socket, "log", args, TIMEOUT_MS, err);
	cv_ownmount_release(&own);
	return r < 0 ? cv_fail_context(err, "%s", path) : 0;
}

static int set_daemon(const struct args *a, const char *volume, const struct cv_dict *args,
		      struct cv_err *err)
{
	cv_cleanup_free char *body = cv_message_request(volume, NULL, args);
	cv_cleanup_free char *answer = NULL;

	if (!body)
		return cv_fail(err, ENOMEM, "out of memory");
	return cv_client_call(a->socket, "POST", "/cvol/log-level", body, TIMEOUT_MS, &answer, err);
}

static int set(const struct args *a, const char *what, const char *level)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;
	enum cv_log_level parsed;
	struct cv_err err = { 0 };
	int r;

	if (cv_log_level_parse(level, &parsed) < 0)
		return cv_usage_error(&cv_cmd_log_level, "unknown log level '%s'", level);
	r = cv_dict_set(&args, "level", level);
	if (r == 0 && what && *what == '/')
		r = set_own_mount(a, what, &args, &err);
	else if (r == 0)
		r = set_daemon(a, what, &args, &err);
	return r < 0 ? cv_print_failure(&err) : CV_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ 0 },
	};
	struct args a = { .socket = CV_DEFAULT_SOCKET, .run_dir = CV_DEFAULT_RUN_DIR };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == 's')
			a.socket = optarg;
		else if (c == 'r')
			a.run_dir = optarg;
		else
			return cv_usage_error(&cv_cmd_log_level, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (argc - optind == 1)
		return set(&a, NULL, argv[optind]);
	if (argc - optind == 2)
		return set(&a, argv[optind], argv[optind + 1]);
	return cv_usage_error(&cv_cmd_log_level, "expected [VOLUME|DIR] LEVEL");
}

const struct cv_command cv_cmd_log_level = {
	.name = "log-level",
	.args = "[VOLUME|DIR] LEVEL",
	.summary = "Log more, or less, from now on",
	.help = "LEVEL is error, warning, notice, info or debug. Of a mounted VOLUME, or of what\n"
		"'cvol mount' mounted on DIR, until it is unmounted; with neither, of the daemon "
		"and\n"
		"the workers it starts from now on, until the daemon ends.\n\n"
		"  --socket PATH  the daemon's socket (" CV_DEFAULT_SOCKET ")\n"
		"  --run-dir DIR  where mounts without the daemon are remembered "
		"(" CV_DEFAULT_RUN_DIR ")\n",
	.run = run,
};
