/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the options of other drivers are written: vieux/sshfs and sshfs(1), rclone, Docker's local
 * driver and mount.nfs(8), netshare, trajano, csi-driver-nfs. Each becomes an option of the table
 * in options.h, or is known to mean nothing here, or is refused with the reason. Knows names and
 * values only; that the result makes sense as a whole is checked by cv_options_parse().
 */
#ifndef CV_CONFIG_SPELLINGS_H
#define CV_CONFIG_SPELLINGS_H

#include "config/dict.h"
#include "config/err.h"

/*
 * Puts every option of in, translated and checked, into out (canonical names and values; what is
 * there already must not differ). `source` is passed on as it is. What is canonical already comes
 * out unchanged.
 */
int cv_spellings_resolve(const struct cv_dict *in, struct cv_dict *out, struct cv_err *err);

/* Calls each() for every row: option NULL means ignored, "!" refused with text as the reason. */
void cv_spellings_each(void (*each)(void *ctx, const char *name, const char *value,
				    const char *option, const char *text),
		       void *ctx);

/*
 * A volume name that says where the volume is, as netshare has it: host/path[#subdir]. Sets host,
 * path and subdir in out and returns 1; 0: it is a plain name.
 */
int cv_spellings_name(const char *volume, struct cv_dict *out, struct cv_err *err);

#endif
