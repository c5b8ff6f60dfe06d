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
need_slow_calls
ID=$(printf 'a%.0s' {1..64})
DELAY_MS=3000
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

# slow_round ENGINE DIR MEDDLE OP…: the worker dies when the server has begun all of it. MEDDLE: when others
# come, once it is `done`, or `answered`.
slow_round() {
	local engine=$1 there=$2 when=$3 op n
	local -A pid=()
	shift 3
	rm -f "$T/slow.begun"
	echo "$DELAY_MS" >"$T/slow"
	for op in "$@"; do
		"$PYTHON" -c "$CALLS" "$op" "$p/$engine/$op" >"$T/tmp/$op" 2>&1 &
		pid[$op]=$!
	done
	check "$engine: $*: the server is at it" wait_for 10 begun $#
	echo 0 >"$T/slow" # for what is begun from here on
	n=$(took_over)
	kill -KILL "$(cvol_workers | head -n 1)"
	for op in "$@"; do
		check_fails "$engine: $op: it was only begun" is_done "$op" "$there/$op"
	done
	if [ "$when" = "done" ]; then
		for op in "$@"; do
			check "$engine: $op: the server does it" wait_for 20 is_done "$op" "$there/$op"
			meddle "$op" "$there/$op"
		done
	fi
	for op in "$@"; do
		wait "${pid[$op]}"
		check_equal "$engine: $op: its caller hears of success" "0 " "$? $(cat "$T/tmp/$op")"
		[ "$when" = "done" ] || meddle "$op" "$there/$op"
	done
	check "$engine: $*: it was taken over" wait_for 30 took_over_again "$n"
	sleep 3.5 # for what comes late
	for op in "$@"; do
		check "$engine: $op: happened once" is_as_left "$op" "$there/$op"
	done
	note "$engine: $(tail -n 1 <<<"$(grep 'took over: ' "$T/log/cvol.log")" | sed 's/.*took over/took over/')"
	rm "$T/slow"
}

for engine in $(engines nfs nfs4 sftp); do
	start_slow_engine "$engine"
	mount_it "v-$engine" "$(raw_options)"
	mkdir "$p/$engine"
	for op in $OPS; do
		prepare "$op" "$p/$engine/$op"
	done
	ls -lR "$p" >/dev/null
	if [ "$engine" = sftp ]; then
		# One process, one request at a time, and no memory of what it has answered: what others did
		# before the successor looked, it cannot know.
		for op in $OPS; do
			slow_round "$engine" "$SERVER_DIR/$engine" answered "$op"
		done
	else
		# shellcheck disable=SC2086
		slow_round "$engine" "$SERVER_DIR/$engine" "done" $OPS
		check_equal "$engine: and was begun once" "1 create 1 mkdir 1 rename 1 symlink 2 unlink" \
			"$(sort "$T/slow.begun" | uniq -c | xargs)"
	fi
	check_equal "$engine: begun requests were repeated" "" \
		"$(grep 'took over: .* 0 requests repeated' "$T/log/cvol.log")"
	check "$engine: Unmount" raw_ok Unmount "{\"Name\":\"v-$engine\",\"ID\":\"$ID\"}"
	check "$engine: nothing is left" wait_nothing_left 20
done
finish
