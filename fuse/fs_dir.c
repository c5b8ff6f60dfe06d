/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings. The engine returns entries in batches of its own size; a batch is copied, because the
 * kernel's buffer may take less, and served from until it is used up. Where a batch is older than a
 * change of ours, its attributes must not reach the kernel: names go out alone then.
 *
 * The kernel keeps listings of remote directories, too, for as long as the directory's time stays
 * the same, and nothing is asked for them: the engine's directory is opened when the kernel comes
 * for entries. But a listing is also what brings attributes, all at once. So it is kept only until
 * the first attribute that came with it is to be checked again.
 */
#include "fuse/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"

/* Offsets of our own entries; an engine's are above 0 and practically never these. */
#define OFF_DOT	   0x7ffffffffffffff1ull
#define OFF_DOTDOT 0x7ffffffffffffff2ull
#define REPLY_MAX  (256u * 1024)

struct cv_listing {
	uint64_t start;	 /* offset the batch follows */
	uint64_t clock;	 /* cv_nodes.clock when it was asked for */
	uint64_t age_ns; /* how old the answer was then */
	size_t count;
	size_t position; /* where the last reply ended */
	bool eof;
	struct cv_dirent *entries; /* owned */
};

static struct cv_fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

void cv_listing_free(struct cv_listing *listing)
{
	if (listing)
		free(listing->entries);
	free(listing);
}

static struct cv_listing *listing_copy(const struct cv_dirent *entries, size_t count)
{
	struct cv_listing *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->entries = cv_dirents_dup(entries, count);
	if (!l->entries) {
		free(l);
		return NULL;
	}
	l->count = count;
	return l;
}

struct reply {
	struct cv_request *r;
	char *buf;
	size_t size; /* of buf */
	size_t used;
	uint32_t *nodes; /* lookups counted, taken back if the kernel does not take the reply */
	size_t nnodes;
};

static void believe_until(struct cv_fs *fs, struct cv_open *open, double ttl)
{
	uint64_t until = cv_loop_now_ns(fs->loop) + (uint64_t)(ttl * 1e9);

	if (open->believed_until_ns > until)
		open->believed_until_ns = until;
}

/* What was asked ahead of time is believed for so much less. */
static double remaining(double ttl, const struct cv_listing *l)
{
	double age = (double)l->age_ns / 1e9;

	return ttl > age ? ttl - age : 0;
}

/* Returns false when the entry does not fit. */
static bool add_plain(struct reply *rp, const char *name, uint64_t ino, uint32_t mode,
		      uint64_t next)
{
	struct cv_request *r = rp->r;
	struct fuse_entry_param e = { .attr = { .st_ino = ino, .st_mode = mode } };
	size_t n;

	if (r->plus)
		n = fuse_add_direntry_plus(r->req, rp->buf + rp->used, rp->size - rp->used, name,
					   &e, (off_t)next);
	else
		n = fuse_add_direntry(r->req, rp->buf + rp->used, rp->size - rp->used, name,
				      &e.attr, (off_t)next);
	if (n > rp->size - rp->used)
		return false;
	rp->used += n;
	return true;
}

static bool add_entry(struct reply *rp, const struct cv_listing *l, const struct cv_dirent *d)
{
	struct cv_request *r = rp->r;
	struct cv_fs *fs = r->fs;
	struct cv_node *dir = r->node;
	uint64_t ino = cv_node_ino(&fs->nodes, dir->id, d->name, d->ino);
	const struct cv_node *known = cv_node_find(&fs->nodes, dir->id, d->name);
	bool stale =
		dir->changed > l->clock ||
		(known && (known->changed > l->clock || known->landed > l->clock ||
			   (d->have_entry && cv_fs_told_else(known, &d->entry.attr, l->clock))));
	struct fuse_entry_param e;
	struct cv_node *node;
	size_t n;

	if (cv_fs_reserved(fs, dir, d->name))
		return true;
	if (!r->plus || !d->have_entry || stale)
		return add_plain(rp, d->name, ino, d->mode, d->next_off);
	/* Room first: a node entered for nothing would have to be forgotten again. */
	if (fuse_add_direntry_plus(r->req, NULL, 0, d->name, NULL, 0) > rp->size - rp->used)
		return false;
	node = cv_fs_entry(fs, dir, d->name, &d->entry, &e);
	if (!node)
		return add_plain(rp, d->name, ino, d->mode, d->next_off);
	if (node->changed > l->clock || node->landed > l->clock) {
		/* Another name of a file we have changed since (by handle). */
		cv_node_forget(&fs->nodes, node, 1);
		return add_plain(rp, d->name, ino, d->mode, d->next_off);
	}
	e.attr_timeout = e.entry_timeout = remaining(e.attr_timeout, l);
	n = fuse_add_direntry_plus(r->req, rp->buf + rp->used, rp->size - rp->used, d->name, &e,
				   (off_t)d->next_off);
	rp->used += n;
	rp->nodes[rp->nnodes++] = node->id;
	believe_until(fs, r->open, e.attr_timeout);
	cv_fs_know_dir(fs, node, &d->entry.attr, l->age_ns);
	return true;
}

static void fetch(struct cv_request *r, uint64_t off);

/* Position of the entry after off in the batch; count when it is the end; -1: not in it. */
static ssize_t listing_find(const struct cv_listing *l, uint64_t off)
{
	if (off == l->start)
		return 0;
	if (l->position && l->entries[l->position - 1].next_off == off)
		return (ssize_t)l->position;
	for (size_t i = 0; i < l->count; i++) {
		if (l->entries[i].next_off == off)
			return (ssize_t)i + 1;
	}
	return -1;
}

static void serve(struct cv_request *r)
{
	struct cv_fs *fs = r->fs;
	struct cv_listing *l = r->open->listing;
	uint64_t off = r->off;
	struct reply rp = { .r = r, .size = r->size < REPLY_MAX ? r->size : REPLY_MAX };
	const struct cv_node *parent;
	ssize_t at;

	if (!r->req) {
		cv_request_end(r);
		return;
	}
	rp.buf = malloc(rp.size);
	rp.nodes = malloc((rp.size / 32 + 1) * sizeof(*rp.nodes));
	if (!rp.buf || !rp.nodes) {
		cv_reply_err(r, -ENOMEM);
		goto out;
	}
	if (off == 0) {
		if (!add_plain(&rp, ".", r->node->record->ino, S_IFDIR, OFF_DOT))
			goto reply;
		off = OFF_DOT;
	}
	if (off == OFF_DOT) {
		parent = cv_node_get(&fs->nodes, r->node->record->parent);
		if (!add_plain(&rp, "..", parent ? parent->record->ino : r->node->record->ino,
			       S_IFDIR, OFF_DOTDOT))
			goto reply;
		off = OFF_DOTDOT;
	}
	if (off == OFF_DOTDOT)
		off = 0;
	at = l ? listing_find(l, off) : -1;
	if (at < 0 || ((size_t)at == l->count && !l->eof)) {
		/* The kernel decides by the first reply whether attributes are worth asking for: it
		 * has to bring some. Any other reply may be short, the kernel comes again. */
		if (rp.used && r->off != 0)
			goto reply;
		fetch(r, off);
		goto out;
	}
	cv_shm_undo_begin(&fs->shm, r->slot);
	while ((size_t)at < l->count && add_entry(&rp, l, &l->entries[at]))
		at++;
	l->position = (size_t)at;
	if ((size_t)at == l->count && l->eof) {
		/* Where the directory's time cannot show the next change, do not rely on it. */
		r->node->listed_until_ns =
			r->node->record->seen_change ? r->open->believed_until_ns : 0;
		r->node->listed_uid = r->cred.uid;
	}
	/* Everything that was left is hidden: do not report an end too early. */
	if (rp.used == 0 && (size_t)at == l->count && !l->eof) {
		r->off = l->entries[l->count - 1].next_off;
		fetch(r, r->off);
		goto out;
	}
reply:
	if (fuse_reply_buf(r->req, rp.buf, rp.used) < 0) {
		for (size_t i = 0; i < rp.nnodes; i++) {
			struct cv_node *node = cv_node_get(&fs->nodes, rp.nodes[i]);

			if (node)
				cv_node_forget(&fs->nodes, node, 1);
		}
	}
	r->req = NULL;
	cv_request_end(r);
out:
	free(rp.buf);
	free(rp.nodes);
}

static void fetched(struct cv_request *r, struct cv_listing *l, int err)
{
	struct cv_open *open = r->open;

	open->fetching = false;
	cv_open_hold(open);
	if (l) {
		cv_listing_free(open->listing);
		open->listing = l;
		serve(r);
	} else {
		cv_reply_err(r, err);
	}
	while (open->waiting && !open->fetching) {
		struct cv_request *next = open->waiting;

		open->waiting = next->queue_next;
		serve(next);
	}
	cv_open_put(open);
}

static void opened_late(struct cv_op *op, ssize_t result);

static void found_again(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_fs *fs = r->fs;
	const struct cv_object obj = { .nodeid = r->node->id, .handle = &r->found };

	if (result < 0 || !S_ISDIR(op->entry.attr.mode)) {
		fetched(r, NULL, result == -ENOENT ? -ENOENT : -ESTALE);
		return;
	}
	r->found = op->entry.handle;
	if (r->open->file)
		cv_releasedir(&fs->mount, r->open->file);
	r->open->file = NULL;
	cv_request_op(r, opened_late);
	cv_opendir(&fs->mount, &r->op, &obj);
}

/*
 * Another host has removed the directory, and perhaps made it again. After ESTALE the kernel looks
 * a path up anew, but not for a listing: that comes behind an open, which has asked nobody.
 */
static bool look_again(struct cv_request *r)
{
	struct cv_fs *fs = r->fs;
	struct cv_object dir, stale;
	struct cv_node *parent = cv_node_get(&fs->nodes, r->node->record->parent);

	if (r->fetch_off || r->looked_again || !fs->nodes.by_handle || !parent ||
	    cv_fs_object(fs, r->node, 1, &stale) < 0 || !stale.name ||
	    cv_fs_object(fs, parent, 0, &dir) < 0)
		return false;
	r->looked_again = true;
	cv_request_op(r, found_again);
	cv_lookup(&fs->mount, &r->op, &dir, stale.name);
	return true;
}

static void fetch_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_listing *l = result < 0 ? NULL : listing_copy(op->dirents, (size_t)result);

	if (result == -ESTALE && look_again(r))
		return;
	if (l) {
		l->start = r->fetch_off;
		l->clock = r->clock;
		l->age_ns = op->age_ns;
		l->eof = op->eof || result == 0;
	}
	fetched(r, l, result < 0 ? (int)result : -ENOMEM);
}

static void fetch_entries(struct cv_request *r)
{
	r->clock = r->fs->nodes.clock;
	cv_request_op(r, fetch_done);
	cv_readdir(&r->fs->mount, &r->op, r->open->file, r->fetch_off);
}

static void opened_late(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0) {
		fetched(r, NULL, (int)result);
		return;
	}
	r->open->file = op->file;
	fetch_entries(r);
}

static void fetch(struct cv_request *r, uint64_t off)
{
	struct cv_object obj;
	int err;

	if (r->open->fetching) {
		/* One at a time per handle; the kernel rarely asks for more. */
		struct cv_request **p = &r->open->waiting;

		while (*p)
			p = &(*p)->queue_next;
		r->queue_next = NULL;
		*p = r;
		return;
	}
	r->open->fetching = true;
	r->fetch_off = off;
	if (r->open->file) {
		fetch_entries(r);
		return;
	}
	err = cv_fs_object(r->fs, r->node, 0, &obj);
	if (err < 0) {
		fetched(r, NULL, err);
		return;
	}
	cv_request_op(r, opened_late);
	cv_opendir(&r->fs->mount, &r->op, &obj);
}

static void read_dir(fuse_req_t req, size_t size, off_t off, struct fuse_file_info *fi, bool plus)
{
	struct cv_request *r = cv_request_on_open(req, fi, true);

	if (!r)
		return;
	r->size = size;
	r->off = (uint64_t)off;
	r->plus = plus;
	/* A directory read again from its start shows what is there now. */
	if (off == 0 && !r->open->fetching) {
		r->open->believed_until_ns = UINT64_MAX;
		cv_listing_free(r->open->listing);
		r->open->listing = NULL;
	}
	serve(r);
}

void cv_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		   struct fuse_file_info *fi)
{
	(void)ino;
	read_dir(req, size, off, fi, false);
}

void cv_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	(void)ino;
	read_dir(req, size, off, fi, true);
}

static void opened(struct cv_request *r, struct cv_file *file)
{
	struct cv_fs *fs = r->fs;
	struct cv_open *open = cv_open_new(r, r->node, file, 0, true);

	if (!open) {
		if (file)
			cv_releasedir(&fs->mount, file);
		cv_reply_err(r, -ENFILE);
		return;
	}
	r->fi.fh = cv_open_fh(open);
	if (!r->req || fuse_reply_open(r->req, &r->fi) < 0)
		cv_open_free(fs, open);
	r->req = NULL;
	cv_request_end(r);
}

static void opendir_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0)
		cv_reply_err(r, (int)result);
	else
		opened(r, op->file);
}

/* Is the listing that the kernel may have good for this caller? What a server that decides by the
 * caller has shown to one is not for another. */
static bool kept_listing(const struct cv_request *r)
{
	const struct cv_fs *fs = r->fs;

	return r->node->listed_until_ns > cv_loop_now_ns(fs->loop) &&
	       (!(fs->mount.info.features & CV_FEAT_CALLER_CREDS) ||
		r->node->listed_uid == r->cred.uid);
}

void cv_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, ino);
	struct cv_object obj;
	int err;

	if (!r)
		return;
	r->fi = *fi;
	r->fi.cache_readdir = !r->fs->local && r->fs->ttl_dir_max_ms > 0;
	r->fi.keep_cache = r->fi.cache_readdir && kept_listing(r);
	cv_counters_cache(r->fs->mount.counters, CV_CACHE_LISTING, r->fi.keep_cache);
	if (r->fi.keep_cache) {
		opened(r, NULL);
		return;
	}
	err = cv_fs_object(r->fs, r->node, 0, &obj);
	if (err < 0) {
		cv_reply_err(r, err);
		return;
	}
	cv_request_op(r, opendir_done);
	cv_opendir(&r->fs->mount, &r->op, &obj);
}

static void releasedir_go(struct cv_request *r)
{
	cv_open_free(r->fs, r->closing);
	cv_reply_err(r, 0);
}

void cv_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_on_release(req, fi, true);
	struct cv_open *open;

	(void)ino;
	if (!r)
		return;
	open = r->open;
	r->open = NULL;
	open->users--;
	cv_open_close(r, open, releasedir_go);
}

static void fsyncdir_done(struct cv_op *op, ssize_t result)
{
	/* Engines without it change directories synchronously. */
	cv_reply_err(cv_request_of(op), result == -ENOSYS ? 0 : (int)result);
}

void cv_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct cv_request *r = cv_request_on_open(req, fi, true);

	(void)ino;
	if (!r)
		return;
	/* Not opened yet: a remote directory, whose changes are the server's when they are
	 * answered.
	 */
	if (!r->open->file) {
		cv_reply_err(r, 0);
		return;
	}
	cv_request_op(r, fsyncdir_done);
	cv_fsyncdir(&r->fs->mount, &r->op, r->open->file, datasync);
}
