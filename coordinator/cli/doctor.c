/* coordinator/cli/doctor.c - `trireme doctor`: does this machine, or this job's machines, have what serving takes, and are they alike?
 *
 * Started as the job would be, each rank looks at itself (coordinator/facts.h, placement.h), all measure what is between them (links.h), and rank 0 tells what it makes
 * of that (diagnosis.h). */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/packed.h"
#include "base/threads.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/replica_args.h"
#include "coordinator/diagnosis.h"
#include "coordinator/facts.h"
#include "coordinator/links.h"
#include "coordinator/measure.h"
#include "coordinator/placement.h"
#include "trireme_version.h"

enum { MANY_RANKS = 128, SUM_ROUNDS = 60 };
static const size_t SUM_BYTES[] = {2 << 10, 16 << 10, 128 << 10, 1 << 20};

typedef struct doctor_args {
    facts_options facts;
    int32_t tp, pp;
    int timeout_ms;
    const char *machine; /* file to write; NULL: none */
    enum { PAIRS_AUTO, PAIRS_ALL, PAIRS_HOSTS, PAIRS_NONE } pairs;
    bool json;
} doctor_args;

typedef struct doctor {
    const doctor_args *a;
    comm_world *world;
    comm_group *everyone;
    coord_device device;
    coord_place place;
    shard_checkpoint *checkpoint;
    json_t *mine, *report; /* report: rank 0 */
    int rank, n, tp, pp;
} doctor;

/* ---- the command line ---- */

enum { OPT_JSON = 0x5000, OPT_TP, OPT_PP, OPT_TIMEOUT, OPT_PAIRS, OPT_CONTENT, OPT_REVISION, OPT_OFFLINE, OPT_MACHINE };

static const struct argp_option options[] = {
    {"model", 'm', "MODEL", 0, "Look at this checkpoint too: is it the same for every rank, does it fit?", 0},
    {"revision", OPT_REVISION, "REV", 0, "Branch, tag or commit of a hub name", 0},
    {"offline", OPT_OFFLINE, NULL, 0, "Never use the network", 0},
    {"content", OPT_CONTENT, NULL, 0, "Read all of the checkpoint's bytes and compare them (default: headers and samples)", 0},
    {"tp", OPT_TP, "N", 0, "Tensor-parallel ranks of a stage, whose sums are measured (default: all ranks)", 0},
    {"pp", OPT_PP, "M", 0, "Pipeline stages (default: the ranks divided by --tp)", 0},
    {"pairs", OPT_PAIRS, "all|hosts|none", 0, "Measure the way between all ranks, or of two hosts only between their first ranks (default: all of up to 128 ranks)", 0},
    {"machine", OPT_MACHINE, "FILE", 0, "Measure with the checkpoint's shapes how fast a rank computes, too, and describe the machine for `trireme plan`", 0},
    {"timeout", OPT_TIMEOUT, "SECONDS", 0, "Longest wait for another rank, at the start and later (default 30)", 0},
    {"json", OPT_JSON, NULL, 0, "The whole report as one JSON object instead of a table", 0},
    {0},
};

static const char doc[] =
    "Looks at every rank's machine, measures what is between them, and says what to mend."
    "\v"
    "Start it as the job would be started:\n"
    "  trireme doctor -m model.gguf\n"
    "  mpirun -n 4 trireme doctor -m model.gguf --tp 2\n"
    "  srun -N 8 --ntasks-per-node=8 --mpi=pmix trireme doctor -m org/name\n"
    "  mpirun -n 2 trireme doctor -m model.gguf --machine here.json\n"
    "\n"
    "What all ranks have alike is said once; where some differ from most, they are marked with * and named. Lines that begin with MEND keep the job from working, or from working well, until "
    "somebody mends them; others are worth knowing. Exit code 0: nothing to mend, 1: something is, or a rank did not come, 2: wrong use. How fast each backend's operations and GPUs' sums are, "
    "`trireme bench kernels` and `trireme bench comm` measure.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    static const char *const pairs[] = {[PAIRS_ALL] = "all", [PAIRS_HOSTS] = "hosts", [PAIRS_NONE] = "none"};
    doctor_args *a = state->input;
    switch (key) {
    case 'm':
        a->facts.model = arg;
        return 0;
    case OPT_REVISION:
        a->facts.open.revision = arg;
        return 0;
    case OPT_OFFLINE:
        a->facts.open.offline = true;
        return 0;
    case OPT_CONTENT:
        a->facts.content = true;
        return 0;
    case OPT_TP:
        a->tp = cli_arg_int(state, "tp", arg, 1, 65536);
        return 0;
    case OPT_PP:
        a->pp = cli_arg_int(state, "pp", arg, 1, 65536);
        return 0;
    case OPT_PAIRS:
        for (int i = PAIRS_ALL; i <= PAIRS_NONE; i++) {
            if (strcmp(arg, pairs[i]) == 0) {
                a->pairs = i;
                return 0;
            }
        }
        argp_error(state, "--pairs %s: all, hosts or none", arg);
        return 0;
    case OPT_MACHINE:
        a->machine = arg;
        return 0;
    case OPT_TIMEOUT:
        a->timeout_ms = cli_arg_int(state, "timeout", arg, 1, 100000) * 1000;
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_END:
        if (a->machine != NULL && (a->facts.model == NULL || a->pairs == PAIRS_NONE))
            argp_error(state, "--machine %s: give a checkpoint with -m, in whose shapes is measured, and leave out --pairs none", a->machine);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\": a checkpoint is given with -m", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- what a rank brings ---- */

static status place(doctor *d)
{
    char text[COORD_PLACE_TEXT];
    const coord_place *p = &d->place;
    TRY(coord_device_resolve(d->world, d->everyone, OPS_DEVICE_AUTO, d->a->timeout_ms, &d->device));
    TRY(coord_place_find(d->world, d->everyone, &d->device, &d->place));
    json_object_set_new(d->mine, "place", json_string(coord_place_text(p, text)));
    json_object_set_new(d->mine, "cores_shared", json_boolean(p->shared));
    json_object_set_new(d->mine, "gpu_far", json_boolean(p->gpu_far));
    json_object_set_new(d->mine, "gpu_pci", p->pci[0] != '\0' ? json_string(p->pci) : json_null());
    json_object_set_new(d->mine, "nic", p->nic[0] != '\0' ? json_string(p->nic) : json_null());
    return ST_OK;
}

static status look(doctor *d)
{
    links_clock clock;
    TRY(comm_agree(d->world, facts_gather(d->world, &d->a->facts, &d->mine, &d->checkpoint), 10 * 60 * 1000, &(int){0})); /* reading a checkpoint takes its time */
    TRY(place(d));
    TRY(links_clock_measure(d->world, d->a->timeout_ms, &clock));
    json_object_set_new(d->mine, "rank", json_integer(d->rank));
    json_object_set_new(d->mine, "clock_offset_seconds", json_real(clock.real_offset));
    json_object_set_new(d->mine, "clock_error_seconds", json_real(clock.error));
    return ST_OK;
}

/* All ranks' objects, on rank 0. */
static status gather(doctor *d)
{
    status st;
    char *text = json_line(d->mine), *all = NULL;
    size_t len = text != NULL ? strlen(text) : 0, total = 0, *bytes = NULL;
    if (text == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for what was found");
    TRY_GOTO(mem_calloc((size_t)d->n, sizeof(*bytes), "ranks", &bytes), done);
    TRY_GOTO(comm_all_gather_equal(d->everyone, &len, sizeof(len), bytes), done);
    for (int i = 0; i < d->n; i++)
        total += bytes[i];
    TRY_GOTO(mem_calloc(1, total, "ranks", &all), done);
    TRY_GOTO(comm_all_gather(d->everyone, text, bytes, all), done);
    json_t *list = json_array();
    size_t at = 0;
    for (int i = 0; d->rank == 0 && i < d->n && st == ST_OK; at += bytes[i++]) {
        json_t *o;
        st = json_parse("what a rank found", all + at, bytes[i], &o);
        if (st == ST_OK)
            json_array_append_new(list, o);
    }
    if (st == ST_OK && d->rank == 0)
        json_object_set_new(d->report, "ranks", list);
    else
        json_decref(list);
done:
    free(all);
    free(bytes);
    free(text);
    return st;
}

/* ---- what is between them ---- */

static bool measures_all(const doctor *d)
{
    return d->a->pairs == PAIRS_ALL || (d->a->pairs == PAIRS_AUTO && d->n <= MANY_RANKS);
}

static status links(doctor *d, json_t *hosts)
{
    links_pair *pairs = NULL;
    int n = 0, slots = 0, *host_of;
    json_t *list = json_array();
    TRY(mem_calloc((size_t)d->n, sizeof(*host_of), "hosts", &host_of));
    for (int i = 0; i < d->n; i++) {
        host_of[i] = comm_world_host(d->world, i);
        json_array_append_new(hosts, json_integer(host_of[i]));
    }
    status st = d->a->pairs == PAIRS_NONE ? ST_OK : links_schedule(host_of, d->n, measures_all(d), &pairs, &n, &slots);
    if (st == ST_OK)
        st = links_measure(d->world, d->everyone, d->a->timeout_ms, pairs, n, slots);
    for (int i = 0; st == ST_OK && i < n; i++)
        json_array_append_new(list, json_pack("{s[ii] sf sf}", "ranks", pairs[i].a, pairs[i].b, "seconds", pairs[i].seconds, "bytes_per_second", pairs[i].bytes_per_second));
    json_object_set_new(d->report, "links", list);
    free(pairs);
    free(host_of);
    return st;
}

/* The group's sums; of all groups of a kind, which measure at once, the slowest is told. */
static status sums_of(doctor *d, const int *ranks, int n, const char *what, json_t *list)
{
    comm_group *g = NULL;
    float *slowest;
    TRY(mem_calloc((size_t)d->n, sizeof(*slowest), "sums", &slowest));
    status st = comm_group_create(d->world, ranks, n, SUM_BYTES[ARRAY_LEN(SUM_BYTES) - 1], d->a->timeout_ms, &g);
    for (size_t i = 0; st == ST_OK && i < ARRAY_LEN(SUM_BYTES); i++) {
        double seconds = 0;
        st = links_sum(g, SUM_BYTES[i], SUM_ROUNDS, &seconds);
        memset(slowest, 0, (size_t)d->n * sizeof(*slowest));
        slowest[d->rank] = (float)seconds;
        if (st == ST_OK)
            st = comm_all_reduce(d->everyone, slowest, (size_t)d->n);
        for (int stage = 0; st == ST_OK && stage < d->n / n; stage++) {
            char name[64];
            json_t *members = json_array();
            seconds = 0;
            for (int k = 0; k < n; k++) {
                json_array_append_new(members, json_integer(stage * n + k));
                seconds = (double)slowest[stage * n + k] > seconds ? (double)slowest[stage * n + k] : seconds;
            }
            snprintf(name, sizeof(name), what, stage);
            json_array_append_new(list, json_pack("{ss so sI sf}", "what", name, "ranks", members, "bytes", (json_int_t)SUM_BYTES[i], "seconds", seconds));
        }
    }
    comm_group_destroy(&g);
    free(slowest);
    return st;
}

/* Rank i of a stage hands to rank i of the next: of a stage's pairs the slowest, from what was measured between them. */
static void handing_on(const doctor *d, json_t *list)
{
    enum { BYTES = 1 << 20 };
    const json_t *links = json_object_get(d->report, "links"), *link;
    for (int stage = 0; stage + 1 < d->pp; stage++) {
        char name[64];
        double slowest = 0;
        int a = -1;
        size_t i;
        json_array_foreach(links, i, link) {
            int from = (int)json_integer_value(json_array_get(json_object_get(link, "ranks"), 0)), to = (int)json_integer_value(json_array_get(json_object_get(link, "ranks"), 1));
            double seconds = json_number_value(json_object_get(link, "seconds")) + BYTES / json_number_value(json_object_get(link, "bytes_per_second"));
            if (from / d->tp != stage || to != from + d->tp || seconds < slowest)
                continue;
            slowest = seconds;
            a = from;
        }
        snprintf(name, sizeof(name), "stage %d to %d", stage, stage + 1);
        if (a >= 0)
            json_array_append_new(list, json_pack("{ss s[ii] si sf sb}", "what", name, "ranks", a, a + d->tp, "bytes", BYTES, "seconds", slowest, "send", 1));
    }
}

static status sums(doctor *d, const int *all)
{
    json_t *list = json_array();
    json_object_set_new(d->report, "sums", list);
    if (d->n > 1)
        TRY(sums_of(d, all, d->n, "all ranks", list));
    if (d->tp > 1 && d->tp < d->n)
        TRY(sums_of(d, all + d->rank / d->tp * d->tp, d->tp, "stage %d", list));
    handing_on(d, list);
    return ST_OK;
}

/* ---- what the checkpoint needs ---- */

static void need(doctor *d)
{
    shard_plan *plan = NULL;
    if (d->checkpoint == NULL)
        return;
    const shard_arch *arch = shard_checkpoint_arch(d->checkpoint);
    shard_plan_options o = {.tp = d->a->tp, .pp = d->a->pp, .n_ranks = d->n, .may_not_fit = true, .types = *shard_checkpoint_types(d->checkpoint, false), .max_context = 16, .max_seqs = 1};
    status_mute();
    if (shard_plan_create(arch, &o, &plan) == ST_OK && plan->n_ranks == d->n) {
        json_t *bytes = json_array();
        for (int i = 0; i < d->n; i++)
            json_array_append_new(bytes, json_integer((json_int_t)(plan->ranks[i].weight_bytes + plan->ranks[i].scratch_bytes)));
        json_object_set_new(d->report, "need", json_pack("{so}", "rank_bytes", bytes));
    }
    status_unmute();
    shard_plan_destroy(&plan);
}

/* ---- the machine, for planning ---- */

/* How fast a rank computes while all do, as in a step. */
static status speed(doctor *d, shard_device *out)
{
    int threads = threads_cores_granted() / (d->place.shared || d->place.divided ? comm_world_host_size(d->world) : 1);
    coord_measure_options o = {.n_threads = threads > 0 ? threads : 1, .arch = shard_checkpoint_arch(d->checkpoint), .types = shard_checkpoint_types(d->checkpoint, false),
                               .kv_type = SHARD_KV_F16, .seqs = 16, .context = 1024};
    TRY(comm_barrier(d->everyone));
    return comm_agree(d->world, coord_measure_device(d->device.ops, &o, out), 10 * 60 * 1000, &(int){0});
}

static json_t *types_of(const double figures[PACKED_TYPES], const double *both)
{
    json_t *o = json_object();
    for (int t = 0; t < PACKED_TYPES; t++) {
        if (figures[t] > 0 && both[t] > 0)
            json_object_set_new(o, packed_format_of((packed_type)t)->name, json_real(figures[t]));
    }
    return o;
}

/* The ways inside hosts or between them: the medians of all pairs; where there are none those of the built-in machine hold. */
static void put_way(const doctor *d, json_t *machine, const char *key, bool across)
{
    diagnosis_ways w = diagnosis_ways_of(d->report, across);
    if (w.n > 0)
        json_object_set_new(machine, key, json_pack("{sf sf}", "start_seconds", w.seconds, "bytes_per_second", w.bytes_per_second));
}

/* Hosts of the ranks that a row of the report names. */
static int hosts_among(const doctor *d, const json_t *ranks)
{
    int n = 0;
    for (size_t i = 0; i < json_array_size(ranks); i++) {
        int host = comm_world_host(d->world, (int)json_integer_value(json_array_get(ranks, i)));
        bool seen = false;
        for (size_t k = 0; k < i && !seen; k++)
            seen = comm_world_host(d->world, (int)json_integer_value(json_array_get(ranks, k))) == host;
        n += !seen;
    }
    return n;
}

/* Each size once for so many ranks on so many hosts: the slowest such group's.  As many as a machine's file may have: the whole world's come first. */
static json_t *sums_told(const doctor *d)
{
    json_t *list = json_array(), *row;
    size_t i;
    json_array_foreach(json_object_get(d->report, "sums"), i, row) {
        json_t *ranks = json_object_get(row, "ranks"), *bytes = json_object_get(row, "bytes"), *seconds = json_object_get(row, "seconds"), *other, *same = NULL;
        int n = (int)json_array_size(ranks), hosts = hosts_among(d, ranks);
        size_t k;
        if (json_object_get(row, "send") != NULL)
            continue;
        json_array_foreach(list, k, other) {
            if (json_integer_value(json_object_get(other, "ranks")) == n && json_integer_value(json_object_get(other, "hosts")) == hosts &&
                json_equal(json_object_get(other, "bytes"), bytes))
                same = other;
        }
        if (same == NULL && json_array_size(list) < SHARD_MOST_SUMS)
            json_array_append_new(list, json_pack("{si si sO sO}", "ranks", n, "hosts", hosts, "bytes", bytes, "seconds", seconds));
        else if (same != NULL && json_number_value(seconds) > json_number_value(json_object_get(same, "seconds")))
            json_object_set(same, "seconds", seconds);
    }
    return list;
}

static status describe(doctor *d, const shard_device *s)
{
    json_t *ranks = json_object_get(d->report, "ranks"), *me = json_array_get(ranks, 0), *gpu = json_array_get(json_object_get(me, "gpus"), 0), *m, *device;
    double memory = json_number_value(gpu != NULL ? json_object_get(gpu, "total_bytes") : json_object_get(me, "memory_available"));
    int on_host = comm_world_host_size(d->world);
    device = json_pack("{sf sf sf sf sf sf sf so so}", "cache_bytes_per_second", s->bytes_per_second, "attention_macs_per_second", s->attention_macs_per_second, "attention_head_seconds",
                       s->attention_head_seconds, "elements_per_second", s->elements_per_second, "rotated_per_second", s->rotated_per_second, "phase_seconds", s->phase_seconds, "matrix_seconds",
                       s->matrix_seconds, "weights_per_second", types_of(s->weights_per_second, s->macs_per_second), "macs_per_second", types_of(s->macs_per_second, s->weights_per_second));
    m = json_pack("{ss ss si sf so so}", "machine", json_string_value(json_object_get(me, "host")), "base", "cpu", "devices_per_host", on_host, "memory_bytes",
                  gpu != NULL ? memory : memory / on_host, "device", device, "measured",
                  json_pack("{ss si ss ss sO}", "by", "trireme doctor " TRIREME_VERSION " " TRIREME_COMMIT, "ranks", d->n, "model", d->a->facts.model, "computes", d->device.ops->name, "sums",
                            json_object_get(d->report, "sums")));
    if (m == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for the machine's description");
    put_way(d, m, "in_host", false);
    put_way(d, m, "between_hosts", true);
    if (gpu == NULL) /* GPUs add elsewhere than where these were measured */
        json_object_set_new(m, "sums", sums_told(d));
    char *text = json_dumps(m, JSON_INDENT(2));
    json_decref(m);
    status st = text == NULL ? FAIL(ST_NO_MEMORY, "no memory for the machine's description") : file_write_all(d->a->machine, text, strlen(text), 0644);
    free(text);
    return st;
}

static status machine(doctor *d)
{
    shard_device s;
    if (d->a->machine == NULL)
        return ST_OK;
    status st = d->checkpoint == NULL ? ST_NOT_FOUND : ST_OK;
    if (comm_agree(d->world, st, d->a->timeout_ms, &(int){0}) != ST_OK) {
        if (d->rank == 0)
            log_warn("%s is not written: the checkpoint cannot be used on every rank", d->a->machine);
        return ST_OK; /* the findings say why */
    }
    TRY(speed(d, &s));
    return d->rank == 0 ? describe(d, &s) : ST_OK;
}

/* ---- the whole ---- */

static status split(doctor *d)
{
    d->tp = d->a->tp > 0 ? d->a->tp : d->a->pp > 0 && d->n % d->a->pp == 0 ? d->n / d->a->pp : d->n;
    d->pp = d->a->pp > 0 ? d->a->pp : d->n / d->tp;
    if ((int64_t)d->tp * d->pp == d->n)
        return ST_OK;
    return d->rank == 0 ? FAIL(ST_INVALID, "tp %d x pp %d are %lld ranks, and this job has %d", d->tp, d->pp, (long long)d->tp * d->pp, d->n) : ST_INVALID;
}

static status examine(doctor *d, int *must)
{
    int *all;
    d->rank = comm_world_rank(d->world);
    d->n = comm_world_size(d->world);
    if (d->n > 1)
        log_rank_set(d->rank);
    TRY(split(d));
    TRY(mem_calloc((size_t)d->n, sizeof(*all), "ranks", &all));
    for (int i = 0; i < d->n; i++)
        all[i] = i;
    d->report = json_object();
    json_t *hosts = json_array();
    json_object_set_new(d->report, "hosts", hosts);
    status st = comm_group_create(d->world, all, d->n, 4096, d->a->timeout_ms, &d->everyone);
    if (st == ST_OK)
        st = look(d);
    if (st == ST_OK)
        st = gather(d);
    if (st == ST_OK)
        st = links(d, hosts);
    if (st == ST_OK)
        st = sums(d, all);
    if (st == ST_OK)
        st = machine(d);
    free(all);
    if (st != ST_OK || d->rank > 0)
        return st;
    need(d);
    return diagnosis_find(d->report, must);
}

int cli_doctor(int argc, char **argv)
{
    doctor_args a = {.facts = {.version = TRIREME_VERSION, .commit = TRIREME_COMMIT}, .timeout_ms = 30000};
    const struct argp argp = {options, parse, NULL, doc, NULL, NULL, NULL};
    cli_parse(&argp, argc, argv, &a);
    doctor d = {.a = &a};
    int must = 0;
    status st = cli_world_create(a.timeout_ms, &d.world);
    if (st == ST_OK)
        st = examine(&d, &must);
    int code = status_exit_code(st);
    if (st == ST_OK && d.rank == 0) {
        code = must > 0;
        if (a.json)
            st = cli_print_json(json_incref(d.report));
        else
            diagnosis_print(d.report, stdout);
    }
    shard_checkpoint_close(&d.checkpoint);
    comm_group_destroy(&d.everyone);
    json_decref(d.mine);
    json_decref(d.report);
    comm_world_destroy(&d.world);
    return cli_finish_output(st != ST_OK ? status_exit_code(st) : code);
}
