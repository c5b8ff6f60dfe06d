#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the packages of the given groups of packages.txt that are missing; does nothing, and
# needs neither root nor network, when none is. Usage: tests/deps.sh GROUP...
#
# Freshly installed servers are kept from starting: the tests run private copies, nobody asked for
# a system-wide dockerd or NFS server now.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

wanted=()
for group in "$@"; do
	while read -r g name; do
		[ "$g" = "$group" ] && wanted+=("$name")
	done < <(grep -v '^#' "$here/packages.txt")
done

missing=()
for name in "${wanted[@]}"; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)
	[ "$status" = installed ] || missing+=("$name")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "deps: no apt-get here; please install what corresponds to: ${missing[*]}" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "deps: missing packages; please run: sudo apt-get install ${missing[*]}" >&2
	exit 1
fi

policy=/usr/sbin/policy-rc.d
made_policy=
unpolicy() {
	[ -z "$made_policy" ] || rm -f "$policy"
}
trap unpolicy EXIT
trap 'exit 130' INT TERM
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	made_policy=1
fi

echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
echo "deps: done (newly installed servers were not started)"
