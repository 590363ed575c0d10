/* coordinator/replica_report.c - what a replica says of itself: its ranks, their times, by which numerics it computes, what its ranks are at. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "coordinator/replica_internal.h"

status coord_replica_report(coord_replica *r, coord_rank_report *reports)
{
    const shard_rank_plan *p = &r->plan->ranks[r->rank];
    worker_memory m;
    worker_times t;
    shard_io_stats io;
    worker_memory_get(r->worker, &m);
    worker_times_get(r->worker, &t);
    shard_checkpoint_io_stats(r->checkpoint, &io);
    coord_rank_report mine = {
        .rank = r->rank,
        .stage = p->stage,
        .tp_index = p->tp_index,
        .n_threads = r->n_threads,
        .weight_bytes = m.weight_bytes,
        .kv_bytes = m.kv_bytes,
        .scratch_bytes = m.scratch_bytes,
        .predicted_bytes = p->weight_bytes + p->scratch_bytes + m.kv_bytes,
        .base_bytes = r->base_bytes,
        .touched_bytes = mem_huge_resident(),
        .resident_bytes = mem_resident(),
        .io_read = io.bytes_read,
        .io_needed = io.bytes_needed,
        .load_seconds = t.load_seconds,
        .ready_seconds = r->ready_seconds,
    };
    const char *backend = worker_backend(r->worker);
    memcpy(mine.backend, backend, strnlen(backend, sizeof(mine.backend) - 1));
    const char *numerics = worker_numerics(r->worker);
    memcpy(mine.numerics, numerics, strnlen(numerics, sizeof(mine.numerics) - 1));
    if (gethostname(mine.host, sizeof(mine.host) - 1) != 0)
        mine.host[0] = '\0';
    char place[COORD_PLACE_TEXT];
    cpu_set_t lent;
    CPU_ZERO(&lent);
    for (int i = 0; i < r->n_lent; i++)
        CPU_SET(r->lent_cores[i], &lent);
    char lent_text[48];
    snprintf(mine.place, sizeof(mine.place), "%.*s%s%s", 100, coord_place_text(&r->place, place), r->n_lent > 0 ? ", lent cores " : "",
             coord_cores_text(&lent, lent_text, sizeof(lent_text)));
    mine.cores_shared = r->place.shared;
    mine.gpu_far = r->place.gpu_far;
    coord_rank_report *all;
    TRY(mem_calloc((size_t)r->n_ranks, sizeof(*all), "reports", &all));
    status st = comm_all_gather_equal(r->everyone, &mine, sizeof(mine), all);
    if (st == ST_OK && r->rank == 0)
        memcpy(reports, all, (size_t)r->n_ranks * sizeof(*all));
    free(all);
    return st;
}

void coord_replica_sched_stats(const coord_replica *r, coord_sched_stats *out)
{
    coord_sched_stats_get(r->sched, out);
}

void coord_replica_times_get(const coord_replica *r, coord_replica_times *out)
{
    worker_times t;
    worker_times_get(r->worker, &t);
    *out = (coord_replica_times){
        .steps = t.steps,
        .tokens = t.tokens,
        .compute_seconds = t.step_seconds - t.exchange_seconds - t.stage_wait_seconds,
        .exchange_seconds = t.exchange_seconds,
        .stage_wait_seconds = t.stage_wait_seconds,
        .attention_seconds = t.attention_seconds,
        .mlp_seconds = t.mlp_seconds,
        .embed_seconds = t.embed_seconds,
        .head_seconds = t.head_seconds,
    };
}

status coord_replica_measured(coord_replica *r, const breakdown_range *range)
{
    return r->breakdown != NULL ? breakdown_measure(r->breakdown, range) : ST_OK;
}

const coord_breakdown *coord_replica_breakdown(const coord_replica *r, int32_t i)
{
    return r->broken_down != NULL ? r->broken_down + (size_t)i * (size_t)r->n_ranks : NULL;
}

/* ---- numerics ---- */

static void hash_text(hash_sha256 *h, const char *text)
{
    hash_sha256_update(h, text, strlen(text) + 1);
}

static void hash_int(hash_sha256 *h, int64_t v)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)v >> (8 * i));
    hash_sha256_update(h, bytes, sizeof(bytes));
}

static void hash_slice(hash_sha256 *h, shard_slice s)
{
    hash_int(h, s.begin);
    hash_int(h, s.end);
}

/* The ranks that hold a layer, in their order. */
static void hash_layer(hash_sha256 *h, const coord_replica *r, const coord_rank_report *reports, int32_t layer)
{
    for (int i = 0; i < r->n_ranks; i++) {
        const shard_rank_plan *p = &r->plan->ranks[i];
        if (layer < p->layer_begin || layer >= p->layer_end)
            continue;
        hash_slice(h, p->heads);
        hash_slice(h, p->kv_heads);
        hash_slice(h, p->o_cols);
        hash_slice(h, p->channels);
        hash_slice(h, p->down_cols);
        hash_text(h, reports[i].numerics);
    }
}

status coord_replica_numerics(const coord_replica *r, const coord_rank_report *reports, const char *version, char out[COORD_NUMERICS_ID])
{
    hash_sha256 *h;
    uint8_t digest[HASH_SHA256_BYTES];
    int32_t n_layers = r->plan->ranks[r->n_ranks - 1].layer_end;
    TRY(hash_sha256_create(&h));
    hash_text(h, "trireme numerics 1");
    hash_text(h, version);
    hash_text(h, shard_checkpoint_digest(r->checkpoint));
    hash_int(h, r->opt.f32);
    hash_int(h, r->opt.kv_type);
    hash_int(h, r->plan->tp);
    for (int32_t l = 0; l < n_layers; l++)
        hash_layer(h, r, reports, l);
    for (int i = 0; i < r->plan->tp; i++)
        hash_slice(h, r->plan->ranks[i].embed_rows);
    for (int i = r->n_ranks - r->plan->tp; i < r->n_ranks; i++)
        hash_slice(h, r->plan->ranks[i].head_rows);
    hash_sha256_final(h, digest);
    hash_sha256_destroy(&h);
    hash_hex(digest, sizeof(digest), out);
    return ST_OK;
}

/* ---- what ranks are at ---- */

/* How far a rank is, so that the one behind is found; ranks that wait for others come after those that compute. */
static uint64_t behind(worker_activity a)
{
    bool waits = a.operation == WORKER_EXCHANGE || a.operation == WORKER_STAGE || a.operation == WORKER_IDLE;
    return (uint64_t)waits << 63 | (a.step & 0xffffffff) << 24 | (uint64_t)(a.layer & 0xffff) << 8 | (uint64_t)a.operation;
}

void coord_replica_activity(const coord_replica *r, char *out, size_t cap)
{
    int culprit = -1, away = 0;
    worker_activity at = {0};
    for (int i = 0; i < r->n_ranks; i++) {
        uint64_t note;
        if (!comm_note_of(r->world, i, &note)) {
            away++;
            continue;
        }
        worker_activity a = worker_activity_of(note);
        if (culprit < 0 || behind(a) < behind(at)) {
            culprit = i;
            at = a;
        }
    }
    snprintf(out, cap, "rank %d of %d is furthest behind: step %llu, layer %d, %s%s", culprit, r->n_ranks, (unsigned long long)at.step, at.layer,
             worker_operation_text(at.operation), away > 0 ? " (ranks of other hosts are not seen)" : "");
}
