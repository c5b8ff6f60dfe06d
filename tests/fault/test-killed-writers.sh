#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 100
# Many writers wait for a hung server: each can be killed, and what they wrote does not come out later
# behind a truncation.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=60

start_engine nfs
start_proxy nfs "$NFS_PORT"
m=$T/mnt
mount_volume "nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT" "$m" "mountport=$MNT_PORT" || bail "mount"

all_gone() {
	local pid
	for pid in "${pids[@]}"; do
		kill -0 "$pid" 2>/dev/null && return 1
	done
	return 0
}

# Each write holds a buffer of the worker that is needed to hear that the writer was killed. The files
# are opened before the server hangs, by the writers alone: whoever inherits one waits at its exit.
writer() {
	exec 3>"$m/killed$1"
	: >"$T/tmp/ready$1"
	while [ ! -e "$T/tmp/go" ]; do sleep 0.1; done
	exec dd if=/dev/zero bs=1M count=4 >&3 2>/dev/null
}
all_ready() {
	[ "$(find "$T/tmp" -name 'ready*' | wc -l)" = 60 ]
}
pids=()
for ((i = 0; i < 60; i++)); do
	writer "$i" &
	pids+=($!)
	disown # silently
done
wait_for 20 all_ready || bail "the writers did not start"
proxy_cmd nfs hole
: >"$T/tmp/go"
sleep 2
kill -KILL "${pids[@]}"
check "60 writers that wait die on SIGKILL" wait_for 5 all_gone
proxy_cmd nfs resume
check "the mount works again" wait_for 40 timeout 5 ls "$m"

for ((i = 0; i < 60; i++)); do
	echo new >"$m/killed$i"
done
sync -f "$m/killed0"
sleep 1
check_equal "nothing older comes behind a truncation" "60 4" \
	"$(stat -c %s "$NFS_ROOT"/killed* | sort | uniq -c | tr -s ' ' | sed 's/^ //')"

check "unmount" unmount_volume "$m"
check "nothing is left" wait_nothing_left 10
finish
