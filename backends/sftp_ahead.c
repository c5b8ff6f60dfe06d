/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is asked before anybody wants to know, to save round trips:
 *
 * - Directories below a listing are opened and read while the worker is still busy with the
 *   listing: find, ls -R, du and grep -r come by next (walk.h).
 * - A directory in which several names had to be looked up one by one is listed; names are then
 *   looked up in that. A directory that we have just made is known to be empty. Whoever makes
 *   names there learns from it what is not there; whoever else looks for a name may have heard of
 *   it from another host, and the server is asked.
 * - On a far line, the beginning of a directory is read in the round trip that looks its name up:
 *   who follows a path wants the next name next, or the listing. That a name is a directory's is a
 *   guess, made less often when it was wrong.
 *
 * None of it is a cache in the sense of the worker's: everything is used once, and the worker told
 * how old it is, or for a second, which is at most what the kernel would believe the same answer,
 * and only until a change of our own. Nor does it take anybody back: of what the worker has been
 * told otherwise since, only the name is left.
 * File data and the attributes that open() brings are never taken from here. cache=strict turns it
 * off.
 */
#include "backends/sftp.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"

#define MS	   1000000ull
#define LISTING_NS (2000 * MS) /* a listing that was read ahead is good for as long */
#define LOOKUP_NS  (1000 * MS) /* names in one, at most; as the kernel's own negative entries */
#define PURGE_MS   1000
#define KEPT_NS	   (4000 * MS)
#define KNOWN_MAX  32 /* directories known for lookups */
#define UNSURE_MAX 2048
#define MISSES	   4 /* lookups in one directory before it is worth a listing */

/* A name in a known directory. */
struct known_name {
	const char *name;
	const struct cv_dirent *entry; /* NULL: we have changed it since; name is owned then */
};

struct sftp_known {
	struct cv_walk_dir walk; /* aside: for lookups; nothing known is older than since_ns */
	struct sftp_engine *e;
	char *path;
	uint64_t hash;
	/* NULL: planned; or aside, made by us: empty but for what we have put there. */
	struct sftp_listing *listing;
	void *names;	 /* tsearch(3) tree of struct known_name */
	unsigned unsure; /* names we have changed */
	unsigned hits;	 /* lookups answered */
	bool guessed;	 /* asked for along with the lookup of its own name */
	bool indexed;	 /* names has what the listing has */
};

static struct sftp_known *known_of(struct cv_walk_dir *walk)
{
	return cv_container_of(walk, struct sftp_known, walk);
}

static bool is_planned(const struct sftp_known *k)
{
	return k->walk.state == CV_WALK_PLANNED;
}

static bool is_aside(const struct sftp_known *k)
{
	return k->walk.state == CV_WALK_ASIDE;
}

static bool is_made(const struct sftp_known *k)
{
	return is_aside(k) && !k->listing;
}

/* Length of path's directory, and where its last component starts. "/" has none: 0. */
static size_t split(const char *path, const char **ret_name)
{
	const char *slash = strrchr(path, '/');

	if (!slash || !slash[1])
		return 0;
	*ret_name = slash + 1;
	return slash == path ? 1 : (size_t)(slash - path);
}

static bool is_at(const char *path, const char *dir, size_t n)
{
	return strncmp(path, dir, n) == 0 && path[n] == '\0';
}

/* ---- known directories ---- */

static struct sftp_known *known_find(struct sftp_engine *e, const char *dir, size_t n)
{
	uint64_t hash = cv_hash(0, dir, n);

	for (struct cv_walk_dir *w = e->ahead.walk.dirs; w; w = w->next) {
		struct sftp_known *k = known_of(w);

		if (k->hash == hash && is_at(k->path, dir, n))
			return k;
	}
	return NULL;
}

/* Enters one at *at; NULL: out of memory. */
static struct sftp_known *known_new(struct sftp_engine *e, const char *path,
				    enum cv_walk_state state, struct cv_walk_dir **at)
{
	struct sftp_known *k = calloc(1, sizeof(*k));

	if (k)
		k->path = strdup(path);
	if (!k || !k->path) {
		free(k);
		return NULL;
	}
	k->e = e;
	k->hash = cv_hash(0, path, strlen(path));
	cv_walk_add(&e->ahead.walk, &k->walk, state, at, cv_loop_now_ns(e->loop));
	if (!e->ahead.purge.index)
		(void)cv_timer_set(e->loop, &e->ahead.purge, PURGE_MS);
	return k;
}

static void name_free(void *p)
{
	struct known_name *n = p;

	if (!n->entry)
		free((char *)(uintptr_t)n->name);
	free(n);
}

static void known_drop(struct sftp_known *k)
{
	cv_walk_remove(&k->e->ahead.walk, &k->walk);
	tdestroy(k->names, name_free); /* before the entries it points to */
	if (k->listing)
		sftp_listing_release(k->listing);
	free(k->path);
	free(k);
}

void sftp_ahead_failed(struct sftp_known *k)
{
	known_drop(k);
}

static bool older(const struct sftp_known *k, uint64_t ns)
{
	return cv_loop_now_ns(k->e->loop) - k->walk.since_ns > ns;
}

static void purge(struct cv_timer *timer)
{
	struct sftp_ahead *a = cv_container_of(timer, struct sftp_ahead, purge);
	struct sftp_engine *e = cv_container_of(a, struct sftp_engine, ahead);
	struct cv_walk_dir *next;

	for (struct cv_walk_dir *w = a->walk.dirs; w; w = next) {
		struct sftp_known *k = known_of(w);

		next = w->next;
		if (!older(k, is_aside(k) ? KEPT_NS : LISTING_NS))
			continue;
		if (w->state == CV_WALK_ASKED)
			cv_walk_missed(&a->walk);
		known_drop(k);
	}
	if (a->walk.dirs)
		(void)cv_timer_set(e->loop, &a->purge, PURGE_MS);
}

static bool may_open(const struct sftp_engine *e)
{
	return e->link.state == SFTP_LINK_UP && !sftp_too_many_open(e);
}

/* ---- walks ---- */

static void walk_on(struct sftp_engine *e)
{
	struct cv_walk_dir *w;

	while (may_open(e) && (w = cv_walk_next(&e->ahead.walk, cv_loop_now_ns(e->loop)))) {
		struct sftp_known *k = known_of(w);

		k->listing = sftp_listing_open(e, k->path);
		if (!k->listing) {
			known_drop(k);
			return;
		}
		k->listing->known = k;
	}
}

/* Expects the directories in b to be visited next, from `at` on; returns where those behind go. */
static struct cv_walk_dir **plan(struct sftp_listing *l, const struct sftp_batch *b,
				 struct cv_walk_dir **at)
{
	struct sftp_engine *e = l->e;
	const char *dir = l->file->open.path;

	for (size_t i = 0; i < b->count && e->ahead.walk.planned < CV_WALK_PLANNED_MAX; i++) {
		const struct cv_dirent *d = &b->entries[i];
		cv_cleanup_free char *path = NULL;
		struct sftp_known *k;

		if (!S_ISDIR(d->mode))
			continue;
		path = cv_sprintf("%s%s%s", dir, dir[1] ? "/" : "", d->name);
		if (!path || known_find(e, path, strlen(path)))
			continue;
		k = known_new(e, path, CV_WALK_PLANNED, at);
		if (!k)
			break;
		at = &k->walk.next;
	}
	return at;
}

struct sftp_listing *sftp_ahead_take(struct sftp_engine *e, const char *path)
{
	struct sftp_known *k = known_find(e, path, strlen(path));
	struct cv_walk_dir **at = &e->ahead.walk.dirs;
	struct sftp_listing *l;

	if (!k || is_made(k))
		return NULL;
	if (!is_aside(k))
		cv_walk_hit(&e->ahead.walk, cv_loop_now_ns(e->loop));
	l = k->listing;
	/* What we have changed in it we would have to hide. */
	if (older(k, k->guessed ? e->ahead.lookup_ns : LISTING_NS) || k->unsure)
		l = NULL;
	if (l) {
		k->listing = NULL;
		l->known = NULL;
		l->brief = false;
		/* Only now it looks like a walk. */
		for (const struct sftp_batch *b = is_aside(k) ? l->head : NULL; b; b = b->next)
			at = plan(l, b, at);
	}
	known_drop(k);
	walk_on(e);
	return l;
}

/* ---- lookups ---- */

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct known_name *)a)->name, ((const struct known_name *)b)->name);
}

/* Returns the tree's entry of that name, new or not; NULL: out of memory. */
static struct known_name *name_enter(struct sftp_known *k, const char *name)
{
	struct known_name *n = calloc(1, sizeof(*n));
	struct known_name **found;

	if (!n)
		return NULL;
	n->name = name;
	found = tsearch(n, &k->names, compare_names);
	if (!found || *found != n)
		free(n);
	return found ? *found : NULL;
}

static void index_batch(struct sftp_known *k, const struct sftp_batch *b)
{
	for (size_t i = 0; i < b->count; i++) {
		struct known_name *n = name_enter(k, b->entries[i].name);

		if (n && n->name == b->entries[i].name)
			n->entry = &b->entries[i];
	}
}

void sftp_ahead_entries(struct sftp_listing *l, const struct sftp_batch *b)
{
	struct sftp_engine *e = l->e;
	struct sftp_known *k = l->known;

	if (e->ahead.off || !b)
		return;
	if (k && k->indexed)
		index_batch(k, b);
	if (!k || !is_aside(k)) {
		(void)plan(l, b, k ? &k->walk.next : &e->ahead.walk.dirs);
		walk_on(e);
	}
}

/* Returns the directory as it is known from now on, or NULL. */
static struct sftp_known *list_for_lookups(struct sftp_engine *e, const char *dir, size_t n)
{
	cv_cleanup_free char *path = strndup(dir, n);
	struct sftp_known *oldest = NULL;
	struct sftp_known *k = known_find(e, dir, n);
	unsigned count = 0;

	if (!path || !may_open(e))
		return NULL;
	if (k) /* planned, or not read to its end */
		known_drop(k);
	for (struct cv_walk_dir *w = e->ahead.walk.dirs; w; w = w->next) {
		if (w->state != CV_WALK_ASIDE)
			continue;
		count++;
		if (!oldest || w->since_ns < oldest->walk.since_ns)
			oldest = known_of(w);
	}
	if (count >= KNOWN_MAX)
		known_drop(oldest);
	k = known_new(e, path, CV_WALK_ASIDE, &e->ahead.walk.dirs);
	if (!k)
		return NULL;
	k->listing = sftp_listing_open(e, path);
	if (!k->listing) {
		known_drop(k);
		return NULL;
	}
	k->listing->known = k;
	return k;
}

/* A lookup goes to the server. Is that becoming a habit? */
static void missed(struct sftp_engine *e, const char *dir, size_t n)
{
	uint64_t now = cv_loop_now_ns(e->loop);
	uint64_t hash = cv_hash(0, dir, n);
	size_t at = 0;

	for (size_t i = 0; i < CV_ARRAY_SIZE(e->ahead.misses); i++) {
		if (e->ahead.misses[i].dir == hash) {
			at = i;
			break;
		}
		if (e->ahead.misses[i].since_ns < e->ahead.misses[at].since_ns)
			at = i;
	}
	if (e->ahead.misses[at].dir != hash ||
	    now - e->ahead.misses[at].since_ns > e->ahead.lookup_ns) {
		e->ahead.misses[at].dir = hash;
		e->ahead.misses[at].since_ns = now;
		e->ahead.misses[at].count = 0;
	}
	if (++e->ahead.misses[at].count == MISSES)
		(void)list_for_lookups(e, dir, n);
}

/* Reads the beginning of a directory that is likely to be entered, unless something is known. */
static void enter(struct sftp_engine *e, const char *path)
{
	size_t n = strlen(path);
	struct sftp_known *k = known_find(e, path, n);

	if (k && !is_planned(k))
		return;
	k = list_for_lookups(e, path, n);
	if (!k)
		return;
	k->guessed = true;
	k->listing->brief = true;
}

bool sftp_ahead_guess(struct sftp_engine *e, const char *path)
{
	struct sftp_ahead *a = &e->ahead;

	if (a->off || !a->walk.far || !sftp_link_foresees(&e->link) || !cv_guess_worth(&a->guess))
		return false;
	enter(e, path);
	return true;
}

void sftp_ahead_guessed(struct sftp_engine *e, const char *path, bool right)
{
	struct sftp_known *k = right ? NULL : known_find(e, path, strlen(path));

	cv_guess_was(&e->ahead.guess, right);
	if (k && k->guessed) /* what a link leads to */
		known_drop(k);
}

int sftp_ahead_lookup(struct sftp_engine *e, const char *path, bool making,
		      struct cv_attr *ret_attr)
{
	struct known_name key = { NULL, NULL };
	size_t n = split(path, &key.name);
	struct known_name **found;
	struct sftp_known *k;

	if (e->ahead.off || n == 0)
		return -EAGAIN;
	k = known_find(e, path, n);
	if (!k || is_planned(k)) {
		missed(e, path, n);
		return -EAGAIN;
	}
	if (older(k, e->ahead.lookup_ns)) {
		bool useful = k->hits > 0;

		known_drop(k);
		if (useful)
			(void)list_for_lookups(e, path, n);
		else
			missed(e, path, n);
		return -EAGAIN;
	}
	if (k->listing && !k->indexed) {
		k->indexed = true;
		for (const struct sftp_batch *b = k->listing->head; b; b = b->next)
			index_batch(k, b);
	}
	found = tfind(&key, &k->names, compare_names);
	if (found && (*found)->entry && (*found)->entry->have_entry) {
		*ret_attr = (*found)->entry->entry.attr;
		k->hits++;
		if (e->ahead.walk.far && S_ISDIR(ret_attr->mode))
			enter(e, path);
		return 0;
	}
	if (!found && k->guessed && !k->listing->eof && !k->listing->busy) {
		missed(e, path, n); /* the beginning is not enough */
		return -EAGAIN;
	}
	if (!making || found || !(is_made(k) || k->listing->eof))
		return -EAGAIN;
	k->hits++;
	return -ENOENT;
}

void sftp_ahead_made(struct sftp_engine *e, const char *path)
{
	struct sftp_known *k;

	if (e->ahead.off)
		return;
	k = known_find(e, path, strlen(path));
	if (k)
		known_drop(k);
	(void)known_new(e, path, CV_WALK_ASIDE, &e->ahead.walk.dirs);
}

/* ---- changes ---- */

/* Makes what is known of a name unsure. */
static void name_changed(struct sftp_known *k, const char *name)
{
	char *own = strdup(name);
	struct known_name *n = own ? name_enter(k, own) : NULL;

	if (n && n->name == own) {
		n->entry = NULL;
		k->unsure++;
		return;
	}
	if (n && n->entry) { /* known from the listing: from now on the name is ours */
		n->name = own;
		n->entry = NULL;
		k->unsure++;
		return;
	}
	free(own);
}

static void entry_changed(struct sftp_engine *e, const char *path)
{
	const char *name;
	size_t n = split(path, &name);
	struct sftp_known *k = n ? known_find(e, path, n) : NULL;

	if (n == 0)
		return;
	if (k && !is_planned(k)) {
		name_changed(k, name);
		if (!is_aside(k) || k->unsure > UNSURE_MAX)
			known_drop(k);
	}
	for (struct sftp_listing *l = e->listings; l; l = l->next) {
		if (!l->known && is_at(l->file->open.path, path, n))
			sftp_listing_outdated(l);
	}
}

void sftp_ahead_changed(struct sftp_engine *e, const char *path, bool names)
{
	struct cv_walk_dir *next;
	const char *name;
	size_t n = strlen(path);

	sftp_first_changed(e, path, names);
	if (!e->ahead.walk.dirs && !e->listings)
		return;
	entry_changed(e, path);
	if (!names)
		return;
	for (struct cv_walk_dir *w = e->ahead.walk.dirs; w; w = next) {
		struct sftp_known *k = known_of(w);

		next = w->next;
		if (strncmp(k->path, path, n) == 0 && (k->path[n] == '\0' || k->path[n] == '/'))
			known_drop(k);
	}
	/* The directory has other times now. */
	n = split(path, &name);
	if (n > 1) {
		cv_cleanup_free char *dir = strndup(path, n);

		if (dir)
			entry_changed(e, dir);
	}
}

/* ---- what is told ---- */

void sftp_ahead_told(struct sftp_engine *e, const char *path, const struct cv_attr *attr)
{
	const char *name;
	size_t n = split(path, &name);

	sftp_first_seen(e, path, attr);
	for (struct sftp_listing *l = n ? e->listings : NULL; l; l = l->next) {
		if (l->head && is_at(l->file->open.path, path, n))
			sftp_listing_told(l, name, attr);
	}
}

void sftp_ahead_listed(const struct sftp_listing *l, const struct cv_dirent *entries, size_t count)
{
	const char *path = l->file->open.path;

	sftp_first_listed(l->e, path, entries, count);
	for (struct sftp_listing *other = l->e->listings; other; other = other->next) {
		if (other == l || !other->head || strcmp(other->file->open.path, path) != 0)
			continue;
		for (size_t i = 0; i < count; i++) {
			if (entries[i].have_entry)
				sftp_listing_told(other, entries[i].name, &entries[i].entry.attr);
		}
	}
}

/* ---- life ---- */

void sftp_ahead_init(struct sftp_engine *e)
{
	uint64_t ttl_ms = cv_options_ms(&e->options, "attr_timeout", LOOKUP_NS / MS);

	cv_walk_init(&e->ahead.walk, e->link.session.rtt_us, true);
	e->ahead.purge = (struct cv_timer)CV_TIMER_INIT(purge);
	e->ahead.lookup_ns = ttl_ms < LOOKUP_NS / MS ? ttl_ms * MS : LOOKUP_NS;
	e->ahead.off = !cv_walk_allowed(&e->options);
}

void sftp_ahead_release(struct sftp_engine *e)
{
	cv_timer_cancel(e->loop, &e->ahead.purge);
	while (e->ahead.walk.dirs)
		known_drop(known_of(e->ahead.walk.dirs));
}
