#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The demo's checker is checked: wrong values put into Redis behind everybody's back must be found.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/examples/demo.inc.sh"

check "old values are found" run 4 --seconds 3 --records 3000 --no-faults --sabotage stale --folder "$work"
check "as reads that went backwards" says 'read went backwards'
check "damaged values are found" run 4 --seconds 3 --records 3000 --no-faults --sabotage damaged --folder "$work"
check "as damage" says 'damaged value'
check "nothing is left behind" nothing_left "$work"
plan
