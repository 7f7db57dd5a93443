/* SPDX-License-Identifier: BSD-3-Clause
 * UTF-8, for texts that others will parse. */
#ifndef NEAR_BASE_UTF8_H
#define NEAR_BASE_UTF8_H

/* Bytes of the character that a text ending with a NUL has there, by RFC 3629; 0: it is none. */
static inline unsigned near__utf8_size(const unsigned char *c)
{
    unsigned size = c[0] < 0x80                   ? 1
                    : c[0] >= 0xc2 && c[0] < 0xe0 ? 2
                    : c[0] >= 0xe0 && c[0] < 0xf0 ? 3
                    : c[0] >= 0xf0 && c[0] < 0xf5 ? 4
                                                  : 0;
    for (unsigned i = 1; i < size; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    int too_long = (c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xf0 && c[1] < 0x90);
    int no_character = (c[0] == 0xed && c[1] > 0x9f) || (c[0] == 0xf4 && c[1] > 0x8f); /* surrogates, beyond the last */
    return too_long || no_character ? 0 : size;
}

#endif
