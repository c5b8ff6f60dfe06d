/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers: starts cvol-fuse for a mount, hands it its descriptors, watches it, talks to it, finds
 * it again after a restart of this process. Knows nothing about volumes or mount IDs. Keeps the
 * FUSE descriptor and the shared memory of every mount, so that a mount is more than its worker:
 * when one dies, another takes over on the same descriptors and its users see a pause.
 *
 * Locks: one per supervisor, a leaf, never held while waiting for a worker.
 */
#ifndef CV_PLUGIN_SUPERVISOR_H
#define CV_PLUGIN_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "config/counters.h"
#include "config/dict.h"
#include "config/err.h"
#include "config/log.h"
#include "plugin/state.h"

struct cv_supervisor;
struct cv_worker; /* reference-counted */

/*
 * A worker without a sign of life for so long (its event loop gives one every one to five seconds,
 * also while it waits for a server) is killed, and another one takes over. Counted is time in which
 * this process ran: a host or a service that was suspended makes no worker a hung one.
 */
#define CV_HANG_LIMIT_S	    30
#define CV_HANG_LIMIT_MIN_S 10

struct cv_supervisor_config {
	const char *worker_path; /* NULL: cvol-fuse beside this program, else the installed one */
	const char *socket_dir;	 /* absolute; created 0700 */
	int worker_stderr;	 /* descriptor for the workers' messages; -1: ours */
	unsigned hang_limit_ms;	 /* see CV_HANG_LIMIT_S; 0: none */
	/* Another worker has taken over a mount; on a thread of ours, no lock held. May be NULL. */
	void (*replaced)(void *arg, struct cv_worker *worker);
	void *arg;
};

int cv_supervisor_new(const struct cv_supervisor_config *config, struct cv_supervisor **ret,
		      struct cv_err *err);
/* Lets go of all workers, which go on serving. No other call is under way any more. */
void cv_supervisor_free(struct cv_supervisor *sup);

/* Ends the workers that are still connecting; their mounts fail. For a process that has to stop. */
void cv_supervisor_abandon(struct cv_supervisor *sup);

struct cv_mount_spec {
	const char *volume;	 /* for people and ps */
	const char *socket_name; /* file name in socket_dir; at most CV_ENCODED_SOCKET + 5 bytes */
	const char *mountpoint;	 /* absolute, prepared by the caller */
	const struct cv_dict *options;
	unsigned timeout_ms; /* for everything until the mount is usable */
	bool bare; /* the mountpoint is made and removed by us; false: the user's directory */
};

/*
 * Starts a worker, waits until it is connected, mounts, waits until it serves. Blocks for
 * timeout_ms at most (plus a moment for cleaning up). On failure nothing is left behind, and err
 * says which step failed; the caller adds volume and source. The worker returned is referenced.
 */
int cv_supervisor_mount(struct cv_supervisor *sup, const struct cv_mount_spec *spec,
			struct cv_worker **ret, struct cv_err *err);

/*
 * Starts a worker, waits until it is connected, and ends it: everything that mounting would do
 * except mounting. Of spec, mountpoint and socket_name are not used. Blocks for timeout_ms at most.
 * *ret_ready, released by the caller: what the worker says of the server (handoff.h, ready).
 */
int cv_supervisor_probe(struct cv_supervisor *sup, const struct cv_mount_spec *spec,
			struct cv_dict *ret_ready, struct cv_err *err);

/*
 * Connects to the living worker of a record's mount and takes its descriptors; without one, takes
 * those that the service manager kept and starts another worker. options: what that one is told.
 * Bounded to a few seconds.
 */
int cv_supervisor_adopt(struct cv_supervisor *sup, const struct cv_record *record,
			const struct cv_dict *options, const char *socket_name,
			struct cv_worker **ret, struct cv_err *err);

/* Every byte written so far is on the server. Blocks for timeout_ms at most, and not at all, or for
 * a moment, while the server is away (-ETIMEDOUT): the worker goes on trying. */
int cv_worker_sync(struct cv_worker *worker, unsigned timeout_ms, struct cv_err *err);

/*
 * Lets the worker program as it is installed now take over from the one that runs; users of the
 * mount see a pause. options: other ones from now on, of the same place; NULL: the same. Waits
 * until it serves, for a few seconds. -EPROTO: it cannot, and the old one goes on.
 */
int cv_worker_upgrade(struct cv_worker *worker, const struct cv_dict *options, struct cv_err *err);

/*
 * Detaches the mountpoint, gives the worker a moment to end, removes the bare mountpoint. A worker
 * whose mount is still used by a container lives on, watched, until that ends. Drops the reference.
 */
int cv_worker_unmount(struct cv_worker *worker, struct cv_err *err);
struct cv_worker *cv_worker_ref(struct cv_worker *worker);
void cv_worker_unref(struct cv_worker *worker); /* NULL is fine */

struct cv_worker_info {
	bool alive;	   /* serving, or being replaced, as far as is known */
	unsigned replaced; /* how often a worker of the mount died and another took over */
	pid_t pid;
	uint64_t start;
	uint64_t dev;
	bool made_subdir; /* mounting has created the directory that subdir names */
	char server[256]; /* for people */
	char error[512];  /* how it ended; "" */
	bool counted;	  /* counters are there: it has begun to serve */
	struct cv_counters counters;
};
void cv_worker_info(struct cv_worker *worker, struct cv_worker_info *ret); /* never waits */

/* Blocks until the worker has ended or timeout_ms are over (-1: no limit). True if it has ended. */
bool cv_worker_wait(struct cv_worker *worker, int timeout_ms);

/* The counters of a worker whose descriptors somebody else holds. -ETIMEDOUT: it hangs. */
int cv_worker_counters(int socket_dirfd, const char *socket_name, unsigned timeout_ms,
		       struct cv_counters *ret, struct cv_err *err);

/* "sync" or "log", for the process that has no supervisor: one request over socket_dir/name. */
int cv_worker_call(int socket_dirfd, const char *socket_name, const char *verb,
		   const struct cv_dict *args, unsigned timeout_ms, struct cv_err *err);
/* Of a running worker and its successors. Waits for a moment at most. */
int cv_worker_set_log_level(struct cv_worker *worker, enum cv_log_level level, struct cv_err *err);

#endif
