/* SPDX-License-Identifier: Apache-2.0 */
/* The SFTP engine: its life and its table. See sftp.h for the parts. */
#include "backends/sftp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/replay.h"
#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"

#define MOUNT_TIMEOUT_MS 20000
#define SECOND_NS	 1000000000u
#define SSH_PORT	 22

static void engine_free(struct sftp_engine *e)
{
	while (e->pooled)
		free(e->pool[--e->pooled]);
	free(e->root);
	sftp_ids_free(e->ids);
	sftp_names_release(e);
	cv_dict_release(&e->options);
	free(e);
}

static void read_options(struct sftp_engine *e)
{
	const struct cv_dict *o = &e->options;
	const char *symlinks;

	e->have_uid = cv_dict_get(o, "uid") && !cv_dict_get(o, "idmap");
	e->have_gid = cv_dict_get(o, "gid") && !cv_dict_get(o, "idmap");
	e->uid = (uint32_t)cv_options_uint(o, "uid", 0);
	e->gid = (uint32_t)cv_options_uint(o, "gid", 0);
	e->umask = (uint32_t)cv_options_uint(o, "umask", 0);
	e->chown_ignore = cv_str_eq(cv_options_str(o, "chown", "strict"), "ignore");
	symlinks = cv_options_str(o, "symlinks", "raw");
	e->symlinks = cv_str_eq(symlinks, "contain")  ? SFTP_SYMLINKS_CONTAIN
		      : cv_str_eq(symlinks, "follow") ? SFTP_SYMLINKS_FOLLOW
						      : SFTP_SYMLINKS_RAW;
}

static int fill_info(const struct sftp_engine *e, struct cv_info *info, struct cv_err *err)
{
	const struct sftp_session *s = &e->link.session;
	const char *host = cv_options_str(&e->options, "host", "");
	int r;

	memset(info, 0, sizeof(*info));
	info->features = CV_FEAT_WRITE_BEHIND;
	if (s->openssh) /* others may work on several requests at once */
		info->features |= CV_FEAT_ORDERED;
	if (s->extensions & SFTP_EXT_HARDLINK)
		info->features |= CV_FEAT_HARD_LINKS;
	if (s->extensions & SFTP_EXT_COPY_DATA)
		info->features |= CV_FEAT_COPY;
	r = sftp_attr(e, &s->root_attrs, 0, &info->root.attr);
	if ((r < 0 && r != -EAGAIN) || !S_ISDIR(info->root.attr.mode))
		return cv_fail(err, ENOTDIR, "sftp: '%s' on %s is not a directory",
			       *e->root ? e->root : "/", host);
	info->read_max = CV_MAX_IO;
	info->write_max = CV_MAX_IO;
	info->readdir_max = 65536;
	info->rtt_us = s->rtt_us;
	info->made_subdir = s->made_subdir;
	info->settled = s->settled;
	info->time_gran_ns = SECOND_NS;
	(void)snprintf(info->server, sizeof(info->server), "%.200s:%u (SFTP%s)", host,
		       (unsigned)cv_options_uint(&e->options, "port", SSH_PORT),
		       s->openssh ? ", OpenSSH" : "");
	return 0;
}

static void sftp_disconnect(void *conn)
{
	struct sftp_engine *e = conn;

	if (!e)
		return;
	sftp_link_stop(&e->link);
	sftp_bulk_release(e);
	sftp_ahead_release(e);
	engine_free(e);
}

static int sftp_connect(const struct cv_dict *options, struct cv_loop *loop, void **ret_conn,
			struct cv_info *ret_info, struct cv_err *err)
{
	struct sftp_engine *e;
	int r;

	e = calloc(1, sizeof(*e));
	if (!e || cv_dict_copy(&e->options, options) < 0) {
		free(e);
		return cv_fail(err, ENOMEM, "sftp: out of memory");
	}
	e->loop = loop;
	read_options(e);
	r = sftp_link_start(&e->link, &e->options, loop,
			    cv_options_ms(options, "mount_timeout", MOUNT_TIMEOUT_MS),
			    ret_info->replays && ret_info->replays->peers ? ret_info->replays->peers
									  : e->peers,
			    err);
	if (r < 0) {
		engine_free(e);
		return r;
	}
	e->link.same = sftp_file_same;
	e->link.moves = sftp_file_moves;
	sftp_ahead_init(e);
	sftp_bulk_init(e);
	e->root = strdup(e->link.session.root);
	r = e->root ? 0 : cv_fail(err, ENOMEM, "sftp: out of memory");
	e->ids = cv_steal(&e->link.session.ids);
	if (r == 0 && e->ids->named && !sftp_names_init(e))
		r = cv_fail(err, ENOMEM, "sftp: out of memory");
	if (r == 0)
		r = fill_info(e, ret_info, err);
	if (r < 0) {
		sftp_disconnect(e);
		return r;
	}
	*ret_conn = e;
	return 0;
}

static void sftp_stats(void *conn, struct cv_stats *ret)
{
	struct sftp_engine *e = conn;
	struct sftp_link *link = &e->link;

	memset(ret, 0, sizeof(*ret));
	ret->heard_ns = sftp_link_heard_ns(link);
	ret->connected = link->state == SFTP_LINK_UP;
	ret->reconnects = link->reconnects;
	ret->in_flight = link->in_flight;
	ret->bytes_read = link->bytes_read;
	ret->bytes_written = link->bytes_written;
	for (unsigned i = 0; i < e->bulk.count; i++) {
		ret->in_flight += e->bulk.links[i]->in_flight;
		ret->bytes_read += e->bulk.links[i]->bytes_read;
		ret->bytes_written += e->bulk.links[i]->bytes_written;
	}
	(void)cv_strcpy(ret->last_error, sizeof(ret->last_error), link->last_error);
	ret->last_error_s = link->last_error_s;
}

static void sftp_provoke(void *conn)
{
	struct sftp_engine *e = conn;

	sftp_link_provoke(&e->link);
}

const struct cv_backend cv_backend_sftp = {
	.name = "sftp",
	.connect = sftp_connect,
	.disconnect = sftp_disconnect,
	.stats = sftp_stats,
	.provoke = sftp_provoke,
	.lookup = sftp_op_lookup,
	.getattr = sftp_op_getattr,
	.setattr = sftp_op_setattr,
	.readlink = sftp_op_readlink,
	.mknod = sftp_op_mknod,
	.mkdir = sftp_op_mkdir,
	.symlink = sftp_op_symlink,
	.link = sftp_op_link,
	.unlink = sftp_op_unlink,
	.rmdir = sftp_op_rmdir,
	.rename = sftp_op_rename,
	.open = sftp_op_open,
	.create = sftp_op_create,
	.release = sftp_op_release,
	.read = sftp_op_read,
	.write = sftp_op_write,
	.fsync = sftp_op_fsync,
	.copy = sftp_op_copy,
	.opendir = sftp_op_opendir,
	.releasedir = sftp_op_releasedir,
	.readdir = sftp_op_readdir,
	.fsyncdir = sftp_op_fsyncdir,
	.statfs = sftp_op_statfs,
};
