#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh [ARGS of bench.py…]: the servers, inside the tests' sandbox, and bench.py beside them.
#
# The servers' directory is a tmpfs: what is compared are clients, and a disk that others use would
# be most of the noise. BENCH_DISK=1 leaves it on the disk of /tmp, BENCH_DISK=/dir puts it there.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

case ${BENCH_DISK:-} in
"") mount -t tmpfs -o mode=755 tmpfs "$SRV" || bail "no tmpfs" ;;
/*)
	disk=$(mktemp -d "$BENCH_DISK/cvol-bench-XXXXXX") || bail "cannot make a directory in $BENCH_DISK"
	defer rmdir "$disk"
	mount --bind "$disk" "$SRV" || bail "cannot use $BENCH_DISK"
	defer umount "$SRV"
	defer find "$SRV" -xdev -mindepth 1 -delete
	;;
*) [ "$(stat -f -c %T "$SRV")" != tmpfs ] || bail "BENCH_DISK=$BENCH_DISK: /tmp has no file handles; BENCH_DISK=/dir names a disk" ;;
esac
mkdir -p "$SRV/dir"
start_sshd
start_ganesha
# Round trips longer than loopback's: every port a client uses goes through a relay. bench.py sets
# the delay.
start_proxy ssh "$SSH_PORT"
SSH_PROXY=$PROXY_PORT
start_proxy nfs "$NFS_PORT"
NFS_PROXY=$PROXY_PORT
start_proxy mount "$MNT_PORT"
MNT_PROXY=$PROXY_PORT
write_known_hosts "$T/ssh/proxy_hosts" "$SSH_PROXY" "$T/ssh/host_ed25519.pub"
cat "$T/ssh/proxy_hosts" >>"$SSH_KNOWN_HOSTS"

if [ -n "${BENCH_DOCKER:-}" ]; then
	start_cvol
	start_dockerd
	import_images || bail "docker import"
else
	start_cvol
fi

export T TOP BUILD CVOL PROXY SRV SSH_PORT SSH_KEY SSH_KNOWN_HOSTS SSH_ROOT NFS_PORT MNT_PORT NFS_ROOT NFS_PSEUDO
export SSH_PROXY NFS_PROXY MNT_PROXY PLUGIN_SOCK CVOL_PID
# Not whatever python3 comes first in somebody's PATH.
python=/usr/bin/python3
[ -x "$python" ] || python=python3
"$python" "$LIB_DIR/bench/bench.py" "$@" &
bench=$!
wait "$bench"
status=$?
exit "$status"
