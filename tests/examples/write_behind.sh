#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/write-behind: a process is killed in the middle, and nothing that it acknowledged is lost.
. "$top_srcdir/tests/examples/gives.inc.sh"
. "$top_srcdir/tests/support/redis.inc.sh"

small='--updates 20000 --keys 500 --stall-ms 200'
figures='^{"example":"write-behind","updates":[0-9]*,"keys":500,.*"replayed":[1-9][0-9]*,"lost":0,"wrong":0,"backwards":0,.*"errors":0}$'

# By another signal than the one that the example sends.
ends_early() {
    "$top_builddir/examples/write-behind" --updates 100000000 > "$work/out" 2>&1 &
    example=$!
    until first=$(cat "/proc/$example/task/$example/children") && [ -n "$first" ] && kill -TERM $first; do
        kill -0 $example || return 1
        sleep 0.1
    done
    wait $example
    status=$?
    cat "$work/out"
    [ $status -eq 1 ] && grep -q 'the first process was not killed' "$work/out"
}
leaves() { # leaves KEY: there is no other key
    [ "$(redis-cli -s "$work/redis.sock" --scan)" = "$1" ]
}

check "write-behind --help explains it" gives '^usage: write-behind' write-behind --help
check "write-behind loses nothing acknowledged" gives 'acknowledged and lost: 0; wrong at the end: 0' write-behind $small
check "write-behind --json has one line of figures" gives "$figures" write-behind --json $small --journal "$work/journal"
check "write-behind takes no other run's journal" \
    fails 1 'is there already' write-behind --json $small --journal "$work/journal"
if [ -e /proc/$$/task/$$/children ]; then
    check "write-behind ends when its first process does" ends_early
fi
check "write-behind with a journal that is always on the disk" gives "$figures" write-behind --json --updates 2000 --keys 500 --stall-ms 200 --sync always
if command -v redis-server > /dev/null; then
    start_redis
    check "write-behind on a Redis" gives "$figures" write-behind --json $small "unix://$work/redis.sock"
    check "it leaves nothing there but the library's position" leaves 'nearcache:pos:write-behind:'
fi
check "write-behind refuses a wrong policy" refuses write-behind --sync sometimes
check "write-behind refuses a wrong number" refuses write-behind --updates 1
plan
