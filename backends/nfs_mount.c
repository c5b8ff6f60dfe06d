/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From options to a root handle: MOUNT protocol, then the way down to the directory wanted, then
 * what the server can do. All of it blocks, under one deadline, and says what went wrong in words.
 */
#include "backends/nfs_mount.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/step.h"
#include "config/str.h"

#define BROKEN_MAX     5    /* connections that end while calls are sent again */
#define MARK_NS_MAX    1000 /* coarser times are too few to tell creations apart */
#define PATH_MAX_MOUNT CV_NFS_PATH_MAX
#define TIMEOUT_MS     15000
#define MOUNT_MS       20000
#define LISTED_MAX     CV_NFS_LISTED_MAX
#define RETRY_MS       CV_NFS_RETRY_MS
#define AUTH_NONE      0
#define AUTH_SYS       1
#define RTT_SAMPLES    3
#define RTT_LONG_US    2000 /* one of this length is measured well enough, and takes its time */
/* Half a MiB keeps what is on its way in the processors' caches, and servers answer it with less
 * effort than twice of it. Far away, as much as on fast lines is under way in a round trip. */
#define READAHEAD_NEAR (512u << 10)
#define READAHEAD_FAR  (16u << 20)

uint64_t cv_nfs_left_ns(const struct cv_nfs_mount *m)
{
	uint64_t now = cv_now_ns();

	return now < m->deadline_ns ? m->deadline_ns - now : 0;
}

/* "/a//b/" → "/a/b"; false: too long, or not absolute. */
static bool normalise(char *dst, size_t size, const char *path)
{
	size_t n = 0;

	if (*path != '/')
		return false;
	while (*path) {
		size_t len;

		while (*path == '/')
			path++;
		len = strcspn(path, "/");
		if (len == 0)
			break;
		if (n + 1 + len >= size)
			return false;
		dst[n++] = '/';
		memcpy(dst + n, path, len);
		n += len;
		path += len;
	}
	if (n == 0)
		dst[n++] = '/';
	dst[n] = '\0';
	return true;
}

/* ---- options ---- */

static int read_options(struct cv_nfs_mount *m)
{
	const struct cv_dict *o = m->options;
	struct cv_nfs *nfs = m->nfs;
	const char *path = cv_options_str(o, "path", NULL);

	m->host = cv_options_str(o, "host", NULL);
	if (!m->host || !path)
		return cv_fail(m->err, EINVAL,
			       "nfs: host and export are needed: source=nfs://host/export");
	if (strlen(m->host) >= sizeof(((struct cv_rpc_config *)0)->host))
		return cv_fail(m->err, ENAMETOOLONG, "nfs: the host name is too long");
	if (!normalise(m->path, sizeof(m->path), path))
		return cv_fail(m->err, EINVAL,
			       "nfs: the export '%s' must be an absolute path of at most %d bytes",
			       path, PATH_MAX_MOUNT);
	m->port = (uint16_t)cv_options_uint(o, "port", 0);
	m->mountport = (uint16_t)cv_options_uint(o, "mountport", 0);
	nfs->soft = cv_str_eq(cv_options_str(o, "recovery", "hard"), "soft");
	nfs->timeout_ms = cv_options_ms(o, "timeout", TIMEOUT_MS);
	if (nfs->timeout_ms < 1000)
		nfs->timeout_ms = 1000; /* shorter than a busy server needs */
	nfs->set_uid = cv_dict_get(o, "uid") != NULL;
	nfs->uid = (uint32_t)cv_options_uint(o, "uid", 0);
	nfs->set_gid = cv_dict_get(o, "gid") != NULL;
	nfs->gid = (uint32_t)cv_options_uint(o, "gid", 0);
	nfs->chown_ignore = cv_str_eq(cv_options_str(o, "chown", "strict"), "ignore");
	m->cred = (struct cv_cred){ .uid = nfs->set_uid ? nfs->uid : geteuid(),
				    .gid = nfs->set_gid ? nfs->gid : getegid() };
	m->deadline_ns =
		cv_now_ns() + cv_options_ms(o, "mount_timeout", MOUNT_MS) * UINT64_C(1000000);
	return 0;
}

static void rpc_config(const struct cv_nfs_mount *m, struct cv_rpc_config *c, uint32_t program,
		       uint32_t version, uint16_t port)
{
	memset(c, 0, sizeof(*c));
	(void)cv_strcpy(c->host, sizeof(c->host), m->host);
	c->port = port;
	c->program = program;
	c->version = version;
	c->soft = m->nfs->soft;
	c->timeout_ms = m->nfs->timeout_ms;
}

/* ---- MOUNT ---- */

/* A connection to mountd. port 0: the portmapper knows where it is. */
static int dial_mountd(struct cv_nfs_mount *m, uint16_t port, int *ret_fd)
{
	struct cv_rpc_config c;
	int fd;

	rpc_config(m, &c, CV_MOUNT_PROGRAM, CV_MOUNT_VERSION, port);
	fd = cv_rpc_dial(&c, 0, m->deadline_ns, NULL, m->err);
	if (fd < 0)
		return cv_fail_context(m->err, "nfs: mount service");
	*ret_fd = fd;
	return 0;
}

/* The results of MNT. Returns mountstat3 or -errno with err set. */
static int get_mnt(struct cv_nfs_mount *m, const char *path, struct cv_xdr *x,
		   struct cv_handle *ret_root)
{
	uint32_t status = cv_xdr_u32(x), flavours;
	bool usable;

	if (!x->bad && status != 0)
		return (int)(status & 0x7fffffff);
	cv_nfs_get_handle(x, ret_root);
	flavours = cv_xdr_u32(x);
	usable = flavours == 0;
	for (uint32_t i = 0; i < flavours && !x->bad; i++) {
		uint32_t flavour = cv_xdr_u32(x);

		usable = usable || flavour == AUTH_SYS || flavour == AUTH_NONE;
	}
	if (x->bad)
		return cv_fail(m->err, EIO, "nfs: mounting %s from %s: malformed reply", path,
			       m->host);
	if (!usable)
		return cv_fail(m->err, EACCES,
			       "nfs: mounting %s from %s: the server wants Kerberos; only sec=sys "
			       "is supported: allow it on the server for this export",
			       path, m->host);
	return 0;
}

static int mnt_at(struct cv_nfs_mount *m, uint16_t port, const char *path,
		  struct cv_handle *ret_root)
{
	cv_cleanup_close int fd = -1;
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs_args a;
	struct cv_xdr x;
	size_t size;
	int r = dial_mountd(m, port, &fd);

	if (r < 0)
		return r;
	(void)cv_step("asking for the export");
	cv_nfs_put_path(&a, path);
	r = cv_rpc_call_blocking(fd, CV_MOUNT_PROGRAM, CV_MOUNT_VERSION, CV_MOUNT_MNT, &m->cred,
				 a.bytes, a.size, m->deadline_ns, &reply, &size);
	if (r < 0)
		return cv_fail(
			m->err, r, "nfs: mounting %s from %s: the mount service: %s%s", path,
			m->host, cv_nfs_why(r),
			r == -EPROTONOSUPPORT
				? "; it does not speak MOUNT version 3 at this port: give "
				  "mountport=, or enable NFSv3 on the server, or use version=4"
			: r == -EBADMSG
				? "; some other server listens at this port: check port= and "
				  "mountport="
				: "");
	x = cv_xdr_init(reply, size);
	return get_mnt(m, path, &x, ret_root);
}

/*
 * With port= and no mountport=, that port is asked first: where the server was told apart by its
 * port (a tunnel, a second server on the host) the host's portmapper would name another one's
 * mountd. Servers that have it elsewhere say so at once, and the portmapper is asked after all.
 * Returns mountstat3 or -errno with err set.
 */
static int mnt(struct cv_nfs_mount *m, const char *path, struct cv_handle *ret_root)
{
	uint64_t whole = m->deadline_ns;
	struct cv_err first;
	int r;

	if (m->mountport || !m->port)
		return mnt_at(m, m->mountport, path, ret_root);
	m->deadline_ns = cv_now_ns() + cv_nfs_left_ns(m) / 2;
	r = mnt_at(m, m->port, path, ret_root);
	m->deadline_ns = whole;
	if (r >= 0) {
		m->mountport = m->port;
		return r;
	}
	if (r == -EHOSTUNREACH || r == -EACCES)
		return r;
	first = *m->err;
	r = mnt_at(m, 0, path, ret_root);
	if (r < 0 && first.code != -EPROTONOSUPPORT)
		*m->err = first; /* about the port that was given */
	return r < 0 ? m->err->code : r;
}

/* True when path is dir or below it. */
static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	if (n == 1)
		return true;
	return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* As many names as fit, then "...". */
void cv_nfs_add_listed(char *list, size_t size, const char *name)
{
	size_t n = strlen(list), tail = strlen(", ...");

	if (n >= tail && cv_str_eq(list + n - tail, ", ..."))
		return;
	if (n + 2 + strlen(name) + tail >= size)
		name = "...";
	if (n)
		(void)cv_strcpy(list + n, size - n, ", ");
	n = strlen(list);
	(void)cv_strcpy(list + n, size - n, name);
}

/*
 * EXPORT: the longest export that path lies in (in best, "" if none) and all of them as text.
 * Servers may keep the list to themselves: then both are empty.
 */
static void list_exports(struct cv_nfs_mount *m, char best[PATH_MAX_MOUNT + 1], char *list,
			 size_t list_size)
{
	cv_cleanup_close int fd = -1;
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_err ignored;
	struct cv_rpc_config c;
	struct cv_xdr x;
	size_t size;

	best[0] = list[0] = '\0';
	rpc_config(m, &c, CV_MOUNT_PROGRAM, CV_MOUNT_VERSION, m->mountport);
	fd = cv_rpc_dial(&c, 0, m->deadline_ns, NULL, &ignored);
	if (fd < 0 || cv_rpc_call_blocking(fd, CV_MOUNT_PROGRAM, CV_MOUNT_VERSION, CV_MOUNT_EXPORT,
					   &m->cred, "", 0, m->deadline_ns, &reply, &size) < 0)
		return;
	x = cv_xdr_init(reply, size);
	while (cv_xdr_bool(&x)) {
		char raw[PATH_MAX_MOUNT + 1], name[PATH_MAX_MOUNT + 1];
		size_t n;
		const uint8_t *p = cv_xdr_opaque(&x, PATH_MAX_MOUNT, &n);

		while (cv_xdr_bool(&x)) /* groups */
			(void)cv_xdr_opaque(&x, 255, &size);
		if (!p || x.bad)
			return;
		memcpy(raw, p, n);
		raw[n] = '\0';
		if (!normalise(name, sizeof(name), raw))
			continue;
		cv_nfs_add_listed(list, list_size, name);
		if (is_below(m->path, name) && strlen(name) > strlen(best))
			(void)cv_strcpy(best, PATH_MAX_MOUNT + 1, name);
	}
}

static int mount_refused(struct cv_nfs_mount *m, int status, const char *list, bool exported)
{
	bool denied = status == EPERM || status == EACCES;
	char known[LISTED_MAX + 32] = "";

	if (*list)
		(void)snprintf(known, sizeof(known), "; its exports: %s", list);
	if (*list && !exported)
		return cv_fail(m->err, ENOENT,
			       "nfs: %s does not export '%s', nor a directory above it%s", m->host,
			       m->path, known);
	if (denied)
		return cv_fail(m->err, EACCES,
			       "nfs: mounting %s from %s: access denied by the server; it may not "
			       "export this path, not to this client's address, or only to "
			       "privileged ports (%s)%s",
			       m->path, m->host,
			       geteuid() == 0 ? "used here; check the export's client list"
					      : "run as root, or set 'insecure' on the server",
			       known);
	if (status == ENOENT)
		return cv_fail(m->err, ENOENT, "nfs: %s has no export or directory '%s'%s", m->host,
			       m->path, known);
	if (status == ENOTDIR)
		return cv_fail(m->err, ENOTDIR, "nfs: '%s' on %s is not a directory", m->path,
			       m->host);
	return cv_fail(m->err, EIO, "nfs: mounting %s from %s: the server refuses (status %d)%s",
		       m->path, m->host, status, known);
}

static int mount_root(struct cv_nfs_mount *m)
{
	char best[PATH_MAX_MOUNT + 1], list[LISTED_MAX];
	int status = mnt(m, m->path, &m->root), second;

	if (status <= 0)
		return status;
	cv_step_hush(true); /* only for the text of what has failed already */
	list_exports(m, best, list, sizeof(list));
	cv_step_hush(false);
	if (!*best || cv_str_eq(best, m->path))
		return mount_refused(m, status, list, *best != '\0');
	second = mnt(m, best, &m->root);
	if (second < 0)
		return second;
	if (second > 0)
		return mount_refused(m, second, list, true);
	(void)cv_strcpy(m->rest, sizeof(m->rest), m->path + (best[1] ? strlen(best) + 1 : 1));
	return 0;
}

/* ---- NFS ---- */

/* Returns 0 and *x after the status (in *ret_reply, the caller's), or -errno, err not set. */
static int call(struct cv_nfs_mount *m, uint32_t procedure, const struct cv_nfs_args *a,
		uint8_t **ret_reply, struct cv_xdr *x)
{
	for (;;) {
		const struct timespec pause = { .tv_nsec = RETRY_MS * 1000000L };
		uint32_t status;
		size_t size;
		int r;

		if (!a->size)
			return -ENAMETOOLONG;
		r = cv_rpc_call_blocking(m->fd, CV_NFS_PROGRAM, CV_NFS_VERSION, procedure, &m->cred,
					 a->bytes, a->size, m->deadline_ns, ret_reply, &size);
		if (r < 0)
			return r;
		*x = cv_xdr_init(*ret_reply, size);
		status = cv_xdr_u32(x);
		if (status != CV_NFS_JUKEBOX)
			return x->bad ? -EIO : cv_nfs_errno(status);
		free(cv_steal(ret_reply));
		if (cv_nfs_left_ns(m) < RETRY_MS * UINT64_C(1000000))
			return -ETIMEDOUT;
		(void)nanosleep(&pause, NULL);
	}
}

static int getattr(struct cv_nfs_mount *m, const struct cv_handle *h, struct cv_attr *ret)
{
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs_args a;
	struct cv_xdr x;
	int r;

	cv_nfs_put_handle(&a, h);
	r = call(m, CV_NFS_GETATTR, &a, &reply, &x);
	if (r < 0)
		return r;
	cv_nfs_get_attr(&x, ret);
	m->nfs->fsid = x.fsid; /* the last that is asked for is the mount's root */
	return x.bad ? -EIO : 0;
}

static int lookup(struct cv_nfs_mount *m, const struct cv_handle *dir, const char *name,
		  struct cv_handle *ret)
{
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs_args a;
	struct cv_handle h;
	struct cv_xdr x;
	int r;

	cv_nfs_put_name(&a, dir, name);
	r = call(m, CV_NFS_LOOKUP, &a, &reply, &x);
	if (r < 0)
		return r;
	cv_nfs_get_handle(&x, &h);
	if (x.bad)
		return -EIO;
	*ret = h;
	return 0;
}

static int make_dir(struct cv_nfs_mount *m, const struct cv_handle *dir, const char *name,
		    uint32_t mode)
{
	struct cv_setattr set = { .mask = CV_SET_MODE, .mode = mode & 07777 };
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs_args a;
	struct cv_xdr x;

	if (cv_options_owner(m->options, &set.uid, &set.gid))
		set.mask |= CV_SET_UID | CV_SET_GID;
	cv_nfs_put_mkdir(&a, dir, name, &set);
	return call(m, CV_NFS_MKDIR, &a, &reply, &x);
}

static const char *walk_hint(int r)
{
	if (r == -ENOENT)
		return "; create it on the server, or give it as subdir= to have it made";
	if (r != -EACCES && r != -EPERM)
		return "";
	return geteuid() == 0 ? "; the export may not be for this client's address, or squash root"
			      : "; the export may be for privileged ports only: run as root";
}

/* From m->root down. what: for the error. Missing directories are made when create is set. */
int cv_nfs_walk(struct cv_nfs_mount *m, const char *path, const char *what, bool create)
{
	uint32_t mode = (uint32_t)cv_options_uint(m->options, "mode", 0755);

	while (*path) {
		char name[CV_NAME_MAX + 1];
		struct cv_handle next;
		struct cv_attr attr;
		size_t n = strcspn(path, "/");
		int r;

		if (n > CV_NAME_MAX)
			return cv_fail(m->err, ENAMETOOLONG, "nfs: %s '%s': a name is too long",
				       what, path);
		memcpy(name, path, n);
		name[n] = '\0';
		path += n + strspn(path + n, "/");
		if (n == 0 || cv_str_eq(name, "."))
			continue;
		if (cv_str_eq(name, ".."))
			return cv_fail(m->err, EINVAL, "nfs: %s must not contain '..'", what);
		r = m->procs->lookup(m, &m->root, name, &next);
		m->made = false;
		if (r == -ENOENT && create) {
			r = m->procs->make_dir(m, &m->root, name, mode);
			m->made = r == 0;
			if (r == 0 || r == -EEXIST)
				r = m->procs->lookup(m, &m->root, name, &next);
			if (r < 0)
				return cv_fail(m->err, r, "nfs: creating %s '%s' on %s: %s%s", what,
					       name, m->host, cv_strerror(r),
					       r == -EACCES || r == -EPERM
						       ? "; if the export squashes root, create it "
							 "on the server or set no_root_squash"
						       : "");
		}
		if (r == 0)
			r = m->procs->getattr(m, &next, &attr);
		if (r == 0 && !S_ISDIR(attr.mode))
			r = -ENOTDIR;
		if (r < 0)
			return cv_fail(m->err, r, "nfs: %s: '%s' in '%s' on %s: %s%s", what, name,
				       m->path, m->host, cv_strerror(r), walk_hint(r));
		m->root = next;
	}
	return 0;
}

uint32_t cv_nfs_limit(uint32_t value, uint32_t low, uint32_t high)
{
	if (value < low)
		return low;
	return value > high ? high : value;
}

uint32_t cv_nfs_wanted_size(const struct cv_nfs_mount *m, const char *option, uint32_t server_max)
{
	uint64_t wanted = cv_options_uint(m->options, option, 0);

	return wanted && wanted < server_max ? (uint32_t)wanted : server_max;
}

/* The shortest of all is the line's; in the others the server had to think. */
static void note_rtt(struct cv_info *info, uint64_t start_ns)
{
	uint32_t us = (uint32_t)((cv_now_ns() - start_ns) / 1000);

	if (us < info->rtt_us)
		info->rtt_us = us;
}

static int fsinfo(struct cv_nfs_mount *m, struct cv_info *info)
{
	cv_cleanup_free uint8_t *reply = NULL;
	uint32_t rtmax, wtmax, dtpref, gran_s, gran_ns;
	struct cv_attr ignored;
	struct cv_nfs_args a;
	struct cv_xdr x;
	uint64_t start;
	int r;

	cv_nfs_put_handle(&a, &m->root);
	start = cv_now_ns();
	r = call(m, CV_NFS_FSINFO, &a, &reply, &x);
	if (r < 0)
		return cv_fail(m->err, r, "nfs: asking %s for its limits (FSINFO): %s", m->host,
			       cv_strerror(r));
	note_rtt(info, start);
	(void)cv_nfs_get_post_attr(&x, &ignored);
	rtmax = cv_xdr_u32(&x);
	(void)cv_xdr_take(&x, 8); /* rtpref, rtmult */
	wtmax = cv_xdr_u32(&x);
	(void)cv_xdr_take(&x, 8);
	dtpref = cv_xdr_u32(&x);
	(void)cv_xdr_u64(&x); /* maxfilesize */
	gran_s = cv_xdr_u32(&x);
	gran_ns = cv_xdr_u32(&x);
	if (x.bad)
		return cv_fail(m->err, EIO, "nfs: malformed FSINFO reply from %s", m->host);
	/* The options can only make less of it; 0 is no size, but asks for the server's own. */
	rtmax = cv_nfs_wanted_size(m, "rsize", rtmax);
	wtmax = cv_nfs_wanted_size(m, "wsize", wtmax);
	info->read_max = m->nfs->rsize = cv_nfs_limit(rtmax, 4096, CV_MAX_IO);
	info->write_max = m->nfs->wsize = cv_nfs_limit(wtmax, 4096, CV_MAX_IO);
	info->readdir_max = cv_nfs_limit(dtpref, 65536, CV_MAX_IO);
	info->time_gran_ns = gran_s || gran_ns > 1000000 ? 1000000000 : 1;
	m->nfs->mark_ns = gran_s || gran_ns > MARK_NS_MAX ? 0 : gran_ns ? gran_ns : 1;
	return 0;
}

/* Not all servers answer it; what it says matters little. */
static void pathconf_names(struct cv_nfs_mount *m)
{
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_attr ignored;
	struct cv_nfs_args a;
	struct cv_xdr x;

	m->nfs->name_max = CV_NAME_MAX;
	m->nfs->case_insensitive = true;
	cv_nfs_put_handle(&a, &m->root);
	if (call(m, CV_NFS_PATHCONF, &a, &reply, &x) == 0) {
		uint32_t name_max;

		(void)cv_nfs_get_post_attr(&x, &ignored);
		(void)cv_xdr_u32(&x); /* linkmax */
		name_max = cv_xdr_u32(&x);
		(void)cv_xdr_take(&x, 8); /* no_trunc, chown_restricted */
		m->nfs->case_insensitive = cv_xdr_bool(&x) || x.bad;
		if (!x.bad && name_max)
			m->nfs->name_max = cv_nfs_limit(name_max, 1, CV_NAME_MAX);
	}
}

const char *cv_nfs_why(int r)
{
	return r == -EBADMSG ? "the answer is not NFS" : cv_strerror(r);
}

const char *cv_nfs_call_hint(int r)
{
	if (r == -EACCES)
		return "; the server refuses our credentials: check sec= (sys) and 'secure' of the "
		       "export";
	if (r == -ETIMEDOUT || r == -ECONNRESET)
		return "; it takes the connection but does not answer: is an NFS server at this "
		       "port?";
	if (r == -EPROTONOSUPPORT)
		return "; this version of NFS is not offered at this port: enable it on the "
		       "server, "
		       "or choose another with version=";
	if (r == -EBADMSG)
		return "; some other server listens at this port: check port=";
	return "";
}

static int root_attributes(struct cv_nfs_mount *m, struct cv_info *info)
{
	info->rtt_us = UINT32_MAX;
	for (int i = 0; i < RTT_SAMPLES && (i == 0 || info->rtt_us < RTT_LONG_US); i++) {
		uint64_t start = cv_now_ns();
		int r = m->procs->getattr(m, &m->root, &info->root.attr);

		if (r < 0)
			return cv_fail(m->err, r,
				       "nfs: %s on %s: reading the root's attributes: %s%s",
				       m->path, m->host, cv_nfs_why(r), cv_nfs_call_hint(r));
		note_rtt(info, start);
	}
	if (!S_ISDIR(info->root.attr.mode))
		return cv_fail(m->err, ENOTDIR, "nfs: '%s' on %s is not a directory", m->path,
			       m->host);
	return 0;
}

/* ---- a predecessor's calls ---- */

/* Where those were sent from that are not answered; 0: there are none. */
static uint16_t replay_port(const struct cv_nfs_mount *m)
{
	for (size_t i = 0; m->replays && i < m->replays->count; i++) {
		if (cv_left_is_open(&m->replays->list[i]))
			return (uint16_t)m->replays->list[i].replay->port;
	}
	return 0;
}

/* JUKEBOX: it was not done. */
static bool took(struct cv_replay *replay, int status, const uint8_t *reply, size_t size)
{
	struct cv_xdr x = cv_xdr_init(reply, status == 0 ? size : 0);

	if (status == 0 && cv_xdr_u32(&x) != CV_NFS_JUKEBOX && !x.bad)
		cv_replay_keep_reply(replay, replay->id, reply, size);
	return true;
}

/*
 * Sends a predecessor's calls again and waits until the server is done with them, but not for ever:
 * it may hang in one of them. Then they are judged by what is found, as before.
 */
static int settle(struct cv_nfs_mount *m, uint16_t port)
{
	uint64_t start = cv_now_ns();
	unsigned *broken = m->replays ? m->replays->broken : NULL;
	int r;

	if (!m->replays || !m->procs->took)
		return 0;
	if (broken && *broken >= BROKEN_MAX) {
		cv_warning("%s ends each connection over which what was under way is sent again: "
			   "it is repeated as something new",
			   m->host);
		return 0;
	}
	if (port && m->procs->known_by_port && cv_rpc_source_port(m->fd) != port) {
		cv_warning("%s: source port %u cannot be had again: what was under way is repeated "
			   "as something new",
			   m->host, port);
		return 0;
	}
	r = cv_rpc_replay_blocking(m->fd, m->procs->known_by_port ? port : 0, m->replays,
				   m->nfs->timeout_ms * UINT64_C(1000000), m->procs->took);
	m->deadline_ns += cv_now_ns() - start;
	if (r < 0) {
		if (broken)
			++*broken;
		return cv_fail(m->err, r, "nfs: repeating what was under way on %s: %s", m->host,
			       cv_nfs_why(r));
	}
	if (r > 0)
		cv_warning("%s still works on %d operations that were under way: they are repeated "
			   "as new ones",
			   m->host, r);
	m->settled = r == 0;
	for (size_t i = 0; i < m->replays->count; i++)
		m->settled = m->settled && !m->replays->list[i].replay->too_long;
	return 0;
}

int cv_nfs_dial(struct cv_nfs_mount *m)
{
	uint16_t port = replay_port(m);

	rpc_config(m, &m->config, CV_NFS_PROGRAM, m->procs->version,
		   m->port ? m->port : m->procs->port);
	m->fd = cv_rpc_dial(&m->config, port, m->deadline_ns, &m->connected_port, m->err);
	if (m->fd < 0) {
		m->fd = -1;
		return cv_fail_context(m->err, "nfs");
	}
	return settle(m, port);
}

/* The directory at m->path. */
static int find_root(struct cv_nfs_mount *m)
{
	int r = mount_root(m);

	if (r == 0)
		r = cv_nfs_dial(m);
	if (r == 0)
		r = cv_nfs_walk(m, m->rest, "the path", false);
	return r;
}

static int limits(struct cv_nfs_mount *m, struct cv_info *info)
{
	int r = fsinfo(m, info);

	if (r == 0)
		pathconf_names(m);
	return r;
}

static const struct cv_nfs_mount_procs procs3 = {
	.name = "NFSv3",
	.version = CV_NFS_VERSION,
	.port = 0, /* the portmapper knows */
	.known_by_port = true,
	.took = took,
	.find_root = find_root,
	.getattr = getattr,
	.lookup = lookup,
	.make_dir = make_dir,
	.limits = limits,
};

/* ---- all of it ---- */

static int mount_version(struct cv_nfs_mount *m, const struct cv_nfs_mount_procs *procs,
			 struct cv_info *info)
{
	const char *subdir = cv_options_str(m->options, "subdir", "");
	int r;

	m->procs = procs;
	m->rest[0] = '\0';
	r = procs->find_root(m);
	if (r == 0) {
		(void)cv_step("finding the directory");
		r = cv_nfs_walk(m, subdir, "subdir", true);
	}
	info->made_subdir = m->made;
	if (r == 0)
		r = root_attributes(m, info);
	if (r == 0)
		r = procs->limits(m, info);
	if (r < 0)
		cv_close_fd(&m->fd);
	return r;
}

/* What failed is not about this version alone: another one would fail in the same way. */
static bool is_hopeless(int r)
{
	return r == -EHOSTUNREACH || r == -ENETUNREACH || r == -ETIMEDOUT || r == -ENOMEM;
}

/* version=4: NFSv4.1 where it is offered, else NFSv4.0. */
static int mount_v4(struct cv_nfs_mount *m, struct cv_info *info)
{
	int r = mount_version(m, &cv_nfs41_mount_procs, info);

	if (r != -EPROTONOSUPPORT)
		return r;
	(void)cv_step("no NFSv4.1: trying NFSv4.0");
	r = mount_version(m, &cv_nfs40_mount_procs, info);
	if (r == 0)
		cv_notice("%s: NFSv4.0, because the server does not offer NFSv4.1", m->host);
	return r;
}

/*
 * version=auto: NFSv3 where it is offered, NFSv4 where not. Measured side by side (docs/nfs.md)
 * small files cost the same, large reads more with NFSv4.1.
 */
static int mount_auto(struct cv_nfs_mount *m, struct cv_info *info)
{
	uint64_t whole = m->deadline_ns;
	struct cv_err *err = m->err, first;
	struct cv_err second = { 0 };
	int r;

	m->deadline_ns = cv_now_ns() + cv_nfs_left_ns(m) / 2;
	r = mount_version(m, &procs3, info);
	m->deadline_ns = whole;
	if (r == 0 || is_hopeless(r))
		return r;
	first = *err;
	m->err = &second;
	(void)cv_step("NFSv3 failed: trying NFSv4");
	r = mount_v4(m, info);
	m->err = err;
	if (r == 0)
		cv_notice("%s: %s, because NFSv3 is not to be had: %s", m->host, m->procs->name,
			  first.text);
	else
		*err = r == -EPROTONOSUPPORT || first.code != -EPROTONOSUPPORT ? first : second;
	return r == 0 ? 0 : err->code;
}

/* By what a predecessor has said (cv_info.resume): a name, and perhaps more. */
static const struct cv_nfs_mount_procs *procs_of(const char *resume)
{
	if (strncmp(resume, cv_nfs40_mount_procs.name, strlen(cv_nfs40_mount_procs.name)) == 0)
		return &cv_nfs40_mount_procs;
	return cv_str_eq(resume, procs3.name) ? &procs3 : &cv_nfs41_mount_procs;
}

/* version= and locks= together. */
static int mount_wanted(struct cv_nfs_mount *m, struct cv_info *info)
{
	const char *version = cv_options_str(m->options, "version", "auto");
	const char *resume = cv_dict_get(m->options, "resume");
	bool server_locks = cv_str_eq(cv_options_str(m->options, "locks", NULL), "server");
	bool any = cv_str_eq(version, "auto");

	/* Handles of one version mean nothing to the other. */
	if (resume)
		return mount_version(m, procs_of(resume), info);
	if (cv_str_eq(version, "4.1"))
		return mount_version(m, &cv_nfs41_mount_procs, info);
	if (cv_str_eq(version, "4.0"))
		return mount_version(m, &cv_nfs40_mount_procs, info);
	if (cv_str_eq(version, "4") || (any && server_locks))
		return mount_v4(m, info);
	if (any)
		return mount_auto(m, info);
	if (!cv_str_eq(version, "3"))
		return cv_fail(m->err, EPROTONOSUPPORT,
			       "nfs: version=%s: cvol speaks NFS 3, 4.0 and 4.1; use version=4, 3 "
			       "or auto",
			       version);
	if (server_locks)
		return cv_fail(m->err, EINVAL,
			       "nfs: locks=server needs version=4; with NFSv3 locks exclude the "
			       "users of this mount only (locks=local)");
	return mount_version(m, &procs3, info);
}

static int mount_all(struct cv_nfs_mount *m, struct cv_info *info)
{
	const char *locks = cv_options_str(m->options, "locks", "server");
	int r = mount_wanted(m, info);

	if (r < 0)
		return r;
	info->features = CV_FEAT_HANDLES | CV_FEAT_CALLER_CREDS | CV_FEAT_HARD_LINKS |
			 CV_FEAT_UNSTABLE_WRITES | CV_FEAT_WRITE_BEHIND;
	if (m->procs != &procs3 && cv_str_eq(locks, "server"))
		info->features |= CV_FEAT_LOCKS;
	if (m->nfs->v4)
		cv_nfs4_say_identity(m->nfs->v4, info->resume, sizeof(info->resume));
	else
		(void)cv_strcpy(info->resume, sizeof(info->resume), procs3.name);
	(void)snprintf(info->server, sizeof(info->server), "%.200s:%u (%s, %s locks)", m->host,
		       m->connected_port, m->procs->name,
		       info->features & CV_FEAT_LOCKS ? "server" : "local");
	info->readahead_near = READAHEAD_NEAR;
	info->readahead_far = READAHEAD_FAR;
	info->settled = m->settled;
	info->root.handle = m->root;
	cv_nfs_show(m->nfs, &info->root.attr);
	if (getrandom(&m->nfs->verifier, sizeof(m->nfs->verifier), 0) < 0)
		m->nfs->verifier = cv_now_ns();
	r = cv_rpc_new(m->nfs->loop, &m->config, m->fd, &m->nfs->rpc);
	if (r < 0)
		return cv_fail(m->err, r, "nfs: %s", cv_strerror(r));
	m->fd = -1; /* the transport's now */
	if (m->nfs->v4 && cv_nfs4_start_renewing(m->nfs->v4) < 0)
		return cv_fail(m->err, ENOMEM, "nfs: out of memory");
	return 0;
}

int cv_nfs_mount_export(const struct cv_dict *options, struct cv_nfs *nfs, struct cv_info *info,
			struct cv_err *err)
{
	struct cv_err spare = { 0 }; /* callers may not care */
	struct cv_nfs_mount m = {
		.options = options,
		.nfs = nfs,
		.err = err ? err : &spare,
		.fd = -1,
		.replays = info->replays,
	};
	int r = read_options(&m);

	if (r == 0)
		r = mount_all(&m, info);
	cv_close_fd(&m.fd);
	return r;
}
