/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an NFS server may answer. The first byte chooses an operation, the rest are the results of
 * its calls, one after the other: a two-byte length, then that many bytes from nfsstat3 on. The
 * operation must end exactly once, with a result that the contract allows.
 */
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

#include "backends/nfs.h"
#include "config/cleanup.h"
#include "config/log.h"

#define IO_SIZE	   65536 /* two pieces of rsize, wsize */
#define REPLY_HEAD 28

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
				      d->entry.handle.size > CV_NFS_FH_MAX || !d->entry.attr.mode))
			abort();
	}
}

static void start(struct cv_nfs *nfs, struct cv_op *op, uint8_t which)
{
	static const struct cv_handle handle = { .size = 4, .data = { 1, 2, 3, 4 } };
	static const struct cv_object obj = { .nodeid = 1, .handle = &handle, .path = "" };
	static const struct cv_setattr set = { .mask = CV_SET_MODE | CV_SET_UID, .mode = 0644 };
	static struct cv_file file, dir;
	static const uint8_t data[IO_SIZE];
	const struct cv_backend *b = &cv_backend_nfs;

	file.handle = dir.handle = handle;
	file.writable = true;
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct cv_rpc_config config = { .program = 1,
						     .version = 3,
						     .timeout_ms = 15000 };
	static const struct cv_cred cred;
	static struct cv_loop *loop;
	struct cv_nfs *nfs;
	struct cv_op op;
	uint8_t xid[4];
	int fds[2], room = 1 << 20;

	if (size < 1 || size > 60000)
		return 0;
	if (!loop) {
		cv_log_set_level(CV_LOG_ERROR);
		if (cv_loop_new(&loop) < 0)
			abort();
	}
	nfs = calloc(1, sizeof(*nfs));
	if (!nfs || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		abort();
	(void)setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	nfs->loop = loop;
	nfs->rsize = nfs->wsize = IO_SIZE / 2;
	nfs->chown_ignore = true;
	if (cv_rpc_new(loop, &config, fds[0], &nfs->rpc) < 0)
		abort();
	memset(&op, 0, sizeof(op));
	op.done = on_done;
	op.cred = &cred;
	completions = 0;
	opened = NULL;
	start(nfs, &op, data[0]);
	data++;
	size--;
	for (;;) {
		size_t n;

		(void)cv_loop_turn(loop, 0);
		if (completions || size < 2 || !receive_call(fds[1], xid))
			break;
		n = (size_t)data[0] << 8 | data[1];
		n = n < size - 2 ? n : size - 2;
		answer(fds[1], xid, data + 2, n);
		data += 2 + n;
		size -= 2 + n;
		(void)cv_loop_turn(loop, 0);
	}
	(void)close(fds[1]);
	cv_backend_nfs.disconnect(nfs);
	if (completions != 1)
		abort();
	free(opened);
	return 0;
}
