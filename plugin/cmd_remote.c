/* SPDX-License-Identifier: Apache-2.0 */
/* cvol remote: the places an administrator has named, and whether they can be reached. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/files.h"
#include "plugin/json.h"
#include "plugin/remotes.h"
#include "plugin/supervisor.h"

#define TEST_MS 20000

struct remote_args {
	const char *config_dir;
	const char *run_dir;
	const char *worker_path;
	bool json;
};

/* {"name": …, "source": …, "default": …, "options": {…}} or {"name": …, "error": …} */
static struct json_object *describe(const struct remote_args *a, const char *name,
				    const char *default_remote)
{
	cv_cleanup_json struct json_object *root = json_object_new_object();
	cv_cleanup_remote struct cv_remote remote = CV_REMOTE_INIT;
	cv_cleanup_free char *source = NULL;
	struct cv_err err = { 0 };
	bool ok = root && cv_json_add_text(root, "name", name) &&
		  cv_json_add(root, "default",
			      json_object_new_boolean(cv_str_eq(name, default_remote)));

	if (cv_remote_load(a->config_dir, name, &remote, &err) < 0) {
		ok = ok && cv_json_add_text(root, "error", err.text);
		return ok ? cv_steal(&root) : NULL;
	}
	source = cv_source_format(&remote.options);
	ok = ok && source && cv_json_add_text(root, "source", source) &&
	     cv_json_add_text(root, "description", remote.description) &&
	     cv_json_add_dict(root, "options", &remote.options);
	return ok ? cv_steal(&root) : NULL;
}

static void print_remote(struct json_object *o)
{
	struct json_object *value;
	const char *name = json_object_get_string(json_object_object_get(o, "name"));
	bool is_default = json_object_get_boolean(json_object_object_get(o, "default"));

	(void)printf("%-20s ", name);
	if (json_object_object_get_ex(o, "error", &value)) {
		(void)printf("! %s\n", json_object_get_string(value));
		return;
	}
	(void)printf("%s%s", json_object_get_string(json_object_object_get(o, "source")),
		     is_default ? " (default)" : "");
	value = json_object_object_get(o, "description");
	if (value && json_object_get_string_len(value))
		(void)printf("  %s", json_object_get_string(value));
	(void)putchar('\n');
}

static int print_json(struct json_object *object)
{
	cv_cleanup_free char *text = cv_json_format(object, object != NULL);

	(void)fputs(text ? text : "", stdout);
	return text ? CV_EXIT_OK : CV_EXIT_FAILURE;
}

static int list(const struct remote_args *a)
{
	cv_cleanup_json struct json_object *array = json_object_new_array();
	cv_cleanup_site struct cv_site site = CV_SITE_INIT;
	struct cv_err err = { 0 };
	char **names = NULL;
	bool found = false;

	if (cv_site_load(a->config_dir, &site, &err) == 0)
		names = cv_remote_names(a->config_dir, &err);
	if (!names)
		return cv_print_failure(&err);
	for (size_t i = 0; array && names[i]; i++) {
		struct json_object *o = describe(a, names[i], site.default_remote);

		found = found || cv_str_eq(names[i], site.default_remote);
		if (o && !a->json)
			print_remote(o);
		if (!o || json_object_array_add(array, o) != 0)
			(void)json_object_put(o);
	}
	cv_remote_names_free(names);
	if (a->json)
		return print_json(array);
	if (site.default_remote && !found)
		(void)printf("%-20s ! is the default in cvol.json, but there is no such remote\n",
			     site.default_remote);
	if (!site.default_remote)
		(void)puts("(default)            a directory on this host, below the state "
			   "directory");
	return CV_EXIT_OK;
}

static int show(const struct remote_args *a, const char *name)
{
	cv_cleanup_remote struct cv_remote remote = CV_REMOTE_INIT;
	cv_cleanup_free char *source = NULL;
	struct cv_err err = { 0 };

	if (cv_remote_load(a->config_dir, name, &remote, &err) < 0)
		return cv_print_failure(&err);
	if (a->json) {
		cv_cleanup_site struct cv_site site = CV_SITE_INIT;
		cv_cleanup_json struct json_object *o = NULL;

		(void)cv_site_load(a->config_dir, &site, NULL);
		o = describe(a, name, site.default_remote);
		return print_json(o);
	}
	source = cv_source_format(&remote.options);
	(void)printf("%s: %s\n", name, source ? source : "?");
	if (*remote.description)
		(void)printf("  %s\n", remote.description);
	for (size_t i = 0; i < remote.options.count; i++)
		(void)printf("  %s=%s\n", remote.options.items[i].key,
			     remote.options.items[i].value);
	return CV_EXIT_OK;
}

/* A supervisor of this process's own, for one connection. */
static int connect_once(const struct remote_args *a, const char *name,
			const struct cv_dict *options, struct cv_dict *ret_ready,
			struct cv_err *err)
{
	cv_cleanup_free char *sockets = cv_sprintf("%s/probe", a->run_dir);
	struct cv_supervisor_config config = { .worker_path = a->worker_path,
					       .socket_dir = sockets,
					       .worker_stderr = -1 };
	struct cv_mount_spec spec = {
		.volume = name,
		.options = options,
		.timeout_ms = (unsigned)cv_options_ms(options, "mount_timeout", TEST_MS),
	};
	struct cv_supervisor *sup = NULL;
	int r = sockets ? cv_mkdir_p(a->run_dir, 0711, err) : cv_fail(err, ENOMEM, "out of memory");

	if (r == 0)
		r = cv_supervisor_new(&config, &sup, err);
	if (r < 0)
		return r;
	r = cv_supervisor_probe(sup, &spec, ret_ready, err);
	cv_supervisor_free(sup);
	(void)rmdir(sockets);
	return r;
}

static int test(const struct remote_args *a, const char *name)
{
	cv_cleanup_dict struct cv_dict stored = CV_DICT_INIT, options = CV_DICT_INIT;
	cv_cleanup_dict struct cv_dict ready = CV_DICT_INIT;
	cv_cleanup_json struct json_object *o = json_object_new_object();
	cv_cleanup_free char *source = NULL;
	struct cv_err err = { 0 };
	const char *rtt;
	int r = cv_dict_set(&stored, "remote", name);

	if (r == 0)
		r = cv_remotes_resolve(a->config_dir, name, &stored, &options, &err);
	source = r == 0 ? cv_source_format(&options) : NULL;
	(void)cv_dict_remove(&options, "subdir"); /* a test creates nothing */
	if (r == 0)
		r = connect_once(a, name, &options, &ready, &err);
	if (a->json) {
		bool ok = o && cv_json_add_text(o, "name", name) &&
			  cv_json_add(o, "ok", json_object_new_boolean(r == 0)) &&
			  (!source || cv_json_add_text(o, "source", source)) &&
			  (r < 0 ? cv_json_add_text(o, "error", err.text)
				 : cv_json_add_text(o, "server",
						    cv_options_str(&ready, "server", "")) &&
					   cv_json_add_number(
						   o, "rtt_us",
						   (int64_t)cv_options_uint(&ready, "rtt_us", 0)));

		(void)print_json(ok ? o : NULL);
		return r < 0 ? CV_EXIT_FAILURE : CV_EXIT_OK;
	}
	if (r < 0) {
		(void)cv_fail_context(&err, "remote '%s'%s%s%s", name, source ? " (" : "",
				      source ? source : "", source ? ")" : "");
		return cv_print_failure(&err);
	}
	rtt = cv_options_str(&ready, "rtt_us", "0");
	(void)printf("%s: ok: %s: %s", name, source, cv_options_str(&ready, "server", ""));
	if (!cv_str_eq(rtt, "0"))
		(void)printf(", round trip %s us", rtt);
	(void)putchar('\n');
	return CV_EXIT_OK;
}

static int dispatch(const struct remote_args *a, int count, char **words)
{
	int worst = CV_EXIT_OK;

	if (count == 0)
		return cv_usage_error(&cv_cmd_remote, "ls, show or test?");
	if (cv_str_eq(words[0], "ls") || cv_str_eq(words[0], "list"))
		return count == 1 ? list(a) : cv_usage_error(&cv_cmd_remote, "ls takes no name");
	if (!cv_str_eq(words[0], "show") && !cv_str_eq(words[0], "test"))
		return cv_usage_error(&cv_cmd_remote, "unknown command '%s'", words[0]);
	if (count == 1)
		return cv_usage_error(&cv_cmd_remote, "the name of a remote is missing");
	for (int i = 1; i < count; i++) {
		int r = *words[0] == 's' ? show(a, words[i]) : test(a, words[i]);

		worst = r > worst ? r : worst;
	}
	return worst;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "config-dir", required_argument, NULL, 'C' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ "worker", required_argument, NULL, 'w' },
		{ 0 },
	};
	struct remote_args a = { .config_dir = CV_DEFAULT_CONFIG_DIR,
				 .run_dir = CV_DEFAULT_RUN_DIR };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			a.json = true;
			break;
		case 'C':
			a.config_dir = optarg;
			break;
		case 'r':
			a.run_dir = optarg;
			break;
		case 'w':
			a.worker_path = optarg;
			break;
		default:
			return cv_usage_error(&cv_cmd_remote, "unknown or incomplete option %s",
					      argv[optind - 1]);
		}
	}
	return dispatch(&a, argc - optind, argv + optind);
}

const struct cv_command cv_cmd_remote = {
	.name = "remote",
	.args = "ls | show NAME… | test NAME… [--json] [--config-dir DIR]",
	.summary = "List, show and test the remotes named in /etc/cvol",
	.help = "test connects as a mount would, and creates nothing.\n\n"
		"  --json            for programs\n"
		"  --config-dir DIR  where cvol.json and remotes.d are (" CV_DEFAULT_CONFIG_DIR
		")\n",
	.run = run,
};
