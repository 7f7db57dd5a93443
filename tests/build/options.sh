#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# docs/options.md is what the option table prints.
. "$top_srcdir/tests/build/tap.sh"

manual_is_current() {
    "$top_builddir/tools/option_manual" > "$work/options.md" && diff -u "$top_srcdir/docs/options.md" "$work/options.md"
}

check "docs/options.md is what the option table prints" manual_is_current
plan
