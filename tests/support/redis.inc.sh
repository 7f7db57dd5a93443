# SPDX-License-Identifier: BSD-3-Clause
# Sourced by shell tests after tap.sh: a Redis server of the test's own, which ends with it.

# start_redis: at $work/redis.sock; fails if it does not answer within half a minute
start_redis() {
    redis-server --port 0 --unixsocket "$work/redis.sock" --dir "$work" --save '' > "$work/redis.log" 2>&1 &
    redis=$!
    trap 'kill $redis; rm -rf "$work"' 0
    tries=0
    until redis-cli -s "$work/redis.sock" ping > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || return 1
        sleep 0.1
    done
}
