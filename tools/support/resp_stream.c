/* SPDX-License-Identifier: BSD-3-Clause */
#include "support/resp_stream.h"
#include <stdlib.h>

/* One element is complete: so may be the arrays around it. */
static int element_ends(struct resp_stream *s)
{
    while (s->depth > 0) {
        if (--s->pending[s->depth - 1] > 0)
            return 0;
        s->depth--;
    }
    return 1;
}

static int line_ends(struct resp_stream *s)
{
    s->line[s->line_size < 31 ? s->line_size : 31] = 0;
    int64_t number = s->line_size > 1 ? strtoll(s->line + 1, NULL, 10) : 0;
    char type = s->line[0];
    s->line_size = 0;
    if (type == '$' && number >= 0) {
        s->bulk = number + 2;
        return 0;
    }
    if (type == '*' && number > 0 && s->depth < 8) {
        s->pending[s->depth++] = number;
        return 0;
    }
    return element_ends(s);
}

int resp_stream_feed(struct resp_stream *s, char byte)
{
    if (s->bulk > 0)
        return --s->bulk == 0 ? element_ends(s) : 0;
    int line_done = byte == '\n' && s->last == '\r';
    if (s->line_size < (int)sizeof s->line - 1)
        s->line[s->line_size++] = byte;
    s->last = line_done ? 0 : byte;
    return line_done ? line_ends(s) : 0;
}
