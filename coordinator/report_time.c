/* coordinator/report_time.c - where time went, as bars: of every rank over a whole measurement ("breakdown" of a row), and step by step (a trace of steps, coordinator/trace.h). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/report_internal.h"

enum { WIDTH = 960, LEFT = 180, RIGHT = 10, BAR = 16, LANE = 22, AXIS = 34, MOST_RANKS = 64, MOST_ROWS = 64, MOST_BARS = 4000 };

/* What a bar may be, with its colour; of a breakdown and of a trace's events. */
typedef struct kind {
    const char *name, *text;
    int colour;
} kind;

static const kind parts[] = {{"compute", "computing", 0}, {"collective", "in collectives", 2}, {"skew", "waiting for the stage's last rank", 1}, {"bubble", "waiting for another stage", 6},
                             {"scheduling", "scheduling", 4}, {"missing", "not covered", 7}};
static const kind events[] = {{"attention", "attention", 0}, {"mlp", "MLP", 2}, {"exchange", "in collectives", 1}, {"waiting for a stage", "waiting for another stage", 6},
                              {"embedding", "embedding", 3}, {"head", "output head", 4}, {"sampling", "sampling", 5}, {"batch", "preparing the batch", 7}};

static void put_legend(const kind *kinds, size_t n, mem_str *out)
{
    mem_str_puts(out, "<ul class=\"legend\">");
    for (size_t i = 0; i < n; i++)
        mem_str_printf(out, "<li><svg width=\"18\" height=\"10\" aria-hidden=\"true\"><g class=\"s%d\"><rect width=\"18\" height=\"10\"/></g></svg>%s</li>", kinds[i].colour, kinds[i].text);
    mem_str_puts(out, "</ul>");
}

static void put_rect(const kind *k, double x, double width, double y, const char *note, mem_str *out)
{
    mem_str_printf(out, "<g class=\"s%d\"><rect x=\"%.2f\" y=\"%.0f\" width=\"%.2f\" height=\"%d\"><title>", k->colour, x, y, width, BAR);
    plot_escape(note, out);
    mem_str_puts(out, "</title></rect></g>");
}

/* ---- a measurement ---- */

static double share_of(const json_t *rank, const char *name)
{
    double v = report_number(rank, name);
    if (strcmp(name, "collective") == 0)
        v -= report_number(rank, "skew");
    return v > 0 && v <= 1 ? v : 0;
}

static void put_rank(const json_t *rank, double y, mem_str *out)
{
    double replica = report_number(rank, "replica"), x = 0;
    double number = report_number(rank, "rank"), stage = report_number(rank, "stage");
    char text[160] = "";
    if (replica >= 0)
        snprintf(text, sizeof(text), "replica %.6g, ", replica);
    size_t n = strlen(text);
    if (number >= 0 && stage >= 0)
        snprintf(text + n, sizeof(text) - n, "rank %.6g, stage %.6g", number, stage);
    mem_str_printf(out, "<text x=\"%d\" y=\"%.0f\" text-anchor=\"end\">", LEFT - 8, y + 12);
    plot_escape(text, out);
    mem_str_puts(out, "</text>");
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        double part = fmin(share_of(rank, parts[i].name), 1 - x);
        snprintf(text, sizeof(text), "%s: %.1f %%", parts[i].text, 100 * part);
        if (part > 0)
            put_rect(&parts[i], LEFT + x * (WIDTH - LEFT - RIGHT), part * (WIDTH - LEFT - RIGHT), y, text, out);
        x += part;
    }
}

static void put_text_of(const json_t *row, const char *name, const char *before, mem_str *out)
{
    const json_t *v = json_object_get(row, name);
    char number[32];
    if (v == NULL)
        return;
    snprintf(number, sizeof(number), "%.6g", json_number_value(v));
    mem_str_puts(out, before);
    plot_escape(json_is_string(v) ? json_string_value(v) : number, out);
}

static void put_measurement(const json_t *row, const json_t *ranks, mem_str *out)
{
    size_t n = json_array_size(ranks) < MOST_RANKS ? json_array_size(ranks) : MOST_RANKS;
    mem_str_puts(out, "<figure><figcaption>");
    put_text_of(row, json_object_get(row, "phase") != NULL ? "phase" : "test", "", out);
    put_text_of(row, "tokens", " ", out);
    put_text_of(row, "tp", ", tp ", out);
    put_text_of(row, "pp", " x pp ", out);
    put_text_of(row, "replicas", " x replicas ", out);
    put_text_of(row, "batch", ", batch ", out);
    put_text_of(row, "scaling", ", ", out);
    mem_str_printf(out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\">", WIDTH, LANE * (int)n + 4);
    for (size_t i = 0; i < n; i++)
        put_rank(json_array_get(ranks, i), (double)(LANE * (int)i), out);
    mem_str_puts(out, "</svg>");
    if (n < json_array_size(ranks))
        mem_str_printf(out, "<p>and %zu ranks more</p>", json_array_size(ranks) - n);
    mem_str_puts(out, "</figure>\n");
}

status report_breakdowns(report *r)
{
    int shown = 0;
    for (int f = 0; f < r->n_files; f++) {
        size_t i;
        json_t *row;
        json_array_foreach(r->rows[f], i, row) {
            const json_t *ranks = json_object_get(row, "breakdown");
            if (json_array_size(ranks) == 0 || shown == MOST_ROWS)
                continue;
            if (shown++ == 0) {
                mem_str_puts(r->out, "<h2>Where the ranks' time went</h2>\n");
                put_legend(parts, sizeof(parts) / sizeof(parts[0]), r->out);
            }
            put_measurement(row, ranks, r->out);
        }
    }
    return ST_OK;
}

/* ---- step by step ---- */

typedef struct bar {
    const kind *kind;
    double from, to; /* microseconds */
    int rank;
    const json_t *event; /* borrowed */
} bar;

static int by_end(const void *a, const void *b)
{
    double x = ((const bar *)a)->to, y = ((const bar *)b)->to;
    return (x > y) - (x < y);
}

static const kind *kind_of(const json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "name")), *phase = json_string_value(json_object_get(event, "ph"));
    for (size_t i = 0; name != NULL && phase != NULL && strcmp(phase, "X") == 0 && i < sizeof(events) / sizeof(events[0]); i++) {
        if (strcmp(events[i].name, name) == 0)
            return &events[i];
    }
    return NULL;
}

/* The trace's bars, those that end first first; *n_ranks of them are lanes. */
static status bars_of(report *r, const json_t *list, bar **out, size_t *n, int *n_ranks)
{
    size_t i;
    const json_t *e;
    *n = 0;
    *n_ranks = 0;
    *out = mem_arena_alloc(r->arena, (json_array_size(list) + 1) * sizeof(**out));
    if (*out == NULL)
        return FAIL(ST_LIMIT, "a trace of %zu events is too long for a page", json_array_size(list));
    json_array_foreach(list, i, e) {
        const kind *k = kind_of(e);
        double at = report_number(e, "ts"), span = report_number(e, "dur"), rank = report_number(e, "pid");
        if (k == NULL || !isfinite(at + span) || !(span >= 0) || !(rank >= 0 && rank < MOST_RANKS))
            continue;
        (*out)[(*n)++] = (bar){k, at, at + span, (int)rank, e};
        *n_ranks = (int)rank >= *n_ranks ? (int)rank + 1 : *n_ranks;
    }
    qsort(*out, *n, sizeof(**out), by_end);
    return ST_OK;
}

static void put_bar(const bar *b, double zero, double scale, mem_str *out)
{
    char note[200], layer[32] = "";
    const json_t *args = json_object_get(b->event, "args");
    double number = report_number(args, "layer"), step = report_number(args, "step");
    if (number >= 0)
        snprintf(layer, sizeof(layer), ", layer %.6g", number);
    snprintf(note, sizeof(note), "rank %d, step %.10g%s: %s, %.4g ms at %.6g ms", b->rank, step >= 0 ? step : 0, layer, b->kind->text, 1e-3 * (b->to - b->from), 1e-3 * (b->from - zero));
    put_rect(b->kind, LEFT + (b->from - zero) * scale, fmax((b->to - b->from) * scale, 0.1), LANE * b->rank, note, out);
}

static void put_axis(double span, double scale, int n_ranks, mem_str *out)
{
    double ticks[PLOT_TICKS];
    size_t n = plot_ticks(0, 1e-3 * span, false, 8, ticks);
    for (size_t i = 0; i < n; i++)
        mem_str_printf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"0\" y2=\"%d\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>", LEFT + 1e3 * ticks[i] * scale,
                       LEFT + 1e3 * ticks[i] * scale, LANE * n_ranks, LEFT + 1e3 * ticks[i] * scale, LANE * n_ranks + 14, ticks[i]);
    mem_str_printf(out, "<text class=\"label\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">ms</text>", (LEFT + WIDTH - RIGHT) / 2, LANE * n_ranks + 30);
}

static status put_timeline(report *r, const char *name, const json_t *list)
{
    bar *bars;
    size_t n;
    int n_ranks;
    TRY(bars_of(r, list, &bars, &n, &n_ranks));
    size_t shown = n < MOST_BARS ? n : MOST_BARS;
    double zero = INFINITY, end = shown > 0 ? bars[shown - 1].to : 0;
    for (size_t i = 0; i < shown; i++)
        zero = fmin(zero, bars[i].from);
    if (shown == 0 || !(end > zero))
        return ST_OK;
    double scale = (WIDTH - LEFT - RIGHT) / (end - zero);
    mem_str_puts(r->out, "<h2>Step by step</h2>\n<figure><figcaption>");
    plot_escape(name, r->out);
    mem_str_printf(r->out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\">", WIDTH, LANE * n_ranks + AXIS);
    put_axis(end - zero, scale, n_ranks, r->out);
    for (int i = 0; i < n_ranks; i++)
        mem_str_printf(r->out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">rank %d</text>", LEFT - 8, LANE * i + 12, i);
    for (size_t i = 0; i < shown; i++)
        put_bar(&bars[i], zero, scale, r->out);
    mem_str_puts(r->out, "</svg>");
    if (shown < n)
        mem_str_printf(r->out, "<p>The first %zu of %zu parts; all of them in ui.perfetto.dev.</p>", shown, n);
    put_legend(events, sizeof(events) / sizeof(events[0]), r->out);
    mem_str_puts(r->out, "</figure>\n");
    return ST_OK;
}

status report_timelines(report *r)
{
    for (int f = 0; f < r->n_files; f++) {
        size_t i;
        json_t *row;
        json_array_foreach(r->rows[f], i, row) {
            if (report_is(row, "trace"))
                TRY(put_timeline(r, r->names[f], json_object_get(row, "traceEvents")));
        }
    }
    return ST_OK;
}
