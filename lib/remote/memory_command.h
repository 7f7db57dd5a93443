/* SPDX-License-Identifier: BSD-3-Clause
 * A command of memory:// under way, for memory_command.c and memory_loads.c.  Everything here is called with the lock
 * of the store. */
#ifndef NEAR_REMOTE_MEMORY_COMMAND_H
#define NEAR_REMOTE_MEMORY_COMMAND_H
#include "remote/memory_store.h"

/* The key with its prefix, its record, and the time, which stands still while it runs. */
struct near__command {
    struct near__memory_store *store;
    struct near__place *place;
    struct near__request *q;
    int64_t now_ns;
    struct near__record *record;
    const unsigned char *key;
    size_t key_size;
};

/* When something ends that lives for ttl_ms from now; 0 or less: never. */
int64_t near__command_expiry(const struct near__command *c, int64_t ttl_ms);
/* Rounded down: nobody may believe that a key lives longer than it does.  -1: for ever. */
int64_t near__command_ttl_left(const struct near__command *c, const struct near__record *record);
/* Where positions and fences begin. */
uint64_t near__command_first_position(const struct near__command *c);
/* The next position, and the message that has it. */
void near__command_announce(struct near__command *c);
/* Writes the value of the command's key, whose lease and tags are void then.  NEAR_ERR_NOMEM: nothing has happened, an
 * old value that stays keeps its tags. */
int near__command_put(struct near__command *c, const void *value, size_t value_size, int64_t expire_ns);

/* A key beside the command's: a name of two parts, allocated with the store's hooks.  Of init, key and both 0 is good,
 * otherwise there is no memory, and nothing to free. */
struct near__beside {
    unsigned char *name;
    size_t size;
};
int near__beside_init(const struct near__command *c, const void *first, size_t first_size, const void *second,
                      size_t second_size, struct near__beside *ret);
int near__beside_key(const struct near__command *c, const char *suffix, struct near__beside *ret);
int near__beside_both(const struct near__command *c, struct near__beside *ret_lease, struct near__beside *ret_tags);
/* NULL: it is absent. */
struct near__record *near__beside_record(const struct near__command *c, const struct near__beside *b);
void near__beside_remove(const struct near__command *c, const struct near__beside *b);

/* Loading (memory_loads.c), as the scripts of script.c. */
int near__command_lease(struct near__command *c, const struct near__alloc *value_alloc, uint64_t value_max);
int near__command_fill(struct near__command *c);
int near__command_release(struct near__command *c);
int near__command_tag(struct near__command *c);

#endif
