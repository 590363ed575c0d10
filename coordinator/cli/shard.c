/* coordinator/cli/shard.c - `trireme shard`: a checkpoint cut into every rank's final bytes, so that starting is a copy. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "coordinator/cli/cli.h"
#include "shard/checkpoint.h"
#include "shard/plan/plan.h"
#include "shard/write.h"
#include "trireme_version.h"

enum { OPT_TP = 256, OPT_PP, OPT_COMPUTE, OPT_WEIGHTS, OPT_JSON, OPT_REVISION, OPT_OFFLINE, OPT_QUIET, MAX_PARALLEL = 4096 };

typedef struct shard_args {
    const char *model, *target, *weights;
    int tp, pp;
    bool f32, json, quiet;
    shard_open_options open;
} shard_args;

static const struct argp_option options[] = {
    {"tp", OPT_TP, "N", 0, "Ranks that split each layer (default 1)", 0},
    {"pp", OPT_PP, "N", 0, "Stages that split the layers (default 1)", 0},
    {"compute", OPT_COMPUTE, "KIND", 0, "auto: weights packed as stored (default); f32: expanded, for starts with --compute f32", 0},
    {"rank-weights", OPT_WEIGHTS, "LIST", 0, "Relative speeds of the tp x pp ranks, separated by commas, where they are unequal", 0},
    {"revision", OPT_REVISION, "REV", 0, "Branch, tag or commit of a hub name (default main)", 0},
    {"offline", OPT_OFFLINE, NULL, 0, "Take a hub name from the cache only", 0},
    {"json", OPT_JSON, NULL, 0, "{\"path\", \"tp\", \"pp\", \"ranks\", \"tensors\", \"bytes\", \"digest\"} instead of text", 0},
    {"quiet", OPT_QUIET, NULL, 0, "No progress line", 0},
    {0},
};

static const char doc[] =
    "Cuts a checkpoint for tp x pp ranks: one file for each rank with its final packed bytes, and a manifest with the SHA-256 of every tensor."
    "\v"
    "A start from such a folder copies each rank's file into place and reads nothing else.  The folder serves the split it was cut for.  It also holds the tokenizer, "
    "the chat template and the model card, so it needs its source no more.\n"
    "\n"
    "Examples:\n"
    "  trireme shard ./SmolLM2-135M-Instruct ./smol-2x2 --tp 2 --pp 2\n"
    "  trireme inspect ./smol-2x2 --verify\n"
    "  mpirun -n 4 trireme generate -m ./smol-2x2 --tp 2 --pp 2 --prompts prompts.jsonl --json\n"
    "\n"
    "TARGET must not exist; it appears only once it is complete.";

static int parse_count(struct argp_state *state, const char *name, const char *arg)
{
    char *end;
    long v = strtol(arg, &end, 10);
    if (*arg == '\0' || *end != '\0' || v < 1 || v > MAX_PARALLEL)
        argp_error(state, "--%s %s: give a number from 1 to %d", name, arg, MAX_PARALLEL);
    return (int)v;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    shard_args *a = state->input;
    switch (key) {
    case OPT_TP:
        a->tp = parse_count(state, "tp", arg);
        break;
    case OPT_PP:
        a->pp = parse_count(state, "pp", arg);
        break;
    case OPT_COMPUTE:
        if (strcmp(arg, "auto") != 0 && strcmp(arg, "f32") != 0)
            argp_error(state, "--compute %s: give auto or f32", arg);
        a->f32 = strcmp(arg, "f32") == 0;
        break;
    case OPT_WEIGHTS:
        a->weights = arg;
        break;
    case OPT_REVISION:
        a->open.revision = arg;
        break;
    case OPT_OFFLINE:
        a->open.offline = true;
        break;
    case OPT_JSON:
        a->json = true;
        break;
    case OPT_QUIET:
        a->quiet = true;
        break;
    case ARGP_KEY_ARG:
        if (a->model == NULL)
            a->model = arg;
        else if (a->target == NULL)
            a->target = arg;
        else
            argp_error(state, "unexpected argument \"%s\"", arg);
        break;
    case ARGP_KEY_END:
        if (a->target == NULL)
            argp_error(state, "give a MODEL and a TARGET");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* "1,1,0.5,0.5" -> n positive numbers; caller frees. */
static status parse_weights(const char *text, int n, double **out)
{
    double *list = calloc((size_t)n, sizeof(*list));
    const char *p = text;
    if (list == NULL)
        return FAIL(ST_NO_MEMORY, "out of memory");
    for (int i = 0; i < n; i++) {
        char *end;
        list[i] = strtod(p, &end);
        if (end == p || !(list[i] > 0 && list[i] < 1e9) || *end != (i + 1 < n ? ',' : '\0')) {
            free(list);
            return FAIL(ST_INVALID, "--rank-weights %s: give %d positive numbers separated by commas, one for each rank", text, n);
        }
        p = end + 1;
    }
    *out = list;
    return ST_OK;
}

static status print(const shard_args *a, shard_checkpoint *c, const shard_write_stats *s, double seconds)
{
    if (a->json) {
        json_t *o = json_pack("{s:s, s:i, s:i, s:i, s:I, s:I, s:s}", "path", a->target, "tp", a->tp, "pp", a->pp, "ranks", (int)s->ranks, "tensors",
                              (json_int_t)s->tensors, "bytes", (json_int_t)s->bytes, "digest", shard_checkpoint_digest(c));
        char *line = o == NULL ? NULL : json_line(o);
        puts(line == NULL ? "{}" : line);
        free(line);
        json_decref(o);
    } else {
        printf("%s: %d ranks (tp %d x pp %d), %.1f MiB in %llu tensors, %.1f s\n", a->target, (int)s->ranks, a->tp, a->pp, (double)s->bytes / (1 << 20),
               (unsigned long long)s->tensors, seconds);
    }
    return fflush(stdout) == 0 ? ST_OK : FAIL(ST_IO, "standard output cannot be written");
}

static status cut(const shard_args *a, shard_checkpoint *c, const double *weights)
{
    shard_plan *plan;
    shard_write_stats stats;
    double started = log_clock();
    shard_plan_options o = {.tp = a->tp, .pp = a->pp, .rank_weights = weights, .types = *shard_checkpoint_types(c, a->f32)};
    shard_write_options w = {.f32 = a->f32, .rank_weights = weights, .tool_version = TRIREME_VERSION, .tool_commit = TRIREME_COMMIT, .quiet = a->quiet};
    TRY(shard_plan_create(shard_checkpoint_arch(c), &o, &plan));
    status st = shard_write(c, plan, &w, a->target, &stats);
    shard_plan_destroy(&plan);
    return st == ST_OK ? print(a, c, &stats, log_clock() - started) : st;
}

static status run(const shard_args *a)
{
    shard_checkpoint *c;
    double *weights = NULL;
    if (a->weights != NULL)
        TRY(parse_weights(a->weights, a->tp * a->pp, &weights));
    status st = shard_checkpoint_open(a->model, &a->open, &c);
    if (st == ST_OK) {
        st = cut(a, c, weights);
        shard_checkpoint_close(&c);
    }
    free(weights);
    return st;
}

int cli_shard(int argc, char **argv)
{
    static const struct argp argp = {options, parse_option, "MODEL TARGET", doc, NULL, NULL, NULL};
    shard_args a = {.tp = 1, .pp = 1};
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return status_exit_code(run(&a));
}
