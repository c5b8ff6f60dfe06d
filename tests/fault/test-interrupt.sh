#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# Whatever a process waits for on a server that hangs: SIGKILL ends it within two seconds, and the
# mount works on when the server is back.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

for engine in $(engines sftp nfs); do
	start_engine "$engine"
	if [ "$engine" = sftp ]; then
		start_proxy sftp "$SSH_PORT"
		write_known_hosts "$T/ssh/known_proxy" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
		source=sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT
		options=key_file=$SSH_KEY,known_hosts=$T/ssh/known_proxy
	else
		start_proxy nfs "$NFS_PORT"
		source=nfs://127.0.0.1:$PROXY_PORT$NFS_EXPORT
		options=mountport=$MNT_PORT
	fi
	m=$T/mnt-$engine
	# A directory for each: the kernel itself lets nobody into a directory, not even to die, while
	# somebody else's change of it waits for the server.
	head -c 20000000 /dev/urandom >"$SERVER_DIR/big"
	mkdir "$SERVER_DIR"/{stat,list,create,rename,unlink}
	touch "$SERVER_DIR"/{list,rename,unlink}/{a,b,c}
	mount_volume "$source" "$m" "$options" || bail "mount"
	exec 8>"$m/open"
	ls -l "$m"/{stat,create,rename,unlink} >/dev/null

	proxy_cmd "$engine" hole
	# Without descriptor 8, but for who writes to it: whoever has it waits at his end for what was written.
	pids=()
	names=(stat read readdir create "write and fsync" rename unlink)
	stat "$m/stat/none" >/dev/null 2>&1 8>&- &
	pids+=($!)
	cat "$m/big" >/dev/null 2>&1 8>&- &
	pids+=($!)
	ls "$m/list/" >/dev/null 2>&1 8>&- &
	pids+=($!)
	touch "$m/create/new" >/dev/null 2>&1 8>&- &
	pids+=($!)
	dd if=/dev/zero bs=64k count=4 conv=fsync of=/dev/fd/8 >/dev/null 2>&1 &
	pids+=($!)
	mv "$m/rename/a" "$m/rename/z" >/dev/null 2>&1 8>&- &
	pids+=($!)
	rm -f "$m/unlink/b" >/dev/null 2>&1 8>&- &
	pids+=($!)
	sleep 1.5
	for i in "${!pids[@]}"; do
		check "$engine: hung: ${names[i]} waits" alive "${pids[i]}"
		kill -KILL "${pids[i]}" 2>/dev/null
		check "$engine: hung: ${names[i]} dies on SIGKILL" wait_gone 10 "${pids[i]}"
	done
	proxy_cmd "$engine" resume
	check "$engine: back: the mount works" wait_for 40 timeout 5 cmp "$SERVER_DIR/big" "$m/big"
	check "$engine: back: writing works" timeout 20 sh -c "echo x >'$m/after' && grep -qx x '$m/after'"
	exec 8>&-
	check "$engine: unmount" unmount_volume "$m"
	check "$engine: nothing is left" wait_nothing_left 10
done
finish
