/* SPDX-License-Identifier: Apache-2.0 */
/* cvol volume: the daemon's volumes without Docker in between. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/dict.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/client.h"
#include "plugin/cmd.h"
#include "plugin/message.h"

#define TIMEOUT_MS	  10000
#define CREATE_TIMEOUT_MS 60000 /* with check=true it connects */
#define UPDATE_TIMEOUT_MS 20000
#define REMOVE_TIMEOUT_MS 60000

struct arguments {
	const char *socket_path;
	bool json;
	struct cv_dict opts;
	const char *unset; /* names of options; NULL: none */
};

static int call(const struct arguments *a, const char *path, const char *name,
		const struct cv_dict *opts, int timeout_ms, char **ret_body, struct cv_err *err)
{
	cv_cleanup_free char *body = cv_message_request(name, a->unset, opts);

	if (!body)
		return cv_fail(err, ENOMEM, "out of memory");
	return cv_client_call(a->socket_path, "POST", path, body, timeout_ms, ret_body, err);
}

static int create(const struct arguments *a, const char *name)
{
	cv_cleanup_free char *body = NULL;
	struct cv_err err = { 0 };

	if (call(a, "/VolumeDriver.Create", name, &a->opts, CREATE_TIMEOUT_MS, &body, &err) < 0)
		return cv_print_failure(&err);
	(void)puts(name);
	return CV_EXIT_OK;
}

static int update(const struct arguments *a, const char *name)
{
	cv_cleanup_free char *body = NULL;
	cv_cleanup_free char *text = NULL;
	struct cv_err err = { 0 };

	if (!a->opts.count && !a->unset)
		return cv_usage_error(&cv_cmd_volume, "what is to change? (-o, --unset)");
	if (call(a, "/cvol/update", name, &a->opts, UPDATE_TIMEOUT_MS, &body, &err) < 0)
		return cv_print_failure(&err);
	text = cv_answer_text(body);
	(void)printf("%s: %s\n", name, text ? text : "updated");
	return CV_EXIT_OK;
}

static int list(const struct arguments *a)
{
	cv_cleanup_free char *body = NULL;
	struct cv_view *views = NULL;
	struct cv_err err = { 0 };
	size_t count = 0;

	if (call(a, "/VolumeDriver.List", NULL, NULL, TIMEOUT_MS, &body, &err) < 0)
		return cv_print_failure(&err);
	if (a->json) {
		cv_cleanup_free char *pretty = cv_answer_pretty(body, "Volumes");

		(void)fputs(pretty ? pretty : body, stdout);
		return CV_EXIT_OK;
	}
	if (cv_answer_views(body, &views, &count) < 0) {
		(void)cv_fail(&err, EPROTO, "the daemon's answer makes no sense: other version?");
		return cv_print_failure(&err);
	}
	for (size_t i = 0; i < count; i++)
		(void)puts(views[i].name);
	cv_views_free(views, count);
	return CV_EXIT_OK;
}

static int inspect(const struct arguments *a, const char *name)
{
	cv_cleanup_free char *body = NULL;
	cv_cleanup_free char *pretty = NULL;
	struct cv_err err = { 0 };

	if (call(a, "/VolumeDriver.Get", name, NULL, TIMEOUT_MS, &body, &err) < 0)
		return cv_print_failure(&err);
	pretty = cv_answer_pretty(body, "Volume");
	(void)fputs(pretty ? pretty : body, stdout);
	return CV_EXIT_OK;
}

static int remove_one(const struct arguments *a, const char *name)
{
	cv_cleanup_free char *body = NULL;
	struct cv_err err = { 0 };

	if (call(a, "/VolumeDriver.Remove", name, NULL, REMOVE_TIMEOUT_MS, &body, &err) < 0)
		return cv_print_failure(&err);
	(void)puts(name);
	return CV_EXIT_OK;
}

static bool is_verb(const char *word)
{
	static const char *const verbs[] = { "create",	"update", "ls",	   "list",
					     "inspect", "rm",	  "remove" };

	for (size_t i = 0; i < CV_ARRAY_SIZE(verbs); i++) {
		if (cv_str_eq(word, verbs[i]))
			return true;
	}
	return false;
}

static int dispatch(const struct arguments *a, int count, char **words)
{
	int worst = CV_EXIT_OK;

	if (count == 1 && (cv_str_eq(words[0], "ls") || cv_str_eq(words[0], "list")))
		return list(a);
	if (count == 2 && cv_str_eq(words[0], "create"))
		return create(a, words[1]);
	if (count == 2 && cv_str_eq(words[0], "update"))
		return update(a, words[1]);
	if (count == 0)
		return cv_usage_error(&cv_cmd_volume, "create, update, ls, inspect or rm?");
	if (!is_verb(words[0]))
		return cv_usage_error(&cv_cmd_volume, "unknown command '%s'", words[0]);
	if (count == 1)
		return cv_usage_error(&cv_cmd_volume, "the name of a volume is missing");
	for (int i = 1; i < count; i++) {
		int r;

		if (cv_str_eq(words[0], "inspect"))
			r = inspect(a, words[i]);
		else if (cv_str_eq(words[0], "rm") || cv_str_eq(words[0], "remove"))
			r = remove_one(a, words[i]);
		else
			return cv_usage_error(&cv_cmd_volume, "%s takes %s name", words[0],
					      *words[0] == 'l' ? "no" : "one");
		worst = r > worst ? r : worst;
	}
	return worst;
}

static int parse(struct arguments *a, int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "socket", required_argument, NULL, 's' },
		{ "opt", required_argument, NULL, 'o' },
		{ "unset", required_argument, NULL, 'u' },
		{ 0 },
	};
	struct cv_err err = { 0 };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":o:", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			a->json = true;
			break;
		case 's':
			a->socket_path = optarg;
			break;
		case 'u':
			if (a->unset)
				return cv_usage_error(&cv_cmd_volume,
						      "--unset once, as NAME,NAME,…");
			a->unset = optarg;
			break;
		case 'o':
			if (cv_options_split(optarg, &a->opts, &err) < 0)
				return cv_usage_error(&cv_cmd_volume, "%s", err.text);
			break;
		default:
			return cv_usage_error(&cv_cmd_volume, "unknown or incomplete option %s",
					      argv[optind - 1]);
		}
	}
	return CV_EXIT_OK;
}

static int run(int argc, char **argv)
{
	struct arguments a = { .socket_path = CV_DEFAULT_SOCKET, .opts = CV_DICT_INIT };
	int r = parse(&a, argc, argv);

	if (r == CV_EXIT_OK)
		r = dispatch(&a, argc - optind, argv + optind);
	cv_dict_release(&a.opts);
	return r;
}

const struct cv_command cv_cmd_volume = {
	.name = "volume",
	.args = "create NAME [-o NAME=VALUE]… | update NAME [-o NAME=VALUE]… [--unset NAME,…] | ls "
		"[--json] | inspect NAME… | rm NAME…",
	.summary = "Create, change, list, inspect and remove volumes",
	.help = "  -o NAME=VALUE  an option of the volume; may be repeated (see: cvol options)\n"
		"  --unset NAME,… back to the default\n"
		"  --json         ls for programs\n"
		"  --socket PATH  the daemon's socket (" CV_DEFAULT_SOCKET ")\n\n"
		"update says which changes count at once and which from the next mount on.\n"
		"rm never deletes data: what is on the server stays there.\n",
	.run = run,
};
