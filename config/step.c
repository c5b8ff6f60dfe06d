/* SPDX-License-Identifier: Apache-2.0 */
#include "config/step.h"

#include <stddef.h>

static void (*step_watcher)(const char *name);
static bool step_hushed;

const char *cv_step(const char *name)
{
	if (step_watcher && !step_hushed)
		step_watcher(name);
	return name;
}

void cv_step_hush(bool hush)
{
	step_hushed = hush;
}

void cv_step_watch(void (*watcher)(const char *name))
{
	step_watcher = watcher;
}
