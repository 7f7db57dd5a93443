/* SPDX-License-Identifier: BSD-3-Clause
 * When a loaded value is old: the arithmetic of soft and hard time to live.
 *
 *      loaded                          soft                            hard
 *      |------------- ttl --------------|----------- grace --------------|
 *      FRESH ............. (EARLY?) ....|  OLD, of age 0 … grace         |  gone
 *
 * A value is written to Redis with a time to live of ttl + grace, and grace is a setting that every reader has, so the
 * soft end is simply "the hard end less grace": nothing has to travel with the value, and values stay plain for every
 * other client.  (A companion key with the soft end was the other way: it would double the number of keys, need an
 * atomic read of two, and be wrong after anybody's EXPIRE.  The price of ours: readers must agree on grace.) */
#ifndef NEAR_LOAD_FRESH_H
#define NEAR_LOAD_FRESH_H
#include <stdatomic.h>
#include <stdint.h>

/* How long loads take, by the hash of the key: each a moving average over about eight loads. */
#define NEAR_PACES 64u
struct near__pace {
    _Atomic(int64_t) load_ns[NEAR_PACES]; /* relaxed, all: estimates; a lost update is one sample less */
};
void near__pace_add(struct near__pace *pace, uint64_t hash, int64_t load_ns);
int64_t near__pace_get(struct near__pace *pace, uint64_t hash); /* 0: nothing was loaded yet */

enum near__freshness { NEAR_FRESH, NEAR_FRESH_EARLY, NEAR_FRESH_OLD };
/* What a value is that ends (hard) at expires_ns.  EARLY: still fresh, and this reader was chosen to refresh it: XFetch
 * (Vattani, Chierichetti, Lowenstein 2015), with probability exp(-left / (load_ns * beta)).  random is any number.
 * *ret_age_ns is set with OLD. */
enum near__freshness near__fresh(int64_t now_ns, int64_t expires_ns, int64_t grace_ns, int64_t load_ns,
                                 uint32_t beta_permille, uint64_t random, int64_t *ret_age_ns);

/* With so much left before its soft end it is FRESH whatever the random number. */
int near__is_surely_fresh(int64_t left_ns, int64_t load_ns, uint32_t beta_permille);

/* ttl_ms shortened by up to jitter_permille of it, so that what was loaded together does not end together; at least
 * 1. */
int64_t near__jittered(int64_t ttl_ms, uint32_t jitter_permille, uint64_t random);

#endif
