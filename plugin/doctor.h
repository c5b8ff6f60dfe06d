/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Findings of `cvol doctor`: what was looked at, how it is, what to do about it. Printed as they
 * come, or collected for --json.
 */
#ifndef CV_PLUGIN_DOCTOR_H
#define CV_PLUGIN_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

#include "config/dict.h"
#include "config/err.h"

enum cv_finding_result {
	CV_FINDING_OK,
	CV_FINDING_NOTE,    /* worth knowing */
	CV_FINDING_WARNING, /* works, but not as it should */
	CV_FINDING_FAILED,
	CV_FINDING_RESULTS
};
const char *cv_finding_name(enum cv_finding_result result);
int cv_finding_parse(const char *name, enum cv_finding_result *ret); /* 0 or -EINVAL */

struct cv_finding {
	char *group; /* owned, as all: "environment", or what was asked about */
	char *name;
	enum cv_finding_result result;
	double ms; /* negative: not measured */
	char *text;
	char *cure; /* "" if there is nothing to do */
};

struct cv_doctor {
	bool json;
	bool colours;
	bool progress; /* standard output is a terminal: show what is being done */
	char *group;   /* owned */
	struct cv_finding *findings;
	size_t count;
	size_t results[CV_FINDING_RESULTS]; /* how many of each */
	struct cv_dict estimate; /* rtt_us, read_bytes_per_s, write_bytes_per_s, server */
};
void cv_doctor_release(struct cv_doctor *doctor);

void cv_doctor_group(struct cv_doctor *doctor, const char *group);
/* Is being looked at. */
void cv_doctor_begin(struct cv_doctor *doctor, const char *name);
/* cure: NULL for none. */
__attribute__((format(printf, 6, 7))) void cv_doctor_end(struct cv_doctor *doctor, const char *name,
							 enum cv_finding_result result, double ms,
							 const char *cure, const char *fmt, ...);
/* {"ok", "checks", "estimate"}; NULL: out of memory. Caller frees. */
char *cv_doctor_format(const struct cv_doctor *doctor);

struct cv_doctor_place {
	const char *socket;
	const char *state_dir;
	const char *run_dir;
	const char *config_dir;
	const char *worker; /* NULL: the usual one */
};

/* doctor_env.c: this host, and cvol on it. */
void cv_doctor_environment(struct cv_doctor *doctor, const struct cv_doctor_place *place);
/* doctor_probe.c: a source, through a worker that mounts nothing. options: complete. */
void cv_doctor_probe(struct cv_doctor *doctor, const struct cv_doctor_place *place,
		     const struct cv_dict *options, bool write);

#endif
