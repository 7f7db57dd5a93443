#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# nearcache-bench replay: exact LRU is exact, the local tier comes near, formats and packers, traces that are wrong.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/benchmarks/bench.inc.sh"

# 20000 requests to 2000 keys, small ones more often.
"$AWK" 'BEGIN { srand(7); for (i = 0; i < 20000; i++) print int(2000 * rand() ^ 3), 100 + i % 7 }' > "$work/trace"

same_as_awk() {
    # Exact LRU, slowly: the age of each key is the number of the request that last used it.
    expected=$(printf '%s\n' a b c a d b a c d e a | "$AWK" -v limit=3 '
        { if ($1 in age) hits++; else if (n == limit) { oldest = ""; for (k in age) if (oldest == "" || age[k] < age[oldest]) oldest = k
          delete age[oldest] } else n++; age[$1] = NR } END { print hits }')
    printf '%s\n' a b c a d b a c d e a > "$work/small"
    run 0 replay --trace "$work/small" --entries 3 --policy exact-lru --json - && is_json &&
        holds "$(value results.0.hit_ratio) * 11 - $expected < 0.001 && $expected - $(value results.0.hit_ratio) * 11 < 0.001" &&
        has results.0.requests 11 && has results.0.distinct 5
}
comes_near() {
    run 0 replay --trace "$work/trace" --entries 400 --json - && is_json && has_environment &&
        every_result policy hit_ratio byte_hit_ratio requests distinct && has results.0.policy lru && has results.1.policy exact-lru &&
        holds "$(value results.0.hit_ratio) - $(value results.1.hit_ratio) < 0.05 && \
            $(value results.1.hit_ratio) - $(value results.0.hit_ratio) < 0.05 && $(value results.1.hit_ratio) > 0.3 && \
            $(value results.0.byte_hit_ratio) > 0.3"
}
plays_every_policy() {
    policies=$("$top_builddir/tools/option_manual" | sed -n 's/^| `policy` | choice | [a-z0-9-]* | \([^|]*\) |.*/\1/p' | tr -d ' ')
    [ "$(echo "$policies" | tr ',' '\n' | wc -l)" -ge 5 ] || return 1
    run 0 replay --trace "$work/trace" --entries 400 --policy "$policies" --json - && is_json || return 1
    number=0
    for policy in $(echo "$policies" | tr ',' ' '); do
        has results.$number.policy "$policy" && holds "$(value results.$number.hit_ratio) > 0.25" || return 1
        number=$((number + 1))
    done
    run 2 replay --trace "$work/trace" --entries 400 --policy lru,lr && grep -q 'policy' "$work/err"
}
advises() {
    run 0 replay --trace "$work/trace" --entries 100,400 --policy lru,exact-lru --curve --json - && is_json || return 1
    for pair in '0 1' '2 3'; do
        advised=$(value "results.${pair% *}.advised_hit_ratio") exact=$(value "results.${pair#* }.hit_ratio")
        holds "$advised - $exact < 0.03 && $exact - $advised < 0.03" || return 1
    done
    # exact LRU, which advises nothing, has the column all the same: what is behind it stays where it belongs
    run 0 replay --trace "$work/trace" --entries 100 --policy exact-lru,lru --curve --runs 1 --csv - &&
        "$AWK" -F, '{ fields[NR] = NF } END { exit !(NR == 3 && fields[1] == fields[2] && fields[1] == fields[3]) }' "$work/out" &&
        run 0 replay --trace "$work/trace" --entries 100 --policy exact-lru,lru --curve --runs 1 &&
        "$AWK" '/^exact-lru/ && / - / { found = 1 } END { exit !found }' "$work/out"
}
# Exact LRU has the same hits each time, the tier about so many: each run begins with nothing.
repeats() {
    run 0 replay --trace "$work/trace" --entries 400 --runs 2 --threads 1,2 --json - && is_json && has results.length 4 &&
        has results.1.hit_ratio_spread 0 || return 1
    for i in 0 1 2 3; do
        for figure in hit_ratio ops_per_second; do
            has results.$i.${figure}_runs.length 2 &&
                holds "$(value results.$i.${figure}_min) <= $(value results.$i.$figure) &&
                    $(value results.$i.$figure) <= $(value results.$i.${figure}_max) && $(value results.$i.${figure}_min) > 0" || return 1
        done
        holds "$(value results.$i.hit_ratio_spread) < 0.02" || return 1
    done
}
counts_bytes() {
    run 0 replay --trace "$work/trace" --bytes 1500000,3m --threads 1,2 --json - && is_json && has results.length 8 &&
        has results.2.threads 2 && has results.0.unit bytes
}
# An eighth of the bytes is kept, by all alike, and a byte more is a miss each time: of 105 requests 82 are hits.
leaves_out_what_is_too_large() {
    { "$AWK" 'BEGIN { for (i = 0; i < 100; i++) print i % 20, 100 }'
      printf '%s\n' 'a 131072' 'a 131072' 'b 131073' 'b 131073' '0 100'; } > "$work/large"
    run 0 replay --trace "$work/large" --bytes 1m --policy lru,s3fifo,volatile-lru,exact-lru --json - && is_json || return 1
    for i in 0 1 2 3; do
        has results.$i.not_kept 2 && has results.$i.errors 0 && has results.$i.evictions 0 && has results.$i.entries 21 &&
            holds "$(value results.$i.hit_ratio) > 0.78 && $(value results.$i.hit_ratio) < 0.782" || return 1
    done
    run 0 replay --trace "$work/large" --bytes 1m && grep -q 'not kept' "$work/out" || return 1
    run 0 replay --trace "$work/large" --entries 1000 --json - && is_json && has results.0.not_kept 0 && has results.1.not_kept 0
}
# A line of the picture has one number of threads: hit ratios of one size are no jags in it.
plots_threads_apart() {
    run 0 replay --trace "$work/trace" --entries 100,400 --policy lru --threads 1,2 --runs 1 --plot "$work/plots" || return 1
    cat "$work/plots/hit-ratio.dat"
    [ "$(grep '^#' "$work/plots/hit-ratio.dat" | tr '\n' ' ')" = '# lru, 1 thread # lru, 2 threads ' ] &&
        "$AWK" 'NF == 2 && /^[0-9]/ { sizes = sizes " " $1 } END { exit sizes != " 100 400 100 400" }' "$work/plots/hit-ratio.dat"
}
# Each key is wanted for a while and then never again: threads that are not at the same place of the trace find nothing of each other's.
keeps_threads_together() {
    "$AWK" 'BEGIN { srand(7); for (i = 0; i < 200000; i++) print int(i / 6) + int(log(1 - rand()) * 500) }' > "$work/passing"
    run 0 replay --trace "$work/passing" --entries 2000 --policy lru --threads 1,2,4 --json - && is_json &&
        holds "$(value results.0.hit_ratio) > 0.8 && $(value results.0.hit_ratio) - $(value results.1.hit_ratio) < 0.02 &&
            $(value results.0.hit_ratio) - $(value results.2.hit_ratio) < 0.02"
}
# The loads of docs/policies.md can be made, the same ones each time.
makes_traces() {
    for name in zipf scans once edge loop loops saw batch tiny large; do
        "$top_srcdir/benchmarks/traces.sh" $name 2000 > "$work/made" && "$top_srcdir/benchmarks/traces.sh" $name 2000 | cmp - "$work/made" &&
            run 0 replay --trace "$work/made" --entries 100 --policy exact-lru --runs 1 --json - && is_json && has results.0.requests 2000 || return 1
    done
    status=0
    "$top_srcdir/benchmarks/traces.sh" nothing 2> "$work/err" || status=$?
    [ $status = 2 ] && grep -q 'Zipf 1.0 among' "$work/err"
}
unpacks() {
    "$1" -c < "$work/trace" > "$work/trace.$1" &&
        run 0 replay --trace "$work/trace.$1" --entries 400 --policy exact-lru --json - && is_json && has results.0.requests 20000
}
# little NUMBER BYTES: as octal escapes
little() {
    number=$1 left=$2
    while [ "$left" -gt 0 ]; do
        printf '\\0%03o' $((number % 256))
        number=$((number / 256)) left=$((left - 1))
    done
}
reads_records() {
    for key in 1 2 1 3 1 2; do
        # shellcheck disable=SC2059
        printf '%b' "$(little 5 4)$(little $key 8)$(little 1000 4)$(little 0 8)"
    done > "$work/records"
    [ "$(wc -c < "$work/records")" = 144 ] || return 1
    run 0 replay --trace "$work/records" --entries 2 --policy exact-lru --json - && is_json && has results.0.requests 6 &&
        has results.0.distinct 3 && holds "$(value results.0.hit_ratio) > 0.332 && $(value results.0.hit_ratio) < 0.334" || return 1
    head -c 140 "$work/records" > "$work/cut"
    wrong "$work/cut" 'record 6: incomplete'
}
# wrong FILE TEXT: the file is named, and what is wrong about it
wrong() {
    run 1 replay --trace "$1" --entries 2 && grep -q "^nearcache-bench: $1: .*$2" "$work/err"
}
says_what_is_wrong() {
    printf 'a 1\nb x\n' > "$work/bad"
    wrong "$work/bad" 'line 2' || return 1
    printf 'a 1 2\n' > "$work/bad"
    wrong "$work/bad" 'line 1' || return 1
    : > "$work/bad"
    wrong "$work/bad" 'no requests' || return 1
    gzip -c < "$work/trace" | head -c 2000 > "$work/bad.gz"
    wrong "$work/bad.gz" 'unpacking' && wrong "$work" 'Is a directory' && wrong "$work/nothing" 'No such file'
}

check "exact LRU is what a slow model says" same_as_awk
check "the local tier comes near exact LRU" comes_near
check "every policy of the option is played" plays_every_policy
check "near_advise tells what exact LRU would do" advises
check "it is run as often as wanted, with medians and spread" repeats
check "limits in bytes, several threads" counts_bytes
check "what is too large is not kept, and counted" leaves_out_what_is_too_large
check "several threads are at the same place of the trace" keeps_threads_together
check "several threads are lines of their own in the picture" plots_threads_apart
check "synthetic traces are made" makes_traces
for packer in gzip xz zstd; do
    if command -v $packer > /dev/null; then
        check "$packer is unpacked" unpacks $packer
    else
        skip "$packer is unpacked" "no $packer"
    fi
done
check "oracleGeneral is read" reads_records
check "a wrong trace is said, with its file and line" says_what_is_wrong
plan
