/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks into an OpenSSH certificate (PROTOCOL.certkeys) to say why a server would refuse it: a
 * server only says no, and certificates that live for hours are the usual reason. Proves nothing;
 * signatures are the server's to check.
 */
#ifndef CV_BACKENDS_SSH_CERT_H
#define CV_BACKENDS_SSH_CERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/err.h"

struct cv_ssh_cert {
	bool for_hosts;
	uint64_t valid_from; /* seconds since 1970 */
	uint64_t valid_until;
	char principals[256]; /* comma-separated, cut if long; "": whoever */
	bool names_user;      /* no principals, or the one asked for */
	size_t key_size;      /* 0: the key's own bytes are longer than any we know */
	uint8_t key[1100]; /* the public key's fields, as in the key's own blob behind its type */
};

/* text: "ssh-…-cert-v01@openssh.com AAAA… comment". Returns 0 or -EINVAL. */
int cv_ssh_cert_parse(const char *text, const char *user, struct cv_ssh_cert *ret_cert);

/* public_base64: of the key itself. Is the certificate made for it? */
bool cv_ssh_cert_fits(const struct cv_ssh_cert *cert, const char *public_base64);

/* Why it will not do at this time, for people; "" if nothing speaks against it. */
void cv_ssh_cert_trouble(const struct cv_ssh_cert *cert, const char *user, uint64_t now_s,
			 char *buf, size_t size);

#endif
