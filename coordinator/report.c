#include "coordinator/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/compare.h"
#include "coordinator/report_internal.h"

enum { MAX_SERIES = 64, MAX_PHASES = 16, ARENA_BYTES = 1 << 30 };

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\n<style>\n"
    ":root{--ground:#fff;--text:#1c2026;--soft:#5c6570;--rule:#dfe3e8;--c0:#1f6fb4;--c1:#c2410c;--c2:#15803d;--c3:#8b3fb8;--c4:#a16207;--c5:#be185d;--c6:#0f766e;--c7:#4b5563}\n"
    "@media(prefers-color-scheme:dark){:root{--ground:#14171b;--text:#e6e9ed;--soft:#9aa4b0;--rule:#323840;--c0:#6cb6ff;--c1:#ff9a5c;--c2:#6bd68f;--c3:#d3a4f5;--c4:#e8c04a;--c5:#ff8fbd;"
    "--c6:#5fd6c8;--c7:#b4bdc8}}\n"
    "body{background:var(--ground);color:var(--text);font:15px/1.45 system-ui,sans-serif;margin:0 auto;padding:1.5rem;max-width:78rem}\n"
    "h1,h2,p,li,figcaption{overflow-wrap:anywhere}h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--rule);padding-bottom:.2rem}p{margin:.3rem 0;color:var(--soft)}\n"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:1.2rem}figure{margin:0;min-width:0}figcaption{font-weight:600;margin-bottom:.3rem}\n"
    "svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}svg .label{fill:var(--text)}.grid{stroke:var(--rule)}.axis{fill:none;stroke:var(--soft)}\n"
    ".line{fill:none;stroke-width:2}.ideal .line{stroke:var(--soft);stroke-dasharray:5 4;stroke-width:1.5}circle{stroke:var(--ground);stroke-width:1.5}\n"
    ".s0 .line{stroke:var(--c0)}.s0 circle{fill:var(--c0)}.s1 .line{stroke:var(--c1)}.s1 circle{fill:var(--c1)}.s2 .line{stroke:var(--c2)}.s2 circle{fill:var(--c2)}\n"
    ".s3 .line{stroke:var(--c3)}.s3 circle{fill:var(--c3)}.s4 .line{stroke:var(--c4)}.s4 circle{fill:var(--c4)}.s5 .line{stroke:var(--c5)}.s5 circle{fill:var(--c5)}\n"
    ".s0 rect{fill:var(--c0)}.s1 rect{fill:var(--c1)}.s2 rect{fill:var(--c2)}.s3 rect{fill:var(--c3)}.s4 rect{fill:var(--c4)}.s5 rect{fill:var(--c5)}.s6 rect{fill:var(--c6)}.s7 rect{fill:var(--c7)}\n"
    ".s6 .line{stroke:var(--c6)}.s6 circle{fill:var(--c6)}.s7 .line{stroke:var(--c7)}.s7 circle{fill:var(--c7)}\n"
    ".legend{list-style:none;margin:.3rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.85rem}.legend svg{display:inline-block;width:18px;height:10px;margin-right:.35rem}\n"
    ".wide{overflow-x:auto;margin:.5rem 0 1rem}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}th,td{padding:.25rem .6rem;border-bottom:1px solid var(--rule);"
    "text-align:left;vertical-align:top;max-width:60rem;overflow-wrap:break-word}thead th{white-space:nowrap;color:var(--soft);font-weight:600}td.n,th.n{text-align:right;white-space:nowrap}\n"
    ".worse{color:var(--c1);font-weight:600}code{font-size:.85em}\n"
    "</style>\n";

/* ---- rows ---- */

double report_number(const json_t *row, const char *name)
{
    const json_t *v = json_object_get(row, name);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

bool report_is(const json_t *row, const char *test)
{
    const char *name = json_string_value(json_object_get(row, "test"));
    return name != NULL && strcmp(name, test) == 0;
}

status report_item_add(report *r, report_items *list, int file, json_t *row, const char *const *across, int n_across, const char *extra)
{
    const char *label = json_string_value(json_object_get(row, "label"));
    mem_str key = {0};
    if (list->n == list->cap) {
        size_t cap = list->cap * 2 + 64;
        report_item *p = mem_arena_alloc(r->arena, cap * sizeof(*p));
        if (p == NULL)
            return FAIL(ST_LIMIT, "the report is larger than %d MiB", ARENA_BYTES >> 20);
        if (list->n > 0)
            memcpy(p, list->of, list->n * sizeof(*p));
        list->of = p;
        list->cap = cap;
    }
    char *rest = compare_key(row, across, n_across);
    if (r->n_files > 1)
        mem_str_printf(&key, "%s\n", r->names[file]);
    if (label != NULL)
        mem_str_printf(&key, "%s\n", label);
    mem_str_printf(&key, "%s%s", rest != NULL ? rest : "", extra);
    char *kept = rest == NULL || key.failed ? NULL : mem_arena_strndup(r->arena, key.data, key.len);
    free(rest);
    mem_str_free(&key);
    if (kept == NULL)
        return FAIL(ST_LIMIT, "the report is larger than %d MiB", ARENA_BYTES >> 20);
    list->of[list->n++] = (report_item){.row = row, .key = kept, .x = NAN, .y = NAN};
    return ST_OK;
}

/* ---- series ---- */

/* Levels of load: concurrency, and none is the highest; then rate, "inf" likewise. */
static int by_level(const report_item *a, const report_item *b)
{
    static const char *const names[] = {"max_concurrency", "request_rate"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        double x = report_number(a->row, names[i]), y = report_number(b->row, names[i]);
        x = x > 0 ? x : INFINITY;
        y = y > 0 ? y : INFINITY;
        if (x != y)
            return x < y ? -1 : 1;
    }
    return 0;
}

static int by_x(const report_item *a, const report_item *b)
{
    return (a->x > b->x) - (a->x < b->x);
}

/* A stable sort (by insertion: series are short, and mostly in order). */
static void sort(report_item *of, size_t n, int (*compare)(const report_item *, const report_item *))
{
    for (size_t i = 1; i < n; i++) {
        report_item one = of[i];
        size_t k = i;
        for (; k > 0 && compare(&of[k - 1], &one) > 0; k--)
            of[k] = of[k - 1];
        of[k] = one;
    }
}

/* The items of one key as points, equal places averaged. */
static size_t points_make(report_item *of, size_t n, bool level, plot_point *out)
{
    int (*order)(const report_item *, const report_item *) = level ? by_level : by_x;
    size_t points = 0;
    sort(of, n, order);
    for (size_t i = 0, k; i < n; i = k) {
        double x = 0, y = 0;
        for (k = i; k < n && order(&of[i], &of[k]) == 0; k++) {
            x += of[k].x;
            y += of[k].y;
        }
        out[points++] = (plot_point){x / (double)(k - i), y / (double)(k - i), of[i].note};
    }
    return points;
}

status report_plot(report *r, report_items *items, plot p, bool level, size_t least, const plot_series *ideal)
{
    plot_series *series = mem_arena_alloc(r->arena, (MAX_SERIES + 1) * sizeof(*series));
    plot_point *points = mem_arena_alloc(r->arena, (items->n + 1) * sizeof(*points));
    report_item *own = mem_arena_alloc(r->arena, (items->n + 1) * sizeof(*own));
    char **keys = mem_arena_alloc(r->arena, (MAX_SERIES + 1) * sizeof(*keys));
    bool *taken = mem_arena_alloc(r->arena, items->n + 1);
    size_t n = 0;
    if (series == NULL || points == NULL || own == NULL || keys == NULL || taken == NULL)
        return FAIL(ST_LIMIT, "the report is larger than %d MiB", ARENA_BYTES >> 20);
    for (size_t i = 0; i < items->n && n < MAX_SERIES; i++) {
        size_t m = 0;
        for (size_t k = i; k < items->n; k++) {
            if (taken[k] || strcmp(items->of[k].key, items->of[i].key) != 0)
                continue;
            taken[k] = true;
            if (isfinite(items->of[k].x) && isfinite(items->of[k].y))
                own[m++] = items->of[k];
        }
        m = points_make(own, m, level, points);
        if (m < least || m == 0)
            continue;
        series[n] = (plot_series){.points = points, .n = m};
        keys[n++] = items->of[i].key;
        points += m;
    }
    for (size_t i = 0; i < n; i++) {
        mem_str name = {0};
        compare_key_put(keys, n, keys[i], false, &name);
        series[i].name = name.data == NULL ? "" : mem_arena_strndup(r->arena, name.data, name.len);
        bool failed = name.failed || series[i].name == NULL;
        mem_str_free(&name);
        if (failed)
            return FAIL(ST_LIMIT, "the report is larger than %d MiB", ARENA_BYTES >> 20);
    }
    if (n == 0)
        return ST_OK;
    if (ideal != NULL)
        series[n++] = *ideal;
    p.series = series;
    p.n = n;
    plot_put(&p, r->out);
    return ST_OK;
}

/* ---- a server under load ---- */

static char *level_note(report *r, const json_t *row)
{
    char level[64] = "any number at once", due[64] = "", text[256];
    double concurrency = report_number(row, "max_concurrency"), rate = report_number(row, "request_rate");
    if (concurrency > 0)
        snprintf(level, sizeof(level), "at most %.6g at once", concurrency);
    if (rate > 0)
        snprintf(due, sizeof(due), ", %.6g requests/s due", rate);
    snprintf(text, sizeof(text), "%s%s: %.6g tokens/s, TTFT %.4g ms, TPOT %.4g ms", level, due, report_number(row, "output_throughput"), report_number(row, "median_ttft_ms"),
             report_number(row, "median_tpot_ms"));
    return mem_arena_strndup(r->arena, text, strlen(text));
}

static status put_serve(report *r)
{
    static const char *const across[] = {"max_concurrency", "request_rate", "num_prompts", "num_warmups"};
    static const struct {
        const char *x, *y;
        plot p;
        bool level;
    } plots[] = {
        {"output_throughput", "median_ttft_ms", {.title = "Time to first token over throughput", .x_label = "output tokens/s", .y_label = "median TTFT, ms", .y_from_zero = true}, true},
        {"output_throughput", "median_tpot_ms", {.title = "Time per output token over throughput", .x_label = "output tokens/s", .y_label = "median TPOT, ms", .y_from_zero = true}, true},
        {"request_throughput", "p99_e2el_ms", {.title = "Slowest requests over throughput", .x_label = "requests/s", .y_label = "p99 E2E, ms", .y_from_zero = true}, true},
        {"max_concurrent_requests", "output_throughput", {.title = "Throughput over concurrency", .x_label = "most requests at once", .y_label = "output tokens/s", .log_x = true,
         .y_from_zero = true}, true},
    };
    report_items items = {0};
    for (int f = 0; f < r->n_files; f++) {
        size_t i;
        json_t *row;
        json_array_foreach(r->rows[f], i, row) {
            if (report_is(row, "serve") && report_number(row, "completed") > 0)
                TRY(report_item_add(r, &items, f, row, across, ARRAY_LEN(across), ""));
        }
    }
    if (items.n == 0)
        return ST_OK;
    mem_str_puts(r->out, "<h2>A server under load</h2>\n<div class=\"plots\">\n");
    for (size_t k = 0; k < ARRAY_LEN(plots); k++) {
        for (size_t i = 0; i < items.n; i++) {
            items.of[i].x = report_number(items.of[i].row, plots[k].x);
            items.of[i].y = report_number(items.of[i].row, plots[k].y);
            if (items.of[i].note == NULL)
                items.of[i].note = level_note(r, items.of[i].row);
        }
        TRY(report_plot(r, &items, plots[k].p, plots[k].level, 1, NULL));
    }
    mem_str_puts(r->out, "</div>\n");
    return ST_OK;
}

/* ---- scaling ---- */

static double ranks_of(const json_t *row)
{
    double tp = report_number(row, "tp"), pp = report_number(row, "pp"), replicas = report_number(row, "replicas");
    return tp * pp * (replicas > 0 ? replicas : 1);
}

/* What was measured: of `bench scale`'s rows the phase, of others the test. */
static const char *phase_of(const json_t *row)
{
    const char *phase = json_string_value(json_object_get(row, "phase"));
    return phase != NULL ? phase : json_string_value(json_object_get(row, "test"));
}

static status scaling_items(report *r, const char *phase, report_items *out)
{
    static const char *const across[] = {"tp", "pp", "replicas", "ranks", "threads", "backend", "sequences", "phase"};
    static const char *const splits[] = {"tensor parallel\n", "pipeline parallel\n", "replicas\n", "several ways\n"};
    for (int f = 0; f < r->n_files; f++) {
        size_t i;
        json_t *row;
        json_array_foreach(r->rows[f], i, row) {
            double tp = report_number(row, "tp"), pp = report_number(row, "pp"), replicas = report_number(row, "replicas");
            if (!(ranks_of(row) > 0) || !(report_number(row, "tokens_per_second") > 0) || phase_of(row) == NULL || strcmp(phase_of(row), phase) != 0)
                continue;
            bool more[] = {tp > 1, pp > 1, replicas > 1};
            int ways = more[0] + more[1] + more[2];
            for (int s = 0; s < 4; s++) { /* one rank is where every way begins */
                if (s < 3 ? ways == 0 || (ways == 1 && more[s]) : ways > 1)
                    TRY(report_item_add(r, out, f, row, across, ARRAY_LEN(across), splits[s]));
            }
        }
    }
    return ST_OK;
}

/* The value at the fewest ranks of an item's series, and how many those are: what its speed-up is over. */
static double base_of(const report_items *items, const char *key, double *ranks)
{
    double sum = 0;
    int n = 0;
    *ranks = INFINITY;
    for (size_t i = 0; i < items->n; i++) {
        if (strcmp(items->of[i].key, key) == 0)
            *ranks = fmin(*ranks, items->of[i].x);
    }
    for (size_t i = 0; i < items->n; i++) {
        if (strcmp(items->of[i].key, key) == 0 && items->of[i].x == *ranks) {
            sum += report_number(items->of[i].row, "tokens_per_second");
            n++;
        }
    }
    return n > 0 ? sum / n : NAN;
}

/* title: "Speed-up over ranks: decode"; kept in the report's arena. */
static const char *titled(report *r, const char *what, const char *phase)
{
    char text[128];
    snprintf(text, sizeof(text), "%s: %.60s", what, phase);
    const char *kept = mem_arena_strndup(r->arena, text, strlen(text));
    return kept != NULL ? kept : what;
}

/* The plots of a phase; *begun: there were others before. */
static status put_phase(report *r, const char *phase, bool *begun)
{
    report_items items = {0};
    double most = 0, least = INFINITY;
    bool any = false;
    TRY(scaling_items(r, phase, &items));
    for (size_t i = 0; i < items.n; i++) {
        items.of[i].x = ranks_of(items.of[i].row);
        most = fmax(most, items.of[i].x);
        least = fmin(least, items.of[i].x);
    }
    for (size_t i = 0; i < items.n; i++) {
        double ranks, base = base_of(&items, items.of[i].key, &ranks);
        items.of[i].y = report_number(items.of[i].row, "tokens_per_second") / base * ranks;
        any = any || items.of[i].x != ranks;
        char text[128];
        snprintf(text, sizeof(text), "%.6g ranks (tp %.6g x pp %.6g): %.4g tokens/s, %.3g %% of ideal", items.of[i].x, report_number(items.of[i].row, "tp"),
                 report_number(items.of[i].row, "pp"), report_number(items.of[i].row, "tokens_per_second"), 100 * items.of[i].y / items.of[i].x);
        items.of[i].note = mem_arena_strndup(r->arena, text, strlen(text));
    }
    if (!any)
        return ST_OK;
    const plot_point line[] = {{least, least, NULL}, {most, most, NULL}};
    const plot_series ideal = {.name = "ideal", .points = line, .n = 2, .dashed = true};
    if (!*begun)
        mem_str_puts(r->out, "<h2>Scaling</h2>\n<div class=\"plots\">\n");
    *begun = true;
    TRY(report_plot(r, &items, (plot){.title = titled(r, "Speed-up over ranks", phase), .x_label = "ranks", .y_label = "times the fewest", .log_x = true, .log_y = true}, false, 2, &ideal));
    for (size_t i = 0; i < items.n; i++)
        items.of[i].y = report_number(items.of[i].row, "tokens_per_second");
    return report_plot(r, &items, (plot){.title = titled(r, "Tokens a second over ranks", phase), .x_label = "ranks", .y_label = "tokens/s", .log_x = true, .log_y = true}, false, 2, NULL);
}

static status put_scaling(report *r)
{
    const char *phases[MAX_PHASES];
    size_t n = 0;
    bool begun = false;
    for (int f = 0; f < r->n_files; f++) {
        size_t i, k;
        json_t *row;
        json_array_foreach(r->rows[f], i, row) {
            const char *phase = phase_of(row);
            for (k = 0; k < n && phase != NULL && strcmp(phases[k], phase) != 0; k++)
                ;
            if (phase != NULL && k == n && n < MAX_PHASES && ranks_of(row) > 0) {
                phases[n++] = phase;
                TRY(put_phase(r, phase, &begun));
            }
        }
    }
    if (begun)
        mem_str_puts(r->out, "</div>\n");
    return ST_OK;
}

/* ---- between ranks ---- */

static status put_collectives(report *r)
{
    static const char *const across[] = {"bytes"};
    report_items items = {0};
    for (int f = 0; f < r->n_files; f++) {
        size_t i;
        json_t *row;
        json_array_foreach(r->rows[f], i, row) {
            bool is_size = json_is_integer(json_object_get(row, "bytes")) && json_object_get(row, "ranks") != NULL;
            if (is_size && report_number(row, "bytes") > 0 && report_number(row, "seconds") > 0)
                TRY(report_item_add(r, &items, f, row, across, ARRAY_LEN(across), ""));
        }
    }
    if (items.n == 0)
        return ST_OK;
    mem_str_puts(r->out, "<h2>Between ranks</h2>\n<div class=\"plots\">\n");
    for (size_t i = 0; i < items.n; i++) {
        items.of[i].x = report_number(items.of[i].row, "bytes");
        items.of[i].y = 1e6 * report_number(items.of[i].row, "seconds");
    }
    TRY(report_plot(r, &items, (plot){.title = "Time over size", .x_label = "bytes", .y_label = "microseconds", .log_x = true, .log_y = true}, false, 1, NULL));
    for (size_t i = 0; i < items.n; i++)
        items.of[i].y = 1e-9 * items.of[i].x / report_number(items.of[i].row, "seconds");
    TRY(report_plot(r, &items, (plot){.title = "Bandwidth over size", .x_label = "bytes", .y_label = "GB/s", .log_x = true, .log_y = true}, false, 1, NULL));
    mem_str_puts(r->out, "</div>\n");
    return ST_OK;
}

/* ---- the page ---- */

static status put_page(report *r, const char *title)
{
    size_t n = 0;
    mem_str_puts(r->out, head);
    mem_str_puts(r->out, "<title>");
    plot_escape(title, r->out);
    mem_str_puts(r->out, "</title></head><body>\n<h1>");
    plot_escape(title, r->out);
    mem_str_puts(r->out, "</h1>\n<p>");
    for (int f = 0; f < r->n_files; f++) {
        n += json_array_size(r->rows[f]);
        mem_str_puts(r->out, f > 0 ? ", " : "");
        plot_escape(r->names[f], r->out);
    }
    mem_str_printf(r->out, ": %zu results.  Points say more on hovering.</p>\n", n);
    TRY(put_serve(r));
    TRY(put_scaling(r));
    TRY(report_breakdowns(r));
    TRY(put_collectives(r));
    TRY(report_timelines(r));
    TRY(report_tables(r));
    TRY(report_environments(r));
    mem_str_puts(r->out, "</body></html>\n");
    return r->out->failed ? FAIL(ST_NO_MEMORY, "no memory for a report") : ST_OK;
}

status report_html(const char *title, const char *const *names, json_t *const *rows, int n_files, mem_str *out)
{
    report r = {.names = names, .rows = rows, .n_files = n_files, .arena = mem_arena_create(ARENA_BYTES), .out = out};
    status st = r.arena != NULL ? put_page(&r, title) : FAIL(ST_NO_MEMORY, "no memory for a report");
    mem_arena_destroy(&r.arena);
    return st;
}
