/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Write-behind: an application's write is answered when its data is in our bounded buffers (in the
 * shared memory, so that it outlives the worker), small sequential writes are put together, and
 * many are on their way to the server at once. The first error of a file is reported by the next
 * write, fsync or close of each handle, as NFS clients do.
 *
 * Extents of one file never overlap: a write that overlaps data already sent waits until that has
 * arrived. Where the engine's writes are unstable (NFS), data is kept until fsync() (COMMIT)
 * returns the verifier it was written with, and sent again if not.
 *
 * Loop thread only; nothing here blocks. Bounded by CV_WB_BUFFERS: a write that finds no buffer
 * waits in line.
 */
#ifndef CV_FUSE_WRITEBACK_H
#define CV_FUSE_WRITEBACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/backend.h"
#include "config/loop.h"
#include "fuse/nodes.h"
#include "fuse/shm.h"

struct cv_wb;

enum cv_wb_level {
	CV_WB_WRITTEN, /* the server has it: reads, other clients and attributes see it */
	CV_WB_STABLE,  /* and, where writes are unstable, has committed it */
};

/* Somebody who waits. Embedded in the caller's request; removed by cv_wb_cancel(). */
struct cv_wb_waiter {
	void (*done)(struct cv_wb_waiter *waiter, int result);
	/* private */
	struct cv_wb_waiter *next;
	struct cv_wb_waiter **prevp; /* NULL: not waiting */
	enum cv_wb_level level;
	uint64_t sequence; /* waits for extents up to this one */
	/* write waiters */
	uint32_t handle;
	const void *data;
	size_t size;
	uint64_t off;
};

/* How an open handle is reached for sending: the engine's file and the opener's identity. */
struct cv_wb_handle {
	struct cv_node *node;
	struct cv_file *file;
	const struct cv_cred *cred;
};
typedef bool (*cv_wb_handle_fn)(void *arg, uint32_t handle, struct cv_wb_handle *ret);

int cv_wb_new(struct cv_loop *loop, struct cv_mount *mount, struct cv_nodes *nodes,
	      struct cv_shm *shm, cv_wb_handle_fn handle_fn, void *arg, struct cv_wb **ret_wb);
void cv_wb_free(struct cv_wb *wb); /* nothing pending any more */
/* Takes over what a predecessor had not brought to the server's disk; with the handles open. */
void cv_wb_restore(struct cv_wb *wb);

/*
 * Takes the data (copied before done() or before the return). Calls done(0) at once when there is
 * room, later when not; or done(-errno).
 */
void cv_wb_write(struct cv_wb *wb, struct cv_wb_waiter *waiter, struct cv_node *node,
		 uint32_t handle, const void *data, size_t size_bytes, uint64_t off);

/* Calls done(0) when everything written to the node so far has reached level; maybe at once. An
 * error of the write-out itself is not its result: see cv_wb_error(). */
void cv_wb_drain(struct cv_wb *wb, struct cv_wb_waiter *waiter, struct cv_node *node,
		 enum cv_wb_level level);
/* The same for all nodes. */
void cv_wb_drain_all(struct cv_wb *wb, struct cv_wb_waiter *waiter, enum cv_wb_level level);
void cv_wb_cancel(struct cv_wb_waiter *waiter);

/* Starts to send what is pending. Returns true if there is anything, and all of it goes through one
 * handle: *ret_handle. */
bool cv_wb_send(struct cv_node *node, uint32_t *ret_handle);

/* Starts to send what is pending, in such a way that no COMMIT need follow if that is one write. */
void cv_wb_send_stable(struct cv_node *node);

/* Anything of the node not yet on the server? pending end of file in *ret_end (may be NULL). */
bool cv_wb_pending(const struct cv_node *node, uint64_t *ret_end);

/* Errors are counted per node; a handle remembers what it has reported. Takes the current mark at
 * open; cv_wb_error() returns the error once per handle, or 0. */
uint32_t cv_wb_error_mark(const struct cv_node *node);
int cv_wb_error(const struct cv_node *node, uint32_t *mark);

/* Attributes the server sent along with the last write to the node, if none is pending; when they
 * came, and cv_nodes.clock when they were asked for: nothing newer than that is surely in them. */
bool cv_wb_attr(const struct cv_node *node, struct cv_attr *ret_attr, uint64_t *ret_began,
		uint64_t *ret_got_ns);

/* A handle is being closed (drained before): its extents that wait for a COMMIT elsewhere. */
void cv_wb_node_closed(struct cv_wb *wb, struct cv_node *node);

uint64_t cv_wb_bytes(const struct cv_wb *wb);			   /* not yet on the server */
int cv_wb_last_error(const struct cv_wb *wb, uint64_t *ret_count); /* since start */

#endif
