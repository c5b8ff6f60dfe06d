/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Further connections, for file data only. Everything else stays on the first one, in its order.
 *
 * A server grants a channel two megabytes and then waits for us to hear of it: over a long line one
 * connection is a fraction of it. And what stands in a queue of bulk data waits with it. So a file
 * that moves a lot of data is opened again on a connection of its own, and its READs and WRITEs go
 * where least is under way. To a far server the first of these are channels beside the first one,
 * on its connection: each has a window of its own, and none costs a login.
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

#define START_BYTES    (8u << 20)   /* moved by a file before another connection is worth it */
#define CHANNEL_BYTES  (2u << 20)   /* the same for a channel, which costs no login: one's window */
#define KEEP_FREE      (512u << 10) /* of bulk that the first connection has less than others */
#define TICK_MS	       30000	    /* two of them without bulk: further connections are closed */
#define RETRY_NS       30000000000ull
#define FAR_RTT_US     1000	   /* from here on a second connection is the default, */
#define FAR_BYTES      (64u << 20) /* for streams that last longer than its login */
#define CHANNEL_RTT_US 3000	   /* from here on one channel's window is not enough */
#define CHANNELS       3

/* A file's handle on one of the further links. */
struct sftp_other {
	struct sftp_joining *j;
	bool good;
	struct sftp_open open;
	struct sftp_request req; /* OPEN, then FSTAT */
};

/* They are on their way, all at once. */
struct sftp_joining {
	struct sftp_engine *e;
	struct cv_file *file;	     /* NULL: closed meanwhile */
	struct sftp_open own;	     /* a copy of the file's first handle, */
	struct sftp_request own_req; /* whose FSTAT is compared with the others' */
	bool own_waits;		     /* for writes on other connections */
	bool at_once;		     /* it is asked along with the OPENs, not behind them */
	bool have_attrs;
	struct cv_sftp_attrs attrs;
	char *path;
	unsigned pending;
	struct sftp_other others[SFTP_FURTHER_MAX];
};

/* ---- the connections ---- */

static bool up(const struct sftp_link *link)
{
	return link->state == SFTP_LINK_UP;
}

static bool same_server(const struct sftp_link *first, const struct sftp_link *link)
{
	const struct sftp_session *a = &first->session;
	const struct sftp_session *b = &link->session;

	if (link->base == first)
		return true;
	return cv_ssh_same_peer(a->ssh, b->ssh) && a->extensions == b->extensions &&
	       !a->process == !b->process && b->read_max >= a->read_max &&
	       b->write_max >= a->write_max;
}

/* It has come up, could not, or is lost; or the first one is a new one. */
static void changed(struct sftp_link *link)
{
	struct sftp_engine *e = link->owner;

	if (!up(link) && up(&e->link))
		e->bulk.retry_ns = cv_now_ns() + RETRY_NS;
	if (!up(link) || !up(&e->link))
		return;
	link->beside = e->link.generation;
	link->fits = same_server(&e->link, link);
	cv_debug("sftp: a further %s is up%s", link->base ? "channel" : "connection",
		 link->fits ? "" : " but leads to another server: not used");
}

static bool usable(const struct sftp_engine *e, const struct sftp_link *link)
{
	return up(link) && link->fits && link->beside == e->link.generation;
}

/* How many bytes a file has to move before it is worth that link. */
static uint64_t worth_bytes(const struct sftp_bulk *b, const struct sftp_link *link)
{
	return link->base ? CHANNEL_BYTES : b->worth_bytes;
}

static void bring_up(struct sftp_engine *e, uint64_t moved)
{
	struct sftp_bulk *b = &e->bulk;

	if (!up(&e->link) || cv_now_ns() < b->retry_ns)
		return;
	while (b->count < b->wanted) {
		struct sftp_link *link =
			b->count < b->channels
				? sftp_link_channel(&e->link, b->count + 1, e, changed)
				: sftp_link_further(&e->link, b->count + 1, e, changed);

		if (!link)
			break;
		b->links[b->count++] = link;
	}
	for (unsigned i = 0; i < b->count; i++) {
		if (moved >= worth_bytes(b, b->links[i]))
			sftp_link_try(b->links[i]);
	}
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
	struct sftp_bulk *b = &e->bulk;
	uint32_t rtt_us = e->link.session.rtt_us;
	bool far = rtt_us >= FAR_RTT_US;
	uint64_t n = cv_options_uint(&e->options, "connections", far ? 2 : 1);

	b->channels = rtt_us >= CHANNEL_RTT_US && e->link.session.openssh ? CHANNELS : 0;
	b->worth_bytes = cv_dict_get(&e->options, "connections") ? START_BYTES : FAR_BYTES;
	b->wanted = b->channels + (n > 0 ? (unsigned)n - 1 : 0);
	if (b->wanted > SFTP_FURTHER_MAX)
		b->wanted = SFTP_FURTHER_MAX;
	b->tick = (struct cv_timer)CV_TIMER_INIT(tick);
	/* They are there before the first large file is. */
	if (b->channels)
		bring_up(e, CHANNEL_BYTES);
}

void sftp_bulk_release(struct sftp_engine *e)
{
	cv_timer_cancel(e->loop, &e->bulk.tick);
	close_all(e);
}

/* ---- a file's further handles ---- */

/* Ends an attempt: with the handles that are good. */
static void joined(struct sftp_joining *j)
{
	struct sftp_engine *e = j->e;
	struct cv_file *file = j->file;
	unsigned count = 0;

	for (unsigned i = 0; i < SFTP_FURTHER_MAX; i++) {
		struct sftp_other *o = &j->others[i];
		struct sftp_open *open = o->good && file ? malloc(sizeof(*open)) : NULL;

		if (open) {
			*open = o->open;
			open->writes = 0;
			file->further[i] = open;
			count++;
		} else if (i < e->bulk.count) {
			sftp_link_close_handle(e->bulk.links[i], &o->open.handle,
					       o->open.generation);
		}
	}
	free(j->path);
	free(j);
	if (!file)
		return;
	cv_debug("sftp: '%s' has %u further handles", file->open.path, count);
	file->joining = NULL;
	file->alone = file->alone || count == 0;
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
	struct sftp_other *o = cv_container_of(req, struct sftp_other, req);
	struct cv_sftp_attrs attrs;

	o->good = take_attrs(reply, &attrs) && equal(&o->j->attrs, &attrs);
	if (--o->j->pending == 0)
		joined(o->j);
}

/* Both sides of the comparison are known, or all that will be. */
static void compare(struct sftp_joining *j)
{
	bool good = j->have_attrs && j->file && up(&j->e->link);

	j->pending = 1; /* this */
	for (unsigned i = 0; i < j->e->bulk.count && good; i++) {
		struct sftp_other *o = &j->others[i];

		if (o->open.generation == 0 || !up(j->e->bulk.links[i]))
			continue;
		o->req.type = CV_FXP_FSTAT;
		o->req.open = &o->open;
		o->req.done = other_stat_done;
		j->pending++;
		sftp_link_submit(j->e->bulk.links[i], &o->req);
	}
	if (--j->pending == 0)
		joined(j);
}

static void own_stat_done(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_joining *j = cv_container_of(req, struct sftp_joining, own_req);

	j->have_attrs = take_attrs(reply, &j->attrs);
	if (--j->pending == 0)
		compare(j);
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

/* From here until all are compared no write is started; the answer comes behind those that are
 * under way. */
static void hold(struct sftp_joining *j)
{
	j->file->held = true;
	j->pending++;
	j->own_waits = j->file->far_writes > 0;
	if (!j->own_waits)
		ask_own(j);
}

static void other_opened(struct sftp_request *req, struct sftp_reply *reply)
{
	struct sftp_other *o = cv_container_of(req, struct sftp_other, req);
	struct sftp_joining *j = o->j;
	size_t i = (size_t)(o - j->others);

	if (reply->error == 0)
		sftp_open_take(&o->open, reply, j->e->bulk.links[i]->generation);
	if (--j->pending > 0)
		return;
	if (j->at_once)
		compare(j);
	else if (!j->file || !up(&j->e->link))
		joined(j);
	else
		hold(j);
}

static void join(struct sftp_engine *e, struct cv_file *file, unsigned links)
{
	struct sftp_joining *j = calloc(1, sizeof(*j));

	if (j)
		j->path = strdup(file->open.path);
	if (!j || !j->path) {
		free(j);
		return;
	}
	j->e = e;
	j->file = file;
	/* On one connection, the OPENs are answered when a write would be: nothing waits for longer
	 * than that. Another connection may be slow to answer, or never do. */
	j->at_once = true;
	file->joining = j;
	for (unsigned i = 0; i < e->bulk.count; i++) {
		struct sftp_other *o = &j->others[i];

		if (!(links & 1u << i))
			continue;
		j->at_once = j->at_once && e->bulk.links[i]->base;
		o->j = j;
		o->open.elsewhere = true;
		o->req.type = CV_FXP_OPEN;
		o->req.path = j->path;
		o->req.pflags = file->open.pflags;
		o->req.done = other_opened;
		j->pending++;
		sftp_link_submit(e->bulk.links[i], &o->req);
	}
	if (j->at_once)
		hold(j);
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
	unsigned links = 0;

	if (b->wanted == 0)
		return;
	b->moved += size;
	file->moved += size;
	if (file->moved < (b->channels ? CHANNEL_BYTES : b->worth_bytes) || file->joining ||
	    file->open.gone || (e->link.session.open_empties && (file->open.pflags & CV_FXF_WRITE)))
		return;
	bring_up(e, file->moved);
	for (unsigned i = 0; i < b->count && !file->alone; i++) {
		struct sftp_open *open = file->further[i];

		if (up(b->links[i]) && b->links[i]->beside != e->link.generation)
			changed(b->links[i]);
		if (!usable(e, b->links[i]) || file->moved < worth_bytes(b, b->links[i]))
			continue;
		if (open && open->generation == b->links[i]->generation)
			continue;
		/* Of a connection that is lost; nothing is under way with it any more. */
		free(open);
		file->further[i] = NULL;
		links |= 1u << i;
	}
	if (links)
		join(e, file, links);
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
