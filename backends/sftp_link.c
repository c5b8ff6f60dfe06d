/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/sftp_link.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"

#define MS	       1000000ull
#define SECOND	       (1000 * MS)
#define STAGE_SIZE     32758 /* libssh's largest channel packet to a server that takes 32 KiB */
#define COPY_MAX       16384 /* a WRITE up to this goes through the stage whole */
#define META_RESERVE   16    /* slots that bulk data leaves to the rest */
#define READ_FLOOR     (1024 * 1024)
#define READ_CEILING   (16 * 1024 * 1024)
#define WRITE_FLOOR    (256 * 1024)
#define WRITE_CEILING  (2 * 1024 * 1024)
#define WRITE_NEAR     (448 * 1024) /* without a round trip: keeps the server busy */
#define WINDOW_FLOOR   (2 * 1024 * 1024)
#define WINDOW_CEILING (16 * 1024 * 1024)
#define FAST_LINE      (400ull * 1000 * 1000) /* bytes per second */
#define BACKLOG	       (512 * 1024) /* waits in a connection's queue, beyond what may be in flight */
#define WRITE_SLOW_NS  (250 * MS)
#define ANSWER_MAX_NS  (120 * SECOND) /* one request on a living server, e.g. an fsync */
#define IDLE_TICK_MS   60000
#define ATTEMPT_MIN_MS 5000 /* for the first try of a reconnect; then twice as long each */
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 1000	  /* how long a server may be back unnoticed */
#define REFUSED_MAX_MS 30000	  /* the same where it is there, and does not let us in */
#define STEADY_NS      (500 * MS) /* a connection that lasted this long was a good one */
#define GREETING_MS    2000	  /* a server that is there says so at once */
#define PATIENT_EVERY  5	  /* of so many tries one waits longer than that, for a slow one */
#define SEND_ROUNDS    4
#define STOP_WAIT_MS   1000
#define LATE_MIN_MS    500 /* for what the server still does of a connection, however long lost */
#define ID_SLOT(id)    ((id) & (SFTP_IN_FLIGHT_MAX - 1))
#define ID_GENERATION  SFTP_IN_FLIGHT_MAX

static void reopen_submit(struct sftp_link *link, struct sftp_open *open);

/* Which one's connection it is. */
static struct sftp_link *connection(struct sftp_link *link)
{
	return link->base ? link->base : link;
}

/* ---- the helper thread ---- */

/* Shared by the thread and the link; whoever comes last frees it. */
struct sftp_job {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool finished;	/* protected by lock */
	bool abandoned; /* protected by lock */
	bool posted_too;
	struct cv_posted posted;
	struct sftp_link *link;
	struct cv_loop *loop;
	struct cv_dict options; /* copies: the thread may outlive the link */
	char *known_root;
	struct sftp_predecessors before;
	struct cv_ssh_limit limit;
	struct sftp_session session;
	struct cv_err err;
	int result;
};

static void job_free(struct sftp_job *job)
{
	sftp_session_release(&job->session);
	cv_dict_release(&job->options);
	free(job->known_root);
	cv_close_fd(&job->limit.cancel_fd);
	(void)pthread_mutex_destroy(&job->lock);
	(void)pthread_cond_destroy(&job->cond);
	free(job);
}

static void *job_main(void *arg)
{
	struct sftp_job *job = arg;
	bool abandoned;

	job->result = sftp_login(&job->options, job->known_root, &job->before, &job->limit,
				 &job->session, &job->err);
	(void)pthread_mutex_lock(&job->lock);
	job->finished = true;
	abandoned = job->abandoned;
	if (!abandoned && job->posted_too)
		cv_loop_post(job->loop, &job->posted);
	(void)pthread_cond_signal(&job->cond);
	(void)pthread_mutex_unlock(&job->lock);
	if (abandoned)
		job_free(job);
	return NULL;
}

static int job_start(struct sftp_link *link, uint64_t timeout_ms, uint64_t greeting_ms,
		     const char *known_root, const struct sftp_predecessors *before,
		     void (*run)(struct cv_posted *), struct sftp_job **ret_job)
{
	struct sftp_job *job = calloc(1, sizeof(*job));
	pthread_condattr_t clock;
	pthread_attr_t attr;
	sigset_t all;
	sigset_t mask;
	pthread_t thread;
	int r;

	if (!job)
		return -ENOMEM;
	(void)pthread_condattr_init(&clock);
	(void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	(void)pthread_mutex_init(&job->lock, NULL);
	(void)pthread_cond_init(&job->cond, &clock);
	(void)pthread_condattr_destroy(&clock);
	job->link = link;
	job->loop = link->loop;
	job->posted.run = run;
	job->posted_too = run != NULL;
	job->limit.step = "starting";
	job->limit.deadline_ns = cv_now_ns() + timeout_ms * MS;
	job->limit.greeting_ns = greeting_ms ? cv_now_ns() + greeting_ms * MS : 0;
	job->limit.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	job->known_root = known_root ? strdup(known_root) : NULL;
	if (before)
		job->before = *before;
	r = cv_dict_copy(&job->options, link->options);
	if (r < 0 || job->limit.cancel_fd < 0 || (known_root && !job->known_root)) {
		job_free(job);
		return r < 0 ? r : -ENOMEM;
	}
	/* Signals are the main thread's. */
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &mask);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = -pthread_create(&thread, &attr, job_main, job);
	(void)pthread_attr_destroy(&attr);
	(void)pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (r < 0) {
		job_free(job);
		return r;
	}
	*ret_job = job;
	return 0;
}

/* Returns true when it has finished, which it need not: the resolver cannot be interrupted. */
static bool job_wait(struct sftp_job *job, uint64_t until_ns)
{
	struct timespec until = { .tv_sec = (time_t)(until_ns / SECOND),
				  .tv_nsec = (long)(until_ns % SECOND) };
	CV_SCOPED_LOCK(&job->lock);

	while (!job->finished) {
		if (pthread_cond_timedwait(&job->cond, &job->lock, &until) == ETIMEDOUT)
			break;
	}
	return job->finished;
}

static void job_abandon(struct sftp_job *job)
{
	uint64_t one = 1;
	bool finished;

	(void)!write(job->limit.cancel_fd, &one, sizeof(one));
	(void)job_wait(job, cv_now_ns() + STOP_WAIT_MS * MS);
	(void)pthread_mutex_lock(&job->lock);
	job->abandoned = true;
	finished = job->finished;
	(void)pthread_mutex_unlock(&job->lock);
	/* A posted job is freed by its callback: the loop holds a pointer to it. */
	if (finished && !job->posted_too)
		job_free(job);
}

/* ---- queues ---- */

static void queue_init(struct sftp_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void queue_push(struct sftp_queue *q, struct sftp_request *req)
{
	req->next = NULL;
	*q->tail = req;
	q->tail = &req->next;
}

/* Keeps the order of submission: what is sent again goes before what came later. */
static void queue_insert(struct sftp_queue *q, struct sftp_request *req)
{
	struct sftp_request **at = &q->head;

	while (*at && (*at)->order < req->order)
		at = &(*at)->next;
	req->next = *at;
	if (!*at)
		q->tail = &req->next;
	*at = req;
}

static struct sftp_request *queue_pop(struct sftp_queue *q)
{
	struct sftp_request *req = q->head;

	if (req) {
		q->head = req->next;
		if (!q->head)
			q->tail = &q->head;
		req->next = NULL;
	}
	return req;
}

static struct sftp_queue *queue_of(struct sftp_link *link, const struct sftp_request *req)
{
	if (req->type == CV_FXP_READ)
		return &link->reads;
	return req->type == CV_FXP_WRITE || req->behind_writes ? &link->writes : &link->meta;
}

/* Where a request is counted that moves file data; NULL for others. */
static size_t *bulk_count(struct sftp_link *link, const struct sftp_request *req)
{
	return req->type == CV_FXP_READ	   ? &link->bulk_bytes[SFTP_READS]
	       : req->type == CV_FXP_WRITE ? &link->bulk_bytes[SFTP_WRITES]
					   : NULL;
}

static bool queues_empty(const struct sftp_link *link)
{
	return !link->meta.head && !link->reads.head && !link->writes.head;
}

static void answer(struct sftp_link *link, struct sftp_request *req, struct sftp_reply *reply)
{
	size_t *bulk = bulk_count(link, req);

	if (bulk)
		*bulk -= req->size;
	if (req->type == CV_FXP_WRITE)
		req->open->writes--;
	req->done(req, reply);
}

/* The link's own verdict on a request. */
static void verdict(struct sftp_link *link, struct sftp_request *req, int error)
{
	struct sftp_reply reply = { .error = error };

	answer(link, req, &reply);
}

/* ---- timers ---- */

static uint64_t busy_tick_ms(const struct sftp_link *link)
{
	uint64_t ms = link->timeout_ms / 8;

	return ms < 100 ? 100 : ms > 1000 ? 1000 : ms;
}

static void arm_tick(struct sftp_link *link)
{
	bool busy = link->in_flight > 0 || !queues_empty(link);
	uint64_t ms = busy ? busy_tick_ms(link) : IDLE_TICK_MS;

	if (link->state == SFTP_LINK_CLOSED)
		return;
	/* Without memory for the timer a stall is noticed with the next request's tick. */
	(void)cv_timer_set(link->loop, &link->tick, ms);
}

static void note_busy(struct sftp_link *link)
{
	/* Only the change from idle matters: the busy tick re-arms itself. */
	if (link->in_flight == 0 && queues_empty(link)) {
		link->seen_ns = cv_now_ns();
		link->provoked = false;
		(void)cv_timer_set(link->loop, &link->tick, busy_tick_ms(link));
	}
}

/* ---- losing and finding the connection ---- */

static void set_error(struct sftp_link *link, const char *text)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)cv_strcpy(link->last_error, sizeof(link->last_error), text);
	link->last_error_s = (uint64_t)now.tv_sec;
}

static void schedule_retry(struct sftp_link *link, uint64_t max_ms)
{
	uint64_t wait = link->backoff_ms;

	/* Up to a quarter less, so that many mounts do not come back in step. */
	wait -= (cv_now_ns() / 1000) % (wait / 4 + 1);
	link->backoff_ms *= 2;
	if (link->backoff_ms > max_ms)
		link->backoff_ms = max_ms;
	(void)cv_timer_set(link->loop, &link->retry, wait);
}

static void release_slot(struct sftp_link *link, struct sftp_request *req)
{
	uint16_t slot = (uint16_t)ID_SLOT(req->id);

	link->table[slot] = NULL;
	link->slots[--link->in_flight] = slot;
	if (req->type == CV_FXP_READ)
		link->read_bytes -= req->size;
	else if (req->type == CV_FXP_WRITE)
		link->write_bytes -= req->size;
}

static void reset_stream(struct sftp_link *link)
{
	cv_sftp_parser_release(&link->parser);
	memset(&link->parser, 0, sizeof(link->parser));
	link->stage.size = 0;
	link->stage.bad = false;
	link->stage_off = 0;
	link->direct = NULL;
	link->broken = 0;
	link->broken_why = NULL;
	memset(&link->foresight, 0, sizeof(link->foresight));
}

/* Nothing of it is in flight. Whoever is told may ask somebody else, not this link. */
static void end_queue(struct sftp_link *link, struct sftp_queue *q, int error)
{
	struct sftp_request *req;

	while ((req = queue_pop(q)))
		verdict(link, req, error);
}

static void end_all(struct sftp_link *link, int error)
{
	end_queue(link, &link->meta, error);
	end_queue(link, &link->reads, error);
	end_queue(link, &link->writes, error);
}

static void channel_remove(struct sftp_link *link)
{
	struct sftp_link **at = &link->base->channels;

	while (*at && *at != link)
		at = &(*at)->next_channel;
	if (*at)
		*at = link->next_channel;
}

/* May it leave something on the server that it would also leave if it were carried out late? */
static bool changes(const struct sftp_request *req)
{
	switch (req->type) {
	case CV_FXP_OPEN:
		return req->pflags & (CV_FXF_CREAT | CV_FXF_TRUNC);
	case CV_FXP_EXTENDED:
		return req->ext != SFTP_EXT_STATVFS && req->ext != SFTP_EXT_FSTATVFS &&
		       req->ext != SFTP_EXT_FSYNC && req->ext != SFTP_EXT_NAMES;
	case CV_FXP_WRITE:
	case CV_FXP_SETSTAT:
	case CV_FXP_FSETSTAT:
	case CV_FXP_REMOVE:
	case CV_FXP_MKDIR:
	case CV_FXP_RMDIR:
	case CV_FXP_RENAME:
	case CV_FXP_SYMLINK:
		return true;
	default:
		return false;
	}
}

/* Is the server perhaps at work on something that must not come later than what follows? */
static bool changes_under_way(const struct sftp_link *link)
{
	for (size_t i = 0; i < SFTP_IN_FLIGHT_MAX; i++) {
		if (link->table[i] && changes(link->table[i]))
			return true;
	}
	return false;
}

/* ---- the server's process behind a further link that is lost ---- */

struct sftp_awaiting {
	struct sftp_request req; /* of the first link */
	struct sftp_link *link;	 /* NULL: stopped meanwhile */
	bool asked;
	uint64_t since_ns;
	uint64_t pause_ms;
	char path[SFTP_PROC_SIZE];
};

static void await_ask(struct sftp_awaiting *a)
{
	a->asked = true;
	sftp_link_submit(a->link->first, &a->req);
}

static void await_over(struct sftp_link *link)
{
	free(link->awaiting);
	link->awaiting = NULL;
	*link->peer = 0;
	end_all(link, -ESTALE);
	link->changed(link);
}

/* As await_end() in sftp_login.c does. */
static void await_answered(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_awaiting *a = cv_container_of(req, struct sftp_awaiting, req);
	struct sftp_link *link = a->link;
	uint64_t waited_ms = (cv_now_ns() - a->since_ns) / MS;

	a->asked = false;
	if (!link) {
		free(a);
		return;
	}
	if (reply->type && reply->error != -ENOENT && waited_ms < link->timeout_ms &&
	    cv_timer_set(link->loop, &link->retry, a->pause_ms) == 0) {
		a->pause_ms *= a->pause_ms < SFTP_AWAIT_MAX_MS ? 2 : 1;
		return;
	}
	if (reply->error != -ENOENT)
		sftp_warn_of_late(cv_options_str(link->options, "host", ""), *link->peer,
				  waited_ms);
	await_over(link);
}

/* Without memory nobody is waited for. */
static void await_start(struct sftp_link *link)
{
	struct sftp_awaiting *a = calloc(1, sizeof(*a));

	link->awaiting = a;
	if (!a) {
		await_over(link);
		return;
	}
	a->link = link;
	a->since_ns = cv_now_ns();
	a->pause_ms = SFTP_AWAIT_MIN_MS;
	(void)snprintf(a->path, sizeof(a->path), SFTP_PROC_PROGRAM,
		       (unsigned long long)*link->peer);
	a->req.type = CV_FXP_READLINK;
	a->req.path = a->path;
	a->req.done = await_answered;
	await_ask(a);
}

static void await_stop(struct sftp_link *link)
{
	if (link->awaiting && link->awaiting->asked)
		link->awaiting->link = NULL;
	else
		free(link->awaiting);
	link->awaiting = NULL;
}

static void lose(struct sftp_link *link, const char *why);

/* Those on the same connection go with it. */
static void lose_channels(struct sftp_link *link)
{
	struct sftp_link *channel;

	while ((channel = link->channels))
		lose(channel, "with its connection");
}

static void wait_for(struct sftp_predecessors *before, uint64_t pid)
{
	if (before->count < CV_PEERS)
		before->pid[before->count++] = pid;
}

/*
 * What was under way is sent again. While the process that had it is perhaps still at it, it could
 * come behind what is asked for next: so that one is waited for, by the next login where the whole
 * connection is lost, or else by this link. late: there was something of that kind.
 */
static void lost_beside(struct sftp_link *link, bool late)
{
	if (late && (!link->base || link->base->state == SFTP_LINK_UP)) {
		end_queue(link, &link->meta, -ESTALE);
		end_queue(link, &link->reads, -ESTALE);
		await_start(link);
		return;
	}
	if (late)
		wait_for(&link->base->before, *link->peer);
	end_all(link, -ESTALE);
	link->changed(link);
}

static void lose(struct sftp_link *link, const char *why)
{
	bool late = false;
	char text[256];

	if (link->state != SFTP_LINK_UP && !(link->base && link->session.ssh))
		return;
	(void)cv_strcpy(text, sizeof(text), why);
	if (link->state == SFTP_LINK_DOWN) /* once for each connection is enough */
		link->refused = link->base->generation;
	else if (changes_under_way(link))
		late = *link->peer;
	else
		*link->peer = 0;
	link->state = SFTP_LINK_DOWN;
	link->down_since_ns = cv_now_ns();
	cv_loop_remove(link->loop, &link->watch);
	lose_channels(link);
	if (link->base)
		channel_remove(link);
	cv_ssh_close(link->session.ssh);
	link->session.ssh = NULL;
	reset_stream(link);
	link->open_handles = 0;
	for (size_t i = 0; i < SFTP_IN_FLIGHT_MAX; i++) {
		struct sftp_request *req = link->table[i];

		if (!req)
			continue;
		release_slot(link, req);
		req->retried = true;
		queue_insert(queue_of(link, req), req);
	}
	if (link->further) {
		cv_timer_cancel(link->loop, &link->retry);
		if (link->base)
			cv_debug("sftp: a further channel lost: %s", text);
		else
			cv_notice("sftp: a further connection to %s lost: %s",
				  cv_options_str(link->options, "host", ""), text);
		set_error(link, text);
		lost_beside(link, late);
		return;
	}
	if (late)
		wait_for(&link->before, *link->peer);
	link->attempt_ms = ATTEMPT_MIN_MS;
	link->attempts = 0;
	set_error(link, text);
	cv_warning("sftp: connection to %s lost: %s; connecting again",
		   cv_options_str(link->options, "host", ""), text);
	if (link->down_since_ns - link->up_since_ns > STEADY_NS)
		link->backoff_ms = BACKOFF_MIN_MS;
	schedule_retry(link, BACKOFF_MAX_MS);
	arm_tick(link);
}

static void on_bytes(void *user, const uint8_t *p, size_t n);
static uint8_t *on_data(void *user, uint32_t id, uint32_t size);
static int on_reply(void *user, uint8_t type, uint32_t id, uint8_t *body, size_t size);

static void set_read_limit(struct sftp_link *link, uint64_t bytes)
{
	link->read_limit = bytes < READ_FLOOR	  ? READ_FLOOR
			   : bytes > READ_CEILING ? READ_CEILING
						  : (size_t)bytes;
	cv_ssh_set_window(link->session.ssh, link->read_limit * 2 > WINDOW_CEILING
						     ? WINDOW_CEILING
						     : (uint32_t)link->read_limit * 2);
}

/* Until the rate is known: what a fast line holds. A slow one is told by the first 100 ms. */
static uint64_t first_read_limit(const struct sftp_link *link)
{
	return link->rtt_ns * FAST_LINE / SECOND;
}

/*
 * What a fast line holds, and what keeps the server busy. More would only wait in sshd, which grows
 * its buffer with each packet, and copies what is in it: writing 96 MiB with 2 MiB in flight took
 * it 260 ms instead of 160, without latency (OpenSSH 9.2).
 */
static size_t write_ceiling(const struct sftp_link *link)
{
	uint64_t bytes = WRITE_NEAR + link->rtt_ns * FAST_LINE / SECOND;

	return bytes < WRITE_CEILING ? (size_t)bytes : WRITE_CEILING;
}

/* What comes over link->session.ssh from now on is for reply. */
static void listen_to(struct sftp_link *link, int (*reply)(void *user, uint8_t type, uint32_t id,
							   uint8_t *body, size_t size))
{
	reset_stream(link);
	link->parser.data_dest = on_data;
	link->parser.reply = reply;
	link->parser.user = link;
	cv_ssh_set_data(link->session.ssh, on_bytes, link);
}

/* Requests may go over link->session.ssh. */
static void begin(struct sftp_link *link)
{
	listen_to(link, on_reply);
	*link->peer = link->session.process;
	link->foresight.trusted = link->session.openssh;
	link->state = SFTP_LINK_UP;
	link->generation++;
	link->rtt_ns = link->session.rtt_us * 1000ull;
	link->write_limit = write_ceiling(link);
	set_read_limit(link, first_read_limit(link));
	link->seen_ns = link->rate_start_ns = link->up_since_ns = cv_now_ns();
	link->rate_bytes = 0;
	link->provoked = false;
	cv_loop_defer(link->loop, &link->flush);
	arm_tick(link);
}

/* Takes over a fresh session. */
static int go_up(struct sftp_link *link, struct sftp_session *session)
{
	int r;

	sftp_session_release(&link->session);
	link->session = *session;
	memset(session, 0, sizeof(*session));
	r = cv_loop_add(link->loop, &link->watch, cv_ssh_fd(link->session.ssh), EPOLLIN);
	if (r < 0)
		return r;
	begin(link);
	return 0;
}

/* ---- channels beside it ---- */

/*
 * The program is the same, and what its VERSION says the same. It is another process, and where the
 * first has said its number, this one's must be known, too. What follows can only answer what we
 * ask, and that waits for channel_turn(): the stream cannot begin anew in the middle of it.
 */
static int on_greeting(void *user, uint8_t type, uint32_t id, uint8_t *body, size_t size)
{
	struct sftp_link *link = user;

	(void)id;
	if (type != CV_FXP_VERSION) {
		link->session.process = body ? sftp_process(type, body, size) : 0;
		if (!link->session.process)
			return -EPROTO;
	}
	if (--link->to_come == 0)
		cv_loop_defer(link->loop, &link->flush);
	return 0;
}

/* Both at once: the server works in order. */
static void put_greeting(struct sftp_link *link)
{
	struct cv_sftp_out *out = &link->stage;

	cv_sftp_end(out, cv_sftp_begin(out, CV_FXP_INIT, 3), 0);
	link->to_come = 1;
	if (link->base->session.process) {
		size_t at = cv_sftp_begin(out, CV_FXP_READLINK, 0);

		cv_sftp_put_text(out, SFTP_PROC_SELF);
		cv_sftp_end(out, at, 0);
		link->to_come = 2;
	}
}

/* Goes on with it. Returns 0, or -errno. */
static int channel_greet(struct sftp_link *link)
{
	struct cv_ssh *ssh = link->session.ssh;
	ssize_t n;

	if (!link->asked) {
		int r = cv_ssh_channel_start(ssh);

		if (r <= 0)
			return r;
		listen_to(link, on_greeting);
		put_greeting(link);
		link->asked = true;
	}
	if (link->stage.bad)
		return -ENOMEM;
	n = cv_ssh_send(ssh, link->stage.data + link->stage_off,
			link->stage.size - link->stage_off);
	if (n < 0)
		return (int)n;
	link->stage_off += (size_t)n;
	return 0;
}

static void channel_try(struct sftp_link *link)
{
	const struct sftp_session *first = &link->base->session;
	struct cv_ssh *ssh;

	if (link->state != SFTP_LINK_DOWN || link->session.ssh || link->awaiting ||
	    link->base->state != SFTP_LINK_UP || link->refused == link->base->generation)
		return;
	ssh = cv_ssh_channel(first->ssh);
	if (!ssh)
		return;
	link->session = sftp_session_beside(first, ssh);
	link->asked = false;
	(void)cv_timer_set(link->loop, &link->retry, link->timeout_ms);
	link->next_channel = link->base->channels;
	link->base->channels = link;
	cv_loop_defer(link->loop, &link->base->flush);
}

/* After each turn of the connection. */
static void channel_turn(struct sftp_link *link)
{
	int r = link->state == SFTP_LINK_DOWN ? channel_greet(link) : 0;

	if (r < 0 || link->broken || cv_ssh_channel_ended(link->session.ssh)) {
		lose(link, r < 0	      ? "the server opens no further channel"
			   : link->broken_why ? link->broken_why
					      : "ended by the server");
	} else if (link->state == SFTP_LINK_DOWN && link->asked && link->to_come == 0) {
		cv_timer_cancel(link->loop, &link->retry);
		begin(link);
		link->changed(link);
	}
}

static void channels_turn(struct sftp_link *link)
{
	for (struct sftp_link *channel = link->channels, *next; channel; channel = next) {
		next = channel->next_channel;
		channel_turn(channel);
	}
}

/* They have been waited for. */
static void forget(struct sftp_link *link, const struct sftp_predecessors *before)
{
	for (unsigned i = 0; i < before->count; i++) {
		for (unsigned n = 0; n < CV_PEERS; n++) {
			if (link->peer[n] == before->pid[i])
				link->peer[n] = 0;
		}
	}
	link->before.count = 0;
}

static void on_job(struct cv_posted *posted)
{
	struct sftp_job *job = cv_container_of(posted, struct sftp_job, posted);
	struct sftp_link *link = job->link;
	int r;

	/* The thread posts with the lock held: it must be through with the job before it is freed.
	 */
	(void)pthread_mutex_lock(&job->lock);
	(void)pthread_mutex_unlock(&job->lock);
	if (job->abandoned) { /* set by this thread */
		job_free(job);
		return;
	}
	link->job = NULL;
	r = job->result;
	if (r == 0) {
		forget(link, &job->before);
		r = go_up(link, &job->session);
	}
	if (link->further) {
		if (r < 0)
			cv_notice("sftp: no further connection: %s",
				  job->err.code ? job->err.text : cv_strerror(r));
		link->changed(link);
	} else if (r == 0) {
		link->reconnects++;
		cv_notice("sftp: connected to %s again after %llu ms",
			  cv_options_str(link->options, "host", ""),
			  (unsigned long long)((cv_now_ns() - link->down_since_ns) / MS));
	} else {
		set_error(link, job->err.code ? job->err.text : cv_strerror(r));
		cv_debug("%s", link->last_error);
		schedule_retry(link, r == -EACCES || r == -EKEYREJECTED ? REFUSED_MAX_MS
									: BACKOFF_MAX_MS);
	}
	job_free(job);
}

void sftp_link_try(struct sftp_link *link)
{
	if (link->base)
		channel_try(link);
	else if (link->state == SFTP_LINK_DOWN && !link->job && !link->awaiting)
		(void)job_start(link, cv_options_ms(link->options, "mount_timeout", 20000), 0,
				link->session.root, NULL, on_job, &link->job);
}

static void reconnect(struct sftp_link *link)
{
	uint64_t limit_ms = cv_options_ms(link->options, "mount_timeout", 20000);
	uint64_t down_ms = (cv_now_ns() - link->down_since_ns) / MS;
	uint64_t greeting_ms;

	if (link->state != SFTP_LINK_DOWN || link->job)
		return;
	/* A try into a line that is still dead must not hold up the one that will succeed. */
	greeting_ms = ++link->attempts % PATIENT_EVERY == 0 ? 0 : GREETING_MS;
	if (greeting_ms && greeting_ms < link->session.rtt_us / 1000 * 8)
		greeting_ms = link->session.rtt_us / 1000 * 8;
	if (limit_ms > link->attempt_ms) {
		limit_ms = link->attempt_ms;
		link->attempt_ms += greeting_ms ? 0 : ATTEMPT_MIN_MS;
	}
	/* After a line was cut for longer the server has nothing left to do, but its process is
	 * still there, since it does not know: that is waited for in vain. */
	link->before.wait_ms =
		down_ms + LATE_MIN_MS < link->timeout_ms ? link->timeout_ms - down_ms : LATE_MIN_MS;
	/* The root as it was found once: a `~` that now means something else is not the volume. */
	if (job_start(link, limit_ms, greeting_ms, link->session.root, &link->before, on_job,
		      &link->job) < 0)
		schedule_retry(link, BACKOFF_MAX_MS);
}

static void on_retry(struct cv_timer *timer)
{
	struct sftp_link *link = cv_container_of(timer, struct sftp_link, retry);

	if (link->awaiting)
		await_ask(link->awaiting);
	else if (!link->further)
		reconnect(link);
	else if (link->state == SFTP_LINK_DOWN)
		lose(link, "the server does not answer on it");
}

/* ---- handles foreseen ---- */

static bool handle_number(const uint8_t *p, size_t size, uint32_t *ret_number)
{
	struct cv_sftp_in in = { p, size, false };

	*ret_number = cv_sftp_get_u32(&in);
	return !in.bad && in.left == 0;
}

static uint32_t take_number(struct sftp_numbers *n)
{
	return n->nfree ? n->free[--n->nfree] : n->next++;
}

static void give_number(struct sftp_numbers *n, uint32_t number)
{
	if (n->nfree == SFTP_FREE_MAX)
		memmove(n->free, n->free + 1, --n->nfree * sizeof(n->free[0]));
	n->free[n->nfree++] = number;
}

static struct sftp_number_use *use_at(struct sftp_foresight *f, unsigned i)
{
	return &f->uses[(f->first + i) % CV_ARRAY_SIZE(f->uses)];
}

static void foresee(struct sftp_link *link, struct sftp_request *req)
{
	struct sftp_foresight *f = &link->foresight;
	struct sftp_open *open = req->foreseen;

	if (open) {
		open->generation = 0;
		open->elsewhere = true; /* not to be opened again by its path */
	}
	if (f->count == CV_ARRAY_SIZE(f->uses))
		f->trusted = false;
	if (!f->trusted)
		return;
	*use_at(f, f->count++) = (struct sftp_number_use){ .id = req->id };
	req->expected = take_number(&f->coming);
	if (!open)
		return;
	for (unsigned i = 0; i < 4; i++)
		open->handle.data[i] = (uint8_t)(req->expected >> (24 - 8 * i));
	open->handle.size = 4;
	open->generation = link->generation;
}

static void given_back(struct sftp_foresight *f, uint32_t number)
{
	if (f->count == CV_ARRAY_SIZE(f->uses))
		f->trusted = false;
	if (!f->trusted)
		return;
	give_number(&f->coming, number);
	if (f->count == 0)
		give_number(&f->known, number);
	else
		*use_at(f, f->count++) =
			(struct sftp_number_use){ .number = number, .is_close = true };
}

/* An OPEN failed: those behind it may get other numbers than they were expected to. */
static void foresee_again(struct sftp_link *link)
{
	struct sftp_foresight *f = &link->foresight;

	f->coming = f->known;
	for (unsigned i = 0; i < f->count; i++) {
		const struct sftp_number_use *use = use_at(f, i);
		struct sftp_request *req = use->is_close ? NULL : link->table[ID_SLOT(use->id)];

		if (use->is_close)
			give_number(&f->coming, use->number);
		else if (take_number(&f->coming) != req->expected && req->foreseen)
			req->foreseen->generation = 0; /* what has not been asked so far is not */
	}
}

/* An OPEN is answered. Returns whether it has what was expected. */
static bool learn(struct sftp_link *link, const struct sftp_request *req,
		  const struct sftp_reply *reply)
{
	struct sftp_foresight *f = &link->foresight;
	bool given = reply->type == CV_FXP_HANDLE;
	uint32_t number = 0;

	if (!f->trusted)
		return false;
	f->trusted = f->count > 0 && !use_at(f, 0)->is_close && use_at(f, 0)->id == req->id &&
		     (!given || (handle_number(reply->body, reply->size, &number) &&
				 number == take_number(&f->known)));
	if (!f->trusted) {
		cv_debug("sftp: handle %u is not what was expected: no more is foreseen", number);
		return false;
	}
	f->first++;
	f->count--;
	if (!given)
		foresee_again(link);
	for (; f->count > 0 && use_at(f, 0)->is_close; f->first++, f->count--)
		give_number(&f->known, use_at(f, 0)->number);
	return given && number == req->expected;
}

bool sftp_link_foresees(const struct sftp_link *link)
{
	return link->state == SFTP_LINK_UP && link->foresight.trusted;
}

bool sftp_open_same(const struct sftp_open *foreseen, const struct sftp_open *open)
{
	return foreseen->generation && foreseen->generation == open->generation &&
	       foreseen->handle.size == open->handle.size &&
	       memcmp(foreseen->handle.data, open->handle.data, open->handle.size) == 0;
}

/* ---- encoding ---- */

static void put_handle(struct cv_sftp_out *out, const struct sftp_handle *handle)
{
	cv_sftp_put_string(out, handle->data, handle->size);
}

static void encode_extended(struct cv_sftp_out *out, const struct sftp_request *req)
{
	cv_sftp_put_text(out, sftp_ext_name(req->ext));
	if (req->ext == SFTP_EXT_COPY_DATA) {
		put_handle(out, &req->source->handle);
		cv_sftp_put_u64(out, req->source_offset);
		cv_sftp_put_u64(out, req->length);
		put_handle(out, &req->open->handle);
		cv_sftp_put_u64(out, req->offset);
		return;
	}
	if (req->ext == SFTP_EXT_NAMES) {
		cv_sftp_put_bytes(out, req->payload, req->length);
		return;
	}
	if (req->open)
		put_handle(out, &req->open->handle);
	else
		cv_sftp_put_text(out, req->path);
	if (req->path2)
		cv_sftp_put_text(out, req->path2);
	if (req->ext == SFTP_EXT_LSETSTAT)
		cv_sftp_put_attrs(out, &req->attrs);
}

static void encode_symlink(struct sftp_link *link, struct cv_sftp_out *out,
			   const struct sftp_request *req)
{
	/* path: the target, path2: the new link. OpenSSH has them the other way round than the
	 * draft, by an old mistake that cannot be mended. */
	cv_sftp_put_text(out, link->session.target_first ? req->path : req->path2);
	cv_sftp_put_text(out, link->session.target_first ? req->path2 : req->path);
}

static void encode_body(struct sftp_link *link, struct cv_sftp_out *out,
			const struct sftp_request *req)
{
	switch ((enum cv_sftp_type)req->type) {
	case CV_FXP_OPEN:
		cv_sftp_put_text(out, req->path);
		cv_sftp_put_u32(out, req->pflags);
		cv_sftp_put_attrs(out, &req->attrs);
		break;
	case CV_FXP_CLOSE:
		put_handle(out, req->raw);
		break;
	case CV_FXP_READ:
	case CV_FXP_WRITE:
		put_handle(out, &req->open->handle);
		cv_sftp_put_u64(out, req->offset);
		cv_sftp_put_u32(out, req->size);
		break;
	case CV_FXP_FSTAT:
	case CV_FXP_READDIR:
		put_handle(out, &req->open->handle);
		break;
	case CV_FXP_FSETSTAT:
		put_handle(out, &req->open->handle);
		cv_sftp_put_attrs(out, &req->attrs);
		break;
	case CV_FXP_SETSTAT:
	case CV_FXP_MKDIR:
		cv_sftp_put_text(out, req->path);
		cv_sftp_put_attrs(out, &req->attrs);
		break;
	case CV_FXP_RENAME:
		cv_sftp_put_text(out, req->path);
		cv_sftp_put_text(out, req->path2);
		break;
	case CV_FXP_SYMLINK:
		encode_symlink(link, out, req);
		break;
	case CV_FXP_EXTENDED:
		encode_extended(out, req);
		break;
	case CV_FXP_LSTAT:
	case CV_FXP_STAT:
	case CV_FXP_OPENDIR:
	case CV_FXP_REMOVE:
	case CV_FXP_RMDIR:
	case CV_FXP_REALPATH:
	case CV_FXP_READLINK:
		cv_sftp_put_text(out, req->path);
		break;
	case CV_FXP_INIT:
	case CV_FXP_VERSION:
	case CV_FXP_STATUS:
	case CV_FXP_HANDLE:
	case CV_FXP_DATA:
	case CV_FXP_NAME:
	case CV_FXP_ATTRS:
	case CV_FXP_EXTENDED_REPLY:
	default:
		break;
	}
}

/* Puts req into the table and its bytes into the stage; a large WRITE's data goes on directly. */
static void encode(struct sftp_link *link, struct sftp_request *req)
{
	struct cv_sftp_out *out = &link->stage;
	uint16_t slot = link->slots[link->in_flight];
	size_t payload = req->type == CV_FXP_WRITE ? req->size : 0;
	size_t copy = payload;
	size_t start;
	uint32_t number;

	if (link->in_flight++ == 0) {
		link->seen_ns = cv_now_ns();
		link->provoked = false;
	}
	req->id = slot | (link->slot_use[slot]++ * ID_GENERATION);
	req->sent_ns = cv_now_ns();
	link->table[slot] = req;
	if (req->type == CV_FXP_OPEN || req->type == CV_FXP_OPENDIR)
		foresee(link, req);
	else if (req->type == CV_FXP_CLOSE &&
		 handle_number(req->raw->data, req->raw->size, &number))
		given_back(&link->foresight, number);
	if (req->type == CV_FXP_READ && link->read_bytes == 0) {
		link->rate_start_ns = req->sent_ns; /* what nobody wanted is not the line's rate */
		link->rate_bytes = 0;
	}
	if (req->type == CV_FXP_READ)
		link->read_bytes += req->size;
	link->write_bytes += payload;
	start = cv_sftp_begin(out, req->type, req->id);
	encode_body(link, out, req);
	cv_sftp_end(out, start, payload);
	if (payload > COPY_MAX && out->size < STAGE_SIZE) {
		/* Fill one channel packet with the head and the first of the data. */
		copy = STAGE_SIZE - out->size;
		if (copy > payload)
			copy = payload;
	}
	if (payload > 0)
		cv_sftp_put_bytes(out, req->payload, copy);
	if (copy < payload) {
		link->direct = req;
		link->direct_off = copy;
	}
}

/* The next request that may go out now, or NULL. */
static struct sftp_request *next_request(struct sftp_link *link)
{
	bool bulk = link->in_flight < SFTP_IN_FLIGHT_MAX - META_RESERVE;
	struct sftp_request *r = link->reads.head;
	struct sftp_request *w = link->writes.head;

	if (link->in_flight == SFTP_IN_FLIGHT_MAX)
		return NULL;
	if (link->meta.head)
		return queue_pop(&link->meta);
	if (!bulk || (link->read_bytes > 0 && r && link->read_bytes + r->size > link->read_limit))
		r = NULL;
	if (!bulk ||
	    (link->write_bytes > 0 && w && link->write_bytes + w->size > link->write_limit))
		w = NULL;
	link->write_turn = !link->write_turn;
	if (r && (!w || !link->write_turn))
		return queue_pop(&link->reads);
	return w ? queue_pop(&link->writes) : NULL;
}

static bool moves(struct sftp_link *link, const struct sftp_open *open)
{
	return link->moves && link->moves(link, open);
}

/* Is the handle there? If not, req has been put aside or answered. */
static bool handle_ready(struct sftp_link *link, struct sftp_request *req, struct sftp_open *open)
{
	if (!open || open->generation == link->generation || req == open->reopen)
		return true;
	if (open->gone || (link->session.open_empties && (open->pflags & CV_FXF_WRITE)))
		open->failed = -ESTALE;
	if (open->failed || open->is_dir || open->elsewhere) {
		verdict(link, req, open->failed ? open->failed : -ESTALE);
		return false;
	}
	req->next = open->waiting;
	open->waiting = req;
	if (!moves(link, open))
		reopen_submit(link, open);
	return false;
}

/* The same for all that req needs. */
static bool request_ready(struct sftp_link *link, struct sftp_request *req)
{
	if (req->type == CV_FXP_CLOSE && req->raw_generation != link->generation) {
		verdict(link, req, 0); /* went with its connection */
		return false;
	}
	return handle_ready(link, req, req->open) && handle_ready(link, req, req->source);
}

/* Fills the stage; returns false when there is nothing to send. */
static bool fill_stage(struct sftp_link *link)
{
	link->stage.size = 0;
	link->stage_off = 0;
	while (!link->direct && link->stage.size < STAGE_SIZE) {
		struct sftp_request *req = next_request(link);

		if (!req)
			break;
		if (request_ready(link, req))
			encode(link, req);
	}
	if (link->stage.bad) {
		link->broken = -ENOMEM;
		link->broken_why = "out of memory";
		return false;
	}
	return link->stage.size > 0;
}

/* Sends what is encoded, and encodes the next: a packet full of requests, or one WRITE. Returns 1
 * when that may go, too, 0 when the transport takes no more or there is none, or -errno. */
static int send_some(struct sftp_link *link)
{
	struct cv_ssh *ssh = link->session.ssh;
	size_t left = link->stage.size - link->stage_off;
	ssize_t n;

	if (left > 0) {
		n = cv_ssh_send(ssh, link->stage.data + link->stage_off, left);
		if (n > 0)
			link->stage_off += (size_t)n;
		if (n < 0 || (size_t)n < left)
			return n < 0 ? (int)n : 0;
	}
	if (link->direct) {
		left = link->direct->size - link->direct_off;
		n = cv_ssh_send(ssh, (const uint8_t *)link->direct->payload + link->direct_off,
				left);
		if (n > 0)
			link->direct_off += (size_t)n;
		if (n < 0 || (size_t)n < left)
			return n < 0 ? (int)n : 0;
		link->direct = NULL;
	}
	/* Encoding what cannot go yet would take from metadata its place in front. */
	if (cv_ssh_room(ssh) == 0 || !fill_stage(link))
		return link->broken;
	return 1;
}

/* The channel alone is lost, with the next turn. */
static void channel_broken(struct sftp_link *link, int r)
{
	if (!link->broken) {
		link->broken = r;
		link->broken_why = "the server takes no more";
	}
	cv_loop_defer(link->loop, &link->flush);
}

/*
 * Sends until the transport takes no more. The channels in turns: each has a process of the
 * server's, which then work side by side, and what one of them does not take at once waits in sshd,
 * which copies all that waits with each packet that comes. Returns 0 or -errno.
 */
static int send_all(struct sftp_link *link)
{
	bool more = true;
	int r = 0;

	while (r == 0 && more) {
		r = send_some(link);
		more = r > 0;
		r = r < 0 ? r : 0;
		for (struct sftp_link *c = link->channels; c && r == 0; c = c->next_channel) {
			int n = c->state == SFTP_LINK_UP && !c->broken ? send_some(c) : 0;

			if (n < 0)
				channel_broken(c, n);
			more |= n > 0;
		}
	}
	return r;
}

/* What the socket takes at once is followed by what that makes room for; bounded. */
static int send_and_settle(struct sftp_link *link)
{
	int r = 1;

	for (unsigned i = 0; i < SEND_ROUNDS && r > 0 && !link->broken; i++) {
		r = send_all(link);
		if (r == 0)
			r = cv_ssh_settle(link->session.ssh);
	}
	return r < 0 ? r : 0;
}

static void after_turn(struct sftp_link *link, int r)
{
	if (r == 0 && !link->broken)
		channels_turn(link);
	if (r == 0 && !link->broken)
		r = send_and_settle(link);
	if (r == 0 && !link->broken) {
		(void)cv_loop_modify(link->loop, &link->watch, cv_ssh_want(link->session.ssh));
		return;
	}
	if (link->broken)
		lose(link, link->broken_why ? link->broken_why : cv_strerror(link->broken));
	else
		lose(link, cv_ssh_error(link->session.ssh));
}

static void on_flush(struct cv_deferred *deferred)
{
	struct sftp_link *link = cv_container_of(deferred, struct sftp_link, flush);

	link = connection(link);
	if (link->state == SFTP_LINK_UP)
		after_turn(link, 0);
}

static void on_ready(struct cv_watch *watch, uint32_t events)
{
	struct sftp_link *link = cv_container_of(watch, struct sftp_link, watch);

	(void)events;
	if (link->state == SFTP_LINK_UP)
		after_turn(link, cv_ssh_turn(link->session.ssh));
}

bool sftp_link_room(const struct sftp_link *link, int kind)
{
	size_t limit = kind == SFTP_READS ? link->read_limit : link->write_limit;

	/* A line that is down takes everything: it may have to be given up together. */
	return link->state != SFTP_LINK_UP || link->bulk_bytes[kind] < limit + BACKLOG;
}

void sftp_link_submit(struct sftp_link *link, struct sftp_request *req)
{
	size_t *bulk = bulk_count(link, req);

	note_busy(link);
	req->order = ++link->order;
	req->queued_ns = cv_loop_now_ns(link->loop);
	req->retried = false;
	if (req->open && req->open->writes > 0 && req->type != CV_FXP_READ)
		req->behind_writes = true;
	if (req->source && req->source->writes > 0)
		req->behind_writes = true;
	if (req->type == CV_FXP_WRITE)
		req->open->writes++;
	if (bulk)
		*bulk += req->size;
	queue_push(queue_of(link, req), req);
	if (link->state == SFTP_LINK_UP)
		cv_loop_defer(link->loop, &link->flush);
}

/* ---- receiving ---- */

static int protocol_error(struct sftp_link *link, const char *why)
{
	link->broken = -EPROTO;
	link->broken_why = why;
	return -EPROTO;
}

static struct sftp_request *find_request(struct sftp_link *link, uint32_t id)
{
	struct sftp_request *req = link->table[ID_SLOT(id)];

	/* An answer to what is not wholly sent is no answer, and its data are still in use. */
	return req && req->id == id && req != link->direct ? req : NULL;
}

static void on_bytes(void *user, const uint8_t *p, size_t n)
{
	struct sftp_link *link = user;
	int r;

	if (link->broken)
		return;
	link->seen_ns = cv_loop_now_ns(link->loop);
	link->provoked = false;
	r = cv_sftp_parser_feed(&link->parser, p, n);
	if (r < 0 && !link->broken) {
		link->broken = r;
		link->broken_why = "the server sent what is not SFTP";
	}
	if (r < 0) /* not only with the next turn, if it was while sending */
		cv_loop_defer(link->loop, &link->flush);
}

static uint8_t *on_data(void *user, uint32_t id, uint32_t size)
{
	struct sftp_link *link = user;
	struct sftp_request *req = find_request(link, id);

	if (!req || req->type != CV_FXP_READ || size > req->size) {
		(void)protocol_error(link, "the server sent data nobody asked for");
		return NULL;
	}
	return req->dest;
}

static bool type_fits(const struct sftp_request *req, uint8_t type)
{
	switch (req->type) {
	case CV_FXP_OPEN:
	case CV_FXP_OPENDIR:
		return type == CV_FXP_HANDLE;
	case CV_FXP_READ:
		return type == CV_FXP_DATA;
	case CV_FXP_READDIR:
	case CV_FXP_READLINK:
	case CV_FXP_REALPATH:
		return type == CV_FXP_NAME;
	case CV_FXP_LSTAT:
	case CV_FXP_STAT:
	case CV_FXP_FSTAT:
		return type == CV_FXP_ATTRS;
	case CV_FXP_EXTENDED:
		return type == CV_FXP_EXTENDED_REPLY &&
		       (req->ext == SFTP_EXT_STATVFS || req->ext == SFTP_EXT_NAMES);
	default:
		return false;
	}
}

static bool wants_more_than_status(const struct sftp_request *req)
{
	return type_fits(req, CV_FXP_HANDLE) || type_fits(req, CV_FXP_DATA) ||
	       type_fits(req, CV_FXP_NAME) || type_fits(req, CV_FXP_ATTRS) ||
	       type_fits(req, CV_FXP_EXTENDED_REPLY);
}

/* How fast are we, and how long does an answer take? Sets how much may be in flight. */
static void measure(struct sftp_link *link, const struct sftp_request *req, size_t size)
{
	uint64_t now = cv_now_ns();
	uint64_t took = now - req->sent_ns;
	uint64_t period = now - link->rate_start_ns;

	if (req->type == CV_FXP_WRITE) {
		size_t ceiling = write_ceiling(link);

		if (took > WRITE_SLOW_NS + link->rtt_ns)
			link->write_limit -= link->write_limit > WRITE_FLOOR ? 65536 : 0;
		else if (link->write_limit < ceiling)
			link->write_limit += 32768;
		else
			link->write_limit = ceiling;
		return;
	}
	if (req->type != CV_FXP_READ) {
		if (took < link->rtt_ns || link->rtt_ns == 0)
			link->rtt_ns = took;
		return;
	}
	link->rate_bytes += size;
	if (period > 100 * MS) {
		/* Twice what fits into one round trip: grows until the line is full. */
		set_read_limit(link,
			       link->rate_bytes * 2 * (link->rtt_ns / 1000) / (period / 1000));
		link->rate_bytes = 0;
		link->rate_start_ns = now;
	}
}

static int on_reply(void *user, uint8_t type, uint32_t id, uint8_t *body, size_t size)
{
	struct sftp_link *link = user;
	struct sftp_request *req = find_request(link, id);
	struct cv_sftp_in in = { body, body ? size : 0, false };
	struct sftp_reply reply = { .type = type, .body = body, .size = size };
	bool foreseen = false;

	if (!req)
		return protocol_error(link, "the server answered what nobody asked");
	if (type == CV_FXP_STATUS) {
		reply.status = cv_sftp_get_u32(&in);
		reply.error = sftp_status_errno(reply.status);
		if (reply.error == 0 && wants_more_than_status(req))
			reply.error = -EIO;
	} else if (!type_fits(req, type)) {
		return protocol_error(link, "the server gave an answer of the wrong kind");
	}
	if (type == CV_FXP_HANDLE) {
		reply.body = (uint8_t *)(uintptr_t)cv_sftp_get_string(&in, &reply.size);
		if (reply.size == 0 || reply.size > CV_SFTP_HANDLE_MAX)
			in.bad = true;
		else
			link->open_handles++;
	}
	if (in.bad)
		return protocol_error(link, "the server sent a damaged answer");
	if (req->type == CV_FXP_OPEN || req->type == CV_FXP_OPENDIR)
		foreseen = learn(link, req, &reply);
	if (req->foreseen && !foreseen)
		req->foreseen->generation = 0;
	release_slot(link, req);
	measure(link, req, size);
	if (type == CV_FXP_DATA)
		link->bytes_read += size;
	else if (req->type == CV_FXP_WRITE && reply.error == 0)
		link->bytes_written += req->size;
	answer(link, req, &reply);
	return 0;
}

/* ---- liveness ---- */

static void fail_overdue_queue(struct sftp_link *link, struct sftp_queue *q, uint64_t now)
{
	uint64_t limit = link->timeout_ms * MS;
	bool all = now - link->down_since_ns >= limit;
	struct sftp_queue old = *q;
	struct sftp_request *req;

	if (!old.head)
		return;
	queue_init(q);
	while ((req = old.head)) {
		old.head = req->next;
		if (all || now - req->queued_ns >= limit)
			verdict(link, req, -ETIMEDOUT); /* may submit: that lands in q */
		else
			queue_insert(q, req);
	}
}

/* Also what is no answer to a request of ours. */
static void note_bytes_in(struct sftp_link *link, uint64_t now)
{
	uint64_t in = cv_ssh_bytes_in(link->session.ssh);

	if (in == link->seen_in)
		return;
	link->seen_in = in;
	if (now > link->seen_ns)
		link->seen_ns = now;
	link->provoked = false;
}

static const char *check_alive(struct sftp_link *link, uint64_t now)
{
	uint64_t limit = link->timeout_ms * MS;
	uint64_t silent;

	note_bytes_in(link, now);
	silent = now - link->seen_ns;
	if (link->in_flight == 0) {
		/* Also keeps firewalls from forgetting us. */
		if (link->provoked && silent >= limit)
			return "no sign of life from the server";
		if (!link->provoked && silent >= (IDLE_TICK_MS - 1000) * MS) {
			cv_ssh_provoke(link->session.ssh);
			link->provoked = true;
		}
		return NULL;
	}
	for (size_t i = 0; i < SFTP_IN_FLIGHT_MAX; i++) {
		if (link->table[i] && now - link->table[i]->sent_ns > ANSWER_MAX_NS &&
		    now - link->table[i]->sent_ns > 4 * limit)
			return "a request was not answered for minutes";
	}
	if (silent >= limit)
		return "the server does not answer";
	if (silent >= limit / 2 && !link->provoked) {
		/* sshd answers this even while its SFTP process waits for a disk. */
		cv_ssh_provoke(link->session.ssh);
		link->provoked = true;
	}
	return NULL;
}

void sftp_link_provoke(struct sftp_link *link)
{
	if (link->state != SFTP_LINK_UP)
		return;
	note_bytes_in(link, cv_now_ns());
	if (link->provoked)
		return;
	cv_ssh_provoke(link->session.ssh);
	link->provoked = true;
	after_turn(connection(link), 0); /* sends it */
}

/* Not the last bytes taken: the kernel of a server that hangs takes a small request at once. */
uint64_t sftp_link_heard_ns(struct sftp_link *link)
{
	uint64_t now = cv_now_ns(), taken;
	bool more;

	if (link->state == SFTP_LINK_UP) {
		note_bytes_in(link, now);
		taken = cv_ssh_bytes_taken(link->session.ssh, &more);
		if (more && taken > link->taken)
			link->taken_ns = now;
		link->taken = taken;
	}
	return link->taken_ns > link->seen_ns ? link->taken_ns : link->seen_ns;
}

static void on_tick(struct cv_timer *timer)
{
	struct sftp_link *link = cv_container_of(timer, struct sftp_link, tick);
	uint64_t now = cv_now_ns();
	const char *why;

	if (link->state == SFTP_LINK_DOWN && link->soft) {
		fail_overdue_queue(link, &link->meta, now);
		fail_overdue_queue(link, &link->reads, now);
		fail_overdue_queue(link, &link->writes, now);
	}
	if (link->state == SFTP_LINK_UP) {
		why = check_alive(link, now);
		if (why)
			lose(connection(link), why);
		else
			after_turn(connection(link), 0); /* sends a provocation */
	}
	arm_tick(link);
	if (link->state == SFTP_LINK_UP && link->in_flight == 0 && link->provoked)
		(void)cv_timer_set(link->loop, &link->tick, link->timeout_ms);
}

/* ---- handles ---- */

struct reopening {
	struct sftp_request req;
	struct sftp_link *link;
	struct sftp_open *open; /* NULL: released meanwhile */
	uint64_t generation;
	struct sftp_handle handle;
};

static void close_done(struct sftp_request *req, struct sftp_reply *reply)
{
	(void)reply;
	free(req->raw);
	free(req);
}

void sftp_link_close_handle(struct sftp_link *link, const struct sftp_handle *handle,
			    uint64_t generation)
{
	struct sftp_request *req;

	if (handle->size == 0 || generation != link->generation || link->state != SFTP_LINK_UP)
		return;
	if (link->open_handles > 0)
		link->open_handles--;
	req = calloc(1, sizeof(*req));
	if (!req)
		return; /* the server keeps it until the connection ends */
	req->type = CV_FXP_CLOSE;
	req->raw = malloc(sizeof(*handle));
	if (!req->raw) {
		free(req);
		return;
	}
	*req->raw = *handle;
	req->raw_generation = generation;
	req->done = close_done;
	sftp_link_submit(link, req);
}

static void reopening_free(struct reopening *r)
{
	free(r->req.path);
	free(r);
}

/* Lets go of those who waited: to the queue, or with an error. */
static void reopen_end(struct reopening *r, int error)
{
	struct sftp_open *open = r->open;
	struct sftp_link *link = r->link;
	struct sftp_request *req;
	struct sftp_request *next;

	if (open) {
		open->reopen = NULL;
		for (req = open->waiting, open->waiting = NULL; req; req = next) {
			next = req->next;
			if (error)
				verdict(link, req, error);
			else
				queue_insert(queue_of(link, req), req);
		}
	}
	if (error && r->handle.size)
		sftp_link_close_handle(link, &r->handle, r->generation);
	reopening_free(r);
	if (link->state == SFTP_LINK_UP)
		cv_loop_defer(link->loop, &link->flush);
}

/* Its name may be another one by now: those who wait go on waiting. */
static void reopen_later(struct reopening *r)
{
	r->open->reopen = NULL;
	if (r->handle.size)
		sftp_link_close_handle(r->link, &r->handle, r->generation);
	reopening_free(r);
}

/*
 * Is this the file it was? It has no identity in SFTP, so only the impossible can be told: for who
 * reads, others may have appended to it. Who would write into it wants to be surer.
 */
static bool can_be_same(const struct sftp_open *open, const struct cv_sftp_attrs *attrs)
{
	/* What had a time from the future, as touch and tar set it, has an older one when written.
	 */
	uint32_t oldest =
		open->mtime_seen < open->mtime_changed ? open->mtime_seen : open->mtime_changed;

	if ((attrs->flags & CV_FXA_PERMISSIONS) && !S_ISREG(attrs->permissions))
		return false;
	if (open->untouched)
		return (!(attrs->flags & CV_FXA_SIZE) || attrs->size == open->size_untouched) &&
		       (!(attrs->flags & CV_FXA_ACMODTIME) ||
			attrs->mtime == open->mtime_untouched);
	if ((attrs->flags & CV_FXA_SIZE) && attrs->size < open->size_seen)
		return false;
	return !(attrs->flags & CV_FXA_ACMODTIME) || attrs->mtime >= oldest;
}

static void reopen_open_done(struct sftp_request *req, struct sftp_reply *reply);

static const char *name_of(const struct sftp_open *open)
{
	return open->also ? open->also : open->path;
}

/* Its name has changed since the request was made: what that has found says nothing. */
static bool reopen_again(struct reopening *r)
{
	char *path = strdup(name_of(r->open));

	if (!path)
		return false;
	if (r->handle.size)
		sftp_link_close_handle(r->link, &r->handle, r->generation);
	r->handle.size = 0;
	free(r->req.path);
	r->req.path = path;
	r->req.type = CV_FXP_OPEN;
	r->req.done = reopen_open_done;
	sftp_link_submit(r->link, &r->req);
	return true;
}

static void reopen_stat_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct reopening *r = cv_container_of(req, struct reopening, req);
	struct cv_sftp_in in = { reply->body, reply->size, false };
	struct sftp_open *open = r->open;
	struct cv_sftp_attrs attrs;
	int error = reply->error;

	if (!open) {
		reopen_end(r, -EBADF);
		return;
	}
	if (error == -ETIMEDOUT) {
		reopen_end(r, error);
		return;
	}
	if (strcmp(req->path, name_of(open)) != 0 && reopen_again(r))
		return;
	if (error == 0) {
		cv_sftp_get_attrs(&in, &attrs);
		if (in.bad)
			error = -EIO;
		else if (!can_be_same(open, &attrs))
			error = -ESTALE;
	}
	if ((error == -ENOENT || error == -ESTALE) && moves(r->link, open)) {
		reopen_later(r);
		return;
	}
	if (error) {
		open->failed = error == -ESTALE ? error : 0;
		cv_debug("sftp: '%s' cannot be opened again: %s", open->path, cv_strerror(error));
	} else {
		open->handle = r->handle;
		open->generation = r->generation;
		if (open->untouched && r->link->same)
			r->link->same(r->link, open);
		open->untouched = false;
	}
	reopen_end(r, error);
}

static void reopen_open_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct reopening *r = cv_container_of(req, struct reopening, req);
	struct sftp_open *open = r->open;

	if (reply->error == 0) {
		r->handle.size = (uint16_t)reply->size;
		memcpy(r->handle.data, reply->body, reply->size);
		r->generation = r->link->generation;
	}
	if (open && reply->error == -ENOENT) {
		if (open->also && strcmp(req->path, open->also) == 0) {
			free(open->also);
			open->also = NULL;
		}
		if (strcmp(req->path, name_of(open)) != 0 && reopen_again(r))
			return;
		if (moves(r->link, open)) {
			reopen_later(r);
			return;
		}
	}
	if (!open || reply->error) {
		int error = reply->error ? reply->error : -EBADF;

		if (open && error != -ETIMEDOUT) {
			/* Gone is gone; anything else may be better the next time. */
			error = error == -ENOENT ? -ESTALE : error;
			open->failed = error == -ESTALE ? error : 0;
			cv_debug("sftp: '%s' cannot be opened again: %s", open->path,
				 cv_strerror(error));
		}
		reopen_end(r, error);
		return;
	}
	/* By path, and right behind: what was opened and what is looked at could only differ if
	 * the name were replaced in between, which can_be_same() cannot see anyway. */
	req->type = CV_FXP_STAT;
	req->done = reopen_stat_done;
	sftp_link_submit(r->link, req);
}

static void reopen_submit(struct sftp_link *link, struct sftp_open *open)
{
	struct reopening *r;

	if (open->reopen)
		return;
	r = calloc(1, sizeof(*r));
	if (r)
		r->req.path = strdup(name_of(open));
	if (!r || !r->req.path) {
		struct sftp_request *req = open->waiting;

		free(r);
		open->waiting = req->next; /* the one just put there */
		verdict(link, req, -ENOMEM);
		return;
	}
	r->link = link;
	r->open = open;
	r->req.type = CV_FXP_OPEN;
	r->req.pflags = open->pflags;
	r->req.done = reopen_open_done;
	open->reopen = &r->req;
	sftp_link_submit(link, &r->req);
}

void sftp_open_moved(struct sftp_link *link, struct sftp_open *open)
{
	if (open->waiting && !open->reopen && !moves(link, open))
		reopen_submit(link, open);
}

void sftp_open_take(struct sftp_open *open, const struct sftp_reply *reply, uint64_t generation)
{
	open->handle.size = (uint16_t)reply->size;
	memcpy(open->handle.data, reply->body, reply->size);
	open->generation = generation;
}

void sftp_open_release(struct sftp_link *link, struct sftp_open *open)
{
	if (open->reopen)
		cv_container_of(open->reopen, struct reopening, req)->open = NULL;
	sftp_link_close_handle(link, &open->handle, open->generation);
	free(open->path);
	free(open->also);
	open->path = open->also = NULL;
}

/* ---- life ---- */

static void link_init(struct sftp_link *link, const struct cv_dict *options, struct cv_loop *loop)
{
	memset(link, 0, sizeof(*link));
	link->loop = loop;
	link->options = options;
	link->soft = strcmp(cv_options_str(options, "recovery", "hard"), "soft") == 0;
	link->timeout_ms = cv_options_ms(options, "timeout", 15000);
	if (link->timeout_ms < 500)
		link->timeout_ms = 500;
	link->backoff_ms = BACKOFF_MIN_MS;
	link->watch = (struct cv_watch)CV_WATCH_INIT(on_ready);
	link->flush = (struct cv_deferred)CV_DEFERRED_INIT(on_flush);
	link->tick = (struct cv_timer)CV_TIMER_INIT(on_tick);
	link->retry = (struct cv_timer)CV_TIMER_INIT(on_retry);
	queue_init(&link->meta);
	queue_init(&link->reads);
	queue_init(&link->writes);
	for (size_t i = 0; i < SFTP_IN_FLIGHT_MAX; i++)
		link->slots[i] = (uint16_t)i;
}

static struct sftp_link *link_beside(struct sftp_link *first, unsigned number, void *owner,
				     void (*changed)(struct sftp_link *link))
{
	struct sftp_link *link = malloc(sizeof(*link));

	if (!link)
		return NULL;
	link_init(link, first->options, first->loop);
	link->further = true;
	link->first = first;
	link->peer = first->peer + number;
	link->owner = owner;
	link->changed = changed;
	return link;
}

struct sftp_link *sftp_link_further(struct sftp_link *first, unsigned number, void *owner,
				    void (*changed)(struct sftp_link *link))
{
	struct sftp_link *link = link_beside(first, number, owner, changed);

	if (link)
		link->session.root = strdup(first->session.root);
	if (link && !link->session.root) {
		free(link);
		return NULL;
	}
	return link;
}

struct sftp_link *sftp_link_channel(struct sftp_link *first, unsigned number, void *owner,
				    void (*changed)(struct sftp_link *link))
{
	struct sftp_link *link = link_beside(first, number, owner, changed);

	if (link)
		link->base = first;
	return link;
}

int sftp_link_start(struct sftp_link *link, const struct cv_dict *options, struct cv_loop *loop,
		    uint64_t mount_timeout_ms, uint64_t *peers, struct cv_err *err)
{
	struct sftp_predecessors before = { 0 };
	struct sftp_job *job;
	uint64_t deadline;
	int r;

	link_init(link, options, loop);
	link->peer = peers;
	for (unsigned i = 0; i < CV_PEERS; i++) {
		if (peers[i])
			before.pid[before.count++] = peers[i];
	}
	before.wait_ms = link->timeout_ms;
	r = job_start(link, mount_timeout_ms, 0, NULL, &before, NULL, &job);
	if (r < 0)
		return cv_fail(err, r, "sftp: cannot start a thread: %s", cv_strerror(r));
	if (before.count)
		mount_timeout_ms += before.wait_ms;
	deadline = cv_now_ns() + mount_timeout_ms * MS;
	/* Its own deadline is the same; a moment more lets it say what took so long. */
	if (!job_wait(job, deadline + 200 * MS)) {
		r = cv_fail(err, ETIMEDOUT, "sftp: %s: %s: timed out after %llu ms",
			    cv_options_str(options, "host", ""), job->limit.step,
			    (unsigned long long)mount_timeout_ms);
		job_abandon(job);
		return r;
	}
	r = job->result;
	if (r < 0 && err)
		*err = job->err;
	if (r == 0) {
		/* They have been waited for; whoever comes next has to wait for ours. */
		memset(peers, 0, CV_PEERS * sizeof(peers[0]));
		r = go_up(link, &job->session);
		if (r < 0)
			(void)cv_fail(err, r, "sftp: cannot watch the connection: %s",
				      cv_strerror(r));
	}
	job_free(job);
	if (r < 0)
		sftp_link_stop(link);
	return r;
}

void sftp_link_stop(struct sftp_link *link)
{
	/* The last CLOSEs; what does not go now ends with the connection. */
	if (link->state == SFTP_LINK_UP)
		(void)send_all(link);
	/* In any other state it has been cleared, or is for who comes next. */
	if (link->state == SFTP_LINK_UP && !changes_under_way(link))
		*link->peer = 0;
	link->state = SFTP_LINK_CLOSED;
	lose_channels(link);
	if (link->base)
		channel_remove(link);
	await_stop(link);
	cv_loop_remove(link->loop, &link->watch);
	cv_loop_undefer(link->loop, &link->flush);
	cv_timer_cancel(link->loop, &link->tick);
	cv_timer_cancel(link->loop, &link->retry);
	if (link->job)
		job_abandon(link->job);
	link->job = NULL;
	sftp_session_release(&link->session);
	for (size_t i = 0; i < SFTP_IN_FLIGHT_MAX; i++) {
		struct sftp_request *req = link->table[i];

		if (req) {
			release_slot(link, req);
			verdict(link, req, -EIO);
		}
	}
	end_all(link, -EIO);
	reset_stream(link);
	cv_sftp_out_release(&link->stage);
}
