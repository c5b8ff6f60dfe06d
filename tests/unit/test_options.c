/* SPDX-License-Identifier: Apache-2.0 */
/* Text, dictionaries, and what users may say about a volume. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/dict.h"
#include "config/err.h"
#include "config/options.h"
#include "config/str.h"

/* Parses "k=v,k2=v2" as a user's options. */
static int parse(const char *text, struct cv_dict *out, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT;
	int r = cv_options_split(text, &in, err);

	return r < 0 ? r : cv_options_parse(&in, out, err);
}

static void expect_option(const char *text, const char *key, const char *value)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
	struct cv_err err = { 0 };
	const char *got;

	if (parse(text, &o, &err) < 0)
		fail_msg("'%s': %s", text, err.text);
	got = cv_dict_get(&o, key);
	if (!cv_str_eq(got, value))
		fail_msg("'%s': %s is '%s', not '%s'", text, key, got ? got : "(absent)",
			 value ? value : "(absent)");
}

/* Refused, the text says so with each of the words, and the result is untouched. */
static void expect_refused(const char *text, const char *word, const char *word2)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
	struct cv_err err = { 0 };

	assert_true(parse(text, &o, &err) < 0);
	assert_true(err.code < 0);
	if (!strstr(err.text, word) || !strstr(err.text, word2))
		fail_msg("'%s': '%s' lacks '%s' or '%s'", text, err.text, word, word2);
	assert_null(strchr(err.text, '\n'));
	assert_int_equal(o.count, 0);
}

static void numbers_and_units(void **state)
{
	uint64_t v = 7;
	bool b = false;

	(void)state;
	assert_int_equal(cv_parse_u64("12", 10, 12, &v), 0);
	assert_int_equal(v, 12);
	assert_int_equal(cv_parse_u64("13", 10, 12, &v), -ERANGE);
	assert_int_equal(cv_parse_u64("-1", 10, 12, &v), -EINVAL);
	assert_int_equal(cv_parse_u64(" 1", 10, 12, &v), -EINVAL);
	assert_int_equal(cv_parse_u64("1x", 10, 12, &v), -EINVAL);
	assert_int_equal(cv_parse_u64("", 10, 12, &v), -EINVAL);
	assert_int_equal(cv_parse_u64("99999999999999999999", 10, UINT64_MAX, &v), -ERANGE);
	assert_int_equal(v, 12);
	assert_int_equal(cv_parse_duration_ms("2m", &v), 0);
	assert_int_equal(v, 120000);
	assert_int_equal(cv_parse_duration_ms("15", &v), 0);
	assert_int_equal(v, 15000);
	assert_int_equal(cv_parse_duration_ms("15 s", &v), -EINVAL);
	assert_int_equal(cv_parse_size("64KiB", &v), 0);
	assert_int_equal(v, 65536);
	assert_int_equal(cv_parse_size("17179869184T", &v), -ERANGE);
	assert_int_equal(cv_parse_bool("", &b), 0);
	assert_true(b);
	assert_int_equal(cv_parse_bool("Off", &b), 0);
	assert_false(b);
	assert_int_equal(cv_parse_bool("maybe", &b), -EINVAL);
}

static void utf8(void **state)
{
	(void)state;
	assert_true(cv_str_is_utf8("plain"));
	assert_true(cv_str_is_utf8("\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x8b"));
	assert_false(cv_str_is_utf8("\xc0\x80"));
	assert_false(cv_str_is_utf8("\xed\xa0\x80"));
	assert_false(cv_str_is_utf8("\xf4\x90\x80\x80"));
	assert_false(cv_str_is_utf8("\xe2\x82"));
	assert_false(cv_str_is_utf8("\xff"));
}

static void dictionaries(void **state)
{
	cv_cleanup_dict struct cv_dict a = CV_DICT_INIT, b = CV_DICT_INIT;
	char key[16], *big = malloc(CV_DICT_VALUE_MAX + 2);

	(void)state;
	assert_non_null(big);
	assert_int_equal(cv_dict_set(&a, "x", "1"), 0);
	assert_int_equal(cv_dict_set(&a, "y", "2"), 0);
	assert_int_equal(cv_dict_set(&a, "x", "3"), 0);
	assert_int_equal(a.count, 2);
	assert_string_equal(a.items[0].value, "3");
	assert_int_equal(cv_dict_set(&b, "y", "2"), 0);
	assert_false(cv_dict_equal(&a, &b));
	assert_int_equal(cv_dict_set(&b, "x", "3"), 0);
	assert_true(cv_dict_equal(&a, &b));
	assert_true(cv_dict_remove(&a, "x"));
	assert_false(cv_dict_remove(&a, "x"));
	memset(big, 'v', CV_DICT_VALUE_MAX + 1);
	big[CV_DICT_VALUE_MAX + 1] = '\0';
	assert_int_equal(cv_dict_set(&a, "big", big), -E2BIG);
	for (int i = 1; i < CV_DICT_MAX; i++) {
		(void)snprintf(key, sizeof(key), "k%d", i);
		assert_int_equal(cv_dict_set(&a, key, ""), 0);
	}
	assert_int_equal(cv_dict_set(&a, "one more", ""), -E2BIG);
	free(big);
}

static void errors(void **state)
{
	struct cv_err err = { 0 };

	(void)state;
	assert_int_equal(cv_fail(&err, ENOENT, "no %s\nthere", "file"), -ENOENT);
	assert_string_equal(err.text, "no file?there");
	assert_int_equal(cv_fail_context(&err, "volume %s", "v"), -ENOENT);
	assert_string_equal(err.text, "volume v: no file?there");
	assert_int_equal(cv_fail(NULL, -EPERM, "x"), -EPERM);
	assert_non_null(cv_strerror(123456));
}

static void splitting(void **state)
{
	cv_cleanup_dict struct cv_dict d = CV_DICT_INIT;
	struct cv_err err;

	(void)state;
	assert_int_equal(cv_options_split("a=1,b,c=x\\,y\\\\z,,d=e=f", &d, &err), 0);
	assert_int_equal(d.count, 4);
	assert_string_equal(cv_dict_get(&d, "b"), "");
	assert_string_equal(cv_dict_get(&d, "c"), "x,y\\z");
	assert_string_equal(cv_dict_get(&d, "d"), "e=f");
	assert_true(cv_options_split("=x", &d, &err) < 0);
}

static void sources(void **state)
{
	(void)state;
	expect_option("source=nas:/export/media", "type", "nfs");
	expect_option("source=nas:/export//media/", "path", "/export/media");
	expect_option("source=nas:/a//.//b/./", "path", "/a/b");
	expect_option("source=nfs://nas:2050/e", "port", "2050");
	expect_option("source=nfs://[fe80::1]/e", "host", "fe80::1");
	expect_option("source=me@host:/srv", "type", "sftp");
	expect_option("source=me@host:/srv", "user", "me");
	expect_option("source=me@host:data", "path", "data");
	expect_option("source=me@[::1]:/srv", "host", "::1");
	expect_option("source=sftp://host", "path", ".");
	expect_option("source=sftp://host/~/x", "path", "~/x");
	expect_option("source=ssh://a%40b@host:2222/x%20y", "user", "a@b");
	expect_option("source=ssh://a%40b@host:2222/x%20y", "path", "/x y");
	expect_option("source=dir:///srv/x", "path", "/srv/x");
	expect_option("source=mem://", "type", "mem");
	expect_option("source=nas:/e,host=nas", "source", NULL);
	expect_option("source=nas", "remote", "nas");
	expect_option("source=nas:a/b", "subdir", "a/b");
	expect_option("source=nas:/a/b", "host", "nas");
	expect_refused("source=nas,path=/x", "path", "remote");
	expect_refused("source=-nas", "source", "expected");
	expect_refused("source=n*s:x", "source", "expected");
	expect_refused("source=http://nas/e", "unknown kind", "expected");
	expect_refused("source=nfs://me@nas/e", "sftp", "user");
	expect_refused("source=sftp://me:secret@nas/e", "password", "refused");
	expect_refused("source=nas:/e,host=other", "host=other", "contradicts");
	expect_refused("source=nas:/a/../b", "..", "not allowed");
	expect_refused("source=nfs://nas:99999/e", "99999", "port");
	expect_refused("source=nfs://-oProxy/e", "host", "not a host name");
	expect_refused("source=dir://host/x", "dir", "host");
	expect_refused("source=sftp://h/%zz", "%XX", "source");
}

static void formatting(void **state)
{
	static const char *const same[] = { "nfs://nas:2050/e/f", "sftp://me@[::1]:22/x",
					    "dir:///a", "mem://", "nfs://nas/with%20space" };

	(void)state;
	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
		cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
		struct cv_err err;
		char text[128], *back;

		(void)snprintf(text, sizeof(text), "source=%s", same[i]);
		assert_int_equal(parse(text, &o, &err), 0);
		back = cv_source_format(&o);
		assert_string_equal(back, same[i]);
		free(back);
	}
}

static void spellings(void **state)
{
	(void)state;
	expect_option("source=u@h:/x,IdentityFile=/k", "key_file", "/k");
	expect_option("source=u@h:/x,--Key-File=/k", "key_file", "/k");
	expect_option("source=h:/x,RO", "readonly", "true");
	expect_option("source=h:/x,rw", "readonly", "false");
	expect_option("source=h:/x,soft", "recovery", "soft");
	expect_option("source=h:/x,soft=false", "recovery", "hard");
	expect_option("source=h:/x,nfsvers=3", "version", "3");
	expect_option("source=h:/x,actimeo=30", "attr_timeout", "30000ms");
	expect_option("source=h:/x,rsize=64k", "rsize", "65536");
	expect_option("source=u@h:/x,umask=22", "umask", "0022");
	expect_option("source=u@h:/x,allow_other,reconnect,_netdev", "allow_other", NULL);
	expect_option("source=u@h:/x,StrictHostKeyChecking=yes", "host_key_policy", "strict");
	expect_option("type=nfs4,addr=h,path=/x", "type", "nfs");
	expect_option("host=h,path=/x,user=me", "type", "sftp");
	expect_option("host=h,path=/x", "type", "nfs");
	expect_option("", "type", NULL);
}

static void refusals(void **state)
{
	(void)state;
	expect_refused("source=u@h:/x,keyfile=/k", "key_file", "unknown option");
	expect_refused("source=u@h:/x,zzzzzzzz=1", "unknown option", "cvol options");
	expect_refused("source=u@h:/x,ProxyCommand=nc", "refused", "run programs");
	expect_refused("source=u@h:/x,ssh_command=sh", "refused", "run programs");
	/* CVE-2026-48711 of sshfs: a host that a program would take for an option */
	expect_refused("source=root@-oProxyCommand=x:/x", "-oProxyCommand=x", "not a host name");
	expect_refused("source=sftp://-oProxyCommand=x/x", "-oProxyCommand=x", "not a host name");
	expect_refused("source=h:/x,key_file=/k", "key_file", "not for nfs");
	expect_refused("source=u@h:/x,key_file=k", "key_file", "absolute");
	expect_refused("source=u@h:/x,host_key_policy=no", "host_key_policy", "strict");
	expect_refused("source=u@h:/x,host_key=abc", "host_key", "SHA256");
	expect_refused("source=h:/x,timeout=soon", "timeout", "duration");
	expect_refused("source=h:/x,readonly=perhaps", "readonly", "true or false");
	expect_refused("source=h:/x,hard,soft", "recovery", "twice");
	expect_refused("source=h:/x,subdir=../y", "subdir", "..");
	expect_refused("source=h:/x,subdir=/y", "subdir", "relative");
	expect_refused("source=h:/x,subdir=a/${nme}", "subdir", "${name}");
	expect_option("source=h:/x,subdir=a/${name}", "subdir", "a/${name}");
	expect_option("source=h:/x,owner=7", "owner", "7:7");
	expect_option("source=h:/x,owner=7:08", "owner", "7:8");
	expect_refused("source=h:/x,owner=me", "owner", "numbers");
	expect_refused("source=h:/x,owner=7:", "owner", "numbers");
	expect_refused("source=u@h:/x,password=a,password_file=/f", "password", "both");
	expect_refused("type=nfs,host=h", "export", "nfs");
	expect_refused("type=sftp", "host", "sftp");
	expect_refused("type=floppy", "type", "one of");
	expect_refused("source=h:/x,port=0", "port", "0");
	expect_refused("source=h:/x,context=a\nb", "context", "control");
}

/* A secret must not come back in an error about it. */
static void secrets_stay_out(void **state)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
	struct cv_err err = { 0 };

	(void)state;
	assert_true(parse("source=h:/x,password=topsecret", &o, &err) < 0);
	assert_null(strstr(err.text, "topsecret"));
	assert_true(parse("source=sftp://me:topsecret@h/x", &o, &err) < 0);
	assert_null(strstr(err.text, "topsecret"));
	assert_true(parse("source=u@h:/x,password=topsecret,password=other,password_file=x", &o,
			  &err) < 0);
	assert_null(strstr(err.text, "topsecret"));
}

/* Every text here has the word "topsecret" where a person may well put it by mistake. */
static void misplaced_secrets_stay_out(void **state)
{
	static const char *const texts[] = {
		"source=bob:topsecret@host:/data",
		"source=bob:topsecret@host",
		"source=bob:top/topsecret@host:x",
		"source=smb://bob:topsecret@host/x",
		"source=nfs://bob:topsecret@host/x",
		"source=sftp://bob:topsecret/word@host/x",
		"source=ssh://[topsecret/x",
		"source=u@h:/x,password_file=topsecret",
		"source=u@h:/x,key_passphrase_file=topsecret",
		"source=u@h:/x,sftp-key-file-pass=topsecret",
		"source=u@h:/x,sftp-pass=topsecret",
		"source=u@h:/x,password=a,=topsecret",
		"source=u@h:/x,password=topsecret,readonly=perhaps",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
		struct cv_err err = { 0 };

		if (parse(texts[i], &o, &err) >= 0)
			fail_msg("'%s' is accepted", texts[i]);
		assert_true(err.text[0] != '\0');
		if (strstr(err.text, "topsecret"))
			fail_msg("'%s': %s", texts[i], err.text);
	}
	/* without a password the text is worth repeating */
	expect_refused("source=ftp://host/x", "ftp://host/x", "unknown kind");
	expect_refused("source=nas/e@x", "nas/e@x", "expected");
}

static void paths(void **state)
{
	(void)state;
	expect_option("source=u@h:./", "path", ".");
	expect_option("source=u@h:././/.", "path", ".");
	expect_option("source=u@h:a/.//b/", "path", "a/b");
	expect_option("source=u@h:~/a//b", "path", "~/a/b");
	expect_option("source=sftp://h/", "path", "/");
	expect_option("source=dir:////a///b//", "path", "/a/b");
	expect_option("source=h:/x,subdir=a//b/", "subdir", "a/b");
	expect_option("source=h:/..x/y..", "path", "/..x/y..");
	expect_refused("source=h:/x/..", "..", "not allowed");
	expect_refused("source=nfs://h/x/%2e%2e/y", "..", "not allowed");
	expect_refused("source=nfs://h/x%00y", "%XX", "path");
	expect_refused("source=nfs://h/x%0ay", "path", "control");
	expect_refused("type=nfs,host=h,path=x", "path", "absolute");
	expect_refused("type=dir,path=.//x", "path", "absolute");
	/* the same place, written in another way, is no contradiction */
	expect_option("source=h:/x,path=/x/", "path", "/x");
	expect_option("source=h:/x/,path=//x", "path", "/x");
	expect_option("source=nfs://h:2049/x,port=02049", "port", "2049");
	expect_refused("source=h:/x,path=/y", "path=/y", "contradicts");
	expect_refused("source=h:/x,type=sftp", "type=sftp", "contradicts");
	expect_refused("source=u@h:/x,user=v", "user=v", "contradicts");
}

/* What is shown for a source leads to the same place when it is typed in. */
static void shown_sources_are_true(void **state)
{
	static const struct {
		const char *options, *shown;
	} cases[] = {
		{ "source=u@h:data", "sftp://u@h/~/data" },
		{ "source=u@h:~/x", "sftp://u@h/~/x" },
		{ "source=u@h:~bob", "sftp://u@h/~bob" },
		{ "source=u@h:", "sftp://u@h" },
		{ "source=u@h:/~x", "sftp://u@h//~x" },
		{ "source=u@h:/", "sftp://u@h/" },
		{ "type=sftp,host=h,user=a:b/c@d%,path=/x", "sftp://a%3Ab%2Fc%40d%25@h/x" },
		{ "source=u%41@h:/x%41", "sftp://u%2541@h/x%2541" },
		{ "source=mem://a b%41", "mem://a%20bA" },
		{ "type=dir,path=/a%b", "dir:///a%25b" },
		{ "type=nfs,host=fe80::1%eth0,path=/x", "nfs://[fe80::1%eth0]/x" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cv_cleanup_dict struct cv_dict o = CV_DICT_INIT, again = CV_DICT_INIT;
		struct cv_err err = { 0 };
		char text[256], *shown, *shown_again;

		if (parse(cases[i].options, &o, &err) < 0)
			fail_msg("'%s': %s", cases[i].options, err.text);
		shown = cv_source_format(&o);
		assert_string_equal(shown, cases[i].shown);
		(void)snprintf(text, sizeof(text), "source=%s", shown);
		if (parse(text, &again, &err) < 0)
			fail_msg("'%s': %s", text, err.text);
		shown_again = cv_source_format(&again);
		assert_string_equal(shown_again, shown);
		free(shown);
		free(shown_again);
	}
}

static void suggestions(void **state)
{
	cv_cleanup_dict struct cv_dict o = CV_DICT_INIT;
	struct cv_err err = { 0 };
	unsigned commas = 0;

	(void)state;
	expect_refused("source=h:/x,sftp-key-fil=/k", "did you mean key_file", "sftp_key_fil");
	expect_refused("source=h:/x,rzise=1", "did you mean", "rsize");
	expect_refused("source=h:/x,nfsver=3", "did you mean version", "nfsver");
	assert_true(parse("source=h:/x,attr_timeout_file=1", &o, &err) < 0);
	for (const char *p = strstr(err.text, "did you mean"); p && *p != '?'; p++)
		commas += *p == ',';
	assert_int_equal(commas, 2); /* three names, no more */
}

/* What is the same is written the same, so that two Creates can be compared. */
static void canonical_values(void **state)
{
	cv_cleanup_dict struct cv_dict a = CV_DICT_INIT, b = CV_DICT_INIT;
	struct cv_err err = { 0 };

	(void)state;
	assert_int_equal(parse("source=sftp://u@h:22/x/,RO,timeout=15,rsync=1", &a, &err), -EINVAL);
	assert_int_equal(parse("source=sftp://u@h:22/x/,RO,timeout=15,readahead=1M,umask=022,soft",
			       &a, &err),
			 0);
	assert_int_equal(parse("umask=0022,recovery=soft,readahead=1024k,timeout=15000ms,"
			       "--Read-Only=yes,type=sftp,host=h,port=022,user=u,path=//x",
			       &b, &err),
			 0);
	assert_true(cv_dict_equal(&a, &b));
	assert_string_equal(cv_dict_get(&a, "readonly"), "true");
	assert_string_equal(cv_dict_get(&a, "timeout"), "15000ms");
	assert_true(cv_options_bool(&a, "readonly", false));
	assert_int_equal(cv_options_uint(&a, "umask", 0), 022);
	assert_int_equal(cv_options_uint(&a, "readahead", 0), 1 << 20);
	assert_int_equal(cv_options_uint(&a, "port", 0), 22);
	assert_int_equal(cv_options_uint(&a, "uid", 77), 77);
	assert_int_equal(cv_options_ms(&a, "timeout", 0), 15000);
	assert_int_equal(cv_options_ms(&a, "mount_timeout", 20000), 20000);
	assert_string_equal(cv_options_str(&a, "recovery", "hard"), "soft");
	assert_string_equal(cv_options_str(&a, "cache", "default"), "default");
}

static void ranges(void **state)
{
	(void)state;
	expect_refused("source=h:/x,mountport=0", "mountport", "1 to 65535");
	expect_refused("source=h:/x,connections=0", "connections", "1 to 8");
	expect_refused("source=h:/x,connections=9", "connections", "8");
	expect_refused("source=h:/x,port=65536", "port", "65535");
	expect_option("source=h:/x,port=65535", "port", "65535");
	expect_option("source=h:/x,nconnect=8", "connections", "8");
	expect_option("source=h:/x,uid=4294967294", "uid", "4294967294");
	expect_refused("source=h:/x,uid=4294967295", "uid", "4294967294");
	expect_refused("source=h:/x,umask=1000", "umask", "octal");
	expect_refused("source=h:/x,umask=022", "umask", "nfs");
	expect_refused("source=h:/x,umask=9", "umask", "octal");
	expect_refused("source=u@h:/x,host_key=SHA256:", "host_key", "fingerprint");
	expect_option("source=u@h:/x,host_key=SHA256:abc", "host_key", "SHA256:abc");
	expect_option("source=u@h:/x,sftp-key-file-pass=/f", "key_passphrase_file", "/f");
	expect_refused("source=dir:///x,host=h", "host", "not for dir");
	expect_refused("source=u@h:/x,rsize=1M", "rsize", "not for sftp");
	expect_refused("type=nfs,host=-x,path=/y", "host", "not a host name");
	expect_refused("type=nfs,host=a b,path=/y", "host", "not a host name");
	expect_refused("type=nfs,host=a/b,path=/y", "host", "not a host name");
	expect_refused("type=nfs,host=,path=/y", "host", "empty");
}

static void the_table_is_sound(void **state)
{
	(void)state;
	for (const struct cv_option_def *d = cv_option_table(); d->name; d++) {
		assert_non_null(d->help);
		assert_true(d->engines != 0);
		assert_ptr_equal(cv_option_find(d->name), d);
		if (d->type == CV_OPT_CHOICE)
			assert_non_null(d->choices);
		if (d->type == CV_OPT_UINT || d->type == CV_OPT_OCTAL)
			assert_true(d->max > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_and_units),
		cmocka_unit_test(utf8),
		cmocka_unit_test(dictionaries),
		cmocka_unit_test(errors),
		cmocka_unit_test(splitting),
		cmocka_unit_test(sources),
		cmocka_unit_test(formatting),
		cmocka_unit_test(spellings),
		cmocka_unit_test(refusals),
		cmocka_unit_test(secrets_stay_out),
		cmocka_unit_test(misplaced_secrets_stay_out),
		cmocka_unit_test(paths),
		cmocka_unit_test(shown_sources_are_true),
		cmocka_unit_test(suggestions),
		cmocka_unit_test(canonical_values),
		cmocka_unit_test(ranges),
		cmocka_unit_test(the_table_is_sound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
