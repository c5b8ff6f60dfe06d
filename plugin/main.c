/* SPDX-License-Identifier: Apache-2.0 */
/* cvol: finds the command and runs it. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"
#include "plugin/cmd.h"

static const struct cv_command *const commands[] = {
	&cv_cmd_daemon,	   &cv_cmd_status,	    &cv_cmd_top,     &cv_cmd_check,
	&cv_cmd_doctor,	   &cv_cmd_volume,	    &cv_cmd_mount,   &cv_cmd_unmount,
	&cv_cmd_options,   &cv_cmd_remote,	    &cv_cmd_secret,  &cv_cmd_stage,
	&cv_cmd_publish,   &cv_cmd_unpublish,	    &cv_cmd_unstage, &cv_cmd_gc,
	&cv_cmd_log_level, &cv_cmd_upgrade_workers,
};

int cv_usage_error(const struct cv_command *command, const char *fmt, ...)
{
	va_list ap;

	(void)fputs("cvol: ", stderr);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, " (see: cvol %s%s--help)\n", command ? command->name : "",
		      command ? " " : "");
	return CV_EXIT_USAGE;
}

int cv_parse_interval(const char *text, double *ret_s)
{
	uint64_t ms;

	if (cv_parse_duration_ms(text, &ms) < 0 || ms < 100 || ms > 3600000)
		return -1;
	*ret_s = (double)ms / 1000;
	return 0;
}

int cv_print_failure(const struct cv_err *err)
{
	(void)fprintf(stderr, "cvol: %s\n", *err->text ? err->text : cv_strerror(err->code));
	return CV_EXIT_FAILURE;
}

int cv_print_help(const struct cv_command *command)
{
	(void)printf("Usage: cvol %s%s%s\n\n%s.\n\n%s", command->name, *command->args ? " " : "",
		     command->args, command->summary, command->help);
	return CV_EXIT_OK;
}

static int print_commands(FILE *out)
{
	(void)fputs("Usage: cvol COMMAND [ARGUMENT…]\n\n"
		    "Docker volumes on NFS and SSH servers, and mounts of them without Docker.\n\n"
		    "Commands:\n",
		    out);
	for (size_t i = 0; i < CV_ARRAY_SIZE(commands); i++)
		(void)fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
	(void)fputs("  version    Print the version\n\n"
		    "'cvol COMMAND --help' tells more about each.\n"
		    "Exit status: 0 success, 1 failure, 2 wrong usage.\n",
		    out);
	return out == stdout ? CV_EXIT_OK : CV_EXIT_USAGE;
}

/* Descriptors 0 to 2 must not become sockets that somebody prints to. */
static void open_standard_files(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		(void)close(fd);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	open_standard_files();
	cv_log_init("cvol", CV_LOG_INFO);
	if (!name)
		return print_commands(stderr);
	if (cv_str_eq(name, "--help") || cv_str_eq(name, "-h") || cv_str_eq(name, "help"))
		return print_commands(stdout);
	if (cv_str_eq(name, "version") || cv_str_eq(name, "--version")) {
		(void)puts("cvol " CV_VERSION);
		return CV_EXIT_OK;
	}
	for (size_t i = 0; i < CV_ARRAY_SIZE(commands); i++) {
		if (!cv_str_eq(name, commands[i]->name))
			continue;
		for (int a = 2; a < argc && !cv_str_eq(argv[a], "--"); a++) {
			if (cv_str_eq(argv[a], "--help") || cv_str_eq(argv[a], "-h"))
				return cv_print_help(commands[i]);
		}
		return commands[i]->run(argc - 1, argv + 1);
	}
	return cv_usage_error(NULL, "unknown command '%s'", name);
}
