#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/warm-start: a process that was warmed waits less than one that starts cold.
. "$top_srcdir/tests/build/tap.sh"

program=$top_builddir/examples/warm-start
unset REDIS_URL

gives() { # gives PATTERN ARGUMENTS…
    pattern=$1
    shift
    "$program" "$@" > "$work/out" 2>&1
    status=$?
    cat "$work/out"
    [ $status -eq 0 ] && grep -q "$pattern" "$work/out"
}
refuses() { # refuses STATUS PATTERN ARGUMENTS…
    wanted=$1
    pattern=$2
    shift 2
    "$program" "$@" > "$work/out" 2>&1
    [ $? -eq "$wanted" ] && grep -q "$pattern" "$work/out"
}
# The warmed process waits for fewer than half as many reads.
saves_waiting() {
    gives '"errors":0}$' "$@" || return 1
    cold=$(sed -n 's/.*"cold_remote":\([0-9]*\).*/\1/p' "$work/out")
    warm=$(sed -n 's/.*"warm_remote":\([0-9]*\).*/\1/p' "$work/out")
    [ "$cold" -gt 100 ] && [ $((warm * 2)) -lt "$cold" ]
}
small='--keys 1000 --reads 3000 --hot 500'

check "warm-start --help explains it" gives '^usage: warm-start' --help
check "warm-start compares cold and warm" gives '^warmed with    500 keys' $small
check "warm-start --json: the warmed one waits less" saves_waiting --json $small
check "warm-start --scan warms everything that matches" gives '"warmed":1000,.*"warm_remote":0,' --json $small --scan 'item:*'
check "warm-start with a rate limit" gives '"warmed":500,' --json $small --rate 5000
check "warm-start keeps a snapshot that it was given" gives '"errors":0}$' --json $small --snapshot "$work/hot"
check "that snapshot is there" test -s "$work/hot"
check "warm-start refuses a wrong number" refuses 2 '^usage: warm-start' --keys 1
check "warm-start says why it cannot save" refuses 1 'nowhere' $small --snapshot /nowhere/hot
plan
