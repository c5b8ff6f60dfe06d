/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/ssh_hosts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"

void cv_ssh_hosts_release(struct cv_ssh_hosts *hosts)
{
	for (size_t i = 0; i < hosts->count; i++) {
		free(hosts->line[i].type);
		free(hosts->line[i].base64);
	}
	hosts->count = 0;
}

/* ---- reading ---- */

static bool hashed_match(const char *name, const char *hosts, const char *type, const char *base64)
{
	cv_cleanup_free char *line = cv_sprintf("%s %s %s", hosts, type, base64);
	struct ssh_knownhosts_entry *entry = NULL;
	bool match;

	/* The one use of libssh here: it has the HMAC-SHA1 that such names are made of. */
	match = line && ssh_known_hosts_parse_line(name, line, &entry) == SSH_OK;
	SSH_KNOWNHOSTS_ENTRY_FREE(entry);
	return match;
}

static bool names_match(const char *name, const char *hosts, const char *type, const char *base64)
{
	if (hosts[0] == '|')
		return hashed_match(name, hosts, type, base64);
	return cv_ssh_match(name, hosts, ',');
}

/* Does the line speak of the target? By its name, or, off port 22, by the host alone. */
static bool line_match(const struct cv_ssh_target *t, const char *hosts, const char *type,
		       const char *base64, bool *ret_plain)
{
	*ret_plain = false;
	if (names_match(t->key_name, hosts, type, base64))
		return true;
	*ret_plain = true;
	return t->key_name[0] == '[' && names_match(t->host, hosts, type, base64);
}

static int take_line(const struct cv_ssh_target *t, const char *file, unsigned number, char *text,
		     struct cv_ssh_hosts *hosts)
{
	struct cv_ssh_host_line l = { .file = file, .line = number };
	char *save = NULL;
	char *names = strtok_r(text, " \t\r\n", &save);
	char *type;
	char *base64;

	if (!names || *names == '#')
		return 0;
	if (*names == '@') {
		l.mark = strcmp(names, "@revoked") == 0		 ? CV_SSH_MARK_REVOKED
			 : strcmp(names, "@cert-authority") == 0 ? CV_SSH_MARK_CA
								 : CV_SSH_MARK_NONE;
		if (l.mark == CV_SSH_MARK_NONE)
			return 0;
		names = strtok_r(NULL, " \t\r\n", &save);
	}
	type = strtok_r(NULL, " \t\r\n", &save);
	base64 = strtok_r(NULL, " \t\r\n", &save);
	if (!names || !type || !base64 || hosts->count == CV_SSH_HOSTS_MAX ||
	    !line_match(t, names, type, base64, &l.plain))
		return 0;
	l.type = strdup(type);
	l.base64 = strdup(base64);
	hosts->line[hosts->count++] = l;
	return l.type && l.base64 ? 0 : -ENOMEM;
}

static int read_file(const struct cv_ssh_target *t, const char *file, struct cv_ssh_hosts *hosts)
{
	cv_cleanup_fclose FILE *f = fopen(file, "re");
	cv_cleanup_free char *text = NULL;
	size_t size = 0;
	int r = 0;

	if (!f)
		return -errno;
	for (unsigned n = 1; r == 0 && getline(&text, &size, f) > 0; n++)
		r = take_line(t, file, n, text, hosts);
	return r;
}

/* The one the user names must be there, unless it is not needed or about to be made. */
static bool must_exist(const struct cv_ssh_target *t)
{
	return cv_options_str(t->options, "known_hosts", NULL) &&
	       strcmp(t->policy, "accept-new") != 0 &&
	       (t->jump || !cv_options_str(t->options, "host_key", NULL));
}

int cv_ssh_hosts_read(const struct cv_ssh_target *t, struct cv_ssh_hosts *ret_hosts,
		      struct cv_err *err)
{
	struct cv_ssh_hosts hosts = { .count = 0 };

	for (size_t i = 0; i < t->known.count; i++) {
		int r = read_file(t, t->known.item[i], &hosts);

		if (r < 0 && (r != -ENOENT || must_exist(t))) {
			cv_ssh_hosts_release(&hosts);
			return cv_fail(err, r, "sftp: cannot read known_hosts '%s': %s",
				       t->known.item[i], cv_strerror(r));
		}
	}
	*ret_hosts = hosts;
	return 0;
}

/* ---- judging ---- */

static const struct {
	const char *type; /* of the key, or the beginning of it */
	const char *algorithms;
} families[] = {
	{ "ssh-ed25519", "ssh-ed25519" },
	{ "ecdsa-sha2-", "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521" },
	{ "ssh-rsa", "rsa-sha2-512,rsa-sha2-256" },
};

static bool family_known(const struct cv_ssh_hosts *hosts, size_t family)
{
	for (size_t i = 0; i < hosts->count; i++) {
		if (hosts->line[i].mark == CV_SSH_MARK_NONE &&
		    cv_str_starts(hosts->line[i].type, families[family].type))
			return true;
	}
	return false;
}

void cv_ssh_hosts_algorithms(const struct cv_ssh_hosts *hosts, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = '\0';
	for (int known = 1; known >= 0; known--) {
		for (size_t i = 0; i < CV_ARRAY_SIZE(families); i++) {
			if (family_known(hosts, i) == !!known && n < size)
				n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? "," : "",
						      families[i].algorithms);
		}
	}
}

static int changed(const struct cv_ssh_host_line *l, const struct cv_ssh_target *t,
		   const char *type, const char *fingerprint, struct cv_err *err)
{
	return cv_fail(err, EKEYREJECTED,
		       "sftp: HOST KEY CHANGED: %s now offers %s %s, which is not the key recorded "
		       "in %s line %u (%s): this may be an attack. If the server really has a new "
		       "key, remove that line (ssh-keygen -R '%s' -f '%s')%s%s",
		       t->key_name, type, fingerprint, l->file, l->line, l->type, t->key_name,
		       l->file, t->jump ? "" : " and set host_key=", t->jump ? "" : fingerprint);
}

int cv_ssh_hosts_check(const struct cv_ssh_hosts *hosts, const struct cv_ssh_target *t,
		       const char *type, const char *base64, const char *fingerprint, bool pinned,
		       struct cv_err *err)
{
	const struct cv_ssh_host_line *other = NULL;
	bool known = false;

	for (size_t i = 0; i < hosts->count; i++) {
		const struct cv_ssh_host_line *l = &hosts->line[i];
		bool same = strcmp(l->base64, base64) == 0;

		if (same && l->mark == CV_SSH_MARK_REVOKED)
			return cv_fail(err, EKEYREJECTED,
				       "sftp: %s offers the host key %s %s, which %s line %u marks "
				       "@revoked",
				       t->key_name, type, fingerprint, l->file, l->line);
		known = known || (same && l->mark == CV_SSH_MARK_NONE);
		/* The one of its own kind says most. */
		if (l->mark == CV_SSH_MARK_NONE && !l->plain &&
		    (!other || strcmp(l->type, type) == 0))
			other = l;
	}
	if (known || pinned)
		return 0;
	return other ? changed(other, t, type, fingerprint, err) : -ENOENT;
}

/* ---- remembering ---- */

int cv_ssh_hosts_add(const struct cv_ssh_target *t, const char *type, const char *base64,
		     struct cv_err *err)
{
	const char *file = t->known.count ? t->known.item[0] : "";
	cv_cleanup_free char *line = cv_sprintf("\n%s %s %s\n", t->key_name, type, base64);
	cv_cleanup_free char *dir = strdup(file);
	cv_cleanup_close int fd = -1;
	const char *text = line ? line + 1 : NULL;
	off_t end;
	char last = '\n';
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (!line || !dir)
		return cv_fail(err, ENOMEM, "sftp: out of memory");
	if (slash && slash != dir) {
		*slash = '\0';
		(void)mkdir(dir, 0755); /* open() says what is wrong */
	}
	/* The file decides whom we trust: only root may write it. One write, so that mounts which
	 * learn a host at the same time do not mix their lines. */
	fd = open(file, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	if (end > 0 && pread(fd, &last, 1, end - 1) == 1 && last != '\n')
		text = line; /* ends the last line first */
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		return cv_fail(err, EIO,
			       "sftp: host_key_policy=accept-new: cannot add the key of %s to "
			       "'%s': %s; set known_hosts to a file that can be written",
			       t->key_name, file, cv_strerror(errno));
	return 0;
}
