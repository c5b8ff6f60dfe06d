/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/sftp_ids.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"

uint32_t sftp_id_shown(const struct sftp_id_rules *rules, uint32_t server)
{
	for (size_t i = 0; i < rules->count; i++) {
		if (rules->rule[i].server == server)
			return rules->rule[i].shown;
	}
	return server;
}

uint32_t sftp_id_on_server(const struct sftp_id_rules *rules, uint32_t shown)
{
	for (size_t i = 0; i < rules->count; i++) {
		if (rules->rule[i].shown == shown)
			return rules->rule[i].server;
	}
	return shown;
}

static int add(struct sftp_id_rules *rules, uint64_t server, uint64_t shown)
{
	if (rules->count == SFTP_IDS_MAX)
		return -E2BIG;
	rules->rule[rules->count].server = (uint32_t)server;
	rules->rule[rules->count++].shown = (uint32_t)shown;
	return 0;
}

/* Takes one line apart, in place. Returns 0 (blank lines and comments too) or -errno. */
static int read_line(struct sftp_ids *ids, char *line)
{
	char *save = NULL;
	const char *kind = strtok_r(line, " \t\r\n", &save);
	const char *server = strtok_r(NULL, " \t\r\n", &save);
	const char *shown = strtok_r(NULL, " \t\r\n", &save);
	uint64_t from;
	uint64_t to;

	if (!kind || *kind == '#')
		return 0;
	if (!server || !shown || strtok_r(NULL, " \t\r\n", &save) ||
	    cv_parse_u64(server, 10, UINT32_MAX - 1, &from) < 0 ||
	    cv_parse_u64(shown, 10, UINT32_MAX - 1, &to) < 0)
		return -EINVAL;
	if (strcmp(kind, "user") == 0)
		return add(&ids->users, from, to);
	return strcmp(kind, "group") == 0 ? add(&ids->groups, from, to) : -EINVAL;
}

static int read_file(struct sftp_ids *ids, const char *path, struct cv_err *err)
{
	cv_cleanup_fclose FILE *f = fopen(path, "re");
	char line[256];

	if (!f)
		return cv_fail(err, errno, "sftp: cannot read idmap_file '%s': %s", path,
			       cv_strerror(errno));
	for (unsigned n = 1; fgets(line, sizeof(line), f); n++) {
		int r = read_line(ids, line);

		if (r == -E2BIG)
			return cv_fail(err, r, "sftp: idmap_file '%s' has more than %d rules", path,
				       SFTP_IDS_MAX);
		if (r < 0)
			return cv_fail(err, r,
				       "sftp: idmap_file '%s' line %u: expected 'user SERVER "
				       "SHOWN' or 'group SERVER SHOWN', with numbers",
				       path, n);
	}
	return 0;
}

int sftp_ids_init(struct sftp_ids *ids, const struct cv_dict *options, uint32_t login_uid,
		  uint32_t login_gid, struct cv_err *err)
{
	const char *kind = cv_options_str(options, "idmap", "none");
	const char *file = cv_options_str(options, "idmap_file", NULL);

	ids->users.count = 0;
	ids->groups.count = 0;
	if (strcmp(kind, "user") == 0) {
		(void)add(&ids->users, login_uid, cv_options_uint(options, "uid", 0));
		(void)add(&ids->groups, login_gid, cv_options_uint(options, "gid", 0));
	} else if (strcmp(kind, "file") == 0) {
		if (!file)
			return cv_fail(err, EINVAL, "sftp: idmap=file needs idmap_file");
		return read_file(ids, file, err);
	}
	return 0;
}
