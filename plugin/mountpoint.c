/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/mountpoint.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/log.h"
#include "config/str.h"

#define FUSE_INIT	26
#define FUSE_BUFFER	(64 * 1024) /* the kernel refuses reads into less than 8 KiB */
#define INIT_TIMEOUT_MS 5000
#define DETACH_WAIT_MS	5000
#define STACKED_MAX	16 /* mounts on one path */
#define USERS_MAX	5

/* ---- the mount table ---- */

void cv_mount_entry_release(struct cv_mount_entry *entry)
{
	free(entry->path);
	free(entry->fstype);
	free(entry->source);
	memset(entry, 0, sizeof(*entry));
}

static bool is_octal(char c)
{
	return c >= '0' && c <= '7';
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static char *unescape(const char *text, size_t len)
{
	char *out = malloc(len + 1);
	size_t used = 0;

	if (!out)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\\' && i + 3 < len && text[i + 1] <= '3' && is_octal(text[i + 1]) &&
		    is_octal(text[i + 2]) && is_octal(text[i + 3])) {
			out[used++] = (char)((text[i + 1] - '0') << 6 | (text[i + 2] - '0') << 3 |
					     (text[i + 3] - '0'));
			i += 3;
		} else {
			out[used++] = text[i];
		}
	}
	out[used] = '\0';
	return out;
}

/* Field number n (from 0) of a line; NULL if there are fewer. */
static const char *field(const char *line, unsigned n, size_t *ret_len)
{
	const char *p = line;

	for (unsigned i = 0; i < n; i++) {
		p += strcspn(p, " \n");
		if (*p != ' ')
			return NULL;
		p++;
	}
	*ret_len = strcspn(p, " \n");
	return p;
}

int cv_mount_entry_parse(const char *line, struct cv_mount_entry *ret)
{
	struct cv_mount_entry e = { 0 };
	size_t device_len = 0, path_len = 0, type_len = 0, source_len = 0, how_len = 0;
	const char *device = field(line, 2, &device_len);
	const char *path = field(line, 4, &path_len);
	const char *how = field(line, 5, &how_len);
	const char *tail = strstr(line, " - ");
	const char *type = tail ? field(tail + 3, 0, &type_len) : NULL;
	const char *source = tail ? field(tail + 3, 1, &source_len) : NULL;

	if (!device || !path || !type || !source ||
	    sscanf(device, "%u:%u", &e.dev_major, &e.dev_minor) != 2)
		return -EBADMSG;
	e.readonly =
		how && how_len >= 2 && memcmp(how, "ro", 2) == 0 && (how_len == 2 || how[2] == ',');
	e.path = unescape(path, path_len);
	e.fstype = unescape(type, type_len);
	e.source = unescape(source, source_len);
	if (!e.path || !e.fstype || !e.source) {
		cv_mount_entry_release(&e);
		return -ENOMEM;
	}
	*ret = e;
	return 0;
}

static int each_entry(bool (*each)(void *ctx, struct cv_mount_entry *entry), void *ctx)
{
	cv_cleanup_fclose FILE *f = fopen("/proc/self/mountinfo", "re");
	cv_cleanup_free char *line = NULL;
	size_t size = 0;

	if (!f)
		return -errno;
	while (getline(&line, &size, f) > 0) {
		cv_cleanup_entry struct cv_mount_entry entry = { 0 };

		if (cv_mount_entry_parse(line, &entry) == 0 && !each(ctx, &entry))
			break;
	}
	return ferror(f) ? -EIO : 0;
}

struct finder {
	const char *path;
	struct cv_mount_entry found;
};

static bool find_one(void *ctx, struct cv_mount_entry *entry)
{
	struct finder *finder = ctx;

	if (cv_str_eq(entry->path, finder->path)) { /* later lines are mounted on top */
		cv_mount_entry_release(&finder->found);
		finder->found = *entry;
		memset(entry, 0, sizeof(*entry));
	}
	return true;
}

int cv_mount_find(const char *path, struct cv_mount_entry *ret)
{
	struct finder finder = { .path = path };
	int r = each_entry(find_one, &finder);

	if (r == 0 && !finder.found.path)
		r = -ENOENT;
	if (r < 0)
		cv_mount_entry_release(&finder.found);
	else
		*ret = finder.found;
	return r;
}

struct elsewhere {
	const char *path;
	uint64_t dev;
	char *found;
};

static bool find_elsewhere(void *ctx, struct cv_mount_entry *entry)
{
	struct elsewhere *e = ctx;

	if (makedev(entry->dev_major, entry->dev_minor) != e->dev ||
	    cv_str_eq(entry->path, e->path))
		return true;
	e->found = cv_steal(&entry->path);
	return false;
}

char *cv_mount_elsewhere(const char *path, uint64_t dev)
{
	struct elsewhere e = { .path = path, .dev = dev };

	(void)each_entry(find_elsewhere, &e);
	return e.found;
}

struct below {
	const char *dir;
	char **paths;
	size_t count;
};

static bool collect_below(void *ctx, struct cv_mount_entry *entry)
{
	struct below *below = ctx;
	size_t len = strlen(below->dir);
	char **bigger;

	if (!cv_str_eq(entry->fstype, CV_FSTYPE) || !cv_str_starts(entry->path, below->dir) ||
	    entry->path[len] != '/')
		return true;
	bigger = realloc(below->paths, (below->count + 1) * sizeof(*bigger));
	if (!bigger)
		return false;
	below->paths = bigger;
	below->paths[below->count++] = cv_steal(&entry->path);
	return true;
}

int cv_mount_each_below(const char *dir, void (*each)(void *ctx, const char *path), void *ctx)
{
	/* Collected first: each() changes the table that is being read. */
	struct below below = { .dir = dir };
	int r = each_entry(collect_below, &below);

	for (size_t i = 0; i < below.count; i++) {
		if (r == 0)
			each(ctx, below.paths[i]);
		free(below.paths[i]);
	}
	free(below.paths);
	return r;
}

bool cv_mountpoint_is(const char *path, uint64_t dev)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	int r = cv_mount_find(path, &entry);

	/* Unreadable (no descriptors, no memory): a mount in use is not given up for that. */
	if (r < 0)
		return r != -ENOENT;
	return cv_str_eq(entry.fstype, CV_FSTYPE) &&
	       makedev(entry.dev_major, entry.dev_minor) == dev;
}

/* ---- detaching ---- */

struct detacher {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned refs; /* protected by lock */
	bool done;     /* protected by lock */
	int result;    /* protected by lock */
	bool lazy;
	char *path; /* owned */
};

static void detacher_unref(struct detacher *d) /* called with lock held, drops it */
{
	bool last = --d->refs == 0;

	(void)pthread_mutex_unlock(&d->lock);
	if (!last)
		return;
	(void)pthread_mutex_destroy(&d->lock);
	(void)pthread_cond_destroy(&d->cond);
	free(d->path);
	free(d);
}

static int detach_all(const char *path)
{
	for (int i = 0; i < STACKED_MAX; i++) {
		cv_cleanup_entry struct cv_mount_entry entry = { 0 };
		int r = cv_mount_find(path, &entry);

		if (r == -ENOENT)
			return 0;
		if (r < 0)
			return r;
		if (!cv_str_eq(entry.fstype, CV_FSTYPE))
			return i ? 0 : -EBUSY; /* below ours, or on top of it: not our business */
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return -errno;
	}
	return -ELOOP;
}

static void *detach_thread(void *arg)
{
	struct detacher *d = arg;
	int r = 0;

	if (d->lazy)
		r = detach_all(d->path);
	else if (umount2(d->path, UMOUNT_NOFOLLOW) < 0)
		r = -errno;

	(void)pthread_mutex_lock(&d->lock);
	d->result = r;
	d->done = true;
	(void)pthread_cond_signal(&d->cond);
	detacher_unref(d);
	return NULL;
}

static struct detacher *detacher_new(const char *path, bool lazy)
{
	struct detacher *d = calloc(1, sizeof(*d));
	pthread_condattr_t attr;

	if (!d)
		return NULL;
	d->path = strdup(path);
	if (!d->path) {
		free(d);
		return NULL;
	}
	(void)pthread_mutex_init(&d->lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&d->cond, &attr);
	(void)pthread_condattr_destroy(&attr);
	d->lazy = lazy;
	d->refs = 1;
	return d;
}

/*
 * umount2() takes the mount out of the tree at once, but on its way back it may have to write dirty
 * mapped pages through the dying file system, for as long as its server is away.
 */
static int unmount_bounded(const char *path, bool lazy)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	struct detacher *d;
	struct timespec until;
	pthread_t thread;
	int r = cv_mount_find(path, &entry);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	d = detacher_new(path, lazy);
	if (!d)
		return -ENOMEM;
	d->refs = 2;
	r = pthread_create(&thread, NULL, detach_thread, d);
	(void)pthread_mutex_lock(&d->lock);
	if (r != 0) {
		d->refs--;
		detacher_unref(d);
		return -r;
	}
	(void)pthread_detach(thread);
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += DETACH_WAIT_MS / 1000;
	while (!d->done && r == 0)
		r = pthread_cond_timedwait(&d->cond, &d->lock, &until);
	if (d->done)
		r = d->result;
	else
		r = cv_mountpoint_is(path, makedev(entry.dev_major, entry.dev_minor)) ? -ETIMEDOUT
										      : 0;
	detacher_unref(d);
	return r;
}

int cv_mountpoint_detach(const char *path)
{
	return unmount_bounded(path, true);
}

int cv_mountpoint_unmount(const char *path)
{
	return unmount_bounded(path, false);
}

void cv_mountpoint_remove(const char *path)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };

	if (cv_mount_find(path, &entry) != -ENOENT)
		return;
	if (rmdir(path) < 0 && errno != ENOENT)
		cv_warning("cannot remove the mountpoint %s: %s", path, cv_strerror(errno));
}

/* ---- the bare directory ---- */

static int check_empty(int dirfd, const char *path, struct cv_err *err)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cv_cleanup_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		int saved = errno;

		cv_close_fd(&fd);
		return cv_fail(err, saved, "mountpoint %s: %s", path, cv_strerror(saved));
	}
	while ((entry = readdir(dir))) {
		if (!cv_str_eq(entry->d_name, ".") && !cv_str_eq(entry->d_name, ".."))
			return cv_fail(err, ENOTEMPTY,
				       "mountpoint %s is not empty: it contains '%s', which cvol "
				       "did not put there; move it away first",
				       path, entry->d_name);
	}
	return 0;
}

int cv_mountpoint_prepare(const char *path, struct cv_err *err)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	cv_cleanup_close int fd = -1;
	int r = cv_mount_find(path, &entry);

	if (r == 0 && !cv_str_eq(entry.fstype, CV_FSTYPE))
		return cv_fail(err, EBUSY,
			       "something else (%s, type %s) is mounted at %s: unmount it first",
			       entry.source, entry.fstype, path);
	if (r == 0) {
		cv_notice("detaching a dead mount of %s from %s", entry.source, path);
		r = cv_mountpoint_detach(path);
	}
	if (r < 0 && r != -ENOENT)
		return cv_fail(err, -r, "mountpoint %s: cannot detach what is mounted there: %s",
			       path, cv_strerror(r));
	/* Mode 0000: where the mount is missing, nobody writes to the host's disk by mistake. */
	if (mkdir(path, 0000) < 0 && errno != EEXIST)
		return cv_fail(err, errno, "cannot create mountpoint %s: %s", path,
			       cv_strerror(errno));
	fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cv_fail(err, errno, "mountpoint %s is not a directory: %s", path,
			       cv_strerror(errno));
	if (chmod(path, 0000) < 0)
		return cv_fail(err, errno, "mountpoint %s: %s", path, cv_strerror(errno));
	return check_empty(fd, path, err);
}

/* ---- mounting ---- */

static int do_mount(const struct cv_attach *a, int dir, int fuse, struct cv_err *err)
{
	unsigned long flags = MS_NOSUID | MS_NODEV | (a->readonly ? MS_RDONLY : 0);
	cv_cleanup_free char *context = NULL;
	cv_cleanup_free char *data = NULL;
	char target[64];

	if (a->context && strpbrk(a->context, "\"\\"))
		return cv_fail(err, EINVAL, "option context: quotes are not allowed");
	context = a->context ? cv_sprintf(",context=\"%s\"", a->context) : strdup("");
	data = context ? cv_sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,allow_other,"
				    "default_permissions,max_read=%u%s",
				    fuse, a->rootmode, a->max_read, context)
		       : NULL;
	if (!data)
		return cv_fail(err, ENOMEM, "out of memory");
	/* The directory that was checked, whatever happens to its path meanwhile. */
	(void)snprintf(target, sizeof(target), "/proc/self/fd/%d", dir);
	if (mount(a->source, target, CV_FSTYPE, flags, data) < 0)
		return cv_fail(err, errno, "mounting on %s: %s%s", a->path, cv_strerror(errno),
			       errno == EPERM	 ? " (needs CAP_SYS_ADMIN)"
			       : errno == ENODEV ? " (the kernel has no FUSE: modprobe fuse)"
						 : "");
	return 0;
}

static int take_init(int fuse, int shm, struct cv_err *err)
{
	cv_cleanup_free uint8_t *buffer = malloc(FUSE_BUFFER);
	struct pollfd pfd = { .fd = fuse, .events = POLLIN };
	uint32_t opcode, size;
	ssize_t n;
	int r;

	if (!buffer)
		return cv_fail(err, ENOMEM, "out of memory");
	do {
		r = poll(&pfd, 1, INIT_TIMEOUT_MS);
	} while (r < 0 && errno == EINTR);
	if (r <= 0 || !(pfd.revents & POLLIN))
		return cv_fail(err, r < 0 ? errno : ETIMEDOUT, "the kernel sent no FUSE_INIT");
	n = read(fuse, buffer, FUSE_BUFFER);
	if (n < 8)
		return cv_fail(err, n < 0 ? errno : EIO, "reading FUSE_INIT failed");
	memcpy(&opcode, buffer + 4, sizeof(opcode));
	if (opcode != FUSE_INIT || n > CV_SHM_INIT_MAX)
		return cv_fail(err, EPROTO, "unexpected first FUSE request (%u, %zd bytes)", opcode,
			       n);
	size = (uint32_t)n;
	if (pwrite(shm, buffer, size, offsetof(struct cv_shm_header, init)) != n ||
	    pwrite(shm, &size, sizeof(size), offsetof(struct cv_shm_header, init_size)) !=
		    (ssize_t)sizeof(size))
		return cv_fail(err, EIO, "writing to the shared memory failed");
	return 0;
}

/* No request to the file system: mount table, and a statx() that the kernel answers by itself. */
static int verify(const struct cv_attach *a, dev_t before, uint64_t *ret_dev, struct cv_err *err)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };
	struct statx stx;
	int r = cv_mount_find(a->path, &entry);

	if (r < 0 && r != -ENOENT)
		return cv_fail(err, -r, "reading the mount table: %s", cv_strerror(r));
	if (r < 0 || !cv_str_eq(entry.fstype, CV_FSTYPE))
		return cv_fail(err, EIO, "%s is not in the mount table after mounting", a->path);
	*ret_dev = makedev(entry.dev_major, entry.dev_minor);
	if (*ret_dev == before)
		return cv_fail(err, EIO, "%s still shows the directory below", a->path);
	if (statx(AT_FDCWD, a->path, AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, 0,
		  &stx) == 0 &&
	    makedev(stx.stx_dev_major, stx.stx_dev_minor) != *ret_dev)
		return cv_fail(err, EIO, "%s is hidden below another mount", a->path);
	return 0;
}

int cv_mountpoint_attach(const struct cv_attach *a, int *ret_fuse, uint64_t *ret_dev,
			 struct cv_err *err)
{
	cv_cleanup_close int dir = open(a->path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	cv_cleanup_close int fuse = -1;
	struct stat st;
	uint64_t dev = 0;
	int r, flags;

	if (dir < 0 || fstat(dir, &st) < 0)
		return cv_fail(err, errno, "mountpoint %s: %s", a->path, cv_strerror(errno));
	fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse < 0)
		return cv_fail(err, errno, "cannot open /dev/fuse: %s%s", cv_strerror(errno),
			       errno == ENOENT || errno == ENODEV ? " (modprobe fuse)" : "");
	r = do_mount(a, dir, fuse, err);
	if (r < 0)
		return r;
	r = take_init(fuse, a->shm_fd, err);
	if (r == 0)
		r = verify(a, st.st_dev, &dev, err);
	flags = fcntl(fuse, F_GETFL);
	if (r == 0 && (flags < 0 || fcntl(fuse, F_SETFL, flags | O_NONBLOCK) < 0))
		r = cv_fail(err, errno, "fcntl: %s", cv_strerror(errno));
	if (r < 0) {
		cv_close_fd(&fuse); /* ends the connection, so that nothing can wait for it */
		(void)cv_mountpoint_detach(a->path);
		return r;
	}
	*ret_dev = dev;
	*ret_fuse = cv_steal_fd(&fuse);
	return 0;
}

void cv_mountpoint_set_bdi(uint64_t dev, const char *name, unsigned value)
{
	char path[96], text[24];
	cv_cleanup_close int fd = -1;
	int len;

	(void)snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/%s", major(dev), minor(dev), name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	len = snprintf(text, sizeof(text), "%u", value);
	if (fd < 0 || write(fd, text, (size_t)len) != len)
		cv_debug("%s: %s", path, cv_strerror(errno));
}

/* ---- who uses it ---- */

static bool points_below(int dirfd, const char *link, const char *path)
{
	char target[4096];
	ssize_t n = readlinkat(dirfd, link, target, sizeof(target) - 1);
	size_t len = strlen(path);

	if (n <= 0)
		return false;
	target[n] = '\0';
	return strncmp(target, path, len) == 0 && (target[len] == '\0' || target[len] == '/');
}

static bool has_open_file(int procfd, const char *path)
{
	int fd = openat(procfd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cv_cleanup_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		cv_close_fd(&fd);
		return false;
	}
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && points_below(fd, entry->d_name, path))
			return true;
	}
	return false;
}

/* In another mount namespace (a container) the path differs, but not the device. */
static bool has_mounted(int procfd, uint64_t dev)
{
	int fd = openat(procfd, "mountinfo", O_RDONLY | O_CLOEXEC);
	cv_cleanup_fclose FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	cv_cleanup_free char *line = NULL;
	size_t size = 0;
	char self[64] = "", other[64] = "";

	if (!f) {
		cv_close_fd(&fd);
		return false;
	}
	if (readlink("/proc/self/ns/mnt", self, sizeof(self) - 1) < 0 ||
	    readlinkat(procfd, "ns/mnt", other, sizeof(other) - 1) < 0 || cv_str_eq(self, other))
		return false;
	while (getline(&line, &size, f) > 0) {
		cv_cleanup_entry struct cv_mount_entry entry = { 0 };

		if (cv_mount_entry_parse(line, &entry) == 0 &&
		    makedev(entry.dev_major, entry.dev_minor) == dev)
			return true;
	}
	return false;
}

void cv_mountpoint_users(const char *path, uint64_t dev, char *out, size_t size)
{
	cv_cleanup_closedir DIR *proc = opendir("/proc");
	struct dirent *entry;
	size_t used = 0;
	unsigned count = 0;

	out[0] = '\0';
	while (proc && (entry = readdir(proc))) {
		cv_cleanup_close int fd = -1;
		cv_cleanup_close int comm_fd = -1;
		char comm[32] = "";
		int n;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		fd = openat(dirfd(proc), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 || !(points_below(fd, "cwd", path) || points_below(fd, "root", path) ||
				points_below(fd, "exe", path) || has_open_file(fd, path) ||
				has_mounted(fd, dev)))
			continue;
		comm_fd = openat(fd, "comm", O_RDONLY | O_CLOEXEC);
		if (comm_fd >= 0 && read(comm_fd, comm, sizeof(comm) - 1) > 0)
			comm[strcspn(comm, "\n")] = '\0';
		n = snprintf(out + used, size - used, "%s%s (%s)", used ? ", " : "", entry->d_name,
			     comm);
		if (n < 0 || (size_t)n >= size - used)
			break;
		used += (size_t)n;
		if (++count == USERS_MAX)
			break;
	}
}

bool cv_mountpoint_in_use(const char *path, uint64_t dev)
{
	char users[64];

	cv_mountpoint_users(path, dev, users, sizeof(users));
	return *users != '\0';
}
