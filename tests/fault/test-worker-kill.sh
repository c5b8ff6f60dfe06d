#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# A volume's worker dies: its users get a clear error at once (never a hang), other volumes do not
# notice, and the next Mount brings the volume back.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

ID1=$(printf 'a%.0s' {1..64})
ID2=$(printf 'b%.0s' {1..64})
start_cvol
for engine in $(engines dir nfs sftp); do
	start_engine "$engine"
	opts=$(jq -nc --arg s "$SOURCE" '{source: $s}')
	[ "$engine" != sftp ] || opts=$(jq -nc --arg s "$SOURCE" --arg k "$SSH_KEY" --arg h "$SSH_KNOWN_HOSTS" \
		'{source: $s, key_file: $k, known_hosts: $h}')
	raw_ok Create "{\"Name\":\"v-$engine\",\"Opts\":$opts}" >/dev/null || bail "create"
	raw_ok Create "{\"Name\":\"other-$engine\"}" >/dev/null || bail "create"
	p=$(raw_ok Mount "{\"Name\":\"v-$engine\",\"ID\":\"$ID1\"}" | jq -r .Mountpoint)
	worker=$(cvol_workers)
	check_equal "$engine: one worker" 1 "$(wc -w <<<"$worker")"
	other=$(raw_ok Mount "{\"Name\":\"other-$engine\",\"ID\":\"$ID1\"}" | jq -r .Mountpoint)
	echo kept >"$p/file"
	sync "$p/file"
	kill -KILL "$worker"
	wait_for 5 gone "$worker"
	# Until takeover exists: ENOTCONN. With it: the content. A hang or anything else is wrong.
	LIMIT=5 bounded cat "$p/file"
	case $?:$OUT in
	0:kept | 1:*"not connected"*) ok "$engine: a clear answer after the worker died" ;;
	*) not_ok "$engine: a clear answer after the worker died" "$OUT" ;;
	esac
	check "$engine: the other volume did not notice" sh -c "echo x >'$other/x'"
	check "$engine: Get answers" raw_ok Get "{\"Name\":\"v-$engine\"}"
	check "$engine: the next Mount works" raw_ok Mount "{\"Name\":\"v-$engine\",\"ID\":\"$ID2\"}"
	p=$(raw Get "{\"Name\":\"v-$engine\"}" | jq -r .Volume.Mountpoint)
	check_equal "$engine: and has the data" kept "$(timeout 5 cat "$p/file")"
	check "$engine: Unmount of the first" raw_ok Unmount "{\"Name\":\"v-$engine\",\"ID\":\"$ID1\"}"
	check_equal "$engine: the second still has the data" kept "$(timeout 5 cat "$p/file")"
	check "$engine: Unmount of the second" raw_ok Unmount "{\"Name\":\"v-$engine\",\"ID\":\"$ID2\"}"
	check "$engine: Unmount of the other" raw_ok Unmount "{\"Name\":\"other-$engine\",\"ID\":\"$ID1\"}"
	check "$engine: nothing is left" wait_nothing_left 10
done

# The same without a daemon.
start_engine dir
mount_volume "$SOURCE" "$T/mnt" '' || bail "mount"
kill -KILL "$(cvol_workers)"
sleep 0.5
LIMIT=5 bounded ls "$T/mnt"
check_match "cvol mount: not a hang" '^(0|1|2)$' "$?"
check "cvol unmount clears it" "$CVOL" unmount "$T/mnt"
check "cvol mount works again" mount_volume "$SOURCE" "$T/mnt" ''
check "unmount" "$CVOL" unmount "$T/mnt"
check "nothing is left" wait_nothing_left 10
finish
