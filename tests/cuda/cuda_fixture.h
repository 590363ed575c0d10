/* tests/cuda/cuda_fixture.h - device memory and a stream for tests of kernels, through the runtime API (emulated or real). */
#ifndef TESTS_CUDA_CUDA_FIXTURE_H
#define TESTS_CUDA_CUDA_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "ops/ops.h"

#define OK(expr) assert_int_equal(expr, ST_OK)
#define CUDA_OK(expr) cuda_ok(expr, #expr, __FILE__, __LINE__)

static cudaStream_t stream;

static inline void cuda_ok(cudaError_t e, const char *what, const char *file, int line)
{
    if (e != cudaSuccess) {
        print_error("%s: %s\n", what, cudaGetErrorString(e));
        _fail(file, line);
    }
}

static inline bool device_open(void)
{
    return cudaSetDevice(0) == cudaSuccess && cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess;
}

static inline void device_close(void)
{
    cudaStreamDestroy(stream);
}

/* Memory of the device, which holds anything. */
static inline void *device_make(size_t bytes)
{
    void *p = NULL;
    CUDA_OK(cudaMalloc(&p, bytes > 0 ? bytes : 1));
    return p;
}

static inline void *device_copy(const void *from, size_t bytes)
{
    void *p = device_make(bytes);
    CUDA_OK(cudaMemcpyAsync(p, from, bytes, cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    return p;
}

/* Waits for the stream. */
static inline void device_read(void *to, const void *from, size_t bytes)
{
    CUDA_OK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
}

static inline void device_free(const void *p)
{
    CUDA_OK(cudaFree((void *)(uintptr_t)p));
}

/* The order threads and blocks run in, where it is emulated; false: there is no i-th. */
extern void cuemu_set(const char *name, const char *value) __attribute__((weak));
static inline bool order_set(int i)
{
#ifdef __SANITIZE_THREAD__ /* sees races in one order */
    static const char *const orders[] = {"fwd", "rev"};
#else
    static const char *const orders[] = {"fwd", "rev", "rand:1", "rand:23"};
#endif
    if (cuemu_set == NULL || i >= (int)ARRAY_LEN(orders))
        return false;
    cuemu_set("CUEMU_ORDER", orders[i]);
    return true;
}

static inline uint32_t random_bits(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 32);
}
static inline float uniform(uint64_t *seed) /* [-1, 1) */
{
    return (float)(int32_t)random_bits(seed) * 0x1p-31f;
}

#endif
