/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an NFSv3 server may answer. The first byte chooses an operation, the rest are the results of
 * its calls, one after the other: a two-byte length, then that many bytes from nfsstat3 on. The
 * operation must end exactly once, with a result that the contract allows.
 */
#include "tests/fuzz/nfs_calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct cv_cred cred;
	struct cv_nfs *nfs;
	struct cv_op op;
	uint8_t xid[4];
	int server;

	if (size < 1 || size > 60000)
		return 0;
	nfs = connect_pair(CV_NFS_VERSION, &server);
	memset(&op, 0, sizeof(op));
	op.done = on_done;
	op.cred = &cred;
	completions = 0;
	opened = NULL;
	start(&cv_backend_nfs, nfs, &op, data[0], NULL);
	data++;
	size--;
	for (;;) {
		size_t n;

		(void)cv_loop_turn(nfs->loop, 0);
		if (completions || size < 2 || !receive_call(server, xid))
			break;
		n = (size_t)data[0] << 8 | data[1];
		n = n < size - 2 ? n : size - 2;
		answer(server, xid, data + 2, n);
		data += 2 + n;
		size -= 2 + n;
		(void)cv_loop_turn(nfs->loop, 0);
	}
	(void)close(server);
	cv_backend_nfs.disconnect(nfs);
	if (completions != 1)
		abort();
	free(opened);
	return 0;
}
