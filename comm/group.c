/* comm/group.c - making and leaving a group: members by host, the shared memory on each host, the agreement that all have it. */
#include "comm/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define PAGE 4096
#define CHUNK_BYTES ((size_t)256 << 10)

typedef struct group_message {
    int32_t st;
    segment_handle handle;
    char text[512];
} group_message;

static status check_ranks(const comm_world *w, const int *ranks, int n, int *me)
{
    *me = -1;
    if (n < 1 || n > w->size)
        return FAIL(ST_INVALID, "group of %d ranks in a world of %d", n, w->size);
    for (int i = 0; i < n; i++) {
        if (ranks[i] < 0 || ranks[i] >= w->size)
            return FAIL(ST_INVALID, "group: rank %d of %d", ranks[i], w->size);
        for (int j = 0; j < i; j++)
            if (ranks[j] == ranks[i])
                return FAIL(ST_INVALID, "group: rank %d is listed twice", ranks[i]);
        if (ranks[i] == w->rank)
            *me = i;
    }
    return *me >= 0 ? ST_OK : FAIL(ST_INVALID, "group: rank %d makes a group it is not a member of", w->rank);
}

/* Members host by host; hosts in the order of their first members. */
static status arrange(comm_group *g)
{
    const comm_world *w = g->w;
    TRY(mem_calloc((size_t)g->n, sizeof(int), "group", &g->host_of));
    TRY(mem_calloc((size_t)g->n, sizeof(int), "group", &g->by_host));
    TRY(mem_calloc((size_t)g->n + 1, sizeof(int), "group", &g->host_begin));
    int at = 0;
    for (int i = 0; i < g->n; i++) {
        bool seen = false;
        for (int j = 0; j < i && !seen; j++)
            seen = w->host_of[g->ranks[j]] == w->host_of[g->ranks[i]];
        if (seen)
            continue;
        for (int j = i; j < g->n; j++) {
            if (w->host_of[g->ranks[j]] != w->host_of[g->ranks[i]])
                continue;
            g->host_of[j] = g->n_hosts;
            if (j == g->me) {
                g->my_host = g->n_hosts;
                g->my_local = at - g->host_begin[g->n_hosts];
            }
            g->by_host[at++] = j;
        }
        g->host_begin[++g->n_hosts] = at;
    }
    if (g->n_hosts > COMM_MAX_HOSTS)
        return FAIL(ST_LIMIT, "group over %d hosts: at most %d", g->n_hosts, COMM_MAX_HOSTS);
    g->n_local = g->host_begin[g->my_host + 1] - g->host_begin[g->my_host];
    g->channels = g->n_local;
    for (int h = 0; h < g->n_hosts; h++)
        if (g->host_begin[h + 1] - g->host_begin[h] < g->channels)
            g->channels = g->host_begin[h + 1] - g->host_begin[h];
    return ST_OK;
}

/* Where things lie in the segment (see group.h). */
typedef struct group_layout {
    size_t results, result_stride, gather, gather_stride, common, slots, slot_stride, member_stride, bytes;
} group_layout;

static status layout_of(const comm_group *g, group_layout *l)
{
    bool wide = g->n_hosts > 1;
    size_t members;
    l->results = mem_align((size_t)g->n_local * sizeof(group_line), PAGE);
    l->result_stride = mem_align(g->slot_bytes, PAGE);
    l->gather = l->results + (wide ? 2 * l->result_stride : 0);
    l->gather_stride = mem_align(g->chunk_bytes, PAGE);
    l->common = l->gather + (wide ? 2 * l->gather_stride * (size_t)g->n : 0);
    if (g->common_bytes > SIZE_MAX / 2)
        return FAIL(ST_LIMIT, "group: %zu bytes in common", g->common_bytes);
    l->slots = l->common + (wide ? 0 : mem_align(g->common_bytes, PAGE));
    /* Two slots, and a page over which the members' slots are skewed, so that equal places of them do not alias. */
    l->slot_stride = mem_align(g->slot_bytes, 64);
    l->member_stride = mem_align(2 * l->slot_stride + PAGE, PAGE);
    if (!mem_mul(l->member_stride, (size_t)g->n_local, &members) || !mem_add(l->slots, members, &l->bytes))
        return FAIL(ST_LIMIT, "group: %zu bytes of exchange", g->slot_bytes);
    return ST_OK;
}

static status place(comm_group *g, const group_layout *l)
{
    char *base = segment_base(g->segment);
    g->lines = (group_line *)base;
    g->common = g->common_bytes > 0 && g->n_hosts == 1 ? base + l->common : NULL;
    for (int p = 0; p < 2; p++) {
        TRY(mem_calloc((size_t)g->n_local, sizeof(char *), "group", &g->slots[p]));
        TRY(mem_calloc((size_t)g->n, sizeof(char *), "group", &g->gather[p]));
        TRY(mem_calloc((size_t)g->n_local, sizeof(float *), "group", &g->parts[p]));
        g->results[p] = base + l->results + (size_t)p * l->result_stride;
        for (int i = 0; i < g->n; i++)
            g->gather[p][i] = base + l->gather + (size_t)(2 * i + p) * l->gather_stride;
        for (int i = 0; i < g->n_local; i++) {
            size_t skew = (size_t)i * 320 % PAGE;
            g->slots[p][i] = base + l->slots + (size_t)i * l->member_stride + (size_t)p * l->slot_stride + skew;
            g->gather[p][group_local_member(g, i)] = g->slots[p][i];
            g->parts[p][i] = (const float *)g->slots[p][i];
        }
        if (g->n_hosts > 1)
            g->parts[p][0] = (const float *)g->results[p];
    }
    /* Each rank's pages from its own memory node; the shared ones from the first. */
    if (g->my_local == 0)
        TRY(segment_commit(g->segment, 0, l->slots));
    TRY(segment_commit(g->segment, l->slots + (size_t)g->my_local * l->member_stride, l->member_stride));
    memset(base + l->slots + (size_t)g->my_local * l->member_stride, 0, l->member_stride);
    return ST_OK;
}

static status attach(comm_group *g, const group_message *m)
{
    if (m->st != ST_OK) {
        status_message_set(m->text);
        return (status)m->st;
    }
    return segment_attach(&m->handle, &g->segment);
}

/* The first local member makes the segment and tells the others. */
static status share(comm_group *g, const group_layout *l, int64_t deadline_ns)
{
    comm_world *w = g->w;
    group_message m = {0};
    comm_request *request = NULL;
    if (g->my_local != 0) {
        TRY(p2p_recv(w, g->ranks[group_local_member(g, 0)], COMM_CHANNEL_CONTROL, CONTROL_GROUP, &m, sizeof(m), &request));
        status st = p2p_wait(w, &request, deadline_ns, NULL);
        p2p_cancel(w, &request);
        if (st == ST_TIMEOUT)
            return FAIL(st, "group: rank %d did not come in time", g->ranks[group_local_member(g, 0)]);
        return st == ST_OK ? attach(g, &m) : st;
    }
    m.st = segment_create(l->bytes, l->bytes, w->host.processes && g->n_local > 1, &g->segment);
    if (m.st == ST_OK)
        segment_handle_get(g->segment, &m.handle);
    else
        snprintf(m.text, sizeof(m.text), "%s", status_message());
    status st = ST_OK;
    for (int i = 1; i < g->n_local && st == ST_OK; i++) {
        st = p2p_send(w, g->ranks[group_local_member(g, i)], COMM_CHANNEL_CONTROL, CONTROL_GROUP, &m, sizeof(m), &request);
        if (st == ST_OK)
            st = p2p_wait(w, &request, deadline_ns, NULL);
        p2p_cancel(w, &request);
    }
    return m.st != ST_OK ? (status)m.st : st;
}

static status build(comm_group *g)
{
    group_layout l = {0};
    TRY(arrange(g));
    TRY(mem_calloc((size_t)g->n * 2, sizeof(*g->requests), "group", &g->requests));
    TRY(mem_calloc((size_t)g->n * 2, sizeof(int), "group", &g->request_peer));
    size_t most = GROUP_WIRE_BYTES / sizeof(float) / (size_t)g->n_hosts, slot = g->slot_bytes / sizeof(float);
    g->piece = most > GROUP_LEAST_PIECE ? most : GROUP_LEAST_PIECE;
    g->piece = g->piece < slot ? g->piece : slot;
    if (g->n_hosts > 1)
        TRY(mem_calloc((size_t)g->n_hosts * g->piece, sizeof(float), "group", &g->wire_in));
    TRY(layout_of(g, &l));
    g->segment_bytes = l.bytes;
    TRY(share(g, &l, world_deadline(g->timeout_ms)));
    return place(g, &l);
}

status comm_group_create(comm_world *w, const int *ranks, int n, size_t exchange_bytes, int timeout_ms, comm_group **out)
{
    return comm_group_create_common(w, ranks, n, exchange_bytes, 0, timeout_ms, out);
}

status comm_group_create_common(comm_world *w, const int *ranks, int n, size_t exchange_bytes, size_t common_bytes, int timeout_ms, comm_group **out)
{
    int me;
    comm_group *g = NULL;
    TRY(check_ranks(w, ranks, n, &me));
    TRY(mem_calloc(1, sizeof(*g), "group", &g));
    *g = (comm_group){.w = w, .n = n, .me = me, .timeout_ms = timeout_ms, .common_bytes = common_bytes};
    g->slot_bytes = exchange_bytes > PAGE ? mem_align(exchange_bytes, 64) : PAGE;
    g->chunk_bytes = g->slot_bytes < CHUNK_BYTES ? g->slot_bytes : CHUNK_BYTES;
    status st = mem_calloc((size_t)n, sizeof(int), "group", &g->ranks);
    if (st == ST_OK) {
        memcpy(g->ranks, ranks, (size_t)n * sizeof(int));
        st = build(g);
    }
    /* All or none: a member without the group would leave the others to their deadlines. */
    uint32_t tag = (uint32_t)ranks[0] << 10 | (w->group_count++ & 1023);
    if (st != ST_ABORTED && st != ST_PEER)
        st = agree_over(w, ranks, n, CONTROL_GROUP_AGREE, st, timeout_ms, NULL, &tag);
    g->tag = (int)(tag & 0x7fffffff);
    if (g->segment != NULL)
        segment_unlink(g->segment);
    if (st != ST_OK)
        comm_group_destroy(&g);
    *out = g;
    return st;
}

void comm_group_destroy(comm_group **group)
{
    comm_group *g = *group;
    if (g == NULL)
        return;
    *group = NULL;
    group_device_destroy(g);
    segment_close(&g->segment);
    for (int p = 0; p < 2; p++) {
        free(g->slots[p]);
        free(g->gather[p]);
        free(g->parts[p]);
    }
    free(g->ranks);
    free(g->host_of);
    free(g->by_host);
    free(g->host_begin);
    free(g->wire_in);
    free(g->requests);
    free(g->request_peer);
    free(g);
}

int comm_group_size(const comm_group *g)
{
    return g->n;
}
int comm_group_rank(const comm_group *g)
{
    return g->me;
}
void *comm_group_common(const comm_group *g)
{
    return g->common;
}
void comm_exchange_memory(const comm_group *g, void **base, size_t *bytes)
{
    *base = segment_base(g->segment);
    *bytes = g->segment_bytes;
}
void comm_group_stats(const comm_group *g, comm_stats *out)
{
    *out = g->stats;
}
