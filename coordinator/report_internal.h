/* coordinator/report_internal.h - what the parts of a report share: its rows, grouped into series. */
#ifndef COORDINATOR_REPORT_INTERNAL_H
#define COORDINATOR_REPORT_INTERNAL_H

#include "base/json.h"
#include "base/mem.h"
#include "coordinator/plot.h"

/* One row, with the key of the series that it belongs to. */
typedef struct report_item {
    json_t *row; /* borrowed */
    char *key;   /* lines, as compare_key's, with those of file and label before them */
    double x, y; /* once a plot has asked for them */
    char *note;
} report_item;

typedef struct report_items {
    report_item *of;
    size_t n, cap;
} report_items;

typedef struct report {
    const char *const *names;
    json_t *const *rows;
    int n_files;
    mem_arena *arena; /* of all that the page is made of */
    mem_str *out;
} report;

/* Adds a row to a list; extra (may be ""): further lines of its key. */
status report_item_add(report *r, report_items *list, int file, json_t *row, const char *const *across, int n_across, const char *extra);

/* A plot of the items' x and y: a series for each key, in the order of x or, if by_level, in that of their levels; equal places are averaged.  Series of fewer than `least` places are left
 * out.  p: labels and axes; ideal (may be NULL): a dashed line besides. */
status report_plot(report *r, report_items *items, plot p, bool by_level, size_t least, const plot_series *ideal);

/* report_tables.c */
status report_tables(report *r);       /* of every kind of test */
status report_environments(report *r);

/* report_time.c */
status report_breakdowns(report *r); /* of rows that have one */
status report_timelines(report *r);  /* of traces */

double report_number(const json_t *row, const char *name); /* NAN if it is none */
bool report_is(const json_t *row, const char *test);

#endif
