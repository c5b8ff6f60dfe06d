/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>

#include "config/handoff.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;

	(void)cv_handoff_parse(data, size, &msg);
	return 0;
}
