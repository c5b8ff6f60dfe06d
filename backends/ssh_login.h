/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a target to a session that is logged in: connecting (through jump hosts), key exchange, host
 * key, authentication. The session is in non-blocking mode all the time, with a poll(2) of our own
 * between the steps, so that one deadline covers all of it and another thread can cancel it.
 * Shared by the stream (ssh_transport.c) and the jump hosts (ssh_jump.c); the one other header
 * that shows libssh.
 */
#ifndef CV_BACKENDS_SSH_LOGIN_H
#define CV_BACKENDS_SSH_LOGIN_H

#include <libssh/callbacks.h>
#include <libssh/libssh.h>
#include <stdbool.h>
#include <stdint.h>

#include "backends/ssh_hosts.h"
#include "backends/ssh_target.h"
#include "backends/ssh_tcp.h"

#define CV_SSH_HOPS_MAX 8 /* jump hosts that lead to jump hosts */

struct cv_ssh_login {
	const struct cv_ssh_target *target;
	struct cv_ssh_limit *limit;
	struct cv_err *err;
	struct ssh_counter_struct *counter; /* of the socket; may be NULL */
	unsigned hops;			    /* how many jump hosts stand behind this login */

	ssh_session session;	      /* the result; NULL before and after a failure */
	int fd;			      /* the session's socket */
	struct cv_ssh_tunnel *tunnel; /* what it leads through; NULL: nothing. Goes with session */

	struct cv_ssh_hosts hosts;
	const char *algorithms; /* host key algorithms to ask for; NULL: what is known first */
	char first[80];		/* what the peer said before the SSH greeting was complete */
	char tried[1024];	/* authentication methods, for the error */
	bool certificate_used;
	char trouble[500]; /* what is wrong with a certificate, for the error */
};

/* Fills in session and fd, or returns -errno with err set and nothing left behind. */
int cv_ssh_login(struct cv_ssh_login *l);

/* Between two tries of a libssh call that says AGAIN. Returns 0 or -errno with err set. */
int cv_ssh_login_wait(struct cv_ssh_login *l);
/* "sftp: HOST: STEP: what libssh says". Returns -code. */
int cv_ssh_login_failed(struct cv_ssh_login *l, int code);

/* Closes session and socket, whatever their state. */
void cv_ssh_session_free(ssh_session session);
/* The same for all that a login has made. */
void cv_ssh_login_undo(struct cv_ssh_login *l);
/* libssh takes O_NONBLOCK off sockets. */
void cv_ssh_set_nonblocking(int fd);

/*
 * ssh_jump.c: a socket that leads to target's host through target->via. A thread of its own carries
 * the bytes until either end closes. The caller closes the socket, then ends the tunnel.
 */
int cv_ssh_jump(const struct cv_ssh_target *target, unsigned hops, struct cv_ssh_limit *limit,
		int *ret_fd, struct cv_ssh_tunnel **ret_tunnel, struct cv_err *err);
/* Waits for the thread, which is done at once when the socket is closed. NULL is fine. */
void cv_ssh_tunnel_end(struct cv_ssh_tunnel *tunnel);

/* ssh_auth.c: proves to the server who we are. */
int cv_ssh_authenticate(struct cv_ssh_login *l);

#endif
