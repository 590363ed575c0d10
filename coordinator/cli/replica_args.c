#include "coordinator/cli/replica_args.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "comm/device.h"
#include "coordinator/cli/cli_util.h"

enum { OPT_REVISION = 0x1000, OPT_OFFLINE, OPT_TP, OPT_PP, OPT_COMPUTE, OPT_KV_TYPE, OPT_MAX_SEQS, OPT_BATCHED, OPT_CHUNK, OPT_CTX, OPT_KV_BLOCKS,
       OPT_MEMORY, OPT_WEIGHTS, OPT_TIMEOUT, OPT_PARTIAL, OPT_NO_PREFIX, OPT_DEVICE, OPT_COLLECTIVES, OPT_GEMM, OPT_OVERLAP,
       OPT_TRACE_STEPS, OPT_TRACE_FILE };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "The checkpoint and how it runs:", 10},
    {"model", 'm', "MODEL", 0, "Hugging Face directory, GGUF file, a directory that `trireme shard` wrote, or a hub name (org/name)", 0},
    {"revision", OPT_REVISION, "REV", 0, "Branch, tag or commit of a hub name", 0},
    {"offline", OPT_OFFLINE, NULL, 0, "Never use the network", 0},
    {"tp", OPT_TP, "N", 0, "Tensor-parallel ranks of a stage (default: chosen from the number of ranks)", 0},
    {"pp", OPT_PP, "M", 0, "Pipeline stages", 0},
    {"compute", OPT_COMPUTE, "auto|f32", 0, "auto computes with the weights as stored; f32 expands them to f32 at load", 0},
    {"device", OPT_DEVICE, "auto|cpu|cuda", 0, "What computes (default auto: CUDA devices where every rank has one, else the CPU)", 0},
    {"gemm", OPT_GEMM, "auto|own|cublaslt", 0, "Who multiplies by bf16 and fp8 weights on GPUs: auto gives the large ones to cuBLASLt where it is installed and gives a row the same bits in every batch, cublaslt gives it all", 0},
    {"collectives", OPT_COLLECTIVES, "SIZES", 0, "How sums between GPUs go by their size, as in one-shot=256K,two-shot=8M, and beyond that NCCL (`trireme bench comm` measures)", 0},
    {"overlap-rows", OPT_OVERLAP, "N", 0, "Steps of at least N tokens are computed in two pieces, one's sums between GPUs under way while the other is computed (default 512; 0: never)", 0},
    {"threads", 't', "N", 0, "Threads of each rank (default: the host's cores divided among its ranks); stages on one host lend each other theirs while they wait", 0},
    {"kv-type", OPT_KV_TYPE, "TYPE", 0, "Type of the KV cache: auto f32 f16 bf16 fp8 q8 (auto: f32 with --compute f32, else f16)", 0},
    {"ctx", OPT_CTX, "TOKENS", 0, "Longest prompt + answer (default: the checkpoint's, as far as memory goes)", 0},
    {"max-seqs", OPT_MAX_SEQS, "N", 0, "Sequences computed at once (default 16)", 0},
    {"max-batched-tokens", OPT_BATCHED, "N", 0, "Token budget of a step (default 512)", 0},
    {"prefill-chunk", OPT_CHUNK, "N", 0, "Most tokens of one prompt in a step (default: the budget)", 0},
    {"max-partial-prefills", OPT_PARTIAL, "N", 0, "Prompts begun and not yet computed to their end (default 4)", 0},
    {"no-prefix-cache", OPT_NO_PREFIX, NULL, 0, "Compute every prompt from its start, even where others began alike", 0},
    {"kv-blocks", OPT_KV_BLOCKS, "N", 0, "KV blocks of 16 tokens (default: what memory and the limits above allow)", 0},
    {"memory", OPT_MEMORY, "BYTES", 0, "Memory each rank may use, as in 8GiB (default: its share of what its host or device has left)", 0},
    {"rank-weights", OPT_WEIGHTS, "W,W,...", 0, "Relative speed of each rank, for ranks of unequal speed", 0},
    {"timeout", OPT_TIMEOUT, "SECONDS", 0, "Longest wait for another rank within a step (default 60) and, but for at least 30, at the start (default 120)", 0},
    {"trace-steps", OPT_TRACE_STEPS, "N|A-B", 0, "Record what every rank is at in the first N steps, or in steps A to B, for --trace-file", 0},
    {"trace-file", OPT_TRACE_FILE, "FILE", 0, "Where that is written at the end, for ui.perfetto.dev (default, with --trace-steps: trace.json)", 0},
    {0},
};

static status parse_weights(cli_replica_args *a, const char *text)
{
    int n = 1;
    for (const char *p = text; *p != '\0'; p++)
        n += *p == ',';
    free(a->rank_weights);
    TRY(mem_calloc((size_t)n, sizeof(double), "weights", &a->rank_weights));
    a->n_rank_weights = n;
    for (int i = 0; i < n; i++) {
        char *end;
        a->rank_weights[i] = strtod(text, &end);
        if (end == text || !(a->rank_weights[i] > 0) || *end != (i < n - 1 ? ',' : '\0'))
            return ST_INVALID;
        text = end + 1;
    }
    return ST_OK;
}

static long whole(struct argp_state *state, const char *name, const char *arg, long min, long max)
{
    long v = 0;
    if (!cli_parse_int(arg, min, max, &v))
        argp_error(state, "--%s %s: a whole number from %ld to %ld is needed", name, arg, min, max);
    return v;
}

/* "N" or "A-B". */
static bool parse_steps(coord_replica_options *o, const char *text)
{
    enum { MOST = 10000 };
    char *end;
    unsigned long long first = strtoull(text, &end, 10), last;
    bool range = *end == '-';
    if (text[0] < '0' || text[0] > '9' || (*end != '\0' && !range))
        return false;
    last = range ? strtoull(end + 1, &end, 10) : first;
    first = range ? first : 1;
    if (*end != '\0' || first < 1 || last < first || last - first >= MOST)
        return false;
    o->trace_first = first;
    o->trace_steps = last - first + 1;
    return true;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    cli_replica_args *a = state->input;
    coord_replica_options *o = &a->options;
    switch (key) {
    case 'm':
        o->model = arg;
        return 0;
    case OPT_REVISION:
        o->open.revision = arg;
        return 0;
    case OPT_OFFLINE:
        o->open.offline = true;
        return 0;
    case OPT_TP:
        o->tp = (int32_t)whole(state, "tp", arg, 1, 65536);
        return 0;
    case OPT_PP:
        o->pp = (int32_t)whole(state, "pp", arg, 1, 65536);
        return 0;
    case OPT_COMPUTE:
        if (strcmp(arg, "auto") != 0 && strcmp(arg, "f32") != 0)
            argp_error(state, "--compute %s: auto or f32", arg);
        o->f32 = strcmp(arg, "f32") == 0;
        return 0;
    case OPT_DEVICE:
        if (!ops_device_parse(arg, &o->device))
            argp_error(state, "--device %s: auto, cpu or cuda", arg);
        return 0;
    case OPT_GEMM:
        if (strcmp(arg, "auto") != 0 && strcmp(arg, "own") != 0 && strcmp(arg, "cublaslt") != 0)
            argp_error(state, "--gemm %s: auto, own or cublaslt", arg);
        o->gemm = arg;
        return 0;
    case OPT_COLLECTIVES:
        if (comm_choice_parse(arg, &(comm_choice){0}) != ST_OK)
            argp_error(state, "--collectives %s", status_message());
        o->collectives = arg;
        return 0;
    case OPT_OVERLAP:
        o->overlap_rows = (int32_t)whole(state, "overlap-rows", arg, 0, 1 << 20);
        o->overlap_rows = o->overlap_rows == 0 ? -1 : o->overlap_rows;
        return 0;
    case 't':
        o->n_threads = (int32_t)whole(state, "threads", arg, 1, 4096);
        return 0;
    case OPT_KV_TYPE:
        a->kv_given = strcmp(arg, "auto") != 0;
        if (a->kv_given && !shard_kv_type_parse(arg, &o->kv_type))
            argp_error(state, "--kv-type %s: auto, f32, f16, bf16, fp8 or q8", arg);
        return 0;
    case OPT_CTX:
        o->max_context = (int32_t)whole(state, "ctx", arg, 2, 1 << 30);
        return 0;
    case OPT_MAX_SEQS:
        o->max_seqs = (int32_t)whole(state, "max-seqs", arg, 1, 1 << 20);
        return 0;
    case OPT_BATCHED:
        o->max_batched_tokens = (int32_t)whole(state, "max-batched-tokens", arg, 1, 1 << 20);
        return 0;
    case OPT_CHUNK:
        o->max_prefill_chunk = (int32_t)whole(state, "prefill-chunk", arg, 1, 1 << 20);
        return 0;
    case OPT_PARTIAL:
        o->max_partial_prefills = (int32_t)whole(state, "max-partial-prefills", arg, 1, 1 << 20);
        return 0;
    case OPT_NO_PREFIX:
        o->no_prefix_cache = true;
        return 0;
    case OPT_KV_BLOCKS:
        o->kv_blocks = whole(state, "kv-blocks", arg, 1, 1 << 30);
        return 0;
    case OPT_MEMORY:
        if (!cli_parse_bytes(arg, &o->memory) || o->memory == 0)
            argp_error(state, "--memory %s: a number of bytes is needed, as in 8GiB", arg);
        return 0;
    case OPT_WEIGHTS:
        if (parse_weights(a, arg) != ST_OK)
            argp_error(state, "--rank-weights %s: positive numbers with commas between them are needed", arg);
        return 0;
    case OPT_TIMEOUT:
        o->timeout_ms = (int)whole(state, "timeout", arg, 1, 100000) * 1000;
        return 0;
    case OPT_TRACE_STEPS:
        if (!parse_steps(o, arg))
            argp_error(state, "--trace-steps %s: a number of steps, or the first and the last as in 100-120, at most 10000", arg);
        return 0;
    case OPT_TRACE_FILE:
        o->trace_file = arg;
        return 0;
    case ARGP_KEY_END:
        if (o->trace_file != NULL && o->trace_steps == 0)
            argp_error(state, "--trace-file %s: say which steps with --trace-steps", o->trace_file);
        o->trace_file = o->trace_file != NULL ? o->trace_file : "trace.json";
        if (o->model == NULL)
            argp_error(state, "no model: give one with -m MODEL");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp cli_replica_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

status cli_world_create(int timeout_ms, comm_world **out)
{
    int n, rank;
    if (!comm_launched(&n, &rank) || n == 1)
        return comm_world_single(out);
    if (rank > 0) /* what keeps MPI from starting is told once */
        status_mute();
    status st = comm_world_mpi(timeout_ms, out);
    if (rank > 0)
        status_unmute();
    if (rank > 0 && st == ST_PEER) /* rank 0 is not there to tell it */
        cli_report(st);
    return st;
}

static void replica_close(cli_replica *r)
{
    free(r->reports);
    coord_replica_destroy(&r->replica);
    comm_world_destroy(&r->world);
}

/* Where each rank is. */
static void tell_places(const cli_replica *r)
{
    int shared = 0, far = 0;
    if (r->rank != 0 || r->n_ranks == 1)
        return;
    for (int i = 0; i < r->n_ranks; i++) {
        log_info("rank %d host %s: %s", i, r->reports[i].host, r->reports[i].place);
        shared += r->reports[i].cores_shared;
        far += r->reports[i].gpu_far;
    }
    if (shared > 0)
        log_warn("%d of %d ranks share cores with others, and so take turns: start fewer of them on a host (`trireme doctor` says more)", shared, r->n_ranks);
    if (far > 0)
        log_warn("%d of %d ranks have a GPU at another socket than their cores (`trireme doctor` says more)", far, r->n_ranks);
}

/* Who asks for short steps does not mean that all ranks must start within the same moment. */
static int start_timeout_ms(int timeout_ms)
{
    enum { LEAST_MS = 30000 };
    return timeout_ms == 0 || timeout_ms > LEAST_MS ? timeout_ms : LEAST_MS;
}

static status start(cli_replica_args *a, cli_replica *r)
{
    TRY(cli_world_create(start_timeout_ms(a->options.timeout_ms), &r->world));
    r->rank = comm_world_rank(r->world);
    r->n_ranks = comm_world_size(r->world);
    if (r->n_ranks > 1)
        log_rank_set(r->rank);
    coord_replica_options *o = &a->options;
    if (!a->kv_given)
        o->kv_type = o->f32 ? SHARD_KV_F32 : SHARD_KV_F16;
    o->isa = getenv("TRIREME_ISA");
    if (o->rank_weights == NULL && a->rank_weights != NULL) {
        if (a->n_rank_weights != r->n_ranks)
            return r->rank != 0 ? ST_INVALID
                                : FAIL(ST_INVALID, "--rank-weights names %d ranks, and this job has %d", a->n_rank_weights, r->n_ranks);
        o->rank_weights = a->rank_weights;
    }
    status st = coord_replica_create(r->world, o, &r->replica);
    if (st != ST_OK) {
        if (r->rank == 0)
            cli_report(st);
        return st;
    }
    TRY(mem_calloc((size_t)r->n_ranks, sizeof(*r->reports), "reports", &r->reports));
    TRY(coord_replica_report(r->replica, r->reports));
    tell_places(r);
    return ST_OK;
}

void cli_replica_start(cli_replica_args *args, cli_replica *out, bool *done, int *exit_code)
{
    *out = (cli_replica){0};
    status st = start(args, out);
    if (st == ST_OK && out->rank == 0) {
        *done = false;
        return;
    }
    if (st == ST_OK)
        st = coord_replica_serve(out->replica);
    replica_close(out);
    free(args->rank_weights);
    *done = true;
    *exit_code = status_exit_code(st);
}

int cli_replica_finish(cli_replica *r, status st)
{
    status stopped = coord_replica_stop(r->replica);
    replica_close(r);
    return status_exit_code(st != ST_OK ? st : stopped);
}
