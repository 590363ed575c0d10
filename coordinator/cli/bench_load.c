/* coordinator/cli/bench_load.c - `trireme bench load`: from a job's start to its first token, with the checkpoint's files in the page cache and without.
 *
 * Every start is a job of its own (bench_jobs.h).  Its time is that of whoever waits for it: from the moment when the launcher is started to the line that says that the first token
 * has come.  Before a cold start the system is asked to drop the files from memory, and then how much of them it still has. */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/numbers.h"
#include "coordinator/cli/bench_jobs.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/command.h"
#include "coordinator/results.h"
#include "shard/checkpoint.h"

enum { PIECE_BYTES = 64 << 20 };

typedef struct load_args {
    bench_jobs_args jobs;
    const char *threads;
    shard_open_options open;
    int32_t tp, pp, prompt;
    bool cold, warm;
} load_args;

enum { OPT_TP = 0x6900, OPT_PP, OPT_CACHE, OPT_OFFLINE };

static const struct argp_option options[] = {
    {"offline", OPT_OFFLINE, NULL, 0, "Never use the network", 0},
    {"tp", OPT_TP, "N", 0, "Tensor-parallel ranks of a stage (default 1)", 0},
    {"pp", OPT_PP, "M", 0, "Pipeline stages (default 1)", 0},
    {"threads", 't', "N", 0, "Threads of each rank (default: the host's cores divided among its ranks)", 0},
    {"prompt", 'p', "TOKENS", 0, "Tokens of the prompt (default 16)", 0},
    {"cache", OPT_CACHE, "cold|warm|both", 0, "The checkpoint's files dropped from the page cache before each start, or in it (default both)", 0},
    {0},
};

static const char doc[] =
    "Measures starts: from the launcher's start to the first token of a prompt."
    "\v"
    "Examples:\n"
    "  trireme bench load -m model.gguf\n"
    "  trireme bench load -m /shared/large --tp 8 --launcher 'srun --mpi=pmix -n {ranks}' -- --kv-type fp8\n"
    "\n"
    "What stands after -- is given to trireme bench.  Columns: seconds to the first token, mean, standard deviation and fastest; until all ranks were ready; reading the weights, on the "
    "slowest rank; how many bytes a second those are; and how much of the files was in memory before.  Only this machine's page cache is dropped, and only of files that no "
    "other process has mapped.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    load_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->jobs;
        return 0;
    case OPT_OFFLINE:
        a->open.offline = true;
        return 0;
    case OPT_TP:
        a->tp = cli_arg_int(state, "tp", arg, 1, 65536);
        return 0;
    case OPT_PP:
        a->pp = cli_arg_int(state, "pp", arg, 1, 65536);
        return 0;
    case 't':
        (void)cli_arg_int(state, "threads", arg, 1, 1024);
        a->threads = arg;
        return 0;
    case 'p':
        a->prompt = cli_arg_int(state, "prompt", arg, 1, 1 << 24);
        return 0;
    case OPT_CACHE:
        a->cold = strcmp(arg, "warm") != 0;
        a->warm = strcmp(arg, "cold") != 0;
        if (strcmp(arg, "cold") != 0 && strcmp(arg, "warm") != 0 && strcmp(arg, "both") != 0)
            argp_error(state, "--cache %s: cold, warm or both", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- the page cache ---- */

typedef struct file_list {
    char **paths;
    int n;
} file_list;

static void files_free(file_list *f)
{
    for (int i = 0; i < f->n; i++)
        free(f->paths[i]);
    free(f->paths);
    *f = (file_list){0};
}

/* The files that the weights lie in.  Nothing of them stays mapped. */
static status files_of(const load_args *a, file_list *out)
{
    shard_checkpoint *c;
    status st = shard_checkpoint_open(a->jobs.model, &a->open, &c);
    int n = 0;
    while (st == ST_OK && shard_checkpoint_file(c, n) != NULL)
        n++;
    if (st == ST_OK)
        st = mem_calloc((size_t)n + 1, sizeof(*out->paths), "files", &out->paths);
    for (; st == ST_OK && out->n < n; out->n++) {
        out->paths[out->n] = strdup(shard_checkpoint_file(c, out->n));
        if (out->paths[out->n] == NULL)
            st = FAIL(ST_NO_MEMORY, "no memory for a path");
    }
    shard_checkpoint_close(&c);
    return st;
}

/* Of a file of `size` bytes, those that are in memory. */
static double cached_bytes(int fd, off_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    double bytes = 0;
    static unsigned char present[PIECE_BYTES >> 12];
    for (off_t at = 0; at < size; at += PIECE_BYTES) {
        size_t len = size - at < PIECE_BYTES ? (size_t)(size - at) : PIECE_BYTES;
        void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, at);
        if (p == MAP_FAILED)
            continue;
        if (mincore(p, len, (void *)present) == 0) {
            for (size_t i = 0; i < (len + page - 1) / page; i++)
                bytes += (present[i] & 1) != 0 ? (double)page : 0;
        }
        munmap(p, len);
    }
    return bytes < (double)size ? bytes : (double)size;
}

/* Drops the files from memory, or reads them into it; *cached: what part of them is there then. */
static status files_prepare(const file_list *f, bool cold, double *cached)
{
    double there = 0, all = 0;
    char *piece = NULL;
    if (!cold)
        TRY(mem_calloc(1, PIECE_BYTES, "a piece of a file", &piece));
    status st = ST_OK;
    for (int i = 0; i < f->n && st == ST_OK; i++) {
        struct stat s;
        int fd = open(f->paths[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &s) != 0) {
            st = FAIL(ST_IO, "%s: %s", f->paths[i], strerror(errno));
        } else {
            if (cold) {
                (void)fdatasync(fd); /* what is still to be written cannot be dropped */
                (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            } else {
                while (read(fd, piece, PIECE_BYTES) > 0) {
                }
            }
            there += cached_bytes(fd, s.st_size);
            all += (double)s.st_size;
        }
        if (fd >= 0)
            close(fd);
    }
    free(piece);
    *cached = all > 0 ? there / all : 0;
    return st;
}

/* ---- starts ---- */

typedef struct starts {
    double seconds[BENCH_JOBS_REPEAT], load_seconds, ready_seconds, cached; /* the last three on average */
    json_int_t bytes;                                                /* of weights, on all ranks */
} starts;

static status start_once(const load_args *a, json_t *environment, starts *s, int32_t i)
{
    char tp[16], pp[16], prompt[16];
    command_words w = {0};
    json_t *rows = NULL;
    snprintf(tp, sizeof(tp), "%d", a->tp);
    snprintf(pp, sizeof(pp), "%d", a->pp);
    snprintf(prompt, sizeof(prompt), "%d", a->prompt);
    command_words_of(&w, (const char *[]){"bench", "-m", a->jobs.model, "--tp", tp, "--pp", pp, "-p", prompt, "--first-token", NULL});
    if (a->threads != NULL)
        command_words_of(&w, (const char *[]){"--threads", a->threads, NULL});
    if (a->open.offline)
        command_word(&w, "--offline");
    for (int k = 0; k < a->jobs.n_rest; k++)
        command_word(&w, a->jobs.rest[k]);
    bench_jobs jobs = {.n = 1, .ranks = a->tp * a->pp, .launcher = a->jobs.launcher, .words = w.of};
    status st = w.failed ? FAIL(ST_NO_MEMORY, "no memory for a job") : bench_jobs_run(&jobs, &rows);
    free(w.of);
    TRY(st);
    const json_t *row = json_array_get(rows, 0);
    s->seconds[i] = jobs.first_token_seconds;
    s->load_seconds += json_number_value(json_object_get(row, "load_seconds")) / a->jobs.repeat;
    s->ready_seconds += json_number_value(json_object_get(row, "ready_seconds")) / a->jobs.repeat;
    s->bytes = json_integer_value(json_object_get(row, "weight_bytes"));
    json_t *replica = json_object_get(json_object_get(row, "environment"), "replica");
    if (replica != NULL)
        json_object_set(environment, "replica", replica);
    json_decref(rows);
    return s->seconds[i] > 0 ? ST_OK : FAIL(ST_INTERNAL, "a job ended without a first token");
}

static void print_starts(const load_args *a, const starts *s, bool cold)
{
    double sd, mean = numbers_mean(s->seconds, (size_t)a->jobs.repeat, &sd), least = INFINITY;
    for (int32_t i = 0; i < a->jobs.repeat; i++)
        least = fmin(least, s->seconds[i]);
    printf("%-6s %8.3f +- %-6.3f %8.3f %8.3f %8.3f %8.2f %9.1f%%\n", cold ? "cold" : "warm", mean, sd, least, s->ready_seconds, s->load_seconds,
           s->load_seconds > 0 ? 1e-9 * (double)s->bytes / s->load_seconds : 0, 100 * s->cached);
    fflush(stdout);
}

static status put_starts(const load_args *a, json_t *environment, const starts *s, bool cold)
{
    json_t *seconds = json_array();
    for (int32_t i = 0; i < a->jobs.repeat; i++)
        json_array_append_new(seconds, json_real(s->seconds[i]));
    json_t *o = json_pack("{ss ss si si si so sf sf sf sI}", "test", "load", "cache", cold ? "cold" : "warm", "tp", a->tp, "pp", a->pp, "prompt", a->prompt, "seconds", seconds,
                          "load_seconds", s->load_seconds, "ready_seconds", s->ready_seconds, "cached", s->cached, "weight_bytes", s->bytes);
    return results_put(o, environment, a->jobs.json, a->jobs.save);
}

static status measure(const load_args *a, json_t *environment, const file_list *files, bool cold)
{
    starts *s;
    TRY(mem_calloc(1, sizeof(*s), "starts", &s));
    status st = ST_OK;
    for (int32_t i = 0; i < a->jobs.repeat && st == ST_OK; i++) {
        double cached = 0;
        st = files_prepare(files, cold, &cached);
        s->cached += cached / a->jobs.repeat;
        if (st == ST_OK)
            st = start_once(a, environment, s, i);
    }
    if (st == ST_OK && !a->jobs.json)
        print_starts(a, s, cold);
    if (st == ST_OK && cold && s->cached > 0.01)
        log_warn("%.0f %% of the files stayed in memory: another process has them open, or their file system keeps them", 100 * s->cached);
    if (st == ST_OK && (a->jobs.json || a->jobs.save != NULL))
        st = put_starts(a, environment, s, cold);
    free(s);
    return st;
}

int cli_bench_load(int argc, char **argv)
{
    load_args a = {.tp = 1, .pp = 1, .prompt = 16, .jobs = {.repeat = 3}, .cold = true, .warm = true};
    const struct argp_child children[] = {{&bench_jobs_argp, 0, NULL, 0}, {0}};
    const struct argp argp = {options, parse, NULL, doc, children, NULL, NULL};
    file_list files = {0};
    json_t *environment = results_environment(argc, argv);
    cli_parse(&argp, argc, argv, &a);
    status st = files_of(&a, &files);
    if (st == ST_OK && !a.jobs.json)
        printf("%s, tp %d x pp %d, first token of a prompt of %d\n%-6s %18s %8s %8s %8s %8s %10s\n", a.jobs.model, a.tp, a.pp, a.prompt, "", "seconds", "fastest", "ready", "weights", "GB/s", "cached");
    if (st == ST_OK && a.cold)
        st = measure(&a, environment, &files, true);
    if (st == ST_OK && a.warm)
        st = measure(&a, environment, &files, false);
    files_free(&files);
    json_decref(environment);
    return cli_finish_output(st != ST_OK ? cli_report(st) : 0);
}
