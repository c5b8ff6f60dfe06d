/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file system a worker serves: its state, and what the operation files share. One FUSE request
 * is one struct cv_request; it starts an engine operation (or a few) and is answered from the
 * completion. fs_ops.c: session, names and attributes; fs_file.c: open files; fs_lock.c: locks;
 * fs_dir.c: listings;
 * hidden.c: unlink of open files. Loop thread only; nothing blocks.
 */
#ifndef CV_FUSE_FS_H
#define CV_FUSE_FS_H

#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>

#include "backends/backend.h"
#include "config/dict.h"
#include "config/err.h"
#include "config/loop.h"
#include "fuse/complete.h"
#include "fuse/makers.h"
#include "fuse/creds.h"
#include "fuse/meter.h"
#include "fuse/nodes.h"
#include "fuse/shm.h"
#include "fuse/writeback.h"

struct cv_fs;
struct cv_request;
struct cv_listing;
struct cv_takeover;

/* An open handle: the private side of a handle record. */
struct cv_open {
	struct cv_handle_record *record;
	uint32_t index;
	struct cv_node *node; /* held */
	/* NULL: a directory nobody has read from yet, or a predecessor's file that could not be
	 * opened again. */
	struct cv_file *file;
	unsigned users; /* requests that use it: an interrupted one outlives its answer */
	struct cv_request *closer; /* the release that waits for them */
	/* directories */
	struct cv_listing *listing;
	struct cv_request *waiting; /* for the listing being fetched */
	bool fetching;
	/* when the first of the attributes its listing has brought must be checked again; 0: it
	 * was not read from the start */
	uint64_t believed_until_ns;
};

struct cv_request {
	struct cv_op op;
	struct cv_wb_waiter waiter;
	struct cv_timer interrupt;
	pid_t exiting_pid; /* cv_request_may_exit(); 0: not */
	uint64_t exiting_from_ns;
	struct cv_fs *fs;
	fuse_req_t req;	      /* NULL once answered */
	struct cv_slot *slot; /* holds the request's bytes; NULL for our own operations */
	struct cv_request *next, **prevp;
	void (*resume)(struct cv_request *r); /* after a drain or a hide */
	struct cv_cred cred;
	struct cv_node *node;	 /* held */
	struct cv_node *node2;	 /* held */
	struct cv_node *victim;	 /* held: what a rename replaces */
	struct cv_open *open;	 /* used: cv_open_hold() */
	struct cv_open *source;	 /* used, too: of a copy to open */
	struct cv_open *closing; /* a release: not counted as a user */
	const char *name;	 /* in the slot, or own_names */
	const char *name2;
	const void *data; /* in the slot */
	size_t size;
	uint64_t off;
	uint64_t source_off;
	struct cv_setattr set;
	struct cv_lock lock;
	struct cv_handle found; /* a lookup's, while its attributes are read again */
	struct fuse_file_info fi;
	uint32_t mode;
	uint64_t rdev;
	int flags;
	char *own_names[2]; /* what outlives the slot of an interrupted request; owned */
	uint64_t clock;	    /* cv_nodes.clock when the request arrived */
	uint64_t fetch_off; /* listings: what is being fetched comes after it */
	bool plus;
	bool then_dir; /* hidden.c: the hidden directory may go after this */
	bool truncating;
	bool kernels_times; /* a setattr of the kernel's own: see op_setattr() */
	bool widened;	    /* asked for reading as well as writing; see fs_file.c */
	bool refreshed;
	bool looked_again; /* listings: for the directory, which was stale */
	bool must_finish;  /* also when its caller is gone: a close, an unlock, a taken write */
	struct {
		bool keep_name; /* link instead of rename */
		bool fallback;	/* in the same directory */
		bool made_dir;
		bool no_replace; /* giving the name back: not in place of another file */
		int error;	 /* what to answer after that */
		char name[64];
	} hide;
	struct cv_request *queue_next; /* of cv_open.waiting */
	uint64_t unique;	       /* the kernel's number */
	uint64_t id;		       /* cv_op.id */
	bool repeated;		       /* cv_op.repeated */
};

struct cv_fs {
	struct cv_loop *loop;
	struct cv_mount mount;
	struct cv_shm shm;
	struct cv_nodes nodes;
	struct cv_complete complete;
	struct cv_makers makers;
	struct cv_creds *creds;
	struct cv_wb *wb;
	struct fuse_session *session;
	int fuse_fd; /* owned by the session */
	struct cv_watch fuse_watch;
	struct cv_takeover
		*takeover; /* NULL: this worker is its mount's first, or has taken over */
	struct cv_timer idle;
	struct cv_timer exits; /* callers that may be exiting: exiting.h */
	pid_t let_go;	       /* the last that was: if exiting, its other files need not wait */
	uint64_t asked_ns;     /* when the server was last asked for a sign of life; 0: never */
	struct cv_meter meter;
	struct cv_slot *current; /* slot of the request being dispatched */
	bool current_taken;
	bool receiving_paused;
	bool answering_init;
	struct cv_request *requests;
	uint64_t request_count;
	uint64_t served;
	bool gone; /* the kernel says nobody uses the mount any more */
	void (*on_gone)(struct cv_fs *fs);

	struct cv_open **opens; /* by handle index */
	uint32_t opens_size;
	uint32_t opens_hint;
	uint32_t opens_count;

	bool write_behind;
	bool writeback_cache; /* the kernel collects written data; sizes and times are its own */
	bool direct_writes;   /* files that are only written pass the page cache by */
	bool local;
	unsigned ttl_file_min_ms, ttl_file_max_ms, ttl_dir_min_ms, ttl_dir_max_ms, ttl_negative_ms;

	struct cv_node *hidden_dir; /* held */
	uint32_t locks_top;	    /* records below may be used */

	uint32_t hidden_count;

	char path[2][CV_PATH_MAX];
};

/* Connected engine in, serving file system out; feeds the saved FUSE_INIT. Takes fuse_fd. */
int cv_fs_start(struct cv_fs *fs, const struct cv_dict *options, int fuse_fd, struct cv_err *err);
/* One request into a slot, and on from there. False: nothing more to read for now. */
bool cv_fs_receive(struct cv_fs *fs, int fuse_fd);
/* Begins a received request. */
void cv_fs_dispatch(struct cv_fs *fs, struct cv_slot *slot);
/* Gives all files back to the engine; what that starts (removal of hidden files) is in flight
 * after. */
void cv_fs_close_handles(struct cv_fs *fs);
/* No operation in flight. */
void cv_fs_release(struct cv_fs *fs);

/* ---- requests ---- */

/* NULL: answered with ENOMEM. The nodeid, if not 0, is resolved and held (else ESTALE is answered).
 */
struct cv_request *cv_request_new(struct cv_fs *fs, fuse_req_t req, fuse_ino_t ino);
/* One without a kernel request, for our own work. */
struct cv_request *cv_request_internal(struct cv_fs *fs);
/* Prepares r->op for an engine call in the caller's name. */
void cv_request_op(struct cv_request *r, void (*done)(struct cv_op *op, ssize_t result));
/* Another operation of the same request. */
void cv_request_name_op(const struct cv_request *r, struct cv_op *op);
/* What cv_op.id is for the request that the kernel calls unique. */
uint64_t cv_request_id(const struct cv_fs *fs, uint64_t unique);
/*
 * r is what a process may also ask for in its exit path, where no INTERRUPT will come: with the
 * server away its caller is let go all the same, and what was asked is done later.
 */
void cv_request_may_exit(struct cv_request *r);
/*
 * For who waits for the server, now and then: does it give no sign of life? A busy one does, when
 * it is asked, as this does; answers to other requests may be found with that. Where there is no
 * server: has nothing been answered for patience_ms?
 */
bool cv_fs_is_away(struct cv_fs *fs, unsigned patience_ms);
/* The thread that waits for r; 0: unknown, or nobody does any more. */
pid_t cv_request_pid(const struct cv_request *r);
void cv_request_end(struct cv_request *r);	  /* everything held is let go */
void cv_reply_err(struct cv_request *r, int err); /* err <= 0; answers and ends */
void cv_reply_attr(struct cv_request *r, struct cv_node *node, const struct cv_attr *attr);
void cv_request_hold2(struct cv_request *r, struct cv_node *node);

#define cv_request_of(op_) cv_container_of(op_, struct cv_request, op)

/* Runs r->resume after the node's pending writes are at level. */
void cv_request_after_drain(struct cv_request *r, struct cv_node *node, enum cv_wb_level level,
			    void (*resume)(struct cv_request *r));

/*
 * The level at which written data cannot be sent again: where writes are unstable, after a COMMIT.
 * For closing, and before anything that cuts data off: sent again it would come back.
 */
enum cv_wb_level cv_fs_settled(const struct cv_fs *fs);

/* Fills obj for an engine call; buffer: 0 or 1. -ESTALE when the node has no name any more. */
int cv_fs_object(struct cv_fs *fs, struct cv_node *node, int buffer, struct cv_object *obj);
/* The same when an open file is at hand: a lost name does not matter. */
int cv_fs_object_open(struct cv_fs *fs, struct cv_node *node, const struct cv_open *open,
		      struct cv_object *obj);

/* ---- attributes (attrs.c) ---- */

void cv_fs_set_ttls(struct cv_fs *fs, const struct cv_dict *options);
/* What people see: numbers, pending size; remembers what the kernel is told. */
void cv_fs_stat(struct cv_fs *fs, struct cv_node *node, const struct cv_attr *attr,
		struct stat *ret_st);
/* How long they are believed, in seconds. */
double cv_fs_ttl(struct cv_fs *fs, const struct cv_attr *attr);
/* attr is the object after all our changes: answers getattr until the server must be asked. */
void cv_fs_know(struct cv_fs *fs, struct cv_node *node, const struct cv_attr *attr);
/* The kernel was told attr, which is that old. Reading a directory makes it forget its atime, and
 * ask for everything. */
void cv_fs_know_dir(struct cv_fs *fs, struct cv_node *node, const struct cv_attr *attr,
		    uint64_t age_ns);
bool cv_fs_known(struct cv_fs *fs, const struct cv_node *node, struct cv_attr *ret_attr,
		 double *ret_ttl);
/* r has changed (or tried to change) the directory's entries; after: what the engine says of it. */
void cv_fs_dir_changed(struct cv_request *r, struct cv_node *dir, const struct cv_dir_after *after);
/* The same for complete.h alone. */
void cv_fs_dir_complete(struct cv_fs *fs, const struct cv_node *dir,
			const struct cv_dir_after *after);
/* Enters the node, counts a lookup, fills e. NULL: out of memory. */
struct cv_node *cv_fs_entry(struct cv_fs *fs, struct cv_node *parent, const char *name,
			    const struct cv_entry *entry, struct fuse_entry_param *e);
/* Is name one of ours, that nobody may see or make? */
bool cv_fs_reserved(const struct cv_fs *fs, const struct cv_node *parent, const char *name);

/* ---- handles (fs_file.c) ---- */

/* For r, which the kernel has to answer; NULL: too many, or out of memory. */
struct cv_open *cv_open_new(struct cv_request *r, struct cv_node *node, struct cv_file *file,
			    int flags, bool is_dir);
/* After a predecessor: its handles, without files; then the files, as requests of our own (their
 * number is returned). A file that cannot be had again stays NULL: ESTALE. */
int cv_opens_restore(struct cv_fs *fs);
uint32_t cv_opens_reopen(struct cv_fs *fs);
struct cv_open *cv_open_get(struct cv_fs *fs, uint64_t fh);
struct cv_open *cv_open_hold(struct cv_open *open);
void cv_open_put(struct cv_open *open); /* the last one lets the waiting release go on */
/* Runs resume(r), which frees open, when no request uses it any more. */
void cv_open_close(struct cv_request *r, struct cv_open *open,
		   void (*resume)(struct cv_request *r));
uint64_t cv_open_fh(const struct cv_open *open);
void cv_open_free(struct cv_fs *fs, struct cv_open *open); /* also the engine's file */
/* The request of an operation on an open file, or directory, as its opener; NULL: answered. */
struct cv_request *cv_request_on_open(fuse_req_t req, const struct fuse_file_info *fi, bool is_dir);
/* The same for giving it back, which works also when the file could not be opened again. */
struct cv_request *cv_request_on_release(fuse_req_t req, const struct fuse_file_info *fi,
					 bool is_dir);
bool cv_open_for_writeback(void *arg, uint32_t handle, struct cv_wb_handle *ret);
/* Do the attributes equal those the kernel was told last? Then its cached pages are good. */
bool cv_fs_unchanged(const struct cv_node *node, const struct cv_attr *attr);
/* Has the kernel been told others since cv_nodes.clock was so? attr must not take it back then. */
bool cv_fs_told_else(const struct cv_node *node, const struct cv_attr *attr, uint64_t clock);
/* All that was written is on the server: our own writes do not make the kernel's pages stale. */
void cv_fs_written(struct cv_fs *fs, struct cv_node *node);

void cv_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void cv_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		  struct fuse_file_info *fi);
void cv_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void cv_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		 struct fuse_file_info *fi);
void cv_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void cv_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void cv_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void cv_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length,
		     struct fuse_file_info *fi);
void cv_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void cv_op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
			   struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
			   struct fuse_file_info *fi_out, size_t size, int flags);

/* ---- locks (fs_lock.c) ---- */

void cv_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *l);
void cv_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *l,
		 int sleep);
void cv_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op);
/* Of a handle that goes away: the engine releases what was locked through it. */
void cv_locks_forget(struct cv_fs *fs, uint32_t handle);
/* A successor, of an owner that is gone: not restored. */
void cv_locks_drop(struct cv_fs *fs, uint64_t node, uint64_t owner, bool flock);
/* A successor: asks for all of them again. Returns their number. */
uint32_t cv_locks_restore(struct cv_fs *fs);
/* A process (owner) closes r->open's file: its fcntl(2) locks of it go. Then resume(r). */
void cv_fs_unlock_closed(struct cv_request *r, uint64_t owner,
			 void (*resume)(struct cv_request *r));

/* ---- directories (fs_dir.c) ---- */

void cv_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void cv_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		   struct fuse_file_info *fi);
void cv_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi);
void cv_op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void cv_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void cv_listing_free(struct cv_listing *listing);

/* ---- hidden.c ---- */

/*
 * Must dir/name be kept under a hidden name because the object is open and would not outlive its
 * last name? Calls done(r), maybe at once; r->victim is the object then, held, or NULL.
 */
void cv_hidden_find(struct cv_request *r, struct cv_node *dir, const char *name,
		    void (*done)(struct cv_request *r));
/*
 * Gives victim, which r finds in dir, a hidden name; keep_name: an additional one. Then calls
 * done(r, 0 or -errno). r->cred is the caller's.
 */
void cv_hidden_hide(struct cv_request *r, struct cv_node *dir, struct cv_node *victim,
		    bool keep_name, void (*done)(struct cv_request *r, int result));
/* After the operation that took the name away. */
void cv_hidden_taken(struct cv_request *r, struct cv_node *victim);
/* The rename that should have replaced it failed with err: undoes the hide, then answers r. */
void cv_hidden_undo(struct cv_request *r, int err);
/* After a predecessor: its hidden files that nobody has open are removed. */
void cv_hidden_restore(struct cv_fs *fs);
/* The last handle is gone: the object can go, too. */
void cv_hidden_remove(struct cv_fs *fs, struct cv_node *node, const struct cv_cred *cred);

#define CV_HIDDEN_NAME ".cvol-unlinked"

#endif
