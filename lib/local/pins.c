/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Pinned and owned values.
 *
 * A pin is an entry's address in a place where the keeper looks before it frees anything: 64 places in the reader's
 * record, or a place in a block that belongs to no thread (an owned value).
 *
 * Why a pinned entry is not freed.  The pin is stored inside the read section in which the entry was found; the
 * keeper looks at the pins after a grace period that began when the entry was already unlinked.  So every section
 * that can have found it has ended, and its pin is there to be seen (R48).  Owning stores the new pin before it
 * clears the old one, and the keeper looks at readers first and at blocks second, so a pin that moves is seen in one
 * of them.
 *
 * Blocks are never freed before the tier is closed: there are as many as were ever needed at once. */
#include "local/hit.h"

#include <string.h>

struct near__block {
    struct near__block *next; /* set before publication */
    _Atomic(uint64_t) taken;  /* one bit a place */
    _Atomic(struct near__entry *) place[NEAR_PINS];
};

static void free_copy(struct near__local *local, const void *pin)
{
    near__free(local->alloc, (void *)((uintptr_t)pin - NEAR_PIN_COPY));
    /* release: pairs with near__local_pinned; who then closes the tier finds us gone */
    atomic_fetch_sub_explicit(&local->copies, 1, memory_order_release);
}

int near__hit_hold_copy(struct near__local *local, const struct near__entry *entry, void **ret_pin,
                        const void **ret_data)
{
    size_t size = near__entry_value_size(entry);
    unsigned char *copy = near__alloc(local->alloc, size);
    if (!copy)
        return 0;
    memcpy(copy, near__entry_value(entry), size);
    *ret_data = copy;
    *ret_pin = (void *)((uintptr_t)copy | NEAR_PIN_COPY);
    atomic_fetch_add_explicit(&local->copies, 1, memory_order_relaxed); /* relaxed: a count */
    return 1;
}

void near__local_unpin(struct near__reader *reader, struct near__view *view)
{
    void *pin = view->pin;
    if (!pin)
        return;
    view->pin = NULL;
    if (near__pin_is_copy(pin))
        free_copy(reader->local, pin);
    else
        near__hit_unpin(reader, pin);
}

/* ---------------------------------------------------------------- owned values */

static _Atomic(struct near__entry *) *take_place(struct near__block *block)
{
    uint64_t taken = atomic_load_explicit(&block->taken, memory_order_relaxed); /* relaxed: the swap decides */
    while (taken != UINT64_MAX) {
        unsigned i = (unsigned)__builtin_ctzll(~taken);
        /* acquire: pairs with the release in near__local_disown; the place is empty */
        if (atomic_compare_exchange_weak_explicit(&block->taken, &taken, taken | UINT64_C(1) << i, memory_order_acquire,
                                                  memory_order_relaxed))
            return &block->place[i];
    }
    return NULL;
}

static struct near__block *add_block(struct near__local *local)
{
    struct near__block *block = near__alloc_zero(local->alloc, sizeof(*block));
    if (!block)
        return NULL;
    near__budget_charge(local, (int64_t)near__alloc_cost(local->alloc, block, sizeof(*block)));
    block->next = atomic_load_explicit(&local->blocks, memory_order_relaxed); /* relaxed: the swap below orders */
    /* release: pairs with the acquire of whoever walks the list; publishes the block */
    while (!atomic_compare_exchange_weak_explicit(&local->blocks, &block->next, block, memory_order_release,
                                                  memory_order_relaxed))
        ;
    return block;
}

static _Atomic(struct near__entry *) *find_place(struct near__local *local)
{
    /* acquire: pairs with add_block */
    struct near__block *block = atomic_load_explicit(&local->blocks, memory_order_acquire);
    for (; block; block = block->next) {
        _Atomic(struct near__entry *) *place = take_place(block);
        if (place)
            return place;
    }
    block = add_block(local);
    return block ? take_place(block) : NULL; /* NULL also when others have filled the new one */
}

struct near__owned *near__local_own(struct near__local *local, struct near__reader *reader, struct near__view *view)
{
    void *pin = view->pin;
    if (near__pin_is_copy(pin)) { /* belongs to no thread already */
        view->pin = NULL;
        return pin;
    }
    _Atomic(struct near__entry *) *from = pin, *to = find_place(local);
    if (!to)
        return NULL;
    /* release, then the release in unpin: the keeper's acquire that sees the old pin gone sees the new one, as it looks
     * at readers first and at blocks second.  relaxed load: our own store */
    atomic_store_explicit(to, atomic_load_explicit(from, memory_order_relaxed), memory_order_release);
    near__local_unpin(reader, view);
    return (struct near__owned *)(void *)to;
}

static struct near__block *block_of(struct near__local *local, const _Atomic(struct near__entry *) *place)
{
    /* acquire: pairs with add_block */
    struct near__block *block = atomic_load_explicit(&local->blocks, memory_order_acquire);
    while (block && !(place >= block->place && place < block->place + NEAR_PINS))
        block = block->next;
    return block;
}

void near__local_disown(struct near__local *local, struct near__owned *owned)
{
    if (!owned)
        return;
    if (near__pin_is_copy(owned)) {
        free_copy(local, owned);
        return;
    }
    _Atomic(struct near__entry *) *place = (void *)owned;
    struct near__block *block = block_of(local, place);
    if (!block)
        return;
    /* release: as in near__local_unpin */
    atomic_store_explicit(place, NULL, memory_order_release);
    /* release: pairs with take_place */
    atomic_fetch_and_explicit(&block->taken, ~(UINT64_C(1) << (place - block->place)), memory_order_release);
}

/* ---------------------------------------------------------------- looking at them */

void near__pins_each(struct near__local *local, void (*look)(void *arg, struct near__entry *entry), void *arg)
{
    /* acquire, all: the list of blocks pairs with its push, the places with the stores above.  Readers first: see
     * near__local_own. */
    for (struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        for (unsigned i = 0; i < NEAR_PINS; i++) {
            struct near__entry *entry = atomic_load_explicit(&reader->pin[i], memory_order_acquire);
            if (entry)
                look(arg, entry);
        }
    struct near__block *block = atomic_load_explicit(&local->blocks, memory_order_acquire);
    for (; block; block = block->next)
        for (unsigned i = 0; i < NEAR_PINS; i++) {
            struct near__entry *entry = atomic_load_explicit(&block->place[i], memory_order_acquire);
            if (entry)
                look(arg, entry);
        }
}

size_t near__local_pinned(struct near__local *local)
{
    /* acquire, all: what was done with what is not pinned any more comes before what our caller does */
    size_t n = (size_t)atomic_load_explicit(&local->copies, memory_order_acquire);
    for (struct near__reader *reader = near__readers_first(local); reader; reader = reader->next)
        for (unsigned i = 0; i < NEAR_PINS; i++)
            n += atomic_load_explicit(&reader->pin[i], memory_order_acquire) != NULL;
    struct near__block *block = atomic_load_explicit(&local->blocks, memory_order_acquire);
    for (; block; block = block->next)
        n += (size_t)__builtin_popcountll(atomic_load_explicit(&block->taken, memory_order_acquire));
    return n;
}

void near__pins_close(struct near__local *local)
{
    struct near__block *block = atomic_load_explicit(&local->blocks, memory_order_acquire);
    while (block) {
        struct near__block *next = block->next;
        near__free(local->alloc, block);
        block = next;
    }
}
