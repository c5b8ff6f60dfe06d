/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/remotes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/files.h"
#include "plugin/json.h"
#include "plugin/names.h"

#define FILE_MAX (1u << 20)
#define SUFFIX	 ".json"
#define TEMPLATE "${name}"

void cv_site_release(struct cv_site *site)
{
	free(site->default_remote);
	free(site->metrics_listen);
	cv_dict_release(&site->defaults);
	*site = (struct cv_site)CV_SITE_INIT;
}

void cv_remote_release(struct cv_remote *remote)
{
	free(remote->description);
	cv_dict_release(&remote->options);
	*remote = (struct cv_remote)CV_REMOTE_INIT;
}

/* ---- the files ---- */

/* These files may be readable by all, and are copied from host to host. */
static int check_no_secrets(const struct cv_dict *options, struct cv_err *err)
{
	for (size_t i = 0; i < options->count; i++) {
		const struct cv_option_def *d = cv_option_find(options->items[i].key);

		if (d && d->type == CV_OPT_SECRET)
			return cv_fail(err, EBADMSG,
				       "option %s: a secret does not belong here; store it ('cvol "
				       "secret set NAME') and write %s_file: \"secret:NAME\"",
				       d->name, d->name);
	}
	return 0;
}

static int check_members(struct json_object *root, const char *const *known, struct cv_err *err)
{
	json_object_object_foreach(root, key, value)
	{
		size_t i = 0;

		(void)value;
		while (known[i] && strcmp(known[i], key) != 0)
			i++;
		if (!known[i])
			return cv_fail(err, EBADMSG, "unknown member '%.64s'", key);
	}
	return 0;
}

static int optional_dict(struct json_object *root, const char *key, struct cv_dict *ret,
			 struct cv_err *err)
{
	return json_object_object_get_ex(root, key, NULL)
		       ? cv_json_get_dict(root, key, true, ret, err)
		       : 0;
}

int cv_site_parse(const char *data, size_t size, struct cv_site *ret, struct cv_err *err)
{
	static const char *const known[] = { "$schema", "default_remote", "defaults",
					     "metrics_listen", NULL };
	cv_cleanup_json struct json_object *root = cv_json_parse(data, size, FILE_MAX, err);
	cv_cleanup_site struct cv_site site = CV_SITE_INIT;
	cv_cleanup_dict struct cv_dict given = CV_DICT_INIT;
	int r;

	if (!root)
		return -EBADMSG;
	r = check_members(root, known, err);
	if (r == 0 && json_object_object_get_ex(root, "default_remote", NULL))
		r = cv_json_get_text(root, "default_remote", &site.default_remote, err);
	if (r == 0 && site.default_remote && !cv_remote_name_ok(site.default_remote))
		r = cv_fail(err, EBADMSG, "default_remote: '%s' is not the name of a remote",
			    site.default_remote);
	if (r == 0 && json_object_object_get_ex(root, "metrics_listen", NULL))
		r = cv_json_get_text(root, "metrics_listen", &site.metrics_listen, err);
	if (r == 0)
		r = optional_dict(root, "defaults", &given, err);
	if (r == 0)
		r = cv_options_parse(&given, &site.defaults, err);
	if (r == 0 &&
	    (cv_dict_get(&site.defaults, "type") || cv_dict_get(&site.defaults, "remote") ||
	     cv_dict_get(&site.defaults, "path")))
		r = cv_fail(err, EBADMSG,
			    "defaults: say where volumes are with a remote and default_remote");
	if (r == 0)
		r = check_no_secrets(&site.defaults, err);
	if (r < 0)
		return r;
	*ret = site;
	site = (struct cv_site)CV_SITE_INIT;
	return 0;
}

int cv_remote_parse(const char *data, size_t size, struct cv_remote *ret, struct cv_err *err)
{
	static const char *const known[] = { "$schema", "source", "options", "description", NULL };
	cv_cleanup_json struct json_object *root = cv_json_parse(data, size, FILE_MAX, err);
	cv_cleanup_remote struct cv_remote remote = CV_REMOTE_INIT;
	cv_cleanup_dict struct cv_dict given = CV_DICT_INIT;
	cv_cleanup_free char *source = NULL;
	int r;

	if (!root)
		return -EBADMSG;
	r = check_members(root, known, err);
	if (r == 0 && json_object_object_get_ex(root, "source", NULL))
		r = cv_json_get_text(root, "source", &source, err);
	if (r == 0 && json_object_object_get_ex(root, "description", NULL))
		r = cv_json_get_text(root, "description", &remote.description, err);
	if (r == 0)
		r = optional_dict(root, "options", &given, err);
	if (r == 0 && source && cv_dict_set(&given, "source", source) < 0)
		r = cv_fail(err, EBADMSG, "the source is too long");
	if (r == 0)
		r = cv_options_parse(&given, &remote.options, err);
	if (r == 0 && !cv_dict_get(&remote.options, "type"))
		r = cv_fail(err, EBADMSG,
			    "a remote needs a source, like \"nfs://host/export\" or "
			    "\"sftp://user@host/path\"");
	if (r == 0)
		r = check_no_secrets(&remote.options, err);
	if (r == 0 && !remote.description && !(remote.description = strdup("")))
		r = cv_fail(err, ENOMEM, "out of memory");
	if (r < 0)
		return r;
	*ret = remote;
	remote = (struct cv_remote)CV_REMOTE_INIT;
	return 0;
}

int cv_site_load(const char *config_dir, struct cv_site *ret, struct cv_err *err)
{
	cv_cleanup_free char *path = cv_sprintf("%s/cvol.json", config_dir);
	cv_cleanup_free char *data = NULL;
	size_t size = 0;
	int r = path ? cv_file_read(AT_FDCWD, path, FILE_MAX, &data, &size) : -ENOMEM;

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return cv_fail(err, -r, "%s: %s", path ? path : config_dir, cv_strerror(r));
	r = cv_site_parse(data, size, ret, err);
	return r < 0 ? cv_fail_context(err, "%s", path) : 0;
}

int cv_remote_load(const char *config_dir, const char *name, struct cv_remote *ret,
		   struct cv_err *err)
{
	cv_cleanup_free char *path = NULL;
	cv_cleanup_free char *data = NULL;
	size_t size = 0;
	int r;

	if (!cv_remote_name_ok(name))
		return cv_fail(err, EINVAL, "'%s' is not the name of a remote", name);
	path = cv_sprintf("%s/remotes.d/%s" SUFFIX, config_dir, name);
	r = path ? cv_file_read(AT_FDCWD, path, FILE_MAX, &data, &size) : -ENOMEM;
	if (r == -ENOENT)
		return cv_fail(err, ENOENT,
			       "there is no remote '%s': %s does not exist ('cvol remote ls' "
			       "lists all)",
			       name, path);
	if (r < 0)
		return cv_fail(err, -r, "%s: %s", path ? path : name, cv_strerror(r));
	r = cv_remote_parse(data, size, ret, err);
	return r < 0 ? cv_fail_context(err, "%s", path) : 0;
}

static int is_remote_file(const struct dirent *entry)
{
	size_t n = strlen(entry->d_name), suffix = strlen(SUFFIX);

	return entry->d_name[0] != '.' && n > suffix &&
	       strcmp(entry->d_name + n - suffix, SUFFIX) == 0;
}

char **cv_remote_names(const char *config_dir, struct cv_err *err)
{
	cv_cleanup_free char *path = cv_sprintf("%s/remotes.d", config_dir);
	struct dirent **entries = NULL;
	char **names;
	int n = path ? scandir(path, &entries, is_remote_file, alphasort) : -1;
	bool ok = true;

	if (n < 0 && errno != ENOENT) {
		(void)cv_fail(err, errno, "%s: %s", path ? path : config_dir, cv_strerror(errno));
		return NULL;
	}
	n = n < 0 ? 0 : n;
	names = calloc((size_t)n + 1, sizeof(*names));
	for (int i = 0; i < n; i++) {
		if (names)
			names[i] = strndup(entries[i]->d_name,
					   strlen(entries[i]->d_name) - strlen(SUFFIX));
		ok = ok && names && names[i];
		free(entries[i]);
	}
	free(entries);
	if (!ok || !names) {
		cv_remote_names_free(names);
		(void)cv_fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	return names;
}

void cv_remote_names_free(char **names)
{
	for (size_t i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
}

/* ---- secrets ---- */

char *cv_secret_find(const char *config_dir, const char *name, struct cv_err *err)
{
	const char *credentials = getenv("CREDENTIALS_DIRECTORY");
	cv_cleanup_free char *ours = cv_sprintf("%s/secrets", config_dir);
	const char *dirs[] = { credentials ? credentials : ours, ours, "/run/secrets" };

	if (!ours) {
		(void)cv_fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	for (size_t i = 0; cv_remote_name_ok(name) && i < CV_ARRAY_SIZE(dirs); i++) {
		char *path = cv_sprintf("%s/%s", dirs[i], name);

		if (path && access(path, R_OK) == 0)
			return path;
		free(path);
	}
	(void)cv_fail(err, ENOENT,
		      "there is no secret '%s' in %s%s%s or /run/secrets; 'cvol secret set %s' "
		      "makes one",
		      name, credentials ? credentials : "", credentials ? ", " : "", ours, name);
	return NULL;
}

static int find_secrets(const char *config_dir, struct cv_dict *o, struct cv_err *err)
{
	for (size_t i = 0; i < o->count; i++) {
		const struct cv_option_def *d = cv_option_find(o->items[i].key);
		const char *value = o->items[i].value;
		cv_cleanup_free char *path = NULL;

		if (!d || d->type != CV_OPT_FILE || !cv_str_starts(value, CV_SECRET_PREFIX))
			continue;
		path = cv_secret_find(config_dir, value + strlen(CV_SECRET_PREFIX), err);
		if (!path)
			return cv_fail_context(err, "option %s", d->name);
		if (cv_dict_set(o, d->name, path) < 0)
			return cv_fail(err, ENOMEM, "out of memory");
	}
	return 0;
}

/* ---- from stored to effective ---- */

/* What a volume says counts more than its remote; a password more than the remote's file. */
static int overlay(struct cv_dict *o, const struct cv_dict *stored, struct cv_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < stored->count; i++) {
		const char *key = stored->items[i].key;

		const struct cv_option_def *d = cv_option_find(key);
		char file[CV_OPTION_KEY_MAX];

		if (cv_str_eq(key, "remote") || cv_str_eq(key, "subdir"))
			continue;
		(void)snprintf(file, sizeof(file), "%s_file", key);
		if (d && d->type == CV_OPT_SECRET)
			(void)cv_dict_remove(o, file);
		r = cv_dict_set(o, key, stored->items[i].value);
	}
	return r < 0 ? cv_fail(err, -r, "options: %s", cv_strerror(r)) : 0;
}

/* Of both, and with the volume's name in it. */
static int set_subdir(struct cv_dict *o, const char *volume, const char *below, struct cv_err *err)
{
	const char *above = cv_dict_get(o, "subdir");
	char encoded[CV_ENCODED_MAX + 1];
	cv_cleanup_free char *text = NULL;
	char *at;
	int r;

	if (!above && !below)
		return 0;
	text = cv_sprintf("%s%s%s", above ? above : "", above && below ? "/" : "",
			  below ? below : "");
	cv_name_encode(volume, CV_ENCODED_MAX, encoded); /* one component, whatever the name is */
	while (text && (at = strstr(text, TEMPLATE))) {
		char *next = cv_sprintf("%.*s%s%s", (int)(at - text), text, encoded,
					at + strlen(TEMPLATE));

		free(text);
		text = next;
	}
	r = text ? cv_dict_set(o, "subdir", text) : -ENOMEM;
	return r < 0 ? cv_fail(err, -r, "option subdir: %s", cv_strerror(r)) : 0;
}

/* Only what is an option of this kind of volume, and not said already. */
static int fill_defaults(struct cv_dict *o, const struct cv_dict *defaults, struct cv_err *err)
{
	unsigned engine = cv_engine_parse(cv_options_str(o, "type", ""));
	int r = 0;

	for (size_t i = 0; r == 0 && i < defaults->count; i++) {
		const char *key = defaults->items[i].key;
		const struct cv_option_def *d = cv_option_find(key);

		if (d && (d->engines & engine) && !cv_dict_get(o, key))
			r = cv_dict_set(o, key, defaults->items[i].value);
	}
	return r < 0 ? cv_fail(err, -r, "options: %s", cv_strerror(r)) : 0;
}

static int take_remote(const char *config_dir, const char *name, struct cv_dict *o,
		       struct cv_err *err)
{
	cv_cleanup_remote struct cv_remote remote = CV_REMOTE_INIT;
	int r = cv_remote_load(config_dir, name, &remote, err);

	if (r == 0)
		r = cv_dict_copy(o, &remote.options);
	return r == -ENOMEM ? cv_fail(err, ENOMEM, "out of memory") : r;
}

int cv_remotes_resolve(const char *config_dir, const char *volume, const struct cv_dict *stored,
		       struct cv_dict *ret, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT, done = CV_DICT_INIT;
	cv_cleanup_site struct cv_site site = CV_SITE_INIT;
	const char *remote = cv_dict_get(stored, "remote");
	int r = remote ? take_remote(config_dir, remote, &o, err) : 0;

	if (r == 0)
		r = overlay(&o, stored, err);
	if (r == 0)
		r = set_subdir(&o, volume, cv_dict_get(stored, "subdir"), err);
	if (r == 0)
		r = cv_site_load(config_dir, &site, err);
	if (r == 0)
		r = fill_defaults(&o, &site.defaults, err);
	if (r == 0)
		r = cv_options_parse(&o, &done, err);
	if (r == 0)
		r = find_secrets(config_dir, &done, err);
	if (r < 0)
		return r;
	*ret = done;
	done = (struct cv_dict)CV_DICT_INIT;
	return 0;
}
