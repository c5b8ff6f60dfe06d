/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/systemd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/err.h"
#include "config/log.h"
#include "config/str.h"

#define LISTEN_FDS_START 3
#define LISTEN_FDS_MAX	 16384
#define MESSAGE_MAX	 1024
#define PARK_WAIT_S	 2

/* Handed over, not taken yet. */
struct inherited {
	char *name; /* owned; "" without one */
	int fd;	    /* owned; -1: taken */
};

static struct {
	pthread_mutex_t lock;
	int notify; /* connected to the manager's socket; -1: none. Fixed after init */
	uint64_t watchdog_ms;
	struct inherited *fds; /* owned; protected by lock */
	size_t count;	       /* likewise */
} manager = { .lock = PTHREAD_MUTEX_INITIALIZER, .notify = -1 };

/* ---- what the environment says ---- */

static bool env_number(const char *name, uint64_t max, uint64_t *ret)
{
	const char *text = getenv(name);

	return text && cv_parse_u64(text, 10, max, ret) == 0;
}

/* A number that is there must be ours: a parent's environment may have been inherited. */
static bool meant_for_us(const char *pid_variable)
{
	uint64_t pid;

	return env_number(pid_variable, INT32_MAX, &pid) && (pid_t)pid == getpid();
}

static int connect_notify(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = PARK_WAIT_S };
	cv_cleanup_close int fd = -1;
	socklen_t len;

	if ((*path != '/' && *path != '@') ||
	    !cv_strcpy(addr.sun_path, sizeof(addr.sun_path), path))
		return -1;
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (*path == '@')
		addr.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, len) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return -1;
	return cv_steal_fd(&fd);
}

/* LISTEN_FDNAMES has a name for each, with colons between. */
static void take_descriptors(size_t count)
{
	cv_cleanup_free char *copy =
		strdup(getenv("LISTEN_FDNAMES") ? getenv("LISTEN_FDNAMES") : "");
	char *rest = copy;

	manager.fds = calloc(count, sizeof(*manager.fds));
	for (size_t i = 0; i < count; i++) {
		int fd = LISTEN_FDS_START + (int)i;
		const char *name = rest ? strsep(&rest, ":") : "";

		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || !manager.fds)
			continue;
		manager.fds[manager.count].fd = fd;
		manager.fds[manager.count++].name = strdup(name);
	}
}

void cv_systemd_init(void)
{
	static const char *const variables[] = { "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
						 "LISTEN_PID",	  "LISTEN_FDS",	  "LISTEN_FDNAMES",
						 "FDSTORE" };
	const char *path = getenv("NOTIFY_SOCKET");
	uint64_t number;

	if (path)
		manager.notify = connect_notify(path);
	if (env_number("WATCHDOG_USEC", UINT64_MAX, &number) &&
	    (!getenv("WATCHDOG_PID") || meant_for_us("WATCHDOG_PID")))
		manager.watchdog_ms = number / 1000;
	if (env_number("LISTEN_FDS", LISTEN_FDS_MAX, &number) && number > 0 &&
	    meant_for_us("LISTEN_PID"))
		take_descriptors(number);
	for (size_t i = 0; i < CV_ARRAY_SIZE(variables); i++)
		(void)unsetenv(variables[i]);
}

uint64_t cv_systemd_watchdog_ms(void)
{
	return manager.watchdog_ms;
}

int cv_systemd_take_socket(void)
{
	CV_SCOPED_LOCK(&manager.lock);
	for (size_t i = 0; i < manager.count; i++) {
		int accepting = 0;
		socklen_t len = sizeof(accepting);

		if (manager.fds[i].fd >= 0 &&
		    getsockopt(manager.fds[i].fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &len) ==
			    0 &&
		    accepting)
			return cv_steal_fd(&manager.fds[i].fd);
	}
	return -1;
}

/* ---- what the manager is told ---- */

static int send_message(const char *text, const int *fds, size_t nfds, int flags)
{
	union {
		struct cmsghdr header; /* for its alignment */
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control = { 0 };
	struct iovec data = { .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text) };
	struct msghdr msg = { .msg_iov = &data, .msg_iovlen = 1 };

	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = control.space;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	return sendmsg(manager.notify, &msg, MSG_NOSIGNAL | flags) < 0 ? -errno : 0;
}

void cv_systemd_notify(const char *fmt, ...)
{
	char text[MESSAGE_MAX];
	va_list ap;

	if (manager.notify < 0)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	(void)send_message(text, NULL, 0, MSG_DONTWAIT);
}

/* ---- the descriptor store ---- */

void cv_systemd_park(const char *name, int fuse_fd, int shm_fd)
{
	const int fds[2] = { fuse_fd, shm_fd };
	char text[MESSAGE_MAX];
	int r;

	if (manager.notify < 0)
		return;
	/* FDPOLL=0: the manager must not take the end of a file system for a reason to close. */
	(void)snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
	r = send_message(text, fds, 2, 0);
	if (r < 0)
		cv_warning("the service manager did not take the descriptors of %s: %s; this "
			   "mount would not survive the end of both daemon and worker",
			   name, cv_strerror(r));
}

void cv_systemd_unpark(const char *name)
{
	cv_systemd_notify("FDSTOREREMOVE=1\nFDNAME=%s", name);
}

bool cv_systemd_take_parked(const char *name, int *ret_fuse_fd, int *ret_shm_fd)
{
	struct inherited *fuse = NULL, *shm = NULL;
	struct stat st;

	CV_SCOPED_LOCK(&manager.lock);
	for (size_t i = 0; i < manager.count; i++) {
		struct inherited *one = &manager.fds[i];

		if (one->fd < 0 || !cv_str_eq(one->name, name) || fstat(one->fd, &st) < 0)
			continue;
		if (S_ISCHR(st.st_mode))
			fuse = one;
		else if (S_ISREG(st.st_mode))
			shm = one;
	}
	if (!fuse || !shm)
		return false;
	*ret_fuse_fd = cv_steal_fd(&fuse->fd);
	*ret_shm_fd = cv_steal_fd(&shm->fd);
	return true;
}

void cv_systemd_drop_parked(void)
{
	CV_SCOPED_LOCK(&manager.lock);
	for (size_t i = 0; i < manager.count; i++) {
		struct inherited *one = &manager.fds[i];

		if (one->fd >= 0 && one->name && *one->name) {
			cv_notice("descriptors '%s' of an earlier daemon are not needed any more",
				  one->name);
			cv_systemd_unpark(one->name);
		}
		cv_close_fd(&one->fd);
		free(one->name);
	}
	free(manager.fds);
	manager.fds = NULL;
	manager.count = 0;
}
