/* tests/cuda_on_host/nccl_emu.c - NCCL's functions over POSIX shared memory, for ranks that are processes of one machine.  For tests only.
 *
 * A communicator is a segment whose name its unique id carries.  Each ordered pair of ranks has a channel in it: one chunk that is full or empty.  An operation is a
 * set of transfers, advanced in turn until all are done; it runs where its stream is run (cuemu_stream_call), so it may also be captured.  Unlike NCCL, which would hang
 * or deliver rubbish, it says when two ranks do not agree about what they send each other: each transfer opens with its kind and length.
 *
 * What NCCL does to its users it does too: a communicator that is not blocking is in progress for a while after each call and takes no other call meanwhile; a peer that is gone is waited for,
 * until ncclCommAbort, which only this process notices.  Failures by CUEMU_FAIL: each function by its name; ncclAsync (the Nth operation leaves an asynchronous error, ncclRemoteError unless a code is
 * given); ncclVanish (the process dies in the middle of the Nth operation). */
#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/cuda_on_host/cuemu_api.h"

#define CONFIG_MAGIC 0xcafebeefu /* of an ncclConfig_t; its name is not in every release's header */
#define MAX_RANKS 16
#define CHUNK 16384
#define MAX_OPS 256 /* in one group */

typedef enum op_kind { SEND_RECV = 1, ALL_GATHER, BROADCAST } op_kind;

typedef struct channel {
    atomic_uint full; /* 0: the sender's turn */
    uint32_t kind, bytes;
    uint64_t total;
    char data[CHUNK];
} channel;

typedef struct segment {
    atomic_uint magic, joined, left;
    int n;
    channel channels[]; /* [from][to] */
} segment;

struct ncclComm {
    int n, me, device;
    bool blocking, finalized;
    segment *shared;
    size_t bytes;
    atomic_int busy;      /* polls until the last call is through */
    atomic_int aborted;
    atomic_int error;     /* ncclResult_t */
    atomic_int running;   /* operations under way */
};

/* The header's own have no prototype. */
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);

static size_t segment_bytes(int n)
{
    return sizeof(segment) + (size_t)n * (size_t)n * sizeof(channel);
}

static void pause_a_little(unsigned turn)
{
    if (turn < 64) {
        sched_yield();
        return;
    }
    struct timespec t = {.tv_nsec = 50000};
    nanosleep(&t, NULL);
}

/* The call of this name, by injection. */
static bool fails(const char *name, ncclResult_t *r)
{
    int code = ncclSystemError;
    if (!cuemu_injected(name, &code))
        return false;
    *r = (ncclResult_t)code;
    return true;
}
#define INJECT()                     \
    do {                             \
        ncclResult_t r_;             \
        if (fails(__func__, &r_))    \
            return r_;               \
    } while (0)

/* ---- transfers ---- */

typedef struct transfer {
    bool send, opened;
    op_kind kind;
    int peer;
    char *at;
    size_t left, total;
} transfer;

typedef struct operation {
    ncclComm_t comm;
    int n, n_copies;
    struct {
        void *to;
        const void *from;
        size_t bytes;
    } copies[MAX_OPS];
    transfer transfers[2 * MAX_OPS];
} operation;

static const char *const kind_names[] = {"?", "ncclSend/ncclRecv", "ncclAllGather", "ncclBroadcast"};

/* One chunk, if the other side lets it. */
static bool advance(ncclComm_t c, transfer *t)
{
    int from = t->send ? c->me : t->peer, to = t->send ? t->peer : c->me;
    channel *ch = &c->shared->channels[from * c->n + to];
    if (atomic_load_explicit(&ch->full, memory_order_acquire) != (t->send ? 0u : 1u))
        return false;
    if (t->send) {
        size_t n = t->left < CHUNK ? t->left : CHUNK;
        memcpy(ch->data, t->at, n);
        ch->kind = t->kind;
        ch->total = t->total;
        ch->bytes = (uint32_t)n;
        t->at += n;
        t->left -= n;
        atomic_store_explicit(&ch->full, 1, memory_order_release);
        return true;
    }
    if (ch->kind != t->kind || ch->total != t->total)
        cuemu_fault("NCCL: rank %d waits for %zu bytes of %s from rank %d, which sends %zu of %s", c->me, t->total, kind_names[t->kind], t->peer, (size_t)ch->total,
                    kind_names[ch->kind <= BROADCAST ? ch->kind : 0]);
    memcpy(t->at, ch->data, ch->bytes);
    t->at += ch->bytes;
    t->left -= ch->bytes;
    atomic_store_explicit(&ch->full, 0, memory_order_release);
    return true;
}

/* Transfers with one peer in one direction go one after the other, as they were given. */
static bool is_next(const transfer *all, int i)
{
    for (int k = 0; k < i; k++)
        if (all[k].left > 0 && all[k].peer == all[i].peer && all[k].send == all[i].send)
            return false;
    return true;
}

static void operation_run(void *arg)
{
    const operation *o = arg; /* a replay runs it again */
    ncclComm_t c = o->comm;
    transfer *t = malloc((size_t)(o->n > 0 ? o->n : 1) * sizeof(*t));
    if (t == NULL)
        cuemu_fault("NCCL: out of memory");
    memcpy(t, o->transfers, (size_t)o->n * sizeof(*t));
    for (int i = 0; i < o->n_copies; i++)
        memmove(o->copies[i].to, o->copies[i].from, o->copies[i].bytes);
    ncclResult_t failed = ncclRemoteError;
    int code = ncclRemoteError;
    if (cuemu_injected("ncclAsync", &code)) {
        failed = (ncclResult_t)code;
        atomic_store(&c->error, failed);
    }
    bool vanish = cuemu_injected("ncclVanish", &code);
    bool more = true;
    atomic_fetch_add(&c->running, 1);
    for (unsigned idle = 0; more && atomic_load(&c->aborted) == 0;) {
        bool moved = false;
        more = atomic_load(&c->error) != ncclSuccess; /* then it stays, as NCCL's kernel would */
        for (int i = 0; i < o->n && atomic_load(&c->error) == ncclSuccess; i++) {
            if (t[i].left == 0)
                continue;
            more = true;
            if (is_next(t, i) && advance(c, &t[i])) {
                moved = true;
                if (vanish)
                    kill(getpid(), SIGKILL);
            }
        }
        if (moved)
            idle = 0;
        else if (more)
            pause_a_little(idle++);
    }
    atomic_fetch_sub(&c->running, 1);
    free(t);
}

/* ---- groups ---- */

static _Thread_local int group_depth;
static _Thread_local int n_group;
static _Thread_local struct {
    operation *o;
    cudaStream_t stream;
} group[8]; /* one for each communicator */

static ncclResult_t operation_of(ncclComm_t c, cudaStream_t stream, operation **out)
{
    for (int i = 0; i < n_group; i++) {
        if (group[i].o->comm == c) {
            if (group[i].stream != stream)
                cuemu_fault("NCCL: one group, one communicator, two streams");
            *out = group[i].o;
            return ncclSuccess;
        }
    }
    if (n_group == (int)(sizeof(group) / sizeof(group[0])))
        return ncclInvalidUsage;
    *out = calloc(1, sizeof(**out));
    if (*out == NULL)
        return ncclSystemError;
    (*out)->comm = c;
    group[n_group].o = *out;
    group[n_group++].stream = stream;
    return ncclSuccess;
}

static ncclResult_t group_submit(void)
{
    ncclResult_t r = ncclSuccess;
    int n = n_group;
    n_group = 0;
    for (int i = 0; i < n; i++) {
        ncclComm_t c = group[i].o->comm;
        if (!c->blocking) {
            atomic_store(&c->busy, 2);
            r = ncclInProgress;
        }
        cuemu_stream_call(group[i].stream, operation_run, group[i].o, free, true);
    }
    return r;
}

ncclResult_t ncclGroupStart(void)
{
    INJECT();
    group_depth++;
    return ncclSuccess;
}

static void group_forget(void)
{
    for (int i = 0; i < n_group; i++)
        free(group[i].o);
    n_group = 0;
}

ncclResult_t ncclGroupEnd(void)
{
    ncclResult_t r;
    if (group_depth == 0)
        cuemu_fault("NCCL: a group ends that did not start");
    group_depth--;
    if (fails(__func__, &r)) {
        group_forget();
        return r;
    }
    return group_depth == 0 ? group_submit() : ncclSuccess;
}

/* ---- operations ---- */

static size_t type_bytes(ncclDataType_t t)
{
    switch (t) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
        return 8;
    default:
        return 0;
    }
}

static ncclResult_t usable(ncclComm_t c, const char *name)
{
    if (c == NULL)
        return ncclInvalidArgument;
    if (atomic_load(&c->aborted) != 0)
        cuemu_fault("NCCL: %s with a communicator that was aborted", name);
    if (atomic_load(&c->busy) != 0)
        cuemu_fault("NCCL: %s with a communicator that is still in progress: poll ncclCommGetAsyncError first", name);
    return atomic_load(&c->error) != ncclSuccess ? (ncclResult_t)atomic_load(&c->error) : ncclSuccess;
}

static void check_memory(const char *name, const void *p, size_t bytes)
{
    if (bytes > 0 && cuemu_memory_kind(p) == 0)
        cuemu_fault("NCCL: %s of %p, which is not the device's memory", name, p);
}

static ncclResult_t add(operation *o, bool send, op_kind kind, int peer, const void *at, size_t bytes)
{
    if (o->n == (int)(sizeof(o->transfers) / sizeof(o->transfers[0])))
        return ncclInternalError;
    o->transfers[o->n++] = (transfer){.send = send, .kind = kind, .peer = peer, .at = (char *)(uintptr_t)at, .left = bytes, .total = bytes};
    return ncclSuccess;
}

static ncclResult_t add_copy(operation *o, void *to, const void *from, size_t bytes)
{
    if (o->n_copies == MAX_OPS)
        return ncclInternalError;
    o->copies[o->n_copies].to = to;
    o->copies[o->n_copies].from = from;
    o->copies[o->n_copies++].bytes = bytes;
    return ncclSuccess;
}

static ncclResult_t begin(ncclComm_t c, const char *name, cudaStream_t stream, operation **o)
{
    ncclResult_t r = usable(c, name);
    return r != ncclSuccess ? r : operation_of(c, stream, o);
}

static ncclResult_t end(void)
{
    return group_depth > 0 ? ncclSuccess : group_submit();
}

static ncclResult_t one(const char *name, bool send, const void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream)
{
    operation *o;
    size_t bytes = count * type_bytes(type);
    ncclResult_t r = begin(c, name, stream, &o);
    if (r != ncclSuccess)
        return r;
    check_memory(name, data, bytes);
    if (peer < 0 || peer >= c->n)
        return ncclInvalidArgument;
    if (peer == c->me)
        cuemu_fault("NCCL: %s to and from oneself is not emulated", name);
    if (bytes == 0)
        cuemu_fault("NCCL: %s of nothing, which waits for the other side even so, is not emulated", name);
    r = add(o, send, SEND_RECV, peer, data, bytes);
    return r != ncclSuccess ? r : end();
}

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream)
{
    INJECT();
    return one(__func__, true, data, count, type, peer, c, stream);
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream)
{
    INJECT();
    return one(__func__, false, data, count, type, peer, c, stream);
}

ncclResult_t ncclAllGather(const void *mine, void *all, size_t count, ncclDataType_t type, ncclComm_t c, cudaStream_t stream)
{
    INJECT();
    operation *o;
    size_t bytes = count * type_bytes(type);
    ncclResult_t r = begin(c, __func__, stream, &o);
    if (r != ncclSuccess)
        return r;
    check_memory(__func__, mine, bytes);
    check_memory(__func__, all, bytes * (size_t)c->n);
    char *at = all;
    if ((const char *)mine != at + (size_t)c->me * bytes)
        r = add_copy(o, at + (size_t)c->me * bytes, mine, bytes);
    for (int i = 0; i < c->n && r == ncclSuccess && bytes > 0; i++) {
        if (i == c->me)
            continue;
        r = add(o, true, ALL_GATHER, i, mine, bytes);
        if (r == ncclSuccess)
            r = add(o, false, ALL_GATHER, i, at + (size_t)i * bytes, bytes);
    }
    return r != ncclSuccess ? r : end();
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t c, cudaStream_t stream)
{
    INJECT();
    operation *o;
    size_t bytes = count * type_bytes(type);
    ncclResult_t r = begin(c, __func__, stream, &o);
    if (r != ncclSuccess)
        return r;
    if (root < 0 || root >= c->n)
        return ncclInvalidArgument;
    check_memory(__func__, to, bytes);
    if (c->me != root) {
        r = bytes > 0 ? add(o, false, BROADCAST, root, to, bytes) : ncclSuccess;
        return r != ncclSuccess ? r : end();
    }
    check_memory(__func__, from, bytes);
    if (from != to)
        r = add_copy(o, to, from, bytes);
    for (int i = 0; i < c->n && r == ncclSuccess && bytes > 0; i++)
        if (i != root)
            r = add(o, true, BROADCAST, i, from, bytes);
    return r != ncclSuccess ? r : end();
}

/* ---- communicators ---- */

ncclResult_t ncclGetVersion(int *version)
{
    INJECT();
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static atomic_uint count;
    INJECT();
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    memset(id, 0, sizeof(*id));
    snprintf(id->internal, sizeof(id->internal), "/cuemu-nccl-%d-%u-%lx", (int)getpid(), atomic_fetch_add(&count, 1), (unsigned long)(t.tv_sec * 1000000000 + t.tv_nsec));
    return ncclSuccess;
}

/* Whoever comes first makes it as large as it must be; a new segment is zeros, which is a good start. */
static ncclResult_t segment_open(ncclComm_t c, const ncclUniqueId *id)
{
    char name[NCCL_UNIQUE_ID_BYTES];
    memcpy(name, id->internal, sizeof(name));
    name[sizeof(name) - 1] = '\0';
    if (strncmp(name, "/cuemu-nccl-", 12) != 0)
        return ncclInvalidArgument;
    int fd = shm_open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return ncclSystemError;
    c->bytes = segment_bytes(c->n);
    void *p = ftruncate(fd, (off_t)c->bytes) == 0 ? mmap(NULL, c->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
    if (p == MAP_FAILED)
        return ncclSystemError;
    c->shared = p;
    if (atomic_fetch_add(&c->shared->joined, 1) + 1 == (unsigned)c->n)
        shm_unlink(name);
    return ncclSuccess;
}

static bool all_joined(ncclComm_t c)
{
    return atomic_load(&c->shared->joined) >= (unsigned)c->n;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    *out = NULL;
    INJECT();
    if (n < 1 || n > MAX_RANKS || rank < 0 || rank >= n || (config != NULL && config->magic != CONFIG_MAGIC))
        return ncclInvalidArgument;
    ncclComm_t c = calloc(1, sizeof(*c));
    if (c == NULL)
        return ncclSystemError;
    c->n = n;
    c->me = rank;
    c->blocking = config == NULL || config->blocking != 0;
    ncclResult_t r = segment_open(c, &id);
    if (r != ncclSuccess) {
        free(c);
        return r;
    }
    *out = c;
    if (!c->blocking) {
        atomic_store(&c->busy, 3);
        return ncclInProgress;
    }
    for (unsigned i = 0; !all_joined(c); i++)
        pause_a_little(i);
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *out)
{
    if (c == NULL)
        return ncclInvalidArgument;
    INJECT();
    int error = atomic_load(&c->error), busy = atomic_load(&c->busy);
    *out = ncclSuccess;
    if (error != ncclSuccess)
        *out = (ncclResult_t)error;
    else if (!all_joined(c) || (c->finalized && atomic_load(&c->running) != 0))
        *out = ncclInProgress;
    else if (busy > 0) {
        int seen = busy; /* another thread that polls may be faster */
        atomic_compare_exchange_strong(&c->busy, &seen, busy - 1);
        *out = busy > 1 ? ncclInProgress : ncclSuccess;
    }
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t c, int *n)
{
    INJECT();
    *n = c->n;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t c, int *rank)
{
    INJECT();
    *rank = c->me;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    INJECT();
    ncclResult_t r = usable(c, __func__);
    if (r != ncclSuccess)
        return r;
    c->finalized = true;
    if (c->blocking)
        return ncclSuccess;
    atomic_store(&c->busy, 2);
    return ncclInProgress;
}

/* What still runs in it would read what is gone: it waits, as NCCL does. */
ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    INJECT();
    for (unsigned i = 0; atomic_load(&c->running) != 0; i++)
        pause_a_little(i);
    munmap(c->shared, c->bytes);
    free(c);
    return ncclSuccess;
}

/* Operations that are queued on a stream may still come, and find it aborted: it stays, as little as it is. */
ncclResult_t ncclCommAbort(ncclComm_t c)
{
    ncclResult_t r;
    if (c == NULL)
        return ncclInvalidArgument;
    if (atomic_exchange(&c->aborted, 1) != 0)
        cuemu_fault("NCCL: a communicator is aborted twice");
    for (unsigned i = 0; atomic_load(&c->running) != 0; i++)
        pause_a_little(i);
    return fails(__func__, &r) ? r : ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r)
{
    static const char *const names[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error", "invalid argument", "invalid usage",
                                        "remote process exited or there was a network error", "NCCL operation in progress", "timeout"};
    return (unsigned)r < sizeof(names) / sizeof(names[0]) ? names[r] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t c)
{
    (void)c;
    return "EMULATED";
}
