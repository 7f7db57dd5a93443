/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A walk over everything that is in the tier, for those who look for keys.
 *
 * It goes through the hash's range in steps, each of a few buckets and in a read section of its own, in every table
 * that there is: order is preserved between sizes, so a table that is replaced between two steps does no harm, but that
 * an entry which moves may be met twice or not at all. */
#include "local/tier.h"

static void visit_bucket(const struct near__bucket *bucket, near__tier_visit_fn visit, void *arg)
{
    for (unsigned i = 0; i < NEAR_BUCKET_SLOTS; i++) {
        uint64_t word = near__step_load(&bucket->slot[i]);
        if (near__word_is_visible(word))
            visit(arg, near__word_entry(word));
    }
}

uint64_t near__tier_walk(struct near__local *local, uint64_t at, uint32_t buckets, near__tier_visit_fn visit, void *arg)
{
    near__local_section_enter();
    const struct near__tables *tables = near__index_tables(&local->index);
    uint64_t largest = 1;
    for (unsigned i = 0; i < tables->spans; i++)
        if (tables->span[i].count > largest)
            largest = tables->span[i].count;
    uint64_t width = largest > buckets ? UINT64_MAX / largest * buckets : UINT64_MAX;
    int is_last = at > UINT64_MAX - width;
    uint64_t next = is_last ? 0 : at + width;
    for (unsigned i = 0; i < tables->spans; i++) {
        const struct near__span *span = &tables->span[i];
        uint64_t first = (uint64_t)(near__span_bucket(span, at) - span->bucket);
        uint64_t end = is_last ? span->count : (uint64_t)(near__span_bucket(span, next) - span->bucket);
        for (; first < end; first++)
            visit_bucket(&span->bucket[first], visit, arg);
    }
    near__local_section_leave();
    return next;
}
