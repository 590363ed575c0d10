/* ops/cuda/gpu.cuh - the one header, beside kernels.h, that kernels include: what they use of the GPU, in two worlds.
 *
 * nvcc compiles it to the intrinsics and the PTX named at each wrapper (sm_80 and later).  With -DCUEMU a C++ compiler for the host compiles the same
 * kernel over an emulation of the execution model for tests (cuemu_device.h), which defines the same names.  So that both agree a kernel
 *   - has no <<<>>>, __shared__, inline PTX, device globals or default stream: GPU_LAUNCH, GPU_SHARED, GPU_DYN_SMEM and the wrappers below;
 *   - computes in f32 and s32; bf16, f16 and fp8 are bits in integers, converted here;
 *   - names the true mask of every warp operation, and takes a shuffle for no memory fence;
 *   - lets all threads of a block reach the same barrier line, and none return before it;
 *   - keeps no block waiting for another one of its grid.
 * Neither compiler contracts a * b + c (nvcc -fmad=false, -ffp-contract=off): write gpu_fma where it is wanted. */
#ifndef OPS_CUDA_GPU_CUH
#define OPS_CUDA_GPU_CUH

#include <stddef.h>
#include <stdint.h>

#ifdef CUEMU
#include <cuemu_device.h>
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <utility>

#define GPU_FN static __device__ __forceinline__
#define GPU_MEMBER __device__ __forceinline__ /* of a struct */

/* A static shared array of the block: GPU_SHARED(float, tile, [32][33]); holds rubbish until written. */
#define GPU_SHARED(T, name, ...) __shared__ __align__(16) T name __VA_ARGS__
/* The dynamic shared memory of the launch, from its start, aligned to 128 bytes; allow it with gpu_allow_smem where it exceeds 48 KiB. */
#define GPU_DYN_SMEM(T, name)                                                                                                                        \
    extern __shared__ __align__(128) unsigned char gpu_dyn_smem_[];                                                                                  \
    T *name = reinterpret_cast<T *>(gpu_dyn_smem_)

/* GPU_LAUNCH(kernel, grid, block, smem_bytes, stream, args...): cudaError_t of the launch.  A template in parentheses: GPU_LAUNCH((k<8, true>), ...). */
#define GPU_LAUNCH(k, grid, block, smem, stream, ...) gpu_launch_(k, grid, block, smem, stream, ##__VA_ARGS__)
template <class... P, class... A>
static inline cudaError_t gpu_launch_(void (*k)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t s, A &&...a)
{
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = smem;
    c.stream = s;
    return cudaLaunchKernelEx(&c, k, std::forward<A>(a)...);
}
/* Lets kernel k be launched with so much dynamic shared memory (for the device of the moment). */
template <class... P> static inline cudaError_t gpu_allow_smem(void (*k)(P...), size_t bytes)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(k), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

/* Stops the kernel with an error; the host sees it at its next call. */
#define GPU_TRAP(message) __trap()
/* In a loop that waits for another GPU's flag. */
GPU_FN void gpu_pause(void)
{
    __nanosleep(20);
}
/* A barrier of n threads (a multiple of 32) of the block; id 1..15. */
GPU_FN void gpu_named_barrier(int id, int n)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}

/* ---- loads and stores; p aligned to the size ---- */

/* Data read once: 16 bytes through the read-only path, not kept in L1. */
GPU_FN uint4 gpu_load_once16(const void *p)
{
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
GPU_FN uint2 gpu_load_once8(const void *p)
{
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
GPU_FN uint32_t gpu_load_once4(const void *p)
{
    uint32_t v;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
/* Ordered reads and writes of words that other blocks or other GPUs poll. */
GPU_FN void gpu_store_release_sys(uint32_t *p, uint32_t v)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
GPU_FN uint32_t gpu_load_acquire_sys(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
GPU_FN void gpu_store_release_gpu(uint32_t *p, uint32_t v)
{
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
GPU_FN uint32_t gpu_load_acquire_gpu(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
/* Adds to a word, acquire and release at the device's scope: the ticket of "the last block to finish merges". Returns what was there. */
GPU_FN uint32_t gpu_add_acq_rel_gpu(uint32_t *p, uint32_t v)
{
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
    return old;
}

/* ---- asynchronous copies from global to shared memory; both sides aligned to the size ----
 * A copy lands at the gpu_cp_wait of the thread that issued it; other threads see it after a barrier behind that. */

GPU_FN void gpu_cp_async16(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
}
GPU_FN void gpu_cp_async8(void *shared, const void *global)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
}
GPU_FN void gpu_cp_async4(void *shared, const void *global)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
}
/* Reads only the first `bytes` (0..16) and fills the rest with zeros; global must be a valid address even for 0. */
GPU_FN void gpu_cp_async16_fill(void *shared, const void *global, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global), "r"(bytes)
                 : "memory");
}
GPU_FN void gpu_cp_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Until at most N of this thread's committed groups are under way. */
template <int N> GPU_FN void gpu_cp_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* ---- matrix fragments: whole warps only ----
 * ldmatrix reads 8x8 matrices of 16-bit elements, a row being 16 bytes: lane 8 m + r gives the address of row r of matrix m, and lane l receives
 * elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each; _t: of the transpose.  (PTX ISA, "ldmatrix") */

GPU_FN void gpu_ldmatrix_x1(uint32_t (&r)[1], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared)))
                 : "memory");
}
GPU_FN void gpu_ldmatrix_x2(uint32_t (&r)[2], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared)))
                 : "memory");
}
GPU_FN void gpu_ldmatrix_x4(uint32_t (&r)[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared)))
                 : "memory");
}
GPU_FN void gpu_ldmatrix_x1_t(uint32_t (&r)[1], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared)))
                 : "memory");
}
GPU_FN void gpu_ldmatrix_x2_t(uint32_t (&r)[2], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared)))
                 : "memory");
}
GPU_FN void gpu_ldmatrix_x4_t(uint32_t (&r)[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared)))
                 : "memory");
}

/* d[16][8] += a[16][16] * b[16][8], lane l, g = l / 4, t = l % 4, pairs of 16-bit elements, the lower index in the lower half:
 *   a[0] a[g][2t..]   a[1] a[g+8][2t..]   a[2] a[g][2t+8..]   a[3] a[g+8][2t+8..]
 *   b[0] b[2t..][g]   b[1] b[2t+8..][g]
 *   d[0] d[g][2t]     d[1] d[g][2t+1]     d[2] d[g+8][2t]     d[3] d[g+8][2t+1]            (PTX ISA, "mma.m16n8k16") */
GPU_FN void gpu_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GPU_FN void gpu_mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* d[16][8] += a[16][32] * b[32][8] in exact s32; four s8 a register, the lower index in the lower byte:
 *   a[0] a[g][4t..]   a[1] a[g+8][4t..]   a[2] a[g][4t+16..]   a[3] a[g+8][4t+16..];   b[0] b[4t..][g]   b[1] b[4t+16..][g];   d as above */
GPU_FN void gpu_mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* The same with unsigned a (4-bit codes as they are stored) and signed b. */
GPU_FN void gpu_mma_u8s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* c + dot of four bytes: s8 with s8, u8 with s8 (__dp4a has no mixed form). */
GPU_FN int32_t gpu_dp4a(uint32_t a, uint32_t b, int32_t c)
{
    return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
}
GPU_FN int32_t gpu_dp4a_us(uint32_t a, uint32_t b, int32_t c)
{
    int32_t d;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* ---- numbers ---- */

GPU_FN float gpu_fma(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}
/* Sums and products that are not to be contracted. */
GPU_FN float gpu_add(float a, float b)
{
    return __fadd_rn(a, b);
}
GPU_FN float gpu_mul(float a, float b)
{
    return __fmul_rn(a, b);
}
GPU_FN float gpu_div(float a, float b)
{
    return __fdiv_rn(a, b);
}
GPU_FN float gpu_sqrt(float a)
{
    return __fsqrt_rn(a);
}
GPU_FN float gpu_bf16_to_f32(uint16_t b)
{
    return __uint_as_float(static_cast<uint32_t>(b) << 16);
}
GPU_FN uint16_t gpu_f32_to_bf16(float f)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(f));
}
/* Two at once: lo in the lower half. */
GPU_FN uint32_t gpu_pack_bf16(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
GPU_FN float gpu_bf16_lo(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
GPU_FN float gpu_bf16_hi(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}
GPU_FN float gpu_f16_to_f32(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}
GPU_FN uint16_t gpu_f32_to_f16(float f)
{
    return __half_as_ushort(__float2half_rn(f));
}
GPU_FN uint32_t gpu_pack_f16(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
/* 2^x to 2 ulp, subnormal results as 0 (the emulation: exact to its C library's 1 ulp). */
GPU_FN float gpu_exp2(float x)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
/* Products of two pairs of f16. */
GPU_FN uint32_t gpu_mul_f16x2(uint32_t a, uint32_t b)
{
    uint32_t r;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
#endif

/* ---- fp8 e4m3 (base/half.h: finite, stores saturate at 448), by the same bits on every architecture: conversions in hardware begin with sm_89 ---- */

GPU_FN float gpu_e4m3_to_f32(uint8_t v)
{
    const uint32_t a = v & 0x7fu, sign = (v & 0x80u) << 24;
    return __uint_as_float(sign | (a == 0x7fu ? 0x7fc00000u : a << 20)) * 0x1p120f; /* bias 127 for 7; subnormals are f32's */
}
GPU_FN uint8_t gpu_f32_to_e4m3(float f)
{
    const uint32_t u = __float_as_uint(f), a = u & 0x7fffffffu, sign = u >> 24 & 0x80u;
    const uint32_t small = __float_as_uint(__uint_as_float(a) + 0x1p14f) - __float_as_uint(0x1p14f); /* below 2^-6: a sum whose unit is 2^-9 rounds it */
    const uint32_t code = a < 0x3c800000u ? small : ((a + 0x7ffffu + (a >> 20 & 1u)) >> 20) - (120u << 3);
    return (uint8_t)(sign | (a > 0x7f800000u ? 0x7fu : a >= 0x43e00000u ? 0x7eu : code));
}
/* The codes in bytes 1 and 3 (the others may hold anything) to a pair of f16, exactly: as f16 the same bits mean a 256th.  Of a NaN all bits are set:
 * one more runs over into the sign's place, and from there becomes the exponent's top bit. */
GPU_FN uint32_t gpu_e4m3_to_f16x2(uint32_t codes)
{
    const uint32_t a = codes & 0x7f007f00u, nan = (a + 0x01000100u) & 0x80008000u;
    return gpu_mul_f16x2((codes & 0x80008000u) | (a | nan) >> 1, 0x5c005c00u);
}

/* ---- over a whole warp: every lane gets the same bits, since the butterfly adds the same pairs in each ---- */

#ifndef CUEMU
GPU_FN float gpu_warp_sum(float v)
{
#pragma unroll
    for (int o = 16; o > 0; o /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
GPU_FN int32_t gpu_warp_sum_s32(int32_t v)
{
    return __reduce_add_sync(0xffffffffu, v);
}
/* The greatest; NaN is passed over as fmaxf does. */
GPU_FN float gpu_warp_max(float v)
{
#pragma unroll
    for (int o = 16; o > 0; o /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
#endif

#endif
