#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# A daemon that starts beside workers that hang: it waits for none of them, notices that they do, and others take
# over; who writes meanwhile sees a pause and no error. One that was stopped for a moment only goes on.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

HANG_S=10 # the least that cvol takes
ID=$(printf 'a%.0s' {1..64})
log=$T/log/cvol.log

start_cvol --hang-limit "$HANG_S"
declare -A before=()
mount_with_writers dir nfs nfs4 sftp
start_engine dir
moment_options=$(raw_options)
mount_it moment "$moment_options"
moment=$p
raw_ok Create '{"Name":"other"}' >/dev/null || bail "create"
sleep 1

# In the second round the workers are successors of those that were there when the volumes were mounted.
for round in 1 2; do
	for v in "${!writers[@]}" moment; do
		before[$v]=$(worker "$v")
	done
	stop_cvol KILL
	for v in "${!writers[@]}" moment; do
		kill -STOP "${before[$v]}"
	done
	start_cvol --hang-limit "$HANG_S"
	ok "round $round: the daemon answers"
	for v in "${!writers[@]}" moment; do
		check_equal "round $round: $v: its worker is known" "${before[$v]}" "$(worker "$v")"
		check "round $round: $v: it is mounted" is_mounted "$(raw_ok Path "{\"Name\":\"$v\"}" | jq -r .Mountpoint)"
	done
	check "round $round: another volume mounts" raw_ok Mount "{\"Name\":\"other\",\"ID\":\"$ID\"}"
	check "round $round: and unmounts" raw_ok Unmount "{\"Name\":\"other\",\"ID\":\"$ID\"}"
	kill -CONT "${before[moment]}"
	check "round $round: the one that was stopped for a moment works" timeout 20 ls "$moment"
	for engine in "${!writers[@]}"; do
		check "round $round: $engine: the one that hangs is replaced" \
			wait_for $((3 * HANG_S)) is_replaced "$engine" "${before[$engine]}"
		check_match "round $round: $engine: the log says why" \
			"volume '$engine': worker ${before[$engine]} has given no sign of life for [0-9]+ s: it is stopped; killing it" \
			"$(cat "$log")"
	done
	check_equal "round $round: the one that was stopped for a moment is not" "${before[moment]}" "$(worker moment)"
	sleep 1
done
: >"$T/tmp/stop"
for engine in "${!writers[@]}"; do
	check_numbers "$engine" "${writers[$engine]}" "${dirs[$engine]}/numbers-$engine"
done

# One that lives on, unmounted, for who still has its mount is not taken for the worker of the next mount.
echo kept >"$moment/kept"
spawn holder unshare -m --propagation private sh -c "exec 9<'$moment/kept'; echo >'$T/tmp/held'; exec sleep 1000"
holder=$SPAWNED
wait_for 10 test -e "$T/tmp/held" || bail "nobody holds the mount"
first=$(worker moment)
check "used elsewhere: Unmount" raw_ok Unmount "{\"Name\":\"moment\",\"ID\":\"$ID\"}"
check "used elsewhere: its worker lives on" alive "$first"
mount_it moment "$moment_options"
second=$(worker moment)
kill -KILL "$first"
successor() { # of the first
	successor=$(pgrep -xf 'cvol-fuse moment' | grep -vx "$second")
	[ -n "$successor" ] && [ "$successor" != "$first" ]
}
wait_for 10 successor
successor
check "used elsewhere: killed, another takes over" alive "$successor"
stop_cvol
start_cvol --hang-limit "$HANG_S"
check_equal "used elsewhere: the next daemon finds the worker of the new mount" "$second" "$(worker moment)"
check "used elsewhere: who has the old one reads on" grep -q kept "/proc/$holder/fd/9"
stop_pid "$holder"
check "used elsewhere: it ends with its last user" wait_gone 10 "$successor"
for v in "${!writers[@]}" moment; do
	check "$v: Unmount" raw_ok Unmount "{\"Name\":\"$v\",\"ID\":\"$ID\"}"
done
check "nothing is left" wait_nothing_left 20
finish
