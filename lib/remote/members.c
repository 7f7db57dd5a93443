/* SPDX-License-Identifier: BSD-3-Clause */
#include "remote/members.h"

#include <string.h>

static int next_word(const char *text, size_t size, size_t *cursor, struct near__word *ret)
{
    if (*cursor >= size)
        return 0;
    const char *at = text + *cursor, *stop;
    stop = memchr(at, ' ', size - *cursor);
    *ret = (struct near__word){.at = at, .size = stop ? (size_t)(stop - at) : size - *cursor};
    *cursor += ret->size + (stop != NULL);
    return 1;
}

int near__members_next(const char *text, size_t size, size_t *cursor, struct near__word *ret_name,
                       struct near__word *ret_value)
{
    return next_word(text, size, cursor, ret_name) && next_word(text, size, cursor, ret_value);
}

int near__word_is(struct near__word word, const void *bytes, size_t size)
{
    return word.size == size && memcmp(word.at, bytes, size) == 0;
}

int near__word_number(struct near__word word, uint64_t *ret)
{
    uint64_t number = 0;
    for (size_t i = 0; i < word.size; i++) {
        unsigned digit = (unsigned)(unsigned char)word.at[i] - '0';
        if (digit > 9 || number > ((uint64_t)INT64_MAX - digit) / 10)
            return -1;
        number = number * 10 + digit;
    }
    *ret = number;
    return word.size ? 0 : -1;
}

void near__members_append(struct near__buffer *b, struct near__word name, struct near__word value)
{
    near__buffer_append(b, name.at, name.size);
    near__buffer_append_byte(b, ' ');
    near__buffer_append(b, value.at, value.size);
    near__buffer_append_byte(b, ' ');
}
