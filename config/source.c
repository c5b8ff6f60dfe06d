/* SPDX-License-Identifier: Apache-2.0 */
#include "config/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/str.h"

#define FORMS                                                                                      \
	"expected nfs://host/export, sftp://user@host/path, dir:///path, host:/export, "           \
	"user@host:/path or the name of a remote"
#define NO_PASSWORD "a password in the URL is refused; use password_file"

static int put(struct cv_dict *out, const char *key, const char *value, size_t n,
	       struct cv_err *err)
{
	cv_cleanup_free char *text = strndup(value, n);
	int r = text ? cv_dict_set(out, key, text) : -ENOMEM;

	return r < 0 ? cv_fail(err, r, "source: %s", cv_strerror(r)) : 0;
}

static int hex(char c)
{
	return c >= '0' && c <= '9'	    ? c - '0'
	       : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10
					    : -1;
}

/* %XX in place; -EINVAL for a broken or forbidden one (NUL). */
static int decode(char *text)
{
	char *out = text;

	for (const char *p = text; *p; p++) {
		if (*p == '%') {
			int high = hex(p[1]), low = high < 0 ? -1 : hex(p[2]);

			if (low < 0 || high * 16 + low == 0)
				return -EINVAL;
			*out++ = (char)(high * 16 + low);
			p += 2;
		} else {
			*out++ = *p;
		}
	}
	*out = '\0';
	return 0;
}

/* What cannot be read is repeated only if no password can be in it: a ':' before an '@'. */
static int fail_form(const char *source, const char *what, struct cv_err *err)
{
	const char *after = strstr(source, "://"), *at = strrchr(source, '@');
	const char *colon = strchr(after ? after + 3 : source, ':');

	if (at && colon && colon < at)
		return cv_fail(err, EINVAL, "source: %s" FORMS "; " NO_PASSWORD, what);
	return cv_fail(err, EINVAL, "source '%s': %s" FORMS, source, what);
}

/* "[user@]host[:port]", the host perhaps in brackets; encoded: the user has %XX. */
static int parse_authority(char *text, bool user_allowed, bool encoded, struct cv_dict *out,
			   struct cv_err *err)
{
	char *at = strrchr(text, '@'), *host = text, *port = NULL;
	size_t n;
	int r = 0;

	if (at) {
		*at = '\0';
		host = at + 1;
		if (strchr(text, ':'))
			return cv_fail(err, EINVAL, "source: " NO_PASSWORD);
		if (!user_allowed || !*text)
			return cv_fail(err, EINVAL, "source: a user is for sftp:// only; " FORMS);
		if (encoded && decode(text) < 0)
			return cv_fail(err, EINVAL, "source: broken %%XX in the user name");
		r = put(out, "user", text, strlen(text), err);
	}
	if (*host == '[') {
		char *end = strchr(host, ']');

		if (!end || (end[1] && end[1] != ':'))
			return cv_fail(err, EINVAL, "source: missing ']' after the address");
		if (end[1] == ':')
			port = end + 2;
		host++;
		n = (size_t)(end - host);
	} else {
		port = strchr(host, ':');
		n = port ? (size_t)(port - host) : strlen(host);
		if (port)
			port++;
	}
	if (!n)
		return cv_fail(err, EINVAL, "source: the host is missing; " FORMS);
	if (r == 0)
		r = put(out, "host", host, n, err);
	if (r == 0 && port) {
		uint64_t number;

		/* "user:pass/word@host" looks like a port, too: only digits are repeated. */
		if (port[strspn(port, "0123456789")])
			return cv_fail(err, EINVAL,
				       "source: the port is not a number; " NO_PASSWORD);
		if (cv_parse_u64(port, 10, 65535, &number) < 0 || !number)
			return cv_fail(err, EINVAL, "source: '%s' is not a port", port);
		r = cv_dict_setf(out, "port", "%u", (unsigned)number);
	}
	return r;
}

/* All that follows mem:// is a name. */
static int put_mem(const char *rest, struct cv_dict *out, struct cv_err *err)
{
	cv_cleanup_free char *path = strdup(rest);

	if (!path)
		return cv_fail(err, ENOMEM, "out of memory");
	if (decode(path) < 0)
		return cv_fail(err, EINVAL, "source: broken %%XX in the path");
	return *path ? put(out, "path", path, strlen(path), err) : 0;
}

static int parse_url(const char *type, const char *rest, struct cv_dict *out, struct cv_err *err)
{
	unsigned engine = cv_engine_parse(type);
	const char *slash = strchrnul(rest, '/');
	cv_cleanup_free char *authority = strndup(rest, (size_t)(slash - rest));
	cv_cleanup_free char *path = strdup(slash);
	int r;

	if (!authority || !path)
		return cv_fail(err, ENOMEM, "out of memory");
	if (decode(path) < 0)
		return cv_fail(err, EINVAL, "source: broken %%XX in the path");
	r = put(out, "type", type, strlen(type), err);
	if (r < 0)
		return r;
	if (engine == CV_ENGINE_MEM)
		return put_mem(rest, out, err);
	if (engine == CV_ENGINE_DIR) {
		if (*authority)
			return cv_fail(err, EINVAL, "source: dir:// takes no host: dir:///path");
	} else {
		r = parse_authority(authority, engine == CV_ENGINE_SFTP, true, out, err);
	}
	/* sftp://host/~/x and sftp://host/~ are below the user's home */
	if (r == 0 && engine == CV_ENGINE_SFTP && path[0] == '/' && path[1] == '~')
		return put(out, "path", path + 1, strlen(path + 1), err);
	if (r == 0 && *path)
		r = put(out, "path", path, strlen(path), err);
	return r;
}

/* host:/export or user@host:path; ssh: host:path, too */
static int parse_short(const char *source, bool ssh, struct cv_dict *out, struct cv_err *err)
{
	const char *bracket = *source == '[' || strstr(source, "@[") ? strchr(source, ']') : NULL;
	const char *colon = strchr(bracket ? bracket : source, ':');
	cv_cleanup_free char *authority = NULL;
	int r;

	if (!colon || colon == source)
		return fail_form(source, "", err);
	authority = strndup(source, (size_t)(colon - source));
	if (!authority)
		return cv_fail(err, ENOMEM, "out of memory");
	ssh = ssh || strchr(authority, '@');
	if ((!ssh && colon[1] != '/') || strchr(authority, '/'))
		return fail_form(source, "", err);
	r = put(out, "type", ssh ? "sftp" : "nfs", ssh ? 4 : 3, err);
	if (r == 0)
		r = parse_authority(authority, ssh, false, out, err);
	if (r == 0 && colon[1])
		r = put(out, "path", colon + 1, strlen(colon + 1), err);
	return r;
}

int cv_source_parse_scp(const char *target, struct cv_dict *out, struct cv_err *err)
{
	return parse_short(target, true, out, err);
}

bool cv_remote_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n > 100 || *name == '.' || *name == '-')
		return false;
	for (; *name; name++) {
		if (!isalnum((unsigned char)*name) && !strchr("_.-", *name))
			return false;
	}
	return true;
}

int cv_source_parse_remote(const char *source, struct cv_dict *out, struct cv_err *err)
{
	const char *path = strchrnul(source, ':');
	cv_cleanup_free char *name = strndup(source, (size_t)(path - source));
	int r;

	if (!name)
		return cv_fail(err, ENOMEM, "out of memory");
	/* Who writes "user:password@host" has something else in mind. */
	if (!cv_remote_name_ok(name) || strchr(source, '@'))
		return fail_form(source, "", err);
	r = put(out, "remote", name, strlen(name), err);
	if (*path)
		path += 1 + strspn(path + 1, "/");
	return r < 0 || !*path ? r : put(out, "subdir", path, strlen(path), err);
}

/* "name" or "name:path" with a path that is not absolute: host:/export is NFS. */
static bool is_remote(const char *source)
{
	size_t n = strcspn(source, ":");

	return !strchr(source, '@') && *source != '[' && !memchr(source, '/', n) &&
	       (!source[n] || source[n + 1] != '/');
}

int cv_source_parse(const char *source, struct cv_dict *out, struct cv_err *err)
{
	static const struct {
		const char *scheme, *type;
	} schemes[] = {
		{ "nfs://", "nfs" },  { "nfs4://", "nfs" }, { "sftp://", "sftp" },
		{ "ssh://", "sftp" }, { "dir://", "dir" },  { "mem://", "mem" },
	};

	for (size_t i = 0; i < CV_ARRAY_SIZE(schemes); i++) {
		if (cv_str_starts(source, schemes[i].scheme))
			return parse_url(schemes[i].type, source + strlen(schemes[i].scheme), out,
					 err);
	}
	if (strstr(source, "://"))
		return fail_form(source, "unknown kind of URL; ", err);
	return is_remote(source) ? cv_source_parse_remote(source, out, err)
				 : parse_short(source, false, out, err);
}

/* In a URL, what would be read as something else is written as %XX; special: more of that. */
static char *encode(const char *text, const char *special)
{
	char *coded = malloc(strlen(text) * 3 + 1), *out = coded;

	if (!coded)
		return NULL;
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p == '%' || *p <= 0x20 || *p == 0x7f || strchr(special, *p))
			out += sprintf(out, "%%%02X", *p);
		else
			*out++ = (char)*p;
	}
	*out = '\0';
	return coded;
}

/*
 * What goes between the host and the path. An SSH path that does not start with '/' is below the
 * login directory, which a URL writes as /~/; and a "~" in the root directory is no home.
 */
static const char *before_path(const char *type, const char *host, const char *path)
{
	if (!cv_str_eq(type, "sftp"))
		return !*host || *path == '/' ? "" : "/";
	if (*path == '/')
		return path[1] == '~' ? "/" : "";
	return *path == '~' ? "/" : "/~/";
}

char *cv_source_format(const struct cv_dict *o)
{
	const char *type = cv_options_str(o, "type", "?"), *host = cv_options_str(o, "host", "");
	const char *path = cv_options_str(o, "path", ""), *port = cv_dict_get(o, "port");
	cv_cleanup_free char *user = encode(cv_options_str(o, "user", ""), "/:@");
	cv_cleanup_free char *coded = NULL;
	const char *remote = cv_dict_get(o, "remote"), *subdir = cv_options_str(o, "subdir", "");
	bool v6 = strchr(host, ':') != NULL;

	if (remote && !cv_dict_get(o, "type"))
		return cv_sprintf("%s%s%s", remote, *subdir ? ":" : "", subdir);
	/* no path at all is the login directory */
	if (cv_str_eq(type, "sftp") && cv_str_eq(path, "."))
		path = "";
	coded = encode(path, "");
	if (!user || !coded)
		return NULL;
	return cv_sprintf("%s://%s%s%s%s%s%s%s%s%s", type, user, *user ? "@" : "", v6 ? "[" : "",
			  host, v6 ? "]" : "", port ? ":" : "", port ? port : "",
			  *path ? before_path(type, host, path) : "", coded);
}
