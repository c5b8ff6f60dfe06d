#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# cvol doctor names the step that fails, says why, and leaves nothing on the server.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_sshd
start_ganesha
start_cvol
at=(--socket "$PLUGIN_SOCK" --state-dir "$STATE_DIR" --run-dir "$RUN_DIR")

doctor() { # NAME STATUS ARGS…: --json into $T/tmp/doctor
	local name=$1 wanted=$2 status
	shift 2
	timeout 90 "$CVOL" doctor --json "${at[@]}" "$@" >"$T/tmp/doctor" 2>"$T/tmp/doctor.err"
	status=$?
	if [ "$status" -eq "$wanted" ]; then
		ok "$name"
	else
		not_ok "$name" "exit status $status: $(cat "$T/tmp/doctor" "$T/tmp/doctor.err")"
	fi
}
result_of() { # STEP: "ok", "failed", … of the last one of that name
	jq -r --arg n "$1" '[.checks[] | select(.name == $n) | .result] | last' "$T/tmp/doctor"
}
text_of() {
	jq -r --arg n "$1" '[.checks[] | select(.name == $n) | .text] | last' "$T/tmp/doctor"
}
failed_step() {
	jq -r '[.checks[] | select(.result == "failed") | .name] | join(",")' "$T/tmp/doctor"
}

# This host.
doctor "environment" 0
check_equal "says so" true "$(jq .ok "$T/tmp/doctor")"
for step in kernel /dev/fuse "worker program" daemon "locked memory" "state directory"; do
	check_equal "$step" ok "$(result_of "$step")"
done
check "for people" "$CVOL" doctor "${at[@]}"
check_match "a line each" '✓ /dev/fuse' "$OUT"
check_match "and a sum" '0 failed' "$OUT"
doctor "no daemon" 0 --socket "$T/none.sock"
check_equal "is no failure" note "$(result_of daemon)"
doctor "another worker program" 1 --worker /bin/true
check_equal "is one" "worker program" "$(failed_step)"

# Sources that work. Hidden names count, too.
for engine in $(engines dir nfs sftp); do
	start_engine "$engine"
	echo precious >"$SERVER_DIR/precious"
	doctor "$engine" 0 "$SOURCE" ${OPTIONS:+-o "$OPTIONS"}
	check_equal "$engine: it is written and read" "ok ok ok ok" \
		"$(result_of "creating a file") $(result_of writing) $(result_of "reading it back") $(result_of "removing the file")"
	check_equal "$engine: nothing is left" precious "$(ls -A "$SERVER_DIR")"
	check "$engine: an estimate" jq -e '.estimate.read_bytes_per_s > 0 and .estimate.write_bytes_per_s > 0' "$T/tmp/doctor"
	[ "$engine" = dir ] || check_equal "$engine: every step of connecting" "ok ok" \
		"$(result_of "resolving the host name") $(result_of connecting)"
	doctor "$engine: --no-write" 0 --no-write "$SOURCE" ${OPTIONS:+-o "$OPTIONS"}
	check_equal "$engine: makes no file" null "$(result_of "creating a file")"
	check_equal "$engine: but asks" ok "$(result_of "round trip")"
done

# A volume, by name, with its own options; the daemon need not run.
opts=$(jq -nc --arg s "sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT" --arg k "$SSH_KEY" --arg h "$SSH_KNOWN_HOSTS" \
	'{source: $s, key_file: $k, known_hosts: $h}')
raw_ok Create "{\"Name\":\"site\",\"Opts\":$opts}" >/dev/null || bail "create"
doctor "a volume" 0 site
check_equal "logged in" ok "$(result_of authentication)"
check_equal "nothing is mounted" "" "$(cvol_mounts)"
doctor "an unknown volume" 1 nobody
check_match "is said to be one" "there is no volume 'nobody'" "$(text_of options)"

# Each step that fails is the one that is named.
doctor "an unknown host key" 1 "sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT" -o "key_file=$SSH_KEY"
check_equal "its step" "checking the host key" "$(failed_step)"
check_match "with the fingerprint" 'SHA256:' "$(text_of "checking the host key")"
doctor "a wrong password" 1 "sftp://tester@127.0.0.1:$SSH_PORT/" \
	-o "known_hosts=$SSH_KNOWN_HOSTS,password=not-the-$SSH_PASSWORD"
check_equal "its step" authentication "$(failed_step)"
check_absent "the password is not shown" "$SSH_PASSWORD" "$(cat "$T/tmp/doctor" "$T/tmp/doctor.err")"
doctor "a missing directory" 1 "sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT/none" -o "key_file=$SSH_KEY,known_hosts=$SSH_KNOWN_HOSTS"
check_equal "its step" "finding the directory" "$(failed_step)"
doctor "a missing export" 1 nfs://127.0.0.1/none -o version=3
check_equal "its step" "asking for the export" "$(failed_step)"
check_match "names those there are" "$NFS_EXPORT" "$(text_of "asking for the export")"
doctor "nobody listens" 1 "sftp://root@127.0.0.1:$(free_port)/"
check_equal "its step" connecting "$(failed_step)"
doctor "an unknown name" 1 nfs://no-such-host.invalid/x
check_equal "its step" "resolving the host name" "$(failed_step)"
doctor "an option that is none" 1 "sftp://root@127.0.0.1/x" -o colour=red
check_equal "its step" options "$(failed_step)"

# Where the login user may not write.
mkdir -p "$T/home/tester/own" && chmod 755 "$T/home/tester" "$T/home/tester/own"
chown root:root "$T/home/tester/own"
doctor "a directory of somebody else" 1 "sftp://tester@127.0.0.1:$SSH_PORT$T/home/tester/own" \
	-o "known_hosts=$SSH_KNOWN_HOSTS,password=$SSH_PASSWORD"
check_equal "its step" "creating a file" "$(failed_step)"
check_match "and what to do" 'permissions' "$(text_of "creating a file")"

# A server that stops answering in the middle.
start_proxy ssh "$SSH_PORT"
write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
proxy_cmd ssh hole
doctor "a server that does not answer" 1 "sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT" \
	-o "key_file=$SSH_KEY,known_hosts=$T/ssh/known_proxy"
check_equal "its step" "key exchange" "$(failed_step)"
check_equal "no worker is left" "" "$(cvol_workers)"
finish
