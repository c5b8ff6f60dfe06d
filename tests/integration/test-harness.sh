#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# The harness itself: a runner that overlooks failures or a relay that loses bytes would make every
# other result worthless.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

# ---- the runner's arithmetic
# says NAME EXPECTED SCRIPT: a test with this content gives that last line.
says() {
	printf '#!/bin/sh\n%s\n' "$3" >"$T/tmp/subject"
	chmod +x "$T/tmp/subject"
	check_equal "runner: $1" "$2" \
		"$(env -u CVOL_SANDBOX BUILD="$T/tmp/build" "$LIB_DIR/run" "$T/tmp/subject" 2>&1 | tail -n 1)"
}
says "exit 0 is one pass" "1 passed, 0 failed, 0 skipped" 'exit 0'
says "exit 1 is one failure" "0 passed, 1 failed, 0 skipped" 'exit 1'
says "exit 77 is one skip" "0 passed, 0 failed, 1 skipped" 'echo no; exit 77'
says "TAP is counted" "2 passed, 1 failed, 1 skipped" \
	'echo ok 1 - a; echo not ok 2 - b; echo ok 3 - c "# SKIP why"; echo ok 4 - d; echo 1..4; exit 1'
says "a plan that is not kept is a failure" "1 passed, 1 failed, 0 skipped" 'echo ok 1 - a; echo 1..2'
says "a bad exit after good checks is a failure" "1 passed, 1 failed, 0 skipped" 'echo ok 1 - a; echo 1..1; exit 3'
says "dying half-way is a failure" "1 passed, 1 failed, 0 skipped" 'echo ok 1 - a; kill -SEGV $$'
says "sub-totals are added" "5 passed, 1 failed, 2 skipped" \
	'echo 2 passed, 0 failed, 1 skipped; echo 3 passed, 1 failed, 1 skipped; exit 1'
says "a sanitizer report is a failure" "1 passed, 1 failed, 0 skipped" \
	'echo ok 1 - a; echo "==1==ERROR: AddressSanitizer: heap-use-after-free"; echo 1..1'
says "undefined behaviour is a failure" "1 passed, 1 failed, 0 skipped" \
	'echo ok 1 - a; echo "x.c:1:2: runtime error: shift"; echo 1..1'

# ---- checks that must be able to fail
# fails COMMAND…: the check prints "not ok". Run apart, so that our own count is not touched.
fails() {
	local name=$1 said
	shift
	said=$("$@")
	if [[ $said == "not ok"* ]]; then
		ok "checks: $name fails when it should"
	else
		not_ok "checks: $name fails when it should"
	fi
}
fails check check x false
fails check_fails check_fails x true
fails check_equal check_equal x a b
fails check_match check_match x '^a$' ab
fails check_absent check_absent x b abc
fails "check_absent of nothing" check_absent x b ''
env_limit_1() {
	LIMIT=1 check x sleep 20
}
fails "check, out of time," env_limit_1

# ---- clean-up never enters a mount
mkdir -p "$T/tree/mnt" "$T/tmp/other"
echo precious >"$T/tmp/other/file"
mount --bind "$T/tmp/other" "$T/tree/mnt"
check_fails "clean-up refuses a directory with a mount in it" remove_tree "$T/tree"
check "and nothing is gone" test -s "$T/tmp/other/file"
umount "$T/tree/mnt"
check "without the mount it works" remove_tree "$T/tree"
check "gone" test ! -e "$T/tree"

# ---- the relay, in front of a real server
start_sshd
head -c 20000000 /dev/urandom >"$SSH_ROOT/big"
start_proxy relay "$SSH_PORT"
fetch() {
	rm -f "$T/tmp/got"
	sftp -q -P "$PROXY_PORT" -i "$SSH_KEY" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
		"root@127.0.0.1:$SSH_ROOT/big" "$T/tmp/got" && cmp "$T/tmp/got" "$SSH_ROOT/big"
}
# takes MIN MAX COMMAND…: in milliseconds.
takes() {
	local min=$1 max=$2 start took
	shift 2
	start=$(now_ms)
	"$@" || return
	took=$(($(now_ms) - start))
	echo "$took ms"
	[ "$took" -ge "$min" ] && [ "$took" -le "$max" ]
}
check "relay: every byte" fetch
proxy_cmd relay bw 10000000
check "relay: the bandwidth limit holds" takes 1700 15000 fetch
proxy_cmd relay bw 0
proxy_cmd relay delay 30
check "relay: the delay is felt" takes 300 15000 fetch
proxy_cmd relay delay 0
proxy_cmd relay bw 10000000
fetch >/dev/null 2>&1 &
fetcher=$!
sleep 1
proxy_cmd relay hole
sleep 0.5
before=$(proxy_cmd relay stat)
sleep 1
check_equal "relay: nothing passes through a hole" "$before" "$(proxy_cmd relay stat)"
check "relay: the client waits" alive "$fetcher"
proxy_cmd relay resume
check "relay: goes on after it" wait_gone 20 "$fetcher"
wait "$fetcher"
check_equal "relay: and nothing was lost" 0 $?
fetch >/dev/null 2>&1 &
fetcher=$!
sleep 1
proxy_cmd relay reset
check "relay: reset ends the connection" wait_gone 5 "$fetcher"
wait "$fetcher"
check_match "relay: with an error" '^[1-9]' $?
proxy_cmd relay bw 0
proxy_cmd relay refuse
check_fails "relay: refuses" port_open "$PROXY_PORT"
proxy_cmd relay accept
check "relay: accepts again" fetch
proxy_cmd relay mute
LIMIT=2 bounded fetch
check_equal "relay: mute accepts and never answers" 124 $?
proxy_cmd relay accept
check "relay: serves again" fetch
if make_black_hole; then
	bounded timeout 2 bash -c "exec 3<>/dev/tcp/$BLACK_HOLE/22"
	check_equal "the black hole swallows connections" 124 $?
fi
finish
