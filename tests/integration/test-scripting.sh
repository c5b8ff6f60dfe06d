#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# The verbs for schedulers' scripts: as docs/scripting.md promises them, each repeated, and that
# document's own example.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

# verb EXPECTED_STATUS VERB ARGS…: --json; the answer in $OUT is one object that says the same.
verb() {
	local name=$1 expected=$2 status
	shift 2
	bounded stdout_of "$CVOL" "$@" --json
	status=$?
	if [ "$expected" = Failure ]; then
		check_equal "$name: exit status" 1 "$status"
	else
		check_equal "$name: exit status" 0 "$status" || note "$OUT"
	fi
	printf '%s' "$OUT" >"$T/tmp/json"
	check "$name: $expected" jq -se --arg s "$expected" 'length == 1 and .[0].status == $s
		and (.[0] | if $s == "Failure" then (.code | test("^E[A-Z]+$")) and (.message | length > 0)
			else (.already | type) == "boolean" end)' "$T/tmp/json"
	OUT=$(cat "$T/tmp/json")
}
stdout_of() {
	"$@" 2>>"$T/log/verbs.log"
}
already() {
	jq -r .already "$T/tmp/json"
}
code() {
	jq -r .code "$T/tmp/json"
}

for engine in $(engines dir nfs sftp); do
	start_engine "$engine"
	stage=$T/stage-$engine a=$T/pod-a-$engine b=$T/pod-b-$engine
	opts=(${OPTIONS:+-o "$OPTIONS"})
	verb "$engine: stage" Success stage "$SOURCE" "$stage" "${opts[@]}"
	check_equal "$engine: stage has made the directory and mounted" "false $stage" "$(jq -r '"\(.already) \(.mountpoint)"' <<<"$OUT")"
	check "$engine: it is" is_mounted "$stage"
	verb "$engine: stage again" Success stage "$SOURCE" "$stage" "${opts[@]}"
	check_equal "$engine: stage again does nothing" true "$(already)"
	check_equal "$engine: one worker" 1 "$(cvol_workers | wc -l)"
	verb "$engine: stage with other options" Failure stage "$SOURCE" "$stage" "${opts[@]}" -o readonly
	check_equal "$engine: is another volume" EEXIST "$(code)"

	verb "$engine: publish" Success publish "$stage" "$a"
	verb "$engine: publish again" Success publish "$stage" "$a"
	check_equal "$engine: publish again does nothing" true "$(already)"
	check_equal "$engine: published once" 1 "$(cvol_mounts | grep -cxF "$a")"
	verb "$engine: publish read-only" Success publish "$stage" "$b" --readonly
	check "$engine: written through one" sh -c "echo hello >'$a/file-$engine'"
	check_equal "$engine: read through the other" hello "$(cat "$b/file-$engine")"
	check_fails "$engine: which is read-only" sh -c "echo x >'$b/file-$engine'"
	verb "$engine: publish it read-write" Failure publish "$stage" "$b"
	check_equal "$engine: is another wish" EEXIST "$(code)"
	check_equal "$engine: no second worker" 1 "$(cvol_workers | wc -l)"
	verb "$engine: unstage while published" Failure unstage "$stage"
	check_equal "$engine: is refused" EBUSY "$(code)"
	verb "$engine: unpublish of what is staged" Failure unpublish "$stage"

	exec 6<"$a/file-$engine"
	verb "$engine: unpublish while used" Failure unpublish "$a"
	check_equal "$engine: is refused, too" EBUSY "$(code)"
	exec 6<&-
	verb "$engine: unpublish" Success unpublish "$a"
	verb "$engine: unpublish again" Success unpublish "$a"
	check_equal "$engine: unpublish again does nothing" true "$(already)"
	check "$engine: the target is gone" test ! -e "$a"
	verb "$engine: unpublish the other" Success unpublish "$b"
	verb "$engine: unstage" Success unstage "$stage"
	verb "$engine: unstage again" Success unstage "$stage"
	check_equal "$engine: unstage again does nothing" true "$(already)"
	check "$engine: nothing is left" wait_nothing_left 10
	check_equal "$engine: the server has it" hello "$(cat "$SERVER_DIR/file-$engine")"
done

# ---- what goes wrong
start_engine dir
stage=$T/stage
verb "publish of what is not staged" Failure publish "$stage" "$T/pod"
check "makes nothing" test ! -e "$T/pod"
verb "stage of nothing" Failure stage "dir://$T/nothing" "$stage"
check_match "says why" 'does not exist' "$OUT"
verb "mount with --json" Success mount "$SOURCE" "$stage"
verb "a second mount" Failure mount "$SOURCE" "$stage"
check_equal "is refused by mount" EBUSY "$(code)"
verb "unmount with --json" Success unmount "$stage"
verb "a second unmount" Failure unmount "$stage"
check_equal "is refused by unmount" ENOENT "$(code)"
mkdir -p "$T/other"
mount -t tmpfs tmpfs "$T/other"
verb "stage for the others" Success stage "$SOURCE" "$stage"
verb "publish over somebody else's mount" Failure publish "$stage" "$T/other"
verb "unpublish of somebody else's mount" Failure unpublish "$T/other"
check_match "which stays" "$T/other" "$(cat /proc/self/mounts)"
umount "$T/other"
mkdir "$T/full"
echo kept >"$T/full/file"
verb "unpublish of a directory with files" Success unpublish "$T/full"
check_equal "keeps them" kept "$(cat "$T/full/file")"
check "status --json without a daemon" "$CVOL" status --json
printf '%s' "$OUT" >"$T/tmp/json"
check "lists what is staged" jq -e --arg d "$stage" '[.. | objects | select(.Mountpoint? == $d)] | length == 1' "$T/tmp/json"

# ---- at once, and after a crash
pids=()
for i in 1 2 3 4 5 6; do
	"$CVOL" stage "$SOURCE" "$T/race" --json >"$T/tmp/race-$i" &
	pids+=($!)
done
wait "${pids[@]}"
check_equal "six at once: all succeed" 6 "$(cat "$T"/tmp/race-* | jq -s '[.[] | select(.status == "Success")] | length')"
check_equal "six at once: one has done it" 1 "$(cat "$T"/tmp/race-* | jq -s '[.[] | select(.already == false)] | length')"
check_equal "six at once: one mount" 1 "$(cvol_mounts | grep -cxF "$T/race")"
verb "six at once: unstage" Success unstage "$T/race"
for pid in $(jq -r .supervisor /run/cvol/mounts/*.json) $(cvol_workers); do
	kill -KILL "$pid"
done
verb "after a crash: stage" Success stage "$SOURCE" "$stage"
check_equal "after a crash: mounts anew" false "$(already)"
check "after a crash: and works" sh -c "echo again >'$stage/again' && cat '$stage/again'"
verb "after a crash: unstage" Success unstage "$stage"

# ---- the example of docs/scripting.md
sed -n '/^    #!\/bin\/sh$/,/^[^ ]/p' "$TOP/docs/scripting.md" | sed -n 's/^    //p' >"$T/driver"
check "the document has an example" grep -q 'cvol publish' "$T/driver"
chmod +x "$T/driver"
ln -s "$CVOL" "$T/cvol"
driver() {
	PATH=$T:$PATH "$T/driver" "$@"
}
mkdir -p "$SERVER_DIR/vol1"
check "example: mount" driver mount vol1 "dir://$SERVER_DIR/vol1" "$T/alloc/data"
check "example: is usable" sh -c "echo x >'$T/alloc/data/x'"
check "example: mount again" driver mount vol1 "dir://$SERVER_DIR/vol1" "$T/alloc/data"
check "example: for a second container" driver mount vol1 "dir://$SERVER_DIR/vol1" "$T/alloc2/data"
check "example: unmount" driver unmount vol1 "$T/alloc/data"
check "example: the second one still works" cat "$T/alloc2/data/x"
check "example: unmount the second" driver unmount vol1 "$T/alloc2/data"
check "example: nothing is left" wait_nothing_left 10
check_fails "example: a failure is one" driver mount vol2 "dir://$T/nothing" "$T/alloc/data"
check_match "example: and says why" 'does not exist' "$OUT"
finish
