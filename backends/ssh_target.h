/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whom to log in to, as whom and with what: a volume's options, and the ssh_config file they may
 * name, brought together. The options win. No network, no libssh; reads the configuration only.
 */
#ifndef CV_BACKENDS_SSH_TARGET_H
#define CV_BACKENDS_SSH_TARGET_H

#include <stdbool.h>

#include "backends/ssh_config.h"
#include "config/dict.h"
#include "config/err.h"

struct cv_ssh_target {
	const struct cv_dict *options; /* the volume's; outlives the target */
	char *name;		       /* as the user wrote it, for messages */
	char *host;		       /* to connect to */
	char *key_name;		       /* what known_hosts files call it: "host", "[host]:port" */
	char *user;
	unsigned port;
	bool jump;		  /* a host on the way to the volume's */
	bool keys_named;	  /* keys are named, not the defaults: each must be readable */
	struct cv_ssh_list keys;  /* in the order to try */
	struct cv_ssh_list certs; /* beside KEY-cert.pub */
	struct cv_ssh_list known; /* known_hosts files; the first takes new keys */
	char *agent;		  /* socket, or NULL */
	char *via;     /* jump hosts on the way, first to last, comma-separated; or NULL */
	char *policy;  /* of unknown host keys: strict, accept-new */
	char *ciphers; /* lists in order of preference; NULL: ours */
	char *macs;
	char *kex;
	bool compression;
};

/*
 * hop: NULL for the volume's own host, else a jump host, "[user@]host[:port]". A jump host shares
 * the volume's keys, agent and known_hosts; its password and pinned host key are the volume's
 * alone. Returns 0 or -errno with err set; then nothing is left.
 */
int cv_ssh_target_init(struct cv_ssh_target *t, const struct cv_dict *options, const char *hop,
		       struct cv_err *err);
void cv_ssh_target_release(struct cv_ssh_target *t);

/* "a or b": the known_hosts files, for messages. */
void cv_ssh_target_known_text(const struct cv_ssh_target *t, char *buf, size_t size);

#endif
