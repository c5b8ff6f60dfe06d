#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# SSH servers other than OpenSSH: what every container does must work on each of them, and what one of
# them cannot do must be refused, not done wrongly.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=40
head -c 5000000 /dev/urandom >"$T/tmp/data"

# Works through $m, looks at the server's directory.
everyday() {
	check "$1: a file is written" cp "$T/tmp/data" "$m/file"
	# rclone takes what is written into its cache first.
	[ "$1" != rclone ] || wait_for 10 cmp "$T/tmp/data" "$SERVER_DIR/file"
	check "$1: every byte of it" cmp "$T/tmp/data" "$SERVER_DIR/file"
	check "$1: and reads the same" cmp "$T/tmp/data" "$m/file"
	check "$1: directories, and many files" bash -c "mkdir -p '$m/a/b/c' && for i in {1..200}; do echo \$i >'$m/a/b/'\$i; done"
	check_equal "$1: all are listed" 201 "$(find "$m/a/b" -mindepth 1 | wc -l)"
	check "$1: a file is replaced by rename" bash -c "echo new >'$m/new' && mv '$m/new' '$m/file'"
	[ "$1" != rclone ] || wait_for 10 grep -q new "$SERVER_DIR/file"
	check_equal "$1: by the new one" new "$(cat "$SERVER_DIR/file")"
	check "$1: a directory is renamed" mv "$m/a" "$m/d"
	check "$1: everything is removed" rm -r "$m/d" "$m/file"
	check_equal "$1: nothing is left on the server" "" "$(ls -A "$SERVER_DIR")"
	check "$1: statfs" df "$m"
	check_fails "$1: what is not there" cat "$m/none"
	check_match "$1: says so" 'No such file' "$OUT"
	check_fails "$1: rmdir of what is not empty" bash -c "mkdir '$m/full' && touch '$m/full/x' && rmdir '$m/full'"
	check_match "$1: says so" 'not empty' "$OUT"
	rm -r "$m/full"
}

# In place, at any offset, through links: not everywhere.
changes() {
	check "$1: a file is changed in its middle" bash -c "cp '$T/tmp/data' '$m/file' &&
		printf changed | dd of='$m/file' bs=1 seek=1000000 conv=notrunc status=none"
	cp "$T/tmp/data" "$T/tmp/expected"
	printf changed | dd of="$T/tmp/expected" bs=1 seek=1000000 conv=notrunc status=none
	check "$1: there, and nowhere else" cmp "$T/tmp/expected" "$SERVER_DIR/file"
	check "$1: a file is appended to" bash -c "echo one >'$m/log' && echo two >>'$m/log'"
	check_equal "$1: at its end" "one two" "$(tr '\n' ' ' <"$SERVER_DIR/log" | sed 's/ $//')"
	check "$1: a file is cut" truncate -s 3 "$m/log"
	check_equal "$1: to its length" 3 "$(stat -c %s "$SERVER_DIR/log")"
	check "$1: a mode is set" chmod 640 "$m/log"
	check_equal "$1: on the server" 640 "$(stat -c %a "$SERVER_DIR/log")"
	check "$1: a time is set" touch -d 2001-02-03T04:05:06 "$m/log"
	check_equal "$1: on the server" 2001-02-03T04:05:06 "$(date -d "@$(stat -c %Y "$SERVER_DIR/log")" +%FT%T)"
	check "$1: a link is made" ln -s log "$m/link"
	check_equal "$1: on the server" log "$(readlink "$SERVER_DIR/link")"
	check "$1: a link is removed" rm "$m/link" "$m/log" "$m/file"
}


for server in dropbear proftpd rclone; do
	SSH_PATH=
	start_engine "sftp-$server"
	m=$T/mnt-$server
	check "$server: mount" mount_volume "$SOURCE" "$m" "$OPTIONS" || continue
	everyday "$server"
	[ "$server" = rclone ] || changes "$server"
	if [ "$server" = rclone ]; then
		# It empties whatever is opened for writing.
		echo precious >"$m/kept"
		check_fails "$server: changing a file is refused" bash -c "echo more >>'$m/kept'"
		check_match "$server: says so" 'not supported' "$OUT"
		check_equal "$server: and the file is what it was" precious "$(cat "$SERVER_DIR/kept")"
		check "$server: writing it anew works" bash -c "echo anew >'$m/kept'"
		wait_for 10 grep -q anew "$SERVER_DIR/kept"
		check_equal "$server: with the new contents" anew "$(cat "$SERVER_DIR/kept")"
	fi
	check "$server: unmount" unmount_volume "$m"
done

note "symbolic links"
SSH_PATH=
SSHD_PID=${SSHD_PID:-}
SSH_PORT=2222 SSH_KNOWN_HOSTS=$T/ssh/known_hosts
rm -rf "${SSH_ROOT:?}"/*
start_engine sftp
m=$T/mnt-links
links_mount() {
	check "symlinks=$1: mount" mount_volume "$SOURCE" "$m" "$OPTIONS,symlinks=$1,cache=strict"
}
check "the default: mount" mount_volume "$SOURCE" "$m" "$OPTIONS"
check "the default: an absolute link is made" ln -s /etc/hostname "$m/absolute"
check_equal "the default: and read as it was made" /etc/hostname "$(readlink "$m/absolute")"
check_equal "the default: it leads where the reader is" "$(cat /etc/hostname)" "$(cat "$m/absolute")"
mkdir "$SSH_ROOT/dir"
echo inside >"$SSH_ROOT/dir/file"
ln -s "$SSH_ROOT/dir/file" "$SSH_ROOT/below"
ln -s dir/file "$SSH_ROOT/relative"
ln -s "$T/tmp/expected" "$SSH_ROOT/outside"
check "the default: unmount" unmount_volume "$m"
links_mount contain
check_equal "contain: a link below" dir/file "$(readlink "$m/below")"
check_equal "contain: a relative link" inside "$(cat "$m/relative")"
check_fails "contain: a link that leads out" readlink "$m/outside"
check "contain: unmount" unmount_volume "$m"
links_mount follow
check_equal "follow: what a link leads to is there" inside "$(cat "$m/below")"
check "follow: as what it is" test ! -L "$m/below"
check "follow: as large as it is" cmp "$T/tmp/expected" "$m/outside"
check_match "follow: in listings, too" '^-' "$(find "$m" -name below -ls | awk '{ print $3 }')"
check_fails "follow: no link can be made" ln -s / "$m/escape"
check "follow: unmount" unmount_volume "$m"
check "nothing is left" wait_nothing_left 10
finish
