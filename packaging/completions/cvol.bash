# SPDX-License-Identifier: Apache-2.0
# bash completion for cvol.

_cvol() {
	local line=${COMP_LINE:0:COMP_POINT} word candidate
	local -a words
	# Split at blanks alone: bash itself breaks words at "=" and ":", too.
	read -ra words <<<"$line"
	[[ $line != *[[:blank:]] ]] || words+=("")
	word=${words[-1]}
	COMPREPLY=()
	while IFS=$'\t' read -r candidate _; do
		case $candidate in
		@files) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$word") && compopt -o filenames ;;
		@dirs) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$word") && compopt -o filenames ;;
		*)
			# What bash replaces is only what stands behind the last "=".
			[[ $word != *=* || $COMP_WORDBREAKS != *=* ]] || candidate=${candidate#"${word%=*}="}
			COMPREPLY+=("$candidate")
			[[ $candidate != *[=/] ]] || compopt -o nospace
			;;
		esac
	done < <(@LIBEXECDIR@/complete "${words[@]:1}")
} 2>/dev/null # compopt complains where nobody completes, as in tests
complete -F _cvol cvol
