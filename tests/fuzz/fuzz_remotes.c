/* SPDX-License-Identifier: Apache-2.0 */
/* cvol.json and remotes.d/NAME.json as administrators, or their tools, write them. */
#include <stdint.h>
#include <stdlib.h>

#include "config/options.h"
#include "plugin/remotes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cv_cleanup_site struct cv_site site = CV_SITE_INIT;
	cv_cleanup_remote struct cv_remote remote = CV_REMOTE_INIT;
	struct cv_err err;

	/* What is accepted can be used: a name that is a safe file name, and a place without
	 * secrets. */
	if (cv_site_parse((const char *)data, size, &site, &err) == 0 && site.default_remote &&
	    !cv_remote_name_ok(site.default_remote))
		abort();
	if (cv_remote_parse((const char *)data, size, &remote, &err) == 0 &&
	    (!cv_dict_get(&remote.options, "type") || cv_dict_get(&remote.options, "password") ||
	     cv_dict_get(&remote.options, "remote")))
		abort();
	return 0;
}
