#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# Secrets by name and in every other form: they work, and are seen nowhere but in files that only
# root can read. Everything cvol writes, says or is started with is searched for them.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

start_sshd
conf=$T/etc-cvol creds=$T/credentials
mkdir -p "$conf" "$creds" "$T/home/tester/data"
chown 12345:12345 "$T/home/tester/data"
export CREDENTIALS_DIRECTORY=$creds # what systemd's LoadCredential= sets
start_cvol --config-dir "$conf" --log-level debug
unset CREDENTIALS_DIRECTORY
source=sftp://tester@127.0.0.1:$SSH_PORT$T/home/tester/data
WRONG=wrong-battery-staple-8264
PASSPHRASE=open-sesame-5519
ssh-keygen -q -t ed25519 -N "$PASSPHRASE" -C locked -f "$T/ssh/locked"
cat "$T/ssh/locked.pub" >>"$T/ssh/authorized"
KEY_LINE=$(sed -n 3p "$SSH_KEY") # a line from the middle of a private key

secret() {
	"$CVOL" secret "$@" --config-dir "$conf"
}
set_secret() {
	printf '%s' "$2" | secret set "$1"
}
# volume NAME OPTION=VALUE…: by the plugin's protocol, since docker would show what it is given.
volume() {
	local name=$1 opt opts='{}'
	shift
	for opt in "known_hosts=$SSH_KNOWN_HOSTS" "$@"; do
		opts=$(jq -c --arg k "${opt%%=*}" --arg v "${opt#*=}" '.[$k] = $v' <<<"$opts")
	done
	raw_ok Create "$(jq -cn --arg n "$name" --argjson o "$opts" '{Name: $n, Opts: $o}')"
}
# works NAME: can be mounted, and the server's data is there.
works() {
	local status
	raw_ok Mount "{\"Name\":\"$1\",\"ID\":\"x\"}" >/dev/null || {
		raw Mount "{\"Name\":\"$1\",\"ID\":\"x\"}"
		return 1
	}
	test -e "$RUN_DIR/mnt/$1/there"
	status=$?
	raw_ok Unmount "{\"Name\":\"$1\",\"ID\":\"x\"}" >/dev/null
	return "$status"
}
touch "$T/home/tester/data/there" "$SSH_ROOT/there"

# ---- the command
check "secret set" set_secret nas "$SSH_PASSWORD"
check_absent "does not repeat it" "$SSH_PASSWORD" "$OUT"
check_equal "its file is for root" "600 0" "$(stat -c '%a %u' "$conf/secrets/nas")"
check_equal "in a directory for root" 700 "$(stat -c %a "$conf/secrets")"
check "secret ls" secret ls
check_equal "shows its name" nas "$OUT"
check "secret ls --json" secret ls --json
check_equal "for programs" '["nas"]' "$(jq -c . <<<"$OUT")"
check_fails "a secret on the command line" secret set nas "$WRONG"
check_absent "is refused, and not repeated" "$WRONG" "$OUT"
check_fails "an empty one" set_secret empty ''
check_fails "a name with a slash" set_secret ../x y
check_fails "nothing to remove" secret rm nobody

# ---- by name: from each place
check "by name: create" volume byname "source=$source" password_file=secret:nas
check "by name: /etc/cvol/secrets" works byname
check "secret rm" secret rm nas
check_fails "by name: none" works byname
check_match "says where it was looked for" "credentials.*etc-cvol/secrets.*/run/secrets" "$OUT"
mkdir -p /run/secrets
printf '%s\n' "$SSH_PASSWORD" >/run/secrets/nas
check "by name: /run/secrets" works byname
printf '%s' "$WRONG" >/run/secrets/nas
check_fails "by name: a wrong one" works byname
check_absent "is not repeated" "$WRONG" "$OUT"
printf '%s' "$SSH_PASSWORD" >"$creds/nas"
check "by name: a systemd credential goes first" works byname
check_equal "copied nowhere" "" "$(grep -rlF "$SSH_PASSWORD" "$STATE_DIR" "$RUN_DIR")"
check_fails "a name nobody has" volume unnamed "source=$source" password_file=secret:nobody

# ---- literally: every secret option
root=sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT
check "literal key: create" volume bykey "source=$root" "key=$(cat "$SSH_KEY")
"
check "literal key: works" works bykey
check "literal key as rclone writes it: create" volume rclone type=sftp sftp-host=127.0.0.1 "sftp-port=$SSH_PORT" \
	"path=$SSH_ROOT" "sftp-key-pem=$(awk '{ printf "%s\\n", $0 }' "$SSH_KEY")"
check "literal key as rclone writes it: works" works rclone
check "literal passphrase: create" volume bypass "source=$root" "key_file=$T/ssh/locked" "key_passphrase=$PASSPHRASE"
check "literal passphrase: works" works bypass
check "literal password: create" volume bypw "source=$source" "password=$WRONG"
check_fails "literal password: a wrong one" works bypw
check_absent "is not repeated" "$WRONG" "$OUT"
check "the same again" volume bypw "source=$source" "password=$WRONG"
check_fails "another one is another volume" volume bypw "source=$source" "password=$SSH_PASSWORD"
check_absent "without either in the error" "$SSH_PASSWORD" "$OUT"
check_absent "really" "$WRONG" "$OUT"
check "volume update" "$CVOL" volume update bypw -o "password=$SSH_PASSWORD" --socket "$PLUGIN_SOCK"
check_match "says so without saying it" 'a secret' "$OUT"
check_absent "without it" "$SSH_PASSWORD" "$OUT"
check "the new one works" works bypw
check "check=true with a literal password" volume checked "source=$source" "password=$SSH_PASSWORD" check=true
check_fails "check=true with a wrong one" volume unchecked "source=$source" "password=$WRONG" check=true

# ---- seen nowhere
raw_ok Mount '{"Name":"bypw","ID":"y"}' >/dev/null
raw_ok Mount '{"Name":"bykey","ID":"y"}' >/dev/null
raw_ok Mount '{"Name":"bypass","ID":"y"}' >/dev/null
# everything NAME: prints all that cvol shows, writes or runs with, secrets' own files left out.
everything() {
	raw List '{}'
	local name
	for name in byname bykey bypass bypw rclone checked; do
		raw Get "{\"Name\":\"$name\"}"
	done
	"$CVOL" status --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR"
	"$CVOL" status --json --socket "$PLUGIN_SOCK" --run-dir "$RUN_DIR"
	curl -s -m 10 --unix-socket "$PLUGIN_SOCK" http://plugin/metrics
	cat "$T/log/cvol.log" /proc/self/mountinfo
	find "$STATE_DIR" "$RUN_DIR" -type f -not -path "$STATE_DIR/secrets/*" -exec cat {} +
	local pid
	for pid in "$CVOL_PID" $(cvol_workers); do
		tr '\0' '\n' <"/proc/$pid/cmdline"
		tr '\0' '\n' <"/proc/$pid/environ"
	done
}
everything >"$T/tmp/everything" 2>/dev/null
for word in '"bypw"' "bykey" "secret:nas" "cvol-fuse"; do
	check "what is searched has $word in it" grep -qF -- "$word" "$T/tmp/everything"
done
for word in "$SSH_PASSWORD" "$WRONG" "$PASSPHRASE" "$KEY_LINE" "PRIVATE KEY"; do
	check_equal "seen nowhere: ${word:0:5}…" "" "$(grep -nF -- "$word" "$T/tmp/everything" | cut -c 1-200)"
done
check_equal "all secrets' files are for root only" "" "$(find "$STATE_DIR/secrets" -type f -not -perm 600)"
check_equal "what failed has left none" "" "$(find "$STATE_DIR/secrets" -name '.check*' -o -name 'unchecked*')"

for name in bypw bykey bypass; do
	raw_ok Unmount "{\"Name\":\"$name\",\"ID\":\"y\"}" >/dev/null
done
for name in byname bykey bypass bypw rclone checked; do
	check "remove $name" raw_ok Remove "{\"Name\":\"$name\"}"
done
check_equal "secrets go with their volumes" "" "$(find "$STATE_DIR/secrets" -type f)"
check "the end: nothing is left" wait_nothing_left 10
finish
