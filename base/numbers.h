/* base/numbers.h - what is said of a list of measurements. */
#ifndef BASE_NUMBERS_H
#define BASE_NUMBERS_H

#include <stddef.h>

void numbers_sort(double *v, size_t n); /* ascending */

/* Of sorted values, what a fraction (0 to 1) of them do not exceed, interpolated between the two nearest; 0 of none. */
double numbers_at(const double *sorted, size_t n, double fraction);

/* Sorts them; 0 of none. */
double numbers_median(double *v, size_t n);

/* With the standard deviation of these values themselves (divided by n), which may be NULL; 0 of none. */
double numbers_mean(const double *v, size_t n, double *sd);

#endif
