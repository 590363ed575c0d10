/* coordinator/cli/plan_check.c - `trireme plan --check`: what `trireme bench --json` measured beside what is predicted for it.
 *
 * A CPU's rates are measured here, for each line anew: with its sequences and tokens before them, and with as many threads as its ranks computed with at once, because ranks of one
 * machine share its memory and caches (stages that take turns do not, and compute with each other's cores).  The links are a machine file's, or "cpu"'s.  For other backends --machine must say whose rates they are. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/numbers.h"
#include "base/threads.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/plan_predict.h"
#include "coordinator/replica.h"
#include "shard/machine_json.h"

enum { MAX_LINE = 1 << 20, MAX_RANKS = 1 << 16, MAX_TOKENS = 1 << 24 };

/* A line of results. */
typedef struct result {
    bool decode, f32;
    const char *model, *backend;
    int32_t tokens, batch, depth, tp, pp, ep, threads, chunk;
    shard_kv_type kv_type;
    double measured; /* seconds between tokens, or until the last first token */
} result;

/* What was measured here last for: consecutive lines often ask for the same. */
typedef struct checker {
    const plan_predict_args *args;
    const plan_question *question;
    shard_machine links;
    bool has_links;
    char *model;
    shard_checkpoint *checkpoint;
    plan_here measured_for;
    bool measured_f32, has_here;
    shard_machine here;
    double *errors;
    int32_t n, room;
} checker;

/* ---- reading ---- */

static status read_fields(const json_t *v, const char *where, result *r)
{
    const char *test, *kv;
    double rate;
    TRY(json_get_str(v, where, "test", "", &test));
    r->decode = strcmp(test, "decode") == 0;
    TRY(json_get_str(v, where, "model", NULL, &r->model));
    TRY(json_get_str(v, where, "backend", "cpu", &r->backend));
    TRY(json_get_str(v, where, "kv_type", "f16", &kv));
    TRY(json_get_bool(v, where, "f32", false, &r->f32));
    TRY(json_get_i32(v, where, "tokens", 0, 1, MAX_TOKENS, &r->tokens));
    TRY(json_get_i32(v, where, "batch", 1, 1, MAX_TOKENS, &r->batch));
    TRY(json_get_i32(v, where, "depth", 0, 0, MAX_TOKENS, &r->depth));
    TRY(json_get_i32(v, where, "tp", 1, 1, MAX_RANKS, &r->tp));
    TRY(json_get_i32(v, where, "pp", 1, 1, MAX_RANKS, &r->pp));
    TRY(json_get_i32(v, where, "ep", 1, 1, MAX_RANKS, &r->ep));
    TRY(json_get_i32(v, where, "threads", 1, 1, 4096, &r->threads));
    TRY(json_get_i32(v, where, "batch_tokens", COORD_BATCHED_TOKENS, 1, MAX_TOKENS, &r->chunk));
    TRY(json_get_f64(v, where, "tokens_per_second", 0, &rate));
    if (r->model == NULL)
        return FAIL(ST_FORMAT, "%s: model is missing", where);
    if (r->tokens == 0)
        return FAIL(ST_FORMAT, "%s: tokens is missing", where);
    if (!(rate > 0 && rate < 1e15))
        return FAIL(ST_FORMAT, "%s: tokens_per_second is %g, must be above 0", where, rate);
    if (!shard_kv_type_parse(kv, &r->kv_type))
        return FAIL(ST_FORMAT, "%s: kv_type \"%.32s\" is unknown", where, kv);
    r->measured = r->decode ? r->batch / rate : (double)r->batch * r->tokens / rate;
    return ST_OK;
}

/* ---- predicting one line ---- */

static status open_checkpoint(checker *c, const result *r)
{
    if (c->model != NULL && strcmp(c->model, r->model) == 0)
        return ST_OK;
    shard_checkpoint_close(&c->checkpoint);
    free(c->model);
    c->has_here = false;
    c->model = strdup(r->model);
    if (c->model == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a name");
    status st = shard_checkpoint_open(c->model, &c->question->open, &c->checkpoint);
    if (st != ST_OK) {
        free(c->model);
        c->model = NULL;
    }
    return st;
}

/* Stages that compute on the CPUs of one host: they lend each other their cores while one step alone is in flight. */
static int32_t stages_together(const checker *c, const result *r)
{
    int32_t stage = r->tp * r->ep, most = c->has_links ? c->links.devices_per_host / stage : r->pp;
    int32_t n = most < 1 ? 1 : most < r->pp ? most : r->pp;
    return strncmp(r->backend, "cpu", 3) != 0 ? 1 : n;
}

/* The step that most of the time goes to; decoding sequences are divided among so many. */
static plan_here step_of(const result *r, int32_t waves, int32_t together)
{
    int32_t cores = threads_cores_granted() / (r->threads * r->tp * r->ep), alone = together <= cores ? r->threads * together : r->threads;
    plan_here h = {.kv_type = r->kv_type, .threads = r->threads, .seqs = r->batch, .context = r->depth + r->tokens / 2, .active = r->tp * r->ep};
    if (r->decode) {
        int32_t in_flight = waves < r->batch ? waves : r->batch;
        h.seqs = (r->batch + in_flight - 1) / in_flight;
        h.active *= in_flight;
        h.threads = in_flight == 1 ? alone : r->threads;
        return h;
    }
    int64_t all = (int64_t)r->batch * r->tokens, chunks = (all + r->chunk - 1) / r->chunk, rows = (all + chunks - 1) / chunks;
    h.chunk = rows < r->tokens ? (int32_t)rows : r->tokens;
    h.seqs = (int32_t)(rows / h.chunk);
    h.context = (r->tokens - h.chunk) / 2;
    h.active *= chunks < r->pp ? (int32_t)chunks : r->pp;
    h.threads = chunks == 1 ? alone : r->threads;
    return h;
}

static status machine_for(checker *c, const result *r, int32_t waves, const shard_arch *arch, const shard_types *types, const shard_machine **out)
{
    if (strncmp(r->backend, "cpu", 3) != 0) {
        if (!c->has_links)
            return FAIL(ST_INVALID, "%s was measured on %s: say with --machine whose rates to predict with", r->model, r->backend);
        *out = &c->links;
        return ST_OK;
    }
    plan_here h = step_of(r, waves, stages_together(c, r)), *m = &c->measured_for;
    h.arch = arch;
    h.types = types;
    bool same = c->has_here && m->kv_type == h.kv_type && m->threads == h.threads && m->active == h.active && m->seqs == h.seqs && m->context == h.context && m->chunk == h.chunk &&
                m->types == h.types;
    if (!same) {
        c->has_here = false;
        TRY(plan_machine_here(&h, c->has_links ? &c->links : NULL, &c->here));
        c->measured_for = h;
        c->has_here = true;
    }
    if (!c->has_links)
        c->here.devices_per_host = r->tp * r->pp * r->ep;
    *out = &c->here;
    return ST_OK;
}

static status predict_divided(checker *c, const result *r, int32_t waves, double *predicted)
{
    const shard_machine *machine = NULL;
    const shard_arch *arch = shard_checkpoint_arch(c->checkpoint);
    const shard_types *types = shard_checkpoint_types(c->checkpoint, r->f32);
    TRY(machine_for(c, r, waves, arch, types, &machine));
    shard_serving s = {.machine = machine, .types = *types, .kv_type = r->kv_type, .chunk = r->chunk, .sum_bytes = c->args->sum_bytes, .dispatch_bytes = c->args->dispatch_bytes};
    s.overlap_rows = c->args->overlap_rows >= 0 ? c->args->overlap_rows : machine->device.overlaps ? 512 : 0;
    shard_split split = {r->tp, r->pp, r->ep, 1};
    TRY(shard_split_check(arch, &s, &split));
    *predicted = r->decode ? shard_predict_decode(arch, &s, &split, r->batch, r->depth + r->tokens / 2.0, waves) : shard_predict_prompts(arch, &s, &split, r->batch, r->tokens);
    return ST_OK;
}

/* Stages that share a memory find out among how many steps they had better divide the sequences (coordinator/waves.h). */
static status predict_line(checker *c, const result *r, double *predicted)
{
    double fewest;
    TRY(open_checkpoint(c, r));
    TRY(predict_divided(c, r, r->pp, predicted));
    if (!r->decode || r->batch == 1 || stages_together(c, r) == 1)
        return ST_OK;
    TRY(predict_divided(c, r, 1, &fewest));
    *predicted = fmin(*predicted, fewest);
    return ST_OK;
}

/* ---- output ---- */

static status show(checker *c, const result *r, double predicted)
{
    double error = predicted / r->measured - 1;
    char what[64], t[2][CLI_AMOUNT];
    if (c->n == c->room) {
        int32_t room = c->room > 0 ? 2 * c->room : 64;
        double *more = realloc(c->errors, (size_t)room * sizeof(*more));
        if (more == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for %d results", room);
        c->errors = more;
        c->room = room;
    }
    c->errors[c->n++] = fabs(error);
    if (c->question->json)
        return cli_print_json(json_pack("{s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:f,s:f}", "model", r->model, "test", r->decode ? "decode" : "prefill", "tokens", r->tokens, "batch",
                                        r->batch, "depth", r->depth, "tp", r->tp, "pp", r->pp, "threads", r->threads, "predicted_seconds", predicted, "measured_seconds", r->measured,
                                        "error", error));
    if (c->n == 1)
        printf("%-32s %3s %3s %7s  %-22s %6s %12s %12s %8s\n", "checkpoint", "tp", "pp", "threads", "test", "batch", "predicted", "measured", "error");
    if (r->decode)
        snprintf(what, sizeof(what), "decode %d after %d", r->tokens, r->depth);
    else
        snprintf(what, sizeof(what), "prefill %d", r->tokens);
    size_t len = strlen(r->model);
    printf("%-32s %3d %3d %7d  %-22s %6d %12s %12s %+7.1f%%\n", r->model + (len > 32 ? len - 32 : 0), r->tp, r->pp, r->threads, what, r->batch, cli_show_seconds(predicted, t[0]),
           cli_show_seconds(r->measured, t[1]), 100 * error);
    fflush(stdout);
    return ST_OK;
}

static status show_end(checker *c)
{
    if (c->n == 0)
        return FAIL(ST_INVALID, "%s: no line of `trireme bench --json` with a prefill or decode test in it", c->args->check);
    double median = numbers_median(c->errors, (size_t)c->n), worst = c->errors[c->n - 1];
    if (c->question->json)
        return cli_print_json(json_pack("{s:i,s:f,s:f}", "results", c->n, "median_error", median, "worst_error", worst));
    printf("\n%d results: median error %.1f%%, worst %.1f%%\n", c->n, 100 * median, 100 * worst);
    return ST_OK;
}

static status check_line(checker *c, const json_t *v, const char *where)
{
    const char *test = json_string_value(json_object_get(v, "test"));
    result r = {0};
    double predicted;
    if (test == NULL || (strcmp(test, "decode") != 0 && strcmp(test, "prefill") != 0))
        return ST_OK; /* of another benchmark */
    TRY(read_fields(v, where, &r));
    TRY(predict_line(c, &r, &predicted));
    return show(c, &r, predicted);
}

static status check_all(checker *c)
{
    cli_lines lines;
    bool more = true;
    TRY(cli_lines_open(c->args->check, MAX_LINE, &lines));
    status st = cli_lines_next(&lines, &more);
    while (st == ST_OK && more) {
        char where[512];
        json_t *v = NULL;
        snprintf(where, sizeof(where), "%.400s:%zu", c->args->check, lines.number);
        st = json_parse(where, lines.line, lines.len, &v);
        if (st == ST_OK)
            st = check_line(c, v, where);
        json_decref(v);
        if (st == ST_OK)
            st = cli_lines_next(&lines, &more);
    }
    cli_lines_close(&lines);
    return st == ST_OK ? show_end(c) : st;
}

status plan_check(const plan_predict_args *args, const plan_question *question)
{
    checker c = {.args = args, .question = question};
    if (args->machine != NULL && strcmp(args->machine, "here") != 0) {
        TRY(shard_machine_read(args->machine, &c.links));
        c.has_links = true;
    }
    status st = check_all(&c);
    shard_checkpoint_close(&c.checkpoint);
    free(c.model);
    free(c.errors);
    return st;
}
