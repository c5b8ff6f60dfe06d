#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 90
# Open files that are removed wait for their last close in a directory of cvol's own. When that has
# gone meanwhile (with the last such file, or because somebody tidied up on the server) the next one
# gets a new one: not a hidden name in its own directory, which could then not be removed.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

server_pids() {
	case $engine in
	sftp) echo "$(ssh_sessions) $(for p in $(ssh_sessions); do pgrep -P "$p"; done)" ;;
	*) echo "$GANESHA_PID" ;;
	esac
}
has_ended() {
	! kill -0 "$1" 2>/dev/null
}

for engine in $(engines nfs nfs4 sftp); do
	start_engine "$engine"
	m=$T/mnt-$engine
	mount_volume "$SOURCE" "$m" "$OPTIONS" || bail "mount"
	mkdir "$m/a" "$m/b" "$m/c"
	echo one >"$m/a/f"
	exec 7<"$m/a/f"
	rm "$m/a/f"
	check "$engine: it is kept on the server" test -d "$SERVER_DIR/.cvol-unlinked"
	check "$engine: its directory is empty" rmdir "$m/a"

	rm -f "$SERVER_DIR"/.cvol-unlinked/.cvol-unlinked-*
	rmdir "$SERVER_DIR/.cvol-unlinked" || bail "rmdir"
	echo two >"$m/b/g"
	exec 8<"$m/b/g"
	check "$engine: the next one, with the directory gone" rm "$m/b/g"
	check_equal "$engine: it is readable" two "$(cat <&8)"
	check "$engine: its directory is empty, too" rmdir "$m/b"
	check "$engine: the directory is there again" test -d "$SERVER_DIR/.cvol-unlinked"

	echo old >"$m/c/h"
	exec 9<"$m/c/h"
	rm -f "$SERVER_DIR"/.cvol-unlinked/.cvol-unlinked-*
	rmdir "$SERVER_DIR/.cvol-unlinked" || bail "rmdir"
	echo new >"$m/c/new"
	check "$engine: a rename over an open file, with the directory gone" mv -T "$m/c/new" "$m/c/h"
	check_equal "$engine: the old one is readable" old "$(cat <&9)"
	check_equal "$engine: the new one has the name" new "$(cat "$m/c/h")"
	check "$engine: and goes" rm "$m/c/h"
	check "$engine: its directory is empty as well" rmdir "$m/c"
	exec 7<&- 8<&- 9<&-
	check "$engine: after the last close nothing is left" wait_for 5 test ! -e "$SERVER_DIR/.cvol-unlinked"

	# Who removes it is killed while the server hangs, and somebody else's request is received where
	# that one was.
	echo open >"$m/open"
	echo other >"$SERVER_DIR/other"
	exec 7<"$m/open"
	pids=$(server_pids)
	# shellcheck disable=SC2086
	freeze $pids
	rm -f "$m/open" &
	remover=$!
	sleep 0.5
	kill -KILL "$remover"
	check "$engine: who removes an open file can be killed" wait_for 5 has_ended "$remover"
	stat "$m/other" >/dev/null &
	looker=$!
	sleep 0.5
	exec 7<&-
	# shellcheck disable=SC2086
	kill -CONT $pids
	wait "$looker"
	check_equal "$engine: who looked for another one finds it" 0 $?
	check "$engine: the one is removed" wait_for 10 test ! -e "$SERVER_DIR/open"
	check_equal "$engine: the other is not" other "$(cat "$SERVER_DIR/other")"
	check "$engine: and nothing is left of it" wait_for 5 test ! -e "$SERVER_DIR/.cvol-unlinked"
	check "$engine: unmount" unmount_volume "$m"
done
finish
