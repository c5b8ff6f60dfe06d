/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/ssh_cert.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/cleanup.h"
#include "config/str.h"

#define BLOB_MAX (64 * 1024)

struct in {
	const uint8_t *p;
	size_t left;
	bool bad;
};

/* How many strings stand between the nonce and the serial number. */
static const struct {
	const char *type;
	unsigned fields;
} kinds[] = {
	{ "ssh-ed25519-cert-v01@openssh.com", 1 },
	{ "ssh-rsa-cert-v01@openssh.com", 2 },
	{ "ecdsa-sha2-nistp256-cert-v01@openssh.com", 2 },
	{ "ecdsa-sha2-nistp384-cert-v01@openssh.com", 2 },
	{ "ecdsa-sha2-nistp521-cert-v01@openssh.com", 2 },
	{ "sk-ssh-ed25519-cert-v01@openssh.com", 2 },
	{ "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com", 3 },
};

static int digit(char c)
{
	static const char all[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c ? strchr(all, c) : NULL;

	return at ? (int)(at - all) : -1;
}

/* Decodes up to the first other character. Caller frees; NULL: no memory, or too long. */
static uint8_t *decode(const char *text, size_t *ret_size)
{
	size_t max = strlen(text) / 4 * 3 + 3;
	uint8_t *out = max <= BLOB_MAX ? malloc(max) : NULL;
	uint32_t bits = 0;
	unsigned have = 0;
	size_t n = 0;

	for (int d; out && (d = digit(*text)) >= 0; text++) {
		bits = bits << 6 | (uint32_t)d;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n++] = (uint8_t)(bits >> have);
		}
	}
	*ret_size = n;
	return out;
}

static uint64_t get_number(struct in *in, unsigned bytes)
{
	uint64_t v = 0;

	if (in->left < bytes) {
		in->bad = true;
		return 0;
	}
	for (unsigned i = 0; i < bytes; i++)
		v = v << 8 | in->p[i];
	in->p += bytes;
	in->left -= bytes;
	return v;
}

static struct in get_string(struct in *in)
{
	size_t n = (size_t)get_number(in, 4);
	struct in s = { in->p, n, false };

	if (in->bad || n > in->left) {
		in->bad = true;
		return (struct in){ NULL, 0, true };
	}
	in->p += n;
	in->left -= n;
	return s;
}

static void get_principals(struct in list, const char *user, struct cv_ssh_cert *c)
{
	size_t n = 0;

	c->names_user = list.left == 0;
	while (list.left > 0 && !list.bad) {
		struct in one = get_string(&list);

		if (list.bad)
			return;
		if (one.left == strlen(user) && memcmp(one.p, user, one.left) == 0)
			c->names_user = true;
		if (n < sizeof(c->principals))
			n += (size_t)snprintf(c->principals + n, sizeof(c->principals) - n,
					      "%s%.*s", n ? "," : "", (int)one.left,
					      (const char *)one.p);
	}
}

static int parse_blob(struct in in, const char *user, struct cv_ssh_cert *c)
{
	struct in type = get_string(&in);
	const uint8_t *key;
	unsigned fields = 0;

	for (size_t i = 0; !in.bad && i < CV_ARRAY_SIZE(kinds); i++) {
		if (strlen(kinds[i].type) == type.left &&
		    memcmp(kinds[i].type, type.p, type.left) == 0)
			fields = kinds[i].fields;
	}
	if (fields == 0)
		return -EINVAL;
	(void)get_string(&in); /* nonce */
	key = in.p;
	while (fields--)
		(void)get_string(&in);
	if (in.bad)
		return -EINVAL;
	c->key_size = (size_t)(in.p - key);
	if (c->key_size > sizeof(c->key))
		c->key_size = 0;
	memcpy(c->key, key, c->key_size);
	(void)get_number(&in, 8); /* serial */
	c->for_hosts = get_number(&in, 4) == 2;
	(void)get_string(&in); /* key id */
	get_principals(get_string(&in), user, c);
	c->valid_from = get_number(&in, 8);
	c->valid_until = get_number(&in, 8);
	return in.bad ? -EINVAL : 0;
}

int cv_ssh_cert_parse(const char *text, const char *user, struct cv_ssh_cert *ret_cert)
{
	struct cv_ssh_cert c = { .for_hosts = false };
	cv_cleanup_free uint8_t *blob = NULL;
	const char *base64 = strchr(text, ' ');
	size_t size = 0;
	int r;

	if (!base64)
		return -EINVAL;
	blob = decode(base64 + strspn(base64, " "), &size);
	r = blob ? parse_blob((struct in){ blob, size, false }, user, &c) : -EINVAL;
	if (r == 0)
		*ret_cert = c;
	return r;
}

bool cv_ssh_cert_fits(const struct cv_ssh_cert *cert, const char *public_base64)
{
	size_t size = 0;
	cv_cleanup_free uint8_t *blob = decode(public_base64, &size);
	struct in in = { blob, size, false };

	if (!blob || cert->key_size == 0)
		return false;
	(void)get_string(&in); /* type */
	return !in.bad && in.left == cert->key_size && memcmp(in.p, cert->key, in.left) == 0;
}

static void date(uint64_t seconds, char buf[32])
{
	time_t t = seconds > INT32_MAX ? INT32_MAX : (time_t)seconds;
	struct tm tm;

	buf[0] = '\0';
	if (gmtime_r(&t, &tm))
		(void)strftime(buf, 32, "%Y-%m-%d %H:%M UTC", &tm);
}

void cv_ssh_cert_trouble(const struct cv_ssh_cert *cert, const char *user, uint64_t now_s,
			 char *buf, size_t size)
{
	char when[32];

	buf[0] = '\0';
	if (cert->for_hosts) {
		(void)snprintf(buf, size, "it is for hosts, not for users");
	} else if (now_s >= cert->valid_until) {
		date(cert->valid_until, when);
		(void)snprintf(buf, size, "it expired on %s", when);
	} else if (now_s < cert->valid_from) {
		date(cert->valid_from, when);
		(void)snprintf(buf, size, "it is not valid before %s", when);
	} else if (!cert->names_user) {
		(void)snprintf(buf, size, "it is for %s, not for '%s'", cert->principals, user);
	}
}
