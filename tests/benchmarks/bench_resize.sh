#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# nearcache-bench resize: the tier is made smaller and larger under its readers, and each phase has its figures.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/benchmarks/bench.inc.sh"

quick='--runs 1 --seconds 0.1 --warmup 0.02 --keys 40000 --local-bytes 16m --factor 8 --dist uniform'

tells_every_phase() {
    # shellcheck disable=SC2086 # a list of words
    run 0 resize $quick --threads 1,2 --fill-on-miss --json - && is_json && has_environment && has results.length 10 &&
        every_result phase threads seconds ops_per_second relative_to_steady relative_to_steady_by_cpu hit_ratio entries || return 1
    for i in 0 5; do
        holds "$(value results.$((i + 2)).entries) < $(value results.$i.entries) / 2 &&
            $(value results.$((i + 3)).entries) > $(value results.$((i + 2)).entries) * 2 &&
            $(value results.$((i + 2)).hit_ratio) < 0.5 && $(value results.$i.hit_ratio) > 0.9" || return 1
    done
    has results.1.phase shrink && has results.8.phase grow && has results.8.threads 2
}
# Without filling a larger tier has nothing to do, and a steady phase may be short: nobody waits in either.
short_phases_are_no_stalls() {
    # shellcheck disable=SC2086
    run 0 resize $quick --seconds 0.02 --threads 1 --json - && is_json && has results.length 5 || return 1
    for i in 0 2 3 4; do
        holds "$(value results.$i.slowest_slice) > 0 && $(value results.$i.slowest_slice_of_expected) > 0" || return 1
    done
}
# Its phases come to their ends: keys have a time to live, since what has none is never evicted under it.
plays_the_volatile_policy() {
    # shellcheck disable=SC2086
    run 0 resize $quick --seconds 0.02 --keys 50000 --local-bytes 4m --factor 4 --threads 1 --policy volatile-lru \
        --fill-on-miss --json - && is_json &&
        holds "$(value results.0.entries) > 12000 && $(value results.2.entries) < $(value results.0.entries) / 2 &&
            $(value results.3.entries) > $(value results.0.entries) / 2"
}
refuses_nonsense() {
    run 2 resize --local-bytes 4m --factor 8 && grep -q factor "$work/err" && run 2 resize --dist none && run 2 resize --factor 1
}

check "each phase has its figures" tells_every_phase
check "a phase that is too short for a slice has no stall" short_phases_are_no_stalls
check "the volatile policy has something to evict" plays_the_volatile_policy
check "sizes that cannot be are refused" refuses_nonsense
plan
