# SPDX-License-Identifier: BSD-3-Clause
# Sourced by the tests of tools/nearcache-check, after tap.sh.
program=$top_builddir/tools/nearcache-check
TMPDIR=$work # where the private servers of a run live
export TMPDIR

if ! command -v redis-server > /dev/null; then
    echo "redis-server is not installed: nearcache-check is NOT TESTED" >&2
    skip "nearcache-check" "redis-server is not installed (Debian: apt-get install redis-server)"
    plan
fi

# run STATUS ARGUMENT…: the program ends with this status
run() {
    wanted=$1
    shift
    "$program" "$@" > "$work/out" 2> "$work/err"
    status=$?
    tail -n 60 "$work/out"
    cat "$work/err"
    echo "status $status, wanted $wanted"
    [ $status -eq "$wanted" ]
}

# number NAME: of the JSON results
number() {
    sed -n "s/^  \"$1\": \([0-9.]*\),*\$/\1/p" "$work/results.json"
}

# above NAME LEAST
above() {
    awk -v number="$(number "$1")" -v least="$2" 'BEGIN { print number; exit !(number + 0 > least) }'
}

# No server of a run is left, and no folder of one.  The guardians need a moment.
nothing_left() {
    tries=0
    while [ $tries -lt 200 ]; do
        left=$(ls -d "$work"/near-redis-* 2> /dev/null)
        [ -z "$left" ] && return 0
        sleep 0.1
        tries=$((tries + 1))
    done
    echo "left behind: $left"
    return 1
}
