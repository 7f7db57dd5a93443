#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/write-behind: a process is killed in the middle, and nothing that it acknowledged is lost.
. "$top_srcdir/tests/build/tap.sh"

program=$top_builddir/examples/write-behind
unset REDIS_URL

gives() { # gives PATTERN ARGUMENTS…
    pattern=$1
    shift
    "$program" "$@" > "$work/out" 2>&1
    status=$?
    cat "$work/out"
    [ $status -eq 0 ] && grep -q "$pattern" "$work/out"
}
refuses() {
    "$program" "$@" > "$work/out" 2>&1
    [ $? -eq 2 ] && grep -q '^usage: write-behind' "$work/out"
}
small='--updates 20000 --keys 500 --stall-ms 200'
figures='^{"example":"write-behind","updates":[0-9]*,"keys":500,.*"replayed":[1-9][0-9]*,"lost":0,"wrong":0,"backwards":0,.*"errors":0}$'

check "write-behind --help explains it" gives '^usage: write-behind' --help
check "write-behind loses nothing acknowledged" gives 'acknowledged and lost: 0; wrong at the end: 0' $small
check "write-behind --json has one line of figures" gives "$figures" --json $small --journal "$work/journal"
check "write-behind with a journal that is always on the disk" gives "$figures" --json --updates 2000 --keys 500 --stall-ms 200 --sync always
check "write-behind refuses a wrong policy" refuses --sync sometimes
check "write-behind refuses a wrong number" refuses --updates 1
plan
