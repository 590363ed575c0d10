/* worker/weights.c - a rank's slices read in parallel, straight into their final place.
 *
 * One block of device memory holds every slice at a 64-byte boundary, sized before anything is read.  Readers take the next largest
 * slice until none is left; memory the host can address is written in place, other memory through a staging buffer of one slice. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"
#include "worker/worker_internal.h"

#define MAX_READERS 8

typedef struct item { /* one slice to read */
    shard_role role;
    int32_t layer;
    bool vector;
    shard_slice rows, cols;
    packed_shape shape;
    size_t offset, bytes;
} item;

typedef struct loader {
    worker *w;
    item *items;
    size_t n_items;
    size_t total_bytes;
    atomic_size_t next, done_bytes;
    atomic_int failed; /* a status, first one wins */
    char message[1024];
    pthread_mutex_t message_lock;
} loader;

static worker_weights *weights_of(worker *w, shard_role role, int32_t layer)
{
    return shard_role_in_layer(role) ? &w->layers[layer - w->rank->layer_begin] : &w->outside;
}

static void item_place(loader *l, item *it, size_t bytes)
{
    it->offset = l->total_bytes;
    it->bytes = bytes;
    l->total_bytes += mem_align(bytes, 64);
}

static void item_add(loader *l, shard_role role, int32_t layer)
{
    worker *w = l->w;
    item it = {.role = role, .layer = layer, .vector = shard_role_is_vector(role)};
    if (role == SHARD_HEAD && shard_plan_head_is_embedding(w->arch, w->rank))
        return;
    if (!shard_plan_slice(w->arch, w->rank, role, layer, &it.rows, &it.cols) || it.rows.end <= it.rows.begin)
        return;
    if (it.vector) {
        item_place(l, &it, (size_t)(it.rows.end - it.rows.begin) * sizeof(float));
    } else {
        if (it.cols.end <= it.cols.begin || !shard_plan_packed(w->arch, w->rank, w->types, role, layer, &it.shape))
            return;
        item_place(l, &it, packed_bytes(it.shape));
    }
    l->items[l->n_items++] = it;
}

static int by_size_descending(const void *a, const void *b)
{
    size_t x = ((const item *)a)->bytes, y = ((const item *)b)->bytes;
    return x < y ? 1 : x > y ? -1 : 0;
}

static status item_read(loader *l, const item *it, void *dst)
{
    shard_checkpoint *c = l->w->opt.checkpoint;
    return it->vector ? shard_checkpoint_read_vector(c, it->role, it->layer, it->rows, dst)
                      : shard_checkpoint_read_matrix(c, it->role, it->layer, it->rows, it->cols, it->shape, dst);
}

static status item_load(loader *l, const item *it)
{
    worker *w = l->w;
    char *base = w->ops->buf_map(w->ctx, w->weight_buf);
    if (base != NULL)
        return item_read(l, it, base + it->offset);
    void *staging;
    TRY(mem_huge_alloc(it->bytes, "weight staging", &staging));
    status st = item_read(l, it, staging);
    if (st == ST_OK) {
        pthread_mutex_lock(&l->message_lock); /* a backend's context has one caller at a time */
        st = w->ops->buf_write(w->ctx, w->weight_buf, it->offset, staging, it->bytes);
        pthread_mutex_unlock(&l->message_lock);
    }
    mem_huge_free(staging, it->bytes);
    return st;
}

static void *reader(void *arg)
{
    loader *l = arg;
    status_mute(); /* the caller reports the first failure, once */
    for (;;) {
        size_t i = atomic_fetch_add(&l->next, 1);
        if (i >= l->n_items || atomic_load(&l->failed) != ST_OK)
            break;
        status st = item_load(l, &l->items[i]);
        atomic_fetch_add(&l->done_bytes, l->items[i].bytes);
        if (st == ST_OK)
            continue;
        pthread_mutex_lock(&l->message_lock);
        int none = ST_OK;
        if (atomic_compare_exchange_strong(&l->failed, &none, st))
            memcpy(l->message, status_message(), strnlen(status_message(), sizeof(l->message) - 1) + 1);
        pthread_mutex_unlock(&l->message_lock);
    }
    status_unmute();
    return NULL;
}

static void items_bind(loader *l)
{
    worker *w = l->w;
    for (size_t i = 0; i < l->n_items; i++) {
        const item *it = &l->items[i];
        worker_weights *ww = weights_of(w, it->role, it->layer);
        if (it->vector)
            ww->vector[it->role] = (ops_vec){w->weight_buf, it->offset, (int32_t)(it->rows.end - it->rows.begin)};
        else
            ww->matrix[it->role] = (ops_weight){w->weight_buf, it->offset, it->shape};
    }
    if (shard_plan_head_is_embedding(w->arch, w->rank))
        w->outside.matrix[SHARD_HEAD] = w->outside.matrix[SHARD_TOKEN_EMBED];
}

static status run_readers(loader *l)
{
    pthread_t threads[MAX_READERS];
    int n = threads_cores_granted(), started = 0;
    n = n > MAX_READERS ? MAX_READERS : n;
    for (; started < n; started++) {
        if (pthread_create(&threads[started], NULL, reader, l) != 0)
            break;
    }
    if (started == 0)
        reader(l);
    log_progress p;
    bool show = !l->w->opt.quiet;
    if (show)
        log_progress_begin(&p, "loading weights", l->total_bytes, true);
    while (show && atomic_load(&l->next) < l->n_items && atomic_load(&l->failed) == ST_OK) {
        log_progress_update(&p, atomic_load(&l->done_bytes));
        struct timespec t = {0, 20000000};
        nanosleep(&t, NULL);
    }
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (show)
        log_progress_end(&p);
    int st = atomic_load(&l->failed);
    return st == ST_OK ? ST_OK : FAIL((status)st, "%s", l->message);
}

/* What products take; an embedding that is no head is only looked up. */
static status weights_ready(worker *w, const loader *l)
{
    if (w->ops->weight_ready == NULL)
        return ST_OK;
    for (size_t i = 0; i < l->n_items; i++) {
        const item *it = &l->items[i];
        bool looked_up = it->role == SHARD_POS_EMBED || (it->role == SHARD_TOKEN_EMBED && !shard_plan_head_is_embedding(w->arch, w->rank));
        if (!it->vector && !looked_up)
            TRY(w->ops->weight_ready(w->ctx, &weights_of(w, it->role, it->layer)->matrix[it->role]));
    }
    return ST_OK;
}

/* The biases that join x in the block's second sum: down's; in a parallel block, which sums attention and MLP at once, o's too. */
static status second_bias(worker *w, int32_t i)
{
    const ops_vec *o = &w->layers[i].vector[SHARD_O_B], *d = &w->layers[i].vector[SHARD_DOWN_B];
    if (!w->arch->parallel_block || o->buf == NULL || d->buf == NULL) {
        w->mlp_out_bias[i] = d->buf != NULL ? *d : w->arch->parallel_block ? *o : (ops_vec){0};
        return ST_OK;
    }
    float *a, *b;
    size_t bytes = (size_t)d->n * sizeof(float);
    TRY(mem_calloc((size_t)d->n, 2 * sizeof(float), "bias", &a));
    b = a + d->n;
    status st = w->ops->buf_read(w->ctx, o->buf, o->offset, a, bytes);
    if (st == ST_OK)
        st = w->ops->buf_read(w->ctx, d->buf, d->offset, b, bytes);
    for (int32_t j = 0; j < d->n; j++)
        b[j] += a[j];
    if (st == ST_OK)
        st = w->ops->buf_write(w->ctx, d->buf, d->offset, b, bytes);
    w->mlp_out_bias[i] = *d;
    free(a);
    return st;
}

status worker_weights_load(worker *w)
{
    status st;
    int32_t n_layers = w->rank->layer_end - w->rank->layer_begin;
    double started = log_clock();
    loader l = {.w = w, .message_lock = PTHREAD_MUTEX_INITIALIZER};
    TRY(mem_calloc((size_t)n_layers, sizeof(*w->layers), "layers", &w->layers));
    TRY(mem_calloc((size_t)n_layers, sizeof(*w->mlp_out_bias), "layers", &w->mlp_out_bias));
    TRY(mem_calloc((size_t)SHARD_ROLES * (size_t)(n_layers + 1), sizeof(item), "list of weights", &l.items));
    for (int role = 0; role < SHARD_ROLES; role++) {
        if (!shard_role_in_layer(role)) {
            item_add(&l, role, 0);
            continue;
        }
        for (int32_t layer = w->rank->layer_begin; layer < w->rank->layer_end; layer++)
            item_add(&l, role, layer);
    }
    TRY_GOTO(w->ops->buf_create(w->ctx, l.total_bytes, "weights", &w->weight_buf), out);
    qsort(l.items, l.n_items, sizeof(item), by_size_descending);
    TRY_GOTO(run_readers(&l), out);
    items_bind(&l);
    w->memory.weight_bytes = l.total_bytes;
    for (int32_t i = 0; i < n_layers; i++)
        TRY_GOTO(second_bias(w, i), out);
    TRY_GOTO(weights_ready(w, &l), out);
    w->times.load_seconds = log_clock() - started;
    st = ST_OK;
out:
    free(l.items);
    return st;
}
