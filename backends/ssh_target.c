/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/ssh_target.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"

#define SSH_PORT      22
#define KNOWN_OF_CVOL "/etc/cvol/known_hosts"

static int no_memory(struct cv_err *err)
{
	return cv_fail(err, ENOMEM, "sftp: out of memory");
}

void cv_ssh_target_release(struct cv_ssh_target *t)
{
	char **texts[] = { &t->name, &t->host,	 &t->key_name, &t->user, &t->agent,
			   &t->via,  &t->policy, &t->ciphers,  &t->macs, &t->kex };

	for (size_t i = 0; i < CV_ARRAY_SIZE(texts); i++) {
		free(*texts[i]);
		*texts[i] = NULL;
	}
	cv_ssh_list_release(&t->keys);
	cv_ssh_list_release(&t->certs);
	cv_ssh_list_release(&t->known);
}

void cv_ssh_target_known_text(const struct cv_ssh_target *t, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < t->known.count && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? " or " : "", t->known.item[i]);
}

/* ---- file names ---- */

static const char *token(const struct cv_ssh_target *t, const struct cv_ssh_conf *conf, char c,
			 char number[16])
{
	switch (c) {
	case '%':
		return "%";
	case 'd':
		return conf->home;
	case 'h':
		return t->host;
	case 'n':
		return t->name;
	case 'p':
		(void)snprintf(number, 16, "%u", t->port);
		return number;
	case 'r':
		return t->user;
	case 'u':
		return "root";
	case 'i':
		return "0";
	default:
		return NULL;
	}
}

/* ~ and the tokens of ssh_config(5). Returns NULL with err set. */
static char *expand(const struct cv_ssh_target *t, const struct cv_ssh_conf *conf, const char *text,
		    struct cv_err *err)
{
	char out[4096];
	size_t n = 0;

	if (text[0] == '~' && text[1] == '/') {
		n = (size_t)snprintf(out, sizeof(out), "%s", conf->home);
		text++;
	}
	for (; *text && n < sizeof(out) - 1; text++) {
		char number[16];
		const char *part = *text == '%' ? token(t, conf, text[1], number) : NULL;

		if (*text == '%' && !part) {
			(void)cv_fail(err, EINVAL, "ssh_config: '%%%c' in '%s' is not supported",
				      text[1] ? text[1] : ' ', text);
			return NULL;
		}
		if (part) {
			n += (size_t)snprintf(out + n, sizeof(out) - n, "%s", part);
			text++;
		} else {
			out[n++] = *text;
		}
	}
	if (n >= sizeof(out) - 1) {
		(void)cv_fail(err, ENAMETOOLONG, "ssh_config: a file name is too long");
		return NULL;
	}
	out[n] = '\0';
	return strdup(out);
}

static int add_conf_files(struct cv_ssh_target *t, const struct cv_ssh_conf *conf,
			  const struct cv_ssh_list *from, struct cv_ssh_list *to,
			  struct cv_err *err)
{
	for (size_t i = 0; i < from->count; i++) {
		cv_cleanup_free char *path = NULL;

		if (strcasecmp(from->item[i], "none") == 0)
			continue;
		err->code = 0;
		path = expand(t, conf, from->item[i], err);
		if (!path)
			return err->code ? err->code : no_memory(err);
		if (path[0] != '/')
			return cv_fail(err, EINVAL,
				       "ssh_config: '%s' must be an absolute path, or begin with "
				       "~/",
				       path);
		if (cv_ssh_list_add(to, path) < 0)
			return no_memory(err);
	}
	return 0;
}

/* "/a:/b": a file name may hold a ':', hardly a ":/". */
static int add_option_files(struct cv_ssh_list *to, const char *paths, struct cv_err *err)
{
	while (*paths) {
		const char *end = strstr(paths, ":/");
		cv_cleanup_free char *path =
			strndup(paths, end ? (size_t)(end - paths) : strlen(paths));
		int r = path ? cv_ssh_list_add(to, path) : -ENOMEM;

		if (r < 0)
			return r == -ENOMEM ? no_memory(err)
					    : cv_fail(err, r, "sftp: more than %d key files",
						      CV_SSH_LIST_MAX);
		paths = end ? end + 1 : paths + strlen(paths);
	}
	return 0;
}

static int find_keys(struct cv_ssh_target *t, const struct cv_ssh_conf *conf, struct cv_err *err)
{
	static const char *const names[] = { "id_ed25519", "id_ecdsa", "id_rsa" };
	const char *files = cv_options_str(t->options, "key_file", NULL);
	const char *certs = cv_options_str(t->options, "cert_file", NULL);
	int r = 0;

	if (files)
		r = add_option_files(&t->keys, files, err);
	else
		r = add_conf_files(t, conf, &conf->keys, &t->keys, err);
	if (r == 0 && certs)
		r = add_option_files(&t->certs, certs, err);
	else if (r == 0)
		r = add_conf_files(t, conf, &conf->certs, &t->certs, err);
	t->keys_named = t->keys.count > 0;
	/* With other credentials named, the defaults would only use up the server's patience. */
	if (r < 0 || t->keys_named || t->agent ||
	    (!t->jump && cv_options_str(t->options, "password_file", NULL)))
		return r;
	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++) {
		cv_cleanup_free char *file = cv_sprintf("%s/.ssh/%s", cv_ssh_home(), names[i]);

		if (!file)
			return no_memory(err);
		if (access(file, R_OK) == 0 && cv_ssh_list_add(&t->keys, file) < 0)
			return no_memory(err);
	}
	return 0;
}

static int find_known(struct cv_ssh_target *t, const struct cv_ssh_conf *conf, struct cv_err *err)
{
	const char *file = cv_options_str(t->options, "known_hosts", NULL);
	cv_cleanup_free char *of_user = cv_sprintf("%s/.ssh/known_hosts", cv_ssh_home());
	int r;

	if (file)
		return cv_ssh_list_add(&t->known, file) < 0 ? no_memory(err) : 0;
	r = add_conf_files(t, conf, &conf->known, &t->known, err);
	if (r < 0 || t->known.count > 0)
		return r;
	if (!of_user || cv_ssh_list_add(&t->known, KNOWN_OF_CVOL) < 0 ||
	    cv_ssh_list_add(&t->known, of_user) < 0)
		return no_memory(err);
	return 0;
}

/* ---- one value each ---- */

/* A volume's option, else the file's keyword, else fallback; "none" is no value. NULL: no memory,
 * or nothing at all. */
static char *pick(const struct cv_ssh_target *t, const char *option, const struct cv_ssh_conf *conf,
		  const char *keyword, const char *fallback)
{
	const char *value = option ? cv_options_str(t->options, option, NULL) : NULL;

	if (!value) {
		value = cv_dict_get(&conf->one, keyword);
		if (value && strcasecmp(value, "none") == 0)
			return NULL;
	}
	if (!value)
		value = fallback;
	return value ? strdup(value) : NULL;
}

static int find_agent(struct cv_ssh_target *t, const struct cv_ssh_conf *conf, struct cv_err *err)
{
	cv_cleanup_free char *path = pick(t, "agent_socket", conf, "identityagent", NULL);

	/* A service has no agent of its own in its environment. */
	if (!path || strcmp(path, "SSH_AUTH_SOCK") == 0 || path[0] == '$')
		return 0;
	t->agent = expand(t, conf, path, err);
	return t->agent ? 0 : err->code;
}

static int find_port(struct cv_ssh_target *t, unsigned given, const struct cv_ssh_conf *conf,
		     struct cv_err *err)
{
	const char *text = cv_dict_get(&conf->one, "port");
	uint64_t port = given;

	if (!given && text && (cv_parse_u64(text, 10, 65535, &port) < 0 || port == 0))
		return cv_fail(err, EINVAL, "ssh_config: Port '%s' is not a port", text);
	t->port = port ? (unsigned)port : SSH_PORT;
	return 0;
}

/* The name in known_hosts files, with the port only where it is not the usual one. */
static int find_key_name(struct cv_ssh_target *t, const struct cv_ssh_conf *conf,
			 struct cv_err *err)
{
	const char *alias = cv_dict_get(&conf->one, "hostkeyalias");

	if (alias)
		t->key_name = strdup(alias);
	else if (t->port == SSH_PORT)
		t->key_name = strdup(t->host);
	else
		t->key_name = cv_sprintf("[%s]:%u", t->host, t->port);
	if (!t->key_name)
		return no_memory(err);
	for (char *p = t->key_name; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	return 0;
}

static int find_host(struct cv_ssh_target *t, const struct cv_ssh_conf *conf, struct cv_err *err)
{
	const char *text = cv_dict_get(&conf->one, "hostname");

	t->host = strdup(t->name);
	if (t->host && text) {
		char *host = expand(t, conf, text, err); /* %h is the name, here */

		free(t->host);
		t->host = host;
		if (!host)
			return err->code;
	}
	return t->host ? 0 : no_memory(err);
}

static int find_all(struct cv_ssh_target *t, const char *user, unsigned port,
		    const struct cv_ssh_conf *conf, struct cv_err *err)
{
	const char *compression = cv_dict_get(&conf->one, "compression");
	const char *option_user = cv_options_str(t->options, "user", "root");
	int r;

	t->user = user ? strdup(user) : pick(t, NULL, conf, "user", option_user);
	if (!t->user)
		return no_memory(err);
	r = find_port(t, port, conf, err);
	if (r == 0)
		r = find_host(t, conf, err);
	if (r == 0)
		r = find_key_name(t, conf, err);
	if (r == 0)
		r = find_agent(t, conf, err);
	if (r == 0)
		r = find_keys(t, conf, err);
	if (r == 0)
		r = find_known(t, conf, err);
	if (r < 0)
		return r;
	t->via = pick(t, t->jump ? NULL : "proxy_jump", conf, "proxyjump", NULL);
	t->policy = pick(t, "host_key_policy", conf, "stricthostkeychecking", "strict");
	t->ciphers = pick(t, "ciphers", conf, "ciphers", NULL);
	t->macs = pick(t, "macs", conf, "macs", NULL);
	t->kex = pick(t, "kex", conf, "kexalgorithms", NULL);
	t->compression = cv_options_bool(t->options, "compression",
					 compression && strcasecmp(compression, "yes") == 0);
	return t->policy ? 0 : no_memory(err);
}

/* Takes "[user@]host[:port]" or "ssh://…" apart, in place; an IPv6 address has brackets. */
static int split_hop(char *hop, char **ret_user, char **ret_host, unsigned *ret_port)
{
	char *host = hop;
	char *at;
	char *colon;
	uint64_t port = 0;

	if (strncasecmp(host, "ssh://", 6) == 0)
		host += 6;
	at = strrchr(host, '@');
	*ret_user = NULL;
	if (at) {
		*at = '\0';
		*ret_user = host;
		host = at + 1;
	}
	colon = strrchr(host, ':');
	if (*host == '[') {
		char *close = strchr(host, ']');

		if (!close)
			return -EINVAL;
		*close = '\0';
		host++;
		colon = close[1] == ':' ? close + 1 : NULL;
		if (!colon && close[1])
			return -EINVAL;
	}
	if (colon) {
		*colon = '\0';
		if (cv_parse_u64(colon + 1, 10, 65535, &port) < 0 || port == 0)
			return -EINVAL;
	}
	*ret_host = host;
	*ret_port = (unsigned)port;
	return !*host || *host == '-' || (*ret_user && !**ret_user) ? -EINVAL : 0;
}

int cv_ssh_target_init(struct cv_ssh_target *t, const struct cv_dict *options, const char *hop,
		       struct cv_err *err)
{
	const char *file = cv_options_str(options, "ssh_config", NULL);
	struct cv_ssh_conf conf = { .one = CV_DICT_INIT };
	cv_cleanup_free char *copy = hop ? strdup(hop) : NULL;
	char *user = (char *)(uintptr_t)cv_options_str(options, "user", NULL);
	char *host = (char *)(uintptr_t)cv_options_str(options, "host", "");
	unsigned port = (unsigned)cv_options_uint(options, "port", 0);
	int r = 0;

	*t = (struct cv_ssh_target){ .options = options, .jump = hop != NULL };
	if (hop && !copy)
		return no_memory(err);
	if (hop && split_hop(copy, &user, &host, &port) < 0)
		return cv_fail(err, EINVAL, "sftp: proxy_jump: '%s' is not [user@]host[:port]",
			       hop);
	t->name = strdup(host);
	if (!t->name)
		return no_memory(err);
	if (file)
		r = cv_ssh_config_read(file, host, user, &conf, err);
	else
		(void)cv_strcpy(conf.home, sizeof(conf.home), cv_ssh_home());
	if (r == 0)
		r = find_all(t, user, port, &conf, err);
	cv_ssh_conf_release(&conf);
	if (r < 0)
		cv_ssh_target_release(t);
	return r;
}
