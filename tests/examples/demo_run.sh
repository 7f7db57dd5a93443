#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The demo with all its faults ends without a violation and leaves nothing behind.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/examples/demo.inc.sh"

json_is_complete() {
    grep -q '"total": 0}' "$work/demo.json" && grep -q '"hit_percent"' "$work/demo.json" || { cat "$work/demo.json"; return 1; }
}
every_fault_recovered() {
    grep -c '"recovered_ms": [0-9]' "$work/demo.json" | grep -qx 5 || { cat "$work/demo.json"; return 1; }
}

check "a run with all faults has no violation" run 0 --seconds 6 --records 3000 --folder "$work" --json "$work/demo.json"
check "it says what was checked" says '^violations: 0$'
check "its results are there as JSON" json_is_complete
check "everything recovered from every fault" every_fault_recovered
check "nothing is left behind" nothing_left "$work"
plan
