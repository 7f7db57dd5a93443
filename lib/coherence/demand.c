/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Demand: is a key likely held by others when it is written?  Then its value travels with the message
 * (message_values=adaptive), so that they have it without a fetch; otherwise they are only told.
 *
 * A writer cannot know what others hold, but they do: whoever is told of a write and finds an entry to remove has read
 * the key since the write before.  Where the message says that its writer would like to know (near__message.asks), such
 * finds are noted, and go to the writer's private channel with the next heartbeat:
 *
 *      writer                                             everybody else
 *      SET k, asks  ------------ message -------------->  an entry went: note k (held 1, told 1)
 *      SET k, asks  ------------ message -------------->  none was there:       (held 1, told 2)
 *                   <---- "A0:" k held, next heartbeat -  held * SHARE >= told: read about as often as written
 *      credit of k += held * CREDIT
 *      SET k with its value, credit of k -= 1             kept where the key is held; no note
 *
 * When the credit is used up the next message has no value again, and asks: so who keeps a value that nobody reads
 * takes it away at that time, and a key that is no longer read falls silent.  One fetch by somebody pays for CREDIT
 * values at most, and where a key is read all the time one write in CREDIT + 1 or so is told without its value.
 *
 * None of this is about what is correct: whether a value rides along changes nothing in the order of positions.
 * Credits are kept for stripes of keys, by a hash that is the same in all processes; two keys of a stripe share theirs.
 * Notes and reports may be lost.
 *
 * Cost: 20 KiB a process; who sends nothing that asks causes nothing.  A message that asks and finds nothing costs its
 * reader a look; one that finds something, a lock.  A report is one PUBLISH in the heartbeat's batch. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "coherence/proof.h"

enum {
    SHARE = 8,   /* held in an eighth of the times that it was told is enough */
    CREDIT = 16, /* values for each time that an entry was there */
    CREDIT_MAX = 1 << 20
};

static uint32_t hash_of(const void *key, size_t key_size)
{
    /* not secret: both sides compute it; a bad spread costs bytes, no more */
    return (uint32_t)near__hash(key, key_size, 0);
}

/* ---------------------------------------------------------------- the reader's side */

void near__demand_note(struct near__coherence *c, uint64_t sender, const void *key, size_t key_size, int held)
{
    /* relaxed: raised by this thread only; if it was just taken away, so were the notes */
    if (sender == c->sender || (!held && atomic_load_explicit(&c->demand.noted, memory_order_relaxed) == 0))
        return;
    uint32_t hash = hash_of(key, key_size);
    struct near__demand_note *note = &c->demand.notes[hash % NEAR_DEMAND_NOTES];
    pthread_mutex_lock(&c->lock);
    if (note->held && note->sender == sender && note->hash == hash && note->told < UINT16_MAX) {
        note->told++;
        note->held += held != 0;
    } else if (held && !note->held) {
        *note = (struct near__demand_note){.sender = sender, .hash = hash, .told = 1, .held = 1};
        atomic_fetch_add_explicit(&c->demand.noted, 1, memory_order_relaxed); /* as above */
    }
    pthread_mutex_unlock(&c->lock);
}

static int pays(const struct near__demand_note *note)
{
    return note->held * SHARE >= note->told;
}

/* All notes about one sender. */
static void take_one_locked(struct near__demand *d, uint64_t sender, struct near__demand_report *ret)
{
    snprintf(ret->name, sizeof(ret->name), "%016" PRIx64, sender);
    ret->size = 0;
    for (size_t i = 0; i < NEAR_DEMAND_NOTES; i++) {
        struct near__demand_note *note = &d->notes[i];
        if (!note->held || note->sender != sender)
            continue;
        if (pays(note)) {
            near__message_encode_held(ret->bytes + ret->size, note->hash, note->held);
            ret->size += NEAR_MESSAGE_HELD;
        }
        note->held = 0;
        atomic_fetch_sub_explicit(&d->noted, 1, memory_order_relaxed); /* see near__demand_note */
    }
}

size_t near__demand_take_locked(struct near__coherence *c, struct near__demand_report *ret, size_t most)
{
    struct near__demand *d = &c->demand;
    size_t count = 0;
    for (size_t i = 0; i < NEAR_DEMAND_NOTES && count < most; i++) {
        if (!d->notes[i].held)
            continue;
        take_one_locked(d, d->notes[i].sender, &ret[count]);
        count += ret[count].size != 0;
    }
    return count;
}

/* ---------------------------------------------------------------- the writer's side */

static _Atomic(uint32_t) *credit_of(struct near__coherence *c, uint32_t hash)
{
    return &c->demand.credit[hash % NEAR_DEMAND_STRIPES];
}

void near__demand_heard(struct near__coherence *c, const void *report, size_t size)
{
    uint32_t hash;
    unsigned held;
    for (size_t at = 0; near__message_decode_held(report, size, &at, &hash, &held) > 0;) {
        _Atomic(uint32_t) *credit = credit_of(c, hash);
        /* relaxed, both: a guess about the future; only this thread adds, so the limit holds */
        if (atomic_load_explicit(credit, memory_order_relaxed) < CREDIT_MAX)
            atomic_fetch_add_explicit(credit, held * CREDIT, memory_order_relaxed);
    }
}

int near__coherence_wants_value(struct near__coherence *c, const void *key, size_t key_size)
{
    _Atomic(uint32_t) *credit = credit_of(c, hash_of(key, key_size));
    /* relaxed, both: as above; who loses the swap to another writer sends a value for nothing */
    uint32_t left = atomic_load_explicit(credit, memory_order_relaxed);
    if (left)
        atomic_compare_exchange_strong_explicit(credit, &left, left - 1, memory_order_relaxed, memory_order_relaxed);
    return left != 0;
}
