/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/nfs4_owner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/loop.h"
#include "config/str.h"

#define FILE_MAX   (4l << 20) /* bytes: a larger one is not looked at */
#define RECHECK_NS 5000000000ull
#define DOMAIN_MAX 256

struct entry {
	const char *name; /* in text */
	uint32_t id;
};

/* One of the files, by name. */
struct table {
	const char *path;
	char *text; /* owned */
	struct entry *entries;
	size_t count;
	struct timespec mtime;
	uint64_t checked_ns;
};

struct cv_owners {
	struct table users, groups;
	char domain[DOMAIN_MAX]; /* the server's; "" as long as it has sent none */
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

/* "name:x:id:…" → the entry; line loses its colons. */
static bool parse_line(char *line, struct entry *ret)
{
	char *name = strsep(&line, ":"), *id;
	uint64_t value;

	(void)strsep(&line, ":");
	id = strsep(&line, ":");
	if (!id || !*name || cv_parse_u64(id, 10, UINT32_MAX, &value) < 0)
		return false;
	ret->name = name;
	ret->id = (uint32_t)value;
	return true;
}

static void table_clear(struct table *t)
{
	free(t->text);
	free(t->entries);
	t->text = NULL;
	t->entries = NULL;
	t->count = 0;
}

/* The whole file, terminated, or NULL. The caller's. */
static char *read_all(FILE *f, size_t size)
{
	char *text = malloc(size + 1);

	if (!text)
		return NULL;
	text[fread(text, 1, size, f)] = '\0';
	return text;
}

static void table_load(struct table *t, FILE *f, size_t size)
{
	size_t lines = 1;
	char *rest;

	table_clear(t);
	t->text = read_all(f, size);
	if (!t->text)
		return;
	for (const char *p = t->text; *p; p++)
		lines += *p == '\n';
	t->entries = malloc(lines * sizeof(*t->entries));
	if (!t->entries)
		return;
	rest = t->text;
	for (char *line; (line = strsep(&rest, "\n"));) {
		if (parse_line(line, &t->entries[t->count]))
			t->count++;
	}
	qsort(t->entries, t->count, sizeof(*t->entries), by_name);
}

/* Reads the file again when it has changed; looks seldom. */
static void table_refresh(struct table *t)
{
	uint64_t now = cv_now_ns();
	cv_cleanup_fclose FILE *f = NULL;
	struct stat st;

	if (t->checked_ns && now - t->checked_ns < RECHECK_NS)
		return;
	t->checked_ns = now;
	f = fopen(t->path, "re");
	if (!f || fstat(fileno(f), &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
		return;
	if (t->text && st.st_mtim.tv_sec == t->mtime.tv_sec &&
	    st.st_mtim.tv_nsec == t->mtime.tv_nsec)
		return;
	t->mtime = st.st_mtim;
	table_load(t, f, (size_t)st.st_size);
}

struct cv_owners *cv_owners_new(const char *passwd, const char *group)
{
	struct cv_owners *o = calloc(1, sizeof(*o));

	if (o) {
		o->users.path = passwd;
		o->groups.path = group;
	}
	return o;
}

void cv_owners_free(struct cv_owners *o)
{
	if (!o)
		return;
	table_clear(&o->users);
	table_clear(&o->groups);
	free(o);
}

static uint32_t find_id(struct cv_owners *o, struct table *t, const char *text)
{
	char name[DOMAIN_MAX];
	struct entry key = { .name = name };
	const struct entry *found;
	const char *at;
	uint64_t id;

	if (cv_parse_u64(text, 10, UINT32_MAX, &id) == 0)
		return (uint32_t)id;
	if (!cv_strcpy(name, sizeof(name), text))
		return CV_OWNER_NOBODY;
	/* A name may have an @ of its own (Active Directory); the domain follows the last. */
	at = strrchr(text, '@');
	if (at) {
		name[at - text] = '\0';
		if (at[1])
			(void)cv_strcpy(o->domain, sizeof(o->domain), at + 1);
	}
	table_refresh(t);
	found = t->count ? bsearch(&key, t->entries, t->count, sizeof(key), by_name) : NULL;
	/* Some servers put the domain behind a number, too. */
	if (!found && cv_parse_u64(name, 10, UINT32_MAX, &id) == 0)
		return (uint32_t)id;
	return found ? found->id : CV_OWNER_NOBODY;
}

uint32_t cv_owners_uid(void *arg, const char *name)
{
	struct cv_owners *o = arg;

	return find_id(o, &o->users, name);
}

uint32_t cv_owners_gid(void *arg, const char *name)
{
	struct cv_owners *o = arg;

	return find_id(o, &o->groups, name);
}

void cv_owners_format(struct cv_owners *o, bool group, bool names, uint32_t id, char *ret,
		      size_t size)
{
	struct table *t = group ? &o->groups : &o->users;

	(void)snprintf(ret, size, "%" PRIu32, id);
	if (!names || !*o->domain)
		return;
	table_refresh(t);
	for (size_t i = 0; i < t->count; i++) {
		if (t->entries[i].id == id) {
			(void)snprintf(ret, size, "%s@%s", t->entries[i].name, o->domain);
			return;
		}
	}
}
