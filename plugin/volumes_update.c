/* SPDX-License-Identifier: Apache-2.0 */
/* Other options for a volume that exists. */
#include "plugin/volumes_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/spellings.h"
#include "config/str.h"
#include "plugin/process.h"
#include "plugin/remotes.h"

#define LOCK_MS	 10000
#define PROBE_MS 15000
#define TEXT_MAX 1024

/* What the daemon alone goes by; all else is what a worker was started with. */
static bool counts_now(const char *option)
{
	return cv_str_eq(option, "on_delete") || cv_str_eq(option, "mount_timeout");
}

/*
 * What another worker can be started with under the same mount: how it gets to the server, and how
 * long it waits and believes. Not what the kernel was told at mounting, nor what names things.
 */
static bool counts_for_successor(const char *option)
{
	static const char *const live[] = {
		"port",
		"mountport",
		"key_file",
		"key",
		"cert_file",
		"key_passphrase_file",
		"key_passphrase",
		"password_file",
		"password",
		"agent_socket",
		"ssh_config",
		"proxy_jump",
		"known_hosts",
		"host_key",
		"host_key_policy",
		"ciphers",
		"macs",
		"kex",
		"compression",
		"recovery",
		"timeout",
		"connections",
		"rsize",
		"wsize",
		"cache",
		"attr_timeout",
		"attr_timeout_file_min",
		"attr_timeout_file_max",
		"attr_timeout_dir_min",
		"attr_timeout_dir_max",
		"write_behind",
	};

	for (size_t i = 0; i < CV_ARRAY_SIZE(live); i++) {
		if (cv_str_eq(option, live[i]))
			return true;
	}
	return false;
}

/* Another place is another place in all its parts. */
static void forget_place(struct cv_dict *o, const struct cv_dict *changes)
{
	static const char *const parts[] = { "type", "remote", "host", "port", "user", "path" };

	if (!cv_dict_get(changes, "source") && !cv_dict_get(changes, "remote") &&
	    !cv_dict_get(changes, "type"))
		return;
	for (size_t i = 0; i < CV_ARRAY_SIZE(parts); i++)
		(void)cv_dict_remove(o, parts[i]);
	/* Where the volume's default was, this stood for its directory. */
	if (cv_str_eq(cv_dict_get(o, "subdir"), "${name}"))
		(void)cv_dict_remove(o, "subdir");
}

/* A secret lies in a file of ours once it is stored. */
static void remove_option(struct cv_dict *o, const struct cv_option_def *d)
{
	char file[CV_OPTION_KEY_MAX];

	(void)cv_dict_remove(o, d->name);
	(void)snprintf(file, sizeof(file), "%s_file", d->name);
	if (d->type == CV_OPT_SECRET)
		(void)cv_dict_remove(o, file);
}

static int apply_unset(struct cv_dict *o, const char *unset, struct cv_err *err)
{
	cv_cleanup_free char *copy = strdup(unset ? unset : "");
	char *save = NULL;

	if (!copy)
		return cv_fail(err, ENOMEM, "out of memory");
	for (char *name = strtok_r(copy, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		const struct cv_option_def *d = cv_option_find(name);

		if (!d)
			return cv_fail(err, EINVAL,
				       "unknown option '%.64s' ('cvol options' lists all)", name);
		remove_option(o, d);
	}
	return 0;
}

static int merge(const struct volume *v, const struct cv_dict *opts, const char *unset,
		 struct cv_dict *ret, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict changes = CV_DICT_INIT;
	int r = cv_spellings_resolve(opts, &changes, err);

	if (r == 0 && cv_dict_copy(ret, &v->options) < 0)
		r = cv_fail(err, ENOMEM, "out of memory");
	if (r < 0)
		return r;
	forget_place(ret, &changes);
	r = apply_unset(ret, unset, err);
	for (size_t i = 0; r == 0 && i < changes.count; i++) {
		const struct cv_option_def *d = cv_option_find(changes.items[i].key);

		remove_option(ret, d);
		if (cv_dict_set(ret, d->name, changes.items[i].value) < 0)
			r = cv_fail(err, E2BIG, "too many options, or a value is too long");
	}
	return r;
}

/* A worker that takes over from another one must find the same directory. */
static int check_place(const struct cv_dict *before, const struct cv_dict *after,
		       struct cv_err *err)
{
	static const char *const parts[] = { "type", "remote", "host", "path", "subdir", "user" };

	for (size_t i = 0; i < CV_ARRAY_SIZE(parts); i++) {
		if (!cv_str_eq(cv_dict_get(before, parts[i]), cv_dict_get(after, parts[i])))
			return cv_fail(err, EBUSY,
				       "%s says where it is, which cannot change while it is "
				       "mounted: stop its containers first",
				       parts[i]);
	}
	return 0;
}

static void add_word(char *text, const char *word)
{
	size_t used = strlen(text);

	(void)snprintf(text + used, TEXT_MAX - used, "%s%s", used ? ", " : "", word);
}

struct change {
	struct cv_dict before, after;
	bool secrets; /* one was given, which is stored elsewhere */
	bool mounted;
	bool live; /* a worker with the new options has taken over */
};

static void change_release(struct change *c)
{
	cv_dict_release(&c->before);
	cv_dict_release(&c->after);
}

static void add_changed(const struct change *c, char *now, char *later, const struct cv_dict *a,
			const struct cv_dict *b, bool both)
{
	for (size_t i = 0; i < a->count; i++) {
		const char *key = a->items[i].key, *other = cv_dict_get(b, key);

		if (other ? both && !cv_str_eq(other, a->items[i].value) : true)
			add_word(counts_now(key) || (c->live && counts_for_successor(key)) ? now
											   : later,
				 key);
	}
}

/* For people: what has changed, and from when on it counts. */
static char *describe(const struct change *c)
{
	char now[TEXT_MAX] = "", later[TEXT_MAX] = "";

	add_changed(c, now, later, &c->before, &c->after, true);
	add_changed(c, now, later, &c->after, &c->before, false);
	if (c->secrets)
		add_word(c->live ? now : later, "a secret");
	if (!*now && !*later)
		return strdup("nothing has changed");
	if (!c->mounted)
		return cv_sprintf("changed: %s%s%s", now, *now && *later ? ", " : "", later);
	return cv_sprintf(
		"%s%s%s%s%s", *now ? "changed now: " : "", now, *now && *later ? "; " : "",
		*later ? "changed from the next mount on, that is once its containers have "
			 "stopped: "
		       : "",
		later);
}

static bool differs_for_successor(const struct cv_dict *a, const struct cv_dict *b)
{
	for (size_t i = 0; i < a->count; i++) {
		if (counts_for_successor(a->items[i].key) &&
		    !cv_str_eq(a->items[i].value, cv_dict_get(b, a->items[i].key)))
			return true;
	}
	return false;
}

/* With op held. A server that does not take the new options leaves the worker as it is. */
static int go_live(struct cv_volumes *vs, struct volume *v, struct change *c, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT, probed = CV_DICT_INIT;
	struct cv_mount_spec spec = { .volume = v->name,
				      .options = &probed,
				      .timeout_ms = PROBE_MS };
	struct cv_worker *w;
	int r;

	if (!c->mounted || (!c->secrets && !differs_for_successor(&c->before, &c->after) &&
			    !differs_for_successor(&c->after, &c->before)))
		return 0;
	r = cv_remotes_resolve(vs->config_dir, v->name, &v->options, &options, err);
	if (r == 0 && cv_dict_copy(&probed, &options) < 0)
		r = cv_fail(err, ENOMEM, "out of memory");
	(void)cv_dict_remove(&probed, "subdir"); /* a probe makes nothing */
	if (r == 0)
		r = vs->mounter->probe(vs->ctx, &spec, err);
	if (r < 0)
		return r;
	w = cv_volume_worker(vs, v);
	if (!w)
		return 0;
	r = vs->mounter->upgrade(w, &options, err);
	vs->mounter->unref(w);
	c->live = r == 0;
	return r;
}

static bool has_secret(const struct cv_dict *options)
{
	for (const struct cv_option_def *d = cv_option_table(); d->name; d++) {
		if (d->type == CV_OPT_SECRET && cv_dict_get(options, d->name))
			return true;
	}
	return false;
}

/* With op and create held. */
static int update(struct cv_volumes *vs, struct volume *v, const struct cv_dict *opts,
		  const char *unset, struct change *c, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict merged = CV_DICT_INIT, own = CV_DICT_INIT;
	struct cv_state state = { .name = v->name, .created = v->created, .made = v->made };
	int r = merge(v, opts, unset, &merged, err);

	c->mounted = cv_volume_is_mounted(vs, v);
	if (r == 0)
		r = cv_volume_options(vs, v, v->name, v->encoded, &merged, &c->after, NULL, err);
	if (r == 0 && c->mounted)
		r = check_place(&v->options, &c->after, err);
	c->secrets = has_secret(&c->after);
	if (r == 0)
		r = cv_store_secrets(&vs->store, v->encoded, &c->after, true, err);
	state.options = c->after; /* borrowed */
	if (r == 0)
		r = cv_store_save(&vs->store, v->encoded, &state, err);
	if (r == 0 &&
	    (cv_dict_copy(&c->before, &v->options) < 0 || cv_dict_copy(&own, &c->after) < 0))
		r = cv_fail(err, ENOMEM, "out of memory");
	if (r < 0)
		return r;
	cv_store_prune_secrets(&vs->store, v->encoded, &c->after);
	CV_SCOPED_LOCK(&vs->lock);
	return cv_volume_set_options(vs, v, &own) < 0 ? cv_fail(err, ENOMEM, "out of memory") : 0;
}

/* With op held. */
static int update_and_apply(struct cv_volumes *vs, struct volume *v, const struct cv_dict *opts,
			    const char *unset, char **ret_text, struct cv_err *err)
{
	struct change c = { .before = CV_DICT_INIT, .after = CV_DICT_INIT };
	struct cv_err why = { 0 };
	int r;

	{
		CV_SCOPED_LOCK(&vs->create);
		r = update(vs, v, opts, unset, &c, err);
	}
	if (r == 0) {
		cv_cleanup_free char *text = NULL;
		bool failed = go_live(vs, v, &c, &why) < 0;

		text = describe(&c);
		*ret_text = text && failed ? cv_sprintf("%s (not now: %s)", text, why.text)
					   : cv_steal(&text);
	}
	change_release(&c);
	return r;
}

int cv_volumes_update(struct cv_volumes *vs, const char *name, const struct cv_dict *opts,
		      const char *unset, char **ret_text, struct cv_err *err)
{
	struct volume *v = cv_volume_get(vs, name);
	int r;

	if (!v)
		return cv_volume_unknown(name, err);
	r = v->broken ? cv_fail(err, EIO, "it cannot be used: %s", v->broken)
		      : cv_volume_lock(vs, v, cv_clock_ms() + LOCK_MS, err);
	if (r == 0) {
		r = update_and_apply(vs, v, opts, unset, ret_text, err);
		(void)pthread_mutex_unlock(&v->op);
	}
	if (r < 0)
		(void)cv_fail_context(err, "volume '%s' is as it was", name);
	else
		cv_notice("volume '%s': %s", name, *ret_text ? *ret_text : "updated");
	cv_volume_unref(vs, v);
	return r;
}
