#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 400
# What people do with volumes in Docker, with the real engine, on every engine of ours.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_dockerd
import_images || bail "docker import"
start_cvol

# create_args ENGINE: the -o options of a volume on that engine's server, in sub-directory $2.
create_args() {
	start_engine "$1"
	mkdir -p "$SERVER_DIR/$2"
	ARGS=(-o "source=$SOURCE/$2")
	local word words
	IFS=, read -ra words <<<"$OPTIONS"
	for word in "${words[@]}"; do
		ARGS+=(-o "$word")
	done
}

seed_is_complete() {
	d run --rm -v "$1:/seed" cvol-test sh -c '
		set -ex
		cd /seed
		[ "$(cat file)" = "from the image" ]
		[ "$(cat hardlink)" = "from the image" ]
		[ "$(readlink symlink)" = file ]
		[ "$(readlink dangling)" = /nowhere/at/all ]
		[ "$(stat -c %u:%g:%a dir/odd)" = 1234:4321:640 ]
		[ -d dir/empty ]
		[ "$(stat -c %s dir/blob)" = 300000 ]'
}

basics() {
	local e=$1 v=$1-vol
	create_args "$e" "$v"
	check "$e: volume create" d volume create -d cvol "${ARGS[@]}" "$v"
	check "$e: create again with the same options" d volume create -d cvol "${ARGS[@]}" "$v"
	check "$e: volume ls" d volume ls
	check_match "$e: volume ls shows it" "cvol +$v" "$OUT"
	check "$e: volume inspect" d volume inspect "$v"
	check_match "$e: inspect shows the driver" '"Driver": "cvol' "$OUT"
	check_match "$e: inspect shows when it was made" "\"CreatedAt\": \"$(date -u +%Y)-" "$OUT"

	check "$e: run writes" d run --rm -v "$v:/data" cvol-test \
		sh -c 'echo hello >/data/file && mkdir /data/dir && dd if=/dev/zero of=/data/dir/zeros bs=64k count=64 2>/dev/null'
	check_equal "$e: what it wrote is on the server when run returns" "hello 4194304" \
		"$(cat "$SERVER_DIR/$v/file") $(stat -c %s "$SERVER_DIR/$v/dir/zeros")"
	check "$e: run reads" d run --rm -v "$v:/data" cvol-test cat /data/file
	check_equal "$e: it reads what was written" hello "$OUT"
	check_fails "$e: a read-only mount refuses writing" d run --rm -v "$v:/data:ro" cvol-test \
		sh -c 'echo x >/data/ro'
	check "$e: a read-only mount reads" d run --rm -v "$v:/data:ro" cvol-test cat /data/file

	check "$e: a container stays" d run -d --name "$e-a" -v "$v:/data" cvol-test sleep 600
	check "$e: --volumes-from sees the data" d run --rm --volumes-from "$e-a" cvol-test cat /data/file
	check "$e: --volumes-from writes" d run --rm --volumes-from "$e-a" cvol-test \
		sh -c 'echo two >/data/two'
	check "$e: the first container sees that" d exec "$e-a" cat /data/two
	check_fails "$e: volume rm while in use is refused" d volume rm "$v"

	echo "copied in" >"$T/tmp/in"
	check "$e: docker cp into a running container" d cp "$T/tmp/in" "$e-a:/data/in"
	check_equal "$e: docker cp reached the server" "copied in" "$(cat "$SERVER_DIR/$v/in")"
	check "$e: docker cp out of a running container" d cp "$e-a:/data/file" "$T/tmp/out"
	check_equal "$e: docker cp brought the content" hello "$(cat "$T/tmp/out")"
	check "$e: the container still has its mount after docker cp" d exec "$e-a" \
		sh -c 'cat /data/in && echo still >/data/still'
	check_equal "$e: and it is the same one" still "$(cat "$SERVER_DIR/$v/still")"
	check "$e: restart of the container" d restart -t 1 "$e-a"
	check "$e: data after the restart" d exec "$e-a" cat /data/still
	check "$e: stop" d stop -t 1 "$e-a"
	check "$e: docker cp from a stopped container" d cp "$e-a:/data/file" "$T/tmp/out"
	check "$e: rm" d rm "$e-a"
	check "$e: the same volume twice in one container" d run --rm -v "$v:/a" -v "$v:/b" cvol-test \
		sh -c 'echo both >/a/both && cat /b/both'
	check "$e: volume rm" d volume rm "$v"
	check_fails "$e: it is gone" d volume inspect "$v"
	check_equal "$e: the data is not" hello "$(cat "$SERVER_DIR/$v/file")"
	check "$e: no mount and no worker is left" wait_nothing_left 10
}

seeding() {
	local e=$1 image=$2 v=$1-seed
	create_args "$e" "$v"
	shift 2
	d volume create -d cvol "${ARGS[@]}" "$@" "$v" >/dev/null
	check "$e: an image's VOLUME content is copied up" d run --rm -v "$v:/seed" "$image" ls -l /seed
	check "$e: with links, owners and modes" seed_is_complete "$v"
	check "$e: a second container finds it unchanged" d run --rm -v "$v:/seed" "$image" true
	check "$e: complete still" seed_is_complete "$v"
	d volume rm "$v" >/dev/null
}

for engine in $(engines dir nfs sftp); do
	basics "$engine"
done

# one_file DIR: its `file` and `hardlink` are one. Seen on the server, since SFTP tells neither link counts
# nor inode numbers.
one_file() {
	[ "$1/file" -ef "$1/hardlink" ] && [ "$(stat -c %h "$1/file")" = 2 ]
}

seeding dir cvol-test-volume
check "dir: the hard link is one" one_file "$SRV/dir/dir-seed"
check "dir: the fifo is one" test -p "$SRV/dir/dir-seed/fifo"
seeding nfs cvol-test-volume
check "nfs: the hard link is one" one_file "$NFS_ROOT/nfs-seed"
check_equal "nfs: and looks like one" 2 "$(d run --rm --mount "type=volume,src=nfs-look,dst=/s,volume-driver=cvol,volume-opt=source=nfs://127.0.0.1$NFS_EXPORT/nfs-seed" cvol-test stat -c %h /s/file)"
check "nfs: the fifo is one" test -p "$NFS_ROOT/nfs-seed/fifo"
seeding sftp cvol-test-volume
check "sftp: the fifo is one" d run --rm --mount "type=volume,src=sftp-look,dst=/s,volume-driver=cvol,volume-opt=source=sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT/sftp-seed,volume-opt=key_file=$SSH_KEY,volume-opt=known_hosts=$SSH_KNOWN_HOSTS" cvol-test test -p /s/fifo
check "sftp: the hard link is one" one_file "$SSH_ROOT/sftp-seed"
create_args sftp sftp-seed
d volume create -d cvol "${ARGS[@]}" -o symlinks=contain contained >/dev/null
check "sftp: symlinks=contain: a link within is followed" d run --rm -v contained:/s cvol-test cat /s/symlink
check_fails "sftp: symlinks=contain: a link to elsewhere is not told" d run --rm -v contained:/s cvol-test \
	readlink /s/dangling
d volume rm contained >/dev/null

# No options at all: the embedded default.
check "no options: create" d volume create -d cvol plain
check "no options: run" d run --rm -v plain:/data cvol-test sh -c 'echo kept >/data/x'
check "no options: the data is there in the next container" d run --rm -v plain:/data cvol-test cat /data/x
check_equal "no options: content" kept "$OUT"
check "a name never created before" d run --rm --volume-driver cvol -v fresh:/data cvol-test \
	sh -c 'echo new >/data/x'
check "it is a volume of ours" d volume inspect -f '{{.Driver}}' fresh
check_match "it is a volume of ours, not a local one" '^cvol' "$OUT"
check "two volumes with no options do not share data" d run --rm -v plain:/a -v fresh:/b cvol-test \
	sh -c 'test "$(cat /a/x)" = kept && test "$(cat /b/x)" = new'

start_engine nfs
mkdir -p "$SERVER_DIR/by-mount"
check "--mount with volume-driver and volume-opt" d run --rm \
	--mount "type=volume,src=bymount,dst=/data,volume-driver=cvol,volume-opt=source=$SOURCE/by-mount" \
	cvol-test sh -c 'echo mounted >/data/x'
check_equal "--mount: it is on the server" mounted "$(cat "$SERVER_DIR/by-mount/x")"
check_fails "--mount with a wrong option fails" d run --rm \
	--mount "type=volume,src=badopt,dst=/data,volume-driver=cvol,volume-opt=sorce=$SOURCE" cvol-test true
check_match "and says which" sorce "$OUT"

# Two volumes on one target, one of them removed.
mkdir -p "$SERVER_DIR/shared"
d volume create -d cvol -o "source=$SOURCE/shared" left >/dev/null
d volume create -d cvol -o "source=$SOURCE/shared" right >/dev/null
check "two volumes on one target: written through one" d run --rm -v left:/l cvol-test \
	sh -c 'echo common >/l/x'
d run -d --name keeper -v right:/r cvol-test sleep 600 >/dev/null
check "two volumes on one target: one is removed" d volume rm left
check "two volumes on one target: the other works on" d exec keeper sh -c 'cat /r/x && echo more >/r/y'
check_equal "two volumes on one target: nothing was lost" "common more" \
	"$(cat "$SERVER_DIR/shared/x") $(cat "$SERVER_DIR/shared/y")"
d rm -f keeper >/dev/null

for name in plain fresh bymount right nfs-look sftp-look; do
	d volume rm "$name" >/dev/null
done
check "the end: no mount and no worker is left" wait_nothing_left 10
check_equal "the end: no volume is left" "" "$(d volume ls -q)"
stop_cvol
check "the end: nothing is left of the daemon" test ! -S "$PLUGIN_SOCK"
finish
