/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/sftp_ids.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/sftp_proto.h"
#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"

#define PASSWD "/etc/passwd"
#define GROUP  "/etc/group"

/* ---- mapping ---- */

bool sftp_id_shown(const struct sftp_id_rules *rules, bool named, uint32_t server,
		   uint32_t *ret_shown)
{
	size_t slot = server % SFTP_IDS_KNOWN;

	*ret_shown = server;
	for (size_t i = 0; i < rules->count; i++) {
		if (rules->rule[i].known && rules->rule[i].server == server) {
			*ret_shown = rules->rule[i].shown;
			return true;
		}
	}
	if (!named)
		return true;
	if (!rules->seen[slot].valid || rules->seen[slot].server != server)
		return false;
	*ret_shown = rules->seen[slot].shown;
	return true;
}

bool sftp_id_on_server(const struct sftp_id_rules *rules, uint32_t shown, uint32_t *ret_server)
{
	bool unknown = false;

	*ret_server = shown;
	for (size_t i = 0; i < rules->count; i++) {
		if (rules->rule[i].shown != shown)
			continue;
		if (rules->rule[i].known) {
			*ret_server = rules->rule[i].server;
			return true;
		}
		unknown = true;
	}
	return !unknown;
}

/* ---- rules ---- */

/* Of all mounts without an idmap; never written to, so that it takes no memory. */
static struct sftp_ids none;

static int add(struct sftp_id_rules *rules, uint32_t server, uint32_t shown)
{
	if (rules->count == SFTP_IDS_MAX)
		return -E2BIG;
	rules->rule[rules->count++] =
		(struct sftp_id_rule){ .known = true, .server = server, .shown = shown };
	return 0;
}

static int add_name(struct sftp_ids *ids, struct sftp_id_rules *rules, const char *name,
		    uint32_t shown)
{
	char *copy;

	if (rules->count == SFTP_IDS_MAX)
		return -E2BIG;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	rules->rule[rules->count++] = (struct sftp_id_rule){ .name = copy, .shown = shown };
	ids->named = true;
	return 0;
}

/* Takes one line apart, in place. Returns 0 (blank lines and comments too) or -errno. */
static int read_line(struct sftp_ids *ids, char *line)
{
	char *save = NULL;
	const char *kind = strtok_r(line, " \t\r\n", &save);
	const char *server = strtok_r(NULL, " \t\r\n", &save);
	const char *shown = strtok_r(NULL, " \t\r\n", &save);
	struct sftp_id_rules *rules;
	uint64_t from;
	uint64_t to;

	if (!kind || *kind == '#')
		return 0;
	rules = strcmp(kind, "user") == 0    ? &ids->users
		: strcmp(kind, "group") == 0 ? &ids->groups
					     : NULL;
	if (!rules || !server || !shown || strtok_r(NULL, " \t\r\n", &save) ||
	    cv_parse_u64(shown, 10, UINT32_MAX - 1, &to) < 0)
		return -EINVAL;
	/* Names do not begin with a digit. */
	if (*server < '0' || *server > '9')
		return add_name(ids, rules, server, (uint32_t)to);
	if (cv_parse_u64(server, 10, UINT32_MAX - 1, &from) < 0)
		return -EINVAL;
	return add(rules, (uint32_t)from, (uint32_t)to);
}

static int read_file(struct sftp_ids *ids, const char *path, struct cv_err *err)
{
	cv_cleanup_fclose FILE *f = fopen(path, "re");
	cv_cleanup_free char *line = NULL;
	size_t size = 0;

	errno = f ? 0 : errno;
	for (unsigned n = 1; f && getline(&line, &size, f) > 0; n++) {
		int r = read_line(ids, line);

		if (r == -E2BIG)
			return cv_fail(err, r, "sftp: idmap_file '%s' has more than %d rules", path,
				       SFTP_IDS_MAX);
		if (r == -EINVAL)
			return cv_fail(err, r,
				       "sftp: idmap_file '%s' line %u: expected 'user SERVER "
				       "SHOWN' or 'group SERVER SHOWN', SERVER a number or a name, "
				       "SHOWN a number",
				       path, n);
		if (r < 0)
			return cv_fail(err, r, "sftp: out of memory");
	}
	if (!f || !feof(f))
		return cv_fail(err, errno, "sftp: cannot read idmap_file '%s': %s", path,
			       cv_strerror(errno));
	return 0;
}

/* "name:password:id:…", in place. Returns the name, or NULL: not an entry. */
static const char *parse_entry(char *line, uint32_t *ret_id)
{
	char *password = strchr(line, ':');
	char *id = password ? strchr(password + 1, ':') : NULL;
	uint64_t n;

	if (!id || password == line || *line == '+' || *line == '-' || *line == '#')
		return NULL;
	*password = '\0';
	id++;
	id[strcspn(id, ":\n")] = '\0';
	if (cv_parse_u64(id, 10, UINT32_MAX - 1, &n) < 0)
		return NULL;
	*ret_id = (uint32_t)n;
	return line;
}

/* passwd(5) and group(5) themselves: what else may know names here would have to be waited for. */
static int read_names(struct sftp_ids *ids, struct sftp_id_rules *rules, const char *path,
		      struct cv_err *err)
{
	cv_cleanup_fclose FILE *f = fopen(path, "re");
	cv_cleanup_free char *line = NULL;
	size_t size = 0;

	errno = f ? 0 : errno;
	while (f && getline(&line, &size, f) > 0) {
		uint32_t id;
		const char *name = parse_entry(line, &id);
		int r = name ? add_name(ids, rules, name, id) : 0;

		if (r == -E2BIG)
			return cv_fail(err, r,
				       "sftp: idmap=names: %s has more than %d entries; use "
				       "idmap=file with those that matter",
				       path, SFTP_IDS_MAX);
		if (r < 0)
			return cv_fail(err, r, "sftp: out of memory");
	}
	if (!f || !feof(f))
		return cv_fail(err, errno, "sftp: idmap=names: cannot read %s: %s", path,
			       cv_strerror(errno));
	return 0;
}

int sftp_ids_new(const struct cv_dict *options, uint32_t login_uid, uint32_t login_gid,
		 struct sftp_ids **ret_ids, struct cv_err *err)
{
	const char *kind = cv_options_str(options, "idmap", "none");
	const char *file = cv_options_str(options, "idmap_file", NULL);
	struct sftp_ids *ids;
	int r = 0;

	if (cv_str_eq(kind, "none")) {
		*ret_ids = &none;
		return 0;
	}
	ids = calloc(1, sizeof(*ids));
	if (!ids)
		return cv_fail(err, ENOMEM, "sftp: out of memory");
	if (strcmp(kind, "user") == 0) {
		(void)add(&ids->users, login_uid, (uint32_t)cv_options_uint(options, "uid", 0));
		(void)add(&ids->groups, login_gid, (uint32_t)cv_options_uint(options, "gid", 0));
	} else if (strcmp(kind, "file") == 0) {
		r = file ? read_file(ids, file, err)
			 : cv_fail(err, EINVAL, "sftp: idmap=file needs idmap_file");
	} else if (strcmp(kind, "names") == 0) {
		r = read_names(ids, &ids->users, PASSWD, err);
		if (r == 0)
			r = read_names(ids, &ids->groups, GROUP, err);
	}
	if (r < 0)
		sftp_ids_free(ids);
	else
		*ret_ids = ids;
	return r;
}

void sftp_ids_free(struct sftp_ids *ids)
{
	if (!ids || ids == &none)
		return;
	for (size_t i = 0; i < ids->users.count; i++)
		free(ids->users.rule[i].name);
	for (size_t i = 0; i < ids->groups.count; i++)
		free(ids->groups.rule[i].name);
	free(ids);
}

/* ---- names ---- */

static void ask(uint32_t *list, size_t *count, const struct sftp_id_rules *rules, uint32_t id)
{
	uint32_t unused;

	for (size_t i = 0; i < *count; i++) {
		if (list[i] == id)
			return;
	}
	if (*count < SFTP_ASK_MAX && !sftp_id_shown(rules, true, id, &unused))
		list[(*count)++] = id;
}

void sftp_question_add(struct sftp_question *q, const struct sftp_ids *ids, uint32_t uid,
		       uint32_t gid)
{
	if (!ids->named)
		return;
	ask(q->user, &q->users, &ids->users, uid);
	ask(q->group, &q->groups, &ids->groups, gid);
}

static void remember(struct sftp_id_rules *rules, uint32_t server, uint32_t shown)
{
	size_t slot = server % SFTP_IDS_KNOWN;

	rules->seen[slot].server = server;
	rules->seen[slot].shown = shown;
	rules->seen[slot].valid = true;
}

static void learn(struct sftp_id_rules *rules, uint32_t id, const uint8_t *name, size_t len)
{
	for (size_t i = 0; len > 0 && i < rules->count; i++) {
		struct sftp_id_rule *rule = &rules->rule[i];

		if (!rule->name || strlen(rule->name) != len || memcmp(rule->name, name, len) != 0)
			continue;
		/* Of several ids with one name the first is the one for the way back. */
		if (rule->known) {
			remember(rules, id, rule->shown);
		} else {
			rule->known = true;
			rule->server = id;
		}
		return;
	}
	remember(rules, id, id);
}

static bool has_strings(struct cv_sftp_in in, size_t count)
{
	size_t n;

	for (size_t i = 0; i < count; i++)
		(void)cv_sftp_get_string(&in, &n);
	return !in.bad && in.left == 0;
}

static void learn_all(struct sftp_id_rules *rules, const uint32_t *id, size_t count,
		      struct cv_sftp_in in)
{
	for (size_t i = 0; i < count; i++) {
		size_t len;
		const uint8_t *name = cv_sftp_get_string(&in, &len);

		learn(rules, id[i], name, len);
	}
}

int sftp_ids_learn(struct sftp_ids *ids, const struct sftp_question *q, const uint8_t *answer,
		   size_t size)
{
	struct cv_sftp_in in = { answer, size, false };
	struct cv_sftp_in users = { 0 };
	struct cv_sftp_in groups = { 0 };

	users.p = cv_sftp_get_string(&in, &users.left);
	groups.p = cv_sftp_get_string(&in, &groups.left);
	if (in.bad || !has_strings(users, q->users) || !has_strings(groups, q->groups))
		return -EPROTO;
	learn_all(&ids->users, q->user, q->users, users);
	learn_all(&ids->groups, q->group, q->groups, groups);
	return 0;
}

void sftp_ids_give_up(struct sftp_ids *ids, const struct sftp_question *q)
{
	for (size_t i = 0; i < q->users; i++)
		remember(&ids->users, q->user[i], q->user[i]);
	for (size_t i = 0; i < q->groups; i++)
		remember(&ids->groups, q->group[i], q->group[i]);
}
