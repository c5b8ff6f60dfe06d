/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A complete file system in the worker's memory: hermetic, for tests and fuzzing, and the shortest
 * engine to start a new one from. Its content ends with the connection.
 *
 * Operations complete before the call returns. With "async" as the source's path (mem://async) the
 * work is still done at once, but the completions come later from the loop, in random order: that
 * is how a server behaves, without one.
 */
#include "backends/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "config/cleanup.h"
#include "config/options.h"

#define CHUNK	      65536u
#define CHUNK_MIN     4096u /* a chunk's memory grows from this to CHUNK in powers of two */
#define DEFAULT_LIMIT (1ull << 30)
#define FILE_MAX      (1ull << 46)
#define INODE_COST    1024u /* what an object counts against the limit besides its data */
#define BATCH	      128   /* entries per readdir */
#define BUCKETS_MIN   1024u
#define XATTR_MAX     65536u

struct inode;

struct chunk {
	uint64_t index;
	uint32_t size; /* bytes of memory; what follows up to CHUNK reads as zeros */
	uint8_t *data; /* owned */
};

struct dentry {
	struct dentry *next; /* in its bucket */
	struct inode *dir;
	struct inode *inode;
	uint64_t cookie; /* place in the directory; only grows */
	char name[];
};

/* A directory's entries by cookie; removed ones leave a hole until half of them are holes. */
struct slot {
	uint64_t cookie;
	struct dentry *dentry;
};

struct xattr {
	struct xattr *next;
	char *name; /* owned */
	size_t size;
	uint8_t *value; /* owned; not NULL */
};

struct inode {
	struct inode *next; /* in its bucket */
	struct cv_attr attr;
	uint32_t opens;
	struct xattr *xattrs;
	char *target; /* symbolic links */
	/* regular files: sorted by index */
	struct chunk *chunks;
	size_t nchunks, chunks_size;
	/* directories */
	struct inode *parent; /* NULL once removed */
	struct slot *slots;
	size_t nslots, slots_size, live;
	uint64_t next_cookie;
};

struct completion {
	struct cv_op *op;
	ssize_t result;
	void *out;
};

struct mem {
	struct inode **inodes;
	size_t inodes_mask, inodes_count;
	struct dentry **dentries;
	size_t dentries_mask, dentries_count;
	struct inode *root;
	uint64_t next_ino;
	uint64_t generation; /* handles of another life of this engine are stale */
	uint64_t limit, used;
	uint64_t bytes_read, bytes_written;
	bool async;
	struct cv_loop *loop;
	struct cv_timer timer;
	struct completion *queue;
	size_t queued, queue_size;
	uint64_t random;
};

struct cv_file {
	struct inode *inode;
	int flags;
};

/* ---- completion ---- */

static uint64_t next_random(struct mem *m)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return m->random;
}

static void complete(struct completion *c)
{
	c->op->done(c->op, c->result);
	free(c->out);
}

/* Completions queued so far in random order, one in four waits for another turn. */
static void on_timer(struct cv_timer *timer)
{
	struct mem *m = cv_container_of(timer, struct mem, timer);
	struct completion *queue = m->queue;
	size_t n = m->queued, kept = n / 4;

	m->queue = NULL;
	m->queued = m->queue_size = 0;
	for (size_t i = n; i > 1; i--) {
		size_t j = next_random(m) % i;
		struct completion swap = queue[i - 1];

		queue[i - 1] = queue[j];
		queue[j] = swap;
	}
	if (kept > 0) { /* before any done(), which queues more */
		m->queue = malloc(kept * sizeof(*m->queue));
		if (m->queue && cv_timer_set(m->loop, &m->timer, 0) == 0) {
			memcpy(m->queue, queue, kept * sizeof(*queue));
			m->queued = m->queue_size = kept;
		} else {
			kept = 0;
		}
	}
	for (size_t i = kept; i < n; i++)
		complete(&queue[i]);
	free(queue);
}

static bool enqueue(struct mem *m, const struct completion *c)
{
	if (m->queued == m->queue_size) {
		size_t size = m->queue_size ? 2 * m->queue_size : 64;
		struct completion *queue = realloc(m->queue, size * sizeof(*queue));

		if (!queue)
			return false;
		m->queue = queue;
		m->queue_size = size;
	}
	if (m->queued == 0 && cv_timer_set(m->loop, &m->timer, 0) < 0)
		return false;
	m->queue[m->queued++] = *c;
	return true;
}

/* out: what the operation's results point into; freed after done(). */
static void finish_with(struct mem *m, struct cv_op *op, ssize_t result, void *out)
{
	struct completion c = { op, result, out };

	if (!m->async || !enqueue(m, &c))
		complete(&c);
}

static void finish(struct mem *m, struct cv_op *op, ssize_t result)
{
	finish_with(m, op, result, NULL);
}

static void finish_entry(struct mem *m, struct cv_op *op, const struct inode *inode);

/* ---- tables ---- */

static uint64_t hash_u64(uint64_t h)
{
	h *= 0x9e3779b97f4a7c15ull;
	return h ^ (h >> 32);
}

static uint64_t hash_name(const struct inode *dir, const char *name)
{
	uint64_t h = dir->attr.ino;

	for (const char *p = name; *p; p++)
		h = hash_u64(h ^ (uint8_t)*p);
	return h;
}

static void inodes_grow(struct mem *m)
{
	size_t mask = 2 * m->inodes_mask + 1;
	struct inode **buckets = calloc(mask + 1, sizeof(struct inode *));

	if (!buckets)
		return; /* longer chains, nothing worse */
	for (size_t b = 0; b <= m->inodes_mask; b++) {
		for (struct inode *i = m->inodes[b], *next; i; i = next) {
			struct inode **head = &buckets[hash_u64(i->attr.ino) & mask];

			next = i->next;
			i->next = *head;
			*head = i;
		}
	}
	free(m->inodes);
	m->inodes = buckets;
	m->inodes_mask = mask;
}

static void dentries_grow(struct mem *m)
{
	size_t mask = 2 * m->dentries_mask + 1;
	struct dentry **buckets = calloc(mask + 1, sizeof(struct dentry *));

	if (!buckets)
		return;
	for (size_t b = 0; b <= m->dentries_mask; b++) {
		for (struct dentry *d = m->dentries[b], *next; d; d = next) {
			struct dentry **head = &buckets[hash_name(d->dir, d->name) & mask];

			next = d->next;
			d->next = *head;
			*head = d;
		}
	}
	free(m->dentries);
	m->dentries = buckets;
	m->dentries_mask = mask;
}

static struct timespec now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return ts;
}

/* ---- objects ---- */

static int charge(struct mem *m, uint64_t bytes)
{
	if (bytes > m->limit - m->used)
		return -ENOSPC;
	m->used += bytes;
	return 0;
}

static void chunk_free(struct mem *m, struct inode *inode, struct chunk *chunk)
{
	m->used -= chunk->size;
	inode->attr.blocks -= chunk->size / 512;
	free(chunk->data);
}

static void xattr_free(struct mem *m, struct xattr *x)
{
	m->used -= x->size;
	free(x->name);
	free(x->value);
	free(x);
}

static void inode_free(struct mem *m, struct inode *inode)
{
	for (struct inode **p = &m->inodes[hash_u64(inode->attr.ino) & m->inodes_mask]; *p;
	     p = &(*p)->next) {
		if (*p == inode) {
			*p = inode->next;
			m->inodes_count--;
			break;
		}
	}
	for (size_t i = 0; i < inode->nchunks; i++)
		chunk_free(m, inode, &inode->chunks[i]);
	while (inode->xattrs) {
		struct xattr *x = inode->xattrs;

		inode->xattrs = x->next;
		xattr_free(m, x);
	}
	m->used -= INODE_COST;
	free(inode->chunks);
	free(inode->slots);
	free(inode->target);
	free(inode);
}

/* Neither a name nor an open file left? */
static void inode_put(struct mem *m, struct inode *inode)
{
	if (inode->attr.nlink == 0 && inode->opens == 0)
		inode_free(m, inode);
}

/* Owned as creating in dir makes it (dir NULL: the root); without a name yet. */
static int inode_new(struct mem *m, const struct inode *dir, const struct cv_cred *cred,
		     uint32_t mode, struct inode **ret)
{
	struct inode *inode;
	struct inode **head;
	int r = charge(m, INODE_COST);

	if (r < 0)
		return r;
	inode = calloc(1, sizeof(*inode));
	if (!inode) {
		m->used -= INODE_COST;
		return -ENOMEM;
	}
	inode->attr.ino = m->next_ino++;
	inode->attr.mode = mode;
	inode->attr.uid = cred->uid;
	inode->attr.gid = cred->gid;
	inode->attr.blksize = CHUNK_MIN;
	inode->attr.atime = inode->attr.mtime = inode->attr.ctime = now();
	inode->next_cookie = 1;
	if (dir && (dir->attr.mode & S_ISGID)) {
		inode->attr.gid = dir->attr.gid;
		if (S_ISDIR(mode))
			inode->attr.mode |= S_ISGID;
	}
	if (m->inodes_count > m->inodes_mask)
		inodes_grow(m);
	head = &m->inodes[hash_u64(inode->attr.ino) & m->inodes_mask];
	inode->next = *head;
	*head = inode;
	m->inodes_count++;
	*ret = inode;
	return 0;
}

static struct inode *inode_of(struct mem *m, const struct cv_object *obj)
{
	uint64_t key[2];

	if (obj->handle->size != sizeof(key))
		return NULL;
	memcpy(key, obj->handle->data, sizeof(key));
	if (key[1] != m->generation)
		return NULL;
	for (struct inode *i = m->inodes[hash_u64(key[0]) & m->inodes_mask]; i; i = i->next) {
		if (i->attr.ino == key[0])
			return i;
	}
	return NULL;
}

static void entry_fill(const struct mem *m, const struct inode *inode, struct cv_entry *entry)
{
	uint64_t key[2] = { inode->attr.ino, m->generation };

	entry->handle.size = sizeof(key);
	memcpy(entry->handle.data, key, sizeof(key));
	entry->attr = inode->attr;
}

static void finish_entry(struct mem *m, struct cv_op *op, const struct inode *inode)
{
	entry_fill(m, inode, &op->entry);
	finish(m, op, 0);
}

static void finish_attr(struct mem *m, struct cv_op *op, const struct inode *inode)
{
	op->attr = inode->attr;
	op->have_attr = true;
	finish(m, op, 0);
}

/* ---- directories ---- */

/* The first slot after cookie. */
static size_t slot_after(const struct inode *dir, uint64_t cookie)
{
	size_t lo = 0, hi = dir->nslots;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (dir->slots[mid].cookie <= cookie)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int slot_append(struct inode *dir, struct dentry *dentry)
{
	if (dir->nslots == dir->slots_size) {
		size_t size = dir->slots_size ? 2 * dir->slots_size : 8;
		struct slot *slots = realloc(dir->slots, size * sizeof(*slots));

		if (!slots)
			return -ENOMEM;
		dir->slots = slots;
		dir->slots_size = size;
	}
	dentry->cookie = dir->next_cookie++;
	dir->slots[dir->nslots].cookie = dentry->cookie;
	dir->slots[dir->nslots++].dentry = dentry;
	dir->live++;
	return 0;
}

static void slot_remove(struct inode *dir, const struct dentry *dentry)
{
	size_t n = 0;

	dir->slots[slot_after(dir, dentry->cookie - 1)].dentry = NULL;
	dir->live--;
	if (dir->live >= dir->nslots / 2)
		return;
	for (size_t i = 0; i < dir->nslots; i++) {
		if (dir->slots[i].dentry)
			dir->slots[n++] = dir->slots[i];
	}
	dir->nslots = n;
}

static struct dentry **dentry_place(struct mem *m, const struct inode *dir, const char *name)
{
	struct dentry **p = &m->dentries[hash_name(dir, name) & m->dentries_mask];

	while (*p && ((*p)->dir != dir || strcmp((*p)->name, name) != 0))
		p = &(*p)->next;
	return p;
}

static void dir_changed(struct inode *dir)
{
	dir->attr.mtime = dir->attr.ctime = now();
	dir->attr.size = dir->live * 32;
}

/* Gives inode the name. The name must be free. */
static int dentry_add(struct mem *m, struct inode *dir, const char *name, struct inode *inode)
{
	size_t len = strlen(name) + 1;
	struct dentry *d = malloc(sizeof(*d) + len);
	struct dentry **head;

	if (!d)
		return -ENOMEM;
	d->dir = dir;
	d->inode = inode;
	memcpy(d->name, name, len);
	if (slot_append(dir, d) < 0) {
		free(d);
		return -ENOMEM;
	}
	if (m->dentries_count > m->dentries_mask)
		dentries_grow(m);
	head = &m->dentries[hash_name(dir, name) & m->dentries_mask];
	d->next = *head;
	*head = d;
	m->dentries_count++;
	if (S_ISDIR(inode->attr.mode)) {
		inode->parent = dir;
		dir->attr.nlink++;
	}
	dir_changed(dir);
	return 0;
}

/* Takes the name away; the object's own count and life are the caller's business. */
static void dentry_remove(struct mem *m, struct inode *dir, const char *name)
{
	struct dentry **p = dentry_place(m, dir, name);
	struct dentry *d = *p;

	*p = d->next;
	m->dentries_count--;
	slot_remove(dir, d);
	if (S_ISDIR(d->inode->attr.mode))
		dir->attr.nlink--;
	dir_changed(dir);
	free(d);
}

/* The directory and the object called name in it. -ESTALE, -ENOTDIR, -ENOENT. */
static int find(struct mem *m, const struct cv_object *obj, const char *name,
		struct inode **ret_dir, struct inode **ret_inode)
{
	struct inode *dir = inode_of(m, obj);
	struct dentry *d;

	if (!dir)
		return -ESTALE;
	if (!S_ISDIR(dir->attr.mode))
		return -ENOTDIR;
	*ret_dir = dir;
	d = *dentry_place(m, dir, name);
	if (!d)
		return -ENOENT;
	*ret_inode = d->inode;
	return 0;
}

/* The name is free and may be made? */
static int find_free(struct mem *m, const struct cv_object *obj, const char *name,
		     struct inode **ret_dir)
{
	struct inode *inode;
	int r = find(m, obj, name, ret_dir, &inode);

	if (r == 0)
		return -EEXIST;
	if (r != -ENOENT)
		return r;
	return (*ret_dir)->attr.nlink == 0 ? -ENOENT : 0; /* removed, but still somebody's cwd */
}

static void mem_lookup(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name)
{
	struct inode *dir, *inode;
	int r = find(conn, obj, name, &dir, &inode);

	if (r < 0)
		finish(conn, op, r);
	else
		finish_entry(conn, op, inode);
}

/* A new object under a name. target: symbolic links. */
static int make(struct mem *m, const struct cv_op *op, const struct cv_object *obj,
		const char *name, uint32_t mode, const char *target, struct inode **ret)
{
	struct inode *dir, *inode;
	int r = find_free(m, obj, name, &dir);

	if (r < 0)
		return r;
	r = inode_new(m, dir, op->cred, mode, &inode);
	if (r < 0)
		return r;
	if (target) {
		inode->target = strdup(target);
		inode->attr.size = strlen(target);
		r = inode->target ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = dentry_add(m, dir, name, inode);
	if (r < 0) {
		inode_free(m, inode);
		return r;
	}
	inode->attr.nlink = S_ISDIR(mode) ? 2 : 1;
	*ret = inode;
	return 0;
}

static void mem_mknod(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		      uint32_t mode, uint64_t rdev)
{
	struct inode *inode;
	int r = make(conn, op, dir, name, mode, NULL, &inode);

	if (r < 0) {
		finish(conn, op, r);
		return;
	}
	if (S_ISCHR(mode) || S_ISBLK(mode))
		inode->attr.rdev = rdev;
	finish_entry(conn, op, inode);
}

static void mem_mkdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		      uint32_t mode)
{
	struct inode *inode;
	int r = make(conn, op, dir, name, S_IFDIR | (mode & 07777), NULL, &inode);

	if (r < 0)
		finish(conn, op, r);
	else
		finish_entry(conn, op, inode);
}

static void mem_symlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
			const char *target)
{
	struct inode *inode;
	int r = make(conn, op, dir, name, S_IFLNK | 0777, target, &inode);

	if (r < 0)
		finish(conn, op, r);
	else
		finish_entry(conn, op, inode);
}

static void mem_link(void *conn, struct cv_op *op, const struct cv_object *obj,
		     const struct cv_object *newdir, const char *name)
{
	struct inode *inode = inode_of(conn, obj);
	struct inode *dir;
	int r = find_free(conn, newdir, name, &dir);

	if (!inode)
		r = -ESTALE;
	else if (S_ISDIR(inode->attr.mode))
		r = -EPERM;
	else if (inode->attr.nlink == 0)
		r = -ENOENT;
	if (r == 0)
		r = dentry_add(conn, dir, name, inode);
	if (r < 0) {
		finish(conn, op, r);
		return;
	}
	inode->attr.nlink++;
	inode->attr.ctime = now();
	finish_entry(conn, op, inode);
}

/* The object has lost a name. */
static void unlinked(struct mem *m, struct inode *inode)
{
	if (S_ISDIR(inode->attr.mode)) {
		inode->attr.nlink = 0;
		inode->parent = NULL;
	} else {
		inode->attr.nlink--;
	}
	inode->attr.ctime = now();
	inode_put(m, inode);
}

static void mem_unlink(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name)
{
	struct inode *dir, *inode;
	int r = find(conn, obj, name, &dir, &inode);

	if (r == 0 && S_ISDIR(inode->attr.mode))
		r = -EISDIR;
	if (r == 0) {
		dentry_remove(conn, dir, name);
		unlinked(conn, inode);
	}
	finish(conn, op, r);
}

static void mem_rmdir(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name)
{
	struct inode *dir, *inode;
	int r = find(conn, obj, name, &dir, &inode);

	if (r == 0 && !S_ISDIR(inode->attr.mode))
		r = -ENOTDIR;
	else if (r == 0 && inode->live > 0)
		r = -ENOTEMPTY;
	if (r == 0) {
		dentry_remove(conn, dir, name);
		unlinked(conn, inode);
	}
	finish(conn, op, r);
}

static bool is_below(const struct inode *dir, const struct inode *top)
{
	for (; dir; dir = dir->parent) {
		if (dir == top)
			return true;
	}
	return false;
}

/* May victim be replaced by inode? */
static int replace_check(const struct inode *inode, const struct inode *victim)
{
	if (S_ISDIR(victim->attr.mode)) {
		if (!S_ISDIR(inode->attr.mode))
			return -EISDIR;
		return victim->live > 0 ? -ENOTEMPTY : 0;
	}
	return S_ISDIR(inode->attr.mode) ? -ENOTDIR : 0;
}

static int exchange(struct mem *m, struct inode *dir, const char *name, struct inode *inode,
		    struct inode *newdir, const char *newname, struct inode *other)
{
	if (S_ISDIR(other->attr.mode) && is_below(dir, other))
		return -EINVAL;
	(*dentry_place(m, dir, name))->inode = other;
	(*dentry_place(m, newdir, newname))->inode = inode;
	if (S_ISDIR(inode->attr.mode)) {
		inode->parent = newdir;
		dir->attr.nlink--;
		newdir->attr.nlink++;
	}
	if (S_ISDIR(other->attr.mode)) {
		other->parent = dir;
		newdir->attr.nlink--;
		dir->attr.nlink++;
	}
	inode->attr.ctime = other->attr.ctime = now();
	dir_changed(dir);
	dir_changed(newdir);
	return 0;
}

static int move(struct mem *m, const struct cv_object *obj, const char *name,
		const struct cv_object *newobj, const char *newname, unsigned flags)
{
	struct inode *dir, *newdir, *inode, *victim = NULL;
	int r = find(m, obj, name, &dir, &inode);

	if (r < 0)
		return r;
	r = find(m, newobj, newname, &newdir, &victim);
	if (r < 0 && r != -ENOENT)
		return r;
	if (newdir->attr.nlink == 0 || ((flags & RENAME_EXCHANGE) && !victim))
		return -ENOENT;
	if (victim && (flags & RENAME_NOREPLACE))
		return -EEXIST;
	if (victim == inode)
		return 0;
	if (S_ISDIR(inode->attr.mode) && is_below(newdir, inode))
		return -EINVAL;
	if (flags & RENAME_EXCHANGE)
		return exchange(m, dir, name, inode, newdir, newname, victim);
	r = victim ? replace_check(inode, victim) : 0;
	if (r < 0)
		return r;
	/* The new name first: it is the step that can fail. */
	if (victim) {
		(*dentry_place(m, newdir, newname))->inode = inode;
		if (S_ISDIR(inode->attr.mode))
			inode->parent = newdir; /* one directory more, one less: nlink stays */
		dir_changed(newdir);
	} else {
		r = dentry_add(m, newdir, newname, inode);
		if (r < 0)
			return r;
	}
	dentry_remove(m, dir, name);
	inode->attr.ctime = now();
	if (victim)
		unlinked(m, victim);
	return 0;
}

static void mem_rename(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		       const struct cv_object *newdir, const char *newname, unsigned flags)
{
	int r = -EINVAL;

	if (flags == 0 || flags == RENAME_NOREPLACE || flags == RENAME_EXCHANGE)
		r = move(conn, dir, name, newdir, newname, flags);
	finish(conn, op, r);
}

static void mem_opendir(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct inode *dir = inode_of(conn, obj);
	struct cv_file *file;

	if (!dir || !S_ISDIR(dir->attr.mode)) {
		finish(conn, op, dir ? -ENOTDIR : -ESTALE);
		return;
	}
	file = calloc(1, sizeof(*file));
	if (!file) {
		finish(conn, op, -ENOMEM);
		return;
	}
	file->inode = dir;
	dir->opens++;
	op->file = file;
	finish(conn, op, 0);
}

static void mem_release(void *conn, struct cv_file *file)
{
	file->inode->opens--;
	inode_put(conn, file->inode);
	free(file);
}

struct listing {
	struct cv_dirent entries[BATCH];
	char names[BATCH][CV_NAME_MAX + 1];
};

static void mem_readdir(void *conn, struct cv_op *op, struct cv_file *file, uint64_t off)
{
	const struct mem *m = conn;
	const struct inode *dir = file->inode;
	struct listing *out = calloc(1, sizeof(*out));
	size_t i, n = 0;

	if (!out) {
		finish(conn, op, -ENOMEM);
		return;
	}
	for (i = slot_after(dir, off); i < dir->nslots && n < BATCH; i++) {
		const struct dentry *d = dir->slots[i].dentry;
		struct cv_dirent *e = &out->entries[n];

		if (!d)
			continue;
		(void)stpcpy(out->names[n], d->name);
		e->name = out->names[n];
		e->next_off = d->cookie;
		e->ino = d->inode->attr.ino;
		e->mode = d->inode->attr.mode;
		e->have_entry = true;
		entry_fill(m, d->inode, &e->entry);
		n++;
	}
	op->dirents = out->entries;
	op->eof = i == dir->nslots;
	finish_with(conn, op, (ssize_t)n, out);
}

static void mem_fsyncdir(void *conn, struct cv_op *op, struct cv_file *dir, bool datasync)
{
	(void)dir;
	(void)datasync;
	finish(conn, op, 0);
}

/* ---- content ---- */

/* The first chunk with at least this index. */
static size_t chunk_at(const struct inode *inode, uint64_t index)
{
	size_t lo = 0, hi = inode->nchunks;

	/* Most files grow at their end. */
	if (hi > 0 && inode->chunks[hi - 1].index < index)
		return hi;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (inode->chunks[mid].index < index)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* A chunk with memory up to end. */
static int chunk_need(struct mem *m, struct inode *inode, uint64_t index, uint32_t end,
		      struct chunk **ret)
{
	size_t at = chunk_at(inode, index);
	bool fresh = at == inode->nchunks || inode->chunks[at].index != index;
	uint32_t have = fresh ? 0 : inode->chunks[at].size;
	uint32_t size = have ? have : CHUNK_MIN;
	uint8_t *data;
	int r;

	while (size < end)
		size *= 2;
	if (fresh && inode->nchunks == inode->chunks_size) {
		size_t n = inode->chunks_size ? 2 * inode->chunks_size : 4;
		struct chunk *chunks = realloc(inode->chunks, n * sizeof(*chunks));

		if (!chunks)
			return -ENOMEM;
		inode->chunks = chunks;
		inode->chunks_size = n;
	}
	if (size > have) {
		r = charge(m, size - have);
		if (r < 0)
			return r;
		data = realloc(fresh ? NULL : inode->chunks[at].data, size);
		if (!data) {
			m->used -= size - have;
			return -ENOMEM;
		}
		memset(data + have, 0, size - have);
		if (fresh) {
			memmove(&inode->chunks[at + 1], &inode->chunks[at],
				(inode->nchunks - at) * sizeof(*inode->chunks));
			inode->nchunks++;
			inode->chunks[at].index = index;
		}
		inode->chunks[at].data = data;
		inode->chunks[at].size = size;
		inode->attr.blocks += (size - have) / 512;
	}
	*ret = &inode->chunks[at];
	return 0;
}

/* Makes [off, end) read as zeros and gives back whole chunks. */
static void punch(struct mem *m, struct inode *inode, uint64_t off, uint64_t end)
{
	size_t from = chunk_at(inode, off / CHUNK), kept = from;

	for (size_t i = from; i < inode->nchunks; i++) {
		struct chunk *c = &inode->chunks[i];
		uint64_t start = c->index * CHUNK;

		if (start >= off && end >= start + CHUNK) {
			chunk_free(m, inode, c);
			continue;
		}
		if (start < end) {
			uint64_t a = off > start ? off - start : 0;
			uint64_t b = end - start < c->size ? end - start : c->size;

			if (a < b)
				memset(c->data + a, 0, b - a);
		}
		inode->chunks[kept++] = *c;
	}
	inode->nchunks = kept;
}

static void resize(struct mem *m, struct inode *inode, uint64_t size)
{
	if (size < inode->attr.size)
		punch(m, inode, size, UINT64_MAX);
	inode->attr.size = size;
	inode->attr.mtime = inode->attr.ctime = now();
}

static int open_check(const struct inode *inode)
{
	if (!inode)
		return -ESTALE;
	if (S_ISDIR(inode->attr.mode))
		return -EISDIR;
	/* The kernel opens fifos, sockets and devices itself and follows symbolic links: it has
	 * an outdated idea of this name. ESTALE makes it look again. */
	return S_ISREG(inode->attr.mode) ? 0 : -ESTALE;
}

static int open_file(struct mem *m, struct cv_op *op, struct inode *inode, int flags)
{
	struct cv_file *file = calloc(1, sizeof(*file));

	if (!file)
		return -ENOMEM;
	if (flags & O_TRUNC)
		resize(m, inode, 0);
	file->inode = inode;
	file->flags = flags;
	inode->opens++;
	op->file = file;
	op->attr = inode->attr;
	op->have_attr = true;
	return 0;
}

static void mem_open(void *conn, struct cv_op *op, const struct cv_object *obj, int flags)
{
	struct inode *inode = inode_of(conn, obj);
	int r = open_check(inode);

	if (r == 0)
		r = open_file(conn, op, inode, flags);
	finish(conn, op, r);
}

static void mem_create(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name,
		       int flags, uint32_t mode)
{
	struct inode *dir, *inode;
	int r = find(conn, obj, name, &dir, &inode);

	if (r == 0)
		r = flags & O_EXCL ? -EEXIST : open_check(inode);
	else if (r == -ENOENT)
		r = make(conn, op, obj, name, S_IFREG | (mode & 07777), NULL, &inode);
	if (r == 0)
		r = open_file(conn, op, inode, flags);
	if (r == 0)
		entry_fill(conn, inode, &op->entry);
	finish(conn, op, r);
}

/* Holes are zeros in out already. */
static void read_data(const struct inode *inode, uint8_t *out, size_t size, uint64_t off)
{
	for (size_t i = chunk_at(inode, off / CHUNK); i < inode->nchunks; i++) {
		const struct chunk *c = &inode->chunks[i];
		uint64_t start = c->index * CHUNK, end = start + c->size;
		uint64_t from = off > start ? off : start;

		if (start >= off + size)
			break;
		if (end > off + size)
			end = off + size;
		if (from < end)
			memcpy(out + (from - off), c->data + (from - start), end - from);
	}
}

static size_t size_left(const struct inode *inode, size_t size, uint64_t off)
{
	if (off >= inode->attr.size)
		return 0;
	return size > inode->attr.size - off ? inode->attr.size - off : size;
}

static void mem_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		     uint64_t off)
{
	struct mem *m = conn;
	struct inode *inode = file->inode;
	uint8_t *out;

	if ((file->flags & O_ACCMODE) == O_WRONLY) {
		finish(m, op, -EBADF);
		return;
	}
	size_bytes = size_left(inode, size_bytes, off);
	out = calloc(1, size_bytes ? size_bytes : 1);
	if (!out) {
		finish(m, op, -ENOMEM);
		return;
	}
	read_data(inode, out, size_bytes, off);
	/* As relatime does. */
	if (inode->attr.atime.tv_sec < inode->attr.mtime.tv_sec ||
	    (inode->attr.atime.tv_sec == inode->attr.mtime.tv_sec &&
	     inode->attr.atime.tv_nsec <= inode->attr.mtime.tv_nsec))
		inode->attr.atime = now();
	m->bytes_read += size_bytes;
	op->data = out;
	finish_with(m, op, (ssize_t)size_bytes, out);
}

static int write_data(struct mem *m, struct inode *inode, const uint8_t *data, size_t size,
		      uint64_t off)
{
	if (off > FILE_MAX || size > FILE_MAX - off)
		return -EFBIG;
	while (size > 0) {
		uint32_t at = off % CHUNK;
		uint32_t n = CHUNK - at < size ? CHUNK - at : (uint32_t)size;
		struct chunk *c;
		int r = chunk_need(m, inode, off / CHUNK, at + n, &c);

		if (r < 0)
			return r;
		memcpy(c->data + at, data, n);
		data += n;
		off += n;
		size -= n;
		if (off > inode->attr.size)
			inode->attr.size = off;
	}
	inode->attr.mtime = inode->attr.ctime = now();
	return 0;
}

static void mem_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		      size_t size_bytes, uint64_t off)
{
	struct mem *m = conn;
	int r;

	if ((file->flags & O_ACCMODE) == O_RDONLY) {
		finish(m, op, -EBADF);
		return;
	}
	r = write_data(m, file->inode, data, size_bytes, off);
	op->stable = true;
	op->attr = file->inode->attr;
	op->have_attr = true;
	m->bytes_written += r == 0 ? size_bytes : 0;
	finish(m, op, r < 0 ? r : (ssize_t)size_bytes);
}

static void mem_copy(void *conn, struct cv_op *op, struct cv_file *src, uint64_t src_off,
		     struct cv_file *dst, uint64_t dst_off, size_t size_bytes)
{
	size_t size =
		size_left(src->inode, size_bytes < CV_MAX_IO ? size_bytes : CV_MAX_IO, src_off);
	cv_cleanup_free uint8_t *data = calloc(1, size ? size : 1);
	int r = data ? 0 : -ENOMEM;

	if ((src->flags & O_ACCMODE) == O_WRONLY || (dst->flags & O_ACCMODE) == O_RDONLY)
		r = -EBADF;
	if (r == 0 && size > 0) {
		read_data(src->inode, data, size, src_off);
		r = write_data(conn, dst->inode, data, size, dst_off);
	}
	finish(conn, op, r < 0 ? r : (ssize_t)size);
}

static void mem_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync)
{
	(void)datasync;
	op->attr = file->inode->attr;
	op->have_attr = true;
	finish(conn, op, 0);
}

static int allocate(struct mem *m, struct inode *inode, uint64_t off, uint64_t end)
{
	if (end > FILE_MAX)
		return -EFBIG;
	while (off < end) {
		uint64_t index = off / CHUNK;
		uint64_t stop = end - index * CHUNK < CHUNK ? end - index * CHUNK : CHUNK;
		struct chunk *c;
		int r = chunk_need(m, inode, index, (uint32_t)stop, &c);

		if (r < 0)
			return r;
		off = (index + 1) * CHUNK;
	}
	return 0;
}

static void mem_fallocate(void *conn, struct cv_op *op, struct cv_file *file, int mode,
			  uint64_t off, uint64_t size_bytes)
{
	struct inode *inode = file->inode;
	uint64_t end = off + size_bytes;
	bool keep_size = mode & FALLOC_FL_KEEP_SIZE;
	int r = 0;

	if ((file->flags & O_ACCMODE) == O_RDONLY)
		r = -EBADF;
	else if (size_bytes == 0)
		r = -EINVAL;
	else if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
		punch(conn, inode, off, end);
	else if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE)) != 0)
		r = -EOPNOTSUPP;
	else {
		if (mode & FALLOC_FL_ZERO_RANGE)
			punch(conn, inode, off, end);
		r = allocate(conn, inode, off, end);
		if (r == 0 && !keep_size && end > inode->attr.size)
			inode->attr.size = end;
	}
	if (r == 0)
		inode->attr.mtime = inode->attr.ctime = now();
	finish(conn, op, r);
}

static void mem_lseek(void *conn, struct cv_op *op, struct cv_file *file, uint64_t off, int whence)
{
	const struct inode *inode = file->inode;
	size_t i = chunk_at(inode, off / CHUNK);
	uint64_t at = off;

	if (off >= inode->attr.size) {
		finish(conn, op, -ENXIO);
		return;
	}
	if (whence == SEEK_DATA) {
		if (i == inode->nchunks || inode->chunks[i].index * CHUNK >= inode->attr.size) {
			finish(conn, op, -ENXIO);
			return;
		}
		if (inode->chunks[i].index * CHUNK > at)
			at = inode->chunks[i].index * CHUNK;
	} else {
		for (; i < inode->nchunks && inode->chunks[i].index == at / CHUNK; i++)
			at = (inode->chunks[i].index + 1) * CHUNK;
		if (at > inode->attr.size)
			at = inode->attr.size;
	}
	op->offset = at;
	finish(conn, op, 0);
}

/* ---- attributes ---- */

static void mem_getattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			struct cv_file *file)
{
	struct inode *inode = file ? file->inode : inode_of(conn, obj);

	if (inode)
		finish_attr(conn, op, inode);
	else
		finish(conn, op, -ESTALE);
}

static void mem_setattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			struct cv_file *file, const struct cv_setattr *set)
{
	struct inode *inode = file ? file->inode : inode_of(conn, obj);
	int r = 0;

	if (!inode)
		r = -ESTALE;
	else if ((set->mask & CV_SET_SIZE) && !S_ISREG(inode->attr.mode))
		r = S_ISDIR(inode->attr.mode) ? -EISDIR : -EINVAL;
	else if ((set->mask & CV_SET_SIZE) && set->size > FILE_MAX)
		r = -EFBIG;
	if (r < 0) {
		finish(conn, op, r);
		return;
	}
	if (set->mask & CV_SET_SIZE)
		resize(conn, inode, set->size);
	if (set->mask & CV_SET_MODE)
		inode->attr.mode = (inode->attr.mode & S_IFMT) | (set->mode & 07777);
	if (set->mask & CV_SET_UID)
		inode->attr.uid = set->uid;
	if (set->mask & CV_SET_GID)
		inode->attr.gid = set->gid;
	inode->attr.ctime = now();
	if (set->mask & CV_SET_ATIME)
		inode->attr.atime = set->atime;
	if (set->mask & CV_SET_MTIME)
		inode->attr.mtime = set->mtime;
	if (set->mask & CV_SET_ATIME_NOW)
		inode->attr.atime = inode->attr.ctime;
	if (set->mask & CV_SET_MTIME_NOW)
		inode->attr.mtime = inode->attr.ctime;
	finish_attr(conn, op, inode);
}

static void mem_readlink(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	const struct inode *inode = inode_of(conn, obj);
	char *out;

	if (!inode || !S_ISLNK(inode->attr.mode)) {
		finish(conn, op, inode ? -EINVAL : -ESTALE);
		return;
	}
	out = strdup(inode->target);
	if (!out) {
		finish(conn, op, -ENOMEM);
		return;
	}
	op->data = out;
	finish_with(conn, op, (ssize_t)strlen(out), out);
}

static void mem_statfs(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	const struct mem *m = conn;
	struct statvfs *st = &op->statvfs;

	(void)obj;
	st->f_bsize = st->f_frsize = CHUNK_MIN;
	st->f_blocks = m->limit / CHUNK_MIN;
	st->f_bfree = st->f_bavail = (m->limit - m->used) / CHUNK_MIN;
	st->f_files = m->limit / INODE_COST;
	st->f_ffree = st->f_favail = (m->limit - m->used) / INODE_COST;
	st->f_namemax = CV_NAME_MAX;
	finish(conn, op, 0);
}

/* ---- extended attributes ---- */

static struct xattr **xattr_place(struct inode *inode, const char *name)
{
	struct xattr **p = &inode->xattrs;

	while (*p && strcmp((*p)->name, name) != 0)
		p = &(*p)->next;
	return p;
}

static bool xattr_supported(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strncmp(name, "security.", 9) == 0 ||
	       strncmp(name, "trusted.", 8) == 0;
}

static void mem_getxattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			 const char *name, size_t size_bytes)
{
	struct inode *inode = inode_of(conn, obj);
	const struct xattr *x;
	void *out = NULL;
	ssize_t r;

	if (!inode) {
		finish(conn, op, -ESTALE);
		return;
	}
	x = *xattr_place(inode, name);
	if (!x)
		r = xattr_supported(name) ? -ENODATA : -EOPNOTSUPP;
	else if (size_bytes == 0)
		r = (ssize_t)x->size;
	else if (size_bytes < x->size)
		r = -ERANGE;
	else if (!(out = malloc(x->size + 1)))
		r = -ENOMEM;
	else {
		memcpy(out, x->value, x->size);
		r = (ssize_t)x->size;
	}
	op->data = out;
	finish_with(conn, op, r, out);
}

static void mem_listxattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			  size_t size_bytes)
{
	const struct inode *inode = inode_of(conn, obj);
	size_t total = 0;
	char *out, *p;

	if (!inode) {
		finish(conn, op, -ESTALE);
		return;
	}
	/* trusted.*: as local file systems do. */
	for (const struct xattr *x = inode->xattrs; x; x = x->next) {
		if (op->cred->uid == 0 || strncmp(x->name, "trusted.", 8) != 0)
			total += strlen(x->name) + 1;
	}
	if (size_bytes == 0 || size_bytes < total) {
		finish(conn, op, size_bytes ? -ERANGE : (ssize_t)total);
		return;
	}
	out = p = malloc(total + 1);
	if (!out) {
		finish(conn, op, -ENOMEM);
		return;
	}
	for (const struct xattr *x = inode->xattrs; x; x = x->next) {
		if (op->cred->uid == 0 || strncmp(x->name, "trusted.", 8) != 0)
			p = stpcpy(p, x->name) + 1;
	}
	op->data = out;
	finish_with(conn, op, (ssize_t)total, out);
}

static int xattr_new(struct mem *m, const char *name, const void *value, size_t size,
		     struct xattr **ret)
{
	struct xattr *x;
	int r = charge(m, size);

	if (r < 0)
		return r;
	x = calloc(1, sizeof(*x));
	if (x) {
		x->size = size;
		x->name = strdup(name);
		x->value = malloc(size + 1);
	}
	if (!x || !x->name || !x->value) {
		if (x)
			xattr_free(m, x);
		else
			m->used -= size;
		return -ENOMEM;
	}
	if (size > 0)
		memcpy(x->value, value, size);
	*ret = x;
	return 0;
}

static int xattr_set(struct mem *m, struct inode *inode, const char *name, const void *value,
		     size_t size, int flags)
{
	struct xattr **p, *x, *old;
	size_t listed = strlen(name) + 1;
	int r;

	if (!xattr_supported(name))
		return -EOPNOTSUPP;
	if (size > XATTR_MAX)
		return -E2BIG;
	for (x = inode->xattrs; x; x = x->next)
		listed += strlen(x->name) + 1;
	p = xattr_place(inode, name);
	old = *p;
	if (old ? flags & XATTR_CREATE : flags & XATTR_REPLACE)
		return old ? -EEXIST : -ENODATA;
	if (!old && listed > XATTR_MAX)
		return -ENOSPC;
	r = xattr_new(m, name, value, size, &x);
	if (r < 0)
		return r;
	*p = x;
	if (old) {
		x->next = old->next;
		xattr_free(m, old);
	}
	inode->attr.ctime = now();
	return 0;
}

static void mem_setxattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			 const char *name, const void *value, size_t size_bytes, int flags)
{
	struct inode *inode = inode_of(conn, obj);

	finish(conn, op, inode ? xattr_set(conn, inode, name, value, size_bytes, flags) : -ESTALE);
}

static void mem_removexattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			    const char *name)
{
	struct inode *inode = inode_of(conn, obj);
	struct xattr **p, *x;

	if (!inode) {
		finish(conn, op, -ESTALE);
		return;
	}
	p = xattr_place(inode, name);
	x = *p;
	if (!x) {
		finish(conn, op, xattr_supported(name) ? -ENODATA : -EOPNOTSUPP);
		return;
	}
	*p = x->next;
	xattr_free(conn, x);
	inode->attr.ctime = now();
	finish(conn, op, 0);
}

/* ---- control ---- */

static void mem_disconnect(void *conn)
{
	struct mem *m = conn;

	cv_timer_cancel(m->loop, &m->timer);
	for (size_t b = 0; m->dentries && b <= m->dentries_mask; b++) {
		while (m->dentries[b]) {
			struct dentry *d = m->dentries[b];

			m->dentries[b] = d->next;
			free(d);
		}
	}
	for (size_t b = 0; m->inodes && b <= m->inodes_mask; b++) {
		while (m->inodes[b])
			inode_free(m, m->inodes[b]);
	}
	free(m->dentries);
	free(m->inodes);
	free(m->queue);
	free(m);
}

static void mem_stats(void *conn, struct cv_stats *ret_stats)
{
	const struct mem *m = conn;

	ret_stats->connected = true;
	ret_stats->in_flight = m->queued;
	ret_stats->bytes_read = m->bytes_read;
	ret_stats->bytes_written = m->bytes_written;
}

static int mem_connect(const struct cv_dict *options, struct cv_loop *loop, void **ret_conn,
		       struct cv_info *ret_info, struct cv_err *err)
{
	const struct cv_cred cred = { .uid = 0, .gid = 0 };
	struct mem *m = calloc(1, sizeof(*m));
	struct timespec ts = now();

	if (!m)
		return cv_fail(err, ENOMEM, "mem: out of memory");
	m->loop = loop;
	m->timer = (struct cv_timer)CV_TIMER_INIT(on_timer);
	m->async = strstr(cv_options_str(options, "path", ""), "async") ||
		   strcmp(cv_options_str(options, "host", ""), "async") == 0;
	m->limit = cv_options_uint(options, "size", DEFAULT_LIMIT);
	m->random = m->generation =
		hash_u64((uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec) | 1;
	m->next_ino = 1;
	m->inodes_mask = m->dentries_mask = BUCKETS_MIN - 1;
	m->inodes = calloc(BUCKETS_MIN, sizeof(struct inode *));
	m->dentries = calloc(BUCKETS_MIN, sizeof(struct dentry *));
	if (!m->inodes || !m->dentries ||
	    inode_new(m, NULL, &cred,
		      S_IFDIR | (uint32_t)(cv_options_uint(options, "mode", 0755) & 07777),
		      &m->root) < 0) {
		mem_disconnect(m);
		return cv_fail(err, ENOMEM, "mem: out of memory, or 'size' is too small");
	}
	m->root->attr.nlink = 2;
	memset(ret_info, 0, sizeof(*ret_info));
	ret_info->features =
		CV_FEAT_HANDLES | CV_FEAT_UNLINK_OPEN | CV_FEAT_HARD_LINKS | CV_FEAT_COPY;
	entry_fill(m, m->root, &ret_info->root);
	ret_info->read_max = ret_info->write_max = CV_MAX_IO;
	ret_info->readdir_max = 32768;
	ret_info->time_gran_ns = 1;
	(void)stpcpy(ret_info->server, m->async ? "memory, answers delayed" : "memory");
	*ret_conn = m;
	return 0;
}

const struct cv_backend cv_backend_mem = {
	.name = "mem",
	.connect = mem_connect,
	.disconnect = mem_disconnect,
	.stats = mem_stats,
	.lookup = mem_lookup,
	.getattr = mem_getattr,
	.setattr = mem_setattr,
	.readlink = mem_readlink,
	.mknod = mem_mknod,
	.mkdir = mem_mkdir,
	.symlink = mem_symlink,
	.link = mem_link,
	.unlink = mem_unlink,
	.rmdir = mem_rmdir,
	.rename = mem_rename,
	.open = mem_open,
	.create = mem_create,
	.release = mem_release,
	.read = mem_read,
	.write = mem_write,
	.fsync = mem_fsync,
	.fallocate = mem_fallocate,
	.lseek = mem_lseek,
	.copy = mem_copy,
	.opendir = mem_opendir,
	.releasedir = mem_release,
	.readdir = mem_readdir,
	.fsyncdir = mem_fsyncdir,
	.statfs = mem_statfs,
	.getxattr = mem_getxattr,
	.listxattr = mem_listxattr,
	.setxattr = mem_setxattr,
	.removexattr = mem_removexattr,
};
