/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which directories are asked ahead of a walk: whoever lists a directory and then one below it
 * (find, ls -R, du, grep -r) will want those beside it, too. As with read-ahead of file data, the
 * number of those grows when the guess was right and shrinks when nobody came.
 *
 * It keeps order and count; what a directory is, how it is asked and what is done with the answer
 * is the engine's business.
 */
#ifndef CV_BACKENDS_WALK_H
#define CV_BACKENDS_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "config/dict.h"

#define CV_WALK_PLANNED_MAX 512

enum cv_walk_state {
	CV_WALK_PLANNED,
	CV_WALK_ASKED,
	CV_WALK_ASIDE, /* not for a walk: in the list because the engine knows something of it */
};

/* Part of an engine's own record of a directory. */
struct cv_walk_dir {
	struct cv_walk_dir *next;
	struct cv_walk_dir **link;
	uint64_t since_ns; /* when it was entered, or asked */
	enum cv_walk_state state;
};

struct cv_walk {
	struct cv_walk_dir *dirs; /* in the order in which a walk is expected to come by */
	unsigned planned;
	unsigned asked;	 /* and not wanted so far */
	unsigned budget; /* how many of those there may be; 0: nobody walks */
	bool far;	 /* a wrong guess costs less than a round trip */
	bool eager;
	uint64_t hit_ns; /* when a directory of these was wanted last */
};

/* Not where nothing may be older than the question. */
bool cv_walk_allowed(const struct cv_dict *options);
/* eager: whoever lists a directory is taken to walk, before he has listed one below it. */
void cv_walk_init(struct cv_walk *w, uint32_t rtt_us, bool eager);
/* Enters d, planned or aside, at *at (w->dirs: first). Planned, the caller has seen that there are
 * not too many. */
void cv_walk_add(struct cv_walk *w, struct cv_walk_dir *d, enum cv_walk_state state,
		 struct cv_walk_dir **at, uint64_t now_ns);
/* The next one to be asked, which counts as asked from then on; NULL: none now. */
struct cv_walk_dir *cv_walk_next(struct cv_walk *w, uint64_t now_ns);
void cv_walk_remove(struct cv_walk *w, struct cv_walk_dir *d);
/* Somebody wants a directory that was planned or asked. */
void cv_walk_hit(struct cv_walk *w, uint64_t now_ns);
/* Nobody came for one that was asked. */
void cv_walk_missed(struct cv_walk *w);

#endif
