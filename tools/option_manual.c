/* SPDX-License-Identifier: BSD-3-Clause
 * Prints docs/options.md from the option table; tests/build/options.sh compares the two. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "nearcache.h"

static void print_number(const near_option_info *row, uint64_t number)
{
    int size = strcmp(row->type, "size") == 0;
    const char *units = "KMGT";
    int unit = -1;
    while (size && unit < 3 && number && number % 1024 == 0) {
        number /= 1024;
        unit++;
    }
    printf("%" PRIu64, number);
    if (unit >= 0)
        printf(" %ciB", units[unit]);
    else if (strcmp(row->type, "duration") == 0)
        printf(" ms");
}

static void print_range(const near_option_info *row)
{
    if (row->choices[0]) {
        for (const char *c = row->choices; *c; c++) {
            if (*c == '|')
                printf(", ");
            else
                putchar(*c);
        }
    } else if (strcmp(row->type, "boolean") == 0) {
        printf("yes, no");
    } else if (strcmp(row->type, "text") == 0) {
        if (row->min)
            printf("%" PRIu64 " to ", row->min);
        else
            printf("up to ");
        printf("%" PRIu64 " bytes", row->max);
    } else {
        print_number(row, row->min);
        printf(" … ");
        print_number(row, row->max);
    }
}

int main(void)
{
    const near_option_info *row;
    puts(
        "# Options\n\n"
        "One table in `lib/base/options.c` feeds all of this: the fields of `near_options`, `near_option_set(name, "
        "text)`, the\n"
        "query parameters of the URI (`redis://host?bound_ms=250ms`), the environment and this page (printed by\n"
        "`tools/option_manual`).  The environment (`NEAR_BOUND_MS=250ms`) counts only in programs that call\n"
        "`near_options_from_environment`; `near_open` does not look there.  Sizes take k, m, g, t (binary), durations\n"
        "us, ms, s, m, h (plain numbers are milliseconds).  A parameter of the URI overrides the field.  \"Running\" "
        "tells\n"
        "whether a `near_set_…` function changes it on an open cache.\n\n"
        "The files of `tls_ca_file`, `tls_ca_dir`, `tls_cert_file` and `tls_key_file` are read at `near_open`, and "
        "again when a new\n"
        "connection finds that one of them has changed (another file, size or time): renewed certificates need no "
        "restart.\n"
        "Connections that are open keep what they were made with.  If the changed files cannot be used (half written, "
        "or a key\n"
        "that is not the certificate's), those read before stay in use, the log has a warning, "
        "`near_stats.tls_files_refused`\n"
        "counts it, and the next connection tries again.\n\n"
        "| name | type | default | range | running | |\n|---|---|---|---|---|---|");
    for (size_t i = 0; (row = near_option_info_at(i)); i++) {
        printf("| `%s` | %s | %s | ", row->name, row->type, row->default_text[0] ? row->default_text : "(none)");
        print_range(row);
        printf(" | %s | %s |\n", row->at_run_time ? "yes" : "no", row->sentence);
    }
    return 0;
}
