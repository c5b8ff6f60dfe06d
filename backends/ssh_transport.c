/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libssh lives here and nowhere else. The whole login runs with the session in non-blocking mode
 * and a poll(2) of our own between the steps, so that one deadline covers all of it and another
 * thread can cancel it.
 *
 * What libssh 0.10 needs from its user, none of which it documents:
 *  - it takes O_NONBLOCK off the socket once connected; send() would then block the loop;
 *  - a stream that fails its integrity check is reported by ssh_get_status() alone;
 *  - ssh_channel_write() with a closed window polls by itself, so the window is looked at first;
 *  - the receive window is only raised by asking to read more than it holds.
 */
#include "backends/ssh_transport.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libssh/callbacks.h>
#include <libssh/libssh.h>
#include <libssh/server.h> /* ssh_send_keepalive() */
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"

#define TURNS_MAX	16	     /* dopoll calls per cv_ssh_turn(); each reads at most 4 KiB */
#define UNSENT_MAX	(512 * 1024) /* bytes in libssh's output buffer */
#define STEP_POLL_MS	50	     /* libssh may hold what a step waits for in its own buffer */
#define PASSWORD_MAX	4096
#define DEFAULT_KNOWN_1 "/etc/cvol/known_hosts"
#define DEFAULT_KNOWN_2 ".ssh/known_hosts"

struct cv_ssh {
	ssh_session session;
	ssh_channel channel;
	ssh_event event;
	struct ssh_channel_callbacks_struct callbacks;
	struct ssh_counter_struct counter; /* of the socket */
	int fd;				   /* ours to close while owned, else libssh's */
	bool fd_owned;
	bool ended; /* peer sent EOF or closed the channel */
	void (*data)(void *user, const uint8_t *p, size_t n);
	void *user;
	uint64_t handed;   /* bytes given to libssh, ever */
	uint64_t sync_out; /* counter.out_bytes and handed when its buffer was last seen empty */
	uint64_t sync_handed;
	uint32_t window;  /* wanted receive window; 0: leave it alone */
	void *window_buf; /* window bytes, never touched */
	uint64_t window_in;
	char error[256];
	char server[128];
	char cipher[64];
};

struct login {
	struct cv_ssh *ssh;
	const struct cv_dict *options;
	struct cv_ssh_limit *limit;
	struct cv_err *err;
	const char *host;
	unsigned port;
	const char *user;
	char known[2][512]; /* files that may know the host; "" if none */
	char tried[512];    /* authentication methods, for the error */
};

/* ---- small helpers ---- */

static void set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0 && !(flags & O_NONBLOCK))
		(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* Between two tries of a libssh step. */
static int step_wait(struct login *l)
{
	short events = POLLIN;
	int r;

	set_nonblocking(l->ssh->fd);
	if (ssh_get_poll_flags(l->ssh->session) & SSH_WRITE_PENDING)
		events |= POLLOUT;
	r = cv_ssh_wait(l->limit, l->ssh->fd, events, STEP_POLL_MS);
	if (r >= 0)
		return 0;
	return cv_fail(l->err, r, "sftp: %s: %s: %s", l->host, l->limit->step, cv_strerror(r));
}

static int step_failed(struct login *l, int code)
{
	const char *text = ssh_get_error(l->ssh->session);

	return cv_fail(l->err, code, "sftp: %s: %s: %s", l->host, l->limit->step,
		       *text ? text : "connection closed by the server");
}

static const char *home_dir(void)
{
	const char *home = getenv("HOME");

	/* A service has no HOME; the worker runs as root. */
	return home && *home == '/' ? home : "/root";
}

/* First line of a secret file. buf is the caller's to wipe. */
static int read_secret(const char *option, const char *path, char *buf, size_t size,
		       struct cv_err *err)
{
	cv_cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return cv_fail(err, errno, "sftp: cannot read %s '%s': %s", option, path,
			       cv_strerror(errno));
	n = read(fd, buf, size - 1);
	if (n < 0)
		return cv_fail(err, errno, "sftp: cannot read %s '%s': %s", option, path,
			       cv_strerror(errno));
	buf[n] = '\0';
	buf[strcspn(buf, "\r\n")] = '\0';
	return 0;
}

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

/* ---- key exchange ---- */

/* GCM is cheapest with AES instructions, ChaCha20 without; libssh prefers the latter always. */
#define GCM    "aes128-gcm@openssh.com,aes256-gcm@openssh.com"
#define CHACHA "chacha20-poly1305@openssh.com"
#define CTR    "aes128-ctr,aes192-ctr,aes256-ctr"

/* What the user prefers; libssh refuses lists in which it knows nothing. */
static int set_preferences(struct login *l)
{
	static const struct {
		const char *option;
		enum ssh_options_e in, out;
	} lists[] = {
		{ "ciphers", SSH_OPTIONS_CIPHERS_S_C, SSH_OPTIONS_CIPHERS_C_S },
		{ "macs", SSH_OPTIONS_HMAC_S_C, SSH_OPTIONS_HMAC_C_S },
		{ "kex", SSH_OPTIONS_KEY_EXCHANGE, SSH_OPTIONS_KEY_EXCHANGE },
	};
	ssh_session s = l->ssh->session;

	for (size_t i = 0; i < CV_ARRAY_SIZE(lists); i++) {
		const char *value = cv_options_str(l->options, lists[i].option, NULL);

		if (value && (ssh_options_set(s, lists[i].in, value) < 0 ||
			      ssh_options_set(s, lists[i].out, value) < 0))
			return cv_fail(l->err, EINVAL,
				       "sftp: option %s: nothing in '%s' is known here",
				       lists[i].option, value);
	}
	if (cv_options_bool(l->options, "compression", false) &&
	    ssh_options_set(s, SSH_OPTIONS_COMPRESSION, "yes") < 0)
		return cv_fail(l->err, EINVAL, "sftp: option compression: %s", ssh_get_error(s));
	return 0;
}

static int set_session_options(struct login *l)
{
	ssh_session s = l->ssh->session;
	const char *ciphers = cpu_has_aes() ? GCM "," CHACHA "," CTR : CHACHA "," GCM "," CTR;
	int no = 0;
	int yes = 1;

	if (ssh_options_set(s, SSH_OPTIONS_PROCESS_CONFIG, &no) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_HOST, l->host) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_PORT, &l->port) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_USER, l->user) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_NODELAY, &yes) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_CIPHERS_C_S, ciphers) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_CIPHERS_S_C, ciphers) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_COMPRESSION, "no") < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_KNOWNHOSTS, l->known[0]) < 0 ||
	    ssh_options_set(s, SSH_OPTIONS_GLOBAL_KNOWNHOSTS,
			    *l->known[1] ? l->known[1] : "/dev/null") < 0)
		return cv_fail(l->err, EINVAL, "sftp: %s: %s", l->host, ssh_get_error(s));
	return set_preferences(l);
}

static int key_exchange(struct login *l)
{
	ssh_session s = l->ssh->session;
	int r;

	l->limit->step = "key exchange";
	if (ssh_options_set(s, SSH_OPTIONS_FD, &l->ssh->fd) < 0)
		return step_failed(l, EIO);
	ssh_set_blocking(s, 0);
	l->ssh->fd_owned = false;
	while ((r = ssh_connect(s)) == SSH_AGAIN) {
		int w = step_wait(l);

		if (w < 0)
			return w;
	}
	if (r != SSH_OK)
		return step_failed(l, EPROTO);
	set_nonblocking(l->ssh->fd);
	(void)cv_strcpy(l->ssh->server, sizeof(l->ssh->server),
			ssh_get_serverbanner(s) ? ssh_get_serverbanner(s) : "");
	(void)cv_strcpy(l->ssh->cipher, sizeof(l->ssh->cipher),
			ssh_get_cipher_in(s) ? ssh_get_cipher_in(s) : "");
	return 0;
}

/* ---- host key ---- */

static int find_known_hosts(struct login *l)
{
	const char *file = cv_options_str(l->options, "known_hosts", NULL);
	const char *policy = cv_options_str(l->options, "host_key_policy", "strict");
	bool pinned = cv_options_str(l->options, "host_key", NULL);

	if (file) {
		(void)cv_strcpy(l->known[0], sizeof(l->known[0]), file);
		if (!pinned && strcmp(policy, "strict") == 0 && access(file, R_OK) < 0)
			return cv_fail(l->err, errno, "sftp: cannot read known_hosts '%s': %s",
				       file, cv_strerror(errno));
		return 0;
	}
	(void)cv_strcpy(l->known[0], sizeof(l->known[0]), DEFAULT_KNOWN_1);
	(void)snprintf(l->known[1], sizeof(l->known[1]), "%s/" DEFAULT_KNOWN_2, home_dir());
	return 0;
}

/* libssh knows no "@revoked" lines: it would see an unknown host. */
static bool key_revoked(const char *file, const char *base64)
{
	cv_cleanup_fclose FILE *f = *file ? fopen(file, "re") : NULL;
	cv_cleanup_free char *line = NULL;
	size_t size = 0;

	while (f && getline(&line, &size, f) > 0) {
		char *save = NULL;
		char *word = strtok_r(line, " \t\r\n", &save);

		if (!word || strcmp(word, "@revoked") != 0)
			continue;
		while ((word = strtok_r(NULL, " \t\r\n", &save))) {
			if (strcmp(word, base64) == 0)
				return true;
		}
	}
	return false;
}

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

static int host_key_known(struct login *l, const char *type, const char *fingerprint)
{
	ssh_session s = l->ssh->session;
	const char *policy = cv_options_str(l->options, "host_key_policy", "strict");
	enum ssh_known_hosts_e state = ssh_session_is_known_server(s);
	char where[1100];
	char name[300];
	mode_t mask;
	int updated;

	(void)snprintf(where, sizeof(where), "%s%s%s", l->known[0], *l->known[1] ? " or " : "",
		       l->known[1]);
	if (l->port == 22)
		(void)snprintf(name, sizeof(name), "%s", l->host);
	else
		(void)snprintf(name, sizeof(name), "[%s]:%u", l->host, l->port);
	switch (state) {
	case SSH_KNOWN_HOSTS_OK:
		return 0;
	case SSH_KNOWN_HOSTS_CHANGED:
	case SSH_KNOWN_HOSTS_OTHER:
		return cv_fail(l->err, EKEYREJECTED,
			       "sftp: HOST KEY CHANGED: %s now offers %s %s, which is not the key "
			       "recorded in %s: this may be an attack. If the server really has a "
			       "new key, remove the old one (ssh-keygen -R '%s' -f FILE) and set "
			       "host_key=%s",
			       name, type, fingerprint, where, name, fingerprint);
	case SSH_KNOWN_HOSTS_UNKNOWN:
	case SSH_KNOWN_HOSTS_NOT_FOUND:
		break;
	case SSH_KNOWN_HOSTS_ERROR:
		return cv_fail(l->err, EKEYREJECTED, "sftp: checking the host key of %s in %s: %s",
			       name, where, ssh_get_error(s));
	}
	if (strcmp(policy, "accept-new") != 0)
		return cv_fail(l->err, EKEYREJECTED,
			       "sftp: host key of %s is not known: it offers %s %s and %s has no "
			       "line for it. If that is the server's key, set host_key=%s",
			       name, type, fingerprint, where, fingerprint);
	/* The file decides whom we trust: only root may write it. (A worker of this engine makes no
	 * other files on this host, so the process-wide umask disturbs nobody.) */
	mask = umask(077);
	updated = ssh_session_update_known_hosts(s);
	(void)umask(mask);
	if (updated != SSH_OK)
		return cv_fail(l->err, EIO,
			       "sftp: host_key_policy=accept-new: cannot add the key of %s to %s: "
			       "%s; set known_hosts to a file that can be written",
			       name, l->known[0], ssh_get_error(s));
	cv_notice("sftp: accepted the new host key of %s, %s %s, into %s", name, type, fingerprint,
		  l->known[0]);
	return 0;
}

static int check_host_key(struct login *l)
{
	const char *pins = cv_options_str(l->options, "host_key", NULL);
	ssh_key key = NULL;
	unsigned char *hash = NULL;
	size_t hash_len = 0;
	char *fingerprint = NULL;
	char *base64 = NULL;
	const char *type;
	int r;

	l->limit->step = "checking the host key";
	if (ssh_get_server_publickey(l->ssh->session, &key) < 0)
		return step_failed(l, EPROTO);
	type = ssh_key_type_to_char(ssh_key_type(key));
	if (ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &hash_len) == 0)
		fingerprint = ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, hash_len);
	if (!fingerprint || ssh_pki_export_pubkey_base64(key, &base64) != SSH_OK)
		r = cv_fail(l->err, ENOMEM, "sftp: %s: cannot read the host key", l->host);
	else if (key_revoked(l->known[0], base64) || key_revoked(l->known[1], base64))
		r = cv_fail(l->err, EKEYREJECTED,
			    "sftp: %s offers the host key %s %s, which is marked @revoked", l->host,
			    type, fingerprint);
	else if (!pins)
		r = host_key_known(l, type, fingerprint);
	else if (pin_matches(pins, fingerprint, base64))
		r = 0;
	else
		r = cv_fail(l->err, EKEYREJECTED,
			    "sftp: HOST KEY DOES NOT MATCH: %s port %u offers %s %s, not the "
			    "host_key that is set: this may be an attack. If the server really has "
			    "this key, set host_key=%s",
			    l->host, l->port, type, fingerprint, fingerprint);
	ssh_string_free_char(fingerprint);
	ssh_string_free_char(base64);
	ssh_clean_pubkey_hash(&hash);
	ssh_key_free(key);
	return r;
}

/* ---- authentication ---- */

static void note_tried(struct login *l, const char *what)
{
	size_t n = strlen(l->tried);

	(void)snprintf(l->tried + n, sizeof(l->tried) - n, "%s%s", n ? ", " : "", what);
}

/* Repeats a libssh authentication call while it says AGAIN. */
#define AUTH_STEP(l, ret, call)                                                                    \
	do {                                                                                       \
		while (((ret) = (call)) == SSH_AUTH_AGAIN) {                                       \
			int w_ = step_wait(l);                                                     \
			if (w_ < 0)                                                                \
				return w_;                                                         \
		}                                                                                  \
	} while (0)

static int needs_passphrase(const char *prompt, char *buf, size_t len, int echo, int verify,
			    void *userdata)
{
	(void)prompt;
	(void)buf;
	(void)len;
	(void)echo;
	(void)verify;
	*(bool *)userdata = true;
	return -1; /* nobody to ask; without this function OpenSSL would ask the terminal */
}

/* An OpenSSH certificate beside the key is used with it. */
static ssh_key with_certificate(const char *file, ssh_key key)
{
	cv_cleanup_free char *name = cv_sprintf("%s-cert.pub", file);
	ssh_key cert = NULL;
	bool ok;

	if (!name || access(name, R_OK) < 0 || ssh_pki_import_cert_file(name, &cert) != SSH_OK)
		return NULL;
	ok = ssh_pki_copy_cert_to_privkey(cert, key) == SSH_OK;
	if (ok)
		return cert;
	ssh_key_free(cert);
	return NULL;
}

static int load_key(struct login *l, const char *file, ssh_key *ret_key)
{
	const char *pass_file = cv_options_str(l->options, "key_passphrase_file", NULL);
	char pass[PASSWORD_MAX] = "";
	bool asked = false;
	struct stat st;
	int r;

	if (stat(file, &st) < 0 || access(file, R_OK) < 0)
		return cv_fail(l->err, errno, "sftp: cannot read key_file '%s': %s", file,
			       cv_strerror(errno));
	if (st.st_mode & 077)
		cv_warning("sftp: key_file '%s' can be read by others (mode %04o): chmod 600 it",
			   file, st.st_mode & 07777);
	if (pass_file) {
		r = read_secret("key_passphrase_file", pass_file, pass, sizeof(pass), l->err);
		if (r < 0)
			return r;
	}
	r = ssh_pki_import_privkey_file(file, pass_file ? pass : NULL, needs_passphrase, &asked,
					ret_key);
	cv_wipe(pass, sizeof(pass));
	if (r == SSH_OK)
		return 0;
	if (asked)
		return cv_fail(l->err, EACCES,
			       "sftp: key_file '%s' is encrypted: set key_passphrase_file", file);
	return cv_fail(l->err, EINVAL,
		       "sftp: cannot use key_file '%s': not a private key that libssh can read%s",
		       file, pass_file ? ", or the passphrase is wrong" : "");
}

/* Returns an SSH_AUTH_ code or -errno with err set. */
static int try_key(struct login *l, const char *file, bool required)
{
	ssh_session s = l->ssh->session;
	ssh_key key = NULL;
	ssh_key cert;
	char what[300];
	int r = load_key(l, file, &key);

	if (r < 0) {
		if (required)
			return r;
		cv_debug("%s", l->err->text);
		return SSH_AUTH_DENIED;
	}
	cert = with_certificate(file, key);
	(void)snprintf(what, sizeof(what), "publickey (%s)", file);
	note_tried(l, what);
	for (;;) {
		r = ssh_userauth_publickey(s, NULL, key);
		if (r == SSH_AUTH_AGAIN && (r = step_wait(l)) == 0)
			continue;
		break;
	}
	ssh_key_free(cert);
	ssh_key_free(key);
	return r;
}

static int try_agent(struct login *l, const char *path)
{
	cv_cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int r;

	if (!cv_strcpy(addr.sun_path, sizeof(addr.sun_path), path))
		return cv_fail(l->err, ENAMETOOLONG, "sftp: agent_socket '%s': name too long",
			       path);
	/* libssh would only say "denied" for an agent that is not there. */
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return cv_fail(l->err, errno, "sftp: no agent at agent_socket '%s': %s", path,
			       cv_strerror(errno));
	note_tried(l, "publickey (agent)");
	if (ssh_options_set(l->ssh->session, SSH_OPTIONS_IDENTITY_AGENT, path) < 0)
		return step_failed(l, EINVAL);
	AUTH_STEP(l, r, ssh_userauth_agent(l->ssh->session, NULL));
	return r;
}

static int try_default_keys(struct login *l)
{
	static const char *const names[] = { "id_ed25519", "id_ecdsa", "id_rsa" };
	int r = SSH_AUTH_DENIED;

	for (size_t i = 0; i < CV_ARRAY_SIZE(names) && r == SSH_AUTH_DENIED; i++) {
		cv_cleanup_free char *file = cv_sprintf("%s/.ssh/%s", home_dir(), names[i]);

		if (file && access(file, R_OK) == 0)
			r = try_key(l, file, false);
	}
	return r;
}

static int try_public_keys(struct login *l)
{
	const char *file = cv_options_str(l->options, "key_file", NULL);
	const char *agent = cv_options_str(l->options, "agent_socket", NULL);
	int r = SSH_AUTH_DENIED;

	if (file)
		r = try_key(l, file, true);
	if (agent && r == SSH_AUTH_DENIED)
		r = try_agent(l, agent);
	/* With other credentials named, the defaults would only use up the server's patience. */
	if (!file && !agent && !cv_options_str(l->options, "password_file", NULL))
		r = try_default_keys(l);
	return r;
}

static int answer_prompts(struct login *l, const char *password)
{
	ssh_session s = l->ssh->session;
	int n = ssh_userauth_kbdint_getnprompts(s);

	for (int i = 0; i < n; i++) {
		char echo = 1;

		(void)ssh_userauth_kbdint_getprompt(s, (unsigned)i, &echo);
		if (ssh_userauth_kbdint_setanswer(s, (unsigned)i, echo ? "" : password) < 0)
			return step_failed(l, EIO);
	}
	return n;
}

static int try_keyboard(struct login *l, const char *password)
{
	ssh_session s = l->ssh->session;
	int answered = 0;
	int r;

	note_tried(l, "keyboard-interactive");
	/* Rounds without prompts are normal; a server that asks for ever is not. */
	for (int round = 0; round < 10; round++) {
		AUTH_STEP(l, r, ssh_userauth_kbdint(s, NULL, NULL));
		if (r != SSH_AUTH_INFO)
			return r;
		r = answer_prompts(l, password);
		if (r < 0)
			return r;
		answered += r;
		if (answered > 4)
			break;
	}
	return SSH_AUTH_DENIED;
}

static int try_passwords(struct login *l, unsigned methods)
{
	const char *file = cv_options_str(l->options, "password_file", NULL);
	char password[PASSWORD_MAX];
	int r;

	if (!file)
		return SSH_AUTH_DENIED;
	r = read_secret("password_file", file, password, sizeof(password), l->err);
	if (r < 0)
		return r;
	r = SSH_AUTH_DENIED;
	if (methods & SSH_AUTH_METHOD_PASSWORD) {
		note_tried(l, "password");
		for (;;) {
			r = ssh_userauth_password(l->ssh->session, NULL, password);
			if (r == SSH_AUTH_AGAIN && (r = step_wait(l)) == 0)
				continue;
			break;
		}
	} else if (methods & SSH_AUTH_METHOD_INTERACTIVE) {
		r = try_keyboard(l, password);
	}
	cv_wipe(password, sizeof(password));
	return r;
}

static void methods_text(unsigned methods, char *text, size_t size)
{
	static const struct {
		unsigned bit;
		const char *name;
	} names[] = {
		{ SSH_AUTH_METHOD_PUBLICKEY, "publickey" },
		{ SSH_AUTH_METHOD_PASSWORD, "password" },
		{ SSH_AUTH_METHOD_INTERACTIVE, "keyboard-interactive" },
		{ SSH_AUTH_METHOD_HOSTBASED, "hostbased" },
		{ SSH_AUTH_METHOD_GSSAPI_MIC, "gssapi-with-mic" },
	};
	size_t n = 0;

	text[0] = '\0';
	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++) {
		if ((methods & names[i].bit) && n < size)
			n += (size_t)snprintf(text + n, size - n, "%s%s", n ? ", " : "",
					      names[i].name);
	}
}

static int auth_failed(struct login *l, unsigned methods, int result)
{
	char offers[128];

	if (result == SSH_AUTH_ERROR && !ssh_is_connected(l->ssh->session))
		return cv_fail(l->err, EACCES,
			       "sftp: %s closed the connection while authenticating '%s' (tried "
			       "%s): %s",
			       l->host, l->user, *l->tried ? l->tried : "nothing",
			       ssh_get_error(l->ssh->session));
	methods_text(methods, offers, sizeof(offers));
	return cv_fail(l->err, EACCES,
		       "sftp: %s refused to let in '%s': tried %s; the server offers %s. Check "
		       "user, key_file, password_file or agent_socket",
		       l->host, l->user,
		       *l->tried ? l->tried
				 : "nothing (no key_file, password_file or agent_socket)",
		       *offers ? offers : "nothing");
}

static int authenticate(struct login *l)
{
	ssh_session s = l->ssh->session;
	unsigned methods;
	bool keys_done = false;
	bool passwords_done = false;
	int r;

	l->limit->step = "authentication";
	AUTH_STEP(l, r, ssh_userauth_none(s, NULL));
	if (r == SSH_AUTH_SUCCESS)
		return 0;
	if (r == SSH_AUTH_ERROR)
		return step_failed(l, EPROTO);
	/* A server may want several methods one after another: each success is "partial". */
	for (;;) {
		methods = (unsigned)ssh_userauth_list(s, NULL);
		if ((methods & SSH_AUTH_METHOD_PUBLICKEY) && !keys_done) {
			keys_done = true;
			r = try_public_keys(l);
		} else if ((methods & (SSH_AUTH_METHOD_PASSWORD | SSH_AUTH_METHOD_INTERACTIVE)) &&
			   !passwords_done) {
			passwords_done = true;
			r = try_passwords(l, methods);
		} else {
			return auth_failed(l, methods, r);
		}
		if (r == SSH_AUTH_SUCCESS)
			return 0;
		if (r == SSH_AUTH_ERROR)
			return auth_failed(l, methods, r);
		if (r < 0) /* ours: err is set */
			return r;
	}
}

/* ---- channel ---- */

static int on_data(ssh_session session, ssh_channel channel, void *data, uint32_t len,
		   int is_stderr, void *userdata)
{
	struct cv_ssh *ssh = userdata;

	(void)session;
	(void)channel;
	if (is_stderr)
		cv_debug("sftp: server says: %.*s", len < 512 ? (int)len : 512, (char *)data);
	else if (ssh->data)
		ssh->data(ssh->user, data, len);
	return (int)len; /* what is left would be kept and moved with every packet */
}

static void on_eof(ssh_session session, ssh_channel channel, void *userdata)
{
	(void)session;
	(void)channel;
	((struct cv_ssh *)userdata)->ended = true;
}

static int open_channel(struct login *l)
{
	struct cv_ssh *ssh = l->ssh;
	int r;

	l->limit->step = "opening a channel";
	ssh->channel = ssh_channel_new(ssh->session);
	if (!ssh->channel)
		return step_failed(l, ENOMEM);
	while ((r = ssh_channel_open_session(ssh->channel)) == SSH_AGAIN) {
		int w = step_wait(l);

		if (w < 0)
			return w;
	}
	if (r != SSH_OK)
		return step_failed(l, EPROTO);
	l->limit->step = "starting the SFTP subsystem";
	while ((r = ssh_channel_request_sftp(ssh->channel)) == SSH_AGAIN) {
		int w = step_wait(l);

		if (w < 0)
			return w;
	}
	if (r != SSH_OK)
		return cv_fail(l->err, EPROTO,
			       "sftp: %s does not offer SFTP to '%s' (%s): enable the sftp "
			       "subsystem in its sshd_config",
			       l->host, l->user, ssh_get_error(ssh->session));
	ssh->callbacks.userdata = ssh;
	ssh->callbacks.channel_data_function = on_data;
	ssh->callbacks.channel_eof_function = on_eof;
	ssh->callbacks.channel_close_function = on_eof;
	ssh_callbacks_init(&ssh->callbacks);
	ssh->event = ssh_event_new();
	if (!ssh->event || ssh_set_channel_callbacks(ssh->channel, &ssh->callbacks) != SSH_OK ||
	    ssh_event_add_session(ssh->event, ssh->session) != SSH_OK)
		return step_failed(l, ENOMEM);
	ssh_channel_set_blocking(ssh->channel, 0);
	set_nonblocking(ssh->fd);
	return 0;
}

int cv_ssh_open(const struct cv_dict *options, struct cv_ssh_limit *limit, struct cv_ssh **ret_ssh,
		struct cv_err *err)
{
	struct cv_ssh *ssh = calloc(1, sizeof(*ssh));
	struct login l = {
		.ssh = ssh,
		.options = options,
		.limit = limit,
		.err = err,
		.host = cv_options_str(options, "host", ""),
		.port = (unsigned)cv_options_uint(options, "port", 22),
		.user = cv_options_str(options, "user", "root"),
	};
	uint64_t timeout_ms = cv_options_ms(options, "timeout", 30000);
	int r;

	if (!ssh)
		return cv_fail(err, ENOMEM, "sftp: out of memory");
	ssh->fd = -1;
	r = find_known_hosts(&l);
	if (r == 0)
		r = cv_ssh_tcp_connect(l.host, l.port, (unsigned)(timeout_ms * 2 / 3), limit,
				       &ssh->fd, err);
	if (r == 0) {
		ssh->fd_owned = true;
		ssh->session = ssh_new();
		if (!ssh->session)
			r = cv_fail(err, ENOMEM, "sftp: out of memory");
	}
	if (r == 0) {
		ssh_set_counters(ssh->session, &ssh->counter, NULL);
		r = set_session_options(&l);
	}
	if (r == 0)
		r = key_exchange(&l);
	if (r == 0)
		r = check_host_key(&l);
	if (r == 0)
		r = authenticate(&l);
	if (r == 0)
		r = open_channel(&l);
	if (r < 0) {
		cv_ssh_close(ssh);
		return r;
	}
	*ret_ssh = ssh;
	return 0;
}

void cv_ssh_close(struct cv_ssh *ssh)
{
	if (!ssh)
		return;
	ssh->data = NULL;
	if (ssh->event) {
		(void)ssh_event_remove_session(ssh->event, ssh->session);
		ssh_event_free(ssh->event);
	}
	if (ssh->session) {
		/* Frees the channel too. The socket is non-blocking: a good-bye that cannot be
		 * sent is dropped. */
		ssh_disconnect(ssh->session);
		ssh_free(ssh->session);
	}
	if (ssh->fd_owned)
		cv_close_fd(&ssh->fd);
	free(ssh->window_buf);
	free(ssh);
}

/* ---- running ---- */

void cv_ssh_set_data(struct cv_ssh *ssh, void (*data)(void *user, const uint8_t *p, size_t n),
		     void *user)
{
	ssh->data = data;
	ssh->user = user;
}

int cv_ssh_fd(const struct cv_ssh *ssh)
{
	return ssh->fd;
}

uint32_t cv_ssh_want(const struct cv_ssh *ssh)
{
	bool write = ssh_get_poll_flags(ssh->session) & SSH_WRITE_PENDING;

	return EPOLLIN | (write ? (uint32_t)EPOLLOUT : 0);
}

static int broken(struct cv_ssh *ssh)
{
	const char *text = ssh_get_error(ssh->session);

	if (!*ssh->error)
		(void)cv_strcpy(ssh->error, sizeof(ssh->error),
				*text	     ? text
				: ssh->ended ? "the server closed the SFTP channel"
					     : "connection lost");
	return -ECONNRESET;
}

/* The window is topped up once per quarter, outside the callbacks. */
static void raise_window(struct cv_ssh *ssh)
{
	int n;

	if (!ssh->window_buf || ssh->counter.in_bytes - ssh->window_in < ssh->window / 4)
		return;
	ssh->window_in = ssh->counter.in_bytes;
	n = ssh_channel_read_timeout(ssh->channel, ssh->window_buf, ssh->window, 0, 0);
	if (n > 0 && ssh->data)
		ssh->data(ssh->user, ssh->window_buf, (size_t)n);
}

int cv_ssh_turn(struct cv_ssh *ssh)
{
	for (int i = 0; i < TURNS_MAX; i++) {
		int r = ssh_event_dopoll(ssh->event, 0);

		if (r == SSH_ERROR || ssh->ended ||
		    (ssh_get_status(ssh->session) & (SSH_CLOSED | SSH_CLOSED_ERROR)))
			return broken(ssh);
		if (r == SSH_AGAIN)
			break;
	}
	raise_window(ssh);
	return 0;
}

const char *cv_ssh_error(const struct cv_ssh *ssh)
{
	return ssh->error;
}

/* libssh tells whether output is left, not how much; the socket's counter fills in the rest. */
static uint64_t unsent(struct cv_ssh *ssh)
{
	uint64_t given = ssh->handed - ssh->sync_handed;
	uint64_t gone = ssh->counter.out_bytes - ssh->sync_out;

	if (!(ssh_get_status(ssh->session) & SSH_WRITE_PENDING)) {
		ssh->sync_handed = ssh->handed;
		ssh->sync_out = ssh->counter.out_bytes;
		return 0;
	}
	return given > gone ? given - gone : 1;
}

size_t cv_ssh_room(struct cv_ssh *ssh)
{
	uint64_t waiting = unsent(ssh);
	uint32_t window = ssh_channel_window_size(ssh->channel);

	if (waiting >= UNSENT_MAX)
		return 0;
	return window < UNSENT_MAX - waiting ? window : (size_t)(UNSENT_MAX - waiting);
}

ssize_t cv_ssh_send(struct cv_ssh *ssh, const void *data, size_t size)
{
	size_t room = cv_ssh_room(ssh);
	int n;

	if (size > room)
		size = room;
	if (size == 0)
		return 0;
	n = ssh_channel_write(ssh->channel, data, (uint32_t)size);
	if (n < 0)
		return broken(ssh);
	ssh->handed += (uint64_t)n;
	return n;
}

void cv_ssh_set_window(struct cv_ssh *ssh, uint32_t size_bytes)
{
	void *buf;

	if (size_bytes <= ssh->window)
		return;
	/* Only there because a read must have somewhere to go: the callback takes everything, so
	 * the pages are never touched and cost nothing. */
	buf = malloc(size_bytes);
	if (!buf)
		return;
	free(ssh->window_buf);
	ssh->window_buf = buf;
	ssh->window = size_bytes;
	ssh->window_in = 0;
}

void cv_ssh_provoke(struct cv_ssh *ssh)
{
	(void)ssh_send_keepalive(ssh->session);
}

uint64_t cv_ssh_bytes_in(const struct cv_ssh *ssh)
{
	return ssh->counter.in_bytes;
}

const char *cv_ssh_server(const struct cv_ssh *ssh)
{
	return ssh->server;
}

const char *cv_ssh_cipher(const struct cv_ssh *ssh)
{
	return ssh->cipher;
}
