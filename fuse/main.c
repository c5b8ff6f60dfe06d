/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cvol-fuse: serves one mounted volume. Started by cvol only, with its control socket as descriptor
 * 3 (config/handoff.h): connects to the server, says so, gets the FUSE descriptor of the mount that
 * cvol made meanwhile, and serves it until the kernel says that nobody uses it any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/backend.h"
#include "backends/ssh_transport.h"
#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "fuse/control.h"
#include "fuse/fs.h"
#include "fuse/probe.h"
#include "fuse/takeover.h"

#define START_TIMEOUT_MS 10000
#define SERVE_TIMEOUT_MS 60000
#define FAREWELL_MS	 300000 /* how long data nobody waits for any more is kept trying */
#define BUSY_POLL_US	 50
#define READAHEAD_NEAR	 (1u << 20)
#define READAHEAD_FAR	 (8u << 20)
#define DIRTY_PERCENT	 10u	/* of memory, for data the kernel collects */
#define READAHEAD_FAR_US 20000u /* round trip from which READAHEAD_FAR pays */

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

struct worker {
	struct cv_fs fs;
	struct cv_control *control;
	struct cv_wb_waiter farewell;
	struct cv_timer farewell_timer;
	bool gave_up; /* data and the handles it goes through are still in use */
	char volume[300];
};

static int tell_failure(int sock, const struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;

	cv_debug("failed: %s", err->text);
	(void)cv_dict_setf(&args, "errno", "%d", err->code ? -err->code : EIO);
	(void)cv_dict_set(&args, "text", err->text);
	(void)cv_handoff_send(sock, "fail", &args, NULL, 0);
	return EXIT_FAILURE;
}

/* r: of receiving msg, which should be verb with nfds descriptors. */
static int check(int r, const char *verb, size_t nfds, const struct cv_handoff *msg,
		 struct cv_err *err)
{
	if (r < 0)
		return cv_fail(err, r, "worker: waiting for %s: %s", verb, cv_strerror(r));
	if (!cv_str_eq(msg->verb, verb) || msg->nfds < nfds)
		return cv_fail(err, EPROTO, "worker: got '%s' with %zu descriptors, expected '%s'",
			       msg->verb, msg->nfds, verb);
	return 0;
}

/* Long round trips need more of a file on its way. */
static unsigned readahead_kb(const struct cv_info *info, const struct cv_dict *options)
{
	uint64_t wanted = cv_options_uint(options, "readahead", 0);
	uint64_t near = info->readahead_near ? info->readahead_near : READAHEAD_NEAR;
	uint64_t far = info->readahead_far ? info->readahead_far : READAHEAD_FAR;
	uint64_t bytes;

	if (wanted)
		return (unsigned)(wanted / 1024);
	bytes = near + (far - near) * info->rtt_us / READAHEAD_FAR_US;
	if (bytes > far)
		bytes = far;
	/* The kernel would ask for what is beyond whole requests in a small one, each time. */
	return (unsigned)((bytes - bytes % near) / 1024);
}

static int tell_ready(int sock, const struct cv_info *info, const struct cv_dict *options)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;

	(void)cv_dict_setf(&args, "rootmode", "%o", (info->root.attr.mode & 07777) | S_IFDIR);
	(void)cv_dict_setf(&args, "max_read", "%u", CV_MAX_IO);
	(void)cv_dict_setf(&args, "max_write", "%u", CV_MAX_IO);
	(void)cv_dict_setf(&args, "readahead_kb", "%u", readahead_kb(info, options));
	if (cv_options_bool(options, "writeback_cache", false))
		(void)cv_dict_setf(&args, "dirty_percent", "%u", DIRTY_PERCENT);
	(void)cv_dict_setf(&args, "rtt_us", "%u", info->rtt_us);
	(void)cv_dict_set(&args, "server", info->server);
	if (info->made_subdir)
		(void)cv_dict_set(&args, "made_subdir", "1");
	return cv_handoff_send(sock, "ready", &args, NULL, 0);
}

static void drain(struct worker *w);

static void farewell_done(struct cv_wb_waiter *waiter, int result)
{
	struct worker *w = cv_container_of(waiter, struct worker, farewell);

	(void)result;
	/* A write that waited in line has got its turn meanwhile. */
	if (cv_wb_bytes(w->fs.wb))
		drain(w);
	else
		cv_loop_stop(w->fs.loop);
}

static void drain(struct worker *w)
{
	w->farewell.done = farewell_done;
	cv_wb_drain_all(w->fs.wb, &w->farewell, cv_fs_settled(&w->fs));
}

static void farewell_timeout(struct cv_timer *timer)
{
	struct worker *w = cv_container_of(timer, struct worker, farewell_timer);

	cv_error("%" PRIu64 " bytes could not be stored: %s did not come back",
		 cv_wb_bytes(w->fs.wb), w->fs.mount.info.server);
	cv_wb_cancel(&w->farewell);
	w->gave_up = true;
	cv_loop_stop(w->fs.loop);
}

static void gone(struct cv_fs *fs)
{
	struct worker *w = cv_container_of(fs, struct worker, fs);

	cv_debug("the last user is gone");
	w->farewell_timer = (struct cv_timer)CV_TIMER_INIT(farewell_timeout);
	(void)cv_timer_set(fs->loop, &w->farewell_timer, FAREWELL_MS);
	drain(w);
}

/* What closing handles has started (hidden files) gets a moment; nobody waits for it. */
static void finish_engine(struct cv_fs *fs)
{
	uint64_t until = cv_now_ns() + 3000000000ull;

	while (fs->mount.in_flight && cv_now_ns() < until)
		(void)cv_loop_turn(fs->loop, 100);
}

static int serve(struct worker *w, int sock, int listen_fd, int fuse_fd,
		 const struct cv_dict *options, struct cv_err *err)
{
	struct cv_fs *fs = &w->fs;
	int r = cv_fs_start(fs, options, fuse_fd, err);

	if (r < 0)
		return r;
	r = cv_control_new(fs, sock, listen_fd, &w->control);
	if (r < 0)
		return cv_fail(err, -r, "worker: control socket: %s", cv_strerror(r));
	if (!fs->takeover)
		(void)cv_handoff_send(sock, "serving", NULL, NULL, 0);
	cv_loop_poll(fs->loop, (unsigned)cv_options_uint(options, "busy_poll", BUSY_POLL_US),
		     &fs->request_count);
	cv_debug("serving %s", fs->mount.info.server);
	r = cv_loop_run(fs->loop);
	if (r < 0)
		cv_error("event loop: %s", cv_strerror(r));
	return 0;
}

/* A mount's first worker: connected before there is a mount. Returns the FUSE descriptor. */
static int connect_first(struct worker *w, int sock, const struct cv_dict *options,
			 struct cv_err *err)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	struct cv_fs *fs = &w->fs;
	const struct cv_replays lasting = { .peers = fs->shm.state->peers };
	int r = cv_mount_resume(options, fs->loop, &lasting, &fs->mount, err);

	if (r == 0)
		r = tell_ready(sock, &fs->mount.info, options);
	if (r == 0)
		r = check(cv_handoff_recv(sock, SERVE_TIMEOUT_MS, &msg), "serve", 1, &msg, err);
	return r < 0 ? r : cv_steal_fd(&msg.fds[0]);
}

/* Whoever holds the shared memory need not start a successor. */
static void finished(struct cv_fs *fs)
{
	fs->shm.header->finished = 1;
}

static void abandon(struct cv_fs *fs)
{
	finished(fs);
	_exit(0);
}

/* A successor serves from the start, as far as it goes without the server. */
static int connect_again(struct worker *w, int sock, int fuse_fd, int listen_fd,
			 const struct cv_dict *options, struct cv_err *err)
{
	int r;

	(void)cv_handoff_send(sock, "serving", NULL, NULL, 0);
	r = cv_takeover_connect(&w->fs, options, fuse_fd, listen_fd, abandon, err);
	return r < 0 ? r : fuse_fd;
}

static void prepare_process(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };

	/* The kernel ends a worker, through ENODEV; a signal would only lose data. */
	(void)sigaction(SIGPIPE, &ignore, NULL);
	(void)sigaction(SIGINT, &ignore, NULL);
	(void)sigaction(SIGHUP, &ignore, NULL);
	(void)sigaction(SIGTERM, &ignore, NULL);
	/* Our allocations may be what frees memory by writing pages back. */
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	/* 1 MiB buffers come and go: do not map and unmap each. */
	(void)mallopt(M_MMAP_THRESHOLD, 8 << 20);
	(void)mallopt(M_TRIM_THRESHOLD, 32 << 20);
	umask(0);
}

/* One line for cvol doctor. */
static int print_versions(void)
{
	(void)printf("cvol-fuse " CV_VERSION " (libfuse %s, libssh %s)\n", fuse_pkgversion(),
		     cv_ssh_library_version());
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	cv_cleanup_handoff struct cv_handoff start = CV_HANDOFF_INIT;
	struct cv_err err = { 0 };
	struct worker *w = calloc(1, sizeof(*w));
	enum cv_log_level level = CV_LOG_INFO;
	int sock = CV_HANDOFF_FD, listen_fd = -1, fuse_fd = -1;
	const char *text;
	char who[320];
	int r;

	if (argc > 1 && cv_str_eq(argv[1], "--version"))
		return print_versions();
	/* Before it replaces a worker of another version: can it go on with that one's memory? */
	if (argc == 3 && cv_str_eq(argv[1], CV_CHECK_LAYOUT))
		return strtoul(argv[2], NULL, 10) == CV_SHM_VERSION ? EXIT_SUCCESS : EXIT_FAILURE;
	if (!w || fcntl(sock, F_SETFD, FD_CLOEXEC) < 0) {
		(void)fprintf(stderr,
			      "%s is started by cvol; to mount something, use: cvol mount\n",
			      argv[0]);
		free(w);
		return 2;
	}
	prepare_process();
	cv_log_init("cvol-fuse", level);
	r = cv_handoff_recv(sock, START_TIMEOUT_MS, &start);
	if (r == 0 && cv_str_eq(start.verb, "probe"))
		return cv_probe_run(sock, &start.args);
	r = check(r, "start", 1, &start, &err);
	if (r < 0)
		return tell_failure(sock, &err);
	text = cv_dict_get(&start.args, "volume");
	(void)cv_strcpy(w->volume, sizeof(w->volume), text ? text : "?");
	(void)snprintf(who, sizeof(who), "cvol-fuse[%s]", w->volume);
	text = cv_dict_get(&start.args, "log_level");
	if (text)
		(void)cv_log_level_parse(text, &level);
	cv_log_init(who, level);
	(void)cv_dict_remove(&start.args, "volume");
	(void)cv_dict_remove(&start.args, "log_level");
	text = cv_dict_get(&start.args, "log_format");
	if (text)
		(void)cv_log_set_format(text);
	(void)cv_dict_remove(&start.args, "log_format");

	r = cv_shm_map(start.fds[0], &w->fs.shm, &err);
	if (r < 0)
		return tell_failure(sock, &err);
	start.fds[0] = -1;
	if (w->fs.shm.header->log_level)
		cv_log_set_level((enum cv_log_level)w->fs.shm.header->log_level);
	if (start.nfds > 1) {
		listen_fd = cv_steal_fd(&start.fds[1]);
		/* A daemon to come learns from it who we are, even if we do not answer. */
		(void)listen(listen_fd, CV_HANDOFF_BACKLOG);
	}
	if (start.nfds > 2)
		fuse_fd = cv_steal_fd(&start.fds[2]);
	if (cv_loop_new(&w->fs.loop) < 0) {
		(void)cv_fail(&err, ENOMEM, "worker: out of memory");
		return tell_failure(sock, &err);
	}
	w->fs.on_gone = gone;
	fuse_fd = fuse_fd < 0 ? connect_first(w, sock, &start.args, &err)
			      : connect_again(w, sock, fuse_fd, listen_fd, &start.args, &err);
	r = fuse_fd < 0 ? fuse_fd : serve(w, sock, listen_fd, fuse_fd, &start.args, &err);
	if (r < 0) {
		r = tell_failure(sock, &err);
		cv_mount_disconnect(&w->fs.mount);
		return r;
	}
	cv_control_free(w->control);
	cv_timer_cancel(w->fs.loop, &w->farewell_timer);
	if (!w->gave_up) {
		cv_fs_close_handles(&w->fs);
		finish_engine(&w->fs);
	}
	if (w->gave_up || w->fs.mount.in_flight) {
		/* A server that is away still holds operations; what they point to must stay. */
		cv_notice("leaving with %" PRIu64 " unanswered operations", w->fs.mount.in_flight);
		abandon(&w->fs);
	}
	finished(&w->fs);
	cv_mount_disconnect(&w->fs.mount); /* the engine's records are in the shared memory */
	cv_fs_release(&w->fs);
	cv_loop_free(w->fs.loop);
	free(w);
	return 0;
}
