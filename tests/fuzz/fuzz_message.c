/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of requests, and answers as the command line reads them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cv_request request = CV_REQUEST_INIT;
	struct cv_view *views = NULL;
	size_t count = 0;
	char *text;

	if (cv_request_parse((const char *)data, size, &request, NULL) == 0) {
		text = cv_message_request(request.name, request.unset, &request.opts);
		if (!text)
			abort();
		free(text);
	}
	cv_request_release(&request);

	text = strndup((const char *)data, size);
	if (!text)
		return 0;
	free(cv_answer_err(text));
	free(cv_answer_pretty(text, "Volumes"));
	if (cv_answer_views(text, &views, &count) == 0) {
		char *again = cv_message_status(views, count, NULL);

		if (!again)
			abort();
		free(again);
		cv_views_free(views, count);
	}
	free(text);
	return 0;
}
