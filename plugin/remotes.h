/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an administrator has set down in CONFIG_DIR (/etc/cvol): remotes, each a place with its
 * options under a name; which of them is the default; options that hold for all volumes; secrets.
 * A volume's state says "remote=nas" and no more, so that a remote can be changed in one place. All
 * files are small, local and read anew at each use. cvol.json(5) describes them.
 */
#ifndef CV_PLUGIN_REMOTES_H
#define CV_PLUGIN_REMOTES_H

#include <stddef.h>

#include "config/dict.h"
#include "config/err.h"

#define CV_DEFAULT_CONFIG_DIR "/etc/cvol"

struct cv_site {	      /* cvol.json */
	char *default_remote; /* owned; NULL: none */
	struct cv_dict defaults;
	char *metrics_listen; /* owned; as for cvol daemon --metrics-listen; NULL: nowhere */
};
#define CV_SITE_INIT                                                                               \
	{                                                                                          \
		NULL, CV_DICT_INIT, NULL                                                           \
	}
void cv_site_release(struct cv_site *site);
#define cv_cleanup_site __attribute__((cleanup(cv_site_release)))

struct cv_remote {	   /* remotes.d/NAME.json */
	char *description; /* owned; "" if none */
	struct cv_dict options;
};
#define CV_REMOTE_INIT                                                                             \
	{                                                                                          \
		NULL, CV_DICT_INIT                                                                 \
	}
void cv_remote_release(struct cv_remote *remote);
#define cv_cleanup_remote __attribute__((cleanup(cv_remote_release)))

/* Bytes of a file; 0, -EBADMSG with the reason. */
int cv_site_parse(const char *data, size_t size, struct cv_site *ret, struct cv_err *err);
int cv_remote_parse(const char *data, size_t size, struct cv_remote *ret, struct cv_err *err);

/* Without a file, nothing is set. */
int cv_site_load(const char *config_dir, struct cv_site *ret, struct cv_err *err);
int cv_remote_load(const char *config_dir, const char *name, struct cv_remote *ret,
		   struct cv_err *err);
/* Sorted names, NULL at the end; caller: cv_remote_names_free(). NULL with err. */
char **cv_remote_names(const char *config_dir, struct cv_err *err);
void cv_remote_names_free(char **names);

/*
 * From canonical options as they are stored to what a worker is given: the remote's options and the
 * defaults filled in, ${name} in subdir replaced, secrets found. -ENOENT when the remote or a
 * secret is not there. volume: its name.
 */
int cv_remotes_resolve(const char *config_dir, const char *volume, const struct cv_dict *stored,
		       struct cv_dict *ret, struct cv_err *err);

/* Where "secret:NAME" is looked for, in this order; the absolute path, caller frees. */
char *cv_secret_find(const char *config_dir, const char *name, struct cv_err *err);
#define CV_SECRET_PREFIX "secret:"

#endif
