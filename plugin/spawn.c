/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/spawn.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/str.h"
#include "plugin/process.h"

#define CHECK_MS 5000

char *cv_worker_find(const char *given)
{
	char self[PATH_MAX];
	ssize_t n;
	char *slash;

	if (given)
		return realpath(given, NULL);
	n = readlink("/proc/self/exe", self, sizeof(self) - sizeof(CV_WORKER_PROGRAM) - 1);
	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		if (slash) {
			(void)strcpy(slash + 1, CV_WORKER_PROGRAM);
			if (access(self, X_OK) == 0)
				return strdup(self);
		}
	}
	return strdup(CV_LIBEXECDIR "/" CV_WORKER_PROGRAM);
}

/* Little is inherited: what libraries read from the environment must not decide about a mount. */
static void worker_environment(char *env[], size_t max)
{
	static const char *const keep[] = { "JOURNAL_STREAM=", "CREDENTIALS_DIRECTORY=",
					    "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=" };
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LC_ALL=C.UTF-8";
	size_t used = 0;

	env[used++] = path;
	env[used++] = lang;
	for (char **e = environ; *e; e++) {
		for (size_t i = 0; i < CV_ARRAY_SIZE(keep) && used + 1 < max; i++) {
			if (cv_str_starts(*e, keep[i]))
				env[used++] = *e;
		}
	}
	env[used] = NULL;
}

int cv_worker_spawn(const char *path, const char *label, int sock, int out, pid_t *ret_pid,
		    struct cv_err *err)
{
	char program[] = CV_WORKER_PROGRAM;
	char *argv[] = { program, (char *)(uintptr_t)label, NULL };
	char *env[16];
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int r;

	worker_environment(env, CV_ARRAY_SIZE(env));
	(void)sigemptyset(&none);
	(void)sigfillset(&all);
	(void)posix_spawn_file_actions_init(&files);
	(void)posix_spawnattr_init(&attr);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setsigdefault(&attr, &all);
	/* A session of its own: a terminal's Ctrl-C or our end must not reach it. */
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						      POSIX_SPAWN_SETSIGDEF);
	r = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&files, out, STDERR_FILENO);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&files, sock, CV_HANDOFF_FD);
	if (r == 0)
		r = posix_spawn_file_actions_addclosefrom_np(&files, CV_HANDOFF_FD + 1);
	if (r == 0)
		r = posix_spawn(ret_pid, path, &files, &attr, argv, env);
	(void)posix_spawn_file_actions_destroy(&files);
	(void)posix_spawnattr_destroy(&attr);
	if (r != 0)
		return cv_fail(err, r, "cannot start %s: %s", path, cv_strerror(r));
	return 0;
}

int cv_worker_check_layout(const char *path, unsigned version, struct cv_err *err)
{
	char program[] = CV_WORKER_PROGRAM, option[] = CV_CHECK_LAYOUT, number[16];
	char *argv[] = { program, option, number, NULL };
	char *env[] = { NULL };
	cv_cleanup_close int pidfd = -1;
	siginfo_t info = { 0 };
	pid_t pid;
	int r;

	(void)snprintf(number, sizeof(number), "%u", version);
	r = posix_spawn(&pid, path, NULL, NULL, argv, env);
	if (r != 0)
		return cv_fail(err, r, "cannot start %s: %s", path, cv_strerror(r));
	pidfd = cv_pidfd_open(pid); /* not reaped yet, so the number is its own */
	if (pidfd < 0 || !cv_wait_readable(pidfd, CHECK_MS))
		(void)kill(pid, SIGKILL);
	if (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 || info.si_code != CLD_EXITED ||
	    info.si_status != 0)
		return cv_fail(err, EPROTO,
			       "%s cannot go on with what the present worker keeps in memory; the "
			       "volume gets it when it is mounted next",
			       path);
	return 0;
}
