/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory of this host. Every name is looked up alone below a descriptor of its directory,
 * without following links: nothing outside the root can be reached by a name.
 *
 * Identity. Where the kernel gives file handles (name_to_handle_at(), open_by_handle_at()) they are
 * the objects' handles; a few thousand O_PATH descriptors are remembered, and closed when unused
 * for seconds, for they keep deleted files alive. Objects of other file systems mounted below the
 * root have device and inode number as their handle, and the O_PATH descriptor that pins them is
 * kept for as long as the object has a name.
 * Where it gives none (overlayfs; CAP_DAC_READ_SEARCH missing) the engine has no handles: objects
 * are named by their path, which openat2() walks below the root without following links.
 *
 * Ownership. The kernel has already checked permissions against the attributes it was told; we act
 * as ourselves, except that new objects are created with the caller's fsuid and fsgid, so that
 * owner, setgid directories and quotas come out right without a moment in which they are wrong.
 */
#include "backends/backend.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"

#define BUCKETS	     4096u
#define CACHE_MAX    4096u
#define SWEEP_MS     2000
#define IDLE_NS	     4000000000ull
#define LISTING_SIZE 8192u
#define LISTING_MAX  (LISTING_SIZE / 24) /* a record is at least 24 bytes */
#define XATTR_MAX    65536u
#define PROC_PATH    32
#define WALK_MAX     4000u /* of a path in one call; below PATH_MAX */
#define TRANSIENT    4
#define COPY_MAX     (4u << 20) /* bytes in one call: the loop waits for it */

/* First byte of a handle. */
enum { KIND_HANDLE = 'h', KIND_KEPT = 'k' };

/* A remembered descriptor. */
struct object {
	struct object *next;	      /* in its bucket */
	struct object *newer, *older; /* by last use; KIND_HANDLE only */
	uint64_t used_ns;
	int fd; /* O_PATH, owned */
	struct cv_handle handle;
};

struct dir {
	struct cv_loop *loop;
	int root_fd; /* not O_PATH: open_by_handle_at() needs a real one */
	dev_t root_dev;
	int mount_id;
	bool handles; /* else objects are named by paths */
	bool switch_ids;
	int transient[TRANSIENT]; /* !handles: descriptors of the last objects */
	unsigned transient_next;
	struct object *buckets[BUCKETS];
	struct object *newest, *oldest;
	size_t cached, cached_max; /* KIND_HANDLE */
	struct cv_timer sweep;
	void *buffer; /* CV_MAX_IO, for read */
	bool buffer_busy;
	uint64_t bytes_read, bytes_written;
};

struct linux_dirent64 {
	uint64_t d_ino;
	int64_t d_off;
	uint16_t d_reclen;
	uint8_t d_type;
	char d_name[];
};

struct listing {
	struct cv_dirent entries[LISTING_MAX];
	_Alignas(struct linux_dirent64) char raw[LISTING_SIZE];
};

struct cv_file {
	int fd;
	bool writable;
	/* directories */
	dev_t dev;
	uint64_t position;
	struct listing *listing; /* NULL until first needed */
};

static void finish(struct cv_op *op, ssize_t result)
{
	op->done(op, result);
}

/* Names the object behind a descriptor for calls that know no descriptors. */
static const char *proc_path(int fd, char buf[PROC_PATH])
{
	(void)snprintf(buf, PROC_PATH, "/proc/self/fd/%d", fd);
	return buf;
}

/* ---- remembered descriptors ---- */

static struct object **object_place(struct dir *d, const struct cv_handle *h)
{
	struct object **p = &d->buckets[cv_hash(0, h->data, h->size) % BUCKETS];

	while (*p &&
	       ((*p)->handle.size != h->size || memcmp((*p)->handle.data, h->data, h->size) != 0))
		p = &(*p)->next;
	return p;
}

static bool is_kept(const struct cv_handle *h)
{
	return h->data[0] == KIND_KEPT;
}

static void lru_unlink(struct dir *d, struct object *o)
{
	*(o->newer ? &o->newer->older : &d->newest) = o->older;
	*(o->older ? &o->older->newer : &d->oldest) = o->newer;
	d->cached--;
}

static void lru_use(struct dir *d, struct object *o)
{
	o->used_ns = cv_loop_now_ns(d->loop);
	o->newer = NULL;
	o->older = d->newest;
	*(d->newest ? &d->newest->newer : &d->oldest) = o;
	d->newest = o;
	d->cached++;
}

static void object_drop(struct dir *d, struct object **place)
{
	struct object *o = *place;

	*place = o->next;
	if (!is_kept(&o->handle))
		lru_unlink(d, o);
	(void)close(o->fd);
	free(o);
}

static void cache_shrink(struct dir *d, size_t max)
{
	while (d->cached > max)
		object_drop(d, object_place(d, &d->oldest->handle));
}

static void on_sweep(struct cv_timer *timer)
{
	struct dir *d = cv_container_of(timer, struct dir, sweep);
	uint64_t now = cv_loop_now_ns(d->loop);

	while (d->oldest && d->oldest->used_ns + IDLE_NS < now)
		object_drop(d, object_place(d, &d->oldest->handle));
	if (d->oldest)
		(void)cv_timer_set(d->loop, timer, SWEEP_MS); /* else the next use tries */
}

/* Takes fd, also on failure. Returns the descriptor to use, or -errno. */
static int object_remember(struct dir *d, const struct cv_handle *h, int fd)
{
	struct object **place = object_place(d, h);
	struct object *o = *place;

	if (o) {
		(void)close(fd);
		return o->fd;
	}
	o = calloc(1, sizeof(*o));
	if (!o) {
		(void)close(fd);
		return -ENOMEM;
	}
	o->fd = fd;
	o->handle = *h;
	*place = o;
	if (!is_kept(h)) {
		lru_use(d, o);
		if (d->sweep.index == 0)
			(void)cv_timer_set(d->loop, &d->sweep, SWEEP_MS);
		/* At least the two objects of a link or rename stay. */
		cache_shrink(d, d->cached_max);
	}
	return fd;
}

/* openat() that makes room when descriptors run out. */
static int open_at(struct dir *d, int dirfd, const char *name, int flags, uint32_t mode)
{
	for (;;) {
		int fd = openat(dirfd, name, flags | O_CLOEXEC | O_NOCTTY, mode);

		if (fd >= 0)
			return fd;
		if (errno == EINTR)
			continue;
		if (errno != EMFILE)
			return -errno;
		/* The directory of this very call may be the newest one. */
		if (d->cached <= 2)
			return -ENFILE;
		cache_shrink(d, d->cached / 2 > 2 ? d->cached / 2 : 2);
	}
}

static int open_handle(struct dir *d, const struct cv_handle *h)
{
	union {
		struct file_handle fh;
		char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u;
	int fd;

	memset(&u, 0, sizeof(u));
	if (h->size < 5)
		return -ESTALE;
	u.fh.handle_bytes = h->size - 5u;
	memcpy(&u.fh.handle_type, h->data + 1, 4);
	memcpy(u.fh.f_handle, h->data + 5, u.fh.handle_bytes);
	fd = open_by_handle_at(d->root_fd, &u.fh, O_PATH | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == EMFILE && d->cached > 2) {
		cache_shrink(d, d->cached / 2 > 2 ? d->cached / 2 : 2);
		fd = open_by_handle_at(d->root_fd, &u.fh, O_PATH | O_CLOEXEC | O_NOFOLLOW);
	}
	return fd < 0 ? -errno : fd;
}

/* Returns an O_PATH descriptor of path below the root, or -errno. */
static int open_path(struct dir *d, const char *path)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	int at = d->root_fd;
	char part[WALK_MAX + 1];

	do {
		size_t n = strlen(path);
		long fd;

		/* A path may be longer than the kernel takes at once. */
		if (n > WALK_MAX) {
			for (n = WALK_MAX; n > 0 && path[n] != '/';)
				n--;
		}
		memcpy(part, path, n);
		part[n] = '\0';
		path += n + (path[n] == '/');
		fd = syscall(SYS_openat2, at, n ? part : ".", &how, sizeof(how));
		if (at != d->root_fd)
			(void)close(at);
		if (fd < 0)
			return errno == EMFILE ? -ENFILE : -errno;
		at = (int)fd;
	} while (*path);
	return at;
}

/* An O_PATH descriptor of the object, borrowed until the third object after it. */
static int object_fd(struct dir *d, const struct cv_object *obj)
{
	struct object *o;
	int fd;

	if (!d->handles) {
		int *place = &d->transient[d->transient_next++ % TRANSIENT];

		fd = open_path(d, obj->path);
		if (fd >= 0) {
			cv_close_fd(place);
			*place = fd;
		}
		return fd;
	}
	o = *object_place(d, obj->handle);
	if (o) {
		if (!is_kept(&o->handle) && o != d->newest) {
			lru_unlink(d, o);
			lru_use(d, o);
		} else {
			o->used_ns = cv_loop_now_ns(d->loop);
		}
		return o->fd;
	}
	if (is_kept(obj->handle))
		return -ESTALE;
	fd = open_handle(d, obj->handle);
	return fd < 0 ? fd : object_remember(d, obj->handle, fd);
}

/* ---- identity and attributes ---- */

static void handle_kept(const struct stat *st, struct cv_handle *ret)
{
	uint64_t key[2] = { st->st_dev, st->st_ino };

	ret->size = 1 + sizeof(key);
	ret->data[0] = KIND_KEPT;
	memcpy(ret->data + 1, key, sizeof(key));
}

/* The kernel's handle of dirfd/name (or of dirfd, flags AT_EMPTY_PATH). */
static bool handle_native(const struct dir *d, int dirfd, const char *name, int flags,
			  struct cv_handle *ret)
{
	union {
		struct file_handle fh;
		char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u;
	int mount_id;

	u.fh.handle_bytes = CV_HANDLE_MAX - 5;
	if (name_to_handle_at(dirfd, name, &u.fh, &mount_id, flags) < 0 || mount_id != d->mount_id)
		return false;
	ret->size = (uint8_t)(5 + u.fh.handle_bytes);
	ret->data[0] = KIND_HANDLE;
	memcpy(ret->data + 1, &u.fh.handle_type, 4);
	memcpy(ret->data + 5, u.fh.f_handle, u.fh.handle_bytes);
	return true;
}

static void handle_of(const struct dir *d, int fd, const struct stat *st, struct cv_handle *ret)
{
	if (!d->handles)
		ret->size = 0;
	else if (!handle_native(d, fd, "", AT_EMPTY_PATH, ret))
		handle_kept(st, ret);
}

/* Numbers of another file system below the root must not meet ours. */
static uint64_t ino_of(const struct dir *d, dev_t dev, uint64_t ino)
{
	return dev == d->root_dev ? ino : ino ^ ((uint64_t)dev * 0x9e3779b97f4a7c15ull);
}

static void attr_fill(const struct dir *d, const struct stat *st, struct cv_attr *attr)
{
	attr->ino = ino_of(d, st->st_dev, st->st_ino);
	attr->size = (uint64_t)st->st_size;
	attr->blocks = (uint64_t)st->st_blocks;
	attr->mode = st->st_mode;
	attr->nlink = (uint32_t)st->st_nlink;
	attr->uid = st->st_uid;
	attr->gid = st->st_gid;
	attr->rdev = st->st_rdev;
	attr->blksize = (uint32_t)st->st_blksize;
	attr->atime = st->st_atim;
	attr->mtime = st->st_mtim;
	attr->ctime = st->st_ctim;
}

static int attr_get(const struct dir *d, struct cv_op *op, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	attr_fill(d, &st, &op->attr);
	op->have_attr = true;
	return 0;
}

static int entry_fill(const struct dir *d, int fd, struct cv_entry *ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	handle_of(d, fd, &st, &ret->handle);
	attr_fill(d, &st, &ret->attr);
	return 0;
}

/* Takes fd, an O_PATH descriptor of the entry's object: it is likely to be used next. */
static int entry_keep(struct dir *d, int fd, const struct cv_entry *entry)
{
	int r = 0;

	if (entry->handle.size)
		r = object_remember(d, &entry->handle, fd);
	else
		(void)close(fd);
	return r < 0 ? r : 0;
}

/* Both; takes fd, also on failure. */
static int entry_take(struct dir *d, int fd, struct cv_entry *ret)
{
	int r = entry_fill(d, fd, ret);

	if (r < 0) {
		(void)close(fd);
		return r;
	}
	return entry_keep(d, fd, ret);
}

static int entry_at(struct dir *d, int dirfd, const char *name, struct cv_entry *ret)
{
	int fd = open_at(d, dirfd, name, O_PATH | O_NOFOLLOW, 0);

	return fd < 0 ? fd : entry_take(d, fd, ret);
}

/* Which object a call is about to take the name from; size 0: none, or not known. */
static void victim_note(const struct dir *d, int dirfd, const char *name, struct cv_handle *ret)
{
	struct stat st;

	ret->size = 0;
	if (!d->handles || handle_native(d, dirfd, name, 0, ret))
		return;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		handle_kept(&st, ret);
}

/* A descriptor of ours must not keep a deleted object alive. */
static void victim_forget(struct dir *d, const struct cv_handle *victim)
{
	struct object **place;
	struct stat st;

	if (victim->size == 0)
		return;
	place = object_place(d, victim);
	if (!*place)
		return;
	if (!is_kept(victim) || fstat((*place)->fd, &st) < 0 || st.st_nlink == 0 ||
	    S_ISDIR(st.st_mode))
		object_drop(d, place);
}

/* ---- making things as somebody else ---- */

static void act_as(const struct dir *d, const struct cv_cred *cred)
{
	if (!d->switch_ids)
		return;
	if (cred->gid != 0)
		(void)setfsgid(cred->gid);
	if (cred->uid != 0)
		(void)setfsuid(cred->uid);
}

static void act_as_self(const struct dir *d, const struct cv_cred *cred)
{
	if (!d->switch_ids)
		return;
	if (cred->uid != 0)
		(void)setfsuid(0);
	if (cred->gid != 0)
		(void)setfsgid(0);
}

/*
 * Without act_as(): corrects owner and group of what was just created. An unprivileged process
 * cannot; then everything belongs to it, which is what it can offer.
 */
static int own(const struct dir *d, const struct cv_cred *cred, int dirfd, int fd, uint32_t mode)
{
	char path[PROC_PATH];
	struct stat st;

	if (d->switch_ids)
		return 0;
	if (fstat(dirfd, &st) < 0)
		return -errno;
	if (fchownat(fd, "", cred->uid, st.st_mode & S_ISGID ? (gid_t)-1 : cred->gid,
		     AT_EMPTY_PATH) < 0)
		return errno == EPERM ? 0 : -errno;
	/* chown takes these away. */
	if (S_ISREG(mode) && (mode & (S_ISUID | S_ISGID)) &&
	    chmod(proc_path(fd, path), mode & 07777) < 0)
		return -errno;
	return 0;
}

/* After the name has been made: what is there now. */
static int made(struct dir *d, struct cv_op *op, int dirfd, const char *name, uint32_t mode)
{
	int fd = open_at(d, dirfd, name, O_PATH | O_NOFOLLOW, 0);
	int r;

	if (fd < 0)
		return fd;
	r = own(d, op->cred, dirfd, fd, mode);
	if (r < 0) {
		(void)close(fd);
		return r;
	}
	return entry_take(d, fd, &op->entry);
}

/* ---- after a predecessor ----
 *
 * op->repeated: a worker that died may have done this. Then a refusal that says so is none, if what
 * is there is what was asked for.
 */

/* r of making name: was it made before? */
static int was_made(const struct cv_op *op, int r, int dirfd, const char *name, uint32_t mode,
		    const char *target)
{
	char text[PATH_MAX];
	struct stat st;
	ssize_t n;

	if (r != -EEXIST || !op->repeated || fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    (st.st_mode & S_IFMT) != (mode & S_IFMT))
		return r;
	if (S_ISREG(mode) && (st.st_size != 0 || (st.st_mode & 0777) != (mode & 0777)))
		return r;
	if (S_ISLNK(mode)) {
		n = readlinkat(dirfd, name, text, sizeof(text));
		if (n < 0 || (size_t)n != strlen(target) || memcmp(text, target, (size_t)n) != 0)
			return r;
	}
	return 0;
}

static int was_linked(const struct cv_op *op, int r, int fd, int dirfd, const char *name)
{
	struct stat a, b;
	bool same = r == -EEXIST && op->repeated && fstat(fd, &a) == 0 &&
		    fstatat(dirfd, name, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_dev == b.st_dev &&
		    a.st_ino == b.st_ino;

	return same ? 0 : r;
}

static int was_removed(const struct cv_op *op, int r)
{
	return r == -ENOENT && op->repeated ? 0 : r;
}

/* Not for RENAME_EXCHANGE, which always finds both. */
static int was_renamed(const struct cv_op *op, int r, int dirfd, const char *name, int newdirfd,
		       const char *newname)
{
	struct stat st;

	if ((r != -ENOENT && r != -EEXIST) || !op->repeated ||
	    fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
	    fstatat(newdirfd, newname, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return r;
	return 0;
}

static void dir_mknod(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name,
		      uint32_t mode, uint64_t rdev)
{
	struct dir *d = conn;
	int dirfd = object_fd(d, obj);
	int r = dirfd;

	if (dirfd >= 0) {
		act_as(d, op->cred);
		r = mknodat(dirfd, name, mode, rdev) < 0 ? -errno : 0;
		act_as_self(d, op->cred);
		r = was_made(op, r, dirfd, name, mode, NULL);
	}
	finish(op, r < 0 ? r : made(d, op, dirfd, name, mode));
}

static void dir_mkdir(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name,
		      uint32_t mode)
{
	struct dir *d = conn;
	int dirfd = object_fd(d, obj);
	int r = dirfd;

	if (dirfd >= 0) {
		act_as(d, op->cred);
		r = mkdirat(dirfd, name, mode) < 0 ? -errno : 0;
		act_as_self(d, op->cred);
		r = was_made(op, r, dirfd, name, S_IFDIR | mode, NULL);
	}
	finish(op, r < 0 ? r : made(d, op, dirfd, name, S_IFDIR | mode));
}

static void dir_symlink(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name,
			const char *target)
{
	struct dir *d = conn;
	int dirfd = object_fd(d, obj);
	int r = dirfd;

	if (dirfd >= 0) {
		act_as(d, op->cred);
		r = symlinkat(target, dirfd, name) < 0 ? -errno : 0;
		act_as_self(d, op->cred);
		r = was_made(op, r, dirfd, name, S_IFLNK, target);
	}
	finish(op, r < 0 ? r : made(d, op, dirfd, name, S_IFLNK));
}

static void dir_link(void *conn, struct cv_op *op, const struct cv_object *obj,
		     const struct cv_object *newdir, const char *name)
{
	struct dir *d = conn;
	int fd = object_fd(d, obj);
	int dirfd = object_fd(d, newdir);
	char path[PROC_PATH];
	int r = 0;

	if (fd < 0 || dirfd < 0) {
		finish(op, fd < 0 ? fd : dirfd);
		return;
	}
	/* The first form needs CAP_DAC_READ_SEARCH and says ENOENT without it. */
	if (linkat(fd, "", dirfd, name, AT_EMPTY_PATH) < 0)
		r = -errno;
	if (r == -ENOENT)
		r = linkat(AT_FDCWD, proc_path(fd, path), dirfd, name, AT_SYMLINK_FOLLOW) < 0
			    ? -errno
			    : 0;
	r = was_linked(op, r, fd, dirfd, name);
	finish(op, r < 0 ? r : entry_at(d, dirfd, name, &op->entry));
}

/* ---- names ---- */

static void dir_lookup(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name)
{
	struct dir *d = conn;
	int dirfd = object_fd(d, obj);

	finish(op, dirfd < 0 ? dirfd : entry_at(d, dirfd, name, &op->entry));
}

static void remove_name(struct dir *d, struct cv_op *op, const struct cv_object *obj,
			const char *name, int flags)
{
	int dirfd = object_fd(d, obj);
	struct cv_handle victim;
	int r = 0;

	if (dirfd < 0) {
		finish(op, dirfd);
		return;
	}
	victim_note(d, dirfd, name, &victim);
	if (unlinkat(dirfd, name, flags) < 0)
		r = -errno;
	else
		victim_forget(d, &victim);
	finish(op, was_removed(op, r));
}

static void dir_unlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	remove_name(conn, op, dir, name, 0);
}

static void dir_rmdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name)
{
	remove_name(conn, op, dir, name, AT_REMOVEDIR);
}

static void dir_rename(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name,
		       const struct cv_object *newobj, const char *newname, unsigned flags)
{
	struct dir *d = conn;
	int dirfd = object_fd(d, obj);
	int newdirfd = object_fd(d, newobj);
	struct cv_handle victim = { .size = 0 };
	int r = 0;

	if (dirfd < 0 || newdirfd < 0) {
		finish(op, dirfd < 0 ? dirfd : newdirfd);
		return;
	}
	if (flags == 0)
		victim_note(d, newdirfd, newname, &victim);
	if (renameat2(dirfd, name, newdirfd, newname, flags) < 0)
		r = -errno;
	else
		victim_forget(d, &victim);
	finish(op,
	       flags & RENAME_EXCHANGE ? r : was_renamed(op, r, dirfd, name, newdirfd, newname));
}

static void dir_readlink(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	int fd = object_fd(conn, obj);
	char target[PATH_MAX];
	ssize_t n = fd < 0 ? fd : readlinkat(fd, "", target, sizeof(target));

	op->data = target;
	/* On something else than a symbolic link the empty path is what is not found. */
	finish(op, fd < 0 || n >= 0 ? n : errno == ENOENT ? -EINVAL : -errno);
}

/* ---- attributes ---- */

static void dir_getattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			struct cv_file *file)
{
	int fd = file ? file->fd : object_fd(conn, obj);

	finish(op, fd < 0 ? fd : attr_get(conn, op, fd));
}

static int set_size(int fd, const struct cv_file *file, uint64_t size)
{
	char path[PROC_PATH];
	int r;

	if (file && file->writable)
		r = ftruncate(fd, (off_t)size);
	else
		r = truncate(proc_path(fd, path), (off_t)size);
	return r < 0 ? -errno : 0;
}

static void time_arg(unsigned mask, unsigned set, unsigned now, const struct timespec *value,
		     struct timespec *ret)
{
	*ret = *value;
	if (mask & now)
		ret->tv_nsec = UTIME_NOW;
	else if (!(mask & set))
		ret->tv_nsec = UTIME_OMIT;
}

static int set_times(int fd, const struct cv_setattr *set)
{
	struct timespec ts[2];
	char path[PROC_PATH];

	time_arg(set->mask, CV_SET_ATIME, CV_SET_ATIME_NOW, &set->atime, &ts[0]);
	time_arg(set->mask, CV_SET_MTIME, CV_SET_MTIME_NOW, &set->mtime, &ts[1]);
	if (utimensat(fd, "", ts, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != EINVAL) /* Linux before 5.8 */
		return -errno;
	return utimensat(AT_FDCWD, proc_path(fd, path), ts, 0) < 0 ? -errno : 0;
}

static int apply(int fd, const struct cv_file *file, const struct cv_setattr *set)
{
	const unsigned times = CV_SET_ATIME | CV_SET_MTIME | CV_SET_ATIME_NOW | CV_SET_MTIME_NOW;
	char path[PROC_PATH];
	int r = 0;

	if (set->mask & CV_SET_SIZE)
		r = set_size(fd, file, set->size);
	/* The owner before the mode: chown takes setuid and setgid away. */
	if (r == 0 && (set->mask & (CV_SET_UID | CV_SET_GID)) &&
	    fchownat(fd, "", set->mask & CV_SET_UID ? set->uid : (uid_t)-1,
		     set->mask & CV_SET_GID ? set->gid : (gid_t)-1, AT_EMPTY_PATH) < 0)
		r = -errno;
	if (r == 0 && (set->mask & CV_SET_MODE) &&
	    chmod(proc_path(fd, path), set->mode & 07777) < 0)
		r = -errno;
	if (r == 0 && (set->mask & times))
		r = set_times(fd, set);
	return r;
}

static void dir_setattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			struct cv_file *file, const struct cv_setattr *set)
{
	int fd = file ? file->fd : object_fd(conn, obj);
	int r = fd < 0 ? fd : apply(fd, file, set);

	finish(op, r < 0 ? r : attr_get(conn, op, fd));
}

static void dir_statfs(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	int fd = object_fd(conn, obj);

	finish(op, fd < 0 ? fd : fstatvfs(fd, &op->statvfs) < 0 ? -errno : 0);
}

/* ---- files ---- */

static int file_new(int fd, int flags, struct cv_op *op)
{
	struct cv_file *file = calloc(1, sizeof(*file));

	if (!file)
		return -ENOMEM;
	file->fd = fd;
	file->writable = (flags & O_ACCMODE) != O_RDONLY;
	op->file = file;
	return 0;
}

/*
 * Opens the object behind an O_PATH descriptor. Its type cannot change, so looking first makes sure
 * that no fifo blocks us and no device is touched.
 */
static int open_object(struct dir *d, struct cv_op *op, int path_fd, int flags)
{
	char path[PROC_PATH];
	int r = attr_get(d, op, path_fd);
	int fd;

	if (r < 0)
		return r;
	if (S_ISDIR(op->attr.mode))
		return -EISDIR;
	if (!S_ISREG(op->attr.mode))
		return -ESTALE; /* the kernel has an old idea of it: it will look again */
	fd = open_at(d, AT_FDCWD, proc_path(path_fd, path), flags & (O_ACCMODE | O_TRUNC), 0);
	if (fd < 0)
		return fd;
	r = flags & O_TRUNC ? attr_get(d, op, fd) : 0;
	if (r == 0)
		r = file_new(fd, flags, op);
	if (r < 0)
		(void)close(fd);
	return r;
}

static void dir_open(void *conn, struct cv_op *op, const struct cv_object *obj, int flags)
{
	int fd = object_fd(conn, obj);

	finish(op, fd < 0 ? fd : open_object(conn, op, fd, flags));
}

/* The entry of a file just created, from its own descriptor. */
static int created(struct dir *d, struct cv_op *op, int dirfd, int fd, int flags, uint32_t mode)
{
	char path[PROC_PATH];
	int r = own(d, op->cred, dirfd, fd, S_IFREG | mode);

	if (r == 0)
		r = entry_fill(d, fd, &op->entry);
	if (r < 0)
		return r;
	op->attr = op->entry.attr;
	op->have_attr = true;
	if (op->entry.handle.size && is_kept(&op->entry.handle)) {
		r = open_at(d, AT_FDCWD, proc_path(fd, path), O_PATH, 0);
		if (r >= 0)
			r = entry_keep(d, r, &op->entry);
		if (r < 0)
			return r;
	}
	return file_new(fd, flags, op);
}

static int create_existing(struct dir *d, struct cv_op *op, int dirfd, const char *name, int flags)
{
	int fd = open_at(d, dirfd, name, O_PATH | O_NOFOLLOW, 0);
	int r;

	if (fd < 0)
		return fd;
	r = open_object(d, op, fd, flags);
	if (r == 0) {
		r = entry_take(d, fd, &op->entry);
		if (r < 0) {
			(void)close(op->file->fd);
			free(op->file);
			op->file = NULL;
		}
		return r;
	}
	(void)close(fd);
	return r;
}

static void dir_create(void *conn, struct cv_op *op, const struct cv_object *obj, const char *name,
		       int flags, uint32_t mode)
{
	struct dir *d = conn;
	int dirfd = object_fd(d, obj);
	int fd, r;

	if (dirfd < 0) {
		finish(op, dirfd);
		return;
	}
	act_as(d, op->cred);
	fd = open_at(d, dirfd, name,
		     (flags & (O_ACCMODE | O_TRUNC)) | O_CREAT | O_EXCL | O_NOFOLLOW, mode & 07777);
	act_as_self(d, op->cred);
	if (fd == -EEXIST &&
	    (!(flags & O_EXCL) || was_made(op, fd, dirfd, name, S_IFREG | mode, NULL) == 0)) {
		finish(op, create_existing(d, op, dirfd, name, flags));
		return;
	}
	if (fd < 0) {
		finish(op, fd);
		return;
	}
	r = created(d, op, dirfd, fd, flags, mode);
	if (r < 0)
		(void)close(fd);
	finish(op, r);
}

static void dir_release(void *conn, struct cv_file *file)
{
	(void)conn;
	(void)close(file->fd);
	free(file->listing);
	free(file);
}

static ssize_t read_full(int fd, char *buf, size_t size, uint64_t off)
{
	size_t got = 0;

	while (got < size) {
		ssize_t n = pread(fd, buf + got, size - got, (off_t)(off + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return got > 0 ? (ssize_t)got : -errno;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

static void dir_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		     uint64_t off)
{
	struct dir *d = conn;
	/* done() may start another read before it is done with this one's data. */
	cv_cleanup_free void *own_buffer =
		d->buffer_busy ? malloc(size_bytes ? size_bytes : 1) : NULL;
	bool shared = !d->buffer_busy;
	char *buf = shared ? d->buffer : own_buffer;
	ssize_t r;

	if (!buf) {
		finish(op, -ENOMEM);
		return;
	}
	r = read_full(file->fd, buf, size_bytes, off);
	if (r > 0)
		d->bytes_read += (size_t)r;
	op->data = buf;
	if (shared)
		d->buffer_busy = true;
	finish(op, r);
	if (shared)
		d->buffer_busy = false;
}

static void dir_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		      size_t size_bytes, uint64_t off)
{
	struct dir *d = conn;
	size_t put = 0;

	while (put < size_bytes) {
		ssize_t n = pwrite(file->fd, (const char *)data + put, size_bytes - put,
				   (off_t)(off + put));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			finish(op, n < 0 ? -errno : -EIO);
			return;
		}
		put += (size_t)n;
	}
	d->bytes_written += put;
	op->stable = true; /* as stable as this host's page cache: no server to lose it */
	(void)attr_get(d, op, file->fd);
	finish(op, (ssize_t)put);
}

static void dir_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync)
{
	int r = datasync ? fdatasync(file->fd) : fsync(file->fd);

	finish(op, r < 0 ? -errno : attr_get(conn, op, file->fd));
}

static void dir_fallocate(void *conn, struct cv_op *op, struct cv_file *file, int mode,
			  uint64_t off, uint64_t size_bytes)
{
	int r;

	(void)conn;
	do {
		r = fallocate(file->fd, mode, (off_t)off, (off_t)size_bytes);
	} while (r < 0 && errno == EINTR);
	finish(op, r < 0 ? -errno : 0);
}

static void dir_lseek(void *conn, struct cv_op *op, struct cv_file *file, uint64_t off, int whence)
{
	off_t r = lseek(file->fd, (off_t)off, whence);

	(void)conn;
	op->offset = (uint64_t)r;
	finish(op, r < 0 ? -errno : 0);
}

static void dir_copy(void *conn, struct cv_op *op, struct cv_file *src, uint64_t src_off,
		     struct cv_file *dst, uint64_t dst_off, size_t size_bytes)
{
	off_t from = (off_t)src_off, to = (off_t)dst_off;
	ssize_t n;

	(void)conn;
	if (size_bytes > COPY_MAX)
		size_bytes = COPY_MAX;
	do {
		n = copy_file_range(src->fd, &from, dst->fd, &to, size_bytes, 0);
	} while (n < 0 && errno == EINTR);
	/* Between file systems, or not by this one. */
	if (n < 0 && (errno == EXDEV || errno == ENOSYS))
		errno = EOPNOTSUPP;
	finish(op, n < 0 ? -errno : n);
}

/* ---- listings ---- */

static void dir_opendir(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct dir *d = conn;
	int path_fd = object_fd(d, obj);
	char path[PROC_PATH];
	struct stat st;
	int fd, r;

	if (path_fd < 0) {
		finish(op, path_fd);
		return;
	}
	fd = open_at(d, AT_FDCWD, proc_path(path_fd, path), O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0) {
		finish(op, fd);
		return;
	}
	r = fstat(fd, &st) < 0 ? -errno : file_new(fd, O_RDONLY, op);
	if (r < 0)
		(void)close(fd);
	else
		op->file->dev = st.st_dev;
	finish(op, r);
}

/*
 * Handle and attributes, from one descriptor so that they belong together. What another handle kind
 * would need a kept descriptor for is left to a lookup.
 */
static bool listing_entry(struct dir *d, int dirfd, const char *name, struct cv_entry *ret)
{
	cv_cleanup_close int fd = -1;
	struct stat st;

	if (!d->handles) {
		ret->handle.size = 0;
		if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return false;
		attr_fill(d, &st, &ret->attr);
		return true;
	}
	fd = open_at(d, dirfd, name, O_PATH | O_NOFOLLOW, 0);
	if (fd < 0 || fstat(fd, &st) < 0 || !handle_native(d, fd, "", AT_EMPTY_PATH, &ret->handle))
		return false;
	attr_fill(d, &st, &ret->attr);
	return true;
}

static size_t listing_fill(struct dir *d, struct cv_file *file, size_t size)
{
	struct listing *l = file->listing;
	size_t n = 0;

	for (size_t at = 0; at < size;) {
		const struct linux_dirent64 *e = (const void *)(l->raw + at);
		struct cv_dirent *out = &l->entries[n];

		at += e->d_reclen;
		file->position = (uint64_t)e->d_off;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		out->name = e->d_name;
		out->next_off = (uint64_t)e->d_off;
		out->ino = ino_of(d, file->dev, e->d_ino);
		out->mode = DTTOIF((uint32_t)e->d_type);
		out->have_entry = listing_entry(d, file->fd, e->d_name, &out->entry);
		n++;
	}
	return n;
}

static void dir_readdir(void *conn, struct cv_op *op, struct cv_file *file, uint64_t off)
{
	struct dir *d = conn;
	size_t n = 0;

	if (!file->listing)
		file->listing = malloc(sizeof(*file->listing));
	if (!file->listing) {
		finish(op, -ENOMEM);
		return;
	}
	/* Seeking to 0 is also what makes the kernel read the directory again. */
	if ((off == 0 || off != file->position) && lseek(file->fd, (off_t)off, SEEK_SET) < 0) {
		finish(op, -errno);
		return;
	}
	file->position = off;
	while (n == 0) {
		long r = syscall(SYS_getdents64, file->fd, file->listing->raw,
				 sizeof(file->listing->raw));

		if (r < 0) {
			/* A removed directory has no entries. */
			op->eof = errno == ENOENT;
			finish(op, errno == ENOENT ? 0 : -errno);
			return;
		}
		if (r == 0) {
			op->eof = true;
			break;
		}
		n = listing_fill(d, file, (size_t)r);
	}
	op->dirents = file->listing->entries;
	finish(op, (ssize_t)n);
}

static void dir_fsyncdir(void *conn, struct cv_op *op, struct cv_file *dir, bool datasync)
{
	int r = datasync ? fdatasync(dir->fd) : fsync(dir->fd);

	(void)conn;
	finish(op, r < 0 ? -errno : 0);
}

/* ---- extended attributes ---- */

/* POSIX ACLs (system.*) would be stored but not obeyed by the kernel above us: better refused. */
static bool xattr_passed(const char *name)
{
	return cv_str_starts(name, "user.") || cv_str_starts(name, "security.") ||
	       cv_str_starts(name, "trusted.");
}

static void dir_getxattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			 const char *name, size_t size_bytes)
{
	int fd = xattr_passed(name) ? object_fd(conn, obj) : -EOPNOTSUPP;
	cv_cleanup_free void *value = NULL;
	char path[PROC_PATH];
	ssize_t r;

	if (fd < 0) {
		finish(op, fd);
		return;
	}
	if (size_bytes > 0 && !(value = malloc(size_bytes))) {
		finish(op, -ENOMEM);
		return;
	}
	r = getxattr(proc_path(fd, path), name, value, size_bytes);
	op->data = value;
	finish(op, r < 0 ? -errno : r);
}

static void dir_listxattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			  size_t size_bytes)
{
	int fd = object_fd(conn, obj);
	cv_cleanup_free char *list = NULL;
	char path[PROC_PATH];
	size_t kept = 0;
	ssize_t r;

	if (fd < 0) {
		finish(op, fd);
		return;
	}
	list = malloc(XATTR_MAX);
	if (!list) {
		finish(op, -ENOMEM);
		return;
	}
	r = listxattr(proc_path(fd, path), list, XATTR_MAX);
	if (r < 0) {
		finish(op, -errno);
		return;
	}
	for (size_t at = 0, n; at < (size_t)r; at += n) {
		n = strlen(list + at) + 1;
		if (!xattr_passed(list + at) ||
		    (op->cred->uid != 0 && cv_str_starts(list + at, "trusted.")))
			continue;
		memmove(list + kept, list + at, n);
		kept += n;
	}
	if (size_bytes > 0 && kept > size_bytes) {
		finish(op, -ERANGE);
		return;
	}
	op->data = size_bytes ? list : NULL;
	finish(op, (ssize_t)kept);
}

static void dir_setxattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			 const char *name, const void *value, size_t size_bytes, int flags)
{
	int fd = xattr_passed(name) ? object_fd(conn, obj) : -EOPNOTSUPP;
	char path[PROC_PATH];

	if (op->repeated)
		flags = 0; /* there, or not there, by our own doing perhaps */
	if (fd >= 0 && setxattr(proc_path(fd, path), name, value, size_bytes, flags) < 0)
		fd = -errno;
	finish(op, fd < 0 ? fd : 0);
}

static void dir_removexattr(void *conn, struct cv_op *op, const struct cv_object *obj,
			    const char *name)
{
	int fd = xattr_passed(name) ? object_fd(conn, obj) : -EOPNOTSUPP;
	char path[PROC_PATH];

	if (fd >= 0 && removexattr(proc_path(fd, path), name) < 0)
		fd = errno == ENODATA && op->repeated ? 0 : -errno;
	finish(op, fd < 0 ? fd : 0);
}

/* ---- control ---- */

static void dir_disconnect(void *conn)
{
	struct dir *d = conn;

	cv_timer_cancel(d->loop, &d->sweep);
	for (size_t b = 0; b < BUCKETS; b++) {
		while (d->buckets[b])
			object_drop(d, &d->buckets[b]);
	}
	for (unsigned i = 0; i < TRANSIENT; i++)
		cv_close_fd(&d->transient[i]);
	cv_close_fd(&d->root_fd);
	free(d->buffer);
	free(d);
}

static void dir_stats(void *conn, struct cv_stats *ret_stats)
{
	const struct dir *d = conn;

	ret_stats->connected = true;
	ret_stats->bytes_read = d->bytes_read;
	ret_stats->bytes_written = d->bytes_written;
}

/* One component of subdir. Takes and replaces *fd. */
static int descend(int *fd, const char *name, const struct cv_dict *options, bool *ret_made)
{
	uint32_t mode = (uint32_t)cv_options_uint(options, "mode", 0755) & 07777, uid, gid;
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	bool made;
	long next;

	made = mkdirat(*fd, name, mode) == 0;
	if (!made && errno != EEXIST)
		return -errno;
	next = syscall(SYS_openat2, *fd, name, &how, sizeof(how));
	if (next < 0)
		return -errno;
	(void)close(*fd);
	*fd = (int)next;
	*ret_made = made;
	if (made && cv_options_owner(options, &uid, &gid) && fchown(*fd, uid, gid) < 0)
		return -errno;
	return 0;
}

static int open_subdir(struct dir *d, const char *subdir, const struct cv_dict *options,
		       struct cv_info *info, struct cv_err *err)
{
	cv_cleanup_free char *copy = strdup(subdir);
	char *rest = copy, *save = NULL, *name;

	if (!copy)
		return cv_fail(err, ENOMEM, "dir: out of memory");
	while ((name = strtok_r(rest, "/", &save))) {
		int r;

		rest = NULL;
		if (strcmp(name, ".") == 0)
			continue;
		if (strcmp(name, "..") == 0)
			return cv_fail(err, EINVAL, "dir: subdir '%s' must not contain '..'",
				       subdir);
		r = descend(&d->root_fd, name, options, &info->made_subdir);
		if (r == -ELOOP)
			return cv_fail(err, r, "dir: '%s' in subdir '%s' is a symbolic link", name,
				       subdir);
		if (r < 0)
			return cv_fail(err, r, "dir: cannot make or open '%s' of subdir '%s': %s",
				       name, subdir, cv_strerror(r));
	}
	return 0;
}

static int open_root(struct dir *d, const struct cv_dict *options, struct cv_info *info,
		     struct cv_err *err)
{
	const char *path = cv_options_str(options, "path", "");
	const char *subdir = cv_options_str(options, "subdir", "");

	if (path[0] != '/')
		return cv_fail(err, EINVAL, "dir: path '%s' must be absolute", path);
	d->root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->root_fd < 0 && errno == ENOENT)
		return cv_fail(err, ENOENT, "dir: directory '%s' does not exist on this host",
			       path);
	if (d->root_fd < 0 && errno == ENOTDIR)
		return cv_fail(err, ENOTDIR, "dir: '%s' is not a directory", path);
	if (d->root_fd < 0)
		return cv_fail(err, errno, "dir: cannot open '%s': %s", path, cv_strerror(errno));
	return open_subdir(d, subdir, options, info, err);
}

/* Can handles be made and opened here? */
static bool handles_work(struct dir *d)
{
	union {
		struct file_handle fh;
		char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} u;
	struct cv_handle h;
	int fd;

	u.fh.handle_bytes = CV_HANDLE_MAX - 5;
	if (name_to_handle_at(d->root_fd, "", &u.fh, &d->mount_id, AT_EMPTY_PATH) < 0 ||
	    !handle_native(d, d->root_fd, "", AT_EMPTY_PATH, &h))
		return false;
	fd = open_handle(d, &h);
	if (fd < 0)
		return false;
	(void)close(fd);
	return true;
}

/*
 * Can this thread create as another user with its own privileges? setfsuid() takes file
 * capabilities away on leaving 0 unless told otherwise; it is the kernel above that has checked
 * permissions.
 */
static bool ids_switch(void)
{
	int bits = prctl(PR_GET_SECUREBITS);

	if (geteuid() != 0 || bits < 0)
		return false;
	if (!(bits & SECBIT_NO_SETUID_FIXUP) &&
	    prctl(PR_SET_SECUREBITS, (unsigned long)bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0) < 0)
		return false;
	(void)setfsgid(1);
	(void)setfsuid(1);
	return setfsuid(0) == 1 && setfsgid(0) == 1;
}

/* Descriptors are what this engine lives on. */
static size_t descriptors_raise(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return 1024;
	if (rl.rlim_cur < rl.rlim_max) {
		rlim_t was = rl.rlim_cur;

		rl.rlim_cur = rl.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
			rl.rlim_cur = was;
	}
	return rl.rlim_cur;
}

static int start(struct dir *d, const struct cv_dict *options, struct cv_info *info,
		 struct cv_err *err)
{
	struct stat st;
	size_t descriptors = descriptors_raise();
	int r = open_root(d, options, info, err);

	if (r < 0)
		return r;
	if (access("/proc/self/fd", X_OK) < 0)
		return cv_fail(err, errno, "dir: /proc is not mounted, it is needed");
	if (fstat(d->root_fd, &st) < 0)
		return cv_fail(err, errno, "dir: cannot read the directory's attributes: %s",
			       cv_strerror(errno));
	d->root_dev = st.st_dev;
	d->cached_max = descriptors / 2 < CACHE_MAX ? descriptors / 2 : CACHE_MAX;
	if (d->cached_max < 4)
		d->cached_max = 4;
	d->handles = handles_work(d);
	d->switch_ids = ids_switch();
	cv_debug("dir: %s, %s", d->handles ? "file handles" : "paths",
		 d->switch_ids ? "creating as the caller" : "creating, then chown");
	r = open_at(d, d->root_fd, ".", O_PATH | O_DIRECTORY, 0);
	if (r >= 0)
		r = entry_take(d, r, &info->root);
	if (r < 0)
		return cv_fail(err, r, "dir: cannot open the directory: %s", cv_strerror(r));
	return 0;
}

static int dir_connect(const struct cv_dict *options, struct cv_loop *loop, void **ret_conn,
		       struct cv_info *ret_info, struct cv_err *err)
{
	struct dir *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return cv_fail(err, ENOMEM, "dir: out of memory");
	d->loop = loop;
	d->root_fd = -1;
	for (unsigned i = 0; i < TRANSIENT; i++)
		d->transient[i] = -1;
	d->sweep = (struct cv_timer)CV_TIMER_INIT(on_sweep);
	memset(ret_info, 0, sizeof(*ret_info));
	d->buffer = malloc(CV_MAX_IO);
	r = d->buffer ? start(d, options, ret_info, err)
		      : cv_fail(err, ENOMEM, "dir: out of memory");
	if (r < 0) {
		dir_disconnect(d);
		return r;
	}
	/* Not CV_FEAT_UNLINK_OPEN: a nameless object would end with our process. */
	ret_info->features = CV_FEAT_HARD_LINKS | CV_FEAT_COPY;
	if (d->handles)
		ret_info->features |= CV_FEAT_HANDLES;
	ret_info->read_max = ret_info->write_max = CV_MAX_IO;
	ret_info->readdir_max = 32768;
	ret_info->time_gran_ns = 1;
	(void)snprintf(ret_info->server, sizeof(ret_info->server), "%s on this host",
		       cv_options_str(options, "path", ""));
	*ret_conn = d;
	return 0;
}

const struct cv_backend cv_backend_dir = {
	.name = "dir",
	.connect = dir_connect,
	.disconnect = dir_disconnect,
	.stats = dir_stats,
	.lookup = dir_lookup,
	.getattr = dir_getattr,
	.setattr = dir_setattr,
	.readlink = dir_readlink,
	.mknod = dir_mknod,
	.mkdir = dir_mkdir,
	.symlink = dir_symlink,
	.link = dir_link,
	.unlink = dir_unlink,
	.rmdir = dir_rmdir,
	.rename = dir_rename,
	.open = dir_open,
	.create = dir_create,
	.release = dir_release,
	.read = dir_read,
	.write = dir_write,
	.fsync = dir_fsync,
	.fallocate = dir_fallocate,
	.lseek = dir_lseek,
	.copy = dir_copy,
	.opendir = dir_opendir,
	.releasedir = dir_release,
	.readdir = dir_readdir,
	.fsyncdir = dir_fsyncdir,
	.statfs = dir_statfs,
	.getxattr = dir_getxattr,
	.listxattr = dir_listxattr,
	.setxattr = dir_setxattr,
	.removexattr = dir_removexattr,
};
