/* SPDX-License-Identifier: Apache-2.0 */
#include "config/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/spellings.h"
#include "config/str.h"

#define ANY CV_ENGINE_ALL
#define NFS CV_ENGINE_NFS
#define SSH CV_ENGINE_SFTP
#define NET CV_ENGINE_REMOTE

static const struct cv_option_def table[] = {
	/* where */
	{ "source", NULL, CV_OPT_STRING, ANY, 0, NULL, NULL,
	  "the storage: nfs://host/export, sftp://user@host/path, dir:///path, host:/export, "
	  "user@host:/path" },
	{ "remote", NULL, CV_OPT_STRING, ANY, 0, NULL, "the default one, if there is one",
	  "a remote named in /etc/cvol/remotes.d" },
	{ "type", NULL, CV_OPT_CHOICE, ANY, 0, "dir|nfs|sftp|mem", NULL,
	  "the kind of storage, when there is no source" },
	{ "host", "server addr hostname sharehost sftp_host", CV_OPT_STRING, NET, 0, NULL, NULL,
	  "the server's name or address" },
	{ "port", "sftp_port nfsport", CV_OPT_UINT, NET, 65535, NULL,
	  "22 (sftp), 2049 or asked (nfs)", "TCP port of the server" },
	{ "user", "username sftp_user", CV_OPT_STRING, SSH, 0, NULL, "root", "the login user" },
	{ "path", "sharebasepath", CV_OPT_STRING, ANY, 0, NULL, NULL,
	  "export or directory on the server" },
	{ "subdir", "sub_dir", CV_OPT_STRING, ANY, 0, NULL, NULL,
	  "directory below path, created when missing; ${name} is the volume's name" },
	{ "mode", "dirpermissionsmode", CV_OPT_OCTAL, ANY, 07777, NULL, "0755",
	  "permissions of a created subdir" },

	{ "owner", NULL, CV_OPT_STRING, ANY, 0, NULL, "the login user, or root",
	  "UID:GID of a created subdir" },
	{ "on_delete", "ondelete", CV_OPT_CHOICE, NET | CV_ENGINE_DIR, 0, "retain|archive",
	  "retain", "when the volume is removed: leave subdir alone, or rename it" },
	{ "check", NULL, CV_OPT_BOOL, ANY, 0, NULL, "false",
	  "connect once when the volume is created, and refuse it if that fails" },

	/* identity and secrets */
	{ "key_file", "identityfile privatekey sftp_key_file", CV_OPT_FILE, SSH, 0, NULL,
	  "root's own keys",
	  "private key to log in with; several, tried in order, with ':' between them" },
	{ "key", "sftp_key_pem", CV_OPT_SECRET, SSH, 0, NULL, NULL,
	  "the private key itself; moved to a file that only root can read" },
	{ "cert_file", "certificatefile", CV_OPT_FILE, SSH, 0, NULL, "key_file with -cert.pub",
	  "OpenSSH certificate of the key" },
	{ "key_passphrase_file", "sftp_key_file_pass sftp_key_file_pass_file", CV_OPT_FILE, SSH, 0,
	  NULL, NULL, "file with the key's passphrase" },
	{ "key_passphrase", NULL, CV_OPT_SECRET, SSH, 0, NULL, NULL,
	  "the passphrase itself; moved to a file that only root can read" },
	{ "password_file", NULL, CV_OPT_FILE, SSH, 0, NULL, NULL, "file with the login password" },
	{ "password", "sftp_password", CV_OPT_SECRET, SSH, 0, NULL, NULL,
	  "the login password itself; moved to a file that only root can read" },
	{ "agent_socket", "identityagent", CV_OPT_FILE, SSH, 0, NULL, NULL,
	  "socket of an ssh-agent" },
	{ "ssh_config", NULL, CV_OPT_FILE, SSH, 0, NULL, NULL,
	  "ssh_config(5) file that says how to reach the host" },
	{ "proxy_jump", "proxyjump", CV_OPT_STRING, SSH, 0, NULL, NULL,
	  "jump hosts on the way, as [user@]host[:port], with ',' between them" },
	{ "known_hosts", "userknownhostsfile sftp_known_hosts_file", CV_OPT_FILE, SSH, 0, NULL,
	  "/etc/cvol/known_hosts, then root's", "file of accepted host keys" },
	{ "host_key", NULL, CV_OPT_STRING, SSH, 0, NULL, NULL,
	  "the one host key to accept, as SHA256:fingerprint" },
	{ "host_key_policy", "stricthostkeychecking", CV_OPT_CHOICE, SSH, 0, "strict|accept-new",
	  "strict", "refuse unknown host keys, or remember them at first sight" },
	{ "ciphers", "sftp_ciphers", CV_OPT_STRING, SSH, 0, NULL, "AES-GCM first",
	  "ciphers in order of preference" },
	{ "macs", "sftp_macs", CV_OPT_STRING, SSH, 0, NULL, NULL, "MACs in order of preference" },
	{ "kex", "sftp_key_exchange kexalgorithms", CV_OPT_STRING, SSH, 0, NULL, NULL,
	  "key exchange methods in order of preference" },
	{ "compression", NULL, CV_OPT_BOOL, SSH, 0, NULL, "false", "compress what is sent" },

	/* NFS */
	{ "version", "nfsvers vers", CV_OPT_CHOICE, NFS, 0, "3|4|4.0|4.1|4.2|auto", "auto",
	  "protocol version" },
	{ "mountport", NULL, CV_OPT_UINT, NFS, 65535, NULL, "asked",
	  "TCP port of the mount service" },
	{ "locks", NULL, CV_OPT_CHOICE, NFS, 0, "server|local", "server (4), local (3)",
	  "who fcntl and flock locks exclude: all clients of the server, or this mount's users" },
	{ "rsize", NULL, CV_OPT_SIZE, NFS, 0, NULL, "the server's, at most 1MiB",
	  "bytes per READ" },
	{ "wsize", NULL, CV_OPT_SIZE, NFS, 0, NULL, "the server's, at most 1MiB",
	  "bytes per WRITE" },

	/* behaviour */
	{ "readonly", "ro read_only", CV_OPT_BOOL, ANY, 0, NULL, "false",
	  "nothing can be written" },
	{ "recovery", NULL, CV_OPT_CHOICE, NET, 0, "hard|soft", "hard",
	  "wait for a server that is away, or fail after timeout" },
	{ "timeout", NULL, CV_OPT_DURATION, NET, 0, NULL, "15s",
	  "how long a silent server counts as alive" },
	{ "mount_timeout", NULL, CV_OPT_DURATION, ANY, 0, NULL, "20s",
	  "how long mounting may take" },
	{ "connections", "max_conns nconnect sftp_connections", CV_OPT_UINT, NET, 8, NULL, NULL,
	  "connections that large files may use (SSH); 2 over a long line, else 1" },
	{ "uid", NULL, CV_OPT_UINT, NET, 4294967294u, NULL, NULL, "owner of everything, as shown" },
	{ "gid", NULL, CV_OPT_UINT, NET, 4294967294u, NULL, NULL, "group of everything, as shown" },
	{ "idmap", NULL, CV_OPT_CHOICE, SSH, 0, "none|user|file|names", "none",
	  "whose ids are shown as others: nobody's, the login user's (as uid and gid), a file's; "
	  "by name" },
	{ "idmap_file", NULL, CV_OPT_FILE, SSH, 0, NULL, NULL,
	  "lines 'user SERVER SHOWN' and 'group SERVER SHOWN', for idmap=file" },
	{ "umask", NULL, CV_OPT_OCTAL, SSH, 0777, NULL, NULL, "permissions taken away, as shown" },
	{ "chown", NULL, CV_OPT_CHOICE, NET, 0, "strict|ignore", "strict",
	  "what a refused change of owner is: an error, or success" },
	{ "symlinks", NULL, CV_OPT_CHOICE, SSH, 0, "raw|contain|follow",
	  "contain for cvol mount, raw for containers",
	  "symbolic links as they are stored, only those within the volume, or followed there" },
	{ "cache", NULL, CV_OPT_CHOICE, ANY, 0, "strict|default|relaxed", "default",
	  "how long names and attributes are believed" },
	{ "attr_timeout", "actimeo", CV_OPT_DURATION, ANY, 0, NULL, "3s to 60s",
	  "the same, as one fixed time" },
	{ "attr_timeout_file_min", "acregmin", CV_OPT_DURATION, ANY, 0, NULL, "3s", "for files" },
	{ "attr_timeout_file_max", "acregmax", CV_OPT_DURATION, ANY, 0, NULL, "60s", "for files" },
	{ "attr_timeout_dir_min", "acdirmin", CV_OPT_DURATION, ANY, 0, NULL, "30s",
	  "for directories" },
	{ "attr_timeout_dir_max", "acdirmax", CV_OPT_DURATION, ANY, 0, NULL, "60s",
	  "for directories" },
	{ "readahead", NULL, CV_OPT_SIZE, ANY, 0, NULL, "512KiB to 16MiB, by round trip",
	  "how much the kernel reads ahead" },
	{ "writeback_cache", NULL, CV_OPT_BOOL, NET, 0, NULL, "false",
	  "collect writes in the page cache; only for what one host uses" },
	{ "write_behind", NULL, CV_OPT_BOOL, NET, 0, NULL, "true",
	  "answer writes before the server has them (close and fsync always wait)" },
	{ "busy_poll", NULL, CV_OPT_UINT, ANY, 1000, NULL, "50",
	  "microseconds to look out for the next request before sleeping, where that pays; 0: "
	  "never" },
	{ "context", NULL, CV_OPT_STRING, ANY, 0, NULL, NULL, "SELinux context of the mount" },
	{ 0 },
};

const struct cv_option_def *cv_option_table(void)
{
	return table;
}

unsigned cv_engine_parse(const char *type)
{
	static const struct {
		const char *name;
		unsigned engine;
	} engines[] = {
		{ "dir", CV_ENGINE_DIR },
		{ "nfs", CV_ENGINE_NFS },
		{ "sftp", CV_ENGINE_SFTP },
		{ "mem", CV_ENGINE_MEM },
	};

	for (size_t i = 0; i < CV_ARRAY_SIZE(engines); i++) {
		if (cv_str_eq(type, engines[i].name))
			return engines[i].engine;
	}
	return 0;
}

/* ---- names ---- */

#define KEY_MAX CV_OPTION_KEY_MAX

bool cv_option_normalise(const char *key, char out[KEY_MAX])
{
	size_t n = 0;

	while (*key == '-')
		key++;
	for (; *key; key++) {
		if (n == KEY_MAX - 1)
			return false;
		out[n++] = *key == '-' ? '_' : (char)tolower((unsigned char)*key);
	}
	out[n] = '\0';
	return n > 0;
}

static bool in_words(const char *words, const char *word, char separator)
{
	size_t n = strlen(word);

	while (words && *words) {
		const char *end = strchrnul(words, separator);

		if ((size_t)(end - words) == n && memcmp(words, word, n) == 0)
			return true;
		words = *end ? end + 1 : end;
	}
	return false;
}

static const struct cv_option_def *find_normal(const char *key)
{
	for (const struct cv_option_def *d = table; d->name; d++) {
		if (strcmp(d->name, key) == 0 || in_words(d->aliases, key, ' '))
			return d;
	}
	return NULL;
}

const struct cv_option_def *cv_option_find(const char *name_or_alias)
{
	char key[KEY_MAX];

	return cv_option_normalise(name_or_alias, key) ? find_normal(key) : NULL;
}

/* Levenshtein distance; both shorter than KEY_MAX. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[KEY_MAX + 1];
	size_t n = strlen(b);

	for (size_t j = 0; j <= n; j++)
		row[j] = (unsigned)j;
	for (size_t i = 0; a[i]; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i + 1;
		for (size_t j = 0; j < n; j++) {
			unsigned up = row[j + 1];
			unsigned best = diagonal + (a[i] != b[j]);

			if (up + 1 < best)
				best = up + 1;
			if (row[j] + 1 < best)
				best = row[j] + 1;
			row[j + 1] = best;
			diagonal = up;
		}
	}
	return row[n];
}

/* How far key is from an option, under whatever name. One letter is a part of everything. */
static unsigned likeness(const char *key, const struct cv_option_def *d)
{
	unsigned best = distance(key, d->name);

	if (strlen(key) > 2 && (strstr(d->name, key) || strstr(key, d->name)))
		best = best > 2 ? 2 : best;
	for (const char *word = d->aliases; word && *word;) {
		const char *end = strchrnul(word, ' ');
		char alias[KEY_MAX];
		unsigned s;

		(void)snprintf(alias, sizeof(alias), "%.*s", (int)(end - word), word);
		s = distance(key, alias);
		best = s < best ? s : best;
		word = *end ? end + 1 : end;
	}
	return best;
}

static int fail_unknown(const char *key, struct cv_err *err)
{
	const char *best[3] = { NULL, NULL, NULL };
	unsigned score[3] = { UINT32_MAX, UINT32_MAX, UINT32_MAX };
	char near[256] = "";
	size_t used = 0;

	for (const struct cv_option_def *d = table; d->name; d++) {
		unsigned s = likeness(key, d);
		const char *name = d->name;

		if (s > 2 + strlen(key) / 4)
			continue;
		for (size_t i = 0; i < 3; i++) {
			if (s < score[i]) {
				unsigned other = score[i];
				const char *other_name = best[i];

				score[i] = s;
				best[i] = name;
				s = other;
				name = other_name;
			}
		}
	}
	for (size_t i = 0; i < 3 && best[i]; i++)
		used += (size_t)snprintf(near + used, sizeof(near) - used, "%s%s", i ? ", " : "",
					 best[i]);
	if (used)
		return cv_fail(err, EINVAL,
			       "unknown option '%s'; did you mean %s? ('cvol options' lists all)",
			       key, near);
	return cv_fail(err, EINVAL, "unknown option '%s' ('cvol options' lists all)", key);
}

/* ---- values ---- */

static bool has_control(const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			return true;
	}
	return false;
}

static int check_host(const char *host, struct cv_err *err)
{
	if (!*host || *host == '-' || strlen(host) > 255)
		return cv_fail(err, EINVAL, "option host: '%s' is not a host name", host);
	for (const unsigned char *p = (const unsigned char *)host; *p; p++) {
		if (!isalnum(*p) && !strchr(".-_:%", *p))
			return cv_fail(err, EINVAL, "option host: '%s' is not a host name", host);
	}
	return 0;
}

/* Removes duplicate and trailing slashes in place; false if a component is "..". */
static bool tidy_path(char *path)
{
	char *out = path;
	const char *in = path;

	while (*in) {
		const char *end = strchrnul(in, '/');
		size_t n = (size_t)(end - in);

		if (n == 2 && in[0] == '.' && in[1] == '.')
			return false;
		if (n == 1 && *in == '.' && (in != path || *end)) {
			for (in = end; *in == '/'; in++)
				;
			continue;
		}
		memmove(out, in, n);
		out += n;
		in = end;
		if (*in == '/') {
			*out++ = '/';
			while (*in == '/')
				in++;
		}
	}
	if (out > path + 1 && out[-1] == '/')
		out--;
	else if (out == path && in != path)
		*out++ = '.'; /* "./" */
	*out = '\0';
	return true;
}

static int set_path(struct cv_dict *out, const char *key, const char *value, struct cv_err *err)
{
	cv_cleanup_free char *path = strdup(value);
	int r;

	if (!path)
		return cv_fail(err, ENOMEM, "out of memory");
	if (!tidy_path(path))
		return cv_fail(err, EINVAL, "option %s: '..' is not allowed in '%s'", key, value);
	r = cv_dict_set(out, key, path);
	return r < 0 ? cv_fail(err, r, "option %s: %s", key, cv_strerror(r)) : 0;
}

/* "${name}" is all that can be filled in. */
static int set_subdir(struct cv_dict *out, const char *value, struct cv_err *err)
{
	for (const char *p = strstr(value, "${"); p; p = strstr(p + 1, "${")) {
		if (!cv_str_starts(p, "${name}"))
			return cv_fail(err, EINVAL,
				       "option subdir: in '%s', only ${name} can be filled in",
				       value);
	}
	return set_path(out, "subdir", value, err);
}

/* "1000" or "1000:100". */
static int set_owner(struct cv_dict *out, const char *value, struct cv_err *err)
{
	const char *colon = strchr(value, ':');
	cv_cleanup_free char *first = strndup(value, strcspn(value, ":"));
	uint64_t uid, gid = 0;
	int r;

	if (!first)
		return cv_fail(err, ENOMEM, "out of memory");
	if (cv_parse_u64(first, 10, UINT32_MAX - 1, &uid) < 0 ||
	    (colon && cv_parse_u64(colon + 1, 10, UINT32_MAX - 1, &gid) < 0))
		return cv_fail(err, EINVAL, "option owner: '%s' is not UID or UID:GID, in numbers",
			       value);
	r = cv_dict_setf(out, "owner", "%" PRIu64 ":%" PRIu64, uid, colon ? gid : uid);
	return r < 0 ? cv_fail(err, r, "option owner: %s", cv_strerror(r)) : 0;
}

static int set_string(struct cv_dict *out, const char *name, const char *value, struct cv_err *err)
{
	int r;

	if (!*value)
		return cv_fail(err, EINVAL, "option %s: is empty", name);
	if (cv_str_eq(name, "path"))
		return set_path(out, name, value, err);
	if (cv_str_eq(name, "subdir"))
		return set_subdir(out, value, err);
	if (cv_str_eq(name, "owner"))
		return set_owner(out, value, err);
	if (cv_str_eq(name, "remote") && !cv_remote_name_ok(value))
		return cv_fail(err, EINVAL, "option remote: '%s' is not the name of a remote",
			       value);
	r = cv_dict_set(out, name, value);
	return r < 0 ? cv_fail(err, r, "option %s: %s", name, cv_strerror(r)) : 0;
}

static bool is_secret_name(const char *value)
{
	return cv_str_starts(value, "secret:") && cv_remote_name_ok(value + strlen("secret:"));
}

/* Checks value and puts its canonical form under d->name. */
static int set_value(struct cv_dict *out, const struct cv_option_def *d, const char *value,
		     struct cv_err *err)
{
	uint64_t number = 0;
	bool flag = false;
	int r = 0;

	if (d->type != CV_OPT_SECRET && has_control(value))
		return cv_fail(err, EINVAL, "option %s: control characters are not allowed",
			       d->name);
	switch (d->type) {
	case CV_OPT_STRING:
		return set_string(out, d->name, value, err);
	case CV_OPT_SECRET:
		if (!*value)
			return cv_fail(err, EINVAL, "option %s: is empty", d->name);
		r = cv_dict_set(out, d->name, value);
		break;
	case CV_OPT_BOOL:
		if (cv_parse_bool(value, &flag) < 0)
			return cv_fail(err, EINVAL, "option %s: '%s' is not true or false", d->name,
				       value);
		r = cv_dict_set(out, d->name, flag ? "true" : "false");
		break;
	case CV_OPT_UINT:
		if (cv_parse_u64(value, 10, d->max, &number) < 0)
			return cv_fail(err, EINVAL,
				       "option %s: '%s' is not a number from 0 to %" PRIu64,
				       d->name, value, d->max);
		r = cv_dict_setf(out, d->name, "%" PRIu64, number);
		break;
	case CV_OPT_OCTAL:
		if (cv_parse_u64(value, 8, d->max, &number) < 0)
			return cv_fail(err, EINVAL,
				       "option %s: '%s' is not an octal mode, like 0755", d->name,
				       value);
		r = cv_dict_setf(out, d->name, "%04" PRIo64, number);
		break;
	case CV_OPT_DURATION:
		if (cv_parse_duration_ms(value, &number) < 0 || number > UINT32_MAX)
			return cv_fail(err, EINVAL,
				       "option %s: '%s' is not a duration, like 15s or 500ms",
				       d->name, value);
		r = cv_dict_setf(out, d->name, "%" PRIu64 "ms", number);
		break;
	case CV_OPT_SIZE:
		if (cv_parse_size(value, &number) < 0)
			return cv_fail(err, EINVAL,
				       "option %s: '%s' is not a size, like 64K or 1MiB", d->name,
				       value);
		r = cv_dict_setf(out, d->name, "%" PRIu64, number);
		break;
	case CV_OPT_CHOICE:
		if (!in_words(d->choices, value, '|'))
			return cv_fail(err, EINVAL, "option %s: '%s' is not one of %s", d->name,
				       value, d->choices);
		r = cv_dict_set(out, d->name, value);
		break;
	case CV_OPT_FILE:
		/* The value is not repeated: it may be the secret that belongs into the file. */
		if (*value != '/' && !is_secret_name(value))
			return cv_fail(err, EINVAL,
				       "option %s: must be an absolute path on this host, or "
				       "secret:NAME",
				       d->name);
		r = cv_dict_set(out, d->name, value);
		break;
	}
	return r < 0 ? cv_fail(err, r, "option %s: %s", d->name, cv_strerror(r)) : 0;
}

int cv_option_put(struct cv_dict *out, const char *name, const char *value, struct cv_err *err)
{
	const struct cv_option_def *d;
	char key[KEY_MAX];

	if (!cv_option_normalise(name, key) || has_control(name))
		return cv_fail(err, EINVAL, "unknown option '%.64s' ('cvol options' lists all)",
			       name);
	d = find_normal(key);
	if (!d)
		return fail_unknown(key, err);
	if (cv_dict_get(out, d->name)) {
		cv_cleanup_dict struct cv_dict probe = CV_DICT_INIT;
		int r = set_value(&probe, d, value, err);

		if (r < 0)
			return r;
		if (!cv_str_eq(cv_dict_get(&probe, d->name), cv_dict_get(out, d->name)))
			return cv_fail(err, EINVAL,
				       "option %s is given twice, with different values", d->name);
		return 0;
	}
	return set_value(out, d, value, err);
}

/* ---- the whole ---- */

/* What source says may be said again, but not otherwise. */
static int apply_source(struct cv_dict *o, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict parts = CV_DICT_INIT;
	const char *source = cv_dict_get(o, "source");
	int r;

	if (!source)
		return 0;
	r = cv_source_parse(source, &parts, err);
	for (size_t i = 0; r == 0 && i < parts.count; i++) {
		/* Canonical first: "/x/" does not contradict "/x". */
		cv_cleanup_dict struct cv_dict part = CV_DICT_INIT;
		const char *key = parts.items[i].key, *given = cv_dict_get(o, key);

		r = cv_option_put(&part, key, parts.items[i].value, err);
		if (r < 0)
			return r;
		if (given && !cv_str_eq(given, cv_dict_get(&part, key)))
			return cv_fail(err, EINVAL, "option %s=%s contradicts source '%s'", key,
				       given, source);
		r = cv_dict_set(o, key, cv_dict_get(&part, key));
		if (r < 0)
			return cv_fail(err, r, "option %s: %s", key, cv_strerror(r));
	}
	if (r == 0)
		(void)cv_dict_remove(o, "source");
	return r;
}

static const char *infer_type(const struct cv_dict *o)
{
	if (!cv_dict_get(o, "host"))
		return NULL;
	for (size_t i = 0; i < o->count; i++) {
		const struct cv_option_def *d = find_normal(o->items[i].key);

		if (d && d->engines == SSH)
			return "sftp";
	}
	return "nfs";
}

static int check_paths(const struct cv_dict *o, unsigned engine, struct cv_err *err)
{
	const char *path = cv_dict_get(o, "path"), *subdir = cv_dict_get(o, "subdir");

	if (path && (engine & (NFS | CV_ENGINE_DIR)) && *path != '/')
		return cv_fail(err, EINVAL, "option path: '%s' must be an absolute path", path);
	if (subdir && *subdir == '/')
		return cv_fail(err, EINVAL, "option subdir: '%s' must be a relative path", subdir);
	return 0;
}

/* Numbers of which there is no 0. */
static int check_nonzero(const struct cv_dict *o, struct cv_err *err)
{
	static const char *const names[] = { "port", "mountport", "connections" };

	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++) {
		if (cv_str_eq(cv_dict_get(o, names[i]), "0"))
			return cv_fail(err, EINVAL,
				       "option %s: '0' is not a number from 1 to %" PRIu64,
				       names[i], find_normal(names[i])->max);
	}
	return 0;
}

static int check_secrets(const struct cv_dict *o, struct cv_err *err)
{
	for (const struct cv_option_def *d = table; d->name; d++) {
		char file[KEY_MAX];

		(void)snprintf(file, sizeof(file), "%s_file", d->name);
		if (d->type == CV_OPT_SECRET && cv_dict_get(o, d->name) && cv_dict_get(o, file))
			return cv_fail(err, EINVAL, "give %s or %s, not both", d->name, file);
	}
	return 0;
}

/* A remote says where; what is said besides can only be about how. */
static int check_remote(const struct cv_dict *o, struct cv_err *err)
{
	static const char *const places[] = { "type", "host", "path" };

	for (size_t i = 0; cv_dict_get(o, "remote") && i < CV_ARRAY_SIZE(places); i++) {
		if (cv_dict_get(o, places[i]))
			return cv_fail(err, EINVAL,
				       "option %s: the remote '%s' says where; for a directory "
				       "below it use subdir",
				       places[i], cv_dict_get(o, "remote"));
	}
	return 0;
}

static int check_together(struct cv_dict *o, struct cv_err *err)
{
	const char *type = cv_dict_get(o, "type"), *pin = cv_dict_get(o, "host_key");
	unsigned engine = type ? cv_engine_parse(type) : 0;
	int r = check_remote(o, err);

	for (size_t i = 0; r == 0 && engine && i < o->count; i++) {
		const struct cv_option_def *d = find_normal(o->items[i].key);

		if (d && !(d->engines & engine))
			return cv_fail(err, EINVAL, "option %s is not for %s volumes", d->name,
				       type);
	}
	if (r == 0 && (engine & NET) && !cv_dict_get(o, "host"))
		return cv_fail(err, EINVAL, "a %s volume needs a host: source=%s", type,
			       engine == NFS ? "nfs://host/export" : "sftp://user@host/path");
	if (r == 0 && cv_dict_get(o, "host"))
		r = check_host(cv_dict_get(o, "host"), err);
	if (r == 0 && engine == NFS && !cv_dict_get(o, "path"))
		return cv_fail(err, EINVAL,
			       "an nfs volume needs the export: source=nfs://host/export");
	if (r == 0 && engine == CV_ENGINE_DIR && !cv_dict_get(o, "path"))
		return cv_fail(err, EINVAL, "a dir volume needs a path: source=dir:///path");
	if (r == 0 && engine == SSH && !cv_dict_get(o, "path") && cv_dict_set(o, "path", ".") < 0)
		return cv_fail(err, ENOMEM, "out of memory");
	if (r == 0)
		r = check_nonzero(o, err);
	if (r == 0)
		r = check_paths(o, engine, err);
	if (r == 0)
		r = check_secrets(o, err);
	if (r == 0 && pin && (!cv_str_starts(pin, "SHA256:") || !pin[strlen("SHA256:")]))
		return cv_fail(err, EINVAL,
			       "option host_key: expected SHA256:fingerprint, as "
			       "'ssh-keygen -lf' prints it");
	return r;
}

int cv_options_parse(const struct cv_dict *in, struct cv_dict *ret_options, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
	const char *type;
	int r = cv_spellings_resolve(in, &o, err);

	if (r == 0)
		r = apply_source(&o, err);
	if (r < 0)
		return r;
	if (!cv_dict_get(&o, "type") && !cv_dict_get(&o, "remote")) {
		type = infer_type(&o);
		if (type && cv_dict_set(&o, "type", type) < 0)
			return cv_fail(err, ENOMEM, "out of memory");
	}
	r = check_together(&o, err);
	if (r < 0)
		return r;
	*ret_options = o;
	o = (struct cv_dict)CV_DICT_INIT;
	return 0;
}

static int split(const char *text, char *item, struct cv_dict *dict, struct cv_err *err)
{
	while (*text) {
		char *equals, *out = item;
		int r;

		for (; *text && *text != ','; text++) {
			if (text[0] == '\\' && (text[1] == ',' || text[1] == '\\'))
				text++;
			*out++ = *text;
		}
		*out = '\0';
		if (*text == ',')
			text++;
		if (!*item)
			continue;
		equals = strchr(item, '=');
		if (equals)
			*equals++ = '\0';
		if (!*item)
			return cv_fail(err, EINVAL,
				       "an option has no name before '='; write a ',' inside a "
				       "value as '\\,'");
		r = cv_dict_set(dict, item, equals ? equals : "");
		if (r < 0)
			return cv_fail(err, r, "option %.64s: %s", item, cv_strerror(r));
	}
	return 0;
}

int cv_options_split(const char *text, struct cv_dict *dict, struct cv_err *err)
{
	size_t size = strlen(text) + 1;
	char *item = malloc(size);
	int r;

	if (!item)
		return cv_fail(err, ENOMEM, "out of memory");
	r = split(text, item, dict, err);
	cv_wipe(item, size); /* options may hold secrets */
	free(item);
	return r;
}

/* ---- typed access ---- */

const char *cv_options_str(const struct cv_dict *o, const char *name, const char *def)
{
	const char *value = cv_dict_get(o, name);

	return value ? value : def;
}

bool cv_options_bool(const struct cv_dict *o, const char *name, bool def)
{
	const char *value = cv_dict_get(o, name);

	if (value)
		(void)cv_parse_bool(value, &def);
	return def;
}

uint64_t cv_options_uint(const struct cv_dict *o, const char *name, uint64_t def)
{
	const struct cv_option_def *d = cv_option_find(name);
	const char *value = cv_dict_get(o, name);

	if (value && d && d->type == CV_OPT_OCTAL)
		(void)cv_parse_u64(value, 8, UINT64_MAX, &def);
	else if (value)
		(void)cv_parse_size(value, &def);
	return def;
}

bool cv_options_owner(const struct cv_dict *o, uint32_t *ret_uid, uint32_t *ret_gid)
{
	const char *owner = cv_dict_get(o, "owner");

	return owner && sscanf(owner, "%" SCNu32 ":%" SCNu32, ret_uid, ret_gid) == 2;
}

uint64_t cv_options_ms(const struct cv_dict *o, const char *name, uint64_t def_ms)
{
	const char *value = cv_dict_get(o, name);

	if (value)
		(void)cv_parse_duration_ms(value, &def_ms);
	return def_ms;
}
