/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Further connections, for file data only. Everything else stays on the first one, in its order.
 *
 * A server grants a channel two megabytes and then waits for us to hear of it: over a long line one
 * connection is a fraction of it. And what stands in a queue of bulk data waits with it. So a file
 * that moves a lot of data is opened again on a connection of its own, and its READs and WRITEs go
 * where least is under way.
 *
 * A handle belongs to its connection, and SFTP has no identity by which the second handle could be
 * known to be of the same file. Both are asked for their attributes while no write is under way;
 * only if all are equal the second is used. When a further connection is lost, what was under way
 * goes over the first one (each request has its offset, so that repeating is safe) and nobody waits
 * for it to come back.
 */
#include "backends/sftp.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"

#define START_BYTES (8u << 20)	 /* moved by a file before another connection is worth it */
#define KEEP_FREE   (512u << 10) /* of bulk that the first connection has less than others */
#define TICK_MS	    30000	 /* two of them without bulk: further connections are closed */
#define RETRY_NS    30000000000ull
#define FAR_RTT_US  1000 /* from here on a second connection is the default */

/* A file's handle on a further connection, on its way. */
struct sftp_joining {
	struct sftp_engine *e;
	struct cv_file *file; /* NULL: closed meanwhile */
	unsigned index;
	struct sftp_open own;	     /* a copy of the file's first handle, */
	struct sftp_request own_req; /* whose FSTAT is compared with the other's */
	bool own_waits;		     /* for writes on other connections */
	struct sftp_open other;
	struct sftp_request other_req; /* OPEN, then FSTAT */
	struct cv_sftp_attrs attrs;
};

/* ---- the connections ---- */

static bool up(const struct sftp_link *link)
{
	return link->state == SFTP_LINK_UP;
}

static bool same_server(const struct sftp_session *a, const struct sftp_session *b)
{
	return cv_ssh_same_peer(a->ssh, b->ssh) && a->extensions == b->extensions &&
	       b->read_max >= a->read_max && b->write_max >= a->write_max;
}

/* It has come up, could not, or is lost; or the first one is a new one. */
static void changed(struct sftp_link *link)
{
	struct sftp_engine *e = link->owner;

	if (!up(link))
		e->bulk.retry_ns = cv_now_ns() + RETRY_NS;
	if (!up(link) || !up(&e->link))
		return;
	link->beside = e->link.generation;
	link->fits = same_server(&e->link.session, &link->session);
	cv_debug("sftp: a further connection is up%s",
		 link->fits ? "" : " but leads to another server: not used");
}

static bool usable(const struct sftp_engine *e, const struct sftp_link *link)
{
	return up(link) && link->fits && link->beside == e->link.generation;
}

static void bring_up(struct sftp_engine *e)
{
	struct sftp_bulk *b = &e->bulk;

	if (!up(&e->link) || cv_now_ns() < b->retry_ns)
		return;
	while (b->count < b->wanted) {
		struct sftp_link *link = sftp_link_further(&e->link, e, changed);

		if (!link)
			break;
		b->links[b->count++] = link;
	}
	for (unsigned i = 0; i < b->count; i++)
		sftp_link_try(b->links[i]);
	if (!b->tick.index)
		(void)cv_timer_set(e->loop, &b->tick, TICK_MS);
}

static bool in_use(const struct sftp_engine *e)
{
	const struct sftp_bulk *b = &e->bulk;

	for (unsigned i = 0; i < b->count; i++) {
		if (b->links[i]->in_flight || b->links[i]->reads.head || b->links[i]->writes.head ||
		    b->links[i]->meta.head)
			return true;
	}
	for (const struct cv_file *f = e->files; f; f = f->next) {
		if (f->joining)
			return true;
	}
	return b->moved > 0;
}

static void close_all(struct sftp_engine *e)
{
	struct sftp_bulk *b = &e->bulk;

	for (struct cv_file *f = e->files; f; f = f->next)
		sftp_bulk_forget(e, f);
	while (b->count > 0) {
		struct sftp_link *link = b->links[b->count - 1];

		sftp_link_stop(link);
		free(link);
		b->links[--b->count] = NULL;
	}
}

static void tick(struct cv_timer *timer)
{
	struct sftp_bulk *b = cv_container_of(timer, struct sftp_bulk, tick);
	struct sftp_engine *e = cv_container_of(b, struct sftp_engine, bulk);

	b->quiet = in_use(e) ? 0 : b->quiet + 1;
	b->moved = 0;
	if (b->quiet < 2)
		(void)cv_timer_set(e->loop, &b->tick, TICK_MS);
	else
		close_all(e);
}

void sftp_bulk_init(struct sftp_engine *e)
{
	bool far = e->link.session.rtt_us >= FAR_RTT_US;
	uint64_t n = cv_options_uint(&e->options, "connections", far ? 2 : 1);

	e->bulk.wanted = n > SFTP_FURTHER_MAX ? SFTP_FURTHER_MAX : n > 0 ? (unsigned)n - 1 : 0;
	e->bulk.tick = (struct cv_timer)CV_TIMER_INIT(tick);
}

void sftp_bulk_release(struct sftp_engine *e)
{
	cv_timer_cancel(e->loop, &e->bulk.tick);
	close_all(e);
}

/* ---- a file's further handles ---- */

/* Ends an attempt: with a handle that is good, or without. */
static void joined(struct sftp_joining *j, bool good)
{
	struct sftp_engine *e = j->e;
	struct sftp_link *link = e->bulk.links[j->index];
	struct cv_file *file = j->file;
	struct sftp_open *open = good && file ? malloc(sizeof(*open)) : NULL;

	if (open) {
		*open = j->other;
		open->writes = 0;
		file->further[j->index] = open;
	} else {
		sftp_link_close_handle(link, &j->other.handle, j->other.generation);
	}
	free(j->other_req.path);
	free(j);
	if (!file)
		return;
	cv_debug("sftp: '%s' on a further connection: %s", file->open.path,
		 open ? "yes" : "not known to be the same file");
	file->joining = NULL;
	file->alone = file->alone || !open;
	file->held = false;
	sftp_backlog_go(e);
}

static bool equal(const struct cv_sftp_attrs *a, const struct cv_sftp_attrs *b)
{
	const uint32_t needed = CV_FXA_SIZE | CV_FXA_UIDGID | CV_FXA_PERMISSIONS | CV_FXA_ACMODTIME;

	return (a->flags & b->flags & needed) == needed && S_ISREG(a->permissions) &&
	       a->size == b->size && a->mtime == b->mtime && a->permissions == b->permissions &&
	       a->uid == b->uid && a->gid == b->gid;
}

static bool take_attrs(struct sftp_reply *reply, struct cv_sftp_attrs *ret)
{
	struct cv_sftp_in in = { reply->body, reply->size, false };

	if (reply->type != CV_FXP_ATTRS)
		return false;
	cv_sftp_get_attrs(&in, ret);
	return !in.bad;
}

static void other_stat_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_joining *j = cv_container_of(req, struct sftp_joining, other_req);
	struct cv_sftp_attrs attrs;

	joined(j, take_attrs(reply, &attrs) && equal(&j->attrs, &attrs));
}

static void own_stat_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_joining *j = cv_container_of(req, struct sftp_joining, own_req);
	struct sftp_link *link = j->e->bulk.links[j->index];

	if (!take_attrs(reply, &j->attrs) || !j->file || !up(link)) {
		joined(j, false);
		return;
	}
	j->other_req.type = CV_FXP_FSTAT;
	j->other_req.open = &j->other;
	j->other_req.done = other_stat_done;
	sftp_link_submit(link, &j->other_req);
}

static void ask_own(struct sftp_joining *j)
{
	j->own_waits = false;
	j->own.handle = j->file->open.handle;
	j->own.generation = j->file->open.generation;
	j->own.elsewhere = true;
	j->own_req.type = CV_FXP_FSTAT;
	j->own_req.open = &j->own;
	j->own_req.behind_writes = true;
	j->own_req.done = own_stat_done;
	sftp_link_submit(&j->e->link, &j->own_req);
}

static void other_opened(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_joining *j = cv_container_of(req, struct sftp_joining, other_req);

	if (reply->error == 0)
		sftp_open_take(&j->other, reply, j->e->bulk.links[j->index]->generation);
	if (reply->error || !j->file || !up(&j->e->link)) {
		joined(j, false);
		return;
	}
	/* From here until both are compared no write is started; the answer comes behind those
	 * that are under way. */
	j->file->held = true;
	j->own_waits = j->file->far_writes > 0;
	if (!j->own_waits)
		ask_own(j);
}

static void join(struct sftp_engine *e, struct cv_file *file, unsigned index)
{
	struct sftp_joining *j = calloc(1, sizeof(*j));

	if (j)
		j->other_req.path = strdup(file->open.path);
	if (!j || !j->other_req.path) {
		free(j);
		return;
	}
	j->e = e;
	j->file = file;
	j->index = index;
	j->other.elsewhere = true;
	j->other_req.type = CV_FXP_OPEN;
	j->other_req.pflags = file->open.pflags;
	j->other_req.done = other_opened;
	file->joining = j;
	sftp_link_submit(e->bulk.links[index], &j->other_req);
}

void sftp_bulk_settled(struct cv_file *file)
{
	struct sftp_call *call;

	if (file->joining && file->joining->own_waits && !file->far_writes)
		ask_own(file->joining);
	while (!file->loose_writes && (call = file->parked)) {
		file->parked = call->next_parked;
		call->then(call);
	}
}

void sftp_bulk_forget(struct sftp_engine *e, struct cv_file *file)
{
	if (file->joining)
		file->joining->file = NULL;
	file->joining = NULL;
	for (unsigned i = 0; i < SFTP_FURTHER_MAX; i++) {
		struct sftp_open *open = file->further[i];

		if (open && i < e->bulk.count)
			sftp_link_close_handle(e->bulk.links[i], &open->handle, open->generation);
		free(open);
		file->further[i] = NULL;
	}
}

/* ---- which way ---- */

void sftp_bulk_moved(struct sftp_engine *e, struct cv_file *file, size_t size)
{
	struct sftp_bulk *b = &e->bulk;

	if (b->wanted == 0)
		return;
	b->moved += size;
	file->moved += size;
	if (file->moved < START_BYTES || file->joining || file->open.gone ||
	    (e->link.session.open_empties && (file->open.pflags & CV_FXF_WRITE)))
		return;
	bring_up(e);
	for (unsigned i = 0; i < b->count && !file->alone; i++) {
		struct sftp_open *open = file->further[i];

		if (b->links[i]->beside != e->link.generation)
			changed(b->links[i]);
		if (!usable(e, b->links[i]))
			continue;
		if (open && open->generation == b->links[i]->generation)
			continue;
		/* Of a connection that is lost; nothing is under way with it any more. */
		free(open);
		file->further[i] = NULL;
		join(e, file, i);
		return;
	}
}

static size_t load(const struct sftp_link *link)
{
	return link->bulk_bytes[SFTP_READS] + link->bulk_bytes[SFTP_WRITES];
}

int sftp_bulk_way(const struct sftp_engine *e, const struct cv_file *file, int kind)
{
	const struct sftp_bulk *b = &e->bulk;
	bool first = b->wanted == 0 || sftp_link_room(&e->link, kind);
	size_t least = first ? load(&e->link) + KEEP_FREE : SIZE_MAX;
	int way = first ? 0 : -1;

	/* Not past a copy to the same file that nobody waits for any more. */
	if (kind == SFTP_WRITES && e->copies)
		return way;
	for (unsigned i = 0; i < b->count; i++) {
		const struct sftp_open *open = file->further[i];
		const struct sftp_link *link = b->links[i];

		if (open && usable(e, link) && open->generation == link->generation &&
		    sftp_link_room(link, kind) && load(link) < least) {
			least = load(link);
			way = (int)i + 1;
		}
	}
	return way;
}
