#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# What options of an SSH volume really do: algorithms, owners and modes as shown, refused owners; locks and
# databases on one host; and a server that offers no extension at all.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=60
start_engine sftp
m=$T/mnt
owner() {
	stat -c %u:%g "$1"
}

note "algorithms"
sed 's/^Port .*/Port 2401/; s/^LogLevel .*/LogLevel DEBUG1/' "$T/ssh/sshd_config" >"$T/ssh/sshd_config.debug"
spawn sshd-debug /usr/sbin/sshd -D -e -f "$T/ssh/sshd_config.debug"
defer stop_pid "$SPAWNED"
WHILE_PID=$SPAWNED wait_for 10 port_open 2401 || bail "sshd did not start"
write_known_hosts "$T/ssh/known_debug" 2401 "$T/ssh/host_ed25519.pub"
debugged() {
	: >"$T/log/sshd-debug.log"
	mount_volume "sftp://root@127.0.0.1:2401$SSH_ROOT" "$m" "key_file=$SSH_KEY,known_hosts=$T/ssh/known_debug${1:+,$1}"
}
best='chacha20-poly1305@openssh\.com'
grep -qw aes /proc/cpuinfo && best='aes(128|256)-gcm@openssh\.com'
check "algorithms: mount" debugged
check_match "algorithms: what this processor does best" "client->server cipher: $best .*compression: none" "$(cat "$T/log/sshd-debug.log")"
check "algorithms: unmount" unmount_volume "$m"
check "algorithms as asked for: mount" debugged "ciphers=aes256-ctr,macs=hmac-sha2-512,kex=ecdh-sha2-nistp256,compression=true"
check_match "algorithms as asked for: there" "client->server cipher: aes256-ctr MAC: hmac-sha2-512 compression: zlib@openssh\.com" \
	"$(cat "$T/log/sshd-debug.log")"
check_match "algorithms as asked for: and back" "server->client cipher: aes256-ctr MAC: hmac-sha2-512 compression: zlib@openssh\.com" \
	"$(cat "$T/log/sshd-debug.log")"
check_match "algorithms as asked for: the exchange of keys" "kex: algorithm: ecdh-sha2-nistp256" "$(cat "$T/log/sshd-debug.log")"
seq 300000 >"$T/tmp/data"
check "algorithms as asked for: a file" cp "$T/tmp/data" "$m/data"
check "algorithms as asked for: every byte of it" cmp "$T/tmp/data" "$SSH_ROOT/data"
check "algorithms as asked for: unmount" unmount_volume "$m"
check_fails "an algorithm that nobody has: is refused" debugged "ciphers=rot13"
check_match "an algorithm that nobody has: and named" 'rot13|ciphers' "$OUT"
check_fails "one that the server has not: is refused" debugged "macs=hmac-sha1-etm@openssh.com,ciphers=3des-cbc"
check_match "one that the server has not: which is said" 'cipher|algorithm|3des|method' "$OUT"

note "owners and modes as shown"
HOME_SOURCE=sftp://tester@127.0.0.1:$SSH_PORT$T/home/tester
check "uid=: mount" mount_volume "$HOME_SOURCE" "$m" "$OPTIONS,uid=1000,gid=1001,umask=027"
install -d -m 755 "$T/home/tester/roots"
install -m 777 /dev/null "$T/home/tester/roots/file"
check_equal "uid=: whose everything is, umask: what it may" "1000:1001 750 1000:1001 750" \
	"$(owner "$m/roots") $(stat -c %a "$m/roots") $(owner "$m/roots/file") $(stat -c %a "$m/roots/file")"
check_equal "uid=: in a listing, too" "1000:1001 750" "$(find "$m/roots" -name file -printf '%U:%G %m')"
check "uid=: giving it to whom it is shown as is no change" chown 1000:1001 "$m/roots/file"
check_fails "uid=: to others it is refused" chown 5:5 "$m/roots/file"
check_match "uid=: as it is by the server" 'not permitted' "$OUT"
numbers() {
	find "$m" -printf '%P %i\n' | sort
}
numbers >"$T/tmp/numbers"
check "uid=: unmount" unmount_volume "$m"
check "inode numbers: another mount" mount_volume "$HOME_SOURCE" "$m" "$OPTIONS"
check_equal "inode numbers: are the same" "$(cat "$T/tmp/numbers")" "$(numbers)"
check "inode numbers: unmount" unmount_volume "$m"

note "refused owners"
mkdir -p "$T/seed/sub"
echo seed >"$T/seed/sub/file"
chmod 640 "$T/seed/sub/file"
chown -R 5:6 "$T/seed"
check "chown=strict: mount" mount_volume "$HOME_SOURCE" "$m" "$OPTIONS"
check_fails "chown=strict: a tree with owners" cp -a "$T/seed" "$m/strict"
check_match "chown=strict: says so" 'ownership' "$OUT"
check "chown=strict: unmount" unmount_volume "$m"
check "chown=ignore: mount" mount_volume "$HOME_SOURCE" "$m" "$OPTIONS,chown=ignore"
check "chown=ignore: a tree with owners" cp -a "$T/seed" "$m/ignored"
check_equal "chown=ignore: is the login user's, with its modes" "seed 12345 640" \
	"$(cat "$T/home/tester/ignored/sub/file") $(stat -c '%u %a' "$T/home/tester/ignored/sub/file")"
check_equal "chown=ignore: nothing else is shown" 12345 "$(stat -c %u "$m/ignored/sub/file")"
check "chown=ignore: tar as root" sh -c "tar -C '$T' -cf - seed | tar -C '$m' -xpf -"
check_equal "chown=ignore: with modes and times" "640 $(stat -c %Y "$T/seed/sub/file")" "$(stat -c '%a %Y' "$m/seed/sub/file")"
check "chown=ignore: unmount" unmount_volume "$m"

note "locks and databases on one host"
check "locks: mount" mount_volume "$SOURCE" "$m" "$OPTIONS"
touch "$m/lock"
exec 7>"$m/lock"
flock -n 7
check_fails "locks: flock excludes" flock -n "$m/lock" true
exec 7>&-
check "locks: until it is let go" flock -n "$m/lock" true
if command -v sqlite3 >/dev/null; then
	for journal in delete wal; do
		check "sqlite, $journal: a table" sqlite3 "$m/db-$journal" \
			"pragma journal_mode = $journal; create table t (n integer); insert into t values (0);"
		add() {
			local i
			for ((i = 0; i < 40; i++)); do
				sqlite3 -cmd '.timeout 30000' "$m/db-$journal" 'begin immediate; update t set n = n + 1; commit;' || return
			done
		}
		add >"$T/tmp/add" 2>&1 &
		other=$!
		check "sqlite, $journal: one writer" add
		wait "$other"
		check_equal "sqlite, $journal: the other" "0 " "$? $(cat "$T/tmp/add")"
		check_equal "sqlite, $journal: every update counts" 80 "$(sqlite3 "$m/db-$journal" 'select n from t')"
		check_equal "sqlite, $journal: the file is whole" ok "$(sqlite3 "$m/db-$journal" 'pragma integrity_check')"
	done
	check_equal "sqlite: and as it is on the server" 80 "$(sqlite3 "$SSH_ROOT/db-delete" 'select n from t')"
else
	skip "sqlite" "sqlite3 is not installed"
fi
check "locks: unmount" unmount_volume "$m"

note "a server without extensions"
stop_sshd
SFTP_ARGS="-P posix-rename,statvfs,fstatvfs,hardlink,fsync,lsetstat,limits,expand-path,copy-data,home-directory,users-groups-by-id"
start_sshd
check "no extensions: mount" mount_volume "$SOURCE" "$m" "$OPTIONS"
check "no extensions: a file, larger than a request" cp "$T/tmp/data" "$m/plain"
check "no extensions: every byte of it" cmp "$T/tmp/data" "$SSH_ROOT/plain"
check "no extensions: is read" cmp "$T/tmp/data" "$m/plain"
check "no extensions: a copy" cp --reflink=auto "$m/plain" "$m/copy"
check "no extensions: every byte of that" cmp "$T/tmp/data" "$SSH_ROOT/copy"
echo new >"$m/new"
check "no extensions: a rename over a file" mv "$m/new" "$m/copy"
check_equal "no extensions: it is that now" new "$(cat "$SSH_ROOT/copy")"
mkdir "$m/d1" "$m/d2"
check "no extensions: a rename over an empty directory" mv -T "$m/d1" "$m/d2"
check_fails "no extensions: a hard link" ln "$m/copy" "$m/hard"
check_match "no extensions: is refused as mknod and link are" 'not permitted' "$OUT"
ln -s copy "$m/soft"
touch -d 2001-01-01 "$m/copy"
check_fails "no extensions: the times of a link" touch -h -d 2002-02-02 "$m/soft"
check_match "no extensions: are not to be had" 'not supported' "$OUT"
check_equal "no extensions: and what it leads to has its own" 2001 "$(date -r "$SSH_ROOT/copy" +%Y)"
check "no extensions: a sync ends well" sync "$m/plain"
check "no extensions: statfs" df "$m"
check "no extensions: an open file is removed" sh -c "exec 7<'$m/copy'; rm '$m/copy'; grep -q new <&7"
check_match "no extensions: the log says what that means: for fsync" 'has no fsync' "$(cat /run/cvol/mounts/*.log)"
check_match "no extensions: for renames" 'two steps here' "$(cat /run/cvol/mounts/*.log)"
check "no extensions: unmount" unmount_volume "$m"
check "nothing is left" wait_nothing_left 10
finish
