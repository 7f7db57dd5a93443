# SPDX-License-Identifier: BSD-3-Clause
#
# What an example prints, for the tests of examples.
. "$top_srcdir/tests/build/tap.sh"

unset REDIS_URL

gives() { # gives PATTERN PROGRAM ARGUMENTS…: it ends well, and a line of it is like that
    pattern=$1
    program=$top_builddir/examples/$2
    shift 2
    "$program" "$@" > "$work/out" 2>&1
    status=$?
    cat "$work/out"
    [ $status -eq 0 ] && grep -q "$pattern" "$work/out"
}
fails() { # fails STATUS PATTERN PROGRAM ARGUMENTS…
    wanted=$1
    pattern=$2
    program=$top_builddir/examples/$3
    shift 3
    "$program" "$@" > "$work/out" 2>&1
    status=$?
    cat "$work/out"
    [ $status -eq "$wanted" ] && grep -q "$pattern" "$work/out"
}
refuses() { # refuses PROGRAM ARGUMENTS…: with its usage
    fails 2 "^usage: $1" "$@"
}
number() { # number NAME: of the closing line
    sed -n 's/^{.*"'"$1"'":\([0-9]*\).*/\1/p' "$work/out"
}
