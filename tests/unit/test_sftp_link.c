/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections of the SFTP engine over a transport played by the test: what is asked before a
 * channel is used, and what becomes of requests whose channel or connection is lost while the
 * server's process may still be at them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/sftp_link.h"
#include "config/cleanup.h"
#include "config/log.h"

#define LIMIT_NS   10000000000ull
#define FIRST_PID  1000
#define PIDS	   16
#define HANDLES	   8
#define TIMEOUT_MS "500" /* the shortest there is */

/* ---- the transport, and the server behind it ----
 *
 * In place of ssh_transport.c: all of it that is called, or the linker takes the real one, too.
 */

struct cv_ssh {
	struct cv_ssh *base;
	struct cv_ssh *channels;
	struct cv_ssh *next;
	int fd;
	unsigned pid; /* of the process that serves it, less FIRST_PID */
	void (*data)(void *user, const uint8_t *p, size_t n);
	void *user;
	struct cv_sftp_out answers; /* not taken so far */
	bool lost;		    /* the next turn says so */
	bool full;		    /* sending fails */
};

/* The login's thread and the loop's take turns. */
static struct {
	unsigned processes;
	bool running[PIDS];
	unsigned looks_left; /* until those that still run have ended; 0: they do not */
	unsigned looks;
	bool hidden;	  /* /proc has one's own only */
	bool keep_writes; /* unanswered */
	bool keep_self;	  /* the same for who asks for his own number on a channel */
	bool silent;	  /* channels say nothing at all */
	unsigned writes[PIDS];
	struct cv_ssh *last; /* of those that began */
	struct cv_ssh *kept; /* whose keep_self it was, */
	uint32_t kept_id;
	uint64_t *peers;
	/* Directories open in the first process, by handle: what was given back last is used first.
	 */
	char dirs[HANDLES][256];
	unsigned lists[HANDLES]; /* READDIRs */
	unsigned free[HANDLES], nfree, next;
	unsigned opens;	 /* OPENDIRs */
	bool hold;	 /* answers wait, */
	unsigned passed; /* but for so many */
} server;

static struct cv_ssh *connection(struct cv_ssh *ssh)
{
	return ssh->base ? ssh->base : ssh;
}

static void answered(struct cv_ssh *ssh)
{
	uint64_t one = 1;

	assert_int_equal(write(connection(ssh)->fd, &one, sizeof(one)), sizeof(one));
}

static void say_status(struct cv_ssh *ssh, uint32_t id, uint32_t status)
{
	size_t at = cv_sftp_begin(&ssh->answers, CV_FXP_STATUS, id);

	cv_sftp_put_u32(&ssh->answers, status);
	cv_sftp_put_text(&ssh->answers, "");
	cv_sftp_put_text(&ssh->answers, "");
	cv_sftp_end(&ssh->answers, at, 0);
}

static void say_name(struct cv_ssh *ssh, uint32_t id, const char *name)
{
	const struct cv_sftp_attrs none = { 0 };
	size_t at = cv_sftp_begin(&ssh->answers, CV_FXP_NAME, id);

	cv_sftp_put_u32(&ssh->answers, 1);
	cv_sftp_put_text(&ssh->answers, name);
	cv_sftp_put_text(&ssh->answers, "");
	cv_sftp_put_attrs(&ssh->answers, &none);
	cv_sftp_end(&ssh->answers, at, 0);
}

static void say_self(struct cv_ssh *ssh, uint32_t id)
{
	char text[16];

	(void)snprintf(text, sizeof(text), "%u", FIRST_PID + ssh->pid);
	say_name(ssh, id, text);
}

static void say_attrs(struct cv_ssh *ssh, uint32_t id)
{
	const struct cv_sftp_attrs dir = { .flags = CV_FXA_PERMISSIONS | CV_FXA_UIDGID,
					   .permissions = S_IFDIR | 0755 };
	size_t at = cv_sftp_begin(&ssh->answers, CV_FXP_ATTRS, id);

	cv_sftp_put_attrs(&ssh->answers, &dir);
	cv_sftp_end(&ssh->answers, at, 0);
}

static void say_version(struct cv_ssh *ssh)
{
	cv_sftp_end(&ssh->answers, cv_sftp_begin(&ssh->answers, CV_FXP_VERSION, 3), 0);
}

static void look(struct cv_ssh *ssh, uint32_t id, unsigned pid)
{
	server.looks++;
	if (server.looks_left > 0 && --server.looks_left == 0)
		server.running[pid - FIRST_PID] = false;
	say_status(ssh, id,
		   !server.hidden && server.running[pid - FIRST_PID] ? CV_FX_PERMISSION_DENIED
								     : CV_FX_NO_SUCH_FILE);
}

static void read_link(struct cv_ssh *ssh, uint32_t id, const char *path)
{
	unsigned pid;

	if (strcmp(path, SFTP_PROC_SELF) == 0 && ssh->base && server.keep_self) {
		server.kept = ssh;
		server.kept_id = id;
	} else if (strcmp(path, SFTP_PROC_SELF) == 0) {
		say_self(ssh, id);
	} else if (strcmp(path, SFTP_PROC_INIT) == 0) {
		say_status(ssh, id, server.hidden ? CV_FX_NO_SUCH_FILE : CV_FX_PERMISSION_DENIED);
	} else {
		assert_int_equal(sscanf(path, "/proc/%u/exe", &pid), 1);
		look(ssh, id, pid);
	}
}

/* Who comes next must know whom to wait for. */
static bool is_noted(const struct cv_ssh *ssh)
{
	for (unsigned i = 0; i < CV_PEERS; i++) {
		if (server.peers[i] == FIRST_PID + ssh->pid)
			return true;
	}
	return false;
}

/* As OpenSSH does it. */
static void open_dir(struct cv_ssh *ssh, uint32_t id, const char *path)
{
	unsigned number;
	size_t at;

	server.opens++;
	if (strcmp(path, "absent") == 0) {
		say_status(ssh, id, CV_FX_NO_SUCH_FILE);
		return;
	}
	number = server.nfree ? server.free[--server.nfree] : server.next++;
	assert_true(number < HANDLES);
	(void)snprintf(server.dirs[number], sizeof(server.dirs[number]), "%s", path);
	server.lists[number] = 0;
	at = cv_sftp_begin(&ssh->answers, CV_FXP_HANDLE, id);
	cv_sftp_put_string(&ssh->answers, (const uint8_t[]){ 0, 0, 0, (uint8_t)number }, 4);
	cv_sftp_end(&ssh->answers, at, 0);
}

static void use_dir(struct cv_ssh *ssh, uint32_t id, uint8_t type, const uint8_t *handle)
{
	unsigned number = handle[3];

	if (number >= HANDLES || !server.dirs[number][0]) {
		say_status(ssh, id, CV_FX_FAILURE);
	} else if (type == CV_FXP_READDIR) {
		server.lists[number]++;
		say_name(ssh, id, server.dirs[number]);
	} else {
		server.dirs[number][0] = '\0';
		server.free[server.nfree++] = number;
		say_status(ssh, id, CV_FX_OK);
	}
}

static void serve(struct cv_ssh *ssh, const uint8_t *p, size_t size)
{
	struct cv_sftp_in in = { p + 1, size - 1, false };
	uint32_t id = cv_sftp_get_u32(&in);
	char path[256] = "";
	size_t n;

	if (ssh->base && server.silent)
		return;
	switch (p[0]) {
	case CV_FXP_INIT:
		say_version(ssh);
		break;
	case CV_FXP_WRITE:
		assert_true(is_noted(ssh) || server.hidden);
		server.writes[ssh->pid]++;
		if (!server.keep_writes)
			say_status(ssh, id, CV_FX_OK);
		break;
	case CV_FXP_OPENDIR:
		p = cv_sftp_get_string(&in, &n);
		assert_true(n < sizeof(path));
		memcpy(path, p, n);
		open_dir(ssh, id, path);
		break;
	case CV_FXP_READDIR:
	case CV_FXP_CLOSE:
		use_dir(ssh, id, p[0], cv_sftp_get_string(&in, &n));
		break;
	case CV_FXP_READLINK:
	case CV_FXP_REALPATH:
	case CV_FXP_STAT:
		p = cv_sftp_get_string(&in, &n);
		assert_true(n < sizeof(path));
		memcpy(path, p, n);
		if (strncmp(path, "/proc/", 6) == 0)
			read_link(ssh, id, path);
		else if (strcmp(path, ".") == 0)
			say_name(ssh, id, "/srv");
		else
			say_attrs(ssh, id);
		break;
	default:
		say_status(ssh, id, CV_FX_OP_UNSUPPORTED);
		break;
	}
}

static struct cv_ssh *begin(struct cv_ssh *base)
{
	struct cv_ssh *ssh = calloc(1, sizeof(*ssh));

	assert_non_null(ssh);
	assert_true(server.processes < PIDS);
	ssh->base = base;
	ssh->fd = base ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ssh->pid = server.processes++;
	server.running[ssh->pid] = true;
	server.last = ssh;
	if (base) {
		ssh->next = base->channels;
		base->channels = ssh;
	}
	return ssh;
}

int cv_ssh_open(const struct cv_dict *options, struct cv_ssh_limit *limit, struct cv_ssh **ret_ssh,
		struct cv_err *err)
{
	(void)options;
	(void)limit;
	(void)err;
	*ret_ssh = begin(NULL);
	return 0;
}

struct cv_ssh *cv_ssh_channel(struct cv_ssh *base)
{
	return begin(base);
}

int cv_ssh_channel_start(struct cv_ssh *channel)
{
	(void)channel;
	return 1;
}

bool cv_ssh_channel_ended(const struct cv_ssh *channel)
{
	return channel->lost;
}

void cv_ssh_close(struct cv_ssh *ssh)
{
	if (!ssh)
		return;
	if (ssh->base) {
		struct cv_ssh **at = &ssh->base->channels;

		while (*at != ssh)
			at = &(*at)->next;
		*at = ssh->next;
	}
	assert_null(ssh->channels);
	(void)close(ssh->fd);
	cv_sftp_out_release(&ssh->answers);
	free(ssh);
}

void cv_ssh_set_data(struct cv_ssh *ssh, void (*data)(void *user, const uint8_t *p, size_t n),
		     void *user)
{
	ssh->data = data;
	ssh->user = user;
}

static void deliver(struct cv_ssh *ssh)
{
	struct cv_sftp_out out = ssh->answers;

	memset(&ssh->answers, 0, sizeof(ssh->answers));
	if (server.hold && out.size > 0) {
		size_t size = 4 + out.data[3]; /* none is long */

		if (server.passed == 0)
			size = 0;
		else
			server.passed--;
		cv_sftp_put_bytes(&ssh->answers, out.data + size, out.size - size);
		out.size = size;
	}
	if (out.size > 0 && ssh->data)
		ssh->data(ssh->user, out.data, out.size);
	cv_sftp_out_release(&out);
}

int cv_ssh_turn(struct cv_ssh *ssh)
{
	uint64_t n;

	(void)!read(ssh->fd, &n, sizeof(n));
	if (ssh->lost)
		return -ECONNRESET;
	deliver(ssh);
	for (struct cv_ssh *c = ssh->channels; c; c = c->next)
		deliver(c);
	return 0;
}

/* Whole requests come, and in one piece. */
ssize_t cv_ssh_send(struct cv_ssh *ssh, const void *data, size_t size)
{
	const uint8_t *p = data;

	if (ssh->full || ssh->lost)
		return -ECONNRESET;
	for (size_t left = size; left > 0;) {
		size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];

		assert_true(n + 4 <= left);
		serve(ssh, p + 4, n);
		p += n + 4;
		left -= n + 4;
	}
	if (ssh->answers.size > 0)
		answered(ssh);
	return (ssize_t)size;
}

int cv_ssh_settle(struct cv_ssh *ssh)
{
	(void)ssh;
	return 0;
}

int cv_ssh_fd(const struct cv_ssh *ssh)
{
	return ssh->fd;
}

uint32_t cv_ssh_want(const struct cv_ssh *ssh)
{
	(void)ssh;
	return EPOLLIN;
}

const char *cv_ssh_error(const struct cv_ssh *ssh)
{
	(void)ssh;
	return "lost";
}

size_t cv_ssh_room(struct cv_ssh *ssh)
{
	(void)ssh;
	return 1 << 20;
}

void cv_ssh_set_window(struct cv_ssh *ssh, uint32_t size_bytes)
{
	(void)ssh;
	(void)size_bytes;
}

void cv_ssh_provoke(struct cv_ssh *ssh)
{
	(void)ssh;
}

uint64_t cv_ssh_bytes_in(const struct cv_ssh *ssh)
{
	(void)ssh;
	return 0;
}

uint64_t cv_ssh_bytes_taken(const struct cv_ssh *ssh, bool *ret_more)
{
	(void)ssh;
	*ret_more = false;
	return 0;
}

const char *cv_ssh_server(const struct cv_ssh *ssh)
{
	(void)ssh;
	return "SSH-2.0-OpenSSH_9.2";
}

/* ---- the client's side ---- */

struct test {
	struct cv_loop *loop;
	struct cv_dict options;
	uint64_t peers[CV_PEERS];
	struct sftp_link link;
	struct sftp_link *channel;
};

static unsigned changes;

static void changed(struct sftp_link *link)
{
	(void)link;
	changes++;
}

static void start(struct test *t)
{
	struct cv_err err = { 0 };

	assert_int_equal(sftp_link_start(&t->link, &t->options, t->loop, 5000, t->peers, &err), 0);
}

static void test_begin(struct test *t)
{
	memset(t, 0, sizeof(*t));
	memset(&server, 0, sizeof(server));
	server.peers = t->peers;
	changes = 0;
	cv_log_set_level(CV_LOG_ERROR);
	assert_int_equal(cv_loop_new(&t->loop), 0);
	assert_int_equal(cv_dict_set(&t->options, "timeout", TIMEOUT_MS "ms"), 0);
	assert_int_equal(cv_dict_set(&t->options, "host", "server"), 0);
}

static void test_end(struct test *t)
{
	sftp_link_stop(&t->link);
	if (t->channel)
		sftp_link_stop(t->channel);
	free(t->channel);
	cv_loop_free(t->loop);
	cv_dict_release(&t->options);
	for (unsigned i = 0; i < CV_PEERS; i++)
		assert_int_equal(t->peers[i], 0);
}

static void turns(struct test *t, unsigned n)
{
	while (n-- > 0)
		assert_int_equal(cv_loop_turn(t->loop, 1), 0);
}

#define TURN_UNTIL(t, condition)                                                                   \
	do {                                                                                       \
		uint64_t until_ns = cv_now_ns() + LIMIT_NS;                                        \
		while (!(condition) && cv_now_ns() < until_ns)                                     \
			turns((t), 1);                                                             \
		assert_true(condition);                                                            \
	} while (0)

static void channel_up(struct test *t)
{
	t->channel = sftp_link_channel(&t->link, 1, NULL, changed);
	assert_non_null(t->channel);
	sftp_link_try(t->channel);
	TURN_UNTIL(t, t->channel->state == SFTP_LINK_UP);
}

struct request {
	struct sftp_request req;
	struct sftp_open open;
	unsigned count;
	int error;
	char bytes[8];
};

static void done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct request *r = cv_container_of(req, struct request, req);

	r->count++;
	r->error = reply->error;
}

static void submit(struct sftp_link *link, struct request *r, uint8_t type)
{
	memset(r, 0, sizeof(*r));
	r->open.handle.size = 4;
	r->open.generation = link->generation;
	r->open.elsewhere = true;
	r->req.type = type;
	r->req.open = &r->open;
	r->req.size = sizeof(r->bytes);
	r->req.payload = r->req.dest = (uint8_t *)r->bytes;
	r->req.done = done;
	sftp_link_submit(link, &r->req);
}

/* ---- tests ---- */

static void each_process_is_noted_before_it_is_used(void **state)
{
	struct request w;
	struct test t;

	(void)state;
	test_begin(&t);
	start(&t);
	assert_int_equal(t.peers[0], FIRST_PID);

	server.keep_self = true;
	t.channel = sftp_link_channel(&t.link, 1, NULL, changed);
	sftp_link_try(t.channel);
	TURN_UNTIL(&t, server.kept);
	turns(&t, 20);
	assert_int_equal(t.channel->state, SFTP_LINK_DOWN);
	say_self(server.kept, server.kept_id);
	answered(server.kept);
	TURN_UNTIL(&t, t.channel->state == SFTP_LINK_UP);
	assert_int_equal(t.peers[1], FIRST_PID + 1);
	submit(t.channel, &w, CV_FXP_WRITE);
	TURN_UNTIL(&t, w.count);
	assert_int_equal(w.error, 0);
	test_end(&t);
}

/* Whose own process is all he sees would take every other for gone. */
static void who_cannot_see_processes_notes_none(void **state)
{
	struct request w;
	struct test t;

	(void)state;
	test_begin(&t);
	server.hidden = true;
	start(&t);
	assert_int_equal(t.peers[0], 0);
	channel_up(&t);
	assert_int_equal(t.peers[1], 0);
	submit(t.channel, &w, CV_FXP_WRITE);
	TURN_UNTIL(&t, w.count);
	test_end(&t);
}

static void a_successor_waits_for_all(void **state)
{
	struct test t;

	(void)state;
	test_begin(&t);
	server.processes = 8;
	server.running[3] = true;
	server.looks_left = 5;
	t.peers[0] = FIRST_PID + 1;
	t.peers[2] = FIRST_PID + 3;
	t.peers[7] = FIRST_PID + 5;
	start(&t);
	assert_true(t.link.session.settled);
	/* From the second round on only at the one that was left. */
	assert_int_equal(server.looks, 5);
	assert_int_equal(t.peers[0], FIRST_PID + 8);
	for (unsigned i = 1; i < CV_PEERS; i++)
		assert_int_equal(t.peers[i], 0);
	test_end(&t);

	/* But not without end. */
	test_begin(&t);
	server.processes = 8;
	server.running[3] = true;
	t.peers[4] = FIRST_PID + 3;
	start(&t);
	assert_false(t.link.session.settled);
	assert_int_equal(t.peers[4], 0);
	test_end(&t);
}

static void a_channel_that_is_not_answered_is_given_up(void **state)
{
	struct request r;
	struct test t;

	(void)state;
	test_begin(&t);
	start(&t);
	server.silent = true;
	t.channel = sftp_link_channel(&t.link, 1, NULL, changed);
	sftp_link_try(t.channel);
	TURN_UNTIL(&t, changes);
	assert_null(t.channel->session.ssh);
	/* Once is enough. */
	sftp_link_try(t.channel);
	assert_null(t.channel->session.ssh);
	assert_int_equal(t.link.state, SFTP_LINK_UP);
	submit(&t.link, &r, CV_FXP_WRITE);
	TURN_UNTIL(&t, r.count);
	assert_int_equal(r.error, 0);
	test_end(&t);
}

/* A channel is up, and its process of the server has a write in hand. */
static void begin_with_write(struct test *t, struct request *w)
{
	test_begin(t);
	start(t);
	channel_up(t);
	server.keep_writes = true;
	submit(t->channel, w, CV_FXP_WRITE);
	TURN_UNTIL(t, server.writes[1]);
}

/* The channel that was opened last ends. */
static void end_last(void)
{
	server.last->lost = true;
	answered(server.last);
}

/* What nobody waits for is answered at once, what may be done late when it is no more. */
static void expect_lost(struct test *t, struct request *r, struct request *w, struct request *late)
{
	TURN_UNTIL(t, r->count);
	assert_int_equal(r->error, -ESTALE);
	TURN_UNTIL(t, server.looks >= 3);
	assert_int_equal(w->count, 0);
	assert_int_equal(t->peers[1], FIRST_PID + 1);
	sftp_link_try(t->channel);
	assert_int_equal(t->channel->state, SFTP_LINK_DOWN);
	assert_int_equal(t->link.state, SFTP_LINK_UP);
	server.running[1] = false;
	TURN_UNTIL(t, w->count);
	assert_int_equal(w->error, -ESTALE);
	if (late)
		assert_int_equal(late->count, 1);
	assert_int_equal(t->peers[1], 0);
	/* It may come back. */
	server.keep_writes = false;
	sftp_link_try(t->channel);
	TURN_UNTIL(t, t->channel->state == SFTP_LINK_UP);
	turns(t, 20);
	assert_int_equal(r->count, 1);
	assert_int_equal(w->count, 1);
}

static void writes_of_a_lost_channel_wait_for_its_process(void **state)
{
	struct request r, w;
	struct test t;

	(void)state;
	begin_with_write(&t, &w);
	submit(t.channel, &r, CV_FXP_FSTAT);
	end_last();
	expect_lost(&t, &r, &w, NULL);
	test_end(&t);
}

static void a_channel_that_cannot_be_sent_to_is_lost_alone(void **state)
{
	struct request r, w, late;
	struct test t;

	(void)state;
	begin_with_write(&t, &w);
	server.last->full = true;
	submit(t.channel, &late, CV_FXP_WRITE);
	submit(t.channel, &r, CV_FXP_FSTAT);
	expect_lost(&t, &r, &w, &late);
	test_end(&t);
}

static void nothing_is_waited_for_that_was_only_read(void **state)
{
	struct request r;
	struct test t;

	(void)state;
	test_begin(&t);
	start(&t);
	channel_up(&t);
	server.silent = true;
	submit(t.channel, &r, CV_FXP_FSTAT);
	turns(&t, 3);
	end_last();
	TURN_UNTIL(&t, r.count);
	assert_int_equal(server.looks, 0);
	assert_int_equal(t.peers[1], 0);
	test_end(&t);
}

static void a_channel_is_stopped_while_it_waits(void **state)
{
	struct request w;
	struct test t;

	(void)state;
	for (unsigned when = 0; when < 4; when++) {
		begin_with_write(&t, &w);
		end_last();
		turns(&t, when);
		sftp_link_stop(t.channel);
		assert_int_equal(w.count, 1);
		/* For who comes next: it has not ended. */
		assert_int_equal(t.peers[1], FIRST_PID + 1);
		t.peers[1] = 0;
		free(t.channel);
		t.channel = NULL;
		turns(&t, 5);
		assert_int_equal(w.count, 1);
		test_end(&t);
	}
}

/* The next login waits for both. */
static void a_lost_connection_is_waited_for(void **state)
{
	struct request own, far;
	struct test t;

	(void)state;
	test_begin(&t);
	start(&t);
	channel_up(&t);
	server.keep_writes = true;
	submit(t.channel, &far, CV_FXP_WRITE);
	submit(&t.link, &own, CV_FXP_WRITE);
	TURN_UNTIL(&t, server.writes[0] && server.writes[1]);
	server.keep_writes = false;
	server.looks_left = 6;
	server.running[0] = false;
	t.link.session.ssh->lost = true;
	answered(t.link.session.ssh);
	TURN_UNTIL(&t, far.count);
	assert_int_equal(far.error, -ESTALE);
	assert_int_equal(t.peers[0], FIRST_PID);
	assert_int_equal(t.peers[1], FIRST_PID + 1);
	TURN_UNTIL(&t, t.link.state == SFTP_LINK_UP);
	assert_true(server.looks >= 6);
	assert_false(server.running[1]);
	assert_int_equal(t.peers[0], FIRST_PID + 2);
	assert_int_equal(t.peers[1], 0);
	TURN_UNTIL(&t, own.count);
	test_end(&t);
}

static void ask_dir(struct sftp_link *link, struct request *r, const char *path,
		    struct sftp_open *foreseen)
{
	memset(r, 0, sizeof(*r));
	r->req.type = CV_FXP_OPENDIR;
	r->req.path = (char *)(uintptr_t)path;
	r->req.foreseen = foreseen;
	r->req.done = done;
	sftp_link_submit(link, &r->req);
}

static void list(struct sftp_link *link, struct request *r, struct sftp_open *open)
{
	memset(r, 0, sizeof(*r));
	r->req.type = CV_FXP_READDIR;
	r->req.open = open;
	r->req.done = done;
	sftp_link_submit(link, &r->req);
}

/*
 * An OPENDIR fails, and that is heard before the answer to the next, which has the number that it
 * did not take. What comes then must not read from that one's directory: it would miss the entries.
 */
static void nobody_lists_the_directory_of_another(void **state)
{
	struct request absent, mine, other, listing, again;
	struct sftp_open foreseen = { 0 };
	struct test t;

	(void)state;
	test_begin(&t);
	start(&t);
	t.link.session.openssh = t.link.foresight.trusted = true;
	server.hold = true;
	ask_dir(&t.link, &absent, "absent", NULL);
	ask_dir(&t.link, &mine, "mine", NULL);
	TURN_UNTIL(&t, server.opens == 2);
	server.passed = 1;
	answered(t.link.session.ssh);
	TURN_UNTIL(&t, absent.count);
	assert_int_equal(mine.count, 0);
	ask_dir(&t.link, &other, "other", &foreseen);
	list(&t.link, &listing, &foreseen);
	TURN_UNTIL(&t, server.opens == 3);
	turns(&t, 2);
	assert_string_equal(server.dirs[0], "mine");
	assert_int_equal(server.lists[0], 0);
	server.hold = false;
	answered(t.link.session.ssh);
	TURN_UNTIL(&t, mine.count && other.count && listing.count);
	assert_int_equal(mine.error, 0);
	assert_int_equal(other.error, 0);

	/* It is known again what comes. */
	foreseen = (struct sftp_open){ 0 };
	ask_dir(&t.link, &other, "third", &foreseen);
	list(&t.link, &again, &foreseen);
	TURN_UNTIL(&t, other.count && again.count);
	assert_int_equal(again.error, 0);
	assert_string_equal(server.dirs[2], "third");
	assert_int_equal(server.lists[2], 1);
	assert_int_equal(server.lists[0], 0);
	test_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_process_is_noted_before_it_is_used),
		cmocka_unit_test(who_cannot_see_processes_notes_none),
		cmocka_unit_test(a_successor_waits_for_all),
		cmocka_unit_test(a_channel_that_is_not_answered_is_given_up),
		cmocka_unit_test(writes_of_a_lost_channel_wait_for_its_process),
		cmocka_unit_test(a_channel_that_cannot_be_sent_to_is_lost_alone),
		cmocka_unit_test(nothing_is_waited_for_that_was_only_read),
		cmocka_unit_test(a_channel_is_stopped_while_it_waits),
		cmocka_unit_test(a_lost_connection_is_waited_for),
		cmocka_unit_test(nobody_lists_the_directory_of_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
