/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/handoff.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/process.h"
#include "plugin/spawn.h"

#define CONNECT_MS 20000 /* all steps of connecting together */
#define SILENCE_MS 40000 /* between two words of the worker: more than any of its own limits */

struct running {
	char step[128];
	struct timespec begun;
};

static double ms_since(const struct timespec *begun)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - begun->tv_sec) * 1e3 +
	       (double)(now.tv_nsec - begun->tv_nsec) / 1e6;
}

static void end_step(struct cv_doctor *d, struct running *run, const struct cv_dict *args)
{
	const char *text = cv_dict_get(args, "text"), *name = cv_dict_get(args, "result");
	enum cv_finding_result result = CV_FINDING_FAILED;

	if (!*run->step)
		return;
	if (name)
		(void)cv_finding_parse(name, &result);
	/* An engine's text says itself what to do. */
	cv_doctor_end(d, run->step, result, ms_since(&run->begun), NULL, "%s", text ? text : "");
	*run->step = '\0';
}

/* Until the worker says that it is done. 0 or -errno. */
static int listen_to(struct cv_doctor *d, int sock, struct running *run)
{
	for (;;) {
		cv_cleanup_handoff struct cv_handoff msg = CV_HANDOFF_INIT;
		int r = cv_handoff_recv(sock, SILENCE_MS, &msg);
		const char *step;

		if (r < 0)
			return r;
		if (cv_str_eq(msg.verb, "end")) {
			end_step(d, run, &msg.args);
		} else if (cv_str_eq(msg.verb, "begin")) {
			step = cv_dict_get(&msg.args, "step");
			(void)cv_strcpy(run->step, sizeof(run->step), step ? step : "?");
			(void)clock_gettime(CLOCK_MONOTONIC, &run->begun);
			cv_doctor_begin(d, run->step);
		} else if (cv_str_eq(msg.verb, "probed")) {
			return cv_dict_copy(&d->estimate, &msg.args);
		} else {
			return -EPROTO;
		}
	}
}

/*
 * Workers take secrets from files. These never see a disk: the worker reads them through our
 * descriptors, which close when this process ends.
 */
static int hide_secret(const char *option, struct cv_dict *args)
{
	const char *value = cv_dict_get(args, option);
	cv_cleanup_free char *key = cv_sprintf("%s_file", option);
	int fd = memfd_create("secret", MFD_CLOEXEC);
	int r;

	if (fd < 0 || !key || fchmod(fd, 0600) < 0 ||
	    write(fd, value, strlen(value)) != (ssize_t)strlen(value))
		return -EIO;
	r = cv_dict_setf(args, key, "/proc/%d/fd/%d", (int)getpid(), fd);
	(void)cv_dict_remove(args, option);
	return r;
}

static int hide_secrets(struct cv_dict *args)
{
	int r = 0;

	for (const struct cv_option_def *o = cv_option_table(); r == 0 && o->name; o++) {
		if (o->type == CV_OPT_SECRET && cv_dict_get(args, o->name))
			r = hide_secret(o->name, args);
	}
	return r;
}

static int ask(struct cv_doctor *d, int sock, const struct cv_dict *options, bool write,
	       struct running *run)
{
	cv_cleanup_dict struct cv_dict args = CV_DICT_INIT;
	int r = cv_dict_copy(&args, options);

	if (r == 0)
		r = hide_secrets(&args);
	if (r == 0)
		r = cv_dict_set(&args, "probe_write", write ? "1" : "0");
	if (r == 0)
		r = cv_dict_setf(&args, "mount_timeout", "%dms", CONNECT_MS);
	if (r == 0)
		r = cv_handoff_send(sock, "probe", &args, NULL, 0);
	return r < 0 ? r : listen_to(d, sock, run);
}

void cv_doctor_probe(struct cv_doctor *d, const struct cv_doctor_place *place,
		     const struct cv_dict *options, bool write)
{
	cv_cleanup_free char *path = cv_worker_find(place->worker);
	cv_cleanup_close int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	cv_cleanup_close int ours = -1;
	cv_cleanup_close int theirs = -1;
	struct running run = { .step = "" };
	struct cv_err err = { 0 };
	int pair[2], r;
	pid_t pid = 0;

	if (!path || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		cv_doctor_end(d, "worker", CV_FINDING_FAILED, -1, NULL, "%s", cv_strerror(errno));
		return;
	}
	ours = pair[0];
	theirs = pair[1];
	/* Its log would only repeat what the steps say. */
	r = cv_worker_spawn(path, "doctor", theirs,
			    cv_log_get_level() >= CV_LOG_DEBUG ? STDERR_FILENO : null, &pid, &err);
	cv_close_fd(&theirs);
	if (r < 0) {
		cv_doctor_end(d, "worker", CV_FINDING_FAILED, -1, NULL, "%s", err.text);
		return;
	}
	r = ask(d, ours, options, write, &run);
	if (r < 0)
		cv_doctor_end(d, *run.step ? run.step : "worker", CV_FINDING_FAILED,
			      *run.step ? ms_since(&run.begun) : -1, NULL, "%s",
			      r == -ETIMEDOUT ? "no end in sight; given up" : cv_strerror(r));
	(void)kill(pid, SIGKILL); /* it has said good-bye to the server already */
	(void)waitpid(pid, NULL, 0);
}
