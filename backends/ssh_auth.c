/* SPDX-License-Identifier: Apache-2.0 */
/* Authentication: keys and certificates in the order given, the agent, then the password. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "backends/ssh_cert.h"
#include "backends/ssh_login.h"
#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/step.h"
#include "config/str.h"

#define PASSWORD_MAX 4096

static void note_tried(struct cv_ssh_login *l, const char *what)
{
	size_t n = strlen(l->tried);

	(void)snprintf(l->tried + n, sizeof(l->tried) - n, "%s%s", n ? ", " : "", what);
}

/* Repeats a libssh authentication call while it says AGAIN. */
#define AUTH_STEP(l, ret, call)                                                                    \
	do {                                                                                       \
		(ret) = (call);                                                                    \
		if ((ret) == SSH_AUTH_AGAIN && ((ret) = cv_ssh_login_wait(l)) == 0)                \
			(ret) = SSH_AUTH_AGAIN;                                                    \
	} while ((ret) == SSH_AUTH_AGAIN)

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
	if (!*buf)
		return cv_fail(err, EINVAL, "sftp: %s '%s' is empty: %s", option, path,
			       n > 0 ? "its first line must be the secret"
				     : "put the secret into it");
	return 0;
}

/* ---- keys ---- */

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

static int load_key(struct cv_ssh_login *l, const char *file, ssh_key *ret_key)
{
	const char *pass_file = cv_options_str(l->target->options, "key_passphrase_file", NULL);
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

static int try_one(struct cv_ssh_login *l, const char *kind, const char *file, ssh_key key)
{
	char what[400];
	int r;

	(void)snprintf(what, sizeof(what), "%s (%s)", kind, file);
	note_tried(l, what);
	AUTH_STEP(l, r, ssh_userauth_publickey(l->session, NULL, key));
	return r;
}

/* Returns 0, -errno (unreadable), or -EINVAL (no certificate). */
static int read_certificate(const char *file, const char *user, struct cv_ssh_cert *ret_cert)
{
	cv_cleanup_fclose FILE *f = fopen(file, "re");
	cv_cleanup_free char *text = NULL;
	size_t size = 0;

	if (!f)
		return -errno;
	return getline(&text, &size, f) > 0 ? cv_ssh_cert_parse(text, user, ret_cert) : -EINVAL;
}

static bool certificate_fits(const struct cv_ssh_cert *info, const ssh_key key)
{
	char *base64 = NULL;
	bool fits = ssh_pki_export_pubkey_base64(key, &base64) == SSH_OK &&
		    cv_ssh_cert_fits(info, base64);

	ssh_string_free_char(base64);
	return fits;
}

/* A server only says no. Keeps what we can see to be wrong, for the error. */
static void note_trouble(struct cv_ssh_login *l, const char *file, const struct cv_ssh_cert *info)
{
	char why[320];

	cv_ssh_cert_trouble(info, l->target->user, (uint64_t)time(NULL), why, sizeof(why));
	if (*why && !*l->trouble)
		(void)snprintf(l->trouble, sizeof(l->trouble),
			       "; the certificate '%s' will not do: %s", file, why);
}

/* Tries key with the certificate in file, if that belongs to it. */
static int try_certificate(struct cv_ssh_login *l, const char *key_file, const char *file)
{
	struct cv_ssh_cert info;
	ssh_key cert = NULL;
	ssh_key key = NULL; /* of its own: a certificate stays with the key it is put on */
	int r = SSH_AUTH_DENIED;

	if (read_certificate(file, l->target->user, &info) == 0 &&
	    load_key(l, key_file, &key) == 0 && certificate_fits(&info, key) &&
	    ssh_pki_import_cert_file(file, &cert) == SSH_OK &&
	    ssh_pki_copy_cert_to_privkey(cert, key) == SSH_OK) {
		l->certificate_used = true;
		note_trouble(l, file, &info);
		r = try_one(l, "certificate", file, key);
	}
	ssh_key_free(cert);
	ssh_key_free(key);
	return r;
}

/* Returns an SSH_AUTH_ code or -errno with err set. */
static int try_key(struct cv_ssh_login *l, const char *file)
{
	const struct cv_ssh_list *certs = &l->target->certs;
	cv_cleanup_free char *beside = cv_sprintf("%s-cert.pub", file);
	ssh_key key = NULL;
	int r = load_key(l, file, &key);

	if (r < 0) {
		if (l->target->keys_named)
			return r;
		cv_debug("%s", l->err->text);
		return SSH_AUTH_DENIED;
	}
	r = SSH_AUTH_DENIED;
	for (size_t i = 0; i < certs->count && r == SSH_AUTH_DENIED; i++)
		r = try_certificate(l, file, certs->item[i]);
	if (r == SSH_AUTH_DENIED && beside && access(beside, R_OK) == 0)
		r = try_certificate(l, file, beside);
	if (r == SSH_AUTH_DENIED)
		r = try_one(l, "publickey", file, key);
	ssh_key_free(key);
	return r;
}

/* A certificate that cannot be read, or fits no key, would otherwise be passed over in silence. */
static int check_certificates(struct cv_ssh_login *l)
{
	const struct cv_ssh_list *certs = &l->target->certs;

	for (size_t i = 0; i < certs->count; i++) {
		const char *file = certs->item[i];
		struct cv_ssh_cert info;
		int r = read_certificate(file, l->target->user, &info);

		if (r == -EINVAL)
			return cv_fail(l->err, EINVAL,
				       "sftp: cert_file '%s' is not an OpenSSH certificate (a "
				       "file like id_ed25519-cert.pub)",
				       file);
		if (r < 0)
			return cv_fail(l->err, r, "sftp: cannot read cert_file '%s': %s", file,
				       cv_strerror(r));
	}
	return 0;
}

static int try_agent(struct cv_ssh_login *l, const char *path)
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
	if (ssh_options_set(l->session, SSH_OPTIONS_IDENTITY_AGENT, path) < 0)
		return cv_ssh_login_failed(l, EINVAL);
	AUTH_STEP(l, r, ssh_userauth_agent(l->session, NULL));
	return r;
}

static int try_public_keys(struct cv_ssh_login *l)
{
	const struct cv_ssh_target *t = l->target;
	int r = check_certificates(l);

	if (r < 0)
		return r;
	r = SSH_AUTH_DENIED;
	for (size_t i = 0; i < t->keys.count && r == SSH_AUTH_DENIED; i++)
		r = try_key(l, t->keys.item[i]);
	if (r == SSH_AUTH_DENIED && t->certs.count > 0 && t->keys.count > 0 && !l->certificate_used)
		return cv_fail(l->err, EINVAL, "sftp: cert_file '%s' belongs to none of the keys",
			       t->certs.item[0]);
	if (t->agent && r == SSH_AUTH_DENIED)
		r = try_agent(l, t->agent);
	return r;
}

/* ---- passwords ---- */

static int answer_prompts(struct cv_ssh_login *l, const char *password)
{
	ssh_session s = l->session;
	int n = ssh_userauth_kbdint_getnprompts(s);

	for (int i = 0; i < n; i++) {
		char echo = 1;

		(void)ssh_userauth_kbdint_getprompt(s, (unsigned)i, &echo);
		if (ssh_userauth_kbdint_setanswer(s, (unsigned)i, echo ? "" : password) < 0)
			return cv_ssh_login_failed(l, EIO);
	}
	return n;
}

static int try_keyboard(struct cv_ssh_login *l, const char *password)
{
	int answered = 0;
	int r;

	note_tried(l, "keyboard-interactive");
	/* Rounds without prompts are normal; a server that asks for ever is not. */
	for (int round = 0; round < 10; round++) {
		AUTH_STEP(l, r, ssh_userauth_kbdint(l->session, NULL, NULL));
		if (r != SSH_AUTH_INFO)
			return r;
		/* Asked again: the password was wrong, and would only be so again. */
		if (answered > 0 && ssh_userauth_kbdint_getnprompts(l->session) > 0)
			break;
		r = answer_prompts(l, password);
		if (r < 0)
			return r;
		answered += r;
	}
	return SSH_AUTH_DENIED;
}

static int try_passwords(struct cv_ssh_login *l, unsigned methods)
{
	const char *file = cv_options_str(l->target->options, "password_file", NULL);
	char password[PASSWORD_MAX];
	int r;

	if (!file || l->target->jump) /* a jump host has no business with it */
		return SSH_AUTH_DENIED;
	r = read_secret("password_file", file, password, sizeof(password), l->err);
	if (r < 0)
		return r;
	r = SSH_AUTH_DENIED;
	if (methods & SSH_AUTH_METHOD_PASSWORD) {
		note_tried(l, "password");
		AUTH_STEP(l, r, ssh_userauth_password(l->session, NULL, password));
	}
	if (r == SSH_AUTH_DENIED && (methods & SSH_AUTH_METHOD_INTERACTIVE))
		r = try_keyboard(l, password);
	cv_wipe(password, sizeof(password));
	return r;
}

/* ---- the whole ---- */

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

static int auth_failed(struct cv_ssh_login *l, unsigned methods, int result)
{
	const struct cv_ssh_target *t = l->target;
	char accepts[128];

	if (result == SSH_AUTH_ERROR && !ssh_is_connected(l->session))
		return cv_fail(l->err, EACCES,
			       "sftp: %s closed the connection while authenticating '%s' (tried "
			       "%s): %s",
			       t->name, t->user, *l->tried ? l->tried : "nothing",
			       ssh_get_error(l->session));
	methods_text(methods, accepts, sizeof(accepts));
	return cv_fail(l->err, EACCES,
		       "sftp: %s%s refused to let in '%s': tried %s; the server accepts %s%s. "
		       "Check user, key_file, password_file or agent_socket",
		       t->jump ? "jump host " : "", t->name, t->user,
		       *l->tried ? l->tried
				 : "nothing (no key_file, password_file or agent_socket)",
		       *accepts ? accepts : "nothing", l->trouble);
}

int cv_ssh_authenticate(struct cv_ssh_login *l)
{
	unsigned methods;
	bool keys_done = false;
	bool passwords_done = false;
	int r;

	l->limit->step = cv_step("authentication");
	AUTH_STEP(l, r, ssh_userauth_none(l->session, NULL));
	if (r == SSH_AUTH_ERROR)
		return cv_ssh_login_failed(l, EPROTO);
	/* A server may want several methods one after another: each success is "partial". */
	while (r >= 0 && r != SSH_AUTH_SUCCESS) {
		methods = (unsigned)ssh_userauth_list(l->session, NULL);
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
		if (r == SSH_AUTH_ERROR)
			return auth_failed(l, methods, r);
	}
	return r < 0 ? r : 0; /* below 0: ours, and err is set */
}
