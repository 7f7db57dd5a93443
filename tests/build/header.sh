#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The public header compiles alone, twice included, without a warning, in C and in C++.
. "$top_srcdir/tests/build/tap.sh"

printf '#include <nearcache.h>\n#include <nearcache.h>\nnear_options options_;\nnear_status status_ = NEAR_OK;\n' > "$work/header.c"
cp "$work/header.c" "$work/header.cc"

# compiles COMPILER STANDARD FILE
compiles() {
    "$1" -std="$2" -Wall -Wextra -Wpedantic -Wshadow -Werror -fsyntax-only -I "$top_srcdir/include" "$work/$3"
}

# try COMPILER STANDARD FILE
try() {
    if command -v "$1" > /dev/null; then
        check "$1 -std=$2 takes the header alone" compiles "$@"
    else
        skip "$1 -std=$2 takes the header alone" "no $1"
    fi
}

for compiler in gcc clang; do
    for standard in c99 c11 c17; do
        try $compiler $standard header.c
    done
done
for compiler in g++ clang++; do
    for standard in c++98 c++11 c++17; do
        try $compiler $standard header.cc
    done
done
plan
