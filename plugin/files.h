/* SPDX-License-Identifier: Apache-2.0 */
/* Small files of ours: whole reads with a bound, atomic replacement, directories. */
#ifndef CV_PLUGIN_FILES_H
#define CV_PLUGIN_FILES_H

#include <stddef.h>
#include <sys/types.h>

#include "config/err.h"

/* Opens dir below parent (AT_FDCWD: absolute), created with mode if missing. Returns an fd or
 * -errno. */
int cv_dir_open(int parent, const char *path, mode_t mode, struct cv_err *err);

/* mkdir -p: missing parents get 0755, the last one mode. 0 or -errno. */
int cv_mkdir_p(const char *path, mode_t mode, struct cv_err *err);

/*
 * The whole regular file, NUL-terminated; caller frees. Symlinks are not followed and fifos not
 * waited for. 0, -ENOENT, -EFBIG (over max bytes), -ENOTSUP (not a regular file), -errno.
 */
int cv_file_read(int dirfd, const char *name, size_t max, char **ret_data, size_t *ret_size);

/*
 * Writes a temporary file (0600), syncs it, renames it over name and syncs the directory:
 * afterwards either the old or the new content is there, whatever happens. 0 or -errno, then
 * nothing changed.
 */
int cv_file_replace(int dirfd, const char *name, const void *data, size_t size);

/*
 * flock(2), waiting for at most timeout_ms. 0, -EBUSY, -errno. Even the lock of a process that is
 * gone may take a moment: a child that it was just starting holds it until its exec().
 */
int cv_lock_exclusive(int fd, unsigned timeout_ms);

/* True for the temporary names cv_file_replace() makes: left over by a crash. */
int cv_file_is_temporary(const char *name);

#endif
