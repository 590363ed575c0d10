/* trireme gateway: an OpenAI API for clients on one side, replicas that come and go on the other. */
#include <argp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/config.h"
#include "coordinator/gateway/gateway.h"
#include "trireme_version.h"

#define DEFAULT_LISTEN "127.0.0.1:8000"
#define DEFAULT_REPLICAS "tcp://127.0.0.1:7777"

typedef struct gateway_args {
    gateway_options options;
    const char *listen[16], *origins[16];
    double drain_seconds;
    bool quiet;
} gateway_args;

enum {
    OPT_LISTEN = 0x6000, OPT_REPLICAS, OPT_KEYS, OPT_PLAIN, OPT_NAME, OPT_API_KEYS, OPT_TLS_CERT, OPT_TLS_KEY, OPT_CORS, OPT_ACCESS_LOG, OPT_LOG_TEXT, OPT_VLLM,
    OPT_WORKERS, OPT_MAX_WAITING, OPT_MAX_WAITING_TOKENS, OPT_MAX_SEQUENCES, OPT_MAX_REPLAYS, OPT_REPLAY_WAIT, OPT_REQUEST_TIMEOUT, OPT_STALL, OPT_MAX_BODY,
    OPT_MAX_CONNECTIONS, OPT_STORE, OPT_DRAIN, OPT_TRACES, OPT_TRACE_RATIO
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Clients:", 1},
    {"listen", OPT_LISTEN, "HOST:PORT", 0, "Serve HTTP there: an address, \"*:8000\" for all, \"unix:PATH\"; may be repeated (default " DEFAULT_LISTEN ")", 0},
    {"api-keys", OPT_API_KEYS, "FILE", 0, "Let in only those with a key of this file (default: everybody)", 0},
    {"tls-cert", OPT_TLS_CERT, "FILE", 0, "Serve HTTPS with this certificate chain (PEM)", 0},
    {"tls-key", OPT_TLS_KEY, "FILE", 0, "... and its private key", 0},
    {"cors", OPT_CORS, "ORIGIN", 0, "Let pages of this origin, or of any (\"*\"), call the API; may be repeated", 0},
    {NULL, 0, NULL, 0, "Replicas:", 2},
    {"replicas", OPT_REPLICAS, "ENDPOINT", 0, "Where replicas come: tcp://HOST:PORT or ipc://PATH (default " DEFAULT_REPLICAS ")", 0},
    {"keys", OPT_KEYS, "DIR", 0, "Keys of `trireme keygen`: ours, and those of the replicas let in (default ~/.config/trireme/keys)", 0},
    {"plain", OPT_PLAIN, NULL, 0, "No encryption, and any replica is let in", 0},
    {"name", OPT_NAME, "NAME", 0, "How replicas' logs call this gateway (default gateway)", 0},
    {NULL, 0, NULL, 0, "Limits:", 3},
    {"max-waiting", OPT_MAX_WAITING, "N", 0, "Sequences waiting for their first token, beyond what replicas run at once, before clients get 429 (default 2048)", 0},
    {"max-waiting-tokens", OPT_MAX_WAITING_TOKENS, "N", 0, "Prompt tokens of those (default 4194304)", 0},
    {"max-sequences", OPT_MAX_SEQUENCES, "N", 0, "Prompts times n of one request (default 128)", 0},
    {"max-body", OPT_MAX_BODY, "BYTES", 0, "Size of a request (default 16MiB)", 0},
    {"max-connections", OPT_MAX_CONNECTIONS, "N", 0, "Connections of clients (default 4096)", 0},
    {"request-timeout", OPT_REQUEST_TIMEOUT, "SECONDS", 0, "A request that takes longer is ended (default 3600)", 0},
    {"replay-wait", OPT_REPLAY_WAIT, "SECONDS", 0, "A request whose replica died, or that finds none, waits so long for one (default 120)", 0},
    {"max-replays", OPT_MAX_REPLAYS, "N", 0, "Replicas that may fail in a row on one request (default 5)", 0},
    {"stall", OPT_STALL, "SECONDS", 0, "A replica with work that ends no step for so long gets no more; after twice as long it is dropped, and its requests go on elsewhere (default 60)", 0},
    {"store", OPT_STORE, "BYTES", 0, "Answers of /v1/responses kept for later (default 64MiB)", 0},
    {"workers", OPT_WORKERS, "N", 0, "Threads for requests, and as many for answers (default: as many as cores, 2 to 8)", 0},
    {"drain", OPT_DRAIN, "SECONDS", 0, "At SIGTERM, time for running requests to end (default 60)", 0},
    {NULL, 0, NULL, 0, "Logs, metrics and traces:", 4},
    {"access-log", OPT_ACCESS_LOG, "FILE|-", 0, "One line of JSON for each request", 0},
    {"log-text", OPT_LOG_TEXT, NULL, 0, "Prompts and answers may appear in logs", 0},
    {"vllm-metrics", OPT_VLLM, NULL, 0, "Show metrics under vLLM's names as well, for boards made for it", 0},
    {"otlp-traces-endpoint", OPT_TRACES, "URL", 0, "Send a trace of each request to this collector, by OTLP over HTTP, as in http://127.0.0.1:4318 (headers: the environment's OTEL_EXPORTER_OTLP_HEADERS)", 0},
    {"trace-ratio", OPT_TRACE_RATIO, "R", 0, "Of requests without a traceparent header, the part that is traced, 0 to 1 (default 1)", 0},
    {0},
};

static const char doc[] =
    "Serves an OpenAI API, and passes its requests on to the replicas that have joined.\v"
    "Example, on one machine:\n"
    "  trireme keygen\n"
    "  trireme gateway &\n"
    "  mpirun -n 4 trireme replica -m ./SmolLM2-135M-Instruct --tp 2 --pp 2 --gateway " DEFAULT_REPLICAS " &\n"
    "  curl http://127.0.0.1:8000/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'\n"
    "`trireme up -m MODEL` does all of that.\n"
    "\n"
    "A gateway needs no checkpoint: replicas bring its text files along.  Several replicas of a checkpoint share its requests: each goes where most of its prompt is cached, "
    "then where least is going on.  When a replica dies, its requests go on at another one that computes alike, or after its restart, from the token where they were.\n"
    "\n"
    "Routes: /v1/models, /v1/completions, /v1/chat/completions, /v1/responses, /v1/embeddings, /tokenize, /detokenize, /health, /ping, /version, /load, /metrics, /state.\n"
    "\n"
    "SIGTERM or SIGINT: refuses new requests, lets those at work end, then exits with 0; a second one ends at once.  SIGHUP: opens the access log and reads API keys "
    "again.";

static void add_text(struct argp_state *state, const char *name, const char *text, const char **list, int *n, int cap)
{
    if (*n == cap)
        argp_error(state, "--%s: %d times at most", name, cap);
    list[(*n)++] = text;
}

static error_t parse_limit(int key, char *arg, struct argp_state *state, gateway_options *o)
{
    switch (key) {
    case OPT_MAX_WAITING:
        o->max_waiting = cli_arg_int(state, "max-waiting", arg, 1, 1 << 24);
        return 0;
    case OPT_MAX_WAITING_TOKENS:
        o->max_waiting_tokens = cli_arg_int(state, "max-waiting-tokens", arg, 1, INT32_MAX);
        return 0;
    case OPT_MAX_SEQUENCES:
        o->max_sequences = cli_arg_int(state, "max-sequences", arg, 1, 1 << 16);
        return 0;
    case OPT_MAX_BODY:
        o->max_body = cli_arg_bytes(state, "max-body", arg);
        return 0;
    case OPT_MAX_CONNECTIONS:
        o->max_connections = cli_arg_int(state, "max-connections", arg, 1, 1 << 20);
        return 0;
    case OPT_REQUEST_TIMEOUT:
        o->request_seconds = cli_arg_number(state, "request-timeout", arg, 0.1, 1e7);
        return 0;
    case OPT_REPLAY_WAIT:
        o->replay_seconds = cli_arg_number(state, "replay-wait", arg, 0.1, 1e7);
        return 0;
    case OPT_MAX_REPLAYS:
        o->max_replays = cli_arg_int(state, "max-replays", arg, 1, 1000);
        return 0;
    case OPT_STALL:
        o->stall_seconds = cli_arg_number(state, "stall", arg, 0.1, 1e7);
        return 0;
    case OPT_STORE:
        o->stored_bytes = cli_arg_bytes(state, "store", arg);
        return 0;
    case OPT_WORKERS:
        o->n_workers = cli_arg_int(state, "workers", arg, 1, 256);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    gateway_args *a = state->input;
    gateway_options *o = &a->options;
    switch (key) {
    case OPT_LISTEN:
        add_text(state, "listen", arg, a->listen, &o->n_listen, (int)ARRAY_LEN(a->listen));
        return 0;
    case OPT_CORS:
        add_text(state, "cors", arg, a->origins, &o->n_cors_origins, (int)ARRAY_LEN(a->origins));
        return 0;
    case OPT_API_KEYS:
        o->api_keys = arg;
        return 0;
    case OPT_TLS_CERT:
        o->tls_cert = arg;
        return 0;
    case OPT_TLS_KEY:
        o->tls_key = arg;
        return 0;
    case OPT_REPLICAS:
        o->replicas = arg;
        return 0;
    case OPT_KEYS:
        o->keys_dir = arg;
        return 0;
    case OPT_PLAIN:
        o->plain = true;
        return 0;
    case OPT_NAME:
        o->name = arg;
        return 0;
    case OPT_DRAIN:
        a->drain_seconds = cli_arg_number(state, "drain", arg, 0, 1e6);
        return 0;
    case OPT_ACCESS_LOG:
        o->access_log = arg;
        return 0;
    case OPT_LOG_TEXT:
        o->log_text = true;
        return 0;
    case OPT_VLLM:
        o->vllm_metrics = true;
        return 0;
    case OPT_TRACES:
        o->otlp_endpoint = arg;
        return 0;
    case OPT_TRACE_RATIO:
        o->trace_ratio = cli_arg_number(state, "trace-ratio", arg, 0, 1);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    case ARGP_KEY_END:
        if ((o->tls_cert == NULL) != (o->tls_key == NULL))
            argp_error(state, "--tls-cert and --tls-key go together");
        return 0;
    default:
        return parse_limit(key, arg, state, o);
    }
}

static const struct argp gateway_argp = {options, parse, NULL, doc, NULL, NULL, NULL};

const struct argp *cli_gateway_argp(void)
{
    return &gateway_argp;
}

/* Signals are taken by sigwait here alone: blocked before any thread starts. */
static void block_signals(sigset_t *set)
{
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
}

static bool is_end(int signal_number)
{
    return signal_number == SIGTERM || signal_number == SIGINT;
}

/* Until SIGTERM or SIGINT. */
static void serve(gateway *g, const sigset_t *set)
{
    for (;;) {
        int got = 0;
        if (sigwait(set, &got) != 0)
            continue;
        if (is_end(got))
            return;
        gateway_reload(g);
    }
}

/* Until all requests have ended, the time is over, or another signal says at once. */
static void drain(gateway *g, const sigset_t *set, double seconds)
{
    double until = log_clock() + seconds;
    gateway_drain(g);
    log_info("draining: %d requests are at work", gateway_active(g));
    while (gateway_active(g) > 0 && log_clock() < until) {
        const struct timespec wait = {.tv_nsec = 50000000};
        if (is_end(sigtimedwait(set, NULL, &wait)))
            break;
    }
    if (gateway_active(g) > 0)
        log_warn("%d requests are ended unfinished", gateway_active(g));
}

int cli_gateway(int argc, char **argv)
{
    gateway_args a = {.drain_seconds = 60, .options = {.trace_ratio = 1}};
    gateway *g;
    sigset_t set;
    cli_parse_config("gateway", &gateway_argp, argc, argv, &a);
    a.options.listen = a.listen;
    a.options.cors_origins = a.origins;
    if (a.options.n_listen == 0)
        a.listen[a.options.n_listen++] = DEFAULT_LISTEN;
    if (a.options.replicas == NULL)
        a.options.replicas = DEFAULT_REPLICAS;
    a.options.otlp_headers = getenv("OTEL_EXPORTER_OTLP_HEADERS");
    a.options.version = TRIREME_VERSION;
    a.options.commit = TRIREME_COMMIT;
    block_signals(&set);
    status_mute(); /* told once, below */
    status st = gateway_create(&a.options, &g);
    status_unmute();
    if (st != ST_OK)
        return cli_report(st);
    for (int i = 0; i < a.options.n_listen; i++)
        log_info("listening on %s, port %d", a.listen[i], gateway_http_port(g, i));
    log_info("replicas come to %s%s", gateway_replicas_endpoint(g), a.options.plain ? ", without encryption" : "");
    serve(g, &set);
    drain(g, &set, a.drain_seconds);
    gateway_show_latency(g);
    gateway_destroy(&g, 0);
    return 0;
}
