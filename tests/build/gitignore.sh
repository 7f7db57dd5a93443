#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# A build within the source tree leaves nothing for git to tell of: .gitignore knows every program, and no file of ours.
. "$top_srcdir/tests/build/tap.sh"

programs_are_ignored() {
    printf 'include Makefile\nlist:\n\t@printf "%%s\\n" $(bin_PROGRAMS) $(noinst_PROGRAMS) $(check_PROGRAMS) > "$(into)"\n' |
        MAKEFLAGS= make -s -C "$top_builddir" -f - list into="$work/programs"
    [ -s "$work/programs" ] || return 1
    git init -q "$work/tree" && cp "$top_srcdir/.gitignore" "$work/tree"
    git -C "$work/tree" check-ignore --stdin < "$work/programs" | diff - "$work/programs"
}

ours_are_not() {
    git -C "$top_srcdir" ls-files --cached --ignored --exclude-standard > "$work/ignored"
    cat "$work/ignored"
    [ ! -s "$work/ignored" ]
}

if git -C "$top_srcdir" ls-files --error-unmatch .gitignore > /dev/null 2>&1; then
    check "the programs of a build within the tree are ignored" programs_are_ignored
    check "no file of the project is ignored" ours_are_not
else
    skip ".gitignore" "no repository of git"
fi
plan
