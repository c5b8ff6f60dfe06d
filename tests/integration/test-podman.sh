#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# The same volumes through Podman: one constant mount ID, no Capabilities, five seconds of patience.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

command -v podman >/dev/null || bail_skip "podman is not installed"
command -v runc >/dev/null || bail_skip "runc is not installed"
mkdir -p "$T/podman"
cat >"$T/containers.conf" <<-END
	[containers]
	netns = "none"
	[engine]
	runtime = "runc"
	cgroup_manager = "cgroupfs"
	events_logger = "file"
	[engine.volume_plugins]
	cvol = "$PLUGIN_SOCK"
END
export CONTAINERS_CONF=$T/containers.conf
p() {
	timeout 40 podman --root "$T/podman/root" --runroot /run/podman --storage-driver vfs "$@"
}
pr() {
	p run --network none --cgroup-parent "/$(basename "$T")" "$@"
}
mkdir -p "$T/image/bin" "$T/image/etc"
cp "$(command -v busybox)" "$T/image/bin/busybox"
for applet in sh cat ls echo sleep true mkdir test; do
	ln -s busybox "$T/image/bin/$applet"
done
tar -C "$T/image" -c . | p import - cvol-test >/dev/null 2>&1 || bail_skip "podman import does not work here"
pr --rm cvol-test true >"$T/tmp/podman" 2>&1 || bail_skip "podman run does not work here: $(tail -n 1 "$T/tmp/podman")"

start_cvol
for engine in $(engines nfs sftp); do
	start_engine "$engine"
	mkdir -p "$SERVER_DIR/pod"
	args=(-o "source=$SOURCE/pod")
	IFS=, read -ra words <<<"$OPTIONS"
	for word in "${words[@]}"; do
		args+=(-o "$word")
	done
	v=pod-$engine
	check "$engine: podman volume create" p volume create --driver cvol "${args[@]}" "$v"
	check "$engine: podman volume ls" p volume ls
	check_match "$engine: ls shows it" "cvol +$v" "$OUT"
	check "$engine: podman volume inspect" p volume inspect "$v"
	check "$engine: podman run writes" pr --rm -v "$v:/data" cvol-test sh -c 'echo pod >/data/x'
	check_equal "$engine: it is on the server when run returns" pod "$(cat "$SERVER_DIR/pod/x")"
	check "$engine: a container stays" pr -d --name "a-$engine" -v "$v:/data" cvol-test sleep 300
	check "$engine: a second one reads and ends" pr --rm -v "$v:/data" cvol-test cat /data/x
	check_equal "$engine: content" pod "$OUT"
	check "$engine: the first one still has its data" p exec "a-$engine" cat /data/x
	check "$engine: rm -f" p rm -f -t 0 "a-$engine"
	check "$engine: no mount and no worker is left" wait_nothing_left 10
	check "$engine: podman volume rm" p volume rm "$v"
	check "$engine: the plugin forgot it" sh -c "! curl -s --unix-socket $PLUGIN_SOCK -d '{}' http://p/VolumeDriver.List | grep -q '\"$v\"'"
	check_equal "$engine: the data stays" pod "$(cat "$SERVER_DIR/pod/x")"
done

# Five seconds are all Podman waits for Mount: a server that hangs must fail sooner, and leave nothing.
start_proxy ssh "$SSH_PORT"
write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
p volume create --driver cvol -o "source=sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT" -o "key_file=$SSH_KEY" \
	-o "known_hosts=$T/ssh/known_proxy" pod-hung >/dev/null 2>&1
proxy_cmd ssh hole
check_fails "a hung server: podman run ends with an error" pr --rm -v pod-hung:/data cvol-test true
proxy_cmd ssh resume
check "a hung server: nothing is left" wait_nothing_left 30
check "when it is back: podman run works" pr --rm -v pod-hung:/data cvol-test true
p volume rm pod-hung >/dev/null 2>&1
finish
