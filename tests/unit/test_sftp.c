/* SPDX-License-Identifier: Apache-2.0 */
/* SFTP's bytes, and where symbolic links of a server may lead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/sftp.h"
#include "backends/sftp_proto.h"

struct got {
	uint8_t type;
	uint32_t id;
	uint8_t body[512];
	size_t size;
	unsigned count;
	uint8_t data[64];
};

static uint8_t *data_dest(void *user, uint32_t id, uint32_t size)
{
	struct got *g = user;

	(void)id;
	return size <= sizeof(g->data) ? g->data : NULL;
}

static int reply(void *user, uint8_t type, uint32_t id, uint8_t *body, size_t size)
{
	struct got *g = user;

	g->type = type;
	g->id = id;
	g->size = size;
	g->count++;
	if (body && size <= sizeof(g->body))
		memcpy(g->body, body, size);
	return 0;
}

/* A stream of three replies, fed in pieces of each size. */
static void the_parser_takes_any_pieces(void **state)
{
	struct cv_sftp_out out = { 0 };
	size_t at;

	(void)state;
	at = cv_sftp_begin(&out, CV_FXP_STATUS, 7);
	cv_sftp_put_u32(&out, CV_FX_FAILURE);
	cv_sftp_put_text(&out, "no");
	cv_sftp_put_text(&out, "");
	cv_sftp_end(&out, at, 0);
	at = cv_sftp_begin(&out, CV_FXP_DATA, 8);
	cv_sftp_put_string(&out, "0123456789", 10);
	cv_sftp_end(&out, at, 0);
	at = cv_sftp_begin(&out, CV_FXP_HANDLE, 9);
	cv_sftp_put_string(&out, "h", 1);
	cv_sftp_end(&out, at, 0);
	assert_false(out.bad);
	for (size_t step = 1; step <= out.size; step++) {
		struct got g = { 0 };
		struct cv_sftp_parser p = { .data_dest = data_dest, .reply = reply, .user = &g };

		for (size_t i = 0; i < out.size; i += step) {
			size_t n = out.size - i < step ? out.size - i : step;

			assert_int_equal(cv_sftp_parser_feed(&p, out.data + i, n), 0);
		}
		assert_int_equal(g.count, 3);
		assert_int_equal(g.type, CV_FXP_HANDLE);
		assert_int_equal(g.id, 9);
		assert_memory_equal(g.data, "0123456789", 10);
		cv_sftp_parser_release(&p);
	}
	cv_sftp_out_release(&out);
}

static void hostile_streams_end(void **state)
{
	static const struct {
		const char *bytes;
		size_t size;
	} bad[] = {
		{ "\xff\xff\xff\xff\x65\0\0\0\1\0\0\0\0", 13 }, /* a huge packet */
		{ "\0\0\0\0\x65\0\0\0\1\0\0\0\0", 13 },		/* an empty one */
		{ "\0\0\0\x09\x67\0\0\0\1\0\0\xff\xff", 13 },	/* DATA longer than its packet */
		{ "\0\0\0\x49\x67\0\0\0\1\0\0\0\x41", 13 },	/* DATA, size and packet differ */
		{ "\0\0\0\x4a\x67\0\0\0\1\0\0\0\x41", 13 },	/* DATA nobody has room for */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct got g = { 0 };
		struct cv_sftp_parser p = { .data_dest = data_dest, .reply = reply, .user = &g };
		int r = cv_sftp_parser_feed(&p, (const uint8_t *)bad[i].bytes, bad[i].size);

		if (r >= 0)
			fail_msg("stream %zu was taken", i);
		assert_true(cv_sftp_parser_feed(&p, (const uint8_t *)"x", 1) < 0);
		cv_sftp_parser_release(&p);
	}
}

static void attributes_and_names(void **state)
{
	const struct cv_sftp_attrs in = { .flags = CV_FXA_SIZE | CV_FXA_UIDGID |
						   CV_FXA_PERMISSIONS | CV_FXA_ACMODTIME,
					  .size = 1ull << 40,
					  .uid = 1,
					  .gid = 2,
					  .permissions = S_IFREG | 0640,
					  .atime = 3,
					  .mtime = 4 };
	struct cv_sftp_out out = { 0 };
	struct cv_sftp_attrs back;
	struct cv_sftp_in r;
	static const char line[] = "-rw-r--r--    3 root     root  12 Jan  1 00:00 x";

	(void)state;
	cv_sftp_put_attrs(&out, &in);
	r = (struct cv_sftp_in){ out.data, out.size, false };
	cv_sftp_get_attrs(&r, &back);
	assert_false(r.bad);
	assert_int_equal(r.left, 0);
	assert_int_equal(in.flags, back.flags);
	assert_true(in.size == back.size && in.uid == back.uid && in.gid == back.gid);
	assert_true(in.permissions == back.permissions && in.atime == back.atime &&
		    in.mtime == back.mtime);
	for (size_t cut = 0; cut < out.size; cut++) {
		r = (struct cv_sftp_in){ out.data, cut, false };
		cv_sftp_get_attrs(&r, &back);
		assert_true(r.bad);
	}
	cv_sftp_out_release(&out);

	r = (struct cv_sftp_in){ (const uint8_t *)"\xff\xff\xff\xff", 4, false };
	(void)cv_sftp_get_count(&r);
	assert_true(r.bad);

	assert_true(cv_sftp_name_ok("a", 1));
	assert_false(cv_sftp_name_ok("", 0));
	assert_false(cv_sftp_name_ok(".", 1));
	assert_false(cv_sftp_name_ok("..", 2));
	assert_true(cv_sftp_name_ok("...", 3));
	assert_false(cv_sftp_name_ok("a/b", 3));
	assert_false(cv_sftp_name_ok("a\0b", 3));
	assert_int_equal(cv_sftp_longname_nlink(line, sizeof(line) - 1, S_IFREG | 0644), 3);
	assert_int_equal(cv_sftp_longname_nlink("gibberish", 9, S_IFREG | 0644), 0);
}

static void expect_link(const char *path, const char *target, const char *expected)
{
	char *got = sftp_contain("/srv/data", path, target);

	if (!expected) {
		if (got)
			fail_msg("%s -> %s became %s", path, target, got);
		return;
	}
	assert_non_null(got);
	assert_string_equal(got, expected);
	free(got);
}

static void links_stay_inside(void **state)
{
	(void)state;
	expect_link("a/link", "b", "b");
	expect_link("a/link", "../b", "../b");
	expect_link("a/b/link", "../../c", "../../c");
	expect_link("link", "a/../b", "a/../b");
	expect_link("link", "../b", NULL);
	expect_link("a/link", "../../etc/passwd", NULL);
	expect_link("a/link", "b/../../../x", NULL);
	expect_link("link", "/etc/passwd", NULL);
	expect_link("a/link", "/srv/data/b", "../b");
	expect_link("link", "/srv/data/b", "b");
	expect_link("link", "/srv/database", NULL);
	expect_link("link", "/srv/data/../../etc", NULL);
}

static void special_files(void **state)
{
	static const uint32_t modes[] = { S_IFIFO | 0644, S_IFSOCK | 0, S_IFBLK | 07777,
					  S_IFCHR | 0600 };
	char target[SFTP_SPECIAL_SIZE + 1];
	uint32_t mode = 0;
	uint64_t rdev = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		assert_true(sftp_special_format(modes[i], UINT64_MAX - i, target));
		assert_int_equal(strlen(target), SFTP_SPECIAL_SIZE);
		assert_true(sftp_special_parse(target, &mode, &rdev));
		assert_int_equal(mode, modes[i]);
		assert_int_equal(rdev, UINT64_MAX - i);
		target[SFTP_SPECIAL_SIZE - 1] = 'x';
		assert_false(sftp_special_parse(target, &mode, &rdev));
	}
	assert_false(sftp_special_format(S_IFREG | 0644, 0, target));
	assert_false(sftp_special_format(S_IFLNK | 0777, 0, target));
	assert_false(sftp_special_parse("", &mode, &rdev));
	assert_false(sftp_special_parse("/dev/null/cvol-special-file/d/0644/0000000000000000",
					&mode, &rdev));
	assert_false(sftp_special_parse("/dev/null/cvol-special-file/p/0648/0000000000000000",
					&mode, &rdev));
	assert_false(sftp_special_parse("/dev/null/cvol-special-file/p/-644/0000000000000000",
					&mode, &rdev));
}

static struct sftp_ids *ids_of(const char *table)
{
	char path[] = "/tmp/cvol-test-ids-XXXXXX";
	int fd = mkstemp(path);
	struct cv_dict options = { 0 };
	struct sftp_ids *ids = NULL;
	struct cv_err err = { 0 };

	assert_true(fd >= 0);
	assert_int_equal(write(fd, table, strlen(table)), strlen(table));
	assert_int_equal(cv_dict_set(&options, "idmap", "file"), 0);
	assert_int_equal(cv_dict_set(&options, "idmap_file", path), 0);
	if (sftp_ids_new(&options, 0, 0, &ids, &err) < 0)
		assert_non_null(strstr(err.text, "line 1"));
	cv_dict_release(&options);
	(void)close(fd);
	(void)unlink(path);
	return ids;
}

static void put_names(struct cv_sftp_out *out, const char *a, const char *b)
{
	cv_sftp_put_u32(out, (uint32_t)(strlen(a) + strlen(b) + 8));
	cv_sftp_put_text(out, a);
	cv_sftp_put_text(out, b);
}

static void expect_shown(const struct sftp_id_rules *rules, uint32_t server, int64_t expected)
{
	uint32_t shown;
	bool known = sftp_id_shown(rules, true, server, &shown);

	if (known ? expected != shown : expected >= 0)
		fail_msg("%u is shown as %u (%sknown)", server, shown, known ? "" : "not ");
}

static void expect_on_server(const struct sftp_id_rules *rules, uint32_t shown, int64_t expected)
{
	uint32_t server;
	bool known = sftp_id_on_server(rules, shown, &server);

	if (known ? expected != server : expected >= 0)
		fail_msg("%u is %u there (%sknown)", shown, server, known ? "" : "not ");
}

static void ids_by_name(void **state)
{
	char table[1000] = "";
	struct sftp_ids *ids = ids_of("user alice 5000\nuser 7 8\n# x\ngroup staff 60\n");
	struct sftp_question q = { 0 };
	struct cv_sftp_out out = { 0 };

	(void)state;
	assert_non_null(ids);
	expect_shown(&ids->users, 7, 8);
	expect_on_server(&ids->users, 8, 7);
	expect_on_server(&ids->users, 9, 9);
	expect_shown(&ids->users, 1001, -1);
	expect_on_server(&ids->users, 5000, -1);

	/* Only what is not known is asked for, and once. */
	sftp_question_add(&q, ids, 1001, 20);
	sftp_question_add(&q, ids, 7, 20);
	sftp_question_add(&q, ids, 1002, 21);
	sftp_question_add(&q, ids, 1001, 21);
	assert_int_equal(q.users, 2);
	assert_int_equal(q.groups, 2);

	put_names(&out, "alice", "");
	put_names(&out, "alice", "staff");
	for (size_t cut = 0; cut < out.size; cut++)
		assert_int_equal(sftp_ids_learn(ids, &q, out.data, cut), -EPROTO);
	expect_shown(&ids->users, 1001, -1);
	assert_int_equal(sftp_ids_learn(ids, &q, out.data, out.size), 0);
	expect_shown(&ids->users, 1001, 5000);
	expect_on_server(&ids->users, 5000, 1001);
	expect_shown(&ids->users, 1002, 1002); /* has no name there */
	expect_shown(&ids->groups, 20, 20);    /* a user's name is no group's */
	expect_shown(&ids->groups, 21, 60);
	expect_on_server(&ids->groups, 60, 21);

	/* A second id of that name is shown alike; the way back stays. */
	q = (struct sftp_question){ 0 };
	sftp_question_add(&q, ids, 2001, 21);
	assert_int_equal(q.groups, 0);
	out.size = 0;
	cv_sftp_put_u32(&out, 9);
	cv_sftp_put_text(&out, "alice");
	cv_sftp_put_u32(&out, 0);
	assert_int_equal(sftp_ids_learn(ids, &q, out.data, out.size), 0);
	expect_shown(&ids->users, 2001, 5000);
	expect_on_server(&ids->users, 5000, 1001);

	/* What is not remembered any more is asked for again: never taken for another. */
	q = (struct sftp_question){ .users = 1, .user = { 1002 + SFTP_IDS_KNOWN } };
	sftp_ids_give_up(ids, &q);
	expect_shown(&ids->users, 1002 + SFTP_IDS_KNOWN, 1002 + SFTP_IDS_KNOWN);
	expect_shown(&ids->users, 1002, -1);
	expect_shown(&ids->users, 1001, 5000);

	/* A question is never longer than its room. */
	q = (struct sftp_question){ 0 };
	for (uint32_t id = 10000; id < 20000; id++)
		sftp_question_add(&q, ids, id, id);
	assert_int_equal(q.users, SFTP_ASK_MAX);
	assert_int_equal(q.groups, SFTP_ASK_MAX);
	cv_sftp_out_release(&out);
	sftp_ids_free(ids);

	assert_null(ids_of("user 12x 5\n"));
	assert_null(ids_of("user alice x\n"));
	assert_null(ids_of("owner alice 5\n"));
	assert_null(ids_of("user alice 5 6\n"));
	ids = ids_of("user 1 2\n");
	assert_non_null(ids);
	assert_false(ids->named);
	sftp_ids_free(ids);

	/* Lines have any length. */
	memset(table, '#', sizeof(table) - 1);
	memcpy(table + sizeof(table) - 12, "\nuser 1 2\n", 11);
	ids = ids_of(table);
	assert_non_null(ids);
	expect_shown(&ids->users, 1, 2);
	sftp_ids_free(ids);
}

static void ids_of_what_cannot_be_read(void **state)
{
	struct cv_dict options = { 0 };
	struct sftp_ids *ids = NULL;
	struct cv_err err = { 0 };

	(void)state;
	assert_int_equal(cv_dict_set(&options, "idmap", "file"), 0);
	assert_int_equal(cv_dict_set(&options, "idmap_file", "/nowhere/at/all"), 0);
	assert_int_equal(sftp_ids_new(&options, 0, 0, &ids, &err), -ENOENT);
	assert_non_null(strstr(err.text, "cannot read"));
	assert_int_equal(cv_dict_set(&options, "idmap_file", "/tmp"), 0);
	assert_int_equal(sftp_ids_new(&options, 0, 0, &ids, &err), -EISDIR);
	assert_non_null(strstr(err.text, "cannot read"));
	cv_dict_release(&options);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_parser_takes_any_pieces),
		cmocka_unit_test(hostile_streams_end),
		cmocka_unit_test(attributes_and_names),
		cmocka_unit_test(links_stay_inside),
		cmocka_unit_test(special_files),
		cmocka_unit_test(ids_by_name),
		cmocka_unit_test(ids_of_what_cannot_be_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
