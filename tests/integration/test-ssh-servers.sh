#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
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
	if [ "$server" != dropbear ]; then
		check_fails "$server: owners by name: mount" mount_volume "$SOURCE" "$m-names" "$OPTIONS,idmap=names"
		check_match "$server: are not known" 'does not tell names of users' "$OUT"
		check_fails "$server: ~user: mount" mount_volume "sftp://root@127.0.0.1:$SSH_PORT/~tester" "$m-names" "$OPTIONS"
		check_match "$server: is refused" 'write the whole path' "$OUT"
	fi
	if [ "$server" = rclone ]; then
		# It empties whatever is opened for writing.
		echo precious >"$m/kept"
		# It offers hard links, says yes and makes none.
		check_fails "$server: a hard link" ln "$m/kept" "$m/link"
		check_match "$server: is refused" 'not permitted' "$OUT"
		check_fails "$server: changing a file is refused" bash -c "echo more >>'$m/kept'"
		check_match "$server: says so" 'not supported' "$OUT"
		check_equal "$server: and the file is what it was" precious "$(cat "$SERVER_DIR/kept")"
		check "$server: writing it anew works" bash -c "echo anew >'$m/kept'"
		wait_for 10 grep -q anew "$SERVER_DIR/kept"
		check_equal "$server: with the new contents" anew "$(cat "$SERVER_DIR/kept")"
	fi
	check "$server: unmount" unmount_volume "$m"
	# A file system of this test's, since start_dropbear; rclone knows no home but its directory.
	home=/root
	[ "$server" != rclone ] || home=$SERVER_DIR
	echo "$server" >"$home/where"
	check "$server: ~: mount" mount_volume "root@127.0.0.1:~" "$m-home" "$OPTIONS,port=$SSH_PORT"
	check_equal "$server: ~: is where a login begins" "$server" "$(cat "$m-home/where")"
	check "$server: ~: unmount" unmount_volume "$m-home"
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
links_mount raw
check "raw: an absolute link is made" ln -s /etc/hostname "$m/absolute"
check_equal "raw: and read as it was made" /etc/hostname "$(readlink "$m/absolute")"
check_equal "raw: it leads where the reader is" "$(cat /etc/hostname)" "$(cat "$m/absolute")"
mkdir "$SSH_ROOT/dir"
echo inside >"$SSH_ROOT/dir/file"
ln -s "$SSH_ROOT/dir/file" "$SSH_ROOT/below"
ln -s dir/file "$SSH_ROOT/relative"
ln -s "$T/tmp/expected" "$SSH_ROOT/outside"
check "raw: unmount" unmount_volume "$m"
check "on the host: mount" mount_volume "$SOURCE" "$m" "$OPTIONS"
# CVE-2026-47187 of sshfs
check_fails "on the host: no link leads out of the volume" cat "$m/absolute"
check "on the host: unmount" unmount_volume "$m"
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

note "owners"
owner() {
	stat -c %u:%g "$1"
}
# as UID COMMAND…: without any privilege of root's.
as() {
	local id=$1
	shift
	setpriv --reuid "$id" --regid "$id" --clear-groups "$@"
}
check "root's login: mount" mount_volume "$SOURCE" "$m" "$OPTIONS"
mkdir -m 1777 "$m/open"
# shellcheck disable=SC2086 # words on purpose
for what in "mkdir $m/open/dir" "touch $m/open/file" "ln -s x $m/open/link" "mkfifo $m/open/fifo"; do
	check "root's login: user 1234 makes one: ${what%% *}" as 1234 $what
done
for name in dir file link fifo; do
	check_equal "root's login: it is his, on the server: $name" 1234:1234 "$(owner "$SSH_ROOT/open/$name")"
	check_equal "root's login: and here: $name" 1234:1234 "$(owner "$m/open/$name")"
done
check "root's login: a set-user-id file" bash -c "as() { setpriv --reuid 1234 --regid 1234 --clear-groups \"\$@\"; }; as install -m 4755 /dev/null '$m/open/setuid'"
check_equal "root's login: keeps the bit" 4755 "$(stat -c %a "$SSH_ROOT/open/setuid")"
check "root's login: the fifo is one" test -p "$m/open/fifo"
check "root's login: its mode can be changed" chmod 0604 "$m/open/fifo"
check_equal "root's login: to that, and it stays his" 604:1234 "$(stat -c %a:%u "$m/open/fifo")"
check "root's login: its owner can be changed" chown 77:88 "$m/open/fifo"
check_equal "root's login: to that" 604:77:88 "$(stat -c %a:%u:%g "$m/open/fifo")"
check_match "root's login: on the server it says what it is" 'cvol-special-file/p/0604' "$(readlink "$SSH_ROOT/open/fifo")"
check "root's login: it is renamed and removed" bash -c "mv '$m/open/fifo' '$m/open/pipe' && test -p '$m/open/pipe' && rm '$m/open/pipe'"
check_equal "root's login: no other name was left" "" "$(find "$SSH_ROOT/open" -name '.*' -mindepth 1)"
check_equal "root's login: nothing else is there" "dir file link setuid" "$(cd "$SSH_ROOT/open" && echo *)"
check "root's login: unmount" unmount_volume "$m"

printf '# ours\nuser 1234 5000\ngroup 1234 5001\n' >"$T/idmap"
check "idmap=file: mount" mount_volume "$SOURCE" "$m" "$OPTIONS,idmap=file,idmap_file=$T/idmap"
check_equal "idmap=file: shown" 5000:5001 "$(owner "$m/open/file")"
check_equal "idmap=file: others as they are" 0:0 "$(owner "$m/open")"
check "idmap=file: a new file" as 5000 touch "$m/open/new"
check_equal "idmap=file: and back" 1234 "$(stat -c %u "$SSH_ROOT/open/new")"
check "idmap=file: unmount" unmount_volume "$m"

note "owners by name"
# A server with users and groups of its own: another /etc/passwd, in a mount namespace of its own.
grep -v '^\(alice\|bob\):' "$T/etc/passwd" >"$T/etc/passwd.server"
cp /etc/group "$T/etc/group.server"
cp /etc/group "$T/etc/group"
mount --bind "$T/etc/group" /etc/group
for name in alice:1501:1601 bob:1502:1602 carol:70001:70001; do
	echo "${name%%:*}:x:${name#*:}::$T/home/${name%%:*}:/bin/sh" >>"$T/etc/passwd.server"
	install -d -o "$(cut -d: -f2 <<<"$name")" -g "$(cut -d: -f3 <<<"$name")" "$T/home/${name%%:*}"
done
echo team:x:1601: >>"$T/etc/group.server"
# Here alice has another number, and the one that is bob's there; the team, too.
printf 'alice:x:1701:1801::/:/bin/sh\nbob:x:1501:1501::/:/bin/sh\ngina:x:1502:1502::/:/bin/sh\n' >>"$T/etc/passwd"
echo team:x:1801: >>"$T/etc/group"
names_sshd() {
	sed "s|^Port .*|Port $1|; s|internal-sftp.*|internal-sftp ${2:-}|" "$T/ssh/sshd_config" >"$T/ssh/sshd_config.$1"
	spawn "sshd-$1" unshare --mount sh -c "mount --bind '$T/etc/passwd.server' /etc/passwd &&
		mount --bind '$T/etc/group.server' /etc/group && exec /usr/sbin/sshd -D -e -f '$T/ssh/sshd_config.$1'"
	defer stop_pid "$SPAWNED"
	WHILE_PID=$SPAWNED wait_for 10 port_open "$1" || bail "sshd with other users did not start"
	write_known_hosts "$T/ssh/known_hosts.$1" "$1" "$T/ssh/host_ed25519.pub"
}
# names_mount PORT OPTIONS [PATH]
names_mount() {
	mount_volume "sftp://root@127.0.0.1:$1${3:-$SSH_ROOT/open}" "$m" "key_file=$SSH_KEY,known_hosts=$T/ssh/known_hosts.$1,$2"
}
names_sshd 2404
for name in alice:1501:1601 bob:1502:1602 carol:70001:70001; do
	touch "$SSH_ROOT/open/${name%%:*}"
	chown "${name#*:}" "$SSH_ROOT/open/${name%%:*}"
done
check "idmap=names: mount" names_mount 2404 idmap=names
check_equal "idmap=names: a listing, before any name is known" "alice 1701:1801, bob 1501:1602, carol 70001:70001, " \
	"$(find "$m" -name '[abc]*' -printf '%f %U:%G\n' | sort | sed 's/$/,/' | tr '\n' ' ')"
check_equal "idmap=names: root is root" 0:0 "$(owner "$m")"
check "idmap=names: a change of owner" chown 1501:1801 "$m/carol"
check_equal "idmap=names: and back" 1502:1601 "$(owner "$SSH_ROOT/open/carol")"
check_equal "idmap=names: it is shown as it was set" 1501:1801 "$(owner "$m/carol")"
check "idmap=names: a new file" as 1701 touch "$m/hers"
check_equal "idmap=names: is hers on the server" 1501 "$(stat -c %u "$SSH_ROOT/open/hers")"
check_fails "idmap=names: to whom is not known there" chown 1502 "$m/carol"
check_match "idmap=names: says so" 'Invalid argument' "$OUT"
check_equal "idmap=names: and changes nothing" 1502:1601 "$(owner "$SSH_ROOT/open/carol")"
check "idmap=names: unmount" unmount_volume "$m"
printf 'user alice 5000\ngroup team 5001\nuser 70001 5002\n' >"$T/idmap"
chown 70001 "$SSH_ROOT/open/carol"
check "idmap=file with names: mount" names_mount 2404 "idmap=file,idmap_file=$T/idmap"
# Before any file of hers was seen.
check "idmap=file with names: a new file" as 5000 touch "$m/new2"
check_equal "idmap=file with names: is hers" 1501 "$(stat -c %u "$SSH_ROOT/open/new2")"
check_equal "idmap=file with names: shown" "5000:5001 5002:5001" "$(owner "$m/alice") $(owner "$m/carol")"
check "idmap=file with names: unmount" unmount_volume "$m"
names_sshd 2405 "-P users-groups-by-id,expand-path"
check_fails "idmap=names: where the server refuses" names_mount 2405 idmap=names
check_match "idmap=names: the cure is named" 'with numbers' "$OUT"

note "home directories"
mkdir -p "$T/home/alice/data"
touch "$T/home/alice/data/hers"
install -d -o 12345 "$T/home/tester/sub"
echo there >"$T/home/tester/sub/file"
for port in 2404 2405; do
	if [ "$port" = 2404 ]; then
		check "~user: mount" names_mount "$port" idmap=none '/~alice/data'
		check_equal "~user: is hers" hers "$(ls "$m")"
		check "~user: unmount" unmount_volume "$m"
	else
		check_fails "$port: ~user, which the server will not expand: mount" names_mount "$port" idmap=none '/~alice/data'
		check_match "$port: ~user, which the server will not expand: the cure" 'write the whole path' "$OUT"
	fi
	check_fails "$port: ~nobody-there: mount" names_mount "$port" idmap=none '/~nobody-there/data'
	check_match "$port: ~nobody-there: is named" "~nobody-there" "$OUT"
	check "$port: ~: mount" mount_volume "tester@127.0.0.1:~/sub" "$m" "port=$port,key_file=$SSH_KEY,known_hosts=$T/ssh/known_hosts.$port"
	check "$port: ~: unmount" unmount_volume "$m"
	check "$port: a relative path: mount" mount_volume "tester@127.0.0.1:sub" "$m" "port=$port,key_file=$SSH_KEY,known_hosts=$T/ssh/known_hosts.$port"
	check_equal "$port: a relative path: is below home" there "$(cat "$m/file")"
	check "$port: a relative path: unmount" unmount_volume "$m"
done

note "ids by number"
echo 'user 1234' >"$T/idmap"
check_fails "idmap=file: a broken line" mount_volume "$SOURCE" "$m" "$OPTIONS,idmap=file,idmap_file=$T/idmap"
check_match "idmap=file: is named" 'idmap. line 1' "$OUT"

HOME_SOURCE=sftp://tester@127.0.0.1:$SSH_PORT$T/home/tester
check "idmap=user: mount" mount_volume "$HOME_SOURCE" "$m" "$OPTIONS,idmap=user,uid=1000,gid=1001"
touch "$T/home/tester/roots"
check "idmap=user: a new file" as 1000 touch "$m/mine"
check_equal "idmap=user: is the login user's on the server" 12345:12345 "$(owner "$T/home/tester/mine")"
check_equal "idmap=user: and uid's here" 1000:1001 "$(owner "$m/mine")"
check_equal "idmap=user: others as they are" 0:0 "$(owner "$m/roots")"
check "idmap=user: unmount" unmount_volume "$m"
check "nothing is left" wait_nothing_left 10
finish
