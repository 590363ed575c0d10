/* coordinator/cli/apikey.c - `trireme apikey`: who may use a gateway, and how much. */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/gateway/auth.h"

enum { OPT_REQUESTS = 256, OPT_TOKENS, OPT_CONCURRENT, OPT_ADMIN };

typedef struct apikey_args {
    const char *verb, *path, *name;
    auth_limits limits;
    bool admin, limited;
} apikey_args;

static const struct argp_option options[] = {
    {"requests", OPT_REQUESTS, "N", 0, "With add: at most N requests a minute (default unlimited)", 0},
    {"tokens", OPT_TOKENS, "N", 0, "With add: at most N tokens a minute, prompts and answers together (default unlimited)", 0},
    {"concurrent", OPT_CONCURRENT, "N", 0, "With add: at most N requests at once (default unlimited)", 0},
    {"admin", OPT_ADMIN, NULL, 0, "With add: may also use the routes that change the server", 0},
    {0},
};

static const char doc[] =
    "Adds, lists and removes the API keys of a gateway."
    "\v"
    "  add FILE NAME      draws a key for NAME and prints it, this once: FILE holds only its salted SHA-256\n"
    "  list FILE          names and limits\n"
    "  remove FILE NAME   NAME's key opens nothing any more\n"
    "\n"
    "FILE is made if it is not there, with mode 0600. A gateway that was started with `--api-keys FILE` sees a change within a second, without "
    "a restart. Who is over a limit gets status 429 and is told when to come back.\n"
    "\n"
    "Clients show a key as `Authorization: Bearer KEY`, which OpenAI's libraries do with OPENAI_API_KEY, or as `x-api-key: KEY`.\n"
    "\n"
    "Examples:\n"
    "  trireme apikey add keys.txt alice\n"
    "  trireme apikey add keys.txt batch --requests 600 --tokens 200000 --concurrent 8\n"
    "  export OPENAI_API_KEY=$(trireme apikey add keys.txt script)\n"
    "  trireme apikey list keys.txt\n"
    "  trireme apikey remove keys.txt alice\n"
    "\n"
    "Exit code: 0 done, 1 failed while running, 2 wrong use: a name that is taken or not there, a file that is not one of keys.";

static void take_argument(struct argp_state *state, apikey_args *a, const char *arg)
{
    const char **fields[] = {&a->verb, &a->path, &a->name};
    if (state->arg_num >= ARRAY_LEN(fields))
        argp_error(state, "unexpected argument \"%s\"", arg);
    else
        *fields[state->arg_num] = arg;
}

static void check(struct argp_state *state, const apikey_args *a)
{
    bool add = a->verb != NULL && strcmp(a->verb, "add") == 0, list = a->verb != NULL && strcmp(a->verb, "list") == 0;
    bool known = add || list || (a->verb != NULL && strcmp(a->verb, "remove") == 0);
    if (!known)
        argp_error(state, "give add, list or remove");
    else if (a->path == NULL)
        argp_error(state, "%s: a file of keys is needed", a->verb);
    else if (!list && a->name == NULL)
        argp_error(state, "%s: a name is needed", a->verb);
    else if (list && a->name != NULL)
        argp_error(state, "list: unexpected argument \"%s\"", a->name);
    else if (!add && a->limited)
        argp_error(state, "limits go with add");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    apikey_args *a = state->input;
    a->limited = a->limited || (key >= OPT_REQUESTS && key <= OPT_ADMIN);
    switch (key) {
    case OPT_REQUESTS:
        a->limits.requests_per_min = cli_arg_int(state, "requests", arg, 1, INT32_MAX);
        return 0;
    case OPT_TOKENS:
        a->limits.tokens_per_min = cli_arg_int(state, "tokens", arg, 1, INT32_MAX);
        return 0;
    case OPT_CONCURRENT:
        a->limits.max_concurrent = cli_arg_int(state, "concurrent", arg, 1, INT32_MAX);
        return 0;
    case OPT_ADMIN:
        a->admin = true;
        return 0;
    case ARGP_KEY_ARG:
        take_argument(state, a, arg);
        return 0;
    case ARGP_KEY_END:
        check(state, a);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void show_amount(const char *name, int64_t n)
{
    if (n > 0)
        printf("  %s %" PRId64, name, n);
}

static void show(void *arg, const auth_key *k)
{
    (void)arg;
    printf("%s%s", k->name, k->admin ? "  admin" : "");
    show_amount("requests/min", k->limits.requests_per_min);
    show_amount("tokens/min", k->limits.tokens_per_min);
    show_amount("at once", k->limits.max_concurrent);
    printf("\n");
}

static status add(const apikey_args *a)
{
    char key[AUTH_KEY_TEXT];
    TRY(auth_file_add(a->path, a->name, &a->limits, a->admin, key));
    printf("%s\n", key);
    explicit_bzero(key, sizeof(key));
    log_info("the key of %s, shown this once", a->name);
    return ST_OK;
}

static status run(const apikey_args *a)
{
    if (strcmp(a->verb, "add") == 0)
        return add(a);
    if (strcmp(a->verb, "list") == 0)
        return auth_file_list(a->path, show, NULL);
    TRY(auth_file_remove(a->path, a->name));
    printf("%s: removed\n", a->name);
    return ST_OK;
}

int cli_apikey(int argc, char **argv)
{
    apikey_args a = {0};
    struct argp argp = {options, parse, "add FILE NAME\nlist FILE\nremove FILE NAME", doc, NULL, NULL, NULL};
    cli_parse(&argp, argc, argv, &a);
    status_mute(); /* reported once, below */
    status st = run(&a);
    status_unmute();
    return cli_finish_output(st == ST_OK ? 0 : cli_report(st));
}
