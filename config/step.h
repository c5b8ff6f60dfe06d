/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps of connecting, in a person's words. Engines say which one begins; nobody listens but a
 * probe (cvol doctor), which measures them. Any thread.
 */
#ifndef CV_CONFIG_STEP_H
#define CV_CONFIG_STEP_H

#include <stdbool.h>

/* A step begins, and with that the one before has succeeded. name: static text; returned. */
const char *cv_step(const char *name);
/* From here on steps are details that nobody need hear of; and no longer. */
void cv_step_hush(bool hush);
/* NULL: nobody. Before any step. */
void cv_step_watch(void (*watcher)(const char *name));

#endif
