/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an SSH login to a directory on the server: version and extensions, limits, the path, the
 * sub-directory. One request at a time, waiting for each answer; runs on a helper thread and under
 * one deadline.
 */
#include "backends/sftp_link.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/step.h"
#include "config/str.h"

#define PLAIN_MAX   32768 /* what every server must take (draft, section 3) */
#define LIMIT_FLOOR 4096

/* Requests in one round trip, to a server that answers in their order. */
#define TOGETHER_MAX CV_PEERS

#define FIRST_USER   1000 /* ordinary users' ids begin here, in most systems */
#define LIKELY_USERS 64
#define HOMES_MAX    32 /* users looked for by their home directories */

struct answer {
	uint8_t type;
	struct cv_sftp_in in;
	uint8_t *body; /* owned copy it points into */
};

struct login {
	struct cv_ssh *ssh;
	struct cv_ssh_limit *limit;
	struct cv_err *err;
	const char *host;
	struct cv_sftp_parser parser;
	struct cv_sftp_out out;
	uint32_t id; /* of the last request */
	unsigned asked;
	unsigned answered; /* of these */
	struct answer answers[TOGETHER_MAX];
	uint8_t type; /* the last answer; in points into it */
	struct cv_sftp_in in;
};

static const struct {
	const char *name;
	enum sftp_ext bit;
} extensions[] = {
	{ "posix-rename@openssh.com", SFTP_EXT_POSIX_RENAME },
	{ "statvfs@openssh.com", SFTP_EXT_STATVFS },
	{ "fstatvfs@openssh.com", SFTP_EXT_FSTATVFS },
	{ "fsync@openssh.com", SFTP_EXT_FSYNC },
	{ "hardlink@openssh.com", SFTP_EXT_HARDLINK },
	{ "lsetstat@openssh.com", SFTP_EXT_LSETSTAT },
	{ "limits@openssh.com", SFTP_EXT_LIMITS },
	{ "expand-path@openssh.com", SFTP_EXT_EXPAND_PATH },
	{ "copy-data", SFTP_EXT_COPY_DATA },
	{ "users-groups-by-id@openssh.com", SFTP_EXT_NAMES },
};

const char *sftp_ext_name(enum sftp_ext ext)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(extensions); i++) {
		if (extensions[i].bit == ext)
			return extensions[i].name;
	}
	return "";
}

int sftp_status_errno(uint32_t status)
{
	switch (status) {
	case CV_FX_OK:
		return 0;
	case CV_FX_EOF:
		return -ENODATA;
	case CV_FX_NO_SUCH_FILE:
		return -ENOENT;
	case CV_FX_PERMISSION_DENIED:
		return -EACCES;
	case CV_FX_BAD_MESSAGE:
		return -EINVAL;
	case CV_FX_OP_UNSUPPORTED:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

void sftp_session_release(struct sftp_session *s)
{
	cv_ssh_close(s->ssh);
	free(s->root);
	sftp_ids_free(s->ids);
	memset(s, 0, sizeof(*s));
}

struct sftp_session sftp_session_beside(const struct sftp_session *session, struct cv_ssh *ssh)
{
	struct sftp_session s = *session;

	s.ssh = ssh;
	s.root = NULL;
	s.ids = NULL;
	s.process = 0;
	return s;
}

/* ---- requests and their answers ---- */

static uint8_t *no_data(void *user, uint32_t id, uint32_t size)
{
	(void)user;
	(void)id;
	(void)size;
	return NULL;
}

static int on_reply(void *user, uint8_t type, uint32_t id, uint8_t *body, size_t size)
{
	struct login *l = user;
	struct answer *a = &l->answers[l->answered];

	if (l->answered == l->asked || !body ||
	    (type != CV_FXP_VERSION && id != l->id - (l->asked - 1 - l->answered)))
		return -EPROTO;
	a->body = malloc(size + 4);
	if (!a->body)
		return -ENOMEM;
	memcpy(a->body, body, size);
	a->in = (struct cv_sftp_in){ a->body, size, false };
	a->type = type;
	/* VERSION has its number where others have the id. */
	if (type == CV_FXP_VERSION)
		l->id = id;
	l->answered++;
	return 0;
}

static void forget_answers(struct login *l)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(l->answers); i++) {
		free(l->answers[i].body);
		l->answers[i] = (struct answer){ 0 };
	}
	l->answered = 0;
}

static void on_bytes(void *user, const uint8_t *p, size_t n)
{
	struct login *l = user;

	(void)cv_sftp_parser_feed(&l->parser, p, n);
}

static int lost(struct login *l)
{
	const char *why = l->parser.failed ? "the server does not speak SFTP (does a login script "
					     "print something?)"
					   : cv_ssh_error(l->ssh);

	return cv_fail(l->err, l->parser.failed ? l->parser.failed : -EPIPE, "sftp: %s: %s: %s",
		       l->host, l->limit->step, *why ? why : "connection lost");
}

/* Starts one more of at most TOGETHER_MAX requests that go together. */
static size_t begin(struct login *l, uint8_t type)
{
	l->asked++;
	return cv_sftp_begin(&l->out, type, ++l->id);
}

/* Sends what is in l->out and waits for the answers. */
static int exchange(struct login *l)
{
	size_t off = 0;

	if (l->out.bad)
		return cv_fail(l->err, ENOMEM, "sftp: out of memory");
	forget_answers(l);
	while (l->answered < l->asked) {
		ssize_t n = cv_ssh_send(l->ssh, l->out.data + off, l->out.size - off);
		uint32_t want;
		int r;

		if (n < 0)
			return lost(l);
		off += (size_t)n;
		if (l->answered == l->asked)
			break;
		want = cv_ssh_want(l->ssh);
		r = cv_ssh_wait(l->limit, cv_ssh_fd(l->ssh),
				(short)(POLLIN | ((want & EPOLLOUT) ? POLLOUT : 0)), 100);
		if (r < 0)
			return cv_fail(l->err, r, "sftp: %s: %s: %s", l->host, l->limit->step,
				       cv_strerror(r));
		if (cv_ssh_turn(l->ssh) < 0 || l->parser.failed)
			return lost(l);
	}
	l->type = l->answers[l->asked - 1].type;
	l->in = l->answers[l->asked - 1].in;
	l->out.size = 0;
	l->asked = 0;
	return l->parser.failed ? lost(l) : 0;
}

static void put_path(struct login *l, uint8_t type, const char *path,
		     const struct cv_sftp_attrs *attrs)
{
	size_t at = begin(l, type);

	cv_sftp_put_text(&l->out, path);
	if (attrs)
		cv_sftp_put_attrs(&l->out, attrs);
	cv_sftp_end(&l->out, at, 0);
}

static int ask_path(struct login *l, uint8_t type, const char *path,
		    const struct cv_sftp_attrs *attrs)
{
	put_path(l, type, path, attrs);
	return exchange(l);
}

/* Status of a STATUS answer, CV_FX_OK for any other. */
static uint32_t status_of(uint8_t type, struct cv_sftp_in in)
{
	return type == CV_FXP_STATUS ? cv_sftp_get_u32(&in) : CV_FX_OK;
}

static uint32_t answer_status(const struct login *l)
{
	return status_of(l->type, l->in);
}

static size_t begin_extended(struct login *l, enum sftp_ext ext)
{
	size_t at = begin(l, CV_FXP_EXTENDED);

	cv_sftp_put_text(&l->out, sftp_ext_name(ext));
	return at;
}

static int ask_extended(struct login *l, enum sftp_ext ext, const char *text)
{
	size_t at = begin_extended(l, ext);

	cv_sftp_put_text(&l->out, text);
	cv_sftp_end(&l->out, at, 0);
	return exchange(l);
}

/* Offered, and not allowed (sftp-server -P)? */
static bool refused(const struct login *l)
{
	uint32_t status = answer_status(l);

	return status == CV_FX_PERMISSION_DENIED || status == CV_FX_OP_UNSUPPORTED;
}

/* An absolute path as the answer, without slashes at its end. The caller frees; out of memory it is
 * NULL. */
static bool take_path(struct login *l, char **ret_path)
{
	struct cv_sftp_name name = { 0 };

	if (l->type != CV_FXP_NAME || cv_sftp_get_count(&l->in) != 1)
		return false;
	cv_sftp_get_name(&l->in, &name);
	if (l->in.bad || name.name_len == 0 || name.name[0] != '/' ||
	    memchr(name.name, '\0', name.name_len))
		return false;
	while (name.name_len > 0 && name.name[name.name_len - 1] == '/')
		name.name_len--;
	*ret_path = strndup(name.name, name.name_len);
	return *ret_path != NULL;
}

/* ---- steps ---- */

static int say_version(struct login *l, struct sftp_session *s)
{
	const unsigned both = SFTP_EXT_POSIX_RENAME | SFTP_EXT_FSTATVFS;
	const char *server = cv_ssh_server(l->ssh);
	size_t at;
	int r;

	l->id = 2; /* INIT has its version where others have the id */
	at = begin(l, CV_FXP_INIT);
	l->limit->step = cv_step("SFTP greeting");
	cv_sftp_end(&l->out, at, 0);
	r = exchange(l);
	if (r < 0)
		return r;
	if (l->type != CV_FXP_VERSION || l->id < 3)
		return cv_fail(l->err, EPROTO, "sftp: %s speaks SFTP version %u, not 3", l->host,
			       l->id);
	while (l->in.left > 0 && !l->in.bad) {
		size_t n;
		size_t unused;
		const char *name = (const char *)cv_sftp_get_string(&l->in, &n);

		(void)cv_sftp_get_string(&l->in, &unused);
		for (size_t i = 0; i < CV_ARRAY_SIZE(extensions) && !l->in.bad; i++) {
			if (strlen(extensions[i].name) == n &&
			    memcmp(extensions[i].name, name, n) == 0)
				s->extensions |= extensions[i].bit;
		}
	}
	/* Other sshds (dropbear) run OpenSSH's sftp-server, which these two give away. Servers that
	 * are made of Go's pkg/sftp (rclone) have only the first, and work on several reads and
	 * writes at once. Whoever has it takes the arguments of SYMLINK in OpenSSH's order. */
	s->openssh = strstr(server, "OpenSSH") || (s->extensions & both) == both;
	s->target_first = s->openssh || (s->extensions & SFTP_EXT_POSIX_RENAME);
	s->open_empties = strstr(server, "rclone") != NULL;
	return 0;
}

static uint32_t limit_or(uint64_t v, uint32_t fallback)
{
	if (v == 0)
		return fallback;
	if (v < LIMIT_FLOOR)
		return LIMIT_FLOOR;
	return v > 256 * 1024 ? 256 * 1024 : (uint32_t)v;
}

uint64_t sftp_process(uint8_t type, const uint8_t *body, size_t size)
{
	struct cv_sftp_in in = { body, size, false };
	struct cv_sftp_name name = { 0 };
	char digits[16] = "";
	uint64_t n;

	if (type == CV_FXP_NAME && cv_sftp_get_count(&in) == 1)
		cv_sftp_get_name(&in, &name);
	if (in.bad || name.name_len >= sizeof(digits))
		return 0;
	memcpy(digits, name.name_len ? name.name : "", name.name_len);
	return cv_parse_u64(digits, 10, UINT32_MAX, &n) < 0 ? 0 : n;
}

/*
 * Which process of the server this is, for a successor, and what it takes at once. Who cannot see
 * process 1, which always runs, cannot see another one end either.
 */
static int ask_server(struct login *l, struct sftp_session *s)
{
	bool limits = s->extensions & SFTP_EXT_LIMITS;
	const struct answer *a = l->answers;
	size_t at;
	int r;

	s->read_max = PLAIN_MAX;
	s->write_max = PLAIN_MAX;
	if (!s->openssh && !limits)
		return 0;
	if (s->openssh) {
		put_path(l, CV_FXP_READLINK, SFTP_PROC_SELF, NULL);
		put_path(l, CV_FXP_READLINK, SFTP_PROC_INIT, NULL);
	}
	if (limits) {
		at = begin_extended(l, SFTP_EXT_LIMITS);
		cv_sftp_end(&l->out, at, 0);
	}
	r = exchange(l);
	if (r < 0)
		return r;
	if (s->openssh && status_of(a[1].type, a[1].in) != CV_FX_NO_SUCH_FILE)
		s->process = sftp_process(a[0].type, a[0].in.p, a[0].in.left);
	if (limits && l->type == CV_FXP_EXTENDED_REPLY) {
		(void)cv_sftp_get_u64(&l->in); /* packet length; the other two respect it */
		s->read_max = limit_or(cv_sftp_get_u64(&l->in), PLAIN_MAX);
		s->write_max = limit_or(cv_sftp_get_u64(&l->in), PLAIN_MAX);
		s->handles_max = cv_sftp_get_u64(&l->in);
	}
	return 0;
}

/*
 * path: "~" or "~user", and what is below. Leaves the answer. "home-directory" is not used: OpenSSH
 * up to 9.2 at least answers it with the login user's, whoever was asked for.
 */
static int ask_home(struct login *l, const char *path, const struct sftp_session *s)
{
	const char *below = path + 1 + strspn(path + 1, "/");
	int r;

	if (s->extensions & SFTP_EXT_EXPAND_PATH) {
		r = ask_extended(l, SFTP_EXT_EXPAND_PATH, path);
		if (r < 0 || !refused(l))
			return r;
	}
	if (below == path + 1 && *below)
		return cv_fail(l->err, EOPNOTSUPP,
			       "sftp: path '%s': %s cannot expand '~user'; write the whole path",
			       path, l->host);
	/* Relative paths start in the login directory, so "~/x" is "x". */
	return ask_path(l, CV_FXP_REALPATH, *below ? below : ".", NULL);
}

static int resolve_root(struct login *l, const char *path, struct sftp_session *s)
{
	int r = *path == '~' ? ask_home(l, path, s) : ask_path(l, CV_FXP_REALPATH, path, NULL);

	if (r < 0 || take_path(l, &s->root))
		return r;
	r = l->type == CV_FXP_STATUS ? sftp_status_errno(answer_status(l)) : -EPROTO;
	if (r == -ENOENT)
		return cv_fail(l->err, ENOENT,
			       "sftp: directory '%s' does not exist on %s, nor does the "
			       "one it is in: create it there or correct the path (subdir "
			       "creates what is missing below an existing path)",
			       path, l->host);
	return cv_fail(l->err, r ? r : -EPROTO, "sftp: path '%s' not found on %s: %s", path,
		       l->host, cv_strerror(r ? r : -EPROTO));
}

/* Returns 0 or -errno of the server; below -4095: the exchange itself failed, err is set. */
#define EXCHANGE_FAILED (-5000)

static int stat_path(struct login *l, const char *path, struct cv_sftp_attrs *ret_attrs)
{
	struct cv_sftp_attrs attrs;

	if (ask_path(l, CV_FXP_STAT, *path ? path : "/", NULL) < 0)
		return EXCHANGE_FAILED;
	if (l->type != CV_FXP_ATTRS) {
		uint32_t status = answer_status(l);

		return status == CV_FX_OK ? -EPROTO : sftp_status_errno(status);
	}
	cv_sftp_get_attrs(&l->in, &attrs);
	if (l->in.bad || !(attrs.flags & CV_FXA_PERMISSIONS))
		return -EPROTO;
	*ret_attrs = attrs;
	return 0;
}

static int require_directory(struct login *l, const char *path, struct cv_sftp_attrs *ret_attrs)
{
	int r = stat_path(l, path, ret_attrs);

	if (r == EXCHANGE_FAILED)
		return l->err->code;
	if (r == -ENOENT)
		return cv_fail(l->err, ENOENT,
			       "sftp: directory '%s' does not exist on %s: create it there or "
			       "correct the path",
			       *path ? path : "/", l->host);
	if (r < 0)
		return cv_fail(l->err, r, "sftp: cannot use directory '%s' on %s: %s",
			       *path ? path : "/", l->host, cv_strerror(r));
	if (!S_ISDIR(ret_attrs->permissions))
		return cv_fail(l->err, ENOTDIR, "sftp: '%s' on %s is not a directory", path,
			       l->host);
	return 0;
}

/* One that cannot be entered would make a mount in which everything fails. */
static int require_entry(struct login *l, const char *path)
{
	cv_cleanup_free char *inside = cv_sprintf("%s/.", path);
	struct cv_sftp_attrs attrs;
	int r = inside ? stat_path(l, inside, &attrs) : -ENOMEM;

	if (r == EXCHANGE_FAILED)
		return l->err->code;
	if (r == -EACCES)
		return cv_fail(
			l->err, EACCES,
			"sftp: the login user may not enter directory '%s' on %s: change its "
			"permissions there, or log in as another user",
			path, l->host);
	return 0;
}

static int make_directory(struct login *l, const char *path, const struct cv_dict *options,
			  bool *ret_made)
{
	struct cv_sftp_attrs attrs = {
		.flags = CV_FXA_PERMISSIONS,
		.permissions = (uint32_t)cv_options_uint(options, "mode", 0755),
	};
	struct cv_sftp_attrs found;
	uint32_t status;
	int r = stat_path(l, path, &found);

	*ret_made = false;
	if (r != -ENOENT)
		return r == EXCHANGE_FAILED ? l->err->code : 0; /* what it is, is checked later */
	r = ask_path(l, CV_FXP_MKDIR, path, &attrs);
	if (r < 0)
		return r;
	status = answer_status(l);
	/* Another mount may have been faster; the check that follows tells. */
	if (status != CV_FX_OK && status != CV_FX_FAILURE)
		return cv_fail(l->err, sftp_status_errno(status),
			       "sftp: cannot create subdir '%s' on %s: %s", path, l->host,
			       cv_strerror(sftp_status_errno(status)));
	if (status != CV_FX_OK)
		return 0;
	*ret_made = true;
	/* The server's umask may have taken bits away. */
	if (cv_options_owner(options, &attrs.uid, &attrs.gid))
		attrs.flags |= CV_FXA_UIDGID;
	r = ask_path(l, CV_FXP_SETSTAT, path, &attrs);
	if (r < 0 || !(attrs.flags & CV_FXA_UIDGID) || answer_status(l) == CV_FX_OK)
		return r;
	return cv_fail(l->err, EPERM,
		       "sftp: the subdir '%s' was created on %s, but its owner could not be set: "
		       "log in as root, or leave the option owner out",
		       path, l->host);
}

/* Appends subdir to the root, creating what is missing. */
static int enter_subdir(struct login *l, const char *subdir, const struct cv_dict *options,
			struct sftp_session *s)
{
	cv_cleanup_free char *copy = strdup(subdir);
	char *save = NULL;

	if (!copy)
		return cv_fail(l->err, ENOMEM, "sftp: out of memory");
	for (char *part = strtok_r(copy, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
		char *path;
		int r;

		if (!cv_sftp_name_ok(part, strlen(part)))
			return cv_fail(l->err, EINVAL, "sftp: subdir '%s' may not contain '%s'",
				       subdir, part);
		path = cv_sprintf("%s/%s", s->root, part);
		if (!path)
			return cv_fail(l->err, ENOMEM, "sftp: out of memory");
		free(s->root);
		s->root = path;
		r = make_directory(l, path, options, &s->made_subdir);
		if (r < 0)
			return r;
	}
	return 0;
}

static int find_root(struct login *l, const struct cv_dict *options, const char *known_root,
		     struct sftp_session *s)
{
	const char *path = cv_options_str(options, "path", "");
	const char *subdir = cv_options_str(options, "subdir", NULL);
	uint64_t start;
	int r;

	l->limit->step = cv_step("finding the directory");
	if (known_root) {
		s->root = strdup(known_root);
		r = s->root ? 0 : cv_fail(l->err, ENOMEM, "sftp: out of memory");
	} else {
		r = resolve_root(l, *path ? path : ".", s);
		if (r == 0 && subdir)
			r = require_directory(l, s->root, &s->root_attrs);
		if (r == 0 && subdir)
			r = enter_subdir(l, subdir, options, s);
	}
	if (r == 0)
		r = require_entry(l, s->root);
	if (r < 0)
		return r;
	start = cv_now_ns();
	r = require_directory(l, s->root, &s->root_attrs);
	s->rtt_us = (uint32_t)((cv_now_ns() - start) / 1000);
	return r;
}

/*
 * SFTP never says as whom one is logged in. The login directory is the user's own, as a rule; where
 * it is root's, for a login in a jail, the volume's may be.
 */
static int find_login_ids(struct login *l, const struct cv_dict *options,
			  const struct sftp_session *s, uint32_t *ret_uid, uint32_t *ret_gid)
{
	const char *user = cv_options_str(options, "user", "root");
	struct cv_sftp_attrs home;
	int r = stat_path(l, ".", &home);

	if (r == EXCHANGE_FAILED)
		return l->err->code;
	if (r < 0 || (home.uid == 0 && strcmp(user, "root") != 0))
		home = s->root_attrs;
	if (!(home.flags & CV_FXA_UIDGID) || (home.uid == 0 && strcmp(user, "root") != 0))
		return cv_fail(l->err, EOPNOTSUPP,
			       "sftp: idmap=user: %s does not show which numeric id '%s' has; use "
			       "idmap=file with a line 'user ID 0'",
			       l->host, user);
	*ret_uid = home.uid;
	*ret_gid = home.gid;
	return 0;
}

void sftp_warn_of_late(const char *host, uint64_t pid, uint64_t waited_ms)
{
	cv_warning(
		"sftp: %s: process %llu of a connection that has ended is still there after %llu "
		"ms: what was under way is repeated as new",
		host, (unsigned long long)pid, (unsigned long long)waited_ms);
}

/* Drops those that have ended. */
static int keep_running(struct login *l, struct sftp_predecessors *p)
{
	unsigned count = 0;
	int r;

	for (unsigned i = 0; i < p->count; i++) {
		char path[SFTP_PROC_SIZE];

		(void)snprintf(path, sizeof(path), SFTP_PROC_PROGRAM,
			       (unsigned long long)p->pid[i]);
		put_path(l, CV_FXP_READLINK, path, NULL);
	}
	r = exchange(l);
	for (unsigned i = 0; r == 0 && i < p->count; i++) {
		if (status_of(l->answers[i].type, l->answers[i].in) != CV_FX_NO_SUCH_FILE)
			p->pid[count++] = p->pid[i];
	}
	p->count = count;
	return r;
}

/*
 * sshd ends with its connection, but the sftp-server it has started finishes what it is doing
 * first, and only then finds that nobody is there any more. Where one sees processes, one sees it
 * until then; a zombie has no program any more. Each channel of the connection had one of its own.
 */
static int await_end(struct login *l, const struct sftp_session *s,
		     const struct sftp_predecessors *before, bool *ret_settled)
{
	uint64_t until_ns = cv_now_ns() + before->wait_ms * 1000000ull;
	struct sftp_predecessors left = *before;
	int pause_ms = SFTP_AWAIT_MIN_MS;

	/* What told their numbers was OpenSSH; what does not work as it does is another server. */
	if (!left.count || !s->openssh)
		return 0;
	l->limit->step = cv_step("waiting for the server to finish what was under way");
	l->limit->deadline_ns += before->wait_ms * 1000000ull;
	for (;;) {
		int r = keep_running(l, &left);

		if (r < 0)
			return r;
		*ret_settled = left.count == 0;
		if (*ret_settled)
			return 0;
		if (cv_now_ns() >= until_ns) {
			sftp_warn_of_late(l->host, left.pid[0], before->wait_ms);
			return 0;
		}
		(void)usleep((useconds_t)pause_ms * 1000);
		pause_ms = pause_ms * 2 < SFTP_AWAIT_MAX_MS ? pause_ms * 2 : SFTP_AWAIT_MAX_MS;
	}
}

static int ask_names(struct login *l, struct sftp_ids *ids, struct sftp_question *q)
{
	size_t at = begin_extended(l, SFTP_EXT_NAMES);
	int r;

	cv_sftp_put_ids(&l->out, q->user, q->users);
	cv_sftp_put_ids(&l->out, q->group, q->groups);
	cv_sftp_end(&l->out, at, 0);
	r = exchange(l);
	if (r < 0)
		return r;
	if (l->type != CV_FXP_EXTENDED_REPLY || sftp_ids_learn(ids, q, l->in.p, l->in.left) < 0)
		return cv_fail(l->err, EOPNOTSUPP,
			       "sftp: %s does not tell names of users, though it offers to: use "
			       "idmap_file with numbers",
			       l->host);
	q->users = q->groups = 0;
	return 0;
}

/* ids may come up: their names will be needed, and may be the ones that rules have. */
static int want_names(struct login *l, struct sftp_ids *ids, struct sftp_question *q, uint32_t uid,
		      uint32_t gid)
{
	int r = 0;

	if (q->users == SFTP_ASK_MAX || q->groups == SFTP_ASK_MAX)
		r = ask_names(l, ids, q);
	sftp_question_add(q, ids, uid, gid);
	return r;
}

/* The way from a name to its id is a guess: whoever owns the user's home directory. */
static int want_home(struct login *l, struct sftp_ids *ids, struct sftp_question *q,
		     const char *name)
{
	cv_cleanup_free char *tilde = cv_sprintf("~%s", name);
	cv_cleanup_free char *path = NULL;
	struct cv_sftp_attrs home;
	int r;

	if (!tilde)
		return cv_fail(l->err, ENOMEM, "sftp: out of memory");
	r = ask_extended(l, SFTP_EXT_EXPAND_PATH, tilde);
	if (r < 0 || !take_path(l, &path))
		return r;
	r = stat_path(l, path, &home);
	if (r < 0 || !(home.flags & CV_FXA_UIDGID))
		return r == EXCHANGE_FAILED ? l->err->code : 0;
	return want_names(l, ids, q, home.uid, home.gid);
}

/*
 * Names that are likely to be needed, in as few questions as that takes: those of the numbers that
 * rules show (many are the same on both sides), of the first ordinary users, of the root's owner.
 * Then those of users that were not among them.
 */
static int find_names(struct login *l, const struct cv_dict *options, struct sftp_session *s)
{
	const char *kind = cv_options_str(options, "idmap", "");
	struct sftp_ids *ids = s->ids;
	struct sftp_question q = { 0 };
	unsigned homes = 0;
	int r;

	if (!ids->named)
		return 0;
	if (!(s->extensions & SFTP_EXT_NAMES))
		return cv_fail(
			l->err, EOPNOTSUPP,
			"sftp: idmap=%s: %s does not tell names of users (OpenSSH does, from "
			"9.1 on): use idmap=file with numbers",
			kind, l->host);
	r = want_names(l, ids, &q, s->root_attrs.uid, s->root_attrs.gid);
	for (size_t i = 0; r == 0 && i < SFTP_IDS_MAX; i++)
		r = want_names(l, ids, &q, i < ids->users.count ? ids->users.rule[i].shown : 0,
			       i < ids->groups.count ? ids->groups.rule[i].shown : 0);
	for (uint32_t id = FIRST_USER; r == 0 && id < FIRST_USER + LIKELY_USERS; id++)
		r = want_names(l, ids, &q, id, id);
	if (r == 0)
		r = ask_names(l, ids, &q);
	for (size_t i = 0; r == 0 && i < ids->users.count && homes < HOMES_MAX; i++) {
		const struct sftp_id_rule *rule = &ids->users.rule[i];

		if (rule->known || !(s->extensions & SFTP_EXT_EXPAND_PATH) ||
		    (rule->shown < FIRST_USER && !cv_str_eq(kind, "file")))
			continue;
		r = want_home(l, ids, &q, rule->name);
		homes++;
	}
	return r == 0 && (q.users || q.groups) ? ask_names(l, ids, &q) : r;
}

/* On the first login of an engine. */
static int find_ids(struct login *l, const struct cv_dict *options, struct sftp_session *s)
{
	uint32_t uid = 0;
	uint32_t gid = 0;
	int r = 0;

	if (cv_str_eq(cv_options_str(options, "idmap", NULL), "user"))
		r = find_login_ids(l, options, s, &uid, &gid);
	if (r == 0)
		r = sftp_ids_new(options, uid, gid, &s->ids, l->err);
	return r < 0 ? r : find_names(l, options, s);
}

int sftp_login(const struct cv_dict *options, const char *known_root,
	       const struct sftp_predecessors *before, struct cv_ssh_limit *limit,
	       struct sftp_session *ret_session, struct cv_err *err)
{
	struct sftp_session s = { 0 };
	struct login l = { .limit = limit,
			   .err = err,
			   .host = cv_options_str(options, "host", ""),
			   .parser = { .data_dest = no_data, .reply = on_reply, .user = &l } };
	int r = cv_ssh_open(options, limit, &s.ssh, err);

	if (r == 0) {
		l.ssh = s.ssh;
		cv_ssh_set_data(s.ssh, on_bytes, &l);
		r = say_version(&l, &s);
	}
	if (r == 0)
		r = ask_server(&l, &s);
	if (r == 0)
		r = find_root(&l, options, known_root, &s);
	if (r == 0 && !known_root)
		r = find_ids(&l, options, &s);
	if (r == 0)
		r = await_end(&l, &s, before, &s.settled);
	if (s.ssh)
		cv_ssh_set_data(s.ssh, NULL, NULL);
	cv_sftp_parser_release(&l.parser);
	cv_sftp_out_release(&l.out);
	forget_answers(&l);
	if (r < 0) {
		sftp_session_release(&s);
		return r;
	}
	*ret_session = s;
	return 0;
}
