#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The switches that break rules (lib/base/mutant.h) cost the library nothing: no symbol, no text, no code.
. "$top_srcdir/tests/build/tap.sh"

objects() {
    find "$top_builddir/lib" -name '*.o' ! -name 'libnearmutants*' ! -path '*/mutants/*' ! -name 'tests_mutants_*'
}

no_symbol() {
    # shellcheck disable=SC2046 # a list of words
    nm -A $(objects) > "$work/symbols" && [ -s "$work/symbols" ] && ! grep -i mutant "$work/symbols"
}

no_text() {
    for object in $(objects); do
        ! strings -a "$object" | grep -E 'NEAR_MUTANT|FLOOR_UNCHECKED|PONG_ALONE_PROVES' || return 1
    done
}

# preprocessed FILE FLAG…: what the compiler gets, without the header's own lines
preprocessed() {
    file=$1
    shift
    # shellcheck disable=SC2086 # lists of words
    $CC -E -P -std=gnu11 -include "$top_builddir/config.h" -I"$top_srcdir/include" -I"$top_srcdir/lib" \
        $($PKG_CONFIG --cflags hiredis liburcu-bp) "$@" "$top_srcdir/$file"
}

# Wherever a switch stands, the compiler gets a constant.
only_constants() {
    for file in $(cd "$top_srcdir" && grep -l 'NEAR_MUTANT(' lib/*/*.c); do
        preprocessed "$file" > "$work/plain" || return 1
        ! grep 'near__mutant_is' "$work/plain" || return 1
        preprocessed "$file" -DNEAR_MUTANTS | grep -q 'near__mutant_is(".*")' || { echo "$file: not seen with -DNEAR_MUTANTS"; return 1; }
    done
}

check "no symbol of the library's has to do with mutants" no_symbol
check "no text of theirs is in it" no_text
check "the compiler gets constants" only_constants
plan
