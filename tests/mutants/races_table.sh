#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# races_table.sh SOURCE-DIRECTORY: the table of docs/consistency.md between "<!-- races -->" and "<!-- /races -->": each race with its cure and
# where that is (docs/races.md), the switches that take it out and the tests that notice (mutants.list).
set -eu
cd "$1"
echo '| race | cure | where | taken out by: noticed by |'
echo '|---|---|---|---|'
awk -F ' *[|] *' '
    # The numbers in "R39, R41" or "R42–R44", as " 39 41 " and " 42 43 44 ".
    function numbers(text,    all, part, ends, n, i, k) {
        all = " "
        n = split(text, part, /, */)
        for (i = 1; i <= n; i++) {
            gsub(/R/, "", part[i])
            if (split(part[i], ends, /–/) == 1)
                ends[2] = ends[1]
            for (k = ends[1] + 0; k <= ends[2] + 0; k++)
                all = all k " "
        }
        return all
    }
    FILENAME ~ /mutants.list$/ && /^R/ {
        count = split(numbers($1), race, " ")
        for (i = 1; i <= count; i++) {
            name = $2
            sub(/^s:/, "", name)
            noticed[race[i]] = noticed[race[i]] (noticed[race[i]] ? "; " : "") (name == "-" ? $3 : "`" name "`: `" $5 "`")
        }
    }
    FILENAME ~ /races.md$/ && /^[|] R[0-9]/ {
        name = $2
        match(name, /^R[0-9]+((, *|–)R[0-9]+)*/)
        count = split(numbers(substr(name, 1, RLENGTH)), race, " ")
        text = ""
        for (i = 1; i <= count; i++)
            if (noticed[race[i]] != "" && index(text, noticed[race[i]]) == 0)
                text = text (text ? "; " : "") noticed[race[i]]
        printf "| %s | %s | %s | %s |\n", name, $3, $4, text
    }' tests/mutants/mutants.list docs/races.md
