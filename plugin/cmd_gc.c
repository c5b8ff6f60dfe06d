/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cvol gc: what the daemon finds left over of its volumes, and what is left of mounts without a
 * daemon whose processes are all gone.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/client.h"
#include "plugin/cmd.h"
#include "plugin/message.h"
#include "plugin/mountpoint.h"
#include "plugin/ownmount.h"
#include "plugin/process.h"
#include "plugin/state.h"
#include "plugin/volumes.h"

#define TIMEOUT_MS 60000

struct gc_args {
	const char *socket_path;
	const char *run_dir;
	bool dry_run;
	struct cv_findings found;
};

static void take_line(void *ctx, const char *line)
{
	cv_findings_add(ctx, "%s", line ? line : "");
}

static int ask_daemon(struct gc_args *a, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict opts = CV_DICT_INIT;
	cv_cleanup_free char *request = NULL;
	cv_cleanup_free char *body = NULL;
	int r = cv_dict_set(&opts, "dry_run", a->dry_run ? "true" : "false");

	request = r == 0 ? cv_message_request(NULL, NULL, &opts) : NULL;
	if (!request)
		return cv_fail(err, ENOMEM, "out of memory");
	r = cv_client_call(a->socket_path, "POST", "/cvol/gc", request, TIMEOUT_MS, &body, err);
	if (r == 0 && cv_answer_lines(body, "Found", take_line, &a->found) < 0)
		r = cv_fail(err, EPROTO, "the daemon's answer makes no sense: other version?");
	return r;
}

static bool is_gone(pid_t pid, uint64_t start)
{
	cv_cleanup_close int fd = cv_process_open(pid, start);

	return fd < 0;
}

/* The directory is the user's: only what was mounted there goes. */
static void collect_own_mount(struct gc_args *a, const struct cv_record *rec)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	struct cv_ownmount own;
	int r = 0;

	if (!is_gone(rec->worker, rec->worker_start) ||
	    !is_gone(rec->supervisor, rec->supervisor_start) ||
	    cv_ownmount_open(a->run_dir, rec->mountpoint, false, &own, NULL) < 0)
		return;
	if (!a->dry_run && cv_mount_find(rec->mountpoint, &entry) == 0 &&
	    cv_str_eq(entry.fstype, CV_FSTYPE) &&
	    makedev(entry.dev_major, entry.dev_minor) == rec->dev)
		r = cv_mountpoint_detach(rec->mountpoint);
	if (!a->dry_run && r == 0)
		cv_ownmount_forget(&own);
	if (r < 0)
		cv_findings_add(&a->found, "dead mount %s: not detached: %s", rec->mountpoint,
				cv_strerror(r));
	else
		cv_findings_add(&a->found, "dead mount %s: %sdetached", rec->mountpoint,
				a->dry_run ? "would be " : "");
	cv_ownmount_release(&own);
}

static void collect_own_mounts(struct gc_args *a)
{
	cv_cleanup_free char *path = cv_sprintf("%s/mounts", a->run_dir);
	cv_cleanup_closedir DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		cv_cleanup_record struct cv_record rec = { 0 };
		size_t len = strlen(entry->d_name);

		if (len > 5 && strcmp(entry->d_name + len - 5, ".json") == 0 &&
		    cv_record_load(dirfd(dir), entry->d_name, &rec, NULL) == 0)
			collect_own_mount(a, &rec);
	}
}

static int collect(struct gc_args *a, bool json)
{
	struct cv_err err = { 0 };
	int r = ask_daemon(a, &err);
	bool no_daemon = r == -ENOENT || r == -ECONNREFUSED;

	if (r < 0 && !no_daemon)
		return cv_print_failure(&err);
	collect_own_mounts(a);
	if (json) {
		cv_cleanup_free char *body =
			cv_message_lines("Found", a->found.lines, a->found.count);

		(void)fputs(body ? body : "", stdout);
	} else {
		for (size_t i = 0; i < a->found.count; i++)
			(void)puts(a->found.lines[i]);
		if (a->found.count == 0)
			(void)puts("nothing is left over");
	}
	if (no_daemon)
		(void)fprintf(stderr,
			      "cvol: no daemon runs on %s; only mounts made by 'cvol mount' were "
			      "looked at\n",
			      a->socket_path);
	return CV_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dry-run", no_argument, NULL, 'n' },
		{ "json", no_argument, NULL, 'j' },
		{ "socket", required_argument, NULL, 's' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ 0 },
	};
	struct gc_args a = { .socket_path = CV_DEFAULT_SOCKET, .run_dir = CV_DEFAULT_RUN_DIR };
	bool json = false;
	int c, r;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":n", options, NULL)) != -1) {
		if (c == 'n')
			a.dry_run = true;
		else if (c == 'j')
			json = true;
		else if (c == 's')
			a.socket_path = optarg;
		else if (c == 'r')
			a.run_dir = optarg;
		else
			return cv_usage_error(&cv_cmd_gc, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (optind < argc)
		return cv_usage_error(&cv_cmd_gc, "unexpected argument '%s'", argv[optind]);
	r = collect(&a, json);
	cv_findings_release(&a.found);
	return r;
}

const struct cv_command cv_cmd_gc = {
	.name = "gc",
	.args = "[--dry-run] [--json] [--socket PATH] [--run-dir DIR]",
	.summary = "Clear what crashes left behind: dead mounts, counts, sockets",
	.help = "  --dry-run      only say what would be done\n"
		"  --json         {\"Found\": [line, …]}\n"
		"  --socket PATH  the daemon's socket (" CV_DEFAULT_SOCKET ")\n"
		"  --run-dir DIR  where mounts without the daemon are remembered "
		"(" CV_DEFAULT_RUN_DIR ")\n\n"
		"The daemon does the same when it starts. Nothing is ever deleted recursively, no "
		"living mount is\ntouched, and no data on a server.\n",
	.run = run,
};
