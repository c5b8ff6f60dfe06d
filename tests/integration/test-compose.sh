#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# Compose files written for other drivers work once they name this one. What Compose does with a
# volume is done here by hand: driver_opts become the options of a create.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_sshd
start_ganesha
start_dockerd
import_images || bail "docker import"
start_cvol
mkdir -p "$T/home/tester/data" "$SSH_ROOT/rclone" "$NFS_ROOT"/{local,local4,netshare,trajano,csi}
chown 12345:12345 "$T/home/tester/data"

# driver_opts FILE: "name=value" a line, as in the file's one volume.
driver_opts() {
	sed -e "s,@HOME@,$T/home/tester,;s,@PASSWORD@,$SSH_PASSWORD,;s,@SSH_PORT@,$SSH_PORT,;s,@SSH_ROOT@,$SSH_ROOT," \
		-e "s,@SSH_KEY@,$SSH_KEY,;s,@KNOWN_HOSTS@,$SSH_KNOWN_HOSTS,;s,@EXPORT@,$NFS_EXPORT,;s,@NFS_PORT@,$NFS_PORT," "$1" |
		awk '/^    driver_opts:/ { on = 1; next } !/^      / { on = 0 }
			on { sub(/^ */, ""); i = index($0, ": "); v = substr($0, i + 2)
				if (v ~ /^".*"$/) v = substr(v, 2, length(v) - 2)
				print substr($0, 1, i - 1) "=" v }'
}

# works FAMILY DIRECTORY: a container writes through the volume, and the server has it there.
works() {
	local family=$1 dir=$2 v=project_$1 opts opt args=()
	mapfile -t opts < <(driver_opts "$(dirname "$0")/../compose/$family.yml")
	[ "${#opts[@]}" -gt 1 ] || bail "no options found in $family.yml"
	for opt in "${opts[@]}"; do
		args+=(-o "$opt")
	done
	check "$family: volume create" d volume create -d cvol "${args[@]}" "$v" || return
	check "$family: again, as at every 'up'" d volume create -d cvol "${args[@]}" "$v"
	check "$family: a container uses it" d run --rm -v "$v:/data" cvol-test \
		sh -c "echo '$family' >/data/from && cat /data/from"
	check_equal "$family: the server has it" "$family" "$(cat "$dir/from")"
	check "$family: volume rm" d volume rm "$v"
	check_equal "$family: the data is kept" "$family" "$(cat "$dir/from")"
}

works vieux-sshfs "$T/home/tester/data"
works rclone "$SSH_ROOT/rclone"
works rclone-remote "$SSH_ROOT/rclone"
works local-nfs "$NFS_ROOT/local"
works local-nfs4 "$NFS_ROOT/local4"
works netshare "$NFS_ROOT/netshare/project_netshare"
works trajano-nfs "$NFS_ROOT/trajano"
works csi-nfs "$NFS_ROOT/csi/project_csi-nfs"
check_equal "csi-nfs: mountPermissions are those of the directory" 777 \
	"$(stat -c %a "$NFS_ROOT/csi/project_csi-nfs")"

# The name says it all, as netshare has it.
mkdir -p "$NFS_ROOT/byname"
check "a name host/path" d run --rm --volume-driver cvol -v "127.0.0.1$NFS_EXPORT/byname:/data" cvol-test \
	sh -c 'echo name >/data/from'
check_equal "a name host/path: the server has it" name "$(cat "$NFS_ROOT/byname/from")"

check_fails "an option that runs programs is refused" d volume create -d cvol -o sshcmd=u@h:/x \
	-o ProxyCommand=nc bad
check_match "and says why" 'run programs' "$OUT"
check_fails "an unknown one as well" d volume create -d cvol -o sshcmd=u@h:/x -o IdentityFil=/k bad
check_match "with the nearest names and where all are" "did you mean key_file.*cvol options" "$OUT"
check "creating asks no server" d volume create -d cvol -o type=nfs -o o=addr=192.0.2.99,nfsvers=4.1 -o device=:/x away
check "options are listed" "$CVOL" options
check_match "with their other names" 'sshcmd' "$OUT"
finish
