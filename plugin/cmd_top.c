/* SPDX-License-Identifier: Apache-2.0 */
/* cvol top: what the mounts are doing right now, the busiest first. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/overview.h"
#include "plugin/process.h"
#include "plugin/table.h"

#define INTERVAL_S 1
#define CALLS_MAX  3 /* the most frequent ones, named */

struct args {
	const char *socket;
	const char *run_dir;
	bool json;
	double interval_s;
	uint64_t rounds; /* 0: for ever */
};

static int busier(const void *a, const void *b)
{
	const struct cv_view *x = a, *y = b;
	double dx = x->rates.operations, dy = y->rates.operations;

	return dx < dy ? 1 : dx > dy ? -1 : strcmp(x->name, y->name);
}

/* "read 80% getattr 15% open 5%" */
static void name_calls(const struct cv_counters *before, const struct cv_counters *after, char *out,
		       size_t size)
{
	uint64_t done[CV_CALL_COUNT], total = 0;
	size_t used = 0;

	for (size_t i = 0; i < CV_CALL_COUNT; i++) {
		done[i] = after->calls[i].done > before->calls[i].done
				  ? after->calls[i].done - before->calls[i].done
				  : 0;
		total += done[i];
	}
	*out = '\0';
	for (int n = 0; n < CALLS_MAX && total && used < size; n++) {
		size_t best = 0;

		for (size_t i = 1; i < CV_CALL_COUNT; i++) {
			if (done[i] > done[best])
				best = i;
		}
		if (!done[best])
			return;
		used += (size_t)snprintf(out + used, size - used, "%s%s %llu%%", n ? " " : "",
					 cv_call_name((enum cv_call)best),
					 (unsigned long long)(done[best] * 100 / total));
		done[best] = 0;
	}
}

static uint64_t slow_us(const struct cv_counters *before, const struct cv_counters *after)
{
	struct cv_histogram all = { .sum_ns = 0 };

	for (size_t i = 0; i < CV_LATENCY_COUNT; i++) {
		struct cv_histogram h;

		cv_histogram_between(&before->latency[i], &after->latency[i], &h);
		cv_histogram_add(&all, &h);
	}
	return cv_histogram_quantile_us(&all, 0.99);
}

static void add_row(struct cv_table *t, const struct cv_view *v, const struct cv_view *old)
{
	const struct cv_counters *before = old && old->counted ? &old->counters : &v->counters;
	const struct cv_rates *r = &v->rates;
	char buf[CV_HUMAN], calls[128];

	name_calls(before, &v->counters, calls, sizeof(calls));
	cv_table_add(t, CV_PLAIN, "%s", v->name);
	cv_table_add(t, cv_colour_of_state(v->state), "%s", cv_volume_state_name(v->state));
	cv_table_add(t, CV_PLAIN, "%s", cv_human_number(r->operations, buf));
	cv_table_add(t, CV_PLAIN, "%s", cv_human_bytes(r->bytes_read, buf));
	cv_table_add(t, CV_PLAIN, "%s", cv_human_bytes(r->bytes_written, buf));
	cv_table_add(t, CV_PLAIN, "%s", cv_human_us(r->latency_us, buf));
	cv_table_add(t, CV_PLAIN, "%s", cv_human_us((double)slow_us(before, &v->counters), buf));
	cv_table_add(t, CV_PLAIN, "%llu", (unsigned long long)v->counters.in_flight);
	cv_table_add(t, CV_PLAIN, "%s", cv_human_bytes((double)v->counters.pending_bytes, buf));
	cv_table_add(t, r->errors > 0 ? CV_RED : CV_PLAIN, "%s", cv_human_number(r->errors, buf));
	cv_table_add(t, CV_DIM, "%s", calls);
}

static void print_table(const struct cv_overview *o, const struct cv_overview *before)
{
	static const struct cv_column columns[] = {
		{ "VOLUME", .shrink = true }, { "STATE" },
		{ "OPS/s", .right = true },   { "READ/s", .right = true },
		{ "WRITE/s", .right = true }, { "LATENCY", .right = true },
		{ "p99", .right = true },     { "QUEUE", .right = true },
		{ "PENDING", .right = true }, { "ERR/s", .right = true },
		{ "CALLS", .shrink = true },
	};
	struct cv_table t;

	cv_table_init(&t, columns, CV_ARRAY_SIZE(columns));
	for (size_t i = 0; i < o->count; i++) {
		if (o->views[i].counted)
			add_row(&t, &o->views[i], cv_overview_find(before, &o->views[i]));
	}
	if (cv_terminal_width())
		(void)fputs("\033[H\033[J", stdout);
	cv_table_print(&t, stdout, cv_colour_wanted(), cv_terminal_width());
	cv_table_release(&t);
}

/* *before is replaced by what is shown now. */
static int show(const struct args *a, struct cv_overview *before)
{
	struct cv_overview now = { .daemon = CV_DICT_INIT };
	struct cv_err err = { 0 };
	int r = cv_overview_load(a->socket, a->run_dir, &now, &err);

	if (r < 0 && !(cv_overview_no_daemon(r) && (now.count || before->count))) {
		cv_overview_release(&now);
		return cv_print_failure(&err);
	}
	cv_overview_rates(before, &now, true);
	qsort(now.views, now.count, sizeof(*now.views), busier);
	if (a->json) {
		cv_cleanup_free char *text = cv_message_status(
			now.views, now.count, now.have_daemon ? &now.daemon : NULL);

		(void)fputs(text ? text : "", stdout);
	} else {
		print_table(&now, before);
	}
	cv_overview_release(before);
	*before = now;
	return fflush(stdout) == 0 ? CV_EXIT_OK : CV_EXIT_FAILURE;
}

static int top(const struct args *a)
{
	cv_cleanup_overview struct cv_overview before = { .daemon = CV_DICT_INIT };
	struct cv_err err = { 0 };
	int r = cv_overview_load(a->socket, a->run_dir, &before, &err);

	if (r < 0 && !(cv_overview_no_daemon(r) && before.count))
		return cv_print_failure(&err);
	for (uint64_t n = 0; a->rounds == 0 || n < a->rounds; n++) {
		cv_sleep_s(a->interval_s);
		r = show(a, &before);
		if (r != CV_EXIT_OK)
			return r;
	}
	return CV_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "interval", required_argument, NULL, 'i' },
		{ "rounds", required_argument, NULL, 'n' },
		{ "socket", required_argument, NULL, 's' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ 0 },
	};
	struct args a = { .socket = CV_DEFAULT_SOCKET,
			  .run_dir = CV_DEFAULT_RUN_DIR,
			  .interval_s = INTERVAL_S };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":i:n:", options, NULL)) != -1) {
		if (c == 'j')
			a.json = true;
		else if (c == 's')
			a.socket = optarg;
		else if (c == 'r')
			a.run_dir = optarg;
		else if (c == 'i' && cv_parse_interval(optarg, &a.interval_s) < 0)
			return cv_usage_error(&cv_cmd_top, "'%s' is no interval (100ms to 1h)",
					      optarg);
		else if (c == 'n' && cv_parse_u64(optarg, 10, UINT32_MAX, &a.rounds) < 0)
			return cv_usage_error(&cv_cmd_top, "'%s' is no number", optarg);
		else if (c != 'i' && c != 'n')
			return cv_usage_error(&cv_cmd_top, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (optind < argc)
		return cv_usage_error(&cv_cmd_top, "unexpected argument '%s'", argv[optind]);
	return top(&a);
}

const struct cv_command cv_cmd_top = {
	.name = "top",
	.args = "[-i SECONDS] [-n ROUNDS] [--json] [--socket PATH] [--run-dir DIR]",
	.summary = "Show what mounts are doing right now",
	.help = "The busiest first, until interrupted: operations, bytes and errors per second, "
		"mean\n"
		"and 99th percentile of their latency, operations waiting for the server, written\n"
		"bytes not on the server yet, and the most frequent operations.\n\n"
		"  -i, --interval SECONDS  how long to look each time (1)\n"
		"  -n, --rounds ROUNDS     stop after so many times\n"
		"  --json                  one object a line, for programs\n"
		"  --socket PATH           the daemon's socket (" CV_DEFAULT_SOCKET ")\n"
		"  --run-dir DIR           where mounts without the daemon are remembered "
		"(" CV_DEFAULT_RUN_DIR ")\n",
	.run = run,
};
