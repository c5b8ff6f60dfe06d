#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# The command line without any Docker: mount, unmount, status, version, help.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

second_daemon_fails() {
	local status
	timeout 5 "$CVOL" daemon --socket "$PLUGIN_SOCK" --state-dir "$STATE_DIR" --run-dir "$RUN_DIR"
	status=$?
	[ "$status" -ne 0 ] && [ "$status" -ne 124 ]
}

check "version" "$CVOL" version
check_match "version is a number" '[0-9]+\.[0-9]+\.[0-9]+' "$OUT"
check "--version" "$CVOL" --version
check "--help" "$CVOL" --help
check_match "help names the commands" 'mount.*unmount' "${OUT//$'\n'/ }"
check_fails "an unknown command" "$CVOL" frobnicate
check_match "is named" frobnicate "$OUT"
check_fails "no command" "$CVOL"
check_fails "mount without arguments" "$CVOL" mount
check_fails "unmount of what is not mounted" "$CVOL" unmount "$T"
check_equal "one line" 1 "$(printf '%s\n' "$OUT" | wc -l)"

for engine in $(engines mem dir nfs sftp); do
	start_engine "$engine"
	m=$T/mnt-$engine
	check "$engine: mount" mount_volume "$SOURCE" "$m" "$OPTIONS" || continue
	# Usable at once, with no waiting: that is when mount returns.
	check "$engine: usable at once" sh -c "echo hi >'$m/file' && cat '$m/file'"
	check "$engine: df" df "$m"
	check_equal "$engine: the mount table shows nosuid,nodev" 2 \
		"$(awk -v m="$m" '$5 == m { print $6 }' /proc/self/mountinfo | tr , '\n' | grep -cxE 'nosuid|nodev')"
	check_fails "$engine: a second mount on it is refused" "$CVOL" mount "$SOURCE" "$m" ${OPTIONS:+-o "$OPTIONS"}
	check "$engine: still usable" cat "$m/file"
	if [ -n "$SERVER_DIR" ]; then
		head -c 5000000 /dev/urandom >"$T/tmp/data"
		cp "$T/tmp/data" "$m/data"
		check "$engine: a closed file is on the server" cmp "$T/tmp/data" "$SERVER_DIR/data"
	fi
	exec 6<"$m/file"
	check_fails "$engine: unmount of a busy mount is refused" "$CVOL" unmount "$m"
	check "$engine: and leaves it usable" cat "$m/file"
	exec 6<&-
	check "$engine: unmount" "$CVOL" unmount "$m"
	check "$engine: nothing is left" wait_nothing_left 10
	check "$engine: the directory is as before" rmdir "$m"
done

# Unmount waits for every byte, also when it goes out slowly.
start_engine sftp
start_proxy slow "$SSH_PORT" -b 8000000
write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
mkdir -p "$T/mnt"
check "slow line: mount" mount_volume "sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT" "$T/mnt" \
	"key_file=$SSH_KEY,known_hosts=$T/ssh/known_proxy"
head -c 8000000 /dev/urandom >"$T/tmp/data"
cp "$T/tmp/data" "$T/mnt/slow-copy"
check "slow line: unmount" "$CVOL" unmount "$T/mnt"
check "slow line: every byte is on the server" cmp "$T/tmp/data" "$SSH_ROOT/slow-copy"

# A literal password: kept in one 0600 file for the life of the mount, gone with it.
password_files() {
	grep -rlF "$SSH_PASSWORD" /run/cvol "$T/log" 2>/dev/null
}
tester=sftp://tester@127.0.0.1:$SSH_PORT$T/home/tester
check "password: mount" mount_volume "$tester" "$T/mnt" "known_hosts=$SSH_KNOWN_HOSTS,password=$SSH_PASSWORD"
check_equal "password: in one file" 1 "$(password_files | wc -l)"
check_equal "password: for root's eyes" 600 "$(password_files | xargs -r stat -c %a)"
check "password: unmount" "$CVOL" unmount "$T/mnt"
check_equal "password: the file is gone" "" "$(password_files)"
check_fails "a wrong password" "$CVOL" mount "$tester" "$T/mnt" -o "known_hosts=$SSH_KNOWN_HOSTS,password=not-$SSH_PASSWORD"
check_match "it was tried" 'tried password' "$OUT"
check_equal "and kept nowhere" "" "$(password_files)"

start_engine dir
check "status without a daemon: mount" mount_volume "$SOURCE" "$T/mnt" ''
check "status without a daemon" "$CVOL" status
check_match "shows the mount" "$T/mnt .*ok" "$OUT"
check "status without a daemon: unmount" "$CVOL" unmount "$T/mnt"
check_fails "status with neither daemon nor mounts" "$CVOL" status
check_fails "mounting on a missing directory" "$CVOL" mount "$SOURCE" "$T/missing"
check_match "says what to do" 'create it first' "$OUT"
check_fails "a source as an option, too" "$CVOL" mount "$SOURCE" "$T/mnt" -o source=mem://
check_match "is refused" 'given twice' "$OUT"
check_fails "an unknown volume command" "$CVOL" volume frob
check_match "is named, too" "unknown command 'frob'" "$OUT"

check "read-only: mount" mount_volume "$SOURCE" "$T/mnt" readonly
check_fails "read-only: writing is refused" sh -c "echo x >'$T/mnt/ro'"
check "read-only: reading works" cat "$T/mnt/file"
check "read-only: unmount" "$CVOL" unmount "$T/mnt"

# A plain umount(8) by somebody else ends the worker as well.
check "umount: mount" mount_volume "$SOURCE" "$T/mnt" ''
check "umount: umount(8)" umount "$T/mnt"
check "umount: nothing is left" wait_nothing_left 10

flock_held() {
	! flock -n "$1" true
}

# Status of the daemon.
start_cvol
raw_ok Create '{"Name":"seen"}' >/dev/null
raw_ok Mount '{"Name":"seen","ID":"x"}' >/dev/null
check "status" "$CVOL" status --run-dir "$RUN_DIR" --socket "$PLUGIN_SOCK"
check_match "status shows the volume" seen "$OUT"
check "status --json" "$CVOL" status --json --run-dir "$RUN_DIR" --socket "$PLUGIN_SOCK"
printf '%s' "$OUT" >"$T/tmp/status"
check "status --json is JSON" jq -e . "$T/tmp/status"
check "a second daemon on the same socket is refused" second_daemon_fails
check_fails "and one on the same state directory" timeout 5 "$CVOL" daemon --socket "$T/other.sock" \
	--state-dir "$STATE_DIR" --run-dir "$T/other-run"
check_match "which says why" "another daemon uses $STATE_DIR" "$OUT"
check "and the first one is well" cvol_answers
raw_ok Unmount '{"Name":"seen","ID":"x"}' >/dev/null
raw_ok Remove '{"Name":"seen"}' >/dev/null
check "nothing is left" wait_nothing_left 10

# What a killed daemon was just starting holds its locks for a moment more.
stop_cvol KILL
flock "$RUN_DIR/lock" sleep 1 &
held=$!
wait_for 5 flock_held "$RUN_DIR/lock"
start_cvol
check "a lock that goes away soon is waited for" cvol_answers
wait "$held"
finish
