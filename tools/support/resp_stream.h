/* SPDX-License-Identifier: BSD-3-Clause
 * Finds where the messages of a RESP2 stream end, a byte at a time, keeping nothing of them. */
#ifndef NEAR_TESTS_RESP_STREAM_H
#define NEAR_TESTS_RESP_STREAM_H
#include <stdint.h>

struct resp_stream {
    int64_t bulk;       /* bytes of a bulk string and its CRLF still to come */
    int64_t pending[8]; /* elements still to come, of the arrays we are in */
    int depth;
    char line[32]; /* the beginning of the line we are in: type and number */
    int line_size;
    char last; /* the byte before */
};

/* Takes the next byte: 1 when it ends a whole message, 0 when the message goes on. */
int resp_stream_feed(struct resp_stream *s, char byte);

#endif
