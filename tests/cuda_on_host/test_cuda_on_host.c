/* tests/cuda_on_host/test_cuda_on_host.c - the emulation computes what the GPU would, and notices the mistakes it is there for.
 *
 * Every mistake is made in a child process, under several orders: it is noticed if the child dies (a report, a guard page, a sanitizer) or its result is
 * wrong in some order.  What only a sanitizer sees is asked for in its build alone. */
#include "tests/cuda_on_host/cuemu_api.h"
#include "tests/cuda_on_host/probe.h"
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__)
enum { ASAN = 1, TSAN = 0 };
#elif defined(__SANITIZE_THREAD__)
enum { ASAN = 0, TSAN = 1 };
#else
enum { ASAN = 0, TSAN = 0 };
#endif
#define LEN(a) (sizeof(a) / sizeof((a)[0]))
#define OK(call) assert_int_equal(call, cudaSuccess)
static const char *const orders[] = {"fwd", "rev", "rand:1", "rand:2"};

static cudaStream_t stream_make(void)
{
    cudaStream_t s;
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
}

static void *to_device(const void *host, size_t bytes)
{
    void *p;
    OK(cudaMalloc(&p, bytes));
    if (host != NULL)
        OK(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    return p;
}

static void from_device(void *host, const void *p, size_t bytes)
{
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpy(host, p, bytes, cudaMemcpyDeviceToHost));
}

static int back_to_defaults(void **state)
{
    (void)state;
    cuemu_set("CUEMU_ORDER", "fwd");
    cuemu_set("CUEMU_STREAMS", "eager");
    cuemu_set("CUEMU_CPASYNC", "late");
    cuemu_set("CUEMU_GUARD", "0");
    cuemu_set("CUEMU_FAIL", "");
    cuemu_forget_error();
    return cuemu_live() == 0 ? 0 : -1; /* nothing left by the test */
}

/* ---- what kernels may use ---- */

static void sums_are_the_same_in_every_order(void **state)
{
    (void)state;
    enum { N = 5000 };
    static float x[N];
    float want[40], got[40];
    for (int i = 0; i < N; i++)
        x[i] = (float)(i % 97) / 7.0f - 5.0f;
    cudaStream_t s = stream_make();
    float *dx = to_device(x, sizeof(x)), *dy = to_device(NULL, sizeof(got));
    const int threads[] = {128, 256, 1024};
    for (size_t k = 0; k < LEN(threads); k++)
        for (size_t o = 0; o < LEN(orders); o++) {
            int blocks = (N + threads[k] - 1) / threads[k];
            cuemu_set("CUEMU_ORDER", orders[o]);
            OK(probe_sum(dx, N, threads[k], dy, s));
            from_device(o == 0 ? want : got, dy, sizeof(float) * (size_t)blocks);
            if (o > 0)
                assert_memory_equal(got, want, sizeof(float) * (size_t)blocks);
            for (int b = 0; b < blocks && o == 0; b++) {
                double sum = 0;
                for (int i = b * threads[k]; i < (b + 1) * threads[k] && i < N; i++)
                    sum += x[i];
                if (!(fabs(want[b] - sum) < 1e-3))
                    fail_msg("threads %d block %d: %g, want %g", threads[k], b, (double)want[b], sum);
            }
        }
    OK(cudaFree(dx));
    OK(cudaFree(dy));
    OK(cudaStreamDestroy(s));
}

static float bf16_value(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static float f16_value(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    float v = e == 0 ? ldexpf((float)m, -24) : e == 31 ? (m != 0 ? NAN : INFINITY) : ldexpf((float)(m + 1024), e - 25);
    return (h & 0x8000) != 0 ? -v : v;
}

static void tensor_cores_multiply(void **state)
{
    (void)state;
    uint16_t a[256], b[128];
    float c[128];
    cudaStream_t s = stream_make();
    for (int f16 = 0; f16 < 2; f16++)
        for (int transposed = 0; transposed < 2; transposed++) {
            for (int i = 0; i < 256; i++) /* small integers and halves: sums are exact */
                a[i] = (uint16_t)(f16 ? 0x3c00 + i * 4 % 512 : 0x3f80 + i * 5 % 64);
            for (int i = 0; i < 128; i++)
                b[i] = (uint16_t)((f16 ? 0x3c00 + i * 28 % 1024 : 0x3f80 + i * 3 % 128) | (i % 3 == 0 ? 0x8000 : 0));
            uint16_t *da = to_device(a, sizeof(a)), *db = to_device(b, sizeof(b));
            float *dc = to_device(NULL, sizeof(c));
            for (size_t o = 0; o < LEN(orders); o++) {
                cuemu_set("CUEMU_ORDER", orders[o]);
                OK(cudaMemset(dc, 0xff, sizeof(c)));
                OK(probe_mma(da, db, f16, transposed, dc, s));
                from_device(c, dc, sizeof(c));
                for (int i = 0; i < 16; i++)
                    for (int j = 0; j < 8; j++) {
                        double want = 0;
                        for (int k = 0; k < 16; k++)
                            want += f16 ? (double)f16_value(a[i * 16 + k]) * f16_value(b[j * 16 + k])
                                        : (double)bf16_value(a[i * 16 + k]) * bf16_value(b[j * 16 + k]);
                        if (!(fabs(c[i * 8 + j] - want) < 1e-4))
                            fail_msg("f16 %d transposed %d c[%d][%d]: %g, want %g", f16, transposed, i, j, (double)c[i * 8 + j], want);
                    }
            }
            OK(cudaFree(da));
            OK(cudaFree(db));
            OK(cudaFree(dc));
        }
    OK(cudaStreamDestroy(s));
}

static void integer_tensor_cores_are_exact(void **state)
{
    (void)state;
    uint8_t a[512];
    int8_t b[256];
    int32_t c[128], was[128];
    for (int i = 0; i < 512; i++)
        a[i] = (uint8_t)(i * 37 + 128);
    for (int i = 0; i < 256; i++)
        b[i] = (int8_t)(i * 91 - 128);
    for (int i = 0; i < 128; i++)
        was[i] = i * 1000003;
    cudaStream_t s = stream_make();
    uint8_t *da = to_device(a, sizeof(a));
    int8_t *db = to_device(b, sizeof(b));
    for (int a_unsigned = 0; a_unsigned < 2; a_unsigned++) {
        int32_t *dc = to_device(was, sizeof(was));
        OK(probe_mma_s8(da, db, a_unsigned, dc, s));
        from_device(c, dc, sizeof(c));
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++) {
                int32_t want = was[i * 8 + j];
                for (int k = 0; k < 32; k++)
                    want += (a_unsigned ? a[i * 32 + k] : (int8_t)a[i * 32 + k]) * b[j * 32 + k];
                assert_int_equal(c[i * 8 + j], want);
            }
        OK(cudaFree(dc));
    }
    OK(cudaFree(da));
    OK(cudaFree(db));
    OK(cudaStreamDestroy(s));
}

/* The nearest of all values of a format, ties to the even code; the slow way. */
static int nearest(float f, float (*value)(uint16_t), int codes, int sign)
{
    int best = 0;
    double gap = INFINITY;
    for (int c = 0; c < codes; c++) {
        double d = fabs((double)value((uint16_t)c) - fabs((double)f));
        if (d < gap || (d == gap && c % 2 == 0)) {
            gap = d;
            best = c;
        }
    }
    return signbit(f) ? best | sign : best;
}

static float e4m3_value(uint16_t v)
{
    int e = v >> 3 & 15, m = v & 7;
    return e == 0 ? ldexpf((float)m, -9) : ldexpf((float)(m + 8), e - 10);
}

static void conversions_round_to_nearest_even(void **state)
{
    (void)state;
    enum { N = 400 };
    static float x[N];
    static probe_numbers got[N];
    for (int i = 0; i < N; i++)
        x[i] = ldexpf((float)((i * 2654435761u >> 8) % 65536) - 32768.0f, i % 29 - 26);
    x[0] = 0.0f;
    x[1] = -0.0f;
    x[2] = 1.00390625f; /* between two bf16 */
    x[3] = 1.01171875f;
    x[4] = 0.5f;
    x[5] = 2.5f;
    x[6] = 448.0f;
    x[7] = -1000.0f;
    cudaStream_t s = stream_make();
    float *dx = to_device(x, sizeof(x));
    probe_numbers *dy = to_device(NULL, sizeof(got));
    OK(probe_numbers_of(dx, N, dy, s));
    from_device(got, dy, sizeof(got));
    for (int i = 0; i < N; i++) {
        const probe_numbers *g = &got[i];
        uint32_t u;
        memcpy(&u, &x[i], sizeof(u));
        uint32_t lower = u & 0xffff0000u, tail = u & 0xffff, bf = (lower >> 16) + (tail > 0x8000 || (tail == 0x8000 && (lower >> 16 & 1)));
        assert_int_equal(g->bf16, bf);
        assert_int_equal(g->pack, 0x3f800000u | bf);
        if (fabsf(x[i]) <= 65504.0f) {
            assert_int_equal(g->f16, nearest(x[i], f16_value, 0x7c00, 0x8000));
            assert_int_equal(g->pack16, 0x3c000000u | g->f16);
            assert_true(g->from_f16 == f16_value(g->f16));
            assert_int_equal(g->mul16, 0xc0000000u | (unsigned)nearest(0.75f * f16_value(g->f16), f16_value, 0x7c00, 0x8000)); /* -2 and 0.75 */
        }
        assert_int_equal(g->e4m3, nearest(x[i], e4m3_value, 0x7f, 0x80)); /* saturates */
        assert_true(fabsf(g->from_e4m3) == e4m3_value(g->e4m3 & 0x7f));
        for (int k = 0; k < 2; k++) {
            uint16_t code = (k == 0 ? i : ~i) & 255, h = (uint16_t)(g->from_e4m3x2 >> 16 * k);
            float v = e4m3_value(code & 0x7f);
            assert_true((code & 0x7f) == 0x7f ? (h & 0x7fff) > 0x7c00 : f16_value(h) == (code > 127 ? -v : v));
        }
        assert_true(g->from_bf16 == bf16_value(g->bf16));
        assert_true(g->fma == fmaf(x[i], x[i], -1.0f));
        int32_t dot = 5, dot_us = 5;
        const uint8_t other[4] = {0xff, 0x7f, 0x01, 0x80};
        for (int k = 0; k < 4; k++) {
            dot += (int8_t)(u >> 8 * k) * (int8_t)other[k];
            dot_us += (uint8_t)(u >> 8 * k) * (int8_t)other[k];
        }
        assert_int_equal(g->dp4a, dot);
        assert_int_equal(g->dp4a_us, dot_us);
        assert_int_equal(g->rounded, (int)lrintf(x[i]));
        assert_int_equal(g->perm & 0xff, u & 0xff);              /* selector 0 */
        assert_int_equal(g->perm >> 8 & 0xff, ~u >> 8 & 0xff);   /* 5 */
        assert_int_equal(g->perm >> 16 & 0xff, u >> 8 & 0xff);   /* 1 */
        assert_int_equal(g->perm >> 24, ~u >> 24);               /* 7 */
    }
    OK(cudaFree(dx));
    OK(cudaFree(dy));
    OK(cudaStreamDestroy(s));
}

static void warp_operations_name_their_lanes(void **state)
{
    (void)state;
    enum { T = 96 };
    int got[T], v[T], greater = 0;
    for (int t = 0; t < T; t++) {
        v[t] = t * 7 % 31;
        greater += v[t] > 15;
    }
    cudaStream_t s = stream_make();
    int *out = to_device(NULL, sizeof(got));
    for (size_t o = 0; o < LEN(orders); o++) {
        cuemu_set("CUEMU_ORDER", orders[o]);
        OK(probe_warp(out, T, s));
        from_device(got, out, sizeof(got));
        for (int t = 0; t < T; t++) {
            int lane = t % 32, first = t - lane, half = t - lane % 16, sum = 0, most = 0, all = 0, any = 0;
            uint32_t ballot = 0, same = 0;
            for (int i = 0; i < 16; i++)
                sum += v[half + i];
            for (int i = 0; i < 32; i++) {
                int x = v[first + i];
                most = x > most ? x : most;
                all += x;
                any |= x == 30;
                ballot |= (uint32_t)(x > 15) << i;
                same |= (uint32_t)(x % 4 == v[t] % 4) << i;
            }
            int up = lane >= 3 ? v[t - 3] : v[t];
            int want = sum + 31 * up + 7 * most + 3 * all + any + 2 + (int)(ballot % 1009) + (int)(same % 997) + 13 * greater + 1000000 * (t / 32 % 2);
            if (got[t] != want)
                fail_msg("order %s thread %d: %d, want %d", orders[o], t, got[t], want);
        }
    }
    OK(cudaFree(out));
    OK(cudaStreamDestroy(s));
}

static void the_last_block_sees_all_others(void **state)
{
    (void)state;
    cudaStream_t s = stream_make();
    uint32_t zero = 0;
    uint32_t *ticket = to_device(&zero, sizeof(zero));
    int *part = to_device(NULL, 37 * sizeof(int)), *total = to_device(NULL, sizeof(int)), got;
    for (size_t o = 0; o < LEN(orders); o++) {
        cuemu_set("CUEMU_ORDER", orders[o]);
        OK(cudaMemset(total, 0, sizeof(int)));
        OK(probe_ticket(ticket, part, total, 37, s));
        from_device(&got, total, sizeof(got));
        assert_int_equal(got, 37 * 38 / 2);
    }
    OK(cudaFree(ticket));
    OK(cudaFree(part));
    OK(cudaFree(total));
    OK(cudaStreamDestroy(s));
}

static void asynchronous_copies_land_late_or_early(void **state)
{
    (void)state;
    enum { N = 4096 };
    static unsigned char x[N], y[N];
    for (int i = 0; i < N; i++)
        x[i] = (unsigned char)(i * 31 ^ i >> 7);
    cudaStream_t s = stream_make();
    unsigned char *dx = to_device(x, N), *dy = to_device(NULL, N);
    for (size_t o = 0; o < LEN(orders); o++)
        for (int early = 0; early < 2; early++) {
            cuemu_set("CUEMU_ORDER", orders[o]);
            cuemu_set("CUEMU_CPASYNC", early ? "early" : "late");
            OK(cudaMemset(dy, 0, N));
            OK(probe_staged(dx, N, dy, 0, s));
            from_device(y, dy, N);
            assert_memory_equal(x, y, N);
        }
    OK(cudaFree(dx));
    OK(cudaFree(dy));
    OK(cudaStreamDestroy(s));
}

static void shared_memory_is_limited(void **state)
{
    (void)state;
    cudaStream_t s = stream_make();
    int *out = to_device(NULL, sizeof(int)), got;
    assert_int_equal(probe_big(out, 60 << 8, false, s), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    OK(probe_big(out, 60 << 8, true, s));
    from_device(&got, out, sizeof(got));
    assert_int_equal(got, (60 << 8) - 1);
    assert_int_equal(probe_big(out, 164 << 8, true, s), cudaErrorInvalidValue); /* sm_80: 163 KiB */
    cuemu_set("CUEMU_CC", "90");
    OK(probe_big(out, 164 << 8, true, s));
    cuemu_set("CUEMU_CC", "80");
    OK(cudaFree(out));
    OK(cudaStreamDestroy(s));
}

static void launches_are_checked(void **state)
{
    (void)state;
    cudaStream_t s = stream_make();
    float *x = to_device(NULL, 64), y = 0;
    assert_int_equal(probe_sum(x, 16, 2048, x, s), cudaErrorInvalidConfiguration);
    assert_int_equal(probe_sum(x, 0, 32, x, s), cudaErrorInvalidConfiguration); /* no block */
    assert_int_equal(cudaMemcpyAsync(x, &y, 4, cudaMemcpyHostToDevice, s), cudaSuccess);
    assert_int_equal(cudaFree(&y), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    OK(cudaFree(x));
    OK(cudaStreamDestroy(s));
}

/* ---- mistakes ---- */

typedef struct result {
    float out[64];
    unsigned word;
    bool wrong;
} result;
typedef void child_fn(int which, result *r);

/* Runs fn in a child. 1: it died, with a text among those it wrote if one is given (NULL: any); 0: *r is what it found. */
static int in_child(child_fn *fn, int which, const char *text, result *r)
{
    int p[2];
    FILE *said = tmpfile();
    assert_non_null(said);
    assert_int_equal(pipe(p), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        result mine = {0};
        close(p[0]);
        dup2(fileno(said), 2);
        dup2(fileno(said), 1);
        alarm(60);
        const int deadly[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE}; /* the test runner's handlers would go on with the next test */
        for (size_t i = 0; i < LEN(deadly); i++)
            signal(deadly[i], SIG_DFL);
        fn(which, &mine);
        if (write(p[1], &mine, sizeof(mine)) != sizeof(mine))
            _exit(3);
        fflush(NULL);
        _exit(0);
    }
    close(p[1]);
    bool whole = read(p[0], r, sizeof(*r)) == sizeof(*r);
    close(p[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    bool died = !WIFEXITED(status) || WEXITSTATUS(status) != 0 || !whole;
    rewind(said);
    static char output[1 << 16];
    output[fread(output, 1, sizeof(output) - 1, said)] = 0;
    fclose(said);
    if (TSAN && strstr(output, "WARNING: ThreadSanitizer: data race") != NULL)
        return 1;
    if (died && text != NULL && strstr(output, text) == NULL && !ASAN && !TSAN)
        fail_msg("died, but did not say '%s':\n%s", text, output);
    return died;
}

static void child_kernel(int which, result *r)
{
    float x[64];
    unsigned zero = 0;
    for (int i = 0; i < 64; i++)
        x[i] = (float)i + 1;
    cudaStream_t s = stream_make();
    float *dx = to_device(x, sizeof(x)), *out = to_device(NULL, sizeof(r->out));
    unsigned *word = to_device(&zero, sizeof(zero));
    if (probe_mistake(which, dx, out, word, s) != cudaSuccess)
        _exit(4);
    from_device(r->out, out, sizeof(r->out));
    from_device(&r->word, word, sizeof(r->word));
    for (int i = 0; i < 64; i++)
        r->wrong |= !(r->out[i] == 2 * x[(i + 1) % 64]);
}

static void mistakes_in_kernels_are_noticed(void **state)
{
    (void)state;
    static const struct {
        int which;
        const char *name, *says; /* NULL: seen by its result */
        bool only_asan;
    } table[] = {
        {PROBE_NONE, "no mistake", NULL, false},
        {PROBE_NO_BARRIER, "no barrier", NULL, false},
        {PROBE_DIVERGENT_BARRIER, "barriers of different lines", "DIFFERENT barriers", false},
        {PROBE_BARRIER_AFTER_RETURN, "barrier after a thread returned", "DEADLOCK", false},
        {PROBE_NO_SYNCWARP, "no __syncwarp", NULL, false},
        {PROBE_HALF_WARP, "half a warp under the full mask", "DEADLOCK", false},
        {PROBE_LANE_NOT_IN_MASK, "a lane that its mask does not name", "does not name it", false},
        {PROBE_LANE_OUTSIDE_MASK, "a shuffle from outside the mask", "outside its mask", false},
        {PROBE_TWO_OPERATIONS, "two operations meet", "DIFFERENT operations", false},
        {PROBE_UNINITIALISED_SHARED, "uninitialised shared memory", NULL, false},
        {PROBE_READ_PAST_END, "reads past the end of device memory", "of an allocation of 256 (or freed memory)", false},
        {PROBE_WRITE_PAST_END, "writes past the end of device memory", "of an allocation of 256 (or freed memory)", false},
        {PROBE_SHARED_PAST_END, "shared index past the end", NULL, true},
        {PROBE_SAME_WORD, "several threads write a word", NULL, false},
        {PROBE_MISALIGNED, "a misaligned load", "misaligned", false},
        {PROBE_TRAP, "a trap", "as asked", false},
    };
    for (size_t i = 0; i < LEN(table); i++) {
        bool noticed = false;
        result r, first;
        if (table[i].only_asan && !ASAN)
            continue;
        for (size_t o = 0; o < LEN(orders) && !noticed; o++) {
            cuemu_set("CUEMU_ORDER", orders[o]);
            int died = in_child(child_kernel, table[i].which, table[i].says, &r);
            if (died || (table[i].says == NULL && r.wrong))
                noticed = true;
            else if (o == 0)
                first = r;
            else if (memcmp(&r, &first, sizeof(r)) != 0)
                noticed = true;
            if (table[i].says != NULL && !died) /* in every order */
                fail_msg("%s: not noticed in order %s", table[i].name, orders[o]);
        }
        if (noticed != (table[i].which != PROBE_NONE))
            fail_msg("%s: noticed %d", table[i].name, noticed);
    }
}

static void child_staged(int which, result *r)
{
    static unsigned char x[4096], y[4096];
    for (int i = 0; i < 4096; i++)
        x[i] = (unsigned char)(i * 31 ^ i >> 7);
    cudaStream_t s = stream_make();
    unsigned char *dx = to_device(x, 4096), *dy = to_device(x, 4096);
    OK(cudaMemset(dy, 0, 4096));
    OK(probe_staged(dx, 4096, dy, which, s));
    from_device(y, dy, 4096);
    r->wrong = memcmp(x, y, 4096) != 0;
}

static void missing_waits_of_copies_are_noticed(void **state)
{
    (void)state;
    result r;
    bool wait = false, overwrite = false;
    for (size_t o = 0; o < LEN(orders); o++) {
        cuemu_set("CUEMU_ORDER", orders[o]);
        cuemu_set("CUEMU_CPASYNC", "late");
        wait |= in_child(child_staged, 1, NULL, &r) || r.wrong;
        cuemu_set("CUEMU_CPASYNC", "early");
        overwrite |= in_child(child_staged, 2, NULL, &r) || r.wrong;
    }
    assert_true(wait);
    assert_true(overwrite);
}

enum host_mistake {
    GUARD_READ,
    HOST_ARGUMENT,
    MARK_AFTER,
    USE_AFTER_FREE,
    COPY_TOO_LONG,
    WRONG_DIRECTION,
    DESTROYED_STREAM,
    FOREIGN_DEVICE,
    REUSED_PINNED,
    NO_EVENT_WAIT,
    STALE_PAGEABLE_READ,
};

static void child_host(int which, result *r)
{
    int zeros[64] = {0}, got[64] = {0}, *volatile pointer;
    if (which == FOREIGN_DEVICE)
        cuemu_set("CUEMU_DEVICES", "2");
    cudaStream_t s = stream_make(), s2 = stream_make();
    int *x = to_device(zeros, sizeof(zeros)), *pinned;
    OK(cudaHostAlloc((void **)&pinned, 256, cudaHostAllocDefault));
    cudaEvent_t e;
    OK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    pointer = x;
    switch (which) {
    case GUARD_READ:
        cuemu_set("CUEMU_GUARD", "1");
        OK(probe_chain(x, 64, 1, s));
        got[0] = pointer[0];
        break;
    case HOST_ARGUMENT:
        probe_chain(got, 64, 1, s);
        break;
    case MARK_AFTER: {
        int *odd = to_device(NULL, 60 * sizeof(int));
        probe_chain(odd, 61, 1, s);
        break;
    }
    case USE_AFTER_FREE: {
        pointer = to_device(zeros, sizeof(zeros));
        OK(cudaFree(pointer));
        int **list = to_device(NULL, 8); /* not an argument: the launch cannot see it */
        (void)list;
        got[0] = pointer[0];
        break;
    }
    case COPY_TOO_LONG:
        cudaMemcpyAsync(x, pinned, 257, cudaMemcpyHostToDevice, s);
        break;
    case WRONG_DIRECTION:
        cudaMemcpyAsync(pinned, x, 16, cudaMemcpyHostToDevice, s);
        break;
    case DESTROYED_STREAM:
        OK(cudaStreamDestroy(s2));
        probe_chain(x, 64, 1, s2);
        break;
    case FOREIGN_DEVICE: {
        OK(cudaSetDevice(1));
        int *far = to_device(zeros, sizeof(zeros));
        probe_chain(far, 64, 1, s);
        break;
    }
    case REUSED_PINNED: /* the copy reads it when it runs */
        memset(pinned, 0, 256);
        OK(cudaMemcpyAsync(x, pinned, 256, cudaMemcpyHostToDevice, s));
        memset(pinned, 1, 256);
        from_device(got, x, sizeof(got));
        r->wrong = got[5] != 0;
        break;
    case NO_EVENT_WAIT:
        OK(cudaMemsetAsync(x, 0, 256, s));
        OK(probe_chain(x, 64, 5, s));
        OK(cudaEventRecord(e, s));
        OK(probe_chain(x, 64, 7, s2)); /* cudaStreamWaitEvent(s2, e) would belong before it */
        from_device(got, x, sizeof(got));
        r->wrong = got[0] != 22;
        break;
    case STALE_PAGEABLE_READ: /* no sync before the host looks */
        memset(pinned, 0, 256);
        OK(probe_chain(x, 64, 5, s));
        OK(cudaMemcpyAsync(pinned, x, 256, cudaMemcpyDeviceToHost, s));
        r->wrong = pinned[0] != 5;
        break;
    default:
        break;
    }
    r->word = (unsigned)got[0];
}

static void mistakes_of_the_host_are_noticed(void **state)
{
    (void)state;
    result r;
    assert_int_equal(in_child(child_host, GUARD_READ, "host code touches device memory", &r), 1);
    assert_int_equal(in_child(child_host, HOST_ARGUMENT, "neither device nor pinned", &r), 1);
    assert_int_equal(in_child(child_host, MARK_AFTER, "wrote beside an allocation of 240", &r), 1);
    assert_int_equal(in_child(child_host, USE_AFTER_FREE, "touches device memory", &r), 1);
    assert_int_equal(in_child(child_host, COPY_TOO_LONG, "257 bytes from byte 0", &r), 1);
    assert_int_equal(in_child(child_host, WRONG_DIRECTION, "not device memory", &r), 1);
    assert_int_equal(in_child(child_host, DESTROYED_STREAM, "does not exist", &r), 1);
    assert_int_equal(in_child(child_host, FOREIGN_DEVICE, "memory of device 1", &r), 1);
    const int seen_late[] = {REUSED_PINNED, NO_EVENT_WAIT, STALE_PAGEABLE_READ};
    for (size_t i = 0; i < LEN(seen_late); i++) {
        bool noticed = false;
        const char *const modes[] = {"lazy", "rand:1", "rand:2"};
        for (size_t m = 0; m < LEN(modes); m++) {
            cuemu_set("CUEMU_STREAMS", modes[m]);
            noticed |= in_child(child_host, seen_late[i], NULL, &r) || r.wrong;
        }
        if (!noticed)
            fail_msg("mistake %d of the host is not noticed", seen_late[i]);
        cuemu_set("CUEMU_STREAMS", "eager");
        assert_int_equal(in_child(child_host, seen_late[i], NULL, &r), 0); /* works by luck */
        assert_false(r.wrong);
    }
}

/* ---- streams, events, graphs ---- */

static const char *const modes[] = {"eager", "lazy", "rand:1", "rand:2", "rand:3"};

/* y = ((y * 3 + 1) * 3 + 2) * 3 + ... over two streams that wait for each other. */
static void streams_keep_their_order_and_wait(void **state)
{
    (void)state;
    for (size_t m = 0; m < LEN(modes); m++) {
        cuemu_set("CUEMU_STREAMS", modes[m]);
        cudaStream_t s[2] = {stream_make(), stream_make()};
        cudaEvent_t e[2];
        OK(cudaEventCreateWithFlags(&e[0], cudaEventDisableTiming));
        OK(cudaEventCreate(&e[1]));
        int zeros[100] = {0}, got[100], want = 0;
        int *y = to_device(zeros, sizeof(zeros));
        for (int i = 0; i < 12; i++) {
            OK(probe_chain(y, 100, i, s[i % 2]));
            OK(cudaEventRecord(e[i % 2], s[i % 2]));
            OK(cudaStreamWaitEvent(s[1 - i % 2], e[i % 2], 0));
            want = want * 3 + i;
        }
        while (cudaEventQuery(e[1]) == cudaErrorNotReady) {
        }
        OK(cudaStreamSynchronize(s[0]));
        OK(cudaStreamSynchronize(s[1]));
        from_device(got, y, sizeof(got));
        assert_int_equal(got[0], want);
        assert_int_equal(got[99], want);
        OK(cudaFree(y));
        OK(cudaEventDestroy(e[0]));
        OK(cudaEventDestroy(e[1]));
        OK(cudaStreamDestroy(s[0]));
        OK(cudaStreamDestroy(s[1]));
    }
}

static void graphs_replay_what_was_captured(void **state)
{
    (void)state;
    for (size_t m = 0; m < LEN(modes); m++) {
        cuemu_set("CUEMU_STREAMS", modes[m]);
        cudaStream_t a = stream_make(), b = stream_make();
        cudaEvent_t fork_at, join_at;
        OK(cudaEventCreateWithFlags(&fork_at, cudaEventDisableTiming));
        OK(cudaEventCreateWithFlags(&join_at, cudaEventDisableTiming));
        int zeros[64] = {0}, got[64], *in, *out;
        int *x = to_device(zeros, sizeof(zeros)), *y = to_device(zeros, sizeof(zeros));
        OK(cudaHostAlloc((void **)&in, 256, 0));
        OK(cudaHostAlloc((void **)&out, 256, 0));
        cudaGraph_t g;
        cudaGraphExec_t run;
        OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
        OK(cudaMemcpyAsync(x, in, 256, cudaMemcpyHostToDevice, a));
        OK(cudaEventRecord(fork_at, a));
        OK(cudaStreamWaitEvent(b, fork_at, 0));
        OK(cudaMemcpyAsync(y, x, 256, cudaMemcpyDeviceToDevice, b)); /* y = x */
        OK(probe_chain(y, 64, 100, b));
        OK(cudaEventRecord(join_at, b));
        OK(cudaStreamWaitEvent(a, join_at, 0));
        OK(probe_chain(x, 64, 1, a));
        OK(probe_chain(y, 64, 2, a));
        OK(cudaMemcpyAsync(out, y, 256, cudaMemcpyDeviceToHost, a));
        enum cudaStreamCaptureStatus status;
        OK(cudaStreamIsCapturing(b, &status));
        assert_int_equal(status, cudaStreamCaptureStatusActive);
        OK(cudaStreamEndCapture(a, &g));
        OK(cudaStreamIsCapturing(b, &status));
        assert_int_equal(status, cudaStreamCaptureStatusNone);
        from_device(got, y, sizeof(got));
        assert_int_equal(got[0], 0); /* nothing ran */
        OK(cudaGraphInstantiate(&run, g, 0));
        OK(cudaGraphDestroy(g));
        for (int i = 0; i < 3; i++) {
            in[7] = i;
            OK(cudaGraphLaunch(run, a));
            OK(cudaStreamSynchronize(a));
            assert_int_equal(out[7], (i * 3 + 100) * 3 + 2);
            from_device(got, x, sizeof(got));
            assert_int_equal(got[7], i * 3 + 1);
        }
        OK(cudaGraphExecDestroy(run));
        OK(cudaFree(x));
        OK(cudaFree(y));
        OK(cudaFreeHost(in));
        OK(cudaFreeHost(out));
        OK(cudaEventDestroy(fork_at));
        OK(cudaEventDestroy(join_at));
        OK(cudaStreamDestroy(a));
        OK(cudaStreamDestroy(b));
    }
}

/* The side stream of a graph that joins too late: noticed under some mode, since a replay takes any order the graph allows. */
static void a_fork_joined_too_late_shows(void **state)
{
    (void)state;
    bool noticed = false;
    for (size_t m = 0; m < LEN(modes); m++) {
        cuemu_set("CUEMU_STREAMS", modes[m]);
        cudaStream_t a = stream_make(), b = stream_make();
        cudaEvent_t fork_at, join_at;
        OK(cudaEventCreate(&fork_at));
        OK(cudaEventCreate(&join_at));
        int zeros[64] = {0}, got[64];
        int *x = to_device(zeros, sizeof(zeros));
        cudaGraph_t g;
        cudaGraphExec_t run;
        OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
        OK(cudaEventRecord(fork_at, a));
        OK(cudaStreamWaitEvent(b, fork_at, 0));
        OK(probe_chain(x, 64, 5, b));
        OK(cudaEventRecord(join_at, b));
        OK(probe_chain(x, 64, 7, a));
        OK(cudaStreamWaitEvent(a, join_at, 0));
        OK(cudaStreamEndCapture(a, &g));
        OK(cudaGraphInstantiate(&run, g, 0));
        OK(cudaGraphLaunch(run, a));
        OK(cudaStreamSynchronize(a));
        from_device(got, x, sizeof(got));
        noticed |= got[0] != 22;
        OK(cudaGraphExecDestroy(run));
        OK(cudaGraphDestroy(g));
        OK(cudaFree(x));
        OK(cudaEventDestroy(fork_at));
        OK(cudaEventDestroy(join_at));
        OK(cudaStreamDestroy(a));
        OK(cudaStreamDestroy(b));
    }
    assert_true(noticed);
}

static void captures_refuse_what_cannot_be_replayed(void **state)
{
    (void)state;
    cudaStream_t a = stream_make(), b = stream_make();
    cudaEvent_t e, outside;
    OK(cudaEventCreate(&e));
    OK(cudaEventCreate(&outside));
    int zeros[64] = {0}, *x = to_device(zeros, sizeof(zeros));
    void *p;
    cudaGraph_t g;
    OK(cudaEventRecord(outside, b));
    for (int which = 0; which < 7; which++) {
        OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
        OK(probe_chain(x, 64, 1, a));
        int got = 0, want = cudaErrorStreamCaptureUnsupported, end = cudaErrorStreamCaptureInvalidated;
        switch (which) {
        case 0:
            got = cudaMalloc(&p, 64);
            break;
        case 1:
            got = cudaStreamSynchronize(a);
            break;
        case 2:
            got = cudaMemcpyAsync(x, zeros, 256, cudaMemcpyHostToDevice, a); /* pageable */
            break;
        case 3:
            got = cudaStreamWaitEvent(a, outside, 0);
            want = cudaErrorStreamCaptureIsolation;
            break;
        case 4: /* b is forked and not joined */
            OK(cudaEventRecord(e, a));
            OK(cudaStreamWaitEvent(b, e, 0));
            got = probe_chain(x, 64, 1, b);
            want = cudaSuccess;
            end = cudaErrorStreamCaptureUnjoined;
            break;
        case 5:
            got = cudaMemcpy(x, zeros, 256, cudaMemcpyHostToDevice);
            break;
        default:
            got = cudaFree(x);
            break;
        }
        assert_int_equal(got, want);
        assert_int_equal(cudaStreamEndCapture(a, &g), end);
        assert_null(g);
        cudaGetLastError();
    }
    /* The streams are of use again. */
    OK(probe_chain(x, 64, 1, a));
    OK(probe_chain(x, 64, 1, b));
    OK(cudaDeviceSynchronize());
    OK(cudaFree(x));
    OK(cudaEventDestroy(e));
    OK(cudaEventDestroy(outside));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}

/* ---- memory, devices, failures ---- */

static void memory_is_poisoned_counted_and_bounded(void **state)
{
    (void)state;
    size_t before, after, total;
    void *p, *q;
    unsigned char bytes[100];
    OK(cudaMemGetInfo(&before, &total));
    p = to_device(NULL, 100);
    from_device(bytes, p, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(bytes[i], 0xff);
    OK(cudaMemGetInfo(&after, &total));
    assert_int_equal(before - after, 100);
    assert_int_equal((uintptr_t)p % 256, 0);
    assert_int_equal(cudaMalloc(&q, total), cudaErrorMemoryAllocation);
    assert_null(q);
    OK(cudaFree(p));
    assert_int_equal(cudaFree(p), cudaErrorInvalidValue);
    cudaGetLastError();
    OK(cudaFree(NULL));
    /* Memory of others, registered: a kernel may use it. */
    int *shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), *seen;
    cudaStream_t s = stream_make();
    OK(cudaHostRegister(shared, 8192, cudaHostRegisterMapped | cudaHostRegisterPortable));
    assert_int_equal(cudaHostRegister(shared + 4, 16, 0), cudaErrorHostMemoryAlreadyRegistered);
    OK(cudaHostGetDevicePointer((void **)&seen, shared, 0));
    OK(probe_chain(seen, 64, 9, s));
    OK(cudaStreamSynchronize(s));
    assert_int_equal(shared[63], 9);
    OK(cudaHostUnregister(shared));
    assert_int_equal(cudaHostUnregister(shared), cudaErrorHostMemoryNotRegistered);
    cudaGetLastError();
    munmap(shared, 8192);
    OK(cudaStreamDestroy(s));
}

static void failures_come_when_asked_for(void **state)
{
    (void)state;
    void *p;
    cudaStream_t s = stream_make();
    int zeros[64] = {0}, *x = to_device(zeros, sizeof(zeros));
    cuemu_set("CUEMU_FAIL", "cudaMalloc:2,cudaStreamCreateWithFlags:1=100");
    OK(cudaMalloc(&p, 16));
    OK(cudaFree(p));
    assert_int_equal(cudaMalloc(&p, 16), cudaErrorMemoryAllocation);
    OK(cudaMalloc(&p, 16));
    OK(cudaFree(p));
    cudaStream_t none;
    assert_int_equal(cudaStreamCreateWithFlags(&none, 0), cudaErrorNoDevice);
    cuemu_set("CUEMU_FAIL", "kernel:2");
    uint64_t ran = cuemu_calls("kernel");
    OK(probe_chain(x, 64, 1, s));
    cuemu_set("CUEMU_STREAMS", "lazy");
    OK(probe_chain(x, 64, 1, s)); /* fails when it runs */
    OK(probe_chain(x, 64, 1, s));
    assert_int_equal(cudaStreamSynchronize(s), cudaErrorLaunchFailure);
    assert_int_equal(cuemu_calls("kernel") - ran, 2);
    assert_int_equal(cudaMalloc(&p, 16), cudaErrorLaunchFailure); /* and stays */
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    cuemu_forget_error();
    OK(cudaFree(x));
    OK(cudaStreamDestroy(s));
}

static void child_devices(int which, result *r)
{
    char text[8];
    int n = -7;
    snprintf(text, sizeof(text), "%d", which);
    cuemu_set("CUEMU_DEVICES", text);
    r->word = (unsigned)cudaGetDeviceCount(&n);
    r->out[0] = (float)n;
}

static void there_may_be_no_device(void **state)
{
    (void)state;
    result r;
    assert_int_equal(in_child(child_devices, 0, NULL, &r), 0);
    assert_int_equal(r.word, cudaErrorNoDevice);
    assert_int_equal(in_child(child_devices, -1, NULL, &r), 0);
    assert_int_equal(r.word, cudaErrorInsufficientDriver);
    assert_int_equal(in_child(child_devices, 3, NULL, &r), 0);
    assert_int_equal(r.word, cudaSuccess);
    assert_int_equal((int)r.out[0], 3);
    struct cudaDeviceProp p;
    OK(cudaGetDeviceProperties(&p, 0));
    assert_non_null(strstr(p.name, "EMULATED"));
    assert_int_equal(p.major, 8);
}

/* Two processes, each with memory the other opens: data, then a flag that its kernel waits for. */
static void processes_open_each_others_memory(void **state)
{
    (void)state;
    typedef struct side {
        cudaIpcMemHandle_t flag, data;
    } side;
    int up[2], down[2];
    assert_int_equal(pipe(up), 0);
    assert_int_equal(pipe(down), 0);
    fflush(NULL);
    pid_t pid = fork();
    int me = pid == 0, ok = 1;
    int data[64], got[64];
    uint32_t zero = 0;
    for (int i = 0; i < 64; i++)
        data[i] = me * 1000 + i;
    cudaStream_t s = stream_make();
    uint32_t *flag = to_device(&zero, 4), *their_flag;
    int *mine = to_device(data, sizeof(data)), *theirs, *out = to_device(NULL, sizeof(got));
    side a, b;
    memset(&a, 0, sizeof(a));
    OK(cudaIpcGetMemHandle(&a.flag, flag));
    OK(cudaIpcGetMemHandle(&a.data, mine));
    assert_int_equal(cudaIpcOpenMemHandle((void **)&theirs, a.data, cudaIpcMemLazyEnablePeerAccess), cudaErrorDeviceUninitialized);
    cudaGetLastError();
    ok &= write(me ? up[1] : down[1], &a, sizeof(a)) == sizeof(a) && read(me ? down[0] : up[0], &b, sizeof(b)) == sizeof(b);
    ok &= cudaIpcOpenMemHandle((void **)&their_flag, b.flag, cudaIpcMemLazyEnablePeerAccess) == cudaSuccess;
    ok &= cudaIpcOpenMemHandle((void **)&theirs, b.data, cudaIpcMemLazyEnablePeerAccess) == cudaSuccess;
    for (uint32_t round = 1; ok && round < 20; round++) {
        ok &= probe_flag(their_flag, flag, theirs, out, round, s) == cudaSuccess && cudaStreamSynchronize(s) == cudaSuccess;
        from_device(got, out, sizeof(got));
        for (int i = 0; i < 64; i++)
            ok &= got[i] == (1 - me) * 1000 + i;
    }
    ok &= write(me ? up[1] : down[1], "x", 1) == 1 && read(me ? down[0] : up[0], &b, 1) == 1; /* both have read */
    ok &= cudaIpcCloseMemHandle(theirs) == cudaSuccess && cudaIpcCloseMemHandle(their_flag) == cudaSuccess;
    OK(cudaFree(flag));
    OK(cudaFree(mine));
    OK(cudaFree(out));
    OK(cudaStreamDestroy(s));
    if (me)
        _exit(ok ? 0 : 1);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(ok, 1);
    for (int i = 0; i < 2; i++) {
        close(up[i]);
        close(down[i]);
    }
}

static void *thread_main(void *arg)
{
    int *want = arg, zeros[64] = {0}, got[64];
    cudaStream_t s = stream_make();
    int *x = to_device(zeros, sizeof(zeros));
    for (int i = 0; i < 50; i++) {
        OK(probe_chain(x, 64, i, s));
        *want = (int)((unsigned)*want * 3u + (unsigned)i);
    }
    OK(cudaStreamSynchronize(s));
    from_device(got, x, sizeof(got));
    *want = got[63] == *want;
    OK(cudaFree(x));
    OK(cudaStreamDestroy(s));
    return NULL;
}

static void threads_take_turns(void **state)
{
    (void)state;
    for (size_t m = 0; m < LEN(modes); m++) {
        pthread_t t[4];
        int result_of[4] = {0};
        cuemu_set("CUEMU_STREAMS", modes[m]);
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&t[i], NULL, thread_main, &result_of[i]), 0);
        for (int i = 0; i < 4; i++) {
            pthread_join(t[i], NULL);
            assert_int_equal(result_of[i], 1);
        }
    }
}

int main(void)
{
    /* Orders and the like are this test's to choose. */
    const char *const switches[] = {"CUEMU_ORDER", "CUEMU_STREAMS", "CUEMU_CPASYNC", "CUEMU_GUARD", "CUEMU_FAIL", "CUEMU_DEVICES", "CUEMU_MEMORY", "CUEMU_CC"};
    for (size_t i = 0; i < LEN(switches); i++)
        unsetenv(switches[i]);
    const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_teardown(f, back_to_defaults)
        TEST(processes_open_each_others_memory), /* before this process has anything to inherit */
        TEST(sums_are_the_same_in_every_order),
        TEST(tensor_cores_multiply),
        TEST(integer_tensor_cores_are_exact),
        TEST(conversions_round_to_nearest_even),
        TEST(warp_operations_name_their_lanes),
        TEST(the_last_block_sees_all_others),
        TEST(asynchronous_copies_land_late_or_early),
        TEST(shared_memory_is_limited),
        TEST(launches_are_checked),
        TEST(mistakes_in_kernels_are_noticed),
        TEST(missing_waits_of_copies_are_noticed),
        TEST(mistakes_of_the_host_are_noticed),
        TEST(streams_keep_their_order_and_wait),
        TEST(graphs_replay_what_was_captured),
        TEST(a_fork_joined_too_late_shows),
        TEST(captures_refuse_what_cannot_be_replayed),
        TEST(memory_is_poisoned_counted_and_bounded),
        TEST(failures_come_when_asked_for),
        TEST(there_may_be_no_device),
        TEST(threads_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
