/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/files.h"
#include "plugin/holder.h"
#include "plugin/mountpoint.h"
#include "plugin/process.h"
#include "plugin/spawn.h"
#include "plugin/systemd.h"

#define SOCKET_NAME_MAX (CV_ENCODED_SOCKET + 6)
#define SERVE_MS	5000 /* from mounted to serving: no server is involved */
#define LOG_MS		2000
#define ADOPT_MS	3000
#define SETTLE_MS	1000 /* of a take-over, waited for by a sync, */
#define SETTLE_AGAIN_MS 5000 /* and by one whose worker has just died: far servers take longer */
#define SYNC_AGAIN_MS	50
#define EXIT_WAIT_MS	2000 /* after unmounting */
#define KILL_WAIT_MS	2000
#define CONNECT_MS	15000 /* a successor's attempt to connect; it makes more */
#define BACKOFF_MIN_MS	100
#define BACKOFF_MAX_MS	30000
#define HANG_DOUBLINGS	5     /* of the hang limit, for one that hangs again and again */
#define LOOKS		6     /* for signs of life, in the time of the hang limit */
#define NO_LIMIT_MS	30000 /* in place of one, for what else is looked at */
#define FAREWELL_TRIES	20    /* to store what is left of a mount that nobody uses any more */
#define GRACE_MS	500   /* for the text of a worker that ran into its own time limit */

enum worker_state {
	WORKER_STARTING,
	WORKER_SERVING,
	WORKER_REPLACING, /* it died; a successor is being started */
	WORKER_ENDED,
};

struct cv_worker {
	struct cv_supervisor *sup;
	struct cv_worker *next;	 /* in sup->workers; protected by sup->lock */
	unsigned refs;		 /* protected by sup->lock; the list holds one until the end */
	enum worker_state state; /* protected by sup->lock */
	bool end_expected;	 /* protected by sup->lock: unmounted or killed by us */
	unsigned replaced;	 /* how often; protected by sup->lock */
	unsigned idle_deaths;	 /* in a row, without an answer in between; the watching thread's */
	uint64_t answered;	 /* at the last death; likewise */
	uint64_t beat;		 /* its last sign of life; likewise */
	uint64_t silent_ms;	 /* how long that has been the last; likewise */
	bool hung;		 /* killed for that; likewise */
	bool unattended;  /* REPLACING, and no thread could be started; protected by sup->lock */
	char *volume;	  /* owned */
	char *mountpoint; /* owned */
	struct cv_dict options; /* what a successor is told; protected by sup->lock */
	char socket_name[SOCKET_NAME_MAX];
	bool bare;
	pid_t pid;	/* protected by sup->lock, as are the next two: a successor is another */
	uint64_t start; /* process */
	int pidfd;	/* owned; once it is watched, the watching thread may read it without */
	int program; /* owned: what the one that served last ran; -1: unknown. Of who starts it */
	uint64_t dev;
	int fuse_fd; /* owned; protected by sup->lock once serving */
	int shm_fd;  /* owned; likewise */
	char server[256];
	bool made_subdir;
	char error[512]; /* protected by sup->lock */
};

struct cv_supervisor {
	char *worker_path; /* owned */
	int socket_dir;	   /* owned */
	int worker_stderr;
	unsigned hang_limit_ms;
	int epoll;
	int wake; /* eventfd: stop */
	pthread_t thread;
	bool have_thread;
	pthread_mutex_t lock;
	pthread_cond_t ended; /* a worker's state became WORKER_ENDED; stopping; replacing is 0 */
	struct cv_worker *workers;
	void (*replaced)(void *arg, struct cv_worker *worker);
	void *arg;
	unsigned replacing; /* threads that start successors; protected by lock */
	bool stopping;	    /* protected by lock */
};

/* ---- life of a worker object ---- */

static void worker_free(struct cv_worker *w)
{
	cv_close_fd(&w->pidfd);
	cv_close_fd(&w->program);
	cv_close_fd(&w->fuse_fd);
	cv_close_fd(&w->shm_fd);
	cv_dict_release(&w->options);
	free(w->volume);
	free(w->mountpoint);
	free(w);
}

static void unref_locked(struct cv_worker *w)
{
	if (--w->refs == 0)
		worker_free(w);
}

struct cv_worker *cv_worker_ref(struct cv_worker *w)
{
	CV_SCOPED_LOCK(&w->sup->lock);
	w->refs++;
	return w;
}

void cv_worker_unref(struct cv_worker *w)
{
	if (w) {
		CV_SCOPED_LOCK(&w->sup->lock);
		unref_locked(w);
	}
}

static struct cv_worker *worker_new(struct cv_supervisor *sup, const char *volume,
				    const char *mountpoint, const char *socket_name,
				    const struct cv_dict *options)
{
	struct cv_worker *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->sup = sup;
	w->refs = 1;
	w->pidfd = w->program = w->fuse_fd = w->shm_fd = -1;
	w->volume = strdup(volume);
	w->mountpoint = strdup(mountpoint);
	if (!w->volume || !w->mountpoint || cv_dict_copy(&w->options, options) < 0 ||
	    !cv_strcpy(w->socket_name, sizeof(w->socket_name), socket_name)) {
		worker_free(w);
		return NULL;
	}
	return w;
}

/*
 * Under which the service manager keeps its descriptors. The device tells a mount apart from an
 * earlier one of the same volume that a container still holds.
 */
static void parked_name(const struct cv_worker *w, char name[CV_PARKED_NAME_MAX])
{
	(void)snprintf(name, CV_PARKED_NAME_MAX, "%s.%llx", w->socket_name,
		       (unsigned long long)w->dev);
}

static void park(const struct cv_worker *w)
{
	char name[CV_PARKED_NAME_MAX];
	int fuse, shm;

	parked_name(w, name);
	if (cv_systemd_take_parked(name, &fuse, &shm)) { /* an earlier daemon did it */
		(void)close(fuse);
		(void)close(shm);
	} else {
		cv_systemd_park(name, w->fuse_fd, w->shm_fd);
	}
}

/* With the mount at its end; never waits. */
static void unpark(const struct cv_worker *w)
{
	char name[CV_PARKED_NAME_MAX];

	parked_name(w, name);
	cv_systemd_unpark(name);
}

/* From here on the watching thread looks after its process. */
static int watch_locked(struct cv_worker *w)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = w };

	return epoll_ctl(w->sup->epoll, EPOLL_CTL_ADD, w->pidfd, &event) < 0 ? -errno : 0;
}

/* The list has its own reference. */
static void list_locked(struct cv_worker *w)
{
	w->refs++;
	w->next = w->sup->workers;
	w->sup->workers = w;
}

static int worker_watch(struct cv_worker *w)
{
	int r;

	CV_SCOPED_LOCK(&w->sup->lock);
	r = watch_locked(w);
	if (r == 0)
		list_locked(w);
	return r;
}

static void describe_end(const struct cv_worker *w, const siginfo_t *info, bool known, char *out,
			 size_t size)
{
	if (w->hung)
		(void)snprintf(out, size, "hung and was killed");
	else if (!known)
		(void)snprintf(out, size, "ended");
	else if (info->si_code == CLD_EXITED)
		(void)snprintf(out, size, "exited with status %d", info->si_status);
	else
		(void)snprintf(out, size, "was killed by signal %d (%s)", info->si_status,
			       sigdescr_np(info->si_status) ? sigdescr_np(info->si_status) : "?");
}

/* What a worker left in the first page of the shared memory. */
static bool read_header(int shm_fd, struct cv_shm_header *ret)
{
	return shm_fd >= 0 && pread(shm_fd, ret, sizeof(*ret), 0) == (ssize_t)sizeof(*ret);
}

static void replace(struct cv_worker *w);
static void replace_unattended(struct cv_supervisor *sup);

/* Can another worker go on where this one ended, and has it something to do? Then header says where
 * it ended. */
static bool is_replaceable(const struct cv_worker *w, struct cv_shm_header *header)
{
	return w->state == WORKER_SERVING && read_header(w->shm_fd, header) &&
	       header->replaceable && !header->finished;
}

/* Deaths without a single answer in between: each time the next one waits for longer. */
static void count_death(struct cv_worker *w, const struct cv_shm_header *header)
{
	w->idle_deaths = header->answered == w->answered ? w->idle_deaths + 1 : 0;
	w->answered = header->answered;
}

/* A fault of its own, or somebody's kill? */
static bool is_crash(const siginfo_t *info, bool known)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP };
	bool crash = false;

	for (size_t i = 0; i < CV_ARRAY_SIZE(faults); i++)
		crash |= known && info->si_code != CLD_EXITED && info->si_status == faults[i];
	return crash;
}

/* The successor suspects the requests that were under way. */
static void tell_crash(const struct cv_worker *w, const siginfo_t *info, bool known)
{
	uint32_t crashed = is_crash(info, known);

	(void)!pwrite(w->shm_fd, &crashed, sizeof(crashed),
		      offsetof(struct cv_shm_header, crashed));
}

static void end_locked(struct cv_worker *w)
{
	struct cv_supervisor *sup = w->sup;

	for (struct cv_worker **p = &sup->workers; *p; p = &(*p)->next) {
		if (*p == w) {
			*p = w->next;
			break;
		}
	}
	/* The last descriptors: whoever waits for an answer gets an error instead of none. */
	if (w->state != WORKER_STARTING) {
		unpark(w);
		cv_close_fd(&w->fuse_fd);
		cv_close_fd(&w->shm_fd);
	}
	w->state = WORKER_ENDED;
	(void)pthread_cond_broadcast(&sup->ended);
	unref_locked(w);
}

static void worker_ended(struct cv_supervisor *sup, struct cv_worker *w)
{
	siginfo_t info = { 0 };
	/* An adopted worker is not our child: that it ended is all there is to know. */
	bool known =
		waitid(P_PIDFD, (id_t)w->pidfd, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0;
	struct cv_shm_header header;
	char how[128];

	describe_end(w, &info, known, how, sizeof(how));
	w->hung = false;
	w->silent_ms = 0;
	CV_SCOPED_LOCK(&sup->lock);
	(void)epoll_ctl(sup->epoll, EPOLL_CTL_DEL, w->pidfd, NULL);
	(void)snprintf(w->error, sizeof(w->error), "the worker (pid %d) %s", (int)w->pid, how);
	if (is_replaceable(w, &header)) {
		cv_warning("volume '%s': %s; another one takes over", w->volume, w->error);
		count_death(w, &header);
		tell_crash(w, &info, known);
		replace(w);
		return;
	}
	if (w->end_expected && is_crash(&info, known))
		cv_error("volume '%s': %s while it was ending; please report it", w->volume,
			 w->error);
	else if (w->end_expected || w->state == WORKER_STARTING)
		cv_debug("volume '%s': %s", w->volume, w->error);
	else if (known && info.si_code == CLD_EXITED && info.si_status == 0)
		/* It ends by itself only when the kernel says that the mount is gone. */
		cv_warning("volume '%s': somebody else unmounted %s", w->volume, w->mountpoint);
	else
		cv_error("volume '%s': %s; its users get 'Transport endpoint is not connected' "
			 "until they are started again",
			 w->volume, w->error);
	end_locked(w);
}

/* Each time in a row that nothing was answered in between, twice as long: what makes it hang, say a
 * disk that answers after a minute, may only need more time. */
static uint64_t hang_limit_ms(const struct cv_worker *w)
{
	unsigned times = w->idle_deaths < HANG_DOUBLINGS ? w->idle_deaths : HANG_DOUBLINGS;

	return (uint64_t)w->sup->hang_limit_ms << times;
}

static const char *describe_hang(pid_t pid)
{
	switch (cv_process_state(pid)) {
	case 'T':
		return "it is stopped";
	case 't':
		return "a debugger stopped it";
	case 'R':
		return "it is busy with something that does not end";
	case 'D':
		return "it is blocked in the kernel";
	default:
		return "it waits for something";
	}
}

static void hang_locked(struct cv_worker *w)
{
	const unsigned long long s = w->silent_ms / 1000;
	struct cv_shm_header header;

	w->silent_ms = 0;
	if (w->hung) {
		cv_error("volume '%s': worker %d does not end after SIGKILL: %s; programs that use "
			 "the volume wait until it does",
			 w->volume, (int)w->pid, describe_hang(w->pid));
	} else if (!is_replaceable(w, &header)) {
		if (!header.finished)
			cv_error("volume '%s': worker %d has given no sign of life for %llu s: %s",
				 w->volume, (int)w->pid, s, describe_hang(w->pid));
	} else {
		cv_error("volume '%s': worker %d has given no sign of life for %llu s: %s; killing "
			 "it, so that another one takes over",
			 w->volume, (int)w->pid, s, describe_hang(w->pid));
		w->hung = cv_pidfd_signal(w->pidfd, SIGKILL) == 0;
	}
}

/* passed_ms: since the last look. */
static void look_for_life(struct cv_supervisor *sup, uint64_t passed_ms)
{
	CV_SCOPED_LOCK(&sup->lock);
	for (struct cv_worker *w = sup->workers; w; w = w->next) {
		uint64_t beat = w->state == WORKER_SERVING ? cv_counters_read_beat(w->shm_fd) : 0;

		w->silent_ms += passed_ms;
		if (beat != w->beat || !beat) {
			w->beat = beat;
			w->silent_ms = 0;
		}
		if (w->silent_ms >= hang_limit_ms(w))
			hang_locked(w);
	}
}

static void *watch_thread(void *arg)
{
	struct cv_supervisor *sup = arg;
	const uint64_t period_ms = (sup->hang_limit_ms ? sup->hang_limit_ms : NO_LIMIT_MS) / LOOKS;
	uint64_t looked_ms = cv_clock_ms();
	struct epoll_event events[16];

	for (;;) {
		int n = epoll_wait(sup->epoll, events, CV_ARRAY_SIZE(events),
				   cv_clock_left_ms(looked_ms + period_ms));
		uint64_t passed_ms = cv_clock_ms() - looked_ms;

		if (n < 0 && errno != EINTR) {
			cv_error("watching the workers failed: %s", cv_strerror(errno));
			return NULL;
		}
		for (int i = 0; i < n; i++) {
			if (!events[i].data.ptr)
				return NULL;
			worker_ended(sup, events[i].data.ptr);
		}
		if (passed_ms < period_ms)
			continue;
		/* Whatever kept us from looking has kept the workers from working, too. */
		if (sup->hang_limit_ms)
			look_for_life(sup, passed_ms < 2 * period_ms ? passed_ms : period_ms);
		replace_unattended(sup);
		looked_ms = cv_clock_ms();
	}
}

bool cv_worker_wait(struct cv_worker *w, int timeout_ms)
{
	uint64_t deadline = cv_clock_ms() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms);
	struct timespec until = cv_clock_timespec(deadline);
	int r = 0;

	CV_SCOPED_LOCK(&w->sup->lock);
	while (w->state != WORKER_ENDED && r == 0) {
		if (timeout_ms < 0)
			r = pthread_cond_wait(&w->sup->ended, &w->sup->lock);
		else
			r = pthread_cond_timedwait(&w->sup->ended, &w->sup->lock, &until);
	}
	return w->state == WORKER_ENDED;
}

/* ---- the supervisor ---- */

static int init_locks(struct cv_supervisor *sup)
{
	pthread_condattr_t attr;

	(void)pthread_mutex_init(&sup->lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&sup->ended, &attr);
	(void)pthread_condattr_destroy(&attr);
	return 0;
}

int cv_supervisor_new(const struct cv_supervisor_config *config, struct cv_supervisor **ret,
		      struct cv_err *err)
{
	struct cv_supervisor *sup = calloc(1, sizeof(*sup));
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };
	int r = 0;

	if (!sup)
		return cv_fail(err, ENOMEM, "out of memory");
	(void)init_locks(sup);
	sup->worker_stderr = config->worker_stderr;
	sup->hang_limit_ms = config->hang_limit_ms;
	sup->replaced = config->replaced;
	sup->arg = config->arg;
	sup->socket_dir = -1;
	sup->epoll = epoll_create1(EPOLL_CLOEXEC);
	sup->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	sup->worker_path = cv_worker_find(config->worker_path);
	if (!sup->worker_path || access(sup->worker_path, X_OK) < 0)
		r = cv_fail(err, errno, "the worker program %s cannot be run: %s",
			    sup->worker_path	  ? sup->worker_path
			    : config->worker_path ? config->worker_path
						  : CV_WORKER_PROGRAM,
			    cv_strerror(errno));
	if (r == 0) {
		sup->socket_dir = cv_dir_open(AT_FDCWD, config->socket_dir, 0700, err);
		r = sup->socket_dir < 0 ? sup->socket_dir : 0;
	}
	if (r == 0 && (sup->epoll < 0 || sup->wake < 0 ||
		       epoll_ctl(sup->epoll, EPOLL_CTL_ADD, sup->wake, &event) < 0))
		r = cv_fail(err, errno, "epoll: %s", cv_strerror(errno));
	if (r == 0) {
		r = -pthread_create(&sup->thread, NULL, watch_thread, sup);
		if (r < 0)
			(void)cv_fail(err, -r, "cannot start a thread: %s", cv_strerror(r));
	}
	if (r < 0) {
		cv_supervisor_free(sup);
		return r;
	}
	sup->have_thread = true;
	*ret = sup;
	return 0;
}

/* A successor on its way is let through: bounded by SERVE_MS. */
static void stop_replacing(struct cv_supervisor *sup)
{
	CV_SCOPED_LOCK(&sup->lock);
	sup->stopping = true;
	(void)pthread_cond_broadcast(&sup->ended);
	while (sup->replacing)
		(void)pthread_cond_wait(&sup->ended, &sup->lock);
}

void cv_supervisor_free(struct cv_supervisor *sup)
{
	if (!sup)
		return;
	if (sup->have_thread) {
		uint64_t one = 1;

		(void)!write(sup->wake, &one, sizeof(one));
		(void)pthread_join(sup->thread, NULL);
	}
	stop_replacing(sup);
	while (sup->workers) {
		struct cv_worker *w = sup->workers;

		sup->workers = w->next;
		worker_free(w);
	}
	cv_close_fd(&sup->epoll);
	cv_close_fd(&sup->wake);
	cv_close_fd(&sup->socket_dir);
	(void)pthread_cond_destroy(&sup->ended);
	(void)pthread_mutex_destroy(&sup->lock);
	free(sup->worker_path);
	free(sup);
}

void cv_supervisor_abandon(struct cv_supervisor *sup)
{
	CV_SCOPED_LOCK(&sup->lock);
	for (struct cv_worker *w = sup->workers; w; w = w->next) {
		if (w->state == WORKER_STARTING)
			(void)cv_pidfd_signal(w->pidfd, SIGKILL);
	}
}

/* ---- sockets of workers ---- */

/* Through the directory's descriptor, so that a long path does not matter (sun_path has 108 bytes).
 */
static int socket_address(int dirfd, const char *name, struct sockaddr_un *addr)
{
	int n;

	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	n = snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s", dirfd, name);
	return n < 0 || (size_t)n >= sizeof(addr->sun_path) ? -ENAMETOOLONG : 0;
}

static int listen_socket(int dirfd, const char *name)
{
	cv_cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr;
	int r = socket_address(dirfd, name, &addr);

	if (r < 0 || fd < 0)
		return r < 0 ? r : -errno;
	(void)unlinkat(dirfd, name, 0);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(fd, CV_HANDOFF_BACKLOG) < 0)
		return -errno;
	return cv_steal_fd(&fd);
}

/*
 * Where a daemon to come looks for the worker. A mount that is no more and is served for who still
 * has it is looked for by nobody: its volume may be mounted anew by now, and the name be that
 * one's.
 */
static int listen_for(struct cv_worker *w)
{
	char name[32];
	bool named;
	int fd;

	{
		CV_SCOPED_LOCK(&w->sup->lock);
		named = !w->end_expected;
	}
	if (named)
		return listen_socket(w->sup->socket_dir, w->socket_name);
	(void)snprintf(name, sizeof(name), ".left-%llx", (unsigned long long)w->dev);
	fd = listen_socket(w->sup->socket_dir, name);
	(void)unlinkat(w->sup->socket_dir, name, 0);
	return fd;
}

static int connect_socket(int dirfd, const char *name)
{
	/* Non-blocking: a full backlog answers EAGAIN instead of waiting for a hung worker. */
	cv_cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr;
	int r = socket_address(dirfd, name, &addr);

	if (r < 0 || fd < 0)
		return r < 0 ? r : -errno;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return cv_steal_fd(&fd);
}

/* The worker's own words, or what kept it from saying them. */
static int take_answer(int r, struct cv_handoff *msg, const char *expected, struct cv_err *err)
{
	const char *text, *number;
	uint64_t code = 0;

	if (r == -ETIMEDOUT)
		return cv_fail(err, ETIMEDOUT, "no answer from the worker in time");
	if (r == -ECONNRESET || r == -EPIPE)
		return cv_fail(err, ECONNRESET, "the worker ended");
	if (r < 0)
		return cv_fail(err, -r, "talking to the worker: %s", cv_strerror(r));
	if (cv_str_eq(msg->verb, expected))
		return 0;
	if (!cv_str_eq(msg->verb, "fail"))
		return cv_fail(err, EPROTO, "unexpected answer '%s' from the worker", msg->verb);
	text = cv_dict_get(&msg->args, "text");
	number = cv_dict_get(&msg->args, "errno");
	if (!number || cv_parse_u64(number, 10, 4095, &code) < 0 || code == 0)
		code = EIO;
	return cv_fail(err, (int)code, "%s", text ? text : cv_strerror((int)code));
}

/*
 * One request over a connection of its own: an answer that comes too late ends with it instead of
 * being taken for the answer to the next request.
 */
static int call(int dirfd, const char *name, const char *verb, const struct cv_dict *args,
		const char *expected, unsigned timeout_ms, struct cv_handoff *msg,
		struct cv_err *err)
{
	cv_cleanup_close int sock = connect_socket(dirfd, name);
	int r = sock < 0 ? sock : cv_handoff_send(sock, verb, args, NULL, 0);

	if (sock < 0)
		return cv_fail(err, -sock, "cannot connect to the worker: %s", cv_strerror(sock));
	if (r == 0)
		r = cv_handoff_recv(sock, (int)timeout_ms, msg);
	return take_answer(r, msg, expected, err);
}

int cv_worker_call(int dirfd, const char *name, const char *verb, const struct cv_dict *args,
		   unsigned timeout_ms, struct cv_err *err)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;

	return call(dirfd, name, verb, args, cv_str_eq(verb, "sync") ? "synced" : "ok", timeout_ms,
		    &msg, err);
}

int cv_worker_set_log_level(struct cv_worker *w, enum cv_log_level level, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;

	if (cv_dict_set(&args, "level", cv_log_level_name(level)) < 0)
		return cv_fail(err, ENOMEM, "out of memory");
	return cv_worker_call(w->sup->socket_dir, w->socket_name, "log", &args, LOG_MS, err);
}

int cv_worker_counters(int dirfd, const char *name, unsigned timeout_ms, struct cv_counters *ret,
		       struct cv_err *err)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	int r = call(dirfd, name, "fds", NULL, "fds", timeout_ms, &msg, err);

	if (r == 0 && msg.nfds < 2)
		r = cv_fail(err, EPROTO, "the worker sent no descriptors");
	if (r == 0 && (r = cv_counters_read(msg.fds[1], ret)) < 0)
		(void)cv_fail(err, -r, "the worker has no counters");
	return r;
}

/* A worker that only does not answer still has requests in its hands: no second one may serve. */
static bool is_nobody(int r)
{
	return r == -ECONNREFUSED || r == -ECONNRESET || r == -EPIPE || r == -ENOENT || r == -ESRCH;
}

/* -EAGAIN: it is taking over. *ret_died: it ended before it answered; there may be a successor. */
static int sync_once(struct cv_worker *w, uint64_t deadline, bool *ret_died, struct cv_err *err)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;
	cv_cleanup_close int sock = connect_socket(w->sup->socket_dir, w->socket_name);
	int r, left_ms;

	*ret_died = sock < 0 && is_nobody(sock);
	if (sock < 0)
		return cv_fail(err, -sock, "cannot connect to the worker: %s", cv_strerror(sock));
	/* docker stop and kill wait for us. With the server away the data does not get there
	 * however long that is; it stays with the worker. */
	if (cv_dict_set(&args, "unless_away", "1") < 0)
		return cv_fail(err, ENOMEM, "out of memory");
	r = cv_handoff_send(sock, "sync", &args, NULL, 0);
	left_ms = cv_clock_left_ms(deadline);
	if (r == 0)
		r = left_ms ? cv_handoff_recv(sock, left_ms, &msg) : -ETIMEDOUT;
	*ret_died = is_nobody(r);
	return take_answer(r, &msg, "synced", err);
}

static void sync_pause(void)
{
	const struct timespec pause = { .tv_nsec = SYNC_AGAIN_MS * 1000000L };

	(void)nanosleep(&pause, NULL);
}

/* With the worker of the moment; *died: it is not the first one. */
static int sync_now(struct cv_worker *w, uint64_t deadline, bool *died, struct cv_err *err)
{
	const unsigned settle_ms = *died ? SETTLE_AGAIN_MS : SETTLE_MS;
	struct timespec until = cv_clock_timespec(deadline);
	uint64_t settled;
	int r = 0;

	{
		CV_SCOPED_LOCK(&w->sup->lock);
		while (w->state == WORKER_REPLACING && r == 0)
			r = pthread_cond_timedwait(&w->sup->ended, &w->sup->lock, &until);
		*died = false;
		if (w->state == WORKER_ENDED)
			return cv_fail(err, EIO, "%s; what was written last may be missing",
				       w->error);
	}
	/* With the server there a successor has settled in a moment. */
	settled = cv_clock_ms() + settle_ms;
	while ((r = sync_once(w, deadline, died, err)) == -EAGAIN && cv_clock_ms() < settled)
		sync_pause();
	return r;
}

int cv_worker_sync(struct cv_worker *w, unsigned timeout_ms, struct cv_err *err)
{
	uint64_t deadline = cv_clock_ms() + timeout_ms;
	bool died = false;
	int r;

	/* What one that dies meanwhile (or hung, or is upgraded) had to store, the next one has. */
	while ((r = sync_now(w, deadline, &died, err)) < 0 && died && cv_clock_left_ms(deadline))
		sync_pause(); /* until we hear of its death, too */
	return r;
}

/* ---- starting one ---- */

static int create_shm(int *ret_fd, struct cv_err *err)
{
	cv_cleanup_close int fd = memfd_create("cvol", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct cv_shm_header header = { .magic = CV_SHM_MAGIC, .version = CV_SHM_VERSION };

	if (fd < 0 || ftruncate(fd, (off_t)CV_SHM_SIZE) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0 ||
	    pwrite(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return cv_fail(err, errno, "cannot create shared memory: %s", cv_strerror(errno));
	*ret_fd = cv_steal_fd(&fd);
	return 0;
}

/* The process that is the worker from now on; takes pidfd. */
static void set_process(struct cv_worker *w, pid_t pid, uint64_t start_ticks, int pidfd)
{
	CV_SCOPED_LOCK(&w->sup->lock);
	cv_close_fd(&w->pidfd);
	w->pid = pid;
	w->start = start_ticks;
	w->pidfd = pidfd;
}

/* The number stays, for people and records, until there is another. */
static void close_pidfd(struct cv_worker *w)
{
	CV_SCOPED_LOCK(&w->sup->lock);
	cv_close_fd(&w->pidfd);
}

static pid_t pid_of(struct cv_worker *w)
{
	CV_SCOPED_LOCK(&w->sup->lock);
	return w->pid;
}

/*
 * What the worker that serves now runs. Installed may be another one by the time that it ends, or
 * none: its package was upgraded or removed.
 */
static void note_program(struct cv_worker *w)
{
	cv_cleanup_close int fd = -1;
	char path[32];

	(void)snprintf(path, sizeof(path), "/proc/%d/exe", (int)w->pid);
	fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0 || cv_wait_readable(w->pidfd, 0)) /* ended: the number may be another's */
		return;
	cv_close_fd(&w->program);
	w->program = cv_steal_fd(&fd);
}

static bool is_same_file(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

static int spawn(struct cv_worker *w, const char *program, int sock, struct cv_err *err)
{
	int out = w->sup->worker_stderr >= 0 ? w->sup->worker_stderr : STDERR_FILENO;
	pid_t pid;
	int r = cv_worker_spawn(program, w->volume, sock, out, &pid, err);
	int pidfd;

	if (r < 0)
		return r;
	pidfd = cv_pidfd_open(pid); /* not reaped yet, so the number is still its own */
	if (pidfd < 0) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		return cv_fail(err, -pidfd, "pidfd_open: %s", cv_strerror(pidfd));
	}
	set_process(w, pid, cv_process_start(pid), pidfd);
	return 0;
}

/* limit_ms: for one attempt to connect. A successor gets the FUSE descriptor at once. */
static int send_start(struct cv_worker *w, int sock, int limit_ms, int listener, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;
	const int fds[3] = { w->shm_fd, listener, w->fuse_fd };
	int r;

	{
		CV_SCOPED_LOCK(&w->sup->lock);
		r = cv_dict_copy(&args, &w->options);
	}
	if (r == 0)
		r = cv_dict_set(&args, "volume", w->volume);
	if (r == 0)
		r = cv_dict_set(&args, "log_level", cv_log_level_name(cv_log_get_level()));
	if (r == 0)
		r = cv_dict_set(&args, "log_format", cv_log_get_format());
	if (r == 0)
		r = cv_dict_setf(&args, "mount_timeout", "%dms", limit_ms);
	if (r == 0)
		r = cv_handoff_send(sock, "start", &args, fds, w->fuse_fd < 0 ? 2 : 3);
	return r < 0 ? cv_fail(err, -r, "starting the worker: %s", cv_strerror(r)) : 0;
}

static unsigned number_arg(const struct cv_dict *args, const char *key, int base, unsigned def)
{
	const char *text = cv_dict_get(args, key);
	uint64_t value;

	return text && cv_parse_u64(text, base, UINT32_MAX, &value) == 0 ? (unsigned)value : def;
}

/* Between `ready` and `serving`: the kernel's side. */
static int attach(struct cv_worker *w, const struct cv_mount_spec *spec, int sock,
		  const struct cv_dict *ready, struct cv_err *err)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	cv_cleanup_free char *source = cv_source_format(spec->options);
	const char *context = cv_options_str(spec->options, "context", NULL);
	struct cv_attach a = {
		.path = spec->mountpoint,
		.source = source,
		.context = context,
		.readonly = cv_options_bool(spec->options, "readonly", false),
		.rootmode = number_arg(ready, "rootmode", 8, S_IFDIR | 0755),
		.max_read = number_arg(ready, "max_read", 10, 1u << 20),
		.shm_fd = w->shm_fd,
	};
	int r;

	if (!source)
		return cv_fail(err, ENOMEM, "out of memory");
	r = cv_mountpoint_attach(&a, &w->fuse_fd, &w->dev, err);
	if (r < 0)
		return r;
	r = cv_handoff_send(sock, "serve", NULL, &w->fuse_fd, 1);
	if (r == 0)
		r = cv_handoff_recv(sock, SERVE_MS, &msg);
	r = take_answer(r, &msg, "serving", err);
	if (r == 0 && !cv_mountpoint_is(spec->mountpoint, w->dev))
		r = cv_fail(err, EIO, "%s was unmounted or covered meanwhile", spec->mountpoint);
	if (r < 0) {
		cv_close_fd(&w->fuse_fd);
		(void)cv_mountpoint_detach(spec->mountpoint);
		return r;
	}
	cv_mountpoint_set_bdi(w->dev, "read_ahead_kb", number_arg(ready, "readahead_kb", 10, 1024));
	/* The share of memory that written data may take in the page cache; 1 is FUSE's default. */
	cv_mountpoint_set_bdi(w->dev, "max_ratio", number_arg(ready, "dirty_percent", 10, 1));
	return 0;
}

/* ret_ready: only connecting is wanted. */
static int negotiate(struct cv_worker *w, const struct cv_mount_spec *spec, int sock, int listener,
		     uint64_t deadline, struct cv_dict *ret_ready, struct cv_err *err)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	const char *server;
	/* What is left for the worker, so that it is the one that says which step took too long. */
	int r = send_start(w, sock, cv_clock_left_ms(deadline), listener, err);

	if (r < 0)
		return r;
	r = cv_handoff_recv(sock, cv_clock_left_ms(deadline) + GRACE_MS, &msg);
	r = take_answer(r, &msg, "ready", err);
	if (r == -ETIMEDOUT && err && cv_str_eq(err->text, "no answer from the worker in time"))
		r = cv_fail(err, ETIMEDOUT, "the worker was still connecting after %u.%03u s",
			    spec->timeout_ms / 1000, spec->timeout_ms % 1000);
	if (r == -ECONNRESET && cv_worker_wait(w, KILL_WAIT_MS))
		r = cv_fail(err, ECONNRESET, "%s before it was connected", w->error);
	if (r < 0)
		return r;
	server = cv_dict_get(&msg.args, "server");
	(void)cv_strcpy(w->server, sizeof(w->server), server ? server : "");
	w->made_subdir = cv_dict_get(&msg.args, "made_subdir") != NULL;
	if (ret_ready) {
		*ret_ready = msg.args;
		msg.args = (struct cv_dict)CV_DICT_INIT;
		return 0;
	}
	return attach(w, spec, sock, &msg.args, err);
}

static void worker_kill(struct cv_worker *w)
{
	{
		CV_SCOPED_LOCK(&w->sup->lock);
		w->end_expected = true;
	}
	(void)cv_pidfd_signal(w->pidfd, SIGKILL);
	if (!cv_worker_wait(w, KILL_WAIT_MS))
		cv_warning("volume '%s': worker %d does not end after SIGKILL", w->volume,
			   (int)pid_of(w));
	(void)unlinkat(w->sup->socket_dir, w->socket_name, 0);
}

/* A process for w, and what it is talked to with. On failure the socket's name may be left. */
static int launch(struct cv_worker *w, const char *program, int *ret_sock, int *ret_listener,
		  struct cv_err *err)
{
	cv_cleanup_close int ours = -1;
	cv_cleanup_close int theirs = -1;
	cv_cleanup_close int listener = -1;
	int pair[2];
	int r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return cv_fail(err, errno, "socketpair: %s", cv_strerror(errno));
	ours = pair[0];
	theirs = pair[1];
	listener = listen_for(w);
	if (listener < 0)
		return cv_fail(err, -listener, "cannot listen on %s: %s", w->socket_name,
			       cv_strerror(listener));
	r = spawn(w, program, theirs, err);
	if (r < 0)
		return r;
	*ret_sock = cv_steal_fd(&ours);
	*ret_listener = cv_steal_fd(&listener);
	return 0;
}

static int start(struct cv_worker *w, const struct cv_mount_spec *spec, uint64_t deadline,
		 struct cv_dict *ret_ready, struct cv_err *err)
{
	cv_cleanup_close int sock = -1;
	cv_cleanup_close int listener = -1;
	int r = create_shm(&w->shm_fd, err);

	if (r == 0)
		r = launch(w, w->sup->worker_path, &sock, &listener, err);
	if (r == 0)
		r = worker_watch(w);
	if (r < 0) {
		(void)unlinkat(w->sup->socket_dir, w->socket_name, 0);
		return r;
	}
	r = negotiate(w, spec, sock, listener, deadline, ret_ready, err);
	if (r < 0 || ret_ready)
		worker_kill(w);
	return r;
}

int cv_supervisor_mount(struct cv_supervisor *sup, const struct cv_mount_spec *spec,
			struct cv_worker **ret, struct cv_err *err)
{
	struct cv_worker *w =
		worker_new(sup, spec->volume, spec->mountpoint, spec->socket_name, spec->options);
	bool ended = false;
	int r;

	if (!w)
		return cv_fail(err, ENOMEM, "out of memory");
	w->bare = spec->bare;
	r = start(w, spec, cv_clock_ms() + spec->timeout_ms, NULL, err);
	if (r == 0) {
		park(w); /* while the watching thread does not close them yet */
		note_program(w);
		CV_SCOPED_LOCK(&sup->lock);
		ended = w->state == WORKER_ENDED;
		if (!ended)
			w->state = WORKER_SERVING;
	}
	if (ended) { /* between its last word and now */
		unpark(w);
		(void)cv_mountpoint_detach(spec->mountpoint);
		r = cv_fail(err, EIO, "%s", w->error);
	}
	if (r < 0) {
		cv_worker_unref(w);
		return r;
	}
	*ret = w;
	return 0;
}

int cv_supervisor_probe(struct cv_supervisor *sup, const struct cv_mount_spec *spec,
			struct cv_dict *ret_ready, struct cv_err *err)
{
	static atomic_uint counter;
	cv_cleanup_dict struct cv_dict ready = CV_DICT_INIT;
	struct cv_worker *w;
	char name[CV_ENCODED_SOCKET];
	int r;

	(void)snprintf(name, sizeof(name), ".probe-%d-%u.sock", (int)getpid(),
		       atomic_fetch_add(&counter, 1));
	w = worker_new(sup, spec->volume, "", name, spec->options);
	if (!w)
		return cv_fail(err, ENOMEM, "out of memory");
	r = start(w, spec, cv_clock_ms() + spec->timeout_ms, &ready, err);
	cv_worker_unref(w);
	if (r < 0)
		return r;
	*ret_ready = ready;
	ready = (struct cv_dict)CV_DICT_INIT;
	return 0;
}

/* ---- a successor ---- */

/* Of one that did not come to serve: nobody but us looks at its pidfd. */
static void process_end(struct cv_worker *w)
{
	siginfo_t info;

	if (w->pidfd < 0)
		return;
	(void)cv_pidfd_signal(w->pidfd, SIGKILL);
	(void)cv_wait_readable(w->pidfd, KILL_WAIT_MS);
	(void)waitid(P_PIDFD, (id_t)w->pidfd, &info, WEXITED | WNOHANG);
	close_pidfd(w);
}

static int start_program(struct cv_worker *w, const char *program, struct cv_err *err)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	cv_cleanup_close int sock = -1;
	cv_cleanup_close int listener = -1;
	int r;

	close_pidfd(w); /* the dead one's, which is reaped */
	r = launch(w, program, &sock, &listener, err);
	if (r == 0)
		r = send_start(w, sock, CONNECT_MS, listener, err);
	if (r == 0) {
		r = cv_handoff_recv(sock, SERVE_MS, &msg);
		r = take_answer(r, &msg, "serving", err);
	}
	if (r < 0)
		process_end(w);
	return r;
}

/*
 * The installed program, as after an upgrade. Where it cannot take over (it is not there, or cannot
 * read this memory), the one that served last can: without either, programs would wait for ever.
 */
static int start_successor(struct cv_worker *w, struct cv_err *err)
{
	const char *installed = w->sup->worker_path;
	char before[48]; /* our number: a child has its descriptors closed before it runs */
	int r = start_program(w, installed, err);

	if (r == 0 || w->program < 0 || is_same_file(w->program, installed))
		return r;
	(void)snprintf(before, sizeof(before), "/proc/%d/fd/%d", (int)getpid(), w->program);
	if (start_program(w, before, NULL) < 0)
		return r;
	cv_warning("volume '%s': %s cannot take over: %s; the program that served it before does",
		   w->volume, installed, err->text);
	return 0;
}

/* False: the supervisor ends. */
static bool pause_unless_stopping(struct cv_supervisor *sup, unsigned delay_ms)
{
	struct timespec until = cv_clock_timespec(cv_clock_ms() + delay_ms);
	int r = 0;

	CV_SCOPED_LOCK(&sup->lock);
	while (!sup->stopping && r == 0)
		r = pthread_cond_timedwait(&sup->ended, &sup->lock, &until);
	return !sup->stopping;
}

static unsigned backoff_ms(unsigned deaths)
{
	unsigned ms = BACKOFF_MIN_MS;

	while (deaths-- > 1 && ms < BACKOFF_MAX_MS)
		ms *= 2;
	return ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
}

static int hand_to_watcher(struct cv_worker *w)
{
	int r;

	CV_SCOPED_LOCK(&w->sup->lock);
	r = watch_locked(w);
	if (r < 0)
		return r;
	w->replaced++;
	w->state = WORKER_SERVING;
	cv_debug("volume '%s': worker %d takes over", w->volume, (int)w->pid);
	(void)pthread_cond_broadcast(&w->sup->ended);
	return 0;
}

/* True: it serves, or there is no point in trying again. */
static bool try_successor(struct cv_worker *w, unsigned tries)
{
	struct cv_supervisor *sup = w->sup;
	struct cv_err err = { 0 };
	int r = start_successor(w, &err);

	if (r == 0) {
		note_program(w);
		r = hand_to_watcher(w);
		if (r == 0)
			return true;
		(void)cv_fail(&err, -r, "epoll: %s", cv_strerror(r));
		process_end(w);
	}
	CV_SCOPED_LOCK(&sup->lock);
	cv_error("volume '%s': no worker can take over: %s", w->volume, err.text);
	if (!w->end_expected || tries < FAREWELL_TRIES)
		return false;
	cv_error("volume '%s': what was written last is lost", w->volume);
	end_locked(w);
	return true;
}

static void *replace_thread(void *arg)
{
	struct cv_worker *w = arg;
	struct cv_supervisor *sup = w->sup;
	unsigned deaths = w->idle_deaths;
	bool last = false;

	for (unsigned tries = 0; !last; tries++) {
		unsigned before = deaths + tries;

		/* With us end the last descriptors, so there is no later. */
		last = before && !pause_unless_stopping(sup, backoff_ms(before));
		if (try_successor(w, tries)) {
			if (sup->replaced)
				sup->replaced(sup->arg, w);
			break;
		}
	}
	CV_SCOPED_LOCK(&sup->lock);
	unref_locked(w);
	sup->replacing--;
	(void)pthread_cond_broadcast(&sup->ended);
	return NULL;
}

/* With the lock held: in a thread of its own, for the dead one's mount must not delay others. */
static void replace(struct cv_worker *w)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	w->state = WORKER_REPLACING;
	w->refs++;
	w->sup->replacing++;
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, replace_thread, w);
	(void)pthread_attr_destroy(&attr);
	if (r != 0) {
		w->sup->replacing--;
		w->refs--;
		if (!w->unattended)
			cv_error("volume '%s': no worker can take over: cannot start a thread: %s; "
				 "trying again",
				 w->volume, cv_strerror(r));
	}
	w->unattended = r != 0;
}

/* A host that has no room for a thread now has some later. */
static void replace_unattended(struct cv_supervisor *sup)
{
	CV_SCOPED_LOCK(&sup->lock);
	for (struct cv_worker *w = sup->workers; w; w = w->next) {
		if (w->unattended)
			replace(w);
	}
}

/* ---- finding one again ---- */

/* Where they cannot be taken: an answer from the worker itself. */
static int ask_for_descriptors(struct cv_worker *w, struct cv_holder *ret, struct cv_err *err)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	int r = call(w->sup->socket_dir, w->socket_name, "fds", NULL, "fds", ADOPT_MS, &msg, err);

	if (r < 0)
		return r;
	ret->pid = (pid_t)number_arg(&msg.args, "pid", 10, 0);
	if (msg.nfds < 2 || ret->pid <= 0)
		return cv_fail(err, EPROTO, "the worker sent no descriptors");
	ret->start = cv_process_start(ret->pid);
	ret->pidfd = cv_process_open(ret->pid, ret->start);
	if (ret->pidfd < 0)
		return cv_fail(err, -ret->pidfd, "its worker (pid %d) is gone", (int)ret->pid);
	ret->fuse_fd = cv_steal_fd(&msg.fds[0]);
	ret->shm_fd = cv_steal_fd(&msg.fds[1]);
	return 0;
}

/* Of a worker that they cannot be taken from: the service manager's copies. */
static int take_parked(struct cv_worker *w, int sock, const struct cv_record *record,
		       struct cv_holder *ret)
{
	char name[CV_PARKED_NAME_MAX];
	struct cv_holder h;
	int r = cv_holder_find(sock, record, &h);

	if (r < 0)
		return r;
	parked_name(w, name);
	if (!cv_systemd_take_parked(name, &h.fuse_fd, &h.shm_fd)) {
		cv_close_fd(&h.pidfd);
		return -ENOENT;
	}
	*ret = h;
	return 0;
}

/*
 * The descriptors of the worker that serves the mount now, which need not be the recorded one. They
 * are taken rather than asked for: one that hangs would not answer, and is found to hang, and is
 * replaced, only by who has them. *ret_parked: the service manager has them already.
 */
static int take_descriptors(struct cv_worker *w, const struct cv_record *record, bool *ret_parked,
			    struct cv_err *err)
{
	cv_cleanup_close int sock = connect_socket(w->sup->socket_dir, w->socket_name);
	struct cv_holder h = { .pidfd = -1, .fuse_fd = -1, .shm_fd = -1 };
	int r;

	if (sock < 0 && sock != -EAGAIN) /* EAGAIN: too many wait for its answer already */
		return cv_fail(err, -sock, "cannot connect to the worker: %s", cv_strerror(sock));
	r = cv_holder_take(sock, record, &h);
	if (r < 0) {
		cv_debug("volume '%s': its worker's descriptors cannot be taken: %s", w->volume,
			 cv_strerror(r));
		r = take_parked(w, sock, record, &h);
		*ret_parked = r == 0;
		if (r < 0)
			r = ask_for_descriptors(w, &h, err);
	}
	if (r < 0)
		return r;
	set_process(w, h.pid, h.start, h.pidfd);
	w->fuse_fd = h.fuse_fd;
	w->shm_fd = h.shm_fd;
	return 0;
}

/* Its worker ended while there was no daemon: the service manager may have kept the mount. */
static bool take_over_parked(struct cv_worker *w)
{
	char name[CV_PARKED_NAME_MAX];
	struct cv_supervisor *sup = w->sup;
	struct cv_shm_header header;

	parked_name(w, name);
	if (!cv_systemd_take_parked(name, &w->fuse_fd, &w->shm_fd))
		return false;
	CV_SCOPED_LOCK(&sup->lock);
	w->state = WORKER_SERVING;
	if (!is_replaceable(w, &header)) {
		unpark(w);
		return false;
	}
	list_locked(w);
	replace(w);
	return true;
}

int cv_supervisor_adopt(struct cv_supervisor *sup, const struct cv_record *record,
			const struct cv_dict *options, const char *socket_name,
			struct cv_worker **ret, struct cv_err *err)
{
	struct cv_worker *w;
	bool parked = false;
	int r;

	if (!cv_mountpoint_is(record->mountpoint, record->dev))
		return cv_fail(err, ENOTCONN, "it is not mounted at %s any more",
			       record->mountpoint);
	w = worker_new(sup, record->volume, record->mountpoint, socket_name, options);
	if (!w)
		return cv_fail(err, ENOMEM, "out of memory");
	w->bare = true;
	w->dev = record->dev;
	(void)cv_strcpy(w->server, sizeof(w->server), record->server);
	r = take_descriptors(w, record, &parked, err);
	if (r == 0) {
		w->state = WORKER_SERVING;
		if (!parked)
			park(w);
		note_program(w);
		r = worker_watch(w);
	} else if (is_nobody(r) && take_over_parked(w)) {
		r = 0;
	}
	if (r < 0) {
		worker_free(w); /* unknown to others so far */
		return r;
	}
	*ret = w;
	return 0;
}

/* ---- upgrade ---- */

/* True when a successor serves, or is not needed any more. */
static bool wait_replaced(struct cv_worker *w, unsigned before)
{
	struct timespec until = cv_clock_timespec(cv_clock_ms() + SERVE_MS);
	int r = 0;

	CV_SCOPED_LOCK(&w->sup->lock);
	while ((w->state == WORKER_REPLACING || w->replaced == before) &&
	       w->state != WORKER_ENDED && r == 0)
		r = pthread_cond_timedwait(&w->sup->ended, &w->sup->lock, &until);
	return r == 0;
}

int cv_worker_upgrade(struct cv_worker *w, const struct cv_dict *options, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict copy = CV_DICT_INIT;
	struct cv_shm_header header;
	unsigned before;
	int r;

	{
		CV_SCOPED_LOCK(&w->sup->lock);
		if (w->state != WORKER_SERVING || !read_header(w->shm_fd, &header) ||
		    !header.replaceable)
			return cv_fail(err, EBUSY, "its worker cannot be replaced %s",
				       w->state == WORKER_SERVING ? "while it is mounted"
								  : "just now");
	}
	r = cv_worker_check_layout(w->sup->worker_path, header.version, err);
	if (r == 0 && options && cv_dict_copy(&copy, options) < 0)
		r = cv_fail(err, ENOMEM, "out of memory");
	if (r < 0)
		return r;
	{
		/* The way of a crash: no other is tested as well. */
		CV_SCOPED_LOCK(&w->sup->lock);
		before = w->replaced;
		if (options) {
			struct cv_dict old = w->options;

			w->options = copy;
			copy = old;
		}
		if (w->state == WORKER_SERVING)
			(void)cv_pidfd_signal(w->pidfd, SIGKILL);
	}
	return wait_replaced(w, before)
		       ? 0
		       : cv_fail(err, ETIMEDOUT, "no new worker serves yet; cvol goes on trying");
}

/* ---- the end of one ---- */

int cv_worker_unmount(struct cv_worker *w, struct cv_err *err)
{
	int r;

	{
		CV_SCOPED_LOCK(&w->sup->lock);
		w->end_expected = true;
	}
	r = cv_mountpoint_detach(w->mountpoint);
	if (r < 0)
		(void)cv_fail(err, -r, "cannot unmount %s: %s", w->mountpoint, cv_strerror(r));
	else if (!cv_worker_wait(w, EXIT_WAIT_MS))
		cv_notice(
			"volume '%s': unmounted, but still used somewhere; worker %d goes on until "
			"that ends",
			w->volume, (int)pid_of(w));
	if (r == 0 && w->bare)
		cv_mountpoint_remove(w->mountpoint);
	(void)unlinkat(w->sup->socket_dir, w->socket_name, 0);
	cv_worker_unref(w);
	return r;
}

/* ---- what is known ---- */

void cv_worker_info(struct cv_worker *w, struct cv_worker_info *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->dev = w->dev;
	ret->made_subdir = w->made_subdir;
	(void)cv_strcpy(ret->server, sizeof(ret->server), w->server);
	CV_SCOPED_LOCK(&w->sup->lock);
	ret->pid = w->pid;
	ret->start = w->start;
	ret->replaced = w->replaced;
	/* While it is replaced, too: its users wait, and get what they wait for. */
	ret->alive = w->state == WORKER_SERVING || w->state == WORKER_REPLACING;
	(void)cv_strcpy(ret->error, sizeof(ret->error), w->error);
	ret->counted = w->shm_fd >= 0 && cv_counters_read(w->shm_fd, &ret->counters) == 0;
}
