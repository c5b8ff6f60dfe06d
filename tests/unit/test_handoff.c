/* SPDX-License-Identifier: Apache-2.0 */
/* Hand-off datagrams: limits, descriptors that must not leak, deadlines. See also test_loop.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/loop.h"

static int pair[2];

static int setup(void **state)
{
	(void)state;
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}

static int teardown(void **state)
{
	(void)state;
	cv_close_fd(&pair[0]);
	cv_close_fd(&pair[1]);
	return 0;
}

static size_t open_descriptors(void)
{
	cv_cleanup_closedir DIR *dir = opendir("/proc/self/fd");
	size_t n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	return n;
}

/* A datagram as no honest peer sends it. */
static void send_raw(const void *data, size_t size, const int *fds, size_t nfds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 16)];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	assert_int_equal(sendmsg(pair[0], &msg, MSG_NOSIGNAL), (ssize_t)size);
}

/* Whatever is wrong with a message, its descriptors are closed and the result is untouched. */
static void expect_bad(const void *data, size_t size, size_t nfds)
{
	struct cv_handoff msg = CV_HANDOFF_INIT;
	int fds[16];
	size_t before = open_descriptors();

	for (size_t i = 0; i < nfds; i++)
		fds[i] = pair[0];
	send_raw(data, size, fds, nfds);
	assert_int_equal(cv_handoff_recv(pair[1], 1000, &msg), -EBADMSG);
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(msg.nfds, 0);
	assert_int_equal(msg.args.count, 0);
	assert_string_equal(msg.verb, "");
}

static void bad_messages_leak_nothing(void **state)
{
	cv_cleanup_free char *big = calloc(1, CV_HANDOFF_SIZE + 1);

	(void)state;
	assert_non_null(big);
	expect_bad("verb", 4, 0);
	expect_bad("verb", 4, 2);
	expect_bad("verb\0key\0", 9, CV_HANDOFF_FDS);
	expect_bad("", 0, 1);
	expect_bad("ok\0", 3, CV_HANDOFF_FDS + 1); /* control data cut */
	expect_bad("ok\0", 3, 16);
	memset(big, 'v', 3);			 /* then pairs of empty strings, to the end */
	expect_bad(big, CV_HANDOFF_SIZE + 1, 1); /* data cut, although what is left would parse */
}

static void as_many_descriptors_as_fit(void **state)
{
	struct cv_handoff msg = CV_HANDOFF_INIT;
	int fds[CV_HANDOFF_FDS + 1] = { pair[0], pair[0], pair[0], pair[0], pair[0] };
	size_t before = open_descriptors();

	(void)state;
	assert_int_equal(cv_handoff_send(pair[0], "fds", NULL, fds, CV_HANDOFF_FDS), 0);
	assert_int_equal(cv_handoff_recv(pair[1], 1000, &msg), 0);
	assert_int_equal(msg.nfds, CV_HANDOFF_FDS);
	for (size_t i = 0; i < CV_HANDOFF_FDS; i++)
		assert_true(fcntl(msg.fds[i], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(open_descriptors(), before + CV_HANDOFF_FDS);
	/* a descriptor that was taken out stays open */
	fds[0] = cv_steal_fd(&msg.fds[2]);
	cv_handoff_release(&msg);
	assert_int_equal(open_descriptors(), before + 1);
	assert_int_equal(close(fds[0]), 0);
	fds[0] = pair[0];
	assert_int_equal(cv_handoff_send(pair[0], "fds", NULL, fds, CV_HANDOFF_FDS + 1), -EINVAL);
}

static void sizes_at_the_limit(void **state)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	cv_cleanup_free char *value = malloc(CV_DICT_VALUE_MAX + 1);
	size_t last;

	(void)state;
	assert_non_null(value);
	memset(value, 'x', CV_DICT_VALUE_MAX);
	value[CV_DICT_VALUE_MAX] = '\0';
	assert_int_equal(cv_dict_set(&args, "a", value), 0);
	assert_int_equal(cv_dict_set(&args, "b", value), 0);
	assert_int_equal(cv_dict_set(&args, "c", value), 0);
	/* "v", three full entries, and a fourth that fills the datagram to the byte */
	last = CV_HANDOFF_SIZE - 2 - 3 * (2 + CV_DICT_VALUE_MAX + 1) - 2 - 1;
	value[last] = '\0';
	assert_int_equal(cv_dict_set(&args, "d", value), 0);
	assert_int_equal(cv_handoff_send(pair[0], "v", &args, NULL, 0), 0);
	assert_int_equal(cv_handoff_recv(pair[1], 1000, &msg), 0);
	assert_true(cv_dict_equal(&msg.args, &args));
	assert_int_equal(cv_handoff_send(pair[0], "vv", &args, NULL, 0), -EMSGSIZE);
	assert_int_equal(cv_handoff_send(pair[0], "", NULL, NULL, 0), -EINVAL);
	/* nothing of the refused ones went out */
	cv_handoff_release(&msg);
	assert_int_equal(cv_handoff_recv(pair[1], 0, &msg), -EAGAIN);
}

static void the_longest_verb(void **state)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;

	(void)state;
	assert_int_equal(cv_handoff_send(pair[0], "exactly15charac", NULL, NULL, 0), 0);
	assert_int_equal(cv_handoff_send(pair[0], "exactly16charact", NULL, NULL, 0), -EINVAL);
	assert_int_equal(cv_handoff_recv(pair[1], 1000, &msg), 0);
	assert_string_equal(msg.verb, "exactly15charac");
	assert_int_equal(cv_handoff_parse(NULL, 0, &msg), -EBADMSG);
}

static void messages_keep_their_bounds(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(cv_handoff_send(pair[0], i == 1 ? "two" : "other", NULL, NULL, 0),
				 0);
	for (int i = 0; i < 3; i++) {
		cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;

		assert_int_equal(cv_handoff_recv(pair[1], 0, &msg), 0);
		assert_string_equal(msg.verb, i == 1 ? "two" : "other");
	}
}

static int signals;

static void on_alarm(int number)
{
	(void)number;
	signals++;
}

/* Signals interrupt the wait all the time; the deadline stays where it was. */
static void signals_do_not_move_the_deadline(void **state)
{
	struct sigaction action = { .sa_handler = on_alarm }, before;
	struct itimerval often = { { 0, 5000 }, { 0, 5000 } }, off = { { 0, 0 }, { 0, 0 } };
	struct cv_handoff msg = CV_HANDOFF_INIT;
	uint64_t start, took_ms;
	int r;

	(void)state;
	signals = 0;
	assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	start = cv_now_ns();
	r = cv_handoff_recv(pair[1], 150, &msg);
	took_ms = (cv_now_ns() - start) / 1000000;
	assert_int_equal(setitimer(ITIMER_REAL, &off, NULL), 0);
	assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
	assert_int_equal(r, -ETIMEDOUT);
	assert_true(signals > 2);
	assert_true(took_ms >= 145);
	assert_true(took_ms < 5000); /* a restarted wait would never end */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(bad_messages_leak_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(as_many_descriptors_as_fit, setup, teardown),
		cmocka_unit_test_setup_teardown(sizes_at_the_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(the_longest_verb, setup, teardown),
		cmocka_unit_test_setup_teardown(messages_keep_their_bounds, setup, teardown),
		cmocka_unit_test_setup_teardown(signals_do_not_move_the_deadline, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
