# SPDX-License-Identifier: BSD-3-Clause
# Sourced by the tests of nearcache-bench, after tap.sh.
bench=$top_builddir/benchmarks/nearcache-bench
AWK=${AWK:-awk}
TMPDIR=$work # private servers live there
export TMPDIR

# run STATUS ARGUMENT…: ends with this status; its output is in out and err
run() {
    wanted=$1
    shift
    status=0
    "$bench" "$@" > "$work/out" 2> "$work/err" || status=$?
    cat "$work/err"
    head -c 2000 "$work/out"
    echo "status $status, wanted $wanted"
    [ "$status" = "$wanted" ]
}

# The last run's output is JSON; its scalars are in flat, one a line.
is_json() {
    LC_ALL=C "$AWK" -f "$top_srcdir/tests/benchmarks/json.awk" < "${1:-$work/out}" > "$work/flat" || return 1
    has program nearcache-bench
}

# has PATH [VALUE]
has() {
    "$AWK" -F '\t' -v path="$1" -v value="${2-}" -v any=$(($# < 2)) \
        '$1 == path && (any || $2 == value) { found = 1 } END { exit !found }' "$work/flat" && return 0
    echo "no $1 ${2-}:"
    cat "$work/flat"
    return 1
}

# value PATH
value() {
    "$AWK" -F '\t' -v path="$1" '$1 == path { print $2 }' "$work/flat"
}

# holds EXPRESSION: of awk, on numbers
holds() {
    "$AWK" "BEGIN { exit !($1) }" || { echo "does not hold: $1"; return 1; }
}

# every_result FIELD…: each result has them
every_result() {
    count=$(value results.length)
    [ "${count:-0}" -gt 0 ] || { echo "no results"; return 1; }
    i=0
    while [ "$i" -lt "$count" ]; do
        for field; do
            has "results.$i.$field" || return 1
        done
        i=$((i + 1))
    done
}

has_environment() {
    for field in cpu_model cores kernel governor versions.nearcache versions.liburcu versions.hiredis command.length; do
        has "environment.$field" || return 1
    done
}

nothing_left() {
    left=$(find "$work" -name 'nearcache-bench.*')
    [ -z "$left" ] || { echo "left behind: $left"; return 1; }
}

needs_redis() {
    command -v redis-server > /dev/null && return 0
    echo "redis-server is not installed: this part of nearcache-bench is NOT TESTED" >&2
    skip "nearcache-bench with Redis" "redis-server is not installed (Debian: apt-get install redis-server)"
    plan
}
