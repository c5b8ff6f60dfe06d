/* SPDX-License-Identifier: Apache-2.0 */
/* cvol options: the option table, for people. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "config/options.h"
#include "config/spellings.h"
#include "config/str.h"
#include "plugin/cmd.h"

#define LINE_MAX_COLUMN 78

static void print_engines(unsigned engines)
{
	static const struct {
		unsigned bit;
		const char *name;
	} names[] = {
		{ CV_ENGINE_DIR, "dir" },
		{ CV_ENGINE_NFS, "nfs" },
		{ CV_ENGINE_SFTP, "sftp" },
		{ CV_ENGINE_MEM, "mem" },
	};
	const char *separator = "";

	if ((engines & CV_ENGINE_ALL) == CV_ENGINE_ALL) {
		(void)fputs("all", stdout);
		return;
	}
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (engines & names[i].bit) {
			(void)printf("%s%s", separator, names[i].name);
			separator = ", ";
		}
	}
}

static const char *value_of(const struct cv_option_def *d)
{
	switch (d->type) {
	case CV_OPT_STRING:
		return "TEXT";
	case CV_OPT_BOOL:
		return "true|false";
	case CV_OPT_UINT:
		return "NUMBER";
	case CV_OPT_DURATION:
		return "TIME";
	case CV_OPT_SIZE:
		return "SIZE";
	case CV_OPT_OCTAL:
		return "OCTAL";
	case CV_OPT_CHOICE:
		return d->choices;
	case CV_OPT_FILE:
		return "/FILE";
	case CV_OPT_SECRET:
		return "SECRET";
	}
	return "";
}

static void print_option(const struct cv_option_def *d)
{
	(void)printf("%s=%s\n      %s\n      for: ", d->name, value_of(d), d->help);
	print_engines(d->engines);
	if (d->def)
		(void)printf("; default: %s", d->def);
	if (d->aliases)
		(void)printf("; also: %s", d->aliases);
	(void)putchar('\n');
}

/* How other drivers write it: first what becomes an option of ours, then what does not. */
static void print_translation(void *ctx, const char *name, const char *value, const char *option,
			      const char *text)
{
	const char *shown = !value		    ? ""
			    : cv_str_eq(value, "+") ? "=yes"
			    : cv_str_eq(value, "-") ? "=no"
						    : value;

	(void)ctx;
	if (!option || *option == '!')
		return;
	(void)printf("  %s%s%s means %s%s%s\n", name, value && *shown != '=' ? "=" : "", shown,
		     option, text ? "=" : "", text ? text : "");
}

struct other {
	const char *option; /* what the table has for these */
	int column;
};

/* What is ignored or refused only with some values is not worth a word here. */
static void print_other(void *ctx, const char *name, const char *value, const char *option,
			const char *text)
{
	struct other *other = ctx;

	(void)text;
	if (value || !cv_str_eq(option, other->option))
		return;
	if (other->column + (int)strlen(name) > LINE_MAX_COLUMN) {
		(void)fputs("\n ", stdout);
		other->column = 1;
	}
	other->column += printf(" %s", name);
}

static void print_others(const char *heading, const char *option)
{
	struct other other = { .option = option, .column = (int)strlen(heading) };

	(void)printf("\n%s", heading);
	cv_spellings_each(print_other, &other);
	(void)putchar('\n');
}

static int run(int argc, char **argv)
{
	if (argc > 1)
		return cv_usage_error(&cv_cmd_options, "unexpected argument '%s'", argv[1]);
	for (const struct cv_option_def *d = cv_option_table(); d->name; d++)
		print_option(d);
	(void)puts(
		"\nAs other drivers write it (sshcmd, device, share, remote and lists of options "
		"in o, nfsopts,\nmountOptions and sshOpts are understood as well):");
	cv_spellings_each(print_translation, NULL);
	print_others("Accepted without effect:", NULL);
	print_others("Refused:", "!");
	return CV_EXIT_OK;
}

const struct cv_command cv_cmd_options = {
	.name = "options",
	.args = "",
	.summary = "List the options of volumes",
	.help = "Options are given as -o NAME=VALUE to 'docker volume create', 'cvol volume "
		"create'\n"
		"and 'cvol mount'. Case and '-' or '_' in names do not matter.\n"
		"TIME is 15, 15s, 500ms or 2m; SIZE is 4096, 64K or 1MiB.\n",
	.run = run,
};
