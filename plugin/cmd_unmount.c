/* SPDX-License-Identifier: Apache-2.0 */
/* cvol unmount: stores what was written, unmounts, and waits until nothing is left. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/mountpoint.h"
#include "plugin/ownmount.h"
#include "plugin/process.h"
#include "plugin/state.h"
#include "plugin/supervisor.h"

#define SYNC_MS	      50000
#define WORKER_MS     10000
#define LOCK_MS	      60000
#define SUPERVISOR_MS 5000

struct unmount_args {
	const char *run_dir;
	bool locked;	 /* the caller has cv_ownmount_lock() */
	bool idempotent; /* unstage: what is not there is fine, what is published is refused */
	bool force;	 /* also when data cannot be stored; also while it is used */
};

static int sync_first(const struct unmount_args *a, const struct cv_ownmount *own, const char *path,
		      struct cv_err *err)
{
	int r = cv_worker_call(own->dir, own->socket, "sync", NULL, SYNC_MS, err);

	if (r == 0 || a->force)
		return 0;
	return cv_fail_context(err,
			       "%s was not unmounted, because written data could not be stored "
			       "(--force gives it up)",
			       path);
}

static int unmount_busy_aware(const struct unmount_args *a, const char *path, uint64_t dev,
			      struct cv_err *err)
{
	int r = a->force ? cv_mountpoint_detach(path) : cv_mountpoint_unmount(path);
	char users[256];

	if (r == 0)
		return 0;
	if (r != -EBUSY)
		return cv_fail(err, -r, "cannot unmount %s: %s", path, cv_strerror(r));
	cv_mountpoint_users(path, dev, users, sizeof(users));
	return cv_fail(err, EBUSY, "%s is in use%s%s", path, *users ? ": " : "", users);
}

/* Worker and supervisor tidy up by themselves; what they did not, we do. */
static int wait_for_end(const struct cv_ownmount *own, const struct cv_record *rec,
			struct cv_err *err)
{
	cv_cleanup_close int worker = cv_process_open(rec->worker, rec->worker_start);
	cv_cleanup_close int supervisor = cv_process_open(rec->supervisor, rec->supervisor_start);

	if (worker >= 0 && !cv_wait_readable(worker, WORKER_MS))
		return cv_fail(err, EBUSY,
			       "%s is unmounted, but something (a container?) still uses the file "
			       "system; its worker, pid %d, ends with that",
			       rec->mountpoint, (int)rec->worker);
	if (supervisor >= 0 && !cv_wait_readable(supervisor, SUPERVISOR_MS))
		return cv_fail(err, EBUSY, "%s is unmounted, but its supervisor, pid %d, goes on",
			       rec->mountpoint, (int)rec->supervisor);
	cv_ownmount_forget(own);
	return 0;
}

static int unmount_recorded(const struct unmount_args *a, const struct cv_ownmount *own,
			    const char *path, uint64_t dev, struct cv_err *err)
{
	cv_cleanup_record struct cv_record rec = { 0 };
	cv_cleanup_close int worker = -1;
	int r = cv_record_load(own->dir, own->record, &rec, err);

	if (r == -ENOENT)
		return cv_fail(
			err, ENOENT,
			"%s is a cvol mount, but %s has no record of it: if it was mounted "
			"with another --run-dir, give that; if it belongs to a Docker volume, "
			"stop its containers",
			path, own->path);
	if (r < 0)
		return r;
	worker = cv_process_open(rec.worker, rec.worker_start);
	if (worker >= 0) {
		r = sync_first(a, own, path, err);
		if (r == 0)
			r = unmount_busy_aware(a, path, dev, err);
	} else {
		/* Dead: nothing can be stored, and only lazily does it always go. */
		r = cv_mountpoint_detach(path);
		if (r < 0)
			r = cv_fail(err, -r, "cannot unmount %s: %s", path, cv_strerror(r));
	}
	return r < 0 ? r : wait_for_end(own, &rec, err);
}

/* unstage: what is published is still in use. */
static int check_unpublished(const struct unmount_args *a, const char *path, uint64_t dev,
			     struct cv_err *err)
{
	cv_cleanup_free char *other = a->idempotent ? cv_mount_elsewhere(path, dev) : NULL;

	return other ? cv_fail(err, EBUSY, "%s is still published at %s; first: cvol unpublish %s",
			       path, other, other)
		     : 0;
}

static int unmount_dir(const struct unmount_args *a, const char *dir, char **ret_path,
		       struct cv_err *err)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 }, again = { 0 };
	cv_cleanup_free char *path = cv_ownmount_resolve(dir, err);
	cv_cleanup_close int lock = -1;
	struct cv_ownmount own;
	int r;

	if (!path)
		return -ENOENT;
	*ret_path = strdup(path);
	if (cv_mount_find(path, &entry) < 0 || !cv_str_eq(entry.fstype, CV_FSTYPE))
		return cv_fail(err, ENOENT, "%s is not a cvol mount", path);
	r = check_unpublished(a, path, makedev(entry.dev_major, entry.dev_minor), err);
	if (r < 0)
		return r;
	r = cv_ownmount_open(a->run_dir, path, false, &own, err);
	if (r < 0)
		return cv_fail_context(err, "%s is a cvol mount, but there is no record of it",
				       path);
	if (!a->locked)
		r = lock = cv_ownmount_lock(&own, LOCK_MS, err);
	/* Whoever had the lock may have been as busy with it. */
	if (r >= 0 && (cv_mount_find(path, &again) < 0 || !cv_str_eq(again.fstype, CV_FSTYPE)))
		r = cv_fail(err, ENOENT, "%s is not a cvol mount", path);
	if (r >= 0)
		r = unmount_recorded(a, &own, path, makedev(again.dev_major, again.dev_minor), err);
	cv_ownmount_release(&own);
	return r;
}

int cv_ownmount_unmount(const char *run_dir, const char *dir, bool force, struct cv_err *err)
{
	const struct unmount_args a = { .run_dir = run_dir, .locked = true, .force = force };
	cv_cleanup_free char *path = NULL;

	return unmount_dir(&a, dir, &path, err);
}

static int run_verb(const struct cv_command *command, bool idempotent, int argc, char **argv)
{
	static const struct option options[] = {
		{ "run-dir", required_argument, NULL, 'r' },
		{ "force", no_argument, NULL, 'f' },
		{ "json", no_argument, NULL, 'j' },
		{ 0 },
	};
	struct unmount_args a = { .run_dir = CV_DEFAULT_RUN_DIR, .idempotent = idempotent };
	cv_cleanup_free char *path = NULL;
	struct cv_outcome outcome = { 0 };
	struct cv_err err = { 0 };
	int c, r;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":f", options, NULL)) != -1) {
		if (c == 'r')
			a.run_dir = optarg;
		else if (c == 'f')
			a.force = true;
		else if (c == 'j')
			outcome.json = true;
		else
			return cv_usage_error(command, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (argc - optind != 1)
		return cv_usage_error(command, "expected DIR");
	r = unmount_dir(&a, argv[optind], &path, &err);
	if (idempotent && r == -ENOENT) {
		outcome.already = true;
		r = 0;
	}
	outcome.mountpoint = path ? path : argv[optind];
	return cv_print_outcome(&outcome, r, &err);
}

static int run_unmount(int argc, char **argv)
{
	return run_verb(&cv_cmd_unmount, false, argc, argv);
}

static int run_unstage(int argc, char **argv)
{
	return run_verb(&cv_cmd_unstage, true, argc, argv);
}

const struct cv_command cv_cmd_unmount = {
	.name = "unmount",
	.args = "DIR [--force] [--json] [--run-dir DIR]",
	.summary = "Unmount what 'cvol mount' mounted",
	.help = "Waits until everything written is on the server, unmounts, and returns when the\n"
		"mount's processes are gone.\n\n"
		"  --json         the result as a JSON object on standard output\n"
		"  --force        unmount even if data cannot be stored, and while it is in use\n"
		"  --run-dir DIR  where running mounts are remembered (" CV_DEFAULT_RUN_DIR ")\n",
	.run = run_unmount,
};

const struct cv_command cv_cmd_unstage = {
	.name = "unstage",
	.args = "DIR [--force] [--json] [--run-dir DIR]",
	.summary = "Undo stage: again is fine",
	.help = "As unmount, but a directory that is not mounted counts as done, and one that is "
		"still\n"
		"published is refused. The directory stays. The options are unmount's.\n",
	.run = run_unstage,
};
