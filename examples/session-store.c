/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sessions of a web application: made with a time to live and only if the identifier is new, read on every request,
 * prolonged when half of their time is over (so that not every read is a write), changed with compare-and-set, ended
 * everywhere by a logout. */
#include <nearcache.h>

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loading/figures.h"

static const char *const usage =
    "usage: session-store [options] [URI]\n"
    "Keeps sessions and plays requests of their users on two servers.\n"
    "Default URI: $REDIS_URL, or memory://session-store.\n"
    "  --sessions N    (1 to 1000000; 1000)\n"
    "  --requests N    (1 to 100000000; 100000)\n"
    "  --ttl-ms N      how long a session lives without a request (100 to 86400000; 1800000)\n"
    "  --seed N        of the requests (0 to 4294967295; 1)\n"
    "  --json          one closing line of figures\n"
    "  --help          this text\n";

static struct {
    unsigned sessions, requests, ttl_ms, seed;
    const char *uri;
    int json;
    near_cache *servers[2];
    unsigned *clicks; /* of each session, as its user counts */
    uint64_t local, prolonged, retried, ended, wrong, errors;
} our = {.sessions = 1000, .requests = 100000, .ttl_ms = 1800000, .seed = 1};

static unsigned draw(unsigned below)
{
    static uint64_t state;
    state = (state ? state : our.seed * UINT64_C(2654435761) + 88172645463325252u);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state % below);
}

static size_t name_of(unsigned session, char key[32])
{
    return (size_t)snprintf(key, 32, "session:%08x", session * 2654435761u);
}

static void begin(near_cache *server, unsigned session)
{
    char key[32];
    near_write write;
    near_write_init(&write);
    write.flags = NEAR_SET_IF_ABSENT; /* nobody takes over a session by guessing a new identifier that exists */
    write.ttl_ms = our.ttl_ms;
    int status = near_set(server, key, name_of(session, key), "clicks=0", 8, &write, NULL);
    our.errors += status != NEAR_OK;
    our.clicks[session] = 0;
}

/* Adds a click to the session unless somebody else changed it meanwhile: then once more. */
static void click(near_cache *server, unsigned session)
{
    char key[32], before[64], after[64];
    size_t key_size = name_of(session, key), size;
    near_write keep;
    near_write_init(&keep);
    keep.flags = NEAR_SET_KEEP_TTL;
    for (;;) {
        near_call fresh; /* what is compared should be the newest */
        near_call_init(&fresh);
        fresh.flags = NEAR_BYPASS_LOCAL;
        int status = near_get_copy(server, key, key_size, &fresh, before, sizeof(before) - 1, &size);
        if (status == NEAR_OK) {
            before[size] = 0;
            int length = snprintf(after, sizeof(after), "clicks=%lu", strtoul(before + 7, NULL, 10) + 1);
            status = near_cas(server, key, key_size, before, size, after, (size_t)length, &keep, NULL);
        }
        if (status == NEAR_UNMET) {
            our.retried++;
            continue;
        }
        our.errors += status != NEAR_OK;
        our.clicks[session] += status == NEAR_OK;
        return;
    }
}

static void look(near_cache *server, unsigned session)
{
    char key[32];
    near_value value;
    size_t key_size = name_of(session, key);
    int status = near_get(server, key, key_size, NULL, &value);
    if (status != NEAR_OK) {
        our.errors++;
        return;
    }
    our.local += value.source == NEAR_FROM_LOCAL;
    our.wrong += value.size < 8 || memcmp(value.data, "clicks=", 7) != 0;
    int64_t left_ms = value.ttl_ms;
    near_release(&value);
    if (left_ms >= 0 && left_ms < our.ttl_ms / 2) {
        our.errors += near_expire(server, key, key_size, our.ttl_ms, NULL) != NEAR_OK;
        our.prolonged++;
    }
}

/* After a logout on one server the session is gone for both, there at the latest after the staleness bound; here, and
 * for whoever asks the remote tier, at once. */
static void leave(near_cache *server, near_cache *other, unsigned session)
{
    char key[32];
    near_value value;
    near_call fresh;
    near_call_init(&fresh);
    fresh.flags = NEAR_BYPASS_LOCAL;
    size_t key_size = name_of(session, key);
    our.errors += near_del(server, key, key_size, NULL) != NEAR_OK;
    our.wrong += near_get(server, key, key_size, NULL, &value) != NEAR_MISS;
    near_release(&value);
    our.wrong += near_get(other, key, key_size, &fresh, &value) != NEAR_MISS;
    near_release(&value);
    our.ended++;
    begin(other, session);
}

static int parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"sessions", 1, NULL, 's'}, {"requests", 1, NULL, 'r'}, {"ttl-ms", 1, NULL, 't'}, {"seed", 1, NULL, 'e'},
        {"json", 0, NULL, 'j'},     {"help", 0, NULL, 'h'},     {NULL, 0, NULL, 0}};
    int wrong = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 's':
            wrong |= figures_number(optarg, 1, 1000000, &our.sessions);
            break;
        case 'r':
            wrong |= figures_number(optarg, 1, 100000000, &our.requests);
            break;
        case 't':
            wrong |= figures_number(optarg, 100, 86400000, &our.ttl_ms);
            break;
        case 'e':
            wrong |= figures_number(optarg, 0, 4294967295u, &our.seed);
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
    our.uri = optind < argc ? argv[optind] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://session-store";
    return wrong || argc - optind > 1 ? -1 : 0;
}

static void play(void)
{
    for (unsigned i = 0; i < our.requests; i++) {
        /* users stick to a server, mostly */
        unsigned session = draw(our.sessions), kind = draw(1000), at = session % 2;
        near_cache *server = our.servers[at];
        if (kind < 900)
            look(server, session);
        else if (kind < 995)
            click(kind % 10 ? server : our.servers[!at], session);
        else
            leave(server, our.servers[!at], session);
    }
}

/* Every session has as many clicks as its user made. */
static void check(void)
{
    char key[32], text[64];
    size_t size;
    near_call fresh;
    near_call_init(&fresh);
    fresh.flags = NEAR_BYPASS_LOCAL;
    for (unsigned i = 0; i < our.sessions; i++) {
        int status = near_get_copy(our.servers[0], key, name_of(i, key), &fresh, text, sizeof(text) - 1, &size);
        text[status == NEAR_OK ? size : 0] = 0;
        our.wrong += status != NEAR_OK || strtoul(text + 7, NULL, 10) != our.clicks[i];
        near_del(our.servers[0], key, name_of(i, key), NULL);
    }
}

int main(int argc, char **argv)
{
    near_error error = {0};
    if (parse(argc, argv) != 0)
        return fputs(usage, stderr), 2;
    our.clicks = calloc(our.sessions, sizeof(*our.clicks));
    for (int i = 0; i < 2; i++)
        if (!our.clicks || figures_shared(our.uri, &error) != NEAR_OK ||
            near_open(our.uri, NULL, &our.servers[i], &error) != NEAR_OK ||
            figures_serves(our.servers[i], &error) != NEAR_OK)
            return fprintf(stderr, "session-store: %s\n", error.text), 1;
    for (unsigned i = 0; i < our.sessions; i++)
        begin(our.servers[i % 2], i);
    play();
    check();
    printf("%u sessions, %u requests: %llu reads from this process's memory, %llu prolonged, %llu ended; wrong: %llu\n",
           our.sessions, our.requests, (unsigned long long)our.local, (unsigned long long)our.prolonged,
           (unsigned long long)our.ended, (unsigned long long)our.wrong);
    if (our.json)
        printf("{\"example\":\"session-store\",\"sessions\":%u,\"requests\":%u,\"local\":%llu,\"prolonged\":%llu,"
               "\"ended\":%llu,"
               "\"retried\":%llu,\"wrong\":%llu,\"errors\":%llu}\n",
               our.sessions, our.requests, (unsigned long long)our.local, (unsigned long long)our.prolonged,
               (unsigned long long)our.ended, (unsigned long long)our.retried, (unsigned long long)our.wrong,
               (unsigned long long)our.errors);
    int open = near_close(our.servers[0]) != NEAR_OK;
    free(our.clicks);
    return near_close(our.servers[1]) != NEAR_OK || open || our.errors || our.wrong;
}
