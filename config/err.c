/* SPDX-License-Identifier: Apache-2.0 */
#include "config/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "config/str.h"

static void make_printable(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			*p = '?';
	}
}

int cv_fail(struct cv_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (code > 0)
		code = -code;
	if (code == 0)
		code = -EIO;
	if (err) {
		err->code = code;
		va_start(ap, fmt);
		(void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
		make_printable(err->text);
	}
	return code;
}

int cv_fail_context(struct cv_err *err, const char *fmt, ...)
{
	char text[2 * CV_ERR_SIZE + 4];
	va_list ap;
	size_t n;

	if (!err)
		return -EIO;
	va_start(ap, fmt);
	(void)vsnprintf(text, CV_ERR_SIZE, fmt, ap);
	va_end(ap);
	n = strlen(text);
	(void)snprintf(text + n, sizeof(text) - n, ": %s", err->text);
	make_printable(text);
	(void)cv_strcpy(err->text, sizeof(err->text), text);
	if (!err->code)
		err->code = -EIO;
	return err->code;
}

const char *cv_strerror(int code)
{
	const char *text = strerrordesc_np(code < 0 ? -code : code);

	return text ? text : "unknown error";
}
