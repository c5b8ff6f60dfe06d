#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# A successor that comes at a bad moment, or is hard to come by: an Unmount waits for the worker that dies, no
# thread can be started, the worker program was taken away or another one put in its place, the daemon stops
# before anybody has taken over.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
CRASHES_MEANT=1

LIMIT=60
need_slow_calls
ID=$(printf 'a%.0s' {1..64})
log=$T/log/cvol.log
# Of our own, so that it can be taken away.
mkdir "$T/bin"
cp "$BUILD/cvol-fuse" "$T/bin/cvol-fuse"
start_cvol --worker "$T/bin/cvol-fuse"

# kill_worker VOLUME [SIGNAL]: sets before.
kill_worker() {
	before=$(worker "$1")
	alive "$before" || bail "volume $1 has no worker: $before"
	kill "-${2:-KILL}" "$before"
}
# opened FILE: a process that has it open, and writes $T/tmp/data to it when `write_it` says so.
opened() {
	rm -f "$T"/tmp/{opened,go,written}
	spawn holder "$PYTHON" -c '
import os, sys, time
t, path = sys.argv[1:]
f = open(path, "wb", buffering=0)
data = open(t + "/data", "rb").read()
open(t + "/opened", "w").close()
while not os.path.exists(t + "/go"):
    time.sleep(0.02)
f.write(data)
open(t + "/written", "w").close()
time.sleep(1000)' "$T/tmp" "$1"
	HOLDER=$SPAWNED
	wait_for 20 test -e "$T/tmp/opened" || bail "nobody opened $1"
}
write_it() { # returns when it is taken; the server has little of it
	: >"$T/tmp/go"
	wait_for 20 test -e "$T/tmp/written" || bail "nobody wrote"
}
unmount_in_background() { # VOLUME
	rm -f "$T/tmp/unmounted"
	(
		raw Unmount "{\"Name\":\"$1\",\"ID\":\"$ID\"}" >"$T/tmp/answer"
		mv "$T/tmp/answer" "$T/tmp/unmounted"
	) &
}
# keep FILE: a process that has it open, and writes to it what keeper_says. Of its own: whoever inherits a
# descriptor waits for the worker at its end.
keep() {
	rm -f "$T"/tmp/{say,said}
	mkfifo "$T/tmp/say"
	: >"$T/tmp/said"
	spawn keeper "$PYTHON" -c '
import sys
t, path = sys.argv[1:]
f = open(path, "ab", buffering=0)
for line in open(t + "/say", "rb", buffering=0):
    if line == b"end\n":
        break
    f.write(line)
    open(t + "/said", "ab").write(line)' "$T/tmp" "$1"
	KEEPER=$SPAWNED
	exec 8>"$T/tmp/say"
}
keeper_says() {
	echo "$1" >&8
	wait_for 20 grep -qx "$1" "$T/tmp/said"
}
end_keeper() {
	echo end >&8
	exec 8>&-
	wait_gone 10 "$KEEPER"
}
head -c 3000000 /dev/urandom >"$T/tmp/data"

# ---------------------------------------------------------------- while Unmount waits

for engine in $(engines nfs nfs4 sftp); do
	start_slow_engine "$engine"
	case $engine in
	sftp)
		start_proxy "$engine" "$SSH_PORT"
		write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
		opts=$(jq -nc --arg s "sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT" --arg k "$SSH_KEY" \
			--arg h "$T/ssh/known_proxy" '{source: $s, key_file: $k, known_hosts: $h}')
		;;
	nfs)
		start_proxy "$engine" "$NFS_PORT"
		opts=$(jq -nc --arg s "nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT" --arg m "$MNT_PORT" \
			'{source: $s, mountport: $m, version: "3"}')
		;;
	*)
		start_proxy "$engine" "$NFS_PORT"
		opts=$(jq -nc --arg s "nfs://127.0.0.1:$PROXY_PORT$NFS_PSEUDO" '{source: $s, version: "4.1"}')
		;;
	esac
	# A long line: there is something to wait for, and the server is there.
	proxy_cmd "$engine" delay 150
	mount_it "$engine" "$opts"
	opened "$p/data-$engine"
	write_it
	unmount_in_background "$engine"
	sleep 0.1
	check_fails "$engine: Unmount waits" test -e "$T/tmp/unmounted"
	kill_worker "$engine"
	check "$engine: its worker is killed: another takes over" wait_for 10 is_replaced "$engine" "$before"
	check "$engine: Unmount is answered" wait_for 40 test -e "$T/tmp/unmounted"
	check_equal "$engine: without an error" "" "$(jq -r '.Err // ""' "$T/tmp/unmounted")"
	check "$engine: every byte is on the server" cmp "$T/tmp/data" "$SERVER_DIR/data-$engine"
	stop_pid "$HOLDER"
	check "$engine: nothing is left" wait_nothing_left 30

	# Nobody can say yet what is stored: the successor does not know, and must not call it nothing.
	proxy_cmd "$engine" delay 0
	mount_it "$engine" "$opts"
	opened "$p/later-$engine"
	write_it
	proxy_cmd "$engine" hole
	kill_worker "$engine"
	wait_for 10 is_replaced "$engine" "$before"
	check_fails "$engine: the server is away, too: Unmount fails" raw_ok Unmount "{\"Name\":\"$engine\",\"ID\":\"$ID\"}"
	check_match "$engine: and says what is with the data" "written data is not stored .*cvol goes on trying" "$OUT"
	check "$engine: the mount stays" is_mounted "$p"
	proxy_cmd "$engine" resume
	check "$engine: the server is back: every byte gets there" wait_for 30 cmp "$T/tmp/data" "$SERVER_DIR/later-$engine"
	stop_pid "$HOLDER"
	check "$engine: then nothing is left" wait_nothing_left 40

	# The same with a server that is there, and slow at what the successor asks of it (SFTP: repeats) first.
	mount_it "$engine" "$opts"
	opened "$p/third-$engine"
	proxy_cmd "$engine" hole
	mkdir "$p/slow-$engine" &
	slow=$!
	write_it
	rm -f "$T/slow.begun"
	echo 4000 >"$T/slow"
	kill_worker "$engine"
	proxy_cmd "$engine" resume
	check "$engine: the server is slow" wait_for 10 test -s "$T/slow.begun"
	if [ "$engine" = sftp ]; then # it waits for what it repeats before it goes on
		check_fails "$engine: it is taking over: Unmount fails" raw_ok Unmount "{\"Name\":\"$engine\",\"ID\":\"$ID\"}"
		check_match "$engine: and says why" "it is taking over, and does not know yet what is stored" "$OUT"
		check "$engine: the mount stays" is_mounted "$p"
	elif raw_ok Unmount "{\"Name\":\"$engine\",\"ID\":\"$ID\"}" >/dev/null; then
		check "$engine: Unmount says that all is stored: it is" cmp "$T/tmp/data" "$SERVER_DIR/third-$engine"
	else
		check "$engine: Unmount says that it is not: the mount stays" is_mounted "$p"
	fi
	rm "$T/slow"
	check "$engine: what it is slow at is done" wait_for 20 test -d "$SERVER_DIR/slow-$engine"
	check "$engine: who asked for it goes on" wait_gone 20 "$slow"
	check "$engine: and every byte gets there" wait_for 30 cmp "$T/tmp/data" "$SERVER_DIR/third-$engine"
	stop_pid "$HOLDER"
	check "$engine: then nothing is left" wait_nothing_left 40
done

# ---------------------------------------------------------------- hard to come by

start_engine dir
mount_it v "$(raw_options)"
number_writer v "$p/numbers" "$T/tmp/stop"
writer=$WRITER
keep "$p/open"
sleep 0.5

# pids.max is for those that are to come; the daemon's own threads are there.
group=
for dir in /sys/fs/cgroup/pids /sys/fs/cgroup; do
	[ -z "$group" ] && mkdir "$dir/$(basename "$T")" 2>/dev/null && [ -e "$dir/$(basename "$T")/pids.max" ] &&
		group=$dir/$(basename "$T")
done
if [ -n "$group" ] && echo "$CVOL_PID" >"$group/cgroup.procs" 2>/dev/null; then
	before=$(worker v)
	alive "$before" || bail "no worker"
	echo 1 >"$group/pids.max" # it cannot be asked either, from here on
	kill -KILL "$before"
	check "no room for a thread: the log says so" wait_for 10 grep -q "volume 'v': no worker can take over: cannot start a thread" "$log"
	sleep 1
	check "no room for a thread: the writer waits" alive "$writer"
	echo max >"$group/pids.max"
	check "room again: another takes over" wait_for 20 is_replaced v "$before"
	check "room again: an open file works" keeper_says "threads"
else
	skip "no room for a thread" "no control group for processes here"
fi

rm "$T/bin/cvol-fuse"
kill_worker v
check "program gone: another takes over" wait_for 10 is_replaced v "$before"
check_match "program gone: the log says which" "cvol-fuse cannot take over: .*; the program that served it before does" "$(cat "$log")"
check "program gone: an open file works" keeper_says "gone"
# Of another version, which cannot read what is in this one's memory, say.
printf '#!/bin/sh\nexit 1\n' >"$T/bin/cvol-fuse"
chmod 755 "$T/bin/cvol-fuse"
check_match "another program: upgrade-workers leaves the volume as it is" "'v': not upgraded" \
	"$("$CVOL" upgrade-workers --socket "$PLUGIN_SOCK")"
for round in 1 2; do
	kill_worker v SEGV
	check "another program, round $round: the one that served goes on" wait_for 10 is_replaced v "$before"
	check "another program, round $round: an open file works" keeper_says "$round"
	stop_cvol
	start_cvol --worker "$T/bin/cvol-fuse"
done
cp "$BUILD/cvol-fuse" "$T/bin/new"
mv "$T/bin/new" "$T/bin/cvol-fuse"
check_match "the right program again: upgrade-workers" "'v': served by the installed version" \
	"$("$CVOL" upgrade-workers --socket "$PLUGIN_SOCK")"
check_equal "the right program again: it is used" "$T/bin/cvol-fuse" "$(readlink "/proc/$(worker v)/exe")"
: >"$T/tmp/stop"
check_numbers v "$writer" "$SERVER_DIR/numbers"
check "who has the file open goes on" end_keeper

# ---------------------------------------------------------------- the daemon stops

mount_it idle "{\"source\":\"dir://$SERVER_DIR\"}"
keep "$p/idle"
chmod 644 "$T/bin/cvol-fuse"
kill_worker idle
sleep 4 # of tries in a row, each one waits for longer: the next one is two seconds away
check_fails "the daemon stops: nobody serves at the moment" pgrep -xf 'cvol-fuse idle'
chmod 755 "$T/bin/cvol-fuse"
stop_cvol
check "the daemon stops: somebody serves" wait_for 1 pgrep -xf 'cvol-fuse idle'
check "the daemon stops: an open file works" keeper_says "stopped"
start_cvol --worker "$T/bin/cvol-fuse"
check "the next daemon: knows it" test "$(worker idle)" = "$(pgrep -xf 'cvol-fuse idle')"
check "the next daemon: an open file works" keeper_says "started"
check "who has the file open goes on" end_keeper
check_equal "every line is there" "stopped started" "$(tr '\n' ' ' <"$SERVER_DIR/idle" | sed 's/ $//')"
for v in v idle; do
	check "$v: Unmount" raw_ok Unmount "{\"Name\":\"$v\",\"ID\":\"$ID\"}"
done
check "nothing is left" wait_nothing_left 20
finish
