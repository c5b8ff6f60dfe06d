/* SPDX-License-Identifier: Apache-2.0 */
/* Request slots: how much memory many waiting requests take, that none of it is theirs alone, and
 * that none is lost when workers die in a row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/fuse.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuse/shm.h"

#define REQUESTS     300u
#define REQUEST_SIZE (100u << 10)
#define MIB	     (1u << 20)

static struct cv_shm shm;
static struct cv_slot *slots[REQUESTS];

static int setup(void **state)
{
	struct cv_shm_header header = { .magic = CV_SHM_MAGIC, .version = CV_SHM_VERSION };
	struct cv_err err;
	int fd = memfd_create("test", MFD_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)CV_SHM_SIZE), 0);
	assert_int_equal(pwrite(fd, &header, sizeof(header), 0), sizeof(header));
	assert_int_equal(cv_shm_map(fd, &shm, &err), 0);
	shm.can_lock = false; /* the address sanitizer makes mlock() do nothing */
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	cv_shm_release(&shm);
	return 0;
}

static uint64_t taken_mib(void)
{
	struct stat st;

	assert_int_equal(fstat(shm.fd, &st), 0);
	return (uint64_t)st.st_blocks * 512 / MIB;
}

/* As the kernel does it: the header, then the rest. */
static struct cv_slot *receive(uint32_t n, size_t size)
{
	struct cv_slot *slot = cv_shm_slot_get(&shm);
	uint8_t *buf = slot ? cv_shm_receive_buffer(&shm, slot) : NULL;
	const struct fuse_in_header in = { .len = (uint32_t)size, .unique = n + 1 };

	assert_non_null(buf);
	memset(buf, (int)n & 0xff, size);
	memcpy(buf, &in, sizeof(in));
	cv_shm_slot_publish(&shm, slot, size);
	return slot;
}

static void expect_content(uint32_t n, size_t size)
{
	const uint8_t *buf = cv_shm_slot_request(&shm, slots[n]);

	for (size_t i = sizeof(struct fuse_in_header); i < size; i++) {
		if (buf[i] != (n & 0xff))
			fail_msg("request %u at %zu", n, i);
	}
}

static void waiting_requests_take_what_they_hold(void **state)
{
	uint64_t idle = taken_mib();

	(void)state;
	for (uint32_t i = 0; i < REQUESTS; i++)
		slots[i] = receive(i, REQUEST_SIZE);
	/* Their data, and CV_LARGE_PINNED whole buffers. */
	assert_true(taken_mib() <= idle + REQUESTS * REQUEST_SIZE / MIB +
					   CV_LARGE_PINNED * CV_LARGE_SIZE / MIB + 8);
	for (uint32_t i = 0; i < REQUESTS; i++)
		expect_content(i, REQUEST_SIZE);
	for (uint32_t i = 0; i < REQUESTS; i++)
		cv_shm_slot_put(&shm, slots[i]);
	/* Used again, each holds as much as any. */
	for (uint32_t i = 0; i < REQUESTS / 3; i++)
		slots[i] = receive(i, CV_LARGE_SIZE);
	for (uint32_t i = 0; i < REQUESTS / 3; i++) {
		expect_content(i, CV_LARGE_SIZE);
		cv_shm_slot_put(&shm, slots[i]);
	}
	cv_shm_trim(&shm);
	assert_true(taken_mib() <= idle + 8);
}

static void take_over(void)
{
	struct cv_err err;
	int fd = dup(shm.fd);

	cv_shm_release(&shm);
	assert_int_equal(cv_shm_map(fd, &shm, &err), 0);
	shm.can_lock = false;
}

/* A successor that dies before it has done anything leaves what it found to the next one. */
static void requests_outlive_workers(void **state)
{
	const uint32_t count = 40, half_received = count;
	const struct fuse_in_header in = { .len = REQUEST_SIZE, .unique = half_received + 1 };
	struct cv_slot *slot;
	uint8_t *buf;

	(void)state;
	for (uint32_t i = 0; i < count; i++)
		(void)receive(i, REQUEST_SIZE);
	/* All of it is there, but the worker dies before it knows. */
	slot = cv_shm_slot_get(&shm);
	buf = cv_shm_receive_buffer(&shm, slot);
	assert_non_null(buf);
	memset(buf, half_received, REQUEST_SIZE);
	memcpy(buf, &in, sizeof(in));
	for (int generation = 0; generation < 3; generation++) {
		take_over();
		for (uint32_t i = 0; i <= count; i++) {
			slots[i] = cv_shm_slot_find(&shm, i + 1);
			assert_non_null(slots[i]);
			assert_int_equal(slots[i]->state, CV_SLOT_RECEIVED);
			expect_content(i, REQUEST_SIZE);
		}
	}
	/* What is received now does not come on top of them. */
	for (uint32_t i = count + 1; i < 2 * count; i++)
		slots[i] = receive(i, REQUEST_SIZE);
	for (uint32_t i = 0; i < 2 * count; i++)
		expect_content(i, REQUEST_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(waiting_requests_take_what_they_hold, setup,
						teardown),
		cmocka_unit_test_setup_teardown(requests_outlive_workers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
