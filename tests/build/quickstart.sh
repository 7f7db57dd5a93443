#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# ./quickstart: its arguments, and what it does where packages are missing; with stand-ins for dpkg, apt-get and sudo.
. "$top_srcdir/tests/build/tap.sh"

quickstart=$top_srcdir/quickstart

# stand_in NAME TEXT: a program of that name before all others
stand_in() {
    printf '#!/bin/sh\n%s\n' "$2" > "$work/bin/$1"
    chmod +x "$work/bin/$1"
}

# A copy with nothing but the script, so that nothing is built.
mkdir "$work/bin" "$work/tree" "$work/elsewhere"
cp "$quickstart" "$work/tree"

ends_with() {
    expected=$1
    shift
    status=0
    "$@" > "$work/said" 2>&1 || status=$?
    cat "$work/said"
    echo "status $status, expected $expected"
    [ "$status" = "$expected" ]
}

in_front() {
    (cd "$work/elsewhere" && PATH=$work/bin:$PATH exec "$@")
}

help_names_every_command() {
    ends_with 0 "$quickstart" help || return 1
    for word in build check bench demo; do
        grep -q "^  $word " "$work/said" || { echo "$word is not there"; return 1; }
    done
}

unknown_command_is_refused() {
    ends_with 2 "$quickstart" frobnicate && grep -q usage: "$work/said"
}

names_the_packages() {
    stand_in dpkg-query 'case "$*" in *liburcu-dev*) exit 1;; *) printf installed;; esac'
    stand_in id 'echo 1000'
    stand_in sudo 'exit 1'
    stand_in apt-get 'echo apt-get was called; exit 1'
    ends_with 1 in_front "$work/tree/quickstart" build || return 1
    grep -q '^    sudo apt-get install .* liburcu-dev' "$work/said" && ! grep -q 'apt-get was called' "$work/said"
}

# Unknown to apt at first: the list of packages must be updated; then the build stops, as there is no configure.ac.
installs_the_packages() {
    stand_in id 'echo 0'
    stand_in apt-cache 'exit 100'
    stand_in apt-get "echo \"\$*\" >> '$work/apt'"
    stand_in autoreconf 'exit 1'
    stand_in systemctl 'exit 1'
    ends_with 1 in_front "$work/tree/quickstart" build || return 1
    cat "$work/apt"
    [ "$(sed -n 1p "$work/apt")" = "-q update" ] && sed -n 2p "$work/apt" | grep -q -- '-y install .* liburcu-dev'
}

# What check says in the end, with stand-ins for the tools: one program passed, one failed and said why.
summary_tells_why() {
    stand_in id 'echo 0'
    for tool in autoreconf dpkg-query; do
        stand_in $tool 'printf installed'
    done
    stand_in make 'case "$*" in *check*) ;; *) exit 0;; esac
        mkdir -p "$2/tests" && cd "$2/tests"
        printf ":test-result: %s\n" "PASS - c" > good.trs
        printf "%s\n" ":test-result: PASS - a" ":test-result: FAIL - b" ":test-said: seed 7" ":test-result: SKIP - d" > bad.trs
        exit 2'
    printf '#!/bin/sh\ntouch Makefile\n' > "$work/tree/configure"
    chmod +x "$work/tree/configure"
    ends_with 1 in_front "$work/tree/quickstart" check || return 1
    grep -A 1 '^  FAIL: build-asan/tests/bad - b$' "$work/said" | grep -q '^        seed 7$' &&
        grep -q '^  SKIP: build/tests/bad - d$' "$work/said" && ! grep -q -E "good|PASS" "$work/said" &&
        [ "$(tail -n 1 "$work/said")" = "6 passed, 3 failed, 3 skipped" ]
}

configure_is() {
    rm -rf "$work/tree/build"
    printf '#!/bin/sh\n%s\n' "$1" > "$work/tree/configure"
}

names_the_log_by_its_path() {
    configure_is 'echo no compiler; exit 1'
    ends_with 1 in_front "$work/tree/quickstart" build || return 1
    log=$(sed -n 's/^quickstart: failed: .*(all of it: \(.*\))$/\1/p' "$work/said")
    (cd "$work/tree" && grep 'no compiler' "$log")
}

keeps_a_build_configured_by_hand() {
    configure_is 'echo configure was called; exit 1'
    mkdir "$work/tree/build" && touch "$work/tree/build/Makefile"
    ends_with 0 in_front "$work/tree/quickstart" build && grep -q '^build was configured by hand' "$work/said"
}

# With a stand-in that notes how it is called: alone it measures what the README shows, its words are the program's.
measures_the_readme() {
    mkdir "$work/tree/build/benchmarks" "$work/tree/benchmarks" && cp "$top_srcdir/benchmarks/tables.sh" "$work/tree/benchmarks"
    printf '#!/bin/sh\necho "$*" >> "%s"\n' "$work/called" > "$work/tree/build/benchmarks/nearcache-bench"
    chmod +x "$work/tree/build/benchmarks/nearcache-bench"
    ends_with 0 in_front "$work/tree/quickstart" bench replay --help && [ "$(cat "$work/called")" = "replay --help" ] &&
        ends_with 0 in_front "$work/tree/quickstart" bench || return 1
    cat "$work/called"
    grep -q '^remote ' "$work/called" && [ "$(grep -c '^local ' "$work/called")" -ge 8 ]
}

says_what_to_do_in_a_configured_tree() {
    touch "$work/tree/config.status"
    ends_with 1 in_front "$work/tree/quickstart" build && grep -q "^    make -C $work/tree distclean$" "$work/said"
}

is_portable_shell() {
    dash -n "$quickstart"
}

check "help names every command" help_names_every_command
check "an unknown command is refused with status 2" unknown_command_is_refused
check "without root the one line to run is printed" names_the_packages
check "with root missing packages are installed, the list updated first" installs_the_packages
check "the summary of check tells what failed and why" summary_tells_why
check "the log of a failed configure is named by its path" names_the_log_by_its_path
check "a build that was configured by hand is kept" keeps_a_build_configured_by_hand
check "bench measures the README's tables, or what its arguments say" measures_the_readme
check "in a configured source tree it says what to do" says_what_to_do_in_a_configured_tree
if command -v dash > /dev/null; then
    check "it is POSIX shell" is_portable_shell
else
    skip "it is POSIX shell" "no dash"
fi
plan
