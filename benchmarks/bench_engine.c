/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_engine.h"

#include <string.h>

const struct bench_engine *const bench_engines[] = {
    &bench_engine_nearcache, &bench_engine_perishable, &bench_engine_floor,   &bench_engine_line,
    &bench_engine_ways,      &bench_engine_lfht,
#ifdef HAVE_CK
    &bench_engine_ck,
#endif
#ifdef HAVE_CUCKOO
    &bench_engine_cuckoo,
#endif
    &bench_engine_uthash,    &bench_engine_sharded,    &bench_engine_hiredis, NULL,
};

const struct bench_engine *bench_engine_find(const char *name, size_t size)
{
    for (const struct bench_engine *const *engine = bench_engines; *engine; engine++) {
        if (strlen((*engine)->name) == size && memcmp((*engine)->name, name, size) == 0)
            return *engine;
    }
    return NULL;
}
