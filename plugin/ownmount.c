/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/ownmount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/files.h"
#include "plugin/mountpoint.h"
#include "plugin/process.h"

int cv_ownmount_open(const char *run_dir, const char *mountpoint, bool create,
		     struct cv_ownmount *ret, struct cv_err *err)
{
	char socket_base[CV_ENCODED_SOCKET + 1];
	struct cv_ownmount own = { .dir = -1 };

	cv_name_encode(mountpoint, CV_ENCODED_MAX, own.encoded);
	cv_name_encode(mountpoint, CV_ENCODED_SOCKET, socket_base);
	(void)snprintf(own.record, sizeof(own.record), "%s.json", own.encoded);
	(void)snprintf(own.lock, sizeof(own.lock), "%s.lock", own.encoded);
	(void)snprintf(own.log, sizeof(own.log), "%s.log", own.encoded);
	(void)snprintf(own.socket, sizeof(own.socket), "%s.sock", socket_base);
	own.path = cv_sprintf("%s/mounts", run_dir);
	if (!own.path)
		return cv_fail(err, ENOMEM, "out of memory");
	if (create) {
		int r = cv_mkdir_p(run_dir, 0711, err);

		own.dir = r < 0 ? r : cv_dir_open(AT_FDCWD, own.path, 0700, err);
	} else {
		own.dir = open(own.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (own.dir < 0)
			own.dir = cv_fail(err, errno, "%s: %s", own.path, cv_strerror(errno));
	}
	if (own.dir < 0) {
		free(own.path);
		return own.dir;
	}
	*ret = own;
	return 0;
}

int cv_ownmount_lock(const struct cv_ownmount *own, unsigned timeout_ms, struct cv_err *err)
{
	cv_cleanup_close int fd =
		openat(own->dir, own->lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r = fd < 0 ? -errno : cv_lock_exclusive(fd, timeout_ms);

	if (r == -EBUSY)
		return cv_fail(err, EBUSY, "another command for this directory is still under way");
	if (r < 0)
		return cv_fail(err, -r, "%s/%s: %s", own->path, own->lock, cv_strerror(r));
	return cv_steal_fd(&fd);
}

static int compare_items(const void *a, const void *b)
{
	return strcmp(((const struct cv_dict_item *)a)->key, ((const struct cv_dict_item *)b)->key);
}

void cv_ownmount_digest(const struct cv_dict *options, char ret[65])
{
	cv_cleanup_dict struct cv_dict sorted = CV_DICT_INIT;
	cv_cleanup_free char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	if (cv_dict_copy(&sorted, options) == 0 && sorted.count)
		qsort(sorted.items, sorted.count, sizeof(*sorted.items), compare_items);
	for (size_t i = 0; f && i < sorted.count; i++) {
		const struct cv_option_def *d = cv_option_find(sorted.items[i].key);

		if (!d || d->type != CV_OPT_SECRET)
			(void)fprintf(f, "%s=%s\n", sorted.items[i].key, sorted.items[i].value);
	}
	if (f)
		(void)fclose(f);
	cv_sha256_hex(text ? text : "", size, ret);
}

void cv_ownmount_release(struct cv_ownmount *own)
{
	cv_close_fd(&own->dir);
	free(own->path);
	own->path = NULL;
}

static void secret_file(const struct cv_ownmount *own, const char *option, char name[NAME_MAX + 1])
{
	(void)snprintf(name, NAME_MAX + 1, "%s.%s", own->encoded, option);
}

static int move_secret(const struct cv_ownmount *own, const char *option, struct cv_dict *options,
		       struct cv_err *err)
{
	const char *value = cv_dict_get(options, option);
	cv_cleanup_free char *key = cv_sprintf("%s_file", option);
	cv_cleanup_free char *dir = realpath(own->path, NULL); /* --run-dir may be relative */
	char file[NAME_MAX + 1];
	int r;

	if (!key || !dir)
		return cv_fail(err, errno, "%s: %s", own->path, cv_strerror(errno));
	secret_file(own, option, file);
	r = cv_file_replace(own->dir, file, value, strlen(value));
	if (r < 0)
		return cv_fail(err, -r, "cannot write %s/%s: %s", dir, file, cv_strerror(r));
	r = cv_dict_setf(options, key, "%s/%s", dir, file);
	(void)cv_dict_remove(options, option);
	return r < 0 ? cv_fail(err, -r, "out of memory") : 0;
}

int cv_ownmount_secrets(const struct cv_ownmount *own, struct cv_dict *options, struct cv_err *err)
{
	int r = 0;

	for (const struct cv_option_def *d = cv_option_table(); r == 0 && d->name; d++) {
		if (d->type == CV_OPT_SECRET && cv_dict_get(options, d->name))
			r = move_secret(own, d->name, options, err);
	}
	return r;
}

void cv_ownmount_forget(const struct cv_ownmount *own)
{
	char name[NAME_MAX + 1];

	for (const struct cv_option_def *d = cv_option_table(); d->name; d++) {
		if (d->type != CV_OPT_SECRET)
			continue;
		secret_file(own, d->name, name);
		(void)unlinkat(own->dir, name, 0);
	}
	(void)unlinkat(own->dir, own->record, 0);
	(void)unlinkat(own->dir, own->log, 0);
	(void)unlinkat(own->dir, own->socket, 0);
}

static bool is_mounted(const char *path)
{
	cv_cleanup_entry struct cv_mount_entry entry = { 0 };

	return cv_mount_find(path, &entry) == 0 && cv_str_eq(entry.fstype, CV_FSTYPE);
}

/* realpath() of everything but the last component, which is the one that may hang. */
static char *resolve_parent(const char *dir)
{
	cv_cleanup_free char *copy = strdup(dir);
	cv_cleanup_free char *parent = NULL;
	size_t len = copy ? strlen(copy) : 0;
	const char *base;
	char *slash;

	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	slash = copy ? strrchr(copy, '/') : NULL;
	base = slash ? slash + 1 : copy;
	if (!base || !*base || cv_str_eq(base, ".") || cv_str_eq(base, ".."))
		return NULL;
	if (slash == copy)
		parent = strdup("/");
	else if (slash)
		*slash = '\0';
	if (!parent)
		parent = realpath(slash ? copy : ".", NULL);
	if (!parent)
		return NULL;
	return cv_sprintf("%s/%s", cv_str_eq(parent, "/") ? "" : parent, base);
}

char *cv_ownmount_resolve(const char *dir, struct cv_err *err)
{
	char *path;

	if (*dir == '/' && is_mounted(dir))
		return strdup(dir);
	path = resolve_parent(dir);
	if (path && is_mounted(path))
		return path;
	free(path);
	path = realpath(dir, NULL);
	if (!path) {
		int saved = errno;

		(void)cv_fail(err, saved, "'%s': %s", dir, cv_strerror(saved));
		errno = saved;
	}
	return path;
}
