/* SPDX-License-Identifier: BSD-3-Clause
 * Losing data on purpose, exactly: what is lost, what survives, and from when on everybody must know.
 *
 *   1. Nobody begins to write any more (pause); those who are at it get a moment to finish.
 *   2. Every key is marked as being lost; whoever has not finished by now, or was of unknown fate, makes its key's
 *      survivor unknown.
 *   3. The caller loses the data.
 *   4. Each key's survivor and the time are noted; every slot is to go on with a new generation (check_advance);
 *      writing goes on.
 *
 * A writer sets busy, then looks at pause and retiring; here pause or retiring is set before busy is looked at: so
 * either it does not begin or it is seen. */
#include "check.h"

#include <string.h>

enum { FINISH_MS = 150 };

static int thread_is_busy(const struct check_writer *w, uint32_t slot)
{
    for (int i = 0; i < CHECK_MANY; i++) {
        uint32_t busy = atomic_load(&w->busy[i]);
        if (busy != 0 && (slot == CHECK_SLOTS || busy == slot + 1))
            return 1;
    }
    return 0;
}

/* Whether somebody writes this slot (CHECK_SLOTS: any). */
static int is_busy(const struct check *c, uint32_t slot)
{
    for (uint32_t p = 0; p < c->board->processes; p++)
        for (uint32_t t = 0; t < c->board->writers; t++)
            if (thread_is_busy(&c->board->process[p].writer[t], slot))
                return 1;
    return 0;
}

int check_is_writing(const struct check *c)
{
    return is_busy(c, CHECK_SLOTS);
}

static void freeze(struct check_key *key)
{
    atomic_store(&key->frozen_ns, CHECK_LOSING);
    atomic_store(&key->survivor, -1);
}

void check_loss_begin(struct check *c)
{
    struct check_board *board = c->board;
    atomic_store(&board->pause, 1);
    for (int i = 0; i < FINISH_MS && is_busy(c, CHECK_SLOTS); i++)
        check_sleep_ms(1);
    memset(c->known, 0, sizeof c->known);
    for (uint32_t i = 0; i < CHECK_SLOTS; i++) {
        uint32_t generation = atomic_load(&board->slot[i].generation);
        struct check_key *key = check_key_of(board, i, generation);
        if (!is_busy(c, i) && atomic_load(&key->open) == 0 && atomic_load(&key->frozen_ns) == 0)
            c->known[i / 64] |= UINT64_C(1) << i % 64;
        freeze(key);
        if (generation > 1)
            freeze(check_key_of(board, i, generation - 1));
    }
}

/* -1: unknown. */
static int64_t ask_survivor(struct check *c, struct redis_server *survivors, uint32_t slot, uint32_t generation)
{
    int64_t version = check_ask(c, survivors, slot, generation);
    if (version == CHECK_NOT_OURS)
        check_complain(c->board, CHECK_DAMAGED, CHECK_PROCESSES, slot, generation, 0);
    return version < 0 ? -1 : version;
}

void check_loss_end(struct check *c, struct redis_server *survivors)
{
    struct check_board *board = c->board;
    int64_t now = check_now();
    for (uint32_t i = 0; i < CHECK_SLOTS; i++) {
        uint32_t generation = atomic_load(&board->slot[i].generation);
        struct check_key *key = check_key_of(board, i, generation);
        int known = c->known[i / 64] >> i % 64 & 1;
        if (atomic_load(&key->sent) == 0 && known && !survivors) { /* nothing was there, so nothing was lost */
            atomic_store(&key->frozen_ns, 0);
            continue;
        }
        if (known)
            atomic_store(&key->survivor, survivors ? ask_survivor(c, survivors, i, generation) : 0);
        atomic_store(&key->frozen_ns, now);
        atomic_store(&board->slot[i].retiring, 1);
    }
    c->losses++;
    check_advance(c);
    atomic_store(&board->pause, 0);
}

static void next_generation(struct check *c, uint32_t number)
{
    struct check_board *board = c->board;
    struct check_slot *slot = &board->slot[number];
    uint32_t next = atomic_load(&slot->generation) + 1;
    struct check_key *key = check_key_of(board, number, next);
    /* readers of the one before look here after they have looked at its numbers */
    atomic_store(&slot->oldest, next - 1);
    atomic_store(&key->sent, 0);
    atomic_store(&key->acked, 0);
    atomic_store(&key->barred, 0);
    atomic_store(&key->open, 0);
    atomic_store(&key->frozen_ns, 0);
    atomic_store(&key->survivor, 0);
    for (uint32_t i = 0; i < slot->ring_size; i++)
        atomic_store(&check_write_of(board, number, next, i)->version, 0);
    atomic_store(&slot->generation, next);
    atomic_store(&slot->retiring, 0);
}

void check_advance(struct check *c)
{
    for (uint32_t i = 0; i < CHECK_SLOTS; i++)
        if (atomic_load(&c->board->slot[i].retiring) && !is_busy(c, i))
            next_generation(c, i);
}

static void bury_write(struct check_board *board, uint32_t slot)
{
    struct check_key *key = check_key_of(board, slot, atomic_load(&board->slot[slot].generation));
    if (kind_is_loaded(board->slot[slot].kind)) {
        return; /* the source has its version, and to forget a key later does no harm */
    } else if (board->slot[slot].kind == CHECK_COUNTER) {
        atomic_fetch_add(&key->open, 1);
    } else if (atomic_load(&key->open) == 0 && atomic_load(&key->sent) > atomic_load(&key->acked)) {
        atomic_store(&key->open_ns, check_now());
        atomic_store(&key->open, atomic_load(&key->sent));
    }
}

void check_bury(struct check *c, uint32_t process)
{
    struct check_board *board = c->board;
    struct check_process *p = &board->process[process];
    for (uint32_t t = 0; t < board->writers; t++)
        for (int i = 0; i < CHECK_MANY; i++)
            if (atomic_load(&p->writer[t].busy[i]) != 0)
                bury_write(board, atomic_load(&p->writer[t].busy[i]) - 1);
    for (uint32_t i = 0; i < CHECK_SLOTS; i++) {
        uint32_t mine = process + 1;
        atomic_compare_exchange_strong(&board->slot[i].lock, &mine, 0);
        atomic_store(&p->seen[i][0], 0);
        atomic_store(&p->seen[i][1], 0);
    }
    for (uint32_t t = 0; t < board->writers; t++)
        for (int i = 0; i < CHECK_MANY; i++)
            atomic_store(&p->writer[t].busy[i], 0);
    for (int g = 0; g < CHECK_GAUGES; g++) {
        atomic_fetch_add(&p->total[g], atomic_load(&p->gauge[g]));
        atomic_store(&p->gauge[g], 0);
    }
}
