/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the NFS engine: one connection, one request. nfs.c holds the machinery and the table,
 * nfs_mount.c what happens before (all that may block), nfs_names.c the operations on names and
 * attributes, nfs_file.c those on open files and directories, nfs_ahead.c and nfs_first.c
 * what is asked before it is wanted.
 *
 * A request is a walk of steps. Each step has a `send` that encodes its call from the request's own
 * copies of the arguments, so that it can be called again (JUKEBOX), and a `got` that is given the
 * answer and either takes the next step or finishes the operation. The transport repeats calls over
 * reconnects by itself and says so (`resent`).
 */
#ifndef CV_BACKENDS_NFS_H
#define CV_BACKENDS_NFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/backend.h"
#include "backends/nfs_xdr.h"
#include "backends/guess.h"
#include "backends/rpc.h"
#include "backends/walk.h"

struct cv_nfs_first;
struct cv_nfs_req;
struct cv_nfs4;
struct cv_nfs4_open;
struct cv_nfs4_owner;

/* What a request of NFSv4 has besides (nfs4.h). */
struct cv_nfs4_req {
	int slot;	  /* held; -1: none */
	uint32_t session; /* the one it belongs to */
	uint32_t status;  /* nfsstat4 of the last answer */
	bool recovers;	  /* part of a recovery: does not wait for it */
	unsigned repairs; /* how often a lost state has held it up */
	uint32_t open_epoch;
	struct cv_nfs4_open *open; /* whose state it uses; NULL: nobody's */
	struct cv_nfs4_open *made; /* owned: for the file being opened */
	struct cv_nfs4_lock *lock; /* nfs4_lock.c: whose turn it takes */
	bool turn;		   /* it has it */
	struct cv_nfs4_open *through;
	/* Whose numbers the call has (minor version 0): an open's owner, an owner of locks. */
	struct cv_nfs4_owner *open_owner, *lock_owner;
	uint32_t numbered; /* the operation that has them */
	struct cv_lock range;
	bool wait;
};

#define CV_NFS_CHANGED 1024

/* See nfs_ahead.c. */
struct cv_nfs_ahead {
	bool off;
	struct cv_walk walk;
	struct cv_timer purge;
	/* Counts our own changes, what is told, and what is asked ahead: what is older than what?
	 */
	uint64_t clock;
	size_t watched; /* answers, kept or on their way, that a change would make old */
	uint64_t changed[CV_NFS_CHANGED]; /* when an object whose handle has that hash was */
	uint64_t told[CV_NFS_CHANGED];	  /* when the worker was told what it had not seen of it */
	uint64_t unlinked;		  /* when some object got a name less */
};

#define CV_NFS_FIRST_SIZE (64u * 1024) /* what the kernel asks for at once of a small file */

/* See nfs_first.c. */
struct cv_nfs_firsts {
	struct cv_nfs_first *list;
	unsigned kept;
	struct cv_guess guess;
};

struct cv_nfs {
	struct cv_loop *loop;
	struct cv_rpc *rpc;
	bool soft;
	uint64_t timeout_ms;
	uint32_t rsize, wsize; /* <= CV_MAX_IO */
	uint32_t name_max;
	uint64_t fsid;	       /* NFSv3: of the mount's root */
	bool set_uid, set_gid; /* uid, gid: sent and shown instead of the true ones */
	uint32_t uid, gid;
	bool chown_ignore;
	bool no_readdirplus; /* the server has refused it */
	bool no_exclusive;   /* likewise */
	uint32_t mark_ns; /* how fine the times of files are; 0: too coarse, or not ours to set */
	bool case_insensitive; /* or not known not to be */
	uint64_t verifier;     /* of exclusive creates: never the same twice */
	uint64_t bytes_read, bytes_written;
	struct cv_nfs_req *spare; /* requests to use again */
	size_t nspare;
	struct cv_nfs4 *v4; /* owned; NULL: this is NFSv3 */
	struct cv_nfs_ahead ahead;
	struct cv_nfs_firsts firsts;
};

/* An open file or directory. NFSv3 has none, so there it is a handle with a memory. */
struct cv_file {
	struct cv_handle handle;
	bool writable;
	struct cv_nfs4_open *open;  /* NFSv4 files: owned */
	struct cv_nfs_first *first; /* owned, or NULL */
	/* directories: of the last reply; sent back with its cookies */
	uint8_t verf[CV_NFS_VERF_SIZE];
	uint32_t reply_bytes;
	bool ahead; /* nobody's: part of a listing that is asked ahead */
};

struct cv_nfs_req {
	struct cv_rpc_call call; /* its replay: NULL for calls that change nothing */
	struct cv_nfs *nfs;
	struct cv_op *op;
	void (*send)(struct cv_nfs_req *q);
	/* status 0: x is after nfsstat3. Else -errno, of the server or the transport. */
	void (*got)(struct cv_nfs_req *q, int status, struct cv_xdr *x);
	void (*then)(struct cv_nfs_req *q); /* after cv_nfs_fetch_attr(), cv_nfs_fetch_entry() */
	bool resent;			    /* this step's call was sent more than once */
	bool resent_before; /* NFSv4: also as another call, before the server restarted */
	bool again;	    /* readdir: tried with a zero verifier; create: see there */
	bool plus;	    /* readdir: asked for attributes */
	unsigned tries;
	struct cv_timer delay;
	unsigned delay_ms;
	uint64_t started_ns;
	struct cv_cred cred; /* with the overrides */
	struct cv_nfs_req *next;

	/* copies of the arguments */
	struct cv_handle obj, dir, dir2;
	char name[CV_NAME_MAX + 1], name2[CV_NAME_MAX + 1];
	struct cv_setattr set;
	uint32_t mode;
	uint64_t rdev;
	int flags;
	char *target; /* owned */
	uint64_t verifier;
	struct timespec mark;	  /* create; 0 seconds: none */
	struct cv_file *data_dir; /* readdir: the caller's; else NULL */
	uint64_t off;
	size_t size, done_bytes;
	const uint8_t *data;
	uint8_t *buf;	      /* owned: a read that came in pieces */
	uint64_t seen_change; /* cv_object's */
	/* open: what is read along */
	uint32_t first_size; /* bytes asked for; 0: nothing */
	uint64_t first_clock;
	struct cv_nfs_first *first; /* owned; what has come */

	struct cv_nfs4_req v4;
};

/* ---- nfs.c ---- */

int cv_nfs_connect(const struct cv_dict *options, struct cv_loop *loop, void **ret_conn,
		   struct cv_info *ret_info, struct cv_err *err);
void cv_nfs_disconnect(void *conn);
void cv_nfs_stats(void *conn, struct cv_stats *ret);
void cv_nfs_provoke(void *conn);

struct cv_nfs_req *cv_nfs_req_new(void *conn,
				  struct cv_op *op); /* NULL: op was completed with -ENOMEM */
/* Completes the operation, then frees q. */
void cv_nfs_finish(struct cv_nfs_req *q, ssize_t result);
/* 0 and op->attr. */
void cv_nfs_finish_attr(struct cv_nfs_req *q, const struct cv_attr *attr);
/* Takes a step: send now, got later. */
void cv_nfs_step(struct cv_nfs_req *q, void (*send)(struct cv_nfs_req *),
		 void (*got)(struct cv_nfs_req *, int, struct cv_xdr *));
/* The answer that a predecessor has got to this very call; NULL: none is known. */
const uint8_t *cv_nfs_replayed(struct cv_nfs_req *q, uint32_t procedure,
			       const struct cv_nfs_args *args, size_t *ret_size);
/* What a send does in the end. */
void cv_nfs_submit(struct cv_nfs_req *q, uint32_t procedure, const struct cv_nfs_args *args);
/* Whose request it is, with the overrides. */
const struct cv_cred *cv_nfs_cred(struct cv_nfs_req *q);
/* The server has it on tape, or is not ready yet after a start: this step again, later. */
void cv_nfs_wait(struct cv_nfs_req *q);
/* What is shown of an object: with uid= and gid=. */
void cv_nfs_show(const struct cv_nfs *nfs, struct cv_attr *attr);
/* Copies a component. False: too long, and q is finished. */
bool cv_nfs_set_name(struct cv_nfs_req *q, char dst[CV_NAME_MAX + 1], const char *name);

/* The worker is told these attributes of an object: what is kept of an older state ends. */
void cv_nfs_seen(struct cv_nfs *nfs, const struct cv_handle *handle, const struct cv_attr *attr);
bool cv_nfs_same_handle(const struct cv_handle *a, const struct cv_handle *b);
/* Requests about obj, about name in dir, and about that and newname in newdir, with these arguments
 * copied. NULL: op is completed already. */
struct cv_nfs_req *cv_nfs_on_object(void *conn, struct cv_op *op, const struct cv_object *obj);
struct cv_nfs_req *cv_nfs_on_name(void *conn, struct cv_op *op, const struct cv_object *dir,
				  const char *name);
struct cv_nfs_req *cv_nfs_on_names(void *conn, struct cv_op *op, const struct cv_object *dir,
				   const char *name, const struct cv_object *newdir,
				   const char *newname);
/* A then: nothing is left to be done. */
void cv_nfs_finish_ok(struct cv_nfs_req *q);

/* ---- nfs_names.c ---- */

/* For both versions. A request with what is to be set in q->set; the mask may be 0. */
struct cv_nfs_req *cv_nfs_on_attr(void *conn, struct cv_op *op, const struct cv_object *obj,
				  struct cv_file *file, const struct cv_setattr *set);
/* chown=ignore, and status refuses the owner: q->set is without one now. */
bool cv_nfs_ignore_owner(struct cv_nfs_req *q, int status);
/* READLINK's target, NULL when spoilt: finishes q with it, or by whether it is q->target. */
void cv_nfs_finish_target(struct cv_nfs_req *q, int status, const uint8_t *target, size_t size);
void cv_nfs_finish_same_target(struct cv_nfs_req *q, const uint8_t *target, size_t size);
/* Thens of a fetched entry: is it what q was to make, or to link? */
void cv_nfs_check_made(struct cv_nfs_req *q);
void cv_nfs_check_linked(struct cv_nfs_req *q);

/* GETATTR of q->obj into op->attr, then q->then; or q finishes with the error. */
void cv_nfs_fetch_attr(struct cv_nfs_req *q, void (*then)(struct cv_nfs_req *));
/* LOOKUP of q->name in q->dir into op->entry, then q->then; or q finishes with the error. */
void cv_nfs_fetch_entry(struct cv_nfs_req *q, void (*then)(struct cv_nfs_req *));
/* The step in it. */
void cv_nfs_send_lookup(struct cv_nfs_req *q);
void cv_nfs_got_lookup(struct cv_nfs_req *q, int status, struct cv_xdr *x);
/* What q was to make and the server says it has made: see cv_op.empty. */
bool cv_nfs_is_new_dir(const struct cv_nfs_req *q, int status);
/* Results of CREATE, MKDIR, SYMLINK, MKNOD: into op->entry, asking for what they lack. */
void cv_nfs_got_new(struct cv_nfs_req *q, struct cv_xdr *x, void (*then)(struct cv_nfs_req *));

void cv_nfs_lookup(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_nfs_getattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		    struct cv_file *file);
void cv_nfs_setattr(void *conn, struct cv_op *op, const struct cv_object *obj, struct cv_file *file,
		    const struct cv_setattr *set);
void cv_nfs_readlink(void *conn, struct cv_op *op, const struct cv_object *obj);
void cv_nfs_mknod(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		  uint32_t mode, uint64_t rdev);
void cv_nfs_mkdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		  uint32_t mode);
void cv_nfs_symlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    const char *target);
void cv_nfs_link(void *conn, struct cv_op *op, const struct cv_object *obj,
		 const struct cv_object *dir, const char *name);
void cv_nfs_unlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_nfs_rmdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_nfs_rename(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   const struct cv_object *newdir, const char *newname, unsigned flags);
void cv_nfs_statfs(void *conn, struct cv_op *op, const struct cv_object *obj);

/* ---- nfs_file.c ---- */

/* For both versions. */
void cv_nfs_begin_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		       uint64_t off, void (*send)(struct cv_nfs_req *),
		       void (*got)(struct cv_nfs_req *, int, struct cv_xdr *));
void cv_nfs_begin_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
			size_t size_bytes, uint64_t off, void (*send)(struct cv_nfs_req *),
			void (*got)(struct cv_nfs_req *, int, struct cv_xdr *));
/* Size of the piece of a read or write that comes next. */
uint32_t cv_nfs_piece(const struct cv_nfs_req *q, uint32_t max);
/* READ's data: finishes q, or asks for the rest by the same step. */
void cv_nfs_take_data(struct cv_nfs_req *q, const uint8_t *data, size_t size, bool eof);
/* WRITE's count (checked) and verifier: into op, and q->done_bytes. */
void cv_nfs_take_written(struct cv_nfs_req *q, uint32_t count, bool stable, const uint8_t *verf);
/* READDIR: BAD_COOKIE, as the directory has changed; asks again by the same step. */
bool cv_nfs_forgot_cookies(struct cv_nfs_req *q, int status);
/* READDIR: hands on what get finds in the reply, or asks again by the same step. */
typedef void cv_nfs_get_entries_fn(struct cv_nfs_req *q, struct cv_xdr *x,
				   struct cv_nfs_entries *entries);
void cv_nfs_take_entries(struct cv_nfs_req *q, struct cv_xdr *x, cv_nfs_get_entries_fn *get);
void cv_nfs_begin_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off,
			  void (*send)(struct cv_nfs_req *),
			  void (*got)(struct cv_nfs_req *, int, struct cv_xdr *));

void cv_nfs_open(void *conn, struct cv_op *op, const struct cv_object *obj, int flags);
void cv_nfs_create(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   int flags, uint32_t mode);
void cv_nfs_release(void *conn, struct cv_file *file);
void cv_nfs_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		 uint64_t off);
void cv_nfs_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		  size_t size_bytes, uint64_t off);
void cv_nfs_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync);
/* Asks the server. */
void cv_nfs_ask_readdir(struct cv_nfs *nfs, struct cv_op *op, struct cv_file *dir, uint64_t off);
void cv_nfs_opendir(void *conn, struct cv_op *op, const struct cv_object *dir);
void cv_nfs_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off);
void cv_nfs_fsyncdir(void *conn, struct cv_op *op, struct cv_file *dir, bool datasync);

/* ---- nfs_ahead.c ---- */

void cv_nfs_ahead_init(struct cv_nfs *nfs, const struct cv_dict *options, uint32_t rtt_us);
/* Asks no more. What is on its way ends with the transport. */
void cv_nfs_ahead_stop(struct cv_nfs *nfs);
/* A listing from its start, if it is had already, or on its way: then it answers op. */
bool cv_nfs_ahead_take(struct cv_nfs *nfs, struct cv_op *op, struct cv_file *dir);
/* Asks as many as are worth it. */
void cv_nfs_ahead_go(struct cv_nfs *nfs);
/* q, a readdir, has brought these. */
void cv_nfs_ahead_listed(struct cv_nfs_req *q, const struct cv_dirent *list, size_t count);
/* The worker is told these attributes of a directory. */
void cv_nfs_ahead_seen(struct cv_nfs *nfs, const struct cv_handle *handle,
		       const struct cv_attr *attr);
/* Or what it had not seen of any object. */
void cv_nfs_ahead_told(struct cv_nfs *nfs, const struct cv_handle *handle);
bool cv_nfs_ahead_told_since(struct cv_nfs *nfs, const struct cv_handle *handle, uint64_t clock);
/* q is about to change what its operation changes, or has just done so. */
void cv_nfs_ahead_changing(struct cv_nfs_req *q);
/* Have we changed that object since ahead.clock was so? For what is counted in ahead.watched. */
bool cv_nfs_ahead_touched(struct cv_nfs *nfs, const struct cv_handle *handle, uint64_t clock);

/* ---- nfs_first.c ---- */

/* An open of obj by q->flags: q->first_size bytes of it are to be read along. */
void cv_nfs_first_want(struct cv_nfs_req *q, const struct cv_object *obj);
/* They have come for q->obj, whose cv_change() was that: copied. */
void cv_nfs_first_got(struct cv_nfs_req *q, uint64_t change, const uint8_t *data, size_t size,
		      bool eof);
/* The worker is told these attributes of an object. */
void cv_nfs_first_seen(struct cv_nfs *nfs, const struct cv_handle *handle,
		       const struct cv_attr *attr);
/* It is open: what has come is its. */
void cv_nfs_first_give(struct cv_nfs_req *q, struct cv_file *file);
/* It is closed. */
void cv_nfs_first_leave(struct cv_file *file);
/* Takes op, if it can be answered so: true. */
bool cv_nfs_first_read(struct cv_op *op, struct cv_file *file, size_t size, uint64_t off);
/* What has come for q, if anything, is nobody's. */
void cv_nfs_first_forget(struct cv_nfs_req *q);

/* ---- nfs_mount.c ---- */

/* Everything before the first operation; blocking. Fills nfs (rpc included) and info. */
int cv_nfs_mount_export(const struct cv_dict *options, struct cv_nfs *nfs, struct cv_info *info,
			struct cv_err *err);

#endif
