/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A sample of the keys has few of the hottest, or too many, and those have a large part of the reads: of Zipf 1.0 one
 * key in a hundred thousand has a twelfth.  But hot keys are read again soon, so a short time tells about them, and
 * about all of them.  A burst is that: every request of one thread, whatever its key.  Of its reads, the first
 * NEAR_SOON apart, it is known which are soon ones, and how many keys, and bytes, came in between.
 *
 * Threads whose loads are alike need no common order for it: any stretch of what one of them reads is as good as one of
 * what all of them read.
 *
 * A read of what does not exist is told by the fill that does not follow: it makes no later one a soon one. */
#include "local/bursts.h"

#include <string.h>

#define PHASES 0.05 /* variance of the share of soon reads where half of the time hardly any are, and otherwise half */
#define READS_MAX (1 << 17) /* then all is halved, so that what is long ago counts less */

void near__bursts_see(struct near__bursts *b, uint64_t hash, enum near__seen seen, uint32_t bytes)
{
    b->hash[b->count] = hash;
    b->bytes[b->count] = bytes;
    b->seen[b->count++] = (uint8_t)seen;
}

/* ---------------------------------------------------------------- one burst */

static struct near__met *meet(struct near__bursts *b, uint32_t request)
{
    uint32_t at = (uint32_t)(b->hash[request] >> 32) % (2 * NEAR_BURST);
    uint16_t *first = b->work.first;
    while (first[at] && b->hash[first[at] - 1] != b->hash[request])
        at = (at + 1) % (2 * NEAR_BURST);
    if (!first[at])
        first[at] = (uint16_t)(request + 1);
    return &b->work.met[first[at] - 1];
}

/* The key's last use is in request place - 1 from now on. */
static void use(struct near__burst *work, struct near__met *met, uint32_t place, uint32_t read, uint32_t bytes)
{
    if (met->place)
        near__between_add(work->tree, NEAR_BURST, met->place, -1, -(int64_t)met->bytes);
    *met = (struct near__met){bytes ? bytes : met->bytes, (uint16_t)place, (uint16_t)read};
    near__between_add(work->tree, NEAR_BURST, place, 1, (int64_t)met->bytes);
}

/* Returns how many reads there were, and how many of those that tell were soon ones. */
static uint32_t learn_all(struct near__bursts *b, uint32_t *ret_soon)
{
    uint32_t read = 0;
    for (uint32_t r = 0; r < b->count; r++) {
        struct near__met *met = meet(b, r);
        int is_read = b->seen[r] != NEAR_SEEN_FILL;
        read += (uint32_t)is_read;
        if (is_read && met->place && read > NEAR_SOON && read - met->read <= NEAR_SOON) {
            /* the key itself included */
            struct near__between used = near__between_of(b->work.tree, met->place - 1u, r);
            near__distances_count(&b->of_soon, used.keys, used.bytes, 1);
            ++*ret_soon;
        }
        if (b->seen[r] != NEAR_SEEN_MISS || met->place)
            use(&b->work, met, r + 1, read, b->bytes[r]);
    }
    return read;
}

static void forget(struct near__bursts *b)
{
    near__distances_divide(&b->of_soon, 2);
    b->bursts /= 2;
    b->reads /= 2;
    b->soon /= 2;
    b->squares /= 2;
}

void near__bursts_learn(struct near__bursts *b)
{
    uint32_t soon = 0;
    memset(&b->work, 0, sizeof(b->work));
    uint32_t reads = learn_all(b, &soon);
    b->count = 0;
    if (reads <= NEAR_SOON)
        return;
    b->bursts++;
    b->reads += reads - NEAR_SOON;
    b->soon += soon;
    b->squares += (double)soon * soon / (reads - NEAR_SOON);
    if (b->reads >= READS_MAX)
        forget(b);
}

/* Bursts that are alike may all have met the same phase of the load: the fewer there are the likelier. */
double near__bursts_share(const struct near__bursts *b, double *ret_variance)
{
    double share = b->reads > 0 ? b->soon / b->reads : 0;
    *ret_variance =
        b->bursts > 1 ? (b->squares / b->reads - share * share + PHASES / b->bursts) / (b->bursts - 1) + 0.25 / b->reads
                      : 1;
    return share;
}
