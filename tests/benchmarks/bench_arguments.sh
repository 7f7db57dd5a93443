#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# nearcache-bench: help, version, and that what is wrong on its command line is said, with status 2.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/benchmarks/bench.inc.sh"

names_all_subcommands() {
    run 0 "$1" || return 1
    for word in local remote staleness outage storm values invalidate replay; do
        grep -q "^  $word " "$work/out" || { echo "$word is not there"; return 1; }
    done
}
helps() {
    run 0 "$1" --help && grep -q "^usage: nearcache-bench $1" "$work/out" && grep -q -e '--json FILE' "$work/out"
}
# An option's words begin in one column ("…" is one of them), and what it has by default is in brackets.
lays_the_help_out() {
    run 0 "$1" --help && sed 's/…/./g' "$work/out" | grep '^  -' > "$work/rows" && [ "$(wc -l < "$work/rows")" -ge 8 ] || return 1
    ! LC_ALL=C grep -v '^  .\{26\} [^ ]' "$work/rows" && ! grep '([0-9][0-9a-z]*)$' "$work/rows"
}
# tells_default SUBCOMMAND OPTION DEFAULT
tells_default() {
    run 0 "$1" --help && grep -q "^  --$2 .*\[$3\]\$" "$work/out" || { echo "$1 --$2 has no [$3]"; return 1; }
}
tells_defaults() {
    while read -r subcommand option default; do
        tells_default "$subcommand" "$option" "$default" || return 1
    done << 'EOF'
local runs 3
local seconds 0.5
local warmup 0.2
local seed 1
local threads 1,2
local engine nearcache,floor,.*
outage runs 1
outage value-size 100
storm keys 100k
storm uri a private one
resize local-bytes 256m
invalidate entries 1000000
EOF
    run 0 local --help && grep -q 'choose from nearcache nearcache-ttl floor one-line eight-ways ' "$work/out"
}
needs_a_subcommand() {
    run 2 && grep -q '^usage: nearcache-bench SUBCOMMAND' "$work/err" && [ ! -s "$work/out" ] &&
        refuses 'no such subcommand' --runs 1 && run 0 --version && grep -q '^nearcache-bench [0-9]' "$work/out"
}
# refuses TEXT ARGUMENT…: status 2, the text on stderr, nothing on stdout
refuses() {
    text=$1
    shift
    run 2 "$@" && grep -q -e "$text" "$work/err" && [ ! -s "$work/out" ]
}
refuses_numbers() {
    for word in 0 -1 x 1x '' 99999999999999999999; do
        refuses 'threads' local --threads "$word" || return 1
    done
    refuses '--threads 1,,2' local --threads 1,,2 && refuses '--keys' local --keys 9999999999 &&
        refuses '--value-size' local --value-size 1q && refuses '--seconds' local --seconds nan &&
        refuses '--seconds' remote --seconds 0 && refuses '--processes' staleness --processes 1 &&
        refuses '--entries' invalidate --entries 0 &&
        refuses '--entries times --value-size: local_bytes' invalidate --entries 100000000 --value-size 64k &&
        refuses '--held 999999999: must be a number from 0 to 10000000 (k, m or g may follow it)$' storm --held 999999999
}
refuses_words() {
    refuses 'no such subcommand' frobnicate && refuses 'unknown option' local --frobnicate &&
        refuses 'unexpected argument' local nearcache && refuses 'needs an argument' local --keys &&
        refuses 'takes no argument' local --verify=1 && refuses 'takes no argument' local --no-huge-pages=1 && refuses 'choose from nearcache' local --engine memcached &&
        refuses '--dist' local --dist zipf && refuses '--mix' local --mix get:0 && refuses '--mix' local --mix put:1 &&
        refuses '--policy nope: .*s3fifo' resize --policy nope && refuses '--repair-rate x: ' outage --repair-rate x || return 1
    for subcommand in remote staleness storm values invalidate; do
        refuses '--uri: .*must' $subcommand --uri http://example && [ "$(wc -l < "$work/err")" = 1 ] || return 1
    done
}
# Two caches of "local:" share nothing: no message would ever come.
needs_a_shared_tier() {
    refuses '--uri local:: must name a remote tier' invalidate --entries 10 --rounds 1 --uri local: &&
        refuses '--uri local:: must name' invalidate --uri 'local:?password=secret' && ! grep -q secret "$work/err"
}
# says_why TEXT ARGUMENT…: status 1, this alone on stderr, nothing measured
says_why() {
    text=$1
    shift
    run 1 "$@" && grep -q "$text" "$work/err" && [ "$(wc -l < "$work/err")" = 1 ] && [ ! -s "$work/out" ]
}
# A server that is not there, said once and soon.
misses_servers() {
    for subcommand in remote staleness storm values; do
        says_why '^nearcache-bench: --uri: cannot connect' $subcommand --uri "unix://$work/nothing.sock" || return 1
    done
    says_why '^nearcache-bench: --uri: cannot reach' invalidate --entries 10 --rounds 1 --uri "unix://$work/nothing.sock"
}
refuses_replays() {
    : > "$work/empty"
    refuses 'needs --trace' replay && refuses 'either --entries' replay --trace "$work/empty" &&
        refuses 'either --entries' replay --trace "$work/empty" --entries 1 --bytes 2000000 &&
        refuses '--policy' replay --trace "$work/empty" --entries 1 --policy fifo &&
        refuses '--format' replay --trace "$work/empty" --entries 1 --format xml
}
# An option that would do nothing is not there: neither in the help, nor on the command line, nor in the results.
knows_no_idle_options() {
    while read -r subcommand options; do
        run 0 "$subcommand" --help || return 1
        for option in $options; do
            ! grep -q -e "--$option " "$work/out" || { echo "$subcommand has --$option"; return 1; }
        done
        for option in $options; do
            refuses "--$option: unknown option; see nearcache-bench $subcommand --help" "$subcommand" "--$option" 1 || return 1
        done
    done << 'EOF'
replay seed seconds warmup
outage seconds plot
invalidate runs seed seconds warmup plot
storm seed seconds warmup plot
values seed plot
resize plot
EOF
    printf 'a\nb\n' > "$work/two"
    run 0 replay --trace "$work/two" --entries 1 --runs 1 --json - && is_json && has environment.runs 1 && ! has environment.seed
}
fails_on_files() {
    for option in json csv plot; do # said before the hour is measured
        says_why 'nowhere/x: No such file' local --engine floor --seconds 3600 --$option "$work/nowhere/x" || return 1
    done
    says_why 'Is a directory' local --seconds 3600 --json "$work" && says_why 'Not a directory' local --seconds 3600 --plot "$work/err" &&
        says_why 'No such file' replay --trace "$work/nothing" --entries 1
}
# Neither where the command line is told nor where the configuration is.
tells_no_password() {
    run 0 invalidate --entries 10 --rounds 1 --window-ms 1 --uri 'memory://bench?password=secret' --json - && is_json &&
        has configuration.uri 'memory://bench?password=***' && ! grep -q secret "$work/out" || return 1
    # where a subcommand takes no such URI it is the name of a file
    run 0 local --engine floor --keys 1000 --threads 1 --runs 1 --seconds 0.01 --warmup 0 --csv 'local:?password=secret' --json - &&
        is_json && ! grep -q secret "$work/out"
    told=$?
    rm -f 'local:?password=secret'
    return $told
}
# Results that nobody gets are no results.
fails_on_a_full_disk() {
    printf 'a\nb\n' > "$work/two"
    for option in '' '--json -' '--csv -'; do
        status=0
        # shellcheck disable=SC2086 # an option and its argument
        "$bench" replay --trace "$work/two" --entries 1 --runs 1 $option > /dev/full 2> "$work/err" || status=$?
        cat "$work/err"
        [ "$status" = 1 ] && grep -q '^nearcache-bench: standard output: No space left' "$work/err" || { echo "$option: status $status"; return 1; }
    done
}
fails_on_a_full_disk_for_plots() {
    printf 'a\nb\n' > "$work/two"
    for file in hit-ratio.dat hit-ratio.gnuplot; do
        rm -rf "$work/plots"
        mkdir "$work/plots" && ln -s /dev/full "$work/plots/$file" &&
            run 1 replay --trace "$work/two" --entries 1 --runs 1 --plot "$work/plots" &&
            grep -q "^nearcache-bench: $work/plots/$file: No space left" "$work/err" || return 1
    done
}
one_place_for_one_thing() {
    refuses '--csv -: is where the JSON goes' local --json - --csv - &&
        refuses "--csv $work/x: is where" local --csv "$work/x" --json "$work/x" && [ ! -e "$work/x" ]
}

check "the help names every subcommand" names_all_subcommands --help
check "so does the word help" names_all_subcommands help
check "without a subcommand nothing is measured" needs_a_subcommand
for subcommand in local remote staleness outage storm values invalidate replay resize; do
    check "$subcommand has a help" helps $subcommand
    check "$subcommand lays it out in columns" lays_the_help_out $subcommand
done
check "defaults are told" tells_defaults
check "it tells its version" run 0 local --version
check "numbers outside their range end with status 2" refuses_numbers
check "words that it does not know end with status 2" refuses_words
check "what two caches share is not the local tier" needs_a_shared_tier
check "a replay needs a trace, a size and known policies" refuses_replays
check "options that mean nothing to a subcommand are unknown to it" knows_no_idle_options
check "files that cannot be opened end with status 1" fails_on_files
check "a password is not among the results" tells_no_password
if [ -c /dev/full ]; then
    check "a full disk ends with status 1" fails_on_a_full_disk
    check "so does one that is full for plots, and it is said" fails_on_a_full_disk_for_plots
fi
check "JSON and CSV do not go to the same place" one_place_for_one_thing
check "servers that are not there end with status 1" misses_servers
plan
