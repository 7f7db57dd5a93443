#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# mutants_page.sh SOURCE-DIRECTORY > docs/mutants.md
set -eu
cd "$1"
cat << 'END'
# Broken on purpose

Made by `tests/mutants/mutants_page.sh` from `tests/mutants/mutants.list`; `make check` compares the two.

For every race (docs/races.md says what cures it) one rule of the code is broken, and one named test must fail. `tests/mutants/mutants.sh` does that on every
`make check` of a build that is not instrumented: each case first runs unbroken and must pass, then broken and must fail. A mutant that no test notices fails the build.
The switches, `NEAR_MUTANT(NAME)` in the code, exist only in a second copy of the library that is built for this and never installed; in the library proper they are the
constant 0, and `tests/mutants/mutants_absent.sh` looks that nothing is left of them.

To try one: `NEAR_MUTANT=FLOOR_UNCHECKED NEAR_CASE=test_R01_* tests/mutants/memory`.

| race | broken | by the switch | in | noticed by |
|---|---|---|---|---|
END
sed -n 's/ *| */|/g; /^R/p' tests/mutants/mutants.list | while IFS='|' read -r race mutant what program case; do
    if [ "$mutant" = - ]; then
        echo "| $race | – | – | – | $what |"
        continue
    fi
    name=${mutant#s:}
    files=$(grep -l "NEAR_MUTANT($name)" lib/*/*.c | sed 's/.*/`&`/' | paste -s -d ' ')
    case $program in
    memory | process | redis) file=tests/system/test_races_$program.c ;;
    *) file=$(ls tests/*/test_"$program".c) ;;
    esac
    echo "| $race | $what | \`$name\` | $files | \`$file\` \`$case\` |"
done
