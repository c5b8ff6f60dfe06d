/* SPDX-License-Identifier: Apache-2.0 */
#include "config/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/str.h"

#define LINE_MAX_BYTES 2048

static char log_who[320] = "cvol";
static enum cv_log_level log_max = CV_LOG_INFO;
static int log_journal;

void cv_log_init(const char *who, enum cv_log_level max_level)
{
	(void)cv_strcpy(log_who, sizeof(log_who), who);
	cv_log_set_level(max_level);
	log_journal = getenv("JOURNAL_STREAM") != NULL;
}

void cv_log_set_level(enum cv_log_level max_level)
{
	__atomic_store_n(&log_max, max_level, __ATOMIC_RELAXED);
}

enum cv_log_level cv_log_get_level(void)
{
	return __atomic_load_n(&log_max, __ATOMIC_RELAXED);
}

static const struct {
	const char *name;
	enum cv_log_level level;
} levels[] = {
	{ "error", CV_LOG_ERROR }, { "warning", CV_LOG_WARNING }, { "notice", CV_LOG_NOTICE },
	{ "info", CV_LOG_INFO },   { "debug", CV_LOG_DEBUG },
};

int cv_log_level_parse(const char *text, enum cv_log_level *ret_level)
{
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (strcmp(text, levels[i].name) == 0) {
			*ret_level = levels[i].level;
			return 0;
		}
	}
	return -EINVAL;
}

static const char *level_name(enum cv_log_level level)
{
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (levels[i].level == level)
			return levels[i].name;
	}
	return "?";
}

/* The line goes out in one write(), so that lines of several threads and processes do not mix. */
void cv_log(enum cv_log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	int saved = errno, n;
	va_list ap;

	if (level > cv_log_get_level())
		return;
	if (log_journal) {
		n = snprintf(line, sizeof(line), "<%d>%s: ", (int)level, log_who);
	} else {
		struct timespec now;
		struct tm tm;

		(void)clock_gettime(CLOCK_REALTIME, &now);
		(void)gmtime_r(&now.tv_sec, &tm);
		n = snprintf(line, sizeof(line),
			     "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s: %s: ", tm.tm_year + 1900,
			     tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
			     now.tv_nsec / 1000000, log_who, level_name(level));
	}
	va_start(ap, fmt);
	(void)vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	for (char *p = line + n; *p; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	}
	n = (int)strlen(line);
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)n) < 0) {
		/* nowhere to say so */
	}
	errno = saved;
}
