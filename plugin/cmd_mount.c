/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cvol mount: a mount without Docker or daemon. The process that stays in the background is the
 * mount's own small supervisor: it keeps the descriptors, watches the worker and tidies up after
 * it.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/dict.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/cmd.h"
#include "plugin/mountpoint.h"
#include "plugin/ownmount.h"
#include "plugin/process.h"
#include "plugin/remotes.h"
#include "plugin/state.h"
#include "plugin/supervisor.h"

#define MOUNT_MS     20000
#define SYNC_MS	     50000
#define CLEANUP_MS   10000 /* on top of the mount's own limit: what ending a failed one may take */
#define FOREGROUND_S 1
#define LOCK_MS	     60000

struct mount_args {
	const char *run_dir;
	const char *config_dir;
	const char *worker_path;
	const struct cv_command *command;
	bool foreground;
	bool json;
	bool idempotent; /* stage: the same mount again is fine, and the directory is made */
	enum cv_log_level level;
	struct cv_dict options; /* canonical */
	char *source;		/* owned; for people */
	char *dir;		/* owned; absolute */
	char digest[65];	/* of options, as they were asked for */
	int lock;		/* owned: one command at a time for dir */
	struct cv_ownmount own;
};

/* ---- checks, before anything is started ---- */

static int check_directory(const struct mount_args *a, struct cv_err *err)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	struct stat st;

	if (cv_mount_find(a->dir, &entry) == 0 && cv_str_eq(entry.fstype, CV_FSTYPE))
		return cv_fail(err, EBUSY, "%s is mounted already (%s); first: cvol unmount %s",
			       a->dir, entry.source, a->dir);
	if (stat(a->dir, &st) < 0)
		return cv_fail(err, errno, "%s: %s", a->dir, cv_strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return cv_fail(err, ENOTDIR, "%s is not a directory", a->dir);
	if (geteuid() != 0)
		return cv_fail(err, EPERM, "mounting needs root");
	return 0;
}

/* ---- the supervisor's life ---- */

static int save_record(const struct mount_args *a, struct cv_worker *w, struct cv_err *err)
{
	char digest[sizeof(a->digest)];
	struct cv_worker_info info;
	struct cv_record rec = { .volume = a->dir, .mountpoint = a->dir, .source = a->source };

	cv_worker_info(w, &info);
	rec.server = info.server;
	rec.worker = info.pid;
	rec.worker_start = info.start;
	rec.dev = info.dev;
	(void)cv_strcpy(digest, sizeof(digest), a->digest);
	rec.digest = digest;
	rec.supervisor = getpid();
	rec.supervisor_start = cv_process_start(getpid());
	return cv_record_save(a->own.dir, a->own.record, &rec, err); /* rec owns nothing here */
}

/* The record says whom `cvol unmount` waits for. */
static void replaced(void *arg, struct cv_worker *w)
{
	struct cv_err err = { 0 };

	if (save_record(arg, w, &err) < 0)
		cv_error("%s", err.text);
}

static int start(struct mount_args *a, int worker_stderr, struct cv_supervisor **ret_sup,
		 struct cv_worker **ret, struct cv_err *err)
{
	struct cv_supervisor_config config = { .worker_path = a->worker_path,
					       .socket_dir = a->own.path,
					       .worker_stderr = worker_stderr,
					       .hang_limit_ms = CV_HANG_LIMIT_S * 1000,
					       .replaced = replaced,
					       .arg = a };
	struct cv_mount_spec spec = {
		.volume = a->dir,
		.socket_name = a->own.socket,
		.mountpoint = a->dir,
		.options = &a->options,
		.timeout_ms = (unsigned)cv_options_ms(&a->options, "mount_timeout", MOUNT_MS),
	};
	struct cv_supervisor *sup = NULL;
	struct cv_worker *w = NULL;
	int r = cv_ownmount_secrets(&a->own, &a->options, err);

	if (r == 0)
		r = cv_supervisor_new(&config, &sup, err);
	if (r == 0)
		r = cv_supervisor_mount(sup, &spec, &w, err);
	if (r == 0) {
		r = save_record(a, w, err);
		if (r < 0)
			(void)cv_worker_unmount(w, NULL);
	}
	if (r < 0) {
		cv_supervisor_free(sup);
		cv_ownmount_forget(&a->own);
		return cv_fail_context(err, "mounting %s on %s", a->source, a->dir);
	}
	*ret_sup = sup;
	*ret = w;
	return 0;
}

/* The worker has ended: by unmounting, or by dying under a mount that must not look like an empty
 * directory. */
static void finish(const struct mount_args *a)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };

	if (cv_mount_find(a->dir, &entry) == 0 && cv_str_eq(entry.fstype, CV_FSTYPE))
		cv_error("%s: the mount is dead; cvol unmount %s cleans up", a->dir, a->dir);
	else
		cv_ownmount_forget(&a->own);
}

static int run_foreground(struct mount_args *a)
{
	struct cv_supervisor *sup;
	struct cv_worker *w;
	struct cv_err err = { 0 };
	struct timespec second = { .tv_sec = FOREGROUND_S };
	sigset_t signals;
	bool ended = false;
	int sig = -1, r;

	(void)sigemptyset(&signals);
	(void)sigaddset(&signals, SIGTERM);
	(void)sigaddset(&signals, SIGINT);
	(void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	if (start(a, -1, &sup, &w, &err) < 0)
		return cv_print_failure(&err);
	cv_notice("%s is mounted on %s", a->source, a->dir);
	while (!ended && sig < 0) {
		sig = sigtimedwait(&signals, NULL, &second);
		ended = cv_worker_wait(w, 0);
	}
	if (ended) {
		cv_worker_unref(w);
		finish(a);
		return CV_EXIT_OK;
	}
	r = cv_worker_sync(w, SYNC_MS, &err);
	if (r == 0)
		r = cv_worker_unmount(w, &err);
	if (r < 0)
		return cv_print_failure(&err); /* the worker goes on, and the record stays */
	cv_ownmount_forget(&a->own);
	return CV_EXIT_OK;
}

/* From here on nobody reads what we print but the log. */
static void detach_from_terminal(int log)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null >= 0) {
		(void)dup2(null, STDIN_FILENO);
		(void)dup2(null, STDOUT_FILENO);
		(void)close(null);
	}
	(void)dup2(log, STDERR_FILENO);
	(void)!chdir("/");
}

/* Runs in the background process; report: one byte 0, or the error's text. */
static int run_background(struct mount_args *a, int report)
{
	cv_cleanup_close int log =
		openat(a->own.dir, a->own.log,
		       O_WRONLY | O_CREAT | O_APPEND | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct cv_supervisor *sup;
	struct cv_worker *w;
	struct cv_err err = { 0 };
	int r;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGINT, SIG_IGN);
	if (log < 0)
		r = cv_fail(&err, errno, "%s/%s: %s", a->own.path, a->own.log, cv_strerror(errno));
	else
		r = start(a, log, &sup, &w, &err);
	if (r < 0) {
		(void)dprintf(report, "%d %s", err.code, err.text);
		return CV_EXIT_FAILURE;
	}
	detach_from_terminal(log);
	if (write(report, "", 1) != 1) {
		/* The command was interrupted: whoever typed it does not want the mount. */
		(void)cv_worker_unmount(w, NULL);
		cv_ownmount_forget(&a->own);
		return CV_EXIT_FAILURE;
	}
	(void)close(report);
	(void)cv_worker_wait(w, -1); /* for the life of the mount */
	cv_worker_unref(w);
	finish(a);
	return CV_EXIT_OK;
}

/* ---- the command's own process ---- */

/* A byte 0, or the error's code and text. */
static int wait_for_report(int fd, unsigned timeout_ms, struct cv_err *err)
{
	uint64_t deadline = cv_clock_ms() + timeout_ms;
	char text[CV_ERR_SIZE + 16] = "";
	int code = 0, start = 0;
	size_t used = 0;
	ssize_t n = 1;

	while (n > 0 && used < sizeof(text) - 1) {
		if (!cv_wait_readable(fd, cv_clock_left_ms(deadline)))
			return cv_fail(err, ETIMEDOUT, "the mount's supervisor does not answer");
		n = read(fd, text + used, sizeof(text) - 1 - used);
		if (n > 0) {
			used += (size_t)n;
			if (text[0] == '\0')
				return 0;
		}
	}
	if (sscanf(text, "%d %n", &code, &start) != 1 || code >= 0)
		return cv_fail(err, EIO, "the mount's supervisor ended without a word");
	return cv_fail(err, code, "%s", text + start);
}

static int go_to_background(struct mount_args *a, struct cv_err *err)
{
	int report[2];
	pid_t pid;
	int r;

	if (pipe2(report, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		return cv_fail(err, errno, "cannot start the supervisor: %s", cv_strerror(errno));
	}
	if (pid == 0) {
		(void)close(report[0]);
		cv_close_fd(&a->lock); /* the command's, not the mount's */
		/* Twice, so that it belongs to nobody and can never get a terminal. */
		if (setsid() < 0 || (pid = fork()) < 0)
			_exit(CV_EXIT_FAILURE);
		if (pid > 0)
			_exit(CV_EXIT_OK);
		_exit(run_background(a, report[1]));
	}
	(void)close(report[1]);
	(void)waitpid(pid, NULL, 0); /* it only forks */
	r = wait_for_report(
		report[0],
		(unsigned)cv_options_ms(&a->options, "mount_timeout", MOUNT_MS) + CLEANUP_MS, err);
	(void)close(report[0]);
	return r;
}

/* stage: 1 if it is there as it should be, 0 if it is not there (any more). */
static int look_at_existing(struct mount_args *a, struct cv_err *err)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	cv_cleanup_record struct cv_record rec = { 0 };
	cv_cleanup_close int worker = -1;
	int r;

	if (!a->idempotent || cv_mount_find(a->dir, &entry) < 0 ||
	    !cv_str_eq(entry.fstype, CV_FSTYPE))
		return 0;
	r = cv_record_load(a->own.dir, a->own.record, &rec, err);
	if (r < 0)
		return r;
	worker = cv_process_open(rec.supervisor, rec.supervisor_start);
	if (worker < 0) {
		cv_notice("%s: the mount is dead; it is replaced", a->dir);
		return cv_ownmount_unmount(a->run_dir, a->dir, true, err);
	}
	if (cv_str_eq(rec.digest, a->digest))
		return 1;
	return cv_fail(err, EEXIST,
		       "%s is staged from %s with other options; first: cvol unstage %s", a->dir,
		       rec.source, a->dir);
}

/* 1: nothing is left to do. */
static int prepare_directory(struct mount_args *a, const char *dir, struct cv_err *err)
{
	int r;

	if (a->idempotent && mkdir(dir, 0755) < 0 && errno != EEXIST)
		return cv_fail(err, errno, "cannot create directory '%s': %s", dir,
			       cv_strerror(errno));
	a->dir = cv_ownmount_resolve(dir, err);
	if (!a->dir && errno == ENOENT)
		return cv_fail(err, ENOENT, "the directory '%s' does not exist: create it first",
			       dir);
	if (!a->dir)
		return -EINVAL;
	r = cv_ownmount_open(a->run_dir, a->dir, true, &a->own, err);
	if (r == 0)
		r = a->lock = cv_ownmount_lock(&a->own, LOCK_MS, err);
	if (r >= 0)
		r = look_at_existing(a, err);
	return r == 0 ? check_directory(a, err) : r;
}

static int prepare(struct mount_args *a, const char *source, const char *dir,
		   const struct cv_dict *given, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict all = CV_DICT_INIT, stored = CV_DICT_INIT;
	int r = cv_dict_copy(&all, given);

	if (cv_dict_get(given, "source"))
		return cv_fail(err, EINVAL, "the source is given twice: as '%s' and with -o",
			       source);
	if (r == 0)
		r = cv_dict_set(&all, "source", source);
	if (r < 0)
		return cv_fail(err, -r, "options: %s", cv_strerror(r));
	r = cv_options_parse(&all, &stored, err);
	if (r == 0)
		r = cv_remotes_resolve(a->config_dir, dir, &stored, &a->options, err);
	if (r == 0 && !cv_dict_get(&a->options, "type"))
		r = cv_fail(err, EINVAL, "'%s' is not a source", source);
	/*
	 * A link of the server leads a program on this host to any file of it, a program in a
	 * container only to the container's own. stage is for containers.
	 */
	if (r == 0 && !a->idempotent && cv_str_eq(cv_dict_get(&a->options, "type"), "sftp") &&
	    !cv_dict_get(&a->options, "symlinks"))
		r = cv_dict_set(&a->options, "symlinks", "contain");
	if (r < 0)
		return r;
	a->source = cv_source_format(&a->options);
	if (!a->source)
		return cv_fail(err, ENOMEM, "out of memory");
	cv_ownmount_digest(&a->options, a->digest);
	return prepare_directory(a, dir, err);
}

static void release(struct mount_args *a)
{
	cv_dict_release(&a->options);
	free(a->source);
	free(a->dir);
	cv_close_fd(&a->lock);
	cv_ownmount_release(&a->own);
}

static int parse(struct mount_args *a, struct cv_dict *given, int argc, char **argv)
{
	static const struct option options[] = {
		{ "run-dir", required_argument, NULL, 'r' },
		{ "config-dir", required_argument, NULL, 'C' },
		{ "worker", required_argument, NULL, 'w' },
		{ "foreground", no_argument, NULL, 'f' },
		{ "log-level", required_argument, NULL, 'l' },
		{ "opt", required_argument, NULL, 'o' },
		{ "json", no_argument, NULL, 'j' },
		{ 0 },
	};
	struct cv_err err = { 0 };
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":o:f", options, NULL)) != -1) {
		switch (c) {
		case 'r':
			a->run_dir = optarg;
			break;
		case 'C':
			a->config_dir = optarg;
			break;
		case 'w':
			a->worker_path = optarg;
			break;
		case 'f':
			a->foreground = true;
			break;
		case 'j':
			a->json = true;
			break;
		case 'l':
			if (cv_log_level_parse(optarg, &a->level) < 0)
				return cv_usage_error(a->command, "unknown log level '%s'", optarg);
			break;
		case 'o':
			if (cv_options_split(optarg, given, &err) < 0)
				return cv_usage_error(a->command, "%s", err.text);
			break;
		default:
			return cv_usage_error(a->command, "unknown or incomplete option %s",
					      argv[optind - 1]);
		}
	}
	if (argc - optind != 2)
		return cv_usage_error(a->command, "expected SOURCE and DIR");
	return CV_EXIT_OK;
}

static int run_verb(const struct cv_command *command, bool idempotent, int argc, char **argv)
{
	struct mount_args a = { .command = command,
				.idempotent = idempotent,
				.lock = -1,
				.run_dir = CV_DEFAULT_RUN_DIR,
				.config_dir = CV_DEFAULT_CONFIG_DIR,
				.level = CV_LOG_INFO,
				.options = CV_DICT_INIT,
				.own = { .dir = -1 } };
	cv_cleanup_dict struct cv_dict given = CV_DICT_INIT;
	struct cv_outcome outcome = { 0 };
	struct cv_err err = { 0 };
	int r = parse(&a, &given, argc, argv);

	if (r != CV_EXIT_OK)
		return r;
	cv_log_init("cvol", a.level);
	r = prepare(&a, argv[optind], argv[optind + 1], &given, &err);
	if (r == 0 && a.foreground) {
		r = run_foreground(&a);
		release(&a);
		return r;
	}
	outcome.already = r == 1;
	if (r == 0)
		r = go_to_background(&a, &err);
	outcome.json = a.json;
	outcome.source = a.source;
	outcome.mountpoint = a.dir;
	r = cv_print_outcome(&outcome, r < 0 ? r : 0, &err);
	release(&a);
	return r;
}

static int run_mount(int argc, char **argv)
{
	return run_verb(&cv_cmd_mount, false, argc, argv);
}

static int run_stage(int argc, char **argv)
{
	return run_verb(&cv_cmd_stage, true, argc, argv);
}

const struct cv_command cv_cmd_mount = {
	.name = "mount",
	.args = "SOURCE DIR [-o NAME=VALUE[,…]]…",
	.summary = "Mount a source on a directory, without Docker",
	.help = "SOURCE is nfs://host/export, sftp://user@host/path, dir:///path, host:/export or\n"
		"user@host:/path. DIR must exist. Returns when the mount can be used; otherwise\n"
		"prints one line saying why not, and leaves nothing behind.\n\n"
		"  -o NAME=VALUE[,…]  options (see: cvol options); may be repeated\n"
		"  --json             the result as a JSON object on standard output\n"
		"  --foreground       stay; SIGINT or SIGTERM unmounts\n"
		"  --config-dir DIR   where remotes and secrets are (" CV_DEFAULT_CONFIG_DIR ")\n"
		"  --run-dir DIR      where running mounts are remembered (" CV_DEFAULT_RUN_DIR
		")\n"
		"  --log-level LEVEL  error, warning, notice, info (default) or debug\n"
		"  --worker PATH      the worker program, cvol-fuse\n",
	.run = run_mount,
};

const struct cv_command cv_cmd_stage = {
	.name = "stage",
	.args = "SOURCE DIR [-o NAME=VALUE[,…]]… [--json]",
	.summary = "Mount for a scheduler's scripts: again is fine",
	.help = "As mount, but DIR is created when missing, what is mounted there already from "
		"the\n"
		"same SOURCE with the same options counts as done, and a dead mount is replaced.\n"
		"The rest of the options is mount's.\n",
	.run = run_stage,
};
