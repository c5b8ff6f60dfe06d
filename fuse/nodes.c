/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/nodes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/str.h"

#define BUCKETS_MIN 1024u
#define DEPTH_MAX   4096u

static uint64_t hash_name(uint32_t parent, const char *name)
{
	return cv_hash(parent, name, strlen(name));
}

static uint64_t hash_handle(const struct cv_handle *h)
{
	return cv_hash(h->size, h->data, h->size);
}

static uint64_t hash_ino(uint64_t ino)
{
	return cv_hash(1, &ino, sizeof(ino));
}

/* ---- indexes ---- */

static int index_init(struct cv_node_index *ix)
{
	ix->mask = BUCKETS_MIN - 1;
	ix->buckets = calloc(BUCKETS_MIN, sizeof(*ix->buckets));
	ix->next = NULL;
	ix->next_size = 0;
	return ix->buckets ? 0 : -ENOMEM;
}

static void index_release(struct cv_node_index *ix)
{
	free(ix->buckets);
	free(ix->next);
	memset(ix, 0, sizeof(*ix));
}

static int index_reserve(struct cv_node_index *ix, uint32_t size)
{
	uint32_t *next;

	if (size <= ix->next_size)
		return 0;
	next = realloc(ix->next, (size_t)size * sizeof(*next));
	if (!next)
		return -ENOMEM;
	memset(next + ix->next_size, 0, (size_t)(size - ix->next_size) * sizeof(*next));
	ix->next = next;
	ix->next_size = size;
	return 0;
}

static void index_add(struct cv_node_index *ix, uint64_t hash, uint32_t id)
{
	uint32_t *head = &ix->buckets[hash & ix->mask];

	ix->next[id] = *head;
	*head = id;
}

static void index_del(struct cv_node_index *ix, uint64_t hash, uint32_t id)
{
	for (uint32_t *p = &ix->buckets[hash & ix->mask]; *p; p = &ix->next[*p]) {
		if (*p == id) {
			*p = ix->next[id];
			ix->next[id] = 0;
			return;
		}
	}
}

typedef uint64_t (*record_hash_fn)(const struct cv_node_record *record);

static uint64_t record_hash_name(const struct cv_node_record *r)
{
	return hash_name(r->parent, r->name);
}

static uint64_t record_hash_handle(const struct cv_node_record *r)
{
	return hash_handle(&r->handle);
}

static uint64_t record_hash_ino(const struct cv_node_record *r)
{
	return hash_ino(r->ino);
}

/* Doubles the buckets; failing only makes chains longer. */
static void index_grow(struct cv_nodes *t, struct cv_node_index *ix, record_hash_fn hash)
{
	uint32_t mask = ix->mask * 2 + 1;
	uint32_t *buckets = calloc((size_t)mask + 1, sizeof(*buckets));

	if (!buckets)
		return;
	for (uint32_t b = 0; b <= ix->mask; b++) {
		for (uint32_t id = ix->buckets[b], next; id; id = next) {
			uint32_t *head = &buckets[hash(&t->shm->nodes[id]) & mask];

			next = ix->next[id];
			ix->next[id] = *head;
			*head = id;
		}
	}
	free(ix->buckets);
	ix->buckets = buckets;
	ix->mask = mask;
}

static bool has_name(const struct cv_node *node)
{
	return node->id != CV_NODE_ROOT && !(node->record->flags & CV_NODE_NAMELESS);
}

static void indexes_add(struct cv_nodes *t, struct cv_node *node)
{
	if (has_name(node))
		index_add(&t->names, record_hash_name(node->record), node->id);
	if (t->by_handle)
		index_add(&t->handles, record_hash_handle(node->record), node->id);
	else
		index_add(&t->inos, record_hash_ino(node->record), node->id);
	if (t->count > t->names.mask) {
		index_grow(t, &t->names, record_hash_name);
		if (t->by_handle)
			index_grow(t, &t->handles, record_hash_handle);
		else
			index_grow(t, &t->inos, record_hash_ino);
	}
}

/* ---- nodes ---- */

static void parent_hold(struct cv_nodes *t, uint32_t parent);

static int table_reserve(struct cv_nodes *t, uint32_t id)
{
	uint32_t size = t->size ? t->size : 1024;
	struct cv_node **nodes;

	if (id < t->size)
		return 0;
	while (size <= id)
		size *= 2;
	nodes = realloc(t->nodes, (size_t)size * sizeof(*nodes));
	if (!nodes)
		return -ENOMEM;
	memset(nodes + t->size, 0, (size_t)(size - t->size) * sizeof(*nodes));
	t->nodes = nodes;
	t->size = size;
	if (index_reserve(&t->names, size) < 0 || index_reserve(&t->handles, size) < 0 ||
	    index_reserve(&t->inos, size) < 0)
		return -ENOMEM;
	return 0;
}

static void node_free(struct cv_node *node)
{
	if (node)
		free(node->known);
	free(node);
}

static struct cv_node *node_attach(struct cv_nodes *t, uint32_t id)
{
	struct cv_node *node;

	if (table_reserve(t, id) < 0)
		return NULL;
	node = calloc(1, sizeof(*node));
	if (!node)
		return NULL;
	node->id = id;
	node->record = &t->shm->nodes[id];
	t->nodes[id] = node;
	t->count++;
	if (id >= t->top)
		t->top = id + 1;
	if (t->top > t->shm->state->nodes_top)
		t->shm->state->nodes_top = t->top;
	return node;
}

int cv_nodes_init(struct cv_nodes *t, struct cv_shm *shm, bool by_handle,
		  const struct cv_entry *root)
{
	struct cv_node_record *r = &shm->nodes[CV_NODE_ROOT];

	memset(t, 0, sizeof(*t));
	t->shm = shm;
	t->by_handle = by_handle;
	t->top = CV_NODE_ROOT + 1;
	t->free_hint = CV_NODE_ROOT + 1;
	if (index_init(&t->names) < 0 || index_init(&t->handles) < 0 || index_init(&t->inos) < 0)
		goto nomem;
	if (!r->used) {
		r->ino = root->attr.ino ? root->attr.ino : 1;
		r->mode = S_IFDIR;
		r->handle = root->handle;
		r->lookups = 1;
		cv_shm_barrier();
		r->used = 1;
		if (!node_attach(t, CV_NODE_ROOT))
			goto nomem;
		indexes_add(t, t->nodes[CV_NODE_ROOT]);
		return 0;
	}
	/* A predecessor's. Beyond its top nothing is looked at: that would allocate the pages. */
	for (uint32_t id = CV_NODE_ROOT; id < shm->state->nodes_top && id < CV_NODES_MAX; id++) {
		struct cv_node *node;

		if (!shm->nodes[id].used)
			continue;
		node = node_attach(t, id);
		if (!node)
			goto nomem;
		indexes_add(t, node);
	}
	for (uint32_t id = CV_NODE_ROOT + 1; id < t->top; id++) {
		if (t->nodes[id] && has_name(t->nodes[id]))
			parent_hold(t, t->nodes[id]->record->parent);
	}
	return 0;
nomem:
	cv_nodes_release(t);
	return -ENOMEM;
}

void cv_nodes_release(struct cv_nodes *t)
{
	for (uint32_t id = 0; id < t->size; id++)
		node_free(t->nodes[id]);
	free(t->nodes);
	index_release(&t->names);
	index_release(&t->handles);
	index_release(&t->inos);
	memset(t, 0, sizeof(*t));
}

struct cv_node *cv_node_get(struct cv_nodes *t, uint64_t nodeid)
{
	return nodeid < t->size ? t->nodes[nodeid] : NULL;
}

struct cv_node *cv_node_find(struct cv_nodes *t, uint32_t parent, const char *name)
{
	for (uint32_t id = t->names.buckets[hash_name(parent, name) & t->names.mask]; id;
	     id = t->names.next[id]) {
		const struct cv_node_record *r = &t->shm->nodes[id];

		if (r->parent == parent && strcmp(r->name, name) == 0)
			return t->nodes[id];
	}
	return NULL;
}

struct cv_node *cv_node_by_handle(struct cv_nodes *t, const struct cv_handle *h)
{
	for (uint32_t id = t->handles.buckets[hash_handle(h) & t->handles.mask]; id;
	     id = t->handles.next[id]) {
		const struct cv_node_record *r = &t->shm->nodes[id];

		if (r->handle.size == h->size && memcmp(r->handle.data, h->data, h->size) == 0)
			return t->nodes[id];
	}
	return NULL;
}

static bool ino_taken(struct cv_nodes *t, uint64_t ino)
{
	for (uint32_t id = t->inos.buckets[hash_ino(ino) & t->inos.mask]; id;
	     id = t->inos.next[id]) {
		if (t->shm->nodes[id].ino == ino)
			return true;
	}
	return false;
}

uint64_t cv_node_ino(struct cv_nodes *t, uint32_t parent, const char *name, uint64_t engine_ino)
{
	const struct cv_node *node;
	uint64_t ino;

	if (engine_ino)
		return engine_ino;
	node = cv_node_find(t, parent, name);
	if (node)
		return node->record->ino;
	/* From the parent's number and the name: the same in every mount of the same tree. */
	ino = cv_hash(t->shm->nodes[parent].ino, name, strlen(name)) >> 1;
	return ino > 1 ? ino : ino + 2;
}

static uint32_t id_alloc(struct cv_nodes *t)
{
	for (uint32_t id = t->free_hint; id < t->top; id++) {
		if (!t->nodes[id]) {
			t->free_hint = id + 1;
			return id;
		}
	}
	t->free_hint = t->top;
	if (t->top >= CV_NODES_MAX)
		return 0;
	return t->top;
}

static void parent_hold(struct cv_nodes *t, uint32_t parent)
{
	struct cv_node *node = cv_node_get(t, parent);

	if (node)
		node->refs++;
}

static void parent_drop(struct cv_nodes *t, uint32_t parent)
{
	struct cv_node *node = cv_node_get(t, parent);

	if (node)
		cv_node_drop(t, node);
}

/* A named node holds its parent, so that the parent's index is not reused under its path. */
static void set_name(struct cv_nodes *t, struct cv_node_record *r, uint32_t parent,
		     const char *name)
{
	size_t len = strnlen(name, CV_NAME_MAX);

	parent_hold(t, parent);
	r->parent = parent;
	memcpy(r->name, name, len);
	r->name[len] = '\0';
	r->name_size = (uint8_t)len;
}

static struct cv_node *node_new(struct cv_nodes *t, uint32_t parent, const char *name,
				const struct cv_entry *entry)
{
	uint32_t id = id_alloc(t);
	struct cv_node_record *r;
	struct cv_node *node;

	if (!id)
		return NULL;
	node = node_attach(t, id);
	if (!node)
		return NULL;
	r = node->record;
	r->generation++; /* the kernel may still know the index's former user */
	r->lookups = 0;
	r->flags = 0;
	r->mode = entry->attr.mode & S_IFMT;
	r->nlink = entry->attr.nlink;
	r->permissions = 0;
	r->seen_size = 0;
	r->seen_change = r->own_change = 0;
	r->handle = entry->handle;
	r->ino = cv_node_ino(t, parent, name, entry->attr.ino);
	/* A file renamed away keeps its number; the next one of that name needs another. */
	while (!t->by_handle && ino_taken(t, r->ino))
		r->ino = cv_hash(r->ino, name, strlen(name)) >> 1;
	set_name(t, r, parent, name);
	cv_shm_barrier();
	r->used = 1;
	indexes_add(t, node);
	return node;
}

struct cv_node *cv_node_enter(struct cv_nodes *t, uint32_t parent, const char *name,
			      const struct cv_entry *entry)
{
	struct cv_node *named = cv_node_find(t, parent, name);
	struct cv_node *node = t->by_handle ? cv_node_by_handle(t, &entry->handle) : named;

	/* Another object has taken the name (or, by path, one of another type). */
	if (node && node->record->mode != (entry->attr.mode & S_IFMT)) {
		if (t->by_handle)
			index_del(&t->handles, record_hash_handle(node->record), node->id);
		cv_node_unlink(t, node);
		if (t->by_handle) {
			node->record->handle.size = 0;
			index_add(&t->handles, record_hash_handle(node->record), node->id);
		}
		node = NULL;
	}
	if (named && named != node && t->nodes[named->id] == named && has_name(named))
		cv_node_unlink(t, named);
	if (!node)
		return node_new(t, parent, name, entry);
	node->record->nlink = entry->attr.nlink;
	if (node->id != CV_NODE_ROOT && (node->record->flags & CV_NODE_HIDDEN) == 0 &&
	    (!has_name(node) || node->record->parent != parent ||
	     strcmp(node->record->name, name) != 0))
		cv_node_rename(t, node, parent, name);
	return node;
}

void cv_node_lookup(struct cv_nodes *t, struct cv_node *node)
{
	cv_shm_undo_note(t->shm, node->id, node->record->lookups);
	node->record->lookups++;
}

static void node_free_if_unused(struct cv_nodes *t, struct cv_node *node)
{
	uint32_t parent = 0;

	if (node->record->lookups || node->refs || node->open_count || node->wb ||
	    node->id == CV_NODE_ROOT)
		return;
	if (has_name(node)) {
		index_del(&t->names, record_hash_name(node->record), node->id);
		parent = node->record->parent;
	}
	if (t->by_handle)
		index_del(&t->handles, record_hash_handle(node->record), node->id);
	else
		index_del(&t->inos, record_hash_ino(node->record), node->id);
	node->record->used = 0;
	t->nodes[node->id] = NULL;
	t->count--;
	if (node->id < t->free_hint)
		t->free_hint = node->id;
	node_free(node);
	parent_drop(t, parent);
}

void cv_node_forget(struct cv_nodes *t, struct cv_node *node, uint64_t count)
{
	node->record->lookups -= count < node->record->lookups ? count : node->record->lookups;
	node_free_if_unused(t, node);
}

void cv_node_set_lookups(struct cv_nodes *t, struct cv_node *node, uint64_t lookups)
{
	node->record->lookups = lookups;
	node_free_if_unused(t, node);
}

void cv_nodes_sweep(struct cv_nodes *t)
{
	/* From the children up: the last one takes its parent along. */
	for (uint32_t id = CV_NODE_ROOT + 1; id < t->top; id++) {
		if (t->nodes[id])
			node_free_if_unused(t, t->nodes[id]);
	}
}

void cv_node_hold(struct cv_node *node)
{
	node->refs++;
}

void cv_node_drop(struct cv_nodes *t, struct cv_node *node)
{
	node->refs--;
	node_free_if_unused(t, node);
}

void cv_node_unlink(struct cv_nodes *t, struct cv_node *node)
{
	if (!has_name(node))
		return;
	index_del(&t->names, record_hash_name(node->record), node->id);
	node->record->flags |= CV_NODE_NAMELESS;
	parent_drop(t, node->record->parent);
}

void cv_node_rename(struct cv_nodes *t, struct cv_node *node, uint32_t parent, const char *name)
{
	uint32_t old = 0;

	if (node->id == CV_NODE_ROOT)
		return;
	if (has_name(node)) {
		index_del(&t->names, record_hash_name(node->record), node->id);
		old = node->record->parent;
	}
	set_name(t, node->record, parent, name);
	node->record->flags &= ~(uint32_t)CV_NODE_NAMELESS;
	index_add(&t->names, record_hash_name(node->record), node->id);
	parent_drop(t, old);
}

void cv_node_touch(struct cv_nodes *t, struct cv_node *node)
{
	node->changed = ++t->clock;
	cv_node_unknow(node);
}

void cv_node_know(struct cv_node *node, const struct cv_attr *attr, uint64_t until_ns)
{
	if (!node->known)
		node->known = malloc(sizeof(*node->known));
	if (node->known)
		*node->known = (struct cv_known){ .attr = *attr, .until_ns = until_ns };
}

void cv_node_unknow(struct cv_node *node)
{
	free(node->known);
	node->known = NULL;
}

const char *cv_node_path(struct cv_nodes *t, const struct cv_node *node, char *buf)
{
	char *p = buf + CV_PATH_MAX - 1;
	uint32_t depth = 0;

	*p = '\0';
	while (node->id != CV_NODE_ROOT) {
		const struct cv_node_record *r = node->record;

		if ((r->flags & CV_NODE_NAMELESS) || ++depth > DEPTH_MAX ||
		    (size_t)(p - buf) < (size_t)r->name_size + 1)
			return NULL;
		if (*p)
			*--p = '/';
		p -= r->name_size;
		memcpy(p, r->name, r->name_size);
		node = cv_node_get(t, r->parent);
		if (!node)
			return NULL;
	}
	return p;
}
