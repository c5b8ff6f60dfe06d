/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/ssh_login.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/step.h"
#include "config/str.h"

#define STEP_POLL_MS 50 /* libssh may hold what a step waits for in its own buffer */
#define TIMEOUT_MS   15000

void cv_ssh_set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0 && !(flags & O_NONBLOCK))
		(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

void cv_ssh_session_free(ssh_session session)
{
	if (!session)
		return;
	/* Frees channels and the socket, too; that one only if it is not known to be ours. It is
	 * non-blocking: a good-bye that cannot be sent is dropped. */
	(void)ssh_options_set(session, SSH_OPTIONS_FD, NULL);
	ssh_disconnect(session);
	ssh_free(session);
}

void cv_ssh_login_undo(struct cv_ssh_login *l)
{
	cv_ssh_session_free(l->session);
	l->session = NULL;
	l->fd = -1;
	cv_ssh_tunnel_end(l->tunnel);
	l->tunnel = NULL;
}

/* Keeps the first line that a peer sends, for people, in case it turns out not to be SSH. */
static void note_first(struct cv_ssh_login *l)
{
	ssize_t n;

	if (*l->first || ssh_get_serverbanner(l->session))
		return;
	n = recv(l->fd, l->first, sizeof(l->first) - 1, MSG_PEEK | MSG_DONTWAIT);
	l->first[n > 0 ? n : 0] = '\0';
	l->first[strcspn(l->first, "\r\n")] = '\0';
	for (char *p = l->first; *p; p++)
		*p = isprint((unsigned char)*p) ? *p : '?';
}

int cv_ssh_login_wait(struct cv_ssh_login *l)
{
	/* What comes through a tunnel says nothing of how the server is. */
	bool early = !ssh_get_serverbanner(l->session) && !l->hops && !l->target->via;
	struct cv_ssh_limit limit = early ? cv_ssh_limit_early(l->limit) : *l->limit;
	short events = POLLIN;
	int r;

	cv_ssh_set_nonblocking(l->fd);
	if (ssh_get_poll_flags(l->session) & SSH_WRITE_PENDING)
		events |= POLLOUT;
	r = cv_ssh_wait(&limit, l->fd, events, STEP_POLL_MS);
	if (r > 0 && (r & POLLIN))
		note_first(l);
	if (r >= 0)
		return 0;
	return cv_fail(l->err, r, "sftp: %s: %s: %s", l->target->name, l->limit->step,
		       cv_strerror(r));
}

int cv_ssh_login_failed(struct cv_ssh_login *l, int code)
{
	const char *text = ssh_get_error(l->session);

	return cv_fail(l->err, code, "sftp: %s: %s: %s", l->target->name, l->limit->step,
		       *text ? text : "connection closed by the server");
}

/* ---- preferences ---- */

static bool cpu_has_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return __builtin_cpu_supports("aes");
#elif defined(__aarch64__)
	return getauxval(AT_HWCAP) & (1ul << 3); /* HWCAP_AES */
#else
	return false;
#endif
}

/* GCM is cheapest with AES instructions, ChaCha20 without; libssh prefers the latter always. */
#define GCM    "aes128-gcm@openssh.com,aes256-gcm@openssh.com"
#define CHACHA "chacha20-poly1305@openssh.com"
#define CTR    "aes128-ctr,aes192-ctr,aes256-ctr"

/* What the user prefers; libssh refuses lists in which it knows nothing. */
static int set_preferences(struct cv_ssh_login *l)
{
	const struct cv_ssh_target *t = l->target;
	const struct {
		const char *option;
		const char *value;
		enum ssh_options_e in, out;
	} lists[] = {
		{ "ciphers", t->ciphers, SSH_OPTIONS_CIPHERS_S_C, SSH_OPTIONS_CIPHERS_C_S },
		{ "macs", t->macs, SSH_OPTIONS_HMAC_S_C, SSH_OPTIONS_HMAC_C_S },
		{ "kex", t->kex, SSH_OPTIONS_KEY_EXCHANGE, SSH_OPTIONS_KEY_EXCHANGE },
	};
	ssh_session s = l->session;

	for (size_t i = 0; i < CV_ARRAY_SIZE(lists); i++) {
		if (lists[i].value && (ssh_options_set(s, lists[i].in, lists[i].value) < 0 ||
				       ssh_options_set(s, lists[i].out, lists[i].value) < 0))
			return cv_fail(l->err, EINVAL,
				       "sftp: option %s: nothing in '%s' is known here",
				       lists[i].option, lists[i].value);
	}
	if (t->compression && ssh_options_set(s, SSH_OPTIONS_COMPRESSION, "yes") < 0)
		return cv_fail(l->err, EINVAL, "sftp: option compression: %s", ssh_get_error(s));
	return 0;
}

static int set_session_options(struct cv_ssh_login *l)
{
	const struct cv_ssh_target *t = l->target;
	ssh_session s = l->session;
	const char *ciphers = cpu_has_aes() ? GCM "," CHACHA "," CTR : CHACHA "," GCM "," CTR;
	char keys[256];
	int no = 0;
	int yes = 1;

	cv_ssh_hosts_algorithms(&l->hosts, keys, sizeof(keys));
	if (ssh_options_set(s, SSH_OPTIONS_PROCESS_CONFIG, &no) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_HOST, t->host) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_PORT, &t->port) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_USER, t->user) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_NODELAY, &yes) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_CIPHERS_C_S, ciphers) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_CIPHERS_S_C, ciphers) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_COMPRESSION, "no") < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_HOSTKEYS, l->algorithms ? l->algorithms : keys) < 0 ||
	    /* Host keys are checked by ssh_hosts.c. */
	    ssh_options_set(s, SSH_OPTIONS_KNOWNHOSTS, "/dev/null") < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_GLOBAL_KNOWNHOSTS, "/dev/null") < 0)
		return cv_fail(l->err, EINVAL, "sftp: %s: %s", t->name, ssh_get_error(s));
	return set_preferences(l);
}

/* ---- connecting ---- */

static int connect_socket(struct cv_ssh_login *l)
{
	const struct cv_ssh_target *t = l->target;
	uint64_t timeout_ms = cv_options_ms(t->options, "timeout", TIMEOUT_MS);

	if (t->via)
		return cv_ssh_jump(t, l->hops, l->limit, &l->fd, &l->tunnel, l->err);
	return cv_ssh_tcp_connect(t->host, t->port, (unsigned)(timeout_ms * 2 / 3), l->limit,
				  &l->fd, l->err);
}

/* Nothing that is SSH came: say what did. */
static int not_ssh(struct cv_ssh_login *l, int code)
{
	const struct cv_ssh_target *t = l->target;

	if (*l->first)
		return cv_fail(l->err, code,
			       "sftp: what answers on %s port %u is not an SSH server (it says "
			       "'%s'): is the port right?",
			       t->host, t->port, l->first);
	return cv_fail(l->err, code,
		       "sftp: %s port %u: %s without an SSH greeting: not an SSH server, or it "
		       "turns this host away (firewall, MaxStartups, hosts.deny)",
		       t->host, t->port, code == -ETIMEDOUT ? "no answer" : "connection closed");
}

/* Takes the socket. */
static int key_exchange(struct cv_ssh_login *l)
{
	ssh_session s = l->session;
	int r;

	l->limit->step = cv_step("key exchange");
	if (ssh_options_set(s, SSH_OPTIONS_FD, &l->fd) < 0) {
		cv_close_fd(&l->fd);
		return cv_ssh_login_failed(l, EIO);
	}
	ssh_set_blocking(s, 0);
	while ((r = ssh_connect(s)) == SSH_AGAIN) {
		int w = cv_ssh_login_wait(l);

		if (w < 0)
			return w == -ETIMEDOUT && !ssh_get_serverbanner(s) ? not_ssh(l, w) : w;
	}
	if (r != SSH_OK)
		return ssh_get_serverbanner(s) ? cv_ssh_login_failed(l, EPROTO)
					       : not_ssh(l, -EPROTO);
	cv_ssh_set_nonblocking(l->fd);
	return 0;
}

/* ---- host key ---- */

/* pins: fingerprints and whole keys ("ssh-ed25519 AAAA…"), separated by spaces or commas. */
static bool pin_matches(const char *pins, const char *fingerprint, const char *base64)
{
	cv_cleanup_free char *copy = strdup(pins);
	char *save = NULL;

	if (!copy)
		return false;
	for (char *pin = strtok_r(copy, ", \t", &save); pin; pin = strtok_r(NULL, ", \t", &save)) {
		size_t n = strlen(pin);

		while (n > 0 && pin[n - 1] == '=')
			n--;
		if ((strlen(fingerprint) == n && strncmp(pin, fingerprint, n) == 0) ||
		    strcmp(pin, base64) == 0)
			return true;
	}
	return false;
}

static const struct cv_ssh_host_line *find_authority(const struct cv_ssh_hosts *hosts)
{
	for (size_t i = 0; i < hosts->count; i++) {
		if (hosts->line[i].mark == CV_SSH_MARK_CA)
			return &hosts->line[i];
	}
	return NULL;
}

/* No line has the key: learn it, or say how to. */
static int host_unknown(struct cv_ssh_login *l, const char *type, const char *base64,
			const char *fingerprint)
{
	const struct cv_ssh_target *t = l->target;
	const struct cv_ssh_host_line *ca = find_authority(&l->hosts);
	char where[600];
	char remedy[700];
	int r;

	if (strcmp(t->policy, "accept-new") == 0) {
		r = cv_ssh_hosts_add(t, type, base64, l->err);
		if (r == 0)
			cv_notice("sftp: accepted the new host key of %s, %s %s, into %s",
				  t->key_name, type, fingerprint, t->known.item[0]);
		return r;
	}
	cv_ssh_target_known_text(t, where, sizeof(where));
	if (t->jump)
		(void)snprintf(remedy, sizeof(remedy), "add the line '%s %s %s' to %s", t->key_name,
			       type, base64, t->known.count ? t->known.item[0] : "known_hosts");
	else
		(void)snprintf(remedy, sizeof(remedy), "set host_key=%s", fingerprint);
	if (ca)
		return cv_fail(
			l->err, EKEYREJECTED,
			"sftp: host key of %s is not known: %s line %u trusts an authority "
			"for it, but certificates of hosts cannot be checked here. It offers "
			"%s %s; if that is the server's key, %s",
			t->key_name, ca->file, ca->line, type, fingerprint, remedy);
	return cv_fail(l->err, EKEYREJECTED,
		       "sftp: host key of %s is not known: it offers %s %s and %s has no line for "
		       "it. If that is the server's key, %s",
		       t->key_name, type, fingerprint, *where ? where : "known_hosts", remedy);
}

/* Returns 0, -EAGAIN (pinned, and this is not it; err is set), or -errno. */
static int judge_host_key(struct cv_ssh_login *l, const char *type, const char *base64,
			  const char *fingerprint)
{
	const struct cv_ssh_target *t = l->target;
	/* The pin is the volume's server's, and must not let a jump host pass for it. */
	const char *pins = t->jump ? NULL : cv_options_str(t->options, "host_key", NULL);
	int r = cv_ssh_hosts_check(&l->hosts, t, type, base64, fingerprint, pins != NULL, l->err);

	if (pins && r == 0 && !pin_matches(pins, fingerprint, base64)) {
		(void)cv_fail(l->err, EKEYREJECTED,
			      "sftp: HOST KEY DOES NOT MATCH: %s port %u offers %s %s, not the "
			      "host_key that is set: this may be an attack. If the server really "
			      "has this key, set host_key=%s",
			      t->host, t->port, type, fingerprint, fingerprint);
		return -EAGAIN;
	}
	return r == -ENOENT ? host_unknown(l, type, base64, fingerprint) : r;
}

static int check_host_key(struct cv_ssh_login *l)
{
	ssh_key key = NULL;
	unsigned char *hash = NULL;
	size_t hash_len = 0;
	char *fingerprint = NULL;
	char *base64 = NULL;
	const char *type;
	int r;

	l->limit->step = cv_step("checking the host key");
	if (ssh_get_server_publickey(l->session, &key) < 0)
		return cv_ssh_login_failed(l, EPROTO);
	/* As files and ssh-keygen write it; "ecdsa-sha2-nistp256" has its curve in it. */
	type = ssh_key_type_to_char(ssh_key_type(key));
	if (ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &hash_len) == 0)
		fingerprint = ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, hash_len);
	if (fingerprint && ssh_pki_export_pubkey_base64(key, &base64) == SSH_OK)
		r = judge_host_key(l, type, base64, fingerprint);
	else
		r = cv_fail(l->err, ENOMEM, "sftp: %s: cannot read the host key", l->target->name);
	ssh_string_free_char(fingerprint);
	ssh_string_free_char(base64);
	ssh_clean_pubkey_hash(&hash);
	ssh_key_free(key);
	return r;
}

/* ---- the whole ---- */

/* Up to a host key that is accepted. */
static int reach(struct cv_ssh_login *l)
{
	int r = connect_socket(l);

	if (r < 0)
		return r;
	l->session = ssh_new();
	if (!l->session) {
		cv_close_fd(&l->fd);
		cv_ssh_login_undo(l);
		return cv_fail(l->err, ENOMEM, "sftp: out of memory");
	}
	if (l->counter) {
		memset(l->counter, 0, sizeof(*l->counter));
		ssh_set_counters(l->session, l->counter, NULL);
	}
	r = set_session_options(l);
	if (r < 0)
		cv_close_fd(&l->fd);
	else
		r = key_exchange(l);
	if (r == 0)
		r = check_host_key(l);
	if (r < 0)
		cv_ssh_login_undo(l);
	return r;
}

/*
 * A server has keys of several kinds and shows one. A pin does not say of which kind it is, so each
 * is asked for until one fits.
 */
static int reach_pinned(struct cv_ssh_login *l, int first)
{
	static const char *const kinds[] = {
		"ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521",
		"rsa-sha2-512,rsa-sha2-256",
		"ssh-ed25519",
	};
	struct cv_err err = *l->err;
	int r = first;

	for (size_t i = 0; r == -EAGAIN && i < CV_ARRAY_SIZE(kinds); i++) {
		l->algorithms = kinds[i];
		r = reach(l);
		if (r == -EPROTO)
			r = -EAGAIN; /* the server has none of that kind */
	}
	if (r == -EAGAIN || r == -EPROTO) {
		*l->err = err;
		return err.code;
	}
	return r;
}

int cv_ssh_login(struct cv_ssh_login *l)
{
	int r;

	l->session = NULL;
	l->fd = -1;
	l->tunnel = NULL;
	r = cv_ssh_hosts_read(l->target, &l->hosts, l->err);
	if (r < 0)
		return r;
	r = reach(l);
	if (r == -EAGAIN)
		r = reach_pinned(l, r);
	if (r == 0)
		r = cv_ssh_authenticate(l);
	cv_ssh_hosts_release(&l->hosts);
	if (r < 0)
		cv_ssh_login_undo(l);
	return r;
}
