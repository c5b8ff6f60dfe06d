/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/volumes_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"
#include "plugin/files.h"
#include "plugin/mountpoint.h"
#include "plugin/process.h"
#include "plugin/supervisor.h"

#define BUSY_MS	       100  /* for a volume that is being mounted or unmounted: it is no leftover */
#define CALL_MS	       200  /* for one worker, */
#define ASK_MS	       1000 /* and for all: this is also done at start */
#define SYNC_BUDGET_MS 10000 /* what takes longer, cv_volumes_tick() ends */

struct gc {
	struct cv_volumes *vs;
	bool dry_run;
	struct cv_findings *found;
	uint64_t deadline;  /* for waiting on servers */
	uint64_t ask_until; /* for waiting on workers */
};

/* ---- what was found ---- */

void cv_findings_release(struct cv_findings *f)
{
	for (size_t i = 0; i < f->count; i++)
		free(f->lines[i]);
	free(f->lines);
	memset(f, 0, sizeof(*f));
}

void cv_findings_add(struct cv_findings *f, const char *fmt, ...)
{
	char **bigger = realloc(f->lines, (f->count + 1) * sizeof(*bigger));
	va_list ap;

	if (!bigger)
		return; /* what is found is put right all the same */
	f->lines = bigger;
	va_start(ap, fmt);
	if (vasprintf(&f->lines[f->count], fmt, ap) >= 0)
		f->count++;
	va_end(ap);
}

/* "leftover mount /x: detached", or "would be detached", or why not. */
static void note(struct gc *gc, const char *what, const char *where, const char *action, int result)
{
	if (result < 0)
		cv_findings_add(gc->found, "%s %s: not %s: %s", what, where, action,
				cv_strerror(result));
	else
		cv_findings_add(gc->found, "%s %s: %s%s", what, where,
				gc->dry_run ? "would be " : "", action);
}

/* ---- one volume ---- */

static void detach_leftover(struct gc *gc, const char *path)
{
	int r = gc->dry_run ? 0 : gc->vs->mounter->detach(path);

	note(gc, "leftover mount", path, "detached", r);
	if (r == 0 && !gc->dry_run)
		gc->vs->mounter->remove(path);
}

/* Only ever rmdir(): what is not empty is not ours. */
static void remove_leftover_dir(struct gc *gc, const char *path)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	int r = 0;

	if (cv_mount_find(path, &entry) != -ENOENT)
		return;
	if (!gc->dry_run && rmdir(path) < 0)
		r = -errno;
	if (r != -ENOENT)
		note(gc, "leftover directory", path, "removed", r);
}

/* A mount whose worker has ended. Its users' counts stay: their Unmounts are still to come. */
static void collect_dead(struct gc *gc, struct volume *v)
{
	note(gc, "dead mount", v->mountpoint, "detached", 0);
	if (gc->dry_run)
		return;
	cv_volume_drop_dead_worker(gc->vs, v);
	cv_volume_record(gc->vs, v);
}

/* True when its counts were forgotten. With op held. */
static bool collect_counts(struct gc *gc, struct volume *v)
{
	unsigned uses, current;

	{
		CV_SCOPED_LOCK(&gc->vs->lock);
		uses = cv_volume_uses_locked(v);
		current = cv_volume_current_uses_locked(gc->vs, v);
	}
	if (uses == 0 || current || cv_volume_is_used(gc->vs, v))
		return false;
	cv_findings_add(gc->found,
			"volume '%s': %u mount%s of an earlier dockerd, used by no process: "
			"%sforgotten",
			v->name, uses, uses == 1 ? "" : "s", gc->dry_run ? "would be " : "");
	if (gc->dry_run)
		return false;
	cv_volume_forget_ids(gc->vs, v);
	cv_volume_record(gc->vs, v);
	return true;
}

static void collect_volume(struct gc *gc, struct volume *v)
{
	struct cv_err err = { 0 };
	bool dead, idle;

	if (cv_volume_lock(gc->vs, v, cv_clock_ms() + BUSY_MS, &err) < 0)
		return;
	{
		struct cv_worker_info info = { 0 };

		CV_SCOPED_LOCK(&gc->vs->lock);
		if (v->worker)
			gc->vs->mounter->info(v->worker, &info);
		dead = v->worker && !info.alive;
	}
	if (dead)
		collect_dead(gc, v);
	idle = collect_counts(gc, v);
	(void)pthread_mutex_unlock(&v->op);
	if (idle && cv_clock_left_ms(gc->deadline) > 0)
		cv_volume_end_idle(gc->vs, v);
}

static void each_volume(struct gc *gc)
{
	size_t count = 0;
	struct volume **all = cv_volumes_snapshot(gc->vs, NULL, &count);

	for (size_t i = 0; i < count; i++) {
		collect_volume(gc, all[i]);
		cv_volume_unref(gc->vs, all[i]);
	}
	free(all);
}

/* ---- what belongs to nobody ---- */

/*
 * Runs leftover() unless a volume owns that name: its mount is there, is being made, or is being
 * ended. volumes->create is held, so no volume appears meanwhile; op comes before it in the order
 * of locks, so it is only tried.
 */
static void unless_owned(struct gc *gc, bool (*is_its)(const struct volume *v, const char *name),
			 const char *name, void (*leftover)(struct gc *gc, const char *name))
{
	struct cv_volumes *vs = gc->vs;
	struct volume *owner = NULL;
	bool owned = false;

	{
		CV_SCOPED_LOCK(&vs->lock);
		for (owner = vs->list; owner && !is_its(owner, name); owner = owner->next)
			;
		if (owner)
			owner->refs++;
	}
	if (owner && pthread_mutex_trylock(&owner->op) == 0) {
		{
			CV_SCOPED_LOCK(&vs->lock);
			owned = owner->worker;
		}
		if (!owned)
			leftover(gc, name);
		(void)pthread_mutex_unlock(&owner->op);
	} else if (!owner) {
		leftover(gc, name);
	}
	cv_volume_unref(vs, owner);
}

static bool has_mountpoint(const struct volume *v, const char *path)
{
	return cv_str_eq(v->mountpoint, path);
}

static bool has_socket(const struct volume *v, const char *name)
{
	return cv_str_eq(v->socket_name, name);
}

static bool has_record(const struct volume *v, const char *file)
{
	size_t len = strlen(v->encoded);

	return strncmp(v->encoded, file, len) == 0 && cv_str_eq(file + len, ".json");
}

static void leftover_mount(void *ctx, const char *path)
{
	unless_owned(ctx, has_mountpoint, path, detach_leftover);
}

/* Nobody listens: left by a worker that was killed. */
static void remove_socket(struct gc *gc, const char *name)
{
	cv_cleanup_free char *path = cv_sprintf("%s/workers", gc->vs->run_dir);
	cv_cleanup_close int dir = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	struct cv_counters counters;
	struct cv_err err = { 0 };
	unsigned limit = cv_clock_left_ms(gc->ask_until) > 0 ? CALL_MS : 0;
	int r = dir < 0 ? -errno : cv_worker_counters(dir, name, limit, &counters, &err);

	if (r == 0) /* not in the mount table any more, or it would have been detached above */
		cv_findings_add(gc->found,
				"worker %llu of no volume: left alone, it ends with its last user",
				(unsigned long long)counters.pid);
	if (r == -ECONNREFUSED)
		note(gc, "dead socket", name, "removed",
		     !gc->dry_run && unlinkat(dir, name, 0) < 0 ? -errno : 0);
}

static void remove_record(struct gc *gc, const char *file)
{
	note(gc, "record of no volume", file, "removed",
	     !gc->dry_run && unlinkat(gc->vs->records, file, 0) < 0 ? -errno : 0);
}

static bool ends_with(const char *text, const char *suffix)
{
	size_t len = strlen(text), n = strlen(suffix);

	return len > n && cv_str_eq(text + len - n, suffix);
}

/* Calls each() with every name in RUN_DIR/sub that ends so. */
static void each_name(struct gc *gc, const char *sub, const char *suffix,
		      void (*each)(struct gc *gc, const char *name))
{
	cv_cleanup_free char *path = cv_sprintf("%s/%s", gc->vs->run_dir, sub);
	cv_cleanup_closedir DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && ends_with(entry->d_name, suffix))
			each(gc, entry->d_name);
	}
}

static void check_dir(struct gc *gc, const char *name)
{
	cv_cleanup_free char *path = cv_sprintf("%s/mnt/%s", gc->vs->run_dir, name);

	if (path)
		unless_owned(gc, has_mountpoint, path, remove_leftover_dir);
}

static void check_socket(struct gc *gc, const char *name)
{
	unless_owned(gc, has_socket, name, remove_socket);
}

static void check_record(struct gc *gc, const char *name)
{
	struct volume *v;

	{
		CV_SCOPED_LOCK(&gc->vs->lock);
		for (v = gc->vs->list; v && !has_record(v, name); v = v->next)
			;
	}
	if (!v)
		remove_record(gc, name);
}

int cv_volumes_gc(struct cv_volumes *vs, bool dry_run, struct cv_findings *found,
		  struct cv_err *err)
{
	struct gc gc = { .vs = vs,
			 .dry_run = dry_run,
			 .found = found,
			 .deadline = cv_clock_ms() + SYNC_BUDGET_MS };
	cv_cleanup_free char *mounts = cv_sprintf("%s/mnt", vs->run_dir);
	int r;

	if (!mounts)
		return cv_fail(err, ENOMEM, "out of memory");
	each_volume(&gc);
	CV_SCOPED_LOCK(&vs->create);
	gc.ask_until = cv_clock_ms() + ASK_MS;
	r = cv_mount_each_below(mounts, leftover_mount, &gc);
	if (r < 0)
		return cv_fail(err, -r, "reading the mount table: %s", cv_strerror(r));
	each_name(&gc, "mnt", "", check_dir);
	each_name(&gc, "workers", ".sock", check_socket);
	each_name(&gc, "volumes", ".json", check_record);
	for (size_t i = 0; !dry_run && i < found->count; i++)
		cv_notice("%s", found->lines[i]);
	return 0;
}
