/* SPDX-License-Identifier: Apache-2.0 */
#include "config/spellings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/cleanup.h"
#include "config/log.h"
#include "config/options.h"
#include "config/str.h"

/* ---- one word for another ---- */

#define YES	     "+" /* in `value`: whatever people write for true, or for false */
#define NO	     "-"
#define IGNORE	     NULL
#define REFUSE	     "!"
#define HOST_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

#define PROGRAM "it would run programs as root"
#define OBSCURED                                                                                   \
	"rclone obscures it: write the password itself ('rclone reveal') to a file and use "       \
	"password_file"
#define NO_DELETE "cvol never deletes data: use retain, and delete on the server"
#define NO_IDMAP  "use idmap=file and idmap_file, with numbers"
#define NO_ROUTE  "cvol makes its TCP connection itself: leave the option out"

struct spelling {
	const char *name;   /* lower case, '_' */
	const char *value;  /* NULL: any; YES, NO, or one word */
	const char *option; /* ours, or IGNORE, or REFUSE */
	const char *text;   /* its value, NULL: as given; the reason when refused */
	bool weak;	    /* gives way to whatever else is said about the option */
};

/* The first row that fits counts; a name without a fitting row is an option of ours, or unknown. */
static const struct spelling spellings[] = {
	/* programs, as root */
	{ "ssh_command", NULL, REFUSE, PROGRAM },
	{ "proxycommand", NULL, REFUSE, PROGRAM },
	{ "localcommand", NULL, REFUSE, PROGRAM },
	{ "permitlocalcommand", NULL, REFUSE, PROGRAM },
	{ "knownhostscommand", NULL, REFUSE, PROGRAM },
	{ "remotecommand", NULL, REFUSE, PROGRAM },
	{ "sftp_server", NULL, REFUSE, PROGRAM },
	{ "sftp_server_command", NULL, REFUSE, PROGRAM },
	{ "sftp_ssh", NULL, REFUSE, PROGRAM },
	{ "sftp_subsystem", NULL, REFUSE, PROGRAM },
	{ "sftp_md5sum_command", NULL, REFUSE, PROGRAM },
	{ "sftp_sha1sum_command", NULL, REFUSE, PROGRAM },

	/* where */
	{ "type", "nfs4", "type", "nfs" },
	{ "type", "ssh", "type", "sftp" },
	{ "type", "sshfs", "type", "sftp" },
	{ "type", "fuse.sshfs", "type", "sftp" },
	{ "type", "none", "type", "dir" },
	{ "type", "bind", "type", "dir" },
	{ "bind", NULL, IGNORE },
	{ "rbind", NULL, IGNORE },

	{ "on_delete", "delete", REFUSE, NO_DELETE },
	{ "ondelete", "delete", REFUSE, NO_DELETE },

	/* on or off */
	{ "hard", YES, "recovery", "hard" },
	{ "hard", NO, "recovery", "soft" },
	{ "soft", YES, "recovery", "soft" },
	{ "soft", NO, "recovery", "hard" },
	{ "softerr", YES, "recovery", "soft" },
	{ "rw", YES, "readonly", "false" },
	{ "rw", NO, "readonly", "true" },
	{ "sync", YES, "write_behind", "false" },
	{ "sync", NO, IGNORE },
	{ "async", NULL, IGNORE },
	{ "sshfs_sync", YES, "write_behind", "false" },
	{ "sshfs_sync", NO, IGNORE },

	/* caches */
	{ "cache", "yes", "cache", "default" },
	{ "cache", "no", "cache", "strict" },
	{ "dir_cache", YES, IGNORE },
	{ "dir_cache", NO, "cache", "strict", true },
	{ "noac", YES, "cache", "strict", true },
	{ "noac", NO, IGNORE },
	{ "ac", NULL, IGNORE },
	{ "direct_io", YES, "cache", "strict", true },
	{ "direct_io", NO, IGNORE },
	{ "lookupcache", "none", "cache", "strict", true },
	{ "lookupcache", NULL, IGNORE },
	{ "dir_cache_time", NULL, "attr_timeout", NULL, true },
	{ "dcache_timeout", NULL, "attr_timeout", NULL, true },
	{ "cache_timeout", NULL, "attr_timeout", NULL, true },
	{ "vfs_read_ahead", NULL, "readahead", NULL, true },
	{ "max_read_ahead", NULL, "readahead", NULL, true },
	{ "no_readahead", YES, "readahead", "4096", true },
	{ "no_readahead", NO, IGNORE },

	/* symbolic links */
	{ "follow_symlinks", YES, "symlinks", "follow" },
	{ "follow_symlinks", NO, IGNORE },
	{ "no_contain_symlinks", YES, "symlinks", "raw" },
	{ "no_contain_symlinks", NO, IGNORE },
	{ "transform_symlinks", YES, "symlinks", "contain", true },
	{ "transform_symlinks", NO, IGNORE },
	{ "contain_symlinks", YES, "symlinks", "contain", true },
	{ "contain_symlinks", NO, "symlinks", "raw", true },
	{ "copy_links", YES, "symlinks", "follow" },
	{ "copy_links", NO, IGNORE },

	/* keys: cvol never goes without checking them; what it does instead is remember them */
	{ "stricthostkeychecking", "ask", "host_key_policy", "strict" },
	{ "stricthostkeychecking", "accept-new", "host_key_policy", "accept-new" },
	{ "stricthostkeychecking", YES, "host_key_policy", "strict" },
	{ "stricthostkeychecking", NO, "host_key_policy", "accept-new" },
	{ "userknownhostsfile", "/dev/null", IGNORE },
	{ "globalknownhostsfile", NULL, IGNORE },
	{ "sftp_pass", NULL, REFUSE, OBSCURED },
	{ "sftp_host_keys", NULL, REFUSE, "use host_key=SHA256:fingerprint or known_hosts" },
	{ "sftp_pin_host_key", NULL, REFUSE, "use host_key=SHA256:fingerprint or known_hosts" },
	{ "sftp_key_use_agent", YES, REFUSE, "name the agent's socket: agent_socket" },
	{ "sftp_key_use_agent", NO, IGNORE },
	{ "sftp_pubkey_file", NULL, IGNORE },

	/* NFS */
	{ "sec", "sys", IGNORE },
	{ "sec", "none", IGNORE },
	{ "sec", NULL, REFUSE, "cvol does not speak Kerberos: only sec=sys" },
	{ "xprtsec", "none", IGNORE },
	{ "xprtsec", NULL, REFUSE, "cvol does not encrypt NFS" },
	{ "proto", "rdma", REFUSE, "cvol speaks TCP only" },
	{ "proto", "rdma6", REFUSE, "cvol speaks TCP only" },
	{ "proto", NULL, IGNORE },
	{ "noexec", YES, REFUSE, "programs on a volume can be run: leave the option out" },
	{ "noexec", NO, IGNORE },
	{ "noauto", NULL, IGNORE },

	/* what cvol has no use for */
	{ "uidfile", NULL, REFUSE, NO_IDMAP },
	{ "gidfile", NULL, REFUSE, NO_IDMAP },
	{ "bindaddress", NULL, REFUSE, NO_ROUTE },
	{ "bindinterface", NULL, REFUSE, NO_ROUTE },
	{ "directport", NULL, REFUSE, NO_ROUTE },
	{ "vsock", NULL, REFUSE, NO_ROUTE },
	{ "passive", NULL, REFUSE, NO_ROUTE },
	{ "slave", NULL, REFUSE, NO_ROUTE },
	{ "sftp_skip_links", YES, REFUSE, "use symlinks=contain" },
	{ "sftp_skip_links", NO, IGNORE },
};

/* Written by habit for other drivers; without meaning, or always on, here. */
static const char ignored[] =
	"allow_other allow_root default_permissions nonempty allow_non_empty allow_idmap "
	"noatime nodiratime relatime strictatime nosuid nodev suid dev exec defaults "
	"auto nofail _netdev user_id group_id fsname subtype debug size inodes noquota "
	"copy nocopy persist mount_type volume_nocopy "
	"big_writes reconnect delay_connect kernel_cache auto_cache noauto_cache "
	"ac_attr_timeout entry_timeout negative_timeout max_read max_write sync_read "
	"async_read sync_readdir workaround nomap disable_hardlink no_check_root "
	"password_stdin dcache_max_size dcache_stat_timeout dcache_link_timeout "
	"dcache_dir_timeout dcache_clean_interval dcache_min_clean_interval "
	"cache_max_size cache_stat_timeout cache_dir_timeout cache_link_timeout "
	"cache_clean_interval connecttimeout tcpkeepalive batchmode loglevel "
	"ciphersuites checkhostip passwordauthentication pubkeyauthentication "
	"preferredauthentications identitiesonly controlmaster controlpath "
	"controlpersist connectionattempts gssapiauthentication numberofpasswordprompts "
	"requesttty forwardagent forwardx11 hashknownhosts updatehostkeys addressfamily "
	"transport protocol ipqos "
	"nolock lock local_lock tcp udp intr nointr fsc nofsc bg fg retry cto nocto acl "
	"noacl rdirplus nordirplus sharecache nosharecache resvport noresvport "
	"mountproto mountvers mounthost namlen clientaddr migration nomigration posix "
	"trunkdiscovery notrunkdiscovery max_connect mountaddr wdelay bsize "
	"controllerbasepath node_attach_driver provisioner_driver "
	"sftp_concurrency sftp_chunk_size sftp_idle_timeout sftp_set_modtime "
	"sftp_disable_concurrent_reads sftp_disable_concurrent_writes "
	"sftp_disable_hashcheck sftp_use_fstat sftp_use_insecure_cipher sftp_shell_type "
	"sftp_copy_is_hardlink sftp_ask_password sftp_set_env sftp_host_key_algorithms "
	"write_back_cache daemon_timeout debug_fuse poll_interval no_modtime no_seek "
	"no_checksum file_perms link_perms buffer_size devname volname noappledouble "
	"noapplexattr network_mode daemon_wait daemon";

/* Everything below is taken together once all is read: what it means depends on the rest. */
static const char compounds[] =
	"device share sshcmd remote fs path create timeo retrans minorversion "
	"serveraliveinterval serveralivecountmax mountpermissions dir_perms "
	"dirpermissionsuser dirpermissionsgroup";

/* Lists of options in one, as mount(8) takes them. */
static const char lists[] = "o opts options nfsopts nfs_opts mountoptions mount_options sshopts";

struct reader {
	struct cv_dict *out;
	struct cv_dict parts; /* of compounds */
	struct cv_dict weak;  /* canonical names, values as given */
	bool nfs4;
	struct cv_err *err;
};

static bool is_one_of(const char *words, const char *key)
{
	size_t n = strlen(key);

	for (const char *end; *words; words = *end ? end + 1 : end) {
		end = strchrnul(words, ' ');
		if ((size_t)(end - words) == n && memcmp(words, key, n) == 0)
			return true;
	}
	return false;
}

static int put(struct reader *r, const char *key, const char *value)
{
	return cv_option_put(r->out, key, value, r->err);
}

static int put_part(struct reader *r, struct cv_dict *dict, const char *key, const char *value)
{
	const char *there = cv_dict_get(dict, key);
	int n;

	if (there && !cv_str_eq(there, value))
		return cv_fail(r->err, EINVAL, "option %s is given twice, with different values",
			       key);
	n = cv_dict_set(dict, key, value);
	return n < 0 ? cv_fail(r->err, n, "option %s: %s", key, cv_strerror(n)) : 0;
}

/* The first one counts. */
static int put_weak(struct reader *r, const char *key, const char *value)
{
	int n = cv_dict_get(&r->weak, key) ? 0 : cv_dict_set(&r->weak, key, value);

	return n < 0 ? cv_fail(r->err, n, "option %s: %s", key, cv_strerror(n)) : 0;
}

static bool value_fits(const char *wanted, const char *value)
{
	bool flag;

	if (!wanted)
		return true;
	if (cv_str_eq(wanted, YES) || cv_str_eq(wanted, NO))
		return cv_parse_bool(value, &flag) == 0 && flag == (*wanted == *YES);
	return strcasecmp(wanted, value) == 0;
}

static int apply(struct reader *r, const struct spelling *s, const char *key, const char *value)
{
	if (!s->option) {
		cv_debug("option %s has no meaning here and is ignored", key);
		return 0;
	}
	if (cv_str_eq(s->option, REFUSE))
		return cv_fail(r->err, EINVAL, "option %s is refused: %s", key, s->text);
	if (s->text)
		value = s->text;
	return s->weak ? put_weak(r, s->option, value) : put(r, s->option, value);
}

/* rclone writes a key in one line, with \n for its ends. */
static int put_key(struct reader *r, const char *value)
{
	cv_cleanup_free char *text = strdup(value);
	char *out = text;
	int n;

	if (!text)
		return cv_fail(r->err, ENOMEM, "out of memory");
	for (const char *p = value; *p; p++) {
		if (p[0] == '\\' && p[1] == 'n') {
			*out++ = '\n';
			p++;
		} else {
			*out++ = *p;
		}
	}
	*out = '\0';
	n = put(r, "key", text);
	cv_wipe(text, strlen(value));
	return n;
}

/* Kubernetes' names for a volume's name. */
static int put_subdir(struct reader *r, const char *value)
{
	static const char *const names[] = { "${pvc.metadata.name}", "${pv.metadata.name}" };
	cv_cleanup_free char *text = strdup(value);

	for (size_t i = 0; text && i < CV_ARRAY_SIZE(names); i++) {
		char *at;

		while (text && (at = strstr(text, names[i]))) {
			char *next = cv_sprintf("%.*s${name}%s", (int)(at - text), text,
						at + strlen(names[i]));

			free(text);
			text = next;
		}
	}
	return text ? put(r, "subdir", text) : cv_fail(r->err, ENOMEM, "out of memory");
}

static int take_list(struct reader *r, const char *text);

static int take(struct reader *r, const char *name, const char *value, bool nested)
{
	char key[CV_OPTION_KEY_MAX];

	if (!cv_option_normalise(name, key))
		return cv_fail(r->err, EINVAL, "unknown option '%.64s' ('cvol options' lists all)",
			       name);
	if (is_one_of(lists, key) && !nested)
		return take_list(r, value);
	if (cv_str_eq(key, "type") && strcasecmp(value, "nfs4") == 0)
		r->nfs4 = true;
	for (size_t i = 0; i < CV_ARRAY_SIZE(spellings); i++) {
		if (cv_str_eq(spellings[i].name, key) && value_fits(spellings[i].value, value))
			return apply(r, &spellings[i], name, value);
	}
	if (is_one_of(ignored, key) || cv_str_starts(key, "vfs_")) {
		cv_debug("option %s has no meaning here and is ignored", key);
		return 0;
	}
	if (is_one_of(compounds, key))
		return put_part(r, &r->parts, cv_str_eq(key, "fs") ? "remote" : key, value);
	if (cv_str_eq(key, "subdir"))
		return put_subdir(r, value);
	if (cv_str_eq(key, "key") || cv_str_eq(key, "sftp_key_pem"))
		return put_key(r, value);
	return put(r, key, value);
}

/* "rw,addr=x,context=\"a,b\"", or, as csi-sshfs has it, with a "-o" before each. */
static int take_list(struct reader *r, const char *text)
{
	size_t size = strlen(text) + 1;
	char *item = malloc(size);
	int n = 0;

	if (!item)
		return cv_fail(r->err, ENOMEM, "out of memory");
	while (n == 0 && *text) {
		char *out = item, *equals, *start = item;
		bool quoted = false;

		for (; *text && (quoted || *text != ','); text++) {
			if (*text == '"')
				quoted = !quoted;
			else
				*out++ = *text;
		}
		*out = '\0';
		if (*text == ',')
			text++;
		while (*start == ' ')
			start++;
		if (cv_str_starts(start, "-o"))
			start += strspn(start + 2, " ") + 2;
		if (!*start)
			continue;
		equals = strchr(start, '=');
		if (equals)
			*equals++ = '\0';
		n = take(r, start, equals ? equals : "", true);
	}
	cv_wipe(item, size);
	free(item);
	return n;
}

/* ---- where the storage is ---- */

static const char *part(const struct reader *r, const char *key)
{
	return cv_dict_get(&r->parts, key);
}

static int put_span(struct reader *r, const char *key, const char *from, size_t n)
{
	cv_cleanup_free char *text = strndup(from, n);

	return text ? put(r, key, text) : cv_fail(r->err, ENOMEM, "out of memory");
}

static int put_all(struct reader *r, const struct cv_dict *parts)
{
	int n = 0;

	for (size_t i = 0; n == 0 && i < parts->count; i++)
		n = put(r, parts->items[i].key, parts->items[i].value);
	return n;
}

/* [user@]host:[path] of an SSH server. */
static int put_scp(struct reader *r, const char *target)
{
	cv_cleanup_dict struct cv_dict parts = CV_DICT_INIT;
	int n = cv_source_parse_scp(target, &parts, r->err);

	return n < 0 ? n : put_all(r, &parts);
}

/* "host:/path" or ":/path"; the host gives way to one named otherwise (addr=). */
static int put_export(struct reader *r, const char *text)
{
	const char *bracket = *text == '[' ? strchr(text, ']') : NULL;
	const char *colon = strchr(bracket ? bracket : text, ':');
	size_t brackets = bracket ? 1 : 0;
	cv_cleanup_free char *host = NULL;
	int n;

	if (!colon || (colon[1] && colon[1] != '/') || (bracket && colon != bracket + 1))
		return cv_fail(r->err, EINVAL, "option device or share: expected host:/path");
	n = put(r, "path", colon[1] ? colon + 1 : "/");
	if (n < 0 || colon == text)
		return n;
	host = strndup(text + brackets, (size_t)(colon - text) - 2 * brackets);
	return host ? put_weak(r, "host", host) : cv_fail(r->err, ENOMEM, "out of memory");
}

/* What mount(8) calls the device: a host's directory, an export, a directory of an SSH server. */
static int resolve_device(struct reader *r)
{
	const char *device = part(r, "device"), *type = cv_dict_get(r->out, "type");

	if (!device)
		return 0;
	if (strstr(device, "://"))
		return put(r, "source", device);
	if (cv_str_eq(type, "dir") || *device == '/') {
		int n = put(r, "type", "dir");

		return n < 0 ? n : put(r, "path", device);
	}
	if (cv_str_eq(type, "sftp") || strchr(device, '@'))
		return put_scp(r, device);
	return put_export(r, device);
}

/* "host/path" and "host/path#name". */
static int put_netshare(struct reader *r, const char *text)
{
	const char *slash = strchr(text, '/'), *hash = slash ? strrchr(slash, '#') : NULL;
	size_t n = slash ? strcspn(slash, "#") : 0;
	int x;

	if (!slash || slash == text)
		return cv_fail(r->err, EINVAL,
			       "option share: expected host:/path, or server as well");
	if (hash)
		n = (size_t)(hash - slash);
	x = put_span(r, "host", text, (size_t)(slash - text));
	if (x == 0)
		x = put_span(r, "path", slash, n);
	if (x == 0 && hash && hash[1])
		x = put(r, "subdir", hash + 1);
	return x;
}

/* netshare's is host:/path or host/path; Kubernetes' a path, beside a server. */
static int resolve_share(struct reader *r)
{
	const char *share = part(r, "share");
	cv_cleanup_free char *path = NULL;

	if (!share)
		return 0;
	if (strstr(share, "://"))
		return put(r, "source", share);
	if (strstr(share, ":/"))
		return put_export(r, share);
	if (!cv_dict_get(r->out, "host"))
		return put_netshare(r, share);
	path = cv_sprintf("%s%s", *share == '/' ? "" : "/", share);
	return path ? put(r, "path", path) : cv_fail(r->err, ENOMEM, "out of memory");
}

/* The arguments of sshfs(1): perhaps options, then [user@]host:path. */
static int resolve_sshcmd(struct reader *r)
{
	const char *given = part(r, "sshcmd");
	cv_cleanup_free char *copy = given ? strdup(given) : NULL;
	char *save = NULL, *word, *rest = copy, *target = NULL;
	int n = 0;

	if (!given)
		return 0;
	if (!copy)
		return cv_fail(r->err, ENOMEM, "out of memory");
	/* A path may have blanks; options are told from it by their dash. */
	if (*given != '-')
		return put_scp(r, given);
	while (n == 0 && !target && (word = strtok_r(rest, " ", &save))) {
		bool port = cv_str_starts(word, "-p");
		const char *value = word + 2;

		rest = NULL;
		if (*word != '-') {
			target = word;
			continue;
		}
		if (cv_str_eq(word, "-C")) {
			n = put(r, "compression", "true");
			continue;
		}
		if (!port && !cv_str_starts(word, "-o"))
			return cv_fail(r->err, EINVAL,
				       "option sshcmd: its option '%.2s' is not known; give it as "
				       "an option of the volume",
				       word);
		if (!*value)
			value = strtok_r(NULL, " ", &save);
		if (!value)
			break;
		n = port ? put(r, "port", value) : take_list(r, value);
	}
	if (n == 0 && (!target || strtok_r(NULL, " ", &save)))
		return cv_fail(r->err, EINVAL, "option sshcmd: expected [user@]host:path");
	return n < 0 ? n : put_scp(r, target);
}

/* One value of rclone's ":sftp,host=…,user=…:", perhaps in quotes that are doubled inside. */
static const char *rclone_value(const char *p, char *out)
{
	char quote = *p == '"' || *p == '\'' ? *p : '\0';

	for (p += quote != '\0'; *p; p++) {
		if (quote ? *p == quote : *p == ',' || *p == ':') {
			if (!quote || p[1] != quote)
				break;
			p++;
		}
		*out++ = *p;
	}
	*out = '\0';
	return quote && *p ? p + 1 : p;
}

/* ":sftp,key=value,…:path" */
static int put_rclone(struct reader *r, const char *text)
{
	size_t size = strlen(text) + 1;
	char *value = malloc(size);
	const char *p = text + 1;
	size_t n = strcspn(p, ",:");
	int x = value ? 0 : -ENOMEM;

	if (x < 0)
		return cv_fail(r->err, ENOMEM, "out of memory");
	if (n != 4 || memcmp(p, "sftp", 4) != 0) {
		free(value);
		return cv_fail(r->err, EINVAL, "option remote: of rclone's, only :sftp is known");
	}
	x = put(r, "type", "sftp");
	for (p += n; x == 0 && *p == ',';) {
		size_t name = strcspn(p + 1, "=,:");
		cv_cleanup_free char *key = cv_sprintf("sftp_%.*s", (int)name, p + 1);

		p += 1 + name;
		(void)strcpy(value, "true");
		if (*p == '=')
			p = rclone_value(p + 1, value);
		x = key ? take(r, key, value, true) : cv_fail(r->err, ENOMEM, "out of memory");
	}
	cv_wipe(value, size);
	free(value);
	if (x == 0 && *p != ':')
		return cv_fail(r->err, EINVAL, "option remote: expected :sftp,host=…,user=…:path");
	return x < 0 || !p[1] ? x : put_weak(r, "path", p + 1);
}

/* A remote of ours is NAME or NAME:path; rclone can describe one in place. */
static int resolve_remote(struct reader *r)
{
	const char *remote = part(r, "remote"), *path = part(r, "path");
	cv_cleanup_dict struct cv_dict parts = CV_DICT_INIT;
	int n = 0;

	if (remote && *remote == ':') {
		n = put_rclone(r, remote);
	} else if (remote) {
		n = cv_source_parse_remote(remote, &parts, r->err);
		if (n == 0)
			n = put_all(r, &parts);
	}
	return n < 0 || !path ? n : put(r, "path", path);
}

/* ---- what takes two options to say ---- */

static int number(const struct reader *r, const char *key, uint64_t max, uint64_t def,
		  uint64_t *ret)
{
	const char *text = part(r, key);

	*ret = def;
	if (text && cv_parse_u64(text, 10, max, ret) < 0)
		return cv_fail(r->err, EINVAL, "option %s: '%s' is not a number from 0 to %" PRIu64,
			       key, text, max);
	return 0;
}

static int put_weak_ms(struct reader *r, uint64_t ms)
{
	cv_cleanup_free char *text = cv_sprintf("%" PRIu64 "ms", ms < 1000 ? 1000 : ms);

	return text ? put_weak(r, "timeout", text) : cv_fail(r->err, ENOMEM, "out of memory");
}

/*
 * timeo (tenths of a second) is when the kernel sends again; only after retrans times does a soft
 * mount fail, which is what our timeout is about. For a hard one it decides nothing one can see.
 */
static int resolve_timeouts(struct reader *r)
{
	bool soft = cv_str_eq(cv_dict_get(r->out, "recovery"), "soft");
	uint64_t timeo = 0, retrans = 0, interval = 0, count = 0;
	int n = number(r, "timeo", 36000, 600, &timeo);

	if (n == 0)
		n = number(r, "retrans", 1000, 2, &retrans);
	if (n == 0)
		n = number(r, "serveraliveinterval", 86400, 0, &interval);
	if (n == 0)
		n = number(r, "serveralivecountmax", 1000, 3, &count);
	if (n == 0 && soft && (part(r, "timeo") || part(r, "retrans")))
		n = put_weak_ms(r, timeo * 100 * (retrans + 1));
	if (n == 0 && interval && count)
		n = put_weak_ms(r, interval * count * 1000);
	return n;
}

static int resolve_version(struct reader *r)
{
	const char *minor = part(r, "minorversion"), *version = cv_dict_get(r->out, "version");
	cv_cleanup_free char *text = NULL;

	if (minor && (!version || cv_str_eq(version, "4"))) {
		(void)cv_dict_remove(r->out, "version");
		text = cv_sprintf("4.%s", minor);
		return text ? put(r, "version", text) : cv_fail(r->err, ENOMEM, "out of memory");
	}
	return r->nfs4 ? put_weak(r, "version", "4") : 0;
}

static int resolve_owner(struct reader *r)
{
	const char *uid = part(r, "dirpermissionsuser"), *gid = part(r, "dirpermissionsgroup");
	cv_cleanup_free char *text = NULL;

	if (!uid && !gid)
		return 0;
	text = cv_sprintf("%s:%s", uid ? uid : "0", gid ? gid : "0");
	return text ? put_weak(r, "owner", text) : cv_fail(r->err, ENOMEM, "out of memory");
}

static int resolve_permissions(struct reader *r)
{
	const char *mode = part(r, "mountpermissions"), *dirs = part(r, "dir_perms");
	const char *create = part(r, "create");
	uint64_t bits;
	bool flag;
	int n = 0;

	if (mode && strspn(mode, "0") != strlen(mode)) /* 0: leave it as it is */
		n = put_weak(r, "mode", mode);
	if (n == 0 && dirs) {
		cv_cleanup_free char *umask_text = NULL;

		if (cv_parse_u64(dirs, 8, 07777, &bits) < 0)
			return cv_fail(r->err, EINVAL,
				       "option dir_perms: '%s' is not an octal mode", dirs);
		umask_text = cv_sprintf("%04o", ~(unsigned)bits & 0777);
		n = umask_text ? put_weak(r, "umask", umask_text)
			       : cv_fail(r->err, ENOMEM, "out of memory");
	}
	if (n == 0 && create) {
		if (cv_parse_bool(create, &flag) < 0)
			return cv_fail(r->err, EINVAL, "option create: '%s' is not true or false",
				       create);
		if (flag)
			n = put_weak(r, "subdir", "${name}");
	}
	return n < 0 ? n : resolve_owner(r);
}

static int put_weak_ones(struct reader *r)
{
	int n = 0;

	for (size_t i = 0; n == 0 && i < r->weak.count; i++) {
		const struct cv_option_def *d = cv_option_find(r->weak.items[i].key);

		if (!cv_dict_get(r->out, d->name))
			n = put(r, d->name, r->weak.items[i].value);
	}
	return n;
}

int cv_spellings_resolve(const struct cv_dict *in, struct cv_dict *out, struct cv_err *err)
{
	static int (*const steps[])(struct reader *) = {
		resolve_sshcmd,	  resolve_device,  resolve_share,	resolve_remote,
		resolve_timeouts, resolve_version, resolve_permissions, put_weak_ones,
	};
	struct reader r = { .out = out, .parts = CV_DICT_INIT, .weak = CV_DICT_INIT, .err = err };
	int n = 0;

	for (size_t i = 0; n == 0 && i < in->count; i++)
		n = take(&r, in->items[i].key, in->items[i].value, false);
	for (size_t i = 0; n == 0 && i < CV_ARRAY_SIZE(steps); i++)
		n = steps[i](&r);
	cv_dict_release(&r.parts);
	cv_dict_release(&r.weak);
	return n;
}

int cv_spellings_name(const char *volume, struct cv_dict *out, struct cv_err *err)
{
	struct reader r = { .out = out, .parts = CV_DICT_INIT, .weak = CV_DICT_INIT, .err = err };
	int n;

	/* Others have a '/' in names of theirs: what comes before it must be a host's name. */
	n = (int)strspn(volume, HOST_LETTERS);
	if (n == 0 || volume[n] != '/')
		return 0;
	n = put_netshare(&r, volume);
	return n < 0 ? n : 1;
}

void cv_spellings_each(void (*each)(void *ctx, const char *name, const char *value,
				    const char *option, const char *text),
		       void *ctx)
{
	char word[CV_OPTION_KEY_MAX];

	for (size_t i = 0; i < CV_ARRAY_SIZE(spellings); i++)
		each(ctx, spellings[i].name, spellings[i].value, spellings[i].option,
		     spellings[i].text);
	for (const char *p = ignored, *end; *p; p = *end ? end + 1 : end) {
		end = strchrnul(p, ' ');
		(void)snprintf(word, sizeof(word), "%.*s", (int)(end - p), p);
		each(ctx, word, NULL, IGNORE, NULL);
	}
}
