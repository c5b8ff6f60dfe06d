#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 60
# The manual pages say what the programs say: every command, option and option of volumes, no others. And
# documents refer to files that are there.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

man=$TOP/packaging/man
[ -x "$CVOL" ] || bail "$CVOL is not built"

# plain PAGE: its text without roff's markup.
plain() {
	sed 's/\\-/-/g; s/\\f[BIRP]//g; s/\\(aq/'"'"'/g' "$man/$1"
}
# flags: long options in a text, each once.
flags() {
	grep -oE -- '--[a-z][a-z-]+' | sort -u
}

commands=$("$CVOL" help | awk '/^Commands:/ { on = 1; next } /^[^ ]/ { on = 0 } on && NF { print $1 }')
check_match "help lists commands" 'daemon' "$commands"
missing=
for command in $commands; do
	grep -qE "^\.B cvol $command( |\$)|^\.B cvol \\\\?\$" <(sed 's/\\-/-/g' "$man/cvol.1") || missing+=" $command"
done
check_equal "cvol(1) has every command in its synopsis" "" "$missing"

missing=
for command in $commands; do
	page=cvol.1
	[ "$command" != daemon ] || page=cvol-daemon.8
	for flag in $("$CVOL" "$command" --help | flags); do
		plain "$page" | flags | grep -qxF -- "$flag" || missing+=" $command:$flag"
	done
done
check_equal "every option in --help is in the manual" "" "$missing"

known=$(for command in $commands; do "$CVOL" "$command" --help; done | flags)
surplus=
for flag in $({ plain cvol.1; plain cvol-daemon.8; } | flags); do
	grep -qxF -- "$flag" <<<"$known" || [ "$flag" = --help ] || surplus+=" $flag"
done
check_equal "the manual has no option that is not there" "" "$surplus"

"$man/refresh-options" "$CVOL" "$man/cvol-options.5" >"$T/cvol-options.5"
check "cvol-options(5) lists the options as they are (else: make man-options)" diff "$man/cvol-options.5" "$T/cvol-options.5"
check_match "and that list is not empty" '\.BI source= ' "$(cat "$T/cvol-options.5")"

options=$("$CVOL" options)
names=$(sed -n 's/^\([a-z_]*\)=.*/\1/p' <<<"$options" | sort)
missing=
while read -r name; do
	grep -qx "$name" <<<"$names" || grep -qE "also:.* $name( |\$)" <<<"$options" || missing+=" $name"
done < <(awk -F '|' '/^## / { on = $0 == "## Options" } on && /^\| `/ { print $2 }' "$TOP/README.md" | grep -oE '[a-z_]+')
check_equal "the options in the README's table exist" "" "$missing"

missing=
while IFS=: read -r file link; do
	[ -e "$(dirname "$file")/$link" ] || missing+=" ${file#"$TOP"/}:$link"
done < <(grep -oE '\]\([^):#]+' "$TOP"/*.md "$TOP"/docs/*.md | sed 's/](//')
check_equal "links between documents lead somewhere" "" "$missing"

if command -v groff >/dev/null; then
	for page in "$man"/*.[158]; do
		check_equal "${page##*/} is good roff" "" "$(groff -man -ww -z "$page" 2>&1)"
	done
else
	skip "the pages are good roff" "groff is not installed"
fi
finish
