/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/writeback.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "config/cleanup.h"
#include "config/log.h"

#define TICK_MS	      250 /* an idle writer's data leaves after one to two ticks */
#define COMMIT_AGE_NS (5ull * 1000000000)
#define BUFFERS_LOW   32 /* free buffers below which unstable data is committed early */
#define WINDOW_LAN    (16ull << 20)
#define WINDOW_WAN    (64ull << 20)
#define WAN_RTT_US    5000
#define MERGE_LAN     (256u << 10)
#define POPULATE_MIN  (64u << 10)

struct extent {
	struct cv_op op;
	struct cv_wb *wb;
	struct cv_wb_file *file;
	struct extent *next; /* of the same file, in order of arrival */
	uint32_t index;
	bool in_commit; /* covered by the COMMIT under way */
	uint64_t began; /* cv_nodes.clock when it was sent */
	uint64_t born_ns;
	struct cv_cred cred;
};

struct cv_wb_file {
	struct cv_wb *wb;
	struct cv_node *node; /* held */
	struct extent *extents;
	struct cv_wb_waiter *waiters;
	struct cv_wb_file *next;
	struct cv_wb_file **prevp;
	struct cv_op commit;
	struct cv_cred commit_cred;
	bool committing;
	bool want_commit;
	uint64_t commit_began; /* cv_nodes.clock when the COMMIT was sent */
	struct cv_attr attr;
	uint64_t attr_began, attr_got_ns; /* see cv_wb_attr() */
	bool have_attr;
};

struct cv_wb {
	struct cv_loop *loop;
	struct cv_mount *mount;
	struct cv_nodes *nodes;
	struct cv_shm *shm;
	cv_wb_handle_fn handle_fn;
	void *handle_arg;
	struct extent *extents; /* CV_WB_BUFFERS */
	uint32_t free[CV_WB_BUFFERS];
	uint32_t nfree;
	bool touched[CV_WB_BUFFERS];
	struct cv_wb_file *files;
	struct cv_wb_waiter *writers;  /* wait for room, in order */
	struct cv_wb_waiter *everyone; /* wait for all files */
	struct cv_timer tick;
	struct cv_deferred progress;
	bool in_progress; /* files must not go away */
	uint64_t sequence;
	uint64_t op_id;	    /* never one that a predecessor has used */
	uint64_t unwritten; /* bytes DIRTY or SENT */
	uint64_t window;
	uint32_t merge_max;
	int last_error;
	uint64_t errors;
};

static struct cv_extent_record *record_of(const struct extent *e)
{
	return &e->wb->shm->extents[e->index];
}

static void set_state(struct extent *e, enum cv_extent_state state)
{
	cv_shm_barrier();
	record_of(e)->state = state;
	cv_shm_barrier();
}

static bool unwritten(const struct extent *e)
{
	uint32_t state = record_of(e)->state;

	return state == CV_EXTENT_DIRTY || state == CV_EXTENT_SENT;
}

/* ---- waiters ---- */

static void waiter_link(struct cv_wb_waiter **head, struct cv_wb_waiter *w)
{
	w->next = *head;
	if (w->next)
		w->next->prevp = &w->next;
	*head = w;
	w->prevp = head;
}

void cv_wb_cancel(struct cv_wb_waiter *w)
{
	if (!w->prevp)
		return;
	*w->prevp = w->next;
	if (w->next)
		w->next->prevp = w->prevp;
	w->prevp = NULL;
	w->next = NULL;
}

static void waiter_done(struct cv_wb_waiter *w, int result)
{
	cv_wb_cancel(w);
	w->done(w, result);
}

/* ---- files and extents ---- */

static struct cv_wb_file *file_get(struct cv_wb *wb, struct cv_node *node)
{
	struct cv_wb_file *f = node->wb;

	if (f)
		return f;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->wb = wb;
	f->node = node;
	f->next = wb->files;
	if (f->next)
		f->next->prevp = &f->next;
	f->prevp = &wb->files;
	wb->files = f;
	cv_node_hold(node);
	node->wb = f;
	return f;
}

static void file_put_if_idle(struct cv_wb_file *f)
{
	struct cv_node *node = f->node;

	if (f->wb->in_progress || f->extents || f->waiters || f->committing || node->open_count)
		return;
	*f->prevp = f->next;
	if (f->next)
		f->next->prevp = f->prevp;
	node->wb = NULL;
	node->record->write_errors = 0; /* who had it open has heard of them */
	cv_node_drop(f->wb->nodes, node);
	free(f);
}

static void extent_free(struct extent *e)
{
	struct cv_wb *wb = e->wb;
	struct extent **p = &e->file->extents;

	if (unwritten(e))
		wb->unwritten -= record_of(e)->size;
	while (*p != e)
		p = &(*p)->next;
	*p = e->next;
	set_state(e, CV_EXTENT_FREE);
	e->file = NULL;
	wb->free[wb->nfree++] = e->index;
}

static void extent_append(struct cv_wb_file *f, struct extent *e)
{
	struct extent **tail = &f->extents;

	while (*tail)
		tail = &(*tail)->next;
	*tail = e;
	e->file = f;
	e->next = NULL;
}

static void note_error(struct cv_wb_file *f, int error)
{
	f->node->record->write_error = error;
	cv_shm_barrier();
	f->node->record->write_errors++;
	f->wb->last_error = error;
	f->wb->errors++;
}

static void schedule(struct cv_wb *wb)
{
	cv_loop_defer(wb->loop, &wb->progress);
}

static void tick_arm(struct cv_wb *wb)
{
	if (!wb->tick.index)
		(void)cv_timer_set(wb->loop, &wb->tick, TICK_MS);
}

static bool before(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec < b->tv_nsec);
}

/* The answers to writes come in any order: the newest attributes stay. Those asked for when all
 * writes had landed are the newest, even if the server's clock was set back. */
static void take_attr(struct cv_wb_file *f, const struct cv_attr *attr, uint64_t began)
{
	if (f->have_attr && began < f->node->landed && before(&attr->ctime, &f->attr.ctime))
		return;
	f->attr = *attr;
	f->attr_began = began;
	f->attr_got_ns = cv_loop_now_ns(f->wb->loop);
	f->have_attr = true;
}

/*
 * Each of our writes leads from the state it found to the state it left. Added up, in whatever
 * order, they lead from what we knew to what is there now: if not, somebody else has written.
 */
static void follow_change(struct cv_node_record *r, const struct cv_op *op)
{
	if (r->own_change && op->have_attr && op->before)
		r->own_change += cv_change(&op->attr) - op->before;
	else
		r->own_change = 0;
}

static void write_done(struct cv_op *op, ssize_t result)
{
	struct extent *e = cv_container_of(op, struct extent, op);
	struct cv_extent_record *r = record_of(e);
	struct cv_wb_file *f = e->file;
	bool alone;

	if (result >= 0 && (size_t)result != r->size)
		result = -EIO;
	alone = f->node->landed <= e->began;
	f->node->landed = ++e->wb->nodes->clock;
	if (result >= 0) {
		follow_change(f->node->record, op);
		if (op->have_attr)
			take_attr(f, &op->attr, alone ? f->node->landed : e->began);
	}
	if (result < 0)
		note_error(f, (int)result);
	if (result < 0 || op->stable) {
		extent_free(e);
	} else {
		r->verifier = op->verifier;
		e->in_commit = false;
		e->born_ns = cv_loop_now_ns(e->wb->loop);
		e->wb->unwritten -= r->size;
		set_state(e, CV_EXTENT_UNSTABLE);
	}
	schedule(e->wb);
}

/* sync: see cv_op.sync. */
static void extent_send(struct extent *e, bool sync)
{
	struct cv_extent_record *r = record_of(e);
	struct cv_wb *wb = e->wb;
	struct cv_wb_handle h;

	r->op_id = ++wb->op_id;
	r->op_sequence = r->sequence;
	set_state(e, CV_EXTENT_SENT);
	if (!wb->handle_fn(wb->handle_arg, r->handle, &h)) {
		note_error(e->file, -EBADF);
		extent_free(e);
		schedule(wb);
		return;
	}
	e->cred = *h.cred;
	e->began = wb->nodes->clock;
	cv_op_init(&e->op, write_done, &e->cred);
	e->op.sync = sync;
	e->op.id = r->op_id;
	e->op.replay = cv_shm_extent_replay(wb->shm, e->index);
	cv_write(wb->mount, &e->op, h.file, cv_shm_wb_buffer(wb->shm, e->index), r->size, r->off);
}

static void file_send(struct cv_wb_file *f)
{
	/* Sending may complete at once and take the extent off the list. */
	for (struct extent *e = f->extents, *next; e; e = next) {
		next = e->next;
		if (record_of(e)->state == CV_EXTENT_DIRTY)
			extent_send(e, false);
	}
}

/* Somebody waits until it is stable: a file that fits into one write needs no COMMIT after it. */
static void file_send_stable(struct cv_wb_file *f)
{
	struct extent *e = f->extents;

	if (e && !e->next && record_of(e)->state == CV_EXTENT_DIRTY &&
	    record_of(e)->size <= f->wb->mount->info.write_max)
		extent_send(e, true);
	else
		file_send(f);
}

/* ---- commit ---- */

static void commit_done(struct cv_op *op, ssize_t result)
{
	struct cv_wb_file *f = cv_container_of(op, struct cv_wb_file, commit);
	unsigned again = 0;

	f->committing = false;
	if (result < 0)
		note_error(f, (int)result);
	else if (op->have_attr)
		take_attr(f, &op->attr, f->commit_began);
	for (struct extent *e = f->extents, *next; e; e = next) {
		struct cv_extent_record *r = record_of(e);

		next = e->next;
		if (r->state != CV_EXTENT_UNSTABLE || !e->in_commit)
			continue;
		if (result < 0 || r->verifier == op->verifier) {
			extent_free(e);
			continue;
		}
		/* The server restarted in between: what it had in memory only is gone. */
		e->in_commit = false;
		f->wb->unwritten += r->size;
		set_state(e, CV_EXTENT_DIRTY);
		again++;
	}
	if (again) {
		cv_notice("the server restarted: sending %u uncommitted writes again", again);
		f->want_commit = true;
		file_send(f);
	}
	schedule(f->wb);
}

static void file_commit(struct cv_wb_file *f)
{
	struct cv_wb_handle h;
	bool found = false;

	if (f->committing)
		return;
	for (struct extent *e = f->extents; e; e = e->next) {
		if (record_of(e)->state != CV_EXTENT_UNSTABLE)
			continue;
		e->in_commit = true;
		if (!found)
			found = f->wb->handle_fn(f->wb->handle_arg, record_of(e)->handle, &h);
	}
	f->want_commit = false;
	if (!found) {
		/* No open handle is left although data waits: cannot happen, closing drains. */
		for (struct extent *e = f->extents, *next; e; e = next) {
			next = e->next;
			if (e->in_commit) {
				note_error(f, -EBADF);
				extent_free(e);
			}
		}
		return;
	}
	f->committing = true;
	f->commit_cred = *h.cred;
	f->commit_began = f->wb->nodes->clock;
	cv_op_init(&f->commit, commit_done, &f->commit_cred);
	cv_fsync(f->wb->mount, &f->commit, h.file, true);
}

/* ---- progress ---- */

/* Is everything up to sequence at level? Sets want_commit where a COMMIT is what is missing. */
static bool file_reached(struct cv_wb_file *f, enum cv_wb_level level, uint64_t sequence)
{
	bool reached = true, waiting = false;

	for (struct extent *e = f->extents; e; e = e->next) {
		if (record_of(e)->sequence > sequence)
			continue;
		if (unwritten(e)) {
			reached = false;
			waiting = true;
		} else if (level == CV_WB_STABLE) {
			reached = false;
		}
	}
	if (!reached && !waiting)
		f->want_commit = true;
	return reached;
}

static bool all_reached(struct cv_wb *wb, enum cv_wb_level level, uint64_t sequence)
{
	bool reached = true;

	for (struct cv_wb_file *f = wb->files; f; f = f->next)
		reached = file_reached(f, level, sequence) && reached;
	return reached;
}

static int try_write(struct cv_wb *wb, struct cv_wb_waiter *w, struct cv_wb_file *f);

static void progress(struct cv_deferred *deferred)
{
	struct cv_wb *wb = cv_container_of(deferred, struct cv_wb, progress);

	/* A waiter's callback may write, wait again, or close the last handle of a file. */
	wb->in_progress = true;
	for (struct cv_wb_waiter *w = wb->writers, *next; w; w = next) {
		struct cv_wb_handle h;
		struct cv_wb_file *f;

		next = w->next;
		if (!wb->handle_fn(wb->handle_arg, w->handle, &h) || !(f = file_get(wb, h.node))) {
			waiter_done(w, -EBADF);
			continue;
		}
		if (try_write(wb, w, f))
			waiter_done(w, 0);
		else if (wb->nfree == 0 || wb->unwritten >= wb->window)
			break; /* the others are behind it */
	}
	for (struct cv_wb_waiter *w = wb->everyone, *next; w; w = next) {
		next = w->next;
		if (all_reached(wb, w->level, w->sequence))
			waiter_done(w, 0);
	}
	for (struct cv_wb_file *f = wb->files; f; f = f->next) {
		for (struct cv_wb_waiter *w = f->waiters, *next; w; w = next) {
			next = w->next;
			if (file_reached(f, w->level, w->sequence))
				waiter_done(w, 0);
		}
		if (f->want_commit || (wb->nfree < BUFFERS_LOW && f->extents))
			file_commit(f);
	}
	wb->in_progress = false;
	for (struct cv_wb_file *f = wb->files, *next; f; f = next) {
		next = f->next;
		file_put_if_idle(f);
	}
}

static void tick(struct cv_timer *timer)
{
	struct cv_wb *wb = cv_container_of(timer, struct cv_wb, tick);
	uint64_t now = cv_loop_now_ns(wb->loop);
	bool busy = wb->writers != NULL;

	for (struct cv_wb_file *f = wb->files; f; f = f->next) {
		for (struct extent *e = f->extents, *next; e; e = next) {
			uint32_t state = record_of(e)->state;

			next = e->next;
			busy = true;
			if (state == CV_EXTENT_DIRTY && now - e->born_ns > TICK_MS * 1000000ull)
				extent_send(e, false);
			else if (state == CV_EXTENT_UNSTABLE && now - e->born_ns > COMMIT_AGE_NS)
				f->want_commit = true;
		}
	}
	if (busy) {
		schedule(wb);
		tick_arm(wb);
		return;
	}
	for (uint32_t i = 0; i < CV_WB_BUFFERS; i++) {
		if (wb->touched[i])
			cv_shm_wb_trim(wb->shm, i);
		wb->touched[i] = false;
	}
}

/* ---- writing ---- */

static void copy_in(struct cv_wb *wb, struct extent *e, const struct cv_wb_waiter *w)
{
	struct cv_extent_record *r = record_of(e);
	uint64_t at = w->off - r->off;
	uint64_t end = at + w->size;

	memcpy(cv_shm_wb_buffer(wb->shm, e->index) + at, w->data, w->size);
	cv_shm_barrier();
	if (end > r->size) {
		wb->unwritten += end - r->size;
		r->size = (uint32_t)end;
	}
}

static bool merges(const struct cv_wb *wb, const struct extent *e, const struct cv_wb_waiter *w)
{
	const struct cv_extent_record *r = record_of(e);

	return r->state == CV_EXTENT_DIRTY && r->handle == w->handle && w->off >= r->off &&
	       w->off <= r->off + r->size &&
	       (w->off + w->size <= r->off + r->size || w->off + w->size <= r->off + wb->merge_max);
}

/*
 * Does w make e's data needless? Not if somebody waits for data that the server has in memory: he
 * would be told that it is on disk when neither the old nor the new is.
 */
static bool replaced_by(const struct cv_wb *wb, const struct extent *e,
			const struct cv_wb_waiter *w)
{
	const struct cv_extent_record *r = record_of(e);

	return w->off <= r->off && w->off + w->size >= r->off + r->size &&
	       (r->state == CV_EXTENT_DIRTY ||
		(r->state == CV_EXTENT_UNSTABLE && !e->file->waiters && !wb->everyone));
}

/* Returns 1 when the data was taken, 0 when it has to wait (what it waits for is under way). */
static int try_write(struct cv_wb *wb, struct cv_wb_waiter *w, struct cv_wb_file *f)
{
	struct extent *into = NULL, *e;
	uint64_t end = w->off + w->size;
	bool conflict = false, replaces = false;
	struct cv_extent_record *r;

	for (e = f->extents; e; e = e->next) {
		if (merges(wb, e, w)) {
			into = e;
			break;
		}
	}
	for (struct extent *next = f->extents; (e = next);) {
		r = record_of(e);
		next = e->next;
		if (e == into || r->off >= end || r->off + r->size <= w->off)
			continue;
		if (replaced_by(wb, e, w)) {
			replaces = true;
			continue;
		}
		conflict = true;
		if (r->state == CV_EXTENT_DIRTY)
			extent_send(e, false);
		else if (r->state == CV_EXTENT_UNSTABLE)
			f->want_commit = true;
	}
	/* No schedule() when it has to wait: what is on its way does that when it arrives. To ask
	 * again before would only keep the loop turning. */
	if (conflict)
		return 0;
	/* Only now that nothing can keep the new data waiting: until it is in, the old is what
	 * readers must see and what a sync must store. */
	for (struct extent *next = replaces ? f->extents : NULL; (e = next);) {
		next = e->next;
		if (e != into && replaced_by(wb, e, w))
			extent_free(e);
	}
	if (into) {
		copy_in(wb, into, w);
		r = record_of(into);
		if (r->size >= wb->merge_max)
			extent_send(into, false);
		return 1;
	}
	if (!replaces && (wb->nfree == 0 || wb->unwritten >= wb->window)) {
		for (struct cv_wb_file *other = wb->files; other; other = other->next) {
			file_send(other);
			if (wb->nfree == 0)
				other->want_commit = other->extents != NULL;
		}
		return 0;
	}
	/* What cannot be continued any more need not wait for company. */
	file_send(f);
	if (wb->nfree == 0)
		return 0;
	e = &wb->extents[wb->free[--wb->nfree]];
	r = record_of(e);
	e->in_commit = false;
	e->born_ns = cv_loop_now_ns(wb->loop);
	r->node = f->node->id;
	r->handle = w->handle;
	r->off = w->off;
	r->size = 0;
	r->sequence = ++wb->sequence;
	/* One call costs less than a page fault for each page of a large write. */
	if (!wb->touched[e->index] && w->size >= POPULATE_MIN)
		cv_shm_wb_populate(wb->shm, e->index, w->size);
	wb->touched[e->index] = true;
	copy_in(wb, e, w);
	set_state(e, CV_EXTENT_DIRTY);
	extent_append(f, e);
	if (r->size >= wb->merge_max)
		extent_send(e, false);
	tick_arm(wb);
	return 1;
}

void cv_wb_write(struct cv_wb *wb, struct cv_wb_waiter *w, struct cv_node *node, uint32_t handle,
		 const void *data, size_t size_bytes, uint64_t off)
{
	struct cv_wb_file *f = file_get(wb, node);

	w->prevp = NULL;
	w->next = NULL;
	w->handle = handle;
	w->data = data;
	w->size = size_bytes;
	w->off = off;
	if (!f) {
		w->done(w, -ENOMEM);
		return;
	}
	if (!wb->writers && try_write(wb, w, f)) {
		w->done(w, 0);
		return;
	}
	/* Behind those that wait already. */
	struct cv_wb_waiter **tail = &wb->writers;

	while (*tail)
		tail = &(*tail)->next;
	*tail = w;
	w->prevp = tail;
	schedule(wb);
	tick_arm(wb);
}

void cv_wb_drain(struct cv_wb *wb, struct cv_wb_waiter *w, struct cv_node *node,
		 enum cv_wb_level level)
{
	struct cv_wb_file *f = node->wb;

	w->prevp = NULL;
	w->next = NULL;
	w->level = level;
	w->sequence = wb->sequence;
	if (!f || file_reached(f, level, w->sequence)) {
		w->done(w, 0);
		return;
	}
	waiter_link(&f->waiters, w);
	if (level == CV_WB_STABLE)
		file_send_stable(f);
	else
		file_send(f);
	schedule(wb);
}

void cv_wb_drain_all(struct cv_wb *wb, struct cv_wb_waiter *w, enum cv_wb_level level)
{
	w->prevp = NULL;
	w->next = NULL;
	w->level = level;
	w->sequence = wb->sequence;
	if (all_reached(wb, level, w->sequence)) {
		w->done(w, 0);
		return;
	}
	waiter_link(&wb->everyone, w);
	for (struct cv_wb_file *f = wb->files; f; f = f->next)
		file_send(f);
	schedule(wb);
}

void cv_wb_send_stable(struct cv_node *node)
{
	if (node->wb)
		file_send_stable(node->wb);
}

bool cv_wb_send(struct cv_node *node, uint32_t *ret_handle)
{
	bool found = false, one = true;

	if (!node->wb)
		return false;
	file_send(node->wb);
	for (const struct extent *e = node->wb->extents; e; e = e->next) {
		if (!unwritten(e))
			continue;
		one = one && (!found || record_of(e)->handle == *ret_handle);
		*ret_handle = record_of(e)->handle;
		found = true;
	}
	return found && one;
}

/* ---- what others ask ---- */

bool cv_wb_pending(const struct cv_node *node, uint64_t *ret_end)
{
	bool pending = false;
	uint64_t end = 0;

	if (!node->wb)
		return false;
	for (const struct extent *e = node->wb->extents; e; e = e->next) {
		const struct cv_extent_record *r = record_of(e);

		if (!unwritten(e))
			continue;
		pending = true;
		if (r->off + r->size > end)
			end = r->off + r->size;
	}
	if (ret_end && pending)
		*ret_end = end;
	return pending;
}

uint32_t cv_wb_error_mark(const struct cv_node *node)
{
	return node->record->write_errors;
}

int cv_wb_error(const struct cv_node *node, uint32_t *mark)
{
	if (node->record->write_errors == *mark)
		return 0;
	*mark = node->record->write_errors;
	return node->record->write_error;
}

bool cv_wb_attr(const struct cv_node *node, struct cv_attr *ret_attr, uint64_t *ret_began,
		uint64_t *ret_got_ns)
{
	const struct cv_wb_file *f = node->wb;

	if (!f || !f->have_attr || cv_wb_pending(node, NULL))
		return false;
	*ret_attr = f->attr;
	*ret_began = f->attr_began;
	*ret_got_ns = f->attr_got_ns;
	return true;
}

void cv_wb_node_closed(struct cv_wb *wb, struct cv_node *node)
{
	(void)wb;
	if (node->wb)
		file_put_if_idle(node->wb);
}

uint64_t cv_wb_bytes(const struct cv_wb *wb)
{
	return wb->unwritten;
}

int cv_wb_last_error(const struct cv_wb *wb, uint64_t *ret_count)
{
	*ret_count = wb->errors;
	return wb->last_error;
}

/* ---- life ---- */

int cv_wb_new(struct cv_loop *loop, struct cv_mount *mount, struct cv_nodes *nodes,
	      struct cv_shm *shm, cv_wb_handle_fn handle_fn, void *arg, struct cv_wb **ret_wb)
{
	struct cv_wb *wb = calloc(1, sizeof(*wb));
	bool wan = mount->info.rtt_us >= WAN_RTT_US;

	if (!wb)
		return -ENOMEM;
	wb->extents = calloc(CV_WB_BUFFERS, sizeof(*wb->extents));
	if (!wb->extents) {
		free(wb);
		return -ENOMEM;
	}
	wb->loop = loop;
	wb->mount = mount;
	wb->nodes = nodes;
	wb->shm = shm;
	wb->handle_fn = handle_fn;
	wb->handle_arg = arg;
	if (getrandom(&wb->op_id, sizeof(wb->op_id), 0) < 0)
		wb->op_id = cv_now_ns();
	wb->tick = (struct cv_timer)CV_TIMER_INIT(tick);
	wb->progress = (struct cv_deferred)CV_DEFERRED_INIT(progress);
	wb->window = wan ? WINDOW_WAN : WINDOW_LAN;
	wb->merge_max = mount->info.write_max;
	if (!wan && wb->merge_max > MERGE_LAN)
		wb->merge_max = MERGE_LAN;
	for (uint32_t i = 0; i < CV_WB_BUFFERS; i++) {
		wb->extents[i].wb = wb;
		wb->extents[i].index = i;
		wb->free[wb->nfree++] = CV_WB_BUFFERS - 1 - i;
	}
	*ret_wb = wb;
	return 0;
}

static int by_sequence(const void *a, const void *b)
{
	uint64_t x = record_of(*(struct extent *const *)a)->sequence;
	uint64_t y = record_of(*(struct extent *const *)b)->sequence;

	return (x > y) - (x < y);
}

/* Back to its file, at the end; what was on its way goes once more. */
static void extent_restore(struct extent *e)
{
	struct cv_wb *wb = e->wb;
	struct cv_extent_record *r = record_of(e);
	struct cv_node *node = cv_node_get(wb->nodes, r->node);
	struct cv_wb_file *f = node ? file_get(wb, node) : NULL;

	if (!f || r->size > CV_WB_BUFFER_SIZE) {
		cv_error("%u written bytes of a file that is not known any more are lost", r->size);
		wb->last_error = -EIO;
		wb->errors++;
		set_state(e, CV_EXTENT_FREE);
		wb->free[wb->nfree++] = e->index;
		return;
	}
	extent_append(f, e);
	e->born_ns = cv_loop_now_ns(wb->loop);
	wb->touched[e->index] = true;
	if (r->state == CV_EXTENT_SENT)
		set_state(e, CV_EXTENT_DIRTY);
	if (unwritten(e))
		wb->unwritten += r->size;
}

void cv_wb_restore(struct cv_wb *wb)
{
	struct extent *found[CV_WB_BUFFERS] = { NULL };
	uint32_t count = 0;

	wb->nfree = 0;
	for (uint32_t i = CV_WB_BUFFERS; i-- > 0;) {
		if (record_of(&wb->extents[i])->state == CV_EXTENT_FREE)
			wb->free[wb->nfree++] = i;
		else
			found[count++] = &wb->extents[i];
	}
	qsort(found, count, sizeof(found[0]), by_sequence);
	for (uint32_t i = 0; i < count; i++) {
		if (record_of(found[i])->sequence > wb->sequence)
			wb->sequence = record_of(found[i])->sequence;
		extent_restore(found[i]);
	}
	if (count) {
		schedule(wb);
		tick_arm(wb);
	}
}

void cv_wb_free(struct cv_wb *wb)
{
	if (!wb)
		return;
	cv_timer_cancel(wb->loop, &wb->tick);
	cv_loop_undefer(wb->loop, &wb->progress);
	while (wb->files) {
		struct cv_wb_file *f = wb->files;

		wb->files = f->next;
		if (f->next)
			f->next->prevp = &wb->files;
		f->node->wb = NULL;
		free(f);
	}
	free(wb->extents);
	free(wb);
}
