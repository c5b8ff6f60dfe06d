/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is kept on disk: one JSON file per volume in STATE_DIR/volumes, literal secrets apart from
 * it in STATE_DIR/secrets, and records of what is mounted in RUN_DIR. Every file is replaced
 * atomically. A file that cannot be read is reported, never changed.
 */
#ifndef CV_PLUGIN_STATE_H
#define CV_PLUGIN_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "config/dict.h"
#include "config/err.h"
#include "plugin/names.h"

#define CV_STATE_VERSION 1
#define CV_STATE_MAX	 (8u << 20) /* bytes of one file */

struct cv_state {
	char *name;		/* owned */
	int64_t created;	/* seconds, CLOCK_REALTIME */
	struct cv_dict options; /* canonical, without secrets */
	char *made;		/* owned; the place whose directory cvol created; NULL: none */
};
#define CV_STATE_INIT                                                                              \
	{                                                                                          \
		NULL, 0, CV_DICT_INIT, NULL                                                        \
	}

void cv_state_release(struct cv_state *state);
#define cv_cleanup_state __attribute__((cleanup(cv_state_release)))

/*
 * 0, -EBADMSG (not ours, or damaged), -EPROTONOSUPPORT (written by a newer version); *ret is
 * untouched on failure.
 */
int cv_state_parse(const char *data, size_t size, struct cv_state *ret, struct cv_err *err);
char *cv_state_format(const struct cv_state *state); /* NULL: out of memory; caller frees */

/* The directory tree of a daemon. */
struct cv_store {
	char *path;  /* owned: absolute, no trailing slash */
	int volumes; /* owned descriptors */
	int secrets;
};
#define CV_STORE_INIT                                                                              \
	{                                                                                          \
		NULL, -1, -1                                                                       \
	}

/* Creates what is missing: path 0711, volumes and secrets 0700. */
int cv_store_open(const char *path, struct cv_store *store, struct cv_err *err);
void cv_store_release(struct cv_store *store);

int cv_store_load(const struct cv_store *store, const char *encoded, struct cv_state *ret,
		  struct cv_err *err);
int cv_store_save(const struct cv_store *store, const char *encoded, const struct cv_state *state,
		  struct cv_err *err);
/* Removes the state file first, then the volume's secrets. -ENOENT is success. */
int cv_store_delete(const struct cv_store *store, const char *encoded, struct cv_err *err);
/* Keeps an unreadable state file under another name, out of the way of a new volume. */
int cv_store_set_aside(const struct cv_store *store, const char *encoded, struct cv_err *err);
/* Calls each() for every state file; encoded is borrowed. */
int cv_store_list(const struct cv_store *store, void (*each)(void *ctx, const char *encoded),
		  void *ctx, struct cv_err *err);

/*
 * Moves literal secrets (CV_OPT_SECRET) of canonical options into files and puts `<option>_file` in
 * their place. replace == false: compares instead; `<option>_file` is CV_OTHER_SECRET then when the
 * stored secret is another one. On failure some may have been written: cv_store_delete() or
 * cv_store_prune_secrets().
 */
#define CV_OTHER_SECRET "(another secret)"
int cv_store_secrets(const struct cv_store *store, const char *encoded, struct cv_dict *options,
		     bool replace, struct cv_err *err);

/* Removes the secrets of a volume that its options do not name (any more). */
void cv_store_prune_secrets(const struct cv_store *store, const char *encoded,
			    const struct cv_dict *options);

/* ---- records of mounts ---- */

struct cv_mount_id {
	char *id; /* owned */
	unsigned count;
	unsigned epoch; /* of dockerd, see volumes.h */
};

struct cv_record {
	char *volume;	       /* owned; name, or the directory of `cvol mount` */
	char *mountpoint;      /* owned */
	char *source;	       /* owned; for people */
	char *server;	       /* owned; for people */
	char *digest;	       /* owned; of the options, `cvol mount` only; may be NULL */
	pid_t worker;	       /* 0: none known */
	uint64_t worker_start; /* clock ticks since boot: tells a reused pid apart */
	pid_t supervisor;      /* `cvol mount` only */
	uint64_t supervisor_start;
	uint64_t dev;		 /* st_dev of the mount */
	struct cv_mount_id *ids; /* owned */
	size_t id_count;
};
void cv_record_release(struct cv_record *record);
#define cv_cleanup_record __attribute__((cleanup(cv_record_release)))

int cv_record_parse(const char *data, size_t size, struct cv_record *ret, struct cv_err *err);
char *cv_record_format(const struct cv_record *record);
/* name: file name in dirfd. */
int cv_record_load(int dirfd, const char *name, struct cv_record *ret, struct cv_err *err);
int cv_record_save(int dirfd, const char *name, const struct cv_record *record, struct cv_err *err);

#endif
