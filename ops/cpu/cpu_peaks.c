/* ops/cpu/cpu_peaks.c - what this machine can do at best, measured: reading memory, and the instructions of the products on registers alone. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "ops/cpu/cpu_linear.h"

enum { PASSES = 5 };
#define PROBE_SECONDS 0.03

typedef struct probe {
    const ops_ctx *ctx;
    char *memory; /* NULL: arithmetic */
    size_t bytes;
    bool fill;
    cpu_peak what;
    int64_t rounds;
    int64_t *done; /* by thread */
} probe;

/* Eight streams a thread, each with its own pages ahead: what the products do with panels, without the arithmetic. */
static int64_t read_share(const char *begin, size_t bytes)
{
    typedef uint64_t lanes __attribute__((vector_size(32)));
    enum { STREAMS = 8 };
    size_t each = bytes / STREAMS / 64 * 64;
    lanes sum[STREAMS] = {{0}};
    for (size_t i = 0; i < each; i += 64) {
        for (size_t k = 0; k < STREAMS; k++) {
            const char *p = begin + k * each + i;
            __builtin_prefetch(p + 2048);
            sum[k] += *(const lanes *)(const void *)p ^ *(const lanes *)(const void *)(p + 32);
        }
    }
    lanes all = sum[0];
    for (size_t k = 1; k < STREAMS; k++)
        all += sum[k];
    __asm__ volatile("" : : "m"(all)); /* it was read */
    return (int64_t)(each * STREAMS);
}

static void run(void *arg, int thread, int n_threads)
{
    probe *p = arg;
    size_t b, e;
    threads_share(p->bytes, 4096, thread, n_threads, &b, &e);
    if (p->fill)
        memset(p->memory + b, 1, e - b);
    else
        p->done[thread] = p->memory != NULL ? read_share(p->memory + b, e - b) : p->ctx->linear->peak(p->what, p->rounds);
}

/* Bytes or operations a second of the fastest pass. */
static double fastest(probe *p)
{
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        double begin = log_clock(), done = 0;
        threads_run(p->ctx->pool, run, p);
        double seconds = log_clock() - begin;
        for (int t = 0; t < p->ctx->n_threads; t++)
            done += (double)p->done[t];
        if (p->memory == NULL && seconds < PROBE_SECONDS) { /* too short to be timed: more rounds */
            p->rounds *= 4;
            i--;
            continue;
        }
        best = done / seconds > best ? done / seconds : best;
    }
    return best;
}

status cpu_peaks(ops_ctx *ctx, size_t memory, ops_peaks *out)
{
    double *arithmetic[CPU_PEAKS] = {[CPU_PEAK_CODES4] = &out->codes4, [CPU_PEAK_CODES8] = &out->codes8, [CPU_PEAK_F32] = &out->f32, [CPU_PEAK_BF16] = &out->bf16};
    probe p = {.ctx = ctx, .bytes = memory, .fill = true, .rounds = 1024};
    void *block;
    *out = (ops_peaks){0};
    if (memory < (size_t)ctx->n_threads << 20)
        return FAIL(ST_INVALID, "at least 1 MiB a thread is needed to measure how fast memory is read");
    TRY(mem_calloc((size_t)ctx->n_threads, sizeof(*p.done), "measuring", &p.done));
    status st = mem_huge_alloc(memory, "memory to be read", &block);
    if (st != ST_OK) {
        free(p.done);
        return st;
    }
    p.memory = block;
    threads_step_begin(ctx->pool, false);
    threads_run(ctx->pool, run, &p);
    p.fill = false;
    out->read = fastest(&p);
    p.memory = NULL;
    for (int i = 0; i < CPU_PEAKS && ctx->linear->peak != NULL; i++) {
        p.what = (cpu_peak)i;
        p.rounds = 1024;
        *arithmetic[i] = fastest(&p);
    }
    threads_step_end(ctx->pool);
    mem_huge_free(block, memory);
    free(p.done);
    return ST_OK;
}
