/* SPDX-License-Identifier: Apache-2.0 */
/* Open files: creation, content, holes, sharing, mmap, life without a name. */
#include "conformance.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void create_open(void)
{
	int fd = open("a", O_RDWR | O_CREAT | O_EXCL, 0640);
	struct stat st;

	NEED(fd >= 0);
	NEED(fstat(fd, &st) == 0);
	NEED(S_ISREG(st.st_mode) && (st.st_mode & 07777) == 0640);
	NEED(st.st_size == 0 && st.st_nlink == 1);
	NEED(st.st_uid == geteuid());
	write_all(fd, "hello", 5, 0);
	NEED(close(fd) == 0);
	NEED_ERROR(open("a", O_RDWR | O_CREAT | O_EXCL, 0640), EEXIST);
	fd = open("a", O_RDWR | O_CREAT, 0777); /* keeps content and mode */
	NEED(fd >= 0);
	NEED(close(fd) == 0);
	expect_content("a", "hello");
	NEED((stat_of("a").st_mode & 07777) == 0640);
	fd = open("none", O_WRONLY | O_CREAT | O_EXCL, 0);
	NEED(fd >= 0);
	write_all(fd, "x", 1, 0);
	NEED(close(fd) == 0);
	NEED((stat_of("none").st_mode & 07777) == 0);
}

static void open_errors(void)
{
	int fd;
	char c;

	make_dir("d");
	NEED_ERROR(open("d", O_WRONLY), EISDIR);
	NEED_ERROR(open("d", O_RDWR | O_CREAT, 0600), EISDIR);
	fd = open("d", O_RDONLY);
	NEED(fd >= 0);
	NEED_ERROR(read(fd, &c, 1), EISDIR);
	NEED(close(fd) == 0);
	put_file("f", "x");
	fd = open("f", O_RDONLY);
	NEED(fd >= 0);
	NEED_ERROR(write(fd, "x", 1), EBADF);
	NEED_EITHER(ftruncate(fd, 0), EINVAL, EBADF);
	NEED(close(fd) == 0);
	fd = open("f", O_WRONLY);
	NEED(fd >= 0);
	NEED_ERROR(read(fd, &c, 1), EBADF);
	NEED(close(fd) == 0);
	NEED(symlink("f", "l") == 0);
	NEED_ERROR(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
	NEED_ERROR(open("l", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
	NEED(symlink("gone", "dangling") == 0);
	NEED_ERROR(open("dangling", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
	fd = open("dangling", O_RDWR | O_CREAT, 0600); /* makes what it points to */
	NEED(fd >= 0);
	NEED(close(fd) == 0);
	NEED(exists("gone"));
}

static void open_truncate(void)
{
	int fd;

	put_file("a", "some content");
	fd = open("a", O_RDWR | O_TRUNC);
	NEED(fd >= 0);
	NEED(stat_of("a").st_size == 0);
	write_all(fd, "new", 3, 0);
	NEED(close(fd) == 0);
	expect_content("a", "new");
	fd = open("a", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	NEED(fd >= 0);
	NEED(close(fd) == 0);
	expect_content("a", "");
}

static int race_start[2];

static void exclusive_racer(int round)
{
	char name[32], c;
	int fd;

	(void)snprintf(name, sizeof(name), "lock-%d", round);
	NEED(read(race_start[0], &c, 1) == 0); /* end of file: go */
	fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd >= 0) {
		int log = open("winners", O_WRONLY | O_APPEND | O_CREAT, 0600);

		NEED(log >= 0);
		NEED(write(log, name, strlen(name)) == (ssize_t)strlen(name));
		NEED(close(log) == 0);
		NEED(close(fd) == 0);
	} else {
		NEED(errno == EEXIST);
	}
}

static void exclusive_race(void)
{
	for (int round = 0; round < 10; round++) {
		char name[32];
		pid_t pids[8];

		(void)snprintf(name, sizeof(name), "lock-%d", round);
		NEED(pipe(race_start) == 0);
		for (unsigned i = 0; i < 8; i++) {
			pids[i] = fork();
			NEED(pids[i] >= 0);
			if (pids[i] == 0) {
				(void)close(race_start[1]);
				exclusive_racer(round);
				_exit(0);
			}
		}
		(void)close(race_start[0]);
		(void)close(race_start[1]);
		join_all(pids, 8);
		expect_content("winners", name);
		NEED(unlink("winners") == 0);
	}
}

static void write_read(void)
{
	static const size_t sizes[] = { 1, 4095, 4096, 4097, 65536, 131071, 1048577, 5000000 };
	uint8_t *want = malloc(5000000), *got = malloc(5000001);

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t size = sizes[i];
		int fd = open("a", O_RDWR | O_CREAT | O_TRUNC, 0600);

		NEED(fd >= 0);
		pattern(want, size, 0, i);
		write_all(fd, want, size, 0);
		NEED(read_all(fd, got, size + 1, 0) == size);
		NEED(memcmp(want, got, size) == 0);
		NEED(close(fd) == 0);
		NEED(stat_of("a").st_size == (off_t)size);
		fd = open("a", O_RDONLY);
		NEED(fd >= 0);
		memset(got, 0, size);
		NEED(read_all(fd, got, size + 1, 0) == size);
		NEED(memcmp(want, got, size) == 0);
		NEED(read(fd, got, 1) == 1 && got[0] == want[0]);
		NEED(lseek(fd, 0, SEEK_END) == (off_t)size);
		NEED(read(fd, got, 1) == 0);
		NEED(close(fd) == 0);
	}
	free(want);
	free(got);
}

/* Random places and sizes against a copy in memory, through two descriptors. */
static void random_writes(void)
{
	const size_t size = 3 << 20;
	uint8_t *want = calloc(1, size), *got = malloc(size);
	uint64_t random = 88172645463325252ull;
	int fd = make_file("a", 0600, ""), other = open("a", O_RDWR);

	NEED(other >= 0);
	NEED(ftruncate(fd, (off_t)size) == 0);
	for (unsigned i = 0; i < 400; i++) {
		size_t off, n;

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		off = random % size;
		n = (random >> 32) % 60000;
		if (n > size - off)
			n = size - off;
		if (i % 3 == 2) {
			NEED(read_all(i % 2 ? fd : other, got, n, off) == n);
			NEED(memcmp(want + off, got, n) == 0);
			continue;
		}
		pattern(want + off, n, off, i);
		write_all(i % 2 ? fd : other, want + off, n, off);
	}
	NEED(close(other) == 0);
	NEED(read_all(fd, got, size, 0) == size);
	NEED(memcmp(want, got, size) == 0);
	NEED(close(fd) == 0);
	fd = open("a", O_RDONLY);
	NEED(fd >= 0);
	NEED(read_all(fd, got, size, 0) == size);
	NEED(memcmp(want, got, size) == 0);
	NEED(close(fd) == 0);
	free(want);
	free(got);
}

static void holes(void)
{
	char buf[8192];
	int fd = make_file("a", 0600, "start");

	write_all(fd, "end", 3, 1000000);
	NEED(stat_of("a").st_size == 1000003);
	NEED(read_all(fd, buf, sizeof(buf), 5) == sizeof(buf));
	for (size_t i = 0; i < sizeof(buf); i++)
		NEED(buf[i] == 0);
	NEED(read_all(fd, buf, sizeof(buf), 999998) == 5);
	NEED(memcmp(buf, "\0\0end", 5) == 0);
	NEED(pread(fd, buf, 1, 1000003) == 0);
	NEED(pread(fd, buf, 1, 2000000) == 0);
	NEED(close(fd) == 0);
}

static void sparse_4g(void)
{
	const off_t far = (6ll << 30) + 12345;
	char buf[4096];
	int fd = make_file("a", 0600, "");

	write_all(fd, "far", 3, (uint64_t)far);
	write_all(fd, "near", 4, (4ull << 30) - 2); /* across 4 GiB */
	NEED(close(fd) == 0);
	NEED(stat_of("a").st_size == far + 3);
	fd = open("a", O_RDWR);
	NEED(fd >= 0);
	NEED(read_all(fd, buf, 10, (uint64_t)far) == 3 && memcmp(buf, "far", 3) == 0);
	NEED(read_all(fd, buf, 4, (4ull << 30) - 2) == 4 && memcmp(buf, "near", 4) == 0);
	NEED(read_all(fd, buf, sizeof(buf), 5ull << 30) == sizeof(buf));
	for (size_t i = 0; i < sizeof(buf); i++)
		NEED(buf[i] == 0);
	NEED(lseek(fd, 0, SEEK_END) == far + 3);
	NEED(ftruncate(fd, 5ll << 30) == 0);
	NEED(stat_of("a").st_size == 5ll << 30);
	NEED(close(fd) == 0);
}

static void truncate_sizes(void)
{
	char buf[32];
	int fd = make_file("a", 0600, "0123456789");

	NEED(ftruncate(fd, 4) == 0);
	NEED(stat_of("a").st_size == 4);
	NEED(ftruncate(fd, 12) == 0);
	NEED(read_all(fd, buf, sizeof(buf), 0) == 12);
	NEED(memcmp(buf, "0123\0\0\0\0\0\0\0\0", 12) == 0);
	NEED(truncate("a", 2) == 0);
	NEED(read_all(fd, buf, sizeof(buf), 0) == 2);
	NEED(truncate("a", 100000) == 0);
	write_all(fd, "x", 1, 99999);
	NEED(ftruncate(fd, 99999) == 0);
	NEED(ftruncate(fd, 100001) == 0);
	NEED(read_all(fd, buf, sizeof(buf), 99998) == 3 && memcmp(buf, "\0\0\0", 3) == 0);
	NEED_ERROR(ftruncate(fd, -1), EINVAL);
	NEED(close(fd) == 0);
	make_dir("d");
	NEED_ERROR(truncate("d", 0), EISDIR);
}

/* More than most file systems allow: those that do not say so. */
static void truncate_huge(void)
{
	const off_t huge = 999999999999999;
	int fd = make_file("a", 0600, "0123456789");

	if (ftruncate(fd, huge) == 0) {
		NEED(stat_of("a").st_size == huge);
		NEED(ftruncate(fd, 10) == 0);
	} else {
		NEED(errno == EFBIG || errno == EINVAL);
	}
	NEED(stat_of("a").st_size == 10);
	NEED(close(fd) == 0);
	expect_content("a", "0123456789");
}

/* Data still in a write-behind buffer must not come back after a truncation. */
static void truncate_after_write(void)
{
	uint8_t *data = malloc(300000), *got = malloc(300000);
	int fd = make_file("a", 0600, "");

	for (unsigned i = 0; i < 20; i++) {
		pattern(data, 300000, 0, i);
		write_all(fd, data, 300000, 0);
		NEED(ftruncate(fd, 1000 + i) == 0);
		NEED(ftruncate(fd, 250000) == 0);
		memset(data + 1000 + i, 0, 250000 - 1000 - i);
		NEED(read_all(fd, got, 300000, 0) == 250000);
		NEED(memcmp(data, got, 250000) == 0);
	}
	NEED(close(fd) == 0);
	NEED(stat_of("a").st_size == 250000);
	free(data);
	free(got);
}

static void append(void)
{
	int fd = make_file("a", 0600, "one"), app = open("a", O_WRONLY | O_APPEND);

	NEED(app >= 0);
	NEED(write(app, "two", 3) == 3);
	write_all(fd, "three", 5, 6);
	NEED(write(app, "four", 4) == 4);
	NEED(lseek(app, 0, SEEK_SET) == 0);
	NEED(write(app, "five", 4) == 4);
	expect_content("a", "onetwothreefourfive");
	NEED(close(app) == 0);
	NEED(close(fd) == 0);
}

#define APPEND_LINES 1500

static void appender(int id)
{
	int fd = open("log", O_WRONLY | O_APPEND | O_CREAT, 0644);
	char line[256];

	NEED(fd >= 0);
	for (int i = 0; i < APPEND_LINES; i++) {
		int n = snprintf(line, sizeof(line), "%d %d %*s|\n", id, i, (i * 37) % 150, "");

		NEED(write(fd, line, (size_t)n) == n);
	}
	NEED(close(fd) == 0);
}

static void append_two_processes(void)
{
	pid_t pids[2] = { spawn(appender, 0), spawn(appender, 1) };
	int next[2] = { 0, 0 };
	char line[300];
	FILE *f;

	join_all(pids, 2);
	f = fopen("log", "re");
	NEED(f);
	while (fgets(line, sizeof(line), f)) {
		int id, i;
		size_t n = strlen(line);

		NEED(sscanf(line, "%d %d", &id, &i) == 2);
		NEED(id == 0 || id == 1);
		NEED(i == next[id]++);
		NEED(n > 2 && strcmp(line + n - 2, "|\n") == 0);
	}
	NEED(next[0] == APPEND_LINES && next[1] == APPEND_LINES);
	(void)fclose(f);
}

#define BLOCK  4093
#define BLOCKS 200

static void block_writer(int id)
{
	int fd = open("a", O_WRONLY);
	uint8_t block[BLOCK];

	NEED(fd >= 0);
	for (unsigned i = (unsigned)id; i < BLOCKS; i += 4) {
		pattern(block, BLOCK, i, (unsigned)id);
		write_all(fd, block, BLOCK, (uint64_t)i * BLOCK);
	}
	NEED(close(fd) == 0);
}

static void concurrent_writers(void)
{
	uint8_t want[BLOCK], got[BLOCK];
	pid_t pids[4];
	int fd;

	put_file("a", "");
	for (int i = 0; i < 4; i++)
		pids[i] = spawn(block_writer, i);
	join_all(pids, 4);
	fd = open("a", O_RDONLY);
	NEED(fd >= 0);
	NEED(stat_of("a").st_size == (off_t)BLOCK * BLOCKS);
	for (unsigned i = 0; i < BLOCKS; i++) {
		pattern(want, BLOCK, i, i % 4);
		NEED(read_all(fd, got, BLOCK, (uint64_t)i * BLOCK) == BLOCK);
		NEED(memcmp(want, got, BLOCK) == 0);
	}
	NEED(close(fd) == 0);
}

static void vectors(void)
{
	char a[3], b[5];
	struct iovec out[2] = { { (void *)(uintptr_t) "abc", 3 },
				{ (void *)(uintptr_t) "defgh", 5 } };
	struct iovec in[2] = { { a, 3 }, { b, 5 } };
	int fd = make_file("a", 0600, "");

	NEED(pwritev(fd, out, 2, 10) == 8);
	NEED(preadv(fd, in, 2, 10) == 8);
	NEED(memcmp(a, "abc", 3) == 0 && memcmp(b, "defgh", 5) == 0);
	NEED(close(fd) == 0);
}

/* Who has a file open, or mapped, sees at once what another process writes, however large it is. */
static void read_while_written(void)
{
	const size_t size = 3 << 20;
	char *want = malloc(size), *got = malloc(size);
	/* First who only writes: alone, it may take another way. */
	int writer = open("a", O_WRONLY | O_CREAT, 0600), reader = open("a", O_RDONLY);
	char *map;

	NEED(want && got && reader >= 0 && writer >= 0);
	pattern(want, size, 0, 1);
	write_all(writer, want, size, 0);
	NEED(read_all(reader, got, size, 0) == size && memcmp(want, got, size) == 0);
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, reader, 0);
	NEED(map != MAP_FAILED);
	NEED(memcmp(want, map, size) == 0);
	for (unsigned i = 2; i < 8; i++) {
		size_t at = i * 100001, n = i % 2 ? 5 : 1200000;

		pattern(want + at, n, at, i);
		write_all(writer, want + at, n, at);
		NEED(read_all(reader, got, size, 0) == size && memcmp(want, got, size) == 0);
		NEED(memcmp(want, map, size) == 0);
	}
	NEED(ftruncate(writer, 5000) == 0);
	NEED(read_all(reader, got, size, 0) == 5000 && memcmp(want, got, 5000) == 0);
	NEED(munmap(map, size) == 0);
	NEED(close(writer) == 0);
	NEED(close(reader) == 0);
	free(want);
	free(got);
}

static void dup_and_close(void)
{
	int fd = make_file("a", 0600, ""), other = dup(fd);

	NEED(other >= 0);
	NEED(write(fd, "one", 3) == 3);
	NEED(close(fd) == 0);
	expect_content("a", "one");
	NEED(write(other, "two", 3) == 3);
	NEED(fsync(other) == 0);
	NEED(close(other) == 0);
	expect_content("a", "onetwo");
	NEED_ERROR(close(other), EBADF);
}

/* What a process has written is there for others as soon as it has closed. */
static void close_to_open(void)
{
	char text[64];

	put_file("a", "");
	for (int i = 0; i < 100; i++) {
		int fd = open("a", O_WRONLY | O_TRUNC);
		int n = snprintf(text, sizeof(text), "round %d", i);

		NEED(fd >= 0);
		NEED(write(fd, text, (size_t)n) == n);
		NEED(close(fd) == 0);
		expect_content("a", text);
		NEED(stat_of("a").st_size == n);
	}
}

static void sync_calls(void)
{
	int fd = make_file("a", 0600, "data"), dir = open(".", O_RDONLY | O_DIRECTORY);

	NEED(fsync(fd) == 0);
	write_all(fd, "more", 4, 4);
	NEED(fdatasync(fd) == 0);
	NEED(dir >= 0);
	if (fsync(dir) < 0)
		NEED(errno == EINVAL);
	NEED(syncfs(fd) == 0);
	NEED(close(fd) == 0);
	NEED(close(dir) == 0);
	fd = open("a", O_WRONLY | O_SYNC);
	NEED(fd >= 0);
	NEED(pwrite(fd, "sync", 4, 8) == 4);
	NEED(close(fd) == 0);
	expect_content("a", "datamoresync");
}

static void mmap_shared(void)
{
	const size_t size = 300000;
	int fd = make_file("a", 0600, "");
	char *map;
	char buf[64];

	NEED(ftruncate(fd, (off_t)size) == 0);
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED && errno == ENODEV)
		skip("no shared mappings");
	NEED(map != MAP_FAILED);
	memcpy(map + 100000, "mapped", 6);
	NEED(pread(fd, buf, 6, 100000) == 6 && memcmp(buf, "mapped", 6) == 0);
	write_all(fd, "written", 7, 200000);
	NEED(memcmp(map + 200000, "written", 7) == 0);
	NEED(msync(map, size, MS_SYNC) == 0);
	memcpy(map, "last", 4);
	NEED(munmap(map, size) == 0);
	NEED(close(fd) == 0);
	fd = open("a", O_RDONLY);
	NEED(fd >= 0);
	NEED(pread(fd, buf, 4, 0) == 4 && memcmp(buf, "last", 4) == 0);
	NEED(pread(fd, buf, 6, 100000) == 6 && memcmp(buf, "mapped", 6) == 0);
	NEED(pread(fd, buf, 7, 200000) == 7 && memcmp(buf, "written", 7) == 0);
	NEED(close(fd) == 0);
}

static char *shared_map;

static void map_writer(int value)
{
	shared_map[5000] = (char)value;
}

static void mmap_two_processes(void)
{
	int fd = make_file("a", 0600, "");
	char c;

	NEED(ftruncate(fd, 8192) == 0);
	shared_map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared_map == MAP_FAILED && errno == ENODEV)
		skip("no shared mappings");
	NEED(shared_map != MAP_FAILED);
	NEED(close(fd) == 0); /* the mapping stays */
	join(spawn(map_writer, 'x'));
	NEED(shared_map[5000] == 'x');
	fd = open("a", O_RDONLY);
	NEED(fd >= 0);
	NEED(pread(fd, &c, 1, 5000) == 1 && c == 'x');
	NEED(close(fd) == 0);
	NEED(munmap(shared_map, 8192) == 0);
}

static void mmap_private(void)
{
	int fd = make_file("a", 0600, "original");
	char *map = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	NEED(map != MAP_FAILED);
	NEED(memcmp(map, "original", 8) == 0);
	memcpy(map, "changed!", 8);
	NEED(munmap(map, 8) == 0);
	NEED(close(fd) == 0);
	expect_content("a", "original");
}

static void copy_program(const char *to)
{
	int in = open("/bin/true", O_RDONLY), out = make_file(to, 0755, "");
	char buf[65536];
	uint64_t off = 0;
	size_t n;

	NEED(in >= 0);
	while ((n = read_all(in, buf, sizeof(buf), off)) > 0) {
		write_all(out, buf, n, off);
		off += n;
	}
	NEED(close(in) == 0);
	NEED(close(out) == 0);
}

static void exec_copy(int unused)
{
	(void)unused;
	(void)execl("./program", "program", (char *)NULL);
	fail_at(__FILE__, __LINE__, "execl: %s", strerrorname_np(errno));
}

static void exec_binary(void)
{
	copy_program("program");
	join(spawn(exec_copy, 0));
	NEED(chmod("program", 0644) == 0);
	NEED_ERROR(execl("./program", "program", (char *)NULL), EACCES);
}

static void unlink_open(void)
{
	struct stat st;
	char buf[16];
	int fd;

	make_dir("d");
	fd = make_file("d/f", 0600, "before");
	NEED(unlink("d/f") == 0);
	NEED(!exists("d/f"));
	NEED(count_entries("d") == 0);
	NEED(read_all(fd, buf, sizeof(buf), 0) == 6 && memcmp(buf, "before", 6) == 0);
	write_all(fd, "AFTER", 5, 3);
	NEED(read_all(fd, buf, sizeof(buf), 0) == 8 && memcmp(buf, "befAFTER", 8) == 0);
	NEED(fstat(fd, &st) == 0);
	NEED(st.st_size == 8);
	NEED(ftruncate(fd, 4) == 0);
	NEED(fstat(fd, &st) == 0 && st.st_size == 4);
	NEED(fsync(fd) == 0);
	NEED(rmdir("d") == 0); /* nothing left in it */
	write_all(fd, "still here", 10, 0);
	NEED(read_all(fd, buf, sizeof(buf), 0) == 10 && memcmp(buf, "still here", 10) == 0);
	NEED(close(fd) == 0);
	NEED(count_entries(".") == 0);
}

static void unlink_open_nlink(void)
{
	int fd = make_file("f", 0600, "x");
	struct stat st;

	NEED(unlink("f") == 0);
	NEED(fstat(fd, &st) == 0);
	NEED(st.st_nlink == 0);
	NEED(close(fd) == 0);
}

static void unlink_open_meta(void)
{
	int fd = make_file("f", 0600, "x");
	struct stat st;

	NEED(unlink("f") == 0);
	NEED(fchmod(fd, 0640) == 0);
	NEED(fstat(fd, &st) == 0);
	NEED((st.st_mode & 0777) == 0640);
	NEED(futimens(fd, (struct timespec[2]){ { 1000, 0 }, { 2000, 0 } }) == 0);
	NEED(fstat(fd, &st) == 0);
	NEED(st.st_mtime == 2000);
	NEED(close(fd) == 0);
}

/* The name is free at once; old and new do not mix. */
static void unlink_and_make_again(void)
{
	int old = make_file("f", 0600, "old"), fresh;
	char buf[8];

	for (int i = 0; i < 20; i++) {
		NEED(unlink("f") == 0);
		fresh = make_file("f", 0600, "new");
		NEED(read_all(old, buf, sizeof(buf), 0) == 3);
		NEED(memcmp(buf, i == 0 ? "old" : "new", 3) == 0);
		expect_content("f", "new");
		NEED(close(old) == 0);
		old = fresh;
	}
	NEED(close(old) == 0);
	NEED(count_entries(".") == 1);
}

static void unlink_open_many(void)
{
	char name[16], buf[16];
	int fds[50];

	for (int i = 0; i < 50; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		fds[i] = make_file(name, 0600, name);
		NEED(unlink(name) == 0);
	}
	NEED(count_entries(".") == 0);
	for (int i = 0; i < 50; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		NEED(read_all(fds[i], buf, sizeof(buf), 0) == strlen(name));
		NEED(memcmp(buf, name, strlen(name)) == 0);
		NEED(close(fds[i]) == 0);
	}
}

static void rename_over_open(void)
{
	int old = make_file("target", 0600, "old data");
	char buf[16];

	put_file("source", "new data!");
	NEED(rename("source", "target") == 0);
	NEED(read_all(old, buf, sizeof(buf), 0) == 8 && memcmp(buf, "old data", 8) == 0);
	write_all(old, "OLD", 3, 0);
	expect_content("target", "new data!");
	NEED(read_all(old, buf, sizeof(buf), 0) == 8 && memcmp(buf, "OLD data", 8) == 0);
	NEED(close(old) == 0);
	NEED(count_entries(".") == 1);
}

static void rename_open(void)
{
	int fd = make_file("a", 0600, "one");
	char buf[16];

	make_dir("d");
	NEED(rename("a", "d/b") == 0);
	write_all(fd, "two", 3, 3);
	NEED(read_all(fd, buf, sizeof(buf), 0) == 6 && memcmp(buf, "onetwo", 6) == 0);
	NEED(close(fd) == 0);
	expect_content("d/b", "onetwo");
	NEED(!exists("a"));
}

/* Writes the pending data of a file that is renamed and replaced while still being written. */
static void replace_by_rename(void)
{
	char name[32], text[32];

	for (int i = 0; i < 50; i++) {
		int fd;

		(void)snprintf(name, sizeof(name), "tmp.%d", i);
		(void)snprintf(text, sizeof(text), "version %d", i);
		fd = make_file(name, 0600, text);
		NEED(rename(name, "current") == 0);
		expect_content("current", text);
		NEED(close(fd) == 0);
		expect_content("current", text);
	}
	NEED(count_entries(".") == 1);
}

static void copy_in_kernel(void)
{
	const size_t size = 700000;
	uint8_t *want = malloc(size), *got = malloc(size + 1);
	int in = make_file("in", 0600, ""), out = make_file("out", 0600, "");
	size_t done = 0;
	off_t off = 0;

	pattern(want, size, 0, 3);
	write_all(in, want, size, 0);
	while (done < size) {
		ssize_t n = sendfile(out, in, &off, size - done);

		NEED(n > 0);
		done += (size_t)n;
	}
	NEED(read_all(out, got, size + 1, 0) == size && memcmp(want, got, size) == 0);
	NEED(ftruncate(out, 0) == 0);
	NEED(lseek(in, 0, SEEK_SET) == 0 && lseek(out, 0, SEEK_SET) == 0);
	for (done = 0; done < size;) {
		ssize_t n = copy_file_range(in, NULL, out, NULL, size - done, 0);

		if (n < 0 && done == 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
			skip("no copy_file_range");
		NEED(n > 0);
		done += (size_t)n;
	}
	NEED(read_all(out, got, size + 1, 0) == size && memcmp(want, got, size) == 0);
	NEED(close(in) == 0);
	NEED(close(out) == 0);
	free(want);
	free(got);
}

/* All of it, in as many steps as it takes. */
static void copy_range(int in, off_t from, int out, off_t to, size_t size)
{
	while (size > 0) {
		ssize_t n = copy_file_range(in, &from, out, &to, size, 0);

		NEED(n > 0 && (size_t)n <= size);
		size -= (size_t)n;
	}
}

static void copy_ranges(void)
{
	const size_t size = 3000000, from = 12345, to = 54321, count = 2500000;
	uint8_t *want = malloc(size), *source = malloc(size), *got = malloc(size + 1);
	int in = make_file("in", 0600, ""), out = make_file("out", 0600, ""), other;
	uint8_t *map;
	off_t off;

	/* Neither need be on the server yet, and pages of both are in memory. */
	pattern(source, size, 0, 5);
	pattern(want, size, 0, 6);
	write_all(in, source, size, 0);
	write_all(out, want, size / 2, 0);
	map = mmap(NULL, size, PROT_READ, MAP_SHARED, out, 0);
	NEED(map != MAP_FAILED);
	NEED(memcmp(map, want, size / 2) == 0);
	copy_range(in, (off_t)from, out, (off_t)to, count);
	memcpy(want + to, source + from, count);
	NEED(stat_of("out").st_size == (off_t)(to + count));
	NEED(read_all(out, got, size + 1, 0) == to + count && memcmp(want, got, to + count) == 0);
	NEED(memcmp(map, want, to + count) == 0);
	NEED(munmap(map, size) == 0);
	/* What is written afterwards lies on top of it. */
	write_all(out, "on top", 6, 1000000);
	memcpy(want + 1000000, "on top", 6);
	other = open("out", O_RDONLY);
	NEED(other >= 0);
	NEED(read_all(other, got, size + 1, 0) == to + count && memcmp(want, got, to + count) == 0);

	/* No further than the source, and not at all behind its end. */
	off = (off_t)size - 10;
	NEED(copy_file_range(in, &off, out, &(off_t){ 0 }, 100, 0) == 10 && off == (off_t)size);
	NEED(copy_file_range(in, &off, out, &(off_t){ 0 }, 100, 0) == 0);
	memcpy(want, source + size - 10, 10);
	NEED(read_all(out, got, size + 1, 0) == to + count && memcmp(want, got, to + count) == 0);

	/* Within one file, if the ranges are apart. */
	copy_range(in, 0, in, 1000000, 500000);
	memcpy(source + 1000000, source, 500000);
	NEED(read_all(in, got, size + 1, 0) == size && memcmp(source, got, size) == 0);
	NEED_ERROR(copy_file_range(in, &(off_t){ 0 }, in, &(off_t){ 999 }, 1000, 0), EINVAL);
	NEED_ERROR(copy_file_range(in, &(off_t){ 0 }, other, &(off_t){ 0 }, 10, 0), EBADF);
	NEED(close(in) == 0 && close(out) == 0 && close(other) == 0);
	other = open("out", O_RDONLY);
	NEED(other >= 0);
	NEED(read_all(other, got, size + 1, 0) == to + count && memcmp(want, got, to + count) == 0);
	NEED(close(other) == 0);
	free(want);
	free(source);
	free(got);
}

static void direct_io(void)
{
	const size_t size = 1 << 20;
	void *want = NULL, *got = NULL;
	char buf[16];
	int fd = open("a", O_RDWR | O_CREAT | O_DIRECT, 0600), plain;

	if (fd < 0 && errno == EINVAL)
		skip("no O_DIRECT");
	NEED(fd >= 0);
	NEED(posix_memalign(&want, 4096, size) == 0 && posix_memalign(&got, 4096, size) == 0);
	pattern(want, size, 0, 9);
	NEED(pwrite(fd, want, size, 0) == (ssize_t)size);
	NEED(pread(fd, got, size, 0) == (ssize_t)size);
	NEED(memcmp(want, got, size) == 0);
	NEED(pwrite(fd, want, 4096, 8192) == 4096);
	plain = open("a", O_RDWR);
	NEED(plain >= 0);
	NEED(pread(plain, buf, 16, 8192) == 16 && memcmp(buf, want, 16) == 0);
	write_all(plain, "through the cache", 17, 4096);
	NEED(pread(fd, got, 4096, 4096) == 4096);
	NEED(memcmp(got, "through the cache", 17) == 0);
	NEED(close(plain) == 0);
	NEED(close(fd) == 0);
	free(want);
	free(got);
}

static void allocate(void)
{
	char buf[8192];
	int fd = make_file("a", 0600, "data");

	if (fallocate(fd, 0, 0, 100000) < 0) {
		NEED(errno == EOPNOTSUPP);
		skip("no fallocate");
	}
	NEED(stat_of("a").st_size == 100000);
	NEED(fallocate(fd, FALLOC_FL_KEEP_SIZE, 100000, 100000) == 0);
	NEED(stat_of("a").st_size == 100000);
	memset(buf, 'x', sizeof(buf));
	write_all(fd, buf, sizeof(buf), 0);
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 5000) == 0) {
		NEED(read_all(fd, buf, sizeof(buf), 0) == sizeof(buf));
		NEED(buf[99] == 'x' && buf[100] == 0 && buf[5099] == 0 && buf[5100] == 'x');
	} else {
		NEED(errno == EOPNOTSUPP);
	}
	NEED(close(fd) == 0);
}

static void seek_holes(void)
{
	const off_t mib = 1 << 20;
	int fd = make_file("a", 0600, "");
	off_t r;

	write_all(fd, "x", 1, 8 * (uint64_t)mib);
	r = lseek(fd, 0, SEEK_DATA);
	if (r < 0 && errno == EINVAL)
		skip("no SEEK_DATA");
	NEED(r >= 0 && r <= 8 * mib); /* 0 where holes are not known */
	NEED(lseek(fd, 8 * mib, SEEK_DATA) == 8 * mib);
	NEED(lseek(fd, 8 * mib, SEEK_HOLE) == 8 * mib + 1);
	NEED_ERROR(lseek(fd, 8 * mib + 1, SEEK_DATA), ENXIO);
	NEED_ERROR(lseek(fd, 9 * mib, SEEK_HOLE), ENXIO);
	NEED(close(fd) == 0);
}

static void tmpfile_nameless(void)
{
	int fd = open(".", O_RDWR | O_TMPFILE, 0600);
	char buf[8];

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOSYS))
		skip("no O_TMPFILE");
	NEED(fd >= 0);
	write_all(fd, "tmp", 3, 0);
	NEED(read_all(fd, buf, 8, 0) == 3);
	NEED(count_entries(".") == 0);
	NEED(close(fd) == 0);
}

static void open_many(void)
{
	char name[32], buf[32];
	int fds[300];

	for (int i = 0; i < 300; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		fds[i] = make_file(name, 0600, name);
	}
	for (int i = 0; i < 300; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		NEED(read_all(fds[i], buf, sizeof(buf), 0) == strlen(name));
		NEED(memcmp(buf, name, strlen(name)) == 0);
		NEED(close(fds[i]) == 0);
	}
}

static void same_file_many_handles(void)
{
	char text[16], buf[2000];
	int fds[100];

	put_file("a", "");
	for (int i = 0; i < 100; i++) {
		fds[i] = open("a", i % 2 ? O_RDWR : O_WRONLY);
		NEED(fds[i] >= 0);
		(void)snprintf(text, sizeof(text), "%09d\n", i);
		write_all(fds[i], text, 10, (uint64_t)i * 10);
	}
	for (int i = 0; i < 100; i++)
		NEED(close(fds[i]) == 0);
	int fd = open("a", O_RDONLY);

	NEED(read_all(fd, buf, sizeof(buf), 0) == 1000);
	for (int i = 0; i < 100; i++) {
		(void)snprintf(text, sizeof(text), "%09d\n", i);
		NEED(memcmp(buf + (size_t)i * 10, text, 10) == 0);
	}
	NEED(close(fd) == 0);
}

const struct check file_checks[] = {
	{ "create_open", create_open },
	{ "open_errors", open_errors },
	{ "open_truncate", open_truncate },
	{ "exclusive_race", exclusive_race },
	{ "write_read", write_read },
	{ "random_writes", random_writes },
	{ "holes", holes },
	{ "sparse_4g", sparse_4g },
	{ "truncate_sizes", truncate_sizes },
	{ "truncate_huge", truncate_huge },
	{ "truncate_after_write", truncate_after_write },
	{ "append", append },
	{ "append_two_processes", append_two_processes },
	{ "concurrent_writers", concurrent_writers },
	{ "vectors", vectors },
	{ "read_while_written", read_while_written },
	{ "dup_and_close", dup_and_close },
	{ "close_to_open", close_to_open },
	{ "sync_calls", sync_calls },
	{ "mmap_shared", mmap_shared },
	{ "mmap_two_processes", mmap_two_processes },
	{ "mmap_private", mmap_private },
	{ "exec_binary", exec_binary },
	{ "unlink_open", unlink_open },
	{ "unlink_open_nlink", unlink_open_nlink },
	{ "unlink_open_meta", unlink_open_meta },
	{ "unlink_and_make_again", unlink_and_make_again },
	{ "unlink_open_many", unlink_open_many },
	{ "rename_over_open", rename_over_open },
	{ "rename_open", rename_open },
	{ "replace_by_rename", replace_by_rename },
	{ "copy_in_kernel", copy_in_kernel },
	{ "copy_ranges", copy_ranges },
	{ "direct_io", direct_io },
	{ "allocate", allocate },
	{ "seek_holes", seek_holes },
	{ "tmpfile_nameless", tmpfile_nameless },
	{ "open_many", open_many },
	{ "same_file_many_handles", same_file_many_handles },
	{ NULL, NULL },
};
