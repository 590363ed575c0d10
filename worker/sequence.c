/* worker/sequence.c - what a rank remembers of each sequence, and how a step changes it.
 *
 * Steps carry changes only.  A slot holds one sequence from its admission to its retirement; every stage keeps block tables
 * and lengths, the last stage also what sampling needs.  Anything that does not fit what went before is our own bug or a lost step, and
 * fatal: the coordinator's and the ranks' ideas of the cache must never drift apart. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "shard/arch.h"
#include "worker/worker_internal.h"

status worker_seqs_create(worker *w)
{
    const worker_options *o = &w->opt;
    size_t rows = (size_t)o->max_batched_tokens, seqs = (size_t)o->max_seqs;
    TRY(mem_calloc(seqs, sizeof(*w->seqs), "sequences", &w->seqs));
    TRY(mem_calloc(seqs, sizeof(*w->spans), "sequences", &w->spans));
    if (w->batch_more != NULL)
        TRY(mem_calloc(seqs, sizeof(*w->spans), "sequences", &w->spans_more));
    TRY(mem_calloc(rows, sizeof(*w->tokens), "step", &w->tokens));
    TRY(mem_calloc(rows, sizeof(*w->out_rows), "step", &w->out_rows));
    TRY(mem_calloc(rows, sizeof(*w->outs), "step", &w->outs));
    for (int g = 0; g < w->arch->n_kv_groups; g++) {
        w->table_cap[g] = (o->max_context + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK;
        TRY(mem_calloc(seqs * (size_t)w->table_cap[g], sizeof(int32_t), "block tables", &w->tables[g]));
        for (size_t i = 0; i < seqs; i++)
            TRY(mem_calloc((size_t)w->table_cap[g], sizeof(int32_t), "block tables", &w->seqs[i].table[g]));
    }
    return ST_OK;
}

void worker_seqs_destroy(worker *w)
{
    for (int32_t i = 0; w->seqs != NULL && i < w->opt.max_seqs; i++) {
        for (int g = 0; g < STEP_MAX_KV_GROUPS; g++)
            free(w->seqs[i].table[g]);
        for (int r = 0; r < OPS_MAX_ROPES; r++)
            free(w->seqs[i].inv_freq[r]);
        worker_constrain_free(&w->seqs[i]);
        free(w->seqs[i].pool);
        free(w->seqs[i].counts);
        free(w->seqs[i].count_of);
    }
    for (int g = 0; g < STEP_MAX_KV_GROUPS; g++)
        free(w->tables[g]);
    free(w->seqs);
    free(w->spans);
    free(w->spans_more);
    free(w->tokens);
    free(w->out_rows);
    free(w->outs);
}

static status count(worker *w, worker_seq *q, int32_t token, bool in_prompt)
{
    if (!step_penalised(&q->sampling))
        return ST_OK;
    if (q->count_of == NULL)
        TRY(mem_calloc((size_t)w->arch->vocab, sizeof(int32_t), "token counts", &q->count_of));
    int32_t *at = &q->count_of[token];
    if (*at == 0) {
        if (q->n_counts == q->cap_counts) {
            int32_t cap = q->cap_counts == 0 ? 256 : q->cap_counts * 2;
            ops_token_count *p = realloc(q->counts, (size_t)cap * sizeof(*p));
            if (p == NULL)
                return FAIL(ST_NO_MEMORY, "no memory for the counts of %d tokens", cap);
            q->counts = p;
            q->cap_counts = cap;
        }
        q->counts[q->n_counts++] = (ops_token_count){.token = token};
        *at = q->n_counts;
    }
    ops_token_count *c = &q->counts[*at - 1];
    c->in_prompt |= in_prompt;
    c->generated += !in_prompt;
    return ST_OK;
}

status worker_seq_saw(worker *w, worker_seq *q, int32_t token, bool in_prompt)
{
    if (!in_prompt)
        TRY(worker_constrain_saw(q, token));
    return count(w, q, token, in_prompt);
}

static void seq_retire(worker_seq *q)
{
    for (int32_t i = 0; i < q->n_counts; i++)
        q->count_of[q->counts[i].token] = 0;
    q->n_counts = 0;
    q->live = false;
    worker_constrain_retire(q);
    for (int r = 0; r < OPS_MAX_ROPES; r++) {
        free(q->inv_freq[r]);
        q->inv_freq[r] = NULL;
    }
}

/* Dynamic scaling: the frequencies follow the prompt's length. */
static status seq_ropes(worker *w, worker_seq *q)
{
    for (int32_t r = 0; r < w->arch->n_ropes; r++) {
        const shard_rope *rope = &w->arch->ropes[r];
        if (rope->scaling != SHARD_ROPE_DYNAMIC || q->rope_set <= 1)
            continue;
        TRY(mem_calloc((size_t)rope->dims / 2, sizeof(float), "rope frequencies", &q->inv_freq[r]));
        shard_rope_frequencies(rope, q->rope_set, q->inv_freq[r]);
    }
    return ST_OK;
}

/* The tokens that the prefix cache spares this sequence count as if they had been computed. */
static status seq_prefix(worker *w, worker_seq *q, const step_admit *a)
{
    int32_t n = step_prefix_told(a), first = a->n_prefix - n;
    for (int32_t i = 0; w->last_stage && i < n; i++)
        TRY(worker_seq_saw(w, q, a->prefix[i], first + i < a->n_prompt));
    q->n_computed = a->n_prefix;
    return ST_OK;
}

static status seq_admit(worker *w, const step_admit *a)
{
    worker_seq *q = &w->seqs[a->slot];
    if (q->live)
        return FAIL(ST_INTERNAL, "slot %d is admitted twice", a->slot);
    q->live = true;
    q->rope_set = a->rope_set;
    q->n_prompt = a->n_prompt;
    q->n_generated = a->n_generated;
    q->replay_end = a->n_prompt + a->n_generated;
    q->hash = a->hash;
    q->pooling = a->pooling;
    q->normalize = a->normalize;
    q->n_pooled = 0;
    memset(q->n_table, 0, sizeof(q->n_table));
    TRY(seq_ropes(w, q));
    if (w->last_stage)
        TRY(worker_constrain_admit(w, q, &a->sampling));
    return seq_prefix(w, q, a);
}

static status span_blocks(worker *w, worker_seq *q, const step_span *sp)
{
    int32_t need = (sp->position + sp->n_tokens + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK;
    for (int g = 0; g < w->arch->n_kv_groups; g++) {
        if (sp->n_new_blocks[g] > w->table_cap[g] - q->n_table[g] || q->n_table[g] + sp->n_new_blocks[g] < need)
            return FAIL(ST_INTERNAL, "slot %d: %d KV blocks and %d new ones do not hold %d tokens", sp->slot, q->n_table[g],
                        sp->n_new_blocks[g], sp->position + sp->n_tokens);
        memcpy(q->table[g] + q->n_table[g], sp->new_blocks[g], (size_t)sp->n_new_blocks[g] * sizeof(int32_t));
        q->n_table[g] += sp->n_new_blocks[g];
    }
    return ST_OK;
}

static void out_add(worker *w, int32_t row, worker_out out)
{
    w->out_rows[w->n_out] = row;
    w->outs[w->n_out++] = out;
}

static status span_tokens(worker *w, worker_seq *q, const step_span *sp)
{
    for (int32_t i = 0; i < sp->n_tokens; i++) {
        int32_t token = sp->tokens[i], position = sp->position + i, row = w->n_rows++;
        if (token < 0)
            return FAIL(ST_UNSUPPORTED, "slot %d: a token that is known to the last stage only", sp->slot);
        w->tokens[row] = token;
        if (!w->last_stage)
            continue;
        if (position < q->replay_end)
            TRY(worker_seq_saw(w, q, token, position < q->n_prompt));
        bool last = i == sp->n_tokens - 1, ends = last && (sp->flags & STEP_SPAN_SAMPLE) != 0;
        int32_t next = last ? sp->next_token : sp->tokens[i + 1];
        if (q->pooling == STEP_POOL_MEAN || (q->pooling == STEP_POOL_LAST && ends))
            out_add(w, row, (worker_out){.slot = sp->slot, .position = position, .target = -1, .pool = true, .ends = ends});
        else if (ends)
            out_add(w, row, (worker_out){.slot = sp->slot, .position = position, .target = -1});
        else if ((sp->flags & STEP_SPAN_PROMPT_LOGPROBS) && next >= 0 && position + 1 < q->n_prompt)
            out_add(w, row, (worker_out){.slot = sp->slot, .position = position, .target = next});
    }
    return ST_OK;
}

static status span_apply(worker *w, const step_span *sp, ops_span *out)
{
    worker_seq *q = &w->seqs[sp->slot];
    if (!q->live || sp->position != q->n_computed || sp->position + sp->n_tokens > w->opt.max_context)
        return FAIL(ST_INTERNAL, "slot %d: a step computes tokens %d to %d, and %d are there", sp->slot, sp->position,
                    sp->position + sp->n_tokens, q->live ? q->n_computed : -1);
    *out = (ops_span){.row = w->n_rows, .n_rows = sp->n_tokens, .position = sp->position, .rope_set = q->rope_set > 1 ? 1 : q->rope_set};
    for (int r = 0; r < OPS_MAX_ROPES; r++)
        out->inv_freq[r] = q->inv_freq[r];
    TRY(span_blocks(w, q, sp));
    TRY(span_tokens(w, q, sp));
    q->n_computed += sp->n_tokens;
    return ST_OK;
}

/* The step's spans that are pooled, or those that are not, appended to the batch; *n, used: spans and table entries so far. */
static status spans_apply(worker *w, const step *s, bool pooled, int32_t *n, int32_t *used)
{
    for (int32_t i = 0; i < s->n_spans; i++) {
        const worker_seq *q = &w->seqs[s->spans[i].slot];
        if ((q->pooling != STEP_GENERATE) != pooled)
            continue;
        ops_span *out = &w->spans[(*n)++];
        TRY(span_apply(w, &s->spans[i], out));
        for (int g = 0; g < w->arch->n_kv_groups; g++) {
            out->table[g] = used[g];
            memcpy(w->tables[g] + used[g], q->table[g], (size_t)q->n_table[g] * sizeof(int32_t));
            used[g] += q->n_table[g];
        }
    }
    return ST_OK;
}

/* Whether the step is cut: the same on all ranks of a stage.  Steps in which each sequence has one row are recorded and played instead, and short. */
static bool cuts(const worker *w)
{
    return w->batch_more != NULL && comm_group_on_device(w->group) && w->n_rows != w->n_spans && w->n_rows >= 2 && w->n_rows >= w->opt.overlap_rows;
}

/* The spans before row `cut` stay in w->spans, what lies behind goes to w->spans_more; how many there are of each. */
static void spans_cut(worker *w, int32_t cut, int32_t n[2])
{
    n[0] = n[1] = 0;
    for (int32_t i = 0; i < w->n_spans; i++) {
        ops_span first = w->spans[i], more = first;
        int32_t before = cut - first.row < 0 ? 0 : cut - first.row < first.n_rows ? cut - first.row : first.n_rows;
        first.n_rows = before;
        more.row += before - cut;
        more.n_rows -= before;
        more.position += before;
        if (first.n_rows > 0)
            w->spans[n[0]++] = first;
        if (more.n_rows > 0)
            w->spans_more[n[1]++] = more;
    }
}

/* The two pieces of a step, by rows; a span may lie in both. */
static status pieces_set(worker *w, const ops_batch_desc *whole)
{
    int32_t cut = (w->n_rows + 1) / 2, out = 0, n[2];
    spans_cut(w, cut, n);
    while (out < w->n_out && w->out_rows[out] < cut)
        out++;
    for (int32_t i = out; i < w->n_out; i++)
        w->out_rows[i] -= cut;
    w->piece[0] = (worker_piece){.batch = w->batch, .n_rows = cut, .n_out = out};
    w->piece[1] = (worker_piece){.batch = w->batch_more, .row = cut, .n_rows = w->n_rows - cut, .out = out, .n_out = w->n_out - out};
    for (w->n_pieces = 0; w->n_pieces < 2; w->n_pieces++) {
        const worker_piece *p = &w->piece[w->n_pieces];
        ops_batch_desc d = *whole;
        d.n_rows = p->n_rows;
        d.tokens += p->row;
        d.n_spans = n[w->n_pieces];
        d.spans = w->n_pieces == 0 ? w->spans : w->spans_more;
        d.n_out = p->n_out;
        d.out_rows += p->out;
        TRY(w->ops->batch_set(w->ctx, p->batch, &d));
    }
    return ST_OK;
}

status worker_seqs_apply(worker *w, const step *s)
{
    w->n_rows = w->n_out = 0;
    for (int32_t i = 0; i < s->n_retire; i++)
        seq_retire(&w->seqs[s->retire[i]]);
    for (int32_t i = 0; i < s->n_admit; i++)
        TRY(seq_admit(w, &s->admit[i]));
    for (int32_t i = 0; i < s->n_copies; i++) {
        const step_copy *c = &s->copies[i];
        if (w->kv[c->group] != NULL)
            TRY(w->ops->kv_copy_block(w->ctx, w->kv[c->group], c->from, c->to));
    }
    /* Pooled spans come last, on every stage, so that the rows whose logits are wanted lie together. */
    int32_t used[STEP_MAX_KV_GROUPS] = {0}, n_spans = 0;
    TRY(spans_apply(w, s, false, &n_spans, used));
    w->n_sampled = w->n_out;
    TRY(spans_apply(w, s, true, &n_spans, used));
    w->n_spans = n_spans;
    ops_batch_desc d = {.n_rows = w->n_rows, .tokens = w->tokens, .n_spans = n_spans, .spans = w->spans, .n_out = w->n_out, .out_rows = w->out_rows};
    for (int g = 0; g < w->arch->n_kv_groups; g++) {
        d.tables[g] = w->tables[g];
        d.n_table[g] = used[g];
    }
    worker_rows_share(w);
    if (cuts(w))
        return pieces_set(w, &d);
    w->n_pieces = 1;
    w->now = &w->piece[0];
    *w->now = (worker_piece){.batch = w->batch, .n_rows = w->n_rows, .n_out = w->n_out};
    return w->ops->batch_set(w->ctx, w->batch, &d);
}
