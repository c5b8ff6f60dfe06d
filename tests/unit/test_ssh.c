/* SPDX-License-Identifier: Apache-2.0 */
/* ssh_config files, known_hosts files and certificates: what is read out of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/ssh_cert.h"
#include "backends/ssh_config.h"
#include "backends/ssh_hosts.h"
#include "backends/ssh_target.h"

static int parse(const char *text, const char *alias, struct cv_ssh_conf *conf, struct cv_err *err)
{
	FILE *f = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
	int r;

	assert_non_null(f);
	r = cv_ssh_config_parse(f, "conf", alias, NULL, conf, err);
	(void)fclose(f);
	return r;
}

static void expect(const char *text, const char *alias, const char *keyword, const char *value)
{
	struct cv_ssh_conf conf;
	struct cv_err err;
	const char *got;

	assert_int_equal(parse(text, alias, &conf, &err), 0);
	got = cv_dict_get(&conf.one, keyword);
	if (value)
		assert_string_equal(got, value);
	else
		assert_null(got);
	cv_ssh_conf_release(&conf);
}

static void refused(const char *text, const char *alias, const char *why)
{
	struct cv_ssh_conf conf;
	struct cv_err err;

	assert_true(parse(text, alias, &conf, &err) < 0);
	assert_non_null(strstr(err.text, why));
}

static void patterns(void **state)
{
	(void)state;
	assert_true(cv_ssh_match("nas1", "nas*", ' '));
	assert_true(cv_ssh_match("NAS1", "nas?", ' '));
	assert_false(cv_ssh_match("nas", "nas?", ' '));
	assert_true(cv_ssh_match("a.b.c", "*.b.*", ' '));
	assert_true(cv_ssh_match("[1.2.3.4]:22", "[1.2.3.4]:*", ','));
	assert_false(cv_ssh_match("nas1", "*,!nas1", ','));
	assert_false(cv_ssh_match("nas1", "!other", ','));
	assert_false(cv_ssh_match("nas1", "", ','));
	assert_true(cv_ssh_match("aaaaaaaaaaaaaaaaaaaaaaaab", "*a*a*a*a*a*a*b", ','));
}

static void the_first_value_counts(void **state)
{
	(void)state;
	expect("Host a\nUser x\nHost *\nUser y\n", "a", "user", "x");
	expect("Host a\nUser x\nHost *\nUser y\n", "b", "user", "y");
	expect("user one\nUSER two\n", "a", "user", "one");
	expect("Port=22\n", "a", "port", "22");
	expect("  Port = \"23\" # why\n", "a", "port", "23");
	expect("Host a !b\nPort 1\n", "b", "port", NULL);
	expect("Host * !b\nPort 1\n", "b", "port", NULL);
	expect("Match host h\nPort 1\n", "h", "port", "1");
	expect("HostName h\nMatch host h\nPort 1\n", "x", "port", "1");
	expect("HostName h\nMatch originalhost h\nPort 1\n", "x", "port", NULL);
	expect("User u\nMatch user u !host x\nPort 1\n", "x", "port", NULL);
	expect("Match all\nPort 1\n", "x", "port", "1");
	expect("Match final\nPort 1\n", "x", "port", NULL);
	expect("\n# x\n\n", "x", "port", NULL);
}

static void files_add_up(void **state)
{
	struct cv_ssh_conf conf;
	struct cv_err err;

	(void)state;
	assert_int_equal(parse("IdentityFile /1\nIdentityFile \"/2 3\"\nCertificateFile /c\n"
			       "UserKnownHostsFile /a /b\nUserKnownHostsFile /c\n",
			       "x", &conf, &err),
			 0);
	assert_int_equal(conf.keys.count, 2);
	assert_string_equal(conf.keys.item[1], "/2 3");
	assert_int_equal(conf.certs.count, 1);
	assert_int_equal(conf.known.count, 2);
	cv_ssh_conf_release(&conf);
}

static void programs_are_refused(void **state)
{
	(void)state;
	refused("ProxyCommand nc %h %p\n", "x", "ProxyCommand is refused");
	refused("Host x\nKnownHostsCommand /bin/y\n", "x", "line 2");
	refused("Match exec true\nUser u\n", "x", "Match exec is refused");
	refused("Match host x exec true\nUser u\n", "x", "Match exec is refused");
	refused("LocalCommand x\n", "x", "LocalCommand");
	/* Where they do not apply they disturb nobody. */
	expect("Host y\nProxyCommand nc\nHost *\nUser u\n", "x", "user", "u");
	expect("Match host y exec true\nPort 2\nHost *\nUser u\n", "x", "user", "u");
	expect("ProxyCommand none\nUser u\n", "x", "user", "u");
}

static void broken_lines_are_named(void **state)
{
	(void)state;
	refused("User\n", "x", "line 1");
	refused("\nUser \"x\n", "x", "line 2");
	refused("Match bogus y\n", "x", "only all");
	refused("Match host\n", "x", "no value");
}

#define CERT                                                                                       \
	"ssh-ed25519-cert-v01@openssh.com "                                                        \
	"AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIOrNtEN/J4BBbhSCsvh/"                 \
	"OisthrWcFNaXZOKGEf"                                                                       \
	"sgxPnEAAAAIFROA4uiMcxgMsD+LTlBLDZQqJU3wOdYiSI2YhreZ+"                                     \
	"OIAAAAAAAAAAAAAAABAAAAAmlkAAAAEAAAAAVh"                                                   \
	"bGljZQAAAANib2IAAAAAXgvhAAAAAABf7mYAAAAAAAAAAIIAAAAVcGVybWl0LVgxMS1mb3J3YXJkaW5nAAAAAAAA" \
	"AB"                                                                                       \
	"dwZXJtaXQtYWdlbnQtZm9yd2FyZGluZwAAAAAAAAAWcGVybWl0LXBvcnQtZm9yd2FyZGluZwAAAAAAAAAKcGVybW" \
	"l0"                                                                                       \
	"LXB0eQAAAAAAAAAOcGVybWl0LXVzZXItcmMAAAAAAAAAAAAAADMAAAALc3NoLWVkMjU1MTkAAAAgyU0WiTkVNx/"  \
	"aLf"                                                                                      \
	"udLkBvviYVjdsGBa7IbVELM3Pm+vsAAABTAAAAC3NzaC1lZDI1NTE5AAAAQGa+lmhksZIIaCE9K1G187UZ/"      \
	"Wdh+M4L"                                                                                  \
	"JUP8GmmJl70XKHfPfZxiijU1eq8yCqYM9L1DWwg6qlAq8n/eMbF/6Ak= k.pub\n"
#define ITS_KEY	  "AAAAC3NzaC1lZDI1NTE5AAAAIFROA4uiMcxgMsD+LTlBLDZQqJU3wOdYiSI2YhreZ+OI"
#define OTHER_KEY "AAAAC3NzaC1lZDI1NTE5AAAAIC+Y9Mu5+KnzMwlOblf2FOLLJ3KdFhOvMFqSxDhXrvHs"

static void certificates(void **state)
{
	const char *const cut = CERT;
	struct cv_ssh_cert c;
	char why[200];

	(void)state;
	assert_int_equal(cv_ssh_cert_parse(CERT, "bob", &c), 0);
	assert_int_equal(c.valid_from, 1577836800);
	assert_int_equal(c.valid_until, 1609459200);
	assert_string_equal(c.principals, "alice,bob");
	assert_true(cv_ssh_cert_fits(&c, ITS_KEY));
	assert_false(cv_ssh_cert_fits(&c, OTHER_KEY));
	assert_false(cv_ssh_cert_fits(&c, ""));
	cv_ssh_cert_trouble(&c, "bob", 1600000000, why, sizeof(why));
	assert_string_equal(why, "");
	cv_ssh_cert_trouble(&c, "bob", 1700000000, why, sizeof(why));
	assert_string_equal(why, "it expired on 2021-01-01 00:00 UTC");
	cv_ssh_cert_trouble(&c, "bob", 1500000000, why, sizeof(why));
	assert_string_equal(why, "it is not valid before 2020-01-01 00:00 UTC");
	assert_int_equal(cv_ssh_cert_parse(CERT, "eve", &c), 0);
	cv_ssh_cert_trouble(&c, "eve", 1600000000, why, sizeof(why));
	assert_string_equal(why, "it is for alice,bob, not for 'eve'");
	assert_int_equal(cv_ssh_cert_parse("ssh-ed25519 " ITS_KEY " x", "bob", &c), -EINVAL);
	assert_int_equal(cv_ssh_cert_parse("", "bob", &c), -EINVAL);
	for (size_t n = 0; n < 240; n++) {
		char *part = strndup(cut, n);

		assert_int_equal(cv_ssh_cert_parse(part, "bob", &c), -EINVAL);
		free(part);
	}
}

static void known_hosts_lines(void **state)
{
	char path[] = "/tmp/cvol-known-XXXXXX";
	int fd = mkstemp(path);
	struct cv_ssh_target t = { .host = (char *)(uintptr_t) "nas",
				   .key_name = (char *)(uintptr_t) "[nas]:2222",
				   .policy = (char *)(uintptr_t) "strict",
				   .known = { .item = { path }, .count = 1 } };
	struct cv_dict options = CV_DICT_INIT;
	struct cv_ssh_hosts hosts;
	struct cv_err err;
	char algorithms[256];
	FILE *f = fdopen(fd, "w");

	(void)state;
	t.options = &options;
	assert_non_null(f);
	(void)fputs("# comment\n"
		    "nas ssh-ed25519 PLAIN\n"
		    "other,[nas]:2222 ssh-rsa RSA\n"
		    "@revoked * ssh-ed25519 BAD\n"
		    "@unknown * ssh-ed25519 WHAT\n"
		    "short line\n",
		    f);
	(void)fclose(f);
	assert_int_equal(cv_ssh_hosts_read(&t, &hosts, &err), 0);
	assert_int_equal(hosts.count, 3);
	cv_ssh_hosts_algorithms(&hosts, algorithms, sizeof(algorithms));
	assert_string_equal(algorithms, "ssh-ed25519,rsa-sha2-512,rsa-sha2-256,ecdsa-sha2-nistp256,"
					"ecdsa-sha2-nistp384,ecdsa-sha2-nistp521");
	assert_int_equal(cv_ssh_hosts_check(&hosts, &t, "ssh-rsa", "RSA", "F", false, &err), 0);
	assert_int_equal(cv_ssh_hosts_check(&hosts, &t, "ssh-ed25519", "PLAIN", "F", false, &err),
			 0);
	assert_int_equal(cv_ssh_hosts_check(&hosts, &t, "ssh-ed25519", "BAD", "F", true, &err),
			 -EKEYREJECTED);
	assert_non_null(strstr(err.text, "line 4"));
	assert_int_equal(cv_ssh_hosts_check(&hosts, &t, "ssh-rsa", "NEW", "F", false, &err),
			 -EKEYREJECTED);
	assert_non_null(strstr(err.text, "line 3"));
	assert_int_equal(cv_ssh_hosts_check(&hosts, &t, "ssh-rsa", "NEW", "F", true, &err), 0);
	cv_ssh_hosts_release(&hosts);
	assert_int_equal(unlink(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(patterns),
		cmocka_unit_test(the_first_value_counts),
		cmocka_unit_test(files_add_up),
		cmocka_unit_test(programs_are_refused),
		cmocka_unit_test(broken_lines_are_named),
		cmocka_unit_test(certificates),
		cmocka_unit_test(known_hosts_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
