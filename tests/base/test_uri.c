/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "base/random.h"
#include "base/uri.h"
#include "support/allocfail.h"
#include "support/seed.h"

static struct near__alloc libc_alloc;

static int set_up_group(void **state)
{
    (void)state;
    near__alloc_init(&libc_alloc, NULL);
    return 0;
}

static void assert_text(const char *seen, const char *expected)
{
    if (!seen || !expected)
        assert_true(seen == expected);
    else
        assert_string_equal(seen, expected);
}

static const struct good {
    const char *text;
    enum near__uri_kind kind;
    const char *username, *password, *host, *path;
    uint16_t port;
    uint32_t database;
    const char *redacted; /* NULL: unchanged */
} good[] = {
    {"redis://localhost", NEAR_URI_TCP, NULL, NULL, "localhost", NULL, 6379, 0, NULL},
    {"redis://localhost/", NEAR_URI_TCP, NULL, NULL, "localhost", NULL, 6379, 0, NULL},
    {"REDIS://localhost:1", NEAR_URI_TCP, NULL, NULL, "localhost", NULL, 1, 0, NULL},
    {"redis://10.0.0.1:65535/15", NEAR_URI_TCP, NULL, NULL, "10.0.0.1", NULL, 65535, 15, NULL},
    {"redis://[::1]", NEAR_URI_TCP, NULL, NULL, "::1", NULL, 6379, 0, NULL},
    {"redis://[fe80::1%25eth0]:7000/3", NEAR_URI_TCP, NULL, NULL, "fe80::1%eth0", NULL, 7000, 3, NULL},
    {"redis://:secret@h", NEAR_URI_TCP, NULL, "secret", "h", NULL, 6379, 0, "redis://:***@h"},
    {"redis://app:secret@h:7/2", NEAR_URI_TCP, "app", "secret", "h", NULL, 7, 2, "redis://app:***@h:7/2"},
    {"redis://app:@h", NEAR_URI_TCP, "app", "", "h", NULL, 6379, 0, "redis://app:***@h"},
    {"redis://app@h", NEAR_URI_TCP, "app", NULL, "h", NULL, 6379, 0, "redis://***@h"},
    {"redis://app:se:cr@et@h", NEAR_URI_TCP, "app", "se:cr@et", "h", NULL, 6379, 0, "redis://app:***@h"},
    {"redis://a%40b:%2F%3f%23%25@h", NEAR_URI_TCP, "a@b", "/?#%", "h", NULL, 6379, 0, "redis://a%40b:***@h"},
    {"redis://a:b@[::1]:7/1", NEAR_URI_TCP, "a", "b", "::1", NULL, 7, 1, "redis://a:***@[::1]:7/1"},
    {"redis://h/3?db=4", NEAR_URI_TCP, NULL, NULL, "h", NULL, 6379, 4, NULL},
    {"redis://h?db=5", NEAR_URI_TCP, NULL, NULL, "h", NULL, 6379, 5, NULL},
    {"redis://h?", NEAR_URI_TCP, NULL, NULL, "h", NULL, 6379, 0, NULL},
    {"redis://h?password=secret&username=app", NEAR_URI_TCP, NULL, NULL, "h", NULL, 6379, 0,
     "redis://h?password=***&username=app"},
    {"redis://a:b@h?username=x&password=y", NEAR_URI_TCP, "a", "b", "h", NULL, 6379, 0,
     "redis://a:***@h?username=x&password=***"},
    {"redis://h?prefix=a@b/c?d", NEAR_URI_TCP, NULL, NULL, "h", NULL, 6379, 0, NULL},
    {"valkey://h", NEAR_URI_TCP, NULL, NULL, "h", NULL, 6379, 0, NULL},
    {"rediss://h", NEAR_URI_TLS, NULL, NULL, "h", NULL, 6379, 0, NULL},
    {"valkeys://h:1/1", NEAR_URI_TLS, NULL, NULL, "h", NULL, 1, 1, NULL},
    {"redis-sentinel://a?sentinel_master=m", NEAR_URI_TCP, NULL, NULL, NULL, NULL, 6379, 0, NULL},
    {"rediss-sentinel://app:secret@a:1,[::1]:2/3?sentinel_master=m&sentinel_password=secret", NEAR_URI_TLS, "app",
     "secret", NULL, NULL, 6379, 3, "rediss-sentinel://app:***@a:1,[::1]:2/3?sentinel_master=m&sentinel_password=***"},
    {"unix:///run/redis.sock", NEAR_URI_UNIX, NULL, NULL, NULL, "/run/redis.sock", 6379, 0, NULL},
    {"redis-socket:///run/redis.sock", NEAR_URI_UNIX, NULL, NULL, NULL, "/run/redis.sock", 6379, 0, NULL},
    {"unix://app:secret@/run/r%20s?db=2", NEAR_URI_UNIX, "app", "secret", NULL, "/run/r s", 6379, 2,
     "unix://app:***@/run/r%20s?db=2"},
    {"unix:///run/a@b:c", NEAR_URI_UNIX, NULL, NULL, NULL, "/run/a@b:c", 6379, 0, NULL},
    {"memory://shop", NEAR_URI_MEMORY, NULL, NULL, NULL, "shop", 6379, 0, NULL},
    {"memory://a%2fb/c?prefix=x", NEAR_URI_MEMORY, NULL, NULL, NULL, "a/b/c", 6379, 0, NULL},
    {"local:", NEAR_URI_LOCAL, NULL, NULL, NULL, NULL, 6379, 0, NULL},
    {"local:?local_bytes=2m", NEAR_URI_LOCAL, NULL, NULL, NULL, NULL, 6379, 0, NULL},
};

static void test_good_uris_are_understood(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct near__uri uri;
        near_options options;
        near_error error = {0};
        near_options_init(&options);
        int status = near__uri_parse(good[i].text, &libc_alloc, &options, &uri, &error);
        if (status != NEAR_OK)
            fail_msg("%s: %s", good[i].text, error.text);
        assert_int_equal(uri.kind, good[i].kind);
        assert_text(uri.username, good[i].username);
        assert_text(uri.password, good[i].password);
        assert_text(uri.host, good[i].host);
        assert_text(uri.path, good[i].path);
        assert_int_equal(uri.port, good[i].port);
        assert_int_equal(uri.database, good[i].database);
        near__uri_fini(&uri, &libc_alloc);
        near__uri_fini(&uri, &libc_alloc);
    }
}

static void test_good_uris_are_shown_without_their_passwords(void **state)
{
    char text[200];
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        size_t length = near_uri_redact(good[i].text, text, sizeof text);
        assert_string_equal(text, good[i].redacted ? good[i].redacted : good[i].text);
        assert_int_equal(length, strlen(text));
    }
}

static void test_hosts_of_a_list_come_one_after_the_other(void **state)
{
    static const struct {
        const char *host;
        uint16_t port;
    } hosts[] = {{"a.example", 26379}, {"10.0.0.1", 1}, {"::1", 26379}, {"fe80::1%eth0", 65535}};
    struct near__uri uri;
    near_options options;
    char host[NEAR_URI_HOST_SIZE];
    uint16_t port;
    (void)state;
    near_options_init(&options);
    assert_int_equal(near__uri_parse("redis-sentinel://u:p@a.example,10.0.0.1:1,[::1],[fe80::1%25eth0]:65535/2?db=1",
                                     &libc_alloc, &options, &uri, NULL),
                     NEAR_OK);
    assert_string_equal(uri.sentinels, "a.example,10.0.0.1:1,[::1],[fe80::1%25eth0]:65535");
    assert_null(uri.host);
    const char *list = uri.sentinels;
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        assert_int_equal(near__uri_next_host(&list, host, &port), 1);
        assert_string_equal(host, hosts[i].host);
        assert_int_equal(port, hosts[i].port);
    }
    assert_int_equal(near__uri_next_host(&list, host, &port), 0);
    near__uri_fini(&uri, &libc_alloc);
}

static void test_more_sentinels_than_make_sense_are_refused(void **state)
{
    char text[400] = "redis-sentinel://a";
    struct near__uri uri;
    near_options options;
    near_error error = {0};
    (void)state;
    near_options_init(&options);
    for (int i = 1; i < 64; i++)
        strcat(text, ",a");
    assert_int_equal(near__uri_parse(text, &libc_alloc, &options, &uri, NULL), NEAR_OK);
    near__uri_fini(&uri, &libc_alloc);
    strcat(text, ",a");
    assert_int_equal(near__uri_parse(text, &libc_alloc, &options, &uri, &error), NEAR_ERR_URI);
    assert_non_null(strstr(error.text, "too many sentinels"));
}

static void test_query_parameters_set_options(void **state)
{
    struct near__uri uri;
    near_options o;
    (void)state;
    near_options_init(&o);
    assert_int_equal(near__uri_parse("redis://h/1?local_bytes=2m&bound_ms=250ms&prefix=a%26b%3D&tls_verify=no&db=7&"
                                     "unproven=serve_stale&password=p%40ss",
                                     &libc_alloc, &o, &uri, NULL),
                     NEAR_OK);
    assert_int_equal(o.local_bytes, 2 << 20);
    assert_int_equal(o.bound_ms, 250);
    assert_string_equal(o.prefix, "a&b=");
    assert_int_equal(o.tls_verify, 0);
    assert_int_equal(o.unproven, NEAR_UNPROVEN_SERVE_STALE);
    assert_string_equal(o.password, "p@ss");
    assert_int_equal(uri.database, 7);
    near__uri_fini(&uri, &libc_alloc);
}

/* The word "secret" stands for the
                                                                                 * password; wherever a person may have
                                                                                 * put it, it is never shown. */
static const struct bad {
    const char *text;
    int status;
} bad[] = {
    {"", NEAR_ERR_URI},
    {"redis", NEAR_ERR_URI},
    {"redis:", NEAR_ERR_URI},
    {"redis:/h", NEAR_ERR_URI},
    {"redis://", NEAR_ERR_URI},
    {"redis:///1", NEAR_ERR_URI},
    {"redis://?db=1", NEAR_ERR_URI},
    {"http://h", NEAR_ERR_URI},
    {"redis://a,b", NEAR_ERR_URI},
    {"redis-sentinel://", NEAR_ERR_URI},
    {"redis-sentinel://,a", NEAR_ERR_URI},
    {"redis-sentinel://a,", NEAR_ERR_URI},
    {"redis-sentinel://a,,b", NEAR_ERR_URI},
    {"redis-sentinel://a:0,b", NEAR_ERR_URI},
    {"redis-sentinel://a,b:1x", NEAR_ERR_URI},
    {"redis-sentinel://a,[::1", NEAR_ERR_URI},
    {"redis-sentinel://u:secret@a,b/x", NEAR_ERR_URI},
    {"redis-sentinel://a,u:secret@b,c:99999", NEAR_ERR_URI},
    {"redis-sentinel://a,u:secret@b", NEAR_ERR_URI},
    {"redis-sentinel://u:secret@a,u:secret@b", NEAR_ERR_URI},
    {"redis-sentinel://u:se,secret@a", NEAR_ERR_URI},
    {" redis://h", NEAR_ERR_URI},
    {"redis://h ", NEAR_ERR_URI},
    {"redis://h\n", NEAR_ERR_URI},
    {"redis://h:", NEAR_ERR_URI},
    {"redis://h:0", NEAR_ERR_URI},
    {"redis://h:65536", NEAR_ERR_URI},
    {"redis://h:4294967297", NEAR_ERR_URI},
    {"redis://h:99999999999999999999999", NEAR_ERR_URI},
    {"redis://h:-1", NEAR_ERR_URI},
    {"redis://h:1x", NEAR_ERR_URI},
    {"redis://h/x", NEAR_ERR_URI},
    {"redis://h/1/", NEAR_ERR_URI},
    {"redis://h/-1", NEAR_ERR_URI},
    {"redis://h/2147483648", NEAR_ERR_URI},
    {"redis://h/4294967296", NEAR_ERR_URI},
    {"redis://h%00", NEAR_ERR_URI},
    {"redis://a b", NEAR_ERR_URI},
    {"redis://[::1", NEAR_ERR_URI},
    {"redis://::1", NEAR_ERR_URI},
    {"redis://[]", NEAR_ERR_URI},
    {"redis://[h]", NEAR_ERR_URI},
    {"redis://[::1]x", NEAR_ERR_URI},
    {"redis://[::1%eth0]", NEAR_ERR_URI},
    {"redis://h#frag", NEAR_ERR_URI},
    {"redis://h?db", NEAR_ERR_URI},
    {"redis://h?db=", NEAR_ERR_URI},
    {"redis://h?db=x", NEAR_ERR_URI},
    {"redis://h?db=-1", NEAR_ERR_URI},
    {"redis://h?&db=1", NEAR_ERR_OPTION},
    {"redis://h?colour=red", NEAR_ERR_OPTION},
    {"redis://h?local_bytes=nonsense", NEAR_ERR_OPTION},
    {"redis://h?local_bytes=1", NEAR_ERR_OPTION},
    {"redis://h?prefix=%", NEAR_ERR_URI},
    {"redis://h?prefix=%4", NEAR_ERR_URI},
    {"redis://h?prefix=%00", NEAR_ERR_URI},
    {"redis://h?prefix=a%00b", NEAR_ERR_URI},
    {"redis://u%00:secret@h", NEAR_ERR_URI},
    {"redis://u:secret%00@h", NEAR_ERR_URI},
    {"redis://u:secret%zz@h", NEAR_ERR_URI},
    {"redis://u:secret%@h", NEAR_ERR_URI},
    {"redis://u:secret", NEAR_ERR_URI},
    {"redis://:secret", NEAR_ERR_URI},
    {"redis://u:secret@", NEAR_ERR_URI},
    {"redis://u:x/secret@h", NEAR_ERR_URI},
    {"redis://u:secret/x@h", NEAR_ERR_URI},
    {"redis://u:1/secret@h", NEAR_ERR_URI},
    {"redis://u:1?secret@h", NEAR_ERR_URI},
    {"redis://u:secret?x@h", NEAR_ERR_URI},
    {"redis://u:1?secret=x@h", NEAR_ERR_OPTION},
    {"redis://u:1#secret@h", NEAR_ERR_URI},
    {"redis://u:p@x/secret@h", NEAR_ERR_URI},
    {"redis://u:p@x?secret@h", NEAR_ERR_URI},
    {"redis://u:secret@h:port", NEAR_ERR_URI},
    {"redis://u:sec ret-secret@h", NEAR_ERR_URI},
    {"redis//u:secret@h", NEAR_ERR_URI},
    {"u:secret@h", NEAR_ERR_URI},
    {"redis:u:secret@h", NEAR_ERR_URI},
    {"redsi://u:secret@h", NEAR_ERR_URI},
    {"unix://u:secret/x@/run/s", NEAR_ERR_URI},
    {"unix://u:secret@host/run/s", NEAR_ERR_URI},
    {"unix://", NEAR_ERR_URI},
    {"unix:///", NEAR_ERR_URI},
    {"unix://relative", NEAR_ERR_URI},
    {"unix:///run/%00", NEAR_ERR_URI},
    {"unix:///"
     "a123456789b123456789c123456789d123456789e123456789f123456789g123456789h123456789i123456789j123456789k1234567",
     NEAR_ERR_URI},
    {"memory://", NEAR_ERR_URI},
    {"memory://u:secret@x", NEAR_ERR_URI},
    {"memory://%00", NEAR_ERR_URI},
    {"local:host", NEAR_ERR_URI},
    {"local://u:secret@h", NEAR_ERR_URI},
};

static void test_J_bad_uris_are_refused_with_a_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct near__uri uri;
        near_options options;
        near_error error = {0};
        near_options_init(&options);
        int status = near__uri_parse(bad[i].text, &libc_alloc, &options, &uri, &error);
        if (status != bad[i].status)
            fail_msg("%s: status %d (%s)", bad[i].text, status, error.text);
        assert_int_equal(error.status, status);
        assert_true(error.text[0] != '\0');
    }
}

static void test_J_bad_uris_are_shown_without_their_passwords(void **state)
{
    char text[300];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        near_uri_redact(bad[i].text, text, sizeof text);
        if (strstr(text, "secret") || (strstr(bad[i].text, "secret") && !strstr(text, "***")))
            fail_msg("%s is shown as %s", bad[i].text, text);
    }
}

/* An unknown parameter is named, which is what its writer needs; "secret" with an equals sign is such a name. */
static void test_J_errors_do_not_quote_passwords(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct near__uri uri;
        near_options options;
        near_error error = {0};
        near_options_init(&options);
        near__uri_parse(bad[i].text, &libc_alloc, &options, &uri, &error);
        if (strstr(error.text, "secret") && bad[i].status != NEAR_ERR_OPTION)
            fail_msg("%s: %s", bad[i].text, error.text);
    }
}

static void test_unknown_options_are_named(void **state)
{
    struct near__uri uri;
    near_options options;
    near_error error;
    (void)state;
    near_options_init(&options);
    assert_int_equal(near__uri_parse("redis://h?bound_ms=1s&colour=red", &libc_alloc, &options, &uri, &error),
                     NEAR_ERR_OPTION);
    assert_string_equal(error.text, "URI: unknown option \"colour\"");
    assert_int_equal(near__uri_parse(NULL, &libc_alloc, &options, &uri, &error), NEAR_ERR_INVALID);
}

static void test_redaction_keeps_to_its_buffer(void **state)
{
    static const char uri[] = "redis://app:secret@host", whole[] = "redis://app:***@host";
    (void)state;
    for (size_t capacity = 0; capacity < sizeof whole + 3; capacity++) {
        char *buffer = malloc(capacity + 1); /* one more, so that malloc(0) does not matter */
        assert_non_null(buffer);
        memset(buffer, 'x', capacity + 1);
        assert_int_equal(near_uri_redact(uri, buffer, capacity), sizeof whole - 1);
        size_t kept = capacity ? capacity - 1 : 0;
        kept = kept < sizeof whole - 1 ? kept : sizeof whole - 1;
        assert_memory_equal(buffer, whole, kept);
        if (capacity)
            assert_int_equal(buffer[kept], '\0');
        assert_int_equal(buffer[capacity], 'x');
        free(buffer);
    }
    assert_int_equal(near_uri_redact(uri, NULL, 0), sizeof whole - 1);
    assert_int_equal(near_uri_redact(NULL, NULL, 0), 0);
}

static void test_J_very_long_uris_are_refused(void **state)
{
    struct near__uri uri;
    near_options options;
    char *text = malloc(200001);
    (void)state;
    assert_non_null(text);
    memset(text, 'a', 200000);
    text[200000] = '\0';
    memcpy(text, "redis://", 8);
    near_options_init(&options);
    assert_int_equal(near__uri_parse(text, &libc_alloc, &options, &uri, NULL), NEAR_ERR_URI);
    text[8 + 256] = '\0'; /* a host name has at most 255 bytes */
    assert_int_equal(near__uri_parse(text, &libc_alloc, &options, &uri, NULL), NEAR_ERR_URI);
    text[8 + 255] = '\0';
    assert_int_equal(near__uri_parse(text, &libc_alloc, &options, &uri, NULL), NEAR_OK);
    near__uri_fini(&uri, &libc_alloc);
    free(text);
}

/* Random texts from pieces that matter: never a crash, never "secret" where it stands before an @ of the authority. */
static void test_J_random_uris_never_show_a_password(void **state)
{
    static const char *const pieces[] = {"redis://", "unix://", "local:", "memory://", "rediss://", ":",  "@",
                                         "/",        "?",       "#",      "&",         "=",         "[",  "]",
                                         "%",        "%41",     "%00",    "h",         "12",        "db", "prefix",
                                         "password", " ",       "..",     "\xc3\xa4"};
    uint64_t seed = test_seed();
    (void)state;
    for (int round = 0; round < 50000; round++) {
        char text[200] = "", shown[300];
        struct near__uri uri;
        near_options options;
        near_error error = {0};
        strcat(text, near__random_below(&seed, 4) ? pieces[near__random_below(&seed, 5)] : "");
        strcat(text, "u:");
        for (uint32_t n = near__random_below(&seed, 4); n; n--)
            strcat(text, pieces[5 + near__random_below(&seed, 20)]);
        strcat(text, "secret");
        for (uint32_t n = near__random_below(&seed, 4); n; n--)
            strcat(text, pieces[5 + near__random_below(&seed, 20)]);
        strcat(text, "@h/1");
        near_options_init(&options);
        int status = near__uri_parse(text, &libc_alloc, &options, &uri, &error);
        near_uri_redact(text, shown, sizeof shown);
        if (status == NEAR_OK) {
            /* understood, so the password is what was parsed as one */
            if (uri.password && strstr(uri.password, "secret") && strstr(shown, "secret"))
                fail_msg("%s is shown as %s", text, shown);
            near__uri_fini(&uri, &libc_alloc);
        } else if (strstr(shown, "secret")) {
            fail_msg("%s is shown as %s", text, shown);
        }
    }
}

static void test_failed_allocations_leave_nothing_behind(void **state)
{
    struct near__alloc alloc;
    struct allocfail a;
    struct near__uri uri;
    near_options options;
    (void)state;
    allocfail_init(&a);
    near__alloc_init(&alloc, &a.hooks);
    near_options_init(&options);
    allocfail_at(&a, 1);
    assert_int_equal(near__uri_parse("redis://a:b@h/1?bound_ms=1s", &alloc, &options, &uri, NULL), NEAR_ERR_NOMEM);
    assert_int_equal(allocfail_blocks(&a), 0);
    allocfail_at(&a, 0);
    assert_int_equal(near__uri_parse("redis://a:b@h/1?bound_ms=1us", &alloc, &options, &uri, NULL), NEAR_ERR_OPTION);
    assert_int_equal(allocfail_blocks(&a), 0);
    assert_int_equal(near__uri_parse("redis://a:b@h/1?bound_ms=1s", &alloc, &options, &uri, NULL), NEAR_OK);
    near__uri_fini(&uri, &alloc);
    assert_int_equal(allocfail_blocks(&a), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_uris_are_understood),
        cmocka_unit_test(test_good_uris_are_shown_without_their_passwords),
        cmocka_unit_test(test_hosts_of_a_list_come_one_after_the_other),
        cmocka_unit_test(test_more_sentinels_than_make_sense_are_refused),
        cmocka_unit_test(test_query_parameters_set_options),
        cmocka_unit_test(test_J_bad_uris_are_refused_with_a_text),
        cmocka_unit_test(test_J_bad_uris_are_shown_without_their_passwords),
        cmocka_unit_test(test_J_errors_do_not_quote_passwords),
        cmocka_unit_test(test_unknown_options_are_named),
        cmocka_unit_test(test_redaction_keeps_to_its_buffer),
        cmocka_unit_test(test_J_very_long_uris_are_refused),
        cmocka_unit_test(test_J_random_uris_never_show_a_password),
        cmocka_unit_test(test_failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, set_up_group, NULL);
}
