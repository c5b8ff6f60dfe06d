/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/ssh_config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <glob.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/str.h"

#define WORDS_MAX    64
#define LINE_MAX_LEN 8192
#define INCLUDE_MAX  16 /* depth, as OpenSSH */

enum kind {
	ONE,	/* the first value counts */
	LIST,	/* all values count */
	FILES,	/* the first line counts, with all its words */
	REFUSE, /* runs a program, or loads one */
};

static const struct {
	const char *name;
	enum kind kind;
} keywords[] = {
	{ "hostname", ONE },
	{ "port", ONE },
	{ "user", ONE },
	{ "hostkeyalias", ONE },
	{ "proxyjump", ONE },
	{ "identityagent", ONE },
	{ "ciphers", ONE },
	{ "macs", ONE },
	{ "kexalgorithms", ONE },
	{ "compression", ONE },
	{ "stricthostkeychecking", ONE },
	{ "identityfile", LIST },
	{ "certificatefile", LIST },
	{ "userknownhostsfile", FILES },
	{ "proxycommand", REFUSE },
	{ "knownhostscommand", REFUSE },
	{ "localcommand", REFUSE },
	{ "pkcs11provider", REFUSE },
	{ "securitykeyprovider", REFUSE },
};

struct reader {
	struct cv_ssh_conf *conf;
	struct cv_err *err;
	const char *alias;
	const char *user;
	const char *dir; /* of the first file, for Include; NULL: no Include */
	const char *file;
	unsigned line;
};

const char *cv_ssh_home(void)
{
	const char *home = getenv("HOME");

	/* A service has no HOME; the worker runs as root. */
	return home && *home == '/' ? home : "/root";
}

int cv_ssh_list_add(struct cv_ssh_list *list, const char *text)
{
	if (list->count == CV_SSH_LIST_MAX)
		return -E2BIG;
	list->item[list->count] = strdup(text);
	if (!list->item[list->count])
		return -ENOMEM;
	list->count++;
	return 0;
}

void cv_ssh_list_release(struct cv_ssh_list *list)
{
	while (list->count)
		free(list->item[--list->count]);
}

void cv_ssh_conf_release(struct cv_ssh_conf *conf)
{
	cv_dict_release(&conf->one);
	cv_ssh_list_release(&conf->keys);
	cv_ssh_list_release(&conf->certs);
	cv_ssh_list_release(&conf->known);
}

/* ---- patterns ---- */

/* * and ? only: a bracket is part of a name here ("[host]:22"). */
static bool match_one(const char *text, const char *pattern, size_t n)
{
	const char *end = pattern + n;
	const char *star = NULL;
	const char *back = NULL;

	while (*text) {
		if (pattern < end && *pattern == '*') {
			star = ++pattern;
			back = text;
		} else if (pattern < end &&
			   (*pattern == '?' ||
			    tolower((unsigned char)*pattern) == tolower((unsigned char)*text))) {
			pattern++;
			text++;
		} else if (star) {
			pattern = star;
			text = ++back;
		} else {
			return false;
		}
	}
	while (pattern < end && *pattern == '*')
		pattern++;
	return pattern == end;
}

bool cv_ssh_match(const char *text, const char *patterns, char separator)
{
	bool found = false;

	while (*patterns) {
		const char *end = strchrnul(patterns, separator);
		bool negated = *patterns == '!';

		patterns += negated;
		if (match_one(text, patterns, (size_t)(end - patterns))) {
			if (negated)
				return false;
			found = true;
		}
		patterns = *end ? end + 1 : end;
	}
	return found;
}

/* ---- lines ---- */

/* Cuts line into words in place; "" and '=' as ssh_config(5) has them. Returns how many. */
static int split(char *line, char *words[WORDS_MAX])
{
	int n = 0;

	for (char *p = line; *p;) {
		bool quoted;

		p += strspn(p, " \t\r\n\f");
		if (n == 1 && *p == '=') /* one, between keyword and value */
			p += 1 + strspn(p + 1, " \t");
		if (!*p || *p == '#')
			break;
		if (n == WORDS_MAX)
			return -1;
		quoted = *p == '"';
		p += quoted;
		words[n++] = p;
		p += strcspn(p, quoted ? "\"" : n == 1 ? " \t\r\n\f=" : " \t\r\n\f");
		if (quoted && !*p)
			return -1;
		if (*p == '=') {
			/* Put where it is seen again, behind the keyword. */
			*p++ = '\0';
			p += strspn(p, " \t");
		} else if (*p) {
			*p++ = '\0';
		}
	}
	return n;
}

static int refuse(struct reader *r, const char *what)
{
	return cv_fail(r->err, EPERM,
		       "ssh_config '%s' line %u: %s is refused for %s: it would run a program as "
		       "root; use ProxyJump, or key_file and known_hosts",
		       r->file, r->line, what, r->alias);
}

static int bad_line(struct reader *r, const char *why)
{
	return cv_fail(r->err, EINVAL, "ssh_config '%s' line %u: %s", r->file, r->line, why);
}

static const char *value_of(const struct reader *r, const char *keyword, const char *fallback)
{
	const char *value = cv_dict_get(&r->conf->one, keyword);

	return value ? value : fallback;
}

/* Returns 1 (matches), 0, or -errno. */
static int match_line(struct reader *r, char *words[], int n)
{
	bool all = true;

	for (int i = 1; i < n; i++) {
		const char *what = words[i] + (words[i][0] == '!');
		bool negated = words[i][0] == '!';
		bool match;

		if (strcasecmp(what, "all") == 0) {
			match = true;
		} else if (strcasecmp(what, "canonical") == 0 || strcasecmp(what, "final") == 0) {
			match = false; /* there is one pass only */
		} else if (++i == n) {
			return bad_line(r, "Match: a criterion has no value");
		} else if (strcasecmp(what, "exec") == 0) {
			return all ? refuse(r, "Match exec") : 0;
		} else if (strcasecmp(what, "host") == 0) {
			match = cv_ssh_match(value_of(r, "hostname", r->alias), words[i], ',');
		} else if (strcasecmp(what, "originalhost") == 0) {
			match = cv_ssh_match(r->alias, words[i], ',');
		} else if (strcasecmp(what, "user") == 0) {
			match = cv_ssh_match(r->user ? r->user : value_of(r, "user", "root"),
					     words[i], ',');
		} else if (strcasecmp(what, "localuser") == 0) {
			match = cv_ssh_match("root", words[i], ',');
		} else {
			return bad_line(r, "Match: only all, host, originalhost, user and "
					   "localuser are supported");
		}
		all = all && match != negated;
	}
	return all;
}

static bool host_line(const struct reader *r, char *words[], int n)
{
	bool found = false;

	for (int i = 1; i < n; i++) {
		const char *pattern = words[i] + (words[i][0] == '!');

		if (!match_one(r->alias, pattern, strlen(pattern)))
			continue;
		if (words[i][0] == '!')
			return false;
		found = true;
	}
	return found;
}

/* ---- directives ---- */

static int add(struct reader *r, struct cv_ssh_list *list, const char *text)
{
	int rc = cv_ssh_list_add(list, text);

	return rc == -E2BIG ? bad_line(r, "too many files")
	       : rc < 0	    ? cv_fail(r->err, rc, "ssh_config: %s", cv_strerror(rc))
			    : 0;
}

static int keep(struct reader *r, const char *name, enum kind kind, char *words[], int n)
{
	struct cv_ssh_conf *c = r->conf;
	int rc = 0;

	if (kind == REFUSE)
		return strcasecmp(words[1], "none") == 0 || strcasecmp(words[1], "internal") == 0
			       ? 0
			       : refuse(r, words[0]);
	if (kind == LIST)
		return add(r, name[0] == 'i' ? &c->keys : &c->certs, words[1]);
	if (kind == FILES) {
		if (c->known.count > 0)
			return 0;
		for (int i = 1; rc == 0 && i < n; i++)
			rc = add(r, &c->known, words[i]);
		return rc;
	}
	if (cv_dict_get(&c->one, name))
		return 0;
	rc = cv_dict_set(&c->one, name, words[1]);
	return rc < 0 ? cv_fail(r->err, rc, "ssh_config: %s", cv_strerror(rc)) : 0;
}

static int directive(struct reader *r, char *words[], int n)
{
	for (size_t i = 0; i < CV_ARRAY_SIZE(keywords); i++) {
		if (strcasecmp(words[0], keywords[i].name) != 0)
			continue;
		if (n < 2 || !*words[1])
			return bad_line(r, "a value is missing");
		return keep(r, keywords[i].name, keywords[i].kind, words, n);
	}
	cv_debug("ssh_config '%s' line %u: %s has no meaning here", r->file, r->line, words[0]);
	return 0;
}

static int read_stream(struct reader *r, FILE *f, bool active, int depth);

static int open_checked(struct reader *r, const char *path, FILE **ret_file, struct stat *st)
{
	cv_cleanup_fclose FILE *f = fopen(path, "re");

	if (!f || fstat(fileno(f), st) < 0)
		return cv_fail(r->err, errno, "cannot read ssh_config '%s': %s", path,
			       cv_strerror(errno));
	if (!S_ISREG(st->st_mode))
		return cv_fail(r->err, EINVAL, "ssh_config '%s' is not a file", path);
	if (st->st_mode & 022)
		return cv_fail(r->err, EPERM,
			       "ssh_config '%s' may be written by others (mode %04o), and it "
			       "decides whom to trust: chmod go-w it",
			       path, st->st_mode & 07777);
	*ret_file = cv_steal(&f);
	return 0;
}

static int include_one(struct reader *r, const char *path, bool active, int depth)
{
	cv_cleanup_fclose FILE *f = NULL;
	struct reader inner = *r;
	struct stat st;
	int rc = open_checked(r, path, &f, &st);

	if (rc < 0)
		return rc;
	inner.file = path;
	inner.line = 0;
	return read_stream(&inner, f, active, depth + 1);
}

static int include(struct reader *r, char *words[], int n, bool active, int depth)
{
	int rc = 0;

	if (!r->dir || depth == INCLUDE_MAX)
		return bad_line(r, "Include: too deep");
	for (int i = 1; rc == 0 && i < n; i++) {
		const char *w = words[i];
		cv_cleanup_free char *pattern = w[0] == '/' ? strdup(w)
						: w[0] == '~' && w[1] == '/'
							? cv_sprintf("%s%s", r->conf->home, w + 1)
							: cv_sprintf("%s/%s", r->dir, w);
		glob_t found;

		if (!pattern)
			return cv_fail(r->err, ENOMEM, "out of memory");
		if (glob(pattern, 0, NULL, &found) != 0)
			continue; /* nothing there is no error */
		for (size_t k = 0; rc == 0 && k < found.gl_pathc; k++)
			rc = include_one(r, found.gl_pathv[k], active, depth);
		globfree(&found);
	}
	return rc;
}

/* active: does the enclosing block apply? Only then may a Host of an included file. */
static int read_stream(struct reader *r, FILE *f, bool active, int depth)
{
	char line[LINE_MAX_LEN];
	bool applies = active;

	while (fgets(line, sizeof(line), f)) {
		char *words[WORDS_MAX];
		int n;
		int rc = 0;

		r->line++;
		if (!strchr(line, '\n') && !feof(f))
			return bad_line(r, "the line is too long");
		n = split(line, words);
		if (n < 0)
			return bad_line(r, "an unclosed quote, or too many words");
		if (n == 0)
			continue;
		if (strcasecmp(words[0], "host") == 0)
			applies = active && host_line(r, words, n);
		else if (strcasecmp(words[0], "match") == 0)
			rc = active ? match_line(r, words, n) : 0;
		else if (applies && strcasecmp(words[0], "include") == 0)
			rc = include(r, words, n, applies, depth);
		else if (applies)
			rc = directive(r, words, n);
		if (rc < 0)
			return rc;
		if (strcasecmp(words[0], "match") == 0)
			applies = rc > 0;
	}
	return 0;
}

int cv_ssh_config_parse(FILE *f, const char *name, const char *alias, const char *user,
			struct cv_ssh_conf *ret_conf, struct cv_err *err)
{
	struct cv_ssh_conf conf = { .one = CV_DICT_INIT };
	struct reader r = { &conf, err, alias, user, NULL, name, 0 };
	int rc;

	(void)cv_strcpy(conf.home, sizeof(conf.home), cv_ssh_home());
	rc = read_stream(&r, f, true, 0);
	if (rc < 0)
		cv_ssh_conf_release(&conf);
	else
		*ret_conf = conf;
	return rc;
}

/* Whoever wrote the file meant his own '~', not that of the service which reads it. */
static void find_home(uid_t owner, char *home, size_t size)
{
	struct passwd pw;
	struct passwd *found = NULL;
	char buf[4096];

	if (owner != geteuid() && getpwuid_r(owner, &pw, buf, sizeof(buf), &found) == 0 && found &&
	    found->pw_dir[0] == '/')
		(void)cv_strcpy(home, size, found->pw_dir);
	else
		(void)cv_strcpy(home, size, cv_ssh_home());
}

int cv_ssh_config_read(const char *path, const char *alias, const char *user,
		       struct cv_ssh_conf *ret_conf, struct cv_err *err)
{
	struct cv_ssh_conf conf = { .one = CV_DICT_INIT };
	cv_cleanup_free char *dir = strdup(path);
	cv_cleanup_fclose FILE *f = NULL;
	struct reader r = { &conf, err, alias, user, dir, path, 0 };
	struct stat st;
	char *slash;
	int rc;

	if (!dir)
		return cv_fail(err, ENOMEM, "out of memory");
	rc = open_checked(&r, path, &f, &st);
	if (rc < 0)
		return rc;
	slash = strrchr(dir, '/');
	if (slash)
		*slash = '\0';
	find_home(st.st_uid, conf.home, sizeof(conf.home));
	rc = read_stream(&r, f, true, 0);
	if (rc < 0)
		cv_ssh_conf_release(&conf);
	else
		*ret_conf = conf;
	return rc;
}
