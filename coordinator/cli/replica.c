/* trireme replica: a checkpoint in service at a gateway. */
#include <argp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/config.h"
#include "coordinator/cli/replica_args.h"
#include "coordinator/service.h"
#include "trireme_version.h"

enum { DEFAULT_SEQS = 64, DEFAULT_WAITING = 1024, DEFAULT_LOGPROBS = 20, DEFAULT_STEP_TIMEOUT = 60 };

typedef struct replica_args {
    cli_replica_args replica;
    const char *gateway, *name, *keys, *key, *served;
    bool plain;
    coord_service_options service;
} replica_args;

enum { OPT_GATEWAY = 0x2000, OPT_NAME, OPT_KEYS, OPT_KEY, OPT_PLAIN, OPT_SERVED, OPT_WAITING, OPT_LOGPROBS, OPT_STEP_TIMEOUT, OPT_DRAIN };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "The gateway:", 1},
    {"gateway", OPT_GATEWAY, "ENDPOINT", 0, "Where the gateway takes replicas: tcp://HOST:7777 or ipc:///PATH", 0},
    {"name", OPT_NAME, "NAME", 0, "Name of this replica, unique at its gateway (default HOST-PID)", 0},
    {"keys", OPT_KEYS, "DIR", 0, "Folder of keys, as trireme keygen makes it (default ~/.config/trireme/keys)", 0},
    {"key", OPT_KEY, "NAME", 0, "Key pair in it that proves this replica (default replica)", 0},
    {"plain", OPT_PLAIN, NULL, 0, "Without encryption: anyone on the network may read and answer", 0},
    {NULL, 0, NULL, 0, "The service:", 2},
    {"served-model-name", OPT_SERVED, "NAME", 0, "Name that requests call the model by (default: from --model)", 0},
    {"max-waiting", OPT_WAITING, "N", 0, "Requests taken beyond those that run; more are sent back (default 1024)", 0},
    {"max-logprobs", OPT_LOGPROBS, "N", 0, "Most log-probabilities that a request may ask for (default 20)", 0},
    {"step-timeout", OPT_STEP_TIMEOUT, "SECONDS", 0, "Longest time without a step's end while there is work; then the job is ended (default 60)", 0},
    {"drain", OPT_DRAIN, "SECONDS", 0, "Longest drain after SIGTERM; what still runs then is sent back (default: as long as it takes)", 0},
    {0},
};

static const char doc[] =
    "Serves a checkpoint at a gateway, on one process or on the ranks of mpirun or srun.\v"
    "Examples:\n"
    "  trireme replica -m ./SmolLM2-135M-Instruct --gateway tcp://gateway.example:7777\n"
    "  mpirun -n 4 trireme replica -m model.gguf --tp 2 --pp 2 --gateway tcp://gateway.example:7777 --name a\n"
    "\n"
    "The replica connects to its gateway, and again whenever the connection is lost; until the gateway is there it waits.  Connections are encrypted, "
    "and the gateway admits known keys only: `trireme keygen` makes them.  At most --max-seqs requests run at once (here 64 by default).\n"
    "\n"
    "SIGTERM, SIGINT or SIGUSR1 on rank 0 drains: what runs ends, nothing more is taken, and the job exits with 0; a second one sends back what runs. "
    "(mpirun forwards SIGUSR1, and kills its ranks a second after a SIGTERM of its own; srun forwards both.)  A rank that dies, or a step that "
    "hangs, ends the job with exit code 1: start it again, and the gateway goes on where it was.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    replica_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->replica;
        return 0;
    case OPT_GATEWAY:
        a->gateway = arg;
        return 0;
    case OPT_NAME:
        a->name = arg;
        if (!wire_name_valid(arg))
            argp_error(state, "--name %s: letters, digits, '.', '_' and '-', at most %d, the first a letter or digit", arg, WIRE_NAME - 1);
        return 0;
    case OPT_KEYS:
        a->keys = arg;
        return 0;
    case OPT_KEY:
        a->key = arg;
        return 0;
    case OPT_PLAIN:
        a->plain = true;
        return 0;
    case OPT_SERVED:
        a->served = arg;
        return 0;
    case OPT_WAITING:
        a->service.max_waiting = cli_arg_int(state, "max-waiting", arg, 1, 1 << 20);
        return 0;
    case OPT_LOGPROBS:
        a->service.max_logprobs = cli_arg_int(state, "max-logprobs", arg, 0, 1 << 20);
        return 0;
    case OPT_STEP_TIMEOUT:
        a->service.step_timeout = cli_arg_number(state, "step-timeout", arg, 1, 1e6);
        return 0;
    case OPT_DRAIN:
        a->service.drain_seconds = cli_arg_number(state, "drain", arg, 0, 1e6);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    case ARGP_KEY_END:
        if (a->gateway == NULL)
            argp_error(state, "no gateway: give one with --gateway tcp://HOST:7777");
        if (a->plain && (a->keys != NULL || a->key != NULL))
            argp_error(state, "--plain uses no keys: leave out --keys and --key, or --plain");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{&cli_replica_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};

const struct argp *cli_replica_command_argp(void)
{
    return &argp;
}

/* ---- names ---- */

static void default_name(char name[WIRE_NAME])
{
    char host[WIRE_NAME - 12] = "";
    if (gethostname(host, sizeof(host) - 1) != 0 || host[0] == '\0')
        memcpy(host, "host", sizeof("host"));
    snprintf(name, WIRE_NAME, "%s-%ld", host, (long)getpid());
    if (!wire_name_valid(name))
        snprintf(name, WIRE_NAME, "replica-%ld", (long)getpid());
}

/* "dir/Name.gguf" and "dir/Name/" are served as "Name"; a hub name as it stands. */
static void default_served(const char *model, char *out, size_t cap)
{
    bool local = access(model, F_OK) == 0;
    size_t n = strlen(model);
    while (n > 1 && model[n - 1] == '/')
        n--;
    size_t from = n;
    while (local && from > 0 && model[from - 1] != '/')
        from--;
    if (!local)
        from = 0;
    if (n - from > 5 && strncmp(model + n - 5, ".gguf", 5) == 0)
        n -= 5;
    snprintf(out, cap, "%.*s", (int)(n - from), model + from);
}

/* ---- signals ---- */

static volatile sig_atomic_t n_signals;

static void on_signal(int number)
{
    (void)number;
    n_signals++;
}

static const int ending[] = {SIGTERM, SIGINT, SIGUSR1};

/* Ranks other than 0 end when rank 0 says so: a signal that mpirun or srun gives to all of them must not cut a drain short. */
static void signals_set(void (*handler)(int))
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
        sigaction(ending[i], &a, NULL);
}

/* ---- running ---- */

static status serve(replica_args *a, cli_replica *r, const wire_security *security)
{
    char name[WIRE_NAME], served[256];
    default_name(name);
    default_served(a->replica.options.model, served, sizeof(served));
    coord_service_options *o = &a->service;
    o->endpoint = a->gateway;
    o->security = security;
    o->name = a->name != NULL ? a->name : name;
    o->model = a->served != NULL ? a->served : served;
    o->version = TRIREME_VERSION " " TRIREME_COMMIT;
    o->max_seqs = a->replica.options.max_seqs;
    o->max_batched_tokens = a->replica.options.max_batched_tokens;
    o->signals = &n_signals;
    signals_set(on_signal);
    return coord_service_run(r->replica, r->reports, o);
}

/* Rank 0's; wrong keys are told before minutes of loading. */
static status security_make(const replica_args *a, int rank, wire_security *out)
{
    *out = (wire_security){.plain = a->plain};
    return a->plain || rank > 0 ? ST_OK : wire_security_replica(a->keys, a->key, out);
}

int cli_replica_command(int argc, char **argv)
{
    replica_args a = {.service = {.max_waiting = DEFAULT_WAITING, .max_logprobs = DEFAULT_LOGPROBS, .step_timeout = DEFAULT_STEP_TIMEOUT}};
    a.replica.options.max_seqs = DEFAULT_SEQS;
    a.replica.options.max_batched_tokens = COORD_BATCHED_TOKENS;
    a.replica.options.loads = a.replica.options.grammars = true;
    cli_parse_config("replica", &argp, argc, argv, &a);
    int n_ranks, rank;
    wire_security security;
    if (!comm_launched(&n_ranks, &rank))
        rank = 0;
    status st = security_make(&a, rank, &security);
    if (st != ST_OK)
        return status_exit_code(st);
    if (rank > 0)
        signals_set(SIG_IGN);
    cli_replica r;
    bool done;
    int code;
    cli_replica_start(&a.replica, &r, &done, &code);
    if (!done)
        code = cli_replica_finish(&r, serve(&a, &r, &security));
    wire_security_clear(&security);
    return code;
}
