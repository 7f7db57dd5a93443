#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The README's first program compiles and does what its comments say, with a Redis and without.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/support/redis.inc.sh"

# extract: the program as it stands in the README
extract() {
    sed -n '/^```c$/,/^```$/{/^```/d;p;}' "$top_srcdir/README.md" > "$work/hello.c" && grep -q 'redis://localhost' "$work/hello.c"
}

# builds PROGRAM URI WAIT: with this server, and so many milliseconds of patience; to give them by argument would cost the
# README lines.
builds() {
    sed -e "s,redis://localhost,$2," -e "s/near_wait_ready(cache, [0-9]*,/near_wait_ready(cache, $3,/" "$work/hello.c" > "$work/$1.c"
    # shellcheck disable=SC2086 # a list of words
    "$top_builddir/libtool" --quiet --tag=CC --mode=link $CC $INSTRUMENT_CFLAGS -Wall -Wextra -Werror -I "$top_srcdir/include" \
        "$work/$1.c" "$top_builddir/libnearcache.la" -o "$work/$1"
}

# run PROGRAM STATUS
run() {
    status=0
    "$work/$1" > "$work/out" 2> "$work/err" || status=$?
    cat "$work/out" "$work/err"
    echo "status $status, wanted $2"
    [ $status -eq "$2" ]
}

says_it_from_this_process() {
    run with 0 && [ "$(cat "$work/out")" = "hello, world (from this process)" ] && [ ! -s "$work/err" ] &&
        [ "$(redis-cli -s "$work/redis.sock" get greeting)" = "hello, world" ]
}

says_what_failed() {
    run without 1 && [ ! -s "$work/out" ] && grep -q 'nothing.sock: No such file or directory' "$work/err"
}

check "the program is in the README" extract
check "it compiles without a warning" builds without "unix://$work/nothing.sock" 300
check "without Redis it says so and ends with status 1" says_what_failed
if command -v redis-server > /dev/null; then
    builds with "unix://$work/redis.sock?bound_ms=60000\&timeout_ms=60000" 60000
    start_redis
    check "with Redis it prints the value, from its own process" says_it_from_this_process
else
    skip "with Redis it prints the value, from its own process" "redis-server is not installed"
fi
plan
