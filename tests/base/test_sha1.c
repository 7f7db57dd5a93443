/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha1.h"
#include "remote/script.h"

static void assert_digest(const void *bytes, size_t size, const char *expected)
{
    char hex[NEAR_SHA1_HEX + 1] = "";
    near__sha1_hex(bytes, size, hex);
    assert_string_equal(hex, expected);
}

/* RFC 3174, section 7.3, and the empty text. */
static void test_digests_of_the_standard(void **state)
{
    static const char long_one[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    (void)state;
    assert_digest("", 0, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    assert_digest("abc", 3, "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_digest(long_one, strlen(long_one), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    char *million = malloc(1000000);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    assert_digest(million, 1000000, "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
    free(million);
}

/* Every size around the ends of blocks: zeros, from a table made with sha1sum. */
static void test_digests_around_the_ends_of_blocks(void **state)
{
    static const struct {
        size_t size;
        const char *digest;
    } rows[] = {
        {1, "5ba93c9db0cff93f52b521d7420e43f6eda2784f"},   {55, "8e8832c642a6a38c74c17fc92ccedc266c108e6c"},
        {56, "9438e360f578e12c0e0e8ed28e2c125c1cefee16"},  {57, "0f2bf6d5e1a0209d19f8f6e7d08b3e2d9cf4c5ab"},
        {63, "0b8bf9fc37ad802cefa6733ec62b09d5f43a1b75"},  {64, "c8d7d0ef0eedfa82d2ea1aa592845b9a6d4b02b7"},
        {65, "f0fa45906bd0f4c3668fcd0d8f68d4b298b30e5b"},  {119, "85634f17f58bda0e4f0515dfb68bc1af922a031f"},
        {120, "b110a88a11436b215220486c1081dec2fb0f389a"}, {128, "0ae4f711ef5d6e9d26c611fd2c8c8ac45ecbf9e7"},
    };
    static const unsigned char zeros[130];
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
        assert_digest(zeros, rows[i].size, rows[i].digest);
}

/* Redis has computed these (test_redis_requests.c compares them with the server's). */
static void test_digests_of_scripts(void **state)
{
    const struct near__script *scripts[] = {&near__script_set,   &near__script_write, &near__script_write_always,
                                            &near__script_prove, &near__script_lock,  &near__script_check,
                                            &near__script_lease, &near__script_fill,  &near__script_compare};
    (void)state;
    for (size_t i = 0; i < sizeof(scripts) / sizeof(*scripts); i++)
        assert_digest(scripts[i]->text, strlen(scripts[i]->text), scripts[i]->sha1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digests_of_the_standard),
        cmocka_unit_test(test_digests_around_the_ends_of_blocks),
        cmocka_unit_test(test_digests_of_scripts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
