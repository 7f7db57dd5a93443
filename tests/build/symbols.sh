#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The header, lib/nearcache.sym and the built libraries agree on what is exported.
. "$top_srcdir/tests/build/tap.sh"

list=$top_srcdir/lib/nearcache.sym
shared=$top_builddir/.libs/libnearcache.so
archive=$top_builddir/.libs/libnearcache.a

# Names of the functions that the header declares with NEAR_API.
declared() {
    $CC -E -P "$top_srcdir/include/nearcache.h" | tr '\n' ' ' | tr ';' '\n' |
        sed -n 's/.*visibility("default"))) *//p' | sed 's/ *(.*//; s/.*[ *]//' | LC_ALL=C sort
}

list_is_sorted_and_clean() {
    LC_ALL=C sort -uc "$list" && ! grep -v '^near_[a-z0-9][a-z0-9_]*$' "$list"
}

header_matches_list() {
    declared > "$work/declared" && [ -s "$work/declared" ] && diff "$list" "$work/declared"
}

shared_matches_list() {
    nm -D --defined-only "$shared" | awk '{ print $3 }' | sed 's/@.*//' | LC_ALL=C sort > "$work/shared"
    diff "$list" "$work/shared"
}

# A static library cannot hide anything, so every global name of the archive carries one of our prefixes.
archive_has_only_our_prefixes() {
    nm -g --defined-only "$archive" | awk 'NF == 3 { print $3 }' | LC_ALL=C sort -u > "$work/archive"
    [ -s "$work/archive" ] && ! grep -v '^near_' "$work/archive" && LC_ALL=C comm -23 "$list" "$work/archive" > "$work/absent" &&
        ! grep . "$work/absent"
}

is_never_unloaded() {
    readelf -d "$shared" | grep -q NODELETE
}

versions_agree() {
    version=$(sed -n 's/^#define PACKAGE_VERSION "\(.*\)"/\1/p' "$top_builddir/config.h")
    header=$top_srcdir/include/nearcache.h
    number=$(awk '/^#define NEAR_VERSION_(MAJOR|MINOR|PATCH) / { text = text "." $3 } END { print substr(text, 2) }' "$header")
    text=$(sed -n 's/^#define NEAR_VERSION_STRING "\(.*\)"/\1/p' "$header")
    echo "configure $version, header $number and $text"
    [ -n "$version" ] && [ "$version" = "$number" ] && [ "$version" = "$text" ]
}

check "the list is sorted and has only near_ names" list_is_sorted_and_clean
check "the header declares what the list names" header_matches_list
check "header and configure agree on the version" versions_agree
# An instrumented library has the sanitizer's names besides ours; the plain build is the one that is shipped.
if [ -n "$INSTRUMENT_CFLAGS" ]; then
    plan
fi
if [ -f "$shared" ]; then
    check "the shared library exports what the list names" shared_matches_list
    check "the shared library stays in memory once loaded" is_never_unloaded
else
    skip "the shared library exports what the list names" "configured without a shared library"
    skip "the shared library stays in memory once loaded" "configured without a shared library"
fi
if [ -f "$archive" ]; then
    check "the static library's names all have our prefix" archive_has_only_our_prefixes
else
    skip "the static library's names all have our prefix" "configured without a static library"
fi
plan
