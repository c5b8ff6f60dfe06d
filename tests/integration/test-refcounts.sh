#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 400
# Who uses a volume: counts that survive everything dockerd, Podman and impatient clients do, and
# `cvol gc`, which reconciles them with what is really there.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

ID=$(printf 'a%.0s' {1..64})
PODMAN=2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2
DEAD=198.51.100.2

cvol() {
	local command=$1
	shift
	timeout 30 "$CVOL" "$command" --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR" "$@"
}
status_of() { # VOLUME JQ
	cvol status --json | jq -r ".Volumes[] | select(.Name == \"$1\") | .Status | $2"
}
mounts_of() {
	status_of "$1" .mounts
}
has_mounts() { # VOLUME COUNT
	[ "$(mounts_of "$1")" = "$2" ]
}
gc_says() { # REGEX ARGS…
	local regex=$1
	shift
	cvol gc "$@" | grep -qE "$regex"
}
grows() { # FILE: within ten seconds
	local before
	before=$(stat -c %s "$1") || return
	wait_for 10 sh -c "[ \$(stat -c %s '$1') -gt $before ]"
}
kill_dockerd() {
	kill -KILL "$DOCKERD_PID"
	wait "$DOCKERD_PID" 2>/dev/null
	rm -f /run/docker.pid
}
writer() { # NAME ARGS…
	local name=$1
	shift
	d run -d --name "$name" -v "vol:/data" "$@" cvol-test \
		sh -c "while true; do echo x >>/data/$name || echo >>/data/errors; sleep 0.1; done" >/dev/null
}
running() {
	[ "$(d inspect -f '{{.State.Running}}' "$1")" = true ]
}
log_of() {
	echo "$NFS_ROOT/vol/$1"
}

start_cvol
start_dockerd --live-restore=false
import_images || bail "docker import"
start_engine nfs
mkdir -p "$SERVER_DIR/vol"
d volume create -d cvol -o "source=$SOURCE/vol" vol >/dev/null || bail "volume create"

# ---- without live-restore
check "a container that always restarts" writer always --restart always
check "it writes" wait_for 10 test -s "$(log_of always)"
check_equal "one mount" 1 "$(mounts_of vol)"
check_match "status --holders shows whose" "1 mount for ID [0-9a-f]{64}
 *processes: .*sh" "$(cvol status --holders)"
kill_dockerd
start_dockerd --live-restore=false
check "dockerd killed and started: the container is started again" wait_for 20 running always
check "dockerd killed and started: it writes right afterwards" grows "$(log_of always)"
check "dockerd killed and started: the earlier dockerd's mount is known as such" \
	wait_for 5 sh -c "[ \"\$('$CVOL' status --json --socket '$PLUGIN_SOCK' | jq '[.Volumes[].Status.holders[]? | select(.stale)] | length')\" = 1 ]"
check_fails "volume rm while in use is refused" d volume rm -f vol
check_fails "by cvol too" cvol volume rm vol
check_equal "gc leaves what is used alone" "nothing is left over" "$(cvol gc)"
check "and the container goes on" grows "$(log_of always)"
stop_dockerd
check "dockerd stopped: its containers too; only the earlier one's count is left" wait_for 10 has_mounts vol 1
check "gc --dry-run says so" gc_says "volume 'vol': 1 mount of an earlier dockerd.*would be" --dry-run || true
start_dockerd --live-restore=false
check "dockerd started: the container is started again" wait_for 20 running always
check "dockerd started: it writes right afterwards" grows "$(log_of always)"
check "rm -f" d rm -f always
check "gc forgets what an earlier dockerd left" gc_says "earlier dockerd, used by no process: forgotten"
check "nothing is left" wait_nothing_left 15
check_equal "no count is left" 0 "$(mounts_of vol)"

# ---- without gc, housekeeping comes to the same
writer crashed
kill_dockerd
start_dockerd --live-restore=false
check "a container that ended with its dockerd" d rm -f crashed
LIMIT=100 check "its count goes by itself" wait_nothing_left 90

# ---- failed starts
check_fails "a container whose program does not exist" d run --rm -v vol:/data cvol-test /nonexistent
check "leaves nothing" wait_nothing_left 10
make_black_hole || note "no veth here: the bad volume is a refused one"
d volume create -d cvol -o "source=nfs://$DEAD/x" -o mount_timeout=2s bad >/dev/null
check_fails "a container with one good and one bad volume" d run --rm -v vol:/data -v bad:/bad cvol-test true
check_match "says which" "volume 'bad'.*$DEAD" "$OUT"
check "leaves nothing" wait_nothing_left 10
check_equal "inspect knows the error" failed-once "$(d volume inspect bad | jq -r '.[0].Status | if (.last_error | test("198.51.100.2")) then "failed-once" else . end')"
check "volume rm with the server down" d volume rm bad

# ---- docker cp
writer running
id_count() {
	status_of vol '.holders | length'
}
check "cp into a running container" d cp "$0" running:/data/copy
check_equal "its ID is still counted once" "1 1" "$(mounts_of vol) $(id_count)"
check "it still writes" grows "$(log_of running)"
check "kill" d kill running
check "nothing is left" wait_nothing_left 10
check "cp from a stopped container" d cp running:/data/copy "$T/tmp/copy"
check "brought the file" cmp "$0" "$T/tmp/copy"
check "nothing is left" wait_nothing_left 10
d rm -f running >/dev/null
stop_dockerd

# ---- with live-restore
start_dockerd
writer live
check "live-restore: a container writes" wait_for 10 test -s "$(log_of live)"
for how in stop_dockerd kill_dockerd; do
	"$how"
	check "live-restore: $how: the container goes on" grows "$(log_of live)"
	start_dockerd
	check "live-restore: $how: and after the start" grows "$(log_of live)"
	check "live-restore: $how: docker cp" d cp "$0" live:/data/copy2
	check "live-restore: $how: it goes on" grows "$(log_of live)"
done
check_equal "live-restore: gc sees that it is used" "nothing is left over" "$(cvol gc)"
check "live-restore: restart of the container" d restart -t 1 live
check "live-restore: it goes on" grows "$(log_of live)"
# It ends while nobody looks: no Unmount will come for it.
stop_dockerd
pkill -KILL -f 'echo x >>/data/live'
start_dockerd
check "live-restore: ended meanwhile: starts again" d start live
check "live-restore: ended meanwhile: writes" grows "$(log_of live)"
check "live-restore: rm -f" d rm -f live
cvol gc >/dev/null
check "live-restore: nothing is left" wait_nothing_left 15
check_equal "no container saw an error" "" "$(cat "$NFS_ROOT/vol/errors" 2>/dev/null)"
stop_dockerd

# ---- Podman's one ID
for _ in 1 2 3; do
	raw_ok Mount "{\"Name\":\"vol\",\"ID\":\"$PODMAN\"}" >/dev/null
done
raw Plugin.Activate >/dev/null
stop_cvol KILL
start_cvol
check_equal "Podman's ID: three mounts survive dockerd's new life and ours" "3 false" \
	"$(status_of vol '"\(.mounts) \(.holders[0].stale)"')"
for _ in 1 2 3; do
	raw_ok Unmount "{\"Name\":\"vol\",\"ID\":\"$PODMAN\"}" >/dev/null
done
check "Podman's ID: the third unmount ends it" wait_nothing_left 10

# ---- impatient clients: the mount succeeds after they left
start_proxy nfs "$NFS_PORT"
raw_ok Create "{\"Name\":\"slow\",\"Opts\":{\"source\":\"nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT\",\"mountport\":\"$MNT_PORT\"}}" >/dev/null
proxy_cmd nfs hole
RAW_LIMIT=1 raw Mount "{\"Name\":\"slow\",\"ID\":\"$ID\"}" >/dev/null
check_equal "a client leaves while Mount waits: nothing is counted yet" connecting "$(status_of slow .state)"
proxy_cmd nfs resume
check "the mount that came too late is taken back" wait_for 30 sh -c "[ -z \"\$(pgrep '^cvol-fuse')\" ]"
check "nothing is left" wait_nothing_left 5
check "and a patient client gets it" raw_ok Mount "{\"Name\":\"slow\",\"ID\":\"$ID\"}"
proxy_cmd nfs hole
check "with the server away: Unmount of what wrote nothing" raw_ok Unmount "{\"Name\":\"slow\",\"ID\":\"$ID\"}"
check "with the server away: Remove" raw_ok Remove '{"Name":"slow"}'

# ---- leftovers of every kind
p=$(raw_ok Mount "{\"Name\":\"vol\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
mkdir "$RUN_DIR/mnt/leftover" "$RUN_DIR/mnt/precious"
echo data >"$RUN_DIR/mnt/precious/file"
cp "$RUN_DIR/volumes/vol.json" "$RUN_DIR/volumes/gone.json"
timeout 5 "$LIB_DIR/tools/dead-socket" "$RUN_DIR/workers/dead.sock" || bail "cannot make a socket"
expected="leftover directory $RUN_DIR/mnt/leftover: would be removed
leftover directory $RUN_DIR/mnt/precious: would be removed
dead socket dead.sock: would be removed
record of no volume gone.json: would be removed"
check_equal "gc --dry-run finds all" "$(sort <<<"$expected")" "$(cvol gc --dry-run | sort)"
check "and touches nothing" test -d "$RUN_DIR/mnt/leftover" -a -S "$RUN_DIR/workers/dead.sock" -a -e "$RUN_DIR/volumes/gone.json"
check "gc" cvol gc
check_match "says what it cannot remove" "precious: not removed: Directory not empty" "$OUT"
check_equal "and never deletes what is in there" data "$(cat "$RUN_DIR/mnt/precious/file")"
check "the rest is gone" test ! -e "$RUN_DIR/mnt/leftover" -a ! -e "$RUN_DIR/workers/dead.sock" -a ! -e "$RUN_DIR/volumes/gone.json"
check "the living mount is not" sh -c "echo x >'$p/alive'"
rm -r "$RUN_DIR/mnt/precious"

# A mount whose worker and daemon both died, and nothing parked its descriptors.
stop_cvol KILL
kill -KILL "$(cvol_workers)"
wait_for 5 sh -c '! pgrep "^cvol-fuse"'
check_fails "both died: the mount is dead" timeout 5 ls "$p"
start_cvol
check "both died: the next daemon detaches it at start" not_mounted "$p"
check "both died: and mounts it when asked" raw_ok Mount "{\"Name\":\"vol\",\"ID\":\"$ID\"}"
check "both died: with the data" timeout 5 cat "$p/alive"
check "both died: Unmount" raw_ok Unmount "{\"Name\":\"vol\",\"ID\":\"$ID\"}"
check "both died: one user is left, as counted" has_mounts vol 1
check "both died: and goes" raw_ok Unmount "{\"Name\":\"vol\",\"ID\":\"$ID\"}"
check "nothing is left" wait_nothing_left 10

# The same without a daemon at all.
start_engine dir
mount_volume "$SOURCE" "$T/mnt" '' --run-dir "$RUN_DIR" || bail "mount"
pkill -KILL -f "cvol mount $SOURCE"
kill -KILL "$(cvol_workers)"
wait_for 5 sh -c '! pgrep "^cvol-fuse"'
check "cvol mount: gc finds the dead one" gc_says "dead mount $T/mnt: detached"
check_equal "cvol mount: nothing is left of it" "" "$(find "$RUN_DIR/mounts" -type f ! -name "*.lock")"
check "cvol mount: but the directory" test -d "$T/mnt"
check "nothing is left" wait_nothing_left 5
finish
