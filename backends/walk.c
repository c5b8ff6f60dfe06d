/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/walk.h"

#include <stddef.h>

#include "config/options.h"
#include "config/str.h"

#define BUDGET_START 2
#define BUDGET_FAR   8 /* the same where a wrong guess costs less than a round trip */
#define FAR_RTT_US   2000
#define BUDGET_MAX   32
#define WALK_NS	     2000000000ull /* who has not come by for so long has ended */

bool cv_walk_allowed(const struct cv_dict *options)
{
	return !cv_str_eq(cv_options_str(options, "cache", "default"), "strict") &&
	       cv_options_ms(options, "attr_timeout", 1) != 0;
}

static unsigned first_budget(const struct cv_walk *w)
{
	return w->far ? BUDGET_FAR : BUDGET_START;
}

void cv_walk_init(struct cv_walk *w, uint32_t rtt_us, bool eager)
{
	*w = (struct cv_walk){ .far = rtt_us >= FAR_RTT_US, .eager = eager };
	if (eager)
		w->budget = first_budget(w);
}

void cv_walk_add(struct cv_walk *w, struct cv_walk_dir *d, enum cv_walk_state state,
		 struct cv_walk_dir **at, uint64_t now_ns)
{
	d->since_ns = now_ns;
	d->state = state;
	d->next = *at;
	d->link = at;
	if (d->next)
		d->next->link = &d->next;
	*at = d;
	w->planned += state == CV_WALK_PLANNED;
}

struct cv_walk_dir *cv_walk_next(struct cv_walk *w, uint64_t now_ns)
{
	if (!w->eager && now_ns - w->hit_ns > WALK_NS)
		w->budget = 0;
	if (w->planned == 0 || w->asked >= w->budget)
		return NULL;
	for (struct cv_walk_dir *d = w->dirs; d; d = d->next) {
		if (d->state != CV_WALK_PLANNED)
			continue;
		d->state = CV_WALK_ASKED;
		d->since_ns = now_ns;
		w->planned--;
		w->asked++;
		return d;
	}
	return NULL;
}

void cv_walk_remove(struct cv_walk *w, struct cv_walk_dir *d)
{
	*d->link = d->next;
	if (d->next)
		d->next->link = d->link;
	w->planned -= d->state == CV_WALK_PLANNED;
	w->asked -= d->state == CV_WALK_ASKED;
}

void cv_walk_hit(struct cv_walk *w, uint64_t now_ns)
{
	w->hit_ns = now_ns;
	if (w->budget == 0)
		w->budget = first_budget(w);
	else if (w->budget < BUDGET_MAX)
		w->budget *= 2;
}

void cv_walk_missed(struct cv_walk *w)
{
	if (w->budget > 1)
		w->budget /= 2;
}
