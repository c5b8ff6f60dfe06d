/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a mount has done and how it is: written by its worker, read by the daemon, in the shared
 * memory file that outlives both a worker and its successor (config/handoff.h). Reading is copying:
 * it never waits for a worker, not even for one that hangs. Counters go on where a replaced worker
 * stopped.
 *
 * One writer, the worker's loop thread; any number of readers in other processes. Every number is
 * an aligned word that is loaded and stored as a whole; numbers are not consistent with each other
 * to the last operation.
 */
#ifndef CV_CONFIG_COUNTERS_H
#define CV_CONFIG_COUNTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CV_COUNTERS_OFFSET  (64u * 1024)	  /* in the shared memory file */
#define CV_COUNTERS_MAX	    (64u * 1024)	  /* bytes kept for it */
#define CV_COUNTERS_MAGIC   0x31544e434c4f5643ull /* "CVOLCNT1" */
#define CV_COUNTERS_VERSION 1

/* The operations of an engine (backends/backend.h). */
enum cv_call {
	CV_CALL_LOOKUP,
	CV_CALL_GETATTR,
	CV_CALL_SETATTR,
	CV_CALL_READLINK,
	CV_CALL_MKNOD,
	CV_CALL_MKDIR,
	CV_CALL_SYMLINK,
	CV_CALL_LINK,
	CV_CALL_UNLINK,
	CV_CALL_RMDIR,
	CV_CALL_RENAME,
	CV_CALL_OPEN,
	CV_CALL_CREATE,
	CV_CALL_READ,
	CV_CALL_WRITE,
	CV_CALL_FSYNC,
	CV_CALL_FALLOCATE,
	CV_CALL_LSEEK,
	CV_CALL_GETLK,
	CV_CALL_SETLK,
	CV_CALL_OPENDIR,
	CV_CALL_READDIR,
	CV_CALL_FSYNCDIR,
	CV_CALL_STATFS,
	CV_CALL_GETXATTR,
	CV_CALL_LISTXATTR,
	CV_CALL_SETXATTR,
	CV_CALL_REMOVEXATTR,
	CV_CALL_COPY,
	CV_CALL_COUNT
};
#define CV_CALLS_MAX 48			     /* room for more */
const char *cv_call_name(enum cv_call call); /* "lookup", … */

/* Latencies are told apart by what a user waits for. */
enum cv_latency_class {
	CV_LATENCY_READ,
	CV_LATENCY_WRITE,
	CV_LATENCY_SYNC,
	CV_LATENCY_META, /* names, attributes, listings */
	CV_LATENCY_COUNT
};
const char *cv_latency_name(enum cv_latency_class latency_class);
enum cv_latency_class cv_latency_class(enum cv_call call);

#define CV_BUCKETS 21
/* Upper bounds of a histogram's buckets, 20 µs to 50 s in steps 1-2-5; the last one has none (0).
 */
extern const uint64_t cv_bucket_bounds_us[CV_BUCKETS];

struct cv_histogram {
	uint64_t bucket[CV_BUCKETS]; /* operations in it, not cumulative */
	uint64_t sum_ns;
};

struct cv_call_counters {
	uint64_t done;
	uint64_t errors; /* see cv_counters_is_failure() */
};

enum cv_cache {
	CV_CACHE_PAGES, /* at open: are the kernel's pages of the file still good? */
	CV_CACHE_ATTR,	/* attributes answered without the server */
	CV_CACHE_LISTING,
	CV_CACHE_LINK,
	CV_CACHE_COUNT
};
#define CV_CACHES_MAX 8
const char *cv_cache_name(enum cv_cache cache);

struct cv_cache_counters {
	uint64_t hits;
	uint64_t misses;
};

struct cv_counters {
	uint64_t magic;	    /* stored last */
	uint64_t version;   /* of this layout */
	uint64_t workers;   /* how many have served this mount; more than one: it was replaced */
	uint64_t started_s; /* CLOCK_REALTIME: the first one began */
	uint64_t beat_ns;   /* CLOCK_MONOTONIC: last sign of life of the loop */
	uint64_t pid;	    /* of the present worker */

	/* the connection; sampled every second while busy, every five while idle */
	uint64_t connected;	     /* 0 or 1 */
	uint64_t connected_change_s; /* CLOCK_REALTIME: since when that is so */
	uint64_t reconnects;
	uint64_t rtt_us; /* measured when connecting; 0: unknown, or no network */

	/* operations of the engine: exact */
	uint64_t in_flight;   /* sent and not answered */
	uint64_t progress_ns; /* CLOCK_MONOTONIC: last answer, or first operation in flight */
	uint64_t bytes_read;
	uint64_t bytes_written;
	struct cv_call_counters calls[CV_CALLS_MAX];
	struct cv_histogram latency[CV_LATENCY_COUNT];

	/* the kernel's requests and what is kept here; sampled */
	uint64_t requests;	/* answered */
	uint64_t waiting;	/* being worked on: queue depth */
	uint64_t pending_bytes; /* written by applications, not on the server yet */
	uint64_t write_errors;	/* written data that the server refused */
	uint64_t nodes;
	uint64_t handles;
	struct cv_cache_counters caches[CV_CACHES_MAX];

	uint64_t error_sequence; /* odd: last_error is being written */
	uint64_t last_error_s;	 /* CLOCK_REALTIME; 0: none so far */
	char last_error[256];	 /* one line for people, no secret */
};

/* ---- the worker's side ---- */

/*
 * region: what lies at CV_COUNTERS_OFFSET in the mapping. Goes on with what is there, or starts
 * anew if it is empty or has another layout. Counts this process as a worker.
 */
struct cv_counters *cv_counters_attach(void *region);
/* A sign of life of a process that has not attached yet; of what is not there, none. */
void cv_counters_beat(void *region, uint64_t now_ns);
/* c may be NULL in all of these. */
void cv_counters_begin(struct cv_counters *c, uint64_t now_ns);
/* result: as completed; a count or -errno. */
void cv_counters_end(struct cv_counters *c, enum cv_call call, uint64_t begun_ns, uint64_t now_ns,
		     ssize_t result);
void cv_counters_cache(struct cv_counters *c, enum cv_cache cache, bool hit);
void cv_counters_error(struct cv_counters *c, const char *text, uint64_t when_s);
void cv_counters_connected(struct cv_counters *c, bool connected);

static inline void cv_counters_set(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_RELAXED);
}
static inline void cv_counters_add(uint64_t *counter, uint64_t n)
{
	cv_counters_set(counter, *counter + n); /* one writer */
}

/*
 * Is -errno a failure, or an answer that well-behaved programs ask for: no such file, not allowed,
 * not empty, not supported?
 */
bool cv_counters_is_failure(ssize_t result);

/* ---- the readers' side ---- */

/* beat_ns alone; 0: there is none. */
uint64_t cv_counters_read_beat(int shm_fd);
/* A copy. 0; -ENODATA: none there, or of another version; -errno of mmap(2). */
int cv_counters_read(int shm_fd, struct cv_counters *ret);

enum cv_health {
	CV_HEALTH_OK,
	CV_HEALTH_WAITING, /* for the server: not connected, or no answer for a while */
	CV_HEALTH_HUNG,	   /* the worker itself shows no sign of life */
};
#define CV_HEALTH_WAITING_MS 5000
#define CV_HEALTH_HUNG_MS    15000 /* three times what an idle worker sleeps */
/* now_ns: cv_now_ns(). *ret_since_s: CLOCK_REALTIME, since when; 0 for OK. */
enum cv_health cv_counters_health(const struct cv_counters *c, uint64_t now_ns,
				  uint64_t *ret_since_s);

uint64_t cv_counters_operations(const struct cv_counters *c); /* all that have ended */
uint64_t cv_counters_errors(const struct cv_counters *c);     /* failures among them */
uint64_t cv_counters_latency_sum_ns(const struct cv_counters *c);
/* The value below which the share (0 to 1) of the operations lies, in microseconds, by
 * interpolation within a bucket; 0 when there are none. */
uint64_t cv_histogram_quantile_us(const struct cv_histogram *h, double share);

#endif
