/* worker/worker.c - life of a worker, and a step from message to result. */
#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "worker/worker_internal.h"

/* ---- the KV cache ---- */

static ops_kv_type kv_type_of(shard_kv_type t)
{
    switch (t) {
    case SHARD_KV_F32:
        return OPS_KV_F32;
    case SHARD_KV_F16:
        return OPS_KV_F16;
    case SHARD_KV_BF16:
        return OPS_KV_BF16;
    case SHARD_KV_F8:
        return OPS_KV_F8;
    case SHARD_KV_Q8:
        break;
    }
    return OPS_KV_Q8;
}

static status kv_create(worker *w)
{
    const shard_rank_plan *r = w->rank;
    int32_t n_layers[STEP_MAX_KV_GROUPS] = {0};
    TRY(mem_calloc((size_t)(r->layer_end - r->layer_begin), sizeof(int32_t), "layers", &w->kv_layer));
    for (int32_t l = r->layer_begin; l < r->layer_end; l++)
        w->kv_layer[l - r->layer_begin] = n_layers[w->arch->layers[l].kv_group]++;
    for (int g = 0; g < w->arch->n_kv_groups; g++) {
        if (n_layers[g] == 0)
            continue;
        ops_kv_spec spec = {
            .type = kv_type_of(w->opt.kv_type),
            .n_layers = n_layers[g],
            .n_kv_heads = (int32_t)(r->kv_heads.end - r->kv_heads.begin),
            .head_dim = w->arch->head_dim,
            .n_blocks = w->opt.kv_blocks[g],
        };
        TRY(w->ops->kv_create(w->ctx, &spec, &w->kv[g]));
        w->memory.kv_bytes += w->ops->kv_block_bytes(&spec) * (size_t)spec.n_blocks;
    }
    return ST_OK;
}

/* ---- buffers ---- */

static int64_t width(shard_slice s)
{
    return s.end - s.begin;
}

/* Stages hand x on through the host's memory: where the device's has no address there, a copy of it. */
static status handed_create(worker *w)
{
    if (w->opt.plan->pp == 1 || w->ops->buf_map(w->ctx, w->scratch) != NULL)
        return ST_OK;
    w->handed_bytes = w->x[0].stride * (size_t)w->opt.max_batched_tokens;
    for (int i = 0; i < 2; i++) {
        void *p;
        TRY(mem_huge_alloc(w->handed_bytes, "the residual stream between stages", &p));
        w->handed[i] = p;
    }
    return ST_OK;
}

static status buffers_create(worker *w)
{
    shard_buffers b;
    ops_mat *const mats[SHARD_BUFFERS] = {
        [SHARD_BUFFER_X0] = &w->x[0], [SHARD_BUFFER_X1] = &w->x[1], [SHARD_BUFFER_H0] = &w->h[0], [SHARD_BUFFER_H1] = &w->h[1],
        [SHARD_BUFFER_Q] = &w->q, [SHARD_BUFFER_K] = &w->k, [SHARD_BUFFER_V] = &w->v, [SHARD_BUFFER_ATT] = &w->att,
        [SHARD_BUFFER_GATE] = &w->gate, [SHARD_BUFFER_UP] = &w->up, [SHARD_BUFFER_ACT] = &w->act,
        [SHARD_BUFFER_Y] = &w->y, [SHARD_BUFFER_LOGITS] = &w->logits, [SHARD_BUFFER_ADJUSTED] = &w->adjusted,
    };
    shard_plan_buffers(w->arch, w->rank, w->opt.plan->pp, w->opt.max_seqs, w->opt.max_batched_tokens, &b);
    TRY(w->ops->buf_create(w->ctx, b.bytes, "step buffers", &w->scratch));
    for (int i = 0; i < SHARD_BUFFERS; i++)
        *mats[i] = (ops_mat){w->scratch, b.offset[i], OPS_F32, b.cols[i], ops_row_bytes(OPS_F32, b.cols[i])};
    if (w->opt.plan->pp == 1)
        w->x[1] = w->x[0];
    w->own_y = w->y;
    w->logits_rows = b.rows[SHARD_BUFFER_LOGITS];
    if (w->arch->qk_norm == SHARD_QK_NORM_FULL)
        TRY(mem_calloc((size_t)w->opt.max_batched_tokens * 2, sizeof(float), "step buffers", &w->sumsq));
    w->memory.scratch_bytes = b.bytes;
    return handed_create(w);
}

static status batch_create(worker *w)
{
    const shard_arch *a = w->arch;
    ops_batch_limits limits = {
        .max_rows = w->opt.max_batched_tokens,
        .max_spans = w->opt.max_seqs,
        .max_out = w->opt.max_batched_tokens,
        .max_context = w->opt.max_context,
        .n_kv_groups = a->n_kv_groups,
        .n_ropes = a->n_ropes,
    };
    int64_t blocks = (int64_t)w->opt.max_seqs * ((w->opt.max_context + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK);
    limits.max_blocks = (int32_t)(blocks > INT32_MAX ? INT32_MAX : blocks);
    for (int32_t i = 0; i < a->n_ropes; i++) {
        const shard_rope *p = &a->ropes[i];
        limits.ropes[i] = (ops_rope_spec){p->dims, p->interleaved, p->n_sets, {p->inv_freq[0], p->inv_freq[1]},
                                          {p->attention_factor[0], p->attention_factor[1]}};
    }
    TRY(w->ops->batch_create(w->ctx, &limits, &w->batch));
    /* QK_NORM_FULL sums through the host's memory in the middle of a block. */
    if (w->opt.plan->tp == 1 || w->ops->collectives == NULL || a->qk_norm == SHARD_QK_NORM_FULL || w->opt.overlap_rows < 1 || w->opt.overlap_rows > w->opt.max_batched_tokens)
        return ST_OK;
    limits.max_rows = (w->opt.max_batched_tokens + 1) / 2;
    limits.max_out = limits.max_rows;
    return w->ops->batch_create(w->ctx, &limits, &w->batch_more);
}

/* Slopes of ALiBi (arXiv:2108.12409) of this rank's heads. */
static status slopes_create(worker *w)
{
    if (!w->arch->alibi)
        return ST_OK;
    int32_t own = (int32_t)width(w->rank->heads);
    float *slopes;
    TRY(mem_calloc((size_t)own, sizeof(float), "ALiBi slopes", &slopes));
    for (int32_t i = 0; i < own; i++)
        slopes[i] = shard_arch_alibi_slope(w->arch, (int32_t)w->rank->heads.begin + i);
    ops_buf *buf;
    status st = w->ops->buf_create(w->ctx, (size_t)own * sizeof(float), "ALiBi slopes", &buf);
    if (st == ST_OK) {
        w->slopes = (ops_vec){buf, 0, own};
        st = w->ops->buf_write(w->ctx, buf, 0, slopes, (size_t)own * sizeof(float));
    }
    free(slopes);
    return st;
}

/* Two halves and two exchanges for each layer, in up to two pieces, and what lies around them. */
static status events_create(worker *w)
{
    size_t layers = (size_t)(w->rank->layer_end - w->rank->layer_begin);
    if (w->opt.trace_steps == 0)
        return ST_OK;
    w->cap_events = (size_t)w->opt.trace_steps * (8 * layers + 64);
    return mem_calloc(w->cap_events, sizeof(*w->events), "the trace of steps", &w->events);
}

/* ---- life ---- */

status worker_create(const worker_options *o, worker **out)
{
    status st;
    worker *w;
    TRY(mem_calloc(1, sizeof(*w), "worker", &w));
    w->opt = *o;
    w->arch = shard_checkpoint_arch(o->checkpoint);
    w->rank = &o->plan->ranks[comm_world_rank(o->world)];
    w->types = shard_checkpoint_types(o->checkpoint, o->f32);
    w->ops = o->ops;
    w->first_stage = w->rank->stage == 0;
    w->last_stage = w->rank->stage == o->plan->pp - 1;
    int64_t cols = w->arch->hidden;
    cols = width(w->rank->o_cols) > cols ? width(w->rank->o_cols) : cols;
    cols = width(w->rank->down_cols) > cols ? width(w->rank->down_cols) : cols;
    w->opt.ctx.max_rows = o->max_batched_tokens;
    w->opt.ctx.max_cols = (int32_t)cols;
    TRY_GOTO(w->ops->ctx_create(&w->opt.ctx, &w->ctx), err);
    TRY_GOTO(worker_weights_load(w), err);
    TRY_GOTO(kv_create(w), err);
    TRY_GOTO(buffers_create(w), err);
    TRY_GOTO(slopes_create(w), err);
    TRY_GOTO(batch_create(w), err);
    TRY_GOTO(worker_seqs_create(w), err);
    TRY_GOTO(events_create(w), err);
    if (w->last_stage)
        TRY_GOTO(worker_sample_create(w), err);
    if (w->last_stage && o->grammars) {
        status_mute(); /* without a tokenizer for them, requests with grammars are refused before they come here */
        (void)worker_grammars_prepare(w);
        status_unmute();
    }
    *out = w;
    return ST_OK;
err:
    worker_destroy(&w);
    return st;
}

status worker_join(worker *w)
{
    int32_t tp = w->opt.plan->tp, first = w->rank->rank - w->rank->tp_index;
    int *ranks;
    TRY(mem_calloc((size_t)tp, sizeof(int), "ranks", &ranks));
    for (int32_t i = 0; i < tp; i++)
        ranks[i] = first + i;
    size_t bytes = ops_row_bytes(OPS_F32, w->arch->hidden) * (size_t)w->opt.max_batched_tokens;
    status st = comm_group_create_common(w->opt.world, ranks, tp, bytes, worker_common_bytes(w), w->opt.timeout_ms, &w->group);
    free(ranks);
    TRY(st);
    TRY(worker_exchange_create(w));
    TRY(worker_stages_create(w));
    return worker_reserve(w);
}

void worker_destroy(worker **worker_)
{
    worker *w = *worker_;
    if (w == NULL)
        return;
    for (int i = 0; i < 2; i++) {
        if (w->sent[i] != NULL) /* its buffer is about to go */
            (void)comm_wait(w->opt.world, &w->sent[i], 1000, NULL);
    }
    worker_sample_destroy(w);
    worker_seqs_destroy(w);
    worker_grammars_destroy(w);
    if (w->ctx != NULL) {
        ops_batch **const batches[] = {&w->batch, &w->batch_more};
        for (size_t i = 0; i < ARRAY_LEN(batches); i++) {
            if (*batches[i] != NULL)
                w->ops->batch_destroy(w->ctx, batches[i]);
        }
        for (int g = 0; g < STEP_MAX_KV_GROUPS; g++) {
            if (w->kv[g] != NULL)
                w->ops->kv_destroy(w->ctx, &w->kv[g]);
        }
        ops_buf *bufs[] = {w->weight_buf, w->scratch, w->slopes.buf};
        for (size_t i = 0; i < ARRAY_LEN(bufs); i++) {
            if (bufs[i] != NULL)
                w->ops->buf_destroy(w->ctx, &bufs[i]);
        }
    }
    worker_exchange_destroy(w);
    if (w->ctx != NULL)
        w->ops->ctx_destroy(&w->ctx);
    for (int i = 0; i < 2; i++) {
        if (w->handed[i] != NULL)
            mem_huge_free(w->handed[i], w->handed_bytes);
    }
    free(w->events);
    free(w->layers);
    free(w->mlp_out_bias);
    free(w->kv_layer);
    free(w->sumsq);
    free(w);
    *worker_ = NULL;
}

/* ---- a step ---- */

void worker_mark(worker *w, worker_operation o)
{
    if (w->opt.phase_times && w->ops->time_mark != NULL)
        w->ops->time_mark(w->ctx, o == WORKER_IDLE ? -1 : (int32_t)o);
}

void worker_note(worker *w, worker_operation o)
{
    w->operation = o;
    worker_mark(w, o);
    uint64_t note = w->step_number << 24 | (uint64_t)o << 16 | (uint64_t)(w->layer & 0xffff);
    comm_note(w->opt.world, note);
    if (w->tracing && w->n_events < w->cap_events)
        w->events[w->n_events++] = (worker_event){log_clock(), note};
}

size_t worker_events(const worker *w, const worker_event **out)
{
    *out = w->events;
    return w->n_events;
}

worker_activity worker_activity_of(uint64_t note)
{
    return (worker_activity){note >> 24, (worker_operation)(note >> 16 & 0xff), (int32_t)(note & 0xffff)};
}

const char *worker_operation_text(worker_operation o)
{
    static const char *const texts[] = {
        [WORKER_IDLE] = "waiting for a step", [WORKER_BATCH] = "preparing the batch", [WORKER_EMBED] = "embedding", [WORKER_ATTENTION] = "attention",
        [WORKER_MLP] = "MLP", [WORKER_HEAD] = "output head", [WORKER_SAMPLE] = "sampling",
        [WORKER_EXCHANGE] = "waiting for the other ranks of its stage", [WORKER_STAGE] = "waiting for another stage"};
    return (size_t)o < ARRAY_LEN(texts) ? texts[o] : "?";
}

status worker_step(worker *w, const step *s, const step_result **result)
{
    *result = NULL;
    double started = log_clock();
    w->step_number = s->number;
    w->layer = w->rank->layer_begin;
    w->tracing = s->number - w->opt.trace_first < w->opt.trace_steps;
    worker_note(w, WORKER_BATCH);
    TRY(worker_seqs_apply(w, s));
    w->lent = s->lent;
    if (!w->lent || w->first_stage) /* else when the stage before has given the cores back */
        w->ops->step_begin(w->ctx, w->lent);
    status st = worker_forward(w, s->number);
    if (st == ST_OK && w->last_stage)
        st = worker_sample(w, s->number);
    if (st == ST_OK && w->last_stage)
        st = worker_pool(w);
    w->ops->step_end(w->ctx);
    TRY(st);
    TRY(worker_exchange_check(w));
    worker_note(w, WORKER_IDLE);
    w->times.steps++;
    w->times.tokens += (uint64_t)w->n_rows;
    w->times.step_seconds += log_clock() - started;
    if (w->last_stage && w->rank->tp_index == 0)
        *result = &w->result;
    return ST_OK;
}

void worker_step_limits(const worker *w, step_limits *out)
{
    int64_t blocks = 0;
    for (int g = 0; g < w->arch->n_kv_groups; g++)
        blocks = w->opt.kv_blocks[g] > blocks ? w->opt.kv_blocks[g] : blocks;
    *out = (step_limits){
        .max_seqs = w->opt.max_seqs,
        .max_tokens = w->opt.max_batched_tokens,
        .max_blocks = (int32_t)(blocks > INT32_MAX ? INT32_MAX : blocks),
        .max_blocks_per_span = (w->opt.max_context + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK,
        .max_bias = w->arch->vocab,
        .max_prefix = w->opt.max_context,
        .vocab = w->arch->vocab,
        .n_kv_groups = w->arch->n_kv_groups,
    };
}

void worker_memory_get(const worker *w, worker_memory *out)
{
    *out = w->memory;
}

const char *worker_numerics(const worker *w)
{
    return w->ops->numerics(w->ctx);
}

const char *worker_backend(const worker *w)
{
    return w->ops->ctx_describe(w->ctx);
}

/* The phases as the device's own times. */
static void device_times(const worker *w, worker_times *out)
{
    double t[OPS_TIMES];
    if (!w->opt.phase_times || w->ops->time_read == NULL || w->ops->time_read(w->ctx, t) != ST_OK)
        return;
    out->embed_seconds = t[WORKER_EMBED];
    out->attention_seconds = t[WORKER_ATTENTION];
    out->mlp_seconds = t[WORKER_MLP];
    out->head_seconds = t[WORKER_HEAD] + t[WORKER_SAMPLE];
    out->exchange_seconds = t[WORKER_EXCHANGE];
    out->stage_wait_seconds = t[WORKER_STAGE];
}

void worker_times_get(const worker *w, worker_times *out)
{
    *out = w->times;
    device_times(w, out);
    if (w->group != NULL) {
        comm_stats g;
        comm_group_stats(w->group, &g);
        out->skew_seconds = g.wait_seconds;
    }
}
