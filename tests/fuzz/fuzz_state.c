/* SPDX-License-Identifier: Apache-2.0 */
/* State files and records: what is accepted must survive being written and read again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/str.h"
#include "plugin/mountpoint.h"
#include "plugin/names.h"
#include "plugin/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_volume(const char *data, size_t size)
{
	struct cv_state state = CV_STATE_INIT, again = CV_STATE_INIT;
	char *text;

	if (cv_state_parse(data, size, &state, NULL) < 0)
		return;
	text = cv_state_format(&state);
	if (!text || cv_state_parse(text, strlen(text), &again, NULL) < 0 ||
	    !cv_str_eq(state.name, again.name) || state.created != again.created ||
	    !cv_dict_equal(&state.options, &again.options))
		abort();
	free(text);
	cv_state_release(&state);
	cv_state_release(&again);
}

static void fuzz_record(const char *data, size_t size)
{
	struct cv_record record = { 0 }, again = { 0 };
	char *text;

	if (cv_record_parse(data, size, &record, NULL) < 0)
		return;
	text = cv_record_format(&record);
	if (!text || cv_record_parse(text, strlen(text), &again, NULL) < 0 ||
	    record.id_count != again.id_count || record.worker != again.worker)
		abort();
	free(text);
	cv_record_release(&record);
	cv_record_release(&again);
}

static void fuzz_text(const char *data, size_t size)
{
	struct cv_mount_entry entry = { 0 };
	char *text = strndup(data, size);
	char encoded[CV_ENCODED_MAX + 1];

	if (!text)
		return;
	if (cv_mount_entry_parse(text, &entry) == 0)
		cv_mount_entry_release(&entry);
	free(cv_name_decode(text));
	if (cv_name_check(text, NULL) == 0) {
		cv_name_encode(text, CV_ENCODED_MAX, encoded);
		if (strlen(encoded) > CV_ENCODED_MAX || strchr(encoded, '/') || *encoded == '.')
			abort();
		if (!strchr(encoded, '~')) {
			char *back = cv_name_decode(encoded);

			if (!cv_str_eq(back, text))
				abort();
			free(back);
		}
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_volume((const char *)data, size);
	fuzz_record((const char *)data, size);
	fuzz_text((const char *)data, size);
	return 0;
}
