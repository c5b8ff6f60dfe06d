/* SPDX-License-Identifier: Apache-2.0 */
/* cvol upgrade-workers: mounted volumes get the installed version while they are used. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/cleanup.h"
#include "plugin/client.h"
#include "plugin/cmd.h"
#include "plugin/message.h"

#define TIMEOUT_MS 600000 /* a few seconds for each volume at worst */

static void print_line(void *ctx, const char *line)
{
	size_t *count = ctx;

	(void)puts(line ? line : "");
	(*count)++;
}

static int upgrade(const char *socket, bool json)
{
	cv_cleanup_free char *body = NULL;
	struct cv_err err = { 0 };
	size_t count = 0;

	if (cv_client_call(socket, "POST", "/cvol/upgrade-workers", "{}", TIMEOUT_MS, &body, &err) <
	    0)
		return cv_print_failure(&err);
	if (json)
		(void)fputs(body, stdout);
	else if (cv_answer_lines(body, "Found", print_line, &count) < 0)
		return CV_EXIT_FAILURE;
	else if (count == 0)
		(void)puts("nothing is mounted");
	return CV_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "socket", required_argument, NULL, 's' },
		{ 0 },
	};
	const char *socket = CV_DEFAULT_SOCKET;
	bool json = false;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == 'j')
			json = true;
		else if (c == 's')
			socket = optarg;
		else
			return cv_usage_error(&cv_cmd_upgrade_workers,
					      "unknown or incomplete option %s", argv[optind - 1]);
	}
	if (optind < argc)
		return cv_usage_error(&cv_cmd_upgrade_workers, "unexpected argument '%s'",
				      argv[optind]);
	return upgrade(socket, json);
}

const struct cv_command cv_cmd_upgrade_workers = {
	.name = "upgrade-workers",
	.args = "[--json] [--socket PATH]",
	.summary = "Let the installed version serve what is mounted",
	.help = "  --json         {\"Found\": [line, …]}\n"
		"  --socket PATH  the daemon's socket (" CV_DEFAULT_SOCKET ")\n\n"
		"Each mounted volume's worker hands over to the program that is installed now; who "
		"uses the volume\nsees a pause of milliseconds. Where the new one cannot go on "
		"with "
		"the old one's memory, a line\nsays so, and the old one goes on until the volume "
		"is mounted anew.\n",
	.run = run,
};
