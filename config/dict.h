/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small ordered map of strings: volume options, hand-off messages. Keys are unique and keep the
 * order they were first set in. Bounded: at most CV_DICT_MAX entries, CV_DICT_VALUE_MAX bytes each.
 */
#ifndef CV_CONFIG_DICT_H
#define CV_CONFIG_DICT_H

#include <stdbool.h>
#include <stddef.h>

#define CV_DICT_MAX	  256
#define CV_DICT_VALUE_MAX 16384

struct cv_dict_item {
	char *key;   /* owned */
	char *value; /* owned, never NULL */
};

struct cv_dict {
	size_t count;
	struct cv_dict_item *items; /* owned */
};

#define CV_DICT_INIT                                                                               \
	{                                                                                          \
		0, NULL                                                                            \
	}

/* Frees everything; the values are wiped first, since options may hold secrets. */
void cv_dict_release(struct cv_dict *dict);
#define cv_cleanup_dict __attribute__((cleanup(cv_dict_release)))

/* Adds or replaces. Returns 0, -ENOMEM, -E2BIG (too many or too long). */
int cv_dict_set(struct cv_dict *dict, const char *key, const char *value);
__attribute__((format(printf, 3, 4))) int cv_dict_setf(struct cv_dict *dict, const char *key,
						       const char *fmt, ...);
/* Borrowed value, or NULL when absent. */
const char *cv_dict_get(const struct cv_dict *dict, const char *key);
/* Returns true if it was there. */
bool cv_dict_remove(struct cv_dict *dict, const char *key);
int cv_dict_copy(struct cv_dict *dst, const struct cv_dict *src); /* dst must be empty */
/* Same keys and values, in any order. */
bool cv_dict_equal(const struct cv_dict *a, const struct cv_dict *b);

#endif
