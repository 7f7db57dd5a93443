#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Values that travel with their messages, and the echo fence.
. "${top_srcdir-$(dirname "$0")/../..}/tests/models/models.inc.sh"

for situation in 1 2 3 4; do
    model values.pml $situation
done
mutant values.pml 1 1
mutant values.pml 1 2
mutant values.pml 3 3
mutant values.pml 4 4
mutant values.pml 1 5
finish
