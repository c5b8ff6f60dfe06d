#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 200
# The server is still working on the last requests of a worker that was killed when its successor comes.
# What was asked for happens once: each caller hears of success, and what others do with the result as
# soon as it is there is not undone by a second execution, nor by a late first one.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

LIMIT=60
PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || bail_skip "no python3"
SLOW=$BUILD/tests/slow-calls.so
[ -e "$SLOW" ] || bail "$SLOW is not built"
ID=$(printf 'a%.0s' {1..64})
DELAY_MS=2000
OPS="mkdir create symlink unlink rmdir rename"
start_cvol

took_over() {
	grep -c 'took over: ' "$T/log/cvol.log"
}
took_over_again() {
	[ "$(took_over)" -gt "$1" ]
}
# One system call each, no look before.
CALLS='
import os, sys
op, d = sys.argv[1:]
{"mkdir": lambda: os.mkdir(d + "/new"),
 "create": lambda: os.close(os.open(d + "/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)),
 "symlink": lambda: os.symlink("to/nowhere", d + "/new"),
 "unlink": lambda: os.unlink(d + "/old"),
 "rmdir": lambda: os.rmdir(d + "/old"),
 "rename": lambda: os.rename(d + "/old", d + "/new")}[op]()'
# What is there before: made through the mount, for an NFS server remembers names.
prepare() { # OP DIR
	mkdir "$2"
	case $1 in
	unlink | rename) touch "$2/old" ;;
	rmdir) mkdir "$2/old" ;;
	esac
}
is_done() { # OP DIR
	case $1 in
	mkdir) [ -d "$2/new" ] ;;
	create) [ -f "$2/new" ] ;;
	symlink) [ -L "$2/new" ] ;;
	unlink | rmdir) [ ! -e "$2/old" ] ;;
	rename) [ -e "$2/new" ] ;;
	esac
}
# Another user of the server, as soon as it is done.
meddle() {
	case $1 in
	mkdir) rmdir "$2/new" ;;
	create) echo theirs >"$2/new" ;;
	symlink) rm "$2/new" ;;
	unlink) echo theirs >"$2/old" ;;
	rmdir) mkdir "$2/old" ;;
	rename) rm "$2/new" && echo theirs >"$2/old" ;;
	esac
}
is_as_left() {
	case $1 in
	mkdir | symlink) [ ! -e "$2/new" ] && [ ! -L "$2/new" ] ;;
	create) [ "$(cat "$2/new")" = theirs ] ;;
	unlink) [ "$(cat "$2/old")" = theirs ] ;;
	rmdir) [ -d "$2/old" ] ;;
	rename) [ ! -e "$2/new" ] && [ "$(cat "$2/old")" = theirs ] ;;
	esac
}
begun() {
	[ "$(grep -c . "$T/slow.begun" 2>/dev/null)" -ge "$1" ]
}

for engine in $(engines nfs nfs4); do
	export LD_PRELOAD=$SLOW SLOW_CALLS=$T/slow SLOW_CALLS_IN=$SRV
	start_engine "$engine"
	unset LD_PRELOAD SLOW_CALLS SLOW_CALLS_IN
	opts=$(jq -nc --arg s "$SOURCE" --arg o "$OPTIONS" '{source: $s} + ([$o | splits(",") | select(. != "") |
		capture("(?<key>[^=]*)=?(?<value>.*)")] | from_entries)')
	raw_ok Create "{\"Name\":\"v-$engine\",\"Opts\":$opts}" >/dev/null || bail "create: $OUT"
	p=$(raw_ok Mount "{\"Name\":\"v-$engine\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
	there=$SERVER_DIR/$engine
	mkdir "$p/$engine"
	declare -A pid=()
	for op in $OPS; do
		prepare "$op" "$p/$engine/$op"
	done
	ls -lR "$p" >/dev/null
	rm -f "$T"/slow.*
	echo "$DELAY_MS" >"$T/slow"
	for op in $OPS; do
		"$PYTHON" -c "$CALLS" "$op" "$p/$engine/$op" >"$T/tmp/$op" 2>&1 &
		pid[$op]=$!
	done
	check "$engine: the server is at it" wait_for 10 begun 6 || note "$(cat "$T/slow.begun")"
	n=$(took_over)
	kill -KILL "$(cvol_workers | head -n 1)"
	started=$(now_ms)
	for op in $OPS; do
		check "$engine: $op: it was only begun" test "$(is_done "$op" "$there/$op"; echo $?)" = 1
	done
	for op in $OPS; do
		check "$engine: $op: the server does it" wait_for 20 is_done "$op" "$there/$op"
		meddle "$op" "$there/$op"
	done
	echo 0 >"$T/slow"
	check "$engine: it was taken over" wait_for 30 took_over_again "$n"
	for op in $OPS; do
		wait "${pid[$op]}"
		check_equal "$engine: $op: its caller hears of success" "0 " "$? $(cat "$T/tmp/$op")"
	done
	note "$engine: $(grep 'took over: ' "$T/log/cvol.log" | tail -n 1 | sed 's/.*took over/took over/'), all answered after $(($(now_ms) - started)) ms"
	sleep 1 # for what comes late
	for op in $OPS; do
		check "$engine: $op: happened once" is_as_left "$op" "$there/$op"
	done
	check_equal "$engine: and was begun once" "1 mkdir 1 rename 1 symlink 2 unlink" \
		"$(grep -v create "$T/slow.begun" | sort | uniq -c | xargs)"
	check "$engine: Unmount" raw_ok Unmount "{\"Name\":\"v-$engine\",\"ID\":\"$ID\"}"
	check "$engine: nothing is left" wait_nothing_left 20
done
finish
