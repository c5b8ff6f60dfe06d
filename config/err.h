/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error text for people, in a fixed buffer on the caller's stack: nothing is allocated while
 * failing. Functions return 0 (or a count) or -errno; those that a user waits for also fill a
 * struct cv_err. Whoever knows most writes the text once, naming the thing, the step that failed
 * and the remedy, never a secret; callers only prepend context.
 */
#ifndef CV_CONFIG_ERR_H
#define CV_CONFIG_ERR_H

#define CV_ERR_SIZE 1024

struct cv_err {
	int code;		/* negative errno; 0: no error set */
	char text[CV_ERR_SIZE]; /* one line, NUL-terminated, no newline */
};

/* Sets err (may be NULL) to the formatted text; control characters become '?'. Returns -|code|. */
__attribute__((format(printf, 3, 4))) int cv_fail(struct cv_err *err, int code, const char *fmt,
						  ...);

/* Puts "<formatted>: " before the text already in err. Returns err->code (-EIO if unset). */
__attribute__((format(printf, 2, 3))) int cv_fail_context(struct cv_err *err, const char *fmt, ...);

/* Like strerror(), but thread-safe and never NULL; takes errno of either sign. */
const char *cv_strerror(int code);

#endif
