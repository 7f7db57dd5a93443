/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Barriers: when one returns, no process of the prefix serves anything older than the writes that were done before it.
 *
 * A message changes nothing and asks for an answer.  It is numbered like every other one, so it comes behind those of
 * the writes, and who applies it has applied those, or has just seen a hole and withdrawn its proof (I6).  Its prover
 * then answers on the asker's own channel.  That is the quick way.  What makes the barrier right is that nobody needs
 * to answer:
 *
 * [1] Who has not answered serves by a proof.  A proof from a heartbeat that ran after the barrier's message covers the
 *     writes.  A proof from one that ran before it began before, too, and serves no longer than its process's bound
 *     from there.  So a bound after the barrier's message was published everybody has applied the writes or serves
 *     nothing: stopped, cut off or dead.  Time is the asker's own monotonic clock, a little prolonged, since clocks run
 *     at different speeds; no other clock takes part.
 * [2] Whose answer is to be waited for is on a list on the server (remote/members.h).  Each heartbeat enters its
 *     process, with its bound and its nonce, before it publishes the proof: who serves by a proof whose heartbeat found
 *     the list is on it.  The roll, one script, publishes the message and reads the list.  A process that comes later
 *     proves later, by [1].
 * [3] A list may be new: nobody had asked, FLUSHALL, eviction, another server, a lost history.  Then somebody may serve
 *     by a heartbeat that did not find it, until a bound after it was first seen.  Hence the epoch, which is compared
 *     together with the server and the incarnation, and which heartbeats tell, so that a process that was there all
 *     along need not wait.  The bound of who is not on a list is not known; it is taken to be no longer than the
 *     longest ever seen, our own included.
 * [4] Who dies stays on the list.  Its nonce no longer changes; a bound after the nonce was first seen here (in any
 *     roll) its process serves nothing by that nonce, so it is not waited for, and the next roll takes it off, if the
 *     server still has that nonce.  Comparing and removing are one step, so nobody is removed who has just proved anew.
 * [5] A bound that grows counts from the first heartbeat that told it (near__coherence_set_bound), unless the last one
 *     found no list and said so.
 *     Who closes takes itself off, after its last call has ended and its last heartbeat was answered.  A heartbeat
 *     whose answer did not come may run later and put it on again: then it is like one that died.
 * [6] The asker is one of them: its own write it has applied, but those of others come to it by messages, too.  Its
 *     question is its answer.
 *
 * What a barrier costs: one round trip, one message, one PUBLISH and one message back for each process.  Without
 * barriers there is no list, and heartbeats look for it in vain (EXISTS); a list that no roll has touched for an hour
 * goes. */
#include "coherence/barrier.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mutant.h"
#include "nearcache.h"
#include "remote/members.h"

#define LEAVE_NS (250 * NEAR_NS_PER_MS)

/* How long a process may go on after its asker has seen it: its bound, and what clocks may differ. */
static int64_t lease_ns(int64_t bound_ns)
{
    return bound_ns + bound_ns / 100 + 2 * NEAR_NS_PER_MS;
}

static int64_t longest_ns(const struct near__coherence *c)
{
    int64_t own = atomic_load_explicit(&c->gate->bound_ns, memory_order_relaxed); /* written under the lock */
    return lease_ns(own > c->bound_max_ns ? own : c->bound_max_ns);
}

/* ---------------------------------------------------------------- the list */

void near__barrier_listed_locked(struct near__coherence *c, uint64_t epoch, uint64_t server)
{
    uint64_t incarnation = atomic_load_explicit(&c->incarnation, memory_order_relaxed); /* raised under the lock */
    const uint64_t what[] = {epoch, server, incarnation};
    uint64_t list = epoch ? near__hash(what, sizeof(what), 0) | 1 : 0;
    if (list == c->list)
        return;
    c->list = list;
    c->list_since_ns = near__now(c->clock);
}

static struct near__member *find(struct near__member *members, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(members[i].name, name) == 0)
            return &members[i];
    return NULL;
}

static int read_name(struct near__word word, char ret[NEAR_NAME_SIZE])
{
    if (word.size == 0 || word.size >= NEAR_NAME_SIZE)
        return -1;
    memcpy(ret, word.at, word.size);
    memset(ret + word.size, 0, NEAR_NAME_SIZE - word.size);
    return 0;
}

/* "<bound>:<nonce>" */
static int read_member(struct near__word name, struct near__word value, struct near__member *ret)
{
    uint64_t bound;
    const char *colon = value.size ? memchr(value.at, ':', value.size) : NULL;
    if (!colon || read_name(name, ret->name) != 0)
        return -1;
    size_t first = (size_t)(colon - value.at);
    struct near__word left = {value.at, first}, right = {colon + 1, value.size - first - 1};
    if (near__word_number(left, &bound) != 0 || near__word_number(right, &ret->nonce) != 0 || bound > UINT32_MAX)
        return -1;
    ret->bound_ms = (int64_t)bound;
    return 0;
}

/* Our own entry, and what no library of ours has written, is left out. */
static size_t read_list(struct near__coherence *c, const struct near__request *q, struct near__member *ret,
                        uint64_t *ret_epoch)
{
    size_t count = 0;
    struct near__word name, value;
    *ret_epoch = 0;
    for (size_t at = 0; near__members_next(q->value_out, q->value_out_size, &at, &name, &value);) {
        if (near__word_is(name, NEAR_MEMBERS_EPOCH, strlen(NEAR_MEMBERS_EPOCH)))
            near__word_number(value, ret_epoch);
        else if (!near__word_is(name, c->private_name, strlen(c->private_name)) &&
                 read_member(name, value, &ret[count]) == 0)
            count++;
    }
    return count;
}

static size_t pairs_of(const struct near__request *q)
{
    size_t count = 0;
    struct near__word name, value;
    for (size_t at = 0; near__members_next(q->value_out, q->value_out_size, &at, &name, &value);)
        count++;
    return count;
}

/* [4] Those who are known to be gone, for the roll that takes them off. */
static void append_gone_locked(const struct near__coherence *c, struct near__buffer *b)
{
    int64_t now = near__now(c->clock);
    for (size_t i = 0; i < c->member_count; i++) {
        const struct near__member *m = &c->members[i];
        char value[48];
        if (now < m->since_ns + lease_ns(m->bound_ms * NEAR_NS_PER_MS))
            continue;
        int size = snprintf(value, sizeof(value), "%lld:%llu", (long long)m->bound_ms, (unsigned long long)m->nonce);
        struct near__word name_word = {m->name, strlen(m->name)}, value_word = {value, (size_t)size};
        near__members_append(b, name_word, value_word);
    }
}

/* ---------------------------------------------------------------- a roll */

static int came_early(const struct near__roll *roll, const char *name)
{
    for (size_t at = 0; at + NEAR_NAME_SIZE <= roll->early.size; at += NEAR_NAME_SIZE)
        if (memcmp(roll->early.data + at, name, NEAR_NAME_SIZE) == 0)
            return 1;
    return 0;
}

/* The list has come: whom to wait for.  Takes `members` over. */
static void listed_locked(struct near__coherence *c, struct near__roll *roll, struct near__member *members,
                          size_t count)
{
    int64_t now = near__now(c->clock);
    for (size_t i = 0; i < count; i++) {
        struct near__member *m = &members[i], *before = find(c->members, c->member_count, m->name);
        int64_t bound_ns = m->bound_ms * NEAR_NS_PER_MS;
        m->since_ns = before && before->nonce == m->nonce ? before->since_ns : now;
        if (bound_ns > c->bound_max_ns)
            c->bound_max_ns = bound_ns;
        struct near__awaited *a = &roll->awaited[i];
        memcpy(a->name, m->name, sizeof(a->name));
        a->until_ns = NEAR_MUTANT(ABSENT_IS_GONE) ? now : m->since_ns + lease_ns(bound_ns);
        a->answered = came_early(roll, m->name);
    }
    roll->count = count;
    near__free(c->alloc, c->members);
    c->members = members;
    c->member_count = count;
}

/* The answer of the roll's script.  What cannot be told is waited for: see settled_ns. */
static void learn(struct near__coherence *c, struct near__roll *roll, const struct near__request *q)
{
    size_t most = q->status == NEAR_OK ? pairs_of(q) : 0;
    struct near__member *members = most ? near__alloc(c->alloc, most * sizeof(*members)) : NULL;
    struct near__awaited *awaited = most ? near__alloc(c->alloc, most * sizeof(*awaited)) : NULL;
    uint64_t epoch = 0;
    size_t count = members && awaited ? read_list(c, q, members, &epoch) : 0;
    pthread_mutex_lock(&c->lock);
    roll->settled_ns = near__now(c->clock) + longest_ns(c); /* [1] */
    /* as above */
    roll->own_ns = near__now(c->clock) + lease_ns(atomic_load_explicit(&c->gate->bound_ns, memory_order_relaxed));
    if (members && awaited && epoch) {
        near__barrier_listed_locked(c, epoch, q->server);
        roll->awaited = awaited;
        listed_locked(c, roll, members, count);
        roll->settled_ns = NEAR_MUTANT(YOUNG_LIST_TRUSTED) ? 0 : c->list_since_ns + longest_ns(c); /* [3] */
    } else {
        near__free(c->alloc, members);
        near__free(c->alloc, awaited);
    }
    pthread_mutex_unlock(&c->lock);
}

void near__roll_begin(struct near__coherence *c, struct near__roll *roll, int64_t deadline_ns)
{
    struct near__buffer body, gone;
    memset(roll, 0, sizeof(*roll));
    near__buffer_init(&roll->early, c->alloc);
    near__buffer_init(&body, c->alloc);
    near__buffer_init(&gone, c->alloc);
    pthread_mutex_lock(&c->lock);
    roll->id = c->next_roll++;
    roll->next = c->rolls; /* answers may come before the list does */
    c->rolls = roll;
    append_gone_locked(c, &gone);
    pthread_mutex_unlock(&c->lock);
    near__coherence_body_roll(c, roll->id, &body);
    struct near__request request = {
        .operation = NEAR_OP_ROLL,
        .body = body.data,
        .body_size = body.size,
        .known = roll->id, /* as good a number as any for a new list */
        .value = gone.data,
        .value_size = gone.failed ? 0 : gone.size,
        .status = NEAR_ERR_NOMEM,
    };
    if (!body.failed)
        near__remote_run(c->remote, &request, 1, deadline_ns);
    learn(c, roll, &request);
    near__free(c->alloc, request.value_out);
    near__buffer_fini(&gone);
    near__buffer_fini(&body);
}

/* Somebody has not answered, and serves nothing any more from then on. */
static void await(int64_t now, int64_t until_ns, struct near__barrier_result *ret, int64_t *ret_due_ns)
{
    if (now >= until_ns)
        return;
    ret->missing++;
    if (until_ns < *ret_due_ns)
        *ret_due_ns = until_ns;
}

int near__roll_look_locked(const struct near__coherence *c, const struct near__roll *roll,
                           struct near__barrier_result *ret, int64_t *ret_due_ns)
{
    int64_t now = near__now(c->clock);
    *ret_due_ns = NEAR_NEVER;
    *ret = (struct near__barrier_result){.processes = (uint32_t)roll->count, .unlisted = now < roll->settled_ns};
    if (ret->unlisted)
        *ret_due_ns = roll->settled_ns;
    if (!roll->heard && !NEAR_MUTANT(ASKER_EXEMPT))
        await(now, roll->own_ns, ret, ret_due_ns);
    for (size_t i = 0; i < roll->count; i++)
        if (!roll->awaited[i].answered)
            await(now, roll->awaited[i].until_ns, ret, ret_due_ns);
    return NEAR_MUTANT(BARRIER_NOT_AWAITED) || (!ret->missing && !ret->unlisted);
}

void near__roll_end(struct near__coherence *c, struct near__roll *roll)
{
    pthread_mutex_lock(&c->lock);
    struct near__roll **at = &c->rolls;
    while (*at != roll)
        at = &(*at)->next;
    *at = roll->next;
    pthread_mutex_unlock(&c->lock);
    near__free(c->alloc, roll->awaited);
    near__buffer_fini(&roll->early);
}

int near__coherence_barrier(struct near__coherence *c, int64_t deadline_ns, struct near__barrier_result *ret)
{
    struct near__roll roll;
    int64_t due_ns;
    near__roll_begin(c, &roll, deadline_ns);
    pthread_mutex_lock(&c->lock);
    int complete;
    while (!(complete = near__roll_look_locked(c, &roll, ret, &due_ns)) && !c->stopping &&
           near__now(c->clock) < deadline_ns) {
        /* without a thread of its own nobody else moves the time: not to be waited for */
        if (!near__coherence_go_on_locked(c, due_ns < deadline_ns ? due_ns : deadline_ns) && c->manual)
            break;
    }
    pthread_mutex_unlock(&c->lock);
    near__roll_end(c, &roll);
    near__coherence_add(complete ? &c->barriers : &c->barriers_incomplete);
    return complete;
}

/* ---------------------------------------------------------------- answers */

static int has_answer_locked(const struct near__coherence *c, const struct near__answer *answer)
{
    for (unsigned i = 0; i < c->answer_count; i++)
        if (c->answers[i].roll == answer->roll && strcmp(c->answers[i].name, answer->name) == 0)
            return 1;
    return 0;
}

/* Names have the digits that init_ids gave them; whatever else is in a name is nobody's. */
static int is_name(const char *name)
{
    return strlen(name) == 16 && strspn(name, "0123456789abcdef") == 16;
}

/* [6] */
static void hear(struct near__coherence *c, uint64_t id)
{
    pthread_mutex_lock(&c->lock);
    for (struct near__roll *roll = c->rolls; roll; roll = roll->next)
        if (roll->id == id)
            roll->heard = 1;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void near__barrier_called(struct near__coherence *c, const struct near__message *m)
{
    const unsigned char *cursor = NULL;
    struct near__answer answer = {.roll = m->write_id};
    struct near__word word;
    const void *key;
    if (m->sender == c->sender) {
        hear(c, m->write_id);
        return;
    }
    if (!near__message_next_key(m, &cursor, &key, &word.size))
        return;
    word.at = key;
    if (read_name(word, answer.name) != 0 || !is_name(answer.name) || answer.roll > INT64_MAX)
        return;
    pthread_mutex_lock(&c->lock);
    /* without room the asker waits for our next proof to be old: as if the answer were lost */
    if (c->answer_count < NEAR_ANSWERS_MAX && !has_answer_locked(c, &answer)) {
        c->answers[c->answer_count++] = answer;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
}

static void note_locked(struct near__roll *roll, const char name[NEAR_NAME_SIZE])
{
    if (!roll->awaited && roll->early.size < (1u << 20))
        near__buffer_append(&roll->early, name, NEAR_NAME_SIZE);
    for (size_t i = 0; i < roll->count; i++)
        if (strcmp(roll->awaited[i].name, name) == 0)
            roll->awaited[i].answered = 1;
}

void near__barrier_answered(struct near__coherence *c, const void *payload, size_t size)
{
    char name[NEAR_NAME_SIZE];
    uint64_t id;
    struct near__word word;
    const void *at;
    if (near__message_decode_answer(payload, size, &id, &at, &word.size) < 0)
        return; /* somebody else publishes here; it changes nothing */
    word.at = at;
    if (id == 0) { /* no barrier's number */
        near__demand_heard(c, at, word.size);
        return;
    }
    if (read_name(word, name) != 0)
        return;
    pthread_mutex_lock(&c->lock);
    for (struct near__roll *roll = c->rolls; roll; roll = roll->next)
        if (roll->id == id)
            note_locked(roll, name);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void near__coherence_leave(struct near__coherence *c)
{
    int64_t until_ns = near__now(c->clock) + LEAVE_NS;
    pthread_mutex_lock(&c->lock);
    int listed = c->list != 0 && near__proof_stands_locked(c);
    while (listed && c->running && !c->manual && near__now(c->clock) < until_ns)
        near__coherence_wait_locked(c, near__now(c->clock) + NEAR_NS_PER_MS); /* an answer that was good wakes nobody */
    listed = listed && !c->running;
    pthread_mutex_unlock(&c->lock);
    struct near__request request = {
        .operation = NEAR_OP_LEAVE, .body = c->private_name, .body_size = strlen(c->private_name)};
    if (listed)
        near__remote_run(c->remote, &request, 1, until_ns); /* if it fails, barriers wait for a bound once */
}

void near__barrier_fini(struct near__coherence *c)
{
    near__free(c->alloc, c->members);
}
