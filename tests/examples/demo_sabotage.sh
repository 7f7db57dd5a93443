#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The demo's checker is checked: wrong values put into Redis behind everybody's back must be found.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/examples/demo.inc.sh"

check "old values are found" run 4 --seconds 3 --records 3000 --no-faults --sabotage stale --folder "$work"

# On a slow machine all of a run's reads may be of their writers, who judge by what they have written.
backwards() {
    for again in 1 2 3 4 5; do
        says 'read went backwards' && return 0
        run 4 --seconds 3 --records 3000 --no-faults --sabotage stale --folder "$work" || return 1
    done
    says 'read went backwards'
}
check "as reads that went backwards" backwards
check "damaged values are found" run 4 --seconds 3 --records 3000 --no-faults --sabotage damaged --folder "$work"
check "as damage" says 'damaged value'
check "nothing is left behind" nothing_left "$work"
plan
