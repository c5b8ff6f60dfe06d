/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The beginning of a small file, read along with its open, for both versions. NFSv3: a READ instead
 * of the ACCESS, since it says as much: whether the caller may, and what the attributes are. NFSv4:
 * a READ behind the OPEN, in the same compound. A small file then costs one round trip.
 *
 * The kernel will believe these bytes for as long as the attributes that open() brings stay the
 * same, so they must not be older than those. In a compound they are younger. READ of NFSv3 looks
 * at both in no order that we know of; there the bytes are kept only if the attributes are those
 * that the worker has seen before: then nothing has changed in between.
 *
 * They answer reads, soon, and none after a change of our own or a lock, nor once the worker has
 * been told other attributes of the file: whoever opened it then may expect what belongs to those.
 */
#include "backends/nfs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_MAX 32 /* files */
#define GOOD_NS	  1000000000ull

struct cv_nfs_first {
	struct cv_nfs *nfs;
	struct cv_nfs_first *next;
	struct cv_nfs_first **link;
	struct cv_file *file; /* NULL: not open yet */
	struct cv_handle handle;
	uint64_t change; /* cv_change() of the attributes that came along */
	bool bad;	 /* others have been told since */
	uint64_t asked_ns;
	uint64_t clock;
	bool eof;
	size_t size;
	uint8_t data[];
};

/* Nobody will find it any more. */
static void take_out(struct cv_nfs_first *first)
{
	*first->link = first->next;
	if (first->next)
		first->next->link = first->link;
	if (first->file)
		first->file->first = NULL;
	first->nfs->firsts.kept--;
	first->nfs->ahead.watched--;
}

static void first_free(struct cv_nfs_first *first)
{
	take_out(first);
	free(first);
}

void cv_nfs_first_forget(struct cv_nfs_req *q)
{
	if (q->first)
		first_free(q->first);
	q->first = NULL;
}

/* Nobody has wanted it. */
static void give_up(struct cv_nfs_first *first)
{
	cv_guess_was(&first->nfs->firsts.guess, false);
	first_free(first);
}

static bool is_old(const struct cv_nfs_first *first)
{
	return first->bad || cv_loop_now_ns(first->nfs->loop) - first->asked_ns > GOOD_NS ||
	       cv_nfs_ahead_touched(first->nfs, &first->handle, first->clock);
}

/* Those of files that stay open and are not read, e.g. since the kernel has their pages. */
static void drop_old(struct cv_nfs *nfs)
{
	struct cv_nfs_first *next;

	for (struct cv_nfs_first *f = nfs->firsts.list; f; f = next) {
		next = f->next;
		if (f->file && is_old(f))
			give_up(f);
	}
}

void cv_nfs_first_want(struct cv_nfs_req *q, const struct cv_object *obj)
{
	struct cv_nfs *nfs = q->nfs;

	if (nfs->ahead.off || (q->flags & O_ACCMODE) != O_RDONLY || q->flags & O_TRUNC ||
	    !obj->seen_change || obj->seen_size == 0 || obj->seen_size > CV_NFS_FIRST_SIZE)
		return;
	if (nfs->firsts.kept >= FIRST_MAX)
		drop_old(nfs);
	if (nfs->firsts.kept >= FIRST_MAX || !cv_guess_worth(&nfs->firsts.guess))
		return;
	q->first_size = nfs->rsize < CV_NFS_FIRST_SIZE ? nfs->rsize : CV_NFS_FIRST_SIZE;
	q->first_clock = ++nfs->ahead.clock;
	nfs->ahead.watched++;
}

void cv_nfs_first_seen(struct cv_nfs *nfs, const struct cv_handle *handle,
		       const struct cv_attr *attr)
{
	uint64_t change = cv_change(attr);

	for (struct cv_nfs_first *f = nfs->firsts.list; f; f = f->next) {
		if (f->change != change && cv_nfs_same_handle(&f->handle, handle))
			f->bad = true;
	}
}

void cv_nfs_first_got(struct cv_nfs_req *q, uint64_t change, const uint8_t *data, size_t size,
		      bool eof)
{
	struct cv_nfs *nfs = q->nfs;
	struct cv_nfs_first *first;

	nfs->bytes_read += size;
	cv_nfs_first_forget(q); /* opened anew, after a recovery */
	if (cv_nfs_ahead_told_since(nfs, &q->obj, q->first_clock))
		return; /* perhaps what is newer than these */
	first = malloc(sizeof(*first) + size);
	if (!first)
		return;
	*first = (struct cv_nfs_first){
		.nfs = nfs,
		.next = nfs->firsts.list,
		.link = &nfs->firsts.list,
		.handle = q->obj,
		.change = change,
		.asked_ns = cv_loop_now_ns(nfs->loop),
		.clock = q->first_clock,
		.eof = eof,
		.size = size,
	};
	memcpy(first->data, data, size);
	if (first->next)
		first->next->link = &first->next;
	nfs->firsts.list = first;
	nfs->firsts.kept++;
	nfs->ahead.watched++;
	q->first = first;
}

void cv_nfs_first_give(struct cv_nfs_req *q, struct cv_file *file)
{
	if (!q->first)
		return;
	q->first->file = file;
	file->first = q->first;
	q->first = NULL;
}

void cv_nfs_first_leave(struct cv_file *file)
{
	if (file->first)
		give_up(file->first);
}

bool cv_nfs_first_read(struct cv_op *op, struct cv_file *file, size_t size, uint64_t off)
{
	struct cv_nfs_first *first = file->first;
	size_t left;
	bool all;

	if (!first)
		return false;
	left = off < first->size ? first->size - (size_t)off : 0;
	/* All it wants, or all there is. */
	if ((size > left && !first->eof) || is_old(first)) {
		give_up(first);
		return false;
	}
	cv_guess_was(&first->nfs->firsts.guess, true);
	op->data = left ? first->data + off : first->data;
	all = size >= left; /* else the rest may be wanted by the next read */
	if (all)
		take_out(first);
	op->done(op, (ssize_t)(all ? left : size)); /* the file may be closed in there */
	if (all)
		free(first);
	return true;
}
