/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
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
#include "plugin/json.h"

#define RECORD_IDS 100000 /* more IDs than any host has containers */
#define SECRET_MAX (64 * 1024)
#define SUFFIX	   ".json"

static int check_version(struct json_object *root, struct cv_err *err)
{
	struct json_object *value;
	int64_t version;

	if (!json_object_object_get_ex(root, "version", &value) ||
	    !json_object_is_type(value, json_type_int))
		return cv_fail(err, EBADMSG, "no version number");
	version = json_object_get_int64(value);
	if (version > CV_STATE_VERSION)
		return cv_fail(err, EPROTONOSUPPORT,
			       "written by a newer cvol (version %" PRId64
			       " of the file, this cvol knows %d)",
			       version, CV_STATE_VERSION);
	if (version < 1)
		return cv_fail(err, EBADMSG, "impossible version number %" PRId64, version);
	return 0;
}

/* ---- volumes ---- */

void cv_state_release(struct cv_state *state)
{
	free(state->name);
	free(state->made);
	cv_dict_release(&state->options);
	*state = (struct cv_state)CV_STATE_INIT;
}

int cv_state_parse(const char *data, size_t size, struct cv_state *ret, struct cv_err *err)
{
	cv_cleanup_json struct json_object *root = cv_json_parse(data, size, CV_STATE_MAX, err);
	cv_cleanup_state struct cv_state state = CV_STATE_INIT;
	int r;

	if (!root)
		return -EBADMSG;
	r = check_version(root, err);
	if (r == 0)
		r = cv_json_get_text(root, "name", &state.name, err);
	if (r == 0 && cv_name_check(state.name, err) < 0)
		r = -EBADMSG;
	if (r == 0)
		r = cv_json_get_number(root, "created", 0, INT64_MAX, &state.created, err);
	if (r == 0)
		r = cv_json_get_dict(root, "options", false, &state.options, err);
	if (r == 0 && json_object_object_get_ex(root, "made", NULL))
		r = cv_json_get_text(root, "made", &state.made, err);
	if (r < 0)
		return r;
	*ret = state;
	state = (struct cv_state)CV_STATE_INIT;
	return 0;
}

char *cv_state_format(const struct cv_state *state)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();

	return cv_json_format(
		root, root && cv_json_add_number(root, "version", CV_STATE_VERSION) &&
			      cv_json_add_text(root, "name", state->name) &&
			      cv_json_add_number(root, "created", state->created) &&
			      cv_json_add_dict(root, "options", &state->options) &&
			      (!state->made || cv_json_add_text(root, "made", state->made)));
}

int cv_store_open(const char *path, struct cv_store *store, struct cv_err *err)
{
	cv_cleanup_close int top = cv_dir_open(AT_FDCWD, path, 0711, err);

	*store = (struct cv_store)CV_STORE_INIT;
	if (top < 0)
		return top;
	store->path = realpath(path, NULL);
	if (!store->path)
		return cv_fail(err, errno, "%s: %s", path, cv_strerror(errno));
	store->volumes = cv_dir_open(top, "volumes", 0700, err);
	if (store->volumes >= 0)
		store->secrets = cv_dir_open(top, "secrets", 0700, err);
	if (store->volumes < 0 || store->secrets < 0) {
		int r = store->volumes < 0 ? store->volumes : store->secrets;

		cv_store_release(store);
		return r;
	}
	return 0;
}

void cv_store_release(struct cv_store *store)
{
	free(store->path);
	store->path = NULL;
	cv_close_fd(&store->volumes);
	cv_close_fd(&store->secrets);
}

static void state_file(const char *encoded, char name[NAME_MAX + 1])
{
	(void)snprintf(name, NAME_MAX + 1, "%s" SUFFIX, encoded);
}

int cv_store_load(const struct cv_store *store, const char *encoded, struct cv_state *ret,
		  struct cv_err *err)
{
	cv_cleanup_free char *data = NULL;
	cv_cleanup_state struct cv_state state = CV_STATE_INIT;
	char name[NAME_MAX + 1], again[CV_ENCODED_MAX + 1];
	size_t size = 0;
	int r;

	state_file(encoded, name);
	r = cv_file_read(store->volumes, name, CV_STATE_MAX, &data, &size);
	if (r < 0)
		return cv_fail(err, -r, "state file %s/volumes/%s: %s", store->path, name,
			       cv_strerror(r));
	r = cv_state_parse(data, size, &state, err);
	if (r < 0) {
		(void)cv_fail_context(err, "state file %s/volumes/%s", store->path, name);
		return r;
	}
	cv_name_encode(state.name, CV_ENCODED_MAX, again);
	if (!cv_str_eq(again, encoded))
		return cv_fail(err, EBADMSG,
			       "state file %s/volumes/%s is of another volume: was it copied?",
			       store->path, name);
	*ret = state;
	state = (struct cv_state)CV_STATE_INIT;
	return 0;
}

int cv_store_save(const struct cv_store *store, const char *encoded, const struct cv_state *state,
		  struct cv_err *err)
{
	cv_cleanup_free char *data = cv_state_format(state);
	char name[NAME_MAX + 1];
	int r;

	if (!data)
		return cv_fail(err, ENOMEM, "out of memory");
	state_file(encoded, name);
	r = cv_file_replace(store->volumes, name, data, strlen(data));
	if (r < 0)
		return cv_fail(err, -r, "cannot write state file %s/volumes/%s: %s", store->path,
			       name, cv_strerror(r));
	return 0;
}

static void secret_file(const char *encoded, const char *option, char name[NAME_MAX + 1])
{
	(void)snprintf(name, NAME_MAX + 1, "%s.%s", encoded, option);
}

static void delete_secrets(const struct cv_store *store, const char *encoded)
{
	char name[NAME_MAX + 1];

	for (const struct cv_option_def *d = cv_option_table(); d->name; d++) {
		if (d->type != CV_OPT_SECRET)
			continue;
		secret_file(encoded, d->name, name);
		if (unlinkat(store->secrets, name, 0) < 0 && errno != ENOENT)
			cv_warning("cannot remove secret %s/secrets/%s: %s", store->path, name,
				   cv_strerror(errno));
	}
}

int cv_store_delete(const struct cv_store *store, const char *encoded, struct cv_err *err)
{
	char name[NAME_MAX + 1];

	state_file(encoded, name);
	if (unlinkat(store->volumes, name, 0) < 0 && errno != ENOENT)
		return cv_fail(err, errno, "cannot remove state file %s/volumes/%s: %s",
			       store->path, name, cv_strerror(errno));
	(void)fsync(store->volumes);
	delete_secrets(store, encoded);
	return 0;
}

int cv_store_set_aside(const struct cv_store *store, const char *encoded, struct cv_err *err)
{
	char name[NAME_MAX + 1], aside[NAME_MAX + 1];

	state_file(encoded, name);
	(void)snprintf(aside, sizeof(aside), "%s.bad-%lld", encoded, (long long)time(NULL));
	if (renameat(store->volumes, name, store->volumes, aside) < 0 && errno != ENOENT)
		return cv_fail(err, errno, "cannot move state file %s/volumes/%s aside: %s",
			       store->path, name, cv_strerror(errno));
	(void)fsync(store->volumes);
	return 0;
}

int cv_store_list(const struct cv_store *store, void (*each)(void *ctx, const char *encoded),
		  void *ctx, struct cv_err *err)
{
	int fd = openat(store->volumes, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cv_cleanup_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		int saved = errno;

		cv_close_fd(&fd);
		return cv_fail(err, saved, "cannot read %s/volumes: %s", store->path,
			       cv_strerror(saved));
	}
	while ((entry = readdir(dir))) {
		char name[NAME_MAX + 1];
		size_t len = strlen(entry->d_name), suffix = strlen(SUFFIX);

		if (cv_file_is_temporary(entry->d_name)) {
			/* Only one daemon writes here: this one was never renamed. */
			(void)unlinkat(store->volumes, entry->d_name, 0);
			continue;
		}
		if (entry->d_name[0] == '.' || len <= suffix || len - suffix > CV_ENCODED_MAX ||
		    strcmp(entry->d_name + len - suffix, SUFFIX) != 0)
			continue;
		(void)snprintf(name, sizeof(name), "%.*s", (int)(len - suffix), entry->d_name);
		each(ctx, name);
	}
	return 0;
}

/* ---- secrets ---- */

static bool same_secret(const struct cv_store *store, const char *file, const char *value)
{
	char *stored = NULL;
	size_t size = 0;
	bool same;

	if (cv_file_read(store->secrets, file, SECRET_MAX, &stored, &size) < 0)
		return false;
	same = size == strlen(value) && memcmp(stored, value, size) == 0;
	cv_wipe(stored, size);
	free(stored);
	return same;
}

static int move_secret(const struct cv_store *store, const char *encoded, const char *option,
		       struct cv_dict *options, bool replace, struct cv_err *err)
{
	const char *value = cv_dict_get(options, option);
	cv_cleanup_free char *key = cv_sprintf("%s_file", option);
	char file[NAME_MAX + 1];
	int r = key ? 0 : -ENOMEM;

	secret_file(encoded, option, file);
	if (r == 0 && replace) {
		r = cv_file_replace(store->secrets, file, value, strlen(value));
		if (r < 0)
			return cv_fail(err, -r, "cannot write %s/secrets/%s: %s", store->path, file,
				       cv_strerror(r));
	}
	if (r == 0) {
		bool same = replace || same_secret(store, file, value);

		(void)cv_dict_remove(options, option); /* value is gone from here on */
		if (same)
			r = cv_dict_setf(options, key, "%s/secrets/%s", store->path, file);
		else
			r = cv_dict_set(options, key, CV_OTHER_SECRET);
	}
	return r < 0 ? cv_fail(err, -r, "out of memory") : 0;
}

int cv_store_secrets(const struct cv_store *store, const char *encoded, struct cv_dict *options,
		     bool replace, struct cv_err *err)
{
	for (const struct cv_option_def *d = cv_option_table(); d->name; d++) {
		int r = 0;

		if (d->type == CV_OPT_SECRET && cv_dict_get(options, d->name))
			r = move_secret(store, encoded, d->name, options, replace, err);
		if (r < 0)
			return r;
	}
	return 0;
}

void cv_store_prune_secrets(const struct cv_store *store, const char *encoded,
			    const struct cv_dict *options)
{
	for (const struct cv_option_def *d = cv_option_table(); d->name; d++) {
		char key[CV_OPTION_KEY_MAX], file[NAME_MAX + 1];
		cv_cleanup_free char *path = NULL;

		if (d->type != CV_OPT_SECRET)
			continue;
		(void)snprintf(key, sizeof(key), "%s_file", d->name);
		secret_file(encoded, d->name, file);
		path = cv_sprintf("%s/secrets/%s", store->path, file);
		if (path && !cv_str_eq(cv_dict_get(options, key), path))
			(void)unlinkat(store->secrets, file, 0);
	}
}

/* ---- records of mounts ---- */

void cv_record_release(struct cv_record *record)
{
	free(record->volume);
	free(record->mountpoint);
	free(record->source);
	free(record->server);
	free(record->digest);
	for (size_t i = 0; i < record->id_count; i++)
		free(record->ids[i].id);
	free(record->ids);
	memset(record, 0, sizeof(*record));
}

static int get_ids(struct json_object *root, struct cv_record *ret, struct cv_err *err)
{
	struct json_object *list;
	size_t count;

	if (!json_object_object_get_ex(root, "ids", &list) ||
	    !json_object_is_type(list, json_type_array))
		return cv_fail(err, EBADMSG, "'ids' is missing or not an array");
	count = json_object_array_length(list);
	if (count > RECORD_IDS)
		return cv_fail(err, EBADMSG, "too many ids");
	ret->ids = calloc(count ? count : 1, sizeof(*ret->ids));
	if (!ret->ids)
		return cv_fail(err, ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++) {
		struct json_object *item = json_object_array_get_idx(list, i);
		int64_t uses = 0, epoch = 0;
		int r;

		if (!json_object_is_type(item, json_type_object))
			return cv_fail(err, EBADMSG, "an id is not an object");
		r = cv_json_get_text(item, "id", &ret->ids[i].id, err);
		ret->id_count = i + 1;
		if (r == 0)
			r = cv_json_get_number(item, "count", 1, INT32_MAX, &uses, err);
		if (r == 0)
			r = cv_json_get_number(item, "epoch", 0, INT32_MAX, &epoch, err);
		if (r < 0)
			return r;
		ret->ids[i].count = (unsigned)uses;
		ret->ids[i].epoch = (unsigned)epoch;
	}
	return 0;
}

int cv_record_parse(const char *data, size_t size, struct cv_record *ret, struct cv_err *err)
{
	cv_cleanup_json struct json_object *root = cv_json_parse(data, size, CV_STATE_MAX, err);
	cv_cleanup_record struct cv_record rec = { 0 };
	int64_t pid = 0, start = 0, sup = 0, sup_start = 0, dev = 0;
	int r;

	if (!root)
		return -EBADMSG;
	r = check_version(root, err);
	if (r == 0)
		r = cv_json_get_text(root, "volume", &rec.volume, err);
	if (r == 0)
		r = cv_json_get_text(root, "mountpoint", &rec.mountpoint, err);
	if (r == 0)
		r = cv_json_get_text(root, "source", &rec.source, err);
	if (r == 0)
		r = cv_json_get_text(root, "server", &rec.server, err);
	if (r == 0 && json_object_object_get_ex(root, "digest", NULL))
		r = cv_json_get_text(root, "digest", &rec.digest, err);
	if (r == 0)
		r = cv_json_get_number(root, "worker", 0, INT32_MAX, &pid, err);
	if (r == 0)
		r = cv_json_get_number(root, "worker_start", 0, INT64_MAX, &start, err);
	if (r == 0)
		r = cv_json_get_number(root, "supervisor", 0, INT32_MAX, &sup, err);
	if (r == 0)
		r = cv_json_get_number(root, "supervisor_start", 0, INT64_MAX, &sup_start, err);
	if (r == 0)
		r = cv_json_get_number(root, "dev", 0, INT64_MAX, &dev, err);
	if (r == 0)
		r = get_ids(root, &rec, err);
	if (r < 0)
		return r;
	rec.worker = (pid_t)pid;
	rec.worker_start = (uint64_t)start;
	rec.supervisor = (pid_t)sup;
	rec.supervisor_start = (uint64_t)sup_start;
	rec.dev = (uint64_t)dev;
	*ret = rec;
	memset(&rec, 0, sizeof(rec));
	return 0;
}

static struct json_object *ids_array(const struct cv_record *record)
{
	cv_cleanup_json struct json_object *list = json_object_new_array();

	for (size_t i = 0; list && i < record->id_count; i++) {
		struct json_object *item = json_object_new_object();

		if (!item || !cv_json_add_text(item, "id", record->ids[i].id) ||
		    !cv_json_add_number(item, "count", record->ids[i].count) ||
		    !cv_json_add_number(item, "epoch", record->ids[i].epoch) ||
		    json_object_array_add(list, item) != 0) {
			(void)json_object_put(item);
			return NULL;
		}
	}
	return cv_steal(&list);
}

char *cv_record_format(const struct cv_record *rec)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();

	return cv_json_format(
		root,
		root && cv_json_add_number(root, "version", CV_STATE_VERSION) &&
			cv_json_add_text(root, "volume", rec->volume) &&
			cv_json_add_text(root, "mountpoint", rec->mountpoint) &&
			cv_json_add_text(root, "source", rec->source) &&
			cv_json_add_text(root, "server", rec->server) &&
			(!rec->digest || cv_json_add_text(root, "digest", rec->digest)) &&
			cv_json_add_number(root, "worker", rec->worker) &&
			cv_json_add_number(root, "worker_start", (int64_t)rec->worker_start) &&
			cv_json_add_number(root, "supervisor", rec->supervisor) &&
			cv_json_add_number(root, "supervisor_start",
					   (int64_t)rec->supervisor_start) &&
			cv_json_add_number(root, "dev", (int64_t)rec->dev) &&
			cv_json_add(root, "ids", ids_array(rec)));
}

int cv_record_load(int dirfd, const char *name, struct cv_record *ret, struct cv_err *err)
{
	cv_cleanup_free char *data = NULL;
	size_t size = 0;
	int r = cv_file_read(dirfd, name, CV_STATE_MAX, &data, &size);

	if (r < 0)
		return cv_fail(err, -r, "record %s: %s", name, cv_strerror(r));
	r = cv_record_parse(data, size, ret, err);
	if (r < 0)
		(void)cv_fail_context(err, "record %s", name);
	return r;
}

int cv_record_save(int dirfd, const char *name, const struct cv_record *record, struct cv_err *err)
{
	cv_cleanup_free char *data = cv_record_format(record);
	int r = data ? cv_file_replace(dirfd, name, data, strlen(data)) : -ENOMEM;

	return r < 0 ? cv_fail(err, -r, "cannot write record %s: %s", name, cv_strerror(r)) : 0;
}
