/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop, and the messages that travel over its descriptors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/loop.h"

static struct cv_loop *loop;
static int fired[64], nfired;

static int setup(void **state)
{
	(void)state;
	nfired = 0;
	return cv_loop_new(&loop);
}

static int teardown(void **state)
{
	(void)state;
	cv_loop_free(loop);
	return 0;
}

struct numbered {
	struct cv_timer timer;
	int number;
};

static void fire(struct cv_timer *timer)
{
	assert_true(nfired < 64);
	fired[nfired++] = cv_container_of(timer, struct numbered, timer)->number;
}

static void timers_fire_in_order(void **state)
{
	struct numbered t[50];
	uint64_t end = cv_now_ns() + 2000000000ull;
	unsigned seed = 3;

	(void)state;
	for (int i = 0; i < 50; i++) {
		t[i].timer = (struct cv_timer)CV_TIMER_INIT(fire);
		t[i].number = i;
	}
	/* armed in a random order, each several times; every third one cancelled */
	for (int n = 0; n < 400; n++) {
		int i = rand_r(&seed) % 50;

		assert_int_equal(cv_timer_set(loop, &t[i].timer, (uint64_t)i), 0);
	}
	for (int i = 0; i < 50; i++)
		assert_int_equal(cv_timer_set(loop, &t[i].timer, (uint64_t)i), 0);
	for (int i = 0; i < 50; i += 3)
		cv_timer_cancel(loop, &t[i].timer);
	while (nfired < 33 && cv_now_ns() < end)
		assert_int_equal(cv_loop_turn(loop, 100), 0);
	assert_int_equal(nfired, 33);
	for (int i = 1; i < nfired; i++)
		assert_true(fired[i - 1] < fired[i]);
	for (int i = 0; i < nfired; i++)
		assert_true(fired[i] % 3 != 0);
}

static struct cv_watch watch_a, watch_b;
static int ready_count;

static void remove_the_other(struct cv_watch *watch, uint32_t events)
{
	(void)events;
	ready_count++;
	cv_loop_remove(loop, watch == &watch_a ? &watch_b : &watch_a);
}

/* Both are ready in the same turn; the one removed first must not be called. */
static void a_removed_watch_stays_silent(void **state)
{
	int a[2], b[2];

	(void)state;
	assert_int_equal(pipe2(a, O_CLOEXEC), 0);
	assert_int_equal(pipe2(b, O_CLOEXEC), 0);
	ready_count = 0;
	watch_a = (struct cv_watch)CV_WATCH_INIT(remove_the_other);
	watch_b = (struct cv_watch)CV_WATCH_INIT(remove_the_other);
	assert_int_equal(cv_loop_add(loop, &watch_a, a[0], EPOLLIN), 0);
	assert_int_equal(cv_loop_add(loop, &watch_b, b[0], EPOLLIN), 0);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	assert_int_equal(cv_loop_turn(loop, 1000), 0);
	assert_int_equal(ready_count, 1);
	cv_loop_remove(loop, &watch_a);
	cv_loop_remove(loop, &watch_b);
	for (int i = 0; i < 2; i++) {
		(void)close(a[i]);
		(void)close(b[i]);
	}
}

static int deferred_runs;
static struct cv_deferred again;

static void defer_again(struct cv_deferred *d)
{
	deferred_runs++;
	cv_loop_defer(loop, d);
}

static void deferring_oneself_waits_a_turn(void **state)
{
	(void)state;
	again = (struct cv_deferred)CV_DEFERRED_INIT(defer_again);
	deferred_runs = 0;
	cv_loop_defer(loop, &again);
	cv_loop_defer(loop, &again);
	assert_int_equal(cv_loop_turn(loop, -1), 0);
	assert_int_equal(deferred_runs, 1);
	assert_int_equal(cv_loop_turn(loop, -1), 0);
	assert_int_equal(deferred_runs, 2);
	cv_loop_undefer(loop, &again);
	assert_int_equal(cv_loop_turn(loop, 0), 0);
	assert_int_equal(deferred_runs, 2);
}

static struct cv_deferred first, second;
static int first_runs, second_runs;

static void drop_second_and_defer_again(struct cv_deferred *d)
{
	first_runs++;
	cv_loop_undefer(loop, &second);
	cv_loop_defer(loop, d);
}

static void count_second(struct cv_deferred *d)
{
	(void)d;
	second_runs++;
}

/* Dropping another item must not make room for oneself in the same turn. */
static void undeferring_keeps_turns_apart(void **state)
{
	(void)state;
	first = (struct cv_deferred)CV_DEFERRED_INIT(drop_second_and_defer_again);
	second = (struct cv_deferred)CV_DEFERRED_INIT(count_second);
	first_runs = second_runs = 0;
	cv_loop_defer(loop, &first);
	cv_loop_defer(loop, &second);
	assert_int_equal(cv_loop_turn(loop, 0), 0);
	assert_int_equal(first_runs, 1);
	assert_int_equal(second_runs, 0);
	assert_false(second.queued);
	/* the list's end is where it should be: what is queued now is found */
	cv_loop_undefer(loop, &first);
	cv_loop_defer(loop, &second);
	assert_int_equal(cv_loop_turn(loop, 0), 0);
	assert_int_equal(first_runs, 1);
	assert_int_equal(second_runs, 1);
}

static void turn_inside(struct cv_deferred *d)
{
	(void)d;
	first_runs++;
	assert_int_equal(cv_loop_turn(loop, 0), 0);
	assert_int_equal(second_runs, 1);
}

static void a_turn_inside_a_turn_loses_nothing(void **state)
{
	(void)state;
	first = (struct cv_deferred)CV_DEFERRED_INIT(turn_inside);
	second = (struct cv_deferred)CV_DEFERRED_INIT(count_second);
	first_runs = second_runs = 0;
	cv_loop_defer(loop, &first);
	cv_loop_defer(loop, &second);
	assert_int_equal(cv_loop_turn(loop, 0), 0);
	assert_int_equal(first_runs, 1);
	assert_int_equal(second_runs, 1);
}

static struct cv_watch reused;
static int reused_fd;

static void remove_and_add_again(struct cv_watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
	ready_count++;
	cv_loop_remove(loop, &reused);
	assert_int_equal(reused.fd, -1);
	assert_int_equal(cv_loop_add(loop, &reused, reused_fd, EPOLLOUT), 0);
}

static void must_be_writable(struct cv_watch *watch, uint32_t events)
{
	(void)watch;
	assert_int_equal(events & EPOLLIN, 0);
	ready_count += 100;
}

/* The event that was already fetched belongs to the old registration. */
static void a_watch_added_again_sees_no_old_event(void **state)
{
	int a[2], b[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b), 0);
	ready_count = 0;
	reused_fd = b[0];
	watch_a = (struct cv_watch)CV_WATCH_INIT(remove_and_add_again);
	reused = (struct cv_watch)CV_WATCH_INIT(must_be_writable);
	/* epoll reports in the order things became ready: a first */
	assert_int_equal(cv_loop_add(loop, &watch_a, a[0], EPOLLIN), 0);
	assert_int_equal(cv_loop_add(loop, &reused, b[0], EPOLLIN), 0);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	assert_int_equal(cv_loop_turn(loop, 1000), 0);
	assert_int_equal(ready_count, 1);
	cv_loop_remove(loop, &watch_a);
	cv_loop_remove(loop, &watch_a); /* no-op */
	assert_int_equal(cv_loop_turn(loop, 1000), 0);
	assert_int_equal(ready_count, 101);
	assert_int_equal(cv_loop_modify(loop, &reused, 0), 0);
	assert_int_equal(cv_loop_turn(loop, 0), 0);
	assert_int_equal(ready_count, 101);
	cv_loop_remove(loop, &reused);
	assert_int_equal(cv_loop_add(loop, &reused, -1, EPOLLIN), -EBADF);
	assert_int_equal(reused.fd, -1);
	for (int i = 0; i < 2; i++) {
		(void)close(a[i]);
		(void)close(b[i]);
	}
}

static void fire_and_arm_again(struct cv_timer *timer)
{
	nfired++;
	assert_int_equal(timer->index, 0);
	assert_int_equal(cv_timer_set(loop, timer, 0), 0);
}

static void a_timer_may_arm_itself(void **state)
{
	struct cv_timer t = CV_TIMER_INIT(fire_and_arm_again), never = CV_TIMER_INIT(NULL);
	uint64_t before = cv_now_ns();

	(void)state;
	/* for ever is not "now", whatever the arithmetic */
	assert_int_equal(cv_timer_set(loop, &never, UINT64_MAX), 0);
	assert_true(never.due_ns > before);
	assert_int_equal(cv_timer_set(loop, &t, 0), 0);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(cv_loop_turn(loop, -1), 0);
		assert_int_equal(nfired, i);
		assert_true(cv_loop_now_ns(loop) >= before);
	}
	cv_timer_cancel(loop, &t);
	cv_timer_cancel(loop, &t); /* no-op */
	assert_int_equal(cv_loop_turn(loop, 0), 0);
	assert_int_equal(nfired, 3);
	cv_timer_cancel(loop, &never);
}

static void stop(struct cv_timer *timer)
{
	(void)timer;
	cv_loop_stop(loop);
}

static void stopping(void **state)
{
	struct cv_timer t = CV_TIMER_INIT(stop);

	(void)state;
	assert_int_equal(cv_timer_set(loop, &t, 1), 0);
	assert_int_equal(cv_loop_run(loop), 0);
	/* stopped before it ran: comes back although nothing happens */
	cv_loop_stop(loop);
	assert_int_equal(cv_loop_run(loop), 0);
	/* and that stop is used up */
	assert_int_equal(cv_timer_set(loop, &t, 1), 0);
	assert_int_equal(cv_loop_run(loop), 0);
	assert_int_equal(t.index, 0);
}

static int posted_runs;

static void count_posted(struct cv_posted *p)
{
	(void)p;
	posted_runs++;
}

static void *poster(void *arg)
{
	struct cv_posted *items = arg;

	for (int i = 0; i < 1000; i++)
		cv_loop_post(loop, &items[i]);
	return NULL;
}

static void posts_from_threads_all_arrive(void **state)
{
	static struct cv_posted items[2][1000];
	uint64_t end = cv_now_ns() + 5000000000ull;
	pthread_t thread[2];

	(void)state;
	posted_runs = 0;
	for (int t = 0; t < 2; t++) {
		for (int i = 0; i < 1000; i++)
			items[t][i].run = count_posted;
		assert_int_equal(pthread_create(&thread[t], NULL, poster, items[t]), 0);
	}
	while (posted_runs < 2000 && cv_now_ns() < end)
		assert_int_equal(cv_loop_turn(loop, 100), 0);
	for (int t = 0; t < 2; t++)
		assert_int_equal(pthread_join(thread[t], NULL), 0);
	assert_int_equal(posted_runs, 2000);
}

/* ---- busy polling ---- */

#define WAITS	50
#define WAIT_US 3000

static void *write_now_and_then(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < WAITS; i++) {
		(void)usleep(WAIT_US);
		if (write(fd, "x", 1) != 1)
			break;
	}
	return NULL;
}

static void read_one(struct cv_watch *watch, uint32_t events)
{
	char c;

	(void)events;
	assert_int_equal(read(watch->fd, &c, 1), 1);
	ready_count++;
}

static uint64_t thread_cpu_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* CPU time that WAITS waits of WAIT_US take. */
static uint64_t waiting_costs(unsigned max_us, const uint64_t *under_way)
{
	struct cv_watch watch = CV_WATCH_INIT(read_one);
	uint64_t before;
	pthread_t thread;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(cv_loop_add(loop, &watch, fds[0], EPOLLIN), 0);
	cv_loop_poll(loop, max_us, under_way);
	ready_count = 0;
	before = thread_cpu_us();
	assert_int_equal(pthread_create(&thread, NULL, write_now_and_then, &fds[1]), 0);
	while (ready_count < WAITS)
		assert_int_equal(cv_loop_turn(loop, 1000), 0);
	before = thread_cpu_us() - before;
	assert_int_equal(pthread_join(thread, NULL), 0);
	cv_loop_remove(loop, &watch);
	(void)close(fds[0]);
	(void)close(fds[1]);
	return before;
}

static void polling_where_it_pays(void **state)
{
	const uint64_t little = WAITS * WAIT_US / 20;
	uint64_t under_way = 0;
	cpu_set_t cpus;

	(void)state;
	assert_true(waiting_costs(0, NULL) < little);
	assert_true(waiting_costs(WAIT_US / 3, NULL) < little); /* waits are longer */
	assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	if (CPU_COUNT(&cpus) < 2)
		skip();
	assert_true(waiting_costs(WAIT_US * 10, &under_way) > little);
}

/* ---- hand-off ---- */

static void messages_and_descriptors_travel(void **state)
{
	cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;
	int s[2], p[2];
	char c = 0;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(cv_dict_set(&args, "volume", "a b"), 0);
	assert_int_equal(cv_dict_set(&args, "empty", ""), 0);
	assert_int_equal(cv_handoff_recv(s[1], 0, &msg), -EAGAIN);
	assert_int_equal(cv_handoff_recv(s[1], 20, &msg), -ETIMEDOUT);
	assert_int_equal(cv_handoff_send(s[0], "start", &args, &p[1], 1), 0);
	assert_int_equal(cv_handoff_recv(s[1], 1000, &msg), 0);
	assert_string_equal(msg.verb, "start");
	assert_true(cv_dict_equal(&msg.args, &args));
	assert_int_equal(msg.nfds, 1);
	assert_true(fcntl(msg.fds[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(msg.fds[0], "x", 1), 1);
	assert_int_equal(read(p[0], &c, 1), 1);
	assert_int_equal(c, 'x');
	assert_int_equal(cv_handoff_send(s[0], "a verb far too long", NULL, NULL, 0), -EINVAL);
	(void)close(s[0]);
	cv_handoff_release(&msg);
	assert_int_equal(cv_handoff_recv(s[1], 1000, &msg), -ECONNRESET);
	assert_int_equal(cv_handoff_send(s[1], "status", NULL, NULL, 0), -EPIPE);
	(void)close(s[1]);
	(void)close(p[0]);
	(void)close(p[1]);
}

static void malformed_messages_are_refused(void **state)
{
	static const struct {
		const char *data;
		size_t size;
	} bad[] = {
		{ "", 0 },
		{ "verb", 4 },
		{ "\0", 1 },
		{ "verb\0key", 9 },
		{ "averyveryverylongverb\0", 22 },
		{ "v\0k\0v", 6 - 1 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;

		assert_int_equal(cv_handoff_parse(bad[i].data, bad[i].size, &msg), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(timers_fire_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(a_removed_watch_stays_silent, setup, teardown),
		cmocka_unit_test_setup_teardown(deferring_oneself_waits_a_turn, setup, teardown),
		cmocka_unit_test_setup_teardown(undeferring_keeps_turns_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(a_turn_inside_a_turn_loses_nothing, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_watch_added_again_sees_no_old_event, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_timer_may_arm_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(stopping, setup, teardown),
		cmocka_unit_test_setup_teardown(posts_from_threads_all_arrive, setup, teardown),
		cmocka_unit_test_setup_teardown(polling_where_it_pays, setup, teardown),
		cmocka_unit_test(messages_and_descriptors_travel),
		cmocka_unit_test(malformed_messages_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
