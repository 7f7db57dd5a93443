/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "base/buffer.h"
#include "base/random.h"
#include "support/allocfail.h"
#include "support/seed.h"

static struct near__alloc libc_alloc;

static int set_up(void **state)
{
    (void)state;
    near__alloc_init(&libc_alloc, NULL);
    return 0;
}

static void test_appends_follow_each_other(void **state)
{
    struct near__buffer b;
    (void)state;
    near__buffer_init(&b, &libc_alloc);
    near__buffer_append(&b, "abc", 3);
    near__buffer_append_byte(&b, 0);
    near__buffer_append(&b, NULL, 0);
    near__buffer_append(&b, "def", 3);
    assert_false(b.failed);
    assert_int_equal(b.size, 7);
    assert_memory_equal(b.data, "abc\0def", 7);
    near__buffer_consume(&b, 4);
    assert_int_equal(b.size, 3);
    assert_memory_equal(b.data, "def", 3);
    near__buffer_consume(&b, 1000); /* more than there is */
    assert_int_equal(b.size, 0);
    near__buffer_fini(&b);
    near__buffer_fini(&b);
}

static void test_varints_are_leb128(void **state)
{
    static const struct {
        uint64_t number;
        size_t size;
        unsigned char bytes[10];
    } cases[] = {
        {0, 1, {0}},
        {127, 1, {0x7f}},
        {128, 2, {0x80, 0x01}},
        {300, 2, {0xac, 0x02}},
        {UINT64_MAX, 10, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct near__buffer b;
        near__buffer_init(&b, &libc_alloc);
        near__buffer_append_varint(&b, cases[i].number);
        assert_int_equal(b.size, cases[i].size);
        assert_memory_equal(b.data, cases[i].bytes, cases[i].size);
        near__buffer_fini(&b);
    }
}

static void test_reserved_room_is_there(void **state)
{
    struct near__buffer b;
    (void)state;
    near__buffer_init(&b, &libc_alloc);
    assert_non_null(near__buffer_reserve(&b, 0));
    near__buffer_append(&b, "x", 1);
    char *room = near__buffer_reserve(&b, 100000);
    assert_non_null(room);
    assert_int_equal(b.size, 1);
    memset(room, 'y', 100000);
    b.size += 100000;
    assert_int_equal(b.data[0], 'x');
    assert_int_equal(b.data[100000], 'y');
    near__buffer_fini(&b);
}

static void test_hostile_sizes_fail_and_change_nothing(void **state)
{
    struct near__buffer b;
    (void)state;
    near__buffer_init(&b, &libc_alloc);
    near__buffer_append(&b, "abc", 3);
    assert_null(near__buffer_reserve(&b, SIZE_MAX));
    assert_true(b.failed);
    assert_int_equal(b.size, 3);
    assert_memory_equal(b.data, "abc", 3);
    near__buffer_fini(&b);
}

/* The n-th growth fails: what was there stays, later appends do nothing, and there is no leak. */
static void test_failure_sticks_and_keeps_what_was_there(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct allocfail a;
        struct near__alloc alloc;
        struct near__buffer b;
        size_t size_at_failure = 0;
        allocfail_init(&a);
        near__alloc_init(&alloc, &a.hooks);
        near__buffer_init(&b, &alloc);
        allocfail_at(&a, n);
        for (int i = 0; i < 1000; i++) {
            near__buffer_append(&b, "0123456789", 10);
            if (!b.failed)
                size_at_failure = b.size;
        }
        assert_int_equal(b.failed, allocfail_struck(&a) != 0);
        assert_int_equal(b.size, size_at_failure);
        assert_int_equal(b.size % 10, 0);
        for (size_t i = 0; i < b.size; i++)
            assert_int_equal(b.data[i], '0' + i % 10);
        int struck = allocfail_struck(&a) != 0;
        near__buffer_fini(&b);
        assert_int_equal(allocfail_blocks(&a), 0);
        if (!struck)
            break;
        assert_true(n < 100);
    }
}

/* Random appends and consumptions against a plain array. */
static void test_random_operations_match_a_plain_array(void **state)
{
    static unsigned char model[1 << 16];
    uint64_t seed = test_seed();
    struct near__buffer b;
    size_t size = 0;
    (void)state;
    near__buffer_init(&b, &libc_alloc);
    for (int i = 0; i < 20000; i++) {
        unsigned char bytes[64];
        uint32_t n = near__random_below(&seed, sizeof bytes + 1);
        if (near__random_below(&seed, 2) && size + n < sizeof model) {
            for (uint32_t j = 0; j < n; j++)
                bytes[j] = (unsigned char)near__random_next(&seed);
            near__buffer_append(&b, bytes, n);
            memcpy(model + size, bytes, n);
            size += n;
        } else {
            n = n < size ? n : (uint32_t)size;
            near__buffer_consume(&b, n);
            memmove(model, model + n, size - n);
            size -= n;
        }
        assert_int_equal(b.size, size);
        if (size)
            assert_memory_equal(b.data, model, size);
    }
    near__buffer_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_appends_follow_each_other, set_up),
        cmocka_unit_test_setup(test_varints_are_leb128, set_up),
        cmocka_unit_test_setup(test_reserved_room_is_there, set_up),
        cmocka_unit_test_setup(test_hostile_sizes_fail_and_change_nothing, set_up),
        cmocka_unit_test(test_failure_sticks_and_keeps_what_was_there),
        cmocka_unit_test_setup(test_random_operations_match_a_plain_array, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
