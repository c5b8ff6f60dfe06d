/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <linux/fuse.h>

#include "config/cleanup.h"
#include "config/counters.h"
#include "config/log.h"

#define MIB	   (1ull << 20)
#define GIB	   (1ull << 30)
#define OFF_STATE  (256 * 1024ull)
#define OFF_LOCKS  (512 * 1024ull)
#define OFF_SLOTS  (1 * MIB)
#define OFF_UNDO   (3 * MIB)
#define OFF_SMALL  (4 * MIB)
#define OFF_REPLAY (16 * MIB)
#define OFF_EXTENT (32 * MIB)
#define OFF_WB	   (64 * MIB)
#define OFF_LARGE  (256 * MIB)
#define OFF_NODES  (1 * GIB)
#define OFF_HANDLE (10 * GIB)

_Static_assert(sizeof(struct cv_slot) == 1024, "slot layout");
_Static_assert(sizeof(struct cv_node_record) == 512, "node layout");
_Static_assert(sizeof(struct cv_handle_record) == 128, "handle layout");
_Static_assert(sizeof(struct cv_extent_record) == 64, "extent layout");
_Static_assert(CV_COUNTERS_OFFSET + CV_COUNTERS_MAX <= OFF_STATE, "counters");
_Static_assert(OFF_STATE + sizeof(struct cv_shared_state) <= OFF_LOCKS, "state");
_Static_assert(OFF_LOCKS + CV_LOCKS_MAX * sizeof(struct cv_lock_record) <= OFF_SLOTS, "locks");
_Static_assert(OFF_SLOTS + CV_SLOTS * sizeof(struct cv_slot) <= OFF_UNDO, "slots");
_Static_assert(OFF_UNDO + sizeof(struct cv_undo) <= OFF_SMALL, "undo");
_Static_assert(OFF_SMALL + CV_SLOTS * CV_SMALL_SIZE <= OFF_REPLAY, "small buffers");
_Static_assert(OFF_REPLAY + (CV_SLOTS + CV_WB_BUFFERS) * sizeof(struct cv_replay) <= OFF_EXTENT,
	       "replays");
_Static_assert(OFF_EXTENT + CV_WB_BUFFERS * sizeof(struct cv_extent_record) <= OFF_WB, "extents");
_Static_assert(OFF_WB + (uint64_t)CV_WB_BUFFERS * CV_WB_BUFFER_SIZE <= OFF_LARGE, "write-behind");
_Static_assert(OFF_LARGE + (uint64_t)CV_LARGE_COUNT * CV_LARGE_SIZE <= OFF_NODES, "large buffers");
_Static_assert(OFF_NODES + (uint64_t)CV_NODES_MAX * sizeof(struct cv_node_record) <= OFF_HANDLE,
	       "nodes");
_Static_assert(OFF_HANDLE + (uint64_t)CV_HANDLES_MAX * sizeof(struct cv_handle_record) <=
		       CV_SHM_SIZE,
	       "handles");

/* MADV_POPULATE_WRITE (Linux 5.14) is not in every libc; older kernels answer EINVAL. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static int make_resident(struct cv_shm *shm, void *start, size_t size)
{
	if (shm->can_lock) {
		if (mlock(start, size) == 0)
			return 0; /* populates, too */
		shm->can_lock = false;
		cv_notice("cannot lock request buffers in memory (%s): a worker that is killed "
			  "under memory pressure may lose requests; raise LimitMEMLOCK or grant "
			  "CAP_IPC_LOCK",
			  cv_strerror(errno));
	}
	if (madvise(start, size, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	/* Without a change: a predecessor's requests may be in there. */
	for (uint8_t *p = start; p < (uint8_t *)start + size; p += 4096)
		(void)__atomic_fetch_or(p, 0, __ATOMIC_RELAXED);
	return 0;
}

static void free_pages(struct cv_shm *shm, void *start, size_t size)
{
	(void)fallocate(shm->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(uint8_t *)start - shm->base, (off_t)size);
}

static void drop_pages(struct cv_shm *shm, void *start, size_t size)
{
	if (shm->can_lock)
		(void)munlock(start, size);
	free_pages(shm, start, size);
}

/* Slots become resident in chunks; a slot's record and small buffer go together. */
static int slots_grow(struct cv_shm *shm)
{
	uint32_t first = shm->slots_ready, n = CV_SLOTS_IDLE;
	int r;

	if (first + n > CV_SLOTS)
		return -ENOSPC;
	r = make_resident(shm, &shm->slots[first], n * sizeof(struct cv_slot));
	if (r == 0)
		r = make_resident(shm, shm->small + (size_t)first * CV_SMALL_SIZE,
				  (size_t)n * CV_SMALL_SIZE);
	if (r < 0)
		return r;
	shm->slots_ready += n;
	/* Taking over, a predecessor's count stays: killed here, the next one needs it. */
	if (shm->state->slots_ready < shm->slots_ready)
		shm->state->slots_ready = shm->slots_ready;
	return 0;
}

static uint8_t *small_buffer(struct cv_shm *shm, const struct cv_slot *slot)
{
	return shm->small + (size_t)(slot - shm->slots) * CV_SMALL_SIZE;
}

static uint8_t *large_buffer(struct cv_shm *shm, uint32_t i)
{
	return shm->large + (size_t)i * CV_LARGE_SIZE;
}

static int large_tighten(struct cv_shm *shm, uint32_t i)
{
	int r = make_resident(shm, large_buffer(shm, i), CV_LARGE_SIZE);

	if (r == 0)
		shm->large_loose[i] = false;
	return r;
}

/* The kernel has copied what it had to; reading a page may fault. */
static void large_loosen(struct cv_shm *shm, uint32_t i, size_t used)
{
	uint8_t *buf = large_buffer(shm, i);
	size_t keep = (used + 4095) & ~(size_t)4095;

	shm->large_loose[i] = true;
	if (shm->can_lock)
		(void)munlock(buf, keep);
	drop_pages(shm, buf + keep, CV_LARGE_SIZE - keep);
}

static int large_grow(struct cv_shm *shm)
{
	uint32_t i = shm->large_ready;
	int r = i < CV_LARGE_COUNT ? large_tighten(shm, i) : -ENOSPC;

	if (r < 0)
		return r;
	shm->large_ready = i + 1;
	if (shm->state->large_ready < shm->large_ready)
		shm->state->large_ready = shm->large_ready;
	return 0;
}

/* As many as a predecessor had, at least the idle set. */
static int buffers_grow(struct cv_shm *shm)
{
	uint32_t slots = shm->state->slots_ready, large = shm->state->large_ready;
	int r = 0;

	while (r == 0 && (shm->slots_ready == 0 || shm->slots_ready < slots))
		r = slots_grow(shm);
	while (r == 0 && shm->large_ready < CV_LARGE_IDLE)
		r = large_grow(shm);
	/* What is in them is there; they are made ready when they are used again. */
	for (; r == 0 && shm->large_ready < large && large <= CV_LARGE_COUNT; shm->large_ready++)
		shm->large_loose[shm->large_ready] = true;
	return r;
}

static void slot_fill(struct cv_slot *slot, const uint8_t *request, size_t size_bytes)
{
	const struct fuse_in_header *in = (const void *)request;

	slot->size = (uint32_t)size_bytes;
	slot->opcode = in->opcode;
	slot->unique = in->unique;
}

/*
 * A predecessor's slots. The kernel copies a request's header first and does not stop before its
 * end: a length in a buffer that had none before means that all of it is there.
 */
static void slots_take_over(struct cv_shm *shm)
{
	for (uint32_t i = 0; i < shm->slots_ready; i++) {
		struct cv_slot *slot = &shm->slots[i];
		bool large = slot->large >= 0 && slot->large < (int32_t)shm->large_ready;

		if (slot->state == CV_SLOT_READING) {
			const uint8_t *request = cv_shm_slot_request(shm, slot);
			uint32_t size = large ? ((const struct fuse_in_header *)request)->len : 0;

			if (size)
				slot_fill(slot, request, size);
			cv_shm_barrier();
			slot->state = size ? CV_SLOT_RECEIVED : CV_SLOT_FREE;
		}
		if (slot->state == CV_SLOT_FREE)
			continue;
		if (large) {
			shm->large_used[slot->large] = true;
			shm->large_in_use++;
		}
		shm->slots_used++;
		shm->uniques[i] = slot->unique;
		if (slot->sequence >= shm->next_sequence)
			shm->next_sequence = slot->sequence + 1;
	}
}

int cv_shm_map(int fd, struct cv_shm *shm, struct cv_err *err)
{
	struct stat st;

	memset(shm, 0, sizeof(*shm));
	shm->fd = -1;
	if (fstat(fd, &st) < 0)
		return cv_fail(err, errno, "shared memory: %s", cv_strerror(errno));
	if ((uint64_t)st.st_size < CV_SHM_SIZE)
		return cv_fail(err, EPROTO, "shared memory: %lld bytes, expected %llu",
			       (long long)st.st_size, (unsigned long long)CV_SHM_SIZE);
	shm->base =
		mmap(NULL, CV_SHM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (shm->base == MAP_FAILED)
		return cv_fail(err, errno, "shared memory: mmap: %s", cv_strerror(errno));
	/* Requests hold users' data: keep it out of core files. */
	(void)madvise(shm->base, CV_SHM_SIZE, MADV_DONTDUMP);

	shm->header = (void *)shm->base;
	if (shm->header->magic != CV_SHM_MAGIC || shm->header->version != CV_SHM_VERSION) {
		uint32_t version = shm->header->version;

		(void)munmap(shm->base, CV_SHM_SIZE);
		return cv_fail(err, EPROTO,
			       "shared memory: unknown layout (version %u, this is %u)", version,
			       CV_SHM_VERSION);
	}
	shm->state = (void *)(shm->base + OFF_STATE);
	shm->undo = (void *)(shm->base + OFF_UNDO);
	shm->slots = (void *)(shm->base + OFF_SLOTS);
	shm->small = shm->base + OFF_SMALL;
	shm->replays = (void *)(shm->base + OFF_REPLAY);
	shm->extents = (void *)(shm->base + OFF_EXTENT);
	shm->large = shm->base + OFF_LARGE;
	shm->wb = shm->base + OFF_WB;
	shm->nodes = (void *)(shm->base + OFF_NODES);
	shm->handles = (void *)(shm->base + OFF_HANDLE);
	shm->locks = (void *)(shm->base + OFF_LOCKS);
	shm->can_lock = true;
	shm->next_sequence = 1;

	if (buffers_grow(shm) < 0) {
		(void)munmap(shm->base, CV_SHM_SIZE);
		return cv_fail(err, ENOMEM, "shared memory: not enough memory for request buffers");
	}
	slots_take_over(shm);
	shm->fd = fd;
	return 0;
}

void cv_shm_release(struct cv_shm *shm)
{
	if (shm->base && shm->fd >= 0)
		(void)munmap(shm->base, CV_SHM_SIZE);
	cv_close_fd(&shm->fd);
	shm->base = NULL;
}

struct cv_slot *cv_shm_slot_get(struct cv_shm *shm)
{
	for (;;) {
		for (uint32_t n = 0; n < shm->slots_ready; n++) {
			uint32_t i = (shm->slot_hint + n) % shm->slots_ready;
			struct cv_slot *slot = &shm->slots[i];

			if (slot->state != CV_SLOT_FREE)
				continue;
			shm->slot_hint = i;
			shm->slots_used++;
			slot->large = -1;
			slot->size = 0;
			slot->tries = slot->crashes = 0;
			slot->unique = 0;
			slot->reply_size = 0;
			slot->interrupted = 0;
			slot->handle = 0;
			slot->forgotten = slot->forgetting = 0;
			slot->moving[0] = slot->moving[1] = slot->hiding = 0;
			slot->sequence = shm->next_sequence++;
			return slot;
		}
		if (slots_grow(shm) < 0)
			return NULL;
	}
}

void cv_shm_slot_put(struct cv_shm *shm, struct cv_slot *slot)
{
	slot->state = CV_SLOT_FREE;
	cv_shm_barrier();
	shm->uniques[slot - shm->slots] = 0;
	if (slot->large >= 0) {
		shm->large_used[slot->large] = false;
		shm->large_in_use--;
		slot->large = -1;
	}
	shm->slots_used--;
	shm->slot_hint = (uint32_t)(slot - shm->slots);
}

uint8_t *cv_shm_receive_buffer(struct cv_shm *shm, struct cv_slot *slot)
{
	for (uint32_t i = 0; i < CV_LARGE_COUNT; i++) {
		uint8_t *buf = large_buffer(shm, i);

		if (shm->large_used[i])
			continue;
		if (i >= shm->large_ready && large_grow(shm) < 0)
			return NULL;
		if (shm->large_loose[i] && large_tighten(shm, i) < 0)
			return NULL;
		shm->large_used[i] = true;
		shm->large_in_use++;
		slot->large = (int32_t)i;
		/* A non-zero length in a READING slot is the sign of a complete request. */
		memset(buf, 0, sizeof(struct fuse_in_header));
		cv_shm_barrier();
		slot->state = CV_SLOT_READING;
		cv_shm_barrier();
		return buf;
	}
	return NULL;
}

void cv_shm_slot_publish(struct cv_shm *shm, struct cv_slot *slot, size_t size_bytes)
{
	const uint8_t *buf = cv_shm_slot_request(shm, slot);
	int32_t large = slot->large;

	slot_fill(slot, buf, size_bytes);
	if (size_bytes <= CV_SMALL_SIZE)
		memcpy(small_buffer(shm, slot), buf, size_bytes);
	cv_shm_barrier();
	slot->state = CV_SLOT_RECEIVED;
	cv_shm_barrier();
	shm->uniques[slot - shm->slots] = slot->unique;
	/* Only now: a slot that is still READING is looked for in its large buffer. */
	if (size_bytes <= CV_SMALL_SIZE) {
		slot->large = -1;
		shm->large_used[large] = false;
		shm->large_in_use--;
	} else if (shm->large_in_use > CV_LARGE_PINNED) {
		large_loosen(shm, (uint32_t)large, size_bytes);
	}
}

uint8_t *cv_shm_slot_request(struct cv_shm *shm, struct cv_slot *slot)
{
	return slot->large >= 0 ? large_buffer(shm, (uint32_t)slot->large)
				: small_buffer(shm, slot);
}

struct cv_slot *cv_shm_slot_find(struct cv_shm *shm, uint64_t unique)
{
	for (uint32_t i = 0; i < shm->slots_ready; i++) {
		if (shm->uniques[i] == unique)
			return &shm->slots[i];
	}
	return NULL;
}

void cv_shm_reply_begin(struct cv_slot *slot, const struct iovec *iov, int count, size_t size)
{
	size_t used = 0;

	if (size > sizeof(slot->reply)) {
		cv_shm_barrier();
		slot->state = CV_SLOT_SENDING;
		cv_shm_barrier();
		return;
	}
	for (int i = 0; i < count; i++) {
		memcpy(slot->reply + used, iov[i].iov_base, iov[i].iov_len);
		used += iov[i].iov_len;
	}
	slot->reply_size = (uint32_t)used;
	cv_shm_barrier();
	slot->state = CV_SLOT_DONE;
	cv_shm_barrier();
}

void cv_shm_reply_end(struct cv_slot *slot)
{
	slot->reply_size = 0; /* sent */
	cv_shm_barrier();
	slot->state = CV_SLOT_DONE;
	cv_shm_barrier();
}

void cv_shm_undo_begin(struct cv_shm *shm, const struct cv_slot *slot)
{
	shm->undo->count = 0;
	cv_shm_barrier();
	shm->undo->sequence = slot ? slot->sequence : 0;
	cv_shm_barrier();
}

void cv_shm_undo_note(struct cv_shm *shm, uint32_t node, uint64_t lookups)
{
	struct cv_undo *undo = shm->undo;

	if (undo->count >= CV_UNDO_MAX)
		return;
	undo->entries[undo->count].node = node;
	undo->entries[undo->count].lookups = lookups;
	cv_shm_barrier();
	undo->count++;
	cv_shm_barrier();
}

void cv_shm_wb_populate(struct cv_shm *shm, uint32_t index, size_t size_bytes)
{
	(void)madvise(cv_shm_wb_buffer(shm, index), size_bytes, MADV_POPULATE_WRITE);
}

void cv_shm_wb_trim(struct cv_shm *shm, uint32_t index)
{
	free_pages(shm, cv_shm_wb_buffer(shm, index), CV_WB_BUFFER_SIZE);
	free_pages(shm, cv_shm_extent_replay(shm, index), sizeof(struct cv_replay));
}

void cv_shm_trim(struct cv_shm *shm)
{
	while (shm->large_ready > CV_LARGE_IDLE && !shm->large_used[shm->large_ready - 1]) {
		shm->large_ready--;
		shm->state->large_ready = shm->large_ready;
		shm->large_loose[shm->large_ready] = false;
		drop_pages(shm, large_buffer(shm, shm->large_ready), CV_LARGE_SIZE);
	}
	while (shm->slots_ready > CV_SLOTS_IDLE) {
		uint32_t first = shm->slots_ready - CV_SLOTS_IDLE;

		for (uint32_t i = first; i < shm->slots_ready; i++) {
			if (shm->slots[i].state != CV_SLOT_FREE)
				return;
		}
		drop_pages(shm, shm->small + (size_t)first * CV_SMALL_SIZE,
			   (size_t)CV_SLOTS_IDLE * CV_SMALL_SIZE);
		drop_pages(shm, &shm->replays[first], CV_SLOTS_IDLE * sizeof(struct cv_replay));
		shm->slots_ready = shm->state->slots_ready = first;
		shm->slot_hint = 0;
	}
}
