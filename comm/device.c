/* comm/device.c - a group on devices: how its members come together, and the thread that watches what the device waits for. */
#include "comm/device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "comm/group.h"

#define WATCH_NS 10000000

struct group_device {
    comm_group *g;
    const comm_device_ops *ops;
    comm_device *d;
    bool watched;
    pthread_t watcher;
    atomic_int leave;
};

/* ---- coming together ---- */

typedef struct card { /* what a member brings to each round */
    int32_t st;
    char text[380];
    unsigned char blob[COMM_DEVICE_BLOB];
} card;

/* Nobody watches yet. */
static bool world_is_over(void *arg)
{
    comm_world *w = ((const comm_group *)arg)->w;
    int dead = host_find_dead(&w->host, sync_now_ns());
    if (dead >= 0)
        world_break(w, ST_PEER, w->on_my_host[dead], "rank %d ended without leaving the job (killed or crashed) while the devices came together: see its log, and start the job again",
                    w->on_my_host[dead]);
    return host_aborted(&w->host);
}

/* All members' statuses and blobs: the first failure is everybody's. */
static status gather_cards(comm_group *g, status mine, const void *blob, unsigned char *blobs)
{
    card me = {.st = mine}, *all = NULL;
    snprintf(me.text, sizeof(me.text), "%s", mine == ST_OK ? "" : status_message());
    memcpy(me.blob, blob, sizeof(me.blob));
    status st = mem_calloc((size_t)g->n, sizeof(*all), "group", &all);
    if (st == ST_OK)
        st = comm_all_gather_equal(g, &me, sizeof(me), all);
    bool serious = false;
    status first = ST_OK;
    for (int i = 0; i < g->n && st == ST_OK; i++) {
        memcpy(blobs + (size_t)i * COMM_DEVICE_BLOB, all[i].blob, COMM_DEVICE_BLOB);
        bool worse = all[i].st != ST_OK && all[i].st != ST_UNSUPPORTED;
        if (all[i].st == ST_OK || (first != ST_OK && (serious || !worse)))
            continue;
        serious = worse; /* what cannot be done here gives way to what went wrong */
        first = (status)all[i].st;
        all[i].text[sizeof(all[i].text) - 1] = '\0';
        status_message_set(all[i].text);
    }
    free(all);
    return st != ST_OK ? st : first;
}

static status come_together(comm_group *g, const comm_device_spec *spec, comm_device **out)
{
    const comm_device_ops *ops = spec->ops;
    unsigned char blob[COMM_DEVICE_BLOB] = {0}, *blobs = NULL;
    comm_device_members m = {.n = g->n, .me = g->me, .rank = g->ranks, .host = g->host_of, .exchange_bytes = spec->exchange_bytes, .device = spec->device, .stream = spec->stream,
                             .choice = spec->choice, .timeout_ms = g->timeout_ms, .aborted = world_is_over, .aborted_arg = g};
    TRY(mem_calloc((size_t)g->n, COMM_DEVICE_BLOB, "group", &blobs));
    status st = ops->version == COMM_DEVICE_VERSION ? ops->create(&m, blob, out) : FAIL(ST_UNSUPPORTED, "the plugin's collectives are of another version than this program");
    st = gather_cards(g, st, blob, blobs);
    if (st == ST_OK) {
        memset(blob, 0, sizeof(blob));
        st = ops->open(*out, blobs, blob);
        st = gather_cards(g, st, blob, blobs);
    }
    if (st == ST_OK) {
        st = ops->start(*out, blobs);
        if (st != ST_OK && st != ST_UNSUPPORTED && st != ST_ABORTED) { /* the others wait for this rank inside */
            char text[512];
            snprintf(text, sizeof(text), "%s", status_message());
            st = world_break(g->w, st, g->w->rank, "%s", text);
        }
        st = gather_cards(g, st, blob, blobs);
    }
    free(blobs);
    return st;
}

/* ---- watching ---- */

typedef struct watch {
    uint32_t begun, ended;
    int64_t since_ns;
} watch;

static const char *op_name(comm_device_op op)
{
    static const char *const names[] = {"an operation", "the exchange", "the all-reduce", "the all-gather", "the broadcast", "a send", "a receive", "the alignment"};
    return (size_t)op < ARRAY_LEN(names) ? names[op] : names[0];
}

static int left_member(const comm_group *g)
{
    for (int i = 0; i < g->n_local; i++) {
        int rank = g->ranks[group_local_member(g, i)];
        if (rank != g->w->rank && host_has_left(&g->w->host, g->w->local_of[rank]))
            return rank;
    }
    return -1;
}

static void members_text(const comm_group *g, uint64_t which, char *out, size_t bytes)
{
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < g->n && at + 8 < bytes; i++)
        if (i != g->me && (which == 0 || (which >> i & 1) != 0))
            at += (size_t)snprintf(out + at, bytes - at, "%s%d", at > 0 ? ", " : "", g->ranks[i]);
}

/* Looks once; aborts the world where the device waits in vain. */
static void look(struct group_device *gd, watch *w)
{
    comm_group *g = gd->g;
    comm_device_state s;
    char who[160];
    gd->ops->state(gd->d, &s);
    int64_t now = sync_now_ns();
    if (s.begun != w->begun || s.ended != w->ended || s.begun == s.ended)
        *w = (watch){s.begun, s.ended, now};
    if (s.failed != ST_OK) {
        world_break(g->w, s.failed, g->w->rank, "rank %d in %s on its device (operation %u): %s", g->w->rank, op_name(s.op), s.begun, s.why);
        return;
    }
    if (s.begun == s.ended)
        return;
    int dead = host_find_dead(&g->w->host, now), left = dead < 0 ? left_member(g) : -1;
    if (dead >= 0)
        world_break(g->w, ST_PEER, g->w->on_my_host[dead], "rank %d ended without leaving the job (killed or crashed) while rank %d was in %s on its device (operation %u): see its log, and start the job again",
                    g->w->on_my_host[dead], g->w->rank, op_name(s.op), s.begun);
    else if (left >= 0 && now - w->since_ns > 10 * WATCH_NS)
        world_break(g->w, ST_PEER, left, "rank %d left the job while rank %d was in %s on its device (operation %u): see its log, and start the job again", left, g->w->rank, op_name(s.op), s.begun);
    else if (g->timeout_ms >= 0 && now - w->since_ns > (int64_t)g->timeout_ms * 1000000) {
        members_text(g, s.missing, who, sizeof(who));
        world_break(g->w, ST_TIMEOUT, g->w->rank, "rank %d waited %d ms in %s on its device (operation %u) for rank%s %s%s: look at their logs, and start the job again", g->w->rank, g->timeout_ms,
                    op_name(s.op), s.begun, strchr(who, ',') != NULL ? "s" : "", s.missing == 0 && g->n > 2 ? "one of " : "", who);
    }
}

static void *watch_thread(void *arg)
{
    struct group_device *gd = arg;
    watch w = {0, 0, sync_now_ns()};
    while (atomic_load(&gd->leave) == 0) {
        if (!host_aborted(&gd->g->w->host))
            look(gd, &w);
        if (host_aborted(&gd->g->w->host)) {
            gd->ops->abort(gd->d);
            break;
        }
        struct timespec t = {.tv_nsec = WATCH_NS};
        nanosleep(&t, NULL);
    }
    return NULL;
}

/* A call that fails on one rank leaves the others waiting: the world ends with its message, which is logged once, there. */
static status called(comm_group *g, status st)
{
    status_unmute();
    if (st == ST_OK)
        return ST_OK;
    char text[512];
    snprintf(text, sizeof(text), "%s", status_message());
    if (st == ST_INVALID) /* refused before anything was queued */
        return FAIL(st, "%s", text);
    if (st != ST_ABORTED)
        return world_break(g->w, st, g->w->rank, "%s", text);
    while (!host_aborted(&g->w->host))
        sync_pause();
    return world_aborted(g->w);
}

/* The device's operation, its failures told by called() alone. */
#define CALL(g, operation) (status_mute(), called(g, (g)->device->ops->operation))

/* ---- the group ---- */

status comm_group_device(comm_group *g, const comm_device_spec *spec)
{
    struct group_device *gd = NULL;
    comm_device *d = NULL;
    if (g->device != NULL || g->n == 1)
        return g->n == 1 ? ST_UNSUPPORTED : FAIL(ST_INTERNAL, "the group is on devices already");
    status_mute(); /* told once, by whoever reports start-up */
    status st = come_together(g, spec, &d);
    status_unmute();
    if (st == ST_OK)
        st = mem_calloc(1, sizeof(*gd), "group", &gd);
    if (st == ST_OK) {
        *gd = (struct group_device){.g = g, .ops = spec->ops, .d = d};
        gd->watched = pthread_create(&gd->watcher, NULL, watch_thread, gd) == 0;
        if (!gd->watched)
            st = FAIL(ST_NO_MEMORY, "a thread to watch the group");
    }
    if (st != ST_OK) {
        char text[512];
        snprintf(text, sizeof(text), "%s", status_message());
        spec->ops->destroy(&d, false);
        free(gd);
        status_message_set(text);
        return st;
    }
    g->device = gd;
    return ST_OK;
}

void group_device_destroy(comm_group *g)
{
    struct group_device *gd = g->device;
    if (gd == NULL)
        return;
    /* A peer may still read this rank's slots: all come here before anything is freed. */
    status st = host_aborted(&g->w->host) ? ST_ABORTED : CALL(g, quiet(gd->d));
    status_mute();
    bool clean = st == ST_OK && comm_barrier(g) == ST_OK;
    status_unmute();
    if (!clean)
        gd->ops->abort(gd->d);
    atomic_store(&gd->leave, 1);
    if (gd->watched)
        pthread_join(gd->watcher, NULL);
    g->device = NULL;
    gd->ops->destroy(&gd->d, clean);
    free(gd);
}

bool comm_group_on_device(const comm_group *g)
{
    return g->device != NULL;
}

const char *comm_group_device_describe(const comm_group *g)
{
    return g->device == NULL ? "" : g->device->ops->describe(g->device->d);
}

bool comm_exchange_piece(const comm_group *g, int i, void **base, size_t *bytes)
{
    return g->device != NULL && g->device->ops->piece(g->device->d, i, base, bytes);
}

static status ready(const comm_group *g, const char *what)
{
    if (host_aborted(&g->w->host))
        return world_aborted(g->w);
    return g->device != NULL ? ST_OK : FAIL(ST_INVALID, "%s: the group is not on devices", what);
}

status group_device_slot(comm_group *g, size_t bytes, void **slot)
{
    TRY(ready(g, "exchange"));
    return CALL(g, slot(g->device->d, bytes, slot));
}

status group_device_exchange(comm_group *g, size_t bytes, const float *const **parts, int *n_parts)
{
    TRY(ready(g, "exchange"));
    g->stats.calls++;
    g->stats.bytes += bytes;
    return CALL(g, exchange(g->device->d, bytes, parts, n_parts));
}

status comm_half_begin(comm_group *g, const comm_half *h, void **slot)
{
    TRY(ready(g, "exchange"));
    return CALL(g, half_slot(g->device->d, h, slot));
}

status comm_half_start(comm_group *g, const comm_half *h, const float *const **parts, int *n_parts)
{
    TRY(ready(g, "exchange"));
    g->stats.calls++;
    g->stats.bytes += h->bytes;
    return CALL(g, half_start(g->device->d, h, parts, n_parts));
}

status comm_half_wait(comm_group *g, int which)
{
    TRY(ready(g, "exchange"));
    return CALL(g, half_wait(g->device->d, which));
}

status comm_group_check(comm_group *g)
{
    comm_device_state s;
    if (host_aborted(&g->w->host))
        return world_aborted(g->w);
    if (g->device == NULL)
        return ST_OK;
    g->device->ops->state(g->device->d, &s);
    if (s.failed == ST_OK)
        return ST_OK;
    return world_break(g->w, s.failed, g->w->rank, "rank %d in %s on its device (operation %u): %s", g->w->rank, op_name(s.op), s.begun, s.why);
}

status comm_group_align(comm_group *g)
{
    if (g->device == NULL)
        return ST_OK;
    TRY(ready(g, "alignment"));
    return CALL(g, align(g->device->d));
}

status comm_device_all_reduce(comm_group *g, float *data, size_t n)
{
    TRY(ready(g, "all-reduce"));
    g->stats.calls++;
    g->stats.bytes += n * sizeof(float);
    return CALL(g, all_reduce(g->device->d, data, n));
}

status comm_device_all_gather(comm_group *g, const void *mine, const size_t *bytes, void *all)
{
    TRY(ready(g, "all-gather"));
    g->stats.calls++;
    g->stats.bytes += bytes[g->me];
    return CALL(g, all_gather(g->device->d, mine, bytes, all));
}

status comm_device_broadcast(comm_group *g, int root, void *data, size_t bytes)
{
    TRY(ready(g, "broadcast"));
    g->stats.calls++;
    g->stats.bytes += g->me == root ? bytes : 0;
    return CALL(g, broadcast(g->device->d, root, data, bytes));
}

status comm_device_send(comm_group *g, int to, const void *data, size_t bytes)
{
    TRY(ready(g, "send"));
    g->stats.calls++;
    g->stats.bytes += bytes;
    return CALL(g, send(g->device->d, to, data, bytes));
}

status comm_device_recv(comm_group *g, int from, void *data, size_t bytes)
{
    TRY(ready(g, "receive"));
    g->stats.calls++;
    return CALL(g, recv(g->device->d, from, data, bytes));
}

void comm_device_choose(comm_group *g, const comm_choice *c)
{
    if (g->device != NULL)
        g->device->ops->choose(g->device->d, c);
}

comm_path comm_device_path(const comm_group *g, size_t bytes)
{
    return g->device->ops->path(g->device->d, bytes);
}
