/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a successor needs to repeat a call exactly: the bytes of the last call that changes
 * something which an operation has sent, and its answer once there is one, in memory that outlives
 * the worker.
 *
 * When a worker has died, its successor's engine sends such a call again, bit by bit, before it
 * does anything else. To the server that is a retransmission: what it has done already it answers
 * from its reply cache, what it is working on it goes on with, and what never reached it it does
 * now. Then the operation is repeated as a whole, and the step that makes this very call gets that
 * answer.
 *
 * Written data is not copied: it lies in such memory already, and whoever has it there gives it to
 * the successor's engine.
 *
 * A worker can die between any two stores: a size is stored behind what it counts.
 */
#ifndef CV_BACKENDS_REPLAY_H
#define CV_BACKENDS_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CV_REPLAY_CALL_MAX  2024
#define CV_REPLAY_REPLY_MAX 2032
#define CV_PEERS	    8

/* Data that belong to a call and are not in it. */
struct cv_replay_data {
	uint32_t at, size; /* which of the operation's; size 0: there are none */
	uint32_t tail;	   /* so many bytes at the end of the call follow them */
	uint32_t reserved;
};

struct cv_replay {
	uint64_t id;	     /* cv_op.id of the operation: records are used again */
	uint32_t call_size;  /* without data; 0: nothing that changes anything was sent */
	uint32_t reply_size; /* 0: no answer so far, as far as we know */
	uint32_t port;	     /* the source port it was sent from */
	uint32_t too_long;   /* it was not kept, because it is */
	uint8_t call[CV_REPLAY_CALL_MAX];
	uint8_t reply[CV_REPLAY_REPLY_MAX];
	struct cv_replay_data data;
};
_Static_assert(sizeof(struct cv_replay) == 4096, "one page");

/* One that a predecessor has left. */
struct cv_left {
	struct cv_replay *replay;
	const uint8_t *data; /* what the operation writes */
	size_t data_size;
};

/* What an engine is given at connect that lies in such memory; all of it the caller's. */
struct cv_replays {
	/* of a predecessor's operations that were begun and not answered; needed during connect */
	const struct cv_left *list;
	size_t count;
	/* The engine's count of connections that have ended while these were sent again: what
	 * breaks each of them must not keep the mount away for ever. */
	unsigned *broken;
	/* CV_PEERS numbers of the engine's own, as a predecessor has left them; at first 0. They
	 * stay. */
	uint64_t *peers;
};

static inline void cv_replay_set(uint32_t *size, size_t value)
{
	__atomic_store_n(size, (uint32_t)value, __ATOMIC_RELEASE);
}

/* Is there a call, whose answer we do not know? */
static inline bool cv_left_is_open(const struct cv_left *left)
{
	const struct cv_replay *r = left->replay;

	return r->call_size && r->call_size <= sizeof(r->call) && !r->reply_size &&
	       r->data.tail <= r->call_size &&
	       (uint64_t)r->data.at + r->data.size <= left->data_size;
}

/* Before the call is sent. data: of its own in the operation's memory. */
static inline void cv_replay_keep_call(struct cv_replay *r, uint64_t id, uint16_t port,
				       const void *call, size_t size,
				       const struct cv_replay_data *data)
{
	bool fits = size <= sizeof(r->call);

	cv_replay_set(&r->call_size, 0);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	r->id = id;
	r->port = port;
	r->too_long = !fits;
	r->reply_size = 0;
	r->data = *data;
	if (fits) {
		memcpy(r->call, call, size);
		cv_replay_set(&r->call_size, size);
	}
}

/* The server's last word on it. A reply too long to be kept is asked for again. */
static inline void cv_replay_keep_reply(struct cv_replay *r, uint64_t id, const void *reply,
					size_t size)
{
	if (r->id != id || !r->call_size || size > sizeof(r->reply))
		return;
	if (reply != r->reply)
		memcpy(r->reply, reply, size);
	cv_replay_set(&r->reply_size, size);
}

#endif
