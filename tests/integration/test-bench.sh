#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 240
# The benchmark harness: numbers of a client that loses data would be worthless, so it has to notice.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

for program in python3 git fio; do
	command -v "$program" >/dev/null || bail_skip "$program is not installed"
done
python=/usr/bin/python3
[ -x "$python" ] || python=python3
# The relays and drop_caches need what a benchmark run has; everything else is a directory.
export T BUILD
timeout 200 "$python" "$LIB_DIR/bench/selftest.py"
