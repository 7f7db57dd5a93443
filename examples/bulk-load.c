/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Pages that show many things each.  With --mode bulk one near_mget_or_load a page asks the source once for all that is
 * missing, as with "WHERE id IN (…)"; with --mode single it is asked for each by itself.  Some things do not exist,
 * some cannot be read at present: each item is told its own end, and the others are none the worse for it. */
#include <nearcache.h>

#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loading/figures.h"

enum { ITEMS_MAX = 500, ABSENT_OF = 20, BROKEN_OF = 50 };
static const char *const usage =
    "usage: bulk-load [options] [URI]\n"
    "Shows pages of many items each, from a source that takes its time for every query.\n"
    "Default URI: $REDIS_URL, or memory://bulk-load.\n"
    "  --mode MODE      bulk (one query for what is missing of a page) or single (one for each item) (bulk)\n"
    "  --pages N        (1 to 10000; 20)\n"
    "  --items N        of a page (1 to 500; 50)\n"
    "  --query-ms N     what every query takes, however many items it is for (0 to 10000; 20)\n"
    "  --json           one closing line of figures\n"
    "  --help           this text\n";

static struct {
    unsigned pages, items, query_ms;
    const char *uri, *mode;
    int json;
    near_cache *cache;
    near_load options;
    _Atomic(uint32_t) queries;
    uint64_t shown, absent, broken, wrong, errors;
    uint32_t *page_us;
} our = {.pages = 20, .items = 50, .query_ms = 20, .mode = "bulk"};

static unsigned number_of(const void *key, size_t key_size)
{
    char text[32];
    snprintf(text, sizeof(text), "%.*s", (int)key_size, (const char *)key);
    return (unsigned)strtoul(text + sizeof("item:") - 1, NULL, 10);
}

/* ---------------------------------------------------------------- the source */

/* One row of the answer; its end as a loader tells it. */
static int find_row(const near_load_request *request, near_loaded *loaded)
{
    char text[32];
    unsigned number = number_of(request->key, request->key_size);
    if (number % BROKEN_OF == 7)
        return -1; /* this one cannot be read: no absence, and nobody else's failure */
    if (number % ABSENT_OF == 3)
        return NEAR_MISS;
    return near_loaded_value(loaded, text, (size_t)snprintf(text, sizeof(text), "item %u", number));
}

static void take_time(void)
{
    atomic_fetch_add(&our.queries, 1);
    figures_sleep_ms(our.query_ms);
}

static int load_page(void *arg, const near_load_request *requests, near_loaded *const *loaded, size_t count)
{
    (void)arg;
    take_time();
    for (size_t i = 0; i < count; i++) {
        if (find_row(&requests[i], loaded[i]) < 0)
            near_loaded_answer(loaded[i], -1);
    }
    return NEAR_MISS; /* what the query did not return, the source does not have */
}

static int load_item(void *arg, const near_load_request *request, near_loaded *loaded)
{
    (void)arg;
    take_time();
    return find_row(request, loaded);
}

/* ---------------------------------------------------------------- pages */

static void judge(unsigned number, int status, const near_value *value)
{
    char text[32];
    int size = snprintf(text, sizeof(text), "item %u", number);
    int is_right = status == NEAR_OK && value->size == (size_t)size && memcmp(value->data, text, value->size) == 0;
    if (number % BROKEN_OF == 7)
        our.broken += status == NEAR_ERR_LOAD;
    else if (number % ABSENT_OF == 3)
        our.absent += status == NEAR_MISS;
    else
        our.shown += (uint64_t)is_right;
    our.wrong += status >= 0 && !is_right && status != NEAR_MISS;
    our.errors += status < 0 && number % BROKEN_OF != 7;
}

/* Half of a page is what the page before has shown, too. */
static unsigned number_on(unsigned page, unsigned place)
{
    return page * (our.items - our.items / 2) + place;
}

static void show_at_once(unsigned page)
{
    static near_item items[ITEMS_MAX];
    static char keys[ITEMS_MAX][32];
    memset(items, 0, sizeof(items));
    for (unsigned i = 0; i < our.items; i++) {
        items[i].key = keys[i];
        items[i].key_size = (size_t)snprintf(keys[i], sizeof(keys[i]), "item:%u", number_on(page, i));
    }
    near_mget_or_load(our.cache, items, our.items, load_page, NULL, &our.options);
    for (unsigned i = 0; i < our.items; i++) {
        judge(number_on(page, i), items[i].status, &items[i].value);
        near_release(&items[i].value);
    }
}

static void show_one_by_one(unsigned page)
{
    for (unsigned i = 0; i < our.items; i++) {
        char key[32];
        near_value value;
        int size = snprintf(key, sizeof(key), "item:%u", number_on(page, i));
        int status = near_get_or_load(our.cache, key, (size_t)size, load_item, NULL, &our.options, &value);
        judge(number_on(page, i), status, &value);
        near_release(&value);
    }
}

/* ---------------------------------------------------------------- the program */

static int parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"mode", 1, NULL, 'm'}, {"pages", 1, NULL, 'p'}, {"items", 1, NULL, 'i'}, {"query-ms", 1, NULL, 'q'},
        {"json", 0, NULL, 'j'}, {"help", 0, NULL, 'h'},  {NULL, 0, NULL, 0}};
    int wrong = 0;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'm':
            our.mode = optarg;
            break;
        case 'p':
            wrong |= figures_number(optarg, 1, 10000, &our.pages);
            break;
        case 'i':
            wrong |= figures_number(optarg, 1, ITEMS_MAX, &our.items);
            break;
        case 'q':
            wrong |= figures_number(optarg, 0, 10000, &our.query_ms);
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
    wrong |= strcmp(our.mode, "bulk") != 0 && strcmp(our.mode, "single") != 0;
    our.uri = optind < argc ? argv[optind] : getenv("REDIS_URL") ? getenv("REDIS_URL") : "memory://bulk-load";
    return wrong || argc - optind > 1 ? -1 : 0;
}

static void show_all(void)
{
    for (unsigned page = 0; page < our.pages; page++) {
        int64_t started_us = figures_now_us();
        if (strcmp(our.mode, "bulk") == 0)
            show_at_once(page);
        else
            show_one_by_one(page);
        our.page_us[page] = (uint32_t)(figures_now_us() - started_us);
    }
}

static void tell_figures(void)
{
    double half = figures_quantile_ms(our.page_us, our.pages, 500),
           most = figures_quantile_ms(our.page_us, our.pages, 990);
    printf("%s: %u pages of %u items: %u queries of %u ms; a page takes %.1f ms (half), %.1f ms (99 of 100)\n",
           our.mode, our.pages, our.items, our.queries, our.query_ms, half, most);
    printf("items shown: %llu, absent: %llu, not readable at present: %llu\n", (unsigned long long)our.shown,
           (unsigned long long)our.absent, (unsigned long long)our.broken);
    if (our.json)
        printf("{\"example\":\"bulk-load\",\"mode\":\"%s\",\"pages\":%u,\"items\":%u,\"queries\":%u,\"shown\":%llu,"
               "\"absent\":%llu,"
               "\"failed\":%llu,\"page_ms_p50\":%.1f,\"page_ms_p99\":%.1f,\"wrong\":%llu,\"errors\":%llu}\n",
               our.mode, our.pages, our.items, our.queries, (unsigned long long)our.shown,
               (unsigned long long)our.absent, (unsigned long long)our.broken, half, most,
               (unsigned long long)our.wrong, (unsigned long long)our.errors);
}

int main(int argc, char **argv)
{
    near_error error = {0};
    near_options options;
    if (parse(argc, argv) != 0)
        return fputs(usage, stderr), 2;
    near_options_init(&options);
    options.prefix = "bulk-load:"; /* what it leaves in a Redis ends by itself: see ttl_ms */
    near_load_init(&our.options);
    our.options.ttl_ms = 600000;
    our.options.absent_ms = 600000;
    our.options.timeout_ms = 60000;
    our.page_us = calloc(our.pages, sizeof(*our.page_us));
    if (!our.page_us)
        return perror("bulk-load"), 1;
    if (near_open(our.uri, &options, &our.cache, &error) != NEAR_OK || figures_serves(our.cache, &error) != NEAR_OK)
        return fprintf(stderr, "bulk-load: %s\n", error.text), 1;
    show_all();
    tell_figures();
    free(our.page_us);
    return near_close(our.cache) != NEAR_OK || our.wrong || our.errors;
}
