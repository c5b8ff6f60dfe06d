/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an NFSv4 server may answer. The first byte chooses an operation and, from MINOR_0 on, minor
 * version 0; the rest are the results of its calls, one after the other: a byte of how, a two-byte
 * length, then that many bytes. How: bit 0 puts the head of a compound and, in version 1, a good
 * SEQUENCE result before them. Lost sessions and files
 * may make the engine recover in between. The operation must end exactly once, with a result that
 * the contract allows.
 */
#include "tests/fuzz/nfs_calls.h"

#define HEAD_MAX 64
#define MINOR_0	 115 /* operations come round again */

static bool session;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *put(uint8_t *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, 4);
	return p + 4;
}

/* Waiting would be for real. */
static void do_not_wait(uint8_t *status)
{
	uint32_t v;

	memcpy(&v, status, 4);
	v = ntohl(v);
	if (v == CV_NFS4ERR_DELAY || v == CV_NFS4ERR_GRACE)
		(void)put(status, CV_NFS4ERR_BADSESSION);
}

static void answer4(int fd, const uint8_t xid[4], const uint8_t *head, const uint8_t *data,
		    size_t size)
{
	static uint8_t reply[HEAD_MAX + 65536];
	uint8_t *p = reply;

	if (head[0] & 1) {
		size_t n = size < 4 ? size : 4;

		memset(p, 0, HEAD_MAX);
		memcpy(p, data, n); /* the compound's status */
		data += n;
		size -= n;
		p = put(put(p + 4, 0), 16); /* no tag, so many results */
		if (session) {
			p = put(put(p, CV_NFS4_SEQUENCE), 0) + CV_NFS4_SESSION_SIZE;
			p = put(put(put(put(put(p, 1), 0), 15), 15), 0);
		}
	}
	if (size)
		memcpy(p, data, size);
	size += (size_t)(p - reply);
	if (size >= 4)
		do_not_wait(reply);
	if (size >= 20)
		do_not_wait(reply + 16); /* SEQUENCE's own */
	answer(fd, xid, reply, size);
}

static struct cv_nfs4_open *open_in(struct cv_nfs4 *v4)
{
	static const struct cv_cred cred;
	struct cv_nfs4_open *open = cv_nfs4_open_new(v4, &cred, O_RDWR);

	if (!open)
		abort();
	open->handle.size = 4;
	v4->opens = open;
	return open;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cv_nfs4_open *open;
	struct cv_nfs *nfs;
	struct cv_op op;
	int server;

	if (size < 1 || size > 60000)
		return 0;
	nfs = connect_pair(CV_NFS4_VERSION, &server);
	nfs->v4 = cv_nfs4_new(nfs, NULL);
	if (!nfs->v4)
		abort();
	nfs->v4->channel.max_slots = 16;
	cv_nfs4_reset_slots(nfs->v4);
	open = open_in(nfs->v4);
	session = data[0] < MINOR_0;
	nfs->v4->minor = session;
	start(&cv_backend_nfs4, nfs, &op, data[0], open);
	play(nfs, server, data + 1, size - 1, 1, answer4);
	if (opened)
		cv_backend_nfs4.release(nfs, opened);
	cv_rpc_free(nfs->rpc); /* no good-bye to who does not answer */
	nfs->rpc = NULL;
	(void)close(server);
	cv_backend_nfs4.disconnect(nfs);
	if (completions != 1)
		abort();
	free(open);
	return 0;
}
