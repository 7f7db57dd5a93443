/* SPDX-License-Identifier: BSD-3-Clause
 * nearcache-check: does nearcache keep its promises here?
 *
 * Starts a private Redis (or uses the one that --uri names, under a prefix of its own), several processes with the
 * library that read and write the same keys at full tilt, and breaks things by a seeded schedule meanwhile.  Every
 * value that any thread reads is judged; check/check_board.h says how.
 *
 * Exit status: 0 no violation; 4 violations; 1 it could not run, or not compare everything at the end; 2 bad arguments;
 * 128 + n ended by signal n. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check/check.h"
#include "check/check_worker.h"
#include "base/random.h"
#include "nearcache.h"
#include "support/arguments.h"
#ifdef NEAR_CHECK_SABOTAGE
#include "check/check_sabotage.h"
#endif

enum {
    EXIT_CANNOT = 1,
    EXIT_VIOLATIONS = 4,
    TICK_MS = 2,
    RECOVERY_S = 60,
    RECOVERY_MAX_S = 600,
    CALM_S = 6,
    PROMPT_MS = 250
};

volatile sig_atomic_t check_interrupted;

static const char usage[] =
    "Usage: nearcache-check [OPTION]...\n"
    "Runs processes with nearcache over one Redis under faults, and checks every value that they read.\n"
    "\n"
    "  --duration S      length of the run (20)\n"
    "  --processes N     1 to 16 (4)\n"
    "  --threads N       reading threads of each process, 1 to 8 (2)\n"
    "  --writers N       writing threads of each process, 1 to 4 (2)\n"
    "  --faults LIST     all that are possible here (default), none, or names with commas between; see --list\n"
    "  --list            the faults there are\n"
    "  --seed N          of the schedule and the load (new every time)\n"
    "  --bound MS        staleness bound, 50 to 60000 (1000)\n"
    "  --option K=V      an option of the library, as near_option_set takes it; may be given several times\n"
    "  --uri URI         use this Redis, under a prefix that is removed at the end; see --list for its faults\n"
    "  --redis-server P  the program to run (redis-server)\n"
    "  --json FILE       also write the results as JSON (-: alone to the standard output)\n"
    "  --verbose         also print what the library logs\n"
    "  --version         the version\n"
    "  --help            this text\n"
    "\n"
    "Exit status: 0 no violation, 4 violations, 1 it could not run or not check all, 2 bad arguments.\n";

void check_sleep_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&ts, NULL);
}

uint32_t check_below(struct check *c, uint32_t limit)
{
    return near__random_below(&c->random, limit);
}

static void on_signal(int sig)
{
    check_interrupted = sig;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* ---------------------------------------------------------------- options */

/* The library looks at it now, so that a mistake is told before anything is started. */
static int parse_option(struct check_options *o, const char *text)
{
    char name[64];
    near_options options;
    near_error error = {.text = "name=value is needed"};
    size_t used = strlen(o->option), size = strcspn(text, "=");
    near_options_init(&options);
    if (text[size] != '=' || size >= sizeof name || strchr(text, '\n') || used + strlen(text) + 2 > sizeof o->option)
        return argument_refused("--option", text, error.text);
    snprintf(name, sizeof name, "%.*s", (int)size, text);
    if (near_option_set(&options, name, text + size + 1, &error) != NEAR_OK)
        return argument_refused("--option", text, error.text);
    snprintf(o->option + used, sizeof o->option - used, "%s\n", text);
    return 0;
}

enum {
    OPT_DURATION = 1,
    OPT_PROCESSES,
    OPT_THREADS,
    OPT_WRITERS,
    OPT_FAULTS,
    OPT_LIST,
    OPT_SEED,
    OPT_BOUND,
    OPT_OPTION,
    OPT_URI,
    OPT_REDIS,
    OPT_JSON,
    OPT_VERBOSE,
    OPT_SABOTAGE,
    OPT_VERSION,
    OPT_HELP
};

#ifdef NEAR_CHECK_SABOTAGE
static int parse_sabotage(const char *text, int *ret)
{
    *ret = check_sabotage_find(text);
    return *ret ? 0 : argument_refused("--sabotage", text, "unknown");
}
#define SABOTAGE_OPTION {"sabotage", required_argument, NULL, OPT_SABOTAGE},
#else
#define SABOTAGE_OPTION
#endif

static int apply(struct check_options *o, int option, const char **faults)
{
    switch (option) {
    case OPT_DURATION:
        return argument_number("--duration", optarg, 1, 604800, &o->duration_s);
    case OPT_PROCESSES:
        return argument_number("--processes", optarg, 1, CHECK_PROCESSES, &o->processes);
    case OPT_THREADS:
        return argument_number("--threads", optarg, 1, CHECK_READERS, &o->threads);
    case OPT_WRITERS:
        return argument_number("--writers", optarg, 1, CHECK_WRITERS, &o->writers);
    case OPT_FAULTS:
        return *faults = optarg, 0;
    case OPT_LIST:
        return check_faults_list(), -1;
    case OPT_SEED:
        return argument_seed("--seed", optarg, &o->seed);
    case OPT_BOUND:
        return argument_number("--bound", optarg, 50, 60000, &o->bound_ms);
    case OPT_OPTION:
        return parse_option(o, optarg);
    case OPT_URI:
        return o->uri = optarg, 0;
    case OPT_REDIS:
        return o->redis_server = optarg, 0;
    case OPT_JSON:
        return o->json = optarg, 0;
    case OPT_VERBOSE:
        return o->verbose = 1, 0;
#ifdef NEAR_CHECK_SABOTAGE
    case OPT_SABOTAGE:
        return parse_sabotage(optarg, &o->sabotage);
#endif
    case OPT_VERSION:
        return printf("nearcache-check %s\n", near_version()), -1;
    case OPT_HELP:
        return fputs(usage, stdout), -1;
    default:
        return fprintf(stderr, "Try 'nearcache-check --help'.\n"), EXIT_USAGE;
    }
}

/* A wrong URI is told now, too. */
static int judge_uri(const char *uri)
{
    near_cache *cache;
    near_error error;
    if (strncmp(uri, "memory:", 7) == 0 || strncmp(uri, "local:", 6) == 0)
        return argument_refused("--uri", uri, "processes cannot share it");
    if (strlen(uri) >= sizeof((struct check_process *)0)->uri)
        return argument_refused("--uri", "…", "it is too long");
    if (near_open(uri, NULL, &cache, &error) != NEAR_OK)
        return argument_refused("--uri", "…", error.text);
    near_close(cache);
    return 0;
}

/* 0; -1: done already; otherwise the exit status. */
static int options_parse(struct check_options *o, int argc, char **argv)
{
    static const struct option list[] = {
        {"duration", required_argument, NULL, OPT_DURATION},  {"processes", required_argument, NULL, OPT_PROCESSES},
        {"threads", required_argument, NULL, OPT_THREADS},    {"writers", required_argument, NULL, OPT_WRITERS},
        {"faults", required_argument, NULL, OPT_FAULTS},      {"list", no_argument, NULL, OPT_LIST},
        {"seed", required_argument, NULL, OPT_SEED},          {"bound", required_argument, NULL, OPT_BOUND},
        {"option", required_argument, NULL, OPT_OPTION},      {"uri", required_argument, NULL, OPT_URI},
        {"redis-server", required_argument, NULL, OPT_REDIS}, {"json", required_argument, NULL, OPT_JSON},
        {"verbose", no_argument, NULL, OPT_VERBOSE},          {"version", no_argument, NULL, OPT_VERSION},
        SABOTAGE_OPTION{"help", no_argument, NULL, OPT_HELP}, {0},
    };
    const char *faults = "all", *wrong = "", *why;
    int option, result;
    *o = (struct check_options){.duration_s = 20,
                                .processes = 4,
                                .threads = 2,
                                .writers = 2,
                                .bound_ms = 1000,
                                .seed = (uint64_t)check_now() * UINT64_C(0x9e3779b97f4a7c15) >> 32};
    while ((option = getopt_long(argc, argv, "", list, NULL)) != -1)
        if ((result = apply(o, option, &faults)) != 0)
            return result;
    if (optind < argc)
        return argument_refused("argument", argv[optind], "not expected");
    if ((why = check_faults_parse(faults, o->uri, &o->faults, &wrong)) != NULL)
        return argument_refused("--faults", wrong, why);
    return o->uri ? judge_uri(o->uri) : 0;
}

/* ---------------------------------------------------------------- the run */

/* Readers may use six tenths of the processors together; the rest is for Redis, the library's own threads and us. */
static uint32_t reader_duty(int readers)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t permille = (uint32_t)(600 * (processors > 0 ? processors : 1) / readers);
    return permille > 900 ? 900 : permille < 20 ? 20 : permille;
}

static int board_fill(struct check *c)
{
    const struct check_options *o = &c->options;
    struct check_board *b = c->board = check_board_create(&c->board_fd);
    if (!b) {
        fprintf(stderr, "nearcache-check: cannot set up shared memory: %s\n", strerror(errno));
        return -1;
    }
    b->seed = c->random = o->seed;
    b->processes = (uint32_t)o->processes;
    b->readers = (uint32_t)o->threads;
    b->writers = (uint32_t)o->writers;
    b->verbose = (uint32_t)o->verbose;
    b->duty_permille = reader_duty(o->threads * o->processes);
    b->bound_ns = o->bound_ms * CHECK_NS_PER_MS;
    b->timeout_ns = (o->bound_ms / 2 < 500 ? o->bound_ms / 2 : 500) * CHECK_NS_PER_MS;
    snprintf(b->prefix, sizeof b->prefix, "nearcache-check:%ld:%llx:", (long)getpid(), (unsigned long long)o->seed);
    memcpy(b->option, o->option, sizeof b->option);
    return 0;
}

static void set_phase(struct check *c, enum check_phase phase)
{
    atomic_store(&c->board->phase, phase);
}

static void tick(struct check *c)
{
    static int64_t next_line_ns;
    int64_t now = check_now();
    check_workers_watch(c);
    /* afterwards nobody begins to write: what there is stays to be looked at */
    if (atomic_load(&c->board->phase) == CHECK_RUN)
        check_advance(c);
    check_report_violations(c);
    if (now >= next_line_ns && atomic_load(&c->board->phase) == CHECK_RUN) {
        if (next_line_ns)
            check_report_second(c);
        next_line_ns = (next_line_ns ? next_line_ns : now) + CHECK_NS_PER_S;
    }
    check_sleep_ms(TICK_MS);
}

struct mark {
    uint64_t updates[CHECK_PROCESSES], proofs[CHECK_PROCESSES], hits[CHECK_PROCESSES];
};

static uint64_t gauge(const struct check *c, uint32_t p, enum check_gauge g)
{
    return atomic_load(&c->board->process[p].gauge[g]);
}

static struct mark mark_now(const struct check *c)
{
    struct mark m;
    for (uint32_t p = 0; p < c->board->processes; p++) {
        m.updates[p] = gauge(c, p, CHECK_UPDATES);
        m.proofs[p] = gauge(c, p, CHECK_PROOFS);
        m.hits[p] = gauge(c, p, CHECK_HITS);
    }
    return m;
}

/* 0: the process has proved its freshness anew and serves from its local tier.  Otherwise what is missing. */
static int missing(const struct check *c, const struct mark *m, uint32_t p)
{
    return (gauge(c, p, CHECK_UPDATES) < m->updates[p] + 2) * CHECK_MISSING_UPDATES |
           (gauge(c, p, CHECK_PROVEN) == 0) * CHECK_MISSING_PROVEN |
           (gauge(c, p, CHECK_PROOFS) <= m->proofs[p]) * CHECK_MISSING_PROOFS |
           (gauge(c, p, CHECK_HITS) <= m->hits[p]) * CHECK_MISSING_HITS;
}

/* How long to wait for everybody.  Only time counts in which Redis takes our own writes promptly and we are not held up
 * ourselves: a machine whose disk or processors stand still is no fault of the library's.  But not without end. */
struct patience {
    int64_t left_ns, end_ns, asked_ns;
    int server_is_well;
};

static struct patience patience_new(void)
{
    return (struct patience){.left_ns = RECOVERY_S * CHECK_NS_PER_S,
                             .end_ns = check_now() + RECOVERY_MAX_S * CHECK_NS_PER_S};
}

static int takes_writes(struct check *c)
{
    int64_t begin_ns = check_now();
    if (c->options.uri)
        return 1; /* somebody else's: nothing is written there beside the prefix */
    return strcmp(redis_server_command(check_server(c), "SET", "nearcache-check", "1", NULL), "OK") == 0 &&
           check_now() - begin_ns < PROMPT_MS * CHECK_NS_PER_MS;
}

/* A tick; 0: it is over. */
static int wait_patiently(struct check *c, struct patience *patience)
{
    int64_t begin_ns = check_now();
    if (begin_ns - patience->asked_ns >= PROMPT_MS * CHECK_NS_PER_MS) {
        patience->server_is_well = takes_writes(c);
        patience->asked_ns = check_now();
    }
    tick(c);
    int64_t now_ns = check_now(), passed_ns = now_ns - begin_ns, most_ns = PROMPT_MS * CHECK_NS_PER_MS;
    if (patience->server_is_well)
        patience->left_ns -= passed_ns < most_ns ? passed_ns : most_ns;
    return patience->left_ns > 0 && now_ns < patience->end_ns && !check_interrupted;
}

/* Who has ended by himself will not come back, and was complained of. */
static int is_there(const struct check *c, uint32_t process)
{
    return c->worker[process] > 0;
}

/* With all faults over, everybody must come back. */
static void calm(struct check *c)
{
    struct mark m;
    struct patience patience = patience_new();
    int waits = 1;
    check_faults_stop(c);
    m = mark_now(c);
    for (uint32_t p = 0; p < c->board->processes && !check_interrupted; p++) {
        while (waits && is_there(c, p) && missing(c, &m, p))
            waits = wait_patiently(c, &patience);
        if (is_there(c, p) && missing(c, &m, p) && !check_interrupted)
            check_complain(c->board, CHECK_RECOVERY, p, CHECK_SLOTS, 0, missing(c, &m, p));
    }
}

static void run(struct check *c)
{
    int64_t end, next_calm;
    c->board->started_ns = check_now();
    set_phase(c, CHECK_RUN);
    calm(c); /* everybody is there */
    end = check_now() + c->options.duration_s * CHECK_NS_PER_S;
    next_calm = check_now() + CALM_S * CHECK_NS_PER_S;
    while (!check_interrupted && check_now() < end) {
        check_faults_step(c);
        tick(c);
        if (check_now() >= next_calm) {
            calm(c);
            next_calm = check_now() + CALM_S * CHECK_NS_PER_S;
        }
    }
    calm(c);
    c->stopped_ns = check_now();
}

/* ---------------------------------------------------------------- the sweep */

static void read_final(struct check *c, int which)
{
    struct patience patience = patience_new();
    int waits = 1;
    while (check_read_final(c, which) < 0 && waits)
        waits = wait_patiently(c, &patience);
}

static void judge_final(struct check *c, uint32_t process)
{
    if (!is_there(c, process))
        return;
    if (!atomic_load(&c->board->process[process].swept)) {
        check_complain(c->board, CHECK_RECOVERY, process, CHECK_SLOTS, 0, CHECK_MISSING_SWEEP);
        return;
    }
    for (uint32_t slot = 0; slot < CHECK_SLOTS; slot++) {
        uint32_t generation = atomic_load(&c->board->slot[slot].generation);
        c->unjudged += !check_judge_final(c->board, process, slot, generation);
        if (generation > 1)
            c->unjudged += !check_judge_final(c->board, process, slot, generation - 1);
    }
}

static int all_swept(const struct check *c)
{
    for (uint32_t p = 0; p < c->board->processes; p++)
        if (is_there(c, p) && !atomic_load(&c->board->process[p].swept))
            return 0;
    return 1;
}

/* Writers stop, a bound passes, then every process reads every key once more: all must have what Redis has. */
static void settle_and_sweep(struct check *c)
{
    int64_t give_up;
    set_phase(c, CHECK_SETTLE);
    give_up = check_now() + 3 * c->board->bound_ns + c->board->timeout_ns; /* a barrier's deadline, and more */
    while (check_is_writing(c) && check_now() < give_up && !check_interrupted)
        tick(c);
    give_up = check_now() + c->board->bound_ns + c->board->timeout_ns;
    while (check_now() < give_up && !check_interrupted)
        tick(c);
    read_final(c, 0);
    set_phase(c, CHECK_SWEEP);
    struct patience patience = patience_new();
    for (int waits = 1; waits && !all_swept(c);)
        waits = wait_patiently(c, &patience);
    read_final(c, 1);
    for (uint32_t p = 0; p < c->board->processes && !check_interrupted; p++)
        judge_final(c, p);
}

static int cannot_write(const struct check *c)
{
    fprintf(stderr, "nearcache-check: cannot write %s: %s\n", c->options.json, strerror(errno));
    return EXIT_CANNOT;
}

static int finish(struct check *c, int started)
{
    if (c->board) {
        check_faults_stop(c);
        set_phase(c, CHECK_END);
        check_workers_end(c);
    }
    check_servers_end(c);
    if (check_interrupted)
        return 128 + check_interrupted;
    if (!started)
        return EXIT_CANNOT;
    check_report_violations(c);
    check_report_end(c);
    if (c->json && check_report_json(c) < 0)
        return cannot_write(c);
    return check_violations(c->board) > 0 ? EXIT_VIOLATIONS : c->unjudged > 0 ? EXIT_CANNOT : 0;
}

int main(int argc, char **argv)
{
    static struct check check;
    struct check *c = &check;
    int result, started;
    if (argc == 5 && strcmp(argv[1], "--worker") == 0) {
#ifdef NEAR_CHECK_SABOTAGE
        check_sabotage_begin(atoi(argv[4]));
#endif
        return check_worker_main(atoi(argv[2]), (unsigned)atoi(argv[3]));
    }
    if ((result = options_parse(&c->options, argc, argv)) != 0)
        return result < 0 ? 0 : result;
    if (c->options.json && check_report_open_json(c, c->options.json) < 0)
        return cannot_write(c);
    catch_signals();
    ssize_t size = readlink("/proc/self/exe", c->program, sizeof c->program - 1);
    if (size <= 0 || board_fill(c) < 0 || (c->options.uri && check_reach(c) < 0))
        return EXIT_CANNOT;
    check_report_begin(c);
    started = check_servers_start(c) == 0 && check_workers_start(c) == 0;
    if (started) {
        run(c);
        if (!check_interrupted)
            settle_and_sweep(c);
    }
    return finish(c, started);
}
