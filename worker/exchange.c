/* worker/exchange.c - what a rank gives to others and gets from them: partial sums inside a stage, the residual stream between stages.
 *
 * Ranks of one host that compute on its CPUs share the rows of a step's norms, if there are many (as in sequence parallelism, arXiv:2205.05198): each adds the partial sums of its rows
 * alone, keeps the residual stream of those, and leaves what it made of them where all ranks read it.  That takes one more synchronisation a norm.
 *
 * On devices that can (comm/device.h) both are queued on the context's stream, the sums of a step in two pieces on one of their own, and the host waits for nothing; else both go
 * through the host's memory. */
#include "base/log.h"
#include "worker/worker_internal.h"

enum {
    TAG_RESIDUAL = 1,
    COMMON_MATS = 4,       /* a norm's output in two formats, and the final norm's, which others may still read when the next step's first norm begins */
    LEAST_SHARED = 8,      /* rows of a step: the norms of fewer cost each rank no more than another synchronisation */
};

/* ---- coming together ---- */

static status device_spec(const worker *w, size_t exchange_bytes, comm_device_spec *out)
{
    *out = (comm_device_spec){.ops = w->ops->collectives, .device = w->opt.ctx.device, .stream = w->ops->stream(w->ctx), .exchange_bytes = exchange_bytes,
                              .choice = comm_choice_default(w->opt.plan->tp)};
    return w->opt.collectives != NULL ? comm_choice_parse(w->opt.collectives, &out->choice) : ST_OK;
}

static size_t slot_bytes(const worker *w)
{
    return ops_row_bytes(OPS_F32, w->arch->hidden) * (size_t)w->opt.max_batched_tokens;
}

/* The ranks' slots where the devices see them; ST_UNSUPPORTED: they do not. */
static status slots_on_devices(worker *w)
{
    void *base;
    size_t bytes;
    comm_device_spec spec;
    TRY(device_spec(w, slot_bytes(w), &spec));
    TRY(comm_group_device(w->group, &spec));
    for (int i = 0; i < COMM_DEVICE_MAX && comm_exchange_piece(w->group, i, &base, &bytes); i++) {
        TRY(w->ops->buf_wrap(w->ctx, base, bytes, i == 0 ? &w->exchange : &w->peers[i]));
        w->exchange_base = i == 0 ? base : w->exchange_base;
    }
    if (w->rank->tp_index == 0)
        log_info("stage %d: sums between its %d devices: %s", w->rank->stage, w->opt.plan->tp, comm_group_device_describe(w->group));
    return ST_OK;
}

static status slots_on_host(worker *w)
{
    void *base;
    size_t bytes;
    comm_exchange_memory(w->group, &base, &bytes);
    w->exchange_base = base;
    TRY(w->ops->buf_wrap(w->ctx, base, bytes, &w->exchange));
    char *common = comm_group_common(w->group);
    ops_mat *const mats[COMMON_MATS] = {&w->common_h[0], &w->common_h[1], &w->common_y[0], &w->common_y[1]};
    for (size_t i = 0; common != NULL && i < COMMON_MATS; i++)
        *mats[i] = (ops_mat){w->exchange, (size_t)(common - w->exchange_base) + i * slot_bytes(w), OPS_F32, w->arch->hidden, ops_row_bytes(OPS_F32, w->arch->hidden)};
    return ST_OK;
}

/* All stages or none, because each rank hands its rows on to one that has the same. */
static bool stages_on_one_host_each(const worker *w)
{
    int32_t tp = w->opt.plan->tp;
    for (int32_t i = 0; i < w->opt.plan->n_ranks; i++) {
        if (comm_world_host(w->opt.world, i) != comm_world_host(w->opt.world, i - i % tp))
            return false;
    }
    return true;
}

size_t worker_common_bytes(const worker *w)
{
    return w->opt.plan->tp > 1 && w->ops->devices == NULL && stages_on_one_host_each(w) ? COMMON_MATS * slot_bytes(w) : 0;
}

void worker_rows_share(worker *w)
{
    int64_t tp = w->opt.plan->tp, i = w->rank->tp_index, n = w->n_rows;
    bool share = w->common_y[0].buf != NULL && n >= LEAST_SHARED && n >= tp;
    w->row_begin = share ? (int32_t)(n * i / tp) : 0;
    w->row_end = share ? (int32_t)(n * (i + 1) / tp) : 0;
}

status worker_exchange_create(worker *w)
{
    if (w->opt.plan->tp == 1 && w->ops->buf_map(w->ctx, w->scratch) == NULL) { /* nobody to exchange with: the sum need not leave the device */
        ops_mat m = {.type = OPS_F32, .cols = w->arch->hidden, .stride = ops_row_bytes(OPS_F32, w->arch->hidden)};
        TRY(w->ops->buf_create(w->ctx, slot_bytes(w), "partial sums", &w->exchange));
        m.buf = w->exchange;
        w->alone = w->ops->mat_part(w->ctx, &m);
        return ST_OK;
    }
    if (w->opt.plan->tp > 1 && w->ops->collectives != NULL) {
        status st = slots_on_devices(w);
        if (st != ST_UNSUPPORTED)
            return st;
        if (w->rank->tp_index == 0)
            log_info("stage %d: sums between its %d devices go through the host's memory: %s", w->rank->stage, w->opt.plan->tp, status_message());
    }
    return slots_on_host(w);
}

/* Rank i of a stage and rank i of the next; without a way between their devices there is no group, and the host hands on. */
static status pair_create(worker *w, int first, comm_group **out)
{
    int ranks[2] = {first, first + w->opt.plan->tp};
    comm_device_spec spec;
    TRY(device_spec(w, 0, &spec));
    TRY(comm_group_create(w->opt.world, ranks, 2, 0, w->opt.timeout_ms, out));
    status st = comm_group_device(*out, &spec);
    if (st != ST_UNSUPPORTED)
        return st;
    if (w->rank->tp_index == 0 && ranks[0] == w->rank->rank)
        log_info("stages %d and %d: the residual stream goes through the host's memory: %s", w->rank->stage, w->rank->stage + 1, status_message());
    comm_group_destroy(out);
    return ST_OK;
}

status worker_stages_create(worker *w)
{
    int32_t stage = w->rank->stage, rank = w->rank->rank;
    if (w->opt.plan->pp == 1 || w->ops->collectives == NULL)
        return ST_OK;
    for (int32_t even = 0; even < 2; even++) { /* first the pairs that begin at even stages, so that nobody waits for somebody who waits */
        if (!w->last_stage && stage % 2 == even)
            TRY(pair_create(w, rank, &w->after));
        if (!w->first_stage && (stage - 1) % 2 == even)
            TRY(pair_create(w, rank - w->opt.plan->tp, &w->before));
    }
    return ST_OK;
}

void worker_exchange_destroy(worker *w)
{
    for (size_t i = 0; i < ARRAY_LEN(w->peers); i++) {
        if (w->peers[i] != NULL)
            w->ops->buf_destroy(w->ctx, &w->peers[i]);
    }
    if (w->exchange != NULL)
        w->ops->buf_destroy(w->ctx, &w->exchange);
    for (int32_t even = 0; w->rank != NULL && even < 2; even++) { /* as they were made: on devices both members leave together */
        if (w->rank->stage % 2 == even)
            comm_group_destroy(&w->after);
        else
            comm_group_destroy(&w->before);
    }
    comm_group_destroy(&w->group);
}

/* Rows that devices exchange.  A decode step may be a recording that was made for other numbers of rows: whether it is one on each rank or not, all
 * exchange as many. */
static int32_t rows_on_devices(const worker *w)
{
    if (w->ops->graph_begin == NULL || w->n_rows != w->n_spans)
        return w->n_rows;
    int32_t rows = ops_graph_rows(w->n_rows);
    return rows < w->opt.max_batched_tokens ? rows : w->opt.max_batched_tokens;
}

/* ---- inside a stage ---- */

/* The piece's bytes in the slots. */
static comm_half half_of(const worker *w, size_t row_bytes)
{
    return (comm_half){(int)(w->now - w->piece), row_bytes * (size_t)w->now->row, row_bytes * (size_t)w->now->n_rows};
}

status worker_slot(worker *w, int32_t rows, ops_mat *out)
{
    size_t stride = ops_row_bytes(OPS_F32, w->arch->hidden);
    comm_half h = half_of(w, stride);
    *out = (ops_mat){.buf = w->exchange, .type = OPS_F32, .cols = w->arch->hidden, .stride = stride};
    if (w->exchange_base == NULL)
        return ST_OK;
    void *memory;
    TRY(w->n_pieces > 1 ? comm_half_begin(w->group, &h, &memory) : comm_exchange_begin(w->group, stride * (size_t)rows, &memory));
    out->offset = (size_t)((char *)memory - w->exchange_base);
    return ST_OK;
}

status worker_slot_sum(worker *w)
{
    worker_piece *p = w->now;
    if (w->exchange_base == NULL) {
        p->parts = &w->alone;
        p->n_parts = 1;
        return ST_OK;
    }
    size_t row = ops_row_bytes(OPS_F32, w->arch->hidden), bytes = row * (size_t)w->n_rows;
    if (w->n_pieces > 1) {
        comm_half h = half_of(w, row);
        p->under_way = true;
        return comm_half_start(w->group, &h, &p->parts, &p->n_parts);
    }
    if (comm_group_on_device(w->group)) {
        worker_mark(w, WORKER_EXCHANGE);
        return comm_exchange_end(w->group, row * (size_t)rows_on_devices(w), &p->parts, &p->n_parts);
    }
    TRY(w->ops->sync(w->ctx));
    double started = log_clock();
    worker_note(w, WORKER_EXCHANGE);
    status st = comm_exchange_end(w->group, bytes, &p->parts, &p->n_parts);
    w->times.exchange_seconds += log_clock() - started;
    return st;
}

status worker_meet(worker *w)
{
    double started = log_clock();
    worker_operation during = w->operation;
    worker_note(w, WORKER_EXCHANGE);
    status st = comm_barrier(w->group);
    worker_note(w, during);
    w->times.exchange_seconds += log_clock() - started;
    return st;
}

status worker_slot_wait(worker *w)
{
    if (!w->now->under_way)
        return ST_OK;
    w->now->under_way = false;
    worker_mark(w, WORKER_EXCHANGE);
    TRY(comm_half_wait(w->group, (int)(w->now - w->piece)));
    worker_mark(w, w->operation);
    return ST_OK;
}

status worker_exchange_check(worker *w)
{
    if (w->before != NULL)
        TRY(comm_group_check(w->before));
    if (w->after != NULL)
        TRY(comm_group_check(w->after));
    return comm_group_on_device(w->group) ? comm_group_check(w->group) : ST_OK;
}

/* ---- between stages ---- */

/* Where the device reads and writes the residual stream. */
static void *x_on_device(worker *w, const ops_mat *x)
{
    return (void *)(uintptr_t)w->ops->mat_part(w->ctx, x);
}

/* Where the host does. */
static char *x_on_host(worker *w, ops_mat x)
{
    if (w->handed[0] != NULL)
        return w->handed[x.offset == w->x[1].offset];
    return (char *)w->ops->buf_map(w->ctx, x.buf) + x.offset;
}

/* The rows that this rank hands on, or gets: the same on both sides. */
static size_t rows_bytes(const worker *w, const ops_mat *x, size_t *offset)
{
    *offset = x->stride * (size_t)w->row_begin;
    return x->stride * (size_t)(w->row_end > 0 ? w->row_end - w->row_begin : w->n_rows);
}

/* Stages hand the residual stream on unrounded: rank i of a stage to rank i of the next. */
status worker_receive(worker *w, ops_mat x)
{
    size_t offset, bytes = rows_bytes(w, &x, &offset), got = 0;
    worker_mark(w, WORKER_STAGE);
    if (w->before != NULL)
        return comm_device_recv(w->before, 0, x_on_device(w, &x), x.stride * (size_t)rows_on_devices(w));
    char *memory = x_on_host(w, x) + offset;
    comm_request *r;
    double started = log_clock();
    worker_note(w, WORKER_STAGE);
    TRY(comm_recv(w->opt.world, w->rank->rank - w->opt.plan->tp, TAG_RESIDUAL, memory, bytes, &r));
    TRY(w->lent ? comm_wait_lending(w->opt.world, &r, w->opt.timeout_ms, &got) : comm_wait(w->opt.world, &r, w->opt.timeout_ms, &got));
    if (w->lent)
        w->ops->step_begin(w->ctx, true);
    w->times.stage_wait_seconds += log_clock() - started;
    if (got != bytes)
        return FAIL(ST_INTERNAL, "the stage before sent %zu bytes for a step of %zu", got, bytes);
    return w->handed[0] != NULL ? w->ops->buf_write(w->ctx, x.buf, x.offset + offset, memory, bytes) : ST_OK;
}

status worker_hand_on(worker *w, ops_mat x, int which)
{
    size_t offset, bytes = rows_bytes(w, &x, &offset);
    worker_mark(w, WORKER_STAGE);
    if (w->after != NULL)
        return comm_device_send(w->after, 1, x_on_device(w, &x), x.stride * (size_t)rows_on_devices(w));
    char *memory = x_on_host(w, x) + offset;
    if (w->handed[0] != NULL)
        TRY(w->ops->buf_read(w->ctx, x.buf, x.offset + offset, memory, bytes));
    else
        TRY(w->ops->sync(w->ctx));
    if (w->lent)
        w->ops->step_end(w->ctx);
    return comm_send(w->opt.world, w->rank->rank + w->opt.plan->tp, TAG_RESIDUAL, memory, bytes, &w->sent[which]);
}

status worker_handed_on(worker *w, int which)
{
    if (w->sent[which] == NULL)
        return ST_OK;
    double started = log_clock();
    worker_note(w, WORKER_STAGE);
    status st = comm_wait(w->opt.world, &w->sent[which], w->opt.timeout_ms, NULL);
    w->times.stage_wait_seconds += log_clock() - started;
    return st;
}
