#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# dockerd and cvol restart, cleanly and by SIGKILL, under running containers and without any.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_dockerd
import_images || bail "docker import"
start_cvol
for engine in $(engines nfs sftp); do
	start_engine "$engine"
	mkdir -p "$SERVER_DIR/r"
	args=(-o "source=$SOURCE/r")
	IFS=, read -ra words <<<"$OPTIONS"
	for word in "${words[@]}"; do
		args+=(-o "$word")
	done
	d volume create -d cvol "${args[@]}" "r-$engine" >/dev/null || bail "volume create"
done

# The container appends a number to a log in each volume ten times a second.
check "a writer runs" d run -d --name writer -v r-nfs:/n -v r-sftp:/s cvol-test \
	sh -c 'i=0; while true; do i=$((i+1)); echo $i >>/n/log || echo $i >>/n/errors; echo $i >>/s/log || echo $i >>/s/errors; sleep 0.1; done'
check "it writes" wait_for 10 test -s "$SRV/ssh/r/log"

# grows FILE: within ten seconds.
grows() {
	local before
	before=$(stat -c %s "$1")
	wait_for 10 bigger "$1" "$before"
}
bigger() {
	[ "$(stat -c %s "$1")" -gt "$2" ]
}
# No number is missing or twice.
whole() {
	awk '$1 != NR { print "line " NR " is " $1; exit 1 }' "$1"
}
both_grow() {
	check "$1: the NFS log grows" grows "$SRV/nfs/r/log"
	check "$1: the SSH log grows" grows "$SRV/ssh/r/log"
}

stop_cvol
start_cvol
both_grow "cvol restarted"
check "cvol restarted: another container joins" d run --rm -v r-nfs:/n -v r-sftp:/s cvol-test \
	sh -c 'test -s /n/log && test -s /s/log'
stop_cvol KILL
both_grow "cvol killed, nobody there"
start_cvol
both_grow "cvol back after SIGKILL"
check "cvol back: docker volume inspect" d volume inspect r-nfs r-sftp
check "cvol back: docker exec sees the data" d exec writer test -s /n/log

stop_dockerd
both_grow "dockerd stopped (live-restore)"
start_dockerd
check "dockerd back: the container runs" d exec writer test -s /n/log
both_grow "dockerd back"
check_match "dockerd back: both volumes are ours" 'r-nfs.*r-sftp' \
	"$(d volume ls -q -f driver=cvol | sort | tr '\n' ' ')"
kill -KILL "$DOCKERD_PID"
wait "$DOCKERD_PID" 2>/dev/null
rm -f /run/docker.pid
start_dockerd
both_grow "dockerd back after SIGKILL"

check "the writer stops" d stop -t 2 writer
check "no number is missing on NFS" whole "$SRV/nfs/r/log"
check "no number is missing on SSH" whole "$SRV/ssh/r/log"
check "it saw no error" test ! -e "$SRV/nfs/r/errors" -a ! -e "$SRV/ssh/r/errors"
check "the writer starts again" d start writer
both_grow "started again"
check "the writer goes" d rm -f writer

# Nobody runs: everything restarts, everything is still known.
stop_dockerd
stop_cvol
check "both stopped: no mount and no worker is left" wait_nothing_left 10
start_cvol
start_dockerd
check "both started: data" d run --rm -v r-nfs:/n -v r-sftp:/s cvol-test \
	sh -c 'test -s /n/log && test -s /s/log'

# One bad state file hurts its volume only.
check "a third volume" d volume create -d cvol third
stop_cvol
bad=$(grep -rl '"third"' "$STATE_DIR" | head -n 1)
check "its state is in a file of its own, for root only" test "$(stat -c %a "$bad")" = 600
echo '{"version": 1, "na' >"$bad"
start_cvol
check "with a broken state file the others work" d run --rm -v r-nfs:/n cvol-test test -s /n/log
check "and the log says so" grep -q "$(basename "$bad")\|third" "$T/log/cvol.log"
check "volume rm" d volume rm r-nfs r-sftp
check "no mount and no worker is left" wait_nothing_left 10
finish
