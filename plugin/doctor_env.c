/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/str.h"
#include "plugin/client.h"
#include "plugin/cmd.h"
#include "plugin/json.h"
#include "plugin/overview.h"
#include "plugin/process.h"
#include "plugin/spawn.h"

#define KERNEL_NEEDED_MAJOR 5
#define KERNEL_NEEDED_MINOR 6 /* pidfd_getfd, openat2 */
#define DOCKER_SOCKET	    "/run/docker.sock"
#define DOCKER_MS	    3000
#define WORKER_MS	    5000
#define MEMLOCK_NEEDED	    (64ull << 20) /* what one busy mount may lock */

/* One check that takes no time; see cv_doctor_end(). */
#define FOUND(d, name, result, cure, ...) cv_doctor_end(d, name, result, -1, cure, __VA_ARGS__)

static void check_kernel(struct cv_doctor *d)
{
	struct utsname u;
	unsigned major = 0, minor = 0;

	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2)
		FOUND(d, "kernel", CV_FINDING_WARNING, NULL, "unknown");
	else if (major < KERNEL_NEEDED_MAJOR ||
		 (major == KERNEL_NEEDED_MAJOR && minor < KERNEL_NEEDED_MINOR))
		FOUND(d, "kernel", CV_FINDING_FAILED, "use Linux 5.6 or newer", "%s %s", u.sysname,
		      u.release);
	else
		FOUND(d, "kernel", CV_FINDING_OK, NULL, "%s %s, %s", u.sysname, u.release,
		      u.machine);
}

static void check_root(struct cv_doctor *d)
{
	if (geteuid() == 0)
		FOUND(d, "user", CV_FINDING_OK, NULL, "root");
	else
		FOUND(d, "user", CV_FINDING_FAILED, "run cvol as root: sudo cvol doctor",
		      "uid %u: cannot mount, nor reach the daemon", geteuid());
}

static void check_fuse(struct cv_doctor *d)
{
	cv_cleanup_close int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		FOUND(d, "/dev/fuse", CV_FINDING_OK, NULL, "can be opened");
	else
		FOUND(d, "/dev/fuse", CV_FINDING_FAILED,
		      errno == EPERM || errno == EACCES
			      ? "in a container: --device /dev/fuse --cap-add SYS_ADMIN"
			      : "modprobe fuse; in a container also --device /dev/fuse",
		      "%s", cv_strerror(errno));
}

/* The first line a program prints, "" if it does not within the time. */
static void first_line(const char *path, char *const argv[], char *out, size_t size)
{
	int pipes[2];
	size_t used = 0;
	pid_t pid;

	*out = '\0';
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return;
	pid = fork();
	if (pid == 0) {
		(void)dup2(pipes[1], STDOUT_FILENO);
		(void)execv(path, argv);
		_exit(127);
	}
	(void)close(pipes[1]);
	while (pid > 0 && used + 1 < size && cv_wait_readable(pipes[0], WORKER_MS)) {
		ssize_t n = read(pipes[0], out + used, size - 1 - used);

		if (n <= 0)
			break;
		used += (size_t)n;
	}
	(void)close(pipes[0]);
	out[used] = '\0';
	out[strcspn(out, "\n")] = '\0';
	if (pid > 0) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
	}
}

static void check_worker(struct cv_doctor *d, const struct cv_doctor_place *place)
{
	cv_cleanup_free char *path = cv_worker_find(place->worker);
	char program[] = CV_WORKER_PROGRAM, option[] = "--version", text[256];
	char *argv[] = { program, option, NULL };

	if (!path || access(path, X_OK) < 0) {
		FOUND(d, "worker program", CV_FINDING_FAILED,
		      "install both programs of cvol, or use --worker PATH", "%s: %s",
		      path ? path : place->worker, cv_strerror(errno));
		return;
	}
	first_line(path, argv, text, sizeof(text));
	if (cv_str_starts(text, CV_WORKER_PROGRAM " " CV_VERSION " "))
		FOUND(d, "worker program", CV_FINDING_OK, NULL, "%s: %s", path, text);
	else
		FOUND(d, "worker program", CV_FINDING_FAILED,
		      "install both programs of the same version", "%s: %s; this is cvol %s", path,
		      *text ? text : "does not run", CV_VERSION);
}

/* ---- the daemon ---- */

static pid_t check_daemon(struct cv_doctor *d, const struct cv_doctor_place *place,
			  const struct cv_overview *o, int result, const struct cv_err *err,
			  double ms)
{
	const char *version = cv_dict_get(&o->daemon, "version");
	const char *pid = cv_dict_get(&o->daemon, "pid");
	uint64_t number = 0;
	struct stat st;

	if (!o->have_daemon) {
		cv_doctor_end(
			d, "daemon",
			cv_overview_no_daemon(result) ? CV_FINDING_NOTE : CV_FINDING_FAILED, -1,
			cv_overview_no_daemon(result)
				? "for Docker: systemctl enable --now cvol.socket (cvol mount "
				  "needs none)"
				: NULL,
			"%s", err->text);
		return 0;
	}
	if (!cv_str_eq(version, CV_VERSION))
		cv_doctor_end(d, "daemon", CV_FINDING_WARNING, ms,
			      "restart it: systemctl restart cvol (mounts stay)",
			      "version %s runs, %s is installed", version ? version : "?",
			      CV_VERSION);
	else
		cv_doctor_end(d, "daemon", CV_FINDING_OK, ms, NULL, "%s answers on %s", version,
			      place->socket);
	if (stat(place->socket, &st) == 0 && (st.st_mode & 077))
		FOUND(d, "daemon's socket", CV_FINDING_WARNING, "chmod 600 it",
		      "mode %03o: whoever may use it can mount anything", st.st_mode & 0777);
	return pid && cv_parse_u64(pid, 10, INT32_MAX, &number) == 0 ? (pid_t)number : 0;
}

/* The line of /proc/PID/FILE that begins with key, without key; false: there is none. */
static bool proc_line(pid_t pid, const char *file, const char *key, char *out, size_t size)
{
	cv_cleanup_free char *path = cv_sprintf("/proc/%d/%s", (int)pid, file);
	cv_cleanup_fclose FILE *f = path ? fopen(path, "re") : NULL;
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		if (cv_str_starts(line, key)) {
			const char *value = line + strlen(key);

			(void)cv_strcpy(out, size, value + strspn(value, " \t"));
			return true;
		}
	}
	return false;
}

static void check_memlock(struct cv_doctor *d, pid_t daemon)
{
	pid_t pid = daemon ? daemon : getpid();
	char text[256], soft[32] = "";
	uint64_t limit = 0, caps = 0;

	if (proc_line(pid, "status", "CapEff:", text, sizeof(text))) {
		text[strcspn(text, "\n")] = '\0';
		(void)cv_parse_u64(text, 16, UINT64_MAX, &caps);
	}
	if (proc_line(pid, "limits", "Max locked memory", text, sizeof(text)))
		(void)sscanf(text, "%31s", soft);
	if (caps >> CAP_IPC_LOCK & 1)
		FOUND(d, "locked memory", CV_FINDING_OK, NULL, "not limited (CAP_IPC_LOCK)");
	else if (cv_str_eq(soft, "unlimited") ||
		 (cv_parse_u64(soft, 10, UINT64_MAX, &limit) == 0 && limit >= MEMLOCK_NEEDED))
		FOUND(d, "locked memory", CV_FINDING_OK, NULL, "limit %s", soft);
	else
		FOUND(d, "locked memory", CV_FINDING_WARNING,
		      "LimitMEMLOCK=infinity in the unit, or CAP_IPC_LOCK",
		      "limit %s bytes: a worker that is killed under memory pressure may lose "
		      "requests",
		      *soft ? soft : "?");
}

static void check_docker(struct cv_doctor *d)
{
	cv_cleanup_free char *body = NULL;
	cv_cleanup_free char *version = NULL;
	cv_cleanup_json struct json_object *root = NULL;
	struct cv_err err = { 0 };
	uint64_t start = cv_clock_ms();

	if (access(DOCKER_SOCKET, F_OK) < 0) {
		FOUND(d, "Docker", CV_FINDING_NOTE, NULL, "no " DOCKER_SOCKET " here");
		return;
	}
	cv_doctor_begin(d, "Docker");
	if (cv_client_call(DOCKER_SOCKET, "GET", "/version", NULL, DOCKER_MS, &body, &err) < 0) {
		FOUND(d, "Docker", CV_FINDING_WARNING, "systemctl status docker", "%s", err.text);
		return;
	}
	root = cv_json_parse(body, strlen(body), 1 << 20, &err);
	if (root)
		(void)cv_json_get_text(root, "Version", &version, &err);
	cv_doctor_end(d, "Docker", CV_FINDING_OK, (double)(cv_clock_ms() - start), NULL,
		      "%s answers", version ? version : "some version");
}

/* ---- where cvol keeps things ---- */

static void check_dir(struct cv_doctor *d, const char *name, const char *path)
{
	struct statvfs vfs;
	struct stat st;

	if (stat(path, &st) < 0) {
		FOUND(d, name, errno == ENOENT ? CV_FINDING_NOTE : CV_FINDING_FAILED, NULL,
		      "%s: %s%s", path, cv_strerror(errno),
		      errno == ENOENT ? " (made when needed)" : "");
		return;
	}
	if ((st.st_mode & 022) || st.st_uid != geteuid())
		FOUND(d, name, CV_FINDING_WARNING, "chown root and chmod go-w it",
		      "%s: owner %u, mode %04o: others could change it", path, st.st_uid,
		      st.st_mode & 07777);
	else if (statvfs(path, &vfs) == 0 && vfs.f_blocks && vfs.f_bavail < vfs.f_blocks / 100)
		FOUND(d, name, CV_FINDING_WARNING, "make room: volumes cannot be created",
		      "%s: less than 1%% of its file system is free", path);
	else
		FOUND(d, name, CV_FINDING_OK, NULL, "%s", path);
}

static bool file_says(const char *path, const char *what)
{
	cv_cleanup_fclose FILE *f = fopen(path, "re");
	char text[64];

	return f && fgets(text, sizeof(text), f) && cv_str_starts(text, what);
}

static void check_security_modules(struct cv_doctor *d)
{
	if (file_says("/sys/fs/selinux/enforce", "1"))
		FOUND(d, "SELinux", CV_FINDING_NOTE,
		      "if containers get 'Permission denied': -o "
		      "context=system_u:object_r:container_file_t:s0",
		      "enforcing");
	else
		FOUND(d, "SELinux", CV_FINDING_OK, NULL,
		      access("/sys/fs/selinux/enforce", F_OK) == 0 ? "permissive" : "not active");
	FOUND(d, "AppArmor", CV_FINDING_OK, NULL,
	      file_says("/sys/module/apparmor/parameters/enabled", "Y")
		      ? "active; it does not keep containers from volumes"
		      : "not active");
}

static void check_volumes(struct cv_doctor *d, const struct cv_overview *o)
{
	size_t mounted = 0, ill = 0;
	char names[256] = "";

	for (size_t i = 0; i < o->count; i++) {
		const struct cv_view *v = &o->views[i];
		bool well = v->state == CV_VOLUME_OK || v->state == CV_VOLUME_IDLE ||
			    v->state == CV_VOLUME_CONNECTING || v->state == CV_VOLUME_DRAINING;

		mounted += v->worker != 0;
		if (well)
			continue;
		ill++;
		if (strlen(names) + strlen(v->name) + 20 < sizeof(names))
			(void)snprintf(names + strlen(names), sizeof(names) - strlen(names),
				       "%s%s (%s)", *names ? ", " : "", v->name,
				       cv_volume_state_name(v->state));
	}
	if (ill)
		FOUND(d, "volumes", CV_FINDING_WARNING,
		      "cvol status shows why; cvol doctor VOLUME looks closer; cvol gc clears dead "
		      "mounts",
		      "%zu of %zu not well: %s", ill, o->count, names);
	else
		FOUND(d, "volumes", CV_FINDING_OK, NULL, "%zu, %zu of them mounted", o->count,
		      mounted);
}

void cv_doctor_environment(struct cv_doctor *d, const struct cv_doctor_place *place)
{
	cv_cleanup_overview struct cv_overview o = { .daemon = CV_DICT_INIT };
	struct cv_err err = { 0 };
	uint64_t start;
	pid_t daemon;
	int r;

	cv_doctor_group(d, "environment");
	check_kernel(d);
	check_root(d);
	check_fuse(d);
	check_worker(d, place);
	cv_doctor_begin(d, "daemon");
	start = cv_clock_ms();
	r = cv_overview_load(place->socket, place->run_dir, &o, &err);
	daemon = check_daemon(d, place, &o, r, &err, (double)(cv_clock_ms() - start));
	check_memlock(d, daemon);
	check_docker(d);
	check_dir(d, "state directory", place->state_dir);
	check_dir(d, "run directory", place->run_dir);
	check_security_modules(d);
	check_volumes(d, &o);
}
