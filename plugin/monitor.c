/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/monitor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/message.h"
#include "plugin/metrics.h"
#include "plugin/page.h"

struct listing {
	struct cv_view *views;
	size_t count;
};

static void listing_release(struct listing *l)
{
	cv_views_free(l->views, l->count);
}
#define cv_cleanup_listing __attribute__((cleanup(listing_release)))

static int list(struct cv_driver *d, struct listing *ret, struct cv_err *err)
{
	int r = cv_volumes_views(d->volumes, &ret->views, &ret->count, err);

	if (r == 0)
		cv_history_fill(d->history, ret->views, ret->count);
	return r;
}

int cv_monitor_metrics(struct cv_driver *d, struct cv_http_reply *reply, struct cv_err *err)
{
	cv_cleanup_listing struct listing l = { 0 };
	int r = list(d, &l, err);

	if (r < 0)
		return r;
	reply->body = cv_metrics_format(l.views, l.count);
	reply->content_type = CV_METRICS_TYPE;
	return 0;
}

static int page(struct cv_driver *d, struct cv_http_reply *reply, struct cv_err *err)
{
	cv_cleanup_listing struct listing l = { 0 };
	int r = list(d, &l, err);

	if (r < 0)
		return r;
	reply->body = cv_page_format(l.views, l.count, d->history, (int64_t)time(NULL));
	reply->content_type = "text/html; charset=utf-8";
	return 0;
}

static int status(struct cv_driver *d, struct cv_http_reply *reply, struct cv_err *err)
{
	cv_cleanup_listing struct listing l = { 0 };
	int r = list(d, &l, err);

	if (r < 0)
		return r;
	reply->body = cv_message_status(l.views, l.count, &d->status);
	reply->content_type = "application/json";
	return 0;
}

static const struct {
	const char *path;
	int (*run)(struct cv_driver *d, struct cv_http_reply *reply, struct cv_err *err);
} pages[] = {
	{ "/", page },
	{ "/metrics", cv_monitor_metrics },
	{ "/status.json", status },
};

static char *plain(const char *text)
{
	return cv_sprintf("%s\n", text);
}

static void refuse(struct cv_http_reply *reply, unsigned code, const char *text)
{
	reply->status = code;
	reply->body = plain(text);
}

/*
 * A page of somebody else's, open in a browser on this host, must not read this by giving its own
 * name our address (DNS rebinding): only addresses and localhost are names of ours.
 */
static bool host_is_ours(const char *host)
{
	if (*host == '\0' || *host == '[')
		return true;
	if (cv_str_starts(host, "localhost") && (host[9] == '\0' || host[9] == ':'))
		return true;
	return host[strspn(host, "0123456789.:")] == '\0';
}

static void handle(void *ctx, const struct cv_http_request *request, struct cv_http_reply *reply)
{
	struct cv_err err = { 0 };

	if (!host_is_ours(request->host)) {
		refuse(reply, 403, "use the address, or localhost");
		return;
	}
	for (size_t i = 0; i < CV_ARRAY_SIZE(pages); i++) {
		if (!cv_str_eq(request->path, pages[i].path))
			continue;
		if (!cv_str_eq(request->method, "GET") && !cv_str_eq(request->method, "HEAD"))
			refuse(reply, 405, "this is for reading only");
		else if (pages[i].run(ctx, reply, &err) < 0)
			refuse(reply, 500, err.text);
		else
			reply->status = 200;
		return;
	}
	refuse(reply, 404, "there is /, /metrics and /status.json");
}

const struct cv_http_handler cv_monitor_handler = {
	.handle = handle,
	.error_body = plain,
	.content_type = "text/plain; charset=utf-8",
};
