#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# What people and programs are told: docker volume inspect's Status, cvol status, top and check, with
# a server that works, one that hangs and one that comes back.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_ganesha
start_cvol
start_proxy nfs "$NFS_PORT"
at=(--socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR")
opts=$(jq -nc --arg s "nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT" --arg m "$MNT_PORT" '{source: $s, mountport: $m}')

status_of() { # VOLUME FILTER: of cvol status --json
	timeout 20 "$CVOL" status --json "${at[@]}" | jq -r --arg v "$1" ".Volumes[] | select(.Name == \$v) | .Status | $2"
}

get() { # VOLUME FILTER: of what docker volume inspect shows
	raw_ok Get "{\"Name\":\"$1\"}" | jq -r ".Volume.Status | $2"
}

is_state() { # VOLUME STATE
	[ "$(status_of "$1" .state)" = "$2" ]
}

raw_ok Create '{"Name":"idle"}' >/dev/null || bail "create"
raw_ok Create "{\"Name\":\"media\",\"Opts\":$opts}" >/dev/null || bail "create"
check_equal "not mounted: idle" idle "$(get media .state)"
check_equal "nothing was counted yet" null "$(get media .operations)"
p=$(raw_ok Mount '{"Name":"media","ID":"one"}' | jq -r .Mountpoint)
check "mounted" is_mounted "$p" || bail "nothing to look at"

head -c 3000000 /dev/urandom >"$T/tmp/data"
cp "$T/tmp/data" "$p/data"
mkdir "$p/dir" && ls -l "$p" >/dev/null
head -c 1000000 /dev/urandom >"$NFS_ROOT/other"
check "a file is read" cmp "$NFS_ROOT/other" "$p/other"
check_equal "ok" ok "$(get media .state)"
check_equal "its backend" nfs "$(get media .backend)"
check_match "its server" "127.0.0.1:$PROXY_PORT" "$(get media .server)"
check_equal "mounts" 1 "$(get media .mounts)"
check_equal "bytes written, exactly" 3000000 "$(get media .bytes_written)"
check_equal "bytes read, exactly" 1000000 "$(get media .bytes_read)"
check_equal "no errors" 0 "$(get media .errors)"
check_match "since when" '^20[0-9-]*T[0-9:]*Z$' "$(get media .since)"
check_match "the version" '^[0-9]+\.[0-9]+' "$(get media .version)"
check_equal "operations are told apart" 1 "$(status_of media .counters.calls.mkdir.done)"
check_equal "each has a latency" "$(status_of media '[.counters.calls[].done] | add')" \
	"$(status_of media '[.counters.latency[].buckets[]] | add')"
stat "$p/missing" >/dev/null 2>&1
check_equal "a missing file is no error" 0 "$(get media .errors)"

# Both lists of the command line.
mkdir -p "$T/own"
check "a mount without the daemon" "$CVOL" mount "nfs://127.0.0.1$NFS_EXPORT" "$T/own" --run-dir "$RUN_DIR"
defer umount -l "$T/own"
cat "$T/own/other" >"$T/tmp/copy"
check "status" "$CVOL" status "${at[@]}"
check_match "shows the volume" "media .*ok .*1 user" "$OUT"
check_match "and the other mount" "$T/own .*ok .*cvol mount" "$OUT"
check_absent "no colours in a pipe" $'\033' "$OUT"
check_equal "status --json: kinds" "mount volume volume" \
	"$("$CVOL" status --json "${at[@]}" | jq -r '[.Volumes[].Status.kind] | sort | join(" ")')"
check_equal "and its bytes" 1000000 "$(status_of "$T/own" .bytes_read)"
on_terminal() { # COMMAND…: as if typed; NO_COLOR as set
	TERM=xterm script -qec "$(printf '%q ' "$@")" /dev/null </dev/null
}
check_match "colours on a terminal" $'\033\\[32mok' "$(on_terminal "$CVOL" status "${at[@]}")"
check_absent "not with NO_COLOR" $'\033' "$(NO_COLOR=1 on_terminal "$CVOL" status "${at[@]}")"
timeout 3 "$CVOL" status --watch=200ms --json "${at[@]}" >"$T/tmp/watch"
check "status --watch --json: an object a line, again and again" test "$(jq -c .Volumes "$T/tmp/watch" | wc -l)" -ge 2

while :; do
	cat "$p/other" >/dev/null
	stat "$p/dir" >/dev/null
	cp "$T/tmp/data" "$p/data2"
done &
busy=$!
defer kill_tree "$busy"
check "top" "$CVOL" top -n 2 -i 500ms "${at[@]}"
check_match "shows what it does" 'media +ok .*(write|open|getattr|lookup)' "$OUT"
check "top --json" sh -c "'$CVOL' top -n 1 --json --socket '$PLUGIN_SOCK' --run-dir '$RUN_DIR' >'$T/tmp/top'"
check "has rates" jq -e '.Volumes[] | select(.Name == "media") | .Status.rates.bytes_written > 0' "$T/tmp/top"
kill_tree "$busy"

# A new daemon goes on where the old one was: the counters are not its own.
before=$(get media .operations)
stop_cvol
start_cvol
check "a new daemon: nothing was lost" test "$(get media .operations)" -ge "$before"

# So does the worker that takes over from a killed one.
before=$(get media .operations)
kill -KILL "$(get media .worker)"
cp "$T/tmp/data" "$p/data3"
replaced() { [ "$(status_of media .counters.workers)" = 2 ]; }
check "a killed worker: replaced, and counted" wait_for 10 replaced
check "nothing was lost" test "$(get media .operations)" -gt "$before"

check "check" "$CVOL" check media "${at[@]}"
check_match "says so" 'media: ok' "$OUT"
check "check: a directory" "$CVOL" check "$p" --socket "$T/none"
check "check: not mounted" "$CVOL" check idle "${at[@]}"
check_fails "check --mounted" "$CVOL" check --mounted idle "${at[@]}"
check_fails "check: unknown" "$CVOL" check nobody "${at[@]}"
check_match "one line" '^nobody: not ok: there is no such volume$' "$OUT"

# The server does not answer any more.
proxy_cmd nfs hole
stat "$p/not-cached" >/dev/null 2>&1 &
check "a server that hangs: waiting" wait_for 15 is_state media waiting
check_match "status says so" 'media .*waiting' "$("$CVOL" status "${at[@]}")"
check_match "and since when" '^20' "$(get media .since)"
check_fails "check" "$CVOL" check media "${at[@]}"
check_match "says so" 'media: not ok: waiting for [0-9]+s' "$OUT"
check_fails "check: the directory" "$CVOL" check -t 1 "$p" --socket "$T/none"
check_match "says so, too" 'no answer within 1.0 s' "$OUT"
proxy_cmd nfs resume
check "the server is back: ok" wait_for 30 is_state media ok

# The connection breaks.
proxy_cmd nfs reset
stat "$p/not-cached-2" >/dev/null 2>&1
reconnected() { [ "$(get media .reconnects)" -ge 1 ]; }
check "a lost connection is counted" wait_for 10 reconnected
check_match "and explained" '.+' "$(get media .last_error)"
check_match "with the time" '^20' "$(get media .last_error_at)"

# A worker that hangs holds up nobody.
pid=$(get media .worker)
kill -STOP "$pid"
defer kill -CONT "$pid"
check "a stopped worker: Get answers" raw_ok Get '{"Name":"media"}'
check "status answers" timeout 5 "$CVOL" status "${at[@]}"
kill -CONT "$pid"

check "unmount" "$CVOL" unmount "$T/own" --run-dir "$RUN_DIR"
check "Unmount" raw_ok Unmount '{"Name":"media","ID":"one"}'
check_equal "idle again" idle "$(get media .state)"
check "nothing is left" wait_nothing_left 10
finish
