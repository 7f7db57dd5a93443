#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# `make coverage`: how much of lib/ the tests have run, by file; needs a build configured with --enable-coverage --disable-shared,
# whose tests have run.  Tests that compile a source into themselves (index.c, hit.c) are not counted.
set -eu
export LC_ALL=C

if [ -z "$(find lib -name '*.gcda' | head -n 1)" ]; then
    echo "coverage: no counts here; ../configure --enable-coverage --disable-shared, make check, then make coverage" >&2
    exit 1
fi
# "-" blocks that an exception could leave do not exist in C; -b counts branches, "taken" is each way of each.
find lib -name '*.gcda' | while read -r counts; do
    gcov -b -n -o "$(dirname "$counts")" "$counts"
done 2> /dev/null | awk '
    function share(part, whole) { return whole ? sprintf("%5.1f %%", 100 * part / whole) : "      –" }
    /^File / { file = $2; gsub("\047", "", file); ours = sub(/^.*\/?lib\//, "lib/", file) && file ~ /\.c$/ && !(file in lines) }
    ours && /^Lines executed:/ { split($2, p, /[:%]/); lines[file] = $4; run[file] = p[2] * $4 / 100 }
    ours && /^Taken at least once:/ { split($4, p, /[:%]/); ways[file] = $6; taken[file] = p[2] * $6 / 100 }
    END {
        for (file in lines) {
            printf "%-32s %s of %5d lines %s of %5d branches\n", file, share(run[file], lines[file]), lines[file],
                   share(taken[file], ways[file]), ways[file] | "sort"
            all_lines += lines[file]; all_run += run[file]; all_ways += ways[file]; all_taken += taken[file]
        }
        close("sort")
        printf "%-32s %s of %5d lines %s of %5d branches\n", "all of lib/", share(all_run, all_lines), all_lines,
               share(all_taken, all_ways), all_ways
    }'
