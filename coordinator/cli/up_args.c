#include "coordinator/cli/up_args.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/config.h"

enum { OPT_REPLICAS = 0x1000, OPT_PORT, OPT_HOST, OPT_API_KEY, OPT_JSON, OPT_LIMIT, OPT_DRAIN, OPT_START, FORWARD_BASE = 0x100000, FORWARD_STEP = 0x100000 };

static const struct argp_option own[] = {
    {NULL, 0, NULL, 0, "The service:", 1},
    {"replicas", OPT_REPLICAS, "R", 0, "Replicas of the checkpoint, each on tp x pp ranks of this machine (default 1)", 0},
    {"host", OPT_HOST, "HOST", 0, "Address to listen on; 0.0.0.0: every one (default 127.0.0.1)", 0},
    {"port", OPT_PORT, "P", 0, "Port to listen on; 0: any free one (default 8000)", 0},
    {"api-key", OPT_API_KEY, "KEY", 0, "The key that clients must show; better in $TRIREME_API_KEY, since a command line can be seen by all (default: one is drawn)", 0},
    {"json", OPT_JSON, NULL, 0, "When ready, one line on standard output: {\"url\", \"api_key\", \"model\"}", 0},
    {"restart-limit", OPT_LIMIT, "N", 0, "Times in a row that a process is started again (default 5)", 0},
    {"drain", OPT_DRAIN, "SECONDS", 0, "On Ctrl-C or SIGTERM, longest wait for answers under way (default 30)", 0},
    {"start-timeout", OPT_START, "SECONDS", 0, "Longest wait until all replicas are ready (default 3600)", 0},
    {0},
};

/* What `up` sets for its children by itself. */
static const char *const decided[] = {"config", "config-origin", "listen", "keys", "api-keys", "gateway", "name", "key", "plain"};

/* ---- the tables of the two commands, without what is ours ---- */

typedef struct forward_table {
    const char *command;
    struct argp_option *of;
    int n, base;
    struct argp argp;
} forward_table;

static forward_table tables[2] = {{.command = "gateway"}, {.command = "replica"}}; /* made once */
static struct argp_child children[3];
static struct argp up_argp;

static bool ends(const struct argp_option *o)
{
    return o->name == NULL && o->key == 0 && o->doc == NULL && o->group == 0;
}

static bool is_ours(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(decided); i++) {
        if (strcmp(decided[i], name) == 0)
            return true;
    }
    for (const struct argp_option *o = own; !ends(o); o++) {
        if (o->name != NULL && strcmp(o->name, name) == 0)
            return true;
    }
    return false;
}

static bool short_is_taken(int key)
{
    for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
        for (int i = 0; i < tables[t].n; i++) {
            if (tables[t].of[i].key == key)
                return true;
        }
    }
    return false;
}

static int count(const struct argp *argp)
{
    int n = 0;
    for (const struct argp_option *o = argp->options; o != NULL && !ends(o); o++)
        n++;
    for (const struct argp_child *c = argp->children; c != NULL && c->argp != NULL; c++)
        n += count(c->argp);
    return n;
}

/* Each option gets a key of its own, so that the parser knows which one came; short names stay as far as they are free. */
static void collect(const struct argp *argp, forward_table *t)
{
    bool skipped = false;
    for (const struct argp_option *o = argp->options; o != NULL && !ends(o); o++) {
        bool alias = (o->flags & OPTION_ALIAS) != 0;
        if (o->name != NULL)
            skipped = is_ours(o->name) || (alias && skipped);
        if (o->name != NULL && skipped)
            continue;
        struct argp_option *to = &t->of[t->n];
        *to = *o;
        if (o->name != NULL && !alias && !(o->key > 0 && o->key < 0x7f && isprint(o->key) && !short_is_taken(o->key)))
            to->key = t->base + t->n;
        t->n++;
    }
    for (const struct argp_child *c = argp->children; c != NULL && c->argp != NULL; c++)
        collect(c->argp, t);
}

static const cli_command *command_find(const char *name)
{
    for (const cli_command *c = cli_commands; c->name != NULL; c++) {
        if (strcmp(c->name, name) == 0)
            return c;
    }
    return NULL;
}

static status forward_add(cli_forward *f, const char *name, const char *value)
{
    char **grown = realloc(f->of, ((size_t)f->n + 2) * sizeof(*grown));
    if (grown == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for options");
    f->of = grown;
    if (asprintf(&f->of[f->n], value != NULL ? "--%s=%s" : "--%s", name, value) < 0)
        return FAIL(ST_NO_MEMORY, "no memory for options");
    f->of[++f->n] = NULL;
    return ST_OK;
}

static const struct argp_option *option_of_key(int key)
{
    for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
        for (int i = 0; i < tables[t].n; i++) {
            const struct argp_option *o = &tables[t].of[i];
            if (o->key == key && o->name != NULL && (o->flags & OPTION_ALIAS) == 0)
                return o;
        }
    }
    return NULL;
}

static bool has(const forward_table *t, const char *name)
{
    for (int i = 0; i < t->n; i++) {
        if (t->of[i].name != NULL && strcmp(t->of[i].name, name) == 0)
            return true;
    }
    return false;
}

/* An option that both have is meant for both. */
static error_t forward_parse(int key, char *arg, struct argp_state *state)
{
    cli_up_args *a = state->input;
    const struct argp_option *o = key > 0 && key < ARGP_KEY_FINI ? option_of_key(key) : NULL;
    if (o == NULL)
        return ARGP_ERR_UNKNOWN;
    if ((has(&tables[0], o->name) && forward_add(&a->gateway, o->name, arg) != ST_OK) ||
        (has(&tables[1], o->name) && forward_add(&a->replica, o->name, arg) != ST_OK))
        exit(1);
    return 0;
}

static void table_make(forward_table *t, int base)
{
    const cli_command *c = command_find(t->command);
    const struct argp *argp = c != NULL && c->argp != NULL ? c->argp() : NULL;
    if (mem_calloc(argp != NULL ? (size_t)count(argp) + 1 : 1, sizeof(*t->of), "options", &t->of) != ST_OK)
        exit(1);
    t->base = base;
    if (argp != NULL)
        collect(argp, t);
    t->argp = (struct argp){t->of, forward_parse, NULL, NULL, NULL, NULL, NULL};
}

/* ---- our own ---- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
    cli_up_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[1] = a;
        return 0;
    case OPT_REPLICAS:
        a->replicas = cli_arg_int(state, "replicas", arg, 1, 1024);
        return 0;
    case OPT_PORT:
        a->port = cli_arg_int(state, "port", arg, 0, 65535);
        return 0;
    case OPT_HOST:
        a->host = arg;
        return 0;
    case OPT_API_KEY:
        a->api_key = arg;
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case OPT_LIMIT:
        a->restart_limit = cli_arg_int(state, "restart-limit", arg, 0, 1 << 20);
        return 0;
    case OPT_DRAIN:
        a->drain_seconds = cli_arg_number(state, "drain", arg, 0, 86400);
        return 0;
    case OPT_START:
        a->start_seconds = cli_arg_number(state, "start-timeout", arg, 1, 86400);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\": give the checkpoint with -m", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const char doc[] =
    "Serves a checkpoint on this machine: starts a gateway and its replicas, watches over them, and says where to ask."
    "\v"
    "Examples:\n"
    "  trireme up -m model.gguf\n"
    "  trireme up -m org/name --tp 2 --pp 2 --port 8080\n"
    "  trireme up -m model.gguf --replicas 2 --json > service.json &\n"
    "\n"
    "A process that ends is started again, after 0.5 s, 1 s, 2 s ... up to 30 s, --restart-limit times in a row.  Ctrl-C or SIGTERM drains: nothing new is "
    "accepted, answers under way are finished within --drain; a second one ends at once.  All other options are those of `trireme gateway` and "
    "`trireme replica`, which are handed to them.  Options may stand in a file: see `trireme config`.";

const struct argp *cli_up_argp(void)
{
    if (tables[0].of == NULL) {
        table_make(&tables[0], FORWARD_BASE);
        table_make(&tables[1], FORWARD_BASE + FORWARD_STEP);
        children[0] = (struct argp_child){&tables[1].argp, 0, "The checkpoint, and other options of each replica:", 2};
        children[1] = (struct argp_child){&tables[0].argp, 0, "Other options of the gateway:", 3};
        up_argp = (struct argp){own, parse, NULL, doc, children, NULL, NULL};
    }
    return &up_argp;
}

/* ---- values that we need ourselves ---- */

/* The last one given in `f`, else in the command's section of the file; NULL: neither.  "" for an option without a value. */
static const char *value_of(const cli_forward *f, const char *command, const char *name)
{
    size_t len = strlen(name);
    for (int i = f->n; i-- > 0;) {
        const char *s = f->of[i] + 2;
        if (strncmp(s, name, len) == 0 && (s[len] == '=' || s[len] == '\0'))
            return s[len] == '=' ? s + len + 1 : "";
    }
    return cli_config_get(cli_config_current(), command, name, NULL);
}

static int32_t number_of(const cli_up_args *a, const char *name)
{
    long v = 1;
    const char *text = value_of(&a->replica, "replica", name);
    if (text != NULL && !cli_parse_int(text, 1, 65536, &v)) {
        log_error("--%s %s: a whole number from 1 to 65536 is needed", name, text);
        exit(2);
    }
    return (int32_t)v;
}

void cli_up_parse(int argc, char **argv, cli_up_args *a)
{
    *a = (cli_up_args){.host = "127.0.0.1", .api_key = getenv("TRIREME_API_KEY"), .port = 8000, .replicas = 1, .restart_limit = 5,
                       .drain_seconds = 30, .start_seconds = 3600};
    cli_parse_config("up", cli_up_argp(), argc, argv, a);
    a->model = value_of(&a->replica, "replica", "model");
    if (a->model == NULL) {
        log_error("no model: give one with -m MODEL");
        exit(2);
    }
    const char *offline = value_of(&a->replica, "replica", "offline");
    a->revision = value_of(&a->replica, "replica", "revision");
    a->offline = offline != NULL && strcmp(offline, "false") != 0;
    a->tp = number_of(a, "tp");
    a->pp = number_of(a, "pp");
    a->threads_given = value_of(&a->replica, "replica", "threads") != NULL;
    a->memory_given = value_of(&a->replica, "replica", "memory") != NULL;
    a->tls = value_of(&a->gateway, "gateway", "tls-cert") != NULL;
}

static void forward_free(cli_forward *f)
{
    for (int i = 0; i < f->n; i++)
        free(f->of[i]);
    free(f->of);
    *f = (cli_forward){0};
}

void cli_up_args_free(cli_up_args *a)
{
    forward_free(&a->gateway);
    forward_free(&a->replica);
}
