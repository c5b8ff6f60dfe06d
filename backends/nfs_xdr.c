/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/nfs_xdr.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <nfsc/libnfs.h>
#include <nfsc/libnfs-zdr.h>
#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>

/* ---- arguments ---- */

static nfs_fh3 fh_of(const struct cv_handle *h)
{
	return (nfs_fh3){ .data = { .data_len = h->size, .data_val = (char *)(uintptr_t)h->data } };
}

static diropargs3 dirop_of(const struct cv_handle *dir, const char *name)
{
	return (diropargs3){ .dir = fh_of(dir), .name = (char *)(uintptr_t)name };
}

/* libnfs declares its encoders with their own argument types: one of them per call. */
#define ENCODE(a, encode, value)                                                                   \
	do {                                                                                       \
		ZDR zdr_;                                                                          \
		libnfs_zdrmem_create(&zdr_, (caddr_t)(a)->bytes, CV_NFS_ARGS_MAX, ZDR_ENCODE);     \
		(a)->size = encode(&zdr_, value) ? zdr_getpos(&zdr_) : 0;                          \
		(a)->when_at = 0;                                                                  \
		zdr_destroy(&zdr_);                                                                \
	} while (0)

/* The protocol has no time before 1970 and none after 2106. */
static nfstime3 time_of(const struct timespec *ts)
{
	if (ts->tv_sec < 0)
		return (nfstime3){ .seconds = 0, .nseconds = 0 };
	if (ts->tv_sec > UINT32_MAX)
		return (nfstime3){ .seconds = UINT32_MAX, .nseconds = 0 };
	return (nfstime3){ .seconds = (u_int)ts->tv_sec, .nseconds = (u_int)ts->tv_nsec };
}

static sattr3 sattr_of(const struct cv_setattr *set)
{
	sattr3 s;

	memset(&s, 0, sizeof(s));
	if (set->mask & CV_SET_MODE) {
		s.mode.set_it = 1;
		s.mode.set_mode3_u.mode = set->mode & 07777;
	}
	if (set->mask & CV_SET_UID) {
		s.uid.set_it = 1;
		s.uid.set_uid3_u.uid = set->uid;
	}
	if (set->mask & CV_SET_GID) {
		s.gid.set_it = 1;
		s.gid.set_gid3_u.gid = set->gid;
	}
	if (set->mask & CV_SET_SIZE) {
		s.size.set_it = 1;
		s.size.set_size3_u.size = set->size;
	}
	if (set->mask & CV_SET_ATIME_NOW) {
		s.atime.set_it = SET_TO_SERVER_TIME;
	} else if (set->mask & CV_SET_ATIME) {
		s.atime.set_it = SET_TO_CLIENT_TIME;
		s.atime.set_atime_u.atime = time_of(&set->atime);
	}
	if (set->mask & CV_SET_MTIME_NOW) {
		s.mtime.set_it = SET_TO_SERVER_TIME;
	} else if (set->mask & CV_SET_MTIME) {
		s.mtime.set_it = SET_TO_CLIENT_TIME;
		s.mtime.set_mtime_u.mtime = time_of(&set->mtime);
	}
	return s;
}

void cv_nfs_put_handle(struct cv_nfs_args *a, const struct cv_handle *h)
{
	GETATTR3args args = { .object = fh_of(h) };

	ENCODE(a, zdr_GETATTR3args, &args);
}

void cv_nfs_put_name(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name)
{
	LOOKUP3args args = { .what = dirop_of(dir, name) };

	ENCODE(a, zdr_LOOKUP3args, &args);
}

void cv_nfs_put_access(struct cv_nfs_args *a, const struct cv_handle *h, uint32_t wanted)
{
	ACCESS3args args = { .object = fh_of(h), .access = wanted };

	ENCODE(a, zdr_ACCESS3args, &args);
}

void cv_nfs_put_setattr(struct cv_nfs_args *a, const struct cv_handle *h,
			const struct cv_setattr *set)
{
	SETATTR3args args;

	memset(&args, 0, sizeof(args)); /* no guard */
	args.object = fh_of(h);
	args.new_attributes = sattr_of(set);
	ENCODE(a, zdr_SETATTR3args, &args);
}

void cv_nfs_put_read(struct cv_nfs_args *a, const struct cv_handle *h, uint64_t off, uint32_t count)
{
	READ3args args = { .file = fh_of(h), .offset = off, .count = count };

	ENCODE(a, zdr_READ3args, &args);
}

void cv_nfs_put_write(struct cv_nfs_args *a, const struct cv_handle *h, uint64_t off,
		      uint32_t count, bool sync)
{
	WRITE3args args = { .file = fh_of(h),
			    .offset = off,
			    .count = count,
			    .stable = sync ? FILE_SYNC : UNSTABLE };
	uint32_t length = htonl(count);

	/* Encoded with no data; the length before it is the last word. */
	ENCODE(a, zdr_WRITE3args, &args);
	if (a->size)
		memcpy(a->bytes + a->size - sizeof(length), &length, sizeof(length));
}

void cv_nfs_put_create(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
		       enum cv_nfs_create_mode how, const struct cv_setattr *set, const void *verf)
{
	CREATE3args args;

	memset(&args, 0, sizeof(args));
	args.where = dirop_of(dir, name);
	args.how.mode = (createmode3)how;
	if (how == CV_NFS_EXCLUSIVE)
		memcpy(args.how.createhow3_u.verf, verf, CV_NFS_VERF_SIZE);
	else
		args.how.createhow3_u.obj_attributes = sattr_of(set);
	ENCODE(a, zdr_CREATE3args, &args);
	/* Behind it: nanoseconds, and that the other time is left to the server. */
	if (a->size && set && set->mask & CV_SET_ATIME)
		a->when_at = a->size - 12;
}

void cv_nfs_put_mkdir(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
		      const struct cv_setattr *set)
{
	MKDIR3args args = { .where = dirop_of(dir, name), .attributes = sattr_of(set) };

	ENCODE(a, zdr_MKDIR3args, &args);
}

void cv_nfs_put_symlink(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
			const char *target)
{
	const struct cv_setattr set = { .mask = CV_SET_MODE, .mode = 0777 };
	SYMLINK3args args = { .where = dirop_of(dir, name),
			      .symlink = { .symlink_attributes = sattr_of(&set),
					   .symlink_data = (char *)(uintptr_t)target } };

	ENCODE(a, zdr_SYMLINK3args, &args);
}

void cv_nfs_put_mknod(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
		      uint32_t mode, uint64_t rdev)
{
	const struct cv_setattr set = { .mask = CV_SET_MODE, .mode = mode };
	MKNOD3args args;

	memset(&args, 0, sizeof(args));
	args.where = dirop_of(dir, name);
	switch (mode & S_IFMT) {
	case S_IFCHR:
	case S_IFBLK:
		args.what.type = S_ISCHR(mode) ? NF3CHR : NF3BLK;
		args.what.mknoddata3_u.chr_device.dev_attributes = sattr_of(&set);
		args.what.mknoddata3_u.chr_device.spec.specdata1 = major((dev_t)rdev);
		args.what.mknoddata3_u.chr_device.spec.specdata2 = minor((dev_t)rdev);
		break;
	default:
		args.what.type = S_ISSOCK(mode) ? NF3SOCK : NF3FIFO;
		args.what.mknoddata3_u.pipe_attributes = sattr_of(&set);
		break;
	}
	ENCODE(a, zdr_MKNOD3args, &args);
}

void cv_nfs_put_rename(struct cv_nfs_args *a, const struct cv_handle *dir, const char *name,
		       const struct cv_handle *newdir, const char *newname)
{
	RENAME3args args = { .from = dirop_of(dir, name), .to = dirop_of(newdir, newname) };

	ENCODE(a, zdr_RENAME3args, &args);
}

void cv_nfs_put_link(struct cv_nfs_args *a, const struct cv_handle *h, const struct cv_handle *dir,
		     const char *name)
{
	LINK3args args = { .file = fh_of(h), .link = dirop_of(dir, name) };

	ENCODE(a, zdr_LINK3args, &args);
}

void cv_nfs_put_readdir(struct cv_nfs_args *a, const struct cv_handle *dir, uint64_t cookie,
			const void *verf, uint32_t count, bool plus)
{
	if (plus) {
		READDIRPLUS3args args = {
			.dir = fh_of(dir), .cookie = cookie, .dircount = count, .maxcount = count
		};

		memcpy(args.cookieverf, verf, CV_NFS_VERF_SIZE);
		ENCODE(a, zdr_READDIRPLUS3args, &args);
	} else {
		READDIR3args args = { .dir = fh_of(dir), .cookie = cookie, .count = count };

		memcpy(args.cookieverf, verf, CV_NFS_VERF_SIZE);
		ENCODE(a, zdr_READDIR3args, &args);
	}
}

void cv_nfs_put_commit(struct cv_nfs_args *a, const struct cv_handle *h)
{
	COMMIT3args args = { .file = fh_of(h), .offset = 0, .count = 0 };

	ENCODE(a, zdr_COMMIT3args, &args);
}

void cv_nfs_put_path(struct cv_nfs_args *a, const char *path)
{
	dirpath args = (char *)(uintptr_t)path;

	ENCODE(a, zdr_dirpath, &args);
}

int cv_nfs_errno(uint32_t status)
{
	static const struct {
		uint32_t nfs;
		int err;
	} map[] = {
		{ NFS3ERR_PERM, EPERM },
		{ NFS3ERR_NOENT, ENOENT },
		{ NFS3ERR_IO, EIO },
		{ NFS3ERR_NXIO, ENXIO },
		{ NFS3ERR_ACCES, EACCES },
		{ NFS3ERR_EXIST, EEXIST },
		{ NFS3ERR_XDEV, EXDEV },
		{ NFS3ERR_NODEV, ENODEV },
		{ NFS3ERR_NOTDIR, ENOTDIR },
		{ NFS3ERR_ISDIR, EISDIR },
		{ NFS3ERR_INVAL, EINVAL },
		{ NFS3ERR_FBIG, EFBIG },
		{ NFS3ERR_NOSPC, ENOSPC },
		{ NFS3ERR_ROFS, EROFS },
		{ NFS3ERR_MLINK, EMLINK },
		{ NFS3ERR_NAMETOOLONG, ENAMETOOLONG },
		{ NFS3ERR_NOTEMPTY, ENOTEMPTY },
		{ NFS3ERR_DQUOT, EDQUOT },
		{ NFS3ERR_STALE, ESTALE },
		{ NFS3ERR_REMOTE, EREMOTE },
		{ NFS3ERR_BADHANDLE, ESTALE },
		{ NFS3ERR_NOTSUPP, EOPNOTSUPP },
		{ NFS3ERR_BAD_COOKIE, ESTALE },
		{ NFS3ERR_TOOSMALL, EINVAL },
		{ NFS3ERR_SERVERFAULT, EIO },
		{ NFS3ERR_BADTYPE, EPERM },
	};

	if (status == NFS3_OK)
		return 0;
	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++) {
		if (map[i].nfs == status)
			return -map[i].err;
	}
	return -EIO;
}

/* ---- results ---- */

static struct timespec get_time(struct cv_xdr *x)
{
	struct timespec ts;

	ts.tv_sec = cv_xdr_u32(x);
	ts.tv_nsec = cv_xdr_u32(x) % 1000000000;
	return ts;
}

/* A file system below the mount's own (crossmnt) counts its files from the start again. */
static uint64_t get_ino(struct cv_xdr *x)
{
	uint64_t fsid = cv_xdr_u64(x), ino = cv_xdr_u64(x);

	if (!x->have_fsid) {
		x->fsid = fsid;
		x->have_fsid = true;
	}
	ino ^= (fsid ^ x->fsid) * 0x9e3779b97f4a7c15ull;
	return ino ? ino : 1;
}

void cv_nfs_get_attr(struct cv_xdr *x, struct cv_attr *a)
{
	static const uint32_t types[] = { 0,	   S_IFREG, S_IFDIR,  S_IFBLK,
					  S_IFCHR, S_IFLNK, S_IFSOCK, S_IFIFO };
	uint32_t type = cv_xdr_u32(x), major_nr, minor_nr;

	memset(a, 0, sizeof(*a));
	if (type == 0 || type >= sizeof(types) / sizeof(types[0])) {
		x->bad = true;
		return;
	}
	a->mode = types[type] | (cv_xdr_u32(x) & 07777);
	a->nlink = cv_xdr_u32(x);
	a->uid = cv_xdr_u32(x);
	a->gid = cv_xdr_u32(x);
	a->size = cv_xdr_u64(x);
	a->blocks = (cv_xdr_u64(x) + 511) / 512;
	major_nr = cv_xdr_u32(x);
	minor_nr = cv_xdr_u32(x);
	a->rdev = makedev(major_nr, minor_nr);
	a->ino = get_ino(x);
	a->atime = get_time(x);
	a->mtime = get_time(x);
	a->ctime = get_time(x);
	a->blksize = 4096;
}

bool cv_nfs_get_post_attr(struct cv_xdr *x, struct cv_attr *ret)
{
	if (!cv_xdr_bool(x))
		return false;
	cv_nfs_get_attr(x, ret);
	return !x->bad;
}

bool cv_nfs_get_wcc(struct cv_xdr *x, struct cv_attr *ret, uint64_t *ret_before)
{
	*ret_before = 0;
	if (cv_xdr_bool(x)) {
		struct cv_attr before = { .size = cv_xdr_u64(x) };

		before.mtime = get_time(x);
		before.ctime = get_time(x);
		*ret_before = cv_change(&before);
	}
	return cv_nfs_get_post_attr(x, ret);
}

void cv_nfs_get_handle(struct cv_xdr *x, struct cv_handle *ret)
{
	size_t size;
	const uint8_t *p = cv_xdr_opaque(x, CV_NFS_FH_MAX, &size);

	memset(ret, 0, sizeof(*ret));
	if (!p || !size) {
		x->bad = true;
		return;
	}
	ret->size = (uint8_t)size;
	memcpy(ret->data, p, size);
}

bool cv_nfs_get_post_handle(struct cv_xdr *x, struct cv_handle *ret)
{
	if (!cv_xdr_bool(x))
		return false;
	cv_nfs_get_handle(x, ret);
	return !x->bad;
}

static bool is_name(const uint8_t *p, size_t n)
{
	if (!p || n == 0 || n > CV_NAME_MAX || memchr(p, '/', n) || memchr(p, '\0', n))
		return false;
	return !(p[0] == '.' && (n == 1 || (n == 2 && p[1] == '.')));
}

void cv_nfs_keep_entry(struct cv_xdr *x, struct cv_nfs_entries *e, struct cv_dirent *d,
		       const uint8_t *name, size_t size)
{
	e->last = d->next_off;
	if (!is_name(name, size) || d->next_off == 0)
		return;
	if (e->count == e->max || e->names_used + size + 1 > e->names_size) {
		x->bad = true; /* cannot be: the tables are sized by the reply */
		return;
	}
	d->name = memcpy(e->names + e->names_used, name, size);
	e->names[e->names_used + size] = '\0';
	e->names_used += size + 1;
	e->list[e->count++] = *d;
}

void cv_nfs_get_entries(struct cv_xdr *x, bool plus, struct cv_nfs_entries *entries,
			uint8_t verf[CV_NFS_VERF_SIZE])
{
	struct cv_attr ignored;
	const uint8_t *p;

	(void)cv_nfs_get_post_attr(x, &ignored);
	p = cv_xdr_take(x, CV_NFS_VERF_SIZE);
	if (p)
		memcpy(verf, p, CV_NFS_VERF_SIZE);
	while (cv_xdr_bool(x)) {
		struct cv_dirent d = { 0 };
		size_t n;

		d.ino = cv_xdr_u64(x);
		p = cv_xdr_opaque(x, 4096, &n);
		d.next_off = cv_xdr_u64(x);
		if (plus) {
			bool attr = cv_nfs_get_post_attr(x, &d.entry.attr);

			d.have_entry = cv_nfs_get_post_handle(x, &d.entry.handle) && attr;
			if (attr) {
				d.mode = d.entry.attr.mode;
				d.ino = d.entry.attr.ino;
			}
		}
		if (x->bad)
			return;
		cv_nfs_keep_entry(x, entries, &d, p, n);
	}
	entries->eof = cv_xdr_bool(x);
}
