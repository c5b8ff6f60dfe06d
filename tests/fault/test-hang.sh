#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# A worker that hangs is killed and another takes over: who writes meanwhile sees a pause and no error. One that
# only waits for its server is left alone, and so is one that was suspended together with the daemon.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

HANG_S=10 # the least that cvol takes
ID=$(printf 'a%.0s' {1..64})
log=$T/log/cvol.log

is_state() { # VOLUME STATE
	[ "$(volume_status "$1" state)" = "$2" ]
}

start_sshd
start_ganesha
start_cvol --hang-limit "$HANG_S"
start_proxy nfs "$NFS_PORT"
mount_it hole "$(jq -nc --arg s "nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT" --arg m "$MNT_PORT" '{source: $s, mountport: $m}')"
hole=$p
start_proxy ssh "$SSH_PORT"
write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
mount_it successor "$(jq -nc --arg s "sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT" --arg k "$SSH_KEY" --arg h "$T/ssh/known_proxy" \
	'{source: $s, key_file: $k, known_hosts: $h}')"
successor=$p

# A writer for each.
declare -A before=()
mount_with_writers dir nfs sftp
mount_it idle "{\"source\":\"dir://${dirs[dir]}\"}"

proxy_cmd nfs hole
stat "$hole/not-known" >/dev/null 2>&1 &
waiter=$!
proxy_cmd ssh hole
kill -KILL "$(worker successor)"
sleep 1
for v in hole successor idle dir nfs sftp; do
	before[$v]=$(worker "$v")
done
for engine in "${!writers[@]}"; do
	kill -STOP "${before[$engine]}"
done
for engine in "${!writers[@]}"; do
	check "$engine: a worker that is stopped is replaced" wait_for $((3 * HANG_S)) is_replaced "$engine" "${before[$engine]}"
	check_match "$engine: the log says whose, which, why and what is done" \
		"volume '$engine': worker ${before[$engine]} has given no sign of life for [0-9]+ s: it is stopped; killing it" "$(cat "$log")"
	check_match "$engine: and how it ended" "volume '$engine': the worker \(pid ${before[$engine]}\) hung and was killed; another one takes over" "$(cat "$log")"
done
sleep 1
: >"$T/tmp/stop"
for engine in "${!writers[@]}"; do
	check_numbers "$engine" "${writers[$engine]}" "${dirs[$engine]}/numbers-$engine"
done

# Longer than the limit by now, and then some.
sleep $((HANG_S + 2))
check "a worker that waits for its server has waited" alive "$waiter"
check_equal "it goes on" "${before[hole]}" "$(worker hole)"
check_equal "so does one that is not connected yet" "${before[successor]}" "$(worker successor)"
check_equal "and one that nobody uses" "${before[idle]}" "$(worker idle)"
check "what waits for a server is shown to wait" is_state hole waiting
proxy_cmd nfs resume
proxy_cmd ssh resume
check "the server is back: the call ends" wait_gone 40 "$waiter"
check "the successor serves" timeout 40 ls "$successor"

# A host that was suspended: neither the daemon nor the worker ran.
kill -STOP "$CVOL_PID" "${before[idle]}"
sleep $((HANG_S + 5))
kill -CONT "$CVOL_PID"
sleep 1
kill -CONT "${before[idle]}"
sleep 2
check_equal "suspended together with the daemon: not replaced" "${before[idle]}" "$(worker idle)"

# Shown while it hangs: with no limit it does so for ever.
stop_cvol
start_cvol --hang-limit 0
kill -STOP "${before[idle]}"
check "a worker that hangs is shown" wait_for 25 is_state idle hung
kill -CONT "${before[idle]}"
check "and one that goes on, too" wait_for 10 is_state idle ok
check_fails "a limit that is too short for an idle worker is refused" "$CVOL" daemon --hang-limit 9
for v in hole successor idle dir nfs sftp; do
	check "$v: Unmount" raw_ok Unmount "{\"Name\":\"$v\",\"ID\":\"$ID\"}"
done
check "nothing is left" wait_nothing_left 20
finish
