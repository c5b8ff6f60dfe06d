#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# The NFS server is killed under a writer and comes back: no error, every byte; and the worker does not
# burn the processor while it waits.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=90

# User and system ticks of the worker so far.
cpu_ticks() {
	awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"
}

slow_copy() {
	local i
	for ((i = 0; i < 300; i++)); do
		dd if="$T/tmp/data" bs=200000 skip="$i" count=1 status=none || return 1
		sleep 0.02
	done >"$T/mnt/copy"
}

# Data acknowledged but not yet committed when the server dies must be sent again.
kill_before_fsync() {
	exec 8>"$T/mnt/unstable"
	head -c 8000000 "$T/tmp/data" >&8
	kill_ganesha || return 1
	spawn_ganesha
	sync -d "$T/mnt/unstable"
	exec 8>&-
}

restart() {
	local engine=$1 copier worker before after
	start_engine "$engine"
	mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" || bail "mount"
	slow_copy >"$T/tmp/copy.out" 2>&1 &
	copier=$!
	sleep 2
	check "$engine: the server is killed" kill_ganesha
	worker=$(cvol_workers | head -n 1)
	sleep 1
	before=$(cpu_ticks "$worker")
	sleep 2
	after=$(cpu_ticks "$worker")
	check "$engine: while the server is away: little processor time ($((after - before)) of 200 ticks)" \
		test $((after - before)) -lt 20
	check "$engine: the writer waits" alive "$copier"
	spawn_ganesha
	check "$engine: the server is back: the writer ends" wait_gone 80 "$copier"
	wait "$copier"
	check_equal "$engine: without an error" "0 " "$? $(cat "$T/tmp/copy.out")"
	check "$engine: the server has every byte" cmp "$T/tmp/data" "$NFS_ROOT/copy"
	check "$engine: kill before fsync: fsync succeeds" kill_before_fsync
	check "$engine: every byte is there" cmp -n 8000000 "$T/tmp/data" "$NFS_ROOT/unstable"
	check "$engine: unmount" unmount_volume "$T/mnt"
	check "$engine: nothing is left" wait_nothing_left 10
}

head -c 60000000 /dev/urandom >"$T/tmp/data"
# With a grace period, as servers have one: NFSv4 must claim what it had open.
NFS_V4_PARAM="Grace_Period = 20; Lease_Lifetime = 10;"
for engine in $(engines nfs nfs4 nfs40); do
	restart "$engine"
done
finish
