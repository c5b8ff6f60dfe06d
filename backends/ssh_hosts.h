/* SPDX-License-Identifier: Apache-2.0 */
/*
 * known_hosts files (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): which keys do they have for a host,
 * and on which line. Our own reading, because libssh's cannot name the line and passes over
 * @revoked. Hashed names, patterns, [host]:port and markers are understood.
 */
#ifndef CV_BACKENDS_SSH_HOSTS_H
#define CV_BACKENDS_SSH_HOSTS_H

#include <libssh/libssh.h>
#include <stddef.h>

#include "backends/ssh_target.h"
#include "config/err.h"

#define CV_SSH_HOSTS_MAX 64 /* lines kept for one host */

enum cv_ssh_mark {
	CV_SSH_MARK_NONE,
	CV_SSH_MARK_CA, /* @cert-authority: libssh cannot check certificates of hosts */
	CV_SSH_MARK_REVOKED,
};

struct cv_ssh_host_line {
	const char *file; /* the target's */
	unsigned line;
	enum cv_ssh_mark mark;
	bool plain;   /* matched without the port, which only ever speaks for a key */
	char *type;   /* owned, "ssh-ed25519" */
	char *base64; /* owned */
};

struct cv_ssh_hosts {
	struct cv_ssh_host_line line[CV_SSH_HOSTS_MAX];
	size_t count;
};

/* All lines for the target. A file that does not exist has none. Returns 0 or -errno. */
int cv_ssh_hosts_read(const struct cv_ssh_target *t, struct cv_ssh_hosts *ret_hosts,
		      struct cv_err *err);
void cv_ssh_hosts_release(struct cv_ssh_hosts *hosts);

/*
 * Signature algorithms to ask the server for, those of known keys first: a server shows one key,
 * and it should be one we can check.
 */
void cv_ssh_hosts_algorithms(const struct cv_ssh_hosts *hosts, char *buf, size_t size);

/*
 * Judges the key a server shows; pinned: only whether it is revoked. Returns 0 (known), -ENOENT
 * (nothing is known of this host), or -EKEYREJECTED with err set: changed, or revoked; the text
 * names file and line.
 */
int cv_ssh_hosts_check(const struct cv_ssh_hosts *hosts, const struct cv_ssh_target *t,
		       const char *type, const char *base64, const char *fingerprint, bool pinned,
		       struct cv_err *err);

/* Remembers a key in the target's first file, which is created for root alone if need be. */
int cv_ssh_hosts_add(const struct cv_ssh_target *t, const char *type, const char *base64,
		     struct cv_err *err);

#endif
