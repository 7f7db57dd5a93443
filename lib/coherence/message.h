/* SPDX-License-Identifier: BSD-3-Clause
 * The codec of messages on the shared channel.
 *
 *   '1' position ':' body              '1' is the envelope's version; position is decimal, put in by the server
 *   body: format 1, operation 1, sender 8, write id 8, sent_ns 8 (sender's CLOCK_MONOTONIC), host 8 (which clock),
 *         flags 1, key count varint, keys (length varint, bytes)
 *         [, flags bit 0: value length varint, bytes, ttl_ms varint + 1, 0: none]   (fixed-size numbers little-endian)
 *   flags bit 1: a SET without its value; its sender would like to know who held the keys (demand.c)
 *
 * Anything else, also a version or operation of the future, is malformed: the reader must suspect everything (R37). */
#ifndef NEAR_COHERENCE_MESSAGE_H
#define NEAR_COHERENCE_MESSAGE_H
#include <stddef.h>
#include <stdint.h>
#include "base/buffer.h"

enum near__message_operation {
    NEAR_MESSAGE_SET = 1, /* also CAS and INCR */
    NEAR_MESSAGE_DEL,
    NEAR_MESSAGE_EXPIRE,
    NEAR_MESSAGE_CLEAR,   /* no keys: everything with the prefix */
    NEAR_MESSAGE_BARRIER, /* changes nothing; the key is the name of its sender's private channel, where everybody
                             answers who has come so far, with the write id (barrier.c) */
    NEAR_MESSAGE_OPERATIONS_
};

#define NEAR_MESSAGE_KEYS_MAX 4096
#define NEAR_MESSAGE_HEAD 35 /* bytes of a body before its key count */

struct near__message {
    uint64_t position; /* 0: the server could not number it */
    enum near__message_operation operation;
    uint64_t sender, write_id, host;
    int64_t sent_ns;
    size_t key_count;
    int has_value, asks;
    const void *value;
    size_t value_size;
    int64_t ttl_ms; /* with a value; -1: none */
    /* where the keys begin; walk them with near__message_next_key */
    const unsigned char *keys, *end;
};

/* Appends a body; check b->failed afterwards. */
void near__message_encode(struct near__buffer *b, const struct near__message *m, const void *const *keys,
                          const size_t *key_sizes);
/* 0, or -1 when malformed in any way (then *ret is undefined).  The keys are all checked here. */
int near__message_decode(const void *payload, size_t size, struct near__message *ret);
/* Steps through the keys of a decoded message: 1 and *ret_key, *ret_size, or 0 at the end.  *cursor starts NULL. */
int near__message_next_key(const struct near__message *m, const unsigned char **cursor, const void **ret_key,
                           size_t *ret_size);
/* "A<roll>:<name>" of an answer to a barrier, name pointing into the payload: 0 or -1. */
int near__message_decode_answer(const void *payload, size_t size, uint64_t *ret_roll, const void **ret_name,
                                size_t *ret_size);
/* What a process says of a key that it held when it was told of a write: the key's hash 4, how often 2.  Of an answer
 * with roll 0 the name is any number of these.  Reads one from *cursor on: 1, 0 at the end, -1 when the report is
 * malformed. */
#define NEAR_MESSAGE_HELD 6
void near__message_encode_held(unsigned char *at, uint32_t hash, unsigned held);
int near__message_decode_held(const void *report, size_t size, size_t *cursor, uint32_t *ret_hash, unsigned *ret_held);
/* "P<nonce>:<position>" of a heartbeat, and where the server tells it ":<history>", pointing into the payload (size 0:
 * not told): 0 or -1. */
int near__message_decode_proof(const void *payload, size_t size, uint64_t *ret_nonce, uint64_t *ret_position,
                               const void **ret_history, size_t *ret_size);

#endif
