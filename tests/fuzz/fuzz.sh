#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# `make fuzz`: every target under libFuzzer with ASan and UBSan, one after the other, FUZZ_SECONDS of processor time each (60), or
# FUZZ_ONLY one.  libFuzzer counts time by the wall; on a busy machine it is run again until the processor's seconds are full.
# New inputs that reach new code go to fuzz-run/new/NAME in the build tree; an input that ends a target to fuzz-run/NAME-crash-…, and
# belongs into tests/fuzz/corpus/NAME once the fault is mended.
set -eu

clang=${CLANG:-clang}
work=$top_builddir/fuzz-run
flags='-g -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer'

if ! command -v "$clang" > /dev/null 2>&1; then
    echo "fuzz: no clang; the plain driver is tests/fuzz/fuzz_NAME [CORPUS [EXECUTIONS]]" >&2
    exit 77
fi
mkdir -p "$work/objects"

# compile SOURCE: into an object named like its path
compile() {
    object=$work/objects/$(echo "$1" | tr / -).o
    # shellcheck disable=SC2046,SC2086 # lists of words
    "$clang" $flags -std=gnu11 -pthread -include "$top_builddir/config.h" -I"$top_srcdir/include" -I"$top_srcdir/lib" \
        -I"$top_srcdir/tests" -I"$top_srcdir/examples" -I"$top_srcdir/benchmarks" \
        $($PKG_CONFIG --cflags hiredis liburcu-bp openssl 2> /dev/null || $PKG_CONFIG --cflags hiredis liburcu-bp) \
        -c "$top_srcdir/$1" -o "$object"
}

# The library as an archive, so that a target gets only what it uses.
build_library() {
    for source in $(cd "$top_srcdir" && ls lib/base/*.c lib/coherence/message.c lib/remote/resp.c lib/remote/transport.c \
        lib/remote/remote.c lib/remote/script.c); do
        compile "$source"
    done
    rm -f "$work/library.a"
    ar rcs "$work/library.a" "$work"/objects/lib-*.o
}

# used FILE: processor seconds of the children in `times`' output, user and system
used() {
    sed -n '2{s/m/ /g;s/s/ /g;p;}' "$1" | awk '{ printf "%d\n", ($1 + $3) * 60 + $2 + $4 }'
}

# one_run NAME SECONDS: 0 and the processor seconds in $spent, or 1 when something was found
one_run() {
    status=0
    (
        found=0
        "$work/fuzz_$1" -max_total_time="$2" -max_len=4096 -print_final_stats=1 -timeout=60 -artifact_prefix="$work/$1-" \
            "$work/new/$1" "$top_srcdir/tests/fuzz/corpus/$1" > "$work/$1.log" 2>&1 || found=1
        times > "$work/$1.times"
        exit $found
    ) || status=1
    spent=$(used "$work/$1.times")
    return $status
}

# fuzz NAME OTHER-SOURCE…
fuzz() {
    name=$1
    shift
    if [ -n "${FUZZ_ONLY-}" ] && [ "$FUZZ_ONLY" != "$name" ]; then
        return 0
    fi
    objects=
    for source in "tests/fuzz/fuzz_$name.c" "$@"; do
        compile "$source"
        objects="$objects $object"
    done
    # shellcheck disable=SC2046,SC2086 # lists of words
    "$clang" -fsanitize=fuzzer,address,undefined $objects "$work/library.a" $($PKG_CONFIG --libs hiredis) -lm -lpthread \
        -o "$work/fuzz_$name"
    mkdir -p "$work/new/$name"
    total=0
    executions=0
    while [ "$total" -lt "${FUZZ_SECONDS:-60}" ]; do
        if ! one_run "$name" $((${FUZZ_SECONDS:-60} - total)); then
            tail -n 40 "$work/$name.log"
            failed="$failed $name"
            return 0
        fi
        # at least one a run, so that this ends
        total=$((total + (spent > 0 ? spent : 1)))
        executions=$((executions + $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$name.log")))
    done
    echo "$name: $executions executions in $total seconds of processor time," \
        "$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/$name.log" | tail -n 1) edges, nothing found"
}

failed=
build_library
fuzz message
fuzz options
fuzz request examples/server/server_request.c
fuzz resp
fuzz trace benchmarks/bench_trace.c benchmarks/bench_common.c benchmarks/bench_child.c
fuzz uri
if [ -n "$failed" ]; then
    echo "fuzz: found something in$failed" >&2
    exit 1
fi
