/* comm/world.c - a rank's membership of the job: who is on which host, the shared block of its host, starting and leaving. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "comm/comm_internal.h"

static bool env_int(const char *name, int *out)
{
    const char *text = getenv(name);
    char *end;
    if (text == NULL || *text == '\0')
        return false;
    long v = strtol(text, &end, 10);
    *out = (int)v;
    return *end == '\0' && v >= 0 && v < 1 << 24;
}

bool comm_launched(int *n_ranks, int *rank)
{
    /* Open MPI; MPICH and Intel MPI; srun (with or without an MPI plugin: comm_world_mpi tells when it is missing). */
    static const char *const names[][2] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}, {"PMI_SIZE", "PMI_RANK"}, {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};
    *n_ranks = 1;
    *rank = 0;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        int n, r;
        if (env_int(names[i][0], &n) && env_int(names[i][1], &r) && n >= 1 && r < n) {
            if (i == 2 && getenv("SLURM_STEP_ID") == NULL)
                continue; /* an allocation's shell, not a step */
            *n_ranks = n;
            *rank = r;
            return i < 2 || n > 1;
        }
    }
    return false;
}

status world_create(int rank, int size, comm_world **out)
{
    status st;
    comm_world *w = NULL;
    TRY(mem_calloc(1, sizeof(*w), "world", &w));
    w->rank = rank;
    w->size = size;
    w->n_hosts = 1;
    TRY_GOTO(mem_calloc((size_t)size, sizeof(int), "world", &w->host_of), err);
    TRY_GOTO(mem_calloc((size_t)size, sizeof(int), "world", &w->local_of), err);
    TRY_GOTO(mem_calloc((size_t)size, sizeof(int), "world", &w->first_of_host), err);
    TRY_GOTO(mem_calloc((size_t)size, sizeof(int), "world", &w->on_my_host), err);
    *out = w;
    return ST_OK;
err:
    comm_world_destroy(&w);
    return st;
}

/* Hosts are numbered from 0 as ranks name them. */
status world_set_hosts(comm_world *w, const uint64_t (*key)[2])
{
    int *count = NULL;
    TRY(mem_calloc((size_t)w->size, sizeof(int), "world", &count));
    w->n_hosts = 0;
    for (int r = 0; r < w->size; r++) {
        int h = 0;
        while (h < w->n_hosts && memcmp(key[w->first_of_host[h]], key[r], sizeof(key[r])) != 0)
            h++;
        if (h == w->n_hosts)
            w->first_of_host[w->n_hosts++] = r;
        w->host_of[r] = h;
        w->local_of[r] = count[h]++;
    }
    w->my_host = w->host_of[w->rank];
    w->host.me = w->local_of[w->rank];
    w->host.size = count[w->my_host];
    for (int r = 0; r < w->size; r++)
        if (w->host_of[r] == w->my_host)
            w->on_my_host[w->local_of[r]] = r;
    free(count);
    if (w->host.size > HOST_MAX_RANKS)
        return FAIL(ST_LIMIT, "%d ranks on one host: at most %d", w->host.size, HOST_MAX_RANKS);
    return ST_OK;
}

status world_test_hosts(int size, uint64_t (*key)[2])
{
    const char *text = getenv("TRIREME_TEST_HOSTS");
    if (text == NULL || *text == '\0')
        return ST_OK;
    int n_hosts, n = 0;
    bool list = !env_int("TRIREME_TEST_HOSTS", &n_hosts);
    if (!list && n_hosts < 1)
        return FAIL(ST_INVALID, "TRIREME_TEST_HOSTS=%s: a number of hosts, or a host for each rank (0,1,0,1)", text);
    const char *at = text;
    for (int r = 0; r < size; r++) {
        int h = list ? 0 : r * n_hosts / size;
        if (list) {
            char *end;
            h = (int)strtol(at, &end, 10);
            if (end == at || (*end != ',' && *end != '\0'))
                return FAIL(ST_INVALID, "TRIREME_TEST_HOSTS=%s: a number of hosts, or a host for each rank (0,1,0,1)", text);
            at = *end == ',' ? end + 1 : text; /* a short list repeats */
            n++;
        }
        key[r][1] += (uint64_t)h + 1;
    }
    return ST_OK;
}

size_t world_segment_bytes(const comm_world *w)
{
    return host_shared_bytes(w->host.size) + mailbox_bytes(w->host.size);
}

status world_join(comm_world *w)
{
    TRY(host_join(&w->host));
    TRY(mailbox_create(&w->host, &w->box));
    if (w->n_hosts > 1 && w->host.me == 0) {
        TRY(wire_status(w, w->ops->recv(w->wire, COMM_WIRE_ANY, COMM_CHANNEL_CONTROL, CONTROL_ABORT, &w->abort_in, sizeof(w->abort_in), &w->abort_request),
                        "listening for", 0));
        w->abort_posted = true;
    }
    return ST_OK;
}

status comm_world_single(comm_world **out)
{
    return comm_world_threads(1, out);
}

/* Opens one thread's rank; ranks of an earlier number on its host have made the host's segment. */
static status open_thread(comm_world **worlds, int rank, int n, const uint64_t (*key)[2], thread_wires *wires, bool spin)
{
    comm_world *w = NULL;
    TRY(world_create(rank, n, &w));
    worlds[rank] = w;
    w->spin = spin;
    TRY(world_set_hosts(w, key));
    if (wires != NULL) {
        w->ops = &thread_wire_ops;
        TRY(thread_wire_open(wires, rank, &w->wire));
    }
    int first = w->first_of_host[w->my_host];
    if (first == rank) {
        TRY(segment_create(world_segment_bytes(w), 0, false, &w->host.segment));
    } else {
        segment_handle handle;
        segment_handle_get(worlds[first]->host.segment, &handle);
        TRY(segment_attach(&handle, &w->host.segment));
    }
    return world_join(w);
}

status comm_world_threads(int n, comm_world **out)
{
    status st;
    thread_wires *wires = NULL;
    uint64_t(*key)[2] = NULL;
    for (int i = 0; i < n; i++)
        out[i] = NULL;
    TRY(mem_calloc((size_t)n, sizeof(*key), "world", &key));
    TRY_GOTO(world_test_hosts(n, key), done);
    for (int i = 1; i < n && wires == NULL; i++)
        if (memcmp(key[i], key[0], sizeof(key[0])) != 0)
            TRY_GOTO(thread_wires_create(n, &wires), done);
    cpu_set_t cores;
    bool spin = sched_getaffinity(0, sizeof(cores), &cores) == 0 && CPU_COUNT(&cores) >= n;
    st = ST_OK;
    for (int i = 0; i < n && st == ST_OK; i++)
        st = open_thread(out, i, n, key, wires, spin);
done:
    for (int i = 0; i < n && st != ST_OK; i++)
        comm_world_destroy(&out[i]);
    thread_wires_release(&wires);
    free(key);
    return st;
}

void comm_world_destroy(comm_world **world)
{
    comm_world *w = *world;
    if (w == NULL)
        return;
    *world = NULL;
    bool clean = w->host.shared == NULL || !host_aborted(&w->host);
    if (!clean)
        world_forward_abort(w);
    if (w->abort_posted)
        w->ops->cancel(w->wire, &w->abort_request);
    host_leave(&w->host);
    mailbox_destroy(&w->box);
    segment_close(&w->host.segment);
    if (w->ops != NULL && w->wire != NULL)
        w->ops->close(&w->wire, clean);
    for (comm_request *r = w->free_requests, *next; r != NULL; r = next) {
        next = r->next;
        free(r);
    }
    free(w->host_of);
    free(w->local_of);
    free(w->first_of_host);
    free(w->on_my_host);
    free(w); /* the plugin stays loaded: MPI cannot be started twice */
}

int comm_world_rank(const comm_world *w)
{
    return w->rank;
}
int comm_world_size(const comm_world *w)
{
    return w->size;
}
int comm_world_host_size(const comm_world *w)
{
    return w->host.size;
}
int comm_world_host_rank(const comm_world *w)
{
    return w->host.me;
}
int comm_world_host(const comm_world *w, int rank)
{
    return w->host_of[rank];
}
const char *comm_world_library(const comm_world *w)
{
    return w->ops != NULL && w->ops->describe != NULL ? w->ops->describe() : "";
}
void comm_world_set_spin(comm_world *w, bool spin)
{
    w->spin = spin;
}

status comm_agree(comm_world *w, status mine, int timeout_ms, int *failed_rank)
{
    /* All ranks in order, the first deciding: on_my_host serves where there is one host. */
    if (w->n_hosts == 1)
        return agree_over(w, w->on_my_host, w->size, CONTROL_AGREE, mine, timeout_ms, failed_rank, NULL);
    int *ranks = NULL;
    TRY(mem_calloc((size_t)w->size, sizeof(int), "agreement", &ranks));
    for (int i = 0; i < w->size; i++)
        ranks[i] = i;
    status st = agree_over(w, ranks, w->size, CONTROL_AGREE, mine, timeout_ms, failed_rank, NULL);
    free(ranks);
    return st;
}

void comm_note(comm_world *w, uint64_t note)
{
    atomic_store_explicit(&w->host.shared->ranks[w->host.me].note, note, memory_order_relaxed);
}

bool comm_note_of(const comm_world *w, int rank, uint64_t *note)
{
    if (rank < 0 || rank >= w->size || w->host_of[rank] != w->my_host)
        return false;
    *note = atomic_load_explicit(&w->host.shared->ranks[w->local_of[rank]].note, memory_order_relaxed);
    return true;
}
