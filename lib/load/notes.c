/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Buckets of four under striped mutexes: notes are read after the local tier missed, where a mutex costs nothing that
 * shows.  A bucket has one mutex, whichever key asks: the stripe follows from the bucket, never from the key. */
#include "load/notes.h"

#include <pthread.h>
#include <string.h>

#include "base/hash.h"
#include "base/mutant.h"
#include "base/sha1.h"

#define WAYS 4u
#define STRIPES 16u
#define KEY_MAX 86u

struct note {
    uint64_t position;
    int64_t ends_ns;
    uint32_t generation;
    uint8_t what; /* an enum near__note */
    uint8_t unused;
    uint16_t key_size;
    unsigned char key[KEY_MAX + 2];
};
_Static_assert(sizeof(struct note) == 112, "what a note costs");

/* What a note knows its key by: the key itself, or the digest of a long one, which no other has by accident. */
struct name {
    size_t key_size;
    const void *bytes;
    size_t size;
    char digest[NEAR_SHA1_HEX];
};

struct near__notes {
    const struct near__alloc *alloc;
    size_t buckets;
    pthread_mutex_t mutex[STRIPES];
    struct note notes[];
};

int near__notes_create(const struct near__alloc *alloc, struct near__local *local, size_t bytes,
                       struct near__notes **ret)
{
    size_t buckets = bytes / (WAYS * sizeof(struct note));
    if (buckets == 0)
        buckets = 1;
    size_t size = sizeof(struct near__notes) + buckets * WAYS * sizeof(struct note);
    struct near__notes *notes = near__alloc_zero(alloc, size);
    if (!notes)
        return NEAR_ERR_NOMEM;
    notes->alloc = alloc;
    notes->buckets = buckets;
    for (unsigned i = 0; i < STRIPES; i++)
        pthread_mutex_init(&notes->mutex[i], NULL);
    near__local_charge(local, (int64_t)near__alloc_cost(alloc, notes, size));
    *ret = notes;
    return NEAR_OK;
}

void near__notes_destroy(struct near__notes *notes)
{
    if (!notes)
        return;
    for (unsigned i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&notes->mutex[i]);
    near__free(notes->alloc, notes);
}

/* The key's bucket, its mutex locked: give it back by unlocking *mutex. */
static struct note *bucket_locked(struct near__notes *notes, const void *key, size_t key_size, pthread_mutex_t **mutex)
{
    uint64_t hash = near__hash(key, key_size, 3);
    size_t bucket = (size_t)(((hash >> 32) * notes->buckets) >> 32);
    *mutex = &notes->mutex[(NEAR_MUTANT(NOTES_STRIPED_BY_KEY) ? hash : bucket) % STRIPES];
    pthread_mutex_lock(*mutex);
    return &notes->notes[bucket * WAYS];
}

static void name_key(struct name *name, const void *key, size_t key_size)
{
    name->key_size = name->size = key_size;
    name->bytes = key;
    if (key_size <= KEY_MAX)
        return;
    near__sha1_hex(key, key_size, name->digest);
    name->bytes = name->digest;
    name->size = sizeof(name->digest);
}

static int is_about(const struct note *note, const struct name *name)
{
    return note->what != NEAR_NOTE_NONE && note->key_size == name->key_size &&
           (!name->size || memcmp(note->key, name->bytes, name->size) == 0);
}

/* The note of the key, or the one that ends first (an empty one has ended long ago). */
static struct note *place_for(struct note *bucket, const struct name *name)
{
    struct note *best = &bucket[0];
    for (unsigned i = 0; i < WAYS; i++) {
        if (is_about(&bucket[i], name))
            return &bucket[i];
        if (bucket[i].ends_ns < best->ends_ns)
            best = &bucket[i];
    }
    return best;
}

void near__notes_put(struct near__notes *notes, const void *key, size_t key_size, enum near__note what,
                     struct near__ticket ticket, uint64_t position, int64_t ends_ns)
{
    pthread_mutex_t *mutex;
    struct name name;
    name_key(&name, key, key_size);
    struct note *note = place_for(bucket_locked(notes, key, key_size, &mutex), &name);
    note->position = position;
    note->ends_ns = ends_ns;
    note->generation = ticket.generation;
    note->what = (uint8_t)what;
    note->key_size = (uint16_t)key_size;
    if (name.size)
        memcpy(note->key, name.bytes, name.size);
    pthread_mutex_unlock(mutex);
}

/* The rules I1, I3, I5 and I7 of docs/design.md, as for an entry. */
static int holds(const struct note *note, struct near__ticket now, int64_t now_ns)
{
    if (NEAR_MUTANT(ABSENCE_OUTLIVES_CREATION))
        return now_ns < note->ends_ns;
    return now.floor <= note->position && now.watermark <= note->position && now.generation == note->generation &&
           now_ns < note->ends_ns;
}

enum near__note near__notes_find(struct near__notes *notes, const void *key, size_t key_size, struct near__ticket now,
                                 int64_t now_ns)
{
    enum near__note what = NEAR_NOTE_NONE;
    pthread_mutex_t *mutex;
    struct name name;
    name_key(&name, key, key_size);
    struct note *bucket = bucket_locked(notes, key, key_size, &mutex);
    for (unsigned i = 0; i < WAYS; i++) {
        if (!is_about(&bucket[i], &name))
            continue;
        if (holds(&bucket[i], now, now_ns))
            what = (enum near__note)bucket[i].what;
        else
            bucket[i].what = NEAR_NOTE_NONE, bucket[i].ends_ns = 0;
    }
    pthread_mutex_unlock(mutex);
    return what;
}
