/* coordinator/cli/bench_comm.c - `trireme bench comm`: what sums and messages between the ranks cost here, by size.
 *
 *   sum      as a layer does it: each rank's partial in an exchange slot, the exchange, and the norm that adds the parts; on devices once for each path
 *            (comm/device.h), queued behind one another as a step's are
 *   message  from rank 0 to the last rank and back, as stages hand on; half of the time
 *
 * Medians over rounds.  For devices it ends with the table of sizes in the form that --collectives takes. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/numbers.h"
#include "base/threads.h"
#include "comm/device.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/replica_args.h"
#include "coordinator/device.h"
#include "coordinator/results.h"

enum { MAX_SIZES = 32, QUEUED = 16 };

typedef struct comm_bench_args {
    ops_device_kind device;
    size_t sizes[MAX_SIZES];
    int n_sizes, rounds, timeout_ms;
    int32_t hidden;
    bool json;
} comm_bench_args;

typedef struct comm_bench {
    const comm_bench_args *a;
    json_t *environment;
    comm_world *world;
    comm_group *group; /* all ranks */
    comm_group *pair;  /* rank 0 and the last one */
    coord_device device;
    ops_ctx *ctx;
    ops_batch *batch;
    ops_buf *buf;      /* x and the norm's output */
    ops_buf *pieces[COMM_DEVICE_MAX];
    ops_mat x, y;
    double *taken;     /* [rounds] */
    int rank, n;
} comm_bench;

/* ---- the command line ---- */

enum { OPT_DEVICE = 0x4000, OPT_SIZES, OPT_HIDDEN, OPT_JSON, OPT_TIMEOUT };

static const struct argp_option options[] = {
    {"device", OPT_DEVICE, "auto|cpu|cuda", 0, "Between which memories (default auto: CUDA devices where every rank has one, else the host's)", 0},
    {"sizes", OPT_SIZES, "BYTES,...", 0, "Sizes of a sum and of a message, as in 16K,1M (default 16K to 16M by fours)", 0},
    {"hidden", OPT_HIDDEN, "N", 0, "Columns of the matrix that is added; a size is rounded to whole rows (default 4096)", 0},
    {"repeat", 'r', "N", 0, "Rounds whose median counts (default 30)", 0},
    {"timeout", OPT_TIMEOUT, "SECONDS", 0, "Longest wait for another rank (default 60)", 0},
    {"json", OPT_JSON, NULL, 0, "A line of JSON for each figure instead of a table", 0},
    {0},
};

static const char doc[] =
    "Measures sums and messages between the ranks of mpirun or srun."
    "\v"
    "Examples:\n"
    "  mpirun -n 8 trireme bench comm\n"
    "  mpirun -n 2 trireme bench comm --device cpu --sizes 2304,64K --json\n"
    "\n"
    "On GPUs the last line is the table of sizes to give to --collectives (or collectives = in a configuration file): up to which size a sum goes in one shot, "
    "up to which in two, and beyond that through NCCL.";

static bool parse_sizes(comm_bench_args *a, const char *text)
{
    char one[32];
    for (a->n_sizes = 0; a->n_sizes < MAX_SIZES;) {
        size_t n = strcspn(text, ",");
        if (n == 0 || n >= sizeof(one))
            return false;
        memcpy(one, text, n);
        one[n] = '\0';
        size_t *size = &a->sizes[a->n_sizes++];
        if (!cli_parse_bytes(one, size) || *size < sizeof(float) || *size > (size_t)1 << 32)
            return false;
        text += n;
        if (*text++ == '\0')
            return true;
    }
    return false;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    comm_bench_args *a = state->input;
    switch (key) {
    case OPT_DEVICE:
        if (!ops_device_parse(arg, &a->device))
            argp_error(state, "--device %s: auto, cpu or cuda", arg);
        return 0;
    case OPT_SIZES:
        if (!parse_sizes(a, arg))
            argp_error(state, "--sizes %s: up to %d numbers of bytes are needed, with commas, as in 16K,1M", arg, MAX_SIZES);
        return 0;
    case OPT_HIDDEN:
        a->hidden = cli_arg_int(state, "hidden", arg, 16, 65536);
        return 0;
    case 'r':
        a->rounds = cli_arg_int(state, "repeat", arg, 1, 100000);
        return 0;
    case OPT_TIMEOUT:
        a->timeout_ms = cli_arg_int(state, "timeout", arg, 1, 100000) * 1000;
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- what is measured on ---- */

static int32_t rows_of(const comm_bench_args *a, size_t bytes)
{
    size_t row = ops_row_bytes(OPS_F32, a->hidden), rows = (bytes + row - 1) / row;
    return (int32_t)(rows > 0 ? rows : 1);
}

static int32_t most_rows(const comm_bench_args *a)
{
    int32_t most = 1;
    for (int i = 0; i < a->n_sizes; i++)
        most = rows_of(a, a->sizes[i]) > most ? rows_of(a, a->sizes[i]) : most;
    return most;
}

static status context_create(comm_bench *b)
{
    const ops_backend *ops = b->device.ops;
    int32_t rows = most_rows(b->a), granted = threads_cores_granted(), per = granted / comm_world_host_size(b->world);
    ops_ctx_options o = {.device = b->device.device, .n_threads = per > 0 ? per : 1, .first_core = -1, .spin = per > 0, .max_rows = rows, .max_cols = b->a->hidden};
    comm_world_set_spin(b->world, o.spin);
    TRY(ops->ctx_create(&o, &b->ctx));
    b->x = (ops_mat){.type = OPS_F32, .cols = b->a->hidden, .stride = ops_row_bytes(OPS_F32, b->a->hidden)};
    b->y = (ops_mat){.type = ops->linear_input(b->ctx, PACKED_BF16), .cols = b->a->hidden, .offset = b->x.stride * (size_t)rows};
    b->y.stride = ops_row_bytes(b->y.type, b->a->hidden);
    TRY(ops->buf_create(b->ctx, (b->x.stride + b->y.stride) * (size_t)rows, "rows", &b->buf));
    b->x.buf = b->y.buf = b->buf;
    ops_batch_limits l = {.max_rows = rows, .max_spans = rows, .max_out = 1, .max_blocks = rows, .n_kv_groups = 1};
    return ops->batch_create(b->ctx, &l, &b->batch);
}

static status batch_fill(comm_bench *b, int32_t rows)
{
    int32_t *tokens = NULL, table = 0;
    ops_span span = {.n_rows = rows};
    TRY(mem_calloc((size_t)rows, sizeof(*tokens), "measuring", &tokens));
    int32_t n_table = (rows + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK, *blocks = NULL;
    status st = mem_calloc((size_t)n_table, sizeof(*blocks), "measuring", &blocks);
    span.table[0] = table;
    ops_batch_desc d = {.n_rows = rows, .tokens = tokens, .n_spans = 1, .spans = &span, .tables = {blocks}, .n_table = {n_table}};
    if (st == ST_OK)
        st = b->device.ops->batch_set(b->ctx, b->batch, &d);
    free(tokens);
    free(blocks);
    return st;
}

/* Slots in the devices' memory where there is a way between them, else in the host's. */
static status slots_wrap(comm_bench *b, size_t bytes)
{
    const ops_backend *ops = b->device.ops;
    void *base;
    comm_device_spec spec = {.ops = ops->collectives, .device = b->device.device, .exchange_bytes = bytes, .choice = comm_choice_default(b->n)};
    status st = ST_UNSUPPORTED;
    if (ops->collectives != NULL && b->n > 1) {
        spec.stream = ops->stream(b->ctx);
        st = comm_group_device(b->group, &spec);
        if (st != ST_OK && st != ST_UNSUPPORTED)
            return st;
        if (st != ST_OK && b->rank == 0)
            log_info("sums go through the host's memory: %s", status_message());
    }
    if (st != ST_OK) {
        comm_exchange_memory(b->group, &base, &bytes);
        return ops->buf_wrap(b->ctx, base, bytes, &b->pieces[0]);
    }
    for (int i = 0; i < COMM_DEVICE_MAX && comm_exchange_piece(b->group, i, &base, &bytes); i++)
        TRY(ops->buf_wrap(b->ctx, base, bytes, &b->pieces[i]));
    return ST_OK;
}

static status pair_create(comm_bench *b)
{
    int ranks[2] = {0, b->n - 1};
    if (b->n == 1 || (b->rank != 0 && b->rank != b->n - 1) || b->device.ops->collectives == NULL)
        return ST_OK;
    comm_device_spec spec = {.ops = b->device.ops->collectives, .device = b->device.device, .stream = b->device.ops->stream(b->ctx)};
    TRY(comm_group_create(b->world, ranks, 2, 0, b->a->timeout_ms, &b->pair));
    status st = comm_group_device(b->pair, &spec);
    if (st == ST_UNSUPPORTED)
        comm_group_destroy(&b->pair);
    return st == ST_UNSUPPORTED ? ST_OK : st;
}

static status create(comm_bench *b)
{
    int *ranks, failed = 0;
    size_t bytes = ops_row_bytes(OPS_F32, b->a->hidden) * (size_t)most_rows(b->a);
    b->rank = comm_world_rank(b->world);
    b->n = comm_world_size(b->world);
    if (b->n > 1)
        log_rank_set(b->rank);
    TRY(mem_calloc((size_t)b->n, sizeof(*ranks), "ranks", &ranks));
    for (int i = 0; i < b->n; i++)
        ranks[i] = i;
    status st = comm_group_create(b->world, ranks, b->n, bytes, b->a->timeout_ms, &b->group);
    free(ranks);
    TRY(st);
    TRY(mem_calloc((size_t)b->a->rounds, sizeof(*b->taken), "measuring", &b->taken));
    TRY(coord_device_resolve(b->world, b->group, b->a->device, b->a->timeout_ms, &b->device));
    TRY(comm_agree(b->world, context_create(b), b->a->timeout_ms, &failed));
    TRY(slots_wrap(b, bytes));
    return pair_create(b);
}

static void destroy(comm_bench *b)
{
    const ops_backend *ops = b->device.ops;
    if (b->ctx != NULL) {
        if (b->batch != NULL)
            ops->batch_destroy(b->ctx, &b->batch);
        if (b->buf != NULL)
            ops->buf_destroy(b->ctx, &b->buf);
        for (size_t i = 0; i < ARRAY_LEN(b->pieces); i++) {
            if (b->pieces[i] != NULL)
                ops->buf_destroy(b->ctx, &b->pieces[i]);
        }
    }
    comm_group_destroy(&b->pair);
    comm_group_destroy(&b->group);
    if (b->ctx != NULL)
        ops->ctx_destroy(&b->ctx);
    free(b->taken);
}

/* ---- measuring ---- */

static status norm(comm_bench *b, const float *const *parts, int n_parts)
{
    ops_norm_args a = {.x = b->x, .parts = {parts, n_parts, b->x.stride / sizeof(float)}, .residual_scale = 1.0f, .norm = OPS_NORM_RMS, .eps = 1e-5f, .n_y = 1, .y = {b->y}};
    return b->device.ops->norm(b->ctx, b->batch, &a);
}

static status one_sum(comm_bench *b, size_t bytes)
{
    void *slot;
    const float *const *parts;
    int n_parts;
    TRY(comm_exchange_begin(b->group, bytes, &slot));
    if (!comm_group_on_device(b->group)) {
        TRY(b->device.ops->sync(b->ctx)); /* the partial is in the slot */
        TRY(comm_exchange_end(b->group, bytes, &parts, &n_parts));
        return norm(b, parts, n_parts);
    }
    TRY(comm_exchange_end(b->group, bytes, &parts, &n_parts));
    return norm(b, parts, n_parts);
}

static status sums(comm_bench *b, int32_t rows, double *seconds)
{
    size_t bytes = b->x.stride * (size_t)rows;
    TRY(batch_fill(b, rows));
    for (int i = -2; i < b->a->rounds; i++) { /* two that do not count */
        TRY(b->device.ops->sync(b->ctx));
        TRY(comm_barrier(b->group));
        b->device.ops->step_begin(b->ctx, false);
        double begin = log_clock();
        for (int k = 0; k < QUEUED; k++)
            TRY(one_sum(b, bytes));
        TRY(b->device.ops->sync(b->ctx));
        if (i >= 0)
            b->taken[i] = (log_clock() - begin) / QUEUED;
        b->device.ops->step_end(b->ctx);
        TRY(comm_group_check(b->group));
    }
    *seconds = numbers_median(b->taken, (size_t)b->a->rounds);
    return ST_OK;
}

static status there_and_back(comm_bench *b, char *host, size_t bytes)
{
    int other = b->rank == 0 ? b->n - 1 : 0;
    void *x = (void *)(uintptr_t)b->device.ops->mat_part(b->ctx, &b->x);
    for (int leg = 0; leg < 2; leg++) {
        bool send = (leg == 0) == (b->rank == 0);
        comm_request *r;
        if (b->pair != NULL) {
            TRY(send ? comm_device_send(b->pair, b->rank == 0, x, bytes) : comm_device_recv(b->pair, b->rank == 0, x, bytes));
            continue;
        }
        TRY(send ? comm_send(b->world, other, 1, host, bytes, &r) : comm_recv(b->world, other, 1, host, bytes, &r));
        TRY(comm_wait(b->world, &r, b->a->timeout_ms, NULL));
    }
    return b->pair != NULL ? b->device.ops->sync(b->ctx) : ST_OK;
}

static status messages(comm_bench *b, int32_t rows, double *seconds)
{
    size_t bytes = b->x.stride * (size_t)rows;
    char *host;
    *seconds = 0;
    TRY(mem_calloc(1, bytes, "messages", &host));
    status st = comm_barrier(b->group);
    for (int i = -2; st == ST_OK && i < b->a->rounds && (b->rank == 0 || b->rank == b->n - 1); i++) {
        double begin = log_clock();
        st = there_and_back(b, host, bytes);
        if (i >= 0)
            b->taken[i] = (log_clock() - begin) / 2;
    }
    free(host);
    TRY(st);
    *seconds = numbers_median(b->taken, (size_t)b->a->rounds);
    return comm_barrier(b->group);
}

/* ---- telling ---- */

static const char *const path_names[] = {[COMM_ONE_SHOT] = "one-shot", [COMM_TWO_SHOT] = "two-shot", [COMM_EXCHANGE] = "NCCL"};

static status tell(const comm_bench *b, const char *what, const char *path, size_t bytes, double seconds)
{
    char size[CLI_AMOUNT], time[CLI_AMOUNT];
    if (b->rank != 0)
        return ST_OK;
    if (!b->a->json) {
        printf("%-8s %-9s %10s  %10s  %8.2f GB/s\n", what, path, cli_show_bytes(bytes, size), cli_show_seconds(seconds, time), 1e-9 * (double)bytes / fmax(seconds, 1e-12));
        fflush(stdout);
        return ST_OK;
    }
    json_t *o = json_pack("{ss ss sI sf si ss}", "test", what, "path", path, "bytes", (json_int_t)bytes, "seconds", seconds, "ranks", b->n, "backend",
                          b->device.ops->ctx_describe(b->ctx));
    return results_put(o, b->environment, true, NULL);
}

/* The largest size up to which the paths before `path` were at least as fast as it and all after it, at every size measured. */
static uint64_t up_to(const comm_bench *b, const double (*seconds)[COMM_PATHS], comm_path path)
{
    uint64_t best = 0;
    for (int i = 0; i < b->a->n_sizes; i++) {
        double before = INFINITY, after = INFINITY;
        for (int p = 0; p < COMM_PATHS; p++) {
            double *side = p <= (int)path ? &before : &after;
            if (seconds[i][p] > 0)
                *side = fmin(*side, seconds[i][p]);
        }
        if (before > after)
            break;
        best = b->x.stride * (uint64_t)rows_of(b->a, b->a->sizes[i]);
    }
    return best;
}

static status tell_choice(const comm_bench *b, const double (*seconds)[COMM_PATHS])
{
    char text[64];
    comm_choice c = {up_to(b, seconds, COMM_ONE_SHOT), up_to(b, seconds, COMM_TWO_SHOT)};
    comm_choice_print(&c, text, sizeof(text));
    if (b->rank != 0)
        return ST_OK;
    if (b->a->json)
        return results_put(json_pack("{ss ss}", "test", "choice", "collectives", text), b->environment, true, NULL);
    printf("\n--collectives %s\n", text);
    return ST_OK;
}

/* Each path at each size; a path that the machine lacks is left out. */
static status device_sums(comm_bench *b)
{
    static const comm_choice only[] = {{UINT64_MAX, UINT64_MAX}, {0, UINT64_MAX}, {0, 0}};
    double seconds[MAX_SIZES][COMM_PATHS] = {{0}};
    for (int i = 0; i < b->a->n_sizes; i++) {
        int32_t rows = rows_of(b->a, b->a->sizes[i]);
        size_t bytes = b->x.stride * (size_t)rows;
        for (int p = 0; p < COMM_PATHS; p++) {
            comm_device_choose(b->group, &only[p]);
            if ((int)comm_device_path(b->group, bytes) != p)
                continue;
            TRY(sums(b, rows, &seconds[i][p]));
            TRY(tell(b, "sum", path_names[p], bytes, seconds[i][p]));
        }
    }
    return tell_choice(b, seconds);
}

static status run(comm_bench *b)
{
    const comm_bench_args *a = b->a;
    double seconds;
    if (b->rank == 0 && !a->json)
        printf("%d rank%s, %s%s%s\n", b->n, b->n == 1 ? "" : "s", b->device.ops->ctx_describe(b->ctx), comm_group_on_device(b->group) ? "; " : "", comm_group_device_describe(b->group));
    for (int i = 0; b->n > 1 && i < a->n_sizes; i++) {
        TRY(messages(b, rows_of(a, a->sizes[i]), &seconds));
        TRY(tell(b, "message", b->pair != NULL ? path_names[COMM_EXCHANGE] : "host", b->x.stride * (size_t)rows_of(a, a->sizes[i]), seconds));
    }
    if (comm_group_on_device(b->group))
        return device_sums(b);
    for (int i = 0; i < a->n_sizes; i++) {
        TRY(sums(b, rows_of(a, a->sizes[i]), &seconds));
        TRY(tell(b, "sum", "host", b->x.stride * (size_t)rows_of(a, a->sizes[i]), seconds));
    }
    return ST_OK;
}

int cli_bench_comm(int argc, char **argv)
{
    comm_bench_args a = {.sizes = {16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}, .n_sizes = 6, .rounds = 30, .timeout_ms = 60000, .hidden = 4096};
    const struct argp argp = {options, parse, NULL, doc, NULL, NULL, NULL};
    comm_bench b = {.a = &a, .environment = results_environment(argc, argv)};
    cli_parse(&argp, argc, argv, &a);
    status st = cli_world_create(a.timeout_ms, &b.world);
    if (st == ST_OK)
        st = create(&b);
    if (st == ST_OK)
        st = run(&b);
    int code = st != ST_OK && b.rank == 0 ? cli_report(st) : status_exit_code(st);
    destroy(&b);
    comm_world_destroy(&b.world);
    json_decref(b.environment);
    return cli_finish_output(code);
}
