# SPDX-License-Identifier: BSD-3-Clause
# Sourced by the tests of examples/nearcache-demo, after tap.sh.
demo=$top_builddir/examples/nearcache-demo
NEARCACHE_DEMO_MARK=$$-demo-test # every process that a run starts carries it
export NEARCACHE_DEMO_MARK

if ! command -v redis-server > /dev/null; then
    echo "redis-server is not installed: the demo is NOT TESTED" >&2
    skip "the demo" "redis-server is not installed (Debian: apt-get install redis-server)"
    plan
fi

# run STATUS ARGUMENT…: the demo ends with this status
run() {
    wanted=$1
    shift
    "$demo" "$@" > "$work/out" 2>&1
    status=$?
    cat "$work/out"
    echo "status $status, wanted $wanted"
    [ $status -eq "$wanted" ]
}

# says TEXT: the last run's output contains it
says() {
    grep -q -e "$1" "$work/out" || { cat "$work/out"; return 1; }
}

# The marked processes but for this script and its tools.
processes() {
    for environment in $(grep -las "NEARCACHE_DEMO_MARK=$NEARCACHE_DEMO_MARK" /proc/[0-9]*/environ); do
        folder=${environment%/environ}
        name=$(cat "$folder/comm" 2> /dev/null)
        case $name in *redis* | *resp-server* | *nearcache* | near-*) echo "${folder#/proc/} $name" ;; esac
    done
}

# Nothing of a run is left: no process, no folder in DIR.  The janitor of a killed run needs a moment.
nothing_left() {
    tries=0
    while [ $tries -lt 100 ]; do
        left=$(processes; ls -d "$1"/demo.?????? 2> /dev/null)
        [ -z "$left" ] && return 0
        sleep 0.1
        tries=$((tries + 1))
    done
    echo "left behind: $left"
    return 1
}
