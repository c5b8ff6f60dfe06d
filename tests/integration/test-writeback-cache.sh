#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# writeback_cache=true: the kernel collects what programs write. What close and fsync promise is the
# same; who may write but not set times, or not read, writes as well.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
make_users

for engine in $(engines nfs sftp); do
	start_engine "$engine"
	m=$T/mnt-$engine
	mount_volume "$SOURCE" "$m" "$OPTIONS,writeback_cache=true" --log-level debug || bail "mount"
	LOG=$(find /run/cvol -name '*.log')

	head -c 3000000 /dev/urandom >"$T/data"
	dd if="$T/data" of="$m/small-writes" bs=1000 2>/dev/null
	check "$engine: after close the server has it" cmp "$T/data" "$SERVER_DIR/small-writes"
	writes=$(grep -c "$engine: .*: write = " "$LOG")
	check "$engine: 3000 small writes become a few ($writes)" test "$writes" -lt 100
	# SFTP has whole seconds; a change within one is none to the kernel.
	[ "$engine" = sftp ] || check_equal "$engine: its time is the one shown" \
		"$(stat -c %y "$m/small-writes")" "$(stat -c %y "$SERVER_DIR/small-writes")"

	cp "$T/data" "$m/part"
	printf XYZ | dd of="$m/part" bs=1 seek=5000 conv=notrunc 2>/dev/null
	cp "$T/data" "$T/part"
	printf XYZ | dd of="$T/part" bs=1 seek=5000 conv=notrunc 2>/dev/null
	echo 3 >/proc/sys/vm/drop_caches
	printf XYZ | dd of="$m/part" bs=1 seek=9000 conv=notrunc 2>/dev/null
	printf XYZ | dd of="$T/part" bs=1 seek=9000 conv=notrunc 2>/dev/null
	check "$engine: a part of a page written through a write-only file" cmp "$T/part" "$SERVER_DIR/part"

	printf 'one\n' >"$m/log"
	(
		exec 7>>"$m/log" 8>>"$m/log"
		for i in 1 2 3; do
			printf 'a%d\n' "$i" >&7
			printf 'b%d\n' "$i" >&8
		done
	)
	check_equal "$engine: two that append take turns" "one a1 b1 a2 b2 a3 b3" "$(xargs <"$SERVER_DIR/log")"

	(
		exec 7>"$m/gone"
		printf data >&7
		rm "$m/gone"
		printf more >&7
		sync -f "$m"
	)
	check_equal "$engine: syncing with a file written and removed" 0 $?
	head -c 100000 /dev/zero | tee "$m/shorter" >/dev/null
	truncate -s 1000 "$m/shorter"
	check_equal "$engine: cut off right after writing" 1000 "$(stat -c %s "$SERVER_DIR/shorter")"
	check "$engine: unmount" unmount_volume "$m"
	check "$engine: nothing is left" wait_nothing_left 10
done

start_engine nfs
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS,writeback_cache=true" || bail "mount"
chmod 755 "$T/mnt"
: >"$T/mnt/theirs"
chmod 666 "$T/mnt/theirs"
check "nfs: who may write but not set times" setpriv --reuid 1000 --regid 1000 --clear-groups \
	bash -c "echo hello >>'$T/mnt/theirs'"
check_equal "nfs: and it has arrived" hello "$(cat "$SERVER_DIR/theirs")"
chmod 622 "$T/mnt/theirs"
check "nfs: who may write but not read" setpriv --reuid 1000 --regid 1000 --clear-groups \
	bash -c "echo again >>'$T/mnt/theirs'"
check_equal "nfs: and that has arrived" "hello again" "$(xargs <"$SERVER_DIR/theirs")"
finish
