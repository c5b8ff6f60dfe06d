/* SPDX-License-Identifier: Apache-2.0 */
/* Options and sources as users and API clients write them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/dict.h"
#include "config/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT, out = CV_DICT_INIT, again = CV_DICT_INIT;
	char *text = malloc(size + 1);
	struct cv_err err;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (cv_options_split(text, &in, &err) == 0 && cv_options_parse(&in, &out, &err) == 0) {
		char *source = cv_source_format(&out);

		/* What was accepted is canonical: parsing it again changes nothing. */
		if (cv_options_parse(&out, &again, &err) < 0 || !cv_dict_equal(&out, &again))
			abort();
		free(source);
	}
	free(text);
	return 0;
}
