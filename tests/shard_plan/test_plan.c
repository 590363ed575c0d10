/* tests/shard_plan/test_plan.c - the planner's promises, on random architectures and on the public sizes of well-known ones. */
#include "shard/plan/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/hash.h"

static uint64_t seed;

static uint64_t next_u64(void)
{
    return hash_mix(seed += 0x9e3779b97f4a7c15u);
}

static int32_t between(int32_t low, int32_t high)
{
    return low + (int32_t)(next_u64() % (uint64_t)(high - low + 1));
}

/* ---- architectures ---- */

static shard_arch arch;
static uint8_t types_of[SHARD_MAX_LAYERS * SHARD_ROLES];

static void arch_make(const char *family, int32_t layers, int32_t hidden, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t intermediate,
                      int32_t vocab, bool tied)
{
    memset(&arch, 0, sizeof(arch));
    snprintf(arch.family, sizeof(arch.family), "%s", family);
    arch.n_layers = layers;
    arch.hidden = hidden;
    arch.n_heads = heads;
    arch.n_kv_heads = kv_heads;
    arch.head_dim = head_dim;
    arch.intermediate = intermediate;
    arch.vocab = vocab;
    arch.max_positions = 8192;
    arch.attn_norm = arch.mlp_norm = arch.norm_weight = true;
    arch.tied_embeddings = tied;
    arch.n_kv_groups = 1;
    arch.kv_groups[0].n_layers = layers;
}

/* Public sizes (config.json of each checkpoint). */
typedef struct named {
    const char *name;
    int32_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    bool tied;
    int32_t window, full_every; /* of layers with a window, every n-th is full; 0 = all full */
} named;

static const named models[] = {
    {"llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, false, 0, 0},
    {"llama-3.1-70b", 80, 8192, 64, 8, 128, 28672, 128256, false, 0, 0},
    {"llama-3.1-405b", 126, 16384, 128, 8, 128, 53248, 128256, false, 0, 0},
    {"qwen2.5-32b", 64, 5120, 40, 8, 128, 27648, 152064, false, 0, 0},
    {"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, true, 0, 0},
    {"gemma-3-270m", 18, 640, 4, 1, 256, 2048, 262144, true, 512, 6},
    {"gemma-3-1b", 26, 1152, 4, 1, 256, 6912, 262144, true, 512, 6},
    {"gemma-3-4b", 34, 2560, 8, 4, 256, 10240, 262208, true, 1024, 6},
    {"gemma-3-12b", 48, 3840, 16, 8, 256, 15360, 262208, true, 1024, 6},
    {"gemma-3-27b", 62, 5376, 32, 16, 128, 21504, 262208, true, 1024, 6},
};

static void arch_named(const named *m)
{
    arch_make(m->name, m->layers, m->hidden, m->heads, m->kv_heads, m->head_dim, m->intermediate, m->vocab, m->tied);
    arch.max_positions = 131072;
    if (m->window == 0)
        return;
    arch.n_kv_groups = 2;
    arch.kv_groups[1].window = m->window;
    for (int32_t l = 0; l < m->layers; l++) {
        arch.layers[l].kv_group = (l + 1) % m->full_every != 0;
        arch.layers[l].window = arch.layers[l].kv_group == 1 ? m->window : 0;
    }
}

static void arch_random(void)
{
    static const int32_t dims[] = {16, 20, 32, 64, 80, 96, 128};
    int32_t kv = between(1, 9), heads = kv * between(1, 8), hd = dims[between(0, 6)];
    arch_make("random", between(1, 20), between(1, 40) * 32, heads, kv, hd, between(heads, 3000), between(heads, 40000), between(0, 1));
    arch.parallel_block = between(0, 3) == 0;
    arch.mlp = between(0, 3) == 0 ? SHARD_MLP_PLAIN : SHARD_MLP_GATED;
    arch.q_bias = between(0, 1);
    arch.o_bias = arch.mlp_bias = between(0, 1);
    arch.norm_bias = between(0, 1);
    arch.qk_norm = (shard_qk_norm)between(0, 3);
    arch.attention_sinks = between(0, 1);
    arch.learned_positions = between(0, 3) == 0;
    arch.head_bias = between(0, 3) == 0;
    arch.n_kv_groups = between(1, 2);
    for (int32_t l = 0; l < arch.n_layers; l++)
        arch.layers[l].kv_group = (int8_t)(l % arch.n_kv_groups);
    arch.kv_groups[1].window = 100;
}

static shard_types types_random(void)
{
    shard_types t = {.dflt = (packed_type)between(0, PACKED_TYPES - 1)};
    if (between(0, 1) == 0)
        return t;
    for (size_t i = 0; i < sizeof(types_of); i++)
        types_of[i] = (uint8_t)between(0, PACKED_TYPES - 1);
    t.of = types_of;
    return t;
}

/* ---- what must hold of every plan ---- */

static int64_t width(shard_slice s)
{
    return s.end - s.begin;
}

static bool is_replicated(shard_role role)
{
    switch (role) {
    case SHARD_TOKEN_EMBED: case SHARD_HEAD: case SHARD_HEAD_B: case SHARD_Q: case SHARD_Q_B: case SHARD_O: case SHARD_SINKS:
    case SHARD_GATE: case SHARD_GATE_B: case SHARD_UP: case SHARD_UP_B: case SHARD_DOWN: case SHARD_POS_EMBED:
        return false;
    case SHARD_Q_NORM:
        return arch.qk_norm == SHARD_QK_NORM_HEAD;
    default:
        return true;
    }
}

/* Every element of a role on the ranks of the stage that computes it: exactly once, or on all ranks where it is replicated; KV heads
 * and widened groups on at most the ranks beside a boundary. */
static void check_role(const shard_plan *p, shard_role role, int32_t layer, int64_t n_rows, int64_t n_cols, int32_t stage)
{
    int64_t row_end = 0, col_end = 0, held = 0;
    int32_t holders = 0;
    for (int32_t i = 0; i < p->tp; i++) {
        const shard_rank_plan *r = &p->ranks[stage * p->tp + i];
        shard_slice rows, cols;
        if (!shard_plan_slice(&arch, r, role, layer, &rows, &cols))
            continue;
        holders++;
        assert_true(rows.begin >= 0 && rows.begin < rows.end && rows.end <= n_rows);
        assert_true(cols.begin >= 0 && cols.begin < cols.end && cols.end <= n_cols);
        held += width(rows) * width(cols);
        if (width(rows) < n_rows || role == SHARD_K || role == SHARD_V)
            assert_true(rows.begin <= row_end); /* no gap */
        row_end = rows.end > row_end ? rows.end : row_end;
        assert_true(cols.begin <= col_end);
        col_end = cols.end > col_end ? cols.end : col_end;
        if (is_replicated(role) && role != SHARD_K && role != SHARD_V && role != SHARD_K_B && role != SHARD_V_B && role != SHARD_K_NORM)
            assert_int_equal(width(rows), n_rows);
    }
    assert_int_equal(row_end, n_rows);
    assert_int_equal(col_end, n_cols);
    if (role == SHARD_POS_EMBED)
        assert_int_equal(holders, 1);
    else
        assert_int_equal(holders, p->tp);
    if (!is_replicated(role) && role != SHARD_O && role != SHARD_DOWN)
        assert_int_equal(held, n_rows * n_cols);
}

static void check_rank(const shard_plan *p, const shard_plan_options *o, int32_t rank)
{
    const shard_rank_plan *r = &p->ranks[rank];
    int64_t per = arch.n_heads / arch.n_kv_heads, hd = arch.head_dim;
    assert_true(r->rank == rank && r->stage == rank / p->tp && r->tp_index == rank % p->tp);
    assert_true(r->has_embed == (r->stage == 0) && r->has_head == (r->stage == p->pp - 1));
    assert_true(r->layer_begin < r->layer_end && width(r->heads) > 0 && width(r->channels) > 0);
    /* Every KV head that a query head reads, and no other. */
    assert_int_equal(r->kv_heads.begin, r->heads.begin / per);
    assert_int_equal(r->kv_heads.end, (r->heads.end - 1) / per + 1);
    assert_true(r->o_cols.begin <= r->heads.begin * hd && r->o_cols.end >= r->heads.end * hd);
    assert_true(r->down_cols.begin <= r->channels.begin && r->down_cols.end >= r->channels.end);
    assert_true(r->heads.begin * hd - r->o_cols.begin < 32 && r->channels.begin - r->down_cols.begin < 32);
    size_t bytes = 0, kv[SHARD_MAX_KV_GROUPS] = {0};
    for (int role = 0; role < SHARD_ROLES; role++) {
        for (int32_t l = 0; l < (shard_role_in_layer(role) ? arch.n_layers : 1); l++) {
            shard_slice rows, cols;
            packed_shape shape;
            if (!shard_plan_slice(&arch, r, role, l, &rows, &cols))
                continue;
            if (shard_role_is_vector(role)) {
                assert_false(shard_plan_packed(&arch, r, &o->types, role, l, &shape));
                bytes += ((size_t)width(rows) * 4 + 63) / 64 * 64;
                continue;
            }
            assert_true(shard_plan_packed(&arch, r, &o->types, role, l, &shape));
            packed_type want = shard_plan_type(&arch, &o->types, role, l);
            const packed_format *f = packed_format_of(want);
            assert_true(shape.type == want && shape.rows == width(rows) && shape.cols == width(cols));
            assert_int_equal(cols.begin % f->group, 0);
            if (packed_has_super(f))
                assert_int_equal(shape.phase, cols.begin % f->super);
            assert_true(packed_bytes(shape) > 0);
            if (role != SHARD_HEAD || !shard_plan_head_is_embedding(&arch, r))
                bytes += packed_bytes(shape);
        }
    }
    assert_int_equal(r->weight_bytes, bytes);
    for (int32_t l = r->layer_begin; l < r->layer_end; l++)
        kv[arch.layers[l].kv_group] += shard_plan_kv_block_bytes(&arch, r, o->kv_type);
    size_t kv_bytes = 0;
    for (int g = 0; g < arch.n_kv_groups; g++) {
        assert_int_equal(r->kv_block_bytes[g], kv[g]);
        kv_bytes += kv[g] * (size_t)p->kv_blocks[g];
    }
    assert_int_equal(r->kv_bytes, kv_bytes);
    if (arch.tied_embeddings && p->pp == 1)
        assert_true(shard_plan_head_is_embedding(&arch, r));
}

static void check_plan(const shard_plan *p, const shard_plan_options *o)
{
    assert_int_equal(p->n_ranks, p->tp * p->pp);
    int32_t layer = 0;
    for (int32_t s = 0; s < p->pp; s++) {
        const shard_rank_plan *r = &p->ranks[s * p->tp];
        assert_int_equal(r->layer_begin, layer);
        layer = r->layer_end;
        for (int32_t i = 1; i < p->tp; i++)
            assert_true(r[i].layer_begin == r->layer_begin && r[i].layer_end == r->layer_end && r[i].heads.begin == r[i - 1].heads.end &&
                        r[i].channels.begin == r[i - 1].channels.end);
        assert_true(r->heads.begin == 0 && r[p->tp - 1].heads.end == arch.n_heads);
        assert_true(r->channels.begin == 0 && r[p->tp - 1].channels.end == arch.intermediate);
    }
    assert_int_equal(layer, arch.n_layers);
    for (int32_t i = 0; i < p->n_ranks; i++)
        check_rank(p, o, i);
    for (int role = 0; role < SHARD_ROLES; role++) {
        int64_t rows, cols;
        if (!shard_role_shape(&arch, role, &rows, &cols))
            continue;
        if (!shard_role_in_layer(role)) {
            bool last = role == SHARD_HEAD || role == SHARD_HEAD_B || role == SHARD_FINAL_NORM || role == SHARD_FINAL_NORM_B;
            check_role(p, role, 0, rows, cols, last ? p->pp - 1 : 0);
            continue;
        }
        for (int32_t s = 0; s < p->pp; s++) {
            for (int32_t l = p->ranks[s * p->tp].layer_begin; l < p->ranks[s * p->tp].layer_end; l++)
                check_role(p, role, l, rows, cols, s);
        }
    }
    assert_true(p->imbalance >= 1 - 1e-12 && p->imbalance_bound >= 1 - 1e-12 && p->imbalance >= p->imbalance_bound - 1e-12 &&
                p->imbalance_heads <= p->imbalance_bound + 1e-12);
    assert_true(p->memory_price >= 1 - 1e-9 && p->step_seconds > p->exchange_seconds);
}

static void random_plans_cover_everything_once(void **state)
{
    (void)state;
    seed = 1;
    for (int i = 0; i < 1500; i++) {
        double weights[400];
        arch_random();
        shard_plan_options o = {.tp = between(1, arch.n_heads < 12 ? arch.n_heads : 12), .pp = between(1, arch.n_layers < 6 ? arch.n_layers : 6),
                                .max_seqs = between(1, 40), .max_context = between(16, 5000), .max_batched_tokens = between(1, 600),
                                .kv_type = (shard_kv_type)between(0, SHARD_KV_F8), .types = types_random()};
        if (between(0, 2) == 0) {
            for (int32_t k = 0; k < o.tp * o.pp; k++)
                weights[k] = between(1, 4);
            o.rank_weights = weights;
        }
        shard_plan *p;
        assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
        check_plan(p, &o);
        shard_plan_destroy(&p);
    }
}

/* The best whole-head split there is, by trying all: the slowest rank's share when KV heads cost `kv` query heads each. */
static int32_t best_split(int32_t heads, int32_t per, int32_t tp, int32_t kv, int32_t begin)
{
    if (tp == 1)
        return heads - begin + kv * ((heads - 1) / per - begin / per + 1);
    int32_t best = INT32_MAX;
    for (int32_t end = begin + 1; end <= heads - (tp - 1); end++) {
        int32_t mine = end - begin + kv * ((end - 1) / per - begin / per + 1);
        if (mine >= best)
            break;
        int32_t rest = best_split(heads, per, tp - 1, kv, end), worst = mine > rest ? mine : rest;
        best = worst < best ? worst : best;
    }
    return best;
}

static void head_splits_are_the_best_there_are(void **state)
{
    (void)state;
    static const int32_t cases[][2] = {{9, 3}, {12, 3}, {14, 7}, {8, 1}, {16, 4}, {10, 5}, {15, 3}};
    /* No attention over keys, no fixed part: a query head costs q and o, a KV head k and v, all of one size. */
    shard_device flat = *shard_device_find("cpu");
    flat.attention_macs_per_second = flat.elements_per_second = 1e30;
    flat.phase_seconds = 0;
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        int32_t heads = cases[c][0], kv = cases[c][1];
        arch_make("flat", 1, 1024, heads, kv, 64, 4096, 1024, false);
        for (int32_t tp = 1; tp <= heads && tp <= 8; tp++) {
            shard_plan_options o = {.tp = tp, .pp = 1, .max_context = 16, .cost_context = 1, .device = &flat, .types = {PACKED_BF16, NULL}};
            shard_plan *p;
            assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
            double slowest = 0;
            int64_t most = 0;
            for (int32_t i = 0; i < tp; i++) {
                int64_t units = width(p->ranks[i].heads) + width(p->ranks[i].kv_heads);
                most = units > most ? units : most;
                slowest = fmax(slowest, p->ranks[i].cost_attention);
            }
            assert_int_equal(most, best_split(heads, heads / kv, tp, 1, 0));
            shard_plan_destroy(&p);
        }
    }
}

static void known_checkpoints_are_even(void **state)
{
    (void)state;
    static const packed_type types[] = {PACKED_BF16, PACKED_Q4_K, PACKED_Q4_1, PACKED_F32};
    for (size_t m = 0; m < ARRAY_LEN(models); m++) {
        arch_named(&models[m]);
        printf("%-15s", models[m].name);
        for (int32_t tp = 1; tp <= 8; tp++) {
            double worst = 0, bound = 0;
            for (size_t t = 0; t < ARRAY_LEN(types) && tp <= arch.n_heads; t++) {
                shard_plan_options o = {.tp = tp, .pp = 1, .max_context = 8192, .types = {types[t], NULL}};
                shard_plan *p;
                assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
                check_plan(p, &o);
                /* Channels and vocabulary rows: nobody has a unit more than the ceiling of the mean. */
                int32_t unit = packed_format_of(types[t])->group > 16 ? 32 : 16;
                for (int32_t i = 0; i < tp; i++) {
                    assert_true(width(p->ranks[i].channels) <= ((arch.intermediate + unit - 1) / unit + tp - 1) / tp * unit);
                    assert_true(width(p->ranks[i].head_rows) <= ((arch.vocab + 15) / 16 + tp - 1) / tp * 16);
                }
                if (p->imbalance > 1.03 && p->imbalance > p->imbalance_bound * (1 + 1e-9))
                    fail_msg("%s %s tp %d: imbalance %.4f, whole heads allow %.4f", models[m].name, packed_format_of(types[t])->name, tp, p->imbalance,
                             p->imbalance_bound);
                if (p->imbalance > worst) {
                    worst = p->imbalance;
                    bound = p->imbalance_heads;
                }
                shard_plan_destroy(&p);
            }
            printf(worst > 1.03 ? " %.3f(%.3f)" : worst == 0 ? "   -  " : " %.3f", worst, bound);
        }
        printf("\n");
    }
    printf("(imbalance for tp 1..8; in brackets what whole heads impose, where it is above 1.03)\n");
}

static double seconds_for(int32_t tp, int32_t pp, shard_plan **out)
{
    clock_t start = clock(); /* of this process: the machine may be busy */
    shard_plan_options o = {.tp = tp, .pp = pp, .max_seqs = 256, .max_context = 32768, .max_batched_tokens = 8192, .ranks_per_host = 8,
                            .memory_per_rank = (size_t)80 << 30, .kv_type = SHARD_KV_F16, .types = {PACKED_BF16, NULL},
                            .device = shard_device_find("h100")};
    assert_int_equal(shard_plan_create(&arch, &o, out), ST_OK);
    double took = (double)(clock() - start) / CLOCKS_PER_SEC;
    check_plan(*out, &o);
    return took;
}

static void a_large_plan_takes_a_blink(void **state)
{
    (void)state;
    shard_plan *p;
    arch_named(&models[2]);
    double took = seconds_for(8, 16, &p);
    printf("llama-3.1-405b on 16 x 8: %.1f ms, stage imbalance %.3f, %lld tokens of KV\n", took * 1e3, p->stage_imbalance, (long long)p->kv_tokens);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(took < 0.1 || getenv("TRIREME_TEST_SLOW") != NULL); /* set where a processor is emulated */
#endif
    assert_true(p->stage_imbalance < 1.12); /* 126 layers over 16 stages: 8 on most */
    shard_plan_destroy(&p);
    took = seconds_for(8, 125, &p);
    printf("llama-3.1-405b on 125 x 8 = 1000 ranks: %.1f ms\n", took * 1e3);
    assert_int_equal(p->n_ranks, 1000);
    shard_plan_destroy(&p);
}

static void ranks_of_unequal_speed_get_unequal_shares(void **state)
{
    (void)state;
    const double weights[] = {1, 1, 2};
    arch_named(&models[0]);
    shard_plan_options o = {.tp = 3, .pp = 1, .rank_weights = weights, .max_context = 4096, .types = {PACKED_BF16, NULL}};
    shard_plan *p;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    check_plan(p, &o);
    const shard_rank_plan *r = p->ranks;
    assert_int_equal(width(r[2].heads), 16);
    assert_in_range(width(r[2].channels), 14336 / 2 - 16, 14336 / 2 + 16);
    assert_in_range(width(r[2].head_rows), 128256 / 2 - 16, 128256 / 2 + 16);
    assert_true(p->imbalance < 1.03);
    shard_plan_destroy(&p);
    /* A slow stage gets fewer layers. */
    const double stages[] = {1, 1, 1, 3};
    o = (shard_plan_options){.tp = 1, .pp = 4, .rank_weights = stages, .max_context = 4096, .types = {PACKED_BF16, NULL}};
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    check_plan(p, &o);
    assert_true(p->ranks[3].layer_end - p->ranks[3].layer_begin >= 14);
    shard_plan_destroy(&p);
}

static void stages_count_embedding_and_head(void **state)
{
    (void)state;
    arch_named(&models[5]); /* a head larger than all of its layers */
    shard_plan_options o = {.tp = 1, .pp = 2, .max_context = 1024, .types = {PACKED_BF16, NULL}};
    shard_plan *p;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    assert_true(p->ranks[1].layer_end - p->ranks[1].layer_begin < 4);
    shard_plan_destroy(&p);
    const int32_t given[] = {9, 9}, wrong[] = {9, 8};
    o.stage_layers = given;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    assert_int_equal(p->ranks[0].layer_end, 9);
    shard_plan_destroy(&p);
    status_mute();
    o.stage_layers = wrong;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_INVALID);
    status_unmute();
}

static void a_rank_short_of_memory_gets_fewer_channels(void **state)
{
    (void)state;
    arch_named(&models[0]);
    shard_plan_options o = {.tp = 2, .pp = 1, .max_context = 4096, .max_seqs = 4, .kv_type = SHARD_KV_F16, .types = {PACKED_BF16, NULL}};
    shard_plan *even, *p;
    assert_int_equal(shard_plan_create(&arch, &o, &even), ST_OK);
    assert_true(even->memory_price == 1 && even->kv_tokens == 4 * 4096);
    size_t need = even->ranks[1].weight_bytes + even->ranks[1].scratch_bytes + ((size_t)1 << 30);
    size_t memory[2] = {need * 2, need * 4 / 5};
    o.rank_memory = memory;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    check_plan(p, &o);
    assert_true(p->fits && width(p->ranks[1].channels) < width(even->ranks[1].channels));
    assert_int_equal(width(p->ranks[1].heads), width(even->ranks[1].heads));
    for (int i = 0; i < 2; i++)
        assert_true(p->ranks[i].weight_bytes + p->ranks[i].scratch_bytes + p->ranks[i].kv_bytes <= memory[i]);
    assert_true(p->memory_price > 1.02);
    assert_true(p->kv_tokens >= 4096);
    shard_plan_destroy(&p);
    /* Too small altogether: refused, with the rank and its need; shown if asked for. */
    memory[0] = memory[1] = need / 3;
    status_mute();
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_NO_MEMORY);
    assert_non_null(strstr(status_message(), "GiB"));
    status_unmute();
    o.may_not_fit = true;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    assert_false(p->fits);
    assert_true(p->short_bytes > memory[0]);
    shard_plan_destroy(&p);
    shard_plan_destroy(&even);
}

static void stages_respect_memory(void **state)
{
    (void)state;
    arch_named(&models[0]);
    shard_plan_options o = {.tp = 1, .pp = 2, .max_context = 2048, .max_seqs = 1, .kv_type = SHARD_KV_F16, .types = {PACKED_BF16, NULL}};
    shard_plan *p;
    size_t memory[2] = {(size_t)14 << 30, (size_t)5 << 29};
    o.rank_memory = memory;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    check_plan(p, &o);
    assert_true(p->ranks[1].layer_end - p->ranks[1].layer_begin < 8);
    assert_true(p->memory_price > 0.99);
    shard_plan_destroy(&p);
}

static void windows_need_few_blocks(void **state)
{
    (void)state;
    arch_named(&models[6]);
    shard_plan_options o = {.tp = 2, .pp = 1, .max_context = 32768, .max_seqs = 8, .max_batched_tokens = 512, .types = {PACKED_BF16, NULL}};
    shard_plan *p;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    assert_int_equal(p->kv_blocks[0], 8 * 2048);
    assert_in_range(p->kv_blocks[1], 8 * 33, 8 * 36 + 32);
    shard_plan_destroy(&p);
    /* Little memory: windows get no more blocks than the rest. */
    o.memory_per_rank = (size_t)2000 << 20;
    o.max_context = 1024;
    o.max_seqs = 4096;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    assert_true(p->kv_blocks[1] <= p->kv_blocks[0] && p->kv_tokens == p->kv_blocks[0] * 16);
    shard_plan_destroy(&p);
}

static void splits_are_chosen(void **state)
{
    (void)state;
    shard_plan *p;
    arch_named(&models[4]);
    for (int32_t n = 1; n <= 8; n++) {
        shard_plan_options o = {.n_ranks = n, .max_context = 2048, .types = {PACKED_Q4_1, NULL}};
        assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
        assert_int_equal(p->n_ranks, n);
        check_plan(p, &o);
        shard_plan_destroy(&p);
    }
    shard_plan_options o = {.tp = 2, .n_ranks = 6, .max_context = 2048, .types = {PACKED_Q4_1, NULL}};
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    assert_int_equal(p->pp, 3);
    shard_plan_destroy(&p);
    /* 405B on 128 GPUs of 8 a host: stages do not cross hosts. */
    arch_named(&models[2]);
    o = (shard_plan_options){.n_ranks = 128, .ranks_per_host = 8, .max_context = 8192, .memory_per_rank = (size_t)80 << 30,
                             .device = shard_device_find("h100"), .types = {PACKED_BF16, NULL}};
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    printf("llama-3.1-405b on 128 h100: tp %d x pp %d, %.1f ms a token\n", p->tp, p->pp, p->step_seconds * 1e3);
    assert_true(p->fits && p->stage_hosts == 1 && p->tp == 8);
    shard_plan_destroy(&p);
}

static void refuse(shard_plan_options o, status want, const char *says)
{
    shard_plan *p = NULL;
    status_mute();
    assert_int_equal(shard_plan_create(&arch, &o, &p), want);
    if (strstr(status_message(), says) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", status_message(), says);
    status_unmute();
    assert_null(p);
}

static void what_cannot_be_split_is_refused(void **state)
{
    (void)state;
    const double bad[] = {1, NAN}, zero[] = {1, 0};
    arch_named(&models[4]);
    refuse((shard_plan_options){.tp = 10, .pp = 1}, ST_INVALID, "--tp 5 --pp 2");
    refuse((shard_plan_options){.tp = 1, .pp = 31}, ST_INVALID, "30 layers");
    refuse((shard_plan_options){.n_ranks = 31}, ST_INVALID, "31 ranks");
    refuse((shard_plan_options){.tp = 4, .n_ranks = 6}, ST_INVALID, "6 ranks");
    refuse((shard_plan_options){.tp = 2, .pp = 2, .n_ranks = 6}, ST_INVALID, "not 6 ranks");
    refuse((shard_plan_options){.tp = -1}, ST_INVALID, "positive");
    refuse((shard_plan_options){.tp = 2, .pp = 1, .rank_weights = bad}, ST_INVALID, "weight");
    refuse((shard_plan_options){.tp = 2, .pp = 1, .rank_weights = zero}, ST_INVALID, "weight");
    arch.n_kv_heads = 4;
    refuse((shard_plan_options){.tp = 1, .pp = 1}, ST_INVALID, "evenly");
    arch.n_kv_heads = 3;
    arch.n_experts = 8;
    refuse((shard_plan_options){.tp = 1, .pp = 1}, ST_UNSUPPORTED, "experts");
    arch.n_experts = 0;
    arch.hidden = 0;
    refuse((shard_plan_options){.tp = 1, .pp = 1}, ST_INVALID, "positive");
}

static void scratch_is_what_the_buffers_say(void **state)
{
    (void)state;
    arch_named(&models[4]);
    shard_plan_options o = {.tp = 3, .pp = 2, .max_seqs = 40, .max_context = 512, .max_batched_tokens = 100, .types = {PACKED_Q4_1, NULL}};
    shard_plan *p;
    assert_int_equal(shard_plan_create(&arch, &o, &p), ST_OK);
    for (int32_t i = 0; i < p->n_ranks; i++) {
        shard_buffers s;
        size_t end = 0;
        shard_plan_buffers(&arch, &p->ranks[i], p->pp, o.max_seqs, o.max_batched_tokens, &s);
        for (int b = 0; b < SHARD_BUFFERS; b++) {
            assert_int_equal(s.offset[b], end);
            end += ((size_t)s.cols[b] * 4 + 63) / 64 * 64 * (size_t)s.rows[b];
        }
        assert_int_equal(s.bytes, end);
        assert_int_equal(p->ranks[i].scratch_bytes, end);
        assert_int_equal(s.rows[SHARD_BUFFER_LOGITS], i < 3 ? 0 : 40);
    }
    shard_plan_destroy(&p);
}

static void kv_types_have_names(void **state)
{
    (void)state;
    shard_kv_type t;
    for (int i = 0; i <= SHARD_KV_F8; i++) {
        assert_true(shard_kv_type_parse(shard_kv_type_name((shard_kv_type)i), &t));
        assert_int_equal(t, i);
    }
    assert_true(shard_kv_type_parse("fp8_e4m3", &t));
    assert_int_equal(t, SHARD_KV_F8);
    assert_false(shard_kv_type_parse("fp8_e5m2", &t) || shard_kv_type_parse("", &t) || shard_kv_type_parse("unknown", &t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_plans_cover_everything_once),
        cmocka_unit_test(head_splits_are_the_best_there_are),
        cmocka_unit_test(known_checkpoints_are_even),
        cmocka_unit_test(a_large_plan_takes_a_blink),
        cmocka_unit_test(ranks_of_unequal_speed_get_unequal_shares),
        cmocka_unit_test(stages_count_embedding_and_head),
        cmocka_unit_test(a_rank_short_of_memory_gets_fewer_channels),
        cmocka_unit_test(stages_respect_memory),
        cmocka_unit_test(windows_need_few_blocks),
        cmocka_unit_test(splits_are_chosen),
        cmocka_unit_test(what_cannot_be_split_is_refused),
        cmocka_unit_test(scratch_is_what_the_buffers_say),
        cmocka_unit_test(kv_types_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
