#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 300
# Workers are killed at random moments, also while they take over, under a storm of changes of names and
# files, and under fio, which verifies what it wrote. Nobody gets an error, nothing is wrong, nothing is
# left. Requests that a worker had begun when it died must be among those that were repeated, else the
# test would prove nothing. SEED=N repeats the moments; FAULT_SCALE=N makes it N times as long.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

STORM=${BUILD:-build}/tests/storm
[ -x "$STORM" ] || bail "$STORM is not built"
command -v fio >/dev/null || bail_skip "no fio"
fault_seed
ID=$(printf 'a%.0s' {1..64})
SECONDS_EACH=$((10 * FAULT_SCALE))
start_cvol

took_over() {
	grep 'took over: ' "$T/log/cvol.log" | tail -n "+$((1 + $1))"
}

declare -A PAUSE=([dir]=200 [nfs]=300 [nfs4]=300 [nfs40]=300 [sftp]=700 [sftp-far]=1500) # longest time between two kills
for engine in $(engines dir nfs nfs4 nfs40 sftp sftp-far); do
	start_engine "$engine"
	mount_it "v-$engine" "$(raw_options)"
	before=$(took_over 0 | wc -l)
	mkdir "$p/storm" "$p/fio"
	timeout $((SECONDS_EACH * 4 + 60)) "$STORM" "$p/storm" "$SECONDS_EACH" 4 "$SEED" >"$T/tmp/storm.$engine" 2>&1 &
	storm=$!
	timeout $((SECONDS_EACH * 4 + 60)) fio --name=verify --verify_state_save=0 --directory="$p/fio" --numjobs=5 --size=4m --rw=randrw --bsrange=4k-256k \
		--verify=crc32c --verify_fatal=1 --fsync=32 --loops=100 --time_based --runtime="$SECONDS_EACH" \
		--randseed="$SEED" --group_reporting >"$T/tmp/fio.$engine" 2>&1 &
	fio=$!
	kills=0
	while alive "$storm" || alive "$fio"; do
		random_sleep "${PAUSE[$engine]}"
		worker=$(cvol_workers | head -n 1)
		[ -z "$worker" ] || ! kill -KILL "$worker" 2>/dev/null || kills=$((kills + 1))
	done
	wait "$storm"
	check_equal "$engine: the storm saw no error and nothing wrong" 0 $?
	note "$engine: $(tail -n 1 "$T/tmp/storm.$engine")"
	wait "$fio"
	check_equal "$engine: fio read what it had written" 0 $?
	[ "$(grep -c . "$T/tmp/storm.$engine")" = 1 ] || sed "s/^/# storm: /" "$T/tmp/storm.$engine" | head -n 12
	repeated=$(took_over "$before" | sed 's/.* \([0-9]*\) requests repeated.*/\1/' | awk '{ n += $1 } END { print n + 0 }')
	pauses=$(took_over "$before" | sed 's/.* \([0-9]*\) ms$/\1/' | sort -n |
		awk '{ a[NR] = $1 } END { print "median " a[int((NR + 1) / 2)] ", 99 % " a[int(NR * 0.99 + 0.5)] ", longest " a[NR] " ms" }')
	note "$engine: $kills kills, $repeated begun requests repeated, a successor was ready after: $pauses"
	check "$engine: workers were killed" test "$kills" -gt 5
	check "$engine: begun requests were repeated" test "$repeated" -gt 0
	rm -rf "$p/fio"
	rmdir "$p/storm"
	check "$engine: nothing is left on the server" wait_for 5 sh -c '[ -z "$(ls -A "$1")" ]' sh "$SERVER_DIR"
	check "$engine: Unmount" raw_ok Unmount "{\"Name\":\"v-$engine\",\"ID\":\"$ID\"}"
	check "$engine: nothing is left here" wait_nothing_left 20
done
finish
