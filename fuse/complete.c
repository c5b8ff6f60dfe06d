/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/complete.h"

#include <stdlib.h>
#include <string.h>

#include "config/str.h"

#define TABLE_MIN 64u

static uint32_t hash_of(const char *name)
{
	uint32_t h = (uint32_t)cv_hash(0, name, strlen(name));

	return h ? h : 1;
}

static void forget(struct cv_complete_dir *d)
{
	free(d->names);
	memset(d, 0, sizeof(*d));
}

/* Servers may fold what looks the same into one name. That of ASCII they say (case_insensitive). */
static bool is_plain(const char *name)
{
	while (*name && (unsigned char)*name < 0x80)
		name++;
	return *name == '\0';
}

static struct cv_complete_dir *find(struct cv_complete *c, const struct cv_node *dir)
{
	for (size_t i = 0; i < CV_COMPLETE_DIRS; i++) {
		struct cv_complete_dir *d = &c->dirs[i];

		/* The index may have had another user before. */
		if (d->node == dir->id && d->generation == dir->record->generation)
			return d;
	}
	return NULL;
}

static void put(uint32_t *names, uint32_t size, uint32_t hash)
{
	uint32_t i = hash & (size - 1);

	while (names[i] && names[i] != hash)
		i = (i + 1) & (size - 1);
	names[i] = hash;
}

static bool has(const struct cv_complete_dir *d, uint32_t hash)
{
	for (uint32_t i = hash & (d->size - 1); d->names[i]; i = (i + 1) & (d->size - 1)) {
		if (d->names[i] == hash)
			return true;
	}
	return false;
}

/* At most half of the table is used, so that searches end soon. */
static bool grow(struct cv_complete_dir *d)
{
	uint32_t size = d->size * 2;
	uint32_t *names = calloc(size, sizeof(*names));

	if (!names)
		return false;
	for (uint32_t i = 0; i < d->size; i++) {
		if (d->names[i])
			put(names, size, d->names[i]);
	}
	free(d->names);
	d->names = names;
	d->size = size;
	return true;
}

void cv_complete_release(struct cv_complete *c)
{
	for (size_t i = 0; i < CV_COMPLETE_DIRS; i++)
		forget(&c->dirs[i]);
}

void cv_complete_made(struct cv_complete *c, const struct cv_node *dir, const struct cv_attr *attr,
		      uint64_t until_ns)
{
	struct cv_complete_dir *d = &c->dirs[0];

	for (size_t i = 0; i < CV_COMPLETE_DIRS; i++) {
		if (c->dirs[i].until_ns < d->until_ns)
			d = &c->dirs[i];
	}
	forget(d);
	d->names = calloc(TABLE_MIN, sizeof(*d->names));
	if (!d->names)
		return;
	d->size = TABLE_MIN;
	d->node = dir->id;
	d->generation = dir->record->generation;
	d->change = cv_change(attr);
	d->until_ns = until_ns;
}

void cv_complete_name(struct cv_complete *c, const struct cv_node *dir, const char *name)
{
	struct cv_complete_dir *d = find(c, dir);
	uint32_t hash = hash_of(name);

	if (!d || has(d, hash))
		return;
	if (d->count >= CV_COMPLETE_NAMES || (d->count + 1 > d->size / 2 && !grow(d))) {
		forget(d);
		return;
	}
	put(d->names, d->size, hash);
	d->count++;
}

void cv_complete_changed(struct cv_complete *c, const struct cv_node *dir,
			 const struct cv_dir_after *after, uint64_t until_ns)
{
	struct cv_complete_dir *d = find(c, dir);

	if (!d)
		return;
	if (!after->have || after->before != d->change) {
		forget(d);
		return;
	}
	d->change = cv_change(&after->attr);
	d->until_ns = until_ns;
}

bool cv_complete_lacks(struct cv_complete *c, const struct cv_node *dir, const char *name,
		       uint64_t now_ns)
{
	const struct cv_complete_dir *d = find(c, dir);

	return d && d->until_ns > now_ns && is_plain(name) && !has(d, hash_of(name));
}
