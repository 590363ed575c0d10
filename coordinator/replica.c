/* coordinator/replica.c - see replica.h and, for what ranks tell one another, replica_internal.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"
#include "coordinator/replica_internal.h"

#define AGREE_TIMEOUT_MS (10 * 60 * 1000) /* the slowest rank's loading */
#define DEFAULT_SEQS 16
#define MEMORY_SHARE 0.85 /* of what a host or device has left: the rest is for the page cache and everybody else; on a device for work lists and partial results */

/* ---- creation ---- */

static status ranks_resolve(coord_replica *r, shard_plan_options *p)
{
    int n = r->n_ranks, tp = r->opt.tp, pp = r->opt.pp;
    if (tp < 0 || pp < 0)
        return FAIL(ST_INVALID, "--tp %d --pp %d: give positive numbers", tp, pp);
    if (tp > 0 && pp == 0)
        pp = n % tp == 0 ? n / tp : 1;
    if (pp > 0 && tp == 0)
        tp = n % pp == 0 ? n / pp : 1;
    if (tp > 0 && (int64_t)tp * pp != n)
        return FAIL(ST_INVALID, "tp %d x pp %d are %lld ranks, and this job has %d: start it with `mpirun -n %lld trireme ...`, or choose --tp and --pp "
                    "whose product is %d", tp, pp, (long long)tp * pp, n, (long long)tp * pp, n);
    p->tp = tp;
    p->pp = pp;
    p->n_ranks = n;
    p->ranks_per_host = 0;
    for (int i = 0; i < n; i++) /* of rank 0's host, on every rank: the plan must come out the same */
        p->ranks_per_host += comm_world_host(r->world, i) == comm_world_host(r->world, 0);
    return ST_OK;
}

/* A folder written by `trireme shard` serves the split it was cut for: that split is the default, and another one an error before anything is read. */
static status cut_resolve(coord_replica *r, shard_plan_options *p)
{
    shard_cut_info cut;
    if (!shard_checkpoint_cut_info(r->checkpoint, &cut))
        return ST_OK;
    int tp = r->opt.tp > 0 ? r->opt.tp : cut.tp, pp = r->opt.pp > 0 ? r->opt.pp : cut.pp;
    if (tp != cut.tp || pp != cut.pp || r->n_ranks != tp * pp || (r->opt.f32 && !cut.f32))
        return FAIL(ST_INVALID, "%s was cut for tp %d x pp %d%s: start it with `mpirun -n %d trireme ...`%s, or cut its source again with trireme shard", r->opt.model,
                    cut.tp, cut.pp, cut.f32 ? " in f32" : "", cut.tp * cut.pp, r->opt.f32 && !cut.f32 ? " and without --compute f32" : "");
    r->opt.tp = tp;
    r->opt.pp = pp;
    p->stage_layers = cut.stage_layers;
    p->rank_weights = cut.rank_weights;
    return ST_OK;
}

static void defaults_fill(coord_replica_options *o)
{
    o->max_seqs = o->max_seqs > 0 ? o->max_seqs : DEFAULT_SEQS;
    o->max_batched_tokens = o->max_batched_tokens > 0 ? o->max_batched_tokens : COORD_BATCHED_TOKENS;
    o->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : 60000;
}

static status open_checkpoint(coord_replica *r)
{
    TRY(shard_checkpoint_open(r->opt.model, &r->opt.open, &r->checkpoint));
    const shard_arch *a = shard_checkpoint_arch(r->checkpoint);
    if (r->opt.max_context > a->max_positions)
        return FAIL(ST_INVALID, "a context of %d tokens is asked for, and %s was made for %d", r->opt.max_context, r->opt.model, a->max_positions);
    return ST_OK;
}

/* The same plan on every rank, from what each may use: rank_memory [n_ranks]. */
static status make_plan(coord_replica *r, const size_t *rank_memory)
{
    const shard_arch *a = shard_checkpoint_arch(r->checkpoint);
    shard_plan_options p = {
        .rank_weights = r->opt.rank_weights,
        .rank_memory = rank_memory,
        .max_seqs = r->opt.max_seqs,
        .max_context = r->opt.max_context,
        .max_batched_tokens = r->opt.max_batched_tokens,
        .kv_type = r->opt.kv_type,
        .kv_blocks = r->opt.kv_blocks,
        .types = *shard_checkpoint_types(r->checkpoint, r->opt.f32),
    };
    TRY(cut_resolve(r, &p));
    TRY(ranks_resolve(r, &p));
    TRY(shard_plan_create(a, &p, &r->plan));
    int64_t room = r->plan->kv_tokens;
    if (r->opt.max_context > 0 && room < r->opt.max_context && r->opt.kv_blocks == 0)
        return FAIL(ST_NO_MEMORY, "the KV cache has room for %lld tokens, and --ctx asks for %d: ask for a shorter context, a smaller --kv-type, or use "
                    "more ranks", (long long)room, r->opt.max_context);
    if (r->opt.max_context == 0) {
        r->opt.max_context = room < a->max_positions ? (int32_t)room : a->max_positions;
        if (room < a->max_positions && r->rank == 0)
            log_info("the context is limited to %lld tokens by memory (the checkpoint allows %d)", (long long)room, a->max_positions);
    }
    return ST_OK;
}

/* What a rank tells the others of its cores. */
typedef struct cores_of {
    cpu_set_t cores;
    int n;         /* threads, each with a core of its own; 0: none to lend, none to borrow */
    char numa[32]; /* nobody's threads go to another memory node */
} cores_of;

/* The rank that has this one's place in another stage, on the same host and at the same memory. */
static bool lends_to(const coord_replica *r, const cores_of *all, int from, int to)
{
    const shard_rank_plan *a = &r->plan->ranks[from], *b = &r->plan->ranks[to];
    return a->stage != b->stage && a->tp_index == b->tp_index && comm_world_host(r->world, from) == comm_world_host(r->world, to) && all[from].n > 0 && all[to].n > 0 &&
           strcmp(all[from].numa, all[to].numa) == 0;
}

/* A launcher may have shut each rank in with its own cores (a cpuset). */
static bool may_use(int core)
{
    cpu_set_t own, one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    return sched_getaffinity(0, sizeof(own), &own) == 0 && sched_setaffinity(0, sizeof(one), &one) == 0 && sched_setaffinity(0, sizeof(own), &own) == 0;
}

static status borrow_from(coord_replica *r, const cores_of *o)
{
    int *cores = realloc(r->lent_cores, (size_t)(r->n_lent + o->n) * sizeof(int));
    if (cores == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a list of cores");
    r->lent_cores = cores;
    for (int c = 0, n = 0; c < CPU_SETSIZE && n < o->n; c++) {
        if (!CPU_ISSET(c, &o->cores))
            continue;
        if (may_use(c))
            r->lent_cores[r->n_lent++] = c;
        n++;
    }
    return ST_OK;
}

/* Stages that compute on the CPUs of one host lend each other their cores: one waits while another computes.  Collective. */
static status cores_lend(coord_replica *r, ops_ctx_options *ctx)
{
    cores_of mine, *all;
    memset(&mine, 0, sizeof(mine));
    if (ctx->first_core >= 0 && sched_getaffinity(0, sizeof(mine.cores), &mine.cores) == 0)
        mine.n = ctx->n_threads;
    memcpy(mine.numa, r->place.numa, sizeof(mine.numa));
    TRY(mem_calloc((size_t)r->n_ranks, sizeof(*all), "ranks", &all));
    status st = comm_all_gather_equal(r->everyone, &mine, sizeof(mine), all);
    for (int i = 0; st == ST_OK && i < r->n_ranks; i++) {
        if (lends_to(r, all, i, r->rank))
            st = borrow_from(r, &all[i]);
    }
    mine.n = r->n_lent;
    status told = comm_all_gather_equal(r->everyone, &mine, sizeof(mine), all);
    for (int i = 0; told == ST_OK && i < r->n_ranks; i++)
        r->lend |= all[i].n > 0;
    free(all);
    st = st == ST_OK ? told : st;
    ctx->lent_cores = r->lent_cores;
    ctx->n_lent = r->n_lent;
    return st;
}

/* Threads of this rank, and the cores they keep to.  A launcher may have bound each rank to cores of its own; if not, the ranks of the host share what they see. */
static void threads_resolve(coord_replica *r, ops_ctx_options *ctx)
{
    int granted = threads_cores_granted(), sharers = r->place.shared || r->place.divided ? comm_world_host_size(r->world) : 1;
    int share = granted / sharers;
    ctx->n_threads = r->opt.n_threads > 0 ? r->opt.n_threads : share > 0 ? share : 1;
    ctx->spin = ctx->n_threads * sharers <= granted;
    ctx->first_core = ctx->spin && coord_place_pin(&r->place, ctx->n_threads) ? 0 : -1;
    ctx->isa = r->opt.isa;
    ctx->gemm = r->opt.gemm;
    ctx->device = r->device.device;
    comm_world_set_spin(r->world, ctx->spin);
    r->n_threads = ctx->n_threads;
}

/* A phase that ranks do alone ends here: all of them go on, or all of them fail with the first one's message. */
static status agree(coord_replica *r, status mine)
{
    int failed = 0;
    return comm_agree(r->world, mine, AGREE_TIMEOUT_MS, &failed);
}

/* What every rank may use, rank by rank. */
static status gather_memory(coord_replica *r, size_t *all)
{
    size_t mine = (size_t)((double)mem_available() * MEMORY_SHARE / comm_world_host_size(r->world));
    if (r->device.ops->devices != NULL) {
        TRY(coord_device_memory(r->world, r->everyone, &r->device, AGREE_TIMEOUT_MS, &mine));
        mine = (size_t)((double)mine * MEMORY_SHARE);
    }
    if (r->opt.memory > 0)
        mine = r->opt.memory;
    return comm_all_gather_equal(r->everyone, &mine, sizeof(mine), all);
}

static status join_everyone(coord_replica *r)
{
    int *ranks;
    TRY(mem_calloc((size_t)r->n_ranks, sizeof(int), "ranks", &ranks));
    for (int i = 0; i < r->n_ranks; i++)
        ranks[i] = i;
    status st = comm_group_create(r->world, ranks, r->n_ranks, 4096, r->opt.timeout_ms, &r->everyone);
    free(ranks);
    return st;
}

static status make_worker(coord_replica *r)
{
    worker_options o = {
        .checkpoint = r->checkpoint,
        .plan = r->plan,
        .world = r->world,
        .ops = r->device.ops,
        .f32 = r->opt.f32,
        .kv_type = r->opt.kv_type,
        .max_seqs = r->opt.max_seqs,
        .max_batched_tokens = r->opt.max_batched_tokens,
        .max_context = r->opt.max_context,
        .timeout_ms = r->opt.timeout_ms,
        .collectives = r->opt.collectives,
        .overlap_rows = r->opt.overlap_rows == 0 ? COORD_OVERLAP_ROWS : r->opt.overlap_rows < 0 ? 0 : r->opt.overlap_rows,
        .quiet = r->opt.quiet || r->rank != 0,
        .phase_times = r->opt.phase_times,
        .grammars = r->opt.grammars,
        .trace_first = r->opt.trace_first,
        .trace_steps = r->opt.trace_steps,
    };
    threads_resolve(r, &o.ctx);
    if (r->device.ops->devices == NULL && r->plan->pp > 1)
        TRY(cores_lend(r, &o.ctx));
    for (int g = 0; g < OPS_MAX_KV_GROUPS; g++)
        o.kv_blocks[g] = r->plan->kv_blocks[g];
    return worker_create(&o, &r->worker);
}

/* Ranks of several stages compute on the CPUs of one host. */
static bool stages_share_memory(const coord_replica *r)
{
    for (int i = 1; i < r->n_ranks && r->device.ops->devices == NULL; i++) {
        for (int j = 0; j < i; j++) {
            if (r->plan->ranks[i].stage != r->plan->ranks[j].stage && comm_world_host(r->world, i) == comm_world_host(r->world, j))
                return true;
        }
    }
    return false;
}

static status coordinator_create(coord_replica *r)
{
    const shard_arch *a = shard_checkpoint_arch(r->checkpoint);
    coord_sched_options o = {
        .max_seqs = r->opt.max_seqs,
        .max_batched_tokens = r->opt.max_batched_tokens,
        .max_prefill_chunk = r->opt.max_prefill_chunk,
        .max_partial_prefills = r->opt.max_partial_prefills,
        .no_prefix_cache = r->opt.no_prefix_cache,
        .max_context = r->opt.max_context,
        .depth = r->depth,
        .block_tokens = SHARD_KV_BLOCK,
        .n_kv_groups = a->n_kv_groups,
        .lend = r->lend,
    };
    for (int g = 0; g < a->n_kv_groups; g++) {
        o.window[g] = a->kv_groups[g].window;
        o.n_blocks[g] = r->plan->kv_blocks[g];
    }
    memcpy(o.prefix_seed, r->prefix_seed, sizeof(o.prefix_seed));
    coord_waves_init(&r->waves, stages_share_memory(r) ? r->depth : 1, r->lend ? 1 : r->depth);
    return coord_sched_create(&o, &r->sched);
}

/* Keys of the prefix cache live and die with this process, which has one checkpoint: a secret of its own tells them from all others.  Hashed here, so that what
 * libcrypto takes for itself is there before the replica's own memory is counted. */
static status prefix_seed_draw(uint8_t seed[HASH_SHA256_BYTES])
{
    uint8_t secret[32];
    if (getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
        return FAIL(ST_IO, "no random bytes from the system: %s", strerror(errno));
    return hash_sha256_of(secret, sizeof(secret), seed);
}

static status create_phases(coord_replica *r)
{
    status opened = open_checkpoint(r);
    TRY(agree(r, opened == ST_OK ? prefix_seed_draw(r->prefix_seed) : opened));
    TRY(join_everyone(r));
    TRY(coord_device_resolve(r->world, r->everyone, r->opt.device, AGREE_TIMEOUT_MS, &r->device));
    TRY(coord_place_find(r->world, r->everyone, &r->device, &r->place));
    r->base_bytes = mem_resident();
    size_t *memory;
    TRY(mem_calloc((size_t)r->n_ranks, sizeof(size_t), "ranks", &memory));
    status st = gather_memory(r, memory);
    if (st == ST_OK)
        st = make_plan(r, memory);
    free(memory);
    TRY(agree(r, st));
    r->result_rank = (r->plan->pp - 1) * r->plan->tp;
    st = make_worker(r);
    if (st == ST_OK)
        st = replica_messages_create(r);
    if (st == ST_OK && r->rank == 0)
        st = coordinator_create(r);
    TRY(agree(r, st));
    TRY(agree(r, worker_join(r->worker)));
    TRY(agree(r, replica_loads_create(r)));
    TRY(agree(r, r->opt.breakdown ? breakdown_create(&r->breakdown) : ST_OK));
    return r->opt.trace_steps > 0 ? trace_clock_read(r->world, r->opt.timeout_ms, &r->clock) : ST_OK;
}

status coord_replica_create(comm_world *world, const coord_replica_options *options, coord_replica **out)
{
    coord_replica *r;
    TRY(mem_calloc(1, sizeof(*r), "replica", &r));
    r->opt = *options;
    defaults_fill(&r->opt);
    r->world = world;
    r->rank = comm_world_rank(world);
    r->n_ranks = comm_world_size(world);
    r->started = log_clock();
    status_mute();
    status st = create_phases(r);
    status_unmute();
    if (st != ST_OK) {
        coord_replica_destroy(&r);
        return st;
    }
    r->ready_seconds = log_clock() - r->started;
    *out = r;
    return ST_OK;
}

void coord_replica_destroy(coord_replica **replica)
{
    coord_replica *r = *replica;
    if (r == NULL)
        return;
    for (int i = 0; r->out != NULL && i < r->n_out; i++) {
        for (int j = 0; r->out[i].requests != NULL && j < r->out[i].n_requests; j++) {
            if (r->out[i].requests[j] != NULL)
                (void)comm_wait(r->world, &r->out[i].requests[j], 1000, NULL);
        }
        free(r->out[i].requests);
        free(r->out[i].bytes);
    }
    for (int i = 0; r->in != NULL && i < r->n_in; i++) {
        free(r->in[i].first);
        free(r->in[i].bytes);
    }
    for (int i = 0; r->load_requests != NULL && i < (r->rank == 0 ? r->n_ranks : 1); i++) {
        if (r->load_requests[i] != NULL)
            (void)comm_wait(r->world, &r->load_requests[i], 1000, NULL);
    }
    free(r->load_requests);
    worker_destroy(&r->worker);
    comm_group_destroy(&r->everyone);
    coord_sched_destroy(&r->sched);
    step_arena_free(&r->arena);
    free(r->out);
    free(r->in);
    free(r->loads);
    free(r->loads_known);
    breakdown_destroy(&r->breakdown);
    free(r->broken_down);
    free(r->lent_cores);
    shard_plan_destroy(&r->plan);
    shard_checkpoint_close(&r->checkpoint);
    free(r);
    *replica = NULL;
}

static status compute(coord_replica *r, const step *s, const step_result **result)
{
    r->lent = s->lent;
    if (r->breakdown != NULL)
        breakdown_begin(r->breakdown);
    TRY(worker_step(r->worker, s, result));
    return r->breakdown != NULL ? breakdown_end(r->breakdown, r->worker, r->result_seconds) : ST_OK;
}

/* All ranks, when no step comes any more. */
static status figures_end(coord_replica *r)
{
    const worker_event *events;
    if (r->breakdown != NULL)
        TRY(breakdown_gather(r->breakdown, r->world, r->everyone, r->opt.timeout_ms, &r->broken_down));
    if (r->opt.trace_steps == 0)
        return ST_OK;
    size_t n = worker_events(r->worker, &events);
    return trace_write(r->world, r->everyone, r->opt.timeout_ms, &r->clock, r->plan->ranks[r->rank].stage, events, n, r->opt.trace_file);
}

/* ---- ranks other than 0 ---- */

static status result_send(coord_replica *r, const step_result *result)
{
    outgoing *o = &r->out[result->number % (uint64_t)r->n_out];
    size_t len = 0;
    TRY(replica_outgoing_result(r, o, result, &len));
    return replica_outgoing_send(r, o, len, 0, TAG_RESULT, o->requests);
}

/* The next step; when none comes for a while, figures of the last ones are told first. */
static status step_wait(coord_replica *r, size_t *len)
{
    bool untold = r->opt.loads && r->load_told != r->load_steps;
    status st = replica_incoming_wait(r, r->in, 0, untold ? (int)(LOAD_SECONDS * 1000) : -1, len);
    if (st != ST_TIMEOUT || !untold)
        return st;
    TRY(replica_load_send(r, false));
    return replica_incoming_wait(r, r->in, 0, -1, len);
}

static status serve_loop(coord_replica *r)
{
    step_limits limits;
    worker_step_limits(r->worker, &limits);
    for (uint64_t expected = 1;; expected++) {
        size_t len = 0;
        step s;
        const step_result *result;
        TRY(replica_incoming_post(r, r->in, 0, TAG_STEP));
        TRY(step_wait(r, &len));
        TRY(step_decode(r->in->bytes, len, &limits, &r->arena, &s));
        if (s.stop) {
            TRY(replica_load_send(r, true));
            return figures_end(r);
        }
        if (s.number != expected)
            return FAIL(ST_INTERNAL, "step %llu came where step %llu was due", (unsigned long long)s.number, (unsigned long long)expected);
        TRY(compute(r, &s, &result));
        r->load_steps = s.number;
        if (result != NULL)
            TRY(result_send(r, result));
        TRY(replica_load_send(r, false));
    }
}

/* The first to fail tells every rank why, so that none waits for a peer that gave up; comm_abort logs it, and FAIL must not twice. */
static status broken(coord_replica *r, status st)
{
    status_unmute();
    r->failed |= st != ST_OK;
    if (st != ST_OK && st != ST_ABORTED) {
        char why[1024];
        memcpy(why, status_message(), strnlen(status_message(), sizeof(why) - 1) + 1);
        why[sizeof(why) - 1] = '\0';
        comm_abort(r->world, why);
    }
    return st;
}

status coord_replica_serve(coord_replica *r)
{
    status_mute();
    return broken(r, serve_loop(r));
}

/* ---- rank 0 ---- */

status coord_replica_submit(coord_replica *r, const coord_request *request)
{
    return coord_sched_submit(r->sched, request);
}

bool coord_replica_cancel(coord_replica *r, uint64_t id)
{
    return coord_sched_cancel(r->sched, id);
}

static status step_send(coord_replica *r, const step *s)
{
    if (r->n_ranks == 1)
        return ST_OK;
    outgoing *o = &r->out[r->steps_sent % (uint64_t)r->n_out];
    size_t len = 0;
    TRY(replica_outgoing_step(r, o, s, &len));
    for (int i = 1; i < r->n_ranks; i++)
        TRY(replica_outgoing_send(r, o, len, i, TAG_STEP, &o->requests[2 * i]));
    return ST_OK;
}

static status take_result(coord_replica *r, coord_event_fn fn, void *arg)
{
    size_t len = 0;
    step_result result;
    incoming *in = &r->in[r->results_taken % (uint64_t)r->n_in];
    int32_t vocab = shard_checkpoint_arch(r->checkpoint)->vocab;
    double began = log_clock();
    TRY(replica_incoming_wait(r, in, r->result_rank, r->opt.timeout_ms, &len));
    r->result_seconds += log_clock() - began;
    step_result_limits limits = {
        .max_rows = r->opt.max_batched_tokens,
        .max_top = vocab <= INT32_MAX / 2 ? 2 * vocab : INT32_MAX, /* the likeliest, and those named */
        .max_embedding = shard_checkpoint_arch(r->checkpoint)->hidden,
        .vocab = vocab,
    };
    TRY(step_result_decode(in->bytes, len, &limits, &r->arena, &result));
    r->results_taken++;
    r->n_in_flight--;
    return coord_sched_apply(r->sched, &result, fn, arg);
}

static status step_launch(coord_replica *r, const step *s, coord_event_fn fn, void *arg)
{
    const step_result *result;
    if (r->result_rank != 0) /* posted before anything is sent */
        TRY(replica_incoming_post(r, &r->in[r->steps_sent % (uint64_t)r->n_in], r->result_rank, TAG_RESULT));
    TRY(step_send(r, s));
    r->steps_sent++;
    TRY(compute(r, s, &result));
    if (result != NULL)
        return coord_sched_apply(r->sched, result, fn, arg);
    r->n_in_flight++;
    return ST_OK;
}

status coord_replica_poll(coord_replica *r)
{
    status_mute();
    return broken(r, replica_loads_take(r));
}

/* Among how many steps the next ones' decoding sequences are divided. */
static void divide(coord_replica *r, const step *s, double now)
{
    if (r->waves.most == 1)
        return;
    coord_sched_stats stats;
    coord_sched_stats_get(r->sched, &stats);
    bool prompts = s->n_admit > 0;
    for (int32_t i = 0; i < s->n_spans && !prompts; i++)
        prompts = s->spans[i].n_tokens > 1;
    coord_waves_step(&r->waves, now, s->n_spans, stats.n_running, prompts);
    coord_sched_divide(r->sched, coord_waves_now(&r->waves));
}

status coord_replica_run(coord_replica *r, coord_event_fn fn, void *arg, bool *idle)
{
    step s;
    *idle = false;
    bool launched = false;
    if (r->opt.loads && log_clock() - r->load_at >= LOAD_SECONDS / 2)
        TRY(coord_replica_poll(r));
    while (r->n_in_flight < r->depth && coord_sched_next(r->sched, &s)) {
        double now = log_clock();
        coord_sched_began(r->sched, now);
        divide(r, &s, now);
        launched = true;
        status_mute();
        TRY(broken(r, step_launch(r, &s, fn, arg)));
        if (r->result_rank == 0)
            return ST_OK;
    }
    if (r->n_in_flight > 0) {
        status_mute();
        return broken(r, take_result(r, fn, arg));
    }
    *idle = !launched;
    return ST_OK;
}

static status stop(coord_replica *r, const step *s)
{
    while (r->n_in_flight > 0)
        TRY(take_result(r, NULL, NULL));
    TRY(step_send(r, s));
    TRY(replica_outgoing_done(r, &r->out[r->steps_sent % (uint64_t)r->n_out]));
    TRY(replica_loads_end(r));
    return figures_end(r);
}

status coord_replica_stop(coord_replica *r)
{
    if (r->rank != 0 || r->stopped)
        return ST_OK;
    r->stopped = true;
    if (r->failed) /* nobody is there to be told, and nothing to wait for */
        return ST_ABORTED;
    step s = {.number = r->steps_sent + 1, .stop = true, .n_kv_groups = shard_checkpoint_arch(r->checkpoint)->n_kv_groups};
    status_mute();
    return broken(r, stop(r, &s));
}

shard_checkpoint *coord_replica_checkpoint(coord_replica *r)
{
    return r->checkpoint;
}

const shard_plan *coord_replica_plan(const coord_replica *r)
{
    return r->plan;
}

int32_t coord_replica_max_context(const coord_replica *r)
{
    return r->opt.max_context;
}

void coord_replica_abort(coord_replica *r, const char *why)
{
    comm_abort(r->world, why);
}
