/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The beginning of a file, read along with its OPEN: a small file then costs one round trip from
 * open to close. The server works in order, so these bytes are younger than the open that asked for
 * them and than the attributes it brings: what close-to-open promises. They answer one read, soon,
 * and none after a change of our own. Nor when the file was opened again since, or other attributes
 * of it were told: the kernel's pages are shared, and theirs are younger than these bytes.
 */
#include "backends/sftp.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "config/str.h"

#define FIRST_SIZE (64 * 1024) /* what the kernel asks for at once of a file up to this size */
#define FIRST_MAX  32
#define GOOD_NS	   1000000000ull

struct sftp_first {
	struct sftp_engine *e;
	struct sftp_first *next;
	struct sftp_first **link;
	struct cv_file *file; /* NULL: not open yet */
	uint64_t path;	      /* hash */
	uint64_t since_ns;
	struct sftp_open foreseen;
	struct sftp_request req;
	uint64_t size; /* these came with it, once there is a file */
	uint32_t mtime;
	bool pending;
	bool dropped; /* goes when it is answered */
	bool bad;
	size_t got;
	struct cv_op *op; /* waits */
	size_t wanted;	  /* by op */
	uint8_t data[FIRST_SIZE];
};

static uint64_t hash_of(const char *path)
{
	return cv_hash(0, path, strlen(path));
}

static void first_free(struct sftp_first *f)
{
	*f->link = f->next;
	if (f->next)
		f->next->link = f->link;
	if (f->file)
		f->file->first = NULL;
	f->e->firsts_count--;
	free(f);
}

void sftp_first_drop(struct sftp_first *f)
{
	if (!f || f->dropped)
		return;
	f->dropped = true;
	cv_guess_was(&f->e->firsts_guess, false);
	if (f->file)
		f->file->first = NULL;
	f->file = NULL;
	if (!f->pending)
		first_free(f);
}

static bool too_old(const struct sftp_first *f)
{
	return cv_loop_now_ns(f->e->loop) - f->since_ns > GOOD_NS;
}

/* Those of files that stay open and are not read, e.g. since the kernel has their pages. */
static void drop_old(struct sftp_engine *e)
{
	struct sftp_first *next;

	for (struct sftp_first *f = e->firsts; f; f = next) {
		next = f->next;
		if (f->file && !f->pending && too_old(f))
			sftp_first_drop(f);
	}
}

static bool worth(struct sftp_engine *e)
{
	if (e->firsts_count >= FIRST_MAX)
		drop_old(e);
	if (e->ahead.off || e->firsts_count >= FIRST_MAX || !sftp_link_foresees(&e->link))
		return false;
	return cv_guess_worth(&e->firsts_guess);
}

struct sftp_open *sftp_first_new(struct sftp_engine *e, const char *path,
				 struct sftp_first **ret_first)
{
	struct sftp_first *f = worth(e) ? malloc(sizeof(*f)) : NULL;

	if (!f)
		return NULL;
	memset(f, 0, offsetof(struct sftp_first, data));
	f->e = e;
	f->path = hash_of(path);
	f->since_ns = cv_loop_now_ns(e->loop);
	f->next = e->firsts;
	f->link = &e->firsts;
	if (f->next)
		f->next->link = &f->next;
	e->firsts = f;
	e->firsts_count++;
	*ret_first = f;
	return &f->foreseen;
}

/* Answers op, if what has come is what it wants. */
static bool answer(struct sftp_first *f, struct cv_op *op, size_t size)
{
	const struct sftp_open *open = &f->file->open;
	/* All it wants, or all there is. */
	bool whole = size <= f->got || (f->got < FIRST_SIZE && f->got >= open->size_seen);

	if (f->bad || !whole || !sftp_open_same(&f->foreseen, open))
		return false;
	cv_guess_was(&f->e->firsts_guess, true);
	f->file->first = NULL;
	f->file = NULL;
	op->data = f->data;
	op->done(op, (ssize_t)(size < f->got ? size : f->got));
	first_free(f);
	return true;
}

static void first_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_first *f = req->owner;
	struct cv_op *op = f->op;
	struct cv_file *file = f->file;

	f->pending = false;
	f->op = NULL;
	f->got = reply->error ? 0 : reply->size;
	f->bad = f->bad || (reply->error && reply->error != -ENODATA);
	if (f->dropped) {
		first_free(f);
	} else if (op && !answer(f, op, f->wanted)) {
		struct sftp_engine *e = f->e;
		size_t wanted = f->wanted;

		sftp_first_drop(f);
		sftp_op_read(e, op, file, wanted, 0);
	}
}

void sftp_first_ask(struct sftp_first *f)
{
	f->pending = true;
	f->req.type = CV_FXP_READ;
	f->req.open = &f->foreseen;
	f->req.size = FIRST_SIZE;
	f->req.dest = f->data;
	f->req.owner = f;
	f->req.done = first_done;
	sftp_link_submit(&f->e->link, &f->req);
}

void sftp_first_give(struct sftp_first *f, struct cv_file *file)
{
	f->size = file->open.size_seen;
	f->mtime = file->open.mtime_seen;
	f->file = file;
	file->first = f;
}

/* Those that are not open yet are still to bring younger ones. */
static void compare(struct sftp_first *f, const struct cv_attr *attr)
{
	f->bad = f->bad || f->size != attr->size || (time_t)f->mtime != attr->mtime.tv_sec;
}

void sftp_first_seen(struct sftp_engine *e, const char *path, const struct cv_attr *attr)
{
	uint64_t hash = e->firsts ? hash_of(path) : 0;

	for (struct sftp_first *f = e->firsts; f; f = f->next) {
		if (f->file && f->path == hash)
			compare(f, attr);
	}
}

void sftp_first_listed(struct sftp_engine *e, const char *dir, const struct cv_dirent *entries,
		       size_t count)
{
	size_t n = dir[1] ? strlen(dir) : 0;

	for (struct sftp_first *f = e->firsts; f; f = f->next) {
		const char *path = f->file ? f->file->open.path : "";

		if (strncmp(path, dir, n) != 0 || path[n] != '/')
			continue;
		for (size_t i = 0; i < count; i++) {
			if (entries[i].have_entry && strcmp(path + n + 1, entries[i].name) == 0)
				compare(f, &entries[i].entry.attr);
		}
	}
}

void sftp_first_opened(struct sftp_engine *e, const char *path)
{
	uint64_t hash = e->firsts ? hash_of(path) : 0;

	for (struct sftp_first *f = e->firsts; f; f = f->next)
		f->bad = f->bad || (f->file && f->path == hash);
}

bool sftp_first_read(struct cv_file *file, struct cv_op *op, size_t size, uint64_t off)
{
	struct sftp_first *f = file->first;

	if (!f || f->op)
		return false;
	if (off != 0 || f->bad || too_old(f)) {
		sftp_first_drop(f);
		return false;
	}
	if (f->pending) {
		f->op = op;
		f->wanted = size;
		return true;
	}
	if (answer(f, op, size))
		return true;
	sftp_first_drop(f);
	return false;
}

void sftp_first_changed(struct sftp_engine *e, const char *path, bool names)
{
	uint64_t hash = e->firsts ? hash_of(path) : 0;

	for (struct sftp_first *f = e->firsts; f; f = f->next)
		f->bad = f->bad || names || f->path == hash;
}
