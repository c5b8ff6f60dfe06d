/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storm DIR SECONDS THREADS SEED: changes names and files below DIR as fast as it can, and takes
 * every error and every wrong content for a failure. Each thread works in directories of its own,
 * so that it knows what has to be there. For tests that kill what serves DIR meanwhile.
 *
 * Prints one line: rounds, failed calls, wrong contents, and how long calls took. Exits 1 if
 * anything was wrong.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64
#define SAY_MAX	    20 /* failures described */
#define PATH_SIZE   512
#define DATA_SIZE   70000
#define TIMES_MAX   1000000

static const char *root;
static double end;
static unsigned said;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct worker {
	pthread_t thread;
	unsigned id;
	unsigned seed;
	uint64_t rounds, errors, mismatches;
	float *times; /* milliseconds of each call */
	size_t count;
	char data[DATA_SIZE], back[DATA_SIZE];
};

static double now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

__attribute__((format(printf, 2, 3))) static void wrong(uint64_t *counter, const char *fmt, ...)
{
	va_list ap;

	(*counter)++;
	(void)pthread_mutex_lock(&lock);
	if (said++ < SAY_MAX) {
		va_start(ap, fmt);
		(void)vfprintf(stderr, fmt, ap);
		va_end(ap);
		(void)fputc('\n', stderr);
	}
	(void)pthread_mutex_unlock(&lock);
}

/* The call's result; a failure is counted and described. */
#define CALL(w, call)                                                                              \
	({                                                                                         \
		double began_ = now();                                                             \
		long result_ = (long)(call);                                                       \
		int errno_ = errno;                                                                \
		if ((w)->count < TIMES_MAX)                                                        \
			(w)->times[(w)->count++] = (float)((now() - began_) * 1000);               \
		if (result_ < 0)                                                                   \
			wrong(&(w)->errors, "thread %u round %llu: %s: %s", (w)->id,               \
			      (unsigned long long)(w)->rounds, #call, strerror(errno_));           \
		result_;                                                                           \
	})

static void expect_absent(struct worker *w, const char *path)
{
	struct stat st;

	if (lstat(path, &st) == 0 || errno != ENOENT)
		wrong(&w->mismatches, "thread %u: %s is still there (%s)", w->id, path,
		      strerror(errno));
}

static void expect_content(struct worker *w, int fd, size_t size, const char *what)
{
	ssize_t n = CALL(w, pread(fd, w->back, sizeof(w->back), 0));

	if (n >= 0 && ((size_t)n != size || memcmp(w->back, w->data, size) != 0))
		wrong(&w->mismatches, "thread %u round %llu: %s: %zd bytes, expected %zu%s", w->id,
		      (unsigned long long)w->rounds, what, n, size,
		      (size_t)n == size ? ", and others" : "");
}

static unsigned count_entries(struct worker *w, const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *e;
	unsigned n = 0;

	if (!dir) {
		wrong(&w->errors, "thread %u: opendir %s: %s", w->id, path, strerror(errno));
		return 0;
	}
	errno = 0;
	while ((e = readdir(dir)))
		n += e->d_name[0] != '.';
	if (errno)
		wrong(&w->errors, "thread %u: readdir %s: %s", w->id, path, strerror(errno));
	(void)closedir(dir);
	return n;
}

static void files(struct worker *w, const char *dir)
{
	char a[PATH_SIZE], b[PATH_SIZE], c[PATH_SIZE];
	size_t size = 1 + (unsigned)rand_r(&w->seed) % DATA_SIZE;
	struct stat st;
	int fd;

	(void)snprintf(a, sizeof(a), "%s/a", dir);
	(void)snprintf(b, sizeof(b), "%s/b", dir);
	(void)snprintf(c, sizeof(c), "%s/sub/c", dir);
	for (size_t i = 0; i < size; i++)
		w->data[i] = (char)(rand_r(&w->seed) >> 8);
	fd = (int)CALL(w, open(a, O_CREAT | O_EXCL | O_RDWR, 0644));
	if (fd < 0)
		return;
	if (CALL(w, write(fd, w->data, size)) != (long)size)
		wrong(&w->mismatches, "thread %u: short write", w->id);
	if (rand_r(&w->seed) % 2)
		(void)CALL(w, fsync(fd));
	expect_content(w, fd, size, "after write");
	(void)CALL(w, link(a, b));
	if (CALL(w, fstat(fd, &st)) == 0 && st.st_size != (off_t)size)
		wrong(&w->mismatches, "thread %u: size %lld, expected %zu", w->id,
		      (long long)st.st_size, size);
	(void)CALL(w, rename(a, c));
	expect_absent(w, a);
	(void)CALL(w, chmod(c, 0600));
	(void)CALL(w, unlink(b));
	expect_absent(w, b);
	if (size > 10) {
		size /= 2;
		(void)CALL(w, ftruncate(fd, (off_t)size));
	}
	expect_content(w, fd, size, "after truncate");
	(void)CALL(w, unlink(c)); /* open: hidden, and still readable */
	expect_absent(w, c);
	expect_content(w, fd, size, "after unlink");
	(void)CALL(w, close(fd));
}

static void names(struct worker *w, const char *dir)
{
	char d[PATH_SIZE], e[PATH_SIZE], s[PATH_SIZE], f[PATH_SIZE], g[PATH_SIZE], target[64];
	char text[128];
	long n;
	int fd;

	(void)snprintf(d, sizeof(d), "%s/d", dir);
	(void)snprintf(e, sizeof(e), "%s/e", dir);
	(void)snprintf(s, sizeof(s), "%s/e/s", dir);
	(void)snprintf(f, sizeof(f), "%s/f", dir);
	(void)snprintf(g, sizeof(g), "%s/e/g", dir);
	(void)snprintf(target, sizeof(target), "to/%llu", (unsigned long long)w->rounds);
	(void)CALL(w, mkdir(d, 0755));
	(void)CALL(w, rename(d, e));
	expect_absent(w, d);
	(void)CALL(w, symlink(target, s));
	n = CALL(w, readlink(s, text, sizeof(text)));
	if (n >= 0 && ((size_t)n != strlen(target) || memcmp(text, target, (size_t)n) != 0))
		wrong(&w->mismatches, "thread %u: link to %.*s, expected %s", w->id, (int)n, text,
		      target);
	/* Over a file that is open. */
	fd = (int)CALL(w, open(g, O_CREAT | O_EXCL | O_RDWR, 0644));
	if (fd >= 0 && CALL(w, write(fd, "old", 3)) == 3) {
		int other = (int)CALL(w, open(f, O_CREAT | O_EXCL | O_WRONLY, 0644));

		(void)CALL(w, write(other, "new", 3));
		(void)CALL(w, close(other));
		(void)CALL(w, rename(f, g));
		if (CALL(w, pread(fd, text, 4, 0)) != 3 || memcmp(text, "old", 3) != 0)
			wrong(&w->mismatches, "thread %u: a replaced file changed", w->id);
		(void)CALL(w, close(fd));
		fd = (int)CALL(w, open(g, O_RDONLY));
		if (CALL(w, read(fd, text, 4)) != 3 || memcmp(text, "new", 3) != 0)
			wrong(&w->mismatches, "thread %u: a renamed file is not the new one",
			      w->id);
	}
	(void)CALL(w, close(fd));
	if (count_entries(w, e) != 2)
		wrong(&w->mismatches, "thread %u: %s has not 2 entries", w->id, e);
	(void)CALL(w, unlink(s));
	(void)CALL(w, unlink(g));
	(void)CALL(w, rmdir(e));
	expect_absent(w, e);
}

/* O_APPEND, through handles that stay open over many rounds. */
static void append(struct worker *w, int fd, uint64_t *lines)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "%015llu\n", (unsigned long long)*lines);

	if (CALL(w, write(fd, line, (size_t)n)) == n)
		(*lines)++;
}

static void check_log(struct worker *w, const char *path, uint64_t lines)
{
	FILE *f = fopen(path, "r");
	unsigned long long value;
	uint64_t n = 0;

	while (f && fscanf(f, "%llu", &value) == 1 && value == n)
		n++;
	if (n != lines)
		wrong(&w->mismatches, "thread %u: %s has %llu good lines, expected %llu", w->id,
		      path, (unsigned long long)n, (unsigned long long)lines);
	if (f)
		(void)fclose(f);
}

static void *run(void *arg)
{
	struct worker *w = arg;
	char dir[PATH_SIZE - 32], sub[PATH_SIZE], log[PATH_SIZE];
	uint64_t lines = 0;
	int fd;

	(void)snprintf(dir, sizeof(dir), "%s/t%u", root, w->id);
	(void)snprintf(sub, sizeof(sub), "%s/sub", dir);
	(void)snprintf(log, sizeof(log), "%s/log", dir);
	(void)CALL(w, mkdir(dir, 0755));
	(void)CALL(w, mkdir(sub, 0755));
	fd = (int)CALL(w, open(log, O_CREAT | O_EXCL | O_WRONLY | O_APPEND, 0644));
	while (now() < end && w->errors + w->mismatches < 100) {
		files(w, dir);
		names(w, dir);
		append(w, fd, &lines);
		w->rounds++;
	}
	(void)CALL(w, close(fd));
	check_log(w, log, lines);
	(void)CALL(w, unlink(log));
	(void)CALL(w, rmdir(sub));
	if (count_entries(w, dir) != 0)
		wrong(&w->mismatches, "thread %u: something is left in %s", w->id, dir);
	(void)CALL(w, rmdir(dir));
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	unsigned threads = argc == 5 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	struct worker *workers[THREADS_MAX];
	uint64_t rounds = 0, errors = 0, mismatches = 0;
	size_t count = 0;
	float *times;

	if (threads == 0 || threads > THREADS_MAX) {
		(void)fprintf(stderr, "usage: storm DIR SECONDS THREADS SEED\n");
		return 2;
	}
	root = argv[1];
	end = now() + strtod(argv[2], NULL);
	for (unsigned i = 0; i < threads; i++) {
		struct worker *w = calloc(1, sizeof(*w));

		if (!w || !(w->times = calloc(TIMES_MAX, sizeof(*w->times))))
			return 2;
		w->id = i;
		w->seed = (unsigned)strtoul(argv[4], NULL, 10) * 7919 + i;
		workers[i] = w;
		if (pthread_create(&w->thread, NULL, run, w) != 0)
			return 2;
	}
	for (unsigned i = 0; i < threads; i++) {
		(void)pthread_join(workers[i]->thread, NULL);
		rounds += workers[i]->rounds;
		errors += workers[i]->errors;
		mismatches += workers[i]->mismatches;
		count += workers[i]->count;
	}
	times = malloc((count + 1) * sizeof(*times));
	if (!times || !count)
		return 2;
	count = 0;
	for (unsigned i = 0; i < threads; i++) {
		memcpy(times + count, workers[i]->times, workers[i]->count * sizeof(*times));
		count += workers[i]->count;
	}
	qsort(times, count, sizeof(*times), by_value);
	printf("rounds %llu errors %llu mismatches %llu calls %zu median_ms %.3f slowest_ms %.0f\n",
	       (unsigned long long)rounds, (unsigned long long)errors,
	       (unsigned long long)mismatches, count, times[count / 2], times[count - 1]);
	return errors || mismatches ? 1 : 0;
}
