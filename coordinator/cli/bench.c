/* coordinator/cli/bench.c - `trireme bench`: how fast a checkpoint is here, prefill and decode apart.
 *
 *   prefill  B prompts of P tokens at once, one token each: B * P / (submission to the last first token)
 *   decode   B sequences of D tokens of context generate G tokens each, ends not obeyed: measured from the step after all have their first token
 *            until B * G tokens later, or one has no room left: all B take part in every step measured
 *
 *   shared   and
 *   among    bench_among.h
 *
 * Prompts are random token ids from a fixed seed.  Each row is run once unmeasured, then `repeat` times.  With --lockstep each run waits for a file: so several jobs run theirs
 * together (bench_scale.c). */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/numbers.h"
#include "coordinator/cli/bench_among.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/replica_args.h"
#include "coordinator/cli/stats.h"
#include "coordinator/results.h"
#include "shard/arch.h"
#include "trireme_version.h"

#define MAX_LIST 32
#define LOCKSTEP_SECONDS 600 /* for the slowest of the jobs */

typedef struct int_list {
    int n;
    int32_t of[MAX_LIST];
} int_list;

typedef struct bench_args {
    cli_replica_args replica;
    int_list prompt, gen, batch, depth, shared, among;
    int32_t repeat;
    bool json, breakdown, first_token;
    const char *save, *lockstep;
} bench_args;

enum { OPT_PROMPT = 0x3000, OPT_GEN, OPT_BATCH, OPT_DEPTH, OPT_REPEAT, OPT_JSON, OPT_SHARED, OPT_AMONG, OPT_NO_PHASES, OPT_BREAKDOWN, OPT_SAVE, OPT_LOCKSTEP, OPT_FIRST };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What to measure (lists with commas; -p 0 or -n 0 leaves that part out):", 1},
    {"prompt", 'p', "TOKENS,...", 0, "Prefill of so many tokens (default 512)", 0},
    {"gen", 'n', "TOKENS,...", 0, "Decode of so many tokens (default 128)", 0},
    {"batch", 'b', "N,...", 0, "Sequences at once (default 1)", 0},
    {"depth", 'd', "TOKENS,...", 0, "Context before decoding begins (default 16)", 0},
    {"shared", OPT_SHARED, "TOKENS,...", 0, "Time to first token of a prompt whose first so many tokens were computed before (default 0)", 0},
    {"among", OPT_AMONG, "TOKENS,...", 0, "A prompt of so many tokens comes while the sequences decode (default 0)", 0},
    {"repeat", 'r', "N", 0, "Measured runs of each row (default 3)", 0},
    {"no-phases", OPT_NO_PHASES, NULL, 0, "Do not time the phases on GPUs, which costs each step some microseconds a layer", 0},
    {"breakdown", OPT_BREAKDOWN, NULL, 0, "Where every rank's time went, at the end: computing, in collectives, waiting for other stages or for the scheduler", 0},
    {"json", OPT_JSON, NULL, 0, "A line of JSON for each row instead of a table", 0},
    {"save", OPT_SAVE, "FILE", 0, "Add the lines of JSON to this file", 0},
    {"lockstep", OPT_LOCKSTEP, "FOLDER", OPTION_HIDDEN, "Say \"ready K\" before the K-th run, and wait for the file FOLDER/K", 0},
    {"first-token", OPT_FIRST, NULL, OPTION_HIDDEN, "Only the first token of a prompt, and a line that says so", 0},
    {0},
};

static const char doc[] =
    "Measures prefill and decode speed, on one process or on the ranks of mpirun or srun (also called trireme bench offline)."
    "\v"
    "Examples:\n"
    "  trireme bench -m model.gguf --threads 2\n"
    "  mpirun -n 2 trireme bench -m model.gguf --tp 2 --threads 1 -p 128,1024 -n 64 -b 1,8 --json\n"
    "  trireme bench -m model.gguf -p 0 -n 0 --shared 1000 -b 31 --among 4000\n"
    "  mpirun -n 2 trireme bench comm          what sums and messages between ranks cost; `trireme bench comm --help`\n"
    "  trireme bench kernels                   each operation against the limits of this machine; `trireme bench kernels --help`\n"
    "  trireme bench load -m model.gguf        from the start to the first token, with a cold and a warm page cache; `trireme bench load --help`\n"
    "  trireme bench scale -m model.gguf       how throughput grows with ranks, and where the time goes; `trireme bench scale --help`\n"
    "  trireme bench serve --max-concurrency 8 a server under load, over HTTP; `trireme bench serve --help`\n"
    "  trireme bench compare a.jsonl b.jsonl   two files of results: faster, slower, or no difference shown; `trireme bench compare --help`\n"
    "\n"
    "Columns: tokens/s over all sequences with its standard deviation; the time of a step; and where rank 0's time of a step goes, in ms: the "
    "attention and MLP halves of its layers, embedding, head and sampling, waiting in sums between ranks, waiting for the stage before.  On a GPU they are its own times, by events between the kernels; with --no-phases they are those in which "
    "the host queues the work.";

static bool parse_list(const char *text, int32_t min, int_list *out)
{
    for (out->n = 0; out->n < MAX_LIST; text++) {
        char *end;
        long v = strtol(text, &end, 10);
        if (end == text || v < min || v > 1 << 24)
            return false;
        out->of[out->n++] = (int32_t)v;
        text = end;
        if (*text != ',')
            return *text == '\0';
    }
    return false;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    bench_args *a = state->input;
    long v;
    bool ok = true;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->replica;
        break;
    case 'p':
        ok = parse_list(arg, 0, &a->prompt);
        break;
    case 'n':
        ok = parse_list(arg, 0, &a->gen);
        break;
    case 'b':
        ok = parse_list(arg, 1, &a->batch);
        break;
    case 'd':
        ok = parse_list(arg, 1, &a->depth);
        break;
    case OPT_SHARED:
        ok = parse_list(arg, 0, &a->shared);
        break;
    case OPT_AMONG:
        ok = parse_list(arg, 0, &a->among);
        break;
    case 'r':
        ok = cli_parse_int(arg, 1, 1000, &v);
        a->repeat = ok ? (int32_t)v : 0;
        break;
    case OPT_NO_PHASES:
        a->replica.options.phase_times = false;
        break;
    case OPT_JSON:
        a->json = true;
        break;
    case OPT_BREAKDOWN:
        a->breakdown = a->replica.options.breakdown = true;
        break;
    case OPT_SAVE:
        a->save = arg;
        break;
    case OPT_LOCKSTEP:
        a->lockstep = arg;
        break;
    case OPT_FIRST:
        a->first_token = true;
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\": give the checkpoint with -m", arg);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    if (!ok)
        argp_error(state, "\"%s\": whole numbers with commas between them are needed (at most %d)", arg, MAX_LIST);
    return 0;
}

static int32_t largest(const int_list *l)
{
    int32_t most = 0;
    for (int i = 0; i < l->n; i++)
        most = l->of[i] > most ? l->of[i] : most;
    return most;
}

/* Tokens that the first of the sequences may get while the others' prompts are computed: one for each step of theirs. */
static int32_t waiting_steps(const coord_replica_options *o, int32_t batch, int32_t depth)
{
    int32_t budget = o->max_batched_tokens - batch, chunk = o->max_prefill_chunk > 0 && o->max_prefill_chunk < budget ? o->max_prefill_chunk : budget;
    int64_t steps = (int64_t)(batch - 1) * (depth / (chunk > 0 ? chunk : 1) + 2);
    return steps < 1 << 24 ? (int32_t)steps : 1 << 24;
}

/* Room for the largest row, and no more, where the command line does not say. */
static void size_replica(bench_args *a)
{
    coord_replica_options *o = &a->replica.options;
    if (o->max_batched_tokens == 0)
        o->max_batched_tokens = COORD_BATCHED_TOKENS;
    int32_t prefill = largest(&a->prompt) + 2;
    int32_t decode = largest(&a->depth) + largest(&a->gen) + waiting_steps(o, largest(&a->batch), largest(&a->depth)) + 2;
    int32_t shared = largest(&a->shared) + BENCH_OWN_TOKENS + 2, among = largest(&a->among) + 2;
    int32_t meanwhile = BENCH_OWN_TOKENS + bench_among_generated(largest(&a->among), largest(&a->batch), o->max_batched_tokens) + 2;
    const int32_t needs[] = {prefill, decode, shared, largest(&a->among) > 0 ? among : 0, largest(&a->among) > 0 ? meanwhile : 0};
    bool ctx_given = o->max_context > 0;
    for (size_t i = 0; i < ARRAY_LEN(needs) && !ctx_given; i++)
        o->max_context = needs[i] > o->max_context ? needs[i] : o->max_context;
    int32_t seqs = largest(&a->batch) + (largest(&a->among) > 0);
    if (o->max_seqs == 0)
        o->max_seqs = seqs > 16 ? seqs : 16;
}

/* ---- one run ---- */

typedef struct run {
    coord_replica *replica;
    const coord_replica_options *options;
    const char *lockstep;
    int32_t n_runs;
    uint64_t next_id;
    int32_t batch, started, ended;
    uint64_t wanted, n_tokens;  /* generated since all had their first token */
    bool cut_short;             /* one had ended by then */
    double first_all, all_done; /* when the last sequence got its first token; when the wanted tokens were there */
    coord_replica_times at_first_all, at_all_done;
} run;

static void on_event(void *arg, const coord_event *e)
{
    run *r = arg;
    if (e->prompt)
        return;
    r->n_tokens += r->started == r->batch && r->all_done == 0;
    if (e->index == 0 && ++r->started == r->batch) {
        r->first_all = log_clock();
        r->cut_short = r->ended > 0;
        coord_replica_times_get(r->replica, &r->at_first_all);
    }
    bool full = r->started == r->batch && (r->n_tokens == r->wanted || e->finish != 0);
    if (full && r->all_done == 0) {
        r->all_done = log_clock();
        coord_replica_times_get(r->replica, &r->at_all_done);
    }
    r->ended += e->finish != 0;
}

static status submit(run *r, int32_t n_prompt, int32_t n_gen, int32_t *tokens)
{
    const shard_arch *arch = shard_checkpoint_arch(coord_replica_checkpoint(r->replica));
    for (int32_t s = 0; s < r->batch; s++) {
        for (int32_t i = 0; i < n_prompt; i++)
            tokens[i] = (int32_t)(hash_mix((uint64_t)s << 32 | (uint32_t)i) % (uint64_t)arch->vocab);
        coord_request q = {
            .id = r->next_id++,
            .tokens = tokens,
            .n_tokens = n_prompt,
            .n_prompt = n_prompt,
            .rope_set = shard_arch_rope_set(arch, n_prompt),
            .no_prefix_cache = true, /* prompts come again from run to run */
            .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .n_prompt_logprobs = -1, .max_tokens = n_gen},
        };
        TRY(coord_replica_submit(r->replica, &q));
    }
    return ST_OK;
}

typedef struct row {
    struct row *next;
    bool decode;
    int32_t first_range; /* of `repeat`, where times are broken down */
    int32_t tokens, batch, depth, repeat;
    double seconds[1000], rate_mean, rate_sd;
    uint64_t steps;
    coord_replica_times spent; /* of the measured runs together */
} row;

static void times_add(coord_replica_times *sum, const coord_replica_times *end, const coord_replica_times *begin)
{
    sum->steps += end->steps - begin->steps;
    sum->tokens += end->tokens - begin->tokens;
    sum->compute_seconds += end->compute_seconds - begin->compute_seconds;
    sum->exchange_seconds += end->exchange_seconds - begin->exchange_seconds;
    sum->stage_wait_seconds += end->stage_wait_seconds - begin->stage_wait_seconds;
    sum->attention_seconds += end->attention_seconds - begin->attention_seconds;
    sum->mlp_seconds += end->mlp_seconds - begin->mlp_seconds;
    sum->embed_seconds += end->embed_seconds - begin->embed_seconds;
    sum->head_seconds += end->head_seconds - begin->head_seconds;
}

static status wait_for_others(run *r)
{
    char path[4096];
    if (r->lockstep == NULL)
        return ST_OK;
    int n = snprintf(path, sizeof(path), "%s/%d", r->lockstep, ++r->n_runs);
    if (n < 0 || (size_t)n >= sizeof(path))
        return FAIL(ST_INVALID, "--lockstep: too long a path");
    printf("ready %d\n", r->n_runs);
    fflush(stdout);
    for (double until = log_clock() + LOCKSTEP_SECONDS; access(path, F_OK) != 0;) {
        if (log_clock() > until)
            return FAIL(ST_TIMEOUT, "%s has not come for %d s", path, LOCKSTEP_SECONDS);
        TRY(coord_replica_poll(r->replica));
        usleep(200);
    }
    return ST_OK;
}

/* Runs once; *seconds and the times spent in the measured part, and what that part was. */
static status run_once(run *r, row *w, int32_t *tokens, double *seconds, coord_replica_times *spent, breakdown_range *range)
{
    TRY(wait_for_others(r));
    coord_replica_times begin, end;
    int32_t n_prompt = w->decode ? w->depth : w->tokens;
    r->batch = w->batch;
    r->started = r->ended = 0;
    r->n_tokens = 0;
    r->wanted = w->decode ? (uint64_t)w->tokens * (uint64_t)w->batch : UINT64_MAX;
    r->all_done = 0;
    coord_replica_times_get(r->replica, &begin);
    double t0 = log_clock();
    /* One token more than is counted: the first belongs to the prefill. */
    uint64_t first_id = r->next_id;
    int32_t n_gen = w->decode ? w->tokens + 1 + waiting_steps(r->options, w->batch, w->depth) : 1, room = coord_replica_max_context(r->replica) - n_prompt;
    TRY(submit(r, n_prompt, n_gen < room || room < 1 ? n_gen : room, tokens));
    while (r->ended < r->batch && r->all_done == 0) {
        bool idle;
        TRY(coord_replica_run(r->replica, on_event, r, &idle));
        if (idle)
            return FAIL(ST_INTERNAL, "the benchmark waits for ever");
    }
    for (uint64_t id = first_id; id < r->next_id; id++)
        coord_replica_cancel(r->replica, id);
    coord_replica_times_get(r->replica, &end);
    for (bool idle = false; !idle;) /* steps still under way */
        TRY(coord_replica_run(r->replica, on_event, r, &idle));
    if (w->decode && (r->all_done == 0 || r->cut_short))
        return FAIL(ST_INVALID, "the first of %d sequences ends before the last one begins: a longer --ctx or a larger --max-batched-tokens is needed", w->batch);
    *seconds = w->decode ? r->all_done - r->first_all : r->first_all - t0;
    times_add(spent, w->decode ? &r->at_all_done : &end, w->decode ? &r->at_first_all : &begin);
    *range = w->decode ? (breakdown_range){r->first_all, r->all_done, r->at_first_all.steps, r->at_all_done.steps}
                       : (breakdown_range){t0, r->first_all, begin.steps, r->at_first_all.steps};
    return ST_OK;
}

static status measure(run *r, row *w)
{
    int32_t *tokens;
    coord_replica_times warm = {0};
    double rates[ARRAY_LEN(w->seconds)];
    TRY(mem_calloc((size_t)(w->decode ? w->depth : w->tokens), sizeof(*tokens), "prompt", &tokens));
    breakdown_range range;
    status st = run_once(r, w, tokens, &w->seconds[0], &warm, &range);
    for (int32_t i = 0; i < w->repeat && st == ST_OK; i++) {
        st = run_once(r, w, tokens, &w->seconds[i], &w->spent, &range);
        if (st == ST_OK)
            st = coord_replica_measured(r->replica, &range);
        rates[i] = (w->decode ? (double)r->n_tokens : (double)w->tokens * w->batch) / w->seconds[i];
    }
    free(tokens);
    if (st == ST_OK)
        w->rate_mean = numbers_mean(rates, (size_t)w->repeat, &w->rate_sd);
    return st;
}

/* ---- output ---- */

static double total(const row *w)
{
    double sum = 0;
    for (int32_t i = 0; i < w->repeat; i++)
        sum += w->seconds[i];
    return sum;
}

static double per_step_ms(const row *w, double seconds)
{
    return w->spent.steps == 0 ? 0 : 1e3 * seconds / (double)w->spent.steps;
}

static const char *name_of(const row *w, char text[64])
{
    if (w->decode)
        snprintf(text, 64, "decode %d after %d", w->tokens, w->depth);
    else
        snprintf(text, 64, "prefill %d", w->tokens);
    return text;
}

static void print_row(const row *w)
{
    char what[64];
    name_of(w, what);
    const coord_replica_times *t = &w->spent;
    printf("%-22s %5d  %9.2f +- %-7.2f  %8.3f  %9.3f %7.3f %7.3f %7.3f %7.3f %7.3f\n", what, w->batch, w->rate_mean, w->rate_sd,
           per_step_ms(w, total(w)), per_step_ms(w, t->attention_seconds), per_step_ms(w, t->mlp_seconds), per_step_ms(w, t->embed_seconds),
           per_step_ms(w, t->head_seconds), per_step_ms(w, t->exchange_seconds), per_step_ms(w, t->stage_wait_seconds));
    fflush(stdout);
}

/* Of a rank, in all measured runs of a row. */
static coord_breakdown breakdown_sum(const cli_replica *cr, const row *w, int rank)
{
    coord_breakdown sum = {0};
    for (int32_t i = 0; i < w->repeat; i++) {
        const coord_breakdown *b = &coord_replica_breakdown(cr->replica, w->first_range + i)[rank];
        sum.seconds += b->seconds;
        sum.compute += b->compute;
        sum.collective += b->collective;
        sum.skew += b->skew;
        sum.bubble += b->bubble;
        sum.scheduling += b->scheduling;
        sum.missing += b->missing;
    }
    return sum;
}

/* A rank to a line, as parts of its time. */
static json_t *breakdown_json(const cli_replica *cr, const row *w)
{
    json_t *ranks = json_array();
    for (int i = 0; i < cr->n_ranks; i++) {
        coord_breakdown b = breakdown_sum(cr, w, i);
        json_t *one = json_pack("{si si sf sf sf sf sf sf}", "rank", i, "stage", cr->reports[i].stage, "compute", b.compute / b.seconds, "collective", b.collective / b.seconds, "skew",
                                b.skew / b.seconds, "bubble", b.bubble / b.seconds, "scheduling", b.scheduling / b.seconds, "missing", b.missing / b.seconds);
        if (json_array_append_new(ranks, one) != 0) {
            json_decref(ranks);
            return NULL;
        }
    }
    return ranks;
}

static void print_breakdown(const cli_replica *cr, const row *w, bool head)
{
    char what[64];
    if (head)
        printf("\n%-22s %5s  %4s %5s  %8s %10s %8s %7s %10s %8s   %% of the time\n", "where it went", "batch", "rank", "stage", "compute", "collective", "of it skew", "bubble", "scheduling",
               "missing");
    for (int i = 0; i < cr->n_ranks; i++) {
        coord_breakdown b = breakdown_sum(cr, w, i);
        double s = b.seconds / 100;
        printf("%-22s %5d  %4d %5d  %8.1f %10.1f %10.1f %7.1f %10.1f %8.1f\n", name_of(w, what), w->batch, i, cr->reports[i].stage, b.compute / s, b.collective / s, b.skew / s, b.bubble / s,
               b.scheduling / s, b.missing / s);
    }
}

static status put_json(const cli_replica *cr, const bench_args *a, json_t *environment, const row *w)
{
    const coord_replica_times *t = &w->spent;
    const shard_plan *plan = coord_replica_plan(cr->replica);
    json_t *seconds = json_array();
    for (int32_t i = 0; i < w->repeat; i++)
        json_array_append_new(seconds, json_real(w->seconds[i]));
    json_t *o = json_pack("{ss si si si so sf sf sf}", "test", w->decode ? "decode" : "prefill", "tokens", w->tokens, "batch", w->batch, "depth", w->depth,
                          "seconds", seconds, "tokens_per_second", w->rate_mean, "tokens_per_second_sd", w->rate_sd, "step_ms",
                          per_step_ms(w, total(w)));
    json_t *phases = json_pack("{sf sf sf sf sf sf}", "attention", per_step_ms(w, t->attention_seconds), "mlp", per_step_ms(w, t->mlp_seconds), "embed",
                               per_step_ms(w, t->embed_seconds), "head", per_step_ms(w, t->head_seconds), "exchange",
                               per_step_ms(w, t->exchange_seconds), "stage_wait", per_step_ms(w, t->stage_wait_seconds));
    json_t *replica = json_pack("{ss si si si si ss sb ss ss}", "model", a->replica.options.model, "tp", plan->tp, "pp", plan->pp, "threads",
                                cr->reports[0].n_threads, "batch_tokens", a->replica.options.max_batched_tokens, "backend", cr->reports[0].backend, "f32", a->replica.options.f32, "kv_type",
                                shard_kv_type_name(a->replica.options.kv_type), "version", TRIREME_VERSION " " TRIREME_COMMIT);
    if (o == NULL || phases == NULL || replica == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a line of JSON");
    json_object_set_new(o, "rank0_step_ms", phases);
    json_object_update(o, replica);
    json_decref(replica);
    if (a->breakdown && json_object_set_new(o, "breakdown", breakdown_json(cr, w)) != 0) {
        json_decref(o);
        return FAIL(ST_NO_MEMORY, "no memory for a line of JSON");
    }
    return results_put(o, environment, a->json, a->save);
}

static void print_head(const cli_replica *cr, const bench_args *a)
{
    const shard_plan *plan = coord_replica_plan(cr->replica);
    printf("%s, tp %d x pp %d, %d threads a rank, %s, KV %s, version %s (%s)\n", a->replica.options.model, plan->tp, plan->pp, cr->reports[0].n_threads,
           cr->reports[0].backend, shard_kv_type_name(a->replica.options.kv_type), TRIREME_VERSION, TRIREME_COMMIT);
    if (largest(&a->prompt) + largest(&a->gen) > 0)
        printf("%-22s %5s  %21s  %8s  %9s %7s %7s %7s %7s %7s\n", "test", "batch", "tokens/s", "step ms", "attention", "mlp", "embed", "head", "sums", "stage");
}

/* What breaks times down is known at the end. */
typedef struct bench_run {
    run run;
    const cli_replica *cr;
    const bench_args *args;
    json_t *environment;
    row *rows, **rows_end; /* kept till then */
    int32_t n_ranges;
} bench_run;

static status one_row(bench_run *b, bool decode, int32_t tokens, int32_t batch, int32_t depth)
{
    const bench_args *a = b->args;
    row *w;
    if (tokens == 0)
        return ST_OK;
    TRY(mem_calloc(1, sizeof(*w), "row", &w));
    *w = (row){.decode = decode, .first_range = b->n_ranges, .tokens = tokens, .batch = batch, .depth = decode ? depth : 0, .repeat = a->repeat};
    status st = measure(&b->run, w);
    b->n_ranges += a->repeat;
    if (st == ST_OK && !a->json)
        print_row(w);
    if (st == ST_OK && !a->breakdown && (a->json || a->save != NULL))
        st = put_json(b->cr, a, b->environment, w);
    if (st == ST_OK && a->breakdown) {
        *b->rows_end = w;
        b->rows_end = &w->next;
    } else
        free(w);
    return st;
}

static status put_breakdowns(bench_run *b)
{
    if (!b->args->breakdown)
        return ST_OK;
    TRY(coord_replica_stop(b->cr->replica));
    for (const row *w = b->rows; w != NULL; w = w->next) {
        if (!b->args->json)
            print_breakdown(b->cr, w, w == b->rows);
        if (b->args->json || b->args->save != NULL)
            TRY(put_json(b->cr, b->args, b->environment, w));
    }
    return ST_OK;
}

/* ---- the scheduler's rows ---- */

static status shared_row(const cli_replica *cr, const bench_args *a, json_t *environment, int32_t tokens)
{
    bench_shared b = {.tokens = tokens, .repeat = a->repeat};
    if (tokens == 0)
        return ST_OK;
    TRY(bench_shared_measure(cr->replica, &b));
    if (a->json || a->save != NULL)
        TRY(results_put(json_pack("{ss si sf sf}", "test", "shared", "tokens", tokens, "cold_seconds", b.cold_seconds, "shared_seconds", b.shared_seconds), environment, a->json, a->save));
    if (!a->json)
        printf("shared %d: first token after %.3f s cold, %.3f s with the prefix there (%.3f of it)\n", tokens, b.cold_seconds, b.shared_seconds,
               b.shared_seconds / b.cold_seconds);
    return ST_OK;
}

static status among_row(const cli_replica *cr, const bench_args *a, json_t *environment, int32_t tokens, int32_t batch)
{
    bench_among b = {.tokens = tokens, .batch = batch, .budget = a->replica.options.max_batched_tokens};
    if (tokens == 0)
        return ST_OK;
    TRY(bench_among_measure(cr->replica, &b));
    if (a->json || a->save != NULL)
        TRY(results_put(json_pack("{ss si si si sf sf sf sf sf sf sf sf}", "test", "among", "tokens", tokens, "batch", batch, "budget", b.budget,
                                     "itl_alone_p50", b.itl_alone_p50, "itl_alone_p99", b.itl_alone_p99, "itl_during_p50", b.itl_during_p50, "itl_during_p99",
                                     b.itl_during_p99, "budget_step", b.budget_step, "ttft", b.ttft, "ttft_alone", b.ttft_alone, "ttft_fair", b.ttft_fair),
                        environment, a->json, a->save));
    if (!a->json)
        printf("among %d: %d sequences' tokens come %.3f s apart (p99 %.3f), %.3f s (p99 %.3f) while the prompt is computed in steps of %d tokens "
           "(%.3f s each); its first token after %.3f s, alone %.3f s, in turns %.3f s\n",
           tokens, batch, b.itl_alone_p50, b.itl_alone_p99, b.itl_during_p50, b.itl_during_p99, b.budget, b.budget_step, b.ttft, b.ttft_alone, b.ttft_fair);
    return ST_OK;
}

/* For `trireme bench load` (bench_load.c), which has the time from the start to the line. */
static status first_token(bench_run *b)
{
    row w = {.tokens = b->args->prompt.of[0], .batch = 1};
    int32_t *tokens;
    double seconds, load = 0, ready = 0;
    coord_replica_times spent = {0};
    breakdown_range range;
    json_int_t bytes = 0;
    TRY(mem_calloc((size_t)w.tokens, sizeof(*tokens), "prompt", &tokens));
    status st = run_once(&b->run, &w, tokens, &seconds, &spent, &range);
    free(tokens);
    TRY(st);
    printf("first token\n");
    fflush(stdout);
    for (int i = 0; i < b->cr->n_ranks; i++) {
        const coord_rank_report *r = &b->cr->reports[i];
        load = fmax(load, r->load_seconds);
        ready = fmax(ready, r->ready_seconds);
        bytes += (json_int_t)r->weight_bytes;
    }
    return results_put(json_pack("{ss sf sf sI}", "test", "load", "load_seconds", load, "ready_seconds", ready, "weight_bytes", bytes), b->environment, b->args->json, b->args->save);
}

static status bench_rows(bench_run *b)
{
    const bench_args *a = b->args;
    if (a->first_token)
        return first_token(b);
    for (int i = 0; i < a->batch.n; i++) {
        for (int p = 0; p < a->prompt.n; p++)
            TRY(one_row(b, false, a->prompt.of[p], a->batch.of[i], 0));
        for (int d = 0; d < a->depth.n; d++)
            for (int g = 0; g < a->gen.n; g++)
                TRY(one_row(b, true, a->gen.of[g], a->batch.of[i], a->depth.of[d]));
        for (int k = 0; k < a->among.n; k++)
            TRY(among_row(b->cr, a, b->environment, a->among.of[k], a->batch.of[i]));
    }
    for (int i = 0; i < a->shared.n; i++)
        TRY(shared_row(b->cr, a, b->environment, a->shared.of[i]));
    return put_breakdowns(b);
}

static status bench(const cli_replica *cr, const bench_args *a, json_t *environment)
{
    bench_run b = {.run = {.replica = cr->replica, .options = &a->replica.options, .lockstep = a->lockstep}, .cr = cr, .args = a, .environment = environment, .rows_end = &b.rows};
    if (a->json || a->save != NULL)
        TRY(results_add_replica(environment, cr->replica, &a->replica.options, cr->reports, cr->n_ranks));
    if (!a->json && !a->first_token)
        print_head(cr, a);
    status st = bench_rows(&b);
    for (row *w = b.rows, *next; w != NULL; w = next) {
        next = w->next;
        free(w);
    }
    return st;
}

static int bench_offline(int argc, char **argv)
{
    bench_args a = {.prompt = {1, {512}}, .gen = {1, {128}}, .batch = {1, {1}}, .depth = {1, {16}}, .repeat = 3};
    a.replica.options.phase_times = true;
    struct argp_child children[] = {{&cli_replica_argp, 0, NULL, 0}, {0}};
    struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};
    json_t *environment = results_environment(argc, argv); /* before argp sorts the arguments */
    cli_parse(&argp, argc, argv, &a);
    size_replica(&a);
    cli_replica cr;
    bool done;
    int code;
    cli_replica_start(&a.replica, &cr, &done, &code);
    if (!done)
        code = cli_finish_output(cli_replica_finish(&cr, bench(&cr, &a, environment)));
    json_decref(environment);
    return code;
}

static const struct {
    const char *name;
    char *title; /* what its --help is called */
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"comm", "trireme bench comm", cli_bench_comm},
    {"compare", "trireme bench compare", cli_bench_compare},
    {"kernels", "trireme bench kernels", cli_bench_kernels},
    {"load", "trireme bench load", cli_bench_load},
    {"offline", "trireme bench offline", bench_offline},
    {"scale", "trireme bench scale", cli_bench_scale},
    {"serve", "trireme bench serve", cli_bench_serve},
};

int cli_bench(int argc, char **argv)
{
    for (size_t i = 0; i < ARRAY_LEN(subcommands) && argc > 1; i++) {
        if (strcmp(argv[1], subcommands[i].name) != 0)
            continue;
        argv[1] = subcommands[i].title;
        return subcommands[i].run(argc - 1, argv + 1);
    }
    return bench_offline(argc, argv);
}
