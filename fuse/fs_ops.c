/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <malloc.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "fuse/exiting.h"
#include "fuse/takeover.h"

#define RECEIVE_BATCH	   64	/* requests taken per turn before others get theirs */
#define INTERRUPT_GRACE_MS 400	/* a healthy server answers in time: no spurious EINTR */
#define IDLE_TRIM_MS	   5000 /* burst memory goes back after this */
#define MAX_BACKGROUND	   64
/* Linux 6.6: what is written past the page cache takes the pages there with it. */
#define MINOR_DIRECT_INVALIDATES 39
#define SILENT_MS		 500 /* besides four round trips: a server that was asked, and is there */
#define SILENT_RTT_MAX_US	 2000000
#define LOGIN_RTTS		 12

/* ---- requests ---- */

static int get_groups(void *arg, int size, gid_t list[])
{
	return fuse_req_getgroups(arg, size, list);
}

struct cv_request *cv_request_internal(struct cv_fs *fs)
{
	struct cv_request *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->fs = fs;
	r->next = fs->requests;
	if (r->next)
		r->next->prevp = &r->next;
	r->prevp = &fs->requests;
	fs->requests = r;
	fs->request_count++;
	r->clock = fs->nodes.clock;
	return r;
}

static void receive_again(struct cv_fs *fs)
{
	if (fs->receiving_paused && fs->fuse_watch.fd >= 0 && !fs->gone) {
		fs->receiving_paused = false;
		(void)cv_loop_modify(fs->loop, &fs->fuse_watch, EPOLLIN);
	}
}

/*
 * A server that is away keeps operations whose callers have given up; their slots must not run out,
 * for without one even the next INTERRUPT stays unread. Engines copy names during the call.
 */
static void leave_slot(struct cv_request *r)
{
	const char **names[] = { &r->name, &r->name2 };

	if (!r->slot || (r->fs->local && r->slot->opcode == FUSE_WRITE))
		return;
	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++) {
		if (!*names[i])
			continue;
		r->own_names[i] = strdup(*names[i]);
		if (!r->own_names[i])
			return; /* the slot stays, then */
		*names[i] = r->own_names[i];
	}
	cv_shm_slot_put(&r->fs->shm, r->slot);
	r->slot = NULL;
	r->op.replay = NULL;
	receive_again(r->fs);
}

static void interrupt_fire(struct cv_timer *timer)
{
	struct cv_request *r = cv_container_of(timer, struct cv_request, interrupt);
	fuse_req_t req = r->req;

	if (!req)
		return;
	/* What has only waited so far must not happen after its caller was told that it did not: a
	 * queued write would come out behind a later truncation. */
	if (r->waiter.prevp && !r->must_finish) {
		cv_wb_cancel(&r->waiter);
		cv_reply_err(r, -EINTR);
		return;
	}
	if (r->exiting_pid)
		r->fs->let_go = r->exiting_pid;
	/* The engine goes on, its result will find nobody to tell. */
	r->req = NULL;
	r->op.abandoned = true;
	(void)fuse_reply_err(req, EINTR);
	leave_slot(r);
}

/*
 * Any signal to the caller brings this. A caller that dies is released only by an answer; one that
 * has a handler would take EINTR as a failure of, say, mkdir. So: a server that works gets time to
 * answer, one that is away does not hold anybody.
 */
static void interrupted(fuse_req_t req, void *data)
{
	struct cv_request *r = data;
	struct cv_stats stats;

	(void)req;
	if (r->slot)
		r->slot->interrupted = 1; /* the kernel says it once */
	cv_mount_stats(&r->fs->mount, &stats);
	(void)cv_timer_set(r->fs->loop, &r->interrupt, stats.connected ? INTERRUPT_GRACE_MS : 0);
}

pid_t cv_request_pid(const struct cv_request *r)
{
	return r->req ? fuse_req_ctx(r->req)->pid : 0;
}

uint64_t cv_request_id(const struct cv_fs *fs, uint64_t unique)
{
	/* An odd multiplier: different requests of a mount never share a name. */
	return fs->shm.state->id ^ (unique * 0x9e3779b97f4a7c15ull);
}

/* Asks for a sign of life, unless one is still owed. False: there is no server. */
static bool ask_server(struct cv_fs *fs)
{
	struct cv_stats stats;

	cv_mount_stats(&fs->mount, &stats);
	if (fs->asked_ns && stats.heard_ns < fs->asked_ns)
		return true;
	if (!cv_mount_provoke(&fs->mount))
		return false;
	fs->asked_ns = cv_now_ns();
	return true;
}

static bool server_is_silent(const struct cv_fs *fs, const struct cv_stats *stats, uint64_t now)
{
	uint64_t rtt_us = fs->mount.info.rtt_us < SILENT_RTT_MAX_US ? fs->mount.info.rtt_us
								    : SILENT_RTT_MAX_US;
	uint64_t limit_ns = SILENT_MS * 1000000ull + 4 * rtt_us * 1000;
	uint64_t since_ns = stats->heard_ns > fs->asked_ns ? stats->heard_ns : fs->asked_ns;

	/* One that was idle was last heard of long ago, and logging in takes more round trips. */
	if (!stats->connected)
		return now > since_ns + limit_ns + LOGIN_RTTS * rtt_us * 1000;
	return stats->heard_ns < fs->asked_ns && now > fs->asked_ns + limit_ns;
}

bool cv_fs_is_away(struct cv_fs *fs, unsigned patience_ms)
{
	const struct cv_counters *c = fs->mount.counters;
	struct cv_stats stats;

	if (!ask_server(fs))
		return c && c->in_flight && cv_now_ns() - c->progress_ns > patience_ms * 1000000ull;
	cv_mount_stats(&fs->mount, &stats);
	return server_is_silent(fs, &stats, cv_now_ns());
}

/* must_finish: letting a caller go ends no request, so the list stays as it is. */
static void exits_fire(struct cv_timer *timer)
{
	struct cv_fs *fs = cv_container_of(timer, struct cv_fs, exits);
	uint64_t now = cv_loop_now_ns(fs->loop);
	bool waiting = false, silent;

	for (struct cv_request *r = fs->requests; r && !waiting; r = r->next)
		waiting = r->exiting_pid && r->req;
	if (!waiting)
		return;
	/* Before the list is looked at: an answer to another request may be found with it. */
	silent = cv_fs_is_away(fs, CV_EXIT_SILENT_MS);
	waiting = false;
	for (struct cv_request *r = fs->requests; r; r = r->next) {
		uint64_t waited_ms = (now - r->exiting_from_ns) / 1000000;

		if (!r->exiting_pid || !r->req)
			continue;
		if (waited_ms < CV_EXIT_KILLED_MS ||
		    !cv_exiting_let_go(cv_exiting(r->exiting_pid), waited_ms, silent)) {
			waiting = true;
			continue;
		}
		interrupt_fire(&r->interrupt);
	}
	if (waiting)
		(void)cv_timer_set(fs->loop, timer, CV_EXIT_LOOK_MS);
}

void cv_request_may_exit(struct cv_request *r)
{
	struct cv_fs *fs = r->fs;
	pid_t pid = cv_request_pid(r);
	bool again = pid && pid == fs->let_go;

	r->must_finish = true;
	r->exiting_pid = pid;
	r->exiting_from_ns =
		cv_loop_now_ns(fs->loop) - (again ? CV_EXIT_KILLED_MS * 1000000ull : 0);
	if (!fs->exits.index || again)
		(void)cv_timer_set(fs->loop, &fs->exits, again ? 0 : CV_EXIT_LOOK_MS);
}

struct cv_request *cv_request_new(struct cv_fs *fs, fuse_req_t req, fuse_ino_t ino)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct cv_node *node = NULL;
	struct cv_request *r;

	if (ino) {
		node = cv_node_get(&fs->nodes, ino);
		if (!node) {
			(void)fuse_reply_err(req, ESTALE);
			return NULL;
		}
	}
	r = cv_request_internal(fs);
	if (!r) {
		(void)fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	r->req = req;
	r->slot = fs->current;
	fs->current_taken = true;
	r->unique = r->slot ? r->slot->unique : 0;
	r->id = cv_request_id(fs, r->unique);
	r->repeated = r->slot && r->slot->tries > 1;
	r->interrupt = (struct cv_timer)CV_TIMER_INIT(interrupt_fire);
	if (node) {
		cv_node_hold(node);
		r->node = node;
	}
	r->cred.uid = ctx->uid;
	r->cred.gid = ctx->gid;
	if (fs->mount.info.features & CV_FEAT_CALLER_CREDS)
		cv_creds_fill(fs->creds, cv_loop_now_ns(fs->loop), ctx->pid, ctx->uid, ctx->gid,
			      get_groups, req, &r->cred);
	fuse_req_interrupt_func(req, interrupted, r);
	return r;
}

void cv_request_op(struct cv_request *r, void (*done)(struct cv_op *op, ssize_t result))
{
	cv_op_init(&r->op, done, &r->cred);
	cv_request_name_op(r, &r->op);
}

void cv_request_name_op(const struct cv_request *r, struct cv_op *op)
{
	op->id = r->id;
	op->repeated = r->repeated;
	op->replay = r->slot ? cv_shm_replay(&r->fs->shm, r->slot) : NULL;
}

void cv_request_hold2(struct cv_request *r, struct cv_node *node)
{
	cv_node_hold(node);
	r->node2 = node;
}

/* An attribute operation that names a handle uses its file, if it is one. */
static void use_file(struct cv_request *r, uint64_t fh)
{
	struct cv_open *open = cv_open_get(r->fs, fh);

	if (open && open->file && !open->record->is_dir)
		r->open = cv_open_hold(open);
}

void cv_request_end(struct cv_request *r)
{
	struct cv_fs *fs = r->fs;

	cv_timer_cancel(fs->loop, &r->interrupt);
	if (r->node)
		cv_node_drop(&fs->nodes, r->node);
	if (r->node2)
		cv_node_drop(&fs->nodes, r->node2);
	if (r->victim)
		cv_node_drop(&fs->nodes, r->victim);
	if (r->slot)
		cv_shm_slot_put(&fs->shm, r->slot);
	if (r->open)
		cv_open_put(r->open);
	if (r->source)
		cv_open_put(r->source);
	*r->prevp = r->next;
	if (r->next)
		r->next->prevp = r->prevp;
	fs->request_count--;
	if (fs->takeover && fs->request_count == 0)
		cv_takeover_idle(fs->takeover);
	free(r->own_names[0]);
	free(r->own_names[1]);
	free(r);
	receive_again(fs);
}

void cv_reply_err(struct cv_request *r, int err)
{
	if (r->req)
		(void)fuse_reply_err(r->req, -err);
	r->req = NULL;
	cv_request_end(r);
}

static void drained(struct cv_wb_waiter *w, int result)
{
	struct cv_request *r = cv_container_of(w, struct cv_request, waiter);

	(void)result;
	r->resume(r);
}

void cv_request_after_drain(struct cv_request *r, struct cv_node *node, enum cv_wb_level level,
			    void (*resume)(struct cv_request *r))
{
	r->resume = resume;
	r->waiter.done = drained;
	cv_wb_drain(r->fs->wb, &r->waiter, node, level);
}

int cv_fs_object(struct cv_fs *fs, struct cv_node *node, int buffer, struct cv_object *obj)
{
	obj->nodeid = node->id;
	obj->handle = obj->parent = NULL;
	obj->path = obj->name = NULL;
	obj->seen_change = node->record->seen_change;
	obj->seen_size = node->record->seen_size;
	if (fs->nodes.by_handle) {
		const struct cv_node *parent = NULL;

		if (node->id != CV_NODE_ROOT && !(node->record->flags & CV_NODE_NAMELESS))
			parent = cv_node_get(&fs->nodes, node->record->parent);
		if (parent) {
			obj->parent = &parent->record->handle;
			obj->name = node->record->name;
		}
		obj->handle = &node->record->handle;
		return obj->handle->size ? 0 : -ESTALE;
	}
	obj->path = cv_node_path(&fs->nodes, node, fs->path[buffer]);
	return obj->path ? 0 : -ESTALE;
}

int cv_fs_object_open(struct cv_fs *fs, struct cv_node *node, const struct cv_open *open,
		      struct cv_object *obj)
{
	int r = cv_fs_object(fs, node, 0, obj);

	if (r < 0 && open && open->file && !fs->nodes.by_handle) {
		obj->path = CV_HIDDEN_NAME "/?"; /* leads nowhere: the engine uses the file */
		r = 0;
	}
	return r;
}

bool cv_fs_reserved(const struct cv_fs *fs, const struct cv_node *parent, const char *name)
{
	size_t n = sizeof(CV_HIDDEN_NAME) - 1;

	if (fs->mount.info.features & CV_FEAT_UNLINK_OPEN || strncmp(name, CV_HIDDEN_NAME, n) != 0)
		return false;
	return name[n] == '-' || (name[n] == '\0' && parent->id == CV_NODE_ROOT);
}

/* ---- entries and attributes as answers ---- */

struct cv_node *cv_fs_entry(struct cv_fs *fs, struct cv_node *parent, const char *name,
			    const struct cv_entry *entry, struct fuse_entry_param *e)
{
	struct cv_node *node = cv_node_enter(&fs->nodes, parent->id, name, entry);

	if (!node)
		return NULL;
	cv_node_unknow(node); /* the kernel must not be told older attributes later */
	memset(e, 0, sizeof(*e));
	cv_node_lookup(&fs->nodes, node);
	e->ino = node->id;
	e->generation = node->record->generation;
	e->attr_timeout = e->entry_timeout = cv_fs_ttl(fs, &entry->attr);
	cv_fs_stat(fs, node, &entry->attr, &e->attr);
	return node;
}

static void reply_entry(struct cv_request *r, struct cv_node *parent, const char *name);

static void refresh_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	op->entry.attr = op->attr;
	op->entry.handle = r->found;
	r->refreshed = true;
	reply_entry(r, r->node, r->name);
}

static void refresh_go(struct cv_request *r)
{
	struct cv_object obj;
	int err = cv_fs_object(r->fs, r->node2, 0, &obj);

	if (err < 0) {
		cv_reply_err(r, err);
		return;
	}
	cv_request_op(r, refresh_done);
	cv_getattr(&r->fs->mount, &r->op, &obj, NULL);
}

/*
 * A delayed write that was acknowledged before the lookup and has arrived since: the lookup's size
 * may be the one from before it, and nobody would correct it (the kernel would append over data).
 */
static bool refresh(struct cv_request *r, struct cv_node *node)
{
	if (r->refreshed || r->node2 || node->landed <= r->clock)
		return false;
	r->found = r->op.entry.handle;
	cv_request_hold2(r, node);
	cv_request_after_drain(r, node, CV_WB_WRITTEN, refresh_go);
	return true;
}

static void reply_entry(struct cv_request *r, struct cv_node *parent, const char *name)
{
	struct cv_fs *fs = r->fs;
	struct fuse_entry_param e;
	struct cv_node *node;

	if (!r->req) {
		cv_request_end(r);
		return;
	}
	cv_shm_undo_begin(&fs->shm, r->slot);
	node = cv_fs_entry(fs, parent, name, &r->op.entry, &e);
	if (node && refresh(r, node)) {
		cv_node_forget(&fs->nodes, node, 1);
		cv_shm_undo_begin(&fs->shm, NULL);
		return;
	}
	if (!node) {
		cv_reply_err(r, -ENOMEM);
		return;
	}
	if (node->changed <= r->clock)
		cv_fs_know_dir(fs, node, &r->op.entry.attr, 0);
	if (S_ISDIR(r->op.entry.attr.mode) && r->op.call == CV_CALL_MKDIR)
		cv_makers_note(&fs->makers, node, cv_request_pid(r), cv_loop_now_ns(fs->loop));
	if (r->op.empty && !r->repeated && fs->ttl_negative_ms)
		cv_complete_made(&fs->complete, node, &r->op.entry.attr,
				 cv_loop_now_ns(fs->loop) + fs->ttl_negative_ms * 1000000ull);
	if (fuse_reply_entry(r->req, &e) < 0)
		cv_node_forget(&fs->nodes, node, 1); /* the kernel did not take it */
	r->req = NULL;
	cv_request_end(r);
}

static void reply_attr_for(struct cv_request *r, struct cv_node *node, const struct cv_attr *attr,
			   double ttl)
{
	struct stat st;

	/* What nobody is told any more must not count as seen by the kernel. */
	if (r->req) {
		cv_fs_stat(r->fs, node, attr, &st);
		(void)fuse_reply_attr(r->req, &st, ttl);
	}
	r->req = NULL;
	cv_request_end(r);
}

void cv_reply_attr(struct cv_request *r, struct cv_node *node, const struct cv_attr *attr)
{
	reply_attr_for(r, node, attr, cv_fs_ttl(r->fs, attr));
}

/* ---- lookup, attributes ---- */

static struct cv_fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static void reply_absent(struct cv_request *r, double ttl)
{
	const struct fuse_entry_param e = { .ino = 0, .entry_timeout = ttl };

	(void)fuse_reply_entry(r->req, &e);
	r->req = NULL;
	cv_request_end(r);
}

static void lookup_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_node *known;

	if (result == 0) {
		reply_entry(r, r->node, r->name);
		return;
	}
	known = cv_node_find(&r->fs->nodes, r->node->id, r->name);
	/* Unless we have made or renamed something there meanwhile. */
	if (result == -ENOENT && known && r->node->changed <= r->clock)
		cv_node_unlink(&r->fs->nodes, known);
	if (result == -ENOENT && r->fs->ttl_negative_ms && r->req) {
		/* Not for others what may be known rather than asked. */
		reply_absent(r, op->making ? 0 : r->fs->ttl_negative_ms / 1000.0);
		return;
	}
	cv_reply_err(r, (int)result);
}

/* Resolves the directory of a name-taking operation; answers and returns false on failure. */
static bool name_object(struct cv_request *r, struct cv_object *obj)
{
	int err = cv_fs_object(r->fs, r->node, 0, obj);

	if (err == 0 && strlen(r->name) > CV_NAME_MAX)
		err = -ENAMETOOLONG;
	if (err < 0)
		cv_reply_err(r, err);
	return err == 0;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, parent);
	struct cv_object obj;
	uint64_t now;
	bool making;

	if (!r)
		return;
	r->name = name;
	if (cv_fs_reserved(r->fs, r->node, name)) {
		cv_reply_err(r, -ENOENT);
		return;
	}
	if (!name_object(r, &obj))
		return;
	now = cv_loop_now_ns(r->fs->loop);
	making = cv_makers_has(&r->fs->makers, r->node, cv_request_pid(r), now);
	if (making && cv_complete_lacks(&r->fs->complete, r->node, name, now)) {
		reply_absent(r, 0);
		return;
	}
	cv_request_op(r, lookup_done);
	r->op.making = making;
	cv_lookup(&r->fs->mount, &r->op, &obj, name);
}

/* The n-th of the slot's FORGETs; each is applied once, whatever happens to the worker. */
static void forget(struct cv_fs *fs, uint32_t n, fuse_ino_t ino, uint64_t nlookup)
{
	struct cv_node *node = cv_node_get(&fs->nodes, ino);
	struct cv_slot *slot = fs->current;

	if (n < slot->forgotten)
		return;
	if (node && slot->forgetting != n + 1) {
		uint64_t lookups = node->record->lookups;

		slot->forget_left = lookups - (nlookup < lookups ? nlookup : lookups);
		cv_shm_barrier();
		slot->forgetting = n + 1;
		cv_shm_barrier();
	}
	if (node)
		cv_node_set_lookups(&fs->nodes, node, slot->forget_left);
	cv_shm_barrier();
	slot->forgotten = n + 1;
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	forget(fs_of(req), 0, ino, nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct cv_fs *fs = fs_of(req);

	for (size_t i = 0; i < count; i++)
		forget(fs, (uint32_t)i, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void getattr_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	cv_node_unknow(r->node);
	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	if (r->node->changed <= r->clock)
		cv_fs_know_dir(r->fs, r->node, &op->attr, 0);
	cv_reply_attr(r, r->node, &op->attr);
}

static void getattr_go(struct cv_request *r)
{
	struct cv_object obj;
	struct cv_attr attr;
	double ttl;
	bool known;
	int err;

	known = cv_fs_known(r->fs, r->node, &attr, &ttl);
	cv_counters_cache(r->fs->mount.counters, CV_CACHE_ATTR, known);
	if (known) {
		reply_attr_for(r, r->node, &attr, ttl);
		return;
	}
	err = cv_fs_object_open(r->fs, r->node, r->open, &obj);
	if (err < 0) {
		cv_reply_err(r, err);
		return;
	}
	cv_request_op(r, getattr_done);
	cv_getattr(&r->fs->mount, &r->op, &obj, r->open ? r->open->file : NULL);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct cv_fs *fs = fs_of(req);
	struct cv_request *r = cv_request_new(fs, req, ino);

	if (!r)
		return;
	if (fi)
		use_file(r, fi->fh);
	/* The times of data still on its way are the server's to set. */
	cv_request_after_drain(r, r->node, CV_WB_WRITTEN, getattr_go);
}

/*
 * Where the kernel keeps the times of what it has written, it hands them in at the end, in nobody's
 * name. That who may write may not set times, or that the file is gone by then, must not become the
 * writer's error: the server's own times stay. The kernel does not look at the answer.
 */
static void setattr_failed(struct cv_request *r, int err)
{
	const struct stat st = { .st_ino = r->node->record->ino, .st_mode = r->node->record->mode };

	if (!r->kernels_times) {
		cv_reply_err(r, err);
		return;
	}
	if (r->req)
		(void)fuse_reply_attr(r->req, &st, 0);
	r->req = NULL;
	cv_request_end(r);
}

static void setattr_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_nodes *t = &r->fs->nodes;
	struct cv_node *node = r->node;
	/* Another client has changed it before: the kernel gets new attributes now, which must not
	 * vouch for its old pages. */
	bool foreign =
		op->before && node->record->own_change && op->before != node->record->own_change;

	cv_node_touch(t, node);
	if (result < 0) {
		setattr_failed(r, (int)result);
		return;
	}
	cv_fs_dir_complete(
		r->fs, node,
		&(struct cv_dir_after){ .have = true, .attr = op->attr, .before = op->before });
	cv_node_hold(node);
	cv_reply_attr(r, node, &op->attr);
	if (foreign)
		node->record->seen_change = 0;
	cv_node_drop(t, node);
}

static void setattr_go(struct cv_request *r)
{
	struct cv_object obj;
	int err = cv_fs_object_open(r->fs, r->node, r->open, &obj);

	if (err < 0) {
		setattr_failed(r, err);
		return;
	}
	cv_node_touch(&r->fs->nodes, r->node);
	cv_request_op(r, setattr_done);
	cv_setattr(&r->fs->mount, &r->op, &obj, r->open ? r->open->file : NULL, &r->set);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set,
		       struct fuse_file_info *fi)
{
	static const struct {
		int fuse;
		unsigned cv;
	} map[] = {
		{ FUSE_SET_ATTR_MODE, CV_SET_MODE },   { FUSE_SET_ATTR_UID, CV_SET_UID },
		{ FUSE_SET_ATTR_GID, CV_SET_GID },     { FUSE_SET_ATTR_SIZE, CV_SET_SIZE },
		{ FUSE_SET_ATTR_ATIME, CV_SET_ATIME }, { FUSE_SET_ATTR_MTIME, CV_SET_MTIME },
	};
	struct cv_fs *fs = fs_of(req);
	struct cv_request *r = cv_request_new(fs, req, ino);
	uint32_t handle;

	if (!r)
		return;
	for (size_t i = 0; i < CV_ARRAY_SIZE(map); i++) {
		if (to_set & map[i].fuse)
			r->set.mask |= map[i].cv;
	}
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		r->set.mask = (r->set.mask & ~(unsigned)CV_SET_ATIME) | CV_SET_ATIME_NOW;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		r->set.mask = (r->set.mask & ~(unsigned)CV_SET_MTIME) | CV_SET_MTIME_NOW;
	r->set.mode = st->st_mode & 07777;
	r->set.uid = st->st_uid;
	r->set.gid = st->st_gid;
	r->set.size = (uint64_t)st->st_size;
	r->set.atime = st->st_atim;
	r->set.mtime = st->st_mtim;
	if (fi)
		use_file(r, fi->fh);
	if (fs->writeback_cache && to_set == (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_CTIME) &&
	    (r->open || (r->node->record->flags & CV_NODE_NAMELESS))) {
		r->kernels_times = true;
		if (r->open)
			r->cred = r->open->record->cred;
	}
	/* Stripping setuid bits that are the server's business leaves nothing to set. */
	if (!r->set.mask) {
		cv_request_after_drain(r, r->node, CV_WB_WRITTEN, getattr_go);
		return;
	}
	/* In the order they are sent: a file that is written, given its times and closed (tar, cp
	 * -p) takes one round trip for that. */
	if (!r->open && !(r->set.mask & CV_SET_SIZE) &&
	    (fs->mount.info.features & CV_FEAT_ORDERED) && cv_wb_send(r->node, &handle)) {
		r->open = cv_open_hold(fs->opens[handle]);
		setattr_go(r);
		return;
	}
	/* Times and owner are set when a file is complete (tar, cp -p): its close is next. */
	if (!(r->set.mask & CV_SET_SIZE) && cv_fs_settled(fs) == CV_WB_STABLE)
		cv_wb_send_stable(r->node);
	/* A file opened for writing may be truncated by whoever has it open. */
	if (r->open && (r->set.mask & CV_SET_SIZE))
		r->cred = r->open->record->cred;
	cv_request_after_drain(r, r->node,
			       r->set.mask & CV_SET_SIZE ? cv_fs_settled(fs) : CV_WB_WRITTEN,
			       setattr_go);
}

static void readlink_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	char *text;

	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	text = strndup(op->data, (size_t)result);
	if (!text) {
		cv_reply_err(r, -ENOMEM);
		return;
	}
	if (r->req)
		(void)fuse_reply_readlink(r->req, text);
	r->req = NULL;
	free(text);
	cv_request_end(r);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, ino);
	struct cv_object obj;
	int err;

	if (!r)
		return;
	err = cv_fs_object(r->fs, r->node, 0, &obj);
	if (err < 0) {
		cv_reply_err(r, err);
		return;
	}
	cv_request_op(r, readlink_done);
	cv_readlink(&r->fs->mount, &r->op, &obj);
}

/* ---- making names ---- */

static void make_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	/* link: the directory is node2 */
	struct cv_node *dir = r->node2 ? r->node2 : r->node;

	cv_fs_dir_changed(r, dir, &op->dir);
	if (r->node2)
		cv_node_touch(&r->fs->nodes, r->node);
	if (result < 0)
		cv_reply_err(r, (int)result);
	else
		reply_entry(r, dir, r->name);
}

/* The common start of mknod, mkdir and symlink. NULL: answered. */
static struct cv_request *make_new(fuse_req_t req, fuse_ino_t parent, const char *name,
				   struct cv_object *dir)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, parent);

	if (!r)
		return NULL;
	r->name = name;
	if (cv_fs_reserved(r->fs, r->node, name)) {
		cv_reply_err(r, -EPERM);
		return NULL;
	}
	if (!name_object(r, dir))
		return NULL;
	cv_complete_name(&r->fs->complete, r->node, name);
	cv_request_op(r, make_done);
	return r;
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct cv_object dir;
	struct cv_request *r = make_new(req, parent, name, &dir);

	if (r)
		cv_mknod(&r->fs->mount, &r->op, &dir, name, mode, rdev);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct cv_object dir;
	struct cv_request *r = make_new(req, parent, name, &dir);

	if (r)
		cv_mkdir(&r->fs->mount, &r->op, &dir, name, mode);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct cv_object dir;
	struct cv_request *r = make_new(req, parent, name, &dir);

	if (r)
		cv_symlink(&r->fs->mount, &r->op, &dir, name, target);
}

static void link_go(struct cv_request *r)
{
	struct cv_object obj, dir;
	int err = cv_fs_object(r->fs, r->node, 0, &obj);

	if (err == 0)
		err = cv_fs_object(r->fs, r->node2, 1, &dir);
	if (err == 0 && strlen(r->name) > CV_NAME_MAX)
		err = -ENAMETOOLONG;
	if (err < 0) {
		cv_reply_err(r, err);
		return;
	}
	cv_request_op(r, make_done);
	cv_link(&r->fs->mount, &r->op, &obj, &dir, r->name);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, ino);
	struct cv_node *dir;

	if (!r)
		return;
	dir = cv_node_get(&r->fs->nodes, newparent);
	if (!dir || cv_fs_reserved(r->fs, dir, newname)) {
		cv_reply_err(r, dir ? -EPERM : -ESTALE);
		return;
	}
	cv_request_hold2(r, dir);
	r->name = newname;
	cv_complete_name(&r->fs->complete, dir, newname);
	/* The entry's attributes must not be older than the data. */
	cv_request_after_drain(r, r->node, CV_WB_WRITTEN, link_go);
}

/* ---- taking names away ---- */

static void unlink_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_node *node = cv_node_find(&r->fs->nodes, r->node->id, r->name);

	cv_fs_dir_changed(r, r->node, &op->dir);
	if ((result == 0 || result == -ENOENT) && node) {
		cv_node_touch(&r->fs->nodes, node);
		cv_node_unlink(&r->fs->nodes, node);
	}
	cv_reply_err(r, (int)result);
}

static void unlink_hidden(struct cv_request *r, int result)
{
	cv_node_touch(&r->fs->nodes, r->node);
	if (result == 0)
		cv_hidden_taken(r, r->victim);
	if (result == -ENOENT && r->repeated) { /* a predecessor's unlink has come that far */
		cv_node_unlink(&r->fs->nodes, r->victim);
		result = 0;
	}
	cv_reply_err(r, result);
}

static void unlink_found(struct cv_request *r)
{
	struct cv_object dir;

	if (r->victim) {
		cv_hidden_hide(r, r->node, r->victim, false, unlink_hidden);
		return;
	}
	if (!name_object(r, &dir))
		return;
	cv_request_op(r, unlink_done);
	cv_unlink(&r->fs->mount, &r->op, &dir, r->name);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, parent);

	if (!r)
		return;
	r->name = name;
	if (cv_fs_reserved(r->fs, r->node, name)) {
		cv_reply_err(r, -ENOENT);
		return;
	}
	cv_hidden_find(r, r->node, name, unlink_found);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, parent);
	struct cv_object dir;

	if (!r)
		return;
	r->name = name;
	if (!name_object(r, &dir))
		return;
	cv_request_op(r, unlink_done);
	cv_rmdir(&r->fs->mount, &r->op, &dir, name);
}

/*
 * Which nodes change their names. A predecessor that died here may have changed some of the
 * records already: it noted in the slot what it had found.
 */
static void rename_find(struct cv_request *r, struct cv_node **ret_from, struct cv_node **ret_to)
{
	struct cv_nodes *t = &r->fs->nodes;
	uint32_t *moving = r->slot ? r->slot->moving : NULL;

	if (moving && moving[0]) {
		*ret_from = cv_node_get(t, moving[0]);
		*ret_to = cv_node_get(t, moving[1]);
		return;
	}
	*ret_from = cv_node_find(t, r->node->id, r->name);
	*ret_to = cv_node_find(t, r->node2->id, r->name2);
	if (moving && *ret_from) {
		moving[1] = *ret_to ? (*ret_to)->id : 0;
		cv_shm_barrier();
		moving[0] = (*ret_from)->id;
		cv_shm_barrier();
	}
}

static void rename_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_nodes *t = &r->fs->nodes;
	struct cv_node *from, *to;

	cv_fs_dir_changed(r, r->node, &op->dir);
	if (r->node2 != r->node)
		cv_fs_dir_changed(r, r->node2, &op->newdir);
	if (result < 0) {
		if (r->victim)
			cv_hidden_undo(r, (int)result);
		else
			cv_reply_err(r, (int)result);
		return;
	}
	if (r->victim)
		cv_hidden_taken(r, r->victim);
	rename_find(r, &from, &to);
	if (from)
		cv_node_hold(from);
	if (to)
		cv_node_hold(to);
	if (to && to != from)
		cv_node_unlink(t, to);
	if (from)
		cv_node_rename(t, from, r->node2->id, r->name2);
	if (to && to != from && (r->flags & RENAME_EXCHANGE))
		cv_node_rename(t, to, r->node->id, r->name);
	if (from) {
		cv_node_touch(t, from);
		cv_node_drop(t, from);
	}
	if (to) {
		cv_node_touch(t, to);
		cv_node_drop(t, to);
	}
	cv_reply_err(r, 0);
}

static int rename_objects(struct cv_request *r, struct cv_object *dir, struct cv_object *newdir)
{
	int err = cv_fs_object(r->fs, r->node, 0, dir);

	return err < 0 ? err : cv_fs_object(r->fs, r->node2, 1, newdir);
}

static void rename_send(struct cv_request *r, const struct cv_object *dir,
			const struct cv_object *newdir)
{
	cv_request_op(r, rename_done);
	cv_rename(&r->fs->mount, &r->op, dir, r->name, newdir, r->name2, (unsigned)r->flags);
}

/* An exchange never fails because it has been done: who is where now says whether it was. */
static void exchange_looked(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);
	struct cv_nodes *t = &r->fs->nodes;
	const struct cv_node *to = cv_node_find(t, r->node2->id, r->name2);
	struct cv_object dir, newdir;

	if (result == 0 && to && to == cv_node_by_handle(t, &op->entry.handle)) {
		rename_done(op, 0);
		return;
	}
	if (result == 0)
		result = rename_objects(r, &dir, &newdir);
	if (result < 0)
		cv_reply_err(r, (int)result);
	else
		rename_send(r, &dir, &newdir);
}

static void rename_go(struct cv_request *r, int result)
{
	struct cv_object dir, newdir;
	bool hidden = r->victim && result == 0;

	if (result == 0)
		result = rename_objects(r, &dir, &newdir);
	if (result < 0) {
		if (hidden)
			cv_hidden_undo(r, result);
		else
			cv_reply_err(r, result);
		return;
	}
	if (r->repeated && (r->flags & RENAME_EXCHANGE) && r->fs->nodes.by_handle) {
		cv_request_op(r, exchange_looked);
		cv_lookup(&r->fs->mount, &r->op, &dir, r->name);
		return;
	}
	rename_send(r, &dir, &newdir);
}

static void rename_found(struct cv_request *r)
{
	if (r->victim && r->victim == cv_node_find(&r->fs->nodes, r->node->id, r->name)) {
		cv_node_drop(&r->fs->nodes, r->victim);
		r->victim = NULL;
	}
	if (r->victim)
		cv_hidden_hide(r, r->node2, r->victim, true, rename_go);
	else
		rename_go(r, 0);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
		      const char *newname, unsigned int flags)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, parent);
	struct cv_node *newdir;

	if (!r)
		return;
	newdir = cv_node_get(&r->fs->nodes, newparent);
	if (!newdir || strlen(name) > CV_NAME_MAX || strlen(newname) > CV_NAME_MAX ||
	    cv_fs_reserved(r->fs, newdir, newname) || cv_fs_reserved(r->fs, r->node, name)) {
		cv_reply_err(r, !newdir ? -ESTALE
				: strlen(name) > CV_NAME_MAX || strlen(newname) > CV_NAME_MAX
					? -ENAMETOOLONG
					: -EPERM);
		return;
	}
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) {
		cv_reply_err(r, -EINVAL);
		return;
	}
	cv_request_hold2(r, newdir);
	r->name = name;
	r->name2 = newname;
	cv_complete_name(&r->fs->complete, newdir, newname);
	r->flags = (int)flags;
	if (flags == 0)
		cv_hidden_find(r, newdir, newname, rename_found);
	else
		rename_go(r, 0);
}

/* ---- the rest ---- */

static void statfs_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	if (r->req)
		(void)fuse_reply_statfs(r->req, &op->statvfs);
	r->req = NULL;
	cv_request_end(r);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct cv_request *r = cv_request_new(fs_of(req), req, ino ? ino : CV_NODE_ROOT);
	struct cv_object obj;

	if (!r)
		return;
	if (cv_fs_object(r->fs, r->node, 0, &obj) < 0 &&
	    cv_fs_object(r->fs, cv_node_get(&r->fs->nodes, CV_NODE_ROOT), 0, &obj) < 0) {
		cv_reply_err(r, -ESTALE);
		return;
	}
	cv_request_op(r, statfs_done);
	cv_statfs(&r->fs->mount, &r->op, &obj);
}

static void done_err(struct cv_op *op, ssize_t result)
{
	cv_reply_err(cv_request_of(op), (int)result);
}

static void xattr_done(struct cv_op *op, ssize_t result)
{
	struct cv_request *r = cv_request_of(op);

	if (result < 0) {
		cv_reply_err(r, (int)result);
		return;
	}
	if (r->req && r->size == 0)
		(void)fuse_reply_xattr(r->req, (size_t)result);
	else if (r->req)
		(void)fuse_reply_buf(r->req, op->data, (size_t)result);
	r->req = NULL;
	cv_request_end(r);
}

/* ENOSYS makes the kernel stop asking, which is what an engine without xattrs wants. */
static struct cv_request *xattr_new(fuse_req_t req, fuse_ino_t ino, bool supported,
				    void (*done)(struct cv_op *, ssize_t), struct cv_object *obj)
{
	struct cv_request *r;
	int err;

	if (!supported) {
		(void)fuse_reply_err(req, ENOSYS);
		return NULL;
	}
	r = cv_request_new(fs_of(req), req, ino);
	if (!r)
		return NULL;
	err = cv_fs_object(r->fs, r->node, 0, obj);
	if (err < 0) {
		cv_reply_err(r, err);
		return NULL;
	}
	cv_request_op(r, done);
	return r;
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct cv_object obj;
	struct cv_request *r =
		xattr_new(req, ino, fs_of(req)->mount.backend->getxattr, xattr_done, &obj);

	if (!r)
		return;
	r->size = size;
	cv_getxattr(&r->fs->mount, &r->op, &obj, name, size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct cv_object obj;
	struct cv_request *r =
		xattr_new(req, ino, fs_of(req)->mount.backend->listxattr, xattr_done, &obj);

	if (!r)
		return;
	r->size = size;
	cv_listxattr(&r->fs->mount, &r->op, &obj, size);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			size_t size, int flags)
{
	struct cv_object obj;
	struct cv_request *r =
		xattr_new(req, ino, fs_of(req)->mount.backend->setxattr, done_err, &obj);

	if (r)
		cv_setxattr(&r->fs->mount, &r->op, &obj, name, value, size, flags);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct cv_object obj;
	struct cv_request *r =
		xattr_new(req, ino, fs_of(req)->mount.backend->removexattr, done_err, &obj);

	if (r)
		cv_removexattr(&r->fs->mount, &r->op, &obj, name);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct cv_fs *fs = userdata;
	/* The same in every generation of workers: the kernel knows only the first one's answer. */
	static const unsigned wanted[] = {
		FUSE_CAP_ASYNC_READ,	 FUSE_CAP_ATOMIC_O_TRUNC,  FUSE_CAP_PARALLEL_DIROPS,
		FUSE_CAP_READDIRPLUS,	 FUSE_CAP_AUTO_INVAL_DATA, FUSE_CAP_ASYNC_DIO,
		FUSE_CAP_CACHE_SYMLINKS,
	};

	conn->want = 0;
	for (size_t i = 0; i < CV_ARRAY_SIZE(wanted); i++)
		conn->want |= conn->capable & wanted[i];
	/* A server sends the attributes along with the names anyway; a local directory would have
	 * to look each of them up, which is worth it only for who asks. */
	if (fs->local)
		conn->want |= conn->capable & FUSE_CAP_READDIRPLUS_AUTO;
	/* Without them the kernel keeps locks of this host by itself. */
	if (fs->mount.info.features & CV_FEAT_LOCKS)
		conn->want |= conn->capable & (FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS);
	if (fs->writeback_cache)
		conn->want |= conn->capable & FUSE_CAP_WRITEBACK_CACHE;
	/* What the kernel was told first counts, also when a newer worker would ask for more. */
	if (fs->takeover)
		conn->want = (unsigned)fs->shm.state->want & conn->capable;
	fs->shm.state->want = conn->want;
	fs->writeback_cache = conn->want & FUSE_CAP_WRITEBACK_CACHE;
	fs->direct_writes = !fs->writeback_cache && conn->proto_minor >= MINOR_DIRECT_INVALIDATES;
	conn->max_read = CV_MAX_IO;
	conn->max_write = CV_MAX_IO;
	conn->max_readahead = 32u << 20;
	conn->max_background = MAX_BACKGROUND;
	conn->congestion_threshold = MAX_BACKGROUND * 3 / 4;
	conn->time_gran = fs->shm.state->time_gran_ns;
}

static const struct fuse_lowlevel_ops operations = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = cv_op_open,
	.create = cv_op_create,
	.read = cv_op_read,
	.write = cv_op_write,
	.flush = cv_op_flush,
	.fsync = cv_op_fsync,
	.release = cv_op_release,
	.fallocate = cv_op_fallocate,
	.lseek = cv_op_lseek,
	.copy_file_range = cv_op_copy_file_range,
	.getlk = cv_op_getlk,
	.setlk = cv_op_setlk,
	.flock = cv_op_flock,
	.opendir = cv_op_opendir,
	.readdir = cv_op_readdir,
	.readdirplus = cv_op_readdirplus,
	.releasedir = cv_op_releasedir,
	.fsyncdir = cv_op_fsyncdir,
	.statfs = op_statfs,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.setxattr = op_setxattr,
	.removexattr = op_removexattr,
};

/* ---- session ---- */

/* libfuse 3.14 has these capabilities, but does not put their flags into the answer to INIT. */
static uint32_t missing_flags(const struct cv_fs *fs)
{
	uint32_t flags = 0;

	/* A server that knows who writes strips setuid bits itself; the kernel would send a setattr
	 * in the writer's name, which such a server must refuse. */
	if (fs->mount.info.features & CV_FEAT_CALLER_CREDS)
		flags |= FUSE_HANDLE_KILLPRIV;
	/* Without it lookups and listings of a directory wait for each other behind a lock of the
	 * kernel's that not even SIGKILL gets a process away from. */
	if (fs->shm.state->want & FUSE_CAP_PARALLEL_DIROPS)
		flags |= FUSE_PARALLEL_DIROPS;
	return flags;
}

static ssize_t reply_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct cv_fs *fs = userdata;
	const struct fuse_out_header *out = iov[0].iov_base;
	struct cv_slot *slot = out->unique ? cv_shm_slot_find(&fs->shm, out->unique) : NULL;
	ssize_t n;
	int err;

	fs->served++;
	fs->shm.header->answered++;
	if (fs->answering_init && count > 1 &&
	    iov[1].iov_len >= offsetof(struct fuse_init_out, flags) + 4)
		((struct fuse_init_out *)iov[1].iov_base)->flags |= missing_flags(fs);
	if (slot)
		cv_shm_reply_begin(slot, iov, count, out->len);
	n = writev(fd, iov, count);
	err = errno;
	if (slot)
		cv_shm_reply_end(slot);
	errno = err;
	return n;
}

static ssize_t unused_read(int fd, void *buf, size_t size, void *userdata)
{
	(void)userdata;
	return read(fd, buf, size);
}

static void session_gone(struct cv_fs *fs)
{
	fs->gone = true;
	cv_loop_remove(fs->loop, &fs->fuse_watch);
	/* A successor first has to see what is left to be done. */
	if (fs->on_gone && !fs->takeover)
		fs->on_gone(fs);
}

void cv_fs_dispatch(struct cv_fs *fs, struct cv_slot *slot)
{
	struct fuse_buf buf = { .mem = cv_shm_slot_request(&fs->shm, slot), .size = slot->size };

	slot->tries++;
	cv_shm_barrier();
	fs->current = slot;
	fs->current_taken = false;
	fuse_session_process_buf(fs->session, &buf);
	fs->current = NULL;
	if (!fs->current_taken)
		cv_shm_slot_put(&fs->shm, slot);
}

bool cv_fs_receive(struct cv_fs *fs, int fuse_fd)
{
	struct cv_slot *slot = cv_shm_slot_get(&fs->shm);
	uint8_t *mem = slot ? cv_shm_receive_buffer(&fs->shm, slot) : NULL;
	ssize_t n;

	if (!mem) {
		if (slot)
			cv_shm_slot_put(&fs->shm, slot);
		/* Back-pressure: the kernel queues, until a request ends. */
		fs->receiving_paused = true;
		if (fs->fuse_watch.fd >= 0)
			(void)cv_loop_modify(fs->loop, &fs->fuse_watch, 0);
		return false;
	}
	n = read(fuse_fd, mem, CV_LARGE_SIZE);
	if (n <= 0) {
		int err = errno;

		cv_shm_slot_put(&fs->shm, slot);
		if (n < 0 && (err == EINTR || err == ENOENT))
			return true; /* ENOENT: the request was taken back before we read it */
		if (n < 0 && err == EAGAIN)
			return false;
		if (n < 0 && err != ENODEV)
			cv_error("reading requests: %s", cv_strerror(err));
		session_gone(fs);
		return false;
	}
	cv_shm_slot_publish(&fs->shm, slot, (size_t)n);
	if (fs->takeover)
		cv_takeover_received(fs->takeover, slot);
	else
		cv_fs_dispatch(fs, slot);
	return true;
}

static void fuse_ready(struct cv_watch *watch, uint32_t events)
{
	struct cv_fs *fs = cv_container_of(watch, struct cv_fs, fuse_watch);

	/* While paused only this comes, and again and again. */
	if (fs->receiving_paused && (events & EPOLLERR)) {
		session_gone(fs);
		return;
	}
	for (int i = 0; i < RECEIVE_BATCH; i++) {
		if (!cv_fs_receive(fs, fs->fuse_fd))
			break;
	}
	if (!fs->gone)
		(void)cv_timer_set(fs->loop, &fs->idle, IDLE_TRIM_MS);
}

static void idle_fire(struct cv_timer *timer)
{
	struct cv_fs *fs = cv_container_of(timer, struct cv_fs, idle);

	cv_shm_trim(&fs->shm);
	(void)malloc_trim(0);
}

/* max_read must be given here and in init, with the same value, or libfuse refuses. */
static int session_new(struct cv_fs *fs, int fuse_fd, struct cv_err *err)
{
	char max_read[32];
	char *argv[] = { (char *)"cvol", (char *)"-o", max_read, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	static const struct fuse_custom_io io = { .writev = reply_writev, .read = unused_read };
	struct fuse_buf init = { 0 };
	int r;

	(void)snprintf(max_read, sizeof(max_read), "max_read=%u", CV_MAX_IO);
	fs->session = fuse_session_new(&args, &operations, sizeof(operations), fs);
	fuse_opt_free_args(&args);
	if (!fs->session)
		return cv_fail(err, ENOMEM, "cannot set up libfuse");
	r = fuse_session_custom_io(fs->session, &io, fuse_fd);
	if (r < 0) {
		fuse_session_destroy(fs->session);
		fs->session = NULL;
		return cv_fail(err, -r, "libfuse refuses the FUSE descriptor: %s", cv_strerror(r));
	}
	/* Accepted from the first worker of a mount; later ones get ENOENT, which libfuse ignores.
	 */
	init.mem = fs->shm.header->init;
	init.size = fs->shm.header->init_size;
	fs->answering_init = true;
	fuse_session_process_buf(fs->session, &init);
	fs->answering_init = false;
	if (fuse_session_exited(fs->session))
		return cv_fail(err, EPROTO, "the kernel's FUSE version does not fit libfuse's");
	return 0;
}

/* What must be the same in every worker of a mount. */
static int agree(struct cv_fs *fs, struct cv_err *err)
{
	struct cv_shared_state *state = fs->shm.state;
	const struct cv_info *info = &fs->mount.info;
	const uint32_t identity = CV_FEAT_HANDLES | CV_FEAT_UNLINK_OPEN;

	if (fs->takeover) {
		if ((state->features ^ info->features) & identity)
			return cv_fail(err, EPROTO,
				       "taking over: %s names files in another way than before",
				       info->server);
		return 0;
	}
	if (getrandom(&state->id, sizeof(state->id), 0) < 0)
		state->id = cv_now_ns();
	state->features = info->features;
	state->time_gran_ns = info->time_gran_ns ? info->time_gran_ns : 1;
	state->open_sequence = 1;
	memcpy(state->resume, info->resume, sizeof(state->resume));
	return 0;
}

int cv_fs_start(struct cv_fs *fs, const struct cv_dict *options, int fuse_fd, struct cv_err *err)
{
	unsigned features = fs->mount.info.features;
	int r;

	fs->local = !(features & CV_FEAT_WRITE_BEHIND);
	fs->write_behind = !fs->local && cv_options_bool(options, "write_behind", true);
	fs->writeback_cache = !fs->local && cv_options_bool(options, "writeback_cache", false);
	cv_fs_set_ttls(fs, options);
	fs->fuse_watch = (struct cv_watch)CV_WATCH_INIT(fuse_ready);
	fs->idle = (struct cv_timer)CV_TIMER_INIT(idle_fire);
	fs->exits = (struct cv_timer)CV_TIMER_INIT(exits_fire);
	fs->fuse_fd = fuse_fd;
	r = agree(fs, err);
	if (r < 0) {
		(void)close(fuse_fd);
		return r;
	}
	r = cv_creds_new(&fs->creds);
	if (r == 0)
		r = cv_nodes_init(&fs->nodes, &fs->shm, features & CV_FEAT_HANDLES,
				  &fs->mount.info.root);
	if (r == 0)
		r = cv_wb_new(fs->loop, &fs->mount, &fs->nodes, &fs->shm, cv_open_for_writeback, fs,
			      &fs->wb);
	if (r < 0) {
		(void)close(fuse_fd);
		return cv_fail(err, -r, "out of memory");
	}
	r = session_new(fs, fuse_fd, err);
	if (r < 0)
		return r;
	(void)cv_timer_set(fs->loop, &fs->idle, IDLE_TRIM_MS); /* connecting took some, too */
	r = fs->gone ? 0 : cv_loop_add(fs->loop, &fs->fuse_watch, fuse_fd, EPOLLIN);
	if (r < 0)
		return cv_fail(err, -r, "epoll: %s", cv_strerror(r));
	cv_meter_start(&fs->meter, fs);
	/* The kernel asks for them first of all; they have just come. */
	if (!fs->takeover)
		cv_fs_know_dir(fs, cv_node_get(&fs->nodes, CV_NODE_ROOT), &fs->mount.info.root.attr,
			       0);
	/* What an engine keeps in this process only ends with it. */
	fs->shm.header->replaceable = !(features & CV_FEAT_UNLINK_OPEN);
	r = fs->takeover ? cv_takeover_start(fs) : 0;
	return r < 0 ? cv_fail(err, -r, "out of memory") : 0;
}

void cv_fs_close_handles(struct cv_fs *fs)
{
	for (uint32_t i = 0; i < fs->opens_size; i++) {
		if (fs->opens[i] && fs->opens[i]->users == 0)
			cv_open_free(fs, fs->opens[i]);
	}
}

void cv_fs_release(struct cv_fs *fs)
{
	cv_meter_stop(&fs->meter);
	cv_timer_cancel(fs->loop, &fs->idle);
	cv_timer_cancel(fs->loop, &fs->exits);
	cv_takeover_free(fs->takeover);
	cv_loop_remove(fs->loop, &fs->fuse_watch);
	free(fs->opens);
	cv_wb_free(fs->wb);
	if (fs->session)
		fuse_session_destroy(fs->session);
	cv_complete_release(&fs->complete);
	cv_nodes_release(&fs->nodes);
	cv_creds_free(fs->creds);
	cv_shm_release(&fs->shm);
}
