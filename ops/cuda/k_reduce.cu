/* ops/cuda/k_reduce.cu - sums over the ranks of a host, through memory that they see of each other.
 *
 * Meeting: thread t of a block stores the block's count of meetings into member t's flags (release, system scope) and waits until member t's has come to
 * its own (acquire).  A fence and a barrier before make all that the block wrote part of what is released; earlier kernels' writes are, by the order of the stream.
 * After the barrier behind the wait every thread may read what the peers released.  Peers' data are read with plain loads: the read-only path might
 * hold what was there before.
 *
 * A block that waits looks at the host's abort word every few hundred polls; then the kernel ends with rubbish, and the host tells why.  Deadlines are the
 * host's: it sees `begun` and `ended` from outside.
 *
 * What limits them: small sums the flight of a flag (some microseconds over NVLink), large ones the link.  A thread has N loads of 16 bytes under way. */
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/kernels.h"

enum { THREADS = 256, LOOK = 256, LATE = 1 << 14 };

/* True when the host called it off. */
GPU_FN bool wait_for(const gpu_comm &c, const uint32_t *flag, uint32_t epoch, int from)
{
    bool late = false, off = false;
    for (uint32_t polls = 1; static_cast<int32_t>(gpu_load_acquire_sys(flag) - epoch) < 0 && !off; polls++) {
        if (polls % LOOK == 0) {
            off = gpu_load_acquire_sys(&c.words->abort) != 0;
            if (!late && polls >= LATE) {
                late = true;
                gpu_store_release_sys(&c.words->late[from], 1);
            }
        }
        gpu_pause();
    }
    if (late && !off) /* an abort leaves word of whom it was that did not come */
        gpu_store_release_sys(&c.words->late[from], 0);
    return off;
}

/* All threads of the block call.  False: called off. */
GPU_FN bool meet(const gpu_comm &c, int round, uint32_t epoch)
{
    int t = static_cast<int>(threadIdx.x), off = 0;
    __threadfence_system();
    __syncthreads();
    if (t < c.n) {
        uint32_t at = (static_cast<uint32_t>(round) * GPU_COMM_BLOCKS + blockIdx.x) * GPU_COMM_MAX;
        gpu_store_release_sys(c.flags[t] + at + c.me, epoch);
        off = wait_for(c, c.flags[c.me] + at + t, epoch, t) ? 1 : 0;
    }
    return __syncthreads_or(off) == 0;
}

/* The block's count of this meeting; the host is told once that the operation began. */
GPU_FN uint32_t op_begin(const gpu_comm &c, uint32_t op)
{
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        gpu_store_release_sys(&c.words->op, op); /* the host may be looking */
        gpu_store_release_sys(&c.words->begun, c.own[0] + 1);
    }
    return c.own[2 + blockIdx.x] + 1;
}

/* The last block to come here tells the host. */
GPU_FN void op_end(const gpu_comm &c, uint32_t epoch)
{
    __syncthreads(); /* all have read the count */
    if (threadIdx.x != 0)
        return;
    c.own[2 + blockIdx.x] = epoch;
    if (gpu_add_acq_rel_gpu(&c.own[1], 1) + 1 < gridDim.x)
        return;
    c.own[1] = 0;
    c.own[0]++;
    gpu_store_release_sys(&c.words->ended, c.own[0]);
}

__global__ void __launch_bounds__(32) comm_meet_kernel(const __grid_constant__ gpu_comm c, uint32_t op)
{
    uint32_t epoch = op_begin(c, op);
    meet(c, 0, epoch);
    op_end(c, epoch);
}

GPU_FN float4 add4(float4 a, float4 b)
{
    return make_float4(gpu_add(a.x, b.x), gpu_add(a.y, b.y), gpu_add(a.z, b.z), gpu_add(a.w, b.w));
}

/* Four floats of all slots, added in order; N members, 0: any number. */
template <int N> GPU_FN float4 sum4(const gpu_comm_slots &p, int n, int64_t i)
{
    if constexpr (N == 0) {
        float4 s = reinterpret_cast<const float4 *>(p.slot[0])[i];
#pragma unroll 1
        for (int k = 1; k < n; k++)
            s = add4(s, reinterpret_cast<const float4 *>(p.slot[k])[i]);
        return s;
    } else {
        float4 v[N]; /* all on their way before the first is needed */
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = reinterpret_cast<const float4 *>(p.slot[k])[i];
#pragma unroll
        for (int k = 1; k < N; k++)
            v[0] = add4(v[0], v[k]);
        return v[0];
    }
}

/* Floats i*4... of out, of which there are n. */
GPU_FN void put4(float *out, int64_t i, int64_t n, float4 v)
{
    if (4 * i + 4 <= n) {
        reinterpret_cast<float4 *>(out)[i] = v;
        return;
    }
    float *at = out + 4 * i;
    at[0] = v.x;
    if (4 * i + 1 < n)
        at[1] = v.y;
    if (4 * i + 2 < n)
        at[2] = v.z;
}

template <int N>
__global__ void __launch_bounds__(THREADS, 2) comm_one_shot_kernel(const __grid_constant__ gpu_comm c, uint32_t op, const __grid_constant__ gpu_comm_slots p, int64_t n, float *out)
{
    uint32_t epoch = op_begin(c, op);
    if (meet(c, 0, epoch)) {
        int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; 4 * i < n; i += step)
            put4(out, i, n, sum4<N>(p, c.n, i));
    }
    op_end(c, epoch);
}

/* Slice k begins at k * per fours. */
GPU_FN int64_t per_member(int64_t n, int members)
{
    int64_t fours = (n + 3) / 4;
    return (fours + members - 1) / members;
}

template <int N>
__global__ void __launch_bounds__(THREADS, 2) comm_two_shot_kernel(const __grid_constant__ gpu_comm c, uint32_t op, const __grid_constant__ gpu_comm_slots p, int64_t n)
{
    uint32_t epoch = op_begin(c, op);
    if (meet(c, 0, epoch)) {
        int64_t per = per_member(n, c.n), begin = c.me * per, step = static_cast<int64_t>(gridDim.x) * THREADS;
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < per && 4 * (begin + i) < n; i += step) {
            float4 v = sum4<N>(p, c.n, begin + i);
#pragma unroll 1
            for (int k = 0; k < c.n; k++)
                put4(p.result[k], begin + i, n, v);
        }
        meet(c, 1, epoch);
    }
    op_end(c, epoch);
}

__global__ void __launch_bounds__(THREADS, 2) comm_sum_kernel(const float *parts, int64_t stride, int32_t n_parts, int32_t me, const float *mine, uint64_t host_starts, int64_t n, float *out)
{
    int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (4 * i >= n)
        return;
    float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f), host = total;
    bool more = false; /* total holds the hosts before */
#pragma unroll 4
    for (int k = 0; k < n_parts; k++) {
        const float *part = k == me ? mine : parts + k * stride;
        float4 v = reinterpret_cast<const float4 *>(part)[i];
        if (k > 0 && (host_starts >> k & 1) != 0) {
            total = more ? add4(total, host) : host;
            more = true;
            host = v;
        } else {
            host = k == 0 ? v : add4(host, v);
        }
    }
    put4(out, i, n, more ? add4(total, host) : host);
}

__global__ void __launch_bounds__(32) comm_mark_kernel(const __grid_constant__ gpu_comm c, uint32_t op, int32_t begin)
{
    if (threadIdx.x != 0)
        return;
    if (begin != 0) {
        gpu_store_release_sys(&c.words->op, op); /* the host may be looking */
        gpu_store_release_sys(&c.words->begun, c.own[0] + 1);
    } else {
        c.own[0]++;
        gpu_store_release_sys(&c.words->ended, c.own[0]);
    }
}

extern "C" cudaError_t k_comm_meet(const gpu_comm *c, uint32_t op, cudaStream_t s)
{
    return GPU_LAUNCH(comm_meet_kernel, dim3(1), dim3(32), 0, s, *c, op);
}

static dim3 blocks_for(int64_t fours)
{
    int64_t blocks = (fours + THREADS - 1) / THREADS;
    return dim3(static_cast<unsigned>(blocks < 1 ? 1 : blocks > GPU_COMM_BLOCKS ? GPU_COMM_BLOCKS : blocks));
}

extern "C" cudaError_t k_comm_one_shot(const gpu_comm *c, uint32_t op, const gpu_comm_slots *p, int64_t n, float *out, cudaStream_t s)
{
    dim3 grid = blocks_for((n + 3) / 4), block(THREADS);
    switch (c->n) {
    case 2:
        return GPU_LAUNCH((comm_one_shot_kernel<2>), grid, block, 0, s, *c, op, *p, n, out);
    case 4:
        return GPU_LAUNCH((comm_one_shot_kernel<4>), grid, block, 0, s, *c, op, *p, n, out);
    case 8:
        return GPU_LAUNCH((comm_one_shot_kernel<8>), grid, block, 0, s, *c, op, *p, n, out);
    default:
        return GPU_LAUNCH((comm_one_shot_kernel<0>), grid, block, 0, s, *c, op, *p, n, out);
    }
}

extern "C" cudaError_t k_comm_two_shot(const gpu_comm *c, uint32_t op, const gpu_comm_slots *p, int64_t n, cudaStream_t s)
{
    dim3 grid = blocks_for(((n + 3) / 4 + c->n - 1) / c->n), block(THREADS);
    switch (c->n) {
    case 2:
        return GPU_LAUNCH((comm_two_shot_kernel<2>), grid, block, 0, s, *c, op, *p, n);
    case 4:
        return GPU_LAUNCH((comm_two_shot_kernel<4>), grid, block, 0, s, *c, op, *p, n);
    case 8:
        return GPU_LAUNCH((comm_two_shot_kernel<8>), grid, block, 0, s, *c, op, *p, n);
    default:
        return GPU_LAUNCH((comm_two_shot_kernel<0>), grid, block, 0, s, *c, op, *p, n);
    }
}

extern "C" cudaError_t k_comm_sum(const float *parts, int64_t stride, int32_t n_parts, int32_t me, const float *mine, uint64_t host_starts, int64_t n, float *out, cudaStream_t s)
{
    if (n <= 0)
        return cudaSuccess;
    dim3 grid(static_cast<unsigned>(((n + 3) / 4 + THREADS - 1) / THREADS)), block(THREADS);
    return GPU_LAUNCH(comm_sum_kernel, grid, block, 0, s, parts, stride, n_parts, me, mine, host_starts, n, out);
}

extern "C" cudaError_t k_comm_mark(const gpu_comm *c, uint32_t op, bool begin, cudaStream_t s)
{
    return GPU_LAUNCH(comm_mark_kernel, dim3(1), dim3(32), 0, s, *c, op, static_cast<int32_t>(begin));
}
