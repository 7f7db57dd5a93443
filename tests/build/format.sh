#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The C files, and the one of C++, are laid out as .clang-format says, which leaves comments alone: those are looked at
# by their width.
. "$top_srcdir/tests/build/tap.sh"

columns=$(sed -n 's/^ColumnLimit: *//p' "$top_srcdir/.clang-format")
version=14 # Debian 12's; others lay out some things otherwise

# In the sources' directory: the C files, and at least one.
sources() {
    find lib include examples benchmarks tools tests -type f \( -name '*.[ch]' -o -name '*.cc' \) | grep .
}

# FILE…: those with a line that is wider
wide_files() {
    LC_ALL=C.UTF-8 wc -L "$@" | awk -v columns="$columns" '$1 > columns && $2 != "total" { print $2 ": " $1 " columns" }'
}

lines_are_short_enough() {
    (cd "$top_srcdir" && files=$(sources) && wide_files $files) > "$work/wide" || return 1
    cat "$work/wide"
    [ ! -s "$work/wide" ]
}

a_wide_line_is_noticed() {
    printf "/* %0${columns}d */\n" 0 > "$work/wide.c"
    wide_files "$work/wide.c" "$work/wide.c" | grep -q .
}

code_is_laid_out() {
    (cd "$top_srcdir" && files=$(sources) && clang-format --dry-run -Werror $files)
}

check "lines are short enough" lines_are_short_enough
check "a wide line is noticed" a_wide_line_is_noticed
if clang-format --version 2>/dev/null | grep -q "version $version\."; then
    check "code is laid out as .clang-format says" code_is_laid_out
else
    skip "code is laid out as .clang-format says" "no clang-format $version"
fi
plan
