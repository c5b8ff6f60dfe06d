/* SPDX-License-Identifier: Apache-2.0 */
/* Small text helpers that several modules need. No locale, no shell. */
#ifndef CV_CONFIG_STR_H
#define CV_CONFIG_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* asprintf() that returns NULL on failure. Caller frees. */
__attribute__((format(printf, 1, 2))) char *cv_sprintf(const char *fmt, ...);

/* Copies src, truncating to size - 1 and always terminating. Returns false if it was cut. */
bool cv_strcpy(char *dst, size_t size, const char *src);

bool cv_str_eq(const char *a, const char *b); /* NULL equals NULL only */
bool cv_str_starts(const char *s, const char *prefix);
bool cv_str_is_utf8(const char *s); /* well-formed UTF-8 */

/* Whole text must be the number. Returns 0, -EINVAL (not a number) or -ERANGE (over max). */
int cv_parse_u64(const char *text, int base, uint64_t max, uint64_t *ret_value);
/* true/false, yes/no, on/off, 1/0, and "" (an option given without a value) is true. */
int cv_parse_bool(const char *text, bool *ret_value);
/* "15", "15s", "500ms", "2m", "1h"; a bare number is seconds. */
int cv_parse_duration_ms(const char *text, uint64_t *ret_ms);
/* "4096", "64K", "64KiB", "1M", "1MiB", "2G"; all binary. */
int cv_parse_size(const char *text, uint64_t *ret_bytes);

/* FNV-1a with a final mix, for tables and for numbers that are the same in every run. Not against
 * an opponent who chooses the data. */
uint64_t cv_hash(uint64_t seed, const void *data, size_t size_bytes);

/* Overwrites memory that held a secret; not optimised away. */
void cv_wipe(void *p, size_t size);

#endif
