#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# copy_file_range(2): where the server can copy, the data does not cross the line; where it cannot, or
# will not, a copy is as right as anywhere. Worker and connection may be lost in the middle of one.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=40
SIZE=$((64 << 20))

received() {
	awk '$1 == "lo:" { print $2 }' /proc/net/dev
}

# copied NAME SOURCE TARGET: by cp; sets MOVED, the bytes on the line.
copied() {
	local before
	before=$(received)
	check "$1" cp --reflink=auto "$2" "$3"
	MOVED=$(($(received) - before))
}

start_sshd
start_dropbear
stop_sshd
head -c "$SIZE" /dev/urandom >"$SSH_ROOT/big"
for server in openssh dropbear; do
	SSH_PORT=2402
	[ "$server" = dropbear ] || start_sshd 2222
	[ "$server" != dropbear ] || SSH_KNOWN_HOSTS=$T/ssh/known_hosts.2402
	m=$T/mnt-$server
	check "$server: mount" mount_volume "sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT" "$m" "$(ssh_options)"
	copied "$server: a copy" "$m/big" "$m/copy"
	check "$server: every byte of it" cmp "$SSH_ROOT/big" "$SSH_ROOT/copy"
	check_equal "$server: its size is known" "$SIZE" "$(stat -c %s "$m/copy")"
	check "$server: its data did not cross the line ($MOVED bytes did)" test "$MOVED" -lt $((1 << 20))
	check "$server: the copy is read as it is" cmp "$SSH_ROOT/big" "$m/copy"
	# What has just been written is not on the server before somebody needs it.
	check "$server: a copy of what has just been written" bash -c "head -c 5000000 '$SSH_ROOT/big' >'$m/new' && cp '$m/new' '$m/new2'"
	check "$server: is of all of it" cmp -n 5000000 "$SSH_ROOT/big" "$SSH_ROOT/new2"
	check "$server: unmount" unmount_volume "$m"
done

note "a server that refuses it"
stop_sshd
SFTP_ARGS="-P copy-data" start_sshd 2222
m=$T/mnt-refused
check "refused: mount" mount_volume "sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT" "$m" "$(ssh_options)"
rm -f "$SSH_ROOT/copy"
copied "refused: a copy" "$m/big" "$m/copy"
check "refused: every byte of it" cmp "$SSH_ROOT/big" "$SSH_ROOT/copy"
check "refused: over the line ($MOVED bytes)" test "$MOVED" -gt "$SIZE"
check "refused: unmount" unmount_volume "$m"

note "a source that has ended early"
stop_sshd
start_sshd 2222
m=$T/mnt
check "mount" mount_volume "sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT" "$m" "$(ssh_options)"
head -c 150000 "$SSH_ROOT/big" >"$SSH_ROOT/shrinks"
check "its size is known" test "$(stat -c %s "$m/shrinks")" = 150000
truncate -s 140000 "$SSH_ROOT/shrinks"
# By less than the server's buffer: then it says that all went well.
check_equal "what was copied is what was there" 140000 "$(python3 -c "
import os
source = os.open('$m/shrinks', os.O_RDONLY)
target = os.open('$m/short', os.O_WRONLY | os.O_CREAT)
done = 0
while n := os.copy_file_range(source, target, 150000, done, done):
    done += n
print(done)")"
check "every byte of it" cmp "$SSH_ROOT/shrinks" "$SSH_ROOT/short"

note "what is lost in the middle"
for i in 1 2 3 4 5 6; do
	rm -f "$SSH_ROOT/copy"
	cp "$m/big" "$m/copy" >"$T/tmp/cp" 2>&1 &
	cp=$!
	sleep "0.0$i"
	case $i in
	1 | 3 | 5) kill -KILL "$(pgrep -x cvol-fuse)" ;;
	*) kill_ssh_sessions ;;
	esac
	wait "$cp"
	check_equal "cp ends well, $i" 0 $?
	check "every byte is there, $i" cmp "$SSH_ROOT/big" "$SSH_ROOT/copy"
done

note "a server that hangs"
# begin_copy: a process ($COPIER) that has both files open and copies once the server hangs.
begin_copy() {
	rm -f "$T/tmp/ready" "$T/tmp/go"
	python3 -c "
import os, time
source = os.open('$m/big', os.O_RDONLY)
target = os.open('$m/copy', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
open('$T/tmp/ready', 'w')
while not os.path.exists('$T/tmp/go'):
    time.sleep(0.02)
done = 0
while n := os.copy_file_range(source, target, $SIZE, done, done):
    done += n
" &
	COPIER=$!
	wait_for 20 test -e "$T/tmp/ready"
	# The processes behind a session, too.
	HANGING=$(ssh_sessions; for pid in $(ssh_sessions); do pgrep -P "$pid"; done)
	for pid in $HANGING; do
		kill -STOP "$pid"
	done
	touch "$T/tmp/go"
	sleep 0.5
}
go_on() {
	for pid in $HANGING; do
		kill -CONT "$pid"
	done
}
begin_copy
kill -KILL "$(pgrep -x cvol-fuse)"
go_on
check "a copy that was under way when the worker died ends" wait_gone 30 "$COPIER"
wait "$COPIER"
check_equal "and ends well" 0 $?
check "every byte is there" cmp "$SSH_ROOT/big" "$SSH_ROOT/copy"
check_match "the request was repeated" ' 1 requests repeated' "$(grep -rh 'took over: ' /run/cvol/mounts | tail -n 1)"
begin_copy
kill -TERM "$COPIER"
check "who copies can be interrupted" wait_gone 10 "$COPIER"
go_on
check "a copy after that" cp "$m/big" "$m/copy"
check "every byte of it" cmp "$SSH_ROOT/big" "$SSH_ROOT/copy"
check "unmount" unmount_volume "$m"
check "nothing is left" wait_nothing_left 10
finish
