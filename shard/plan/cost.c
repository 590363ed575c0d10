/* shard/plan/cost.c - the cost model: what a phase of a decode step takes on a rank.
 *
 *   seconds = weights / weights_per_second + rows x weights / macs_per_second + KV bytes / bytes_per_second
 *           + elements / elements_per_second + phase_seconds + matrices x matrix_seconds + sequences x heads x attention_head_seconds
 *
 * On a CPU unpacking, products and misses share the same cores, so that the parts are added; where a device overlaps, reading weights counts or multiplying by them, whichever
 * takes longer (the roofline of Williams, Waterman and Patterson 2009), and so for the cache and the scores. */
#include <math.h>
#include <string.h>

#include "shard/plan/machine.h"
#include "shard/plan/plan_internal.h"

cost_model cost_model_of(const shard_arch *arch, const shard_plan_options *o)
{
    cost_model m = {.arch = arch, .types = &o->types, .device = o->device != NULL ? *o->device : *shard_device_find("cpu"), .kv_type = o->kv_type};
    m.rows = m.seqs = m.out_rows = o->cost_seqs > 0 ? o->cost_seqs : 1;
    m.keys = o->cost_context > 0 || o->cost_rows > 1 ? o->cost_context : 1024; /* a prompt may have nothing before it */
    if (m.keys > arch->max_positions && arch->max_positions > 0)
        m.keys = arch->max_positions;
    m.cached = m.keys;
    if (o->cost_rows > 1) {
        m.rows *= o->cost_rows;
        m.cached += o->cost_rows;
        m.keys += (o->cost_rows + 1) / 2.0;
    }
    return m;
}

static double both(bool overlaps, double reading, double computing)
{
    return overlaps ? fmax(reading, computing) : reading + computing;
}

/* `read` weights of a type, and `macs` products of one with an activation. */
static double products_seconds(const cost_model *m, packed_type type, double read, double macs)
{
    return both(m->device.overlaps, read / m->device.weights_per_second[type], macs / m->device.macs_per_second[type]);
}

/* n weights of a type, each read once and multiplied with every row. */
static double weights_seconds(const cost_model *m, packed_type type, double n)
{
    return products_seconds(m, type, n, n * m->rows);
}

static double role_seconds(const cost_model *m, shard_role role, int32_t layer, double n)
{
    return weights_seconds(m, shard_plan_type(m->arch, m->types, role, layer), n);
}

static double elements_seconds(const cost_model *m, double per_row)
{
    return per_row * m->rows / m->device.elements_per_second;
}

static double scale_or_1(double scale)
{
    return scale > 0 ? scale : 1;
}

/* What is visible of `n` tokens through a layer's window. */
static double seen(const cost_model *m, int32_t layer, double n)
{
    int32_t window = m->arch->layers[layer].window;
    return window > 0 && window < n ? window : n;
}

layer_cost cost_of_layer(const cost_model *m, int32_t layer)
{
    const shard_arch *a = m->arch;
    double hidden = a->hidden, hd = a->head_dim;
    layer_cost c = {.overlaps = m->device.overlaps};
    c.head = role_seconds(m, SHARD_Q, layer, hd * hidden) + m->rows * hd / m->device.rotated_per_second + m->seqs * m->device.attention_head_seconds;
    c.scores = m->rows * seen(m, layer, m->keys) * 2 * hd / m->device.attention_macs_per_second;
    c.kv_head = role_seconds(m, SHARD_K, layer, hd * hidden) + role_seconds(m, SHARD_V, layer, hd * hidden) + m->rows * 2 * hd / m->device.rotated_per_second;
    c.cache = m->seqs * seen(m, layer, m->cached) * 2 * hd * (double)kv_element_bytes(m->kv_type) / m->device.bytes_per_second;
    c.o_col = role_seconds(m, SHARD_O, layer, hidden);
    c.attention_fixed = elements_seconds(m, hidden) + m->device.phase_seconds + 4 * m->device.matrix_seconds;
    int in = a->mlp == SHARD_MLP_GATED ? 2 : 1;
    c.channel = role_seconds(m, SHARD_UP, layer, hidden) + elements_seconds(m, in);
    if (a->mlp == SHARD_MLP_GATED)
        c.channel += role_seconds(m, SHARD_GATE, layer, hidden);
    c.down_col = role_seconds(m, SHARD_DOWN, layer, hidden);
    c.mlp_fixed = elements_seconds(m, hidden) + (in + 1) * m->device.matrix_seconds + (a->parallel_block ? 0 : m->device.phase_seconds);
    double attention = scale_or_1(m->device.attention_scale), mlp = scale_or_1(m->device.mlp_scale);
    c.head *= attention;
    c.scores *= attention;
    c.kv_head *= attention;
    c.cache *= attention;
    c.o_col *= attention;
    c.attention_fixed *= attention;
    c.channel *= mlp;
    c.down_col *= mlp;
    c.mlp_fixed *= mlp;
    return c;
}

double cost_attention(const layer_cost *c, int64_t heads, int64_t kv_heads, int64_t o_cols)
{
    return c->head * (double)heads + c->kv_head * (double)kv_heads + c->o_col * (double)o_cols + c->attention_fixed +
           both(c->overlaps, c->cache * (double)kv_heads, c->scores * (double)heads);
}

double cost_latent(const cost_model *m, int32_t layer, int64_t heads, bool absorbed)
{
    const shard_arch *a = m->arch;
    const shard_device *d = &m->device;
    double hidden = a->hidden, h = (double)heads, latent = a->kv_latent, rope = a->rope_head_dim, q_in = a->q_latent > 0 ? a->q_latent : hidden;
    double key = a->head_dim, value = a->value_head_dim, made = h * (key - rope + value) * latent; /* weights that make keys and values of a latent vector */
    double seconds = role_seconds(m, SHARD_Q, layer, q_in * h * key + (a->q_latent > 0 ? hidden * q_in : 0));
    seconds += role_seconds(m, SHARD_K, layer, hidden * (latent + rope)) + role_seconds(m, SHARD_O, layer, h * value * hidden);
    /* Absorbed, those weights turn queries and sums of latent vectors, a row at a time; else they make every token's keys and values once. */
    packed_type type = shard_plan_type(a, m->types, SHARD_V, layer);
    seconds += products_seconds(m, type, made, made * (absorbed ? m->rows : m->seqs * m->cached));
    double width = absorbed ? 2 * latent + rope : key + value;
    double bytes = m->seqs * m->cached * (latent + rope) * (double)kv_element_bytes(m->kv_type);
    seconds += both(d->overlaps, bytes / d->bytes_per_second, m->rows * m->keys * h * width / d->attention_macs_per_second);
    seconds += m->rows * (h * rope + rope) / d->rotated_per_second + m->seqs * h * d->attention_head_seconds;
    return scale_or_1(d->attention_scale) * (seconds + elements_seconds(m, hidden + q_in + latent) + d->phase_seconds * 1.5 + 6 * d->matrix_seconds);
}

/* Of `tokens` x n_experts_used choices, even over `ranks` ranks, the share of the rank that gets most: the mean of a binomial and what its largest of `ranks` draws adds. */
static double most_choices(double choices, double ranks)
{
    double mean = choices / ranks;
    return fmin(mean + sqrt(2 * mean * log(ranks)), choices);
}

double cost_experts(const cost_model *m, int32_t layer, const expert_share *s)
{
    const shard_arch *a = m->arch;
    double hidden = a->hidden, width = (double)s->width, n = a->n_experts, choices = s->tokens * a->n_experts_used;
    double here = ceil(n / s->ranks), touched = here * (1 - pow(1 - a->n_experts_used / n, s->tokens));
    double rows = s->ranks > 1 ? most_choices(choices, s->ranks) : choices, one = hidden * width;
    packed_type up = shard_plan_type(a, m->types, SHARD_UP, layer), down = shard_plan_type(a, m->types, SHARD_DOWN, layer);
    double seconds = weights_seconds(m, up, hidden * n); /* the router */
    seconds += products_seconds(m, up, 2 * one * touched, 2 * one * rows) + products_seconds(m, down, one * touched, one * rows);
    seconds += (rows * (2 * width + 2 * hidden) + m->rows * (hidden + n)) / m->device.elements_per_second;
    if (s->shared_width > 0)
        seconds += role_seconds(m, SHARD_UP, layer, 2 * hidden * (double)s->shared_width) + role_seconds(m, SHARD_DOWN, layer, hidden * (double)s->shared_width);
    return scale_or_1(m->device.mlp_scale) * (seconds + 1.5 * m->device.phase_seconds + 3 * touched * m->device.matrix_seconds);
}

double cost_mlp(const layer_cost *c, int64_t channels, int64_t down_cols)
{
    return c->channel * (double)channels + c->down_col * (double)down_cols + c->mlp_fixed;
}

double cost_embed(const cost_model *m)
{
    double hidden = m->arch->hidden;
    packed_type t = shard_plan_type(m->arch, m->types, SHARD_TOKEN_EMBED, 0);
    return m->rows * hidden / m->device.weights_per_second[t] + elements_seconds(m, 2 * hidden) + m->device.phase_seconds;
}

double cost_head_row(const cost_model *m)
{
    double hidden = m->arch->hidden;
    packed_type t = shard_plan_type(m->arch, m->types, SHARD_HEAD, 0);
    return scale_or_1(m->device.head_scale) * (products_seconds(m, t, hidden, hidden * m->out_rows) + 2 * m->out_rows / m->device.elements_per_second);
}

double cost_head(const cost_model *m, int64_t rows)
{
    double fixed = m->out_rows * m->arch->hidden / m->device.elements_per_second + m->device.phase_seconds + m->device.matrix_seconds;
    return cost_head_row(m) * (double)rows + scale_or_1(m->device.head_scale) * fixed;
}

double cost_exchange(const cost_model *m, int32_t tp, int32_t hosts)
{
    return shard_sum_seconds(&m->device, tp, hosts, m->rows * m->arch->hidden * 4);
}

double cost_handover(const cost_model *m, bool across_hosts)
{
    return shard_send_seconds(&m->device, across_hosts, m->rows * m->arch->hidden * 4);
}
