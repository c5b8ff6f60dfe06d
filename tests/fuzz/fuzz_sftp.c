/* SPDX-License-Identifier: Apache-2.0 */
/* What an SFTP server may send: the stream parser in pieces of every size, and each kind of reply.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backends/sftp_ids.h"
#include "backends/sftp_proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t sink[CV_SFTP_PACKET_MAX];

static uint8_t *data_dest(void *user, uint32_t id, uint32_t size)
{
	(void)user;
	(void)id;
	return size <= 32768 ? sink : NULL;
}

static struct sftp_ids ids = {
	.named = true,
	.users = { .count = 1, .rule = { { .name = (char[]){ "alice" }, .shown = 5000 } } },
	.groups = { .count = 1, .rule = { { .name = (char[]){ "staff" }, .shown = 60 } } },
};

/* As an answer to a question for two users and a group. */
static void learn_names(const uint8_t *body, size_t size)
{
	struct sftp_question q = { 0 };
	uint32_t shown;

	ids.users.rule[0].known = ids.groups.rule[0].known = false;
	memset(ids.users.seen, 0, sizeof(ids.users.seen));
	memset(ids.groups.seen, 0, sizeof(ids.groups.seen));
	sftp_question_add(&q, &ids, 1000, 1000);
	sftp_question_add(&q, &ids, 1001, 1000);
	if (sftp_ids_learn(&ids, &q, body, size) < 0)
		return;
	/* Whatever it was, it is known now. */
	if (!sftp_id_shown(&ids.users, true, 1000, &shown) || (shown != 1000 && shown != 5000) ||
	    !sftp_id_shown(&ids.users, true, 1001, &shown) || (shown != 1001 && shown != 5000) ||
	    !sftp_id_shown(&ids.groups, true, 1000, &shown) || (shown != 1000 && shown != 60))
		abort();
}

static int reply(void *user, uint8_t type, uint32_t id, uint8_t *body, size_t size)
{
	struct cv_sftp_in in = { body, body ? size : 0, false };
	struct cv_sftp_attrs attrs;
	uint32_t count;
	size_t n;

	(void)user;
	(void)id;
	switch (type) {
	case CV_FXP_NAME:
		count = cv_sftp_get_count(&in);
		for (uint32_t i = 0; i < count && !in.bad; i++) {
			struct cv_sftp_name name;

			cv_sftp_get_name(&in, &name);
			if (!in.bad && cv_sftp_name_ok(name.name, name.name_len) &&
			    (name.name_len > 255 || memchr(name.name, '/', name.name_len)))
				abort();
			if (!in.bad)
				(void)cv_sftp_longname_nlink(name.longname, name.longname_len,
							     name.attrs.permissions);
		}
		break;
	case CV_FXP_ATTRS:
		cv_sftp_get_attrs(&in, &attrs);
		break;
	case CV_FXP_EXTENDED_REPLY:
		learn_names(body, body ? size : 0);
		break;
	default:
		(void)cv_sftp_get_u32(&in);
		(void)cv_sftp_get_string(&in, &n);
		(void)cv_sftp_get_u64(&in);
		break;
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cv_sftp_parser parser = { .data_dest = data_dest, .reply = reply };
	size_t step = size ? 1 + data[0] % 64 : 1;

	for (size_t at = 1; at < size; at += step) {
		size_t n = size - at < step ? size - at : step;

		if (cv_sftp_parser_feed(&parser, data + at, n) < 0)
			break;
	}
	cv_sftp_parser_release(&parser);
	return 0;
}
