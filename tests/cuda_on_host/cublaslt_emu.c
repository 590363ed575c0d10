/* tests/cuda_on_host/cublaslt_emu.c - as much of cuBLASLt as the backend uses: bf16 times bf16 or fp8 times fp8 to f32, w transposed.  EMULATED, for tests only.
 *
 * A product runs where its stream is run (cuemu_stream_call), so it may also be captured.  Its sums along k have eight lanes and a tree, an order of their own.  What the
 * library would read or write out of bounds, or answer by a wrong result, is a fault: all of A, B and D is looked at, tiles that are padded too.
 *
 * The heuristic knows a few algorithms and honours the preferences.  CUBLASLT_EMU, read at cublasLtCreate, makes it a library that
 *   missing   is not there               none    knows no algorithm
 *   cut       knows only algorithms that cut k (split-k), whatever was preferred
 *   stream    wants workspace for some numbers of rows, as stream-k would
 *   rows      sums backwards from so many rows on (what the check at start-up is there to find)
 *   place     sums backwards in one row of a tile
 *   values    gets products of fp8 wrong, the same in every batch
 * Failures by CUEMU_FAIL: each function by its name. */
#include <cublasLt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "tests/cuda_on_host/cuemu_api.h"

#define MAGIC 0x656d754c74u

typedef enum behaviour { SOUND, MISSING, NONE, CUT, STREAM, ROWS, PLACE, VALUES, BEHAVIOURS } behaviour;

typedef struct layout {
    uint32_t type;
    uint64_t rows, cols;
    int64_t ld;
} layout;
typedef struct description {
    int32_t compute, scale, transpose_a;
} description;
typedef struct preference {
    uint64_t workspace;
    uint32_t reductions, alignment[4];
} preference;
struct cublasLtContext {
    behaviour how;
};

static behaviour behaviour_now(void)
{
    static const char *const names[BEHAVIOURS] = {"", "missing", "none", "cut", "stream", "rows", "place", "values"};
    const char *v = getenv("CUBLASLT_EMU");
    for (int i = 0; i < BEHAVIOURS; i++)
        if (strcmp(v != NULL ? v : "", names[i]) == 0)
            return (behaviour)i;
    cuemu_fault("CUBLASLT_EMU=%s: unknown", v);
}

/* The call of this name, by injection. */
static bool fails(const char *name, cublasStatus_t *r)
{
    int code = CUBLAS_STATUS_INTERNAL_ERROR;
    if (!cuemu_injected(name, &code))
        return false;
    *r = (cublasStatus_t)code;
    return true;
}
#define INJECT()                  \
    do {                          \
        cublasStatus_t r_;        \
        if (fails(__func__, &r_)) \
            return r_;            \
    } while (0)

/* What fails to be destroyed is gone all the same. */
static cublasStatus_t gone(const char *name, void *p)
{
    cublasStatus_t r = CUBLAS_STATUS_SUCCESS;
    (void)fails(name, &r);
    free(p);
    return r;
}

static cublasStatus_t make(size_t bytes, void **out)
{
    *out = calloc(1, bytes);
    return *out != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

static cublasStatus_t take(void *to, size_t bytes, const void *from, size_t given)
{
    if (from == NULL || given != bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- objects ---- */

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    void *p = NULL;
    *out = NULL;
    INJECT();
    cublasStatus_t r = make(sizeof(struct cublasLtContext), &p);
    *out = p;
    if (p != NULL)
        (*out)->how = behaviour_now();
    return r;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    return gone(__func__, h);
}

size_t cublasLtGetVersion(void)
{
    return behaviour_now() == MISSING ? 0 : CUBLAS_VERSION;
}

const char *cublasLtGetStatusName(cublasStatus_t r)
{
    return r == CUBLAS_STATUS_SUCCESS           ? "CUBLAS_STATUS_SUCCESS"
           : r == CUBLAS_STATUS_INVALID_VALUE    ? "CUBLAS_STATUS_INVALID_VALUE"
           : r == CUBLAS_STATUS_NOT_SUPPORTED    ? "CUBLAS_STATUS_NOT_SUPPORTED"
           : r == CUBLAS_STATUS_ALLOC_FAILED     ? "CUBLAS_STATUS_ALLOC_FAILED"
           : r == CUBLAS_STATUS_EXECUTION_FAILED ? "CUBLAS_STATUS_EXECUTION_FAILED"
                                                 : "CUBLAS_STATUS_INTERNAL_ERROR";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale)
{
    void *p = NULL;
    *out = NULL;
    INJECT();
    cublasStatus_t r = make(sizeof(description), &p);
    if (p != NULL)
        *(description *)p = (description){(int32_t)compute, (int32_t)scale, CUBLAS_OP_N};
    *out = p;
    return r;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    return gone(__func__, d);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, const void *from, size_t bytes)
{
    INJECT();
    if (what != CUBLASLT_MATMUL_DESC_TRANSA)
        cuemu_fault("cuBLASLt: attribute %d of a product is not emulated", (int)what);
    return take(&((description *)(void *)d)->transpose_a, sizeof(int32_t), from, bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld)
{
    void *p = NULL;
    *out = NULL;
    INJECT();
    cublasStatus_t r = make(sizeof(layout), &p);
    if (p != NULL)
        *(layout *)p = (layout){(uint32_t)type, rows, cols, ld};
    *out = p;
    return r;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    return gone(__func__, l);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t at, cublasLtMatrixLayoutAttribute_t what, const void *from, size_t bytes)
{
    layout *l = (layout *)(void *)at;
    INJECT();
    switch (what) {
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return take(&l->rows, sizeof(l->rows), from, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return take(&l->cols, sizeof(l->cols), from, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return take(&l->ld, sizeof(l->ld), from, bytes);
    default:
        cuemu_fault("cuBLASLt: attribute %d of a matrix is not emulated", (int)what);
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    void *p = NULL;
    *out = NULL;
    INJECT();
    cublasStatus_t r = make(sizeof(preference), &p);
    if (p != NULL)
        *(preference *)p = (preference){0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    *out = p;
    return r;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    return gone(__func__, p);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t at, cublasLtMatmulPreferenceAttributes_t what, const void *from, size_t bytes)
{
    preference *p = (preference *)(void *)at;
    INJECT();
    switch (what) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return take(&p->workspace, sizeof(p->workspace), from, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return take(&p->reductions, sizeof(p->reductions), from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return take(&p->alignment[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], sizeof(uint32_t), from, bytes);
    default:
        cuemu_fault("cuBLASLt: preference %d is not emulated", (int)what);
    }
}

/* ---- algorithms ---- */

typedef struct algorithm { /* what cublasLtMatmulAlgo_t holds here */
    uint64_t magic;
    int32_t id, split;
    uint32_t tile, reduction, stages;
    uint32_t workspace;
} algorithm;
_Static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t), "it fits");

/* As it would be, the fastest first; the last two serve. */
static const algorithm algorithms[] = {
    {MAGIC, 21, 4, CUBLASLT_MATMUL_TILE_64x64, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 3, 1 << 20},
    {MAGIC, 66, 1, CUBLASLT_MATMUL_TILE_128x128, CUBLASLT_REDUCTION_SCHEME_NONE, 4, 4096},
    {MAGIC, 67, 2, CUBLASLT_MATMUL_TILE_64x64, CUBLASLT_REDUCTION_SCHEME_INPLACE, 4, 0},
    {MAGIC, 31, 1, CUBLASLT_MATMUL_TILE_128x256, CUBLASLT_REDUCTION_SCHEME_NONE, 4, 0},
    {MAGIC, 32, 1, CUBLASLT_MATMUL_TILE_128x32, CUBLASLT_REDUCTION_SCHEME_NONE, 5, 0},
    {MAGIC, 33, 1, CUBLASLT_MATMUL_TILE_64x32, CUBLASLT_REDUCTION_SCHEME_NONE, 2, 0},
};
enum { N_ALGORITHMS = sizeof(algorithms) / sizeof(algorithms[0]), TILE = 32 };

static bool is_cut(const algorithm *a)
{
    return a->split > 1;
}

static size_t element(const layout *l)
{
    return l->type == CUDA_R_8F_E4M3 ? 1 : 2;
}

/* The layouts fit each other and the product is one of those that are emulated. */
static cublasStatus_t check(const description *d, const layout *a, const layout *b, const layout *c, const layout *y)
{
    if (d->compute != CUBLAS_COMPUTE_32F || d->scale != CUDA_R_32F || d->transpose_a != CUBLAS_OP_T || (a->type != CUDA_R_16BF && a->type != CUDA_R_8F_E4M3) || b->type != a->type || c->type != CUDA_R_32F ||
        y->type != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a->rows == 0 || a->cols == 0 || b->cols == 0 || a->rows != b->rows || y->rows != a->cols || y->cols != b->cols || c->rows != y->rows || c->cols != y->cols ||
        a->ld < (int64_t)a->rows || b->ld < (int64_t)b->rows || y->ld < (int64_t)y->rows)
        return CUBLAS_STATUS_INVALID_VALUE;
    const int64_t aligned = 16 / (int64_t)element(a);
    return a->ld % aligned == 0 && b->ld % aligned == 0 && y->ld % 4 == 0 && (aligned == 8 || a->rows % 16 == 0) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

static uint32_t workspace_of(behaviour how, const algorithm *a, uint64_t rows)
{
    return how == STREAM && rows == TILE ? 512 : a->workspace;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t y, cublasLtMatmulPreference_t prefer, int room, cublasLtMatmulHeuristicResult_t out[], int *n)
{
    const preference *p = (const preference *)(void *)prefer;
    *n = 0;
    INJECT();
    if (room < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t r = check((const description *)(void *)d, (const layout *)(void *)a, (const layout *)(void *)b, (const layout *)(void *)c, (const layout *)(void *)y);
    if (r != CUBLAS_STATUS_SUCCESS || h->how == NONE)
        return r != CUBLAS_STATUS_SUCCESS ? r : CUBLAS_STATUS_NOT_SUPPORTED;
    memset(out, 0xee, (size_t)room * sizeof(*out));
    out[(*n)++].state = CUBLAS_STATUS_NOT_SUPPORTED; /* of which nothing else may be looked at */
    for (int i = 0; i < N_ALGORITHMS && *n < room; i++) {
        const algorithm *g = &algorithms[i];
        bool preferred = g->workspace <= p->workspace && (g->reduction & ~p->reductions) == 0 && p->alignment[0] <= 64 && p->alignment[1] <= 64 && p->alignment[3] <= 64;
        if (h->how == CUT ? !is_cut(g) : !preferred)
            continue;
        cublasLtMatmulHeuristicResult_t *o = &out[(*n)++];
        memset(o, 0, sizeof(*o));
        memcpy(&o->algo, g, sizeof(*g));
        o->workspaceSize = g->workspace;
        o->state = CUBLAS_STATUS_SUCCESS;
    }
    return CUBLAS_STATUS_SUCCESS;
}

static algorithm algorithm_of(const cublasLtMatmulAlgo_t *at)
{
    algorithm a;
    memcpy(&a, at, sizeof(a));
    if (a.magic != MAGIC)
        cuemu_fault("cuBLASLt: an algorithm that the heuristic never gave");
    return a;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *out)
{
    INJECT();
    algorithm g = algorithm_of(algo);
    const layout *x = (const layout *)(void *)b;
    memset(out, 0, sizeof(*out));
    out->workspaceSize = workspace_of(h->how, &g, x->cols);
    return check((const description *)(void *)d, (const layout *)(void *)a, x, (const layout *)(void *)c, (const layout *)(void *)y);
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *at, cublasLtMatmulAlgoConfigAttributes_t what, void *to, size_t bytes, size_t *written)
{
    INJECT();
    algorithm a = algorithm_of(at);
    bool narrow = what == CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID || what == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID;
    uint32_t v = what == CUBLASLT_ALGO_CONFIG_ID                 ? (uint32_t)a.id
                 : what == CUBLASLT_ALGO_CONFIG_TILE_ID          ? a.tile
                 : what == CUBLASLT_ALGO_CONFIG_SPLITK_NUM       ? (uint32_t)a.split
                 : what == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME ? a.reduction
                 : what == CUBLASLT_ALGO_CONFIG_STAGES_ID        ? a.stages
                                                                 : 0;
    uint16_t v16 = (uint16_t)v;
    *written = narrow ? 2 : 4;
    if (bytes != *written)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, narrow ? (const void *)&v16 : (const void *)&v, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the product ---- */

typedef struct job {
    behaviour how;
    layout a, b, y;
    const char *w, *x;
    float *out;
    float alpha, beta;
} job;

/* A matrix's columns as numbers, each read once and under the sanitizers' eyes: [cols][rows], to be freed. */
static float *numbers_of(const char *p, const layout *l)
{
    const size_t bytes = element(l);
    float *out = malloc((size_t)(l->cols * l->rows) * sizeof(*out));
    if (out == NULL)
        cuemu_fault("cuBLASLt: no memory for a product of %llu columns", (unsigned long long)l->cols);
    for (uint64_t c = 0; c < l->cols; c++) {
        for (uint64_t i = 0; i < l->rows; i++) {
            const char *at = p + (c * (uint64_t)l->ld + i) * bytes;
            uint16_t bits = 0;
            if (bytes == 2)
                memcpy(&bits, at, 2);
            out[c * l->rows + i] = bytes == 1 ? half_e4m3_to_f32((uint8_t)*at) : half_bf16_to_f32(bits);
        }
    }
    return out;
}

/* Over this call's own copies, which no other thread can touch: ThreadSanitizer need not watch them. */
__attribute__((no_sanitize("thread"))) static float dot(const float *w, const float *x, uint64_t k, bool backwards)
{
    float lane[8] = {0};
    for (uint64_t i = 0; i < k; i++) {
        uint64_t at = backwards ? k - 1 - i : i;
        lane[at % 8] += w[at] * x[at];
    }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static void job_run(void *arg)
{
    const job *j = arg;
    const uint64_t k = j->a.rows;
    float *w = numbers_of(j->w, &j->a), *x = numbers_of(j->x, &j->b);
    for (uint64_t m = 0; m < j->b.cols; m++) {
        bool backwards = (j->how == ROWS && j->b.cols >= 3 * TILE) || (j->how == PLACE && m % TILE == 5);
        for (uint64_t n = 0; n < j->a.cols; n++) {
            float *y = &j->out[m * (uint64_t)j->y.ld + n];
            uint64_t from = j->how == VALUES && element(&j->a) == 1 ? j->a.cols - 1 - n : n;
            float v = j->alpha * dot(w + from * k, x + m * k, k, backwards);
            *y = j->beta != 0 ? v + j->beta * *y : v;
        }
    }
    free(w);
    free(x);
}

static void check_memory(const char *name, const void *p, const layout *l, size_t element)
{
    const char *last = (const char *)p + ((l->cols - 1) * (uint64_t)l->ld + l->rows) * element - 1;
    if (cuemu_memory_kind(p) != 1 || cuemu_memory_kind(last) != 1)
        cuemu_fault("cuBLASLt: %s, [%llu, %llu] at %p, is not all in the device's memory", name, (unsigned long long)l->cols, (unsigned long long)l->rows, p);
    if ((uintptr_t)p % 16 != 0)
        cuemu_fault("cuBLASLt: %s at %p is not aligned to 16 bytes", name, p);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha, const void *w, cublasLtMatrixLayout_t a, const void *x, cublasLtMatrixLayout_t b, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *out, cublasLtMatrixLayout_t y, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream)
{
    const layout *la = (const layout *)(void *)a, *lb = (const layout *)(void *)b, *ly = (const layout *)(void *)y;
    INJECT();
    cublasStatus_t r = check((const description *)(void *)d, la, lb, (const layout *)(void *)c_layout, ly);
    if (r != CUBLAS_STATUS_SUCCESS)
        return r;
    if (algo == NULL)
        cuemu_fault("cuBLASLt: a product without an algorithm: the library would choose one by the number of rows");
    algorithm g = algorithm_of(algo);
    if (workspace_of(h->how, &g, lb->cols) > workspace_bytes || (workspace == NULL && workspace_bytes > 0))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (is_cut(&g))
        cuemu_fault("cuBLASLt: an algorithm that cuts k is used");
    if (lb->cols % TILE != 0)
        cuemu_fault("cuBLASLt: %llu rows are not whole tiles", (unsigned long long)lb->cols);
    if (c != out)
        cuemu_fault("cuBLASLt: C apart from D is not emulated");
    check_memory("A", w, la, element(la));
    check_memory("B", x, lb, element(lb));
    check_memory("D", out, ly, sizeof(float));
    job *j = malloc(sizeof(*j));
    if (j == NULL)
        return CUBLAS_STATUS_ALLOC_FAILED;
    *j = (job){h->how, *la, *lb, *ly, w, x, out, *(const float *)alpha, *(const float *)beta};
    cuemu_stream_call(stream, job_run, j, free, false);
    return CUBLAS_STATUS_SUCCESS;
}
