/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/volumes_impl.h"

#include <stdlib.h>

#include "config/log.h"

static void upgrade(struct cv_volumes *vs, struct volume *v, struct cv_findings *found)
{
	struct cv_worker *w = cv_volume_worker(vs, v);
	struct cv_err err = { 0 };

	if (!w)
		return;
	if (vs->mounter->upgrade(w, NULL, &err) < 0)
		cv_findings_add(found, "volume '%s': not upgraded: %s", v->name, err.text);
	else
		cv_findings_add(found, "volume '%s': served by the installed version", v->name);
	vs->mounter->unref(w);
}

void cv_volumes_upgrade(struct cv_volumes *vs, struct cv_findings *found)
{
	size_t count = 0;
	struct volume **all = cv_volumes_snapshot(vs, NULL, &count);

	for (size_t i = 0; i < count; i++) {
		upgrade(vs, all[i], found);
		cv_volume_unref(vs, all[i]);
	}
	free(all);
	for (size_t i = 0; i < found->count; i++)
		cv_notice("%s", found->lines[i]);
}
