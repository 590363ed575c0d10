/* tests/cuda_on_host/probe.h - the kernels of probe.cu, for test_cuda_on_host.c. */
#ifndef CUDA_ON_HOST_PROBE_H
#define CUDA_ON_HOST_PROBE_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct probe_numbers {
    uint16_t bf16, f16;
    uint8_t e4m3;
    float from_bf16, from_f16, from_e4m3, fma;
    uint32_t pack, pack16, perm, mul16, from_e4m3x2;
    int32_t dp4a, dp4a_us, rounded;
} probe_numbers;
enum probe_mistake {
    PROBE_NONE,
    PROBE_NO_BARRIER,
    PROBE_DIVERGENT_BARRIER,
    PROBE_BARRIER_AFTER_RETURN,
    PROBE_NO_SYNCWARP,
    PROBE_HALF_WARP,
    PROBE_LANE_NOT_IN_MASK,
    PROBE_LANE_OUTSIDE_MASK,
    PROBE_TWO_OPERATIONS,
    PROBE_UNINITIALISED_SHARED,
    PROBE_READ_PAST_END,
    PROBE_WRITE_PAST_END,
    PROBE_SHARED_PAST_END,
    PROBE_SAME_WORD,
    PROBE_MISALIGNED,
    PROBE_TRAP,
};
cudaError_t probe_sum(const float *x, int n, int threads, float *y, cudaStream_t s);
cudaError_t probe_chain(int *y, int n, int add, cudaStream_t s);
cudaError_t probe_mma(const uint16_t *a, const uint16_t *b, bool f16, bool transposed, float *c, cudaStream_t s);
cudaError_t probe_mma_s8(const uint8_t *a, const int8_t *b, bool a_unsigned, int32_t *c, cudaStream_t s);
/* mistake 1: the wait is missing; 2: the barrier before the next copy. */
cudaError_t probe_staged(const unsigned char *x, int n, unsigned char *y, int mistake, cudaStream_t s);
cudaError_t probe_numbers_of(const float *in, int n, probe_numbers *out, cudaStream_t s);
cudaError_t probe_warp(int *out, int threads, cudaStream_t s);
cudaError_t probe_ticket(uint32_t *ticket, int *part, int *total, int blocks, cudaStream_t s);
cudaError_t probe_flag(const uint32_t *theirs, uint32_t *ours, const int *data, int *out, uint32_t value, cudaStream_t s);
cudaError_t probe_big(int *out, int words, bool allow, cudaStream_t s);
cudaError_t probe_mistake(int which, const float *x, float *out, unsigned *word, cudaStream_t s);

#ifdef __cplusplus
}
#endif
#endif
