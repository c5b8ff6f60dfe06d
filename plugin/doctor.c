/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/doctor.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/json.h"
#include "plugin/table.h"

#define NAME_WIDTH 28

static const struct {
	const char *name;
	const char *mark;
	enum cv_colour colour;
} results[CV_FINDING_RESULTS] = {
	[CV_FINDING_OK] = { "ok", "✓", CV_GREEN },
	[CV_FINDING_NOTE] = { "note", "·", CV_DIM },
	[CV_FINDING_WARNING] = { "warning", "!", CV_YELLOW },
	[CV_FINDING_FAILED] = { "failed", "✗", CV_RED },
};

const char *cv_finding_name(enum cv_finding_result result)
{
	return results[result].name;
}

int cv_finding_parse(const char *name, enum cv_finding_result *ret)
{
	for (int i = 0; i < CV_FINDING_RESULTS; i++) {
		if (cv_str_eq(name, results[i].name)) {
			*ret = (enum cv_finding_result)i;
			return 0;
		}
	}
	return -EINVAL;
}

void cv_doctor_release(struct cv_doctor *d)
{
	for (size_t i = 0; i < d->count; i++) {
		free(d->findings[i].group);
		free(d->findings[i].name);
		free(d->findings[i].text);
		free(d->findings[i].cure);
	}
	free(d->findings);
	free(d->group);
	cv_dict_release(&d->estimate);
	memset(d, 0, sizeof(*d));
}

void cv_doctor_group(struct cv_doctor *d, const char *group)
{
	free(d->group);
	d->group = strdup(group);
	if (!d->json)
		(void)printf("%s%s%s%s\n", d->count ? "\n" : "", cv_colour_on(d->colours, CV_BOLD),
			     group, cv_colour_off(d->colours));
}

void cv_doctor_begin(struct cv_doctor *d, const char *name)
{
	if (!d->json && d->progress) {
		(void)printf("  … %s", name);
		(void)fflush(stdout);
	}
}

static void print_finding(const struct cv_doctor *d, const struct cv_finding *f)
{
	char took[CV_HUMAN] = "", us[CV_HUMAN];

	if (f->ms >= 0)
		(void)snprintf(took, sizeof(took), "%s",
			       cv_human_us(f->ms < 0.001 ? 1 : f->ms * 1000, us));
	(void)printf("%s  %s%s%s %-*s %8s  %s\n", d->progress ? "\r\033[K" : "",
		     cv_colour_on(d->colours, results[f->result].colour), results[f->result].mark,
		     cv_colour_off(d->colours), NAME_WIDTH, f->name, took, f->text);
	if (*f->cure)
		(void)printf("    → %s\n", f->cure);
	(void)fflush(stdout);
}

void cv_doctor_end(struct cv_doctor *d, const char *name, enum cv_finding_result result, double ms,
		   const char *cure, const char *fmt, ...)
{
	struct cv_finding *more = realloc(d->findings, (d->count + 1) * sizeof(*more));
	struct cv_finding *f;
	va_list ap;

	d->results[result]++;
	if (!more)
		return;
	d->findings = more;
	f = &more[d->count];
	*f = (struct cv_finding){ .group = strdup(d->group ? d->group : ""),
				  .name = strdup(name),
				  .result = result,
				  .ms = ms,
				  .cure = strdup(cure ? cure : "") };
	va_start(ap, fmt);
	if (vasprintf(&f->text, fmt, ap) < 0)
		f->text = NULL;
	va_end(ap);
	if (!f->group || !f->name || !f->cure || !f->text) {
		free(f->group);
		free(f->name);
		free(f->cure);
		free(f->text);
		return;
	}
	d->count++;
	if (!d->json)
		print_finding(d, f);
}

static struct json_object *finding_object(const struct cv_finding *f)
{
	cv_cleanup_json struct json_object *o = json_object_new_object();
	bool ok = o && cv_json_add_text(o, "group", f->group) &&
		  cv_json_add_text(o, "name", f->name) &&
		  cv_json_add_text(o, "result", cv_finding_name(f->result)) &&
		  cv_json_add_text(o, "text", f->text) && cv_json_add_text(o, "cure", f->cure);

	if (ok && f->ms >= 0) {
		char text[32];

		(void)snprintf(text, sizeof(text), "%.3f", f->ms);
		ok = cv_json_add(o, "ms", json_object_new_double_s(f->ms, text));
	}
	return ok ? cv_steal(&o) : NULL;
}

char *cv_doctor_format(const struct cv_doctor *d)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();
	struct json_object *checks = json_object_new_array();
	struct json_object *estimate = json_object_new_object();
	bool ok = root &&
		  cv_json_add(root, "ok",
			      json_object_new_boolean(d->results[CV_FINDING_FAILED] == 0)) &&
		  checks && estimate;

	for (size_t i = 0; ok && i < d->count; i++)
		ok = json_object_array_add(checks, finding_object(&d->findings[i])) == 0;
	for (size_t i = 0; ok && i < d->estimate.count; i++) {
		const char *value = d->estimate.items[i].value;
		uint64_t number;

		ok = cv_parse_u64(value, 10, UINT64_MAX, &number) == 0
			     ? cv_json_add(estimate, d->estimate.items[i].key,
					   json_object_new_uint64(number))
			     : cv_json_add_text(estimate, d->estimate.items[i].key, value);
	}
	if (!ok) {
		(void)json_object_put(checks);
		(void)json_object_put(estimate);
		return NULL;
	}
	ok = cv_json_add(root, "checks", checks);
	ok = cv_json_add(root, "estimate", estimate) && ok;
	return cv_json_format(root, ok);
}
