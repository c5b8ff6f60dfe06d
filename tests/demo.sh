#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make demo: cvol with the real Docker engine, a real NFS server and a real SSH server, from nothing
# to shared data and back to nothing. Installs missing Debian packages (needs root), builds, and does
# everything else in a sandbox (tests/lib.sh): no server, mount, container or file stays behind.
set -u
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ -z "${CVOL_SANDBOX:-}" ]; then
	if [ "$(id -u)" -ne 0 ]; then
		echo "The demo mounts file systems and starts containers, so it needs root: sudo make demo" >&2
		exit 1
	fi
	cat <<-END
		cvol demo. This takes some seconds, minutes when packages have to be installed first.

		 1. Packages: a C compiler, the libraries, and for this demo sshd, an NFS server and Docker.
	END
	"$LIB_DIR/deps.sh" build run || exit 1
	echo " 2. Building cvol (make)."
	if ! make -C "$TOP" --no-print-directory -s -j"$(nproc)" all BUILD="$BUILD" >/tmp/cvol-demo-build.$$ 2>&1; then
		tail -n 40 /tmp/cvol-demo-build.$$
		rm -f /tmp/cvol-demo-build.$$
		exit 1
	fi
	rm -f /tmp/cvol-demo-build.$$
	sandbox "$@"
	exit 1 # not reached: sandbox ends this half
fi

sandbox "$@"

STEP=2
step() {
	STEP=$((STEP + 1))
	printf '\n%2d. %s\n' "$STEP" "$*"
}

failed() {
	printf '\nThe demo failed in step %d: %s\n' "$STEP" "$*"
	exit 1
}

# Prints a command the way one would type it, runs it, shows what it prints. The arguments are shown
# in single quotes only where a shell would need them.
run() {
	local word line=
	for word in "$@"; do
		case $word in
		*[!A-Za-z0-9_./:=@,-]*) line+=" '$word'" ;;
		*) line+=" $word" ;;
		esac
	done
	printf '    $%s\n' "$line"
	bounded "$@" || {
		printf '%s\n' "$OUT" | sed 's/^/      /'
		failed "the command above ended with an error"
	}
	[ -z "$OUT" ] || printf '%s\n' "$OUT" | sed 's/^/      /'
}

# The output of the last command must contain this.
expect() {
	[[ $OUT == *"$1"* ]] || failed "'$1' was expected"
}

LIMIT=90 # seconds for one command; read by bounded()

step "Throw-away servers, in a private corner of this machine (own network, own /run):"
start_sshd
echo "    an SSH server on 127.0.0.1:$SSH_PORT, serving $SSH_ROOT"
start_ganesha
echo "    an NFS server on 127.0.0.1, exporting $NFS_ROOT"
start_dockerd
import_images || failed "could not make the container image"
echo "    a Docker engine of its own (so your containers, if any, are not touched),"
echo "    and in it a tiny image, cvol-test, made from the busybox program"

step "The plugin. Docker finds it by its socket in /run/docker/plugins:"
echo "    \$ cvol daemon &"
start_cvol
run docker volume ls

step "A volume on the NFS server:"
run docker volume create -d cvol -o "source=nfs://127.0.0.1$NFS_EXPORT" photos

step "A volume on the SSH server. The host key is checked, the private key stays in its file:"
run docker volume create -d cvol -o "source=sftp://root@127.0.0.1:$SSH_PORT$SSH_ROOT" \
	-o "key_file=$SSH_KEY" -o "known_hosts=$SSH_KNOWN_HOSTS" letters

step "Docker knows both:"
run docker volume ls
expect photos
expect letters

step "Two containers share them. The first one stays, and writes a note into each volume:"
run docker run -d --name writer -v photos:/photos -v letters:/letters cvol-test \
	sh -c 'echo "a photo from the writer" >/photos/one; echo "a letter from the writer" >/letters/one; sleep 600'
for f in "$NFS_ROOT/one" "$SSH_ROOT/one"; do
	wait_for 20 test -s "$f" || failed "$f did not appear on the server"
done

step "The second one, at the same time, reads the notes and adds its own:"
run docker run --rm -v photos:/photos -v letters:/letters cvol-test \
	sh -c 'cat /photos/one /letters/one; echo "a photo from the reader" >/photos/two; echo "a letter from the reader" >/letters/two'
expect "a photo from the writer"
expect "a letter from the writer"

step "And the first one, still running, sees them:"
run docker exec writer sh -c 'cat /photos/two /letters/two'
expect "a photo from the reader"
expect "a letter from the reader"

step "Both containers are removed:"
run docker rm -f writer
run docker ps -a

step "A third container finds everything still there:"
run docker run --rm -v photos:/photos -v letters:/letters cvol-test \
	sh -c 'cat /photos/one /photos/two /letters/one /letters/two'
expect "a photo from the writer"
expect "a letter from the reader"

step "Because it is on the servers, as plain files (these are the servers' own directories):"
run cat "$NFS_ROOT/one" "$NFS_ROOT/two"
expect "a photo from the reader"
run cat "$SSH_ROOT/one" "$SSH_ROOT/two"
expect "a letter from the reader"

step "Removing the volumes removes them from Docker, not the data:"
run docker volume rm photos letters
run ls "$NFS_ROOT" "$SSH_ROOT"
expect one

step "Cleaning up: the plugin, Docker and the servers are stopped, the folder is removed."
stop_cvol
wait_nothing_left 10 || failed "something was left behind"
printf '\nThe demo worked. Next: README.md shows the same with your own server.\n'
