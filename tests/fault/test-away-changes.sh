#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 150
# What may have changed when the server is back: its address; the files that were open, which others have
# replaced, removed or renamed meanwhile. What was written goes into no other file.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=60

cp /etc/hosts "$T/hosts.before"
{
	cat "$T/hosts.before"
	echo 127.0.0.1 moving
} >"$T/hosts"
mount --bind "$T/hosts" /etc/hosts || bail "cannot name the server"
moved_to() {
	sed -i "s/^.* moving$/$1 moving/" "$T/hosts.new"
	cat "$T/hosts.new" >"$T/hosts"
}
cp "$T/hosts" "$T/hosts.new"

away() {
	case $engine in
	sftp) stop_sshd ;;
	*) kill_ganesha || bail "kill" ;;
	esac
}
# back ADDRESS: at that one only.
back() {
	case $engine in
	sftp)
		SSH_ADDRESS=$1
		start_sshd "$SSH_PORT"
		;;
	*)
		sed -i "s/Bind_addr = .*/Bind_addr = $1;/" "$T/ganesha.conf"
		NFS_ADDRESS=$1
		spawn_ganesha
		;;
	esac
}

# holder FILES…: a process that has them open, and writes a line into each one when told, then tells how
# each fsync went.
cat >"$T/holder.py" <<'END_PY'
import os, sys, time
go, done = sys.argv[1:3]
fds = [os.open(p, os.O_RDWR) for p in sys.argv[3:]]
for fd in fds:
    os.read(fd, 10)
open(done, "w").close()
while not os.path.exists(go):
    time.sleep(0.05)
said = []
for fd in fds:
    try:
        os.pwrite(fd, b"mine\n", 0)
        os.fsync(fd)
        said.append("ok")
    except OSError as e:
        said.append(os.strerror(e.errno))
print(", ".join(said))
END_PY

# changer GO DONE TRUNCATED TIMED BOTH: a process that has them open and changes them when told.
cat >"$T/changer.py" <<'END_PY'
import os, sys, time
go, done = sys.argv[1:3]
fds = [os.open(p, os.O_RDWR) for p in sys.argv[3:]]
open(done, "w").close()
while not os.path.exists(go):
    time.sleep(0.05)
os.truncate(fds[0], 2)
os.utime(fds[1], (1500000000, 1500000000))
os.pwrite(fds[2], b"mine\n", 0)
os.utime(fds[2], (1500000000, 1500000001))
for fd in fds:
    os.fsync(fd)
END_PY

for engine in $(engines sftp nfs nfs4 nfs40); do
	start_engine "$engine"
	m=$T/mnt-$engine
	[ "$engine" = sftp ] || OPTIONS+=,timeout=3
	if [ "$engine" = sftp ]; then
		{
			cat "$SSH_KNOWN_HOSTS"
			sed "s/127\.0\.0\.1/moving/" "$SSH_KNOWN_HOSTS"
			sed "s/127\.0\.0\.1/192.0.2.1/" "$SSH_KNOWN_HOSTS"
		} >"$T/ssh/known_moving"
		OPTIONS="key_file=$SSH_KEY,known_hosts=$T/ssh/known_moving,timeout=3"
	fi
	check "$engine: mount by name" mount_volume "${SOURCE/127.0.0.1/moving}" "$m" "$OPTIONS" || continue
	mkdir "$m/d"
	for name in stays replaced removed; do
		echo "old $name" >"$m/d/$name"
	done

	# What is replaced or removed here is open still.
	echo "old over" >"$m/d/over"
	echo "old removed here" >"$m/d/removed-here"
	exec 7<"$m/d/over" 8<"$m/d/removed-here"
	echo new >"$m/d/over.new"
	mv "$m/d/over.new" "$m/d/over"
	rm "$m/d/removed-here"

	# ---- another address

	rm -f "$T/tmp/go" "$T/tmp/open"
	python3 "$T/holder.py" "$T/tmp/go" "$T/tmp/open" "$m/d/stays" "$m/d/stays" >"$T/tmp/said" 2>&1 &
	holder=$!
	check "$engine: a file is open, twice" wait_for 10 test -e "$T/tmp/open"
	away
	moved_to 192.0.2.1
	touch "$T/tmp/go"
	back 192.0.2.1
	check "$engine: the server is back at another address: who wrote goes on" wait_gone 30 "$holder"
	check_equal "$engine: without an error" "ok, ok" "$(cat "$T/tmp/said")"
	check_equal "$engine: it is there" mine "$(head -n 1 "$SERVER_DIR/d/stays")"

	check_equal "$engine: a file that was replaced here while it was open is read" "old over" "$(cat <&7)"
	check_equal "$engine: and one that was removed" "old removed here" "$(cat <&8)"
	exec 7<&- 8<&-
	check_equal "$engine: the new one is another" new "$(cat "$m/d/over")"

	# ---- the same files, changed before they are open again

	for name in truncated timed both; do
		echo "old $name" >"$m/d/$name"
	done
	rm -f "$T/tmp/go" "$T/tmp/open"
	python3 "$T/changer.py" "$T/tmp/go" "$T/tmp/open" "$m/d/truncated" "$m/d/timed" "$m/d/both" >"$T/tmp/said" 2>&1 &
	changer=$!
	check "$engine: files are open that will be changed" wait_for 10 test -e "$T/tmp/open"
	away
	touch "$T/tmp/go"
	sleep 1
	back 192.0.2.1
	check "$engine: the server is back: who changed them goes on" wait_gone 30 "$changer"
	check_equal "$engine: the changes are without an error" "" "$(cat "$T/tmp/said")"
	check_equal "$engine: they were carried out" "2 1500000000 1500000001" \
		"$(cd "$SERVER_DIR/d" && stat -c %s truncated) $(cd "$SERVER_DIR/d" && stat -c %Y timed both | tr '\n' ' ' | sed 's/ $//')"
	check_equal "$engine: with what was written" mine "$(head -n 1 "$SERVER_DIR/d/both")"

	# ---- other files

	rm -f "$T/tmp/go" "$T/tmp/open"
	python3 "$T/holder.py" "$T/tmp/go" "$T/tmp/open" "$m/d/stays" "$m/d/replaced" "$m/d/removed" >"$T/tmp/said" 2>&1 &
	holder=$!
	check "$engine: files are open" wait_for 10 test -e "$T/tmp/open"
	away
	echo "another file, and longer" >"$SERVER_DIR/d/new"
	mv "$SERVER_DIR/d/new" "$SERVER_DIR/d/replaced"
	rm "$SERVER_DIR/d/removed"
	touch "$T/tmp/go"
	moved_to 127.0.0.1
	back 127.0.0.1
	check "$engine: the server has other files: who wrote goes on" wait_gone 40 "$holder"
	check_match "$engine: what is as it was is written to, what is not gives an error" \
		'^ok, (Stale file handle|Input/output error), (Stale file handle|Input/output error)$' "$(cat "$T/tmp/said")"
	check_equal "$engine: another's file is as it was made" "another file, and longer" "$(cat "$SERVER_DIR/d/replaced")"
	check_fails "$engine: and what was removed did not come back" test -e "$SERVER_DIR/d/removed"
	check_equal "$engine: the new one is found under its name" "another file, and longer" "$(cat "$m/d/replaced")"
	check_fails "$engine: the removed one is not" cat "$m/d/removed"
	check_match "$engine: it is missing, not stale" 'No such file' "$OUT"
	rm -rf "$m/d"
	check "$engine: unmount" unmount_volume "$m"
done
check "nothing is left" wait_nothing_left 10
finish
