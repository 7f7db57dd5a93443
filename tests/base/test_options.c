/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/options.h"
#include "support/allocfail.h"

static struct near__alloc libc_alloc;

static int set_up_group(void **state)
{
    (void)state;
    near__alloc_init(&libc_alloc, NULL);
    return 0;
}

static int is_type(const near_option_info *info, const char *type)
{
    return strcmp(info->type, type) == 0;
}

static int is_number(const near_option_info *info)
{
    return is_type(info, "size") || is_type(info, "count") || is_type(info, "duration");
}

/* Options with nothing in them, so that what near_option_set wrote is seen byte by byte. */
static near_options blank(void)
{
    near_options o;
    memset(&o, 0, sizeof o);
    o.size = sizeof o;
    return o;
}

static int set(near_options *o, const char *name, const char *text)
{
    near_error error = {0};
    int status = near_option_set(o, name, text, &error);
    if (status != NEAR_OK) {
        assert_int_equal(error.status, status);
        assert_true(error.text[0] != '\0');
    }
    return status;
}

static int set_u64(const char *name, uint64_t number)
{
    near_options o = blank();
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    return set(&o, name, text);
}

static int copy(const near_options *from)
{
    near_options to;
    near_error error = {0};
    int status = near__options_copy(from, &libc_alloc, &to, &error);
    if (status == NEAR_OK)
        near__options_fini(&to, &libc_alloc);
    else
        assert_true(error.status == status && error.text[0]);
    return status;
}

static void test_every_row_is_complete(void **state)
{
    size_t rows = 0;
    (void)state;
    for (const near_option_info *info; (info = near_option_info_at(rows)); rows++) {
        assert_non_null(info->default_text);
        assert_non_null(info->choices);
        assert_true(strlen(info->sentence) > 10 && info->sentence[strlen(info->sentence) - 1] == '.');
        assert_true(info->min <= info->max);
        assert_int_equal(is_type(info, "choice"), info->choices[0] != '\0');
        for (const char *p = info->name; *p; p++)
            assert_true(islower((unsigned char)*p) || *p == '_');
        assert_true(near__option_find(info->name, strlen(info->name)) == info);
        assert_null(near__option_find(info->name, strlen(info->name) - 1));
        for (size_t i = 0; i < rows; i++)
            assert_string_not_equal(near_option_info_at(i)->name, info->name);
    }
    /* size, the reserved ones, log, log_arg and allocator are the only fields without a row */
    assert_int_equal(rows, 46);
    assert_null(near_option_info_at(rows));
    assert_null(near_option_info_at(SIZE_MAX));
}

/* The default's text sets exactly what near_options_init sets, and lies within the bounds. */
static void test_defaults_are_their_texts(void **state)
{
    near_options initial, set_by_text = blank();
    (void)state;
    near_options_init(&initial);
    assert_int_equal(initial.size, sizeof initial);
    for (size_t i = 0; near_option_info_at(i); i++) {
        const near_option_info *info = near_option_info_at(i);
        if (!is_type(info, "text") || info->default_text[0] || !strcmp(info->name, "prefix"))
            assert_int_equal(set(&set_by_text, info->name, info->default_text), NEAR_OK);
    }
    assert_memory_equal(&initial, &set_by_text, sizeof initial);
    assert_int_equal(copy(&initial), NEAR_OK);
    assert_int_equal(copy(NULL), NEAR_OK);
}

static void test_documented_defaults(void **state)
{
    near_options o;
    (void)state;
    near_options_init(&o);
    assert_int_equal(o.local_bytes, 64 << 20);
    assert_int_equal(o.local_entries, 0);
    assert_int_equal(o.value_max, NEAR_VALUE_MAX);
    assert_int_equal(o.bound_ms, 1000);
    assert_int_equal(o.stale_ms, 30000);
    assert_int_equal(o.unproven, NEAR_UNPROVEN_READ_THROUGH);
    assert_int_equal(o.timeout_ms, 1000);
    assert_int_equal(o.connect_timeout_ms, 2000);
    assert_int_equal(o.connections, 2);
    assert_int_equal(o.backoff_min_ms, 10);
    assert_int_equal(o.backoff_max_ms, 2000);
    assert_int_equal(o.breaker_failures, 3);
    assert_int_equal(o.tls_verify, 1);
    assert_string_equal(o.prefix, "");
    assert_null(o.password);
}

static void test_numbers_beyond_their_bounds_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; near_option_info_at(i); i++) {
        const near_option_info *info = near_option_info_at(i);
        if (!is_number(info))
            continue;
        assert_int_equal(set_u64(info->name, info->min), NEAR_OK);
        assert_int_equal(set_u64(info->name, info->max), NEAR_OK);
        assert_int_equal(set_u64(info->name, info->max + 1), NEAR_ERR_OPTION);
        if (info->min > 0)
            assert_int_equal(set_u64(info->name, info->min - 1), NEAR_ERR_OPTION);
    }
}

/* Every number's largest value comes through the field unchanged: no row has wider bounds than its field. */
static void test_bounds_fit_their_fields(void **state)
{
    (void)state;
    for (size_t i = 0; near_option_info_at(i); i++) {
        const near_option_info *info = near_option_info_at(i);
        near_options with_max = blank();
        char text[32];
        uint64_t sum = 0;
        uint32_t words[sizeof with_max / 4];
        if (!is_number(info))
            continue;
        snprintf(text, sizeof text, "%llu", (unsigned long long)info->max);
        assert_int_equal(set(&with_max, info->name, text), NEAR_OK);
        with_max.size = 0;
        memcpy(words, &with_max, sizeof words);
        for (size_t w = 0; w < sizeof words / 4; w += 2)
            sum += words[w] + ((uint64_t)words[w + 1] << 32);
        assert_true(sum == info->max || sum == info->max << 32); /* the field is the word's lower or upper half */
    }
}

static void test_direct_assignments_are_checked_too(void **state)
{
    near_options o;
    (void)state;
#define REFUSED(field, value)                                                                                          \
    do {                                                                                                               \
        near_options_init(&o);                                                                                         \
        o.field = (value);                                                                                             \
        assert_int_equal(copy(&o), NEAR_ERR_OPTION);                                                                   \
    } while (0)
    REFUSED(local_bytes, 0);
    REFUSED(local_bytes, UINT64_MAX);
    REFUSED(bound_ms, 0);
    REFUSED(bound_ms, UINT32_MAX);
    REFUSED(unproven, 3);
    REFUSED(tls_verify, 2);
    REFUSED(policy, 6);
    REFUSED(connections, 0);
    REFUSED(connections, 65);
    REFUSED(value_max, (uint64_t)NEAR_VALUE_MAX + 1);
    REFUSED(reserved, 1);
    REFUSED(reserved_2, 1);
    REFUSED(client_name, "");
    REFUSED(client_name, "with space");
    REFUSED(client_name, "with\nnewline");
    REFUSED(tls_server_name, "");
    REFUSED(tls_ca_file, "");
    REFUSED(tls_ca_dir, "");
    REFUSED(tls_cert_file, "/cert.pem");
    REFUSED(tls_key_file, "/key.pem");
    REFUSED(backoff_min_ms, 3000);
#undef REFUSED
}

static void test_combinations_are_checked(void **state)
{
    struct allocfail a;
    near_options o;
    (void)state;
    near_options_init(&o);
    o.unproven = NEAR_UNPROVEN_SERVE_STALE;
    o.bound_ms = 5000;
    o.stale_ms = 4999;
    assert_int_equal(copy(&o), NEAR_ERR_OPTION);
    o.stale_ms = 5000;
    assert_int_equal(copy(&o), NEAR_OK);
    o.tls_cert_file = "/cert.pem";
    o.tls_key_file = "/key.pem";
    assert_int_equal(copy(&o), NEAR_OK);
    allocfail_init(&a);
    o.allocator = a.hooks;
    assert_int_equal(copy(&o), NEAR_OK);
    o.allocator.release = NULL;
    assert_int_equal(copy(&o), NEAR_ERR_OPTION);
}

static void test_units(void **state)
{
    static const struct {
        const char *name, *text;
        uint64_t number;
    } good[] = {
        {"local_bytes", "1048576", 1 << 20},
        {"local_bytes", "1024k", 1 << 20},
        {"local_bytes", "64m", 64 << 20},
        {"local_bytes", "64M", 64 << 20},
        {"local_bytes", "2g", UINT64_C(2) << 30},
        {"local_bytes", "1t", UINT64_C(1) << 40},
        {"bound_ms", "250", 250},
        {"bound_ms", "250ms", 250},
        {"bound_ms", "250000us", 250},
        {"bound_ms", "2s", 2000},
        {"bound_ms", "1m", 60000},
        {"bound_ms", "1h", 3600000},
        {"bound_ms", "00250", 250},
        {"tls_verify", "no", 0},
        {"tls_verify", "false", 0},
        {"tls_verify", "0", 0},
        {"tls_verify", "yes", 1},
        {"tls_verify", "true", 1},
        {"tls_verify", "1", 1},
        {"unproven", "read_through", 0},
        {"unproven", "serve_stale", 1},
        {"unproven", "fail", 2},
        {"local_entries", "1000000", 1000000},
    };
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        near_options o;
        near_options_init(&o);
        o.unproven = 99;
        o.tls_verify = 99;
        assert_int_equal(set(&o, good[i].name, good[i].text), NEAR_OK);
        uint64_t seen = !strcmp(good[i].name, "local_bytes")     ? o.local_bytes
                        : !strcmp(good[i].name, "local_entries") ? o.local_entries
                        : !strcmp(good[i].name, "bound_ms")      ? o.bound_ms
                        : !strcmp(good[i].name, "tls_verify")    ? o.tls_verify
                                                                 : o.unproven;
        assert_true(seen == good[i].number);
    }
}

static void test_J_malformed_texts_are_refused_and_change_nothing(void **state)
{
    static const char *const bad[][2] = {
        {"local_bytes", ""},
        {"local_bytes", "m"},
        {"local_bytes", "-1"},
        {"local_bytes", "+64m"},
        {"local_bytes", " 64m"},
        {"local_bytes", "64m "},
        {"local_bytes", "64mb"},
        {"local_bytes", "64x"},
        {"local_bytes", "1.5g"},
        {"local_bytes", "0x100000"},
        {"local_bytes", "64kk"},
        {"local_bytes", "18446744073709551616"},
        {"local_bytes", "18446744073709551615"},
        {"local_bytes", "17179869184g"},
        {"local_bytes", "99999999999999999999999999999"},
        {"bound_ms", "20500us"},
        {"bound_ms", "10d"},
        {"bound_ms", "s"},
        {"bound_ms", "1 s"},
        {"bound_ms", "5124095576030432h"},
        {"bound_ms", "4294967297"},
        {"bound_ms", "1S"},
        {"tls_verify", ""},
        {"tls_verify", "y"},
        {"tls_verify", "2"},
        {"tls_verify", "YES"},
        {"unproven", ""},
        {"unproven", "read"},
        {"unproven", "read_through|"},
        {"unproven", "serve_stale|fail"},
        {"unproven", "1"},
        {"connections", "2s"},
        {"connections", "0"},
        {"no_such_option", "1"},
        {"", ""},
        {"size", "1"},
        {"log", "1"},
        {"LOCAL_BYTES", "64m"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        near_options before, after;
        near_options_init(&before);
        near_options_init(&after);
        assert_int_equal(set(&after, bad[i][0], bad[i][1]), NEAR_ERR_OPTION);
        assert_memory_equal(&before, &after, sizeof before);
    }
}

static void test_errors_name_the_option_and_its_bounds(void **state)
{
    near_options o;
    near_error error;
    (void)state;
    near_options_init(&o);
    near_option_set(&o, "bound_ms", "5ms", &error);
    assert_string_equal(error.text, "bound_ms is 5 ms; it must be 10 to 3600000");
    near_option_set(&o, "colour", "red", &error);
    assert_string_equal(error.text, "unknown option \"colour\"");
    near_option_set(&o, "unproven", "maybe", &error);
    assert_string_equal(error.text, "unproven: \"maybe\" is not a choice (read_through|serve_stale|fail)");
    near_option_set(&o, "local_bytes", "64MB", &error);
    assert_string_equal(error.text, "local_bytes: \"64MB\" is not a size (bytes, or with k, m, g or t: 64m)");
    near_option_set(&o, "local_entries", "10k", &error);
    assert_string_equal(error.text, "local_entries: \"10k\" is not a count (decimal digits alone)");
    near_option_set(&o, "tls_verify", "off", &error);
    assert_string_equal(error.text, "tls_verify: \"off\" is not a boolean (yes, no, true, false, 1, 0)");
    for (size_t i = 0; i < 3; i++) { /* what no number reaches is a matter of range */
        static const char *const much[] = {"99999999999999999999", "99999999999999999999999k", "20000000t"};
        near_option_set(&o, "local_bytes", much[i], &error);
        assert_non_null(strstr(error.text, "it must be 1048576 to 1099511627776"));
    }
    near_option_set(&o, "bound_ms", "99999999999999999999h", &error);
    assert_non_null(strstr(error.text, "it must be 10 to 3600000"));
    assert_int_equal(near_option_set(&o, "bound_ms", "1", NULL), NEAR_ERR_OPTION);
    assert_int_equal(near_option_set(NULL, "bound_ms", "1s", &error), NEAR_ERR_INVALID);
    assert_int_equal(near_option_set(&o, NULL, "1s", &error), NEAR_ERR_INVALID);
    assert_int_equal(near_option_set(&o, "bound_ms", NULL, &error), NEAR_ERR_INVALID);
}

static void test_J_texts_are_bounded_and_passwords_not_quoted(void **state)
{
    static char text[100000];
    near_options o;
    near_error error;
    (void)state;
    near_options_init(&o);
    memset(text, 's', sizeof text - 1);
    for (size_t i = 0; near_option_info_at(i); i++) {
        const near_option_info *info = near_option_info_at(i);
        if (!is_type(info, "text"))
            continue;
        assert_int_equal(near_option_set(&o, info->name, text, &error), NEAR_ERR_OPTION);
        assert_null(strstr(error.text, "ssss"));
        text[info->max] = '\0';
        assert_int_equal(set(&o, info->name, text), NEAR_OK);
        text[info->max] = 's';
    }
}

static void test_environment_sets_options(void **state)
{
    near_options o;
    near_error error;
    (void)state;
    near_options_init(&o);
    setenv("NEAR_LOCAL_BYTES", "3m", 1);
    setenv("NEAR_PREFIX", "app:", 1);
    setenv("NEAR_SOMETHING_ELSE", "x", 1);
    assert_int_equal(near_options_from_environment(&o, &error), NEAR_OK);
    assert_int_equal(o.local_bytes, 3 << 20);
    assert_string_equal(o.prefix, "app:");
    setenv("NEAR_BOUND_MS", "soon", 1);
    assert_int_equal(near_options_from_environment(&o, &error), NEAR_ERR_OPTION);
    assert_string_equal(
        error.text,
        "bound_ms: \"soon\" is not a duration (whole milliseconds: 250, or with a unit us, ms, s, m, h: 2s)");
    unsetenv("NEAR_BOUND_MS");
    unsetenv("NEAR_LOCAL_BYTES");
    unsetenv("NEAR_PREFIX");
    assert_int_equal(near_options_from_environment(NULL, &error), NEAR_ERR_INVALID);
}

/* A program compiled against an older header: its struct ends early, and what follows it in memory is not ours. */
static void test_a_smaller_struct_gets_defaults_for_the_rest(void **state)
{
    near_options whole, copied, initial;
    (void)state;
    near_options_init(&initial);
    for (size_t size = sizeof(size_t); size < sizeof whole; size += 4) {
        near_options_init(&whole);
        whole.size = size;
        memset((unsigned char *)&whole + size, 0xa5, sizeof whole - size);
        near_options *small = malloc(size); /* exactly: a sanitizer watches the end */
        assert_non_null(small);
        memcpy(small, &whole, size);
        if (size >= offsetof(near_options, local_bytes) + sizeof whole.local_bytes)
            assert_int_equal(set(small, "local_bytes", "5m"), NEAR_OK);
        assert_int_equal(near__options_copy(small, &libc_alloc, &copied, NULL), NEAR_OK);
        assert_int_equal(copied.size, sizeof copied);
        assert_int_equal(copied.local_bytes, size >= 16 ? 5 << 20 : 64 << 20);
        assert_int_equal(copied.bound_ms, initial.bound_ms);
        assert_string_equal(copied.client_name, "nearcache");
        assert_null(copied.allocator.allocate);
        near__options_fini(&copied, &libc_alloc);
        free(small);
    }
}

static void test_an_option_beyond_a_smaller_struct_is_refused(void **state)
{
    near_options o;
    (void)state;
    near_options_init(&o);
    o.size = offsetof(near_options, bound_ms);
    assert_int_equal(set(&o, "local_bytes", "2m"), NEAR_OK);
    assert_int_equal(set(&o, "bound_ms", "2s"), NEAR_ERR_OPTION);
    assert_int_equal(o.bound_ms, 1000);
}

static void test_a_larger_struct_must_be_zero_beyond_ours(void **state)
{
    struct {
        near_options ours;
        uint64_t later[4];
    } o;
    (void)state;
    memset(&o, 0, sizeof o);
    near_options_init(&o.ours);
    o.ours.size = sizeof o;
    assert_int_equal(copy(&o.ours), NEAR_OK);
    o.later[3] = 1;
    assert_int_equal(copy(&o.ours), NEAR_ERR_OPTION);
}

static void test_J_hostile_struct_sizes_are_refused(void **state)
{
    static const size_t sizes[] = {0, 1, 7, 4097, SIZE_MAX};
    near_options o;
    (void)state;
    near_options_init(&o);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        o.size = sizes[i];
        assert_int_equal(copy(&o), NEAR_ERR_OPTION);
    }
}

static void test_texts_are_copied(void **state)
{
    char prefix[] = "app:", password[] = "secret";
    near_options o, copied;
    (void)state;
    near_options_init(&o);
    o.prefix = prefix;
    o.password = password;
    o.client_name = NULL;
    assert_int_equal(near__options_copy(&o, &libc_alloc, &copied, NULL), NEAR_OK);
    prefix[0] = password[0] = '?';
    assert_string_equal(copied.prefix, "app:");
    assert_string_equal(copied.password, "secret");
    assert_string_equal(copied.client_name, "nearcache");
    assert_null(copied.username);
    near__options_fini(&copied, &libc_alloc);
    near__options_fini(&copied, &libc_alloc);
    assert_null(copied.password);
}

static void test_failed_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct allocfail a;
        struct near__alloc alloc;
        near_options o, copied;
        near_error error;
        allocfail_init(&a);
        near__alloc_init(&alloc, &a.hooks);
        near_options_init(&o);
        o.prefix = "app:";
        o.username = "user";
        o.password = "secret";
        o.tls_ca_file = "/ca.pem";
        allocfail_at(&a, n);
        int status = near__options_copy(&o, &alloc, &copied, &error);
        if (!allocfail_struck(&a)) {
            assert_int_equal(status, NEAR_OK);
            near__options_fini(&copied, &alloc);
            assert_int_equal(allocfail_blocks(&a), 0);
            assert_int_equal(n, 6); /* the four and client_name were copied */
            break;
        }
        assert_int_equal(status, NEAR_ERR_NOMEM);
        assert_int_equal(allocfail_blocks(&a), 0);
    }
}

static void test_init_writes_no_more_than_the_callers_struct(void **state)
{
    (void)state;
    struct {
        near_options ours;
        unsigned char beyond[32];
    } larger;
    unsigned char older[offsetof(near_options, bound_ms) + 8];
    memset(&larger, 0xee, sizeof larger);
    memset(older, 0xee, sizeof older);
    near_options_init_sized(&larger.ours, sizeof larger);
    assert_int_equal(larger.ours.size, sizeof larger);
    for (size_t i = 0; i < sizeof larger.beyond; i++)
        assert_int_equal(larger.beyond[i], 0);
    near_options_init_sized((near_options *)(void *)older, offsetof(near_options, bound_ms));
    for (size_t i = offsetof(near_options, bound_ms); i < sizeof older; i++)
        assert_int_equal(older[i], 0xee);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_writes_no_more_than_the_callers_struct),
        cmocka_unit_test(test_every_row_is_complete),
        cmocka_unit_test(test_defaults_are_their_texts),
        cmocka_unit_test(test_documented_defaults),
        cmocka_unit_test(test_numbers_beyond_their_bounds_are_refused),
        cmocka_unit_test(test_bounds_fit_their_fields),
        cmocka_unit_test(test_direct_assignments_are_checked_too),
        cmocka_unit_test(test_combinations_are_checked),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_J_malformed_texts_are_refused_and_change_nothing),
        cmocka_unit_test(test_errors_name_the_option_and_its_bounds),
        cmocka_unit_test(test_J_texts_are_bounded_and_passwords_not_quoted),
        cmocka_unit_test(test_environment_sets_options),
        cmocka_unit_test(test_a_smaller_struct_gets_defaults_for_the_rest),
        cmocka_unit_test(test_an_option_beyond_a_smaller_struct_is_refused),
        cmocka_unit_test(test_a_larger_struct_must_be_zero_beyond_ours),
        cmocka_unit_test(test_J_hostile_struct_sizes_are_refused),
        cmocka_unit_test(test_texts_are_copied),
        cmocka_unit_test(test_failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, set_up_group, NULL);
}
