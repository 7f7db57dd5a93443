#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The library keeps its promises under all faults, as far as a short run can tell; and the run leaves nothing behind.
. "$top_srcdir/tests/build/tap.sh"
. "$top_srcdir/tests/tools/check.inc.sh"
. "$top_srcdir/tests/support/redis.inc.sh"

duration=8
case ${INSTRUMENT_CFLAGS-} in *sanitize*) duration=3 ;; esac

json_is_complete() {
    for name in reads_checked writes faults violations staleness_ms_p50 staleness_ms_p99 staleness_ms_max bound_ms \
        unknown_writes recoveries seed; do
        [ -n "$(number "$name")" ] || { echo "$name is not there"; cat "$work/results.json"; return 1; }
    done
    [ "$(number violations)" = 0 ] && [ "$(number bound_ms)" = 500 ]
}
json_is_alone() {
    run 0 --duration 1 --processes 2 --faults none --bound 500 --json - && mv "$work/out" "$work/results.json" &&
        [ "$(head -n 1 "$work/results.json")" = '{' ] && [ "$(tail -n 1 "$work/results.json")" = '}' ] && json_is_complete &&
        ! grep -q 'reads checked' "$work/results.json" && grep -q '^reads checked' "$work/err"
}
much_was_checked() {
    above reads_checked 100 && above faults 0 && above writes 10 # little, if the machine is busy
}
# The run's own server for the test of --uri
start_a_redis() {
    start_redis && redis-cli -s "$work/redis.sock" set nearcache-check:other stays > /dev/null
}
# By KEYS: SCAN may tell a key twice while Redis makes its table smaller.
keys_are_removed() {
    redis-cli -s "$work/redis.sock" keys '*' > "$work/keys"
    cat "$work/keys"
    [ "$(cat "$work/keys")" = nearcache-check:other ]
}

check "all faults, no violation" run 0 --duration $duration --faults all --bound 500 --json "$work/results.json"
check "its results are there as JSON" json_is_complete
check "there was something to check" much_was_checked
check "JSON for the standard output has it alone" json_is_alone
# The server's folder is elsewhere then.
folder_may_have_any_name() {
    mkdir -p "$work/a 'b%" || return 1
    (TMPDIR="$work/a 'b%" && run 0 --duration 1 --processes 1 --faults none --bound 500)
}
check "TMPDIR may have any name" folder_may_have_any_name
check "nothing is left behind" nothing_left
if start_a_redis; then
    check "somebody else's Redis, faults of our own processes" run 0 --uri "unix://$work/redis.sock" \
        --faults process-stop,process-kill,thread-stop --duration 2 --bound 500
    check "our keys are removed, others stay" keys_are_removed
    check "faults are those that are possible there" run 0 --uri "unix://$work/redis.sock" --duration 1 --bound 500
    check "and again nothing is left" keys_are_removed
fi
plan
