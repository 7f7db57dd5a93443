#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# However the demo ends, it leaves nothing behind; and what its command line refuses.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/examples/demo.inc.sh"

# end_by SIGNAL STATUS: started in the build tree, ended in the middle of a run
end_by() {
    : > "$work/out" # what an earlier run said must not be taken for this one's start
    "$demo" --seconds 60 --records 3000 > "$work/out" 2>&1 &
    pid=$!
    tries=0
    until grep -q 'reads/s' "$work/out" || [ $tries -gt 600 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -s "$1" $pid
    wait $pid
    status=$?
    cat "$work/out"
    echo "status $status, wanted $2"
    [ $status -eq "$2" ]
}

check "a stopped Redis is survived" run 0 --seconds 3 --records 3000 --kill -STOP 2s --folder "$work"
check "it was stopped" says 'Redis frozen for 2.0 s'
check "SIGTERM ends a run" end_by TERM 143
check "nothing is left behind by it" nothing_left "$top_builddir/examples"
check "SIGKILL ends a run" end_by KILL 137
check "nothing is left behind by that either" nothing_left "$top_builddir/examples"
check "an unknown option is refused" run 2 --nonsense
check "a wrong number is refused" run 2 --seconds soon
check "a wrong seed is refused" run 2 --seed soon
check "a signal without a time is refused" run 2 --kill -STOP
check "an unknown signal is refused" run 2 --kill -NONSENSE 5s
check "a Redis that does not start is reported" run 1 --redis-server /bin/false --folder "$work"
check "help is given" run 0 --help
check "nothing is left behind by all these" nothing_left "$work"
plan
