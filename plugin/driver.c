/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/driver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"
#include "plugin/message.h"
#include "plugin/monitor.h"

enum {
	STATUS_OK = 200,
	STATUS_BAD = 400,
	STATUS_NOT_FOUND = 404,
	STATUS_METHOD = 405,
	STATUS_ERR = 500
};

/* A Mount whose answer is on its way. */
struct pending {
	char *name; /* owned */
	char *id;   /* owned */
};

struct endpoint {
	const char *path;
	const char *method;
	bool needs_name;
	/* 0, or -errno with err; reply->body on success. */
	int (*run)(struct cv_driver *d, const struct cv_http_request *http,
		   struct cv_request *request, struct cv_http_reply *reply, struct cv_err *err);
};

#define RUN(name)                                                                                  \
	static int name(struct cv_driver *d, const struct cv_http_request *http,                   \
			struct cv_request *request, struct cv_http_reply *reply,                   \
			struct cv_err *err)
#define UNUSED (void)d, (void)http, (void)request, (void)err

/* Podman and people do not name the type they accept. */
static bool is_dockerd(const struct cv_http_request *http)
{
	return strstr(http->accept, "docker.plugins") != NULL;
}

RUN(activate)
{
	UNUSED;
	/* Podman introduces itself with every command, which means nothing. */
	if (is_dockerd(http))
		cv_volumes_new_epoch(d->volumes);
	reply->body = cv_message_activate();
	return 0;
}

RUN(capabilities)
{
	UNUSED;
	reply->body = cv_message_capabilities(d->scope);
	return 0;
}

RUN(create)
{
	int r = cv_volumes_create(d->volumes, request->name, &request->opts, err);

	UNUSED;
	if (r == 0)
		reply->body = cv_message_err("");
	return r;
}

RUN(update)
{
	cv_cleanup_free char *text = NULL;
	int r = cv_volumes_update(d->volumes, request->name, &request->opts, request->unset, &text,
				  err);

	UNUSED;
	if (r == 0)
		reply->body = cv_message_text(text);
	return r;
}

RUN(remove_volume)
{
	int r = cv_volumes_remove(d->volumes, request->name, is_dockerd(http), err);

	UNUSED;
	if (r == 0)
		reply->body = cv_message_err("");
	return r;
}

static void pending_free(struct pending *p)
{
	if (p) {
		free(p->name);
		free(p->id);
		free(p);
	}
}

RUN(mount_volume)
{
	const char *id = request->id ? request->id : "";
	struct pending *p = calloc(1, sizeof(*p));
	cv_cleanup_free char *mountpoint = NULL;
	int r;

	UNUSED;
	if (p) {
		p->name = strdup(request->name);
		p->id = strdup(id);
	}
	if (!p || !p->name || !p->id) {
		pending_free(p);
		return cv_fail(err, ENOMEM, "out of memory");
	}
	r = cv_volumes_mount(d->volumes, request->name, id, &mountpoint, err);
	if (r == 0) {
		reply->body = cv_message_mountpoint(mountpoint);
		/* Without a body the answer is an error, to which no Unmount follows. */
		if (!reply->body) {
			(void)cv_volumes_unmount(d->volumes, p->name, p->id, NULL);
			r = cv_fail(err, ENOMEM, "out of memory");
		}
	}
	if (r < 0)
		pending_free(p);
	else
		reply->token = p;
	return r;
}

RUN(unmount_volume)
{
	int r = cv_volumes_unmount(d->volumes, request->name, request->id ? request->id : "", err);

	UNUSED;
	if (r == 0)
		reply->body = cv_message_err("");
	return r;
}

RUN(path)
{
	struct cv_view view = { 0 };
	int r = cv_volumes_get(d->volumes, request->name, &view, err);

	UNUSED;
	if (r < 0)
		return r;
	reply->body = cv_message_mountpoint(view.mountpoint);
	cv_view_release(&view);
	return 0;
}

RUN(get)
{
	struct cv_view view = { 0 };
	int r = cv_volumes_get(d->volumes, request->name, &view, err);

	UNUSED;
	if (r < 0)
		return r;
	reply->body = cv_message_volume(&view);
	cv_view_release(&view);
	return 0;
}

RUN(list)
{
	struct cv_listed *list = NULL;
	size_t count = 0;
	int r = cv_volumes_list(d->volumes, &list, &count, err);

	UNUSED;
	if (r < 0)
		return r;
	reply->body = cv_message_list(list, count);
	cv_listed_free(list, count);
	return 0;
}

RUN(status)
{
	struct cv_view *views = NULL;
	size_t count = 0;
	int r = cv_volumes_views(d->volumes, &views, &count, err);

	UNUSED;
	if (r < 0)
		return r;
	cv_history_fill(d->history, views, count);
	reply->body = cv_message_status(views, count, &d->status);
	cv_views_free(views, count);
	return 0;
}

RUN(upgrade_workers)
{
	struct cv_findings found = { 0 };

	UNUSED;
	(void)err;
	cv_volumes_upgrade(d->volumes, &found);
	reply->body = cv_message_lines("Found", found.lines, found.count);
	cv_findings_release(&found);
	return 0;
}

RUN(gc)
{
	bool dry_run = cv_str_eq(cv_dict_get(&request->opts, "dry_run"), "true");
	struct cv_findings found = { 0 };
	int r = cv_volumes_gc(d->volumes, dry_run, &found, err);

	UNUSED;
	if (r == 0)
		reply->body = cv_message_lines("Found", found.lines, found.count);
	cv_findings_release(&found);
	return r;
}

/* For the daemon's own watchdog: takes every lock that answering takes. */
RUN(ping)
{
	size_t total, mounted;

	UNUSED;
	cv_volumes_count(d->volumes, &total, &mounted);
	reply->body = cv_message_err("");
	return 0;
}

/* Without a name: the daemon's own, and that of workers it starts from now on. */
RUN(log_level)
{
	const char *text = cv_dict_get(&request->opts, "level");
	enum cv_log_level level;
	int r = 0;

	UNUSED;
	if (!text || cv_log_level_parse(text, &level) < 0)
		return cv_fail(err, EINVAL, "unknown log level '%s'", text ? text : "");
	if (request->name)
		r = cv_volumes_log_level(d->volumes, request->name, level, err);
	else
		cv_log_set_level(level);
	if (r == 0)
		reply->body = cv_message_err("");
	return r;
}

RUN(metrics)
{
	UNUSED;
	return cv_monitor_metrics(d, reply, err);
}

static const struct endpoint endpoints[] = {
	{ "/Plugin.Activate", "POST", false, activate },
	{ "/VolumeDriver.Capabilities", "POST", false, capabilities },
	{ "/VolumeDriver.Create", "POST", true, create },
	{ "/VolumeDriver.Remove", "POST", true, remove_volume },
	{ "/VolumeDriver.Mount", "POST", true, mount_volume },
	{ "/VolumeDriver.Unmount", "POST", true, unmount_volume },
	{ "/VolumeDriver.Path", "POST", true, path },
	{ "/VolumeDriver.Get", "POST", true, get },
	{ "/VolumeDriver.List", "POST", false, list },
	{ "/cvol/update", "POST", true, update },
	{ "/cvol/status", "GET", false, status },
	{ "/metrics", "GET", false, metrics },
	{ "/cvol/log-level", "POST", false, log_level },
	{ "/cvol/gc", "POST", false, gc },
	{ "/cvol/upgrade-workers", "POST", false, upgrade_workers },
	{ "/cvol/ping", "GET", false, ping },
};

static void fail(struct cv_http_reply *reply, unsigned code, const char *text)
{
	reply->status = code;
	reply->body = cv_message_err(text);
}

static void run(struct cv_driver *d, const struct endpoint *e, const struct cv_http_request *http,
		struct cv_http_reply *reply)
{
	cv_cleanup_request struct cv_request request = CV_REQUEST_INIT;
	struct cv_err err = { 0 };
	int r = cv_request_parse(http->body, http->body_size, &request, &err);

	if (r < 0) {
		fail(reply, STATUS_BAD, err.text);
		return;
	}
	if (e->needs_name && !request.name) {
		/* Also what dockerd's repeated requests look like: their body is empty. */
		fail(reply, STATUS_BAD,
		     http->body_size ? "the request has no Name" : "the request has no body");
		return;
	}
	r = e->run(d, http, &request, reply, &err);
	if (r < 0) {
		cv_debug("%s: %s", e->path, err.text);
		fail(reply, STATUS_ERR, *err.text ? err.text : cv_strerror(r));
		return;
	}
	reply->status = STATUS_OK;
}

static void handle(void *ctx, const struct cv_http_request *http, struct cv_http_reply *reply)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(endpoints); i++) {
		if (!cv_str_eq(http->path, endpoints[i].path))
			continue;
		if (cv_str_eq(http->method, endpoints[i].method))
			run(ctx, &endpoints[i], http, reply);
		else
			fail(reply, STATUS_METHOD, "wrong method for this path");
		return;
	}
	fail(reply, STATUS_NOT_FOUND, "unknown call");
}

static void done(void *ctx, void *token, bool delivered)
{
	struct cv_driver *d = ctx;
	struct pending *p = token;
	struct cv_err err = { 0 };

	if (!delivered) {
		/* No Unmount will ever come for it. */
		cv_notice("volume '%s': the client left before Mount was answered; taking it back",
			  p->name);
		if (cv_volumes_unmount(d->volumes, p->name, p->id, &err) < 0)
			cv_debug("%s", err.text);
	}
	pending_free(p);
}

const struct cv_http_handler cv_driver_handler = {
	.handle = handle,
	.done = done,
	.error_body = cv_message_err,
	.content_type = CV_CONTENT_TYPE,
};
