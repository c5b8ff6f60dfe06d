/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ONC RPC over TCP (RFC 5531), asynchronous, for one program of one server.
 *
 * A call keeps everything that is needed to send it again until it is answered: after a lost
 * connection calls go out again in their original order, with their xid and, where possible, from
 * the same source port, so that the server's duplicate-request cache recognises what it has done
 * already. No partly received reply outlives its connection. Reconnecting (name resolution,
 * portmapper, connect) happens on a helper thread, with back-off; meanwhile nothing here uses the
 * CPU. On a new connection the server has to answer NULL, soon, before it gets the calls: a line
 * that is dead does not hold up the try that will succeed, and no data is sent in vain.
 *
 * It knows nothing of NFS. Loop thread only, except where said.
 */
#ifndef CV_BACKENDS_RPC_H
#define CV_BACKENDS_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/backend.h"
#include "backends/replay.h"
#include "config/err.h"
#include "config/loop.h"

#define CV_RPC_REPLY_MAX (CV_MAX_IO + 64u * 1024) /* a longer record ends the connection */
#define CV_RPC_WINDOW	 128			  /* calls on the wire; the others wait here */

struct cv_rpc;

struct cv_rpc_config {
	char host[256];
	uint16_t port; /* 0: ask the server's portmapper, at each connect */
	uint32_t program;
	uint32_t version;
	bool soft;	     /* calls fail with -ETIMEDOUT after timeout_ms */
	uint64_t timeout_ms; /* without a byte from the server: the connection counts as dead */
	/* cv_rpc_dial(): how long the server may take, once its name is known; 0: what is left */
	uint64_t connect_ms;
};

struct cv_rpc_call {
	/* the caller's */
	const void *data; /* sent after the arguments, by reference: must live until done() */
	size_t data_size;
	size_t data_at;	  /* where it is in what the operation writes; for replay */
	size_t tail_size; /* so many bytes at the end of the arguments follow the data instead */
	struct cv_replay *replay; /* where a copy of it is kept for a successor; NULL: nowhere */
	uint64_t replay_id;
	/*
	 * status 0: results (XDR, after the RPC header) in reply, valid until return. Else -errno:
	 * -ETIMEDOUT (soft), -EACCES (credentials refused), -EIO (malformed, not accepted),
	 * -ECANCELED (cv_rpc_free()).
	 */
	void (*done)(struct cv_rpc_call *call, int status, const uint8_t *reply, size_t size);
	bool resent; /* sent more than once: a refusal may be about our own earlier success */

	/* private */
	struct cv_rpc_call *next, *prev;
	uint8_t *head;	  /* record mark, RPC header, arguments */
	size_t head_size; /* without the tail, which lies behind it */
	size_t sent;	  /* bytes of this transmission */
	uint32_t xid;
	bool on_wire;
	uint64_t deadline_ns; /* soft */
	uint64_t wire_ns;     /* when it was sent */
};

struct cv_rpc_stats {
	bool connected;
	uint64_t reconnects;
	uint64_t in_flight;
	char last_error[256];
	uint64_t last_error_s;
	uint64_t heard_ns; /* the server's last sign of life */
};

/*
 * Blocking; any thread: resolves, asks the portmapper if port is 0, connects, from a privileged
 * source port when we may (prefer_port if not 0). Returns a non-blocking descriptor, or -errno with
 * err naming host and step. *ret_port: the port connected to.
 */
int cv_rpc_dial(const struct cv_rpc_config *config, uint16_t prefer_port, uint64_t deadline_ns,
		uint16_t *ret_port, struct cv_err *err);
/*
 * Blocking; any thread: one call on a descriptor that nobody else uses. args: XDR. On success
 * *ret_reply (malloc'd, the caller's) is the results' XDR.
 */
int cv_rpc_call_blocking(int fd, uint32_t program, uint32_t version, uint32_t procedure,
			 const struct cv_cred *cred, const void *args, size_t args_size,
			 uint64_t deadline_ns, uint8_t **ret_reply, size_t *ret_size);

/* The port fd is bound to; 0: unknown. */
uint16_t cv_rpc_source_port(int fd);
/*
 * Blocking: sends a predecessor's calls again, on a descriptor that nobody else uses, until each is
 * answered, or for timeout_ns none was and there was no room for more. took() is given the results
 * of each; false: the server is at it, and the call is sent once more a little later. Returns the
 * number of calls without an answer, or -errno: the connection cannot be used any more
 * (-ECONNABORTED: the time ran out amid a record). port: where the server knows calls by the port
 * they come from, those of another one are not sent, and have no answer; 0: they are.
 */
int cv_rpc_replay_blocking(int fd, uint16_t port, const struct cv_replays *replays,
			   uint64_t timeout_ns,
			   bool (*took)(struct cv_replay *replay, int status, const uint8_t *reply,
					size_t size));

/* Takes fd (from cv_rpc_dial()) on success. */
int cv_rpc_new(struct cv_loop *loop, const struct cv_rpc_config *config, int fd,
	       struct cv_rpc **ret_rpc);
/* Completes what is left with -ECANCELED. Does not wait for a reconnect that is under way. */
void cv_rpc_free(struct cv_rpc *rpc);
void cv_rpc_stats(const struct cv_rpc *rpc, struct cv_rpc_stats *ret);
/* Asks the server for a sign of life, unless that is under way. */
void cv_rpc_provoke(struct cv_rpc *rpc);

/* args: XDR of the arguments up to data; copied. Returns 0 (then done() follows, later) or -ENOMEM.
 */
int cv_rpc_submit(struct cv_rpc *rpc, struct cv_rpc_call *call, uint32_t procedure,
		  const struct cv_cred *cred, const void *args, size_t args_size);

/* A part of the arguments that says how a call goes, not what it does: it may differ. */
struct cv_rpc_part {
	size_t at, size;
};
/*
 * The answer a predecessor has got to this very call: results' XDR, in replay; NULL: none is known.
 * parts: n of them.
 */
const uint8_t *cv_rpc_replayed(const struct cv_rpc *rpc, const struct cv_replay *replay,
			       uint64_t id, uint32_t procedure, const struct cv_cred *cred,
			       const void *args, size_t args_size, const struct cv_rpc_part *parts,
			       size_t n, size_t *ret_size);

/*
 * The reply parser alone, for tests and fuzzing: a record without its marks. Returns 0 and the
 * results, or -errno; -EBADMSG: not a reply at all.
 */
int cv_rpc_parse_reply(const uint8_t *record, size_t size, uint32_t *ret_xid,
		       const uint8_t **ret_results, size_t *ret_size);

#endif
