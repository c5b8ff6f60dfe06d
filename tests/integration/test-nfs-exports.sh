#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# Exports as administrators write them: root squashed, for privileged ports or other clients only, read-only,
# one within the other, over IPv6; and owners as uid= and gid= show them.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=60

# export_of ID NAME SQUASH MORE…
export_of() {
	local id=$1 name=$2 squash=$3
	shift 3
	echo "EXPORT { Export_Id = $id; Path = $SRV/$name; Pseudo = /${name/nfs\//export\/}; Squash = $squash; SecType = sys;
		Transports = TCP; Protocols = 3, 4; FSAL { Name = VFS; } $* }"
}
# All of it is there before the server is, which remembers what it has seen.
mkdir -p "$SRV"/{squashed,closed,reserved,readonly,shown,small,nfs/inner}
mount -t tmpfs -o size=40m tmpfs "$SRV/small" || bail "mounting a tmpfs"
for version in 3 4.1 4.0; do
	mkdir -m 777 "$SRV/squashed/$version" # in one with 1777 the kernel forbids root what is nobody's
	echo secret >"$SRV/squashed/$version/roots"
	chmod 600 "$SRV/squashed/$version/roots"
	mkdir -p "$SRV/shown/$version/theirs"
	echo x >"$SRV/shown/$version/theirs/roots"
	chown 1000:1001 "$SRV/shown/$version"
done
echo x >"$SRV/readonly/f"
echo within >"$SRV/nfs/inner/f"
NFS_MORE_EXPORTS="$(export_of 2 squashed Root_Squash 'Access_Type = RW;')
	$(export_of 3 closed No_Root_Squash 'Access_Type = NONE; CLIENT { Clients = 203.0.113.9; Access_Type = RW; }')
	$(export_of 4 reserved No_Root_Squash 'Access_Type = RW; PrivilegedPort = true;')
	$(export_of 5 readonly No_Root_Squash 'Access_Type = RO;')
	$(export_of 6 shown No_Root_Squash 'Access_Type = RW;')
	$(export_of 8 small No_Root_Squash 'Access_Type = RW;')
	$(export_of 7 nfs/inner No_Root_Squash 'Access_Type = RW;')"
NFS_ADDRESS=0.0.0.0 # and of IPv6
start_ganesha
m=$T/mnt

# where NAME: the source of that export, as the version has it.
where() {
	case $version in
	3) echo "nfs://127.0.0.1$SRV/$1" ;;
	*) echo "nfs://127.0.0.1/${1/nfs\//export\/}" ;;
	esac
}
as() {
	local id=$1
	shift
	setpriv --reuid "$id" --regid "$id" --clear-groups "$@"
}
owner() {
	stat -c %u:%g "$1"
}

for version in 3 4.1 4.0; do
	v="NFSv$version"
	there=$SRV/squashed/$version

	# ---- root squash

	check "$v: squash: mount" mount_volume "$(where "squashed/$version")" "$m" "version=$version"
	check "$v: squash: a file of root's" sh -c "echo x >'$m/file'"
	check_equal "$v: squash: is somebody else's" "$(owner "$there/file")" "$(owner "$m/file")"
	check "$v: squash: nobody's" test "$(stat -c %u "$m/file")" -ge 65534
	check_fails "$v: squash: what is root's alone is not to be read" cat "$m/roots"
	check_match "$v: squash: which is said" 'ermission denied' "$OUT"
	check_fails "$v: squash: a change of owner is refused" chown 1000:1000 "$m/file"
	check_match "$v: squash: as by any server" 'not permitted' "$OUT"
	check "$v: squash: others are who they are" as 1000 touch "$m/theirs"
	check_equal "$v: squash: on the server" 1000:1000 "$(owner "$there/theirs")"
	check "$v: squash: unmount" unmount_volume "$m"
	check "$v: squash, chown=ignore: mount" mount_volume "$(where "squashed/$version")" "$m" "version=$version,chown=ignore"
	# As Docker copies the content of an image.
	mkdir -p "$T/seed/sub"
	echo seed >"$T/seed/sub/file"
	chown -R 1000:1000 "$T/seed"
	chmod 640 "$T/seed/sub/file"
	check "$v: squash, chown=ignore: a tree is copied, owners and all" cp -a "$T/seed" "$m/seed"
	check_equal "$v: squash, chown=ignore: it is there" "seed 640" \
		"$(cat "$there/seed/sub/file") $(stat -c %a "$there/seed/sub/file")"
	check_equal "$v: squash, chown=ignore: with the owner that the server gives" "$(owner "$there/seed/sub/file")" \
		"$(owner "$m/seed/sub/file")"
	check "$v: squash, chown=ignore: tar as root" sh -c "tar -C '$T' -cf - seed | tar -C '$m' -xpf - --transform s/seed/untarred/"
	check_equal "$v: squash, chown=ignore: the mode that was set with the owner" 640 "$(stat -c %a "$m/untarred/sub/file")"
	check "$v: squash, chown=ignore: unmount" unmount_volume "$m"

	# ---- uid= and gid=

	check "$v: uid=: mount" mount_volume "$(where "shown/$version")" "$m" "version=$version,uid=1000,gid=1001"
	check_equal "$v: uid=: whose everything is" "1000:1001 1000:1001" "$(owner "$m/theirs") $(owner "$m/theirs/roots")"
	check_equal "$v: uid=: in a listing, too" "1000:1001" "$(find "$m/theirs" -name roots -printf '%U:%G')"
	check "$v: uid=: root makes a file" sh -c "echo x >'$m/mine'"
	check_equal "$v: uid=: as that user, on the server" 1000:1001 "$(owner "$SRV/shown/$version/mine")"
	check "$v: uid=: giving it to whom it is shown as" chown 1000:1001 "$m/mine"
	check_equal "$v: uid=: changes nothing" 1000:1001 "$(owner "$SRV/shown/$version/mine")"
	check "$v: uid=: unmount" unmount_volume "$m"

	# ---- who is let in

	check "$v: for privileged ports: mount" mount_volume "$(where reserved)" "$m" "version=$version"
	check "$v: for privileged ports: is used" sh -c "echo x >'$m/f' && cat '$m/f'"
	check "$v: for privileged ports: unmount" unmount_volume "$m"
	check_fails "$v: for others: is refused" mount_volume "$(where closed)" "$m" "version=$version"
	check_match "$v: for others: it says what to look at" "client.*address|client list|there is:|exports:" "$OUT"

	# ---- read-only there

	check "$v: read-only on the server: mount" mount_volume "$(where readonly)" "$m" "version=$version"
	check_equal "$v: read-only on the server: is read" x "$(cat "$m/f")"
	check_fails "$v: read-only on the server: a change" sh -c "echo y >>'$m/f'"
	# ACCESS, which NFSv3 asks, knows no reasons; as with the kernel's client.
	check_match "$v: read-only on the server: is refused as that" 'ead-only|ermission denied' "$OUT"
	check_fails "$v: read-only on the server: a new file" touch "$m/new"
	check_match "$v: read-only on the server: likewise" 'ead-only' "$OUT"
	check "$v: read-only on the server: unmount" unmount_volume "$m"

	# ---- full

	check "$v: full: mount" mount_volume "$(where small)" "$m" "version=$version"
	check "$v: full: whoever writes is told, at the write or at the end, and can go on when there is room" \
		"$BUILD/tests/conformance" "$m" --only no_space --enospc "$m"
	check "$v: full: unmount" unmount_volume "$m"

	# ---- one export within the other

	check "$v: nested: mount" mount_volume "$([ "$version" = 3 ] && echo "nfs://127.0.0.1$NFS_ROOT" || echo "nfs://127.0.0.1/")" \
		"$m" "version=$version"
	check "$v: nested: a walk gets to its end" sh -c "find '$m' >'$T/tmp/found' 2>&1"
	check_equal "$v: nested: and to the file within, once" 1 "$(grep -c 'inner/f$' "$T/tmp/found")"
	check_equal "$v: nested: no loop is seen" 0 "$(grep -ci loop "$T/tmp/found")"
	check_equal "$v: nested: no inode number comes twice" "" \
		"$(find "$m" -path '*closed*' -prune -o -printf '%i\n' | sort | uniq -d)"
	check "$v: nested: unmount" unmount_volume "$m"

	# ---- IPv6

	check "$v: IPv6: mount" mount_volume "$(where nfs/inner | sed 's/127.0.0.1/[::1]/')" "$m" "version=$version"
	check_equal "$v: IPv6: is read" within "$(cat "$m/f")"
	check "$v: IPv6: unmount" unmount_volume "$m"
done

note "no portmapper"
stop_pid "$RPCBIND_PID"
version=3
check_fails "no portmapper: mount" mount_volume "$(where nfs/inner)" "$m" version=3
check_match "no portmapper: the cure" 'port=.*mountport=' "$OUT"
check "no portmapper, with both ports: mount" mount_volume "$(where nfs/inner)" "$m" "version=3,port=$NFS_PORT,mountport=$MNT_PORT"
check_equal "no portmapper, with both ports: is read" within "$(cat "$m/f")"
check "no portmapper, with both ports: unmount" unmount_volume "$m"
check "no portmapper, auto: mount" mount_volume "nfs://127.0.0.1/export/inner" "$m" ''
check_match "no portmapper, auto: is NFSv4" 'NFSv4' "$("$CVOL" status --json 2>/dev/null | jq -r '.Volumes[0].Status.server')"
check "no portmapper, auto: unmount" unmount_volume "$m"
check "nothing is left" wait_nothing_left 10
finish
