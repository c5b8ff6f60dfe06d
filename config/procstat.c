/* SPDX-License-Identifier: Apache-2.0 */
#include "config/procstat.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config/cleanup.h"

bool cv_proc_stat_read(pid_t pid, char line[CV_PROC_STAT_MAX])
{
	char path[32];
	cv_cleanup_close int fd = -1;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, line, CV_PROC_STAT_MAX - 1);
	line[n > 0 ? n : 0] = '\0';
	return n > 0;
}

const char *cv_proc_stat_field(const char *line, int n)
{
	/* The name in the second field may hold anything, but ends with the last ')' of the line.
	 */
	const char *p = strrchr(line, ')');

	for (int i = 2; p && i < n; i++) {
		p = strchr(p, ' ');
		p = p ? p + 1 : NULL;
	}
	return p;
}
