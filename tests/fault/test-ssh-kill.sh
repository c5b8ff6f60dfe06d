#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# SSH sessions are killed under a writer and a reader, and the whole server goes away for a while:
# no error, and every byte as it was written.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=90

start_engine sftp
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" || bail "mount"
head -c 60000000 /dev/urandom >"$T/tmp/data"

# Writes the file in 300 pieces with a pause, so that the kills fall in between and amid.
slow_copy() {
	local i
	for ((i = 0; i < 300; i++)); do
		dd if="$T/tmp/data" bs=200000 skip="$i" count=1 status=none || return 1
		sleep 0.02
	done >"$T/mnt/copy"
}
slow_copy >"$T/tmp/copy.out" 2>&1 &
copier=$!
for i in 1 2 3 4 5; do
	sleep 1
	alive "$copier" || break
	kill_ssh_sessions
done
check "sessions killed under a writer: it ends" wait_for 60 gone "$copier"
wait "$copier"
check_equal "sessions killed under a writer: without an error" "0 " "$? $(cat "$T/tmp/copy.out")"
check "more than one kill fell into it" test "$i" -ge 3
check "the server has every byte" cmp "$T/tmp/data" "$SSH_ROOT/copy"

cp "$T/tmp/data" "$SSH_ROOT/source"
md5sum "$T/mnt/source" >"$T/tmp/sum" 2>&1 &
reader=$!
sleep 0.05
kill_ssh_sessions
check "session killed under a reader: it ends" wait_for 60 gone "$reader"
check_equal "session killed under a reader: same bytes" "$(md5sum <"$T/tmp/data" | cut -d ' ' -f 1)" \
	"$(cut -d ' ' -f 1 <"$T/tmp/sum")"

# Times are set right behind the data, without waiting for it: also when both are sent again.
cat >"$T/tmp/times.py" <<'EOT'
import os, sys, time
for i in range(600):
	fd = os.open(f"{sys.argv[1]}/t{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
	os.write(fd, b"x" * 3000)
	os.utime(fd, (1500000000, 1500000000 + i))
	os.close(fd)
	time.sleep(0.005)
EOT
mkdir "$T/mnt/times"
python3 "$T/tmp/times.py" "$T/mnt/times" >"$T/tmp/times.out" 2>&1 &
toucher=$!
for i in 1 2 3 4 5; do
	sleep 0.7
	alive "$toucher" || break
	kill_ssh_sessions
done
check "sessions killed while times are set: it ends" wait_for 60 gone "$toucher"
wait "$toucher"
check_equal "sessions killed while times are set: without an error" "0 " "$? $(cat "$T/tmp/times.out")"
for ((i = 0; i < 600; i++)); do
	echo "t$i 3000 $((1500000000 + i))"
done | sort >"$T/tmp/times.expected"
(cd "$SSH_ROOT/times" && stat -c '%n %s %Y' t*) | sort >"$T/tmp/times.got"
check "sessions killed while times are set: all are right" cmp "$T/tmp/times.expected" "$T/tmp/times.got"

# The file is open in a process of its own: every process that closes a copy of the descriptor, as each
# child of a shell does, waits until what was written is on the server.
(
	exec 7>"$T/mnt/kept-open"
	echo one >&7
	until [ -e "$T/tmp/go" ]; do
		sleep 0.1
	done
	echo two >&7
) &
writer=$!
check "the file is open and written to" wait_for 10 test -s "$SSH_ROOT/kept-open"
stop_sshd
touch "$T/tmp/go"
sleep 4
start_sshd "$SSH_PORT"
check "server away 4 s: the write ends" wait_for 40 gone "$writer"
check_equal "server away 4 s: an open file went on" "one two" "$(tr '\n' ' ' <"$SSH_ROOT/kept-open" | sed 's/ $//')"
check "unmount" unmount_volume "$T/mnt"
check "nothing is left" wait_nothing_left 10
finish
