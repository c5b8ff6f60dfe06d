/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's side of a mount: the bare directory, mount(2) over it, the mount table. Nothing here
 * waits for the file system it mounts: paths below a mountpoint are never looked at, and the mount
 * table is read from /proc/self/mountinfo. A mountpoint is only ever rmdir()ed.
 */
#ifndef CV_PLUGIN_MOUNTPOINT_H
#define CV_PLUGIN_MOUNTPOINT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "config/dict.h"
#include "config/err.h"

#define CV_FSTYPE "fuse.cvol"

struct cv_mount_entry {
	char *path;   /* owned */
	char *fstype; /* owned */
	char *source; /* owned */
	unsigned dev_major;
	unsigned dev_minor;
	bool readonly; /* this mount, whatever the file system is */
};
void cv_mount_entry_release(struct cv_mount_entry *entry);
#define cv_cleanup_entry __attribute__((cleanup(cv_mount_entry_release)))

/* One line of mountinfo. 0 or -EBADMSG. */
int cv_mount_entry_parse(const char *line, struct cv_mount_entry *ret);

/* The topmost mount exactly at path. 0, -ENOENT, -errno. */
int cv_mount_find(const char *path, struct cv_mount_entry *ret);

/* Where else the file system dev is mounted than at path; caller frees; NULL: nowhere. */
char *cv_mount_elsewhere(const char *path, uint64_t dev);

/* Calls each() with every mount of ours (CV_FSTYPE) below directory dir. */
int cv_mount_each_below(const char *dir, void (*each)(void *ctx, const char *path), void *ctx);

/*
 * Makes the bare mountpoint of a volume: detaches leftover mounts of ours, refuses those of others,
 * then mkdir with mode 0000, or the existing directory if it is empty and no symlink.
 */
int cv_mountpoint_prepare(const char *path, struct cv_err *err);

struct cv_attach {
	const char *path;    /* absolute */
	const char *source;  /* shown in mount tables; no secret */
	const char *context; /* SELinux context, or NULL */
	bool readonly;
	unsigned rootmode; /* type and permissions of the root */
	unsigned max_read; /* bytes */
	int shm_fd;	   /* receives the FUSE_INIT request */
};

/*
 * Opens /dev/fuse, mounts, stores FUSE_INIT unanswered in the shared memory, makes the descriptor
 * non-blocking and checks that path now is this mount. Nothing stays mounted on failure.
 */
int cv_mountpoint_attach(const struct cv_attach *attach, int *ret_fuse, uint64_t *ret_dev,
			 struct cv_err *err);

/*
 * False when the mount table shows something else than a CV_FSTYPE of device dev on top at path, or
 * nothing. A table that cannot be read is no reason to give a mount up: true.
 */
bool cv_mountpoint_is(const char *path, uint64_t dev);

/*
 * Lazily unmounts what of ours is mounted at path. Bounded: when the kernel has to write pages back
 * to a server that is away, that goes on in a thread of its own. 0, or -errno when it is still
 * there.
 */
int cv_mountpoint_detach(const char *path);

/* The same for the topmost mount, and not lazily: -EBUSY while it is used. */
int cv_mountpoint_unmount(const char *path);

/* rmdir, if nothing is mounted there. */
void cv_mountpoint_remove(const char *path);

/* Sets one of the kernel's settings for a file system, in /sys/class/bdi: read_ahead_kb, max_ratio.
 * Without the right to, it stays as it is. */
void cv_mountpoint_set_bdi(uint64_t dev, const char *name, unsigned value);

/* "1234 (bash), …": processes that hold something below path, at most a few; "" if none is seen. */
void cv_mountpoint_users(const char *path, uint64_t dev, char *out, size_t size);
bool cv_mountpoint_in_use(const char *path, uint64_t dev);

#endif
