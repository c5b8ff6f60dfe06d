/* SPDX-License-Identifier: Apache-2.0 */
/* Telling processes apart for longer than their numbers do, and time limits. */
#ifndef CV_PLUGIN_PROCESS_H
#define CV_PLUGIN_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

/* Start time in clock ticks since boot; 0 when there is no such process. */
uint64_t cv_process_start(pid_t pid);

/* As in proc(5)'s stat: R, S, D, T, …; NUL when there is no such process. */
char cv_process_state(pid_t pid);

/* A pidfd for exactly this process, or -ESRCH, -errno. */
int cv_process_open(pid_t pid, uint64_t start);

int cv_pidfd_open(pid_t pid);		 /* fd or -errno */
int cv_pidfd_signal(int pidfd, int sig); /* 0 or -errno */
bool cv_wait_readable(int fd,
		      int timeout_ms); /* a pidfd becomes readable when its process has ended */

/* A point in time, CLOCK_MONOTONIC milliseconds, and what is left until it (0: over). */
uint64_t cv_clock_ms(void);
int cv_clock_left_ms(uint64_t deadline_ms);
void cv_sleep_s(double seconds); /* at least that long, unless a signal ends the process */
/* For pthread_mutex_clocklock() and conditions on CLOCK_MONOTONIC. */
struct timespec cv_clock_timespec(uint64_t deadline_ms);

#endif
