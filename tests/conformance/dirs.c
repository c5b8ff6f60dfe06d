/* SPDX-License-Identifier: Apache-2.0 */
/* Directories: making, listing, moving, and changing while somebody looks. */
#include "conformance.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void mkdir_rmdir(void)
{
	struct stat st;

	NEED(mkdir("d", 0750) == 0);
	st = stat_of("d");
	NEED(S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 0750);
	NEED(count_entries("d") == 0);
	NEED_ERROR(mkdir("d", 0700), EEXIST);
	put_file("d/f", "x");
	NEED_EITHER(rmdir("d"), ENOTEMPTY, EEXIST);
	NEED(unlink("d/f") == 0);
	NEED(rmdir("d") == 0);
	NEED(!exists("d"));
	NEED_ERROR(rmdir("d"), ENOENT);
	put_file("f", "x");
	NEED_ERROR(mkdir("f", 0700), EEXIST);
}

static void unlink_dir(void)
{
	make_dir("d");
	NEED_EITHER(unlink("d"), EISDIR, EPERM);
	NEED(exists("d"));
}

static void dir_nlink(void)
{
	make_dir("d");
	nlink_t n = stat_of("d").st_nlink;

	if (n != 2)
		skip("directories do not count their links (%d)", (int)n);
	make_dir("d/a");
	make_dir("d/b");
	NEED(stat_of("d").st_nlink == 4);
	NEED(rmdir("d/a") == 0);
	NEED(stat_of("d").st_nlink == 3);
	NEED(rename("d/b", "b") == 0);
	NEED(stat_of("d").st_nlink == 2);
}

#define MANY 20000

struct seen {
	unsigned char *count;
	long *where; /* telldir() after the entry */
};

static void see(struct seen *s, const struct dirent *e, long where)
{
	char *end;
	unsigned long i;

	if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
		return;
	NEED(e->d_name[0] == 'e');
	i = strtoul(e->d_name + 1, &end, 10);
	NEED(*end == '\0' && i < MANY);
	s->count[i]++;
	s->where[i] = where;
}

static void expect_all_seen(struct seen *s)
{
	for (unsigned i = 0; i < MANY; i++) {
		if (s->count[i] != 1)
			fail_at(__FILE__, __LINE__, "e%u was listed %u times", i, s->count[i]);
		s->count[i] = 0;
	}
}

static void make_entries(int part)
{
	char name[16];

	for (int i = part; i < MANY; i += 2) {
		int fd;

		(void)snprintf(name, sizeof(name), "e%05d", i);
		fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
		NEED(fd >= 0);
		NEED(close(fd) == 0);
	}
}

static void remove_entries(int part)
{
	char name[16];

	for (int i = part; i < MANY; i += 2) {
		(void)snprintf(name, sizeof(name), "e%05d", i);
		NEED(unlink(name) == 0);
	}
}

static void readdir_20000(void)
{
	struct seen s = { calloc(MANY, 1), calloc(MANY, sizeof(long)) };
	pid_t pids[2] = { spawn(make_entries, 0), spawn(make_entries, 1) };
	const struct dirent *e;
	char next[256] = "";
	DIR *d;

	join_all(pids, 2);
	d = opendir(".");
	NEED(d);
	while ((e = readdir(d)))
		see(&s, e, telldir(d));
	expect_all_seen(&s);
	/* A second time, by the same handle. */
	rewinddir(d);
	while ((e = readdir(d)))
		see(&s, e, telldir(d));
	expect_all_seen(&s);
	/* From places in the middle: the same entry follows. */
	rewinddir(d);
	for (unsigned i = 0; (e = readdir(d)); i++) {
		long where;

		if (i % 4999 != 1234)
			continue;
		where = telldir(d);
		e = readdir(d);
		NEED(e);
		(void)snprintf(next, sizeof(next), "%s", e->d_name);
		for (unsigned k = 0; k < 700 && readdir(d);)
			k++;
		seekdir(d, where);
		e = readdir(d);
		NEED(e && strcmp(e->d_name, next) == 0);
	}
	NEED(next[0]);
	NEED(closedir(d) == 0);
	pids[0] = spawn(remove_entries, 0);
	pids[1] = spawn(remove_entries, 1);
	join_all(pids, 2);
	NEED(count_entries(".") == 0);
	free(s.count);
	free(s.where);
}

static unsigned type_of(mode_t mode)
{
	return IFTODT(mode);
}

static void readdir_types(void)
{
	const struct dirent *e;
	size_t n = 0;
	DIR *d;

	make_dir("dir");
	put_file("file", "x");
	NEED(symlink("file", "link") == 0);
	d = opendir(".");
	NEED(d);
	while ((e = readdir(d))) {
		struct stat st = stat_of(e->d_name);

		n++;
		if (e->d_type != DT_UNKNOWN && e->d_type != type_of(st.st_mode))
			fail_at(__FILE__, __LINE__, "d_type of %s is %u", e->d_name, e->d_type);
	}
	NEED(closedir(d) == 0);
	NEED(n == 5);
}

static void readdir_inodes(void)
{
	const struct dirent *e;
	DIR *d;

	make_dir("dir");
	put_file("dir/file", "x");
	make_dir("dir/sub");
	NEED(symlink("file", "dir/link") == 0);
	/* Also before anybody has looked at the entries. */
	for (int round = 0; round < 2; round++) {
		char path[300];

		d = opendir("dir");
		NEED(d);
		while ((e = readdir(d))) {
			struct stat st;

			(void)snprintf(path, sizeof(path), "dir/%s", e->d_name);
			st = stat_of(path);
			if (e->d_ino != st.st_ino)
				fail_at(__FILE__, __LINE__, "%s: d_ino %llu, st_ino %llu",
					e->d_name, (unsigned long long)e->d_ino,
					(unsigned long long)st.st_ino);
		}
		NEED(closedir(d) == 0);
	}
}

static void readdir_and_remove(void)
{
	const struct dirent *e;
	char name[32];
	DIR *d;

	for (int i = 0; i < 1000; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		put_file(name, "");
	}
	d = opendir(".");
	NEED(d);
	while ((e = readdir(d))) {
		if (e->d_name[0] == 'f')
			NEED(unlink(e->d_name) == 0); /* once each: none is listed twice */
	}
	NEED(closedir(d) == 0);
	NEED(count_entries(".") == 0);
}

static void readdir_again(void)
{
	DIR *d = opendir(".");
	size_t n = 0;

	NEED(d);
	while (readdir(d))
		;
	put_file("new", "x");
	rewinddir(d);
	for (const struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, "new") == 0;
	NEED(n == 1);
	NEED(unlink("new") == 0);
	rewinddir(d);
	for (const struct dirent *e; (e = readdir(d));)
		NEED(strcmp(e->d_name, "new") != 0);
	NEED(closedir(d) == 0);
}

/* A listing shows every change made before it began. */
static void readdir_follows_changes(void)
{
	char a[32], b[32];

	for (int i = 0; i < 50; i++) {
		(void)snprintf(a, sizeof(a), "a%d", i);
		(void)snprintf(b, sizeof(b), "b%d", i);
		put_file(a, "");
		NEED(count_entries(".") == (size_t)i + 1);
		NEED(rename(a, b) == 0);
		NEED(count_entries(".") == (size_t)i + 1);
	}
}

static void removed_cwd(void)
{
	make_dir("d");
	NEED(chdir("d") == 0);
	NEED(rmdir("../d") == 0);
	NEED_EITHER(open("x", O_RDWR | O_CREAT, 0600), ENOENT, ESTALE);
	NEED_EITHER(mkdir("x", 0700), ENOENT, ESTALE);
	NEED(chdir("..") == 0 || errno == ENOENT || errno == ESTALE);
}

static void removed_open_dir(void)
{
	int fd;
	DIR *d;

	make_dir("d");
	fd = open("d", O_RDONLY | O_DIRECTORY);
	NEED(fd >= 0);
	d = opendir("d");
	NEED(d);
	NEED(rmdir("d") == 0);
	while (readdir(d))
		;
	NEED(closedir(d) == 0);
	NEED_EITHER(openat(fd, "x", O_RDWR | O_CREAT, 0600), ENOENT, ESTALE);
	NEED(close(fd) == 0);
}

static void rename_files(void)
{
	ino_t ino;

	put_file("a", "first");
	put_file("b", "second");
	ino = stat_of("a").st_ino;
	NEED(rename("a", "c") == 0);
	NEED(!exists("a"));
	NEED(stat_of("c").st_ino == ino);
	NEED(rename("c", "b") == 0);
	expect_content("b", "first");
	NEED(stat_of("b").st_ino == ino);
	NEED(rename("b", "b") == 0);
	expect_content("b", "first");
	NEED(count_entries(".") == 1);
	NEED_ERROR(rename("absent", "b"), ENOENT);
	make_dir("d");
	NEED(rename("b", "d/b") == 0);
	expect_content("d/b", "first");
}

static void rename_dirs(void)
{
	make_dir("a");
	put_file("a/f", "x");
	NEED(rename("a", "b") == 0);
	expect_content("b/f", "x");
	NEED(!exists("a") && !exists("a/f"));
	make_dir("empty");
	NEED(rename("b", "empty") == 0); /* over an empty directory */
	expect_content("empty/f", "x");
	make_dir("other");
	make_dir("other/sub");
	NEED(rename("empty", "other/sub/moved") == 0);
	expect_content("other/sub/moved/f", "x");
	/* .. follows */
	NEED(chdir("other/sub/moved") == 0);
	NEED(access("../../sub", F_OK) == 0);
}

static void rename_dir_errors(void)
{
	make_dir("a");
	make_dir("b");
	put_file("b/f", "x");
	put_file("file", "x");
	NEED_EITHER(rename("a", "b"), ENOTEMPTY, EEXIST);
	NEED_ERROR(rename("file", "a"), EISDIR);
	NEED_ERROR(rename("a", "file"), ENOTDIR);
	NEED_ERROR(rename("b", "b/sub"), EINVAL);
	make_dir("b/sub");
	NEED_ERROR(rename("b", "b/sub/x"), EINVAL);
	NEED_EITHER(rename("b/sub", "b"), ENOTEMPTY, EEXIST);
}

/* Everything below a moved directory is found under its new path, and only there. */
static void rename_dir_open_below(void)
{
	struct stat st;
	char buf[8];
	int fd, dir;

	make_dir("a");
	make_dir("a/sub");
	fd = make_file("a/sub/f", 0600, "one");
	dir = open("a/sub", O_RDONLY | O_DIRECTORY);
	NEED(dir >= 0);
	NEED(rename("a", "b") == 0);
	write_all(fd, "two", 3, 3);
	expect_content("b/sub/f", "onetwo");
	NEED(read_all(fd, buf, 8, 0) == 6);
	NEED(fstatat(dir, "f", &st, 0) == 0 && st.st_size == 6);
	NEED(unlinkat(dir, "f", 0) == 0);
	NEED(!exists("b/sub/f"));
	make_dir("a"); /* the old path is another directory now */
	NEED(!exists("a/sub"));
	NEED(close(fd) == 0);
	NEED(close(dir) == 0);
}

static void rename_noreplace(void)
{
	put_file("a", "a");
	put_file("b", "b");
	if (renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE) < 0 && errno == EINVAL)
		skip("no RENAME_NOREPLACE");
	NEED_ERROR(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
	expect_content("b", "b");
	NEED(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE) == 0);
	expect_content("c", "a");
	NEED(!exists("a"));
}

static void rename_exchange(void)
{
	ino_t a, b;

	put_file("a", "a");
	make_dir("b");
	put_file("b/f", "f");
	a = stat_of("a").st_ino;
	b = stat_of("b").st_ino;
	if (renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE) < 0 && errno == EINVAL)
		skip("no RENAME_EXCHANGE");
	expect_content("b", "a");
	expect_content("a/f", "f");
	NEED(stat_of("a").st_ino == b && stat_of("b").st_ino == a);
	NEED_ERROR(renameat2(AT_FDCWD, "a", AT_FDCWD, "absent", RENAME_EXCHANGE), ENOENT);
}

static void churn(int id)
{
	char a[32], b[32];

	for (int i = 0; i < 150; i++) {
		(void)snprintf(a, sizeof(a), "p%d-%d", id, i);
		(void)snprintf(b, sizeof(b), "q%d-%d", id, i);
		put_file(a, a);
		NEED(mkdir(b, 0700) == 0);
		NEED(rename(a, "shared") == 0);
		NEED(rmdir(b) == 0);
		NEED(!exists(a) && !exists(b));
	}
}

static void concurrent_names(void)
{
	pid_t pids[4];

	for (int i = 0; i < 4; i++)
		pids[i] = spawn(churn, i);
	join_all(pids, 4);
	NEED(count_entries(".") == 1);
}

const struct check dir_checks[] = {
	{ "mkdir_rmdir", mkdir_rmdir },
	{ "unlink_dir", unlink_dir },
	{ "dir_nlink", dir_nlink },
	{ "readdir_20000", readdir_20000 },
	{ "readdir_types", readdir_types },
	{ "readdir_inodes", readdir_inodes },
	{ "readdir_and_remove", readdir_and_remove },
	{ "readdir_again", readdir_again },
	{ "readdir_follows_changes", readdir_follows_changes },
	{ "removed_cwd", removed_cwd },
	{ "removed_open_dir", removed_open_dir },
	{ "rename_files", rename_files },
	{ "rename_dirs", rename_dirs },
	{ "rename_dir_errors", rename_dir_errors },
	{ "rename_dir_open_below", rename_dir_open_below },
	{ "rename_noreplace", rename_noreplace },
	{ "rename_exchange", rename_exchange },
	{ "concurrent_names", concurrent_names },
	{ NULL, NULL },
};
