/* tests/cuda_on_host/cuemu_device.h - the device side of the emulation: what ops/cuda/gpu.cuh gives to kernels when a host compiler compiles them (-DCUEMU).
 *
 * A CUDA thread is a fiber (cuemu_fibers.cc); all of a grid run on the OS thread that executes the launch, blocks one after another.  A fiber runs until it
 * meets a barrier or a warp operation.  Each of those carries the source line it was called from, so that threads meeting at different lines are an error.
 * Loads and stores are plain C++, so sanitizers see them with the kernel's own lines.  Nothing here is for speed but what keeps tests below seconds. */
#ifndef CUEMU_DEVICE_H
#define CUEMU_DEVICE_H

#ifndef __x86_64__
#error "the emulation switches fibers in x86-64 assembly: it is left out on other processors"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector_functions.h>
#include <vector_types.h>

#undef __shared__
#define __shared__ static_assert(false, "GPU_SHARED(type, name, [dims]) instead of __shared__");
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

#define GPU_FN static inline
#define GPU_MEMBER inline

/* ---- what the runtime offers (cuemu_fibers.cc, cuemu_runtime.cc) ---- */

struct cuemu_thread {
    uint3 tid;
    int lane, warp, linear;
};
struct cuemu_block {
    uint3 bid, bdim, gdim;
    unsigned char *dynamic;
    size_t dynamic_bytes;
};
struct cuemu_copy {
    void *to;
    const void *from;
    int bytes, valid;
};
struct cuemu_site {
    const char *file;
    int line;
};
enum { CUEMU_SLOT = 64 }; /* bytes a lane brings to a warp operation, at most */
enum cuemu_op { CUEMU_SYNC, CUEMU_SHFL, CUEMU_VOTE, CUEMU_MATCH, CUEMU_LDMATRIX, CUEMU_MMA_BF16, CUEMU_MMA_F16, CUEMU_MMA_S8, CUEMU_MMA_U8S8, CUEMU_SUM, CUEMU_MAX };

extern "C" {
extern cuemu_thread *cuemu_self;
extern cuemu_block cuemu_this_block;
void cuemu_trap(const char *message, cuemu_site site) __attribute__((noreturn));
/* Static shared memory of the block: rubbish at the first touch of each block, counted. */
void *cuemu_shared(unsigned *epoch, void *p, size_t bytes);
/* count 0: the whole block. Returns the sum of `vote` over the block and through *all whether every thread's was non-zero. */
int cuemu_barrier(int id, int count, int vote, int *all, cuemu_site site);
/* Meets the lanes of mask; returns their slots, lane l's at l * CUEMU_SLOT (for matrix operations: lane l's result). */
const unsigned char *cuemu_warp(uint32_t mask, const void *in, size_t bytes, cuemu_op op, cuemu_site site);
void cuemu_yield(void);
void cuemu_copy_push(const cuemu_copy *c);
void cuemu_copy_commit(void);
/* The next copy that has to land before at most `keep` groups are pending; false: none. */
bool cuemu_copy_next(int keep, cuemu_copy *c);
bool cuemu_copies_early(void);
typedef void (*cuemu_thunk)(void *fn, void *args);
typedef struct cuemu_launch {
    const char *name;
    void *fn;
    cuemu_thunk thunk;
    void *args;
    void (*args_free)(void *);
    const void *pointers[32];
    int n_pointers;
    dim3 grid, block;
    size_t dynamic_bytes;
} cuemu_launch;
cudaError_t cuemu_launch_kernel(const cuemu_launch *l, cudaStream_t s); /* takes args */
}

/* The caller's line, as default arguments. */
#define CUEMU_HERE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()

#define threadIdx (cuemu_self->tid)
#define blockIdx (cuemu_this_block.bid)
#define blockDim (cuemu_this_block.bdim)
#define gridDim (cuemu_this_block.gdim)
static const int warpSize = 32;

template <class T> struct cuemu_static_shared { /* plain bytes: no guard variable, no constructor */
    unsigned epoch;
    alignas(16) unsigned char raw[sizeof(T)];
    T &get()
    {
        return *static_cast<T *>(cuemu_shared(&epoch, raw, sizeof(raw)));
    }
};
#define GPU_SHARED(T, name, ...)                                                                                                                     \
    typedef T name##_shared_t_ __VA_ARGS__;                                                                                                          \
    static cuemu_static_shared<name##_shared_t_> name##_shared_;                                                                                     \
    name##_shared_t_ &name = name##_shared_.get()
#define GPU_DYN_SMEM(T, name) T *name = reinterpret_cast<T *>(cuemu_this_block.dynamic)
#define GPU_TRAP(message) cuemu_trap(message, {__FILE__, __LINE__})

/* ---- launch: arguments are copied at the call, as CUDA does ---- */

template <class T> static inline const void *cuemu_pointer(const T &v)
{
    if constexpr (std::is_pointer_v<T>)
        return reinterpret_cast<const void *>(v);
    else
        return nullptr;
}
template <class... P, class... A>
static inline cudaError_t gpu_launch_(const char *name, void (*k)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t s, A &&...a)
{
    using args_t = std::tuple<std::decay_t<P>...>;
    static_assert(sizeof...(P) <= 32, "cuemu_launch holds 32 pointers");
    cuemu_launch l = {};
    args_t *args = new args_t(static_cast<P>(std::forward<A>(a))...);
    std::apply([&](const auto &...e) { ((l.pointers[l.n_pointers++] = cuemu_pointer(e)), ...); }, *args);
    l.name = name;
    l.fn = reinterpret_cast<void *>(k);
    l.thunk = [](void *fn, void *p) {
        std::apply(reinterpret_cast<void (*)(P...)>(fn), *static_cast<args_t *>(p)); /* copied once more for each thread */
    };
    l.args = args;
    l.args_free = [](void *p) { delete static_cast<args_t *>(p); };
    l.grid = grid;
    l.block = block;
    l.dynamic_bytes = smem;
    return cuemu_launch_kernel(&l, s);
}
#define GPU_LAUNCH(k, grid, block, smem, stream, ...) gpu_launch_(#k, k, grid, block, smem, stream, ##__VA_ARGS__)
template <class... P> static inline cudaError_t gpu_allow_smem(void (*k)(P...), size_t bytes)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(k), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

/* ---- barriers and fences ---- */

static inline void __syncthreads(CUEMU_HERE)
{
    cuemu_barrier(0, 0, 0, nullptr, {file_, line_});
}
static inline int __syncthreads_count(int p, CUEMU_HERE)
{
    return cuemu_barrier(0, 0, p != 0, nullptr, {file_, line_});
}
static inline int __syncthreads_or(int p, CUEMU_HERE)
{
    return cuemu_barrier(0, 0, p != 0, nullptr, {file_, line_}) != 0;
}
static inline int __syncthreads_and(int p, CUEMU_HERE)
{
    int all;
    cuemu_barrier(0, 0, p != 0, &all, {file_, line_});
    return all;
}
static inline void gpu_named_barrier(int id, int n, CUEMU_HERE)
{
    cuemu_barrier(id, n, 0, nullptr, {file_, line_});
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, CUEMU_HERE)
{
    cuemu_warp(mask, nullptr, 0, CUEMU_SYNC, {file_, line_});
}
#define __threadfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define __threadfence_block() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define __threadfence_system() __atomic_thread_fence(__ATOMIC_SEQ_CST)
static inline void __nanosleep(unsigned)
{
    cuemu_yield();
}
static inline void gpu_pause(void)
{
    cuemu_yield();
}
static inline void __trap(CUEMU_HERE)
{
    cuemu_trap("__trap", {file_, line_});
}

/* ---- warp operations ---- */

template <class T> static inline T cuemu_shuffle(unsigned mask, T v, int from, cuemu_site site)
{
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 4 or 8 bytes");
    const unsigned char *slots = cuemu_warp(mask, &v, sizeof(T), CUEMU_SHFL, site);
    if (!(mask >> from & 1))
        cuemu_trap("a shuffle reads a lane outside its mask", site);
    T r;
    memcpy(&r, slots + from * CUEMU_SLOT, sizeof(T));
    return r;
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, CUEMU_HERE)
{
    int lane = cuemu_self->lane;
    return cuemu_shuffle(mask, v, (lane & ~(width - 1)) + (from & (width - 1)), {file_, line_});
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, CUEMU_HERE)
{
    int lane = cuemu_self->lane, from = lane ^ x;
    return cuemu_shuffle(mask, v, from >= (lane & ~(width - 1)) + width ? lane : from, {file_, line_});
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32, CUEMU_HERE)
{
    int lane = cuemu_self->lane, from = lane + static_cast<int>(d);
    return cuemu_shuffle(mask, v, from >= (lane & ~(width - 1)) + width ? lane : from, {file_, line_});
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32, CUEMU_HERE)
{
    int lane = cuemu_self->lane, from = lane - static_cast<int>(d);
    return cuemu_shuffle(mask, v, from < (lane & ~(width - 1)) ? lane : from, {file_, line_});
}
static inline unsigned __ballot_sync(unsigned mask, int p, CUEMU_HERE)
{
    int v = p != 0;
    unsigned r = 0;
    const unsigned char *slots = cuemu_warp(mask, &v, sizeof(v), CUEMU_VOTE, {file_, line_});
    for (unsigned m = mask; m != 0; m &= m - 1) {
        int lane = __builtin_ctz(m);
        r |= static_cast<unsigned>(slots[lane * CUEMU_SLOT]) << lane;
    }
    return r;
}
static inline int __any_sync(unsigned mask, int p, CUEMU_HERE)
{
    return __ballot_sync(mask, p, file_, line_) != 0;
}
static inline int __all_sync(unsigned mask, int p, CUEMU_HERE)
{
    return __ballot_sync(mask, p, file_, line_) == mask;
}
template <class T> static inline unsigned __match_any_sync(unsigned mask, T v, CUEMU_HERE)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "4 or 8 bytes");
    const unsigned char *slots = cuemu_warp(mask, &v, sizeof(v), CUEMU_MATCH, {file_, line_});
    unsigned r = 0;
    for (unsigned m = mask; m != 0; m &= m - 1) {
        int lane = __builtin_ctz(m);
        if (memcmp(slots + lane * CUEMU_SLOT, &v, sizeof(v)) == 0)
            r |= 1u << lane;
    }
    return r;
}
template <class T, class F> static inline T cuemu_reduce(unsigned mask, T v, F f, cuemu_site site)
{
    const unsigned char *slots = cuemu_warp(mask, &v, sizeof(v), CUEMU_SHFL, site);
    bool first = true;
    T r = v;
    for (unsigned m = mask; m != 0; m &= m - 1) {
        T x;
        memcpy(&x, slots + __builtin_ctz(m) * CUEMU_SLOT, sizeof(x));
        r = first ? x : f(r, x);
        first = false;
    }
    return r;
}
template <class T> static inline T __reduce_add_sync(unsigned mask, T v, CUEMU_HERE)
{
    return static_cast<T>(cuemu_reduce(mask, static_cast<unsigned>(v), [](unsigned a, unsigned b) { return a + b; }, {file_, line_}));
}
template <class T> static inline T __reduce_min_sync(unsigned mask, T v, CUEMU_HERE)
{
    return cuemu_reduce(mask, v, [](T a, T b) { return b < a ? b : a; }, {file_, line_});
}
template <class T> static inline T __reduce_max_sync(unsigned mask, T v, CUEMU_HERE)
{
    return cuemu_reduce(mask, v, [](T a, T b) { return b > a ? b : a; }, {file_, line_});
}
static inline unsigned __reduce_or_sync(unsigned mask, unsigned v, CUEMU_HERE)
{
    return cuemu_reduce(mask, v, [](unsigned a, unsigned b) { return a | b; }, {file_, line_});
}
static inline unsigned __reduce_and_sync(unsigned mask, unsigned v, CUEMU_HERE)
{
    return cuemu_reduce(mask, v, [](unsigned a, unsigned b) { return a & b; }, {file_, line_});
}
/* __activemask is not there: what it returns depends on scheduling. */

/* One rendezvous for the five of the butterfly, with its bits. */
static inline float gpu_warp_sum(float v, CUEMU_HERE)
{
    float r;
    memcpy(&r, cuemu_warp(0xffffffffu, &v, sizeof(v), CUEMU_SUM, {file_, line_}) + cuemu_self->lane * CUEMU_SLOT, sizeof(r));
    return r;
}
static inline float gpu_warp_max(float v, CUEMU_HERE)
{
    float r;
    memcpy(&r, cuemu_warp(0xffffffffu, &v, sizeof(v), CUEMU_MAX, {file_, line_}) + cuemu_self->lane * CUEMU_SLOT, sizeof(r));
    return r;
}
static inline int32_t gpu_warp_sum_s32(int32_t v, CUEMU_HERE)
{
    return __reduce_add_sync(0xffffffffu, v, file_, line_);
}

/* ---- atomics ---- */

template <class T> struct cuemu_same_as {
    using type = T;
};
template <class T> using cuemu_same = typename cuemu_same_as<T>::type; /* keeps the second argument out of deduction */
template <class T, class F> static inline T cuemu_atomic(T *p, F f)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "4 or 8 bytes");
    using bits_t = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    bits_t *w = reinterpret_cast<bits_t *>(p), old = __atomic_load_n(w, __ATOMIC_RELAXED);
    for (;;) {
        T was, will;
        memcpy(&was, &old, sizeof(was));
        will = f(was);
        bits_t next;
        memcpy(&next, &will, sizeof(next));
        if (__atomic_compare_exchange_n(w, &old, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return was;
    }
}
template <class T> static inline T atomicAdd(T *p, cuemu_same<T> v)
{
    return cuemu_atomic(p, [v](T x) { return static_cast<T>(x + v); });
}
template <class T> static inline T atomicSub(T *p, cuemu_same<T> v)
{
    return cuemu_atomic(p, [v](T x) { return static_cast<T>(x - v); });
}
template <class T> static inline T atomicMax(T *p, cuemu_same<T> v)
{
    return cuemu_atomic(p, [v](T x) { return v > x ? v : x; });
}
template <class T> static inline T atomicMin(T *p, cuemu_same<T> v)
{
    return cuemu_atomic(p, [v](T x) { return v < x ? v : x; });
}
template <class T> static inline T atomicOr(T *p, cuemu_same<T> v)
{
    return cuemu_atomic(p, [v](T x) { return x | v; });
}
template <class T> static inline T atomicAnd(T *p, cuemu_same<T> v)
{
    return cuemu_atomic(p, [v](T x) { return x & v; });
}
template <class T> static inline T atomicXor(T *p, cuemu_same<T> v)
{
    return cuemu_atomic(p, [v](T x) { return x ^ v; });
}
template <class T> static inline T atomicExch(T *p, cuemu_same<T> v)
{
    return cuemu_atomic(p, [v](T) { return v; });
}
template <class T> static inline T atomicCAS(T *p, cuemu_same<T> expected, cuemu_same<T> v)
{
    return cuemu_atomic(p, [expected, v](T x) { return x == expected ? v : x; });
}
static inline unsigned atomicInc(unsigned *p, unsigned limit)
{
    return cuemu_atomic(p, [limit](unsigned x) { return x >= limit ? 0 : x + 1; });
}

/* ---- loads and stores ---- */

static inline void cuemu_aligned(const void *p, size_t to, const char *file, int line)
{
    if (reinterpret_cast<uintptr_t>(p) % to != 0)
        cuemu_trap("misaligned access", {file, line});
}
template <class T> static inline T __ldg(const T *p, CUEMU_HERE)
{
    cuemu_aligned(p, alignof(T), file_, line_);
    return *p;
}
template <class T> static inline T __ldcs(const T *p, CUEMU_HERE)
{
    cuemu_aligned(p, alignof(T), file_, line_);
    return *p;
}
template <class T> static inline T __ldcg(const T *p, CUEMU_HERE)
{
    cuemu_aligned(p, alignof(T), file_, line_);
    return *p;
}
template <class T> static inline void __stcs(T *p, T v, CUEMU_HERE)
{
    cuemu_aligned(p, alignof(T), file_, line_);
    *p = v;
}
template <class T> static inline void __stcg(T *p, T v, CUEMU_HERE)
{
    cuemu_aligned(p, alignof(T), file_, line_);
    *p = v;
}
static inline uint4 gpu_load_once16(const void *p, CUEMU_HERE)
{
    cuemu_aligned(p, 16, file_, line_);
    return *static_cast<const uint4 *>(p);
}
static inline uint2 gpu_load_once8(const void *p, CUEMU_HERE)
{
    cuemu_aligned(p, 8, file_, line_);
    return *static_cast<const uint2 *>(p);
}
static inline uint32_t gpu_load_once4(const void *p, CUEMU_HERE)
{
    cuemu_aligned(p, 4, file_, line_);
    return *static_cast<const uint32_t *>(p);
}
static inline void gpu_store_release_sys(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline uint32_t gpu_load_acquire_sys(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void gpu_store_release_gpu(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline uint32_t gpu_load_acquire_gpu(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline uint32_t gpu_add_acq_rel_gpu(uint32_t *p, uint32_t v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}

/* ---- asynchronous copies: done when waited for (a missing wait shows), or at once (a buffer still being read shows) ---- */

static inline void cuemu_land(const cuemu_copy &c)
{
    memset(c.to, 0, static_cast<size_t>(c.bytes));
    memcpy(c.to, c.from, static_cast<size_t>(c.valid));
}
static inline void cuemu_cp(void *shared, const void *global, int bytes, int valid, cuemu_site site)
{
    cuemu_aligned(shared, static_cast<size_t>(bytes), site.file, site.line);
    cuemu_aligned(global, static_cast<size_t>(bytes), site.file, site.line);
    if (valid < 0 || valid > bytes)
        cuemu_trap("cp.async of more bytes than its size", site);
    cuemu_copy c = {shared, global, bytes, valid};
    if (cuemu_copies_early())
        cuemu_land(c);
    else
        cuemu_copy_push(&c);
}
static inline void gpu_cp_async16(void *shared, const void *global, CUEMU_HERE)
{
    cuemu_cp(shared, global, 16, 16, {file_, line_});
}
static inline void gpu_cp_async8(void *shared, const void *global, CUEMU_HERE)
{
    cuemu_cp(shared, global, 8, 8, {file_, line_});
}
static inline void gpu_cp_async4(void *shared, const void *global, CUEMU_HERE)
{
    cuemu_cp(shared, global, 4, 4, {file_, line_});
}
static inline void gpu_cp_async16_fill(void *shared, const void *global, int bytes, CUEMU_HERE)
{
    cuemu_cp(shared, global, 16, bytes, {file_, line_});
}
static inline void gpu_cp_commit(void)
{
    cuemu_copy_commit();
}
template <int N> static inline void gpu_cp_wait(void)
{
    cuemu_copy c;
    while (cuemu_copy_next(N, &c))
        cuemu_land(c);
}

/* ---- matrix fragments ---- */

template <int N> static inline void cuemu_ldmatrix(uint32_t (&r)[N], const void *p, bool transposed, cuemu_site site)
{
    int lane = cuemu_self->lane;
    if (lane < 8 * N)
        cuemu_aligned(p, 16, site.file, site.line);
    const unsigned char *slots = cuemu_warp(0xffffffffu, &p, sizeof(p), CUEMU_LDMATRIX, site);
    const uint16_t *rows[2];
    for (int m = 0; m < N; m++) {
        for (int h = 0; h < 2; h++) {
            int row = transposed ? 2 * (lane % 4) + h : lane / 4;
            memcpy(&rows[h], slots + (8 * m + row) * CUEMU_SLOT, sizeof(rows[h]));
        }
        uint32_t lo = transposed ? rows[0][lane / 4] : rows[0][2 * (lane % 4)];
        uint32_t hi = transposed ? rows[1][lane / 4] : rows[1][2 * (lane % 4) + 1];
        r[m] = lo | hi << 16;
    }
}
static inline void gpu_ldmatrix_x1(uint32_t (&r)[1], const void *p, CUEMU_HERE)
{
    cuemu_ldmatrix(r, p, false, {file_, line_});
}
static inline void gpu_ldmatrix_x2(uint32_t (&r)[2], const void *p, CUEMU_HERE)
{
    cuemu_ldmatrix(r, p, false, {file_, line_});
}
static inline void gpu_ldmatrix_x4(uint32_t (&r)[4], const void *p, CUEMU_HERE)
{
    cuemu_ldmatrix(r, p, false, {file_, line_});
}
static inline void gpu_ldmatrix_x1_t(uint32_t (&r)[1], const void *p, CUEMU_HERE)
{
    cuemu_ldmatrix(r, p, true, {file_, line_});
}
static inline void gpu_ldmatrix_x2_t(uint32_t (&r)[2], const void *p, CUEMU_HERE)
{
    cuemu_ldmatrix(r, p, true, {file_, line_});
}
static inline void gpu_ldmatrix_x4_t(uint32_t (&r)[4], const void *p, CUEMU_HERE)
{
    cuemu_ldmatrix(r, p, true, {file_, line_});
}
template <class T> static inline void cuemu_mma(T (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], cuemu_op op, cuemu_site site)
{
    uint32_t in[10] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    memcpy(in + 6, d, sizeof(d));
    memcpy(d, cuemu_warp(0xffffffffu, in, sizeof(in), op, site) + cuemu_self->lane * CUEMU_SLOT, sizeof(d));
}
static inline void gpu_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUEMU_HERE)
{
    cuemu_mma(d, a, b, CUEMU_MMA_BF16, {file_, line_});
}
static inline void gpu_mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUEMU_HERE)
{
    cuemu_mma(d, a, b, CUEMU_MMA_F16, {file_, line_});
}
static inline void gpu_mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUEMU_HERE)
{
    cuemu_mma(d, a, b, CUEMU_MMA_S8, {file_, line_});
}
static inline void gpu_mma_u8s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], CUEMU_HERE)
{
    cuemu_mma(d, a, b, CUEMU_MMA_U8S8, {file_, line_});
}

/* ---- integers ---- */

static inline int32_t gpu_dp4a(uint32_t a, uint32_t b, int32_t c)
{
    uint32_t sum = static_cast<uint32_t>(c);
    for (int i = 0; i < 32; i += 8)
        sum += static_cast<uint32_t>(static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i));
    return static_cast<int32_t>(sum);
}
static inline int32_t gpu_dp4a_us(uint32_t a, uint32_t b, int32_t c)
{
    uint32_t sum = static_cast<uint32_t>(c);
    for (int i = 0; i < 32; i += 8)
        sum += static_cast<uint32_t>(static_cast<uint8_t>(a >> i) * static_cast<int8_t>(b >> i));
    return static_cast<int32_t>(sum);
}
static inline int __dp4a(int a, int b, int c)
{
    return gpu_dp4a(static_cast<uint32_t>(a), static_cast<uint32_t>(b), c);
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    uint64_t both = static_cast<uint64_t>(y) << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned sel = s >> 4 * i & 0xf, byte = both >> 8 * (sel & 7) & 0xff;
        if (sel & 8)
            byte = byte & 0x80 ? 0xff : 0;
        r |= byte << 8 * i;
    }
    return r;
}
static inline unsigned __vsub4(unsigned a, unsigned b)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i += 8)
        r |= (((a >> i) - (b >> i)) & 0xff) << i;
    return r;
}
static inline unsigned __vadd4(unsigned a, unsigned b)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i += 8)
        r |= (((a >> i) + (b >> i)) & 0xff) << i;
    return r;
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s)
{
    return static_cast<unsigned>((static_cast<uint64_t>(hi) << 32 | lo) >> (s & 31));
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s)
{
    return static_cast<unsigned>((static_cast<uint64_t>(hi) << 32 | lo) << (s & 31) >> 32);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __clz(int x)
{
    return x != 0 ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}
static inline int __clzll(long long x)
{
    return x != 0 ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
#define CUEMU_MINMAX(T)                                                                                                                              \
    static inline T min(T a, T b)                                                                                                                    \
    {                                                                                                                                                \
        return b < a ? b : a;                                                                                                                        \
    }                                                                                                                                                \
    static inline T max(T a, T b)                                                                                                                    \
    {                                                                                                                                                \
        return b > a ? b : a;                                                                                                                        \
    }
CUEMU_MINMAX(int)
CUEMU_MINMAX(unsigned)
CUEMU_MINMAX(long)
CUEMU_MINMAX(unsigned long)
CUEMU_MINMAX(long long)
CUEMU_MINMAX(unsigned long long)
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}

/* ---- numbers; some names are declared by the C library itself, hence the macros ---- */

#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __cosf(x) cosf(x)
#define __sinf(x) sinf(x)
#define __powf(x, y) powf(x, y)
static inline float __uint_as_float(unsigned x)
{
    float f;
    memcpy(&f, &x, sizeof(f));
    return f;
}
static inline unsigned __float_as_uint(float x)
{
    unsigned u;
    memcpy(&u, &x, sizeof(u));
    return u;
}
static inline float __int_as_float(int x)
{
    return __uint_as_float(static_cast<unsigned>(x));
}
static inline int __float_as_int(float x)
{
    return static_cast<int>(__float_as_uint(x));
}
static inline long long __double_as_longlong(double x)
{
    long long r;
    memcpy(&r, &x, sizeof(r));
    return r;
}
static inline double __longlong_as_double(long long x)
{
    double r;
    memcpy(&r, &x, sizeof(r));
    return r;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __frcp_rn(float a)
{
    return 1.0f / a;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline float __frsqrt_rn(float a)
{
    return static_cast<float>(1.0 / sqrt(static_cast<double>(a)));
}
static inline float rsqrtf(float a)
{
    return 1.0f / sqrtf(a);
}
static inline float __saturatef(float x)
{
    return x > 0 ? (x < 1 ? x : 1) : 0; /* NaN: 0 */
}
/* Conversions saturate and turn NaN into 0, as the GPU's do. */
static inline int cuemu_to_int(float x)
{
    return x != x ? 0 : x >= 2147483648.0f ? INT32_MAX : x < -2147483648.0f ? INT32_MIN : static_cast<int>(x);
}
static inline int __float2int_rn(float x)
{
    return cuemu_to_int(rintf(x));
}
static inline int __float2int_rz(float x)
{
    return cuemu_to_int(truncf(x));
}
static inline int __float2int_rd(float x)
{
    return cuemu_to_int(floorf(x));
}
static inline int __float2int_ru(float x)
{
    return cuemu_to_int(ceilf(x));
}
static inline float __int2float_rn(int x)
{
    return static_cast<float>(x);
}
static inline float __uint2float_rn(unsigned x)
{
    return static_cast<float>(x);
}

static inline float gpu_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float gpu_add(float a, float b)
{
    return a + b;
}
static inline float gpu_mul(float a, float b)
{
    return a * b;
}
static inline float gpu_div(float a, float b)
{
    return a / b;
}
static inline float gpu_sqrt(float a)
{
    return sqrtf(a);
}
static inline float gpu_bf16_to_f32(uint16_t b)
{
    return __uint_as_float(static_cast<uint32_t>(b) << 16);
}
static inline uint16_t gpu_f32_to_bf16(float f)
{
    uint32_t u = __float_as_uint(f);
    if (f != f)
        return 0x7fff;
    return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
static inline uint32_t gpu_pack_bf16(float lo, float hi)
{
    return static_cast<uint32_t>(gpu_f32_to_bf16(hi)) << 16 | gpu_f32_to_bf16(lo);
}
static inline float gpu_bf16_lo(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
static inline float gpu_bf16_hi(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}
static inline float gpu_f16_to_f32(uint16_t h)
{
    __half_raw raw = {};
    raw.x = h;
    return __half2float(__half(raw));
}
static inline uint16_t gpu_f32_to_f16(float f)
{
    return static_cast<__half_raw>(__float2half_rn(f)).x;
}
static inline uint32_t gpu_pack_f16(float lo, float hi)
{
    return static_cast<uint32_t>(gpu_f32_to_f16(hi)) << 16 | gpu_f32_to_f16(lo);
}
static inline float gpu_exp2(float x)
{
    return exp2f(x);
}
static inline uint32_t gpu_mul_f16x2(uint32_t a, uint32_t b)
{
    return gpu_pack_f16(gpu_f16_to_f32(static_cast<uint16_t>(a)) * gpu_f16_to_f32(static_cast<uint16_t>(b)),
                        gpu_f16_to_f32(static_cast<uint16_t>(a >> 16)) * gpu_f16_to_f32(static_cast<uint16_t>(b >> 16)));
}

#endif
