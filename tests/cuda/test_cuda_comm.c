/* tests/cuda/test_cuda_comm.c - collectives on emulated devices, a process for each rank (mpirun -n N): every path gives the same bits at every size, on every rank.
 *
 *   test_cuda_comm              all cases
 *   test_cuda_comm hosts 0,0,1  the same on pretended hosts, where only NCCL serves
 *   test_cuda_comm fail ...     see test_cuda_comm_death.c */
#include <math.h>
#include <nccl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/device.h"
#include "ops/cuda/kernels.h"
#include "tests/comm/ranks.h"
#include "tests/cuda_on_host/cuemu_api.h"

#define SLOT_FLOATS 20000
#define TIMEOUT_MS 20000

extern const comm_device_ops comm_cuda;
static cudaStream_t stream;

static const comm_choice one_shot = {UINT64_MAX, UINT64_MAX}, two_shot = {0, UINT64_MAX}, exchange = {0, 0};
static const size_t sizes[] = {1, 2, 3, 4, 5, 31, 33, 127, 1023, 1024, 4097, 9999, SLOT_FLOATS};

#define CHECK_CUDA(expr) CHECK((expr) == cudaSuccess)

/* ---- numbers whose sum depends on the order ---- */

static float value(int rank, size_t i, unsigned round)
{
    unsigned state = (unsigned)i * 2654435761u + (unsigned)rank * 40503u + round * 97u;
    unsigned a = next_random(&state), b = next_random(&state);
    if (a % 37 == 0)
        return a % 2 == 0 ? -0.0f : 0.0f;
    return ldexpf((float)(int)(b % 2000001) - 1000000.0f, (int)(a % 60) - 50);
}

/* The plan's order: members of a host, then hosts. */
static float expected(comm_world *w, int n, size_t i, unsigned round)
{
    float total = 0, host = 0;
    bool more = false;
    for (int r = 0; r < n; r++) {
        float v = value(r, i, round);
        if (r > 0 && comm_world_host(w, r) != comm_world_host(w, r - 1)) {
            total = more ? total + host : host;
            more = true;
            host = v;
        } else {
            host = r == 0 ? v : host + v;
        }
    }
    return more ? total + host : host;
}

static bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof(a)) == 0;
}

static float *fill(int rank, size_t n, unsigned round)
{
    float *x = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        x[i] = value(rank, i, round);
    return x;
}

/* ---- a group ---- */

static int open_group(comm_world *w, size_t floats, comm_choice choice, int timeout_ms, comm_group **g, status *st)
{
    int n = comm_world_size(w), ranks[64];
    for (int i = 0; i < n; i++)
        ranks[i] = i;
    CHECK_OK(comm_group_create(w, ranks, n, floats * sizeof(float), timeout_ms, g));
    comm_device_spec spec = {.ops = &comm_cuda, .stream = stream, .exchange_bytes = floats * sizeof(float), .choice = choice};
    *st = comm_group_device(*g, &spec);
    return 0;
}

static int make(comm_world *w, comm_group **g)
{
    status st;
    if (open_group(w, SLOT_FLOATS, one_shot, TIMEOUT_MS, g, &st))
        return 1;
    char nccl[32];
    CHECK(st == ST_OK);
    CHECK(comm_group_on_device(*g));
    snprintf(nccl, sizeof(nccl), "NCCL %d.%d.%d", NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH);
    CHECK(strstr(comm_group_device_describe(*g), nccl) != NULL);
    return 0;
}

static int up(void *to, const void *from, size_t bytes)
{
    CHECK_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
    return 0;
}

static int down(void *to, const void *from, size_t bytes)
{
    CHECK_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    return 0;
}

/* One exchange, its parts added on the host. */
static int exchange_once(comm_world *w, comm_group *g, size_t n, unsigned round, float *sum)
{
    void *slot;
    const float *const *parts;
    int n_parts, failed = 0;
    float *x = fill(comm_world_rank(w), n, round), *part = malloc(n * sizeof(float));
    CHECK_OK(comm_exchange_begin(g, n * sizeof(float), &slot));
    CHECK((uintptr_t)slot % 64 == 0);
    failed = up(slot, x, n * sizeof(float));
    CHECK_OK(comm_exchange_end(g, n * sizeof(float), &parts, &n_parts));
    for (int p = 0; p < n_parts && !failed; p++) {
        failed = down(part, parts[p], n * sizeof(float));
        for (size_t i = 0; i < n; i++)
            sum[i] = p == 0 ? part[i] : sum[i] + part[i];
    }
    free(x);
    free(part);
    return failed;
}

static int case_exchange(comm_world *w)
{
    comm_group *g;
    unsigned round = 0;
    static float sum[SLOT_FLOATS];
    const comm_choice *const paths[] = {&one_shot, &two_shot, &exchange, &two_shot, &one_shot};
    if (make(w, &g))
        return 1;
    for (size_t p = 0; p < ARRAY_LEN(paths); p++) {
        comm_device_choose(g, paths[p]);
        for (size_t s = 0; s < ARRAY_LEN(sizes); s++, round++) {
            if (exchange_once(w, g, sizes[s], round, sum))
                return 1;
            for (size_t i = 0; i < sizes[s]; i++)
                CHECK(same(sum[i], expected(w, comm_world_size(w), i, round)));
        }
    }
    CHECK_OK(comm_group_check(g));
    comm_group_destroy(&g);
    return 0;
}

static int case_all_reduce(comm_world *w)
{
    comm_group *g;
    const comm_choice *const paths[] = {&one_shot, &two_shot, &exchange};
    enum { LONG = 2 * SLOT_FLOATS + 77 };
    float *x, *y = malloc(LONG * sizeof(float));
    void *device;
    if (make(w, &g))
        return 1;
    CHECK_CUDA(cudaMalloc(&device, LONG * sizeof(float)));
    for (size_t p = 0; p < ARRAY_LEN(paths); p++) {
        comm_device_choose(g, paths[p]);
        for (size_t s = 0; s <= ARRAY_LEN(sizes); s++) {
            size_t n = s < ARRAY_LEN(sizes) ? sizes[s] : LONG;
            x = fill(comm_world_rank(w), n, 1000 + (unsigned)s);
            if (up(device, x, n * sizeof(float)))
                return 1;
            CHECK_OK(comm_device_all_reduce(g, device, n));
            if (down(y, device, n * sizeof(float)))
                return 1;
            for (size_t i = 0; i < n; i++)
                CHECK(same(y[i], expected(w, comm_world_size(w), i, 1000 + (unsigned)s)));
            free(x);
        }
    }
    CHECK_CUDA(cudaFree(device));
    free(y);
    comm_group_destroy(&g);
    return 0;
}

/* Nothing waits in between: slots are written again while peers may be behind. */
static int case_in_a_row(comm_world *w)
{
    enum { ROUNDS = 60, N = 600 };
    comm_group *g;
    void *slot, *kept, *input;
    const float *const *parts;
    int n_parts, n = comm_world_size(w);
    static float y[ROUNDS][N], x[ROUNDS][N];
    const comm_choice *const paths[] = {&one_shot, &two_shot, &exchange, &one_shot, &one_shot, &exchange, &exchange, &two_shot};
    if (make(w, &g))
        return 1;
    CHECK_CUDA(cudaMalloc(&kept, sizeof(y)));
    CHECK_CUDA(cudaMalloc(&input, sizeof(x)));
    for (int r = 0; r < ROUNDS; r++)
        for (size_t i = 0; i < N; i++)
            x[r][i] = value(comm_world_rank(w), i, (unsigned)r);
    if (up(input, x, sizeof(x)))
        return 1;
    for (int r = 0; r < ROUNDS; r++) {
        size_t count = r % 3 == 0 ? N : N - 7 * (size_t)(r % 5);
        comm_device_choose(g, paths[(size_t)r % ARRAY_LEN(paths)]);
        CHECK_OK(comm_exchange_begin(g, count * sizeof(float), &slot));
        CHECK_CUDA(cudaMemcpyAsync(slot, (float *)input + r * N, count * sizeof(float), cudaMemcpyDeviceToDevice, stream));
        CHECK_OK(comm_exchange_end(g, count * sizeof(float), &parts, &n_parts));
        if (n_parts == 1)
            CHECK_CUDA(cudaMemcpyAsync((float *)kept + r * N, parts[0], count * sizeof(float), cudaMemcpyDeviceToDevice, stream));
        else /* as the norm does: from everybody's slots, in order */
            for (int p = 0; p < n_parts; p++)
                CHECK_CUDA(k_comm_sum(p == 0 ? parts[0] : kept, 0, p == 0 ? 1 : 2, p == 0 ? -1 : 1, p == 0 ? parts[0] : parts[p], 0, (int64_t)count, kept, stream));
        if (n_parts > 1)
            CHECK_CUDA(cudaMemcpyAsync((float *)kept + r * N, kept, count * sizeof(float), cudaMemcpyDeviceToDevice, stream));
        if (r % 16 == 5)
            CHECK_OK(comm_group_align(g));
    }
    if (down(y, kept, sizeof(y)))
        return 1;
    for (int r = 1; r < ROUNDS; r++) /* row 0 serves as scratch */
        for (size_t i = 0; i < (r % 3 == 0 ? N : N - 7 * (size_t)(r % 5)); i++)
            CHECK(same(y[r][i], expected(w, n, i, (unsigned)r)));
    CHECK_CUDA(cudaFree(kept));
    CHECK_CUDA(cudaFree(input));
    comm_group_destroy(&g);
    return 0;
}

/* Two halves take turns, and whole exchanges come in between, as steps that are cut and others do; nothing waits for the device. */
static int case_halves(comm_world *w)
{
    enum { ROUNDS = 48, N = 608 };
    comm_group *g;
    void *slot, *kept, *input;
    int n = comm_world_size(w);
    static float y[ROUNDS][N], x[ROUNDS][N];
    static const size_t cuts[] = {16, 304, 592, 160}; /* floats, of 64 bytes */
    const comm_choice *const paths[] = {&one_shot, &two_shot, &exchange, &one_shot, &exchange, &two_shot};
    if (make(w, &g))
        return 1;
    CHECK_CUDA(cudaMalloc(&kept, sizeof(y)));
    CHECK_CUDA(cudaMalloc(&input, sizeof(x)));
    for (int r = 0; r < ROUNDS; r++)
        for (size_t i = 0; i < N; i++)
            x[r][i] = value(comm_world_rank(w), i, (unsigned)r);
    if (up(input, x, sizeof(x)))
        return 1;
    for (int r = 0; r < ROUNDS;) { /* steps of 1 to 5 exchanges, each third one whole */
        int step = r / 3 % 5 + 1, end = r + step < ROUNDS ? r + step : ROUNDS;
        size_t cut = cuts[(size_t)r % ARRAY_LEN(cuts)];
        const float *const *parts[2];
        int n_parts[2], n_halves = step % 3 == 0 ? 1 : 2;
        for (int first = r; r <= end; r++) /* a half's sum is taken when its next exchange is due, as a norm does */
            for (int k = 0; k < n_halves; k++) {
                comm_half h = {k, k == 0 ? 0 : cut * sizeof(float), (n_halves == 1 ? N : k == 0 ? cut : N - cut) * sizeof(float)};
                size_t count = h.bytes / sizeof(float);
                float *at = (float *)kept + (r - 1) * N + h.offset / sizeof(float);
                if (r > first) {
                    if (n_halves == 2)
                        CHECK_OK(comm_half_wait(g, k));
                    CHECK_CUDA(k_comm_sum(parts[k][0], 0, 1, -1, parts[k][0], 0, (int64_t)count, at, stream));
                    for (int p = 1; p < n_parts[k]; p++)
                        CHECK_CUDA(k_comm_sum(at, 0, 2, 1, parts[k][p], 0, (int64_t)count, at, stream));
                }
                if (r == end)
                    continue;
                comm_device_choose(g, paths[(size_t)(r + k) % ARRAY_LEN(paths)]);
                CHECK_OK(n_halves == 2 ? comm_half_begin(g, &h, &slot) : comm_exchange_begin(g, h.bytes, &slot));
                CHECK_CUDA(cudaMemcpyAsync(slot, (float *)input + r * N + h.offset / sizeof(float), h.bytes, cudaMemcpyDeviceToDevice, stream));
                CHECK_OK(n_halves == 2 ? comm_half_start(g, &h, &parts[k], &n_parts[k]) : comm_exchange_end(g, h.bytes, &parts[k], &n_parts[k]));
            }
        r--; /* the round in which nothing was begun */
        if (r % 4 == 1)
            CHECK_OK(comm_group_align(g));
    }
    if (down(y, kept, sizeof(y)))
        return 1;
    for (int r = 0; r < ROUNDS; r++)
        for (size_t i = 0; i < N; i++)
            CHECK(same(y[r][i], expected(w, n, i, (unsigned)r)));
    CHECK_CUDA(cudaFree(kept));
    CHECK_CUDA(cudaFree(input));
    CHECK_OK(comm_group_check(g));
    static const comm_half wrong[] = {{2, 0, 64}, {0, 64, 64}, {1, 32, 64}, {1, SLOT_FLOATS * 4, 6400}, {1, SIZE_MAX / 64 * 64, 64}};
    status_mute();
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        CHECK(comm_half_begin(g, &wrong[i], &slot) == ST_INVALID);
    status_unmute();
    comm_group_destroy(&g);
    return 0;
}

/* Uneven shares, one of them empty, of up to `each` bytes times the ranks; then a message of as many bytes from every rank in turn. */
static int gather_broadcast(comm_world *w, comm_group *g, size_t each)
{
    int n = comm_world_size(w), me = comm_world_rank(w);
    size_t *bytes = malloc((size_t)n * sizeof(*bytes)), total = 0, most = (size_t)n * each, at = 0; /* no longer than the group */
    void *all, *mine;
    for (int i = 0; i < n; i++) {
        bytes[i] = i == 1 ? 0 : (size_t)(i + 1) * each;
        total += bytes[i];
    }
    unsigned char *text = malloc(most), *got = malloc(total + most);
    CHECK_CUDA(cudaMalloc(&all, total + most));
    CHECK_CUDA(cudaMalloc(&mine, most));
    for (int again = 0; again < 2; again++) {
        memset(text, 65 + me, most);
        if (up(mine, text, most))
            return 1;
        CHECK_OK(comm_device_all_gather(g, mine, bytes, all));
        if (down(got, all, total))
            return 1;
        at = 0;
        for (int i = 0; i < n; i++)
            for (size_t k = 0; k < bytes[i]; k++)
                CHECK(got[at++] == 65 + i);
        for (int root = 0; root < n; root++) {
            memset(text, root == me ? 100 + root : 0, most);
            if (up(all, text, most))
                return 1;
            CHECK_OK(comm_device_broadcast(g, root, all, most));
            if (down(got, all, most))
                return 1;
            for (size_t k = 0; k < most; k++)
                CHECK(got[k] == 100 + root);
        }
    }
    CHECK_CUDA(cudaFree(all));
    CHECK_CUDA(cudaFree(mine));
    free(bytes);
    free(text);
    free(got);
    return 0;
}

static int case_gather_broadcast(comm_world *w)
{
    comm_group *g;
    if (make(w, &g) || gather_broadcast(w, g, 9973))
        return 1;
    comm_group_destroy(&g);
    return 0;
}

/* The residual stream from stage to stage: a group for each pair of neighbours. */
static int case_stages(comm_world *w)
{
    int n = comm_world_size(w), me = comm_world_rank(w);
    enum { N = 50001 };
    comm_group *before = NULL, *after = NULL;
    void *x;
    unsigned char *text = malloc(N);
    for (int i = 0; i + 1 < n; i++) {
        int pair[2] = {i, i + 1};
        comm_group **g = me == i ? &after : me == i + 1 ? &before : NULL;
        if (g == NULL)
            continue;
        comm_device_spec spec = {.ops = &comm_cuda, .stream = stream};
        CHECK_OK(comm_group_create(w, pair, 2, 0, TIMEOUT_MS, g));
        CHECK_OK(comm_group_device(*g, &spec));
    }
    CHECK_CUDA(cudaMalloc(&x, N));
    for (int round = 0; round < 5; round++) {
        memset(text, 10 + round, N);
        if (me == 0 && up(x, text, N))
            return 1;
        if (me > 0)
            CHECK_OK(comm_device_recv(before, 0, x, N));
        if (me + 1 < n)
            CHECK_OK(comm_device_send(after, 1, x, N));
        memset(text, 0, N);
        if (down(text, x, N))
            return 1;
        for (int i = 0; i < N; i++)
            CHECK(text[i] == 10 + round);
    }
    CHECK(me > 0 || comm_device_send(after, 0, x, N) == ST_INVALID); /* to oneself */
    CHECK_CUDA(cudaFree(x));
    comm_group_destroy(&after);
    comm_group_destroy(&before);
    free(text);
    return 0;
}

/* A recording of a step with an odd number of exchanges, played again and again. */
static int case_graph(comm_world *w)
{
    enum { N = 333, OPS = 3 };
    comm_group *g;
    void *input, *output, *slot;
    const float *const *parts;
    int n_parts, n = comm_world_size(w);
    static float y[OPS][N];
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    if (make(w, &g))
        return 1;
    CHECK_CUDA(cudaMalloc(&input, N * sizeof(float)));
    CHECK_CUDA(cudaMalloc(&output, sizeof(y)));
    if (exchange_once(w, g, 5, 0, y[0]))
        return 1;
    CHECK_OK(comm_group_align(g));
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int k = 0; k < OPS; k++) {
        comm_device_choose(g, k == 1 ? &exchange : &two_shot);
        CHECK_OK(comm_exchange_begin(g, N * sizeof(float), &slot));
        CHECK_CUDA(cudaMemcpyAsync(slot, input, N * sizeof(float), cudaMemcpyDeviceToDevice, stream));
        CHECK_OK(comm_exchange_end(g, N * sizeof(float), &parts, &n_parts));
        CHECK(n_parts == 1);
        CHECK_CUDA(cudaMemcpyAsync((float *)output + k * N, parts[0], N * sizeof(float), cudaMemcpyDeviceToDevice, stream));
    }
    CHECK_OK(comm_group_align(g));
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    CHECK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CHECK_CUDA(cudaGraphDestroy(graph));
    for (unsigned round = 0; round < 6; round++) {
        float *x = fill(comm_world_rank(w), N, round);
        if (up(input, x, N * sizeof(float)))
            return 1;
        free(x);
        CHECK_CUDA(cudaGraphLaunch(exec, stream));
        if (round == 3 && exchange_once(w, g, 40, 1, y[0])) /* others in between */
            return 1;
        if (round == 3)
            CHECK_OK(comm_group_align(g));
        if (down(y, output, sizeof(y)))
            return 1;
        for (int k = 0; k < OPS; k++)
            for (size_t i = 0; i < N; i++)
                CHECK(same(y[k][i], expected(w, n, i, round)));
    }
    CHECK_CUDA(cudaGraphExecDestroy(exec));
    CHECK_CUDA(cudaFree(input));
    CHECK_CUDA(cudaFree(output));
    CHECK_OK(comm_group_check(g));
    comm_group_destroy(&g);
    return 0;
}

/* Without NCCL, without peer memory, without both, on one rank or all: what is left serves, or the host. */
static int case_less(comm_world *w)
{
    static float sum[SLOT_FLOATS];
    bool one_host = comm_world_host_size(w) == comm_world_size(w);
    const char *const modes[] = {"ncclGetVersion:1+", "cudaIpcOpenMemHandle:1", "cudaIpcGetMemHandle:1+", "cudaIpcGetMemHandle:1+,ncclGetVersion:1+"};
    for (size_t m = 0; m < ARRAY_LEN(modes); m++) {
        comm_group *g;
        status st;
        if (m != 1 || comm_world_rank(w) == 1)
            cuemu_set("CUEMU_FAIL", modes[m]);
        if (open_group(w, SLOT_FLOATS, m == 0 ? exchange : one_shot, TIMEOUT_MS, &g, &st))
            return 1;
        cuemu_set("CUEMU_FAIL", "");
        cuemu_forget_error();
        bool possible = m != 3 && (m != 0 || one_host);
        CHECK(st == (possible ? ST_OK : ST_UNSUPPORTED));
        CHECK(comm_group_on_device(g) == possible);
        for (size_t s = 0; s < ARRAY_LEN(sizes) && possible; s++) {
            if (exchange_once(w, g, sizes[s], (unsigned)s, sum))
                return 1;
            for (size_t i = 0; i < sizes[s]; i++)
                CHECK(same(sum[i], expected(w, comm_world_size(w), i, (unsigned)s)));
        }
        if (possible && (gather_broadcast(w, g, 9973) || gather_broadcast(w, g, SLOT_FLOATS * sizeof(float) / 2 + 1001))) /* the last in several pieces, where it goes through the slots */
            return 1;
        float one = 1;
        CHECK_OK(comm_all_reduce(g, &one, 1)); /* the host's collectives stay */
        CHECK(one == (float)comm_world_size(w));
        comm_group_destroy(&g);
    }
    return 0;
}

static int case_refusals(comm_world *w)
{
    comm_group *g;
    status st;
    void *slot;
    if (open_group(w, SLOT_FLOATS, comm_world_rank(w) == 1 ? two_shot : one_shot, TIMEOUT_MS, &g, &st))
        return 1;
    CHECK(st == ST_INVALID);
    CHECK(strstr(status_message(), "give all ranks the same options") != NULL);
    comm_group_destroy(&g);
    if (make(w, &g))
        return 1;
    status_mute();
    CHECK(comm_exchange_begin(g, (SLOT_FLOATS + 1000) * sizeof(float), &slot) == ST_INVALID);
    status_unmute();
    comm_group_destroy(&g);
    return 0;
}

static int case_choice(comm_world *w)
{
    char text[64];
    comm_choice c = comm_choice_default(2);
    (void)w;
    CHECK_OK(comm_choice_parse("one-shot=256K,two-shot=8M", &c));
    CHECK(c.one_shot == 256 << 10 && c.two_shot == 8 << 20);
    comm_choice_print(&c, text, sizeof(text));
    CHECK(strcmp(text, "one-shot=256K,two-shot=8M") == 0);
    CHECK_OK(comm_choice_parse("two-shot=max", &c));
    CHECK(c.one_shot == 256 << 10 && c.two_shot == UINT64_MAX);
    comm_choice_print(&c, text, sizeof(text));
    CHECK(strcmp(text, "one-shot=256K,two-shot=max") == 0);
    static const char *const wrong[] = {"one-shot", "one-shot=", "one-shot=-1", "three-shot=1", "one-shot=1 two-shot=2", "one-shot=99999999999G", "one-shot=1T"};
    status_mute();
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        CHECK(comm_choice_parse(wrong[i], &c) == ST_INVALID);
    status_unmute();
    return 0;
}

static const struct {
    const char *name;
    rank_case run;
} cases[] = {
    {"table of sizes", case_choice}, {"exchange", case_exchange}, {"all-reduce", case_all_reduce}, {"in a row", case_in_a_row}, {"halves", case_halves}, {"gather and broadcast", case_gather_broadcast},
    {"stages", case_stages}, {"graph", case_graph}, {"less", case_less}, {"refusals", case_refusals},
};

/* ---- what goes wrong: one rank does it, all others must end in time with a message ---- */

typedef enum fault { KILLED, LEAVES, STAYS_AWAY, VANISHES, ASYNC, INJECTED, ABORTS } fault;
static const char *const faults[] = {"killed", "leaves", "away", "vanish", "async", "inject", "abort"};

/* fail FAULT PATH [CUEMU_FAIL of rank 1]: exchanges until it ends. */
static int fail(comm_world *w, int argc, char **argv)
{
    comm_group *g;
    status st = ST_INVALID;
    static float sum[SLOT_FLOATS];
    int f = 0, me = comm_world_rank(w);
    while (f < (int)ARRAY_LEN(faults) && (argc < 4 || strcmp(argv[2], faults[f]) != 0))
        f++;
    if (f == (int)ARRAY_LEN(faults))
        return 2;
    comm_choice choice = strcmp(argv[3], "one") == 0 ? one_shot : strcmp(argv[3], "two") == 0 ? two_shot : exchange;
    if (me == 1 && argc > 4)
        cuemu_set("CUEMU_FAIL", argv[4]);
    if (open_group(w, SLOT_FLOATS, choice, 1500, &g, &st))
        return 1;
    for (unsigned round = 0; round < 12 && st == ST_OK; round++) {
        void *slot;
        const float *const *parts;
        int n_parts;
        if (me == 1 && round == 5 && f == KILLED)
            kill(getpid(), SIGKILL);
        if (me == 1 && round == 5 && f == LEAVES) {
            comm_world_destroy(&w);
            _exit(0);
        }
        if (me == 1 && round == 5 && f == STAYS_AWAY) {
            nap_us(4000000);
            _exit(0);
        }
        if (me == 1 && round == 5 && f == ABORTS) {
            comm_abort(w, "rank 1 gives up");
            break;
        }
        st = comm_exchange_begin(g, 9999 * sizeof(float), &slot);
        if (st == ST_OK && cudaMemcpyAsync(slot, sum, 9999 * sizeof(float), cudaMemcpyHostToDevice, stream) != cudaSuccess)
            break;
        if (st == ST_OK)
            st = comm_exchange_end(g, 9999 * sizeof(float), &parts, &n_parts);
        if (st == ST_OK && cudaStreamSynchronize(stream) != cudaSuccess)
            st = ST_INTERNAL;
        if (st == ST_OK)
            st = comm_group_check(g);
    }
    char text[1024];
    snprintf(text, sizeof(text), "%s", status_message());
    fprintf(stderr, "RANK %d ENDS: %s: %s\n", me, status_text(st), text);
    if (st != ST_OK && st != ST_ABORTED)
        comm_abort(w, text);
    comm_group_destroy(&g);
    (void)cudaStreamDestroy(stream);
    fprintf(stderr, "RANK %d LEAVES %zu\n", me, cuemu_live());
    comm_world_destroy(&w);
    return st == ST_OK ? 0 : 3;
}

int main(int argc, char **argv)
{
    comm_world *w;
    int failed = 0, launched, rank;
    if (argc > 2 && strcmp(argv[1], "hosts") == 0)
        setenv("TRIREME_TEST_HOSTS", argv[2], 1);
    if (!comm_launched(&launched, &rank)) {
        puts("skipped: run it under mpirun");
        return 77;
    }
    if (comm_world_mpi(0, &w) != ST_OK || cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess)
        return 1;
    if (argc > 1 && strcmp(argv[1], "fail") == 0)
        return fail(w, argc, argv);
    for (size_t i = 0; i < ARRAY_LEN(cases) && !failed; i++) {
        failed = cases[i].run(w);
        if (failed)
            comm_abort(w, cases[i].name);
        else if (rank == 0)
            printf("ok: %s on %d ranks\n", cases[i].name, launched);
    }
    (void)cudaStreamDestroy(stream);
    if (!failed && cuemu_live() != 0) {
        fprintf(stderr, "rank %d leaves %zu allocations\n", rank, cuemu_live());
        failed = 1;
    }
    comm_world_destroy(&w);
    return failed;
}
