/* coordinator/cli/bench_serve.c - `trireme bench serve`: how a server answers under load, over its HTTP API.
 *
 * Any OpenAI-compatible one.  The work is client/'s: workload.h what is sent, load.h when, stream.h what comes back, figures.h what it means. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/client/load.h"
#include "coordinator/results.h"

enum { MAX_LEVELS = 64, MAX_HEADERS = 32, ASK_MS = 10000 };

typedef struct levels {
    double of[MAX_LEVELS];
    int n;
} levels;

typedef struct serve_args {
    client_server_options server;
    const char *headers[MAX_HEADERS];
    const char *model, *endpoint, *label, *save;
    client_data_options data;
    bool prompts_given, kind_of_prompts_given, chat, ignore_eos, json, detailed, goodput;
    int32_t prefix[4]; /* of prefix_repetition: prefix, suffix, prefixes, answer */
    int32_t sharegpt_output, warmups, repeat;
    levels prompts, concurrency, rate;
    double burstiness, temperature, timeout, ready_timeout;
    json_t *extra;
    client_slo slo;
} serve_args;

enum {
    OPT_URL = 0x6000, OPT_ENDPOINT, OPT_MODEL, OPT_KEY, OPT_HEADER, OPT_INSECURE, OPT_READY, OPT_NUM_PROMPTS, OPT_CONCURRENCY, OPT_RATE, OPT_BURSTINESS, OPT_WARMUPS, OPT_TIMEOUT,
    OPT_DATASET, OPT_PATH, OPT_INPUT, OPT_OUTPUT, OPT_RATIO, OPT_PREFIX, OPT_REP_PREFIX, OPT_REP_SUFFIX, OPT_REP_N, OPT_REP_OUTPUT, OPT_SHAREGPT_OUTPUT, OPT_SPEED, OPT_PROMPTS,
    OPT_VOCAB, OPT_SEED, OPT_IGNORE_EOS, OPT_TEMPERATURE, OPT_EXTRA, OPT_GOODPUT, OPT_JSON, OPT_SAVE, OPT_DETAILED, OPT_LABEL
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "The server:", 1},
    {"url", OPT_URL, "URL", 0, "Its address (default http://127.0.0.1:8000)", 0},
    {"base-url", 0, NULL, OPTION_ALIAS, NULL, 0},
    {"endpoint", OPT_ENDPOINT, "PATH", 0, "/v1/completions (the default) or /v1/chat/completions", 0},
    {"model", OPT_MODEL, "NAME", 0, "As it is served (default: the first of /v1/models)", 0},
    {"api-key", OPT_KEY, "KEY", 0, "Default: the environment's OPENAI_API_KEY, which does not show in the list of processes", 0},
    {"header", OPT_HEADER, "NAME: VALUE", 0, "Sent with every request; may be given several times", 0},
    {"insecure", OPT_INSECURE, NULL, 0, "Whatever certificate it shows", 0},
    {"ready-check-timeout-sec", OPT_READY, "SECONDS", 0, "Wait so long for it to be there (default 0: it is)", 0},

    {NULL, 0, NULL, 0, "The load:", 2},
    {"num-prompts", OPT_NUM_PROMPTS, "N,...", 0, "Requests of a run (default 1000); a list goes with that of --max-concurrency or --request-rate", 0},
    {"max-concurrency", OPT_CONCURRENCY, "N,...", 0, "At most so many requests under way; each of a list is a run (default: no bound)", 0},
    {"request-rate", OPT_RATE, "PER SECOND,...", 0, "Requests become due at this rate, whether or not those before are done; inf: all at once (the default)", 0},
    {"burstiness", OPT_BURSTINESS, "SHAPE", 0, "Of the gamma distribution of the gaps: 1 a Poisson process (the default), less for bursts, more for evenness", 0},
    {"num-warmups", OPT_WARMUPS, "N", 0, "Requests before the first run that do not count (default 0)", 0},
    {"repeat", 'r', "N", 0, "Runs of each level, for `trireme bench compare` (default 1)", 0},
    {"request-timeout", OPT_TIMEOUT, "SECONDS", 0, "A request that is not over by then has failed (default 600)", 0},

    {NULL, 0, NULL, 0, "What is sent:", 3},
    {"dataset-name", OPT_DATASET, "NAME", 0, "random (the default), prefix_repetition, sharegpt or trace", 0},
    {"dataset-path", OPT_PATH, "FILE", 0, "sharegpt: its JSON; trace: lines of {\"timestamp\": ms, \"input_length\", \"output_length\", \"hash_ids\"}", 0},
    {"random-input-len", OPT_INPUT, "TOKENS", 0, "Default 1024", 0},
    {"random-output-len", OPT_OUTPUT, "TOKENS", 0, "Default 128", 0},
    {"random-range-ratio", OPT_RATIO, "R", 0, "Lengths are drawn from (1 - R) to (1 + R) times these (default 0)", 0},
    {"random-prefix-len", OPT_PREFIX, "TOKENS", 0, "Tokens before those, the same in all prompts (default 0)", 0},
    {"prefix-repetition-prefix-len", OPT_REP_PREFIX, "TOKENS", 0, "Default 256", 0},
    {"prefix-repetition-suffix-len", OPT_REP_SUFFIX, "TOKENS", 0, "Default 256", 0},
    {"prefix-repetition-num-prefixes", OPT_REP_N, "N", 0, "Default 10", 0},
    {"prefix-repetition-output-len", OPT_REP_OUTPUT, "TOKENS", 0, "Default 128", 0},
    {"sharegpt-output-len", OPT_SHAREGPT_OUTPUT, "TOKENS", 0, "Length of every answer (default: that of the conversation's)", 0},
    {"trace-speed", OPT_SPEED, "FACTOR", 0, "Replays the trace so much faster (default 1)", 0},
    {"prompts", OPT_PROMPTS, "ids|text", 0, "Token ids, or words that the server's /tokenize counts (default: ids for /v1/completions, text for chat)", 0},
    {"vocab-size", OPT_VOCAB, "N", 0, "Token ids are drawn below N (default: from those of common words, by /tokenize)", 0},
    {"seed", OPT_SEED, "N", 0, "Of all that is drawn (default 0)", 0},
    {"ignore-eos", OPT_IGNORE_EOS, NULL, 0, "Answers go on to their length, where the server knows ignore_eos", 0},
    {"temperature", OPT_TEMPERATURE, "T", 0, "Default 0; negative: the server's own", 0},
    {"extra-body", OPT_EXTRA, "JSON", 0, "An object whose members are added to each request", 0},

    {NULL, 0, NULL, 0, "The results:", 4},
    {"goodput", OPT_GOODPUT, "ttft:MS tpot:MS e2el:MS", 0, "Count the requests that keep these limits, one or several", 0},
    {"json", OPT_JSON, NULL, 0, "A line of JSON for each run instead of the tables", 0},
    {"save", OPT_SAVE, "FILE", 0, "Add the line of JSON to this file", 0},
    {"save-detailed", OPT_DETAILED, NULL, 0, "With the figures of every request in the JSON", 0},
    {"label", OPT_LABEL, "TEXT", 0, "What `trireme report` calls these runs", 0},
    {0},
};

static const char doc[] =
    "Measures a server under load: times to the first token, between tokens, and to the end; throughput; goodput."
    "\v"
    "Examples:\n"
    "  trireme bench serve --max-concurrency 16 --num-prompts 200 --random-input-len 512 --random-output-len 64 --ignore-eos\n"
    "  trireme bench serve --max-concurrency 1,2,4,8,16,32 --num-prompts 20,40,80,160,320,640 --save curve.jsonl; trireme report curve.jsonl -o curve.html\n"
    "  trireme bench serve --request-rate 2,4,8 --burstiness 0.5 --goodput ttft:500 tpot:50 --endpoint /v1/chat/completions\n"
    "  trireme bench serve --dataset-name prefix_repetition --prefix-repetition-num-prefixes 4 --max-concurrency 8 --num-prompts 100\n"
    "  trireme bench serve --dataset-name sharegpt --dataset-path ShareGPT_V3_unfiltered_cleaned_split.json --request-rate 4\n"
    "  trireme bench serve --dataset-name trace --dataset-path trace.jsonl --trace-speed 2\n"
    "\n"
    "TTFT is the time from sending to the first output, TPOT (E2E - TTFT) / (tokens - 1), ITL the time between outputs, E2E that to the last one, as `vllm bench serve` defines "
    "them.  Every run draws other tokens, so that the server's prefix cache helps within a run only (but conversations of a file are the same in each).  Lateness is by how much requests were sent after they were due: where it is "
    "large, --max-concurrency or this client bounds the load.  The exit code is 1 if no request of a run succeeded.";

/* ---- the command line ---- */

/* "1,2,4"; "inf" where infinity may stand. */
static bool parse_levels(const char *text, double min, double max, bool whole, levels *out)
{
    for (out->n = 0; out->n < MAX_LEVELS; text++) {
        char *end;
        double v = strtod(text, &end);
        bool endless = isinf(v) && v > 0 && isinf(max);
        if (end == text || !(v >= min && v <= max) || (isinf(v) && !endless) || (whole && v != floor(v)))
            return false;
        out->of[out->n++] = v;
        text = end;
        if (*text != ',')
            return *text == '\0';
    }
    return false;
}

/* One "ttft:500"; false if it is none. */
static bool parse_slo(const char *text, size_t n, client_slo *slo)
{
    const struct {
        const char *name;
        double *seconds;
    } known[] = {{"ttft:", &slo->ttft}, {"tpot:", &slo->tpot}, {"e2el:", &slo->e2e}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        size_t len = strlen(known[i].name);
        char *end;
        if (n <= len || strncmp(text, known[i].name, len) != 0)
            continue;
        double ms = strtod(text + len, &end);
        *known[i].seconds = ms * 1e-3;
        return end == text + n && ms > 0 && ms < 1e9;
    }
    return false;
}

static bool parse_slos(const char *text, client_slo *slo)
{
    while (*text != '\0') {
        size_t n = strcspn(text, " ,");
        if (!parse_slo(text, n, slo))
            return false;
        text += n + strspn(text + n, " ,");
    }
    return true;
}

static bool parse_dataset(const char *name, client_data_kind *out)
{
    static const char *const names[] = {[CLIENT_RANDOM] = "random", [CLIENT_PREFIX] = "prefix_repetition", [CLIENT_SHAREGPT] = "sharegpt", [CLIENT_TRACE] = "trace"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (client_data_kind)i;
            return true;
        }
    }
    return false;
}

static error_t parse_server(int key, char *arg, struct argp_state *state, serve_args *a)
{
    switch (key) {
    case OPT_URL:
        a->server.url = arg;
        return 0;
    case OPT_ENDPOINT:
        a->endpoint = arg;
        a->chat = strcmp(arg, "/v1/chat/completions") == 0;
        if (!a->chat && strcmp(arg, "/v1/completions") != 0)
            argp_error(state, "--endpoint %s: /v1/completions or /v1/chat/completions", arg);
        return 0;
    case OPT_MODEL:
        a->model = arg;
        return 0;
    case OPT_KEY:
        a->server.api_key = arg;
        return 0;
    case OPT_HEADER:
        if (strchr(arg, ':') == NULL || a->server.n_headers == MAX_HEADERS)
            argp_error(state, "--header %s: up to %d of the form \"Name: value\"", arg, MAX_HEADERS);
        a->headers[a->server.n_headers++] = arg;
        return 0;
    case OPT_INSECURE:
        a->server.insecure = true;
        return 0;
    case OPT_READY:
        a->ready_timeout = cli_arg_number(state, "ready-check-timeout-sec", arg, 0, 1e6);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_load(int key, char *arg, struct argp_state *state, serve_args *a)
{
    switch (key) {
    case OPT_NUM_PROMPTS:
        if (!parse_levels(arg, 1, 1 << 24, true, &a->prompts))
            argp_error(state, "--num-prompts %s: whole numbers with commas between them are needed (at most %d)", arg, MAX_LEVELS);
        a->prompts_given = true;
        return 0;
    case OPT_CONCURRENCY:
        if (!parse_levels(arg, 1, 1 << 20, true, &a->concurrency))
            argp_error(state, "--max-concurrency %s: whole numbers with commas between them are needed (at most %d)", arg, MAX_LEVELS);
        return 0;
    case OPT_RATE:
        if (!parse_levels(arg, 1e-6, INFINITY, false, &a->rate))
            argp_error(state, "--request-rate %s: numbers above 0, or inf, with commas between them are needed (at most %d)", arg, MAX_LEVELS);
        return 0;
    case OPT_BURSTINESS:
        a->burstiness = cli_arg_number(state, "burstiness", arg, 0.001, 1e6);
        return 0;
    case OPT_WARMUPS:
        a->warmups = cli_arg_int(state, "num-warmups", arg, 0, 1 << 20);
        return 0;
    case 'r':
        a->repeat = cli_arg_int(state, "repeat", arg, 1, 1000);
        return 0;
    case OPT_TIMEOUT:
        a->timeout = cli_arg_number(state, "request-timeout", arg, 0.001, 1e6);
        return 0;
    default:
        return parse_server(key, arg, state, a);
    }
}

static error_t parse_data(int key, char *arg, struct argp_state *state, serve_args *a)
{
    client_data_options *d = &a->data;
    json_error_t error;
    switch (key) {
    case OPT_DATASET:
        if (!parse_dataset(arg, &d->kind))
            argp_error(state, "--dataset-name %s: random, prefix_repetition, sharegpt or trace", arg);
        return 0;
    case OPT_PATH:
        d->path = arg;
        return 0;
    case OPT_INPUT:
        d->input_len = cli_arg_int(state, "random-input-len", arg, 1, CLIENT_MAX_TOKENS);
        return 0;
    case OPT_OUTPUT:
        d->output_len = cli_arg_int(state, "random-output-len", arg, 1, CLIENT_MAX_TOKENS);
        return 0;
    case OPT_RATIO:
        d->range_ratio = cli_arg_number(state, "random-range-ratio", arg, 0, 1);
        return 0;
    case OPT_PREFIX:
        d->prefix_len = cli_arg_int(state, "random-prefix-len", arg, 0, CLIENT_MAX_TOKENS);
        return 0;
    case OPT_REP_PREFIX:
        a->prefix[0] = cli_arg_int(state, "prefix-repetition-prefix-len", arg, 0, CLIENT_MAX_TOKENS);
        return 0;
    case OPT_REP_SUFFIX:
        a->prefix[1] = cli_arg_int(state, "prefix-repetition-suffix-len", arg, 1, CLIENT_MAX_TOKENS);
        return 0;
    case OPT_REP_N:
        a->prefix[2] = cli_arg_int(state, "prefix-repetition-num-prefixes", arg, 1, 1 << 24);
        return 0;
    case OPT_REP_OUTPUT:
        a->prefix[3] = cli_arg_int(state, "prefix-repetition-output-len", arg, 1, CLIENT_MAX_TOKENS);
        return 0;
    case OPT_SHAREGPT_OUTPUT:
        a->sharegpt_output = cli_arg_int(state, "sharegpt-output-len", arg, 1, CLIENT_MAX_TOKENS);
        return 0;
    case OPT_SPEED:
        d->trace_speed = cli_arg_number(state, "trace-speed", arg, 1e-6, 1e6);
        return 0;
    case OPT_PROMPTS:
        d->text = strcmp(arg, "text") == 0;
        if (!d->text && strcmp(arg, "ids") != 0)
            argp_error(state, "--prompts %s: ids or text", arg);
        a->kind_of_prompts_given = true;
        return 0;
    case OPT_VOCAB:
        d->vocab_size = cli_arg_int(state, "vocab-size", arg, 2, INT32_MAX);
        return 0;
    case OPT_SEED:
        d->seed = (uint64_t)cli_arg_int(state, "seed", arg, 0, INT32_MAX);
        return 0;
    case OPT_IGNORE_EOS:
        a->ignore_eos = true;
        return 0;
    case OPT_TEMPERATURE:
        a->temperature = cli_arg_number(state, "temperature", arg, -1, 100);
        return 0;
    case OPT_EXTRA:
        json_decref(a->extra);
        a->extra = json_loads(arg, JSON_REJECT_DUPLICATES, &error);
        if (!json_is_object(a->extra))
            argp_error(state, "--extra-body %s: not a JSON object", arg);
        return 0;
    default:
        return parse_load(key, arg, state, a);
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    serve_args *a = state->input;
    switch (key) {
    case OPT_GOODPUT:
    case ARGP_KEY_ARG: /* --goodput ttft:500 tpot:50, as vLLM takes it */
        if (key == ARGP_KEY_ARG && !a->goodput)
            argp_error(state, "unexpected argument \"%s\"", arg);
        a->goodput = true;
        if (!parse_slos(arg, &a->slo))
            argp_error(state, "--goodput %s: limits in milliseconds are needed, as in ttft:500 tpot:50 e2el:10000", arg);
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case OPT_SAVE:
        a->save = arg;
        return 0;
    case OPT_DETAILED:
        a->detailed = true;
        return 0;
    case OPT_LABEL:
        a->label = arg;
        return 0;
    default:
        return parse_data(key, arg, state, a);
    }
}

/* What depends on several options. */
static status settle(serve_args *a)
{
    client_data_options *d = &a->data;
    if (a->server.api_key == NULL)
        a->server.api_key = getenv("OPENAI_API_KEY");
    if (a->chat && a->kind_of_prompts_given && !d->text)
        return FAIL(ST_INVALID, "--prompts ids: the chat API takes text only");
    d->text = d->text || a->chat || d->kind == CLIENT_SHAREGPT;
    d->add_special = !a->chat; /* a chat's are its template's, which no benchmark counts */
    if ((d->kind == CLIENT_SHAREGPT || d->kind == CLIENT_TRACE) && d->path == NULL)
        return FAIL(ST_INVALID, "--dataset-path is needed: this data set is a file");
    if (d->kind == CLIENT_TRACE && a->rate.n > 0)
        return FAIL(ST_INVALID, "--request-rate: a trace says itself when its requests come; --trace-speed makes them come faster");
    if (d->kind == CLIENT_PREFIX) {
        d->prefix_len = a->prefix[0];
        d->input_len = a->prefix[1];
        d->n_prefixes = a->prefix[2];
        d->output_len = a->prefix[3];
    } else if (d->kind == CLIENT_SHAREGPT) {
        d->output_len = a->sharegpt_output;
    }
    if (a->prompts.n > 1 && a->prompts.n != a->concurrency.n && a->prompts.n != a->rate.n)
        return FAIL(ST_INVALID, "--num-prompts has %d numbers: one is needed, or as many as --max-concurrency (%d) or --request-rate (%d) has", a->prompts.n, a->concurrency.n,
                    a->rate.n);
    for (int i = 0; i < a->prompts.n; i++)
        d->n = (int32_t)a->prompts.of[i] > d->n ? (int32_t)a->prompts.of[i] : d->n;
    if (d->kind == CLIENT_TRACE && !a->prompts_given)
        d->n = 0;
    else if (d->kind != CLIENT_TRACE)
        d->n = a->warmups > d->n ? a->warmups : d->n;
    return ST_OK;
}

/* ---- the server ---- */

/* Waits until it lists its models; the first one's name where none is given. */
static status find_model(client_server *server, const serve_args *a, char model[256])
{
    double end = log_clock() + a->ready_timeout;
    for (;;) {
        long code = 0;
        json_t *answer = NULL;
        const char *id = NULL;
        bool last = log_clock() >= end;
        if (!last)
            status_mute();
        status st = client_ask(server, "/v1/models", NULL, ASK_MS, &code, &answer);
        if (!last)
            status_unmute();
        const json_t *first = json_array_get(json_object_get(answer, "data"), 0);
        id = json_string_value(json_object_get(first, "id"));
        bool found = st == ST_OK && code == 200 && (id != NULL || a->model != NULL);
        if (found)
            snprintf(model, 256, "%s", a->model != NULL ? a->model : id);
        json_decref(answer);
        if (found)
            return ST_OK;
        if (st == ST_OK && (code == 401 || code == 403))
            return FAIL(ST_INVALID, "%s does not admit this client (%ld): give its key with --api-key, or in OPENAI_API_KEY", server->url, code);
        if (last && st == ST_OK && a->model != NULL) { /* a server without that route */
            snprintf(model, 256, "%s", a->model);
            return ST_OK;
        }
        if (last)
            return st != ST_OK ? st : FAIL(ST_PEER, "%s/v1/models answers %ld and names no model: give one with --model", server->url, code);
        struct timespec t = {0, 200000000};
        nanosleep(&t, NULL);
    }
}

/* A copy of the members of o that are named. */
static json_t *members(const json_t *o, const char *const *names, size_t n)
{
    json_t *out = json_object();
    for (size_t i = 0; i < n; i++) {
        if (json_object_get(o, names[i]) != NULL)
            json_object_set(out, names[i], json_object_get(o, names[i]));
    }
    return out;
}

static json_t *replicas_of(const json_t *state)
{
    static const char *const names[] = {"name", "model", "backend", "tp", "pp", "version", "max_num_seqs", "kv_blocks", "block_tokens"};
    json_t *all = json_array();
    size_t i;
    json_t *r;
    json_array_foreach(json_object_get(state, "replicas"), i, r)
        json_array_append_new(all, members(r, names, ARRAY_LEN(names)));
    return all;
}

/* What the server says of itself: its version, and of ours the checkpoint's digest and the replicas. */
static void describe_server(client_server *server, const char *model, json_t *environment)
{
    json_t *o = json_pack("{ss ss}", "url", server->url, "model", model), *answer = NULL, *m;
    long code = 0;
    size_t i;
    status_mute();
    if (client_ask(server, "/version", NULL, ASK_MS, &code, &answer) == ST_OK && code == 200 && json_is_object(answer))
        json_object_set(o, "version", json_object_get(answer, "version"));
    json_decref(answer);
    if (client_ask(server, "/state", NULL, ASK_MS, &code, &answer) == ST_OK && code == 200 && json_is_object(json_object_get(answer, "requests"))) {
        json_object_set(o, "commit", json_object_get(answer, "commit"));
        json_object_set_new(o, "replicas", replicas_of(answer));
        json_array_foreach(json_object_get(answer, "models"), i, m) {
            const char *id = json_string_value(json_object_get(m, "id"));
            if (id != NULL && strcmp(id, model) == 0)
                json_object_set(o, "digest", json_object_get(m, "digest"));
        }
    }
    json_decref(answer);
    status_unmute();
    json_object_set_new(environment, "server", o);
}

/* ---- one run ---- */

typedef struct level {
    int32_t n, concurrency; /* concurrency 0: no bound */
    double rate;            /* infinite: all at once */
    int run;
} level;

typedef struct serve {
    const serve_args *a;
    client_server server;
    client_workload work;
    char model[256];
    json_t *environment;
    uint64_t salt;          /* another one for each run */
    bool none_succeeded;
} serve;

static status due_make(const serve *v, const level *l, double **out)
{
    *out = NULL;
    if (v->a->data.kind != CLIENT_TRACE && isinf(l->rate))
        return ST_OK;
    TRY(mem_calloc((size_t)l->n, sizeof(**out), "arrivals", out));
    if (v->a->data.kind == CLIENT_TRACE) {
        for (int32_t i = 0; i < l->n; i++)
            (*out)[i] = v->work.items[i].at;
    } else {
        client_arrivals(l->n, l->rate, v->a->burstiness, hash_mix(v->a->data.seed + 6) + v->salt, *out);
    }
    return ST_OK;
}

static status run_load(serve *v, const level *l, const char *what, client_run *out)
{
    const serve_args *a = v->a;
    log_progress progress;
    double *due;
    TRY(due_make(v, l, &due));
    client_load_options o = {.model = v->model, .path = a->endpoint, .chat = a->chat, .ignore_eos = a->ignore_eos, .temperature = a->temperature, .extra = a->extra,
                             .max_concurrency = l->concurrency, .timeout = a->timeout, .salt = hash_mix(++v->salt), .due = due, .n = l->n, .progress = &progress};
    log_progress_begin(&progress, what, (unsigned long long)l->n, false);
    status st = client_load_run(&v->server, &v->work, &o, out);
    log_progress_end(&progress);
    free(due);
    return st;
}

/* ---- telling ---- */

static void tell_summary(const char *name, const client_summary *s)
{
    printf("  %-9s %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, 1e3 * s->mean, 1e3 * s->median, 1e3 * s->p90, 1e3 * s->p95, 1e3 * s->p99, 1e3 * s->max);
}

static void tell(const serve *v, const level *l, const client_run *r, const client_figures *f)
{
    if (l->concurrency > 0)
        printf("at most %d at once, ", l->concurrency);
    if (v->a->data.kind == CLIENT_TRACE)
        printf("as in the trace");
    else
        printf(isinf(l->rate) ? "as fast as they go" : "%g requests/s due", l->rate);
    printf(": %d of %d requests in %.2f s, %d at once\n", f->completed, r->n, r->seconds, r->peak);
    printf("  %.2f requests/s, %.2f output tokens/s, %.2f tokens/s with the prompts", f->request_rate, f->output_rate, f->total_rate);
    if (v->a->goodput)
        printf("; goodput %.2f requests/s", f->goodput);
    printf("\n  %lld prompt and %lld output tokens, counted by %s; this client took %.1f %% of a core\n", (long long)f->prompt_tokens, (long long)f->output_tokens,
           r->counted_by_server ? "the server" : "the outputs", r->seconds > 0 ? 100 * r->cpu_seconds / r->seconds : 0);
    printf("  %-9s %10s %10s %10s %10s %10s %10s\n", "ms", "mean", "median", "p90", "p95", "p99", "most");
    tell_summary("TTFT", &f->ttft);
    tell_summary("TPOT", &f->tpot);
    tell_summary("ITL", &f->itl);
    tell_summary("E2E", &f->e2e);
    if (v->a->data.kind == CLIENT_TRACE || !isinf(l->rate))
        tell_summary("lateness", &f->lateness);
    if (f->shorter > 0)
        printf("  %d answers are shorter than asked for (--ignore-eos)\n", f->shorter);
    for (int32_t i = 0; i < r->failures.n; i++)
        printf("  failed: %d x %s%s\n", r->failures.of[i].n, r->failures.of[i].what, i + 1 == (int32_t)ARRAY_LEN(r->failures.of) && r->failures.lost > 0 ? " (and others)" : "");
    printf("\n");
    fflush(stdout);
}

static json_t *data_json(const serve_args *a)
{
    const client_data_options *d = &a->data;
    switch (d->kind) {
    case CLIENT_PREFIX:
        return json_pack("{ss si si si si}", "name", "prefix_repetition", "prefix_len", d->prefix_len, "suffix_len", d->input_len, "num_prefixes", d->n_prefixes, "output_len",
                         d->output_len);
    case CLIENT_SHAREGPT:
        return json_pack("{ss ss si}", "name", "sharegpt", "path", d->path, "output_len", d->output_len);
    case CLIENT_TRACE:
        return json_pack("{ss ss sf}", "name", "trace", "path", d->path, "speed", d->trace_speed);
    case CLIENT_RANDOM:
        break;
    }
    return json_pack("{ss si si sf si}", "name", "random", "input_len", d->input_len, "output_len", d->output_len, "range_ratio", d->range_ratio, "prefix_len", d->prefix_len);
}

static status put(const serve *v, const level *l, const client_run *r, const client_figures *f)
{
    const serve_args *a = v->a;
    json_t *rate = isinf(l->rate) ? json_string("inf") : json_real(l->rate);
    json_t *row = json_pack("{ss ss* ss ss ss so si so sf si si sb sf sI si}", "test", "serve", "label", a->label, "model", v->model, "endpoint", a->endpoint, "prompts",
                            a->data.text ? "text" : "ids", "data", data_json(a), "max_concurrency", l->concurrency, "request_rate", rate, "burstiness", a->burstiness, "num_prompts",
                            r->n, "num_warmups", a->warmups, "ignore_eos", a->ignore_eos, "temperature", a->temperature, "seed", (json_int_t)a->data.seed, "run", l->run);
    json_t *figures = client_figures_json(r, f, a->goodput);
    if (row == NULL || figures == NULL || json_object_update(row, figures) != 0) {
        json_decref(row);
        row = NULL;
    }
    json_decref(figures);
    if (row != NULL && a->goodput)
        json_object_set_new(row, "goodput_config", json_pack("{sf sf sf}", "ttft_ms", 1e3 * a->slo.ttft, "tpot_ms", 1e3 * a->slo.tpot, "e2el_ms", 1e3 * a->slo.e2e));
    if (row != NULL && a->detailed && client_details_put(r, row) != ST_OK) {
        json_decref(row);
        row = NULL;
    }
    return results_put(row, v->environment, a->json, a->save);
}

static status one_run(serve *v, const level *l)
{
    client_run r;
    client_figures f;
    TRY(run_load(v, l, "requests", &r));
    status st = client_figures_of(&r, &v->a->slo, &f);
    v->none_succeeded = v->none_succeeded || f.completed == 0;
    if (st == ST_OK && !v->a->json)
        tell(v, l, &r, &f);
    if (st == ST_OK && (v->a->json || v->a->save != NULL))
        st = put(v, l, &r, &f);
    client_run_free(&r);
    return st;
}

/* ---- all of it ---- */

static status warm_up(serve *v)
{
    client_run r;
    int32_t n = v->a->warmups < v->work.n ? v->a->warmups : v->work.n;
    level l = {.n = n, .concurrency = v->a->concurrency.n > 0 ? (int32_t)v->a->concurrency.of[0] : n, .rate = INFINITY};
    if (n == 0)
        return ST_OK;
    TRY(run_load(v, &l, "warming up", &r));
    if (r.failures.n > 0)
        log_warn("warming up: %d x %s", r.failures.of[0].n, r.failures.of[0].what);
    client_run_free(&r);
    return ST_OK;
}

static int32_t prompts_of(const serve *v, int c, int r)
{
    const serve_args *a = v->a;
    if (a->data.kind == CLIENT_TRACE && !a->prompts_given)
        return v->work.n;
    int i = a->prompts.n == 1 ? 0 : a->prompts.n == a->concurrency.n ? c : r;
    return (int32_t)a->prompts.of[i] < v->work.n ? (int32_t)a->prompts.of[i] : v->work.n;
}

static status sweep(serve *v)
{
    const serve_args *a = v->a;
    TRY(warm_up(v));
    for (int c = 0; c < (a->concurrency.n > 0 ? a->concurrency.n : 1); c++) {
        for (int r = 0; r < (a->rate.n > 0 ? a->rate.n : 1); r++) {
            for (int i = 0; i < a->repeat; i++) {
                level l = {.n = prompts_of(v, c, r), .concurrency = a->concurrency.n > 0 ? (int32_t)a->concurrency.of[c] : 0, .rate = a->rate.n > 0 ? a->rate.of[r] : INFINITY,
                           .run = i};
                TRY(one_run(v, &l));
            }
        }
    }
    return v->none_succeeded ? FAIL(ST_PEER, "%s: there is a run of which no request succeeded", v->server.url) : ST_OK;
}

static status serve_bench(serve *v)
{
    const serve_args *a = v->a;
    TRY(client_server_open(&a->server, &v->server));
    TRY(find_model(&v->server, a, v->model));
    describe_server(&v->server, v->model, v->environment);
    TRY(client_workload_create(&a->data, &v->server, v->model, &v->work));
    if (v->work.uncounted && v->work.text)
        log_warn("%s has no /tokenize: lengths of prompts are a guess, a word or 4 bytes for a token", v->server.url);
    if (!a->json)
        printf("%s at %s, %s\n\n", v->model, v->server.url, a->endpoint);
    return sweep(v);
}

int cli_bench_serve(int argc, char **argv)
{
    serve_args a = {.server = {.url = "http://127.0.0.1:8000"}, .endpoint = "/v1/completions", .prompts = {{1000}, 1}, .burstiness = 1, .repeat = 1, .timeout = 600,
                    .data = {.input_len = 1024, .output_len = 128, .trace_speed = 1, .n_prefixes = 10}, .prefix = {256, 256, 10, 128}};
    const struct argp argp = {options, parse, NULL, doc, NULL, NULL, NULL};
    serve v = {.a = &a, .environment = results_environment(argc, argv)};
    cli_parse(&argp, argc, argv, &a);
    a.server.headers = a.headers;
    status st = v.environment == NULL ? FAIL(ST_NO_MEMORY, "no memory for a benchmark") : settle(&a);
    if (st == ST_OK)
        st = serve_bench(&v);
    client_workload_free(&v.work);
    client_server_close(&v.server);
    json_decref(v.environment);
    json_decref(a.extra);
    return cli_finish_output(status_exit_code(st));
}
