#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# Breaks one rule at a time and runs the test that must notice: a mutant that survives fails this test.
#
# The named case first runs unbroken and must pass; broken it must fail, crash, or not end (its limit is twenty times what the
# unbroken run took, at least 30 s).  Half of the mutants at a time run beside the other half: most of the time is waiting.
. "$top_srcdir/tests/build/tap.sh"

here=$top_srcdir/tests/mutants
built=$top_builddir/tests/mutants

# the list's rows, columns without blanks around them
rows() {
    sed -n 's/ *| */|/g; /^R/p' "$here/mutants.list"
}

# result PROGRAM CASE [MUTANT [LIMIT]]: passed, skipped or noticed; its output and how it ended in $log
result() {
    status=0 started=$(date +%s)
    NEAR_CASE=$2 NEAR_MUTANT=${3-} CMOCKA_MESSAGE_OUTPUT=TAP timeout -k 5 "${4-300}" "$built/$1" > "$log" 2>&1 < /dev/null ||
        status=$?
    echo "# $1 $2${3:+ with $3} ended with status $status after $(($(date +%s) - started)) s" >> "$log"
    if [ "$status" = 0 ] && grep -q -E "^(not )?ok.*SKIP" "$log"; then
        echo skipped
    elif [ "$status" = 0 ] && grep -q "^ok 1 - $2\$" "$log"; then
        echo passed
    elif [ "$status" = 0 ]; then
        echo "did not run"
    else
        echo noticed
    fi
}

# result_of_three PROGRAM CASE MUTANT LIMIT: the same; what happens in the tests with threads and a server is up to the machine's
# load as well, and a broken rule may go well once
result_of_three() {
    for _ in 1 2 3; do
        outcome=$(result "$@")
        [ "$outcome" = passed ] || break
    done
    echo "$outcome"
}

# try RACE MUTANT PROGRAM CASE: writes "ok", "skip" or "not ok", and what was said, into $work/<number>
try() {
    log=$work/$number.unbroken
    begun=$(date +%s)
    unbroken=$(result "$3" "$4")
    limit=$((20 * ($(date +%s) - begun + 1)))
    [ "$limit" -gt 30 ] || limit=30
    case $2 in
    s:*) [ "$unbroken" = passed ] && unbroken=passed broken=noticed || broken=$unbroken ;;
    *)
        log=$work/$number.broken
        broken=$([ "$unbroken" != passed ] || result_of_three "$3" "$4" "$2" "$limit")
        ;;
    esac
    if [ "$unbroken" = skipped ] || [ "$broken" = skipped ]; then
        echo skip > "$work/$number"
    elif [ "$unbroken" = passed ] && [ "$broken" = noticed ]; then
        echo ok > "$work/$number"
    else
        explain > "$work/$number"
    fi
}

# The verdict and the last lines of the run that it comes from; then all of both runs.
explain() {
    echo "not ok: unbroken: $unbroken, broken: $broken"
    tail -n 5 "$log"
    for log in "$work/$number".*broken; do
        echo "---- all of ${log##*.}"
        cat "$log"
    done
}

# half REMAINDER: tries every second mutant
half() {
    number=0
    rows | while IFS='|' read -r race mutant what program case; do
        [ "$mutant" != - ] || continue
        number=$((number + 1))
        [ $((number % 2)) != "$1" ] || try "$race" "$mutant" "$program" "$case"
    done
}

is_noticed() {
    cat "$work/$1"
    [ "$(head -n 1 "$work/$1")" = ok ]
}

# Those of index.c and hit.c that test_schedule.c breaks by itself have the prefix s: in the list.
every_switch_is_in_the_list() {
    grep -h -v '^#define\|^ \*' "$top_srcdir"/lib/*/*.[ch] | grep -o 'NEAR_MUTANT([A-Z_]*)' | sed 's/.*(\(.*\))/\1/' | sort -u > "$work/switches"
    rows | cut -d'|' -f2 | sed 's/^s://; /^-$/d' | sort -u > "$work/listed"
    diff "$work/switches" "$work/listed"
}

every_race_is_in_the_list() {
    rows | cut -d'|' -f1 | awk -F'–R' '{ sub(/^R/, "", $1); for (i = $1 + 0; i <= (NF > 1 ? $2 : $1) + 0; i++) print i }' |
        sort -n -u > "$work/races"
    seq 1 54 | diff - "$work/races"
}

the_page_is_up_to_date() {
    "$SHELL" "$here/mutants_page.sh" "$top_srcdir" | diff "$top_srcdir/docs/mutants.md" -
}

the_table_is_up_to_date() {
    sed -n '/^<!-- races -->$/,/^<!-- \/races -->$/p' "$top_srcdir/docs/consistency.md" | sed '1d;$d' > "$work/table"
    "$SHELL" "$here/races_table.sh" "$top_srcdir" | diff "$work/table" -
}

# This runner itself: a switch that breaks nothing.
a_survivor_is_reported() {
    number=survivor
    try R01 BREAKS_NOTHING memory test_R01_fill_that_meets_an_invalidation_is_not_kept
    cat "$work/survivor"
    [ "$(head -n 1 "$work/survivor")" = "not ok: unbroken: passed, broken: passed" ] &&
        head -n 6 "$work/survivor" | grep -q "with BREAKS_NOTHING ended with status 0 after"
}

check "a mutant that nobody notices is reported" a_survivor_is_reported
check "every switch in lib/ is in the list, and no other" every_switch_is_in_the_list
check "every race is in the list" every_race_is_in_the_list
check "docs/mutants.md is what mutants_page.sh makes of it" the_page_is_up_to_date
check "the table of docs/consistency.md is what races_table.sh makes of it" the_table_is_up_to_date

half 0 &
half 1
wait

number=0
rows > "$work/rows"
while IFS='|' read -r race mutant what program case; do
    [ "$mutant" != - ] || continue
    number=$((number + 1))
    if [ "$(cat "$work/$number")" = skip ]; then
        skip "$race $mutant: $case" "its test was skipped"
    else
        check "$race $mutant: $case" is_noticed $number
    fi
done < "$work/rows"
plan
