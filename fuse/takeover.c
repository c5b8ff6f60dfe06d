/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/takeover.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "fuse/control.h"
#include "fuse/exiting.h"

#define CRASHES_MAX  3	 /* workers that one request may cost */
#define GRACE_MS     400 /* as for a server that works: see interrupted() in fs_ops.c */
#define TICK_MS	     50	 /* between looks at interrupted requests */
#define RETRY_MIN_MS 100 /* between attempts to connect */
#define RETRY_MAX_MS 5000
#define SETTLE_MS    50 /* from our start, plus round trips: see settle_ms() */
#define FAREWELL_NS  (300ull * 1000000000)

enum phase {
	PHASE_CONNECT,
	PHASE_SETTLE,
	PHASE_NAMES,
	PHASE_FILES,
	PHASE_LOCKS,
};

struct cv_takeover {
	struct cv_fs *fs;
	enum phase phase;
	uint64_t started_ns;
	struct cv_timer tick; /* interrupted requests; the end of PHASE_SETTLE */
	struct cv_deferred next;
	uint64_t interrupted_ns[CV_SLOTS]; /* 0: not */
	uint64_t looked_ns;		   /* at processes that may be exiting */
	bool running[CV_SLOTS];		   /* dispatched */
	bool unrecorded; /* data was under way, by a worker that did not name it */
	uint32_t files;
	uint32_t requests;
};

static struct cv_takeover *takeover_new(struct cv_fs *fs);

/* ---- answering without libfuse ---- */

static bool unanswered(const struct cv_slot *slot)
{
	return slot->state == CV_SLOT_RECEIVED || slot->state == CV_SLOT_SENDING;
}

/* Of these the kernel does not wait for an answer, or nobody would see it. */
static bool is_silent(uint32_t opcode)
{
	return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT ||
	       opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR || opcode == FUSE_DESTROY;
}

static void answer_error(struct cv_fs *fs, int fuse_fd, struct cv_slot *slot, int error)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = error, .unique = slot->unique };
	struct iovec iov = { .iov_base = &out, .iov_len = sizeof(out) };

	cv_shm_reply_begin(slot, &iov, 1, sizeof(out));
	(void)!write(fuse_fd, &out, sizeof(out)); /* ENOENT: it is not waited for any more */
	cv_shm_slot_put(&fs->shm, slot);
}

/* ---- what comes in meanwhile ---- */

static void note_interrupt(struct cv_takeover *t, struct cv_slot *slot)
{
	struct cv_shm *shm = &t->fs->shm;
	const struct fuse_interrupt_in *in =
		(const void *)(cv_shm_slot_request(shm, slot) + sizeof(struct fuse_in_header));
	struct cv_slot *target = cv_shm_slot_find(shm, in->unique);

	if (target && t->running[target - shm->slots]) {
		cv_fs_dispatch(t->fs, slot); /* libfuse knows the request */
		return;
	}
	if (target && unanswered(target)) {
		target->interrupted = 1;
		t->interrupted_ns[target - shm->slots] = cv_now_ns();
	}
	cv_shm_slot_put(shm, slot);
}

void cv_takeover_received(struct cv_takeover *t, struct cv_slot *slot)
{
	t->running[slot - t->fs->shm.slots] = false;
	t->interrupted_ns[slot - t->fs->shm.slots] = 0;
	if (slot->opcode == FUSE_INTERRUPT)
		note_interrupt(t, slot);
}

/* A close, or the unlock of a flock: what a process may ask for when it hears no signal any more.
 */
static bool may_exit(struct cv_shm *shm, struct cv_slot *slot)
{
	const uint8_t *body = cv_shm_slot_request(shm, slot) + sizeof(struct fuse_in_header);

	return slot->opcode == FUSE_FLUSH ||
	       ((slot->opcode == FUSE_SETLK || slot->opcode == FUSE_SETLKW) &&
		((const struct fuse_lk_in *)(const void *)body)->lk.type == F_UNLCK);
}

/* What its caller gets no more of: a lock that is not let go is at least not asked for again. */
static void drop_locks(struct cv_fs *fs, struct cv_slot *slot)
{
	const uint8_t *request = cv_shm_slot_request(&fs->shm, slot);
	const struct fuse_in_header *in = (const void *)request;
	const void *body = request + sizeof(*in);
	const struct fuse_lk_in *lk = body;

	if (slot->opcode == FUSE_FLUSH)
		cv_locks_drop(fs, in->nodeid, ((const struct fuse_flush_in *)body)->lock_owner,
			      false);
	else if (may_exit(&fs->shm, slot) && (lk->lk_flags & FUSE_LK_FLOCK))
		cv_locks_drop(fs, in->nodeid, lk->owner, true);
}

/* Requests wait because it is not connected yet; for so long only if the server is away. */
static void note_exiting(struct cv_takeover *t)
{
	struct cv_shm *shm = &t->fs->shm;
	uint64_t now = cv_now_ns(), waited_ms = (now - t->started_ns) / 1000000;

	if (now - t->looked_ns < CV_EXIT_LOOK_MS * 1000000ull)
		return;
	t->looked_ns = now;
	for (uint32_t i = 0; i < shm->slots_ready; i++) {
		struct cv_slot *slot = &shm->slots[i];
		const struct fuse_in_header *in;

		if (t->running[i] || t->interrupted_ns[i] || !unanswered(slot) ||
		    !may_exit(shm, slot))
			continue;
		in = (const void *)cv_shm_slot_request(shm, slot);
		if (cv_exiting_let_go(cv_exiting((pid_t)in->pid), waited_ms,
				      waited_ms >= CV_EXIT_SILENT_MS))
			t->interrupted_ns[i] = now - GRACE_MS * 1000000ull;
	}
}

/* Who got a signal and has waited long enough goes on with EINTR; what was asked is not begun. */
static void answer_interrupted(struct cv_takeover *t, int fuse_fd)
{
	struct cv_shm *shm = &t->fs->shm;
	uint64_t now = cv_now_ns();

	note_exiting(t);
	for (uint32_t i = 0; i < shm->slots_ready; i++) {
		struct cv_slot *slot = &shm->slots[i];

		if (!t->interrupted_ns[i] || t->running[i] || !unanswered(slot) ||
		    is_silent(slot->opcode) || now - t->interrupted_ns[i] < GRACE_MS * 1000000ull)
			continue;
		t->interrupted_ns[i] = 0;
		drop_locks(t->fs, slot);
		answer_error(t->fs, fuse_fd, slot, -EINTR);
	}
}

/* ---- tables ---- */

static void undo_lookups(struct cv_shm *shm)
{
	struct cv_undo *undo = shm->undo;
	bool valid = false;

	for (uint32_t i = 0; i < shm->slots_ready && undo->sequence; i++) {
		if (shm->slots[i].state == CV_SLOT_RECEIVED &&
		    shm->slots[i].sequence == undo->sequence)
			valid = true;
	}
	/* Backwards: the same node may be in it more than once. */
	for (uint64_t n = valid && undo->count <= CV_UNDO_MAX ? undo->count : 0; n > 0; n--) {
		if (undo->entries[n - 1].node < CV_NODES_MAX)
			shm->nodes[undo->entries[n - 1].node].lookups =
				undo->entries[n - 1].lookups;
	}
	cv_shm_barrier();
	undo->sequence = 0;
}

/* What was begun is suspected; what only waited is not, nor is anything when somebody killed it. */
static void count_crash(struct cv_shm *shm)
{
	for (uint32_t i = 0; i < shm->slots_ready && shm->header->crashed; i++) {
		if (unanswered(&shm->slots[i]) && shm->slots[i].tries > 0)
			shm->slots[i].crashes++;
	}
	cv_shm_barrier();
	shm->header->crashed = 0;
}

static void undo(struct cv_shm *shm)
{
	undo_lookups(shm);
	count_crash(shm);
	for (uint32_t i = 0; i < shm->slots_ready; i++) {
		struct cv_slot *slot = &shm->slots[i];
		struct cv_handle_record *h;

		if (slot->state != CV_SLOT_RECEIVED || !slot->handle ||
		    slot->handle > CV_HANDLES_MAX)
			continue;
		/* The kernel never heard of this handle; it will get another. */
		h = &shm->handles[slot->handle - 1];
		if (h->used && h->sequence == slot->handle_sequence)
			h->used = 0;
		cv_shm_barrier();
		slot->handle = 0;
	}
}

/* ---- connecting ----
 *
 * The engine connects on the main thread, which is where it will be used (what it sets for the
 * calling thread must hold there), and a helper reads from the kernel meanwhile.
 */

struct holding {
	struct cv_takeover *t;
	int fuse_fd;
	int listen_fd;
	int stop; /* eventfd */
	void (*abandon)(struct cv_fs *fs);
};

static bool data_left(const struct cv_shm *shm)
{
	for (uint32_t i = 0; i < CV_WB_BUFFERS; i++) {
		if (shm->extents[i].state != CV_EXTENT_FREE)
			return true;
	}
	return false;
}

/* Nobody uses the mount any more: it ends here unless written data is left, and not too old. */
static void check_gone(const struct holding *h, uint64_t *gone_ns)
{
	struct cv_fs *fs = h->t->fs;

	if (!fs->gone)
		return;
	if (!*gone_ns)
		*gone_ns = cv_now_ns();
	if (data_left(&fs->shm)) {
		if (cv_now_ns() - *gone_ns < FAREWELL_NS)
			return;
		cv_error("written data could not be stored: the server did not come back");
	}
	h->abandon(fs);
}

static void *hold_thread(void *arg)
{
	struct holding *h = arg;
	struct cv_fs *fs = h->t->fs;
	uint64_t gone_ns = 0;

	for (;;) {
		struct pollfd fds[] = { { .fd = h->stop, .events = POLLIN },
					{ .fd = fs->gone ? -1 : h->fuse_fd, .events = POLLIN },
					{ .fd = h->listen_fd, .events = POLLIN } };

		(void)poll(fds, CV_ARRAY_SIZE(fds), TICK_MS);
		/* Waiting for the server is no reason to be taken for hung. */
		cv_counters_beat(fs->shm.base + CV_COUNTERS_OFFSET, cv_now_ns());
		if (fds[0].revents)
			return NULL;
		if (fds[1].revents) {
			while (cv_fs_receive(fs, h->fuse_fd))
				;
			/* Full: what is not read now is read later. */
			fs->receiving_paused = false;
		}
		if (fds[2].revents)
			cv_control_answer_one(h->listen_fd, h->fuse_fd, fs->shm.fd);
		check_gone(h, &gone_ns);
		answer_interrupted(h->t, h->fuse_fd);
	}
}

#define LEFT_MAX (CV_SLOTS + CV_WB_BUFFERS)

/* What was sent for requests that are not answered, and of written data. Returns their number. */
static size_t find_left(struct cv_fs *fs, struct cv_left list[LEFT_MAX])
{
	size_t count = 0;

	for (uint32_t i = 0; i < fs->shm.slots_ready; i++) {
		const struct cv_slot *slot = &fs->shm.slots[i];
		struct cv_replay *replay = cv_shm_replay(&fs->shm, slot);

		if (unanswered(slot) && slot->tries > 0 &&
		    replay->id == cv_request_id(fs, slot->unique))
			list[count++] = (struct cv_left){ .replay = replay };
	}
	for (uint32_t i = 0; i < CV_WB_BUFFERS; i++) {
		const struct cv_extent_record *r = &fs->shm.extents[i];
		struct cv_replay *replay = cv_shm_extent_replay(&fs->shm, i);

		if (r->state != CV_EXTENT_SENT)
			continue;
		/* With no record of it, it was not sent yet, or the engine keeps none. */
		if (!r->op_id || r->op_sequence != r->sequence)
			fs->takeover->unrecorded = true;
		else if (replay->id == r->op_id && r->size <= CV_WB_BUFFER_SIZE)
			list[count++] = (struct cv_left){ .replay = replay,
							  .data = cv_shm_wb_buffer(&fs->shm, i),
							  .data_size = r->size };
	}
	return count;
}

/* With recovery=soft, too: a mount whose worker did not connect would be no mount at all. */
static void connect_until_done(struct cv_fs *fs, const struct cv_dict *given)
{
	cv_cleanup_dict struct cv_dict options = { 0 };
	const char *resume = fs->shm.state->resume;
	unsigned delay_ms = RETRY_MIN_MS;
	struct cv_err err = { 0 };
	char said[sizeof(err.text)] = "";
	struct cv_left list[LEFT_MAX];
	unsigned broken = 0;
	const struct cv_replays replays = { .list = list,
					    .broken = &broken,
					    .count = find_left(fs, list),
					    .peers = fs->shm.state->peers };

	/* Without it (no memory): a connection of its own, which is worse but not wrong. */
	if (cv_dict_copy(&options, given) == 0 && *resume &&
	    strnlen(resume, sizeof(fs->shm.state->resume)) < sizeof(fs->shm.state->resume) &&
	    cv_dict_set(&options, "resume", resume) == 0)
		given = &options;
	while (cv_mount_resume(given, fs->loop, &replays, &fs->mount, &err) < 0) {
		if (strcmp(said, err.text) != 0)
			cv_warning("taking over: %s; trying again", err.text);
		memcpy(said, err.text, sizeof(said));
		memset(&err, 0, sizeof(err));
		(void)usleep(delay_ms * 1000);
		delay_ms = delay_ms * 2 < RETRY_MAX_MS ? delay_ms * 2 : RETRY_MAX_MS;
	}
}

int cv_takeover_connect(struct cv_fs *fs, const struct cv_dict *options, int fuse_fd, int listen_fd,
			void (*abandon)(struct cv_fs *fs), struct cv_err *err)
{
	struct holding h = { .fuse_fd = fuse_fd, .listen_fd = listen_fd, .abandon = abandon };
	uint64_t one = 1;
	pthread_t thread = 0;
	int r;

	/* Before anything new comes in: the numbers of new requests begin again behind those left.
	 */
	undo(&fs->shm);
	h.t = fs->takeover = takeover_new(fs);
	if (!h.t)
		return cv_fail(err, ENOMEM, "taking over: out of memory");
	h.stop = eventfd(0, EFD_CLOEXEC);
	r = h.stop < 0 ? -errno : -pthread_create(&thread, NULL, hold_thread, &h);
	if (r < 0) {
		cv_close_fd(&h.stop);
		return cv_fail(err, -r, "taking over: %s", cv_strerror(r));
	}
	connect_until_done(fs, options);
	(void)!write(h.stop, &one, sizeof(one));
	(void)pthread_join(thread, NULL);
	cv_close_fd(&h.stop);
	return 0;
}

/* ---- executing again ---- */

static int by_sequence(const void *a, const void *b)
{
	uint64_t x = (*(struct cv_slot *const *)a)->sequence;
	uint64_t y = (*(struct cv_slot *const *)b)->sequence;

	return (x > y) - (x < y);
}

static bool changes_names(const struct cv_slot *slot)
{
	return slot->tries > 0 && (slot->opcode == FUSE_RENAME || slot->opcode == FUSE_RENAME2 ||
				   slot->opcode == FUSE_UNLINK || slot->opcode == FUSE_RMDIR);
}

/* To a request that has been begun, as the kernel would send it. */
static void interrupt_again(struct cv_fs *fs, const struct cv_slot *slot)
{
	struct {
		struct fuse_in_header header;
		struct fuse_interrupt_in in;
	} msg = { .header = { .len = sizeof(msg), .opcode = FUSE_INTERRUPT },
		  .in = { .unique = slot->unique } };
	struct fuse_buf buf = { .mem = &msg, .size = sizeof(msg) };

	fuse_session_process_buf(fs->session, &buf);
}

static void execute(struct cv_takeover *t, struct cv_slot *slot)
{
	struct cv_fs *fs = t->fs;
	uint32_t i = (uint32_t)(slot - fs->shm.slots);

	if (slot->crashes >= CRASHES_MAX) {
		cv_error("a request (operation %" PRIu32 ", %" PRIu32 " bytes) was under way when "
			 "%d workers in a row crashed; it is answered with an error",
			 slot->opcode, slot->size, CRASHES_MAX);
		answer_error(fs, fs->fuse_fd, slot, -EIO);
		return;
	}
	if (slot->tries > 0)
		t->requests++;
	slot->state = CV_SLOT_RECEIVED;
	t->running[i] = true;
	cv_fs_dispatch(fs, slot);
	if (slot->interrupted && slot->state == CV_SLOT_RECEIVED)
		interrupt_again(fs, slot);
}

static void execute_all(struct cv_takeover *t, bool names_only)
{
	struct cv_shm *shm = &t->fs->shm;
	struct cv_slot *slots[CV_SLOTS] = { NULL };
	size_t count = 0;

	for (uint32_t i = 0; i < shm->slots_ready; i++) {
		struct cv_slot *slot = &shm->slots[i];

		if (unanswered(slot) && !t->running[i] && (!names_only || changes_names(slot)))
			slots[count++] = slot;
	}
	qsort(slots, count, sizeof(slots[0]), by_sequence);
	for (size_t i = 0; i < count; i++)
		execute(t, slots[i]);
}

/* What was decided is said again, the kernel takes it once. */
static void answer_decided(struct cv_takeover *t)
{
	struct cv_shm *shm = &t->fs->shm;

	for (uint32_t i = 0; i < shm->slots_ready; i++) {
		struct cv_slot *slot = &shm->slots[i];

		if (slot->state == CV_SLOT_DONE) {
			if (slot->reply_size && slot->reply_size <= sizeof(slot->reply))
				(void)!write(t->fs->fuse_fd, slot->reply, slot->reply_size);
			cv_shm_slot_put(shm, slot);
		} else if (slot->state == CV_SLOT_RECEIVED && slot->opcode == FUSE_INTERRUPT) {
			note_interrupt(t, slot);
		}
	}
}

/* ---- steps ---- */

static void finish(struct cv_takeover *t)
{
	struct cv_fs *fs = t->fs;

	cv_wb_restore(fs->wb);
	fs->takeover = NULL; /* requests are dispatched as they come from here on */
	execute_all(t, false);
	cv_nodes_sweep(&fs->nodes);
	cv_notice("took over: %u open files, %u requests repeated, %u ms", t->files, t->requests,
		  (unsigned)((cv_now_ns() - t->started_ns) / 1000000));
	cv_takeover_free(t);
	if (fs->gone && fs->on_gone)
		fs->on_gone(fs);
}

static void next_step(struct cv_deferred *deferred)
{
	struct cv_takeover *t = cv_container_of(deferred, struct cv_takeover, next);
	struct cv_fs *fs = t->fs;

	/* Each step's own requests come to their end first. */
	while (fs->request_count == 0) {
		switch (t->phase) {
		case PHASE_CONNECT:
		case PHASE_SETTLE:
			return;
		case PHASE_NAMES:
			t->phase = PHASE_FILES;
			t->files = cv_opens_reopen(fs);
			break;
		case PHASE_FILES:
			t->phase = PHASE_LOCKS;
			(void)cv_locks_restore(fs);
			break;
		case PHASE_LOCKS:
			finish(t);
			return;
		}
	}
}

void cv_takeover_idle(struct cv_takeover *t)
{
	if (t->phase >= PHASE_NAMES)
		cv_loop_defer(t->fs->loop, &t->next);
}

static void begin_names(struct cv_takeover *t)
{
	t->phase = PHASE_NAMES;
	cv_hidden_restore(t->fs);
	execute_all(t, true);
	cv_takeover_idle(t);
}

/*
 * The predecessor's connection ended with it, but its last requests may still be in the server's
 * hands: they come to their end, or are dropped with the connection, before we look what became of
 * them. Where the engine could not settle them, or has kept no record, nothing tells when;
 * connecting has taken a few round trips already, and this much is waited at least. Nothing was
 * begun, or no server: nothing to wait for.
 */
static unsigned settle_ms(const struct cv_takeover *t)
{
	const struct cv_shm *shm = &t->fs->shm;
	uint64_t passed = (cv_now_ns() - t->started_ns) / 1000000;
	uint64_t wanted = SETTLE_MS + 2ull * t->fs->mount.info.rtt_us / 1000;
	bool settled = t->fs->mount.info.settled, begun = t->unrecorded;

	for (uint32_t i = 0; i < shm->slots_ready && !settled; i++)
		begun |= unanswered(&shm->slots[i]) && shm->slots[i].tries > 0;
	for (uint32_t i = 0; i < CV_WB_BUFFERS && !settled; i++)
		begun |= shm->extents[i].state == CV_EXTENT_SENT;
	return !begun || t->fs->local || passed >= wanted ? 0 : (unsigned)(wanted - passed);
}

static void tick(struct cv_timer *timer)
{
	struct cv_takeover *t = cv_container_of(timer, struct cv_takeover, tick);
	unsigned left = t->phase == PHASE_SETTLE ? settle_ms(t) : 0;

	answer_interrupted(t, t->fs->fuse_fd);
	(void)cv_timer_set(t->fs->loop, &t->tick, left && left < TICK_MS ? left : TICK_MS);
	if (t->phase == PHASE_SETTLE && left == 0)
		begin_names(t);
}

int cv_takeover_start(struct cv_fs *fs)
{
	struct cv_takeover *t = fs->takeover;
	int r = cv_opens_restore(fs);

	if (r < 0)
		return r;
	answer_decided(t);
	t->phase = PHASE_SETTLE;
	return cv_timer_set(fs->loop, &t->tick, 0);
}

static struct cv_takeover *takeover_new(struct cv_fs *fs)
{
	struct cv_takeover *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->fs = fs;
	t->phase = PHASE_CONNECT;
	t->started_ns = cv_now_ns();
	t->tick = (struct cv_timer)CV_TIMER_INIT(tick);
	t->next = (struct cv_deferred)CV_DEFERRED_INIT(next_step);
	for (uint32_t i = 0; i < fs->shm.slots_ready; i++) {
		if (unanswered(&fs->shm.slots[i]) && fs->shm.slots[i].interrupted)
			t->interrupted_ns[i] = t->started_ns;
	}
	return t;
}

void cv_takeover_free(struct cv_takeover *t)
{
	if (!t)
		return;
	cv_timer_cancel(t->fs->loop, &t->tick);
	cv_loop_undefer(t->fs->loop, &t->next);
	free(t);
}
