/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "nearcache.h"

static const int all[] = {
#define NEAR_STATUS_VALUE_(name, value, text) value,
    NEAR_STATUS_MAP(NEAR_STATUS_VALUE_)
#undef NEAR_STATUS_VALUE_
};
#define ALL (sizeof all / sizeof all[0])

static void test_every_status_has_a_name_and_a_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < ALL; i++) {
        assert_int_equal(strncmp(near_status_name(all[i]), "NEAR_", 5), 0);
        assert_true(strlen(near_status_text(all[i])) > 3);
        assert_int_equal(strncmp(near_status_name(all[i]), "NEAR_ERR_", 9) == 0, all[i] < 0);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(near_status_name(all[i]), near_status_name(all[j]));
    }
    assert_string_equal(near_status_name(NEAR_ERR_TIMEOUT), "NEAR_ERR_TIMEOUT");
    assert_string_equal(near_status_name(NEAR_MISS), "NEAR_MISS");
}

static void test_released_values_do_not_change(void **state)
{
    (void)state;
    assert_int_equal(NEAR_OK, 0);
    assert_int_equal(NEAR_TRUNCATED, 4);
    assert_int_equal(NEAR_ERR_INVALID, -1);
    assert_int_equal(NEAR_ERR_TIMEOUT, -10);
    assert_int_equal(NEAR_ERR_REMOTE, -25);
    assert_int_equal(NEAR_ERR_SYSTEM, -30);
}

static void test_unknown_numbers_have_a_text_too(void **state)
{
    static const int strange[] = {500, -500, 1000, INT32_MAX, INT32_MIN};
    (void)state;
    for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++) {
        assert_string_equal(near_status_name(strange[i]), "unknown status");
        assert_string_equal(near_status_text(strange[i]), "unknown status");
        assert_false(near_status_is_transient(strange[i]));
    }
}

static void test_only_errors_that_pass_by_themselves_are_transient(void **state)
{
    (void)state;
    for (size_t i = 0; i < ALL; i++)
        if (all[i] >= 0)
            assert_false(near_status_is_transient(all[i]));
    assert_true(near_status_is_transient(NEAR_ERR_TIMEOUT));
    assert_true(near_status_is_transient(NEAR_ERR_IO));
    assert_true(near_status_is_transient(NEAR_ERR_LOADING));
    assert_true(near_status_is_transient(NEAR_ERR_SCRIPT_BUSY));
    assert_false(near_status_is_transient(NEAR_ERR_AUTH));
    assert_false(near_status_is_transient(NEAR_ERR_INVALID));
    assert_false(near_status_is_transient(NEAR_ERR_WRONG_TYPE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_status_has_a_name_and_a_text),
        cmocka_unit_test(test_released_values_do_not_change),
        cmocka_unit_test(test_unknown_numbers_have_a_text_too),
        cmocka_unit_test(test_only_errors_that_pass_by_themselves_are_transient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
