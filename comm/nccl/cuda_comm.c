/* comm/nccl/cuda_comm.c - comm/device.h's table for NVIDIA's devices: memory that peers map, and the three paths of a sum. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "comm/nccl/nccl_internal.h"

#define WORK "device collectives"
#define FLAG_BYTES (GPU_COMM_FLAGS * sizeof(uint32_t))

/* What each member tells the others first. */
typedef struct hello {
    char device_id[16];
    cudaIpcMemHandle_t memory;
    ncclUniqueId id; /* of member 0 */
    comm_choice choice;
    uint64_t exchange_bytes;
    int32_t has_nccl, has_memory;
} hello;
_Static_assert(sizeof(hello) <= COMM_DEVICE_BLOB, "it fits");

typedef struct hello_again {
    int32_t mapped; /* all others' memory */
} hello_again;

static const hello *hello_of(const void *blobs, int i)
{
    return (const hello *)(const void *)((const char *)blobs + (size_t)i * COMM_DEVICE_BLOB);
}

status nccl_comm_cuda_failed(const comm_device *d, cudaError_t e, const char *file, int line, const char *call, const char *what)
{
    (void)cudaGetLastError();
    bool memory = e == cudaErrorMemoryAllocation;
    return status_fail(memory ? ST_NO_MEMORY : ST_INTERNAL, file, line, "rank %d, device %d, %s: %.*s: %s (%s); %s", d->rank[d->me], d->device, what, (int)strcspn(call, "("), call,
                       cudaGetErrorString(e), cudaGetErrorName(e),
                       memory ? "give a smaller --memory or fewer --max-batched-tokens" : "the system's log (dmesg, Xid) may say why; start the job again");
}

/* ---- starting ---- */

/* NCCL's gather writes equal slices: beyond the sums' end by less than this. */
static size_t result_pad(const comm_device *d)
{
    return mem_align((size_t)d->n * 16, 64);
}

/* The halves' own stream, before other work where the device has to choose: whoever waits for a sum has nothing else to do. */
static status side_create(comm_device *d)
{
    int least, greatest;
    COMM_CUDA_TRY(d, cudaDeviceGetStreamPriorityRange(&least, &greatest), WORK);
    COMM_CUDA_TRY(d, cudaStreamCreateWithPriority(&d->side, cudaStreamNonBlocking, greatest), WORK);
    cudaEvent_t *const events[] = {&d->filled, &d->summed[0], &d->summed[1]};
    for (size_t i = 0; i < ARRAY_LEN(events); i++)
        COMM_CUDA_TRY(d, cudaEventCreateWithFlags(events[i], cudaEventDisableTiming), WORK);
    return ST_OK;
}

static void side_destroy(comm_device *d)
{
    const cudaEvent_t events[] = {d->filled, d->summed[0], d->summed[1]};
    for (size_t i = 0; i < ARRAY_LEN(events); i++)
        if (events[i] != NULL)
            (void)cudaEventDestroy(events[i]);
    if (d->side != NULL)
        (void)cudaStreamDestroy(d->side);
}

static status memory_create(comm_device *d)
{
    void *p;
    if (d->slot_bytes > 0) {
        d->result_bytes = mem_align(d->slot_bytes + 2 * result_pad(d), 256);
        if (!mem_mul(d->slot_bytes, 2, &d->shared_bytes) || !mem_add(d->shared_bytes, d->result_bytes + FLAG_BYTES, &d->shared_bytes))
            return FAIL(ST_LIMIT, "%zu bytes of exchange", d->slot_bytes);
        COMM_CUDA_TRY(d, cudaMalloc(&p, d->shared_bytes), "slots of the exchange");
        d->shared = p;
        d->map[d->me] = p;
        COMM_CUDA_TRY(d, cudaMemsetAsync(p, 0, d->shared_bytes, d->stream), "slots of the exchange");
        TRY(side_create(d));
    }
    COMM_CUDA_TRY(d, cudaMalloc(&p, GPU_COMM_OWN * sizeof(uint32_t)), WORK);
    d->gpu.own = p;
    COMM_CUDA_TRY(d, cudaMemsetAsync(p, 0, GPU_COMM_OWN * sizeof(uint32_t), d->stream), WORK);
    COMM_CUDA_TRY(d, cudaHostAlloc(&p, sizeof(gpu_comm_words), cudaHostAllocMapped), WORK);
    d->words = p;
    memset(p, 0, sizeof(gpu_comm_words));
    COMM_CUDA_TRY(d, cudaHostGetDevicePointer(&p, d->words, 0), WORK);
    d->gpu.words = p;
    COMM_CUDA_TRY(d, cudaStreamSynchronize(d->stream), WORK); /* zeros, before anybody sees it */
    return ST_OK;
}

static status introduce(comm_device *d, hello *h)
{
    struct cudaDeviceProp p;
    char why[160];
    *h = (hello){.choice = d->choice, .exchange_bytes = d->slot_bytes};
    COMM_CUDA_TRY(d, cudaGetDeviceProperties(&p, d->device), WORK);
    memcpy(h->device_id, &p.uuid, sizeof(h->device_id));
#ifdef CUDA_EMULATED
    pid_t pid = getpid(); /* each process has devices of its own */
    memcpy(h->device_id + 8, &pid, sizeof(pid));
#endif
    if (d->shared != NULL && d->one_host && d->n <= GPU_COMM_MAX) {
        h->has_memory = cudaIpcGetMemHandle(&h->memory, d->shared) == cudaSuccess;
        if (!h->has_memory)
            (void)cudaGetLastError(); /* NCCL serves instead */
    }
    d->api = nccl_load(&d->nccl_version, why, sizeof(why));
    h->has_nccl = d->api != NULL;
    if (d->api == NULL)
        snprintf(d->description, sizeof(d->description), "%s", why);
    return d->api != NULL && d->me == 0 ? nccl_unique_id(d, &h->id) : ST_OK;
}

static void comm_destroy(comm_device **out, bool clean)
{
    comm_device *d = *out;
    if (d == NULL)
        return;
    *out = NULL;
    (void)cudaSetDevice(d->device);
    nccl_stop(d, clean);
    (void)cudaStreamSynchronize(d->stream); /* an abort has freed it */
    if (d->side != NULL)
        (void)cudaStreamSynchronize(d->side);
    side_destroy(d);
    for (int i = 0; i < d->n; i++)
        if (i != d->me && d->map[i] != NULL)
            (void)cudaIpcCloseMemHandle(d->map[i]);
    (void)cudaFree(d->shared);
    (void)cudaFree(d->staging);
    (void)cudaFree(d->gpu.own);
    if (d->words != NULL)
        (void)cudaFreeHost(d->words);
    (void)cudaGetLastError();
    free(d);
}

static status comm_create(const comm_device_members *m, void *blob, comm_device **out)
{
    comm_device *d = NULL;
    *out = NULL;
    if (m->n < 2 || m->n > COMM_DEVICE_MAX)
        return FAIL(ST_UNSUPPORTED, "a group of %d ranks on devices: 2 to %d are possible", m->n, COMM_DEVICE_MAX);
    TRY(mem_calloc(1, sizeof(*d), WORK, &d));
    d->n = m->n;
    d->me = m->me;
    d->device = m->device;
    d->timeout_ms = m->timeout_ms;
    d->stream = d->on = m->stream;
    d->choice = m->choice;
    d->aborted = m->aborted;
    d->aborted_arg = m->aborted_arg;
    d->slot_bytes = mem_align(m->exchange_bytes, 256);
    d->one_host = true;
    for (int i = 0; i < d->n; i++) {
        d->rank[i] = m->rank[i];
        d->host[i] = m->host[i];
        d->one_host = d->one_host && d->host[i] == d->host[0];
        if (i > 0 && d->host[i] != d->host[i - 1])
            d->host_starts |= (uint64_t)1 << i;
    }
    d->gpu.n = d->n;
    d->gpu.me = d->me;
    status st = cudaSetDevice(d->device) == cudaSuccess ? ST_OK : FAIL(ST_UNSUPPORTED, "rank %d: there is no device %d", d->rank[d->me], d->device);
    if (st == ST_OK)
        st = memory_create(d);
    if (st == ST_OK)
        st = introduce(d, blob);
    if (st != ST_OK)
        comm_destroy(&d, false);
    *out = d;
    return st;
}

/* Parts of one host lie side by side in the order of the sums. */
static bool in_order(const comm_device *d)
{
    for (int i = 1; i < d->n; i++)
        if (d->host[i] < d->host[i - 1] || d->host[i] > d->host[i - 1] + 1)
            return false;
    return true;
}

/* False: the devices have no way to each other (NCCL serves instead). */
static bool map_others(comm_device *d, const void *blobs)
{
    for (int i = 0; i < d->n; i++) {
        void *p;
        if (i == d->me)
            continue;
        if (cudaIpcOpenMemHandle(&p, hello_of(blobs, i)->memory, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess) {
            (void)cudaGetLastError();
            return false;
        }
        d->map[i] = p;
    }
    return true;
}

static status comm_open(comm_device *d, const void *blobs, void *blob)
{
    bool memory = true;
    COMM_CUDA_TRY(d, cudaSetDevice(d->device), WORK);
    for (int i = 0; i < d->n; i++) {
        const hello *h = hello_of(blobs, i), *first = hello_of(blobs, 0);
        if (memcmp(&h->choice, &first->choice, sizeof(h->choice)) != 0 || h->exchange_bytes != first->exchange_bytes)
            return FAIL(ST_INVALID, "ranks %d and %d have different sizes or tables of collectives: give all ranks the same options", d->rank[0], d->rank[i]);
        for (int k = 0; k < i; k++)
            if (d->host[k] == d->host[i] && memcmp(hello_of(blobs, k)->device_id, h->device_id, sizeof(h->device_id)) == 0)
                return FAIL(ST_UNSUPPORTED, "ranks %d and %d share a device", d->rank[k], d->rank[i]);
        memory = memory && h->has_memory != 0;
        if (h->has_nccl == 0)
            d->api = NULL;
    }
    if (!in_order(d))
        return FAIL(ST_UNSUPPORTED, "the members of a host do not follow one another in the group");
    d->ipc = memory && map_others(d, blobs);
    d->id = hello_of(blobs, 0)->id;
    *(hello_again *)blob = (hello_again){.mapped = d->ipc};
    return ST_OK;
}

static void unmap(comm_device *d)
{
    for (int i = 0; i < d->n; i++) {
        if (i != d->me && d->map[i] != NULL)
            (void)cudaIpcCloseMemHandle(d->map[i]);
        if (i != d->me)
            d->map[i] = NULL;
    }
}

static void describe(comm_device *d)
{
    char sizes[64], nccl[32];
    comm_choice_print(&d->choice, sizes, sizeof(sizes));
    snprintf(nccl, sizeof(nccl), "NCCL %d.%d.%d", d->nccl_version / 10000, d->nccl_version / 100 % 100, d->nccl_version % 100);
    if (d->ipc)
        snprintf(d->description, sizeof(d->description), "CUDA IPC, %s, %s", sizes, d->comm != NULL ? nccl : "no NCCL");
    else
        snprintf(d->description, sizeof(d->description), "%s", nccl);
}

static status comm_start(comm_device *d, const void *blobs)
{
    COMM_CUDA_TRY(d, cudaSetDevice(d->device), WORK);
    for (int i = 0; i < d->n; i++)
        d->ipc = d->ipc && ((const hello_again *)(const void *)((const char *)blobs + (size_t)i * COMM_DEVICE_BLOB))->mapped != 0;
    if (!d->ipc)
        unmap(d);
    if (!d->ipc && d->api == NULL)
        return FAIL(ST_UNSUPPORTED, "the devices do not see each other's memory, and NCCL is missing on a rank%s%s", d->description[0] != '\0' ? ": " : "", d->description);
    for (int i = 0; i < d->n && d->ipc; i++)
        d->gpu.flags[i] = (uint32_t *)(void *)(d->map[i] + d->shared_bytes - FLAG_BYTES);
    if (d->api != NULL) {
        if (d->slot_bytes > 0) {
            void *p;
            COMM_CUDA_TRY(d, cudaMalloc(&p, d->result_bytes), "staging of NCCL's exchange");
            d->staging = p;
        }
        TRY(nccl_start(d));
    }
    describe(d);
    return ST_OK;
}

/* ---- the paths ---- */

static comm_path path_of(const comm_device *d, size_t bytes)
{
    if (d->ipc && bytes <= d->choice.one_shot)
        return COMM_ONE_SHOT;
    return d->ipc && (bytes <= d->choice.two_shot || d->comm == NULL) ? COMM_TWO_SHOT : COMM_EXCHANGE;
}

/* Which slot a whole operation uses. */
static unsigned op_next(comm_device *d)
{
    unsigned which = d->op[0]++ & 1;
    d->op[1] = d->op[0];
    return which;
}

static char *slot_of(const comm_device *d, int member, unsigned which)
{
    return d->map[member] + (size_t)which * d->slot_bytes;
}

static float *result_of(const comm_device *d, int member)
{
    return (float *)(void *)(d->map[member] + 2 * d->slot_bytes);
}

/* Where a sum lies in each member's memory, in bytes from its slot's and its result's begin. */
typedef struct place {
    unsigned slot;
    size_t slot_offset, result_offset;
} place;

static const float *slot_at(const comm_device *d, int member, const place *p)
{
    return (const float *)(const void *)(slot_of(d, member, p->slot) + p->slot_offset);
}

static float *result_at(const comm_device *d, int member, const place *p)
{
    return result_of(d, member) + p->result_offset / sizeof(float);
}

static gpu_comm_slots slots_of(const comm_device *d, const place *p)
{
    gpu_comm_slots s;
    memset(&s, 0, sizeof(s));
    for (int i = 0; i < d->n; i++) {
        s.slot[i] = slot_at(d, i, p);
        s.result[i] = result_at(d, i, p);
    }
    return s;
}

/* Slice i of n floats, in slices of `per`. */
static size_t slice_of(size_t n, size_t per, int i)
{
    size_t begin = per * (size_t)i;
    return begin >= n ? 0 : n - begin < per ? n - begin : per;
}

/* Every rank sends each slice to the one that adds it; the sums are gathered, the last of them with what follows the end, so that all are equally long. */
static status exchange_nccl(comm_device *d, comm_device_op op, const char *what, const float *mine, size_t n, float *result)
{
    nccl_piece piece[COMM_DEVICE_MAX] = {{0}};
    size_t per = ((n + 3) / 4 + (size_t)d->n - 1) / (size_t)d->n * 4, own = slice_of(n, per, d->me);
    for (int i = 0; i < d->n; i++)
        piece[i] = (nccl_piece){mine + per * (size_t)i, d->staging + per * (size_t)i, slice_of(n, per, i) * sizeof(float), own * sizeof(float)};
    COMM_CUDA_TRY(d, k_comm_mark(&d->gpu, (uint32_t)op, true, d->on), what);
    TRY(nccl_swap(d, what, piece));
    COMM_CUDA_TRY(d, k_comm_sum(d->staging, (int64_t)per, d->n, d->me, mine + per * (size_t)d->me, d->host_starts, (int64_t)own, result + per * (size_t)d->me, d->on), what);
    TRY(nccl_gather(d, what, result + per * (size_t)d->me, result, per * sizeof(float)));
    COMM_CUDA_TRY(d, k_comm_mark(&d->gpu, (uint32_t)op, false, d->on), what);
    return ST_OK;
}

static status check(const comm_device *d, const char *what, size_t bytes)
{
    if (atomic_load(&d->stopped) != 0)
        return ST_ABORTED; /* the cause has been told */
    if (bytes > d->slot_bytes)
        return FAIL(ST_INVALID, "%s of %zu bytes in a group made for %zu", what, bytes, d->slot_bytes);
    return ST_OK;
}

static status comm_slot(comm_device *d, size_t bytes, void **slot)
{
    TRY(check(d, "exchange", bytes));
    *slot = slot_of(d, d->me, d->op[0] & 1);
    return ST_OK;
}

/* The sum into the result, or left in parts. */
static status sum(comm_device *d, const place *p, size_t bytes, const float **parts, int *n_parts)
{
    size_t n = bytes / sizeof(float);
    gpu_comm_slots s;
    *n_parts = 1;
    parts[0] = result_at(d, d->me, p);
    switch (path_of(d, bytes)) {
    case COMM_ONE_SHOT:
        for (int i = 0; i < d->n; i++)
            parts[i] = slot_at(d, i, p);
        *n_parts = d->n;
        COMM_CUDA_TRY(d, k_comm_meet(&d->gpu, COMM_DEVICE_EXCHANGE, d->on), "exchange");
        return ST_OK;
    case COMM_TWO_SHOT:
        s = slots_of(d, p);
        COMM_CUDA_TRY(d, k_comm_two_shot(&d->gpu, COMM_DEVICE_EXCHANGE, &s, (int64_t)n, d->on), "exchange");
        return ST_OK;
    default:
        return exchange_nccl(d, COMM_DEVICE_EXCHANGE, "exchange", slot_at(d, d->me, p), n, result_at(d, d->me, p));
    }
}

static status comm_exchange(comm_device *d, size_t bytes, const float *const **parts, int *n_parts)
{
    TRY(check(d, "exchange", bytes));
    place p = {.slot = op_next(d)};
    *parts = d->parts[0];
    return sum(d, &p, bytes, d->parts[0], n_parts);
}

/* ---- halves ---- */

static status half_check(const comm_device *d, const comm_half *h)
{
    if ((h->which != 0 && h->which != 1) || h->offset % 64 != 0 || h->offset > d->slot_bytes || (h->which == 0 && h->offset != 0))
        return FAIL(ST_INVALID, "half %d of an exchange, at byte %zu of %zu", h->which, h->offset, d->slot_bytes);
    return check(d, "exchange", h->bytes > SIZE_MAX - h->offset ? SIZE_MAX : h->offset + h->bytes);
}

static status comm_half_slot(comm_device *d, const comm_half *h, void **slot)
{
    TRY(half_check(d, h));
    *slot = slot_of(d, d->me, d->op[h->which] & 1) + h->offset;
    return ST_OK;
}

static status comm_half_sum(comm_device *d, const comm_half *h, const float *const **parts, int *n_parts)
{
    TRY(half_check(d, h));
    place p = {d->op[h->which]++ & 1, h->offset, h->which == 0 ? 0 : h->offset + result_pad(d)};
    *parts = d->parts[h->which];
    COMM_CUDA_TRY(d, cudaEventRecord(d->filled, d->stream), "exchange");
    COMM_CUDA_TRY(d, cudaStreamWaitEvent(d->side, d->filled, 0), "exchange");
    d->on = d->side;
    status st = sum(d, &p, h->bytes, d->parts[h->which], n_parts);
    d->on = d->stream;
    TRY(st);
    COMM_CUDA_TRY(d, cudaEventRecord(d->summed[h->which], d->side), "exchange");
    return ST_OK;
}

static status comm_half_join(comm_device *d, int which)
{
    TRY(check(d, "exchange", 0));
    COMM_CUDA_TRY(d, cudaStreamWaitEvent(d->stream, d->summed[which], 0), "exchange");
    return ST_OK;
}

static status comm_align(comm_device *d)
{
    if ((d->op[0] & 1) == 0 || d->slot_bytes == 0)
        return ST_OK;
    TRY(check(d, "alignment", 0));
    (void)op_next(d);
    if (d->ipc) {
        COMM_CUDA_TRY(d, k_comm_meet(&d->gpu, COMM_DEVICE_MEET, d->on), "alignment");
        return ST_OK;
    }
    return nccl_gather(d, "alignment", result_of(d, d->me) + 4 * d->me, result_of(d, d->me), 16);
}

static status reduce_piece(comm_device *d, float *data, size_t n)
{
    place p = {.slot = op_next(d)};
    void *mine = slot_of(d, d->me, p.slot);
    size_t bytes = n * sizeof(float);
    COMM_CUDA_TRY(d, cudaMemcpyAsync(mine, data, bytes, cudaMemcpyDeviceToDevice, d->on), "all-reduce");
    gpu_comm_slots s;
    switch (path_of(d, bytes)) {
    case COMM_ONE_SHOT:
        s = slots_of(d, &p);
        COMM_CUDA_TRY(d, k_comm_one_shot(&d->gpu, COMM_DEVICE_ALL_REDUCE, &s, (int64_t)n, data, d->on), "all-reduce");
        return ST_OK;
    case COMM_TWO_SHOT:
        s = slots_of(d, &p);
        COMM_CUDA_TRY(d, k_comm_two_shot(&d->gpu, COMM_DEVICE_ALL_REDUCE, &s, (int64_t)n, d->on), "all-reduce");
        break;
    default:
        TRY(exchange_nccl(d, COMM_DEVICE_ALL_REDUCE, "all-reduce", mine, n, result_of(d, d->me)));
    }
    COMM_CUDA_TRY(d, cudaMemcpyAsync(data, result_of(d, d->me), bytes, cudaMemcpyDeviceToDevice, d->on), "all-reduce");
    return ST_OK;
}

static status comm_reduce(comm_device *d, float *data, size_t n)
{
    TRY(check(d, "all-reduce", 0));
    if (d->slot_bytes == 0)
        return FAIL(ST_INVALID, "all-reduce in a group made for send and receive");
    size_t most = d->slot_bytes / sizeof(float);
    for (size_t at = 0; at < n; at += most)
        TRY(reduce_piece(d, data + at, n - at < most ? n - at : most));
    return ST_OK;
}

/* Through the slots, a piece at a time. */
static status gather_mapped(comm_device *d, comm_device_op op, const char *what, const char *mine, const size_t *bytes, char *all)
{
    size_t longest = 0;
    for (int i = 0; i < d->n; i++)
        longest = bytes[i] > longest ? bytes[i] : longest;
    for (size_t at = 0; at < longest; at += d->slot_bytes) {
        unsigned half = op_next(d);
        size_t offset = 0;
        for (int i = d->me; i == d->me && bytes[i] > at; i++) {
            size_t n = bytes[i] - at < d->slot_bytes ? bytes[i] - at : d->slot_bytes;
            COMM_CUDA_TRY(d, cudaMemcpyAsync(slot_of(d, i, half), mine + at, n, cudaMemcpyDeviceToDevice, d->on), what);
        }
        COMM_CUDA_TRY(d, k_comm_meet(&d->gpu, (uint32_t)op, d->on), what);
        for (int i = 0; i < d->n; offset += bytes[i], i++) {
            size_t n = bytes[i] <= at ? 0 : bytes[i] - at < d->slot_bytes ? bytes[i] - at : d->slot_bytes;
            if (n > 0 && (i != d->me || all + offset != mine))
                COMM_CUDA_TRY(d, cudaMemcpyAsync(all + offset + at, slot_of(d, i, half), n, cudaMemcpyDeviceToDevice, d->on), what);
        }
    }
    return ST_OK;
}

static status comm_gather(comm_device *d, const void *mine, const size_t *bytes, void *all)
{
    nccl_piece piece[COMM_DEVICE_MAX] = {{0}};
    size_t offset = 0;
    TRY(check(d, "all-gather", 0));
    if (d->comm == NULL)
        return gather_mapped(d, COMM_DEVICE_ALL_GATHER, "all-gather", mine, bytes, all);
    COMM_CUDA_TRY(d, k_comm_mark(&d->gpu, COMM_DEVICE_ALL_GATHER, true, d->on), "all-gather");
    for (int i = 0; i < d->n; offset += bytes[i], i++) {
        piece[i] = (nccl_piece){mine, (char *)all + offset, bytes[d->me], bytes[i]};
        if (i == d->me && bytes[i] > 0 && (const char *)mine != (char *)all + offset)
            COMM_CUDA_TRY(d, cudaMemcpyAsync((char *)all + offset, mine, bytes[i], cudaMemcpyDeviceToDevice, d->on), "all-gather");
    }
    TRY(nccl_swap(d, "all-gather", piece));
    COMM_CUDA_TRY(d, k_comm_mark(&d->gpu, COMM_DEVICE_ALL_GATHER, false, d->on), "all-gather");
    return ST_OK;
}

static status comm_cast(comm_device *d, int root, void *data, size_t bytes)
{
    TRY(check(d, "broadcast", 0));
    if (root < 0 || root >= d->n)
        return FAIL(ST_INVALID, "broadcast from member %d of %d", root, d->n);
    if (d->comm == NULL) {
        size_t sizes[COMM_DEVICE_MAX] = {0};
        sizes[root] = bytes;
        return gather_mapped(d, COMM_DEVICE_BROADCAST, "broadcast", data, sizes, data);
    }
    COMM_CUDA_TRY(d, k_comm_mark(&d->gpu, COMM_DEVICE_BROADCAST, true, d->on), "broadcast");
    TRY(nccl_broadcast(d, "broadcast", root, data, bytes));
    COMM_CUDA_TRY(d, k_comm_mark(&d->gpu, COMM_DEVICE_BROADCAST, false, d->on), "broadcast");
    return ST_OK;
}

static status point(comm_device *d, comm_device_op op, const char *what, int peer, const void *send, void *recv, size_t bytes)
{
    nccl_piece piece[COMM_DEVICE_MAX] = {{0}};
    TRY(check(d, what, 0));
    if (peer < 0 || peer >= d->n || peer == d->me)
        return FAIL(ST_INVALID, "%s: member %d of %d", what, peer, d->n);
    if (d->comm == NULL)
        return FAIL(ST_UNSUPPORTED, "%s between devices needs NCCL", what);
    piece[peer] = (nccl_piece){send, recv, send != NULL ? bytes : 0, recv != NULL ? bytes : 0};
    COMM_CUDA_TRY(d, k_comm_mark(&d->gpu, (uint32_t)op, true, d->on), what);
    TRY(nccl_swap(d, what, piece));
    COMM_CUDA_TRY(d, k_comm_mark(&d->gpu, (uint32_t)op, false, d->on), what);
    return ST_OK;
}

static status comm_to(comm_device *d, int to, const void *data, size_t bytes)
{
    return point(d, COMM_DEVICE_SEND, "send", to, data, NULL, bytes);
}

static status comm_from(comm_device *d, int from, void *data, size_t bytes)
{
    return point(d, COMM_DEVICE_RECV, "receive", from, NULL, data, bytes);
}

static void comm_choose(comm_device *d, const comm_choice *c)
{
    d->choice = *c;
}

/* ---- what is asked from outside ---- */

static bool comm_piece(const comm_device *d, int i, void **base, size_t *bytes)
{
    if (d->slot_bytes == 0 || i < 0 || i >= (d->ipc ? d->n : 1))
        return false;
    int member = i == 0 ? d->me : i <= d->me ? i - 1 : i; /* the own first */
    *base = d->map[member];
    *bytes = d->shared_bytes - FLAG_BYTES;
    return true;
}

static const char *comm_describe(const comm_device *d)
{
    return d->description;
}

static void comm_state(comm_device *d, comm_device_state *out)
{
    *out = (comm_device_state){.failed = ST_OK};
    /* ended first: what ended had begun */
    out->ended = __atomic_load_n(&d->words->ended, __ATOMIC_ACQUIRE);
    out->begun = __atomic_load_n(&d->words->begun, __ATOMIC_ACQUIRE);
    out->op = (comm_device_op)__atomic_load_n(&d->words->op, __ATOMIC_RELAXED);
    for (int i = 0; i < d->n && i < GPU_COMM_MAX; i++)
        if (__atomic_load_n(&d->words->late[i], __ATOMIC_RELAXED) != 0)
            out->missing |= (uint64_t)1 << i;
    out->failed = nccl_async_error(d, out->why, sizeof(out->why));
}

static void comm_stop(comm_device *d)
{
    __atomic_store_n(&d->words->abort, 1, __ATOMIC_RELEASE);
    if (d->comm != NULL)
        nccl_abort(d);
    else
        atomic_store(&d->stopped, 1);
}

static status comm_quiet(comm_device *d)
{
    COMM_CUDA_TRY(d, cudaSetDevice(d->device), WORK);
    COMM_CUDA_TRY(d, cudaStreamSynchronize(d->stream), "end of the group");
    if (d->side != NULL)
        COMM_CUDA_TRY(d, cudaStreamSynchronize(d->side), "end of the group");
    return ST_OK;
}

extern const comm_device_ops comm_cuda;
const comm_device_ops comm_cuda = {
    .version = COMM_DEVICE_VERSION,
    .name = "cuda",
    .create = comm_create,
    .open = comm_open,
    .start = comm_start,
    .quiet = comm_quiet,
    .destroy = comm_destroy,
    .describe = comm_describe,
    .piece = comm_piece,
    .slot = comm_slot,
    .exchange = comm_exchange,
    .half_slot = comm_half_slot,
    .half_start = comm_half_sum,
    .half_wait = comm_half_join,
    .align = comm_align,
    .all_reduce = comm_reduce,
    .all_gather = comm_gather,
    .broadcast = comm_cast,
    .send = comm_to,
    .recv = comm_from,
    .choose = comm_choose,
    .path = path_of,
    .state = comm_state,
    .abort = comm_stop,
};
