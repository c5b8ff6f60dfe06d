#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# When a worker is killed, or a connection lost, the server may still have a WRITE in hand: over SSH a
# process of it, that of the connection itself, or of a further channel or connection, over NFS one of its
# threads. What it does must not come behind what is written to the same place later, by a successor or over
# another connection.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

LIMIT=60
need_slow_calls
DELAY_MS=3000
start_slow_engine sftp-far
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
first() {
	processes | head -n 1
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
# Did one of these begin to write?
written_by() { # PID…
	local pid
	for pid in "$@"; do
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
is_used() { # PID…
	tell x
	heard x && written_by "$@"
}

kill_worker() {
	kill -KILL "$(cvol_workers | head -n 1)"
}
# What they have started goes on with what it is doing, as it does when a connection ends.
kill_sessions() {
	# shellcheck disable=SC2046
	kill -KILL $(ssh_sessions)
}
kill_its_session() {
	kill -KILL "$(ps -o ppid= -p "$(sed -n 's/^write //p' "$T/slow.begun" | head -n 1)" | tr -d ' ')"
}

# round NAME PROCESSES DELAY_MS OPTIONS SLOW EVENT: something happens to whoever waits for one of the server's
# PROCESSES, one that SLOW names.
round() {
	local name=$1 file=$SERVER_DIR/${1//[^a-z0-9]/-} slow pids
	rm -f "$T"/slow.*
	check "$name: mount" mount_volume "$SOURCE" "$m" "$OPTIONS,$4" || return
	start_writer "$m/${file##*/}"
	tell "${MUCH-much}"
	check "$name: much is written" heard "${MUCH-much}"
	[ "$2" -eq 0 ] || check "$name: there are $2 processes" wait_for 20 processes_are "$2"
	read -r -d '' -a pids < <("$5")
	slow_writes 0 "${pids[@]}"
	check "$name: $5 is used" wait_for 20 is_used "${pids[@]}"
	rm -f "$T/slow.begun"
	slow_writes "$3" "${pids[@]}"
	tell A
	check "$name: the server is at it" wait_for 10 begun write 1
	slow=$(now_ms)
	slow_writes 0 "${pids[@]}" # for what is begun from here on
	"$6"
	tell B
	check "$name: it is written" heard A
	check "$name: and what came then" heard B
	if [ "$3" -le "$DELAY_MS" ]; then
		while [ "$(now_ms)" -lt $((slow + DELAY_MS + 700)) ]; do
			sleep 0.1 # for what comes late
		done
		check_equal "$name: and that is what the server has" "BBBB" "$(head -c 4 "$file")"
		check_fails "$name: all had come to its end" said "is still there after\|still works on"
	else
		check "$name: not waited for without end" said "is still there after\|still works on"
	fi
	stop_writer
	check "$name: unmount" unmount_volume "$m"
}
round "a worker with channels" 4 "$DELAY_MS" timeout=15 further kill_worker
round "a worker and no end" 4 40000 timeout=2 further kill_worker
round "a connection with channels" 4 "$DELAY_MS" timeout=15 further kill_sessions
round "a connection and no end" 4 40000 timeout=2 further kill_sessions
near() {
	SOURCE=${SOURCE/:$PROXY_PORT/:$SSH_PORT} OPTIONS=${OPTIONS/%.far/} round "$@"
}
near "a worker with connections" 3 "$DELAY_MS" timeout=15,connections=3 further kill_worker
near "one connection" 1 "$DELAY_MS" timeout=15 first kill_sessions
near "a further connection" 3 "$DELAY_MS" timeout=15,connections=3 further kill_its_session
near "a further connection and no end" 3 40000 timeout=2,connections=3 further kill_its_session
near "all three connections" 3 "$DELAY_MS" timeout=15,connections=3 further kill_sessions

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
check "by the server's first process" written_by "$(first)"
# shellcheck disable=SC2046
check_fails "and by none whose number is not known" written_by $(further)
rm "$T/slow.self"
# shellcheck disable=SC2046
check "with the answers all are used" wait_for 20 is_used $(further)
stop_writer
check "unmount" unmount_volume "$m"

ganesha() {
	echo "$GANESHA_PID"
}
MUCH=o # no further channels to be had
start_slow_engine nfs
round "a worker of nfsv3" 0 "$DELAY_MS" timeout=15 ganesha kill_worker
round "a worker of nfsv3 and no end" 0 40000 timeout=2 ganesha kill_worker
start_engine nfs4
round "a worker of nfsv4.1" 0 "$DELAY_MS" timeout=15 ganesha kill_worker
round "a worker of nfsv4.1 and no end" 0 40000 timeout=2 ganesha kill_worker
check "nothing is left" wait_nothing_left 10
finish
