/* SPDX-License-Identifier: Apache-2.0 */
/* Names and paths: length, bytes, depth, and the errors of walking them. */
#include "conformance.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void name_255(void)
{
	char name[256];

	memset(name, 'n', 255);
	name[255] = '\0';
	put_file(name, "long");
	expect_content(name, "long");
	NEED(count_entries(".") == 1);
	name[254] = 'm';
	NEED(mkdir(name, 0755) == 0);
	NEED(count_entries(".") == 2);
	NEED(rmdir(name) == 0);
	NEED(symlink("x", name) == 0);
	NEED(unlink(name) == 0);
	NEED(count_entries(".") == 1);
}

static void name_256(void)
{
	char name[257];
	struct stat st;

	memset(name, 'n', 256);
	name[256] = '\0';
	put_file("a", "x");
	NEED_ERROR(open(name, O_RDWR | O_CREAT, 0600), ENAMETOOLONG);
	NEED_ERROR(open(name, O_RDONLY), ENAMETOOLONG);
	NEED_ERROR(mkdir(name, 0700), ENAMETOOLONG);
	NEED_ERROR(stat(name, &st), ENAMETOOLONG);
	NEED_ERROR(rename("a", name), ENAMETOOLONG);
	NEED_ERROR(link("a", name), ENAMETOOLONG);
	NEED_ERROR(symlink("a", name), ENAMETOOLONG);
	NEED_ERROR(unlink(name), ENAMETOOLONG);
	NEED_ERROR(rmdir(name), ENAMETOOLONG);
}

static void name_bytes(void)
{
	static const char *const names[] = {
		"\xff\xfe\xfd",
		"latin1-\xe9\xe8",
		"\xc3\xa9",
		"e\xcc\x81",
		"a\\b",
		"a:b",
		"a\nb",
		"\t",
		" ",
		"  x",
		"x ",
		"-rf",
		"*",
		"?",
		"[a]",
		"'",
		"\"",
		"`id`",
		"$HOME",
		"%2f",
		"~",
		"#",
		";",
		"&",
		"|",
		"...",
		".x",
		"x.",
		"\x01\x02\x1f\x7f",
		"CON",
		"a.txt.",
	};
	const size_t n = sizeof(names) / sizeof(names[0]);
	const struct dirent *e;
	size_t found = 0;
	DIR *d;

	for (size_t i = 0; i < n; i++)
		put_file(names[i], names[i]);
	d = opendir(".");
	NEED(d);
	while ((e = readdir(d))) {
		for (size_t i = 0; i < n; i++)
			found += strcmp(e->d_name, names[i]) == 0;
	}
	NEED(closedir(d) == 0);
	NEED(found == n);
	for (size_t i = 0; i < n; i++)
		expect_content(names[i], names[i]);
	for (size_t i = 0; i < n; i++)
		NEED(unlink(names[i]) == 0);
	NEED(count_entries(".") == 0);
}

static void name_case(void)
{
	put_file("File", "upper");
	put_file("file", "lower");
	expect_content("File", "upper");
	expect_content("file", "lower");
	NEED(count_entries(".") == 2);
}

static void path_too_long(void)
{
	char path[PATH_MAX + 2];
	struct stat st;

	for (size_t i = 0; i < sizeof(path); i++)
		path[i] = i % 2 ? '/' : '.';
	path[sizeof(path) - 1] = '\0';
	NEED_ERROR(stat(path, &st), ENAMETOOLONG);
	path[PATH_MAX - 1] = '\0';
	NEED(stat(path, &st) == 0);
}

static void deep_tree(void)
{
	char name[61];
	int fd = open(".", O_RDONLY | O_DIRECTORY);
	int levels[61];

	memset(name, 'd', 60);
	name[60] = '\0';
	levels[0] = fd;
	for (int i = 0; i < 60; i++) {
		NEED(mkdirat(levels[i], name, 0755) == 0);
		levels[i + 1] = openat(levels[i], name, O_RDONLY | O_DIRECTORY);
		NEED(levels[i + 1] >= 0);
	}
	fd = openat(levels[60], "leaf", O_RDWR | O_CREAT | O_EXCL, 0644);
	NEED(fd >= 0);
	write_all(fd, "deep", 4, 0);
	NEED(close(fd) == 0);
	/* The same by one path, as long as paths may be: 60 * 61 + 4 bytes. */
	char *path = malloc(60 * 61 + 5);

	for (int i = 0; i < 60; i++) {
		memcpy(path + (size_t)i * 61, name, 60);
		path[i * 61 + 60] = '/';
	}
	(void)stpcpy(path + (size_t)60 * 61, "leaf");
	expect_content(path, "deep");
	/* Moving the top moves everything below. */
	NEED(rename(name, "moved") == 0);
	NEED(faccessat(levels[60], "leaf", R_OK, 0) == 0);
	NEED(unlinkat(levels[60], "leaf", 0) == 0);
	for (int i = 59; i > 0; i--)
		NEED(unlinkat(levels[i], name, AT_REMOVEDIR) == 0);
	NEED(rmdir("moved") == 0);
	free(path);
}

/* Deeper than any path can say. */
static void deep_relative(void)
{
	char name[201];
	int fd = open(".", O_RDONLY | O_DIRECTORY), top = fd;

	memset(name, 'r', 200);
	name[200] = '\0';
	for (int i = 0; i < 30; i++) {
		NEED(mkdirat(fd, name, 0755) == 0);
		fd = openat(fd, name, O_RDONLY | O_DIRECTORY);
		NEED(fd >= 0);
	}
	NEED(symlinkat("x", fd, "leaf") == 0);
	NEED(unlinkat(fd, "leaf", 0) == 0);
	for (int i = 0; i < 30; i++) {
		int up = openat(fd, "..", O_RDONLY | O_DIRECTORY);

		NEED(up >= 0);
		NEED(unlinkat(up, name, AT_REMOVEDIR) == 0);
		(void)close(fd);
		fd = up;
	}
	struct stat a, b;

	NEED(fstat(fd, &a) == 0 && fstat(top, &b) == 0);
	NEED(a.st_ino == b.st_ino);
}

static void not_a_directory(void)
{
	struct stat st;

	put_file("f", "x");
	NEED_ERROR(open("f/x", O_RDONLY), ENOTDIR);
	NEED_ERROR(open("f/x", O_RDWR | O_CREAT, 0600), ENOTDIR);
	NEED_ERROR(stat("f/x", &st), ENOTDIR);
	NEED_ERROR(stat("f/", &st), ENOTDIR);
	NEED_ERROR(mkdir("f/x", 0700), ENOTDIR);
	NEED_ERROR(unlink("f/x"), ENOTDIR);
	NEED_ERROR(rmdir("f"), ENOTDIR);
	NEED_ERROR(rename("f/x", "y"), ENOTDIR);
	NEED_ERROR(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
	NEED_ERROR(chdir("f"), ENOTDIR);
}

static void not_there(void)
{
	struct stat st;

	NEED_ERROR(open("x", O_RDONLY), ENOENT);
	NEED_ERROR(stat("x", &st), ENOENT);
	NEED_ERROR(open("x/y", O_RDWR | O_CREAT, 0600), ENOENT);
	NEED_ERROR(mkdir("x/y", 0700), ENOENT);
	NEED_ERROR(unlink("x"), ENOENT);
	NEED_ERROR(rmdir("x"), ENOENT);
	NEED_ERROR(rename("x", "y"), ENOENT);
	NEED_ERROR(link("x", "y"), ENOENT);
	NEED_ERROR(chmod("x", 0600), ENOENT);
	NEED_ERROR(truncate("x", 0), ENOENT);
	NEED_ERROR(open("", O_RDONLY), ENOENT);
	put_file("x", "now");
	expect_content("x", "now");
	NEED(unlink("x") == 0);
	NEED_ERROR(open("x", O_RDONLY), ENOENT);
}

static void dots(void)
{
	struct stat a, b;

	make_dir("d");
	NEED(stat("d/.", &a) == 0 && stat("d", &b) == 0);
	NEED(a.st_ino == b.st_ino);
	NEED(stat("d/..", &a) == 0 && stat(".", &b) == 0);
	NEED(a.st_ino == b.st_ino);
	NEED_ERROR(rmdir("d/."), EINVAL);
	NEED_EITHER(rmdir("d/.."), ENOTEMPTY, EEXIST);
	NEED_EITHER(rename("d/.", "e"), EBUSY, EINVAL);
	NEED_ERROR(mkdir("d/.", 0700), EEXIST);
}

const struct check name_checks[] = {
	{ "name_255", name_255 },
	{ "name_256", name_256 },
	{ "name_bytes", name_bytes },
	{ "name_case", name_case },
	{ "path_too_long", path_too_long },
	{ "deep_tree", deep_tree },
	{ "deep_relative", deep_relative },
	{ "not_a_directory", not_a_directory },
	{ "not_there", not_there },
	{ "dots", dots },
	{ NULL, NULL },
};
