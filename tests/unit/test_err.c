/* SPDX-License-Identifier: Apache-2.0 */
/* Error texts, and the log they end up in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/err.h"
#include "config/log.h"

static void codes(void **state)
{
	struct cv_err err = { 0 };

	(void)state;
	assert_int_equal(cv_fail(&err, ENOENT, "x"), -ENOENT);
	assert_int_equal(err.code, -ENOENT);
	assert_int_equal(cv_fail(&err, -EPERM, "x"), -EPERM);
	assert_int_equal(err.code, -EPERM);
	assert_int_equal(cv_fail(&err, 0, "x"), -EIO); /* a failure never looks like success */
	assert_int_equal(cv_fail(NULL, EPERM, "x"), -EPERM);
	assert_int_equal(cv_fail_context(NULL, "x"), -EIO);
}

static void context_goes_in_front(void **state)
{
	struct cv_err err = { 0 };

	(void)state;
	(void)cv_fail(&err, EACCES, "export '%s' refused", "/e");
	assert_int_equal(cv_fail_context(&err, "nfs: %s", "nas"), -EACCES);
	assert_int_equal(cv_fail_context(&err, "volume v"), -EACCES);
	assert_string_equal(err.text, "volume v: nfs: nas: export '/e' refused");
	err = (struct cv_err){ 0 };
	assert_int_equal(cv_fail_context(&err, "volume"), -EIO);
	assert_int_equal(err.code, -EIO);
}

static void one_printable_line(void **state)
{
	struct cv_err err = { 0 };

	(void)state;
	(void)cv_fail(&err, EIO, "a\nb\tc\x1b[31md\x7f \xc3\xa4");
	assert_string_equal(err.text, "a?b?c?[31md? \xc3\xa4");
	(void)cv_fail_context(&err, "e\r\n");
	assert_string_equal(err.text, "e??: a?b?c?[31md? \xc3\xa4");
}

static void long_texts_are_cut(void **state)
{
	struct {
		struct cv_err err;
		char guard[8];
	} x = { .guard = "guard" };
	char text[3 * CV_ERR_SIZE];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	(void)cv_fail(&x.err, EIO, "%s", text);
	assert_int_equal(strlen(x.err.text), CV_ERR_SIZE - 1);
	(void)cv_fail_context(&x.err, "first");
	assert_int_equal(strlen(x.err.text), CV_ERR_SIZE - 1);
	assert_memory_equal(x.err.text, "first: xxx", 10);
	(void)cv_fail_context(&x.err, "%s", text);
	assert_int_equal(strlen(x.err.text), CV_ERR_SIZE - 1);
	assert_string_equal(x.guard, "guard");
}

static void names_of_errors(void **state)
{
	(void)state;
	assert_string_equal(cv_strerror(ENOENT), "No such file or directory");
	assert_string_equal(cv_strerror(-ENOENT), cv_strerror(ENOENT));
	assert_non_null(cv_strerror(99999));
}

/* ---- the log: what comes out of stderr */

static int read_end, real_stderr;

static int catch_stderr(void **state)
{
	int p[2];

	(void)state;
	real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	if (real_stderr < 0 || pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return -1;
	read_end = p[0];
	if (dup2(p[1], STDERR_FILENO) < 0)
		return -1;
	return close(p[1]);
}

static int restore_stderr(void **state)
{
	(void)state;
	(void)dup2(real_stderr, STDERR_FILENO);
	cv_close_fd(&real_stderr);
	cv_close_fd(&read_end);
	return unsetenv("JOURNAL_STREAM");
}

/* One read is one line: a line is one write. */
static const char *logged(void)
{
	static char line[8192];
	ssize_t n = read(read_end, line, sizeof(line) - 1);

	line[n > 0 ? n : 0] = '\0';
	return line;
}

static void lines_of_the_log(void **state)
{
	const char *line;

	(void)state;
	(void)unsetenv("JOURNAL_STREAM");
	cv_log_init("cvol-test", CV_LOG_INFO);
	errno = EXDEV;
	cv_warning("disk %d\nfull", 7);
	assert_int_equal(errno, EXDEV);
	line = logged();
	assert_int_equal(strspn(line, "0123456789-T:.Z"), strlen("2000-01-01T00:00:00.000Z"));
	assert_string_equal(strchr(line, ' '), " cvol-test: warning: disk 7?full\n");
	cv_debug("hidden");
	assert_string_equal(logged(), "");
	cv_log_set_level(CV_LOG_DEBUG);
	assert_int_equal(cv_log_get_level(), CV_LOG_DEBUG);
	cv_debug("shown");
	assert_non_null(strstr(logged(), "debug: shown\n"));
	cv_log_set_level(CV_LOG_ERROR);
	cv_warning("hidden");
	assert_string_equal(logged(), "");
}

/* Nowhere to write to: no harm, and the caller's errno stays. */
static void no_stderr(void **state)
{
	(void)state;
	cv_log_init("cvol-test", CV_LOG_INFO);
	assert_int_equal(close(STDERR_FILENO), 0);
	errno = EXDEV;
	cv_warning("lost");
	assert_int_equal(errno, EXDEV);
}

static void journal_prefixes(void **state)
{
	(void)state;
	assert_int_equal(setenv("JOURNAL_STREAM", "8:1", 1), 0);
	cv_log_init("cvol-test", CV_LOG_INFO);
	cv_error("bad");
	assert_string_equal(logged(), "<3>cvol-test: bad\n");
}

static void long_lines_end(void **state)
{
	char text[5000];
	const char *line;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	cv_log_init(text, CV_LOG_INFO); /* an endless name, too */
	cv_error("%s", text);
	line = logged();
	assert_true(strlen(line) > 1000);
	assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void levels(void **state)
{
	enum cv_log_level level = CV_LOG_NOTICE;

	(void)state;
	assert_int_equal(cv_log_level_parse("error", &level), 0);
	assert_int_equal(level, CV_LOG_ERROR);
	assert_int_equal(cv_log_level_parse("debug", &level), 0);
	assert_int_equal(level, CV_LOG_DEBUG);
	assert_int_equal(cv_log_level_parse("loud", &level), -EINVAL);
	assert_int_equal(cv_log_level_parse("", &level), -EINVAL);
	assert_int_equal(level, CV_LOG_DEBUG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes),
		cmocka_unit_test(context_goes_in_front),
		cmocka_unit_test(one_printable_line),
		cmocka_unit_test(long_texts_are_cut),
		cmocka_unit_test(names_of_errors),
		cmocka_unit_test_setup_teardown(lines_of_the_log, catch_stderr, restore_stderr),
		cmocka_unit_test_setup_teardown(journal_prefixes, catch_stderr, restore_stderr),
		cmocka_unit_test_setup_teardown(no_stderr, catch_stderr, restore_stderr),
		cmocka_unit_test_setup_teardown(long_lines_end, catch_stderr, restore_stderr),
		cmocka_unit_test(levels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
