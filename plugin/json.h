/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and writing small JSON files: strict about what is read, since they are our own or an
 * administrator's, and a mistake in them must not go unseen. Objects are json-c's.
 */
#ifndef CV_PLUGIN_JSON_H
#define CV_PLUGIN_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

#include "config/dict.h"
#include "config/err.h"

static inline void cv_json_put(struct json_object **object)
{
	(void)json_object_put(*object);
}
#define cv_cleanup_json __attribute__((cleanup(cv_json_put)))

/* The one object that data is; NULL with the reason (-EBADMSG in err). Caller: json_object_put().
 */
struct json_object *cv_json_parse(const char *data, size_t size, size_t max, struct cv_err *err);

/* Members; -EBADMSG with the reason, -ENOMEM. *ret is the caller's to free. */
int cv_json_get_text(struct json_object *root, const char *key, char **ret, struct cv_err *err);
int cv_json_get_number(struct json_object *root, const char *key, int64_t min, int64_t max,
		       int64_t *ret, struct cv_err *err);
/* An object of texts, added to ret. loose: numbers and booleans are taken as their text. */
int cv_json_get_dict(struct json_object *root, const char *key, bool loose, struct cv_dict *ret,
		     struct cv_err *err);

/* Each adds and takes value; false when there was no memory for either. */
bool cv_json_add(struct json_object *object, const char *key, struct json_object *value);
bool cv_json_add_text(struct json_object *object, const char *key, const char *text);
bool cv_json_add_number(struct json_object *object, const char *key, int64_t number);
bool cv_json_add_dict(struct json_object *object, const char *key, const struct cv_dict *dict);

/* The text for people, with a newline; NULL when !ok or out of memory. Caller frees. */
char *cv_json_format(struct json_object *root, bool ok);

#endif
