/* SPDX-License-Identifier: BSD-3-Clause
 * nearcache-demo: the claims of nearcache, shown and checked on a running system.
 *
 * Starts a private Redis, fills it with this machine's Debian package records, puts several Redis-speaking servers with
 * nearcache inside (resp-server) in front of it, reads and updates at full tilt, and meanwhile kills the subscriptions,
 * freezes and kills Redis, and freezes a server.  Every value that any thread reads is judged (demo/demo_board.h says
 * how): no damage, no going back, own writes seen, nothing staler than the bound.
 *
 * Exit status: 0 no violation; 4 violations; 1 it could not run; 2 bad arguments; 128 + n ended by signal n. */
#include "demo/demo.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "demo/demo_catalogue.h"
#include "support/arguments.h"

enum { EXIT_CANNOT = 1, EXIT_VIOLATIONS = 4, TICK_MS = 20, EXTRA_S = 60 };

volatile sig_atomic_t demo_interrupted;

static const char usage[] =
    "Usage: nearcache-demo [OPTION]...\n"
    "Runs several servers with nearcache inside over one Redis, under load and faults, and checks every value read.\n"
    "\n"
    "  --seconds N        length of the run (20)\n"
    "  --bound MS         staleness bound (1000)\n"
    "  --processes N      servers, 1 to 16 (3)\n"
    "  --records N        records at most (20000)\n"
    "  --updates N        updates a second in each server (300)\n"
    "  --local-bytes SIZE local tier of each server (16m)\n"
    "  --seed N           of all that is random (new every time)\n"
    "  --no-faults        leave everything in peace\n"
    "  --kill -SIG TIME   one fault only: this signal to Redis (STOP, KILL, TERM, INT), undone after TIME (5s, 500ms)\n"
    "  --sabotage HOW     checks the checker: \"stale\" puts old values into Redis behind everybody's back, "
    "\"damaged\"\n"
    "                     changed ones; the run must then end with status 4\n"
    "  --redis-server P   the program to run (redis-server)\n"
    "  --folder DIR       where the run's temporary folder is made (beside this program)\n"
    "  --json FILE        also write the results as JSON\n"
    "  --verbose          also show what the servers logged\n"
    "  --help             this text\n"
    "\n"
    "Exit status: 0 no violation, 4 violations, 1 it could not run, 2 bad arguments.\n";

void demo_sleep_ms(int ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&ts, NULL);
}

static void on_signal(int sig)
{
    demo_interrupted = sig;
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

static int parse_signal(const char *text, int *ret)
{
    static const struct {
        const char *name;
        int number;
    } names[] = {{"STOP", SIGSTOP}, {"KILL", SIGKILL}, {"TERM", SIGTERM}, {"INT", SIGINT}};
    const char *name = text + (*text == '-');
    name += strncmp(name, "SIG", 3) == 0 ? 3 : 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i].name) == 0 || strtol(name, NULL, 10) == names[i].number)
            return *ret = names[i].number, 0;
    return argument_refused("--kill", text, "-STOP, -KILL, -TERM or -INT is needed");
}

static int parse_time(const char *text, int *ret_ms)
{
    char *end;
    double number = strtod(text, &end), ms = strcmp(end, "ms") == 0 ? number : number * 1000;
    if (end == text || (*end && strcmp(end, "s") != 0 && strcmp(end, "ms") != 0) || !(ms >= 1 && ms <= 60000))
        return argument_refused("--kill", text, "a time up to 60s is needed, such as 5s or 500ms");
    *ret_ms = (int)ms;
    return 0;
}

static int parse_kill(struct demo_options *o, int argc, char **argv, const char *sig)
{
    int result = parse_signal(sig, &o->kill_signal);
    if (result != 0)
        return result;
    if (optind >= argc)
        return argument_refused("--kill", sig, "a time is needed behind the signal, such as 5s");
    return parse_time(argv[optind++], &o->kill_ms);
}

static int parse_sabotage(struct demo_options *o, const char *text)
{
    if (strcmp(text, "stale") == 0)
        o->sabotage = SABOTAGE_STALE;
    else if (strcmp(text, "damaged") == 0)
        o->sabotage = SABOTAGE_DAMAGED;
    else
        return argument_refused("--sabotage", text, "stale or damaged is needed");
    return 0;
}

enum {
    OPT_SECONDS = 1,
    OPT_BOUND,
    OPT_PROCESSES,
    OPT_RECORDS,
    OPT_UPDATES,
    OPT_LOCAL,
    OPT_SEED,
    OPT_NO_FAULTS,
    OPT_KILL,
    OPT_SABOTAGE,
    OPT_REDIS,
    OPT_FOLDER,
    OPT_JSON,
    OPT_VERBOSE,
    OPT_HELP
};

static int apply(struct demo_options *o, int argc, char **argv, int option)
{
    switch (option) {
    case OPT_SECONDS:
        return argument_number("--seconds", optarg, 3, 86400, &o->seconds);
    case OPT_BOUND:
        return argument_number("--bound", optarg, 10, 60000, &o->bound_ms);
    case OPT_PROCESSES:
        return argument_number("--processes", optarg, 1, BOARD_PROCESSES, &o->processes);
    case OPT_RECORDS:
        return argument_number("--records", optarg, 100, 1000000, &o->records);
    case OPT_UPDATES:
        return argument_number("--updates", optarg, 1, 100000, &o->updates_per_s);
    case OPT_LOCAL:
        return o->local_bytes = optarg, 0;
    case OPT_SEED:
        return argument_seed("--seed", optarg, &o->seed);
    case OPT_NO_FAULTS:
        return o->faults = 0, 0;
    case OPT_KILL:
        return parse_kill(o, argc, argv, optarg);
    case OPT_SABOTAGE:
        return parse_sabotage(o, optarg);
    case OPT_REDIS:
        return o->redis_server = optarg, 0;
    case OPT_FOLDER:
        return o->folder = optarg, 0;
    case OPT_JSON:
        return o->json = optarg, 0;
    case OPT_VERBOSE:
        return o->verbose = 1, 0;
    case OPT_HELP:
        return fputs(usage, stdout), -1;
    default:
        return fprintf(stderr, "Try 'nearcache-demo --help'.\n"), EXIT_USAGE;
    }
}

/* 0; -1: done already; otherwise the exit status. */
static int options_parse(struct demo_options *o, int argc, char **argv)
{
    static const struct option list[] = {
        {"seconds", required_argument, NULL, OPT_SECONDS},
        {"bound", required_argument, NULL, OPT_BOUND},
        {"processes", required_argument, NULL, OPT_PROCESSES},
        {"records", required_argument, NULL, OPT_RECORDS},
        {"updates", required_argument, NULL, OPT_UPDATES},
        {"local-bytes", required_argument, NULL, OPT_LOCAL},
        {"seed", required_argument, NULL, OPT_SEED},
        {"no-faults", no_argument, NULL, OPT_NO_FAULTS},
        {"kill", required_argument, NULL, OPT_KILL},
        {"sabotage", required_argument, NULL, OPT_SABOTAGE},
        {"redis-server", required_argument, NULL, OPT_REDIS},
        {"folder", required_argument, NULL, OPT_FOLDER},
        {"json", required_argument, NULL, OPT_JSON},
        {"verbose", no_argument, NULL, OPT_VERBOSE},
        {"help", no_argument, NULL, OPT_HELP},
        {0},
    };
    int option, result;
    *o = (struct demo_options){.seconds = 20,
                               .bound_ms = 1000,
                               .processes = 3,
                               .records = 20000,
                               .updates_per_s = 300,
                               .faults = 1,
                               .local_bytes = "16m",
                               .seed = (uint64_t)board_now() * UINT64_C(0x9e3779b97f4a7c15) >> 32};
    /* '+': what stands behind an option's value is not moved, so that --kill finds its time */
    while ((option = getopt_long(argc, argv, "+", list, NULL)) != -1)
        if ((result = apply(o, argc, argv, option)) != 0)
            return result;
    return optind < argc ? argument_refused("argument", argv[optind], "not expected") : 0;
}

/* ---------------------------------------------------------------- before the run */

/* Readers may use six tenths of the processors together; the rest is for Redis, the library's own threads and us. */
static uint32_t reader_duty(uint32_t readers)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t permille = (uint32_t)(600 * (processors > 0 ? processors : 1)) / readers;
    return permille > 900 ? 900 : permille < 20 ? 20 : permille;
}

static void board_fill(struct demo *demo, const struct catalogue *c)
{
    struct board *board = demo->board;
    const struct demo_options *o = &demo->options;
    board->processes = (uint32_t)o->processes;
    board->readers = 2;
    board->updates_per_s = (uint32_t)o->updates_per_s;
    board->duty_permille = reader_duty(board->readers * board->processes);
    board->seed = o->seed;
    board->bound_ns = o->bound_ms * INT64_C(1000000);
    board->timeout_ns = DEMO_TIMEOUT_MS * INT64_C(1000000);
    for (uint32_t i = 0; i < c->count; i++)
        board->records[i] = (struct board_record){.key_offset = c->entries[i].key_offset,
                                                  .key_size = c->entries[i].key_size,
                                                  .body_offset = c->entries[i].body_offset,
                                                  .body_size = c->entries[i].body_size};
    memcpy((char *)board + board->text_offset, c->text, c->text_size);
}

static int board_make(struct demo *demo)
{
    struct catalogue catalogue;
    char path[4200];
    int result = catalogue_collect(&catalogue, (uint32_t)demo->options.records, demo->options.seed);
    demo_path(demo, path, sizeof path, "board", -1);
    if (result == 0 && (demo->board = board_create(path, catalogue.count, catalogue.text_size))) {
        board_fill(demo, &catalogue);
        result = board_prepare(demo->board, 0.99);
    } else {
        result = -1;
    }
    if (result < 0)
        fprintf(stderr, "nearcache-demo: cannot set up shared memory: %s\n", strerror(errno));
    demo->packages = catalogue.packages;
    demo->files = catalogue.files;
    demo->generated = catalogue.generated;
    catalogue_fini(&catalogue);
    return result;
}

static int prepare(struct demo *demo)
{
    if (board_make(demo) < 0)
        return -1;
    report_begin(demo);
    if (redis_start(demo) < 0 || redis_wait(demo, 10000) < 0 || records_load(demo) < 0 || servers_start(demo) < 0)
        return -1;
    if (clients_start(demo) < 0 || sabotage_start(demo) < 0) {
        fprintf(stderr, "nearcache-demo: cannot start a thread\n");
        return -1;
    }
    return 0;
}

/* ---------------------------------------------------------------- the run */

static void set_phase(struct demo *demo, enum board_phase phase)
{
    atomic_store(&demo->board->phase, phase);
}

/* Runs for the time that was asked for, and until the last fault is over. */
static void run(struct demo *demo)
{
    int64_t end, give_up, next;
    demo->started_ns = board_now();
    end = demo->started_ns + demo->options.seconds * INT64_C(1000000000);
    give_up = end + EXTRA_S * INT64_C(1000000000);
    next = demo->started_ns + INT64_C(1000000000);
    faults_plan(demo);
    set_phase(demo, PHASE_RUN);
    for (int64_t now = demo->started_ns; !demo_interrupted && (now < end || (!faults_done(demo) && now < give_up));
         now = board_now()) {
        faults_step(demo);
        if (now >= next) {
            report_second(demo);
            next += INT64_C(1000000000);
        }
        demo_sleep_ms(TICK_MS);
    }
    if (!faults_done(demo) && !demo_interrupted)
        board_violation(demo->board, VIOLATION_RECOVERY, 0, -1, 0, 0, 0);
    demo->stopped_ns = board_now();
}

static int all_swept(const struct demo *demo)
{
    for (uint32_t p = 0; p < demo->board->processes; p++)
        if (!atomic_load(&demo->board->process[p].swept))
            return 0;
    return 1;
}

/* Writers stop, a bound passes, then every process reads every updated record once more: all must have the last one. */
static void settle_and_sweep(struct demo *demo)
{
    int64_t give_up;
    set_phase(demo, PHASE_SETTLE);
    for (int waited = 0; waited < demo->options.bound_ms + DEMO_TIMEOUT_MS && !demo_interrupted; waited += TICK_MS)
        demo_sleep_ms(TICK_MS);
    set_phase(demo, PHASE_SWEEP);
    give_up = board_now() + INT64_C(20) * 1000000000;
    while (!all_swept(demo) && board_now() < give_up && !demo_interrupted)
        demo_sleep_ms(TICK_MS);
    for (uint32_t p = 0; p < demo->board->processes && !demo_interrupted; p++)
        if (!atomic_load(&demo->board->process[p].swept))
            board_violation(demo->board, VIOLATION_RECOVERY, p, -1, 0, 0, 0);
}

static int finish(struct demo *demo, int prepared)
{
    if (demo->board)
        set_phase(demo, PHASE_END);
    if (demo->redis > 0) /* an interrupt may have come while somebody was stopped */
        kill(demo->redis, SIGCONT);
    for (int i = 0; i < BOARD_PROCESSES; i++)
        if (demo->servers[i] > 0)
            kill(demo->servers[i], SIGCONT);
    clients_join(demo);
    sabotage_join(demo);
    servers_end(demo);
    redis_end(demo);
    if (!prepared || demo_interrupted)
        return demo_interrupted ? 128 + demo_interrupted : EXIT_CANNOT;
    report_end(demo);
    if (demo->options.json && report_json(demo, demo->options.json) < 0) {
        fprintf(stderr, "nearcache-demo: cannot write %s: %s\n", demo->options.json, strerror(errno));
        return EXIT_CANNOT;
    }
    return board_violations(demo->board) > 0 ? EXIT_VIOLATIONS : 0;
}

int main(int argc, char **argv)
{
    static struct demo demo = {.redis = -1};
    int result = options_parse(&demo.options, argc, argv), prepared;
    if (result != 0)
        return result < 0 ? 0 : result;
    catch_signals();
    if (servers_find(&demo) < 0 || folder_open(&demo.folder, demo.options.folder) < 0)
        return EXIT_CANNOT;
    if ((prepared = prepare(&demo) == 0)) {
        run(&demo);
        settle_and_sweep(&demo);
    }
    result = finish(&demo, prepared);
    board_close(demo.board);
    folder_close(&demo.folder);
    return result;
}
