#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The position mechanism: floors, two-phase installs, invalidations, evictions, joined fetches.
. "${top_srcdir-$(dirname "$0")/../..}/tests/models/models.inc.sh"

for situation in 1 2 3 4 5 6 7; do
    model positions.pml $situation
done
mutant positions.pml 1 1
mutant positions.pml 7 2
mutant positions.pml 1 3
mutant positions.pml 1 4
mutant positions.pml 1 5
mutant positions.pml 5 6
mutant positions.pml 7 6 -O1
mutant positions.pml 3 7
mutant positions.pml 3 8
mutant positions.pml 7 9 -O1
mutant positions.pml 6 10
mutant positions.pml 6 11
finish
