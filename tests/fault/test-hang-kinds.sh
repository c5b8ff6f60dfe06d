#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# Workers that hang in other ways than by SIGSTOP: in a loop that does not end, and in a call of the kernel that
# even SIGKILL does not end; also when the daemon starts beside them. Who writes sees a pause and no error.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || bail_skip "no python3"
HANG_S=10 # the least that cvol takes
ID=$(printf 'a%.0s' {1..64})
log=$T/log/cvol.log

# stay DIR: a process that uses it, as a container would, and has a file open.
stayers=()
stay() {
	spawn stayer sh -c 'cd "$1" && exec 9>>kept && exec sleep 1000' stayer "$1"
	stayers+=("$SPAWNED")
}
# loop_for_ever PID: writes a jump to itself where it will come back from the kernel. The page becomes its own.
case $(uname -m) in
x86_64) JUMP=ebfe ;;
aarch64) JUMP=00000014 ;;
*) JUMP= ;;
esac
loop_for_ever() {
	"$PYTHON" -c '
import sys, time
pid, code = sys.argv[1], bytes.fromhex(sys.argv[2])
for _ in range(200):
    with open("/proc/" + pid + "/syscall") as f:
        words = f.read().split()
    if len(words) > 2:
        with open("/proc/" + pid + "/mem", "r+b", buffering=0) as f:
            f.seek(int(words[-1], 16))
            f.write(code)
        sys.exit(0)
    time.sleep(0.01)
sys.exit("it is never in a call")' "$1" "$JUMP"
}

start_cvol --hang-limit "$HANG_S"
start_engine dir
mkdir -p "$SERVER_DIR/below" "$SERVER_DIR/loop"

# ---- a loop; the daemon is there, then starts beside it
mount_it loop "{\"source\":\"dir://$SERVER_DIR/loop\"}"
stay "$p"
number_writer loop "$p/numbers" "$T/tmp/stop"
loop_writer=$WRITER
sleep 0.5
for when in "the daemon is there" "the daemon starts"; do
	if [ -z "$JUMP" ]; then
		skip "loop: $when" "no code for this processor"
		continue
	fi
	before=$(worker loop)
	alive "$before" || bail "no worker"
	[ "$when" = "the daemon is there" ] || stop_cvol KILL
	check "loop: $when: a worker does not come back" loop_for_ever "$before"
	[ "$when" = "the daemon is there" ] || start_cvol --hang-limit "$HANG_S"
	check_equal "loop: $when: it is known" "$before" "$(worker loop)"
	check "loop: $when: another takes over" wait_for $((3 * HANG_S)) is_replaced loop "$before"
	check_match "loop: $when: the log says why" \
		"volume 'loop': worker $before has given no sign of life for [0-9]+ s: it is busy with something that does not end; killing it" \
		"$(cat "$log")"
done

stop_cvol

# ---- the kernel: a dir volume on a disk that does not answer (a FUSE mount whose worker is stopped). The daemon
# has a service manager, which keeps what a worker that is ending shows to nobody any more.
MANAGER_LOG=$T/manager.log
spawn cvol "$LIB_DIR/tools/service-manager" --socket "$PLUGIN_SOCK" --log "$MANAGER_LOG" --pidfile "$T/daemon.pid" -- \
	"$CVOL" daemon --socket "$T/unused.sock" --state-dir "$STATE_DIR" --run-dir "$RUN_DIR" --hang-limit "$HANG_S"
MANAGER=$SPAWNED
defer stop_pid "$MANAGER" 20
ready() { # HOW_OFTEN
	[ "$(grep -c '^say READY=1' "$MANAGER_LOG")" -ge "$1" ]
}
wait_for 10 ready 1 || bail "the daemon did not say READY"
mkdir "$T/disk"
timeout 40 "$CVOL" mount "dir://$SERVER_DIR/below" "$T/disk" || bail "mount"
below=$(pgrep -xf "cvol-fuse $T/disk")
supervisor=$(pgrep -f "^$CVOL mount dir://$SERVER_DIR/below")
alive "$below" || bail "no worker below"
alive "$supervisor" || bail "nobody supervises it"
kill -STOP "$supervisor" # or it would find that one hung, too
mount_it disk "{\"source\":\"dir://$T/disk\"}"
stay "$p"
number_writer disk "$p/numbers" "$T/tmp/stop"
disk_writer=$WRITER
mount_it beside "{\"source\":\"dir://$SERVER_DIR\"}"
beside=$p
sleep 0.5
before=$(worker disk)
alive "$before" || bail "no worker"
# In this order, the worker's call is one that SIGKILL ends; what does not end is that it closes its files then.
kill -STOP "$disk_writer"
sleep 0.5
kill -STOP "$below"
kill -CONT "$disk_writer"
sleep 1
next_daemon() { # HOW_OFTEN: when $before is blocked, and may be killed already
	kill -KILL "$(cat "$T/daemon.pid")"
	check "kernel: daemon $1 starts" wait_for 10 ready "$1"
	check_equal "kernel: daemon $1: it is known" "$before" "$(worker disk)"
	check "kernel: daemon $1: another volume works" timeout 10 ls "$beside"
	check "kernel: daemon $1: who writes waits" alive "$disk_writer"
}
next_daemon 2
check "kernel: the log says that it hangs" wait_for $((3 * HANG_S)) grep -qE \
	"volume 'disk': worker $before has given no sign of life for [0-9]+ s: .*; killing it" "$log"
check "kernel: and that it does not even end" wait_for $((3 * HANG_S)) grep -qE \
	"volume 'disk': worker $before does not end after SIGKILL: it is blocked in the kernel" "$log"
check_match "kernel: it is shown" hung "$("$CVOL" status --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR" | grep disk)"
next_daemon 3
check_equal "kernel: no second one serves beside it" "$before" "$(pgrep -x cvol-fuse | grep -x "$before")"
kill -CONT "$below"
check "kernel: the disk answers: another takes over" wait_for 20 is_replaced disk "$before"

: >"$T/tmp/stop"
check_numbers loop "$loop_writer" "$SERVER_DIR/loop/numbers"
check_numbers disk "$disk_writer" "$SERVER_DIR/below/numbers"
for pid in "${stayers[@]}"; do
	stop_pid "$pid"
done
for v in loop disk beside; do
	check "$v: Unmount" raw_ok Unmount "{\"Name\":\"$v\",\"ID\":\"$ID\"}"
done
kill -CONT "$supervisor"
timeout 20 "$CVOL" unmount "$T/disk"
check "nothing is left" wait_nothing_left 20
check_match "the service manager keeps nothing" ' 0$' "$(grep '^remove' "$MANAGER_LOG" | tail -n 1)"
finish
