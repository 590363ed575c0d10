/* coordinator/replica_messages.c - steps and results between ranks, of any length: each message in one part or two, so that it fits a receive that was posted before. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coordinator/replica_internal.h"

status replica_messages_create(coord_replica *r)
{
    r->depth = r->plan->pp;
    r->n_out = r->depth + 1;
    r->n_in = r->rank == 0 ? r->depth : 1;
    TRY(mem_calloc((size_t)r->n_out, sizeof(*r->out), "messages", &r->out));
    TRY(mem_calloc((size_t)r->n_in, sizeof(*r->in), "messages", &r->in));
    for (int i = 0; i < r->n_out; i++) {
        r->out[i].n_requests = 2 * (r->rank == 0 ? r->n_ranks : 1);
        r->out[i].cap = FIRST_BYTES;
        TRY(mem_calloc((size_t)r->out[i].n_requests, sizeof(comm_request *), "messages", &r->out[i].requests));
        TRY(mem_calloc(1, FIRST_BYTES, "messages", &r->out[i].bytes));
    }
    for (int i = 0; i < r->n_in; i++)
        TRY(mem_calloc(1, FIRST_BYTES, "messages", &r->in[i].first));
    return ST_OK;
}

status replica_outgoing_done(coord_replica *r, outgoing *o)
{
    for (int i = 0; i < o->n_requests; i++) {
        if (o->requests[i] != NULL)
            TRY(comm_wait(r->world, &o->requests[i], r->opt.timeout_ms, NULL));
    }
    return ST_OK;
}

typedef status (*encode_fn)(const void *message, void *buf, size_t cap, size_t *len);

static status encode_step(const void *message, void *buf, size_t cap, size_t *len)
{
    return step_encode(message, buf, cap, len);
}

static status encode_result(const void *message, void *buf, size_t cap, size_t *len)
{
    return step_result_encode(message, buf, cap, len);
}

/* Encodes into o, whose earlier sends are over, and grows it as needed. */
static status outgoing_encode(coord_replica *r, outgoing *o, encode_fn encode, const void *message, size_t *len)
{
    uint64_t total;
    size_t need = 0;
    TRY(replica_outgoing_done(r, o));
    status_mute(); /* too small is no failure */
    status st = encode(message, o->bytes + sizeof(total), o->cap - sizeof(total), &need);
    status_unmute();
    if (st == ST_LIMIT) {
        char *p = realloc(o->bytes, need * 2 + sizeof(total));
        if (p == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for a message of %zu bytes", need);
        o->bytes = p;
        o->cap = need * 2 + sizeof(total);
        st = encode(message, p + sizeof(total), o->cap - sizeof(total), &need);
    }
    TRY(st);
    total = need;
    memcpy(o->bytes, &total, sizeof(total));
    *len = need + sizeof(total);
    return ST_OK;
}

status replica_outgoing_step(coord_replica *r, outgoing *o, const step *s, size_t *len)
{
    return outgoing_encode(r, o, encode_step, s, len);
}

status replica_outgoing_result(coord_replica *r, outgoing *o, const step_result *result, size_t *len)
{
    return outgoing_encode(r, o, encode_result, result, len);
}

status replica_outgoing_send(coord_replica *r, const outgoing *o, size_t len, int to, int tag, comm_request **requests)
{
    size_t first = len < FIRST_BYTES ? len : FIRST_BYTES;
    TRY(comm_send(r->world, to, tag, o->bytes, first, &requests[0]));
    if (first == len)
        return ST_OK;
    return comm_send(r->world, to, TAG_REST, o->bytes + first, len - first, &requests[1]);
}

status replica_incoming_post(coord_replica *r, incoming *in, int from, int tag)
{
    return comm_recv(r->world, from, tag, in->first, FIRST_BYTES, &in->request);
}

status replica_incoming_wait(coord_replica *r, incoming *in, int from, int timeout_ms, size_t *len)
{
    size_t got = 0;
    uint64_t total;
    TRY(r->lent ? comm_wait_lending(r->world, &in->request, timeout_ms, &got) : comm_wait(r->world, &in->request, timeout_ms, &got));
    if (got < sizeof(total))
        return FAIL(ST_FORMAT, "a message of %zu bytes from rank %d has no length", got, from);
    memcpy(&total, in->first, sizeof(total));
    size_t have = got - sizeof(total);
    if (total < have)
        return FAIL(ST_FORMAT, "a message from rank %d says %llu bytes and brings %zu", from, (unsigned long long)total, have);
    if (total > in->cap) {
        char *p = realloc(in->bytes, (size_t)total);
        if (p == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for a message of %llu bytes", (unsigned long long)total);
        in->bytes = p;
        in->cap = (size_t)total;
    }
    memcpy(in->bytes, in->first + sizeof(total), have);
    if (have < total) {
        comm_request *rest;
        TRY(comm_recv(r->world, from, TAG_REST, in->bytes + have, (size_t)total - have, &rest));
        TRY(comm_wait(r->world, &rest, r->opt.timeout_ms, &got));
        have += got;
    }
    *len = have;
    return have == total ? ST_OK
                         : FAIL(ST_FORMAT, "a message of %llu bytes from rank %d ends after %zu", (unsigned long long)total, from, have);
}
