/* SPDX-License-Identifier: Apache-2.0 */
#include "config/counters.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "config/err.h"
#include "config/loop.h"
#include "config/str.h"

#define ERROR_KEEP_S  10
#define ANSWER_MIN_NS 10000 /* sooner ends only what needed no server: no sign of life of it */
#define READ_TRIES    100   /* a worker that was killed while writing the text never finishes */

_Static_assert(sizeof(struct cv_counters) <= CV_COUNTERS_MAX, "counters fit");
_Static_assert(sizeof(struct cv_counters) % sizeof(uint64_t) == 0, "copied word by word");
_Static_assert(CV_CALL_COUNT <= CV_CALLS_MAX, "calls fit");
_Static_assert(CV_CACHE_COUNT <= CV_CACHES_MAX, "caches fit");

const uint64_t cv_bucket_bounds_us[CV_BUCKETS] = {
	20,	 50,	  100,	   200,	     500,      1000,	 2000,
	5000,	 10000,	  20000,   50000,    100000,   200000,	 500000,
	1000000, 2000000, 5000000, 10000000, 20000000, 50000000, 0,
};

static const struct {
	const char *name;
	enum cv_latency_class latency_class;
} calls[CV_CALL_COUNT] = {
	[CV_CALL_LOOKUP] = { "lookup", CV_LATENCY_META },
	[CV_CALL_GETATTR] = { "getattr", CV_LATENCY_META },
	[CV_CALL_SETATTR] = { "setattr", CV_LATENCY_META },
	[CV_CALL_READLINK] = { "readlink", CV_LATENCY_META },
	[CV_CALL_MKNOD] = { "mknod", CV_LATENCY_META },
	[CV_CALL_MKDIR] = { "mkdir", CV_LATENCY_META },
	[CV_CALL_SYMLINK] = { "symlink", CV_LATENCY_META },
	[CV_CALL_LINK] = { "link", CV_LATENCY_META },
	[CV_CALL_UNLINK] = { "unlink", CV_LATENCY_META },
	[CV_CALL_RMDIR] = { "rmdir", CV_LATENCY_META },
	[CV_CALL_RENAME] = { "rename", CV_LATENCY_META },
	[CV_CALL_OPEN] = { "open", CV_LATENCY_META },
	[CV_CALL_CREATE] = { "create", CV_LATENCY_META },
	[CV_CALL_READ] = { "read", CV_LATENCY_READ },
	[CV_CALL_WRITE] = { "write", CV_LATENCY_WRITE },
	[CV_CALL_FSYNC] = { "fsync", CV_LATENCY_SYNC },
	[CV_CALL_FALLOCATE] = { "fallocate", CV_LATENCY_META },
	[CV_CALL_LSEEK] = { "lseek", CV_LATENCY_META },
	[CV_CALL_GETLK] = { "getlk", CV_LATENCY_META },
	[CV_CALL_SETLK] = { "setlk", CV_LATENCY_META },
	[CV_CALL_OPENDIR] = { "opendir", CV_LATENCY_META },
	[CV_CALL_READDIR] = { "readdir", CV_LATENCY_META },
	[CV_CALL_FSYNCDIR] = { "fsyncdir", CV_LATENCY_SYNC },
	[CV_CALL_STATFS] = { "statfs", CV_LATENCY_META },
	[CV_CALL_GETXATTR] = { "getxattr", CV_LATENCY_META },
	[CV_CALL_LISTXATTR] = { "listxattr", CV_LATENCY_META },
	[CV_CALL_SETXATTR] = { "setxattr", CV_LATENCY_META },
	[CV_CALL_REMOVEXATTR] = { "removexattr", CV_LATENCY_META },
	[CV_CALL_COPY] = { "copy", CV_LATENCY_WRITE },
};

const char *cv_call_name(enum cv_call call)
{
	return call < CV_CALL_COUNT ? calls[call].name : "?";
}

enum cv_latency_class cv_latency_class(enum cv_call call)
{
	return call < CV_CALL_COUNT ? calls[call].latency_class : CV_LATENCY_META;
}

const char *cv_latency_name(enum cv_latency_class latency_class)
{
	static const char *const names[CV_LATENCY_COUNT] = { "read", "write", "sync", "meta" };

	return latency_class < CV_LATENCY_COUNT ? names[latency_class] : "?";
}

const char *cv_cache_name(enum cv_cache cache)
{
	static const char *const names[CV_CACHE_COUNT] = { "pages", "attr", "listing", "link" };

	return cache < CV_CACHE_COUNT ? names[cache] : "?";
}

/* ---- writing ---- */

struct cv_counters *cv_counters_attach(void *region)
{
	struct cv_counters *c = region;

	if (c->magic != CV_COUNTERS_MAGIC || c->version != CV_COUNTERS_VERSION) {
		cv_counters_set(&c->magic, 0);
		__atomic_thread_fence(__ATOMIC_RELEASE);
		memset(c, 0, sizeof(*c));
		c->version = CV_COUNTERS_VERSION;
		c->started_s = (uint64_t)time(NULL);
		__atomic_store_n(&c->magic, CV_COUNTERS_MAGIC, __ATOMIC_RELEASE);
	}
	cv_counters_add(&c->workers, 1);
	cv_counters_set(&c->pid, (uint64_t)getpid());
	cv_counters_set(&c->beat_ns, cv_now_ns());
	/* What the predecessor had in flight is counted again when it is sent again. */
	cv_counters_set(&c->in_flight, 0);
	if (c->error_sequence & 1)
		cv_counters_add(&c->error_sequence, 1);
	return c;
}

void cv_counters_beat(void *region, uint64_t now_ns)
{
	struct cv_counters *c = region;

	if (c->magic == CV_COUNTERS_MAGIC && c->version == CV_COUNTERS_VERSION)
		cv_counters_set(&c->beat_ns, now_ns);
}

void cv_counters_begin(struct cv_counters *c, uint64_t now_ns)
{
	if (!c)
		return;
	if (c->in_flight == 0)
		cv_counters_set(&c->progress_ns, now_ns);
	cv_counters_add(&c->in_flight, 1);
}

static void count_latency(struct cv_histogram *h, uint64_t ns)
{
	uint64_t us = ns / 1000;
	size_t i = 0;

	while (i < CV_BUCKETS - 1 && us > cv_bucket_bounds_us[i])
		i++;
	cv_counters_add(&h->bucket[i], 1);
	cv_counters_add(&h->sum_ns, ns);
}

/* The engine knows better what is wrong: its words are not overwritten by the errno they led to. */
static void count_failure(struct cv_counters *c, enum cv_call call, ssize_t result)
{
	uint64_t now_s = (uint64_t)time(NULL);
	char text[128];

	cv_counters_add(&c->calls[call].errors, 1);
	if (c->last_error_s + ERROR_KEEP_S > now_s)
		return;
	(void)snprintf(text, sizeof(text), "%s: %s", cv_call_name(call), cv_strerror((int)result));
	cv_counters_error(c, text, now_s);
}

void cv_counters_end(struct cv_counters *c, enum cv_call call, uint64_t begun_ns, uint64_t now_ns,
		     ssize_t result)
{
	if (!c)
		return;
	if (c->in_flight)
		cv_counters_set(&c->in_flight, c->in_flight - 1);
	if (now_ns >= begun_ns + ANSWER_MIN_NS)
		cv_counters_set(&c->progress_ns, now_ns);
	cv_counters_add(&c->calls[call].done, 1);
	if (cv_counters_is_failure(result))
		count_failure(c, call, result);
	if (result > 0 && call == CV_CALL_READ)
		cv_counters_add(&c->bytes_read, (uint64_t)result);
	if (result > 0 && call == CV_CALL_WRITE)
		cv_counters_add(&c->bytes_written, (uint64_t)result);
	count_latency(&c->latency[cv_latency_class(call)],
		      now_ns > begun_ns ? now_ns - begun_ns : 0);
}

void cv_counters_cache(struct cv_counters *c, enum cv_cache cache, bool hit)
{
	if (c)
		cv_counters_add(hit ? &c->caches[cache].hits : &c->caches[cache].misses, 1);
}

void cv_counters_error(struct cv_counters *c, const char *text, uint64_t when_s)
{
	if (!c)
		return;
	cv_counters_add(&c->error_sequence, 1);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	(void)cv_strcpy(c->last_error, sizeof(c->last_error), text);
	cv_counters_set(&c->last_error_s, when_s);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	cv_counters_add(&c->error_sequence, 1);
}

void cv_counters_connected(struct cv_counters *c, bool connected)
{
	if (!c || (c->connected_change_s && !!c->connected == connected))
		return;
	cv_counters_set(&c->connected, connected);
	cv_counters_set(&c->connected_change_s, (uint64_t)time(NULL));
}

bool cv_counters_is_failure(ssize_t result)
{
	static const int answers[] = { ENOENT, ENODATA, EEXIST,	 ENOTEMPTY, ENOTDIR, EISDIR,
				       EACCES, EPERM,	EROFS,	 ENOSYS,    ENOTSUP, EINVAL,
				       ERANGE, ENXIO,	ELOOP,	 EXDEV,	    EFBIG,   ENAMETOOLONG,
				       EINTR,  EBADF,	ETXTBSY, EMLINK,    EAGAIN };

	if (result >= 0)
		return false;
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		if (result == -answers[i])
			return false;
	}
	return true;
}

/* ---- reading ---- */

static void copy_words(struct cv_counters *to, const struct cv_counters *from)
{
	const uint64_t *src = (const void *)from;
	uint64_t *dst = (void *)to;

	for (size_t i = 0; i < sizeof(*to) / sizeof(uint64_t); i++)
		dst[i] = __atomic_load_n(&src[i], __ATOMIC_RELAXED);
}

static void copy_whole(struct cv_counters *to, const struct cv_counters *from)
{
	for (int i = 0; i < READ_TRIES; i++) {
		uint64_t before = __atomic_load_n(&from->error_sequence, __ATOMIC_ACQUIRE);

		copy_words(to, from);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(before & 1) &&
		    before == __atomic_load_n(&from->error_sequence, __ATOMIC_RELAXED))
			break;
	}
	to->last_error[sizeof(to->last_error) - 1] = '\0';
}

uint64_t cv_counters_read_beat(int shm_fd)
{
	struct cv_counters c; /* its head */

	if (pread(shm_fd, &c, offsetof(struct cv_counters, pid), (off_t)CV_COUNTERS_OFFSET) !=
		    (ssize_t)offsetof(struct cv_counters, pid) ||
	    c.magic != CV_COUNTERS_MAGIC || c.version != CV_COUNTERS_VERSION)
		return 0;
	return c.beat_ns;
}

int cv_counters_read(int shm_fd, struct cv_counters *ret)
{
	/* A mapping of its own each time: nothing to keep, so nothing to keep right. */
	const struct cv_counters *c =
		mmap(NULL, sizeof(*c), PROT_READ, MAP_SHARED, shm_fd, (off_t)CV_COUNTERS_OFFSET);
	int r = -ENODATA;

	if (c == MAP_FAILED)
		return -errno;
	if (__atomic_load_n(&c->magic, __ATOMIC_ACQUIRE) == CV_COUNTERS_MAGIC &&
	    c->version == CV_COUNTERS_VERSION) {
		copy_whole(ret, c);
		r = 0;
	}
	(void)munmap((void *)(uintptr_t)c, sizeof(*c));
	return r;
}

enum cv_health cv_counters_health(const struct cv_counters *c, uint64_t now_ns,
				  uint64_t *ret_since_s)
{
	uint64_t beat_ms = now_ns > c->beat_ns ? (now_ns - c->beat_ns) / 1000000 : 0;
	uint64_t quiet_ms = now_ns > c->progress_ns ? (now_ns - c->progress_ns) / 1000000 : 0;
	uint64_t now_s = (uint64_t)time(NULL);

	*ret_since_s = 0;
	if (beat_ms > CV_HEALTH_HUNG_MS) {
		*ret_since_s = now_s - beat_ms / 1000;
		return CV_HEALTH_HUNG;
	}
	if (!c->connected) {
		*ret_since_s = c->connected_change_s;
		return CV_HEALTH_WAITING;
	}
	if (c->in_flight && quiet_ms > CV_HEALTH_WAITING_MS) {
		*ret_since_s = now_s - quiet_ms / 1000;
		return CV_HEALTH_WAITING;
	}
	return CV_HEALTH_OK;
}

uint64_t cv_counters_operations(const struct cv_counters *c)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < CV_CALL_COUNT; i++)
		sum += c->calls[i].done;
	return sum;
}

uint64_t cv_counters_errors(const struct cv_counters *c)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < CV_CALL_COUNT; i++)
		sum += c->calls[i].errors;
	return sum;
}

uint64_t cv_counters_latency_sum_ns(const struct cv_counters *c)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < CV_LATENCY_COUNT; i++)
		sum += c->latency[i].sum_ns;
	return sum;
}

uint64_t cv_histogram_quantile_us(const struct cv_histogram *h, double share)
{
	uint64_t total = 0, below = 0;
	double rank;

	for (size_t i = 0; i < CV_BUCKETS; i++)
		total += h->bucket[i];
	rank = share * (double)total;
	for (size_t i = 0; total && i < CV_BUCKETS; i++) {
		uint64_t low = i ? cv_bucket_bounds_us[i - 1] : 0;
		uint64_t high = cv_bucket_bounds_us[i];

		if (h->bucket[i] && (double)(below + h->bucket[i]) >= rank) {
			if (!high) /* the open bucket: all that is known is its lower bound */
				return low;
			return low + (uint64_t)((double)(high - low) * (rank - (double)below) /
						(double)h->bucket[i]);
		}
		below += h->bucket[i];
	}
	return 0;
}
