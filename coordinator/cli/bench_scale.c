/* coordinator/cli/bench_scale.c - `trireme bench scale`: how throughput grows with ranks, split by split, and where the time goes that does not.
 *
 * Each split is a run of `trireme bench` of its own, on fresh ranks, or several at once for replicas; these begin each of their runs together, and what all computed counts over the
 * time of the slowest.  Strong scaling keeps the sequences of the whole; weak scaling keeps those of each rank.  The first split is what the others are compared with. */
#include <argp.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/numbers.h"
#include "base/threads.h"
#include "coordinator/cli/bench_jobs.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/command.h"
#include "coordinator/results.h"
#include "ops/ops.h"

enum { MAX_SPLITS = 64, MAX_BATCHES = 16, PROBE_MIB = 512 };

typedef struct split {
    int32_t tp, pp, replicas;
} split;

typedef struct scale_args {
    bench_jobs_args jobs;
    const char *prompt, *gen, *depth;
    split splits[MAX_SPLITS];
    int n_splits, n_batches;
    int32_t batches[MAX_BATCHES], threads;
    bool strong, weak;
} scale_args;

enum { OPT_SPLITS = 0x6800, OPT_SCALING };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What is compared:", 1},
    {"splits", OPT_SPLITS, "TPxPP[xREPLICAS],...", 0, "The first is what the others are compared with (default: 1x1, then tp, pp and replicas doubled up to the cores of this machine)", 0},
    {"scaling", OPT_SCALING, "strong|weak|both", 0, "The same sequences for all ranks together, or for each of them (default both)", 0},
    {"threads", 't', "N", 0, "Threads of each rank (default: this machine's cores divided among the ranks of the largest split)", 0},
    {NULL, 0, NULL, 0, "What is measured, as in trireme bench:", 2},
    {"prompt", 'p', "TOKENS,...", 0, "Prefill of so many tokens (default 512; 0: not)", 0},
    {"gen", 'n', "TOKENS,...", 0, "Decode of so many tokens (default 64; 0: not)", 0},
    {"batch", 'b', "N,...", 0, "Sequences at once: of the whole in strong scaling, of each rank in weak scaling (default 2)", 0},
    {"depth", 'd', "TOKENS,...", 0, "Context before decoding begins (default 16)", 0},
    {0},
};

static const char doc[] =
    "Measures how throughput grows with the ranks: tensor-parallel, pipeline-parallel, replicas, and all of them together."
    "\v"
    "Examples:\n"
    "  trireme bench scale -m model.gguf\n"
    "  trireme bench scale -m model.gguf --splits 1x1,2x1,1x2,1x1x2 -b 1,8 --save scale.jsonl; trireme report scale.jsonl -o scale.html\n"
    "  trireme bench scale -m /shared/large --splits 8x1,8x2,8x2x2 --launcher 'srun --mpi=pmix --exact -n {ranks}' -- --kv-type fp8\n"
    "\n"
    "What stands after -- is given to trireme bench.  Columns: tokens/s over all ranks with its standard deviation, and for each rank; how many times the first split's that is; the "
    "efficiency (of what the same for each rank would be); with how many times the memory bandwidth of the first split's cores, where that was measured, on CPUs of one machine; and where the ranks' time "
    "went, on average: computing, in collectives (of it: waiting for the last to come), waiting for other stages, for the scheduler, and what no clock covers.  Last, the rank "
    "that computes longest, where it takes more than 3 % longer than the median.";

/* ---- the command line ---- */

static bool parse_split(const char **text, split *out)
{
    int32_t of[3] = {1, 1, 1};
    int n = 0;
    for (const char *at = *text; n < 3; at++) {
        char *end;
        long v = strtol(at, &end, 10);
        if (end == at || v < 1 || v > 65536)
            return false;
        of[n++] = (int32_t)v;
        at = end;
        if (*at != 'x') {
            *text = at;
            *out = (split){of[0], of[1], of[2]};
            return n > 1;
        }
    }
    return false;
}

static bool parse_splits(const char *text, scale_args *a)
{
    for (a->n_splits = 0; a->n_splits < MAX_SPLITS; text++) {
        if (!parse_split(&text, &a->splits[a->n_splits++]))
            return false;
        if (*text != ',')
            return *text == '\0';
    }
    return false;
}

static bool parse_batches(const char *text, scale_args *a)
{
    for (a->n_batches = 0; a->n_batches < MAX_BATCHES; text++) {
        char *end;
        long v = strtol(text, &end, 10);
        if (end == text || v < 1 || v > 1 << 20)
            return false;
        a->batches[a->n_batches++] = (int32_t)v;
        text = end;
        if (*text != ',')
            return *text == '\0';
    }
    return false;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    scale_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->jobs;
        return 0;
    case OPT_SPLITS:
        if (!parse_splits(arg, a))
            argp_error(state, "--splits %s: up to %d splits are needed, with commas, as in 1x1,2x1,1x1x2", arg, MAX_SPLITS);
        return 0;
    case OPT_SCALING:
        a->strong = strcmp(arg, "weak") != 0;
        a->weak = strcmp(arg, "strong") != 0;
        if (strcmp(arg, "strong") != 0 && strcmp(arg, "weak") != 0 && strcmp(arg, "both") != 0)
            argp_error(state, "--scaling %s: strong, weak or both", arg);
        return 0;
    case 't':
        a->threads = cli_arg_int(state, "threads", arg, 1, 1024);
        return 0;
    case 'p':
        a->prompt = arg;
        return 0;
    case 'n':
        a->gen = arg;
        return 0;
    case 'd':
        a->depth = arg;
        return 0;
    case 'b':
        if (!parse_batches(arg, a))
            argp_error(state, "--batch %s: up to %d whole numbers are needed, with commas", arg, MAX_BATCHES);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int ranks_of(const split *s)
{
    return s->tp * s->pp * s->replicas;
}

/* One rank, and then each way to take two, four ... of them. */
static void default_splits(scale_args *a)
{
    int cores = threads_cores_granted();
    a->splits[a->n_splits++] = (split){1, 1, 1};
    for (int32_t n = 2; n <= cores && a->n_splits + 3 <= MAX_SPLITS; n *= 2) {
        a->splits[a->n_splits++] = (split){n, 1, 1};
        a->splits[a->n_splits++] = (split){1, n, 1};
        a->splits[a->n_splits++] = (split){1, 1, n};
    }
}

static void fill_in(scale_args *a)
{
    int most = 1;
    if (a->n_splits == 0)
        default_splits(a);
    for (int i = 0; i < a->n_splits; i++)
        most = ranks_of(&a->splits[i]) > most ? ranks_of(&a->splits[i]) : most;
    if (a->threads == 0)
        a->threads = threads_cores_granted() > most ? threads_cores_granted() / most : 1;
}

/* ---- a split ---- */

/* What all replicas together did in a row of theirs. */
typedef struct figures {
    const char *test; /* of the first replica's row; borrowed */
    int32_t tokens, depth, batch, repeat;
    double seconds[BENCH_JOBS_REPEAT], rate, rate_sd;
    coord_breakdown spent; /* parts of the ranks' time, on average */
    int slowest;           /* rank, counted over all replicas; -1: none is */
    double excess;
    json_t *ranks;         /* breakdown of each; owned */
} figures;

typedef struct scale {
    const scale_args *args;
    json_t *environment;
    double read[MAX_SPLITS]; /* bytes a second that the split's cores read; 0: not measured */
    figures *of[MAX_SPLITS]; /* [n_of]; owned */
    size_t n_of[MAX_SPLITS];
    bool failed;
} scale;

static int32_t strong_batch(const split *s, int32_t batch)
{
    return batch % s->replicas == 0 ? batch / s->replicas : 0;
}

static int32_t weak_batch(const split *s, int32_t batch)
{
    return batch * s->tp * s->pp;
}

/* The sequences of a replica in all that is measured, each number once. */
static void batch_list(const scale_args *a, const split *s, mem_str *out)
{
    int32_t list[2 * MAX_BATCHES];
    int n = 0;
    for (int i = 0; i < a->n_batches; i++) {
        const int32_t both[] = {a->strong ? strong_batch(s, a->batches[i]) : 0, a->weak ? weak_batch(s, a->batches[i]) : 0};
        for (int k = 0; k < 2; k++) {
            bool there = both[k] == 0;
            for (int j = 0; j < n && !there; j++)
                there = list[j] == both[k];
            if (!there)
                list[n++] = both[k];
        }
    }
    for (int i = 0; i < n; i++)
        mem_str_printf(out, "%s%d", i > 0 ? "," : "", list[i]);
}

static double number_of(const json_t *o, const char *name)
{
    return json_number_value(json_object_get(o, name));
}

/* The rank that computes longest: its part of the time against the median of all. */
static status slowest_find(figures *f)
{
    int n = (int)json_array_size(f->ranks);
    double *parts, most = 0;
    TRY(mem_calloc((size_t)n + 1, sizeof(*parts), "ranks", &parts));
    for (int i = 0; i < n; i++) {
        parts[i] = number_of(json_array_get(f->ranks, (size_t)i), "compute");
        f->slowest = parts[i] > most ? i : f->slowest;
        most = parts[i] > most ? parts[i] : most;
    }
    double middle = numbers_median(parts, (size_t)n);
    f->excess = middle > 0 ? most / middle - 1 : 0;
    free(parts);
    return ST_OK;
}

static void ranks_add(figures *f, const json_t *row, int replica)
{
    size_t i;
    json_t *rank;
    json_array_foreach(json_object_get(row, "breakdown"), i, rank) {
        json_t *copy = json_copy(rank);
        json_object_set_new(copy, "replica", json_integer(replica));
        json_array_append_new(f->ranks, copy);
        f->spent.seconds += 1;
        f->spent.compute += number_of(rank, "compute");
        f->spent.collective += number_of(rank, "collective");
        f->spent.skew += number_of(rank, "skew");
        f->spent.bubble += number_of(rank, "bubble");
        f->spent.scheduling += number_of(rank, "scheduling");
        f->spent.missing += number_of(rank, "missing");
    }
}

/* The k-th row of all replicas. */
static status figures_of(json_t *const *rows, int n, size_t k, figures *f)
{
    const json_t *first = json_array_get(rows[0], k);
    *f = (figures){.test = json_string_value(json_object_get(first, "test")), .tokens = (int32_t)number_of(first, "tokens"), .depth = (int32_t)number_of(first, "depth"),
                   .batch = (int32_t)number_of(first, "batch"), .slowest = -1, .ranks = json_array()};
    const json_t *runs = json_object_get(first, "seconds");
    f->repeat = (int32_t)json_array_size(runs);
    if (f->test == NULL || f->repeat < 1 || f->repeat > BENCH_JOBS_REPEAT || f->ranks == NULL)
        return FAIL(ST_INTERNAL, "a job's row is not what trireme bench writes");
    for (int i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows[i], k);
        for (int32_t r = 0; r < f->repeat; r++)
            f->seconds[r] = fmax(f->seconds[r], json_number_value(json_array_get(json_object_get(row, "seconds"), (size_t)r)));
        ranks_add(f, row, i);
    }
    double rates[BENCH_JOBS_REPEAT];
    for (int32_t r = 0; r < f->repeat; r++)
        rates[r] = f->seconds[r] > 0 ? (double)n * f->tokens * f->batch / f->seconds[r] : 0;
    f->rate = numbers_mean(rates, (size_t)f->repeat, &f->rate_sd);
    return slowest_find(f);
}

/* What the cores of so many threads read from memory; 0 where that is not what the jobs run on. */
static double memory_read(const scale_args *a, int threads)
{
    ops_ctx *ctx = NULL;
    ops_peaks p = {0};
    ops_ctx_options o = {.n_threads = threads, .first_core = 0, .spin = true, .max_rows = 1, .max_cols = 64};
    if (a->jobs.launcher != NULL || threads > threads_cores_granted() || ops_cpu()->ctx_create(&o, &ctx) != ST_OK)
        return 0;
    status st = ops_cpu()->peaks != NULL ? ops_cpu()->peaks(ctx, (size_t)PROBE_MIB << 20, &p) : ST_NOT_FOUND;
    ops_cpu()->ctx_destroy(&ctx);
    return st == ST_OK ? p.read : 0;
}

static status rows_take(scale *s, int i, json_t *const *rows)
{
    int n = s->args->splits[i].replicas;
    size_t n_rows = json_array_size(rows[0]);
    for (int k = 1; k < n; k++) {
        if (json_array_size(rows[k]) != n_rows)
            return FAIL(ST_INTERNAL, "replicas measured different rows");
    }
    TRY(mem_calloc(n_rows + 1, sizeof(*s->of[i]), "rows", &s->of[i]));
    for (size_t k = 0; k < n_rows; k++) {
        TRY(figures_of(rows, n, k, &s->of[i][k]));
        const char *test = s->of[i][k].test;
        s->of[i][k].test = strcmp(test, "decode") == 0 ? "decode" : "prefill";
        s->n_of[i]++;
    }
    json_t *replica = json_object_get(json_object_get(json_array_get(rows[0], 0), "environment"), "replica");
    if (i == 0 && replica != NULL)
        json_object_set(s->environment, "replica", replica);
    return ST_OK;
}

static status split_run(scale *s, int i)
{
    const scale_args *a = s->args;
    const split *sp = &a->splits[i];
    char tp[16], pp[16], threads[16], repeat[16];
    mem_str batches = {0};
    command_words w = {0};
    json_t **rows;
    TRY(mem_calloc((size_t)sp->replicas, sizeof(*rows), "jobs", &rows));
    batch_list(a, sp, &batches);
    snprintf(tp, sizeof(tp), "%d", sp->tp);
    snprintf(pp, sizeof(pp), "%d", sp->pp);
    snprintf(threads, sizeof(threads), "%d", a->threads);
    snprintf(repeat, sizeof(repeat), "%d", a->jobs.repeat);
    command_words_of(&w, (const char *[]){"bench", "-m", a->jobs.model, "--tp", tp, "--pp", pp, "--threads", threads, "-p", a->prompt, "-n", a->gen, "-d", a->depth, "-r", repeat,
                                          "--breakdown", "-b", batches.data, NULL});
    for (int k = 0; k < a->jobs.n_rest; k++)
        command_word(&w, a->jobs.rest[k]);
    bench_jobs jobs = {.n = sp->replicas, .ranks = sp->tp * sp->pp, .launcher = a->jobs.launcher, .words = w.of, .lockstep = true};
    status st = w.failed || batches.failed ? FAIL(ST_NO_MEMORY, "no memory for a job") : bench_jobs_run(&jobs, rows);
    if (st == ST_OK)
        st = rows_take(s, i, rows);
    for (int k = 0; k < sp->replicas; k++)
        json_decref(rows[k]);
    free(rows);
    free(w.of);
    mem_str_free(&batches);
    return st;
}

static const char *split_name(const split *s, char text[64])
{
    int n = snprintf(text, 64, "tp %d x pp %d", s->tp, s->pp);
    if (s->replicas > 1)
        snprintf(text + n, 64 - (size_t)n, " x %d replicas", s->replicas);
    return text;
}

/* ---- output ---- */

/* The row of a split that is one of scaling's: the same test, with the sequences that batch asks for. */
static const figures *row_of(const scale *s, int i, const figures *like, int32_t batch)
{
    for (size_t k = 0; k < s->n_of[i]; k++) {
        const figures *f = &s->of[i][k];
        if (strcmp(f->test, like->test) == 0 && f->tokens == like->tokens && f->depth == like->depth && f->batch == batch)
            return f;
    }
    return NULL;
}

static double growth(double now, double before)
{
    return before > 0 ? now / before : 0;
}

static status put_json(const scale *s, int i, const figures *f, const figures *base, bool weak, int32_t batch)
{
    const split *sp = &s->args->splits[i];
    double n = f->spent.seconds, ranks = ranks_of(sp), speedup = growth(f->rate, base->rate);
    json_t *seconds = json_array();
    for (int32_t r = 0; r < f->repeat; r++)
        json_array_append_new(seconds, json_real(f->seconds[r]));
    json_t *o = json_pack("{ss ss ss si si si si si si si si so sf sf sf sf sf}", "test", "scale", "phase", f->test, "scaling", weak ? "weak" : "strong", "tokens", f->tokens, "depth", f->depth,
                          "batch", batch, "sequences", f->batch * sp->replicas, "tp", sp->tp, "pp", sp->pp, "replicas", sp->replicas, "threads", s->args->threads, "seconds", seconds,
                          "tokens_per_second", f->rate, "tokens_per_second_sd", f->rate_sd, "tokens_per_second_rank", f->rate / ranks, "speedup", speedup, "efficiency",
                          speedup * ranks_of(&s->args->splits[0]) / ranks);
    json_t *parts = n > 0 ? json_pack("{sf sf sf sf sf sf sf sO}", "compute", f->spent.compute / n, "collective", f->spent.collective / n, "skew", f->spent.skew / n, "bubble",
                                      f->spent.bubble / n, "scheduling", f->spent.scheduling / n, "missing", f->spent.missing / n, "slowest_excess", f->excess, "breakdown", f->ranks)
                          : json_object();
    bool failed = o == NULL || parts == NULL || json_object_update(o, parts) != 0;
    if (!failed && s->read[i] > 0)
        failed = json_object_set_new(o, "memory_read", json_real(s->read[i])) != 0;
    json_decref(parts);
    if (failed) {
        json_decref(o);
        return FAIL(ST_NO_MEMORY, "no memory for a line of JSON");
    }
    return results_put(o, s->environment, s->args->jobs.json, s->args->jobs.save);
}

static void print_row(const scale *s, int i, const figures *f, const figures *base)
{
    char name[64], memory[16] = "-", slowest[48] = "";
    double ranks = ranks_of(&s->args->splits[i]), speedup = growth(f->rate, base->rate), n = f->spent.seconds / 100;
    if (s->read[i] > 0 && s->read[0] > 0)
        snprintf(memory, sizeof(memory), "%.2f", s->read[i] / s->read[0]);
    if (f->excess > 0.03)
        snprintf(slowest, sizeof(slowest), "rank %d, +%.0f %%", f->slowest, 100 * f->excess);
    n = n > 0 ? n : 1;
    printf("  %-24s %5.0f  %9.2f +- %-7.2f %9.2f %8.2f %9.1f%% %7s  %8.1f %10.1f %5.1f %7.1f %10.1f %8.1f  %s\n", split_name(&s->args->splits[i], name), ranks, f->rate, f->rate_sd,
           f->rate / ranks, speedup, 100 * speedup * ranks_of(&s->args->splits[0]) / ranks, memory, f->spent.compute / n, f->spent.collective / n, f->spent.skew / n, f->spent.bubble / n,
           f->spent.scheduling / n, f->spent.missing / n, slowest);
}

static status put_table(const scale *s, const figures *first, bool weak, int32_t batch)
{
    const scale_args *a = s->args;
    if (!a->jobs.json) {
        printf("\n%s %d", first->test, first->tokens);
        if (first->depth > 0)
            printf(" after %d", first->depth);
        printf(", %d sequence%s %s (%s scaling)\n", batch, batch > 1 ? "s" : "", weak ? "for each rank" : "in all", weak ? "weak" : "strong");
        printf("  %-24s %5s  %20s %9s %8s %10s %7s  %8s %10s %5s %7s %10s %8s\n", "", "ranks", "tokens/s", "a rank", "speed-up", "efficiency", "memory", "compute", "collective", "skew", "bubble",
               "scheduling", "missing");
    }
    const figures *base = row_of(s, 0, first, weak ? weak_batch(&a->splits[0], batch) : strong_batch(&a->splits[0], batch));
    for (int i = 0; i < a->n_splits && base != NULL; i++) {
        const figures *f = row_of(s, i, first, weak ? weak_batch(&a->splits[i], batch) : strong_batch(&a->splits[i], batch));
        if (f == NULL)
            continue;
        if (!a->jobs.json)
            print_row(s, i, f, base);
        if (a->jobs.json || a->jobs.save != NULL)
            TRY(put_json(s, i, f, base, weak, batch));
    }
    return ST_OK;
}

/* A table for each kind of row, number of sequences and way of scaling. */
static status put_tables(const scale *s)
{
    const scale_args *a = s->args;
    for (size_t k = 0; k < s->n_of[0]; k++) {
        const figures *f = &s->of[0][k];
        bool seen = false;
        for (size_t j = 0; j < k && !seen; j++)
            seen = row_of(s, 0, f, s->of[0][j].batch) == &s->of[0][j];
        for (int b = 0; b < a->n_batches && !seen; b++) {
            if (a->strong && strong_batch(&a->splits[0], a->batches[b]) > 0)
                TRY(put_table(s, f, false, a->batches[b]));
            if (a->weak)
                TRY(put_table(s, f, true, a->batches[b]));
        }
    }
    return ST_OK;
}

/* Splits take minutes: what one of them did is told as it ends. */
static void log_split(const scale *s, int i)
{
    for (size_t k = 0; k < s->n_of[i]; k++) {
        const figures *f = &s->of[i][k];
        int32_t sequences = f->batch * s->args->splits[i].replicas;
        log_info("  %s %d, %d sequence%s: %.2f +- %.2f tokens/s", f->test, f->tokens, sequences, sequences > 1 ? "s" : "", f->rate, f->rate_sd);
    }
}

/* A signal ends the split under way; those before it are told all the same. */
static status run(scale *s)
{
    const scale_args *a = s->args;
    char name[64];
    status st = ST_OK;
    if (!a->jobs.json)
        printf("%s, %d thread%s a rank\n", a->jobs.model, a->threads, a->threads > 1 ? "s" : "");
    for (int i = 0; i < a->n_splits && st != ST_ABORTED; i++) {
        log_info("%s (%d of %d)", split_name(&a->splits[i], name), i + 1, a->n_splits);
        s->read[i] = memory_read(a, ranks_of(&a->splits[i]) * a->threads);
        st = split_run(s, i);
        if (st != ST_OK && i == 0)
            return st;
        if (st == ST_OK)
            log_split(s, i);
        else
            log_error("%s is left out: %s", split_name(&a->splits[i], name), status_message());
        s->failed = s->failed || st != ST_OK;
    }
    return put_tables(s);
}

int cli_bench_scale(int argc, char **argv)
{
    scale_args a = {.prompt = "512", .gen = "64", .depth = "16", .batches = {2}, .n_batches = 1, .jobs = {.repeat = 3}, .strong = true, .weak = true};
    const struct argp_child children[] = {{&bench_jobs_argp, 0, NULL, 0}, {0}};
    const struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};
    scale s = {.args = &a, .environment = results_environment(argc, argv)};
    cli_parse(&argp, argc, argv, &a);
    fill_in(&a);
    status st = run(&s);
    for (int i = 0; i < a.n_splits; i++) {
        for (size_t k = 0; k < s.n_of[i]; k++)
            json_decref(s.of[i][k].ranks);
        free(s.of[i]);
    }
    json_decref(s.environment);
    return cli_finish_output(st != ST_OK ? cli_report(st) : s.failed);
}
