/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/metrics.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/cleanup.h"
#include "config/str.h"

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };

static void head(FILE *out, const char *name, enum kind kind, const char *help)
{
	static const char *const kinds[] = { "counter", "gauge", "histogram" };

	(void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kinds[kind]);
}

/* A label's value: UTF-8, with what the format needs escaped. */
static void put_value(FILE *out, const char *text)
{
	bool utf8 = cv_str_is_utf8(text);

	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '\\' || c == '"')
			(void)fprintf(out, "\\%c", c);
		else if (c == '\n')
			(void)fputs("\\n", out);
		else
			(void)fputc(c >= 0x80 && !utf8 ? '?' : c, out);
	}
}

/* name{volume="…",key="value"}; key may be NULL. The number follows. */
static void sample(FILE *out, const char *name, const struct cv_view *v, const char *key,
		   const char *value)
{
	(void)fprintf(out, "%s{volume=\"", name);
	put_value(out, v->name);
	if (key) {
		(void)fprintf(out, "\",%s=\"", key);
		put_value(out, value);
	}
	(void)fputs("\"} ", out);
}

/* ---- about volumes, mounted or not ---- */

static void put_info(FILE *out, const struct cv_view *views, size_t count)
{
	head(out, "cvol_volume_info", KIND_GAUGE, "Always 1; what a volume is.");
	for (size_t i = 0; i < count; i++) {
		(void)fputs("cvol_volume_info{volume=\"", out);
		put_value(out, views[i].name);
		(void)fputs("\",backend=\"", out);
		put_value(out, views[i].backend);
		(void)fputs("\",source=\"", out);
		put_value(out, views[i].source);
		(void)fputs("\"} 1\n", out);
	}
}

static void put_states(FILE *out, const struct cv_view *views, size_t count)
{
	head(out, "cvol_volume_state", KIND_GAUGE, "1 for the state a volume is in, 0 for others.");
	for (size_t i = 0; i < count; i++) {
		for (int s = 0; s < CV_VOLUME_STATES; s++) {
			sample(out, "cvol_volume_state", &views[i], "state",
			       cv_volume_state_name((enum cv_volume_state)s));
			(void)fprintf(out, "%d\n", (int)views[i].state == s);
		}
	}
	head(out, "cvol_volume_users", KIND_GAUGE, "Mounts that Docker or Podman has asked for.");
	for (size_t i = 0; i < count; i++) {
		sample(out, "cvol_volume_users", &views[i], NULL, NULL);
		(void)fprintf(out, "%u\n", views[i].mounts);
	}
	head(out, "cvol_last_error_timestamp_seconds", KIND_GAUGE, "When something failed last.");
	for (size_t i = 0; i < count; i++) {
		if (!views[i].error_s)
			continue;
		sample(out, "cvol_last_error_timestamp_seconds", &views[i], NULL, NULL);
		(void)fprintf(out, "%" PRId64 "\n", views[i].error_s);
	}
}

/* ---- about mounts ---- */

#define AT(member) offsetof(struct cv_counters, member)

static const struct {
	const char *name;
	enum kind kind;
	const char *help;
	size_t at;
	double unit; /* what the number is multiplied with */
} simple[] = {
	{ "cvol_read_bytes_total", KIND_COUNTER, "Bytes read from the server.", AT(bytes_read), 1 },
	{ "cvol_written_bytes_total", KIND_COUNTER, "Bytes written to the server.",
	  AT(bytes_written), 1 },
	{ "cvol_operations_in_flight", KIND_GAUGE, "Operations the server has not answered.",
	  AT(in_flight), 1 },
	{ "cvol_requests_total", KIND_COUNTER, "Requests of the kernel answered.", AT(requests),
	  1 },
	{ "cvol_requests_waiting", KIND_GAUGE, "Requests of the kernel being worked on.",
	  AT(waiting), 1 },
	{ "cvol_pending_write_bytes", KIND_GAUGE, "Written bytes that are not on the server yet.",
	  AT(pending_bytes), 1 },
	{ "cvol_write_errors_total", KIND_COUNTER, "Delayed writes that the server refused.",
	  AT(write_errors), 1 },
	{ "cvol_connected", KIND_GAUGE, "1 while there is a connection to the server.",
	  AT(connected), 1 },
	{ "cvol_reconnects_total", KIND_COUNTER, "Connections made anew.", AT(reconnects), 1 },
	{ "cvol_round_trip_seconds", KIND_GAUGE, "Round trip measured when connecting.", AT(rtt_us),
	  1e-6 },
	{ "cvol_workers_total", KIND_COUNTER, "Workers that have served this mount.", AT(workers),
	  1 },
	{ "cvol_mount_start_time_seconds", KIND_GAUGE, "When it was mounted.", AT(started_s), 1 },
	{ "cvol_nodes", KIND_GAUGE, "Files and directories the kernel knows.", AT(nodes), 1 },
	{ "cvol_open_handles", KIND_GAUGE, "Open files and directories.", AT(handles), 1 },
};

static void put_simple(FILE *out, const struct cv_view *views, size_t count)
{
	for (size_t m = 0; m < CV_ARRAY_SIZE(simple); m++) {
		head(out, simple[m].name, simple[m].kind, simple[m].help);
		for (size_t i = 0; i < count; i++) {
			const uint64_t *n =
				(const void *)((const char *)&views[i].counters + simple[m].at);

			if (!views[i].counted)
				continue;
			sample(out, simple[m].name, &views[i], NULL, NULL);
			if (simple[m].unit < 1)
				(void)fprintf(out, "%.6f\n", (double)*n * simple[m].unit);
			else
				(void)fprintf(out, "%" PRIu64 "\n", *n);
		}
	}
}

static void put_calls(FILE *out, const struct cv_view *views, size_t count, const char *name,
		      const char *help, bool errors)
{
	head(out, name, KIND_COUNTER, help);
	for (size_t i = 0; i < count; i++) {
		for (int c = 0; views[i].counted && c < CV_CALL_COUNT; c++) {
			const struct cv_call_counters *call = &views[i].counters.calls[c];

			/* A volume without symbolic links needs no series about them. */
			if (!call->done)
				continue;
			sample(out, name, &views[i], "operation", cv_call_name((enum cv_call)c));
			(void)fprintf(out, "%" PRIu64 "\n", errors ? call->errors : call->done);
		}
	}
}

static void put_caches(FILE *out, const struct cv_view *views, size_t count, const char *name,
		       const char *help, bool hits)
{
	head(out, name, KIND_COUNTER, help);
	for (size_t i = 0; i < count; i++) {
		for (int c = 0; views[i].counted && c < CV_CACHE_COUNT; c++) {
			const struct cv_cache_counters *cache = &views[i].counters.caches[c];

			sample(out, name, &views[i], "cache", cv_cache_name((enum cv_cache)c));
			(void)fprintf(out, "%" PRIu64 "\n", hits ? cache->hits : cache->misses);
		}
	}
}

static void put_histogram(FILE *out, const struct cv_view *v, enum cv_latency_class latency_class)
{
	const struct cv_histogram *h = &v->counters.latency[latency_class];
	const char *name = cv_latency_name(latency_class);
	uint64_t total = 0;

	for (size_t b = 0; b < CV_BUCKETS; b++) {
		total += h->bucket[b];
		(void)fputs("cvol_operation_duration_seconds_bucket{volume=\"", out);
		put_value(out, v->name);
		(void)fprintf(out, "\",class=\"%s\",le=\"", name);
		if (cv_bucket_bounds_us[b])
			(void)fprintf(out, "%g", (double)cv_bucket_bounds_us[b] / 1e6);
		else
			(void)fputs("+Inf", out);
		(void)fprintf(out, "\"} %" PRIu64 "\n", total);
	}
	sample(out, "cvol_operation_duration_seconds_sum", v, "class", name);
	(void)fprintf(out, "%.9f\n", (double)h->sum_ns / 1e9);
	sample(out, "cvol_operation_duration_seconds_count", v, "class", name);
	(void)fprintf(out, "%" PRIu64 "\n", total);
}

static void put_all(FILE *out, const struct cv_view *views, size_t count)
{
	head(out, "cvol_build_info", KIND_GAUGE, "Always 1; the daemon's version.");
	(void)fputs("cvol_build_info{version=\"" CV_VERSION "\"} 1\n", out);
	put_info(out, views, count);
	put_states(out, views, count);
	put_calls(out, views, count, "cvol_operations_total", "Operations of the storage engine.",
		  false);
	put_calls(out, views, count, "cvol_operation_errors_total",
		  "Operations that failed; answers such as 'no such file' are none.", true);
	put_simple(out, views, count);
	put_caches(out, views, count, "cvol_cache_hits_total", "Answered from a cache.", true);
	put_caches(out, views, count, "cvol_cache_misses_total", "Not answered from a cache.",
		   false);
	head(out, "cvol_operation_duration_seconds", KIND_HISTOGRAM,
	     "How long operations of the storage engine took.");
	for (size_t i = 0; i < count; i++) {
		for (int c = 0; views[i].counted && c < CV_LATENCY_COUNT; c++)
			put_histogram(out, &views[i], (enum cv_latency_class)c);
	}
}

char *cv_metrics_format(const struct cv_view *views, size_t count)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	bool failed;

	if (!out)
		return NULL;
	put_all(out, views, count);
	failed = ferror(out) != 0;
	if (fclose(out) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}
