/* SPDX-License-Identifier: Apache-2.0 */
/* cvol status: volumes and mounts at a glance, once or again and again. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/mountpoint.h"
#include "plugin/overview.h"
#include "plugin/process.h"
#include "plugin/table.h"

#define ERROR_SHOWN_S 3600 /* how long the error of a volume that works again is shown */
#define WATCH_S	      2

struct args {
	const char *socket;
	const char *run_dir;
	bool json;
	bool holders;
	double watch_s; /* 0: once */
};

static bool error_matters(const struct cv_view *v, int64_t now_s)
{
	bool well = v->state == CV_VOLUME_OK || v->state == CV_VOLUME_IDLE;

	return *v->error && (!well || (v->error_s && now_s - v->error_s < ERROR_SHOWN_S));
}

/* Who keeps it mounted: as counted, and as seen. */
static void add_holders(struct cv_table *t, const struct cv_view *v)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	char users[256] = "";

	for (size_t i = 0; i < v->holder_count; i++)
		cv_table_note(t, CV_PLAIN, "%u mount%s for ID %.64s%s", v->holders[i].mounts,
			      v->holders[i].mounts == 1 ? "" : "s", v->holders[i].id,
			      v->holders[i].stale ? ", of an earlier dockerd" : "");
	if (!v->worker || cv_mount_find(v->mountpoint, &entry) < 0)
		return;
	cv_mountpoint_users(v->mountpoint, makedev(entry.dev_major, entry.dev_minor), users,
			    sizeof(users));
	cv_table_note(t, CV_PLAIN, "processes: %s", *users ? users : "none");
}

static void add_row(struct cv_table *t, const struct cv_view *v, int64_t now_s)
{
	double latency = v->rates.latency_us > 0 ? v->rates.latency_us : (double)v->counters.rtt_us;
	uint64_t errors = v->counted ? cv_counters_errors(&v->counters) : 0;
	char buf[CV_HUMAN];

	cv_table_add(t, CV_PLAIN, "%s", v->name);
	cv_table_add(t, CV_PLAIN, "%s", v->source);
	cv_table_add(t, cv_colour_of_state(v->state), "%s", cv_volume_state_name(v->state));
	cv_table_add(t, CV_PLAIN, "%s", cv_human_age(v->since ? now_s - v->since : -1, buf));
	if (v->own)
		cv_table_add(t, CV_PLAIN, "cvol mount");
	else
		cv_table_add(t, CV_PLAIN, v->mounts == 1 ? "%u user" : "%u users", v->mounts);
	cv_table_add(t, CV_PLAIN, "%s", cv_human_us(v->counted ? latency : 0, buf));
	cv_table_add(t, CV_PLAIN, "%s", cv_human_bytes(v->rates.bytes_read, buf));
	cv_table_add(t, CV_PLAIN, "%s", cv_human_bytes(v->rates.bytes_written, buf));
	cv_table_add(t, errors ? CV_RED : CV_PLAIN, "%llu", (unsigned long long)errors);
	cv_table_add(t, CV_PLAIN, "%llu", (unsigned long long)v->counters.reconnects);
	if (error_matters(v, now_s)) {
		char age[CV_HUMAN];

		if (v->error_s)
			cv_table_note(t, CV_RED, "! %s ago: %s",
				      cv_human_age(now_s - v->error_s, age), v->error);
		else
			cv_table_note(t, CV_RED, "! %s", v->error);
	}
}

static void print_table(const struct cv_overview *o, bool holders)
{
	static const struct cv_column columns[] = {
		{ "VOLUME", .shrink = true },
		{ "SOURCE", .shrink = true },
		{ "STATE" },
		{ "SINCE", .right = true },
		{ "MOUNTED BY" },
		{ "LATENCY", .right = true },
		{ "READ/s", .right = true },
		{ "WRITE/s", .right = true },
		{ "ERRORS", .right = true },
		{ "RECONN", .right = true },
	};
	int64_t now_s = (int64_t)time(NULL);
	struct cv_table t;

	cv_table_init(&t, columns, CV_ARRAY_SIZE(columns));
	for (size_t i = 0; i < o->count; i++) {
		add_row(&t, &o->views[i], now_s);
		if (holders)
			add_holders(&t, &o->views[i]);
	}
	cv_table_print(&t, stdout, cv_colour_wanted(), cv_terminal_width());
	cv_table_release(&t);
}

static int print_json(const struct cv_overview *o)
{
	cv_cleanup_free char *text =
		cv_message_status(o->views, o->count, o->have_daemon ? &o->daemon : NULL);

	if (!text)
		return -1;
	(void)fputs(text, stdout);
	return fflush(stdout);
}

/* One reading, printed; before: the one before it, for rates. Returns enum cv_exit. */
static int show(const struct args *a, const struct cv_overview *before, struct cv_overview *ret)
{
	struct cv_err err = { 0 };
	int r = cv_overview_load(a->socket, a->run_dir, ret, &err);

	if (r < 0 && !cv_overview_no_daemon(r))
		return cv_print_failure(&err);
	if (r < 0 && ret->count == 0 && before->count == 0 && !a->json)
		return cv_print_failure(&err);
	cv_overview_rates(before, ret, a->watch_s > 0 && before->taken_ms);
	if (a->json)
		return print_json(ret) < 0 ? CV_EXIT_FAILURE : CV_EXIT_OK;
	if (a->watch_s > 0 && cv_terminal_width())
		(void)fputs("\033[H\033[J", stdout);
	print_table(ret, a->holders);
	/* Whoever mounts without Docker has no daemon, and that is no failure. */
	if (r < 0 && !before->taken_ms)
		(void)fprintf(stderr,
			      "cvol: no daemon runs on %s; shown is what 'cvol mount' mounted\n",
			      a->socket);
	return fflush(stdout) == 0 ? CV_EXIT_OK : CV_EXIT_FAILURE;
}

static int watch(const struct args *a)
{
	cv_cleanup_overview struct cv_overview before = { .daemon = CV_DICT_INIT };
	int r;

	for (;;) {
		struct cv_overview now = { .daemon = CV_DICT_INIT };

		r = show(a, &before, &now);
		cv_overview_release(&before);
		before = now;
		if (r != CV_EXIT_OK || a->watch_s <= 0)
			return r;
		cv_sleep_s(a->watch_s);
	}
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "watch", optional_argument, NULL, 'w' },
		{ "socket", required_argument, NULL, 's' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ "holders", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct args a = { .socket = CV_DEFAULT_SOCKET, .run_dir = CV_DEFAULT_RUN_DIR };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":w", options, NULL)) != -1) {
		if (c == 'j')
			a.json = true;
		else if (c == 'h')
			a.holders = true;
		else if (c == 's')
			a.socket = optarg;
		else if (c == 'r')
			a.run_dir = optarg;
		else if (c == 'w' && !optarg)
			a.watch_s = WATCH_S;
		else if (c == 'w') {
			if (cv_parse_interval(optarg, &a.watch_s) < 0)
				return cv_usage_error(&cv_cmd_status,
						      "'%s' is no interval (100ms to 1h)", optarg);
		} else
			return cv_usage_error(&cv_cmd_status, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (optind < argc)
		return cv_usage_error(&cv_cmd_status, "unexpected argument '%s'", argv[optind]);
	return watch(&a);
}

const struct cv_command cv_cmd_status = {
	.name = "status",
	.args = "[--watch[=SECONDS]] [--holders] [--json] [--socket PATH] [--run-dir DIR]",
	.summary = "Show volumes, mounts and their health",
	.help = "Volumes of the daemon, and what 'cvol mount' mounted without one.\n\n"
		"  --watch[=SECONDS]  again every 2 (or so many) seconds, until interrupted\n"
		"  --holders          also who keeps each volume mounted: mount IDs and processes\n"
		"  --json             everything there is to know, for programs; with --watch one\n"
		"                     object a line\n"
		"  --socket PATH      the daemon's socket (" CV_DEFAULT_SOCKET ")\n"
		"  --run-dir DIR      where mounts without the daemon are remembered "
		"(" CV_DEFAULT_RUN_DIR ")\n\n"
		"States: idle (not mounted), connecting, ok, waiting (for the server), draining "
		"(unused,\n"
		"data still on its way), failed (the worker is gone), hung, broken (state file).\n",
	.run = run,
};
