/* SPDX-License-Identifier: Apache-2.0 */
/* The registry and its counting of mount IDs, with a mounter that mounts nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/cleanup.h"
#include "config/options.h"
#include "config/str.h"
#include "plugin/volumes.h"

struct cv_worker {
	unsigned refs;
	bool alive;
	int pid;
};

/* What the fake mounter is told to do, and what it has seen. */
static struct {
	pthread_mutex_t lock;
	int mount_result, sync_result;
	unsigned mount_delay_ms, mounts, probes, upgrades, syncs, unmounts, living;
	unsigned fail_until; /* mount number from which mount_result counts no more; 0: never */
	bool adopt_fails, mounted, in_use, made;
	struct cv_worker *last;
	struct cv_volumes *tick_in_sync; /* housekeeping comes while data is being stored */
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct cv_worker *worker_new(int pid)
{
	struct cv_worker *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->refs = 1;
	w->alive = true;
	w->pid = pid;
	fake.living++;
	fake.last = w;
	return w;
}

static int fake_mount(void *ctx, const struct cv_mount_spec *spec, struct cv_worker **ret,
		      struct cv_err *err)
{
	struct timespec delay = { .tv_sec = fake.mount_delay_ms / 1000,
				  .tv_nsec = (long)(fake.mount_delay_ms % 1000) * 1000000 };

	(void)ctx;
	(void)nanosleep(&delay, NULL);
	(void)pthread_mutex_lock(&fake.lock);
	fake.mounts++;
	(void)pthread_mutex_unlock(&fake.lock);
	if (fake.mount_result && (!fake.fail_until || fake.mounts < fake.fail_until))
		return cv_fail(err, fake.mount_result, "%s did not work", spec->volume);
	*ret = worker_new(1000 + (int)fake.mounts);
	fake.mounted = true;
	return 0;
}

static int fake_adopt(void *ctx, const struct cv_record *record, const struct cv_dict *options,
		      const char *socket_name, struct cv_worker **ret, struct cv_err *err)
{
	(void)ctx;
	(void)options;
	(void)socket_name;
	if (fake.adopt_fails)
		return cv_fail(err, ESRCH, "its worker is gone");
	*ret = worker_new(record->worker);
	fake.mounted = true;
	return 0;
}

static int fake_upgrade(struct cv_worker *w, const struct cv_dict *options, struct cv_err *err)
{
	(void)options;
	(void)err;
	assert_true(w->refs > 0);
	fake.upgrades++;
	return 0;
}

static int fake_sync(struct cv_worker *w, unsigned timeout_ms, struct cv_err *err)
{
	assert_true(w->refs > 0);
	assert_true(timeout_ms <= 50000);
	(void)pthread_mutex_lock(&fake.lock);
	fake.syncs++;
	(void)pthread_mutex_unlock(&fake.lock);
	if (fake.tick_in_sync) {
		struct cv_volumes *vs = cv_steal(&fake.tick_in_sync);

		cv_volumes_tick(vs);
		assert_int_equal(fake.unmounts, 0);
	}
	return fake.sync_result ? cv_fail(err, fake.sync_result, "3 bytes are missing") : 0;
}

static int fake_probe(void *ctx, const struct cv_mount_spec *spec, struct cv_err *err)
{
	(void)ctx;
	assert_null(cv_dict_get(spec->options, "subdir"));
	fake.probes++;
	return fake.mount_result ? cv_fail(err, fake.mount_result, "no such server") : 0;
}

static void fake_unref(struct cv_worker *w)
{
	(void)pthread_mutex_lock(&fake.lock);
	if (--w->refs == 0) {
		fake.living--;
		free(w);
	}
	(void)pthread_mutex_unlock(&fake.lock);
}

static struct cv_worker *fake_ref(struct cv_worker *w)
{
	(void)pthread_mutex_lock(&fake.lock);
	w->refs++;
	(void)pthread_mutex_unlock(&fake.lock);
	return w;
}

static int fake_unmount(struct cv_worker *w, struct cv_err *err)
{
	(void)err;
	fake.unmounts++;
	fake.mounted = false;
	fake_unref(w);
	return 0;
}

static void fake_info(struct cv_worker *w, struct cv_worker_info *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->alive = w->alive;
	ret->pid = w->pid;
	ret->start = 7;
	ret->dev = 9;
	ret->made_subdir = fake.made;
	(void)strcpy(ret->server, "server.example");
}

static int fake_prepare(const char *mountpoint, struct cv_err *err)
{
	(void)err;
	assert_true(*mountpoint == '/');
	return 0;
}

static int fake_detach(const char *mountpoint)
{
	(void)mountpoint;
	return 0;
}

static void fake_remove(const char *mountpoint)
{
	(void)mountpoint;
}

static bool fake_is_mounted(const char *mountpoint, uint64_t dev)
{
	(void)mountpoint;
	return fake.mounted && dev == 9;
}

static bool fake_in_use(const char *mountpoint, uint64_t dev)
{
	(void)mountpoint;
	assert_int_equal(dev, 9);
	return fake.in_use;
}

static const struct cv_mounter fake_mounter = {
	.mount = fake_mount,
	.probe = fake_probe,
	.upgrade = fake_upgrade,
	.adopt = fake_adopt,
	.sync = fake_sync,
	.unmount = fake_unmount,
	.info = fake_info,
	.ref = fake_ref,
	.unref = fake_unref,
	.prepare = fake_prepare,
	.detach = fake_detach,
	.remove = fake_remove,
	.is_mounted = fake_is_mounted,
	.in_use = fake_in_use,
};

struct fixture {
	char dir[64];
	char state_dir[80];
	char run_dir[80];
	char config_dir[80];
	struct cv_volumes *vs;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void open_registry(struct fixture *f)
{
	struct cv_volumes_config config = { .state_dir = f->state_dir,
					    .run_dir = f->run_dir,
					    .config_dir = f->config_dir,
					    .mounter = &fake_mounter };
	struct cv_err err = { 0 };

	if (cv_volumes_new(&config, &f->vs, &err) != 0)
		fail_msg("%s", err.text);
}

static void reopen(struct fixture *f)
{
	cv_volumes_free(f->vs);
	open_registry(f);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	fake.mount_result = fake.sync_result = 0;
	fake.mount_delay_ms = fake.mounts = fake.syncs = fake.unmounts = fake.fail_until = 0;
	fake.adopt_fails = fake.mounted = fake.in_use = fake.made = false;
	fake.probes = fake.upgrades = 0;
	(void)strcpy(f->dir, "/tmp/cvol-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->state_dir, sizeof(f->state_dir), "%s/state", f->dir);
	(void)snprintf(f->run_dir, sizeof(f->run_dir), "%s/run", f->dir);
	(void)snprintf(f->config_dir, sizeof(f->config_dir), "%s/etc", f->dir);
	open_registry(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	cv_volumes_free(f->vs);
	assert_int_equal(fake.living, 0); /* every reference was given back */
	assert_int_equal(nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
	free(f);
	return 0;
}

static void create(struct fixture *f, const char *name)
{
	struct cv_dict none = CV_DICT_INIT;
	struct cv_err err = { 0 };

	if (cv_volumes_create(f->vs, name, &none, &err) != 0)
		fail_msg("%s", err.text);
}

static int mount_id(struct fixture *f, const char *name, const char *id, struct cv_err *err)
{
	char *path = NULL;
	int r = cv_volumes_mount(f->vs, name, id, &path, err);

	assert_true((r == 0) == (path != NULL));
	if (path)
		assert_true(*path == '/');
	free(path);
	return r;
}

/* State and number of references. */
static void expect(struct fixture *f, const char *name, const char *wanted, unsigned mounts)
{
	struct cv_view v = { 0 };
	struct cv_err err = { 0 };

	assert_int_equal(cv_volumes_get(f->vs, name, &v, &err), 0);
	assert_string_equal(cv_volume_state_name(v.state), wanted);
	assert_int_equal(v.mounts, mounts);
	assert_true(*v.mountpoint == '/');
	cv_view_release(&v);
}

static void test_one_id_twice_is_two_users(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	expect(f, "v", "idle", 0);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(mount_id(f, "v", "b", NULL), 0);
	expect(f, "v", "ok", 3);
	assert_int_equal(fake.mounts, 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "b", NULL), 0);
	expect(f, "v", "ok", 1);
	assert_int_equal(fake.syncs, 2); /* each Unmount stores what was written */
	assert_int_equal(fake.unmounts, 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	expect(f, "v", "idle", 0);
	assert_int_equal(fake.unmounts, 1);
}

static void test_unknown_ids_and_names_unmount_well(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(cv_volumes_unmount(f->vs, "nobody", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "other", NULL), 0);
	expect(f, "v", "ok", 1);
	assert_int_equal(mount_id(f, "nobody", "a", NULL), -ENOENT);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
}

static void test_failed_mount_leaves_no_reference(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };

	create(f, "v");
	fake.mount_result = EHOSTUNREACH;
	assert_int_equal(mount_id(f, "v", "a", &err), -EHOSTUNREACH);
	assert_non_null(strstr(err.text, "volume 'v'"));
	expect(f, "v", "idle", 0);
	fake.mount_result = 0;
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	expect(f, "v", "ok", 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
}

/* What never worked fails at once (above); what has worked is given its time. */
static void test_what_has_worked_is_tried_again(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	fake.mount_result = EACCES; /* time does not help */
	assert_int_equal(mount_id(f, "v", "a", &err), -EACCES);
	assert_int_equal(fake.mounts, 2);
	expect(f, "v", "idle", 0);
	fake.mount_result = ECONNREFUSED;
	fake.fail_until = 4;
	assert_int_equal(mount_id(f, "v", "a", &err), 0);
	assert_int_equal(fake.mounts, 4);
	expect(f, "v", "ok", 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
}

static void test_waiting_is_said_and_ends_with_the_volume(void **state)
{
	struct fixture *f = *state;
	struct cv_dict o = CV_DICT_INIT;
	struct cv_view v = { 0 };

	assert_int_equal(cv_dict_set(&o, "mount_timeout", "1s"), 0);
	assert_int_equal(cv_volumes_create(f->vs, "v", &o, NULL), 0);
	cv_dict_release(&o);
	create(f, "other"); /* and with the registry */
	for (int i = 0; i < 2; i++) {
		const char *name = i ? "other" : "v";

		fake.mount_result = ENETUNREACH;
		assert_int_equal(mount_id(f, name, CV_PODMAN_ID, NULL), -ENETUNREACH);
		expect(f, name, "waiting", 0);
	}
	assert_int_equal(cv_volumes_get(f->vs, "v", &v, NULL), 0);
	assert_non_null(strstr(v.error, "did not work"));
	assert_non_null(strstr(v.error, "trying again for another"));
	cv_view_release(&v);
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, NULL), 0);
	fake.mount_result = 0;
	assert_int_equal(mount_id(f, "other", "a", NULL), 0);
	expect(f, "other", "ok", 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "other", "a", NULL), 0);
	expect(f, "other", "idle", 0);
	fake.mount_result = EPIPE;
	assert_int_equal(mount_id(f, "other", CV_PODMAN_ID, NULL), -EPIPE);
	expect(f, "other", "waiting", 0);
}

static void *mount_thread(void *arg)
{
	return (void *)(intptr_t)mount_id(arg, "v", "same", NULL);
}

static void run_together(struct fixture *f, int expected)
{
	pthread_t threads[8];

	for (size_t i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, mount_thread, f), 0);
	for (size_t i = 0; i < 8; i++) {
		void *result;

		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_int_equal((int)(intptr_t)result, expected);
	}
}

static void test_mounts_at_once_share_one_attempt(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	fake.mount_delay_ms = 300;
	fake.mount_result = EACCES;
	run_together(f, -EACCES);
	assert_int_equal(fake.mounts, 1);
	fake.mount_result = 0;
	run_together(f, 0);
	assert_int_equal(fake.mounts, 2);
	expect(f, "v", "ok", 8);
	for (int i = 0; i < 8; i++)
		assert_int_equal(cv_volumes_unmount(f->vs, "v", "same", NULL), 0);
	expect(f, "v", "idle", 0);
}

static void test_get_and_list_do_not_wait_for_a_mount(void **state)
{
	struct fixture *f = *state;
	struct cv_view *views = NULL;
	struct cv_listed *list;
	size_t count = 0;
	struct timespec a, b;
	struct timespec moment = { .tv_nsec = 100000000 };
	pthread_t thread;

	create(f, "v");
	fake.mount_delay_ms = 800;
	assert_int_equal(pthread_create(&thread, NULL, mount_thread, f), 0);
	(void)nanosleep(&moment, NULL);
	(void)clock_gettime(CLOCK_MONOTONIC, &a);
	expect(f, "v", "connecting", 0);
	assert_int_equal(cv_volumes_views(f->vs, &views, &count, NULL), 0);
	assert_int_equal(count, 1);
	assert_int_equal(cv_volumes_list(f->vs, &list, &count, NULL), 0);
	(void)clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < 50);
	assert_int_equal(count, 1);
	assert_string_equal(list[0].name, "v");
	cv_views_free(views, count);
	cv_listed_free(list, count);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "same", NULL), 0);
}

static void test_unstored_data_keeps_the_mount(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	fake.sync_result = ETIMEDOUT;
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "volume 'v'"));
	assert_non_null(strstr(err.text, "server.example"));
	assert_non_null(strstr(err.text, "3 bytes are missing"));
	expect(f, "v", "draining", 0);
	assert_int_equal(fake.unmounts, 0);
	cv_volumes_tick(f->vs);
	expect(f, "v", "draining", 0);
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, &err), -ETIMEDOUT);
	/* A new user gets the same mount. */
	assert_int_equal(mount_id(f, "v", "b", NULL), 0);
	assert_int_equal(fake.mounts, 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "b", &err), -ETIMEDOUT);
	fake.sync_result = 0;
	cv_volumes_tick(f->vs);
	expect(f, "v", "idle", 0);
	assert_int_equal(fake.unmounts, 1);
}

static void test_housekeeping_does_not_end_a_mount_under_an_unmount(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	fake.tick_in_sync = f->vs;
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	assert_null(fake.tick_in_sync);
	assert_int_equal(fake.unmounts, 1);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "unknown", NULL), 0);
	expect(f, "v", "ok", 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	expect(f, "v", "idle", 0);
}

static void test_dead_worker_is_replaced_at_next_mount(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	fake.last->alive = false;
	expect(f, "v", "failed", 1);
	assert_int_equal(mount_id(f, "v", "b", NULL), 0);
	assert_int_equal(fake.mounts, 2);
	expect(f, "v", "ok", 2);
	fake.mounted = false; /* somebody used umount(8) */
	assert_int_equal(mount_id(f, "v", "c", NULL), 0);
	assert_int_equal(fake.mounts, 3);
	expect(f, "v", "ok", 3);
}

static void test_remove_is_refused_while_mounted(void **state)
{
	struct fixture *f = *state;
	struct cv_view v = { 0 };

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, NULL), -EBUSY);
	expect(f, "v", "ok", 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, NULL), 0);
	assert_int_equal(cv_volumes_get(f->vs, "v", &v, NULL), -ENOENT);
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, NULL), -ENOENT);
	reopen(f);
	assert_int_equal(cv_volumes_get(f->vs, "v", &v, NULL), -ENOENT);
}

static void test_dockerd_may_remove_what_leaked(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	fake.in_use = true; /* a container is there, whatever dockerd thinks */
	assert_int_equal(cv_volumes_remove(f->vs, "v", true, NULL), -EBUSY);
	expect(f, "v", "ok", 1);
	fake.in_use = false;
	assert_int_equal(cv_volumes_remove(f->vs, "v", true, NULL), 0);
	assert_int_equal(fake.unmounts, 1);
	assert_int_equal(fake.syncs, 1);
}

static void tick(struct fixture *f, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		cv_volumes_tick(f->vs);
}

static void test_epochs_are_counted_apart(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	cv_volumes_new_epoch(f->vs);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0); /* docker cp */
	expect(f, "v", "ok", 3);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	reopen(f); /* epochs survive */
	expect(f, "v", "ok", 1);
	/* With live-restore the old container still runs, and is released at last. */
	fake.in_use = true;
	tick(f, 20);
	expect(f, "v", "ok", 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	expect(f, "v", "idle", 0);
}

static void test_what_an_earlier_dockerd_left_is_forgotten(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "gone", NULL), 0);
	tick(f, 20);
	expect(f, "v", "ok", 1); /* it is today's: never forgotten */
	cv_volumes_new_epoch(f->vs);
	assert_int_equal(mount_id(f, "v", "b", NULL), 0);
	tick(f, 20);
	expect(f, "v", "ok", 2);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "b", NULL), 0);
	tick(f, 3);
	expect(f, "v", "ok", 1); /* not in a hurry */
	fake.in_use = true;
	tick(f, 1);
	fake.in_use = false;
	tick(f, 5);
	expect(f, "v", "ok", 1);
	tick(f, 1);
	expect(f, "v", "idle", 0);
	assert_int_equal(fake.unmounts, 1);
}

/* The line in what gc found, which it must have found alone; NULL: it found nothing. */
static void expect_gc(struct fixture *f, bool dry_run, const char *wanted)
{
	struct cv_findings found = { 0 };
	struct cv_err err = { 0 };

	assert_int_equal(cv_volumes_gc(f->vs, dry_run, &found, &err), 0);
	assert_int_equal(found.count, wanted ? 1 : 0);
	if (wanted)
		assert_non_null(strstr(found.lines[0], wanted));
	cv_findings_release(&found);
}

static void test_gc_forgets_counts_without_users_at_once(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	expect_gc(f, false, NULL); /* today's dockerd will release it */
	cv_volumes_new_epoch(f->vs);
	fake.in_use = true; /* live-restore */
	expect_gc(f, false, NULL);
	expect(f, "v", "ok", 1);
	fake.in_use = false;
	expect_gc(f, true, "would be forgotten");
	expect(f, "v", "ok", 1);
	expect_gc(f, false, "earlier dockerd");
	expect(f, "v", "idle", 0);
	assert_int_equal(fake.syncs, 1);
	assert_int_equal(fake.unmounts, 1);
	expect_gc(f, false, NULL);
}

static void test_gc_keeps_unstored_data(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	cv_volumes_new_epoch(f->vs);
	fake.sync_result = ETIMEDOUT;
	expect_gc(f, false, "forgotten");
	expect(f, "v", "draining", 0);
	assert_int_equal(fake.unmounts, 0);
	fake.sync_result = 0;
	tick(f, 1);
	expect(f, "v", "idle", 0);
}

static void test_gc_clears_a_dead_mount_and_keeps_its_users(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	fake.last->alive = false;
	expect_gc(f, true, "would be detached");
	assert_int_equal(fake.unmounts, 0);
	expect_gc(f, false, "dead mount");
	assert_int_equal(fake.unmounts, 1);
	expect(f, "v", "failed", 1);
	assert_int_equal(mount_id(f, "v", "b", NULL), 0);
	expect(f, "v", "ok", 2);
}

static void test_gc_removes_what_is_empty_only(void **state)
{
	struct fixture *f = *state;
	char empty[128], full[128], inner[160], record[128];
	FILE *file;

	(void)snprintf(empty, sizeof(empty), "%s/mnt/empty", f->run_dir);
	(void)snprintf(full, sizeof(full), "%s/mnt/full", f->run_dir);
	(void)snprintf(inner, sizeof(inner), "%s/data", full);
	(void)snprintf(record, sizeof(record), "%s/volumes/gone.json", f->run_dir);
	assert_int_equal(mkdir(full, 0700), 0);
	assert_int_equal(mkdir(inner, 0700), 0);
	expect_gc(f, false, "not removed");
	assert_int_equal(access(inner, F_OK), 0);
	assert_int_equal(rmdir(inner), 0);
	expect_gc(f, true, "would be removed");
	expect_gc(f, false, "leftover directory");
	assert_int_equal(mkdir(empty, 0), 0);
	reopen(f); /* the same at start */
	assert_int_equal(access(empty, F_OK), -1);
	file = fopen(record, "w");
	assert_non_null(file);
	assert_int_equal(fclose(file), 0);
	expect_gc(f, false, "gone.json");
	assert_int_equal(access(record, F_OK), -1);
}

static void test_holders_are_shown(void **state)
{
	struct fixture *f = *state;
	struct cv_view v = { 0 };

	create(f, "v");
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	cv_volumes_new_epoch(f->vs);
	assert_int_equal(mount_id(f, "v", "b", NULL), 0);
	assert_int_equal(cv_volumes_get(f->vs, "v", &v, NULL), 0);
	assert_int_equal(v.holder_count, 2);
	assert_string_equal(v.holders[0].id, "a");
	assert_int_equal(v.holders[0].mounts, 2);
	assert_true(v.holders[0].stale);
	assert_string_equal(v.holders[1].id, "b");
	assert_false(v.holders[1].stale);
	cv_view_release(&v);
}

static void test_podman_has_no_epochs(void **state)
{
	struct fixture *f = *state;

	create(f, "v");
	assert_int_equal(mount_id(f, "v", CV_PODMAN_ID, NULL), 0);
	cv_volumes_new_epoch(f->vs);
	assert_int_equal(mount_id(f, "v", CV_PODMAN_ID, NULL), 0);
	tick(f, 20);
	expect(f, "v", "ok", 2);
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, NULL), -EBUSY);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", CV_PODMAN_ID, NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", CV_PODMAN_ID, NULL), 0);
	expect(f, "v", "idle", 0);
}

static void test_restart_adopts(void **state)
{
	struct fixture *f = *state;
	struct cv_view v = { 0 };

	create(f, "a b/\xc3\xbc");
	assert_int_equal(mount_id(f, "a b/\xc3\xbc", "x", NULL), 0);
	assert_int_equal(mount_id(f, "a b/\xc3\xbc", "x", NULL), 0);
	reopen(f);
	expect(f, "a b/\xc3\xbc", "ok", 2);
	assert_int_equal(cv_volumes_get(f->vs, "a b/\xc3\xbc", &v, NULL), 0);
	assert_int_equal(v.worker, 1001);
	cv_view_release(&v);
	assert_int_equal(fake.mounts, 1);
	assert_int_equal(cv_volumes_unmount(f->vs, "a b/\xc3\xbc", "x", NULL), 0);
	fake.adopt_fails = true;
	fake.mounted = false;
	reopen(f);
	expect(f, "a b/\xc3\xbc", "failed", 1);
	assert_int_equal(mount_id(f, "a b/\xc3\xbc", "y", NULL), 0);
	expect(f, "a b/\xc3\xbc", "ok", 2);
	assert_int_equal(fake.mounts, 2);
}

static void test_create_again(void **state)
{
	struct fixture *f = *state;
	struct cv_dict o = CV_DICT_INIT;
	struct cv_err err = { 0 };

	assert_int_equal(cv_dict_set(&o, "source", "sftp://u@h/data"), 0);
	assert_int_equal(cv_dict_set(&o, "password", "s3cret"), 0);
	assert_int_equal(cv_volumes_create(f->vs, "v", &o, &err), 0);
	assert_int_equal(cv_volumes_create(f->vs, "v", &o, &err), 0);
	reopen(f);
	assert_int_equal(cv_volumes_create(f->vs, "v", &o, &err), 0);
	assert_int_equal(cv_dict_set(&o, "password", "0ther"), 0);
	assert_int_equal(cv_dict_set(&o, "readonly", "true"), 0);
	assert_int_equal(cv_volumes_create(f->vs, "v", &o, &err), -EEXIST);
	assert_non_null(strstr(err.text, "password"));
	assert_non_null(strstr(err.text, "readonly"));
	assert_null(strstr(err.text, "s3cret"));
	assert_null(strstr(err.text, "0ther"));
	cv_dict_release(&o);
	assert_int_equal(cv_dict_set(&o, "bogus", "1"), 0);
	assert_int_equal(cv_volumes_create(f->vs, "w", &o, &err), -EINVAL);
	assert_non_null(strstr(err.text, "bogus"));
	cv_dict_release(&o);
	assert_int_equal(cv_volumes_create(f->vs, "../w", &o, &err), -EINVAL);
}

static void test_one_bad_file_hurts_one_volume(void **state)
{
	struct fixture *f = *state;
	struct cv_dict none = CV_DICT_INIT;
	struct cv_view v = { 0 };
	struct cv_err err = { 0 };
	char path[128];
	FILE *file;

	create(f, "good");
	create(f, "bad one");
	(void)snprintf(path, sizeof(path), "%s/volumes/bad%%20one.json", f->state_dir);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs("{\"version\":9}", file) >= 0);
	assert_int_equal(fclose(file), 0);
	reopen(f);
	expect(f, "good", "idle", 0);
	expect(f, "bad one", "broken", 0);
	assert_int_equal(cv_volumes_get(f->vs, "bad one", &v, &err), 0);
	assert_non_null(strstr(v.error, "newer"));
	cv_view_release(&v);
	assert_int_equal(mount_id(f, "bad one", "a", &err), -EIO);
	assert_non_null(strstr(err.text, "newer"));
	assert_int_equal(cv_volumes_create(f->vs, "bad one", &none, &err), -EEXIST);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(cv_volumes_remove(f->vs, "bad one", false, &err), 0);
	assert_int_equal(access(path, F_OK), -1); /* moved aside, see test_state.c */
	create(f, "bad one");
	expect(f, "bad one", "idle", 0);
}

static void test_unwritable_state_creates_nothing(void **state)
{
	struct fixture *f = *state;
	struct cv_dict o = CV_DICT_INIT;
	struct cv_view v = { 0 };
	struct cv_err err = { 0 };
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/volumes", f->state_dir);
	assert_int_equal(rmdir(path), 0); /* stops root as well */
	assert_int_equal(cv_dict_set(&o, "source", "sftp://u@h/data"), 0);
	assert_int_equal(cv_dict_set(&o, "password", "s3cret"), 0);
	assert_int_equal(cv_volumes_create(f->vs, "v", &o, &err), -ENOENT);
	assert_non_null(strstr(err.text, "not created"));
	assert_int_equal(cv_volumes_get(f->vs, "v", &v, NULL), -ENOENT);
	(void)snprintf(path, sizeof(path), "%s/secrets/v.password", f->state_dir);
	assert_int_equal(access(path, F_OK), -1);
	cv_dict_release(&o);
}

static void test_default_volume_makes_its_directory_when_mounted(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	char path[128];

	create(f, "v");
	(void)snprintf(path, sizeof(path), "%s/data/v", f->state_dir);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, NULL), 0);
	assert_int_equal(access(path, F_OK), 0); /* data is kept */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* ---- options, remotes, archives ---- */

static void write_config(const struct fixture *f, const char *name, const char *text)
{
	char path[160];
	FILE *file;

	(void)snprintf(path, sizeof(path), "%s/remotes.d", f->config_dir);
	(void)mkdir(f->config_dir, 0755);
	(void)mkdir(path, 0755);
	(void)snprintf(path, sizeof(path), "%s/%s", f->config_dir, name);
	file = fopen(path, "we");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static int create_with(struct fixture *f, const char *name, const char *text, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict opts = CV_DICT_INIT;

	assert_int_equal(cv_options_split(text, &opts, err), 0);
	return cv_volumes_create(f->vs, name, &opts, err);
}

static int update(struct fixture *f, const char *name, const char *text, const char *unset,
		  const char *said, struct cv_err *err)
{
	cv_cleanup_dict struct cv_dict opts = CV_DICT_INIT;
	char *answer = NULL;
	int r;

	assert_int_equal(cv_options_split(text, &opts, err), 0);
	r = cv_volumes_update(f->vs, name, &opts, unset, &answer, err);
	if (r == 0 && !strstr(answer, said))
		fail_msg("'%s' lacks '%s'", answer, said);
	free(answer);
	return r;
}

static void expect_option(struct fixture *f, const char *name, const char *key, const char *value)
{
	struct cv_view v = { 0 };

	assert_int_equal(cv_volumes_get(f->vs, name, &v, NULL), 0);
	if (!cv_str_eq(cv_dict_get(&v.options, key), value))
		fail_msg("%s: %s is not %s", name, key, value ? value : "absent");
	cv_view_release(&v);
}

static void expect_source(struct fixture *f, const char *name, const char *source)
{
	struct cv_view v = { 0 };

	assert_int_equal(cv_volumes_get(f->vs, name, &v, NULL), 0);
	assert_string_equal(v.source, source);
	cv_view_release(&v);
}

static void test_default_remote(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };

	create(f, "before");
	write_config(f, "remotes.d/nas.json", "{ \"source\": \"nas:/export\" }");
	write_config(f, "cvol.json", "{ \"default_remote\": \"nas\" }");
	create(f, "v");
	expect_option(f, "v", "remote", "nas");
	expect_option(f, "v", "subdir", "${name}");
	expect_source(f, "v", "nfs://nas/export");
	/* what was there before stays where it is, and is the same when created again */
	create(f, "before");
	create(f, "v");
	expect_option(f, "before", "type", "dir");
	/* a remote may move; state names it only */
	write_config(f, "remotes.d/nas.json", "{ \"source\": \"nas2:/export\" }");
	reopen(f);
	expect_source(f, "v", "nfs://nas2/export");
	assert_int_equal(create_with(f, "x", "remote=none", &err), -ENOENT);
	assert_non_null(strstr(err.text, "no remote 'none'"));
	/* without it, a volume is still there, and says why it cannot be mounted */
	write_config(f, "remotes.d/nas.json", "{");
	reopen(f);
	expect_source(f, "v", "nas:${name}");
	assert_true(mount_id(f, "v", "a", &err) < 0);
	assert_non_null(strstr(err.text, "nas.json"));
}

static void test_update(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };

	assert_int_equal(create_with(f, "v", "source=u@h:/x,password=one,uid=5", &err), 0);
	assert_int_equal(update(f, "v", "timeout=3,on_delete=archive", "uid", "timeout", &err), 0);
	expect_option(f, "v", "timeout", "3000ms");
	expect_option(f, "v", "uid", NULL);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(update(f, "v", "readonly=true,on_delete=retain", NULL,
				"changed now: on_delete; changed from the next mount on", &err),
			 0);
	assert_int_equal(fake.upgrades, 0);
	/* what a successor of the worker can do, if the server takes it */
	assert_int_equal(update(f, "v", "cache=strict", NULL, "changed now: cache", &err), 0);
	assert_int_equal(fake.upgrades, 1);
	assert_int_equal(update(f, "v", "cache=strict", NULL, "nothing", &err), 0);
	assert_int_equal(update(f, "v", "password=two", NULL, "changed now: a secret", &err), 0);
	assert_int_equal(fake.upgrades, 2);
	fake.mount_result = EHOSTUNREACH;
	assert_int_equal(update(f, "v", "timeout=9", NULL, "timeout (not now: ", &err), 0);
	assert_int_equal(fake.upgrades, 2);
	fake.mount_result = 0;
	/* refused as a whole */
	assert_int_equal(update(f, "v", "cache=relaxed,rsize=1M", NULL, "", &err), -EINVAL);
	assert_non_null(strstr(err.text, "is as it was"));
	expect_option(f, "v", "cache", "strict");
	assert_int_equal(update(f, "v", "", "nonsense", "", &err), -EINVAL);
	assert_int_equal(update(f, "nobody", "uid=1", NULL, "", &err), -ENOENT);
	assert_int_equal(update(f, "v", "source=nas:/y", "password,timeout", "host", &err), -EBUSY);
	assert_non_null(strstr(err.text, "while it is mounted"));
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	assert_int_equal(update(f, "v", "source=nas:/y", "password,timeout", "host", &err), 0);
	expect_option(f, "v", "type", "nfs");
	expect_option(f, "v", "password_file", NULL);
	reopen(f);
	expect_source(f, "v", "nfs://nas/y");
	expect_option(f, "v", "cache", "strict");
	/* the same Create as at first is a different one now */
	assert_int_equal(create_with(f, "v", "source=u@h:/x,uid=5", &err), -EEXIST);
	assert_non_null(strstr(err.text, "host is 'nas', not 'h'"));
}

static void test_check(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };

	assert_int_equal(create_with(f, "v", "source=h:/x,subdir=a,check=true", &err), 0);
	assert_int_equal(fake.probes, 1);
	expect_option(f, "v", "check", NULL);
	fake.mount_result = EHOSTUNREACH;
	assert_true(create_with(f, "w", "source=u@h:/x,password=abc,check=true", &err) < 0);
	assert_non_null(strstr(err.text, "no such server"));
	assert_true(cv_volumes_get(f->vs, "w", NULL, &err) < 0);
	assert_int_equal(create_with(f, "w", "source=h:/x,check=false", &err), 0);
	assert_int_equal(fake.probes, 2);
}

/* The fake mounter mounts nothing, so what it "mounts" can be prepared. */
static void make_dirs(const struct fixture *f, const char *volume, const char *below)
{
	char path[200];

	(void)snprintf(path, sizeof(path), "%s/mnt/%s", f->run_dir, volume);
	(void)mkdir(path, 0755);
	(void)snprintf(path, sizeof(path), "%s/mnt/%s/%s", f->run_dir, volume, below);
	assert_int_equal(mkdir(path, 0755), 0);
}

/* What is below the volume's mountpoint; one entry at most. */
static void expect_entry(const struct fixture *f, const char *volume, const char *start)
{
	char path[200];
	struct dirent **list = NULL;
	int n;

	(void)snprintf(path, sizeof(path), "%s/mnt/%s", f->run_dir, volume);
	n = scandir(path, &list, NULL, alphasort);
	assert_int_equal(n, 3); /* with "." and ".." */
	if (!cv_str_starts(list[2]->d_name, start))
		fail_msg("'%s' is no %s…", list[2]->d_name, start);
	while (n > 0)
		free(list[--n]);
	free(list);
}

static void test_archive(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };
	const char *opts = "source=nas:/e,subdir=${name},on_delete=archive";

	fake.made = true;
	assert_int_equal(create_with(f, "v", opts, &err), 0);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	make_dirs(f, "v", "v");
	reopen(f); /* that it is our work is known for good */
	assert_int_equal(create_with(f, "inside", "source=nas:/e/v/deeper", &err), 0);
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, &err), -EBUSY);
	assert_non_null(strstr(err.text, "volume 'inside' uses it"));
	expect(f, "v", "idle", 0);
	assert_int_equal(cv_volumes_remove(f->vs, "inside", false, &err), 0);
	assert_int_equal(create_with(f, "beside", "source=nas:/e/vv", &err), 0);
	assert_int_equal(create_with(f, "above", "source=nas:/e", &err), 0);
	if (cv_volumes_remove(f->vs, "v", false, &err) != 0)
		fail_msg("%s", err.text);
	expect_entry(f, "v", "archived-v-2");
	assert_true(cv_volumes_get(f->vs, "v", NULL, &err) < 0);
}

static void test_only_our_own_is_archived(void **state)
{
	struct fixture *f = *state;
	struct cv_err err = { 0 };
	const char *opts = "source=nas:/e,subdir=${name},on_delete=archive";
	unsigned mounts;

	/* found there */
	assert_int_equal(create_with(f, "v", opts, &err), 0);
	assert_int_equal(mount_id(f, "v", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "v", "a", NULL), 0);
	make_dirs(f, "v", "v");
	mounts = fake.mounts;
	assert_int_equal(cv_volumes_remove(f->vs, "v", false, &err), 0);
	assert_int_equal(fake.mounts, mounts);
	expect_entry(f, "v", "v");
	/* made, but the volume has moved since */
	fake.made = true;
	assert_int_equal(create_with(f, "w", opts, &err), 0);
	assert_int_equal(mount_id(f, "w", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "w", "a", NULL), 0);
	assert_int_equal(update(f, "w", "subdir=other", NULL, "subdir", &err), 0);
	mounts = fake.mounts;
	assert_int_equal(cv_volumes_remove(f->vs, "w", false, &err), 0);
	assert_int_equal(fake.mounts, mounts);
	/* a server that is away keeps the volume */
	assert_int_equal(create_with(f, "x", opts, &err), 0);
	assert_int_equal(mount_id(f, "x", "a", NULL), 0);
	assert_int_equal(cv_volumes_unmount(f->vs, "x", "a", NULL), 0);
	fake.mount_result = EHOSTUNREACH;
	assert_true(cv_volumes_remove(f->vs, "x", false, &err) < 0);
	expect(f, "x", "idle", 0);
	assert_int_equal(update(f, "x", "on_delete=retain", NULL, "on_delete", &err), 0);
	assert_int_equal(cv_volumes_remove(f->vs, "x", false, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_one_id_twice_is_two_users),
		T(test_unknown_ids_and_names_unmount_well),
		T(test_failed_mount_leaves_no_reference),
		T(test_what_has_worked_is_tried_again),
		T(test_waiting_is_said_and_ends_with_the_volume),
		T(test_mounts_at_once_share_one_attempt),
		T(test_get_and_list_do_not_wait_for_a_mount),
		T(test_unstored_data_keeps_the_mount),
		T(test_housekeeping_does_not_end_a_mount_under_an_unmount),
		T(test_dead_worker_is_replaced_at_next_mount),
		T(test_remove_is_refused_while_mounted),
		T(test_dockerd_may_remove_what_leaked),
		T(test_epochs_are_counted_apart),
		T(test_what_an_earlier_dockerd_left_is_forgotten),
		T(test_gc_forgets_counts_without_users_at_once),
		T(test_gc_keeps_unstored_data),
		T(test_gc_clears_a_dead_mount_and_keeps_its_users),
		T(test_gc_removes_what_is_empty_only),
		T(test_holders_are_shown),
		T(test_podman_has_no_epochs),
		T(test_restart_adopts),
		T(test_create_again),
		T(test_one_bad_file_hurts_one_volume),
		T(test_unwritable_state_creates_nothing),
		T(test_default_volume_makes_its_directory_when_mounted),
		T(test_default_remote),
		T(test_update),
		T(test_check),
		T(test_archive),
		T(test_only_our_own_is_archived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
