/* shard/plan/arch.c - roles: their names, kinds and shapes in an architecture. */
#include "shard/plan/arch.h"

#include <math.h>

#include "base/half.h"
#include "base/status.h"

typedef enum role_kind { MATRIX, VECTOR } role_kind;

static const struct {
    const char *name;
    bool in_layer;
    role_kind kind;
} roles[SHARD_ROLES] = {
    [SHARD_TOKEN_EMBED] = {"token_embed", false, MATRIX},
    [SHARD_POS_EMBED] = {"pos_embed", false, MATRIX},
    [SHARD_EMBED_NORM] = {"embed_norm", false, VECTOR},
    [SHARD_EMBED_NORM_B] = {"embed_norm_b", false, VECTOR},
    [SHARD_FINAL_NORM] = {"final_norm", false, VECTOR},
    [SHARD_FINAL_NORM_B] = {"final_norm_b", false, VECTOR},
    [SHARD_HEAD] = {"head", false, MATRIX},
    [SHARD_HEAD_B] = {"head_b", false, VECTOR},
    [SHARD_ATTN_NORM] = {"attn_norm", true, VECTOR},
    [SHARD_ATTN_NORM_B] = {"attn_norm_b", true, VECTOR},
    [SHARD_Q] = {"attn_q", true, MATRIX},
    [SHARD_Q_B] = {"attn_q_b", true, VECTOR},
    [SHARD_K] = {"attn_k", true, MATRIX},
    [SHARD_K_B] = {"attn_k_b", true, VECTOR},
    [SHARD_V] = {"attn_v", true, MATRIX},
    [SHARD_V_B] = {"attn_v_b", true, VECTOR},
    [SHARD_O] = {"attn_o", true, MATRIX},
    [SHARD_O_B] = {"attn_o_b", true, VECTOR},
    [SHARD_Q_NORM] = {"attn_q_norm", true, VECTOR},
    [SHARD_K_NORM] = {"attn_k_norm", true, VECTOR},
    [SHARD_SINKS] = {"attn_sinks", true, VECTOR},
    [SHARD_POST_ATTN_NORM] = {"post_attn_norm", true, VECTOR},
    [SHARD_POST_ATTN_NORM_B] = {"post_attn_norm_b", true, VECTOR},
    [SHARD_MLP_NORM] = {"mlp_norm", true, VECTOR},
    [SHARD_MLP_NORM_B] = {"mlp_norm_b", true, VECTOR},
    [SHARD_GATE] = {"mlp_gate", true, MATRIX},
    [SHARD_GATE_B] = {"mlp_gate_b", true, VECTOR},
    [SHARD_UP] = {"mlp_up", true, MATRIX},
    [SHARD_UP_B] = {"mlp_up_b", true, VECTOR},
    [SHARD_DOWN] = {"mlp_down", true, MATRIX},
    [SHARD_DOWN_B] = {"mlp_down_b", true, VECTOR},
    [SHARD_POST_MLP_NORM] = {"post_mlp_norm", true, VECTOR},
    [SHARD_POST_MLP_NORM_B] = {"post_mlp_norm_b", true, VECTOR},
};

const char *shard_role_name(shard_role role)
{
    return (unsigned)role < SHARD_ROLES ? roles[role].name : "unknown role";
}

bool shard_role_in_layer(shard_role role)
{
    return (unsigned)role < SHARD_ROLES && roles[role].in_layer;
}

bool shard_role_is_vector(shard_role role)
{
    return (unsigned)role < SHARD_ROLES && roles[role].kind == VECTOR;
}

/* The elements of a q or k norm's weight; 0: none. */
static int64_t qk_norm_rows(const shard_arch *a, int64_t heads)
{
    switch (a->qk_norm) {
    case SHARD_QK_NORM_HEAD:
        return a->head_dim;
    case SHARD_QK_NORM_HEAD_LAYER:
    case SHARD_QK_NORM_FULL:
        return heads * a->head_dim;
    case SHARD_QK_NORM_NONE:
        break;
    }
    return 0;
}

/* Rows of a vector role; 0: the family lacks it. */
static int64_t vector_rows(const shard_arch *a, shard_role role)
{
    int64_t hidden = a->hidden, q_rows = (int64_t)a->n_heads * a->head_dim, kv_rows = (int64_t)a->n_kv_heads * a->head_dim;
    bool gated = a->mlp == SHARD_MLP_GATED;
    switch (role) {
    case SHARD_EMBED_NORM:
        return a->embed_norm && a->norm_weight ? hidden : 0;
    case SHARD_EMBED_NORM_B:
        return a->embed_norm && a->norm_bias ? hidden : 0;
    case SHARD_FINAL_NORM:
        return a->norm_weight ? hidden : 0;
    case SHARD_FINAL_NORM_B:
        return a->norm_bias ? hidden : 0;
    case SHARD_HEAD_B:
        return a->head_bias ? a->vocab : 0;
    case SHARD_ATTN_NORM:
        return a->attn_norm && a->norm_weight ? hidden : 0;
    case SHARD_ATTN_NORM_B:
        return a->attn_norm && a->norm_bias ? hidden : 0;
    case SHARD_Q_B:
        return a->q_bias ? q_rows : 0;
    case SHARD_K_B:
        return a->k_bias ? kv_rows : 0;
    case SHARD_V_B:
        return a->v_bias ? kv_rows : 0;
    case SHARD_O_B:
        return a->o_bias ? hidden : 0;
    case SHARD_Q_NORM:
        return qk_norm_rows(a, a->n_heads);
    case SHARD_K_NORM:
        return qk_norm_rows(a, a->n_kv_heads);
    case SHARD_SINKS:
        return a->attention_sinks ? a->n_heads : 0;
    case SHARD_POST_ATTN_NORM:
        return a->post_attn_norm && a->norm_weight ? hidden : 0;
    case SHARD_POST_ATTN_NORM_B:
        return a->post_attn_norm && a->norm_bias ? hidden : 0;
    case SHARD_MLP_NORM:
        return a->mlp_norm && a->norm_weight ? hidden : 0;
    case SHARD_MLP_NORM_B:
        return a->mlp_norm && a->norm_bias ? hidden : 0;
    case SHARD_GATE_B:
        return gated && a->mlp_bias ? a->intermediate : 0;
    case SHARD_UP_B:
        return a->mlp_bias ? a->intermediate : 0;
    case SHARD_DOWN_B:
        return a->mlp_bias ? hidden : 0;
    case SHARD_POST_MLP_NORM:
        return a->post_mlp_norm && a->norm_weight ? hidden : 0;
    case SHARD_POST_MLP_NORM_B:
        return a->post_mlp_norm && a->norm_bias ? hidden : 0;
    default:
        return 0;
    }
}

static bool matrix_shape(const shard_arch *a, shard_role role, int64_t *rows, int64_t *cols)
{
    int64_t q_rows = (int64_t)a->n_heads * a->head_dim, kv_rows = (int64_t)a->n_kv_heads * a->head_dim;
    *cols = a->hidden;
    switch (role) {
    case SHARD_TOKEN_EMBED:
    case SHARD_HEAD:
        *rows = a->vocab;
        return true;
    case SHARD_POS_EMBED:
        *rows = (int64_t)a->max_positions + a->position_offset;
        return a->learned_positions;
    case SHARD_Q:
        *rows = q_rows;
        return true;
    case SHARD_K:
    case SHARD_V:
        *rows = kv_rows;
        return true;
    case SHARD_O:
        *rows = a->hidden;
        *cols = q_rows;
        return true;
    case SHARD_GATE:
        *rows = a->intermediate;
        return a->mlp == SHARD_MLP_GATED;
    case SHARD_UP:
        *rows = a->intermediate;
        return true;
    case SHARD_DOWN:
        *rows = a->hidden;
        *cols = a->intermediate;
        return true;
    default:
        return false;
    }
}

bool shard_role_shape(const shard_arch *arch, shard_role role, int64_t *rows, int64_t *cols)
{
    if ((unsigned)role >= SHARD_ROLES)
        return false;
    if (roles[role].kind == MATRIX)
        return matrix_shape(arch, role, rows, cols);
    *rows = vector_rows(arch, role);
    *cols = 1;
    return *rows > 0;
}

float shard_arch_alibi_slope(const shard_arch *arch, int32_t head)
{
    if (!arch->alibi)
        return 0;
    /* A geometric series over the largest power of two of heads; further heads take every other term of the series of twice as many. */
    int32_t power = 1;
    while (power * 2 <= arch->n_heads)
        power *= 2;
    double exponent = head < power ? -8.0 * (head + 1) / power : -4.0 * (2 * (head - power) + 1) / power;
    float slope = (float)exp2(exponent);
    if (arch->alibi_bf16)
        slope = half_bf16_to_f32(half_f32_to_bf16(slope));
    return slope * arch->alibi_multiplier;
}
