#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 360
# The connection is reset once a second for 15 seconds while fio writes and verifies. On NFS this is
# the case that made libnfs's own reconnect deliver wrong bytes.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

storm() {
	local engine=$1 source=$2 options=$3 m=$T/mnt-$1
	check "$engine: mount" mount_volume "$source" "$m" "$options" || return
	timeout 100 fio --name=storm --verify_state_save=0 --directory="$m" --rw=randrw --bsrange=4k-256k --size=24m --numjobs=2 \
		--verify=crc32c --verify_fatal=1 --verify_dump=0 --do_verify=1 --verify_backlog=64 --time_based --runtime=15 \
		--end_fsync=1 --ioengine=psync --output="$T/tmp/fio-$engine" --output-format=terse \
		>"$T/log/fio-$engine.log" 2>&1 &
	local fio=$! i resets=0
	for ((i = 0; i < 15; i++)); do
		sleep 1
		alive "$fio" || break
		proxy_cmd "$engine" reset
		resets=$((resets + 1))
	done
	check "$engine: fio ends" wait_gone 80 "$fio"
	wait "$fio"
	check_equal "$engine: without an error or a wrong byte" 0 "$?"
	check "$engine: it was under way for ten resets at least ($resets)" test "$resets" -ge 10
	# A whole file, read through fresh connections that are reset amid its replies.
	head -c 80000000 /dev/urandom >"$SERVER_DIR/whole"
	md5sum "$m/whole" >"$T/tmp/sum" 2>&1 &
	local reader=$!
	for ((i = 0; i < 20; i++)); do
		sleep 0.1
		alive "$reader" || break
		proxy_cmd "$engine" reset
	done
	check "$engine: a big read ends" wait_gone 60 "$reader"
	check_equal "$engine: with the right bytes" "$(md5sum <"$SERVER_DIR/whole" | cut -d ' ' -f 1)" \
		"$(cut -d ' ' -f 1 <"$T/tmp/sum")"
	check "$engine: unmount" unmount_volume "$m"
	check "$engine: nothing is left" wait_nothing_left 10
}

for engine in $(engines sftp nfs nfs4 nfs40); do
	start_engine "$engine"
	if [ "$engine" = sftp ]; then
		start_proxy sftp "$SSH_PORT"
		write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
		storm sftp "sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT" \
			"key_file=$SSH_KEY,known_hosts=$T/ssh/known_proxy"
	else
		start_proxy "$engine" "$NFS_PORT"
		storm "$engine" "${SOURCE/127.0.0.1/127.0.0.1:$PROXY_PORT}" "$OPTIONS,mountport=$MNT_PORT"
	fi
done
finish
