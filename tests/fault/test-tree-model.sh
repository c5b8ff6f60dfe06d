#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# Connections are reset, then workers killed, too, at random moments under random operations on trees of files,
# many of them open, which are compared with a model: no error, nothing lost, nothing wrong. SEED=N
# repeats the moments; FAULT_SCALE=N makes it N times as long.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

MODEL=$(dirname "$0")/../tools/tree-model
fault_seed
ID=$(printf 'a%.0s' {1..64})
SECONDS_EACH=$((16 * FAULT_SCALE))
start_cvol

declare -A PAUSE=([sftp]=800) # ms between two faults, at most
for engine in $(engines sftp nfs nfs4 nfs40); do
	start_engine "$engine"
	if [ "$engine" = sftp ]; then
		start_proxy sftp "$SSH_PORT"
		SSH_KNOWN_HOSTS=$T/ssh/known_hosts.proxy
		write_known_hosts "$SSH_KNOWN_HOSTS" "$PROXY_PORT" "$T/ssh/host_ed25519.pub"
		SOURCE=sftp://root@127.0.0.1:$PROXY_PORT$SSH_ROOT
		OPTIONS=$(ssh_options)
	else
		start_proxy "$engine" "$NFS_PORT"
		SOURCE=${SOURCE/127.0.0.1/127.0.0.1:$PROXY_PORT}
	fi
	mount_it "v-$engine" "$(raw_options)"
	mkdir "$p/trees"
	args=("$p/trees" "$SECONDS_EACH" 3 "$SEED")
	[ "$engine" != sftp ] || args+=(--no-links) # two names of one file cannot be told to be one
	timeout $((SECONDS_EACH + 100)) "$MODEL" "${args[@]}" >"$T/tmp/model" 2>&1 &
	model=$!
	resets=0 kills=0
	half=$((SECONDS + SECONDS_EACH / 2))
	while alive "$model"; do
		random_sleep "${PAUSE[$engine]:-500}"
		if ((SECONDS < half || RANDOM % 2)); then
			proxy_cmd "$engine" reset
			resets=$((resets + 1))
		else
			worker=$(cvol_workers | head -n 1)
			[ -z "$worker" ] || ! kill -KILL "$worker" 2>/dev/null || kills=$((kills + 1))
		fi
	done
	wait "$model"
	check_equal "$engine: everything as in the model" 0 $?
	note "$engine: $resets resets, $kills kills, $(tail -n 1 "$T/tmp/model")"
	[ "$(grep -c . "$T/tmp/model")" = 1 ] || sed "s/^/# /" "$T/tmp/model" | cut -c 1-600 | head -n 20
	check "$engine: connections were reset and workers killed" test "$resets" -ge 3 -a "$kills" -ge 3
	check "$engine: nothing is left in the trees" rmdir "$p/trees"
	check "$engine: nothing is left on the server" wait_for 5 sh -c '[ -z "$(ls -A "$1")" ]' sh "$SERVER_DIR"
	check "$engine: Unmount" raw_ok Unmount "{\"Name\":\"v-$engine\",\"ID\":\"$ID\"}"
	check "$engine: nothing is left here" wait_nothing_left 20
done
finish
