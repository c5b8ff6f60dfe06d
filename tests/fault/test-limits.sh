#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 400
# Many volumes, many mounts at once, storms of mounting and unmounting, no descriptors left, a wall clock
# that jumps: nothing leaks, no volume is lost. FAULT_SCALE=25 makes the storm 10,000 cycles long.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || bail_skip "no python3"
fault_seed
ID=$(printf 'a%.0s' {1..64})
MANY=1000
AT_ONCE=200
CYCLES=$((400 * FAULT_SCALE))

fds() {
	find "/proc/$CVOL_PID/fd" -mindepth 1 2>/dev/null | wc -l
}
threads() {
	find "/proc/$CVOL_PID/task" -mindepth 1 -maxdepth 1 | wc -l
}
rss_kb() { # PID…
	local pid
	for pid in "$@"; do
		cat "/proc/$pid/smaps_rollup" 2>/dev/null
	done | awk '/^Pss:/ { sum += $2 } END { print sum + 0 }'
}
volume_count() {
	raw List '{}' | jq '.Volumes | length'
}
timed() { # WHAT COMMAND…
	local what=$1 start
	shift
	start=$(now_ms)
	"$@" >/dev/null
	note "$what: $(($(now_ms) - start)) ms"
}
figures() { # WHAT
	local line
	while read -r line; do
		note "$1: $line"
	done <<<"$OUT"
}

start_cvol
start_engine nfs
mkdir -p "$NFS_ROOT/data"
for ((i = 0; i < AT_ONCE; i++)); do
	printf '{"Name":"v%d","Opts":{"source":"nfs://127.0.0.1%s/data","mountport":"%d","mount_timeout":"100s"}}\n' \
		"$i" "$NFS_EXPORT" "$MNT_PORT"
done >"$T/tmp/bodies"
for ((i = 0; i < MANY - AT_ONCE; i++)); do
	printf '{"Name":"other%d"}\n' "$i"
done >>"$T/tmp/bodies"
create_all() {
	sed -e 's/["\\]/\\&/g' -e 's|.*|next\nurl = "http://plugin/VolumeDriver.Create"\nunix-socket = "'"$PLUGIN_SOCK"'"\noutput = /dev/null\ndata = "&"|' \
		"$T/tmp/bodies" | sed 1d >"$T/tmp/curl"
	timeout 120 curl -s -K "$T/tmp/curl"
}
timed "$MANY volumes created" create_all
check_equal "$MANY volumes" "$MANY" "$(volume_count)"
timed "$MANY volumes listed" raw List '{}'
stop_cvol
timed "$MANY volumes: a restart until the first answer" start_cvol
check_equal "$MANY volumes after a restart" "$MANY" "$(volume_count)"
check "$MANY volumes: cvol status" timeout 10 "$CVOL" status --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR"

# ---- a storm: volumes mounted and unmounted over and over by eight
storm() { # CYCLES
	"$LIB_DIR/tools/api-load" "$PLUGIN_SOCK" v 16 $(($1 / 16)) 8
}
# Threads that answer come and go, and each of the allocator's arenas keeps what it once needed.
LIMIT=300 check "a first storm, after which memory counts" storm 320
wait_nothing_left 20
fds_before=$(fds)
threads_before=$(threads)
rss_before=$(rss_kb "$CVOL_PID")
LIMIT=$((60 + CYCLES / 4)) check "$CYCLES cycles, 8 in parallel: every call is answered well" storm "$CYCLES"
figures "$CYCLES cycles"
check "the storm is over: no mount and no worker is left" wait_nothing_left 20
check "no descriptor of the daemon is left open" wait_for 10 sh -c "[ \$(ls /proc/$CVOL_PID/fd | wc -l) -le $fds_before ]"
check "no thread is left" wait_for 10 sh -c "[ \$(ls /proc/$CVOL_PID/task | wc -l) -le $threads_before ]"
rss_after=$(rss_kb "$CVOL_PID")
note "memory of the daemon: $rss_before KiB before, $rss_after KiB after"
check "its memory did not grow with it" test "$rss_after" -lt $((rss_before + 4096 + CYCLES))
check_equal "no directory is left" "" "$(ls "$RUN_DIR/mnt")"
check_equal "no socket is left" "" "$(ls "$RUN_DIR/workers")"
check_equal "no record is left" "" "$(ls "$RUN_DIR/volumes")"
check_equal "no volume is lost" "$MANY" "$(volume_count)"

# ---- many at once
mount_all() {
	local i pids=() failed=0
	for ((i = 0; i < AT_ONCE; i++)); do
		RAW_LIMIT=110 raw_ok Mount "{\"Name\":\"v$i\",\"ID\":\"$ID\"}" >/dev/null &
		pids+=($!)
	done
	for i in "${pids[@]}"; do
		wait "$i" || failed=$((failed + 1))
	done
	[ "$failed" -eq 0 ] || echo "$failed of $AT_ONCE mounts failed"
	return "$failed"
}
start=$(now_ms)
LIMIT=150 check "$AT_ONCE mounts at once" mount_all
note "$AT_ONCE mounts at once: $(($(now_ms) - start)) ms"
check_equal "$AT_ONCE are mounted" "$AT_ONCE" "$(cvol_mounts | wc -l)"
# shellcheck disable=SC2046
note "memory of $AT_ONCE idle workers: $(rss_kb $(cvol_workers)) KiB"
echo x >"$NFS_ROOT/data/file"
check "all of them work" sh -c "cat $RUN_DIR/mnt/v*/file | grep -c x | grep -qx $AT_ONCE"
stop_cvol KILL
timed "$AT_ONCE mounts: a restart until the first answer" start_cvol
check_equal "$AT_ONCE mounts: the next daemon knows them all" "$AT_ONCE" \
	"$("$CVOL" status --json --socket "$PLUGIN_SOCK" | jq '[.Volumes[].Status | select(.mounts == 1 and .state == "ok")] | length')"
unmount_all() {
	local i
	for ((i = 0; i < AT_ONCE; i++)); do
		RAW_LIMIT=110 raw_ok Unmount "{\"Name\":\"v$i\",\"ID\":\"$ID\"}" >/dev/null &
	done
	wait
}
LIMIT=150 check "$AT_ONCE unmounts at once" unmount_all
check "nothing is left" wait_nothing_left 30

# ---- no descriptors left
prlimit --pid "$CVOL_PID" --nofile=$(($(fds) + 12)):
failed=0
mounted=0
for ((i = 0; i < 10; i++)); do
	if RAW_LIMIT=20 raw_ok Mount "{\"Name\":\"v$i\",\"ID\":\"$ID\"}" >"$T/tmp/answer"; then
		mounted=$((mounted + 1))
	else
		failed=$((failed + 1))
		why=$(cat "$T/tmp/answer")
	fi
done
note "with 12 descriptors: $mounted mounts, $failed failures"
check "out of descriptors: some mounts fail" test "$failed" -gt 0
check_match "out of descriptors: and say why" "Too many open files" "${why:-}"
check "out of descriptors: the daemon answers" raw_ok Get '{"Name":"v0"}'
ticks() {
	awk '{ print $14 + $15 }' "/proc/$CVOL_PID/stat"
}
before=$(ticks)
sleep 2
check "out of descriptors: and does not spin" test $(($(ticks) - before)) -lt 100
prlimit --pid "$CVOL_PID" --nofile=4096:
check "descriptors again: mounting works" raw_ok Mount "{\"Name\":\"v100\",\"ID\":\"$ID\"}"
raw_ok Unmount "{\"Name\":\"v100\",\"ID\":\"$ID\"}" >/dev/null
for ((i = 0; i < 10; i++)); do
	raw_ok Unmount "{\"Name\":\"v$i\",\"ID\":\"$ID\"}" >/dev/null
done
check "nothing is left" wait_nothing_left 20
stop_cvol

# ---- a wall clock that jumps
JUMP=$BUILD/tests/clock-jump.so
[ -e "$JUMP" ] || bail "$JUMP is not built"
echo 0 >"$T/jump"
cat >"$T/worker" <<-END
	#!/bin/sh
	LD_PRELOAD=$JUMP CLOCK_JUMP=$T/jump exec $BUILD/cvol-fuse "\$@"
END
chmod +x "$T/worker"
export LD_PRELOAD=$JUMP CLOCK_JUMP=$T/jump
start_cvol --worker "$T/worker"
unset LD_PRELOAD CLOCK_JUMP
p=$(raw_ok Mount "{\"Name\":\"v0\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
check "the clock: mounted" is_mounted "$p"
check "the clock: it is ours to move" grep -q clock-jump "/proc/$(cvol_workers)/maps"
work() {
	timeout 10 sh -c "echo '$1' >'$p/clock' && [ \"\$(cat '$p/clock')\" = '$1' ] && sync '$p/clock'" &&
		raw_ok Mount "{\"Name\":\"v1\",\"ID\":\"$ID\"}" && raw_ok Unmount "{\"Name\":\"v1\",\"ID\":\"$ID\"}" &&
		raw_ok Get '{"Name":"v0"}'
}
for jump in 86400 -86400 31536000 -31536000 0; do
	echo "$jump" >"$T/jump"
	check "the clock jumps by $jump s: everything works" work "$jump"
	check "the clock jumps by $jump s: housekeeping does" "$CVOL" gc --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR"
done
check "the clock: Unmount" raw_ok Unmount "{\"Name\":\"v0\",\"ID\":\"$ID\"}"
start=$(now_ms)
echo -86400 >"$T/jump"
stop_cvol
check "the clock: stopping does not wait for yesterday" test $(($(now_ms) - start)) -lt 10000
check "nothing is left" wait_nothing_left 20
finish
