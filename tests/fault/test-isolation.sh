#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# 50 volumes on servers that hang, some mounted and some being mounted, and 50 on one that works: nobody
# who uses the latter notices. The promise is 100 ms for 99 of 100 calls; this machine may be busy, so the
# test fails only far above, and prints what it measured.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

PYTHON=/usr/bin/python3
[ -x "$PYTHON" ] || bail_skip "no python3"
ID=$(printf 'a%.0s' {1..64})
VOLUMES=50
GENEROUS_MS=2000

start_dockerd
import_images || bail "docker import"
start_cvol
start_engine nfs
start_proxy nfs "$NFS_PORT"
mkdir -p "$NFS_ROOT/data"
create() { # NAME PORT
	raw_ok Create "{\"Name\":\"$1\",\"Opts\":{\"source\":\"nfs://127.0.0.1:$2$NFS_EXPORT/data\",\"mountport\":\"$MNT_PORT\",\"mount_timeout\":\"60s\"}}" >/dev/null ||
		bail "create $1"
}
for ((i = 0; i < VOLUMES; i++)); do
	create "live$i" "$NFS_PORT"
	create "dead$i" "$PROXY_PORT"
done

# measure WHAT: all calls on the live volumes; prints the figures.
measure() {
	check "$1: every call on the live volumes is answered well" "$LIB_DIR/tools/api-load" "$PLUGIN_SOCK" live "$VOLUMES" 2
	local line
	while read -r line; do
		note "$1: $line"
	done <<<"$OUT"
	local p99
	p99=$(sed -n 's/^all .* p99 \([0-9]*\)\..*/\1/p' <<<"$OUT")
	check "$1: 99 of 100 calls within $GENEROUS_MS ms" test "${p99:-999999}" -lt "$GENEROUS_MS"
}
measure "all servers well"

# Half of the dead ones are mounted and used when their server stops answering.
for ((i = 0; i < VOLUMES / 2; i++)); do
	raw_ok Mount "{\"Name\":\"dead$i\",\"ID\":\"$ID\"}" >/dev/null || bail "mount dead$i"
done
waiting=()
for ((i = 0; i < VOLUMES / 2; i++)); do
	(cd "$RUN_DIR/mnt/dead$i" && wait_for 30 test -e "$T/hangs" && echo x >"file$i") 2>/dev/null &
	waiting+=($!)
done
sleep 1
proxy_cmd nfs hole
touch "$T/hangs"
# The other half are being mounted.
for ((i = VOLUMES / 2; i < VOLUMES; i++)); do
	RAW_LIMIT=100 raw Mount "{\"Name\":\"dead$i\",\"ID\":\"$ID\"}" >/dev/null &
	waiting+=($!)
done
sleep 2
check "the dead ones wait" alive "${waiting[0]}"
check "being mounted, too" alive "${waiting[VOLUMES - 1]}"
measure "half of the servers dead"
check "docker volume ls" timeout 10 docker volume ls
check_equal "shows all" $((VOLUMES * 2)) "$(grep -c '^cvol' <<<"$OUT")"
check "docker volume inspect of a dead one" timeout 10 docker volume inspect dead0
check_match "says what is the matter" '"state": "(waiting|ok)"' "$OUT"
check "docker volume inspect of one being mounted" timeout 10 docker volume inspect "dead$((VOLUMES - 1))"
check "docker info" timeout 10 docker info
check "docker run on a live one" d run --rm -v live0:/data cvol-test sh -c 'echo y >/data/y'
check "cvol status" timeout 10 "$CVOL" status --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR"
check "cvol gc" timeout 30 "$CVOL" gc --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR"

# The daemon starts again with 25 hung mounts: adopting them needs no server.
start=$(now_ms)
stop_cvol KILL
start_cvol
check_equal "a restart finds the hung mounts and their users" $((VOLUMES / 2)) \
	"$("$CVOL" status --json --socket "$PLUGIN_SOCK" | jq '[.Volumes[].Status | select(.mounts == 1)] | length')"
note "restart with $((VOLUMES / 2)) hung mounts: $(($(now_ms) - start)) ms"
measure "after a restart"

proxy_cmd nfs resume
for pid in "${waiting[@]:0:VOLUMES/2}"; do
	wait_for 60 gone "$pid" || break
done
check "the server is back: every waiting write went on" gone "$pid"
check_equal "and arrived" $((VOLUMES / 2)) "$(find "$NFS_ROOT/data" -name 'file*' -size 2c | wc -l)"
for ((i = 0; i < VOLUMES / 2; i++)); do
	raw_ok Unmount "{\"Name\":\"dead$i\",\"ID\":\"$ID\"}" >/dev/null
done
"$CVOL" gc --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR" >/dev/null
check "nothing is left" wait_nothing_left 30
finish
