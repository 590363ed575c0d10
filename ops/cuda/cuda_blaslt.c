/* ops/cuda/cuda_blaslt.c - products of large bf16 and fp8 weights by cuBLASLt, where it gives the same bits in every batch.
 *
 * Per shape (N outputs, K inputs) and type one algorithm is fixed when the first such weight is declared ready, and from then on it multiplies by all weights of that shape,
 * one row or thousands: the order of its sums may depend on nothing else.  Hence
 *   - no sum is cut over blocks.  Split-k is an attribute of an algorithm, and refused; no attribute names stream-k, but what is cut needs room for its parts, so the
 *     workspace is fixed to none and an algorithm that asks for any is refused;
 *   - the number of rows is a multiple of the tile's: what lies behind the last row may be anything, and its results go to a scratch nobody reads;
 *   - it is checked at start-up: rows at several places of the largest batch against the same rows in smaller ones, down to one tile, all bits equal.
 * Where that fails the own kernels multiply by weights of the shape, and a line in the log says so.  What was chosen is part of the numerics id.
 *
 *   y^T [N, rows] = w^T x^T in cuBLAS's column-major terms: A is w [N][K] transposed, B is x [rows][K], D is y [rows][N]
 *
 * A weight is packed when it comes (base/packed.h) and turned to rows in place, panel by panel.  The library is found at run time, as NCCL is.
 *
 * fp8 (E4M3) wants fp8 of both sides: each row of x is divided by a scale of its own, its largest element over 448, whatever its batch.  The library multiplies the codes alone; what
 * adds the bias multiplies by the scales of row and output first, so that no mode of scales of the library's is needed.  Hence only weights with one scale an output, as files have
 * them by row or by tensor; blocks of scales along k are the own kernels'.  Devices before 8.9 cannot. */
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/cuda/cuda_internal.h"
#include "ops/cuda/cuda_library.h"

#define LARGE ((int64_t)4 << 20)    /* elements of a weight: below, a launch takes about as long as the product (a guess, unmeasured) */
#define MOST_TILE_ROWS 128          /* a step of one row computes so many: beyond, the product would be bound by that */
#define MOST_Y ((int64_t)128 << 20) /* bytes of one product */
#define MOST_PART ((int64_t)32 << 20) /* bytes of scratch, or one tile's rows */
#define ALGORITHMS 32               /* asked of the library */

typedef struct blaslt_api { /* of libcublasLt.so, or of what emulates it */
    cublasStatus_t (*Create)(cublasLtHandle_t *);
    cublasStatus_t (*Destroy)(cublasLtHandle_t);
    size_t (*GetVersion)(void);
    const char *(*GetStatusName)(cublasStatus_t);
    cublasStatus_t (*MatmulDescCreate)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*MatmulDescDestroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*MatmulDescSetAttribute)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t (*MatrixLayoutCreate)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*MatrixLayoutDestroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*MatrixLayoutSetAttribute)(cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, const void *, size_t);
    cublasStatus_t (*MatmulPreferenceCreate)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*MatmulPreferenceDestroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*MatmulPreferenceSetAttribute)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *, size_t);
    cublasStatus_t (*MatmulAlgoGetHeuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                             cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t *, int *);
    cublasStatus_t (*MatmulAlgoCheck)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                      const cublasLtMatmulAlgo_t *, cublasLtMatmulHeuristicResult_t *);
    cublasStatus_t (*MatmulAlgoConfigGetAttribute)(const cublasLtMatmulAlgo_t *, cublasLtMatmulAlgoConfigAttributes_t, void *, size_t, size_t *);
    cublasStatus_t (*Matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t, const void *, cublasLtMatrixLayout_t, const void *, const void *,
                             cublasLtMatrixLayout_t, void *, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t);
} blaslt_api;

typedef struct config { /* what an algorithm is, for log and numerics id */
    int32_t id, split;
    uint32_t tile, reduction, swizzle, custom, stages;
    uint16_t inner, cluster;
} config;

struct cuda_gemm { /* one shape */
    packed_type type; /* bf16 or fp8 */
    int32_t n, k;
    bool taken; /* else the own kernels multiply */
    cublasLtMatmulAlgo_t algo;
    config config;
    int32_t tile; /* rows of x */
    int32_t most; /* rows of one product, whole tiles */
    int32_t part; /* rows that go through the scratch at a time, whole tiles */
    int64_t stride; /* floats of a row there */
    cuda_gemm *next;
};

typedef struct cuda_blaslt {
    const blaslt_api *api;
    const char *call; /* the last one, for messages */
    bool every;       /* shapes however small */
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w[2], x[2], y; /* bf16 and fp8; their sizes are set before each call */
    cublasLtMatmulPreference_t preference;
    cuda_gemm *gemms;
    int n_gemms, n_taken;
    uint64_t digest; /* of what was taken, in any order */
    size_t described, named; /* length of the context's texts without us */
} cuda_blaslt;

/* A call, whose name a message may want. */
#define LT(b, f, ...) ((b)->call = "cublasLt" #f, (b)->api->f(__VA_ARGS__))

/* ---- the library ---- */

#ifdef CUDA_EMULATED
static const blaslt_api *load(char *why, size_t why_bytes)
{
    static const blaslt_api api = {cublasLtCreate, cublasLtDestroy, cublasLtGetVersion, cublasLtGetStatusName, cublasLtMatmulDescCreate, cublasLtMatmulDescDestroy,
                                   cublasLtMatmulDescSetAttribute, cublasLtMatrixLayoutCreate, cublasLtMatrixLayoutDestroy, cublasLtMatrixLayoutSetAttribute,
                                   cublasLtMatmulPreferenceCreate, cublasLtMatmulPreferenceDestroy, cublasLtMatmulPreferenceSetAttribute, cublasLtMatmulAlgoGetHeuristic,
                                   cublasLtMatmulAlgoCheck, cublasLtMatmulAlgoConfigGetAttribute, cublasLtMatmul};
    if (api.GetVersion() != 0)
        return &api;
    snprintf(why, why_bytes, "the stand-in is told to be missing");
    return NULL;
}
#else
#define SYMBOL(f) {"cublasLt" #f, offsetof(blaslt_api, f)}
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

static const blaslt_api *load(char *why, size_t why_bytes)
{
    static const cuda_symbol symbols[] = {SYMBOL(Create), SYMBOL(Destroy), SYMBOL(GetVersion), SYMBOL(GetStatusName), SYMBOL(MatmulDescCreate), SYMBOL(MatmulDescDestroy),
                                          SYMBOL(MatmulDescSetAttribute), SYMBOL(MatrixLayoutCreate), SYMBOL(MatrixLayoutDestroy), SYMBOL(MatrixLayoutSetAttribute),
                                          SYMBOL(MatmulPreferenceCreate), SYMBOL(MatmulPreferenceDestroy), SYMBOL(MatmulPreferenceSetAttribute), SYMBOL(MatmulAlgoGetHeuristic),
                                          SYMBOL(MatmulAlgoCheck), SYMBOL(MatmulAlgoConfigGetAttribute), SYMBOL(Matmul)};
    static blaslt_api api;
    return cuda_library_load("libcublasLt.so." TEXT(CUBLAS_VER_MAJOR), "12.0", symbols, ARRAY_LEN(symbols), &api, why, why_bytes) ? &api : NULL;
}
#endif

/* ---- life ---- */

static cublasStatus_t objects_create(cuda_blaslt *b)
{
    const int32_t transposed = CUBLAS_OP_T;
    const uint64_t no_workspace = 0;
    const uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = 16;
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                                   CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const struct {
        cublasLtMatrixLayout_t *to;
        cudaDataType type;
    } layouts[] = {{&b->w[0], CUDA_R_16BF}, {&b->x[0], CUDA_R_16BF}, {&b->w[1], CUDA_R_8F_E4M3}, {&b->x[1], CUDA_R_8F_E4M3}, {&b->y, CUDA_R_32F}};
    cublasStatus_t r = LT(b, Create, &b->handle);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = LT(b, MatmulDescCreate, &b->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = LT(b, MatmulDescSetAttribute, b->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    for (size_t i = 0; i < ARRAY_LEN(layouts) && r == CUBLAS_STATUS_SUCCESS; i++)
        r = LT(b, MatrixLayoutCreate, layouts[i].to, layouts[i].type, 16, 16, 16);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = LT(b, MatmulPreferenceCreate, &b->preference);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = LT(b, MatmulPreferenceSetAttribute, b->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &no_workspace, sizeof(no_workspace));
    if (r == CUBLAS_STATUS_SUCCESS)
        r = LT(b, MatmulPreferenceSetAttribute, b->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_reduction, sizeof(no_reduction));
    for (size_t i = 0; i < ARRAY_LEN(aligned) && r == CUBLAS_STATUS_SUCCESS; i++)
        r = LT(b, MatmulPreferenceSetAttribute, b->preference, aligned[i], &alignment, sizeof(alignment));
    return r;
}

void cuda_blaslt_destroy(ops_ctx *ctx)
{
    cuda_blaslt *b = ctx->blaslt;
    if (b == NULL)
        return;
    ctx->blaslt = NULL;
    cublasLtMatrixLayout_t const layouts[] = {b->w[0], b->x[0], b->w[1], b->x[1], b->y};
    if (b->preference != NULL)
        (void)b->api->MatmulPreferenceDestroy(b->preference);
    for (size_t i = 0; i < ARRAY_LEN(layouts); i++)
        if (layouts[i] != NULL)
            (void)b->api->MatrixLayoutDestroy(layouts[i]);
    if (b->desc != NULL)
        (void)b->api->MatmulDescDestroy(b->desc);
    if (b->handle != NULL)
        (void)b->api->Destroy(b->handle);
    while (b->gemms != NULL) {
        cuda_gemm *g = b->gemms;
        b->gemms = g->next;
        free(g);
    }
    free(b);
}

status cuda_blaslt_create(ops_ctx *ctx, const char *gemm)
{
    char why[256] = "";
    bool every = strcmp(gemm, "cublaslt") == 0;
    cuda_blaslt *b;
    if (strcmp(gemm, "own") == 0)
        return ST_OK;
    TRY(mem_calloc(1, sizeof(*b), "cuBLASLt", &b));
    ctx->blaslt = b;
    b->every = every;
    b->described = strlen(ctx->description);
    b->named = strlen(ctx->numerics_name);
    b->api = load(why, sizeof(why));
    cublasStatus_t r = b->api != NULL ? objects_create(b) : CUBLAS_STATUS_SUCCESS;
    if (r != CUBLAS_STATUS_SUCCESS)
        snprintf(why, sizeof(why), "%s: %s", b->call, b->api->GetStatusName(r));
    if (why[0] == '\0')
        return ST_OK;
    if (b->api == NULL) { /* nothing to take back */
        free(b);
        ctx->blaslt = NULL;
    }
    cuda_blaslt_destroy(ctx);
    if (every)
        return FAIL(ST_UNSUPPORTED, "no cuBLASLt: %s; --gemm own computes without it", why);
    log_info("bf16 products by the own kernels, since there is no cuBLASLt: %s", why);
    return ST_OK;
}

/* ---- one product ---- */

static cublasStatus_t layout_set(cuda_blaslt *b, cublasLtMatrixLayout_t l, int64_t rows, int64_t cols, int64_t ld)
{
    const uint64_t r = (uint64_t)rows, c = (uint64_t)cols;
    cublasStatus_t s = LT(b, MatrixLayoutSetAttribute, l, CUBLASLT_MATRIX_LAYOUT_ROWS, &r, sizeof(r));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = LT(b, MatrixLayoutSetAttribute, l, CUBLASLT_MATRIX_LAYOUT_COLS, &c, sizeof(c));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = LT(b, MatrixLayoutSetAttribute, l, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof(ld));
    return s;
}

bool cuda_gemm_is_f8(const cuda_gemm *g)
{
    return g->type == PACKED_F8;
}

/* Bytes of an element of w and x. */
static int32_t element(const cuda_gemm *g)
{
    return cuda_gemm_is_f8(g) ? 1 : 2;
}

/* Strides in elements. */
static cublasStatus_t sizes_set(cuda_blaslt *b, const cuda_gemm *g, int32_t rows, int64_t x_stride, int64_t y_stride)
{
    cublasStatus_t r = layout_set(b, b->w[cuda_gemm_is_f8(g)], g->k, g->n, g->k);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = layout_set(b, b->x[cuda_gemm_is_f8(g)], g->k, rows, x_stride);
    return r == CUBLAS_STATUS_SUCCESS ? layout_set(b, b->y, g->n, rows, y_stride) : r;
}

/* rows: whole tiles. */
static cublasStatus_t multiply(cuda_blaslt *b, const cuda_gemm *g, const void *w, const void *x, int64_t x_stride, int32_t rows, float *y, int64_t y_stride, cudaStream_t s)
{
    const float one = 1, zero = 0;
    cublasStatus_t r = sizes_set(b, g, rows, x_stride, y_stride);
    if (r != CUBLAS_STATUS_SUCCESS)
        return r;
    return LT(b, Matmul, b->handle, b->desc, &one, w, b->w[cuda_gemm_is_f8(g)], x, b->x[cuda_gemm_is_f8(g)], &zero, y, b->y, y, b->y, &g->algo, NULL, 0, s);
}

/* ---- which algorithm ---- */

/* Columns of cuBLASLt's tiles, which are rows of x, by the tile's number. */
static const int16_t tile_columns[] = {
#include "ops/cuda/blaslt_tiles.h"
};

static cublasStatus_t config_get(cuda_blaslt *b, const cublasLtMatmulAlgo_t *algo, config *c)
{
    const struct {
        cublasLtMatmulAlgoConfigAttributes_t attribute;
        void *to;
        size_t bytes;
    } all[] = {{CUBLASLT_ALGO_CONFIG_ID, &c->id, 4},
               {CUBLASLT_ALGO_CONFIG_TILE_ID, &c->tile, 4},
               {CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &c->split, 4},
               {CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &c->reduction, 4},
               {CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, &c->swizzle, 4},
               {CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &c->custom, 4},
               {CUBLASLT_ALGO_CONFIG_STAGES_ID, &c->stages, 4},
               {CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, &c->inner, 2},
               {CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &c->cluster, 2}};
    memset(c, 0, sizeof(*c));
    cublasStatus_t r = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < ARRAY_LEN(all) && r == CUBLAS_STATUS_SUCCESS; i++) {
        size_t written;
        r = LT(b, MatmulAlgoConfigGetAttribute, algo, all[i].attribute, all[i].to, all[i].bytes, &written);
    }
    return r;
}

/* Whether this algorithm's sums have one order. */
static bool serves(const cublasLtMatmulHeuristicResult_t *h, const config *c, int32_t *tile)
{
    *tile = c->tile < ARRAY_LEN(tile_columns) ? tile_columns[c->tile] : 0;
    return h->workspaceSize == 0 && c->split <= 1 && c->reduction == CUBLASLT_REDUCTION_SCHEME_NONE && *tile > 0 && *tile <= MOST_TILE_ROWS;
}

static int32_t whole(int64_t rows, int32_t tile)
{
    return (int32_t)((rows + tile - 1) / tile * tile);
}

/* Rows of so many bytes, whole tiles, at least `least` and at most what holds the context's rows (or `least`). */
static int32_t rows_of(const ops_ctx *ctx, const cuda_gemm *g, int64_t bytes, int32_t least)
{
    int64_t rows = bytes / (g->stride * (int64_t)sizeof(float)) / g->tile * g->tile;
    int32_t all = whole(ctx->max_rows, g->tile);
    rows = rows < all ? rows : all;
    return rows > least ? (int32_t)rows : least;
}

/* The fastest algorithm that serves, by the library's estimate for the largest batch. *found false: none does. */
static cublasStatus_t pick(const ops_ctx *ctx, cuda_gemm *g, bool *found)
{
    cuda_blaslt *b = ctx->blaslt;
    cublasLtMatmulHeuristicResult_t all[ALGORITHMS];
    int n = 0;
    *found = false;
    g->tile = MOST_TILE_ROWS;
    cublasStatus_t r = sizes_set(b, g, rows_of(ctx, g, MOST_Y, g->tile), g->k, g->stride);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = LT(b, MatmulAlgoGetHeuristic, b->handle, b->desc, b->w[cuda_gemm_is_f8(g)], b->x[cuda_gemm_is_f8(g)], b->y, b->y, b->preference, ALGORITHMS, all, &n);
    if (r == CUBLAS_STATUS_NOT_SUPPORTED)
        return CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < n && r == CUBLAS_STATUS_SUCCESS && !*found; i++) {
        if (all[i].state != CUBLAS_STATUS_SUCCESS)
            continue;
        r = config_get(b, &all[i].algo, &g->config);
        *found = r == CUBLAS_STATUS_SUCCESS && serves(&all[i], &g->config, &g->tile);
        g->algo = all[i].algo;
    }
    return r;
}

/* ---- the check ---- */

typedef struct check { /* device memory */
    char *x, *w;       /* w: of bf16 the real one */
    float *all, *some; /* products of the largest batch, and of a smaller one */
    uint32_t *differ;  /* bits; of fp8, [1]: values */
    int64_t x_stride;  /* elements */
} check;

/* A batch of `rows` rows, which are those from `row` on of the largest one.  *r: what the library says. */
static status compare(ops_ctx *ctx, const cuda_gemm *g, const check *c, int32_t row, int32_t rows, cublasStatus_t *r)
{
    cuda_blaslt *b = ctx->blaslt;
    cublasLtMatmulHeuristicResult_t result;
    *r = sizes_set(b, g, rows, c->x_stride, g->stride);
    if (*r == CUBLAS_STATUS_SUCCESS)
        *r = LT(b, MatmulAlgoCheck, b->handle, b->desc, b->w[cuda_gemm_is_f8(g)], b->x[cuda_gemm_is_f8(g)], b->y, b->y, &g->algo, &result);
    if (*r == CUBLAS_STATUS_SUCCESS && result.workspaceSize > 0)
        *r = CUBLAS_STATUS_NOT_SUPPORTED;
    if (*r == CUBLAS_STATUS_SUCCESS)
        *r = multiply(b, g, c->w, c->x + row * c->x_stride * element(g), c->x_stride, rows, c->some, g->stride, ctx->stream);
    if (*r == CUBLAS_STATUS_SUCCESS)
        CUDA_TRY(k_blaslt_compare(c->all + row * g->stride, c->some, g->stride, rows, g->n, c->differ, ctx->stream), "checking cuBLASLt");
    return ST_OK;
}

/* Batches at the start of the largest, in its middle (not at a tile's bounds) and at its end. */
static status compare_all(ops_ctx *ctx, const cuda_gemm *g, const check *c, cublasStatus_t *r)
{
    CUDA_TRY(cudaMemsetAsync(c->differ, 0, 2 * sizeof(*c->differ), ctx->stream), "checking cuBLASLt");
    CUDA_TRY(k_blaslt_numbers(c->x, g->most * c->x_stride, element(g), ctx->stream), "checking cuBLASLt");
    if (cuda_gemm_is_f8(g))
        CUDA_TRY(k_blaslt_numbers(c->w, (int64_t)g->n * g->k, 1, ctx->stream), "checking cuBLASLt");
    *r = multiply(ctx->blaslt, g, c->w, c->x, c->x_stride, g->most, c->all, g->stride, ctx->stream);
    for (int32_t rows = g->tile, last = 0; last < g->most; last = rows, rows = 2 * rows < g->most ? 2 * rows : g->most) {
        const int32_t room = g->most - rows, places[] = {0, room / 2 | 1, room};
        for (size_t i = 0; i < ARRAY_LEN(places) && *r == CUBLAS_STATUS_SUCCESS; i++)
            if (places[i] <= room)
                TRY(compare(ctx, g, c, places[i], rows, r));
    }
    const int32_t rows[] = {0, g->tile - 1, g->most - 1}; /* of fp8 the values too, which nobody has seen on a device yet */
    for (size_t i = 0; i < ARRAY_LEN(rows) && cuda_gemm_is_f8(g) && *r == CUBLAS_STATUS_SUCCESS; i++)
        CUDA_TRY(k_blaslt_near(c->w, c->x + rows[i] * c->x_stride, c->all + rows[i] * g->stride, g->n, g->k, c->differ + 1, ctx->stream), "checking cuBLASLt");
    return ST_OK;
}

/* With the bytes of a real weight; that they are not turned yet matters to nobody.  Those of fp8 would be scales here and there, and no numbers: it gets a weight of its own. */
static status check_run(ops_ctx *ctx, const cuda_gemm *g, void *w, cublasStatus_t *r, bool *differ, bool *wrong)
{
    uint32_t words[2] = {0};
    void *p;
    int64_t x_stride = cuda_gemm_is_f8(g) ? g->k : (int64_t)(ops_row_bytes(OPS_BF16, g->k) / 2);
    size_t x_bytes = mem_align((size_t)(g->most * x_stride * element(g)), 256), y_bytes = mem_align((size_t)(g->most * g->stride) * sizeof(float), 256);
    size_t w_bytes = cuda_gemm_is_f8(g) ? mem_align((size_t)g->n * (size_t)g->k, 256) : 0, bytes = w_bytes + x_bytes + 2 * y_bytes + 256;
    CUDA_TRY(cudaMalloc(&p, bytes), "%zu bytes for checking cuBLASLt", bytes);
    char *x = (char *)p + w_bytes, *y = x + x_bytes;
    check c = {x, cuda_gemm_is_f8(g) ? p : w, (float *)(void *)y, (float *)(void *)(y + y_bytes), (uint32_t *)(void *)(y + 2 * y_bytes), x_stride};
    status st = compare_all(ctx, g, &c, r);
    if (st == ST_OK)
        st = cuda_download(ctx, c.differ, words, sizeof(words), "the check of cuBLASLt");
    if (st == ST_OK)
        st = cuda_sync(ctx);
    if (st != ST_OK)
        (void)cudaStreamSynchronize(ctx->stream);
    cudaError_t freed = cudaFree(p);
    TRY(st);
    CUDA_TRY(freed, "checking cuBLASLt [%d, %d]", g->n, g->k);
    *differ = words[0] != 0;
    *wrong = words[1] != 0;
    return ST_OK;
}

/* ---- shapes ---- */

/* What the context says of itself. */
static void texts_set(ops_ctx *ctx)
{
    const cuda_blaslt *b = ctx->blaslt;
    size_t v = b->api->GetVersion();
    snprintf(ctx->description + b->described, sizeof(ctx->description) - b->described, ", cuBLASLt %zu.%zu.%zu for %d of %d shapes", v / 10000, v / 100 % 100, v % 100, b->n_taken,
             b->n_gemms);
    if (b->n_taken > 0)
        snprintf(ctx->numerics_name + b->named, sizeof(ctx->numerics_name) - b->named, " cuBLASLt %zu %016llx", v, (unsigned long long)b->digest);
}

static uint64_t digest_of(const cuda_gemm *g)
{
    const config *c = &g->config;
    const uint64_t words[] = {(uint64_t)g->type, (uint64_t)g->n, (uint64_t)g->k, (uint64_t)c->id, c->tile, (uint64_t)c->split, c->reduction, c->swizzle, c->custom, c->stages, c->inner,
                              c->cluster};
    uint64_t h = 0;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        h = hash_mix(h + words[i] + 0x9e3779b97f4a7c15u);
    return h;
}

static status gemm_choose(ops_ctx *ctx, cuda_gemm *g, void *w)
{
    cuda_blaslt *b = ctx->blaslt;
    bool found = false, differ = false, wrong = false;
    const char *type = packed_format_of(g->type)->name;
    cublasStatus_t r = pick(ctx, g, &found);
    if (found) {
        g->most = rows_of(ctx, g, MOST_Y, 2 * g->tile);
        g->part = rows_of(ctx, g, MOST_PART, g->tile);
        TRY(check_run(ctx, g, w, &r, &differ, &wrong));
    }
    const config *c = &g->config;
    g->taken = found && r == CUBLAS_STATUS_SUCCESS && !differ && !wrong;
    if (r != CUBLAS_STATUS_SUCCESS)
        log_warn("%s products [%d, %d] by the own kernels: %s fails: %s", type, g->n, g->k, b->call, b->api->GetStatusName(r));
    else if (!found)
        log_info("%s products [%d, %d] by the own kernels: cuBLASLt has no algorithm that does not cut sums", type, g->n, g->k);
    else if (differ || wrong)
        log_warn("%s products [%d, %d] by the own kernels: cuBLASLt's algorithm %d, tile %u, gives %s", type, g->n, g->k, c->id, c->tile,
                 differ ? "a row other bits in another batch" : "other values than it should");
    else
        log_debug("%s products [%d, %d] by cuBLASLt: algorithm %d, tile %u of %d rows, stages %u, custom %u, inner %u, cluster %u; checked up to %d rows", type, g->n, g->k, c->id, c->tile,
                  g->tile, c->stages, c->custom, c->inner, c->cluster, g->most);
    b->n_gemms++;
    b->n_taken += g->taken;
    if (g->taken)
        b->digest += digest_of(g);
    texts_set(ctx);
    return ST_OK;
}

static status gemm_of(ops_ctx *ctx, packed_shape shape, void *w, cuda_gemm **out)
{
    cuda_gemm *g;
    for (g = ctx->blaslt->gemms; g != NULL; g = g->next) {
        if (g->type == shape.type && g->n == shape.rows && g->k == shape.cols) {
            *out = g;
            return ST_OK;
        }
    }
    TRY(mem_calloc(1, sizeof(*g), "cuBLASLt", &g));
    *g = (cuda_gemm){.type = shape.type, .n = shape.rows, .k = shape.cols, .stride = (int64_t)(ops_row_bytes(OPS_F32, shape.rows) / sizeof(float))};
    status st = gemm_choose(ctx, g, w);
    if (st != ST_OK) {
        free(g);
        return st;
    }
    g->next = ctx->blaslt->gemms;
    ctx->blaslt->gemms = g;
    *out = g;
    return ST_OK;
}

/* ---- weights ---- */

/* In place, through the scratch.  Codes of fp8 move up into the room of the scales of panels before theirs, and behind the last one come the rows' scales (bf16: NULL). */
static status turn(ops_ctx *ctx, char *w, const packed_layout *l, int32_t bytes, const float *scales)
{
    int32_t at_once = (int32_t)(ctx->product.bytes / l->panel_bytes);
    size_t codes = (size_t)PACKED_ROWS * (size_t)l->shape.cols * (size_t)bytes, rows = (size_t)l->panels * PACKED_ROWS;
    for (int32_t at = 0; at < l->panels; at += at_once) {
        int32_t n = l->panels - at < at_once ? l->panels - at : at_once;
        CUDA_TRY(cudaMemcpyAsync(ctx->product.p, w + (size_t)at * l->panel_bytes, (size_t)n * l->panel_bytes, cudaMemcpyDeviceToDevice, ctx->stream), "a weight's order");
        CUDA_TRY(k_blaslt_turn(ctx->product.p, (int64_t)l->panel_bytes, w + (size_t)at * codes, n, l->shape.cols, bytes, ctx->stream), "a weight's order");
    }
    if (scales != NULL)
        CUDA_TRY(cudaMemcpyAsync(w + (size_t)l->panels * codes, scales, rows * sizeof(float), cudaMemcpyDeviceToDevice, ctx->stream), "a weight's scales");
    return ST_OK;
}

/* The scales of an fp8 weight's rows, [panels * 16] in the scratch for codes.  *one false: some row has several. */
static status scales_of(ops_ctx *ctx, const ops_weight *w, const packed_layout *l, float **out, bool *one)
{
    size_t rows = (size_t)l->panels * PACKED_ROWS;
    uint32_t word = 0;
    TRY(cuda_block_grow(ctx, &ctx->codes, (rows + 1) * sizeof(float), "scales"));
    *out = ctx->codes.p;
    uint32_t *differ = (uint32_t *)ctx->codes.p + rows;
    gpu_weight g = cuda_weight(w, l);
    CUDA_TRY(cudaMemsetAsync(differ, 0, sizeof(*differ), ctx->stream), "scales");
    CUDA_TRY(k_blaslt_scales(&g, *out, differ, ctx->stream), "scales of a weight [%d, %d]", w->shape.rows, w->shape.cols);
    TRY(cuda_download(ctx, differ, &word, sizeof(word), "scales"));
    TRY(cuda_sync(ctx));
    *one = word == 0;
    return ST_OK;
}

status cuda_weight_ready(ops_ctx *ctx, const ops_weight *w)
{
    packed_layout l;
    cuda_gemm *g;
    bool f8 = w->shape.type == PACKED_F8, one = true;
    float *scales = NULL;
    if (ctx->blaslt == NULL || w->buf == NULL || w->buf->host != NULL || !(w->shape.type == PACKED_BF16 || (f8 && ctx->capability >= 89)))
        return ST_OK;
    if (!packed_layout_of(w->shape, &l) || w->offset % 64 != 0 || w->offset > w->buf->bytes || l.bytes > w->buf->bytes - w->offset)
        return FAIL(ST_INVALID, "a weight [%d, %d] at %zu exceeds its buffer of %zu", w->shape.rows, w->shape.cols, w->offset, w->buf->bytes);
    if (cuda_buf_turned(w->buf, w->offset, l.bytes) != NULL)
        return FAIL(ST_INVALID, "a weight [%d, %d] at %zu is declared ready twice", w->shape.rows, w->shape.cols, w->offset);
    /* Tensor cores want rows at multiples of 16 bytes. */
    if (w->shape.cols % (f8 ? 16 : 8) != 0 || (!ctx->blaslt->every && (int64_t)w->shape.rows * w->shape.cols < LARGE))
        return ST_OK;
    TRY(cuda_enter(ctx));
    char *p = w->buf->p + w->offset;
    if (f8)
        TRY(scales_of(ctx, w, &l, &scales, &one));
    if (!one)
        return ST_OK;
    TRY(gemm_of(ctx, w->shape, p, &g));
    if (!g->taken)
        return ST_OK;
    size_t bytes = (size_t)(g->part * g->stride) * sizeof(float);
    TRY(cuda_block_grow(ctx, &ctx->product, bytes > l.panel_bytes ? bytes : l.panel_bytes, "cuBLASLt's products"));
    TRY(cuda_buf_turn(w->buf, &(cuda_turned){w->offset, l.bytes, w->shape.type, w->shape.rows, w->shape.cols, g}));
    return turn(ctx, p, &l, element(g), scales);
}

/* ---- linear ---- */

int32_t cuda_blaslt_rows(const cuda_gemm *g, int32_t rows)
{
    return whole(rows, g->tile);
}

static size_t codes_bytes(const cuda_gemm *g, int32_t rows)
{
    return (size_t)cuda_blaslt_rows(g, rows) * (size_t)g->k;
}

/* [scale of each row][codes], for the largest tile of those. */
status cuda_blaslt_codes(ops_ctx *ctx, const cuda_product *p, int32_t n_products, const gpu_mat *x, int32_t rows, const int32_t *n)
{
    size_t bytes = 0, scales = mem_align((size_t)rows * sizeof(float), 256);
    for (int32_t i = 0; i < n_products; i++)
        bytes = codes_bytes(p[i].gemm, rows) > bytes ? codes_bytes(p[i].gemm, rows) : bytes;
    if (n_products == 0)
        return ST_OK;
    TRY(cuda_block_grow(ctx, &ctx->codes, scales + bytes, "activations in fp8"));
    if (!ctx->reserving)
        CUDA_TRY(k_blaslt_codes(rows, n, *x, (char *)ctx->codes.p + scales, ctx->codes.p, ctx->stream), "%d rows of %d", rows, x->cols);
    return ST_OK;
}

static status product(ops_ctx *ctx, const cuda_product *p, const gpu_mat *x, int32_t row, int32_t rows, float *y, int64_t y_stride)
{
    cuda_blaslt *b = ctx->blaslt;
    const cuda_gemm *g = p->gemm;
    cublasStatus_t r = multiply(b, g, p->w.p, (const char *)x->p + row * x->stride, x->stride / element(g), rows, y, y_stride, ctx->stream);
    if (r == CUBLAS_STATUS_SUCCESS)
        return ST_OK;
    return FAIL(r == CUBLAS_STATUS_ALLOC_FAILED ? ST_NO_MEMORY : ST_INTERNAL, "%s, [%d, %d] x [%d, %d]^T: %s; --gemm own computes without cuBLASLt", b->call, rows, g->k, g->n, g->k,
                b->api->GetStatusName(r));
}

status cuda_blaslt_linear(ops_ctx *ctx, const cuda_product *p, const gpu_mat *x, int32_t rows, const int32_t *n, bool accumulate)
{
    const cuda_gemm *g = p->gemm;
    gpu_blaslt_add add = {.p = p->y.p, .p_stride = p->y.stride / (int64_t)sizeof(float), .bias = p->bias, .y = p->y, .cols = g->n, .accumulate = accumulate};
    int32_t row = 0, m;
    gpu_mat codes;
    if (cuda_gemm_is_f8(g)) {
        codes = (gpu_mat){(char *)ctx->codes.p + mem_align((size_t)rows * sizeof(float), 256), 0, g->k, g->k};
        x = &codes;
        add.row_scale = ctx->codes.p;
        add.col_scale = (const float *)(const void *)((const char *)p->w.p + (int64_t)p->w.panels * PACKED_ROWS * g->k);
    }
    if (p->straight && n == NULL && !accumulate && !cuda_gemm_is_f8(g)) { /* whole tiles to where they belong */
        for (; rows - row >= g->tile; row += m) {
            m = (rows - row) / g->tile * g->tile;
            m = m < g->most ? m : g->most;
            TRY(product(ctx, p, x, row, m, (float *)(void *)((char *)p->y.p + row * p->y.stride), add.p_stride));
        }
        add.rows = row;
        if (p->bias != NULL)
            CUDA_TRY(k_blaslt_add(NULL, &add, ctx->stream), "%d rows of %d", add.rows, g->n);
    }
    for (add.p = ctx->product.p, add.p_stride = g->stride; row < rows; row += m) {
        m = whole(rows - row, g->tile);
        m = m < g->part ? m : g->part;
        TRY(product(ctx, p, x, row, m, ctx->product.p, g->stride));
        add.row = row;
        add.rows = rows - row < m ? rows - row : m;
        CUDA_TRY(k_blaslt_add(n, &add, ctx->stream), "%d rows of %d", add.rows, g->n);
    }
    return ST_OK;
}
