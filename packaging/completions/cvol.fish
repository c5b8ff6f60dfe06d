# SPDX-License-Identifier: Apache-2.0
# fish completion for cvol.

function __cvol_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (@LIBEXECDIR@/complete $words[2..-1])
        switch $line
            case @files
                __fish_complete_path (commandline -ct)
            case @dirs
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $line
        end
    end
end

complete -c cvol -f -a '(__cvol_complete)'
