#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The checker is checked: it finds every promise that is broken on purpose, and says which.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/tools/check.inc.sh"
program=$top_builddir/tools/nearcache-check-sabotaged

# tells TEXT: the run's output shows such a violation with the history that led to it
tells() {
    grep -q "^VIOLATION: $1, process [0-9]" "$work/out" && grep -q '^  key k[0-9]*\.[0-9]*, a' "$work/out" &&
        grep -q 's    it is acknowledged' "$work/out"
}

# complains_of HOW TEXT: the same without a history of acknowledged writes
complains_of() {
    run 4 --sabotage "$1" --faults none --bound 500 --duration 1 && grep -q "^VIOLATION: $2, process [0-9]" "$work/out"
}

# finds HOW FAULTS BOUND TEXT: in a run or, as it is luck which fault comes, in one of a few
finds() {
    for duration in 2 4 8 16 32; do
        run 4 --sabotage "$1" --faults "$2" --bound "$3" --duration $duration && tells "$4" && return
    done
    return 1
}

check "without sabotage it finds nothing" run 0 --faults none --duration 1
check "messages that are not applied" finds deaf none 200 'staler than the bound'
check "and what is left of them at the end" tells 'not what Redis has at the end'
check "a proof that does not age" finds ageless hold,process-stop 60 'staler than the bound'
check "fills that resurrect" finds floorless delay,hold 500 'read went backwards'
check "writes that leave the old copy" finds forgetful none 500 'read went backwards'
check "damage" finds damaging none 500 'damaged value'
check "copies that do not expire" finds unexpiring none 500 'expired value'
check "a barrier that waits for nobody" finds hasty delay,hold 500 'older than what a barrier had put everywhere'
check "losses that make nothing suspect" finds unsuspecting kill-sub,flushall,delete 200 'not what survived a loss of data'
check "copies that are not from Redis" finds miscopying delay,hold 500 'Redis no longer has an acknowledged write'
check "writes that were not done" finds losing none 500 'Redis no longer has an acknowledged write'
check "writes that were done after all" complains_of lying 'a write that was reported as not done took effect'
check "too much memory" complains_of bloated 'local tier over its budget'
check "processes that end" complains_of dying 'no recovery'
check "calls that take too long" complains_of tardy 'call far past its deadline'
check "an unknown sabotage is refused" run 2 --sabotage nonsense
check "nothing is left behind" nothing_left
plan
