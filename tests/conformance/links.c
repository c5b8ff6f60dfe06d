/* SPDX-License-Identifier: Apache-2.0 */
/* Hard and symbolic links. */
#include "conformance.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void try_link(const char *from, const char *to)
{
	if (link(from, to) == 0)
		return;
	if (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS)
		skip("no hard links");
	fail_at(__FILE__, __LINE__, "link %s %s: %s", from, to, strerrorname_np(errno));
}

static void hard_link(void)
{
	put_file("a", "content");
	try_link("a", "b");
	expect_content("b", "content");
	NEED(stat_of("a").st_ino == stat_of("b").st_ino);
	NEED(unlink("a") == 0);
	expect_content("b", "content");
	make_dir("d");
	try_link("b", "d/c");
	expect_content("d/c", "content");
}

static void hard_link_nlink(void)
{
	put_file("a", "x");
	try_link("a", "b");
	NEED(stat_of("a").st_nlink == 2 && stat_of("b").st_nlink == 2);
	try_link("b", "c");
	NEED(stat_of("a").st_nlink == 3);
	NEED(unlink("a") == 0);
	NEED(stat_of("b").st_nlink == 2);
	NEED(rename("b", "d") == 0);
	NEED(stat_of("c").st_nlink == 2);
	NEED(unlink("d") == 0);
	NEED(stat_of("c").st_nlink == 1);
}

/* The last of several names goes away while the file is open, whatever order they go in. */
static void hard_link_open(void)
{
	static const char *const orders[][3] = { { "a", "b", "c" },
						 { "c", "b", "a" },
						 { "b", "a", "c" } };
	char buf[16];
	int fd;

	for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		put_file("a", "content");
		fd = open("a", O_RDWR);
		NEED(fd >= 0);
		try_link("a", "b");
		try_link("b", "c");
		for (size_t k = 0; k < 3; k++)
			NEED(unlink(orders[i][k]) == 0);
		NEED(read_all(fd, buf, sizeof(buf), 0) == 7 && memcmp(buf, "content", 7) == 0);
		write_all(fd, "more", 4, 7);
		NEED(fsync(fd) == 0);
		NEED(read_all(fd, buf, sizeof(buf), 0) == 11);
		NEED(close(fd) == 0);
		NEED(count_entries(".") == 0);
	}
	/* Or the last is replaced. */
	put_file("a", "content");
	put_file("new", "new");
	fd = open("a", O_RDONLY);
	NEED(fd >= 0);
	try_link("a", "b");
	NEED(unlink("a") == 0);
	NEED(rename("new", "b") == 0);
	NEED(read_all(fd, buf, sizeof(buf), 0) == 7 && memcmp(buf, "content", 7) == 0);
	expect_content("b", "new");
	NEED(close(fd) == 0);
}

/* One file under two names: data and attributes are the same at once. */
static void hard_link_coherent(void)
{
	char buf[16];
	int a, b;

	put_file("a", "one");
	try_link("a", "b");
	a = open("a", O_RDWR);
	b = open("b", O_RDWR);
	NEED(a >= 0 && b >= 0);
	write_all(a, "ONE", 3, 0);
	NEED(read_all(b, buf, sizeof(buf), 0) == 3 && memcmp(buf, "ONE", 3) == 0);
	write_all(b, "more", 4, 3);
	NEED(read_all(a, buf, sizeof(buf), 0) == 7 && memcmp(buf, "ONEmore", 7) == 0);
	NEED(stat_of("a").st_size == 7 && stat_of("b").st_size == 7);
	NEED(chmod("a", 0604) == 0);
	NEED((stat_of("b").st_mode & 0777) == 0604);
	NEED(close(a) == 0);
	NEED(close(b) == 0);
}

static void hard_link_errors(void)
{
	put_file("a", "x");
	try_link("a", "b");
	NEED_ERROR(link("a", "b"), EEXIST);
	NEED_ERROR(link("absent", "c"), ENOENT);
	NEED_ERROR(link("a", "absent/c"), ENOENT);
	make_dir("d");
	NEED_ERROR(link("d", "e"), EPERM);
}

/* Emptied by the name that is left, whichever was the first. */
static void hard_link_truncate(void)
{
	static const char *const names[][3] = { { "a", "b", "a" }, { "c", "d", "d" } };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *left = names[i][2] == names[i][0] ? names[i][1] : names[i][0];
		int fd;

		put_file(names[i][0], "content");
		try_link(names[i][0], names[i][1]);
		expect_content(left, "content");
		NEED(unlink(names[i][2]) == 0);
		fd = open(left, O_RDWR | O_TRUNC);
		NEED(fd >= 0);
		NEED(stat_of(left).st_size == 0);
		write_all(fd, "new", 3, 0);
		NEED(close(fd) == 0);
		expect_content(left, "new");
	}
}

static void hard_link_rename(void)
{
	put_file("a", "x");
	try_link("a", "b");
	NEED(rename("a", "b") == 0); /* the same file: both stay */
	NEED(exists("a") && exists("b"));
}

static void hard_link_symlink(void)
{
	char buf[16];

	NEED(symlink("target", "l") == 0);
	if (linkat(AT_FDCWD, "l", AT_FDCWD, "m", 0) < 0) {
		NEED(errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS);
		skip("no hard links to symbolic links");
	}
	NEED(readlink("m", buf, sizeof(buf)) == 6);
}

static void symlink_targets(void)
{
	static const size_t lengths[] = { 1, 59, 60, 255, 256, 1023 };
	char target[1024], got[1100], name[16];

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		memset(target, 'a' + (int)i, lengths[i]);
		target[lengths[i]] = '\0';
		(void)snprintf(name, sizeof(name), "l%zu", i);
		NEED(symlink(target, name) == 0);
		NEED(readlink(name, got, sizeof(got)) == (ssize_t)lengths[i]);
		NEED(memcmp(got, target, lengths[i]) == 0);
		NEED(stat_of(name).st_size == (off_t)lengths[i]);
		NEED(S_ISLNK(stat_of(name).st_mode));
	}
	NEED(readlink("l2", got, 7) == 7); /* cut, not an error */
	NEED(symlink("\xff \xfe/../x", "bytes") == 0);
	NEED(readlink("bytes", got, sizeof(got)) == 8);
	NEED(memcmp(got, "\xff \xfe/../x", 8) == 0);
}

static void symlink_follow(void)
{
	char cwd[PATH_MAX], target[PATH_MAX + 8];

	make_dir("d");
	put_file("d/f", "content");
	NEED(symlink("d/f", "relative") == 0);
	expect_content("relative", "content");
	NEED(symlink("d", "dir") == 0);
	expect_content("dir/f", "content");
	NEED(getcwd(cwd, sizeof(cwd)));
	(void)snprintf(target, sizeof(target), "%s/d/f", cwd);
	NEED(symlink(target, "absolute") == 0);
	expect_content("absolute", "content");
	NEED(symlink("../relative", "d/up") == 0);
	expect_content("d/up", "content");
	NEED(unlink("relative") == 0); /* the link only */
	expect_content("d/f", "content");
	NEED_ERROR(rmdir("dir"), ENOTDIR);
	NEED(symlink("x", "d/other") == 0);
	NEED(rename("d/other", "dir") == 0); /* replaces the link, not what it points to */
	NEED(S_ISLNK(stat_of("dir").st_mode) && exists("d/f"));
}

static void symlink_dangling(void)
{
	struct stat st;
	char buf[16];

	NEED(symlink("nowhere", "l") == 0);
	NEED_ERROR(stat("l", &st), ENOENT);
	NEED_ERROR(open("l", O_RDONLY), ENOENT);
	NEED(lstat("l", &st) == 0 && S_ISLNK(st.st_mode));
	NEED(readlink("l", buf, sizeof(buf)) == 7);
	NEED_ERROR(symlink("x", "l"), EEXIST);
	NEED_ERROR(mkdir("l", 0700), EEXIST);
	put_file("f", "x");
	NEED_ERROR(readlink("f", buf, sizeof(buf)), EINVAL);
	NEED(unlink("l") == 0);
}

static void symlink_loop(void)
{
	struct stat st;

	NEED(symlink("b", "a") == 0);
	NEED(symlink("a", "b") == 0);
	NEED_ERROR(stat("a", &st), ELOOP);
	NEED_ERROR(open("a", O_RDONLY), ELOOP);
	NEED_ERROR(open("a/x", O_RDONLY), ELOOP);
	NEED(symlink("self", "self") == 0);
	NEED_ERROR(chdir("self"), ELOOP);
}

static void symlink_owner(void)
{
	need_root();
	put_file("f", "x");
	NEED(symlink("f", "l") == 0);
	if (lchown("l", 1234, 2345) < 0 && (errno == EOPNOTSUPP || errno == EPERM))
		skip("owners of symbolic links cannot be changed");
	NEED(stat_of("l").st_uid == 1234 && stat_of("l").st_gid == 2345);
	NEED(stat_of("f").st_uid == 0);
}

static void symlink_times(void)
{
	const struct timespec ts[2] = { { 1000000, 0 }, { 2000000, 0 } };
	time_t before;

	put_file("f", "x");
	before = stat_of("f").st_mtime;
	NEED(symlink("f", "l") == 0);
	if (utimensat(AT_FDCWD, "l", ts, AT_SYMLINK_NOFOLLOW) < 0 &&
	    (errno == EOPNOTSUPP || errno == ENOSYS))
		skip("times of symbolic links cannot be set");
	NEED(stat_of("l").st_mtime == 2000000);
	NEED(stat_of("f").st_mtime == before);
}

const struct check link_checks[] = {
	{ "hard_link", hard_link },
	{ "hard_link_nlink", hard_link_nlink },
	{ "hard_link_coherent", hard_link_coherent },
	{ "hard_link_open", hard_link_open },
	{ "hard_link_errors", hard_link_errors },
	{ "hard_link_truncate", hard_link_truncate },
	{ "hard_link_rename", hard_link_rename },
	{ "hard_link_symlink", hard_link_symlink },
	{ "symlink_targets", symlink_targets },
	{ "symlink_follow", symlink_follow },
	{ "symlink_dangling", symlink_dangling },
	{ "symlink_loop", symlink_loop },
	{ "symlink_owner", symlink_owner },
	{ "symlink_times", symlink_times },
	{ NULL, NULL },
};
