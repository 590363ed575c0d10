/* comm/collect.c - the collectives: one synchronisation on a host, two around the wire between hosts.
 *
 * Sums: members of a host in group order, then hosts in order, element by element.  How the elements are cut up (slices for each rank,
 * pieces for the wire, who adds what) never changes the order in which one element's terms are added. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "comm/group.h"

#define SMALL_BYTES 16384 /* up to here everyone adds everything: a second synchronisation costs more */
#define SMALL_WIRE 4096   /* floats; up to here each host sends all to each other host: one message's delay instead of two */
#define BLOCK 1024

/* out = parts[0] + parts[1] + ... in that order; out may be one of the parts. */
static void sum_parts(float *out, const float *const *parts, int n_parts, size_t begin, size_t end)
{
    float sum[BLOCK];
    for (size_t at = begin; at < end; at += BLOCK) {
        size_t n = end - at < BLOCK ? end - at : BLOCK;
        memcpy(sum, parts[0] + at, n * sizeof(float));
        for (int k = 1; k < n_parts; k++) {
            const float *restrict p = parts[k] + at;
            for (size_t i = 0; i < n; i++)
                sum[i] += p[i];
        }
        memcpy(out + at, sum, n * sizeof(float));
    }
}

/* Waiting for the members of this host. */

static bool all_came(const comm_group *g)
{
    for (int i = 0; i < g->n_local; i++)
        if ((int)(atomic_load(&g->lines[i].seq) - g->seq) < 0)
            return false;
    return true;
}

typedef struct sync_wait {
    comm_group *g;
    bool gone;
} sync_wait;

static bool missing_has_left(const comm_group *g)
{
    for (int i = 0; i < g->n_local; i++)
        if ((int)(atomic_load(&g->lines[i].seq) - g->seq) < 0 && host_has_left(&g->w->host, g->w->local_of[g->ranks[group_local_member(g, i)]]))
            return true;
    return false;
}

static bool sync_ready(void *arg)
{
    sync_wait *s = arg;
    if (all_came(s->g))
        return true;
    if (missing_has_left(s->g)) /* it may have come just before it left */
        s->gone = !all_came(s->g);
    return s->gone;
}

static status sync_failed(comm_group *g, status st, const char *what, bool gone)
{
    mem_str text = {0};
    int first = -1, n = 0;
    for (int i = 0; i < g->n_local; i++) {
        int rank = g->ranks[group_local_member(g, i)];
        if ((int)(atomic_load(&g->lines[i].seq) - g->seq) >= 0)
            continue;
        mem_str_printf(&text, "%s%d", n++ > 0 ? ", " : "", rank);
        first = first < 0 ? rank : first;
    }
    const char *who = text.failed || text.data == NULL ? "?" : text.data;
    if (gone)
        st = world_break(g->w, st, first, "rank %s left the job while others were in %s", who, what);
    else
        st = world_break(g->w, st, first, "rank%s %s did not come to %s within %d ms", n > 1 ? "s" : "", who, what, g->timeout_ms);
    mem_str_free(&text);
    return st;
}

status group_sync(comm_group *g, const char *what, int64_t deadline_ns)
{
    g->seq++;
    atomic_store(&g->lines[g->my_local].seq, g->seq);
    if (all_came(g)) { /* only the last to come wakes the others */
        for (int i = 0; i < g->n_local; i++)
            host_wake(&g->w->host, g->w->local_of[g->ranks[group_local_member(g, i)]]);
        return host_aborted(&g->w->host) ? world_aborted(g->w) : ST_OK;
    }
    int64_t begin = sync_now_ns();
    sync_wait s = {g, false};
    status st = world_wait(g->w, sync_ready, &s, deadline_ns != 0 ? deadline_ns : world_deadline(g->timeout_ms), SPIN_GROUP_NS, 0, false);
    g->stats.wait_seconds += 1e-9 * (double)(sync_now_ns() - begin);
    if (st == ST_TIMEOUT)
        return sync_failed(g, st, what, false);
    return st == ST_OK && s.gone ? sync_failed(g, ST_PEER, what, true) : st;
}

/* Between hosts: a set of messages that one operation waits for. */

typedef struct wire_set {
    comm_group *g;
    int n;         /* requests begun */
    int first;     /* not done yet */
    status st;
} wire_set;

static bool wire_ready(void *arg)
{
    wire_set *s = arg;
    comm_world *w = s->g->w;
    for (; s->first < s->n; s->first++) {
        bool done = false;
        s->st = w->ops->test(w->wire, &s->g->requests[s->first], &done, NULL);
        if (s->st != ST_OK)
            return true;
        if (!done)
            return false;
    }
    return true;
}

static status wire_begin(wire_set *s, bool send, int member, void *data, size_t bytes)
{
    comm_group *g = s->g;
    comm_world *w = g->w;
    int rank = g->ranks[member];
    status st = send ? w->ops->send(w->wire, rank, COMM_CHANNEL_GROUP, g->tag, data, bytes, &g->requests[s->n])
                     : w->ops->recv(w->wire, rank, COMM_CHANNEL_GROUP, g->tag, data, bytes, &g->requests[s->n]);
    if (st != ST_OK)
        return world_break(w, st, rank, "%s rank %d over %s: %s", send ? "sending to" : "receiving from", rank, w->ops->name,
                           w->ops->error(w->wire));
    g->request_peer[s->n++] = rank;
    g->stats.bytes += bytes;
    return ST_OK;
}

static status wire_end(wire_set *s, const char *what, int64_t deadline_ns)
{
    comm_group *g = s->g;
    int64_t begin = sync_now_ns();
    status st = world_wait(g->w, wire_ready, s, deadline_ns, SPIN_GROUP_NS, 0, true);
    g->stats.wait_seconds += 1e-9 * (double)(sync_now_ns() - begin);
    int peer = s->first < s->n ? g->request_peer[s->first] : -1;
    if (st == ST_OK && s->st != ST_OK)
        st = world_break(g->w, s->st, peer, "%s with rank %d over %s: %s", what, peer, g->w->ops->name, g->w->ops->error(g->w->wire));
    else if (st == ST_TIMEOUT)
        st = world_break(g->w, st, peer, "rank %d did not come to %s within %d ms", peer, what, g->timeout_ms);
    for (int i = s->first; st != ST_OK && i < s->n; i++)
        g->w->ops->cancel(g->w->wire, &g->requests[i]);
    return st;
}

/* The member of another host that holds the same place as I do on mine. */
static int counterpart(const comm_group *g, int h)
{
    int n = g->host_begin[h + 1] - g->host_begin[h];
    return g->by_host[g->host_begin[h] + g->my_local % n];
}

/* data[0..n) += the other hosts', in host order. Each host sends all it has to each other. */
static status cross_direct(comm_group *g, float *data, size_t n, const char *what, int64_t deadline_ns)
{
    wire_set s = {.g = g};
    const float *parts[COMM_MAX_HOSTS];
    for (int h = 0; h < g->n_hosts; h++) {
        parts[h] = h == g->my_host ? data : g->wire_in + (size_t)h * g->piece;
        if (h != g->my_host)
            TRY(wire_begin(&s, false, counterpart(g, h), g->wire_in + (size_t)h * g->piece, n * sizeof(float)));
    }
    for (int h = 0; h < g->n_hosts; h++)
        if (h != g->my_host)
            TRY(wire_begin(&s, true, counterpart(g, h), data, n * sizeof(float)));
    TRY(wire_end(&s, what, deadline_ns));
    sum_parts(data, parts, g->n_hosts, 0, n);
    return ST_OK;
}

static size_t share_of(size_t n, int i, int of)
{
    return i >= of ? n : n / (size_t)of * (size_t)i / 16 * 16;
}

/* The same in two rounds: each host adds one slice, then all slices are gathered. */
static status cross_sliced(comm_group *g, float *data, size_t n, const char *what, int64_t deadline_ns)
{
    const float *parts[COMM_MAX_HOSTS];
    size_t begin = share_of(n, g->my_host, g->n_hosts), end = share_of(n, g->my_host + 1, g->n_hosts);
    wire_set s = {.g = g};
    for (int h = 0; h < g->n_hosts; h++) {
        parts[h] = h == g->my_host ? data + begin : g->wire_in + (size_t)h * g->piece;
        if (h != g->my_host)
            TRY(wire_begin(&s, false, counterpart(g, h), g->wire_in + (size_t)h * g->piece, (end - begin) * sizeof(float)));
    }
    for (int h = 0; h < g->n_hosts; h++) {
        size_t b = share_of(n, h, g->n_hosts), e = share_of(n, h + 1, g->n_hosts);
        if (h != g->my_host)
            TRY(wire_begin(&s, true, counterpart(g, h), data + b, (e - b) * sizeof(float)));
    }
    TRY(wire_end(&s, what, deadline_ns));
    sum_parts(data + begin, parts, g->n_hosts, 0, end - begin);
    s = (wire_set){.g = g};
    for (int h = 0; h < g->n_hosts; h++) {
        size_t b = share_of(n, h, g->n_hosts), e = share_of(n, h + 1, g->n_hosts);
        if (h != g->my_host)
            TRY(wire_begin(&s, false, counterpart(g, h), data + b, (e - b) * sizeof(float)));
    }
    for (int h = 0; h < g->n_hosts; h++)
        if (h != g->my_host)
            TRY(wire_begin(&s, true, counterpart(g, h), data + begin, (end - begin) * sizeof(float)));
    return wire_end(&s, what, deadline_ns);
}

static status cross_hosts(comm_group *g, float *data, size_t n, const char *what, int64_t deadline_ns)
{
    for (size_t at = 0; at < n; at += g->piece) {
        size_t piece = n - at < g->piece ? n - at : g->piece;
        if (g->n_hosts == 2 || piece <= SMALL_WIRE)
            TRY(cross_direct(g, data + at, piece, what, deadline_ns));
        else
            TRY(cross_sliced(g, data + at, piece, what, deadline_ns));
    }
    return ST_OK;
}

/* Partials of all local members are in their slots; leaves the group's sum in results[p]. */
static status reduce_wide(comm_group *g, int p, size_t bytes, const char *what, int64_t deadline_ns)
{
    const float *parts[HOST_MAX_RANKS];
    size_t n = bytes / sizeof(float);
    int channels = bytes <= SMALL_BYTES ? 1 : g->channels;
    float *result = (float *)g->results[p];
    for (int i = 0; i < g->n_local; i++)
        parts[i] = (const float *)g->slots[p][i];
    TRY(group_sync(g, what, deadline_ns));
    if (g->my_local < channels) {
        size_t begin = share_of(n, g->my_local, channels), end = share_of(n, g->my_local + 1, channels);
        sum_parts(result, parts, g->n_local, begin, end);
        TRY(cross_hosts(g, result + begin, end - begin, what, deadline_ns));
    }
    return group_sync(g, what, deadline_ns);
}

/* The collectives. */

static status check_call(const comm_group *g, const char *what, size_t bytes)
{
    if (host_aborted(&g->w->host))
        return world_aborted(g->w);
    if (bytes > g->slot_bytes)
        return FAIL(ST_INVALID, "%s of %zu bytes in a group made for %zu", what, bytes, g->slot_bytes);
    return ST_OK;
}

status comm_exchange_begin(comm_group *g, size_t bytes, void **slot)
{
    if (g->device != NULL)
        return group_device_slot(g, bytes, slot);
    TRY(check_call(g, "exchange", bytes));
    *slot = g->slots[g->op & 1][g->my_local];
    return ST_OK;
}

status comm_exchange_end(comm_group *g, size_t bytes, const float *const **parts, int *n_parts)
{
    if (g->device != NULL)
        return group_device_exchange(g, bytes, parts, n_parts);
    int p = (int)(g->op++ & 1);
    g->stats.calls++;
    g->stats.bytes += bytes;
    *parts = (const float *const *)g->parts[p];
    *n_parts = g->n_hosts > 1 ? 1 : g->n_local;
    if (g->n_hosts > 1)
        return reduce_wide(g, p, bytes, "exchange", world_deadline(g->timeout_ms));
    return g->n_local > 1 ? group_sync(g, "exchange", 0) : ST_OK;
}

/* One host.  Small: everyone adds everything.  Large: everyone adds its slice in its own slot, where nobody else reads that
 * slice before the second synchronisation. */
static status reduce_local(comm_group *g, float *data, size_t n, int64_t deadline_ns)
{
    int p = (int)(g->op++ & 1), me = g->my_local;
    const float *const *parts = (const float *const *)g->parts[p];
    memcpy(g->slots[p][me], data, n * sizeof(float));
    TRY(group_sync(g, "all-reduce", deadline_ns));
    if (n * sizeof(float) <= SMALL_BYTES) {
        sum_parts(data, parts, g->n_local, 0, n);
        return ST_OK;
    }
    sum_parts((float *)g->slots[p][me], parts, g->n_local, share_of(n, me, g->n_local), share_of(n, me + 1, g->n_local));
    TRY(group_sync(g, "all-reduce", deadline_ns));
    for (int i = 0; i < g->n_local; i++) {
        size_t begin = share_of(n, i, g->n_local), end = share_of(n, i + 1, g->n_local);
        memcpy(data + begin, parts[i] + begin, (end - begin) * sizeof(float));
    }
    return ST_OK;
}

status comm_all_reduce(comm_group *g, float *data, size_t n)
{
    TRY(check_call(g, "all-reduce", 0));
    g->stats.calls++;
    g->stats.bytes += n * sizeof(float);
    if (g->n == 1)
        return ST_OK;
    int64_t deadline_ns = world_deadline(g->timeout_ms);
    size_t most = g->slot_bytes / sizeof(float);
    for (size_t at = 0; at < n; at += most) {
        size_t piece = n - at < most ? n - at : most;
        if (g->n_hosts == 1) {
            TRY(reduce_local(g, data + at, piece, deadline_ns));
            continue;
        }
        int p = (int)(g->op++ & 1);
        memcpy(g->slots[p][g->my_local], data + at, piece * sizeof(float));
        TRY(reduce_wide(g, p, piece * sizeof(float), "all-reduce", deadline_ns));
        memcpy(data + at, g->results[p], piece * sizeof(float));
    }
    return ST_OK;
}

/* Bytes of member i in the round that begins at `at`. */
static size_t round_bytes(const size_t *bytes, int i, size_t at, size_t chunk)
{
    size_t left = bytes[i] > at ? bytes[i] - at : 0;
    return left < chunk ? left : chunk;
}

/* Mine goes to one member on each other host; that of each remote member comes to one of us. */
static status gather_wire(comm_group *g, int p, const size_t *bytes, size_t at, const char *what, int64_t deadline_ns)
{
    wire_set s = {.g = g};
    for (int i = 0; i < g->n; i++) {
        int h = g->host_of[i];
        size_t take = round_bytes(bytes, i, at, g->chunk_bytes);
        if (h == g->my_host || take == 0)
            continue;
        int place = 0; /* of member i on its host */
        while (g->by_host[g->host_begin[h] + place] != i)
            place++;
        if (place % g->n_local == g->my_local)
            TRY(wire_begin(&s, false, i, g->gather[p][i], take));
    }
    size_t mine = round_bytes(bytes, g->me, at, g->chunk_bytes);
    for (int h = 0; h < g->n_hosts && mine > 0; h++)
        if (h != g->my_host)
            TRY(wire_begin(&s, true, counterpart(g, h), g->gather[p][g->me], mine));
    return wire_end(&s, what, deadline_ns);
}

/* Member i's bytes[i] go to all + where they belong on every member; copy_out false for the one that has them already. */
static status gather(comm_group *g, const char *mine, const size_t *bytes, char *all, bool copy_out, const char *what)
{
    TRY(check_call(g, what, 0));
    int64_t deadline_ns = world_deadline(g->timeout_ms);
    size_t chunk = g->n_hosts > 1 ? g->chunk_bytes : g->slot_bytes, longest = 0;
    for (int i = 0; i < g->n; i++)
        longest = bytes[i] > longest ? bytes[i] : longest;
    g->stats.calls++;
    for (size_t at = 0; at < longest; at += chunk) {
        int p = (int)(g->op++ & 1);
        size_t n = round_bytes(bytes, g->me, at, chunk);
        if (n > 0)
            memcpy(g->gather[p][g->me], mine + at, n);
        g->stats.bytes += n;
        if (g->n_hosts > 1)
            TRY(gather_wire(g, p, bytes, at, what, deadline_ns));
        TRY(group_sync(g, what, deadline_ns));
        size_t offset = 0;
        for (int i = 0; i < g->n && copy_out; offset += bytes[i], i++) {
            n = round_bytes(bytes, i, at, chunk);
            if (n > 0)
                memcpy(all + offset + at, g->gather[p][i], n);
        }
    }
    return ST_OK;
}

status comm_all_gather(comm_group *g, const void *mine, const size_t *bytes, void *all)
{
    return gather(g, mine, bytes, all, true, "all-gather");
}

status comm_broadcast(comm_group *g, int root, void *data, size_t bytes)
{
    size_t *sizes = NULL;
    if (root < 0 || root >= g->n)
        return FAIL(ST_INVALID, "broadcast from member %d of %d", root, g->n);
    TRY(mem_calloc((size_t)g->n, sizeof(*sizes), "broadcast", &sizes));
    sizes[root] = bytes;
    status st = gather(g, data, sizes, data, g->me != root, "broadcast");
    free(sizes);
    return st;
}

status comm_barrier(comm_group *g)
{
    TRY(check_call(g, "barrier", 0));
    int64_t deadline_ns = world_deadline(g->timeout_ms);
    g->stats.calls++;
    TRY(group_sync(g, "barrier", deadline_ns));
    if (g->n_hosts == 1)
        return ST_OK;
    if (g->my_local == 0) {
        wire_set s = {.g = g};
        for (int send = 0; send < 2; send++)
            for (int h = 0; h < g->n_hosts; h++)
                if (h != g->my_host)
                    TRY(wire_begin(&s, send == 1, g->by_host[g->host_begin[h]], g->results[0], 0));
        TRY(wire_end(&s, "barrier", deadline_ns));
    }
    return group_sync(g, "barrier", deadline_ns);
}

status comm_all_gather_equal(comm_group *g, const void *mine, size_t bytes, void *all)
{
    size_t *sizes;
    TRY(mem_calloc((size_t)g->n, sizeof(*sizes), "group", &sizes));
    for (int i = 0; i < g->n; i++)
        sizes[i] = bytes;
    status st = comm_all_gather(g, mine, sizes, all);
    free(sizes);
    return st;
}
