/* SPDX-License-Identifier: Apache-2.0 */
#include "config/dict.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/str.h"

static void item_release(struct cv_dict_item *item)
{
	if (item->value)
		cv_wipe(item->value, strlen(item->value));
	free(item->key);
	free(item->value);
}

void cv_dict_release(struct cv_dict *dict)
{
	int saved = errno;

	for (size_t i = 0; i < dict->count; i++)
		item_release(&dict->items[i]);
	free(dict->items);
	dict->items = NULL;
	dict->count = 0;
	errno = saved;
}

static struct cv_dict_item *find(const struct cv_dict *dict, const char *key)
{
	for (size_t i = 0; i < dict->count; i++) {
		if (strcmp(dict->items[i].key, key) == 0)
			return &dict->items[i];
	}
	return NULL;
}

int cv_dict_set(struct cv_dict *dict, const char *key, const char *value)
{
	struct cv_dict_item *item = find(dict, key);
	cv_cleanup_free char *new_key = NULL;
	cv_cleanup_free char *new_value = NULL;
	struct cv_dict_item *items;

	if (strlen(value) > CV_DICT_VALUE_MAX || strlen(key) > CV_DICT_VALUE_MAX)
		return -E2BIG;
	new_value = strdup(value);
	if (!new_value)
		return -ENOMEM;
	if (item) {
		cv_wipe(item->value, strlen(item->value));
		free(item->value);
		item->value = cv_steal(&new_value);
		return 0;
	}
	if (dict->count == CV_DICT_MAX)
		return -E2BIG;
	new_key = strdup(key);
	if (!new_key)
		return -ENOMEM;
	items = realloc(dict->items, (dict->count + 1) * sizeof(*items));
	if (!items)
		return -ENOMEM;
	dict->items = items;
	items[dict->count].key = cv_steal(&new_key);
	items[dict->count].value = cv_steal(&new_value);
	dict->count++;
	return 0;
}

int cv_dict_setf(struct cv_dict *dict, const char *key, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;
	int n, r;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return -ENOMEM;
	r = cv_dict_set(dict, key, text);
	cv_wipe(text, strlen(text));
	free(text);
	return r;
}

const char *cv_dict_get(const struct cv_dict *dict, const char *key)
{
	const struct cv_dict_item *item = find(dict, key);

	return item ? item->value : NULL;
}

bool cv_dict_remove(struct cv_dict *dict, const char *key)
{
	struct cv_dict_item *item = find(dict, key);

	if (!item)
		return false;
	item_release(item);
	memmove(item, item + 1, (size_t)(&dict->items[dict->count] - (item + 1)) * sizeof(*item));
	dict->count--;
	return true;
}

int cv_dict_copy(struct cv_dict *dst, const struct cv_dict *src)
{
	for (size_t i = 0; i < src->count; i++) {
		int r = cv_dict_set(dst, src->items[i].key, src->items[i].value);

		if (r < 0) {
			cv_dict_release(dst);
			return r;
		}
	}
	return 0;
}

bool cv_dict_equal(const struct cv_dict *a, const struct cv_dict *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		const char *value = cv_dict_get(b, a->items[i].key);

		if (!value || strcmp(value, a->items[i].value) != 0)
			return false;
	}
	return true;
}
