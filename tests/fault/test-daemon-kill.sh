#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# The daemon is killed at random moments, also while it starts, under a storm of Mounts and Unmounts. Whoever
# has a volume notices nothing, the next daemon always starts, and when the dust has settled nothing is left
# over. SEED=N repeats the moments; FAULT_SCALE=N makes it N times as long.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || bail_skip "no python3"
fault_seed
ID=$(printf 'a%.0s' {1..64})
VOLUMES=16
ROUNDS=$((20 * FAULT_SCALE))

start_cvol
start_engine nfs
mkdir -p "$NFS_ROOT/data"
create() { # NAME
	raw_ok Create "{\"Name\":\"$1\",\"Opts\":{\"source\":\"nfs://127.0.0.1:$NFS_PORT$NFS_EXPORT/data\",\"mountport\":\"$MNT_PORT\"}}" >/dev/null ||
		bail "create $1"
}
for ((i = 0; i < VOLUMES; i++)); do
	create "v$i"
done
create steady
p=$(raw_ok Mount "{\"Name\":\"steady\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
spawn writer sh -c 'cd "$1" && i=0; while true; do i=$((i + 1)); echo $i >>numbers || echo $i >>"$2"; sleep 0.01; done' \
	writer "$p" "$T/errors"
WRITER=$SPAWNED
steady_worker=$(cvol_workers)

# Its calls fail whenever the daemon is away, as dockerd's do.
spawn storm bash -c 'while true; do "$@"; sleep 0.1; done' storm "$LIB_DIR/tools/api-load" "$PLUGIN_SOCK" v "$VOLUMES" 1 4
STORM=$SPAWNED
calls=0
bad=0
for ((round = 0; round < ROUNDS; round++)); do
	random_sleep 1500
	stop_cvol KILL
	# Once in a while the next one does not get far either.
	if [ $((round % 4)) = 3 ]; then
		spawn cvol "$CVOL" daemon --socket "$PLUGIN_SOCK" --state-dir "$STATE_DIR" --run-dir "$RUN_DIR"
		random_sleep 120
		kill -KILL "$SPAWNED"
		wait "$SPAWNED" 2>/dev/null
	fi
	start_cvol
	known=$(raw List '{}' | jq '.Volumes | length')
	if [ "$known" != $((VOLUMES + 1)) ]; then
		bad=$((bad + 1))
		note "round $round: $known volumes are known"
	fi
done
check_equal "$ROUNDS kills: the next daemon always knows every volume" 0 "$bad"
check "the storm went on" alive "$STORM"
kill_tree "$STORM"
calls=$(sed -n 's/^Mount \([0-9]*\) .*/\1/p' "$T/log/storm.log" | awk '{ n += $1 } END { print n + 0 }')
note "$calls Mounts were asked for meanwhile"
check "with a storm of Mounts" test "$calls" -ge "$VOLUMES"
check_equal "the steady volume's worker is the same" 1 "$(cvol_workers | grep -cx "$steady_worker")"
kill_tree "$WRITER"
wait_for 5 gone "$WRITER"
check "its writer saw no error" test ! -e "$T/errors"
sync "$p/numbers"
check "and no number is missing" awk '$1 != NR { print "line " NR " is " $1; exit 1 }' "$NFS_ROOT/data/numbers"

# What the killed daemons' clients had mounted is an earlier dockerd's now.
(cd "$p" && exec sleep 600) &
holder=$!
raw Plugin.Activate >/dev/null
check "gc" "$CVOL" gc --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR"
note "gc: $(grep -c . <<<"$OUT") lines"
only_steady() {
	local files=("$RUN_DIR"/{mnt,workers,volumes}/*)
	[ "$(cvol_mounts)" = "$p" ] && [ "$(cvol_workers)" = "$steady_worker" ] &&
		[ "${files[*]##*/}" = "steady steady.sock steady.json" ]
}
check "only the steady volume is left" wait_for 20 only_steady
kill_tree "$holder"
wait_for 5 gone "$holder"
works() {
	local q
	q=$(raw_ok Mount "{\"Name\":\"$1\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
	timeout 10 test -s "$q/numbers" && raw_ok Unmount "{\"Name\":\"$1\",\"ID\":\"$ID\"}"
}
all_work() {
	local i
	for ((i = 0; i < VOLUMES; i++)); do
		works "v$i" || return
	done
}
check "every volume works" all_work
check "Unmount of the steady one" raw_ok Unmount "{\"Name\":\"steady\",\"ID\":\"$ID\"}"
check "nothing is left" wait_nothing_left 15
finish
