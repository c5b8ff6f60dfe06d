#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# Remotes, defaults, sub-directories and what becomes of them, changed options, on real servers.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_sshd
start_ganesha
start_dockerd
import_images || bail "docker import"
conf=$T/etc-cvol
mkdir -p "$conf/remotes.d"
start_cvol --config-dir "$conf"

# run VOLUME COMMAND: in a container that has the volume on /data.
run() {
	d run --rm --volume-driver cvol -v "$1:/data" cvol-test sh -c "$2"
}
# create NAME OPTION…
create() {
	local name=$1 opt args=()
	shift
	for opt in "$@"; do
		args+=(-o "$opt")
	done
	d volume create -d cvol "${args[@]}" "$name"
}
remote() {
	"$CVOL" remote "$@" --config-dir "$conf" --run-dir "$RUN_DIR"
}
volume() {
	"$CVOL" volume "$@" --socket "$PLUGIN_SOCK"
}

# ---- remotes
mkdir -p "$NFS_ROOT/docker" "$SSH_ROOT/docker" "$SRV/dir"
cat >"$conf/remotes.d/nas.json" <<END
{ "source": "nfs://127.0.0.1$NFS_EXPORT/docker", "description": "the test's NFS server",
  "options": { "mode": "0750", "owner": "1000:2000" } }
END
cat >"$conf/remotes.d/box.json" <<END
{ "source": "sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT/docker",
  "options": { "key_file": "$SSH_KEY", "known_hosts": "$SSH_KNOWN_HOSTS", "mode": "0770", "owner": "7:8" } }
END
cat >"$conf/remotes.d/nas4.json" <<END
{ "source": "nfs://127.0.0.1/export/docker", "options": { "version": "4", "owner": "9:10", "mode": "0700" } }
END
echo "{ \"source\": \"dir://$SRV/dir\", \"options\": { \"owner\": 5 } }" >"$conf/remotes.d/here.json"
check "remote ls" remote ls
check_match "shows each with its place" "nas +nfs://127.0.0.1$NFS_EXPORT/docker +the test's" "$OUT"
check "remote ls --json is JSON" sh -c "'$CVOL' remote ls --json --config-dir '$conf' | jq -e 'length == 4'"
check "remote show" remote show box
check_match "shows its options" "mode=0770" "$OUT"
check "remote test nfs" remote test nas
check_match "says what answered" 'ok: .*NFS' "$OUT"
check "remote test sftp, dir, NFSv4" remote test box here nas4
check_equal "a test creates nothing" "" "$(find "$NFS_ROOT/docker" "$SSH_ROOT/docker" "$SRV/dir" -mindepth 1)"
check_fails "remote test of none" remote test nobody
check_match "says where it would be" 'remotes.d/nobody.json' "$OUT"
echo "{ \"source\": \"sftp://u@127.0.0.1:9/x\" }" >"$conf/remotes.d/gone.json"
check_fails "remote test without a server" remote test gone
check_match "says why" "remote 'gone'.*refused" "$OUT"
check_fails "the same for programs" remote test gone --json
printf '%s' "$OUT" >"$T/tmp/json"
check "is JSON" jq -e '.ok == false and (.error | length > 0)' "$T/tmp/json"
rm "$conf/remotes.d/gone.json"

check "a volume in a remote" create web source=nas:web
check "works" run web 'echo hi >/data/x'
check_equal "in its sub-directory" hi "$(cat "$NFS_ROOT/docker/web/x")"
for engine in nfs:nas:1000:2000:750 nfs4:nas4:9:10:700 sftp:box:7:8:770 dir:here:5:5:755; do
	IFS=: read -r name remote_name uid gid mode <<<"$engine"
	check "$name: create" create "made-$name" "remote=$remote_name" "subdir=by/\${name}"
	check "$name: run" run "made-$name" 'echo x >/data/x'
	case $name in
	nfs*) top=$NFS_ROOT/docker ;;
	sftp) top=$SSH_ROOT/docker ;;
	dir) top=$SRV/dir ;;
	esac
	check_equal "$name: owner and mode of the sub-directory" "$uid:$gid:$mode" \
		"$(stat -c %u:%g:%a "$top/by/made-$name")"
	check_equal "$name: with what was written in it" x "$(cat "$top/by/made-$name/x")"
done
check_fails "a remote that is not there" create bad remote=nobody
check_match "is refused when the volume is created" "no remote 'nobody'" "$OUT"

# ---- the default remote
check "before: no default" create plain
echo '{ "default_remote": "nas", "defaults": { "timeout": "20s" } }' >"$conf/cvol.json"
check "no options at all" run fresh 'echo fresh >/data/x'
check_equal "lands in the default remote" fresh "$(cat "$NFS_ROOT/docker/fresh/x")"
check "what was there before" run plain 'echo old >/data/x'
check_equal "stays on this host" old "$(cat "$STATE_DIR/data/plain/x")"
check "and can be created again" create plain
check "a strange name" run 'a b..c' 'echo strange >/data/x'
check_equal "is one directory" strange "$(cat "$NFS_ROOT/docker/a%20b..c/x" 2>/dev/null || cat "$NFS_ROOT/docker/a b..c/x")"
check "cvol mount knows remotes, too" mount_volume nas:web "$T/mnt" "" --config-dir "$conf"
check_equal "and mounts the same" hi "$(cat "$T/mnt/x")"
check "cvol unmount" "$CVOL" unmount "$T/mnt"

# ---- archive
check "archive: create" create old remote=nas "subdir=\${name}" on_delete=archive
check "archive: run" run old 'echo precious >/data/x'
check "archive: another volume inside it" create inner source=nas:old/deeper
check_fails "archive: volume rm is refused then" d volume rm old
check_match "archive: with the reason" "volume 'inner' uses it" "$OUT"
check "archive: without the other" d volume rm inner
check "archive: volume rm" d volume rm old
check_equal "archive: the directory has another name" precious "$(cat "$NFS_ROOT"/docker/archived-old-*/x)"
check "archive: and not the old one" test ! -e "$NFS_ROOT/docker/old"
check "archive: the name is free again" run old 'test ! -e /data/x'
mkdir "$NFS_ROOT/docker/foreign"
check "archive: a directory that was there before" create foreign source=nas:foreign on_delete=archive
check "archive: run" run foreign 'echo mine >/data/x'
check "archive: volume rm" d volume rm foreign
check_equal "archive: stays where it is" mine "$(cat "$NFS_ROOT/docker/foreign/x")"
check "archive on SSH: create" create sold remote=box "subdir=deep/\${name}" on_delete=archive
check "archive on SSH: run" run sold 'echo s >/data/x'
stop_sshd
check_fails "archive: not without its server" d volume rm sold
check_match "archive: which it says" 'was not removed' "$OUT"
start_sshd
check "archive on SSH: volume rm" d volume rm sold
check_equal "archive on SSH: renamed" s "$(cat "$SSH_ROOT"/docker/deep/archived-sold-*/x)"
check_fails "delete is not offered" create never source=nas:x on_delete=delete
check_match "and says so" 'never deletes' "$OUT"

# ---- update
check "update: a container" d run -d --name up -v web:/data cvol-test sleep 300
check "update: an option of a mounted volume" volume update web -o readonly=true -o on_delete=retain
check_match "update: says when it counts" 'changed now: on_delete; changed from the next mount on.*readonly' "$OUT"
check "update: not yet" d exec up sh -c 'echo y >/data/y'
before=$(cvol_workers)
check "update: how long it waits" volume update web -o timeout=7s
check_match "update: counts at once" 'changed now: timeout$' "$OUT"
check "update: by another worker" test "$before" != "$(cvol_workers)"
check "update: which nobody notices" d exec up sh -c 'echo n >/data/n && grep -q y /data/y'
check "update: a port where nobody listens" volume update web -o port=1
check_match "update: not now, and why" 'next mount.*: port \(not now: .*refused' "$OUT"
check "update: the mount goes on" d exec up sh -c 'echo m >/data/m'
check "update: back" volume update web --unset port,timeout
d rm -f up >/dev/null
check_fails "update: at the next mount" run web 'echo z >/data/z'
check "update: back" volume update web --unset readonly
check "update: writes again" run web 'echo z >/data/z'
check_fails "update: nonsense" volume update web -o readonyl=true
check_match "update: changes nothing" "is as it was.*did you mean readonly" "$OUT"
check_fails "create with other options" raw_ok Create "{\"Name\":\"web\",\"Opts\":{\"source\":\"nas:other\"}}"
check_match "lists the differences" "subdir is 'web', not 'other'" "$OUT"

# ---- check=true
check "check=true: a server that is there" create checked remote=nas check=true
check_fails "check=true: one that is not" create unchecked source=sftp://u@127.0.0.1:9/x check=true
check_match "check=true: says why" 'refused' "$OUT"
check_fails "check=true: and creates nothing" d volume inspect unchecked

stop_cvol
start_cvol --config-dir "$conf"
check "after a restart of cvol" run fresh 'cat /data/x'
check "the end: nothing is left" wait_nothing_left 10
finish
