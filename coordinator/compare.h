/* coordinator/compare.h - two files of results, row by row: what differs, and whether the runs show it.
 *
 * Rows match where everything that they depend on is equal: their members that are no figures.  Figures are the numbers with a fraction, and "seconds", a number or a list of one for
 * each run; rows that are equal otherwise are runs of one another.  The ratio of the geometric means has a confidence interval by Welch's t-test on the logarithms.  With m figures
 * compared each interval is widened (Bonferroni: (1 - confidence) / m), so that the chance of a false alarm in the whole table is at most 1 - confidence.  Pure. */
#ifndef COORDINATOR_COMPARE_H
#define COORDINATOR_COMPARE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"
#include "base/mem.h"

typedef enum compare_verdict { COMPARE_NOT_SHOWN, COMPARE_FASTER, COMPARE_SLOWER, COMPARE_TOO_FEW } compare_verdict;

typedef struct compare_options {
    const char *const *figures; /* [n_figures] those wanted; none: what the kind of test is about */
    int n_figures;
    const char *const *across;  /* [n_across] members that may differ in rows that match */
    int n_across;
    double confidence;          /* 0.95 */
    double tolerance;           /* a difference in speed of up to this fraction is none */
} compare_options;

typedef struct compare_row {
    char *key, *figure;         /* what the rows depend on: lines of a name, a space and a value */
    int n_a, n_b;               /* runs */
    double a, b;                /* geometric means */
    double error, freedom;      /* of the logarithm of the ratio: standard error, Welch's degrees of freedom */
    double speed, low, high;    /* B's speed over A's and its interval: above 1 is faster, for times and rates alike */
    compare_verdict verdict;
} compare_row;

typedef struct compare_table {
    compare_row *rows;
    size_t n, cap;
    int unmatched_a, unmatched_b; /* kinds of rows that only one of the files has */
} compare_table;

/* a, b: arrays of rows (results_read), borrowed. */
status compare_results(const json_t *a, const json_t *b, const compare_options *options, compare_table *out);
void compare_table_free(compare_table *t);
const char *compare_verdict_text(compare_verdict v);

/* Whether more of the figure is better: rates are, times are not. */
bool compare_more_is_better(const char *figure);
/* The key of a row: "test decode\ntokens 32\nbatch 1\n", without the members that may differ; caller frees; NULL: no memory. */
char *compare_key(const json_t *row, const char *const *across, int n_across);

/* Of a key, the lines that all n keys have, or those that not all have, with commas between them. */
void compare_key_put(char *const *all, size_t n, const char *key, bool common, mem_str *out);

/* The value that Student's t with df degrees of freedom exceeds with the chance p (below 0.5). */
double compare_t_quantile(double df, double p);

#endif
