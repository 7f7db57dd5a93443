/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A catalogue over HTTP: this machine's Debian packages, in SQLite, behind nearcache.
 *
 *     GET  /package/NAME           one package           read through; tagged with its section
 *     PUT  /package/NAME           its description       the database first, then the cache forgets it
 *     GET  /section/NAME           a section's packages  read through; tagged with the section
 *     POST /section/NAME           marks all of them     one update of the database, one invalidation of the tag
 *     GET  /metrics                OpenMetrics */
#include <nearcache.h>

#include <getopt.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loading/figures.h"

enum { ANSWER_MAX = 1 << 18, BODY_MAX = 4096, NAME_MAX_SIZE = 128 };
enum { TOO_LARGE = 413 }; /* libmicrohttpd's name for it is another one with each version */
static const char *const usage = "usage: catalogue-http [options] [URI]\n"
                                 "Serves the packages of this machine over HTTP, from a database through a cache.\n"
                                 "Default URI: $REDIS_URL, or memory://catalogue-http.\n"
                                 "  --port N         on 127.0.0.1 (0 to 65535; 0: any, printed)\n"
                                 "  --threads N      (1 to 64; 4)\n"
                                 "  --records PATH   the package records (/var/lib/dpkg/status)\n"
                                 "  --database PATH  where SQLite keeps them; default: in memory\n"
                                 "  --json           one closing line of figures, at SIGTERM or SIGINT\n"
                                 "  --help           this text\n";

static struct {
    unsigned port, threads;
    const char *uri, *records, *database;
    int json;
    near_cache *cache;
    sqlite3 *db; /* serialised by SQLite itself */
    _Atomic(uint64_t) requests, queries, errors;
    unsigned packages;
} our = {.threads = 4, .records = "/var/lib/dpkg/status", .database = ":memory:"};

/* ---------------------------------------------------------------- the database */

static sqlite3_stmt *query(const char *sql, const char *first, const char *second)
{
    sqlite3_stmt *statement = NULL;
    atomic_fetch_add(&our.queries, 1);
    if (sqlite3_prepare_v2(our.db, sql, -1, &statement, NULL) != SQLITE_OK)
        return NULL;
    if (first)
        sqlite3_bind_text(statement, 1, first, -1, SQLITE_TRANSIENT);
    if (second)
        sqlite3_bind_text(statement, 2, second, -1, SQLITE_TRANSIENT);
    return statement;
}

/* 1 changed something, 0 nothing, -1 failed.  How many rows there were is told of the connection's last change, so no
 * other thread's may come between: if that one changed nothing the cache would not be made to forget what we did. */
static int change(const char *sql, const char *first, const char *second)
{
    sqlite3_stmt *statement = query(sql, first, second);
    sqlite3_mutex_enter(sqlite3_db_mutex(our.db));
    int done = statement && sqlite3_step(statement) == SQLITE_DONE;
    int changed = sqlite3_changes(our.db) > 0;
    sqlite3_mutex_leave(sqlite3_db_mutex(our.db));
    sqlite3_finalize(statement);
    return done ? changed : -1;
}

static void field(const char *line, const char *name, char *ret, size_t size)
{
    size_t length = strlen(name);
    if (strncmp(line, name, length) == 0)
        snprintf(ret, size, "%.*s", (int)strcspn(line + length, "\n"), line + length);
}

static void keep(char package[][256])
{
    sqlite3_stmt *statement = query("INSERT OR REPLACE INTO package VALUES (?1, ?2, ?3, ?4)", package[0], package[1]);
    if (statement && package[0][0]) {
        sqlite3_bind_text(statement, 3, package[2], -1, SQLITE_TRANSIENT);
        sqlite3_bind_text(statement, 4, package[3], -1, SQLITE_TRANSIENT);
        our.packages += sqlite3_step(statement) == SQLITE_DONE;
    }
    sqlite3_finalize(statement);
    memset(package, 0, 4 * 256);
}

static int read_records(void)
{
    char line[4096], package[4][256] = {{0}};
    FILE *file = fopen(our.records, "r");
    if (!file)
        return -1;
    sqlite3_exec(our.db, "BEGIN", NULL, NULL, NULL);
    while (fgets(line, sizeof(line), file)) {
        field(line, "Package: ", package[0], 256);
        field(line, "Section: ", package[1], 256);
        field(line, "Version: ", package[2], 256);
        field(line, "Description: ", package[3], 256);
        if (line[0] == '\n')
            keep(package);
    }
    keep(package);
    sqlite3_exec(our.db, "COMMIT", NULL, NULL, NULL);
    fclose(file);
    return our.packages ? 0 : -1;
}

static int open_database(void)
{
    if (sqlite3_open(our.database, &our.db) != SQLITE_OK ||
        sqlite3_exec(
            our.db,
            "CREATE TABLE IF NOT EXISTS package (name TEXT PRIMARY KEY, section TEXT, version TEXT, description TEXT)",
            NULL, NULL, NULL) != SQLITE_OK)
        return fprintf(stderr, "catalogue-http: %s\n", sqlite3_errmsg(our.db)), -1;
    if (read_records() != 0)
        return fprintf(stderr, "catalogue-http: no package records in %s\n", our.records), -1;
    return 0;
}

/* ---------------------------------------------------------------- loaders */

/* "kind/name" with its name apart. */
static void name_of(const near_load_request *request, char name[NAME_MAX_SIZE])
{
    const char *slash = memchr(request->key, '/', request->key_size);
    size_t at = slash ? (size_t)(slash + 1 - (const char *)request->key) : 0;
    snprintf(name, NAME_MAX_SIZE, "%.*s", (int)(request->key_size - at), (const char *)request->key + at);
}

static int load_package(void *arg, const near_load_request *request, near_loaded *loaded)
{
    char name[NAME_MAX_SIZE], *text = NULL;
    (void)arg;
    name_of(request, name);
    sqlite3_stmt *s = query("SELECT section, version, description FROM package WHERE name=?1", name, NULL);
    int step = s ? sqlite3_step(s) : SQLITE_ERROR;
    if (step == SQLITE_ROW) {
        const char *section = (const char *)sqlite3_column_text(s, 0);
        text = sqlite3_mprintf("Package: %s\nSection: %s\nVersion: %s\nDescription: %s\n", name, section,
                               sqlite3_column_text(s, 1), sqlite3_column_text(s, 2)); /* of any length */
        if (section && *section)
            near_loaded_tag(loaded, section, strlen(section)); /* known only now */
        if (text)
            near_loaded_value(loaded, text, strlen(text));
    }
    sqlite3_finalize(s);
    sqlite3_free(text);
    return text ? NEAR_OK : step == SQLITE_DONE ? NEAR_MISS : -1; /* a failure is not absence */
}

static int load_section(void *arg, const near_load_request *request, near_loaded *loaded)
{
    char name[NAME_MAX_SIZE], *text = malloc(ANSWER_MAX);
    size_t size = 0;
    int step = SQLITE_ERROR;
    (void)arg;
    name_of(request, name);
    sqlite3_stmt *s = query("SELECT name, version FROM package WHERE section=?1 ORDER BY name", name, NULL);
    while (text && s && (step = sqlite3_step(s)) == SQLITE_ROW && size < ANSWER_MAX - 600)
        size += (size_t)snprintf(text + size, ANSWER_MAX - size, "%s %s\n", (const char *)sqlite3_column_text(s, 0),
                                 (const char *)sqlite3_column_text(s, 1));
    sqlite3_finalize(s);
    if (size) {
        near_loaded_tag(loaded, name, strlen(name));
        near_loaded_value(loaded, text, size);
    }
    free(text);
    return size ? NEAR_OK : step == SQLITE_DONE ? NEAR_MISS : -1;
}

/* ---------------------------------------------------------------- requests */

/* What a client sends with PUT. */
struct body {
    size_t size;
    int too_long;
    char text[BODY_MAX + 1];
};

static enum MHD_Result answer(struct MHD_Connection *to, unsigned code, const void *text, size_t size)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(size, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", "text/plain; charset=utf-8");
    enum MHD_Result result = MHD_queue_response(to, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer_text(struct MHD_Connection *to, unsigned code, const char *text)
{
    return answer(to, code, text, strlen(text));
}

static enum MHD_Result give(struct MHD_Connection *to, const char *key, near_loader_fn loader)
{
    near_value value;
    near_load options;
    near_load_init(&options);
    options.flags = NEAR_LOAD_TAGS;
    options.ttl_ms = 600000;
    options.fail_ms = 3600000; /* an old description is better than none */
    options.absent_ms = 60000;
    int status = near_get_or_load(our.cache, key, strlen(key), loader, NULL, &options, &value);
    if (status == NEAR_MISS)
        return answer_text(to, MHD_HTTP_NOT_FOUND, "no such thing\n");
    if (status < 0) {
        atomic_fetch_add(&our.errors, 1);
        return answer_text(to, MHD_HTTP_SERVICE_UNAVAILABLE, near_status_text(status));
    }
    enum MHD_Result result = answer(to, MHD_HTTP_OK, value.data, value.size);
    near_release(&value);
    return result;
}

/* The database has it; now the cache must not have the old one. */
static enum MHD_Result changed(struct MHD_Connection *to, int done, int status)
{
    if (done == 0)
        return answer_text(to, MHD_HTTP_NOT_FOUND, "no such thing\n");
    if (done > 0 && status >= 0)
        return answer_text(to, MHD_HTTP_OK, "changed\n");
    atomic_fetch_add(&our.errors, 1);
    return answer_text(to, MHD_HTTP_SERVICE_UNAVAILABLE, done < 0 ? "the database failed\n" : near_status_text(status));
}

static enum MHD_Result put_package(struct MHD_Connection *to, const char *key, const char *name,
                                   const char *description)
{
    int done = change("UPDATE package SET description=?2 WHERE name=?1", name, description);
    return changed(to, done, done > 0 ? near_del(our.cache, key, strlen(key), NULL) : 0);
}

static enum MHD_Result post_section(struct MHD_Connection *to, const char *name)
{
    int done = change("UPDATE package SET description=description||' *' WHERE section=?1", name, NULL);
    return changed(to, done, done > 0 ? near_invalidate_tag(our.cache, name, strlen(name), NULL) : 0);
}

static enum MHD_Result give_metrics(struct MHD_Connection *to)
{
    static __thread char text[65536];
    near_stats stats = {.size = sizeof(stats)};
    near_stats_get(our.cache, &stats);
    size_t size = near_stats_render(&stats, NEAR_FORMAT_OPENMETRICS, "catalogue", text, sizeof(text));
    return answer(to, MHD_HTTP_OK, text, size < sizeof(text) ? size : sizeof(text) - 1);
}

static enum MHD_Result route(struct MHD_Connection *to, const char *path, const char *method, const struct body *body)
{
    int get = strcmp(method, "GET") == 0;
    if (get && strcmp(path, "/metrics") == 0)
        return give_metrics(to);
    if (strlen(path) >= NAME_MAX_SIZE)
        return answer_text(to, MHD_HTTP_NOT_FOUND, "no such thing\n");
    if (body->too_long)
        return answer_text(to, TOO_LARGE, "a text of at most 4096 bytes\n");
    if (strncmp(path, "/package/", 9) == 0 && path[9])
        return get ? give(to, path + 1, load_package)
               : strcmp(method, "PUT") == 0 && body->size
                   ? put_package(to, path + 1, path + 9, body->text)
                   : answer_text(to, MHD_HTTP_METHOD_NOT_ALLOWED, "GET, or PUT with a text\n");
    if (strncmp(path, "/section/", 9) == 0 && path[9])
        return get                           ? give(to, path + 1, load_section)
               : strcmp(method, "POST") == 0 ? post_section(to, path + 9)
                                             : answer_text(to, MHD_HTTP_METHOD_NOT_ALLOWED, "GET or POST\n");
    return answer_text(to, MHD_HTTP_NOT_FOUND, "/package/NAME, /section/NAME or /metrics\n");
}

/* Called first without, then with the pieces of a body, then at its end. */
static enum MHD_Result handle(void *arg, struct MHD_Connection *to, const char *path, const char *method,
                              const char *version, const char *upload, size_t *upload_size, void **state)
{
    (void)arg;
    (void)version;
    struct body *body = *state;
    if (!body)
        return (*state = calloc(1, sizeof(*body))) ? MHD_YES : MHD_NO;
    if (*upload_size) {
        size_t room = BODY_MAX - body->size, size = *upload_size < room ? *upload_size : room;
        body->too_long |= *upload_size > room;
        memcpy(body->text + body->size, upload, size);
        body->size += size;
        *upload_size = 0;
        return MHD_YES;
    }
    atomic_fetch_add(&our.requests, 1);
    return route(to, path, method, body);
}

static void forget_body(void *arg, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode how)
{
    (void)arg;
    (void)connection;
    (void)how;
    free(*state);
}

/* ---------------------------------------------------------------- the program */

static int parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, NULL, 'p'}, {"threads", 1, NULL, 't'}, {"records", 1, NULL, 'r'}, {"database", 1, NULL, 'd'},
        {"json", 0, NULL, 'j'}, {"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};
    int wrong = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'p':
            wrong |= figures_number(optarg, 0, 65535, &our.port);
            break;
        case 't':
            wrong |= figures_number(optarg, 1, 64, &our.threads);
            break;
        case 'r':
            our.records = optarg;
            break;
        case 'd':
            our.database = optarg;
            break;
        case 'j':
            our.json = 1;
            break;
        case 'h':
            fputs(usage, stdout);
            exit(0);
        default:
            wrong = 1;
        }
    }
    our.uri = optind < argc ? argv[optind] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://catalogue-http";
    return wrong || argc - optind > 1 ? -1 : 0;
}

static void serve(struct MHD_Daemon *daemon, const sigset_t *ends)
{
    int got;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    printf("ready port=%u packages=%u\n", info ? info->port : our.port, our.packages);
    fflush(stdout);
    sigwait(ends, &got);
}

static void report(void)
{
    near_stats stats = {.size = sizeof(stats)};
    near_stats_get(our.cache, &stats);
    printf("%llu requests, %llu from this process's memory, %llu loads\n", (unsigned long long)our.requests,
           (unsigned long long)stats.local_hits, (unsigned long long)stats.loads);
    if (our.json)
        printf("{\"example\":\"catalogue-http\",\"packages\":%u,\"requests\":%llu,\"queries\":%llu,\"loads\":%llu,"
               "\"errors\":%llu}\n",
               our.packages, (unsigned long long)our.requests, (unsigned long long)our.queries,
               (unsigned long long)stats.loads, (unsigned long long)our.errors);
}

int main(int argc, char **argv)
{
    near_error error = {0};
    sigset_t ends;
    if (parse(argc, argv) != 0)
        return fputs(usage, stderr), 2;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL); /* and in every thread that is started from here on */
    if (open_database() != 0)
        return 1;
    if (near_open(our.uri, NULL, &our.cache, &error) != NEAR_OK)
        return fprintf(stderr, "catalogue-http: %s\n", error.text), 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)our.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct MHD_Daemon *daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, (uint16_t)our.port, NULL, NULL, handle, NULL,
                         MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_THREAD_POOL_SIZE, our.threads,
                         MHD_OPTION_NOTIFY_COMPLETED, forget_body, NULL, MHD_OPTION_END);
    if (!daemon)
        return fputs("catalogue-http: cannot listen\n", stderr), 1;
    serve(daemon, &ends);
    MHD_stop_daemon(daemon);
    report();
    int failed = near_close(our.cache) != NEAR_OK;
    sqlite3_close(our.db);
    return failed;
}
