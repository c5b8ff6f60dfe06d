/* SPDX-License-Identifier: Apache-2.0 */
/* What an administrator sets down in /etc/cvol, and what becomes of a volume's options with it. */
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

#include "config/options.h"
#include "config/str.h"
#include "plugin/remotes.h"

static char dir[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int setup(void **state)
{
	char path[96];

	(void)state;
	(void)unsetenv("CREDENTIALS_DIRECTORY");
	(void)strcpy(dir, "/tmp/cvol-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/remotes.d", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	(void)snprintf(path, sizeof(path), "%s/secrets", dir);
	return mkdir(path, 0700);
}

static int teardown(void **state)
{
	(void)state;
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void put(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int resolve(const char *volume, const char *text, struct cv_dict *ret, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT, stored = CV_DICT_INIT;
	int r = cv_options_split(text, &in, err);

	if (r == 0)
		r = cv_options_parse(&in, &stored, err);
	return r < 0 ? r : cv_remotes_resolve(dir, volume, &stored, ret, err);
}

static void expect(const char *volume, const char *text, const char *key, const char *value)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
	struct cv_err err = { 0 };

	if (resolve(volume, text, &o, &err) < 0)
		fail_msg("'%s': %s", text, err.text);
	if (!cv_str_eq(cv_dict_get(&o, key), value))
		fail_msg("'%s': %s is '%s', expected '%s'", text, key, cv_options_str(&o, key, "-"),
			 value ? value : "-");
}

static void refuse(const char *text, const char *word, const char *other)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
	struct cv_err err = { 0 };

	assert_true(resolve("v", text, &o, &err) < 0);
	if (!strstr(err.text, word) || !strstr(err.text, other))
		fail_msg("'%s': %s", text, err.text);
}

static void a_remote_fills_in(void **state)
{
	(void)state;
	put("remotes.d/nas.json",
	    "{ \"source\": \"nfs://nas.example/export\", \"description\": \"x\","
	    " \"options\": { \"subdir\": \"docker\", \"readonly\": true,"
	    " \"connections\": 2, \"recovery\": \"soft\" } }");
	expect("v", "remote=nas", "host", "nas.example");
	expect("v", "remote=nas", "path", "/export");
	expect("v", "remote=nas", "readonly", "true");
	expect("v", "remote=nas", "connections", "2");
	expect("v", "remote=nas", "remote", NULL); /* of no use to a worker */
	expect("v", "remote=nas", "subdir", "docker");
	expect("v", "source=nas:web", "subdir", "docker/web");
	expect("v", "source=nas:a/${name}", "subdir", "docker/a/v");
	expect("a/../b c", "source=nas:${name}", "subdir", "docker/a%2F..%2Fb%20c");
	/* the volume's own word counts */
	expect("v", "remote=nas,readonly=false,hard", "readonly", "false");
	expect("v", "remote=nas,readonly=false,hard", "recovery", "hard");
	refuse("remote=other", "no remote 'other'", "cvol remote ls");
	refuse("remote=nas,key_file=/k", "key_file", "not for nfs");
}

static void defaults_fill_in_last(void **state)
{
	(void)state;
	put("cvol.json", "{ \"$schema\": \"x\", \"default_remote\": \"nas\","
			 " \"defaults\": { \"timeo-ut\": \"5s\" } }");
	refuse("source=h:/x", "cvol.json", "timeo_ut");
	put("cvol.json", "{ \"defaults\": { \"timeout\": \"5s\", \"umask\": \"022\", \"cache\": "
			 "\"strict\" } }");
	put("remotes.d/nas.json", "{ \"source\": \"nas:/e\", \"options\": { \"cache\": "
				  "\"relaxed\" } }");
	expect("v", "source=h:/x", "timeout", "5000ms");
	expect("v", "source=h:/x", "umask", NULL); /* not an option of NFS volumes */
	expect("v", "source=u@h:/x", "umask", "0022");
	expect("v", "source=h:/x,timeout=7", "timeout", "7000ms");
	expect("v", "remote=nas", "cache", "relaxed");
	expect("v", "source=dir:///x", "timeout", NULL);
	expect("v", "source=dir:///x", "cache", "strict");
}

static void no_config_is_no_fault(void **state)
{
	cv_cleanup_site struct cv_site site = CV_SITE_INIT;
	struct cv_err err = { 0 };
	char **names;

	(void)state;
	assert_int_equal(cv_site_load("/nonexistent", &site, &err), 0);
	assert_null(site.default_remote);
	names = cv_remote_names("/nonexistent", &err);
	assert_non_null(names);
	assert_null(names[0]);
	cv_remote_names_free(names);
	expect("v", "source=h:/x", "host", "h");
}

static void files_are_read_strictly(void **state)
{
	static const struct {
		const char *text, *word;
	} bad[] = {
		{ "{}", "needs a source" },
		{ "[]", "not a JSON object" },
		{ "{ \"source\": \"nas:/e\", \"option\": {} }", "unknown member 'option'" },
		{ "{ \"source\": \"nas:/e\", \"options\": [] }", "not an object" },
		{ "{ \"source\": \"nas:/e\", \"options\": { \"ro\": null } }", "ro" },
		{ "{ \"source\": \"nas:/e\", \"options\": { \"ro\": {} } }", "ro" },
		{ "{ \"source\": \"other\" }", "needs a source" },
		{ "{ \"source\": \"me:topsecret@nas\" }", "password" },
		{ "{ \"source\": \"u@h:/\", \"options\": { \"password\": \"topsecret\" } }",
		  "does not belong here" },
		{ "{ \"source\": \"nas:/e\" } x", "text after" },
		{ "", "empty" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cv_cleanup_remote struct cv_remote remote = CV_REMOTE_INIT;
		struct cv_err err = { 0 };

		put("remotes.d/bad.json", bad[i].text);
		assert_true(cv_remote_load(dir, "bad", &remote, &err) < 0);
		if (!strstr(err.text, bad[i].word) || !strstr(err.text, "remotes.d/bad.json"))
			fail_msg("'%s': %s", bad[i].text, err.text);
		assert_null(strstr(err.text, "topsecret"));
	}
	put("cvol.json", "{ \"default_remote\": \"../x\" }");
	refuse("source=h:/x", "default_remote", "cvol.json");
	put("cvol.json", "{ \"defaults\": { \"source\": \"h:/x\" } }");
	refuse("source=h:/x", "default_remote", "cvol.json");
}

static void names_are_sorted_and_safe(void **state)
{
	cv_cleanup_remote struct cv_remote remote = CV_REMOTE_INIT;
	struct cv_err err = { 0 };
	char **names;

	(void)state;
	put("remotes.d/b.json", "{}");
	put("remotes.d/a.json", "{}");
	put("remotes.d/.hidden.json", "{}");
	put("remotes.d/readme.txt", "");
	names = cv_remote_names(dir, &err);
	assert_non_null(names);
	assert_string_equal(names[0], "a");
	assert_string_equal(names[1], "b");
	assert_null(names[2]);
	cv_remote_names_free(names);
	assert_int_equal(cv_remote_load(dir, "../remotes.d/a", &remote, &err), -EINVAL);
}

static void secrets_are_found_in_order(void **state)
{
	char credentials[96], wanted[160];

	(void)state;
	refuse("source=u@h:/x,password_file=secret:pw", "no secret 'pw'", "cvol secret set pw");
	put("secrets/pw", "x");
	(void)snprintf(wanted, sizeof(wanted), "%s/secrets/pw", dir);
	expect("v", "source=u@h:/x,password_file=secret:pw", "password_file", wanted);
	(void)snprintf(credentials, sizeof(credentials), "%s/credentials", dir);
	assert_int_equal(mkdir(credentials, 0700), 0);
	assert_int_equal(setenv("CREDENTIALS_DIRECTORY", credentials, 1), 0);
	expect("v", "source=u@h:/x,password_file=secret:pw", "password_file", wanted);
	put("credentials/pw", "y");
	(void)snprintf(wanted, sizeof(wanted), "%s/pw", credentials);
	expect("v", "source=u@h:/x,password_file=secret:pw", "password_file", wanted);
	refuse("source=u@h:/x,password_file=secret:../pw", "password_file", "absolute path");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_remote_fills_in, setup, teardown),
		cmocka_unit_test_setup_teardown(defaults_fill_in_last, setup, teardown),
		cmocka_unit_test_setup_teardown(no_config_is_no_fault, setup, teardown),
		cmocka_unit_test_setup_teardown(files_are_read_strictly, setup, teardown),
		cmocka_unit_test_setup_teardown(names_are_sorted_and_safe, setup, teardown),
		cmocka_unit_test_setup_teardown(secrets_are_found_in_order, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
