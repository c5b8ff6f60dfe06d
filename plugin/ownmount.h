/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounts without a daemon: what `cvol mount` leaves in RUN_DIR/mounts for `cvol unmount` to find.
 * Named after the directory, so one directory has one such mount.
 */
#ifndef CV_PLUGIN_OWNMOUNT_H
#define CV_PLUGIN_OWNMOUNT_H

#include <limits.h>
#include <stdbool.h>

#include "config/dict.h"
#include "config/err.h"
#include "plugin/names.h"

struct cv_ownmount {
	int dir;			  /* owned: RUN_DIR/mounts */
	char *path;			  /* owned: the same as a path */
	char encoded[CV_ENCODED_MAX + 1]; /* the directory, as a file name */
	char record[NAME_MAX + 1];
	char log[NAME_MAX + 1]; /* what supervisor and worker print */
	char socket[CV_ENCODED_SOCKET + 8];
	char lock[NAME_MAX + 1];
};

/* create: makes the directories (0700) when missing. */
int cv_ownmount_open(const char *run_dir, const char *mountpoint, bool create,
		     struct cv_ownmount *ret, struct cv_err *err);
/*
 * One command at a time for a directory. Waits up to timeout_ms; returns a descriptor whose closing
 * unlocks, or -errno.
 */
int cv_ownmount_lock(const struct cv_ownmount *own, unsigned timeout_ms, struct cv_err *err);
void cv_ownmount_release(struct cv_ownmount *own);
/*
 * Moves literal secrets of canonical options into 0600 files that live as long as the mount (the
 * worker reads them again when it connects anew), and puts `<option>_file` in their place.
 */
int cv_ownmount_secrets(const struct cv_ownmount *own, struct cv_dict *options, struct cv_err *err);
/* Removes record, log, socket and secrets. */
void cv_ownmount_forget(const struct cv_ownmount *own);

/* A text that is the same for the same options; secrets left out. */
void cv_ownmount_digest(const struct cv_dict *options, char ret[65]);

/* What `cvol unmount` does. -ENOENT: there is no such mount. */
int cv_ownmount_unmount(const char *run_dir, const char *dir, bool force, struct cv_err *err);

/*
 * The directory's path as the mount table shows it, without ever asking the file system mounted
 * there: that may be dead or waiting for its server. Caller frees. NULL with errno and err.
 */
char *cv_ownmount_resolve(const char *dir, struct cv_err *err);

#endif
