/* comm/nccl/nccl_internal.h - between the two files of the device's collectives, which are part of backend_cuda.so.
 *
 *   cuda_comm.c  the table (comm/device.h); memory, peers' memory, the three paths
 *   cuda_nccl.c  NCCL: found at run time, a communicator that never blocks for ever, the calls
 *
 *   shared memory of a rank, one allocation, which the ranks of its host map:   [slot 0][slot 1][result][flags]
 *
 * Operation k uses slot k % 2.  A rank that writes slot p again has met all others in the operation in between, and whoever comes there has queued it behind its reads of p.
 *
 * Operations run on the caller's stream, `stream`.  The halves of an exchange run on `side`, where the same holds for each half by itself: the first half's k-th operation and
 * the other half's k-th use disjoint bytes of the same slot and of the result, and a half is begun again only behind the wait for its last one, in which all have
 * met that half's others.  An event keeps side behind what filled the slot, another the caller's stream behind the sum; when neither half is under way, both streams are in one order. */
#ifndef COMM_NCCL_NCCL_INTERNAL_H
#define COMM_NCCL_NCCL_INTERNAL_H

#include <nccl.h>
#include <stdatomic.h>

#include "comm/device.h"
#include "ops/cuda/kernels.h"

typedef struct nccl_api { /* of libnccl.so.2, or of what emulates it */
    ncclResult_t (*GetVersion)(int *);
    ncclResult_t (*GetUniqueId)(ncclUniqueId *);
    ncclResult_t (*CommInitRankConfig)(ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *);
    ncclResult_t (*CommFinalize)(ncclComm_t);
    ncclResult_t (*CommDestroy)(ncclComm_t);
    ncclResult_t (*CommAbort)(ncclComm_t);
    ncclResult_t (*CommGetAsyncError)(ncclComm_t, ncclResult_t *);
    ncclResult_t (*GroupStart)(void);
    ncclResult_t (*GroupEnd)(void);
    ncclResult_t (*Send)(const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*Recv)(void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*AllGather)(const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t);
    ncclResult_t (*Broadcast)(const void *, void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    const char *(*GetErrorString)(ncclResult_t);
    const char *(*GetLastError)(ncclComm_t);
} nccl_api;

struct comm_device {
    int n, me, device, timeout_ms;
    int rank[COMM_DEVICE_MAX], host[COMM_DEVICE_MAX];
    uint64_t host_starts;        /* bit i: member i is the first of another host than the one before */
    bool one_host, ipc;           /* ipc: all see all others' memory */
    size_t slot_bytes, result_bytes;
    cudaStream_t stream, side;
    cudaStream_t on;             /* of the two: where the operation at hand is queued */
    cudaEvent_t filled, summed[2]; /* a half's slot; its sum */
    comm_choice choice;
    bool (*aborted)(void *);
    void *aborted_arg;
    char description[160];

    char *shared;                /* this rank's; NULL without exchange */
    size_t shared_bytes;
    char *map[COMM_DEVICE_MAX];  /* member i's, as it is seen here */
    float *staging;              /* slices of the others on their way through NCCL */
    gpu_comm_words *words;       /* pinned */
    gpu_comm gpu;
    unsigned op[2];              /* exchanges so far, of each half: which slot; of whole ones both count */
    const float *parts[2][COMM_DEVICE_MAX];

    const nccl_api *api;         /* NULL: no NCCL */
    int nccl_version;
    ncclUniqueId id;             /* of member 0 */
    ncclComm_t comm;
    atomic_int in_call;          /* the rank's thread is in NCCL */
    atomic_int stopped;          /* aborted: nothing is called any more */
};

status nccl_comm_cuda_failed(const comm_device *d, cudaError_t e, const char *file, int line, const char *call, const char *what);
#define COMM_CUDA_TRY(d, call, what)                                                    \
    do {                                                                                \
        cudaError_t comm_e_ = (call);                                                   \
        if (comm_e_ != cudaSuccess)                                                     \
            return nccl_comm_cuda_failed((d), comm_e_, __FILE__, __LINE__, #call, what); \
    } while (0)

/* ---- cuda_nccl.c ---- */

/* NULL: `why` says what is missing. */
const nccl_api *nccl_load(int *version, char *why, size_t why_bytes);
status nccl_unique_id(comm_device *d, ncclUniqueId *out);
/* Waits for the other members, at most the group's deadline. */
status nccl_start(comm_device *d);
void nccl_stop(comm_device *d, bool clean);
void nccl_abort(comm_device *d);                                    /* by any thread, once */
status nccl_async_error(comm_device *d, char *why, size_t why_bytes); /* by the watching thread */

typedef struct nccl_piece { /* something to send to a member, and something to receive from it; bytes 0: nothing */
    const void *send;
    void *recv;
    size_t send_bytes, recv_bytes;
} nccl_piece;
status nccl_swap(comm_device *d, const char *what, const nccl_piece *piece /* [n] */);
status nccl_gather(comm_device *d, const char *what, const void *mine, void *all, size_t bytes);
status nccl_broadcast(comm_device *d, const char *what, int root, void *data, size_t bytes);

#endif
