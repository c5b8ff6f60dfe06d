#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# docs/recipes.md: its shell blocks are run line by line, its Compose and containers.conf files are
# used, with the names of this sandbox in place of the page's.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

page=$TOP/docs/recipes.md
cp /etc/hosts "$T/etc-hosts"
echo "127.0.0.1 nas" >>"$T/etc-hosts"
mount --bind "$T/etc-hosts" /etc/hosts || bail "cannot name the server"
start_sshd 22
echo "nas $(cut -d' ' -f 1,2 "$T/ssh/host_ed25519.pub")" >>"$SSH_KNOWN_HOSTS"
start_ganesha
start_cvol
# Swarm does not want what the other tests do.
start_dockerd --live-restore=false
import_images || bail "docker import"
mkdir -p "$NFS_ROOT"/{media,www,db,homes} "$SSH_ROOT/data" "$T/mnt"
chmod 1777 "$NFS_ROOT/media"
chown 12345:12345 "$SSH_ROOT/data"

# ours: the page's names to those of the sandbox.
ours() {
	sed -E -e "s,/export/,$NFS_ROOT/,g; s,/srv/data,$SSH_ROOT/data,g; s,backup@,tester@,g; s,=backup ,=tester ,g" \
		-e "s,/etc/cvol/id_ed25519,$SSH_KEY,g; s,/etc/cvol/known_hosts,$SSH_KNOWN_HOSTS,g" \
		-e "s,/run/docker/plugins/cvol.sock,$PLUGIN_SOCK,g; s,/mnt(/| |\$),$T/mnt\1,g" \
		-e "s,([ ]|image: )(alpine|nginx)( |\$),\1cvol-test\3,g"
}

# blocks SECTION KIND: the fenced blocks of that kind under that heading.
blocks() {
	awk -v section="## $1" -v fence='```'"$2" '
		/^## / { here = $0 == section }
		on && /^```$/ { on = 0 }
		on { print }
		here && $0 == fence { on = 1 }' "$page"
}

# The commands of the page, as these shells know them.
cvol() {
	"$CVOL" "$@"
}
docker() {
	if [ "$1 $2" = "service create" ]; then
		# There is no bridge here; and the caller looks at the service itself.
		shift 2
		set -- service create --network host --detach "$@"
	fi
	command docker "$@"
}

# run_section SECTION: every line of its sh blocks.
run_section() {
	local line lines
	mapfile -t lines < <(blocks "$1" sh | ours)
	[ "${#lines[@]}" -gt 0 ] || not_ok "$1: has commands"
	for line in "${lines[@]}"; do
		# shellcheck disable=SC2294
		check "$1: ${line:0:100}" eval "$line"
	done
}

# ---- Compose: what Compose makes of the file is a create for each volume, with its driver_opts.
compose=$(blocks Compose yaml | ours)
check_match "Compose: there is a file" 'driver: cvol' "$compose"
for volume in www uploads; do
	mapfile -t args < <(awk -v volume="  $volume:" '
		/^  [a-z]/ { here = $0 == volume }
		here && /^      [a-z_]+: / {
			sub(/^ */, ""); i = index($0, ": "); v = substr($0, i + 2); gsub(/^"|"$/, "", v)
			print "-o"; print substr($0, 1, i - 1) "=" v
		}' <<<"$compose")
	check "Compose: $volume: create" d volume create -d cvol "${args[@]}" "project_$volume"
done
check "Compose: the second volume can be written" d run --rm -v project_uploads:/d:nocopy cvol-test sh -c 'echo up >/d/up'
check_equal "Compose: the server has it" up "$(cat "$SSH_ROOT/data/up")"
check_fails "Compose: the first is read-only" d run --rm -v project_www:/d:nocopy cvol-test touch /d/x
check "Compose: down -v" d volume rm project_www project_uploads

# ---- Podman
if command -v podman >/dev/null && command -v runc >/dev/null; then
	cat >"$T/containers.conf" <<-END
		[containers]
		netns = "none"
		[engine]
		runtime = "runc"
		cgroup_manager = "cgroupfs"
		events_logger = "file"
		$(blocks Podman toml | ours)
	END
	export CONTAINERS_CONF=$T/containers.conf
	podman() {
		local command=$1
		shift
		[ "$command" != run ] || set -- --network none --cgroup-parent "/$(basename "$T")" "$@"
		env -u DOCKER_CONFIG podman --root "$T/podman" --runroot /run/podman --storage-driver vfs "$command" "$@"
	}
	if tar -C "$T/image" -c . | podman import - cvol-test >"$T/tmp/podman" 2>&1 &&
		podman run --rm cvol-test true >"$T/tmp/podman" 2>&1; then
		run_section Podman
		check_equal "Podman: the server has it" hello "$(cat "$NFS_ROOT/media/from-podman")"
	else
		skip "Podman" "podman run does not work here: $(tail -n 1 "$T/tmp/podman")"
	fi
else
	skip "Podman" "podman or runc is not installed"
fi

# ---- Databases, owners, other drivers
have_sqlite=$(command -v sqlite3)
[ -n "$have_sqlite" ] || sqlite3() {
	echo "sqlite3 is not installed"
}
run_section Databases
check_equal "Databases: the directory is the database's own" 70:700 "$(stat -c %u:%a "$NFS_ROOT/db/orders")"
if [ -n "$have_sqlite" ]; then
	check_equal "Databases: the server has the row" 42 "$(sqlite3 "$NFS_ROOT/db/app.db" 'SELECT x FROM t')"
else
	skip "Databases: SQLite" "sqlite3 is not installed"
fi
run_section "Root squash, and whose files they are"
check_equal "NFS: the file is the caller's" 1000:1000 "$(stat -c %u:%g "$NFS_ROOT/media/mine")"
check_equal "SSH: the file is the login user's" 12345:12345 "$(stat -c %u:%g "$SSH_ROOT/data/new")"
check_equal "a directory for each volume" "1000:750 hi" "$(stat -c %u:%a "$NFS_ROOT/homes/alice") $(cat "$NFS_ROOT/homes/alice/hello")"
run_section "Coming from another driver"

# ---- Swarm, last: it changes the daemon
if timeout 60 docker swarm init --advertise-addr 192.0.2.1 >"$T/tmp/swarm" 2>&1; then
	mapfile -t lines < <(blocks Swarm sh | ours)
	running() {
		[ "$(docker service ps --format '{{.CurrentState}}' web | cut -d ' ' -f 1)" = Running ]
	}
	check "Swarm: ${lines[0]}" eval "${lines[0]}"
	check "Swarm: ${lines[1]:0:100}" eval "${lines[1]}"
	check "Swarm: the task runs" wait_for 40 running
	check_match "Swarm: with a volume of cvol's" 'cvol +www' "$(docker volume ls)"
	check "Swarm: ${lines[2]}" eval "${lines[2]}"
	unused() {
		docker volume rm www
	}
	check "Swarm: the volume stays until it is removed" wait_for 40 unused
	timeout 30 docker swarm leave --force >/dev/null 2>&1
else
	skip "Swarm" "docker swarm init does not work here: $(tail -n 1 "$T/tmp/swarm")"
fi
check "no mount and no worker is left" wait_nothing_left 20
finish
