#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 200
# What a successor of a killed worker meets: data that was only in the worker's memory, requests that the
# server has carried out and whose answers got lost, a server that is away, a request that crashes every
# worker; and an upgrade, which goes the same way.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
CRASHES_MEANT=1

LIMIT=60
PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || bail_skip "no python3"
ID=$(printf 'a%.0s' {1..64})
start_cvol

took_over() {
	grep -c 'took over: ' "$T/log/cvol.log"
}
took_over_again() {
	[ "$(took_over)" -gt "$1" ]
}
kill_worker() { # SIGNAL
	kill "-${1:-KILL}" "$(cvol_workers | head -n 1)"
}
# holder FILE: a process that opens FILE, writes $T/tmp/data to it when told, and closes it when told. Of its own, for each process that inherits a descriptor waits at its end.
holder() {
	rm -f "$T"/tmp/{opened,written,go,end}
	spawn holder "$PYTHON" -c '
import os, sys, time
t, path = sys.argv[1:]
def wait(name):
    while not os.path.exists(t + "/" + name):
        time.sleep(0.02)
data = open(t + "/data", "rb").read()
f = open(path, "wb", buffering=0)
open(t + "/opened", "w").close()
wait("go")
f.write(data)
open(t + "/written", "w").close()
wait("end")
f.close()' "$T/tmp" "$1"
	HOLDER=$SPAWNED
	wait_for 10 test -e "$T/tmp/opened" || bail "no holder"
}

for engine in $(engines nfs nfs4 nfs40 sftp); do
	start_engine "$engine"
	opts='{}'
	if [ "$engine" = sftp ]; then
		start_proxy "$engine" "$SSH_PORT"
		write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
		opts=$(jq -nc --arg s "sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT" --arg k "$SSH_KEY" \
			--arg h "$T/ssh/known_proxy" '{source: $s, key_file: $k, known_hosts: $h}')
	else
		start_proxy "$engine" "$NFS_PORT"
		opts=$(jq -nc --arg s "nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT" --arg m "$MNT_PORT" \
			'{source: $s, mountport: $m, version: "3"}')
		[ "$engine" = nfs ] || opts=$(jq -nc --arg s "nfs://127.0.0.1:$PROXY_PORT$NFS_PSEUDO" \
			--arg v "${OPTIONS#version=}" '{source: $s, version: $v}')
	fi
	raw_ok Create "{\"Name\":\"v-$engine\",\"Opts\":$opts}" >/dev/null || bail "create: $OUT"
	p=$(raw_ok Mount "{\"Name\":\"v-$engine\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)

	# Written, acknowledged, and only in memory: the server hangs before it has anything.
	head -c 3000000 /dev/urandom >"$T/tmp/data"
	holder "$p/copy"
	proxy_cmd "$engine" hole
	: >"$T/tmp/go"
	check "$engine: a write is taken while the server hangs" wait_for 10 test -e "$T/tmp/written"
	kill_worker
	sleep 0.5
	stat "$p/nobody" >/dev/null 2>&1 &
	waiting=$!
	sleep 1
	check "$engine: with no server a successor's users wait" alive "$waiting"
	kill -KILL "$waiting"
	check "$engine: and can be killed" wait_gone 5 "$waiting"
	n=$(took_over)
	proxy_cmd "$engine" resume
	: >"$T/tmp/end"
	check "$engine: the server is back: it took over" wait_for 20 took_over_again "$n"
	check "$engine: the writer sees no error" wait_gone 20 "$HOLDER"
	check "$engine: every byte is on the server" wait_for 20 cmp "$T/tmp/data" "$SERVER_DIR/copy"
	check "$engine: and is read" timeout 20 cmp "$T/tmp/data" "$p/copy"

	# The server does it, nobody hears of it.
	for d in mkdir create symlink link unlink rmdir rename; do
		mkdir "$p/$d"
	done
	touch "$p"/{link,unlink,rename}/old
	mkdir "$p/rmdir/old"
	ls -lR "$p" >/dev/null
	proxy_cmd "$engine" swallow down
	pids=()
	run() {
		"$@" >>"$T/tmp/lost.$engine" 2>&1 &
		pids+=($!)
	}
	run mkdir "$p/mkdir/new"
	run bash -c "set -C; : >'$p/create/new'" # O_EXCL
	run ln -s to/nowhere "$p/symlink/new"
	run rm "$p/unlink/old"
	run rmdir "$p/rmdir/old"
	run mv -T "$p/rename/old" "$p/rename/new"
	done_there() {
		[ -d "$SERVER_DIR/mkdir/new" ] && [ -e "$SERVER_DIR/create/new" ] && [ -L "$SERVER_DIR/symlink/new" ] &&
			[ ! -e "$SERVER_DIR/unlink/old" ] && [ ! -e "$SERVER_DIR/rmdir/old" ] &&
			[ -e "$SERVER_DIR/rename/new" ]
	}
	# Some ask first, and hear nothing either: what counts is what the server has done by now.
	wait_for 3 done_there || true
	n=$(took_over)
	proxy_cmd "$engine" resume
	kill_worker
	check "$engine: answers lost: it took over" wait_for 20 took_over_again "$n"
	failed=0
	for pid in "${pids[@]}"; do
		wait "$pid" || failed=$((failed + 1))
	done
	check_equal "$engine: answers lost: nobody got an error" "0 " "$failed $(cat "$T/tmp/lost.$engine")"
	check "$engine: answers lost: all is done once" done_there
	rm -rf "$p"/{mkdir,create,symlink,link,unlink,rmdir,rename,copy}

	# A request under way when the third worker crashes is not tried a fourth time.
	proxy_cmd "$engine" delay 300
	stat "$p/crash" >"$T/tmp/crash" 2>&1 &
	waiting=$!
	sleep 0.2
	for _ in 1 2 3; do
		n=$(took_over)
		kill_worker SEGV
		wait_for 30 took_over_again "$n" || break
	done
	wait "$waiting"
	check_match "$engine: a request that crashes every worker gets an error" "Input/output error" "$(cat "$T/tmp/crash")"
	proxy_cmd "$engine" delay 0
	check "$engine: and the volume works on" timeout 20 touch "$p/after"
	rm -f "$p/after"
	check "$engine: Unmount" raw_ok Unmount "{\"Name\":\"v-$engine\",\"ID\":\"$ID\"}"
	check "$engine: nothing is left" wait_nothing_left 20
done

# An upgrade while somebody writes.
start_engine nfs
raw_ok Create "{\"Name\":\"up\",\"Opts\":$(jq -nc --arg s "$SOURCE" --arg m "$MNT_PORT" '{source: $s, mountport: $m}')}" >/dev/null ||
	bail "create: $OUT"
p=$(raw_ok Mount "{\"Name\":\"up\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
spawn writer sh -c 'i=0; while [ ! -e "$2" ]; do i=$((i + 1)); echo $i || echo $i >>"$3"; sleep 0.01; done >"$1"' \
	writer "$p/numbers" "$T/tmp/stop" "$T/tmp/errors"
WRITER=$SPAWNED
sleep 1
old=$(cvol_workers)
check_match "upgrade: each volume has its line" "volume 'up': served by the installed version" \
	"$("$CVOL" upgrade-workers --socket "$PLUGIN_SOCK")"
check "upgrade: another worker" test "$old" != "$(cvol_workers)"
sleep 1
: >"$T/tmp/stop"
check "upgrade: the writer ends" wait_gone 10 "$WRITER"
check "upgrade: it saw no error" test ! -e "$T/tmp/errors"
check_equal "upgrade: every line is there" "" "$(awk '$1 != NR' "$NFS_ROOT/numbers")"
check "upgrade: Unmount" raw_ok Unmount "{\"Name\":\"up\",\"ID\":\"$ID\"}"

# Without a daemon.
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" || bail "mount"
head -c 2000000 /dev/urandom >"$T/tmp/data"
holder "$T/mnt/own"
kill_worker
: >"$T/tmp/go"
check "cvol mount: an open file is written to" wait_for 10 test -e "$T/tmp/written"
: >"$T/tmp/end"
check "cvol mount: and closed" wait_gone 10 "$HOLDER"
check "cvol unmount: knows the successor" unmount_volume "$T/mnt"
check "cvol mount: every byte is on the server" cmp "$T/tmp/data" "$NFS_ROOT/own"
check "nothing is left" wait_nothing_left 20
finish
