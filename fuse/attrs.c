/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attributes: what people see of an object, how long it is believed, what the kernel was told last,
 * and what of it is known without asking the server.
 */
#include "fuse/fs.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "config/options.h"
#include "config/str.h"

static void know_since(struct cv_fs *fs, struct cv_node *node, const struct cv_attr *attr,
		       uint64_t since_ns)
{
	uint64_t ttl_ns = (uint64_t)(cv_fs_ttl(fs, attr) * 1e9);

	if (ttl_ns)
		cv_node_know(node, attr, since_ns + ttl_ns);
}

void cv_fs_know(struct cv_fs *fs, struct cv_node *node, const struct cv_attr *attr)
{
	know_since(fs, node, attr, cv_loop_now_ns(fs->loop));
}

void cv_fs_know_dir(struct cv_fs *fs, struct cv_node *node, const struct cv_attr *attr,
		    uint64_t age_ns)
{
	if (S_ISDIR(attr->mode) && !fs->local)
		know_since(fs, node, attr, cv_loop_now_ns(fs->loop) - age_ns);
}

static int64_t ns_of(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
}

/* Whole seconds hide a second change within the same one: then trust nothing. */
static uint64_t trusted_change(struct cv_fs *fs, const struct cv_attr *attr)
{
	struct timespec now;

	if (fs->mount.info.time_gran_ns >= 1000000000 && !attr->change) {
		(void)clock_gettime(CLOCK_REALTIME, &now);
		if (now.tv_sec - attr->mtime.tv_sec <= 2)
			return 0;
	}
	return cv_change(attr);
}

bool cv_fs_unchanged(const struct cv_node *node, const struct cv_attr *attr)
{
	return node->record->seen_size == attr->size &&
	       node->record->seen_change == cv_change(attr);
}

static void remember_seen(struct cv_fs *fs, struct cv_node *node, const struct cv_attr *attr)
{
	struct cv_node_record *r = node->record;
	uint64_t change = trusted_change(fs, attr);

	if (r->seen_size != attr->size || r->seen_change != change)
		node->told = ++fs->nodes.clock;
	r->seen_size = attr->size;
	r->seen_change = r->own_change = change;
}

bool cv_fs_told_else(const struct cv_node *node, const struct cv_attr *attr, uint64_t clock)
{
	const struct cv_node_record *r = node->record;

	return node->told > clock && (r->seen_size != attr->size ||
				      (r->seen_change && r->seen_change != cv_change(attr)));
}

void cv_fs_written(struct cv_fs *fs, struct cv_node *node)
{
	struct cv_node_record *r = node->record;
	struct cv_attr attr;
	uint64_t began, got_ns;

	if (!cv_wb_attr(node, &attr, &began, &got_ns))
		return;
	if (began >= node->changed && began >= node->landed)
		know_since(fs, node, &attr, got_ns);
	/* What was put into the kernel's pages is what the server has, unless another client has
	 * written, too. */
	if (attr.size == r->seen_size && (!r->own_change || r->own_change == cv_change(&attr)))
		r->seen_change = r->own_change = trusted_change(fs, &attr);
}

void cv_fs_stat(struct cv_fs *fs, struct cv_node *node, const struct cv_attr *attr, struct stat *st)
{
	uint64_t end;

	memset(st, 0, sizeof(*st));
	st->st_ino = node->record->ino;
	st->st_mode = attr->mode;
	st->st_nlink = attr->nlink;
	st->st_uid = attr->uid;
	st->st_gid = attr->gid;
	st->st_rdev = (dev_t)attr->rdev;
	st->st_size = (off_t)attr->size;
	st->st_blocks = (blkcnt_t)attr->blocks;
	st->st_blksize = attr->blksize;
	st->st_atim = attr->atime;
	st->st_mtim = attr->mtime;
	st->st_ctim = attr->ctime;
	node->record->nlink = attr->nlink;
	node->record->permissions = attr->mode & 07777;
	if ((node->record->flags & CV_NODE_HIDDEN) && st->st_nlink)
		st->st_nlink--;
	if (cv_wb_pending(node, &end)) {
		if ((uint64_t)st->st_size < end)
			st->st_size = (off_t)end;
		node->record->seen_size = (uint64_t)st->st_size;
		node->record->seen_change = 0;
	} else {
		remember_seen(fs, node, attr);
	}
}

/* As NFS clients do: what has not changed for long is believed for longer. */
double cv_fs_ttl(struct cv_fs *fs, const struct cv_attr *attr)
{
	bool dir = S_ISDIR(attr->mode);
	unsigned min = dir ? fs->ttl_dir_min_ms : fs->ttl_file_min_ms;
	unsigned max = dir ? fs->ttl_dir_max_ms : fs->ttl_file_max_ms;
	struct timespec now;
	int64_t age_ms;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	age_ms = (ns_of(&now) - ns_of(&attr->mtime)) / 1000000 / 10;
	if (age_ms < min)
		age_ms = min;
	if (age_ms > max)
		age_ms = max;
	return (double)age_ms / 1000;
}

/* ---- known without asking ---- */

bool cv_fs_known(struct cv_fs *fs, const struct cv_node *node, struct cv_attr *ret_attr,
		 double *ret_ttl)
{
	const struct cv_known *known = node->known;
	uint64_t now = cv_loop_now_ns(fs->loop);

	if (!known || known->until_ns <= now)
		return false;
	*ret_attr = known->attr;
	*ret_ttl = (double)(known->until_ns - now) / 1e9;
	return true;
}

void cv_fs_dir_changed(struct cv_request *r, struct cv_node *dir, const struct cv_dir_after *after)
{
	struct cv_fs *fs = r->fs;
	/* Answers overtake each other: with two changes under way neither is surely the state after
	 * both, unless the server says that one followed what we know. */
	bool last = after->have && (dir->changed <= r->clock ||
				    (dir->known && after->before == cv_change(&dir->known->attr)));

	cv_node_touch(&fs->nodes, dir);
	if (last)
		cv_fs_know(fs, dir, &after->attr);
	cv_fs_dir_complete(fs, dir, after);
	cv_makers_note(&fs->makers, dir, cv_request_pid(r), cv_loop_now_ns(fs->loop));
}

void cv_fs_dir_complete(struct cv_fs *fs, const struct cv_node *dir,
			const struct cv_dir_after *after)
{
	cv_complete_changed(&fs->complete, dir, after,
			    cv_loop_now_ns(fs->loop) + fs->ttl_negative_ms * 1000000ull);
}

/* ---- options ---- */

void cv_fs_set_ttls(struct cv_fs *fs, const struct cv_dict *o)
{
	const char *cache = cv_options_str(o, "cache", "default");
	bool local = fs->local;

	fs->ttl_file_min_ms = local ? 1000 : 3000;
	fs->ttl_file_max_ms = local ? 1000 : 60000;
	fs->ttl_dir_min_ms = local ? 1000 : 30000;
	fs->ttl_dir_max_ms = local ? 1000 : 60000;
	fs->ttl_negative_ms = 1000;
	if (cv_str_eq(cache, "strict"))
		fs->ttl_file_min_ms = fs->ttl_file_max_ms = fs->ttl_dir_min_ms =
			fs->ttl_dir_max_ms = fs->ttl_negative_ms = 0;
	if (cv_str_eq(cache, "relaxed")) {
		fs->ttl_file_min_ms = fs->ttl_dir_min_ms = 60000;
		fs->ttl_file_max_ms = fs->ttl_dir_max_ms = 600000;
		fs->ttl_negative_ms = 5000;
	}
	if (cv_dict_get(o, "attr_timeout"))
		fs->ttl_file_min_ms = fs->ttl_file_max_ms = fs->ttl_dir_min_ms =
			fs->ttl_dir_max_ms = (unsigned)cv_options_ms(o, "attr_timeout", 0);
	fs->ttl_file_min_ms =
		(unsigned)cv_options_ms(o, "attr_timeout_file_min", fs->ttl_file_min_ms);
	fs->ttl_file_max_ms =
		(unsigned)cv_options_ms(o, "attr_timeout_file_max", fs->ttl_file_max_ms);
	fs->ttl_dir_min_ms = (unsigned)cv_options_ms(o, "attr_timeout_dir_min", fs->ttl_dir_min_ms);
	fs->ttl_dir_max_ms = (unsigned)cv_options_ms(o, "attr_timeout_dir_max", fs->ttl_dir_max_ms);
}
