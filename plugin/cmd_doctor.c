/* SPDX-License-Identifier: Apache-2.0 */
/* cvol doctor: looks at this host and, step by step, at a volume or source. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/doctor.h"
#include "plugin/names.h"
#include "plugin/remotes.h"
#include "plugin/state.h"
#include "plugin/table.h"

struct args {
	struct cv_doctor_place place;
	struct cv_dict given; /* -o */
	bool json;
	bool read_only;
};

static bool is_source(const char *what)
{
	return strstr(what, "://") || strchr(what, ':');
}

/* A volume of the daemon, from its state file: that works without the daemon, too. */
static int volume_options(const struct args *a, const char *name, struct cv_dict *ret,
			  struct cv_err *err)
{
	cv_cleanup_state struct cv_state state = CV_STATE_INIT;
	struct cv_store store = CV_STORE_INIT;
	char encoded[CV_ENCODED_MAX + 1];
	struct stat st;
	int r;

	if (stat(a->place.state_dir, &st) < 0) /* opening the store would make it */
		return cv_fail(err, errno, "%s: %s", a->place.state_dir, cv_strerror(errno));
	cv_name_encode(name, CV_ENCODED_MAX, encoded);
	r = cv_store_open(a->place.state_dir, &store, err);
	if (r < 0)
		return r;
	r = cv_store_load(&store, encoded, &state, err);
	cv_store_release(&store);
	if (r == -ENOENT)
		return cv_fail(
			err, ENOENT,
			"there is no volume '%s'; a source is written as nfs://host/export or "
			"user@host:/path",
			name);
	return r < 0 ? r : cv_remotes_resolve(a->place.config_dir, name, &state.options, ret, err);
}

static int source_options(const struct args *a, const char *source, struct cv_dict *ret,
			  struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict all = CV_DICT_INIT, parsed = CV_DICT_INIT;
	int r = cv_dict_copy(&all, &a->given);

	if (r == 0)
		r = cv_dict_set(&all, "source", source);
	if (r < 0)
		return cv_fail(err, -r, "options: %s", cv_strerror(r));
	r = cv_options_parse(&all, &parsed, err);
	if (r == 0 && !cv_dict_get(&parsed, "type") && !cv_dict_get(&parsed, "remote"))
		r = cv_fail(err, EINVAL, "'%s' is not a source", source);
	return r < 0 ? r : cv_remotes_resolve(a->place.config_dir, "doctor", &parsed, ret, err);
}

static void probe(const struct args *a, struct cv_doctor *d, const char *what)
{
	cv_cleanup_dict struct cv_dict options = CV_DICT_INIT;
	struct cv_err err = { 0 };
	int r = is_source(what) || a->given.count ? source_options(a, what, &options, &err)
						  : volume_options(a, what, &options, &err);

	cv_doctor_group(d, what);
	if (r < 0)
		cv_doctor_end(d, "options", CV_FINDING_FAILED, -1, NULL, "%s", err.text);
	else
		cv_doctor_probe(d, &a->place, &options, !a->read_only);
}

static double number(const struct cv_dict *dict, const char *key)
{
	const char *text = cv_dict_get(dict, key);
	uint64_t n;

	return text && cv_parse_u64(text, 10, UINT64_MAX, &n) == 0 ? (double)n : 0;
}

static void print_estimate(const struct cv_doctor *d)
{
	double rtt = number(&d->estimate, "rtt_us");
	double in = number(&d->estimate, "read_bytes_per_s");
	double out = number(&d->estimate, "write_bytes_per_s");
	char a[CV_HUMAN], b[CV_HUMAN];

	if (rtt > 0)
		(void)printf("\nEstimate: %s for each question to the server", cv_human_us(rtt, a));
	if (rtt > 0 && in > 0)
		(void)printf("; large files %s/s in, %s/s out", cv_human_bytes(in, a),
			     cv_human_bytes(out, b));
	if (rtt > 0)
		(void)puts(".");
	(void)printf("\n%zu ok, %zu to know, %zu warnings, %zu failed\n", d->results[CV_FINDING_OK],
		     d->results[CV_FINDING_NOTE], d->results[CV_FINDING_WARNING],
		     d->results[CV_FINDING_FAILED]);
}

static int examine(const struct args *a, const char *what)
{
	struct cv_doctor d = { .json = a->json,
			       .colours = cv_colour_wanted(),
			       .progress = cv_terminal_width() > 0,
			       .estimate = CV_DICT_INIT };
	cv_cleanup_free char *text = NULL;
	bool failed;

	cv_doctor_environment(&d, &a->place);
	if (what)
		probe(a, &d, what);
	failed = d.results[CV_FINDING_FAILED] > 0;
	if (!a->json) {
		print_estimate(&d);
	} else {
		text = cv_doctor_format(&d);
		if (!text || fputs(text, stdout) < 0)
			failed = true;
	}
	cv_doctor_release(&d);
	return failed ? CV_EXIT_FAILURE : CV_EXIT_OK;
}

static int parse(struct args *a, int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "no-write", no_argument, NULL, 'n' },
		{ "opt", required_argument, NULL, 'o' },
		{ "socket", required_argument, NULL, 's' },
		{ "state-dir", required_argument, NULL, 'S' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ "config-dir", required_argument, NULL, 'C' },
		{ "worker", required_argument, NULL, 'w' },
		{ "log-level", required_argument, NULL, 'l' },
		{ 0 },
	};
	enum cv_log_level level = CV_LOG_WARNING;
	struct cv_err err = { 0 };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":no:", options, NULL)) != -1) {
		if (c == 'j')
			a->json = true;
		else if (c == 'n')
			a->read_only = true;
		else if (c == 's')
			a->place.socket = optarg;
		else if (c == 'S')
			a->place.state_dir = optarg;
		else if (c == 'r')
			a->place.run_dir = optarg;
		else if (c == 'C')
			a->place.config_dir = optarg;
		else if (c == 'w')
			a->place.worker = optarg;
		else if (c == 'l' && cv_log_level_parse(optarg, &level) < 0)
			return cv_usage_error(&cv_cmd_doctor, "unknown log level '%s'", optarg);
		else if (c == 'o' && cv_options_split(optarg, &a->given, &err) < 0)
			return cv_usage_error(&cv_cmd_doctor, "%s", err.text);
		else if (c == '?' || c == ':')
			return cv_usage_error(&cv_cmd_doctor, "unknown or incomplete option %s",
					      argv[optind - 1]);
	}
	if (argc - optind > 1)
		return cv_usage_error(&cv_cmd_doctor, "expected at most one VOLUME or SOURCE");
	if (a->given.count && argc == optind)
		return cv_usage_error(&cv_cmd_doctor, "-o needs a SOURCE");
	cv_log_init("cvol", level);
	return CV_EXIT_OK;
}

static int run(int argc, char **argv)
{
	struct args a = { .place = { .socket = CV_DEFAULT_SOCKET,
				     .state_dir = CV_DEFAULT_STATE_DIR,
				     .run_dir = CV_DEFAULT_RUN_DIR,
				     .config_dir = CV_DEFAULT_CONFIG_DIR },
			  .given = CV_DICT_INIT };
	int r = parse(&a, argc, argv);

	if (r == CV_EXIT_OK)
		r = examine(&a, argv[optind]);
	cv_dict_release(&a.given);
	return r;
}

const struct cv_command cv_cmd_doctor = {
	.name = "doctor",
	.args = "[VOLUME|SOURCE] [-o NAME=VALUE[,…]]… [--no-write] [--json]",
	.summary = "Find out what is wrong, and what to do about it",
	.help = "Looks at this host and at cvol on it; with a VOLUME, or a SOURCE as for cvol "
		"mount,\n"
		"also at each step to its server: name, connection, host key, login, export or "
		"path,\n"
		"listing, round trip, space, and how fast a file of 16 MiB is written and read. "
		"Nothing\n"
		"is mounted. Exit status 1 if something failed.\n\n"
		"  -o NAME=VALUE[,…]  options of the SOURCE (see: cvol options); may be repeated\n"
		"  --no-write         make no file on the server\n"
		"  --json             for programs (docs/monitoring.md)\n"
		"  --socket PATH, --state-dir DIR, --run-dir DIR, --config-dir DIR, --worker PATH\n"
		"                     where things are, as for cvol daemon\n"
		"  --log-level LEVEL  debug shows what the worker logs\n",
	.run = run,
};
