/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/meter.h"

#include "config/cleanup.h"
#include "fuse/fs.h"

#define BUSY_MS 1000
#define IDLE_MS 5000

static void sample_connection(struct cv_meter *m, const struct cv_stats *st)
{
	struct cv_counters *c = m->counters;

	cv_counters_connected(c, st->connected);
	if (st->reconnects > m->reconnects_seen)
		cv_counters_add(&c->reconnects, st->reconnects - m->reconnects_seen);
	m->reconnects_seen = st->reconnects;
	if (st->last_error_s && st->last_error_s != m->error_seen_s)
		cv_counters_error(c, st->last_error, st->last_error_s);
	m->error_seen_s = st->last_error_s;
}

static void sample(struct cv_meter *m)
{
	struct cv_counters *c = m->counters;
	struct cv_fs *fs = m->fs;
	struct cv_stats st;
	uint64_t errors;

	cv_mount_stats(&fs->mount, &st);
	(void)cv_wb_last_error(fs->wb, &errors);
	sample_connection(m, &st);
	cv_counters_set(&c->requests, m->requests_before + fs->served);
	cv_counters_set(&c->write_errors, m->write_errors_before + errors);
	cv_counters_set(&c->waiting, fs->request_count);
	cv_counters_set(&c->pending_bytes, cv_wb_bytes(fs->wb));
	cv_counters_set(&c->nodes, fs->nodes.count);
	cv_counters_set(&c->handles, fs->opens_count);
	cv_counters_set(&c->beat_ns, cv_now_ns());
}

static void fire(struct cv_timer *timer)
{
	struct cv_meter *m = cv_container_of(timer, struct cv_meter, timer);
	uint64_t operations = cv_counters_operations(m->counters);
	bool busy = operations != m->operations || m->fs->request_count;

	m->operations = operations;
	sample(m);
	(void)cv_timer_set(m->fs->loop, timer, busy ? BUSY_MS : IDLE_MS);
}

void cv_meter_start(struct cv_meter *m, struct cv_fs *fs)
{
	struct cv_counters *c = cv_counters_attach(fs->shm.base + CV_COUNTERS_OFFSET);

	m->fs = fs;
	m->counters = c;
	m->requests_before = c->requests;
	m->write_errors_before = c->write_errors;
	m->operations = cv_counters_operations(c);
	m->timer = (struct cv_timer)CV_TIMER_INIT(fire);
	cv_counters_set(&c->rtt_us, fs->mount.info.rtt_us);
	fs->mount.counters = c;
	sample(m);
	(void)cv_timer_set(fs->loop, &m->timer, BUSY_MS);
}

void cv_meter_stop(struct cv_meter *m)
{
	if (!m->fs)
		return;
	sample(m);
	cv_timer_cancel(m->fs->loop, &m->timer);
	m->fs->mount.counters = NULL;
	m->fs = NULL;
}
