/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dispatcher: stands between the worker and an engine's table. On the way in it keeps the
 * caller's done in the operation and puts its own there, on the way out it judges the result. An
 * engine is code we wrote, but what it reports comes from a server: nothing impossible gets past
 * here, so that the worker needs no checks of its own.
 */
#include "backends/backend.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/counters.h"
#include "config/log.h"
#include "config/options.h"

#define XATTR_MAX 65536 /* of a value and of a list; <linux/limits.h> */
/* "Asked" when only the length is wanted: no data comes back. */
#define XATTR_PROBE (XATTR_MAX + 1)

/* What a successful call must have filled in. */
enum gives {
	GIVES_ENTRY = 1 << 0,
	GIVES_ATTR = 1 << 1,
	GIVES_FILE = 1 << 2,
	GIVES_DIR = 1 << 3,
	GIVES_DATA = 1 << 4, /* result: its length */
	GIVES_DIRENTS = 1 << 5,
	GIVES_ALL = 1 << 6,   /* result: what was asked, exactly */
	GIVES_COUNT = 1 << 7, /* result: what was asked, or less */
};

static const struct {
	unsigned gives;
	int missing; /* the answer when the engine has no such member */
} calls[] = {
	[CV_CALL_LOOKUP] = { GIVES_ENTRY, -ENOSYS },
	[CV_CALL_GETATTR] = { GIVES_ATTR, -ENOSYS },
	[CV_CALL_SETATTR] = { GIVES_ATTR, -ENOSYS },
	[CV_CALL_READLINK] = { GIVES_DATA, -ENOSYS },
	[CV_CALL_MKNOD] = { GIVES_ENTRY, -ENOSYS },
	[CV_CALL_MKDIR] = { GIVES_ENTRY, -ENOSYS },
	[CV_CALL_SYMLINK] = { GIVES_ENTRY, -ENOSYS },
	[CV_CALL_LINK] = { GIVES_ENTRY, -ENOSYS },
	[CV_CALL_UNLINK] = { 0, -ENOSYS },
	[CV_CALL_RMDIR] = { 0, -ENOSYS },
	[CV_CALL_RENAME] = { 0, -ENOSYS },
	[CV_CALL_OPEN] = { GIVES_FILE | GIVES_ATTR, -ENOSYS },
	[CV_CALL_CREATE] = { GIVES_ENTRY | GIVES_FILE | GIVES_ATTR, -ENOSYS },
	[CV_CALL_READ] = { GIVES_DATA, -ENOSYS },
	[CV_CALL_WRITE] = { GIVES_ALL, -ENOSYS },
	[CV_CALL_FSYNC] = { 0, -ENOSYS },
	[CV_CALL_FALLOCATE] = { 0, -ENOSYS },
	[CV_CALL_LSEEK] = { 0, -ENOSYS },
	[CV_CALL_GETLK] = { 0, -ENOSYS },
	[CV_CALL_SETLK] = { 0, -ENOSYS },
	[CV_CALL_OPENDIR] = { GIVES_DIR, -ENOSYS },
	[CV_CALL_READDIR] = { GIVES_DIRENTS, -ENOSYS },
	[CV_CALL_FSYNCDIR] = { 0, -ENOSYS },
	[CV_CALL_STATFS] = { 0, -ENOSYS },
	[CV_CALL_GETXATTR] = { GIVES_DATA, -EOPNOTSUPP },
	[CV_CALL_LISTXATTR] = { GIVES_DATA, -EOPNOTSUPP },
	[CV_CALL_SETXATTR] = { 0, -EOPNOTSUPP },
	[CV_CALL_REMOVEXATTR] = { 0, -EOPNOTSUPP },
	[CV_CALL_COPY] = { GIVES_COUNT, -EOPNOTSUPP },
};

/* ---- judging results ---- */

static bool type_valid(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return true;
	default:
		return false;
	}
}

static bool entry_valid(const struct cv_mount *m, const struct cv_entry *entry)
{
	bool handles = m->info.features & CV_FEAT_HANDLES;

	return entry->handle.size <= CV_HANDLE_MAX && (entry->handle.size > 0) == handles &&
	       type_valid(entry->attr.mode);
}

/* One component that can be the name of an object. Returns 0 or -errno. */
static int name_check(const char *name)
{
	size_t len = strnlen(name, CV_NAME_MAX + 1);

	if (len > CV_NAME_MAX)
		return -ENAMETOOLONG;
	if (len == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strchr(name, '/'))
		return -EINVAL;
	return 0;
}

static bool dirents_valid(const struct cv_mount *m, const struct cv_op *op, ssize_t count)
{
	if (count == 0)
		return op->eof;
	if (!op->dirents)
		return false;
	for (ssize_t i = 0; i < count; i++) {
		const struct cv_dirent *d = &op->dirents[i];

		if (name_check(d->name) < 0 || d->next_off == 0 ||
		    (d->have_entry && !entry_valid(m, &d->entry)))
			return false;
	}
	return true;
}

static bool success_valid(const struct cv_mount *m, const struct cv_op *op, ssize_t result)
{
	unsigned gives = calls[op->call].gives;

	if (gives & GIVES_DIRENTS)
		return dirents_valid(m, op, result);
	if (gives & GIVES_DATA)
		return (size_t)result <= op->asked &&
		       (op->data || result == 0 || op->asked == XATTR_PROBE);
	if (gives & GIVES_ALL)
		return (size_t)result == op->asked;
	if (gives & GIVES_COUNT)
		return (size_t)result <= op->asked;
	if (result != 0)
		return false;
	if ((gives & GIVES_ENTRY) && !entry_valid(m, &op->entry))
		return false;
	if ((gives & GIVES_ATTR) && !(op->have_attr && type_valid(op->attr.mode)))
		return false;
	return !(gives & (GIVES_FILE | GIVES_DIR)) || op->file;
}

/* Extras: without them the worker asks. */
static void drop_impossible_dir(struct cv_dir_after *dir)
{
	if (dir->have && !S_ISDIR(dir->attr.mode))
		dir->have = false;
}

static void drop_file(struct cv_mount *m, struct cv_op *op)
{
	struct cv_file *file = op->file;

	op->file = NULL;
	if (!file)
		return;
	if (calls[op->call].gives & GIVES_DIR)
		cv_releasedir(m, file);
	else
		cv_release(m, file);
}

static void on_done(struct cv_op *op, ssize_t result)
{
	struct cv_mount *m = op->mount;

	op->debug_done++;
	if (!m) {
		cv_debug("%p: completed again (%zd): ignored", (void *)op, result);
		return;
	}
	if (result >= 0 ? !success_valid(m, op, result) : result < -4095) {
		cv_debug("%s: %p: %s: impossible result %zd", m->backend->name, (void *)op,
			 cv_call_name(op->call), result);
		if (result >= 0 && (calls[op->call].gives & (GIVES_FILE | GIVES_DIR)))
			drop_file(m, op);
		result = -EIO;
	}
	cv_debug("%s: %p: %s = %zd%s%s", m->backend->name, (void *)op, cv_call_name(op->call),
		 result, result < 0 ? " " : "", result < 0 ? cv_strerror((int)result) : "");
	drop_impossible_dir(&op->dir);
	drop_impossible_dir(&op->newdir);
	op->mount = NULL;
	m->in_flight--;
	cv_counters_end(m->counters, op->call, op->begun_ns, cv_now_ns(), result);
	op->caller_done(op, result);
}

/* ---- attributes ---- */

static uint64_t mix(uint64_t h, uint64_t value)
{
	h = (h ^ value) * 0xd6e8feb86659fd93ull;
	return h ^ (h >> 32);
}

uint64_t cv_change(const struct cv_attr *attr)
{
	uint64_t h = attr->change;

	if (h)
		return h;
	h = mix(0x9e3779b97f4a7c15ull, attr->size);
	h = mix(h, (uint64_t)attr->mtime.tv_sec * 1000000000 + (uint64_t)attr->mtime.tv_nsec);
	h = mix(h, (uint64_t)attr->ctime.tv_sec * 1000000000 + (uint64_t)attr->ctime.tv_nsec);
	return h ? h : 1;
}

struct cv_dirent *cv_dirents_dup(const struct cv_dirent *entries, size_t count)
{
	size_t names = 1; /* malloc(0) may be NULL */
	struct cv_dirent *copy;
	char *p;

	for (size_t i = 0; i < count; i++)
		names += strlen(entries[i].name) + 1;
	copy = malloc(count * sizeof(*copy) + names);
	if (!copy)
		return NULL;
	p = (char *)(copy + count);
	for (size_t i = 0; i < count; i++) {
		size_t n = strlen(entries[i].name) + 1;

		copy[i] = entries[i];
		copy[i].name = memcpy(p, entries[i].name, n);
		p += n;
	}
	return copy;
}

/* ---- the way in ---- */

void cv_op_init(struct cv_op *op, void (*done)(struct cv_op *, ssize_t), const struct cv_cred *cred)
{
	memset(op, 0, sizeof(*op));
	op->done = done;
	op->cred = cred;
}

/*
 * From here on the operation is in flight; the caller hands it to the engine if true is returned,
 * else it has been answered. asked: the largest sensible result.
 */
static bool begin(struct cv_mount *m, struct cv_op *op, enum cv_call call, bool supported,
		  size_t asked)
{
	assert(!op->mount);	 /* else it is still in flight */
	if (op->done == on_done) /* used again as it is */
		cv_op_init(op, op->caller_done, op->cred);
	op->caller_done = op->done;
	op->done = on_done;
	op->debug_done = 0;
	op->mount = m;
	op->call = call;
	op->asked = asked;
	m->in_flight++;
	op->begun_ns = cv_now_ns();
	cv_counters_begin(m->counters, op->begun_ns);
	if (!supported) {
		op->done(op, calls[call].missing);
		return false;
	}
	return true;
}

static bool begin_name(struct cv_mount *m, struct cv_op *op, enum cv_call call, bool supported,
		       const char *name)
{
	int r = name_check(name);

	if (!begin(m, op, call, supported, 0))
		return false;
	if (r < 0)
		op->done(op, r);
	else
		cv_debug("%s: %p: %s '%s'", m->backend->name, (void *)op, cv_call_name(call), name);
	return r == 0;
}

static bool begin_io(struct cv_mount *m, struct cv_op *op, enum cv_call call, bool supported,
		     size_t size_bytes, uint64_t off)
{
	if (!begin(m, op, call, supported, size_bytes))
		return false;
	/* The kernel's offsets are signed; no engine need think about overflow. */
	if (size_bytes > CV_MAX_IO || off > (uint64_t)INT64_MAX - size_bytes) {
		op->done(op, -EINVAL);
		return false;
	}
	cv_debug("%s: %p: %s %zu at %llu", m->backend->name, (void *)op, cv_call_name(call),
		 size_bytes, (unsigned long long)off);
	return true;
}

void cv_lookup(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	if (begin_name(m, op, CV_CALL_LOOKUP, m->backend->lookup, name))
		m->backend->lookup(m->conn, op, dir, name);
}

void cv_getattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		struct cv_file *file)
{
	if (begin(m, op, CV_CALL_GETATTR, m->backend->getattr, 0))
		m->backend->getattr(m->conn, op, obj, file);
}

void cv_setattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		struct cv_file *file, const struct cv_setattr *set)
{
	if (begin(m, op, CV_CALL_SETATTR, m->backend->setattr, 0))
		m->backend->setattr(m->conn, op, obj, file, set);
}

void cv_readlink(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj)
{
	if (begin(m, op, CV_CALL_READLINK, m->backend->readlink, CV_MAX_IO))
		m->backend->readlink(m->conn, op, obj);
}

void cv_mknod(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
	      uint32_t mode, uint64_t rdev)
{
	if (begin_name(m, op, CV_CALL_MKNOD, m->backend->mknod, name))
		m->backend->mknod(m->conn, op, dir, name, mode, rdev);
}

void cv_mkdir(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
	      uint32_t mode)
{
	if (begin_name(m, op, CV_CALL_MKDIR, m->backend->mkdir, name))
		m->backend->mkdir(m->conn, op, dir, name, mode);
}

void cv_symlink(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
		const char *target)
{
	if (begin_name(m, op, CV_CALL_SYMLINK, m->backend->symlink, name))
		m->backend->symlink(m->conn, op, dir, name, target);
}

void cv_link(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
	     const struct cv_object *dir, const char *name)
{
	if (begin_name(m, op, CV_CALL_LINK, m->backend->link, name))
		m->backend->link(m->conn, op, obj, dir, name);
}

void cv_unlink(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	if (begin_name(m, op, CV_CALL_UNLINK, m->backend->unlink, name))
		m->backend->unlink(m->conn, op, dir, name);
}

void cv_rmdir(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	if (begin_name(m, op, CV_CALL_RMDIR, m->backend->rmdir, name))
		m->backend->rmdir(m->conn, op, dir, name);
}

void cv_rename(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
	       const struct cv_object *newdir, const char *newname, unsigned flags)
{
	int r = name_check(newname);

	if (!begin_name(m, op, CV_CALL_RENAME, m->backend->rename, name))
		return;
	if (r < 0) {
		op->done(op, r);
		return;
	}
	cv_debug("%s: %p: to '%s'", m->backend->name, (void *)op, newname);
	m->backend->rename(m->conn, op, dir, name, newdir, newname, flags);
}

void cv_open(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj, int flags)
{
	if (begin(m, op, CV_CALL_OPEN, m->backend->open, 0))
		m->backend->open(m->conn, op, obj, flags);
}

void cv_create(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
	       int flags, uint32_t mode)
{
	if (begin_name(m, op, CV_CALL_CREATE, m->backend->create, name))
		m->backend->create(m->conn, op, dir, name, flags, mode);
}

void cv_release(struct cv_mount *m, struct cv_file *file)
{
	if (m->backend->release)
		m->backend->release(m->conn, file);
}

void cv_read(struct cv_mount *m, struct cv_op *op, struct cv_file *file, size_t size_bytes,
	     uint64_t off)
{
	if (begin_io(m, op, CV_CALL_READ, m->backend->read, size_bytes, off))
		m->backend->read(m->conn, op, file, size_bytes, off);
}

void cv_write(struct cv_mount *m, struct cv_op *op, struct cv_file *file, const void *data,
	      size_t size_bytes, uint64_t off)
{
	if (begin_io(m, op, CV_CALL_WRITE, m->backend->write, size_bytes, off))
		m->backend->write(m->conn, op, file, data, size_bytes, off);
}

void cv_fsync(struct cv_mount *m, struct cv_op *op, struct cv_file *file, bool datasync)
{
	if (begin(m, op, CV_CALL_FSYNC, m->backend->fsync, 0))
		m->backend->fsync(m->conn, op, file, datasync);
}

void cv_fallocate(struct cv_mount *m, struct cv_op *op, struct cv_file *file, int mode,
		  uint64_t off, uint64_t size_bytes)
{
	if (!begin(m, op, CV_CALL_FALLOCATE, m->backend->fallocate, 0))
		return;
	if (size_bytes > INT64_MAX || off > (uint64_t)INT64_MAX - size_bytes)
		op->done(op, -EFBIG);
	else
		m->backend->fallocate(m->conn, op, file, mode, off, size_bytes);
}

void cv_lseek(struct cv_mount *m, struct cv_op *op, struct cv_file *file, uint64_t off, int whence)
{
	if (!begin(m, op, CV_CALL_LSEEK, m->backend->lseek, 0))
		return;
	if (off > INT64_MAX)
		op->done(op, -ENXIO);
	else
		m->backend->lseek(m->conn, op, file, off, whence);
}

void cv_copy(struct cv_mount *m, struct cv_op *op, struct cv_file *src, uint64_t src_off,
	     struct cv_file *dst, uint64_t dst_off, size_t size_bytes)
{
	if (!begin(m, op, CV_CALL_COPY, m->backend->copy, size_bytes))
		return;
	if (size_bytes > CV_MAX_COPY || src_off > (uint64_t)INT64_MAX - size_bytes ||
	    dst_off > (uint64_t)INT64_MAX - size_bytes) {
		op->done(op, -EINVAL);
		return;
	}
	cv_debug("%s: %p: copy %zu from %llu to %llu", m->backend->name, (void *)op, size_bytes,
		 (unsigned long long)src_off, (unsigned long long)dst_off);
	if (size_bytes == 0)
		op->done(op, 0);
	else
		m->backend->copy(m->conn, op, src, src_off, dst, dst_off, size_bytes);
}

void cv_getlk(struct cv_mount *m, struct cv_op *op, struct cv_file *file,
	      const struct cv_lock *lock)
{
	if (begin(m, op, CV_CALL_GETLK, m->backend->getlk, 0))
		m->backend->getlk(m->conn, op, file, lock);
}

void cv_setlk(struct cv_mount *m, struct cv_op *op, struct cv_file *file,
	      const struct cv_lock *lock, bool wait)
{
	if (begin(m, op, CV_CALL_SETLK, m->backend->setlk, 0))
		m->backend->setlk(m->conn, op, file, lock, wait);
}

void cv_opendir(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir)
{
	if (begin(m, op, CV_CALL_OPENDIR, m->backend->opendir, 0))
		m->backend->opendir(m->conn, op, dir);
}

void cv_releasedir(struct cv_mount *m, struct cv_file *dir)
{
	if (m->backend->releasedir)
		m->backend->releasedir(m->conn, dir);
}

void cv_readdir(struct cv_mount *m, struct cv_op *op, struct cv_file *dir, uint64_t off)
{
	if (begin(m, op, CV_CALL_READDIR, m->backend->readdir, 0))
		m->backend->readdir(m->conn, op, dir, off);
}

void cv_fsyncdir(struct cv_mount *m, struct cv_op *op, struct cv_file *dir, bool datasync)
{
	if (begin(m, op, CV_CALL_FSYNCDIR, m->backend->fsyncdir, 0))
		m->backend->fsyncdir(m->conn, op, dir, datasync);
}

void cv_statfs(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj)
{
	if (begin(m, op, CV_CALL_STATFS, m->backend->statfs, 0))
		m->backend->statfs(m->conn, op, obj);
}

void cv_getxattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		 const char *name, size_t size_bytes)
{
	if (begin(m, op, CV_CALL_GETXATTR, m->backend->getxattr,
		  size_bytes ? size_bytes : XATTR_PROBE))
		m->backend->getxattr(m->conn, op, obj, name, size_bytes);
}

void cv_listxattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		  size_t size_bytes)
{
	if (begin(m, op, CV_CALL_LISTXATTR, m->backend->listxattr,
		  size_bytes ? size_bytes : XATTR_PROBE))
		m->backend->listxattr(m->conn, op, obj, size_bytes);
}

void cv_setxattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		 const char *name, const void *value, size_t size_bytes, int flags)
{
	if (begin(m, op, CV_CALL_SETXATTR, m->backend->setxattr, 0))
		m->backend->setxattr(m->conn, op, obj, name, value, size_bytes, flags);
}

void cv_removexattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		    const char *name)
{
	if (begin(m, op, CV_CALL_REMOVEXATTR, m->backend->removexattr, 0))
		m->backend->removexattr(m->conn, op, obj, name);
}

/* ---- control ---- */

static bool info_valid(const struct cv_mount *m)
{
	const struct cv_info *info = &m->info;

	return entry_valid(m, &info->root) && S_ISDIR(info->root.attr.mode) && info->read_max > 0 &&
	       info->read_max <= CV_MAX_IO && info->write_max > 0 && info->write_max <= CV_MAX_IO &&
	       (info->time_gran_ns == 1 || info->time_gran_ns == 1000000000);
}

int cv_mount_connect(const struct cv_dict *options, struct cv_loop *loop, struct cv_mount *mount,
		     struct cv_err *err)
{
	return cv_mount_resume(options, loop, NULL, mount, err);
}

int cv_mount_resume(const struct cv_dict *options, struct cv_loop *loop,
		    const struct cv_replays *replays, struct cv_mount *mount, struct cv_err *err)
{
	const char *type = cv_dict_get(options, "type");
	int r;

	memset(mount, 0, sizeof(*mount));
	if (!type)
		return cv_fail(err, EINVAL, "no storage type given (option 'type' or 'source')");
	mount->backend = cv_backend_find(type);
	if (!mount->backend)
		return cv_fail(err, EINVAL, "unknown storage type '%s'", type);
	mount->info.replays = replays;
	r = mount->backend->connect(options, loop, &mount->conn, &mount->info, err);
	mount->info.replays = NULL;
	if (r < 0)
		return r;
	if (mount->info.backend)
		mount->backend = mount->info.backend;
	mount->info.server[sizeof(mount->info.server) - 1] = '\0';
	if (!info_valid(mount)) {
		mount->backend->disconnect(mount->conn);
		mount->conn = NULL;
		return cv_fail(err, EIO, "%s: the root of the volume is not a usable directory",
			       type);
	}
	return 0;
}

void cv_mount_disconnect(struct cv_mount *mount)
{
	if (!mount->conn)
		return;
	assert(mount->in_flight == 0);
	mount->backend->disconnect(mount->conn);
	mount->conn = NULL;
}

void cv_mount_stats(struct cv_mount *mount, struct cv_stats *ret_stats)
{
	memset(ret_stats, 0, sizeof(*ret_stats));
	if (!mount->conn)
		return;
	ret_stats->connected = true;
	ret_stats->in_flight = mount->in_flight;
	if (mount->backend->stats)
		mount->backend->stats(mount->conn, ret_stats);
}

bool cv_mount_provoke(struct cv_mount *mount)
{
	if (!mount->backend || !mount->backend->provoke)
		return false;
	mount->backend->provoke(mount->conn);
	return true;
}
