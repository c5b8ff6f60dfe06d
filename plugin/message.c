/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/message.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <json-c/json.h>

#include "config/cleanup.h"
#include "config/str.h"

#define DEPTH_MAX  16
#define ANSWER_MAX (64u << 20) /* of our own daemon: every volume with its status */

static void put_json(struct json_object **object)
{
	(void)json_object_put(*object);
}
#define cv_cleanup_json __attribute__((cleanup(put_json)))

static void free_tokener(struct json_tokener **tok)
{
	if (*tok)
		json_tokener_free(*tok);
}

/* ---- in ---- */

static bool only_space(const char *p, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (!strchr(" \t\r\n", p[i]) || !p[i])
			return false;
	}
	return true;
}

/* The one JSON value that body is, or NULL with the reason. */
static struct json_object *parse(const char *body, size_t size, size_t max, struct cv_err *err)
{
	__attribute__((cleanup(free_tokener))) struct json_tokener *tok =
		json_tokener_new_ex(DEPTH_MAX);
	cv_cleanup_json struct json_object *root = NULL;
	enum json_tokener_error e;
	size_t end;

	if (!tok || size > max) {
		(void)cv_fail(err, EBADMSG, "%s", tok ? "body too long" : "out of memory");
		return NULL;
	}
	json_tokener_set_flags(tok, JSON_TOKENER_VALIDATE_UTF8);
	root = json_tokener_parse_ex(tok, body, (int)size);
	e = json_tokener_get_error(tok);
	if (e == json_tokener_continue) {
		(void)cv_fail(err, EBADMSG, "incomplete JSON");
		return NULL;
	}
	if (e != json_tokener_success) {
		(void)cv_fail(err, EBADMSG, "invalid JSON: %s", json_tokener_error_desc(e));
		return NULL;
	}
	end = json_tokener_get_parse_end(tok);
	if (!only_space(body + end, size - end)) {
		(void)cv_fail(err, EBADMSG, "invalid JSON: text after the end");
		return NULL;
	}
	if (!json_object_is_type(root, json_type_object)) {
		(void)cv_fail(err, EBADMSG, "the body must be a JSON object");
		return NULL;
	}
	return cv_steal(&root);
}

static int take_text(const char *key, struct json_object *value, size_t max, char **ret,
		     struct cv_err *err)
{
	const char *text;
	size_t len;
	char *copy;

	if (!value) /* JSON null */
		return 0;
	if (!json_object_is_type(value, json_type_string))
		return cv_fail(err, EBADMSG, "%s must be a string", key);
	text = json_object_get_string(value);
	len = (size_t)json_object_get_string_len(value);
	if (strlen(text) != len)
		return cv_fail(err, EBADMSG, "%s contains a NUL character", key);
	if (len > max)
		return cv_fail(err, EBADMSG, "%s is longer than %zu bytes", key, max);
	copy = strdup(text);
	if (!copy)
		return cv_fail(err, ENOMEM, "out of memory");
	free(*ret);
	*ret = copy;
	return 0;
}

static int take_option(const char *key, struct json_object *value, struct cv_dict *opts,
		       struct cv_err *err)
{
	const char *text = value ? json_object_get_string(value) : "";
	int r;

	if (json_object_is_type(value, json_type_object) ||
	    json_object_is_type(value, json_type_array))
		return cv_fail(err, EBADMSG, "option '%.64s' must be a string", key);
	if (json_object_is_type(value, json_type_string) &&
	    strlen(text) != (size_t)json_object_get_string_len(value))
		return cv_fail(err, EBADMSG, "option '%.64s' contains a NUL character", key);
	r = cv_dict_set(opts, key, text);
	if (r < 0)
		return cv_fail(err, r == -E2BIG ? EBADMSG : -r, "option '%.64s': %s", key,
			       r == -E2BIG ? "too many options, or the value is too long"
					   : cv_strerror(r));
	return 0;
}

static int take_options(struct json_object *value, struct cv_dict *opts, struct cv_err *err)
{
	if (!value) /* null: docker run -v with --volume-driver */
		return 0;
	if (!json_object_is_type(value, json_type_object))
		return cv_fail(err, EBADMSG, "Opts must be an object");
	json_object_object_foreach(value, key, option)
	{
		int r = take_option(key, option, opts, err);

		if (r < 0)
			return r;
	}
	return 0;
}

int cv_request_parse(const char *body, size_t size, struct cv_request *ret, struct cv_err *err)
{
	cv_cleanup_request struct cv_request request = CV_REQUEST_INIT;
	cv_cleanup_json struct json_object *root = NULL;
	int r = 0;

	if (!only_space(body, size)) {
		root = parse(body, size, CV_BODY_MAX, err);
		if (!root)
			return -EBADMSG;
		json_object_object_foreach(root, key, value)
		{
			if (!strcasecmp(key, "Name")) /* its length is judged with the name */
				r = take_text("Name", value, CV_BODY_MAX, &request.name, err);
			else if (!strcasecmp(key, "ID"))
				r = take_text("ID", value, CV_MOUNT_ID_MAX, &request.id, err);
			else if (!strcasecmp(key, "Unset"))
				r = take_text("Unset", value, CV_BODY_MAX, &request.unset, err);
			else if (!strcasecmp(key, "Opts"))
				r = take_options(value, &request.opts, err);
			if (r < 0)
				return r;
		}
	}
	*ret = request;
	request = (struct cv_request)CV_REQUEST_INIT;
	return 0;
}

void cv_request_release(struct cv_request *request)
{
	free(request->name);
	free(request->id);
	free(request->unset);
	cv_dict_release(&request->opts);
	*request = (struct cv_request)CV_REQUEST_INIT;
}

/* ---- out ---- */

/* JSON must be UTF-8, but error texts may quote anything or be cut in the middle of a character. */
static struct json_object *text_object(const char *text)
{
	cv_cleanup_free char *clean = NULL;

	if (!text)
		text = "";
	if (cv_str_is_utf8(text))
		return json_object_new_string(text);
	clean = strdup(text);
	if (!clean)
		return NULL;
	for (char *p = clean; *p; p++) {
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	}
	return json_object_new_string(clean);
}

/* Adds and takes value; false when there was no memory for either. */
static bool add(struct json_object *object, const char *key, struct json_object *value)
{
	if (value && json_object_object_add(object, key, value) == 0)
		return true;
	(void)json_object_put(value);
	return false;
}

static bool add_text(struct json_object *object, const char *key, const char *text)
{
	return add(object, key, text_object(text));
}

static char *print(struct json_object *object, int flags)
{
	const char *text = json_object_to_json_string_ext(object, flags);

	return text ? cv_sprintf("%s\n", text) : NULL;
}

static char *finish(struct json_object *root, bool ok)
{
	return ok ? print(root, JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
}

char *cv_message_err(const char *text)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();

	return finish(root, root && add_text(root, "Err", text));
}

char *cv_message_activate(void)
{
	return strdup("{\"Implements\":[\"VolumeDriver\"]}\n");
}

char *cv_message_capabilities(const char *scope)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();
	struct json_object *inner = json_object_new_object();

	return finish(root, root && inner && add_text(inner, "Scope", scope) &&
				    add(root, "Capabilities", inner));
}

char *cv_message_mountpoint(const char *path)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();

	return finish(root,
		      root && add_text(root, "Mountpoint", path) && add_text(root, "Err", ""));
}

char *cv_message_text(const char *text)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();

	return finish(root, root && add_text(root, "Text", text) && add_text(root, "Err", ""));
}

char *cv_message_request(const char *name, const char *unset, const struct cv_dict *opts)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();
	struct json_object *inner = json_object_new_object();
	bool ok = root && inner && (!name || add_text(root, "Name", name)) &&
		  (!unset || add_text(root, "Unset", unset));

	for (size_t i = 0; ok && opts && i < opts->count; i++)
		ok = add_text(inner, opts->items[i].key, opts->items[i].value);
	return finish(root, ok && add(root, "Opts", inner));
}

static struct json_object *dict_object(const struct cv_dict *dict)
{
	struct json_object *object = json_object_new_object();

	for (size_t i = 0; object && i < dict->count; i++)
		(void)add_text(object, dict->items[i].key, dict->items[i].value);
	return object;
}

static bool add_time(struct json_object *object, const char *key, int64_t seconds)
{
	time_t t = (time_t)seconds;
	struct tm tm;
	char text[64];

	if (!gmtime_r(&t, &tm) || !strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
		return true; /* absent is right, empty would break dockerd's decoder */
	return add_text(object, key, text);
}

/* ---- status ---- */

static const char *const state_names[CV_VOLUME_STATES] = {
	[CV_VOLUME_IDLE] = "idle",     [CV_VOLUME_CONNECTING] = "connecting",
	[CV_VOLUME_OK] = "ok",	       [CV_VOLUME_WAITING] = "waiting",
	[CV_VOLUME_HUNG] = "hung",     [CV_VOLUME_DRAINING] = "draining",
	[CV_VOLUME_FAILED] = "failed", [CV_VOLUME_BROKEN] = "broken",
};

const char *cv_volume_state_name(enum cv_volume_state state)
{
	return state < CV_VOLUME_STATES ? state_names[state] : "?";
}

/* Numbers that are the same in memory and on the wire. */
static const struct {
	const char *key;
	size_t at; /* in struct cv_counters */
} numbers[] = {
	{ "workers", offsetof(struct cv_counters, workers) },
	{ "started", offsetof(struct cv_counters, started_s) },
	{ "connected", offsetof(struct cv_counters, connected) },
	{ "reconnects", offsetof(struct cv_counters, reconnects) },
	{ "rtt_us", offsetof(struct cv_counters, rtt_us) },
	{ "in_flight", offsetof(struct cv_counters, in_flight) },
	{ "bytes_read", offsetof(struct cv_counters, bytes_read) },
	{ "bytes_written", offsetof(struct cv_counters, bytes_written) },
	{ "requests", offsetof(struct cv_counters, requests) },
	{ "waiting", offsetof(struct cv_counters, waiting) },
	{ "pending_bytes", offsetof(struct cv_counters, pending_bytes) },
	{ "write_errors", offsetof(struct cv_counters, write_errors) },
	{ "nodes", offsetof(struct cv_counters, nodes) },
	{ "handles", offsetof(struct cv_counters, handles) },
};

/* The same for reading them back. */
static const struct {
	const char *key;
	size_t at; /* in struct cv_rates */
} rates[] = {
	{ "interval_s", offsetof(struct cv_rates, interval_s) },
	{ "operations", offsetof(struct cv_rates, operations) },
	{ "errors", offsetof(struct cv_rates, errors) },
	{ "bytes_read", offsetof(struct cv_rates, bytes_read) },
	{ "bytes_written", offsetof(struct cv_rates, bytes_written) },
	{ "latency_us", offsetof(struct cv_rates, latency_us) },
};

static bool add_number(struct json_object *object, const char *key, uint64_t value)
{
	return add(object, key, json_object_new_uint64(value));
}

/* An empty object in object; NULL: out of memory. */
static struct json_object *add_object(struct json_object *object, const char *key)
{
	struct json_object *inner = json_object_new_object();

	return add(object, key, inner) ? inner : NULL;
}

static struct json_object *add_array(struct json_object *object, const char *key)
{
	struct json_object *array = json_object_new_array();

	return add(object, key, array) ? array : NULL;
}

/* Takes item; false when there is no memory for it. */
static bool append(struct json_object *array, struct json_object *item)
{
	if (item && json_object_array_add(array, item) == 0)
		return true;
	(void)json_object_put(item);
	return false;
}

static bool add_calls(struct json_object *object, const struct cv_counters *c)
{
	struct json_object *calls = add_object(object, "calls");

	for (int i = 0; calls && i < CV_CALL_COUNT; i++) {
		struct json_object *call;

		if (!c->calls[i].done)
			continue;
		call = add_object(calls, cv_call_name((enum cv_call)i));
		if (!call || !add_number(call, "done", c->calls[i].done) ||
		    !add_number(call, "errors", c->calls[i].errors))
			return false;
	}
	return calls != NULL;
}

static bool add_histogram(struct json_object *object, const struct cv_histogram *h)
{
	struct json_object *buckets = json_object_new_array();

	for (size_t i = 0; buckets && i < CV_BUCKETS; i++)
		(void)json_object_array_add(buckets, json_object_new_uint64(h->bucket[i]));
	return add(object, "buckets", buckets) && add_number(object, "sum_ns", h->sum_ns) &&
	       add_number(object, "p50_us", cv_histogram_quantile_us(h, 0.5)) &&
	       add_number(object, "p99_us", cv_histogram_quantile_us(h, 0.99));
}

static bool add_counters(struct json_object *object, const struct cv_counters *c)
{
	struct json_object *latency = add_object(object, "latency");
	struct json_object *caches = add_object(object, "caches");

	for (size_t i = 0; i < CV_ARRAY_SIZE(numbers); i++) {
		const uint64_t *n = (const void *)((const char *)c + numbers[i].at);

		if (!add_number(object, numbers[i].key, *n))
			return false;
	}
	for (int i = 0; latency && i < CV_LATENCY_COUNT; i++) {
		struct json_object *one =
			add_object(latency, cv_latency_name((enum cv_latency_class)i));

		if (!one || !add_histogram(one, &c->latency[i]))
			return false;
	}
	for (int i = 0; caches && i < CV_CACHE_COUNT; i++) {
		struct json_object *one = add_object(caches, cv_cache_name((enum cv_cache)i));

		if (!one || !add_number(one, "hits", c->caches[i].hits) ||
		    !add_number(one, "misses", c->caches[i].misses))
			return false;
	}
	return latency && caches && add_calls(object, c);
}

static bool add_rates(struct json_object *object, const struct cv_rates *r)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(rates); i++) {
		const double *n = (const void *)((const char *)r + rates[i].at);
		char text[32];

		(void)snprintf(text, sizeof(text), "%.3f", *n);
		if (!add(object, rates[i].key, json_object_new_double_s(*n, text)))
			return false;
	}
	return true;
}

/* What everybody sees in `docker volume inspect`. */
static bool add_status(struct json_object *object, const struct cv_view *v)
{
	const struct cv_counters *c = &v->counters;

	return add_text(object, "kind", v->own ? "mount" : "volume") &&
	       add_text(object, "backend", v->backend) && add_text(object, "source", v->source) &&
	       add_text(object, "server", v->server) &&
	       add_text(object, "state", cv_volume_state_name(v->state)) &&
	       (!v->since || add_time(object, "since", v->since)) &&
	       add(object, "mounts", json_object_new_int64(v->mounts)) &&
	       add(object, "worker", json_object_new_int64(v->worker)) &&
	       add_text(object, "last_error", v->error) &&
	       (!v->error_s || add_time(object, "last_error_at", v->error_s)) &&
	       (!v->counted || (add_number(object, "operations", cv_counters_operations(c)) &&
				add_number(object, "errors", cv_counters_errors(c)) &&
				add_number(object, "reconnects", c->reconnects) &&
				add_number(object, "bytes_read", c->bytes_read) &&
				add_number(object, "bytes_written", c->bytes_written))) &&
	       add(object, "options", dict_object(&v->options)) &&
	       add_text(object, "version", CV_VERSION);
}

/* For the command line only: in `docker volume inspect` the numbers would tell nobody anything. */
static bool add_holders(struct json_object *object, const struct cv_view *v)
{
	struct json_object *array = add_array(object, "holders");
	bool ok = array;

	for (size_t i = 0; ok && i < v->holder_count; i++) {
		struct json_object *one = json_object_new_object();

		ok = append(array, one) && add_text(one, "id", v->holders[i].id) &&
		     add(one, "mounts", json_object_new_int64(v->holders[i].mounts)) &&
		     add(one, "stale", json_object_new_boolean(v->holders[i].stale));
	}
	return ok;
}

static bool add_details(struct json_object *object, const struct cv_view *v)
{
	struct json_object *inner;

	if (!add_holders(object, v))
		return false;
	if (v->rates.interval_s > 0) {
		inner = add_object(object, "rates");
		if (!inner || !add_rates(inner, &v->rates))
			return false;
	}
	if (!v->counted)
		return true;
	inner = add_object(object, "counters");
	return inner && add_counters(inner, &v->counters);
}

static struct json_object *listed_object(const char *name, const char *mountpoint, int64_t created)
{
	cv_cleanup_json struct json_object *volume = json_object_new_object();

	if (!volume || !add_text(volume, "Name", name) ||
	    !add_text(volume, "Mountpoint", mountpoint) || !add_time(volume, "CreatedAt", created))
		return NULL;
	return cv_steal(&volume);
}

static struct json_object *volume_object(const struct cv_view *v, bool details)
{
	cv_cleanup_json struct json_object *volume =
		listed_object(v->name, v->mountpoint, v->created);
	struct json_object *status = volume ? add_object(volume, "Status") : NULL;

	if (!status || !add_status(status, v) || (details && !add_details(status, v)))
		return NULL;
	return cv_steal(&volume);
}

char *cv_message_volume(const struct cv_view *view)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();

	return finish(root, root && add(root, "Volume", volume_object(view, false)) &&
				    add_text(root, "Err", ""));
}

char *cv_message_list(const struct cv_listed *list, size_t count)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();
	struct json_object *array = root ? add_array(root, "Volumes") : NULL;
	bool ok = array;

	for (size_t i = 0; ok && i < count; i++)
		ok = append(array,
			    listed_object(list[i].name, list[i].mountpoint, list[i].created));
	return finish(root, ok && add_text(root, "Err", ""));
}

char *cv_message_status(const struct cv_view *views, size_t count, const struct cv_dict *daemon)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();

	struct json_object *array = NULL;
	bool ok = root && (!daemon || add(root, "Daemon", dict_object(daemon))) &&
		  (array = add_array(root, "Volumes"));

	for (size_t i = 0; ok && i < count; i++)
		ok = append(array, volume_object(&views[i], true));
	return finish(root, ok && add_text(root, "Err", ""));
}

char *cv_message_lines(const char *key, char *const *lines, size_t count)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();
	struct json_object *array = json_object_new_array();
	bool ok = root && array;

	for (size_t i = 0; ok && i < count; i++)
		ok = json_object_array_add(array, text_object(lines[i])) == 0;
	if (!ok) {
		(void)json_object_put(array);
		return NULL;
	}
	return finish(root, add(root, key, array) && add_text(root, "Err", ""));
}

/* ---- answers, for the command line ---- */

/* NULL also when object is none. */
static struct json_object *member(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;

	return json_object_is_type(object, json_type_object) &&
			       json_object_object_get_ex(object, key, &value)
		       ? value
		       : NULL;
}

static const char *member_text(struct json_object *object, const char *key)
{
	struct json_object *value = member(object, key);

	return value ? json_object_get_string(value) : "";
}

static uint64_t member_number(struct json_object *object, const char *key)
{
	struct json_object *value = member(object, key);

	return value ? json_object_get_uint64(value) : 0;
}

char *cv_answer_err(const char *body)
{
	cv_cleanup_json struct json_object *root = parse(body, strlen(body), ANSWER_MAX, NULL);
	const char *text;

	if (!root)
		return *body ? strndup(body, strcspn(body, "\r\n")) : NULL;
	text = member_text(root, "Err");
	return *text ? strdup(text) : NULL;
}

char *cv_answer_text(const char *body)
{
	cv_cleanup_json struct json_object *root = parse(body, strlen(body), ANSWER_MAX, NULL);
	const char *text = root ? member_text(root, "Text") : "";

	return *text ? strdup(text) : NULL;
}

static int64_t parse_time(const char *text)
{
	struct tm tm = { 0 };

	return strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm) ? (int64_t)timegm(&tm) : 0;
}

static int take_holders(struct json_object *list, struct cv_view *view)
{
	size_t count =
		json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

	view->holders = calloc(count ? count : 1, sizeof(*view->holders));
	for (size_t i = 0; view->holders && i < count; i++) {
		struct json_object *one = json_object_array_get_idx(list, i);
		struct cv_holder *h = &view->holders[i];

		if (!json_object_is_type(one, json_type_object))
			return -EBADMSG;
		h->id = strdup(member_text(one, "id"));
		h->mounts = (unsigned)json_object_get_int64(member(one, "mounts"));
		h->stale = json_object_get_boolean(member(one, "stale"));
		view->holder_count = i + 1;
		if (!h->id)
			return -ENOMEM;
	}
	return view->holders ? 0 : -ENOMEM;
}

static void take_counters(struct json_object *object, struct cv_counters *c)
{
	struct json_object *calls = member(object, "calls");
	struct json_object *latency = member(object, "latency");
	struct json_object *caches = member(object, "caches");

	for (size_t i = 0; i < CV_ARRAY_SIZE(numbers); i++) {
		uint64_t *n = (void *)((char *)c + numbers[i].at);

		*n = member_number(object, numbers[i].key);
	}
	for (int i = 0; i < CV_CALL_COUNT; i++) {
		struct json_object *call = member(calls, cv_call_name((enum cv_call)i));

		c->calls[i].done = member_number(call, "done");
		c->calls[i].errors = member_number(call, "errors");
	}
	for (int i = 0; i < CV_LATENCY_COUNT; i++) {
		struct json_object *one =
			member(latency, cv_latency_name((enum cv_latency_class)i));
		struct json_object *buckets = member(one, "buckets");
		bool array = json_object_is_type(buckets, json_type_array);

		c->latency[i].sum_ns = member_number(one, "sum_ns");
		for (size_t b = 0; array && b < CV_BUCKETS; b++)
			c->latency[i].bucket[b] =
				json_object_get_uint64(json_object_array_get_idx(buckets, b));
	}
	for (int i = 0; i < CV_CACHE_COUNT; i++) {
		struct json_object *one = member(caches, cv_cache_name((enum cv_cache)i));

		c->caches[i].hits = member_number(one, "hits");
		c->caches[i].misses = member_number(one, "misses");
	}
}

static void take_rates(struct json_object *object, struct cv_rates *ret)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(rates); i++) {
		double *n = (void *)((char *)ret + rates[i].at);
		struct json_object *value = member(object, rates[i].key);

		*n = value ? json_object_get_double(value) : 0;
	}
}

static void take_dict(struct json_object *object, struct cv_dict *ret)
{
	if (!json_object_is_type(object, json_type_object))
		return;
	json_object_object_foreach(object, key, value)
	{
		(void)cv_dict_set(ret, key, value ? json_object_get_string(value) : "");
	}
}

static int take_view(struct json_object *v, struct cv_view *view)
{
	struct json_object *status = member(v, "Status");
	struct json_object *counters = member(status, "counters");

	view->name = strdup(member_text(v, "Name"));
	view->mountpoint = strdup(member_text(v, "Mountpoint"));
	view->source = strdup(member_text(status, "source"));
	view->backend = strdup(member_text(status, "backend"));
	view->server = strdup(member_text(status, "server"));
	view->error = strdup(member_text(status, "last_error"));
	view->error_s = parse_time(member_text(status, "last_error_at"));
	view->created = parse_time(member_text(v, "CreatedAt"));
	view->since = parse_time(member_text(status, "since"));
	view->own = cv_str_eq(member_text(status, "kind"), "mount");
	for (int i = 0; i < CV_VOLUME_STATES; i++) {
		if (cv_str_eq(state_names[i], member_text(status, "state")))
			view->state = (enum cv_volume_state)i;
	}
	view->mounts = (unsigned)member_number(status, "mounts");
	view->worker = (pid_t)member_number(status, "worker");
	take_dict(member(status, "options"), &view->options);
	take_rates(member(status, "rates"), &view->rates);
	view->counted = counters != NULL;
	if (counters)
		take_counters(counters, &view->counters);
	if (!view->name || !view->mountpoint || !view->source || !view->backend || !view->server ||
	    !view->error)
		return -ENOMEM;
	return take_holders(status ? member(status, "holders") : NULL, view);
}

int cv_answer_views(const char *body, struct cv_view **ret_views, size_t *ret_count)
{
	cv_cleanup_json struct json_object *root = parse(body, strlen(body), ANSWER_MAX, NULL);
	struct json_object *list = root ? member(root, "Volumes") : NULL;
	struct json_object *single = root ? member(root, "Volume") : NULL;
	struct cv_view *views;
	size_t count;

	if (!list && !single)
		return -EBADMSG;
	if (list && !json_object_is_type(list, json_type_array))
		return -EBADMSG;
	count = list ? json_object_array_length(list) : 1;
	views = calloc(count ? count : 1, sizeof(*views));
	if (!views)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		struct json_object *v = list ? json_object_array_get_idx(list, i) : single;

		if (!json_object_is_type(v, json_type_object) || take_view(v, &views[i]) < 0) {
			cv_views_free(views, count);
			return -EBADMSG;
		}
	}
	*ret_views = views;
	*ret_count = count;
	return 0;
}

int cv_answer_lines(const char *body, const char *key, void (*each)(void *ctx, const char *line),
		    void *ctx)
{
	cv_cleanup_json struct json_object *root = parse(body, strlen(body), ANSWER_MAX, NULL);
	struct json_object *list = root ? member(root, key) : NULL;

	if (!json_object_is_type(list, json_type_array))
		return -EBADMSG;
	for (size_t i = 0; i < json_object_array_length(list); i++)
		each(ctx, json_object_get_string(json_object_array_get_idx(list, i)));
	return 0;
}

int cv_answer_daemon(const char *body, struct cv_dict *ret)
{
	cv_cleanup_json struct json_object *root = parse(body, strlen(body), ANSWER_MAX, NULL);
	struct json_object *daemon = member(root, "Daemon");

	if (!daemon)
		return -EBADMSG;
	take_dict(daemon, ret);
	return 0;
}

char *cv_answer_pretty(const char *body, const char *key)
{
	cv_cleanup_json struct json_object *root = parse(body, strlen(body), ANSWER_MAX, NULL);
	struct json_object *value = root ? member(root, key) : NULL;

	return value ? print(value, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
					    JSON_C_TO_STRING_NOSLASHESCAPE)
		     : NULL;
}

void cv_view_release(struct cv_view *view)
{
	free(view->name);
	free(view->mountpoint);
	free(view->source);
	free(view->backend);
	free(view->server);
	free(view->error);
	for (size_t i = 0; i < view->holder_count; i++)
		free(view->holders[i].id);
	free(view->holders);
	cv_dict_release(&view->options);
	memset(view, 0, sizeof(*view));
}

void cv_listed_free(struct cv_listed *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(list[i].name);
		free(list[i].mountpoint);
	}
	free(list);
}

void cv_views_free(struct cv_view *views, size_t count)
{
	for (size_t i = 0; views && i < count; i++)
		cv_view_release(&views[i]);
	free(views);
}
