/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/overview.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/loop.h"
#include "config/str.h"
#include "plugin/client.h"
#include "plugin/ownmount.h"
#include "plugin/process.h"
#include "plugin/state.h"
#include "plugin/supervisor.h"

#define TIMEOUT_MS 10000
#define WORKER_MS  300

void cv_overview_release(struct cv_overview *o)
{
	cv_views_free(o->views, o->count);
	cv_dict_release(&o->daemon);
	memset(o, 0, sizeof(*o));
}

bool cv_overview_no_daemon(int r)
{
	return r == -ENOENT || r == -ECONNREFUSED;
}

/* ---- what `cvol mount` mounted ---- */

static int ask_worker(const char *run_dir, const struct cv_record *rec, struct cv_counters *ret,
		      struct cv_err *err)
{
	struct cv_ownmount own;
	int r = cv_ownmount_open(run_dir, rec->mountpoint, false, &own, err);

	if (r < 0)
		return r;
	r = cv_worker_counters(own.dir, own.socket, WORKER_MS, ret, err);
	cv_ownmount_release(&own);
	return r;
}

static void judge(struct cv_view *view, const char *run_dir, const struct cv_record *rec)
{
	cv_cleanup_close int worker = cv_process_open(rec->worker, rec->worker_start);
	struct cv_err err = { 0 };
	uint64_t since = 0;

	if (worker < 0) {
		view->state = CV_VOLUME_FAILED;
		view->error = strdup("its worker is gone; cvol unmount cleans up");
		return;
	}
	view->worker = rec->worker;
	view->state = CV_VOLUME_OK;
	if (ask_worker(run_dir, rec, &view->counters, &err) < 0) {
		view->state = CV_VOLUME_HUNG;
		view->error = strdup(err.text);
		return;
	}
	view->counted = true;
	switch (cv_counters_health(&view->counters, cv_now_ns(), &since)) {
	case CV_HEALTH_OK:
		since = view->counters.started_s;
		break;
	case CV_HEALTH_WAITING:
		view->state = CV_VOLUME_WAITING;
		break;
	case CV_HEALTH_HUNG:
		view->state = CV_VOLUME_HUNG;
		break;
	}
	view->since = (int64_t)since;
	view->error = strdup(view->counters.last_error);
	view->error_s = (int64_t)view->counters.last_error_s;
}

static bool load_own(const char *run_dir, int dirfd, const char *file, struct cv_view *view)
{
	cv_cleanup_record struct cv_record rec = { 0 };
	const char *colon;

	if (cv_record_load(dirfd, file, &rec, NULL) < 0)
		return false;
	view->own = true;
	view->mounts = 1;
	judge(view, run_dir, &rec);
	colon = strchr(rec.source, ':');
	view->backend = strndup(rec.source, colon ? (size_t)(colon - rec.source) : 0);
	view->name = cv_steal(&rec.volume);
	view->mountpoint = cv_steal(&rec.mountpoint);
	view->source = cv_steal(&rec.source);
	view->server = cv_steal(&rec.server);
	return view->name && view->mountpoint && view->source && view->server && view->error &&
	       view->backend;
}

static void add_own_mounts(const char *run_dir, struct cv_overview *o)
{
	cv_cleanup_free char *path = cv_sprintf("%s/mounts", run_dir);
	cv_cleanup_closedir DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);
		struct cv_view view = { 0 };
		struct cv_view *bigger = NULL;

		if (len < 6 || strcmp(entry->d_name + len - 5, ".json") != 0)
			continue;
		if (load_own(run_dir, dirfd(dir), entry->d_name, &view))
			bigger = realloc(o->views, (o->count + 1) * sizeof(*bigger));
		if (!bigger) {
			cv_view_release(&view);
			continue;
		}
		o->views = bigger;
		bigger[o->count++] = view;
	}
}

/* ---- all ---- */

int cv_overview_load(const char *socket_path, const char *run_dir, struct cv_overview *ret,
		     struct cv_err *err)
{
	cv_cleanup_overview struct cv_overview o = { .daemon = CV_DICT_INIT };
	cv_cleanup_free char *body = NULL;
	int r = cv_client_call(socket_path, "GET", "/cvol/status", NULL, TIMEOUT_MS, &body, err);

	o.have_daemon = r == 0;
	if (r == 0 && (cv_answer_views(body, &o.views, &o.count) < 0 ||
		       cv_answer_daemon(body, &o.daemon) < 0))
		r = cv_fail(err, EPROTO, "the daemon's answer makes no sense: other version?");
	add_own_mounts(run_dir, &o);
	o.taken_ms = cv_clock_ms();
	*ret = o;
	memset(&o, 0, sizeof(o));
	return r;
}

const struct cv_view *cv_overview_find(const struct cv_overview *o, const struct cv_view *like)
{
	for (size_t i = 0; i < o->count; i++) {
		if (o->views[i].own == like->own && cv_str_eq(o->views[i].name, like->name))
			return &o->views[i];
	}
	return NULL;
}

void cv_overview_rates(const struct cv_overview *before, struct cv_overview *after, bool fresh)
{
	double interval_s = (double)(after->taken_ms - before->taken_ms) / 1000;

	for (size_t i = 0; i < after->count; i++) {
		struct cv_view *v = &after->views[i];
		const struct cv_view *old = cv_overview_find(before, v);

		if (fresh || v->rates.interval_s <= 0) {
			memset(&v->rates, 0, sizeof(v->rates));
			if (old && old->counted && v->counted)
				(void)cv_rates_between(&old->counters, &v->counters, interval_s,
						       &v->rates);
		}
	}
}
