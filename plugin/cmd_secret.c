/* SPDX-License-Identifier: Apache-2.0 */
/* cvol secret: passwords and keys that options name as secret:NAME, each in a file for root only.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/files.h"
#include "plugin/json.h"
#include "plugin/remotes.h"

#define SECRET_MAX (64 * 1024)

struct secret_args {
	const char *config_dir;
	bool json;
};

static int open_dir(const struct secret_args *a, struct cv_err *err)
{
	cv_cleanup_free char *path = cv_sprintf("%s/secrets", a->config_dir);
	int r = path ? cv_mkdir_p(a->config_dir, 0755, err) : cv_fail(err, ENOMEM, "out of memory");

	return r < 0 ? r : cv_dir_open(AT_FDCWD, path, 0700, err);
}

/* What is typed is not shown. */
static void set_echo(bool on)
{
	struct termios t;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &t) < 0)
		return;
	t.c_lflag = on ? t.c_lflag | ECHO : t.c_lflag & ~(tcflag_t)ECHO;
	(void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &t);
	(void)fputs(on ? "\n" : "Secret (end with Enter): ", stderr);
}

/* All of standard input, or a line of a terminal. -errno, or the size. */
static ssize_t read_secret(char *buffer, size_t size)
{
	bool tty = isatty(STDIN_FILENO);
	size_t used = 0;
	ssize_t n = 1;

	set_echo(false);
	while (used < size && (n = read(STDIN_FILENO, buffer + used, size - used)) != 0) {
		if (n < 0 && errno != EINTR)
			break;
		used += n > 0 ? (size_t)n : 0;
		if (tty && used && buffer[used - 1] == '\n')
			break;
	}
	n = n < 0 ? -errno : 0;
	set_echo(true);
	if (tty && used && buffer[used - 1] == '\n')
		used--;
	return n < 0 ? n : (ssize_t)used;
}

static int set(const struct secret_args *a, const char *name)
{
	cv_cleanup_close int dir = -1;
	struct cv_err err = { 0 };
	char *buffer = malloc(SECRET_MAX + 1);
	ssize_t n;
	int r;

	if (!buffer) {
		(void)cv_fail(&err, ENOMEM, "out of memory");
		return cv_print_failure(&err);
	}
	n = read_secret(buffer, SECRET_MAX + 1);
	if (n < 0)
		r = cv_fail(&err, (int)-n, "standard input: %s", cv_strerror((int)n));
	else if (n == 0)
		r = cv_fail(&err, EINVAL, "secret '%s': nothing came on standard input", name);
	else if (n > SECRET_MAX)
		r = cv_fail(&err, EFBIG, "secret '%s': more than %d bytes", name, SECRET_MAX);
	else
		r = dir = open_dir(a, &err);
	if (r >= 0) {
		r = cv_file_replace(dir, name, buffer, (size_t)n);
		if (r < 0)
			r = cv_fail(&err, -r, "%s/secrets/%s: %s", a->config_dir, name,
				    cv_strerror(r));
	}
	cv_wipe(buffer, SECRET_MAX + 1);
	free(buffer);
	if (r < 0)
		return cv_print_failure(&err);
	(void)printf("%s is stored; name it as password_file=" CV_SECRET_PREFIX
		     "%s (or key_file, key_passphrase_file)\n",
		     name, name);
	return CV_EXIT_OK;
}

static int is_secret(const struct dirent *entry)
{
	return cv_remote_name_ok(entry->d_name);
}

static int list(const struct secret_args *a)
{
	cv_cleanup_json struct json_object *array = json_object_new_array();
	cv_cleanup_free char *path = cv_sprintf("%s/secrets", a->config_dir);
	cv_cleanup_free char *text = NULL;
	struct dirent **entries = NULL;
	struct cv_err err = { 0 };
	int n = path ? scandir(path, &entries, is_secret, alphasort) : -1;

	if (n < 0 && errno != ENOENT) {
		(void)cv_fail(&err, errno, "%s: %s", path ? path : a->config_dir,
			      cv_strerror(errno));
		return cv_print_failure(&err);
	}
	for (int i = 0; i < n; i++) {
		struct json_object *name = json_object_new_string(entries[i]->d_name);

		if (!a->json)
			(void)puts(entries[i]->d_name);
		if (!array || json_object_array_add(array, name) != 0)
			(void)json_object_put(name);
		free(entries[i]);
	}
	free(entries);
	text = a->json ? cv_json_format(array, array != NULL) : NULL;
	if (text)
		(void)fputs(text, stdout);
	return CV_EXIT_OK;
}

static int remove_one(const struct secret_args *a, const char *name)
{
	cv_cleanup_free char *path = cv_sprintf("%s/secrets/%s", a->config_dir, name);
	struct cv_err err = { 0 };

	if (path && unlink(path) == 0)
		return CV_EXIT_OK;
	(void)cv_fail(&err, errno, "%s: %s", path ? path : name, cv_strerror(errno));
	return cv_print_failure(&err);
}

static int dispatch(const struct secret_args *a, int count, char **words)
{
	const char *verb = count ? words[0] : NULL;
	int worst = CV_EXIT_OK;

	if (cv_str_eq(verb, "ls") || cv_str_eq(verb, "list"))
		return count == 1 ? list(a) : cv_usage_error(&cv_cmd_secret, "ls takes no name");
	if (!cv_str_eq(verb, "set") && !cv_str_eq(verb, "rm") && !cv_str_eq(verb, "remove"))
		return verb ? cv_usage_error(&cv_cmd_secret, "unknown command '%s'", verb)
			    : cv_usage_error(&cv_cmd_secret, "set, ls or rm?");
	if (count == 1)
		return cv_usage_error(&cv_cmd_secret, "the name of a secret is missing");
	/* A second word is likely to be the secret, so it is not repeated. */
	if (*verb == 's' && count > 2)
		return cv_usage_error(&cv_cmd_secret,
				      "the secret itself is read from standard input");
	for (int i = 1; i < count; i++) {
		int r;

		if (!cv_remote_name_ok(words[i]))
			return cv_usage_error(&cv_cmd_secret,
					      "a name has letters, digits, '_', '.' and '-'");
		r = *verb == 's' ? set(a, words[i]) : remove_one(a, words[i]);
		worst = r > worst ? r : worst;
	}
	return worst;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "config-dir", required_argument, NULL, 'C' },
		{ 0 },
	};
	struct secret_args a = { .config_dir = CV_DEFAULT_CONFIG_DIR };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (c == 'j')
			a.json = true;
		else if (c == 'C')
			a.config_dir = optarg;
		else
			return cv_usage_error(&cv_cmd_secret, "unknown or incomplete option");
	}
	return dispatch(&a, argc - optind, argv + optind);
}

const struct cv_command cv_cmd_secret = {
	.name = "secret",
	.args = "set NAME | ls | rm NAME… [--json] [--config-dir DIR]",
	.summary = "Store passwords and keys that options name as secret:NAME",
	.help = "set reads the secret from standard input, or asks for it on a terminal. Volumes "
		"that "
		"use a\nsecret read it anew whenever they connect.\n\n"
		"  --json            ls for programs\n"
		"  --config-dir DIR  where the secrets directory is (" CV_DEFAULT_CONFIG_DIR ")\n",
	.run = run,
};
