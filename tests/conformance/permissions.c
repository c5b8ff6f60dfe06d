/* SPDX-License-Identifier: Apache-2.0 */
/* Modes, owners, times, and who may do what. */
#include "conformance.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void chmod_modes(void)
{
	static const mode_t modes[] = { 0777, 0, 0644, 0444, 0111, 01755, 04755, 0700 };

	put_file("f", "x");
	make_dir("d");
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		NEED(chmod("f", modes[i]) == 0);
		NEED((stat_of("f").st_mode & 07777) == modes[i]);
		NEED(S_ISREG(stat_of("f").st_mode));
		NEED(chmod("d", modes[i]) == 0);
		NEED((stat_of("d").st_mode & 07777) == modes[i]);
	}
	NEED(chmod("d", 0755) == 0);
}

static void umask_applies(void)
{
	(void)umask(027);
	NEED(close(make_file("f", 0666, "")) == 0);
	NEED((stat_of("f").st_mode & 07777) == 0640);
	NEED(mkdir("d", 0777) == 0);
	NEED((stat_of("d").st_mode & 07777) == 0750);
	(void)umask(0);
	NEED(close(make_file("g", 0666, "")) == 0);
	NEED((stat_of("g").st_mode & 07777) == 0666);
}

static void chown_ids(void)
{
	need_root();
	put_file("f", "x");
	NEED(chown("f", 1234, 2345) == 0);
	NEED(stat_of("f").st_uid == 1234 && stat_of("f").st_gid == 2345);
	NEED(chown("f", (uid_t)-1, 77) == 0);
	NEED(stat_of("f").st_uid == 1234 && stat_of("f").st_gid == 77);
	NEED(chown("f", 0, (gid_t)-1) == 0);
	NEED(stat_of("f").st_uid == 0 && stat_of("f").st_gid == 77);
	NEED(chown("f", 4000000000u, 0) == 0);
	NEED(stat_of("f").st_uid == 4000000000u);
	make_dir("d");
	NEED(symlink("d", "l") == 0);
	NEED(chown("l", 5, 6) == 0); /* follows */
	NEED(stat_of("d").st_uid == 5);
}

static void as_owner(int unused)
{
	(void)unused;
	become(1001, 1001, NULL, 0);
	NEED(close(make_file("theirs/f", 0640, "x")) == 0);
	NEED(mkdir("theirs/d", 0700) == 0);
	NEED(symlink("f", "theirs/l") == 0);
	NEED_ERROR(chown("theirs/f", 0, 0), EPERM);
	NEED_ERROR(chown("theirs/f", (uid_t)-1, 5), EPERM);
	NEED(chmod("theirs/f", 0600) == 0);
	NEED_ERROR(chmod("ours", 0777), EPERM);
	NEED_ERROR(open("ours", O_RDONLY), EACCES);
	NEED_ERROR(open("ours", O_WRONLY), EACCES);
	NEED_ERROR(truncate("ours", 0), EACCES);
	NEED_ERROR(access("ours", R_OK), EACCES);
	NEED_ERROR(open("closed/x", O_RDONLY), EACCES);
	NEED_ERROR(open("readonly/x", O_RDWR | O_CREAT, 0600), EACCES);
	NEED_ERROR(unlink("readonly/f"), EACCES);
	NEED_ERROR(mkdir("readonly/d", 0700), EACCES);
	NEED_ERROR(rename("readonly/f", "theirs/g"), EACCES);
	expect_content("readonly/f", "readable");
}

/* Who made it owns it, and what is forbidden stays so. */
static void other_user(void)
{
	need_root();
	make_dir("theirs");
	NEED(chmod("theirs", 0777) == 0);
	NEED(close(make_file("ours", 0600, "secret")) == 0);
	NEED(mkdir("closed", 0700) == 0);
	put_file("closed/x", "x");
	make_dir("readonly");
	put_file("readonly/f", "readable");
	join(spawn(as_owner, 0));
	NEED(stat_of("theirs/f").st_uid == 1001 && stat_of("theirs/f").st_gid == 1001);
	NEED(stat_of("theirs/d").st_uid == 1001);
	NEED(stat_of("theirs/l").st_uid == 1001);
	expect_content("ours", "secret");
}

static void as_member(int unused)
{
	const gid_t groups[] = { 3001, 3002, 3003 };

	(void)unused;
	become(1001, 1001, groups, 3);
	expect_content("group", "for members");
	NEED_ERROR(open("strangers", O_RDONLY), EACCES);
	NEED(close(make_file("dir/f", 0600, "x")) == 0);
	NEED(chown("dir/f", (uid_t)-1, 3002) == 0); /* to a group of one's own */
	NEED_ERROR(chown("dir/f", (uid_t)-1, 9), EPERM);
}

static void supplementary_groups(void)
{
	need_root();
	NEED(close(make_file("group", 0640, "for members")) == 0);
	NEED(chown("group", 0, 3002) == 0);
	NEED(close(make_file("strangers", 0640, "no")) == 0);
	NEED(chown("strangers", 0, 3009) == 0);
	NEED(mkdir("dir", 0770) == 0);
	NEED(chmod("dir", 0770) == 0);
	NEED(chown("dir", 0, 3003) == 0);
	join(spawn(as_member, 0));
	NEED(stat_of("dir/f").st_gid == 3002);
}

static void in_setgid_dir(int unused)
{
	const gid_t groups[] = { 3001 };

	(void)unused;
	become(1001, 1001, groups, 1);
	NEED(close(make_file("d/f", 0640, "x")) == 0);
	NEED(mkdir("d/sub", 0750) == 0);
	NEED(symlink("x", "d/l") == 0);
}

static void setgid_dir(void)
{
	need_root();
	make_dir("d");
	NEED(chown("d", 0, 3001) == 0);
	NEED(chmod("d", 02777) == 0);
	NEED((stat_of("d").st_mode & 07777) == 02777);
	join(spawn(in_setgid_dir, 0));
	NEED(stat_of("d/f").st_uid == 1001 && stat_of("d/f").st_gid == 3001);
	NEED(stat_of("d/sub").st_gid == 3001);
	NEED((stat_of("d/sub").st_mode & S_ISGID) != 0);
	NEED(stat_of("d/l").st_gid == 3001);
}

static void in_sticky_dir(int unused)
{
	(void)unused;
	become(1002, 1002, NULL, 0);
	NEED_EITHER(unlink("d/theirs"), EPERM, EACCES);
	NEED_EITHER(rename("d/theirs", "d/mine"), EPERM, EACCES);
	NEED(close(make_file("d/own", 0600, "x")) == 0);
	NEED_EITHER(rename("d/own", "d/theirs"), EPERM, EACCES);
	NEED(unlink("d/own") == 0);
}

static void sticky_dir(void)
{
	need_root();
	make_dir("d");
	NEED(chmod("d", 01777) == 0);
	put_file("d/theirs", "x");
	NEED(chown("d/theirs", 1001, 1001) == 0);
	join(spawn(in_sticky_dir, 0));
	expect_content("d/theirs", "x");
}

static void write_as_other(int unused)
{
	int fd;

	(void)unused;
	become(1001, 1001, NULL, 0);
	fd = open("f", O_WRONLY);
	NEED(fd >= 0);
	NEED(write(fd, "x", 1) == 1);
	NEED(close(fd) == 0);
}

static void setuid_cleared(void)
{
	need_root();
	put_file("f", "content");
	NEED(chmod("f", 06777) == 0);
	join(spawn(write_as_other, 0));
	NEED((stat_of("f").st_mode & 07777) == 0777);
	NEED(chmod("f", 04755) == 0);
	NEED(chown("f", 1001, 1001) == 0);
	NEED((stat_of("f").st_mode & 07777) == 0755);
}

static void write_when_told(int unused)
{
	int fd;

	(void)unused;
	become(1001, 1001, NULL, 0);
	fd = open("f", O_WRONLY | O_APPEND);
	NEED(fd >= 0);
	NEED(write(fd, "x", 1) == 1);
	NEED(kill(getpid(), SIGSTOP) == 0);
	NEED(write(fd, "y", 1) == 1);
	NEED(close(fd) == 0);
}

/* The bits come after the file was opened, and after the first write. */
static void setuid_cleared_open(void)
{
	int status;
	pid_t pid;

	need_root();
	put_file("f", "");
	NEED(chmod("f", 0777) == 0);
	pid = spawn(write_when_told, 0);
	NEED(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
	NEED(chmod("f", 06777) == 0);
	NEED((stat_of("f").st_mode & 07777) == 06777);
	NEED(kill(pid, SIGCONT) == 0);
	join(pid);
	NEED((stat_of("f").st_mode & 07777) == 0777);
	expect_content("f", "xy");
}

/* One user's look at a directory must not open it for another. */
static void look_as_other(int unused)
{
	struct stat st;

	(void)unused;
	become(1002, 1002, NULL, 0);
	NEED_ERROR(stat("private/f", &st), EACCES);
	NEED_ERROR(open("private", O_RDONLY | O_DIRECTORY), EACCES);
	NEED_ERROR(open("private/f", O_RDONLY), EACCES);
}

static void cached_but_forbidden(void)
{
	need_root();
	NEED(mkdir("private", 0700) == 0);
	put_file("private/f", "x");
	NEED(chown("private", 1001, 1001) == 0);
	(void)stat_of("private/f");
	NEED(count_entries("private") == 1);
	join(spawn(look_as_other, 0));
}

static void keep_reading(int unused)
{
	char buf[8];
	int fd;

	(void)unused;
	become(1001, 1001, NULL, 0);
	fd = open("f", O_RDWR);
	NEED(fd >= 0);
	NEED(fchmod(fd, 0) == 0);
	NEED_ERROR(open("f", O_RDONLY), EACCES);
	/* What is open stays usable. */
	NEED(write(fd, "more", 4) == 4);
	NEED(read_all(fd, buf, sizeof(buf), 0) == 4);
	NEED(close(fd) == 0);
}

static void open_outlives_mode(void)
{
	need_root();
	put_file("f", "x");
	NEED(chown("f", 1001, 1001) == 0);
	join(spawn(keep_reading, 0));
	expect_content("f", "more");
}

static void times_set(void)
{
	const struct timespec a[2] = { { 1000000000, 0 }, { 1500000000, 0 } };
	const struct timespec only_mtime[2] = { { 0, UTIME_OMIT }, { 1600000000, 0 } };
	const struct timespec only_atime[2] = { { 1700000000, 0 }, { 0, UTIME_OMIT } };
	struct stat st;

	put_file("f", "x");
	NEED(utimensat(AT_FDCWD, "f", a, 0) == 0);
	st = stat_of("f");
	NEED(st.st_atime == 1000000000 && st.st_mtime == 1500000000);
	NEED(utimensat(AT_FDCWD, "f", only_mtime, 0) == 0);
	st = stat_of("f");
	NEED(st.st_atime == 1000000000 && st.st_mtime == 1600000000);
	NEED(utimensat(AT_FDCWD, "f", only_atime, 0) == 0);
	st = stat_of("f");
	NEED(st.st_atime == 1700000000 && st.st_mtime == 1600000000);
	make_dir("d");
	NEED(utimensat(AT_FDCWD, "d", a, 0) == 0);
	NEED(stat_of("d").st_mtime == 1500000000);
}

static void times_now(void)
{
	const struct timespec old[2] = { { 1000, 0 }, { 1000, 0 } };
	const struct timespec now[2] = { { 0, UTIME_NOW }, { 0, UTIME_NOW } };
	const time_t t = time(NULL);

	put_file("f", "x");
	NEED(utimensat(AT_FDCWD, "f", old, 0) == 0);
	NEED(utimensat(AT_FDCWD, "f", now, 0) == 0);
	NEED(stat_of("f").st_mtime >= t - 600 && stat_of("f").st_mtime <= t + 600);
	NEED(utimensat(AT_FDCWD, "f", old, 0) == 0);
	NEED(utimensat(AT_FDCWD, "f", NULL, 0) == 0);
	NEED(stat_of("f").st_mtime >= t - 600);
}

static void times_ns(void)
{
	const struct timespec ts[2] = { { 1000000000, 123456789 }, { 1500000000, 987654321 } };
	struct stat st;

	put_file("f", "x");
	NEED(utimensat(AT_FDCWD, "f", ts, 0) == 0);
	st = stat_of("f");
	NEED(st.st_atim.tv_nsec == 123456789 && st.st_mtim.tv_nsec == 987654321);
}

static void times_after_write(void)
{
	const struct timespec ts[2] = { { 1000000000, 0 }, { 1500000000, 0 } };
	int fd = make_file("f", 0600, "content");

	/* As cp -p and tar do: a late flush must not move it again. */
	NEED(futimens(fd, ts) == 0);
	NEED(close(fd) == 0);
	NEED(stat_of("f").st_mtime == 1500000000);
	expect_content("f", "content");
	NEED(stat_of("f").st_mtime == 1500000000);
}

static void times_by_others(int unused)
{
	const struct timespec ts[2] = { { 1000, 0 }, { 1000, 0 } };

	(void)unused;
	become(1001, 1001, NULL, 0);
	NEED_ERROR(utimensat(AT_FDCWD, "f", ts, 0), EPERM);
	NEED_EITHER(utimensat(AT_FDCWD, "f", NULL, 0), EACCES, EPERM);
}

static void times_forbidden(void)
{
	need_root();
	put_file("f", "x");
	join(spawn(times_by_others, 0));
}

static bool later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec > b->tv_nsec);
}

static void a_while(void)
{
	/* More than a second: some storage keeps whole seconds. */
	NEED(nanosleep(&(struct timespec){ 1, 100000000 }, NULL) == 0);
}

static void times_move(void)
{
	struct stat before, dir, st;
	int fd = make_file("f", 0600, "x");

	before = stat_of("f");
	dir = stat_of(".");
	a_while();
	write_all(fd, "y", 1, 0);
	NEED(close(fd) == 0);
	st = stat_of("f");
	NEED(later(&st.st_mtim, &before.st_mtim));
	put_file("new", "x");
	st = stat_of(".");
	NEED(later(&st.st_mtim, &dir.st_mtim));
	a_while();
	dir = stat_of(".");
	a_while();
	NEED(unlink("new") == 0);
	st = stat_of(".");
	NEED(later(&st.st_mtim, &dir.st_mtim));
}

static void ctime_moves(void)
{
	struct stat before, st;

	put_file("f", "x");
	before = stat_of("f");
	a_while();
	NEED(chmod("f", 0600) == 0);
	st = stat_of("f");
	NEED(later(&st.st_ctim, &before.st_ctim));
	NEED(!later(&st.st_mtim, &before.st_mtim));
}

const struct check permission_checks[] = {
	{ "chmod_modes", chmod_modes },
	{ "umask_applies", umask_applies },
	{ "chown_ids", chown_ids },
	{ "other_user", other_user },
	{ "supplementary_groups", supplementary_groups },
	{ "setgid_dir", setgid_dir },
	{ "sticky_dir", sticky_dir },
	{ "setuid_cleared", setuid_cleared },
	{ "setuid_cleared_open", setuid_cleared_open },
	{ "cached_but_forbidden", cached_but_forbidden },
	{ "open_outlives_mode", open_outlives_mode },
	{ "times_set", times_set },
	{ "times_now", times_now },
	{ "times_ns", times_ns },
	{ "times_after_write", times_after_write },
	{ "times_forbidden", times_forbidden },
	{ "times_move", times_move },
	{ "ctime_moves", ctime_moves },
	{ NULL, NULL },
};
