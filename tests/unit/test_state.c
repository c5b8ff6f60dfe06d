/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/str.h"
#include "plugin/files.h"
#include "plugin/state.h"

struct fixture {
	char dir[64];
	struct cv_store store;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cv_err err = { 0 };
	char path[80];

	assert_non_null(f);
	(void)strcpy(f->dir, "/tmp/cvol-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(path, sizeof(path), "%s/new/state", f->dir);
	assert_int_equal(cv_store_open(path, &f->store, &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	cv_store_release(&f->store);
	assert_int_equal(nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
	free(f);
	return 0;
}

static void put(struct fixture *f, const char *file, const char *text)
{
	assert_int_equal(cv_file_replace(f->store.volumes, file, text, strlen(text)), 0);
}

static void save(struct fixture *f, const char *name, const char *encoded)
{
	struct cv_state s = { .name = strdup(name), .created = 1700000000 };
	struct cv_err err = { 0 };

	assert_int_equal(cv_dict_set(&s.options, "type", "dir"), 0);
	assert_int_equal(cv_dict_set(&s.options, "path", "/srv/\xc3\xbc \"q\""), 0);
	assert_int_equal(cv_store_save(&f->store, encoded, &s, &err), 0);
	cv_state_release(&s);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct cv_state s = CV_STATE_INIT;
	struct cv_err err = { 0 };
	struct stat st;

	save(f, "a/b", "a%2Fb");
	assert_int_equal(fstatat(f->store.volumes, "a%2Fb.json", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(cv_store_load(&f->store, "a%2Fb", &s, &err), 0);
	assert_string_equal(s.name, "a/b");
	assert_int_equal(s.created, 1700000000);
	assert_int_equal(s.options.count, 2);
	assert_string_equal(cv_dict_get(&s.options, "path"), "/srv/\xc3\xbc \"q\"");
	cv_state_release(&s);
	assert_int_equal(cv_store_delete(&f->store, "a%2Fb", &err), 0);
	assert_int_equal(cv_store_load(&f->store, "a%2Fb", &s, &err), -ENOENT);
	assert_int_equal(cv_store_delete(&f->store, "a%2Fb", &err), 0);
}

static void test_bad_files_are_told_apart_and_kept(void **state)
{
	static const struct {
		const char *text;
		int result;
	} cases[] = {
		{ "", -EBADMSG },
		{ "{", -EBADMSG },
		{ "[]", -EBADMSG },
		{ "{}", -EBADMSG },
		{ "{\"version\":1}", -EBADMSG },
		{ "{\"version\":\"1\",\"name\":\"v\",\"created\":1,\"options\":{}}", -EBADMSG },
		{ "{\"version\":0,\"name\":\"v\",\"created\":1,\"options\":{}}", -EBADMSG },
		{ "{\"version\":2,\"name\":\"v\",\"shape\":\"unknown\"}", -EPROTONOSUPPORT },
		{ "{\"version\":1,\"name\":\"../x\",\"created\":1,\"options\":{}}", -EBADMSG },
		{ "{\"version\":1,\"name\":\"other\",\"created\":1,\"options\":{}}", -EBADMSG },
		{ "{\"version\":1,\"name\":\"v\",\"created\":-1,\"options\":{}}", -EBADMSG },
		{ "{\"version\":1,\"name\":\"v\",\"created\":1,\"options\":{\"a\":1}}", -EBADMSG },
		{ "{\"version\":1,\"name\":\"v\",\"created\":1,\"options\":{}} tail", -EBADMSG },
		{ "{\"version\":1,\"name\":\"v\",\"created\":1,\"options\":{}}", 0 },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cv_state s = CV_STATE_INIT;
		struct cv_err err = { 0 };
		char *data = NULL;
		int r;

		put(f, "v.json", cases[i].text);
		r = cv_store_load(&f->store, "v", &s, &err);
		if (r != cases[i].result)
			fail_msg("case %zu: %d, %s", i, r, err.text);
		if (r < 0) {
			assert_non_null(strstr(err.text, "v.json")); /* says which file */
			assert_null(s.name);
		}
		cv_state_release(&s);
		assert_int_equal(cv_file_read(f->store.volumes, "v.json", 10000, &data, NULL), 0);
		assert_string_equal(data, cases[i].text);
		free(data);
	}
}

static void test_no_symlinks_or_fifos(void **state)
{
	struct fixture *f = *state;
	struct cv_state s = CV_STATE_INIT;
	struct cv_err err = { 0 };

	assert_int_equal(symlinkat("/etc/passwd", f->store.volumes, "v.json"), 0);
	assert_int_equal(cv_store_load(&f->store, "v", &s, &err), -ELOOP);
	assert_int_equal(mkfifoat(f->store.volumes, "w.json", 0600), 0);
	assert_int_equal(cv_store_load(&f->store, "w", &s, &err), -ENOTSUP);
}

static void count_one(void *ctx, const char *encoded)
{
	unsigned *count = ctx;

	assert_true(cv_str_eq(encoded, "a") || cv_str_eq(encoded, "b"));
	(*count)++;
}

static void test_list_ignores_what_is_not_a_volume(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };
	unsigned count = 0;

	save(f, "a", "a");
	put(f, "b.json", "broken");
	put(f, "c.json.bak", "x");
	put(f, ".tmp-1-1", "left over by a crash");
	put(f, ".json", "x");
	assert_int_equal(cv_store_list(&f->store, count_one, &count, &err), 0);
	assert_int_equal(count, 2);
	assert_int_equal(faccessat(f->store.volumes, ".tmp-1-1", F_OK, 0), -1);
	assert_int_equal(faccessat(f->store.volumes, "c.json.bak", F_OK, 0), 0);
}

static void test_set_aside_keeps_the_text(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };
	unsigned count = 0;

	put(f, "b.json", "broken");
	assert_int_equal(cv_store_set_aside(&f->store, "b", &err), 0);
	assert_int_equal(faccessat(f->store.volumes, "b.json", F_OK, 0), -1);
	assert_int_equal(cv_store_list(&f->store, count_one, &count, &err), 0);
	assert_int_equal(count, 0);
}

/* A directory that is gone behaves, for root too, like one that cannot be written. */
static void test_unwritable_directory_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct cv_state s = { .name = (char[]){ "v" } };
	struct cv_err err = { 0 };
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/volumes", f->store.path);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(cv_store_save(&f->store, "v", &s, &err), -ENOENT);
	assert_non_null(strstr(err.text, "cannot write state file"));
}

static void test_secrets_leave_the_options(void **state)
{
	struct fixture *f = *state;
	struct cv_dict o = CV_DICT_INIT;
	struct cv_err err = { 0 };
	struct stat st;
	char *data = NULL;

	assert_int_equal(cv_dict_set(&o, "password", "geheim, \"x\""), 0);
	assert_int_equal(cv_store_secrets(&f->store, "v", &o, true, &err), 0);
	assert_null(cv_dict_get(&o, "password"));
	assert_non_null(strstr(cv_dict_get(&o, "password_file"), "/secrets/v.password"));
	assert_int_equal(fstatat(f->store.secrets, "v.password", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(fstat(f->store.secrets, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(cv_file_read(f->store.secrets, "v.password", 100, &data, NULL), 0);
	assert_string_equal(data, "geheim, \"x\"");
	free(data);
	cv_dict_release(&o);

	/* The same again is the same; another one is different, and is not shown. */
	assert_int_equal(cv_dict_set(&o, "password", "geheim, \"x\""), 0);
	assert_int_equal(cv_store_secrets(&f->store, "v", &o, false, &err), 0);
	assert_non_null(cv_dict_get(&o, "password_file"));
	assert_null(cv_dict_get(&o, "password"));
	cv_dict_release(&o);
	assert_int_equal(cv_dict_set(&o, "password", "other"), 0);
	assert_int_equal(cv_store_secrets(&f->store, "v", &o, false, &err), 0);
	assert_null(cv_dict_get(&o, "password"));
	assert_string_equal(cv_dict_get(&o, "password_file"), CV_OTHER_SECRET);
	cv_dict_release(&o);

	assert_int_equal(cv_store_delete(&f->store, "v", &err), 0);
	assert_int_equal(faccessat(f->store.secrets, "v.password", F_OK, 0), -1);
}

static void test_record_round_trip(void **state)
{
	struct fixture *f = *state;
	struct cv_mount_id ids[] = { { (char[]){ "abc" }, 2, 1 }, { (char[]){ "" }, 1, 7 } };
	struct cv_record rec = { .volume = (char[]){ "v" },
				 .mountpoint = (char[]){ "/run/x" },
				 .source = (char[]){ "mem://" },
				 .server = (char[]){ "" },
				 .worker = 42,
				 .worker_start = 123456789012,
				 .dev = 55,
				 .ids = ids,
				 .id_count = 2 };
	struct cv_record back = { 0 };
	struct cv_err err = { 0 };

	assert_int_equal(cv_record_save(f->store.volumes, "r.json", &rec, &err), 0);
	assert_int_equal(cv_record_load(f->store.volumes, "r.json", &back, &err), 0);
	assert_string_equal(back.volume, "v");
	assert_int_equal(back.worker, 42);
	assert_true(back.worker_start == 123456789012);
	assert_int_equal(back.dev, 55);
	assert_int_equal(back.id_count, 2);
	assert_string_equal(back.ids[0].id, "abc");
	assert_int_equal(back.ids[0].count, 2);
	assert_int_equal(back.ids[1].epoch, 7);
	cv_record_release(&back);
	put(f, "r.json", "{\"version\":1,\"volume\":\"v\"}");
	assert_int_equal(cv_record_load(f->store.volumes, "r.json", &back, &err), -EBADMSG);
	assert_null(back.volume);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_files_are_told_apart_and_kept, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_no_symlinks_or_fifos, setup, teardown),
		cmocka_unit_test_setup_teardown(test_list_ignores_what_is_not_a_volume, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_set_aside_keeps_the_text, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unwritable_directory_changes_nothing, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_secrets_leave_the_options, setup, teardown),
		cmocka_unit_test_setup_teardown(test_record_round_trip, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
