/* shard/plan/plan.c - which rank holds what.
 *
 * Heads, channels and vocabulary rows are shared out inside a stage first, for the whole model (stages whose ranks have equal speeds share one
 * `share`); then layers are cut into stages by what a layer costs under those shares; then a rank that lacks memory hands channels to the
 * others of its stage; then everything is counted exactly. */
#include "shard/plan/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "shard/plan/plan_internal.h"

enum { VOCAB_UNIT = PACKED_ROWS };

/* How the ranks of a stage share every layer. */
typedef struct share {
    const double *speed;      /* [tp] */
    int32_t *head_cuts;       /* [tp + 1] */
    int64_t *channel_units;   /* [tp] */
    double *seconds;          /* [n_layers + 1] sums: the slowest rank's phases of layers 0 .. l-1 */
    size_t *bytes;            /* [tp][n_layers + 1] sums: weights and the least KV of a rank; NULL without a memory limit */
} share;

typedef struct planner {
    const shard_arch *a;
    shard_plan_options o;     /* defaults filled in */
    int64_t kv_needed;        /* blocks that must fit */
    cost_model model;
    layer_cost *layers;       /* [n_layers] */
    layer_cost sum;           /* of all layers */
    int32_t channel_unit, o_group, down_group, vocab_unit;
    double *speeds;           /* [n_ranks], mean 1 */
    share *shares;            /* [pp]; equal ones point to the same arrays */
    int64_t *vocab_units;     /* [2][tp]: first stage's embedding, last stage's head */
    int32_t *layer_cuts;      /* [pp + 1] */
    mem_arena *arena;
    shard_plan *plan;
} planner;

/* ---- what a plan needs to begin with ---- */

static status arena_take(planner *p, size_t n, size_t size, void *out)
{
    void *block = mem_arena_alloc(p->arena, n * size);
    if (block == NULL)
        return FAIL(ST_NO_MEMORY, "plan: no memory for %zu bytes", n * size);
    memcpy(out, &block, sizeof(block));
    return ST_OK;
}

/* The largest tp that divides n, that the checkpoint allows, with stages no more than layers; 0: none. */
static int32_t largest_tp(const shard_arch *a, int32_t n)
{
    int32_t most = a->n_heads < a->intermediate ? a->n_heads : a->intermediate;
    most = most < a->vocab ? most : a->vocab;
    for (int32_t tp = most < n ? most : n; tp > 0; tp--) {
        if (n % tp == 0 && n / tp <= a->n_layers)
            return tp;
    }
    return 0;
}

static status check_ranks(const shard_arch *a, int32_t tp, int32_t pp)
{
    int64_t n = (int64_t)tp * pp;
    const char *what = NULL;
    if (n > INT32_MAX)
        return FAIL(ST_INVALID, "tp %d x pp %d: that many ranks cannot be numbered", tp, pp);
    if (tp > a->n_heads)
        what = "query heads, which are not split";
    else if (tp > a->intermediate || tp > a->vocab)
        what = "channels or vocabulary rows";
    else if (pp <= a->n_layers)
        return ST_OK;
    int32_t works = largest_tp(a, (int32_t)n);
    char remedy[64] = "use fewer ranks";
    if (works > 0)
        snprintf(remedy, sizeof(remedy), "%d ranks work as --tp %d --pp %d", (int)n, works, (int)n / works);
    if (what != NULL)
        return FAIL(ST_INVALID, "tp %d is more than this %s checkpoint has %s (%d heads, %d channels): %s", tp, a->family, what, a->n_heads,
                    a->intermediate, remedy);
    return FAIL(ST_INVALID, "pp %d is more than the %d layers of this %s checkpoint: %s", pp, a->n_layers, a->family, remedy);
}

static status check_arch(const shard_arch *a)
{
    if (a->n_layers < 1 || a->n_layers > SHARD_MAX_LAYERS || a->hidden < 1 || a->n_heads < 1 || a->n_kv_heads < 1 || a->head_dim < 1 ||
        a->intermediate < 1 || a->vocab < 1 || a->n_kv_groups < 1 || a->n_kv_groups > SHARD_MAX_KV_GROUPS)
        return FAIL(ST_INVALID, "plan: the architecture has a size that is not positive (%d layers, hidden %d, %d heads, %d channels, vocabulary %d)",
                    a->n_layers, a->hidden, a->n_heads, a->intermediate, a->vocab);
    if (a->n_heads % a->n_kv_heads != 0)
        return FAIL(ST_INVALID, "plan: %d query heads do not share %d KV heads evenly", a->n_heads, a->n_kv_heads);
    if (a->n_experts > 0 || a->kv_latent > 0)
        return FAIL(ST_UNSUPPORTED, "plan: experts and latent attention cannot be laid out over ranks yet: `trireme plan --machine` predicts how fast they would be served");
    if ((int64_t)a->n_heads * a->head_dim > INT32_MAX / 4)
        return FAIL(ST_INVALID, "plan: %d heads of %d are too wide", a->n_heads, a->head_dim);
    return ST_OK;
}

static status speeds_set(planner *p)
{
    int32_t n = p->o.tp * p->o.pp;
    double sum = 0;
    TRY(arena_take(p, (size_t)n, sizeof(double), &p->speeds));
    for (int32_t i = 0; i < n; i++) {
        p->speeds[i] = p->o.rank_weights == NULL ? 1 : p->o.rank_weights[i];
        if (!isfinite(p->speeds[i]) || p->speeds[i] <= 0)
            return FAIL(ST_INVALID, "rank %d has weight %g: weights are relative speeds above 0", i, p->speeds[i]);
        sum += p->speeds[i];
    }
    for (int32_t i = 0; i < n; i++)
        p->speeds[i] *= n / sum;
    return ST_OK;
}

static status units_set(planner *p)
{
    const shard_arch *a = p->a;
    p->o_group = role_group(a, &p->o.types, SHARD_O);
    p->down_group = role_group(a, &p->o.types, SHARD_DOWN);
    /* Whole groups of down, whole panels of gate and up; where those are too few, smaller units cut them. */
    p->channel_unit = p->down_group > PACKED_ROWS ? p->down_group : PACKED_ROWS;
    while (p->channel_unit > 1 && (a->intermediate + p->channel_unit - 1) / p->channel_unit < p->o.tp)
        p->channel_unit /= 2;
    p->vocab_unit = VOCAB_UNIT;
    while (p->vocab_unit > 1 && (a->vocab + p->vocab_unit - 1) / p->vocab_unit < p->o.tp)
        p->vocab_unit /= 2;
    TRY(arena_take(p, (size_t)a->n_layers, sizeof(layer_cost), &p->layers));
    for (int32_t l = 0; l < a->n_layers; l++) {
        layer_cost c = p->layers[l] = cost_of_layer(&p->model, l);
        p->sum.overlaps = c.overlaps;
        p->sum.head += c.head;
        p->sum.scores += c.scores;
        p->sum.cache += c.cache;
        p->sum.kv_head += c.kv_head;
        p->sum.o_col += c.o_col;
        p->sum.attention_fixed += c.attention_fixed;
        p->sum.channel += c.channel;
        p->sum.down_col += c.down_col;
        p->sum.mlp_fixed += c.mlp_fixed;
    }
    return ST_OK;
}

/* ---- shares inside a stage ---- */

static void heads_assign(const planner *p, int64_t begin, int64_t end, shard_rank_plan *r)
{
    int64_t hd = p->a->head_dim;
    r->heads = (shard_slice){begin, end};
    r->kv_heads = kv_heads_of(p->a, r->heads);
    r->o_cols = slice_widen(begin * hd, end * hd, p->o_group, p->a->n_heads * hd);
}

static void channels_assign(const planner *p, int64_t begin_unit, int64_t end_unit, shard_rank_plan *r)
{
    int64_t all = p->a->intermediate, begin = begin_unit * p->channel_unit, end = end_unit * p->channel_unit;
    r->channels = (shard_slice){begin < all ? begin : all, end < all ? end : all};
    r->down_cols = slice_widen(r->channels.begin, r->channels.end, p->down_group, all);
}

static double attention_of(const layer_cost *c, const shard_rank_plan *r)
{
    return cost_attention(c, slice_width(r->heads), slice_width(r->kv_heads), slice_width(r->o_cols));
}

static double mlp_of(const layer_cost *c, const shard_rank_plan *r)
{
    return cost_mlp(c, slice_width(r->channels), slice_width(r->down_cols));
}

/* Fills heads and channels of the stage's rank i. */
static void rank_shape(const planner *p, const share *s, int32_t i, shard_rank_plan *r)
{
    int64_t before = 0;
    for (int32_t j = 0; j < i; j++)
        before += s->channel_units[j];
    heads_assign(p, s->head_cuts[i], s->head_cuts[i + 1], r);
    channels_assign(p, before, before + s->channel_units[i], r);
}

typedef struct heads_arg {
    const planner *p;
    const double *speed;
} heads_arg;

static double heads_cost(const void *arg, int32_t begin, int32_t end, int32_t part)
{
    const heads_arg *h = arg;
    shard_rank_plan r;
    heads_assign(h->p, begin, end, &r);
    return attention_of(&h->p->sum, &r) / h->speed[part];
}

static status share_make(planner *p, const double *speed, share *s)
{
    int32_t tp = p->o.tp, n_layers = p->a->n_layers;
    double worst, *base = NULL;
    s->speed = speed;
    TRY(arena_take(p, (size_t)tp + 1, sizeof(int32_t), &s->head_cuts));
    TRY(arena_take(p, (size_t)tp, sizeof(int64_t), &s->channel_units));
    TRY(arena_take(p, (size_t)n_layers + 1, sizeof(double), &s->seconds));
    TRY(arena_take(p, (size_t)tp, sizeof(double), &base));
    heads_arg arg = {p, speed};
    if (!split_items(p->a->n_heads, tp, heads_cost, &arg, s->head_cuts, &worst))
        return FAIL(ST_NO_MEMORY, "plan: no memory to split %d heads", p->a->n_heads);
    for (int32_t i = 0; i < tp; i++) {
        shard_rank_plan r;
        heads_assign(p, s->head_cuts[i], s->head_cuts[i + 1], &r);
        base[i] = attention_of(&p->sum, &r);
    }
    int64_t units = (p->a->intermediate + p->channel_unit - 1) / p->channel_unit;
    double each = (p->sum.channel + p->sum.down_col) * p->channel_unit;
    /* In a parallel block attention and MLP end in one sum, so that channels make up for heads; else a phase is evened alone, and the
     * bases serve only to break ties. */
    if (!p->a->parallel_block) {
        for (int32_t i = 0; i < tp; i++)
            base[i] *= 1e-9;
    }
    split_units(units, tp, each, base, speed, s->channel_units);
    for (int32_t l = 0; l < n_layers; l++) {
        double att = 0, mlp = 0, both = 0;
        int64_t before = 0;
        for (int32_t i = 0; i < tp; i++, before += s->channel_units[i - 1]) {
            shard_rank_plan r;
            heads_assign(p, s->head_cuts[i], s->head_cuts[i + 1], &r);
            channels_assign(p, before, before + s->channel_units[i], &r);
            double x = attention_of(&p->layers[l], &r) / speed[i], y = mlp_of(&p->layers[l], &r) / speed[i];
            att = fmax(att, x);
            mlp = fmax(mlp, y);
            both = fmax(both, x + y);
        }
        s->seconds[l + 1] = s->seconds[l] + (p->a->parallel_block ? both : att + mlp);
    }
    return ST_OK;
}

static status shares_set(planner *p)
{
    int32_t tp = p->o.tp;
    TRY(arena_take(p, (size_t)p->o.pp, sizeof(share), &p->shares));
    for (int32_t s = 0; s < p->o.pp; s++) {
        const double *speed = p->speeds + (size_t)s * (size_t)tp;
        int32_t same = 0;
        while (same < s && memcmp(p->shares[same].speed, speed, (size_t)tp * sizeof(double)) != 0)
            same++;
        if (same < s)
            p->shares[s] = p->shares[same];
        else
            TRY(share_make(p, speed, &p->shares[s]));
    }
    return ST_OK;
}

static status vocabulary_set(planner *p)
{
    int32_t tp = p->o.tp;
    int64_t units = (p->a->vocab + p->vocab_unit - 1) / p->vocab_unit;
    TRY(arena_take(p, 2 * (size_t)tp, sizeof(int64_t), &p->vocab_units));
    split_units(units, tp, cost_head_row(&p->model), NULL, p->shares[0].speed, p->vocab_units);
    split_units(units, tp, cost_head_row(&p->model), NULL, p->shares[p->o.pp - 1].speed, p->vocab_units + tp);
    return ST_OK;
}

static shard_slice vocab_rows(const planner *p, const int64_t *units, int32_t i)
{
    int64_t before = 0, all = p->a->vocab;
    for (int32_t j = 0; j < i; j++)
        before += units[j];
    int64_t begin = before * p->vocab_unit, end = (before + units[i]) * p->vocab_unit;
    return (shard_slice){begin < all ? begin : all, end < all ? end : all};
}

/* The rank in full, but for layers and counts. */
static void rank_fill(const planner *p, int32_t stage, int32_t i, shard_rank_plan *r)
{
    *r = (shard_rank_plan){.rank = stage * p->o.tp + i, .stage = stage, .tp_index = i, .has_embed = stage == 0, .has_head = stage == p->o.pp - 1};
    rank_shape(p, &p->shares[stage], i, r);
    if (r->has_embed)
        r->embed_rows = vocab_rows(p, p->vocab_units, i);
    if (r->has_head)
        r->head_rows = vocab_rows(p, p->vocab_units + p->o.tp, i);
}

/* ---- memory ---- */

static size_t memory_of(const planner *p, int32_t rank)
{
    size_t m = p->o.rank_memory != NULL ? p->o.rank_memory[rank] : p->o.memory_per_rank;
    return m == 0 ? SIZE_MAX : m;
}

static bool memory_limited(const planner *p)
{
    return p->o.memory_per_rank != 0 || p->o.rank_memory != NULL;
}

/* Bytes of a rank in all, with the least KV there must be. */
static size_t rank_need(const planner *p, const shard_rank_plan *r)
{
    return r->weight_bytes + r->scratch_bytes + kv_bytes_for(p->a, &p->o, r, p->o.pp, p->kv_needed);
}

static void rank_count(const planner *p, shard_rank_plan *r)
{
    shard_buffers s;
    r->weight_bytes = rank_weight_bytes(p->a, r, &p->o.types);
    shard_plan_buffers(p->a, r, p->o.pp, p->o.max_seqs, p->o.max_batched_tokens, &s);
    r->scratch_bytes = s.bytes;
    kv_block_bytes_set(p->a, &p->o, r);
}

/* Sums of bytes over layers, so that a stage's need is known for any range at once. */
static status share_bytes(planner *p, share *s)
{
    int32_t n = p->a->n_layers, tp = p->o.tp;
    TRY(arena_take(p, (size_t)tp * ((size_t)n + 1), sizeof(size_t), &s->bytes));
    for (int32_t i = 0; i < tp; i++) {
        size_t *sum = s->bytes + (size_t)i * ((size_t)n + 1);
        shard_rank_plan r = {.layer_end = n};
        rank_shape(p, s, i, &r);
        for (int32_t l = 0; l < n; l++) {
            shard_rank_plan one = r;
            one.layer_begin = l;
            one.layer_end = l + 1;
            kv_block_bytes_set(p->a, &p->o, &one);
            sum[l + 1] = sum[l] + rank_layer_bytes(p->a, &one, &p->o.types, l) + kv_bytes_for(p->a, &p->o, &one, p->o.pp, p->kv_needed);
        }
    }
    return ST_OK;
}

/* What one unit of channels takes on a rank that has n_layers of them. */
static double unit_bytes(const planner *p, int32_t layer_begin, int32_t layer_end)
{
    const shard_arch *a = p->a;
    double bytes = (double)p->o.max_batched_tokens * 4 * p->channel_unit * (a->mlp == SHARD_MLP_GATED ? 3 : 2);
    static const shard_role roles[] = {SHARD_UP, SHARD_DOWN, SHARD_GATE};
    for (int32_t l = layer_begin; l < layer_end; l++) {
        for (int k = 0; k < (a->mlp == SHARD_MLP_GATED ? 3 : 2); k++) {
            packed_shape shape = {shard_plan_type(a, &p->o.types, roles[k], l), PACKED_ROWS, a->hidden, 0};
            bytes += (double)packed_bytes(shape) * p->channel_unit / PACKED_ROWS;
        }
    }
    return bytes;
}

/* Whether a stage could hold these layers once channels have moved to where there is room. */
static bool stage_fits(const planner *p, int32_t stage, int32_t begin, int32_t end)
{
    const share *s = &p->shares[stage];
    double need = 0, have = 0, unit = unit_bytes(p, begin, end);
    for (int32_t i = 0; i < p->o.tp; i++) {
        const size_t *sum = s->bytes + (size_t)i * ((size_t)p->a->n_layers + 1);
        shard_rank_plan r;
        shard_buffers scratch;
        rank_fill(p, stage, i, &r);
        shard_plan_buffers(p->a, &r, p->o.pp, p->o.max_seqs, p->o.max_batched_tokens, &scratch);
        size_t own = sum[end] - sum[begin] + scratch.bytes, memory = memory_of(p, r.rank);
        if (r.has_embed || r.has_head)
            own += rank_outside_bytes(p->a, &r, &p->o.types);
        if ((double)own - (double)(s->channel_units[i] - 1) * unit > (double)memory)
            return false;
        need += (double)own;
        have += memory == SIZE_MAX ? 1e300 : (double)memory;
    }
    return need <= have;
}

/* ---- stages ---- */

typedef struct stages_arg {
    const planner *p;
    bool memory;
} stages_arg;

static double stage_end_seconds(const planner *p, int32_t stage)
{
    double embed = 0, head = 0;
    for (int32_t i = 0; i < p->o.tp; i++) {
        double speed = p->shares[stage].speed[i];
        if (stage == 0)
            embed = fmax(embed, cost_embed(&p->model) / speed);
        if (stage == p->o.pp - 1)
            head = fmax(head, cost_head(&p->model, slice_width(vocab_rows(p, p->vocab_units + p->o.tp, i))) / speed);
    }
    return embed + head;
}

static double stage_cost(const void *arg, int32_t begin, int32_t end, int32_t stage)
{
    const stages_arg *s = arg;
    if (s->memory && !stage_fits(s->p, stage, begin, end))
        return INFINITY;
    const share *sh = &s->p->shares[stage];
    bool ends = stage == 0 || stage == s->p->o.pp - 1;
    return sh->seconds[end] - sh->seconds[begin] + (ends ? stage_end_seconds(s->p, stage) : 0);
}

static status stages_given(planner *p)
{
    int64_t sum = 0;
    for (int32_t s = 0; s < p->o.pp; s++) {
        if (p->o.stage_layers[s] < 1)
            return FAIL(ST_INVALID, "stage %d is given %d layers: at least 1 is needed", s, p->o.stage_layers[s]);
        sum += p->o.stage_layers[s];
        p->layer_cuts[s + 1] = (int32_t)(sum < p->a->n_layers ? sum : p->a->n_layers);
    }
    if (sum != p->a->n_layers)
        return FAIL(ST_INVALID, "the stages are given %lld layers together, and the checkpoint has %d", (long long)sum, p->a->n_layers);
    return ST_OK;
}

static status stages_set(planner *p)
{
    double worst;
    TRY(arena_take(p, (size_t)p->o.pp + 1, sizeof(int32_t), &p->layer_cuts));
    if (p->o.stage_layers != NULL)
        return stages_given(p);
    stages_arg arg = {p, memory_limited(p) && p->o.pp > 1};
    if (arg.memory) {
        for (int32_t s = 0; s < p->o.pp; s++) {
            int32_t same = 0;
            while (p->shares[same].head_cuts != p->shares[s].head_cuts)
                same++;
            if (same < s)
                p->shares[s].bytes = p->shares[same].bytes;
            else
                TRY(share_bytes(p, &p->shares[s]));
        }
    }
    bool ok = split_items(p->a->n_layers, p->o.pp, stage_cost, &arg, p->layer_cuts, &worst);
    if (ok && !isfinite(worst)) { /* nothing fits: the split by time alone shows by how much */
        arg.memory = false;
        ok = split_items(p->a->n_layers, p->o.pp, stage_cost, &arg, p->layer_cuts, &worst);
    }
    return ok ? ST_OK : FAIL(ST_NO_MEMORY, "plan: no memory to split %d layers", p->a->n_layers);
}

/* ---- the plan itself ---- */

static shard_rank_plan *stage_ranks(const planner *p, int32_t stage)
{
    return p->plan->ranks + (size_t)stage * (size_t)p->o.tp;
}

static void stage_make(planner *p, int32_t stage, const int64_t *units)
{
    shard_rank_plan *r = stage_ranks(p, stage);
    int64_t before = 0;
    for (int32_t i = 0; i < p->o.tp; i++) {
        channels_assign(p, before, before + units[i], &r[i]);
        before += units[i];
        rank_count(p, &r[i]);
    }
}

/* Moves channels from ranks that lack memory to those of the stage that have some left: to the fastest done of them.  Ends when
 * all fit or nothing more can be moved. */
static status stage_shed(planner *p, int32_t stage)
{
    int32_t tp = p->o.tp;
    shard_rank_plan *r = stage_ranks(p, stage);
    double unit = unit_bytes(p, r->layer_begin, r->layer_end);
    int64_t *units = NULL;
    TRY(arena_take(p, (size_t)tp, sizeof(*units), &units));
    memcpy(units, p->shares[stage].channel_units, (size_t)tp * sizeof(*units));
    for (int round = 0; round < 8; round++) {
        int64_t moved = 0;
        for (int32_t i = 0; i < tp; i++) {
            size_t need = rank_need(p, &r[i]), have = memory_of(p, r[i].rank);
            int64_t over = need <= have ? 0 : (int64_t)ceil((double)(need - have) / unit);
            over = over < units[i] ? over : units[i] - 1;
            units[i] -= over;
            moved += over;
        }
        if (moved == 0)
            break;
        for (; moved > 0; moved--) {
            int32_t best = -1;
            double least = INFINITY;
            for (int32_t i = 0; i < tp; i++) {
                double now = (double)(units[i] + 1) / p->shares[stage].speed[i];
                double need = (double)rank_need(p, &r[i]) + (double)(units[i] + 1 - slice_width(r[i].channels) / p->channel_unit) * unit;
                if (need <= (double)memory_of(p, r[i].rank) && now < least) {
                    least = now;
                    best = i;
                }
            }
            if (best < 0)
                break;
            units[best]++;
        }
        if (moved > 0) /* no room anywhere: leave the stage as it was, the caller sees that it does not fit */
            break;
        stage_make(p, stage, units);
    }
    return ST_OK;
}

static void stage_costs(planner *p, int32_t stage)
{
    shard_rank_plan *r = stage_ranks(p, stage);
    for (int32_t i = 0; i < p->o.tp; i++) {
        double speed = p->shares[stage].speed[i];
        for (int32_t l = r[i].layer_begin; l < r[i].layer_end; l++) {
            r[i].cost_attention += attention_of(&p->layers[l], &r[i]) / speed;
            r[i].cost_mlp += mlp_of(&p->layers[l], &r[i]) / speed;
        }
        r[i].cost_embed = r[i].has_embed ? cost_embed(&p->model) / speed : 0;
        r[i].cost_head = r[i].has_head ? cost_head(&p->model, slice_width(r[i].head_rows)) / speed : 0;
    }
}

/* Sums over the phases of a stage. */
typedef struct totals {
    double slowest, perfect;  /* the slowest rank's; what perfect shares would take */
    double heads, units;      /* the least with whole heads; with whole heads, groups and panels */
} totals;

static void phase_add(const double *seconds, const double *speed, int32_t tp, double *slowest, double *perfect)
{
    double most = 0, work = 0, speeds = 0;
    for (int32_t i = 0; i < tp; i++) {
        most = fmax(most, seconds[i]);
        work += seconds[i] * speed[i];
        speeds += speed[i];
    }
    *slowest = most;
    *perfect = work / speeds;
}

typedef struct phase_rows { /* [tp] each */
    double *attention, *mlp, *unlimited; /* unlimited: the MLP before memory took channels */
} phase_rows;

static void layer_totals(const planner *p, int32_t stage, int32_t layer, const phase_rows *rows, totals *t)
{
    int32_t tp = p->o.tp;
    const shard_rank_plan *r = stage_ranks(p, stage);
    const double *speed = p->shares[stage].speed;
    double att, att_even, mlp, mlp_even, free_mlp, free_even;
    for (int32_t i = 0; i < tp; i++) {
        shard_rank_plan q;
        rank_shape(p, &p->shares[stage], i, &q);
        rows->attention[i] = attention_of(&p->layers[layer], &r[i]) / speed[i];
        rows->mlp[i] = mlp_of(&p->layers[layer], &r[i]) / speed[i];
        rows->unlimited[i] = mlp_of(&p->layers[layer], &q) / speed[i];
    }
    phase_add(rows->attention, speed, tp, &att, &att_even);
    phase_add(rows->mlp, speed, tp, &mlp, &mlp_even);
    t->perfect += att_even + mlp_even;
    if (!p->a->parallel_block) {
        phase_add(rows->unlimited, speed, tp, &free_mlp, &free_even);
        t->slowest += att + mlp;
        t->heads += att + free_even;
        t->units += att + free_mlp;
        return;
    }
    for (int32_t i = 0; i < tp; i++) { /* one sum ends both */
        rows->mlp[i] += rows->attention[i];
        rows->unlimited[i] += rows->attention[i];
    }
    phase_add(rows->mlp, speed, tp, &mlp, &mlp_even);
    phase_add(rows->unlimited, speed, tp, &free_mlp, &free_even);
    t->slowest += mlp;
    t->heads += fmax(att, free_even);
    t->units += free_mlp;
}

static status stage_totals(planner *p, int32_t stage, totals *t)
{
    int32_t tp = p->o.tp;
    const shard_rank_plan *r = stage_ranks(p, stage);
    phase_rows rows = {NULL};
    TRY(arena_take(p, 3 * (size_t)tp, sizeof(double), &rows.attention));
    rows.mlp = rows.attention + tp;
    rows.unlimited = rows.mlp + tp;
    for (int32_t l = r->layer_begin; l < r->layer_end; l++)
        layer_totals(p, stage, l, &rows, t);
    for (int end = 0; end < 2; end++) {
        double slow, even;
        for (int32_t i = 0; i < tp; i++)
            rows.mlp[i] = end == 0 ? r[i].cost_embed : r[i].cost_head;
        phase_add(rows.mlp, p->shares[stage].speed, tp, &slow, &even);
        t->slowest += slow;
        t->perfect += even;
        t->heads += end == 0 ? slow : even;
        t->units += slow;
    }
    return ST_OK;
}

/* Hosts that ranks first .. last lie on. */
static int32_t hosts_of(const planner *p, int32_t first, int32_t last)
{
    int32_t per = p->o.ranks_per_host;
    return per > 0 ? last / per - first / per + 1 : 1;
}

/* imbalance, bound, times. */
static status totals_set(planner *p)
{
    shard_plan *plan = p->plan;
    int32_t tp = p->o.tp, pp = p->o.pp;
    totals all = {0};
    double slowest_stage = 0;
    for (int32_t s = 0; s < pp; s++) {
        totals t = {0};
        const shard_rank_plan *r = stage_ranks(p, s);
        TRY(stage_totals(p, s, &t));
        int32_t hosts = hosts_of(p, r->rank, r->rank + tp - 1);
        int32_t sums = (r->layer_end - r->layer_begin) * (p->a->parallel_block ? 1 : 2) + (s == 0) + (s == pp - 1);
        double exchange = sums * cost_exchange(&p->model, tp, hosts);
        if (s + 1 < pp)
            exchange += cost_handover(&p->model, hosts_of(p, r->rank, r->rank + tp) > 1);
        slowest_stage = fmax(slowest_stage, t.slowest);
        all.slowest += t.slowest;
        all.perfect += t.perfect;
        all.heads += t.heads;
        all.units += t.units;
        plan->exchange_seconds += exchange;
        plan->stage_hosts = hosts > plan->stage_hosts ? hosts : plan->stage_hosts;
    }
    plan->imbalance = all.slowest / all.perfect;
    plan->imbalance_bound = all.units / all.perfect;
    plan->imbalance_heads = all.heads / all.perfect;
    plan->stage_imbalance = slowest_stage * pp / all.slowest;
    plan->step_seconds = all.slowest + plan->exchange_seconds;
    return ST_OK;
}

static void kv_set(planner *p)
{
    shard_plan *plan = p->plan;
    int64_t blocks = INT64_MAX;
    plan->fits = true;
    for (int32_t i = 0; i < plan->n_ranks; i++) {
        shard_rank_plan *r = &plan->ranks[i];
        size_t memory = memory_of(p, i), need = rank_need(p, r), fixed = r->weight_bytes + r->scratch_bytes;
        if (need > memory) {
            if (plan->fits || need - memory > plan->short_bytes - memory_of(p, plan->short_rank)) {
                plan->short_rank = i;
                plan->short_bytes = need;
            }
            plan->fits = false;
        }
        int64_t fit = shard_plan_kv_fit(p->a, &p->o, r, p->o.pp, memory > fixed ? memory - fixed : 0);
        blocks = fit < blocks ? fit : blocks;
    }
    shard_plan_kv_blocks(p->a, &p->o, p->o.pp, blocks, plan->kv_blocks);
    plan->kv_tokens = blocks * SHARD_KV_BLOCK;
    for (int32_t i = 0; i < plan->n_ranks; i++)
        plan->ranks[i].kv_bytes = kv_bytes_for(p->a, &p->o, &plan->ranks[i], p->o.pp, blocks);
}

static status ranks_make(planner *p)
{
    shard_plan *plan = p->plan;
    int32_t tp = p->o.tp, pp = p->o.pp;
    plan->tp = tp;
    plan->pp = pp;
    plan->n_ranks = tp * pp;
    plan->memory_price = 1;
    TRY(mem_calloc((size_t)plan->n_ranks, sizeof(*plan->ranks), "plan", &plan->ranks));
    for (int32_t s = 0; s < pp; s++) {
        for (int32_t i = 0; i < tp; i++) {
            shard_rank_plan *r = &stage_ranks(p, s)[i];
            rank_fill(p, s, i, r);
            r->layer_begin = p->layer_cuts[s];
            r->layer_end = p->layer_cuts[s + 1];
            rank_count(p, r);
        }
        if (memory_limited(p))
            TRY(stage_shed(p, s));
        stage_costs(p, s);
    }
    TRY(totals_set(p));
    kv_set(p);
    return ST_OK;
}

static status plan_make(const shard_arch *a, const shard_plan_options *options, shard_plan **out)
{
    status st;
    planner p = {.a = a, .o = options_filled(a, options)};
    TRY(check_ranks(a, p.o.tp, p.o.pp));
    p.kv_needed = p.o.kv_blocks > 0 ? p.o.kv_blocks : kv_blocks_needed(a, options);
    p.model = cost_model_of(a, &p.o);
    p.arena = mem_arena_create(0);
    if (p.arena == NULL)
        return FAIL(ST_NO_MEMORY, "plan: no memory");
    TRY_GOTO(mem_calloc(1, sizeof(*p.plan), "plan", &p.plan), err);
    TRY_GOTO(speeds_set(&p), err);
    TRY_GOTO(units_set(&p), err);
    TRY_GOTO(shares_set(&p), err);
    TRY_GOTO(vocabulary_set(&p), err);
    TRY_GOTO(stages_set(&p), err);
    TRY_GOTO(ranks_make(&p), err);
    mem_arena_destroy(&p.arena);
    *out = p.plan;
    return ST_OK;
err:
    mem_arena_destroy(&p.arena);
    shard_plan_destroy(&p.plan);
    return st;
}

/* What the memory limit costs: the same plan without it, compared. */
static status price_set(const shard_arch *a, const shard_plan_options *options, shard_plan *plan)
{
    shard_plan_options free_of_it = *options;
    shard_plan *other;
    free_of_it.memory_per_rank = 0;
    free_of_it.rank_memory = NULL;
    TRY(plan_make(a, &free_of_it, &other));
    plan->memory_price = (plan->step_seconds - plan->exchange_seconds) / (other->step_seconds - other->exchange_seconds);
    shard_plan_destroy(&other);
    return ST_OK;
}

/* ---- choosing ---- */

/* Whether a is the better plan: it fits; its stages, which sum in every layer, span fewer hosts; it is faster. */
static bool better(const shard_plan *a, const shard_plan *b)
{
    if (a->fits != b->fits)
        return a->fits;
    if (!a->fits)
        return a->short_bytes < b->short_bytes;
    if (a->stage_hosts != b->stage_hosts)
        return a->stage_hosts < b->stage_hosts;
    return a->step_seconds < b->step_seconds;
}

/* Every tp x pp of n_ranks that the checkpoint allows is planned, and the fastest that fits is kept. */
static status choose(const shard_arch *a, const shard_plan_options *options, shard_plan **out)
{
    int32_t n = options->n_ranks;
    shard_plan *best = NULL;
    for (int32_t tp = n; tp > 0; tp--) {
        shard_plan_options o = *options;
        shard_plan *plan;
        o.tp = tp;
        o.pp = n / tp;
        if (n % tp != 0 || (options->tp > 0 && tp != options->tp) || (options->pp > 0 && o.pp != options->pp))
            continue;
        status_mute();
        status st = check_ranks(a, o.tp, o.pp);
        if (st == ST_OK)
            st = plan_make(a, &o, &plan);
        status_unmute();
        if (st == ST_NO_MEMORY) {
            shard_plan_destroy(&best);
            return st;
        }
        if (st != ST_OK)
            continue;
        if (best == NULL || better(plan, best)) {
            shard_plan *t = best;
            best = plan;
            plan = t;
        }
        shard_plan_destroy(&plan);
    }
    if (best == NULL && options->tp == 0 && options->pp == 0)
        return FAIL(ST_INVALID, "%d ranks cannot share this %s checkpoint: tp x pp must be %d with tp at most %d (query heads) and pp at most %d "
                    "(layers)", n, a->family, n, a->n_heads, a->n_layers);
    if (best == NULL && options->tp > 0 && n % options->tp == 0)
        TRY(check_ranks(a, options->tp, n / options->tp));
    if (best == NULL && options->pp > 0 && n % options->pp == 0)
        TRY(check_ranks(a, n / options->pp, options->pp));
    if (best == NULL)
        return FAIL(ST_INVALID, "%d ranks do not divide into tp %d x pp %d for this %s checkpoint (0: free)", n, options->tp, options->pp, a->family);
    *out = best;
    return ST_OK;
}

status shard_plan_create(const shard_arch *arch, const shard_plan_options *options, shard_plan **out)
{
    shard_plan_options o = *options;
    shard_plan *plan;
    TRY(check_arch(arch));
    if (o.tp < 0 || o.pp < 0 || o.n_ranks < 0)
        return FAIL(ST_INVALID, "tp %d, pp %d, %d ranks: give positive numbers", o.tp, o.pp, o.n_ranks);
    if ((o.tp == 0 || o.pp == 0) && o.n_ranks == 0)
        o.n_ranks = o.tp > 0 ? o.tp : o.pp > 0 ? o.pp : 1;
    bool chosen = o.tp == 0 || o.pp == 0;
    if (!chosen && o.n_ranks != 0 && (int64_t)o.tp * o.pp != o.n_ranks)
        return FAIL(ST_INVALID, "tp %d x pp %d are not %d ranks", o.tp, o.pp, o.n_ranks);
    TRY(chosen ? choose(arch, &o, &plan) : plan_make(arch, &o, &plan));
    o.tp = plan->tp;
    o.pp = plan->pp;
    bool limited = o.memory_per_rank != 0 || o.rank_memory != NULL;
    if (!plan->fits && !o.may_not_fit) {
        const double gib = 1024.0 * 1024 * 1024;
        size_t have = o.rank_memory != NULL ? o.rank_memory[plan->short_rank] : o.memory_per_rank;
        status st = FAIL(ST_NO_MEMORY, "rank %d needs %.2f GiB for its weights, buffers and the KV cache of one sequence, and has %.2f GiB: "
                         "use more ranks, a smaller context, KV type or batch, or a smaller checkpoint", plan->short_rank,
                         (double)plan->short_bytes / gib, (double)have / gib);
        shard_plan_destroy(&plan);
        return st;
    }
    status st = limited ? price_set(arch, &o, plan) : ST_OK;
    if (st != ST_OK) {
        shard_plan_destroy(&plan);
        return st;
    }
    *out = plan;
    return ST_OK;
}

void shard_plan_destroy(shard_plan **plan)
{
    if (*plan == NULL)
        return;
    free((*plan)->ranks);
    free(*plan);
    *plan = NULL;
}
