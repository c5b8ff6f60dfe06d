#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# Every way to log in to an SSH server that people have, and every way to know it again.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"
start_sshd
DIR=$SSH_ROOT
KNOWN=known_hosts=$SSH_KNOWN_HOSTS
echo here >"$DIR/proof"
chmod 755 "$DIR"

# sshd_with PORT SETTINGS…: another sshd beside the first, with the same keys; settings come first
# and so win. Sets OTHER_PID.
sshd_with() {
	local port=$1
	shift
	{
		printf '%s\n' "$@"
		sed "s/^Port .*/Port $port/" "$T/ssh/sshd_config"
	} >"$T/ssh/sshd_config.$port"
	spawn "sshd-$port" /usr/sbin/sshd -D -e -f "$T/ssh/sshd_config.$port"
	OTHER_PID=$SPAWNED
	defer stop_pid "$OTHER_PID"
	wait_for 10 port_open "$port" || bail "sshd on port $port did not start"
	write_known_hosts "$T/ssh/known.$port" "$port" "$T/ssh/host_ed25519.pub"
}

lets_in() {
	mkdir -p "$T/mnt"
	timeout 40 "$CVOL" mount "$1" "$T/mnt" -o "$2" && test -e "$T/mnt/proof" && unmount_volume "$T/mnt"
}

# accepted NAME OPTIONS [SOURCE]
accepted() {
	check "$1" lets_in "${3:-sftp://root@127.0.0.1:$SSH_PORT$DIR}" "$2"
	unmount_volume "$T/mnt"
}

# refused NAME OPTIONS SOURCE REGEX…
refused() {
	local name=$1 options=$2 source=$3 regex
	shift 3
	check_fails "$name: refused" lets_in "${source:-sftp://root@127.0.0.1:$SSH_PORT$DIR}" "$options"
	unmount_volume "$T/mnt"
	for regex in "$@"; do
		check_match "$name: says '$regex'" "$regex" "$OUT"
	done
}

note "keys"
PASSPHRASE='four words and more'
cp "$SSH_KEY" "$T/ssh/sealed"
ssh-keygen -q -p -P '' -N "$PASSPHRASE" -f "$T/ssh/sealed"
echo "$PASSPHRASE" >"$T/ssh/passphrase"
echo "not that one" >"$T/ssh/passphrase.wrong"
: >"$T/ssh/empty"
accepted "a key with a passphrase" "key_file=$T/ssh/sealed,key_passphrase_file=$T/ssh/passphrase,$KNOWN"
refused "a wrong passphrase" "key_file=$T/ssh/sealed,key_passphrase_file=$T/ssh/passphrase.wrong,$KNOWN" '' \
	'ssh/sealed' 'passphrase is wrong'
refused "no passphrase" "key_file=$T/ssh/sealed,$KNOWN" '' 'encrypted' 'key_passphrase_file'
accepted "several keys, the last one fits" "key_file=$T/ssh/wrong:$SSH_KEY,$KNOWN"
refused "keys that do not fit" "key_file=$T/ssh/wrong:$T/ssh/wrong,$KNOWN" '' "refused to let in 'root'" \
	'tried publickey' 'accepts publickey, password'

note "certificates"
ssh-keygen -q -t ed25519 -N '' -f "$T/ssh/user_ca"
for name in certified expired; do
	ssh-keygen -q -t ed25519 -N '' -f "$T/ssh/$name"
done
ssh-keygen -q -t rsa -b 2048 -N '' -f "$T/ssh/certified_rsa"
ssh-keygen -q -s "$T/ssh/user_ca" -I ok -n root -V -1h:+1h "$T/ssh/certified.pub" "$T/ssh/certified_rsa.pub"
ssh-keygen -q -s "$T/ssh/user_ca" -I old -n root -V -2h:-1h "$T/ssh/expired.pub"
sshd_with 2301 "TrustedUserCAKeys $T/ssh/user_ca.pub" 'AuthorizedKeysFile none'
CERT_PID=$OTHER_PID
K=known_hosts=$T/ssh/known.2301
S=sftp://root@127.0.0.1:2301$DIR
accepted "a certificate beside the key" "key_file=$T/ssh/certified,$K" "$S"
accepted "a certificate of an RSA key" "key_file=$T/ssh/certified_rsa,$K" "$S"
mv "$T/ssh/certified-cert.pub" "$T/ssh/elsewhere.pub"
refused "the key without its certificate" "key_file=$T/ssh/certified,$K" "$S" "refused to let in"
accepted "cert_file" "key_file=$T/ssh/certified,cert_file=$T/ssh/elsewhere.pub,$K" "$S"
refused "an expired certificate" "key_file=$T/ssh/expired,$K" "$S" 'certificate \(' 'will not do: it expired on'
refused "a certificate of another user" "key_file=$T/ssh/certified,cert_file=$T/ssh/elsewhere.pub,$K" \
	"sftp://tester@127.0.0.1:2301$DIR" "it is for root, not for 'tester'"
refused "a certificate of another key" "key_file=$SSH_KEY,cert_file=$T/ssh/elsewhere.pub,$K" "$S" \
	'cert_file' 'belongs to none of the keys'
refused "a cert_file that is none" "key_file=$SSH_KEY,cert_file=$SSH_KEY.pub,$K" "$S" 'not an OpenSSH certificate'

note "agent"
ssh-agent -D -a "$T/agent.sock" >"$T/log/agent.log" 2>&1 </dev/null &
defer stop_pid $!
wait_for 10 test -S "$T/agent.sock"
refused "an agent with no key" "agent_socket=$T/agent.sock,$KNOWN" '' 'publickey \(agent\)'
SSH_AUTH_SOCK=$T/agent.sock ssh-add -q "$SSH_KEY"
accepted "an agent" "agent_socket=$T/agent.sock,$KNOWN"
refused "no agent there" "agent_socket=$T/none.sock,$KNOWN" '' 'agent_socket' 'none.sock'
stop_pid "$CERT_PID"

note "passwords"
echo "$SSH_PASSWORD" >"$T/ssh/password"
echo "wrong-$SSH_PASSWORD" >"$T/ssh/password.wrong"
TESTER=sftp://tester@127.0.0.1
accepted "a password" "password_file=$T/ssh/password,$KNOWN" "$TESTER:$SSH_PORT$DIR"
refused "an empty password file" "password_file=$T/ssh/empty,$KNOWN" "$TESTER:$SSH_PORT$DIR" "ssh/empty' is empty"
if [ -e /etc/pam.d/sshd ]; then
	sshd_with 2302 'UsePAM yes' 'PasswordAuthentication no' 'KbdInteractiveAuthentication yes'
	K=known_hosts=$T/ssh/known.2302
	accepted "keyboard-interactive (PAM)" "password_file=$T/ssh/password,$K" "$TESTER:2302$DIR"
	refused "keyboard-interactive, wrong" "password_file=$T/ssh/password.wrong,$K" "$TESTER:2302$DIR" \
		'tried keyboard-interactive'
	check_absent "and the password is not repeated" "$SSH_PASSWORD" "$OUT"
	stop_pid "$OTHER_PID"
else
	skip "keyboard-interactive (PAM)" "no /etc/pam.d/sshd"
fi
sshd_with 2303 'AuthenticationMethods publickey,password'
K=known_hosts=$T/ssh/known.2303
accepted "key and password, one after the other" "key_file=$SSH_KEY,password_file=$T/ssh/password,$K" \
	"$TESTER:2303$DIR"
refused "only the first of two" "key_file=$SSH_KEY,$K" "$TESTER:2303$DIR" 'tried publickey' 'accepts password'
stop_pid "$OTHER_PID"

note "host keys"
fingerprint() {
	ssh-keygen -lf "$1" | cut -d ' ' -f 2
}
read -r type base64 _ <"$T/ssh/host_ed25519.pub"
ssh-keygen -q -t rsa -b 2048 -N '' -f "$T/ssh/host_rsa"
ssh-keygen -q -t ecdsa -N '' -f "$T/ssh/host_ecdsa"
ssh-keygen -q -t ed25519 -N '' -f "$T/ssh/stranger"
read -r _ strange _ <"$T/ssh/stranger.pub"
KEY=key_file=$SSH_KEY
hosts() {
	printf '%s\n' "$@" >"$T/ssh/hosts"
}
HOSTS=known_hosts=$T/ssh/hosts
cp "$SSH_KNOWN_HOSTS" "$T/ssh/hosts"
ssh-keygen -q -H -f "$T/ssh/hosts" 2>/dev/null
check_match "hashed: the file is" '^\|1\|' "$(cat "$T/ssh/hosts")"
accepted "hashed names" "$KEY,$HOSTS"
hosts "# comment" "" "nas,[127.0.0.?]:$SSH_PORT $type $base64"
accepted "patterns" "$KEY,$HOSTS"
hosts "![127.0.0.1]:$SSH_PORT,[127.*]:* $type $base64"
refused "a name that is excluded" "$KEY,$HOSTS" '' 'is not known'
hosts "127.0.0.1 $type $base64"
accepted "a line without the port" "$KEY,$HOSTS"
hosts "127.0.0.1 $type $strange"
refused "another key without the port speaks against nobody" "$KEY,$HOSTS" '' 'is not known' 'SHA256:'
hosts "other $type $base64" "# two" "[127.0.0.1]:$SSH_PORT $type $strange"
refused "a changed key" "$KEY,$HOSTS" '' 'HOST KEY CHANGED' "ssh/hosts line 3" 'ssh-keygen -R' \
	"host_key=$(fingerprint "$T/ssh/host_ed25519.pub" | sed 's/+/[+]/g')"
refused "a changed key, with accept-new" "$KEY,$HOSTS,host_key_policy=accept-new" '' 'HOST KEY CHANGED'
accepted "a changed key, with the option it shows" "$KEY,$HOSTS,host_key=$(fingerprint "$T/ssh/host_ed25519.pub")"
hosts "[127.0.0.1]:$SSH_PORT $type $base64" "@revoked * $type $base64"
refused "a revoked key" "$KEY,$HOSTS" '' '@revoked' 'ssh/hosts line 2'
refused "a revoked key, though pinned" "$KEY,$HOSTS,host_key=$(fingerprint "$T/ssh/host_ed25519.pub")" '' '@revoked'
hosts "@cert-authority * $type $base64"
refused "only an authority" "$KEY,$HOSTS" '' 'ssh/hosts line 1 trusts an authority' 'host_key=SHA256:'
hosts "other $type $base64"
printf 'unended line' >>"$T/ssh/hosts"
accepted "accept-new" "$KEY,$HOSTS,host_key_policy=accept-new"
check_equal "accept-new: the file ends with the key" "[127.0.0.1]:$SSH_PORT $type $base64" "$(tail -n 1 "$T/ssh/hosts")"
accepted "accept-new: known from then on" "$KEY,$HOSTS"
accepted "accept-new makes its file" "$KEY,known_hosts=$T/ssh/made/hosts,host_key_policy=accept-new"
check_equal "and for root alone" 600 "$(stat -c %a "$T/ssh/made/hosts")"
sshd_with 2304 "HostKey $T/ssh/host_rsa" "HostKey $T/ssh/host_ecdsa"
S=sftp://root@127.0.0.1:2304$DIR
: >"$T/ssh/hosts"
for name in host_rsa host_ecdsa host_ed25519; do
	accepted "one of several host keys, pinned: $name" \
		"$KEY,$HOSTS,host_key=$(fingerprint "$T/ssh/$name.pub")" "$S"
done
refused "none of several host keys" "$KEY,$HOSTS,host_key=$(fingerprint "$T/ssh/stranger.pub")" "$S" \
	'DOES NOT MATCH' 'host_key=SHA256:'
write_known_hosts "$T/ssh/hosts" 2304 "$T/ssh/host_rsa.pub"
accepted "one of several host keys, known" "$KEY,$HOSTS" "$S"
stop_pid "$OTHER_PID"

note "ssh_config"
mkdir "$T/conf.d"
cat >"$T/config" <<-END
	Include $T/conf.d/*.conf
	Host nas* !nasty
	    HostName = 127.0.0.1
	    IdentityFile "$T/ssh/wrong"
	    IdentityFile $SSH_KEY
	    UserKnownHostsFile $SSH_KNOWN_HOSTS
	Match originalhost nasjump
	    ProxyJump nas-first,nas-second
	Match originalhost nasexec exec "touch $T/ran"
	    User nobody
	Host nascommand
	    ProxyCommand touch $T/ran
	Host *
	    Port $SSH_PORT
	    User tester
END
printf 'Host nas*\n  User root\n' >"$T/conf.d/first.conf"
C=ssh_config=$T/config
accepted "an alias with all it needs" "$C" "sftp://nas$DIR"
check_match "an alias: logged in as User says" 'Accepted publickey for root' "$(tail -n 8 "$T/log/sshd.log")"
accepted "the volume's own options win" "$C,key_file=$SSH_KEY" "sftp://tester@nas$DIR"
check_match "and its user" 'Accepted publickey for tester' "$(tail -n 8 "$T/log/sshd.log")"
refused "an alias that is excluded" "$C" "sftp://nasty$DIR" 'nasty' 'is the name right'
refused "ProxyCommand" "$C" "sftp://nascommand$DIR" 'ProxyCommand is refused' "config' line 12" 'ProxyJump'
refused "Match exec" "$C" "sftp://nasexec$DIR" 'Match exec is refused' "config' line 9"
check_fails "and nothing was run" test -e "$T/ran"
chmod 666 "$T/config"
refused "a config that anyone may write" "$C" "sftp://nas$DIR" 'chmod go-w'
chmod 600 "$T/config"

note "jump hosts"
before=$(grep -c 'Accepted publickey' "$T/log/sshd.log")
accepted "two jump hosts by ssh_config" "$C" "sftp://nasjump$DIR"
check_equal "three logins" "$((before + 3))" "$(grep -c 'Accepted publickey' "$T/log/sshd.log")"
accepted "a jump host by option" "$KEY,$KNOWN,proxy_jump=tester@127.0.0.1:$SSH_PORT"
sshd_with 2305 'AllowTcpForwarding no'
cat "$T/ssh/known.2305" "$SSH_KNOWN_HOSTS" >"$T/ssh/hosts"
refused "a jump host that does not forward" "$KEY,$HOSTS,proxy_jump=root@127.0.0.1:2305" '' \
	'jump host 127.0.0.1 does not lead to' 'AllowTcpForwarding'
refused "an unknown jump host, whatever is pinned" \
	"$KEY,$KNOWN,host_key=$(fingerprint "$T/ssh/host_ed25519.pub"),proxy_jump=127.0.0.1:2305" '' \
	"add the line '\[127.0.0.1\]:2305 ssh-ed25519"
refused "a password is not shown to a jump host" "password_file=$T/ssh/password,$HOSTS,proxy_jump=127.0.0.1:2305" \
	"$TESTER:$SSH_PORT$DIR" 'jump host 127.0.0.1 refused' 'tried nothing'
stop_pid "$OTHER_PID"
check "through a jump host: mount" mount_volume "sftp://root@127.0.0.1:$SSH_PORT$DIR" "$T/mnt" \
	"$KEY,$KNOWN,proxy_jump=tester@127.0.0.1:$SSH_PORT"
head -c 20000000 /dev/urandom >"$T/tmp/data"
(
	dd if="$T/tmp/data" bs=1M count=10 status=none
	kill_ssh_sessions
	dd if="$T/tmp/data" bs=1M skip=10 status=none
) >"$T/mnt/copy" 2>"$T/tmp/copy.out"
check_equal "through a jump host: sessions killed amid a write" "" "$(cat "$T/tmp/copy.out")"
check "through a jump host: every byte is there" cmp "$T/tmp/data" "$DIR/copy"
check "through a jump host: unmount" unmount_volume "$T/mnt"

note "messages"
refused "a directory whose parent is missing" "$KEY,$KNOWN" "sftp://root@127.0.0.1:$SSH_PORT/none/at/all" \
	'nor does the one it is in' 'subdir'
refused "a name that does not resolve" "$KEY,$KNOWN" sftp://root@no-such-host.invalid/x 'is the name right'
spawn httpd busybox httpd -f -p 127.0.0.1:2306 -h "$T/tmp"
defer stop_pid "$SPAWNED"
wait_for 10 port_open 2306
refused "a server that is not SSH" "$KEY,$KNOWN" sftp://root@127.0.0.1:2306/x 'not an SSH server' \
	"it says 'HTTP/1" 'is the port right'
check "nothing is left" wait_nothing_left 10
finish
