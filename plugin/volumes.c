/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/volumes_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/loop.h"
#include "config/options.h"
#include "config/spellings.h"
#include "config/str.h"
#include "plugin/files.h"
#include "plugin/process.h"
#include "plugin/remotes.h"

#define REMOVE_MS      40000
#define REMOVE_SYNC_MS 10000
#define CHECK_MS       20000

/* ---- the registry ---- */

void cv_volume_free(struct volume *v)
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
	free(v->made);
	(void)pthread_mutex_destroy(&v->op);
	free(v);
}

struct volume *cv_volume_new(struct cv_volumes *vs, const char *name, const char *encoded)
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
		cv_volume_free(v);
		return NULL;
	}
	return v;
}

void cv_volume_unref(struct cv_volumes *vs, struct volume *v)
{
	bool last;

	if (!v)
		return;
	{
		CV_SCOPED_LOCK(&vs->lock);
		last = --v->refs == 0;
	}
	if (last)
		cv_volume_free(v);
}

struct volume *cv_volume_find_locked(struct cv_volumes *vs, const char *name)
{
	for (struct volume *v = vs->list; v; v = v->next) {
		if (cv_str_eq(v->name, name))
			return v;
	}
	return NULL;
}

struct volume *cv_volume_get(struct cv_volumes *vs, const char *name)
{
	struct volume *v;

	CV_SCOPED_LOCK(&vs->lock);
	v = cv_volume_find_locked(vs, name);
	if (v)
		v->refs++;
	return v;
}

int cv_volume_unknown(const char *name, struct cv_err *err)
{
	if (!cv_str_is_utf8(name) || strlen(name) > CV_VOLUME_NAME_MAX)
		return cv_fail(err, ENOENT, "no such volume");
	return cv_fail(err, ENOENT, "no such volume: %s", name);
}

/* Waits for the volume's turn. A removed volume counts as none. Unlock op afterwards. */
int cv_volume_lock(struct cv_volumes *vs, struct volume *v, uint64_t deadline, struct cv_err *err)
{
	struct timespec until = cv_clock_timespec(deadline);
	bool removed;

	if (pthread_mutex_clocklock(&v->op, CLOCK_MONOTONIC, &until) != 0) {
		CV_SCOPED_LOCK(&vs->lock);
		return cv_fail(err, ETIMEDOUT,
			       "volume '%s' (%s): another mount or unmount of it is still under "
			       "way; its server may be slow or away",
			       v->name, v->source);
	}
	{
		CV_SCOPED_LOCK(&vs->lock);
		removed = v->removed;
	}
	if (removed) {
		(void)pthread_mutex_unlock(&v->op);
		return cv_volume_unknown(v->name, err);
	}
	return 0;
}

/* ---- options ---- */

char *cv_volume_default_path(const struct cv_volumes *vs, const char *encoded)
{
	return cv_sprintf("%s/data/%s", vs->store.path, encoded);
}

/* On the default remote, or on this host. */
static int default_place(const struct cv_volumes *vs, const struct volume *existing,
			 const char *encoded, struct cv_dict *place, struct cv_err *err)
{
	cv_cleanup_site struct cv_site site = CV_SITE_INIT;
	cv_cleanup_free char *path = cv_volume_default_path(vs, encoded);
	const char *remote = existing ? cv_dict_get(&existing->options, "remote") : NULL;
	int r = 0;

	if (!path)
		return cv_fail(err, ENOMEM, "out of memory");
	/* Another default does not make another volume of one that exists. */
	if (!existing) {
		r = cv_site_load(vs->config_dir, &site, err);
		remote = site.default_remote;
	}
	if (r < 0)
		return r;
	r = remote ? cv_dict_set(place, "remote", remote) : cv_dict_set(place, "type", "dir");
	if (r == 0)
		r = remote ? cv_dict_set(place, "subdir", "${name}")
			   : cv_dict_set(place, "path", path);
	return r < 0 ? cv_fail(err, -r, "options: %s", cv_strerror(r)) : 0;
}

/* For a volume that does not say where it is: by its name, or by default. */
static int choose_place(const struct cv_volumes *vs, const struct volume *existing,
			const char *name, const char *encoded, struct cv_dict *opts,
			struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict place = CV_DICT_INIT;
	int r = cv_spellings_name(name, &place, err);

	if (r == 0)
		r = default_place(vs, existing, encoded, &place, err);
	if (r < 0)
		return r;
	if (cv_dict_get(opts, "subdir"))
		(void)cv_dict_remove(&place, "subdir");
	r = 0;
	for (size_t i = 0; r == 0 && i < place.count; i++)
		r = cv_dict_set(opts, place.items[i].key, place.items[i].value);
	return r < 0 ? cv_fail(err, -r, "options: %s", cv_strerror(r)) : 0;
}

int cv_volume_options(const struct cv_volumes *vs, const struct volume *existing, const char *name,
		      const char *encoded, const struct cv_dict *opts, struct cv_dict *ret,
		      struct cv_dict *ret_effective, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT, effective = CV_DICT_INIT;
	int r = cv_options_parse(opts, &o, err);

	if (r == 0 && !cv_dict_get(&o, "type") && !cv_dict_get(&o, "remote")) {
		cv_cleanup_dict struct cv_dict placed = CV_DICT_INIT;

		if (cv_dict_get(&o, "path"))
			return cv_fail(err, EINVAL,
				       "option path: say where: source=dir:///path, or type "
				       "and host as well");
		r = choose_place(vs, existing, name, encoded, &o, err);
		if (r == 0)
			r = cv_options_parse(&o, &placed, err);
		if (r == 0) {
			cv_dict_release(&o);
			o = placed;
			placed = (struct cv_dict)CV_DICT_INIT;
		}
	}
	/* That it all fits together is better said now than at the first mount. */
	if (r == 0)
		r = cv_remotes_resolve(vs->config_dir, name, &o, &effective, err);
	if (r < 0)
		return r;
	if (ret_effective) {
		*ret_effective = effective;
		effective = (struct cv_dict)CV_DICT_INIT;
	}
	(void)cv_dict_remove(&o, "check"); /* is about creating, and done with */
	*ret = o;
	o = (struct cv_dict)CV_DICT_INIT;
	return 0;
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

int cv_volume_set_options(const struct cv_volumes *vs, struct volume *v, struct cv_dict *options)
{
	cv_cleanup_dict struct cv_dict effective = CV_DICT_INIT;
	struct cv_err err = { 0 };
	bool known = cv_remotes_resolve(vs->config_dir, v->name, options, &effective, &err) == 0;
	char *source = cv_source_format(known ? &effective : options);

	if (!source)
		return -ENOMEM;
	if (!known)
		cv_debug("volume '%s': %s", v->name, err.text);
	free(v->source);
	v->source = source;
	(void)cv_strcpy(v->type, sizeof(v->type), cv_options_str(&effective, "type", ""));
	v->mount_ms = cv_options_ms(known ? &effective : options, "mount_timeout", 0);
	cv_dict_release(&v->options);
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

int cv_volume_save(struct cv_volumes *vs, struct volume *v, struct cv_err *err)
{
	/* Borrowed: what changes them holds op, too. */
	struct cv_state state = {
		.name = v->name, .created = v->created, .options = v->options, .made = v->made
	};

	return cv_store_save(&vs->store, v->encoded, &state, err);
}

static int create_new(struct cv_volumes *vs, struct volume *v, struct cv_dict *options,
		      struct cv_err *err)
{
	struct cv_state state = { .name = v->name, .created = (int64_t)time(NULL) };
	int r = cv_store_secrets(&vs->store, v->encoded, options, true, err);

	state.options = *options; /* borrowed */
	if (r == 0)
		r = cv_store_save(&vs->store, v->encoded, &state, err);
	if (r == 0 && cv_volume_set_options(vs, v, options) < 0)
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

/*
 * With check=true: connects, without any lock. What connecting would create is left out, so that
 * nothing comes of a Create that fails.
 */
static int check_server(const struct cv_volumes *vs, const char *name, const char *encoded,
			const struct cv_dict *opts, struct cv_err *err)
{
	static atomic_uint counter;
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT, effective = CV_DICT_INIT;
	cv_cleanup_free char *path = cv_volume_default_path(vs, encoded);
	struct cv_mount_spec spec = { .volume = name, .options = &effective };
	char secrets[32];
	int r = cv_volume_options(vs, NULL, name, encoded, opts, &options, &effective, err);

	if (r < 0 || !cv_options_bool(&effective, "check", false) ||
	    cv_str_eq(cv_dict_get(&effective, "path"), path))
		return r;
	(void)cv_dict_remove(&effective, "subdir");
	spec.timeout_ms = (unsigned)cv_options_ms(&effective, "mount_timeout", CHECK_MS);
	(void)snprintf(secrets, sizeof(secrets), ".check-%u", atomic_fetch_add(&counter, 1));
	r = cv_store_secrets(&vs->store, secrets, &effective, true, err);
	if (r == 0)
		r = vs->mounter->probe(vs->ctx, &spec, err);
	(void)cv_store_delete(&vs->store, secrets, NULL);
	return r;
}

static void warn_of_secrets(const struct cv_volumes *vs, const char *name,
			    const struct cv_dict *options)
{
	for (size_t i = 0; i < options->count; i++) {
		const struct cv_option_def *d = cv_option_find(options->items[i].key);

		if (d && d->type == CV_OPT_SECRET)
			cv_warning("volume '%s': the %s given is kept in a file under %s/secrets; "
				   "dockerd may keep a copy of its own, %s_file avoids that",
				   name, d->name, vs->store.path, d->name);
	}
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
	r = check_server(vs, name, encoded, opts, err);
	if (r < 0)
		return cv_fail_context(err, "volume '%s' was not created", name);
	CV_SCOPED_LOCK(&vs->create);
	v = cv_volume_get(vs, name);
	r = cv_volume_options(vs, v, name, encoded, opts, &options, NULL, err);
	if (r < 0)
		(void)cv_fail_context(err, "volume '%s'", name);
	else if (v)
		r = create_existing(vs, v, &options, err);
	if (v || r < 0) {
		cv_volume_unref(vs, v);
		return r;
	}
	warn_of_secrets(vs, name, &options);
	v = cv_volume_new(vs, name, encoded);
	if (!v)
		return cv_fail(err, ENOMEM, "out of memory");
	r = create_new(vs, v, &options, err);
	if (r < 0) {
		cv_volume_free(v);
		return cv_fail_context(err, "volume '%s' was not created", name);
	}
	cv_notice("volume '%s' created: %s", name, v->source);
	return 0;
}

/* ---- remove ---- */

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
	cv_volume_retry_done_locked(v);
	for (struct volume **p = &vs->list; *p; p = &(*p)->next) {
		if (*p == v) {
			*p = v->next;
			v->refs--; /* the list's; the caller has one too */
			break;
		}
	}
	return 0;
}

/* With op held. */
static int remove_locked_op(struct cv_volumes *vs, struct volume *v, bool leaked_counts,
			    struct cv_err *err)
{
	char archived[NAME_MAX + 1];
	unsigned uses, stale;
	int r;

	{
		CV_SCOPED_LOCK(&vs->lock);
		uses = cv_volume_current_uses_locked(vs, v);
		stale = cv_volume_uses_locked(v) - uses;
	}
	if (uses && leaked_counts && !cv_volume_is_used(vs, v)) {
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
	if (cv_volume_is_mounted(vs, v)) {
		r = cv_volume_sync(vs, v, REMOVE_SYNC_MS, err);
		if (r < 0 && cv_volume_is_mounted(vs, v))
			return cv_fail_context(err, "volume '%s' was not removed", v->name);
	}
	cv_volume_forget_ids(vs, v);
	cv_volume_end_mount(vs, v);
	vs->mounter->remove(v->mountpoint);
	r = cv_volume_archive(vs, v, archived, err);
	if (r == 0)
		r = remove_files(vs, v, err);
	if (r == 0 && *archived)
		cv_notice("volume '%s' removed; its directory is '%s' now: %s", v->name, archived,
			  v->source);
	else if (r == 0)
		cv_notice("volume '%s' removed; its data is kept: %s", v->name, v->source);
	return r;
}

int cv_volumes_remove(struct cv_volumes *vs, const char *name, bool leaked_counts,
		      struct cv_err *err)
{
	struct volume *v = cv_volume_get(vs, name);
	int r;

	if (!v)
		return cv_volume_unknown(name, err);
	r = cv_volume_lock(vs, v, cv_clock_ms() + REMOVE_MS, err);
	if (r == 0) {
		r = remove_locked_op(vs, v, leaked_counts, err);
		(void)pthread_mutex_unlock(&v->op);
	}
	cv_volume_unref(vs, v);
	return r;
}

/* ---- get, list: volumes->lock alone ---- */

/* Its server could not be reached, and a Mount or the background goes on trying. */
static bool is_tried_again_locked(const struct volume *v)
{
	return !v->worker && *v->error && (v->waiting_until || v->retry_at);
}

/* ret_since: 0 where it is not known. */
static enum cv_volume_state state_locked(const struct volume *v, const struct cv_worker_info *info,
					 int64_t *ret_since)
{
	enum cv_health health;
	uint64_t since;
	bool idle;

	*ret_since = 0;
	if (v->broken)
		return CV_VOLUME_BROKEN;
	if (is_tried_again_locked(v)) {
		*ret_since = v->waiting_since;
		return CV_VOLUME_WAITING;
	}
	if (v->mounting)
		return CV_VOLUME_CONNECTING;
	if (!v->worker || !info->alive) {
		if (!v->worker && !v->id_count)
			return CV_VOLUME_IDLE;
		*ret_since = v->error_s;
		return CV_VOLUME_FAILED;
	}
	idle = cv_volume_uses_locked(v) == 0 && v->kept_until <= cv_clock_ms();
	if (!info->counted)
		return idle ? CV_VOLUME_DRAINING : CV_VOLUME_OK;
	health = cv_counters_health(&info->counters, cv_now_ns(), &since);
	*ret_since = (int64_t)(health == CV_HEALTH_OK ? info->counters.started_s : since);
	if (health == CV_HEALTH_HUNG)
		return CV_VOLUME_HUNG;
	if (idle)
		return CV_VOLUME_DRAINING;
	return health == CV_HEALTH_WAITING ? CV_VOLUME_WAITING : CV_VOLUME_OK;
}

/* What went wrong last, be it with mounting or while mounted. */
static const char *error_locked(const struct volume *v, const struct cv_worker_info *info,
				int64_t *ret_when)
{
	const struct cv_counters *c = &info->counters;

	*ret_when = v->broken ? 0 : v->error_s;
	if (v->broken)
		return v->broken;
	if (v->worker && !info->alive && *info->error)
		return info->error;
	if (info->counted && c->last_error_s && (int64_t)c->last_error_s >= v->error_s) {
		*ret_when = (int64_t)c->last_error_s;
		return c->last_error;
	}
	return v->error;
}

static int view_holders_locked(const struct cv_volumes *vs, const struct volume *v,
			       struct cv_view *view)
{
	view->holders = calloc(v->id_count ? v->id_count : 1, sizeof(*view->holders));
	if (!view->holders)
		return -ENOMEM;
	for (size_t i = 0; i < v->id_count; i++) {
		view->holders[i].id = strdup(v->ids[i].id);
		view->holders[i].mounts = v->ids[i].count;
		view->holders[i].stale = !cv_mount_id_is_current(vs, &v->ids[i]);
		view->holder_count = i + 1;
		if (!view->holders[i].id)
			return -ENOMEM;
	}
	return 0;
}

/* What a waiting volume waits for; caller frees. */
static char *waiting_text(const struct volume *v, int64_t *ret_when)
{
	uint64_t until = v->waiting_until ? v->waiting_until : v->retry_until;

	*ret_when = v->error_s;
	return cv_sprintf("%s; trying again for another %d s", v->error,
			  cv_clock_left_ms(until) / 1000);
}

static int view_locked(const struct cv_volumes *vs, const struct volume *v, struct cv_view *view)
{
	struct cv_worker_info info = { 0 };
	int r;

	if (v->worker)
		vs->mounter->info(v->worker, &info);
	view->name = strdup(v->name);
	view->mountpoint = strdup(v->mountpoint);
	view->source = strdup(v->source);
	view->server = strdup(info.alive ? info.server : "");
	view->backend = strdup(v->type);
	view->state = state_locked(v, &info, &view->since);
	view->error = is_tried_again_locked(v) ? waiting_text(v, &view->error_s)
					       : strdup(error_locked(v, &info, &view->error_s));
	view->created = v->created;
	view->mounts = cv_volume_uses_locked(v);
	view->worker = info.alive ? info.pid : 0;
	r = cv_dict_copy(&view->options, &v->options);
	view->counted = info.counted;
	view->counters = info.counters;
	if (r == 0)
		r = view_holders_locked(vs, v, view);
	if (r < 0 || !view->name || !view->mountpoint || !view->source || !view->server ||
	    !view->error || !view->backend) {
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
	v = cv_volume_find_locked(vs, name);
	if (!v)
		return cv_volume_unknown(name, err);
	if (view_locked(vs, v, &view) < 0)
		return cv_fail(err, ENOMEM, "out of memory");
	*ret = view;
	return 0;
}

static int compare_views(const void *a, const void *b)
{
	return strcmp(((const struct cv_view *)a)->name, ((const struct cv_view *)b)->name);
}

static size_t count_locked(const struct cv_volumes *vs)
{
	size_t count = 0;

	for (const struct volume *v = vs->list; v; v = v->next)
		count++;
	return count;
}

static int views_locked(struct cv_volumes *vs, struct cv_view **ret_views, size_t *ret_count)
{
	struct cv_view *views;
	size_t count = count_locked(vs), done = 0;

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

int cv_volumes_views(struct cv_volumes *vs, struct cv_view **ret_views, size_t *ret_count,
		     struct cv_err *err)
{
	int r;

	{
		CV_SCOPED_LOCK(&vs->lock);
		r = views_locked(vs, ret_views, ret_count);
	}
	if (r < 0)
		return cv_fail(err, -r, "out of memory");
	qsort(*ret_views, *ret_count, sizeof(**ret_views), compare_views);
	return 0;
}

static int compare_listed(const void *a, const void *b)
{
	return strcmp(((const struct cv_listed *)a)->name, ((const struct cv_listed *)b)->name);
}

static int list_locked(struct cv_volumes *vs, struct cv_listed **ret_list, size_t *ret_count)
{
	size_t count = count_locked(vs), done = 0;
	struct cv_listed *list = calloc(count ? count : 1, sizeof(*list));

	if (!list)
		return -ENOMEM;
	for (struct volume *v = vs->list; v; v = v->next) {
		struct cv_listed *l = &list[done++];

		l->name = strdup(v->name);
		l->mountpoint = strdup(v->mountpoint);
		l->created = v->created;
		if (!l->name || !l->mountpoint) {
			cv_listed_free(list, done);
			return -ENOMEM;
		}
	}
	*ret_list = list;
	*ret_count = count;
	return 0;
}

int cv_volumes_list(struct cv_volumes *vs, struct cv_listed **ret_list, size_t *ret_count,
		    struct cv_err *err)
{
	int r;

	{
		CV_SCOPED_LOCK(&vs->lock);
		r = list_locked(vs, ret_list, ret_count);
	}
	if (r < 0)
		return cv_fail(err, -r, "out of memory");
	qsort(*ret_list, *ret_count, sizeof(**ret_list), compare_listed);
	return 0;
}

void cv_volumes_count(struct cv_volumes *vs, size_t *ret_total, size_t *ret_mounted)
{
	*ret_total = *ret_mounted = 0;
	CV_SCOPED_LOCK(&vs->lock);
	for (struct volume *v = vs->list; v; v = v->next) {
		struct cv_worker_info info = { 0 };

		(*ret_total)++;
		if (!v->worker)
			continue;
		vs->mounter->info(v->worker, &info);
		*ret_mounted += info.alive;
	}
}

/* ---- the whole ---- */

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
	vs->config_dir = strdup(config->config_dir ? config->config_dir : CV_DEFAULT_CONFIG_DIR);
	if (!vs->config_dir)
		return cv_fail(err, ENOMEM, "out of memory");
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
	vs->boot_wait_ms = config->boot_wait_ms;
	vs->epoch = 1;
	cv_volumes_retry_init(vs);
	r = open_dirs(vs, config, err);
	if (r == 0)
		r = cv_volumes_load(vs, err);
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
	cv_volumes_retry_stop(vs);
	while (vs->list) {
		struct volume *v = vs->list;

		vs->list = v->next;
		if (v->worker)
			vs->mounter->unref(v->worker);
		cv_volume_free(v);
	}
	cv_store_release(&vs->store);
	cv_close_fd(&vs->records);
	free(vs->run_dir);
	free(vs->config_dir);
	(void)pthread_mutex_destroy(&vs->create);
	(void)pthread_mutex_destroy(&vs->lock);
	free(vs);
}
