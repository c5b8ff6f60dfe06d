/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NFSv4 on the wire: minor version 1 (RFC 8881, XDR in RFC 5662) and 0 (RFC 7530, RFC 7531). A call
 * is a compound: cv_nfs4_begin(), operations in order, cv_nfs4_end(). Results are decoded in the
 * same order, bounded, straight from the reply. Knows nothing of connections, sessions' life or
 * requests.
 */
#ifndef CV_BACKENDS_NFS4_XDR_H
#define CV_BACKENDS_NFS4_XDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/backend.h"
#include "backends/nfs_xdr.h"
#include "backends/xdr.h"

#define CV_NFS4_VERSION	     4
#define CV_NFS4_COMPOUND     1 /* the procedure; 0 is NULL */
#define CV_NFS4_FH_MAX	     128
#define CV_NFS4_SESSION_SIZE 16
#define CV_NFS4_OTHER_SIZE   12
#define CV_NFS4_OWNER_MAX    32		/* bytes of our open and lock owners */
#define CV_NFS4_NAME_MAX     256	/* bytes of an owner@domain, terminated */
#define CV_NFS4_OVERHEAD     1024	/* room for all but the data of a READ or WRITE */
#define CV_NFS4_TO_EOF	     UINT64_MAX /* length of a lock */

enum cv_nfs4_op {
	CV_NFS4_ACCESS = 3,
	CV_NFS4_CLOSE = 4,
	CV_NFS4_COMMIT = 5,
	CV_NFS4_CREATE = 6,
	CV_NFS4_GETATTR = 9,
	CV_NFS4_GETFH = 10,
	CV_NFS4_LINK = 11,
	CV_NFS4_LOCK = 12,
	CV_NFS4_LOCKT = 13,
	CV_NFS4_LOCKU = 14,
	CV_NFS4_LOOKUP = 15,
	CV_NFS4_NVERIFY = 17,
	CV_NFS4_OPEN = 18,
	CV_NFS4_OPEN_CONFIRM = 20, /* minor version 0 */
	CV_NFS4_PUTFH = 22,
	CV_NFS4_PUTROOTFH = 24,
	CV_NFS4_READ = 25,
	CV_NFS4_READDIR = 26,
	CV_NFS4_READLINK = 27,
	CV_NFS4_REMOVE = 28,
	CV_NFS4_RENAME = 29,
	CV_NFS4_RENEW = 30, /* minor version 0 */
	CV_NFS4_RESTOREFH = 31,
	CV_NFS4_SAVEFH = 32,
	CV_NFS4_SETATTR = 34,
	CV_NFS4_SETCLIENTID = 35,	  /* minor version 0 */
	CV_NFS4_SETCLIENTID_CONFIRM = 36, /* likewise */
	CV_NFS4_VERIFY = 37,
	CV_NFS4_WRITE = 38,
	CV_NFS4_RELEASE_LOCKOWNER = 39, /* minor version 0 */
	CV_NFS4_EXCHANGE_ID = 42,
	CV_NFS4_CREATE_SESSION = 43,
	CV_NFS4_DESTROY_SESSION = 44,
	CV_NFS4_FREE_STATEID = 45,
	CV_NFS4_SEQUENCE = 53,
	CV_NFS4_DESTROY_CLIENTID = 57,
	CV_NFS4_RECLAIM_COMPLETE = 58,
};

/* nfsstat4, where the engine decides by it */
enum cv_nfs4_status {
	CV_NFS4_OK = 0,
	CV_NFS4ERR_EXIST = 17,
	CV_NFS4ERR_SERVERFAULT = 10006,
	CV_NFS4ERR_DELAY = 10008,
	CV_NFS4ERR_SAME = 10009,
	CV_NFS4ERR_DENIED = 10010,
	CV_NFS4ERR_EXPIRED = 10011,
	CV_NFS4ERR_GRACE = 10013,
	CV_NFS4ERR_RESOURCE = 10018,
	CV_NFS4ERR_MOVED = 10019,
	CV_NFS4ERR_NOFILEHANDLE = 10020,
	CV_NFS4ERR_MINOR_VERS_MISMATCH = 10021,
	CV_NFS4ERR_STALE_CLIENTID = 10022,
	CV_NFS4ERR_STALE_STATEID = 10023,
	CV_NFS4ERR_OLD_STATEID = 10024,
	CV_NFS4ERR_BAD_STATEID = 10025,
	CV_NFS4ERR_BAD_SEQID = 10026,
	CV_NFS4ERR_NOT_SAME = 10027,
	CV_NFS4ERR_NO_GRACE = 10033,
	CV_NFS4ERR_RECLAIM_BAD = 10034,
	CV_NFS4ERR_RECLAIM_CONFLICT = 10035,
	CV_NFS4ERR_BADXDR = 10036,
	CV_NFS4ERR_OPENMODE = 10038,
	CV_NFS4ERR_BADOWNER = 10039,
	CV_NFS4ERR_ADMIN_REVOKED = 10047,
	CV_NFS4ERR_BADSESSION = 10052,
	CV_NFS4ERR_BADSLOT = 10053,
	CV_NFS4ERR_COMPLETE_ALREADY = 10054,
	CV_NFS4ERR_CONN_NOT_BOUND = 10055,
	CV_NFS4ERR_SEQ_MISORDERED = 10063,
	CV_NFS4ERR_RETRY_UNCACHED = 10068,
	CV_NFS4ERR_SEQ_FALSE_RETRY = 10076,
	CV_NFS4ERR_BAD_HIGH_SLOT = 10077,
	CV_NFS4ERR_DEADSESSION = 10078,
	CV_NFS4ERR_DELEG_REVOKED = 10087,
};

enum cv_nfs4_share { CV_NFS4_SHARE_READ = 1, CV_NFS4_SHARE_WRITE = 2 };
enum cv_nfs4_locktype { CV_NFS4_READ_LT = 1, CV_NFS4_WRITE_LT = 2 };

struct cv_nfs4_stateid {
	uint32_t seq;
	uint8_t other[CV_NFS4_OTHER_SIZE];
};
extern const struct cv_nfs4_stateid cv_nfs4_anonymous; /* for who has none */
extern const struct cv_nfs4_stateid cv_nfs4_current;   /* the one of the operation before */

struct cv_nfs4_owner { /* of an open, or of locks */
	uint64_t clientid;
	uint8_t size;
	uint8_t data[CV_NFS4_OWNER_MAX];
	/* Minor version 0, where its calls are numbered and go one after the other: */
	uint32_t seq;	/* of the next one; always 0 in a session, which does that itself */
	bool busy;	/* one is on its way */
	bool confirmed; /* the server has seen that it is not an old one, come late */
};

struct cv_nfs4_seq { /* SEQUENCE's arguments */
	uint8_t session[CV_NFS4_SESSION_SIZE];
	uint32_t seq, slot, highest;
	bool cache; /* the reply matters: not idempotent */
};

struct cv_nfs4_channel { /* a session's limits, bytes and counts */
	uint32_t max_request, max_response, max_cached, max_ops, max_slots;
};

/* ---- arguments ---- */

struct cv_nfs4_call {
	struct cv_nfs_args a;
	struct cv_xdr_out x;
	unsigned minor;
	uint32_t ops;
	size_t owner_at; /* where the owner of its OPEN is; 0: it has none */
	uint32_t
		numbered; /* how many they were with the last that has an owner's number; 0: none */
};

/* What SEQUENCE says of a compound's way through the session, in its arguments, and an open owner
 * of ours: bytes. */
#define CV_NFS4_SEQ_AT	   16
#define CV_NFS4_SEQ_SIZE   (CV_NFS4_SESSION_SIZE + 12)
#define CV_NFS4_OWNER_SIZE 20

/* seq NULL: a compound outside of a session. */
void cv_nfs4_begin(struct cv_nfs4_call *c, unsigned minor, const struct cv_nfs4_seq *seq);
/* The same compound with another sequence number. */
void cv_nfs4_renumber(struct cv_nfs4_call *c, uint32_t seq);
void cv_nfs4_end(struct cv_nfs4_call *c); /* c->a is ready; a.size 0: did not fit */

/* CLOSE's relatives without arguments: GETFH, PUTROOTFH, READLINK, RESTOREFH, SAVEFH */
void cv_nfs4_put_op(struct cv_nfs4_call *c, enum cv_nfs4_op op);
void cv_nfs4_put_fh(struct cv_nfs4_call *c, const struct cv_handle *h);
void cv_nfs4_put_lookup(struct cv_nfs4_call *c, const char *name);
/* Goes on if the current object is a directory: else NOT_SAME; or if it is none: else SAME. */
void cv_nfs4_put_check_dir(struct cv_nfs4_call *c, bool is_dir);
void cv_nfs4_put_remove(struct cv_nfs4_call *c, const char *name);
void cv_nfs4_put_getattr(struct cv_nfs4_call *c); /* what cv_nfs4_get_attr() decodes */
void cv_nfs4_put_getstatfs(struct cv_nfs4_call *c);
void cv_nfs4_put_getlimits(struct cv_nfs4_call *c);
/* owner, group: strings for CV_SET_UID, CV_SET_GID. */
void cv_nfs4_put_setattr(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid,
			 const struct cv_setattr *set, const char *owner, const char *group);
void cv_nfs4_put_read(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid, uint64_t off,
		      uint32_t count);
/* sync: FILE_SYNC, else UNSTABLE. The transport inserts the data after what has been put so far. */
void cv_nfs4_put_write(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid, uint64_t off,
		       uint32_t count, bool sync);
void cv_nfs4_put_commit(struct cv_nfs4_call *c);
void cv_nfs4_put_readdir(struct cv_nfs4_call *c, uint64_t cookie, const void *verf, uint32_t count);
/* A directory, link (target) or special file. */
void cv_nfs4_put_create(struct cv_nfs4_call *c, const char *name, uint32_t mode, uint64_t rdev,
			const char *target);
void cv_nfs4_put_rename(struct cv_nfs4_call *c, const char *name, const char *newname);
void cv_nfs4_put_link(struct cv_nfs4_call *c, const char *name);
/* share: CV_NFS4_SHARE_*. How it is named: by the current handle, by a name in that, or created in
 * it. Minor version 0 does not have the first. */
void cv_nfs4_put_open(struct cv_nfs4_call *c, uint32_t share, const struct cv_nfs4_owner *owner);
void cv_nfs4_put_open_name(struct cv_nfs4_call *c, uint32_t share,
			   const struct cv_nfs4_owner *owner, const char *name);
void cv_nfs4_put_open_reclaim(struct cv_nfs4_call *c, uint32_t share,
			      const struct cv_nfs4_owner *owner);
/* truncate: what is there already, and not guarded. */
void cv_nfs4_put_open_create(struct cv_nfs4_call *c, uint32_t share,
			     const struct cv_nfs4_owner *owner, bool guarded, bool truncate,
			     uint32_t mode, const char *name);
void cv_nfs4_put_open_confirm(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid,
			      const struct cv_nfs4_owner *owner);
void cv_nfs4_put_close(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid,
		       const struct cv_nfs4_owner *owner);
void cv_nfs4_put_free_stateid(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid);
/* Minor version 0: it has no locks any more, on any file. */
void cv_nfs4_put_release_lockowner(struct cv_nfs4_call *c, const struct cv_nfs4_owner *owner);
/* The first lock of an owner on a file stands on an open's state, the others on the lock's own. */
void cv_nfs4_put_first_lock(struct cv_nfs4_call *c, enum cv_nfs4_locktype type, bool reclaim,
			    uint64_t off, uint64_t length,
			    const struct cv_nfs4_stateid *open_stateid,
			    const struct cv_nfs4_owner *open_owner,
			    const struct cv_nfs4_owner *owner);
void cv_nfs4_put_lock(struct cv_nfs4_call *c, enum cv_nfs4_locktype type, bool reclaim,
		      uint64_t off, uint64_t length, const struct cv_nfs4_stateid *stateid,
		      const struct cv_nfs4_owner *owner);
void cv_nfs4_put_lockt(struct cv_nfs4_call *c, enum cv_nfs4_locktype type, uint64_t off,
		       uint64_t length, const struct cv_nfs4_owner *owner);
void cv_nfs4_put_locku(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid,
		       const struct cv_nfs4_owner *owner, uint64_t off, uint64_t length);
void cv_nfs4_put_exchange_id(struct cv_nfs4_call *c, const void *verifier, const char *owner);
void cv_nfs4_put_create_session(struct cv_nfs4_call *c, uint64_t clientid, uint32_t seq,
				const struct cv_nfs4_channel *wanted);
void cv_nfs4_put_destroy_session(struct cv_nfs4_call *c, const void *session);
void cv_nfs4_put_destroy_clientid(struct cv_nfs4_call *c, uint64_t clientid);
void cv_nfs4_put_reclaim_complete(struct cv_nfs4_call *c);
/* Minor version 0: in place of the last five. */
void cv_nfs4_put_setclientid(struct cv_nfs4_call *c, const void *verifier, const char *owner);
void cv_nfs4_put_setclientid_confirm(struct cv_nfs4_call *c, uint64_t clientid,
				     const uint8_t confirm[CV_NFS_VERF_SIZE]);
void cv_nfs4_put_renew(struct cv_nfs4_call *c, uint64_t clientid);

/* ---- results; each leaves x->bad set when something does not fit ---- */

int cv_nfs4_errno(uint32_t status); /* nfsstat4 → 0 or -errno */

/* The head of a reply: COMPOUND4res up to its first operation. Returns nfsstat4. *ret_ops: how many
 * operations were carried out, the one that failed included; may be NULL. */
uint32_t cv_nfs4_get_compound(struct cv_xdr *x, uint32_t *ret_ops);
/* The head of an operation's result. Returns its nfsstat4; bad unless it is op's. */
uint32_t cv_nfs4_get_op(struct cv_xdr *x, enum cv_nfs4_op op);
/* Past a successful result without a body. */
bool cv_nfs4_skip(struct cv_xdr *x, enum cv_nfs4_op op);

struct cv_nfs4_seq_reply {
	uint32_t seq, slot, highest, target, flags;
};
void cv_nfs4_get_sequence(struct cv_xdr *x, struct cv_nfs4_seq_reply *ret);

/* Owners come as text; names: who turns it into numbers. */
struct cv_nfs4_names {
	uint32_t (*uid)(void *arg, const char *name);
	uint32_t (*gid)(void *arg, const char *name);
	void *arg;
	uint64_t fsid[2]; /* of the mount's root: inode numbers of others are told apart */
	bool have_fsid;
};
/* From here on results with their heads: true when it was successful and is whole. */
bool cv_nfs4_get_attr(struct cv_xdr *x, struct cv_nfs4_names *names, struct cv_attr *ret);
bool cv_nfs4_get_fh(struct cv_xdr *x, struct cv_handle *ret);
bool cv_nfs4_get_statfs(struct cv_xdr *x, struct statvfs *ret);
struct cv_nfs4_limits {
	uint32_t lease_s, name_max, read_max, write_max;
	bool case_insensitive; /* also if the server does not say */
	struct timespec granularity;
};
bool cv_nfs4_get_limits(struct cv_xdr *x, struct cv_nfs4_limits *ret);
/* change_info4, without a head: the change attribute before if that is certain, else 0. */
uint64_t cv_nfs4_get_change(struct cv_xdr *x);
/* OPEN after its head. *ret_before: as above. Returns whether it has to be confirmed (version 0).
 */
bool cv_nfs4_get_open(struct cv_xdr *x, struct cv_nfs4_stateid *ret, uint64_t *ret_before);
void cv_nfs4_get_stateid(struct cv_xdr *x, struct cv_nfs4_stateid *ret);
void cv_nfs4_skip_bitmap(struct cv_xdr *x);
struct cv_nfs4_denied {
	uint64_t off, length;
	uint32_t type; /* enum cv_nfs4_locktype */
	struct cv_nfs4_owner owner;
};
void cv_nfs4_get_denied(struct cv_xdr *x, struct cv_nfs4_denied *ret);
/* READDIR after its head, as cv_nfs_get_entries(). */
void cv_nfs4_get_entries(struct cv_xdr *x, struct cv_nfs4_names *names,
			 struct cv_nfs_entries *entries, uint8_t verf[CV_NFS_VERF_SIZE]);
struct cv_nfs4_client {
	uint64_t id;
	uint32_t seq;
	bool confirmed; /* the server knows us: our state is still there */
};
bool cv_nfs4_get_exchange_id(struct cv_xdr *x, struct cv_nfs4_client *ret);
bool cv_nfs4_get_setclientid(struct cv_xdr *x, uint64_t *ret_clientid,
			     uint8_t confirm[CV_NFS_VERF_SIZE]);
bool cv_nfs4_get_create_session(struct cv_xdr *x, uint8_t session[CV_NFS4_SESSION_SIZE],
				struct cv_nfs4_channel *ret);

#endif
