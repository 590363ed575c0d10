/* tests/cuda_on_host/cuemu_api.h - what a test may ask of the emulation beyond CUDA's own functions.
 *
 * Each switch is an environment variable too, read when the process first meets the emulation; a call here overrides it from then on.
 *
 *   CUEMU_ORDER    fwd | rev | rand:N   the order blocks, warps and lanes run in
 *   CUEMU_STREAMS  eager | lazy | rand:N  when queued work runs: at once; not before something waits for it; at random moments.  What has
 *                  lain for a tenth of a second while the host did something else runs then
 *   CUEMU_CPASYNC  late | early         when an asynchronous copy lands: at its wait; at its issue
 *   CUEMU_GUARD    0 | 1                device memory is unmapped while host code runs
 *   CUEMU_FAIL     name:N[+][=code],... the Nth call of a function fails (with +, all later ones too); "kernel" fails the Nth kernel while it runs
 *   CUEMU_DEVICES  N                    devices there are; 0: cudaErrorNoDevice, -1: no driver, -2: one for CUDA 11.4, a runtime for 12.6 (both cudaErrorInsufficientDriver)
 *   CUEMU_MEMORY   MiB                  each device's memory (8192)
 *   CUEMU_CC       80 | 89 | 90 | 100        the compute capability it claims, with that one's shared memory (80)
 *   CUEMU_SMS      N                    multiprocessors it claims (4)
 *   CUEMU_LEAKS    1                    a process that ends with something not freed says so and exits with 98 (only as a variable)
 *   CUEMU_TRACE    FILE                 what is queued, in the order of the calls, to FILE.PID: a line each, "STREAM kernel NAME", "STREAM record EVENT",
 *                  "STREAM wait EVENT", "STREAM call waits", "0 malloc BYTES" and "0 pin BYTES"; streams and events by number, in order of creation */
#ifndef CUEMU_API_H
#define CUEMU_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cuemu_set("CUEMU_ORDER", "rev"); aborts on a name or value it does not know. */
void cuemu_set(const char *name, const char *value);

/* Calls so far of a runtime function ("cudaMalloc"), or "kernel": kernels that ran, "kernel:NAME": those of that name as written in GPU_LAUNCH. */
uint64_t cuemu_calls(const char *name);

/* Allocations not freed: device and pinned host memory; and streams, events and graphs not destroyed. 0 at the end of a clean test. */
size_t cuemu_live(void);

/* 1: device memory, 2: pinned host memory, 0: neither. */
int cuemu_memory_kind(const void *p);

/* Forgets the error that sticks after a failed kernel, as no real device would. */
void cuemu_forget_error(void);

/* Queues host work on a stream, as the libraries' stand-ins do; may be captured, then runs at every replay. With `waits` it runs without the emulation's
 * lock, so that other threads can go on. */
void cuemu_stream_call(void *stream, void (*fn)(void *), void *arg, void (*free_arg)(void *), bool waits);

/* Prints a message and aborts: a mistake no program recovers from. */
void cuemu_fault(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Whether the call of this name is to fail now, by CUEMU_FAIL; *code: the one asked for, else left. Counts the call. */
bool cuemu_injected(const char *name, int *code);

#ifdef __cplusplus
}
#endif
#endif
