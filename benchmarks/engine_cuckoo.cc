/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libcuckoo, a C++ table of two buckets a key and a spin lock for each few of them, which readers take, too.  Never
 * evicts.  As large as it needs to be from the start.  An entry has room for the largest value, so that a write is done
 * in place under the lock. */
#include <libcuckoo/cuckoohash_map.hh>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>

extern "C" {
#include "bench_engine.h"
}

namespace
{

struct hash {
    size_t operator()(std::string_view key) const
    {
        return XXH3_64bits(key.data(), key.size());
    }
};

/* The key's bytes, which the table's key is a view of, then the value's. */
struct entry {
    uint32_t value_size;
    std::unique_ptr<char[]> bytes;
};

struct cuckoo {
    libcuckoo::cuckoohash_map<std::string_view, entry, hash> table;
    uint32_t value_size_max;
    uint32_t key_size;
    explicit cuckoo(const bench_engine_config &config)
        : table(config.keys), value_size_max(config.value_size), key_size(config.key_size)
    {
    }
};

void *open_table(const bench_engine_config *config, char *error, size_t capacity)
{
    try {
        return new cuckoo(*config);
    } catch (const std::bad_alloc &) {
        snprintf(error, capacity, "out of memory");
        return nullptr;
    }
}

void close_table(void *store)
{
    delete static_cast<cuckoo *>(store);
}

int64_t get(void *store, unsigned, bench_key key, void *buffer, size_t capacity)
{
    int64_t size = BENCH_ABSENT;
    static_cast<cuckoo *>(store)->table.find_fn(std::string_view(key.bytes, key.size), [&](const entry &found) {
        size = found.value_size;
        std::memcpy(buffer, found.bytes.get() + key.size, found.value_size < capacity ? found.value_size : capacity);
    });
    return size;
}

int set(void *store, unsigned, bench_key key, const void *value, size_t size)
{
    auto *cuckoo = static_cast<struct cuckoo *>(store);
    const auto write = [&](entry &to) {
        to.value_size = static_cast<uint32_t>(size);
        std::memcpy(to.bytes.get() + key.size, value, size);
    };
    if (size > cuckoo->value_size_max)
        return -1;
    try {
        if (cuckoo->table.update_fn(std::string_view(key.bytes, key.size), write))
            return 1;
        entry made{0, std::unique_ptr<char[]>(new char[key.size + cuckoo->value_size_max])};
        std::string_view name(made.bytes.get(), key.size);
        std::memcpy(made.bytes.get(), key.bytes, key.size);
        write(made);
        /* somebody else may have been first: then ours is not moved from, and theirs is written to */
        cuckoo->table.upsert(name, write, std::move(made));
        return 1;
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

uint64_t memory(void *store, uint64_t *ret_entries)
{
    const auto *cuckoo = static_cast<const struct cuckoo *>(store);
    const uint64_t places = cuckoo->table.capacity();
    *ret_entries = cuckoo->table.size();
    return places * (sizeof(std::string_view) + sizeof(entry) + 1) +
           *ret_entries * (cuckoo->key_size + cuckoo->value_size_max);
}

} // namespace

extern "C" const bench_engine bench_engine_cuckoo = {
    .name = "libcuckoo",
    .sentence = "libcuckoo's map (C++), readers with spin locks; never evicts",
    .open = open_table,
    .close = close_table,
    .get = get,
    .set = set,
    .memory = memory,
};
