/* SPDX-License-Identifier: BSD-3-Clause
 * redis-sentinel://: the master is found, lost and found again; whoever is asked may be dead, silent, out of date or
 * mad. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nearcache.h"
#include "remote/fake_redis.h"
#include "remote/transport.h"
#include "support/allocfail.h"
#include "support/redis_server.h"
#include "system/stack.h"

#define MASTER "sentinel_master=shop"
enum { HOSTS_MAX = 6 };

/* Two servers, one the other's replica, and a sentinel that watches over them. */
static struct redis_server *server[2], *sentinel;

/* Sentinels of one name find each other, and then one alone would not be the majority. */
static struct redis_server *start_sentinel(const char *name, int port, const char *password, const char *more, int tls)
{
    char config[1000];
    snprintf(config, sizeof(config),
             "sentinel monitor %s 127.0.0.1 %d 1\nsentinel down-after-milliseconds %s 60000\n"
             "sentinel failover-timeout %s 2000\n%s",
             name, port, name, name, more);
    return redis_server_start(
        &(struct redis_server_options){.password = password, .config = config, .sentinel = 1, .tls = tls});
}

static int group_setup(void **state)
{
    char config[100];
    (void)state;
    if (!redis_server_available())
        return 0;
    if (!(server[0] = redis_server_start(&(struct redis_server_options){.config = "repl-diskless-sync-delay 0\n"})))
        return -1;
    snprintf(config, sizeof(config), "replicaof 127.0.0.1 %d\n", redis_server_port(server[0]));
    server[1] = redis_server_start(&(struct redis_server_options){.config = config});
    sentinel = start_sentinel("shop", redis_server_port(server[0]), NULL, "", 0);
    return server[1] && sentinel ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    redis_server_free(sentinel);
    redis_server_free(server[1]);
    redis_server_free(server[0]);
    return 0;
}

#define NEEDS_SENTINEL()                                                                                               \
    (void)state;                                                                                                       \
    if (!sentinel)                                                                                                     \
    skip()

/* As the sentinel says now. */
static struct redis_server *master(void)
{
    const char *line =
        strchr(redis_server_command(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop", NULL), '\n');
    return line && atoi(line + 1) == redis_server_port(server[1]) ? server[1] : server[0];
}

static int is_master(struct redis_server *s)
{
    return strncmp(redis_server_command(s, "ROLE", NULL), "master", 6) == 0;
}

static int link_is_up(struct redis_server *s)
{
    return strstr(redis_server_command(s, "INFO", "replication", NULL), "master_link_status:up") != NULL;
}

static struct redis_server *replica(void)
{
    return master() == server[0] ? server[1] : server[0];
}

static int is_settled(void)
{
    return is_master(master()) && !is_master(replica()) && link_is_up(replica());
}

/* "redis-sentinel://127.0.0.1:PORT,…?" and the rest.  The last port is 0. */
static const char *sentinels_at(const int *ports, const char *rest)
{
    static char uri[600];
    size_t n = (size_t)snprintf(uri, sizeof(uri), "redis-sentinel://");
    for (int i = 0; ports[i]; i++)
        n += (size_t)snprintf(uri + n, sizeof(uri) - n, "%s127.0.0.1:%d", i ? "," : "", ports[i]);
    snprintf(uri + n, sizeof(uri) - n, "?%s", rest);
    return uri;
}

static near_cache *open_at(const char *uri)
{
    near_options options;
    near_error error = {0};
    near_cache *cache;
    stack_options(&options);
    options.connect_timeout_ms = 2000; /* what is silent has a share of it */
    options.backoff_max_ms = 100;
    if (near_open(uri, &options, &cache, &error) != NEAR_OK)
        fail_msg("%s: %s", uri, error.text);
    return cache;
}

static near_cache *open_ready(const char *uri)
{
    near_error error = {0};
    near_cache *cache = open_at(uri);
    if (near_wait_ready(cache, PATIENCE_MS, &error) != NEAR_OK)
        fail_msg("%s: %s", uri, error.text);
    return cache;
}

/* What such a cache says is wrong. */
static near_error problem_of(const char *uri)
{
    near_error error = {0};
    near_cache *cache = open_at(uri);
    int status = near_check(cache, PATIENCE_MS, &error);
    assert_int_equal(status, error.status);
    stack_close(cache);
    return error;
}

static int works(const char *uri)
{
    near_cache *cache = open_ready(uri);
    int status = put(cache, "works", "yes");
    assert_string_equal(look(cache, "works"), "yes");
    stack_close(cache);
    return status == NEAR_OK && strcmp(redis_server_command(master(), "GET", "works", NULL), "yes") == 0;
}

static int closed_port(void)
{
    struct fake_redis *fake = fake_redis_start(NULL, 0);
    int port = fake->port;
    fake_redis_free(fake);
    return port;
}

/* ---------------------------------------------------------------- finding */

static void test_the_master_is_found_whoever_else_is_silent(void **state)
{
    NEEDS_SENTINEL();
    struct fake_redis *silent = fake_redis_start(NULL, 0), *ignorant = fake_redis_start("*-1\r\n", 5);
    int ports[] = {closed_port(), silent->port, ignorant->port, redis_server_port(sentinel), 0};
    assert_true(works(sentinels_at(ports, MASTER)));
    assert_true(atomic_load(&silent->accepted) > 0);
    assert_true(atomic_load(&ignorant->accepted) > 0);
    fake_redis_free(silent);
    fake_redis_free(ignorant);
}

/* The breaker opens with the first attempt that fails, and then the write would fail. */
static void test_who_is_silent_leaves_time_for_the_others(void **state)
{
    near_options options;
    near_cache *cache;
    NEEDS_SENTINEL();
    struct fake_redis *silent = fake_redis_start(NULL, 0);
    int ports[] = {silent->port, redis_server_port(sentinel), 0};
    stack_options(&options);
    options.connect_timeout_ms = 3000;
    options.breaker_failures = 1;
    options.backoff_min_ms = options.backoff_max_ms = 60000;
    assert_int_equal(near_open(sentinels_at(ports, MASTER), &options, &cache, NULL), NEAR_OK);
    assert_int_equal(put_with(cache, "k", "v", 0, PATIENCE_MS), NEAR_OK);
    assert_true(atomic_load(&silent->accepted) > 0);
    stack_close(cache);
    fake_redis_free(silent);
}

static void test_who_answered_is_asked_first(void **state)
{
    NEEDS_SENTINEL();
    struct fake_redis *ignorant = fake_redis_start("*-1\r\n", 5);
    int ports[] = {ignorant->port, redis_server_port(sentinel), 0};
    near_cache *cache = open_ready(sentinels_at(ports, MASTER));
    int asked = atomic_load(&ignorant->accepted);
    assert_true(asked > 0);
    redis_server_command(master(), "CLIENT", "KILL", "TYPE", "normal", NULL);
    redis_server_command(master(), "CLIENT", "KILL", "TYPE", "pubsub", NULL);
    assert_true(wait_until(put(cache, "k", "v") == NEAR_OK, PATIENCE_MS));
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, NULL), NEAR_OK);
    assert_true(stack_stats(cache).connections_lost > 0);
    assert_int_equal(atomic_load(&ignorant->accepted), asked);
    stack_close(cache);
    fake_redis_free(ignorant);
}

static void test_what_nobody_knows_is_told(void **state)
{
    NEEDS_SENTINEL();
    int ports[] = {redis_server_port(sentinel), closed_port(), 0};
    near_error error = problem_of(sentinels_at(ports, "sentinel_master=elsewhere"));
    assert_int_equal(error.status, NEAR_ERR_UNAVAILABLE);
    assert_non_null(strstr(error.text, "knows no master elsewhere")); /* and not that another one is dead */
    ports[0] = closed_port();
    error = problem_of(sentinels_at(ports, MASTER));
    assert_int_equal(error.status, NEAR_ERR_UNAVAILABLE);
    assert_non_null(strstr(error.text, "Connection refused"));
}

/* Sentinels in a network of containers tell addresses that lead nowhere from outside. */
static void test_a_master_that_cannot_be_reached_is_told_with_its_address(void **state)
{
    char answer[100], address[100];
    int port = closed_port();
    (void)state;
    snprintf(answer, sizeof(answer), "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n%05d\r\n", port);
    snprintf(address, sizeof(address), "master shop, 127.0.0.1 port %d: Connection refused", port);
    struct fake_redis *fake = fake_redis_start(answer, strlen(answer));
    int ports[] = {fake->port, 0};
    near_error error = problem_of(sentinels_at(ports, MASTER));
    assert_int_equal(error.status, NEAR_ERR_UNAVAILABLE);
    assert_non_null(strstr(error.text, address));
    fake_redis_free(fake);
}

static void test_names_and_sentinels_need_each_other(void **state)
{
    static const struct {
        const char *uri, *text;
    } cases[] = {{"redis-sentinel://127.0.0.1", "sentinel_master"},
                 {"redis://127.0.0.1?sentinel_master=shop", "sentinel_master"},
                 {"unix:///tmp/none?sentinel_username=a", "sentinel_username"},
                 {"memory://a?sentinel_password=a", "sentinel_password"},
                 {"local:?sentinel_master=shop", "sentinel_master"},
                 {"redis-sentinel://127.0.0.1?sentinel_master=shop&tls_verify=no", "tls_verify"}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        near_cache *cache;
        near_error error = {0};
        assert_int_equal(near_open(cases[i].uri, NULL, &cache, &error), NEAR_ERR_OPTION);
        assert_non_null(strstr(error.text, cases[i].text));
    }
}

/* ---------------------------------------------------------------- answers */

static void test_J_answers_that_make_no_sense_are_refused(void **state)
{
    static const char *const answers[] = {
        "*0\r\n",
        "*1\r\n$9\r\n127.0.0.1\r\n",
        "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n0\r\n",
        "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n65536\r\n",
        "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n63x9\r\n",
        "*2\r\n$9\r\n127.0.0.1\r\n$0\r\n\r\n",
        "*2\r\n$9\r\n127.0.0.1\r\n:6379\r\n",
        "*2\r\n$9\r\n127.0\0000.1\r\n$4\r\n6379\r\n",
        "*2\r\n$-1\r\n$-1\r\n",
        "*3\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\n1\r\n",
        ":1\r\n",
        "+OK\r\n",
        "-ERR no such thing\r\n",
        "-IDONTKNOW I have not enough information to reply\r\n",
        "$1048576\r\nabc",
        "*1000000\r\n",
        "nonsense\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
    };
    NEEDS_SENTINEL();
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct fake_redis *fake = fake_redis_start(answers[i], strlen(answers[i]));
        int ports[] = {fake->port, 0, 0};
        near_error error;
        fake->close_after = 1; /* an answer that goes on for ever ends */
        error = problem_of(sentinels_at(ports, MASTER));
        assert_true(error.status < 0 && error.text[0]);
        assert_int_not_equal(error.status, NEAR_ERR_TOO_LARGE); /* as if it were a value */
        ports[1] = redis_server_port(sentinel);
        assert_true(works(sentinels_at(ports, MASTER)));
        fake_redis_free(fake);
    }
}

static void test_a_replica_is_not_taken_for_the_master(void **state)
{
    char answer[100];
    NEEDS_SENTINEL();
    assert_true(wait_until(is_settled(), PATIENCE_MS));
    snprintf(answer, sizeof(answer), "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n%d\r\n", redis_server_port(replica()));
    struct fake_redis *outdated = fake_redis_start(answer, strlen(answer));
    int ports[] = {outdated->port, 0, 0};
    near_error error = problem_of(sentinels_at(ports, MASTER));
    assert_int_equal(error.status, NEAR_ERR_READONLY);
    assert_non_null(strstr(error.text, "shop is a replica"));
    fake_redis_free(outdated);
    outdated = fake_redis_start(answer, strlen(answer));
    ports[0] = outdated->port;
    ports[1] = redis_server_port(sentinel);
    assert_true(works(sentinels_at(ports, MASTER)));
    /* it was doubted, and not asked until it took no more connections */
    assert_in_range(atomic_load(&outdated->accepted), 1, 32);
    fake_redis_free(outdated);
}

/* What a partition leaves behind: a master that misses its replicas, and a sentinel that knows of no other. */
static void test_a_master_without_its_replicas_is_asked_about_again(void **state)
{
    char answer[100];
    NEEDS_SENTINEL();
    assert_true(wait_until(is_settled(), PATIENCE_MS));
    struct redis_server *lonely =
        redis_server_start(&(struct redis_server_options){.config = "min-replicas-to-write 1\n"});
    assert_non_null(lonely);
    snprintf(answer, sizeof(answer), "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n%d\r\n", redis_server_port(lonely));
    struct fake_redis *outdated = fake_redis_start(answer, strlen(answer));
    int ports[] = {outdated->port, redis_server_port(sentinel), 0};
    near_cache *cache = open_at(sentinels_at(ports, MASTER));
    assert_true(wait_until(put(cache, "k", "left") == NEAR_OK, PATIENCE_MS));
    assert_string_equal(redis_server_command(master(), "GET", "k", NULL), "left");
    assert_int_equal(near_wait_ready(cache, PATIENCE_MS, NULL), NEAR_OK);
    assert_string_equal(look(cache, "k"), "left");
    assert_true(atomic_load(&outdated->accepted) > 0);
    stack_close(cache);
    fake_redis_free(outdated);
    redis_server_free(lonely);
}

static int port_told(struct near__sentinels *all, const struct near__clock *clock, unsigned *ret_who)
{
    struct near__told told;
    struct near__fault fault;
    struct near__question *q = near__question_new(all, near__now(clock) + PATIENCE_MS * NEAR_NS_PER_MS, &fault);
    int r;
    assert_non_null(q);
    while ((r = near__question_step(q, &told, &fault)) == 0) {
        int64_t until_ns = NEAR_NEVER;
        struct pollfd p = near__question_poll(q, &until_ns);
        near__poll(&p, 1, clock, until_ns);
    }
    near__question_free(q);
    assert_int_equal(r, 1);
    *ret_who = told.who;
    return told.port;
}

static void test_who_misleads_two_links_is_passed_over_once(void **state)
{
    static const char old[] = "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n1\r\n", good[] = "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n2\r\n";
    struct fake_redis *outdated = fake_redis_start(old, sizeof(old) - 1);
    struct fake_redis *right = fake_redis_start(good, sizeof(good) - 1);
    static struct near__descriptors descriptors;
    struct near__alloc alloc;
    struct near__clock clock = {0};
    near_options options;
    char list[100];
    unsigned who[2];
    (void)state;
    near__alloc_init(&alloc, NULL);
    near_options_init(&options);
    options.sentinel_master = "shop";
    snprintf(list, sizeof(list), "127.0.0.1:%d,127.0.0.1:%d", outdated->port, right->port);
    struct near__uri uri = {.kind = NEAR_URI_TCP, .sentinels = list};
    struct near__sentinels *all = near__sentinels_open(&uri, &options, &alloc, &clock, 1000, NULL, &descriptors);
    assert_non_null(all);
    assert_int_equal(port_told(all, &clock, &who[0]), 1);
    assert_int_equal(port_told(all, &clock, &who[1]), 1);
    near__sentinels_doubt(all, who[0]);
    near__sentinels_doubt(all, who[1]);
    assert_int_equal(port_told(all, &clock, &who[0]), 2);
    near__sentinels_close(all);
    fake_redis_free(outdated);
    fake_redis_free(right);
}

/* ---------------------------------------------------------------- credentials */

#define VAULT "sentinel_master=vault"
static void test_sentinels_have_a_password_of_their_own(void **state)
{
    NEEDS_SENTINEL();
    struct redis_server *guarded =
        start_sentinel("vault", redis_server_port(master()), "hush", "user app on >quiet ~* +@all\n", 0);
    assert_non_null(guarded);
    int ports[] = {redis_server_port(guarded), 0};
    assert_true(works(sentinels_at(ports, VAULT "&sentinel_password=quiet&sentinel_username=app")));
    assert_true(works(sentinels_at(ports, VAULT "&sentinel_password=hush")));
    assert_int_equal(problem_of(sentinels_at(ports, VAULT)).status, NEAR_ERR_AUTH);
    near_error error = problem_of(sentinels_at(ports, VAULT "&sentinel_password=wrong"));
    assert_int_equal(error.status, NEAR_ERR_AUTH);
    assert_null(strstr(error.text, "wrong "));                  /* the reply says WRONGPASS */
    assert_non_null(strstr(error.text, "sentinel 127.0.0.1:")); /* and not the master, which has a password, too */
    redis_server_free(guarded);
}

/* Servers quote what they do not understand. */
static void test_no_password_comes_back_in_a_message(void **state)
{
    static const char *const answers[] = {
        "-ERR unknown command 'AUTH', with args beginning with: 'hush' \r\n",
        "-ERR unknown command `AUTH`, with args beginning with: `hush`, \r\n", /* before 7 */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct fake_redis *old = fake_redis_start(answers[i], strlen(answers[i]));
        int ports[] = {old->port, 0};
        near_error error = problem_of(sentinels_at(ports, MASTER "&sentinel_password=hush"));
        assert_non_null(strstr(error.text, "unknown command"));
        assert_null(strstr(error.text, "hush"));
        fake_redis_free(old);
    }
}

static void test_tls_to_the_sentinel_and_the_master(void **state)
{
    char config[200], uri[400];
    NEEDS_SENTINEL();
    if (!redis_server_tls_available())
        skip();
    struct redis_server *safe = redis_server_start(&(struct redis_server_options){.tls = 1});
    assert_non_null(safe);
    /* One certificate for both: the sentinel takes the server's, of the same authority. */
    snprintf(config, sizeof(config), "tls-replication yes\ntls-cert-file %s\n", redis_server_path(safe, "server.crt"));
    snprintf(config + strlen(config), sizeof(config) - strlen(config), "tls-key-file %s\n",
             redis_server_path(safe, "server.key"));
    snprintf(config + strlen(config), sizeof(config) - strlen(config), "tls-ca-cert-file %s\n",
             redis_server_path(safe, "ca.crt"));
    struct redis_server *watcher = start_sentinel("shop", redis_server_tls_port(safe), NULL, config, 1);
    assert_non_null(watcher);
    snprintf(uri, sizeof(uri), "rediss-sentinel://127.0.0.1:%d?" MASTER "&tls_ca_file=%s",
             redis_server_tls_port(watcher), redis_server_path(safe, "ca.crt"));
    near_cache *cache = open_ready(uri);
    assert_int_equal(put(cache, "k", "v"), NEAR_OK);
    assert_string_equal(redis_server_command(safe, "GET", "k", NULL), "v");
    stack_close(cache);
    snprintf(uri, sizeof(uri), "rediss-sentinel://127.0.0.1:%d?" MASTER "&tls_ca_file=%s",
             redis_server_tls_port(watcher), redis_server_path(safe, "other-ca.crt"));
    near_error error = problem_of(uri);
    assert_int_equal(error.status, NEAR_ERR_TLS);
    redis_server_free(watcher);
    redis_server_free(safe);
}

/* ---------------------------------------------------------------- another master */

static void test_a_failover_is_followed(void **state)
{
    NEEDS_SENTINEL();
    assert_true(wait_until(is_settled(), PATIENCE_MS));
    struct redis_server *old = master();
    int ports[] = {redis_server_port(sentinel), 0};
    const char *uri = sentinels_at(ports, MASTER);
    near_cache *a = open_ready(uri), *b = open_ready(uri);
    assert_int_equal(put(a, "k", "1"), NEAR_OK);
    assert_true(wait_until(strcmp(look(b, "k"), "1") == 0, PATIENCE_MS));
    assert_true(wait_until(strcmp(redis_server_command(sentinel, "SENTINEL", "FAILOVER", "shop", NULL), "OK") == 0,
                           PATIENCE_MS));
    assert_true(wait_until(master() != old && is_master(master()), PATIENCE_MS));
    assert_true(wait_until(!is_master(old), PATIENCE_MS));
    assert_true(wait_until(put(a, "k", "2") == NEAR_OK, PATIENCE_MS));
    assert_string_equal(redis_server_command(master(), "GET", "k", NULL), "2");
    assert_true(wait_until(strcmp(look(b, "k"), "2") == 0, PATIENCE_MS));
    assert_int_equal(near_wait_ready(b, PATIENCE_MS, NULL), NEAR_OK);
    assert_true(stack_stats(b).server_changes > 0);
    stack_close(a);
    stack_close(b);
}

static void test_a_master_that_is_killed_is_replaced(void **state)
{
    NEEDS_SENTINEL();
    assert_true(wait_until(is_settled(), PATIENCE_MS));
    struct redis_server *old = master();
    int ports[] = {redis_server_port(sentinel), 0};
    near_cache *cache = open_ready(sentinels_at(ports, MASTER));
    assert_int_equal(put(cache, "k", "3"), NEAR_OK);
    assert_string_equal(
        redis_server_command(sentinel, "SENTINEL", "SET", "shop", "down-after-milliseconds", "500", NULL), "OK");
    redis_server_kill(old);
    assert_true(wait_until(put(cache, "k", "4") == NEAR_OK, PATIENCE_MS));
    assert_true(master() != old);
    assert_string_equal(redis_server_command(master(), "GET", "k", NULL), "4");
    assert_string_equal(look(cache, "k"), "4");
    stack_close(cache);
    redis_server_command(sentinel, "SENTINEL", "SET", "shop", "down-after-milliseconds", "60000", NULL);
    assert_int_equal(redis_server_up(old), 0);
    assert_true(wait_until(is_settled(), PATIENCE_MS)); /* the sentinel makes it a replica */
}

/* ---------------------------------------------------------------- a master's name */

#define NAMELESS "nobody.invalid" /* no name server answers about it until let_go */
static atomic_int looking, looking_most, let_go;

int getaddrinfo(const char *restrict host, const char *restrict port, const struct addrinfo *restrict hints,
                struct addrinfo **restrict ret)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (host && strcmp(host, NAMELESS) == 0 && !(hints->ai_flags & AI_NUMERICHOST)) {
        int n = atomic_fetch_add(&looking, 1) + 1, most = atomic_load(&looking_most);
        while (n > most && !atomic_compare_exchange_weak(&looking_most, &most, n))
            ;
        wait_until(atomic_load(&let_go), PATIENCE_MS);
        atomic_fetch_sub(&looking, 1);
        return EAI_AGAIN;
    }
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(host, port, hints, ret);
}

static void test_one_thread_at_most_waits_for_a_name_server(void **state)
{
    static const char answer[] = "*2\r\n$14\r\n" NAMELESS "\r\n$4\r\n6379\r\n";
    struct fake_redis *fake = fake_redis_start(answer, sizeof(answer) - 1);
    int ports[] = {fake->port, 0};
    near_options options;
    near_cache *cache;
    (void)state;
    stack_options(&options);
    options.connect_timeout_ms = options.timeout_ms = 50;
    options.backoff_max_ms = 20;
    assert_int_equal(near_open(sentinels_at(ports, MASTER), &options, &cache, NULL), NEAR_OK);
    assert_true(wait_until(put(cache, "k", "v") < 0 && atomic_load(&fake->accepted) > 8, PATIENCE_MS));
    assert_int_equal(atomic_load(&looking_most), 1);
    stack_close(cache); /* does not wait for it either */
    assert_int_equal(atomic_load(&looking), 1);
    atomic_store(&let_go, 1);
    assert_true(wait_until(atomic_load(&looking) == 0, PATIENCE_MS));
    fake_redis_free(fake);
}

/* ---------------------------------------------------------------- at last */

/* Closing while nobody answers does not wait. */
static void test_a_cache_that_asks_in_vain_can_be_closed(void **state)
{
    struct fake_redis *silent = fake_redis_start(NULL, 0);
    int ports[] = {silent->port, 0};
    near_options options;
    near_cache *cache;
    (void)state;
    stack_options(&options);
    options.connect_timeout_ms = options.timeout_ms = PATIENCE_MS;
    assert_int_equal(near_open(sentinels_at(ports, MASTER), &options, &cache, NULL), NEAR_OK);
    assert_true(wait_until(atomic_load(&silent->commands) > 0, PATIENCE_MS));
    stack_close(cache);
    fake_redis_free(silent);
}

static void test_R52_every_failing_allocation_is_survived(void **state)
{
    struct allocfail hooks;
    near_options options;
    uint64_t struck = 1;
    NEEDS_SENTINEL();
    int ports[] = {redis_server_port(sentinel), 0};
    allocfail_init(&hooks);
    stack_options(&options);
    options.allocator = hooks.hooks;
    options.backoff_max_ms = 100;
    for (uint64_t n = 1; struck; n++) {
        near_cache *cache = NULL;
        near_error error = {0};
        allocfail_at(&hooks, n);
        int status = near_open(sentinels_at(ports, MASTER), &options, &cache, &error);
        if (status == NEAR_OK) {
            (void)near_wait_ready(cache, PATIENCE_MS, &error);
            (void)put(cache, "k", "v");
            struck = allocfail_struck(&hooks);
            stack_close(cache);
        } else {
            assert_int_equal(status, NEAR_ERR_NOMEM);
        }
        allocfail_at(&hooks, 0);
        assert_int_equal(allocfail_blocks(&hooks), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_master_is_found_whoever_else_is_silent),
        cmocka_unit_test(test_who_is_silent_leaves_time_for_the_others),
        cmocka_unit_test(test_who_answered_is_asked_first),
        cmocka_unit_test(test_what_nobody_knows_is_told),
        cmocka_unit_test(test_a_master_that_cannot_be_reached_is_told_with_its_address),
        cmocka_unit_test(test_names_and_sentinels_need_each_other),
        cmocka_unit_test(test_J_answers_that_make_no_sense_are_refused),
        cmocka_unit_test(test_a_replica_is_not_taken_for_the_master),
        cmocka_unit_test(test_a_master_without_its_replicas_is_asked_about_again),
        cmocka_unit_test(test_who_misleads_two_links_is_passed_over_once),
        cmocka_unit_test(test_sentinels_have_a_password_of_their_own),
        cmocka_unit_test(test_no_password_comes_back_in_a_message),
        cmocka_unit_test(test_tls_to_the_sentinel_and_the_master),
        cmocka_unit_test(test_a_failover_is_followed),
        cmocka_unit_test(test_a_master_that_is_killed_is_replaced),
        cmocka_unit_test(test_one_thread_at_most_waits_for_a_name_server),
        cmocka_unit_test(test_a_cache_that_asks_in_vain_can_be_closed),
        cmocka_unit_test(test_R52_every_failing_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
