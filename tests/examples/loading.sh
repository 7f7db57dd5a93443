#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The examples of loading do what their first lines say.
. "$top_srcdir/tests/examples/gives.inc.sh"
. "$top_srcdir/tests/support/redis.inc.sh"

many_loads() {
    gives '"protected":false' stampede --json --unprotected --processes 2 --threads 8 --gets 20 --load-ms 200 &&
        [ "$(number loads)" -gt 2 ]
}

keeps() { # keeps KEY EXAMPLE ARGUMENTS…: of somebody else's, in the same Redis
    key=$1
    shift
    redis-cli -s "$work/redis.sock" set "$key" theirs > /dev/null &&
        gives '"errors":0}$' "$@" --json "unix://$work/redis.sock" &&
        [ "$(redis-cli -s "$work/redis.sock" get "$key")" = theirs ]
}

# near_check's words: near_wait_ready waits half a minute first, and then says that there is no subscription.
nobody='^[a-z-]*: \(open: \)*connect to .*nobody.sock: No such file or directory'
for name in stampede bulk-load early-refresh versioned-keys session-store; do
    check "$name --help explains it" gives "^usage: $name" $name --help
    check "$name refuses an unknown option" refuses $name --no-such-option
    check "$name refuses a wrong number" refuses $name --json nonsense nonsense
    check "$name says at once that there is no server" fails 1 "$nobody" $name "unix://$work/nobody.sock"
done
check "stampede --kill waits for nobody who cannot load" fails 1 "$nobody" stampede --kill "unix://$work/nobody.sock"
for name in versioned-keys session-store warm-start; do
    check "$name says that local: is not shared" fails 1 "needs a remote tier that its caches share" $name local:
done
for uri in local: memory://stampede; do
    check "stampede says that $uri is not shared" fails 1 "needs a remote tier that its processes share" stampede $uri
done
for name in lock write-behind; do
    check "$name says at once that there is no server" fails 1 "$nobody" $name "unix://$work/nobody.sock"
done
if command -v redis-server > /dev/null; then
    check "stampede: the source is asked once" \
        gives '"processes":4,"threads":16,"gets":6400,.*"loads":1,.*"errors":0}$' stampede --json --gets 100 --lease-ms 60000
    check "stampede --kill: it is asked twice" \
        gives '"killed":1,.*"loads":2,.*"errors":0}$' stampede --json --gets 20 --kill --load-ms 300 --lease-ms 4000
    check "stampede --unprotected: it is asked by many" many_loads
    start_redis
    check "early-refresh keeps its hands off a key that is not its own" keeps hot early-refresh --ttl-ms 20 --rounds 1
fi
check "bulk-load: one query a page, and each item its own end" \
    gives '"mode":"bulk","pages":6,"items":50,"queries":6,"shown":279,"absent":15,"failed":6,.*"wrong":0,"errors":0}$' \
    bulk-load --json --pages 6 --query-ms 1
check "bulk-load --mode single: one query an item that is missing" \
    gives '"mode":"single","pages":6,"items":50,"queries":[0-9]*,"shown":279,"absent":15,"failed":6,.*"wrong":0,"errors":0}$' \
    bulk-load --json --pages 6 --query-ms 1 --mode single
check "they are as many as there are different items" [ "$(number queries)" = 177 ]
# Their bound and deadlines are a minute, so that a machine that stands still for seconds makes nobody wait: an old value stays here
# and may be served.  What is left to make a get wait for a load is the library.
patient="memory://early-refresh?bound_ms=60000"
check "early-refresh --mode stale: nobody waits" \
    gives '"mode":"stale",.*"waited":0,"errors":0}$' early-refresh --json --mode stale --ttl-ms 200 --load-ms 20 --rate 2000 "$patient"
check "and it was refreshed behind their backs" [ "$(number loads)" -gt 1 ]
check "early-refresh --mode xfetch refreshes early" \
    gives '"mode":"xfetch",.*"refreshes_early":[1-9].*"errors":0}$' \
    early-refresh --json --ttl-ms 300 --load-ms 100 --rate 2000 --rounds 10 "$patient"
check "early-refresh --mode none: somebody waits" \
    gives '"mode":"none",.*"waited":[1-9].*"errors":0}$' early-refresh --json --mode none --ttl-ms 100 --rounds 2 "$patient"
check "versioned-keys: every key is loaded once a version, none is old" \
    gives '"keys":500,"rounds":3,"gets":3000,"loads":1500,"old":0,.*"errors":0}$' versioned-keys --json --keys 500
check "versioned-keys --namespace: the same with the library's versions" \
    gives '"namespace":true,"keys":500,"rounds":3,"gets":3000,"loads":1500,"old":0,.*"errors":0}$' versioned-keys --json --namespace --keys 500
check "session-store: every click is there, every logout counts" \
    gives '"ended":[1-9].*"wrong":0,"errors":0}$' session-store --json --requests 20000
plan
