/* SPDX-License-Identifier: BSD-3-Clause
 * examples/resp-server from outside: what it answers, and that nothing a client sends or leaves undone hurts it or the
 * others (promise J).  Runs over memory://, so no Redis is needed. */
#define _GNU_SOURCE /* pipe2 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/redis_server.h"
#include "support/seed.h"
#include "support/wait.h"

enum { PATIENCE_MS = 30000 }; /* only a test that has failed waits so long */

static int server_port;
static pid_t server_pid;

/* ---------------------------------------------------------------- the server */

static const char *server_program(char *path, size_t capacity)
{
    const char *top = getenv("top_builddir");
    snprintf(path, capacity, "%s/examples/resp-server", top ? top : ".");
    return path;
}

/* Starts it with these arguments; what it prints can be read from *ret_output. */
static pid_t spawn(const char *const *arguments, int *ret_output)
{
    char path[4096];
    const char *argv[24] = {server_program(path, sizeof path)};
    int pipe_ends[2];
    pid_t pid;
    for (int i = 0; arguments[i]; i++)
        argv[i + 1] = arguments[i];
    assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
    if ((pid = fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(pipe_ends[1], STDOUT_FILENO);
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(pipe_ends[1]);
    *ret_output = pipe_ends[0];
    return pid;
}

static int wait_for_port(int output)
{
    char text[256] = "", *port;
    size_t size = 0;
    int64_t end = wait_now_ms() + PATIENCE_MS;
    while (!strchr(text, '\n') && size < sizeof text - 1 && wait_now_ms() < end) {
        struct pollfd p = {.fd = output, .events = POLLIN};
        ssize_t n = poll(&p, 1, 100) > 0 ? read(output, text + size, sizeof text - 1 - size) : -1;
        if (n == 0)
            break;
        size += n > 0 ? (size_t)n : 0;
        text[size] = 0;
    }
    close(output);
    port = strstr(text, "ready port=");
    return port ? atoi(port + strlen("ready port=")) : -1;
}

static int ended(pid_t pid)
{
    int status = -1;
    return wait_until(waitpid(pid, &status, WNOHANG) == pid, PATIENCE_MS) ? status : -1;
}

static int start_server(void **state)
{
    static const char *const arguments[] = {"--port",
                                            "0",
                                            "--redis",
                                            "memory://resp-server",
                                            "--threads",
                                            "2",
                                            "--max-bulk",
                                            "1m",
                                            "--max-output",
                                            "8m",
                                            "--max-clients",
                                            "200",
                                            "--option",
                                            "hot_keys=8",
                                            NULL};
    int output;
    (void)state;
    server_pid = spawn(arguments, &output);
    server_port = wait_for_port(output);
    return server_port > 0 ? 0 : -1;
}

static int stop_server(void **state)
{
    (void)state;
    kill(server_pid, SIGTERM);
    return ended(server_pid) == 0 ? 0 : -1;
}

/* ---------------------------------------------------------------- a client */

static int try_connect(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)server_port)};
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

static int client(void)
{
    int fd = try_connect();
    assert_true(fd >= 0);
    return fd;
}

static void send_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(fd, (const char *)data + done, size - done, MSG_NOSIGNAL);
        assert_true(n > 0);
        done += (size_t)n;
    }
}

static void send_text(int fd, const char *text)
{
    send_all(fd, text, strlen(text));
}

/* Sends what the server may refuse to take. */
static void send_some(int fd, const void *data, size_t size)
{
    (void)!send(fd, data, size, MSG_NOSIGNAL);
}

static void expect_bytes(int fd, const void *wanted, size_t size)
{
    char got[4096];
    for (size_t done = 0; done < size;) {
        size_t piece = size - done < sizeof got ? size - done : sizeof got;
        ssize_t n = recv(fd, got, piece, 0);
        if (n <= 0)
            fail_msg("connection ended; still wanted: %.200s", (const char *)wanted + done);
        if (memcmp(got, (const char *)wanted + done, (size_t)n) != 0)
            fail_msg("got \"%.*s\" instead of \"%.200s\"", (int)n, got, (const char *)wanted + done);
        done += (size_t)n;
    }
}

static void expect(int fd, const char *wanted)
{
    expect_bytes(fd, wanted, strlen(wanted));
}

static void expect_end(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);
    if (n > 0)
        fail_msg("a byte where the connection should have ended: %c", byte);
    assert_true(n == 0 || errno == ECONNRESET);
}

static void assert_answers(void)
{
    int fd = client();
    send_text(fd, "PING\r\n");
    expect(fd, "+PONG\r\n");
    close(fd);
}

/* Writes "SET key value" as a request of its own; returns its size. */
static size_t format(char *buffer, size_t count, const char *const *arguments)
{
    size_t size = (size_t)sprintf(buffer, "*%zu\r\n", count);
    for (size_t i = 0; i < count; i++)
        size += (size_t)sprintf(buffer + size, "$%zu\r\n%s\r\n", strlen(arguments[i]), arguments[i]);
    return size;
}

/* ---------------------------------------------------------------- what it answers */

static const struct {
    const char *request, *reply;
} conversation[] = {
    {"PING", "+PONG\r\n"},
    {"PING hello", "$5\r\nhello\r\n"},
    {"ECHO hi", "$2\r\nhi\r\n"},
    {"SELECT 0", "+OK\r\n"},
    {"DEL a b c", ":0\r\n"},
    {"GET a", "$-1\r\n"},
    {"SET a 1", "+OK\r\n"},
    {"GET a", "$1\r\n1\r\n"},
    {"SET a 2 NX", "$-1\r\n"},
    {"SET a 2 XX", "+OK\r\n"},
    {"SET b 1 XX", "$-1\r\n"},
    {"SETNX b 5", ":1\r\n"},
    {"SETNX b 6", ":0\r\n"},
    {"MGET a b c", "*3\r\n$1\r\n2\r\n$1\r\n5\r\n$-1\r\n"},
    {"MSET a 3 c 4", "+OK\r\n"},
    {"EXISTS a b c d a", ":4\r\n"},
    {"INCR a", ":4\r\n"},
    {"INCRBY a 10", ":14\r\n"},
    {"DECR a", ":13\r\n"},
    {"DECRBY a 20", ":-7\r\n"},
    {"SET a 9223372036854775807", "+OK\r\n"},
    {"INCR a", "-ERR value is not an integer or out of range\r\n"},
    {"SET a x", "+OK\r\n"},
    {"INCR a", "-ERR value is not an integer or out of range\r\n"},
    {"INCRBY a 007", "-ERR value is not an integer or out of range\r\n"},
    {"DECRBY a -9223372036854775808", "-ERR decrement would overflow\r\n"},
    {"TTL a", ":-1\r\n"},
    {"TTL nothing", ":-2\r\n"},
    {"PTTL nothing", ":-2\r\n"},
    {"SET a x EX 1000", "+OK\r\n"},
    {"TTL a", ":1000\r\n"},
    {"SET a y KEEPTTL", "+OK\r\n"},
    {"TTL a", ":1000\r\n"},
    {"PERSIST a", ":1\r\n"},
    {"PERSIST a", ":0\r\n"},
    {"EXPIRE a 500", ":1\r\n"},
    {"TTL a", ":500\r\n"},
    {"PEXPIRE a 900000", ":1\r\n"},
    {"TTL a", ":900\r\n"},
    {"EXPIRE a -1", ":1\r\n"},
    {"GET a", "$-1\r\n"},
    {"EXPIRE a 5", ":0\r\n"},
    {"SETEX a 100 v", "+OK\r\n"},
    {"TTL a", ":100\r\n"},
    {"PSETEX a 200000 v", "+OK\r\n"},
    {"TTL a", ":200\r\n"},
    {"SETEX a 0 v", "-ERR invalid expire time in 'setex' command\r\n"},
    {"SET a v EX 99999999999999", "-ERR invalid expire time in 'set' command\r\n"},
    {"SET a v NX XX", "-ERR syntax error\r\n"},
    {"SET a v EX", "-ERR syntax error\r\n"},
    {"SET a v EX 1 PX 1", "-ERR syntax error\r\n"},
    {"SET a v KEEPTTL EX 1", "-ERR syntax error\r\n"},
    {"SET a v GET", "-ERR this server does not know SET with GET, EXAT or PXAT\r\n"},
    {"UNLINK a b c nothing", ":3\r\n"},
    {"GET", "-ERR wrong number of arguments for 'get' command\r\n"},
    {"MSET a", "-ERR wrong number of arguments for 'mset' command\r\n"},
    {"MSET a 1 b", "-ERR wrong number of arguments for 'mset' command\r\n"},
    {"get A", "$-1\r\n"},
    {"SET \"\" empty", "+OK\r\n"},
    {"GET ''", "$5\r\nempty\r\n"},
    {"SET \"sp ace\" 'it\\'s'", "+OK\r\n"},
    {"GET \"\\x73p\\x20ace\"", "$4\r\nit's\r\n"},
    {"CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"},
    {"CONFIG GET appendonly", "*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n"},
    {"CONFIG GET nothing", "*0\r\n"},
    {"CONFIG SET local_bytes 32m", "+OK\r\n"},
    {"CONFIG GET LOCAL_BYTES", "*2\r\n$11\r\nlocal_bytes\r\n$8\r\n33554432\r\n"},
    {"CONFIG RESETSTAT", "+OK\r\n"},
    {"COMMAND DOCS", "*0\r\n"},
    {"CLIENT GETNAME", "$-1\r\n"},
    {"CLIENT SETNAME me", "+OK\r\n"},
    {"CLIENT SETNAME \"m e\"", "-ERR Client names cannot contain spaces, newlines or special characters, "
                               "and have at most 63 bytes here\r\n"},
    {"CLIENT GETNAME", "$2\r\nme\r\n"},
    {"CLIENT SETINFO lib-name x", "+OK\r\n"},
    {"HELLO 3", "-NOPROTO unsupported protocol version\r\n"},
    {"RESET", "+RESET\r\n"},
    {"CLIENT GETNAME", "$-1\r\n"},
    {"QUIT", "+OK\r\n"},
};
enum { CONVERSATION = sizeof conversation / sizeof conversation[0] };

static void test_every_command_answers_as_redis_does(void **state)
{
    int fd = client();
    (void)state;
    for (size_t i = 0; i < CONVERSATION; i++) {
        send_all(fd, conversation[i].request, strlen(conversation[i].request));
        send_text(fd, "\r\n");
        expect(fd, conversation[i].reply);
    }
    expect_end(fd);
    close(fd);
}

static void test_a_pipeline_of_everything_is_answered_in_order(void **state)
{
    int fd = client();
    (void)state;
    for (size_t i = 0; i < CONVERSATION; i++) {
        send_all(fd, conversation[i].request, strlen(conversation[i].request));
        send_text(fd, "\n");
    }
    for (size_t i = 0; i < CONVERSATION; i++)
        expect(fd, conversation[i].reply);
    expect_end(fd);
    close(fd);
}

static void test_requests_may_come_in_pieces_cut_anywhere(void **state)
{
    static const char requests[] =
        "*3\r\n$3\r\nSET\r\n$3\r\ncut\r\n$5\r\na\r\nb\0\r\nGET cut\r\n*2\r\n$3\r\nGET\r\n$3\r\ncut\r\n"
        "*1\r\n$4\r\nPING\r\n";
    static const char replies[] = "+OK\r\n$5\r\na\r\nb\0\r\n$5\r\na\r\nb\0\r\n+PONG\r\n";
    (void)state;
    for (size_t cut = 0; cut < sizeof requests - 1; cut++) {
        int fd = client();
        send_all(fd, requests, cut);
        if (cut % 8 == 0)
            wait_a_moment(); /* so that some pieces really come alone; each is right in any case */
        send_all(fd, requests + cut, sizeof requests - 1 - cut);
        expect_bytes(fd, replies, sizeof replies - 1);
        close(fd);
    }
}

static void test_a_pipeline_of_reads_is_answered_in_order(void **state)
{
    char request[128], reply[64];
    int fd = client();
    (void)state;
    for (int i = 0; i < 500; i++)
        send_all(fd, request, (size_t)sprintf(request, "SET many:%d %d\r\n", i, i * 7));
    for (int i = 0; i < 500; i++)
        expect(fd, "+OK\r\n");
    for (int i = 0; i < 1000; i++) /* every other key is absent */
        send_all(fd, request,
                 (size_t)sprintf(request, "*2\r\n$3\r\nGET\r\n$%d\r\nmany:%d\r\n", snprintf(NULL, 0, "many:%d", i), i));
    for (int i = 0; i < 1000; i++) {
        char number[16];
        int size = sprintf(number, "%d", i * 7);
        snprintf(reply, sizeof reply, i < 500 ? "$%d\r\n%s\r\n" : "$-1\r\n", size, number);
        expect(fd, reply);
    }
    close(fd);
}

/* Requests and replies of one pipeline, sent as a whole: as arrays, since some commands wait for others only then. */
static void assert_pipeline(const char *const (*lines)[2], size_t count)
{
    char requests[8192], replies[8192] = "";
    size_t size = 0;
    int fd = client();
    for (size_t i = 0; i < count; i++) {
        char line[128], *rest = line;
        const char *words[16];
        size_t n = 0;
        snprintf(line, sizeof line, "%s", lines[i][0]);
        for (char *word; (word = strtok_r(rest, " ", &rest)) != NULL;)
            words[n++] = word;
        size += format(requests + size, n, words);
        strcat(replies, lines[i][1]);
    }
    send_all(fd, requests, size);
    expect(fd, replies);
    close(fd);
}

static void test_C_a_pipeline_sees_its_own_writes_in_order(void **state)
{
    static const char *const lines[][2] = {
        {"DEL w:a w:b w:c", ":0\r\n"},
        {"SET w:a 1", "+OK\r\n"},
        {"SET w:b 1", "+OK\r\n"},
        {"SET w:a 2", "+OK\r\n"},
        {"SET w:a 3", "+OK\r\n"},
        {"MGET w:a w:b", "*2\r\n$1\r\n3\r\n$1\r\n1\r\n"},
        {"SET w:a 4", "+OK\r\n"},
        {"GET w:a", "$1\r\n4\r\n"},
        {"SET w:a 5", "+OK\r\n"},
        {"GET w:a", "$1\r\n5\r\n"},
        {"SET w:a 6", "+OK\r\n"},
        {"MSET w:a 7 w:b 7", "+OK\r\n"},
        {"SET w:b 8", "+OK\r\n"},
        {"SET w:b 9 NX", "$-1\r\n"},
        {"SET w:b x EX none", "-ERR value is not an integer or out of range\r\n"},
        {"SET w:c 1 EX 100", "+OK\r\n"},
        {"SET w:c 2 PX 500000", "+OK\r\n"},
        {"TTL w:c", ":500\r\n"},
        {"SET w:c 3 EX 200", "+OK\r\n"},
        {"SET w:b 8", "+OK\r\n"},
        {"TTL w:c", ":200\r\n"},
        {"TTL w:b", ":-1\r\n"},
        {"MGET w:a w:b w:c", "*3\r\n$1\r\n7\r\n$1\r\n8\r\n$1\r\n3\r\n"},
        {"DEL w:a", ":1\r\n"},
        {"DEL w:b w:nothing", ":1\r\n"},
        {"DEL w:a", ":0\r\n"},
        {"UNLINK w:c w:b", ":1\r\n"},
        {"SET w:a 1", "+OK\r\n"},
        {"DEL w:a", ":1\r\n"},
        {"SET w:a 2", "+OK\r\n"},
        {"INCR w:a", ":3\r\n"},
        {"DEL", "-ERR wrong number of arguments for 'del' command\r\n"},
        {"DEL w:a", ":1\r\n"},
        {"MSET w:a 1 w:a 2", "+OK\r\n"},
        {"GET w:a", "$1\r\n2\r\n"},
        {"GET w:b", "$-1\r\n"},
    };
    (void)state;
    assert_pipeline(lines, sizeof lines / sizeof lines[0]);
}

static void test_a_pipeline_of_many_writes_is_answered_in_order(void **state)
{
    char request[128];
    int fd = client();
    (void)state;
    for (int i = 0; i < 300; i++) {
        send_all(fd, request, (size_t)sprintf(request, "SET pipe:%d x%d\r\n", i % 97, i));
        if (i % 7 == 0)
            send_all(fd, request, (size_t)sprintf(request, "MSET pipe:%d m pipe:x %d pipe:y %d\r\n", i % 97, i, i));
    }
    for (int i = 0; i < 300 + 43; i++)
        expect(fd, "+OK\r\n");
    for (int i = 0; i < 97; i++) {
        int last = i + (299 - i) / 97 * 97;
        char text[16];
        send_all(fd, request, (size_t)sprintf(request, "GET pipe:%d\r\n", i));
        if (last % 7 == 0)
            strcpy(text, "m");
        else
            sprintf(text, "x%d", last);
        expect_bytes(fd, request, (size_t)sprintf(request, "$%zu\r\n%s\r\n", strlen(text), text));
    }
    for (int i = 0; i < 98; i++)
        send_all(fd, request, (size_t)sprintf(request, "DEL pipe:%d\r\n", i));
    for (int i = 0; i < 98; i++)
        expect(fd, i < 97 ? ":1\r\n" : ":0\r\n");
    close(fd);
}

/* How many writes the library was asked for. */
static long library_writes(int fd)
{
    char text[16384], *at;
    size_t size = 0;
    ssize_t n;
    send_all(fd, "INFO\r\nPING\r\n", 12);
    while (size < sizeof text - 1 && (n = recv(fd, text + size, sizeof text - 1 - size, 0)) > 0) {
        size += (size_t)n;
        text[size] = 0;
        if (strstr(text, "+PONG\r\n"))
            break;
    }
    at = strstr(text, "write_ns:count=");
    assert_non_null(at);
    return atol(at + strlen("write_ns:count="));
}

static void test_writes_of_a_pipeline_run_together(void **state)
{
    char requests[4096] = "";
    int fd = client();
    long before = library_writes(fd);
    (void)state;
    for (int i = 0; i < 40; i++)
        sprintf(requests + strlen(requests), "SET together:%d x\r\n", i % 30);
    for (int i = 0; i < 10; i++)
        strcat(requests, "MSET together:a 1 together:b 2\r\n");
    for (int i = 0; i < 30; i++)
        sprintf(requests + strlen(requests), "DEL together:%d\r\n", i);
    send_all(fd, requests, strlen(requests));
    for (int i = 0; i < 50; i++)
        expect(fd, "+OK\r\n");
    for (int i = 0; i < 30; i++)
        expect(fd, ":1\r\n");
    assert_true(library_writes(fd) - before < 20); /* 2, however unluckily the bytes arrive */
    close(fd);
}

static void test_a_half_closed_client_gets_its_answers(void **state)
{
    int fd = client();
    (void)state;
    send_text(fd, "SET half closed\r\nGET half\r\nGET unfinished");
    shutdown(fd, SHUT_WR);
    expect(fd, "+OK\r\n$6\r\nclosed\r\n");
    expect_end(fd);
    close(fd);
}

/* Reads that are put off until their answers have been read are parsed once more, and so is what came behind them. */
static void test_an_inline_request_behind_large_reads_stays_what_it_is(void **state)
{
    enum { READS = 8, SIZE = 512 * 1024 };
    static char value[SIZE + 1], request[SIZE + 64], answer[SIZE + 32];
    int fd = client();
    (void)state;
    memset(value, 'v', SIZE);
    send_all(fd, request, format(request, 3, (const char *const[]){"SET", "large", value}));
    expect(fd, "+OK\r\n");
    request[0] = 0;
    for (int i = 0; i < READS; i++)
        strcat(request, "*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n");
    strcat(request, "SET inline \"a \\\"b\\\" c\"\r\nGET inline\r\n");
    send_text(fd, request);
    snprintf(answer, sizeof answer, "$%d\r\n%s\r\n", SIZE, value);
    for (int i = 0; i < READS; i++)
        expect(fd, answer);
    expect(fd, "+OK\r\n$7\r\na \"b\" c\r\n");
    send_text(fd, "DEL large inline\r\n");
    expect(fd, ":2\r\n");
    close(fd);
}

static void test_info_tells_about_the_cache(void **state)
{
    char text[16384];
    size_t size = 0;
    ssize_t n;
    int fd = client();
    (void)state;
    send_text(fd, "GET info\r\nINFO\r\nQUIT\r\n");
    while (size < sizeof text - 1 && (n = recv(fd, text + size, sizeof text - 1 - size, 0)) > 0)
        size += (size_t)n;
    text[size] = 0;
    assert_non_null(strstr(text, "# Server\r\n"));
    assert_non_null(strstr(text, "connected_clients:"));
    assert_non_null(strstr(text, "local_hits:"));
    close(fd);
}

static void test_info_tells_hot_keys(void **state)
{
    static char requests[100 * 40], text[16384];
    size_t size = 0;
    ssize_t n;
    int fd = client();
    (void)state;
    send_text(fd, "SET \"hot\\nkey\" x\r\n");
    expect(fd, "+OK\r\n");
    for (int i = 0; i < 100; i++)
        strcat(requests, "*2\r\n$3\r\nGET\r\n$7\r\nhot\nkey\r\n");
    for (int i = 0; i < 200; i++) {
        send_all(fd, requests, strlen(requests));
        for (int k = 0; k < 100; k++)
            expect(fd, "$1\r\nx\r\n");
    }
    send_text(fd, "INFO hotkeys\r\nQUIT\r\n");
    while (size < sizeof text - 1 && (n = recv(fd, text + size, sizeof text - 1 - size, 0)) > 0)
        size += (size_t)n;
    text[size] = 0;
    assert_non_null(strstr(text, "# Hotkeys\r\nhot_keys:on\r\nhot0:share_min="));
    assert_non_null(strstr(text, ",key=hot\\x0akey\r\n"));
    close(fd);
}

/* ---------------------------------------------------------------- hostile clients */

/* The memory the server has in use, in KiB. */
static long server_kb(void)
{
    char path[64], line[256];
    long kb = 0;
    FILE *file;
    snprintf(path, sizeof path, "/proc/%ld/status", (long)server_pid);
    assert_non_null(file = fopen(path, "re"));
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "VmRSS:", 6) == 0)
            kb = atol(line + 6);
    fclose(file);
    return kb;
}

static const struct {
    const char *bytes, *reply; /* reply: how the only answer begins */
} nonsense[] = {
    {"*1048577\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*99999999999999999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*abc\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*1x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*00000000000000000000000000000000000001\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*1\n", "-ERR Protocol error: invalid multibulk length\r\n"},
    {"*2\r\n$3\r\nGET\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\r\n"},
    {"*2\r\n$3\r\nGET\r\n$9223372036854775807\r\n", "-ERR Protocol error: invalid bulk length\r\n"},
    {"*2\r\n$3\r\nGET\r\n$1048577\r\n", "-ERR Protocol error: invalid bulk length\r\n"},
    {"*2\r\n$3\r\nGET\r\n$4294967299\r\n", "-ERR Protocol error: invalid bulk length\r\n"},
    {"*2\r\n$3\r\nGETxx$1\r\na\r\n", "-ERR Protocol error: expected CRLF after an argument\r\n"},
    {"*2\r\nGET\r\n", "-ERR Protocol error: expected '$' before an argument\r\n"},
    {"*1\r\n*1\r\n$4\r\nPING\r\n", "-ERR Protocol error: expected '$' before an argument\r\n"},
    {"GET \"abc\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"},
    {"GET \"abc\"def\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"},
    {"GET \"abc\\\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"},
};

static void test_J_nonsense_is_answered_with_an_error_and_the_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        int fd = client();
        send_text(fd, "PING\r\n"); /* what was right before is still answered */
        send_all(fd, nonsense[i].bytes, strlen(nonsense[i].bytes));
        expect(fd, "+PONG\r\n");
        expect(fd, nonsense[i].reply);
        expect_end(fd);
        close(fd);
    }
    assert_answers();
}

static void test_J_harmless_oddities_are_passed_over(void **state)
{
    int fd = client();
    (void)state;
    send_text(fd, "\r\n\n   \r\n*0\r\n*-1\r\n*-5\r\nPING\r\n");
    expect(fd, "+PONG\r\n");
    close(fd);
}

static void test_J_an_endless_line_ends_the_connection(void **state)
{
    char piece[4096];
    int fd = client();
    (void)state;
    memset(piece, 'a', sizeof piece);
    for (int i = 0; i < 17; i++)
        send_some(fd, piece, sizeof piece);
    expect(fd, "-ERR Protocol error: too big inline request\r\n");
    close(fd);
    assert_answers();
}

static void test_J_unknown_commands_cannot_forge_replies(void **state)
{
    int fd = client();
    (void)state;
    send_text(fd, "*1\r\n$9\r\nx\r\n+OK\r\ny\r\nPING\r\n");
    expect(fd, "-ERR unknown command 'x??+OK??y': resp-server --help lists those that this server knows\r\n+PONG\r\n");
    close(fd);
}

static void test_J_a_promised_argument_takes_no_memory(void **state)
{
    enum { CLIENTS = 150 };
    int fds[CLIENTS];
    long before = server_kb();
    (void)state;
    for (int i = 0; i < CLIENTS; i++) { /* 150 MB promised, with 1048576 more arguments each */
        fds[i] = client();
        send_all(fds[i], "*1048576\r\n$1048576\r\nabc", 23);
    }
    assert_answers();
    assert_true(server_kb() - before < 20 * 1024);
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    assert_answers();
}

static void test_J_a_client_that_never_reads_is_held_back(void **state)
{
    static char value[256 * 1024 + 1], request[sizeof value + 64];
    static const char get[] = "GET large\r\n";
    struct pollfd p = {.events = POLLOUT};
    size_t sent = 0;
    int fd = client();
    (void)state;
    memset(value, 'v', sizeof value - 1);
    send_all(fd, request, format(request, 3, (const char *const[]){"SET", "large", value}));
    expect(fd, "+OK\r\n");
    p.fd = fd;
    /* 1.5 million requests for 256 KiB: far more than any buffer between us, were they all read */
    while (sent < 16u << 20 && poll(&p, 1, 300) > 0) {
        ssize_t n = send(fd, get + sent % (sizeof get - 1), sizeof get - 1 - sent % (sizeof get - 1),
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    assert_true(sent < 16u << 20);
    assert_answers();
    for (int i = 0; i < 20; i++) { /* and served as soon as it reads */
        expect(fd, "$262144\r\n");
        expect_bytes(fd, value, sizeof value - 1);
        expect(fd, "\r\n");
    }
    close(fd);
    assert_answers();
}

static void test_J_a_reply_beyond_the_limit_ends_the_connection(void **state)
{
    static char value[512 * 1024 + 1], request[sizeof value + 64];
    char text[65536];
    int fd = client();
    (void)state;
    memset(value, 'v', sizeof value - 1);
    send_all(fd, request, format(request, 3, (const char *const[]){"SET", "huge", value}));
    expect(fd, "+OK\r\n");
    send_text(fd, "MGET");
    for (int i = 0; i < 40; i++) /* 20 MiB; the limit is 8 */
        send_text(fd, " huge");
    send_text(fd, "\r\n");
    assert_true(recv(fd, text, sizeof text, 0) <= 0);
    close(fd);
    assert_answers();
}

static void test_J_too_many_clients_are_refused_politely(void **state)
{
    enum { CLIENTS = 230 };
    int fds[CLIENTS], refused = 0;
    (void)state;
    for (int i = 0; i < CLIENTS; i++) {
        char text[64] = "";
        fds[i] = client();
        send_some(fds[i], "PING\r\n", 6);
        if (recv(fds[i], text, sizeof text - 1, 0) <= 0 || text[0] == '-')
            refused++;
    }
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    assert_true(refused >= CLIENTS - 200);
    assert_true(wait_until(({
                               char text[64] = "";
                               int fd = try_connect();
                               send_some(fd, "PING\r\n", 6);
                               (void)!recv(fd, text, sizeof text - 1, 0);
                               close(fd);
                               text[0] == '+';
                           }),
                           PATIENCE_MS));
}

/* ---------------------------------------------------------------- random hostility */

static uint64_t random_next(uint64_t *s)
{
    uint64_t z = *s += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Mostly right requests with bytes changed, cut out, doubled, or made up. */
static size_t mangle(uint64_t *seed, char *buffer, size_t capacity)
{
    static const char *const pieces[] = {
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n",
        "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        "GET k\r\n",
        "INCR n\r\n",
        "MGET a b c k\r\n",
        "*1\r\n",
        "$5\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "\r\n",
        "\"",
        "SET k 'a\\x00b'\r\n",
        "*1048576\r\n",
        "$1048576\r\n",
        "INFO\r\n",
        "HELLO 2\r\n",
        "CONFIG GET *\r\n",
        "EXPIRE k 100\r\n",
        "DEL k n\r\n",
        "CLIENT LIST\r\n",
        "COMMAND\r\n",
        "MSET a 1 b 2\r\n",
    };
    size_t size = 0;
    int count = 1 + (int)(random_next(seed) % 12);
    for (int i = 0; i < count; i++) {
        const char *piece = pieces[random_next(seed) % (sizeof pieces / sizeof pieces[0])];
        size_t length = strlen(piece), cut = random_next(seed) % 8 == 0 ? random_next(seed) % (length + 1) : length;
        if (size + cut > capacity)
            break;
        memcpy(buffer + size, piece, cut);
        size += cut;
    }
    for (uint64_t changes = random_next(seed) % 4; changes > 0 && size > 0; changes--)
        buffer[random_next(seed) % size] = (char)random_next(seed);
    return size;
}

static void test_J_random_streams_never_hurt_it(void **state)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    int rounds = 500;
#else
    int rounds = 3000;
#endif
    uint64_t seed = test_seed();
    (void)state;
    for (int i = 0; i < rounds; i++) {
        char buffer[1024], ignored[4096];
        int fd = client(), how = (int)(random_next(&seed) % 4);
        send_some(fd, buffer, mangle(&seed, buffer, sizeof buffer));
        if (how == 0)
            shutdown(fd, SHUT_WR);
        if (how == 1)
            (void)!recv(fd, ignored, sizeof ignored, MSG_DONTWAIT);
        close(fd);
        if (i % 100 == 99)
            assert_answers();
    }
    assert_int_equal(waitpid(server_pid, NULL, WNOHANG), 0);
    assert_answers();
}

/* ---------------------------------------------------------------- the program */

static int run(const char *const *arguments)
{
    int output, status;
    pid_t pid = spawn(arguments, &output);
    status = ended(pid);
    close(output);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What Redis lists its connections as: --name, unless an option says otherwise. */
static void test_its_connections_have_its_name(void **state)
{
    static const struct {
        const char *option, *text, *wanted;
    } rows[] = {{"--threads", "1", " name=resp-server-data "},
                {"--name", "shop-3", " name=shop-3-data "},
                {"--option", "client_name=other", " name=other-data "}};
    struct redis_server *server = redis_server_start(NULL);
    (void)state;
    if (!server)
        skip();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *const arguments[] = {"--port",       "0",          "--redis", redis_server_uri_unix(server),
                                         rows[i].option, rows[i].text, NULL};
        int output;
        pid_t pid = spawn(arguments, &output);
        assert_true(wait_for_port(output) > 0);
        assert_true(wait_until(strstr(redis_server_command(server, "CLIENT", "LIST", NULL), rows[i].wanted) != NULL,
                               PATIENCE_MS));
        kill(pid, SIGTERM);
        assert_int_equal(ended(pid), 0);
    }
    redis_server_free(server);
}

/* What a URI says overrides --bound. */
static void test_the_bound_of_the_uri_is_told(void **state)
{
    static const char *const arguments[] = {
        "--port", "0", "--bound", "900", "--redis", "memory://bound?timeout_ms=5s&bound_ms=700ms", NULL};
    static const char wanted[] = "*2\r\n$8\r\nbound_ms\r\n$3\r\n700\r\n";
    int output, port = server_port;
    char text[sizeof wanted] = "";
    pid_t pid = spawn(arguments, &output);
    (void)state;
    server_port = wait_for_port(output);
    assert_true(server_port > 0);
    int fd = client();
    send_text(fd, "CONFIG GET bound_ms\r\n");
    assert_int_equal(recv(fd, text, sizeof wanted - 1, MSG_WAITALL), sizeof wanted - 1);
    assert_string_equal(text, wanted);
    close(fd);
    kill(pid, SIGTERM);
    assert_int_equal(ended(pid), 0);
    server_port = port;
}

static void test_bad_arguments_are_refused_with_status_2(void **state)
{
    static const char *const lines[][3] = {
        {"--nonsense", NULL}, {"--port", "65536"},    {"--port", "x"},   {"--threads", "0"},        {"--bound", "soon"},
        {"surplus", NULL},    {"--local-bytes", "1"}, {"--option", "x"}, {"--option", "no_such=1"}, {"--max-bulk", "0"},
        {"--max-bulk", "-1"}, {"--redis", "ftp://x"}, {"--name", "a b"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (run(lines[i]) != 2)
            fail_msg("%s %s: not refused with status 2", lines[i][0], lines[i][1] ? lines[i][1] : "");
    assert_int_equal(run((const char *const[]){"--help", NULL}), 0);
    assert_int_equal(run((const char *const[]){"--option", "help", NULL}), 0);
}

static void test_H_it_serves_without_redis_and_ends_on_a_signal(void **state)
{
    static const char *const arguments[] = {"--port",   "0",           "--redis", "redis://127.0.0.1:1",
                                            "--option", "log_level=0", NULL};
    int output, fd, port = server_port;
    char text[256] = "";
    pid_t pid = spawn(arguments, &output);
    (void)state;
    server_port = wait_for_port(output);
    assert_true(server_port > 0);
    assert_answers();
    fd = client();
    send_text(fd, "GET a\r\n");
    assert_true(recv(fd, text, sizeof text - 1, 0) > 0);
    assert_memory_equal(text, "-ERR ", 5);
    kill(pid, SIGINT); /* with a client connected */
    assert_int_equal(ended(pid), 0);
    close(fd);
    server_port = port;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_command_answers_as_redis_does),
        cmocka_unit_test(test_a_pipeline_of_everything_is_answered_in_order),
        cmocka_unit_test(test_requests_may_come_in_pieces_cut_anywhere),
        cmocka_unit_test(test_a_pipeline_of_reads_is_answered_in_order),
        cmocka_unit_test(test_C_a_pipeline_sees_its_own_writes_in_order),
        cmocka_unit_test(test_a_pipeline_of_many_writes_is_answered_in_order),
        cmocka_unit_test(test_writes_of_a_pipeline_run_together),
        cmocka_unit_test(test_a_half_closed_client_gets_its_answers),
        cmocka_unit_test(test_an_inline_request_behind_large_reads_stays_what_it_is),
        cmocka_unit_test(test_info_tells_about_the_cache),
        cmocka_unit_test(test_info_tells_hot_keys),
        cmocka_unit_test(test_J_nonsense_is_answered_with_an_error_and_the_end),
        cmocka_unit_test(test_J_harmless_oddities_are_passed_over),
        cmocka_unit_test(test_J_an_endless_line_ends_the_connection),
        cmocka_unit_test(test_J_unknown_commands_cannot_forge_replies),
        cmocka_unit_test(test_J_a_promised_argument_takes_no_memory),
        cmocka_unit_test(test_J_a_client_that_never_reads_is_held_back),
        cmocka_unit_test(test_J_a_reply_beyond_the_limit_ends_the_connection),
        cmocka_unit_test(test_J_too_many_clients_are_refused_politely),
        cmocka_unit_test(test_J_random_streams_never_hurt_it),
        cmocka_unit_test(test_its_connections_have_its_name),
        cmocka_unit_test(test_the_bound_of_the_uri_is_told),
        cmocka_unit_test(test_bad_arguments_are_refused_with_status_2),
        cmocka_unit_test(test_H_it_serves_without_redis_and_ends_on_a_signal),
    };
    return cmocka_run_group_tests(tests, start_server, stop_server);
}
