/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/process.h"

#include <errno.h>
#include <inttypes.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/procstat.h"

char cv_process_state(pid_t pid)
{
	char line[CV_PROC_STAT_MAX];
	const char *p = cv_proc_stat_read(pid, line) ? cv_proc_stat_field(line, 3) : NULL;

	return p ? *p : '\0';
}

uint64_t cv_process_start(pid_t pid)
{
	char line[CV_PROC_STAT_MAX];
	const char *p = cv_proc_stat_read(pid, line) ? cv_proc_stat_field(line, 22) : NULL;
	uint64_t start = 0;

	return p && sscanf(p, "%" SCNu64, &start) == 1 ? start : 0;
}

int cv_pidfd_open(pid_t pid)
{
	long fd = syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */

	return fd < 0 ? -errno : (int)fd;
}

int cv_process_open(pid_t pid, uint64_t start)
{
	int fd;

	if (pid <= 0)
		return -ESRCH;
	fd = cv_pidfd_open(pid);
	if (fd < 0)
		return fd;
	/* Compared with the descriptor in hand: from here on the number cannot be reused. */
	if (cv_process_start(pid) != start) {
		(void)close(fd);
		return -ESRCH;
	}
	return fd;
}

int cv_pidfd_signal(int pidfd, int sig)
{
	return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

bool cv_wait_readable(int fd, int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	uint64_t deadline = cv_clock_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0);
	int r;

	do {
		r = poll(&pfd, 1, cv_clock_left_ms(deadline));
	} while (r < 0 && errno == EINTR);
	return r > 0;
}

uint64_t cv_clock_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int cv_clock_left_ms(uint64_t deadline_ms)
{
	uint64_t now = cv_clock_ms();

	if (now >= deadline_ms)
		return 0;
	return deadline_ms - now > INT_MAX ? INT_MAX : (int)(deadline_ms - now);
}

struct timespec cv_clock_timespec(uint64_t deadline_ms)
{
	return (struct timespec){ .tv_sec = (time_t)(deadline_ms / 1000),
				  .tv_nsec = (long)(deadline_ms % 1000) * 1000000 };
}

void cv_sleep_s(double seconds)
{
	struct timespec left = { .tv_sec = (time_t)seconds };

	left.tv_nsec = (long)((seconds - (double)left.tv_sec) * 1e9);
	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}
