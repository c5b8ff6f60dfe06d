/* SPDX-License-Identifier: Apache-2.0 */
/* cvol daemon: puts the parts together, waits for a signal, takes them apart again. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"
#include "plugin/client.h"
#include "plugin/cmd.h"
#include "plugin/driver.h"
#include "plugin/files.h"
#include "plugin/history.h"
#include "plugin/message.h"
#include "plugin/monitor.h"
#include "plugin/mountpoint.h"
#include "plugin/process.h"
#include "plugin/remotes.h"
#include "plugin/server.h"
#include "plugin/supervisor.h"
#include "plugin/systemd.h"
#include "plugin/volumes.h"

#define LOCK_MS		 3000 /* for what a killed daemon was about to start; systemd waits longer */
#define TICK_S		 10
#define MONITOR_DRAIN_MS 500
#define DRAIN_MS	 5000 /* dockerd kills a managed plugin after 10 s */
#define ABANDON_MS	 3000
#define TICKER_MS	 2000
#define NOFILE_WANTED	 65536
#define PING_MS		 5000
#define BOOT_WAIT_S	 90 /* dockerd waits 120 s for Mount */
#define BOOT_WAIT_MAX_S	 3600
#define HANG_LIMIT_MAX_S 3600
#define STATUS_S	 10 /* between reports to systemd */

struct daemon {
	const char *socket_path;
	const char *state_dir;
	const char *config_dir;
	const char *run_dir;
	const char *worker_path;
	const char *scope;
	unsigned boot_wait_ms;
	unsigned hang_limit_ms;

	int lock;	/* owned: RUN_DIR/lock */
	int state_lock; /* owned: STATE_DIR itself */
	char *run_real; /* owned */
	int inherited;	/* owned: systemd's socket; -1: none, or the server's by now */
	char inherited_path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	bool socket_ours; /* made here, so removed here */
	struct stat socket_st;
	struct cv_supervisor *supervisor;
	struct cv_driver driver;
	struct cv_server *server;
	struct cv_history *history;
	const char *metrics_listen; /* NULL: nowhere */
	struct cv_server *monitor;

	pthread_t ticker;
	bool have_ticker;
	pthread_mutex_t stop_lock;
	pthread_cond_t stop_cond;
	bool stopping; /* protected by stop_lock */
};

/* ---- the supervisor as a mounter ---- */

static int do_mount(void *ctx, const struct cv_mount_spec *spec, struct cv_worker **ret,
		    struct cv_err *err)
{
	return cv_supervisor_mount(ctx, spec, ret, err);
}

static int do_probe(void *ctx, const struct cv_mount_spec *spec, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict ready = CV_DICT_INIT;

	return cv_supervisor_probe(ctx, spec, &ready, err);
}

static int do_adopt(void *ctx, const struct cv_record *record, const struct cv_dict *options,
		    const char *socket_name, struct cv_worker **ret, struct cv_err *err)
{
	return cv_supervisor_adopt(ctx, record, options, socket_name, ret, err);
}

static const struct cv_mounter supervisor_mounter = {
	.mount = do_mount,
	.probe = do_probe,
	.adopt = do_adopt,
	.sync = cv_worker_sync,
	.unmount = cv_worker_unmount,
	.info = cv_worker_info,
	.upgrade = cv_worker_upgrade,
	.log_level = cv_worker_set_log_level,
	.ref = cv_worker_ref,
	.unref = cv_worker_unref,
	.prepare = cv_mountpoint_prepare,
	.detach = cv_mountpoint_detach,
	.remove = cv_mountpoint_remove,
	.is_mounted = cv_mountpoint_is,
	.in_use = cv_mountpoint_in_use,
};

/* ---- stages of starting ---- */

/* A few descriptors per mount, and the workers inherit the limit. */
static void raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	if (limit.rlim_max < NOFILE_WANTED) {
		struct rlimit more = { NOFILE_WANTED, NOFILE_WANTED };

		if (setrlimit(RLIMIT_NOFILE, &more) == 0)
			return;
	}
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

static int lock_run_dir(struct daemon *d, struct cv_err *err)
{
	cv_cleanup_close int dir = cv_dir_open(AT_FDCWD, d->run_dir, 0711, err);
	int r;

	if (dir < 0)
		return dir;
	d->run_real = realpath(d->run_dir, NULL);
	if (!d->run_real)
		return cv_fail(err, errno, "%s: %s", d->run_dir, cv_strerror(errno));
	d->lock = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (d->lock < 0)
		return cv_fail(err, errno, "%s/lock: %s", d->run_real, cv_strerror(errno));
	r = cv_lock_exclusive(d->lock, LOCK_MS);
	if (r == -EBUSY)
		return cv_fail(err, EBUSY,
			       "another daemon uses %s: stop it first, or use --run-dir",
			       d->run_real);
	return r < 0 ? cv_fail(err, -r, "%s/lock: %s", d->run_real, cv_strerror(r)) : 0;
}

/* Two daemons with different run directories must not write the same volumes. */
static int lock_state_dir(struct daemon *d, struct cv_err *err)
{
	d->state_lock = cv_dir_open(AT_FDCWD, d->state_dir, 0711, err);
	if (d->state_lock < 0)
		return d->state_lock;
	/* Some network file systems cannot lock a directory: no reason to refuse them. */
	if (cv_lock_exclusive(d->state_lock, LOCK_MS) == -EBUSY)
		return cv_fail(err, EBUSY,
			       "another daemon uses %s: stop it first, or use --state-dir",
			       d->state_dir);
	return 0;
}

static int make_socket_parent(const char *path, struct cv_err *err)
{
	const char *slash = strrchr(path, '/');
	cv_cleanup_free char *dir = NULL;

	if (!slash || slash == path)
		return 0;
	dir = strndup(path, (size_t)(slash - path));
	return dir ? cv_mkdir_p(dir, 0755, err) : cv_fail(err, ENOMEM, "out of memory");
}

static int list_volumes(void *ctx, struct cv_view **ret_views, size_t *ret_count)
{
	return cv_volumes_views(ctx, ret_views, ret_count, NULL);
}

static void start_history(struct daemon *d)
{
	d->history = cv_history_new();
	if (!d->history || cv_history_start(d->history, list_volumes, d->driver.volumes) < 0)
		cv_warning("no thread for measuring: there will be no rates");
	d->driver.history = d->history;
}

/* Opt-in. A port that is taken is no reason to keep containers from their volumes. */
static int start_monitor(struct daemon *d, struct cv_err *err)
{
	cv_cleanup_site struct cv_site site = CV_SITE_INIT;
	const char *address = d->metrics_listen;
	int fd, r;

	/* Whatever is wrong with the file is said by each volume that needs it. */
	if (!address && cv_site_load(d->config_dir, &site, NULL) == 0)
		address = site.metrics_listen;
	if (!address)
		return 0;
	r = cv_server_listen_tcp(address, &fd, err);
	if (r == 0)
		r = cv_server_start(fd, CV_MONITOR_BODY_MAX, &cv_monitor_handler, &d->driver,
				    &d->monitor, err);
	if (r == -EINVAL || r == -EACCES)
		return r;
	if (r < 0)
		cv_warning("no metrics and no status page: %s", err->text);
	else
		cv_info("status page and metrics on http://%s/", address);
	return 0;
}

static int start_parts(struct daemon *d, struct cv_err *err)
{
	cv_cleanup_free char *sockets = cv_sprintf("%s/workers", d->run_real);
	struct cv_supervisor_config supervisor = { .worker_path = d->worker_path,
						   .socket_dir = sockets,
						   .worker_stderr = -1,
						   .hang_limit_ms = d->hang_limit_ms };
	struct cv_volumes_config volumes = { .state_dir = d->state_dir,
					     .config_dir = d->config_dir,
					     .run_dir = d->run_real,
					     .mounter = &supervisor_mounter,
					     .boot_wait_ms = d->boot_wait_ms };
	int fd = -1;
	int r;

	if (!sockets)
		return cv_fail(err, ENOMEM, "out of memory");
	r = cv_supervisor_new(&supervisor, &d->supervisor, err);
	if (r < 0)
		return r;
	volumes.mounter_ctx = d->supervisor;
	/* All state first: the first question may come as soon as the socket is there. */
	r = cv_volumes_new(&volumes, &d->driver.volumes, err);
	if (r < 0)
		return r;
	cv_systemd_drop_parked();
	start_history(d);
	r = start_monitor(d, err);
	if (r < 0)
		return r;
	fd = d->inherited;
	if (fd < 0)
		r = make_socket_parent(d->socket_path, err);
	if (r == 0 && fd < 0) {
		r = cv_server_listen(d->socket_path, &fd, err);
		d->socket_ours = r == 0 && lstat(d->socket_path, &d->socket_st) == 0;
	}
	if (r < 0)
		return r;
	d->inherited = -1; /* the server's from here on, whatever happens */
	return cv_server_start(fd, CV_BODY_MAX, &cv_driver_handler, &d->driver, &d->server, err);
}

/* Where clients connect: what systemd listens on may be elsewhere than our default. */
static void adopt_socket_path(struct daemon *d)
{
	struct sockaddr_un addr = { 0 };
	socklen_t len = sizeof(addr) - 1; /* so that there is a NUL */

	d->inherited = cv_systemd_take_socket();
	if (d->inherited >= 0 && getsockname(d->inherited, (struct sockaddr *)&addr, &len) == 0 &&
	    addr.sun_family == AF_UNIX && *addr.sun_path == '/' &&
	    cv_strcpy(d->inherited_path, sizeof(d->inherited_path), addr.sun_path))
		d->socket_path = d->inherited_path;
}

static void *tick_thread(void *arg)
{
	struct daemon *d = arg;

	for (;;) {
		struct timespec until = cv_clock_timespec(cv_clock_ms() + (uint64_t)TICK_S * 1000);
		bool stopping;
		int r = 0;

		(void)pthread_mutex_lock(&d->stop_lock);
		while (!d->stopping && r == 0)
			r = pthread_cond_timedwait(&d->stop_cond, &d->stop_lock, &until);
		stopping = d->stopping;
		(void)pthread_mutex_unlock(&d->stop_lock);
		if (stopping)
			return NULL;
		cv_volumes_tick(d->driver.volumes);
	}
}

static void start_ticker(struct daemon *d)
{
	pthread_condattr_t attr;

	(void)pthread_mutex_init(&d->stop_lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&d->stop_cond, &attr);
	(void)pthread_condattr_destroy(&attr);
	d->have_ticker = pthread_create(&d->ticker, NULL, tick_thread, d) == 0;
	if (!d->have_ticker)
		cv_warning("no thread for housekeeping: counters stay as they are");
}

/* ---- the end ---- */

/* dockerd waits 15 s for each dead socket on every `volume ls`, so it must not stay. */
static void remove_socket(struct daemon *d)
{
	struct stat st;

	if (d->socket_ours && lstat(d->socket_path, &st) == 0 && st.st_ino == d->socket_st.st_ino &&
	    st.st_dev == d->socket_st.st_dev)
		(void)unlink(d->socket_path);
}

static bool stop_ticker(struct daemon *d)
{
	struct timespec until;

	if (!d->have_ticker)
		return true;
	(void)pthread_mutex_lock(&d->stop_lock);
	d->stopping = true;
	(void)pthread_cond_broadcast(&d->stop_cond);
	(void)pthread_mutex_unlock(&d->stop_lock);
	until = cv_clock_timespec(cv_clock_ms() + TICKER_MS);
	return pthread_clockjoin_np(d->ticker, NULL, CLOCK_MONOTONIC, &until) == 0;
}

static void stop(struct daemon *d)
{
	bool idle;

	cv_systemd_notify("STOPPING=1\nSTATUS=Stopping; mounts stay");
	remove_socket(d);
	idle = !d->monitor || cv_server_drain(d->monitor, MONITOR_DRAIN_MS);
	idle &= cv_server_drain(d->server, DRAIN_MS);
	if (!idle) {
		cv_supervisor_abandon(d->supervisor);
		idle = cv_server_drain(d->server, ABANDON_MS);
	}
	if (!stop_ticker(d) || !idle) {
		cv_notice("stopped; calls still under way were given up");
		_exit(CV_EXIT_OK);
	}
	cv_server_free(d->server);
	cv_supervisor_abandon(d->supervisor); /* attempts in the background */
	cv_server_free(d->monitor);
	cv_history_free(d->history);
	cv_volumes_free(d->driver.volumes);
	cv_supervisor_free(d->supervisor);
	cv_dict_release(&d->driver.status);
	cv_close_fd(&d->lock);
	cv_close_fd(&d->state_lock);
	free(d->run_real);
	cv_notice("stopped; mounts stay");
}

static int describe(struct daemon *d)
{
	struct cv_dict *s = &d->driver.status;
	int r = cv_dict_set(s, "version", CV_VERSION);

	if (r == 0)
		r = cv_dict_setf(s, "pid", "%d", (int)getpid());
	if (r == 0)
		r = cv_dict_set(s, "socket", d->socket_path);
	if (r == 0)
		r = cv_dict_set(s, "state_dir", d->state_dir);
	if (r == 0)
		r = cv_dict_set(s, "run_dir", d->run_dir);
	return r;
}

/* ---- between start and end ---- */

static void report(struct daemon *d, const char *prefix)
{
	size_t total, mounted;

	cv_volumes_count(d->driver.volumes, &total, &mounted);
	cv_systemd_notify("%sSTATUS=%zu volume%s, %zu mounted", prefix, total,
			  total == 1 ? "" : "s", mounted);
}

static void reload(struct daemon *d)
{
	struct cv_findings found = { 0 };
	struct cv_err err = { 0 };

	cv_systemd_notify("RELOADING=1\nMONOTONIC_USEC=%" PRIu64, cv_clock_ms() * 1000);
	if (cv_volumes_gc(d->driver.volumes, false, &found, &err) < 0)
		cv_error("%s", err.text);
	cv_findings_release(&found);
	report(d, "READY=1\n");
}

/*
 * A question asked and answered as dockerd's are: the socket, the HTTP server and the locks all
 * work. With every connection taken nobody could ask; being busy is not being ill.
 */
static bool is_healthy(struct daemon *d)
{
	cv_cleanup_free char *body = NULL;
	struct cv_err err = { 0 };

	if (cv_server_full(d->server) ||
	    cv_client_call(d->socket_path, "GET", "/cvol/ping", NULL, PING_MS, &body, &err) == 0)
		return true;
	cv_error("the daemon does not answer its own question: %s", err.text);
	return false;
}

/* Until a signal that ends the daemon, which is returned. */
static int main_loop(struct daemon *d, const sigset_t *signals)
{
	uint64_t watchdog = cv_systemd_watchdog_ms();
	/* Three chances: systemd waits for one sign of life per period. */
	uint64_t period_ms = watchdog ? watchdog / 3 + 1 : STATUS_S * 1000;
	uint64_t next = cv_clock_ms() + period_ms;

	for (;;) {
		/* By the clock: signals that come more often must not keep it from reporting. */
		int left_ms = cv_clock_left_ms(next);
		struct timespec left = { .tv_sec = left_ms / 1000,
					 .tv_nsec = (long)(left_ms % 1000) * 1000000 };
		int sig = sigtimedwait(signals, NULL, &left);

		if (sig > 0 && sig != SIGHUP)
			return sig;
		if (sig == SIGHUP)
			reload(d);
		if (cv_clock_left_ms(next))
			continue;
		next = cv_clock_ms() + period_ms;
		if (!watchdog || is_healthy(d))
			report(d, watchdog ? "WATCHDOG=1\n" : "");
	}
}

static int serve(struct daemon *d)
{
	struct cv_err err = { 0 };
	sigset_t signals;
	int r;

	/* Before any thread is there, so that all of them leave these to the main loop. */
	(void)sigemptyset(&signals);
	(void)sigaddset(&signals, SIGTERM);
	(void)sigaddset(&signals, SIGINT);
	(void)sigaddset(&signals, SIGHUP);
	(void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	cv_systemd_init();
	adopt_socket_path(d);
	raise_limits();
	r = lock_run_dir(d, &err);
	if (r == 0)
		r = lock_state_dir(d, &err);
	if (r == 0 && d->inherited < 0)
		r = cv_server_check_vacant(d->socket_path, &err);
	if (r == 0)
		r = describe(d);
	if (r == 0)
		r = start_parts(d, &err);
	if (r < 0) {
		remove_socket(d);
		if (!err.code)
			(void)cv_fail(&err, -r, "%s", cv_strerror(r));
		cv_error("%s", err.text);
		return CV_EXIT_FAILURE;
	}
	start_ticker(d);
	cv_notice("cvol " CV_VERSION " is ready on %s", d->socket_path);
	report(d, "READY=1\n");
	cv_info("stopping: signal %d", main_loop(d, &signals));
	stop(d);
	return CV_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "state-dir", required_argument, NULL, 'S' },
		{ "config-dir", required_argument, NULL, 'C' },
		{ "run-dir", required_argument, NULL, 'r' },
		{ "log-level", required_argument, NULL, 'l' },
		{ "worker", required_argument, NULL, 'w' },
		{ "scope", required_argument, NULL, 'c' },
		{ "boot-wait", required_argument, NULL, 'b' },
		{ "hang-limit", required_argument, NULL, 'h' },
		{ "metrics-listen", required_argument, NULL, 'm' },
		{ "log-format", required_argument, NULL, 'f' },
		{ 0 },
	};
	struct daemon d = { .socket_path = CV_DEFAULT_SOCKET,
			    .state_dir = CV_DEFAULT_STATE_DIR,
			    .config_dir = CV_DEFAULT_CONFIG_DIR,
			    .run_dir = CV_DEFAULT_RUN_DIR,
			    .scope = "local",
			    .boot_wait_ms = BOOT_WAIT_S * 1000,
			    .hang_limit_ms = CV_HANG_LIMIT_S * 1000,
			    .inherited = -1,
			    .lock = -1,
			    .state_lock = -1 };
	enum cv_log_level level = CV_LOG_INFO;
	uint64_t seconds;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:", options, NULL)) != -1) {
		switch (c) {
		case 's':
			d.socket_path = optarg;
			break;
		case 'S':
			d.state_dir = optarg;
			break;
		case 'C':
			d.config_dir = optarg;
			break;
		case 'f':
			if (cv_log_set_format(optarg) < 0)
				return cv_usage_error(&cv_cmd_daemon,
						      "--log-format is text or json");
			break;
		case 'm':
			d.metrics_listen = optarg;
			break;
		case 'r':
			d.run_dir = optarg;
			break;
		case 'w':
			d.worker_path = optarg;
			break;
		case 'l':
			if (cv_log_level_parse(optarg, &level) < 0)
				return cv_usage_error(&cv_cmd_daemon, "unknown log level '%s'",
						      optarg);
			break;
		case 'b':
			if (cv_parse_u64(optarg, 10, BOOT_WAIT_MAX_S, &seconds) < 0)
				return cv_usage_error(&cv_cmd_daemon,
						      "--boot-wait is 0 to %d seconds",
						      BOOT_WAIT_MAX_S);
			d.boot_wait_ms = (unsigned)seconds * 1000;
			break;
		case 'h':
			if (cv_parse_u64(optarg, 10, HANG_LIMIT_MAX_S, &seconds) < 0 ||
			    (seconds && seconds < CV_HANG_LIMIT_MIN_S))
				return cv_usage_error(&cv_cmd_daemon,
						      "--hang-limit is 0, or %d to %d seconds",
						      CV_HANG_LIMIT_MIN_S, HANG_LIMIT_MAX_S);
			d.hang_limit_ms = (unsigned)seconds * 1000;
			break;
		case 'c':
			if (!cv_str_eq(optarg, "local") && !cv_str_eq(optarg, "global"))
				return cv_usage_error(&cv_cmd_daemon, "--scope is local or global");
			d.scope = optarg;
			break;
		case ':':
			return cv_usage_error(&cv_cmd_daemon, "%s needs a value", argv[optind - 1]);
		default:
			return cv_usage_error(&cv_cmd_daemon, "unknown option %s",
					      argv[optind - 1]);
		}
	}
	if (optind < argc)
		return cv_usage_error(&cv_cmd_daemon, "unexpected argument '%s'", argv[optind]);
	cv_log_init("cvol", level);
	d.driver.scope = d.scope;
	return serve(&d);
}

const struct cv_command cv_cmd_daemon = {
	.name = "daemon",
	.args = "[--socket PATH] [--state-dir DIR] [--run-dir DIR] [--config-dir DIR] "
		"[--log-level LEVEL] [--boot-wait SECONDS] [--hang-limit SECONDS] "
		"[--metrics-listen ADDRESS:PORT]",
	.summary = "Serve Docker's volume plugin protocol",
	.help = "  --socket PATH      where Docker looks for it (" CV_DEFAULT_SOCKET ");\n"
		"                     a socket handed over by systemd is preferred\n"
		"  --state-dir DIR    what must survive a reboot (" CV_DEFAULT_STATE_DIR ")\n"
		"  --config-dir DIR   cvol.json, remotes and secrets (" CV_DEFAULT_CONFIG_DIR ")\n"
		"  --run-dir DIR      mountpoints and what is mounted (" CV_DEFAULT_RUN_DIR ")\n"
		"  --log-level LEVEL  error, warning, notice, info (default) or debug\n"
		"  --log-format FORMAT  text (default), or json: one object a line\n"
		"  --boot-wait SECONDS  how long a mount waits for its server in the first ten\n"
		"                     minutes after boot (90; Docker itself waits 120)\n"
		"  --hang-limit SECONDS  a worker that shows no sign of life for so long is killed "
		"and\n"
		"                     replaced (30; 0: never). Waiting for a server is no such "
		"thing\n"
		"  --scope SCOPE      local (default) or global, as reported to Docker\n"
		"  --worker PATH      the worker program, cvol-fuse\n"
		"  --metrics-listen ADDRESS:PORT  a loopback address, e.g. 127.0.0.1:9123, where "
		"anybody\n"
		"                     on this host may read /metrics (Prometheus) and a status "
		"page\n\n"
		"SIGTERM stops it; volumes stay mounted, and the next daemon finds them again.\n",
	.run = run,
};
