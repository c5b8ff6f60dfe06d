#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# The state directory is full, read-only, or has damaged files in it: what exists goes on, what cannot be done
# says why, and nothing is lost. SEED=N repeats a run; FAULT_SCALE=N makes it N times as long.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

fault_seed
ID=$(printf 'a%.0s' {1..64})
mkdir -p "$T/state"
mount -t tmpfs -o size=512k,mode=711 tmpfs "$T/state"
defer umount -l "$T/state"
start_cvol
start_engine nfs
create() { # NAME
	raw_ok Create "{\"Name\":\"$1\",\"Opts\":{\"source\":\"$SOURCE\"}}"
}
works() { # NAME: mounts, reads and unmounts
	local p
	p=$(raw_ok Mount "{\"Name\":\"$1\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
	[ "$(timeout 10 cat "$p/file")" = content ] || return 1
	raw_ok Unmount "{\"Name\":\"$1\",\"ID\":\"$ID\"}"
}
names() {
	raw List '{}' | jq -r '.Volumes[].Name' | sort | tr '\n' ' '
}
temporary_files() {
	find "$T/state" -type f ! -name '*.json' ! -name 'ballast*' ! -path '*/data/*'
}
echo content >"$NFS_ROOT/file"
for name in one two; do
	create "$name" >/dev/null || bail "create"
done

# ---- full
# In small pieces: the last bytes count.
i=0
while dd if=/dev/zero of="$T/state/ballast$i" bs=4k count=1 2>/dev/null; do
	i=$((i + 1))
done
check_fails "full: Create fails" create three
check_match "full: and says why" "volume 'three' was not created.*No space left" "$OUT"
check_equal "full: there is no such volume" "one two " "$(names)"
check "full: those that are there work" works one
check_fails "full: a secret does not fit either" raw_ok Create "{\"Name\":\"secret\",\"Opts\":{\"source\":\"sftp://root@127.0.0.1/\",\"password\":\"x\"}}"
check_equal "full: nothing half-written is left" "" "$(temporary_files)"
stop_cvol KILL
start_cvol
check_equal "full: a restart knows them" "one two " "$(names)"
check "full: and they work" works two
check "full: Remove works" raw_ok Remove '{"Name":"two"}'
rm "$T"/state/ballast*
check "room again: Create works" create two

# ---- read-only
mount -o remount,ro "$T/state"
check_fails "read-only: Create fails" create three
check_match "read-only: and says why" "Read-only file system" "$OUT"
check_fails "read-only: Remove fails" raw_ok Remove '{"Name":"two"}'
check_match "read-only: and says why" "Read-only file system" "$OUT"
check "read-only: those that are there work" works one
stop_cvol
start_cvol
check_equal "read-only: a restart knows them" "one two " "$(names)"
check "read-only: and they work" works two
mount -o remount,rw "$T/state"
check "writable again: Remove works" raw_ok Remove '{"Name":"two"}'

# ---- the run directory is full: what is mounted could not be remembered
stop_cvol
mount -t tmpfs -o size=64k,mode=711 tmpfs "$RUN_DIR"
defer umount -l "$RUN_DIR"
start_cvol
p=$(raw_ok Mount "{\"Name\":\"one\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
i=0
while dd if=/dev/zero of="$RUN_DIR/ballast$i" bs=4k count=1 2>/dev/null && [ -s "$RUN_DIR/ballast$i" ]; do
	i=$((i + 1))
done
create two >/dev/null
check_fails "run directory full: Mount fails" raw_ok Mount "{\"Name\":\"two\",\"ID\":\"$ID\"}"
check_match "run directory full: and says why" "No space left" "$OUT"
check_equal "run directory full: what is mounted stays so" "content $p" "$(cat "$p/file") $(cvol_mounts)"
check "run directory full: Unmount works" raw_ok Unmount "{\"Name\":\"one\",\"ID\":\"$ID\"}"
check "run directory full: nothing is left" wait_nothing_left 10
rm "$RUN_DIR"/ballast*
check "run directory, room again: mounts" works two
check "run directory, room again: Remove" raw_ok Remove '{"Name":"two"}'

# ---- damaged files
create good >/dev/null
good=$(cat "$T/state/volumes/good.json")
damage() { # FILE: some bytes of it become others
	local size offset i
	size=$(stat -c %s "$1")
	for ((i = 0; i <= RANDOM % 4; i++)); do
		offset=$((RANDOM % size))
		printf '%b' "$(printf '\\x%02x' $((RANDOM % 256)))" | dd of="$1" bs=1 seek="$offset" conv=notrunc 2>/dev/null
	done
}
rounds=$((10 * FAULT_SCALE))
bad=0
for ((round = 0; round < rounds; round++)); do
	printf '%s' "$good" >"$T/state/volumes/hurt.json"
	case $((round % 5)) in
	0) truncate -s $((RANDOM % ${#good})) "$T/state/volumes/hurt.json" ;;
	1) head -c $((RANDOM + 1)) /dev/urandom >"$T/state/volumes/hurt.json" ;;
	*) damage "$T/state/volumes/hurt.json" ;;
	esac
	p=$(raw_ok Mount "{\"Name\":\"one\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
	# Records are only helpers: without one, the mount it told of is given up.
	[ $((round % 2)) = 0 ] || damage "$RUN_DIR/volumes/one.json"
	stop_cvol KILL
	start_cvol
	if ! works good >"$T/tmp/why" 2>&1 || ! names | grep -q 'good .*one '; then
		bad=$((bad + 1))
		note "round $round: $(cat "$T/tmp/why") $(names)"
		cp "$T/state/volumes/hurt.json" "$T/log/hurt-$round" 2>/dev/null
	fi
	raw_ok Unmount "{\"Name\":\"one\",\"ID\":\"$ID\"}" >/dev/null
	rm -f "$T/state/volumes/hurt.json"
done
check_equal "damaged files: $rounds restarts, the other volumes always work" 0 "$bad"
stop_cvol

# What is no file at all.
mkdir "$T/state/volumes/directory.json"
mkfifo "$T/state/volumes/fifo.json"
ln -s /etc/passwd "$T/state/volumes/link.json"
: >"$T/state/volumes/empty.json"
dd if=/dev/zero of="$T/state/volumes/zeros.json" bs=4k count=8 2>/dev/null
chmod 600 "$T/state/volumes/empty.json" "$T/state/volumes/zeros.json"
start_cvol
check "no files: the daemon starts and the others work" works one
for name in directory fifo link empty zeros; do
	check_fails "no file: $name is listed, and cannot be mounted" raw_ok Mount "{\"Name\":\"$name\",\"ID\":\"$ID\"}"
	check_match "no file: $name: says why" "volume '$name' cannot be mounted: .*$name.json" "$OUT"
done
check "no file: can be removed" raw_ok Remove '{"Name":"empty"}'
check "no file: and made anew" create empty
check "no file: works then" works empty
"$CVOL" gc --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR" >/dev/null
stop_cvol
check "nothing is left" wait_nothing_left 20
finish
