/* coordinator/replica_loads.c - the figures of its work that each rank tells rank 0 about once a second. */
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/replica_internal.h"

enum { LOAD_VERSION = 1 };

status replica_loads_create(coord_replica *r)
{
    size_t n = r->rank == 0 ? (size_t)r->n_ranks : 1;
    if (!r->opt.loads)
        return ST_OK;
    TRY(mem_calloc(n, sizeof(*r->loads), "figures", &r->loads));
    TRY(mem_calloc(n, sizeof(*r->load_requests), "figures", &r->load_requests));
    TRY(mem_calloc(n, sizeof(*r->loads_known), "figures", &r->loads_known));
    for (int i = 1; r->rank == 0 && i < r->n_ranks; i++)
        TRY(comm_recv(r->world, i, TAG_LOAD, &r->loads[i], sizeof(r->loads[i]), &r->load_requests[i]));
    return ST_OK;
}

static coord_rank_load load_of(const coord_replica *r)
{
    worker_times t;
    worker_times_get(r->worker, &t);
    return (coord_rank_load){
        .steps = t.steps,
        .resident_bytes = mem_resident(),
        .step_seconds = t.step_seconds,
        .exchange_seconds = t.exchange_seconds,
        .wait_seconds = t.stage_wait_seconds,
        .skew_seconds = t.skew_seconds,
    };
}

status replica_load_send(coord_replica *r, bool last)
{
    double now = log_clock();
    if (!r->opt.loads || (!last && now - r->load_at < LOAD_SECONDS))
        return ST_OK;
    if (r->load_requests[0] != NULL) {
        bool done = false;
        TRY(last ? comm_wait(r->world, &r->load_requests[0], r->opt.timeout_ms, NULL) : comm_test(r->world, &r->load_requests[0], &done, NULL));
        if (!last && !done)
            return ST_OK;
    }
    r->load_at = now;
    r->load_told = r->load_steps;
    r->loads[0] = (load_message){LOAD_VERSION, last, load_of(r)};
    TRY(comm_send(r->world, 0, TAG_LOAD, &r->loads[0], sizeof(r->loads[0]), &r->load_requests[0]));
    return last ? comm_wait(r->world, &r->load_requests[0], r->opt.timeout_ms, NULL) : ST_OK;
}

/* Rank 0: a message of rank i has come. */
static status load_take(coord_replica *r, int i, size_t got)
{
    const load_message *m = &r->loads[i];
    if (got != sizeof(*m) || m->version != LOAD_VERSION)
        return FAIL(ST_FORMAT, "rank %d's figures have another format: every rank must run the same build", i);
    r->loads_known[i] = m->load;
    return m->last ? ST_OK : comm_recv(r->world, i, TAG_LOAD, &r->loads[i], sizeof(*m), &r->load_requests[i]);
}

status replica_loads_take(coord_replica *r)
{
    r->load_at = log_clock();
    for (int i = 1; r->opt.loads && i < r->n_ranks; i++) {
        size_t got = 0;
        if (r->load_requests[i] == NULL)
            continue;
        status st = comm_wait(r->world, &r->load_requests[i], 0, &got); /* notices the dead, too */
        if (st == ST_OK)
            st = load_take(r, i, got);
        if (st != ST_OK && st != ST_TIMEOUT)
            return st;
    }
    return ST_OK;
}

status replica_loads_end(coord_replica *r)
{
    for (int i = 1; r->opt.loads && i < r->n_ranks; i++) {
        while (r->load_requests[i] != NULL) {
            size_t got = 0;
            TRY(comm_wait(r->world, &r->load_requests[i], r->opt.timeout_ms, &got));
            TRY(load_take(r, i, got));
        }
    }
    return ST_OK;
}

void coord_replica_loads(const coord_replica *r, coord_rank_load *out)
{
    memset(out, 0, (size_t)r->n_ranks * sizeof(*out));
    if (r->loads_known != NULL)
        memcpy(out, r->loads_known, (size_t)r->n_ranks * sizeof(*out));
    out[0] = load_of(r);
}
