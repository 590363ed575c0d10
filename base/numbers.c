/* base/numbers.c */
#include <math.h>
#include <stdlib.h>

#include "base/numbers.h"

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void numbers_sort(double *v, size_t n)
{
    if (n > 0) /* v may be NULL */
        qsort(v, n, sizeof(*v), ascending);
}

double numbers_at(const double *sorted, size_t n, double fraction)
{
    if (n == 0)
        return 0;
    double place = fraction * (double)(n - 1);
    size_t low = (size_t)place, high = low + 1 < n ? low + 1 : low;
    return sorted[low] + (sorted[high] - sorted[low]) * (place - (double)low);
}

double numbers_median(double *v, size_t n)
{
    numbers_sort(v, n);
    return numbers_at(v, n, 0.5);
}

double numbers_mean(const double *v, size_t n, double *sd)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    double mean = n > 0 ? sum / (double)n : 0;
    for (size_t i = 0; i < n; i++)
        squares += (v[i] - mean) * (v[i] - mean);
    if (sd != NULL)
        *sd = n > 0 ? sqrt(squares / (double)n) : 0;
    return mean;
}
