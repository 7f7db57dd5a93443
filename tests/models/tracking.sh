#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Foreign writers, reported by the server's tracking.
. "${top_srcdir-$(dirname "$0")/../..}/tests/models/models.inc.sh"

for situation in 1 2 3; do
    model tracking.pml $situation
done
mutant tracking.pml 1 1
mutant tracking.pml 2 2
mutant tracking.pml 2 3
mutant tracking.pml 1 4
mutant tracking.pml 2 5
mutant tracking.pml 1 6
mutant tracking.pml 3 7
finish
