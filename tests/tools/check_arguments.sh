#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# nearcache-check: help, and that what is wrong on its command line is said, with status 2, before anything is started.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/tools/check.inc.sh"

helps() {
    run 0 --help && grep -q -e '--faults LIST' "$work/out" && ! grep -q sabotage "$work/out"
}
lists_the_faults() {
    run 0 --list && grep -q '^  failover .*(not with --uri)$' "$work/out" && [ "$(wc -l < "$work/out")" -ge 25 ] &&
        grep -q '^  hold .*(with --uri: redis:// only)$' "$work/out"
}
# refuses TEXT ARGUMENT…
refuses() {
    text=$1
    shift
    run 2 "$@" && grep -q -e "$text" "$work/err" && [ ! -s "$work/out" ]
}
refuses_numbers() {
    for word in 0 -1 x 1x '' 99999999999999999999; do
        refuses '--duration' --duration "$word" && refuses '--processes' --processes "$word" || return 1
    done
    refuses '--bound' --bound 49 && refuses '--threads' --threads 9 && refuses '--writers' --writers 5 &&
        refuses '--seed' --seed x && refuses '--processes' --processes 17
}
refuses_faults() {
    refuses '--faults nonsense' --faults nonsense && refuses '--faults kill,x' --faults flushall,kill,x &&
        refuses 'not possible with --uri.*all leaves out' --uri redis://127.0.0.1 --faults flushall &&
        refuses 'not possible with this --uri.*redis://' --uri "unix://$work/nothing.sock" --faults process-stop,hold &&
        refuses 'not possible with this --uri' --uri 'redis://[::1]:1' --faults hold &&
        refuses 'not possible with this --uri' --uri 'redis://:p@ss@[::1]:1' --faults hold # the host is behind the last @
}
refuses_uris() {
    refuses 'cannot share' --uri memory://x && refuses '--uri' --uri nonsense && refuses '--uri' --uri redis://:x/y/z
}
refuses_options() {
    refuses '--option' --option x && refuses '--option' --option nonsense=1 && refuses '--option' --option bound_ms=x
}

check "--help" helps
check "--list names the faults" lists_the_faults
check "wrong numbers are refused" refuses_numbers
check "unknown faults are refused" refuses_faults
check "wrong URIs are refused" refuses_uris
check "wrong options of the library are refused" refuses_options
check "what is too much is refused" refuses 'not expected' extra
check "sabotage is for the tests' own program alone" refuses 'help' --sabotage deaf
says_what_it_cannot_write() {
    run 1 --json "$work/nowhere/x" --duration 1 && grep -q "cannot write $work/nowhere/x: " "$work/err" && [ ! -s "$work/out" ]
}
check "a file that cannot be written is said before anything is started" says_what_it_cannot_write
# cannot TEXT ARGUMENT…: status 1, and why
cannot() {
    text=$1
    shift
    run 1 "$@" && grep -q "$text" "$work/err" && ! grep -q VIOLATION "$work/out"
}
check "a server that cannot be started is said" cannot '^cannot start /nonexistent: No such file' --redis-server /nonexistent --duration 1
check "so is one that is no program" cannot "^cannot start $work/err: Permission denied" --redis-server "$work/err" --duration 1
check "and one that ends at once" cannot 'false does not start' --redis-server false --duration 1
check "a server that is not there is said" cannot 'cannot reach .*nothing.sock' --uri "unix://$work/nothing.sock" --duration 1
check "it tells its version" run 0 --version
plan
