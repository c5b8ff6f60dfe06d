/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories of which every name is known: those that this worker has made and nobody else has
 * changed since. A name that is none of ours is not in there, and need not be looked up before it
 * is made, which is what unpacking an archive, or a build, does all the time.
 *
 * With each change of ours the server says how it found the directory. If that is how our change
 * before has left it, it is still ours alone, and that is believed as long as any missing name is;
 * if not, it is forgotten here. A successor of the worker knows of none.
 *
 * Bounded; running out of memory or room only costs a question. Loop thread only.
 */
#ifndef CV_FUSE_COMPLETE_H
#define CV_FUSE_COMPLETE_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/backend.h"
#include "fuse/nodes.h"

#define CV_COMPLETE_DIRS  64 /* of more, those that were changed last */
#define CV_COMPLETE_NAMES 16384

struct cv_complete_dir {
	uint32_t node; /* 0: unused */
	uint32_t generation;
	uint64_t change;   /* cv_change() after our last change */
	uint64_t until_ns; /* cv_now_ns(): believed until then */
	/* Hashes of all names that were ever made, or tried to: an open-addressed table, 0 is
	 * none. That two are equal only costs a question. */
	uint32_t *names; /* owned */
	uint32_t size;	 /* a power of two */
	uint32_t count;
};

struct cv_complete {
	struct cv_complete_dir dirs[CV_COMPLETE_DIRS];
};

void cv_complete_release(struct cv_complete *c);

/* We have just made dir, as attr; nothing is in it. */
void cv_complete_made(struct cv_complete *c, const struct cv_node *dir, const struct cv_attr *attr,
		      uint64_t until_ns);
/* Before name may come to be in dir by our doing. */
void cv_complete_name(struct cv_complete *c, const struct cv_node *dir, const char *name);
/* A change of ours of dir, or an attempt, has ended; after: what the server says of it. */
void cv_complete_changed(struct cv_complete *c, const struct cv_node *dir,
			 const struct cv_dir_after *after, uint64_t until_ns);
/* Is name surely not in dir? */
bool cv_complete_lacks(struct cv_complete *c, const struct cv_node *dir, const char *name,
		       uint64_t now_ns);

#endif
