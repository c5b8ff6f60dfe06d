/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does a directory behave as POSIX says, and as Linux's own file systems do?
 *
 *	conformance DIR [--skip NAME,…] [--skip-file FILE] [--only NAME,…]
 *		    [--enospc DIR] [--readonly DIR] [--seed N] [--seconds N] [--list]
 *
 * --seconds makes random_operations go on that long (with --only: an endurance test), --seed gives
 * it another sequence. A skip file has lines "check reason…": what the kind of storage truly cannot
 *do. Every check runs in a process of its own with a time limit, in a fresh directory that must be
 *removable afterwards. TAP, and a last line "N passed, N failed, N skipped"; exit status 1 if any
 *failed.
 */
#include "conformance.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TIME_LIMIT_S 60
#define SKIPS_MAX    256

const char *arg_enospc, *arg_readonly;
unsigned arg_seed = 1, arg_seconds;

static const struct check *const tables[] = {
	file_checks,	   name_checks,	  dir_checks,	  link_checks,
	permission_checks, random_checks, special_checks,
};

struct skip_rule {
	char name[64];
	char reason[192];
};

static struct skip_rule skips[SKIPS_MAX];
static size_t nskips;
static const char *arg_only;
static char *report; /* shared with the checks' processes: the first message */
#define REPORT_SIZE 1024

/* ---- for the checks ---- */

void fail_at(const char *file, int line, const char *fmt, ...)
{
	char text[REPORT_SIZE];
	va_list ap;
	int n = snprintf(text, sizeof(text),
			 "%s:%d: ", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);

	va_start(ap, fmt);
	(void)vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
	va_end(ap);
	if (report && !report[0])
		memcpy(report, text, sizeof(text));
	_exit(EXIT_FAILED);
}

void skip(const char *fmt, ...)
{
	char text[REPORT_SIZE];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (report && !report[0])
		memcpy(report, text, sizeof(text));
	_exit(EXIT_SKIPPED);
}

void need_error(const char *file, int line, const char *what, long result, int a, int b)
{
	if (result != -1)
		fail_at(file, line, "%s succeeded, not %s", what, strerrorname_np(a));
	if (errno != a && errno != b)
		fail_at(file, line, "%s: %s, not %s", what, strerrorname_np(errno),
			strerrorname_np(a));
}

pid_t spawn(void (*fn)(int arg), int arg)
{
	pid_t pid = fork();

	NEED(pid >= 0);
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)alarm(TIME_LIMIT_S + arg_seconds);
		fn(arg);
		_exit(0);
	}
	return pid;
}

void join(pid_t pid)
{
	int status;

	NEED(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	if (WIFEXITED(status))
		_exit(WEXITSTATUS(status));
	fail_at(__FILE__, __LINE__, "a child was killed by signal %d", WTERMSIG(status));
}

void join_all(pid_t *pids, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		join(pids[i]);
}

void need_root(void)
{
	if (geteuid() != 0)
		skip("needs root");
}

void become(uid_t uid, gid_t gid, const gid_t *groups, size_t ngroups)
{
	NEED(setgroups(ngroups, groups) == 0);
	NEED(setresgid(gid, gid, gid) == 0);
	NEED(setresuid(uid, uid, uid) == 0);
}

int make_file(const char *path, mode_t mode, const char *content)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);

	if (fd < 0)
		fail_at(__FILE__, __LINE__, "cannot create %.200s: %s", path,
			strerrorname_np(errno));
	write_all(fd, content, strlen(content), 0);
	return fd;
}

void put_file(const char *path, const char *content)
{
	NEED(close(make_file(path, 0644, content)) == 0);
}

void expect_content(const char *path, const char *content)
{
	char buf[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n;

	if (fd < 0)
		fail_at(__FILE__, __LINE__, "cannot open %.200s: %s", path, strerrorname_np(errno));
	n = read_all(fd, buf, sizeof(buf), 0);
	if (n != strlen(content) || memcmp(buf, content, n) != 0)
		fail_at(__FILE__, __LINE__, "%.100s has %zu bytes '%.*s', not '%.100s'", path, n,
			(int)(n < 100 ? n : 100), buf, content);
	NEED(close(fd) == 0);
}

void make_dir(const char *path)
{
	if (mkdir(path, 0755) < 0)
		fail_at(__FILE__, __LINE__, "mkdir %.200s: %s", path, strerrorname_np(errno));
}

struct stat stat_of(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		fail_at(__FILE__, __LINE__, "lstat %.200s: %s", path, strerrorname_np(errno));
	return st;
}

bool exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

void pattern(void *buf, size_t size, uint64_t off, unsigned seed)
{
	uint8_t *p = buf;

	for (size_t i = 0; i < size; i++)
		p[i] = (uint8_t)(((off + i) * 0x9e3779b97f4a7c15ull + seed) >> 40);
}

void write_all(int fd, const void *buf, size_t size, uint64_t off)
{
	size_t put = 0;

	while (put < size) {
		ssize_t n = pwrite(fd, (const char *)buf + put, size - put, (off_t)(off + put));

		NEED(n > 0);
		put += (size_t)n;
	}
}

size_t read_all(int fd, void *buf, size_t size, uint64_t off)
{
	size_t got = 0;

	while (got < size) {
		ssize_t n = pread(fd, (char *)buf + got, size - got, (off_t)(off + got));

		NEED(n >= 0);
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return got;
}

size_t count_entries(const char *path)
{
	DIR *d = opendir(path);
	const struct dirent *e;
	size_t n = 0;

	NEED(d);
	while ((e = readdir(d)))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	NEED(closedir(d) == 0);
	return n;
}

/* ---- running ---- */

static bool listed(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = list; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (strncmp(p, name, len) == 0 && (p[len] == ',' || p[len] == '\0'))
			return true;
	}
	return false;
}

static const char *skip_rule_for(const char *name)
{
	for (size_t i = 0; i < nskips; i++) {
		if (strcmp(skips[i].name, name) == 0)
			return skips[i].reason;
	}
	return NULL;
}

/* By descriptors: trees may be deeper than a path can say. */
static void remove_below(int fd)
{
	DIR *d = fdopendir(fd);
	const struct dirent *e;

	while (d && (e = readdir(d))) {
		int sub;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    unlinkat(fd, e->d_name, 0) == 0)
			continue;
		sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub >= 0)
			remove_below(sub);
		(void)unlinkat(fd, e->d_name, AT_REMOVEDIR);
	}
	if (d)
		(void)closedir(d);
}

/* In a process of its own: it may hang, too. */
static void remove_work(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)alarm(TIME_LIMIT_S);
	if (fd >= 0)
		remove_below(fd);
	_exit(rmdir(dir) < 0 ? EXIT_FAILED : 0);
}

static void child_check(const struct check *c, const char *dir)
{
	(void)setpgid(0, 0);
	(void)alarm(TIME_LIMIT_S + arg_seconds);
	(void)umask(022);
	(void)signal(SIGPIPE, SIG_IGN);
	NEED(chdir(dir) == 0);
	c->fn();
	_exit(0);
}

/* Returns false when the child does not even die from SIGKILL. */
static bool wait_limited(pid_t pid, int *ret_status)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	const time_t limit_s = TIME_LIMIT_S + (time_t)arg_seconds;
	struct timespec start, now;

	(void)clock_gettime(CLOCK_MONOTONIC, &start);
	for (bool killed = false;;) {
		pid_t r = waitpid(pid, ret_status, WNOHANG);

		if (r == pid || (r < 0 && errno != EINTR))
			return true;
		(void)clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - start.tv_sec > limit_s + 5 && !killed) {
			(void)kill(-pid, SIGKILL);
			(void)kill(pid, SIGKILL);
			killed = true;
		}
		if (now.tv_sec - start.tv_sec > limit_s + 15)
			return false;
		(void)nanosleep(&pause, NULL);
	}
}

/* Returns EXIT_FAILED, EXIT_SKIPPED or 0, with the text in report. */
static int run_check(const struct check *c, const char *top)
{
	char dir[4096];
	int status = 0, result;
	pid_t pid;

	report[0] = '\0';
	(void)snprintf(dir, sizeof(dir), "%s/%s.%d", top, c->name, (int)getpid());
	if (mkdir(dir, 0777) < 0 || chmod(dir, 0777) < 0) {
		(void)snprintf(report, REPORT_SIZE, "cannot make the check's directory: %s",
			       strerror(errno));
		return EXIT_FAILED;
	}
	pid = fork();
	if (pid == 0)
		child_check(c, dir);
	if (!wait_limited(pid, &status)) {
		(void)snprintf(report, REPORT_SIZE, "hangs, and cannot be killed");
		return EXIT_FAILED;
	}
	(void)kill(-pid, SIGKILL); /* what the check left running */
	if (WIFSIGNALED(status)) {
		(void)snprintf(report, REPORT_SIZE, "%s",
			       WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
		result = EXIT_FAILED;
	} else {
		result = WEXITSTATUS(status);
	}
	pid = fork();
	if (pid == 0)
		remove_work(dir);
	if (!wait_limited(pid, &status) || status != 0) {
		if (result == 0)
			(void)snprintf(report, REPORT_SIZE, "its directory cannot be removed");
		result = EXIT_FAILED;
	}
	return result;
}

static int load_skips(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[256];

	if (!f)
		return -errno;
	while (nskips < SKIPS_MAX && fgets(line, sizeof(line), f)) {
		struct skip_rule *rule = &skips[nskips];

		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '#' || sscanf(line, "%63s %191[^\n]", rule->name, rule->reason) != 2)
			continue;
		nskips++;
	}
	(void)fclose(f);
	return 0;
}

static void add_skips(const char *list)
{
	while (*list && nskips < SKIPS_MAX) {
		size_t n = strcspn(list, ",");

		(void)snprintf(skips[nskips].name, sizeof(skips[nskips].name), "%.*s", (int)n,
			       list);
		(void)snprintf(skips[nskips].reason, sizeof(skips[nskips].reason), "asked for");
		nskips++;
		list += n + (list[n] == ',');
	}
}

static int usage(void)
{
	(void)fprintf(stderr, "usage: conformance DIR [--skip NAME,…] [--skip-file FILE] "
			      "[--only NAME,…] [--enospc DIR] [--readonly DIR] [--seed N] "
			      "[--seconds N] [--list]\n");
	return 2;
}

static int parse(int argc, char **argv, const char **ret_dir, bool *ret_list)
{
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(argv[i], "--list") == 0) {
			*ret_list = true;
			continue;
		}
		if (argv[i][0] != '-') {
			*ret_dir = argv[i];
			continue;
		}
		if (!value)
			return -EINVAL;
		i++;
		if (strcmp(argv[i - 1], "--skip") == 0) {
			add_skips(value);
		} else if (strcmp(argv[i - 1], "--skip-file") == 0) {
			if (load_skips(value) < 0)
				return -ENOENT;
		} else if (strcmp(argv[i - 1], "--only") == 0) {
			arg_only = value;
		} else if (strcmp(argv[i - 1], "--enospc") == 0) {
			arg_enospc = value;
		} else if (strcmp(argv[i - 1], "--readonly") == 0) {
			arg_readonly = value;
		} else if (strcmp(argv[i - 1], "--seed") == 0) {
			arg_seed = (unsigned)strtoul(value, NULL, 10);
		} else if (strcmp(argv[i - 1], "--seconds") == 0) {
			arg_seconds = (unsigned)strtoul(value, NULL, 10);
		} else {
			return -EINVAL;
		}
	}
	return *ret_dir || *ret_list ? 0 : -EINVAL;
}

static void print_result(unsigned number, const char *name, int result, unsigned counts[3])
{
	switch (result) {
	case 0:
		counts[0]++;
		printf("ok %u - %s\n", number, name);
		break;
	case EXIT_SKIPPED:
		counts[2]++;
		printf("ok %u - %s # SKIP %s\n", number, name, report);
		break;
	default:
		counts[1]++;
		printf("not ok %u - %s\n# %s\n", number, name, report[0] ? report : "no message");
	}
	(void)fflush(stdout);
}

int main(int argc, char **argv)
{
	unsigned number = 0, planned = 0, counts[3] = { 0 };
	const char *dir = NULL;
	char *top;
	bool list = false;

	if (parse(argc, argv, &dir, &list) < 0)
		return usage();
	for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
		for (const struct check *c = tables[t]; c->name; c++) {
			planned += !arg_only || listed(arg_only, c->name);
			if (list)
				printf("%s\n", c->name);
		}
	}
	if (list)
		return 0;
	top = realpath(dir, NULL);
	if (!top) {
		(void)fprintf(stderr, "conformance: %s: %s\n", dir, strerror(errno));
		return 2;
	}
	report = mmap(NULL, REPORT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED)
		return 2;
	printf("1..%u\n", planned);
	for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
		for (const struct check *c = tables[t]; c->name; c++) {
			const char *reason = skip_rule_for(c->name);

			if (arg_only && !listed(arg_only, c->name))
				continue;
			if (reason)
				(void)snprintf(report, REPORT_SIZE, "%s", reason);
			print_result(++number, c->name, reason ? EXIT_SKIPPED : run_check(c, top),
				     counts);
		}
	}
	printf("%u passed, %u failed, %u skipped\n", counts[0], counts[1], counts[2]);
	free(top);
	return counts[1] ? 1 : 0;
}
