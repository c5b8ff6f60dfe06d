#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# Logs: one line per event, for people, for programs and for the journal; more of it at run time.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_engine dir
start_cvol --log-format json
at=(--socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR")
log=$T/log/cvol.log
[ -e "$log" ] || log=$(find "$T" -name cvol.log | head -n 1)

lines_of() { # LEVEL: of the worker of media
	jq -c --arg l "$1" 'select(.volume == "media" and .level == $l)' "$log" | wc -l
}

raw_ok Create "{\"Name\":\"media\",\"Opts\":{\"source\":\"$SOURCE\"}}" >/dev/null || bail "create"
p=$(raw_ok Mount '{"Name":"media","ID":"one"}' | jq -r .Mountpoint)
check "mounted" is_mounted "$p" || bail "nothing to look at"
check "each line is an object with a level and a message" jq -es 'length > 2 and all(.level and .message and .time and .program)' "$log"
check_match "of the daemon" '"program":"cvol",' "$(cat "$log")"
check_equal "nothing at debug level" 0 "$(jq -c 'select(.level == "debug")' "$log" | wc -l)"

check "debug for one volume" "$CVOL" log-level media debug "${at[@]}"
ls "$p" >/dev/null && echo hi >"$p/file"
wait_for 5 test "$(lines_of debug)" -gt 0
check "its worker says more" test "$(lines_of debug)" -gt 0
check_equal "the daemon does not" 0 "$(jq -c 'select(.program == "cvol" and .level == "debug")' "$log" | wc -l)"
kill -KILL "$(cvol_workers)"
check "another worker takes over" wait_for 10 grep -q 'took over: ' "$log"
before=$(lines_of debug)
echo hi >"$p/file3"
wait_for 5 test "$(lines_of debug)" -gt "$before"
check "and says as much" test "$(lines_of debug)" -gt "$before"
check "and back" "$CVOL" log-level media info "${at[@]}"
before=$(lines_of debug)
echo more >"$p/file2"
check_equal "it is quiet again" "$before" "$(lines_of debug)"
check "debug for the daemon" "$CVOL" log-level debug "${at[@]}"
raw_ok Plugin.Activate >/dev/null
check "it says more" sh -c "jq -c 'select(.program == \"cvol\" and .level == \"debug\")' '$log' | grep -q ."
check "and back" "$CVOL" log-level info "${at[@]}"
check_fails "an unknown volume" "$CVOL" log-level nobody debug "${at[@]}"
check_match "is named" "nobody" "$OUT"
check_fails "an unknown level" "$CVOL" log-level media loud "${at[@]}"
raw_ok Unmount '{"Name":"media","ID":"one"}' >/dev/null
check_fails "a volume that is not mounted" "$CVOL" log-level media debug "${at[@]}"
check_match "is said to be so" "volume 'media': it is not mounted" "$OUT"
check "after all that the log still is JSON" jq -e . "$log"

# Without the daemon.
mkdir -p "$T/own"
check "a mount of its own" "$CVOL" mount "$SOURCE" "$T/own" --run-dir "$RUN_DIR"
defer umount -l "$T/own"
check "debug for it" "$CVOL" log-level "$T/own" debug "${at[@]}"
ls "$T/own" >/dev/null
own_log=$(find "$RUN_DIR/mounts" -name '*.log')
check "its log says more" grep -q ': debug: ' "$own_log"
check "unmount" "$CVOL" unmount "$T/own" --run-dir "$RUN_DIR"

# For the journal: priorities instead of times.
JOURNAL_STREAM=8:1 timeout 5 "$CVOL" daemon --socket "$T/missing/x/y" --state-dir /proc/none --run-dir "$T/other" \
	>"$T/tmp/journal" 2>&1
check_match "a priority in front" '^<3>cvol: ' "$(cat "$T/tmp/journal")"
check_fails "an unknown format" timeout 5 "$CVOL" daemon --log-format xml --socket "$T/x.sock"
check_match "is explained" 'text or json' "$OUT"
check "nothing is left" wait_nothing_left 10
finish
