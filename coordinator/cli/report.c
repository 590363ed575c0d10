/* coordinator/cli/report.c - `trireme report`: results of benchmarks as one page. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/report.h"
#include "coordinator/results.h"

enum { MAX_FILES = 64 };

typedef struct report_args {
    const char *files[MAX_FILES];
    int n_files;
    const char *out, *title;
} report_args;

static const struct argp_option options[] = {
    {"output", 'o', "FILE", 0, "The page, \"-\" for standard output (default report.html)", 0},
    {"title", 't', "TEXT", 0, "Its heading (default \"Trireme: benchmark results\")", 0},
    {0},
};

static const char doc[] =
    "Turns results of benchmarks into one HTML page: curves of latency and throughput, scaling, where time went, tables, environments."
    "\v"
    "Examples:\n"
    "  trireme bench serve --max-concurrency 1,2,4,8,16 --num-prompts 20,40,80,160,320 --save serve.jsonl\n"
    "  for tp in 1 2; do mpirun -n $tp trireme bench -m model.gguf --tp $tp --threads 1 --json >> scale.jsonl; done\n"
    "  trireme report serve.jsonl scale.jsonl -o report.html\n"
    "  trireme bench -m model.gguf --trace-steps 20-24 --trace-file steps.json; trireme report steps.json -o steps.html\n"
    "\n"
    "The files are what `trireme bench --json` (or --save) prints, or traces of steps; any number of commands' lines may stand in one.  Runs of the same thing are averaged in curves, and each is a row of a "
    "table.  Several files are told apart by their names, series within one by --label.  The page is one file without scripts, and loads nothing from anywhere.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    report_args *a = state->input;
    switch (key) {
    case 'o':
        a->out = arg;
        return 0;
    case 't':
        a->title = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (a->n_files == MAX_FILES)
            argp_error(state, "at most %d files", MAX_FILES);
        a->files[a->n_files++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->n_files == 0)
            argp_error(state, "files of results are needed: what `trireme bench --json` prints");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strcmp(path, "-") == 0 ? "standard input" : slash != NULL ? slash + 1 : path;
}

static status make(const report_args *a, json_t **rows, mem_str *page)
{
    const char *names[MAX_FILES];
    size_t n = 0;
    for (int i = 0; i < a->n_files; i++) {
        TRY(results_read(a->files[i], &rows[i]));
        names[i] = name_of(a->files[i]);
        n += json_array_size(rows[i]);
    }
    if (n == 0)
        return FAIL(ST_FORMAT, "%s: no results in it", a->files[0]);
    TRY(report_html(a->title, names, rows, a->n_files, page));
    if (strcmp(a->out, "-") != 0)
        return file_write_all(a->out, page->data, page->len, 0644);
    fwrite(page->data, 1, page->len, stdout);
    return ST_OK;
}

int cli_report_command(int argc, char **argv)
{
    report_args a = {.out = "report.html", .title = "Trireme: benchmark results"};
    const struct argp argp = {options, parse, "RESULTS...", doc, NULL, NULL, NULL};
    json_t *rows[MAX_FILES] = {NULL};
    mem_str page = {0};
    cli_parse(&argp, argc, argv, &a);
    status st = make(&a, rows, &page);
    if (st == ST_OK && strcmp(a.out, "-") != 0)
        printf("%s: %zu KiB\n", a.out, page.len >> 10);
    mem_str_free(&page);
    for (int i = 0; i < a.n_files; i++)
        json_decref(rows[i]);
    return cli_finish_output(status_exit_code(st));
}
