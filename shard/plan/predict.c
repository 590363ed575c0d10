#include "shard/plan/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "shard/plan/predict_internal.h"

enum { CHUNK = 512, CHUNK_GPU = 8192 };

static int64_t share_of(int64_t n, int64_t parts)
{
    return (n + parts - 1) / parts;
}

/* ---- weights ---- */

static double attention_weights(const shard_arch *a, double heads, double kv_heads)
{
    double hidden = a->hidden, hd = a->head_dim;
    if (a->kv_latent == 0)
        return hidden * hd * (2 * heads + 2 * kv_heads);
    double latent = a->kv_latent, rope = a->rope_head_dim, q = a->q_latent > 0 ? hidden * a->q_latent + a->q_latent * heads * hd : hidden * heads * hd;
    return q + hidden * (latent + rope) + latent * heads * (hd - rope + a->value_head_dim) + heads * a->value_head_dim * hidden;
}

static double mlp_weights(const shard_arch *a, double channels)
{
    return (a->mlp == SHARD_MLP_GATED ? 3.0 : 2.0) * a->hidden * channels;
}

/* Norms and biases of a layer: few, but a count should be right. */
static double vector_weights(const shard_arch *a)
{
    double n = 0;
    for (int role = 0; role < SHARD_ROLES; role++) {
        int64_t rows, cols;
        bool dense_only = a->n_experts > 0 && (role == SHARD_GATE_B || role == SHARD_UP_B || role == SHARD_DOWN_B);
        if (shard_role_in_layer((shard_role)role) && shard_role_is_vector((shard_role)role) && !dense_only && shard_role_shape(a, (shard_role)role, &rows, &cols))
            n += (double)rows;
    }
    return n + a->q_latent + a->kv_latent;
}

void shard_arch_weights(const shard_arch *a, double *total, double *active)
{
    double ends = (double)a->vocab * a->hidden, vectors = vector_weights(a);
    *total = ends * (a->tied_embeddings ? 1 : 2) + a->hidden + (a->learned_positions ? (double)(a->max_positions + a->position_offset) * a->hidden : 0);
    *active = ends + 2.0 * a->hidden;
    for (int32_t l = 0; l < a->n_layers; l++) {
        double attention = attention_weights(a, a->n_heads, a->n_kv_heads) + vectors, always = mlp_weights(a, a->intermediate), each = 0;
        if (a->layers[l].moe) {
            each = mlp_weights(a, a->expert_intermediate);
            always = mlp_weights(a, a->shared_intermediate) + (double)a->hidden * (a->n_experts + (a->shared_gate ? 1 : 0));
        }
        *total += attention + always + each * a->n_experts;
        *active += attention + always + each * a->n_experts_used;
    }
}

static double bytes_of(const predictor *p, shard_role role, int32_t layer, double n)
{
    packed_shape panel = {shard_plan_type(p->a, &p->s.types, role, layer), PACKED_ROWS, 4096, 0}; /* a whole number of every format's groups */
    return n * (double)packed_bytes(panel) / (4096.0 * PACKED_ROWS);
}

static double layer_bytes(const predictor *p, const layer_kind *k)
{
    const shard_arch *a = p->a;
    double n = bytes_of(p, SHARD_Q, k->layer, attention_weights(a, (double)p->heads, (double)p->kv_heads)) + 4 * vector_weights(a);
    if (!k->moe)
        return n + bytes_of(p, SHARD_UP, k->layer, mlp_weights(a, (double)p->channels));
    double experts = p->split.ep > 1 ? (double)share_of(a->n_experts, (int64_t)p->split.tp * p->split.ep) : a->n_experts;
    return n + bytes_of(p, SHARD_UP, k->layer, mlp_weights(a, (double)p->expert_width) * experts + mlp_weights(a, (double)p->shared_width)) +
           4.0 * a->hidden * a->n_experts;
}

/* ---- a split, step by step more of it ---- */

void predictor_init(predictor *p, const shard_arch *a, const shard_serving *s, stage_shape *shapes)
{
    p->a = a;
    p->s = *s;
    p->shapes = shapes;
    p->n_kinds = 0;
    if (p->s.chunk <= 0)
        p->s.chunk = s->machine->device.overlaps ? CHUNK_GPU : CHUNK;
    if (p->s.sum_bytes <= 0)
        p->s.sum_bytes = 4;
    if (p->s.dispatch_bytes <= 0)
        p->s.dispatch_bytes = p->s.sum_bytes;
    for (int32_t l = 0; l < a->n_layers; l++) {
        int32_t k = 0;
        while (k < p->n_kinds && (p->kinds[k].window != a->layers[l].window || p->kinds[k].moe != a->layers[l].moe))
            k++;
        if (k == p->n_kinds)
            p->kinds[p->n_kinds++] = (layer_kind){.layer = l, .window = a->layers[l].window, .moe = a->layers[l].moe};
        p->kind_of[l] = (uint8_t)k;
    }
}

/* Hosts that a run of n neighbouring ranks lies on, where it lies worst. */
static int32_t hosts_of(const predictor *p, int64_t n)
{
    int64_t per = p->s.machine->devices_per_host;
    return (int32_t)(n <= per ? (per % n == 0 ? 1 : n == 1 ? 1 : 2) : share_of(n, per) + (n % per != 0 && per % (n % per) != 0));
}

/* The most KV heads that one of tp ranks has, each of which has those that its query heads read. */
static int64_t kv_heads_of_rank(const shard_arch *a, int32_t tp)
{
    int64_t most = 1;
    for (int64_t i = 0; i < tp && i < a->n_heads; i++) {
        shard_slice heads = {i * a->n_heads / tp, (i + 1) * a->n_heads / tp};
        int64_t n = slice_width(kv_heads_of(a, heads));
        most = n > most ? n : most;
    }
    return most;
}

void predictor_ranks(predictor *p, int32_t tp, int32_t ep)
{
    const shard_arch *a = p->a;
    p->split = (shard_split){tp, 1, ep, 1};
    p->heads = share_of(a->n_heads, tp);
    p->kv_heads = kv_heads_of_rank(a, tp);
    p->o_cols = p->heads * a->head_dim;
    p->channels = share_of(a->intermediate, tp);
    p->vocab_rows = share_of(a->vocab, tp);
    p->expert_width = ep > 1 ? a->expert_intermediate : share_of(a->expert_intermediate, tp);
    p->shared_width = share_of(a->shared_intermediate, tp);
    p->tp_hosts = hosts_of(p, tp);
    p->stage_hosts = hosts_of(p, (int64_t)tp * ep);
    for (int32_t k = 0; k < p->n_kinds; k++)
        p->kinds[k].bytes = layer_bytes(p, &p->kinds[k]);
    double rows = (double)p->vocab_rows * a->hidden;
    p->embed_bytes = bytes_of(p, SHARD_TOKEN_EMBED, 0, rows);
    p->head_bytes = bytes_of(p, SHARD_HEAD, 0, rows);
}

/* ---- a step ---- */

/* Seconds of a layer of each kind, and at the ends. */
typedef struct step_cost {
    double compute[MAX_KINDS], exchange[MAX_KINDS];
    double embed, head, end_exchange, handover[2]; /* inside a host, between hosts */
} step_cost;

/* Of n_used draws among `places` places, how many different ones. */
static double different(double n_used, double places)
{
    return places * (1 - pow(1 - 1 / places, n_used));
}

/* Rows to their experts and back: once to every rank that has one of a row's experts, and where many rows come at once (prompts) over the network once to every host, to be handed on
 * there.  Such are the two kinds of kernels that DeepEP has: a hand-over inside the host costs a decode step more than it saves.  A group's ranks take a part of its rows each. */
static double experts_exchange(const predictor *p, double rows, bool once_a_host)
{
    const shard_arch *a = p->a;
    const shard_device *d = &p->s.machine->device;
    int32_t tp = p->split.tp, ranks = tp * p->split.ep, hosts = p->stage_hosts;
    if (p->split.ep < 2)
        return shard_sum_seconds(d, tp, p->tp_hosts, rows * a->hidden * p->s.sum_bytes);
    double here = ranks / (double)hosts, mine = rows / tp * a->hidden, used = a->n_experts_used;
    double near = different(used / hosts, here) * (here - 1) / here * mine, far = hosts > 1 ? different(used, once_a_host ? hosts : ranks) * (hosts - 1) / hosts * mine : 0;
    double there = shard_exchange_seconds(d, near * p->s.dispatch_bytes, far * p->s.dispatch_bytes);
    double back = shard_exchange_seconds(d, near * p->s.sum_bytes, far * p->s.sum_bytes);
    return there + back + shard_gather_seconds(d, tp, p->tp_hosts, rows * a->hidden * p->s.sum_bytes);
}

static void layer_seconds(const predictor *p, const cost_model *m, const layer_kind *k, bool decode, double *compute, double *exchange)
{
    const shard_arch *a = p->a;
    const shard_device *d = &p->s.machine->device;
    double sum = shard_sum_seconds(d, p->split.tp, p->tp_hosts, m->rows * a->hidden * p->s.sum_bytes);
    layer_cost c = cost_of_layer(m, k->layer);
    *compute = a->kv_latent > 0 ? cost_latent(m, k->layer, p->heads, decode) : cost_attention(&c, p->heads, p->kv_heads, p->o_cols);
    *exchange = a->parallel_block ? 0 : sum;
    if (k->moe) {
        int32_t ep = p->split.ep;
        expert_share s = {.ranks = ep > 1 ? p->split.tp * ep : 1, .width = p->expert_width, .shared_width = p->shared_width, .tokens = m->rows * ep};
        *compute += cost_experts(m, k->layer, &s);
        *exchange += experts_exchange(p, m->rows, !decode);
    } else {
        *compute += cost_mlp(&c, p->channels, p->channels);
        *exchange += sum;
    }
}

/* Two pieces in turn: the weights are read twice, and what one says is heard while the other computes; the last piece's words of a layer have the next layer's to hide behind. */
static void layer_overlapped(const predictor *p, const cost_model *m, const layer_kind *k, bool decode, double *compute, double *exchange)
{
    cost_model half = *m;
    double c, e;
    half.rows /= 2;
    half.seqs /= 2;
    layer_seconds(p, &half, k, decode, &c, &e);
    double together = fmax(2 * c, 2 * e);
    if (together < *compute + *exchange) {
        *compute = 2 * c;
        *exchange = together - 2 * c;
    }
}

static void step_seconds(const predictor *p, const cost_model *m, bool decode, step_cost *out)
{
    const shard_device *d = &p->s.machine->device;
    double row_bytes = p->a->hidden * p->s.sum_bytes;
    for (int32_t k = 0; k < p->n_kinds; k++) {
        layer_seconds(p, m, &p->kinds[k], decode, &out->compute[k], &out->exchange[k]);
        if (p->s.overlap_rows > 0 && m->rows >= p->s.overlap_rows && m->rows >= 2)
            layer_overlapped(p, m, &p->kinds[k], decode, &out->compute[k], &out->exchange[k]);
    }
    out->embed = cost_embed(m);
    out->head = cost_head(m, p->vocab_rows);
    out->end_exchange = shard_sum_seconds(d, p->split.tp, p->tp_hosts, m->rows * row_bytes);
    out->handover[0] = shard_send_seconds(d, false, m->rows * row_bytes);
    out->handover[1] = shard_send_seconds(d, true, m->rows * row_bytes);
}

typedef struct stages_time {
    double sum, slowest, exchange; /* of all stages one after the other; of one; the exchanges in the sum */
} stages_time;

static stages_time stages_seconds(const predictor *p, const step_cost *c)
{
    stages_time t = {0};
    for (int32_t i = 0; i < p->n_shapes; i++) {
        const stage_shape *s = &p->shapes[i];
        double compute = (s->first ? c->embed : 0) + (s->last ? c->head : 0), exchange = (s->first + s->last) * c->end_exchange;
        for (int32_t k = 0; k < p->n_kinds; k++) {
            compute += s->layers[k] * c->compute[k];
            exchange += s->layers[k] * c->exchange[k];
        }
        t.sum += s->n * (compute + exchange);
        t.exchange += s->n * exchange;
        t.slowest = fmax(t.slowest, compute + exchange);
    }
    int32_t handovers = p->split.pp - 1, far = p->crossings;
    double moving = (handovers - far) * c->handover[0] + far * c->handover[1];
    t.sum += moving;
    t.exchange += moving;
    if (handovers > 0)
        t.slowest += c->handover[far > 0];
    return t;
}

static cost_model model_of(const predictor *p, double rows, double seqs, double keys, double cached, double out_rows)
{
    return (cost_model){.arch = p->a, .types = &p->s.types, .device = p->s.machine->device, .kv_type = p->s.kv_type, .rows = rows, .seqs = seqs, .keys = keys,
                        .cached = cached, .out_rows = out_rows};
}

typedef struct decode_time {
    double seconds, exchange, bubble;
} decode_time;

/* Seconds between tokens; `seqs` of each group, divided among at most `waves` steps. */
static decode_time decode_seconds(const predictor *p, double seqs, double context, double waves)
{
    const shard_device *d = &p->s.machine->device;
    double pp = p->split.pp, in_flight = fmin(waves, seqs), each = ceil(seqs / in_flight);
    cost_model m = model_of(p, each, each, context, context, each);
    step_cost c;
    step_seconds(p, &m, true, &c);
    stages_time t = stages_seconds(p, &c);
    /* The tokens go back to the first stage. */
    double back = pp > 1 ? (p->crossings > 0 ? d->network_seconds : d->exchange_seconds) : 0, alone = t.sum + back + d->step_seconds;
    double seconds = fmax(alone, in_flight * t.slowest);
    return (decode_time){seconds, t.exchange + back, seconds > alone ? seconds - alone : pp > 1 ? fmax(0, alone - in_flight * t.sum / pp) : 0};
}

/* `n` prompts in each group, in chunks: the first chunk goes through all stages, the others follow one slowest stage apart. */
static double prompts_seconds(const predictor *p, double n, double tokens, double *slowest)
{
    double all = n * tokens, chunks = ceil(all / p->s.chunk), rows = all / chunks, of_one = fmin(rows, tokens), parts = fmax(rows / tokens, 1);
    /* Over a whole prompt a token sees half of it on average; a chunk reads what came before it, itself included. */
    cost_model m = model_of(p, rows, parts, (tokens + 1) / 2, (tokens + of_one) / 2, fmax(n / chunks, 1e-9));
    step_cost c;
    step_seconds(p, &m, false, &c);
    stages_time t = stages_seconds(p, &c);
    double step = p->s.machine->device.step_seconds, apart = t.slowest + (p->split.pp > 1 ? 0 : step); /* with stages the next step is told while others run */
    *slowest = chunks * apart;
    return t.sum + step + (chunks - 1) * apart;
}

/* ---- stages ---- */

/* From the last stage on each takes as many layers as the limit allows: what is left is the first stage's, which has the embedding's bytes too. */
static bool stages_fit(const predictor *p, const double *layer, double embed, double head, double limit, int32_t *cuts)
{
    int32_t pp = p->split.pp, at = p->a->n_layers;
    cuts[pp] = at;
    for (int32_t s = pp - 1; s >= 0; s--) {
        double sum = (s == 0 ? embed : 0) + (s == pp - 1 ? head : 0);
        while (at > s && sum + layer[p->kind_of[at - 1]] <= limit)
            sum += layer[p->kind_of[--at]];
        if (at == cuts[s + 1])
            return false;
        cuts[s] = at;
    }
    return at == 0;
}

/* Cuts the layers so that the slowest stage of a decode step is as fast as can be: greedily under a limit that is bisected. */
static void stages_cut(predictor *p, int32_t *cuts)
{
    cost_model m = model_of(p, 16, 16, 1024, 1024, 16);
    step_cost c;
    double layer[MAX_KINDS], all = 0, most = 0, embed, head;
    step_seconds(p, &m, true, &c);
    for (int32_t k = 0; k < p->n_kinds; k++)
        layer[k] = c.compute[k] + c.exchange[k];
    embed = c.embed + c.end_exchange;
    head = c.head + c.end_exchange;
    for (int32_t l = 0; l < p->a->n_layers; l++) {
        all += layer[p->kind_of[l]];
        most = fmax(most, layer[p->kind_of[l]]);
    }
    double low = (all + embed + head) / p->split.pp, high = low + most + embed + head;
    while (!stages_fit(p, layer, embed, head, high, cuts)) /* many stages for few layers */
        high *= 1.5;
    for (int i = 0; i < 12; i++) {
        double mid = (low + high) / 2;
        if (stages_fit(p, layer, embed, head, mid, cuts))
            high = mid;
        else
            low = mid;
    }
    stages_fit(p, layer, embed, head, high, cuts);
}

void predictor_stages(predictor *p, int32_t pp)
{
    int32_t cuts[SHARD_MAX_LAYERS + 1];
    p->split.pp = pp;
    int64_t per = p->s.machine->devices_per_host, stage = (int64_t)p->split.tp * p->split.ep;
    p->crossings = 0;
    for (int32_t s = 1; s < pp; s++) /* rank i hands over to rank i + stage: across hosts unless all of both stages lie on one */
        p->crossings += (s - 1) * stage / per != ((s + 1) * stage - 1) / per;
    p->n_shapes = 1;
    p->shapes[0] = (stage_shape){.n = 1, .first = true, .last = true};
    if (pp == 1) {
        for (int32_t l = 0; l < p->a->n_layers; l++)
            p->shapes[0].layers[p->kind_of[l]]++;
        return;
    }
    stages_cut(p, cuts);
    p->n_shapes = 0;
    for (int32_t s = 0; s < pp; s++) {
        stage_shape shape = {.n = 1, .first = s == 0, .last = s == pp - 1};
        for (int32_t l = cuts[s]; l < cuts[s + 1]; l++)
            shape.layers[p->kind_of[l]]++;
        int32_t i = 0;
        while (i < p->n_shapes && (p->shapes[i].first != shape.first || p->shapes[i].last != shape.last ||
                                   memcmp(p->shapes[i].layers, shape.layers, sizeof(shape.layers)) != 0))
            i++;
        if (i < p->n_shapes)
            p->shapes[i].n++;
        else
            p->shapes[p->n_shapes++] = shape;
    }
}

/* ---- memory ---- */

/* Bytes of keys and values that a sequence of `tokens` tokens has in a layer of a rank. */
static double kv_layer_bytes(const predictor *p, const layer_kind *k, double tokens)
{
    const shard_arch *a = p->a;
    double seen = k->window > 0 && k->window + 2 * SHARD_KV_BLOCK < tokens ? k->window + 2 * SHARD_KV_BLOCK : tokens, e = (double)kv_element_bytes(p->s.kv_type);
    double scales = p->s.kv_type == SHARD_KV_Q8 ? 2.0 / 32 : 0;
    double width = a->kv_latent > 0 ? a->kv_latent + a->rope_head_dim : 2.0 * (double)(p->kv_heads * (int64_t)mem_align((size_t)a->head_dim, 16));
    return ceil(seen / SHARD_KV_BLOCK) * SHARD_KV_BLOCK * width * (e + scales);
}

/* As shard_plan_buffers, and for experts the rows that come to a rank. */
static double buffers_bytes(const predictor *p, bool last)
{
    const shard_arch *a = p->a;
    double rows = p->s.chunk, heads = (double)p->heads, width = 3.0 * (double)p->channels;
    double n = 5.0 * a->hidden + 2 * heads * a->head_dim + 2 * (double)p->kv_heads * a->head_dim + width;
    if (a->n_experts > 0)
        n += a->n_experts_used * (a->hidden + 2.0 * (double)p->expert_width) / (p->split.ep > 1 ? p->split.tp : 1) + 3 * (double)p->shared_width;
    return 4 * rows * n + (last ? 2.0 * 4 * SHARD_LOGITS_ROWS * (double)p->vocab_rows : 0);
}

static void stage_bytes(const predictor *p, const stage_shape *s, double tokens, double *weights, double *kv, double *buffers)
{
    bool shared = s->first && s->last && p->a->tied_embeddings;
    *weights = (s->first ? p->embed_bytes : 0) + (s->last && !shared ? p->head_bytes : 0);
    *kv = 0;
    *buffers = buffers_bytes(p, s->last);
    for (int32_t k = 0; k < p->n_kinds; k++) {
        *weights += s->layers[k] * p->kinds[k].bytes;
        *kv += s->layers[k] * kv_layer_bytes(p, &p->kinds[k], tokens);
    }
}

int64_t predictor_room(const predictor *p, int64_t tokens, int64_t limit)
{
    double room = (double)limit;
    for (int32_t i = 0; i < p->n_shapes; i++) {
        double weights, kv, buffers, left;
        stage_bytes(p, &p->shapes[i], (double)tokens, &weights, &kv, &buffers);
        left = (double)p->s.machine->memory_bytes - weights - buffers;
        room = fmin(room, left < kv ? 0 : floor(left / kv) * p->split.ep);
    }
    return (int64_t)room;
}

static void memory_set(const predictor *p, const shard_load *load, shard_prediction *out)
{
    double fullest = -1, seqs = (double)share_of(load->batch, p->split.ep);
    for (int32_t i = 0; i < p->n_shapes; i++) {
        double weights, kv, buffers;
        stage_bytes(p, &p->shapes[i], (double)load->prompt + load->output, &weights, &kv, &buffers);
        if (weights + kv * seqs + buffers > fullest) {
            fullest = weights + kv * seqs + buffers;
            out->weight_bytes = (size_t)weights;
            out->kv_bytes = (size_t)(kv * seqs);
            out->buffer_bytes = (size_t)buffers;
        }
    }
    out->fits = fullest <= (double)p->s.machine->memory_bytes;
}

/* ---- serving ---- */

prompt_time predictor_prompt(predictor *p, int32_t tokens)
{
    prompt_time t;
    double slowest;
    t.latency = prompts_seconds(p, 1, tokens, &slowest);
    /* In the long run short prompts fill a step together. */
    double together = fmax(1, floor((double)p->s.chunk / tokens));
    if (together > 1)
        prompts_seconds(p, together, tokens, &slowest);
    t.share = slowest / together / p->split.ep;
    return t;
}

void predictor_serve(predictor *p, const shard_load *load, prompt_time prompt, shard_prediction *out)
{
    double seqs = (double)share_of(load->batch, p->split.ep), replicas = p->split.replicas, devices = (double)p->split.tp * p->split.pp * p->split.ep;
    decode_time d = decode_seconds(p, seqs, load->prompt + load->output / 2.0, p->split.pp);
    double steps = load->output - 1, interrupted = load->batch * prompt.share;
    memory_set(p, load, out);
    out->decode_step = d.seconds;
    out->exchange = d.exchange;
    out->bubble = d.bubble;
    out->ttft = prompt.latency + (load->batch > 1 ? d.seconds / 2 : 0);
    out->tpot = d.seconds + (steps > 0 ? interrupted / steps : 0);
    out->per_user = 1 / out->tpot;
    out->tokens_per_second = replicas * load->batch * load->output / (interrupted + steps * d.seconds);
    out->per_device = out->tokens_per_second / (replicas * devices);
    out->decode_rate = replicas * load->batch / d.seconds;
    out->prompt_rate = replicas * load->prompt / prompt.share;
    out->price_per_million = replicas * devices * p->s.machine->price_per_hour / 3600 / out->tokens_per_second * 1e6;
}

void predictor_predict(predictor *p, const shard_load *load, shard_prediction *out)
{
    predictor_serve(p, load, predictor_prompt(p, load->prompt), out);
}

/* ---- one split ---- */

status shard_split_check(const shard_arch *a, const shard_serving *s, const shard_split *split)
{
    static const shard_role roles[] = {SHARD_TOKEN_EMBED, SHARD_HEAD, SHARD_Q, SHARD_K, SHARD_V, SHARD_O, SHARD_UP, SHARD_DOWN};
    int64_t n = (int64_t)split->tp * split->ep;
    if (split->tp < 1 || split->pp < 1 || split->ep < 1 || split->replicas < 1)
        return FAIL(ST_INVALID, "tp %d, pp %d, ep %d, %d replicas: give positive numbers", split->tp, split->pp, split->ep, split->replicas);
    if (split->tp > a->n_heads || split->tp > a->intermediate || split->tp > a->vocab)
        return FAIL(ST_INVALID, "tp %d is more than this %s checkpoint has query heads (%d): at most --tp %d", split->tp, a->family, a->n_heads, a->n_heads);
    if (split->pp > a->n_layers)
        return FAIL(ST_INVALID, "pp %d is more than the %d layers of this %s checkpoint", split->pp, a->n_layers, a->family);
    if (split->ep > 1 && a->n_experts == 0)
        return FAIL(ST_INVALID, "ep %d: this %s checkpoint has no experts; leave out --ep", split->ep, a->family);
    if (split->ep > 1 && n > a->n_experts)
        return FAIL(ST_INVALID, "tp %d x ep %d are more ranks than the %d experts of this %s checkpoint", split->tp, split->ep, a->n_experts, a->family);
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        for (int32_t l = 0; l < (shard_role_in_layer(roles[i]) ? a->n_layers : 1); l++) {
            packed_type t = shard_plan_type(a, &s->types, roles[i], l);
            if (!(s->machine->device.weights_per_second[t] > 0) || !(s->machine->device.macs_per_second[t] > 0))
                return FAIL(ST_INVALID, "the machine %s has no figures for weights of type %s (%s): add them to its weights_per_second and macs_per_second, or plan another --type",
                            s->machine->name, packed_format_of(t)->name, shard_role_name(roles[i]));
        }
    }
    return ST_OK;
}

static void predictor_make(predictor *p, const shard_arch *a, const shard_serving *s, const shard_split *split, stage_shape *shapes)
{
    predictor_init(p, a, s, shapes);
    predictor_ranks(p, split->tp, split->ep);
    predictor_stages(p, split->pp);
    p->split.replicas = split->replicas;
}

void shard_predict(const shard_arch *arch, const shard_serving *s, const shard_split *split, const shard_load *load, shard_prediction *out)
{
    stage_shape shapes[SHARD_MAX_LAYERS];
    predictor p;
    predictor_make(&p, arch, s, split, shapes);
    predictor_predict(&p, load, out);
}

double shard_predict_decode(const shard_arch *arch, const shard_serving *s, const shard_split *split, int32_t seqs, double context, int32_t waves)
{
    stage_shape shapes[SHARD_MAX_LAYERS];
    predictor p;
    predictor_make(&p, arch, s, split, shapes);
    return decode_seconds(&p, (double)share_of(seqs, split->ep), context, waves > 0 && waves < split->pp ? waves : split->pp).seconds;
}

double shard_predict_prompts(const shard_arch *arch, const shard_serving *s, const shard_split *split, int32_t prompts, int32_t tokens)
{
    stage_shape shapes[SHARD_MAX_LAYERS];
    predictor p;
    double slowest;
    predictor_make(&p, arch, s, split, shapes);
    return prompts_seconds(&p, (double)share_of(prompts, split->ep), tokens, &slowest);
}
