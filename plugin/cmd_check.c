/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cvol check: is a volume all right? One line and an exit status, for health checks. What the
 * daemon knows comes first; then the mount itself is asked, by a child process that can be killed.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/overview.h"
#include "plugin/process.h"
#include "plugin/table.h"

#define TIMEOUT_S 5

struct args {
	const char *socket;
	const char *run_dir;
	bool mounted; /* not mounted is not all right */
	double timeout_s;
};

/* statfs() goes to the server each time. Returns its errno. */
static int ask_file_system(const char *path)
{
	struct statfs st;

	return statfs(path, &st) < 0 ? errno : 0;
}

/* 0, or an errno; ETIMEDOUT when there was no answer. */
static int probe(const char *path, double timeout_s)
{
	cv_cleanup_close int pidfd = -1;
	int status = 0;
	pid_t pid = fork();

	if (pid < 0)
		return errno;
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(ask_file_system(path));
	}
	pidfd = cv_pidfd_open(pid);
	if (pidfd >= 0 && !cv_wait_readable(pidfd, (int)(timeout_s * 1000))) {
		/* A worker lets go of whoever is killed; if it hangs itself, init reaps it. */
		(void)kill(pid, SIGKILL);
		if (cv_wait_readable(pidfd, 1000))
			(void)waitpid(pid, NULL, 0);
		return ETIMEDOUT;
	}
	if (waitpid(pid, &status, 0) != pid)
		return errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
}

static int report(const char *what, bool well, const char *text)
{
	(void)printf("%s: %s%s\n", what, well ? "ok" : "not ok: ", text);
	return well ? CV_EXIT_OK : CV_EXIT_FAILURE;
}

static int check_path(const struct args *a, const char *what, const char *path)
{
	uint64_t start = cv_clock_ms();
	int e = probe(path, a->timeout_s);
	unsigned long long took = cv_clock_ms() - start + 1; /* "within" */
	char text[160];

	if (e == ETIMEDOUT)
		(void)snprintf(text, sizeof(text), "no answer within %.1f s", a->timeout_s);
	else if (e)
		(void)snprintf(text, sizeof(text), "%s", cv_strerror(e));
	else
		(void)snprintf(text, sizeof(text), ", answered within %llu ms", took);
	return report(what, e == 0, text);
}

static int check_view(const struct args *a, const struct cv_view *v)
{
	int64_t now_s = (int64_t)time(NULL);
	char text[CV_ERR_SIZE + 128], age[CV_HUMAN];

	if (v->state == CV_VOLUME_IDLE && !*v->error && !a->mounted)
		return report(v->name, true, ", not mounted");
	if (v->state == CV_VOLUME_OK || v->state == CV_VOLUME_DRAINING)
		return check_path(a, v->name, v->mountpoint);
	(void)snprintf(text, sizeof(text), "%s%s%s%s%s", cv_volume_state_name(v->state),
		       v->since ? " for " : "", v->since ? cv_human_age(now_s - v->since, age) : "",
		       *v->error ? ": " : "", v->error);
	return report(v->name, false, text);
}

static int check(const struct args *a, const char *what)
{
	cv_cleanup_overview struct cv_overview o = { .daemon = CV_DICT_INIT };
	struct cv_err err = { 0 };
	int r = cv_overview_load(a->socket, a->run_dir, &o, &err);

	for (size_t i = 0; i < o.count; i++) {
		if (cv_str_eq(o.views[i].name, what) || cv_str_eq(o.views[i].mountpoint, what))
			return check_view(a, &o.views[i]);
	}
	/* In a container there is no daemon to ask, but the directory is there. */
	if (*what == '/')
		return check_path(a, what, what);
	if (r < 0)
		return cv_print_failure(&err);
	return report(what, false, "there is no such volume");
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "mounted", no_argument, NULL, 'm' },
		{ "timeout", required_argument, NULL, 't' },
		{ "socket", required_argument, NULL, 's' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ 0 },
	};
	struct args a = { .socket = CV_DEFAULT_SOCKET,
			  .run_dir = CV_DEFAULT_RUN_DIR,
			  .timeout_s = TIMEOUT_S };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":t:", options, NULL)) != -1) {
		if (c == 'm')
			a.mounted = true;
		else if (c == 's')
			a.socket = optarg;
		else if (c == 'r')
			a.run_dir = optarg;
		else if (c != 't')
			return cv_usage_error(&cv_cmd_check, "unknown or incomplete option %s",
					      argv[optind - 1]);
		else if (cv_parse_interval(optarg, &a.timeout_s) < 0)
			return cv_usage_error(&cv_cmd_check, "'%s' is no time (100ms to 1h)",
					      optarg);
	}
	if (argc - optind != 1)
		return cv_usage_error(&cv_cmd_check, "expected a VOLUME or a directory");
	return check(&a, argv[optind]);
}

const struct cv_command cv_cmd_check = {
	.name = "check",
	.args = "[--mounted] [-t SECONDS] VOLUME|DIR",
	.summary = "Say whether a volume is all right, for health checks",
	.help = "Prints one line. Exit status 0: it is, or it is not mounted and has not failed to "
		"be; 1:\n"
		"it is not.\n"
		"A mounted volume is asked for its free space, which its server has to answer. "
		"With a\n"
		"directory it also works in a container, where no daemon can be asked.\n\n"
		"  --mounted              a volume that is not mounted is not all right\n"
		"  -t, --timeout SECONDS  how long the answer may take (5)\n"
		"  --socket PATH          the daemon's socket (" CV_DEFAULT_SOCKET ")\n"
		"  --run-dir DIR          where mounts without the daemon are remembered "
		"(" CV_DEFAULT_RUN_DIR ")\n",
	.run = run,
};
