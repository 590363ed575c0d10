#include "coordinator/diagnosis.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/numbers.h"
#include "coordinator/cli/cli_util.h"

/* ---- ranks in words ---- */

static const char *host_of(const json_t *report, json_int_t rank)
{
    const char *host = json_string_value(json_object_get(json_array_get(json_object_get(report, "ranks"), (size_t)rank), "host"));
    return host != NULL ? host : "?";
}

/* "rank 3 (host b)", "ranks 0-2, 5 (hosts a, b)"; of many hosts none is named. */
static void ranks_say(const json_t *report, const json_t *ranks, mem_str *out)
{
    enum { NAMED = 2 };
    size_t n = json_array_size(ranks), n_hosts = 0;
    const char *hosts[NAMED + 1];
    mem_str_puts(out, n == 1 ? "rank " : "ranks ");
    for (size_t i = 0, begin = 0; i < n; i++) {
        json_int_t rank = json_integer_value(json_array_get(ranks, i));
        size_t h = 0;
        while (h < n_hosts && strcmp(hosts[h], host_of(report, rank)) != 0)
            h++;
        if (h == n_hosts && n_hosts <= NAMED)
            hosts[n_hosts++] = host_of(report, rank);
        if (i + 1 < n && json_integer_value(json_array_get(ranks, i + 1)) == rank + 1)
            continue;
        mem_str_printf(out, "%s%" JSON_INTEGER_FORMAT, begin > 0 ? ", " : "", json_integer_value(json_array_get(ranks, begin)));
        if (i > begin)
            mem_str_printf(out, "-%" JSON_INTEGER_FORMAT, rank);
        begin = i + 1;
    }
    for (size_t h = 0; n_hosts <= NAMED && h < n_hosts; h++)
        mem_str_printf(out, "%s%s", h > 0 ? ", " : n_hosts > 1 ? " (hosts " : " (host ", hosts[h]);
    if (n_hosts <= NAMED)
        mem_str_puts(out, ")");
}

/* ---- values and who has them ---- */

typedef enum fact_kind { TEXT, COUNT, BYTES, LIMIT_BYTES, LIMIT_COUNT, HASH, GPUS, LIST } fact_kind;

typedef struct fact {
    const char *key, *label;
    fact_kind kind;
    bool varies; /* differs from moment to moment: the least and the most are told */
} fact;

static const fact facts[] = {
    {"trireme", "trireme", TEXT, false}, {"commit", "commit", TEXT, false}, {"binary", "program's SHA-256", HASH, false}, {"checkpoint", "checkpoint", HASH, false},
    {"content", "checkpoint's bytes", HASH, false}, {"mpi", "MPI", TEXT, false}, {"pmix", "PMIx", TEXT, false}, {"libc", "libc", TEXT, false},
    {"kernel", "kernel", TEXT, false}, {"driver", "GPU driver", TEXT, false}, {"nccl", "NCCL", TEXT, false}, {"backends", "backends", TEXT, false},
    {"gpus", "GPUs", GPUS, false}, {"rdma", "RDMA cards", LIST, false}, {"cpu", "CPU", TEXT, false}, {"isa", "instruction set", TEXT, false},
    {"cores", "cores granted", COUNT, false}, {"cores_online", "cores of the host", COUNT, false}, {"memory", "memory", BYTES, false},
    {"memory_limit", "memory limit", LIMIT_BYTES, false}, {"memory_available", "memory available", BYTES, true}, {"swap_used", "swap used", BYTES, true},
    {"thp", "huge pages", TEXT, false}, {"nofile", "open files", LIMIT_COUNT, false}, {"memlock", "locked memory", LIMIT_BYTES, false},
    {"stack", "stack", LIMIT_BYTES, false}, {"shm", "/dev/shm", BYTES, false}, {"shm_free", "/dev/shm free", BYTES, true},
};

static void value_say(const fact *f, const json_t *v, mem_str *out)
{
    char amount[CLI_AMOUNT];
    const json_t *first = json_array_get(v, 0), *item;
    size_t i;
    switch (f->kind) {
    case TEXT:
        mem_str_puts(out, json_is_string(v) ? json_string_value(v) : "-");
        return;
    case HASH:
        mem_str_printf(out, "%.23s", json_is_string(v) ? json_string_value(v) : "-");
        return;
    case COUNT:
    case LIMIT_COUNT:
        mem_str_printf(out, json_is_integer(v) ? "%" JSON_INTEGER_FORMAT : f->kind == COUNT ? "-" : "unlimited", json_integer_value(v));
        return;
    case BYTES:
    case LIMIT_BYTES:
        mem_str_puts(out, json_is_integer(v) ? cli_show_bytes((size_t)json_integer_value(v), amount) : f->kind == BYTES ? "-" : "unlimited");
        return;
    case GPUS:
        if (first == NULL)
            mem_str_puts(out, "none");
        else
            mem_str_printf(out, "%zu x %s, %s", json_array_size(v), json_string_value(json_object_get(first, "name")),
                           cli_show_bytes((size_t)json_integer_value(json_object_get(first, "total_bytes")), amount));
        return;
    case LIST:
        json_array_foreach(v, i, item)
            mem_str_printf(out, "%s%s", i > 0 ? " " : "", json_string_value(item));
        if (json_array_size(v) == 0)
            mem_str_puts(out, "none");
        return;
    }
}

/* A list of [text of the value, ranks that have it], the one that most have first.  Caller owns it. */
static json_t *values_of(const json_t *report, const fact *f)
{
    json_t *list = json_array(), *rank;
    size_t i;
    json_array_foreach(json_object_get(report, "ranks"), i, rank) {
        mem_str text = {0};
        value_say(f, json_object_get(rank, f->key), &text);
        const char *t = text.data != NULL ? text.data : "";
        size_t at = 0;
        while (at < json_array_size(list) && strcmp(json_string_value(json_array_get(json_array_get(list, at), 0)), t) != 0)
            at++;
        if (at == json_array_size(list))
            json_array_append_new(list, json_pack("[s[]]", t));
        json_t *entry = json_array_get(list, at), *ranks = json_array_get(entry, 1);
        json_array_append_new(ranks, json_integer((json_int_t)i));
        if (at > 0 && json_array_size(ranks) > json_array_size(json_array_get(json_array_get(list, 0), 1))) { /* the most frequent one goes first */
            json_incref(entry);
            json_array_remove(list, at);
            json_array_insert_new(list, 0, entry);
        }
        mem_str_free(&text);
    }
    return list;
}

/* ---- findings ---- */

typedef struct finder {
    json_t *report, *ranks, *findings;
    int must;
} finder;

static double number_of(const json_t *rank, const char *key, double none)
{
    const json_t *v = json_object_get(rank, key);
    return json_is_number(v) ? json_number_value(v) : none;
}

/* ranks is taken. */
static void find(finder *f, bool must, json_t *ranks, const char *remedy, const char *format, ...) __attribute__((format(printf, 5, 6)));
static void find(finder *f, bool must, json_t *ranks, const char *remedy, const char *format, ...)
{
    char what[1024];
    mem_str text = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    ranks_say(f->report, ranks, &text);
    mem_str_printf(&text, ": %s", what);
    json_array_append_new(f->findings, json_pack("{sb so ss ss}", "must", must, "ranks", ranks, "what", text.failed ? what : text.data, "do", remedy));
    f->must += must;
    mem_str_free(&text);
}

/* Ranks whose value is not that of most of them. */
static void find_different(finder *f, const char *key, bool must, const char *remedy)
{
    const fact *which = facts;
    while (strcmp(which->key, key) != 0)
        which++;
    json_t *values = values_of(f->report, which), *entry;
    size_t i;
    json_array_foreach(values, i, entry) {
        if (i > 0)
            find(f, must, json_incref(json_array_get(entry, 1)), remedy, "%s is %s, where others have %s", which->label, json_string_value(json_array_get(entry, 0)),
                 json_string_value(json_array_get(json_array_get(values, 0), 0)));
    }
    json_decref(values);
}

/* Ranks of which test holds; NULL if there are none. */
typedef bool (*rank_test)(const finder *f, const json_t *rank);
static json_t *ranks_that(const finder *f, rank_test test)
{
    json_t *list = json_array(), *rank;
    size_t i;
    json_array_foreach(f->ranks, i, rank) {
        if (test(f, rank))
            json_array_append_new(list, json_integer((json_int_t)i));
    }
    if (json_array_size(list) > 0)
        return list;
    json_decref(list);
    return NULL;
}

static bool pins_memory(const json_t *rank)
{
    return json_array_size(json_object_get(rank, "gpus")) > 0 || json_array_size(json_object_get(rank, "rdma")) > 0;
}

/* What GPUs and RDMA cards reach must be locked: buffers of a step, and what NCCL takes for each peer. */
#define LOCKED_BYTES 1073741824.0
static bool locks_too_little(const finder *f, const json_t *rank)
{
    (void)f;
    return pins_memory(rank) && number_of(rank, "memlock", INFINITY) < LOCKED_BYTES;
}

static bool opens_too_few(const finder *f, const json_t *rank)
{
    return number_of(rank, "nofile", INFINITY) < 256 + 4 * (double)json_array_size(f->ranks);
}

static bool has_small_stack(const finder *f, const json_t *rank)
{
    (void)f;
    return number_of(rank, "stack", INFINITY) < 1048576;
}

static bool has_small_shm(const finder *f, const json_t *rank)
{
    (void)f;
    return number_of(rank, "shm_free", INFINITY) < 256.0 * 1048576;
}

static bool has_no_huge_pages(const finder *f, const json_t *rank)
{
    (void)f;
    const char *thp = json_string_value(json_object_get(rank, "thp"));
    return thp != NULL && strcmp(thp, "never") == 0;
}

static bool swaps(const finder *f, const json_t *rank)
{
    (void)f;
    return number_of(rank, "swap_used", 0) > 0.02 * number_of(rank, "memory", INFINITY);
}

static bool shares_cores(const finder *f, const json_t *rank)
{
    (void)f;
    return json_is_true(json_object_get(rank, "cores_shared"));
}

static bool is_far_from_gpu(const finder *f, const json_t *rank)
{
    (void)f;
    return json_is_true(json_object_get(rank, "gpu_far"));
}

static bool clock_is_off(const finder *f, const json_t *rank)
{
    (void)f;
    return fabs(number_of(rank, "clock_offset_seconds", 0)) > 0.05 + number_of(rank, "clock_error_seconds", 0);
}

static void find_limits(finder *f)
{
    static const struct {
        rank_test test;
        const char *key;
        bool must;
        const char *what, *remedy;
    } all[] = {
        {locks_too_little, "memlock", true, "locked memory is limited to %s, and a GPU or an RDMA card is there, which reach locked memory only",
         "raise it for the user in /etc/security/limits.conf (memlock unlimited), in the unit (LimitMEMLOCK=infinity), or for Slurm with PropagateResourceLimitsExcept=MEMLOCK"},
        {opens_too_few, "nofile", true, "%s files may be open, too few for the connections to this many ranks", "ulimit -n 65536 before the launch, or LimitNOFILE=65536 in the unit"},
        {has_small_stack, "stack", true, "the stack is limited to %s", "ulimit -s 8192 before the launch"},
        {has_small_shm, "shm_free", false, "/dev/shm has %s left; exchange slots that find no room there are put elsewhere, or fail", "docker run --shm-size=4g, or mount -o remount,size=50% /dev/shm; and remove what was left there"},
        {has_no_huge_pages, NULL, false, "transparent huge pages are off, which makes reading weights slower", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"},
        {swaps, "swap_used", false, "%s are swapped out: weights that go there make every step wait for the disk", "free memory, or swapoff -a"},
        {shares_cores, NULL, false, "cores are shared with other ranks, so that threads wait for each other", "start fewer ranks on the host, or bind them: mpirun --map-by ppr:N:node:pe=CORES, srun --cpus-per-task=CORES --cpu-bind=cores"},
        {is_far_from_gpu, NULL, false, "the GPU lies at another socket than the cores", "let the launcher bind by the GPU: srun --gpus-per-task=1 --gpu-bind=closest, mpirun --map-by numa, or leave the ranks unbound and they are placed"},
        {clock_is_off, NULL, false, "the clock is off by more than 50 ms against rank 0's, which muddles logs and certificates", "run chrony (or another NTP client) on every host"},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        char amount[CLI_AMOUNT] = "";
        json_t *ranks = ranks_that(f, all[i].test);
        if (ranks == NULL)
            continue;
        double v = all[i].key != NULL ? number_of(json_array_get(f->ranks, (size_t)json_integer_value(json_array_get(ranks, 0))), all[i].key, 0) : 0;
        if (all[i].test == opens_too_few)
            snprintf(amount, sizeof(amount), "%.0f", v);
        else
            cli_show_bytes((size_t)v, amount);
        char what[512];
        const char *mark = strstr(all[i].what, "%s"); /* the first rank's amount stands for all */
        snprintf(what, sizeof(what), "%.*s%s%s", mark != NULL ? (int)(mark - all[i].what) : 0, all[i].what, mark != NULL ? amount : "", mark != NULL ? mark + 2 : all[i].what);
        find(f, all[i].must, ranks, all[i].remedy, "%s", what);
    }
}

/* Ranks of a host that were given one and the same GPU. */
static void find_shared_gpus(finder *f)
{
    size_t n = json_array_size(f->ranks);
    for (size_t a = 0; a < n; a++) {
        json_t *mine = json_array_get(f->ranks, a), *together = json_pack("[I]", (json_int_t)a);
        const char *pci = json_string_value(json_object_get(mine, "gpu_pci"));
        bool first = pci != NULL;
        for (size_t b = 0; first && b < n; b++) {
            json_t *other = json_array_get(f->ranks, b);
            const char *theirs = json_string_value(json_object_get(other, "gpu_pci"));
            if (b == a || theirs == NULL || strcmp(pci, theirs) != 0 || strcmp(host_of(f->report, (json_int_t)a), host_of(f->report, (json_int_t)b)) != 0)
                continue;
            first = b > a;
            json_array_append_new(together, json_integer((json_int_t)b));
        }
        if (first && json_array_size(together) > 1)
            find(f, false, json_incref(together), "start one rank for each GPU: mpirun --map-by ppr:GPUS:node, srun --ntasks-per-node=GPUS --gpus-per-task=1", "all have the GPU %s", pci);
        json_decref(together);
    }
}

static void find_checkpoint(finder *f)
{
    json_t *rank, *need = json_object_get(json_object_get(f->report, "need"), "rank_bytes");
    size_t i;
    json_array_foreach(f->ranks, i, rank) {
        const char *error = json_string_value(json_object_get(rank, "checkpoint_error"));
        if (error != NULL)
            find(f, true, json_pack("[I]", (json_int_t)i), "put the checkpoint where every host sees it under the same path, or let each fetch it: trireme pull", "the checkpoint cannot be used: %s", error);
        double bytes = json_number_value(json_array_get(need, i)), mine = 0, sharers = 0;
        const json_t *gpu = json_array_get(json_object_get(rank, "gpus"), 0), *other;
        size_t j;
        json_array_foreach(f->ranks, j, other)
            sharers += strcmp(host_of(f->report, (json_int_t)i), host_of(f->report, (json_int_t)j)) == 0;
        mine = gpu != NULL ? number_of(gpu, "free_bytes", INFINITY) : number_of(rank, "memory_available", INFINITY) / fmax(sharers, 1);
        char needs[CLI_AMOUNT], has[CLI_AMOUNT];
        if (bytes > mine)
            find(f, true, json_pack("[I]", (json_int_t)i), "more ranks or hosts, fewer ranks on the host, a smaller checkpoint; `trireme plan` shows what fits",
                 "its part of the checkpoint needs %s, and its share of what is free is %s", cli_show_bytes((size_t)bytes, needs), cli_show_bytes((size_t)mine, has));
    }
    find_different(f, "checkpoint", true, "copy the checkpoint anew: weights or configuration differ");
    find_different(f, "content", true, "copy the checkpoint's files anew: their bytes differ");
}

/* ---- links ---- */

static bool crosses(const json_t *report, const json_t *link)
{
    const json_t *hosts = json_object_get(report, "hosts"), *pair = json_object_get(link, "ranks");
    size_t a = (size_t)json_integer_value(json_array_get(pair, 0)), b = (size_t)json_integer_value(json_array_get(pair, 1));
    return json_integer_value(json_array_get(hosts, a)) != json_integer_value(json_array_get(hosts, b));
}

typedef struct link_class {
    int n;
    double seconds, bytes_per_second; /* medians */
    const json_t *slowest, *narrowest;
} link_class;

static link_class classify(const json_t *report, bool across)
{
    const json_t *links = json_object_get(report, "links"), *link;
    link_class c = {0};
    double *seconds = NULL, *speeds = NULL;
    size_t i;
    if (mem_calloc(json_array_size(links) + 1, sizeof(double), "links", &seconds) != ST_OK || mem_calloc(json_array_size(links) + 1, sizeof(double), "links", &speeds) != ST_OK)
        goto done;
    json_array_foreach(links, i, link) {
        if (crosses(report, link) != across)
            continue;
        seconds[c.n] = number_of(link, "seconds", 0);
        speeds[c.n++] = number_of(link, "bytes_per_second", 0);
        c.slowest = c.slowest == NULL || number_of(link, "seconds", 0) > number_of(c.slowest, "seconds", 0) ? link : c.slowest;
        c.narrowest = c.narrowest == NULL || number_of(link, "bytes_per_second", 0) < number_of(c.narrowest, "bytes_per_second", 0) ? link : c.narrowest;
    }
    if (c.n > 0) {
        c.seconds = numbers_median(seconds, (size_t)c.n);
        c.bytes_per_second = numbers_median(speeds, (size_t)c.n);
    }
done:
    free(seconds);
    free(speeds);
    return c;
}

diagnosis_ways diagnosis_ways_of(const json_t *report, bool across)
{
    link_class c = classify(report, across);
    return (diagnosis_ways){c.n, c.seconds, c.bytes_per_second};
}

/* Between hosts a link is expected to be like the others, to within what machines that do other things as well make of it. */
#define NARROW 0.4
static void find_links(finder *f)
{
    link_class c = classify(f->report, true);
    json_t *link, *of_rank = json_array();
    size_t i, n = json_array_size(f->ranks), narrow = 0;
    int64_t *count = NULL, *all = NULL;
    if (c.n < 3 || mem_calloc(n, sizeof(*count), "links", &count) != ST_OK || mem_calloc(n, sizeof(*all), "links", &all) != ST_OK)
        goto done;
    json_array_foreach(json_object_get(f->report, "links"), i, link) {
        bool bad = number_of(link, "bytes_per_second", 0) < NARROW * c.bytes_per_second;
        for (size_t k = 0; crosses(f->report, link) && k < 2; k++) {
            size_t r = (size_t)json_integer_value(json_array_get(json_object_get(link, "ranks"), k));
            all[r]++;
            count[r] += bad;
            narrow += bad && k == 0;
        }
    }
    char speed[32];
    snprintf(speed, sizeof(speed), "%.2f GB/s", 1e-9 * c.bytes_per_second);
    for (size_t r = 0; r < n; r++) {
        if (all[r] > 1 && count[r] == all[r])
            json_array_append_new(of_rank, json_integer((json_int_t)r));
    }
    if (json_array_size(of_rank) > 0) {
        find(f, true, json_incref(of_rank), "look at that host's network card, cable and switch port (ethtool, ibstat), and at which network MPI uses there (--mca btl_tcp_if_include)",
             "every link to another host has less than %.0f %% of the bandwidth that is usual here (%s)", 100 * NARROW, speed);
    } else if (narrow > 0) {
        find(f, false, json_incref(json_object_get(c.narrowest, "ranks")), "measure again when the network is quiet; if it stays, look at the way between the two hosts",
             "of %d links between hosts %zu have less than %.0f %% of the usual bandwidth (%s), this one the least", c.n, narrow, 100 * NARROW, speed);
    }
done:
    free(count);
    free(all);
    json_decref(of_rank);
}

status diagnosis_find(json_t *report, int *must)
{
    finder f = {.report = report, .ranks = json_object_get(report, "ranks"), .findings = json_array()};
    if (f.findings == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for findings");
    find_different(&f, "trireme", true, "install the same build on every host");
    find_different(&f, "commit", true, "install the same build on every host");
    find_different(&f, "binary", true, "install the same build on every host");
    find_different(&f, "mpi", true, "install the same MPI on every host");
    find_different(&f, "pmix", false, "install the same MPI and PMIx on every host");
    find_checkpoint(&f);
    find_different(&f, "gpus", true, "start ranks on hosts with the same GPUs, or compute on the CPU everywhere: --device cpu");
    find_different(&f, "driver", false, "install the same GPU driver on every host");
    find_different(&f, "nccl", true, "install the same NCCL on every host");
    find_different(&f, "isa", false, "nothing, if the speed of the slowest will do; TRIREME_ISA makes all compute alike, bf16 to the bit");
    find_different(&f, "cores", false, "grant every rank as many cores, or tell the ranks' speeds with --rank-weights");
    find_limits(&f);
    find_shared_gpus(&f);
    find_links(&f);
    *must = f.must;
    return json_object_set_new(report, "findings", f.findings) == 0 ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for findings");
}

/* ---- the table ---- */

static void print_ranks(const json_t *report, const json_t *ranks, FILE *out)
{
    mem_str text = {0};
    ranks_say(report, ranks, &text);
    fputs(text.data != NULL ? text.data : "?", out);
    mem_str_free(&text);
}

static void print_head(const json_t *report, FILE *out)
{
    const json_t *ranks = json_object_get(report, "ranks"), *hosts = json_object_get(report, "hosts");
    size_t n = json_array_size(ranks), n_hosts = 0;
    for (size_t i = 0; i < n; i++) {
        size_t h = (size_t)json_integer_value(json_array_get(hosts, i)) + 1;
        n_hosts = h > n_hosts ? h : n_hosts;
    }
    fprintf(out, "%zu rank%s on %zu host%s\n\n", n, n == 1 ? "" : "s", n_hosts, n_hosts == 1 ? "" : "s");
    for (size_t i = 0; i < n; i++) {
        const json_t *r = json_array_get(ranks, i);
        fprintf(out, "rank %zu, host %s: %s\n", i, host_of(report, (json_int_t)i), json_string_value(json_object_get(r, "place")));
    }
    fprintf(out, "\n");
}

/* One line where all have the same; else one for each value, with who has it, those that differ from most marked. */
static void print_fact(const json_t *report, const fact *f, FILE *out)
{
    json_t *values = values_of(report, f), *entry;
    size_t i, n = json_array_size(values);
    if (f->varies && n > 2) {
        const json_t *ranks = json_object_get(report, "ranks");
        size_t least = 0, most = 0;
        for (size_t r = 0; r < json_array_size(ranks); r++) {
            double v = number_of(json_array_get(ranks, r), f->key, 0);
            least = v < number_of(json_array_get(ranks, least), f->key, 0) ? r : least;
            most = v > number_of(json_array_get(ranks, most), f->key, 0) ? r : most;
        }
        mem_str low = {0}, high = {0};
        value_say(f, json_object_get(json_array_get(ranks, least), f->key), &low);
        value_say(f, json_object_get(json_array_get(ranks, most), f->key), &high);
        fprintf(out, "%-20s  %s to %s (least: rank %zu, host %s)\n", f->label, low.data, high.data, least, host_of(report, (json_int_t)least));
        mem_str_free(&low);
        mem_str_free(&high);
        n = 0;
    }
    for (i = 0; i < n; i++) {
        entry = json_array_get(values, i);
        fprintf(out, "%-20s%s %s", i == 0 ? f->label : "", i > 0 && !f->varies ? "*" : " ", json_string_value(json_array_get(entry, 0)));
        if (n > 1) {
            fprintf(out, "   ");
            print_ranks(report, json_array_get(entry, 1), out);
        }
        fprintf(out, "\n");
    }
    json_decref(values);
}

static void print_class(const json_t *report, bool across, FILE *out)
{
    link_class c = classify(report, across);
    char a[CLI_AMOUNT], b[CLI_AMOUNT];
    if (c.n == 0)
        return;
    fprintf(out, "%-20s  %d pair%s: %s, at most %s (", across ? "between hosts" : "inside hosts", c.n, c.n == 1 ? "" : "s", cli_show_seconds(c.seconds, a),
            cli_show_seconds(number_of(c.slowest, "seconds", 0), b));
    print_ranks(report, json_object_get(c.slowest, "ranks"), out);
    fprintf(out, "); %.2f GB/s, at least %.2f (", 1e-9 * c.bytes_per_second, 1e-9 * number_of(c.narrowest, "bytes_per_second", 0));
    print_ranks(report, json_object_get(c.narrowest, "ranks"), out);
    fprintf(out, ")\n");
}

/* Few ranks: every pair. */
static void print_matrix(const json_t *report, FILE *out)
{
    enum { MOST = 12 };
    const json_t *links = json_object_get(report, "links"), *link;
    size_t n = json_array_size(json_object_get(report, "ranks")), i;
    double cell[MOST][MOST] = {{0}};
    if (n < 3 || n > MOST || json_array_size(links) != n * (n - 1) / 2)
        return;
    json_array_foreach(links, i, link) {
        const json_t *pair = json_object_get(link, "ranks");
        size_t a = (size_t)json_integer_value(json_array_get(pair, 0)), b = (size_t)json_integer_value(json_array_get(pair, 1));
        cell[a][b] = 1e6 * number_of(link, "seconds", 0);
        cell[b][a] = 1e-9 * number_of(link, "bytes_per_second", 0);
    }
    fprintf(out, "\n%-20s", "us \\ GB/s");
    for (size_t b = 0; b < n; b++)
        fprintf(out, " %8zu", b);
    for (size_t a = 0; a < n; a++) {
        fprintf(out, "\n%19zu ", a);
        for (size_t b = 0; b < n; b++)
            fprintf(out, a == b ? "        -" : " %8.*f", cell[a][b] < 10 ? 2 : 1, cell[a][b]);
    }
    fprintf(out, "\n");
}

static void print_measured(const json_t *report, FILE *out)
{
    char size[CLI_AMOUNT], seconds[CLI_AMOUNT];
    const json_t *sum, *rank, *worst = NULL;
    size_t i;
    fprintf(out, "\n");
    json_array_foreach(json_object_get(report, "ranks"), i, rank) {
        if (worst == NULL || fabs(number_of(rank, "clock_offset_seconds", 0)) > fabs(number_of(worst, "clock_offset_seconds", 0)))
            worst = rank;
    }
    if (json_array_size(json_object_get(report, "ranks")) > 1)
        fprintf(out, "%-20s  at most %s off rank 0's (rank %d, to within %s)\n", "clocks", cli_show_seconds(fabs(number_of(worst, "clock_offset_seconds", 0)), seconds),
                (int)number_of(worst, "rank", 0), cli_show_seconds(number_of(worst, "clock_error_seconds", 0), size));
    print_class(report, false, out);
    print_class(report, true, out);
    json_array_foreach(json_object_get(report, "sums"), i, sum) {
        double took = number_of(sum, "seconds", 0), bytes = number_of(sum, "bytes", 0);
        fprintf(out, "%-20s  %s of %s: %s, %.2f GB/s\n", json_string_value(json_object_get(sum, "what")), json_object_get(sum, "send") != NULL ? "handing on" : "sum", cli_show_bytes((size_t)bytes, size),
                cli_show_seconds(took, seconds), 1e-9 * bytes / fmax(took, 1e-12));
    }
    print_matrix(report, out);
}

void diagnosis_print(const json_t *report, FILE *out)
{
    const json_t *findings = json_object_get(report, "findings"), *f;
    size_t i;
    print_head(report, out);
    for (i = 0; i < ARRAY_LEN(facts); i++)
        print_fact(report, &facts[i], out);
    print_measured(report, out);
    fprintf(out, "\n");
    json_array_foreach(findings, i, f)
        fprintf(out, "%s %s\n     %s\n", json_is_true(json_object_get(f, "must")) ? "MEND" : "note", json_string_value(json_object_get(f, "what")), json_string_value(json_object_get(f, "do")));
    if (json_array_size(findings) == 0)
        fprintf(out, "nothing found that is wrong\n");
}
