/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings that are asked before anybody wants them, for both versions: the directories a walk
 * (walk.h) is expected to come by next. The first reply of each is kept, for the caller whose walk
 * it is, for two seconds, and handed out once.
 *
 * What is handed out is older than the question:
 *
 * - The worker is told how old (cv_op.age_ns) and believes it for so much less.
 * - Changes of our own are counted. A directory that one has changed since is asked again; of an
 *   object that one has changed since only the name is told.
 * - So is what the worker was told of an object by other means since it was asked, if it had not
 *   seen it before: of that object, too, only the name is told.
 * - What was seen of the directory just before it was asked must be what is seen of it later on:
 *   no listing is told to whom a newer state of the directory has been told.
 */
#include "backends/nfs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/nfs4.h"
#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"

#define LISTING_NS 2000000000ull
#define PLANNED_NS 30000000000ull /* planned costs nothing but memory */
#define PURGE_MS   1000

struct ahead_dir {
	struct cv_walk_dir walk;
	struct cv_handle handle;
	uint64_t hash;
	struct cv_cred cred;
	uint64_t change;	 /* cv_change(), as it was seen before it was asked */
	struct listing *listing; /* owned; NULL: not asked */
};

struct listing {
	struct cv_nfs *nfs;
	struct ahead_dir *dir; /* NULL: nobody expects it any more */
	struct cv_op op;
	struct cv_file file;
	struct cv_cred cred;
	uint64_t asked_ns;
	uint64_t clock; /* cv_nfs_ahead.clock when it was asked */
	bool pending;
	struct cv_op *waiting; /* somebody's readdir() of `to` */
	struct cv_file *to;
	struct cv_dirent *entries; /* owned */
	size_t count;
	bool eof;
};

static struct ahead_dir *dir_of(struct cv_walk_dir *d)
{
	return cv_container_of(d, struct ahead_dir, walk);
}

static uint64_t hash_of(const struct cv_handle *h)
{
	return cv_hash(0, h->data, h->size);
}

static bool same_cred(const struct cv_cred *a, const struct cv_cred *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->ngroups == b->ngroups &&
	       memcmp(a->groups, b->groups, a->ngroups * sizeof(a->groups[0])) == 0;
}

/* cred NULL: whosever it is. */
static struct ahead_dir *find(struct cv_nfs *nfs, const struct cv_handle *handle,
			      const struct cv_cred *cred)
{
	uint64_t hash = hash_of(handle);

	for (struct cv_walk_dir *w = nfs->ahead.walk.dirs; w; w = w->next) {
		struct ahead_dir *d = dir_of(w);

		if (d->hash == hash && cv_nfs_same_handle(&d->handle, handle) &&
		    (!cred || same_cred(&d->cred, cred)))
			return d;
	}
	return NULL;
}

/* ---- changes of our own ---- */

static size_t slot_of(const struct cv_handle *h)
{
	return hash_of(h) % CV_NFS_CHANGED;
}

static void touch(struct cv_nfs_ahead *a, const struct cv_handle *h)
{
	a->changed[slot_of(h)] = ++a->clock;
}

static bool is_touched(const struct cv_nfs_ahead *a, const struct cv_handle *h, uint64_t clock)
{
	return a->changed[slot_of(h)] > clock;
}

bool cv_nfs_ahead_touched(struct cv_nfs *nfs, const struct cv_handle *handle, uint64_t clock)
{
	return is_touched(&nfs->ahead, handle, clock);
}

void cv_nfs_ahead_changing(struct cv_nfs_req *q)
{
	struct cv_nfs_ahead *a = &q->nfs->ahead;

	if (!a->watched)
		return;
	switch ((int)q->op->call) {
	case CV_CALL_OPEN:
		if (!(q->flags & O_TRUNC))
			break;
		touch(a, &q->obj);
		break;
	case CV_CALL_SETATTR:
	case CV_CALL_WRITE:
	case CV_CALL_SETLK: /* who has the lock sees what was written by who had it */
		touch(a, &q->obj);
		break;
	case CV_CALL_CREATE:
		if (q->op->entry.handle.size) /* known when it is answered, and perhaps emptied */
			touch(a, &q->op->entry.handle);
		touch(a, &q->dir);
		break;
	case CV_CALL_MKNOD:
	case CV_CALL_MKDIR:
	case CV_CALL_SYMLINK:
		touch(a, &q->dir);
		break;
	case CV_CALL_LINK:
		touch(a, &q->obj);
		touch(a, &q->dir);
		break;
	case CV_CALL_RENAME:
		touch(a, &q->dir2);
		touch(a, &q->dir);
		a->unlinked = ++a->clock;
		break;
	case CV_CALL_UNLINK:
	case CV_CALL_RMDIR:
		touch(a, &q->dir);
		a->unlinked = ++a->clock;
		break;
	default:
		break;
	}
}

/* ---- what is told by other means ---- */

void cv_nfs_ahead_told(struct cv_nfs *nfs, const struct cv_handle *handle)
{
	struct cv_nfs_ahead *a = &nfs->ahead;

	if (a->watched)
		a->told[slot_of(handle)] = ++a->clock;
}

bool cv_nfs_ahead_told_since(struct cv_nfs *nfs, const struct cv_handle *handle, uint64_t clock)
{
	return nfs->ahead.told[slot_of(handle)] > clock;
}

/* ---- listings ---- */

static void listing_free(struct listing *l)
{
	l->nfs->ahead.watched--;
	free(l->entries);
	free(l);
}

/* Nobody expects it any more. */
static void listing_drop(struct listing *l)
{
	if (!l)
		return;
	l->dir = NULL;
	if (!l->pending)
		listing_free(l);
}

static void dir_drop(struct cv_nfs *nfs, struct ahead_dir *d)
{
	cv_walk_remove(&nfs->ahead.walk, &d->walk);
	listing_drop(d->listing);
	free(d);
}

static void ask(struct cv_nfs *nfs, struct cv_op *op, struct cv_file *file)
{
	if (nfs->v4)
		cv_nfs4_ask_readdir(nfs, op, file, 0);
	else
		cv_nfs_ask_readdir(nfs, op, file, 0);
}

static bool is_old(const struct listing *l)
{
	return cv_loop_now_ns(l->nfs->loop) - l->asked_ns > LISTING_NS ||
	       is_touched(&l->nfs->ahead, &l->file.handle, l->clock);
}

/* Answers op, which wants what is in file, and frees l. */
static void hand_out(struct listing *l, struct cv_op *op, struct cv_file *file)
{
	struct cv_nfs_ahead *a = &l->nfs->ahead;

	for (size_t i = 0; i < l->count; i++) {
		struct cv_dirent *d = &l->entries[i];
		bool linked = d->entry.attr.nlink > 1 && !S_ISDIR(d->entry.attr.mode);

		if (is_touched(a, &d->entry.handle, l->clock) ||
		    cv_nfs_ahead_told_since(l->nfs, &d->entry.handle, l->clock) ||
		    (linked && a->unlinked > l->clock))
			d->have_entry = false;
	}
	memcpy(file->verf, l->file.verf, sizeof(file->verf));
	file->reply_bytes = l->file.reply_bytes;
	op->dirents = l->entries;
	op->eof = l->eof;
	op->age_ns = cv_loop_now_ns(l->nfs->loop) - l->asked_ns;
	op->done(op, (ssize_t)l->count);
	listing_free(l);
}

static void listing_answered(struct cv_op *op, ssize_t result)
{
	struct listing *l = cv_container_of(op, struct listing, op);
	struct cv_nfs *nfs = l->nfs;
	struct cv_op *waiting = l->waiting;
	struct cv_file *to = l->to;

	l->pending = false;
	if (result >= 0 && (l->dir || waiting)) {
		l->entries = cv_dirents_dup(op->dirents, (size_t)result);
		l->count = (size_t)result;
		l->eof = op->eof;
	}
	if (waiting && l->entries && !is_touched(&nfs->ahead, &l->file.handle, l->clock)) {
		hand_out(l, waiting, to);
		return;
	}
	if (l->dir && l->entries)
		return;
	if (l->dir)
		dir_drop(nfs, l->dir);
	else
		listing_free(l);
	if (waiting)
		ask(nfs, waiting, to);
}

static struct listing *listing_new(struct cv_nfs *nfs, struct ahead_dir *d)
{
	struct listing *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	nfs->ahead.watched++;
	l->nfs = nfs;
	l->dir = d;
	l->cred = d->cred;
	l->asked_ns = cv_loop_now_ns(nfs->loop);
	l->clock = ++nfs->ahead.clock;
	l->pending = true;
	l->file.handle = d->handle;
	l->file.ahead = true;
	cv_op_init(&l->op, listing_answered, &l->cred);
	return l;
}

void cv_nfs_ahead_go(struct cv_nfs *nfs)
{
	struct cv_walk_dir *w;

	while ((w = cv_walk_next(&nfs->ahead.walk, cv_loop_now_ns(nfs->loop)))) {
		struct ahead_dir *d = dir_of(w);

		d->listing = listing_new(nfs, d);
		if (!d->listing) {
			dir_drop(nfs, d);
			return;
		}
		ask(nfs, &d->listing->op, &d->listing->file);
	}
}

/* ---- walks ---- */

static void purge(struct cv_timer *timer)
{
	struct cv_nfs_ahead *a = cv_container_of(timer, struct cv_nfs_ahead, purge);
	struct cv_nfs *nfs = cv_container_of(a, struct cv_nfs, ahead);
	uint64_t now = cv_loop_now_ns(nfs->loop);
	struct cv_walk_dir *next;

	for (struct cv_walk_dir *w = a->walk.dirs; w; w = next) {
		bool asked = w->state == CV_WALK_ASKED;

		next = w->next;
		/* What the server has not answered stays, so that no more is asked of it. */
		if (asked ? now - w->since_ns <= LISTING_NS || dir_of(w)->listing->pending
			  : now - w->since_ns <= PLANNED_NS)
			continue;
		if (asked)
			cv_walk_missed(&a->walk);
		dir_drop(nfs, dir_of(w));
	}
	if (a->walk.dirs)
		(void)cv_timer_set(nfs->loop, &a->purge, PURGE_MS);
}

static struct ahead_dir *plan(struct cv_nfs *nfs, const struct cv_entry *entry,
			      const struct cv_cred *cred, struct cv_walk_dir **at)
{
	struct ahead_dir *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->handle = entry->handle;
	d->hash = hash_of(&entry->handle);
	d->cred = *cred;
	d->change = cv_change(&entry->attr);
	cv_walk_add(&nfs->ahead.walk, &d->walk, CV_WALK_PLANNED, at, cv_loop_now_ns(nfs->loop));
	if (!nfs->ahead.purge.index)
		(void)cv_timer_set(nfs->loop, &nfs->ahead.purge, PURGE_MS);
	return d;
}

void cv_nfs_ahead_listed(struct cv_nfs_req *q, const struct cv_dirent *list, size_t count)
{
	const struct listing *l =
		q->data_dir->ahead ? cv_container_of(q->data_dir, struct listing, file) : NULL;
	struct cv_nfs *nfs = q->nfs;
	struct cv_walk *walk = &nfs->ahead.walk;
	struct cv_walk_dir **at;

	if (nfs->ahead.off)
		return;
	for (size_t i = 0; i < count && (walk->dirs || nfs->firsts.list); i++) {
		if (list[i].have_entry)
			cv_nfs_seen(nfs, &list[i].entry.handle, &list[i].entry.attr);
	}
	if (l && !l->dir && !l->waiting)
		return;
	at = l && l->dir ? &l->dir->walk.next : &walk->dirs;
	for (size_t i = 0; i < count && walk->planned < CV_WALK_PLANNED_MAX; i++) {
		struct ahead_dir *d;

		if (!list[i].have_entry || !S_ISDIR(list[i].entry.attr.mode) ||
		    find(nfs, &list[i].entry.handle, q->op->cred))
			continue;
		d = plan(nfs, &list[i].entry, q->op->cred, at);
		if (!d)
			break;
		at = &d->walk.next;
	}
	if (l)
		cv_nfs_ahead_go(nfs);
}

void cv_nfs_ahead_seen(struct cv_nfs *nfs, const struct cv_handle *handle,
		       const struct cv_attr *attr)
{
	struct ahead_dir *d = find(nfs, handle, NULL);

	if (!d || d->change == cv_change(attr))
		return;
	do
		dir_drop(nfs, d);
	while ((d = find(nfs, handle, NULL)));
}

bool cv_nfs_ahead_take(struct cv_nfs *nfs, struct cv_op *op, struct cv_file *file)
{
	struct ahead_dir *d = find(nfs, &file->handle, op->cred);
	struct listing *l;

	if (!d)
		return false;
	cv_walk_hit(&nfs->ahead.walk, cv_loop_now_ns(nfs->loop));
	l = cv_steal(&d->listing);
	dir_drop(nfs, d);
	if (l)
		l->dir = NULL;
	if (!l || is_old(l)) {
		listing_drop(l);
		return false;
	}
	if (l->pending) {
		l->waiting = op;
		l->to = file;
	} else {
		hand_out(l, op, file);
	}
	return true;
}

/* ---- life ---- */

void cv_nfs_ahead_init(struct cv_nfs *nfs, const struct cv_dict *options, uint32_t rtt_us)
{
	struct cv_nfs_ahead *a = &nfs->ahead;

	cv_walk_init(&a->walk, rtt_us, false);
	a->purge = (struct cv_timer)CV_TIMER_INIT(purge);
	a->off = !cv_walk_allowed(options);
}

void cv_nfs_ahead_stop(struct cv_nfs *nfs)
{
	struct cv_nfs_ahead *a = &nfs->ahead;

	a->off = true;
	cv_timer_cancel(nfs->loop, &a->purge);
	while (a->walk.dirs)
		dir_drop(nfs, dir_of(a->walk.dirs));
}
