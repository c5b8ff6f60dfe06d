/* SPDX-License-Identifier: Apache-2.0 */
/* Options and sources as users and API clients write them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/dict.h"
#include "config/options.h"
#include "config/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is shown as the source leads to the same place again. */
static void check_source(const struct cv_dict *o, const char *source)
{
	static const char *const keys[] = { "type", "user", "host", "port", "path" };
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT, out = CV_DICT_INIT;
	const char *path = cv_options_str(o, "path", "");
	struct cv_err err;

	if (cv_dict_set(&in, "source", source) < 0)
		return; /* encoded, it may be too long for a dictionary */
	if (cv_options_parse(&in, &out, &err) < 0)
		abort();
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const char *was = cv_dict_get(o, keys[i]), *is = cv_dict_get(&out, keys[i]);

		/* "x" and "~/x" are the same directory of an SSH server */
		if (i == 4 && is && cv_str_starts(is, "~/") && *path != '~')
			is += 2;
		if (!cv_str_eq(was, is))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cv_cleanup_dict struct cv_dict parts = CV_DICT_INIT;
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT, out = CV_DICT_INIT, again = CV_DICT_INIT;
	char *text = malloc(size + 1);
	struct cv_err err;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	(void)cv_source_parse(text, &parts, &err);
	if (cv_options_split(text, &in, &err) == 0 && cv_options_parse(&in, &out, &err) == 0) {
		char *source = cv_source_format(&out);

		/* What was accepted is canonical: parsing it again changes nothing. */
		if (cv_options_parse(&out, &again, &err) < 0 || !cv_dict_equal(&out, &again))
			abort();
		if (!source)
			abort();
		if (cv_dict_get(&out, "type"))
			check_source(&out, source);
		free(source);
	}
	free(text);
	return 0;
}
