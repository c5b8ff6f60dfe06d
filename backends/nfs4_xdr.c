/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/nfs4_xdr.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* Attribute numbers (RFC 8881, 5.6 and 5.7) */
enum attr {
	A_TYPE = 1,
	A_CHANGE = 3,
	A_SIZE = 4,
	A_FSID = 8,
	A_LEASE = 10,
	A_RDATTR_ERROR = 11,
	A_CASE_INSENSITIVE = 16,
	A_FILEHANDLE = 19,
	A_FILEID = 20,
	A_FILES_AVAIL = 21,
	A_FILES_FREE = 22,
	A_FILES_TOTAL = 23,
	A_MAXNAME = 29,
	A_MAXREAD = 30,
	A_MAXWRITE = 31,
	A_MODE = 33,
	A_NUMLINKS = 35,
	A_OWNER = 36,
	A_OWNER_GROUP = 37,
	A_RAWDEV = 41,
	A_SPACE_AVAIL = 42,
	A_SPACE_FREE = 43,
	A_SPACE_TOTAL = 44,
	A_SPACE_USED = 45,
	A_TIME_ACCESS = 47,
	A_TIME_ACCESS_SET = 48,
	A_TIME_DELTA = 51,
	A_TIME_METADATA = 52,
	A_TIME_MODIFY = 53,
	A_TIME_MODIFY_SET = 54,
};
#define BIT(a)	   (1ull << (a)) /* all of ours lie below 64 */
#define BITMAP_MAX 8		 /* words: more is no bitmap */

#define ATTRS                                                                                      \
	(BIT(A_TYPE) | BIT(A_CHANGE) | BIT(A_SIZE) | BIT(A_FSID) | BIT(A_FILEID) | BIT(A_MODE) |   \
	 BIT(A_NUMLINKS) | BIT(A_OWNER) | BIT(A_OWNER_GROUP) | BIT(A_RAWDEV) | BIT(A_SPACE_USED) | \
	 BIT(A_TIME_ACCESS) | BIT(A_TIME_METADATA) | BIT(A_TIME_MODIFY))
/* Without these there is nothing to show. */
#define ATTRS_NEEDED (BIT(A_TYPE) | BIT(A_SIZE))
#define ENTRY_ATTRS  (ATTRS | BIT(A_RDATTR_ERROR) | BIT(A_FILEHANDLE))
#define STATFS_ATTRS                                                                               \
	(BIT(A_FILES_AVAIL) | BIT(A_FILES_FREE) | BIT(A_FILES_TOTAL) | BIT(A_SPACE_AVAIL) |        \
	 BIT(A_SPACE_FREE) | BIT(A_SPACE_TOTAL))
#define LIMIT_ATTRS                                                                                \
	(BIT(A_LEASE) | BIT(A_CASE_INSENSITIVE) | BIT(A_MAXNAME) | BIT(A_MAXREAD) |                \
	 BIT(A_MAXWRITE) | BIT(A_TIME_DELTA))

#define EXCHANGE_USE_NON_PNFS 0x00010000u
#define EXCHANGE_CONFIRMED    0x80000000u
#define SHARE_NO_DELEGATION   0x0400u
#define CALLBACK_PROGRAM      0x40000000u /* never called: there is no back channel */
#define OPEN_CONFIRM_WANTED   2u
#define NOBODY		      65534u

enum { OPEN_NOCREATE = 0, OPEN_CREATE = 1 };
enum { CREATE_UNCHECKED = 0, CREATE_GUARDED = 1 };
enum { CLAIM_NULL = 0, CLAIM_PREVIOUS = 1, CLAIM_FH = 4 };
enum { NF4REG = 1, NF4DIR = 2, NF4BLK = 3, NF4CHR = 4, NF4LNK = 5, NF4SOCK = 6, NF4FIFO = 7 };

const struct cv_nfs4_stateid cv_nfs4_anonymous;
const struct cv_nfs4_stateid cv_nfs4_current = { .seq = 1 };

/* ---- compounds ---- */

static const size_t count_at = 8; /* after the empty tag and the minor version */
static const size_t seq_at = CV_NFS4_SEQ_AT + CV_NFS4_SESSION_SIZE; /* after the session */

void cv_nfs4_begin(struct cv_nfs4_call *c, unsigned minor, const struct cv_nfs4_seq *seq)
{
	c->minor = minor;
	c->ops = c->numbered = 0;
	c->owner_at = 0;
	c->a.size = 0;
	c->x = cv_xdr_out_init(c->a.bytes, sizeof(c->a.bytes));
	cv_xdr_put_u32(&c->x, 0); /* tag: "" */
	cv_xdr_put_u32(&c->x, minor);
	cv_xdr_put_u32(&c->x, 0); /* number of operations, filled in at the end */
	if (!seq)
		return;
	cv_nfs4_put_op(c, CV_NFS4_SEQUENCE);
	cv_xdr_put_fixed(&c->x, seq->session, sizeof(seq->session));
	cv_xdr_put_u32(&c->x, seq->seq);
	cv_xdr_put_u32(&c->x, seq->slot);
	cv_xdr_put_u32(&c->x, seq->highest);
	cv_xdr_put_u32(&c->x, seq->cache);
}

void cv_nfs4_renumber(struct cv_nfs4_call *c, uint32_t seq)
{
	struct cv_xdr_out at = cv_xdr_out_init(c->a.bytes + seq_at, 4);

	cv_xdr_put_u32(&at, seq);
}

void cv_nfs4_end(struct cv_nfs4_call *c)
{
	struct cv_xdr_out count = cv_xdr_out_init(c->a.bytes + count_at, 4);

	cv_xdr_put_u32(&count, c->ops);
	c->a.size = c->x.bad ? 0 : (size_t)(c->x.p - c->a.bytes);
}

void cv_nfs4_put_op(struct cv_nfs4_call *c, enum cv_nfs4_op op)
{
	c->ops++;
	cv_xdr_put_u32(&c->x, op);
}

/* ---- pieces ---- */

static void put_text(struct cv_xdr_out *x, const char *text)
{
	cv_xdr_put_opaque(x, text, strlen(text));
}

static void put_bitmap(struct cv_xdr_out *x, uint64_t bits)
{
	cv_xdr_put_u32(x, 2);
	cv_xdr_put_u32(x, (uint32_t)bits);
	cv_xdr_put_u32(x, (uint32_t)(bits >> 32));
}

/* Of one of our own: 0 means the latest (8.2.2). Minor version 0 wants it as it came. */
static void put_stateid(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *s)
{
	bool whole = c->minor == 0 || s == &cv_nfs4_anonymous || s == &cv_nfs4_current;

	cv_xdr_put_u32(&c->x, whole ? s->seq : 0);
	cv_xdr_put_fixed(&c->x, s->other, sizeof(s->other));
}

static void put_number(struct cv_nfs4_call *c, const struct cv_nfs4_owner *o)
{
	c->numbered = c->ops;
	cv_xdr_put_u32(&c->x, o->seq);
}

static void put_owner(struct cv_xdr_out *x, const struct cv_nfs4_owner *o)
{
	cv_xdr_put_u64(x, o->clientid);
	cv_xdr_put_opaque(x, o->data, o->size);
}

/* settime4 */
static void put_time(struct cv_xdr_out *x, bool now, const struct timespec *ts)
{
	cv_xdr_put_u32(x, !now);
	if (now)
		return;
	cv_xdr_put_u64(x, (uint64_t)(int64_t)ts->tv_sec);
	cv_xdr_put_u32(x, (uint32_t)ts->tv_nsec);
}

static void put_fattr(struct cv_xdr_out *x, const struct cv_setattr *set, const char *owner,
		      const char *group)
{
	const unsigned atime = CV_SET_ATIME | CV_SET_ATIME_NOW;
	const unsigned mtime = CV_SET_MTIME | CV_SET_MTIME_NOW;
	uint8_t buf[2 * CV_NFS4_NAME_MAX + 128];
	struct cv_xdr_out v = cv_xdr_out_init(buf, sizeof(buf));
	uint64_t bits = 0;

	/* In the order of their numbers. */
	if (set->mask & CV_SET_SIZE) {
		bits |= BIT(A_SIZE);
		cv_xdr_put_u64(&v, set->size);
	}
	if (set->mask & CV_SET_MODE) {
		bits |= BIT(A_MODE);
		cv_xdr_put_u32(&v, set->mode & 07777);
	}
	if (set->mask & CV_SET_UID) {
		bits |= BIT(A_OWNER);
		put_text(&v, owner);
	}
	if (set->mask & CV_SET_GID) {
		bits |= BIT(A_OWNER_GROUP);
		put_text(&v, group);
	}
	if (set->mask & atime) {
		bits |= BIT(A_TIME_ACCESS_SET);
		put_time(&v, set->mask & CV_SET_ATIME_NOW, &set->atime);
	}
	if (set->mask & mtime) {
		bits |= BIT(A_TIME_MODIFY_SET);
		put_time(&v, set->mask & CV_SET_MTIME_NOW, &set->mtime);
	}
	put_bitmap(x, bits);
	cv_xdr_put_opaque(x, buf, (size_t)(v.p - buf));
	x->bad = x->bad || v.bad;
}

static void put_mode(struct cv_xdr_out *x, uint32_t mode)
{
	const struct cv_setattr set = { .mask = CV_SET_MODE, .mode = mode & 07777 };

	put_fattr(x, &set, NULL, NULL);
}

/* ---- operations ---- */

void cv_nfs4_put_fh(struct cv_nfs4_call *c, const struct cv_handle *h)
{
	cv_nfs4_put_op(c, CV_NFS4_PUTFH);
	cv_xdr_put_opaque(&c->x, h->data, h->size);
}

static void put_named(struct cv_nfs4_call *c, enum cv_nfs4_op op, const char *name)
{
	cv_nfs4_put_op(c, op);
	put_text(&c->x, name);
}

void cv_nfs4_put_lookup(struct cv_nfs4_call *c, const char *name)
{
	put_named(c, CV_NFS4_LOOKUP, name);
}

void cv_nfs4_put_check_dir(struct cv_nfs4_call *c, bool is_dir)
{
	uint32_t type = htonl(NF4DIR);

	cv_nfs4_put_op(c, is_dir ? CV_NFS4_VERIFY : CV_NFS4_NVERIFY);
	put_bitmap(&c->x, BIT(A_TYPE));
	cv_xdr_put_opaque(&c->x, &type, sizeof(type));
}

void cv_nfs4_put_remove(struct cv_nfs4_call *c, const char *name)
{
	put_named(c, CV_NFS4_REMOVE, name);
}

void cv_nfs4_put_link(struct cv_nfs4_call *c, const char *name)
{
	put_named(c, CV_NFS4_LINK, name);
}

void cv_nfs4_put_rename(struct cv_nfs4_call *c, const char *name, const char *newname)
{
	put_named(c, CV_NFS4_RENAME, name);
	put_text(&c->x, newname);
}

static void put_getattr(struct cv_nfs4_call *c, uint64_t bits)
{
	cv_nfs4_put_op(c, CV_NFS4_GETATTR);
	put_bitmap(&c->x, bits);
}

void cv_nfs4_put_getattr(struct cv_nfs4_call *c)
{
	put_getattr(c, ATTRS);
}

void cv_nfs4_put_getstatfs(struct cv_nfs4_call *c)
{
	put_getattr(c, STATFS_ATTRS);
}

void cv_nfs4_put_getlimits(struct cv_nfs4_call *c)
{
	put_getattr(c, LIMIT_ATTRS);
}

void cv_nfs4_put_setattr(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid,
			 const struct cv_setattr *set, const char *owner, const char *group)
{
	cv_nfs4_put_op(c, CV_NFS4_SETATTR);
	put_stateid(c, stateid);
	put_fattr(&c->x, set, owner, group);
}

void cv_nfs4_put_read(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid, uint64_t off,
		      uint32_t count)
{
	cv_nfs4_put_op(c, CV_NFS4_READ);
	put_stateid(c, stateid);
	cv_xdr_put_u64(&c->x, off);
	cv_xdr_put_u32(&c->x, count);
}

void cv_nfs4_put_write(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid, uint64_t off,
		       uint32_t count, bool sync)
{
	cv_nfs4_put_op(c, CV_NFS4_WRITE);
	put_stateid(c, stateid);
	cv_xdr_put_u64(&c->x, off);
	cv_xdr_put_u32(&c->x, sync ? CV_NFS_STABLE : 0); /* FILE_SYNC4, UNSTABLE4 */
	cv_xdr_put_u32(&c->x, count);
}

void cv_nfs4_put_commit(struct cv_nfs4_call *c)
{
	cv_nfs4_put_op(c, CV_NFS4_COMMIT);
	cv_xdr_put_u64(&c->x, 0); /* the whole file */
	cv_xdr_put_u32(&c->x, 0);
}

void cv_nfs4_put_readdir(struct cv_nfs4_call *c, uint64_t cookie, const void *verf, uint32_t count)
{
	cv_nfs4_put_op(c, CV_NFS4_READDIR);
	cv_xdr_put_u64(&c->x, cookie);
	cv_xdr_put_fixed(&c->x, verf, CV_NFS_VERF_SIZE);
	cv_xdr_put_u32(&c->x, count); /* dircount: a hint */
	cv_xdr_put_u32(&c->x, count);
	put_bitmap(&c->x, ENTRY_ATTRS);
}

void cv_nfs4_put_create(struct cv_nfs4_call *c, const char *name, uint32_t mode, uint64_t rdev,
			const char *target)
{
	cv_nfs4_put_op(c, CV_NFS4_CREATE);
	switch (mode & S_IFMT) {
	case S_IFLNK:
		cv_xdr_put_u32(&c->x, NF4LNK);
		put_text(&c->x, target);
		mode = 0777;
		break;
	case S_IFCHR:
	case S_IFBLK:
		cv_xdr_put_u32(&c->x, S_ISCHR(mode) ? NF4CHR : NF4BLK);
		cv_xdr_put_u32(&c->x, major((dev_t)rdev));
		cv_xdr_put_u32(&c->x, minor((dev_t)rdev));
		break;
	case S_IFDIR:
		cv_xdr_put_u32(&c->x, NF4DIR);
		break;
	default:
		cv_xdr_put_u32(&c->x, S_ISSOCK(mode) ? NF4SOCK : NF4FIFO);
		break;
	}
	put_text(&c->x, name);
	put_mode(&c->x, mode);
}

static void put_open_head(struct cv_nfs4_call *c, uint32_t share, const struct cv_nfs4_owner *owner)
{
	cv_nfs4_put_op(c, CV_NFS4_OPEN);
	put_number(c, owner);
	cv_xdr_put_u32(&c->x, c->minor ? share | SHARE_NO_DELEGATION : share);
	cv_xdr_put_u32(&c->x, 0); /* deny nobody */
	c->owner_at = (size_t)(c->x.p - c->a.bytes);
	put_owner(&c->x, owner);
}

void cv_nfs4_put_open(struct cv_nfs4_call *c, uint32_t share, const struct cv_nfs4_owner *owner)
{
	put_open_head(c, share, owner);
	cv_xdr_put_u32(&c->x, OPEN_NOCREATE);
	cv_xdr_put_u32(&c->x, CLAIM_FH);
}

void cv_nfs4_put_open_name(struct cv_nfs4_call *c, uint32_t share,
			   const struct cv_nfs4_owner *owner, const char *name)
{
	put_open_head(c, share, owner);
	cv_xdr_put_u32(&c->x, OPEN_NOCREATE);
	cv_xdr_put_u32(&c->x, CLAIM_NULL);
	put_text(&c->x, name);
}

void cv_nfs4_put_open_reclaim(struct cv_nfs4_call *c, uint32_t share,
			      const struct cv_nfs4_owner *owner)
{
	put_open_head(c, share, owner);
	cv_xdr_put_u32(&c->x, OPEN_NOCREATE);
	cv_xdr_put_u32(&c->x, CLAIM_PREVIOUS);
	cv_xdr_put_u32(&c->x, 0); /* no delegation */
}

void cv_nfs4_put_open_create(struct cv_nfs4_call *c, uint32_t share,
			     const struct cv_nfs4_owner *owner, bool guarded, bool truncate,
			     uint32_t mode, const char *name)
{
	const struct cv_setattr set = { .mask = CV_SET_MODE | (truncate ? CV_SET_SIZE : 0),
					.mode = mode & 07777 };

	put_open_head(c, share, owner);
	cv_xdr_put_u32(&c->x, OPEN_CREATE);
	cv_xdr_put_u32(&c->x, guarded ? CREATE_GUARDED : CREATE_UNCHECKED);
	put_fattr(&c->x, &set, NULL, NULL);
	cv_xdr_put_u32(&c->x, CLAIM_NULL);
	put_text(&c->x, name);
}

void cv_nfs4_put_open_confirm(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid,
			      const struct cv_nfs4_owner *owner)
{
	cv_nfs4_put_op(c, CV_NFS4_OPEN_CONFIRM);
	put_stateid(c, stateid);
	put_number(c, owner);
}

void cv_nfs4_put_close(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid,
		       const struct cv_nfs4_owner *owner)
{
	cv_nfs4_put_op(c, CV_NFS4_CLOSE);
	put_number(c, owner);
	put_stateid(c, stateid);
}

void cv_nfs4_put_free_stateid(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid)
{
	cv_nfs4_put_op(c, CV_NFS4_FREE_STATEID);
	put_stateid(c, stateid);
}

void cv_nfs4_put_release_lockowner(struct cv_nfs4_call *c, const struct cv_nfs4_owner *owner)
{
	cv_nfs4_put_op(c, CV_NFS4_RELEASE_LOCKOWNER);
	put_owner(&c->x, owner);
}

static void put_lock_head(struct cv_nfs4_call *c, enum cv_nfs4_locktype type, bool reclaim,
			  uint64_t off, uint64_t length, bool first)
{
	cv_nfs4_put_op(c, CV_NFS4_LOCK);
	cv_xdr_put_u32(&c->x, type);
	cv_xdr_put_u32(&c->x, reclaim);
	cv_xdr_put_u64(&c->x, off);
	cv_xdr_put_u64(&c->x, length);
	cv_xdr_put_u32(&c->x, first);
}

void cv_nfs4_put_first_lock(struct cv_nfs4_call *c, enum cv_nfs4_locktype type, bool reclaim,
			    uint64_t off, uint64_t length,
			    const struct cv_nfs4_stateid *open_stateid,
			    const struct cv_nfs4_owner *open_owner,
			    const struct cv_nfs4_owner *owner)
{
	put_lock_head(c, type, reclaim, off, length, true);
	put_number(c, open_owner);
	put_stateid(c, open_stateid);
	put_number(c, owner);
	put_owner(&c->x, owner);
}

void cv_nfs4_put_lock(struct cv_nfs4_call *c, enum cv_nfs4_locktype type, bool reclaim,
		      uint64_t off, uint64_t length, const struct cv_nfs4_stateid *stateid,
		      const struct cv_nfs4_owner *owner)
{
	put_lock_head(c, type, reclaim, off, length, false);
	put_stateid(c, stateid);
	put_number(c, owner);
}

void cv_nfs4_put_lockt(struct cv_nfs4_call *c, enum cv_nfs4_locktype type, uint64_t off,
		       uint64_t length, const struct cv_nfs4_owner *owner)
{
	cv_nfs4_put_op(c, CV_NFS4_LOCKT);
	cv_xdr_put_u32(&c->x, type);
	cv_xdr_put_u64(&c->x, off);
	cv_xdr_put_u64(&c->x, length);
	put_owner(&c->x, owner);
}

void cv_nfs4_put_locku(struct cv_nfs4_call *c, const struct cv_nfs4_stateid *stateid,
		       const struct cv_nfs4_owner *owner, uint64_t off, uint64_t length)
{
	cv_nfs4_put_op(c, CV_NFS4_LOCKU);
	cv_xdr_put_u32(&c->x, CV_NFS4_WRITE_LT); /* it does not matter which */
	put_number(c, owner);
	put_stateid(c, stateid);
	cv_xdr_put_u64(&c->x, off);
	cv_xdr_put_u64(&c->x, length);
}

void cv_nfs4_put_exchange_id(struct cv_nfs4_call *c, const void *verifier, const char *owner)
{
	cv_nfs4_put_op(c, CV_NFS4_EXCHANGE_ID);
	cv_xdr_put_fixed(&c->x, verifier, CV_NFS_VERF_SIZE);
	put_text(&c->x, owner);
	cv_xdr_put_u32(&c->x, EXCHANGE_USE_NON_PNFS);
	cv_xdr_put_u32(&c->x, 0); /* SP4_NONE */
	cv_xdr_put_u32(&c->x, 0); /* no implementation id */
}

static void put_channel(struct cv_xdr_out *x, const struct cv_nfs4_channel *ch)
{
	cv_xdr_put_u32(x, 0); /* header padding */
	cv_xdr_put_u32(x, ch->max_request);
	cv_xdr_put_u32(x, ch->max_response);
	cv_xdr_put_u32(x, ch->max_cached);
	cv_xdr_put_u32(x, ch->max_ops);
	cv_xdr_put_u32(x, ch->max_slots);
	cv_xdr_put_u32(x, 0); /* no RDMA */
}

void cv_nfs4_put_create_session(struct cv_nfs4_call *c, uint64_t clientid, uint32_t seq,
				const struct cv_nfs4_channel *wanted)
{
	/* Unused, but servers want it to look usable. */
	static const struct cv_nfs4_channel back = { 4096, 4096, 0, 2, 1 };

	cv_nfs4_put_op(c, CV_NFS4_CREATE_SESSION);
	cv_xdr_put_u64(&c->x, clientid);
	cv_xdr_put_u32(&c->x, seq);
	cv_xdr_put_u32(&c->x, 0); /* flags: fore channel only, reply cache in memory */
	put_channel(&c->x, wanted);
	put_channel(&c->x, &back);
	cv_xdr_put_u32(&c->x, CALLBACK_PROGRAM);
	cv_xdr_put_u32(&c->x, 1);
	cv_xdr_put_u32(&c->x, 0); /* callbacks with AUTH_NONE */
}

void cv_nfs4_put_destroy_session(struct cv_nfs4_call *c, const void *session)
{
	cv_nfs4_put_op(c, CV_NFS4_DESTROY_SESSION);
	cv_xdr_put_fixed(&c->x, session, CV_NFS4_SESSION_SIZE);
}

void cv_nfs4_put_destroy_clientid(struct cv_nfs4_call *c, uint64_t clientid)
{
	cv_nfs4_put_op(c, CV_NFS4_DESTROY_CLIENTID);
	cv_xdr_put_u64(&c->x, clientid);
}

void cv_nfs4_put_reclaim_complete(struct cv_nfs4_call *c)
{
	cv_nfs4_put_op(c, CV_NFS4_RECLAIM_COMPLETE);
	cv_xdr_put_u32(&c->x, 0); /* of everything */
}

void cv_nfs4_put_setclientid(struct cv_nfs4_call *c, const void *verifier, const char *owner)
{
	cv_nfs4_put_op(c, CV_NFS4_SETCLIENTID);
	cv_xdr_put_fixed(&c->x, verifier, CV_NFS_VERF_SIZE);
	put_text(&c->x, owner);
	cv_xdr_put_u32(&c->x, CALLBACK_PROGRAM);
	put_text(&c->x, "tcp");
	put_text(&c->x, "0.0.0.0.0.0"); /* nowhere: so there will be no delegations */
	cv_xdr_put_u32(&c->x, 0);	/* identifies the callback */
}

void cv_nfs4_put_setclientid_confirm(struct cv_nfs4_call *c, uint64_t clientid,
				     const uint8_t confirm[CV_NFS_VERF_SIZE])
{
	cv_nfs4_put_op(c, CV_NFS4_SETCLIENTID_CONFIRM);
	cv_xdr_put_u64(&c->x, clientid);
	cv_xdr_put_fixed(&c->x, confirm, CV_NFS_VERF_SIZE);
}

void cv_nfs4_put_renew(struct cv_nfs4_call *c, uint64_t clientid)
{
	cv_nfs4_put_op(c, CV_NFS4_RENEW);
	cv_xdr_put_u64(&c->x, clientid);
}

/* ---- results ---- */

int cv_nfs4_errno(uint32_t status)
{
	static const struct {
		uint32_t nfs;
		int err;
	} map[] = {
		{ 10010, EAGAIN },	    /* DENIED */
		{ 10012, EAGAIN },	    /* LOCKED */
		{ 10014, ESTALE },	    /* FHEXPIRED */
		{ 10015, EACCES },	    /* SHARE_DENIED */
		{ 10016, EACCES },	    /* WRONGSEC */
		{ 10018, ENOMEM },	    /* RESOURCE */
		{ 10019, EREMOTE },	    /* MOVED */
		{ 10021, EPROTONOSUPPORT }, /* MINOR_VERS_MISMATCH */
		{ 10028, ENOLCK },	    /* LOCK_RANGE */
		{ 10029, ELOOP },	    /* SYMLINK */
		{ 10032, EINVAL },	    /* ATTRNOTSUPP */
		{ 10038, EBADF },	    /* OPENMODE */
		{ 10039, EINVAL },	    /* BADOWNER */
		{ 10040, EINVAL },	    /* BADCHAR */
		{ 10041, EINVAL },	    /* BADNAME */
		{ 10042, EINVAL },	    /* BAD_RANGE */
		{ 10043, ENOLCK },	    /* LOCK_NOTSUPP */
		{ 10044, EOPNOTSUPP },	    /* OP_ILLEGAL */
		{ 10045, EDEADLK },	    /* DEADLOCK */
		{ 10046, EBUSY },	    /* FILE_OPEN */
		{ 10083, EINVAL },	    /* WRONG_TYPE */
	};

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++) {
		if (map[i].nfs == status)
			return -map[i].err;
	}
	return cv_nfs_errno(status); /* the others are NFSv3's, or -EIO */
}

uint32_t cv_nfs4_get_compound(struct cv_xdr *x, uint32_t *ret_ops)
{
	uint32_t status = cv_xdr_u32(x), ops;
	size_t n;

	(void)cv_xdr_opaque(x, 1024, &n); /* tag */
	ops = cv_xdr_u32(x);		  /* a result that is missing will be bad */
	if (ret_ops)
		*ret_ops = ops;
	return status;
}

uint32_t cv_nfs4_get_op(struct cv_xdr *x, enum cv_nfs4_op op)
{
	if (cv_xdr_u32(x) != op)
		x->bad = true;
	return cv_xdr_u32(x);
}

/* The head of a result that must be a success. */
static bool begin_ok(struct cv_xdr *x, enum cv_nfs4_op op)
{
	return cv_nfs4_get_op(x, op) == CV_NFS4_OK && !x->bad;
}

bool cv_nfs4_skip(struct cv_xdr *x, enum cv_nfs4_op op)
{
	return begin_ok(x, op);
}

void cv_nfs4_get_sequence(struct cv_xdr *x, struct cv_nfs4_seq_reply *ret)
{
	(void)cv_xdr_take(x, CV_NFS4_SESSION_SIZE);
	ret->seq = cv_xdr_u32(x);
	ret->slot = cv_xdr_u32(x);
	ret->highest = cv_xdr_u32(x);
	ret->target = cv_xdr_u32(x);
	ret->flags = cv_xdr_u32(x);
}

/* Bits beyond 63 make it bad: we do not ask for any. */
static uint64_t get_bitmap(struct cv_xdr *x)
{
	uint32_t words = cv_xdr_u32(x);
	uint64_t bits = 0;

	if (words > BITMAP_MAX)
		x->bad = true;
	for (uint32_t i = 0; i < words && !x->bad; i++) {
		uint32_t word = cv_xdr_u32(x);

		if (i < 2)
			bits |= (uint64_t)word << (32 * i);
		else if (word)
			x->bad = true;
	}
	return bits;
}

void cv_nfs4_skip_bitmap(struct cv_xdr *x)
{
	uint32_t words = cv_xdr_u32(x);

	if (words > BITMAP_MAX)
		x->bad = true;
	else
		(void)cv_xdr_take(x, (size_t)words * 4);
}

/* fattr4: its values, and which they are. Only what was asked for can be understood. */
static struct cv_xdr get_fattr(struct cv_xdr *x, uint64_t asked, uint64_t *ret_bits)
{
	uint64_t bits = get_bitmap(x);
	size_t size;
	const uint8_t *p = cv_xdr_opaque(x, SIZE_MAX, &size);

	if (bits & ~asked)
		x->bad = true;
	*ret_bits = x->bad ? 0 : bits;
	return cv_xdr_init(p, x->bad ? 0 : size);
}

static struct timespec get_time(struct cv_xdr *x)
{
	struct timespec ts;

	ts.tv_sec = (time_t)(int64_t)cv_xdr_u64(x);
	ts.tv_nsec = cv_xdr_u32(x) % 1000000000;
	return ts;
}

static uint32_t get_id(struct cv_xdr *x, uint32_t (*find)(void *arg, const char *name), void *arg)
{
	char name[CV_NFS4_NAME_MAX];
	size_t n;
	const uint8_t *p = cv_xdr_opaque(x, 4096, &n);

	if (!p || n >= sizeof(name) || memchr(p, '\0', n))
		return NOBODY;
	memcpy(name, p, n);
	name[n] = '\0';
	return find(arg, name);
}

void cv_nfs4_get_stateid(struct cv_xdr *x, struct cv_nfs4_stateid *ret)
{
	const uint8_t *p;

	memset(ret, 0, sizeof(*ret));
	ret->seq = cv_xdr_u32(x);
	p = cv_xdr_take(x, sizeof(ret->other));
	if (p)
		memcpy(ret->other, p, sizeof(ret->other));
}

static void get_handle(struct cv_xdr *x, struct cv_handle *ret)
{
	size_t size;
	const uint8_t *p = cv_xdr_opaque(x, CV_NFS4_FH_MAX, &size);

	memset(ret, 0, sizeof(*ret));
	if (!p || !size) {
		x->bad = true;
		return;
	}
	ret->size = (uint8_t)size;
	memcpy(ret->data, p, size);
}

/* Exports nested in ours count their files from the start again. */
static uint64_t get_ino(const uint64_t fsid[2], const struct cv_nfs4_names *names, uint64_t fileid)
{
	uint64_t other = (fsid[0] ^ names->fsid[0]) * 0x9e3779b97f4a7c15ull +
			 (fsid[1] ^ names->fsid[1]) * 0xd6e8feb86659fd93ull;

	if (!names->have_fsid)
		other = 0;
	fileid ^= other;
	return fileid ? fileid : 1;
}

/* The values of ATTRS or ENTRY_ATTRS. handle: filled in where asked for. Returns the bits there. */
static uint64_t get_values(struct cv_xdr *x, uint64_t asked, struct cv_nfs4_names *names,
			   struct cv_attr *a, struct cv_handle *handle)
{
	static const uint32_t types[] = { 0,	   S_IFREG, S_IFDIR,  S_IFBLK,
					  S_IFCHR, S_IFLNK, S_IFSOCK, S_IFIFO };
	uint64_t bits, fsid[2] = { names->fsid[0], names->fsid[1] };
	struct cv_xdr v = get_fattr(x, asked, &bits);

	memset(a, 0, sizeof(*a));
	a->blksize = 4096;
	a->nlink = 1;
	a->uid = a->gid = NOBODY;
	if (bits & BIT(A_TYPE)) {
		uint32_t type = cv_xdr_u32(&v);

		/* Attribute directories and named attributes (8, 9) are not asked for. */
		if (type < sizeof(types) / sizeof(types[0]))
			a->mode = types[type];
	}
	if (bits & BIT(A_CHANGE))
		a->change = cv_xdr_u64(&v);
	if (bits & BIT(A_SIZE))
		a->size = cv_xdr_u64(&v);
	if (bits & BIT(A_FSID)) {
		fsid[0] = cv_xdr_u64(&v);
		fsid[1] = cv_xdr_u64(&v);
		if (!names->have_fsid) {
			memcpy(names->fsid, fsid, sizeof(fsid));
			names->have_fsid = true;
		}
	}
	if (bits & BIT(A_RDATTR_ERROR))
		(void)cv_xdr_u32(&v);
	if (bits & BIT(A_FILEHANDLE))
		get_handle(&v, handle);
	if (bits & BIT(A_FILEID))
		a->ino = get_ino(fsid, names, cv_xdr_u64(&v));
	if (bits & BIT(A_MODE))
		a->mode |= cv_xdr_u32(&v) & 07777;
	if (bits & BIT(A_NUMLINKS))
		a->nlink = cv_xdr_u32(&v);
	if (bits & BIT(A_OWNER))
		a->uid = get_id(&v, names->uid, names->arg);
	if (bits & BIT(A_OWNER_GROUP))
		a->gid = get_id(&v, names->gid, names->arg);
	if (bits & BIT(A_RAWDEV)) {
		uint32_t major_nr = cv_xdr_u32(&v), minor_nr = cv_xdr_u32(&v);

		a->rdev = makedev(major_nr, minor_nr);
	}
	a->blocks = (a->size + 511) / 512;
	if (bits & BIT(A_SPACE_USED))
		a->blocks = (cv_xdr_u64(&v) + 511) / 512;
	if (bits & BIT(A_TIME_ACCESS))
		a->atime = get_time(&v);
	if (bits & BIT(A_TIME_METADATA))
		a->ctime = get_time(&v);
	if (bits & BIT(A_TIME_MODIFY))
		a->mtime = get_time(&v);
	if (v.bad)
		x->bad = true;
	return x->bad ? 0 : bits;
}

static bool attrs_usable(uint64_t bits, const struct cv_attr *a)
{
	return (bits & ATTRS_NEEDED) == ATTRS_NEEDED && (a->mode & S_IFMT) != 0;
}

bool cv_nfs4_get_attr(struct cv_xdr *x, struct cv_nfs4_names *names, struct cv_attr *ret)
{
	struct cv_handle none; /* not asked for */

	return begin_ok(x, CV_NFS4_GETATTR) &&
	       attrs_usable(get_values(x, ATTRS, names, ret, &none), ret);
}

bool cv_nfs4_get_fh(struct cv_xdr *x, struct cv_handle *ret)
{
	if (!begin_ok(x, CV_NFS4_GETFH))
		return false;
	get_handle(x, ret);
	return !x->bad;
}

bool cv_nfs4_get_statfs(struct cv_xdr *x, struct statvfs *st)
{
	struct cv_xdr v;
	uint64_t bits;

	if (!begin_ok(x, CV_NFS4_GETATTR))
		return false;
	v = get_fattr(x, STATFS_ATTRS, &bits);
	memset(st, 0, sizeof(*st));
	st->f_bsize = st->f_frsize = 4096;
	if (bits & BIT(A_FILES_AVAIL))
		st->f_favail = cv_xdr_u64(&v);
	if (bits & BIT(A_FILES_FREE))
		st->f_ffree = cv_xdr_u64(&v);
	if (bits & BIT(A_FILES_TOTAL))
		st->f_files = cv_xdr_u64(&v);
	if (bits & BIT(A_SPACE_AVAIL))
		st->f_bavail = cv_xdr_u64(&v) / st->f_frsize;
	if (bits & BIT(A_SPACE_FREE))
		st->f_bfree = cv_xdr_u64(&v) / st->f_frsize;
	if (bits & BIT(A_SPACE_TOTAL))
		st->f_blocks = cv_xdr_u64(&v) / st->f_frsize;
	return !x->bad && !v.bad;
}

static uint32_t clamp(uint64_t v)
{
	return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

bool cv_nfs4_get_limits(struct cv_xdr *x, struct cv_nfs4_limits *ret)
{
	struct cv_xdr v;
	uint64_t bits;

	if (!begin_ok(x, CV_NFS4_GETATTR))
		return false;
	v = get_fattr(x, LIMIT_ATTRS, &bits);
	memset(ret, 0, sizeof(*ret));
	if (bits & BIT(A_LEASE))
		ret->lease_s = cv_xdr_u32(&v);
	ret->case_insensitive = !(bits & BIT(A_CASE_INSENSITIVE)) || cv_xdr_bool(&v);
	if (bits & BIT(A_MAXNAME))
		ret->name_max = cv_xdr_u32(&v);
	if (bits & BIT(A_MAXREAD))
		ret->read_max = clamp(cv_xdr_u64(&v));
	if (bits & BIT(A_MAXWRITE))
		ret->write_max = clamp(cv_xdr_u64(&v));
	if (bits & BIT(A_TIME_DELTA))
		ret->granularity = get_time(&v);
	return !x->bad && !v.bad;
}

uint64_t cv_nfs4_get_change(struct cv_xdr *x)
{
	bool atomic = cv_xdr_bool(x);
	uint64_t before = cv_xdr_u64(x);

	(void)cv_xdr_u64(x); /* after: GETATTR says it */
	return atomic ? before : 0;
}

static void skip_ace(struct cv_xdr *x)
{
	size_t n;

	(void)cv_xdr_take(x, 12);
	(void)cv_xdr_opaque(x, 4096, &n);
}

/* We say that we want none; a server may give one all the same, and will have to live with our
 * never returning it: there is no back channel, so none should. */
static void skip_delegation(struct cv_xdr *x)
{
	struct cv_nfs4_stateid ignored;
	uint32_t why;

	switch (cv_xdr_u32(x)) {
	case 0: /* OPEN_DELEGATE_NONE */
		break;
	case 1: /* READ */
		cv_nfs4_get_stateid(x, &ignored);
		(void)cv_xdr_bool(x);
		skip_ace(x);
		break;
	case 2: /* WRITE */
		cv_nfs4_get_stateid(x, &ignored);
		(void)cv_xdr_bool(x);
		(void)cv_xdr_take(x, 12); /* space limit: both forms have this size */
		skip_ace(x);
		break;
	case 3: /* NONE_EXT */
		why = cv_xdr_u32(x);
		if (why == 1 || why == 2) /* WND4_CONTENTION, WND4_RESOURCE */
			(void)cv_xdr_bool(x);
		break;
	default:
		x->bad = true;
		break;
	}
}

bool cv_nfs4_get_open(struct cv_xdr *x, struct cv_nfs4_stateid *ret, uint64_t *ret_before)
{
	uint32_t flags;

	cv_nfs4_get_stateid(x, ret);
	*ret_before = cv_nfs4_get_change(x);
	flags = cv_xdr_u32(x);
	cv_nfs4_skip_bitmap(x);
	skip_delegation(x);
	return flags & OPEN_CONFIRM_WANTED;
}

void cv_nfs4_get_denied(struct cv_xdr *x, struct cv_nfs4_denied *ret)
{
	const uint8_t *p;
	size_t n;

	ret->off = cv_xdr_u64(x);
	ret->length = cv_xdr_u64(x);
	ret->type = cv_xdr_u32(x);
	memset(&ret->owner, 0, sizeof(ret->owner));
	ret->owner.clientid = cv_xdr_u64(x);
	p = cv_xdr_opaque(x, 1024, &n);
	if (p && n <= sizeof(ret->owner.data)) {
		ret->owner.size = (uint8_t)n;
		memcpy(ret->owner.data, p, n);
	}
}

void cv_nfs4_get_entries(struct cv_xdr *x, struct cv_nfs4_names *names,
			 struct cv_nfs_entries *entries, uint8_t verf[CV_NFS_VERF_SIZE])
{
	const uint8_t *p = cv_xdr_take(x, CV_NFS_VERF_SIZE);

	if (p)
		memcpy(verf, p, CV_NFS_VERF_SIZE);
	while (cv_xdr_bool(x)) {
		struct cv_dirent d = { 0 };
		uint64_t bits;
		size_t n;

		d.next_off = cv_xdr_u64(x);
		p = cv_xdr_opaque(x, 4096, &n);
		bits = get_values(x, ENTRY_ATTRS, names, &d.entry.attr, &d.entry.handle);
		if (x->bad)
			return;
		d.ino = d.entry.attr.ino;
		d.mode = d.entry.attr.mode;
		d.have_entry = attrs_usable(bits, &d.entry.attr) && d.entry.handle.size;
		cv_nfs_keep_entry(x, entries, &d, p, n);
	}
	entries->eof = cv_xdr_bool(x);
}

bool cv_nfs4_get_exchange_id(struct cv_xdr *x, struct cv_nfs4_client *ret)
{
	uint32_t flags, protect;

	if (!begin_ok(x, CV_NFS4_EXCHANGE_ID))
		return false;
	ret->id = cv_xdr_u64(x);
	ret->seq = cv_xdr_u32(x);
	flags = cv_xdr_u32(x);
	protect = cv_xdr_u32(x);
	ret->confirmed = flags & EXCHANGE_CONFIRMED;
	/* What follows says who the server is, for trunking. */
	return !x->bad && protect == 0;
}

bool cv_nfs4_get_setclientid(struct cv_xdr *x, uint64_t *ret_clientid,
			     uint8_t confirm[CV_NFS_VERF_SIZE])
{
	const uint8_t *p;

	if (!begin_ok(x, CV_NFS4_SETCLIENTID))
		return false;
	*ret_clientid = cv_xdr_u64(x);
	p = cv_xdr_take(x, CV_NFS_VERF_SIZE);
	if (p)
		memcpy(confirm, p, CV_NFS_VERF_SIZE);
	return !x->bad;
}

static void get_channel(struct cv_xdr *x, struct cv_nfs4_channel *ret)
{
	(void)cv_xdr_u32(x);
	ret->max_request = cv_xdr_u32(x);
	ret->max_response = cv_xdr_u32(x);
	ret->max_cached = cv_xdr_u32(x);
	ret->max_ops = cv_xdr_u32(x);
	ret->max_slots = cv_xdr_u32(x);
	/* rdma_ird and the back channel follow */
}

bool cv_nfs4_get_create_session(struct cv_xdr *x, uint8_t session[CV_NFS4_SESSION_SIZE],
				struct cv_nfs4_channel *ret)
{
	const uint8_t *p;

	if (!begin_ok(x, CV_NFS4_CREATE_SESSION))
		return false;
	p = cv_xdr_take(x, CV_NFS4_SESSION_SIZE);
	if (p)
		memcpy(session, p, CV_NFS4_SESSION_SIZE);
	(void)cv_xdr_take(x, 8); /* sequence, flags */
	get_channel(x, ret);
	return !x->bad && ret->max_slots > 0;
}
