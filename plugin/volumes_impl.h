/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of volumes.h, shared by volumes.c (what volumes there are), volumes_mount.c (who uses
 * them), volumes_retry.c (servers that are late), volumes_load.c (finding all that
 * again at start) and volumes_gc.c (what is left of others).
 * Nobody else includes this. Lock order: volumes.h.
 */
#ifndef CV_PLUGIN_VOLUMES_IMPL_H
#define CV_PLUGIN_VOLUMES_IMPL_H

#include <limits.h>
#include <pthread.h>

#include "plugin/names.h"
#include "plugin/state.h"
#include "plugin/volumes.h"

#define CV_RETRIERS 4 /* attempts in the background at a time */

struct volume {
	struct volume *next; /* protected by volumes->lock */
	unsigned refs;	     /* likewise; the list holds one */
	pthread_mutex_t op;

	/* Fixed after creation, options and source apart: they change with op and lock held. */
	char *name; /* owned */
	char encoded[CV_ENCODED_MAX + 1];
	char socket_name[CV_ENCODED_SOCKET + 8];
	char *mountpoint; /* owned */
	char *source;	  /* owned */
	int64_t created;
	struct cv_dict options; /* canonical, as stored */
	char type[16];		/* of its engine; "" while its remote cannot be read */
	uint64_t mount_ms;	/* how long mounting may take; 0: not said */
	char *made;   /* owned, likewise: the place whose directory we created; NULL: none */
	char *broken; /* owned: why the state file cannot be used; NULL: it can */

	/* Protected by volumes->lock; worker changes only with op held as well. */
	bool removed;
	bool mounting;
	struct cv_worker *worker;
	struct cv_mount_id *ids; /* owned */
	size_t id_count;
	char error[CV_ERR_SIZE]; /* the last one, for people; "" */
	int64_t error_s;	 /* when that was, CLOCK_REALTIME; 0: never */
	unsigned attempts;	 /* mounts tried so far */
	struct cv_err last;	 /* of the last attempt; code 0: it succeeded */
	bool worked;		 /* was mounted once in this daemon's life */
	int64_t waiting_since;	 /* CLOCK_REALTIME, seconds: first of the attempts that failed */
	uint64_t waiting_until;	 /* a Mount goes on trying until then; 0: none does */
	uint64_t retry_at;	 /* next attempt in the background; 0: none is planned */
	uint64_t retry_until;
	unsigned retry_pause_ms;
	bool retrying;
	uint64_t kept_until;  /* mounted in the background: for a user to come */
	unsigned unmounting;  /* Unmounts that wait for data to be stored */
	bool unmount_failed;  /* one of them waited in vain */
	unsigned stale_ticks; /* how often only earlier dockerds' counts were seen, without users */
};

struct cv_volumes {
	pthread_mutex_t create;
	pthread_mutex_t lock;
	struct volume *list; /* protected by lock */
	unsigned epoch;	     /* protected by lock */
	struct cv_store store;
	char *config_dir; /* owned */
	char *run_dir;	  /* owned */
	int records;	  /* owned: RUN_DIR/volumes */
	const struct cv_mounter *mounter;
	void *ctx;
	unsigned boot_wait_ms;

	pthread_t retriers[CV_RETRIERS];
	unsigned retrier_count;	      /* protected by lock until they are stopped */
	bool retriers_stop;	      /* protected by lock */
	pthread_cond_t retriers_wake; /* with lock */
};

/* ---- volumes.c ---- */

struct volume *cv_volume_new(struct cv_volumes *vs, const char *name, const char *encoded);
void cv_volume_free(struct volume *v);
/* A reference, or NULL. */
struct volume *cv_volume_get(struct cv_volumes *vs, const char *name);
void cv_volume_unref(struct cv_volumes *vs, struct volume *v);
struct volume *cv_volume_find_locked(struct cv_volumes *vs, const char *name);
int cv_volume_unknown(const char *name, struct cv_err *err); /* -ENOENT, and says so */
/* Waits for the volume's turn (op), until deadline. -ENOENT when it was removed meanwhile. */
int cv_volume_lock(struct cv_volumes *vs, struct volume *v, uint64_t deadline, struct cv_err *err);
/* Takes options over on success. With lock held once others know the volume. */
int cv_volume_set_options(const struct cv_volumes *vs, struct volume *v, struct cv_dict *options);
/* Where a volume without a source lives; caller frees. */
char *cv_volume_default_path(const struct cv_volumes *vs, const char *encoded);

/*
 * What the user wrote, made canonical, and with a place to be; existing keeps its default one.
 * ret_effective may be NULL.
 */
int cv_volume_options(const struct cv_volumes *vs, const struct volume *existing, const char *name,
		      const char *encoded, const struct cv_dict *opts, struct cv_dict *ret,
		      struct cv_dict *ret_effective, struct cv_err *err);
/* With op held: writes the state file anew. */
int cv_volume_save(struct cv_volumes *vs, struct volume *v, struct cv_err *err);

/* ---- volumes_archive.c ---- */

/* Where a volume is, to compare: a place in another begins with that one's text. Caller frees. */
char *cv_volume_place(const struct cv_dict *effective);
/* With op held, just mounted: remembers in the state file that the directory is our work. */
void cv_volume_note_made(struct cv_volumes *vs, struct volume *v, const struct cv_dict *effective);
/*
 * With op held, not mounted: does what on_delete asks for. ret_name: the directory's new name, ""
 * if it stays as it is. A failure means that the volume must not be removed.
 */
int cv_volume_archive(struct cv_volumes *vs, struct volume *v, char ret_name[NAME_MAX + 1],
		      struct cv_err *err);

/* ---- volumes_mount.c ---- */

unsigned cv_volume_uses_locked(const struct volume *v);
bool cv_mount_id_is_current(const struct cv_volumes *vs, const struct cv_mount_id *id);
/* Users that the dockerd of today knows of, or that are not dockerd's. */
unsigned cv_volume_current_uses_locked(const struct cv_volumes *vs, const struct volume *v);
/* Referenced; wanted is called with volumes->lock held, NULL: all. Caller unrefs and frees. */
struct volume **cv_volumes_snapshot(struct cv_volumes *vs,
				    bool (*wanted)(const struct cv_volumes *vs,
						   const struct volume *v),
				    size_t *ret_count);
/* With op held: writes the record; a failure is logged. */
void cv_volume_record(struct cv_volumes *vs, struct volume *v);
/* Referenced, so that it can be talked to without op; NULL: not mounted. */
struct cv_worker *cv_volume_worker(struct cv_volumes *vs, struct volume *v);
void cv_volume_forget_ids(struct cv_volumes *vs, struct volume *v);
/* Its worker lives and its mountpoint shows the mount. */
bool cv_volume_is_mounted(struct cv_volumes *vs, struct volume *v);
/* Any process has it open or, in a container, mounted. */
bool cv_volume_is_used(struct cv_volumes *vs, struct volume *v);
/* Everything written is on the server; without op. */
int cv_volume_sync(struct cv_volumes *vs, struct volume *v, unsigned timeout_ms,
		   struct cv_err *err);
/* Ends a mount nobody uses, if its data gets stored within a few seconds; without op. */
void cv_volume_end_idle(struct cv_volumes *vs, struct volume *v);
/* With op held: clears what is left of a worker that ended. */
void cv_volume_drop_dead_worker(struct cv_volumes *vs, struct volume *v);
/* With op held and no users. */
void cv_volume_end_mount(struct cv_volumes *vs, struct volume *v);

/* With op held: one attempt. */
int cv_volume_attempt(struct cv_volumes *vs, struct volume *v, unsigned timeout_ms,
		      struct cv_err *err);

/* ---- volumes_retry.c: trying again, within a Mount and after it ---- */

struct cv_attempts {
	uint64_t last;	 /* the Mount's deadline */
	unsigned one_ms; /* for one attempt */
	unsigned seen;	 /* attempts there were before */
	bool patient;	 /* while the server cannot be reached, try again until the deadline */
	bool background; /* and after it */
};
void cv_volume_plan(struct cv_volumes *vs, const struct volume *v, const char *id,
		    struct cv_attempts *ret);
/*
 * With op held: attempts as planned. A server that cannot be reached is tried again while the host
 * boots, since dockerd does not ask again for a container that it could not start, and where the
 * volume has worked before. Elsewhere whoever made a mistake should hear of it at once.
 */
int cv_volume_attempts(struct cv_volumes *vs, struct volume *v, const struct cv_attempts *plan,
		       struct cv_err *err);
/* Attempts in the background, until one succeeds or half an hour is over. */
void cv_volume_retry_later(struct cv_volumes *vs, struct volume *v);
void cv_volume_retry_done_locked(struct volume *v);
void cv_volumes_retry_init(struct cv_volumes *vs);
/* Waits for attempts under way. */
void cv_volumes_retry_stop(struct cv_volumes *vs);

/* ---- volumes_load.c ---- */

/* Before any other thread is there. */
int cv_volumes_load(struct cv_volumes *vs, struct cv_err *err);

#endif
