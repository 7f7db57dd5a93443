/* SPDX-License-Identifier: BSD-3-Clause
 * The order of eviction: dead entries first (expired, idle for too long, cleared, suspect), then the least recently
 * used.
 *
 * The age of an entry is the distance between its access stamp and the *tick*, both modulo 2^16.  The tick
 * advances once in 1/1024 of a turnover (as many fills as there are entries), so that 16 bits cover sixty-four
 * turnovers, far more than any entry survives unread in a full tier; the keeper pulls older stamps along.  With an
 * idle limit the tick is 1/1024 of that limit, at least a millisecond. */
#ifndef NEAR_LOCAL_ORDER_H
#define NEAR_LOCAL_ORDER_H
#include <stdint.h>
#include "local/entry.h"

#define NEAR_TICKS 1024u       /* a turnover, or the idle limit */
#define NEAR_RANK_DEAD (1u << 16)

/* One look at the clocks, enough to rank entries by. */
struct near__moment {
    int64_t now_ms; /* since the tier's opening */
    uint64_t watermark;
    uint16_t tick;
    uint8_t era;
    uint16_t idle; /* the idle limit in ticks; 0: none */
};

static inline unsigned near__entry_age(const struct near__entry *e, uint16_t tick)
{
    uint16_t age = (uint16_t)(tick - atomic_load_explicit(&e->access, memory_order_relaxed)); /* relaxed: (a) */
    return age > UINT16_MAX - 4 * NEAR_TICKS ? 0 : age; /* stamped after our tick was taken: young, not ancient */
}
/* A store only when it changes something keeps the line of a hot entry shared between cores. */
static inline void near__entry_touch(struct near__entry *e, uint16_t tick)
{
    if (atomic_load_explicit(&e->access, memory_order_relaxed) != tick) /* relaxed, both: (a) */
        atomic_store_explicit(&e->access, tick, memory_order_relaxed);
}

static inline int near__entry_is_expired(const struct near__entry *e, const struct near__moment *m)
{
    return (e->expires && near__expiry_left(e->expires, m->now_ms) <= 0) ||
           (m->idle && near__entry_age(e, m->tick) >= m->idle);
}
/* The higher, the sooner it goes. */
static inline unsigned near__entry_rank(const struct near__entry *e, const struct near__moment *m)
{
    if (near__entry_era(e) != m->era || near__entry_position(e) < m->watermark || near__entry_is_expired(e, m))
        return NEAR_RANK_DEAD;
    return near__entry_age(e, m->tick);
}

#endif
