/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random reads, writes, truncations, mappings, syncs and reopenings of one file, compared byte for
 * byte with a model in memory. It is open twice, once only for writing, which may take another way.
 * The sequence depends on the seed alone.
 */
#include "tests/conformance/conformance.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define FILE_MAX (1u << 20)
#define OPS	 4000

static uint8_t model[FILE_MAX], buf[FILE_MAX];
static size_t size;
static unsigned seed;
static int fd, writer, op_number;

static size_t random_below(size_t n)
{
	return n ? ((size_t)rand_r(&seed) << 15 ^ (size_t)rand_r(&seed)) % n : 0;
}

/* Mostly small, sometimes large, often at the end of the file. */
static void random_range(size_t limit, size_t *ret_off, size_t *ret_len)
{
	size_t max_len = random_below(4) ? 20000 : 200000;

	*ret_off = random_below(5) ? random_below(limit) : size < limit ? size : 0;
	*ret_len = 1 + random_below(max_len);
	if (*ret_len > limit - *ret_off)
		*ret_len = limit - *ret_off;
}

static void differs(const char *what, size_t off, const uint8_t *got, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (got[i] != model[off + i])
			fail_at(__FILE__, __LINE__, "operation %d: %s: byte %zu is %02x, not %02x",
				op_number, what, off + i, got[i], model[off + i]);
	}
}

static void grow_to(size_t end)
{
	if (end > size)
		size = end; /* what lies between is zero in the model already */
}

static int either(void)
{
	return random_below(2) ? fd : writer;
}

static void do_write(size_t off, size_t len)
{
	for (size_t i = 0; i < len; i++)
		model[off + i] = (uint8_t)rand_r(&seed);
	write_all(either(), model + off, len, off);
	grow_to(off + len);
}

static void do_read(size_t off, size_t len)
{
	size_t expected = off >= size ? 0 : len < size - off ? len : size - off;
	size_t n = read_all(fd, buf, len, off);

	if (n != expected)
		fail_at(__FILE__, __LINE__, "operation %d: read %zu bytes at %zu, not %zu",
			op_number, n, off, expected);
	differs("read", off, buf, n);
}

static void do_truncate(size_t length)
{
	NEED(ftruncate(either(), (off_t)length) == 0);
	if (length < size)
		memset(model + length, 0, size - length);
	size = length;
}

static void do_map(size_t off, size_t len, bool writing)
{
	size_t page = off & ~(size_t)4095;
	uint8_t *map;

	if (off >= size)
		return;
	if (len > size - off)
		len = size - off;
	map = mmap(NULL, off + len - page, PROT_READ | (writing ? PROT_WRITE : 0), MAP_SHARED, fd,
		   (off_t)page);
	NEED(map != MAP_FAILED);
	if (writing) {
		for (size_t i = 0; i < len; i++)
			map[off - page + i] = model[off + i] = (uint8_t)rand_r(&seed);
		if (random_below(2))
			NEED(msync(map, off + len - page, MS_SYNC) == 0);
	} else {
		differs("mapping", off, map + (off - page), len);
	}
	NEED(munmap(map, off + len - page) == 0);
}

/* First who only writes: alone, it may take another way. */
static void open_both(int flags)
{
	writer = open("f", O_WRONLY | flags, 0600);
	NEED(writer >= 0);
	fd = open("f", O_RDWR);
	NEED(fd >= 0);
}

static void do_reopen(void)
{
	NEED(close(fd) == 0);
	NEED(close(writer) == 0);
	if ((size_t)stat_of("f").st_size != size)
		fail_at(__FILE__, __LINE__, "operation %d: size %lld after close, not %zu",
			op_number, (long long)stat_of("f").st_size, size);
	open_both(0);
}

static bool enough(time_t start)
{
	return arg_seconds ? time(NULL) - start >= (time_t)arg_seconds : op_number >= OPS;
}

static void random_operations(void)
{
	time_t start = time(NULL);

	seed = arg_seed;
	open_both(O_CREAT | O_EXCL);
	for (op_number = 0; !enough(start); op_number++) {
		size_t off, len;

		random_range(FILE_MAX, &off, &len);
		switch (random_below(16)) {
		case 0:
		case 1:
		case 2:
		case 3:
		case 4:
			do_write(off, len);
			break;
		case 5:
		case 6:
		case 7:
		case 8:
			do_read(off, len);
			break;
		case 9:
		case 10:
			do_truncate(off);
			break;
		case 11:
		case 12:
			do_map(off, len, true);
			break;
		case 13:
			do_map(off, len, false);
			break;
		case 14:
			NEED((random_below(2) ? fsync(either()) : fdatasync(either())) == 0);
			break;
		default:
			do_reopen();
			break;
		}
	}
	do_reopen();
	do_read(0, FILE_MAX);
	NEED(close(writer) == 0);
	NEED(close(fd) == 0);
}

const struct check random_checks[] = {
	{ "random_operations", random_operations },
	{ NULL, NULL },
};
