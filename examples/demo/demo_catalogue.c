/* SPDX-License-Identifier: BSD-3-Clause */
#include "demo_catalogue.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demo_board.h"

#define DPKG_STATUS "/var/lib/dpkg/status"
#define DPKG_INFO "/var/lib/dpkg/info"
enum { FEWEST = 2000, TEXT_MAX = 1 << 30 };

static uint32_t add_text(struct catalogue *c, const char *text, size_t size)
{
    uint32_t offset = (uint32_t)c->text_size;
    size_t capacity = c->text_capacity ? c->text_capacity : 1 << 20;
    while (c->text_size + size > capacity)
        capacity *= 2;
    if (capacity != c->text_capacity) {
        char *bigger = capacity > TEXT_MAX ? NULL : realloc(c->text, capacity);
        if (!bigger) {
            c->failed = 1;
            return 0;
        }
        c->text = bigger;
        c->text_capacity = capacity;
    }
    memcpy(c->text + offset, text, size);
    c->text_size += size;
    return offset;
}

static void add(struct catalogue *c, const char *key, size_t key_size, const char *body, size_t body_size)
{
    if (c->count == c->capacity) {
        uint32_t capacity = c->capacity ? c->capacity * 2 : 4096;
        struct catalogue_entry *entries = realloc(c->entries, capacity * sizeof *entries);
        if (!entries) {
            c->failed = 1;
            return;
        }
        c->entries = entries;
        c->capacity = capacity;
    }
    c->entries[c->count] = (struct catalogue_entry){
        .key_offset = add_text(c, key, key_size),
        .key_size = (uint32_t)key_size,
        .body_offset = add_text(c, body, body_size),
        .body_size = (uint32_t)body_size,
    };
    c->count++;
}

/* A paragraph of dpkg's status file is a record: "package:NAME" and the paragraph. */
static void add_paragraph(struct catalogue *c, const char *paragraph, size_t size)
{
    char key[256];
    const char *name = paragraph + strlen("Package: "), *end = memchr(paragraph, '\n', size);
    int length;
    if (size <= strlen("Package: ") || strncmp(paragraph, "Package: ", strlen("Package: ")) != 0 || !end)
        return;
    length = snprintf(key, sizeof key, "package:%.*s", (int)(end - name), name);
    if (length > 0 && (size_t)length < sizeof key) {
        add(c, key, (size_t)length, paragraph, size);
        c->packages++;
    }
}

static void add_packages(struct catalogue *c, uint32_t wanted)
{
    FILE *file = fopen(DPKG_STATUS, "re");
    char *line = NULL, *paragraph = NULL;
    size_t capacity = 0, size = 0, room = 0;
    ssize_t length;
    if (!file)
        return;
    while (c->count < wanted && !c->failed && (length = getline(&line, &capacity, file)) > 0) {
        if (length == 1) { /* an empty line ends a paragraph */
            add_paragraph(c, paragraph ? paragraph : "", size);
            size = 0;
            continue;
        }
        if (size + (size_t)length > room) {
            char *bigger = realloc(paragraph, room = 2 * (size + (size_t)length));
            if (!bigger) {
                c->failed = 1;
                break;
            }
            paragraph = bigger;
        }
        memcpy(paragraph + size, line, (size_t)length);
        size += (size_t)length;
    }
    free(line);
    free(paragraph);
    fclose(file);
}

/* A line of a package's list of files is a record: "file:/PATH", and the package and checksum of the file. */
static void add_files_of(struct catalogue *c, const char *list, uint32_t wanted)
{
    char path[512], key[1024], body[1024], *line = NULL;
    size_t capacity = 0;
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", DPKG_INFO, list);
    if (!(file = fopen(path, "re")))
        return;
    while (c->count < wanted && !c->failed && getline(&line, &capacity, file) > 0) {
        int package = (int)(strlen(list) - strlen(".md5sums")), key_size, body_size;
        line[strcspn(line, "\n")] = 0;
        if (strlen(line) < 35)
            continue;
        key_size = snprintf(key, sizeof key, "file:/%s", line + 34);
        body_size =
            snprintf(body, sizeof body, "Path: /%s\nPackage: %.*s\nMD5: %.32s\n", line + 34, package, list, line);
        if ((size_t)key_size < sizeof key && (size_t)body_size < sizeof body) {
            add(c, key, (size_t)key_size, body, (size_t)body_size);
            c->files++;
        }
    }
    free(line);
    fclose(file);
}

static int is_list(const struct dirent *entry)
{
    const char *name = entry->d_name;
    size_t size = strlen(name), suffix = strlen(".md5sums");
    return size > suffix && strcmp(name + size - suffix, ".md5sums") == 0 && size < 256;
}

static void add_files(struct catalogue *c, uint32_t wanted)
{
    struct dirent **lists;
    int count = scandir(DPKG_INFO, &lists, is_list, alphasort);
    for (int i = 0; i < count; i++) {
        add_files_of(c, lists[i]->d_name, wanted);
        free(lists[i]);
    }
    if (count >= 0)
        free(lists);
}

static void add_generated(struct catalogue *c, uint32_t wanted, uint64_t seed)
{
    static const char *const words[] = {"amber", "birch", "copper", "delta", "ember", "fjord", "glass", "harbour"};
    struct board_random random;
    random_seed(&random, seed);
    while (c->count < wanted && !c->failed) {
        char key[64], body[1024];
        int key_size = snprintf(key, sizeof key, "item:%" PRIu32, c->generated++), body_size = 0;
        int lines = 2 + (int)random_below(&random, 12);
        for (int i = 0; i < lines; i++)
            body_size +=
                snprintf(body + body_size, sizeof body - (size_t)body_size, "Field-%d: %s %s %016" PRIx64 "\n", i,
                         words[random_below(&random, 8)], words[random_below(&random, 8)], random_next(&random));
        add(c, key, (size_t)key_size, body, (size_t)body_size);
    }
}

static const char *sorted_text; /* qsort takes no closure, and this program collects once, in one thread */

static int compare_keys(const void *a, const void *b)
{
    const struct catalogue_entry *x = a, *y = b;
    uint32_t size = x->key_size < y->key_size ? x->key_size : y->key_size;
    int order = memcmp(sorted_text + x->key_offset, sorted_text + y->key_offset, size);
    return order ? order : (x->key_size > y->key_size) - (x->key_size < y->key_size);
}

/* A package of two architectures stands twice in the lists; a key must be there once only. */
static void drop_duplicates(struct catalogue *c)
{
    uint32_t kept = 0;
    sorted_text = c->text;
    qsort(c->entries, c->count, sizeof *c->entries, compare_keys);
    for (uint32_t i = 0; i < c->count; i++)
        if (kept == 0 || compare_keys(&c->entries[kept - 1], &c->entries[i]) != 0)
            c->entries[kept++] = c->entries[i];
    c->count = kept;
}

/* The order becomes the order of popularity. */
static void shuffle(struct catalogue *c, uint64_t seed)
{
    struct board_random random;
    random_seed(&random, seed ^ UINT64_C(0x5eed));
    for (uint32_t i = c->count; i > 1; i--) {
        uint32_t other = random_below(&random, i);
        struct catalogue_entry entry = c->entries[i - 1];
        c->entries[i - 1] = c->entries[other];
        c->entries[other] = entry;
    }
}

int catalogue_collect(struct catalogue *c, uint32_t wanted, uint64_t seed)
{
    *c = (struct catalogue){0};
    add_packages(c, wanted);
    if (c->packages > 0)
        add_files(c, wanted);
    add_generated(c, wanted < FEWEST ? wanted : FEWEST, seed); /* nothing, where there are enough real ones */
    if (c->failed)
        return -1;
    drop_duplicates(c);
    shuffle(c, seed);
    return 0;
}

void catalogue_fini(struct catalogue *c)
{
    free(c->text);
    free(c->entries);
    *c = (struct catalogue){0};
}
