/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/backend.h"

#include <string.h>

#include "config/cleanup.h"

static const struct cv_backend *const backends[] = {
	&cv_backend_dir,
	&cv_backend_mem,
	&cv_backend_nfs,
	&cv_backend_sftp,
};

const struct cv_backend *cv_backend_find(const char *name)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(backends); i++) {
		if (strcmp(backends[i]->name, name) == 0)
			return backends[i];
	}
	return NULL;
}
