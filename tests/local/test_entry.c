/* SPDX-License-Identifier: BSD-3-Clause
 * One entry: sizes that have room in its header and sizes that have not, what stands in front of it, and what becomes
 * of its head. */
#include "local/local_fixture.h"
#include "local/hit.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- the block */

static struct near__entry *make(size_t key_size, size_t value_size, int has_expiry, int queues)
{
    unsigned flags = near__entry_flags_for(key_size, value_size, has_expiry, queues);
    size_t size = near__entry_size_for(key_size, value_size, flags);
    unsigned char *block = malloc(size); /* exactly, so that AddressSanitizer sees every byte too many */
    assert_non_null(block);
    struct near__entry *e = near__entry_make(block, key_size, value_size, flags, 4711);
    memset(e->bytes, 'k', key_size);
    memset(e->bytes + key_size, 'v', value_size);
    if (queues)
        atomic_store(near__entry_place(e), 815);
    atomic_store(&e->access, 0x1234);
    assert_ptr_equal(near__entry_block(e), block);
    assert_int_equal(near__entry_size(e), size);
    return e;
}

static void check(const struct near__entry *e, size_t key_size, size_t value_size, int has_expiry, int queues)
{
    assert_int_equal(near__entry_key_size(e), key_size);
    assert_int_equal(near__entry_value_size(e), value_size);
    assert_int_equal(near__entry_has_expiry(e), has_expiry);
    assert_int_equal(near__entry_expires(e), has_expiry ? 4711 : 0);
    assert_int_equal(atomic_load(&e->access), 0x1234);
    if (queues)
        assert_int_equal(atomic_load(near__entry_place(e)), 815);
    assert_true(!key_size || e->bytes[key_size - 1] == 'k');
    assert_true(!value_size || near__entry_value(e)[0] == 'v');
}

/* Through all that happens to a head: published, retired, condemned, spared. */
static void live_and_die(struct near__entry *e, size_t key_size, size_t value_size, int has_expiry, int queues)
{
    static _Alignas(8) char next[8];
    near__entry_set_position(e, NEAR_POSITION_MAX - 1, 3 * NEAR_ENTRY_ERA_STEP);
    check(e, key_size, value_size, has_expiry, queues);
    assert_int_equal(near__entry_position(e), NEAR_POSITION_MAX - 1);
    assert_int_equal(near__entry_flags(e) & NEAR_ENTRY_ERA, 3 * NEAR_ENTRY_ERA_STEP);
    assert_false(near__entry_is_retired(e));
    near__entry_link(e, (struct near__entry *)(void *)next);
    check(e, key_size, value_size, has_expiry, queues);
    assert_true(near__entry_is_retired(e));
    near__entry_mark(e, NEAR_ENTRY_CONDEMNED);
    assert_true(near__entry_is_condemned(e));
    assert_ptr_equal(near__entry_next(e), next);
    near__entry_mark(e, 0);
    assert_false(near__entry_is_condemned(e));
    assert_ptr_equal(near__entry_next(e), next);
    near__entry_link(e, NULL);
    assert_null(near__entry_next(e));
    check(e, key_size, value_size, has_expiry, queues);
}

static void test_all_sizes_with_all_that_may_stand_in_front(void **state)
{
    static const size_t keys[] = {0, 1, 16, 255, 256, 65535}, values[] = {0, 1, 100, 65535, 65536, 1000000};
    (void)state;
    for (size_t k = 0; k < 6; k++)
        for (size_t v = 0; v < 6; v++)
            for (int front = 0; front < 4; front++) {
                struct near__entry *e = make(keys[k], values[v], front & 1, front >> 1);
                live_and_die(e, keys[k], values[v], front & 1, front >> 1);
                free(near__entry_block(e));
            }
}

static void test_a_header_is_twelve_bytes_and_what_is_in_front_eight_or_sixteen(void **state)
{
    (void)state;
    assert_int_equal(near__entry_size_for(16, 100, near__entry_flags_for(16, 100, 0, 0)), 128);
    assert_int_equal(near__entry_size_for(16, 100, near__entry_flags_for(16, 100, 1, 0)), 136);
    assert_int_equal(near__entry_size_for(16, 100, near__entry_flags_for(16, 100, 0, 1)), 136);
    assert_int_equal(near__entry_size_for(16, 100, near__entry_flags_for(16, 100, 1, 1)), 136);
    assert_int_equal(near__entry_size_for(255, 65535, near__entry_flags_for(255, 65535, 0, 0)), 12 + 255 + 65535);
    assert_int_equal(near__entry_size_for(256, 100, near__entry_flags_for(256, 100, 0, 0)), 16 + 12 + 256 + 100);
    assert_int_equal(near__entry_size_for(16, 65536, near__entry_flags_for(16, 65536, 1, 1)), 16 + 12 + 16 + 65536);
}

/* ---------------------------------------------------------------- retired */

/* Whatever the list it is in, and whatever the position was. */
static void test_a_retired_entry_is_older_than_everything(void **state)
{
    static _Alignas(8) char low[8];
    /* the highest address that there may be */
    const struct near__entry *const next[] = {NULL, (void *)low,
                                              (struct near__entry *)(uintptr_t)((UINT64_C(1) << 48) - 8)};
    struct near__moment moment = {.now_ms = 0};
    (void)state;
    for (size_t i = 0; i < 3; i++)
        for (uint64_t position = 0; position < NEAR_POSITION_MAX; position += NEAR_POSITION_MAX / 2) {
            struct near__entry *e = make(16, 100, 0, 0);
            near__entry_set_position(e, position, 0);
            assert_false(near__entry_is_below(e, position));
            assert_true(near__entry_is_below(e, position + 1));
            assert_false(near__entry_is_dead(e, &moment));
            near__entry_link(e, next[i]);
            assert_ptr_equal(near__entry_next(e), next[i]);
            assert_true(near__entry_is_below(e, 0));
            assert_true(near__entry_is_below(e, 1));
            assert_true(near__entry_position(e) < 0);
            assert_true(near__entry_is_dead(e, &moment)); /* so nobody is shown it as suspect */
            assert_int_equal(near__entry_rank(e, &moment), NEAR_RANK_DEAD);
            free(near__entry_block(e));
        }
}

/* ---------------------------------------------------------------- in a tier */

struct content {
    char key[65535];
    unsigned char value[70000];
};

/* Put, found by all ways, replaced, invalidated, in a tier of each kind. */
static void in_a_tier(uint32_t policy, size_t key_size, size_t value_size, int64_t ttl_ms)
{
    static struct content c;
    struct fixture f;
    struct near__view view;
    memset(c.key, 'a', key_size);
    memset(c.value, 1, value_size);
    fixture_init(&f);
    f.config.policy = policy;
    fixture_start(&f);
    near__local_prove(f.local, NEAR_PROVED_ALWAYS);
    for (uint64_t position = 1; position < 3; position++) {
        struct near__ticket t = near__local_ticket(f.local, c.key, key_size);
        c.value[value_size - 1] = (unsigned char)position;
        assert_int_equal(near__local_install(f.local, f.reader, t, c.key, key_size, c.value, value_size, position,
                                             ttl_ms, NEAR_NEVER),
                         1);
        struct near__local_key key = {c.key, key_size};
        enum near__local_result result;
        near__local_get_many(f.local, f.reader, &key, 1, ANY_BOUND, 0, &result, &view);
        assert_int_equal(result, NEAR_LOCAL_HIT);
        assert_int_equal(view.size, value_size);
        assert_int_equal(memcmp(view.data, c.value, value_size), 0);
        assert_int_equal(view.expires_ns != NEAR_NEVER, ttl_ms >= 0);
        near__local_unpin(f.reader, &view);
        near__local_keep(f.local);
    }
    assert_int_equal(near__local_invalidate(f.local, c.key, key_size, 2, NEAR_CAUSE_MESSAGE), -1);
    assert_int_equal(near__local_invalidate(f.local, c.key, key_size, 3, NEAR_CAUSE_MESSAGE), 1);
    near__local_keep(f.local);
    assert_int_equal(stats_of(&f).local_entries, 0);
    assert_int_equal(stats_of(&f).local_retired_bytes, 0);
    fixture_close(&f);
}

static void test_keys_and_values_around_what_the_header_has_room_for(void **state)
{
    static const uint32_t policies[] = {NEAR_POLICY_LRU, NEAR_POLICY_S3FIFO, NEAR_POLICY_ADAPTIVE};
    static const size_t keys[] = {1, 16, 255, 256, 65535}, values[] = {1, 65535, 65536, 70000};
    (void)state;
    for (size_t p = 0; p < 3; p++)
        for (size_t k = 0; k < 5; k++)
            for (size_t v = 0; v < 4; v++)
                for (int64_t ttl_ms = -1; ttl_ms < 100000; ttl_ms += 100000)
                    in_a_tier(policies[p], keys[k], values[v], ttl_ms);
}

/* What the short way makes of an entry of the key. */
static unsigned odd_of(const struct fixture *f, const char *key)
{
    near__rcu_enter();
    const struct near__index *index = &f->local->index;
    const struct near__entry *e =
        near__index_find(index, near__key_hash(key, strlen(key), &index->secrets), key, strlen(key));
    unsigned odd = e ? near__hit_odd(f->local, near__entry_head(e), strlen(key)) : UINT32_MAX;
    near__rcu_leave();
    return odd;
}

/* In every tier, and whatever the era is: hits compare flags and size of the key with one number. */
static void test_an_entry_without_an_expiry_is_ordinary(void **state)
{
    (void)state;
    for (uint32_t policy = 0; policy < NEAR_POLICIES; policy++) {
        struct fixture f;
        fixture_init(&f);
        f.config.policy = policy;
        fixture_start(&f);
        for (unsigned clearings = 0; clearings < 9; clearings++) {
            assert_int_equal(put(&f, "a short key", "v", 5 + clearings), 1);
            assert_int_equal(odd_of(&f, "a short key"), 0);
            assert_int_equal(put_ttl(&f, "another key", "v", 5 + clearings, 1000), 1);
            assert_int_equal(odd_of(&f, "another key") & NEAR_ENTRY_EXPIRES, NEAR_ENTRY_EXPIRES);
            near__local_clear(f.local);
            if (clearings % 2 || odd_of(&f, "a short key") == UINT32_MAX) { /* by then emptied for want of numbers */
                near__local_keep(f.local);
                continue;
            }
            assert_true(odd_of(&f, "a short key") & NEAR_ENTRY_ERA);
            assert_string_equal(get(&f, "a short key"), "(absent)");
        }
        fixture_close(&f);
    }
}

/* The short way serves them as well: it would be a long way for values that an application likes to pin. */
static const unsigned char *get_plain(struct fixture *f, const char *key, size_t *ret_size)
{
    near__rcu_enter();
    const struct near__entry *e =
        near__hit_plain(f->local, key, strlen(key), near__width(), NEAR_ENTRY_VALUE_MAX, ret_size);
    near__rcu_leave();
    return e ? near__entry_value(e) : NULL;
}

static void test_large_values_of_short_keys_are_plain_hits(void **state)
{
    static unsigned char value[70000];
    struct fixture f;
    size_t size;
    (void)state;
    fixture_open(&f);
    near__local_prove(f.local, NEAR_PROVED_ALWAYS);
    for (size_t value_size = 65530; value_size < 65541; value_size++) {
        memset(value, (int)value_size, value_size);
        struct near__ticket t = ticket(&f, "a short key");
        assert_int_equal(
            near__local_install(f.local, f.reader, t, "a short key", 11, value, value_size, value_size, -1, NEAR_NEVER),
            1);
        const unsigned char *got = get_plain(&f, "a short key", &size);
        assert_non_null(got);
        assert_int_equal(size, value_size);
        assert_int_equal(memcmp(got, value, value_size), 0);
        assert_null(get_plain(&f, "a short kez", &size));
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_sizes_with_all_that_may_stand_in_front),
        cmocka_unit_test(test_a_header_is_twelve_bytes_and_what_is_in_front_eight_or_sixteen),
        cmocka_unit_test(test_a_retired_entry_is_older_than_everything),
        cmocka_unit_test(test_keys_and_values_around_what_the_header_has_room_for),
        cmocka_unit_test(test_an_entry_without_an_expiry_is_ordinary),
        cmocka_unit_test(test_large_values_of_short_keys_are_plain_hits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
