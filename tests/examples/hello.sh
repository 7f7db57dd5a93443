#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/hello does what the README says.
. "$top_srcdir/tests/build/tap.sh"

program=$top_builddir/examples/hello
unset REDIS_URL

says_hello() {
    "$program" "$@" > "$work/out" 2>&1
    status=$?
    cat "$work/out"
    [ $status -eq 0 ] && grep -q '^hello, world (from this process)' "$work/out"
}
refuses() {
    "$program" "$1" > "$work/out" 2>&1
    status=$?
    cat "$work/out"
    [ $status -eq 1 ] && grep -q '^hello: ' "$work/out"
}

explains_itself() {
    "$program" --help > "$work/out" 2>&1 && grep -q '^usage: hello \[URI\]' "$work/out"
}

check "hello --help explains it" explains_itself
check "hello runs with no Redis" says_hello
check "hello takes a URI" says_hello memory://another
check "hello refuses a wrong URI with a text" refuses 'ftp://example'
check "hello says so when Redis is not there" refuses "unix://$work/nothing.sock?timeout_ms=200"
plan
