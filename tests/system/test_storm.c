/* SPDX-License-Identifier: BSD-3-Clause
 * R36, a storm: one process writes very many keys at once.  Their messages are few, since those of a run of the script
 * are one; the others stay correct and within their bound meanwhile, and who does not read is not thrown out. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/random.h"
#include "nearcache.h"
#include "support/group_server.h"
#include "support/seed.h"
#include "system/stack.h"

enum {
    KEYS = 100000,
    BATCH = 10000,   /* of one near_mset */
    TOGETHER = 64,   /* keys of one message at most */
    HELD = 1000,     /* keys that the reader holds */
    BOUND_MS = 1000, /* a process that gets no processor for a bound would subscribe anew, and miss messages */
    KEY_SIZE = 8
};

/* ---------------------------------------------------------------- many keys */

struct keys {
    char name[KEYS][16];
    near_item item[KEYS];
};

static struct keys *keys_new(void)
{
    struct keys *k = calloc(1, sizeof(*k));
    assert_non_null(k);
    for (int i = 0; i < KEYS; i++) {
        snprintf(k->name[i], sizeof(k->name[i]), "k%07d", i);
        k->item[i] = (near_item){.key = k->name[i], .key_size = KEY_SIZE};
    }
    return k;
}

/* What the reader is to find: keys below `done` have the new value, and had it at done_ms. */
struct storm {
    near_cache *reader;
    const struct keys *keys;
    _Atomic(int64_t) done_ms[KEYS / BATCH]; /* when the batch was acknowledged; 0: not yet */
    _Atomic(int) over;
    uint64_t random, reads, failed, too_old, back;
    unsigned char seen[HELD];
};

static void read_one(struct storm *s)
{
    uint32_t i = near__random_below(&s->random, HELD);
    size_t key = (size_t)i * (KEYS / HELD), size = 0; /* spread over all batches */
    int64_t begun_ms = wait_now_ms(), done_ms = atomic_load(&s->done_ms[key / BATCH]);
    char value[8] = "";
    int status = near_get_copy(s->reader, s->keys->name[key], KEY_SIZE, NULL, value, sizeof(value), &size);
    s->reads++;
    if (status != NEAR_OK) {
        s->failed++;
        return;
    }
    int is_new = memcmp(value, "new", 3) == 0;
    s->too_old += !is_new && done_ms && begun_ms - done_ms > BOUND_MS;
    s->back += !is_new && s->seen[i];
    s->seen[i] |= (unsigned char)is_new;
}

static void *reader_main(void *arg)
{
    struct storm *s = arg;
    while (!atomic_load(&s->over))
        read_one(s);
    return NULL;
}

/* Every HELDth key with "old", which the reader then holds. */
static void prepare(near_cache *writer, struct storm *s)
{
    near_item *items = calloc(HELD, sizeof(*items));
    assert_non_null(items);
    for (int i = 0; i < HELD; i++) {
        items[i] = s->keys->item[i * (KEYS / HELD)];
        items[i].data = "old";
        items[i].size = 3;
    }
    assert_int_equal(near_mset(writer, items, HELD, NULL, NULL), NEAR_OK);
    stack_check(s->reader);
    assert_int_equal(near_mget(s->reader, items, HELD, NULL), NEAR_OK);
    for (int i = 0; i < HELD; i++)
        near_release(&items[i].value);
    free(items);
}

static void write_batch(near_cache *writer, struct keys *keys, int batch, int64_t *ret_done_ms)
{
    for (int i = batch * BATCH; i < (batch + 1) * BATCH; i++) {
        keys->item[i].data = "new";
        keys->item[i].size = 3;
    }
    assert_int_equal(near_mset(writer, &keys->item[batch * BATCH], BATCH, NULL, NULL), NEAR_OK);
    *ret_done_ms = wait_now_ms();
}

static near_cache *open_writer(void)
{
    near_options options;
    near_cache *cache = NULL;
    stack_options(&options);
    options.prefix = "s:";
    options.timeout_ms = PATIENCE_MS;
    assert_int_equal(near_open(redis_server_uri_unix(server), &options, &cache, NULL), NEAR_OK);
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, NULL), NEAR_OK);
    return cache;
}

/* ---------------------------------------------------------------- a subscriber that does not read */

static int subscribe_and_sleep(void)
{
    static const char command[] = "CLIENT SETNAME sleeper\r\nSUBSCRIBE nearcache:0:s:\r\n";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char reply[256];
    size_t size = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", redis_server_socket(server));
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(write(fd, command, sizeof(command) - 1), sizeof(command) - 1);
    do { /* until the subscription is confirmed; from then on nothing is read */
        ssize_t n = read(fd, reply + size, sizeof(reply) - 1 - size);
        assert_true(n > 0);
        size += (size_t)n;
        reply[size] = 0;
    } while (!strstr(reply, ":1\r\n"));
    return fd;
}

/* ---------------------------------------------------------------- tests */

static void test_R36_storm_is_few_messages_and_nobody_is_behind(void **state)
{
    (void)state;
    if (!server)
        skip();
    /* a message a key would be 12 MB and more than that */
    redis_server_command(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 6mb 0 0", NULL);
    struct keys *keys = keys_new();
    struct storm *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    near_cache *writer = open_writer();
    s->reader = stack_redis(redis_server_uri_unix(server), "s:", BOUND_MS);
    s->keys = keys;
    s->random = test_seed();
    prepare(writer, s);
    int sleeper = subscribe_and_sleep();
    pthread_t thread;
    near_stats before = stack_stats(s->reader);
    assert_int_equal(pthread_create(&thread, NULL, reader_main, s), 0);
    for (int batch = 0; batch < KEYS / BATCH; batch++) {
        int64_t done_ms;
        write_batch(writer, keys, batch, &done_ms);
        atomic_store(&s->done_ms[batch], done_ms);
    }
    stack_check(s->reader);
    near_stats after = stack_stats(s->reader);
    atomic_store(&s->over, 1);
    pthread_join(thread, NULL);
    uint64_t messages = after.messages - before.messages;
    print_message("# %d keys: %llu messages; %llu reads meanwhile, the reader received %llu bytes\n", KEYS,
                  (unsigned long long)messages, (unsigned long long)s->reads,
                  (unsigned long long)(after.bytes_received - before.bytes_received));
    assert_int_equal(after.message_gaps + after.messages_bad + after.disconnections, 0);
    assert_in_range(messages, KEYS / TOGETHER, (KEYS / BATCH) * (BATCH / TOGETHER + 1));
    assert_int_equal(s->failed, 0);
    assert_int_equal(s->too_old, 0);
    assert_int_equal(s->back, 0);
    for (int i = 0; i < HELD; i++) /* everything was applied: what is still held is new */
        assert_string_not_equal(peek(s->reader, keys->name[i * (KEYS / HELD)]), "old");
    assert_non_null(strstr(redis_server_command(server, "CLIENT", "LIST", "TYPE", "pubsub", NULL), "name=sleeper"));
    close(sleeper);
    stack_close(s->reader);
    stack_close(writer);
    free(s);
    free(keys);
}

/* Of a batch each process is told what it must forget, however the keys are spread over messages. */
static void test_R36_many_are_removed_by_few_messages(void **state)
{
    (void)state;
    if (!server)
        skip();
    enum { COUNT = 1000 };
    struct keys *keys = keys_new();
    near_cache *writer = open_writer(), *reader = stack_redis(redis_server_uri_unix(server), "s:", BOUND_MS);
    for (int i = 0; i < COUNT; i++) {
        keys->item[i].data = "v";
        keys->item[i].size = 1;
    }
    assert_int_equal(near_mset(writer, keys->item, COUNT, NULL, NULL), NEAR_OK);
    stack_check(reader);
    for (int i = 0; i < COUNT; i++)
        assert_string_equal(look(reader, keys->name[i]), "v");
    uint64_t before = stack_stats(reader).messages;
    assert_int_equal(near_del(writer, keys->name[1], KEY_SIZE, NULL), NEAR_OK);
    assert_int_equal(near_mdel(writer, keys->item, COUNT, NULL), NEAR_OK);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(keys->item[i].status, i == 1 ? NEAR_MISS : NEAR_OK);
    assert_int_equal(near_mdel(writer, keys->item, COUNT, NULL), NEAR_OK); /* nothing is there: nobody is told */
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(keys->item[i].status, NEAR_MISS);
    stack_check(reader);
    assert_int_equal(stack_stats(reader).messages - before, 1 + (COUNT + TOGETHER - 1) / TOGETHER);
    for (int i = 0; i < COUNT; i++)
        assert_string_equal(peek(reader, keys->name[i]), MISS);
    stack_close(reader);
    stack_close(writer);
    free(keys);
}

/* A key that is there twice has two positions: otherwise its two values would have no order. */
static void test_R36_one_key_is_not_twice_in_a_message(void **state)
{
    (void)state;
    if (!server)
        skip();
    near_cache *writer = open_writer();
    near_item items[5] = {{.key = "a", .key_size = 1, .data = "1", .size = 1},
                          {.key = "b", .key_size = 1, .data = "2", .size = 1},
                          {.key = "a", .key_size = 1, .data = "3", .size = 1},
                          {.key = "c", .key_size = 1, .data = "4", .size = 1},
                          {.key = "a", .key_size = 1, .data = "5", .size = 1}};
    uint64_t before = stack_stats(writer).messages;
    assert_int_equal(near_mset(writer, items, 5, NULL, NULL), NEAR_OK);
    assert_string_equal(look(writer, "a"), "5");
    assert_string_equal(bypass(writer, "a"), "5");
    stack_check(writer);
    assert_int_equal(stack_stats(writer).messages - before, 3); /* a b, a c, a */
    assert_string_equal(look(writer, "a"), "5");
    assert_int_equal(near_mdel(writer, items, 5, NULL), NEAR_OK);
    assert_int_equal(items[0].status, NEAR_OK);
    assert_int_equal(items[2].status, NEAR_MISS);
    assert_int_equal(items[4].status, NEAR_MISS);
    stack_close(writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_R36_storm_is_few_messages_and_nobody_is_behind),
        cmocka_unit_test(test_R36_many_are_removed_by_few_messages),
        cmocka_unit_test(test_R36_one_key_is_not_twice_in_a_message),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
