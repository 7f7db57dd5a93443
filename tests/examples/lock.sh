#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/lock: no change is lost with the lock, and a late owner is refused.
. "$top_srcdir/tests/build/tap.sh"

program=$top_builddir/examples/lock
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
    [ $? -eq 2 ] && grep -q '^usage: lock' "$work/out"
}
figures='^{"example":"lock","servers":1,"threads":4,"rounds":20,"lost_without":[0-9]*,"lost_with":0,"acquired":80,.*"late_refused":1,"errors":0}$'
three='^{"example":"lock","servers":3,.*"lost_with":0,"acquired":80,.*"late_refused":1,"errors":0}$'

check "lock --help explains it" gives '^usage: lock' --help
check "lock loses nothing with the lock" gives 'with the lock    0 changes lost' --rounds 10
check "lock --json has one line of figures" gives "$figures" --json --rounds 20
check "lock over three servers" gives "$three" --json --rounds 20 memory://a memory://b memory://c
check "lock refuses a wrong number" refuses --threads 1
check "lock refuses a wrong option" refuses --nonsense
plan
