/* SPDX-License-Identifier: BSD-3-Clause
 * SHA-1 (RFC 3174), because it is the one digest that a script in Redis can compute, too (redis.sha1hex).
 *
 * Own code although libraries have it: libmd's names (SHA1Init …) are those that half the programs of the world export
 * themselves, Redis's own sha1.c among them, and with a host's functions in the place of the library's our digests
 * would be a matter of luck; libcrypto is there only when TLS is wanted.  It tells equal values from unequal ones and
 * protects nothing from anybody. */
#ifndef NEAR_BASE_SHA1_H
#define NEAR_BASE_SHA1_H
#include <stddef.h>

#define NEAR_SHA1_HEX 40 /* characters, without the end of a string */

void near__sha1_hex(const void *bytes, size_t size, char ret_hex[NEAR_SHA1_HEX]);

#endif
