#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# TIME LIMIT: 120
# Completion of cvol's command line: what is offered, and that each shell offers it.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
sandbox "$@"

mkdir -p "$T/bin" "$T/dir one" "$T/completions"
ln -s "$CVOL" "$T/bin/cvol"
PATH=$T/bin:$PATH
complete=$TOP/packaging/completions/complete
for file in cvol.bash _cvol cvol.fish; do
	sed "s,@LIBEXECDIR@,$TOP/packaging/completions,g" "$TOP/packaging/completions/$file" >"$T/completions/$file"
done
start_cvol
check "two volumes" sh -c "'$CVOL' volume create apple && '$CVOL' volume create apricot"

# offers WORD… PREFIX: the candidates, in one line, without what they are.
offers() {
	"$complete" "$@" | cut -f 1 | tr '\n' ' ' | sed 's/ $//'
}

# ---- what is offered
check_equal "every command that help lists" \
	"$("$CVOL" help | awk '/^Commands:/ { on = 1; next } /^[^ ]/ { on = 0 } on && NF { printf "%s%s", s, $1; s = " " }')" \
	"$(offers '')"
check_equal "a command by its beginning" "unmount" "$(offers unm)"
check_match "sub-commands" "^create .*ls .*rm$" "$(offers volume '')"
check_equal "volumes by name" "apple apricot" "$(offers volume inspect ap)"
check_equal "more than one of them" "apricot" "$(offers volume rm apple apr)"
check_equal "no volumes for a new one" "" "$(offers volume create ap)"
check_match "options of a command" '--watch .*--json' "$(offers status --)"
check_match "long and short ones" '-t --timeout' "$(offers check -)"
check_equal "an option by its beginning" "--force" "$(offers unmount --fo)"
check_equal "levels" "warning" "$(offers daemon --log-level wa)"
check_equal "directories" "@dirs" "$(offers mount nas:/x '')"
check_equal "no second directory" "" "$(offers mount nas:/x /mnt '')"
check_equal "the option's argument is none of the command's" "@dirs" "$(offers mount -o ro nas:/x '')"
check_match "names of volume options" '(^| )cache= ' "$(offers mount nas:/x /mnt -o '')"
check_equal "all of them" "$("$CVOL" options | sed -n 's/^\([a-z_]*=\).*/\1/p' | sort | tr '\n' ' ')" \
	"$("$complete" volume create x -o '' | cut -f 1 | sort | tr '\n' ' ')"
check_equal "their values" "cache=strict cache=default cache=relaxed" "$(offers volume create x -o cache=)"
check_equal "behind a comma, too" "ro=true,recovery=hard" "$(offers mount nas:/x /mnt -o ro=true,recovery=h)"
check_equal "files where an option wants one" "key_file=$T/completions/_cvol" \
	"$(offers mount h:/x /mnt -o "key_file=$T/completions/_")"
check_equal "nothing runs what is typed" "" "$(offers volume inspect "\$(touch $T/ran)" '`x`' "'")"
check "indeed" test ! -e "$T/ran"
start_engine dir
mkdir "$T/mnt a"
check "a mount" timeout 30 "$CVOL" mount "$SOURCE" "$T/mnt a"
check_equal "mounts for unmount" "$T/mnt a" "$(offers unmount '')"
check "unmounted" timeout 30 "$CVOL" unmount "$T/mnt a"
check_equal "and gone" "" "$(offers unmount '')"

# ---- bash
in_bash() {
	COMP_LINE=$1 bash --norc -c '
		. "$1/completions/cvol.bash"
		COMP_POINT=${#COMP_LINE}
		_cvol
		echo "${COMPREPLY[*]}"' bash "$T"
}
check_equal "bash: a command" "unmount" "$(in_bash 'cvol unm')"
check_equal "bash: only what stands behind the =" "strict default relaxed" "$(in_bash 'cvol mount a /b -o cache=')"
check_equal "bash: after a comma and a second =" "hard" "$(in_bash 'cvol mount a /b -o cache=strict,recovery=h')"
check_equal "bash: a name after a comma" "cache=strict,recovery=" "$(in_bash 'cvol mount a /b -o cache=strict,reco' | sed 's/^/cache=/')"
check_equal "bash: a directory with a blank in it" "$T/dir one" "$(in_bash "cvol mount a $T/dir")"
check_equal "bash: volumes" "apple apricot" "$(in_bash 'cvol volume rm ')"
check_equal "bash: it is registered" "complete -F _cvol cvol" \
	"$(bash --norc -c ". '$T/completions/cvol.bash'; complete -p cvol")"

# ---- fish
if command -v fish >/dev/null; then
	in_fish() {
		fish --no-config -c "source '$T/completions/cvol.fish'; complete -C '$1'" 2>&1 | cut -f 1 | tr '\n' ' ' | sed 's/ $//'
	}
	check_equal "fish: a command" "unmount" "$(in_fish 'cvol unm')"
	check_equal "fish: values" "cache=default cache=relaxed cache=strict" "$(in_fish 'cvol mount a /b -o cache=')"
	check_equal "fish: volumes" "apple apricot" "$(in_fish 'cvol volume rm ')"
	check_equal "fish: directories" "$T/completions/" "$(in_fish "cvol mount a $T/compl")"
else
	skip "fish" "fish is not installed"
fi

# ---- zsh: its completion system needs a terminal; what it would be told is printed instead.
if command -v zsh >/dev/null; then
	in_zsh() {
		zsh -f -c 'compadd() { local a=${@[-1]}; print -r -- ${(P)a} }
			_files() { print -r -- files $* }
			in_function() { source "$1/completions/_cvol" }
			dir=$1; shift; words=("$@"); CURRENT=$#; in_function $dir' zsh "$T" "$@" 2>&1
	}
	check_equal "zsh: a command" "unmount" "$(in_zsh cvol unm)"
	check_equal "zsh: values" "cache=strict cache=default cache=relaxed" "$(in_zsh cvol mount a /b -o cache=)"
	check_equal "zsh: volumes" "apple apricot" "$(in_zsh cvol volume rm '')"
	check_equal "zsh: directories" "files -/" "$(in_zsh cvol mount a '')"
	check "zsh: it says what it is for" grep -q '^#compdef cvol$' "$T/completions/_cvol"
else
	skip "zsh" "zsh is not installed"
fi
finish
