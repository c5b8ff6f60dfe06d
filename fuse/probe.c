/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/backend.h"
#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/options.h"
#include "config/step.h"
#include "config/str.h"

#define STEP_MS	     10000 /* for an answer, once connected */
#define ROUND_TRIPS  20
#define IN_FLIGHT    8
#define SPEED_BYTES  (16ull << 20) /* written and read back, unless it takes too long */
#define SPEED_NS     2000000000ull /* no new transfers after this */
#define TRANSFER_MAX (1u << 20)

/* One for the process: steps are reported from the engines' threads, too. */
static struct {
	int sock;
	bool open; /* a step has begun and not ended */
} report = { .sock = -1 };

struct probe {
	struct cv_loop *loop;
	struct cv_mount mount;
	struct cv_cred cred;
	struct cv_object root;
	struct cv_file *file;
	char name[64];
	uint8_t *data;	 /* owned: IN_FLIGHT transfers */
	uint32_t unit;	 /* bytes of a transfer */
	uint64_t stored; /* bytes written and stable */
	struct cv_dict found;
};

/* ---- reporting ---- */

/* result: ok, note, warning, failed, skipped. */
static void end_step(const char *result, const char *text)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;

	if (!report.open)
		return;
	report.open = false;
	(void)cv_dict_set(&args, "result", result);
	(void)cv_dict_set(&args, "text", text);
	(void)cv_handoff_send(report.sock, "end", &args, NULL, 0);
}

static void begin_step(const char *name)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;

	end_step("ok", "");
	report.open = true;
	(void)cv_dict_set(&args, "step", name);
	(void)cv_handoff_send(report.sock, "begin", &args, NULL, 0);
}

__attribute__((format(printf, 2, 3))) static int fail_step(int r, const char *fmt, ...)
{
	char text[CV_ERR_SIZE];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	end_step("failed", text);
	return r;
}

/* ---- one operation, waited for ---- */

struct wait {
	struct cv_op op;
	bool over;
	ssize_t result;
};

static void on_done(struct cv_op *op, ssize_t result)
{
	struct wait *w = cv_container_of(op, struct wait, op);

	w->over = true;
	w->result = result;
}

static struct wait *wait_new(struct probe *p)
{
	/* Never freed: after a time-out the engine still has it, and the process ends soon. */
	struct wait *w = calloc(1, sizeof(*w));

	if (w)
		cv_op_init(&w->op, on_done, &p->cred);
	return w;
}

/* The operation's result, or -ETIMEDOUT. */
static ssize_t wait_for(struct probe *p, const struct wait *w)
{
	uint64_t deadline = cv_now_ns() + STEP_MS * 1000000ull;

	while (!w->over) {
		uint64_t now = cv_now_ns();

		if (now >= deadline ||
		    cv_loop_turn(p->loop, (int)((deadline - now) / 1000000) + 1) < 0)
			return -ETIMEDOUT;
	}
	return w->result;
}

/* ---- steps after connecting ---- */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int measure_round_trip(struct probe *p)
{
	uint64_t took[ROUND_TRIPS];
	char text[128];

	begin_step("round trip");
	for (size_t i = 0; i < ROUND_TRIPS; i++) {
		struct wait *w = wait_new(p);
		uint64_t start = cv_now_ns();
		ssize_t r;

		if (!w)
			return fail_step(-ENOMEM, "out of memory");
		cv_getattr(&p->mount, &w->op, &p->root, NULL);
		r = wait_for(p, w);
		if (r < 0)
			return fail_step((int)r, "%s", cv_strerror((int)r));
		took[i] = (cv_now_ns() - start) / 1000;
		free(w);
	}
	qsort(took, ROUND_TRIPS, sizeof(took[0]), compare);
	(void)snprintf(text, sizeof(text), "%.2f ms (of %d; longest %.2f ms)",
		       (double)took[ROUND_TRIPS / 2] / 1000, ROUND_TRIPS,
		       (double)took[ROUND_TRIPS - 1] / 1000);
	(void)cv_dict_setf(&p->found, "rtt_us", "%" PRIu64, took[ROUND_TRIPS / 2]);
	end_step("ok", text);
	return 0;
}

static int list_root(struct probe *p)
{
	struct wait *w = wait_new(p), *list = wait_new(p);
	char text[128];
	ssize_t r = -ENOMEM;

	begin_step("reading the directory");
	if (w && list) {
		cv_opendir(&p->mount, &w->op, &p->root);
		r = wait_for(p, w);
	}
	if (r == 0) {
		cv_readdir(&p->mount, &list->op, w->op.file, 0);
		r = wait_for(p, list);
		if (r != -ETIMEDOUT)
			cv_releasedir(&p->mount, w->op.file);
	}
	if (r < 0)
		return fail_step((int)r, "%s%s", cv_strerror((int)r),
				 r == -EACCES ? ": the server does not let this user read it" : "");
	(void)snprintf(text, sizeof(text), "%zd entries%s", r, list->op.eof ? "" : " or more");
	end_step("ok", text);
	return 0;
}

static int ask_space(struct probe *p)
{
	struct wait *w = wait_new(p);
	char text[160];
	double gib, total;
	ssize_t r = -ENOMEM;

	begin_step("free space");
	if (w) {
		cv_statfs(&p->mount, &w->op, &p->root);
		r = wait_for(p, w);
	}
	if (r == -ETIMEDOUT)
		return fail_step((int)r, "no answer");
	if (r < 0) {
		end_step("note", "the server does not say");
		return 0;
	}
	gib = (double)w->op.statvfs.f_bavail * (double)w->op.statvfs.f_frsize / (1 << 30);
	total = (double)w->op.statvfs.f_blocks * (double)w->op.statvfs.f_frsize / (1 << 30);
	(void)snprintf(text, sizeof(text), "%.1f of %.1f GiB", gib, total);
	end_step(total > 0 && gib < 0.01 * total ? "warning" : "ok", text);
	return 0;
}

/* ---- writing and reading a file of our own ---- */

static void write_refused(ssize_t r)
{
	const char *why = "";

	if (r == -EACCES || r == -EPERM)
		why = ": the server does not let uid 0 write here. Containers that run as another "
		      "user "
		      "may still write; for NFS see root_squash (chown=ignore, uid=, gid=), for "
		      "SSH the "
		      "login user's permissions";
	else if (r == -EROFS)
		why = ": the server offers it read-only; use readonly=true";
	else if (r == -ENOSPC || r == -EDQUOT)
		why = ": there is no room left";
	(void)fail_step((int)r, "%s%s", cv_strerror((int)r), why);
}

static int create_file(struct probe *p)
{
	struct wait *w = wait_new(p);
	uint64_t number = 0;
	ssize_t r = -ENOMEM;

	begin_step("creating a file");
	if (getrandom(&number, sizeof(number), 0) < 0)
		number = cv_now_ns();
	(void)snprintf(p->name, sizeof(p->name), ".cvol-doctor-%016" PRIx64, number);
	if (w) {
		cv_create(&p->mount, &w->op, &p->root, p->name, O_RDWR | O_EXCL, S_IFREG | 0600);
		r = wait_for(p, w);
	}
	if (r < 0) {
		write_refused(r);
		return (int)r;
	}
	p->file = w->op.file;
	end_step("ok", "");
	return 0;
}

static void start_transfer(struct probe *p, struct wait *w, size_t slot, uint64_t off, bool writing)
{
	cv_op_init(&w->op, on_done, &p->cred);
	w->over = false;
	if (writing)
		cv_write(&p->mount, &w->op, p->file, p->data + slot * p->unit, p->unit, off);
	else
		cv_read(&p->mount, &w->op, p->file, p->unit, off);
}

/*
 * Several at a time, as mounts do. Until total bytes are through, or, when writing, the time is up.
 * Returns the bytes, or -errno.
 */
static int64_t transfer(struct probe *p, uint64_t total, bool writing)
{
	struct wait *w[IN_FLIGHT];
	uint64_t start = cv_now_ns(), next = 0, finished = 0;
	size_t active = 0;

	for (size_t i = 0; i < IN_FLIGHT; i++) {
		w[i] = next < total ? wait_new(p) : NULL;
		if (!w[i])
			continue;
		start_transfer(p, w[i], i, next, writing);
		next += p->unit;
		active++;
	}
	for (size_t i = 0; active; i = (i + 1) % IN_FLIGHT) {
		ssize_t r;

		if (!w[i])
			continue;
		r = wait_for(p, w[i]);
		if (r < 0)
			return r;
		finished += (uint64_t)r;
		if (next < total && !(writing && cv_now_ns() - start > SPEED_NS)) {
			start_transfer(p, w[i], i, next, writing);
			next += p->unit;
			continue;
		}
		free(w[i]);
		w[i] = NULL;
		active--;
	}
	return (int64_t)finished;
}

static int sync_file(struct probe *p)
{
	struct wait *w = wait_new(p);

	if (!w)
		return -ENOMEM;
	cv_fsync(&p->mount, &w->op, p->file, false);
	return (int)wait_for(p, w);
}

/* Writes, or reads back what was written. */
static int measure_speed(struct probe *p, bool writing)
{
	uint64_t start = cv_now_ns(), ns;
	int64_t done;
	char text[128];
	double mib;
	int r = 0;

	begin_step(writing ? "writing" : "reading it back");
	done = transfer(p, writing ? SPEED_BYTES : p->stored, writing);
	if (writing && done >= 0)
		r = sync_file(p);
	if (r == -ENOSYS || r == -EOPNOTSUPP)
		r = 0;
	if (done < 0 || r < 0) {
		write_refused(done < 0 ? (ssize_t)done : r);
		return done < 0 ? (int)done : r;
	}
	ns = cv_now_ns() - start + 1;
	if (writing)
		p->stored = (uint64_t)done;
	mib = (double)done / (1 << 20);
	(void)snprintf(text, sizeof(text), "%.1f MiB%s, %.1f MiB/s", mib,
		       writing ? " and on its disk" : "", mib * 1e9 / (double)ns);
	(void)cv_dict_setf(&p->found, writing ? "write_bytes_per_s" : "read_bytes_per_s", "%.0f",
			   (double)done * 1e9 / (double)ns);
	end_step("ok", text);
	return 0;
}

static int remove_file(struct probe *p)
{
	struct wait *w = wait_new(p);
	ssize_t r = -ENOMEM;

	begin_step("removing the file");
	cv_release(&p->mount, p->file);
	p->file = NULL;
	if (w) {
		cv_unlink(&p->mount, &w->op, &p->root, p->name);
		r = wait_for(p, w);
	}
	if (r < 0)
		return fail_step((int)r, "%s: %s is left on the server", cv_strerror((int)r),
				 p->name);
	end_step("ok", "");
	return 0;
}

static int use_a_file(struct probe *p)
{
	int r, removed;

	p->unit = p->mount.info.write_max < p->mount.info.read_max ? p->mount.info.write_max
								   : p->mount.info.read_max;
	if (p->unit > TRANSFER_MAX)
		p->unit = TRANSFER_MAX;
	p->data = malloc((size_t)IN_FLIGHT * p->unit);
	if (!p->data)
		return -ENOMEM;
	/* Nothing that compresses. */
	for (size_t done = 0; done < (size_t)IN_FLIGHT * p->unit;) {
		ssize_t n = getrandom(p->data + done, (size_t)IN_FLIGHT * p->unit - done, 0);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	r = create_file(p);
	if (r < 0)
		return r;
	r = measure_speed(p, true);
	if (r == 0)
		r = measure_speed(p, false);
	if (r == -ETIMEDOUT) /* the engine still has operations on it */
		return r;
	removed = remove_file(p);
	return r ? r : removed;
}

static int look_around(struct probe *p, bool write)
{
	int r;

	p->root = (struct cv_object){ .nodeid = 1, .path = "" };
	if (p->mount.info.features & CV_FEAT_HANDLES) {
		p->root.handle = &p->mount.info.root.handle;
		p->root.path = NULL;
	}
	r = list_root(p);
	if (r == 0)
		r = measure_round_trip(p);
	if (r == 0)
		r = ask_space(p);
	if (r == 0 && write)
		r = use_a_file(p);
	return r;
}

int cv_probe_run(int sock, struct cv_dict *options)
{
	const char *write_text = cv_dict_get(options, "probe_write");
	bool write = !cv_str_eq(write_text, "0") && !cv_options_bool(options, "readonly", false);
	struct probe p = { .found = CV_DICT_INIT };
	struct cv_err err = { 0 };
	int r;

	(void)cv_dict_remove(options, "probe_write");
	report.sock = sock;
	cv_step_watch(begin_step);
	if (cv_loop_new(&p.loop) < 0)
		return EXIT_FAILURE;
	begin_step("options");
	r = cv_mount_connect(options, p.loop, &p.mount, &err);
	cv_step_watch(NULL);
	if (r < 0) {
		end_step("failed", err.text);
	} else {
		end_step("ok", p.mount.info.server);
		(void)cv_dict_set(&p.found, "server", p.mount.info.server);
		r = look_around(&p, write);
	}
	(void)cv_handoff_send(sock, "probed", &p.found, NULL, 0);
	cv_dict_release(&p.found);
	free(p.data);
	if (r < 0) /* the engine may hold operations that nobody waits for */
		_exit(EXIT_SUCCESS);
	cv_mount_disconnect(&p.mount);
	cv_loop_free(p.loop);
	return EXIT_SUCCESS;
}
