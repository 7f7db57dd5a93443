#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# nearcache-bench with its private redis-server: the hiredis engine, remote, staleness, storm.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/benchmarks/bench.inc.sh"
. "$top_srcdir/tests/support/redis.inc.sh"
needs_redis

hiredis_returns_what_was_set() {
    run 0 local --engine hiredis --runs 1 --seconds 0.1 --warmup 0 --keys 500 --threads 2 --verify --mix get:70,set:30 --json - &&
        is_json && has results.0.wrong 0 && has results.0.errors 0 && holds "$(value results.0.bytes_per_entry) > 50" &&
        ! has results.0.kept_while_filling && nothing_left
}
# The server dies in the first of three runs: its failed calls are told, and are no operations, however quickly they fail.
failed_calls_are_told() {
    rm -f "$work/err"
    "$bench" local --engine hiredis --runs 3 --seconds 1 --warmup 0 --keys 100 --threads 1 --json "$work/out" > "$work/table" 2> "$work/err" &
    pid=$!
    until socket=$(find "$work" -name redis.sock | grep .) && [ "$(redis-cli -s "$socket" dbsize 2> /dev/null)" = 100 ]; do
        kill -0 $pid 2> /dev/null || return 1
        sleep 0.01
    done
    sleep 0.3
    redis-cli -s "$socket" shutdown nosave > /dev/null 2>&1
    status=0
    wait $pid || status=$?
    cat "$work/err" "$work/table"
    [ $status = 1 ] && grep -q '[1-9][0-9]* failed calls' "$work/err" && is_json && holds "$(value results.0.errors) > 0" &&
        holds "$(value results.0.ops_per_second_max) < 1000000"
}
remote_has_all_calls() {
    run 0 remote --runs 1 --seconds 0.05 --warmup 0.01 --keys 200 --threads 1,2 --json - && is_json && has_environment &&
        has results.length 12 &&
        every_result client operation threads ops_per_second ns_p50 ns_p99 ns_p999 errors && nothing_left || return 1
    i=0
    while [ $i -lt 12 ]; do
        has results.$i.errors 0 && holds "$(value results.$i.ops_per_second) > 0" || return 1
        i=$((i + 1))
    done
}
staleness_is_measured() {
    # with plots: the names of its lines have quotes in them
    run 0 staleness --runs 1 --seconds 0.2 --warmup 0.05 --processes 3 --json - --plot "$work/plots" && is_json && has_environment &&
        has results.length 9 && every_result delay samples ns_p50 ns_p99 ns_p999 ns_percentiles.length && nothing_left &&
        holds "$(value configuration.rounds) > 0 && $(value results.0.samples) + $(value configuration.discarded) == \
            2 * $(value configuration.rounds) && $(value results.0.ns_p50) > 0"
}
# The first barrier of a prefix takes a bound, a second: the round that it is in belongs to the warm-up, however short the
# measured time is; of the rounds in that the shortest barrier is a message's way there and back.
staleness_leaves_the_warm_up_out() {
    run 0 staleness --runs 1 --seconds 0.3 --warmup 0.05 --processes 2 --json - && is_json &&
        has results.4.delay 'nearcache: a write with a barrier' && holds "$(value results.4.ns_percentiles.0) < 900000000"
}
# The server's folder is elsewhere then.
folder_may_have_any_name() {
    mkdir -p "$work/a b%" || return 1
    (TMPDIR="$work/a b%" && run 0 values --runs 1 --seconds 0.05 --warmup 0 --keys 5 --readers 1) && nothing_left
}
# The server is killed and comes back with its data; both kinds of recovery, every changed key read changed (else: status 1).
# More than half of the keys change, and yet not all of them.
outage_is_measured() {
    run 0 outage --keys 2000 --processes 2 --reads 2000 --warmup 0.2 --outage 0.3 --window 3 --changed 0.6 --json - && is_json &&
        has_environment && has results.length 2 && has results.0.wrong 0 && has results.1.wrong 0 && nothing_left &&
        has results.0.kept 0 && has results.0.share_of_flush 1 && holds "$(value results.1.kept) * 4 > $(value results.1.dropped) && $(value results.1.dropped) > 0 && $(value results.0.reads) > 0"
}
# A message a key where values travel or keys come one by one; up to 64 keys a message otherwise.
storm_is_measured() {
    run 0 storm --runs 1 --processes 3 --keys 1000 --batch 500 --held 100 --json - && is_json && has_environment &&
        has results.length 3 && every_result way keys_per_second messages bytes_per_key && nothing_left &&
        has results.0.messages 1000 && has results.1.messages 1000 && has results.2.messages 16
}
# Never and always are exact; how much of the rest travels is for heartbeats to decide.
values_are_measured() {
    run 0 values --runs 1 --seconds 0.5 --warmup 0.2 --readers 2 --keys 20 --json - && is_json && has_environment &&
        has results.length 6 && every_result held_by message_values bytes_per_write carried_percent && nothing_left &&
        has results.0.carried_percent 0 && has results.1.carried_percent 0 && has results.2.carried_percent 100 &&
        has results.3.carried_percent 0 && has results.5.carried_percent 100
}
# A URI as the library takes it: whom the bare connections talk to is whom the cache talks to.
uri_is_understood() {
    start_redis && redis-cli -s "$work/redis.sock" config set requirepass 'p@s%s' > /dev/null || return 1
    uri="unix://:p%40s%25s@$(printf %s "$work/redis.sock" | sed 's,/redis,/%72edis,')?timeout_ms=10s&db=3"
    run 0 remote --uri "$uri" --keys 10 --threads 1 --seconds 0.02 --warmup 0 --runs 1 && [ ! -s "$work/err" ]
}
# A killed run leaves no server and no folder; the process that watches over them needs a moment.
kill_leaves_nothing() {
    "$bench" remote --seconds 100 > /dev/null 2>&1 &
    victim=$!
    tries=0
    until find "$work" -name redis.sock | grep -q .; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo "no server came"; return 1; }
        sleep 0.05
    done
    kill -KILL $victim
    wait $victim 2> /dev/null
    tries=0
    until nothing_left > /dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { nothing_left; return 1; }
        sleep 0.05
    done
}
no_server_is_said() {
    run 1 remote --uri "unix://$work/nothing.sock" --seconds 0.01 && grep -q 'cannot connect' "$work/err" || return 1
    status=0
    mkdir -p "$work/nobin"
    real=$bench
    case $(head -c 2 "$bench") in '#!') real=$(dirname "$bench")/.libs/nearcache-bench ;; esac
    # shellcheck disable=SC2097,SC2098
    LD_LIBRARY_PATH=$top_builddir/.libs PATH=$work/nobin "$real" staleness --seconds 0.01 > "$work/out" 2> "$work/err" || status=$?
    cat "$work/err"
    [ $status = 1 ] && grep -q 'is it installed' "$work/err" && nothing_left
}

check "hiredis returns what was set" hiredis_returns_what_was_set
check "failed calls are told, and are no operations" failed_calls_are_told
check "remote measures every call" remote_has_all_calls
check "staleness is measured, every sample accounted for" staleness_is_measured
check "staleness leaves its warm-up out of the figures" staleness_leaves_the_warm_up_out
check "TMPDIR may have any name" folder_may_have_any_name
check "an outage is measured, with repair and without" outage_is_measured
check "storm is measured, every message accounted for" storm_is_measured
check "values are measured, who never and who always sends them is exact" values_are_measured
check "a killed run leaves nothing behind" kill_leaves_nothing
check "a missing server is said" no_server_is_said
check "the URI is the library's: percent-encoded, with the database among the options" uri_is_understood
plan
