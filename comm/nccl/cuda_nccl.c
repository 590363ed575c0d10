/* comm/nccl/cuda_nccl.c - NCCL as far as it is used here: transfers, never sums, whose order would be NCCL's own.
 *
 * The communicator does not block: a call that returns "in progress" is polled, until the deadline or an abort.  The watching thread may abort it at any time: it says so first
 * (stopped), waits a moment for a call that is under way, and whoever comes later sees the word and stays out. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "comm/nccl/nccl_internal.h"
#include "ops/cuda/cuda_library.h"

#define POLL_NS 20000
#define CALL_MS 200 /* an abort waits so long for a call under way */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void nap(void)
{
    struct timespec t = {.tv_nsec = POLL_NS};
    nanosleep(&t, NULL);
}

/* ---- the library ---- */

#ifdef CUDA_EMULATED
const nccl_api *nccl_load(int *version, char *why, size_t why_bytes)
{
    static const nccl_api api = {ncclGetVersion, ncclGetUniqueId, ncclCommInitRankConfig, ncclCommFinalize, ncclCommDestroy, ncclCommAbort, ncclCommGetAsyncError, ncclGroupStart,
                                 ncclGroupEnd, ncclSend, ncclRecv, ncclAllGather, ncclBroadcast, ncclGetErrorString, ncclGetLastError};
    if (api.GetVersion(version) == ncclSuccess)
        return &api;
    snprintf(why, why_bytes, "ncclGetVersion fails");
    return NULL;
}
#else
#define SYMBOL(f) {"nccl" #f, offsetof(nccl_api, f)}

const nccl_api *nccl_load(int *version, char *why, size_t why_bytes)
{
    static const cuda_symbol symbols[] = {SYMBOL(GetVersion), SYMBOL(GetUniqueId), SYMBOL(CommInitRankConfig), SYMBOL(CommFinalize), SYMBOL(CommDestroy), SYMBOL(CommAbort),
                                          SYMBOL(CommGetAsyncError), SYMBOL(GroupStart), SYMBOL(GroupEnd), SYMBOL(Send), SYMBOL(Recv), SYMBOL(AllGather), SYMBOL(Broadcast),
                                          SYMBOL(GetErrorString), SYMBOL(GetLastError)};
    static nccl_api api;
    if (!cuda_library_load("libnccl.so.2", "2.18", symbols, ARRAY_LEN(symbols), &api, why, why_bytes))
        return NULL;
    if (api.GetVersion(version) == ncclSuccess)
        return &api;
    snprintf(why, why_bytes, "ncclGetVersion fails");
    return NULL;
}
#endif

/* ---- calls ---- */

/* False: the communicator is gone. */
static bool call_begin(comm_device *d)
{
    atomic_store(&d->in_call, 1);
    if (atomic_load(&d->stopped) == 0)
        return true;
    atomic_store(&d->in_call, 0);
    return false;
}

static void call_end(comm_device *d)
{
    atomic_store(&d->in_call, 0);
}

static const char *remedy(ncclResult_t r)
{
    switch (r) {
    case ncclUnhandledCudaError:
        return "is the device still there (nvidia-smi, dmesg), and is its memory not full?";
    case ncclSystemError:
        return "is /dev/shm large enough, and does NCCL_SOCKET_IFNAME name the network between the hosts? NCCL_DEBUG=WARN tells more";
    case ncclRemoteError:
        return "another rank ended or the network failed: look at the other ranks' logs, then start the job again";
    case ncclInvalidArgument:
    case ncclInvalidUsage:
        return "do all ranks run the same version of NCCL, each on a device of its own? NCCL_DEBUG=WARN tells more";
    default:
        return "NCCL_DEBUG=WARN tells more";
    }
}

/* gone: the communicator may not be asked any more. */
static status failed(comm_device *d, ncclResult_t r, const char *call, const char *what, bool gone)
{
    const char *more = gone || d->comm == NULL ? "" : d->api->GetLastError(d->comm);
    return FAIL(r == ncclRemoteError ? ST_PEER : ST_INTERNAL, "rank %d, %s: %s: %s%s%s%s; %s", d->rank[d->me], what, call, d->api->GetErrorString(r), more != NULL && *more != '\0' ? " (" : "",
                more != NULL ? more : "", more != NULL && *more != '\0' ? ")" : "", remedy(r));
}

/* Until the last call is through. */
static status settle(comm_device *d, ncclResult_t r, const char *call, const char *what)
{
    int64_t deadline = now_ns() + (int64_t)d->timeout_ms * 1000000;
    while (r == ncclInProgress) {
        ncclResult_t async = ncclSuccess;
        if (!call_begin(d))
            return ST_ABORTED; /* the cause has been told */
        r = d->api->CommGetAsyncError(d->comm, &async);
        call_end(d);
        if (r == ncclSuccess)
            r = async;
        else
            return failed(d, r, "ncclCommGetAsyncError", what, false);
        if (r != ncclInProgress)
            break;
        if (d->aborted != NULL && d->aborted(d->aborted_arg))
            return ST_ABORTED; /* the cause has been told */
        if (d->timeout_ms >= 0 && now_ns() > deadline)
            return FAIL(ST_TIMEOUT, "rank %d, %s: %s is not through within %d ms: another rank did not come to it; look at the other ranks' logs, and is the network between the hosts open?",
                        d->rank[d->me], what, call, d->timeout_ms);
        nap();
    }
    return r == ncclSuccess ? ST_OK : failed(d, r, call, what, false);
}

#define NCCL_OK(r) ((r) == ncclSuccess || (r) == ncclInProgress)

status nccl_unique_id(comm_device *d, ncclUniqueId *out)
{
    ncclResult_t r = d->api->GetUniqueId(out);
    return r == ncclSuccess ? ST_OK : failed(d, r, "ncclGetUniqueId", "start of the group", true);
}

status nccl_start(comm_device *d)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclResult_t r = d->api->CommInitRankConfig(&d->comm, d->n, d->id, d->me, &config);
    if (!NCCL_OK(r) || d->comm == NULL)
        return failed(d, r, "ncclCommInitRankConfig", "start of the group", true);
    return settle(d, r, "ncclCommInitRankConfig", "start of the group");
}

void nccl_abort(comm_device *d)
{
    if (d->comm == NULL || atomic_exchange(&d->stopped, 1) != 0)
        return;
    for (int64_t until = now_ns() + (int64_t)CALL_MS * 1000000; atomic_load(&d->in_call) != 0 && now_ns() < until;)
        nap();
    (void)d->api->CommAbort(d->comm); /* whatever it says, nothing more can be done */
}

void nccl_stop(comm_device *d, bool clean)
{
    if (d->comm == NULL)
        return;
    status st = ST_PEER;
    if (clean && call_begin(d)) {
        ncclResult_t r = d->api->CommFinalize(d->comm);
        call_end(d);
        st = NCCL_OK(r) ? settle(d, r, "ncclCommFinalize", "end of the group") : failed(d, r, "ncclCommFinalize", "end of the group", false);
    }
    if (st == ST_OK)
        (void)d->api->CommDestroy(d->comm);
    else
        nccl_abort(d);
    d->comm = NULL;
}

status nccl_async_error(comm_device *d, char *why, size_t why_bytes)
{
    ncclResult_t async = ncclSuccess;
    if (d->comm == NULL || atomic_load(&d->stopped) != 0)
        return ST_OK;
    ncclResult_t r = d->api->CommGetAsyncError(d->comm, &async);
    const char *call = r == ncclSuccess ? "NCCL" : "ncclCommGetAsyncError";
    if (r == ncclSuccess)
        r = async;
    if (NCCL_OK(r))
        return ST_OK;
    const char *more = d->api->GetLastError(d->comm);
    snprintf(why, why_bytes, "%s: %s%s%s%s; %s", call, d->api->GetErrorString(r), more != NULL && *more != '\0' ? " (" : "", more != NULL ? more : "", more != NULL && *more != '\0' ? ")" : "",
             remedy(r));
    return r == ncclRemoteError ? ST_PEER : ST_INTERNAL;
}

status nccl_swap(comm_device *d, const char *what, const nccl_piece *piece)
{
    const char *call = "ncclGroupStart";
    if (!call_begin(d))
        return ST_ABORTED; /* the cause has been told */
    ncclResult_t r = d->api->GroupStart();
    bool open = r == ncclSuccess;
    /* Round the ring, so that not all send to the same one first. */
    for (int k = 1; k < d->n && NCCL_OK(r); k++) {
        int to = (d->me + k) % d->n, from = (d->me + d->n - k) % d->n;
        call = "ncclSend";
        if (piece[to].send_bytes > 0)
            r = d->api->Send(piece[to].send, piece[to].send_bytes, ncclInt8, to, d->comm, d->on);
        if (!NCCL_OK(r))
            break;
        call = "ncclRecv";
        if (piece[from].recv_bytes > 0)
            r = d->api->Recv(piece[from].recv, piece[from].recv_bytes, ncclInt8, from, d->comm, d->on);
    }
    if (open) {
        ncclResult_t e = d->api->GroupEnd();
        if (NCCL_OK(r)) {
            r = e;
            call = "ncclGroupEnd";
        }
    }
    call_end(d);
    return NCCL_OK(r) ? settle(d, r, call, what) : failed(d, r, call, what, false);
}

status nccl_gather(comm_device *d, const char *what, const void *mine, void *all, size_t bytes)
{
    if (!call_begin(d))
        return ST_ABORTED; /* the cause has been told */
    ncclResult_t r = d->api->AllGather(mine, all, bytes, ncclInt8, d->comm, d->on);
    call_end(d);
    return NCCL_OK(r) ? settle(d, r, "ncclAllGather", what) : failed(d, r, "ncclAllGather", what, false);
}

status nccl_broadcast(comm_device *d, const char *what, int root, void *data, size_t bytes)
{
    if (!call_begin(d))
        return ST_ABORTED; /* the cause has been told */
    ncclResult_t r = d->api->Broadcast(data, data, bytes, ncclInt8, root, d->comm, d->on);
    call_end(d);
    return NCCL_OK(r) ? settle(d, r, "ncclBroadcast", what) : failed(d, r, "ncclBroadcast", what, false);
}
