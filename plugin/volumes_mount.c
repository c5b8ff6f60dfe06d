/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/volumes_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/remotes.h"
#include "plugin/files.h"
#include "plugin/process.h"

#define UNMOUNT_MS     50000 /* dockerd waits 60 s */
#define LOCK_GRACE_MS  700   /* so that a waiting Mount gets to know what the attempt's error was */
#define REMOVE_SYNC_MS 10000
#define TICK_SYNC_MS   1000 /* per volume, and they wait for each other; the next tick is not far */
#define STALE_TICKS    6    /* how often an earlier dockerd's mount must be seen unused */
#define IDS_MAX	       100000

/* ---- mount IDs: all with volumes->lock held ---- */

unsigned cv_volume_uses_locked(const struct volume *v)
{
	unsigned sum = 0;

	for (size_t i = 0; i < v->id_count; i++)
		sum += v->ids[i].count;
	return sum;
}

/* The entry of the newest epoch. */
static struct cv_mount_id *id_locked(struct volume *v, const char *id)
{
	struct cv_mount_id *newest = NULL;

	for (size_t i = 0; i < v->id_count; i++) {
		if (cv_str_eq(v->ids[i].id, id) && (!newest || v->ids[i].epoch > newest->epoch))
			newest = &v->ids[i];
	}
	return newest;
}

static int id_add_locked(struct volume *v, const char *id, unsigned epoch)
{
	struct cv_mount_id *known = id_locked(v, id);
	struct cv_mount_id *bigger;
	char *copy;

	/* Another epoch's is counted apart: it may be alive (live-restore), or never be released.
	 */
	if (known && (known->epoch == epoch || cv_str_eq(id, CV_PODMAN_ID))) {
		known->count++;
		return 0;
	}
	if (v->id_count >= IDS_MAX)
		return -E2BIG;
	bigger = realloc(v->ids, (v->id_count + 1) * sizeof(*bigger));
	if (!bigger)
		return -ENOMEM;
	v->ids = bigger;
	copy = strdup(id);
	if (!copy)
		return -ENOMEM;
	v->ids[v->id_count++] = (struct cv_mount_id){ .id = copy, .count = 1, .epoch = epoch };
	return 0;
}

/* False: not known. */
static bool id_drop_locked(struct volume *v, const char *id)
{
	struct cv_mount_id *known = id_locked(v, id);

	if (!known)
		return false;
	if (--known->count == 0) {
		free(known->id);
		*known = v->ids[--v->id_count];
	}
	return true;
}

/* Counted for the dockerd of today, or not for dockerd at all. */
bool cv_mount_id_is_current(const struct cv_volumes *vs, const struct cv_mount_id *id)
{
	return id->epoch == vs->epoch || cv_str_eq(id->id, CV_PODMAN_ID);
}

unsigned cv_volume_current_uses_locked(const struct cv_volumes *vs, const struct volume *v)
{
	unsigned sum = 0;

	for (size_t i = 0; i < v->id_count; i++) {
		if (cv_mount_id_is_current(vs, &v->ids[i]))
			sum += v->ids[i].count;
	}
	return sum;
}

/* ---- records ---- */

static void record_name(const struct volume *v, char name[NAME_MAX + 1])
{
	(void)snprintf(name, NAME_MAX + 1, "%s.json", v->encoded);
}

static int record_fill(struct cv_volumes *vs, struct volume *v, struct cv_record *rec)
{
	struct cv_worker_info info = { 0 };

	CV_SCOPED_LOCK(&vs->lock);
	if (v->worker)
		vs->mounter->info(v->worker, &info);
	rec->volume = strdup(v->name);
	rec->mountpoint = strdup(v->mountpoint);
	rec->source = strdup(v->source);
	rec->server = strdup(info.server);
	rec->worker = info.pid;
	rec->worker_start = info.start;
	rec->dev = info.dev;
	rec->ids = calloc(v->id_count ? v->id_count : 1, sizeof(*rec->ids));
	if (!rec->volume || !rec->mountpoint || !rec->source || !rec->server || !rec->ids)
		return -ENOMEM;
	for (size_t i = 0; i < v->id_count; i++) {
		rec->ids[i] = v->ids[i];
		rec->ids[i].id = strdup(v->ids[i].id);
		rec->id_count = i + 1;
		if (!rec->ids[i].id)
			return -ENOMEM;
	}
	return 0;
}

/* With op held: what is mounted and by whom, as it is now. */
static int record_save(struct cv_volumes *vs, struct volume *v, struct cv_err *err)
{
	cv_cleanup_record struct cv_record rec = { 0 };
	char name[NAME_MAX + 1];
	int r = record_fill(vs, v, &rec);

	record_name(v, name);
	if (r < 0)
		return cv_fail(err, -r, "out of memory");
	if (rec.worker == 0 && rec.id_count == 0) {
		if (unlinkat(vs->records, name, 0) < 0 && errno != ENOENT)
			return cv_fail(err, errno, "cannot remove record %s: %s", name,
				       cv_strerror(errno));
		return 0;
	}
	r = cv_record_save(vs->records, name, &rec, err);
	return r < 0 ? cv_fail_context(err, "%s/volumes", vs->run_dir) : 0;
}

void cv_volume_record(struct cv_volumes *vs, struct volume *v)
{
	struct cv_err err = { 0 };

	if (record_save(vs, v, &err) < 0)
		cv_error("volume '%s': %s; a restart of cvol would not know about this change",
			 v->name, err.text);
}

/* "": there is none any more. */
static void set_error_locked(struct volume *v, const char *text)
{
	(void)cv_strcpy(v->error, sizeof(v->error), text);
	v->error_s = *text ? (int64_t)time(NULL) : 0;
}

static void set_error(struct cv_volumes *vs, struct volume *v, const char *text)
{
	CV_SCOPED_LOCK(&vs->lock);
	set_error_locked(v, text);
}

/* ---- mount ---- */

/* Clears what is left of a worker that ended, or whose mountpoint somebody else unmounted. */
void cv_volume_drop_dead_worker(struct cv_volumes *vs, struct volume *v)
{
	struct cv_worker *w;
	struct cv_err err = { 0 };

	{
		CV_SCOPED_LOCK(&vs->lock);
		w = cv_steal(&v->worker);
	}
	if (w && vs->mounter->unmount(w, &err) < 0)
		cv_warning("volume '%s': %s", v->name, err.text);
}

bool cv_volume_is_mounted(struct cv_volumes *vs, struct volume *v)
{
	struct cv_worker_info info = { 0 };
	bool usable = false;

	{
		CV_SCOPED_LOCK(&vs->lock);
		if (v->worker) {
			vs->mounter->info(v->worker, &info);
			usable = info.alive;
		}
	}
	if (usable && !vs->mounter->is_mounted(v->mountpoint, info.dev)) {
		cv_warning("volume '%s': somebody unmounted %s; mounting it again", v->name,
			   v->mountpoint);
		usable = false;
	}
	return usable;
}

/* The embedded default makes its own directory; any other path must exist. */
static int make_default_path(const struct cv_volumes *vs, const struct volume *v,
			     struct cv_err *err)
{
	cv_cleanup_free char *path = cv_volume_default_path(vs, v->encoded);

	if (!path || !cv_str_eq(cv_dict_get(&v->options, "type"), "dir") ||
	    !cv_str_eq(cv_dict_get(&v->options, "path"), path))
		return 0;
	return cv_mkdir_p(path, 0755, err);
}

static int start_mount(struct cv_volumes *vs, struct volume *v, unsigned timeout_ms,
		       struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	struct cv_mount_spec spec = {
		.volume = v->name,
		.socket_name = v->socket_name,
		.mountpoint = v->mountpoint,
		.options = &options,
		.timeout_ms = timeout_ms,
		.bare = true,
	};
	struct cv_worker *w = NULL;
	int r;

	cv_volume_drop_dead_worker(vs, v);
	r = cv_remotes_resolve(vs->config_dir, v->name, &v->options, &options, err);
	if (r == 0)
		r = make_default_path(vs, v, err);
	if (r == 0)
		r = vs->mounter->prepare(v->mountpoint, err);
	if (r == 0) {
		r = vs->mounter->mount(vs->ctx, &spec, &w, err);
		if (r < 0)
			vs->mounter->remove(v->mountpoint);
	}
	if (r < 0)
		return cv_fail_context(err, "volume '%s' (%s)", v->name, v->source);
	{
		CV_SCOPED_LOCK(&vs->lock);
		v->worker = w;
	}
	cv_volume_note_made(vs, v, &options);
	return 0;
}

int cv_volume_attempt(struct cv_volumes *vs, struct volume *v, unsigned timeout_ms,
		      struct cv_err *err)
{
	struct cv_err local = { 0 };
	int r;

	{
		CV_SCOPED_LOCK(&vs->lock);
		v->mounting = true;
		if (!v->waiting_until && !v->retry_at)
			v->waiting_since = 0;
	}
	r = start_mount(vs, v, timeout_ms, &local);
	{
		CV_SCOPED_LOCK(&vs->lock);
		v->mounting = false;
		v->attempts++;
		v->last = local;
		v->last.code = r;
		set_error_locked(v, r < 0 ? local.text : "");
		if (!v->waiting_since)
			v->waiting_since = v->error_s;
		if (r == 0) {
			v->worked = true;
			cv_volume_retry_done_locked(v);
		}
	}
	if (r < 0) {
		cv_debug("attempt %u: %s", v->attempts, local.text);
		return cv_fail(err, r, "%s", local.text);
	}
	cv_info("volume '%s' (%s) mounted on %s", v->name, v->source, v->mountpoint);
	return 0;
}

/*
 * With op held, nobody using the mount any more. Sync and time limits are the caller's affair.
 */
void cv_volume_end_mount(struct cv_volumes *vs, struct volume *v)
{
	struct cv_err err = { 0 };
	struct cv_worker *w;

	{
		CV_SCOPED_LOCK(&vs->lock);
		w = cv_steal(&v->worker);
	}
	if (w && vs->mounter->unmount(w, &err) < 0) {
		cv_error("volume '%s': %s", v->name, err.text);
		set_error(vs, v, err.text);
	} else if (w) {
		cv_info("volume '%s' unmounted", v->name);
	}
	cv_volume_record(vs, v);
}

static int mount_locked_op(struct cv_volumes *vs, struct volume *v, const char *id,
			   const struct cv_attempts *plan, struct cv_err *err)
{
	int r = cv_volume_is_mounted(vs, v) ? 0 : cv_volume_attempts(vs, v, plan, err);

	if (r < 0)
		return r;
	{
		CV_SCOPED_LOCK(&vs->lock);
		r = id_add_locked(v, id, vs->epoch);
	}
	if (r < 0)
		r = cv_fail(err, -r, "volume '%s': %s", v->name, cv_strerror(r));
	else
		r = record_save(vs, v, err);
	if (r < 0) {
		bool unused;

		{
			CV_SCOPED_LOCK(&vs->lock);
			(void)id_drop_locked(v, id);
			unused = cv_volume_uses_locked(v) == 0;
		}
		if (unused)
			cv_volume_end_mount(vs, v);
	}
	return r;
}

int cv_volumes_mount(struct cv_volumes *vs, const char *name, const char *id, char **ret_mountpoint,
		     struct cv_err *err)
{
	struct volume *v = cv_volume_get(vs, name);
	char *mountpoint = NULL;
	struct cv_attempts plan;
	int r;

	if (!v)
		return cv_volume_unknown(name, err);
	if (v->broken) {
		r = cv_fail(err, EIO, "volume '%s' cannot be mounted: %s", v->name, v->broken);
		cv_volume_unref(vs, v);
		return r;
	}
	cv_volume_plan(vs, v, id, &plan);
	r = cv_volume_lock(vs, v, plan.last + LOCK_GRACE_MS, err);
	if (r == 0) {
		mountpoint = strdup(v->mountpoint);
		r = mountpoint ? mount_locked_op(vs, v, id, &plan, err)
			       : cv_fail(err, ENOMEM, "out of memory");
		(void)pthread_mutex_unlock(&v->op);
	}
	cv_volume_unref(vs, v);
	if (r < 0) {
		free(mountpoint);
		return r;
	}
	*ret_mountpoint = mountpoint;
	return 0;
}

/* ---- unmount ---- */

/* A reference to the worker, so that it can be talked to without op. */
struct cv_worker *cv_volume_worker(struct cv_volumes *vs, struct volume *v)
{
	CV_SCOPED_LOCK(&vs->lock);
	return v->worker ? vs->mounter->ref(v->worker) : NULL;
}

int cv_volumes_log_level(struct cv_volumes *vs, const char *name, enum cv_log_level level,
			 struct cv_err *err)
{
	struct volume *v = cv_volume_get(vs, name);
	struct cv_worker *w;
	int r;

	if (!v)
		return cv_volume_unknown(name, err);
	w = cv_volume_worker(vs, v);
	if (w) {
		r = vs->mounter->log_level(w, level, err);
		vs->mounter->unref(w);
	} else {
		r = cv_fail(err, ENOTCONN, "it is not mounted");
	}
	if (r < 0)
		(void)cv_fail_context(err, "volume '%s'", v->name);
	cv_volume_unref(vs, v);
	return r;
}

int cv_volume_sync(struct cv_volumes *vs, struct volume *v, unsigned timeout_ms, struct cv_err *err)
{
	struct cv_worker *w = cv_volume_worker(vs, v);
	struct cv_worker_info info = { 0 };
	int r = 0;

	if (!w)
		return 0;
	r = vs->mounter->sync(w, timeout_ms, err);
	if (r < 0) {
		vs->mounter->info(w, &info);
		CV_SCOPED_LOCK(&vs->lock);
		(void)cv_fail_context(err, "volume '%s': written data is not stored on %s yet%s",
				      v->name, *info.server ? info.server : v->source,
				      info.alive ? "; cvol goes on trying" : "");
	}
	vs->mounter->unref(w);
	return r;
}

/* Ends the mount if still nobody uses it. synced: its data is stored, or its worker is dead. */
static void end_if_unused(struct cv_volumes *vs, struct volume *v, uint64_t deadline, bool synced)
{
	struct cv_err err = { 0 };
	bool unused, alive = false;

	if (cv_volume_lock(vs, v, deadline, &err) < 0) {
		cv_debug("%s", err.text); /* cv_volumes_tick() comes back to it */
		return;
	}
	{
		struct cv_worker_info info = { 0 };

		CV_SCOPED_LOCK(&vs->lock);
		unused = v->worker && !v->unmounting && cv_volume_uses_locked(v) == 0;
		if (v->worker) {
			vs->mounter->info(v->worker, &info);
			alive = info.alive;
		}
	}
	if (unused && (synced || !alive))
		cv_volume_end_mount(vs, v);
	(void)pthread_mutex_unlock(&v->op);
}

/* Takes the reference away; false if there is none. */
static bool drop_reference(struct cv_volumes *vs, struct volume *v, const char *id)
{
	bool known;

	{
		CV_SCOPED_LOCK(&vs->lock);
		known = id_drop_locked(v, id);
	}
	if (known)
		cv_volume_record(vs, v);
	return known;
}

/*
 * Several Unmounts of a volume may wait for its server at once. Nobody ends the mount under the
 * others' feet: whoever is the last to get an answer does, if all got a good one.
 */
static void unmount_begin(struct cv_volumes *vs, struct volume *v)
{
	CV_SCOPED_LOCK(&vs->lock);
	if (v->unmounting++ == 0)
		v->unmount_failed = false;
}

/* True for the last one; *ret_synced: for all of them. */
static bool unmount_finish(struct cv_volumes *vs, struct volume *v, bool synced, bool *ret_synced)
{
	CV_SCOPED_LOCK(&vs->lock);
	if (!synced)
		v->unmount_failed = true;
	*ret_synced = !v->unmount_failed;
	return --v->unmounting == 0;
}

static int unmount_volume(struct cv_volumes *vs, struct volume *v, const char *id,
			  struct cv_err *err)
{
	uint64_t deadline = cv_clock_ms() + UNMOUNT_MS;
	bool known, synced;
	int r = cv_volume_lock(vs, v, deadline, err);

	if (r == -ENOENT) /* removed meanwhile */
		return 0;
	if (r < 0)
		return r;
	unmount_begin(vs, v);
	known = drop_reference(vs, v, id);
	(void)pthread_mutex_unlock(&v->op);
	if (!known) {
		(void)unmount_finish(vs, v, true, &synced);
		cv_notice("volume '%s': unmount of an unknown ID %.64s", v->name, id);
		return 0;
	}
	/* Not with op held: a server that is away must not keep others from mounting again. */
	r = cv_volume_sync(vs, v, (unsigned)cv_clock_left_ms(deadline), err);
	if (r < 0) {
		cv_error("%s", err->text);
		set_error(vs, v, err->text);
	}
	if (unmount_finish(vs, v, r == 0, &synced))
		end_if_unused(vs, v, deadline + REMOVE_SYNC_MS, synced);
	return r;
}

int cv_volumes_unmount(struct cv_volumes *vs, const char *name, const char *id, struct cv_err *err)
{
	struct volume *v = cv_volume_get(vs, name);
	struct cv_err local = { 0 };
	int r;

	if (!v) {
		cv_notice("unmount of an unknown volume");
		return 0;
	}
	r = unmount_volume(vs, v, id, err ? err : &local);
	cv_volume_unref(vs, v);
	return r;
}

/* ---- leftovers ---- */

/* With op held. */
void cv_volume_forget_ids(struct cv_volumes *vs, struct volume *v)
{
	CV_SCOPED_LOCK(&vs->lock);
	while (v->id_count)
		free(v->ids[--v->id_count].id);
}

/* Whether any process has it open or, in a container, mounted. */
bool cv_volume_is_used(struct cv_volumes *vs, struct volume *v)
{
	struct cv_worker_info info = { 0 };

	{
		CV_SCOPED_LOCK(&vs->lock);
		if (v->worker)
			vs->mounter->info(v->worker, &info);
	}
	return info.alive && vs->mounter->in_use(v->mountpoint, info.dev);
}

/* ---- over time ---- */

void cv_volumes_new_epoch(struct cv_volumes *vs)
{
	CV_SCOPED_LOCK(&vs->lock);
	vs->epoch++;
	cv_debug("a dockerd introduced itself: epoch %u", vs->epoch);
}

struct volume **cv_volumes_snapshot(struct cv_volumes *vs,
				    bool (*wanted)(const struct cv_volumes *vs,
						   const struct volume *v),
				    size_t *ret_count)
{
	struct volume **found;
	size_t count = 0;

	CV_SCOPED_LOCK(&vs->lock);
	*ret_count = 0;
	for (struct volume *v = vs->list; v; v = v->next)
		count++;
	found = calloc(count ? count : 1, sizeof(struct volume *));
	for (struct volume *v = vs->list; found && v; v = v->next) {
		if (!wanted || wanted(vs, v)) {
			v->refs++;
			found[(*ret_count)++] = v;
		}
	}
	return found;
}

/* A mount that no dockerd of today knows of. */
static bool is_unused_locked(const struct cv_volumes *vs, const struct volume *v)
{
	return v->worker && !v->unmounting && cv_volume_current_uses_locked(vs, v) == 0 &&
	       v->kept_until <= cv_clock_ms();
}

/*
 * Counts of an earlier dockerd: either their containers live on (live-restore) and will be
 * released, or never. The difference is whether any process uses the mount. True when they were
 * forgotten now.
 */
static bool forget_stale(struct cv_volumes *vs, struct volume *v)
{
	bool used = cv_volume_is_used(vs, v), forget = false;
	struct cv_err err = { 0 };

	{
		CV_SCOPED_LOCK(&vs->lock);
		v->stale_ticks =
			used || cv_volume_current_uses_locked(vs, v) ? 0 : v->stale_ticks + 1;
		if (v->stale_ticks < STALE_TICKS)
			return false;
	}
	if (cv_volume_lock(vs, v, cv_clock_ms(), &err) < 0)
		return false;
	{
		CV_SCOPED_LOCK(&vs->lock);
		forget = cv_volume_current_uses_locked(vs, v) == 0;
	}
	if (forget) {
		cv_notice("volume '%s': forgetting the mounts of an earlier dockerd", v->name);
		cv_volume_forget_ids(vs, v);
		cv_volume_record(vs, v);
	}
	(void)pthread_mutex_unlock(&v->op);
	return forget;
}

void cv_volume_end_idle(struct cv_volumes *vs, struct volume *v)
{
	struct cv_err err = { 0 };
	int r = cv_volume_sync(vs, v, TICK_SYNC_MS, &err);

	if (r < 0)
		cv_debug("%s", err.text);
	end_if_unused(vs, v, cv_clock_ms(), r == 0);
}

static void tick_one(struct cv_volumes *vs, struct volume *v)
{
	bool stale;

	{
		CV_SCOPED_LOCK(&vs->lock);
		stale = cv_volume_uses_locked(v) != 0;
	}
	if (!stale || forget_stale(vs, v))
		cv_volume_end_idle(vs, v);
}

void cv_volumes_tick(struct cv_volumes *vs)
{
	size_t count = 0;
	struct volume **unused = cv_volumes_snapshot(vs, is_unused_locked, &count);

	for (size_t i = 0; i < count; i++) {
		tick_one(vs, unused[i]);
		cv_volume_unref(vs, unused[i]);
	}
	free(unused);
}
