#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# The daemon under a service manager: units, socket activation, readiness, watchdog, descriptor store.
# The manager is tests/tools/service-manager, since systemd itself would have to be process 1.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

fault_seed
ID=$(printf 'a%.0s' {1..64})
STATE_DIR=$T/state
RUN_DIR=$T/cvol-run
DAEMON=("$CVOL" daemon --socket "$T/unused.sock" --state-dir "$STATE_DIR" --run-dir "$RUN_DIR")

if command -v systemd-analyze >/dev/null; then
	check "systemd-analyze verify finds nothing wrong with the units" make -s -C "$TOP" check-units BUILD="$BUILD"
	check_equal "and warns of nothing" "" "$OUT"
else
	skip "systemd-analyze verify" "no systemd-analyze here"
fi

# systemd's own idea of socket activation: the daemon starts with the first connection.
if command -v systemd-socket-activate >/dev/null; then
	spawn activate systemd-socket-activate -l "$PLUGIN_SOCK" "${DAEMON[@]}"
	CVOL_PID=$SPAWNED
	defer stop_cvol
	check "socket activation: the socket is there" wait_for 5 test -S "$PLUGIN_SOCK"
	check "socket activation: the first request starts the daemon and is answered" wait_for 10 raw_ok Plugin.Activate
	check "socket activation: it is that process" grep -q '^cvol$' "/proc/$CVOL_PID/comm"
	check "socket activation: the command line finds it" timeout 5 "$CVOL" status --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR"
	check "socket activation: no socket of its own" test ! -e "$T/unused.sock"
	stop_cvol
	check "socket activation: stopping leaves systemd's socket" test -S "$PLUGIN_SOCK"
	rm -f "$PLUGIN_SOCK"
else
	skip "socket activation" "no systemd-socket-activate here"
fi

# What verify cannot know: whatever ends the daemon, it comes back.
check "the unit: no limit to how often it is started again" grep -qx 'StartLimitIntervalSec=0' "$TOP/packaging/systemd/cvol.service"

LOG=$T/manager.log
said() {
	grep -qE "^$1" "$LOG"
}
told() { # how often
	grep -cE "^$1" "$LOG" || true
}
daemon_pid() {
	cat "$T/daemon.pid"
}
another_worker() { # PIDS
	local now
	now=$(cvol_workers)
	[ -n "$now" ] && [ "$now" != "$1" ]
}
start_manager() {
	spawn cvol "$LIB_DIR/tools/service-manager" --socket "$PLUGIN_SOCK" --log "$LOG" --watchdog 3 \
		--pidfile "$T/daemon.pid" -- "${DAEMON[@]}"
	MANAGER=$SPAWNED
	defer stop_pid "$MANAGER" 20
	wait_for 10 said 'say READY=1' || bail "the daemon did not say READY"
}
# restarted PID: another daemon than that one is there and ready.
restarted() {
	[ "$(daemon_pid)" != "$1" ] && [ "$(told 'say READY=1')" -gt "$READY" ]
}
start_manager
check "READY comes when the socket answers" raw_ok List '{}'
check "a status for people" said 'say STATUS=0 volumes, 0 mounted'
kill -HUP "$(daemon_pid)"
check "SIGHUP: RELOADING" wait_for 5 said 'say RELOADING=1'
check "SIGHUP: with the time systemd asks for" said 'say MONOTONIC_USEC=[1-9]'
check "SIGHUP: READY again" wait_for 5 sh -c "[ \$(grep -c 'say READY=1' '$LOG') = 2 ]"

# The watchdog: a daemon that lives is left alone, a stopped one is replaced.
first=$(daemon_pid)
sleep 5
check_equal "watchdog: pings in time" 0 "$(told watchdog)"
for ((i = 0; i < 20; i++)); do
	kill -HUP "$first"
	sleep 0.25
done
check_equal "watchdog: also while it is told to reload again and again" 0 "$(told watchdog)"
READY=$(told 'say READY=1')
kill -STOP "$first"
check "watchdog: a daemon that hangs is noticed" wait_for 10 said "watchdog $first"
kill -CONT "$first"
check "watchdog: and replaced" wait_for 10 restarted "$first"

# The store.
raw_ok Create '{"Name":"v"}' >/dev/null || bail "create"
p=$(raw_ok Mount "{\"Name\":\"v\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
check "store: mounted" is_mounted "$p"
check "store: both descriptors are parked" wait_for 5 said 'store v\.sock\..* 2$'
check_equal "store: without a poll that would drop them" 0 "$(told 'say FDPOLL')"
echo before >"$p/file"
READY=$(told 'say READY=1')
first=$(daemon_pid)
kill -KILL "$first"
check "store: daemon killed: the next one comes" wait_for 10 restarted "$first"
check "store: it gets socket and descriptors" said "start $(daemon_pid) 3"
check "store: the mount goes on" grep -q before "$p/file"
check_equal "store: nothing is parked twice" 1 "$(told 'store ')"
check "store: the daemon knows the mount" raw_ok Get '{"Name":"v"}'
check_match "store: and its user" '"state": *"ok".*"mounts": *1' "$OUT"

raw_ok Unmount "{\"Name\":\"v\",\"ID\":\"$ID\"}" >/dev/null
check "unmount: taken out of the store" wait_for 5 said 'remove v\.sock\..* 0$'
check "unmount: nothing is left" wait_nothing_left 10

# Daemon and worker both killed, the worker first or last or while it writes: the store has the mount.
start_engine nfs
mkdir -p "$NFS_ROOT/both"
raw_ok Create "{\"Name\":\"both\",\"Opts\":{\"source\":\"$SOURCE/both\"}}" >/dev/null || bail "create"
p=$(raw_ok Mount "{\"Name\":\"both\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
check "both killed: parked" wait_for 5 said 'store both\.sock\..* 2$'
exec 9>>"$p/log"
spawn writer sh -c 'cd "$1" && i=0; while true; do i=$((i + 1)); echo $i >>numbers || echo $i >>"$2"; done' writer "$p" "$T/errors"
WRITER=$SPAWNED
for round in 1 2 3 4 5 6; do
	READY=$(told 'say READY=1')
	first=$(daemon_pid)
	worker=$(cvol_workers)
	case $((round % 3)) in
	0) kill -KILL "$first" "$worker" ;;
	1) kill -KILL "$worker" "$first" ;;
	2) kill -KILL "$first" && random_sleep 80 && kill -KILL "$worker" 2>/dev/null ;;
	esac
	check "both killed, round $round: the next daemon comes" wait_for 10 restarted "$first"
	check "both killed, round $round: another worker serves" wait_for 10 another_worker "$worker"
	check "both killed, round $round: an open file works" sh -c "timeout 10 echo $round >&9"
	check "both killed, round $round: and the mount" timeout 10 grep -q "^$round\$" "$p/log"
done
check_equal "both killed: its user is still counted" 1 "$(raw Get '{"Name":"both"}' | jq .Volume.Status.mounts)"
exec 9>&-
kill_tree "$WRITER"
wait_for 5 gone "$WRITER"
check "both killed: the writer saw no error" test ! -e "$T/errors"
check "both killed: Unmount" raw_ok Unmount "{\"Name\":\"both\",\"ID\":\"$ID\"}"
check "both killed: every number is on the server, once" awk '$1 != NR { print "line " NR " is " $1; exit 1 } END { if (NR < 20) exit 1 }' "$NFS_ROOT/both/numbers"
check "both killed: taken out of the store" wait_for 5 said 'remove both\.sock\..* 0$'
check "nothing is left" wait_nothing_left 10

# Left in the store by a daemon and a worker that died while nobody used the mount any more.
p=$(raw_ok Mount "{\"Name\":\"v\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
check "parked again" wait_for 5 sh -c "[ \$(grep -c '^store v.sock' '$LOG') = 2 ]"
stop_pid "$MANAGER" 20
check "STOPPING" said 'say STOPPING=1'
check "stopped: the mount stays" grep -q before "$p/file"
start_cvol
check "a daemon without a manager takes it over" raw_ok Unmount "{\"Name\":\"v\",\"ID\":\"$ID\"}"
check "nothing is left" wait_nothing_left 10
finish
