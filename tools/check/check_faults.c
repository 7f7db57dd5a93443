/* SPDX-License-Identifier: BSD-3-Clause
 * The faults, and the seeded schedule by which they come.
 *
 * Three lanes run beside each other: faults of the server, of one process's connections (in its proxy), and of one
 * process.  A single thread of a process, also one of the library's own, which take no signals, is stopped by ptrace:
 * the checker is the workers' parent, so it may. */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/resp_client.h"

enum { MUST_S = 120 };

enum check_need { NEEDS_NOTHING = 0, NEEDS_SERVER = 1, NEEDS_PROXY = 2 };

struct check_fault_kind {
    const char *name;
    enum check_lane lane;
    unsigned needs;
    int instant; /* nothing to be ended */
    void (*begin)(struct check *c, struct check_fault *f);
    void (*end)(struct check *c, struct check_fault *f);
    const char *what;
};

static int ask_ok(const char *reply)
{
    return reply[0] != '-' && strcmp(reply, "(no answer)") != 0;
}

/* A command that is the fault, or begins it: without its reply there was none. */
static void needs(struct check_fault *f, const char *reply)
{
    f->missed |= !ask_ok(reply);
}

/* A command that must take effect, mostly as it ends a fault: a server that is slow to answer is asked again until it
 * has. */
static void must(struct check *c, struct redis_server *s, size_t count, const char *const *arguments)
{
    size_t sizes[12];
    int64_t give_up = check_now() + MUST_S * CHECK_NS_PER_S;
    for (size_t i = 0; i < count; i++)
        sizes[i] = strlen(arguments[i]);
    while (!ask_ok(redis_server_command_argv(s, count, arguments, sizes, NULL))) {
        if (check_interrupted)
            return;
        if (check_now() >= give_up) {
            check_complain(c->board, CHECK_RECOVERY, CHECK_PROCESSES, CHECK_SLOTS, 0, CHECK_MISSING_SERVER);
            return;
        }
        check_sleep_ms(1);
    }
}
#define MUST(c, s, ...)                                                                                                \
    must(c, s, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *), (const char *const[]){__VA_ARGS__})

/* ---------------------------------------------------------------- the server */

static void redis_stop(struct check *c, struct check_fault *f)
{
    (void)f, redis_server_pause(check_server(c));
}
static void redis_continue(struct check *c, struct check_fault *f)
{
    (void)f, redis_server_resume(check_server(c));
}
static void redis_kill(struct check *c, struct check_fault *f)
{
    (void)f, redis_server_kill(check_server(c));
}
static void redis_term(struct check *c, struct check_fault *f)
{
    (void)f, redis_server_stop(check_server(c));
}

static void redis_up(struct check *c, struct check_fault *f)
{
    (void)f;
    if (redis_server_up(check_server(c)) < 0)
        check_complain(c->board, CHECK_RECOVERY, CHECK_PROCESSES, CHECK_SLOTS, 0, CHECK_MISSING_SERVER);
}

static void redis_up_empty(struct check *c, struct check_fault *f)
{
    check_loss_begin(c);
    redis_server_wipe(check_server(c));
    redis_up(c, f);
    check_loss_end(c, NULL);
}

static void flushall(struct check *c, struct check_fault *f)
{
    (void)f;
    check_loss_begin(c);
    MUST(c, check_server(c), "FLUSHALL");
    check_loss_end(c, NULL);
}

static void script_flush(struct check *c, struct check_fault *f)
{
    needs(f, redis_server_command(check_server(c), "SCRIPT", "FLUSH", NULL));
}

static void kill_subscriptions(struct check *c, struct check_fault *f)
{
    needs(f, redis_server_command(check_server(c), "CLIENT", "KILL", "TYPE", "pubsub", NULL));
}

static void kill_data(struct check *c, struct check_fault *f)
{
    needs(f, redis_server_command(check_server(c), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", NULL));
}

static void configure(struct check *c, struct check_fault *f, const char *name, const char *value)
{
    needs(f, redis_server_command(check_server(c), "CONFIG", "SET", name, value, NULL));
}

/* A limit that is passed at once: more than the subscriptions' buffers may hold is published in one go. */
static void output_buffer(struct check *c, struct check_fault *f)
{
    char channel[sizeof c->board->prefix + 32];
    snprintf(channel, sizeof channel, "nearcache:0:%s", c->board->prefix);
    configure(c, f, "client-output-buffer-limit", "pubsub 32kb 0 0");
    needs(f, redis_server_command(
                 check_server(c), "EVAL",
                 "local filler = string.rep('x', 4096) for i = 1, 64 do redis.call('PUBLISH', ARGV[1], filler) end",
                 "0", channel, NULL));
}

static void output_buffer_end(struct check *c, struct check_fault *f)
{
    (void)f;
    MUST(c, check_server(c), "CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60");
}

/* The limit keeps us out, too, so the way back is prepared before. */
static int control_open(struct check *c)
{
    static const char *const user[] = {"AUTH", "support", "support"};
    static const size_t sizes[] = {4, 7, 7};
    struct resp_text text = {0};
    int fd = resp_connect_unix(redis_server_socket(check_server(c)), 10000);
    if (fd >= 0 && (resp_send(fd, 3, user, sizes) < 0 || resp_read(fd, &text) < 0)) {
        close(fd);
        fd = -1;
    }
    free(text.data);
    return fd;
}

static int control_say(int fd, size_t count, const char *const *arguments)
{
    size_t sizes[4];
    struct resp_text text = {0};
    for (size_t i = 0; i < count; i++)
        sizes[i] = strlen(arguments[i]);
    int result = resp_send(fd, count, arguments, sizes) < 0 ? -1 : resp_read(fd, &text);
    free(text.data);
    return result;
}

static void maxclients(struct check *c, struct check_fault *f)
{
    static const char *const few[] = {"CONFIG", "SET", "maxclients", "1"};
    static const char *const kill_all[] = {"CLIENT", "KILL", "SKIPME", "yes"};
    f->control = control_open(c);
    f->missed = f->control < 0 || control_say(f->control, 4, few) < 0 || control_say(f->control, 4, kill_all) < 0;
}

static void maxclients_end(struct check *c, struct check_fault *f)
{
    static const char *const many[] = {"CONFIG", "SET", "maxclients", "500"};
    if (f->control < 0)
        return;
    control_say(f->control, 4, many);
    close(f->control);
    MUST(c, check_server(c), "CONFIG", "SET", "maxclients", "500"); /* again: the answer above may not have come */
    f->control = -1;
}

static void maxmemory(struct check *c, struct check_fault *f)
{
    configure(c, f, "maxmemory", "1");
}
static void maxmemory_end(struct check *c, struct check_fault *f)
{
    (void)f;
    MUST(c, check_server(c), "CONFIG", "SET", "maxmemory", "0");
}

static void acl(struct check *c, struct check_fault *f)
{
    static const char *const rules[] = {"resetchannels", "-@write", "-@scripting", "resetkeys", "-@all"};
    needs(f, redis_server_command(check_server(c), "ACL", "SETUSER", "default", rules[check_below(c, 5)], NULL));
}

static void acl_end(struct check *c, struct check_fault *f)
{
    (void)f;
    MUST(c, check_server(c), "ACL", "SETUSER", "default", "on", "nopass", "allkeys", "allchannels", "+@all");
}

/* Redis sleeps; we do not wait for its answer. */
static void debug_sleep(struct check *c, struct check_fault *f)
{
    static const size_t sizes[] = {5, 5, 4};
    char seconds[16];
    snprintf(seconds, sizeof seconds, "0.%03u", 50 + check_below(c, 900));
    const char *arguments[] = {"DEBUG", "SLEEP", seconds};
    const size_t all[] = {sizes[0], sizes[1], strlen(seconds)};
    f->control = control_open(c);
    f->missed = f->control < 0 || resp_send(f->control, 3, arguments, all) < 0;
    f->next_ns = check_now() + (int64_t)(strtod(seconds, NULL) * 1e9);
}

static void debug_sleep_end(struct check *c, struct check_fault *f)
{
    struct resp_text text = {0};
    (void)c;
    if (f->control >= 0) {
        resp_read(f->control, &text); /* until it is awake */
        close(f->control);
    }
    free(text.data);
    f->control = -1;
}

/* A master that finds itself a replica, of nobody. */
static void demote(struct check *c, struct check_fault *f)
{
    needs(f, redis_server_command(check_server(c), "REPLICAOF", "127.0.0.1", "1", NULL));
}

static void promote(struct check *c, struct check_fault *f)
{
    (void)f;
    MUST(c, check_server(c), "REPLICAOF", "NO", "ONE");
}

static int replica_is_up(struct redis_server *s)
{
    return strstr(redis_server_command(s, "INFO", "replication", NULL), "master_link_status:up") != NULL;
}

/* The other server becomes a replica, then the master; half of the time it stops following before the master has
 * stopped acknowledging, so that acknowledged writes are lost. */
static void failover(struct check *c, struct check_fault *f)
{
    char port[16];
    struct redis_server *old = check_server(c), *new = c->server[!c->active];
    int lossy = (int)check_below(c, 2);
    snprintf(port, sizeof port, "%d", redis_server_port(old));
    redis_server_command(new, "REPLICAOF", "127.0.0.1", port, NULL);
    for (int i = 0; i < 300 && !replica_is_up(new); i++)
        check_sleep_ms(10);
    if (!replica_is_up(new)) {
        MUST(c, new, "REPLICAOF", "NO", "ONE");
        f->missed = 1;
        return;
    }
    if (lossy) {
        MUST(c, new, "REPLICAOF", "NO", "ONE");
        check_sleep_ms(20 + (int)check_below(c, 100));
    }
    check_loss_begin(c);
    check_sleep_ms(lossy ? 0 : 20); /* what was acknowledged last arrives there */
    MUST(c, new, "REPLICAOF", "NO", "ONE");
    c->active = !c->active;
    check_swap(c, 0);
    check_loss_end(c, new);
}

/* Another server behind the same address: the data connections find it first, the subscriptions later. */
static void swap(struct check *c, struct check_fault *f)
{
    (void)f;
    if (check_below(c, 2)) /* otherwise it still has its position of earlier days */
        MUST(c, c->server[!c->active], "FLUSHALL");
    check_loss_begin(c);
    c->active = !c->active;
    check_swap(c, 1);
    check_loss_end(c, NULL);
}

static void swap_end(struct check *c, struct check_fault *f)
{
    (void)f, check_swap(c, 0);
}

/* ---------------------------------------------------------------- the proxies */

static struct proxy *proxy_of(struct check *c, const struct check_fault *f)
{
    return c->proxy[f->process];
}

static void choose_flow(struct check *c, struct check_fault *f)
{
    f->proxy_kind = (int)check_below(c, PROXY_KINDS_);
    f->proxy_side = (int)check_below(c, PROXY_SIDES_);
}

static void proxy_holds(struct check *c, struct check_fault *f)
{
    choose_flow(c, f);
    proxy_mode(proxy_of(c, f), f->proxy_kind, f->proxy_side, PROXY_HOLD);
}

static void proxy_passes(struct check *c, struct check_fault *f)
{
    proxy_mode(proxy_of(c, f), f->proxy_kind, f->proxy_side, PROXY_INHERIT);
}

static void proxy_delays(struct check *c, struct check_fault *f)
{
    choose_flow(c, f);
    proxy_delay(proxy_of(c, f), f->proxy_kind, f->proxy_side, 1 + (int)check_below(c, 80));
}

static void proxy_is_prompt(struct check *c, struct check_fault *f)
{
    proxy_delay(proxy_of(c, f), f->proxy_kind, f->proxy_side, 0);
}

static void proxy_swallows(struct check *c, struct check_fault *f)
{
    choose_flow(c, f);
    proxy_mode(proxy_of(c, f), f->proxy_kind, f->proxy_side, PROXY_SWALLOW);
}

/* No link that has lost bytes may live on: TCP has no such thing. */
static void proxy_swallowed(struct check *c, struct check_fault *f)
{
    struct proxy *p = proxy_of(c, f);
    proxy_refuse(p, 1);
    proxy_kill(p, PROXY_ANY, 0);
    proxy_passes(c, f);
    proxy_refuse(p, 0);
}

static void proxy_cuts(struct check *c, struct check_fault *f)
{
    choose_flow(c, f);
    proxy_cut(proxy_of(c, f), f->proxy_kind, f->proxy_side, check_below(c, 3000), (int)check_below(c, 2));
}

static void proxy_cuts_no_more(struct check *c, struct check_fault *f)
{
    proxy_cut(proxy_of(c, f), f->proxy_kind, f->proxy_side, -1, 0);
}

static void proxy_splits(struct check *c, struct check_fault *f)
{
    choose_flow(c, f);
    proxy_split(proxy_of(c, f), f->proxy_kind, f->proxy_side, 1);
}

static void proxy_joins(struct check *c, struct check_fault *f)
{
    proxy_split(proxy_of(c, f), f->proxy_kind, f->proxy_side, 0);
}

/* Only of the subscription: a reply that vanishes from within a stream makes all later ones answers to other questions,
 * which nobody could notice. */
static void proxy_deletes(struct check *c, struct check_fault *f)
{
    proxy_delete(proxy_of(c, f), PROXY_SUB, "message", 1 + (int)check_below(c, 3));
}

static void proxy_doubles(struct check *c, struct check_fault *f)
{
    proxy_duplicate(proxy_of(c, f), PROXY_SUB, "message", 1 + (int)check_below(c, 3));
}

static void proxy_refuses(struct check *c, struct check_fault *f)
{
    choose_flow(c, f);
    proxy_refuse(proxy_of(c, f), 1);
    proxy_kill(proxy_of(c, f), f->proxy_kind, (int)check_below(c, 2));
}

static void proxy_accepts(struct check *c, struct check_fault *f)
{
    proxy_refuse(proxy_of(c, f), 0);
}

/* ---------------------------------------------------------------- the processes */

static void mark_stopped(struct check *c, struct check_fault *f)
{
    atomic_fetch_add(&c->board->process[f->process].stops, 1); /* odd from before the stop until after its end */
}

static void process_stops(struct check *c, struct check_fault *f)
{
    mark_stopped(c, f);
    kill(c->worker[f->process], SIGSTOP);
}

static void process_continues(struct check *c, struct check_fault *f)
{
    if (c->worker[f->process] > 0) /* it may have ended meanwhile */
        kill(c->worker[f->process], SIGCONT);
    mark_stopped(c, f);
}

static void process_is_killed(struct check *c, struct check_fault *f)
{
    check_worker_kill(c, f->process);
}

static void process_starts(struct check *c, struct check_fault *f)
{
    if (check_worker_start(c, f->process) < 0)
        check_complain(c->board, CHECK_RECOVERY, f->process, CHECK_SLOTS, 0, CHECK_MISSING_PROCESS);
}

/* A thread of the process, not the first one (whose stops would be its process's); 0: none. */
static pid_t choose_thread(struct check *c, pid_t process)
{
    char path[64];
    pid_t found = 0;
    uint32_t count = 0;
    snprintf(path, sizeof path, "/proc/%ld/task", (long)process);
    DIR *folder = opendir(path);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        pid_t thread = (pid_t)strtol(e->d_name, NULL, 10);
        if (thread > 0 && thread != process && check_below(c, ++count) == 0)
            found = thread;
    }
    if (folder)
        closedir(folder);
    return found;
}

/* 0: it has ended meanwhile. */
static int thread_stop(pid_t thread)
{
    pid_t found;
    if (ptrace(PTRACE_SEIZE, thread, 0, 0) < 0 || ptrace(PTRACE_INTERRUPT, thread, 0, 0) < 0)
        return 0;
    do
        found = waitpid(thread, NULL, __WALL);
    while (found < 0 && errno == EINTR);
    return found == thread;
}

static void thread_stops(struct check *c, struct check_fault *f)
{
    f->thread = choose_thread(c, c->worker[f->process]);
    mark_stopped(c, f);
    if (f->thread > 0 && !thread_stop(f->thread))
        f->thread = 0;
    f->missed = f->thread == 0;
}

static void thread_continues(struct check *c, struct check_fault *f)
{
    if (f->thread > 0)
        ptrace(PTRACE_DETACH, f->thread, 0, 0);
    mark_stopped(c, f);
}

/* ---------------------------------------------------------------- the table */

#define SERVER CHECK_LANE_SERVER, NEEDS_SERVER
#define BEHIND CHECK_LANE_SERVER, NEEDS_SERVER | NEEDS_PROXY
#define PROXY CHECK_LANE_PROXY, NEEDS_PROXY
#define PROCESS CHECK_LANE_PROCESS, NEEDS_NOTHING
static const struct check_fault_kind kinds[] = {
    {"redis-stop", SERVER, 0, redis_stop, redis_continue, "SIGSTOP, SIGCONT"},
    {"redis-kill", SERVER, 0, redis_kill, redis_up, "SIGKILL, restarted with its data"},
    {"redis-restart", SERVER, 0, redis_term, redis_up, "SIGTERM, restarted with its data"},
    {"redis-wipe", SERVER, 0, redis_kill, redis_up_empty, "SIGKILL, restarted empty"},
    {"flushall", SERVER, 1, flushall, NULL, "FLUSHALL"},
    {"script-flush", SERVER, 1, script_flush, NULL, "SCRIPT FLUSH"},
    {"kill-sub", SERVER, 1, kill_subscriptions, NULL, "CLIENT KILL of the subscriptions"},
    {"kill-data", SERVER, 1, kill_data, NULL, "CLIENT KILL of the data connections"},
    {"output-buffer", SERVER, 0, output_buffer, output_buffer_end,
     "tiny client-output-buffer-limit, and more than it at once"},
    {"maxclients", SERVER, 0, maxclients, maxclients_end, "maxclients 1, everybody thrown out"},
    {"maxmemory", SERVER, 0, maxmemory, maxmemory_end, "maxmemory 1: out of memory"},
    {"acl", SERVER, 0, acl, acl_end, "rights to channels, writes, scripts, keys or all taken away"},
    {"debug-sleep", SERVER, 0, debug_sleep, debug_sleep_end, "DEBUG SLEEP"},
    {"demote", SERVER, 0, demote, promote, "REPLICAOF, of nobody; then master again"},
    {"failover", BEHIND, 1, failover, NULL, "a replica takes over, with or without the last writes"},
    {"swap", BEHIND, 0, swap, swap_end, "another server behind the address, first for data, later for subscriptions"},
    {"hold", PROXY, 0, proxy_holds, proxy_passes, "one process's bytes in one direction wait"},
    {"delay", PROXY, 0, proxy_delays, proxy_is_prompt, "they come later"},
    {"swallow", PROXY, 0, proxy_swallows, proxy_swallowed, "they vanish silently; then the connection breaks"},
    {"cut", PROXY, 0, proxy_cuts, proxy_cuts_no_more, "the connection is cut at some byte, with FIN or RST"},
    {"split", PROXY, 0, proxy_splits, proxy_joins, "every byte comes alone"},
    {"delete", PROXY, 1, proxy_deletes, NULL, "one to three messages vanish from the subscription"},
    {"duplicate", PROXY, 1, proxy_doubles, NULL, "one to three messages come twice"},
    {"refuse", PROXY, 0, proxy_refuses, proxy_accepts, "connections broken and refused"},
    {"process-stop", PROCESS, 0, process_stops, process_continues, "SIGSTOP, SIGCONT"},
    {"process-kill", PROCESS, 0, process_is_killed, process_starts, "SIGKILL, and a new process"},
    {"thread-stop", PROCESS, 0, thread_stops, thread_continues,
     "one thread, of the program or of the library, stopped by ptrace"},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };
_Static_assert((int)KINDS == (int)CHECK_FAULT_KINDS, "check.h counts the faults");

const char *check_fault_name(int index)
{
    return index < KINDS ? kinds[index].name : NULL;
}

void check_faults_list(void)
{
    for (int i = 0; i < KINDS; i++)
        printf("  %-14s %s%s\n", kinds[i].name, kinds[i].what,
               kinds[i].needs & NEEDS_SERVER  ? " (not with --uri)"
               : kinds[i].needs & NEEDS_PROXY ? " (with --uri: redis:// only)"
                                              : "");
}

static int find_kind(const char *name, size_t size)
{
    for (int i = 0; i < KINDS; i++)
        if (strlen(kinds[i].name) == size && memcmp(kinds[i].name, name, size) == 0)
            return i;
    return -1;
}

const char *check_faults_parse(const char *list, const char *uri, uint64_t *ret_set, const char **ret_wrong)
{
    unsigned lacking = !uri ? 0 : check_can_proxy(uri) ? NEEDS_SERVER : NEEDS_SERVER | NEEDS_PROXY;
    *ret_set = 0;
    if (strcmp(list, "none") == 0)
        return NULL;
    if (strcmp(list, "all") == 0) {
        for (int i = 0; i < KINDS; i++)
            if (!(kinds[i].needs & lacking))
                *ret_set |= UINT64_C(1) << i;
        return NULL;
    }
    for (const char *at = list; *at;) {
        size_t size = strcspn(at, ",");
        int kind = find_kind(at, size);
        *ret_wrong = at;
        if (kind < 0)
            return "unknown (see --list; all and none are accepted, too)";
        if (kinds[kind].needs & lacking)
            return kinds[kind].needs & NEEDS_SERVER
                       ? "not possible with --uri, it needs a server of our own (all leaves out what is not possible)"
                       : "not possible with this --uri, it needs redis:// and no IPv6 literal (all leaves out what is "
                         "not possible)";
        *ret_set |= UINT64_C(1) << kind;
        at += size + (at[size] == ',');
    }
    return NULL;
}

int check_faults_need_proxy(const struct check *c)
{
    for (int i = 0; i < KINDS; i++)
        if ((c->options.faults >> i & 1) && (kinds[i].needs & NEEDS_PROXY))
            return 1;
    return 0;
}

/* ---------------------------------------------------------------- the schedule */

/* Most faults are short, some longer than the bound. */
static int64_t choose_duration(struct check *c)
{
    uint32_t bound_ms = (uint32_t)c->options.bound_ms, what = check_below(c, 100);
    uint32_t ms = what < 70   ? 5 + check_below(c, 100)
                  : what < 92 ? 100 + check_below(c, 400)
                              : 100 + check_below(c, bound_ms * 3 / 2);
    return ms * CHECK_NS_PER_MS;
}

static int64_t choose_gap(struct check *c)
{
    return (50 + check_below(c, 700)) * CHECK_NS_PER_MS;
}

static const struct check_fault_kind *choose_kind(struct check *c, int lane)
{
    const struct check_fault_kind *chosen = NULL;
    uint32_t count = 0;
    for (int i = 0; i < KINDS; i++)
        if ((c->options.faults >> i & 1) && (int)kinds[i].lane == lane && check_below(c, ++count) == 0)
            chosen = &kinds[i];
    return chosen;
}

static void fault_off(struct check *c, struct check_fault *f)
{
    if (!f->kind)
        return;
    if (f->kind->end)
        f->kind->end(c, f);
    atomic_fetch_and(&c->board->faults_on, ~(UINT64_C(1) << (f->kind - kinds)));
    f->kind = NULL;
    f->next_ns = check_now() + choose_gap(c);
}

static void fault_on(struct check *c, struct check_fault *f, int lane)
{
    const struct check_fault_kind *kind = choose_kind(c, lane);
    f->process = check_below(c, c->board->processes);
    f->next_ns = check_now() + choose_duration(c);
    if (!kind || c->worker[f->process] <= 0)
        return;
    f->kind = kind;
    f->control = -1;
    f->missed = 0;
    atomic_fetch_or(&c->board->faults_on, UINT64_C(1) << (kind - kinds));
    kind->begin(c, f);
    c->fault_count[kind - kinds] += !f->missed;
    if (kind->instant)
        fault_off(c, f);
}

void check_faults_step(struct check *c)
{
    for (int lane = 0; lane < CHECK_LANES; lane++) {
        struct check_fault *f = &c->fault[lane];
        if (check_now() < f->next_ns)
            continue;
        if (f->kind)
            fault_off(c, f);
        else
            fault_on(c, f, lane);
    }
}

void check_faults_stop(struct check *c)
{
    for (int lane = 0; lane < CHECK_LANES; lane++)
        fault_off(c, &c->fault[lane]);
}
