/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cvol publish and unpublish: a staged mount in one more place, for one container. A bind mount, no
 * second worker; both may be repeated.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/mountpoint.h"
#include "plugin/ownmount.h"

#define LOCK_MS	    60000
#define STACKED_MAX 16

struct publish_args {
	const char *run_dir;
	bool readonly;
	bool json;
};

static uint64_t device(const struct cv_mount_entry *entry)
{
	return makedev(entry->dev_major, entry->dev_minor);
}

static int bind_target(const char *stage, const char *target, bool readonly, struct cv_err *err)
{
	int r = 0;

	if (mount(stage, target, NULL, MS_BIND, NULL) < 0)
		return cv_fail(err, errno, "cannot mount %s on %s: %s", stage, target,
			       cv_strerror(errno));
	if (readonly && mount(NULL, target, NULL,
			      MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) < 0) {
		r = cv_fail(err, errno, "cannot make %s read-only: %s", target, cv_strerror(errno));
		(void)umount2(target, UMOUNT_NOFOLLOW);
	}
	return r;
}

/* 1: it was there as it should be. */
static int publish_locked(const struct publish_args *a, const char *stage, const char *target,
			  char **ret_path, struct cv_err *err)
{
	cv_cleanup_entry struct cv_mount_entry staged = { 0 }, there = { 0 };

	if (cv_mount_find(stage, &staged) < 0 || !cv_str_eq(staged.fstype, CV_FSTYPE))
		return cv_fail(err, ENOENT, "%s is not staged: first: cvol stage SOURCE %s", stage,
			       stage);
	if (mkdir(target, 0755) < 0 && errno != EEXIST)
		return cv_fail(err, errno, "cannot create directory '%s': %s", target,
			       cv_strerror(errno));
	*ret_path = cv_ownmount_resolve(target, err);
	if (!*ret_path)
		return -EINVAL;
	if (cv_str_eq(*ret_path, stage))
		return cv_fail(err, EINVAL, "the target is the staged directory itself");
	if (cv_mount_find(*ret_path, &there) < 0)
		return bind_target(stage, *ret_path, a->readonly, err);
	if (device(&there) != device(&staged))
		return cv_fail(err, EBUSY, "something else is mounted on %s (%s)", *ret_path,
			       there.source);
	if (there.readonly != a->readonly)
		return cv_fail(err, EEXIST, "%s is published %s; first: cvol unpublish %s",
			       *ret_path, there.readonly ? "read-only" : "read-write", *ret_path);
	return 1;
}

static int publish(const struct publish_args *a, const char *dir, const char *target,
		   char **ret_path, struct cv_err *err)
{
	cv_cleanup_free char *stage = cv_ownmount_resolve(dir, err);
	struct cv_ownmount own;
	int lock, r;

	if (!stage)
		return -ENOENT;
	r = cv_ownmount_open(a->run_dir, stage, true, &own, err);
	if (r < 0)
		return r;
	lock = cv_ownmount_lock(&own, LOCK_MS, err);
	r = lock < 0 ? lock : publish_locked(a, stage, target, ret_path, err);
	cv_close_fd(&lock);
	cv_ownmount_release(&own);
	return r;
}

/* 1: there was nothing. Only ever unmounts what is ours, and only ever removes what is empty. */
static int unpublish(const struct publish_args *a, const char *target, char **ret_path,
		     struct cv_err *err)
{
	struct cv_ownmount own;
	bool found = false;
	int r;

	*ret_path = cv_ownmount_resolve(target, NULL);
	if (!*ret_path)
		return 1;
	r = cv_ownmount_open(a->run_dir, *ret_path, true, &own, err);
	if (r < 0)
		return r;
	r = faccessat(own.dir, own.record, F_OK, 0) == 0
		    ? cv_fail(err, EINVAL, "%s is staged, not published: cvol unstage %s",
			      *ret_path, *ret_path)
		    : 0;
	cv_ownmount_release(&own);
	for (int i = 0; r == 0 && i < STACKED_MAX; i++) {
		cv_cleanup_entry struct cv_mount_entry there = { 0 };
		char users[256] = "";

		if (cv_mount_find(*ret_path, &there) < 0)
			break;
		if (!cv_str_eq(there.fstype, CV_FSTYPE))
			return cv_fail(err, EBUSY, "what is mounted on %s is not cvol's (%s)",
				       *ret_path, there.source);
		found = true;
		r = cv_mountpoint_unmount(*ret_path);
		if (r == -EBUSY)
			cv_mountpoint_users(*ret_path, device(&there), users, sizeof(users));
		if (r < 0)
			return cv_fail(err, -r, "cannot unmount %s: %s%s%s", *ret_path,
				       cv_strerror(r), *users ? "; used by " : "", users);
	}
	if (r == 0)
		(void)rmdir(*ret_path); /* the container's, as publish has made it */
	return r < 0 ? r : !found;
}

static int parse(const struct cv_command *command, struct publish_args *a, int argc, char **argv,
		 int words)
{
	static const struct option options[] = {
		{ "readonly", no_argument, NULL, 'R' },
		{ "json", no_argument, NULL, 'j' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ 0 },
	};
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == 'R' && words == 2)
			a->readonly = true;
		else if (c == 'j')
			a->json = true;
		else if (c == 'r')
			a->run_dir = optarg;
		else
			return cv_usage_error(command, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (argc - optind != words)
		return cv_usage_error(command, "expected %s",
				      words == 2 ? "DIR and TARGET" : "TARGET");
	return CV_EXIT_OK;
}

static int finish(const struct publish_args *a, const char *target, const char *path, int r,
		  const struct cv_err *err)
{
	const struct cv_outcome outcome = { .json = a->json,
					    .already = r == 1,
					    .mountpoint = path ? path : target };

	return cv_print_outcome(&outcome, r < 0 ? r : 0, err);
}

static int run_publish(int argc, char **argv)
{
	struct publish_args a = { .run_dir = CV_DEFAULT_RUN_DIR };
	cv_cleanup_free char *path = NULL;
	struct cv_err err = { 0 };
	int r = parse(&cv_cmd_publish, &a, argc, argv, 2);

	if (r != CV_EXIT_OK)
		return r;
	r = publish(&a, argv[optind], argv[optind + 1], &path, &err);
	return finish(&a, argv[optind + 1], path, r, &err);
}

static int run_unpublish(int argc, char **argv)
{
	struct publish_args a = { .run_dir = CV_DEFAULT_RUN_DIR };
	cv_cleanup_free char *path = NULL;
	struct cv_err err = { 0 };
	int r = parse(&cv_cmd_unpublish, &a, argc, argv, 1);

	if (r != CV_EXIT_OK)
		return r;
	r = unpublish(&a, argv[optind], &path, &err);
	return finish(&a, argv[optind], path, r, &err);
}

const struct cv_command cv_cmd_publish = {
	.name = "publish",
	.args = "DIR TARGET [--readonly] [--json]",
	.summary = "Show a staged mount in one more place: again is fine",
	.help = "TARGET is created when missing.\n\n"
		"  --readonly     nothing can be written through TARGET\n"
		"  --json         the result as a JSON object on standard output\n"
		"  --run-dir DIR  where running mounts are remembered (" CV_DEFAULT_RUN_DIR ")\n",
	.run = run_publish,
};

const struct cv_command cv_cmd_unpublish = {
	.name = "unpublish",
	.args = "TARGET [--json]",
	.summary = "Undo publish: again is fine",
	.help = "Unmounts TARGET and removes the directory, if it is empty.\n\n"
		"  --json         the result as a JSON object on standard output\n"
		"  --run-dir DIR  where running mounts are remembered (" CV_DEFAULT_RUN_DIR ")\n",
	.run = run_unpublish,
};
