#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 400
# What goes wrong when one mounts: each within the deadline, with one clear line, leaving nothing.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

DEADLINE=20 # seconds, the product's default for a mount
start_sshd
start_ganesha
SFTP=sftp://root@127.0.0.1:$SSH_PORT
NFS=nfs://127.0.0.1
KEY=key_file=$SSH_KEY
KNOWN=known_hosts=$SSH_KNOWN_HOSTS
mkdir -p "$T/mnt" "$SSH_ROOT/private/below"
chmod 700 "$SSH_ROOT/private"
echo x >"$NFS_ROOT/a-file"

# refused NAME SOURCE OPTIONS REGEX…: `cvol mount` fails in time; the one line it prints matches.
refused() {
	local name=$1 source=$2 options=$3 start took
	shift 3
	start=$(now_ms)
	LIMIT=$((DEADLINE + 15)) bounded "$CVOL" mount "$source" "$T/mnt" ${options:+-o "$options"}
	local status=$?
	took=$((($(now_ms) - start) / 1000))
	if [ "$status" -eq 0 ]; then
		not_ok "$name: is refused" "cvol mount $source succeeded"
		unmount_volume "$T/mnt"
		return
	fi
	if [ "$status" -eq 124 ] || [ "$took" -gt $((DEADLINE + 3)) ]; then
		not_ok "$name: within the deadline" "took $took s"
	else
		ok "$name: is refused within the deadline"
	fi
	local text=$OUT regex
	REFUSAL=$text
	check_equal "$name: one line" 1 "$(printf '%s\n' "$text" | wc -l)"
	for regex in "$@"; do
		check_match "$name: the line says '$regex'" "$regex" "${text,,}"
	done
	check "$name: nothing is left behind" wait_nothing_left 5
	check "$name: the mount point is as it was" rmdir "$T/mnt"
	mkdir -p "$T/mnt"
}

refused "no such host (SSH)" sftp://root@no-such-host.invalid/x "$KEY,$KNOWN" 'no-such-host\.invalid'
refused "no such host (NFS)" nfs://no-such-host.invalid/x '' 'no-such-host\.invalid'
refused "nobody listens (SSH)" sftp://root@127.0.0.1:1/x "$KEY,$KNOWN" '127\.0\.0\.1' 'refused|connect'
refused "nobody listens (NFS)" "nfs://127.0.0.1:1$NFS_EXPORT" '' '127\.0\.0\.1' 'refused|connect'
refused "wrong export" "$NFS/no/such/export" '' '/no/such/export' '127\.0\.0\.1'
refused "wrong directory (NFS)" "$NFS$NFS_EXPORT/no-such-directory" '' 'no-such-directory'
refused "a file, not a directory (NFS)" "$NFS$NFS_EXPORT/a-file" '' 'a-file' 'director'
refused "wrong directory (SSH)" "$SFTP/no/such/directory" "$KEY,$KNOWN" '/no/such/directory' 'no such|not found|does not exist'
refused "wrong key" "$SFTP$SSH_ROOT" "key_file=$T/ssh/wrong,$KNOWN" 'root' 'key|auth|login|log in'
refused "key file missing" "$SFTP$SSH_ROOT" "key_file=$T/ssh/none,$KNOWN" 'ssh/none'
ssh-keygen -q -t ed25519 -N '' -f "$T/ssh/other_host"
write_known_hosts "$T/ssh/known_other" "$SSH_PORT" "$T/ssh/other_host.pub"
refused "changed host key" "$SFTP$SSH_ROOT" "$KEY,known_hosts=$T/ssh/known_other" 'host key' 'sha256:'
: >"$T/ssh/known_none"
refused "unknown host key" "$SFTP$SSH_ROOT" "$KEY,known_hosts=$T/ssh/known_none" 'host key' 'sha256:' 'host_key'
refused "unknown user" "sftp://nobody-here@127.0.0.1:$SSH_PORT/tmp" "$KEY,$KNOWN" 'nobody-here'
cp "$SSH_KEY.pub" "$T/ssh/authorized"
refused "directory without permission (SSH)" "sftp://tester@127.0.0.1:$SSH_PORT$SSH_ROOT/private/below" \
	"$KEY,$KNOWN" 'private' 'permission|denied|not allowed'
refused "wrong password" "$SFTP$SSH_ROOT" "password=wrong-secret-4711,$KNOWN" 'password|auth|log in|login'
check_absent "wrong password: and it does not repeat it" wrong-secret-4711 "$REFUSAL"
refused "not an SSH server" "sftp://root@127.0.0.1:$NFS_PORT/x" "$KEY,$KNOWN" '127\.0\.0\.1'
refused "an unknown option" "$SFTP$SSH_ROOT" "$KEY,$KNOWN,keyfile2=x" 'keyfile2'
refused "an option of another engine" "$NFS$NFS_EXPORT" "$KEY" 'key_file'
refused "an unknown kind of source" 'ftp://host/x' '' 'ftp'
refused "a source that is not one" 'nonsense' '' 'nonsense'
refused "a directory that is not there (dir)" "dir://$T/none" '' "none"
if make_black_hole; then
	refused "a black hole (SSH)" "sftp://root@$BLACK_HOLE/x" "$KEY,$KNOWN" '198\.51\.100\.2' 'time|answer'
	refused "a black hole (NFS)" "nfs://$BLACK_HOLE/x" '' '198\.51\.100\.2' 'time|answer'
else
	skip "a black hole" "this kernel has no veth"
fi
start_proxy mute "$SSH_PORT"
proxy_cmd mute mute
refused "a server that accepts and says nothing (SSH)" "sftp://root@127.0.0.1:$PROXY_PORT/x" \
	"$KEY,$KNOWN,mount_timeout=5" '127\.0\.0\.1' 'time|answer'
refused "a server that accepts and says nothing (NFS)" "nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT" \
	"mountport=$PROXY_PORT,mount_timeout=5" '127\.0\.0\.1' 'time|answer'

check_fails "the mount point does not exist" "$CVOL" mount "dir://$SRV" "$T/no-such-dir"
check_match "and the line says so" no-such-dir "$OUT"

# The same through Docker: the text reaches the user, no mount, worker or directory is left.
start_dockerd
import_images || bail "docker import"
start_cvol
docker_refused() {
	local name=$1 volume=$2 regex=$3
	shift 3
	d volume create -d cvol "$@" "$volume" >/dev/null 2>&1
	check_fails "docker run, $name: fails" d run --rm -v "$volume:/data" cvol-test true
	check_match "docker run, $name: docker shows our line" "$regex" "$OUT"
	check_match "docker run, $name: names the volume" "$volume" "$OUT"
	check "docker run, $name: nothing is left" wait_nothing_left 5
	check_equal "docker run, $name: no directory is left below the run directory" "" \
		"$(find "$RUN_DIR" -type d -name "*$volume*" 2>/dev/null)"
	check "docker run, $name: volume rm" d volume rm "$volume"
}
docker_refused "wrong export" bad-export '/no/such/export' -o "source=$NFS/no/such/export"
docker_refused "wrong key" bad-key 'key|auth|log in|login' -o "source=$SFTP$SSH_ROOT" \
	-o "key_file=$T/ssh/wrong" -o "$KNOWN"
docker_refused "wrong host key" bad-hostkey 'SHA256:' -o "source=$SFTP$SSH_ROOT" -o "$KEY" \
	-o "known_hosts=$T/ssh/known_other"
docker_refused "nobody listens" bad-port '127\.0\.0\.1.*refused' -o "source=nfs://127.0.0.1:1$NFS_EXPORT"
finish
