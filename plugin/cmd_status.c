/* SPDX-License-Identifier: Apache-2.0 */
/* cvol status: what the daemon knows, as a table or as JSON. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/client.h"
#include "plugin/cmd.h"
#include "plugin/message.h"
#include "plugin/mountpoint.h"
#include "plugin/process.h"
#include "plugin/state.h"

#define TIMEOUT_MS 10000

static int width(int now, const char *text)
{
	int len = (int)strlen(text);

	return len > now ? len : now;
}

/* Who keeps it mounted: as counted, and as seen. */
static void print_holders(const struct cv_view *v)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	char users[256] = "";

	for (size_t i = 0; i < v->holder_count; i++)
		(void)printf("  %u mount%s for ID %.64s%s\n", v->holders[i].mounts,
			     v->holders[i].mounts == 1 ? "" : "s", v->holders[i].id,
			     v->holders[i].stale ? ", of an earlier dockerd" : "");
	if (!v->worker || cv_mount_find(v->mountpoint, &entry) < 0)
		return;
	cv_mountpoint_users(v->mountpoint, makedev(entry.dev_major, entry.dev_minor), users,
			    sizeof(users));
	(void)printf("  processes: %s\n", *users ? users : "none");
}

static void print_table(const struct cv_view *views, size_t count, bool holders)
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
		if (holders)
			print_holders(&views[i]);
	}
}

/* What `cvol mount` mounted; a dead one shows as such. */
static void add_own_mount(const char *path, const char *file, struct cv_view *view)
{
	cv_cleanup_record struct cv_record rec = { 0 };
	cv_cleanup_close int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cv_cleanup_close int worker = -1;

	if (dir < 0 || cv_record_load(dir, file, &rec, NULL) < 0)
		return;
	worker = cv_process_open(rec.worker, rec.worker_start);
	view->state = worker >= 0 ? "mounted" : "failed";
	view->mounts = 1;
	view->worker = worker >= 0 ? rec.worker : 0;
	view->name = cv_steal(&rec.volume);
	view->mountpoint = cv_steal(&rec.mountpoint);
	view->source = cv_steal(&rec.source);
	view->server = cv_steal(&rec.server);
	view->error = strdup("");
}

static void add_own_mounts(const char *run_dir, struct cv_view **views, size_t *count)
{
	cv_cleanup_free char *path = cv_sprintf("%s/mounts", run_dir);
	cv_cleanup_closedir DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);
		struct cv_view view = { 0 };
		struct cv_view *bigger;

		if (len < 6 || strcmp(entry->d_name + len - 5, ".json") != 0)
			continue;
		add_own_mount(path, entry->d_name, &view);
		bigger = view.name && view.error ? realloc(*views, (*count + 1) * sizeof(**views))
						 : NULL;
		if (!bigger) {
			cv_view_release(&view);
			continue;
		}
		*views = bigger;
		bigger[(*count)++] = view;
	}
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "socket", required_argument, NULL, 's' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ "holders", no_argument, NULL, 'h' },
		{ 0 },
	};
	const char *socket_path = CV_DEFAULT_SOCKET, *run_dir = CV_DEFAULT_RUN_DIR;
	cv_cleanup_free char *body = NULL;
	struct cv_view *views = NULL;
	struct cv_err err = { 0 };
	size_t count = 0;
	bool json = false, holders = false;
	int c, r;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == 'j')
			json = true;
		else if (c == 's')
			socket_path = optarg;
		else if (c == 'r')
			run_dir = optarg;
		else if (c == 'h')
			holders = true;
		else
			return cv_usage_error(&cv_cmd_status, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (optind < argc)
		return cv_usage_error(&cv_cmd_status, "unexpected argument '%s'", argv[optind]);
	r = cv_client_call(socket_path, "GET", "/cvol/status", NULL, TIMEOUT_MS, &body, &err);
	if (r == 0 && json) {
		(void)fputs(body, stdout);
		return CV_EXIT_OK;
	}
	if (r == 0 && cv_answer_views(body, &views, &count) < 0)
		r = cv_fail(&err, EPROTO, "the daemon's answer makes no sense: other version?");
	if (!json)
		add_own_mounts(run_dir, &views, &count);
	if (r < 0 && count == 0)
		return cv_print_failure(&err);
	print_table(views, count, holders);
	cv_views_free(views, count);
	if (r == -ENOENT || r == -ECONNREFUSED) {
		/* Whoever mounts without Docker has no daemon, and that is no failure. */
		(void)fprintf(stderr,
			      "cvol: no daemon runs on %s; shown is what 'cvol mount' mounted\n",
			      socket_path);
		return CV_EXIT_OK;
	}
	return r < 0 ? cv_print_failure(&err) : CV_EXIT_OK;
}

const struct cv_command cv_cmd_status = {
	.name = "status",
	.args = "[--json] [--holders] [--socket PATH] [--run-dir DIR]",
	.summary = "Show volumes, mounts and their health",
	.help = "  --json         everything the daemon knows, for programs; fails without a "
		"daemon\n"
		"  --holders      also who keeps each volume mounted: mount IDs and processes\n"
		"  --socket PATH  the daemon's socket (" CV_DEFAULT_SOCKET ")\n"
		"  --run-dir DIR  where mounts without the daemon are remembered "
		"(" CV_DEFAULT_RUN_DIR ")\n",
	.run = run,
};
