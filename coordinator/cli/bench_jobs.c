#include "coordinator/cli/bench_jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/command.h"
#include "coordinator/cli/up_service.h"
#include "coordinator/placement.h"
#include "coordinator/results.h"
#include "coordinator/supervise.h"

#define SHOWN_LINES 8 /* of a job that failed */
#define ARENA_BYTES (1 << 20)
#define MAX_JOBS 4096
#define LOOK_MS 10
#define END_SECONDS 10 /* for jobs that are told to end */

/* ---- the command line ---- */

enum { OPT_LAUNCHER = 0x6a00, OPT_JSON, OPT_SAVE };

static const struct argp_option options[] = {
    {"model", 'm', "MODEL", 0, "The checkpoint", 1},
    {"repeat", 'r', "N", 0, "Measured runs of each row (default 3)", 1},
    {NULL, 0, NULL, 0, "How jobs start, and what comes out:", 5},
    {"launcher", OPT_LAUNCHER, "WORDS", 0, "What starts a job of {ranks} ranks, the {job}-th of those at once (default: mpirun where there are several ranks, with this machine's cores divided among jobs)", 0},
    {"json", OPT_JSON, NULL, 0, "Lines of JSON instead of tables", 0},
    {"save", OPT_SAVE, "FILE", 0, "Add the lines of JSON to this file", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    bench_jobs_args *a = state->input;
    switch (key) {
    case 'm':
        a->model = arg;
        return 0;
    case 'r':
        a->repeat = cli_arg_int(state, "repeat", arg, 1, BENCH_JOBS_REPEAT);
        return 0;
    case OPT_LAUNCHER:
        a->launcher = arg;
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case OPT_SAVE:
        a->save = arg;
        return 0;
    case ARGP_KEY_ARGS:
        a->rest = state->argv + state->next;
        a->n_rest = state->argc - state->next;
        if (state->next < 2 || strcmp(state->argv[state->next - 1], "--") != 0)
            argp_error(state, "unexpected argument \"%s\": options of trireme bench stand after --", a->rest[0]);
        return 0;
    case ARGP_KEY_END:
        if (a->model == NULL)
            argp_error(state, "give the checkpoint with -m");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp bench_jobs_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

/* ---- a run of jobs ---- */

typedef struct runner {
    bench_jobs *jobs;
    up_folder folder;
    mem_arena *arena; /* of words */
    supervise *children;
    int *ready; /* runs that each job is ready for */
    int n_gone, n_ended;
    double started;
    char program[4096];
} runner;

/* "ready 3", as bench.c says it. */
static void on_line(void *arg, int child, const char *line)
{
    runner *r = arg;
    int k;
    if (sscanf(line, "ready %d", &k) == 1 && child < r->jobs->n)
        r->ready[child] = k;
    else if (r->jobs->first_token_seconds == 0 && strncmp(line, "first token", 11) == 0)
        r->jobs->first_token_seconds = log_clock() - r->started;
}

/* ---- words ---- */

static const char *formatted(runner *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *formatted(runner *r, const char *format, ...)
{
    char text[5000];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return n < 0 || (size_t)n >= sizeof(text) ? NULL : mem_arena_strndup(r->arena, text, (size_t)n);
}

/* A launcher's word with its names filled in. */
static const char *filled(runner *r, const char *text, size_t n, int job)
{
    static const char *const names[] = {"{ranks}", "{job}"};
    int values[] = {r->jobs->ranks, job};
    mem_str out = {0};
    for (size_t i = 0; i < n;) {
        size_t k = 0;
        while (k < ARRAY_LEN(names) && strncmp(text + i, names[k], strlen(names[k])) != 0)
            k++;
        if (k < ARRAY_LEN(names)) {
            mem_str_printf(&out, "%d", values[k]);
            i += strlen(names[k]);
        } else
            mem_str_append(&out, &text[i++], 1);
    }
    const char *kept = out.failed ? NULL : mem_arena_strndup(r->arena, out.data, out.len);
    mem_str_free(&out);
    return kept;
}

static void launcher_words(runner *r, int job, command_words *w)
{
    for (const char *at = r->jobs->launcher; *at != '\0';) {
        size_t blanks = strspn(at, " "), n = strcspn(at + blanks, " ");
        if (n > 0)
            command_word(w, filled(r, at + blanks, n, job));
        at += blanks + n;
    }
}

/* The job's part of this machine's cores: whole ones, neighbours; NULL: they cannot be divided. */
static const char *cores_of(runner *r, int job)
{
    placement_topology t;
    coord_place place;
    placement_rank *all;
    char text[1024];
    const char *cores = NULL;
    if (mem_calloc((size_t)r->jobs->n, sizeof(*all), "the jobs' cores", &all) != ST_OK)
        return NULL;
    if (placement_topology_load(&t) == ST_OK) {
        for (int i = 0; i < r->jobs->n; i++)
            sched_getaffinity(0, sizeof(all[i].granted), &all[i].granted);
        if (placement_choose(t, all, r->jobs->n, job, &place) == ST_OK && !place.shared && place.real && strstr(coord_cores_text(&place.cores, text, sizeof(text)), "...") == NULL)
            cores = formatted(r, "%s", text);
        placement_topology_free(&t);
    }
    free(all);
    return cores;
}

static void job_words(runner *r, int job, command_words *w)
{
    const char *cores = r->jobs->launcher == NULL && r->jobs->n > 1 ? cores_of(r, job) : NULL;
    if (cores != NULL)
        command_words_of(w, (const char *[]){"taskset", "-c", cores, NULL});
    if (r->jobs->launcher != NULL)
        launcher_words(r, job, w);
    else if (r->jobs->ranks > 1)
        command_words_of(w, (const char *[]){"mpirun", "--quiet", "-n", formatted(r, "%d", r->jobs->ranks), NULL});
    command_word(w, r->program);
    command_words_of(w, r->jobs->words);
    command_words_of(w, (const char *[]){"--save", formatted(r, "%s/job-%d.jsonl", r->folder.path, job), NULL});
    if (r->jobs->lockstep)
        command_words_of(w, (const char *[]){"--lockstep", r->folder.path, NULL});
}

/* ---- running ---- */

static status jobs_start(runner *r)
{
    command_words env = {0};
    command_mpi_environment(r->jobs->n * r->jobs->ranks, &env);
    status st = env.failed ? FAIL(ST_NO_MEMORY, "no memory for the jobs' environment") : ST_OK;
    r->started = log_clock();
    for (int i = 0; i < r->jobs->n && st == ST_OK; i++) {
        command_words w = {0};
        int index;
        job_words(r, i, &w);
        supervise_child child = {.name = "job", .argv = w.of, .env = r->jobs->launcher == NULL ? env.of : NULL, .death_signal = SIGTERM};
        st = w.failed ? FAIL(ST_NO_MEMORY, "no memory for a job's arguments") : supervise_start(r->children, &child, &index);
        free(w.of);
    }
    free(env.of);
    return st;
}

/* When all are ready for a run, the file that they wait for. */
static status go(runner *r)
{
    int fewest = r->ready[0];
    for (int i = 1; i < r->jobs->n; i++)
        fewest = r->ready[i] < fewest ? r->ready[i] : fewest;
    for (; r->n_gone < fewest; r->n_gone++) {
        char path[4200];
        snprintf(path, sizeof(path), "%s/%d", r->folder.path, r->n_gone + 1);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
            return FAIL(ST_IO, "%s: %s", path, strerror(errno));
        close(fd);
    }
    return ST_OK;
}

static status job_failed(const runner *r, int job, int exit_code)
{
    mem_str said = {0};
    for (int i = SHOWN_LINES; i-- > 0;) {
        const char *line = supervise_last_line(r->children, job, i);
        if (line != NULL && strncmp(line, "ready ", 6) != 0)
            mem_str_printf(&said, "\n    %s", line);
    }
    status st = FAIL(ST_INTERNAL, "a job of %d ranks ended with exit code %d%s", r->jobs->ranks, exit_code, said.data != NULL ? said.data : "");
    mem_str_free(&said);
    return st;
}

static status jobs_wait(runner *r)
{
    while (r->n_ended < r->jobs->n) {
        supervise_event e;
        TRY(supervise_wait(r->children, LOOK_MS, &e));
        if (e.kind == SUPERVISE_SIGNAL)
            return FAIL(ST_ABORTED, "ended by a signal");
        if (e.kind == SUPERVISE_ENDED && e.exit_code != 0)
            return job_failed(r, e.child, e.exit_code);
        r->n_ended += e.kind == SUPERVISE_ENDED;
        if (r->jobs->lockstep && r->n_ended == 0)
            TRY(go(r));
    }
    return ST_OK;
}

/* What still runs gets the time to end its ranks. */
static void jobs_end(runner *r)
{
    supervise_event e;
    for (int i = 0; i < supervise_count(r->children); i++)
        supervise_stop(r->children, i, SIGTERM);
    for (double until = log_clock() + END_SECONDS; log_clock() < until;) {
        int running = 0;
        for (int i = 0; i < supervise_count(r->children); i++)
            running += supervise_state_of(r->children, i) == SUPERVISE_RUNNING;
        if (running == 0 || supervise_wait(r->children, 100, &e) != ST_OK)
            return;
    }
}

static status rows_take(const runner *r, json_t **rows)
{
    for (int i = 0; i < r->jobs->n; i++) {
        char path[4200];
        snprintf(path, sizeof(path), "%s/job-%d.jsonl", r->folder.path, i);
        TRY(results_read(path, &rows[i]));
    }
    return ST_OK;
}

static status run(runner *r, json_t **rows)
{
    ssize_t n = readlink("/proc/self/exe", r->program, sizeof(r->program) - 1);
    if (n <= 0)
        return FAIL(ST_IO, "cannot find the program itself: %s", strerror(errno));
    TRY(up_folder_create(&r->folder));
    TRY(mem_calloc((size_t)r->jobs->n, sizeof(*r->ready), "jobs", &r->ready));
    /* A job that fails is not started again. */
    TRY(supervise_create(&(supervise_options){.policy = {.first_delay = 1, .most_delay = 1, .healthy = 1e9}, .on_line = on_line, .arg = r}, &r->children));
    status st = jobs_start(r);
    if (st == ST_OK)
        st = jobs_wait(r);
    if (st != ST_OK)
        jobs_end(r);
    return st == ST_OK ? rows_take(r, rows) : st;
}

status bench_jobs_run(bench_jobs *jobs, json_t **rows)
{
    runner r = {.jobs = jobs, .folder = {.lock = -1}, .arena = mem_arena_create(ARENA_BYTES)};
    memset(rows, 0, (size_t)jobs->n * sizeof(*rows));
    jobs->first_token_seconds = 0;
    status st = r.arena == NULL ? FAIL(ST_NO_MEMORY, "no memory for jobs") : run(&r, rows);
    supervise_destroy(&r.children);
    up_folder_remove(&r.folder);
    mem_arena_destroy(&r.arena);
    free(r.ready);
    for (int i = 0; i < jobs->n && st != ST_OK; i++) {
        json_decref(rows[i]);
        rows[i] = NULL;
    }
    return st;
}
