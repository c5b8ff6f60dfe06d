/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node table: nodeid ↔ identity. Records live in the shared memory; the hash indexes and the
 * per-node state here are private and rebuilt from the records. A node is found by the engine's
 * handle where it has one, else by parent and name. nodeid is the record's index; the root is 1.
 *
 * It knows nothing of FUSE messages and never calls an engine. Loop thread only; never blocks.
 */
#ifndef CV_FUSE_NODES_H
#define CV_FUSE_NODES_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/backend.h"
#include "fuse/shm.h"

#define CV_NODE_ROOT 1u

struct cv_wb_file;

/* What the server said of an object along with our own change of it, and how long it is believed.
 */
struct cv_known {
	struct cv_attr attr;
	uint64_t until_ns; /* cv_now_ns() */
};

/* Private state of a node; forgotten with the worker, derived again from the tables. */
struct cv_node {
	struct cv_node_record *record;
	uint32_t id;
	uint32_t open_count;   /* handles of files */
	uint32_t refs;	       /* requests that use the node: it stays while > 0 */
	uint64_t changed;      /* value of cv_nodes.clock at our last change of data, attributes
				  or, for a directory, entries */
	uint64_t landed;       /* the same when the server last answered a delayed write: what it
				  told us before may not count that write */
	uint64_t told;	       /* and when the kernel was last told something new of it */
	struct cv_wb_file *wb; /* owned by writeback.c; NULL when it has nothing to keep */
	/* Owned; NULL: ask the server. The kernel forgets attributes with each of its changes; this
	 * answers when it asks again. Only a hint: a successor of the worker has none. */
	struct cv_known *known;
	/* Directories: until when the kernel may use the last listing, and who read it. A hint,
	 * too.
	 */
	uint64_t listed_until_ns;
	uint32_t listed_uid;
};

struct cv_node_index {
	uint32_t *buckets; /* heads, 0: empty */
	uint32_t *next;	   /* by node id */
	uint32_t mask;
	uint32_t next_size;
};

struct cv_nodes {
	struct cv_shm *shm;
	bool by_handle;
	struct cv_node **nodes; /* by id, owned */
	uint32_t size;		/* of nodes */
	uint32_t top;		/* ids handed out so far */
	uint32_t free_hint;
	uint32_t count;
	uint64_t clock; /* counts our own changes, see cv_node.changed */
	struct cv_node_index names;
	struct cv_node_index handles; /* by_handle */
	struct cv_node_index inos;    /* !by_handle */
};

/*
 * by_handle: CV_FEAT_HANDLES. Makes the root when the table is empty, else takes a predecessor's
 * nodes over. 0 or -errno.
 */
int cv_nodes_init(struct cv_nodes *t, struct cv_shm *shm, bool by_handle,
		  const struct cv_entry *root);
void cv_nodes_release(struct cv_nodes *t);

/* NULL: the kernel may not know it (a bug, or a lost FORGET). */
struct cv_node *cv_node_get(struct cv_nodes *t, uint64_t nodeid);
struct cv_node *cv_node_find(struct cv_nodes *t, uint32_t parent, const char *name);
struct cv_node *cv_node_by_handle(struct cv_nodes *t, const struct cv_handle *handle);

/*
 * The node of an entry the engine has just returned for parent/name: an existing one, or a new one
 * with no lookups. Updates name and type. NULL: out of memory or nodes.
 */
struct cv_node *cv_node_enter(struct cv_nodes *t, uint32_t parent, const char *name,
			      const struct cv_entry *entry);
/* What st_ino an entry without node has, so that d_ino and st_ino agree. */
uint64_t cv_node_ino(struct cv_nodes *t, uint32_t parent, const char *name, uint64_t engine_ino);

/* One more kernel reference; noted for cv_shm_undo_begin()'s request. */
void cv_node_lookup(struct cv_nodes *t, struct cv_node *node);
void cv_node_forget(struct cv_nodes *t, struct cv_node *node, uint64_t count);
void cv_node_set_lookups(struct cv_nodes *t, struct cv_node *node, uint64_t lookups);
/* Drops the nodes that only a predecessor's requests used. */
void cv_nodes_sweep(struct cv_nodes *t);
void cv_node_hold(struct cv_node *node); /* keeps it while a request runs */
void cv_node_drop(struct cv_nodes *t, struct cv_node *node);

/* parent/name is gone, or is another object now. */
void cv_node_unlink(struct cv_nodes *t, struct cv_node *node);
void cv_node_rename(struct cv_nodes *t, struct cv_node *node, uint32_t parent, const char *name);

/* Notes that we changed it; listings fetched before must not bring back older attributes, and what
 * was known of it is not true any more. */
void cv_node_touch(struct cv_nodes *t, struct cv_node *node);

/* Its attributes after our last change. Running out of memory only costs a question. */
void cv_node_know(struct cv_node *node, const struct cv_attr *attr, uint64_t until_ns);
void cv_node_unknow(struct cv_node *node);

/*
 * Path relative to the root into buf (of CV_PATH_MAX bytes). Returns a pointer into buf, or NULL
 * when the node, or one above it, has no name any more (or is nested too deeply).
 */
#define CV_PATH_MAX 65536
const char *cv_node_path(struct cv_nodes *t, const struct cv_node *node, char *buf);

#endif
