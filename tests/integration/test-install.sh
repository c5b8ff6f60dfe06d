#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 180
# make install: what lands where, that the installed programs find each other, and make uninstall.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

command -v cc >/dev/null || bail_skip "no compiler"
# In a copy of the build: another PREFIX compiles one file anew, which is not this build's business.
mkdir "$T/build"
cp -a "$BUILD/obj" "$BUILD/cvol" "$BUILD/cvol-fuse" "$T/build" || bail "cannot copy the build"
mk() {
	make -s -C "$TOP" BUILD="$T/build" PREFIX="$T/prefix" "$@"
}
check "make install" mk install SYSTEMDDIR="$T/prefix/units"
check "the program" test -x "$T/prefix/bin/cvol"
check "the worker" test -x "$T/prefix/libexec/cvol/cvol-fuse"
check "the units" test -s "$T/prefix/units/cvol.service" -a -s "$T/prefix/units/cvol.socket"
check "the unit names the installed program" grep -q "^ExecStart=$T/prefix/bin/cvol daemon" "$T/prefix/units/cvol.service"
check "completions of bash, zsh and fish" sh -c "cd '$T/prefix/share' &&
	bash -n bash-completion/completions/cvol && test -s zsh/site-functions/_cvol && test -s fish/vendor_completions.d/cvol.fish"
check "no placeholder is left" sh -c "! grep -r '@[A-Z]*@' '$T/prefix/units' '$T/prefix/share'"
check_match "the installed completion asks the installed program" "status" \
	"$(PATH=$T/prefix/bin:$PATH "$T/prefix/libexec/cvol/complete" st)"
start_engine dir
mkdir -p "$T/mnt"
check "the installed program mounts" timeout 30 "$T/prefix/bin/cvol" mount "$SOURCE" "$T/mnt"
check "and works" sh -c "echo x >'$T/mnt/x'"
check "and unmounts" timeout 30 "$T/prefix/bin/cvol" unmount "$T/mnt"
check "nothing is left" wait_nothing_left 10
check "DESTDIR" mk install DESTDIR="$T/dest" SYSTEMDDIR=/units
check "DESTDIR is a prefix of everything" test -x "$T/dest$T/prefix/bin/cvol" -a -s "$T/dest/units/cvol.service"
check "make uninstall" mk uninstall SYSTEMDDIR="$T/prefix/units"
check_equal "leaves no file" "" "$(find "$T/prefix" -type f)"
finish
