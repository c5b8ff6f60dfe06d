/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/makers.h"

/* A few round trips of a long line lie between one new file and the next. */
#define MAKING_NS 500000000ull

static unsigned place(const struct cv_node *dir, pid_t pid)
{
	return (dir->id * 31 + (unsigned)pid) & (CV_MAKERS - 1);
}

void cv_makers_note(struct cv_makers *m, const struct cv_node *dir, pid_t pid, uint64_t now_ns)
{
	if (pid > 0)
		m->list[place(dir, pid)] = (struct cv_maker){ dir->id, dir->record->generation, pid,
							      now_ns + MAKING_NS };
}

bool cv_makers_has(const struct cv_makers *m, const struct cv_node *dir, pid_t pid, uint64_t now_ns)
{
	const struct cv_maker *k = &m->list[place(dir, pid)];

	return pid > 0 && k->pid == pid && k->node == dir->id &&
	       k->generation == dir->record->generation && k->until_ns > now_ns;
}
