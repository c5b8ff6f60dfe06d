/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings. SFTP gives names with their attributes, about a hundred in an answer, and no way to
 * start anywhere but at the beginning. An offset is made of the name it follows: going back, or on
 * after a reconnect has cost the handle, means opening the directory again and passing over all up
 * to that name, whatever came or went before it. If that name itself is gone, all is listed again:
 * what was not removed meanwhile is then seen twice, which is better than not at all. Answers are
 * asked for before anybody wants them: two READDIRs go along with an OPENDIR where its handle can
 * be foreseen, else behind it, the second mostly to hear that there is no more. sftp_ahead.c opens
 * directories nobody has asked for yet.
 */
#include "backends/sftp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"

#define REOPEN_MAX 16 /* for one answer to the worker; then there is no use in it */
#define AHEAD_MAX  8  /* answers kept for who may come to fetch them */

static void pump(struct sftp_listing *l);
static void deliver(struct sftp_listing *l);

/* ---- batches ---- */

static uint64_t off_after(const char *name)
{
	return cv_hash(0, name, strlen(name)) >> 2 | 1;
}

static struct sftp_batch *batch_parse(struct sftp_listing *l, struct sftp_reply *reply)
{
	struct cv_sftp_in in = { reply->body, reply->size, false };
	uint32_t count = cv_sftp_get_count(&in);
	struct sftp_batch *b;
	char *names;

	/* A name takes more than its length and terminator in the answer. */
	b = malloc(sizeof(*b) + count * sizeof(b->entries[0]) + reply->size);
	if (!b)
		return NULL;
	memset(b, 0, sizeof(*b));
	names = (char *)&b->entries[count];
	for (uint32_t i = 0; i < count; i++) {
		struct cv_dirent *d = &b->entries[b->count];
		struct cv_sftp_name name;
		int r;

		cv_sftp_get_name(&in, &name);
		if (in.bad) {
			free(b);
			return NULL;
		}
		if (!cv_sftp_name_ok(name.name, name.name_len)) {
			if (name.name_len > 2 || name.name_len == 0 || name.name[0] != '.')
				cv_debug("sftp: the server lists a name that is none");
			continue;
		}
		memset(d, 0, sizeof(*d));
		d->name = memcpy(names, name.name, name.name_len);
		names[name.name_len] = '\0';
		names += name.name_len + 1;
		d->next_off = off_after(d->name);
		r = -ENOENT;
		if (!sftp_stands_for_other(l->e, &name.attrs))
			r = sftp_attr(l->e, &name.attrs,
				      cv_sftp_longname_nlink(name.longname, name.longname_len,
							     name.attrs.permissions),
				      &d->entry.attr);
		if (r == -EAGAIN)
			sftp_names_want(l->e, &name.attrs);
		d->have_entry = r == 0;
		d->mode = r == 0 || r == -EAGAIN ? d->entry.attr.mode : 0;
		b->count++;
	}
	return b;
}

static void batches_drop(struct sftp_listing *l)
{
	struct sftp_batch *b;

	while ((b = l->head)) {
		l->head = b->next;
		free(b);
	}
	l->tail = &l->head;
	l->buffered = 0;
	free(l->current);
	l->current = NULL;
}

static void names_only(struct sftp_batch *b)
{
	for (size_t i = 0; i < b->count; i++)
		b->entries[i].have_entry = false;
}

void sftp_listing_outdated(struct sftp_listing *l)
{
	for (struct sftp_batch *b = l->head; b; b = b->next)
		names_only(b);
	l->outdated |= l->busy;
}

static bool same_attr(const struct cv_attr *a, const struct cv_attr *b)
{
	return a->size == b->size && a->mtime.tv_sec == b->mtime.tv_sec && a->mode == b->mode &&
	       a->uid == b->uid && a->gid == b->gid;
}

void sftp_listing_told(struct sftp_listing *l, const char *name, const struct cv_attr *attr)
{
	uint64_t off = off_after(name);

	for (struct sftp_batch *b = l->head; b; b = b->next) {
		for (size_t i = 0; i < b->count; i++) {
			struct cv_dirent *d = &b->entries[i];

			if (d->next_off == off && strcmp(d->name, name) == 0)
				d->have_entry = d->have_entry && same_attr(&d->entry.attr, attr);
		}
	}
}

/* ---- life ---- */

static void listing_free(struct sftp_listing *l)
{
	batches_drop(l);
	*l->link = l->next;
	if (l->next)
		l->next->link = l->link;
	sftp_file_free(l->e, l->file);
	free(l);
}

/* Requests in flight point into the listing and to its handle: it stays until they are answered. */
static bool listing_unused(struct sftp_listing *l)
{
	if (!l->released || l->busy || l->opening)
		return false;
	listing_free(l);
	return true;
}

void sftp_listing_release(struct sftp_listing *l)
{
	l->released = true;
	l->known = NULL;
	(void)listing_unused(l);
}

static void close_handle(struct sftp_listing *l)
{
	struct sftp_open *open = &l->file->open;

	sftp_link_close_handle(&l->e->link, &open->handle, open->generation);
	open->generation = 0;
	open->handle.size = 0;
}

static void on_opened(struct sftp_request *req, struct sftp_reply *reply);
static void ask_along(struct sftp_listing *l);

static void open_again(struct sftp_listing *l)
{
	char *path = strdup(l->file->open.path); /* that one changes with a rename */

	close_handle(l);
	batches_drop(l);
	l->discard = l->busy; /* answers to what was asked of the handle before */
	l->delivered = 0;
	l->passing = l->off != 0 && !l->whole;
	l->eof = false;
	l->error = path ? 0 : -ENOMEM;
	if (!path)
		return;
	l->opening = true;
	memset(&l->open_req, 0, sizeof(l->open_req));
	l->open_req.type = CV_FXP_OPENDIR;
	l->open_req.path = path;
	l->open_req.foreseen = l->early ? NULL : &l->foreseen;
	l->open_req.done = on_opened;
	sftp_link_submit(&l->e->link, &l->open_req);
	if (l->open_req.foreseen && sftp_link_foresees(&l->e->link))
		ask_along(l);
}

struct sftp_listing *sftp_listing_open(struct sftp_engine *e, const char *path)
{
	static const struct sftp_handle none = { 0 };
	struct sftp_listing *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->file = sftp_file_new(e, path, 0, &none, 0);
	if (!l->file) {
		free(l);
		return NULL;
	}
	l->file->open.is_dir = true;
	l->file->listing = l;
	l->e = e;
	l->tail = &l->head;
	l->next = e->listings;
	l->link = &e->listings;
	if (l->next)
		l->next->link = &l->next;
	e->listings = l;
	open_again(l);
	return l;
}

/* ---- answers to the worker ---- */

static void answer_opendir(struct sftp_listing *l, int error)
{
	struct cv_op *op = l->opendir;

	l->opendir = NULL;
	if (!op)
		return;
	if (error)
		sftp_listing_release(l);
	else
		op->file = l->file;
	op->done(op, error);
}

static void answer_readdir(struct sftp_listing *l, ssize_t result)
{
	struct cv_op *op = l->readdir;

	l->readdir = NULL;
	op->done(op, result); /* may release the directory */
}

void sftp_listing_give(struct sftp_listing *l, struct cv_op *op)
{
	l->known = NULL;
	l->opendir = op;
	if (!l->opening)
		answer_opendir(l, l->error);
}

/* How many entries of the batch the worker has had already. */
static size_t passed(struct sftp_listing *l, const struct sftp_batch *b)
{
	size_t i = 0;

	while (l->passing && i < b->count)
		l->passing = b->entries[i++].next_off != l->off;
	return i;
}

/* Its handle went with its connection. Who waits for the server waits however often it goes. */
static bool may_open_again(struct sftp_listing *l)
{
	const struct sftp_link *link = &l->e->link;

	if (!link->soft && l->reopened_over != link->generation) {
		l->reopened_over = link->generation;
		l->reopened = 0;
	}
	return l->reopened++ < REOPEN_MAX;
}

/* Answers the waiting readdir, if that can be done now. */
static void deliver(struct sftp_listing *l)
{
	while (l->readdir && l->head) {
		struct sftp_batch *b = l->head;
		size_t skipped = passed(l, b);

		l->head = b->next;
		if (!l->head)
			l->tail = &l->head;
		l->buffered--;
		free(l->current);
		l->current = b;
		if (skipped == b->count)
			continue;
		l->delivered = b->entries[b->count - 1].next_off;
		l->readdir->dirents = b->entries + skipped;
		if (l->readdir->begun_ns > b->asked_ns)
			l->readdir->age_ns = l->readdir->begun_ns - b->asked_ns;
		sftp_ahead_listed(l, l->readdir->dirents, b->count - skipped);
		pump(l);
		answer_readdir(l, (ssize_t)(b->count - skipped));
		return;
	}
	if (!l->readdir || l->opening || (l->busy & ~l->discard))
		return;
	if (l->eof && l->passing) {
		l->whole = true;
		open_again(l);
		if (!l->opening)
			answer_readdir(l, l->error);
	} else if (l->eof) {
		l->readdir->eof = true;
		answer_readdir(l, 0);
	} else if (l->error == -ESTALE && may_open_again(l)) {
		open_again(l);
		if (!l->opening)
			answer_readdir(l, l->error);
	} else if (l->error) {
		answer_readdir(l, l->error);
	} else {
		pump(l);
	}
}

/* ---- asking ---- */

static void on_opened(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_listing *l = cv_container_of(req, struct sftp_listing, open_req);
	int error = reply->error;

	free(req->path);
	l->opening = false;
	if (error == 0)
		sftp_open_take(&l->file->open, reply, l->e->link.generation);
	if (listing_unused(l))
		return;
	/* "failure" is for what is no directory; servers that know better say so. */
	l->error = error == -EIO && reply->status == CV_FX_FAILURE ? -ENOTDIR : error;
	if (l->known && l->error) {
		sftp_ahead_failed(l->known);
		return;
	}
	pump(l);
	if (l->opendir)
		answer_opendir(l, l->error);
	else
		deliver(l);
}

/*
 * What was asked along with the OPENDIR of l went to another handle than that one's. If it was an
 * open directory's, its reader has lost entries by it, and has to start again.
 */
static void astray(const struct sftp_listing *l)
{
	for (struct sftp_listing *other = l->e->listings; other; other = other->next) {
		const struct sftp_open *open = &other->file->open;

		if (other == l || other->eof || open->generation != l->e->link.generation ||
		    open->handle.size != l->foreseen.handle.size ||
		    memcmp(open->handle.data, l->foreseen.handle.data, open->handle.size) != 0)
			continue;
		if (other->known) {
			sftp_ahead_failed(other->known);
		} else {
			other->error = -ESTALE;
			deliver(other);
		}
		return; /* a handle has one owner */
	}
}

static void on_entries(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_listing *l = req->owner;
	unsigned bit = 1u << (req - l->slots);
	bool early = l->early & bit;
	bool mine = !early || sftp_open_same(&l->foreseen, &l->file->open);
	struct sftp_batch *b = NULL;

	/* Answers another directory's reader, who may release this one: it is still busy. */
	if (!mine && (reply->type == CV_FXP_NAME || reply->status == CV_FX_EOF))
		astray(l);
	l->busy &= ~bit;
	l->early &= ~bit;
	if (listing_unused(l))
		return;
	if (l->discard & bit) {
		l->discard &= ~bit;
	} else if (!mine) {
		/* Asked again below. */
	} else if (reply->error == -ENODATA && !l->error) {
		l->eof = true;
		close_handle(l);
	} else if (reply->error) {
		if (!l->eof && !l->error)
			l->error = reply->error;
	} else if (!(b = batch_parse(l, reply))) {
		l->error = -EIO;
	} else {
		b->asked_ns = l->asked_ns[req - l->slots];
		*l->tail = b;
		l->tail = &b->next;
		l->buffered++;
		if (l->outdated & bit)
			names_only(b);
	}
	l->outdated &= ~bit;
	sftp_ahead_entries(l, b);
	if (l->known && l->error) {
		sftp_ahead_failed(l->known);
		return;
	}
	pump(l);
	deliver(l);
}

/* Only OpenSSH is known to answer several READDIRs of one handle in their order. */
static unsigned depth(const struct sftp_listing *l)
{
	return l->e->link.session.openssh ? SFTP_READDIRS : 1;
}

static void ask(struct sftp_listing *l, unsigned i, struct sftp_open *open)
{
	struct sftp_request *req = &l->slots[i];

	memset(req, 0, sizeof(*req));
	req->type = CV_FXP_READDIR;
	req->open = open;
	req->owner = l;
	req->done = on_entries;
	l->busy |= 1u << i;
	l->asked_ns[i] = cv_now_ns();
	sftp_link_submit(&l->e->link, req);
}

static void ask_along(struct sftp_listing *l)
{
	for (unsigned i = 0; i < depth(l); i++) {
		if (l->busy & (1u << i))
			continue;
		l->early |= 1u << i;
		ask(l, i, &l->foreseen);
	}
}

static void pump(struct sftp_listing *l)
{
	for (unsigned i = 0; i < depth(l); i++) {
		if (l->busy & (1u << i))
			continue;
		if (l->opening || l->brief || l->eof || l->error || l->buffered >= AHEAD_MAX ||
		    l->file->open.handle.size == 0)
			return;
		ask(l, i, &l->file->open);
	}
}

/* ---- operations ---- */

void sftp_op_opendir(void *conn, struct cv_op *op, const struct cv_object *dir)
{
	struct sftp_engine *e = conn;
	cv_cleanup_free char *path = sftp_path(e, dir->path, NULL);
	struct sftp_listing *l;

	if (!path) {
		op->done(op, -ENOMEM);
		return;
	}
	l = sftp_ahead_take(e, path);
	if (!l)
		l = sftp_listing_open(e, path);
	if (l)
		sftp_listing_give(l, op);
	else
		op->done(op, -ENOMEM);
}

void sftp_op_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off)
{
	struct sftp_listing *l = dir->listing;

	(void)conn;
	l->readdir = op;
	l->off = off;
	l->reopened = 0;
	l->whole = false;
	if (off != l->delivered || (off == 0 && l->started))
		open_again(l);
	l->started = true;
	deliver(l);
}

void sftp_op_releasedir(void *conn, struct cv_file *dir)
{
	(void)conn;
	sftp_listing_release(dir->listing);
}

void sftp_op_fsyncdir(void *conn, struct cv_op *op, struct cv_file *dir, bool datasync)
{
	(void)conn;
	(void)dir;
	(void)datasync;
	op->done(op, 0); /* the protocol has nothing for it; the server has the change */
}
