# SPDX-License-Identifier: BSD-3-Clause
# Sourced by shell tests: results as TAP.  The test calls `check`, `skip` and at its end `plan`.
tap_count=0
tap_failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/nearcache-test.XXXXXX") || exit 99
trap 'rm -rf "$work"' 0
trap 'exit 1' HUP INT TERM

# check NAME COMMAND…: passes when the command succeeds; what it says is shown when it does not
check() {
    tap_name=$1
    shift
    tap_count=$((tap_count + 1))
    if "$@" > "$work/tap.out" 2>&1; then
        echo "ok $tap_count - $tap_name"
    else
        tap_failed=1
        echo "not ok $tap_count - $tap_name"
        sed 's/^/# /' "$work/tap.out"
    fi
}

# skip NAME REASON
skip() {
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1 # SKIP $2"
}

plan() {
    echo "1..$tap_count"
    exit $tap_failed
}
