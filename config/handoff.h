/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon and a volume's worker say to each other. All messages are single SOCK_SEQPACKET
 * datagrams: a verb, a dictionary of strings and up to CV_HANDOFF_FDS descriptors.
 *
 *   daemon                               worker (cvol-fuse, socket on descriptor 3)
 *     start {volume, options} [shm, listen] ->
 *                                        <- ready {rootmode, max_read, max_write, readahead_kb,
 *                                           rtt_us, server, [made_subdir], [dirty_percent]}
 *                                           or fail {errno, text}, then it exits
 *     (mounts, reads FUSE_INIT into the shared memory)
 *     serve {} [fuse] ->
 *                                        <- serving {} or fail
 *
 *   for a mount whose worker has died:
 *     start {volume, options} [shm, listen, fuse] ->
 *                                        <- serving {} or fail; it connects by itself
 *
 *   afterwards, on this socket or on one accepted from the listening socket, to which a new
 *   daemon connects:
 *     sync {[unless_away]} ->               write every write-behind byte to the server
 *                                        <- synced {} or fail {errno, text}; with unless_away
 *                                           as soon as the server gives no sign of life
 *     fds {} ->
 *                                        <- fds {pid} [fuse, shm]
 *     log {level} ->                        also of the worker's successors
 *                                        <- ok {}
 *
 * Instead of `start`, for cvol doctor (fuse/probe.h), which mounts nothing:
 *     probe {options, probe_write} ->
 *                                        <- begin {step}, end {result, text}, …
 *                                        <- probed {rtt_us, …}, then it exits
 *
 * Replies to one socket come in order. Unknown verbs get fail {errno=ENOSYS}. The worker lives
 * until the kernel says the last user of the mount is gone (ENODEV on the FUSE descriptor),
 * whatever happens to the sockets; before `serve`, end-of-file on its socket ends it.
 */
#ifndef CV_CONFIG_HANDOFF_H
#define CV_CONFIG_HANDOFF_H

#include <stddef.h>
#include <stdint.h>

#include "config/dict.h"

#define CV_HANDOFF_FD	3 /* the worker's first control socket */
#define CV_HANDOFF_FDS	4
#define CV_HANDOFF_SIZE (64 * 1024)
#define CV_HANDOFF_VERB 16
/* Of the listening socket. The daemon listens first, so that nothing is missed, then the worker: it
 * is whoever did last that SO_PEERCRED names to those who connect. */
#define CV_HANDOFF_BACKLOG 64

struct cv_handoff {
	char verb[CV_HANDOFF_VERB];
	struct cv_dict args;
	int fds[CV_HANDOFF_FDS]; /* owned; -1 where unused */
	size_t nfds;
};
#define CV_HANDOFF_INIT                                                                            \
	{                                                                                          \
		.verb = "", .args = CV_DICT_INIT, .fds = { -1, -1, -1, -1 }, .nfds = 0             \
	}

void cv_handoff_release(struct cv_handoff *msg); /* closes what is left in fds */
#define cv_cleanup_handoff __attribute__((cleanup(cv_handoff_release)))

/*
 * args may be NULL; descriptors stay the caller's. Never raises SIGPIPE.
 * Returns 0, -EMSGSIZE, -EPIPE, -EAGAIN or another -errno of sendmsg(2).
 */
int cv_handoff_send(int sock, const char *verb, const struct cv_dict *args, const int *fds,
		    size_t nfds);
/*
 * Waits at most timeout_ms (-1: for ever, 0: not at all). Received descriptors are CLOEXEC.
 * Returns 0, -ETIMEDOUT, -EAGAIN (0 given and nothing there), -ECONNRESET (peer gone), -EBADMSG.
 */
int cv_handoff_recv(int sock, int timeout_ms, struct cv_handoff *ret_msg);
/* The parser alone, for tests and fuzzing: size bytes of a datagram. */
int cv_handoff_parse(const void *data, size_t size, struct cv_handoff *ret_msg);

/*
 * The start of the shared memory file that outlives every worker. The daemon creates the file
 * (memfd, sealed against shrinking), fills this page and, right after mount(2), stores the
 * FUSE_INIT request in it unanswered; each worker generation feeds those bytes to libfuse. The rest
 * of the file belongs to fuse/shm.h.
 */
#define CV_SHM_MAGIC	0x314d48534c4f5643ull /* "CVOLSHM1" */
#define CV_SHM_VERSION	2
#define CV_SHM_SIZE	(16ull << 30) /* sparse: only touched pages cost memory */
#define CV_SHM_INIT_MAX 1024
#define CV_CHECK_LAYOUT "--check-layout" /* and a version: the worker program ends with 0 or 1 */

struct cv_shm_header {
	uint64_t magic;
	uint32_t version;
	uint32_t init_size;   /* bytes in init; 0 before the mount */
	uint32_t finished;    /* a worker ended in good order: nothing is left to be done */
	uint32_t replaceable; /* a successor can go on where a worker ends */
	uint32_t crashed;     /* the daemon: the last worker ended by a fault of its own */
	uint32_t log_level;   /* enum cv_log_level, if `log` has set one for the mount; else 0 */
	uint64_t answered;    /* requests; tells a worker that works from one that only dies */
	uint8_t init[CV_SHM_INIT_MAX];
};

#endif
