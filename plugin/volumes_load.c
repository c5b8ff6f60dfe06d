/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/volumes_impl.h"

#include <dirent.h>
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
#include "plugin/files.h"
#include "plugin/remotes.h"

static int load_options(const struct cv_volumes *vs, struct volume *v, const struct cv_state *state,
			struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	int r = cv_options_parse(&state->options, &options, err);

	if (r == 0 && !cv_dict_get(&options, "type") && !cv_dict_get(&options, "remote"))
		r = cv_fail(err, EBADMSG, "no type");
	if (r < 0)
		return cv_fail_context(err, "state file %s/volumes/%s.json", vs->store.path,
				       v->encoded);
	return cv_volume_set_options(vs, v, &options);
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
	v = cv_volume_new(vs, state.name ? state.name : decoded ? decoded : encoded, encoded);
	if (!v) {
		cv_error("volume %s: out of memory", encoded);
		return;
	}
	if (r == 0) {
		v->created = state.created;
		v->made = cv_steal(&state.made);
		r = load_options(vs, v, &state, &err);
	}
	if (r < 0) {
		cv_error("volume '%s' cannot be used: %s", v->name, err.text);
		v->broken = strdup(*err.text ? err.text : "its state file cannot be read");
		if (!v->broken) {
			cv_volume_free(v);
			return;
		}
	}
	CV_SCOPED_LOCK(&vs->lock);
	if (cv_volume_find_locked(vs, v->name)) { /* a broken file whose guessed name is taken */
		cv_error("volume '%s' is there twice; %s.json is ignored", v->name, encoded);
		cv_volume_free(v);
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
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	struct cv_worker *w = NULL;
	struct cv_err err = { 0 };
	int r;

	v->ids = cv_steal(&rec->ids);
	v->id_count = rec->id_count;
	rec->id_count = 0;
	for (size_t i = 0; i < v->id_count; i++) {
		if (v->ids[i].epoch > vs->epoch)
			vs->epoch = v->ids[i].epoch;
	}
	r = cv_remotes_resolve(vs->config_dir, v->name, &v->options, &options, &err);
	if (r < 0)
		cv_warning("volume '%s': %s; should its worker end, none can take over", v->name,
			   err.text);
	r = vs->mounter->adopt(vs->ctx, rec, r < 0 ? &v->options : &options, v->socket_name, &w,
			       &err);
	if (r == 0) {
		v->worker = w;
		v->worked = true;
		cv_info("volume '%s': found mounted, %u users", v->name, cv_volume_uses_locked(v));
		return;
	}
	cv_warning("volume '%s' was mounted, but %s", v->name, err.text);
	(void)cv_strcpy(v->error, sizeof(v->error), err.text);
	v->error_s = (int64_t)time(NULL);
	cv_volume_record(vs, v);
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

int cv_volumes_load(struct cv_volumes *vs, struct cv_err *err)
{
	struct cv_findings leftovers = { 0 };
	int r = cv_store_list(&vs->store, load_one, vs, err);

	if (r == 0)
		r = load_records(vs, err);
	if (r == 0)
		r = cv_volumes_gc(vs, false, &leftovers, err);
	cv_findings_release(&leftovers);
	return r;
}
