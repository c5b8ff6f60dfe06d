/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numeric ids on the server and as containers see them (option idmap). What no rule names is the
 * same on both sides.
 */
#ifndef CV_BACKENDS_SFTP_IDS_H
#define CV_BACKENDS_SFTP_IDS_H

#include <stddef.h>
#include <stdint.h>

#include "config/dict.h"
#include "config/err.h"

#define SFTP_IDS_MAX 256 /* rules of each kind */

struct sftp_id_rules {
	size_t count;
	struct {
		uint32_t server;
		uint32_t shown;
	} rule[SFTP_IDS_MAX];
};

struct sftp_ids {
	struct sftp_id_rules users;
	struct sftp_id_rules groups;
};

/*
 * As options say: nothing, the login user's own ids (idmap=user: shown as uid and gid, 0 if not
 * given), or those of a file with lines "user SERVER SHOWN" and "group SERVER SHOWN". login_uid,
 * login_gid: the login user's on the server. Reads the file, else touches nothing.
 * Returns 0 or -errno with err set.
 */
int sftp_ids_init(struct sftp_ids *ids, const struct cv_dict *options, uint32_t login_uid,
		  uint32_t login_gid, struct cv_err *err);

uint32_t sftp_id_shown(const struct sftp_id_rules *rules, uint32_t server);
uint32_t sftp_id_on_server(const struct sftp_id_rules *rules, uint32_t shown);

#endif
