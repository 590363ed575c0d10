/* shard/plan/slice.c - what a rank keeps of each role, and the bytes of that. */
#include <string.h>

#include "base/mem.h"
#include "shard/plan/plan_internal.h"

static const char *const kv_names[] = {[SHARD_KV_F32] = "f32", [SHARD_KV_F16] = "f16", [SHARD_KV_BF16] = "bf16", [SHARD_KV_Q8] = "q8", [SHARD_KV_F8] = "fp8"};

bool shard_kv_type_parse(const char *name, shard_kv_type *out)
{
    if (strcmp(name, "fp8_e4m3") == 0) /* as vLLM spells it */
        name = kv_names[SHARD_KV_F8];
    for (size_t i = 0; i < ARRAY_LEN(kv_names); i++) {
        if (strcmp(kv_names[i], name) == 0) {
            *out = (shard_kv_type)i;
            return true;
        }
    }
    return false;
}

const char *shard_kv_type_name(shard_kv_type type)
{
    return (unsigned)type < ARRAY_LEN(kv_names) ? kv_names[type] : "unknown";
}

size_t kv_element_bytes(shard_kv_type type)
{
    return type == SHARD_KV_F32 ? 4 : type == SHARD_KV_Q8 || type == SHARD_KV_F8 ? 1 : 2;
}

/* As the backends lay blocks out (ops.h): head_dim padded to 16; q8 has an f16 scale for each token and 32 dimensions. */
size_t shard_plan_kv_block_bytes(const shard_arch *arch, const shard_rank_plan *rank, shard_kv_type type)
{
    size_t e = mem_align((size_t)arch->head_dim, 16), one = SHARD_KV_BLOCK * e * kv_element_bytes(type);
    if (type == SHARD_KV_Q8)
        one += mem_align(2 * SHARD_KV_BLOCK * ((e + 31) / 32), 64);
    return 2 * one * (size_t)slice_width(rank->kv_heads);
}

packed_type shard_plan_type(const shard_arch *arch, const shard_types *types, shard_role role, int32_t layer)
{
    if (role == SHARD_HEAD && arch->tied_embeddings)
        role = SHARD_TOKEN_EMBED;
    if (types->of == NULL)
        return types->dflt;
    size_t l = shard_role_in_layer(role) ? (size_t)layer : 0;
    return (packed_type)types->of[l * SHARD_ROLES + (size_t)role];
}

int32_t role_group(const shard_arch *arch, const shard_types *types, shard_role role)
{
    int32_t group = 1;
    for (int32_t l = 0; l < arch->n_layers; l++) {
        int32_t g = packed_format_of(shard_plan_type(arch, types, role, l))->group;
        group = g > group ? g : group;
        if (types->of == NULL)
            break;
    }
    return group;
}

shard_slice slice_widen(int64_t begin, int64_t end, int64_t group, int64_t cols)
{
    if (begin >= end)
        return (shard_slice){begin, begin};
    int64_t e = (end + group - 1) / group * group;
    return (shard_slice){begin / group * group, e < cols ? e : cols};
}

shard_slice kv_heads_of(const shard_arch *arch, shard_slice heads)
{
    int64_t per = arch->n_heads / arch->n_kv_heads;
    return (shard_slice){heads.begin / per, (heads.end + per - 1) / per};
}

bool shard_plan_head_is_embedding(const shard_arch *arch, const shard_rank_plan *r)
{
    return arch->tied_embeddings && r->has_embed && r->has_head && r->embed_rows.begin == r->head_rows.begin &&
           r->embed_rows.end == r->head_rows.end;
}

static shard_slice times(shard_slice s, int64_t n)
{
    return (shard_slice){s.begin * n, s.end * n};
}

/* Rows of a role on a rank; the whole of `all` where it is not split. */
static shard_slice role_rows(const shard_arch *a, const shard_rank_plan *r, shard_role role, int64_t rows)
{
    shard_slice all = {0, rows}, none = {0, 0};
    switch (role) {
    case SHARD_TOKEN_EMBED:
        return r->has_embed ? r->embed_rows : none;
    case SHARD_POS_EMBED:
        return r->has_embed && r->tp_index == 0 ? all : none;
    case SHARD_EMBED_NORM:
    case SHARD_EMBED_NORM_B:
        return r->has_embed ? all : none;
    case SHARD_FINAL_NORM:
    case SHARD_FINAL_NORM_B:
        return r->has_head ? all : none;
    case SHARD_HEAD:
    case SHARD_HEAD_B:
        return r->has_head ? r->head_rows : none;
    case SHARD_Q:
    case SHARD_Q_B:
        return times(r->heads, a->head_dim);
    case SHARD_K:
    case SHARD_K_B:
    case SHARD_V:
    case SHARD_V_B:
        return times(r->kv_heads, a->head_dim);
    case SHARD_Q_NORM:
        return a->qk_norm == SHARD_QK_NORM_HEAD ? all : times(r->heads, a->head_dim);
    case SHARD_K_NORM:
        return a->qk_norm == SHARD_QK_NORM_HEAD ? all : times(r->kv_heads, a->head_dim);
    case SHARD_SINKS:
        return r->heads;
    case SHARD_GATE:
    case SHARD_GATE_B:
    case SHARD_UP:
    case SHARD_UP_B:
        return r->channels;
    default: /* norms, and the biases that follow a sum */
        return all;
    }
}

bool shard_plan_slice(const shard_arch *arch, const shard_rank_plan *rank, shard_role role, int32_t layer, shard_slice *rows,
                      shard_slice *cols)
{
    int64_t n_rows, n_cols;
    if (!shard_role_shape(arch, role, &n_rows, &n_cols))
        return false;
    if (shard_role_in_layer(role) && (layer < rank->layer_begin || layer >= rank->layer_end))
        return false;
    *rows = role_rows(arch, rank, role, n_rows);
    *cols = (shard_slice){0, n_cols};
    if (role == SHARD_O)
        *cols = rank->o_cols;
    else if (role == SHARD_DOWN)
        *cols = rank->down_cols;
    return slice_width(*rows) > 0 && slice_width(*cols) > 0;
}

bool shard_plan_packed(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types, shard_role role, int32_t layer,
                       packed_shape *out)
{
    shard_slice rows, cols;
    if (shard_role_is_vector(role) || !shard_plan_slice(arch, rank, role, layer, &rows, &cols))
        return false;
    packed_type type = shard_plan_type(arch, types, role, layer);
    *out = (packed_shape){.type = type, .rows = (int32_t)slice_width(rows), .cols = (int32_t)slice_width(cols)};
    const packed_format *f = packed_format_of(type);
    if (packed_has_super(f))
        out->phase = (int32_t)(cols.begin % f->super);
    return true;
}

static size_t role_bytes(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types, shard_role role, int32_t layer)
{
    shard_slice rows, cols;
    packed_shape shape;
    if (role == SHARD_HEAD && shard_plan_head_is_embedding(arch, rank))
        return 0;
    if (shard_role_is_vector(role))
        return shard_plan_slice(arch, rank, role, layer, &rows, &cols) ? mem_align((size_t)slice_width(rows) * sizeof(float), 64) : 0;
    return shard_plan_packed(arch, rank, types, role, layer, &shape) ? mem_align(packed_bytes(shape), 64) : 0;
}

size_t rank_layer_bytes(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types, int32_t layer)
{
    size_t bytes = 0;
    for (int role = 0; role < SHARD_ROLES; role++)
        bytes += shard_role_in_layer(role) ? role_bytes(arch, rank, types, role, layer) : 0;
    return bytes;
}

size_t rank_outside_bytes(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types)
{
    size_t bytes = 0;
    for (int role = 0; role < SHARD_ROLES; role++)
        bytes += shard_role_in_layer(role) ? 0 : role_bytes(arch, rank, types, role, 0);
    return bytes;
}

size_t rank_weight_bytes(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types)
{
    size_t bytes = rank_outside_bytes(arch, rank, types);
    for (int32_t l = rank->layer_begin; l < rank->layer_end; l++)
        bytes += rank_layer_bytes(arch, rank, types, l);
    return bytes;
}

/* ---- scratch ---- */

static void buffer_add(shard_buffers *s, shard_buffer b, int32_t rows, int64_t cols)
{
    s->rows[b] = rows;
    s->cols[b] = (int32_t)cols;
    s->offset[b] = s->bytes;
    s->bytes += mem_align((size_t)cols * sizeof(float), 64) * (size_t)rows;
}

void shard_plan_buffers(const shard_arch *a, const shard_rank_plan *r, int32_t pp, int32_t max_seqs, int32_t rows, shard_buffers *out)
{
    shard_buffers s = {0};
    int32_t logits = max_seqs > SHARD_LOGITS_ROWS ? max_seqs : SHARD_LOGITS_ROWS;
    logits = logits > rows ? rows : logits;
    int32_t last = r->stage == pp - 1;
    buffer_add(&s, SHARD_BUFFER_X0, rows, a->hidden);
    buffer_add(&s, SHARD_BUFFER_X1, pp > 1 ? rows : 0, a->hidden);
    buffer_add(&s, SHARD_BUFFER_H0, rows, a->hidden);
    buffer_add(&s, SHARD_BUFFER_H1, rows, a->hidden);
    buffer_add(&s, SHARD_BUFFER_Q, rows, slice_width(r->heads) * a->head_dim);
    buffer_add(&s, SHARD_BUFFER_K, rows, slice_width(r->kv_heads) * a->head_dim);
    buffer_add(&s, SHARD_BUFFER_V, rows, slice_width(r->kv_heads) * a->head_dim);
    buffer_add(&s, SHARD_BUFFER_ATT, rows, slice_width(r->o_cols));
    buffer_add(&s, SHARD_BUFFER_GATE, a->mlp == SHARD_MLP_GATED ? rows : 0, slice_width(r->channels));
    buffer_add(&s, SHARD_BUFFER_UP, rows, slice_width(r->channels));
    buffer_add(&s, SHARD_BUFFER_ACT, rows, slice_width(r->down_cols));
    buffer_add(&s, SHARD_BUFFER_Y, last ? rows : 0, a->hidden);
    buffer_add(&s, SHARD_BUFFER_LOGITS, last ? logits : 0, slice_width(r->head_rows));
    buffer_add(&s, SHARD_BUFFER_ADJUSTED, last ? logits : 0, slice_width(r->head_rows));
    *out = s;
}
