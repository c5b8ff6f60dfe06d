/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything but file data and listings. SFTP 3 has few error codes: most refusals are "failure",
 * and what it was is found by looking, mostly at a stat that went along behind the request anyway.
 * The same look tells what became of a request whose answer was lost with its connection.
 */
#include "backends/sftp.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h> /* RENAME_* */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"

#define BLOCK_SIZE_SHOWN 65536
#define HANDLE_RESERVE	 8
#define ATIME_GOOD_NS	 3000000000ull
#define CLOCK_SKEW_S	 3600 /* between the server and us, at most */
#define STATVFS_RDONLY	 1    /* f_flag, PROTOCOL 4.4 */

/* ---- names and attributes ---- */

char *sftp_path(const struct sftp_engine *e, const char *dir, const char *name)
{
	if (!name)
		return *dir ? cv_sprintf("%s/%s", e->root, dir) : strdup(*e->root ? e->root : "/");
	return cv_sprintf("%s/%s%s%s", e->root, dir, *dir ? "/" : "", name);
}

bool sftp_stands_for_other(const struct sftp_engine *e, const struct cv_sftp_attrs *attrs)
{
	bool link = (attrs->flags & CV_FXA_PERMISSIONS) && S_ISLNK(attrs->permissions);

	return link && (e->symlinks == SFTP_SYMLINKS_FOLLOW || sftp_special_maybe(e, attrs));
}

int sftp_attr(const struct sftp_engine *e, const struct cv_sftp_attrs *in, uint32_t nlink,
	      struct cv_attr *ret)
{
	uint32_t type = in->permissions & S_IFMT;
	bool dir = type == S_IFDIR;
	bool known = true;

	if (!(in->flags & CV_FXA_PERMISSIONS) || type == 0)
		return -EIO;
	memset(ret, 0, sizeof(*ret));
	ret->size = (in->flags & CV_FXA_SIZE) && in->size <= INT64_MAX ? in->size : 0;
	ret->blocks = (ret->size + 511) / 512;
	ret->mode = type | (in->permissions & 07777 & ~e->umask);
	ret->nlink = nlink ? nlink : dir ? 2 : 1;
	if (in->flags & CV_FXA_UIDGID) {
		known = sftp_id_shown(&e->ids->users, e->ids->named, in->uid, &ret->uid);
		known &= sftp_id_shown(&e->ids->groups, e->ids->named, in->gid, &ret->gid);
	}
	if (e->have_uid)
		ret->uid = e->uid;
	if (e->have_gid)
		ret->gid = e->gid;
	ret->blksize = BLOCK_SIZE_SHOWN;
	ret->atime.tv_sec = in->atime;
	ret->mtime.tv_sec = in->mtime;
	ret->ctime.tv_sec = in->mtime;
	return known ? 0 : -EAGAIN;
}

/* ---- calls ---- */

struct sftp_call *sftp_call_new(struct sftp_engine *e, struct cv_op *op)
{
	struct sftp_call *call = calloc(1, sizeof(*call));

	if (!call) {
		op->done(op, -ENOMEM);
		return NULL;
	}
	call->e = e;
	call->op = op;
	return call;
}

static void note_changes(const struct sftp_call *call)
{
	bool names = call->changes & SFTP_CHANGES_NAMES;

	if (call->changes & SFTP_CHANGES_PATH)
		sftp_ahead_changed(call->e, call->path, names);
	if (call->changes & SFTP_CHANGES_PATH2)
		sftp_ahead_changed(call->e, call->path2, names);
}

void sftp_call_changes(struct sftp_call *call, unsigned changes)
{
	call->changes = changes;
	note_changes(call);
}

/* The access time of a directory, which the next to set its other time needs: see atime_known(). */
static void note_dir(struct sftp_engine *e, const char *path, const struct cv_sftp_attrs *attrs)
{
	uint64_t hash = cv_hash(0, path, strlen(path));
	struct sftp_seen *at = &e->seen[0];

	if (!(attrs->flags & CV_FXA_ACMODTIME) || !S_ISDIR(attrs->permissions))
		return;
	for (size_t i = 0; i < SFTP_SEEN; i++) {
		if (e->seen[i].path == hash) {
			at = &e->seen[i];
			break;
		}
		if (e->seen[i].ns < at->ns)
			at = &e->seen[i];
	}
	*at = (struct sftp_seen){ .path = hash, .atime = attrs->atime, .ns = cv_now_ns() };
}

/* By their paths, which may be others' now. */
static void forget_dirs(struct sftp_engine *e)
{
	memset(e->seen, 0, sizeof(e->seen));
}

static void end_dir(struct sftp_call *call, unsigned i, struct cv_dir_after *after)
{
	if (call->have_attrs[i])
		note_dir(call->e, call->dir[i - SFTP_CALL_DIR], &call->attrs[i]);
	after->have =
		call->have_attrs[i] && sftp_attr(call->e, &call->attrs[i], 0, &after->attr) == 0;
}

/* Who is told of a failure releases nothing. */
static void drop_opened(struct sftp_call *call)
{
	struct cv_file *file = call->op->file;

	call->op->file = NULL;
	if (file)
		sftp_file_free(call->e, file);
}

static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

bool sftp_file_moves(struct sftp_link *link, const struct sftp_open *open)
{
	const struct sftp_engine *e = cv_container_of(link, struct sftp_engine, link);

	for (const struct sftp_call *call = e->renames; call; call = call->next_rename) {
		if (is_below(open->path, call->path) ||
		    (open->also && is_below(open->also, call->path)))
			return true;
	}
	return false;
}

static void rename_begins(struct sftp_call *call)
{
	call->renames = true;
	call->next_rename = call->e->renames;
	call->e->renames = call;
}

static void rename_ends(struct sftp_call *call)
{
	struct sftp_call **at = &call->e->renames;

	while (*at != call)
		at = &(*at)->next_rename;
	*at = call->next_rename;
	for (struct cv_file *f = call->e->files; f; f = f->next)
		sftp_open_moved(&call->e->link, &f->open);
}

void sftp_call_end(struct sftp_call *call, ssize_t result)
{
	struct cv_op *op = call->op;

	if (call->renames)
		rename_ends(call);
	note_changes(call);
	end_dir(call, SFTP_CALL_DIR, &op->dir);
	end_dir(call, SFTP_CALL_NEWDIR, &op->newdir);
	if (call->made)
		sftp_ahead_made(call->e, call->path);
	sftp_first_drop(call->first);
	if (result < 0)
		drop_opened(call);
	op->done(op, result); /* readlink's text is valid until here */
	free(call->path);
	free(call->path2);
	free(call->inner);
	free(call->dir[0]);
	free(call->dir[1]);
	free(call->text);
	free(call);
}

struct sftp_request *sftp_call_request(struct sftp_call *call, unsigned i, uint8_t type)
{
	struct sftp_request *req = &call->req[i];

	memset(req, 0, sizeof(*req));
	req->type = type == CV_FXP_LSTAT && call->e->symlinks == SFTP_SYMLINKS_FOLLOW ? CV_FXP_STAT
										      : type;
	req->path = call->path;
	return req;
}

static void note_names(struct sftp_call *call, struct cv_sftp_in *in)
{
	uint32_t count = cv_sftp_get_count(in);

	free(call->text);
	call->text = NULL;
	call->have_entries = false;
	for (uint32_t i = 0; i < count; i++) {
		struct cv_sftp_name name;

		cv_sftp_get_name(in, &name);
		if (in->bad)
			return;
		if (i == 0)
			call->text = strndup(name.name, name.name_len);
		if (cv_sftp_name_ok(name.name, name.name_len))
			call->have_entries = true;
	}
}

static void on_answer(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_call *call = req->owner;
	size_t i = (size_t)(req - call->req);
	struct cv_sftp_in in = { reply->body, reply->size, false };

	call->res[i] = (struct sftp_result){ reply->error, reply->status,
					     req->retried || call->op->repeated };
	switch (reply->type) {
	case CV_FXP_HANDLE:
		call->handle.size = (uint16_t)reply->size;
		memcpy(call->handle.data, reply->body, reply->size);
		call->generation = call->e->link.generation;
		break;
	case CV_FXP_ATTRS:
		cv_sftp_get_attrs(&in, &call->attrs[i]);
		call->have_attrs[i] = !in.bad && (call->attrs[i].flags & CV_FXA_PERMISSIONS);
		break;
	case CV_FXP_NAME:
		note_names(call, &in);
		break;
	case CV_FXP_EXTENDED_REPLY:
		for (size_t k = 0; k < CV_ARRAY_SIZE(call->statvfs); k++)
			call->statvfs[k] = cv_sftp_get_u64(&in);
		call->have_statvfs = !in.bad;
		break;
	default:
		break;
	}
	if (in.bad)
		call->res[i].error = -EIO;
	if (--call->pending == 0)
		call->then(call);
}

void sftp_call_behind_writes(struct sftp_call *call, void (*go)(struct sftp_call *call))
{
	if (!call->file || !call->file->loose_writes) {
		go(call);
		return;
	}
	call->then = go;
	call->next_parked = call->file->parked;
	call->file->parked = call;
}

bool sftp_broken_promise(struct sftp_call *call, enum sftp_ext ext)
{
	if (call->req[0].type != CV_FXP_EXTENDED || call->req[0].ext != ext ||
	    call->res[0].status != CV_FX_OP_UNSUPPORTED)
		return false;
	cv_debug("sftp: the server offers extension %#x and does not know it", (unsigned)ext);
	call->e->refused |= ext;
	return true;
}

static char *dir_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

/*
 * The kernel forgets a directory's attributes with every change in it, and wants them again at
 * once: they are asked for along with the change, behind it where the server works in order.
 */
static void ask_dirs(struct sftp_call *call)
{
	call->asked_dirs = true;
	if (!call->e->link.session.openssh)
		return;
	call->dir[0] = dir_of(call->path);
	if (call->renames)
		call->dir[1] = dir_of(call->path2);
	if (call->dir[0] && call->dir[1] && strcmp(call->dir[0], call->dir[1]) == 0) {
		free(call->dir[1]);
		call->dir[1] = NULL;
	}
}

static void send_one(struct sftp_call *call, unsigned i)
{
	call->have_attrs[i] = false;
	call->req[i].owner = call;
	call->req[i].done = on_answer;
	sftp_link_submit(&call->e->link, &call->req[i]);
}

void sftp_call_send(struct sftp_call *call, unsigned n, void (*then)(struct sftp_call *call))
{
	bool dirs = (call->changes & SFTP_CHANGES_NAMES) && !call->asked_dirs;

	if (dirs)
		ask_dirs(call);
	call->then = then;
	call->pending = n + (dirs && call->dir[0]) + (dirs && call->dir[1]);
	for (unsigned i = 0; i < n; i++)
		send_one(call, i);
	for (unsigned i = 0; dirs && i < CV_ARRAY_SIZE(call->dir); i++) {
		if (!call->dir[i])
			continue;
		sftp_call_request(call, SFTP_CALL_DIR + i, CV_FXP_LSTAT)->path = call->dir[i];
		send_one(call, SFTP_CALL_DIR + i);
	}
}

static void explained(struct sftp_call *call)
{
	if (call->have_statvfs && (call->statvfs[9] & STATVFS_RDONLY))
		call->verdict = -EROFS;
	else if (call->have_statvfs &&
		 (call->statvfs[4] == 0 || (call->statvfs[5] > 0 && call->statvfs[7] == 0)))
		call->verdict = -ENOSPC;
	sftp_call_end(call, call->verdict);
}

void sftp_call_explain(struct sftp_call *call, int verdict)
{
	struct sftp_request *req;

	call->verdict = verdict;
	if (!sftp_offers(call->e, SFTP_EXT_STATVFS)) {
		sftp_call_end(call, verdict);
		return;
	}
	req = sftp_call_request(call, 0, CV_FXP_EXTENDED);
	req->ext = SFTP_EXT_STATVFS;
	req->path = *call->e->root ? call->e->root : (char *)(uintptr_t) "/";
	call->have_statvfs = false;
	sftp_call_send(call, 1, explained);
}

/* Starts a call on dir/name; NULL: answered already. */
static struct sftp_call *call_at(void *conn, struct cv_op *op, const char *dir, const char *name)
{
	struct sftp_engine *e = conn;
	struct sftp_call *call = sftp_call_new(e, op);

	if (!call)
		return NULL;
	call->path = sftp_path(e, dir, name);
	/* Servers answer such paths with "bad message", if at all. */
	if (!call->path || strlen(call->path) >= PATH_MAX) {
		sftp_call_end(call, call->path ? -ENAMETOOLONG : -ENOMEM);
		return NULL;
	}
	return call;
}

static bool failure(const struct sftp_result *res)
{
	return res->error && res->status == CV_FX_FAILURE;
}

static void answer_attr(struct sftp_call *call, const struct cv_sftp_attrs *attrs, uint64_t rdev);

static void owner_told(struct sftp_call *call)
{
	answer_attr(call, &call->attrs[1], call->rdev);
}

static void note_told(struct sftp_call *call)
{
	const struct sftp_open *open = call->file ? &call->file->open : NULL;

	if (!open || !open->gone)
		sftp_ahead_told(call->e, open ? open->path : call->path, &call->op->attr);
}

static void answer_attr(struct sftp_call *call, const struct cv_sftp_attrs *attrs, uint64_t rdev)
{
	struct cv_op *op = call->op;
	int r = sftp_attr(call->e, attrs, 0, &op->attr);

	if (r == -EAGAIN) {
		call->attrs[1] = *attrs;
		call->rdev = rdev;
		call->then = owner_told;
		sftp_names_wait(call, &call->attrs[1]);
		return;
	}
	if (r == 0) {
		op->attr.rdev = rdev;
		op->have_attr = true;
		op->entry.attr = op->attr;
		note_told(call);
	}
	sftp_call_end(call, r);
}

static void special_read(struct sftp_call *call)
{
	struct cv_sftp_attrs *attrs = &call->attrs[1];
	uint64_t rdev = 0;

	if (call->res[0].error == 0 && call->text &&
	    sftp_special_parse(call->text, &attrs->permissions, &rdev))
		attrs->size = 0;
	answer_attr(call, attrs, rdev);
}

/* Answers with attributes as the operation wants them. */
static void end_attr(struct sftp_call *call, const struct cv_sftp_attrs *attrs)
{
	if (!sftp_special_maybe(call->e, attrs)) {
		answer_attr(call, attrs, 0);
		return;
	}
	call->attrs[1] = *attrs;
	(void)sftp_call_request(call, 0, CV_FXP_READLINK);
	sftp_call_send(call, 1, special_read);
}

/* ---- open files and their names ---- */

struct cv_file *sftp_file_new(struct sftp_engine *e, const char *path, uint32_t pflags,
			      const struct sftp_handle *handle, uint64_t generation)
{
	struct cv_file *file = calloc(1, sizeof(*file));

	if (file)
		file->open.path = strdup(path);
	if (!file || !file->open.path) {
		free(file);
		sftp_link_close_handle(&e->link, handle, generation);
		return NULL;
	}
	file->open.pflags = pflags;
	file->open.mtime_changed = (uint32_t)(time(NULL) - CLOCK_SKEW_S);
	file->open.handle = *handle;
	file->open.generation = generation;
	file->next = e->files;
	file->link = &e->files;
	if (file->next)
		file->next->link = &file->next;
	e->files = file;
	return file;
}

void sftp_file_free(struct sftp_engine *e, struct cv_file *file)
{
	*file->link = file->next;
	if (file->next)
		file->next->link = file->link;
	sftp_bulk_forget(e, file);
	sftp_first_drop(file->first);
	sftp_open_release(&e->link, &file->open);
	free(file);
}

static void note_attrs(struct cv_file *file, const struct cv_sftp_attrs *attrs)
{
	if (attrs->flags & CV_FXA_SIZE) {
		file->open.size_seen = attrs->size;
		file->open.size_untouched = attrs->size;
	}
	if (attrs->flags & CV_FXA_ACMODTIME) {
		file->open.mtime_seen = attrs->mtime;
		file->open.mtime_untouched = attrs->mtime;
		file->atime = attrs->atime;
		file->atime_ns = cv_now_ns();
	}
}

static bool is_touched(const struct sftp_engine *e, const struct cv_file *file)
{
	for (const struct cv_file *f = e->files; f; f = f->next) {
		if (f != file && (f->open.pflags & CV_FXF_WRITE) && !f->open.untouched &&
		    strcmp(f->open.path, file->open.path) == 0)
			return true;
	}
	return false;
}

/* What is not open on this connection has yet to be compared with what it was. */
static bool is_to_be_compared(const struct sftp_engine *e, const struct cv_file *file)
{
	return file &&
	       (e->link.state != SFTP_LINK_UP || file->open.generation != e->link.generation);
}

void sftp_files_touched(struct sftp_engine *e, const struct cv_file *file, const char *path)
{
	if (is_to_be_compared(e, file))
		return; /* sftp_file_same() will do it */
	for (struct cv_file *f = e->files; f; f = f->next) {
		if (f->open.untouched && strcmp(f->open.path, path) == 0)
			f->open.untouched = false;
	}
}

void sftp_file_same(struct sftp_link *link, const struct sftp_open *open)
{
	sftp_files_touched(cv_container_of(link, struct sftp_engine, link), NULL, open->path);
}

/* What was set by name or through one handle counts for every handle of that name. */
static void note_set(struct sftp_engine *e, const char *path, const struct cv_sftp_attrs *attrs)
{
	for (struct cv_file *f = e->files; f; f = f->next) {
		if (!f->open.is_dir && !f->open.gone && strcmp(f->open.path, path) == 0)
			note_attrs(f, attrs);
	}
}

static void forget_other_name(struct cv_file *file)
{
	free(file->open.also);
	file->open.also = NULL;
}

static void note_gone(struct sftp_engine *e, const char *path)
{
	for (struct cv_file *f = e->files; f; f = f->next) {
		if (f->open.also && strcmp(f->open.also, path) == 0)
			forget_other_name(f);
		if (strcmp(f->open.path, path) != 0)
			continue;
		if (f->open.also) {
			free(f->open.path);
			f->open.path = cv_steal(&f->open.also);
		} else {
			f->open.gone = true;
		}
	}
}

/* The worker does so before it replaces an open file: by that name it can be opened again. */
static void note_linked(struct sftp_engine *e, const char *path, const char *also)
{
	for (struct cv_file *f = e->files; f; f = f->next) {
		if (f->open.gone || strcmp(f->open.path, path) != 0)
			continue;
		forget_other_name(f);
		f->open.also = strdup(also);
	}
}

static void note_renamed(struct sftp_engine *e, const char *from, const char *to)
{
	for (struct cv_file *f = e->files; f; f = f->next) {
		char *path;

		if (f->open.also && is_below(f->open.also, from))
			forget_other_name(f);
		if (!is_below(f->open.path, from))
			continue;
		path = cv_sprintf("%s%s", to, f->open.path + strlen(from));
		if (path) {
			free(f->open.path);
			f->open.path = path;
		} else {
			f->open.gone = true; /* better than opening another file */
		}
	}
}

/* ---- lookup, getattr ---- */

static void stat_done(struct sftp_call *call)
{
	if (call->guesses)
		sftp_ahead_guessed(call->e, call->path,
				   call->have_attrs[0] && S_ISDIR(call->attrs[0].permissions));
	if (call->res[0].error) {
		sftp_call_end(call, call->res[0].error);
		return;
	}
	if (call->file)
		note_attrs(call->file, &call->attrs[0]);
	end_attr(call, &call->attrs[0]);
}

void sftp_op_lookup(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	struct sftp_call *call = call_at(conn, op, dir->path, name);
	int r;

	if (!call)
		return;
	r = sftp_ahead_lookup(conn, call->path, op->making, &op->entry.attr);
	if (r != -EAGAIN) {
		if (r == 0)
			sftp_ahead_told(conn, call->path, &op->entry.attr);
		sftp_call_end(call, r);
		return;
	}
	/* In front of it: what is in a directory is known when the directory is. */
	call->guesses = sftp_ahead_guess(conn, call->path);
	(void)sftp_call_request(call, 0, CV_FXP_LSTAT);
	sftp_call_send(call, 1, stat_done);
}

/* A stat of the object: by its open file if there is one. */
static void request_stat(struct sftp_call *call, unsigned i)
{
	struct sftp_request *req =
		sftp_call_request(call, i, call->file ? CV_FXP_FSTAT : CV_FXP_LSTAT);

	if (call->file)
		req->open = &call->file->open;
}

void sftp_op_getattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		     struct cv_file *file)
{
	struct sftp_call *call = call_at(conn, op, obj->path, NULL);

	if (!call)
		return;
	call->file = file && !file->open.is_dir ? file : NULL;
	request_stat(call, 0);
	sftp_call_send(call, 1, stat_done);
}

/* ---- setattr ---- */

static void setattr_start(struct sftp_call *call);
static void setattr_next(struct sftp_call *call);

/* May, and can, a link itself be changed instead of what it leads to? */
static bool has_lsetstat(const struct sftp_engine *e)
{
	return sftp_offers(e, SFTP_EXT_LSETSTAT) && e->symlinks != SFTP_SYMLINKS_FOLLOW;
}

#define SET_OWNER (CV_SET_UID | CV_SET_GID)
#define SET_TIMES (CV_SET_ATIME | CV_SET_MTIME | CV_SET_ATIME_NOW | CV_SET_MTIME_NOW)
#define SET_ATIME (CV_SET_ATIME | CV_SET_ATIME_NOW)
#define SET_MTIME (CV_SET_MTIME | CV_SET_MTIME_NOW)

static uint32_t seconds(const struct timespec *t)
{
	/* The protocol has 32 unsigned bits. */
	return t->tv_sec < 0 ? 0 : t->tv_sec > UINT32_MAX ? UINT32_MAX : (uint32_t)t->tv_sec;
}

/* ---- the mode of a special file: it is in the link's target, which can only be replaced ---- */

static void chmod_renamed(struct sftp_call *call)
{
	if (call->res[0].error) {
		sftp_call_end(call, call->res[0].error);
	} else if (call->mask) {
		setattr_next(call);
	} else {
		request_stat(call, 0);
		sftp_call_send(call, 1, stat_done);
	}
}

static void chmod_linked(struct sftp_call *call)
{
	struct sftp_request *req;

	if (call->res[0].error) {
		sftp_call_end(call, call->res[0].error);
		return;
	}
	req = sftp_call_request(call, 0, CV_FXP_EXTENDED);
	req->ext = SFTP_EXT_POSIX_RENAME;
	req->path = call->path2;
	req->path2 = call->path;
	sftp_call_send(call, 1, chmod_renamed);
}

static void chmod_looked(struct sftp_call *call)
{
	char target[SFTP_SPECIAL_SIZE + 1];
	struct sftp_request *req;
	uint32_t mode;
	uint64_t rdev;

	if (!call->have_attrs[0] || call->res[1].error || !call->text ||
	    !sftp_special_parse(call->text, &mode, &rdev)) {
		sftp_call_end(call, call->verdict);
		return;
	}
	(void)sftp_special_format((mode & S_IFMT) | (call->set.mode & 07777), rdev, target);
	(void)memcpy(call->text, target, sizeof(target)); /* as long as what was there */
	free(call->path2);
	call->path2 =
		cv_sprintf("%.*s/.cvol-chmod-%" PRIx64,
			   (int)(strrchr(call->path, '/') - call->path), call->path, cv_now_ns());
	if (!call->path2) {
		sftp_call_end(call, -ENOMEM);
		return;
	}
	req = sftp_call_request(call, 0, CV_FXP_SYMLINK);
	req->path = call->text;
	req->path2 = call->path2;
	req = sftp_call_request(call, 1, CV_FXP_EXTENDED); /* right behind: whose it was */
	req->ext = SFTP_EXT_LSETSTAT;
	req->path = call->path2;
	req->attrs = call->attrs[0];
	req->attrs.flags &= CV_FXA_UIDGID | CV_FXA_ACMODTIME;
	call->attrs[1] = call->attrs[0];
	sftp_call_send(call, 2, chmod_linked);
}

/*
 * A refused chmod by name: is it of what only looks like a link to nowhere? In a directory for all,
 * with the sticky bit, Linux does not even try to follow another's link (fs.protected_symlinks).
 */
static bool chmod_special(struct sftp_call *call, int refusal)
{
	if ((refusal != -ENOENT && refusal != -EPERM) || call->file || !sftp_special_can(call->e) ||
	    !(call->req[0].attrs.flags & CV_FXA_PERMISSIONS))
		return false;
	call->verdict = refusal;
	(void)sftp_call_request(call, 0, CV_FXP_LSTAT);
	(void)sftp_call_request(call, 1, CV_FXP_READLINK);
	sftp_call_send(call, 2, chmod_looked);
	return true;
}

/* No file system has a lower limit than 2 GiB, and beyond it that is the likely reason. */
static int refused_change(const struct cv_sftp_attrs *a)
{
	return (a->flags & CV_FXA_SIZE) && a->size > INT32_MAX ? -EFBIG : -EIO;
}

static void setattr_done(struct sftp_call *call)
{
	const char *path = call->file ? call->file->open.path : call->path;
	int r = call->res[0].error;
	bool owner = call->req[0].attrs.flags & CV_FXA_UIDGID;

	if (sftp_broken_promise(call, SFTP_EXT_LSETSTAT)) {
		call->mask |= call->sent;
		setattr_start(call);
		return;
	}
	if (owner && r == -EACCES && call->e->chown_ignore)
		r = 0;
	if (failure(&call->res[0])) {
		sftp_call_explain(call, refused_change(&call->req[0].attrs));
		return;
	}
	if (r == -EACCES && call->req[0].attrs.flags != CV_FXA_SIZE)
		r = -EPERM;
	if (chmod_special(call, r))
		return;
	if (r == 0 && call->last)
		r = call->res[1].error;
	if (r < 0) {
		sftp_call_end(call, r);
	} else if (call->last) {
		note_set(call->e, path, &call->attrs[1]);
		note_dir(call->e, path, &call->attrs[1]);
		end_attr(call, &call->attrs[1]);
	} else {
		setattr_next(call);
	}
}

static void setattr_stat_done(struct sftp_call *call)
{
	if (call->res[0].error || call->mask == 0) {
		stat_done(call);
		return;
	}
	call->stat_first = true;
	/* Without lsetstat the server would follow a symbolic link and change its target. */
	if (S_ISLNK(call->attrs[0].permissions) && !has_lsetstat(call->e)) {
		sftp_call_end(call, -EOPNOTSUPP);
		return;
	}
	call->attrs[1] = call->attrs[0]; /* attrs[0] is overwritten by the next answer */
	setattr_next(call);
}

/* False: one of them has another number on the server, and that is not known. */
static bool put_owner(struct sftp_call *call, struct cv_sftp_attrs *a)
{
	const struct cv_sftp_attrs *had = &call->attrs[1];
	const struct sftp_ids *ids = call->e->ids;
	bool known = true;

	a->flags |= CV_FXA_UIDGID;
	a->uid = had->uid;
	a->gid = had->gid;
	if (call->mask & CV_SET_UID)
		known = sftp_id_on_server(&ids->users, call->set.uid, &a->uid);
	if (call->mask & CV_SET_GID)
		known &= sftp_id_on_server(&ids->groups, call->set.gid, &a->gid);
	call->mask &= ~(unsigned)SET_OWNER;
	return known;
}

static void put_times(struct sftp_call *call, struct cv_sftp_attrs *a)
{
	const struct cv_sftp_attrs *had = &call->attrs[1];

	a->flags |= CV_FXA_ACMODTIME;
	a->atime = (call->mask & SET_ATIME) ? seconds(&call->set.atime) : had->atime;
	a->mtime = (call->mask & SET_MTIME) ? seconds(&call->set.mtime) : had->mtime;
	call->mask &= ~(unsigned)SET_TIMES;
}

/* From now on the server may have done it, whether it comes to tell us or not: a file that is
 * opened again after a lost connection is still the same one then. */
static void may_become(struct sftp_call *call, const struct cv_sftp_attrs *a)
{
	for (struct cv_file *f = call->e->files; f; f = f->next) {
		if (f != call->file && strcmp(f->open.path, call->path) != 0)
			continue;
		if ((a->flags & CV_FXA_SIZE) && a->size < f->open.size_seen)
			f->open.size_seen = a->size;
		if ((a->flags & CV_FXA_ACMODTIME) && a->mtime < f->open.mtime_seen)
			f->open.mtime_seen = a->mtime;
	}
}

/*
 * Owner first, alone: chown clears the set-id bits, which a mode set with it must survive, and a
 * refusal may be ignored. Then size and mode, then times: truncation touches mtime. Names go by
 * lsetstat for what a symbolic link has itself; OpenSSH takes neither size nor, everywhere, mode
 * that way.
 */
static void setattr_next(struct sftp_call *call)
{
	bool lsetstat = has_lsetstat(call->e);
	struct cv_file *file = call->file;
	unsigned before = call->mask;
	struct sftp_request *req;

	if (file && (call->mask & CV_SET_SIZE) && !(file->open.pflags & CV_FXF_WRITE))
		file = NULL;
	req = sftp_call_request(call, 0, file ? CV_FXP_FSETSTAT : CV_FXP_SETSTAT);
	req->open = file ? &file->open : NULL;
	if (call->mask & SET_OWNER) {
		if (!put_owner(call, &req->attrs)) {
			sftp_call_end(call, -EINVAL);
			return;
		}
	} else if (call->mask & (CV_SET_SIZE | CV_SET_MODE)) {
		if (call->mask & CV_SET_SIZE)
			req->attrs.flags |= CV_FXA_SIZE;
		if (call->mask & CV_SET_MODE)
			req->attrs.flags |= CV_FXA_PERMISSIONS;
		req->attrs.size = call->set.size;
		req->attrs.permissions = call->set.mode & 07777;
		call->mask &= ~(unsigned)(CV_SET_SIZE | CV_SET_MODE);
		lsetstat = false;
	} else {
		put_times(call, &req->attrs);
	}
	if (lsetstat && !file) {
		req->type = CV_FXP_EXTENDED;
		req->ext = SFTP_EXT_LSETSTAT;
	}
	may_become(call, &req->attrs);
	call->sent = before & ~call->mask;
	call->last = call->mask == 0;
	if (call->last)
		request_stat(call, 1);
	sftp_call_send(call, call->last ? 2 : 1, setattr_done);
}

/*
 * The protocol sets both times or none, so that an mtime alone, which is what tar and cp -p set,
 * takes the atime along. One seen a moment ago will do: at worst a reader's trace in it is lost.
 */
static bool atime_known(struct sftp_call *call)
{
	uint64_t hash = cv_hash(0, call->path, strlen(call->path));
	uint64_t now = cv_now_ns();

	for (const struct cv_file *f = call->e->files; f; f = f->next) {
		if (!f->open.is_dir && f->atime_ns && now - f->atime_ns < ATIME_GOOD_NS &&
		    strcmp(f->open.path, call->path) == 0) {
			call->attrs[1].atime = f->atime;
			return true;
		}
	}
	for (size_t i = 0; !call->file && i < SFTP_SEEN; i++) {
		const struct sftp_seen *seen = &call->e->seen[i];

		if (seen->ns && now - seen->ns < ATIME_GOOD_NS && seen->path == hash) {
			call->attrs[1].atime = seen->atime;
			return true;
		}
	}
	return false;
}

static bool needs_stat(struct sftp_call *call)
{
	bool lsetstat = has_lsetstat(call->e);
	unsigned m = call->mask;

	if (m == 0 || !!(m & CV_SET_UID) != !!(m & CV_SET_GID))
		return true;
	if (!call->file && !lsetstat && (m & (SET_OWNER | SET_TIMES)))
		return true;
	if ((m & SET_MTIME) && !(m & SET_ATIME))
		return !atime_known(call);
	return (m & SET_ATIME) && !(m & SET_MTIME);
}

static void setattr_start(struct sftp_call *call)
{
	if (needs_stat(call)) {
		request_stat(call, 0);
		sftp_call_send(call, 1, setattr_stat_done);
	} else {
		setattr_next(call);
	}
}

void sftp_op_setattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		     struct cv_file *file, const struct cv_setattr *set)
{
	struct sftp_engine *e = conn;
	struct sftp_call *call = call_at(conn, op, obj->path, NULL);
	unsigned m = set->mask;

	if (!call)
		return;
	sftp_call_changes(call, SFTP_CHANGES_PATH);
	call->file = file && !file->open.is_dir ? file : NULL;
	sftp_files_touched(e, call->file, call->path);
	call->set = *set;
	if (m & CV_SET_ATIME_NOW)
		(void)clock_gettime(CLOCK_REALTIME, &call->set.atime);
	if (m & CV_SET_MTIME_NOW)
		(void)clock_gettime(CLOCK_REALTIME, &call->set.mtime);
	/* What is shown is not what is there; setting it changes nothing. */
	if (e->have_uid && (m & CV_SET_UID) && set->uid == e->uid)
		m &= ~(unsigned)CV_SET_UID;
	if (e->have_gid && (m & CV_SET_GID) && set->gid == e->gid)
		m &= ~(unsigned)CV_SET_GID;
	call->mask = m & (SET_OWNER | SET_TIMES | CV_SET_SIZE | CV_SET_MODE);
	sftp_call_behind_writes(call, setattr_start);
}

/* ---- making things ---- */

static void end_created(struct sftp_call *call);

/*
 * Logged in as root we own what we make, and can give it to whom it belongs: whoever asked. A group
 * that is not ours comes from a set-group-id directory and stays.
 */
static bool belongs_to_other(const struct sftp_call *call, struct cv_sftp_attrs *ret_owner)
{
	const struct cv_sftp_attrs *had = &call->attrs[1];
	const struct cv_cred *cred = call->op->cred;
	const struct sftp_ids *ids = call->e->ids;
	bool known;

	if (call->e->keeps_owner || call->e->have_uid || !(had->flags & CV_FXA_UIDGID) ||
	    had->uid != 0)
		return false;
	ret_owner->gid = had->gid;
	known = sftp_id_on_server(&ids->users, cred->uid, &ret_owner->uid);
	if (had->gid == 0 && !call->e->have_gid)
		known &= sftp_id_on_server(&ids->groups, cred->gid, &ret_owner->gid);
	if (!known && !call->e->said_no_owner)
		cv_notice("sftp: the server's numbers of user %u and group %u are not known; what "
			  "they make belongs to the login user (a line in idmap_file with numbers "
			  "helps)",
			  cred->uid, cred->gid);
	call->e->said_no_owner |= !known;
	if (!known)
		return false;
	if (ret_owner->uid == had->uid && ret_owner->gid == had->gid)
		return false;
	ret_owner->flags = CV_FXA_UIDGID;
	return true;
}

static void created_fixed(struct sftp_call *call)
{
	const struct cv_sftp_attrs *set = &call->req[0].attrs;
	struct cv_sftp_attrs *had = &call->attrs[1];

	if (call->res[0].error) {
		cv_debug("sftp: '%s': owner or mode not corrected: %s", call->path,
			 cv_strerror(call->res[0].error));
		call->e->keeps_owner |= !!(set->flags & CV_FXA_UIDGID);
		end_attr(call, had);
		return;
	}
	if (set->flags & CV_FXA_PERMISSIONS)
		had->permissions = (had->permissions & S_IFMT) | set->permissions;
	if (set->flags & CV_FXA_UIDGID) {
		had->uid = set->uid;
		had->gid = set->gid;
	}
	/* The owner is changed last, and takes set-id bits away with it. */
	if ((set->flags & CV_FXA_UIDGID) && (call->mode & (S_ISUID | S_ISGID)) &&
	    S_ISREG(had->permissions)) {
		had->permissions &= ~(uint32_t)(S_ISUID | S_ISGID);
		end_created(call);
		return;
	}
	end_attr(call, had);
}

/* attrs[1] is of the new object; the server's umask may have taken bits from its mode. */
static void end_created(struct sftp_call *call)
{
	uint32_t got = call->attrs[1].permissions;
	uint32_t want = call->mode & 07777;
	bool link = S_ISLNK(got);
	bool mode = !link && (((got ^ want) & 0777) != 0 || (want & ~got & 07000) != 0);
	struct cv_sftp_attrs fix = { 0 };
	struct sftp_request *req;

	if ((!belongs_to_other(call, &fix) || (link && !has_lsetstat(call->e))) && !mode) {
		end_attr(call, &call->attrs[1]);
		return;
	}
	req = sftp_call_request(call, 0, CV_FXP_SETSTAT);
	if (call->op->file) {
		req->type = CV_FXP_FSETSTAT;
		req->open = &call->op->file->open;
	}
	if (link) {
		req->type = CV_FXP_EXTENDED;
		req->ext = SFTP_EXT_LSETSTAT;
	}
	if (mode) {
		fix.flags |= CV_FXA_PERMISSIONS;
		fix.permissions = want | (got & S_ISGID); /* inherited from the directory */
	}
	req->attrs = fix;
	sftp_call_send(call, 1, created_fixed);
}

static void mkdir_done(struct sftp_call *call)
{
	const struct sftp_result *res = &call->res[0];
	bool there = call->have_attrs[1];

	if (there)
		note_dir(call->e, call->path, &call->attrs[1]);
	if (res->error == 0 && there) {
		call->made = !res->retried;
		end_created(call);
	} else if (res->error == 0) {
		sftp_call_end(call, call->res[1].error ? call->res[1].error : -EIO);
	} else if (failure(res) && there) {
		/* Sent twice: then it is the one the first try made. */
		if (res->retried && S_ISDIR(call->attrs[1].permissions))
			end_created(call);
		else
			sftp_call_end(call, -EEXIST);
	} else if (failure(res)) {
		sftp_call_explain(call, -EIO);
	} else {
		sftp_call_end(call, res->error);
	}
}

void sftp_op_mkdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   uint32_t mode)
{
	struct sftp_call *call = call_at(conn, op, dir->path, name);
	struct sftp_request *req;

	if (!call)
		return;
	sftp_call_changes(call, SFTP_CHANGES_PATH | SFTP_CHANGES_NAMES);
	call->mode = mode;
	req = sftp_call_request(call, 0, CV_FXP_MKDIR);
	req->attrs.flags = CV_FXA_PERMISSIONS;
	req->attrs.permissions = mode & 07777;
	(void)sftp_call_request(call, 1, CV_FXP_LSTAT);
	sftp_call_send(call, 2, mkdir_done);
}

static void symlink_checked(struct sftp_call *call)
{
	bool same = call->res[0].error == 0 && call->text && strcmp(call->text, call->path2) == 0;

	if (same)
		end_attr(call, &call->attrs[1]);
	else
		sftp_call_end(call, -EEXIST);
}

static void symlink_done(struct sftp_call *call)
{
	const struct sftp_result *res = &call->res[0];
	bool there = call->have_attrs[1];

	if (res->error == 0 && there && S_ISLNK(call->attrs[1].permissions)) {
		end_created(call);
	} else if (res->error == 0) {
		/* ProFTPD remembers for seconds that a name was not there, and follows links even
		 * for LSTAT. */
		call->attrs[1] = (struct cv_sftp_attrs){ .flags = CV_FXA_PERMISSIONS | CV_FXA_SIZE,
							 .permissions = S_IFLNK | 0777,
							 .size = strlen(call->path2) };
		end_attr(call, &call->attrs[1]);
	} else if (failure(res) && there && res->retried) {
		(void)sftp_call_request(call, 0, CV_FXP_READLINK);
		sftp_call_send(call, 1, symlink_checked);
	} else if (failure(res) && there) {
		sftp_call_end(call, -EEXIST);
	} else if (failure(res)) {
		sftp_call_explain(call, -EIO);
	} else {
		sftp_call_end(call, res->error);
	}
}

void sftp_op_symlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		     const char *target)
{
	struct sftp_call *call = call_at(conn, op, dir->path, name);
	struct sftp_request *req;

	if (!call)
		return;
	call->path2 = strdup(target);
	if (!call->path2 || call->e->symlinks == SFTP_SYMLINKS_FOLLOW) {
		/* Whoever could make one could have the server lead him anywhere. */
		sftp_call_end(call, call->path2 ? -EPERM : -ENOMEM);
		return;
	}
	sftp_call_changes(call, SFTP_CHANGES_PATH | SFTP_CHANGES_NAMES);
	req = sftp_call_request(call, 0, CV_FXP_SYMLINK);
	req->path = call->path2;
	req->path2 = call->path;
	(void)sftp_call_request(call, 1, CV_FXP_LSTAT);
	sftp_call_send(call, 2, symlink_done);
}

static void link_done(struct sftp_call *call)
{
	const struct sftp_result *res = &call->res[0];
	bool there = call->have_attrs[1];

	if (there && (res->error == 0 || (failure(res) && res->retried))) {
		note_linked(call->e, call->path2, call->path);
		end_attr(call, &call->attrs[1]);
		return;
	}
	if (sftp_broken_promise(call, SFTP_EXT_HARDLINK))
		sftp_call_end(call, -EPERM);
	else if (res->error == 0) /* rclone says yes and makes none */
		sftp_call_end(call, call->res[1].error == -ENOENT ? -EPERM
				    : call->res[1].error	  ? call->res[1].error
								  : -EIO);
	else if (failure(res) && there)
		sftp_call_end(call, -EEXIST);
	else if (failure(res))
		sftp_call_explain(call, -EXDEV); /* a server's own mount below; or too many */
	else
		sftp_call_end(call, res->error);
}

void sftp_op_link(void *conn, struct cv_op *op, const struct cv_object *obj,
		  const struct cv_object *dir, const char *name)
{
	struct sftp_engine *e = conn;
	struct sftp_call *call = call_at(conn, op, dir->path, name);
	struct sftp_request *req;

	if (!call)
		return;
	call->path2 = sftp_path(e, obj->path, NULL);
	if (!call->path2 || !sftp_offers(e, SFTP_EXT_HARDLINK)) {
		sftp_call_end(call, call->path2 ? -EPERM : -ENOMEM);
		return;
	}
	sftp_call_changes(call, SFTP_CHANGES_PATH | SFTP_CHANGES_PATH2 | SFTP_CHANGES_NAMES);
	req = sftp_call_request(call, 0, CV_FXP_EXTENDED);
	req->ext = SFTP_EXT_HARDLINK;
	req->path = call->path2;
	req->path2 = call->path;
	(void)sftp_call_request(call, 1, CV_FXP_LSTAT);
	sftp_call_send(call, 2, link_done);
}

/* ---- removing things ---- */

static void unlink_looked(struct sftp_call *call)
{
	if (call->have_attrs[0] && S_ISDIR(call->attrs[0].permissions))
		sftp_call_end(call, -EISDIR);
	else
		sftp_call_explain(call, -EIO);
}

static void unlink_done(struct sftp_call *call)
{
	const struct sftp_result *res = &call->res[0];

	if (res->error == 0 || (res->error == -ENOENT && res->retried)) {
		note_gone(call->e, call->path);
		sftp_call_end(call, 0);
	} else if (failure(res)) {
		(void)sftp_call_request(call, 0, CV_FXP_LSTAT);
		sftp_call_send(call, 1, unlink_looked);
	} else {
		sftp_call_end(call, res->error);
	}
}

void sftp_op_unlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	struct sftp_call *call = call_at(conn, op, dir->path, name);

	if (!call)
		return;
	sftp_call_changes(call, SFTP_CHANGES_PATH | SFTP_CHANGES_NAMES);
	(void)sftp_call_request(call, 0, CV_FXP_REMOVE);
	sftp_call_send(call, 1, unlink_done);
}

static void rmdir_open(struct sftp_call *call);

static void rmdir_listed(struct sftp_call *call)
{
	bool entries = call->res[0].error == 0 && call->have_entries;
	/* "." and ".." may come alone, the rest with the next answer. */
	bool more = call->res[0].error == 0 && !entries;
	bool lost = call->res[0].error == -ESTALE; /* the directory's handle, with its connection */

	if (more) {
		sftp_call_send(call, 1, rmdir_listed);
		return;
	}
	sftp_file_free(call->e, call->file);
	call->file = NULL;
	if (lost) {
		rmdir_open(call);
		return;
	}
	if (entries)
		sftp_call_end(call, -ENOTEMPTY);
	else
		sftp_call_explain(call, -EBUSY);
}

static void rmdir_opened(struct sftp_call *call)
{
	struct sftp_request *req;

	if (call->res[0].error == 0)
		call->file = sftp_file_new(call->e, call->path, 0, &call->handle, call->generation);
	if (!call->file) {
		sftp_call_explain(call, call->res[0].error == -ENOENT ? -ENOTDIR : -ENOTEMPTY);
		return;
	}
	call->file->open.is_dir = true;
	req = sftp_call_request(call, 0, CV_FXP_READDIR);
	req->open = &call->file->open;
	sftp_call_send(call, 1, rmdir_listed);
}

/* Refused: is it because of what is in it? */
static void rmdir_open(struct sftp_call *call)
{
	(void)sftp_call_request(call, 0, CV_FXP_OPENDIR);
	sftp_call_send(call, 1, rmdir_opened);
}

/* OpenSSH has no ENOTDIR: it says "no such file". */
static void rmdir_looked(struct sftp_call *call)
{
	bool other = call->have_attrs[0] && !S_ISDIR(call->attrs[0].permissions);

	sftp_call_end(call, other ? -ENOTDIR : -ENOENT);
}

static void rmdir_done(struct sftp_call *call)
{
	const struct sftp_result *res = &call->res[0];

	if (res->error == 0 || (res->error == -ENOENT && res->retried)) {
		forget_dirs(call->e);
		sftp_call_end(call, 0);
	} else if (res->error == -ENOENT) {
		(void)sftp_call_request(call, 0, CV_FXP_LSTAT);
		sftp_call_send(call, 1, rmdir_looked);
	} else if (failure(res)) {
		rmdir_open(call);
	} else {
		sftp_call_end(call, res->error);
	}
}

void sftp_op_rmdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	struct sftp_call *call = call_at(conn, op, dir->path, name);

	if (!call)
		return;
	sftp_call_changes(call, SFTP_CHANGES_PATH | SFTP_CHANGES_NAMES);
	(void)sftp_call_request(call, 0, CV_FXP_RMDIR);
	sftp_call_send(call, 1, rmdir_done);
}

/* ---- rename ---- */

static void rename_done(struct sftp_call *call);

static void rename_send(struct sftp_call *call)
{
	bool posix = sftp_offers(call->e, SFTP_EXT_POSIX_RENAME);
	struct sftp_request *req = sftp_call_request(call, 0, CV_FXP_RENAME);

	/* The plain request never replaces, which is just what NOREPLACE asks for. */
	if (posix && call->flags == 0) {
		req->type = CV_FXP_EXTENDED;
		req->ext = SFTP_EXT_POSIX_RENAME;
	}
	req->path2 = call->path2;
	sftp_call_send(call, 1, rename_done);
}

static void rename_success(struct sftp_call *call)
{
	forget_dirs(call->e);
	if (strcmp(call->path, call->path2) != 0) {
		note_gone(call->e, call->path2);
		note_renamed(call->e, call->path, call->path2);
	}
	sftp_call_end(call, 0);
}

static void rename_removed(struct sftp_call *call)
{
	if (call->res[0].error && call->res[0].error != -ENOENT) {
		sftp_call_end(call, failure(&call->res[0]) && call->req[0].type == CV_FXP_RMDIR
					    ? -ENOTEMPTY
					    : call->res[0].error);
		return;
	}
	rename_send(call);
}

/*
 * The server cannot replace: the target goes first. Not atomic, and if the second step fails the
 * target is gone: there is nothing to put back with.
 */
static void rename_replace(struct sftp_call *call, bool dir)
{
	struct sftp_request *req = sftp_call_request(call, 0, dir ? CV_FXP_RMDIR : CV_FXP_REMOVE);

	if (!call->e->said_no_rename) {
		cv_notice("sftp: the server cannot rename over an existing file; replacing is two "
			  "steps here and not atomic");
		call->e->said_no_rename = true;
	}
	call->replaced = true;
	/* What the first try said of the directories is out of date now. */
	call->have_attrs[SFTP_CALL_DIR] = call->have_attrs[SFTP_CALL_NEWDIR] = false;
	req->path = call->path2;
	sftp_call_send(call, 1, rename_removed);
}

/* attrs[0]: the source, attrs[1]: the target, as they are after the refusal. */
static void rename_looked(struct sftp_call *call)
{
	bool src = call->have_attrs[0];
	bool dst = call->have_attrs[1];
	bool src_dir = src && S_ISDIR(call->attrs[0].permissions);
	bool dst_dir = dst && S_ISDIR(call->attrs[1].permissions);
	bool posix = sftp_offers(call->e, SFTP_EXT_POSIX_RENAME);

	if (call->unsure && !src && dst)
		rename_success(call);
	else if ((call->flags & RENAME_NOREPLACE) && src && dst)
		sftp_call_end(call, -EEXIST);
	else if ((call->verdict == -EIO || call->verdict == -ENOENT) && src && dst &&
		 dst_dir != src_dir)
		sftp_call_end(call, dst_dir ? -EISDIR : -ENOTDIR);
	else if (call->verdict != -EIO)
		sftp_call_end(call, call->verdict);
	else if (src && dst && !posix && !call->replaced)
		rename_replace(call, dst_dir);
	else if (src && dst_dir)
		sftp_call_end(call, -ENOTEMPTY);
	else
		/* mv then copies, which fails with the true reason if this is not it. */
		sftp_call_explain(call, -EXDEV);
}

static void rename_done(struct sftp_call *call)
{
	struct sftp_request *req;

	if (call->res[0].error == 0) {
		rename_success(call);
		return;
	}
	if (sftp_broken_promise(call, SFTP_EXT_POSIX_RENAME)) {
		rename_send(call);
		return;
	}
	if (call->res[0].status == 0) { /* the link's own verdict: nobody to ask */
		sftp_call_end(call, call->res[0].error);
		return;
	}
	call->unsure |= call->res[0].retried;
	call->verdict = failure(&call->res[0]) ? -EIO : call->res[0].error;
	(void)sftp_call_request(call, 0, CV_FXP_LSTAT);
	req = sftp_call_request(call, 1, CV_FXP_LSTAT);
	req->path = call->path2;
	sftp_call_send(call, 2, rename_looked);
}

void sftp_op_rename(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    const struct cv_object *newdir, const char *newname, unsigned flags)
{
	struct sftp_engine *e = conn;
	struct sftp_call *call;

	if (flags & ~(unsigned)RENAME_NOREPLACE) {
		op->done(op, -EINVAL);
		return;
	}
	call = call_at(conn, op, dir->path, name);
	if (!call)
		return;
	call->flags = (int)flags;
	call->path2 = sftp_path(e, newdir->path, newname);
	if (!call->path2) {
		sftp_call_end(call, -ENOMEM);
		return;
	}
	rename_begins(call);
	sftp_call_changes(call, SFTP_CHANGES_PATH | SFTP_CHANGES_PATH2 | SFTP_CHANGES_NAMES);
	rename_send(call);
}

/* ---- readlink ---- */

/* Number of components in path; "" has none. */
static size_t components(const char *path)
{
	size_t n = 0;

	while (*path) {
		size_t len = strcspn(path, "/");

		n += len > 0;
		path += len + (path[len] == '/');
	}
	return n;
}

/* Does a relative target, read in a directory that many levels down, ever leave the mount? */
static bool climbs_out(const char *target, size_t depth)
{
	while (*target) {
		size_t len = strcspn(target, "/");

		if (len == 2 && target[0] == '.' && target[1] == '.') {
			if (depth-- == 0)
				return true;
		} else if (len > 0 && !(len == 1 && target[0] == '.')) {
			depth++;
		}
		target += len + (target[len] == '/');
	}
	return false;
}

char *sftp_contain(const char *root, const char *path, const char *target)
{
	size_t n = strlen(root);
	size_t depth = components(path);
	const char *rest;
	char *out;
	char *p;

	if (depth > 0)
		depth--; /* the link itself */
	if (target[0] != '/') {
		if (climbs_out(target, depth)) {
			errno = EPERM;
			return NULL;
		}
		return strdup(target);
	}
	rest = target + n;
	if (strncmp(target, root, n) != 0 || (*rest && *rest != '/') || climbs_out(rest, 0)) {
		errno = EPERM;
		return NULL;
	}
	rest += strspn(rest, "/");
	out = malloc(depth * 3 + strlen(rest) + 2);
	if (!out)
		return NULL;
	p = out;
	for (size_t i = 0; i < depth; i++) {
		memcpy(p, "../", 3);
		p += 3;
	}
	memcpy(p, rest, strlen(rest) + 1);
	if (!*rest) /* the mount's root itself */
		memcpy(depth > 0 ? p - 1 : p, depth > 0 ? "" : ".", depth > 0 ? 1 : 2);
	return out;
}

static void readlink_done(struct sftp_call *call)
{
	if (call->res[0].error || !call->text) {
		int r = call->res[0].error;

		/* Not a symbolic link, if the server has no better word. */
		sftp_call_end(call, failure(&call->res[0]) ? -EINVAL : r ? r : -EIO);
		return;
	}
	if (call->e->symlinks == SFTP_SYMLINKS_CONTAIN) {
		char *text = sftp_contain(call->e->root, call->inner, call->text);

		if (!text) {
			sftp_call_end(call, -errno);
			return;
		}
		free(call->text);
		call->text = text;
	}
	call->op->data = call->text;
	sftp_call_end(call, (ssize_t)strlen(call->text));
}

void sftp_op_readlink(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct sftp_call *call = call_at(conn, op, obj->path, NULL);

	if (!call)
		return;
	call->inner = strdup(obj->path);
	if (!call->inner) {
		sftp_call_end(call, -ENOMEM);
		return;
	}
	(void)sftp_call_request(call, 0, CV_FXP_READLINK);
	sftp_call_send(call, 1, readlink_done);
}

/* ---- open, create, mknod ---- */

static uint32_t open_pflags(int flags)
{
	switch (flags & O_ACCMODE) {
	case O_WRONLY:
		return CV_FXF_WRITE;
	case O_RDWR:
		return CV_FXF_READ | CV_FXF_WRITE;
	default:
		return CV_FXF_READ;
	}
}

bool sftp_too_many_open(const struct sftp_engine *e)
{
	uint64_t max = e->link.session.handles_max;

	return max > HANDLE_RESERVE && e->link.open_handles + HANDLE_RESERVE >= max;
}

static void opened_stat_done(struct sftp_call *call)
{
	if (call->res[0].error) {
		sftp_call_end(call, call->res[0].error);
		return;
	}
	note_attrs(call->op->file, &call->attrs[0]);
	end_attr(call, &call->attrs[0]);
}

/* The handle is there; attrs[1] are those of the name, unless it is not a plain file. */
static void opened(struct sftp_call *call)
{
	struct sftp_request *req;
	struct cv_file *file = sftp_file_new(call->e, call->path, open_pflags(call->flags),
					     &call->handle, call->generation);

	if (!file) {
		sftp_call_end(call, -ENOMEM);
		return;
	}
	call->op->file = file;
	sftp_first_opened(call->e, call->path);
	if (call->have_attrs[1] && S_ISREG(call->attrs[1].permissions)) {
		note_attrs(file, &call->attrs[1]);
		file->open.untouched =
			(file->open.pflags & CV_FXF_WRITE) && !is_touched(call->e, file);
		if (call->first)
			sftp_first_give(call->first, file);
		call->first = NULL;
		if (call->created)
			end_created(call);
		else
			end_attr(call, &call->attrs[1]);
		return;
	}
	/* Those that are asked for now are younger than what was read along. */
	sftp_first_drop(call->first);
	call->first = NULL;
	req = sftp_call_request(call, 0, CV_FXP_FSTAT);
	req->open = &file->open;
	sftp_call_send(call, 1, opened_stat_done);
}

static void open_done(struct sftp_call *call)
{
	const struct sftp_result *res = &call->res[0];

	if (res->error == 0)
		opened(call);
	else if (failure(res) && call->have_attrs[1] && S_ISDIR(call->attrs[1].permissions))
		sftp_call_end(call, -EISDIR);
	else if (failure(res))
		sftp_call_explain(call, -EIO);
	else
		sftp_call_end(call, res->error);
}

/* Would opening for writing empty the file, though nobody asked for that? */
static bool would_empty(struct sftp_call *call, uint32_t pflags, const struct cv_sftp_attrs *attrs)
{
	struct sftp_engine *e = call->e;

	if (!e->link.session.open_empties || !(pflags & CV_FXF_WRITE) ||
	    (pflags & (CV_FXF_TRUNC | CV_FXF_EXCL)) || attrs->size == 0)
		return false;
	if (!e->said_no_update)
		cv_notice("sftp: the server empties every file it opens for writing; files can "
			  "only be "
			  "written anew here, not changed");
	e->said_no_update = true;
	return true;
}

/* OPEN, and in the same round trip the name's attributes and, for reading, the first of the data.
 */
static void open_send(struct sftp_call *call, uint32_t pflags, void (*then)(struct sftp_call *))
{
	struct sftp_request *req = sftp_call_request(call, 0, CV_FXP_OPEN);

	req->pflags = pflags;
	if (pflags & CV_FXF_CREAT) {
		req->attrs.flags = CV_FXA_PERMISSIONS;
		req->attrs.permissions = call->mode & 07777;
	}
	if (pflags == CV_FXF_READ)
		req->foreseen = sftp_first_new(call->e, call->path, &call->first);
	(void)sftp_call_request(call, 1, CV_FXP_LSTAT);
	sftp_call_send(call, 2, then);
	if (req->foreseen)
		sftp_first_ask(call->first);
}

static void open_looked(struct sftp_call *call)
{
	if (call->res[0].error)
		sftp_call_end(call, call->res[0].error);
	else if (would_empty(call, open_pflags(call->flags), &call->attrs[0]))
		sftp_call_end(call, -EOPNOTSUPP);
	else
		open_send(call, open_pflags(call->flags), open_done);
}

void sftp_op_open(void *conn, struct cv_op *op, const struct cv_object *obj, int flags)
{
	struct sftp_call *call = call_at(conn, op, obj->path, NULL);
	uint32_t pflags = open_pflags(flags);

	if (!call)
		return;
	if (sftp_too_many_open(call->e)) {
		sftp_call_end(call, -ENFILE);
		return;
	}
	call->flags = flags;
	if ((flags & O_TRUNC) && (pflags & CV_FXF_WRITE)) {
		sftp_call_changes(call, SFTP_CHANGES_PATH);
		sftp_files_touched(call->e, NULL, call->path);
		pflags |= CV_FXF_TRUNC;
	}
	if (call->e->link.session.open_empties && (pflags & CV_FXF_WRITE) &&
	    !(pflags & CV_FXF_TRUNC)) {
		(void)sftp_call_request(call, 0, CV_FXP_LSTAT);
		sftp_call_send(call, 1, open_looked);
		return;
	}
	open_send(call, pflags, open_done);
}

/*
 * Always exclusive at first: only then is it known whether the mode is ours to correct. What turns
 * out to exist is opened as it is, if the caller allows that.
 */
static void create_done(struct sftp_call *call)
{
	const struct sftp_result *res = &call->res[0];
	uint32_t pflags = open_pflags(call->flags);
	bool there = call->have_attrs[1];

	if (res->error == 0) {
		call->created = true;
		opened(call);
		return;
	}
	if (!failure(res)) {
		sftp_call_end(call, res->error);
		return;
	}
	if (!there) {
		sftp_call_explain(call, -EIO);
	} else if (res->retried && S_ISREG(call->attrs[1].permissions) &&
		   call->attrs[1].size == 0) {
		call->created = true; /* by the try whose answer was lost */
		open_send(call, pflags, open_done);
	} else if (call->flags & O_EXCL) {
		sftp_call_end(call, -EEXIST);
	} else {
		if ((call->flags & O_TRUNC) && (pflags & CV_FXF_WRITE)) {
			sftp_files_touched(call->e, NULL, call->path);
			pflags |= CV_FXF_TRUNC;
		}
		if (would_empty(call, pflags, &call->attrs[1]))
			sftp_call_end(call, -EOPNOTSUPP);
		else
			open_send(call, pflags, open_done);
	}
}

void sftp_op_create(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    int flags, uint32_t mode)
{
	struct sftp_call *call = call_at(conn, op, dir->path, name);

	if (!call)
		return;
	if (sftp_too_many_open(call->e)) {
		sftp_call_end(call, -ENFILE);
		return;
	}
	sftp_call_changes(call, SFTP_CHANGES_PATH | SFTP_CHANGES_NAMES);
	call->flags = flags;
	call->mode = mode;
	open_send(call, open_pflags(flags) | CV_FXF_CREAT | CV_FXF_EXCL, create_done);
}

static void mknod_done(struct sftp_call *call)
{
	const struct sftp_result *res = &call->res[0];
	bool there = call->have_attrs[1];
	bool ours = failure(res) && res->retried && there && S_ISREG(call->attrs[1].permissions) &&
		    call->attrs[1].size == 0;

	if (res->error == 0)
		sftp_link_close_handle(&call->e->link, &call->handle, call->generation);
	if ((res->error == 0 && there) || ours)
		end_created(call);
	else if (res->error == 0)
		sftp_call_end(call, call->res[1].error ? call->res[1].error : -EIO);
	else if (failure(res) && there)
		sftp_call_end(call, -EEXIST);
	else if (failure(res))
		sftp_call_explain(call, -EIO);
	else
		sftp_call_end(call, res->error);
}

void sftp_op_mknod(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   uint32_t mode, uint64_t rdev)
{
	char target[SFTP_SPECIAL_SIZE + 1];
	struct sftp_call *call;

	if ((mode & S_IFMT) != S_IFREG && (mode & S_IFMT) != 0) {
		/* The protocol has no other kind; EPERM is what mknod(2) says of such file systems.
		 */
		if (sftp_special_can(conn) && sftp_special_format(mode, rdev, target))
			sftp_op_symlink(conn, op, dir, name, target);
		else
			op->done(op, -EPERM);
		return;
	}
	call = call_at(conn, op, dir->path, name);
	if (!call)
		return;
	sftp_call_changes(call, SFTP_CHANGES_PATH | SFTP_CHANGES_NAMES);
	call->mode = mode;
	open_send(call, CV_FXF_WRITE | CV_FXF_CREAT | CV_FXF_EXCL, mknod_done);
}

void sftp_op_release(void *conn, struct cv_file *file)
{
	sftp_file_free(conn, file);
}

/* ---- statfs ---- */

/* Not known; programs that check for space first must not be stopped by that. */
static void statfs_unknown(struct statvfs *st)
{
	*st = (struct statvfs){ .f_bsize = 4096,
				.f_frsize = 4096,
				.f_blocks = 1u << 28,
				.f_bfree = 1u << 28,
				.f_bavail = 1u << 28,
				.f_namemax = CV_NAME_MAX };
}

static void statfs_done(struct sftp_call *call)
{
	struct statvfs *st = &call->op->statvfs;
	const uint64_t *v = call->statvfs;

	if (sftp_broken_promise(call, SFTP_EXT_STATVFS)) { /* rclone */
		statfs_unknown(st);
		sftp_call_end(call, 0);
		return;
	}
	if (call->res[0].error || !call->have_statvfs) {
		sftp_call_end(call, call->res[0].error ? call->res[0].error : -EIO);
		return;
	}
	st->f_bsize = v[0];
	st->f_frsize = v[1];
	st->f_blocks = v[2];
	st->f_bfree = v[3];
	st->f_bavail = v[4];
	st->f_files = v[5];
	st->f_ffree = v[6];
	st->f_favail = v[7];
	st->f_fsid = v[8];
	st->f_flag = v[9];
	st->f_namemax = v[10] ? v[10] : CV_NAME_MAX;
	sftp_call_end(call, 0);
}

void sftp_op_statfs(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct sftp_engine *e = conn;
	struct sftp_call *call;
	struct sftp_request *req;

	if (!sftp_offers(e, SFTP_EXT_STATVFS)) {
		statfs_unknown(&op->statvfs);
		op->done(op, 0);
		return;
	}
	call = call_at(conn, op, obj->path, NULL);
	if (!call)
		return;
	req = sftp_call_request(call, 0, CV_FXP_EXTENDED);
	req->ext = SFTP_EXT_STATVFS;
	sftp_call_send(call, 1, statfs_done);
}
