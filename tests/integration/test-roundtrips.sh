#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# What an operation asks the server, counted in the worker's log, and how often it waits for the
# answer, counted by the relay. Time is not measured: a count is the same on any machine.
# The functions are arguments of asked().
# shellcheck disable=SC2317,SC2012,SC2011
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

# Anybody on the machine may drop the kernel's caches, which then has to ask: such a run counts
# nothing.
drops() {
	awk '/^drop_slab/ { print $2 }' /proc/vmstat
}

# asked ENGINE OPERATION COMMAND…: how many OPERATIONs the command caused, into $COUNT.
asked() {
	local engine=$1 operation=$2 before dropped try
	shift 2
	for try in 1 2 3 4 5; do
		dropped=$(drops)
		before=$(grep -c "$engine: .*: $operation = " "$LOG")
		"$@" "$try" || return
		COUNT=$(($(grep -c "$engine: .*: $operation = " "$LOG") - before))
		[ "$dropped" != "$(drops)" ] || return 0
	done
	note "the kernel's caches were dropped during each of 5 tries"
	return 1
}

asks() {
	local name=$1 expected=$2
	shift 2
	asked "$@" && check_equal "$name" "$expected" "$COUNT"
}

create_files() {
	local i
	for ((i = 0; i < 10; i++)); do : >"c$1-$i"; done
}
make_dirs() {
	local i
	for ((i = 0; i < 10; i++)); do mkdir "m$1-$i"; done
}
rename_files() {
	local i
	for ((i = 0; i < 10; i++)); do mv "c$1-$i" "r$1-$i"; done
}
remove_files() {
	local i
	for ((i = 0; i < 10; i++)); do rm -f "w$1-$i"; done
}
write_and_stat() {
	local i
	for ((i = 0; i < 10; i++)); do
		echo data >"w$1-$i"
		[ "$(stat -c %s "w$1-$i")" = 5 ] || return
	done
}
write_some() {
	local i
	for ((i = 0; i < 10; i++)); do head -c 20000 /dev/zero >"f$1-$i"; done
}
write_and_date() {
	local i
	for ((i = 0; i < 10; i++)); do cp -p "$T/listed" "d$1-$i"; done
}
# In a directory of our own making.
create_in_new() {
	local i
	mkdir "new$1" || return
	for ((i = 0; i < 10; i++)); do : >"new$1/$i"; done
	rm "new$1/3" && [ ! -e "new$1/10" ] && [ -e "new$1/9" ]
}
stat_after_change() {
	local i links
	for ((i = 0; i < 10; i++)); do
		links=$(stat -c %h .)
		mkdir "s$1-$i"
		[ "$(stat -c %h .)" = $((links + 1)) ] || return
	done
}

list_and_read() {
	ls -l small && cat small/{1..20}
}
unpack() {
	tar xf "$T/small.tar" --no-same-owner --no-same-permissions --one-top-level="x$RANDOM"
}

list() {
	ls -lR tree >"$T/listed"
}

# turns COMMAND…: how often the server had to answer before the command could go on, into $COUNT,
# counted by the relay named $RELAY. Answers that nobody waits for may split one in two, so that
# limits leave room for some.
turns() {
	local before dropped try
	for try in 1 2 3 4 5; do
		dropped=$(drops)
		before=$(proxy_cmd "$RELAY" turns)
		"$@" >/dev/null || return
		COUNT=$(($(proxy_cmd "$RELAY" turns) - before))
		[ "$dropped" != "$(drops)" ] || return 0
		sleep 2.1 # what was listed ahead is forgotten
		echo 2 >/proc/sys/vm/drop_caches
	done
	note "the kernel's caches were dropped during each of 5 tries"
	return 1
}

at_most() {
	local name=$1 limit=$2
	shift 2
	turns "$@" && [ "$COUNT" -le "$limit" ] && ok "$name ($COUNT)" && return
	not_ok "$name: $COUNT round trips, expected at most $limit"
}

start_engine nfs
mkdir -p "$SERVER_DIR"/tree/{a,b}/{c,d}
touch -d '2 days ago' "$SERVER_DIR"/tree/{a,b}/{c,d}/{1,2,3} "$SERVER_DIR"/tree/{a/{c,d},b/{c,d},a,b,}
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" --log-level debug || bail "mount"
LOG=$(find /run/cvol -name '*.log')
cd "$T/mnt" || bail "cd"
for operation in opendir readdir lookup getattr; do
	list
	asks "nfs: a tree listed before: no $operation" 0 nfs "$operation" list
done
check_equal "nfs: and the listing is whole" "$(cd "$SERVER_DIR" && ls -lR tree | wc -l)" "$(wc -l <"$T/listed")"
touch tree/a/c/new
check_match "nfs: our own change is in it" new "$(ls tree/a/c)"
rm tree/a/c/2
check_equal "nfs: also a removal" "1 3 new" "$(ls tree/a/c | xargs)"
mkdir work || bail "mkdir"
cd work || bail "cd"
: >first
asks "nfs: creating does not ask for the directory" 0 nfs getattr create_files
asks "nfs: nor does making directories" 0 nfs getattr make_dirs
asks "nfs: nor renaming" 0 nfs getattr rename_files
asks "nfs: a file just written need not be asked for" 0 nfs getattr write_and_stat
asks "nfs: a file that fits into one WRITE needs no COMMIT" 0 nfs fsync write_some
asks "nfs: nor if it gets its times before it is closed" 0 nfs fsync write_and_date
# The directory itself, and the first of the names: somebody else made the directory.
asks "nfs: names that nobody has made are not looked up by whoever makes more of them" 2 nfs lookup create_in_new
asks "nfs: removing does not ask, either" 0 nfs getattr remove_files
asks "nfs: the directory's new state is shown without asking" 0 nfs getattr stat_after_change
cd /
check "unmount" unmount_volume "$T/mnt"

# A directory that somebody else has changed as well: the server's answers are believed, not ours.
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" || bail "mount"
mount_volume "$SOURCE" "$T/mnt2" "$OPTIONS" || bail "mount"
mount_volume "$SOURCE" "$T/mnt3" "$OPTIONS,cache=strict" || bail "mount"
mkdir "$T/mnt/two" || bail "mkdir"
mkdir "$T/mnt2/two/theirs" || bail "mkdir"
mkdir "$T/mnt/two/ours" || bail "mkdir"
check_equal "nfs: another client's change is in what our own brings" 4 "$(stat -c %h "$T/mnt/two")"
mkdir "$T/mnt/ours" && touch "$T/mnt/ours/1" && touch "$T/mnt2/ours/theirs" "$T/mnt/ours/2"
check "nfs: another client's file is found in a directory of ours" test -e "$T/mnt/ours/theirs"
mkdir "$T/mnt3/strict" && touch "$T/mnt/strict/theirs"
check "nfs: with cache=strict at once" test -e "$T/mnt3/strict/theirs"
ls "$T/mnt3/tree/b/c" "$T/mnt2/tree/b/c" >/dev/null
touch "$T/mnt/tree/b/c/theirs"
check_match "nfs: cache=strict lists another client's file at once" theirs "$(ls "$T/mnt3/tree/b/c")"
unmount_volume "$T/mnt2"
mount_volume "$SOURCE" "$T/mnt2" "$OPTIONS,attr_timeout=1s" || bail "mount"
ls "$T/mnt2/tree/b/d" >/dev/null
touch "$T/mnt/tree/b/d/theirs"
check "nfs: others do when the directory's time is checked again" \
	wait_for 5 sh -c 'sleep 1.2; ls "$1" | grep -q theirs' sh "$T/mnt2/tree/b/d"
check "unmount" unmount_volume "$T/mnt"
check "unmount" unmount_volume "$T/mnt2"
check "unmount" unmount_volume "$T/mnt3"

# The same through a relay that delays more than it takes the machine to answer.
mkdir -p "$SERVER_DIR"/wide/{1..30}/below "$SERVER_DIR"/small
for i in {1..20}; do echo "line $i" >"$SERVER_DIR/small/$i"; done
touch -d '2 days ago' "$SERVER_DIR"/wide{,/*} "$SERVER_DIR"/small{,/*}
tar cf "$T/small.tar" -C "$SERVER_DIR/small" .
start_proxy mount "$MNT_PORT" -d 20
MOUNT_RELAY=$PROXY_PORT
start_proxy nfs-far "$NFS_PORT" -d 20
RELAY=nfs-far
for engine in nfs nfs4 nfs40; do
	start_engine $engine
	OPTIONS+=,port=$PROXY_PORT
	[ $engine != nfs ] || OPTIONS+=,mountport=$MOUNT_RELAY
	mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" || bail "mount"
	cd "$T/mnt" || bail "cd"
	at_most "$engine: 61 directories are found in a few round trips" 18 find wide
	check_equal "$engine: all of them" 61 "$(find wide | wc -l)"
	# One for the listing; NFSv4.0: the first owner of an open is confirmed.
	at_most "$engine: 20 small files are read in one round trip each" 28 list_and_read
	check_equal "$engine: and read whole" "$(cat "$SERVER_DIR"/small/{1..20})" "$(cat small/{1..20})"
	# Made, written, given their times. Over NFSv4 this server does not say whether others have
	# changed the directory, so that each name is looked up before.
	[ $engine = nfs ] && limit=68 || limit=88
	at_most "$engine: 20 files are unpacked in three round trips each, or four" "$limit" unpack
	cd /
	check "unmount" unmount_volume "$T/mnt"
done

# SFTP.
start_engine sftp
RELAY=ssh
start_proxy ssh "$SSH_PORT" -d 20
write_known_hosts "$T/tmp/hosts" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
cat "$T/tmp/hosts" >>"$SSH_KNOWN_HOSTS"
DIRECT=$SOURCE
SOURCE=${SOURCE/:$SSH_PORT/:$PROXY_PORT}
mkdir -p "$SERVER_DIR"/deep/1/2/3/4/5/6/7/8/9 "$SERVER_DIR"/tree/a
for i in {1..20}; do echo "line $i" >"$SERVER_DIR/tree/a/$i"; done
touch -d '2 days ago' "$SERVER_DIR"/tree/a/*
mount_volume "$SOURCE" "$T/mnt" "$OPTIONS" || bail "mount"
cd "$T/mnt" || bail "cd"
at_most "sftp: 10 directories in each other are listed in one round trip each" 17 ls -lR deep
cd "$T" || bail "cd"
echo 2 >/proc/sys/vm/drop_caches
sleep 1.1
cd "$T/mnt" || bail "cd"
at_most "sftp: two names of a path are looked up in one round trip" 8 test -d deep/1/2/3/4/5/6/7/8/9
at_most "sftp: 20 small files are read in one round trip each" 32 cat tree/a/{1..20}
check_equal "sftp: and read whole" "$(cat "$SERVER_DIR"/tree/a/{1..20})" "$(cat tree/a/{1..20})"
mkdir new || bail "mkdir"
write_files() {
	local i
	for ((i = 0; i < 10; i++)); do echo data >"new/$RANDOM$i"; done
}
at_most "sftp: 10 small files are written in two round trips each" 25 write_files
write_synced() {
	local i
	for ((i = 0; i < 10; i++)); do
		dd if=/dev/zero of="new/$RANDOM$i" bs=4k count=1 conv=fsync status=none || return
	done
}
at_most "sftp: fsync comes along with the data" 35 write_synced
# To make it, for its times, for its mode.
tar cf "$T/dirs.tar" -C "$SERVER_DIR/deep" 1 || bail "tar"
unpack() {
	local dir=new/tar$RANDOM
	mkdir "$dir" && tar xf "$T/dirs.tar" --no-same-owner -C "$dir"
}
at_most "sftp: a directory is unpacked in three round trips" 35 unpack
cd /
check "unmount" unmount_volume "$T/mnt"

# Near, and with no answer coming back: what is on its way at most.
start_proxy near "$SSH_PORT"
write_known_hosts "$T/tmp/hosts" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
cat "$T/tmp/hosts" >>"$SSH_KNOWN_HOSTS"
mount_volume "${DIRECT/:$SSH_PORT/:$PROXY_PORT}" "$T/mnt" "$OPTIONS" || bail "mount"
for i in {1..20}; do : >"$T/mnt/$i"; done # by the fastest of these the line is judged
sent() {
	proxy_cmd near stat | sed 's/.* up=\([0-9]*\).*/\1/'
}
cat >"$T/write.py" <<'EOT'
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
print("open", flush=True)
sys.stdin.readline()
left = 8 << 20
while left:
	left -= os.write(fd, bytes(min(left, 1 << 20)))
os.close(fd)
EOT
coproc WRITER { python3 "$T/write.py" "$T/mnt/large"; }
writer=$WRITER_PID
read -r _ <&"${WRITER[0]}"
check "hold back the answers" proxy_cmd near hole down
before=$(sent) last=-1 now=0
echo go >&"${WRITER[1]}"
for ((i = 0; i < 60 && (now != last || now < 100000); i++)); do
	sleep 0.3
	last=$now now=$(($(sent) - before))
done
if [ "$now" -ge 100000 ] && [ "$now" -lt 1600000 ]; then
	ok "sftp: no more is sent than keeps a near server busy ($((now / 1024)) KiB)"
else
	not_ok "sftp: no more is sent than keeps a near server busy" "$now bytes of 8 MiB are on their way"
fi
check "let them go" proxy_cmd near resume
wait "$writer"
check_equal "all is written" 0 $?
check_equal "all of it" $((8 << 20)) "$(stat -c %s "$SERVER_DIR/large")"
check "unmount" unmount_volume "$T/mnt"
finish
