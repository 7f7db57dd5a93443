/* SPDX-License-Identifier: BSD-3-Clause
 * Redis, the servers in front of it, and the records in it. */
#include "demo.h"

#include <errno.h>
#include <nearcache.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "demo_wire.h"

enum { LOAD_BATCH = 256, SERVER_START_MS = 30000 };

/* ---------------------------------------------------------------- programs */

static int find_in_path(const char *name, char *path, size_t capacity)
{
    const char *from = getenv("PATH");
    if (strchr(name, '/')) {
        snprintf(path, capacity, "%s", name);
        return access(path, X_OK);
    }
    while (from && *from) {
        size_t size = strcspn(from, ":");
        snprintf(path, capacity, "%.*s/%s", (int)size, from, name);
        if (size > 0 && access(path, X_OK) == 0)
            return 0;
        from += size + (from[size] == ':');
    }
    return -1;
}

int servers_find(struct demo *demo)
{
    const char *name = demo->options.redis_server ? demo->options.redis_server : "redis-server";
    char folder[4000];
    if (find_in_path(name, demo->redis_program, sizeof demo->redis_program) < 0) {
        fprintf(stderr, "nearcache-demo: %s is not installed (Debian: apt-get install redis-server)\n", name);
        return -1;
    }
    if (program_folder(folder, sizeof folder) < 0)
        return -1;
    snprintf(demo->server_program, sizeof demo->server_program, "%s/resp-server", folder);
    if (access(demo->server_program, X_OK) < 0) {
        fprintf(stderr, "nearcache-demo: %s is not there: %s\n", demo->server_program, strerror(errno));
        return -1;
    }
    return 0;
}

const char *demo_path(const struct demo *demo, char *path, size_t capacity, const char *name, int number)
{
    if (number < 0)
        snprintf(path, capacity, "%s/%s", demo->folder.base, name);
    else
        snprintf(path, capacity, "%s/%s-%d", demo->folder.base, name, number + 1);
    return path;
}

static void print_log(const struct demo *demo, const char *name, int number)
{
    char path[4200], line[512];
    FILE *file = fopen(demo_path(demo, path, sizeof path, name, number), "re");
    while (file && fgets(line, sizeof line, file))
        fprintf(stderr, "  | %s", line);
    if (file)
        fclose(file);
}

/* ---------------------------------------------------------------- Redis */

int redis_start(struct demo *demo)
{
    char socket[4200], log[4200], folder[4200];
    demo_path(demo, socket, sizeof socket, "redis.sock", -1);
    demo_path(demo, log, sizeof log, "redis.log", -1);
    snprintf(folder, sizeof folder, "%s", demo->folder.path);
    /* The append-only file without fsync: Redis hands every write to the kernel before it answers, so that killing
     * Redis loses nothing and every acknowledged write can be demanded back.  (A power failure would: that takes
     * "always".) */
    const char *const argv[] = {demo->redis_program,
                                "--port",
                                "0",
                                "--unixsocket",
                                socket,
                                "--dir",
                                folder,
                                "--appendonly",
                                "yes",
                                "--appendfsync",
                                "no",
                                "--save",
                                "",
                                "--daemonize",
                                "no",
                                "--always-show-logo",
                                "no",
                                NULL};
    demo->redis = process_start(argv, log, NULL);
    if (demo->redis > 0)
        return 0;
    fprintf(stderr, "nearcache-demo: cannot start %s: %s\n", demo->redis_program, strerror(errno));
    return -1;
}

int redis_wait(struct demo *demo, int timeout_ms)
{
    static const char *const ping[] = {"PING"};
    char socket[4200], text[64];
    int64_t deadline = board_now() + timeout_ms * INT64_C(1000000);
    demo_path(demo, socket, sizeof socket, "redis.sock", -1);
    while (board_now() < deadline && !demo_interrupted) {
        if (wire_ask(socket, 1000, text, sizeof text, 1, ping) == WIRE_SIMPLE)
            return 0;
        if (process_wait(demo->redis, 0) != -1) {
            demo->redis = -1;
            break;
        }
        demo_sleep_ms(10);
    }
    if (!demo_interrupted) {
        fprintf(stderr, "nearcache-demo: redis-server does not answer; it said:\n");
        print_log(demo, "redis.log", -1);
    }
    return -1;
}

void redis_end(struct demo *demo)
{
    if (demo->redis > 0)
        process_end(demo->redis, 5000);
    demo->redis = -1;
}

/* unix:// and the socket's path, percent-encoded where a URI needs it. */
static void redis_uri(const struct demo *demo, char *uri, size_t capacity)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";
    char path[4200];
    size_t size = (size_t)snprintf(uri, capacity, "unix://");
    demo_path(demo, path, sizeof path, "redis.sock", -1);
    for (const char *p = path; *p && size + 4 < capacity; p++)
        size += (size_t)snprintf(uri + size, capacity - size, strchr(plain, *p) ? "%c" : "%%%02X", (unsigned char)*p);
}

/* ---------------------------------------------------------------- records */

/* Writes records [first, first + count) in one round trip; version 1 of each. */
static int load_batch(struct demo *demo, near_cache *cache, uint32_t first, uint32_t count, char *values)
{
    struct board *board = demo->board;
    near_item items[LOAD_BATCH];
    near_call call;
    near_call_init(&call);
    call.flags = NEAR_NO_FILL;
    call.timeout_ms = 20000;
    for (uint32_t i = 0; i < count; i++) {
        const struct board_record *r = &board->records[first + i];
        items[i] = (near_item){.key = board_text(board, r->key_offset),
                               .key_size = r->key_size,
                               .data = values,
                               .size = value_size(board, first + i)};
        value_write(board, first + i, 1, values);
        values += items[i].size;
        if (r->watched >= 0)
            atomic_store(&board->watched[r->watched].sent, 1);
    }
    return near_mset(cache, items, count, NULL, &call);
}

static char *values_allocate(const struct board *board)
{
    size_t largest = 0;
    for (uint32_t i = 0; i < board->record_count; i++)
        if (value_size(board, i) > largest)
            largest = value_size(board, i);
    return malloc(LOAD_BATCH * largest);
}

static int load_all(struct demo *demo, near_cache *cache)
{
    struct board *board = demo->board;
    char *values = values_allocate(board);
    int status = values ? NEAR_OK : NEAR_ERR_NOMEM;
    for (uint32_t first = 0; first < board->record_count && status == NEAR_OK && !demo_interrupted;
         first += LOAD_BATCH) {
        uint32_t count = board->record_count - first < LOAD_BATCH ? board->record_count - first : LOAD_BATCH;
        status = load_batch(demo, cache, first, count, values);
    }
    free(values);
    for (uint32_t i = 0; i < board->watched_count && status == NEAR_OK; i++)
        write_acked(board, i, 1, board_now());
    return status;
}

int records_load(struct demo *demo)
{
    char uri[8500];
    near_cache *cache;
    near_error error = {0};
    int status;
    redis_uri(demo, uri, sizeof uri);
    status = near_open(uri, NULL, &cache, &error);
    if (status == NEAR_OK && (status = near_wait_ready(cache, 10000, &error)) == NEAR_OK) {
        status = load_all(demo, cache);
        snprintf(error.text, sizeof error.text, "%s", near_status_text(status));
        near_close(cache);
    }
    if (status == NEAR_OK)
        return demo_interrupted ? -1 : 0;
    fprintf(stderr, "nearcache-demo: cannot load the records: %s (%s)\n", error.text, near_status_name(status));
    return -1;
}

/* ---------------------------------------------------------------- resp-servers */

static int wait_for_ready(struct demo *demo, uint32_t number, int pipe_end)
{
    char text[256] = "";
    size_t size = 0;
    int64_t deadline = board_now() + SERVER_START_MS * INT64_C(1000000);
    while (size < sizeof text - 1 && !strchr(text, '\n') && board_now() < deadline && !demo_interrupted) {
        struct pollfd p = {.fd = pipe_end, .events = POLLIN};
        ssize_t n = poll(&p, 1, 100) > 0 ? read(pipe_end, text + size, sizeof text - 1 - size) : -1;
        if (n == 0)
            break;
        size += n > 0 ? (size_t)n : 0;
        text[size] = 0;
    }
    close(pipe_end);
    if (strncmp(text, "ready ", 6) == 0)
        return 0;
    if (!demo_interrupted) {
        fprintf(stderr, "nearcache-demo: server %u does not start; it said: %s\n", number + 1, text);
        print_log(demo, "server.log", (int)number);
    }
    return -1;
}

static int server_start(struct demo *demo, uint32_t number)
{
    char socket[4200], log[4200], board[4200], load[4300], uri[8500], name[32], bound[16], timeout[32];
    int pipe_end;
    demo_path(demo, socket, sizeof socket, "server.sock", (int)number);
    demo_path(demo, log, sizeof log, "server.log", (int)number);
    snprintf(load, sizeof load, "%u:%s", number, demo_path(demo, board, sizeof board, "board", -1));
    redis_uri(demo, uri, sizeof uri);
    snprintf(name, sizeof name, "server-%u", number + 1);
    snprintf(bound, sizeof bound, "%d", demo->options.bound_ms);
    snprintf(timeout, sizeof timeout, "timeout_ms=%d", DEMO_TIMEOUT_MS);
    const char *const argv[] = {demo->server_program,
                                "--unixsocket",
                                socket,
                                "--redis",
                                uri,
                                "--threads",
                                "2",
                                "--local-bytes",
                                demo->options.local_bytes,
                                "--bound",
                                bound,
                                "--name",
                                name,
                                "--option",
                                timeout,
                                "--demo-load",
                                load,
                                NULL};
    demo->servers[number] = process_start(argv, log, &pipe_end);
    if (demo->servers[number] <= 0) {
        fprintf(stderr, "nearcache-demo: cannot start %s: %s\n", demo->server_program, strerror(errno));
        return -1;
    }
    return wait_for_ready(demo, number, pipe_end);
}

int servers_start(struct demo *demo)
{
    for (uint32_t i = 0; i < demo->board->processes; i++)
        if (server_start(demo, i) < 0)
            return -1;
    return 0;
}

void servers_end(struct demo *demo)
{
    for (int i = 0; i < BOARD_PROCESSES; i++) {
        int status;
        if (demo->servers[i] <= 0)
            continue;
        status = process_end(demo->servers[i], 30000);
        demo->servers[i] = -1;
        if (status == 0) {
            if (demo->options.verbose)
                print_log(demo, "server.log", i);
            continue;
        }
        if (status == -1)
            fprintf(stderr, "nearcache-demo: server %d did not end; it said:\n", i + 1);
        else
            fprintf(stderr, "nearcache-demo: server %d ended with %s %d; it said:\n", i + 1,
                    WIFSIGNALED(status) ? "signal" : "status",
                    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        print_log(demo, "server.log", i);
        board_violation(demo->board, VIOLATION_RECOVERY, (uint32_t)i, -1, 0, 0, 0);
    }
}
