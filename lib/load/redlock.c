/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Locks over N independent servers.  A lock is a key with the owner's random token and a time to live; who has it on a
 * majority of the servers has the lock.  N is 1 for the plain lock on one Redis.
 *
 * Acquire
 *   1. Note the time.  Ask the servers one after another, each with a short deadline of its own, to take the lock.
 *   2. With a majority: what is left of the time to live, counted from 1 and less an allowance for clocks that run at
 *      different speeds, is the lock's validity.  Nothing left: not acquired.
 *   3. The fencing number is the highest counter seen.  A server whose counter is below it is raised to it, and a
 *      majority must have reached it before the lock is handed out.  The next owner's majority shares a server with
 *      this one, and that server's counter was at least this number, so the next number is higher.  (Taking the maximum
 *      alone is not enough: the maximum of one majority may come from a server that the next majority does not ask.)
 *   4. Otherwise give back whatever may have been taken, on every server, those that did not answer included; pause for
 *      a random time, so that rivals do not meet again and again; begin again until the deadline, with a new token if a
 *      server may still carry out the giving back.
 *
 * Time.  Validity is counted by our own monotonic clock from before the first request, expiry by the servers' clocks
 * from after it arrived, so ours ends first as long as no server's clock runs faster than ours by more than the
 * allowance.  A process that is stopped (SIGSTOP, swapping, a debugger) does not notice that its time is over before it
 * looks again: that is what the fencing number is for, and nothing else can be.  A server that forgets the lock
 * (restart without persistence, failover to a replica that had not got it) may give it to somebody else: with one
 * server that breaks the exclusion, with N it takes a majority of such servers within one time to live.  The numbers
 * rise even then: a counter that was lost begins at the server's time in microseconds. */
#include "load/redlock.h"

#include <string.h>

#include "base/random.h"

#define DRIFT_MS 2 /* besides the part of the time to live: the resolution of a server's expiry, and rounding */

/* ---------------------------------------------------------------- one round over the servers */

struct round {
    size_t granted, refused, failed; /* refused: somebody else has it, or (extend, release) nobody */
    size_t at_fence;                 /* servers whose counter has reached the highest */
    uint64_t fence;
    size_t unknown; /* of the failed ones: sent, and perhaps still to be executed */
    int error;      /* the first failure's status */
    int twice;      /* two of the servers are one */
    uint64_t seen[NEAR_LOCK_SERVERS_MAX];
    uint64_t counters[NEAR_LOCK_SERVERS_MAX]; /* 0: not granted */
};

static size_t majority(const struct near__lock *lock)
{
    return lock->servers.count / 2 + 1;
}

static struct near__request request_for(const struct near__lock *lock, enum near__operation operation, uint32_t ttl_ms)
{
    return (struct near__request){.operation = operation,
                                  .key = lock->name,
                                  .key_size = lock->name_size,
                                  .value = lock->token,
                                  .value_size = sizeof lock->token,
                                  .ttl_ms = ttl_ms};
}

static int64_t server_deadline(const struct near__lock *lock)
{
    return near__now(lock->clock) + (int64_t)lock->options.server_timeout_ms * NEAR_NS_PER_MS;
}

static void note_server(struct round *round, const struct near__lock *lock, size_t server, uint64_t identity)
{
    for (size_t i = 0; identity && i < lock->servers.count; i++)
        round->twice |= i != server && round->seen[i] == identity;
    round->seen[server] = identity;
}

static void note(struct round *round, const struct near__lock *lock, size_t server, const struct near__request *request)
{
    note_server(round, lock, server, request->server);
    if (request->status == NEAR_OK) {
        round->granted++;
        round->counters[server] = (uint64_t)request->result_number;
        if (round->counters[server] > round->fence)
            round->fence = round->counters[server];
    } else if (request->status > 0) {
        round->refused++;
    } else {
        round->failed++;
        round->unknown += request->status == NEAR_ERR_UNKNOWN;
        if (!round->error)
            round->error = request->status;
    }
}

/* Asks every server, or until a majority has become impossible and nothing needs to reach the others. */
static void ask(struct near__lock *lock, enum near__operation operation, uint32_t ttl_ms, struct round *round)
{
    memset(round, 0, sizeof *round);
    for (size_t i = 0; i < lock->servers.count; i++) {
        struct near__request request = request_for(lock, operation, ttl_ms);
        lock->servers.run(lock->servers.arg, i, &request, server_deadline(lock));
        note(round, lock, i, &request);
        if (operation == NEAR_OP_LOCK && round->refused > lock->servers.count - majority(lock))
            return;
    }
}

/* ---------------------------------------------------------------- acquire */

/* What is left of a time to live that was asked for at started_ns, as the end of the validity. */
static int64_t validity_end(const struct near__lock *lock, int64_t started_ns, uint32_t ttl_ms)
{
    int64_t drift_ms = (int64_t)ttl_ms * lock->options.drift_permille / 1000 + DRIFT_MS;
    return started_ns + (ttl_ms - drift_ms) * NEAR_NS_PER_MS;
}

/* Step 3.  1: a majority has the number. */
static int raise_counters(struct near__lock *lock, struct round *round)
{
    for (size_t i = 0; i < lock->servers.count; i++) {
        if (round->counters[i] && round->counters[i] < round->fence) {
            struct near__request request = request_for(lock, NEAR_OP_EXTEND, 0);
            request.known = round->fence;
            lock->servers.run(lock->servers.arg, i, &request, server_deadline(lock));
            if (request.status == NEAR_OK)
                round->counters[i] = (uint64_t)request.result_number;
        }
        round->at_fence += round->counters[i] >= round->fence && round->counters[i];
    }
    return round->at_fence >= majority(lock);
}

static int new_token(struct near__lock *lock)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char bytes[NEAR_LOCK_TOKEN_SIZE / 2];
    if (near__random_seed(bytes, sizeof bytes) < 0)
        return NEAR_ERR_SYSTEM;
    for (size_t i = 0; i < sizeof bytes; i++) {
        lock->token[2 * i] = digits[bytes[i] >> 4];
        lock->token[2 * i + 1] = digits[bytes[i] & 15];
    }
    return NEAR_OK;
}

/* A request to give back that got no answer may arrive when the next attempt has taken the lock (on a connection of its
 * own nothing keeps their order): that one has another token then, which it does not fit. */
static int give_back(struct near__lock *lock)
{
    struct round round;
    ask(lock, NEAR_OP_UNLOCK, 0, &round);
    return round.unknown ? new_token(lock) : NEAR_OK;
}

/* One attempt: steps 1 to 3.  The status says why there is no lock. */
static int attempt(struct near__lock *lock, struct round *round)
{
    int64_t started_ns = near__now(lock->clock);
    ask(lock, NEAR_OP_LOCK, lock->options.ttl_ms, round);
    if (round->twice)
        return NEAR_ERR_INVALID;
    if (round->granted >= majority(lock)) {
        int fenced = raise_counters(lock, round);
        int64_t end_ns = validity_end(lock, started_ns, lock->options.ttl_ms);
        if (fenced && near__now(lock->clock) < end_ns) {
            lock->valid_until_ns = end_ns;
            lock->fence = round->fence;
            return NEAR_OK;
        }
        return fenced ? NEAR_ERR_TIMEOUT : NEAR_ERR_UNAVAILABLE;
    }
    /* who has been refused by so many that the failed ones could not help has been refused */
    return round->granted + round->failed < majority(lock) || !round->error ? NEAR_LOCKED : round->error;
}

/* Step 4: half to one and a half of the pause that the options name. */
static int64_t pause_end(const struct near__lock *lock, int64_t deadline_ns)
{
    uint32_t random = 0;
    int64_t pause_ns = (int64_t)lock->options.retry_ms * NEAR_NS_PER_MS;
    near__random_seed(&random, sizeof random); /* failing, the pause is the shortest */
    int64_t end_ns = near__now(lock->clock) + pause_ns / 2 + (int64_t)((double)pause_ns * random / UINT32_MAX);
    return end_ns < deadline_ns ? end_ns : deadline_ns;
}

int near__lock_acquire(struct near__lock *lock, int64_t deadline_ns)
{
    struct round round;
    int status = new_token(lock);
    if (status != NEAR_OK)
        return status;
    for (;;) {
        status = attempt(lock, &round);
        if (status == NEAR_OK)
            return NEAR_OK;
        int token_status = give_back(lock);
        if (token_status != NEAR_OK)
            return token_status;
        int hopeless = status < 0 && !near_status_is_transient(status);
        if (hopeless || lock->options.flags & NEAR_LOCK_TRY || near__now(lock->clock) >= deadline_ns)
            return status;
        near__clock_sleep(lock->clock, pause_end(lock, deadline_ns));
    }
}

/* ---------------------------------------------------------------- extend and release */

int near__lock_extend(struct near__lock *lock, uint32_t ttl_ms)
{
    struct round round;
    int64_t started_ns = near__now(lock->clock);
    if (started_ns >= lock->valid_until_ns)
        return NEAR_ERR_LOCK_LOST; /* somebody may have had it meanwhile */
    ask(lock, NEAR_OP_EXTEND, ttl_ms, &round);
    int64_t end_ns = validity_end(lock, started_ns, ttl_ms);
    if (round.granted >= majority(lock) && near__now(lock->clock) < end_ns) {
        lock->valid_until_ns = end_ns;
        return NEAR_OK;
    }
    if (round.refused > lock->servers.count - majority(lock)) {
        lock->valid_until_ns = 0;
        return NEAR_ERR_LOCK_LOST;
    }
    if (end_ns < lock->valid_until_ns) /* some servers may have shortened it */
        lock->valid_until_ns = end_ns;
    return round.error ? round.error : NEAR_ERR_TIMEOUT;
}

int near__lock_release(struct near__lock *lock)
{
    struct round round;
    ask(lock, NEAR_OP_UNLOCK, 0, &round);
    lock->valid_until_ns = 0;
    if (round.granted >= majority(lock))
        return NEAR_OK;
    return round.refused > lock->servers.count - majority(lock) ? NEAR_ERR_LOCK_LOST : round.error;
}
