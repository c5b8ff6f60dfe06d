/* SPDX-License-Identifier: Apache-2.0 */
/* cvol status: what the daemon knows, as a table or as JSON. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/client.h"
#include "plugin/cmd.h"
#include "plugin/message.h"

#define TIMEOUT_MS 10000

static int width(int now, const char *text)
{
	int len = (int)strlen(text);

	return len > now ? len : now;
}

static void print_table(const struct cv_view *views, size_t count)
{
	int name = 6, source = 6;

	for (size_t i = 0; i < count; i++) {
		name = width(name, views[i].name);
		source = width(source, views[i].source);
	}
	(void)printf("%-*s  %-*s  %-8s  %6s  %s\n", name, "VOLUME", source, "SOURCE", "STATE",
		     "MOUNTS", "SERVER");
	for (size_t i = 0; i < count; i++) {
		(void)printf("%-*s  %-*s  %-8s  %6u  %s\n", name, views[i].name, source,
			     views[i].source, views[i].state, views[i].mounts, views[i].server);
		if (*views[i].error)
			(void)printf("%-*s  ! %s\n", name, "", views[i].error);
	}
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "socket", required_argument, NULL, 's' },
		{ 0 },
	};
	const char *socket_path = CV_DEFAULT_SOCKET;
	cv_cleanup_free char *body = NULL;
	struct cv_view *views = NULL;
	struct cv_err err = { 0 };
	size_t count = 0;
	bool json = false;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == 'j')
			json = true;
		else if (c == 's')
			socket_path = optarg;
		else
			return cv_usage_error(&cv_cmd_status, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (optind < argc)
		return cv_usage_error(&cv_cmd_status, "unexpected argument '%s'", argv[optind]);
	if (cv_client_call(socket_path, "GET", "/cvol/status", NULL, TIMEOUT_MS, &body, &err) < 0)
		return cv_print_failure(&err);
	if (json) {
		(void)fputs(body, stdout);
		return CV_EXIT_OK;
	}
	if (cv_answer_views(body, &views, &count) < 0) {
		(void)cv_fail(&err, EPROTO, "the daemon's answer makes no sense: other version?");
		return cv_print_failure(&err);
	}
	print_table(views, count);
	cv_views_free(views, count);
	return CV_EXIT_OK;
}

const struct cv_command cv_cmd_status = {
	.name = "status",
	.args = "[--json] [--socket PATH]",
	.summary = "Show volumes, mounts and their health",
	.help = "  --json         everything, for programs\n"
		"  --socket PATH  the daemon's socket (" CV_DEFAULT_SOCKET ")\n",
	.run = run,
};
