/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract between the FUSE worker and a storage engine.
 *
 * Life of a connection:
 *
 *	connect ──> data operations, any number in flight ──> disconnect
 *	(blocks)    (never block; each completes exactly once)  (no operation in flight)
 *
 * Control operations may block and write their error for a person. Data operations run on the
 * loop's thread, never block, and complete exactly once through op->done(op, result), either from
 * the loop later or at once, before the call returns. Only backend.c calls through the table.
 *
 * A lost connection is the engine's business: it reconnects by itself, repeats what is safe to
 * repeat and resolves the rest by looking. With recovery=hard operations simply take longer; with
 * recovery=soft they end with -ETIMEDOUT or -EIO after `timeout`. The worker answers FUSE_INTERRUPT
 * without the engine, so a hanging operation never holds its caller.
 */
#ifndef CV_BACKENDS_BACKEND_H
#define CV_BACKENDS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <time.h>

#include "config/counters.h"
#include "config/dict.h"
#include "config/err.h"
#include "config/loop.h"

#define CV_HANDLE_MAX 128 /* NFSv3: 64, NFSv4: 128, Linux file handles: 128 */
#define CV_NAME_MAX   255
#define CV_GROUPS_MAX 16 /* AUTH_SYS carries 16 */
#define CV_MAX_IO     (1u << 20)
#define CV_MAX_COPY   (1u << 30)

enum cv_features {
	/* Objects are named by a durable handle that survives renames and reconnects; without it
	 * they are named by their path and the worker keeps that path up to date. */
	CV_FEAT_HANDLES = 1 << 0,
	/* op->cred goes to the server, which decides by it. */
	CV_FEAT_CALLER_CREDS = 1 << 1,
	/* An open file outlives its last name by itself. Without it the worker renames instead of
	 * unlinking and removes at the last close, and can be replaced when it dies. */
	CV_FEAT_UNLINK_OPEN = 1 << 2,
	CV_FEAT_HARD_LINKS = 1 << 3,
	/* write() may complete before the data is stable: it returns a verifier, the worker keeps
	 * the data until fsync() returns the same one, and sends it again otherwise. */
	CV_FEAT_UNSTABLE_WRITES = 1 << 4,
	/* write() is worth delaying and coalescing (a round trip to a server). */
	CV_FEAT_WRITE_BEHIND = 1 << 5,
	/* getlk() and setlk() exclude other clients of the server. Without it the kernel keeps
	 * locks of this host by itself. */
	CV_FEAT_LOCKS = 1 << 6,
	/* What is started on one open file is carried out in that order, also after a reconnect: a
	 * setattr need not wait for the writes before it. */
	CV_FEAT_ORDERED = 1 << 7,
	/* copy() may work. */
	CV_FEAT_COPY = 1 << 8,
};

struct cv_handle {
	uint8_t size; /* 0: the engine has no handles */
	uint8_t data[CV_HANDLE_MAX];
};

/* An object of the file system, as an argument. Everything in it is valid during the call only. */
struct cv_object {
	uint64_t nodeid;		/* the worker's; stable while the kernel knows the object */
	const struct cv_handle *handle; /* CV_FEAT_HANDLES, else NULL */
	const char *path; /* without CV_FEAT_HANDLES: relative to the mount's root, no leading
			     slash, "" for the root; may be longer than PATH_MAX */
	/* With CV_FEAT_HANDLES: the directory and the name where it was last seen, for protocols
	 * that open by name. A hint: others may have renamed it. NULL: not known. */
	const struct cv_handle *parent;
	const char *name;
	/* What the worker has seen of it last, in attributes: cv_change(), size in bytes. A hint;
	 * 0: not known, or not to be relied on. */
	uint64_t seen_change, seen_size;
};

struct cv_attr {
	uint64_t ino;	 /* 0: the engine has no stable number, the worker makes one */
	uint64_t size;	 /* bytes */
	uint64_t blocks; /* 512-byte units */
	uint32_t mode;	 /* type and permissions */
	uint32_t nlink;
	uint32_t uid;
	uint32_t gid;
	uint64_t rdev;
	uint32_t blksize;
	struct timespec atime;
	struct timespec mtime;
	struct timespec ctime;
	/* Differs after every change of content or attributes: NFSv4's change attribute. 0: there
	 * is none, cv_change() makes one of size and times. */
	uint64_t change;
};

/* attr->change, or one from size, mtime and ctime. Never 0. */
uint64_t cv_change(const struct cv_attr *attr);

/*
 * A directory whose entries an operation has changed, as the server saw it along with that (NFSv3:
 * wcc_data; NFSv4: change_info and a GETATTR in the same compound). It saves the worker asking for
 * what its own change made of the directory. Optional; it must cost no round trip of its own.
 */
struct cv_dir_after {
	bool have;	     /* attr is the directory after the operation */
	struct cv_attr attr; /* with mode, nlink and all */
	/* cv_change() just before the operation, read in one step with it; 0: unknown. If it is
	 * what the worker has last seen, nobody else has changed the directory. */
	uint64_t before;
};

enum cv_set_mask {
	CV_SET_MODE = 1 << 0,
	CV_SET_UID = 1 << 1,
	CV_SET_GID = 1 << 2,
	CV_SET_SIZE = 1 << 3,
	CV_SET_ATIME = 1 << 4,
	CV_SET_MTIME = 1 << 5,
	CV_SET_ATIME_NOW = 1 << 6, /* the server's clock where the protocol can say so */
	CV_SET_MTIME_NOW = 1 << 7,
};

struct cv_setattr {
	unsigned mask; /* enum cv_set_mask */
	uint32_t mode; /* permission bits, 07777 */
	uint32_t uid;
	uint32_t gid;
	uint64_t size;
	struct timespec atime;
	struct timespec mtime;
};

struct cv_entry {
	struct cv_handle handle;
	struct cv_attr attr;
};

struct cv_dirent {
	const char *name;  /* NUL-terminated, not "." or "..", never contains '/' */
	uint64_t next_off; /* pass to readdir() to go on after this entry; never 0 */
	uint64_t ino;
	uint32_t mode;	 /* type bits at least; 0: unknown */
	bool have_entry; /* entry is complete: handle and attributes */
	struct cv_entry entry;
};

/* A copy, names included, in one allocation; also of none. NULL: out of memory. */
struct cv_dirent *cv_dirents_dup(const struct cv_dirent *entries, size_t count);

struct cv_cred {
	uint32_t uid;
	uint32_t gid;
	uint32_t ngroups;
	uint32_t groups[CV_GROUPS_MAX];
};

struct cv_file;	  /* an engine's open file or directory */
struct cv_replay; /* replay.h */
struct cv_replays;

/* fcntl(2) or flock(2): a range of bytes, and who holds or wants it. */
struct cv_lock {
	uint64_t owner; /* the kernel's: a process, or an open file description */
	bool flock; /* of flock(2): other owners than those of fcntl(2), with the same numbers */
	int type;   /* F_RDLCK, F_WRLCK, F_UNLCK */
	uint64_t start;
	uint64_t end; /* the last byte; CV_LOCK_EOF: however long the file gets */
	pid_t pid;    /* for people; 0: unknown, on another host */
};
#define CV_LOCK_EOF ((uint64_t)INT64_MAX)

/*
 * One operation. The caller owns it and keeps it, cred included, until done() is called; the engine
 * fills in the results it has, then calls done() as its last act on the operation.
 * Result: 0, a count, or -errno. What results hold by pointer is valid until done() returns.
 */
struct cv_op {
	void (*done)(struct cv_op *op, ssize_t result);
	const struct cv_cred *cred; /* never NULL; whose request this is */
	/*
	 * Names the operation for the server, where the protocol can tell a repetition from a new
	 * one by it: the same when a successor of this worker repeats it. 0: unnamed.
	 */
	uint64_t id;
	/* Where the engine keeps what it sends for it; NULL: nowhere. The caller's, and cleared by
	 * it when the memory is needed otherwise. */
	struct cv_replay *replay;
	/* A worker that died may have carried it out unseen: a refusal is judged like that of a
	 * request which was sent twice because its first answer was lost. */
	bool repeated;
	/* write: the caller waits until it is on stable storage; an engine that can have it there
	 * in the same round trip does so, and sets stable. */
	bool sync;

	/* lookup: the caller is making names in this directory. That one is not there may be
	 * answered from what is known of the directory; to others it is the server's word only. */
	bool making;

	struct cv_entry entry; /* lookup, mknod, mkdir, symlink, link, create */
	struct cv_attr attr;   /* getattr, setattr, open, create; write and fsync if have_attr */
	bool have_attr;	       /* attr was filled in: set by every call that fills attr */
	/* setattr, write, fsync: cv_change() of the object just before, as in cv_dir_after */
	uint64_t before;
	/* mknod, mkdir, symlink, link, unlink, rmdir, create, rename: the directory; also on error
	 */
	struct cv_dir_after dir;
	struct cv_dir_after newdir; /* rename: the other one, if it is another */
	struct cv_file *file;	    /* open, create, opendir: now the caller's, until release */
	const void *data;	    /* read, readlink (not terminated), getxattr, listxattr */
	const struct cv_dirent *dirents; /* readdir: result is their number */
	bool eof;			 /* readdir: nothing follows these entries */
	/* readdir: the server was asked so long before the call, and not since. What this mount has
	 * changed meanwhile is not told as it was: such entries are names only. */
	uint64_t age_ns;
	bool empty;  /* mkdir: made by this very call, so that nothing is in it. Optional. Never
		      * where names that differ in ASCII may be the same to the server. */
	bool stable; /* write: already on stable storage, or the engine has no such notion */
	uint64_t verifier;	/* write when !stable, fsync: see CV_FEAT_UNSTABLE_WRITES */
	uint64_t offset;	/* lseek: the result */
	struct statvfs statvfs; /* statfs */
	struct cv_lock lock;	/* getlk: what is in the way; F_UNLCK: nothing */
	/* The caller's: nobody waits for it any more. A setlk() that waits ends soon, without the
	 * lock. May be set at any time. */
	bool abandoned;

	void *engine;	     /* engine's own, between call and done */
	unsigned debug_done; /* backend.c: completions seen */
	/* backend.c: */
	void (*caller_done)(struct cv_op *op, ssize_t result); /* what done was before the call */
	struct cv_mount *mount; /* where the operation is in flight; NULL: nowhere */
	enum cv_call call;	/* which one */
	uint64_t begun_ns;
	size_t asked; /* the largest count that may come back */
};

/* Learned at connect. */
struct cv_info {
	/* The table for this connection, when the engine has one for each protocol version. */
	const struct cv_backend *backend;
	unsigned features;     /* enum cv_features */
	struct cv_entry root;  /* handle (CV_FEAT_HANDLES) and attributes of the mount's root */
	uint32_t read_max;     /* bytes, largest read worth asking for; <= CV_MAX_IO */
	uint32_t write_max;    /* bytes, likewise */
	uint32_t readdir_max;  /* hint, bytes */
	uint32_t rtt_us;       /* measured round trip; 0 for local engines */
	uint32_t time_gran_ns; /* 1 or 1000000000 */
	/* Hint, bytes: how far to read ahead where a round trip takes no time, and where it takes
	 * 20 ms or more; 0: as others do. */
	uint32_t readahead_near, readahead_far;
	bool made_subdir; /* the last directory of `subdir` was missing and is our work */
	/*
	 * What a successor of this worker must have in common with it, in the engine's own words:
	 * it comes back as the option "resume". "": nothing.
	 */
	char resume[64];
	/*
	 * Given to connect(), or NULL: what outlives the worker, so perhaps from a predecessor.
	 * settled: nothing that one has sent is under way at the server any more, nor will ever be.
	 */
	const struct cv_replays *replays;
	bool settled;
	char server[256]; /* for people, e.g. "nas:2049 (NFSv3)"; no secret */
};

struct cv_stats {
	bool connected;
	uint64_t reconnects;
	uint64_t in_flight; /* operations sent and not answered */
	uint64_t bytes_read;
	uint64_t bytes_written;
	char last_error[256];  /* for people; "" if none */
	uint64_t last_error_s; /* CLOCK_REALTIME seconds; 0: none */
	uint64_t heard_ns;     /* cv_now_ns() of the server's last sign of life; see provoke */
};

struct cv_backend {
	const char *name;

	/* ---- control ---- */

	/*
	 * Resolves, connects, authenticates, finds the directory; validates again what options say.
	 * May block, at most `mount_timeout` in all. On failure nothing is left behind and err says
	 * which step failed and what to do. loop: where the engine registers its descriptors; it
	 * does not run during the call.
	 */
	int (*connect)(const struct cv_dict *options, struct cv_loop *loop, void **ret_conn,
		       struct cv_info *ret_info, struct cv_err *err);
	/* Frees conn; no operation is in flight any more. May block for a second to say good-bye.
	 */
	void (*disconnect)(void *conn);
	void (*stats)(void *conn, struct cv_stats *ret_stats); /* never blocks */
	/*
	 * Makes a server that is there give a sign of life, however busy it is with what it was
	 * asked: stats then show a later heard_ns. Never blocks. NULL: there is no server.
	 */
	void (*provoke)(void *conn);

	/* ---- data; NULL member: -ENOSYS (xattrs: -EOPNOTSUPP) ---- */

	/* -ENOENT if absent. name is one component; "." and ".." do not come here. */
	void (*lookup)(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
	/* file: an open file of the object, or NULL; the only way to an unlinked one. */
	void (*getattr)(void *conn, struct cv_op *op, const struct cv_object *obj,
			struct cv_file *file);
	/* All of set or, on error, as little as the protocol allows. Result attributes in op->attr.
	 */
	void (*setattr)(void *conn, struct cv_op *op, const struct cv_object *obj,
			struct cv_file *file, const struct cv_setattr *set);
	/* op->data, result = length. */
	void (*readlink)(void *conn, struct cv_op *op, const struct cv_object *obj);
	/* mode: type and permissions, umask already applied. Regular files too. */
	void (*mknod)(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		      uint32_t mode, uint64_t rdev);
	void (*mkdir)(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		      uint32_t mode);
	void (*symlink)(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
			const char *target);
	void (*link)(void *conn, struct cv_op *op, const struct cv_object *obj,
		     const struct cv_object *dir, const char *name);
	void (*unlink)(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
	void (*rmdir)(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
	/* flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE; -EINVAL for what cannot be done
	 * atomically. */
	void (*rename)(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		       const struct cv_object *newdir, const char *newname, unsigned flags);

	/* flags: access mode and O_TRUNC; O_APPEND never comes (offsets are explicit). Fills
	 * op->file and op->attr: fresh from the server, for close-to-open consistency. */
	void (*open)(void *conn, struct cv_op *op, const struct cv_object *obj, int flags);
	/* flags also O_EXCL. Creates or opens; op->entry, op->attr, op->file. */
	void (*create)(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		       int flags, uint32_t mode);
	/* No completion: the engine frees file now or when the server has answered. No operation
	 * on it is in flight. */
	void (*release)(void *conn, struct cv_file *file);
	/* Short only at end of file. size <= CV_MAX_IO. */
	void (*read)(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		     uint64_t off);
	/* All of it or an error. data: the caller's until done(), so that it can be repeated. */
	void (*write)(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		      size_t size_bytes, uint64_t off);
	/* Everything written so far through any handle of this object is on the server's disk.
	 * NFS: COMMIT. The worker has waited for the write() completions before. */
	void (*fsync)(void *conn, struct cv_op *op, struct cv_file *file, bool datasync);
	void (*fallocate)(void *conn, struct cv_op *op, struct cv_file *file, int mode,
			  uint64_t off, uint64_t size_bytes);
	/* SEEK_DATA or SEEK_HOLE only; op->offset. */
	void (*lseek)(void *conn, struct cv_op *op, struct cv_file *file, uint64_t off, int whence);
	/*
	 * CV_FEAT_COPY. Copies from one open file to another without the data coming here. Result:
	 * how much; 0 at the end of src, and less than asked where more would take too long: an
	 * interrupted caller, and who else wants something, wait for one call. -EOPNOTSUPP: not
	 * these two, or not wholly: reading and writing will do it, or tell what is wrong. After an
	 * error dst may have got a part. size <= CV_MAX_COPY; ranges of one file do not overlap.
	 */
	void (*copy)(void *conn, struct cv_op *op, struct cv_file *src, uint64_t src_off,
		     struct cv_file *dst, uint64_t dst_off, size_t size_bytes);

	/* CV_FEAT_LOCKS. What another owner has that excludes lock: op->lock. */
	void (*getlk)(void *conn, struct cv_op *op, struct cv_file *file,
		      const struct cv_lock *lock);
	/*
	 * Sets or releases; all of an owner's locks that were set through file go with its release.
	 * -EAGAIN: another owner's lock is in the way; with wait: until it is not, or
	 * op->abandoned. Fills op->attr if have_attr: of the file, read after the lock was had.
	 */
	void (*setlk)(void *conn, struct cv_op *op, struct cv_file *file,
		      const struct cv_lock *lock, bool wait);

	void (*opendir)(void *conn, struct cv_op *op, const struct cv_object *dir);
	void (*releasedir)(void *conn, struct cv_file *dir);
	/*
	 * Entries after off (0: from the start, re-reading the directory; else a next_off of an
	 * earlier entry of this handle), as many as come in one round trip, with attributes where
	 * that costs nothing. Result 0 with eof at the end. One at a time per handle.
	 */
	void (*readdir)(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off);
	void (*fsyncdir)(void *conn, struct cv_op *op, struct cv_file *dir, bool datasync);

	void (*statfs)(void *conn, struct cv_op *op, const struct cv_object *obj);

	/* size 0: result is the length needed. -ENODATA, -ERANGE, -EOPNOTSUPP as in xattr(7). */
	void (*getxattr)(void *conn, struct cv_op *op, const struct cv_object *obj,
			 const char *name, size_t size_bytes);
	void (*listxattr)(void *conn, struct cv_op *op, const struct cv_object *obj,
			  size_t size_bytes);
	void (*setxattr)(void *conn, struct cv_op *op, const struct cv_object *obj,
			 const char *name, const void *value, size_t size_bytes, int flags);
	void (*removexattr)(void *conn, struct cv_op *op, const struct cv_object *obj,
			    const char *name);
};

/* registry.c */
extern const struct cv_backend cv_backend_dir, cv_backend_mem, cv_backend_nfs, cv_backend_sftp;
const struct cv_backend *cv_backend_find(const char *name); /* NULL: unknown */

/*
 * The dispatcher (backend.c): the same calls with a mount in front. It answers for NULL members,
 * traces at debug level, checks that every operation completes once, and turns an impossible result
 * (a count larger than asked, an entry without handle, a name with '/') into -EIO.
 */
struct cv_mount {
	const struct cv_backend *backend;
	void *conn;
	struct cv_info info;
	uint64_t in_flight;
	struct cv_counters *counters; /* borrowed; NULL: nobody counts */
};

int cv_mount_connect(const struct cv_dict *options, struct cv_loop *loop, struct cv_mount *mount,
		     struct cv_err *err);
/* The same with what outlives the worker. */
int cv_mount_resume(const struct cv_dict *options, struct cv_loop *loop,
		    const struct cv_replays *replays, struct cv_mount *mount, struct cv_err *err);
void cv_mount_disconnect(struct cv_mount *mount);
void cv_mount_stats(struct cv_mount *mount, struct cv_stats *ret_stats);
/* False: the engine has no server that could be asked. */
bool cv_mount_provoke(struct cv_mount *mount);

/* Prepares op for (another) use: clears results, keeps done and cred. */
void cv_op_init(struct cv_op *op, void (*done)(struct cv_op *, ssize_t),
		const struct cv_cred *cred);

/* cv_lookup(mount, op, dir, name) and so on, one per member above, same arguments. */
void cv_lookup(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_getattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		struct cv_file *file);
void cv_setattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		struct cv_file *file, const struct cv_setattr *set);
void cv_readlink(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj);
void cv_mknod(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
	      uint32_t mode, uint64_t rdev);
void cv_mkdir(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
	      uint32_t mode);
void cv_symlink(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
		const char *target);
void cv_link(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
	     const struct cv_object *dir, const char *name);
void cv_unlink(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_rmdir(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_rename(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
	       const struct cv_object *newdir, const char *newname, unsigned flags);
void cv_open(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj, int flags);
void cv_create(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir, const char *name,
	       int flags, uint32_t mode);
void cv_release(struct cv_mount *m, struct cv_file *file);
void cv_read(struct cv_mount *m, struct cv_op *op, struct cv_file *file, size_t size_bytes,
	     uint64_t off);
void cv_write(struct cv_mount *m, struct cv_op *op, struct cv_file *file, const void *data,
	      size_t size_bytes, uint64_t off);
void cv_fsync(struct cv_mount *m, struct cv_op *op, struct cv_file *file, bool datasync);
void cv_fallocate(struct cv_mount *m, struct cv_op *op, struct cv_file *file, int mode,
		  uint64_t off, uint64_t size_bytes);
void cv_lseek(struct cv_mount *m, struct cv_op *op, struct cv_file *file, uint64_t off, int whence);
void cv_copy(struct cv_mount *m, struct cv_op *op, struct cv_file *src, uint64_t src_off,
	     struct cv_file *dst, uint64_t dst_off, size_t size_bytes);
void cv_getlk(struct cv_mount *m, struct cv_op *op, struct cv_file *file,
	      const struct cv_lock *lock);
void cv_setlk(struct cv_mount *m, struct cv_op *op, struct cv_file *file,
	      const struct cv_lock *lock, bool wait);
void cv_opendir(struct cv_mount *m, struct cv_op *op, const struct cv_object *dir);
void cv_releasedir(struct cv_mount *m, struct cv_file *dir);
void cv_readdir(struct cv_mount *m, struct cv_op *op, struct cv_file *dir, uint64_t off);
void cv_fsyncdir(struct cv_mount *m, struct cv_op *op, struct cv_file *dir, bool datasync);
void cv_statfs(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj);
void cv_getxattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		 const char *name, size_t size_bytes);
void cv_listxattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		  size_t size_bytes);
void cv_setxattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		 const char *name, const void *value, size_t size_bytes, int flags);
void cv_removexattr(struct cv_mount *m, struct cv_op *op, const struct cv_object *obj,
		    const char *name);

#endif
