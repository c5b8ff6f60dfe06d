#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# Large files use several connections, or channels of one; one of them, or all, may be lost at any
# time without an error or a wrong byte.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=90

start_engine sftp
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS,connections=3" || bail "mount"
head -c 48000000 /dev/urandom >"$T/tmp/data"
touch -d @1500000000 "$T/tmp/data"

sessions() {
	ssh_sessions | wc -l
}
sessions_at_least() {
	[ "$(sessions)" -ge "$1" ]
}

kill_one() {
	local pid
	pid=$(ssh_sessions | "$1" -n 1)
	[ -z "$pid" ] || kill_tree "$pid"
}

# Reads and writes large files until told to stop; says what went wrong.
work() {
	local i
	for ((i = 0; ; i++)); do
		cp -p "$T/tmp/data" "$T/mnt/w$((i % 2))" || return 1
		cmp "$T/tmp/data" "$SSH_ROOT/w$((i % 2))" || return 1
		[ "$(stat -c %Y "$SSH_ROOT/w$((i % 2))")" = 1500000000 ] || {
			echo "cp -p: the time is not kept"
			return 1
		}
		echo 1 >/proc/sys/vm/drop_caches
		cmp "$T/tmp/data" "$T/mnt/w$((i % 2))" || return 1
		[ ! -e "$T/tmp/stop" ] || break
	done
	echo "fine"
}
check_equal "one connection before there is anything to move" 1 "$(sessions)"
# Whatever has its name meanwhile, what goes to an open file goes to no other.
(
	exec 7>"$T/mnt/moved"
	head -c 24000000 "$T/tmp/data" >&7
	mv "$SSH_ROOT/moved" "$SSH_ROOT/moved-away"
	echo other >"$SSH_ROOT/moved"
	tail -c +24000001 "$T/tmp/data" >&7
)
check "a file renamed on the server while it is written: its bytes" cmp "$T/tmp/data" "$SSH_ROOT/moved-away"
check_equal "a file renamed on the server while it is written: the other's" other "$(cat "$SSH_ROOT/moved")"
work >"$T/tmp/out" 2>&1 &
worker=$!
check "large files get further connections" wait_for 30 sessions_at_least 3
kills=0
for i in {1..12}; do
	sleep 0.7
	# The first and the last that logged in, and now and then all of them.
	case $((i % 3)) in
	0) kill_ssh_sessions ;;
	1) kill_one tail ;;
	2) kill_one head ;;
	esac
	kills=$((kills + 1))
	alive "$worker" || break
done
touch "$T/tmp/stop"
check "connections lost under reading and writing: it ends" wait_for 120 gone "$worker"
check_equal "connections lost under reading and writing: every byte and time is right" fine "$(cat "$T/tmp/out")"
check_equal "all kills fell into it" 12 "$kills"

check "unmount" unmount_volume "$T/mnt"

# A server that is far away: channels of the same connection, each a process on the server.
start_proxy ssh "$SSH_PORT" -d 5
write_known_hosts "$T/tmp/hosts" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
cat "$T/tmp/hosts" >>"$SSH_KNOWN_HOSTS"
channels() {
	local session
	for session in $(ssh_sessions); do
		pgrep -P "$session"
	done
}
channels_at_least() {
	[ "$(channels | wc -l)" -ge "$1" ]
}
rm -f "$T/tmp/stop" "$SSH_ROOT"/w?
mount_volume "${SOURCE/:$SSH_PORT/:$PROXY_PORT}" "$T/mnt" "$OPTIONS" || bail "mount"
check "far away: there are channels before there is anything to move" wait_for 10 channels_at_least 4
check_equal "far away: of one connection" 1 "$(sessions)"
work >"$T/tmp/out" 2>&1 &
worker=$!
for i in {1..6}; do
	sleep 1.5
	# The one that came last, and now and then their connection.
	if [ $((i % 3)) = 0 ]; then
		kill_ssh_sessions
	else
		victim=$(channels | tail -n 1)
		[ -z "$victim" ] || kill "$victim"
	fi
	alive "$worker" || break
done
check_equal "far away: all kills fell into the work" 6 "$i"
touch "$T/tmp/stop"
check "far away, channels lost under reading and writing: it ends" wait_for 90 gone "$worker"
check_equal "far away, channels lost: every byte and time is right" fine "$(cat "$T/tmp/out")"
check "unmount" unmount_volume "$T/mnt"

# A server that has no more than one session for a connection, and one that opens more and says nothing.
cat >"$T/tmp/shy" <<EOT
#!/bin/sh
mkdir "$T/tmp/first" 2>/dev/null && exec /usr/lib/openssh/sftp-server
exec cat 3>&1 >/dev/null
EOT
chmod 755 "$T/tmp/shy"
[ -x /usr/lib/openssh/sftp-server ] || bail "no sftp-server"
# another_sshd NAME SED_SCRIPT: beside the first, which goes on.
another_sshd() {
	local port
	port=$(free_port)
	sed "s/^Port .*/Port $port/; $2" "$T/ssh/sshd_config" >"$T/ssh/sshd_config.$1"
	spawn "sshd-$1" /usr/sbin/sshd -D -e -f "$T/ssh/sshd_config.$1"
	SSHD_PID=$SPAWNED
	defer stop_pid "$SSHD_PID"
	wait_for 10 port_open "$port" || bail "sshd did not start"
	start_proxy "$1" "$port" -d 5
	write_known_hosts "$T/tmp/hosts" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
	cat "$T/tmp/hosts" >>"$SSH_KNOWN_HOSTS"
}
channels_are() {
	[ "$(channels | wc -l)" -eq "$1" ]
}
first_sshd=$SSHD_PID
another_sshd one 's/^MaxSessions .*/MaxSessions 1/'
check "one session: mount" mount_volume "${SOURCE/:$SSH_PORT/:$PROXY_PORT}" "$T/mnt" "$OPTIONS"
check "one session: a large file" cp "$T/tmp/data" "$T/mnt/one"
check "one session: its bytes" cmp "$T/tmp/data" "$SSH_ROOT/one"
check "one session: is all there is" channels_are 1
check "one session: unmount" unmount_volume "$T/mnt"

another_sshd shy "s,^Subsystem .*,Subsystem sftp $T/tmp/shy,"
check "silent channels: mount" mount_volume "${SOURCE/:$SSH_PORT/:$PROXY_PORT}" "$T/mnt" "$OPTIONS,timeout=2"
check "silent channels: they are there" wait_for 10 channels_at_least 4
check "silent channels: a large file meanwhile" cp "$T/tmp/data" "$T/mnt/shy"
check "silent channels: are given up" wait_for 20 channels_are 1
check "silent channels: a large file" cp "$T/tmp/data" "$T/mnt/shy"
check "silent channels: its bytes" cmp "$T/tmp/data" "$SSH_ROOT/shy"
check_fails "silent channels: their connection stands" grep -r 'lost:' /run/cvol/mounts --include=*.log
check "silent channels: unmount" unmount_volume "$T/mnt"
SSHD_PID=$first_sshd
check "nothing is left" wait_nothing_left 10
finish
