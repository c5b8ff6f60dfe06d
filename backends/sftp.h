/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SFTP engine's inside, shared by its operations (sftp_ops.c), file data (sftp_io.c), listings
 * (sftp_dir.c), what is asked before it is wanted (sftp_ahead.c) and its table (sftp.c). An
 * operation is a small state machine: it sends one request or two at once, and goes on when both
 * are answered.
 */
#ifndef CV_BACKENDS_SFTP_H
#define CV_BACKENDS_SFTP_H

#include "backends/backend.h"
#include "backends/guess.h"
#include "backends/sftp_ids.h"
#include "backends/sftp_link.h"
#include "backends/walk.h"

#define SFTP_IO_MAX	 (128 * 1024) /* bytes per READ or WRITE, if the server takes so much */
#define SFTP_POOL	 8	      /* read buffers kept */
#define SFTP_FURTHER_MAX 7
#define SFTP_READDIRS	 2 /* of one directory in flight */
#define SFTP_SEEN	 8

_Static_assert(SFTP_FURTHER_MAX < CV_PEERS, "the process of each is noted");

enum sftp_symlinks {
	SFTP_SYMLINKS_RAW,     /* as stored: whoever reads a link follows it where he is */
	SFTP_SYMLINKS_CONTAIN, /* those that lead out of the mount are not told */
	SFTP_SYMLINKS_FOLLOW,  /* the server follows them, anywhere on it; none can be made */
};

struct sftp_first;
struct sftp_joining;
struct sftp_known;
struct sftp_piece;

/* See sftp_ahead.c. */
struct sftp_ahead {
	bool off;	       /* nothing may be older than the question */
	struct cv_walk walk;   /* of struct sftp_known: all that is known of directories */
	uint64_t lookup_ns;    /* names in a listing are good for as long */
	struct cv_guess guess; /* that a name is a directory's */
	struct cv_timer purge;
	struct {
		uint64_t dir; /* hash of a path */
		uint64_t since_ns;
		unsigned count; /* of lookups that had to go to the server */
	} misses[8];
};

/* Further connections; see sftp_bulk.c. */
struct sftp_bulk {
	unsigned wanted;
	unsigned channels;    /* of these, the first of them, on the first one's connection */
	uint64_t worth_bytes; /* moved by a file: then a connection is worth its login */
	unsigned count;
	struct sftp_link *links[SFTP_FURTHER_MAX]; /* owned */
	uint64_t moved;				   /* bytes since the last tick */
	unsigned quiet;				   /* ticks without any */
	uint64_t retry_ns;			   /* not before */
	struct cv_timer tick;
};

/* See sftp_names.c. */
struct sftp_names {
	struct sftp_request req;
	struct cv_sftp_out body; /* the question, encoded */
	bool asking;
	bool said_no;
	struct sftp_question asked; /* under way */
	struct sftp_question next;
	struct sftp_call *waiting; /* by next_parked; then() looks again */
};

/* A directory's access time, as last seen. */
struct sftp_seen {
	uint64_t path; /* hash */
	uint64_t ns;   /* when; 0: never */
	uint32_t atime;
};

struct sftp_engine {
	struct sftp_link link;	  /* the first connection: for everything */
	uint64_t peers[CV_PEERS]; /* where no memory outlives us */
	struct sftp_bulk bulk;
	struct sftp_piece *backlog; /* of transfers: no connection has room for them */
	struct sftp_piece **backlog_tail;
	struct cv_dict options;
	struct cv_loop *loop;
	char *root;	      /* absolute, "" for "/" */
	struct sftp_ids *ids; /* owned */
	struct sftp_names names;
	bool have_uid; /* everything is shown as uid's */
	bool have_gid;
	uint32_t uid; /* as shown */
	uint32_t gid;
	uint32_t umask;
	bool chown_ignore;
	enum sftp_symlinks symlinks;
	struct sftp_ahead ahead;
	struct sftp_listing *listings; /* open directories, and those opened ahead */
	struct sftp_first *firsts;     /* sftp_first.c */
	unsigned firsts_count;
	struct cv_guess firsts_guess;
	bool said_no_fsync;
	bool said_no_rename;
	bool said_no_update;
	bool said_no_owner;
	bool keeps_owner;	   /* the server refused to give what we made to whom it belongs */
	struct cv_file *files;	   /* open ones */
	struct sftp_call *renames; /* under way */
	struct sftp_seen seen[SFTP_SEEN];
	unsigned refused;      /* enum sftp_ext: offered, and then not known or not allowed */
	unsigned copies;       /* by the server, under way */
	size_t copy_max;       /* bytes of the next one */
	void *pool[SFTP_POOL]; /* buffers of CV_MAX_IO bytes */
	size_t pooled;
};

struct cv_file {
	struct sftp_open open;
	struct cv_file *next; /* of the engine's */
	struct cv_file **link;
	uint32_t atime;		      /* as last seen */
	uint64_t atime_ns;	      /* when that was; 0: never */
	struct sftp_listing *listing; /* directories; owns this file */
	struct sftp_first *first;     /* owned, or NULL */

	/* sftp_bulk.c */
	struct sftp_open *further[SFTP_FURTHER_MAX]; /* owned; handles on further connections */
	struct sftp_joining *joining;		     /* one on its way */
	uint64_t moved;				     /* bytes, since the last handle was added */
	bool alone;				     /* no further handle could be trusted */
	bool held;				     /* no write is started now */
	unsigned loose_writes;	  /* started, but not in the first connection's order */
	unsigned far_writes;	  /* of these: under way on further connections */
	struct sftp_call *parked; /* to go on when loose_writes is 0 */
};

/* Entries of one READDIR; names lie behind them. One allocation. */
struct sftp_batch {
	struct sftp_batch *next;
	uint64_t asked_ns;
	size_t count;
	struct cv_dirent entries[];
};

/* An open directory. Owns its cv_file. */
struct sftp_listing {
	struct sftp_engine *e;
	struct cv_file *file;
	struct sftp_listing *next; /* of the engine's */
	struct sftp_listing **link;
	struct sftp_known *known; /* opened ahead, and not asked for yet */
	struct sftp_request open_req;
	struct sftp_request slots[SFTP_READDIRS];
	uint64_t asked_ns[SFTP_READDIRS];
	struct sftp_open foreseen; /* the handle that slots went along with the OPENDIR for */
	unsigned early;		   /* these, as bits */
	unsigned busy;		   /* slots in flight, as bits */
	unsigned discard;	   /* of these: asked of an earlier handle */
	unsigned outdated;	   /* of these: older than a change of ours */
	bool opening;
	bool brief;    /* what went along with the OPENDIR is enough for now */
	bool started;  /* the worker has read from it */
	bool released; /* goes when nothing is in flight */
	bool eof;
	int error;
	unsigned reopened;	 /* for the answer that is waited for, */
	uint64_t reopened_over;	 /* with recovery=hard: over this connection */
	bool passing;		 /* entries up to off are passed over */
	bool whole;		 /* off was not found: list all */
	uint64_t delivered;	 /* next_off of the last entry handed out */
	struct sftp_batch *head; /* not handed out yet */
	struct sftp_batch **tail;
	unsigned buffered;
	struct sftp_batch *current; /* the worker looks at it */
	struct cv_op *opendir;	    /* waits */
	struct cv_op *readdir;	    /* waits */
	uint64_t off;		    /* what it wants to go on after */
};

#define SFTP_CALL_DIR	   2 /* the request for the directory in which names change */
#define SFTP_CALL_NEWDIR   3 /* a rename's other one */
#define SFTP_CALL_REQUESTS 4

/* How a request ended, kept for the step that follows. */
struct sftp_result {
	int error;
	uint32_t status;
	bool retried;
};

/* What a call changes on the server, whether it succeeds or not. */
enum sftp_changes {
	SFTP_CHANGES_PATH = 1 << 0,
	SFTP_CHANGES_PATH2 = 1 << 1,
	SFTP_CHANGES_NAMES = 1 << 2, /* of the directories of these */
};

/* A pending operation. */
struct sftp_call {
	struct sftp_engine *e;
	struct cv_op *op;
	/* At most two at once, answered in any order; behind them those for the directories. */
	struct sftp_request req[SFTP_CALL_REQUESTS];
	struct sftp_result res[SFTP_CALL_REQUESTS];
	unsigned pending;
	void (*then)(struct sftp_call *call);
	struct sftp_call *next_parked;
	struct sftp_call *next_rename; /* of the engine's */

	char *path; /* owned; full remote paths */
	char *path2;
	char *text; /* owned; the first name of a NAME reply */
	struct sftp_handle handle;
	uint64_t generation;				/* of handle */
	struct cv_sftp_attrs attrs[SFTP_CALL_REQUESTS]; /* of the requests' ATTRS replies */
	bool have_attrs[SFTP_CALL_REQUESTS];
	bool have_statvfs;
	bool have_entries; /* a NAME reply with a name that is not "." or ".." */
	uint64_t statvfs[11];
	struct cv_file *file;
	struct cv_setattr set;
	unsigned mask; /* of set: what is still to be done */
	unsigned sent; /* of set: what the last request was to do */
	uint32_t mode;
	int flags;
	bool stat_first;  /* setattr: attrs[0] holds what the object had before */
	bool last;	  /* setattr: the second request asks for the result */
	bool guesses;	  /* lookup: that it is a directory */
	bool replaced;	  /* rename: the target has been removed by us */
	bool created;	  /* create: it was not there before */
	unsigned changes; /* enum sftp_changes */
	char *dir[2];	  /* owned; the directories in which names change */
	bool asked_dirs;  /* for their attributes */
	bool renames;
	uint64_t rdev;
	bool made;		  /* mkdir: it is new and empty */
	bool unsure;		  /* an earlier try of this call may have been carried out unseen */
	char *inner;		  /* owned; path within the mount */
	struct sftp_first *first; /* open: read along; owned until there is a file */
	int verdict;		  /* what is returned if nothing better is found */
};

static inline bool sftp_offers(const struct sftp_engine *e, enum sftp_ext ext)
{
	return e->link.session.extensions & ~e->refused & (unsigned)ext;
}

/* ---- calls (sftp_ops.c) ---- */

/* Did the server promise an extension that it then does not know? Then it is not used again. */
bool sftp_broken_promise(struct sftp_call *call, enum sftp_ext ext);

struct sftp_call *sftp_call_new(struct sftp_engine *e, struct cv_op *op);
/* Frees the call and answers its operation. */
void sftp_call_end(struct sftp_call *call, ssize_t result);
struct sftp_request *sftp_call_request(struct sftp_call *call, unsigned i, uint8_t type);
/* Sends the first n requests; then() runs when all are answered. */
void sftp_call_send(struct sftp_call *call, unsigned n, void (*then)(struct sftp_call *call));
/* go() when the writes to its file that were started before it are in front of it. */
void sftp_call_behind_writes(struct sftp_call *call, void (*go)(struct sftp_call *call));
/* From before the first request on. */
void sftp_call_changes(struct sftp_call *call, unsigned changes);
/* Ends a call the server refused with no reason: asks the file system for one. */
void sftp_call_explain(struct sftp_call *call, int verdict);

char *sftp_path(const struct sftp_engine *e, const char *dir, const char *name);
/* Are these of a link that may stand for something else? What it is, a listing does not say. */
bool sftp_stands_for_other(const struct sftp_engine *e, const struct cv_sftp_attrs *attrs);
/* 0; -EIO: attributes without a type are of no use; -EAGAIN: whose it is, the server must be asked
 * first (sftp_names_…()), the rest is there. */
int sftp_attr(const struct sftp_engine *e, const struct cv_sftp_attrs *in, uint32_t nlink,
	      struct cv_attr *ret_attr);
/* path within the mount; target as the server gave it. Returns what readlink() answers, or NULL
 * with errno set. Caller frees. */
char *sftp_contain(const char *root, const char *path, const char *target);

struct cv_file *sftp_file_new(struct sftp_engine *e, const char *path, uint32_t pflags,
			      const struct sftp_handle *handle, uint64_t generation);
void sftp_file_free(struct sftp_engine *e, struct cv_file *file);
bool sftp_too_many_open(const struct sftp_engine *e);

void sftp_op_lookup(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void sftp_op_getattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		     struct cv_file *file);
void sftp_op_setattr(void *conn, struct cv_op *op, const struct cv_object *obj,
		     struct cv_file *file, const struct cv_setattr *set);
void sftp_op_readlink(void *conn, struct cv_op *op, const struct cv_object *obj);
void sftp_op_mknod(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   uint32_t mode, uint64_t rdev);
void sftp_op_mkdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		   uint32_t mode);
void sftp_op_symlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		     const char *target);
void sftp_op_link(void *conn, struct cv_op *op, const struct cv_object *obj,
		  const struct cv_object *dir, const char *name);
void sftp_op_unlink(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void sftp_op_rmdir(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name);
void sftp_op_rename(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    const struct cv_object *newdir, const char *newname, unsigned flags);
void sftp_op_open(void *conn, struct cv_op *op, const struct cv_object *obj, int flags);
void sftp_op_create(void *conn, struct cv_op *op, const struct cv_object *dir, const char *name,
		    int flags, uint32_t mode);
void sftp_op_release(void *conn, struct cv_file *file);
void sftp_op_statfs(void *conn, struct cv_op *op, const struct cv_object *obj);

/* ---- sftp_names.c ---- */

/* Asks whose these attributes are; */
void sftp_names_want(struct sftp_engine *e, const struct cv_sftp_attrs *attrs);
/* and has call->then() look again when that may be known. */
void sftp_names_wait(struct sftp_call *call, const struct cv_sftp_attrs *attrs);
bool sftp_names_init(struct sftp_engine *e); /* false: out of memory */
void sftp_names_release(struct sftp_engine *e);

/* ---- sftp_special.c ---- */

#define SFTP_SPECIAL_SIZE 51 /* bytes of a target */

bool sftp_special_can(const struct sftp_engine *e); /* does this server allow it? */
/* Is it worth reading the link? */
bool sftp_special_maybe(const struct sftp_engine *e, const struct cv_sftp_attrs *attrs);
/* mode: type and permissions. False: of a type that needs no such thing. */
bool sftp_special_format(uint32_t mode, uint64_t rdev, char target[SFTP_SPECIAL_SIZE + 1]);
bool sftp_special_parse(const char *target, uint32_t *ret_mode, uint64_t *ret_rdev);

/* ---- sftp_io.c ---- */

void sftp_op_read(void *conn, struct cv_op *op, struct cv_file *file, size_t size, uint64_t off);
void sftp_op_write(void *conn, struct cv_op *op, struct cv_file *file, const void *data,
		   size_t size, uint64_t off);
void sftp_op_fsync(void *conn, struct cv_op *op, struct cv_file *file, bool datasync);

/* Data of file reaches to end now. */
void sftp_file_grown(struct sftp_engine *e, struct cv_file *file, uint64_t end);
/* What is at path is about to be changed, through that open file or, NULL, by name: how it was says
 * nothing any more (see can_be_same()). */
void sftp_files_touched(struct sftp_engine *e, const struct cv_file *file, const char *path);
void sftp_file_same(struct sftp_link *link, const struct sftp_open *open);  /* for the link */
bool sftp_file_moves(struct sftp_link *link, const struct sftp_open *open); /* likewise */

/* Sends what the connections have room for, in order for each of them. */
void sftp_backlog_go(struct sftp_engine *e);

/* ---- sftp_copy.c ---- */

void sftp_op_copy(void *conn, struct cv_op *op, struct cv_file *src, uint64_t src_off,
		  struct cv_file *dst, uint64_t dst_off, size_t size);

/* ---- sftp_first.c ---- */

/* The OPEN's `foreseen`; NULL: not worth it. */
struct sftp_open *sftp_first_new(struct sftp_engine *e, const char *path,
				 struct sftp_first **ret_first);
/* Behind the OPEN and what brings the attributes. */
void sftp_first_ask(struct sftp_first *first);
/* file has the attributes that came in front of it. */
void sftp_first_give(struct sftp_first *first, struct cv_file *file);
void sftp_first_drop(struct sftp_first *first); /* NULL is a no-op */
/* Takes op, if it can be answered so: true. */
bool sftp_first_read(struct cv_file *file, struct cv_op *op, size_t size, uint64_t off);
/* As sftp_ahead_changed(), which calls it. */
void sftp_first_changed(struct sftp_engine *e, const char *path, bool names);
/* As sftp_ahead_told() and sftp_ahead_listed(), which call them. */
void sftp_first_seen(struct sftp_engine *e, const char *path, const struct cv_attr *attr);
void sftp_first_listed(struct sftp_engine *e, const char *dir, const struct cv_dirent *entries,
		       size_t count);
/* path has just been opened: what an earlier open of it read along may be older, and where times
 * are whole seconds its attributes do not show that. */
void sftp_first_opened(struct sftp_engine *e, const char *path);

/* ---- sftp_bulk.c ---- */

void sftp_bulk_init(struct sftp_engine *e);
void sftp_bulk_release(struct sftp_engine *e); /* the first connection has been stopped before */
/* size bytes are about to go to or from file. */
void sftp_bulk_moved(struct sftp_engine *e, struct cv_file *file, size_t size);
/* Where the next piece goes: 0, the first connection, n: further connection n - 1; -1: none has
 * room. kind: SFTP_READS or SFTP_WRITES. */
int sftp_bulk_way(const struct sftp_engine *e, const struct cv_file *file, int kind);
/* Fewer writes of file are loose or far. */
void sftp_bulk_settled(struct cv_file *file);
/* Gives the file's further handles back. */
void sftp_bulk_forget(struct sftp_engine *e, struct cv_file *file);

/* ---- sftp_dir.c ---- */

/* Starts to open and read path. NULL: out of memory. */
struct sftp_listing *sftp_listing_open(struct sftp_engine *e, const char *path);
/* Makes it the worker's; answers op, at once or when it is open. */
void sftp_listing_give(struct sftp_listing *l, struct cv_op *op);
void sftp_listing_release(struct sftp_listing *l);
/* What has been read or asked for may be older than a change: its attributes go to nobody. */
void sftp_listing_outdated(struct sftp_listing *l);
/* The worker is told the attributes of a name in it. What has been read and says otherwise is
 * older: those attributes go to nobody. Answers still to come are younger, from a server that works
 * in order. */
void sftp_listing_told(struct sftp_listing *l, const char *name, const struct cv_attr *attr);

void sftp_op_opendir(void *conn, struct cv_op *op, const struct cv_object *dir);
void sftp_op_releasedir(void *conn, struct cv_file *dir);
void sftp_op_readdir(void *conn, struct cv_op *op, struct cv_file *dir, uint64_t off);
void sftp_op_fsyncdir(void *conn, struct cv_op *op, struct cv_file *dir, bool datasync);

/* ---- sftp_ahead.c ---- */

void sftp_ahead_init(struct sftp_engine *e);
void sftp_ahead_release(struct sftp_engine *e); /* no connection any more */
/*
 * Something about path is being changed by us, or has just been: what was learned before is not
 * told any more. names: its directory has an entry more or less, or another.
 */
void sftp_ahead_changed(struct sftp_engine *e, const char *path, bool names);
/* The worker is about to be told the attributes of path, or entries of l, as the server has them
 * now: from then on, nothing older is told. */
void sftp_ahead_told(struct sftp_engine *e, const char *path, const struct cv_attr *attr);
void sftp_ahead_listed(const struct sftp_listing *l, const struct cv_dirent *entries, size_t count);
/* path is a new directory: nothing can be in it. */
void sftp_ahead_made(struct sftp_engine *e, const char *path);
/* The open listing of path, if there is a good one: now the caller's. */
struct sftp_listing *sftp_ahead_take(struct sftp_engine *e, const char *path);
/* b has been read; NULL: the end. */
void sftp_ahead_entries(struct sftp_listing *l, const struct sftp_batch *b);
void sftp_ahead_failed(struct sftp_known *known); /* releases its listing */
/* Answers from what is known: 0; making (cv_op): -ENOENT; -EAGAIN: ask the server. */
int sftp_ahead_lookup(struct sftp_engine *e, const char *path, bool making,
		      struct cv_attr *ret_attr);
/* path is about to be looked up: reads it if it is worth guessing that it is a directory. Returns
 * true if that has been guessed, and somebody wants to hear whether it was right. */
bool sftp_ahead_guess(struct sftp_engine *e, const char *path);
void sftp_ahead_guessed(struct sftp_engine *e, const char *path, bool right);
#endif
