#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/warm-start: a process that was warmed waits less than one that starts cold.
. "$top_srcdir/tests/examples/gives.inc.sh"

# The warmed process waits for fewer than half as many reads.
saves_waiting() {
    gives '"errors":0}$' warm-start "$@" || return 1
    [ "$(number cold_remote)" -gt 100 ] && [ $(($(number warm_remote) * 2)) -lt "$(number cold_remote)" ]
}
small='--keys 1000 --reads 3000 --hot 500'

check "warm-start --help explains it" gives '^usage: warm-start' warm-start --help
check "warm-start compares cold and warm" gives '^warmed with    500 keys' warm-start $small
check "warm-start --json: the warmed one waits less" saves_waiting --json $small
check "warm-start --scan warms everything that matches" gives '"warmed":1000,.*"warm_remote":0,' warm-start --json $small --scan 'item:*'
check "warm-start says when nothing matches" gives '^warm-start: no key matches warm-start:\*' warm-start $small --scan 'warm-start:*'
check "warm-start with a rate limit" gives '"warmed":500,' warm-start --json $small --rate 5000
check "warm-start keeps a snapshot that it was given" gives '"errors":0}$' warm-start --json $small --snapshot "$work/hot"
check "that snapshot is there" test -s "$work/hot"
check "warm-start refuses a wrong number" refuses warm-start --keys 1
check "warm-start says why it cannot save" fails 1 'nowhere' warm-start $small --snapshot /nowhere/hot
plan
