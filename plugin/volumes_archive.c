/* SPDX-License-Identifier: Apache-2.0 */
/*
 * on_delete=archive: when a volume is removed, its directory on the server is renamed. That is all
 * that ever happens to data here, and only to a directory that cvol has made for this very volume
 * (its state says so) and that no other volume of this host lives in. What is above the directory
 * is mounted for the moment that takes, as the volume itself would be; the engine renames.
 */
#include "plugin/volumes_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/process.h"
#include "plugin/remotes.h"

#define MOUNT_MS   15000
#define TIMEOUT_MS 10000 /* of one operation: dockerd gives a Remove 60 s */
#define KEEP_HINT  "; to keep the directory in place: cvol volume update %s -o on_delete=retain"

/* ---- places ---- */

char *cv_volume_place(const struct cv_dict *effective)
{
	cv_cleanup_free char *source = cv_source_format(effective);
	const char *subdir = cv_options_str(effective, "subdir", "");
	size_t n = source ? strlen(source) : 0;

	/* With a slash at the end, so that a prefix is a directory above. */
	return source ? cv_sprintf("%s%s%s%s", source, n && source[n - 1] == '/' ? "" : "/", subdir,
				   *subdir ? "/" : "")
		      : NULL;
}

void cv_volume_note_made(struct cv_volumes *vs, struct volume *v, const struct cv_dict *effective)
{
	struct cv_worker_info info = { 0 };
	char *place = NULL;
	bool made = false;

	{
		CV_SCOPED_LOCK(&vs->lock);
		if (v->worker) {
			vs->mounter->info(v->worker, &info);
			made = info.made_subdir;
		}
	}
	if (!made)
		return;
	place = cv_volume_place(effective);
	{
		CV_SCOPED_LOCK(&vs->lock);
		free(v->made);
		v->made = place;
	}
	if (cv_volume_save(vs, v, NULL) < 0 || !place)
		cv_warning("volume '%s': that its directory was created could not be noted; it "
			   "will stay in place when the volume is removed",
			   v->name);
}

struct other {
	struct cv_dict options;
	char *name;
};

/* The names and options of all volumes but v, so that they can be looked at without the lock. */
static struct other *copy_others(struct cv_volumes *vs, const struct volume *v, size_t *ret_count)
{
	struct other *others;
	size_t count = 0;

	CV_SCOPED_LOCK(&vs->lock);
	for (struct volume *o = vs->list; o; o = o->next)
		count++;
	others = calloc(count ? count : 1, sizeof(*others));
	*ret_count = 0;
	for (struct volume *o = vs->list; others && o; o = o->next) {
		struct other *next = &others[*ret_count];

		if (o == v || o->broken)
			continue;
		next->name = strdup(o->name);
		if (next->name && cv_dict_copy(&next->options, &o->options) == 0)
			(*ret_count)++;
		else
			free(next->name);
	}
	return others;
}

static int check_unshared(struct cv_volumes *vs, const struct volume *v, const char *place,
			  struct cv_err *err)
{
	size_t count = 0;
	struct other *others = copy_others(vs, v, &count);
	int r = others ? 0 : cv_fail(err, ENOMEM, "out of memory");

	for (size_t i = 0; others && i < count; i++) {
		cv_cleanup_dict struct cv_dict effective = CV_DICT_INIT;
		cv_cleanup_free char *theirs = NULL;

		if (r == 0 && cv_remotes_resolve(vs->config_dir, others[i].name, &others[i].options,
						 &effective, NULL) == 0)
			theirs = cv_volume_place(&effective);
		if (theirs && cv_str_starts(theirs, place))
			r = cv_fail(err, EBUSY,
				    "its directory cannot be archived: volume '%s' uses it as "
				    "well" KEEP_HINT,
				    others[i].name, v->name);
		free(others[i].name);
		cv_dict_release(&others[i].options);
	}
	free(others);
	return r;
}

/* ---- renaming ---- */

/* "a/b/web" below root: the directory a/b, reached without leaving the mount; -errno. */
static int open_parent(int root, const char *subdir)
{
	const struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};
	const char *slash = strrchr(subdir, '/');
	cv_cleanup_free char *parent =
		slash ? strndup(subdir, (size_t)(slash - subdir)) : strdup(".");
	long fd = parent ? syscall(SYS_openat2, root, parent, &how, sizeof(how)) : -1;

	return fd < 0 ? -errno : (int)fd;
}

/* On the mounted parent; *ret_name: the new one. */
static int rename_subdir(const char *mountpoint, const char *subdir, char ret_name[NAME_MAX + 1],
			 struct cv_err *err)
{
	cv_cleanup_close int root = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cv_cleanup_close int parent = root < 0 ? -errno : open_parent(root, subdir);
	const char *slash = strrchr(subdir, '/'), *name = slash ? slash + 1 : subdir;
	time_t now = time(NULL);
	char stamp[32];
	struct tm tm;

	if (parent < 0)
		return cv_fail(err, -parent, "looking for its directory: %s", cv_strerror(parent));
	if (!gmtime_r(&now, &tm) || !strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm) ||
	    snprintf(ret_name, NAME_MAX + 1, "archived-%s-%s", name, stamp) > NAME_MAX)
		return cv_fail(err, ENAMETOOLONG, "the name '%s' is too long to be archived", name);
	if (renameat(parent, name, parent, ret_name) == 0)
		return 0;
	return cv_fail(err, errno, "renaming its directory '%s' to '%s': %s", name, ret_name,
		       cv_strerror(errno));
}

/* What is above the subdir, for one operation, and with an end to waiting. */
static int parent_options(const struct cv_dict *effective, struct cv_dict *ret)
{
	int r = cv_dict_copy(ret, effective);

	(void)cv_dict_remove(ret, "subdir");
	(void)cv_dict_remove(ret, "readonly");
	if (r == 0)
		r = cv_dict_set(ret, "recovery", "soft");
	return r < 0 ? r : cv_dict_setf(ret, "timeout", "%dms", TIMEOUT_MS);
}

static int archive(struct cv_volumes *vs, struct volume *v, const struct cv_dict *effective,
		   char ret_name[NAME_MAX + 1], struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	struct cv_mount_spec spec = {
		.volume = v->name,
		.socket_name = v->socket_name,
		.mountpoint = v->mountpoint,
		.options = &options,
		.timeout_ms = MOUNT_MS,
		.bare = true,
	};
	struct cv_worker *w = NULL;
	struct cv_err ignored;
	int r = parent_options(effective, &options);

	if (r < 0)
		return cv_fail(err, -r, "out of memory");
	r = vs->mounter->prepare(v->mountpoint, err);
	if (r == 0) {
		r = vs->mounter->mount(vs->ctx, &spec, &w, err);
		if (r < 0)
			vs->mounter->remove(v->mountpoint);
	}
	if (r < 0)
		return r;
	r = rename_subdir(v->mountpoint, cv_options_str(effective, "subdir", ""), ret_name, err);
	if (vs->mounter->unmount(w, &ignored) < 0)
		cv_warning("volume '%s': %s", v->name, ignored.text);
	return r;
}

int cv_volume_archive(struct cv_volumes *vs, struct volume *v, char ret_name[NAME_MAX + 1],
		      struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict effective = CV_DICT_INIT;
	cv_cleanup_free char *place = NULL;
	int r;

	ret_name[0] = '\0';
	if (v->broken || !cv_str_eq(cv_dict_get(&v->options, "on_delete"), "archive"))
		return 0;
	if (!v->made) {
		cv_notice("volume '%s': its directory is not one that cvol made; it stays in place",
			  v->name);
		return 0;
	}
	r = cv_remotes_resolve(vs->config_dir, v->name, &v->options, &effective, err);
	if (r == 0) {
		place = cv_volume_place(&effective);
		if (!place)
			return cv_fail(err, ENOMEM, "out of memory");
		if (!cv_str_eq(place, v->made) || !cv_dict_get(&effective, "subdir")) {
			cv_notice("volume '%s': it was made in %s and is at %s now; both stay",
				  v->name, v->made, place);
			return 0;
		}
		r = check_unshared(vs, v, place, err);
	}
	if (r == 0)
		r = archive(vs, v, &effective, ret_name, err);
	return r < 0 ? cv_fail_context(err, "volume '%s' (%s) was not removed", v->name, v->source)
		     : 0;
}
