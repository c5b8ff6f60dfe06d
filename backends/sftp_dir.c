/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings. SFTP gives names with their attributes, about a hundred in an answer, and no way to
 * start anywhere but at the beginning: an offset is the number of entries before it, and going back
 * (or on, after a reconnect has cost the handle) means opening the directory again and passing over
 * as many.
 */
#include "backends/sftp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/log.h"

#define REOPEN_MAX 16 /* in one answer to the worker; then the connection is of no use */

struct sftp_listing {
	uint64_t position;  /* entries delivered by the handle as it is open now */
	uint64_t delivered; /* next_off of the last entry handed out: "." and ".." may follow it */
	bool eof;
	struct cv_dirent *entries; /* of the last answer; owned */
	char *names;		   /* owned */
};

struct listing_call {
	struct sftp_request req;
	struct sftp_engine *e;
	struct cv_op *op;
	struct cv_file *dir;
	uint64_t off; /* what the worker wants to go on after */
	unsigned reopened;
};

static void listing_release(struct sftp_listing *l)
{
	if (!l)
		return;
	free(l->entries);
	free(l->names);
	free(l);
}

static void call_end(struct listing_call *c, ssize_t result)
{
	struct cv_op *op = c->op;

	free(c);
	op->done(op, result);
}

static void send_readdir(struct listing_call *c);
static void send_opendir(struct listing_call *c);

/* Takes an answer apart into l->entries. Returns how many are wanted, or -errno. */
static ssize_t take_entries(struct listing_call *c, struct sftp_reply *reply)
{
	struct cv_sftp_in in = { reply->body, reply->size, false };
	struct sftp_listing *l = c->dir->listing;
	uint32_t count = cv_sftp_get_count(&in);
	size_t n = 0, used = 0;

	free(l->entries);
	free(l->names);
	l->entries = calloc(count + 1, sizeof(*l->entries));
	l->names = malloc(reply->size + count + 1);
	if (!l->entries || !l->names)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		struct cv_dirent *d = &l->entries[n];
		struct cv_sftp_name name;

		cv_sftp_get_name(&in, &name);
		if (in.bad)
			return -EIO;
		l->position++;
		if (!cv_sftp_name_ok(name.name, name.name_len)) {
			if (name.name_len > 2 || name.name_len == 0 || name.name[0] != '.')
				cv_debug("sftp: the server lists a name that is none");
			continue;
		}
		if (l->position <= c->off)
			continue; /* passed over */
		memset(d, 0, sizeof(*d));
		memcpy(l->names + used, name.name, name.name_len);
		l->names[used + name.name_len] = '\0';
		d->name = l->names + used;
		used += name.name_len + 1;
		d->next_off = l->delivered = l->position;
		d->have_entry = sftp_attr(c->e, &name.attrs,
					  cv_sftp_longname_nlink(name.longname, name.longname_len,
								 name.attrs.permissions),
					  &d->entry.attr) == 0;
		d->mode = d->have_entry ? d->entry.attr.mode : 0;
		n++;
	}
	return (ssize_t)n;
}

static void readdir_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct listing_call *c = cv_container_of(req, struct listing_call, req);
	struct sftp_listing *l = c->dir->listing;
	ssize_t n;

	if (reply->error == -ESTALE && c->reopened < REOPEN_MAX) {
		send_opendir(c); /* the handle went with its connection */
		return;
	}
	if (reply->error == -ENODATA) {
		l->eof = true;
		c->op->eof = true;
		call_end(c, 0);
		return;
	}
	n = reply->error ? reply->error : take_entries(c, reply);
	if (n == 0) {
		send_readdir(c); /* nothing wanted in it */
		return;
	}
	c->op->dirents = l->entries;
	call_end(c, n);
}

static void send_readdir(struct listing_call *c)
{
	memset(&c->req, 0, sizeof(c->req));
	c->req.type = CV_FXP_READDIR;
	c->req.open = &c->dir->open;
	c->req.done = readdir_done;
	sftp_link_submit(&c->e->link, &c->req);
}

static void reopened(struct sftp_request *req, struct sftp_reply *reply)
{
	struct listing_call *c = cv_container_of(req, struct listing_call, req);
	struct sftp_open *open = &c->dir->open;

	if (reply->error) {
		call_end(c, reply->error);
		return;
	}
	open->handle.size = (uint16_t)reply->size;
	memcpy(open->handle.data, reply->body, reply->size);
	open->generation = c->e->link.generation;
	c->dir->listing->position = c->dir->listing->delivered = 0;
	c->dir->listing->eof = false;
	send_readdir(c);
}

static void send_opendir(struct listing_call *c)
{
	struct sftp_open *open = &c->dir->open;

	sftp_link_close_handle(&c->e->link, &open->handle, open->generation);
	open->generation = 0;
	open->handle.size = 0;
	c->reopened++;
	memset(&c->req, 0, sizeof(c->req));
	c->req.type = CV_FXP_OPENDIR;
	c->req.path = open->path;
	c->req.done = reopened;
	sftp_link_submit(&c->e->link, &c->req);
}

void sftp_op_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off)
{
	struct sftp_listing *l = dir->listing;
	struct listing_call *c;

	if (l->eof && off > 0 && off == l->delivered) {
		op->eof = true;
		op->done(op, 0);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		op->done(op, -ENOMEM);
		return;
	}
	c->e = conn;
	c->op = op;
	c->dir = dir;
	c->off = off;
	if (l->position > off && (off == 0 || off != l->delivered))
		send_opendir(c);
	else
		send_readdir(c);
}

static void opendir_done(struct sftp_call *call)
{
	struct cv_op *op = call->op;
	struct cv_file *file;

	if (call->res[0].error) {
		int error = call->res[0].error;

		/* "failure" for what is no directory; servers that know better say so */
		sftp_call_end(call, error == -EIO ? -ENOTDIR : error);
		return;
	}
	file = sftp_file_new(call->e, call->path, 0, &call->handle, call->generation);
	if (!file) {
		sftp_call_end(call, -ENOMEM);
		return;
	}
	file->open.is_dir = true;
	file->listing = calloc(1, sizeof(*file->listing));
	if (!file->listing) {
		sftp_file_free(call->e, file);
		sftp_call_end(call, -ENOMEM);
		return;
	}
	op->file = file;
	sftp_call_end(call, 0);
}

void sftp_op_opendir(void *conn, struct cv_op *op, const struct cv_object *dir)
{
	struct sftp_engine *e = conn;
	struct sftp_call *call = sftp_call_new(e, op);

	if (!call)
		return;
	call->path = sftp_path(e, dir->path, NULL);
	if (!call->path) {
		sftp_call_end(call, -ENOMEM);
		return;
	}
	(void)sftp_call_request(call, 0, CV_FXP_OPENDIR);
	sftp_call_send(call, 1, opendir_done);
}

void sftp_op_releasedir(void *conn, struct cv_file *dir)
{
	listing_release(dir->listing);
	sftp_file_free(conn, dir);
}

void sftp_op_fsyncdir(void *conn, struct cv_op *op, struct cv_file *dir, bool datasync)
{
	(void)conn;
	(void)dir;
	(void)datasync;
	op->done(op, 0); /* the protocol has nothing for it; the server has the change */
}
