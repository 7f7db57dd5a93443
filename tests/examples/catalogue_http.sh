#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/catalogue-http serves what the database has, and forgets what was changed.
. "$top_srcdir/tests/build/tap.sh"

unset REDIS_URL
program=$top_builddir/examples/catalogue-http
if [ ! -x "$program" ] || ! command -v curl > /dev/null; then
    echo "1..0 # SKIP no libmicrohttpd, no SQLite or no curl"
    exit 0
fi
cat > "$work/records" << 'END'
Package: alpha
Section: shells
Version: 1.0
Description: first

Package: beta
Section: shells
Version: 2.0
Description: second

Package: gamma
Section: games
Version: 3.0
Description: third
END

start() { # start [VARIABLE=VALUE]: a server, in $server, which listens on $port
    : > "$work/out"
    env "$@" "$program" --records "$work/records" --json > "$work/out" 2>&1 &
    server=$!
    port=
    for _ in $(seq 600); do
        port=$(sed -n 's/^ready port=\([0-9]*\) .*/\1/p' "$work/out")
        [ -n "$port" ] && break
        kill -0 $server 2> /dev/null || break
        sleep 0.1
    done
}
trap 'kill $server 2> /dev/null; rm -rf "$work"' EXIT
start

says() { # says PATTERN PATH [CURL ARGUMENTS]
    pattern=$1
    path=$2
    shift 2
    curl -s -m 60 "$@" "http://127.0.0.1:$port$path" > "$work/answer"
    cat "$work/answer"
    grep -q "$pattern" "$work/answer"
}
twice() { says "$@" && says "$@"; }
ends() {
    kill -TERM $server
    wait $server
    status=$?
    cat "$work/out"
    [ $status -eq 0 ] && grep -q '^{"example":"catalogue-http","packages":3,.*"loads":8,"errors":0}$' "$work/out"
}
long() {
    printf 'Package: gamma\nSection: games\nVersion: 3.0\nDescription: %04000d\n' 7 > "$work/long"
    says 'Package: gamma' /package/gamma && cmp "$work/long" "$work/answer"
}
wrong() {
    "$program" --no-such-option > "$work/wrong" 2>&1
    [ $? -eq 2 ] && grep -q '^usage: catalogue-http' "$work/wrong"
}

# What two threads change at once: who looks first how many rows there were waits until the other one looks, too, if it
# can.
cat > "$work/meet.c" << 'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int sqlite3_changes(void *db)
{
    static _Atomic(int) lookers;
    int (*real)(void *) = (int (*)(void *))dlsym(RTLD_NEXT, "sqlite3_changes");
    if (atomic_fetch_add(&lookers, 1) == 0) {
        fclose(fopen(getenv("LOOKING"), "w"));
        for (int i = 0; i < 200 && atomic_load(&lookers) < 2; i++)
            usleep(10000);
    }
    return real(db);
}
END
meet() {
    $CC -shared -fPIC "$work/meet.c" -o "$work/meet.so" -ldl || return 1
    start LD_PRELOAD="$work/meet.so" LOOKING="$work/looking"
    curl -s -m 60 -X PUT -d better "http://127.0.0.1:$port/package/alpha" > "$work/first" &
    first=$!
    for _ in $(seq 600); do
        [ -f "$work/looking" ] && break
        sleep 0.1
    done
    says 'no such thing' /package/delta -X PUT -d worse && wait $first &&
        cat "$work/first" && grep -q changed "$work/first"
    result=$?
    kill $server
    wait $server
    return $result
}

check "a package is served" twice 'Description: first' /package/alpha
check "another one" twice 'Description: third' /package/gamma
check "a section is served" twice 'beta 2.0' /section/shells
check "what does not exist does not" twice 'no such thing' /package/delta
check "a description is changed" says changed /package/alpha -X PUT -d 'improved'
check "and read" twice 'Description: improved' /package/alpha
check "a whole section is changed" says changed /section/shells -X POST
check "and read" twice 'improved \*' /package/alpha
check "its list too" twice 'alpha' /section/shells
check "the other section is not loaded again" twice 'Description: third$' /package/gamma
check "a section that does not exist is not changed" says 'no such thing' /section/none -X POST
check "a long description is changed" says changed /package/gamma -X PUT -d "$(printf %04000d 7)"
check "and read as it is" long
check "a description that is too long is refused" says 'at most 4096' /package/gamma -X PUT -d "$(printf %04097d 7)"
check "and the one that was there stays" long
check "a metrics page is there" says 'loads' /metrics
check "it ends, with its figures" ends
if [ -z "$INSTRUMENT_CFLAGS" ]; then
    check "what one thread changes another one's change does not hide" meet
fi
check "an unknown option is refused" wrong
plan
