/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations of the NFS engine, and a server that answers them with whatever a fuzzer has: what the
 * fuzzers of its protocol versions share.
 */
#ifndef CV_TESTS_NFS_CALLS_H
#define CV_TESTS_NFS_CALLS_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h> /* RENAME_NOREPLACE */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/nfs4.h"
#include "config/cleanup.h"
#include "config/log.h"

#define IO_SIZE	   65536 /* two pieces of rsize, wsize */
#define REPLY_HEAD 28

static int completions;
static struct cv_file *opened;
static volatile uint8_t sink;

static void touch(const void *p, size_t n)
{
	const uint8_t *bytes = p;

	for (size_t i = 0; i < n; i++)
		sink = sink ^ bytes[i];
}

static void on_done(struct cv_op *op, ssize_t result)
{
	completions++;
	if (result < -4095)
		abort();
	opened = result >= 0 ? op->file : NULL;
	if (result < 0)
		return;
	if (op->data && result > 0)
		touch(op->data, (size_t)result);
	for (ssize_t i = 0; op->dirents && i < result; i++) {
		const struct cv_dirent *d = &op->dirents[i];

		if (!*d->name || strlen(d->name) > CV_NAME_MAX || strchr(d->name, '/'))
			abort();
		if (d->have_entry && (!d->entry.handle.size ||
				      d->entry.handle.size > CV_HANDLE_MAX || !d->entry.attr.mode))
			abort();
	}
}

static void start(const struct cv_backend *b, struct cv_nfs *nfs, struct cv_op *op, uint8_t which,
		  struct cv_nfs4_open *open)
{
	static const struct cv_handle handle = { .size = 4, .data = { 1, 2, 3, 4 } };
	static const struct cv_object obj = {
		.nodeid = 1,
		.handle = &handle,
		.path = "",
		.parent = &handle,
		.name = "name",
		.seen_change = 1,
		.seen_size = 1, /* so that an open reads */
	};
	static const struct cv_setattr set = { .mask = CV_SET_MODE | CV_SET_UID, .mode = 0644 };
	static struct cv_file file, dir;
	static const struct cv_cred cred;
	static const uint8_t data[IO_SIZE];

	memset(op, 0, sizeof(*op));
	op->done = on_done;
	op->cred = &cred;
	completions = 0;
	opened = NULL;
	file.handle = dir.handle = handle;
	file.writable = true;
	file.open = open;
	dir.reply_bytes = 65536;
	switch (which % 23) {
	case 0:
		b->lookup(nfs, op, &obj, "name");
		break;
	case 1:
		b->getattr(nfs, op, &obj, NULL);
		break;
	case 2:
		b->setattr(nfs, op, &obj, NULL, &set);
		break;
	case 3:
		b->readlink(nfs, op, &obj);
		break;
	case 4:
		b->mknod(nfs, op, &obj, "name", S_IFREG | 0600, 0);
		break;
	case 5:
		b->mknod(nfs, op, &obj, "name", S_IFCHR | 0600, 0x103);
		break;
	case 6:
		b->mkdir(nfs, op, &obj, "name", 0700);
		break;
	case 7:
		b->symlink(nfs, op, &obj, "name", "target");
		break;
	case 8:
		b->link(nfs, op, &obj, &obj, "name");
		break;
	case 9:
		b->unlink(nfs, op, &obj, "name");
		break;
	case 10:
		b->rmdir(nfs, op, &obj, "name");
		break;
	case 11:
		b->rename(nfs, op, &obj, "name", &obj, "other", 0);
		break;
	case 12:
		b->rename(nfs, op, &obj, "name", &obj, "other", RENAME_NOREPLACE);
		break;
	case 13:
		b->open(nfs, op, &obj, O_RDWR);
		break;
	case 14:
		b->open(nfs, op, &obj, O_WRONLY | O_TRUNC);
		break;
	case 15:
		b->create(nfs, op, &obj, "name", O_RDWR, 0644);
		break;
	case 16:
		b->create(nfs, op, &obj, "name", O_RDWR | O_EXCL, 0644);
		break;
	case 17:
		b->create(nfs, op, &obj, "name", O_RDWR | O_TRUNC, 0644);
		break;
	case 18:
		b->read(nfs, op, &file, IO_SIZE, 0);
		break;
	case 19:
		b->write(nfs, op, &file, data, IO_SIZE, 0);
		break;
	case 20:
		b->fsync(nfs, op, &file, false);
		break;
	case 21:
		nfs->no_readdirplus = which & 128;
		b->readdir(nfs, op, &dir, 0);
		break;
	default:
		b->statfs(nfs, op, &obj);
		break;
	}
}

/* Takes the call that has come, if any. Returns false when there is none. */
static bool receive_call(int fd, uint8_t xid[4])
{
	static uint8_t call[IO_SIZE];
	ssize_t n = recv(fd, call, sizeof(call), 0);

	if (n < 8)
		return false;
	memcpy(xid, call + 4, 4);
	while (recv(fd, call, sizeof(call), 0) > 0)
		;
	return true;
}

static void answer(int fd, const uint8_t xid[4], const uint8_t *results, size_t size)
{
	static uint8_t reply[REPLY_HEAD + 65536];
	uint32_t mark = htonl(0x80000000u | (uint32_t)(size + REPLY_HEAD - 4)), type = htonl(1);

	memset(reply, 0, REPLY_HEAD);
	memcpy(reply, &mark, 4);
	memcpy(reply + 4, xid, 4);
	memcpy(reply + 8, &type, 4);
	if (size)
		memcpy(reply + REPLY_HEAD, results, size);
	/* JUKEBOX means waiting for real. */
	if (size >= 4 && reply[REPLY_HEAD] == 0 && reply[REPLY_HEAD + 1] == 0 &&
	    (reply[REPLY_HEAD + 2] << 8 | reply[REPLY_HEAD + 3]) == CV_NFS_JUKEBOX)
		reply[REPLY_HEAD + 2] = 0;
	(void)!send(fd, reply, size + REPLY_HEAD, MSG_NOSIGNAL);
}

/*
 * Answers the operation's calls with data's pieces, until it ends or data does: answer(fd, xid,
 * piece, size) for each, whose first `head` bytes are the answer's own and followed by the length
 * of what follows.
 */
static void play(struct cv_nfs *nfs, int server, const uint8_t *data, size_t size, size_t head,
		 void (*answer_piece)(int fd, const uint8_t xid[4], const uint8_t *head,
				      const uint8_t *results, size_t size))
{
	uint8_t xid[4];

	for (;;) {
		const uint8_t *results;
		size_t n;

		(void)cv_loop_turn(nfs->loop, 0);
		if (completions || size < head + 2 || !receive_call(server, xid))
			break;
		results = data + head + 2;
		size -= head + 2;
		n = (size_t)data[head] << 8 | data[head + 1];
		n = n < size ? n : size;
		answer_piece(server, xid, data, results, n);
		data = results + n;
		size -= n;
		(void)cv_loop_turn(nfs->loop, 0);
	}
}

/* A connection over a socket pair; the server's end is *ret_server. */
static struct cv_nfs *connect_pair(uint32_t version, int *ret_server)
{
	const struct cv_rpc_config config = { .program = 1,
					      .version = version,
					      .timeout_ms = 15000 };
	static struct cv_loop *loop;
	const struct cv_dict defaults = CV_DICT_INIT;
	struct cv_nfs *nfs = calloc(1, sizeof(*nfs));
	int fds[2], room = 1 << 20;

	if (!loop) {
		cv_log_set_level(CV_LOG_ERROR);
		if (cv_loop_new(&loop) < 0)
			abort();
	}
	if (!nfs || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		abort();
	(void)setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	nfs->loop = loop;
	nfs->rsize = nfs->wsize = IO_SIZE / 2;
	nfs->chown_ignore = true;
	cv_nfs_ahead_init(nfs, &defaults, 0);
	if (cv_rpc_new(loop, &config, fds[0], &nfs->rpc) < 0)
		abort();
	*ret_server = fds[1];
	return nfs;
}

#endif
