/* SPDX-License-Identifier: Apache-2.0 */
/* Options as people have them in files for other drivers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/dict.h"
#include "config/options.h"
#include "config/spellings.h"
#include "config/str.h"

/* One "key=value" a line, uninterpreted, as a driver gets them. */
static void take_lines(const char *lines, struct cv_dict *in)
{
	char *copy = strdup(lines), *save = NULL;

	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *value = strchr(line, '=');

		if (value)
			*value++ = '\0';
		assert_int_equal(cv_dict_set(in, line, value ? value : ""), 0);
	}
	free(copy);
}

static void expect(const char *given, const char *wanted)
{
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT, out = CV_DICT_INIT, want = CV_DICT_INIT;
	struct cv_err err = { 0 };

	take_lines(given, &in);
	take_lines(wanted, &want);
	if (cv_options_parse(&in, &out, &err) < 0)
		fail_msg("'%s': %s", given, err.text);
	for (size_t i = 0; i < want.count; i++) {
		const char *got = cv_dict_get(&out, want.items[i].key);

		if (!cv_str_eq(got, want.items[i].value))
			fail_msg("'%s': %s is '%s', expected '%s'", given, want.items[i].key,
				 got ? got : "(absent)", want.items[i].value);
	}
	for (size_t i = 0; i < out.count; i++) {
		if (!cv_dict_get(&want, out.items[i].key))
			fail_msg("'%s': also %s=%s", given, out.items[i].key, out.items[i].value);
	}
}

static void refuse(const char *given, const char *word, const char *other)
{
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT, out = CV_DICT_INIT;
	struct cv_err err = { 0 };

	take_lines(given, &in);
	if (cv_options_parse(&in, &out, &err) >= 0)
		fail_msg("'%s' is accepted", given);
	if (!strstr(err.text, word) || !strstr(err.text, other))
		fail_msg("'%s': %s", given, err.text);
}

static void vieux_sshfs(void **state)
{
	(void)state;
	expect("sshcmd=user@host:/srv/data\npassword=a,b=c$d\nport=2222",
	       "type=sftp\nuser=user\nhost=host\npath=/srv/data\npassword=a,b=c$d\nport=2222");
	expect("sshcmd=host:\nIdentityFile=/root/.ssh/id\nallow_other=\nreconnect=\nuid=1000\n"
	       "gid=1000\numask=022\nServerAliveInterval=15\nServerAliveCountMax=4",
	       "type=sftp\nhost=host\npath=.\nkey_file=/root/.ssh/id\nuid=1000\ngid=1000\n"
	       "umask=0022\ntimeout=60000ms");
	expect("sshcmd=-o allow_other -oro -p 2222 root@[fe80::1]:a",
	       "type=sftp\nhost=fe80::1\nuser=root\npath=a\nport=2222\nreadonly=true");
}

/* "a b" is two words only where options come first. */
static void sshcmd_words(void **state)
{
	(void)state;
	expect("sshcmd=me@h:/with blank", "type=sftp\nuser=me\nhost=h\npath=/with blank");
	expect("sshcmd=-C me@h:x", "type=sftp\nuser=me\nhost=h\npath=x\ncompression=true");
	refuse("sshcmd=-F /etc/passwd me@h:x", "sshcmd", "-F");
	refuse("sshcmd=-o ProxyCommand=nc me@h:x", "ProxyCommand", "run programs");
	refuse("sshcmd=-o ro", "sshcmd", "host:path");
	refuse("sshcmd=-o", "sshcmd", "host:path");
	refuse("sshcmd=", "source", "expected");
	refuse("sshcmd=nohost", "source", "expected");
	refuse("sshcmd=h:/a\npath=/b", "path", "different");
}

static void sshfs_options(void **state)
{
	const char *base = "type=sftp\nhost=h\npath=x\n";
	static const struct {
		const char *given, *wanted;
	} cases[] = {
		{ "StrictHostKeyChecking=no", "host_key_policy=accept-new" },
		{ "StrictHostKeyChecking=ask", "host_key_policy=strict" },
		{ "StrictHostKeyChecking=no\nUserKnownHostsFile=/dev/null",
		  "host_key_policy=accept-new" },
		{ "UserKnownHostsFile=/etc/known", "known_hosts=/etc/known" },
		{ "transform_symlinks=", "symlinks=contain" },
		{ "transform_symlinks=\nfollow_symlinks=", "symlinks=follow" },
		{ "no_contain_symlinks=", "symlinks=raw" },
		{ "sshfs_sync=", "write_behind=false" },
		{ "cache=yes", "cache=default" },
		{ "cache=no", "cache=strict" },
		{ "dir_cache=no", "cache=strict" },
		{ "dcache_timeout=20", "attr_timeout=20000ms" },
		{ "dcache_timeout=20\nattr_timeout=3", "attr_timeout=3000ms" },
		{ "kernel_cache=\nbig_writes=\nauto_cache=\nworkaround=rename", "" },
		{ "idmap=user", "idmap=user" },
		{ "max_conns=4\ncompression=no", "connections=4\ncompression=false" },
		{ "Ciphers=aes128-ctr", "ciphers=aes128-ctr" },
		{ "no_readahead=", "readahead=4096" },
		{ "User=me\nPort=2200", "user=me\nport=2200" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char given[512], wanted[512];

		(void)snprintf(given, sizeof(given), "sshcmd=h:x\n%s", cases[i].given);
		(void)snprintf(wanted, sizeof(wanted), "%s%s", base, cases[i].wanted);
		expect(given, wanted);
	}
	refuse("sshcmd=h:x\nidmap=file\nuidfile=/x", "uidfile", "idmap_file");
	refuse("sshcmd=h:x\nBindAddress=gate", "BindAddress", "refused");
	expect("sshcmd=h:x\nProxyJump=me@gate", "type=sftp\nhost=h\npath=x\nproxy_jump=me@gate");
	refuse("sshcmd=h:x\nssh_command=sh", "ssh_command", "run programs");
	refuse("sshcmd=h:x\nsftp-server=/bin/sh", "sftp-server", "run programs");
}

static void rclone(void **state)
{
	(void)state;
	expect("type=sftp\nsftp-host=h\nsftp-user=me\nsftp-port=22\nsftp-key-file=/k\npath=/srv\n"
	       "allow-other=true\nvfs-cache-mode=full\nvfs-cache-max-size=10G\nvfs-read-ahead=1M\n"
	       "dir-cache-time=5m\nattr-timeout=1s\nread-only=true\nmount-type=mount2\n"
	       "persist=false\nsftp-password=p:w",
	       "type=sftp\nhost=h\nuser=me\nport=22\nkey_file=/k\npath=/srv\nreadahead=1048576\n"
	       "attr_timeout=1000ms\nreadonly=true\npassword=p:w");
	expect("remote=:sftp,host=h.example,user='me:o''x',port=2022,key_file=\"/k,e\":/srv/a:b",
	       "type=sftp\nhost=h.example\nuser=me:o'x\nport=2022\nkey_file=/k,e\npath=/srv/a:b");
	expect("fs=:sftp:/a\nsftp_host=h\npath=/b", "type=sftp\nhost=h\npath=/b");
	expect("remote=:sftp,host=h:", "type=sftp\nhost=h\npath=.");
	expect("type=sftp\nsftp-host=h\ndir-perms=0750\nfile-perms=0640",
	       "type=sftp\nhost=h\npath=.\numask=0027");
	expect("remote=nas:media/x", "remote=nas\nsubdir=media/x");
	expect("remote=nas:/media", "remote=nas\nsubdir=media");
	expect("remote=nas", "remote=nas");
	refuse("remote=:s3,provider=x:b", "rclone", "sftp");
	refuse("remote=:sftp,host=h", "remote", "path");
	refuse("remote=:sftp,host=h,ssh=evil:/x", "sftp_ssh", "run programs");
	refuse("remote=:sftp,host=h,pass=abc:/x", "sftp_pass", "reveal");
	refuse("remote=bob:pw@host", "source", "refused");
}

static void local_driver(void **state)
{
	(void)state;
	expect("type=nfs\no=addr=10.0.0.5,rw,nfsvers=4,soft,timeo=100,retrans=3,nolock\n"
	       "device=:/export/data",
	       "type=nfs\nhost=10.0.0.5\npath=/export/data\nreadonly=false\nversion=4\n"
	       "recovery=soft\ntimeout=40000ms");
	expect("type=nfs4\no=addr=nas.example,ro,hard,timeo=600,rsize=1048576,wsize=65536,noatime,"
	       "_netdev,sec=sys,proto=tcp,async\ndevice=nas:/export",
	       "type=nfs\nhost=nas.example\npath=/export\nreadonly=true\nrecovery=hard\n"
	       "version=4\nrsize=1048576\nwsize=65536");
	expect("type=nfs\ndevice=nas:/export\no=vers=4,minorversion=1,actimeo=30,noac",
	       "type=nfs\nhost=nas\npath=/export\nversion=4.1\nattr_timeout=30000ms\ncache=strict");
	expect("type=nfs4\ndevice=[2001:db8::1]:/e\no=nfsvers=4.2",
	       "type=nfs\nhost=2001:db8::1\npath=/e\nversion=4.2");
	expect("type=none\no=bind\ndevice=/srv/data", "type=dir\npath=/srv/data");
	expect("type=nfs\ndevice=nas:/e\no=context=\"system_u:object_r:svirt_sandbox_file_t:s0:c1,"
	       "c2\",lookupcache=none",
	       "type=nfs\nhost=nas\npath=/e\ncontext=system_u:object_r:svirt_sandbox_file_t:s0:c1,"
	       "c2\ncache=strict");
	/* Podman takes these out of o */
	expect("type=nfs\ndevice=nas:/e\nUID=5\nGID=6\nSIZE=1\nINODES=2\nNOQUOTA=",
	       "type=nfs\nhost=nas\npath=/e\nuid=5\ngid=6");
	refuse("type=cifs\ndevice=//nas/x\no=addr=nas", "type", "cifs");
	refuse("type=nfs\ndevice=:/e", "host", "nfs");
	refuse("type=nfs\ndevice=nas:/e\no=sec=krb5p", "sec", "Kerberos");
	refuse("type=nfs\ndevice=nas:/e\no=nfsver=4", "did you mean", "version");
	refuse("type=nfs\ndevice=nas:/e\no=soft,timeo=often", "timeo", "number");
}

static void netshare(void **state)
{
	cv_cleanup_dict struct cv_dict out = CV_DICT_INIT, none = CV_DICT_INIT;
	struct cv_err err = { 0 };

	(void)state;
	expect("share=nas:/export/data\ncreate=true\nnfsopts=port=2049,nolock,proto=tcp",
	       "type=nfs\nhost=nas\npath=/export/data\nsubdir=${name}\nport=2049");
	expect("share=nas/export/data", "type=nfs\nhost=nas\npath=/export/data");
	expect("share=nas/export#web\ncreate=yes", "type=nfs\nhost=nas\npath=/export\nsubdir=web");
	refuse("share=/export", "share", "server");
	refuse("share=nas", "share", "host:/path");
	refuse("share=nas:/e\ncreate=perhaps", "create", "true or false");
	assert_int_equal(cv_spellings_name("nas/export/data", &out, &err), 1);
	assert_string_equal(cv_dict_get(&out, "host"), "nas");
	assert_string_equal(cv_dict_get(&out, "path"), "/export/data");
	assert_int_equal(cv_spellings_name("data", &none, &err), 0);
	assert_int_equal(none.count, 0);
	assert_int_equal(cv_spellings_name("/x", &none, &err), 0);
	assert_int_equal(cv_spellings_name("a b/x", &none, &err), 0);
	assert_int_equal(cv_spellings_name("", &none, &err), 0);
}

static void trajano(void **state)
{
	(void)state;
	expect("device=nas:/export/data\nnfsopts=hard,proto=tcp,nfsvers=3,intr,nolock",
	       "type=nfs\nhost=nas\npath=/export/data\nrecovery=hard\nversion=3");
}

static void kubernetes(void **state)
{
	(void)state;
	expect("server=nas.default.svc.cluster.local\nshare=/\nsubDir=${pvc.metadata.name}\n"
	       "mountPermissions=0777\nmountOptions=nfsvers=4.1,hard",
	       "type=nfs\nhost=nas.default.svc.cluster.local\npath=/\nsubdir=${name}\nmode=0777\n"
	       "version=4.1\nrecovery=hard");
	expect("Server=nas\nSHARE=export\nmountPermissions=0", "type=nfs\nhost=nas\npath=/export");
	expect("shareHost=nas\nshareBasePath=/pool/k8s\ncontrollerBasePath=/pool/k8s\n"
	       "dirPermissionsMode=0770\ndirPermissionsUser=1000\ndirPermissionsGroup=2000",
	       "type=nfs\nhost=nas\npath=/pool/k8s\nmode=0770\nowner=1000:2000");
	expect("server=h\nport=2222\nshare=/data\nuser=me\nprivateKey=/k\nsshOpts=-o ro,-o "
	       "ServerAliveInterval=5",
	       "type=sftp\nhost=h\nport=2222\npath=/data\nuser=me\nkey_file=/k\nreadonly=true\n"
	       "timeout=15000ms");
	refuse("server=nas\nshare=/\nonDelete=delete", "onDelete", "never deletes");
	refuse("server=nas\nshare=/\nsubDir=${pvc.metadata.namespace}/x", "subdir", "${name}");
}

static void names_and_booleans(void **state)
{
	(void)state;
	expect("SOURCE=h:/x\n--Read_Only=Yes\nMOUNT-TIMEOUT=5", "type=nfs\nhost=h\npath=/x\n"
								"readonly=true\n"
								"mount_timeout=5000ms");
	expect("source=h:/x\nrw=0", "type=nfs\nhost=h\npath=/x\nreadonly=true");
	expect("source=h:/x\nrw=off\nro=on", "type=nfs\nhost=h\npath=/x\nreadonly=true");
	refuse("source=h:/x\nrw=\nro=", "readonly", "twice");
	refuse("source=h:/x\no=o=ro", "'o'", "unknown");
	refuse("source=h:/x\nnoexec=", "noexec", "refused");
}

/* A key in one line gets its line ends back, once. */
static void keys(void **state)
{
	cv_cleanup_dict struct cv_dict in = CV_DICT_INIT, out = CV_DICT_INIT, again = CV_DICT_INIT;
	struct cv_err err = { 0 };

	(void)state;
	take_lines("sshcmd=h:x\nsftp-key-pem=-----BEGIN X-----\\nabc\\n-----END X-----\\n", &in);
	assert_int_equal(cv_options_parse(&in, &out, &err), 0);
	assert_string_equal(cv_dict_get(&out, "key"), "-----BEGIN X-----\nabc\n-----END X-----\n");
	assert_int_equal(cv_options_parse(&out, &again, &err), 0);
	assert_true(cv_dict_equal(&out, &again));
	refuse("sshcmd=h:x\nkey=abc\nkey_file=/k", "key", "both");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vieux_sshfs),
		cmocka_unit_test(sshcmd_words),
		cmocka_unit_test(sshfs_options),
		cmocka_unit_test(rclone),
		cmocka_unit_test(local_driver),
		cmocka_unit_test(netshare),
		cmocka_unit_test(trajano),
		cmocka_unit_test(kubernetes),
		cmocka_unit_test(names_and_booleans),
		cmocka_unit_test(keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
