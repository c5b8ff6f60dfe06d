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
#define LINE_END       4 /* kept for what ends a line */

static char log_who[320] = "cvol";
static enum cv_log_level log_max = CV_LOG_INFO;
static int log_journal;
static enum cv_log_format log_format = CV_LOG_TEXT;

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

const char *cv_log_level_name(enum cv_log_level level)
{
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (levels[i].level == level)
			return levels[i].name;
	}
	return "?";
}

int cv_log_set_format(const char *name)
{
	if (cv_str_eq(name, "json"))
		log_format = CV_LOG_JSON;
	else if (cv_str_eq(name, "text"))
		log_format = CV_LOG_TEXT;
	else
		return -EINVAL;
	return 0;
}

const char *cv_log_get_format(void)
{
	return log_format == CV_LOG_JSON ? "json" : "text";
}

/* ---- lines ---- */

struct line {
	char text[LINE_MAX_BYTES];
	size_t used; /* < LINE_MAX_BYTES - LINE_END */
};

static void put_bytes(struct line *l, const char *bytes, size_t size)
{
	size_t room = LINE_MAX_BYTES - LINE_END - l->used;

	if (size > room)
		size = room;
	memcpy(l->text + l->used, bytes, size);
	l->used += size;
}

static void put(struct line *l, const char *text)
{
	put_bytes(l, text, strlen(text));
}

static void put_time(struct line *l)
{
	struct timespec now;
	char text[64];
	struct tm tm;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)gmtime_r(&now.tv_sec, &tm);
	(void)snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ",
		       tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
		       tm.tm_sec, now.tv_nsec / 1000000);
	put(l, text);
}

/* Whole escapes only; what is not UTF-8, or was cut in the middle of a character, is made ASCII. */
static void put_json(struct line *l, const char *text, size_t size)
{
	size_t start = l->used;

	for (size_t i = 0; i < size && l->used + 8 < LINE_MAX_BYTES - LINE_END; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '"' || c == '\\')
			put_bytes(l, "\\", 1);
		put_bytes(l, c < 0x20 || c == 0x7f ? "?" : &text[i], 1);
	}
	l->text[l->used] = '\0';
	if (cv_str_is_utf8(l->text + start))
		return;
	for (size_t i = start; i < l->used; i++) {
		if ((unsigned char)l->text[i] >= 0x80)
			l->text[i] = '?';
	}
}

static void put_member(struct line *l, const char *key, const char *value, size_t size)
{
	put(l, ",\"");
	put(l, key);
	put(l, "\":\"");
	put_json(l, value, size);
	put(l, "\"");
}

static void format_json(struct line *l, enum cv_log_level level, const char *message)
{
	size_t program = strcspn(log_who, "[");
	size_t volume = log_who[program] ? strlen(log_who + program + 1) : 0;

	put(l, "{\"time\":\"");
	put_time(l);
	put(l, "\"");
	put_member(l, "level", cv_log_level_name(level), strlen(cv_log_level_name(level)));
	put_member(l, "program", log_who, program);
	if (volume)
		put_member(l, "volume", log_who + program + 1, volume - 1); /* without ']' */
	put_member(l, "message", message, strlen(message));
	memcpy(l->text + l->used, "}", 1); /* LINE_END has room for it */
	l->used++;
}

static void format_text(struct line *l, enum cv_log_level level, const char *message)
{
	size_t start;

	if (!log_journal) {
		put_time(l);
		put(l, " ");
	}
	put(l, log_who);
	put(l, ": ");
	if (!log_journal) {
		put(l, cv_log_level_name(level));
		put(l, ": ");
	}
	start = l->used;
	put(l, message);
	for (size_t i = start; i < l->used; i++) {
		if ((unsigned char)l->text[i] < 0x20 || l->text[i] == 0x7f)
			l->text[i] = '?';
	}
}

/* The line goes out in one write(), so that lines of several threads and processes do not mix. */
void cv_log(enum cv_log_level level, const char *fmt, ...)
{
	char message[LINE_MAX_BYTES], prefix[8];
	struct line l = { .used = 0 };
	int saved = errno;
	va_list ap;

	if (level > cv_log_get_level())
		return;
	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (log_journal) {
		(void)snprintf(prefix, sizeof(prefix), "<%d>", (int)level);
		put(&l, prefix);
	}
	if (log_format == CV_LOG_JSON)
		format_json(&l, level, message);
	else
		format_text(&l, level, message);
	l.text[l.used++] = '\n';
	if (write(STDERR_FILENO, l.text, l.used) < 0) {
		/* nowhere to say so */
	}
	errno = saved;
}
