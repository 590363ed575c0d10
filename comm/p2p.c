/* comm/p2p.c - messages between two ranks: through shared memory on one host, over the wire between hosts. */
#include <stdlib.h>

#include "base/mem.h"
#include "comm/comm_internal.h"

status wire_status(const comm_world *w, status st, const char *what, int peer)
{
    if (st == ST_OK)
        return ST_OK;
    return FAIL(st, "%s rank %d over %s: %s", what, peer, w->ops->name, w->ops->error(w->wire));
}

static status request_new(comm_world *w, int peer, int tag, comm_request **out)
{
    if (peer < 0 || peer >= w->size)
        return FAIL(ST_INVALID, "message to or from rank %d of %d", peer, w->size);
    if (tag < 0)
        return FAIL(ST_INVALID, "message tag %d: use 0 or more", tag);
    comm_request *r = w->free_requests;
    if (r != NULL)
        w->free_requests = r->next;
    else
        TRY(mem_calloc(1, sizeof(*r), "request", &r));
    *r = (comm_request){.peer = peer, .tag = tag};
    *out = r;
    return ST_OK;
}

static void request_free(comm_world *w, comm_request **request)
{
    (*request)->next = w->free_requests;
    w->free_requests = *request;
    *request = NULL;
}

static status start(comm_world *w, comm_request *r, bool send, comm_channel channel, void *data, size_t bytes)
{
    if (host_aborted(&w->host))
        return world_aborted(w);
    if (w->host_of[r->peer] == w->my_host) {
        r->mail = (mail_request){.key = (uint64_t)channel << 32 | (uint32_t)r->tag, .peer = w->local_of[r->peer], .data = data, .bytes = bytes};
        return send ? mailbox_send(w->box, &r->mail) : mailbox_recv(w->box, &r->mail);
    }
    r->wire = true;
    r->mail.bytes = bytes;
    status st = send ? w->ops->send(w->wire, r->peer, channel, r->tag, data, bytes, &r->on_wire)
                     : w->ops->recv(w->wire, r->peer, channel, r->tag, data, bytes, &r->on_wire);
    if (st == ST_OK)
        w->n_wire_pending++;
    r->mail.send = send;
    return wire_status(w, st, send ? "sending to" : "receiving from", r->peer);
}

static status begin(comm_world *w, int peer, bool send, comm_channel channel, int tag, void *data, size_t bytes, comm_request **out)
{
    comm_request *r = NULL;
    TRY(request_new(w, peer, tag, &r));
    status st = start(w, r, send, channel, data, bytes);
    if (st != ST_OK)
        request_free(w, &r);
    *out = r;
    return st;
}

status p2p_send(comm_world *w, int to, comm_channel channel, int tag, const void *data, size_t bytes, comm_request **out)
{
    return begin(w, to, true, channel, tag, (void *)(uintptr_t)data, bytes, out);
}

status p2p_recv(comm_world *w, int from, comm_channel channel, int tag, void *data, size_t max_bytes, comm_request **out)
{
    return begin(w, from, false, channel, tag, data, max_bytes, out);
}

/* Whether the request has ended, well or not. */
static bool request_ready(comm_world *w, comm_request *r)
{
    if (r->done)
        return true;
    if (!r->wire) {
        r->done = r->mail.done;
        r->got = r->mail.moved;
        r->st = r->mail.failed ? ST_LIMIT : ST_OK;
        return r->done;
    }
    r->st = w->ops->test(w->wire, &r->on_wire, &r->done, r->mail.send ? NULL : &r->got);
    r->done |= r->st != ST_OK;
    w->n_wire_pending -= r->done;
    return r->done;
}

/* Ends a ready request. */
static status request_end(comm_world *w, comm_request **request, size_t *got)
{
    comm_request *r = *request;
    status st = r->st;
    if (got != NULL)
        *got = r->got;
    if (st == ST_LIMIT && !r->wire)
        FAIL(st, "message of %zu bytes from rank %d (tag %d), room for %zu", r->got, r->peer, r->tag, r->mail.bytes);
    else if (st != ST_OK)
        wire_status(w, st, r->mail.send ? "sending to" : "receiving from", r->peer);
    request_free(w, request);
    return st;
}

void p2p_cancel(comm_world *w, comm_request **request)
{
    comm_request *r = *request;
    if (r == NULL)
        return;
    if (!r->done) {
        if (r->wire) {
            w->ops->cancel(w->wire, &r->on_wire);
            w->n_wire_pending--;
        } else {
            mailbox_cancel(w->box, &r->mail);
        }
    }
    request_free(w, request);
}

typedef struct waiting {
    comm_world *w;
    comm_request *r;
    bool gone;
} waiting;

static bool waiting_ready(void *arg)
{
    waiting *x = arg;
    if (request_ready(x->w, x->r))
        return true;
    /* What a rank sent before it left is in its lane already: look once more after seeing that it left. */
    if (!x->r->wire && host_has_left(&x->w->host, x->r->mail.peer)) {
        x->gone = mailbox_progress(x->w->box) != ST_OK || !request_ready(x->w, x->r);
        return true;
    }
    return false;
}

static status wait_for(comm_world *w, comm_request **request, int64_t deadline_ns, int64_t spin_ns, int64_t yield_ns, size_t *got)
{
    waiting x = {w, *request, false};
    status st = world_wait(w, waiting_ready, &x, deadline_ns, spin_ns, yield_ns, x.r->wire);
    if (st == ST_OK && x.gone)
        st = world_break(w, ST_PEER, x.r->peer, "rank %d left the job while rank %d waited for it", x.r->peer, w->rank);
    if (st == ST_OK)
        return request_end(w, request, got);
    if (st != ST_TIMEOUT)
        p2p_cancel(w, request);
    return st;
}

status p2p_wait(comm_world *w, comm_request **request, int64_t deadline_ns, size_t *got)
{
    const comm_request *r = *request;
    /* A large message over the wire moves only while it is polled. */
    return wait_for(w, request, deadline_ns, SPIN_P2P_NS + (r->wire ? (int64_t)(r->mail.bytes < 16 << 20 ? r->mail.bytes : 16 << 20) * 2 : 0), 0, got);
}

status comm_send(comm_world *w, int to, int tag, const void *data, size_t bytes, comm_request **out)
{
    return p2p_send(w, to, COMM_CHANNEL_USER, tag, data, bytes, out);
}

status comm_recv(comm_world *w, int from, int tag, void *data, size_t max_bytes, comm_request **out)
{
    return p2p_recv(w, from, COMM_CHANNEL_USER, tag, data, max_bytes, out);
}

/* A wait that ended, with a message if it was too long. */
static status waited(status st, int peer, int tag, bool send, int timeout_ms)
{
    if (st == ST_TIMEOUT) {
        status_mute();
        FAIL(st, "rank %d %s within %d ms (tag %d)", peer, send ? "took no message" : "sent nothing", timeout_ms, tag);
        status_unmute();
    }
    return st;
}

status comm_wait(comm_world *w, comm_request **request, int timeout_ms, size_t *got)
{
    int peer = (*request)->peer, tag = (*request)->tag;
    bool send = (*request)->mail.send;
    return waited(p2p_wait(w, request, world_deadline(timeout_ms), got), peer, tag, send, timeout_ms);
}

status comm_wait_lending(comm_world *w, comm_request **request, int timeout_ms, size_t *got)
{
    int peer = (*request)->peer, tag = (*request)->tag;
    bool send = (*request)->mail.send;
    return waited(wait_for(w, request, world_deadline(timeout_ms), 0, YIELD_LENT_NS, got), peer, tag, send, timeout_ms);
}

status comm_test(comm_world *w, comm_request **request, bool *done, size_t *got)
{
    *done = false;
    TRY(world_progress(w));
    if (request_ready(w, *request)) {
        *done = true;
        return request_end(w, request, got);
    }
    if (host_aborted(&w->host)) {
        world_forward_abort(w);
        p2p_cancel(w, request);
        return world_aborted(w);
    }
    return ST_OK;
}
