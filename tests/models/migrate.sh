#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The keeper's move from one table to another.
. "${top_srcdir-$(dirname "$0")/../..}/tests/models/models.inc.sh"

for situation in 1 2 3 4 5; do
    model migrate.pml $situation
done
mutant migrate.pml 1 1
mutant migrate.pml 1 2 -O1
mutant migrate.pml 1 3 -O1
mutant migrate.pml 2 4
mutant migrate.pml 1 5 -O1
mutant migrate.pml 1 6
mutant migrate.pml 1 7
mutant migrate.pml 4 8
finish
