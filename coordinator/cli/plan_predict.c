#include "coordinator/cli/plan_predict.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/measure.h"
#include "shard/machine_json.h"

enum { MAX_DEVICES = 1 << 16, MAX_TOKENS = 1 << 24, DEFAULT_PROMPT = 1024, DEFAULT_OUTPUT = 256 };
enum { OPT_MACHINE = 0x4000, OPT_DEVICES, OPT_EP, OPT_REPLICAS, OPT_PROMPT, OPT_OUTPUT, OPT_SEQS, OPT_TTFT, OPT_TPOT, OPT_SUMS, OPT_DISPATCH, OPT_OVERLAP, OPT_PRICE, OPT_EVERY,
       OPT_HTML, OPT_CHECK };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "How fast it would be served:", 6},
    {"machine", OPT_MACHINE, "NAME|FILE", 0, "predict for this machine: cpu, a100, h100, h200, b200 (nodes of 8), here, or a file as `trireme doctor` writes", 0},
    {"devices", OPT_DEVICES, "N", 0, "try every tp x pp x ep x replicas of N devices (default: those of one host, or of the split given)", 0},
    {"ep", OPT_EP, "N", 0, "groups of tp ranks that share the experts and have sequences of their own (expert parallel); free if not given", 0},
    {"replicas", OPT_REPLICAS, "N", 0, "copies of the checkpoint; as many as there are devices for if not given", 0},
    {"prompt-len", OPT_PROMPT, "N", 0, "tokens of a prompt (default 1024)", 0},
    {"output-len", OPT_OUTPUT, "N", 0, "tokens generated for each (default 256)", 0},
    {"batch", OPT_SEQS, "N", 0, "sequences at once in each replica (default: 1, 2, 4 ... as long as memory lasts)", 0},
    {"ttft", OPT_TTFT, "TIME", 0, "the SLO: a first token within 2s, 500ms ...", 0},
    {"tpot", OPT_TPOT, "TIME", 0, "... and each further one within 50ms ...", 0},
    {"sums", OPT_SUMS, "f32|bf16", 0, "how sums travel between ranks (default f32, as Trireme's do)", 0},
    {"dispatch", OPT_DISPATCH, "f32|bf16|fp8", 0, "how rows travel to experts (default as --sums)", 0},
    {"overlap-rows", OPT_OVERLAP, "N", 0, "steps of so many tokens exchange behind computing (default 512 on GPUs, never on CPUs; 0: never)", 0},
    {"price", OPT_PRICE, "AMOUNT", 0, "of a device for an hour, instead of the machine's", 0},
    {"every", OPT_EVERY, NULL, 0, "show every split that fits, not only the front", 0},
    {"html", OPT_HTML, "FILE", 0, "write the front as a page", 0},
    {"check", OPT_CHECK, "FILE", 0, "compare with the lines that `trireme bench --json` printed into FILE; with --machine FILE its links are taken", 0},
    {0},
};

/* "500ms", "2s", "1.5": seconds. */
static double parse_time(struct argp_state *state, const char *name, const char *text)
{
    char *end;
    double v = strtod(text, &end), unit = strcmp(end, "ms") == 0 ? 1e-3 : strcmp(end, "us") == 0 ? 1e-6 : 1;
    if (end == text || !(v > 0 && v * unit <= 86400) || (*end != '\0' && strcmp(end, "s") != 0 && unit == 1))
        argp_error(state, "--%s %s: give a time such as 2s or 50ms", name, text);
    return v * unit;
}

static double element_bytes(struct argp_state *state, const char *name, const char *text, bool fp8)
{
    double bytes = strcmp(text, "f32") == 0 ? 4 : strcmp(text, "bf16") == 0 ? 2 : fp8 && strcmp(text, "fp8") == 0 ? 1 : 0;
    if (bytes == 0)
        argp_error(state, "--%s %s: give f32%s bf16%s", name, text, fp8 ? "," : " or", fp8 ? " or fp8" : "");
    return bytes;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    plan_predict_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *a = (plan_predict_args){.overlap_rows = -1, .price = -1, .sum_bytes = 4, .sweep = {.prompt = DEFAULT_PROMPT, .output = DEFAULT_OUTPUT}};
        break;
    case OPT_MACHINE:
        a->machine = arg;
        break;
    case OPT_DEVICES:
        a->sweep.n_devices = cli_arg_int(state, "devices", arg, 1, MAX_DEVICES);
        break;
    case OPT_EP:
        a->sweep.fixed.ep = cli_arg_int(state, "ep", arg, 1, MAX_DEVICES);
        break;
    case OPT_REPLICAS:
        a->sweep.fixed.replicas = cli_arg_int(state, "replicas", arg, 1, MAX_DEVICES);
        break;
    case OPT_PROMPT:
        a->sweep.prompt = cli_arg_int(state, "prompt-len", arg, 1, MAX_TOKENS);
        break;
    case OPT_OUTPUT:
        a->sweep.output = cli_arg_int(state, "output-len", arg, 1, MAX_TOKENS);
        break;
    case OPT_SEQS:
        a->sweep.batch = cli_arg_int(state, "batch", arg, 1, 1 << 24);
        break;
    case OPT_TTFT:
        a->sweep.ttft = parse_time(state, "ttft", arg);
        break;
    case OPT_TPOT:
        a->sweep.tpot = parse_time(state, "tpot", arg);
        break;
    case OPT_SUMS:
        a->sum_bytes = element_bytes(state, "sums", arg, false);
        break;
    case OPT_DISPATCH:
        a->dispatch_bytes = element_bytes(state, "dispatch", arg, true);
        break;
    case OPT_OVERLAP:
        a->overlap_rows = cli_arg_int(state, "overlap-rows", arg, 0, MAX_TOKENS);
        break;
    case OPT_PRICE:
        a->price = cli_arg_number(state, "price", arg, 0, 1e6);
        break;
    case OPT_EVERY:
        a->every = true;
        break;
    case OPT_HTML:
        a->html = arg;
        break;
    case OPT_CHECK:
        a->check = arg;
        break;
    case ARGP_KEY_END:
        if (a->machine == NULL && a->check == NULL && (a->sweep.n_devices > 0 || a->sweep.fixed.ep > 0 || a->html != NULL || a->every || a->sweep.ttft > 0 || a->sweep.tpot > 0))
            argp_error(state, "for which machine? --machine a100, h100, h200, b200, cpu, here or a file");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp plan_predict_argp = {.options = options, .parser = parse};

/* ---- the machine ---- */

status plan_machine_here(const plan_here *h, const shard_machine *links, shard_machine *out)
{
    int32_t threads = h->threads > 0 ? h->threads : 1, cores = threads_cores_granted();
    coord_measure_options m = {.n_threads = threads * h->active, .arch = h->arch, .types = h->types, .kv_type = h->kv_type, .seqs = h->seqs, .context = h->context, .chunk = h->chunk};
    shard_device d;
    if (h->arch->n_experts > 0 || h->arch->kv_latent > 0)
        return FAIL(ST_UNSUPPORTED, "here: layers of experts and latent attention cannot be measured, since they do not run yet; give another --machine");
    TRY(coord_measure_device(ops_cpu(), &m, &d));
    const shard_device *l = &(links != NULL ? links : shard_machine_find("cpu"))->device;
    int32_t per_host = links != NULL ? links->devices_per_host : cores / threads > 0 ? cores / threads : 1;
    *out = (shard_machine){.name = "this machine", .devices_per_host = per_host, .memory_bytes = mem_available() / (size_t)per_host};
    if (links != NULL)
        out->price_per_hour = links->price_per_hour;
    out->device = shard_device_scale(&d, 1.0 / h->active);
    out->device.exchange_seconds = l->exchange_seconds;
    out->device.exchange_bytes_per_second = l->exchange_bytes_per_second;
    out->device.network_seconds = l->network_seconds;
    out->device.network_bytes_per_second = l->network_bytes_per_second;
    memcpy(out->device.sums, l->sums, sizeof(l->sums));
    out->device.n_sums = l->n_sums;
    return ST_OK;
}

static status find_machine(const plan_predict_args *a, const plan_question *q, shard_machine *m)
{
    if (strcmp(a->machine, "here") == 0) {
        plan_here h = {q->arch, &q->types, q->kv_type, q->threads, 1, a->sweep.batch > 0 ? a->sweep.batch : 1, a->sweep.prompt + a->sweep.output / 2, 0};
        TRY(plan_machine_here(&h, NULL, m));
    } else {
        TRY(shard_machine_read(a->machine, m));
        if (strcmp(m->name, "cpu") == 0 && q->threads > 1)
            m->device = shard_device_scale(&m->device, q->threads);
    }
    if (a->price >= 0)
        m->price_per_hour = a->price;
    return ST_OK;
}

/* ---- the answer ---- */

static json_t *point_json(const shard_point *x)
{
    const shard_prediction *p = &x->p;
    return json_pack("{s:i,s:i,s:i,s:i,s:i,s:b,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:I}", "tp", x->split.tp, "pp", x->split.pp, "ep", x->split.ep, "replicas",
                     x->split.replicas, "batch", x->batch, "fits", (int)p->fits, "ttft_seconds", p->ttft, "tpot_seconds", p->tpot, "tokens_per_second", p->tokens_per_second, "tokens_per_second_device",
                     p->per_device, "tokens_per_second_user", p->per_user, "decode_step_seconds", p->decode_step, "exchange_seconds", p->exchange, "bubble_seconds", p->bubble,
                     "decode_tokens_per_second", p->decode_rate, "prompt_tokens_per_second", p->prompt_rate, "price_per_million_tokens", p->price_per_million, "weight_bytes",
                     (json_int_t)p->weight_bytes, "kv_bytes", (json_int_t)p->kv_bytes, "buffer_bytes", (json_int_t)p->buffer_bytes);
}

static json_t *points_json(const shard_point *points, int32_t n)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list, point_json(&points[i]));
    return list;
}

static status show_json(const plan_result *r)
{
    const shard_sweep_options *o = &r->args->sweep;
    const shard_sweep *s = r->sweep;
    json_t *v = json_pack("{s:s,s:s,s:f,s:f,s:o,s:i,s:i,s:i,s:s,s:I,s:I,s:I,s:f,s:o}", "model", r->question->model, "family", r->question->arch->family, "weights", r->weights,
                          "active_weights", r->active_weights, "machine", shard_machine_json(r->serving->machine), "devices", o->n_devices, "prompt_len", o->prompt, "output_len",
                          o->output, "kv_type", shard_kv_type_name(r->serving->kv_type), "splits", (json_int_t)s->n_splits, "splits_that_fit", (json_int_t)s->n_fit, "predictions",
                          (json_int_t)s->n_points, "seconds", r->seconds, "front", points_json(s->front, s->n_front));
    if (v != NULL && s->best.batch > 0)
        json_object_set_new(v, "best", point_json(&s->best));
    if (v != NULL && (o->ttft > 0 || o->tpot > 0))
        json_object_set_new(v, "slo", json_pack("{s:f,s:f,s:b}", "ttft_seconds", o->ttft, "tpot_seconds", o->tpot, "kept", (int)s->found));
    if (v != NULL && r->args->every)
        json_object_set_new(v, "every", points_json(s->splits, s->n_points_kept));
    return cli_print_json(v);
}

static const char *count(double n, char text[CLI_AMOUNT])
{
    static const char *const units[] = {"", " k", " M", " G"};
    size_t u = 0;
    while (n >= 9999.5 && u + 1 < ARRAY_LEN(units)) {
        n /= 1000;
        u++;
    }
    snprintf(text, CLI_AMOUNT, "%.*f%s", n < 9.995 ? 2 : n < 99.95 ? 1 : 0, n, units[u]);
    return text;
}

static void show_head(void)
{
    printf("   tp   pp   ep replicas  batch   tokens/s  tokens/s     tokens/s       TTFT       TPOT   exchange   bubble    weights   KV cache       $ a\n"
           "                                   a user  a device       in all                           of a decode step   of the fullest rank    million\n");
}

static void show_point(const shard_point *x, bool priced)
{
    const shard_prediction *p = &x->p;
    char t[7][CLI_AMOUNT], price[32] = "-";
    if (priced)
        snprintf(price, sizeof(price), "%.3g", p->price_per_million);
    printf("%5d %4d %4d %8d %6d %10s %9s %12s %10s %10s %9.1f%% %7.1f%% %10s %10s %9s\n", x->split.tp, x->split.pp, x->split.ep, x->split.replicas, x->batch, count(p->per_user, t[0]),
           count(p->per_device, t[1]), count(p->tokens_per_second, t[2]), cli_show_seconds(p->ttft, t[3]), cli_show_seconds(p->tpot, t[4]), 100 * p->exchange / p->decode_step,
           100 * p->bubble / p->decode_step, cli_show_bytes(p->weight_bytes, t[5]), cli_show_bytes(p->kv_bytes, t[6]), price);
}

/* Of points that hardly differ one is enough for reading; --json has all. */
static void show_front(const shard_sweep *s, bool priced)
{
    int32_t shown = -1, left = 0;
    show_head();
    for (int32_t i = 0; i < s->n_front; i++) {
        const shard_prediction *p = &s->front[i].p, *before = shown < 0 ? NULL : &s->front[shown].p;
        if (before != NULL && i + 1 < s->n_front && p->per_user > 0.95 * before->per_user && p->per_device < 1.15 * before->per_device) {
            left++;
            continue;
        }
        show_point(&s->front[i], priced);
        shown = i;
    }
    if (left > 0)
        printf("(%d points between these are left out)\n", left);
}

static void show_table(const plan_result *r)
{
    const shard_sweep_options *o = &r->args->sweep;
    const shard_sweep *s = r->sweep;
    const shard_machine *m = r->serving->machine;
    char t[3][CLI_AMOUNT];
    bool priced = m->price_per_hour > 0;
    printf("%s: %s, %.4g billion weights (%.4g for a token), %d layers; KV %s, sums %s\n", r->question->model, r->question->arch->family, r->weights / 1e9,
           r->active_weights / 1e9, r->question->arch->n_layers, shard_kv_type_name(r->serving->kv_type), r->serving->sum_bytes == 2 ? "bf16" : "f32");
    printf("%d x %s, %d to a host, %s each%s; prompts of %d tokens, %d generated\n", o->n_devices, m->name, m->devices_per_host, cli_show_bytes(m->memory_bytes, t[0]),
           priced ? "" : ", no price", o->prompt, o->output);
    printf("%lld splits, of which %lld fit; %lld predictions in %s\n", (long long)s->n_splits, (long long)s->n_fit, (long long)s->n_points, cli_show_seconds(r->seconds, t[1]));
    if (s->best.batch == 0) {
        printf("\nNothing fits: more --devices, a smaller --type, --kv-type fp8, or shorter prompts.\n");
        return;
    }
    printf("\n%s\n", s->n_points > 1 ? "The front: nothing else gives more to both users and devices." : "Predicted:");
    show_front(s, priced);
    if (r->args->every) {
        printf("\nEvery split that fits, each with its best batch:\n");
        show_head();
        for (int32_t i = 0; i < s->n_points_kept; i++)
            show_point(&s->splits[i], priced);
    }
    if (o->ttft > 0 || o->tpot > 0) {
        printf("\n%s (TTFT %s, TPOT %s):\n", s->found ? "The best within the SLO" : "NOTHING keeps the SLO; nearest", o->ttft > 0 ? cli_show_seconds(o->ttft, t[0]) : "any",
               o->tpot > 0 ? cli_show_seconds(o->tpot, t[1]) : "any");
        show_head();
        show_point(&s->best, priced);
    }
    if (!s->best.p.fits)
        printf("\nIt does NOT fit: %s of buffers beside weights and KV cache, and a device has %s.\n", cli_show_bytes(s->best.p.buffer_bytes, t[0]), cli_show_bytes(m->memory_bytes, t[1]));
    if (s->n_points == 1)
        printf("\nDecoding alone     %s tokens/s, a step %s\nPrompts alone      %s tokens/s\n", count(s->front[0].p.decode_rate, t[0]), cli_show_seconds(s->front[0].p.decode_step, t[1]),
               count(s->front[0].p.prompt_rate, t[2]));
}

status plan_predict(const plan_predict_args *args, const plan_question *q, bool *found)
{
    plan_predict_args a = *args;
    shard_machine machine;
    shard_sweep *sweep;
    shard_sweep_options *o = &a.sweep;
    TRY(find_machine(&a, q, &machine));
    o->fixed.tp = q->tp;
    o->fixed.pp = q->pp;
    if (o->n_devices == 0 && q->tp > 0 && q->pp > 0)
        o->n_devices = q->tp * q->pp * (o->fixed.ep > 0 ? o->fixed.ep : 1) * (o->fixed.replicas > 0 ? o->fixed.replicas : 1);
    if (o->n_devices == 0)
        o->n_devices = machine.devices_per_host;
    if (q->arch->max_positions > 0 && (int64_t)o->prompt + o->output > q->arch->max_positions)
        return FAIL(ST_INVALID, "--prompt-len %d and --output-len %d: %s was made for %d tokens", o->prompt, o->output, q->model, q->arch->max_positions);
    shard_serving s = {.machine = &machine, .types = q->types, .kv_type = q->kv_type, .chunk = q->chunk, .sum_bytes = a.sum_bytes, .dispatch_bytes = a.dispatch_bytes};
    s.overlap_rows = a.overlap_rows >= 0 ? a.overlap_rows : machine.device.overlaps ? 512 : 0;
    double began = log_thread_clock();
    TRY(shard_sweep_create(q->arch, &s, o, a.every || a.html != NULL, &sweep));
    plan_result r = {.args = &a, .question = q, .serving = &s, .sweep = sweep, .seconds = log_thread_clock() - began};
    shard_arch_weights(q->arch, &r.weights, &r.active_weights);
    status st = a.html != NULL ? plan_page_write(a.html, &r) : ST_OK;
    if (st == ST_OK && q->json)
        st = show_json(&r);
    else if (st == ST_OK)
        show_table(&r);
    *found = sweep->found;
    shard_sweep_destroy(&sweep);
    return st;
}
