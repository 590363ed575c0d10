/* coordinator/plot.h - lines and points as SVG that stands in an HTML page: axes with round numbers, a legend, what a point is on hovering.
 *
 * Colours are the page's: series k has the class s0 .. s7 (k modulo 8), text and axes have classes too, so that a style sheet decides what light and dark are.  Values that are not
 * finite, or not positive on a logarithmic axis, are left out.  All text is escaped.  Pure. */
#ifndef COORDINATOR_PLOT_H
#define COORDINATOR_PLOT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"

enum { PLOT_COLOURS = 8 };

typedef struct plot_point {
    double x, y;
    const char *note; /* shown on hovering, or NULL; borrowed */
} plot_point;

typedef struct plot_series {
    const char *name; /* borrowed */
    const plot_point *points;
    size_t n;
    bool dashed;      /* a line without points, and outside the colours: what would be ideal */
} plot_series;

typedef struct plot {
    const char *title, *x_label, *y_label;
    bool log_x, log_y, y_from_zero;
    const plot_series *series;
    size_t n;
} plot;

/* A <figure> with the plot and its legend; nothing where there is no point to show. */
void plot_put(const plot *p, mem_str *out);

/* Text for HTML, in elements and in quoted attributes. */
void plot_escape(const char *text, mem_str *out);

/* About `want` round numbers within [low, high]: 1, 2 or 5 times a power of ten apart, or on a logarithmic axis few multiples of powers of ten; returns how many (at most PLOT_TICKS). */
enum { PLOT_TICKS = 64 };
size_t plot_ticks(double low, double high, bool is_log, int want, double out[PLOT_TICKS]);

#endif
