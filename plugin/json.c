/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/str.h"

#define DEPTH_MAX 16

static void free_tokener(struct json_tokener **tok)
{
	if (*tok)
		json_tokener_free(*tok);
}

struct json_object *cv_json_parse(const char *data, size_t size, size_t max, struct cv_err *err)
{
	__attribute__((cleanup(free_tokener))) struct json_tokener *tok =
		json_tokener_new_ex(DEPTH_MAX);
	cv_cleanup_json struct json_object *root = NULL;
	enum json_tokener_error e;

	if (!tok || size > max) {
		(void)cv_fail(err, EBADMSG, "%s", tok ? "file too long" : "out of memory");
		return NULL;
	}
	json_tokener_set_flags(tok, JSON_TOKENER_VALIDATE_UTF8);
	root = json_tokener_parse_ex(tok, data, (int)size);
	e = json_tokener_get_error(tok);
	if (e != json_tokener_success || !json_object_is_type(root, json_type_object)) {
		(void)cv_fail(err, EBADMSG, "not a JSON object (%s)",
			      size == 0			   ? "the file is empty"
			      : e == json_tokener_continue ? "it is cut short"
							   : json_tokener_error_desc(e));
		return NULL;
	}
	for (size_t i = json_tokener_get_parse_end(tok); i < size; i++) {
		if (data[i] == '\0' || !strchr(" \t\r\n", data[i])) {
			(void)cv_fail(err, EBADMSG, "text after the end of the JSON object");
			return NULL;
		}
	}
	return cv_steal(&root);
}

int cv_json_get_text(struct json_object *root, const char *key, char **ret, struct cv_err *err)
{
	struct json_object *value;
	const char *text;

	if (!json_object_object_get_ex(root, key, &value) ||
	    !json_object_is_type(value, json_type_string))
		return cv_fail(err, EBADMSG, "'%s' is missing or not a string", key);
	text = json_object_get_string(value);
	if (strlen(text) != (size_t)json_object_get_string_len(value))
		return cv_fail(err, EBADMSG, "'%s' contains a NUL character", key);
	*ret = strdup(text);
	return *ret ? 0 : cv_fail(err, ENOMEM, "out of memory");
}

int cv_json_get_number(struct json_object *root, const char *key, int64_t min, int64_t max,
		       int64_t *ret, struct cv_err *err)
{
	struct json_object *value;
	int64_t number;

	if (!json_object_object_get_ex(root, key, &value) ||
	    !json_object_is_type(value, json_type_int))
		return cv_fail(err, EBADMSG, "'%s' is missing or not a number", key);
	number = json_object_get_int64(value);
	if (number < min || number > max)
		return cv_fail(err, EBADMSG, "'%s' is out of range", key);
	*ret = number;
	return 0;
}

int cv_json_get_dict(struct json_object *root, const char *key, bool loose, struct cv_dict *ret,
		     struct cv_err *err)
{
	struct json_object *options;

	if (!json_object_object_get_ex(root, key, &options) ||
	    !json_object_is_type(options, json_type_object))
		return cv_fail(err, EBADMSG, "'%s' is missing or not an object", key);
	json_object_object_foreach(options, name, value)
	{
		bool is_text = json_object_is_type(value, json_type_string);
		const char *text;

		if (!is_text && !(loose && (json_object_is_type(value, json_type_int) ||
					    json_object_is_type(value, json_type_boolean))))
			return cv_fail(err, EBADMSG, "option '%.64s' is not a string", name);
		text = json_object_get_string(value);
		if ((is_text && strlen(text) != (size_t)json_object_get_string_len(value)) ||
		    cv_dict_set(ret, name, text) < 0)
			return cv_fail(err, EBADMSG, "option '%.64s' cannot be taken", name);
	}
	return 0;
}

bool cv_json_add(struct json_object *object, const char *key, struct json_object *value)
{
	if (value && json_object_object_add(object, key, value) == 0)
		return true;
	(void)json_object_put(value);
	return false;
}

bool cv_json_add_text(struct json_object *object, const char *key, const char *text)
{
	return cv_json_add(object, key, json_object_new_string(text ? text : ""));
}

bool cv_json_add_number(struct json_object *object, const char *key, int64_t number)
{
	return cv_json_add(object, key, json_object_new_int64(number));
}

bool cv_json_add_dict(struct json_object *object, const char *key, const struct cv_dict *dict)
{
	struct json_object *inner = json_object_new_object();

	for (size_t i = 0; inner && i < dict->count; i++) {
		if (!cv_json_add_text(inner, dict->items[i].key, dict->items[i].value)) {
			(void)json_object_put(inner);
			return false;
		}
	}
	return cv_json_add(object, key, inner);
}

char *cv_json_format(struct json_object *root, bool ok)
{
	const char *text = ok ? json_object_to_json_string_ext(
					root, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
						      JSON_C_TO_STRING_NOSLASHESCAPE)
			      : NULL;

	return text ? cv_sprintf("%s\n", text) : NULL;
}
