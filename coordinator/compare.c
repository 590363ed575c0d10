#include "coordinator/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- what members are ---- */

static bool is_among(const char *name, const char *const *of, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(name, of[i]) == 0)
            return true;
    }
    return false;
}

/* Settings that are numbers with a fraction. */
static const char *const settings[] = {"request_rate", "burstiness", "temperature"};
/* Neither settings nor figures. */
static const char *const neither[] = {
    "environment", "version", "label", "seed", "run", "completed", "failed", "shorter", "failures", "total_input_tokens", "total_output_tokens", "max_concurrent_requests",
    "client_cpu", "tokens_counted_by", "requests", "itls", "rank0_step_ms", "tokens_per_second_sd", "duration", "seconds",
};
/* Objects that say what was done. */
static const char *const described[] = {"data", "goodput_config"};

static bool is_figure(const char *name, const json_t *v)
{
    if (strcmp(name, "seconds") == 0)
        return true;
    return json_is_real(v) && !is_among(name, settings, ARRAY_LEN(settings)) && !is_among(name, neither, ARRAY_LEN(neither)) && strncmp(name, "std_", 4) != 0;
}

static bool is_setting(const char *name, const json_t *v)
{
    if (json_is_real(v))
        return is_among(name, settings, ARRAY_LEN(settings));
    if (json_is_object(v) || json_is_array(v))
        return is_among(name, described, ARRAY_LEN(described));
    return !is_among(name, neither, ARRAY_LEN(neither));
}

bool compare_more_is_better(const char *figure)
{
    static const char *const words[] = {"per_second", "throughput", "goodput", "efficiency", "speedup", "algbw", "busbw"};
    static const char *const peaks[] = {"read", "codes4", "codes8", "f32", "bf16"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strstr(figure, words[i]) != NULL)
            return true;
    }
    return is_among(figure, peaks, ARRAY_LEN(peaks));
}

/* What a kind of test is about, where no figures were named. */
static bool is_wanted(const json_t *row, const char *figure, const compare_options *o)
{
    static const char *const serve[] = {"output_throughput", "request_goodput", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms", "median_e2el_ms"};
    const char *test = json_string_value(json_object_get(row, "test"));
    if (o->n_figures > 0)
        return is_among(figure, o->figures, (size_t)o->n_figures);
    if (test != NULL && strcmp(test, "serve") == 0)
        return is_among(figure, serve, ARRAY_LEN(serve));
    return json_object_get(row, "seconds") == NULL || strcmp(figure, "seconds") == 0;
}

char *compare_key(const json_t *row, const char *const *across, int n_across)
{
    mem_str s = {0};
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)row, name, v) {
        if (!is_setting(name, v) || is_among(name, across, (size_t)n_across))
            continue;
        char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        const char *shown = json_is_string(v) ? json_string_value(v) : text;
        s.failed = s.failed || shown == NULL;
        mem_str_printf(&s, "%s %s\n", name, shown != NULL ? shown : "");
        free(text);
    }
    return mem_str_take(&s);
}

static bool has_line(const char *key, const char *line, size_t n)
{
    while (*key != '\0') {
        size_t len = strcspn(key, "\n");
        if (len == n && memcmp(key, line, n) == 0)
            return true;
        key += len + (key[len] == '\n');
    }
    return false;
}

void compare_key_put(char *const *all, size_t n, const char *key, bool common, mem_str *out)
{
    for (const char *line = key; *line != '\0';) {
        size_t len = strcspn(line, "\n"), i = 0;
        while (i < n && has_line(all[i], line, len))
            i++;
        if ((i == n) == common) {
            mem_str_puts(out, out->len > 0 ? ", " : "");
            mem_str_append(out, line, len);
        }
        line += len + (line[len] == '\n');
    }
}

/* ---- Student's t ---- */

/* The regularised incomplete beta function by its continued fraction (Abramowitz and Stegun, 26.5.8; evaluated as Lentz does). */
static double beta_fraction(double a, double b, double x)
{
    double c = 1, d = 1 - (a + b) * x / (a + 1), f;
    d = fabs(d) < 1e-300 ? 1e-300 : d;
    d = 1 / d;
    f = d;
    for (int m = 1; m <= 500; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 + even * d;
        d = 1 / (fabs(d) < 1e-300 ? 1e-300 : d);
        c = 1 + even / c;
        c = fabs(c) < 1e-300 ? 1e-300 : c;
        f *= d * c;
        d = 1 + odd * d;
        d = 1 / (fabs(d) < 1e-300 ? 1e-300 : d);
        c = 1 + odd / c;
        c = fabs(c) < 1e-300 ? 1e-300 : c;
        f *= d * c;
        if (fabs(d * c - 1) < 1e-14)
            break;
    }
    return f;
}

static double incomplete_beta(double a, double b, double x)
{
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2))
        return front * beta_fraction(a, b, x) / a;
    return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

static double t_exceeds(double t, double df)
{
    return 0.5 * incomplete_beta(df / 2, 0.5, df / (df + t * t));
}

double compare_t_quantile(double df, double p)
{
    double low = 1e-9, high = 1;
    while (t_exceeds(high, df) > p && high < 1e12)
        high *= 2;
    for (int i = 0; i < 200 && high - low > 1e-12 * high; i++) {
        double mid = 0.5 * (low + high);
        *(t_exceeds(mid, df) > p ? &low : &high) = mid;
    }
    return 0.5 * (low + high);
}

/* ---- the runs of a figure ---- */

typedef struct logs {
    double sum, squares;
    int n;
    bool unusable; /* a value that has no logarithm */
} logs;

static void logs_add(logs *l, const json_t *v)
{
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x > 0)) {
        l->unusable = true;
        return;
    }
    l->sum += log(x);
    l->squares += log(x) * log(x);
    l->n++;
}

static double logs_mean(const logs *l)
{
    return l->sum / l->n;
}

/* Of the mean. */
static double logs_variance(const logs *l)
{
    double v = (l->squares - l->sum * l->sum / l->n) / (l->n - 1);
    return v > 1e-18 ? v / l->n : 0;
}

/* One file: its rows and the key of each. */
typedef struct side {
    const json_t *rows;
    char **keys;
    size_t n;
} side;

static status side_make(const json_t *rows, const compare_options *o, side *out)
{
    *out = (side){.rows = rows, .n = json_array_size(rows)};
    TRY(mem_calloc(out->n + 1, sizeof(*out->keys), "comparison", &out->keys));
    for (size_t i = 0; i < out->n; i++) {
        out->keys[i] = compare_key(json_array_get(rows, i), o->across, o->n_across);
        if (out->keys[i] == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for a comparison");
    }
    return ST_OK;
}

static void side_free(side *s)
{
    for (size_t i = 0; s->keys != NULL && i < s->n; i++)
        free(s->keys[i]);
    free(s->keys);
}

static logs gather(const side *s, const char *key, const char *figure)
{
    logs out = {0};
    for (size_t i = 0; i < s->n; i++) {
        json_t *v = strcmp(s->keys[i], key) == 0 ? json_object_get(json_array_get(s->rows, i), figure) : NULL, *one;
        size_t k;
        if (v != NULL && !json_is_array(v))
            logs_add(&out, v);
        json_array_foreach(v, k, one)
            logs_add(&out, one);
    }
    return out;
}

/* ---- the table ---- */

static status table_add(compare_table *t, const char *key, const char *figure, compare_row **out)
{
    TRY(mem_grow(&t->rows, &t->cap, t->n + 1, sizeof(*t->rows), "a comparison"));
    *out = &t->rows[t->n++];
    **out = (compare_row){.key = strdup(key), .figure = strdup(figure)};
    return (*out)->key != NULL && (*out)->figure != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for a comparison");
}

/* Whether one of the first n rows has this key. */
static bool has_key(const side *s, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(s->keys[i], key) == 0)
            return true;
    }
    return false;
}

static int count_unmatched(const side *s, const side *other)
{
    int n = 0;
    for (size_t i = 0; i < s->n; i++)
        n += !has_key(s, i, s->keys[i]) && !has_key(other, other->n, s->keys[i]);
    return n;
}

static double squared(double x)
{
    return x * x;
}

static status compare_figure(const side *a, const side *b, const char *key, const char *figure, compare_table *t)
{
    compare_row *r = NULL;
    logs x = gather(a, key, figure), y = gather(b, key, figure);
    if (x.n == 0 || y.n == 0 || x.unusable || y.unusable)
        return ST_OK;
    TRY(table_add(t, key, figure, &r));
    double vx = x.n > 1 ? logs_variance(&x) : 0, vy = y.n > 1 ? logs_variance(&y) : 0, ratio = logs_mean(&y) - logs_mean(&x);
    double parts = (x.n > 1 ? squared(vx) / (x.n - 1) : 0) + (y.n > 1 ? squared(vy) / (y.n - 1) : 0);
    r->n_a = x.n;
    r->n_b = y.n;
    r->a = exp(logs_mean(&x));
    r->b = exp(logs_mean(&y));
    r->speed = exp(compare_more_is_better(figure) ? ratio : -ratio);
    r->error = sqrt(vx + vy);
    r->freedom = parts > 0 ? squared(vx + vy) / parts : INFINITY;
    return ST_OK;
}

static void judge(compare_row *r, size_t m, const compare_options *o)
{
    if (r->n_a < 2 || r->n_b < 2) {
        r->low = r->high = NAN;
        r->verdict = COMPARE_TOO_FEW;
        return;
    }
    double half = r->error > 0 ? compare_t_quantile(r->freedom, (1 - o->confidence) / 2 / (double)m) * r->error : 0;
    r->low = r->speed * exp(-half);
    r->high = r->speed * exp(half);
    r->verdict = r->low > 1 + o->tolerance ? COMPARE_FASTER : r->high < 1 - o->tolerance ? COMPARE_SLOWER : COMPARE_NOT_SHOWN;
}

static status compare_all(const side *a, const side *b, const compare_options *o, compare_table *t)
{
    size_t m = 0;
    for (size_t i = 0; i < a->n; i++) {
        json_t *row = json_array_get(a->rows, i), *v;
        const char *name;
        if (has_key(a, i, a->keys[i])) /* another run of it: gathered with the first */
            continue;
        json_object_foreach(row, name, v) {
            if (is_figure(name, v) && is_wanted(row, name, o))
                TRY(compare_figure(a, b, a->keys[i], name, t));
        }
    }
    for (size_t k = 0; k < t->n; k++)
        m += t->rows[k].n_a > 1 && t->rows[k].n_b > 1;
    for (size_t k = 0; k < t->n; k++)
        judge(&t->rows[k], m, o);
    t->unmatched_a = count_unmatched(a, b);
    t->unmatched_b = count_unmatched(b, a);
    return ST_OK;
}

status compare_results(const json_t *a, const json_t *b, const compare_options *o, compare_table *out)
{
    side x = {0}, y = {0};
    *out = (compare_table){0};
    status st = side_make(a, o, &x);
    if (st == ST_OK)
        st = side_make(b, o, &y);
    if (st == ST_OK)
        st = compare_all(&x, &y, o, out);
    side_free(&x);
    side_free(&y);
    if (st != ST_OK)
        compare_table_free(out);
    return st;
}

void compare_table_free(compare_table *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free(t->rows[i].key);
        free(t->rows[i].figure);
    }
    free(t->rows);
    *t = (compare_table){0};
}

const char *compare_verdict_text(compare_verdict v)
{
    static const char *const texts[] = {[COMPARE_NOT_SHOWN] = "no difference shown", [COMPARE_FASTER] = "faster", [COMPARE_SLOWER] = "slower",
                                        [COMPARE_TOO_FEW] = "too few runs to say"};
    return texts[v];
}
