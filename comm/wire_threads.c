/* comm/wire_threads.c - a wire between threads of one process, so that one process can play several hosts in tests.
 *
 * A message is copied when its send is posted and waits in the receiver's queue; strict matching by (from, channel, tag), in order. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "comm/comm_internal.h"

typedef struct letter {
    struct letter *next;
    int from, tag;
    comm_channel channel;
    size_t bytes;
    char data[];
} letter;

typedef struct inbox {
    pthread_mutex_t mutex;
    letter *head, **tail;
} inbox;

struct thread_wires {
    atomic_int users;
    int n;
    inbox inboxes[];
};

typedef struct receive {
    int from, tag;
    comm_channel channel;
    void *data;
    size_t max_bytes;
    struct receive *next; /* posted before others with the same key: they match in order */
} receive;

struct comm_wire {
    thread_wires *all;
    int rank;
    receive *posted, **posted_tail;
};

status thread_wires_create(int n, thread_wires **out)
{
    thread_wires *t = NULL;
    TRY(mem_calloc(1, sizeof(*t) + (size_t)n * sizeof(inbox), "wires", &t));
    t->n = n;
    atomic_store(&t->users, 1);
    for (int i = 0; i < n; i++) {
        pthread_mutex_init(&t->inboxes[i].mutex, NULL);
        t->inboxes[i].tail = &t->inboxes[i].head;
    }
    *out = t;
    return ST_OK;
}

void thread_wires_release(thread_wires **wires)
{
    thread_wires *t = *wires;
    *wires = NULL;
    if (t == NULL || atomic_fetch_sub(&t->users, 1) != 1)
        return;
    for (int i = 0; i < t->n; i++) {
        for (letter *l = t->inboxes[i].head, *next; l != NULL; l = next) {
            next = l->next;
            free(l);
        }
        pthread_mutex_destroy(&t->inboxes[i].mutex);
    }
    free(t);
}

status thread_wire_open(thread_wires *wires, int rank, comm_wire **out)
{
    comm_wire *w = NULL;
    TRY(mem_calloc(1, sizeof(*w), "wire", &w));
    atomic_fetch_add(&wires->users, 1);
    w->all = wires;
    w->rank = rank;
    w->posted_tail = &w->posted;
    *out = w;
    return ST_OK;
}

static void wire_close(comm_wire **wire, bool clean)
{
    (void)clean;
    comm_wire *w = *wire;
    *wire = NULL;
    for (receive *r = w->posted, *next; r != NULL; r = next) {
        next = r->next;
        free(r);
    }
    thread_wires_release(&w->all);
    free(w);
}

static const char *wire_error(const comm_wire *w)
{
    (void)w;
    return "out of memory, or a message longer than its receiver expects";
}

static status wire_send(comm_wire *w, int to, comm_channel channel, int tag, const void *data, size_t bytes, comm_wire_request *out)
{
    letter *l = malloc(sizeof(*l) + bytes);
    if (l == NULL)
        return ST_NO_MEMORY;
    *l = (letter){.from = w->rank, .tag = tag, .channel = channel, .bytes = bytes};
    if (bytes > 0)
        memcpy(l->data, data, bytes);
    inbox *in = &w->all->inboxes[to];
    pthread_mutex_lock(&in->mutex);
    *in->tail = l;
    in->tail = &l->next;
    pthread_mutex_unlock(&in->mutex);
    out->word[0] = 0;
    return ST_OK;
}

static status wire_recv(comm_wire *w, int from, comm_channel channel, int tag, void *data, size_t max_bytes, comm_wire_request *out)
{
    receive *r = malloc(sizeof(*r));
    if (r == NULL)
        return ST_NO_MEMORY;
    *r = (receive){.from = from, .tag = tag, .channel = channel, .data = data, .max_bytes = max_bytes};
    *w->posted_tail = r;
    w->posted_tail = &r->next;
    out->word[0] = (uint64_t)(uintptr_t)r;
    return ST_OK;
}

static void unpost(comm_wire *w, receive *r)
{
    receive **at = &w->posted;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    if (w->posted_tail == &r->next)
        w->posted_tail = at;
    free(r);
}

static bool same(const receive *r, int from, comm_channel channel, int tag)
{
    return r->channel == channel && r->tag == tag && (r->from == from || r->from == COMM_WIRE_ANY);
}

/* Whether an earlier receive has a claim on what r would take. */
static bool is_first(const comm_wire *w, const receive *r)
{
    for (const receive *other = w->posted; other != r; other = other->next)
        if (same(other, r->from, r->channel, r->tag))
            return false;
    return true;
}

static status wire_test(comm_wire *w, comm_wire_request *request, bool *done, size_t *got)
{
    receive *r = (receive *)(uintptr_t)request->word[0];
    *done = r == NULL;
    if (r == NULL || !is_first(w, r))
        return ST_OK;
    inbox *in = &w->all->inboxes[w->rank];
    pthread_mutex_lock(&in->mutex);
    letter *found = NULL;
    for (letter **at = &in->head; *at != NULL; at = &(*at)->next) {
        if (same(r, (*at)->from, (*at)->channel, (*at)->tag)) {
            found = *at;
            *at = found->next;
            if (in->tail == &found->next)
                in->tail = at;
            break;
        }
    }
    pthread_mutex_unlock(&in->mutex);
    if (found == NULL)
        return ST_OK;
    status st = found->bytes <= r->max_bytes ? ST_OK : ST_LIMIT;
    if (st == ST_OK && found->bytes > 0)
        memcpy(r->data, found->data, found->bytes);
    if (got != NULL)
        *got = found->bytes;
    free(found);
    unpost(w, r);
    *done = true;
    return st;
}

static void wire_cancel(comm_wire *w, comm_wire_request *request)
{
    if (request->word[0] != 0)
        unpost(w, (receive *)(uintptr_t)request->word[0]);
}

static void wire_poke(comm_wire *w)
{
    (void)w;
}

const comm_wire_ops thread_wire_ops = {
    .version = COMM_WIRE_VERSION,
    .name = "threads",
    .close = wire_close,
    .error = wire_error,
    .send = wire_send,
    .recv = wire_recv,
    .test = wire_test,
    .cancel = wire_cancel,
    .poke = wire_poke,
};
