/* SPDX-License-Identifier: BSD-3-Clause
 * The tests' own tools must be right before anything they say about the library is worth reading. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "support/allocfail.h"
#include "support/proxy.h"
#include "support/redis_server.h"
#include "support/resp_client.h"
#include "support/resp_stream.h"
#include "support/wait.h"

/* ---------------------------------------------------------------- allocator, streams */

static void test_nth_allocation_fails_and_everything_is_counted(void **state)
{
    (void)state;
    struct allocfail a;
    allocfail_init(&a);
    allocfail_at(&a, 2);
    void *one = a.hooks.allocate(a.hooks.arg, 100);
    assert_non_null(one);
    assert_null(a.hooks.reallocate(a.hooks.arg, one, 1000));
    assert_int_equal(allocfail_struck(&a), 1);
    assert_int_equal(allocfail_bytes(&a), 100);
    memset(one, 'x', 100);
    one = a.hooks.reallocate(a.hooks.arg, one, 1000);
    assert_non_null(one);
    assert_memory_equal(one, "xxxxxxxx", 8);
    assert_int_equal(allocfail_blocks(&a), 1);
    a.hooks.release(a.hooks.arg, one);
    assert_int_equal(allocfail_bytes(&a), 0);
    assert_int_equal(allocfail_peak_bytes(&a), 1100);
    allocfail_from(&a, 1);
    assert_null(a.hooks.allocate(a.hooks.arg, 1));
    assert_null(a.hooks.allocate(a.hooks.arg, 1));
    assert_int_equal(allocfail_struck(&a), 2);
}

static void test_ends_of_messages_are_found(void **state)
{
    (void)state;
    static const char *const messages[] = {
        "+OK\r\n",           ":-12\r\n", "$-1\r\n", "$0\r\n\r\n",
        "$5\r\na\r\nbc\r\n", "*0\r\n",   "*-1\r\n", "*2\r\n*2\r\n:1\r\n$1\r\nx\r\n*1\r\n+y\r\n",
        "-ERR a\rb\r\n"};
    struct resp_stream s = {0};
    for (size_t m = 0; m < sizeof messages / sizeof *messages; m++)
        for (size_t i = 0; messages[m][i]; i++)
            assert_int_equal(resp_stream_feed(&s, messages[m][i]), messages[m][i + 1] == 0);
}

/* ---------------------------------------------------------------- server */

static void test_server_answers_commands_as_text(void **state)
{
    struct redis_server *s = *state;
    if (!s)
        skip();
    assert_string_equal(redis_server_command(s, "SET", "k", "v", NULL), "OK");
    assert_string_equal(redis_server_command(s, "GET", "k", NULL), "v");
    assert_string_equal(redis_server_command(s, "GET", "none", NULL), "(nil)");
    assert_string_equal(redis_server_command(s, "INCR", "n", NULL), "1");
    assert_string_equal(redis_server_command(s, "MGET", "k", "n", NULL), "v\n1");
    assert_non_null(strstr(redis_server_command(s, "NOSUCH", NULL), "-ERR unknown command"));
    const char *const arguments[] = {"SET", "b", "x\0y"};
    const size_t sizes[] = {3, 1, 3};
    redis_server_command_argv(s, 3, arguments, sizes, NULL);
    const char *const get[] = {"GET", "b"};
    size_t size;
    assert_memory_equal(redis_server_command_argv(s, 2, get, sizes, &size), "x\0y", 3);
    assert_int_equal(size, 3);
    assert_true(redis_server_info(s, "clients", "connected_clients") >= 1);
}

static void test_server_restarts_with_and_without_data(void **state)
{
    struct redis_server *s = *state;
    if (!s)
        skip();
    int port = redis_server_port(s);
    redis_server_command(s, "SET", "k", "kept", NULL);
    assert_int_equal(redis_server_restart(s, 1), 0);
    assert_string_equal(redis_server_command(s, "GET", "k", NULL), "kept");
    redis_server_command(s, "SET", "k", "lost", NULL);
    redis_server_kill(s); /* back to the last SAVE */
    assert_string_equal(redis_server_command(s, "GET", "k", NULL), "(no answer)");
    assert_int_equal(redis_server_up(s), 0);
    assert_string_equal(redis_server_command(s, "GET", "k", NULL), "kept");
    assert_int_equal(redis_server_restart(s, 0), 0);
    assert_string_equal(redis_server_command(s, "GET", "k", NULL), "(nil)");
    assert_int_equal(redis_server_port(s), port);
}

static void test_paused_server_is_silent_until_resumed(void **state)
{
    struct redis_server *s = *state;
    if (!s)
        skip();
    const char *ping = "PING";
    struct resp_text text = {0};
    redis_server_pause(s);
    int fd = resp_connect_unix(redis_server_socket(s), 50);
    assert_int_equal(resp_send(fd, 1, &ping, &(size_t){4}), 0);
    assert_int_equal(resp_read(fd, &text), -1);
    redis_server_resume(s);
    assert_true(wait_until(resp_read(fd, &text) == 0, 10000));
    assert_string_equal(text.data, "PONG");
    free(text.data);
    close(fd);
}

static void test_passwords_and_acls_do_not_lock_the_tests_out(void **state)
{
    (void)state;
    if (!redis_server_available())
        skip();
    struct redis_server *s = redis_server_start(&(struct redis_server_options){.password = "open sesame"});
    assert_non_null(s);
    assert_string_equal(redis_server_command(s, "PING", NULL), "PONG");
    redis_server_free(s);
    s = redis_server_start(
        &(struct redis_server_options){.acl = "user default off\nuser bob on >pw ~x* resetchannels +get"});
    assert_non_null(s);
    assert_string_equal(redis_server_command(s, "ACL", "WHOAMI", NULL), "support");
    redis_server_free(s);
}

static void test_tls_server_has_certificates(void **state)
{
    (void)state;
    if (!redis_server_tls_available())
        skip();
    struct redis_server *s = redis_server_start(&(struct redis_server_options){.tls = 1});
    assert_non_null(s);
    assert_int_equal(access(redis_server_path(s, "ca.crt"), R_OK), 0);
    assert_int_equal(access(redis_server_path(s, "other-ca.crt"), R_OK), 0);
    assert_non_null(strstr(redis_server_uri_tls(s), "rediss://localhost:"));
    redis_server_free(s);
}

/* A child starts a server and dies without a word: server and directory must go. */
static void test_aborted_test_leaves_nothing_behind(void **state)
{
    (void)state;
    if (!redis_server_available())
        skip();
    int ends[2];
    char line[256] = "", directory[200];
    long server = 0;
    struct stat st;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        struct redis_server *s = redis_server_start(NULL);
        dprintf(ends[1], "%ld %s\n", s ? (long)redis_server_pid(s) : 0, s ? redis_server_path(s, "") : "");
        kill(getpid(), SIGKILL);
    }
    close(ends[1]);
    assert_true(read(ends[0], line, sizeof line - 1) > 0);
    close(ends[0]);
    waitpid(child, NULL, 0);
    assert_int_equal(sscanf(line, "%ld %199s", &server, directory), 2);
    assert_true(wait_until(kill((pid_t)server, 0) < 0 && errno == ESRCH, 20000));
    assert_true(wait_until(stat(directory, &st) < 0 && errno == ENOENT, 20000));
}

/* ---------------------------------------------------------------- proxy */

struct path {
    struct redis_server *server;
    struct proxy *proxy;
};

static int proxy_setup(void **state)
{
    static struct path path;
    path.server = redis_server_start(NULL);
    path.proxy = path.server ? proxy_start(redis_server_uri_unix(path.server)) : NULL;
    *state = path.proxy ? &path : NULL;
    return 0;
}

static int proxy_teardown(void **state)
{
    struct path *path = *state;
    if (path) {
        proxy_free(path->proxy);
        redis_server_free(path->server);
    }
    return 0;
}

static int client(struct proxy *p)
{
    return resp_connect_unix(proxy_uri_unix(p) + 7, 10000);
}

static void say(int fd, const char *a, const char *b, const char *c)
{
    const char *const arguments[] = {a, b, c};
    size_t sizes[] = {strlen(a), b ? strlen(b) : 0, c ? strlen(c) : 0};
    assert_int_equal(resp_send(fd, 1 + (b != NULL) + (c != NULL), arguments, sizes), 0);
}

static void hear(int fd, const char *expected)
{
    struct resp_text text = {0};
    int result = resp_read(fd, &text);
    if (!expected) {
        assert_int_equal(result, -1);
    } else {
        assert_int_equal(result, 0);
        assert_string_equal(text.data, expected);
    }
    free(text.data);
}

static int named_client(struct proxy *p, const char *name)
{
    int fd = client(p);
    say(fd, "CLIENT", "SETNAME", name);
    hear(fd, "OK");
    return fd;
}

static void test_proxy_passes_holds_and_releases_by_kind(void **state)
{
    struct path *path = *state;
    if (!path)
        skip();
    struct proxy *p = path->proxy;
    int data = named_client(p, "near-data"), sub = named_client(p, "near-sub");
    char names[64];
    assert_int_equal(proxy_connections(p, PROXY_ANY), 2);
    assert_int_equal(proxy_connections(p, PROXY_SUB), 1);
    assert_int_equal(proxy_list(p, names, sizeof names), 2);
    assert_non_null(strstr(names, "near-sub\n"));
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_HOLD);
    say(data, "SET", "k", "v");
    assert_true(wait_until(proxy_held(p, PROXY_DATA, PROXY_TO_CLIENT) == 5, 10000));
    say(sub, "GET", "k", NULL);
    hear(sub, "v"); /* it ran, and only its reply is held */
    proxy_mode(p, PROXY_DATA, PROXY_TO_CLIENT, PROXY_INHERIT);
    hear(data, "OK");
    proxy_mode(p, PROXY_SUB, PROXY_TO_SERVER, PROXY_SWALLOW);
    uint64_t before = proxy_passed(p, PROXY_SUB, PROXY_TO_SERVER);
    say(sub, "SET", "k", "vanishes");
    uint64_t whole = strlen("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8\r\nvanishes\r\n"); /* it may come in pieces */
    assert_true(wait_until(proxy_passed(p, PROXY_SUB, PROXY_TO_SERVER) == before + whole, 10000));
    proxy_mode(p, PROXY_SUB, PROXY_TO_SERVER, PROXY_INHERIT);
    say(sub, "GET", "k", NULL);
    hear(sub, "v");
    close(data);
    close(sub);
    assert_true(wait_until(proxy_connections(p, PROXY_ANY) == 0, 10000));
}

static void test_proxy_splits_and_delays_without_changing_anything(void **state)
{
    struct path *path = *state;
    if (!path)
        skip();
    struct proxy *p = path->proxy;
    int fd = client(p);
    proxy_split(p, PROXY_ANY, PROXY_TO_CLIENT, 1);
    proxy_split(p, PROXY_ANY, PROXY_TO_SERVER, 1);
    proxy_delay(p, PROXY_ANY, PROXY_TO_CLIENT, 30);
    int64_t begin = wait_now_ms();
    say(fd, "ECHO", "some text", NULL);
    hear(fd, "some text");
    assert_true(wait_now_ms() - begin >= 30);
    proxy_split(p, PROXY_ANY, PROXY_TO_CLIENT, 0);
    proxy_split(p, PROXY_ANY, PROXY_TO_SERVER, 0);
    proxy_delay(p, PROXY_ANY, PROXY_TO_CLIENT, 0);
    close(fd);
}

static void test_proxy_cuts_after_exactly_n_bytes(void **state)
{
    struct path *path = *state;
    if (!path)
        skip();
    struct proxy *p = path->proxy;
    for (int n = 0; n < 6; n++) {
        int fd = client(p), done = proxy_cut_done(p, PROXY_ANY, PROXY_TO_CLIENT);
        char bytes[16];
        ssize_t got, all = 0;
        proxy_cut(p, PROXY_ANY, PROXY_TO_CLIENT, n, n % 2);
        say(fd, "PING", NULL, NULL);
        while ((got = recv(fd, bytes + all, sizeof bytes - (size_t)all, 0)) > 0)
            all += got;
        assert_int_equal(all, n);
        assert_int_equal(proxy_cut_done(p, PROXY_ANY, PROXY_TO_CLIENT), done + 1);
        close(fd);
    }
}

static void test_proxy_deletes_and_doubles_one_message(void **state)
{
    struct path *path = *state;
    if (!path)
        skip();
    struct proxy *p = path->proxy;
    int sub = named_client(p, "x-sub");
    say(sub, "SUBSCRIBE", "c", NULL);
    hear(sub, "subscribe\nc\n1");
    proxy_delete(p, PROXY_SUB, "second", 1);
    redis_server_command(path->server, "PUBLISH", "c", "first", NULL);
    redis_server_command(path->server, "PUBLISH", "c", "second", NULL);
    redis_server_command(path->server, "PUBLISH", "c", "third", NULL);
    hear(sub, "message\nc\nfirst");
    hear(sub, "message\nc\nthird");
    assert_int_equal(proxy_edited(p, PROXY_SUB), 1);
    proxy_duplicate(p, PROXY_SUB, "fourth", 1);
    redis_server_command(path->server, "PUBLISH", "c", "fourth", NULL);
    redis_server_command(path->server, "PUBLISH", "c", "fifth", NULL);
    hear(sub, "message\nc\nfourth");
    hear(sub, "message\nc\nfourth");
    hear(sub, "message\nc\nfifth");
    assert_int_equal(proxy_inject(p, PROXY_SUB, "+mine\r\n", 7), 1);
    hear(sub, "mine");
    close(sub);
}

static void test_proxy_kills_refuses_and_moves(void **state)
{
    struct path *path = *state;
    if (!path)
        skip();
    struct proxy *p = path->proxy;
    struct redis_server *other = redis_server_start(NULL);
    assert_non_null(other);
    redis_server_command(path->server, "SET", "who", "one", NULL);
    redis_server_command(other, "SET", "who", "two", NULL);
    int data = named_client(p, "y-data"), sub = named_client(p, "y-sub");
    proxy_backend(p, redis_server_uri(other)); /* only for connections to come */
    assert_int_equal(proxy_kill(p, PROXY_SUB, 0), 1);
    hear(sub, NULL);
    say(data, "GET", "who", NULL);
    hear(data, "one");
    close(sub);
    sub = named_client(p, "y-sub");
    say(sub, "GET", "who", NULL);
    hear(sub, "two");
    proxy_refuse(p, 1);
    int refused = client(p);
    hear(refused, NULL);
    proxy_refuse(p, 0);
    close(refused);
    close(data);
    close(sub);
    redis_server_free(other);
    proxy_backend(p, redis_server_uri_unix(path->server));
}

static int server_setup(void **state)
{
    *state = redis_server_start(NULL);
    return 0;
}

static int server_teardown(void **state)
{
    redis_server_free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nth_allocation_fails_and_everything_is_counted),
        cmocka_unit_test(test_ends_of_messages_are_found),
        cmocka_unit_test_setup_teardown(test_server_answers_commands_as_text, server_setup, server_teardown),
        cmocka_unit_test_setup_teardown(test_server_restarts_with_and_without_data, server_setup, server_teardown),
        cmocka_unit_test_setup_teardown(test_paused_server_is_silent_until_resumed, server_setup, server_teardown),
        cmocka_unit_test(test_passwords_and_acls_do_not_lock_the_tests_out),
        cmocka_unit_test(test_tls_server_has_certificates),
        cmocka_unit_test(test_aborted_test_leaves_nothing_behind),
        cmocka_unit_test_setup_teardown(test_proxy_passes_holds_and_releases_by_kind, proxy_setup, proxy_teardown),
        cmocka_unit_test_setup_teardown(test_proxy_splits_and_delays_without_changing_anything, proxy_setup,
                                        proxy_teardown),
        cmocka_unit_test_setup_teardown(test_proxy_cuts_after_exactly_n_bytes, proxy_setup, proxy_teardown),
        cmocka_unit_test_setup_teardown(test_proxy_deletes_and_doubles_one_message, proxy_setup, proxy_teardown),
        cmocka_unit_test_setup_teardown(test_proxy_kills_refuses_and_moves, proxy_setup, proxy_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
