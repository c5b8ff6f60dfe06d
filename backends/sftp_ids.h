/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ids on the server and as containers see them (option idmap). A rule names the server's id by its
 * number or, where the server tells names ("users-groups-by-id@openssh.com"), by its name. What no
 * rule names is the same on both sides.
 *
 * SFTP tells the name of an id, never the id of a name: a rule with a name serves from the moment
 * the server has given that name to some id. No transport here: who asks is sftp_login.c for those
 * likely to come, and sftp_names.c for what does come.
 */
#ifndef CV_BACKENDS_SFTP_IDS_H
#define CV_BACKENDS_SFTP_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/dict.h"
#include "config/err.h"

#define SFTP_IDS_MAX   256  /* rules of each kind */
#define SFTP_ASK_MAX   128  /* ids of each kind in one question */
#define SFTP_IDS_KNOWN 1024 /* ids of each kind whose names are remembered */

struct sftp_id_rule {
	char *name; /* owned; NULL: by number */
	bool known; /* server is it */
	uint32_t server;
	uint32_t shown;
};

struct sftp_id_rules {
	size_t count;
	struct sftp_id_rule rule[SFTP_IDS_MAX];
	/* What the server was asked for and no rule has as its own; by the id's last bits. */
	struct {
		bool valid;
		uint32_t server;
		uint32_t shown;
	} seen[SFTP_IDS_KNOWN];
};

struct sftp_ids {
	bool named; /* rules have names: ids must be asked for */
	struct sftp_id_rules users;
	struct sftp_id_rules groups;
};

/* Ids whose names are wanted. */
struct sftp_question {
	size_t users;
	size_t groups;
	uint32_t user[SFTP_ASK_MAX];
	uint32_t group[SFTP_ASK_MAX];
};

/*
 * As options say: nothing (the same one for all mounts), the login user's own ids (idmap=user:
 * shown as uid and gid, 0 if not given), the users and groups of this host by their names, or those
 * of a file with lines "user SERVER SHOWN" and "group SERVER SHOWN". login_uid, login_gid: the
 * login user's on the server. Reads files of this host. Returns 0 or -errno with err set.
 */
int sftp_ids_new(const struct cv_dict *options, uint32_t login_uid, uint32_t login_gid,
		 struct sftp_ids **ret_ids, struct cv_err *err);
void sftp_ids_free(struct sftp_ids *ids);

/* False: its name must be asked for first; *ret_shown is the same number then. */
bool sftp_id_shown(const struct sftp_id_rules *rules, bool named, uint32_t server,
		   uint32_t *ret_shown);
/* False: it has a name, by which the server has another number or none: not known which. */
bool sftp_id_on_server(const struct sftp_id_rules *rules, uint32_t shown, uint32_t *ret_server);

/* Adds what is not known yet, and not in it yet; what finds no room must be asked for later. */
void sftp_question_add(struct sftp_question *q, const struct sftp_ids *ids, uint32_t uid,
		       uint32_t gid);
/* The server's answer, without its head. Returns 0, or -EPROTO if it is none; nothing is taken
 * then. */
int sftp_ids_learn(struct sftp_ids *ids, const struct sftp_question *q, const uint8_t *answer,
		   size_t size);
/* The server would not say: they stay as they are. */
void sftp_ids_give_up(struct sftp_ids *ids, const struct sftp_question *q);

#endif
