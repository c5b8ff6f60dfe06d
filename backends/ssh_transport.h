/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A byte stream to a server's SFTP subsystem. The SFTP engine sees libssh through nothing else:
 * login on a helper thread, then a non-blocking stream on whichever one thread owns it. Nothing
 * here knows SFTP. Calls other than cv_ssh_open() never block.
 */
#ifndef CV_BACKENDS_SSH_TRANSPORT_H
#define CV_BACKENDS_SSH_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "backends/ssh_tcp.h"
#include "config/dict.h"
#include "config/err.h"

struct cv_ssh;

/*
 * Resolves, connects, exchanges keys, checks the host key, authenticates and starts the SFTP
 * subsystem, as options say (see ssh_target.h). Blocks until limit->deadline_ns at
 * most (except for name resolution). err: one line that names the step and the remedy.
 */
int cv_ssh_open(const struct cv_dict *options, struct cv_ssh_limit *limit, struct cv_ssh **ret_ssh,
		struct cv_err *err);
void cv_ssh_close(struct cv_ssh *ssh); /* NULL is fine; not from within the data callback */

/*
 * Where received bytes go, from within cv_ssh_turn() and, during a rekey, cv_ssh_send(). The
 * callback takes all of them and must not call anything of this header.
 */
void cv_ssh_set_data(struct cv_ssh *ssh, void (*data)(void *user, const uint8_t *p, size_t n),
		     void *user);

/*
 * One more SFTP subsystem over the same connection, with a flow control window of its own. To be
 * closed before the one it was made of, whose cv_ssh_turn() serves both; only send, room, set_data,
 * set_window and close are for a channel itself; provoke and bytes_in are its connection's. NULL:
 * out of memory.
 */
struct cv_ssh *cv_ssh_channel(struct cv_ssh *base);
/* Goes on opening it. Returns 1 when it is ready, 0 when the server has to answer first, or
 * -errno. After each turn of its connection, until then. */
int cv_ssh_channel_start(struct cv_ssh *channel);
bool cv_ssh_channel_ended(const struct cv_ssh *channel);

int cv_ssh_fd(const struct cv_ssh *ssh);
uint32_t cv_ssh_want(const struct cv_ssh *ssh); /* EPOLLIN, perhaps EPOLLOUT */

/*
 * Reads and writes what is ready, bounded. Returns 0, or -errno when the stream has ended; then
 * cv_ssh_error() says why and only cv_ssh_close() remains.
 */
int cv_ssh_turn(struct cv_ssh *ssh);
/*
 * After sending, when all has gone out: spares the wake-up that would only tell the library so.
 * Returns 1 when it has been told (more may be sent, or has come in, now), 0 when there was nothing
 * to tell, or -errno as cv_ssh_turn().
 */
int cv_ssh_settle(struct cv_ssh *ssh);
const char *cv_ssh_error(const struct cv_ssh *ssh);

/* Bytes worth offering now; 0 until the peer's window opens or the output drains. */
size_t cv_ssh_room(struct cv_ssh *ssh);
/* Returns how many of size bytes were taken (0 is no error), or -errno. */
ssize_t cv_ssh_send(struct cv_ssh *ssh, const void *data, size_t size);

/* Keeps the receive window near size bytes, where the library allows that. */
void cv_ssh_set_window(struct cv_ssh *ssh, uint32_t size_bytes);
/* Makes a living peer send something, which then shows in cv_ssh_bytes_in(). */
void cv_ssh_provoke(struct cv_ssh *ssh);
uint64_t cv_ssh_bytes_in(const struct cv_ssh *ssh); /* of the socket */
/* How many of ours the peer's kernel has taken. *ret_more: there are others behind them. */
uint64_t cv_ssh_bytes_taken(const struct cv_ssh *ssh, bool *ret_more);

/* Do both lead to the same address and port? Through jump hosts that cannot be seen: yes. */
bool cv_ssh_same_peer(const struct cv_ssh *a, const struct cv_ssh *b);
const char *cv_ssh_server(const struct cv_ssh *ssh); /* identification string, "SSH-2.0-…" */
const char *cv_ssh_cipher(const struct cv_ssh *ssh);

const char *cv_ssh_library_version(void); /* e.g. "0.10.6/openssl/zlib" */

#endif
