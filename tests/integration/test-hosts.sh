#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Two mounts of one directory, as two hosts have it: what one has done and told the other about is
# there when the other looks for it.
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
sandbox "$@"
command -v git >/dev/null || bail_skip "no git"
ROUNDS=20
COMMITS=8
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git config --global --add safe.directory '*'

# In a directory full of what the first host has just made itself.
new_names() {
	local i
	for ((i = 0; i < ROUNDS; i++)); do
		mkdir "$A/new$i" && echo mine >"$A/new$i/mine" && echo other >"$B/new$i/other" || return
		[ "$(cat "$A/new$i/other")" = other ] || return
	done
}

# Looked for in vain before; as long as such an answer is believed, at most.
names_missed_before() {
	! cat "$A/late" 2>/dev/null || return
	echo late >"$B/late"
	wait_for 5 cmp -s "$A/late" "$B/late"
}

# Each replaces the file in turn, as editors do, and git its references.
replaced() {
	local i
	echo 0 >"$A/file"
	for ((i = 1; i < ROUNDS; i++)); do
		echo "$i" >"$A/file.new" && mv "$A/file.new" "$A/file" || return
		[ "$(cat "$B/file")" = "$i" ] || return
		echo "b$i" >"$B/file.new" && mv "$B/file.new" "$B/file" || return
		[ "$(cat "$A/file")" = "b$i" ] || return
	done
}

# What one host has open in its cache, the other removes, and makes again: missing, or the new one, and
# never "stale".
removed() {
	local i
	for ((i = 0; i < ROUNDS; i++)); do
		echo "$i" >"$A/gone$i"
		[ "$(cat "$B/gone$i")" = "$i" ] || { echo "$i: not the new one"; return 1; }
		rm "$A/gone$i"
		if cat "$B/gone$i" 2>"$T/tmp/gone" || ! grep -q 'No such file' "$T/tmp/gone"; then
			echo "$i: removed: $(cat "$T/tmp/gone")"
			return 1
		fi
		mkdir "$A/dir" && touch "$A/dir/in" || return
		ls "$B/dir" >/dev/null || { echo "$i: no directory"; return 1; }
		rm -r "$A/dir" && mkdir "$A/dir" && echo "$i" >"$A/dir/other" || return
		[ "$(cat "$B/dir/other")" = "$i" ] || { echo "$i: not in the new directory"; return 1; }
		rm -r "$A/dir" || return
	done
}

# Who still walks through a directory's old listing takes nothing of it back from who has opened a file
# since, at its new length.
listed_meanwhile() {
	local i
	mkdir "$B/listed" || return
	for ((i = 0; i < 120; i++)); do printf short >"$B/listed/a-name-of-some-length-$i"; done
	python3 -c '
import ctypes, os, sys
mine, other = sys.argv[1:]
buf = ctypes.create_string_buffer(4096)
def more(fd):
    return ctypes.CDLL(None).syscall(217, fd, buf, 4096)  # getdents64
name = os.listdir(other)[100]
listing = os.open(mine, os.O_RDONLY | os.O_DIRECTORY)
more(listing)
with open(other + "/" + name, "w") as f:
    f.write("longer than before")
reader = open(mine + "/" + name)
while more(listing) > 0:
    pass
got = reader.read()
print(len(got), "bytes")
sys.exit(got != "longer than before")' "$A/listed" "$B/listed"
}

# A commit fails while the other host's is under way, which git says; then it is tried again.
commit() {
	local i tries
	for ((i = 0; i < COMMITS; i++)); do
		tries=0
		until git -C "$1" commit -q --allow-empty -m "$i" 2>>"$T/log/git.log"; do
			[ $((tries++)) -lt 300 ] || return
			sleep 0.05
		done
	done
}
commits_at_once() {
	git init -q "$A/repo" && git -C "$A/repo" commit -q --allow-empty -m first || return
	commit "$A/repo" &
	local first=$!
	commit "$B/repo" && wait "$first"
}

hosts() {
	local engine=$1
	start_engine "$engine"
	A=$T/a-$engine B=$T/b-$engine
	mount_volume "$SOURCE" "$A" "$OPTIONS" || bail "mount"
	mount_volume "$SOURCE" "$B" "$OPTIONS" || bail "mount"
	check "$engine: a name that the other host has just made" new_names
	check "$engine: one that was looked for before it was made" names_missed_before
	check "$engine: files replaced by the other host" replaced
	check "$engine: files and directories removed and made again by the other host" removed
	check "$engine: a file that has grown while its directory is listed" listed_meanwhile
	LIMIT=120 check "$engine: git commit on both hosts at once" commits_at_once
	check_equal "$engine: no commit is lost" $((2 * COMMITS + 1)) "$(git -C "$A/repo" rev-list --count HEAD)"
	check_equal "$engine: for neither" $((2 * COMMITS + 1)) "$(git -C "$B/repo" rev-list --count HEAD)"
	check "$engine: git fsck" git -C "$B/repo" fsck
	rm -rf "$A/repo"
	check "$engine: unmount" unmount_volume "$A"
	check "$engine: and the other" unmount_volume "$B"
	rm -rf "${SERVER_DIR:?}"/*
}
for engine in nfs nfs4 nfs40 sftp; do
	hosts "$engine"
done
check "nothing is left" wait_nothing_left 10
finish
