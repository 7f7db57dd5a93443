/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/sha1.h"

#include <stdint.h>
#include <string.h>

#define BLOCK 64u

static uint32_t rotate(uint32_t word, unsigned bits)
{
    return word << bits | word >> (32 - bits);
}

static void expand(const unsigned char *block, uint32_t w[80])
{
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
}

static uint32_t mix(int round, uint32_t b, uint32_t c, uint32_t d)
{
    static const uint32_t constant[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    int quarter = round / 20;
    uint32_t mixed = quarter == 0 ? (b & c) | (~b & d) : quarter == 2 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
    return mixed + constant[quarter];
}

static void take_block(uint32_t h[5], const unsigned char *block)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    expand(block, w);
    for (int i = 0; i < 80; i++) {
        uint32_t next = rotate(a, 5) + mix(i, b, c, d) + e + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

/* What does not fill a block, a one bit, zeros, and the size in bits in the last eight bytes. */
static void take_rest(uint32_t h[5], const unsigned char *rest, size_t left, uint64_t size)
{
    unsigned char last[2 * BLOCK] = {0};
    size_t blocks = left < BLOCK - 8 ? 1 : 2;
    if (left)
        memcpy(last, rest, left);
    last[left] = 0x80;
    for (unsigned i = 0; i < 8; i++)
        last[blocks * BLOCK - 1 - i] = (unsigned char)(size * 8 >> 8 * i);
    for (size_t i = 0; i < blocks; i++)
        take_block(h, last + i * BLOCK);
}

void near__sha1_hex(const void *bytes, size_t size, char ret_hex[NEAR_SHA1_HEX])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    const unsigned char *at = bytes;
    size_t left = size;
    for (; left >= BLOCK; at += BLOCK, left -= BLOCK)
        take_block(h, at);
    take_rest(h, at, left, size);
    for (int i = 0; i < NEAR_SHA1_HEX; i++)
        ret_hex[i] = "0123456789abcdef"[h[i / 8] >> (28 - 4 * (i % 8)) & 15];
}
