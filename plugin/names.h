/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volume names and the file names made from them. Docker checks nothing: "../../x" and names with
 * '/', spaces or UTF-8 do arrive. No name is ever joined raw into a path; what is made here is one
 * safe path component, and two names never share one.
 */
#ifndef CV_PLUGIN_NAMES_H
#define CV_PLUGIN_NAMES_H

#include <stddef.h>

#include "config/err.h"

#define CV_VOLUME_NAME_MAX 255 /* bytes */
#define CV_ENCODED_MAX	   200 /* leaves room for suffixes in a 255-byte file name */
#define CV_ENCODED_SOCKET  64  /* for sockets: sun_path has 108 bytes in all */

/* 0, or -EINVAL with the reason (which does not repeat the name). */
int cv_name_check(const char *name, struct cv_err *err);

/*
 * Percent-encodes everything outside [A-Za-z0-9_.-], and a leading '.'. What would be longer than
 * max becomes a prefix, '~' and a hash of the whole name. out: max + 1 bytes; max >= 64.
 */
void cv_name_encode(const char *name, size_t max, char *out);

/*
 * The name an encoded file name stands for, as well as can be said: a hashed one cannot be decoded
 * and is returned as it is. For files whose own text is unreadable. NULL on no memory or no sense.
 */
char *cv_name_decode(const char *encoded);

/* SHA-256 as 64 lower-case hex digits and a NUL. */
void cv_sha256_hex(const void *data, size_t size, char out[65]);

#endif
