/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection of the SFTP engine: requests go in, replies come out, whatever happens to the
 * network in between. The link logs in on a helper thread, keeps many requests in flight, notices
 * when the server is gone, connects again and sends again what was not answered. It knows requests
 * and handles, not operations: what a repeated request's failure means is for sftp.c to judge
 * (sftp_request.retried). Everything runs on the loop's thread, except the login.
 */
#ifndef CV_BACKENDS_SFTP_LINK_H
#define CV_BACKENDS_SFTP_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/replay.h"
#include "backends/sftp_ids.h"
#include "backends/sftp_proto.h"
#include "backends/ssh_transport.h"
#include "config/dict.h"
#include "config/err.h"
#include "config/loop.h"

#define SFTP_PROC_SELF	  "/proc/self"
#define SFTP_PROC_INIT	  "/proc/1/exe"
#define SFTP_PROC_PROGRAM "/proc/%llu/exe"
#define SFTP_PROC_SIZE	  48 /* of such a path, with its end */

#define SFTP_IN_FLIGHT_MAX 128 /* a power of two: slots are the low bits of an id */
#define SFTP_FREE_MAX	   256

enum sftp_ext {
	SFTP_EXT_POSIX_RENAME = 1 << 0,
	SFTP_EXT_STATVFS = 1 << 1,
	SFTP_EXT_FSTATVFS = 1 << 2,
	SFTP_EXT_FSYNC = 1 << 3,
	SFTP_EXT_HARDLINK = 1 << 4,
	SFTP_EXT_LSETSTAT = 1 << 5,
	SFTP_EXT_LIMITS = 1 << 6,
	SFTP_EXT_EXPAND_PATH = 1 << 7,
	SFTP_EXT_COPY_DATA = 1 << 8,
	SFTP_EXT_NAMES = 1 << 9, /* of users and groups, by their ids */
};

/* What a login found out. */
struct sftp_session {
	struct cv_ssh *ssh;  /* owned */
	char *root;	     /* owned; absolute, "" for "/" */
	unsigned extensions; /* enum sftp_ext */
	bool openssh;	     /* works as OpenSSH's server does: one request after the other */
	bool target_first;   /* SYMLINK: not as the draft has it */
	bool open_empties;   /* every open for writing empties the file (rclone serve sftp) */
	uint32_t read_max;   /* bytes per request */
	uint32_t write_max;
	uint64_t handles_max; /* 0: unknown */
	uint32_t rtt_us;
	uint64_t process; /* the server's, that serves this; 0: it does not say */
	bool made_subdir; /* as in struct cv_info */
	bool settled;	  /* likewise */
	struct cv_sftp_attrs root_attrs;
	struct sftp_ids *ids; /* owned; of the first login, for the engine to take */
};

struct sftp_handle {
	uint16_t size; /* 0: none */
	uint8_t data[CV_SFTP_HANDLE_MAX];
};

/* An open file or directory as the link sees it: handles die with their connection. */
struct sftp_open {
	char *path;	 /* owned; full remote path, for opening it again */
	char *also;	 /* owned; another name that it was given since, tried first; or NULL */
	uint32_t pflags; /* enum cv_sftp_pflags, without CREAT, TRUNC and EXCL */
	bool is_dir;	 /* not reopened by the link: its requests end with -ESTALE */
	bool elsewhere;	 /* has a twin on another connection: ends with -ESTALE when this is lost */
	bool gone;	 /* its name was removed or replaced: it cannot be opened again */
	int failed;	 /* -errno: it cannot be opened again, for good */
	struct sftp_handle handle; /* of connection `generation` */
	uint64_t generation;	   /* ready for use on that connection; 0: none */
	unsigned writes;	   /* not answered so far */
	uint64_t size_seen;	   /* smallest size the file can have, as far as we know */
	uint32_t mtime_seen;	   /* likewise the oldest mtime, */
	uint32_t mtime_changed;	   /* and the oldest that a change since it was opened can give */
	/* Open for writing, and not changed by us before the connection was lost: it is as it was
	 * seen last, or another. */
	bool untouched;
	uint64_t size_untouched;
	uint32_t mtime_untouched;
	struct sftp_request *waiting; /* until it is open again */
	struct sftp_request *reopen;  /* in progress; the link's */
};

struct sftp_reply {
	int error;	 /* 0 or -errno; EOF is -ENODATA */
	uint32_t status; /* STATUS replies; enum cv_sftp_status */
	uint8_t type;	 /* 0: the link's own verdict, e.g. -ESTALE, -ETIMEDOUT */
	uint8_t *body;	 /* writable during done() */
	size_t size;
};

/*
 * A request. The caller fills in the first part, submits it and keeps it until done(); it stays
 * valid through any number of connections. It is encoded when it is sent, since handles change.
 */
struct sftp_request {
	uint8_t type;	   /* enum cv_sftp_type */
	enum sftp_ext ext; /* CV_FXP_EXTENDED: which */
	struct sftp_open *open;
	struct sftp_open *source; /* COPY_DATA: from here to open */
	struct sftp_handle *raw;  /* CLOSE: handle on connection raw_generation; owned */
	uint64_t raw_generation;
	char *path; /* owned by the request's owner */
	char *path2;
	struct cv_sftp_attrs attrs;
	uint32_t pflags;
	struct sftp_open *foreseen; /* OPEN, OPENDIR: for what is asked along; see below */
	uint64_t offset;
	uint64_t source_offset; /* COPY_DATA */
	uint64_t length;	/* COPY_DATA; NAMES: of the payload */
	uint32_t size;		/* READ, WRITE */
	const void *payload;	/* WRITE; NAMES: the ids, encoded */
	uint8_t *dest;		/* READ */
	void (*done)(struct sftp_request *req, struct sftp_reply *reply);
	void *owner;

	/* the link's own */
	bool behind_writes; /* goes the way writes go, to stay behind those of its file */
	bool retried; /* was sent on a connection that is lost: it may have been carried out */
	struct sftp_request *next;
	uint64_t order;
	uint64_t queued_ns;
	uint64_t sent_ns;
	uint32_t id;
	uint32_t expected; /* OPEN, OPENDIR: the handle's number */
};

struct sftp_queue {
	struct sftp_request *head;
	struct sftp_request **tail;
};

enum { SFTP_READS, SFTP_WRITES }; /* kinds of bulk */

/*
 * What OpenSSH's server will give the next OPEN: handles are numbers, and the one that was given
 * back last is the first to be used again. So what needs the handle can be asked in the same round
 * trip: the OPEN's `foreseen` gets the handle when the OPEN is encoded, and whatever was submitted
 * behind it with that as its `open` goes along. Only the OPEN's answer tells whether it was right;
 * if not, the rest has been asked of no handle, and is to be asked again.
 *
 * Of no handle: never of another one, since a READDIR would take entries from whoever lists that
 * directory. So the server's bookkeeping is followed exactly, or not at all: at the first surprise
 * it is given up for the connection. What an OPEN that failed did not take is known when that is
 * heard; what was foreseen meanwhile is free then, as fewer handles were taken than expected.
 */
struct sftp_numbers {
	uint32_t next;
	uint32_t free[SFTP_FREE_MAX]; /* given back, the last one first to be used */
	unsigned nfree;
};

struct sftp_number_use {
	uint32_t id;	 /* of an OPEN; */
	uint32_t number; /* or what a CLOSE gives back */
	bool is_close;
};

struct sftp_foresight {
	bool trusted;
	struct sftp_numbers known;  /* before the first OPEN in flight */
	struct sftp_numbers coming; /* if all in flight succeed */
	/* From the first OPEN in flight on; no more than there can be in flight. */
	struct sftp_number_use uses[SFTP_IN_FLIGHT_MAX];
	unsigned first, count;
};

enum sftp_link_state {
	SFTP_LINK_DOWN, /* waiting to try again, or trying */
	SFTP_LINK_UP,
	SFTP_LINK_CLOSED,
};

/* Between two looks whether a process has ended. */
#define SFTP_AWAIT_MIN_MS 5
#define SFTP_AWAIT_MAX_MS 100

/* Processes of the server that may still be working, and how long they are waited for. */
struct sftp_predecessors {
	unsigned count;
	uint64_t pid[CV_PEERS];
	uint64_t wait_ms;
};

struct sftp_job;
struct sftp_awaiting;

struct sftp_link {
	/* One beside the first: connects when told to, and what it has not answered when it is lost
	 * ends with -ESTALE. */
	bool further;
	struct sftp_link *first;    /* further: the one everything goes over */
	struct sftp_link *base;	    /* a channel: of that one's connection */
	struct sftp_link *channels; /* beside this one, on its connection */
	struct sftp_link *next_channel;
	bool asked;	  /* a channel that comes up: for the server's VERSION, */
	unsigned to_come; /* and what else is to be answered first */
	uint64_t refused; /* a channel that did not come up, with this generation of its base */
	bool fits;	  /* further, the owner's: leads to the same server as the first */
	uint64_t beside;  /* likewise: as was seen with this generation of the first */
	void *owner;
	void (*changed)(struct sftp_link *link); /* further: came up, did not, or is lost */
	/* The owner's, or NULL: an untouched file was opened again and is what it was. */
	void (*same)(struct sftp_link *link, const struct sftp_open *open);
	/* The owner's, or NULL: is its name being changed? It is opened again when that is known,
	 * which sftp_open_moved() tells. */
	bool (*moves)(struct sftp_link *link, const struct sftp_open *open);
	struct cv_loop *loop;
	const struct cv_dict *options;
	bool soft;
	uint64_t timeout_ms;
	/* Where the server's process is noted for a successor, before anything is asked of it and
	 * until all is answered; the first link's of CV_PEERS. */
	uint64_t *peer;
	/* Of a connection that is lost, which may still carry out what will be sent again. */
	struct sftp_predecessors before;
	struct sftp_awaiting *awaiting; /* further: its process, and the WRITEs wait, too */
	enum sftp_link_state state;
	uint64_t generation; /* of the connection; 0 before the first */
	struct sftp_session session;
	struct cv_watch watch;
	struct cv_deferred flush;
	struct cv_timer tick;  /* liveness, soft deadlines */
	struct cv_timer retry; /* next attempt */
	struct sftp_job *job;
	uint64_t backoff_ms;
	uint64_t attempt_ms; /* how long the next attempt may take */
	unsigned attempts;   /* since the connection was lost */
	uint64_t down_since_ns;
	uint64_t up_since_ns;

	struct cv_sftp_parser parser;
	int broken; /* -errno: found in a callback, dealt with after it */
	const char *broken_why;
	struct sftp_request *table[SFTP_IN_FLIGHT_MAX];
	uint16_t slots[SFTP_IN_FLIGHT_MAX]; /* free ones: [in_flight..MAX) */
	uint32_t slot_use[SFTP_IN_FLIGHT_MAX];
	unsigned in_flight;
	uint64_t order;
	struct sftp_queue meta;
	struct sftp_queue reads;
	struct sftp_queue writes;
	bool write_turn;

	struct cv_sftp_out stage; /* encoded and not yet handed over, from stage_off */
	size_t stage_off;
	struct sftp_request *direct; /* WRITE whose data goes over without a copy */
	size_t direct_off;

	size_t bulk_bytes[2]; /* of READs and WRITEs submitted and not answered */
	size_t read_bytes;    /* in flight */
	size_t write_bytes;
	size_t read_limit;
	size_t write_limit;
	uint64_t rate_start_ns;
	uint64_t rate_bytes;
	uint64_t rtt_ns;

	uint64_t seen_in; /* socket counter, and when it last moved */
	uint64_t seen_ns;
	bool provoked;
	uint64_t taken; /* of sftp_link_heard_ns() */
	uint64_t taken_ns;

	uint64_t reconnects;
	uint64_t bytes_read;
	uint64_t bytes_written;
	uint64_t open_handles;
	struct sftp_foresight foresight;
	char last_error[256];
	uint64_t last_error_s;
};

/*
 * Connects; blocks for mount_timeout_ms at most, and, where peers say that there was a predecessor,
 * for the timeout of options until the server is done with what that has sent. On failure nothing
 * is left. options, peers (CV_PEERS): outlive link.
 */
int sftp_link_start(struct sftp_link *link, const struct cv_dict *options, struct cv_loop *loop,
		    uint64_t mount_timeout_ms, uint64_t *peers, struct cv_err *err);
/* One more to the same server and root, for when sftp_link_try() says; number: from 1 on, less than
 * CV_PEERS. NULL: out of memory. */
struct sftp_link *sftp_link_further(struct sftp_link *first, unsigned number, void *owner,
				    void (*changed)(struct sftp_link *link));
/* The same, but as a channel of the first one's connection: no login, and lost with it. */
struct sftp_link *sftp_link_channel(struct sftp_link *first, unsigned number, void *owner,
				    void (*changed)(struct sftp_link *link));
/* May more of that kind be submitted, so that the line stays busy and others can have the rest? */
bool sftp_link_room(const struct sftp_link *link, int kind);
/* Starts to connect, unless it does already; changed() tells how that went. */
void sftp_link_try(struct sftp_link *link);
/* Ends everything; no request is left by contract, except our own CLOSEs. */
void sftp_link_stop(struct sftp_link *link);
/* Asks the server for a sign of life, unless that is under way. */
void sftp_link_provoke(struct sftp_link *link);
/* When there was the last one, as far as is known now: also bytes of ours that it has taken. */
uint64_t sftp_link_heard_ns(struct sftp_link *link);
void sftp_link_submit(struct sftp_link *link, struct sftp_request *req);
/* Gives handle back to the server without waiting for the answer. */
void sftp_link_close_handle(struct sftp_link *link, const struct sftp_handle *handle,
			    uint64_t generation);
/* Is it worth asking along with an OPEN? */
bool sftp_link_foresees(const struct sftp_link *link);
/* Was it open's handle that was foreseen? Answered OPENs only. */
bool sftp_open_same(const struct sftp_open *foreseen, const struct sftp_open *open);
/* The handle of an OPEN's or OPENDIR's successful answer. */
void sftp_open_take(struct sftp_open *open, const struct sftp_reply *reply, uint64_t generation);
/* Its name was being changed, and is no longer. */
void sftp_open_moved(struct sftp_link *link, struct sftp_open *open);
/* Frees what open owns, closing its handle. Nobody waits for it. */
void sftp_open_release(struct sftp_link *link, struct sftp_open *open);

/* sftp_login.c: the blocking part. */
int sftp_login(const struct cv_dict *options, const char *known_root,
	       const struct sftp_predecessors *before, struct cv_ssh_limit *limit,
	       struct sftp_session *ret_session, struct cv_err *err);
void sftp_session_release(struct sftp_session *session);
/* What session found out about its server, and nothing that session owns. ssh: goes into it. */
struct sftp_session sftp_session_beside(const struct sftp_session *session, struct cv_ssh *ssh);
/* The number in the answer to READLINK of SFTP_PROC_SELF; 0: there is none. */
uint64_t sftp_process(uint8_t type, const uint8_t *body, size_t size);
void sftp_warn_of_late(const char *host, uint64_t pid, uint64_t waited_ms);
int sftp_status_errno(uint32_t status);
const char *sftp_ext_name(enum sftp_ext ext);

#endif
