/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounting NFSv4: one TCP port, no portmapper, no mount service. A client id and (4.1) a session,
 * then from the root of the server's pseudo file system down to the export.
 */
#include "backends/nfs_mount.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/step.h"
#include "config/str.h"

#define NFS_PORT       2049
#define LISTED_ENTRIES 64
#define LISTED_REPLY   16384
#define SETTLED_MS     50

/* ---- calls ---- */

/* A compound; in the session, where there is one, on its first slot: nobody else uses it yet. */
static void begin(const struct cv_nfs_mount *m, struct cv_nfs4_call *c)
{
	const struct cv_nfs4 *v4 = m->nfs->v4;
	struct cv_nfs4_seq seq = { .seq = v4->slots[0].seq };

	memcpy(seq.session, v4->session, sizeof(seq.session));
	cv_nfs4_begin(c, v4->minor, v4->minor ? &seq : NULL);
}

/* One transmission. *ret_status: nfsstat4. */
static int call_once(struct cv_nfs_mount *m, const struct cv_nfs4_call *c, uint8_t **ret_reply,
		     struct cv_xdr *x, uint32_t *ret_status)
{
	size_t size;
	int r = cv_rpc_call_blocking(m->fd, CV_NFS_PROGRAM, CV_NFS4_VERSION, CV_NFS4_COMPOUND,
				     &m->cred, c->a.bytes, c->a.size, m->deadline_ns, ret_reply,
				     &size);

	if (r < 0)
		return r;
	*x = cv_xdr_init(*ret_reply, size);
	*ret_status = cv_nfs4_get_compound(x, NULL);
	return x->bad ? -EIO : 0;
}

/* False: no time is left. */
static bool pause_a_little(const struct cv_nfs_mount *m)
{
	const struct timespec pause = { .tv_nsec = CV_NFS_RETRY_MS * 1000000L };

	if (cv_nfs_left_ns(m) < CV_NFS_RETRY_MS * UINT64_C(1000000))
		return false;
	(void)nanosleep(&pause, NULL);
	return true;
}

/* Outside of a session: how one begins. Returns 0, or -errno of either kind. */
static int call_bare(struct cv_nfs_mount *m, struct cv_nfs4_call *c, uint8_t **ret_reply,
		     struct cv_xdr *x)
{
	cv_nfs4_end(c);
	for (;;) {
		uint32_t status = 0;
		int r = call_once(m, c, ret_reply, x, &status);

		if (r < 0 || status != CV_NFS4ERR_DELAY)
			return r < 0 ? r : cv_nfs4_errno(status);
		free(cv_steal(ret_reply));
		if (!pause_a_little(m))
			return -ETIMEDOUT;
	}
}

/* Returns 0 and *x after SEQUENCE's result, or -errno. */
static int call(struct cv_nfs_mount *m, struct cv_nfs4_call *c, uint8_t **ret_reply,
		struct cv_xdr *x)
{
	struct cv_nfs4_slot *slot = &m->nfs->v4->slots[0];
	bool session = m->nfs->v4->minor > 0;

	cv_nfs4_end(c);
	if (!c->a.size)
		return -ENAMETOOLONG;
	for (;;) {
		struct cv_nfs4_seq_reply seq;
		uint32_t status = 0;
		int r;

		if (session)
			cv_nfs4_renumber(c, slot->seq);
		r = call_once(m, c, ret_reply, x, &status);
		if (r < 0)
			return r;
		if (session && cv_nfs4_get_op(x, CV_NFS4_SEQUENCE) == CV_NFS4_OK) {
			cv_nfs4_get_sequence(x, &seq);
			slot->seq++;
		}
		if (x->bad)
			return status ? cv_nfs4_errno(status) : -EIO;
		if (status != CV_NFS4ERR_DELAY && status != CV_NFS4ERR_GRACE)
			return cv_nfs4_errno(status);
		free(cv_steal(ret_reply));
		if (!pause_a_little(m))
			return -ETIMEDOUT;
	}
}

/* ---- client and session ---- */

static int exchange_id(struct cv_nfs_mount *m, struct cv_nfs4_client *ret)
{
	struct cv_nfs4 *v4 = m->nfs->v4;
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs4_call c;
	struct cv_xdr x;
	int r;

	cv_nfs4_begin(&c, 1, NULL);
	cv_nfs4_put_exchange_id(&c, &v4->verifier, v4->client);
	r = call_bare(m, &c, &reply, &x);
	if (r == 0 && !cv_nfs4_get_exchange_id(&x, ret))
		r = -EIO;
	return r;
}

static int create_session(struct cv_nfs_mount *m, const struct cv_nfs4_client *client)
{
	const struct cv_nfs4_channel wanted = cv_nfs4_wanted_channel();
	struct cv_nfs4 *v4 = m->nfs->v4;
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs4_call c;
	struct cv_xdr x;
	int r;

	v4->clientid = client->id;
	cv_nfs4_begin(&c, 1, NULL);
	cv_nfs4_put_create_session(&c, client->id, client->seq, &wanted);
	r = call_bare(m, &c, &reply, &x);
	if (r == 0 && !cv_nfs4_get_create_session(&x, v4->session, &v4->channel))
		r = -EIO;
	if (r == 0)
		cv_nfs4_reset_slots(v4);
	return r;
}

/* There is nothing to claim; servers wait for this before they give new state. */
static int reclaim_complete(struct cv_nfs_mount *m)
{
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs4_call c;
	struct cv_xdr x;

	begin(m, &c);
	cv_nfs4_put_reclaim_complete(&c);
	return call(m, &c, &reply, &x);
}

static int start_session(struct cv_nfs_mount *m)
{
	struct cv_nfs4_client client = { 0 };
	const char *step = "introducing ourselves (EXCHANGE_ID)";
	int r = exchange_id(m, &client);

	if (r == 0) {
		step = "starting a session (CREATE_SESSION)";
		r = create_session(m, &client);
	}
	if (r == 0) {
		step = "starting a session (RECLAIM_COMPLETE)";
		r = reclaim_complete(m);
	}
	if (r < 0)
		return cv_fail(m->err, r, "nfs: NFSv4.1 on %s: %s: %s%s", m->host, step,
			       cv_nfs_why(r), cv_nfs_call_hint(r));
	return 0;
}

/*
 * NFSv4.0. A predecessor's state goes when its successor introduces itself. What it had sent is
 * given the time to be done before; Ganesha 4.3 aborts when a client goes amid a request of its.
 */
static int start_client(struct cv_nfs_mount *m)
{
	const struct timespec settled = { .tv_nsec = SETTLED_MS * 1000000L };
	struct cv_nfs4 *v4 = m->nfs->v4;
	cv_cleanup_free uint8_t *reply = NULL;
	const char *step = "SETCLIENTID";
	struct cv_nfs4_call c;
	struct cv_xdr x;
	int r;

	if (cv_dict_get(m->options, "resume"))
		(void)nanosleep(&settled, NULL);
	cv_nfs4_begin(&c, 0, NULL);
	cv_nfs4_put_setclientid(&c, &v4->verifier, v4->client);
	r = call_bare(m, &c, &reply, &x);
	if (r == 0 && !cv_nfs4_get_setclientid(&x, &v4->clientid, v4->confirm))
		r = -EIO;
	if (r == 0) {
		step = "SETCLIENTID_CONFIRM";
		free(cv_steal(&reply));
		cv_nfs4_begin(&c, 0, NULL);
		cv_nfs4_put_setclientid_confirm(&c, v4->clientid, v4->confirm);
		r = call_bare(m, &c, &reply, &x);
	}
	if (r < 0)
		return cv_fail(m->err, r, "nfs: NFSv4.0 on %s: introducing ourselves (%s): %s%s",
			       m->host, step, cv_nfs_why(r), cv_nfs_call_hint(r));
	v4->channel = cv_nfs4_wanted_channel(); /* nothing is agreed upon */
	return 0;
}

/* ---- objects ---- */

static int get_root(struct cv_nfs_mount *m)
{
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs4_call c;
	struct cv_xdr x;
	int r;

	begin(m, &c);
	cv_nfs4_put_op(&c, CV_NFS4_PUTROOTFH);
	cv_nfs4_put_op(&c, CV_NFS4_GETFH);
	r = call(m, &c, &reply, &x);
	if (r == 0 && !(cv_nfs4_skip(&x, CV_NFS4_PUTROOTFH) && cv_nfs4_get_fh(&x, &m->root)))
		r = -EIO;
	return r;
}

static int getattr(struct cv_nfs_mount *m, const struct cv_handle *h, struct cv_attr *ret)
{
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs4_call c;
	struct cv_xdr x;
	int r;

	/* Inode numbers are told apart by the file system they are from: the mount's root decides.
	 */
	m->nfs->v4->names.have_fsid = false;
	begin(m, &c);
	cv_nfs4_put_fh(&c, h);
	cv_nfs4_put_getattr(&c);
	r = call(m, &c, &reply, &x);
	if (r == 0 &&
	    !(cv_nfs4_skip(&x, CV_NFS4_PUTFH) && cv_nfs4_get_attr(&x, &m->nfs->v4->names, ret)))
		r = -EIO;
	return r;
}

static int lookup(struct cv_nfs_mount *m, const struct cv_handle *dir, const char *name,
		  struct cv_handle *ret)
{
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs4_call c;
	struct cv_handle h;
	struct cv_xdr x;
	int r;

	begin(m, &c);
	cv_nfs4_put_fh(&c, dir);
	cv_nfs4_put_lookup(&c, name);
	cv_nfs4_put_op(&c, CV_NFS4_GETFH);
	r = call(m, &c, &reply, &x);
	if (r < 0)
		return r;
	if (!(cv_nfs4_skip(&x, CV_NFS4_PUTFH) && cv_nfs4_skip(&x, CV_NFS4_LOOKUP) &&
	      cv_nfs4_get_fh(&x, &h)))
		return -EIO;
	*ret = h;
	return 0;
}

static int make_dir(struct cv_nfs_mount *m, const struct cv_handle *dir, const char *name,
		    uint32_t mode)
{
	struct cv_setattr set = { .mask = CV_SET_UID | CV_SET_GID };
	cv_cleanup_free uint8_t *reply = NULL;
	char owner[16], group[16];
	struct cv_nfs4_call c;
	struct cv_xdr x;

	begin(m, &c);
	cv_nfs4_put_fh(&c, dir);
	cv_nfs4_put_create(&c, name, S_IFDIR | (mode & 07777), 0, NULL);
	if (cv_options_owner(m->options, &set.uid, &set.gid)) {
		/* With AUTH_SYS, numbers are taken for what they are (RFC 8881, 5.9). */
		(void)snprintf(owner, sizeof(owner), "%" PRIu32, set.uid);
		(void)snprintf(group, sizeof(group), "%" PRIu32, set.gid);
		cv_nfs4_put_setattr(&c, &cv_nfs4_anonymous, &set, owner, group);
	}
	return call(m, &c, &reply, &x);
}

/* The names in m->root, for people; "" if there are none. */
static void list_names(struct cv_nfs_mount *m, char *list, size_t list_size)
{
	static const uint8_t verf[CV_NFS_VERF_SIZE];
	cv_cleanup_free struct cv_dirent *entries = malloc(LISTED_ENTRIES * sizeof(*entries));
	cv_cleanup_free char *text = malloc(LISTED_REPLY);
	struct cv_nfs_entries e = {
		.list = entries,
		.max = LISTED_ENTRIES,
		.names = text,
		.names_size = LISTED_REPLY,
	};
	cv_cleanup_free uint8_t *reply = NULL;
	uint8_t ignored[CV_NFS_VERF_SIZE];
	struct cv_nfs4_call c;
	struct cv_xdr x;

	list[0] = '\0';
	begin(m, &c);
	cv_nfs4_put_fh(&c, &m->root);
	cv_nfs4_put_readdir(&c, 0, verf, LISTED_REPLY);
	if (!entries || !text || call(m, &c, &reply, &x) < 0)
		return;
	if (cv_nfs4_skip(&x, CV_NFS4_PUTFH) && cv_nfs4_skip(&x, CV_NFS4_READDIR))
		cv_nfs4_get_entries(&x, &m->nfs->v4->names, &e, ignored);
	for (size_t i = 0; i < e.count && !x.bad; i++)
		cv_nfs_add_listed(list, list_size, entries[i].name);
}

static int find_root(struct cv_nfs_mount *m)
{
	char list[CV_NFS_LISTED_MAX];
	int r;

	if (!m->nfs->v4)
		m->nfs->v4 = cv_nfs4_new(m->nfs, cv_dict_get(m->options, "resume"));
	if (!m->nfs->v4)
		return cv_fail(m->err, ENOMEM, "nfs: out of memory");
	m->nfs->v4->minor = m->procs->minor;
	r = cv_nfs_dial(m);
	if (r == 0) {
		(void)cv_step("starting an NFSv4 session");
		r = m->procs->minor ? start_session(m) : start_client(m);
	}
	if (r < 0)
		return r;
	(void)cv_step("asking for the export");
	r = get_root(m);
	if (r < 0)
		return cv_fail(m->err, r, "nfs: the root of %s: %s%s", m->host, cv_strerror(r),
			       cv_nfs_call_hint(r));
	r = cv_nfs_walk(m, m->path, "the export", false);
	if (r != -ENOENT)
		return r;
	list_names(m, list, sizeof(list));
	return cv_fail(
		m->err, r,
		"nfs: %s has no '%s' in %s, where paths begin at the server's pseudo root%s%s",
		m->host, m->path, m->procs->name, *list ? "; there is: " : "", list);
}

static int limits(struct cv_nfs_mount *m, struct cv_info *info)
{
	struct cv_nfs4 *v4 = m->nfs->v4;
	const struct cv_nfs4_channel *ch = &v4->channel;
	cv_cleanup_free uint8_t *reply = NULL;
	struct cv_nfs4_limits l;
	struct cv_nfs4_call c;
	uint32_t read_max, write_max;
	struct cv_xdr x;
	int r;

	begin(m, &c);
	cv_nfs4_put_fh(&c, &m->root);
	cv_nfs4_put_getlimits(&c);
	r = call(m, &c, &reply, &x);
	if (r == 0 && !(cv_nfs4_skip(&x, CV_NFS4_PUTFH) && cv_nfs4_get_limits(&x, &l)))
		r = -EIO;
	if (r < 0)
		return cv_fail(m->err, r, "nfs: asking %s for its limits: %s", m->host,
			       cv_strerror(r));
	v4->lease_ms = (l.lease_s ? l.lease_s : 90) * 1000;
	m->nfs->name_max = cv_nfs_limit(l.name_max ? l.name_max : CV_NAME_MAX, 1, CV_NAME_MAX);
	m->nfs->case_insensitive = l.case_insensitive;
	/* A message must fit into the session's, too. */
	read_max = ch->max_response > CV_NFS4_OVERHEAD ? ch->max_response - CV_NFS4_OVERHEAD : 0;
	write_max = ch->max_request > CV_NFS4_OVERHEAD ? ch->max_request - CV_NFS4_OVERHEAD : 0;
	if (l.read_max && l.read_max < read_max)
		read_max = l.read_max;
	if (l.write_max && l.write_max < write_max)
		write_max = l.write_max;
	read_max = cv_nfs_wanted_size(m, "rsize", read_max);
	write_max = cv_nfs_wanted_size(m, "wsize", write_max);
	info->read_max = m->nfs->rsize = cv_nfs_limit(read_max, 4096, CV_MAX_IO);
	info->write_max = m->nfs->wsize = cv_nfs_limit(write_max, 4096, CV_MAX_IO);
	info->readdir_max = 65536;
	info->time_gran_ns =
		l.granularity.tv_sec || l.granularity.tv_nsec > 1000000 ? 1000000000 : 1;
	return 0;
}

/*
 * The answer to a predecessor's compound, repeated in its own session, slot and number. Whatever
 * SEQUENCE refuses it for will not be carried out, but for DELAY, which says that it is just being.
 */
static bool took(struct cv_replay *replay, int status, const uint8_t *reply, size_t size)
{
	struct cv_xdr x = cv_xdr_init(reply, status == 0 ? size : 0);
	uint32_t compound = cv_nfs4_get_compound(&x, NULL);
	uint32_t sequence = cv_nfs4_get_op(&x, CV_NFS4_SEQUENCE);

	if (!x.bad && sequence == CV_NFS4ERR_DELAY)
		return false;
	if (!x.bad && sequence == CV_NFS4_OK && cv_nfs4_is_final(compound))
		cv_replay_keep_reply(replay, replay->id, reply, size);
	return true;
}

#define PROCS                                                                                      \
	.version = CV_NFS4_VERSION, .port = NFS_PORT, .find_root = find_root, .getattr = getattr,  \
	.lookup = lookup, .make_dir = make_dir, .limits = limits
const struct cv_nfs_mount_procs cv_nfs40_mount_procs = { .name = "NFSv4.0", .minor = 0, PROCS };
const struct cv_nfs_mount_procs cv_nfs41_mount_procs = {
	.name = "NFSv4.1",
	.minor = 1,
	.took = took,
	PROCS,
};
