# shellcheck shell=bash
# Variables are set here for the tests to read, functions take arguments some tests give.
# shellcheck disable=SC2034,SC2119,SC2120
# SPDX-License-Identifier: Apache-2.0
#
# What every shell test stands on. A test does:
#
#	. "$(dirname "$0")/../lib.sh"
#	sandbox "$@"            # from here on we are inside
#	start_sshd; start_cvol; …
#	check "name of the check" command args…
#	finish
#
# The sandbox. sandbox() starts the test again inside its own mount, network and pid namespace with
# an empty /run, and waits for it outside. That one decision gives:
#   - the real port numbers (111, 2049, 22…) and real paths (/run/docker/plugins, /run/sshd) whatever
#     else runs on the machine, without touching it;
#   - FUSE mounts made by `cvol daemon` are seen by dockerd and the containers, because all of them
#     live in the same mount namespace, and are not seen outside (it is private);
#   - dockerd with --bridge=none, which deletes the machine's docker0, has its own network;
#   - nothing survives: when the inner shell ends, the kernel kills all processes of the pid namespace
#     and the mounts go with the last of them. The outer half then only removes one directory.
# Tests still stop what they start, since "nothing left behind" is a promise of the product.
#
# Output is TAP ("ok 1 - …", "not ok 2 - …", "ok 3 - … # SKIP why"); tests/run adds it up.

set -uo pipefail

LIB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(dirname "$LIB_DIR")
BUILD=${BUILD:-$TOP/build}
case $BUILD in
/*) ;;
*) BUILD=$TOP/$BUILD ;;
esac
CVOL=$BUILD/cvol
PROXY=$BUILD/tests/delay-proxy
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C

# ---------------------------------------------------------------- sandbox

# Removes a directory of ours: refuses while anything is mounted in it, never crosses a mount.
remove_tree() {
	local dir=$1
	[ -n "$dir" ] && [ -d "$dir" ] || return 0
	if awk -v d="$dir" '$5 == d || index($5, d "/") == 1 { found = 1 } END { exit !found }' \
		/proc/self/mountinfo; then
		echo "# $dir: something is still mounted there, left alone" >&2
		return 1
	fi
	rm -rf --one-file-system -- "$dir"
}

# Control groups that our dockerd made and did not get to remove.
remove_cgroups() {
	local dir
	while read -r dir; do
		[ -z "$dir" ] || find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null
	done < <(find /sys/fs/cgroup -maxdepth 3 -type d -name "$1" 2>/dev/null)
	return 0
}

sandbox_leave() {
	local status=$?
	trap - EXIT INT TERM HUP
	if [ -n "${SANDBOX_PID:-}" ] && kill -0 "$SANDBOX_PID" 2>/dev/null; then
		# The inner shell gets to run its own clean-up; then it all goes at once.
		pkill -TERM -P "$SANDBOX_PID" 2>/dev/null
		timeout 20 tail --pid="$SANDBOX_PID" -f /dev/null
		kill -KILL "$SANDBOX_PID" 2>/dev/null
		wait "$SANDBOX_PID" 2>/dev/null
	fi
	remove_cgroups "$(basename "$SANDBOX_DIR")"
	# Processes of the namespace may need a moment to release their mounts.
	local i
	for i in 1 2 3 4 5; do
		remove_tree "$SANDBOX_DIR" 2>/dev/null && break
		sleep "0.$i"
	done
	[ ! -d "$SANDBOX_DIR" ] || echo "# could not remove $SANDBOX_DIR" >&2
	exit "$status"
}

sandbox() {
	if [ -n "${CVOL_SANDBOX:-}" ]; then
		sandbox_inside
		return 0
	fi
	if [ "$(id -u)" -ne 0 ]; then
		echo "# needs root (mounts, namespaces)"
		exit 77
	fi
	if ! unshare --mount --net --pid --fork true 2>/dev/null; then
		echo "# this machine does not allow new namespaces"
		exit 77
	fi
	# Not below $TMPDIR: it may be long, and unix socket paths end at 107 bytes.
	SANDBOX_DIR=$(mktemp -d /tmp/cvol-XXXXXX) || exit 1
	chmod 755 "$SANDBOX_DIR"
	trap sandbox_leave EXIT
	trap 'exit 130' INT HUP
	trap 'exit 143' TERM
	CVOL_SANDBOX=$SANDBOX_DIR unshare --mount --net --pid --fork --mount-proc --kill-child \
		bash "$0" "$@" &
	SANDBOX_PID=$!
	local status
	wait "$SANDBOX_PID"
	status=$?
	SANDBOX_PID=
	exit "$status"
}

sandbox_inside() {
	T=$CVOL_SANDBOX
	trap cleanup EXIT
	trap 'exit 130' INT HUP
	trap 'exit 143' TERM
	mkdir -p "$T/log" "$T/tmp"
	export TMPDIR=$T/tmp HOME=$T/home
	mkdir -p "$HOME"
	# An address besides 127.0.0.1: with none, getaddrinfo(AI_ADDRCONFIG) finds nothing at all.
	ip link set lo up
	ip addr add 192.0.2.1/32 dev lo
	echo 1 >/proc/sys/net/ipv4/ip_forward # or docker warns with every run
	mount -t tmpfs -o mode=755 tmpfs /run
	mkdir -p /run/lock /run/sshd /run/ganesha /run/docker/plugins
	chmod 1777 /run/lock
	# An administrator's settings and an NFS server's memory are not ours to use.
	local dir
	for dir in /etc/cvol /var/lib/cvol /var/lib/nfs /etc/docker; do
		[ ! -d "$dir" ] || mount -t tmpfs -o mode=755 tmpfs "$dir"
	done
	if [ ! -c /dev/fuse ]; then
		modprobe fuse 2>/dev/null
		[ -c /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
	fi
	# The servers' directories: NFS needs file handles, which an overlay root does not give.
	SRV=$T/srv
	mkdir -p "$SRV"
	if [ "$(stat -f -c %T "$T")" = overlayfs ]; then
		mount -t tmpfs -o mode=755 tmpfs "$SRV"
	fi
}

# ---------------------------------------------------------------- clean-up

CLEANUP=()

# defer COMMAND ARGS…: run at the end, last one first, whatever happens.
defer() {
	CLEANUP+=("$(printf '%q ' "$@")")
}

cleanup() {
	local status=$? i
	trap - EXIT
	trap '' INT TERM HUP
	if [ "$status" -ne 0 ] && [ "$status" -ne 77 ]; then
		show_logs
	fi
	for ((i = ${#CLEANUP[@]} - 1; i >= 0; i--)); do
		eval "${CLEANUP[i]}" >>"$T/log/cleanup.log" 2>&1
	done
	if [ -z "${CRASHES_MEANT:-}" ] && grep -hE 'killed by signal (4|5|6|7|8|11) ' "$T"/log/cvol*.log 2>/dev/null; then
		echo "# a worker crashed"
		[ "$status" -ne 0 ] || status=1
	fi
	exit "$status"
}

# ---------------------------------------------------------------- checks

CHECKS=0
FAILED=0

note() {
	printf '# %s\n' "$*"
}

ok() {
	CHECKS=$((CHECKS + 1))
	printf 'ok %d - %s\n' "$CHECKS" "$1"
}

# not_ok NAME [WHY]
not_ok() {
	CHECKS=$((CHECKS + 1))
	FAILED=$((FAILED + 1))
	printf 'not ok %d - %s\n' "$CHECKS" "$1"
	[ -z "${2:-}" ] || printf '%s\n' "$2" | head -20 | sed 's/^/#   /'
}

# skip NAME WHY
skip() {
	CHECKS=$((CHECKS + 1))
	printf 'ok %d - %s # SKIP %s\n' "$CHECKS" "$1" "$2"
}

# check NAME COMMAND…: passes if the command does, within $LIMIT seconds. The command may be a shell
# function. Its output is shown on failure and stays in $OUT.
OUT=
LIMIT=${LIMIT:-60}
check() {
	local name=$1 status
	shift
	bounded "$@"
	status=$?
	if [ "$status" -eq 0 ]; then
		ok "$name"
	else
		not_ok "$name" "exit status $status of: $*
$OUT"
	fi
	return "$status"
}

# The same, but the command must fail (not by running out of time).
check_fails() {
	local name=$1 status
	shift
	bounded "$@"
	status=$?
	if [ "$status" -eq 0 ]; then
		not_ok "$name" "succeeded, though it should not: $*
$OUT"
		return 1
	elif [ "$status" -eq 124 ]; then
		not_ok "$name" "no answer within $LIMIT s: $*"
		return 1
	fi
	ok "$name"
}

# check_equal NAME EXPECTED ACTUAL
check_equal() {
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		not_ok "$1" "expected: $2
actual:   $3"
		return 1
	fi
}

# check_match NAME REGEX TEXT
check_match() {
	if [[ $3 =~ $2 ]]; then
		ok "$1"
	else
		not_ok "$1" "no match for: $2
in: $3"
		return 1
	fi
}

# check_absent NAME NEEDLE TEXT: the text is there, the needle is not in it.
check_absent() {
	if [ -z "$3" ]; then
		not_ok "$1" "there is no text to look at"
		return 1
	elif [[ $3 == *"$2"* ]]; then
		not_ok "$1" "it is there"
		return 1
	fi
	ok "$1"
}

# bounded COMMAND…: output to $OUT, 124 after $LIMIT seconds. Runs functions too (in a subshell).
bounded() {
	local file status pid waited=0 max=$((LIMIT * 20))
	file=$(mktemp "$T/tmp/out.XXXXXX")
	("$@") >"$file" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		if [ "$waited" -ge "$max" ]; then
			kill_tree "$pid"
			wait "$pid" 2>/dev/null
			OUT=$(head -c 20000 "$file" | tr -d '\0')
			rm -f "$file"
			return 124
		fi
		sleep 0.05
		waited=$((waited + 1))
	done
	wait "$pid"
	status=$?
	OUT=$(head -c 20000 "$file" | tr -d '\0')
	rm -f "$file"
	return "$status"
}

# SIGKILL to a process and everything below it.
kill_tree() {
	local pid=$1 child
	for child in $(pgrep -P "$pid"); do
		kill_tree "$child"
	done
	kill -KILL "$pid" 2>/dev/null
}

finish() {
	printf '1..%d\n' "$CHECKS"
	[ "$FAILED" -eq 0 ] || exit 1
	exit 0
}

# Ends the whole test: what it needs is not there.
bail_skip() {
	note "$*"
	exit 77
}

# Ends the whole test: it cannot go on.
bail() {
	not_ok "test set-up" "$*"
	exit 1
}

show_logs() {
	local log lines
	for log in "$T"/log/*.log; do
		[ -s "$log" ] || continue
		lines=8
		[[ ${log##*/} != cvol* ]] || lines=40
		printf '# ---- %s\n' "${log##*/}"
		tail -n "$lines" "$log" | cut -c 1-400 | sed 's/^/# /'
	done
}

# ---------------------------------------------------------------- processes, waiting

# spawn NAME COMMAND…: in the background, output appended to log/NAME.log, pid in $SPAWNED. A server
# must not inherit a test's open file: it would keep the volume busy.
spawn() {
	local name=$1
	shift
	"$@" >>"$T/log/$name.log" 2>&1 </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
	SPAWNED=$!
}

alive() {
	[ -n "${1:-}" ] && [ -d "/proc/$1" ] && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null
}

gone() {
	! alive "$1"
}

# wait_gone SECONDS PID
wait_gone() {
	wait_for "$1" gone "$2"
}

# stop_pid PID [SECONDS] [SIGNAL]: asks, waits, then kills. Returns 1 if it had to be killed.
stop_pid() {
	local pid=${1:-} seconds=${2:-10} sig=${3:-TERM} i
	[ -n "$pid" ] && alive "$pid" || return 0
	kill "-$sig" "$pid" 2>/dev/null
	for ((i = 0; i < seconds * 20; i++)); do
		alive "$pid" || break
		sleep 0.05
	done
	if alive "$pid"; then
		kill -KILL "$pid" 2>/dev/null
		for ((i = 0; i < 60; i++)); do
			alive "$pid" || break
			sleep 0.05
		done
		return 1
	fi
	wait "$pid" 2>/dev/null
	return 0
}

# wait_for SECONDS COMMAND…: until it succeeds. Each try is itself bounded by the command's nature.
# WHILE_PID=pid: give up as soon as that process is gone.
wait_for() {
	local seconds=$1 end
	shift
	end=$((SECONDS + seconds))
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || return 1
		[ -z "${WHILE_PID:-}" ] || alive "$WHILE_PID" || return 1
		sleep 0.1
	done
}

now_ms() {
	local t=${EPOCHREALTIME/./}
	echo $((t / 1000))
}

# A TCP port on loopback nobody listens on. In the sandbox nobody races us for it.
free_port() {
	local port
	for port in $(shuf -i 20000-32000 -n 50); do
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return 0
		fi
	done
	return 1
}

port_open() {
	(exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null
}

# An address whose packets vanish: every connect() there runs into its own time limit.
# Sets BLACK_HOLE; returns 1 where the kernel has no veth.
make_black_hole() {
	BLACK_HOLE=198.51.100.2
	ip link show bh0 >/dev/null 2>&1 && return 0
	ip link add bh0 type veth peer name bh1 || return 1
	ip addr add 198.51.100.1/24 dev bh0
	ip link set bh0 up
	ip link set bh1 up
	ip neigh replace "$BLACK_HOLE" lladdr 02:00:00:00:00:99 nud permanent dev bh0
}

# ---------------------------------------------------------------- SSH server

# Users the private sshd knows: root and tester (uid 12345, password $SSH_PASSWORD), in copies of
# passwd and shadow bound over the real ones in this mount namespace only: root's account may be
# locked on the machine, and without PAM sshd refuses locked accounts.
SSH_PASSWORD=correct-horse-battery-7391
make_users() {
	[ ! -e "$T/etc/shadow" ] || return 0
	mkdir -p "$T/etc" "$T/home/tester"
	local hash
	hash=$(openssl passwd -6 "$SSH_PASSWORD") || return 1
	grep -v '^tester:' /etc/passwd >"$T/etc/passwd"
	echo "tester:x:12345:12345:cvol test user:$T/home/tester:/bin/sh" >>"$T/etc/passwd"
	grep -v '^tester:\|^root:' /etc/shadow >"$T/etc/shadow"
	printf 'root:*:19000:0:99999:7:::\ntester:%s:19000:0:99999:7:::\n' "$hash" >>"$T/etc/shadow"
	chmod 644 "$T/etc/passwd"
	chmod 600 "$T/etc/shadow"
	chown -R 12345:12345 "$T/home/tester"
	mount --bind "$T/etc/passwd" /etc/passwd && mount --bind "$T/etc/shadow" /etc/shadow
}

# start_sshd [PORT]: at SSH_ADDRESS; sets SSH_PORT, SSH_KEY, SSH_KNOWN_HOSTS, SSH_ROOT (a directory it may write),
# SSHD_PID. Called again after stop_sshd it comes back with the same keys and port.
start_sshd() {
	SSH_PORT=${1:-${SSH_PORT:-2222}}
	SSH_KEY=$T/ssh/id
	SSH_KNOWN_HOSTS=$T/ssh/known_hosts
	SSH_ROOT=$SRV/ssh
	if [ ! -d "$T/ssh" ]; then
		make_users || bail "cannot make the test users"
		mkdir -p "$T/ssh" "$SSH_ROOT"
		ssh-keygen -q -t ed25519 -N '' -f "$T/ssh/host_ed25519" || bail "ssh-keygen"
		ssh-keygen -q -t ed25519 -N '' -C cvol-test -f "$SSH_KEY"
		ssh-keygen -q -t ed25519 -N '' -C cvol-wrong -f "$T/ssh/wrong"
		cp "$SSH_KEY.pub" "$T/ssh/authorized"
		chmod 644 "$T/ssh/authorized"
	fi
	write_known_hosts "$SSH_KNOWN_HOSTS" "$SSH_PORT" "$T/ssh/host_ed25519.pub"
	cat >"$T/ssh/sshd_config" <<-END
		Port $SSH_PORT
		ListenAddress ${SSH_ADDRESS:-127.0.0.1}
		HostKey $T/ssh/host_ed25519
		PidFile none
		AuthorizedKeysFile $T/ssh/authorized
		StrictModes no
		UsePAM no
		UseDNS no
		PermitRootLogin yes
		PasswordAuthentication yes
		KbdInteractiveAuthentication no
		MaxStartups 200
		MaxSessions 100
		LogLevel VERBOSE
		Subsystem sftp internal-sftp${SFTP_ARGS:+ $SFTP_ARGS}
	END
	spawn sshd /usr/sbin/sshd -D -e -f "$T/ssh/sshd_config"
	SSHD_PID=$SPAWNED
	wait_for 10 port_open "$SSH_PORT" "${SSH_ADDRESS:-}" || bail "sshd did not start"
	[ -n "${SSHD_DEFERRED:-}" ] || defer stop_sshd
	SSHD_DEFERRED=1
}

# write_known_hosts FILE PORT PUBLIC_KEY_FILE: the bracket form is what clients look up off port 22.
write_known_hosts() {
	local type key rest
	read -r type key rest <"$3"
	: "$rest"
	if [ "$2" = 22 ]; then
		printf '127.0.0.1 %s %s\n' "$type" "$key" >"$1"
	else
		printf '[127.0.0.1]:%s %s %s\n' "$2" "$type" "$key" >"$1"
	fi
}

all_stopped() {
	local pid
	for pid in "$@"; do
		! grep -h '^State:' "/proc/$pid"/task/*/status | grep -qv 'T (stopped)' || return
	done
}
# freeze PID…: SIGSTOP; on a busy machine some threads go on for a moment.
freeze() {
	kill -STOP "$@"
	wait_for 10 all_stopped "$@" || bail "processes $* do not stop"
}

# Processes serving sessions: children of the listener and theirs.
ssh_sessions() {
	[ -z "${SSHD_PID:-}" ] || pgrep -P "$SSHD_PID"
}

kill_ssh_sessions() {
	local pid
	for pid in $(ssh_sessions); do
		kill_tree "$pid"
	done
}

stop_sshd() {
	kill_ssh_sessions
	stop_pid "${SSHD_PID:-}" 5
	kill_ssh_sessions
	SSHD_PID=
}

# The options that reach the private sshd, as one -o list for `cvol mount`.
ssh_options() {
	echo "key_file=$SSH_KEY,known_hosts=$SSH_KNOWN_HOSTS"
}

# ---------------------------------------------------------------- SSH servers other than OpenSSH

# Each sets SSH_PORT, SSH_KNOWN_HOSTS and SSH_ROOT as start_sshd does (which made the keys and users
# before), and SSH_PATH, the path of SSH_ROOT as the server shows it.
other_sshd() {
	[ -n "${SSHD_PID:-}" ] || start_sshd
	SSH_PORT=$1
	SSH_KNOWN_HOSTS=$T/ssh/known_hosts.$1
	SSH_PATH=$SSH_ROOT
	write_known_hosts "$SSH_KNOWN_HOSTS" "$SSH_PORT" "$T/ssh/host_ed25519.pub"
}

other_sshd_up() {
	defer stop_pid "$SPAWNED"
	WHILE_PID=$SPAWNED wait_for 10 port_open "$SSH_PORT" || bail "$1 did not start"
}

# rclone serve sftp: Go, no extensions, no symbolic links, shows its directory as the root.
start_rclone() {
	other_sshd 2401
	SSH_PATH=/
	spawn rclone rclone serve sftp "$SSH_ROOT" --addr "127.0.0.1:$SSH_PORT" --key "$T/ssh/host_ed25519" \
		--authorized-keys "$T/ssh/authorized" --vfs-cache-mode full --dir-cache-time 0s --vfs-cache-poll-interval 0 \
		--vfs-write-back 0s --cache-dir "$T/rclone" --config "$T/rclone.conf"
	other_sshd_up rclone
}

# dropbear runs OpenSSH's sftp-server, and reads authorized_keys in root's home only.
start_dropbear() {
	other_sshd 2402
	mount -t tmpfs -o mode=700 tmpfs /root
	mkdir -m 700 /root/.ssh
	cp "$T/ssh/authorized" /root/.ssh/authorized_keys
	dropbearconvert openssh dropbear "$T/ssh/host_ed25519" "$T/ssh/dropbear" 2>/dev/null ||
		bail "dropbear cannot use the host key"
	spawn dropbear dropbear -F -E -r "$T/ssh/dropbear" -p "127.0.0.1:$SSH_PORT" -P "$T/dropbear.pid"
	other_sshd_up dropbear
}

# ProFTPD's mod_sftp: a third implementation of the protocol, with a few of the extensions.
start_proftpd() {
	other_sshd 2403
	ssh-keygen -e -f "$SSH_KEY.pub" >"$T/ssh/authorized.rfc4716"
	cat >"$T/proftpd.conf" <<-END
		LoadModule mod_sftp.c
		ServerType standalone
		ServerName cvol-test
		DefaultServer on
		Port $SSH_PORT
		DefaultAddress 127.0.0.1
		UseIPv6 off
		User root
		Group root
		RootLogin on
		UseFtpUsers off
		FSCachePolicy off
		<IfModule mod_cap.c>
			CapabilitiesEngine off
		</IfModule>
		RequireValidShell off
		PidFile $T/proftpd.pid
		ScoreboardFile $T/proftpd.scoreboard
		DelayEngine off
		WtmpLog off
		SystemLog $T/log/proftpd-system.log
		Umask 000
		AllowOverwrite on
		AllowStoreRestart on
		ShowSymlinks on
		SFTPEngine on
		SFTPLog $T/log/proftpd-sftp.log
		SFTPHostKey $T/ssh/host_ed25519
		SFTPAuthorizedUserKeys file:$T/ssh/authorized.rfc4716
		SFTPAuthMethods publickey
		AuthOrder mod_auth_unix.c
		<Directory />
			AllowOverwrite on
			HideFiles none
		</Directory>
	END
	spawn proftpd proftpd -n -c "$T/proftpd.conf"
	other_sshd_up proftpd
}

# ---------------------------------------------------------------- NFS server

start_rpcbind() {
	[ -z "${RPCBIND_PID:-}" ] || return 0
	mkdir -p /run/rpcbind
	spawn rpcbind rpcbind -f -w
	RPCBIND_PID=$SPAWNED
	wait_for 10 port_open 111 || bail "rpcbind did not start"
	defer stop_pid "$RPCBIND_PID"
}

# start_ganesha: with NFS_MORE_EXPORTS, EXPORT blocks beside its own, and at NFS_ADDRESS; sets NFS_PORT, MNT_PORT, NFS_ROOT (the exported directory, path on the server
# side), NFS_EXPORT (its name for clients), GANESHA_PID.
start_ganesha() {
	NFS_PORT=${NFS_PORT:-2049}
	MNT_PORT=${MNT_PORT:-20048}
	NFS_ROOT=$SRV/nfs
	NFS_EXPORT=$NFS_ROOT
	NFS_PSEUDO=/export # the same, as NFSv4 names it
	mkdir -p "$NFS_ROOT" /run/ganesha /var/lib/nfs/ganesha
	# NFSv4 needs neither.
	[ "${NFS_PROTOCOLS:-}" = 4 ] || start_rpcbind
	cat >"$T/ganesha.conf" <<-END
		NFS_CORE_PARAM {
			NFS_Port = $NFS_PORT;
			MNT_Port = $MNT_PORT;
			Bind_addr = ${NFS_ADDRESS:-127.0.0.1};
			Protocols = ${NFS_PROTOCOLS:-3, 4};
			Enable_NLM = false;
			Enable_RQUOTA = false;
			NSM_Use_Caller_Name = true;
		}
		NFSv4 {
			${NFS_V4_PARAM:-Graceless = true;}
			Only_Numeric_Owners = true;
		}
		EXPORT {
			Export_Id = 1;
			Path = $NFS_ROOT;
			Pseudo = $NFS_PSEUDO;
			Access_Type = RW;
			Squash = No_Root_Squash;
			SecType = sys;
			Transports = TCP;
			Protocols = ${NFS_PROTOCOLS:-3, 4};
			FSAL { Name = VFS; }
		}
		${NFS_MORE_EXPORTS:-}
		LOG { Default_Log_Level = EVENT; }
	END
	spawn_ganesha
	[ -n "${GANESHA_DEFERRED:-}" ] || defer stop_ganesha
	GANESHA_DEFERRED=1
}

spawn_ganesha() {
	spawn ganesha ganesha.nfsd -F -f "$T/ganesha.conf" -p "$T/ganesha.pid" -L "$T/log/ganesha.log"
	GANESHA_PID=$SPAWNED
	WHILE_PID=$GANESHA_PID wait_for 30 nfs_answers || bail "the NFS server did not start"
}

# MOUNT and NFS both answer: libnfs's own tool lists the export.
nfs_answers() {
	local address=${NFS_ADDRESS:-127.0.0.1}
	[ "$address" != 0.0.0.0 ] || address=127.0.0.1
	if [ "${NFS_PROTOCOLS:-}" = 4 ]; then
		port_open "$NFS_PORT" "$address"
		return
	fi
	timeout 3 nfs-ls "nfs://$address$NFS_EXPORT?nfsport=$NFS_PORT&mountport=$MNT_PORT&version=3"
}

# By its file: a check runs in a shell of its own, and so its server's pid does not come back here.
kill_ganesha() {
	local pid
	pid=$(cat "$T/ganesha.pid") || return 1
	kill -KILL "$pid" && wait_gone 10 "$pid"
}

stop_ganesha() {
	stop_pid "${GANESHA_PID:-}" 10
	GANESHA_PID=
}

# ---------------------------------------------------------------- chance

# For a test whose moments are random: $RANDOM starts from SEED, which is printed, so that a run can be
# repeated; FAULT_SCALE (1) multiplies the length of such a test.
fault_seed() {
	SEED=${SEED:-$((RANDOM * 32768 + RANDOM))}
	RANDOM=$SEED
	FAULT_SCALE=${FAULT_SCALE:-1}
	note "SEED=$SEED FAULT_SCALE=$FAULT_SCALE"
}

# random_sleep MAX_MS
random_sleep() {
	local ms=$((RANDOM % $1 + 1))
	sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
}

# ---------------------------------------------------------------- Docker

# A containerd of its own, so that dockerd can be killed and started under living containers.
start_containerd() {
	[ -z "${CONTAINERD_PID:-}" ] || return 0
	cat >"$T/containerd.toml" <<-END
		version = 2
		root = "$T/containerd/root"
		state = "/run/containerd"
		disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
		[grpc]
		  address = "/run/containerd/containerd.sock"
	END
	spawn containerd containerd --config "$T/containerd.toml" --log-level warn
	CONTAINERD_PID=$SPAWNED
	defer stop_pid "$CONTAINERD_PID"
	wait_for 20 test -S /run/containerd/containerd.sock || bail "containerd did not start"
}

# start_dockerd [EXTRA…]: sets DOCKER_HOST, DOCKERD_PID. Containers have no network but lo.
start_dockerd() {
	export DOCKER_HOST=unix:///run/docker.sock DOCKER_CONFIG=$T/docker-cli
	mkdir -p "$T/docker" "$DOCKER_CONFIG"
	start_containerd
	local driver=${STORAGE_DRIVER:-overlay2}
	[ "$(stat -f -c %T "$T/docker")" != overlayfs ] || driver=vfs
	spawn_dockerd "$driver" "$@"
	if ! WHILE_PID=$DOCKERD_PID wait_for 30 docker_answers; then
		stop_pid "$DOCKERD_PID"
		spawn_dockerd vfs "$@"
		WHILE_PID=$DOCKERD_PID wait_for 30 docker_answers || bail "dockerd did not start"
	fi
	[ -n "${DOCKERD_DEFERRED:-}" ] || defer stop_dockerd_all
	DOCKERD_DEFERRED=1
}

spawn_dockerd() {
	local driver=$1
	shift
	spawn dockerd dockerd --data-root "$T/docker" --exec-root /run/docker-exec \
		--pidfile /run/docker.pid -H "$DOCKER_HOST" --containerd /run/containerd/containerd.sock \
		--bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
		--storage-driver "$driver" --cgroup-parent "/$(basename "$T")" --live-restore \
		--log-level warn "$@"
	DOCKERD_PID=$SPAWNED
	STORAGE_DRIVER=$driver
}

docker_answers() {
	alive "$DOCKERD_PID" && timeout 5 docker version
}

stop_dockerd() {
	stop_pid "${DOCKERD_PID:-}" 20
	DOCKERD_PID=
}

stop_dockerd_all() {
	if alive "${DOCKERD_PID:-}"; then
		# shellcheck disable=SC2046
		timeout 20 docker rm -f $(timeout 10 docker ps -aq) >/dev/null 2>&1
	fi
	stop_dockerd
}

# import_images: cvol-test (busybox) and cvol-test-volume (an image VOLUME with content of every
# kind: a fifo, hard and symbolic links, an odd owner and mode, an empty directory).
import_images() {
	local root=$T/image
	mkdir -p "$root/bin" "$root/etc" "$root/tmp"
	cp "$(command -v busybox)" "$root/bin/busybox"
	local applet
	for applet in sh cat ls echo sleep stat sync rm mkdir touch dd md5sum test id chown chmod cp mv \
		ln mkfifo find head tail wc readlink true false df mount sha256sum grep; do
		ln -sf busybox "$root/bin/$applet"
	done
	printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\nuser:x:1000:\n' >"$root/etc/group"
	chmod 1777 "$root/tmp"
	tar -C "$root" -c . | timeout 60 docker import - cvol-test >/dev/null || return 1
	mkdir -p "$root/seed/dir/empty"
	echo "from the image" >"$root/seed/file"
	ln "$root/seed/file" "$root/seed/hardlink"
	ln -s file "$root/seed/symlink"
	ln -s /nowhere/at/all "$root/seed/dangling"
	mkfifo "$root/seed/fifo"
	echo "odd" >"$root/seed/dir/odd"
	chown 1234:4321 "$root/seed/dir/odd"
	chmod 0640 "$root/seed/dir/odd"
	head -c 300000 /dev/urandom >"$root/seed/dir/blob"
	tar -C "$root" -c . | timeout 60 docker import --change 'VOLUME /seed' - cvol-test-volume \
		>/dev/null
}

# d ARGS…: docker with a time limit.
d() {
	timeout "${DOCKER_LIMIT:-60}" docker "$@"
}

# ---------------------------------------------------------------- cvol

PLUGIN_SOCK=/run/docker/plugins/cvol.sock

# start_cvol [EXTRA…]: `cvol daemon` on the socket dockerd looks for; state and mounts below $T.
start_cvol() {
	[ -x "$CVOL" ] || bail "$CVOL is not built"
	STATE_DIR=$T/state
	RUN_DIR=$T/cvol-run
	spawn cvol "$CVOL" daemon --socket "$PLUGIN_SOCK" --state-dir "$STATE_DIR" \
		--run-dir "$RUN_DIR" "$@"
	CVOL_PID=$SPAWNED
	WHILE_PID=$CVOL_PID wait_for 10 cvol_answers || bail "cvol daemon did not start"
	[ -n "${CVOL_DEFERRED:-}" ] || defer stop_cvol
	CVOL_DEFERRED=1
}

cvol_answers() {
	alive "$CVOL_PID" && raw Plugin.Activate | grep -q VolumeDriver
}

# stop_cvol [SIGNAL]: the daemon; whether workers and mounts stay is the product's decision.
stop_cvol() {
	stop_pid "${CVOL_PID:-}" 20 "${1:-TERM}"
	CVOL_PID=
}

# raw CALL [JSON]: one request as dockerd sends it; prints the answer's body.
raw() {
	raw_curl "$@"
}

# raw_status CALL [JSON]: prints the HTTP status alone.
raw_status() {
	raw_curl "$@" -o /dev/null -w '%{http_code}'
}

raw_curl() {
	local call=$1 body=${2-}
	shift 2 2>/dev/null || shift
	case $call in
	*.*) ;;
	*) call=VolumeDriver.$call ;;
	esac
	curl -s -m "${RAW_LIMIT:-30}" --unix-socket "$PLUGIN_SOCK" -X POST -H 'Content-Type:' -H 'Expect:' \
		-H 'Accept: application/vnd.docker.plugins.v1.2+json' -H 'User-Agent: Go-http-client/1.1' \
		--data-binary "$body" "$@" "http://plugin/$call"
}

# raw_ok CALL [JSON]: the same, succeeds only if the answer carries no error.
raw_ok() {
	local answer
	answer=$(raw "$@") || return 1
	printf '%s\n' "$answer"
	printf '%s' "$answer" | jq -e '(.Err // "") == ""' >/dev/null
}

# volume_status VOLUME FIELD: of what docker volume inspect shows.
volume_status() {
	raw_ok Get "{\"Name\":\"$1\"}" | jq -r ".Volume.Status.$2"
}
worker() { # VOLUME
	volume_status "$1" worker
}
is_replaced() { # VOLUME WORKER
	local now
	now=$(worker "$1")
	[ "$now" != null ] && [ "$now" != "$2" ] && alive "$now"
}

# raw_err CALL [JSON]: prints Err; succeeds only if there is one.
raw_err() {
	local answer
	answer=$(raw "$@") || return 1
	printf '%s' "$answer" | jq -er '.Err | select(. != null and . != "")'
}

# cvol_mounts: mount points of cvol volumes in this namespace.
cvol_mounts() {
	awk '{ for (i = 7; i <= NF; i++) if ($i == "-") { if ($(i + 1) ~ /^fuse/) print $5; break } }' \
		/proc/self/mountinfo
}

# Worker processes.
cvol_workers() {
	pgrep '^cvol-fuse' || true
}

is_mounted() {
	cvol_mounts | grep -qxF "$1"
}

not_mounted() {
	! is_mounted "$1"
}

# Nothing of a volume's mount is left: no FUSE mount, no worker, no directory below the run dir.
nothing_left() {
	local mounts workers
	mounts=$(cvol_mounts)
	workers=$(cvol_workers)
	[ -z "$mounts" ] || echo "still mounted: $mounts"
	[ -z "$workers" ] || echo "still running: $workers"
	[ -z "$mounts$workers" ]
}

wait_nothing_left() {
	wait_for "${1:-5}" nothing_left || {
		nothing_left
		return 1
	}
}

# ---------------------------------------------------------------- engines

# engines NAMES…: those of them that $ENGINES asks for (all by default); for trying one by hand.
engines() {
	local name
	for name in "$@"; do
		[[ " ${ENGINES:-$*} " != *" $name "* ]] || echo "$name"
	done
}

# start_engine ENGINE[-SERVER]: its throw-away server; sets SOURCE, OPTIONS (for -o, may be empty) and
# SERVER_DIR (the same data as the server's host sees it; empty for mem).
start_engine() {
	OPTIONS=
	case $1 in
	mem)
		SOURCE=mem://
		SERVER_DIR=
		;;
	dir)
		SERVER_DIR=$SRV/dir
		mkdir -p "$SERVER_DIR"
		SOURCE=dir://$SERVER_DIR
		;;
	nfs)
		[ -n "${GANESHA_PID:-}" ] || start_ganesha
		SERVER_DIR=$NFS_ROOT
		SOURCE=nfs://127.0.0.1$NFS_EXPORT
		OPTIONS=version=3
		;;
	nfs4)
		[ -n "${GANESHA_PID:-}" ] || start_ganesha
		SERVER_DIR=$NFS_ROOT
		SOURCE=nfs://127.0.0.1$NFS_PSEUDO
		OPTIONS=version=4.1
		;;
	nfs40)
		start_engine nfs4
		OPTIONS=version=4.0
		;;
	sftp)
		[ -n "${SSHD_PID:-}" ] || start_sshd
		SERVER_DIR=$SSH_ROOT
		SOURCE=sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT
		OPTIONS=$(ssh_options)
		;;
	sftp-far) # far enough for further channels
		start_engine sftp
		start_proxy far "$SSH_PORT" -d 2
		SSH_KNOWN_HOSTS=$T/ssh/known_hosts.far
		write_known_hosts "$SSH_KNOWN_HOSTS" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
		SOURCE=sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT
		OPTIONS=$(ssh_options)
		;;
	sftp-jump)
		start_engine sftp
		OPTIONS+=,proxy_jump=tester@127.0.0.1:$SSH_PORT
		;;
	sftp-rclone | sftp-dropbear | sftp-proftpd)
		[ -n "${SSH_PATH:-}" ] || "start_${1#sftp-}"
		SERVER_DIR=$SSH_ROOT
		SOURCE=sftp://root@127.0.0.1:$SSH_PORT$SSH_PATH
		OPTIONS=$(ssh_options)
		;;
	*) bail "no such engine: $1" ;;
	esac
}

# mount_volume SOURCE DIR OPTIONS [ARGS…]: `cvol mount`, unmounted again at the end of the test.
mount_volume() {
	local source=$1 dir=$2 options=$3
	shift 3
	mkdir -p "$dir"
	[ -x "$CVOL" ] || bail "$CVOL is not built"
	timeout "${MOUNT_LIMIT:-40}" "$CVOL" mount "$source" "$dir" ${options:+-o "$options"} "$@" || return
	defer unmount_volume "$dir"
}

unmount_volume() {
	is_mounted "$1" || return 0
	timeout 20 "$CVOL" unmount "$1" && return 0
	umount -l "$1"
	return 1
}

# raw_options: what start_engine has set, as the Opts of Create.
raw_options() {
	jq -nc --arg s "$SOURCE" --arg o "$OPTIONS" --arg m "${MNT_PORT:-}" '{source: $s}
		+ ($o / "," | map(select(. != "") / "=" | {(.[0]): (.[1:] | join("="))}) | add // {})
		+ (if ($s | startswith("nfs://")) and ($o | contains("version=4") | not) then {mountport: $m} else {} end)'
}

# mount_it VOLUME OPTIONS: through the daemon, for the user $ID. Sets p, the mountpoint.
mount_it() {
	raw_ok Create "{\"Name\":\"$1\",\"Opts\":$2}" >/dev/null || bail "create $1"
	p=$(raw_ok Mount "{\"Name\":\"$1\",\"ID\":\"$ID\"}" | jq -r .Mountpoint)
	is_mounted "$p" || bail "mount $1"
}

# mount_with_writers ENGINE…: a volume of that name each, with a number_writer on it until $T/tmp/stop
# exists. Sets the arrays dirs (of the servers) and writers, by ENGINE.
mount_with_writers() {
	local engine
	declare -gA dirs=() writers=()
	for engine in $(engines "$@"); do
		start_engine "$engine"
		mount_it "$engine" "$(raw_options)"
		dirs[$engine]=$SERVER_DIR
		number_writer "$engine" "$p/numbers-$engine" "$T/tmp/stop"
		writers[$engine]=$WRITER
	done
}

# need_slow_calls: sets PYTHON, and SLOW, which delays a server's system calls (tests/tools/slow-calls.c).
need_slow_calls() {
	PYTHON=/usr/bin/python3
	[ -x "$PYTHON" ] || bail_skip "no python3"
	SLOW=$BUILD/tests/slow-calls.so
	[ -e "$SLOW" ] || bail "$SLOW is not built"
}

# start_slow_engine ENGINE: with a server whose calls can be delayed, by $T/slow (tests/tools/slow-calls.c).
start_slow_engine() {
	export LD_PRELOAD=$SLOW SLOW_CALLS=$T/slow SLOW_CALLS_IN=$SRV
	start_engine "$1"
	unset LD_PRELOAD SLOW_CALLS SLOW_CALLS_IN
}

# start_beat DIR: a process that asks DIR's server something all the time, and counts. Sets BEAT.
start_beat() {
	: >"$T/tmp/failures"
	: >"$T/tmp/count"
	rm -f "$T/tmp/stop"
	(
		i=0
		until [ -e "$T/tmp/stop" ]; do
			echo "$i" >"$1/beat" || echo failed >>"$T/tmp/failures"
			i=$((i + 1))
			echo "$i" >"$T/tmp/count"
		done
	) &
	BEAT=$!
}
stop_beat() {
	touch "$T/tmp/stop"
	wait_gone 40 "$BEAT"
}
beats() {
	cat "$T/tmp/count" 2>/dev/null || echo 0
}
goes_on() { # BEATS
	[ "$(beats)" -gt "$1" ]
}
# back_within NAME MS: the beat goes on; how long that took is said, and bounded with room for a loaded
# machine.
back_within() {
	local start now=$(($(beats) + 1))
	start=$(now_ms)
	check "$1: the volume goes on" wait_for 30 goes_on "$now"
	note "$1: after $(($(now_ms) - start)) ms"
	check "$1: soon" test $(($(now_ms) - start)) -le "$2"
}

# number_writer NAME FILE STOP: writes numbers that tell whether one is missing, until STOP exists. Sets
# WRITER.
number_writer() {
	[ -x /usr/bin/python3 ] || bail_skip "no python3"
	cat >"$T/tmp/writer.py" <<'END'
import os, sys
path, stop = sys.argv[1:]
i = 0
while not os.path.exists(stop):
    with open(path, "a") as f:
        for _ in range(100):
            f.write("%d\n" % i)
            i += 1
    os.stat(path)
print("wrote", i)
END
	spawn "writer-$1" /usr/bin/python3 "$T/tmp/writer.py" "$2" "$3"
	WRITER=$SPAWNED
}

# check_numbers NAME PID FILE: its writer ends without an error, and the server has every byte.
check_numbers() {
	check "$1: its writer goes on" wait_gone 20 "$2"
	check_match "$1: without an error" '^wrote [0-9]+$' "$(cat "$T/log/writer-$1.log")"
	seq 0 $(($(sed 's/wrote //' "$T/log/writer-$1.log") - 1)) >"$T/tmp/expected"
	check "$1: and with every byte" cmp "$T/tmp/expected" "$3"
}

# ---------------------------------------------------------------- delay proxy

# start_proxy NAME TARGET_PORT [OPTIONS…]: sets PROXY_PORT; commands by proxy_cmd NAME COMMAND…
start_proxy() {
	local name=$1 target=$2
	shift 2
	[ -x "$PROXY" ] || bail "$PROXY is not built"
	PROXY_PORT=$(free_port)
	spawn "proxy-$name" "$PROXY" -c "$T/proxy-$name.sock" "$@" "$PROXY_PORT" "$target"
	defer stop_pid "$SPAWNED"
	wait_for 5 port_open "$PROXY_PORT" || bail "the relay did not start"
}

proxy_cmd() {
	local name=$1
	shift
	timeout 5 "$PROXY" -x "$T/proxy-$name.sock" "$*"
}
