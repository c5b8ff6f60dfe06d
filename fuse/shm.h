/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared memory file of a mount, as the worker sees it. The daemon holds it, so everything in
 * here outlives the worker: requests received and not yet answered (slots), the node table, the
 * handle table, and written data not yet on the server. One sparse file, one mapping; regions have
 * fixed offsets, so nothing ever moves. Only touched pages cost memory.
 *
 * A worker can die between any two stores. Records are therefore filled first and published by one
 * aligned store of their `used` or `state` word; there are no links between records in here: every
 * index (hash tables, lists) is private to a worker and rebuilt by a scan.
 *
 * The kernel copies requests straight into slot buffers. A buffer that can page-fault would let a
 * SIGKILL during that copy turn the request into EIO, so the buffers in use are populated and,
 * where the limit allows, locked.
 */
#ifndef CV_FUSE_SHM_H
#define CV_FUSE_SHM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "backends/backend.h"
#include "backends/replay.h"
#include "config/handoff.h"

#define CV_SLOTS      1024
#define CV_SLOTS_IDLE 16 /* slots kept resident when idle */
#define CV_SMALL_SIZE (8u * 1024)
#define CV_LARGE_SIZE (CV_MAX_IO + 64u * 1024) /* a 1 MiB write and its header */
/* Each writer that waits for a server holds one, and when none is left the kernel is not read any
 * more, not even that a waiting process was killed: so many that this needs that many writers. */
#define CV_LARGE_COUNT 512
/* With more of them in use, what waits is unlocked and keeps only the pages its data fills. */
#define CV_LARGE_PINNED	  64
#define CV_LARGE_IDLE	  1 /* with CV_SLOTS_IDLE: 1.3 MiB pinned for an idle mount */
#define CV_WB_BUFFER_SIZE CV_MAX_IO
#define CV_WB_BUFFERS	  128
#define CV_NODES_MAX	  (16u << 20)
#define CV_HANDLES_MAX	  (1u << 20)

enum cv_slot_state {
	CV_SLOT_FREE = 0,
	CV_SLOT_READING,  /* the kernel may be copying into it */
	CV_SLOT_RECEIVED, /* holds a complete request that was not answered */
	CV_SLOT_SENDING, /* a reply too long to be saved is being written: the kernel may have it */
	CV_SLOT_DONE,	 /* the reply is decided and, if reply_size is not 0, saved */
};

#define CV_REPLY_SAVED 512

struct cv_slot {
	uint32_t state; /* enum cv_slot_state; the publishing store */
	uint32_t opcode;
	uint64_t unique;
	uint64_t sequence; /* order of arrival */
	uint32_t size;	   /* of the request */
	int32_t large;	   /* index of its large buffer, or -1: in its own small one */
	uint32_t tries;	   /* times a worker began to execute it */
	uint32_t reply_size;
	uint32_t interrupted; /* its caller got a signal */
	/* What executing it has changed in the tables, so that a second time does not do it twice:
	 * the handle it made (index + 1, 0: none), the FORGETs of a batch that were applied, and
	 * the count that the one begun (forgetting - 1) leaves. */
	uint32_t handle;
	uint64_t handle_sequence;
	uint32_t forgotten;
	uint32_t forgetting;
	uint64_t forget_left;
	uint32_t moving[2]; /* nodes whose names it changes */
	uint32_t crashes;   /* workers that crashed after they had begun it */
	uint32_t hiding;    /* node that gets a hidden name before; 0: none */
	uint8_t reply[CV_REPLY_SAVED];
	uint8_t reserved[1024 - 88 - CV_REPLY_SAVED];
};

/*
 * What every worker of a mount has to agree on. The first one writes it, before it serves; limits
 * only grow.
 */
struct cv_shared_state {
	uint64_t id;		/* random: names what we make on the server */
	uint64_t open_sequence; /* handles made so far */
	uint64_t want;		/* capabilities told to the kernel */
	uint32_t features;	/* enum cv_features */
	uint32_t time_gran_ns;
	uint32_t nodes_top; /* records below were used once */
	uint32_t handles_top;
	uint32_t slots_ready;
	uint32_t large_ready;
	char resume[64];	  /* cv_info.resume */
	uint64_t peers[CV_PEERS]; /* cv_replays.peers */
};

/*
 * Lookup counts raised for a reply that is not decided yet. Between the first entry and the reply
 * nothing else runs, so there is one list for all: it belongs to the request `sequence`, and counts
 * as long as that one is RECEIVED.
 */
#define CV_UNDO_MAX 2048 /* entries in the longest listing reply, and some */
struct cv_undo {
	uint64_t sequence;
	uint64_t count;
	struct {
		uint32_t node;
		uint32_t pad;
		uint64_t lookups; /* before */
	} entries[CV_UNDO_MAX];
};

enum cv_node_flags {
	CV_NODE_NAMELESS = 1 << 0, /* parent and name no longer lead to it */
	CV_NODE_HIDDEN = 1 << 1,   /* renamed away at unlink; removed at the last close */
	CV_NODE_LEAVING = 1 << 2,  /* hidden, and being removed */
};

struct cv_node_record {
	uint32_t used; /* the publishing store */
	uint32_t generation;
	uint64_t lookups; /* the kernel's references */
	uint64_t ino;	  /* as shown */
	uint32_t parent;  /* node index; 0 for the root */
	uint32_t flags;	  /* enum cv_node_flags */
	uint32_t mode;	  /* type bits */
	uint32_t nlink;	  /* last seen */
	/* What the kernel was told last: decides at open whether its cached pages are still good.
	 */
	uint64_t seen_size;
	uint64_t seen_change; /* cv_change(); 0: equals none */
	uint64_t own_change;  /* what it is now if nobody but us has written since; 0: the server
				 does not say what our writes found */
	struct cv_handle handle;
	uint8_t name_size;
	char name[CV_NAME_MAX + 1];
	int32_t write_error;   /* the latest of delayed writes; see cv_wb_error() */
	uint32_t write_errors; /* how many there were while the file was open */
	uint16_t permissions;  /* as the kernel was told last; 0: not yet */
	uint8_t reserved[512 - 64 - 12 - (CV_HANDLE_MAX + 1) - 1 - (CV_NAME_MAX + 1)];
};

struct cv_handle_record {
	uint32_t used;
	uint32_t node;
	uint32_t flags; /* open(2) flags without O_CREAT, O_EXCL, O_TRUNC, O_APPEND */
	uint32_t is_dir;
	uint64_t sequence;   /* high half of fh */
	struct cv_cred cred; /* the opener's: reads, writes and syncs act for it */
	uint32_t error_mark; /* see cv_wb_error() */
	uint8_t reserved[128 - 28 - sizeof(struct cv_cred)];
};

/* A range that is locked at the server: a successor asks for it again. */
#define CV_LOCKS_MAX 1024
struct cv_lock_record {
	uint32_t used;
	uint32_t handle; /* index: what it was locked through */
	struct cv_lock lock;
};

enum cv_extent_state {
	CV_EXTENT_FREE = 0,
	CV_EXTENT_DIRTY,    /* not on the server */
	CV_EXTENT_SENT,	    /* being written */
	CV_EXTENT_UNSTABLE, /* the server has it in memory; kept until it says it is on disk */
};

/* One run of written bytes of one file; its data is the write-behind buffer of the same index. */
struct cv_extent_record {
	uint32_t state;
	uint32_t node;
	uint32_t handle;
	uint32_t size;
	uint64_t off;
	uint64_t sequence;
	uint64_t verifier;    /* while UNSTABLE */
	uint64_t op_id;	      /* while SENT: cv_op.id, */
	uint64_t op_sequence; /* of what: a worker that names nothing does not change these */
	uint8_t reserved[64 - 56];
};

struct cv_shm {
	int fd; /* owned */
	uint8_t *base;
	struct cv_shm_header *header;
	struct cv_shared_state *state;
	struct cv_undo *undo;
	struct cv_slot *slots;
	struct cv_replay *replays; /* of the same index, then those of extents; not resident */
	uint8_t *small;
	uint8_t *large;
	struct cv_extent_record *extents; /* CV_WB_BUFFERS */
	uint8_t *wb;
	struct cv_node_record *nodes;
	struct cv_handle_record *handles;
	struct cv_lock_record *locks;

	/* private */
	bool can_lock;
	uint32_t slots_ready; /* the first slots_ready are resident */
	uint32_t large_ready;
	uint32_t slot_hint;
	uint32_t slots_used;
	bool large_used[CV_LARGE_COUNT];
	bool large_loose[CV_LARGE_COUNT]; /* not resident as a whole, or not locked */
	uint32_t large_in_use;
	uint64_t next_sequence;
	uint64_t uniques[CV_SLOTS]; /* of RECEIVED slots; 0: none */
};

/*
 * Maps the file; takes ownership of fd on success. -EPROTO: not ours or another layout version.
 * What a predecessor left stays as it is: requests it received are RECEIVED, SENDING or DONE after
 * this, and what the kernel had not finished to hand over is FREE.
 */
int cv_shm_map(int fd, struct cv_shm *shm, struct cv_err *err);
void cv_shm_release(struct cv_shm *shm);

/* A free slot, resident and in state READING with a zeroed header, or NULL: stop reading. */
struct cv_slot *cv_shm_slot_get(struct cv_shm *shm);
void cv_shm_slot_put(struct cv_shm *shm, struct cv_slot *slot);
/* Where the next request is received: a large buffer, or NULL when all are in use. */
uint8_t *cv_shm_receive_buffer(struct cv_shm *shm, struct cv_slot *slot);
/* The request lies in slot's large buffer: a short one moves to the slot's small buffer, so that
 * the large one is free again. Publishes the slot. */
void cv_shm_slot_publish(struct cv_shm *shm, struct cv_slot *slot, size_t size_bytes);

/* Where the request of a published slot is. */
uint8_t *cv_shm_slot_request(struct cv_shm *shm, struct cv_slot *slot);
/* The slot of an unanswered request, or NULL. */
struct cv_slot *cv_shm_slot_find(struct cv_shm *shm, uint64_t unique);
/* Where the engine keeps what it sends for it. */
static inline struct cv_replay *cv_shm_replay(struct cv_shm *shm, const struct cv_slot *slot)
{
	return &shm->replays[slot - shm->slots];
}
/* Likewise for an extent that is sent. */
static inline struct cv_replay *cv_shm_extent_replay(struct cv_shm *shm, uint32_t index)
{
	return &shm->replays[CV_SLOTS + index];
}
/* Around the writing of its reply: what is decided here is what the kernel gets, now or later. */
void cv_shm_reply_begin(struct cv_slot *slot, const struct iovec *iov, int count, size_t size);
void cv_shm_reply_end(struct cv_slot *slot);

/* Before the first cv_shm_undo_note() of a request; slot may be NULL: then there is no undo. */
void cv_shm_undo_begin(struct cv_shm *shm, const struct cv_slot *slot);
/* Notes node's lookup count before it is raised. */
void cv_shm_undo_note(struct cv_shm *shm, uint32_t node, uint64_t lookups);

static inline uint8_t *cv_shm_wb_buffer(struct cv_shm *shm, uint32_t index)
{
	return shm->wb + (size_t)index * CV_WB_BUFFER_SIZE;
}
/* Gets the pages of a write-behind buffer's first bytes all at once, where the system can. */
void cv_shm_wb_populate(struct cv_shm *shm, uint32_t index, size_t size_bytes);
/* Gives the pages of a write-behind buffer back to the system. */
void cv_shm_wb_trim(struct cv_shm *shm, uint32_t index);
/* Gives back what a burst of requests made resident beyond the idle set. Call when idle. */
void cv_shm_trim(struct cv_shm *shm);

/* Keeps the compiler from moving stores across: the only ordering SIGKILL can observe. */
#define cv_shm_barrier() __asm__ __volatile__("" ::: "memory")

#endif
