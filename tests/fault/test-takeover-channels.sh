#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 200
# Further channels and connections have processes of their own on the server. When a worker is killed,
# one of these may still have a WRITE in hand: it must not come behind what is written after the
# take-over, to the same place.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

LIMIT=60
PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || bail_skip "no python3"
SLOW=$BUILD/tests/slow-calls.so
[ -e "$SLOW" ] || bail "$SLOW is not built"
DELAY_MS=3000
export LD_PRELOAD=$SLOW SLOW_CALLS=$T/slow SLOW_CALLS_IN=$SRV
start_engine sftp-far
unset LD_PRELOAD SLOW_CALLS SLOW_CALLS_IN
m=$T/mnt

# The server's processes, one for each channel, the oldest first.
processes() {
	local session
	for session in $(ssh_sessions); do
		pgrep -P "$session"
	done | sort -n
}
processes_are() {
	[ "$(processes | wc -l)" -eq "$1" ]
}
further() {
	processes | tail -n +2
}
# slow_writes MS PID…
slow_writes() {
	local ms=$1 pid
	shift
	for pid in "$@"; do
		echo "$ms" >"$T/slow.$pid"
	done
}
begun() { # CALL N
	[ "$(grep -c "^$1" "$T/slow.begun" 2>/dev/null)" -ge "$2" ]
}
# Did another process than the oldest begin to write?
far_writes() {
	local pid
	for pid in $(further); do
		! grep -qx "write $pid" "$T/slow.begun" 2>/dev/null || return 0
	done
	return 1
}
said() {
	grep -q "$1" /run/cvol/mounts -r --include=*.log
}

# Moves so much through a file that it is worth further channels; then, each time it is told to, writes its
# beginning and waits for the server.
cat >"$T/tmp/writer.py" <<'EOT'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
for line in sys.stdin:
	what = line.strip()
	if what == "end":
		break
	if what == "much":
		for i in range(24):
			os.pwrite(fd, b"." * (1 << 20), i << 20)
	else:
		os.pwrite(fd, what.encode() * 4096, 0)
	os.fsync(fd)
	print(what, flush=True)
EOT
start_writer() { # FILE
	coproc WRITER { exec "$PYTHON" "$T/tmp/writer.py" "$1" 2>&1; }
	writer=$WRITER_PID
	exec 7<&"${WRITER[0]}" 8>&"${WRITER[1]}"
}
tell() {
	echo "$1" >&8
}
heard() { # WHAT
	local line
	read -r -t 60 line <&7 && [ "$line" = "$1" ]
}
stop_writer() {
	tell end
	wait "$writer" 2>/dev/null
}
used_far() {
	tell x
	heard x && far_writes
}

# round NAME PROCESSES DELAY_MS OPTIONS
round() {
	local name=$1 file=$SSH_ROOT/$1 slow
	rm -f "$T"/slow.*
	check "$name: mount" mount_volume "$SOURCE" "$m" "$OPTIONS,$4" || return
	start_writer "$m/$name"
	tell much
	check "$name: much is written" heard much
	check "$name: there are $2 processes" wait_for 20 processes_are "$2"
	# shellcheck disable=SC2046
	slow_writes 0 $(further)
	check "$name: not only the first is used" wait_for 20 used_far
	rm -f "$T/slow.begun"
	# shellcheck disable=SC2046
	slow_writes "$3" $(further)
	tell A
	check "$name: the server is at it" wait_for 10 begun write 1
	slow=$(now_ms)
	kill -KILL "$(cvol_workers | head -n 1)"
	tell B
	check "$name: it is written, says the worker's successor" heard A
	check "$name: and what came then" heard B
	if [ "$3" -le "$DELAY_MS" ]; then
		sleep "$(((slow + DELAY_MS + 700 - $(now_ms)) / 1000 + 1))" # for what comes late
		check_equal "$name: and that is what the server has" "BBBB" "$(head -c 4 "$file")"
		check_fails "$name: all had come to its end" said "still works after"
	else
		check "$name: not waited for without end" said "still works after"
	fi
	stop_writer
	check "$name: unmount" unmount_volume "$m"
}
round channels 4 "$DELAY_MS" timeout=15
SOURCE=${SOURCE/:$PROXY_PORT/:$SSH_PORT} OPTIONS=${OPTIONS/%.far/} round connections 3 "$DELAY_MS" \
	timeout=15,connections=3
round endless 4 40000 timeout=2

# A worker may be killed at any moment: nothing goes over a channel whose process is not known yet.
rm -f "$T"/slow.*
echo 0 >"$T/slow.self"
mount_volume "$SOURCE" "$m" "$OPTIONS" &
mounting=$!
defer unmount_volume "$m"
check "the server's process is asked for" wait_for 20 begun self 1
sed -n 's/^self //p' "$T/slow.begun" >"$T/slow.self"
check "mount" wait_gone 30 "$mounting"
check "that of each channel, too" wait_for 20 begun self 4
# shellcheck disable=SC2046
slow_writes 0 $(processes)
start_writer "$m/early"
tell much
check "much is written before they have answered" heard much
check "by the server's first process" begun write 1
check_fails "and by none whose number is not known" far_writes
rm "$T/slow.self"
check "with the answers all are used" wait_for 20 used_far
stop_writer
check "unmount" unmount_volume "$m"
check "nothing is left" wait_nothing_left 10
finish
