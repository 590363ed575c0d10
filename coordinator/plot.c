#include "coordinator/plot.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 640, HEIGHT = 360, LEFT = 66, RIGHT = 18, TOP = 14, BOTTOM = 46 };

void plot_escape(const char *text, mem_str *out)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '<':
            mem_str_puts(out, "&lt;");
            break;
        case '>':
            mem_str_puts(out, "&gt;");
            break;
        case '&':
            mem_str_puts(out, "&amp;");
            break;
        case '"':
            mem_str_puts(out, "&quot;");
            break;
        case '\'':
            mem_str_puts(out, "&#39;");
            break;
        default:
            mem_str_putc(out, (unsigned char)*text < 0x20 && *text != '\n' ? ' ' : *text);
        }
    }
}

/* ---- axes ---- */

typedef struct axis {
    double low, high; /* of what is shown */
    bool is_log;
    double from, to;  /* in the picture */
} axis;

static double at(const axis *a, double v)
{
    double part = a->is_log ? (log(v) - log(a->low)) / (log(a->high) - log(a->low)) : (v - a->low) / (a->high - a->low);
    return a->from + part * (a->to - a->from);
}

static size_t linear_ticks(double low, double high, int want, double *out)
{
    double raw = (high - low) / want, unit = pow(10, floor(log10(raw))), step = raw / unit <= 1 ? unit : raw / unit <= 2 ? 2 * unit : raw / unit <= 5 ? 5 * unit : 10 * unit;
    double first = ceil(low / step - 1e-9);
    size_t n = 0;
    if (!(step > 0) || !isfinite(first))
        return 0;
    for (double k = first; k * step <= high + 1e-9 * step && n < PLOT_TICKS; k++)
        out[n++] = k == 0 ? 0 : k * step; /* not -0 */
    return n;
}

static size_t log_ticks(double low, double high, int want, double *out)
{
    static const double fine[] = {1, 2, 3, 4, 6, 8}, dense[] = {1, 2, 5};
    double decades = log10(high) - log10(low); /* their ratio may be more than a double holds */
    int per = decades * 6 <= want + 2 ? 6 : decades * 3 <= want + 2 ? 3 : 1, stride = per > 1 ? 1 : (int)ceil(decades / want);
    size_t n = 0;
    for (int e = (int)floor(log10(low)); e <= (int)ceil(log10(high)); e += stride) {
        for (int i = 0; i < per; i++) {
            double v = (per == 6 ? fine : dense)[i] * pow(10, e);
            if (v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9) && n < PLOT_TICKS)
                out[n++] = v;
        }
    }
    return n;
}

size_t plot_ticks(double low, double high, bool is_log, int want, double out[PLOT_TICKS])
{
    if (!(high > low) || want < 1 || !isfinite(low) || !isfinite(high) || (is_log && !(low > 0)))
        return 0;
    return is_log ? log_ticks(low, high, want, out) : linear_ticks(low, high, want, out);
}

static void put_number(double v, mem_str *out)
{
    double size = fabs(v);
    if (size >= 1e9)
        mem_str_printf(out, "%.4gG", v / 1e9);
    else if (size >= 1e6)
        mem_str_printf(out, "%.4gM", v / 1e6);
    else if (size >= 1e4)
        mem_str_printf(out, "%.4gk", v / 1e3);
    else
        mem_str_printf(out, "%.4g", v);
}

/* ---- what is shown ---- */

static bool shown(const plot *p, const plot_point *q)
{
    return isfinite(q->x) && isfinite(q->y) && (!p->log_x || q->x > 0) && (!p->log_y || q->y > 0);
}

/* Room on both sides; something where all values are one. */
static void widen(axis *a, bool from_zero)
{
    if (a->is_log) {
        double room = a->high > a->low ? exp(0.04 * (log(a->high) - log(a->low))) : 1.5;
        a->low = fmax(a->low / room, DBL_MIN);
        a->high = fmin(a->high * room, DBL_MAX);
        return;
    }
    a->low = from_zero && a->low > 0 ? 0 : a->low;
    double room = a->high > a->low ? 0.05 * (a->high - a->low) : fabs(a->high) > 0 ? 0.5 * fabs(a->high) : 1;
    a->low -= from_zero && a->low >= 0 ? 0 : room;
    a->high += room;
}

static bool range(const plot *p, axis *x, axis *y)
{
    x->low = y->low = INFINITY;
    x->high = y->high = -INFINITY;
    for (size_t k = 0; k < p->n; k++) {
        for (size_t i = 0; i < p->series[k].n; i++) {
            const plot_point *q = &p->series[k].points[i];
            if (!shown(p, q))
                continue;
            x->low = fmin(x->low, q->x);
            x->high = fmax(x->high, q->x);
            y->low = fmin(y->low, q->y);
            y->high = fmax(y->high, q->y);
        }
    }
    if (!(x->low <= x->high))
        return false;
    widen(x, false);
    widen(y, p->y_from_zero);
    return isfinite(x->high - x->low) && isfinite(y->high - y->low) && x->high > x->low && y->high > y->low;
}

/* ---- drawing ---- */

static void put_axes(const plot *p, const axis *x, const axis *y, mem_str *out)
{
    double ticks[PLOT_TICKS];
    size_t n = plot_ticks(x->low, x->high, x->is_log, 8, ticks);
    for (size_t i = 0; i < n; i++) {
        mem_str_printf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">", at(x, ticks[i]), at(x, ticks[i]), TOP,
                       HEIGHT - BOTTOM, at(x, ticks[i]), HEIGHT - BOTTOM + 18);
        put_number(ticks[i], out);
        mem_str_puts(out, "</text>");
    }
    n = plot_ticks(y->low, y->high, y->is_log, 6, ticks);
    for (size_t i = 0; i < n; i++) {
        mem_str_printf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT, WIDTH - RIGHT, at(y, ticks[i]),
                       at(y, ticks[i]), LEFT - 8, at(y, ticks[i]) + 4);
        put_number(ticks[i], out);
        mem_str_puts(out, "</text>");
    }
    mem_str_printf(out, "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
    mem_str_printf(out, "<text class=\"label\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8);
    plot_escape(p->x_label, out);
    mem_str_printf(out, "</text><text class=\"label\" transform=\"translate(14 %d) rotate(-90)\" text-anchor=\"middle\">", (TOP + HEIGHT - BOTTOM) / 2);
    plot_escape(p->y_label, out);
    mem_str_puts(out, "</text>");
}

static void put_series(const plot *p, const plot_series *s, size_t colour, const axis *x, const axis *y, mem_str *out)
{
    bool first = true;
    mem_str_printf(out, s->dashed ? "<g class=\"ideal\">" : "<g class=\"s%zu\">", colour % PLOT_COLOURS);
    mem_str_puts(out, "<path class=\"line\" d=\"");
    for (size_t i = 0; i < s->n; i++) {
        if (!shown(p, &s->points[i]))
            continue;
        mem_str_printf(out, "%c%.1f %.1f", first ? 'M' : 'L', at(x, s->points[i].x), at(y, s->points[i].y));
        first = false;
    }
    mem_str_puts(out, "\"/>");
    for (size_t i = 0; i < s->n && !s->dashed; i++) {
        if (!shown(p, &s->points[i]))
            continue;
        mem_str_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\">", at(x, s->points[i].x), at(y, s->points[i].y));
        if (s->points[i].note != NULL) {
            mem_str_puts(out, "<title>");
            plot_escape(s->points[i].note, out);
            mem_str_puts(out, "</title>");
        }
        mem_str_puts(out, "</circle>");
    }
    mem_str_puts(out, "</g>");
}

static void put_legend(const plot *p, mem_str *out)
{
    size_t colour = 0;
    mem_str_puts(out, "<ul class=\"legend\">");
    for (size_t k = 0; k < p->n; k++) {
        const plot_series *s = &p->series[k];
        if (s->dashed)
            mem_str_puts(out, "<li><svg width=\"18\" height=\"10\" aria-hidden=\"true\"><g class=\"ideal\"><path class=\"line\" d=\"M0 5H18\"/></g></svg>");
        else
            mem_str_printf(out, "<li><svg width=\"18\" height=\"10\" aria-hidden=\"true\"><g class=\"s%zu\"><path class=\"line\" d=\"M0 5H18\"/><circle cx=\"9\" cy=\"5\" r=\"4\"/></g></svg>",
                           colour++ % PLOT_COLOURS);
        plot_escape(s->name, out);
        mem_str_puts(out, "</li>");
    }
    mem_str_puts(out, "</ul>");
}

void plot_put(const plot *p, mem_str *out)
{
    axis x = {.is_log = p->log_x, .from = LEFT, .to = WIDTH - RIGHT}, y = {.is_log = p->log_y, .from = HEIGHT - BOTTOM, .to = TOP};
    size_t colour = 0;
    if (!range(p, &x, &y))
        return;
    mem_str_puts(out, "<figure><figcaption>");
    plot_escape(p->title, out);
    mem_str_printf(out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    plot_escape(p->title, out);
    mem_str_puts(out, "\">");
    put_axes(p, &x, &y, out);
    for (size_t k = 0; k < p->n; k++) {
        put_series(p, &p->series[k], colour, &x, &y, out);
        colour += !p->series[k].dashed;
    }
    mem_str_puts(out, "</svg>");
    if (p->n > 1 || p->series[0].name[0] != '\0')
        put_legend(p, out);
    mem_str_puts(out, "</figure>\n");
}
