/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/volumes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/files.h"
#include "plugin/mountpoint.h"
#include "plugin/names.h"
#include "plugin/process.h"
#include "plugin/state.h"

#define MOUNT_MS       20000 /* dockerd waits 120 s; a managed plugin has 30 s */
#define PODMAN_MS      4000  /* Podman waits 5 s */
#define UNMOUNT_MS     50000 /* dockerd waits 60 s */
#define LOCK_GRACE_MS  700   /* so that a waiting Mount gets to know what the attempt's error was */
#define REMOVE_MS      40000
#define REMOVE_SYNC_MS 10000
#define TICK_SYNC_MS   5000
#define STALE_TICKS    6 /* how often an earlier dockerd's mount must be seen unused */
#define IDS_MAX	       100000

struct volume {
	struct volume *next; /* protected by volumes->lock */
	unsigned refs;	     /* likewise; the list holds one */
	pthread_mutex_t op;

	/* Fixed after creation. */
	char *name; /* owned */
	char encoded[CV_ENCODED_MAX + 1];
	char socket_name[CV_ENCODED_SOCKET + 8];
	char *mountpoint; /* owned */
	char *source;	  /* owned */
	int64_t created;
	struct cv_dict options;
	char *broken; /* owned: why the state file cannot be used; NULL: it can */

	/* Protected by volumes->lock; worker changes only with op held as well. */
	bool removed;
	bool mounting;
	struct cv_worker *worker;
	struct cv_mount_id *ids; /* owned */
	size_t id_count;
	char error[CV_ERR_SIZE]; /* the last one, for people; "" */
	unsigned attempts;	 /* mounts tried so far */
	struct cv_err last;	 /* of the last attempt; code 0: it succeeded */
	unsigned stale_ticks; /* how often only earlier dockerds' counts were seen, without users */
};

struct cv_volumes {
	pthread_mutex_t create;
	pthread_mutex_t lock;
	struct volume *list; /* protected by lock */
	unsigned epoch;	     /* protected by lock */
	struct cv_store store;
	char *run_dir; /* owned */
	int records;   /* owned: RUN_DIR/volumes */
	const struct cv_mounter *mounter;
	void *ctx;
};

/* ---- the registry ---- */

static void volume_free(struct volume *v)
{
	if (!v)
		return;
	for (size_t i = 0; i < v->id_count; i++)
		free(v->ids[i].id);
	free(v->ids);
	cv_dict_release(&v->options);
	free(v->name);
	free(v->mountpoint);
	free(v->source);
	free(v->broken);
	(void)pthread_mutex_destroy(&v->op);
	free(v);
}

static struct volume *volume_new(struct cv_volumes *vs, const char *name, const char *encoded)
{
	struct volume *v = calloc(1, sizeof(*v));
	char socket_base[CV_ENCODED_SOCKET + 1];

	if (!v)
		return NULL;
	(void)pthread_mutex_init(&v->op, NULL);
	v->refs = 1;
	v->name = strdup(name);
	(void)cv_strcpy(v->encoded, sizeof(v->encoded), encoded);
	cv_name_encode(name, CV_ENCODED_SOCKET, socket_base);
	(void)snprintf(v->socket_name, sizeof(v->socket_name), "%s.sock", socket_base);
	v->mountpoint = cv_sprintf("%s/mnt/%s", vs->run_dir, encoded);
	v->source = strdup("");
	if (!v->name || !v->mountpoint || !v->source) {
		volume_free(v);
		return NULL;
	}
	return v;
}

static void unref(struct cv_volumes *vs, struct volume *v)
{
	bool last;

	if (!v)
		return;
	{
		CV_SCOPED_LOCK(&vs->lock);
		last = --v->refs == 0;
	}
	if (last)
		volume_free(v);
}

static struct volume *find_locked(struct cv_volumes *vs, const char *name)
{
	for (struct volume *v = vs->list; v; v = v->next) {
		if (cv_str_eq(v->name, name))
			return v;
	}
	return NULL;
}

static struct volume *find_ref(struct cv_volumes *vs, const char *name)
{
	struct volume *v;

	CV_SCOPED_LOCK(&vs->lock);
	v = find_locked(vs, name);
	if (v)
		v->refs++;
	return v;
}

static int no_such_volume(const char *name, struct cv_err *err)
{
	if (!cv_str_is_utf8(name) || strlen(name) > CV_VOLUME_NAME_MAX)
		return cv_fail(err, ENOENT, "no such volume");
	return cv_fail(err, ENOENT, "no such volume: %s", name);
}

/* Waits for the volume's turn. A removed volume counts as none. Unlock op afterwards. */
static int lock_op(struct cv_volumes *vs, struct volume *v, uint64_t deadline, struct cv_err *err)
{
	struct timespec until = cv_clock_timespec(deadline);
	bool removed;

	if (pthread_mutex_clocklock(&v->op, CLOCK_MONOTONIC, &until) != 0)
		return cv_fail(err, ETIMEDOUT,
			       "volume '%s' (%s): another mount or unmount of it is still under "
			       "way; its server may be slow or away",
			       v->name, v->source);
	{
		CV_SCOPED_LOCK(&vs->lock);
		removed = v->removed;
	}
	if (removed) {
		(void)pthread_mutex_unlock(&v->op);
		return no_such_volume(v->name, err);
	}
	return 0;
}

/* ---- mount IDs: all with volumes->lock held ---- */

static unsigned uses_locked(const struct volume *v)
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

/* Users that the dockerd of today knows of, or that are not dockerd's. */
static unsigned current_uses_locked(const struct cv_volumes *vs, const struct volume *v)
{
	unsigned sum = 0;

	for (size_t i = 0; i < v->id_count; i++) {
		if (v->ids[i].epoch == vs->epoch || cv_str_eq(v->ids[i].id, CV_PODMAN_ID))
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
	cv_worker_info_release(&info);
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

static void record_save_or_warn(struct cv_volumes *vs, struct volume *v)
{
	struct cv_err err = { 0 };

	if (record_save(vs, v, &err) < 0)
		cv_error("volume '%s': %s; a restart of cvol would not know about this change",
			 v->name, err.text);
}

static void set_error(struct cv_volumes *vs, struct volume *v, const char *text)
{
	CV_SCOPED_LOCK(&vs->lock);
	(void)cv_strcpy(v->error, sizeof(v->error), text);
}

/* ---- options ---- */

static char *default_path(const struct cv_volumes *vs, const char *encoded)
{
	return cv_sprintf("%s/data/%s", vs->store.path, encoded);
}

/* What the user wrote, made canonical; without a source the volume lives in the embedded default.
 */
static int canonical_options(const struct cv_volumes *vs, const char *encoded,
			     const struct cv_dict *opts, struct cv_dict *ret, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict with_default = CV_DICT_INIT;
	cv_cleanup_free char *path = NULL;
	int r = cv_options_parse(opts, ret, err);

	if (r < 0 || cv_dict_get(ret, "type"))
		return r;
	if (cv_dict_get(ret, "path")) {
		cv_dict_release(ret);
		return cv_fail(err, EINVAL,
			       "option path: say where: source=dir:///path, or type "
			       "and host as well");
	}
	cv_dict_release(ret);
	path = default_path(vs, encoded);
	r = path ? cv_dict_copy(&with_default, opts) : -ENOMEM;
	if (r == 0)
		r = cv_dict_set(&with_default, "type", "dir");
	if (r == 0)
		r = cv_dict_set(&with_default, "path", path);
	if (r < 0)
		return cv_fail(err, -r, "options: %s", cv_strerror(r));
	return cv_options_parse(&with_default, ret, err);
}

static void add_difference(char *text, size_t size, const char *key, const char *old_value,
			   const char *new_value)
{
	size_t used = strlen(text);

	if (cv_str_eq(old_value, new_value))
		return;
	(void)snprintf(text + used, size - used, "%s%s is '%s', not '%s'", used ? "; " : "", key,
		       old_value ? old_value : "(unset)", new_value ? new_value : "(unset)");
}

static int compare_options(const struct volume *v, const struct cv_dict *wanted, struct cv_err *err)
{
	char text[CV_ERR_SIZE - 300] = "";

	if (cv_dict_equal(&v->options, wanted))
		return 0;
	for (size_t i = 0; i < v->options.count; i++)
		add_difference(text, sizeof(text), v->options.items[i].key,
			       v->options.items[i].value,
			       cv_dict_get(wanted, v->options.items[i].key));
	for (size_t i = 0; i < wanted->count; i++) {
		if (!cv_dict_get(&v->options, wanted->items[i].key))
			add_difference(text, sizeof(text), wanted->items[i].key, NULL,
				       wanted->items[i].value);
	}
	return cv_fail(err, EEXIST, "volume '%s' exists with other options and keeps them: %s",
		       v->name, text);
}

static int set_options(struct volume *v, struct cv_dict *options)
{
	char *source = cv_source_format(options);

	if (!source)
		return -ENOMEM;
	free(v->source);
	v->source = source;
	v->options = *options;
	*options = (struct cv_dict)CV_DICT_INIT;
	return 0;
}

/* ---- create ---- */

static int create_existing(struct cv_volumes *vs, struct volume *v, const struct cv_dict *options,
			   struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict wanted = CV_DICT_INIT;
	int r;

	if (v->broken)
		return cv_fail(err, EEXIST, "volume '%s' exists but cannot be used: %s", v->name,
			       v->broken);
	r = cv_dict_copy(&wanted, options);
	if (r < 0)
		return cv_fail(err, -r, "out of memory");
	r = cv_store_secrets(&vs->store, v->encoded, &wanted, false, err);
	return r < 0 ? r : compare_options(v, &wanted, err);
}

static int create_new(struct cv_volumes *vs, struct volume *v, struct cv_dict *options,
		      struct cv_err *err)
{
	struct cv_state state = { .name = v->name, .created = (int64_t)time(NULL) };
	int r = cv_store_secrets(&vs->store, v->encoded, options, true, err);

	if (r < 0)
		return r;
	state.options = *options; /* borrowed */
	r = cv_store_save(&vs->store, v->encoded, &state, err);
	if (r == 0 && set_options(v, options) < 0)
		r = cv_fail(err, ENOMEM, "out of memory");
	if (r < 0) {
		(void)cv_store_delete(&vs->store, v->encoded, NULL);
		return r;
	}
	v->created = state.created;
	CV_SCOPED_LOCK(&vs->lock);
	v->next = vs->list;
	vs->list = v;
	return 0;
}

int cv_volumes_create(struct cv_volumes *vs, const char *name, const struct cv_dict *opts,
		      struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	char encoded[CV_ENCODED_MAX + 1];
	struct volume *v;
	int r = cv_name_check(name, err);

	if (r < 0)
		return r;
	cv_name_encode(name, CV_ENCODED_MAX, encoded);
	r = canonical_options(vs, encoded, opts, &options, err);
	if (r < 0)
		return cv_fail_context(err, "volume '%s'", name);
	if (cv_dict_get(&options, "password"))
		cv_warning("volume '%s': the password given is kept in a file under %s/secrets; "
			   "dockerd may keep a copy of its own, password_file avoids that",
			   name, vs->store.path);
	CV_SCOPED_LOCK(&vs->create);
	v = find_ref(vs, name);
	if (v) {
		r = create_existing(vs, v, &options, err);
		unref(vs, v);
		return r;
	}
	v = volume_new(vs, name, encoded);
	if (!v)
		return cv_fail(err, ENOMEM, "out of memory");
	r = create_new(vs, v, &options, err);
	if (r < 0) {
		volume_free(v);
		return cv_fail_context(err, "volume '%s' was not created", name);
	}
	cv_notice("volume '%s' created: %s", name, v->source);
	return 0;
}

/* ---- mount ---- */

/* Clears what is left of a worker that ended, or whose mountpoint somebody else unmounted. */
static void drop_dead_worker(struct cv_volumes *vs, struct volume *v)
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

static bool worker_usable(struct cv_volumes *vs, struct volume *v)
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
	cv_worker_info_release(&info);
	return usable;
}

/* The embedded default makes its own directory; any other path must exist. */
static int make_default_path(const struct cv_volumes *vs, const struct volume *v,
			     struct cv_err *err)
{
	cv_cleanup_free char *path = default_path(vs, v->encoded);

	if (!path || !cv_str_eq(cv_dict_get(&v->options, "type"), "dir") ||
	    !cv_str_eq(cv_dict_get(&v->options, "path"), path))
		return 0;
	return cv_mkdir_p(path, 0755, err);
}

static int start_mount(struct cv_volumes *vs, struct volume *v, uint64_t deadline,
		       struct cv_err *err)
{
	struct cv_mount_spec spec = {
		.volume = v->name,
		.socket_name = v->socket_name,
		.mountpoint = v->mountpoint,
		.options = &v->options,
		.bare = true,
	};
	struct cv_worker *w = NULL;
	int r;

	drop_dead_worker(vs, v);
	r = make_default_path(vs, v, err);
	if (r == 0)
		r = vs->mounter->prepare(v->mountpoint, err);
	if (r == 0) {
		spec.timeout_ms = (unsigned)cv_clock_left_ms(deadline);
		r = vs->mounter->mount(vs->ctx, &spec, &w, err);
		if (r < 0)
			vs->mounter->remove(v->mountpoint);
	}
	if (r < 0)
		return cv_fail_context(err, "volume '%s' (%s)", v->name, v->source);
	CV_SCOPED_LOCK(&vs->lock);
	v->worker = w;
	return 0;
}

/* With op held. */
static int attempt_mount(struct cv_volumes *vs, struct volume *v, uint64_t deadline,
			 struct cv_err *err)
{
	struct cv_err local = { 0 };
	int r;

	{
		CV_SCOPED_LOCK(&vs->lock);
		v->mounting = true;
	}
	r = start_mount(vs, v, deadline, &local);
	{
		CV_SCOPED_LOCK(&vs->lock);
		v->mounting = false;
		v->attempts++;
		v->last = local;
		v->last.code = r;
		(void)cv_strcpy(v->error, sizeof(v->error), r < 0 ? local.text : "");
	}
	if (r < 0) {
		cv_error("mounting failed: %s", local.text);
		return cv_fail(err, -r, "%s", local.text);
	}
	cv_info("volume '%s' (%s) mounted on %s", v->name, v->source, v->mountpoint);
	return 0;
}

/*
 * With op held, nobody using the mount any more. Sync and time limits are the caller's affair.
 */
static void end_mount(struct cv_volumes *vs, struct volume *v)
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
	record_save_or_warn(vs, v);
}

static int mount_locked_op(struct cv_volumes *vs, struct volume *v, const char *id, unsigned seen,
			   uint64_t deadline, struct cv_err *err)
{
	bool usable = worker_usable(vs, v);
	int r = 0;

	if (!usable) {
		bool shared;

		{
			/* One attempt for all who were waiting when it ended. */
			CV_SCOPED_LOCK(&vs->lock);
			shared = v->attempts != seen && v->last.code < 0;
			if (shared)
				r = cv_fail(err, -v->last.code, "%s", v->last.text);
		}
		if (!shared)
			r = attempt_mount(vs, v, deadline, err);
	}
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
			unused = uses_locked(v) == 0;
		}
		if (unused)
			end_mount(vs, v);
	}
	return r;
}

static uint64_t mount_limit_ms(const struct volume *v, const char *id)
{
	uint64_t limit = cv_options_ms(&v->options, "mount_timeout", MOUNT_MS);

	return cv_str_eq(id, CV_PODMAN_ID) && limit > PODMAN_MS ? PODMAN_MS : limit;
}

int cv_volumes_mount(struct cv_volumes *vs, const char *name, const char *id, char **ret_mountpoint,
		     struct cv_err *err)
{
	struct volume *v = find_ref(vs, name);
	char *mountpoint = NULL;
	uint64_t deadline;
	unsigned seen;
	int r;

	if (!v)
		return no_such_volume(name, err);
	if (v->broken) {
		r = cv_fail(err, EIO, "volume '%s' cannot be mounted: %s", v->name, v->broken);
		unref(vs, v);
		return r;
	}
	{
		CV_SCOPED_LOCK(&vs->lock);
		seen = v->attempts;
	}
	deadline = cv_clock_ms() + mount_limit_ms(v, id);
	r = lock_op(vs, v, deadline + LOCK_GRACE_MS, err);
	if (r == 0) {
		mountpoint = strdup(v->mountpoint);
		r = mountpoint ? mount_locked_op(vs, v, id, seen, deadline, err)
			       : cv_fail(err, ENOMEM, "out of memory");
		(void)pthread_mutex_unlock(&v->op);
	}
	unref(vs, v);
	if (r < 0) {
		free(mountpoint);
		return r;
	}
	*ret_mountpoint = mountpoint;
	return 0;
}

/* ---- unmount ---- */

/* A reference to the worker, so that it can be talked to without op. */
static struct cv_worker *worker_ref(struct cv_volumes *vs, struct volume *v)
{
	CV_SCOPED_LOCK(&vs->lock);
	return v->worker ? vs->mounter->ref(v->worker) : NULL;
}

static int sync_worker(struct cv_volumes *vs, struct volume *v, unsigned timeout_ms,
		       struct cv_err *err)
{
	struct cv_worker *w = worker_ref(vs, v);
	struct cv_worker_info info = { 0 };
	int r = 0;

	if (!w)
		return 0;
	r = vs->mounter->sync(w, timeout_ms, err);
	if (r < 0) {
		vs->mounter->info(w, &info);
		(void)cv_fail_context(err, "volume '%s': written data is not stored on %s yet%s",
				      v->name, *info.server ? info.server : v->source,
				      info.alive ? "; cvol goes on trying" : "");
		cv_worker_info_release(&info);
	}
	vs->mounter->unref(w);
	return r;
}

/* Ends the mount if still nobody uses it. synced: its data is stored, or its worker is dead. */
static void end_if_unused(struct cv_volumes *vs, struct volume *v, uint64_t deadline, bool synced)
{
	struct cv_err err = { 0 };
	bool unused, alive = false;

	if (lock_op(vs, v, deadline, &err) < 0) {
		cv_debug("%s", err.text); /* cv_volumes_tick() comes back to it */
		return;
	}
	{
		struct cv_worker_info info = { 0 };

		CV_SCOPED_LOCK(&vs->lock);
		unused = v->worker && uses_locked(v) == 0;
		if (v->worker) {
			vs->mounter->info(v->worker, &info);
			alive = info.alive;
			cv_worker_info_release(&info);
		}
	}
	if (unused && (synced || !alive))
		end_mount(vs, v);
	(void)pthread_mutex_unlock(&v->op);
}

/* Takes the reference away; false if there is none. *ret_left: references left. */
static bool drop_reference(struct cv_volumes *vs, struct volume *v, const char *id,
			   unsigned *ret_left)
{
	bool known;

	{
		CV_SCOPED_LOCK(&vs->lock);
		known = id_drop_locked(v, id);
		*ret_left = uses_locked(v);
	}
	if (known)
		record_save_or_warn(vs, v);
	return known;
}

static int unmount_volume(struct cv_volumes *vs, struct volume *v, const char *id,
			  struct cv_err *err)
{
	uint64_t deadline = cv_clock_ms() + UNMOUNT_MS;
	unsigned left = 0;
	bool known;
	int r = lock_op(vs, v, deadline, err);

	if (r == -ENOENT) /* removed meanwhile */
		return 0;
	if (r < 0)
		return r;
	known = drop_reference(vs, v, id, &left);
	(void)pthread_mutex_unlock(&v->op);
	if (!known) {
		cv_notice("volume '%s': unmount of an unknown ID %.64s", v->name, id);
		return 0;
	}
	/* Not with op held: a server that is away must not keep others from mounting again. */
	r = sync_worker(vs, v, (unsigned)cv_clock_left_ms(deadline), err);
	if (r < 0) {
		cv_error("%s", err->text);
		set_error(vs, v, err->text);
	}
	if (left == 0)
		end_if_unused(vs, v, deadline + REMOVE_SYNC_MS, r == 0);
	return r;
}

int cv_volumes_unmount(struct cv_volumes *vs, const char *name, const char *id, struct cv_err *err)
{
	struct volume *v = find_ref(vs, name);
	struct cv_err local = { 0 };
	int r;

	if (!v) {
		cv_notice("unmount of an unknown volume");
		return 0;
	}
	r = unmount_volume(vs, v, id, err ? err : &local);
	unref(vs, v);
	return r;
}

/* ---- remove ---- */

/* With op held. */
static void forget_ids(struct cv_volumes *vs, struct volume *v)
{
	CV_SCOPED_LOCK(&vs->lock);
	while (v->id_count)
		free(v->ids[--v->id_count].id);
}

static int remove_files(struct cv_volumes *vs, struct volume *v, struct cv_err *err)
{
	int r;

	CV_SCOPED_LOCK(&vs->create);
	r = v->broken ? cv_store_set_aside(&vs->store, v->encoded, err)
		      : cv_store_delete(&vs->store, v->encoded, err);
	if (r < 0)
		return r;
	CV_SCOPED_LOCK(&vs->lock);
	v->removed = true;
	for (struct volume **p = &vs->list; *p; p = &(*p)->next) {
		if (*p == v) {
			*p = v->next;
			v->refs--; /* the list's; the caller has one too */
			break;
		}
	}
	return 0;
}

/* Whether any process has it open or, in a container, mounted. */
static bool really_used(struct cv_volumes *vs, struct volume *v)
{
	struct cv_worker_info info = { 0 };

	{
		CV_SCOPED_LOCK(&vs->lock);
		if (v->worker)
			vs->mounter->info(v->worker, &info);
	}
	cv_worker_info_release(&info);
	return info.alive && vs->mounter->in_use(v->mountpoint, info.dev);
}

/* With op held. */
static int remove_locked_op(struct cv_volumes *vs, struct volume *v, bool leaked_counts,
			    struct cv_err *err)
{
	unsigned uses, stale;
	int r;

	{
		CV_SCOPED_LOCK(&vs->lock);
		uses = current_uses_locked(vs, v);
		stale = uses_locked(v) - uses;
	}
	if (uses && leaked_counts && !really_used(vs, v)) {
		cv_notice("volume '%s': forgetting %u mounts that nobody stands behind", v->name,
			  uses);
		uses = 0;
	}
	if (uses)
		return cv_fail(err, EBUSY, "volume '%s' is in use: it is mounted %u time%s",
			       v->name, uses, uses == 1 ? "" : "s");
	if (stale)
		cv_notice("volume '%s': forgetting %u mounts of an earlier dockerd", v->name,
			  stale);
	if (worker_usable(vs, v)) {
		r = sync_worker(vs, v, REMOVE_SYNC_MS, err);
		if (r < 0 && worker_usable(vs, v))
			return cv_fail_context(err, "volume '%s' was not removed", v->name);
	}
	forget_ids(vs, v);
	end_mount(vs, v);
	vs->mounter->remove(v->mountpoint);
	return remove_files(vs, v, err);
}

int cv_volumes_remove(struct cv_volumes *vs, const char *name, bool leaked_counts,
		      struct cv_err *err)
{
	struct volume *v = find_ref(vs, name);
	int r;

	if (!v)
		return no_such_volume(name, err);
	r = lock_op(vs, v, cv_clock_ms() + REMOVE_MS, err);
	if (r == 0) {
		r = remove_locked_op(vs, v, leaked_counts, err);
		(void)pthread_mutex_unlock(&v->op);
	}
	if (r == 0)
		cv_notice("volume '%s' removed; its data is kept: %s", v->name, v->source);
	unref(vs, v);
	return r;
}

/* ---- get, list: volumes->lock alone ---- */

static const char *state_locked(const struct volume *v, const struct cv_worker_info *info)
{
	if (v->broken)
		return "broken";
	if (v->mounting)
		return "mounting";
	if (v->worker && info->alive)
		return uses_locked(v) ? "mounted" : "draining";
	if (v->worker || v->id_count)
		return "failed";
	return "created";
}

static int view_locked(const struct cv_volumes *vs, const struct volume *v, struct cv_view *view)
{
	struct cv_worker_info info = { 0 };
	const char *error = v->broken ? v->broken : v->error;
	int r;

	if (v->worker)
		vs->mounter->info(v->worker, &info);
	if (v->worker && !info.alive && *info.error)
		error = info.error;
	view->name = strdup(v->name);
	view->mountpoint = strdup(v->mountpoint);
	view->source = strdup(v->source);
	view->server = strdup(info.alive ? info.server : "");
	view->error = strdup(error);
	view->state = state_locked(v, &info);
	view->created = v->created;
	view->mounts = uses_locked(v);
	view->worker = info.alive ? info.pid : 0;
	r = cv_dict_copy(&view->options, &v->options);
	view->worker_status = info.status; /* moved */
	if (r < 0 || !view->name || !view->mountpoint || !view->source || !view->server ||
	    !view->error) {
		cv_view_release(view);
		return -ENOMEM;
	}
	return 0;
}

int cv_volumes_get(struct cv_volumes *vs, const char *name, struct cv_view *ret, struct cv_err *err)
{
	struct cv_view view = { 0 };
	struct volume *v;

	CV_SCOPED_LOCK(&vs->lock);
	v = find_locked(vs, name);
	if (!v)
		return no_such_volume(name, err);
	if (view_locked(vs, v, &view) < 0)
		return cv_fail(err, ENOMEM, "out of memory");
	*ret = view;
	return 0;
}

static int compare_views(const void *a, const void *b)
{
	return strcmp(((const struct cv_view *)a)->name, ((const struct cv_view *)b)->name);
}

static int list_locked(struct cv_volumes *vs, struct cv_view **ret_views, size_t *ret_count)
{
	struct cv_view *views;
	size_t count = 0, done = 0;

	for (struct volume *v = vs->list; v; v = v->next)
		count++;
	views = calloc(count ? count : 1, sizeof(*views));
	if (!views)
		return -ENOMEM;
	for (struct volume *v = vs->list; v; v = v->next) {
		if (view_locked(vs, v, &views[done]) < 0) {
			cv_views_free(views, done);
			return -ENOMEM;
		}
		done++;
	}
	*ret_views = views;
	*ret_count = count;
	return 0;
}

int cv_volumes_list(struct cv_volumes *vs, struct cv_view **ret_views, size_t *ret_count,
		    struct cv_err *err)
{
	int r;

	{
		CV_SCOPED_LOCK(&vs->lock);
		r = list_locked(vs, ret_views, ret_count);
	}
	if (r < 0)
		return cv_fail(err, -r, "out of memory");
	qsort(*ret_views, *ret_count, sizeof(**ret_views), compare_views);
	return 0;
}

/* ---- over time ---- */

void cv_volumes_new_epoch(struct cv_volumes *vs)
{
	CV_SCOPED_LOCK(&vs->lock);
	vs->epoch++;
	cv_debug("a dockerd introduced itself: epoch %u", vs->epoch);
}

/* The volumes with a mount that no dockerd of today knows of, referenced. */
static struct volume **unused_mounts(struct cv_volumes *vs, size_t *ret_count)
{
	struct volume **found;
	size_t count = 0;

	CV_SCOPED_LOCK(&vs->lock);
	*ret_count = 0;
	for (struct volume *v = vs->list; v; v = v->next)
		count++;
	found = calloc(count ? count : 1, sizeof(struct volume *));
	for (struct volume *v = vs->list; found && v; v = v->next) {
		if (v->worker && current_uses_locked(vs, v) == 0) {
			v->refs++;
			found[(*ret_count)++] = v;
		}
	}
	return found;
}

/*
 * Counts of an earlier dockerd: either their containers live on (live-restore) and will be
 * released, or never. The difference is whether any process uses the mount. True when they were
 * forgotten now.
 */
static bool forget_stale(struct cv_volumes *vs, struct volume *v)
{
	bool used = really_used(vs, v), forget = false;
	struct cv_err err = { 0 };

	{
		CV_SCOPED_LOCK(&vs->lock);
		v->stale_ticks = used || current_uses_locked(vs, v) ? 0 : v->stale_ticks + 1;
		if (v->stale_ticks < STALE_TICKS)
			return false;
	}
	if (lock_op(vs, v, cv_clock_ms(), &err) < 0)
		return false;
	{
		CV_SCOPED_LOCK(&vs->lock);
		forget = current_uses_locked(vs, v) == 0;
	}
	if (forget) {
		cv_notice("volume '%s': forgetting the mounts of an earlier dockerd", v->name);
		forget_ids(vs, v);
		record_save_or_warn(vs, v);
	}
	(void)pthread_mutex_unlock(&v->op);
	return forget;
}

static void tick_one(struct cv_volumes *vs, struct volume *v)
{
	struct cv_err err = { 0 };
	bool stale;
	int r;

	{
		CV_SCOPED_LOCK(&vs->lock);
		stale = uses_locked(v) != 0;
	}
	if (stale && !forget_stale(vs, v))
		return;
	r = sync_worker(vs, v, TICK_SYNC_MS, &err);
	if (r < 0)
		cv_debug("%s", err.text);
	end_if_unused(vs, v, cv_clock_ms(), r == 0);
}

void cv_volumes_tick(struct cv_volumes *vs)
{
	size_t count = 0;
	struct volume **unused = unused_mounts(vs, &count);

	for (size_t i = 0; i < count; i++) {
		tick_one(vs, unused[i]);
		unref(vs, unused[i]);
	}
	free(unused);
}

/* ---- start ---- */

static int load_options(const struct cv_volumes *vs, struct volume *v, const struct cv_state *state,
			struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	int r = cv_options_parse(&state->options, &options, err);

	if (r == 0 && !cv_dict_get(&options, "type"))
		r = cv_fail(err, EBADMSG, "no type");
	if (r < 0)
		return cv_fail_context(err, "state file %s/volumes/%s.json", vs->store.path,
				       v->encoded);
	return set_options(v, &options);
}

static void load_one(void *ctx, const char *encoded)
{
	struct cv_volumes *vs = ctx;
	cv_cleanup_state struct cv_state state = CV_STATE_INIT;
	cv_cleanup_free char *decoded = NULL;
	struct cv_err err = { 0 };
	struct volume *v;
	int r = cv_store_load(&vs->store, encoded, &state, &err);

	if (r < 0)
		decoded = cv_name_decode(encoded);
	v = volume_new(vs, state.name ? state.name : decoded ? decoded : encoded, encoded);
	if (!v) {
		cv_error("volume %s: out of memory", encoded);
		return;
	}
	if (r == 0) {
		v->created = state.created;
		r = load_options(vs, v, &state, &err);
	}
	if (r < 0) {
		cv_error("volume '%s' cannot be used: %s", v->name, err.text);
		v->broken = strdup(*err.text ? err.text : "its state file cannot be read");
		if (!v->broken) {
			volume_free(v);
			return;
		}
	}
	CV_SCOPED_LOCK(&vs->lock);
	if (find_locked(vs, v->name)) { /* a broken file whose guessed name is taken */
		cv_error("volume '%s' is there twice; %s.json is ignored", v->name, encoded);
		volume_free(v);
		return;
	}
	v->next = vs->list;
	vs->list = v;
}

static struct volume *find_encoded(struct cv_volumes *vs, const char *encoded)
{
	for (struct volume *v = vs->list; v; v = v->next) {
		if (cv_str_eq(v->encoded, encoded))
			return v;
	}
	return NULL;
}

static void adopt_one(struct cv_volumes *vs, struct volume *v, struct cv_record *rec)
{
	struct cv_worker *w = NULL;
	struct cv_err err = { 0 };

	v->ids = cv_steal(&rec->ids);
	v->id_count = rec->id_count;
	rec->id_count = 0;
	for (size_t i = 0; i < v->id_count; i++) {
		if (v->ids[i].epoch > vs->epoch)
			vs->epoch = v->ids[i].epoch;
	}
	if (vs->mounter->adopt(vs->ctx, rec, v->socket_name, &w, &err) == 0) {
		v->worker = w;
		cv_info("volume '%s': found mounted, %u users", v->name, uses_locked(v));
		return;
	}
	cv_warning("volume '%s' was mounted, but %s", v->name, err.text);
	(void)cv_strcpy(v->error, sizeof(v->error), err.text);
	record_save_or_warn(vs, v);
}

/* Before any other thread is there. */
static void load_record(struct cv_volumes *vs, const char *file)
{
	cv_cleanup_record struct cv_record rec = { 0 };
	char encoded[NAME_MAX + 1];
	struct cv_err err = { 0 };
	struct volume *v;
	int r;

	(void)snprintf(encoded, sizeof(encoded), "%.*s", (int)(strlen(file) - strlen(".json")),
		       file);
	v = find_encoded(vs, encoded);
	r = cv_record_load(vs->records, file, &rec, &err);
	if (r == 0 && v && !cv_str_eq(rec.volume, v->name))
		r = cv_fail(&err, EBADMSG, "record %s is of another volume", file);
	if (r == 0 && v) {
		adopt_one(vs, v, &rec);
		return;
	}
	/* Its mount, if any, is detached below; its worker ends when nobody uses it any more. */
	cv_warning("%s", r < 0 ? err.text : "a mount of a volume that is no more is ended");
	(void)unlinkat(vs->records, file, 0);
}

static int load_records(struct cv_volumes *vs, struct cv_err *err)
{
	int fd = openat(vs->records, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cv_cleanup_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		int saved = errno;

		cv_close_fd(&fd);
		return cv_fail(err, saved, "%s/volumes: %s", vs->run_dir, cv_strerror(saved));
	}
	while ((entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);

		if (cv_file_is_temporary(entry->d_name))
			(void)unlinkat(vs->records, entry->d_name, 0);
		else if (len > 5 && strcmp(entry->d_name + len - 5, ".json") == 0)
			load_record(vs, entry->d_name);
	}
	return 0;
}

static void detach_unowned(void *ctx, const char *path)
{
	struct cv_volumes *vs = ctx;
	int r;

	for (struct volume *v = vs->list; v; v = v->next) {
		if (v->worker && cv_str_eq(v->mountpoint, path))
			return;
	}
	r = vs->mounter->detach(path);
	if (r < 0) {
		cv_warning("cannot detach the leftover mount on %s: %s", path, cv_strerror(r));
		return;
	}
	cv_notice("detached the leftover mount on %s", path);
	vs->mounter->remove(path);
}

/* Bare directories of mounts that a killed daemon had begun or ended. */
static void remove_bare(struct cv_volumes *vs, const char *mounts)
{
	cv_cleanup_closedir DIR *dir = opendir(mounts);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		cv_cleanup_free char *path = NULL;

		if (entry->d_name[0] == '.')
			continue;
		path = cv_sprintf("%s/%s", mounts, entry->d_name);
		if (path)
			vs->mounter->remove(path);
	}
}

static int load_all(struct cv_volumes *vs, struct cv_err *err)
{
	cv_cleanup_free char *mounts = cv_sprintf("%s/mnt", vs->run_dir);
	int r = mounts ? cv_store_list(&vs->store, load_one, vs, err)
		       : cv_fail(err, ENOMEM, "out of memory");

	if (r == 0)
		r = load_records(vs, err);
	if (r == 0) {
		r = cv_mount_each_below(mounts, detach_unowned, vs);
		if (r < 0)
			(void)cv_fail(err, -r, "reading the mount table: %s", cv_strerror(r));
		else
			remove_bare(vs, mounts);
	}
	return r;
}

static int open_dirs(struct cv_volumes *vs, const struct cv_volumes_config *config,
		     struct cv_err *err)
{
	cv_cleanup_close int run = cv_dir_open(AT_FDCWD, config->run_dir, 0711, err);
	cv_cleanup_close int mounts = run < 0 ? -1 : cv_dir_open(run, "mnt", 0711, err);

	if (run < 0 || mounts < 0)
		return run < 0 ? run : mounts;
	vs->run_dir = realpath(config->run_dir, NULL); /* as the mount table shows it */
	if (!vs->run_dir)
		return cv_fail(err, errno, "%s: %s", config->run_dir, cv_strerror(errno));
	vs->records = cv_dir_open(run, "volumes", 0700, err);
	if (vs->records < 0)
		return vs->records;
	return cv_store_open(config->state_dir, &vs->store, err);
}

int cv_volumes_new(const struct cv_volumes_config *config, struct cv_volumes **ret,
		   struct cv_err *err)
{
	struct cv_volumes *vs = calloc(1, sizeof(*vs));
	int r;

	if (!vs)
		return cv_fail(err, ENOMEM, "out of memory");
	(void)pthread_mutex_init(&vs->create, NULL);
	(void)pthread_mutex_init(&vs->lock, NULL);
	vs->records = -1;
	vs->store = (struct cv_store)CV_STORE_INIT;
	vs->mounter = config->mounter;
	vs->ctx = config->mounter_ctx;
	vs->epoch = 1;
	r = open_dirs(vs, config, err);
	if (r == 0)
		r = load_all(vs, err);
	if (r < 0) {
		cv_volumes_free(vs);
		return r;
	}
	*ret = vs;
	return 0;
}

void cv_volumes_free(struct cv_volumes *vs)
{
	if (!vs)
		return;
	while (vs->list) {
		struct volume *v = vs->list;

		vs->list = v->next;
		if (v->worker)
			vs->mounter->unref(v->worker);
		volume_free(v);
	}
	cv_store_release(&vs->store);
	cv_close_fd(&vs->records);
	free(vs->run_dir);
	(void)pthread_mutex_destroy(&vs->create);
	(void)pthread_mutex_destroy(&vs->lock);
	free(vs);
}
