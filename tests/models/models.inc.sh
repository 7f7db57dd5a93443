# SPDX-License-Identifier: BSD-3-Clause
# Runs SPIN models, one TAP line each.  Sourced by the tests here.
#
#   model FILE SITUATION          must be free of errors
#   mutant FILE SITUATION MUTANT [OPTIMISATION]  must not be: a check that finds nothing wrong in a broken model checks
#                                 nothing; mostly found so soon that compiling is what takes time
#   finish
#
# By default the smaller variants (-DQUICK).  NEAR_MODELS=full searches what the heads of the files tell, in some minutes.
# The models do not depend on how the library is built, so instrumented builds leave them out.

models=${top_srcdir-$(dirname "$0")/../..}/docs/models
cases=0
failures=0
work=

leave_out() {
    echo "1..0 # SKIP $1"
    exit 0
}

[ -z "${INSTRUMENT_CFLAGS-}" ] || leave_out "the models run with the build that is not instrumented"
command -v spin >/dev/null 2>&1 || leave_out "spin is not installed (Debian: apt-get install spin)"
cc=${CC-cc}
work=$(mktemp -d "${TMPDIR-/tmp}/near-models.XXXXXX") || exit 99
models=$(cd "$models" && pwd) || exit 99
trap 'rm -rf "$work"' EXIT
trap 'exit 99' HUP INT TERM

# search FILE OPTIMISATION SPIN-OPTIONS…: leaves the verifier's words in $work/said; fails when it could not run.
search() {
    file=$1
    optimisation=$2
    shift 2
    [ "${NEAR_MODELS-}" = full ] || set -- -DQUICK "$@"
    rm -f "$work"/pan*
    (cd "$work" && spin "$@" -a "$models/$file" && $cc $optimisation -w -DSAFETY -DCOLLAPSE -DVECTORSZ=512 -o pan pan.c &&
        ./pan -m100000) >"$work/said" 2>&1
}

errors() { sed -n 's/.*errors: \([0-9]*\)$/\1/p' "$work/said"; }
# A search that was cut short proves nothing.
is_whole() { ! grep -q 'max search depth too small\|out of memory\|interrupted' "$work/said"; }
cost() { sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1 states/p; s/^pan: elapsed time \(.*\)/\1/p' "$work/said" | tr '\n' ' '; }

report() { # OK-STATUS, TEXT
    cases=$((cases + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $cases - $2: $(cost)"
    else
        failures=$((failures + 1))
        echo "not ok $cases - $2: $(cost)"
        sed 's/^/# /' "$work/said" | tail -n 20
    fi
}

model() {
    search "$1" -O1 -DSITUATION="$2"
    [ "$(errors)" = 0 ] && is_whole
    report $? "$1 situation $2 is free of errors"
}

mutant() {
    search "$1" "${4--O0}" -DSITUATION="$2" -DMUT="$3"
    [ "$(errors)" = 1 ] && grep -q 'assertion violated' "$work/said"
    report $? "$1 situation $2 notices mutant $3"
}

finish() {
    echo "1..$cases"
    [ "$failures" -eq 0 ]
}
