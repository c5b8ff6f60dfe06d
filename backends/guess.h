/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Something asked of a server before anybody wants it, together with what somebody does want. As
 * long as it is wanted every now and then, it is asked each time; when nobody has wanted it several
 * times in a row, only now and then, to learn whether that has changed.
 */
#ifndef CV_BACKENDS_GUESS_H
#define CV_BACKENDS_GUESS_H

#include <stdbool.h>

#define CV_GUESS_PATIENCE     4
#define CV_GUESS_NOW_AND_THEN 8

struct cv_guess {
	unsigned vain; /* not wanted, in a row */
	unsigned skipped;
};

/* Is it worth asking this time? */
static inline bool cv_guess_worth(struct cv_guess *g)
{
	return g->vain < CV_GUESS_PATIENCE || ++g->skipped % CV_GUESS_NOW_AND_THEN == 0;
}

static inline void cv_guess_was(struct cv_guess *g, bool wanted)
{
	g->vain = wanted ? 0 : g->vain + 1;
}

#endif
