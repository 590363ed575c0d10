/* shard/plan/cost.c - the cost model: what a phase of a decode step takes on a rank.
 *
 *   seconds = weights / weights_per_second + rows x weights / macs_per_second + KV bytes / bytes_per_second
 *           + elements / elements_per_second + phase_seconds + matrices x matrix_seconds + sequences x heads x attention_head_seconds
 *
 * for `seqs` sequences (rows) with `context` tokens behind each.  The parts are added, not overlapped: on a CPU unpacking, products and misses share
 * the same cores, and at the small batches that splits are judged by one part dominates anyway. */
#include <string.h>

#include "shard/plan/plan_internal.h"

#define TYPES(f32_, f16_, bf16_, f8_, q8_, q4_, q5_, q2k_, q3k_, q4k_, q5k_, q6k_)                                                     \
    {                                                                                                                             \
        [PACKED_F32] = (f32_), [PACKED_F16] = (f16_), [PACKED_BF16] = (bf16_), [PACKED_Q8_0] = (q8_), [PACKED_Q4_0] = (q4_),      \
        [PACKED_Q4_1] = (q4_), [PACKED_Q5_0] = (q5_), [PACKED_Q5_1] = (q5_), [PACKED_Q2_K] = (q2k_), [PACKED_Q3_K] = (q3k_),      \
        [PACKED_Q4_K] = (q4k_), [PACKED_Q5_K] = (q5k_), [PACKED_Q6_K] = (q6k_), [PACKED_IQ4_NL] = (q4_), [PACKED_F8] = (f8_)     \
    }
/* Where memory alone limits: bandwidth over the bytes of a weight, scales included. */
#define FROM_MEMORY(bytes)                                                                                                        \
    TYPES((bytes) / 4, (bytes) / 2, (bytes) / 2, (bytes) / 1.03125, (bytes) / 1.0625, (bytes) / 0.5625, (bytes) / 0.6875, (bytes) / 0.328,           \
          (bytes) / 0.445, (bytes) / 0.5781, (bytes) / 0.703, (bytes) / 0.828)

/* cpu: measured by coord_measure_device with AVX2 kernels on one core of a busy EPYC server (no VNNI).  a100, h100: 80 % of the makers'
 * published memory bandwidth and 60 % of their dense 16-bit rate; not measured here. */
static const shard_device devices[] = {
    {
        .name = "cpu",
        .weights_per_second = TYPES(100e9, 100e9, 100e9, 5e9, 13e9, 30e9, 19e9, 23e9, 34e9, 31e9, 26e9, 38e9),
        .macs_per_second = TYPES(5.1e9, 7.3e9, 7.5e9, 7.5e9, 34e9, 65e9, 50e9, 41e9, 52e9, 74e9, 53e9, 29e9),
        .bytes_per_second = 13e9,
        .attention_macs_per_second = 45e9,
        .attention_head_seconds = 0.1e-6,
        .elements_per_second = 3.5e9,
        .rotated_per_second = 4e9,
        .phase_seconds = 0.6e-6,
        .matrix_seconds = 0.3e-6,
        .exchange_seconds = 2e-6,
        .exchange_bytes_per_second = 5e9,
        .network_seconds = 30e-6,
        .network_bytes_per_second = 1e9,
    },
    {
        .name = "a100",
        .weights_per_second = FROM_MEMORY(1.6e12),
        .macs_per_second = TYPES(9e12, 94e12, 94e12, 9e12, 94e12, 94e12, 94e12, 94e12, 94e12, 94e12, 94e12, 94e12),
        .bytes_per_second = 1.6e12,
        .attention_macs_per_second = 40e12,
        .elements_per_second = 1e12,
        .rotated_per_second = 1e12,
        .phase_seconds = 8e-6,
        .exchange_seconds = 10e-6,
        .exchange_bytes_per_second = 240e9,
        .network_seconds = 25e-6,
        .network_bytes_per_second = 20e9,
    },
    {
        .name = "h100",
        .weights_per_second = FROM_MEMORY(2.7e12),
        .macs_per_second = TYPES(30e12, 300e12, 300e12, 30e12, 300e12, 300e12, 300e12, 300e12, 300e12, 300e12, 300e12, 300e12),
        .bytes_per_second = 2.7e12,
        .attention_macs_per_second = 120e12,
        .elements_per_second = 2e12,
        .rotated_per_second = 2e12,
        .phase_seconds = 6e-6,
        .exchange_seconds = 8e-6,
        .exchange_bytes_per_second = 360e9,
        .network_seconds = 20e-6,
        .network_bytes_per_second = 40e9,
    },
};

const shard_device *shard_device_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(devices); i++) {
        if (strcmp(devices[i].name, name) == 0)
            return &devices[i];
    }
    return NULL;
}

const char *shard_device_names(void)
{
    return "cpu, a100, h100";
}

shard_device shard_device_scale(const shard_device *device, double n)
{
    shard_device d = *device;
    d.bytes_per_second *= n;
    for (int t = 0; t < PACKED_TYPES; t++) {
        d.weights_per_second[t] *= n;
        d.macs_per_second[t] *= n;
    }
    d.attention_macs_per_second *= n;
    d.elements_per_second *= n;
    d.rotated_per_second *= n;
    d.attention_head_seconds /= n; /* heads are shared out among the threads */
    return d;
}

cost_model cost_model_of(const shard_arch *arch, const shard_plan_options *o)
{
    cost_model m = {.arch = arch, .types = &o->types, .device = o->device != NULL ? *o->device : devices[0], .kv_type = o->kv_type};
    m.seqs = o->cost_seqs > 0 ? o->cost_seqs : 1;
    m.context = o->cost_context > 0 ? o->cost_context : 1024;
    if (m.context > arch->max_positions && arch->max_positions > 0)
        m.context = arch->max_positions;
    return m;
}

/* n weights of a type, each read once and multiplied with a row of every sequence. */
static double weights_seconds(const cost_model *m, packed_type type, double n)
{
    return n / m->device.weights_per_second[type] + n * m->seqs / m->device.macs_per_second[type];
}

static double role_seconds(const cost_model *m, shard_role role, int32_t layer, double n)
{
    return weights_seconds(m, shard_plan_type(m->arch, m->types, role, layer), n);
}

static double elements_seconds(const cost_model *m, double per_row)
{
    return per_row * m->seqs / m->device.elements_per_second;
}

static double scale_or_1(double scale)
{
    return scale > 0 ? scale : 1;
}

layer_cost cost_of_layer(const cost_model *m, int32_t layer)
{
    const shard_arch *a = m->arch;
    double hidden = a->hidden, hd = a->head_dim;
    int32_t window = a->layers[layer].window;
    double keys = window > 0 && window < m->context ? window : m->context;
    layer_cost c = {0};
    c.head = role_seconds(m, SHARD_Q, layer, hd * hidden) + m->seqs * keys * 2 * hd / m->device.attention_macs_per_second +
             m->seqs * (hd / m->device.rotated_per_second + m->device.attention_head_seconds);
    c.kv_head = role_seconds(m, SHARD_K, layer, hd * hidden) + role_seconds(m, SHARD_V, layer, hd * hidden) +
                m->seqs * keys * 2 * hd * (double)kv_element_bytes(m->kv_type) / m->device.bytes_per_second +
                m->seqs * 2 * hd / m->device.rotated_per_second;
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
    c.kv_head *= attention;
    c.o_col *= attention;
    c.attention_fixed *= attention;
    c.channel *= mlp;
    c.down_col *= mlp;
    c.mlp_fixed *= mlp;
    return c;
}

double cost_attention(const layer_cost *c, int64_t heads, int64_t kv_heads, int64_t o_cols)
{
    return c->head * (double)heads + c->kv_head * (double)kv_heads + c->o_col * (double)o_cols + c->attention_fixed;
}

double cost_mlp(const layer_cost *c, int64_t channels, int64_t down_cols)
{
    return c->channel * (double)channels + c->down_col * (double)down_cols + c->mlp_fixed;
}

double cost_embed(const cost_model *m)
{
    double hidden = m->arch->hidden;
    packed_type t = shard_plan_type(m->arch, m->types, SHARD_TOKEN_EMBED, 0);
    return m->seqs * hidden / m->device.weights_per_second[t] + elements_seconds(m, 2 * hidden) + m->device.phase_seconds;
}

double cost_head_row(const cost_model *m)
{
    return scale_or_1(m->device.head_scale) * (role_seconds(m, SHARD_HEAD, 0, m->arch->hidden) + elements_seconds(m, 2));
}

double cost_head(const cost_model *m, int64_t rows)
{
    double fixed = elements_seconds(m, m->arch->hidden) + m->device.phase_seconds + m->device.matrix_seconds;
    return cost_head_row(m) * (double)rows + scale_or_1(m->device.head_scale) * fixed;
}

double cost_exchange(const cost_model *m, int32_t tp, int32_t hosts)
{
    if (tp < 2)
        return 0;
    const shard_device *d = &m->device;
    double bytes = m->seqs * m->arch->hidden * 4;
    double inside = d->exchange_seconds + bytes * (tp / hosts) / d->exchange_bytes_per_second;
    return hosts > 1 ? inside + 2 * d->network_seconds + 2 * bytes * (hosts - 1) / d->network_bytes_per_second : inside;
}

double cost_handover(const cost_model *m, bool across_hosts)
{
    const shard_device *d = &m->device;
    double bytes = m->seqs * m->arch->hidden * 4;
    return across_hosts ? d->network_seconds + bytes / d->network_bytes_per_second : d->exchange_seconds + bytes / d->exchange_bytes_per_second;
}
