/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks at a source without mounting it, step by step, for `cvol doctor`: connects, asks, writes a
 * file of its own, reads it back, removes it. Tells every step over the socket (config/handoff.h).
 * Blocks, but every step has an end.
 */
#ifndef CV_FUSE_PROBE_H
#define CV_FUSE_PROBE_H

#include "config/dict.h"

/*
 * options: of the volume; and, taken out here, probe_write ("0": write nothing). Returns the
 * process's exit status.
 */
int cv_probe_run(int sock, struct cv_dict *options);

#endif
