#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 60
# A rename onto an open file that fails, where the server has no hard links: the file that should have
# been replaced had to be moved out of the way, and must be back under its name.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

SFTP_ARGS="-P hardlink"
start_engine sftp
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" || bail "mount"
m=$T/mnt
echo precious >"$m/target"
echo new >"$m/source"
exec 7<"$m/target"

# The kernel believes in the source still.
stat "$m/source" >/dev/null
rm "$SERVER_DIR/source"
check_fails "the rename fails" mv -T "$m/source" "$m/target"
check_equal "what it should have replaced is there" precious "$(cat "$SERVER_DIR/target" 2>&1)"
check_equal "also through the mount" precious "$(cat "$m/target" 2>&1)"
check_equal "and open as before" precious "$(cat <&7)"
exec 7<&-
check_equal "after the last close, too" precious "$(cat "$SERVER_DIR/target" 2>&1)"
check "and nothing is left of the way it went" wait_for 5 test ! -e "$SERVER_DIR/.cvol-unlinked"

echo new >"$m/source"
exec 7<"$m/target"
check "a rename that succeeds replaces it" mv -T "$m/source" "$m/target"
check_equal "for who has it open it stays" precious "$(cat <&7)"
check_equal "for others it is the new one" new "$(cat "$m/target")"
exec 7<&-
check "and nothing is left, either" wait_for 5 test ! -e "$SERVER_DIR/.cvol-unlinked"
check "unmount" unmount_volume "$m"
finish
