#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Losing and regaining the proof of freshness.
. "${top_srcdir-$(dirname "$0")/../..}/tests/models/models.inc.sh"

for situation in 1 2 3 4 5 6; do
    model reconnect.pml $situation
done
mutant reconnect.pml 1 1
mutant reconnect.pml 3 2
mutant reconnect.pml 1 3
mutant reconnect.pml 2 4
mutant reconnect.pml 3 5
mutant reconnect.pml 6 6
mutant reconnect.pml 1 7
mutant reconnect.pml 1 8
mutant reconnect.pml 6 9
finish
