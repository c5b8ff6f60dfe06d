#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 480
# A server that offers NFSv4 alone, with no portmapper and no mount service; and locks between two
# mounts of it, which are two clients to the server as two hosts are. Once for each minor version: the
# server has 4.1, or nothing but 4.0.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=60

NFS_PROTOCOLS=4
A=$T/a B=$T/b

refuses() {
	local name=$1 regex=$2
	shift 2
	bounded "$CVOL" mount "$@" "$T/refused"
	check_match "$name" "$regex" "$OUT"
}

for minor in ${MINORS:-1 0}; do
	NFS_V4_PARAM="Minor_Versions = $minor; Grace_Period = 20; Lease_Lifetime = 10;"
	start_ganesha
	mkdir -p "$NFS_ROOT/dir" "$A" "$B" "$T/refused"
	check "nothing listens on the portmapper's port" eval '! port_open 111'
	check "auto: mounts" mount_volume "nfs://127.0.0.1$NFS_PSEUDO" "$A" ""
	check_match "auto: takes NFSv4.$minor, and status says so" "NFSv4\\.$minor, server locks" \
		"$("$CVOL" status --json 2>/dev/null | jq -r '.Volumes[0].Status.server')"
	check_match "auto: the log says why" "because NFSv3 is not to be had" "$(cat /run/cvol/mounts/*.log)"
	if [ "$minor" = 0 ]; then
		check_match "auto: and that there is no 4.1" "does not offer NFSv4.1" "$(cat /run/cvol/mounts/*.log)"
		refuses "version=4.1 is refused in words" 'choose another with version=' "nfs://127.0.0.1$NFS_PSEUDO" -o version=4.1
	else
		refuses "version=4.0 is refused in words" 'choose another with version=' "nfs://127.0.0.1$NFS_PSEUDO" -o version=4.0
	fi
	check "a directory below the export" mount_volume "nfs://127.0.0.1$NFS_PSEUDO/dir" "$B" version=4
	check "the file of one is the other's" eval 'echo x >"$A/dir/f" && cmp "$A/dir/f" "$B/f"'
	check "unmount" unmount_volume "$B"
	check "port= is enough" mount_volume "nfs://127.0.0.1:$NFS_PORT$NFS_PSEUDO" "$B" "version=4.$minor"
	refuses "an export that is not there: what there is, is said" 'there is: .*export' "nfs://127.0.0.1/nothing" -o "version=4.$minor"
	refuses "version=4.2 is refused in words" 'version=4, 3 or auto' "nfs://127.0.0.1$NFS_PSEUDO" -o version=4.2
	refuses "locks=server with NFSv3 is refused in words" 'locks=server needs version=4' "nfs://127.0.0.1$NFS_PSEUDO" \
		-o version=3,locks=server

	# ---- flock

	# hold FILE: a process that has it until its standard input ends; $HOLDER.
	hold() {
		rm -f "$T/holding"
		mkfifo "$T/let-go.$$" 2>/dev/null
		(flock "$1" sh -c "touch $T/holding; cat $T/let-go.$$ >$T/null") &
		HOLDER=$!
		wait_for 20 test -e "$T/holding"
	}

	let_go() {
		echo >"$T/let-go.$$"
		wait "$HOLDER" 2>/dev/null
	}

	echo 0 >"$A/lock"
	hold "$A/lock"
	check_fails "flock: not to be had through the other" flock -n "$B/lock" true
	check_fails "flock: one who waits can be interrupted" flock -w 2 "$B/lock" true
	flock "$B/lock" true 2>/dev/null &
	waiter=$!
	sleep 1
	kill -KILL "$waiter"
	check "flock: one who waits can be killed" wait_gone 10 "$waiter"
	flock "$B/lock" touch "$T/had" &
	waiter=$!
	sleep 1
	check "flock: one who waits, waits" test ! -e "$T/had"
	let_go
	check "flock: and has it then" wait_gone 20 "$waiter"
	check "flock: had" test -e "$T/had"
	check "flock: free afterwards" flock -n "$A/lock" true
	hold "$A/lock"
	kill_tree "$HOLDER"
	check "flock: a holder that is killed holds nothing" flock -w 20 "$B/lock" true

	# ---- fcntl: sqlite

	check "sqlite: a table" sqlite3 "$A/db" 'create table t (n integer); insert into t values (0);'
	count() {
		local i
		for ((i = 0; i < 40; i++)); do
			sqlite3 -cmd '.timeout 30000' "$1/db" 'begin immediate; update t set n = n + 1; commit;' || return 1
		done
	}
	count "$A" >"$T/tmp/count.a" 2>&1 &
	one=$!
	count "$B" >"$T/tmp/count.b" 2>&1 &
	two=$!
	wait "$one"
	check_equal "sqlite: writers on both mounts: the first" "0 " "$? $(cat "$T/tmp/count.a")"
	wait "$two"
	check_equal "sqlite: writers on both mounts: the second" "0 " "$? $(cat "$T/tmp/count.b")"
	check_equal "sqlite: every update counts" 80 "$(sqlite3 "$A/db" 'select n from t')"
	check_equal "sqlite: the file is whole" ok "$(sqlite3 "$B/db" 'pragma integrity_check')"

	# ---- git, in turn: what it does at once on two hosts no lock of it guards

	git config --global user.name t && git config --global user.email t@example.org
	git config --global --add safe.directory '*'
	check "git: a repository" git init -q "$A/repo"
	in_turn() {
		local i
		for ((i = 0; i < 5; i++)); do
			for side in "$A" "$B"; do
				echo "$i" >>"$side/repo/file"
				git -C "$side/repo" add file && git -C "$side/repo" commit -q -m "$side $i" || return 1
			done
		done
	}
	check "git: commits through both mounts in turn" in_turn
	check_equal "git: every commit counts" 10 "$(git -C "$A/repo" rev-list --count HEAD)"
	check "git: the repository is whole" git -C "$B/repo" fsck --strict

	# ---- a server that restarts

	hold "$A/lock"
	kill_ganesha # not within a check, whose subshell would keep the new one's pid to itself
	spawn_ganesha
	check_fails "a lock from before still excludes the other mount" flock -n "$B/lock" true
	let_go
	check "and is let go as before" flock -w 30 "$B/lock" true

	# ---- a worker that dies

	hold "$A/lock"
	kill -KILL "$("$CVOL" status --json 2>/dev/null | jq -r --arg d "$A" '.Volumes[] | select(.Name == $d) | .Status.worker')"
	another_worker() {
		grep -q 'took over' /run/cvol/mounts/*.log && timeout 5 cat "$A/dir/f"
	}
	check "another worker takes over" wait_for 20 another_worker
	check_fails "a lock from before the worker died excludes the other mount" flock -n "$B/lock" true
	sleep 12 # longer than the lease: nobody renews it for the worker that died
	check_fails "also when the lease of the old worker would be over" flock -n "$B/lock" true
	let_go
	check "and is let go as before" flock -w 30 "$B/lock" true

	# ---- local locks

	check "unmount the second" unmount_volume "$B"
	check "locks=local: mounts" mount_volume "nfs://127.0.0.1$NFS_PSEUDO" "$B" "version=4.$minor,locks=local"
	hold "$A/lock"
	check "locks=local: the server is not asked" flock -n "$B/lock" true
	let_go
	check "unmount" unmount_volume "$B"
	check "unmount the first" unmount_volume "$A"
	check "nothing is left" wait_nothing_left 10
	rm -rf "${NFS_ROOT:?}"/* "$T/had"
	stop_ganesha
done
finish
