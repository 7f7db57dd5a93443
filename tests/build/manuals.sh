#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The manual pages are well formed, and name every option that the programs print and every function of the library,
# and nothing else.
. "$top_srcdir/tests/build/tap.sh"

man=$top_srcdir/docs/man
bench=$top_builddir/benchmarks/nearcache-bench

same() {
    sort -u "$1" > "$1.sorted" && sort -u "$2" > "$2.sorted" && [ -s "$1.sorted" ] && diff "$1.sorted" "$2.sorted"
}

# printed PROGRAM ARGUMENT…: the options that its help names; --help and --version go without saying
printed() {
    "$@" | sed -n 's/^  \(--[a-z][a-z-]*\).*/\1/p' | grep -v -x -e --help -e --version
}

# described PAGE SECTION: the options that have an entry there; without a section in the whole page
described() {
    awk -v wanted="$2" '/^\.S[sh] / { here = substr($0, 5) }
        /^\.It Fl -/ && (wanted == "" || here == wanted) { print "-" $3 }' "$man/$1" |
        grep -v -x -e --help -e --version
}

subcommands() {
    "$bench" --help | sed -n 's/^  \([a-z][a-z]*\)  *.*/\1/p'
}

subcommands_have_a_section() {
    subcommands > "$work/printed"
    awk '/^\.Sh / { here = $2 } /^\.Ss / && here == "SUBCOMMANDS" { print $2 }' "$man/nearcache-bench.1" > "$work/described"
    same "$work/printed" "$work/described"
}

# What it prints but the page's common options do not describe is in the subcommand's section.
subcommand_is_described() {
    printed "$bench" "$1" --help > "$work/printed"
    described nearcache-bench.1 "$1" > "$work/own"
    { cat "$work/own"; described nearcache-bench.1 "COMMON OPTIONS" | grep -x -F -f "$work/printed"; } > "$work/described"
    [ -s "$work/own" ] && same "$work/printed" "$work/described"
}

common_options_exist() {
    for subcommand in $(subcommands); do
        printed "$bench" "$subcommand" --help
    done > "$work/all"
    described nearcache-bench.1 "COMMON OPTIONS" | sort -u > "$work/common"
    [ -s "$work/common" ] && ! grep -v -x -F -f "$work/all" "$work/common"
}

check_is_described() {
    printed "$top_builddir/tools/nearcache-check" --help > "$work/printed"
    described nearcache-check.1 > "$work/described"
    same "$work/printed" "$work/described"
}

# Those that the library exports, and those that the header itself defines.
functions_are_described() {
    sed -n 's/^static inline void \(near_[a-z_]*\)(.*/\1/p' "$top_srcdir/include/nearcache.h" |
        cat "$top_srcdir/lib/nearcache.sym" - > "$work/declared"
    grep '^\.It Fn' "$man/nearcache.3" | tr ' ' '\n' | grep '^near_' > "$work/described"
    same "$work/declared" "$work/described"
}

# The one that is there; both say what they dislike and end well.
if command -v mandoc > /dev/null; then
    lint() { mandoc -T lint -W warning "$1"; }
elif command -v groff > /dev/null; then
    lint() { groff -mdoc -ww -b -T ascii -z "$1"; }
else
    lint() { false; }
fi

is_well_formed() {
    lint "$man/$1" > "$work/said" 2>&1
    cat "$work/said"
    [ ! -s "$work/said" ]
}

a_fault_is_noticed() {
    sed 's/^\.Sh DESCRIPTION/&\n.El/' "$man/nearcache.3" > "$work/fault.3"
    lint "$work/fault.3" 2>&1 | grep -q .
}

are_installed() {
    MAKEFLAGS= make -s -C "$top_builddir" install-man DESTDIR="$work/root" && (cd "$man" && ls) > "$work/pages" &&
        find "$work/root" -type f | sed 's,.*/,,' > "$work/installed" && same "$work/pages" "$work/installed"
}

check "nearcache-bench(1) has a section for every subcommand" subcommands_have_a_section
for subcommand in $(subcommands); do
    check "nearcache-bench(1) describes the options of $subcommand" subcommand_is_described "$subcommand"
done
check "nearcache-bench(1) describes no common option that there is not" common_options_exist
check "nearcache-check(1) describes its options" check_is_described
check "nearcache(3) names every function" functions_are_described
check "the pages are installed" are_installed
if command -v mandoc > /dev/null || command -v groff > /dev/null; then
    for page in nearcache-bench.1 nearcache-check.1 nearcache.3; do
        check "$page is well formed" is_well_formed $page
    done
    check "a page that is not is noticed" a_fault_is_noticed
else
    skip "the pages are well formed" "neither mandoc nor groff is installed"
fi
plan
