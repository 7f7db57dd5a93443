/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Versioned keys: the version of a whole group is a part of every key's name, "catalogue:v7:item:12".  One near_incr of
 * the version makes all of them unreachable, in every process, with one message; what they leave behind ends by its
 * time to live.  With --namespace the library keeps the version: near_namespace_key and near_namespace_invalidate. */
#include <nearcache.h>

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loading/figures.h"

static const char *const usage =
    "usage: versioned-keys [options] [URI]\n"
    "Reads a group of keys whose version is in their names, and makes all of them old at once.\n"
    "Default URI: $REDIS_URL, or memory://versioned-keys.\n"
    "  --keys N      (1 to 1000000; 10000)\n"
    "  --rounds N    how often everything changes (1 to 1000; 3)\n"
    "  --namespace   the version is the library's: a namespace\n"
    "  --json        one closing line of figures\n"
    "  --help        this text\n";

static struct {
    unsigned keys, rounds;
    const char *uri;
    int json, namespaced;
    near_cache *reader, *writer; /* two processes, as far as the cache goes */
    unsigned truth;              /* what the source has */
    uint64_t gets, loads, old, errors;
} our = {.keys = 10000, .rounds = 3};

static const char version_key[] = "catalogue:version";

static int load(void *arg, const near_load_request *request, near_loaded *loaded)
{
    char text[32];
    (void)arg;
    (void)request;
    our.loads++; /* loads run one after another here: there is one reader */
    return near_loaded_value(loaded, text, (size_t)snprintf(text, sizeof(text), "%u", our.truth));
}

/* A local hit as long as nobody has changed it. */
static int64_t version_of(near_cache *cache)
{
    char text[24] = "";
    size_t size;
    int status = near_get_copy(cache, version_key, sizeof(version_key) - 1, NULL, text, sizeof(text) - 1, &size);
    if (status != NEAR_OK && status != NEAR_MISS)
        our.errors++;
    return strtoll(text, NULL, 10);
}

/* Under which name an item is stored at present. */
static int name_of(near_cache *cache, unsigned i, char *name, size_t capacity)
{
    char item[32];
    size_t size = 0;
    if (!our.namespaced)
        return snprintf(name, capacity, "catalogue:v%lld:item:%u", (long long)version_of(cache), i);
    int item_size = snprintf(item, sizeof(item), "item:%u", i);
    our.errors +=
        near_namespace_key(cache, "catalogue", 9, item, (size_t)item_size, NULL, name, capacity, &size) != NEAR_OK;
    return (int)size;
}

/* One write, however many items there are. */
static int change(near_cache *cache)
{
    return our.namespaced ? near_namespace_invalidate(cache, "catalogue", 9, NULL)
                          : near_incr(cache, version_key, sizeof(version_key) - 1, 1, NULL, NULL);
}

static void read_item(unsigned i)
{
    char key[64], text[32] = "";
    near_value value;
    near_load options;
    near_load_init(&options);
    options.ttl_ms = 600000; /* the versions that nobody reads any more end */
    int size = name_of(our.reader, i, key, sizeof(key));
    int status = near_get_or_load(our.reader, key, (size_t)size, load, NULL, &options, &value);
    our.gets++;
    if (status == NEAR_OK)
        snprintf(text, sizeof(text), "%.*s", (int)value.size, (const char *)value.data);
    our.errors += status != NEAR_OK;
    our.old += strtoul(text, NULL, 10) != our.truth;
    near_release(&value);
}

static int parse(int argc, char **argv)
{
    static const struct option options[] = {{"keys", 1, NULL, 'k'},      {"rounds", 1, NULL, 'r'},
                                            {"namespace", 0, NULL, 'n'}, {"json", 0, NULL, 'j'},
                                            {"help", 0, NULL, 'h'},      {NULL, 0, NULL, 0}};
    int wrong = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'k':
            wrong |= figures_number(optarg, 1, 1000000, &our.keys);
            break;
        case 'r':
            wrong |= figures_number(optarg, 1, 1000, &our.rounds);
            break;
        case 'n':
            our.namespaced = 1;
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
    our.uri = optind < argc ? argv[optind] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://versioned-keys";
    return wrong || argc - optind > 1 ? -1 : 0;
}

static int open_both(void)
{
    near_error error = {0};
    if (figures_shared(our.uri, &error) == NEAR_OK && near_open(our.uri, NULL, &our.reader, &error) == NEAR_OK &&
        near_open(our.uri, NULL, &our.writer, &error) == NEAR_OK && figures_serves(our.reader, &error) == NEAR_OK)
        return 0;
    fprintf(stderr, "versioned-keys: %s\n", error.text);
    return -1;
}

int main(int argc, char **argv)
{
    int64_t change_us = 0;
    if (parse(argc, argv) != 0)
        return fputs(usage, stderr), 2;
    if (open_both() != 0)
        return 1;
    for (unsigned round = 0; round < our.rounds; round++) {
        char before[64], now[64];
        int size = name_of(our.reader, 0, before, sizeof(before));
        our.truth++; /* the source first, */
        int64_t started_us = figures_now_us();
        our.errors += change(our.writer) != NEAR_OK; /* then the version */
        change_us += figures_now_us() - started_us;
        while (!our.errors && name_of(our.reader, 0, now, sizeof(now)) == size &&
               memcmp(now, before, (size_t)size) == 0)
            figures_sleep_ms(1); /* at most the staleness bound: one message */
        for (unsigned i = 0; i < our.keys; i++)
            read_item(i);
        for (unsigned i = 0; i < our.keys; i++)
            read_item(i);
    }
    printf("%u keys changed %u times by one write each (%lld us): %llu gets, %llu loads, %llu old values\n", our.keys,
           our.rounds, (long long)(change_us / our.rounds), (unsigned long long)our.gets, (unsigned long long)our.loads,
           (unsigned long long)our.old);
    if (our.json)
        printf("{\"example\":\"versioned-keys\",\"namespace\":%s,\"keys\":%u,\"rounds\":%u,\"gets\":%llu,\"loads\":%"
               "llu,\"old\":%llu,"
               "\"change_us\":%lld,\"errors\":%llu}\n",
               our.namespaced ? "true" : "false", our.keys, our.rounds, (unsigned long long)our.gets,
               (unsigned long long)our.loads, (unsigned long long)our.old, (long long)(change_us / our.rounds),
               (unsigned long long)our.errors);
    int open = near_close(our.writer) != NEAR_OK;
    return near_close(our.reader) != NEAR_OK || open || our.errors || our.old;
}
