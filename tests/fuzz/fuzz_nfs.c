/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an NFSv3 server may answer. The first byte chooses an operation, the rest are the results of
 * its calls, one after the other: a two-byte length, then that many bytes from nfsstat3 on. The
 * operation must end exactly once, with a result that the contract allows.
 */
#include "tests/fuzz/nfs_calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer3(int fd, const uint8_t xid[4], const uint8_t *head, const uint8_t *results,
		    size_t size)
{
	(void)head;
	answer(fd, xid, results, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cv_nfs *nfs;
	struct cv_op op;
	int server;

	if (size < 1 || size > 60000)
		return 0;
	nfs = connect_pair(CV_NFS_VERSION, &server);
	start(&cv_backend_nfs, nfs, &op, data[0], NULL);
	play(nfs, server, data + 1, size - 1, 0, answer3);
	(void)close(server);
	cv_backend_nfs.disconnect(nfs);
	if (completions != 1)
		abort();
	free(opened);
	return 0;
}
