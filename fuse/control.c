/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/log.h"
#include "config/str.h"

#define PEERS_MAX     16
#define ANSWER_ONE_MS 20
#define AWAY_LOOK_MS  100 /* between looks whether the server is there, while a sync waits */

struct peer {
	struct cv_watch watch;
	struct cv_control *control;
	struct cv_wb_waiter sync;
	bool syncing;
	struct cv_timer away; /* of a sync that does not wait for a server that is not there */
	uint64_t errors_before;
};

struct cv_control {
	struct cv_fs *fs;
	struct cv_watch listener;
	struct peer peers[PEERS_MAX];
};

static void peer_close(struct peer *p)
{
	int fd = p->watch.fd;

	if (p->syncing)
		cv_wb_cancel(&p->sync);
	p->syncing = false;
	cv_timer_cancel(p->control->fs->loop, &p->away);
	cv_loop_remove(p->control->fs->loop, &p->watch);
	if (fd >= 0)
		(void)close(fd);
	p->watch.fd = -1;
}

static void answer(struct peer *p, const char *verb, const struct cv_dict *args, const int *fds,
		   size_t nfds)
{
	int r = cv_handoff_send(p->watch.fd, verb, args, fds, nfds);

	if (r < 0 && r != -EAGAIN)
		cv_debug("answering %s: %s", verb, cv_strerror(r));
}

static void answer_fail(struct peer *p, int err, const char *text)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;

	(void)cv_dict_setf(&args, "errno", "%d", err < 0 ? -err : err);
	(void)cv_dict_set(&args, "text", text);
	answer(p, "fail", &args, NULL, 0);
}

static void sync_done(struct cv_wb_waiter *waiter, int result)
{
	struct peer *p = cv_container_of(waiter, struct peer, sync);
	uint64_t errors;
	int err = cv_wb_last_error(p->control->fs->wb, &errors);

	p->syncing = false;
	cv_timer_cancel(p->control->fs->loop, &p->away);
	if (result == 0 && errors == p->errors_before) {
		answer(p, "synced", NULL, NULL, 0);
		return;
	}
	answer_fail(p, result ? result : err, "some written data could not be stored");
}

/* What is written stays with us, and goes on being sent: only who asked does not wait for it. */
static void look_away(struct cv_timer *timer)
{
	struct peer *p = cv_container_of(timer, struct peer, away);
	struct cv_fs *fs = p->control->fs;
	bool away = cv_fs_is_away(fs, CV_HEALTH_WAITING_MS);

	if (!p->syncing) /* the last answer has come with that */
		return;
	if (!away) {
		(void)cv_timer_set(fs->loop, &p->away, AWAY_LOOK_MS);
		return;
	}
	cv_wb_cancel(&p->sync);
	p->syncing = false;
	answer_fail(p, ETIMEDOUT, "the server does not answer");
}

static void do_sync(struct peer *p, const struct cv_dict *args)
{
	struct cv_fs *fs = p->control->fs;

	if (p->syncing) {
		answer_fail(p, EBUSY, "another sync is under way on this socket");
		return;
	}
	if (fs->takeover) { /* what a predecessor has left is not counted yet */
		answer_fail(p, EAGAIN, "it is taking over, and does not know yet what is stored");
		return;
	}
	(void)cv_wb_last_error(fs->wb, &p->errors_before);
	p->syncing = true;
	p->sync.done = sync_done;
	cv_wb_drain_all(fs->wb, &p->sync, cv_fs_settled(fs));
	if (p->syncing && cv_dict_get(args, "unless_away"))
		look_away(&p->away);
}

static void do_log(struct peer *p, const struct cv_dict *args)
{
	const char *level = cv_dict_get(args, "level");
	enum cv_log_level parsed;

	if (!level || cv_log_level_parse(level, &parsed) < 0) {
		answer_fail(p, EINVAL, "unknown log level");
		return;
	}
	cv_log_set_level(parsed);
	p->control->fs->shm.header->log_level = parsed;
	answer(p, "ok", NULL, NULL, 0);
}

static int send_fds(int sock, int fuse_fd, int shm_fd)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;
	const int fds[2] = { fuse_fd, shm_fd };
	int r = cv_dict_setf(&args, "pid", "%d", (int)getpid());

	return r < 0 ? r : cv_handoff_send(sock, "fds", &args, fds, 2);
}

static void peer_ready(struct cv_watch *watch, uint32_t events)
{
	struct peer *p = cv_container_of(watch, struct peer, watch);
	struct cv_fs *fs = p->control->fs;
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	int r = cv_handoff_recv(watch->fd, 0, &msg);

	(void)events;
	if (r == -EAGAIN)
		return;
	if (r == -EBADMSG) {
		answer_fail(p, EBADMSG, "malformed message");
		return;
	}
	if (r < 0) {
		peer_close(p);
		return;
	}
	if (cv_str_eq(msg.verb, "sync")) {
		do_sync(p, &msg.args);
	} else if (cv_str_eq(msg.verb, "fds")) {
		int fds[2] = { fs->fuse_watch.fd, fs->shm.fd };

		if (fs->fuse_watch.fd < 0)
			answer_fail(p, ENODEV, "the mount is gone");
		else
			(void)send_fds(p->watch.fd, fds[0], fds[1]);
	} else if (cv_str_eq(msg.verb, "log")) {
		do_log(p, &msg.args);
	} else {
		answer_fail(p, ENOSYS, "unknown request");
	}
}

static bool peer_add(struct cv_control *c, int fd)
{
	for (size_t i = 0; i < PEERS_MAX; i++) {
		struct peer *p = &c->peers[i];

		if (p->watch.fd >= 0)
			continue;
		p->control = c;
		p->watch = (struct cv_watch)CV_WATCH_INIT(peer_ready);
		p->away = (struct cv_timer)CV_TIMER_INIT(look_away);
		return cv_loop_add(c->fs->loop, &p->watch, fd, EPOLLIN) == 0;
	}
	return false;
}

static void listener_ready(struct cv_watch *watch, uint32_t events)
{
	struct cv_control *c = cv_container_of(watch, struct cv_control, listener);
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0 && !peer_add(c, fd))
		(void)close(fd); /* too many: the caller sees it close */
}

int cv_control_new(struct cv_fs *fs, int sock, int listen_fd, struct cv_control **ret)
{
	struct cv_control *c = calloc(1, sizeof(*c));
	int r = 0;

	if (!c) {
		(void)close(sock);
		if (listen_fd >= 0)
			(void)close(listen_fd);
		return -ENOMEM;
	}
	c->fs = fs;
	c->listener = (struct cv_watch)CV_WATCH_INIT(listener_ready);
	for (size_t i = 0; i < PEERS_MAX; i++)
		c->peers[i].watch.fd = -1;
	if (!peer_add(c, sock)) {
		(void)close(sock);
		r = -ENOMEM;
	}
	if (listen_fd >= 0 && r == 0)
		r = cv_loop_add(fs->loop, &c->listener, listen_fd, EPOLLIN);
	if (r < 0) {
		if (listen_fd >= 0 && c->listener.fd < 0)
			(void)close(listen_fd);
		cv_control_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void cv_control_free(struct cv_control *c)
{
	int fd;

	if (!c)
		return;
	for (size_t i = 0; i < PEERS_MAX; i++) {
		if (c->peers[i].watch.fd >= 0)
			peer_close(&c->peers[i]);
	}
	fd = c->listener.fd;
	cv_loop_remove(c->fs->loop, &c->listener);
	if (fd >= 0)
		(void)close(fd);
	free(c);
}

void cv_control_answer_one(int listen_fd, int fuse_fd, int shm_fd)
{
	cv_cleanup_close int sock = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;

	/* Callers send before they wait. */
	if (sock < 0 || cv_handoff_recv(sock, ANSWER_ONE_MS, &msg) < 0)
		return;
	if (cv_str_eq(msg.verb, "fds")) {
		(void)send_fds(sock, fuse_fd, shm_fd);
		return;
	}
	(void)cv_dict_setf(&args, "errno", "%d", EAGAIN);
	(void)cv_dict_set(&args, "text", "it is taking over and not connected yet");
	(void)cv_handoff_send(sock, "fail", &args, NULL, 0);
}
