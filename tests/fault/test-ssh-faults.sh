#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# What the network and the SSH server can do to a connection: no error in `hard`, no wrong byte, and
# the volume goes on soon after the server is back.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
LIMIT=60
start_engine sftp
start_proxy ssh "$SSH_PORT"
write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
SOURCE=sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT
OPTIONS="key_file=$SSH_KEY,known_hosts=$T/ssh/known_proxy,cache=strict"
m=$T/mnt

check "mount" mount_volume "$SOURCE" "$m" "$OPTIONS,timeout=3" || finish
start_beat "$m"
check "it runs" wait_for 10 goes_on 5

kill_ssh_sessions
back_within "sessions killed" 4000
proxy_cmd ssh reset
back_within "connection reset" 4000
proxy_cmd ssh close
back_within "connection closed" 4000

proxy_cmd ssh refuse
proxy_cmd ssh reset
sleep 6
proxy_cmd ssh accept
back_within "port closed for 6 s" 4000

stop_sshd
sleep 5
start_sshd "$SSH_PORT"
back_within "server away for 5 s" 5000

proxy_cmd ssh swallow
sleep 9
before=$(beats)
check "black hole: nothing gets through" test "$before" -eq "$(beats)"
proxy_cmd ssh resume
back_within "black hole for 9 s" 6000

# The session's processes stop, the kernel still acknowledges: only silence tells.
# shellcheck disable=SC2046
kill -STOP $(ssh_sessions) $(for p in $(ssh_sessions); do pgrep -P "$p"; done)
back_within "sessions stopped" 10000
kill_ssh_sessions
back_within "and killed" 5000

check "the reader ends" stop_beat
check_equal "no operation failed" "" "$(cat "$T/tmp/failures")"
check_equal "what was written last is there" "$(($(beats) - 1))" "$(cat "$SSH_ROOT/beat")"
check "unmount" unmount_volume "$m"

note "soft: an error, in time"
check "soft: mount" mount_volume "$SOURCE" "$m" "$OPTIONS,timeout=2,recovery=soft"
proxy_cmd ssh refuse
proxy_cmd ssh reset
LIMIT=20 check_fails "soft: an error instead of waiting" stat "$m/beat"
proxy_cmd ssh accept
check "soft: works again" wait_for 10 stat "$m/beat"
check "soft: unmount" unmount_volume "$m"

note "a long listing on a line that never holds for long"
mkdir "$SSH_ROOT/many"
(cd "$SSH_ROOT/many" && seq -f 'a-name-as-long-as-names-are-%06g' 20000 | xargs touch)
check "flapping: mount" mount_volume "$SOURCE" "$m" "$OPTIONS,timeout=3"
proxy_cmd ssh bw 2000000
ls -f "$m/many" >"$T/tmp/listing" 2>&1 &
lister=$!
losses=0
while [ "$losses" -lt 22 ] && alive "$lister"; do
	wait_for 10 ssh_sessions >"$T/tmp/sessions"
	sleep 0.4
	proxy_cmd ssh reset
	losses=$((losses + 1))
	wait_for 10 sh -c "! kill -0 $(head -n 1 "$T/tmp/sessions") 2>/dev/null"
done
check "flapping: it is listed when the line holds" alive "$lister"
proxy_cmd ssh bw 0
check "flapping: it ends" wait_gone 60 "$lister"
check_equal "flapping: with all names, once each" 20000 "$(grep -c '^a-name' <(sort -u "$T/tmp/listing"))"
check_equal "flapping: and no more" 20002 "$(grep -c . "$T/tmp/listing")"
check "flapping: unmount" unmount_volume "$m"

note "one bit, with each cipher"
head -c 8000000 /dev/urandom >"$SSH_ROOT/data"
for cipher in aes128-gcm@openssh.com aes256-gcm@openssh.com chacha20-poly1305@openssh.com aes128-ctr aes256-ctr; do
	check "$cipher: mount" mount_volume "$SOURCE" "$m" "$OPTIONS,timeout=3,ciphers=$cipher" || continue
	proxy_cmd ssh bw 8000000
	cp "$m/data" "$T/tmp/got" 2>"$T/tmp/cp.out" &
	reader=$!
	sleep 0.4
	proxy_cmd ssh flip down
	sleep 0.2
	proxy_cmd ssh flip up
	check "$cipher: reading ends" wait_gone 40 "$reader"
	check_equal "$cipher: without an error" "" "$(cat "$T/tmp/cp.out")"
	check "$cipher: with the right bytes" cmp "$SSH_ROOT/data" "$T/tmp/got"
	proxy_cmd ssh bw 0
	check "$cipher: the flipped bits were noticed" grep -q 'connected to .* again' -r /run/cvol/mounts --include=*.log
	check "$cipher: unmount" unmount_volume "$m"
done

note "new keys amid transfers"
{
	echo "RekeyLimit 1M"
	sed 's/^Port .*/Port 2310/' "$T/ssh/sshd_config"
} >"$T/ssh/sshd_config.rekey"
spawn sshd-rekey /usr/sbin/sshd -D -e -f "$T/ssh/sshd_config.rekey"
defer stop_pid "$SPAWNED"
wait_for 10 port_open 2310
write_known_hosts "$T/ssh/known_rekey" 2310 "$T/ssh/host_ed25519.pub"
check "rekey: mount" mount_volume "sftp://root@127.0.0.1:2310$SSH_ROOT" "$m" \
	"key_file=$SSH_KEY,known_hosts=$T/ssh/known_rekey"
head -c 60000000 /dev/urandom >"$T/tmp/big"
cat "$m/data" >"$T/tmp/got" &
reader=$!
check "rekey: writing while reading" cp "$T/tmp/big" "$m/big"
wait "$reader"
check "rekey: what was read is right" cmp "$SSH_ROOT/data" "$T/tmp/got"
check "rekey: what was written is right" cmp "$T/tmp/big" "$SSH_ROOT/big"
check "rekey: reading it is" cmp "$T/tmp/big" "$m/big"
check_fails "rekey: on one connection throughout" grep 'connected to .* again' /run/cvol/mounts -r --include=*.log
check "unmount" unmount_volume "$m"
check "nothing is left" wait_nothing_left 10
finish
