/* SPDX-License-Identifier: BSD-3-Clause
 * The faults: what is done when, and whether everybody came back afterwards. */
#define _GNU_SOURCE /* sigabbrev_np */
#include "demo.h"

#include <string.h>

#include "demo_wire.h"

#define NS_PER_S INT64_C(1000000000)
#define NS_PER_MS INT64_C(1000000)
#define FAULT_RECOVERY_NS (15 * NS_PER_S) /* longer than that is no recovery */

uint64_t demo_errors(const struct demo *demo)
{
    uint64_t errors = 0;
    for (uint32_t p = 0; p < demo->board->processes; p++)
        for (int i = 0; i < BOARD_ACTORS; i++) {
            const struct board_actor *a = &demo->board->process[p].actors[i];
            errors += atomic_load(&a->errors) + atomic_load(&a->writes_failed) + atomic_load(&a->writes_unknown);
        }
    return errors;
}

const char *fault_name(const struct fault *fault, char *text, size_t capacity)
{
    switch (fault->kind) {
    case FAULT_KILL_SUBSCRIPTIONS:
        return "subscriptions killed (CLIENT KILL TYPE pubsub)";
    case FAULT_FREEZE_REDIS:
        snprintf(text, capacity, "Redis frozen for %.1f s (SIGSTOP)", (double)fault->length_ns / 1e9);
        return text;
    case FAULT_STOP_REDIS:
        snprintf(text, capacity, "Redis ended (SIG%s), restarted after %.1f s", sigabbrev_np(fault->signal),
                 (double)fault->length_ns / 1e9);
        return text;
    default:
        snprintf(text, capacity, "server 2 frozen for %.1f s (SIGSTOP)", (double)fault->length_ns / 1e9);
        return text;
    }
}

/* ---------------------------------------------------------------- the plan */

static void plan(struct demo *demo, enum fault_kind kind, int sig, double at_s, double length_s)
{
    demo->faults[demo->fault_count++] = (struct fault){
        .kind = kind, .signal = sig, .at_ns = (int64_t)(at_s * 1e9), .length_ns = (int64_t)(length_s * 1e9)};
}

static double clamp(double number, double least, double most)
{
    return number < least ? least : number > most ? most : number;
}

void faults_plan(struct demo *demo)
{
    const struct demo_options *o = &demo->options;
    double t = o->seconds, bound = o->bound_ms / 1000.0;
    if (!o->faults)
        return;
    if (o->kill_signal) {
        plan(demo, o->kill_signal == SIGSTOP ? FAULT_FREEZE_REDIS : FAULT_STOP_REDIS, o->kill_signal, 0.3 * t,
             o->kill_ms / 1000.0);
        return;
    }
    plan(demo, FAULT_KILL_SUBSCRIPTIONS, 0, 0.15 * t, 0);
    plan(demo, FAULT_FREEZE_REDIS, SIGSTOP, 0.25 * t, clamp(t / 4, 2, 5));
    plan(demo, FAULT_STOP_REDIS, SIGKILL, 0.62 * t, clamp(0.03 * t, 0.3, 1));
    if (o->processes > 1) /* twice the bound: much of what it holds is too old when it goes on */
        plan(demo, FAULT_FREEZE_SERVER, SIGSTOP, 0.76 * t, 2 * bound);
    plan(demo, FAULT_KILL_SUBSCRIPTIONS, 0, 0.9 * t, 0);
}

/* ---------------------------------------------------------------- doing it */

static void kill_subscriptions(struct demo *demo)
{
    static const char *const command[] = {"CLIENT", "KILL", "TYPE", "pubsub"};
    char path[4200], text[64];
    demo_path(demo, path, sizeof path, "redis.sock", -1);
    wire_ask(path, 1000, text, sizeof text, 4, command);
}

static void freeze_server(struct demo *demo, int sig)
{
    atomic_fetch_add(&demo->board->process[1].freezes, 1); /* odd from before the stop until after the continuation */
    kill(demo->servers[1], sig);
}

static void stop_redis(struct demo *demo, int sig)
{
    kill(demo->redis, sig);
    if (process_wait(demo->redis, 10000) == -1)
        redis_end(demo);
    demo->redis = -1;
}

static void fault_begin(struct demo *demo, struct fault *fault)
{
    fault->errors = demo_errors(demo);
    fault->state = FAULT_ON;
    fault->at_ns = board_now() - demo->started_ns;
    switch (fault->kind) {
    case FAULT_KILL_SUBSCRIPTIONS:
        kill_subscriptions(demo);
        break;
    case FAULT_FREEZE_REDIS:
        kill(demo->redis, SIGSTOP);
        break;
    case FAULT_STOP_REDIS:
        stop_redis(demo, fault->signal);
        break;
    case FAULT_FREEZE_SERVER:
        freeze_server(demo, SIGSTOP);
        break;
    }
}

static void fault_end(struct demo *demo, struct fault *fault)
{
    switch (fault->kind) {
    case FAULT_KILL_SUBSCRIPTIONS:
        break;
    case FAULT_FREEZE_REDIS:
        kill(demo->redis, SIGCONT);
        break;
    case FAULT_STOP_REDIS:
        redis_start(demo);
        break;
    case FAULT_FREEZE_SERVER:
        freeze_server(demo, SIGCONT);
        break;
    }
    fault->state = FAULT_RECOVERING;
    fault->ended_ns = board_now();
    for (uint32_t p = 0; p < demo->board->processes; p++) {
        _Atomic uint64_t *g = demo->board->process[p].gauges;
        fault->updates[p] = atomic_load(&g[GAUGE_UPDATES]);
        fault->proofs[p] = atomic_load(&g[GAUGE_PROOFS]);
        fault->hits[p] = atomic_load(&g[GAUGE_HITS]);
    }
}

/* Back to normal: every process has proved its freshness anew and serves from its local tier again. */
static int recovered(const struct demo *demo, const struct fault *fault)
{
    for (uint32_t p = 0; p < demo->board->processes; p++) {
        const _Atomic uint64_t *g = demo->board->process[p].gauges;
        /* two updates: the first may have been under way when the fault ended */
        if (atomic_load(&g[GAUGE_UPDATES]) < fault->updates[p] + 2 || !atomic_load(&g[GAUGE_PROVEN]) ||
            atomic_load(&g[GAUGE_PROOFS]) <= fault->proofs[p] || atomic_load(&g[GAUGE_HITS]) <= fault->hits[p])
            return 0;
    }
    return 1;
}

static void fault_watch(struct demo *demo, struct fault *fault)
{
    int64_t now = board_now();
    if (recovered(demo, fault)) {
        fault->recovered_ns = now;
    } else if (now - fault->ended_ns > FAULT_RECOVERY_NS) {
        for (uint32_t p = 0; p < demo->board->processes; p++)
            if (!atomic_load(&demo->board->process[p].gauges[GAUGE_PROVEN]))
                board_violation(demo->board, VIOLATION_RECOVERY, p, -1, 0, 0, now - fault->ended_ns);
        if (board_violations(demo->board) == 0)
            board_violation(demo->board, VIOLATION_RECOVERY, 0, -1, 0, 0, now - fault->ended_ns);
    } else {
        return;
    }
    fault->state = FAULT_OVER;
    fault->errors = demo_errors(demo) - fault->errors;
}

void faults_step(struct demo *demo)
{
    for (int i = 0; i < demo->fault_count; i++) {
        struct fault *fault = &demo->faults[i];
        int64_t now = board_now() - demo->started_ns;
        if (fault->state == FAULT_RECOVERING)
            fault_watch(demo, fault);
        if (fault->state == FAULT_ON && now >= fault->at_ns + fault->length_ns)
            fault_end(demo, fault);
        if (fault->state == FAULT_PLANNED && now >= fault->at_ns)
            fault_begin(demo, fault);
        if (fault->state != FAULT_OVER)
            return; /* one after the other */
    }
}

int faults_done(const struct demo *demo)
{
    return demo->fault_count == 0 || demo->faults[demo->fault_count - 1].state == FAULT_OVER;
}

const struct fault *faults_now(const struct demo *demo)
{
    for (int i = 0; i < demo->fault_count; i++)
        if (demo->faults[i].state == FAULT_ON || demo->faults[i].state == FAULT_RECOVERING)
            return &demo->faults[i];
    return NULL;
}
