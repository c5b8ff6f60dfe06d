/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the NFS engine: NFSv4. It shares connections, requests and steps with NFSv3 (nfs.h), and
 * adds what the protocol adds. nfs4.c: the way of a compound through a slot of the session, and the
 * table. nfs4_session.c: client, session and lease, and what happens when the server has lost them.
 * nfs4_mount.c: what happens before. nfs4_names.c, nfs4_file.c: the operations, each one compound.
 * nfs40.c: what minor version 0 does differently.
 *
 * A call is exactly-once by its slot and sequence number: the transport repeats it over reconnects
 * bit by bit, and the server answers from the slot. Only a server that has restarted in between has
 * forgotten; then `resent` says so, as with NFSv3, and the refusal is judged in the same way.
 */
#ifndef CV_BACKENDS_NFS4_H
#define CV_BACKENDS_NFS4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/nfs.h"
#include "backends/nfs4_owner.h"
#include "backends/nfs4_xdr.h"

#define CV_NFS4_SLOTS_MAX CV_RPC_WINDOW
#define CV_NFS40_IDLE	  64

struct cv_nfs4_slot {
	uint32_t seq; /* of the next call */
	bool busy;
	bool retired; /* whether its last call was carried out is unknown */
};

/* State that a file holds at the server. */
struct cv_nfs4_open {
	struct cv_nfs4_open *next, *prev;
	struct cv_handle handle;
	struct cv_nfs4_stateid stateid;
	struct cv_nfs4_owner owner; /* each open has its own, so opens do not mix */
	struct cv_cred cred;
	struct cv_nfs4_place *place; /* owned; minor version 0, which opens by name */
	bool stateless;		     /* likewise: goes on without state at the server */
	uint32_t share;		     /* CV_NFS4_SHARE_* */
	uint32_t epoch;		     /* how often it was opened anew */
	bool lost;		     /* to be opened anew */
	bool reclaim; /* it was open when the server restarted: claim it in the grace period */
	int dead;     /* -errno: it could not be had again */
};

/* Where a file was when it was opened; follows our own renames. */
struct cv_nfs4_place {
	struct cv_handle dir;
	char name[CV_NAME_MAX + 1];
};

/* What has to be told of locks that end with an open. */
struct cv_nfs4_lock_state {
	struct cv_nfs4_stateid stateid;
	struct cv_nfs4_owner owner;
};

struct cv_nfs4_range {
	uint64_t start, end; /* the last byte */
	int type;	     /* F_RDLCK, F_WRLCK */
};

/*
 * What one owner has locked of one file: one state at the server, that stands on the open it was
 * begun with. Its calls go one after the other.
 */
struct cv_nfs4_lock {
	struct cv_nfs4_lock *next;
	struct cv_handle handle;
	struct cv_nfs4_open *open; /* what its state stands on; NULL: it has none */
	struct cv_nfs4_owner owner;
	uint64_t kernel_owner;
	bool flock;
	pid_t pid;
	struct cv_nfs4_stateid stateid;
	bool have;		      /* stateid */
	struct cv_nfs4_range *ranges; /* owned; apart, in no order */
	size_t nranges, size;	      /* size: how many there is room for */
	bool lost;		      /* to be claimed again, from here on: */
	size_t claimed;
	bool busy;			  /* a call is on its way */
	struct cv_nfs_req *first, **last; /* waiting for that */
	unsigned polling;		  /* requests that wait for another owner */
};

struct cv_nfs4 {
	struct cv_nfs *nfs;
	unsigned minor;		  /* 1: with sessions; 0: without */
	struct cv_owners *owners; /* owned */
	struct cv_nfs4_names names;
	bool send_names; /* the server does not take numbers as owners */
	uint64_t next_owner;

	uint64_t id;	   /* this mount's, and no other's */
	char client[96];   /* the same, as the server is told */
	uint64_t verifier; /* of this process's life */
	uint64_t clientid;
	uint32_t lease_ms;
	struct cv_timer renew;
	struct cv_op renew_op;
	bool renewing;
	uint64_t renewed_ns; /* last answer to a SEQUENCE */

	uint8_t session[CV_NFS4_SESSION_SIZE];
	uint32_t session_nr; /* counts sessions */
	uint32_t nslots;
	uint32_t limit; /* slots the server wants used: <= nslots */
	struct cv_nfs4_slot slots[CV_NFS4_SLOTS_MAX];
	struct cv_nfs4_channel channel;

	/* For a slot, or for the end of a recovery, or for an owner's turn; in order. */
	struct cv_nfs_req *waiting, **waiting_tail;
	size_t nwaiting;

	/* Minor version 0 */
	size_t on_wire; /* calls that are not answered */
	bool draining;	/* a recovery waits for the last of them */
	bool unsure;	/* whether the server has counted a call of an owner is unknown */
	struct cv_nfs4_owner idle[CV_NFS40_IDLE]; /* confirmed, and with nothing open */
	size_t nidle;
	uint8_t confirm[CV_NFS_VERF_SIZE]; /* of SETCLIENTID */

	struct cv_nfs4_open *opens;
	struct cv_nfs4_lock *locks;

	bool recovering;
	struct cv_op recovery_op;
	struct cv_nfs_req *recovery;
	struct cv_nfs4_open *reopening;
	struct cv_nfs4_lock *relocking;
	unsigned own; /* operations of our own in flight: CLOSE */
	struct cv_op goodbye_op;
};

/* ---- nfs4.c ---- */

/* For what only NFSv4 has; see there. */
extern const struct cv_backend cv_backend_nfs4;

/*
 * Begins a compound. cache: it changes something, so the server keeps its answer. False: q waits
 * (its send is called again), or is finished.
 */
bool cv_nfs4_start(struct cv_nfs_req *q, struct cv_nfs4_call *c, bool cache);
/* The same with what has the numbers of owners (either may be NULL); they are of this client then.
 */
bool cv_nfs4_start_owned(struct cv_nfs_req *q, struct cv_nfs4_call *c,
			 struct cv_nfs4_owner *open_owner, struct cv_nfs4_owner *lock_owner);
/* Sends it. got() is given what follows SEQUENCE's result. */
void cv_nfs4_submit(struct cv_nfs_req *q, struct cv_nfs4_call *c);
/* A compound without a session. */
void cv_nfs4_submit_bare(struct cv_nfs_req *q, struct cv_nfs4_call *c);
/* nfsstat4: a stateid is not good any more. */
bool cv_nfs4_state_is_lost(uint32_t status);
/* nfsstat4 of a compound: it is an answer, not a reason to send it again. */
bool cv_nfs4_is_final(uint32_t status);
/* Lets waiting requests go on, as far as slots and recovery allow. */
void cv_nfs4_pump(struct cv_nfs4 *v4);
/* Finishes all waiting ones. */
void cv_nfs4_fail_waiting(struct cv_nfs4 *v4, int result);
/* Of a request that was given up: its slot cannot be used again. */
void cv_nfs4_drop_slot(struct cv_nfs_req *q);
/* New slots, after a session was made. */
void cv_nfs4_reset_slots(struct cv_nfs4 *v4);

/* ---- nfs4_session.c ---- */

/* NULL: no memory. resume: the identity of a predecessor, whose state will end; NULL: a new one. */
struct cv_nfs4 *cv_nfs4_new(struct cv_nfs *nfs, const char *resume);
/* cv_info.resume */
void cv_nfs4_say_identity(const struct cv_nfs4 *v4, char *ret, size_t size);
/* What still waits, then DESTROY_SESSION, DESTROY_CLIENTID; a second at most, with the loop. */
void cv_nfs4_say_goodbye(struct cv_nfs4 *v4);
void cv_nfs4_free(struct cv_nfs4 *v4); /* after the transport */
/* After the first session was made. */
int cv_nfs4_start_renewing(struct cv_nfs4 *v4);
/* What we ask of a session. */
struct cv_nfs4_channel cv_nfs4_wanted_channel(void);
/* The session is gone (or only opens are lost); waiting requests go on when it is there again. */
void cv_nfs4_recover(struct cv_nfs4 *v4, bool session);
/* Is an open to be opened anew? */
bool cv_nfs4_find_lost(const struct cv_nfs4 *v4);
/* Minor version 0: the last call before a recovery is answered. */
void cv_nfs4_recover_drained(struct cv_nfs4 *v4);
/* The transport itself gives up (soft), so the recovery does: q is finished. */
bool cv_nfs4_recovery_ends(struct cv_nfs_req *q, int status);
/* The server cannot now: the same step later, unless the transport itself gives up. */
void cv_nfs4_recover_later(struct cv_nfs_req *q, int status);
/* The server does not know what we have open: all of it is claimed. */
void cv_nfs4_lose_all(struct cv_nfs4 *v4);
/* open is there again, but its locks; or it is dead (-errno). */
void cv_nfs4_reopened(struct cv_nfs4 *v4, struct cv_nfs4_open *open, int dead);
/* The next step: opens, then their locks. */
void cv_nfs4_reopen_next(struct cv_nfs_req *q);
/* The same for a request of the recovery itself: from the start. */
void cv_nfs4_recover_again(struct cv_nfs_req *q);

/* ---- nfs4_file.c ---- */

/* An owner of opens, or of locks: each has one of its own, so they do not mix. */
void cv_nfs4_new_owner(struct cv_nfs4 *v4, struct cv_nfs4_owner *ret);
/* For an open to be; owner and cred filled in. NULL: no memory. */
struct cv_nfs4_open *cv_nfs4_open_new(struct cv_nfs4 *v4, const struct cv_cred *cred, int flags);
void cv_nfs4_open_free(struct cv_nfs4 *v4, struct cv_nfs4_open *open); /* may be NULL */
/* Closes what is not in the list; nobody waits for it. Takes open. */
void cv_nfs4_close(struct cv_nfs *nfs, struct cv_nfs4_open *open);
/* The server has opened handle with q->v4.made (NULL: without state): op->file, and q is finished.
 */
void cv_nfs4_finish_open(struct cv_nfs_req *q, const struct cv_handle *handle);
/* The READ along with an open (nfs_first.c), behind its GETATTR; and what has come of it. opened:
 * all before it is there. One that fails spoils nothing: returns the status of the open. */
void cv_nfs4_put_first(struct cv_nfs_req *q, struct cv_nfs4_call *c);
int cv_nfs4_take_first(struct cv_nfs_req *q, struct cv_xdr *x, int status, bool opened);
bool cv_nfs4_truncates(int flags);
void cv_nfs4_put_truncate(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid);
/* Opens q->obj without state at the server, if it is there. */
void cv_nfs4_open_stateless(struct cv_nfs_req *q);

/* ---- nfs40.c ---- */

/* May a call with these owners go? False: q waits. */
bool cv_nfs40_may_start(struct cv_nfs_req *q);
void cv_nfs40_sent(struct cv_nfs_req *q, const struct cv_nfs4_call *c);
/* Of what cv_nfs40_sent() was told. status: the transport's; ops, compound: as in the answer. */
void cv_nfs40_answered(struct cv_nfs_req *q, int status, uint32_t ops, uint32_t compound);
/* Does the answer say that we, or our state, are not known any more? */
bool cv_nfs40_is_lost(struct cv_nfs_req *q, uint32_t status);
/* Then, if it is only about what is just being opened: it is opened by another owner, and from the
 * start, when q is sent again. False: it is about more than that. */
bool cv_nfs40_start_over(struct cv_nfs_req *q, uint32_t status);
/* Steps of a recovery. */
void cv_nfs40_begin_recovery(struct cv_nfs_req *q);
void cv_nfs40_send_reopen(struct cv_nfs_req *q);
void cv_nfs40_got_reopen(struct cv_nfs_req *q, int status, struct cv_xdr *x);
/* An owner for an open: one that is idle, or new. */
void cv_nfs40_take_owner(struct cv_nfs4 *v4, struct cv_nfs4_owner *ret);
void cv_nfs40_keep_owner(struct cv_nfs4 *v4, const struct cv_nfs4_owner *owner);
/* False: no memory. */
bool cv_nfs40_set_place(struct cv_nfs4_open *open, const struct cv_handle *dir, const char *name);
/* We have renamed something. */
void cv_nfs40_renamed(struct cv_nfs4 *v4, const struct cv_handle *dir, const char *name,
		      const struct cv_handle *newdir, const char *newname);
/* Opens q->obj, which was last seen as name in dir (may be NULL). */
void cv_nfs40_open(struct cv_nfs_req *q, const struct cv_handle *dir, const char *name);
/* OPEN has been answered well: confirms q->v4.made if the server wants it, then q->then. */
void cv_nfs40_settle(struct cv_nfs_req *q, bool confirm, void (*then)(struct cv_nfs_req *));

/* ---- nfs4_names.c ---- */

/* LOOKUP of q->name in q->dir into op->entry, then q->then; or q finishes with the error. */
void cv_nfs4_fetch_entry(struct cv_nfs_req *q, void (*then)(struct cv_nfs_req *));
/* Asks for the attributes of q->obj. */
void cv_nfs4_send_getattr(struct cv_nfs_req *q);
/* GETATTR, shown as this mount shows it. */
bool cv_nfs4_take_attr(struct cv_nfs_req *q, struct cv_xdr *x, struct cv_attr *ret);
/* GETFH and GETATTR into op->entry. */
bool cv_nfs4_take_entry(struct cv_nfs_req *q, struct cv_xdr *x);
/* GETATTR of a directory that was changed; spoilt it does no harm. */
void cv_nfs4_take_dir(struct cv_nfs_req *q, struct cv_xdr *x, struct cv_dir_after *dir);

void cv_nfs4_lookup(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_nfs4_getattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		     struct cv_file *file);
void cv_nfs4_setattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		     struct cv_file *file, const struct cv_setattr *set);
void cv_nfs4_readlink(void *conn, struct cv_op *op, const struct cv_object *obj);
void cv_nfs4_mknod(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   uint32_t mode, uint64_t rdev);
void cv_nfs4_mkdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   uint32_t mode);
void cv_nfs4_symlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		     const char *target);
void cv_nfs4_link(void *conn, struct cv_op *op, const struct cv_object *obj,
		  const struct cv_object *dir, const char *name);
void cv_nfs4_unlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_nfs4_rmdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void cv_nfs4_rename(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    const struct cv_object *newdir, const char *newname, unsigned flags);
void cv_nfs4_statfs(void *conn, struct cv_op *op, const struct cv_object *obj);

/* ---- nfs4_file.c ---- */

void cv_nfs4_open_file(void *conn, struct cv_op *op, const struct cv_object *obj, int flags);
void cv_nfs4_create(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    int flags, uint32_t mode);
void cv_nfs4_release(void *conn, struct cv_file *file);
void cv_nfs4_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size_bytes,
		  uint64_t off);
void cv_nfs4_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		   size_t size_bytes, uint64_t off);
void cv_nfs4_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync);
/* Asks the server. */
void cv_nfs4_ask_readdir(struct cv_nfs *nfs, struct cv_op *op, struct cv_file *dir, uint64_t off);
void cv_nfs4_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off);

/* ---- nfs4_lock.c ---- */

void cv_nfs4_getlk(void *conn, struct cv_op *op, struct cv_file *file, const struct cv_lock *lock);
void cv_nfs4_setlk(void *conn, struct cv_op *op, struct cv_file *file, const struct cv_lock *lock,
		   bool wait);
/* open is being closed: into states (at most max) those of its locks, which are forgotten. */
size_t cv_nfs4_locks_take(struct cv_nfs4 *v4, const struct cv_nfs4_open *open,
			  struct cv_nfs4_lock_state *states, size_t max);
/* Has it locks? */
bool cv_nfs4_is_locked(const struct cv_nfs4 *v4, const struct cv_nfs4_open *open);
/* A request that has a turn, or waits for one, is done. */
void cv_nfs4_lock_leave(struct cv_nfs_req *q);
void cv_nfs4_locks_free(struct cv_nfs4 *v4);
/* open was opened anew: its locks must be had again, too. */
void cv_nfs4_locks_lost(struct cv_nfs4 *v4, const struct cv_nfs4_open *open);
/* A lock, on an open that is there, of which a range must be claimed again; NULL: none. */
struct cv_nfs4_lock *cv_nfs4_lock_find_lost(const struct cv_nfs4 *v4);
/* The steps of a recovery: claims one range of v4->relocking, then calls q->then. */
void cv_nfs4_relock(struct cv_nfs_req *q, bool reclaim, void (*then)(struct cv_nfs_req *));

#endif
