/* coordinator/cli/bench_compare.c - `trireme bench compare A B`: whether the results of B are faster or slower than those of A, in words. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/compare.h"
#include "coordinator/results.h"

enum { MAX_NAMES = 32, SLOWER = 3 };

typedef struct names {
    char *text; /* cut at its commas */
    const char *of[MAX_NAMES];
    int n;
} names;

typedef struct compare_args {
    const char *files[2];
    int n_files;
    names figures, across;
    double confidence, tolerance;
    bool json;
} compare_args;

enum { OPT_METRICS = 0x7000, OPT_ACROSS, OPT_CONFIDENCE, OPT_TOLERANCE, OPT_JSON };

static const struct argp_option options[] = {
    {"metrics", OPT_METRICS, "NAME,...", 0, "Only these figures, as the JSON calls them (default: what each test is about)", 0},
    {"across", OPT_ACROSS, "NAME,...", 0, "Members that may differ in rows that match, as in tp,threads,backend", 0},
    {"confidence", OPT_CONFIDENCE, "PERCENT", 0, "Of the whole table (default 95)", 0},
    {"tolerance", OPT_TOLERANCE, "PERCENT", 0, "Differences in speed of up to this are none (default 0)", 0},
    {"json", OPT_JSON, NULL, 0, "A line of JSON for each figure instead of a table", 0},
    {0},
};

static const char doc[] =
    "Compares two files of results, B against A: each figure's ratio with its confidence interval, and the verdict in words."
    "\v"
    "Examples:\n"
    "  trireme bench -m model.gguf -r 10 --json > before.jsonl      (the same again > after.jsonl)\n"
    "  trireme bench compare before.jsonl after.jsonl\n"
    "  trireme bench serve --max-concurrency 8 --repeat 5 --save now.jsonl; trireme bench compare base.jsonl now.jsonl --tolerance 3\n"
    "  trireme bench compare one-rank.jsonl two-ranks.jsonl --across tp,threads\n"
    "\n"
    "Rows match where all that they depend on is equal.  Speed is B's over A's, above 1 is faster, for times and for rates; its interval is Welch's, on logarithms, and widened for the "
    "number of figures, so that the whole table raises a false alarm with a chance of at most 5 %.  It takes at least two runs on each side (--repeat): one run shows nothing.  Runs "
    "after one another on a machine that others use are not independent: take turns between A and B.\n"
    "\n"
    "Exit code: 0 nothing is shown to be slower, 3 something is, 2 wrong use or files that are no results, 1 other failures.";

static bool parse_names(const char *text, names *out)
{
    free(out->text);
    out->n = 0;
    out->text = strdup(text);
    char *rest = out->text;
    for (char *one; rest != NULL && (one = strsep(&rest, ",")) != NULL;) {
        if (out->n == MAX_NAMES || *one == '\0')
            return false;
        out->of[out->n++] = one;
    }
    return out->n > 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    compare_args *a = state->input;
    switch (key) {
    case OPT_METRICS:
    case OPT_ACROSS:
        if (!parse_names(arg, key == OPT_METRICS ? &a->figures : &a->across))
            argp_error(state, "--%s %s: up to %d names with commas between them are needed", key == OPT_METRICS ? "metrics" : "across", arg, MAX_NAMES);
        return 0;
    case OPT_CONFIDENCE:
        a->confidence = cli_arg_number(state, "confidence", arg, 50, 99.9999) / 100;
        return 0;
    case OPT_TOLERANCE:
        a->tolerance = cli_arg_number(state, "tolerance", arg, 0, 99) / 100;
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->n_files == 2)
            argp_error(state, "two files are compared, \"%s\" is one too many", arg);
        a->files[a->n_files++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->n_files < 2)
            argp_error(state, "two files of results are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- the environments ---- */

static bool among(const char *name, const char *const *of, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(name, of[i]) == 0)
            return true;
    }
    return false;
}

/* What else is different about the machines, builds and servers of the first rows: it may be the reason. */
static void tell_environments(const json_t *a, const json_t *b)
{
    static const char *const differ_anyway[] = {"time", "command", "load", "memory_bytes"};
    json_t *x = json_object_get(json_array_get(a, 0), "environment"), *y = json_object_get(json_array_get(b, 0), "environment"), *v;
    const char *name;
    bool any = false;
    json_object_foreach(x, name, v) {
        const json_t *other = json_object_get(y, name);
        if (among(name, differ_anyway, ARRAY_LEN(differ_anyway)) || other == NULL || json_equal(v, (json_t *)(uintptr_t)other))
            continue;
        char *left = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT), *right = json_dumps(other, JSON_ENCODE_ANY | JSON_COMPACT);
        printf("%s%s: %s, then %s\n", any ? "  " : "Different besides: ", name, left != NULL ? left : "?", right != NULL ? right : "?");
        any = true;
        free(left);
        free(right);
    }
    if (any)
        printf("\n");
}

/* ---- the table ---- */

static status tell(const compare_table *t)
{
    mem_str text = {0};
    char **keys;
    TRY(mem_calloc(t->n, sizeof(*keys), "table", &keys));
    for (size_t i = 0; i < t->n; i++)
        keys[i] = t->rows[i].key;
    compare_key_put(keys, t->n, keys[0], true, &text);
    printf("%s\n\n%-20s %12s %12s %8s %18s  runs  verdict\n", text.data != NULL ? text.data : "", "figure", "A", "B", "speed", "interval");
    for (size_t i = 0; i < t->n; i++) {
        const compare_row *r = &t->rows[i];
        char interval[64] = "";
        if (i == 0 || strcmp(r->key, t->rows[i - 1].key) != 0) {
            mem_str_clear(&text);
            compare_key_put(keys, t->n, r->key, false, &text);
            if (text.len > 0)
                printf("%s\n", text.data);
        }
        if (!isnan(r->low))
            snprintf(interval, sizeof(interval), "%.3f to %.3f", r->low, r->high);
        printf("  %-18s %12.6g %12.6g %8.3f %18s  %d, %d  %s\n", r->figure, r->a, r->b, r->speed, interval, r->n_a, r->n_b, compare_verdict_text(r->verdict));
    }
    mem_str_free(&text);
    free(keys);
    return ST_OK;
}

static void tell_sum(const compare_table *t)
{
    int of[4] = {0};
    for (size_t i = 0; i < t->n; i++)
        of[t->rows[i].verdict]++;
    printf("\nOf %zu figures B is slower in %d and faster in %d; in %d no difference is shown, and %d have too few runs to say.\n", t->n, of[COMPARE_SLOWER], of[COMPARE_FASTER],
           of[COMPARE_NOT_SHOWN], of[COMPARE_TOO_FEW]);
    if (t->unmatched_a + t->unmatched_b > 0)
        printf("%d kinds of rows are in A only, %d in B only (--across NAME,... lets rows match that differ in something).\n", t->unmatched_a, t->unmatched_b);
}

static status tell_json(const compare_table *t)
{
    for (size_t i = 0; i < t->n; i++) {
        const compare_row *r = &t->rows[i];
        json_t *low = isnan(r->low) ? json_null() : json_real(r->low), *high = isnan(r->high) ? json_null() : json_real(r->high);
        TRY(cli_print_json(json_pack("{ss ss sf sf si si sf so so ss}", "key", r->key, "figure", r->figure, "a", r->a, "b", r->b, "runs_a", r->n_a, "runs_b", r->n_b, "speed",
                                     r->speed, "low", low, "high", high, "verdict", compare_verdict_text(r->verdict))));
    }
    return ST_OK;
}

static status compare(const compare_args *a, bool *slower)
{
    json_t *x = NULL, *y = NULL;
    compare_table t = {0};
    compare_options o = {a->figures.of, a->figures.n, a->across.of, a->across.n, a->confidence, a->tolerance};
    status st = results_read(a->files[0], &x);
    if (st == ST_OK)
        st = results_read(a->files[1], &y);
    if (st == ST_OK)
        st = compare_results(x, y, &o, &t);
    if (st == ST_OK && t.n == 0)
        st = FAIL(ST_INVALID, "%s and %s have no figure in common: %d kinds of rows are in the first only, %d in the second only; --across NAME,... lets rows match that differ in something",
                  a->files[0], a->files[1], t.unmatched_a, t.unmatched_b);
    for (size_t i = 0; i < t.n; i++)
        *slower = *slower || t.rows[i].verdict == COMPARE_SLOWER;
    if (st == ST_OK && a->json) {
        st = tell_json(&t);
    } else if (st == ST_OK) {
        tell_environments(x, y);
        st = tell(&t);
        tell_sum(&t);
    }
    compare_table_free(&t);
    json_decref(x);
    json_decref(y);
    return st;
}

int cli_bench_compare(int argc, char **argv)
{
    compare_args a = {.confidence = 0.95};
    const struct argp argp = {options, parse, "A B", doc, NULL, NULL, NULL};
    bool slower = false;
    cli_parse(&argp, argc, argv, &a);
    status st = compare(&a, &slower);
    free(a.figures.text);
    free(a.across.text);
    return cli_finish_output(st != ST_OK ? status_exit_code(st) : slower ? SLOWER : 0);
}
