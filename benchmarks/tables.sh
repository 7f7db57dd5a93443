#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The measured tables of docs/local-tier.md as Markdown, on standard output:
#
#     benchmarks/tables.sh [NEARCACHE-BENCH [OPTION...]]
#
# The options are given to every run; "--runs 5 --seconds 1" if there are none, which takes about ten minutes.  Each
# table is one interleaved run; the machine should have nothing else to do.
set -eu

bench=${1:-nearcache-bench}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- --runs 5 --seconds 1
csv=$(mktemp)
trap 'rm -f "$csv"' EXIT

# TITLE ARGUMENT...: a table of one row an engine and number of threads.
table()
{
    title=$1
    shift
    "$bench" local "$@" --csv "$csv" >/dev/null
    printf '\n%s: `nearcache-bench local %s`\n\n' "$title" "$*"
    printf '| engine | threads | M/s | spread | of nearcache | hits | bytes an entry | p50 ns | p99 ns |\n|---|---|---|---|---|---|---|---|---|\n'
    awk -F, '
        NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
        function of(name) { return $column[name] }
        {
            engine = of("engine"); gsub(/"/, "", engine)
            printf "| %s | %d | %.1f | %.0f %% | %.2f | %.1f %% | %.0f | %d | %d |\n", engine, of("threads"), of("ops_per_second") / 1e6,
                of("spread") * 100, of("relative_to_nearcache"), of("hit_ratio") * 100, of("bytes_per_entry"), of("ns_p50"), of("ns_p99")
        }' "$csv"
}

engines=nearcache,floor,cds-lfht,sharded-lru
table 'Zipf 0.99, 1 M keys' --engine $engines,one-line --threads 1,2 "$@"
table 'Uniform, 1 M keys' --engine $engines,one-line --threads 1,2 --dist uniform "$@"
table 'Zipf 0.99, 16,384 keys' --engine $engines,one-line --threads 1,2 --keys 16384 "$@"
table 'One key a call, uniform' --engine nearcache,floor --threads 1 --dist uniform "$@"
table 'Sixteen keys a call, uniform' --engine nearcache,floor --threads 1 --dist uniform --batch 16 "$@"
table 'Reads and writes' --engine nearcache,one-line,eight-ways,sharded-lru --threads 2 --mix get:95,set:5 "$@"
table 'Filling on miss' --engine nearcache,eight-ways,sharded-lru --threads 2 --fill-on-miss --entries 100000 "$@"
table 'Uniform, 16,000 keys in a tier that has evicted four times as many' --engine nearcache,sharded-lru --threads 1,2 \
    --dist uniform --keys 16000 --entries 17000 --churn 4 "$@"
