#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# What the network and the NFS server can do to a connection, under fio, which verifies what it wrote: no
# error in `hard`, no wrong byte, and the volume goes on soon after the server is back. In `soft` there is an
# error, in time.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=60

# is_away NAME SECONDS: and nothing goes on meanwhile.
is_away() {
	local before
	sleep 1
	before=$(beats)
	sleep "$2"
	check "$engine: $1: nothing gets through" test "$(beats)" -eq "$before"
}

faults() {
	start_beat "$m"
	check "$engine: it runs" wait_for 10 goes_on 5
	timeout 100 fio --name=faults --verify_state_save=0 --directory="$m" --rw=randrw --bsrange=4k-256k --size=16m --numjobs=2 \
		--verify=crc32c --verify_fatal=1 --verify_dump=0 --do_verify=1 --verify_backlog=64 --time_based --runtime=40 \
		--end_fsync=1 --ioengine=psync --output="$T/tmp/fio" >"$T/log/fio-$engine.log" 2>&1 &
	local fio=$!
	sleep 1

	proxy_cmd "$engine" reset
	back_within "$engine: connection reset" 4000
	proxy_cmd "$engine" close
	back_within "$engine: connection closed" 4000

	proxy_cmd "$engine" refuse
	proxy_cmd "$engine" reset
	is_away "port closed" 4
	proxy_cmd "$engine" accept
	back_within "$engine: port closed" 4000

	proxy_cmd "$engine" swallow
	is_away "black hole" 6
	proxy_cmd "$engine" resume
	back_within "$engine: black hole" 6000

	# The kernel goes on acknowledging what the server does not read any more.
	kill -STOP "$(cat "$T/ganesha.pid")"
	is_away "server stopped" 5
	kill -CONT "$(cat "$T/ganesha.pid")"
	back_within "$engine: server stopped" 6000

	kill_ganesha || bail "kill"
	is_away "server killed" 3
	spawn_ganesha
	back_within "$engine: server killed" 6000

	check "$engine: fio was under way all the time" alive "$fio"
	check "$engine: fio ends" wait_gone 80 "$fio"
	wait "$fio"
	check_equal "$engine: without an error or a wrong byte" 0 "$?"
	check "$engine: who asked all the time ends" stop_beat
	check_equal "$engine: without an error" "" "$(cat "$T/tmp/failures")"
	check_equal "$engine: what was written last is there" "$(($(beats) - 1))" "$(cat "$SERVER_DIR/beat")"
}

soft() {
	check "$engine: soft: mount" mount_volume "$source" "$m" "$options,timeout=2,recovery=soft"
	exec 7>>"$m/beat"
	proxy_cmd "$engine" refuse
	proxy_cmd "$engine" reset
	LIMIT=20 check_fails "$engine: soft: an error instead of waiting" stat "$m/beat"
	check_match "$engine: soft: which it is" 'timed out|Input/output error' "$OUT"
	echo late >&7
	LIMIT=20 check_fails "$engine: soft: what was written and is not there is told at fsync" sync "$m/beat"
	proxy_cmd "$engine" accept
	check "$engine: soft: works again" wait_for 10 stat "$m/beat"
	exec 7>&-
	check "$engine: soft: unmount" unmount_volume "$m"
}

for engine in $(engines nfs nfs4 nfs40); do
	start_engine "$engine"
	start_proxy "$engine" "$NFS_PORT"
	m=$T/mnt-$engine
	source=${SOURCE/127.0.0.1/127.0.0.1:$PROXY_PORT}
	options="$OPTIONS,mountport=$MNT_PORT,cache=strict"
	check "$engine: mount" mount_volume "$source" "$m" "$options,timeout=3" || continue
	faults
	check "$engine: unmount" unmount_volume "$m"
	soft
done
check "nothing is left" wait_nothing_left 10
finish
