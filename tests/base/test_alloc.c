/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "support/allocfail.h"

static void test_without_hooks_the_c_library_is_used(void **state)
{
    static const near_allocator none = {NULL, NULL, NULL, NULL};
    struct near__alloc alloc;
    (void)state;
    near__alloc_init(&alloc, NULL);
    assert_true(alloc.is_malloc);
    near__alloc_init(&alloc, &none);
    assert_true(alloc.is_malloc);
    void *memory = near__alloc(&alloc, 0);
    assert_non_null(memory);
    near__free(&alloc, memory);
    near__free(&alloc, NULL);
}

static void test_every_allocation_goes_through_the_hooks(void **state)
{
    struct allocfail a;
    struct near__alloc alloc;
    (void)state;
    allocfail_init(&a);
    near__alloc_init(&alloc, &a.hooks);
    assert_false(alloc.is_malloc);
    void *plain = near__alloc(&alloc, 10), *zero = near__alloc_zero(&alloc, 100), *copy = near__memdup(&alloc, "ab", 2);
    char *text = near__strdup(&alloc, "hello"), *grown = near__realloc(&alloc, NULL, 5);
    grown = near__realloc(&alloc, grown, 500);
    assert_int_equal(allocfail_blocks(&a), 5);
    for (int i = 0; i < 100; i++)
        assert_int_equal(((unsigned char *)zero)[i], 0);
    assert_memory_equal(copy, "ab", 2);
    assert_string_equal(text, "hello");
    assert_null(near__strdup(&alloc, NULL));
    near__free(&alloc, plain);
    near__free(&alloc, zero);
    near__free(&alloc, copy);
    near__free(&alloc, text);
    near__free(&alloc, grown);
    assert_int_equal(allocfail_blocks(&a), 0);
}

static void test_failure_is_null(void **state)
{
    struct allocfail a;
    struct near__alloc alloc;
    (void)state;
    allocfail_init(&a);
    near__alloc_init(&alloc, &a.hooks);
    allocfail_from(&a, 1);
    assert_null(near__alloc(&alloc, 1));
    assert_null(near__alloc_zero(&alloc, 1));
    assert_null(near__memdup(&alloc, "x", 1));
    assert_null(near__strdup(&alloc, "x"));
    assert_null(near__realloc(&alloc, NULL, 1));
}

/* Promise F counts what a block really costs, which is never less than what was asked for. */
static void test_F_cost_covers_the_request(void **state)
{
    struct allocfail a;
    struct near__alloc libc, hooked;
    (void)state;
    allocfail_init(&a);
    near__alloc_init(&libc, NULL);
    near__alloc_init(&hooked, &a.hooks);
    for (size_t size = 0; size < 5000; size += 7) {
        void *memory = near__alloc(&libc, size);
        assert_true(near__alloc_cost(&libc, memory, size) >= size + 8);
        near__free(&libc, memory);
        assert_true(near__alloc_cost(&hooked, NULL, size) >= size + 16);
        assert_true(near__alloc_cost(&hooked, NULL, size) < size + 32);
        assert_int_equal(near__alloc_cost(&hooked, NULL, size) % 16, 0);
    }
    assert_int_equal(near__alloc_cost(&libc, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_hooks_the_c_library_is_used),
        cmocka_unit_test(test_every_allocation_goes_through_the_hooks),
        cmocka_unit_test(test_failure_is_null),
        cmocka_unit_test(test_F_cost_covers_the_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
