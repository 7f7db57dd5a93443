#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The rooms under lib/ include each other one way only, and each library is known to one room.
. "$top_srcdir/tests/build/tap.sh"

# Every arrow that is allowed, FROM:TO.  A room may include itself.
allowed="
local:base
remote:base
coherence:base coherence:local coherence:remote
load:base load:local load:remote
observe:base observe:local observe:remote observe:coherence
cache:base cache:local cache:remote cache:coherence cache:load cache:observe
"

# FILE ROOM INCLUDED, one line an include, from a folder of rooms
includes() {
    (cd "$1" && find . -name '*.[ch]' | sed 's|^\./||' | LC_ALL=C sort | while read -r file; do
        sed -n 's/^[ 	]*#[ 	]*include[ 	]*["<]\([^">]*\)[">].*/\1/p' "$file" | sed "s|^|$file ${file%%/*} |"
    done)
}

# Arrows against the order, from such lines.
wrong_arrows() {
    awk -v allowed="$allowed" '
    BEGIN {
        n = split(allowed, words)
        for (i = 1; i <= n; i++) { ok[words[i]] = 1; split(words[i], ends, ":"); room[ends[1]] = room[ends[2]] = 1 }
    }
    !($2 in room) { print $1 ": a room that the order does not know"; next }
    { target = $3; if (target !~ /\//) target = $2 "/" target; sub(/\/.*/, "", target) }
    target in room && target != $2 && !(($2 ":" target) in ok) { print $1 " includes " $3 }
    $3 ~ /^urcu/ && $2 != "local" { print $1 " includes " $3 " outside lib/local" }
    $3 ~ /^hiredis/ && $2 != "remote" { print $1 " includes " $3 " outside lib/remote" }
    $3 ~ /^openssl/ && $2 != "remote" { print $1 " includes " $3 " outside lib/remote" }
    $3 ~ /\.\.\// { print $1 " includes " $3 " by a relative path" }'
}

includes_follow_the_order() {
    includes "$top_srcdir/lib" > "$work/includes"
    [ "$(wc -l < "$work/includes")" -gt 20 ] || { echo "no includes found"; return 1; }
    wrong_arrows < "$work/includes" > "$work/wrong"
    cat "$work/wrong"
    [ ! -s "$work/wrong" ]
}

# finds_wrong FILE INCLUDED: the test itself notices an include that is not allowed
finds_wrong() {
    echo "$1 ${1%%/*} $2" | wrong_arrows | grep -q .
}

file_names_are_unique() {
    # a room's fragment has the same name in every room, and so has a test's
    (cd "$top_srcdir" && find lib tests examples benchmarks tools -type f -name '*.[ch]') | sed 's|.*/||' | LC_ALL=C sort |
        uniq -d > "$work/twice"
    cat "$work/twice"
    [ ! -s "$work/twice" ]
}

urcu_is_not_inlined_by_licence_switch() {
    ! grep -rn '^[ 	]*#[ 	]*define[ 	]*_LGPL_SOURCE' "$top_srcdir/lib" && ! grep -n 'D_LGPL_SOURCE' "$top_builddir/Makefile"
}

examples_know_only_the_public_header() {
    ! grep -rnE '#[ 	]*include[ 	]*["<](base|local|remote|coherence|load|observe|cache)/' "$top_srcdir/examples"
}

check "rooms include each other one way only" includes_follow_the_order
check "an arrow from base to local is noticed" finds_wrong base/uri.c local/local.h
check "an arrow from local to remote is noticed" finds_wrong local/index.c remote/remote.h
check "urcu outside lib/local is noticed" finds_wrong cache/api.c urcu-bp.h
check "hiredis outside lib/remote is noticed" finds_wrong coherence/message.c hiredis/read.h
check "file names are unique across the tree" file_names_are_unique
check "liburcu's code is not inlined by _LGPL_SOURCE" urcu_is_not_inlined_by_licence_switch
check "examples include only the public header" examples_know_only_the_public_header
plan
