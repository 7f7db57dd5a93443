#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# examples/resp-server takes Redis's own tools for clients: redis-cli and redis-benchmark see no difference.
. "$top_srcdir/tests/build/tap.sh"

server=$top_builddir/examples/resp-server
if ! command -v redis-cli > /dev/null || ! command -v redis-benchmark > /dev/null; then
    echo "redis-cli or redis-benchmark is not installed: they are NOT TESTED" >&2
    skip "redis-cli and redis-benchmark" "not installed (Debian: apt-get install redis-tools)"
    plan
fi

pid= redis=
trap 'kill $pid $redis 2> /dev/null; rm -rf "$work"' 0

# start NAME ARGUMENT…: starts a server; port and pid are set
start() {
    name=$1
    shift
    "$server" --port 0 "$@" > "$work/$name.out" 2> "$work/$name.err" &
    pid=$!
    tries=0
    until grep -q '^ready ' "$work/$name.out" || [ $tries -gt 300 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    port=$(sed -n 's/^ready port=\([0-9]*\) .*/\1/p' "$work/$name.out")
    [ -n "$port" ] || { cat "$work/$name.err"; return 1; }
}
stop() {
    kill "$pid"
    wait "$pid"
    status=$?
    pid=
    cat "$work"/*.err
    [ $status -eq 0 ]
}

cli() {
    redis-cli -h 127.0.0.1 -p "$port" "$@" < /dev/null
}
answers() {
    wanted=$1
    shift
    got=$(cli "$@" 2>&1)
    [ "$got" = "$wanted" ] || { echo "got $got, wanted $wanted"; return 1; }
}
info_counts() {
    cli info | tr -d '\r' > "$work/info"
    grep -q '^# Server$' "$work/info" && grep -q '^local_hits:[1-9]' "$work/info" || { cat "$work/info"; return 1; }
}
binary_safe() {
    head -c 100000 /dev/urandom > "$work/random"
    redis-cli -h 127.0.0.1 -p "$port" -x set random < "$work/random" &&
        cli --raw get random | head -c 100000 | cmp - "$work/random"
}
benchmark() {
    redis-benchmark -h 127.0.0.1 -p "$port" -t get,set,mset,incr -P 16 -q -n "$1" > "$work/benchmark" 2>&1
    status=$?
    tr '\r' '\n' < "$work/benchmark" | grep 'requests per second\|rror'
    [ $status -eq 0 ] && ! grep -qi 'error' "$work/benchmark" &&
        [ "$(tr '\r' '\n' < "$work/benchmark" | grep -c 'requests per second')" -eq 4 ]
}
hits_are_read_locally() {
    cli set hot value > /dev/null
    redis-benchmark -h 127.0.0.1 -p "$port" -P 16 -q -n 20000 get hot > /dev/null && info_counts
}

all_of_it() {
    check "redis-cli: SET ($1)" answers OK set key value
    check "redis-cli: GET ($1)" answers value get key
    check "redis-cli: INCR ($1)" answers 1 incr counter
    check "redis-cli: MGET ($1)" answers "value
1" mget key counter
    check "redis-cli: DEL ($1)" answers 2 del key counter
    check "any bytes come back as they were ($1)" binary_safe
    check "redis-benchmark: no error ($1)" benchmark "$2"
    check "reads of a hot key are local hits ($1)" hits_are_read_locally
}

# The commands that a refusal points to.
lists_commands() {
    "$server" --help > "$work/help" && sed -n '/^Commands:/,$p' "$work/help" | grep -q '^  AUTH .*CLIENT' && grep -q 'GET.*HELLO' "$work/help" &&
        cli frobnicate | grep -q 'resp-server --help lists'
}

check "the server starts over memory://" start memory --redis memory://tools
all_of_it memory 20000
check "an unknown command points to the list of those there are" lists_commands
check "it ends in good order" stop

if command -v redis-server > /dev/null; then
    redis-server --port 0 --unixsocket "$work/redis.sock" --dir "$work" --save '' --logfile "$work/redis.log" > /dev/null 2>&1 &
    redis=$!
    check "the server starts over Redis" start redis --redis "unix://$work/redis.sock" --unixsocket "$work/server.sock"
    until redis-cli -s "$work/redis.sock" ping > /dev/null 2>&1 && cli get x > /dev/null 2>&1; do
        sleep 0.1
        kill -0 $redis || break
    done
    all_of_it Redis 5000
    over_unix_socket() {
        [ "$(redis-cli -s "$work/server.sock" ping)" = PONG ]
    }
    written_in_redis() {
        cli set shared 1 > /dev/null
        [ "$(redis-cli -s "$work/redis.sock" get shared)" = 1 ]
    }
    check "it listens on its unix socket" over_unix_socket
    check "values are plain in Redis" written_in_redis
    check "it ends in good order with Redis behind it" stop
    kill $redis
    wait $redis
    redis=
else
    echo "redis-server is not installed: the server over Redis is NOT TESTED" >&2
    skip "the server over Redis" "redis-server is not installed"
fi
plan
