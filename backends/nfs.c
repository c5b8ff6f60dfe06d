/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/nfs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/nfs4.h"
#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"

#define SPARE_MAX      256
#define JUKEBOX_MIN_MS 100
#define JUKEBOX_MAX_MS 5000
#define NANO_PER_MS    1000000ull

/* ---- requests ---- */

static void delay_fire(struct cv_timer *timer)
{
	struct cv_nfs_req *q = cv_container_of(timer, struct cv_nfs_req, delay);

	q->send(q);
}

struct cv_nfs_req *cv_nfs_req_new(void *conn, struct cv_op *op)
{
	struct cv_nfs *nfs = conn;
	struct cv_nfs_req *q = nfs->spare;

	if (q) {
		nfs->spare = q->next;
		nfs->nspare--;
	} else {
		q = malloc(sizeof(*q));
		if (!q) {
			op->done(op, -ENOMEM);
			return NULL;
		}
	}
	/* Not the handles and names: large, and written before they are read. */
	memset(&q->call, 0, sizeof(q->call));
	q->nfs = nfs;
	q->op = op;
	q->then = NULL;
	q->resent_before = false;
	q->again = false;
	q->tries = 0;
	q->delay = (struct cv_timer)CV_TIMER_INIT(delay_fire);
	q->delay_ms = 0;
	q->started_ns = cv_loop_now_ns(nfs->loop);
	q->set.mask = 0;
	q->data_dir = NULL;
	q->target = NULL;
	q->done_bytes = 0;
	q->buf = NULL;
	q->seen_change = 0;
	q->first_size = 0;
	q->first = NULL;
	memset(&q->v4, 0, sizeof(q->v4));
	q->v4.slot = -1;
	return q;
}

static void req_free(struct cv_nfs_req *q)
{
	struct cv_nfs *nfs = q->nfs;

	if (q->v4.slot >= 0)
		cv_nfs4_drop_slot(q); /* given up while it held one */
	if (q->v4.lock)
		cv_nfs4_lock_leave(q);
	if (q->first_size)
		nfs->ahead.watched--;
	cv_nfs_first_forget(q);
	free(q->target);
	free(q->buf);
	cv_nfs4_open_free(nfs->v4, q->v4.made);
	if (nfs->nspare < SPARE_MAX) {
		q->next = nfs->spare;
		nfs->spare = q;
		nfs->nspare++;
	} else {
		free(q);
	}
}

void cv_nfs_seen(struct cv_nfs *nfs, const struct cv_handle *handle, const struct cv_attr *attr)
{
	if (S_ISDIR(attr->mode))
		cv_nfs_ahead_seen(nfs, handle, attr);
	else
		cv_nfs_first_seen(nfs, handle, attr);
}

static void tell(struct cv_nfs_req *q, const struct cv_handle *handle, const struct cv_attr *attr)
{
	cv_nfs_seen(q->nfs, handle, attr);
	if (cv_change(attr) != q->seen_change)
		cv_nfs_ahead_told(q->nfs, handle);
}

void cv_nfs_finish(struct cv_nfs_req *q, ssize_t result)
{
	struct cv_op *op = q->op;

	cv_nfs_ahead_changing(q);
	if (result == 0 && op->call == CV_CALL_LOOKUP)
		tell(q, &op->entry.handle, &op->entry.attr);
	else if (result == 0 && (op->call == CV_CALL_GETATTR || op->call == CV_CALL_OPEN))
		tell(q, &q->obj, &op->attr);
	op->done(op, result); /* first: what it points to may be ours */
	req_free(q);
}

void cv_nfs_finish_attr(struct cv_nfs_req *q, const struct cv_attr *attr)
{
	q->op->attr = *attr;
	q->op->have_attr = true;
	cv_nfs_finish(q, 0);
}

void cv_nfs_show(const struct cv_nfs *nfs, struct cv_attr *attr)
{
	if (nfs->set_uid)
		attr->uid = nfs->uid;
	if (nfs->set_gid)
		attr->gid = nfs->gid;
}

bool cv_nfs_set_name(struct cv_nfs_req *q, char dst[CV_NAME_MAX + 1], const char *name)
{
	if (cv_strcpy(dst, CV_NAME_MAX + 1, name))
		return true;
	cv_nfs_finish(q, -ENAMETOOLONG);
	return false;
}

bool cv_nfs_same_handle(const struct cv_handle *a, const struct cv_handle *b)
{
	return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

struct cv_nfs_req *cv_nfs_on_object(void *conn, struct cv_op *op, const struct cv_object *obj)
{
	struct cv_nfs_req *q = cv_nfs_req_new(conn, op);

	if (!q)
		return NULL;
	q->obj = *obj->handle;
	q->seen_change = obj->seen_change;
	return q;
}

struct cv_nfs_req *cv_nfs_on_name(void *conn, struct cv_op *op, const struct cv_object *dir,
				  const char *name)
{
	struct cv_nfs_req *q = cv_nfs_req_new(conn, op);

	if (!q)
		return NULL;
	q->dir = *dir->handle;
	return cv_nfs_set_name(q, q->name, name) ? q : NULL;
}

struct cv_nfs_req *cv_nfs_on_names(void *conn, struct cv_op *op, const struct cv_object *dir,
				   const char *name, const struct cv_object *newdir,
				   const char *newname)
{
	struct cv_nfs_req *q = cv_nfs_req_new(conn, op);

	if (!q)
		return NULL;
	q->dir = *dir->handle;
	q->dir2 = *newdir->handle;
	return cv_nfs_set_name(q, q->name, name) && cv_nfs_set_name(q, q->name2, newname) ? q
											  : NULL;
}

void cv_nfs_finish_ok(struct cv_nfs_req *q)
{
	cv_nfs_finish(q, 0);
}

/* ---- steps ---- */

void cv_nfs_wait(struct cv_nfs_req *q)
{
	struct cv_nfs *nfs = q->nfs;
	uint64_t waited_ms = (cv_loop_now_ns(nfs->loop) - q->started_ns) / NANO_PER_MS;

	if (q->data_dir && q->data_dir->ahead) {
		cv_nfs_finish(q, -EAGAIN); /* nobody waits for it */
		return;
	}
	if (nfs->soft && waited_ms >= nfs->timeout_ms) {
		cv_nfs_finish(q, -ETIMEDOUT);
		return;
	}
	q->delay_ms = q->delay_ms ? q->delay_ms * 2 : JUKEBOX_MIN_MS;
	if (q->delay_ms > JUKEBOX_MAX_MS)
		q->delay_ms = JUKEBOX_MAX_MS;
	if (cv_timer_set(nfs->loop, &q->delay, q->delay_ms) < 0)
		cv_nfs_finish(q, -ENOMEM);
}

static void answered(struct cv_rpc_call *call, int status, const uint8_t *reply, size_t size)
{
	struct cv_nfs_req *q = cv_container_of(call, struct cv_nfs_req, call);
	struct cv_xdr x = cv_xdr_init(reply, status == 0 ? size : 0);

	x.have_fsid = true;
	x.fsid = q->nfs->fsid;
	q->resent = call->resent || q->op->repeated;
	if (status == 0) {
		uint32_t nfs_status = cv_xdr_u32(&x);

		if (nfs_status == CV_NFS_JUKEBOX) {
			cv_nfs_wait(q);
			return;
		}
		if (call->replay)
			cv_replay_keep_reply(call->replay, call->replay_id, reply, size);
		status = x.bad ? -EIO : cv_nfs_errno(nfs_status);
	}
	q->got(q, status, &x);
}

void cv_nfs_step(struct cv_nfs_req *q, void (*send)(struct cv_nfs_req *),
		 void (*got)(struct cv_nfs_req *, int, struct cv_xdr *))
{
	q->send = send;
	q->got = got;
	q->resent_before = false;
	cv_nfs_ahead_changing(q);
	send(q);
}

const struct cv_cred *cv_nfs_cred(struct cv_nfs_req *q)
{
	const struct cv_nfs *nfs = q->nfs;

	if (!nfs->set_uid && !nfs->set_gid)
		return q->op->cred;
	q->cred = *q->op->cred;
	if (nfs->set_uid) {
		q->cred.uid = nfs->uid;
		q->cred.ngroups = 0; /* those of another user */
	}
	if (nfs->set_gid)
		q->cred.gid = nfs->gid;
	return &q->cred;
}

static bool changes(uint32_t procedure)
{
	return procedure == CV_NFS_SETATTR ||
	       (procedure >= CV_NFS_WRITE && procedure <= CV_NFS_LINK);
}

const uint8_t *cv_nfs_replayed(struct cv_nfs_req *q, uint32_t procedure,
			       const struct cv_nfs_args *args, size_t *ret_size)
{
	const struct cv_rpc_part when = { args->when_at, args->when_at ? 4 : 0 };
	const struct cv_op *op = q->op;

	if (!op->repeated || !changes(procedure))
		return NULL;
	return cv_rpc_replayed(q->nfs->rpc, op->replay, op->id, procedure, cv_nfs_cred(q),
			       args->bytes, args->size, &when, 1, ret_size);
}

void cv_nfs_submit(struct cv_nfs_req *q, uint32_t procedure, const struct cv_nfs_args *args)
{
	const struct cv_op *op = q->op;
	const uint8_t *reply;
	size_t size;
	int r;

	if (!args->size) {
		cv_nfs_finish(q, -ENAMETOOLONG);
		return;
	}
	q->call.done = answered;
	q->call.replay = changes(procedure) ? op->replay : NULL;
	q->call.replay_id = op->id;
	reply = cv_nfs_replayed(q, procedure, args, &size);
	if (reply) {
		answered(&q->call, 0, reply, size);
		return;
	}
	r = cv_rpc_submit(q->nfs->rpc, &q->call, procedure, cv_nfs_cred(q), args->bytes,
			  args->size);
	if (r < 0)
		cv_nfs_finish(q, r);
}

/* ---- connection ---- */

void cv_nfs_disconnect(void *conn)
{
	struct cv_nfs *nfs = conn;

	if (!nfs)
		return;
	cv_nfs_ahead_stop(nfs);
	if (nfs->v4)
		cv_nfs4_say_goodbye(nfs->v4);
	cv_rpc_free(nfs->rpc);
	cv_nfs4_free(nfs->v4);
	while (nfs->spare) {
		struct cv_nfs_req *q = nfs->spare;

		nfs->spare = q->next;
		free(q);
	}
	free(nfs);
}

int cv_nfs_connect(const struct cv_dict *options, struct cv_loop *loop, void **ret_conn,
		   struct cv_info *ret_info, struct cv_err *err)
{
	struct cv_nfs *nfs = calloc(1, sizeof(*nfs));
	int r;

	if (!nfs)
		return cv_fail(err, ENOMEM, "nfs: out of memory");
	nfs->loop = loop;
	if (cv_options_uint(options, "connections", 1) > 1)
		cv_notice("option connections: an nfs volume has one connection");
	r = cv_nfs_mount_export(options, nfs, ret_info, err);
	if (r < 0) {
		cv_nfs_disconnect(nfs);
		return r;
	}
	if (nfs->v4)
		ret_info->backend = &cv_backend_nfs4;
	cv_nfs_ahead_init(nfs, options, ret_info->rtt_us);
	*ret_conn = nfs;
	return 0;
}

void cv_nfs_stats(void *conn, struct cv_stats *ret)
{
	const struct cv_nfs *nfs = conn;
	struct cv_rpc_stats rpc;

	cv_rpc_stats(nfs->rpc, &rpc);
	ret->connected = rpc.connected;
	ret->reconnects = rpc.reconnects;
	ret->in_flight = rpc.in_flight;
	ret->bytes_read = nfs->bytes_read;
	ret->bytes_written = nfs->bytes_written;
	(void)cv_strcpy(ret->last_error, sizeof(ret->last_error), rpc.last_error);
	ret->last_error_s = rpc.last_error_s;
	ret->heard_ns = rpc.heard_ns;
}

void cv_nfs_provoke(void *conn)
{
	const struct cv_nfs *nfs = conn;

	cv_rpc_provoke(nfs->rpc);
}

/* No fallocate, lseek, xattrs: the protocol has none. */
const struct cv_backend cv_backend_nfs = {
	.name = "nfs",
	.connect = cv_nfs_connect,
	.disconnect = cv_nfs_disconnect,
	.stats = cv_nfs_stats,
	.provoke = cv_nfs_provoke,
	.lookup = cv_nfs_lookup,
	.getattr = cv_nfs_getattr,
	.setattr = cv_nfs_setattr,
	.readlink = cv_nfs_readlink,
	.mknod = cv_nfs_mknod,
	.mkdir = cv_nfs_mkdir,
	.symlink = cv_nfs_symlink,
	.link = cv_nfs_link,
	.unlink = cv_nfs_unlink,
	.rmdir = cv_nfs_rmdir,
	.rename = cv_nfs_rename,
	.open = cv_nfs_open,
	.create = cv_nfs_create,
	.release = cv_nfs_release,
	.read = cv_nfs_read,
	.write = cv_nfs_write,
	.fsync = cv_nfs_fsync,
	.opendir = cv_nfs_opendir,
	.releasedir = cv_nfs_release,
	.readdir = cv_nfs_readdir,
	.fsyncdir = cv_nfs_fsyncdir,
	.statfs = cv_nfs_statfs,
};
