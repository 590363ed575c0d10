#include "comm/mailbox.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define LANE_DESCRIPTORS 64
#define ARENA_MAX ((size_t)4 << 20)
#define ARENA_MIN ((size_t)16 << 10)
#define ARENAS_TOTAL ((size_t)256 << 20)
#define COMMIT_STEP ((size_t)64 << 10)

typedef struct descriptor {
    uint64_t key;
    uint64_t total;  /* of the whole message; fragments of one message follow each other */
    uint32_t offset; /* in the arena */
    uint32_t bytes;
} descriptor;

/* Counters only grow; each has one writer. */
typedef struct lane {
    alignas(128) atomic_uint published;  /* by the sender */
    alignas(128) atomic_uint consumed;   /* by the receiver */
    alignas(128) atomic_uint wants_room; /* the sender waits for space */
    alignas(64) descriptor ring[LANE_DESCRIPTORS];
} lane;

/* A message on its way in. */
typedef struct incoming {
    struct incoming *next;
    uint64_t key, total, got;
    mail_request *claimed; /* the receive it goes to; NULL: nobody has asked yet */
    char *kept;            /* own buffer where it began before it was claimed */
    bool drop;             /* whoever asked has given up */
} incoming;

typedef struct mail_list {
    mail_request *head, **tail;
} mail_list;

typedef struct peer_state {
    mail_list sends, recvs;     /* pending, in order */
    incoming *unclaimed, **unclaimed_tail; /* whole or arriving, nobody has asked for them, in order */
    incoming *arriving;         /* whose fragments come now */
    size_t committed;           /* of my arena towards this peer */
    bool lane_committed;
} peer_state;

struct mailbox {
    host *host;
    char *lanes;       /* [size * size], each LANE_BYTES */
    char *arenas;      /* [size * size] */
    size_t arena_bytes;
    int n_sending;     /* requests waiting for room */
    peer_state *peers; /* [size] */
};

#define LANE_BYTES mem_align(sizeof(lane), 4096)

static size_t arena_bytes(int size)
{
    size_t each = ARENAS_TOTAL / ((size_t)size * (size_t)size), bytes = ARENA_MIN;
    while (bytes * 2 <= each && bytes < ARENA_MAX)
        bytes *= 2;
    return bytes;
}

size_t mailbox_bytes(int size)
{
    return (size_t)size * (size_t)size * (LANE_BYTES + arena_bytes(size));
}

static lane *lane_of(const mailbox *b, int from, int to)
{
    return (lane *)(b->lanes + LANE_BYTES * ((size_t)from * (size_t)b->host->size + (size_t)to));
}

static char *arena_of(const mailbox *b, int from, int to)
{
    return b->arenas + b->arena_bytes * ((size_t)from * (size_t)b->host->size + (size_t)to);
}

static void list_add(mail_list *l, mail_request *r)
{
    r->next = NULL;
    *l->tail = r;
    l->tail = &r->next;
}

/* Takes out *at, which is a link of the list. */
static void list_remove(mail_list *l, mail_request **at)
{
    mail_request *r = *at;
    *at = r->next;
    if (l->tail == &r->next)
        l->tail = at;
}

status mailbox_create(host *h, mailbox **out)
{
    status st;
    mailbox *b = NULL;
    TRY(mem_calloc(1, sizeof(*b), "mailbox", &b));
    b->host = h;
    b->arena_bytes = arena_bytes(h->size);
    b->lanes = segment_base(h->segment) + host_shared_bytes(h->size);
    b->arenas = b->lanes + LANE_BYTES * (size_t)h->size * (size_t)h->size;
    TRY_GOTO(mem_calloc((size_t)h->size, sizeof(*b->peers), "mailbox", &b->peers), err);
    for (int i = 0; i < h->size; i++) {
        peer_state *p = &b->peers[i];
        p->sends.tail = &p->sends.head;
        p->recvs.tail = &p->recvs.head;
        p->unclaimed_tail = &p->unclaimed;
    }
    *out = b;
    return ST_OK;
err:
    mailbox_destroy(&b);
    return st;
}

void mailbox_destroy(mailbox **box)
{
    mailbox *b = *box;
    if (b == NULL)
        return;
    *box = NULL;
    for (int i = 0; b->peers != NULL && i < b->host->size; i++) {
        incoming *arriving = b->peers[i].arriving;
        if (arriving != NULL && (arriving->claimed != NULL || arriving->drop)) { /* an unclaimed one is in the list below */
            free(arriving->kept);
            free(arriving);
        }
        for (incoming *m = b->peers[i].unclaimed, *next; m != NULL; m = next) {
            next = m->next;
            free(m->kept);
            free(m);
        }
    }
    free(b->peers);
    free(b);
}

/* Sending. */

/* Room for `want` bytes after what is outstanding, first in first out; a drained arena begins again at 0.  false: wait. */
static bool arena_place(const mailbox *b, const lane *l, size_t want, size_t *offset)
{
    unsigned published = atomic_load_explicit(&l->published, memory_order_relaxed);
    unsigned consumed = atomic_load_explicit(&l->consumed, memory_order_acquire);
    if (published == consumed) {
        *offset = 0;
        return true;
    }
    if (published - consumed >= LANE_DESCRIPTORS)
        return false;
    const descriptor *oldest = &l->ring[consumed % LANE_DESCRIPTORS], *newest = &l->ring[(published - 1) % LANE_DESCRIPTORS];
    size_t begin = oldest->offset, end = mem_align((size_t)newest->offset + newest->bytes, 64);
    if (newest->offset >= begin) { /* used: [begin, end) */
        if (end + want <= b->arena_bytes) {
            *offset = end;
            return true;
        }
        end = 0;
    }
    *offset = end; /* used: [begin, ...) and [0, end); equal ends must not meet */
    return end + want < begin;
}

static status commit_to(mailbox *b, int to, size_t end)
{
    peer_state *p = &b->peers[to];
    size_t base = (size_t)(b->lanes - segment_base(b->host->segment));
    size_t index = (size_t)b->host->me * (size_t)b->host->size + (size_t)to;
    if (!p->lane_committed) {
        TRY(segment_commit(b->host->segment, base + LANE_BYTES * index, LANE_BYTES));
        p->lane_committed = true;
    }
    if (end > p->committed) {
        size_t upto = mem_align(end, COMMIT_STEP < b->arena_bytes ? COMMIT_STEP : b->arena_bytes);
        size_t arena = (size_t)(b->arenas - segment_base(b->host->segment)) + b->arena_bytes * index;
        TRY(segment_commit(b->host->segment, arena + p->committed, upto - p->committed));
        p->committed = upto;
    }
    return ST_OK;
}

/* Sends as much as there is room for. */
static status push(mailbox *b, mail_request *r)
{
    host *h = b->host;
    TRY(commit_to(b, r->peer, 0));
    lane *l = lane_of(b, h->me, r->peer);
    char *arena = arena_of(b, h->me, r->peer);
    bool any = false;
    do {
        size_t left = r->bytes - r->moved, most = left <= b->arena_bytes ? left : b->arena_bytes / 4, offset;
        if (!arena_place(b, l, most, &offset))
            break;
        TRY(commit_to(b, r->peer, offset + most));
        if (most > 0)
            memcpy(arena + offset, r->data + r->moved, most);
        unsigned n = atomic_load_explicit(&l->published, memory_order_relaxed);
        l->ring[n % LANE_DESCRIPTORS] =
            (descriptor){.key = r->key, .total = r->bytes, .offset = (uint32_t)offset, .bytes = (uint32_t)most};
        atomic_store_explicit(&l->published, n + 1, memory_order_release);
        r->moved += most;
        any = true;
        r->done = r->moved == r->bytes;
    } while (!r->done);
    if (any) {
        atomic_fetch_or(&h->shared->ranks[r->peer].inbox[h->me / 64], 1ull << (h->me % 64));
        host_wake(h, r->peer);
    }
    return ST_OK;
}

static status push_pending(mailbox *b)
{
    for (int i = 0; i < b->host->size && b->n_sending > 0; i++) {
        mail_list *l = &b->peers[i].sends;
        while (l->head != NULL) {
            mail_request *r = l->head;
            /* Announced before looking, so that a receiver that frees space afterwards wakes us. */
            atomic_store(&lane_of(b, b->host->me, i)->wants_room, 1);
            TRY(push(b, r));
            if (!r->done)
                break;
            list_remove(l, &l->head);
            b->n_sending--;
        }
        if (l->head == NULL && b->peers[i].lane_committed)
            atomic_store_explicit(&lane_of(b, b->host->me, i)->wants_room, 0, memory_order_relaxed);
    }
    return ST_OK;
}

status mailbox_send(mailbox *b, mail_request *r)
{
    mail_list *l = &b->peers[r->peer].sends;
    r->send = true;
    r->moved = 0;
    r->done = r->failed = false;
    if (l->head == NULL)
        TRY(push(b, r));
    if (!r->done) {
        list_add(l, r);
        b->n_sending++;
        return push_pending(b);
    }
    return ST_OK;
}

/* Receiving. */

static void finish(incoming *m)
{
    mail_request *r = m->claimed;
    if (!m->drop) {
        if (m->kept != NULL && !r->failed && m->total > 0)
            memcpy(r->data, m->kept, m->total);
        r->moved = m->total;
        r->done = true;
    }
    free(m->kept);
    free(m);
}

static void claim(incoming *m, mail_request *r)
{
    m->claimed = r;
    r->failed = m->total > r->bytes;
}

/* The first posted receive for this key, taken out of the list. */
static mail_request *take_posted(peer_state *p, uint64_t key)
{
    for (mail_request **at = &p->recvs.head; *at != NULL; at = &(*at)->next) {
        if ((*at)->key == key) {
            mail_request *r = *at;
            list_remove(&p->recvs, at);
            return r;
        }
    }
    return NULL;
}

static status begin_message(peer_state *p, const descriptor *d)
{
    incoming *m = NULL;
    TRY(mem_calloc(1, sizeof(*m), "message", &m));
    m->key = d->key;
    m->total = d->total;
    mail_request *r = take_posted(p, d->key);
    if (r != NULL) {
        claim(m, r);
    } else {
        m->kept = malloc(m->total == 0 ? 1 : m->total);
        if (m->kept == NULL) {
            free(m);
            return FAIL(ST_NO_MEMORY, "message of %llu bytes: out of memory", (unsigned long long)d->total);
        }
        *p->unclaimed_tail = m;
        p->unclaimed_tail = &m->next;
    }
    p->arriving = m;
    return ST_OK;
}

static status take_fragment(peer_state *p, const descriptor *d, const char *bytes)
{
    if (p->arriving == NULL)
        TRY(begin_message(p, d));
    incoming *m = p->arriving;
    char *to = m->kept != NULL ? m->kept : m->drop || m->claimed->failed ? NULL : m->claimed->data;
    if (to != NULL && d->bytes > 0)
        memcpy(to + m->got, bytes, d->bytes);
    m->got += d->bytes;
    if (m->got == m->total) {
        p->arriving = NULL;
        if (m->claimed != NULL || m->drop)
            finish(m);
    }
    return ST_OK;
}

static status drain(mailbox *b, int from)
{
    host *h = b->host;
    lane *l = lane_of(b, from, h->me);
    const char *arena = arena_of(b, from, h->me);
    unsigned n = atomic_load_explicit(&l->consumed, memory_order_relaxed);
    while (n != atomic_load_explicit(&l->published, memory_order_acquire)) {
        const descriptor d = l->ring[n % LANE_DESCRIPTORS];
        TRY(take_fragment(&b->peers[from], &d, arena + d.offset));
        atomic_store(&l->consumed, ++n);
        if (atomic_load(&l->wants_room) != 0)
            host_wake(h, from);
    }
    return ST_OK;
}

status mailbox_recv(mailbox *b, mail_request *r)
{
    peer_state *p = &b->peers[r->peer];
    r->send = false;
    r->done = r->failed = false;
    r->moved = 0;
    for (incoming **at = &p->unclaimed; *at != NULL; at = &(*at)->next) {
        incoming *m = *at;
        if (m->key != r->key)
            continue;
        *at = m->next;
        if (p->unclaimed_tail == &m->next)
            p->unclaimed_tail = at;
        m->next = NULL;
        claim(m, r);
        if (m->got == m->total)
            finish(m);
        return ST_OK;
    }
    list_add(&p->recvs, r);
    return ST_OK;
}

status mailbox_progress(mailbox *b)
{
    host_rank *me = &b->host->shared->ranks[b->host->me];
    for (int word = 0; word * 64 < b->host->size; word++) {
        if (atomic_load(&me->inbox[word]) == 0)
            continue;
        unsigned long long bits = atomic_exchange(&me->inbox[word], 0);
        for (; bits != 0; bits &= bits - 1)
            TRY(drain(b, word * 64 + __builtin_ctzll(bits)));
    }
    return b->n_sending > 0 ? push_pending(b) : ST_OK;
}

bool mailbox_sending(const mailbox *b)
{
    return b->n_sending > 0;
}

void mailbox_cancel(mailbox *b, mail_request *r)
{
    peer_state *p = &b->peers[r->peer];
    mail_list *l = r->send ? &p->sends : &p->recvs;
    for (mail_request **at = &l->head; *at != NULL; at = &(*at)->next) {
        if (*at == r) {
            list_remove(l, at);
            b->n_sending -= r->send;
            return;
        }
    }
    /* A receive whose message is arriving: the rest of it goes nowhere. */
    incoming *m = p->arriving;
    if (!r->send && m != NULL && m->claimed == r) {
        m->claimed = NULL;
        m->drop = true;
    }
}
