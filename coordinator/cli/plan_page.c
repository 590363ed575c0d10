/* coordinator/cli/plan_page.c - the front as one page: a drawing and a table, nothing from elsewhere, no script. */
#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/cli/plan_predict.h"

/* The drawing: both axes logarithmic. */
enum { WIDTH = 960, HEIGHT = 540, LEFT = 76, RIGHT = 24, TOP = 20, BOTTOM = 56, MAX_DOTS = 4000 };

typedef struct axis {
    double low, high; /* log10 */
    double from, to;  /* pixels */
} axis;

static const char style[] =
    ":root{color-scheme:light dark;--ground:#fff;--line:#d0d4da;--text:#1a1d21;--soft:#565d66;--dot:#9aa5b1;--front:#0b57a4;--best:#b3261e}"
    "@media(prefers-color-scheme:dark){:root{--ground:#14171a;--line:#3a424b;--text:#e8eaed;--soft:#a6aeb8;--dot:#5d6874;--front:#8ec1f5;--best:#f5a29b}}"
    "body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--ground);color:var(--text);font:1rem/1.5 system-ui,sans-serif}"
    "h1{font-size:1.3rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:1.5rem 0 .5rem}p{margin:.3rem 0;color:var(--soft)}"
    "svg{width:100%;height:auto;font:13px system-ui,sans-serif}svg text{fill:var(--soft)}.grid{stroke:var(--line);stroke-width:1}"
    ".dot{fill:var(--dot);opacity:.55}.front{fill:none;stroke:var(--front);stroke-width:2}.on{fill:var(--front)}.best{fill:none;stroke:var(--best);stroke-width:3}"
    ".slo{stroke:var(--best);stroke-dasharray:4 4}"
    ".table{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}"
    "th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}th{color:var(--soft);font-weight:600}tr.chosen td{color:var(--best);font-weight:600}"
    ".key{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin:0 .3em 0 1em;background:var(--dot)}.key.f{background:var(--front)}.key.b{background:none;border:3px solid var(--best);box-sizing:border-box}";

static void put_text(mem_str *s, const char *text)
{
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '<')
            mem_str_puts(s, "&lt;");
        else if (*c == '&')
            mem_str_puts(s, "&amp;");
        else if (*c == '"')
            mem_str_puts(s, "&quot;");
        else
            mem_str_putc(s, *c);
    }
}

static double place(const axis *a, double v)
{
    double at = (log10(v) - a->low) / (a->high - a->low);
    return a->from + at * (a->to - a->from);
}

static void stretch(axis *a, double v)
{
    a->low = fmin(a->low, log10(v));
    a->high = fmax(a->high, log10(v));
}

static axis axis_of(const shard_sweep *s, bool user, double from, double to)
{
    axis a = {INFINITY, -INFINITY, from, to};
    for (int32_t i = 0; i < s->n_front; i++)
        stretch(&a, user ? s->front[i].p.per_user : s->front[i].p.per_device);
    for (int32_t i = 0; i < s->n_points_kept; i++)
        stretch(&a, user ? s->splits[i].p.per_user : s->splits[i].p.per_device);
    if (s->n_front > 0) { /* what lies far below the front is nobody's choice */
        double least = log10(user ? s->front[s->n_front - 1].p.per_user : s->front[0].p.per_device) - 0.7;
        a.low = fmax(a.low, least);
    }
    double room = fmax(0.04 * (a.high - a.low), 0.05);
    a.low -= room;
    a.high += room;
    return a;
}

/* Lines at 1, 2 and 5 of each decade. */
static void put_grid(mem_str *s, const axis *x, const axis *y)
{
    static const double steps[] = {1, 2, 5};
    for (int e = -6; e < 12; e++) {
        for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
            double v = steps[i] * pow(10, e);
            if (log10(v) >= x->low && log10(v) <= x->high)
                mem_str_printf(s, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", place(x, v),
                               place(x, v), TOP, HEIGHT - BOTTOM, place(x, v), HEIGHT - BOTTOM + 18, v);
            if (log10(v) >= y->low && log10(v) <= y->high)
                mem_str_printf(s, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", LEFT, WIDTH - RIGHT,
                               place(y, v), place(y, v), LEFT - 8, place(y, v) + 4, v);
        }
    }
    mem_str_printf(s, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">tokens/s a user</text><text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">tokens/s a device</text>\n",
                   (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, (TOP + HEIGHT - BOTTOM) / 2);
}

static void put_dot(mem_str *s, const axis *x, const axis *y, const shard_point *p, const char *class, double radius)
{
    char t[2][CLI_AMOUNT];
    if (log10(p->p.per_user) < x->low || log10(p->p.per_device) < y->low)
        return;
    mem_str_printf(s, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%g\"><title>tp %d x pp %d x ep %d, %d replicas, batch %d: %.4g tokens/s a user, %.4g a device; TTFT %s, TPOT %s</title></circle>\n",
                   class, place(x, p->p.per_user), place(y, p->p.per_device), radius, p->split.tp, p->split.pp, p->split.ep, p->split.replicas, p->batch, p->p.per_user, p->p.per_device,
                   cli_show_seconds(p->p.ttft, t[0]), cli_show_seconds(p->p.tpot, t[1]));
}

static void put_drawing(mem_str *s, const plan_result *r)
{
    const shard_sweep *w = r->sweep;
    axis x = axis_of(w, true, LEFT, WIDTH - RIGHT), y = axis_of(w, false, HEIGHT - BOTTOM, TOP);
    double slo = r->args->sweep.tpot > 0 ? 1 / r->args->sweep.tpot : 0;
    int32_t step = w->n_points_kept / MAX_DOTS + 1; /* more would only be one cloud */
    mem_str_printf(s, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"tokens a second for a device against tokens a second for a user\">\n", WIDTH, HEIGHT);
    put_grid(s, &x, &y);
    for (int32_t i = 0; i < w->n_points_kept; i += step)
        put_dot(s, &x, &y, &w->splits[i], "dot", 2.5);
    if (slo > 0 && log10(slo) > x.low && log10(slo) < x.high)
        mem_str_printf(s, "<line class=\"slo\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", place(&x, slo), place(&x, slo), TOP, HEIGHT - BOTTOM);
    mem_str_puts(s, "<polyline class=\"front\" points=\"");
    for (int32_t i = 0; i < w->n_front; i++)
        mem_str_printf(s, "%.1f,%.1f ", place(&x, w->front[i].p.per_user), place(&y, w->front[i].p.per_device));
    mem_str_puts(s, "\"/>\n");
    for (int32_t i = 0; i < w->n_front; i++)
        put_dot(s, &x, &y, &w->front[i], "on", 4);
    put_dot(s, &x, &y, &w->best, "best", 8);
    mem_str_puts(s, "</svg>\n");
}

static bool same(const shard_point *a, const shard_point *b)
{
    return a->batch == b->batch && a->split.tp == b->split.tp && a->split.pp == b->split.pp && a->split.ep == b->split.ep && a->split.replicas == b->split.replicas;
}

static void put_row(mem_str *s, const shard_point *x, bool chosen, bool priced)
{
    const shard_prediction *p = &x->p;
    char t[5][CLI_AMOUNT];
    mem_str_printf(s, "<tr%s><td>%d<td>%d<td>%d<td>%d<td>%d<td>%.4g<td>%.4g<td>%.4g<td>%s<td>%s<td>%.0f %%<td>%.0f %%<td>%s<td>%s", chosen ? " class=\"chosen\"" : "", x->split.tp, x->split.pp,
                   x->split.ep, x->split.replicas, x->batch, p->per_user, p->per_device, p->tokens_per_second, cli_show_seconds(p->ttft, t[0]), cli_show_seconds(p->tpot, t[1]),
                   100 * p->exchange / p->decode_step, 100 * p->bubble / p->decode_step, cli_show_bytes(p->weight_bytes, t[2]), cli_show_bytes(p->kv_bytes, t[3]));
    if (priced)
        mem_str_printf(s, "<td>%.3g", p->price_per_million);
    mem_str_puts(s, "</tr>\n");
}

static void put_table(mem_str *s, const plan_result *r)
{
    const shard_sweep *w = r->sweep;
    bool priced = r->serving->machine->price_per_hour > 0, listed = false;
    mem_str_printf(s, "<div class=\"table\"><table><thead><tr><th>tp<th>pp<th>ep<th>replicas<th>batch<th>tokens/s a user<th>a device<th>in all<th>TTFT<th>TPOT<th>exchange<th>bubble<th>weights<th>KV "
                      "cache%s</tr></thead><tbody>\n", priced ? "<th>$ a million" : "");
    for (int32_t i = 0; i < w->n_front; i++) {
        bool chosen = same(&w->front[i], &w->best);
        listed |= chosen;
        put_row(s, &w->front[i], chosen, priced);
    }
    if (!listed)
        put_row(s, &w->best, true, priced);
    mem_str_puts(s, "</tbody></table></div>\n");
}

static void put_head(mem_str *s, const plan_result *r)
{
    const shard_sweep_options *o = &r->args->sweep;
    const shard_machine *m = r->serving->machine;
    char t[3][CLI_AMOUNT];
    mem_str_printf(s, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Trireme plan: ");
    put_text(s, r->question->model);
    mem_str_printf(s, "</title><style>%s</style></head><body>\n<h1>", style);
    put_text(s, r->question->model);
    mem_str_printf(s, "</h1>\n<p>%s, %.4g billion weights (%.4g for a token), on %d x ", r->question->arch->family, r->weights / 1e9, r->active_weights / 1e9, o->n_devices);
    put_text(s, m->name);
    mem_str_printf(s, ", %d to a host, %s each; prompts of %d tokens, %d generated; KV cache %s</p>\n<p>%lld splits, of which %lld fit; %lld predictions. Predicted, not measured.</p>\n",
                   m->devices_per_host, cli_show_bytes(m->memory_bytes, t[0]), o->prompt, o->output, shard_kv_type_name(r->serving->kv_type), (long long)r->sweep->n_splits,
                   (long long)r->sweep->n_fit, (long long)r->sweep->n_points);
    if (o->ttft > 0 || o->tpot > 0)
        mem_str_printf(s, "<p>SLO: TTFT %s, TPOT %s: %s</p>\n", o->ttft > 0 ? cli_show_seconds(o->ttft, t[1]) : "any", o->tpot > 0 ? cli_show_seconds(o->tpot, t[2]) : "any",
                       r->sweep->found ? "kept" : "nothing keeps it; the nearest is marked");
}

status plan_page_write(const char *path, const plan_result *r)
{
    mem_str s = {0};
    put_head(&s, r);
    if (r->sweep->best.batch == 0) {
        mem_str_puts(&s, "<p>Nothing fits.</p>\n");
    } else {
        put_drawing(&s, r);
        mem_str_printf(&s, "<p><span class=\"key f\"></span>the front <span class=\"key b\"></span>%s <span class=\"key\"></span>each split that fits, with its best batch</p>\n<h2>The front</h2>\n",
                       r->args->sweep.ttft > 0 || r->args->sweep.tpot > 0 ? "best within the SLO" : "most tokens/s a device");
        put_table(&s, r);
    }
    mem_str_puts(&s, "</body></html>\n");
    status st = s.failed ? FAIL(ST_NO_MEMORY, "%s: no memory for the page", path) : file_write_all(path, s.data, s.len, 0644);
    mem_str_free(&s);
    return st;
}
