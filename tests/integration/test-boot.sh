#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# The host boots: the network comes late, the server later, DNS fails at first. Containers with
# `restart: always` come up all the same, and `docker volume inspect` says what is waited for.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

unshare --time true 2>/dev/null || bail_skip "this kernel has no time namespaces, which boot the host here"
PODMAN=2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2
ID=$(printf 'a%.0s' {1..64})

# The server is another host: a network namespace at the end of a cable that can be pulled.
mkdir -p /run/netns
ip netns add far || bail_skip "no network namespaces"
ip link add near0 type veth peer name far0 netns far || bail_skip "no veth"
ip addr add 198.51.100.1/24 dev near0
ip -n far addr add 198.51.100.2/24 dev far0
ip -n far link set far0 up
ip -n far link set lo up
plug() {
	ip link set near0 up
}
pull() {
	ip link set near0 down
}
plug
start_sshd # for its keys and configuration
stop_sshd
sed -e 's/^ListenAddress .*/ListenAddress 0.0.0.0/' "$T/ssh/sshd_config" >"$T/ssh/far_config"
start_far() {
	spawn sshd ip netns exec far /usr/sbin/sshd -D -e -f "$T/ssh/far_config"
	SSHD_PID=$SPAWNED
	wait_for 10 sh -c "exec 3<>/dev/tcp/198.51.100.2/$SSH_PORT" 2>/dev/null ||
		wait_for 10 bash -c "exec 3<>/dev/tcp/198.51.100.2/$SSH_PORT" || bail "sshd did not start"
}
start_far
{
	sed "s/^\[127.0.0.1\]/[198.51.100.2]/" "$SSH_KNOWN_HOSTS"
	sed "s/^\[127.0.0.1\]/[far.test]/" "$SSH_KNOWN_HOSTS"
} >"$T/ssh/known_far"
mkdir -p "$SSH_ROOT/data"
# A resolver that is not there, and our own hosts file.
cp /etc/hosts "$T/hosts.before"
cp /etc/hosts "$T/hosts"
echo "nameserver 198.51.100.2" >"$T/resolv.conf"
mount --bind "$T/hosts" /etc/hosts
mount --bind "$T/resolv.conf" /etc/resolv.conf

# boot [ARGS…]: cvol on a host that is up for a minute, with nothing in /run.
UP=$(cut -d . -f 1 /proc/uptime)
REAL=$CVOL
cat >"$T/cvol-at-boot" <<-END
	#!/bin/sh
	exec unshare --time --boottime=-\$((\$(cut -d . -f 1 /proc/uptime) - 60)) $REAL "\$@"
END
chmod +x "$T/cvol-at-boot"
[ "$UP" -gt 120 ] || sed -i 's/^exec unshare.*[0-9]))/exec/' "$T/cvol-at-boot"
boot() {
	[ -z "${RUN_DIR:-}" ] || remove_tree "$RUN_DIR"
	CVOL=$T/cvol-at-boot
	start_cvol "$@"
	CVOL=$REAL
}
shut_down() {
	stop_dockerd
	stop_cvol
}
state_of() { # VOLUME
	raw Get "{\"Name\":\"$1\"}" | jq -r .Volume.Status.state
}
error_of() {
	raw Get "{\"Name\":\"$1\"}" | jq -r .Volume.Status.last_error
}
in_state() { # VOLUME STATE
	[ "$(state_of "$1")" = "$2" ]
}
grows() { # FILE: within ten seconds
	local before
	before=$(stat -c %s "$1") || return
	wait_for 10 sh -c "[ \$(stat -c %s '$1') -gt $before ]"
}
create() { # NAME HOST
	d volume create -d cvol -o "source=sftp://root@$2:$SSH_PORT$SSH_ROOT/data" -o "key_file=$SSH_KEY" \
		-o "known_hosts=$T/ssh/known_far" -o mount_timeout=3s "$1" >/dev/null || bail "volume create"
}
# dockerd is not ready before its containers are: it is started in the background.
start_dockerd_soon() {
	spawn_dockerd "$STORAGE_DRIVER" --live-restore=false
}
comes_up() { # NAME
	check "$1: dockerd is ready" wait_for 60 docker_answers
	check "$1: the container writes" grows "$SSH_ROOT/data/log"
}

start_cvol
start_dockerd --live-restore=false
import_images || bail "docker import"
create by-address 198.51.100.2
d run -d --name svc --restart always -v by-address:/data cvol-test \
	sh -c 'while true; do echo x >>/data/log; sleep 0.1; done' >/dev/null || bail "docker run"
check "a container that always restarts writes" wait_for 10 test -s "$SSH_ROOT/data/log"

# ---- the network is late
shut_down
pull
boot
start_dockerd_soon
check "network late: the volume waits" wait_for 20 in_state by-address waiting
check_match "network late: inspect says for what, and for how long" "198.51.100.2.*(nreachable|No route).*trying again for another [0-9]+ s" "$(error_of by-address)"
check "network late: other volumes do not wait" raw_ok Create '{"Name":"local"}'
check "network late: and mount" raw_ok Mount "{\"Name\":\"local\",\"ID\":\"$ID\"}"
raw_ok Unmount "{\"Name\":\"local\",\"ID\":\"$ID\"}" >/dev/null
plug
comes_up "network late"
check_equal "network late: no error is left" "" "$(error_of by-address)"

# ---- the server is later
shut_down
stop_sshd
boot
start_dockerd_soon
check "server late: the volume waits" wait_for 20 in_state by-address waiting
check_match "server late: inspect says for what" "Connection refused.*trying again" "$(error_of by-address)"
sleep 2
start_far
comes_up "server late"

# ---- DNS fails at first
d rm -f svc >/dev/null
echo "198.51.100.2 far.test" >>"$T/hosts"
create by-name far.test
d run -d --name svc --restart always -v by-name:/data cvol-test \
	sh -c 'while true; do echo x >>/data/log; sleep 0.1; done' >/dev/null || bail "docker run"
shut_down
cat "$T/hosts.before" >"$T/hosts" # not replaced: it is bound over the real one
boot
start_dockerd_soon
check "DNS late: the volume waits" wait_for 30 in_state by-name waiting
check_match "DNS late: inspect says for what" "far.test.*trying again" "$(error_of by-name)"
echo "198.51.100.2 far.test" >>"$T/hosts"
comes_up "DNS late"

# ---- later than anybody waits: then in the background
d rm -f svc >/dev/null
shut_down
stop_sshd
boot --boot-wait 5
check_fails "too late: Mount says so when its time is over" raw_ok Mount "{\"Name\":\"by-address\",\"ID\":\"$ID\"}"
check_match "too late: with the number of attempts" "Connection refused.*tried [0-9]+ times" "$OUT"
check_equal "too late: inspect shows that cvol goes on" waiting "$(state_of by-address)"
check "too late: nothing is mounted" nothing_left
start_far
check "too late: the volume is ready when the server is" wait_for 30 in_state by-address ok
check "too late: the next Mount has it" raw_ok Mount "{\"Name\":\"by-address\",\"ID\":\"$ID\"}"
check "too late: Unmount" raw_ok Unmount "{\"Name\":\"by-address\",\"ID\":\"$ID\"}"
check "too late: nothing is left" wait_nothing_left 10
stop_sshd
check_fails "gone again: Mount fails" raw_ok Mount "{\"Name\":\"by-address\",\"ID\":\"$ID\"}"
check "gone again: Remove while cvol goes on trying" raw_ok Remove '{"Name":"by-address"}'
stop_cvol
check "stopping does not wait for attempts in the background" test ! -S "$PLUGIN_SOCK"

# ---- any day: who makes a mistake hears of it at once; Podman's five seconds
start_cvol
raw_ok Create "{\"Name\":\"typo\",\"Opts\":{\"source\":\"sftp://root@198.51.100.2:$SSH_PORT/x\",\"key_file\":\"$SSH_KEY\",\"known_hosts\":\"$T/ssh/known_far\"}}" >/dev/null
check_fails "any day: a volume that never worked fails" raw_ok Mount "{\"Name\":\"typo\",\"ID\":\"$ID\"}"
check_absent "any day: at the first attempt" "times)" "$OUT"
check_equal "any day: and is not tried again" idle "$(state_of typo)"
pull
check_fails "Podman: an unreachable server fails" raw_ok Mount "{\"Name\":\"typo\",\"ID\":\"$PODMAN\"}"
check_equal "Podman: is tried again in the background" waiting "$(state_of typo)"
raw_ok Remove '{"Name":"typo"}' >/dev/null
check "nothing is left" wait_nothing_left 10
finish
