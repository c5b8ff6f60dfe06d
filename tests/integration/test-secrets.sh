#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# A password given literally works and is seen nowhere but in one file that only root can read.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

# Processes of the product; docker's own command line, which carried the option, has ended.
no_process_shows() {
	local pid
	for pid in $CVOL_PID $(cvol_workers); do
		if grep -aqF "$SSH_PASSWORD" "/proc/$pid/cmdline" "/proc/$pid/environ"; then
			tr '\0' ' ' <"/proc/$pid/cmdline"
			return 1
		fi
	done
}

start_sshd
start_dockerd
import_images || bail "docker import"
start_cvol --log-level debug
mkdir -p "$T/home/tester/data"
chown 12345:12345 "$T/home/tester/data"

check "a volume with a literal password" d volume create -d cvol \
	-o "source=sftp://tester@127.0.0.1:$SSH_PORT$T/home/tester/data" -o "password=$SSH_PASSWORD" \
	-o "known_hosts=$SSH_KNOWN_HOSTS" secretive
check "it works" d run -d --name user -v secretive:/data cvol-test sh -c 'echo x >/data/x; sleep 300'
check "and is on the server" wait_for 10 test -s "$T/home/tester/data/x"

check_absent "not in what the plugin tells docker" "$SSH_PASSWORD" "$(raw Get '{"Name":"secretive"}'; raw List '{}')"
check "docker volume inspect" d volume inspect secretive
# docker itself keeps and shows the options of a create; what the plugin adds is Status.
check_absent "not in the Status docker shows" "$SSH_PASSWORD" "$(d volume inspect -f '{{json .Status}}' secretive)"
check_absent "not in the log" "$SSH_PASSWORD" "$(cat "$T/log/cvol.log")"
check_absent "not in cvol status" "$SSH_PASSWORD" \
	"$("$CVOL" status --run-dir "$RUN_DIR" --socket "$PLUGIN_SOCK" 2>&1)"
check "not on any command line or in any environment of ours" no_process_shows
mapfile -t files < <(grep -rlF "$SSH_PASSWORD" "$STATE_DIR" "$RUN_DIR" 2>/dev/null)
check_equal "in exactly one file" 1 "${#files[@]}"
if [ "${#files[@]}" -ge 1 ]; then
	check_equal "which only root can read" "600 0" "$(stat -c '%a %u' "${files[0]}")"
	check_match "in a directory only root can enter" '^700$' "$(stat -c %a "$(dirname "${files[0]}")")"
	check_absent "and which is not the volume's state" '"type"' "$(cat "${files[0]}")"
fi
check_absent "not in the mount table" "$SSH_PASSWORD" "$(cat /proc/self/mountinfo)"

d rm -f user >/dev/null
stop_cvol
start_cvol
check "after a restart it still works" d run --rm -v secretive:/data cvol-test cat /data/x
check "volume rm" d volume rm secretive
check_equal "the secret goes with the volume" "" "$(grep -rlF "$SSH_PASSWORD" "$STATE_DIR" "$RUN_DIR" 2>/dev/null)"

printf '%s\n' "$SSH_PASSWORD" >"$T/ssh/password"
chmod 600 "$T/ssh/password"
check "password_file works" d run --rm \
	--mount "type=volume,src=byfile,dst=/data,volume-driver=cvol,volume-opt=source=sftp://tester@127.0.0.1:$SSH_PORT$T/home/tester/data,volume-opt=password_file=$T/ssh/password,volume-opt=known_hosts=$SSH_KNOWN_HOSTS" \
	cvol-test cat /data/x
check_equal "and is copied nowhere" "" "$(grep -rlF "$SSH_PASSWORD" "$STATE_DIR" "$RUN_DIR" 2>/dev/null)"
check_fails "a password in the source is refused" d volume create -d cvol \
	-o "source=sftp://tester:topsecret9@127.0.0.1/x" inurl
check_absent "and not repeated" topsecret9 "$OUT"
check_absent "nor logged" topsecret9 "$(cat "$T/log/cvol.log")"
finish
