/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a user may say about a volume: one table of canonical option names with their types,
 * aliases and the engines they belong to; parsing, validation and typed access. Nothing here
 * touches the network. The same table drives validation, --help and the manual page.
 */
#ifndef CV_CONFIG_OPTIONS_H
#define CV_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/dict.h"
#include "config/err.h"

enum cv_engine_mask {
	CV_ENGINE_DIR = 1 << 0,
	CV_ENGINE_NFS = 1 << 1,
	CV_ENGINE_SFTP = 1 << 2,
	CV_ENGINE_MEM = 1 << 3,
	CV_ENGINE_REMOTE = CV_ENGINE_NFS | CV_ENGINE_SFTP,
	CV_ENGINE_ALL = CV_ENGINE_DIR | CV_ENGINE_NFS | CV_ENGINE_SFTP | CV_ENGINE_MEM,
};

enum cv_option_type {
	CV_OPT_STRING,
	CV_OPT_BOOL,
	CV_OPT_UINT,	 /* decimal, at most max */
	CV_OPT_DURATION, /* see cv_parse_duration_ms() */
	CV_OPT_SIZE,	 /* see cv_parse_size() */
	CV_OPT_OCTAL,	 /* mode or umask */
	CV_OPT_CHOICE,	 /* one of choices, "a|b|c" */
	CV_OPT_FILE,	 /* absolute path of a file on this host, not opened here */
	CV_OPT_SECRET,	 /* a literal secret: never stored in the volume's state, never shown */
};

struct cv_option_def {
	const char *name;    /* canonical, lower case with '_' */
	const char *aliases; /* space-separated, compared without case, '-' == '_'; may be NULL */
	enum cv_option_type type;
	unsigned engines; /* enum cv_engine_mask */
	uint64_t max;	  /* CV_OPT_UINT only */
	const char *choices;
	const char *def;  /* default as shown in help; NULL: none */
	const char *help; /* one line */
};

/* The table; ends with name == NULL. */
const struct cv_option_def *cv_option_table(void);
const struct cv_option_def *cv_option_find(const char *name_or_alias);
unsigned cv_engine_parse(const char *type); /* one bit, or 0 when unknown */

/*
 * Turns what the user wrote into canonical options: aliases resolved, `source` taken apart into
 * type/user/host/port/path, every value checked, defaults NOT filled in. Unknown names, options of
 * another engine, contradictions and options that would run programs are refused; the text names
 * the option and, for unknown ones, the nearest known names. in without type/source: ret_options
 * has no "type" (the caller applies its default remote). *ret_options is untouched on failure.
 */
int cv_options_parse(const struct cv_dict *in, struct cv_dict *ret_options, struct cv_err *err);

/*
 * One option of the table, under any of its names: checks value and puts its canonical form into
 * out. The same again is fine, something else refused.
 */
int cv_option_put(struct cv_dict *out, const char *name, const char *value, struct cv_err *err);
#define CV_OPTION_KEY_MAX 64
/* Lower case, '-' as '_', leading dashes gone. False: too long, or too short, to be an option. */
bool cv_option_normalise(const char *key, char out[CV_OPTION_KEY_MAX]);

/* "k=v,k2=v2" (backslash escapes ',' and '\\') added to dict, uninterpreted. */
int cv_options_split(const char *text, struct cv_dict *dict, struct cv_err *err);

/*
 * A source: nfs://host[:port]/export, sftp://[user@]host[:port]/path, ssh://…, dir:///path, mem://,
 * host:/export (nfs), user@host:/path (sftp), name or name:path (a remote, path not absolute); IPv6
 * hosts in brackets. Sets type, user, host, port, path in out, or remote and subdir. A password in
 * the URL is refused. %XX is decoded in the URL forms.
 */
int cv_source_parse(const char *source, struct cv_dict *out, struct cv_err *err);
/* [user@]host:[path], which is an SSH server's whatever it looks like. */
int cv_source_parse_scp(const char *target, struct cv_dict *out, struct cv_err *err);
/* name or name:path. */
int cv_source_parse_remote(const char *source, struct cv_dict *out, struct cv_err *err);
bool cv_remote_name_ok(const char *name); /* letters, digits, '_', '.', '-'; one safe file name */
/* The canonical short text for people and mount tables, e.g. "nfs://nas/export"; caller frees. */
char *cv_source_format(const struct cv_dict *options);

/* Typed access to validated options; def when absent. */
const char *cv_options_str(const struct cv_dict *o, const char *name, const char *def);
bool cv_options_bool(const struct cv_dict *o, const char *name, bool def);
uint64_t cv_options_uint(const struct cv_dict *o, const char *name,
			 uint64_t def); /* also octal, size */
/* The owner of a created subdir; false: none is wanted. */
bool cv_options_owner(const struct cv_dict *o, uint32_t *ret_uid, uint32_t *ret_gid);
uint64_t cv_options_ms(const struct cv_dict *o, const char *name, uint64_t def_ms);

#endif
