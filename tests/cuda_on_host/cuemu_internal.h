/* tests/cuda_on_host/cuemu_internal.h - between the runtime's two files. */
#ifndef CUEMU_INTERNAL_H
#define CUEMU_INTERNAL_H

#include "tests/cuda_on_host/cuemu_api.h"
#include <cuemu_device.h>
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#undef __shared__

enum cuemu_order { CUEMU_FORWARD, CUEMU_REVERSE, CUEMU_RANDOM };
struct cuemu_settings {
    cuemu_order order;
    bool copies_early;
    uint64_t seed;
    size_t block_smem; /* static and dynamic shared memory a block may have */
};
extern cuemu_settings cuemu_options;

/* Runs all of a grid; the caller holds the runtime's lock. */
void cuemu_run_grid(const cuemu_launch *l);
/* What runs on this thread now, for fault reports; NULL: host code. */
const char *cuemu_running_kernel(void);
bool cuemu_in_fiber_stack(const void *p);
uint64_t cuemu_random(uint64_t *state);

#endif
