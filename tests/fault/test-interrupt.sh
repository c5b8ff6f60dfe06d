#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# Whatever a process waits for on a server that is away (silent, stopped, dead): it dies on SIGKILL, also when
# it closes with written data in an open file. The data still gets there, the mount works on, and no
# worker dies of it.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || bail_skip "no python3"
head -c 300000 /dev/urandom >"$T/tmp/data"

# holder NAME FILE THEN: a process that opens FILE and, when told, writes to it. Then it waits (hold; lock: with
# a lock; many: and in 20 more), or is in a call (close, fsync), or ends without one (exit); other: only calls fsync, when told, and
# notes what that says.
holder() {
	spawn holder "$PYTHON" -c '
import fcntl, os, sys, time
name, path, then, data = sys.argv[1:]
def tell(what):
    open(name + "." + what, "w").close()
def wait(what):
    while not os.path.exists(name + "." + what):
        time.sleep(0.02)
data = open(data, "rb").read()
fd = os.open(path, os.O_WRONLY | os.O_CREAT)
if then == "lock":
    fcntl.flock(fd, fcntl.LOCK_EX)
more = [os.open(path + str(i), os.O_WRONLY | os.O_CREAT) for i in range(20)] if then == "many" else []
tell("opened")
wait("go")
if then != "other":
    os.write(fd, data)
for fd in more:
    os.write(fd, data[:1000])
tell("written")
if then == "close":
    os.close(fd)
elif then == "fsync":
    os.fsync(fd)
elif then == "other":
    error = ""
    try:
        os.fsync(fd)
    except OSError as e:
        error = str(e)
    with open(name + ".said", "w") as f:
        f.write(error)
elif then == "exit":
    os._exit(0)
time.sleep(1000)' "$T/tmp/$1" "$2" "$3" "$T/tmp/data"
	HOLDERS[$1]=$SPAWNED
	wait_for 10 test -e "$T/tmp/$1.opened" || bail "$1: no holder"
}
tell_holder() { # NAME: writes
	: >"$T/tmp/$1.go"
	wait_for 10 test -e "$T/tmp/$1.written"
}

signal_tree() { # SIGNAL PID
	local child
	kill "-$1" "$2"
	for child in $(pgrep -P "$2"); do
		signal_tree "$1" "$child"
	done
}
server_pid() {
	if [ "$engine" = sftp ]; then echo "$SSHD_PID"; else echo "$GANESHA_PID"; fi
}
server_away() { # silent|stopped|dead
	case $1-$engine in
	silent-*) proxy_cmd "$engine" hole ;;
	stopped-*)
		signal_tree STOP "$(server_pid)"
		freeze "$(server_pid)"
		;;
	dead-sftp) stop_sshd ;;
	dead-*) kill_ganesha ;;
	esac
}
server_back() {
	case $1-$engine in
	silent-*) proxy_cmd "$engine" resume ;;
	stopped-*) signal_tree CONT "$(server_pid)" ;;
	dead-sftp) start_sshd ;;
	dead-*) spawn_ganesha ;;
	esac
}

slowest=0
dies() { # NAME PID
	local start took
	start=$(now_ms)
	kill -KILL "$2" 2>/dev/null
	check "$1 dies on SIGKILL" wait_gone 10 "$2"
	took=$(($(now_ms) - start))
	[ "$took" -le "$slowest" ] || slowest=$took slowest_name=$1
}
waits() { # NAME COMMAND…: without descriptor 8, but for who writes to it: whoever has it closes it at his end, too
	names+=("$1")
	shift
	"$@" >/dev/null 2>&1 8>&- &
	pids+=($!)
}

blocked() { # silent|stopped|dead
	local way=$1 d=$m/$engine-$1 i worker what
	worker=$(cvol_workers)
	# A directory for each: the kernel itself lets nobody into a directory, not even to die, while somebody
	# else's change of it waits for the server.
	mkdir -p "$d"/{list,create,rename,unlink}
	touch "$d"/{list,rename,unlink}/{a,b,c}
	declare -A HOLDERS=()
	for what in hold lock many close fsync exit; do
		rm -f "$T/tmp/$way-$what".*
		holder "$way-$what" "$d/$what" "$what"
	done
	exec 8>"$d/open"
	ls -l "$d"/{,create,rename,unlink} >/dev/null
	head -c 1000 "$m/big" >/dev/null
	sleep 2.3 # what the clients have asked ahead is old then

	server_away "$way"
	names=() pids=()
	waits stat stat "$d/none"
	waits read cat "$m/big"
	waits readdir ls "$d/list/"
	waits create touch "$d/create/new"
	dd if=/dev/zero bs=64k count=4 conv=fsync of=/dev/fd/8 >/dev/null 2>&1 &
	names+=("write and fsync") pids+=($!)
	waits rename mv "$d/rename/a" "$d/rename/z"
	waits unlink rm -f "$d/unlink/b"
	for what in hold lock many close fsync exit; do
		check "$engine: $way: a write is taken ($what)" tell_holder "$way-$what"
	done
	names+=("in close" "in fsync") pids+=("${HOLDERS[$way-close]}" "${HOLDERS[$way-fsync]}")
	sleep 0.5
	for i in "${!pids[@]}"; do
		check "$engine: $way: ${names[i]} waits" alive "${pids[i]}"
		dies "$engine: $way: ${names[i]}" "${pids[i]}"
	done
	# Closed in the exit path, where no signal is heard.
	dies "$engine: $way: with written data in an open file" "${HOLDERS[$way-hold]}"
	dies "$engine: $way: and a lock on it" "${HOLDERS[$way-lock]}"
	dies "$engine: $way: and in many" "${HOLDERS[$way-many]}"
	check "$engine: $way: who ends by himself ends" wait_gone 10 "${HOLDERS[$way-exit]}"
	server_back "$way"
	for what in hold lock many close fsync exit; do
		check "$engine: back: what was written is there ($what)" wait_for 60 cmp "$T/tmp/data" "$SERVER_DIR/$engine-$way/$what"
	done
	check "$engine: back: the mount works" wait_for 40 timeout 5 cmp "$SERVER_DIR/big" "$m/big"
	check "$engine: back: writing works" timeout 20 sh -c "echo x >'$d/after' && grep -qx x '$d/after'"
	exec 8>&-
	check_equal "$engine: back: the worker is the same" "$worker" "$(cvol_workers)"
}

for engine in $(engines sftp nfs nfs4); do
	start_engine "$engine"
	case $engine in
	sftp)
		start_proxy sftp "$SSH_PORT"
		write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
		source=sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT
		options=key_file=$SSH_KEY,known_hosts=$T/ssh/known_proxy
		;;
	nfs)
		start_proxy nfs "$NFS_PORT"
		source=nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT
		options=mountport=$MNT_PORT,version=3
		;;
	nfs4)
		start_proxy nfs4 "$NFS_PORT"
		source=nfs://127.0.0.1:$PROXY_PORT$NFS_PSEUDO
		options=version=4.1
		;;
	esac
	m=$T/mnt-$engine
	head -c 20000000 /dev/urandom >"$SERVER_DIR/big"
	mount_volume "$source" "$m" "$options" || bail "mount"
	for way in silent stopped dead; do
		blocked "$way"
	done

	# An end waits for a server that works, however slow: what was written is there after it.
	proxy_cmd "$engine" delay 400
	check "$engine: slow: an end waits for the data" sh -c 'cat "$1" >"$2" && cmp "$1" "$3"' sh "$T/tmp/data" "$m/$engine-slow" "$SERVER_DIR/$engine-slow"
	proxy_cmd "$engine" delay 0

	# The request that waits is a successor's, which is not connected yet.
	declare -A HOLDERS=()
	rm -f "$T"/tmp/successor.*
	holder successor "$m/$engine-successor" hold
	proxy_cmd "$engine" hole
	check "$engine: a write is taken" tell_holder successor
	kill -KILL "$(cvol_workers)"
	sleep 1
	dies "$engine: with a successor that is not connected: with written data in an open file" "${HOLDERS[successor]}"
	proxy_cmd "$engine" resume
	check "$engine: back: what was written is there" wait_for 60 cmp "$T/tmp/data" "$SERVER_DIR/$engine-successor"

	# What the server refuses in the end is said to who has the file open, too.
	if [ "$engine" = sftp ]; then
		rm -f "$T"/tmp/{full,other}.*
		mkdir "$SERVER_DIR/small"
		mount -t tmpfs -o size=200k tmpfs "$SERVER_DIR/small"
		holder full "$m/small/file" hold
		holder other "$m/small/file" other
		proxy_cmd sftp hole
		check "sftp: a write is taken" tell_holder full
		dies "sftp: who has written more than fits" "${HOLDERS[full]}"
		proxy_cmd sftp resume
		check "sftp: another handle's fsync ends" tell_holder other
		check "sftp: with an error" wait_for 40 test -s "$T/tmp/other.said"
		kill "${HOLDERS[other]}"
		wait_gone 10 "${HOLDERS[other]}"
	fi
	check "$engine: unmount" unmount_volume "$m"
	check "$engine: nothing is left" wait_nothing_left 10
	[ "$engine" != sftp ] || umount "$SERVER_DIR/small"
done
note "slowest death: $slowest ms ($slowest_name)"
finish
