/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line per event on stderr: text, or a JSON object. "<N>"-prefixed for journald when stderr is
 * a journal stream (JOURNAL_STREAM set); text then needs no time, else it begins with one, in UTC.
 * Mains, HTTP handlers and the supervisor log; leaves and engines only at debug level. Never pass a
 * secret here. Thread-safe; never fails.
 */
#ifndef CV_CONFIG_LOG_H
#define CV_CONFIG_LOG_H

enum cv_log_level {
	CV_LOG_ERROR = 3,
	CV_LOG_WARNING = 4,
	CV_LOG_NOTICE = 5,
	CV_LOG_INFO = 6,
	CV_LOG_DEBUG = 7,
};

enum cv_log_format { CV_LOG_TEXT, CV_LOG_JSON };

/* who: shown on each line, e.g. "cvol" or "cvol-fuse[media]": a program and its volume; copied. */
void cv_log_init(const char *who, enum cv_log_level max_level);
/* "text" or "json". Returns 0 or -EINVAL. */
int cv_log_set_format(const char *name);
const char *cv_log_get_format(void);
void cv_log_set_level(enum cv_log_level max_level);
enum cv_log_level cv_log_get_level(void);
/* "error", "warning", "notice", "info", "debug". Returns 0 or -EINVAL. */
int cv_log_level_parse(const char *text, enum cv_log_level *ret_level);
const char *cv_log_level_name(enum cv_log_level level);

__attribute__((format(printf, 2, 3))) void cv_log(enum cv_log_level level, const char *fmt, ...);

#define cv_error(...)	cv_log(CV_LOG_ERROR, __VA_ARGS__)
#define cv_warning(...) cv_log(CV_LOG_WARNING, __VA_ARGS__)
#define cv_notice(...)	cv_log(CV_LOG_NOTICE, __VA_ARGS__)
#define cv_info(...)	cv_log(CV_LOG_INFO, __VA_ARGS__)
#define cv_debug(...)                                                                              \
	do {                                                                                       \
		if (cv_log_get_level() >= CV_LOG_DEBUG)                                            \
			cv_log(CV_LOG_DEBUG, __VA_ARGS__);                                         \
	} while (0)

#endif
