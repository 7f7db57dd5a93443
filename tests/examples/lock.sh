#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/lock: no change is lost with the lock, and a late owner is refused.
. "$top_srcdir/tests/examples/gives.inc.sh"

figures='^{"example":"lock","servers":1,"threads":4,"rounds":20,"lost_without":[0-9]*,"lost_with":0,"acquired":80,.*"late_refused":1,"errors":0}$'
three='^{"example":"lock","servers":3,.*"lost_with":0,"acquired":80,.*"late_refused":1,"errors":0}$'

check "lock --help explains it" gives '^usage: lock' lock --help
check "lock loses nothing with the lock" gives 'with the lock    0 changes lost' lock --rounds 10
check "lock --json has one line of figures" gives "$figures" lock --json --rounds 20
check "lock over three servers" gives "$three" lock --json --rounds 20 memory://a memory://b memory://c
is_told_once() {
    fails 1 '^lock: two of these URIs are the same server' lock memory://a memory://b memory://a && [ "$(wc -l < "$work/out")" = 1 ]
}

check "lock says that two servers are the same, and counts nothing" is_told_once
check "lock refuses a wrong number" refuses lock --threads 1
check "lock refuses a wrong option" refuses lock --nonsense
plan
