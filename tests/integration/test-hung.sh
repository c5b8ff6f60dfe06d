#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 360
# A server that hangs: the plugin still answers everything that needs no server, the other volumes
# work, whoever waits can be killed, and when the server is back nothing is lost.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

ID=$(printf 'a%.0s' {1..64})
start_sshd
start_ganesha
start_cvol
start_proxy ssh "$SSH_PORT"
SSH_PROXY=$PROXY_PORT
start_proxy nfs "$NFS_PORT"
NFS_PROXY=$PROXY_PORT
write_known_hosts "$T/ssh/known_proxy" "$SSH_PROXY" "$T/ssh/host_ed25519.pub"
opts_sftp=$(jq -nc --arg s "sftp://root@127.0.0.1:$SSH_PROXY$SSH_ROOT" --arg k "$SSH_KEY" --arg h "$T/ssh/known_proxy" \
	'{source: $s, key_file: $k, known_hosts: $h}')
opts_nfs=$(jq -nc --arg s "nfs://127.0.0.1:$NFS_PROXY$NFS_EXPORT" --arg m "$MNT_PORT" '{source: $s, mountport: $m}')

# quick NAME CALL JSON: answered without error in under a second (the promise is 50 ms; this machine
# may be busy).
quick() {
	local start took answer
	start=$(now_ms)
	answer=$(RAW_LIMIT=5 raw_ok "$2" "$3")
	local status=$?
	took=$(($(now_ms) - start))
	if [ "$status" -eq 0 ] && [ "$took" -lt 1000 ]; then
		ok "$1 ($2)"
	else
		not_ok "$1 ($2)" "status $status after $took ms: $answer"
	fi
}

dies_on_kill() { # NAME PID: gone within two seconds of SIGKILL
	kill -KILL "$2" 2>/dev/null
	check "$1" wait_for 2 gone "$2"
}

raw_ok Create '{"Name":"other"}' >/dev/null || bail "create"
for engine in $(engines sftp nfs); do
	proxy=ssh
	root=$SSH_ROOT
	opts=$opts_sftp
	if [ "$engine" = nfs ]; then
		proxy=nfs root=$NFS_ROOT opts=$opts_nfs
	fi
	v=hung-$engine
	raw_ok Create "{\"Name\":\"$v\",\"Opts\":$opts}" >/dev/null || bail "create $v"
	p=$(raw_ok Mount "{\"Name\":\"$v\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
	check "$engine: mounted" is_mounted "$p" || continue
	head -c 3000000 /dev/urandom >"$root/big"
	mkdir -p "$p/hole"
	check "$engine: a file is read" cmp "$root/big" "$p/big"

	proxy_cmd "$proxy" hole
	stat "$p/not-cached-1" >/dev/null 2>&1 &
	waiter=$!
	# In a directory of its own: the kernel lets a lookup wait, unkillable, for the directory lock of
	# a create that is under way in the same one, on every file system.
	(echo data >"$p/hole/written") 2>/dev/null &
	writer=$!
	sleep 1
	check "$engine: hung: a caller waits" alive "$waiter"
	quick "$engine: hung: answers" Get "{\"Name\":\"$v\"}"
	quick "$engine: hung: answers" List '{}'
	quick "$engine: hung: answers" Path "{\"Name\":\"$v\"}"
	quick "$engine: hung: answers" Capabilities '{}'
	quick "$engine: hung: answers" Get '{"Name":"other"}'
	check "$engine: hung: another volume mounts" raw_ok Mount "{\"Name\":\"other\",\"ID\":\"$ID\"}"
	check "$engine: hung: another volume unmounts" raw_ok Unmount "{\"Name\":\"other\",\"ID\":\"$ID\"}"
	check "$engine: hung: cvol status answers" timeout 5 "$CVOL" status --run-dir "$RUN_DIR" --socket "$PLUGIN_SOCK"
	dies_on_kill "$engine: hung: a waiting process dies on SIGKILL" "$waiter"
	(stat "$p/not-cached-2" >/dev/null 2>&1) &
	waiter=$!
	sleep 0.5
	kill -TERM "$waiter" "$(pgrep -P "$waiter")" 2>/dev/null
	check "$engine: hung: and on SIGTERM" wait_for 2 gone "$waiter"

	proxy_cmd "$proxy" resume
	check "$engine: back: the write went on" wait_for 40 gone "$writer"
	check "$engine: back: and arrived" wait_for 10 grep -qx data "$root/hole/written"
	check "$engine: back: reading works" wait_for 40 timeout 5 cmp "$root/big" "$p/big"
	check "$engine: Unmount" raw_ok Unmount "{\"Name\":\"$v\",\"ID\":\"$ID\"}"
	check "$engine: nothing is left" wait_nothing_left 10

	# Mount of a volume whose server hangs: the rest still answers; the deadline holds.
	proxy_cmd "$proxy" hole
	(RAW_LIMIT=40 raw_err Mount "{\"Name\":\"$v\",\"ID\":\"$ID\"}" >"$T/tmp/$v") &
	mounting=$!
	sleep 1
	quick "$engine: while Mount waits" Get "{\"Name\":\"$v\"}"
	quick "$engine: while Mount waits" List '{}'
	quick "$engine: while Mount waits" Path "{\"Name\":\"$v\"}"
	check "$engine: Mount gives up at its deadline" wait_for 25 gone "$mounting"
	check "$engine: with an error" test -s "$T/tmp/$v"
	# Attempts go on in the background, with pauses.
	check "$engine: nothing is left" wait_nothing_left 40
	proxy_cmd "$proxy" resume
	check "$engine: and works again" raw_ok Mount "{\"Name\":\"$v\",\"ID\":\"$ID\"}"
	check "$engine: Unmount" raw_ok Unmount "{\"Name\":\"$v\",\"ID\":\"$ID\"}"
	raw_ok Remove "{\"Name\":\"$v\"}" >/dev/null
done

# Containers that have written what the silent server has not got: docker kill and docker stop end them as always.
# How a container ends: by SIGKILL, also after it has ignored SIGTERM; or by itself, at SIGTERM.
start_dockerd
import_images || bail "no images"
ended() { # NAME
	[ "$(d inspect -f '{{.State.Running}}' "$1")" = false ]
}
for engine in $(engines sftp nfs); do
	proxy=ssh root=$SSH_ROOT opts=$opts_sftp
	[ "$engine" = sftp ] || proxy=nfs root=$NFS_ROOT opts=$opts_nfs
	v=docker-$engine
	raw_ok Create "{\"Name\":\"$v\",\"Opts\":$opts}" >/dev/null || bail "create $v"
	for how in kill ignore exit; do
		on_term=:
		[ "$how" != exit ] || on_term='exit 0'
		# One process has the file open. It starts no other and redirects nothing to it: both would close it.
		d run -d --name "$v-$how" -v "$v:/v" cvol-test sh -c "trap '$on_term' TERM; mkfifo /tmp/go /tmp/never
			exec >/v/$how; read x </tmp/go; echo written; : 2>/tmp/written
			while :; do read x <>/tmp/never; done" >/dev/null || bail "run $how"
		wait_for 30 test -e "$root/$how" || bail "$how: not open"
	done
	proxy_cmd "$proxy" hole
	for how in kill ignore exit; do
		d exec "$v-$how" sh -c 'echo >/tmp/go'
		check "$engine: $how: written" wait_for 60 d exec "$v-$how" test -e /tmp/written
	done
	start=$(now_ms)
	check "$engine: docker kill" d kill "$v-kill"
	check "$engine: docker kill: the container has ended" wait_for 30 ended "$v-kill"
	took=$(($(now_ms) - start))
	check_match "$engine: docker kill: the volume says that data is not stored yet" 'not stored on .* yet; cvol goes on trying' \
		"$(raw_ok Get "{\"Name\":\"$v\"}" | jq -r .Volume.Status.last_error)"
	start=$(now_ms)
	check "$engine: docker stop, SIGTERM ignored" d stop -t 1 "$v-ignore"
	check "$engine: docker stop, SIGTERM ignored: the container has ended" ended "$v-ignore"
	took+=" $(($(now_ms) - start))"
	start=$(now_ms)
	check "$engine: docker stop, ends at SIGTERM" d stop -t 1 "$v-exit"
	check "$engine: docker stop, ends at SIGTERM: the container has ended" ended "$v-exit"
	took+=" $(($(now_ms) - start))"
	note "$engine: kill, stop, stop: $took ms"
	for ms in $took; do
		check "$engine: in a few seconds: $ms ms" test "$ms" -lt 4000
	done
	proxy_cmd "$proxy" resume
	for how in kill ignore exit; do
		check "$engine: back: what it had written is there ($how)" wait_for 60 grep -qx written "$root/$how"
	done
	d rm -f "$v-kill" "$v-ignore" "$v-exit" >/dev/null 2>&1
	check "$engine: nothing is left" wait_nothing_left 40
done
stop_dockerd

# A server that is only slow, here the process behind its sshd, is there: it is waited for, by who ends with data in an open
# file, and by Unmount.
start_engine sftp
raw_ok Create "{\"Name\":\"slow\",\"Opts\":$(raw_options)}" >/dev/null || bail "create slow"
p=$(raw_ok Mount "{\"Name\":\"slow\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
is_mounted "$p" || bail "mount slow"
# shellcheck disable=SC2016
spawn slow-writer sh -c 'exec >"$1"; : 2>"$2.ready"; while [ ! -e "$2.go" ]; do sleep 0.1; done; echo late' \
	sh "$p/late" "$T/tmp/slow"
writer=$SPAWNED
wait_for 10 test -e "$T/tmp/slow.ready" || bail "the writer did not start"
mapfile -t servers < <(pgrep -f '^sshd: .*internal-sftp')
[ "${#servers[@]}" -gt 0 ] || bail "no sftp-server is seen"
freeze "${servers[@]}"
: >"$T/tmp/slow.go"
sleep 1
raw Unmount "{\"Name\":\"slow\",\"ID\":\"$ID\"}" >"$T/tmp/slow.unmount" &
unmounting=$!
sleep 8
check "slow: who ends by itself waits for it" alive "$writer"
check "slow: Unmount waits for it" alive "$unmounting"
kill -CONT "${servers[@]}"
check "slow: the writer ends" wait_gone 20 "$writer"
check "slow: and its data is there" grep -qx late "$SSH_ROOT/late"
check "slow: Unmount is answered" wait_gone 20 "$unmounting"
check_match "slow: well" '"Err": *""' "$(cat "$T/tmp/slow.unmount")"
check "slow: nothing is left" wait_nothing_left 20

# The NFS server itself stopped (SIGSTOP): the kernel still acknowledges, nobody answers.
start_engine nfs
mount_volume "$SOURCE" "$T/mnt" '' || bail "mount"
freeze "$GANESHA_PID"
(stat "$T/mnt/not-cached-3" >/dev/null 2>&1) &
waiter=$!
sleep 1
check "SIGSTOP: a caller waits" alive "$waiter"
kill_tree "$waiter"
check "SIGSTOP: it dies on SIGKILL" wait_for 2 gone "$waiter"
kill -CONT "$GANESHA_PID"
check "SIGCONT: goes on" wait_for 30 timeout 5 ls "$T/mnt"
check "unmount" unmount_volume "$T/mnt"
check "nothing is left" wait_nothing_left 10
finish
