/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service manager: what it handed to this process, and what it is told. sd_notify(3),
 * sd_listen_fds(3) and the descriptor store of systemd.service(5), spoken without its library. Of
 * the process, so it is kept once; before cv_systemd_init(), and where no manager started us, every
 * call is a no-op. All but init are thread-safe.
 *
 * The store keeps the two descriptors that make up a mount, /dev/fuse and the shared memory, while
 * no process of ours lives. systemd calls that parking "FDSTORE"; both are sent under one name, and
 * told apart by what they are when they come back.
 */
#ifndef CV_PLUGIN_SYSTEMD_H
#define CV_PLUGIN_SYSTEMD_H

#include <stdbool.h>
#include <stdint.h>

#define CV_PARKED_NAME_MAX 200 /* bytes, ASCII, no ':'; systemd takes 255 */

/* Takes everything from the environment and unsets it, so that no child believes it. Call before
 * the first thread. */
void cv_systemd_init(void);

/* Lines of sd_notify(3), e.g. "READY=1". Never waits: a manager that does not listen misses it. */
__attribute__((format(printf, 1, 2))) void cv_systemd_notify(const char *fmt, ...);

/* The first listening socket handed over, once; the caller's then. -1: none. */
int cv_systemd_take_socket(void);
/* How long the manager waits for a sign of life; 0: for ever. */
uint64_t cv_systemd_watchdog_ms(void);

/* Keeps duplicates for the next daemon. Waits a second or two at most for a busy manager. */
void cv_systemd_park(const char *name, int fuse_fd, int shm_fd);
/* The opposite, when the mount has ended. Never waits: what it misses, the next daemon drops. */
void cv_systemd_unpark(const char *name);
/* What an earlier daemon had parked; the caller's then, and parked still. False: not both there. */
bool cv_systemd_take_parked(const char *name, int *ret_fuse_fd, int *ret_shm_fd);
/* At the end of starting: closes and unparks what nobody took. */
void cv_systemd_drop_parked(void);

#endif
