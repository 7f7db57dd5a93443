#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The synthetic loads of docs/policies.md, as traces for "nearcache-bench replay", on standard output:
#
#     benchmarks/traces.sh NAME [REQUESTS [SEED]]
#
#     zipf    Zipf 1.0 among 100,000 keys
#     scans   Zipf 0.8 among 5,000 keys, and after each 30,000 requests one of twenty scans of 10,000 keys
#     once    of five requests four are for keys that never come again, the others Zipf 0.9 among 20,000
#     edge    a loop over 4,800 keys, with a new key after each
#     loop    a loop over 11,000 keys
#     loops   one of four loops, over 300 to 20,000 keys, twice, then one of them again
#     saw     there and back over 12,500 keys, again and again
#     batch   every second request walks over the same 6,000 keys, the others are Zipf 1.0 among 100,000
#     tiny    Zipf 0.7 among 200,000 keys, values of 10 bytes
#     large   Zipf 0.8 among 50,000 keys, values of 50 to 250 bytes, but of 300 to 700 KB of one key in 500
set -eu

usage()
{
    sed -n '3,17s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

case ${1:-} in
    zipf) keys=100000 skew=1 ;;
    scans) keys=5000 skew=0.8 ;;
    once) keys=20000 skew=0.9 ;;
    batch) keys=100000 skew=1 ;;
    tiny) keys=200000 skew=0.7 ;;
    large) keys=50000 skew=0.8 ;;
    edge | loop | loops | saw) keys=1 skew=1 ;;
    *) usage ;;
esac
awk -v name="$1" -v requests="${2:-2000000}" -v seed="${3:-1}" -v keys="$keys" -v skew="$skew" '
    function zipf(  low, high, middle, at) {
        at = rand() * sum[keys]
        low = 1; high = keys
        while (low < high) {
            middle = int((low + high) / 2)
            if (sum[middle] < at) low = middle + 1; else high = middle
        }
        return low
    }
    # Which loop, and how far it is.
    function step() {
        if (at == 2 * period) {
            which = int(rand() * 4)
            period = which == 0 ? 300 : which == 1 ? 1500 : which == 2 ? 6000 : 20000
            at = 0
        }
        return which "-" at++ % period
    }
    function size(key) { return key % 500 == 7 ? 300000 + key * 7919 % 400000 : 50 + key * 31 % 200 }
    BEGIN {
        srand(seed)
        for (k = 1; k <= keys; k++) sum[k] = sum[k - 1] + k ^ -skew
        for (i = 0; i < requests; i++) {
            if (name == "scans" && i % 40000 == 30000) scan = int(rand() * 20)
            if (name == "scans" && i % 40000 >= 30000) print "s" scan * 10000 + i % 10000
            else if (name == "once" && rand() < 0.8) print "n" i
            else if (name == "edge") print (i % 2 ? "n" i : "e" i / 2 % 4800)
            else if (name == "loop") print i % 11000
            else if (name == "loops") print step()
            else if (name == "saw") { at = i % 25000; print at < 12500 ? at : 24999 - at }
            else if (name == "batch" && i % 2) print "b" int(i / 2) % 6000
            else if (name == "tiny") print zipf(), 10
            else if (name == "large") { key = zipf(); print key, size(key) }
            else print zipf()
        }
    }'
