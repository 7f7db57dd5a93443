/* SPDX-License-Identifier: BSD-3-Clause
 * The command line. */
#include "server.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: resp-server [OPTION]...\n"
    "A Redis-speaking server with nearcache inside: hits are answered from this process, the rest from Redis.\n"
    "\n"
    "  --port N             TCP port; 0 picks a free one (6380, unless --unixsocket is given)\n"
    "  --bind ADDRESS       IPv4 address to listen on (127.0.0.1)\n"
    "  --unixsocket PATH    listen on a unix socket\n"
    "  --redis URI          the remote tier ($REDIS_URL, or redis://127.0.0.1:6379)\n"
    "  --threads N          worker threads (4)\n"
    "  --local-bytes SIZE   budget of the local tier, such as 64m\n"
    "  --bound MS           staleness bound in milliseconds\n"
    "  --name TEXT          name in INFO, and of the connections in Redis (resp-server)\n"
    "  --option NAME=VALUE  any other option of nearcache; --option help lists them\n"
    "  --max-clients N      connections at most (10000)\n"
    "  --max-bulk SIZE      largest argument (64m)\n"
    "  --max-output SIZE    a client with more unread output is closed (256m)\n"
    "  --help               this text\n"
    "\n"
    "Prints one line, \"ready port=... unixsocket=... pid=...\", and ends on SIGTERM or SIGINT.\n"
    "The environment's NEAR_<OPTION> variables are read first.\n"
    "\n"
    "Commands:\n";

enum {
    OPT_PORT = 1,
    OPT_BIND,
    OPT_UNIX,
    OPT_REDIS,
    OPT_THREADS,
    OPT_LOCAL,
    OPT_BOUND,
    OPT_NAME,
    OPT_OPTION,
    OPT_CLIENTS,
    OPT_BULK,
    OPT_OUTPUT,
    OPT_DEMO,
    OPT_HELP
};

static const struct option long_options[] = {
    {"port", required_argument, NULL, OPT_PORT},
    {"bind", required_argument, NULL, OPT_BIND},
    {"unixsocket", required_argument, NULL, OPT_UNIX},
    {"redis", required_argument, NULL, OPT_REDIS},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"local-bytes", required_argument, NULL, OPT_LOCAL},
    {"bound", required_argument, NULL, OPT_BOUND},
    {"name", required_argument, NULL, OPT_NAME},
    {"option", required_argument, NULL, OPT_OPTION},
    {"max-clients", required_argument, NULL, OPT_CLIENTS},
    {"max-bulk", required_argument, NULL, OPT_BULK},
    {"max-output", required_argument, NULL, OPT_OUTPUT},
    {"demo-load", required_argument, NULL, OPT_DEMO}, /* see demo_load.c; used by nearcache-demo */
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static int complain(const char *option, const char *text, const char *why)
{
    fprintf(stderr, "resp-server: %s %s: %s\n", option, text, why);
    return 2;
}

static int parse_number(const char *option, const char *text, long min, long max, int *ret)
{
    char *end, why[64];
    long number = strtol(text, &end, 10);
    if (end == text || *end || number < min || number > max) {
        snprintf(why, sizeof why, "a number from %ld to %ld is needed", min, max);
        return complain(option, text, why);
    }
    *ret = (int)number;
    return 0;
}

/* A size: bytes, or with k, m or g behind. */
static int parse_size(const char *option, const char *text, size_t max, size_t *ret)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    int shift = *end == 'k' ? 10 : *end == 'm' ? 20 : *end == 'g' ? 30 : 0;
    if (end == text || *text == '-' || end[shift > 0] || number == 0 || number > max >> shift)
        return complain(option, text, "a size such as 65536, 64k or 16m is needed, within Redis's limits");
    *ret = (size_t)number << shift;
    return 0;
}

static int cache_option(struct settings *s, const char *name, const char *text)
{
    near_error error = {0};
    if (near_option_set(&s->options, name, text, &error) < 0) {
        fprintf(stderr, "resp-server: %s\n", error.text);
        return 2;
    }
    return 0;
}

static int list_options(void)
{
    const near_option_info *info;
    for (size_t i = 0; (info = near_option_info_at(i)); i++)
        printf("%-20s %-9s %-12s %s\n", info->name, info->type, info->default_text ? info->default_text : "",
               info->sentence);
    return 1;
}

/* --option NAME=VALUE: the argument is cut in two in place, because the library keeps the text. */
static int named_option(struct settings *s, char *text)
{
    char *equals = strchr(text, '=');
    if (strcmp(text, "help") == 0)
        return list_options();
    if (!equals)
        return complain("--option", text, "NAME=VALUE is needed");
    *equals = 0;
    return cache_option(s, text, equals + 1);
}

static int apply(struct settings *s, int option, char *text)
{
    switch (option) {
    case OPT_PORT:
        return parse_number("--port", text, 0, 65535, &s->port);
    case OPT_BIND:
        return s->bind = text, 0;
    case OPT_UNIX:
        return s->unixsocket = text, 0;
    case OPT_REDIS:
        return s->redis = text, 0;
    case OPT_THREADS:
        return parse_number("--threads", text, 1, 1024, &s->threads);
    case OPT_LOCAL:
        return cache_option(s, "local_bytes", text);
    case OPT_BOUND:
        return cache_option(s, "bound_ms", text);
    case OPT_NAME:
        return s->name = text, 0;
    case OPT_OPTION:
        return named_option(s, text);
    case OPT_CLIENTS:
        return parse_number("--max-clients", text, 1, 1000000, &s->clients_max);
    case OPT_BULK:
        return parse_size("--max-bulk", text, NEAR_VALUE_MAX, &s->bulk_max);
    case OPT_OUTPUT:
        return parse_size("--max-output", text, SIZE_MAX / 8, &s->output_max);
    case OPT_DEMO:
        return s->demo_load = text, 0;
    case OPT_HELP:
        return fputs(usage, stdout), command_list(stdout), 1;
    default:
        return fprintf(stderr, "Try 'resp-server --help'.\n"), 2;
    }
}

static int name_is_fine(const char *name)
{
    for (const char *p = name; *p; p++)
        if (*p < '!' || *p > '~')
            return 0;
    return *name && strlen(name) < 64;
}

int settings_parse(struct settings *s, int argc, char **argv)
{
    near_error error = {0};
    int option, result;
    *s = (struct settings){.bind = "127.0.0.1", .name = "resp-server", .port = -1, .threads = 4, .clients_max = 10000};
    s->bulk_max = 64u << 20;
    s->output_max = 256u << 20;
    s->redis = getenv("REDIS_URL");
    near_options_init(&s->options);
    s->options.client_name = NULL; /* unless somebody says another one it is ours */
    if (near_options_from_environment(&s->options, &error) < 0) {
        fprintf(stderr, "resp-server: environment: %s\n", error.text);
        return 2;
    }
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        if ((result = apply(s, option, optarg)) != 0)
            return result;
    if (optind < argc)
        return complain("argument", argv[optind], "not expected");
    if (!name_is_fine(s->name))
        return complain("--name", s->name, "up to 63 printable characters without spaces are needed");
    if (!s->redis || !*s->redis)
        s->redis = "redis://127.0.0.1:6379";
    if (s->port < 0 && !s->unixsocket)
        s->port = 6380;
    if (!s->options.client_name)
        s->options.client_name = s->name;
    return 0;
}
