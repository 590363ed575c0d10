/* shard/plan/split.c - cutting things so that the slowest part is as fast as can be. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/plan/plan_internal.h"

/* Whether every part can be kept within `limit`: each takes as many items as it may, leaving one for each part that follows.  Taking
 * more never hurts the parts behind, since a part's cost only grows with its items. */
static bool fits(int32_t n, int32_t n_parts, split_cost_fn cost, const void *arg, double limit, int32_t *cuts)
{
    int32_t at = 0;
    cuts[0] = 0;
    for (int32_t p = 0; p < n_parts; p++) {
        int32_t most = n - (n_parts - 1 - p), low = at, high = most; /* the largest end within the limit, by bisection */
        while (low < high) {
            int32_t mid = high - (high - low) / 2;
            if (cost(arg, at, mid, p) <= limit)
                low = mid;
            else
                high = mid - 1;
        }
        if (low == at)
            return false;
        cuts[p + 1] = at = low;
    }
    return at == n;
}

/* The least limit that fits, found among the costs themselves: bisection on the value until it no longer changes the cuts' worst. */
static double least_worst(int32_t n, int32_t n_parts, split_cost_fn cost, const void *arg, int32_t *cuts)
{
    double high = 0, low = 0;
    for (int32_t p = 0; p < n_parts; p++) {
        double all = cost(arg, 0, n, p);
        high = isfinite(all) && all > high ? all : high;
    }
    if (!fits(n, n_parts, cost, arg, high, cuts)) {
        /* Whole ranges are not allowed (memory): grow from what single items cost. */
        for (high = 0; high < 1e300; high = high * 2 + 1e-12) {
            if (fits(n, n_parts, cost, arg, high, cuts))
                break;
        }
        if (high >= 1e300)
            return INFINITY;
    }
    for (int i = 0; i < 100 && high - low > 1e-12 * high; i++) {
        double mid = low + (high - low) / 2;
        if (fits(n, n_parts, cost, arg, mid, cuts))
            high = mid;
        else
            low = mid;
    }
    fits(n, n_parts, cost, arg, high, cuts);
    return high;
}

/* Among splits within `limit`: the one with the least sum of squares.  best[p][i]: parts 0..p over items 0..i. */
static bool even_out(int32_t n, int32_t n_parts, split_cost_fn cost, const void *arg, double limit, int32_t *cuts)
{
    size_t stride = (size_t)n + 1;
    double *best = malloc(2 * stride * sizeof(*best));
    int32_t *from = malloc((size_t)n_parts * stride * sizeof(*from));
    bool ok = best != NULL && from != NULL;
    double *now = best, *next = best + stride;
    for (int32_t i = 0; ok && i <= n; i++)
        now[i] = i == 0 ? 0 : INFINITY;
    for (int32_t p = 0; ok && p < n_parts; p++) {
        for (int32_t e = 0; e <= n; e++)
            next[e] = INFINITY;
        for (int32_t b = p; b < n; b++) {
            if (!isfinite(now[b]))
                continue;
            for (int32_t e = b + 1; e <= n - (n_parts - 1 - p); e++) {
                double c = cost(arg, b, e, p);
                if (c > limit)
                    break;
                if (now[b] + c * c < next[e]) {
                    next[e] = now[b] + c * c;
                    from[(size_t)p * stride + (size_t)e] = b;
                }
            }
        }
        double *t = now;
        now = next;
        next = t;
    }
    if (ok && isfinite(now[n])) {
        cuts[n_parts] = n;
        for (int32_t p = n_parts; p-- > 0;)
            cuts[p] = from[(size_t)p * stride + (size_t)cuts[p + 1]];
    }
    free(best);
    free(from);
    return ok;
}

bool split_items(int32_t n, int32_t n_parts, split_cost_fn cost, const void *arg, int32_t *cuts, double *worst)
{
    *worst = least_worst(n, n_parts, cost, arg, cuts);
    if (!isfinite(*worst))
        return true;
    if ((double)n_parts * n * n > 1e8) /* beyond any checkpoint there is: the first split will do */
        return true;
    return even_out(n, n_parts, cost, arg, *worst * (1 + 1e-9), cuts);
}

void split_units(int64_t units, int32_t n, double each, const double *base, const double *weight, int64_t *out)
{
    double total_weight = 0, total_base = 0;
    for (int32_t i = 0; i < n; i++) {
        total_weight += weight[i];
        total_base += base == NULL ? 0 : base[i];
    }
    /* A start below the perfect share, then one unit at a time to whoever would be done first. */
    int64_t left = units;
    double level = each > 0 ? (total_base + (double)units * each) / total_weight : 0;
    for (int32_t i = 0; i < n; i++) {
        double share = each > 0 ? (level * weight[i] - (base == NULL ? 0 : base[i])) / each : 0;
        out[i] = share > 2 ? (int64_t)share - 1 : 1;
        left -= out[i];
    }
    while (left < 0) { /* bases above the level pushed the others' shares too high */
        int32_t worst = 0;
        double most = -1;
        for (int32_t i = 0; i < n; i++) {
            double c = ((base == NULL ? 0 : base[i]) + (double)out[i] * each) / weight[i];
            if (out[i] > 1 && c > most) {
                most = c;
                worst = i;
            }
        }
        out[worst]--;
        left++;
    }
    for (; left > 0; left--) {
        int32_t first = 0;
        double least = INFINITY, least_base = INFINITY;
        for (int32_t i = 0; i < n; i++) {
            double b = base == NULL ? 0 : base[i], c = (b + (double)(out[i] + 1) * each) / weight[i];
            if (c < least * (1 - 1e-12) || (c <= least * (1 + 1e-12) && b < least_base)) {
                least = c;
                least_base = b;
                first = i;
            }
        }
        out[first]++;
    }
}
