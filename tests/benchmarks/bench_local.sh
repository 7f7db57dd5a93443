#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# nearcache-bench local: each engine returns what was set, and the results have their fields.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/benchmarks/bench.inc.sh"

quick='--runs 1 --seconds 0.1 --warmup 0.02 --keys 2000'
fields='engine threads ops_per_second ops_per_second_min ops_per_second_max hit_ratio bytes_per_entry ns_p50 ns_p99 ns_p999'
# ThreadSanitizer does not know how liburcu, Concurrency Kit and sequence locks order things.
case ${INSTRUMENT_CFLAGS-} in
*thread*) engines="nearcache nearcache-ttl floor one-line eight-ways uthash-lru sharded-lru" ;;
*) engines="nearcache nearcache-ttl floor one-line eight-ways cds-lfht uthash-lru sharded-lru" ;;
esac
run 2 local --engine none > /dev/null
! grep -q libcuckoo "$work/err" || engines="$engines libcuckoo"
if grep -q ck-ht "$work/err"; then
    case ${INSTRUMENT_CFLAGS-} in *thread*) ;; *) engines="$engines ck-ht" ;; esac
fi

returns_what_was_set() {
    # shellcheck disable=SC2086 # lists of words
    run 0 local $quick --verify --engine "$1" --threads 2 --mix get:70,set:30 --fill-on-miss --json - && is_json &&
        has results.0.engine "$1" && has results.0.wrong 0 && has results.0.errors 0 &&
        holds "$(value results.0.ops_per_second) > 0 && $(value results.0.hit_ratio) > 0.9"
}
mget_returns_what_was_set() {
    # shellcheck disable=SC2086
    run 0 local $quick --verify --engine "$1" --threads 1 --batch 16 --mix get:90,set:10 --fill-on-miss --json - && is_json &&
        has results.0.wrong 0 && has results.0.errors 0
}
results_have_their_fields() {
    # shellcheck disable=SC2086
    run 0 local $quick --runs 2 --engine nearcache,floor,sharded-lru --threads 1,2 --json - && is_json && has results.length 6 &&
        has_environment && has environment.seed 1 && has environment.runs 2 && every_result $fields && has results.0.ops_per_second_runs.length 2 &&
        has results.3.engine nearcache && has results.3.threads 2
}
smaller_caches_miss() {
    # shellcheck disable=SC2086
    run 0 local $quick --engine nearcache,sharded-lru,uthash-lru,eight-ways --threads 1 --entries 500 --fill-on-miss --json - && is_json ||
        return 1
    for i in 0 1 2 3; do
        holds "$(value results.$i.hit_ratio) < 0.95 && $(value results.$i.hit_ratio) > 0.5 && $(value results.$i.fills) > 0 &&
            $(value results.$i.entries) <= 512" || return 1
    done
}
# However small the limit is; eight-ways has whole buckets, and sharded-lru an entry a shard at least.
tiny_caches_keep_to_their_limits() {
    # shellcheck disable=SC2086
    run 0 local $quick --engine nearcache,sharded-lru,uthash-lru --threads 1 --entries 100 --churn 9 --json - && is_json || return 1
    for i in 0 1 2; do
        has results.$i.entries 100 || return 1
    done
}
# Of uniform reads it hits what share of the keys it has room for; a tape that is too short names no more than that.
many_keys_are_all_asked_for() {
    run 0 local --engine sharded-lru --threads 1 --runs 1 --seconds 0.1 --warmup 0 --keys 600000 --entries 500000 --value-size 8 \
        --dist uniform --fill-on-miss --json - && is_json &&
        holds "$(value results.0.hit_ratio) > 0.8 && $(value results.0.hit_ratio) < 0.87"
}
churned_caches_have_evicted() {
    # shellcheck disable=SC2086
    run 0 local $quick --engine nearcache,sharded-lru --threads 1 --entries 2200 --churn 3 --json - && is_json || return 1
    for i in 0 1; do # what is left of the other keys is there as well
        holds "$(value results.$i.entries) > 2010 && $(value results.$i.entries) <= 2300 && $(value results.$i.hit_ratio) > 0.9" || return 1
    done
    run 2 local $quick --engine nearcache --churn 3 > /dev/null && grep -q 'churn.*--entries' "$work/err"
}
writes_csv_and_plots() {
    # shellcheck disable=SC2086
    run 0 local $quick --engine floor --threads 1 --csv "$work/out.csv" --plot "$work/plots" || return 1
    [ "$(wc -l < "$work/out.csv")" = 2 ] && head -n 1 "$work/out.csv" | grep -q '^engine,threads,ops_per_second,' || return 1
    for name in throughput latency; do
        [ -s "$work/plots/$name.dat" ] && [ -s "$work/plots/$name.gnuplot" ] || { ls -l "$work/plots"; return 1; }
        command -v gnuplot > /dev/null || continue
        [ -s "$work/plots/$name.svg" ] && [ -s "$work/plots/$name.png" ] || { ls -l "$work/plots"; return 1; }
    done
}
invalidation_is_one_message() {
    run 0 invalidate --entries 5000 --rounds 3 --window-ms 5 --json - && is_json && has results.length 2 || return 1
    for i in 0 1; do
        has results.$i.messages_per_invalidation 1 && has results.$i.wrong 0 &&
            holds "$(value results.$i.entries_before) >= 5000" &&
            holds "$(value results.$i.entries_before) - $(value results.$i.entries_after) <= 1" &&
            holds "$(value results.$i.hits) > 0 && $(value results.$i.longest_hit_us) > 0" || return 1
    done
}
# Beside nothing there is no ratio: "-" in the table, not in JSON, nothing in CSV.
has_no_ratio_to_nothing() {
    # shellcheck disable=SC2086
    run 0 local $quick --engine floor --threads 1 --csv "$work/out.csv" --json "$work/out.json" &&
        "$AWK" '$1 == "floor" && $5 == "-" { found = 1 } END { exit !found }' "$work/out" &&
        "$AWK" -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "relative_to_nearcache") at = i } END { exit !(at && $at == "") }' \
            "$work/out.csv" && is_json "$work/out.json" && has results.0.engine floor && ! has results.0.relative_to_nearcache
}
# Nor is there one of hits to no reads.
has_no_ratio_of_no_reads() {
    # shellcheck disable=SC2086
    run 0 local $quick --engine floor --threads 1 --mix set:1 --json "$work/out.json" &&
        "$AWK" '$1 == "floor" && $6 == "-" { found = 1 } END { exit !found }' "$work/out" && is_json "$work/out.json" &&
        has results.0.engine floor && ! has results.0.hit_ratio
}
odd_words_stay_json() {
    # shellcheck disable=SC2086
    run 0 local $quick --engine floor --threads 1 --csv "$(printf '%s/a"b\\c\td\377' "$work")" --json - && is_json
}

for engine in $engines; do
    check "$engine returns what was set" returns_what_was_set "$engine"
done
check "near_mget returns what was set" mget_returns_what_was_set nearcache
check "results have their fields, engine by engine" results_have_their_fields
check "caches smaller than the keys miss, and keep to their limits" smaller_caches_miss
check "so do tiny ones" tiny_caches_keep_to_their_limits
check "all of many keys are asked for" many_keys_are_all_asked_for
check "caches churned before have evicted, and serve what came last" churned_caches_have_evicted
check "CSV and plots are written" writes_csv_and_plots
check "an engine alone is compared with nothing" has_no_ratio_to_nothing
check "writes alone have no hits" has_no_ratio_of_no_reads
check "an invalidation of thousands is one message, and removes nothing" invalidation_is_one_message
check "any command line is told in JSON" odd_words_stay_json
plan
