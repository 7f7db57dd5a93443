#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# tests/tap-driver counts what test programs print, and notices those that end without saying so.
. "$top_srcdir/tests/build/tap.sh"

# counts EXPECTED SCRIPT: the driver's results for a program of that text, one letter each, after the overall result
counts() {
    printf '%s\n' "$2" > "$work/program"
    NEAR_TEST_TIMEOUT=${limit-300} "$top_srcdir/tests/tap-driver" --test-name program --log-file "$work/program.log" \
        --trs-file "$work/program.trs" --color-tests no --enable-hard-errors yes --expect-failure no -- \
        sh "$work/program" > "$work/console"
    seen=$(sed -n 's/^:global-test-result: //p' "$work/program.trs")
    seen="$seen $(sed -n 's/^:test-result: \(.\).*/\1/p' "$work/program.trs" | tr -d '\n')"
    echo "expected $1, seen $seen"
    [ "$1" = "$seen" ]
}

check "every passed case counts" counts "PASS PPP" 'echo 1..3; echo ok 1 - a; echo ok 2 - b; echo ok 3 - c'
check "a failed case fails the program" counts "FAIL PF" 'echo 1..2; echo ok 1 - a; echo not ok 2 - b; exit 1'
check "a skipped case is no failure" counts "PASS PS" 'echo 1..2; echo ok 1 - a; echo "ok 2 - b # SKIP no server"'
check "cmocka's way to skip is no failure" counts "PASS PS" 'echo 1..2; echo ok 1 - a; echo "not ok 2 # SKIP b"'
check "status 77 skips the program" counts "SKIP S" 'exit 77'
check "the plan 1..0 skips the program" counts "SKIP S" 'echo "1..0 # SKIP no server"'
check "a crash after the last case is noticed" counts "FAIL PE" 'echo 1..1; echo ok 1 - a; kill -SEGV $$'
check "a crash before the last case is noticed" counts "FAIL PEE" 'echo 1..2; echo ok 1 - a; kill -ABRT $$'
check "a leak found at exit is noticed" counts "FAIL PE" 'echo 1..1; echo ok 1 - a; exit 23'
check "a quiet end before the last case is noticed" counts "FAIL PE" 'echo 1..2; echo ok 1 - a'
check "a missing plan is noticed" counts "FAIL PE" 'echo ok 1 - a'
check "a program that says nothing is noticed" counts "FAIL E" 'exit 0'
limit=5 # enough on a busy machine to print one line
check "a program that never ends is noticed" counts "FAIL PE" 'echo 1..1; echo ok 1 - a; sleep 600'
unset limit
check "lines of other kinds and standard error do not count" counts "PASS P" \
    'echo 1..1; echo "# ok 7"; echo "hello ok 3"; echo "not ok 9" >&2; echo ok 1 - a'

# says EXPECTED SCRIPT: what a summary is told of that program's failures, its lines joined
says() {
    counts FAIL\ F "$2" > "$work/counted"
    seen=$(sed -n 's/^:test-said: //p' "$work/program.trs" | tr '\n' ';')
    echo "expected $1, seen $seen"
    [ "$1" = "$seen" ] || return 1
    printf '%s' "$seen" | tr ';' '\n' > "$work/said"
    sed -n 's/^    //p' "$work/console" | diff "$work/said" -
}

check "what a failed case said is told, and what the others said is not" says "# 1 != 2;# f.c:7;" \
    'echo 1..2; echo ok 1 - a; echo "# fine"; echo not ok 2 - b; echo "# 1 != 2"; echo "# f.c:7"; exit 1'
check "of many lines the first and the last are told" says "# 1;# 2;# 3;# 4;# 5;# 6;# 7;# 8;…;# 96;# 97;# 98;# 99;# 100;" \
    'echo 1..1; echo not ok 1 - a; seq 100 | sed "s/^/# /"; exit 1'
check "the seed and the last errors are told" says "NEAR_TEST_SEED=5;46;47;48;49;50;" \
    'echo NEAR_TEST_SEED=5 >&2; seq 50 >&2; echo 1..1; echo not ok 1 - a; exit 1'
check "what a sanitizer found is told" says "==7==ERROR: AddressSanitizer: x;46;47;48;49;50;" \
    'echo 1..1; echo ok 1 - a; echo "==7==ERROR: AddressSanitizer: x" >&2; seq 50 >&2; exit 1'
plan
