/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a client configuration as ssh_config(5) describes it, for one host. Only what leads to a
 * host and a login is kept. Nothing is ever run: a directive that needs a program and applies to
 * the host is an error. Knows nothing of SSH itself; touches files only.
 */
#ifndef CV_BACKENDS_SSH_CONFIG_H
#define CV_BACKENDS_SSH_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "config/dict.h"
#include "config/err.h"

#define CV_SSH_LIST_MAX 16

/* Owned texts, in order. */
struct cv_ssh_list {
	char *item[CV_SSH_LIST_MAX];
	size_t count;
};

/* What the file says of a host; paths and tokens (%h, ~) as written. */
struct cv_ssh_conf {
	struct cv_dict one;	  /* keyword in lower case -> value; the first one met counts */
	struct cv_ssh_list keys;  /* IdentityFile */
	struct cv_ssh_list certs; /* CertificateFile */
	struct cv_ssh_list known; /* UserKnownHostsFile */
	char home[256];		  /* what '~' and %d mean: the home of the file's owner */
};

/* Returns 0, -E2BIG (full: the rest is left out by callers that may) or -ENOMEM. */
int cv_ssh_list_add(struct cv_ssh_list *list, const char *text);
void cv_ssh_list_release(struct cv_ssh_list *list);

/*
 * Reads path (and what it includes) for a host the user calls alias and logs in to as user (NULL:
 * not said). Refuses a file that others may write, since it decides whom to trust. Blocks on files
 * only. Returns 0 or -errno with the file and line in err.
 */
int cv_ssh_config_read(const char *path, const char *alias, const char *user,
		       struct cv_ssh_conf *ret_conf, struct cv_err *err);
/* The same from an open stream, without owner checks; name: for messages. For tests. */
int cv_ssh_config_parse(FILE *f, const char *name, const char *alias, const char *user,
			struct cv_ssh_conf *ret_conf, struct cv_err *err);
void cv_ssh_conf_release(struct cv_ssh_conf *conf);

/* Does text match one of the patterns (with * and ?) in a list, and none that begins with '!'? */
bool cv_ssh_match(const char *text, const char *patterns, char separator);

/* The home directory that a service running as root has, whatever its environment says. */
const char *cv_ssh_home(void);

#endif
