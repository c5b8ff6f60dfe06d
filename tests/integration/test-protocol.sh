#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# The plugin protocol as Docker and Podman speak it, byte for byte, and the traps that were seen with
# real engines. No engine takes part here; the volumes are real.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=30

ID1=$(printf 'a%.0s' {1..64})
ID2=$(printf 'b%.0s' {1..64})
start_engine dir
start_cvol

jqt() { # jqt FILTER JSON
	printf '%s' "$2" | jq -e "$1" >/dev/null
}
create() { # create NAME [OPTS_JSON]
	raw_ok Create "{\"Name\":\"$1\",\"Opts\":${2:-null}}"
}
mnt() { # mnt NAME ID: prints the mount point
	raw_ok Mount "{\"Name\":\"$1\",\"ID\":\"$2\"}" | jq -er .Mountpoint
}
umnt() {
	raw_ok Unmount "{\"Name\":\"$1\",\"ID\":\"$2\"}"
}

check_equal "Activate answers what we implement" '{"Implements":["VolumeDriver"]}' \
	"$(raw Plugin.Activate | jq -c .)"
check_equal "Capabilities: scope local" local "$(raw Capabilities '{}' | jq -r .Capabilities.Scope)"
check_equal "Capabilities with an empty body" local "$(raw Capabilities | jq -r .Capabilities.Scope)"
check "List of nothing" jqt '.Volumes == [] and (.Err // "") == ""' "$(raw List '{}')"
check "List with an empty body (Podman)" jqt '.Volumes == []' "$(raw List)"

check "Create, Opts {}" create one '{}'
check "Create, Opts null" create two null
check "Create, no Opts key (Podman)" raw_ok Create '{"Name":"three"}'
check "Create again, same options: nothing happens" create one '{}'
check_match "Create again, other options: an error" '.' \
	"$(raw_err Create "{\"Name\":\"one\",\"Opts\":{\"source\":\"$SOURCE\"}}")"
check_equal "an error is HTTP 500" 500 \
	"$(raw_status Create "{\"Name\":\"one\",\"Opts\":{\"source\":\"$SOURCE\"}}")"
check_match "Create with an unknown option names it" nosuchoption \
	"$(raw_err Create '{"Name":"bad","Opts":{"nosuchoption":"1"}}')"
check "a failed Create leaves no volume" jqt '[.Volumes[].Name] | index("bad") == null' "$(raw List '{}')"
check "extra keys and a trailing newline are fine" raw_ok Get '{"Name":"one","Future":[1,{"x":null}]}
'
answer=$(raw Get '{"Name":"one"}')
check "Get: name, RFC 3339 time, no mount point yet" jqt '.Volume.Name == "one"
	and (.Volume.CreatedAt | test("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\\.[0-9]+)?(Z|[+-][0-9:]{5})$"))
	and (.Err // "") == ""' "$answer"
check_match "Get of a volume nobody made: an error" '.' "$(raw_err Get '{"Name":"nobody"}')"

# Trap 1: Get answers from local state, whatever the server does.
check "trap 1: a volume on a dead server can be made" create dead '{"source":"nfs://127.0.0.1:9/none"}'
check "trap 1: and Get never fails for it" raw_ok Get '{"Name":"dead"}'
RAW_LIMIT=60 raw Mount "{\"Name\":\"dead\",\"ID\":\"$ID1\"}" >"$T/tmp/dead"
check "trap 1: Mount fails" jqt '(.Err // "") != ""' "$(cat "$T/tmp/dead")"
check "trap 1: Get still answers" raw_ok Get '{"Name":"dead"}'

# Trap 2: the mount point is absolute and really mounted.
p=$(mnt one "$ID1")
check_match "trap 2: Mount answers an absolute path" '^/' "$p"
check "trap 2: a file system is mounted there" is_mounted "$p"
check_equal "trap 2: Path says the same" "$p" "$(raw Path '{"Name":"one"}' | jq -r .Mountpoint)"
check_equal "trap 2: Get says the same" "$p" "$(raw Get '{"Name":"one"}' | jq -r .Volume.Mountpoint)"
check_equal "trap 2: a failed Mount carries no mount point" "" "$(jq -r '.Mountpoint // ""' "$T/tmp/dead")"

# Trap 3: a retried request comes with an empty body.
for call in Create Get Mount Unmount Path Remove; do
	check_match "trap 3: $call with an empty body: an error, at once" '.' "$(RAW_LIMIT=2 raw_err "$call" '')"
done
for body in '{' '[]' '"x"' '{"Name":5}' '{"Name":"one"' 'null' '{"Name":null}'; do
	check_match "trap 3: Mount with $body: an error" '.' "$(RAW_LIMIT=2 raw_err Mount "$body")"
done
check_match "trap 3: a body of two megabytes is refused" '^(4|5)' \
	"$(head -c 2000000 /dev/zero | tr '\0' x >"$T/tmp/big"; raw_status Mount "@$T/tmp/big")"
check_match "an unknown call is an error" '^(4|5)' "$(raw_status VolumeDriver.Nonsense '{}')"
check_match "GET instead of POST is an error" '^(4|5)' \
	"$(curl -s -m 5 -o /dev/null -w '%{http_code}' --unix-socket "$PLUGIN_SOCK" http://plugin/VolumeDriver.List)"
check "the daemon is well after all that" cvol_answers
check_equal "an empty Host header, as dockerd sends it" 200 \
	"$(curl -s -m 5 -o /dev/null -w '%{http_code}' -H 'Host;' --unix-socket "$PLUGIN_SOCK" -X POST -d '{}' http://plugin/VolumeDriver.List)"
check_equal "Podman's headers" 200 \
	"$(curl -s -m 5 -o /dev/null -w '%{http_code}' -H 'Host: plugin' -H 'Content-Type: application/vnd.docker.plugins.v1.1+json' --unix-socket "$PLUGIN_SOCK" -X POST -d '{"Name":"one"}' http://plugin/VolumeDriver.Get)"

# Trap 4: no Unmount follows a failed Mount.
check_equal "trap 4: a failed Mount left no mount and no directory" "" \
	"$(find "$RUN_DIR" -name dead; cvol_mounts | grep -w dead)"
check "trap 4: and no reference: Remove works" raw_ok Remove '{"Name":"dead"}'

# Trap 5: IDs repeat; each ID is counted.
check_equal "trap 5: the same ID mounts again" "$p" "$(mnt one "$ID1")"
check "trap 5: one Unmount of it" umnt one "$ID1"
check "trap 5: still mounted for the other use of the same ID" is_mounted "$p"
check_equal "trap 5: another ID" "$p" "$(mnt one "$ID2")"
check "trap 5: the first ID is done" umnt one "$ID1"
check "trap 5: still mounted for the other ID" is_mounted "$p"
check "trap 5: the last one" umnt one "$ID2"
check "trap 5: now it is not" wait_for 5 not_mounted "$p"

# Trap 6: counts leak; Remove clears what is left.
p=$(mnt two "$ID1")
check_equal "trap 6: mounted again with the same ID after a crash of Docker" "$p" "$(mnt two "$ID1")"
check "trap 6: one Unmount, as one container stopped" umnt two "$ID1"
check "trap 6: Remove clears the leftover" raw_ok Remove '{"Name":"two"}'
check "trap 6: nothing is mounted any more" wait_for 5 not_mounted "$p"
check "trap 6: the name is free" create two
check "trap 6: and works" mnt two "$ID2"
check "trap 6: and ends" umnt two "$ID2"

# Trap 7, 8: the plugin restarts under a mounted volume; nobody tells it anything.
p=$(mnt one "$ID1")
echo before >"$p/file"
exec 5>"$p/open"
stop_cvol
start_cvol
check "trap 8: after a restart the volume is known" raw_ok Get '{"Name":"one"}'
check_equal "trap 8: and where it is mounted" "$p" "$(raw Get '{"Name":"one"}' | jq -r .Volume.Mountpoint)"
check_equal "trap 8: its content is there" before "$(timeout 10 cat "$p/file")"
check "trap 8: an open file still writes" timeout 10 sh -c 'echo x >&5'
exec 5>&-
check "trap 7: Unmount with the ID of before" umnt one "$ID1"
check "trap 7: it is unmounted" wait_for 5 not_mounted "$p"
p=$(mnt one "$ID1")
stop_cvol KILL
start_cvol
check_equal "trap 7: mounted again with the same ID after the daemon was killed" "$p" "$(mnt one "$ID1")"
check_equal "trap 7: content" before "$(timeout 10 cat "$p/file")"
check "trap 7: Unmount" umnt one "$ID1"
umnt one "$ID1" >/dev/null

# Trap 9: Unmount of what is not mounted.
check "trap 9: Unmount with an unknown ID" umnt one "$(printf 'c%.0s' {1..64})"
check "trap 9: Unmount of a volume that is not mounted" umnt three "$ID1"

# Trap 10: names are not checked by Docker.
for name in .. . ../x a/../b '' "$(printf 'x%.0s' {1..256})"; do
	check_match "trap 10: the name '${name:0:20}' is refused" '.' \
		"$(raw_err Create "$(jq -nc --arg n "$name" '{Name: $n, Opts: {}}')")"
done
for name in 'tab	x' $'line\nbreak'; do
	check_match "trap 10: control characters are refused" '.' \
		"$(raw_err Create "$(jq -nc --arg n "$name" '{Name: $n, Opts: {}}')")"
done
check_match "trap 10: NUL is refused" '.' "$(raw_err Create '{"Name":"a\u0000b","Opts":{}}')"
for name in 'with space' 'größe-日本' 'Mixed_Case.1-2'; do
	body=$(jq -nc --arg n "$name" --arg i "$ID1" '{Name: $n, ID: $i}')
	check "trap 10: '$name' works: Create" raw_ok Create "$body"
	check "trap 10: '$name' works: Mount" raw_ok Mount "$body"
	check "trap 10: '$name' works: Unmount" raw_ok Unmount "$body"
	check "trap 10: '$name' works: Remove" raw_ok Remove "$body"
done
check_equal "trap 10: nothing was made outside our directories" "" \
	"$(find "$T" -maxdepth 1 -newer "$PLUGIN_SOCK" -name 'x' 2>/dev/null)"

# Trap 13: one plain line.
err=$(jq -r .Err "$T/tmp/dead")
check_equal "trap 13: an error text is one line" 1 "$(printf '%s\n' "$err" | wc -l)"

# Trap 12, 15 (Podman): one constant ID, Activate all the time, Unmount after the last user only.
check "trap 15: Activate in between" cvol_answers
p=$(mnt three "$ID1")
check "trap 15: Activate while mounted" cvol_answers
check "trap 15: changes nothing" is_mounted "$p"
check "trap 15: Remove while mounted clears it, as Podman may send it" raw_ok Remove '{"Name":"three"}'
check "trap 15: it is unmounted" wait_for 5 not_mounted "$p"

# A client that leaves during Mount (its answer is lost) leaves no reference behind.
start_sshd
start_proxy ssh "$SSH_PORT"
write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
create slow "{\"source\":\"sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT\",\"key_file\":\"$SSH_KEY\",\"known_hosts\":\"$T/ssh/known_proxy\"}" >/dev/null
proxy_cmd ssh hole
RAW_LIMIT=1 raw Mount "{\"Name\":\"slow\",\"ID\":\"$ID1\"}" >/dev/null
proxy_cmd ssh resume
sleep 1
check "trap 4: the client left during Mount: no mount stays" wait_for 30 nothing_left
check "trap 4: and the next Mount works" mnt slow "$ID2"
check "trap 4: one Unmount ends it" umnt slow "$ID2"
check "trap 4: it is unmounted" wait_nothing_left 10
check "Remove" raw_ok Remove '{"Name":"slow"}'
check_match "Remove of an unknown volume: an error, not a crash" '.' "$(raw_err Remove '{"Name":"slow"}')"
check "Remove" raw_ok Remove '{"Name":"one"}'
check "Remove" raw_ok Remove '{"Name":"two"}'
check "no mount, no worker at the end" wait_nothing_left 10
check_equal "the socket is for root alone" 600 "$(stat -c %a "$PLUGIN_SOCK")"
finish
