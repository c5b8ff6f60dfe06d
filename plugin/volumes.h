/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The volumes there are, who has them mounted, and what must be remembered about both. Mounting
 * itself is behind struct cv_mounter. All calls are thread-safe.
 *
 * Mount IDs are counted, per ID: dockerd sends the same one again for `docker cp`, Podman always
 * the same. Counts survive this process in records (RUN_DIR/volumes). A dockerd that is killed
 * forgets its mounts and then sends the same IDs again; each new dockerd is an epoch, and epochs
 * are counted apart. What is left of older ones is forgotten once no process has used the mount for
 * a minute: so neither does a missing Unmount keep a mount for ever, nor does a repeated ID take it
 * away from a living container.
 *
 * Locks, in this order:
 *   volume->op       one per volume: starting and ending its mount, removing it. Held while a
 *                    worker connects; waited for with a deadline.
 *   volumes->create  creating and deleting state files. Held during disk writes only.
 *   volumes->lock    everything else. Held for moments; get and list take only this one, so they
 *                    answer whatever the servers do.
 *   the mounter's    (leaf)
 */
#ifndef CV_PLUGIN_VOLUMES_H
#define CV_PLUGIN_VOLUMES_H

#include <stdbool.h>
#include <stddef.h>

#include "config/dict.h"
#include "config/err.h"
#include "plugin/message.h"
#include "plugin/supervisor.h"

struct cv_volumes;

/* How mounting is done; the supervisor's functions (supervisor.h, mountpoint.h) or a test's. */
struct cv_mounter {
	int (*mount)(void *ctx, const struct cv_mount_spec *spec, struct cv_worker **ret,
		     struct cv_err *err);
	int (*probe)(void *ctx, const struct cv_mount_spec *spec, struct cv_err *err);
	int (*adopt)(void *ctx, const struct cv_record *record, const struct cv_dict *options,
		     const char *socket_name, struct cv_worker **ret, struct cv_err *err);
	int (*sync)(struct cv_worker *worker, unsigned timeout_ms, struct cv_err *err);
	int (*unmount)(struct cv_worker *worker, struct cv_err *err); /* drops the reference */
	void (*info)(struct cv_worker *worker, struct cv_worker_info *ret);
	int (*upgrade)(struct cv_worker *worker, const struct cv_dict *options, struct cv_err *err);
	int (*log_level)(struct cv_worker *worker, enum cv_log_level level, struct cv_err *err);
	struct cv_worker *(*ref)(struct cv_worker *worker);
	void (*unref)(struct cv_worker *worker);
	int (*prepare)(const char *mountpoint, struct cv_err *err);
	int (*detach)(const char *mountpoint);
	void (*remove)(const char *mountpoint);
	bool (*is_mounted)(const char *mountpoint, uint64_t dev);
	bool (*in_use)(const char *mountpoint, uint64_t dev); /* by any process, container or not */
};

struct cv_volumes_config {
	const char *state_dir;
	const char *config_dir; /* of remotes.h */
	const char *run_dir;	/* absolute, exists */
	const struct cv_mounter *mounter;
	void *mounter_ctx;
	unsigned boot_wait_ms; /* how long a Mount waits for a server while the host boots */
};

/*
 * Reads all state, adopts living workers, detaches what is dead. A file that cannot be read makes a
 * volume that cannot be mounted; it never makes this fail.
 */
int cv_volumes_new(const struct cv_volumes_config *config, struct cv_volumes **ret,
		   struct cv_err *err);
/* Lets go; mounts stay. No other call is under way any more. */
void cv_volumes_free(struct cv_volumes *volumes);

/* opts is not changed; literal secrets are moved into files. The same again is success. */
int cv_volumes_create(struct cv_volumes *volumes, const char *name, const struct cv_dict *opts,
		      struct cv_err *err);
/*
 * Changes options of a volume: those of opts are set, those named in unset (comma-separated, may be
 * NULL) removed. *ret_text, the caller's: which changes count now and which from the next mount on.
 */
int cv_volumes_update(struct cv_volumes *volumes, const char *name, const struct cv_dict *opts,
		      const char *unset, char **ret_text, struct cv_err *err);
/*
 * Keeps the data (on_delete=archive: under another name). Refused while mounted. leaked_counts: the
 * caller is dockerd, which asks only when no container refers to the volume any more: counts that
 * no process stands behind are leftovers then.
 */
int cv_volumes_remove(struct cv_volumes *volumes, const char *name, bool leaked_counts,
		      struct cv_err *err);
/*
 * Waits mount_timeout for the server (4 s for Podman), boot_wait_ms while the host boots. Caller
 * frees *ret_mountpoint.
 */
int cv_volumes_mount(struct cv_volumes *volumes, const char *name, const char *id,
		     char **ret_mountpoint, struct cv_err *err);
/*
 * Success for IDs and names that are not known. Otherwise the reference is dropped in any case; an
 * error says that written data is not on the server.
 */
int cv_volumes_unmount(struct cv_volumes *volumes, const char *name, const char *id,
		       struct cv_err *err);
/* Never blocks for longer than a moment. Caller: cv_view_release(), cv_views_free(). */
int cv_volumes_get(struct cv_volumes *volumes, const char *name, struct cv_view *ret,
		   struct cv_err *err);
int cv_volumes_views(struct cv_volumes *volumes, struct cv_view **ret_views, size_t *ret_count,
		     struct cv_err *err);
/* The same without what each is doing. Caller: cv_listed_free(). */
int cv_volumes_list(struct cv_volumes *volumes, struct cv_listed **ret_list, size_t *ret_count,
		    struct cv_err *err);

/* How many there are, and how many of them have a living mount. */
void cv_volumes_count(struct cv_volumes *volumes, size_t *ret_total, size_t *ret_mounted);

/* What the worker of a mounted volume logs, until it ends. */
int cv_volumes_log_level(struct cv_volumes *volumes, const char *name, enum cv_log_level level,
			 struct cv_err *err);

/* A new dockerd has introduced itself. */
void cv_volumes_new_epoch(struct cv_volumes *volumes);

/* Lines for people, owned. */
struct cv_findings {
	char **lines;
	size_t count;
};
void cv_findings_release(struct cv_findings *findings);
__attribute__((format(printf, 2, 3))) void cv_findings_add(struct cv_findings *findings,
							   const char *fmt, ...);

/*
 * Reconciles what is known with what is there: detaches mounts without a living worker, forgets
 * counts of earlier dockerds that no process stands behind, removes empty mountpoints, sockets
 * nobody listens on and records of volumes that are no more. Nothing is removed recursively, and no
 * volume that is being mounted or unmounted is touched. dry_run: only says so. Waits for servers
 * for some ten seconds in all at most.
 */
int cv_volumes_gc(struct cv_volumes *volumes, bool dry_run, struct cv_findings *found,
		  struct cv_err *err);

/* Lets the installed worker program take over every mount, one after the other; a line for each. */
void cv_volumes_upgrade(struct cv_volumes *volumes, struct cv_findings *found);

/* Now and then: ends mounts that nobody uses and whose data has reached the server at last. */
void cv_volumes_tick(struct cv_volumes *volumes);

/* Podman's one mount ID for everything, SHA-256 of "placeholder\n". */
#define CV_PODMAN_ID "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2"

#endif
