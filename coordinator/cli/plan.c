/* coordinator/cli/plan.c - `trireme plan`: how a checkpoint would be split, what each rank holds and how long it takes; and how fast it would be served (plan_predict.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/plan_predict.h"
#include "coordinator/measure.h"
#include "shard/checkpoint.h"
#include "shard/plan/plan.h"

enum { DEFAULT_CONTEXT = 4096, MAX_RANKS = 1 << 16, GPUS_PER_HOST = 8 };
enum { OPT_MEMORY = 256, OPT_SEQS, OPT_CTX, OPT_KV, OPT_BATCH, OPT_RANKS, OPT_WEIGHTS, OPT_JSON, OPT_TP, OPT_PP, OPT_DEVICE, OPT_THREADS,
       OPT_HOST, OPT_TYPE, OPT_COMPUTE, OPT_LAYERS, OPT_STEP_SEQS, OPT_STEP_CTX, OPT_REVISION, OPT_OFFLINE };

typedef struct plan_args {
    const char *model;
    shard_open_options open;
    shard_plan_options o;
    bool json, f32, measure;
    packed_type type;       /* PACKED_TYPES: as stored */
    int32_t threads;
    double *weights;        /* --weights */
    int32_t n_weights;
    int32_t *stage_layers;  /* --layers */
    int32_t n_stage_layers;
    shard_device device;
    plan_predict_args predict;
} plan_args;

static const struct argp_option options[] = {
    {"tp", OPT_TP, "N", 0, "ranks that share each layer (tensor parallel); free if not given", 1},
    {"pp", OPT_PP, "M", 0, "stages of consecutive layers (pipeline parallel); free if not given", 1},
    {"ranks", OPT_RANKS, "N", 0, "ranks to choose tp and pp for; without it and with --memory the fewest that fit", 1},
    {"ranks-per-host", OPT_HOST, "N", 0, "ranks that share a host (default: all; 8 for a GPU)", 1},
    {"weights", OPT_WEIGHTS, "W,W...", 0, "relative speed of each rank, for ranks that are not alike: 1,1,2", 1},
    {"layers", OPT_LAYERS, "L,L...", 0, "layers of each stage, instead of what costs suggest", 1},
    {"memory", OPT_MEMORY, "SIZE", 0, "what each rank may use: 80GiB. A rank that lacks it gets fewer channels, and the price is shown", 2},
    {"seqs", OPT_SEQS, "N", 0, "sequences that run at once (default 16)", 2},
    {"ctx", OPT_CTX, "N", 0, "longest sequence in tokens (default 4096, or the checkpoint's longest if that is less)", 2},
    {"kv-type", OPT_KV, "TYPE", 0, "type of the KV cache: f32, f16, bf16, fp8 or q8 (default f16)", 2},
    {"batch-tokens", OPT_BATCH, "N", 0, "tokens of a step, which sizes its buffers (default 512)", 2},
    {"type", OPT_TYPE, "TYPE", 0, "plan as if every matrix had this packed type: bf16, q8_0, q4_k ... (default: as stored)", 2},
    {"compute", OPT_COMPUTE, "auto|f32", 0, "f32 expands weights to f32 at load", 2},
    {"device", OPT_DEVICE, "NAME", 0, "whose speed costs are reckoned with: cpu, a100, h100, h200, b200, or here, which measures this machine for a second (default cpu)", 3},
    {"threads", OPT_THREADS, "N", 0, "threads of a rank, for cpu and here (default 1)", 3},
    {"step-seqs", OPT_STEP_SEQS, "N", 0, "the decode step that costs are of: its sequences (default 1)", 3},
    {"step-ctx", OPT_STEP_CTX, "N", 0, "... and the tokens before each (default 1024)", 3},
    {"revision", OPT_REVISION, "REV", 0, "branch, tag or commit of a hub name", 4},
    {"offline", OPT_OFFLINE, NULL, 0, "look in the cache only, never on the network", 4},
    {"json", OPT_JSON, NULL, 0, "one line of JSON instead of a table", 5},
    {0},
};

/* "1,1,2" -> numbers; caller frees. */
static double *numbers(struct argp_state *state, const char *option, const char *text, int32_t *n)
{
    double *v = calloc(strlen(text) + 1, sizeof(*v));
    char *copy = strdup(text), *rest = copy;
    if (v == NULL || copy == NULL)
        argp_failure(state, 1, 0, "out of memory");
    *n = 0;
    for (char *word; (word = strsep(&rest, ",")) != NULL;)
        v[(*n)++] = cli_arg_number(state, option, word, 1e-6, 1e6);
    free(copy);
    return v;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    plan_args *a = state->input;
    double *v;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->predict;
        break;
    case OPT_TP:
        a->o.tp = cli_arg_int(state, "tp", arg, 1, MAX_RANKS);
        break;
    case OPT_PP:
        a->o.pp = cli_arg_int(state, "pp", arg, 1, MAX_RANKS);
        break;
    case OPT_RANKS:
        a->o.n_ranks = cli_arg_int(state, "ranks", arg, 1, MAX_RANKS);
        break;
    case OPT_HOST:
        a->o.ranks_per_host = cli_arg_int(state, "ranks-per-host", arg, 1, MAX_RANKS);
        break;
    case OPT_WEIGHTS:
        free(a->weights);
        a->weights = numbers(state, "weights", arg, &a->n_weights);
        break;
    case OPT_LAYERS:
        v = numbers(state, "layers", arg, &a->n_stage_layers);
        free(a->stage_layers);
        a->stage_layers = calloc((size_t)a->n_stage_layers, sizeof(int32_t));
        for (int32_t i = 0; a->stage_layers != NULL && i < a->n_stage_layers; i++)
            a->stage_layers[i] = (int32_t)v[i];
        free(v);
        break;
    case OPT_MEMORY:
        a->o.memory_per_rank = cli_arg_bytes(state, "memory", arg);
        break;
    case OPT_SEQS:
        a->o.max_seqs = cli_arg_int(state, "seqs", arg, 1, 1 << 20);
        break;
    case OPT_CTX:
        a->o.max_context = cli_arg_int(state, "ctx", arg, 1, INT32_MAX);
        break;
    case OPT_KV:
        if (!shard_kv_type_parse(arg, &a->o.kv_type))
            argp_error(state, "--kv-type %s: give f32, f16, bf16, fp8 or q8", arg);
        break;
    case OPT_BATCH:
        a->o.max_batched_tokens = cli_arg_int(state, "batch-tokens", arg, 1, 1 << 24);
        break;
    case OPT_TYPE:
        a->type = packed_type_parse(arg);
        if (a->type == PACKED_TYPES)
            argp_error(state, "--type %s: give f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k ... q6_k or iq4_nl", arg);
        break;
    case OPT_COMPUTE:
        a->f32 = strcmp(arg, "f32") == 0;
        if (!a->f32 && strcmp(arg, "auto") != 0)
            argp_error(state, "--compute %s: give auto or f32", arg);
        break;
    case OPT_DEVICE:
        a->measure = strcmp(arg, "here") == 0;
        if (!a->measure && shard_device_find(arg) == NULL)
            argp_error(state, "--device %s: give one of %s, here", arg, shard_device_names());
        else
            a->device = *shard_device_find(a->measure ? "cpu" : arg);
        break;
    case OPT_THREADS:
        a->threads = cli_arg_int(state, "threads", arg, 1, 4096);
        break;
    case OPT_STEP_SEQS:
        a->o.cost_seqs = cli_arg_int(state, "step-seqs", arg, 1, 1 << 20);
        break;
    case OPT_STEP_CTX:
        a->o.cost_context = cli_arg_int(state, "step-ctx", arg, 1, INT32_MAX);
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
    case ARGP_KEY_ARG:
        if (a->model != NULL)
            argp_error(state, "one MODEL, not both %s and %s", a->model, arg);
        a->model = arg;
        break;
    case ARGP_KEY_END:
        if (a->model == NULL && a->predict.check == NULL)
            argp_error(state, "which MODEL? A directory, a config.json, a GGUF file or a hub name");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_child children[] = {{&plan_predict_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    .options = options,
    .children = children,
    .parser = parse,
    .args_doc = "MODEL|config.json",
    .doc = "Show how a checkpoint would be split over ranks, or how fast a machine would serve it.\vMODEL is a Hugging Face directory, a GGUF file, a directory written by `trireme "
           "shard` or a hub name. A config.json alone is enough: no weights are read.\n\n"
           "A stage is a run of layers; its ranks share every layer by query heads, MLP channels and vocabulary rows. Ranks wait for each "
           "other twice in a layer, so each half is evened on its own; the imbalance says how much longer the slowest ranks take than perfect "
           "shares would, beside the least that whole heads allow.\n\n"
           "With --machine times and rates are predicted instead, from rooflines of the phases and a start and a bandwidth for each link, for every tp x pp x ep x replicas of the "
           "devices or the split given: time to first token (TTFT), time per output token (TPOT), tokens/s, memory and price. Checkpoints with experts or latent attention can be "
           "predicted before they can run.\n\n"
           "Examples:\n"
           "  trireme plan config.json --tp 8 --pp 16 --memory 80GiB --device h100\n"
           "  trireme plan model.gguf --ranks 4\n"
           "  trireme plan model/ --memory 24GiB --device h100 --type q4_k     (how many ranks?)\n"
           "  trireme plan model/ --tp 3 --pp 1 --weights 1,1,2                (the third rank is twice as fast)\n"
           "  trireme plan deepseek-v3/config.json --machine h100 --devices 1024 --prompt-len 4000 --output-len 1000 --ttft 2s --tpot 50ms --html front.html\n"
           "  trireme plan config.json --machine h200 --tp 8 --pp 1 --batch 64\n"
           "  trireme plan --check results.jsonl                               (what bench --json printed, beside what is predicted)\n\n"
           "Exit status: 0 it fits (and keeps the SLO), 1 it does not, 2 wrong use or input.",
};

/* ---- making the plan ---- */

static status check_lists(const plan_args *a, const shard_plan_options *o)
{
    int64_t n = o->tp > 0 && o->pp > 0 ? (int64_t)o->tp * o->pp : o->n_ranks;
    if (a->weights != NULL && n != a->n_weights)
        return FAIL(ST_INVALID, "--weights gives %d numbers: one for each of the ranks is needed; with --ranks %d, or --tp and --pp with that product", a->n_weights,
                    a->n_weights);
    if (a->stage_layers != NULL && o->pp != a->n_stage_layers)
        return FAIL(ST_INVALID, "--layers gives %d stages: say --pp %d too", a->n_stage_layers, a->n_stage_layers);
    return ST_OK;
}

/* The fewest ranks, doubling, that hold the checkpoint. */
static status fewest_ranks(const shard_arch *arch, shard_plan_options *o, shard_plan **out)
{
    for (int32_t n = 1; n <= 4096; n *= 2) {
        o->n_ranks = n;
        status_mute();
        status st = shard_plan_create(arch, o, out);
        status_unmute();
        if (st == ST_OK && ((*out)->fits || n == 4096))
            return ST_OK;
        if (st == ST_OK)
            shard_plan_destroy(out);
        else if (st != ST_INVALID)
            return st;
    }
    o->n_ranks = 1;
    return shard_plan_create(arch, o, out);
}

static status make(plan_args *a, shard_checkpoint *c, shard_plan **out)
{
    const shard_arch *arch = shard_checkpoint_arch(c);
    shard_plan_options *o = &a->o;
    o->types = *shard_checkpoint_types(c, a->f32);
    if (a->type != PACKED_TYPES)
        o->types = (shard_types){.dflt = a->type};
    if (o->max_context == 0)
        o->max_context = arch->max_positions > 0 && arch->max_positions < DEFAULT_CONTEXT ? arch->max_positions : DEFAULT_CONTEXT;
    if (arch->max_positions > 0 && o->max_context > arch->max_positions)
        return FAIL(ST_INVALID, "--ctx %d: %s was made for %d tokens", o->max_context, a->model, arch->max_positions);
    o->rank_weights = a->weights;
    o->stage_layers = a->stage_layers;
    o->may_not_fit = true;
    if (a->measure) {
        coord_measure_options m = {.n_threads = a->threads, .arch = arch, .types = &o->types, .kv_type = o->kv_type};
        m.seqs = o->cost_seqs > 0 ? o->cost_seqs : 1;
        m.context = o->cost_context > 0 ? o->cost_context : 1024;
        TRY(coord_measure_device(ops_cpu(), &m, &a->device));
    } else if (strcmp(a->device.name, "cpu") == 0)
        a->device = shard_device_scale(&a->device, a->threads);
    else if (o->ranks_per_host == 0)
        o->ranks_per_host = GPUS_PER_HOST;
    o->device = &a->device;
    TRY(check_lists(a, o));
    bool free_choice = o->tp == 0 && o->pp == 0 && o->n_ranks == 0;
    return free_choice && o->memory_per_rank > 0 ? fewest_ranks(arch, o, out) : shard_plan_create(arch, o, out);
}

/* ---- JSON ---- */

static json_t *slice_json(shard_slice s)
{
    return json_pack("[I,I]", (json_int_t)s.begin, (json_int_t)s.end);
}

static json_t *rank_json(const shard_rank_plan *r)
{
    size_t total = r->weight_bytes + r->scratch_bytes + r->kv_bytes;
    return json_pack("{s:i,s:i,s:i,s:[i,i],s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:{s:f,s:f,s:f,s:f}}", "rank", r->rank, "stage", r->stage,
                     "tp_index", r->tp_index, "layers", r->layer_begin, r->layer_end, "heads", slice_json(r->heads), "kv_heads",
                     slice_json(r->kv_heads), "channels", slice_json(r->channels), "embed_rows", slice_json(r->embed_rows), "head_rows",
                     slice_json(r->head_rows), "o_cols", slice_json(r->o_cols), "down_cols", slice_json(r->down_cols), "weight_bytes",
                     (json_int_t)r->weight_bytes, "scratch_bytes", (json_int_t)r->scratch_bytes, "kv_bytes", (json_int_t)r->kv_bytes, "total_bytes",
                     (json_int_t)total, "cost", "attention", r->cost_attention, "mlp", r->cost_mlp, "embed", r->cost_embed, "head", r->cost_head);
}

static status show_json(const plan_args *a, const shard_arch *arch, const shard_plan *p)
{
    json_t *ranks = json_array(), *blocks = json_array();
    for (int32_t i = 0; i < p->n_ranks; i++)
        json_array_append_new(ranks, rank_json(&p->ranks[i]));
    for (int g = 0; g < arch->n_kv_groups; g++)
        json_array_append_new(blocks, json_integer((json_int_t)p->kv_blocks[g]));
    json_t *v = json_pack("{s:s,s:s,s:i,s:i,s:i,s:b,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:o,s:I,s:i,s:i,s:s,s:s,s:o}", "model", a->model, "family", arch->family,
                          "tp", p->tp, "pp", p->pp, "n_ranks", p->n_ranks, "fits", (int)p->fits, "imbalance", p->imbalance, "imbalance_bound",
                          p->imbalance_bound, "imbalance_heads", p->imbalance_heads, "stage_imbalance", p->stage_imbalance, "memory_price",
                          p->memory_price, "step_seconds", p->step_seconds, "exchange_seconds", p->exchange_seconds, "kv_blocks", blocks, "kv_tokens",
                          (json_int_t)p->kv_tokens, "max_seqs", a->o.max_seqs > 0 ? a->o.max_seqs : 16, "max_context", a->o.max_context, "kv_type",
                          shard_kv_type_name(a->o.kv_type), "device", a->device.name, "ranks", ranks);
    if (v != NULL && !p->fits)
        json_object_set_new(v, "short", json_pack("{s:i,s:I}", "rank", p->short_rank, "bytes", (json_int_t)p->short_bytes));
    return cli_print_json(v);
}

/* ---- the table ---- */

static const char *range(shard_slice s, char text[48])
{
    if (s.end <= s.begin)
        return "-";
    snprintf(text, 48, "%lld-%lld", (long long)s.begin, (long long)s.end - 1);
    return text;
}

static void show_rank(const shard_rank_plan *r)
{
    char t[5][48], b[4][CLI_AMOUNT], c[3][CLI_AMOUNT];
    shard_slice layers = {r->layer_begin, r->layer_end}, rows = r->has_head ? r->head_rows : r->embed_rows;
    printf("%5d %5d %9s %9s %8s %13s %15s %9s %9s %9s %9s  %9s %8s %10s\n", r->rank, r->stage, range(layers, t[0]), range(r->heads, t[1]),
           range(r->kv_heads, t[2]), range(r->channels, t[3]), range(rows, t[4]), cli_show_bytes(r->weight_bytes, b[0]),
           cli_show_bytes(r->scratch_bytes, b[1]), cli_show_bytes(r->kv_bytes, b[2]),
           cli_show_bytes(r->weight_bytes + r->scratch_bytes + r->kv_bytes, b[3]), cli_show_seconds(r->cost_attention, c[0]),
           cli_show_seconds(r->cost_mlp, c[1]), r->has_embed || r->has_head ? cli_show_seconds(r->cost_embed + r->cost_head, c[2]) : "-");
}

static void show_kv(const plan_args *a, const shard_arch *arch, const shard_plan *p)
{
    int64_t per = (a->o.max_context + SHARD_KV_BLOCK - 1) / SHARD_KV_BLOCK * SHARD_KV_BLOCK, whole = per > 0 ? p->kv_tokens / per : 0;
    printf("KV cache (%s)     %lld tokens: %lld sequences of %d", shard_kv_type_name(a->o.kv_type), (long long)p->kv_tokens, (long long)whole,
           a->o.max_context);
    if (arch->n_kv_groups > 1) {
        printf("; blocks of each group:");
        for (int g = 0; g < arch->n_kv_groups; g++)
            printf(arch->kv_groups[g].window > 0 ? " %lld (window %d)" : " %lld (full)", (long long)p->kv_blocks[g], arch->kv_groups[g].window);
    }
    printf("\n");
}

static void show_fit(const plan_args *a, const shard_plan *p)
{
    char have[CLI_AMOUNT], need[CLI_AMOUNT];
    if (a->o.memory_per_rank == 0)
        return;
    cli_show_bytes(a->o.memory_per_rank, have);
    if (p->fits)
        printf("Memory             fits %s a rank%s\n", have, p->memory_price > 1.0005 ? ", at a price" : "");
    else
        printf("Memory             does NOT fit: rank %d needs %s (weights, buffers and one sequence's KV) and has %s.\n"
               "                   Use more ranks (--memory alone says how many), a smaller --ctx, --kv-type q8, or a smaller --type.\n",
               p->short_rank, cli_show_bytes(p->short_bytes, need), have);
    if (p->memory_price > 1.0005)
        printf("Price of memory    steps take %.1f %% longer than without the limit, since work moved to where there is room\n",
               (p->memory_price - 1) * 100);
}

static void show_table(const plan_args *a, const shard_arch *arch, const shard_plan *p)
{
    char t[3][CLI_AMOUNT];
    size_t weights = 0;
    for (int32_t i = 0; i < p->n_ranks; i++)
        weights += p->ranks[i].weight_bytes;
    printf("%s: %s, %d layers, hidden %d, %d query heads on %d KV heads of %d, %d channels, vocabulary %d%s\n", a->model, arch->family, arch->n_layers,
           arch->hidden, arch->n_heads, arch->n_kv_heads, arch->head_dim, arch->intermediate, arch->vocab, arch->tied_embeddings ? ", tied embeddings" : "");
    printf("%d rank%s = tp %d x pp %d; weights %s in all; costs of a decode step of %d sequence%s with %d tokens before, on %s\n\n", p->n_ranks,
           p->n_ranks == 1 ? "" : "s", p->tp, p->pp, cli_show_bytes(weights, t[0]), a->o.cost_seqs > 0 ? a->o.cost_seqs : 1, a->o.cost_seqs > 1 ? "s" : "",
           a->o.cost_context > 0 ? a->o.cost_context : 1024, a->device.name);
    printf(" rank stage    layers     heads kv heads      channels      vocabulary   weights   buffers  KV cache     total  attention      mlp embed+head\n");
    for (int32_t i = 0; i < p->n_ranks; i++)
        show_rank(&p->ranks[i]);
    printf("\nStep               %s, of which %s in exchanges between ranks\n", cli_show_seconds(p->step_seconds, t[0]), cli_show_seconds(p->exchange_seconds, t[1]));
    printf("Imbalance          %.3f (slowest rank of each phase over perfect shares); whole heads alone impose %.3f, with whole groups and panels %.3f\n",
           p->imbalance, p->imbalance_heads, p->imbalance_bound);
    if (p->pp > 1)
        printf("Stages             slowest %.3f x the mean\n", p->stage_imbalance);
    show_kv(a, arch, p);
    show_fit(a, p);
}

/* How fast, instead of how: everything that is predicted. */
static status predict(const plan_args *a, shard_checkpoint *c, bool *found)
{
    plan_question q = {.model = a->model, .kv_type = a->o.kv_type, .tp = a->o.tp, .pp = a->o.pp, .chunk = a->o.max_batched_tokens, .threads = a->threads, .open = a->open,
                       .json = a->json};
    *found = true;
    if (c != NULL) {
        q.arch = shard_checkpoint_arch(c);
        q.types = a->type != PACKED_TYPES ? (shard_types){.dflt = a->type} : *shard_checkpoint_types(c, a->f32);
    }
    return a->predict.check != NULL ? plan_check(&a->predict, &q) : plan_predict(&a->predict, &q, found);
}

int cli_plan(int argc, char **argv)
{
    plan_args a = {.type = PACKED_TYPES, .threads = 1, .o.kv_type = SHARD_KV_F16, .device = *shard_device_find("cpu"), .open = {.config_only = true, .to_plan = true}};
    shard_checkpoint *c = NULL;
    shard_plan *p = NULL;
    bool fits = false;
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    status st = a.model != NULL ? shard_checkpoint_open(a.model, &a.open, &c) : ST_OK;
    if (st == ST_OK && (a.predict.machine != NULL || a.predict.check != NULL)) {
        st = predict(&a, c, &fits);
    } else if (st == ST_OK) {
        st = make(&a, c, &p);
        if (st == ST_OK && a.json)
            st = show_json(&a, shard_checkpoint_arch(c), p);
        else if (st == ST_OK)
            show_table(&a, shard_checkpoint_arch(c), p);
        fits = p != NULL && p->fits;
    }
    int code = st != ST_OK ? status_exit_code(st) : fits ? 0 : 1;
    shard_plan_destroy(&p);
    shard_checkpoint_close(&c);
    free(a.weights);
    free(a.stage_layers);
    return cli_finish_output(code);
}
