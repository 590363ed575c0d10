/* tests/coordinator/test_plot.c - axes with round numbers, and text that cannot become markup. */
#include "coordinator/plot.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void ticks_are(double low, double high, bool is_log, int want, size_t n, const double *values)
{
    double t[PLOT_TICKS];
    assert_int_equal(plot_ticks(low, high, is_log, want, t), n);
    for (size_t i = 0; i < n; i++)
        assert_true(fabs(t[i] - values[i]) <= 1e-12 * (1 + fabs(values[i])));
}

static void ticks_are_round(void **state)
{
    (void)state;
    ticks_are(0, 10, false, 5, 6, (double[]){0, 2, 4, 6, 8, 10});
    ticks_are(0.13, 0.47, false, 4, 3, (double[]){0.2, 0.3, 0.4});
}

static void hardly_any_range(void **state)
{
    double t[PLOT_TICKS];
    (void)state;
    assert_int_equal(plot_ticks(1, 1, false, 5, t), 0);
    assert_int_equal(plot_ticks(0, 5, true, 5, t), 0);
    assert_int_equal(plot_ticks(1, INFINITY, false, 5, t), 0);
    assert_int_equal(plot_ticks(NAN, 1, false, 5, t), 0);
    /* Whatever the range, there are ticks, not too many, and they lie in it. */
    for (int e = -300; e < 300; e += 7) {
        for (int k = 1; k < 40; k++) {
            double low = pow(10, e), high = low * (1 + k * k * 0.37);
            for (int is_log = 0; is_log < 2; is_log++) {
                size_t n = plot_ticks(low, high, is_log, 6, t);
                assert_true(n <= 14);
                assert_true(n >= 1 || is_log); /* between 5 and 10 there may be no 1, 2 or 5 */
                for (size_t i = 0; i < n; i++)
                    assert_true(t[i] >= low * (1 - 1e-6) && t[i] <= high * (1 + 1e-6) && (i == 0 || t[i] > t[i - 1]));
            }
        }
    }
    ticks_are(1, 1000, true, 4, 4, (double[]){1, 10, 100, 1000});
    ticks_are(1, 100, true, 8, 7, (double[]){1, 2, 5, 10, 20, 50, 100});
    ticks_are(1, 4, true, 8, 4, (double[]){1, 2, 3, 4});
    ticks_are(-1, 1, false, 2, 3, (double[]){-1, 0, 1});
    assert_int_equal(plot_ticks(-1, 1, false, 2, t), 3);
    assert_false(signbit(t[1]));
}

/* From the smallest to the largest number: their difference in decades is one, their ratio is not. */
static void all_numbers_there_are(void **state)
{
    const double ends[][2] = {{1e-300, 1e300}, {DBL_MIN, DBL_MAX}, {1e-300, 10}, {1, DBL_MAX}};
    double t[PLOT_TICKS];
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(ends); k++) {
        size_t n = plot_ticks(ends[k][0], ends[k][1], true, 6, t);
        assert_true(n >= 2 && n <= 14);
        for (size_t i = 0; i < n; i++)
            assert_true(t[i] >= ends[k][0] * (1 - 1e-6) && t[i] <= ends[k][1] && (i == 0 || t[i] > t[i - 1]));
        const plot_point points[] = {{ends[k][0], ends[k][1], NULL}, {ends[k][1], ends[k][0], NULL}};
        plot p = {.title = "t", .x_label = "x", .y_label = "y", .log_x = true, .log_y = true, .series = &(plot_series){"", points, ARRAY_LEN(points), false}, .n = 1};
        mem_str s = {0};
        plot_put(&p, &s);
        assert_non_null(strstr(s.data, "<circle"));
        assert_null(strstr(s.data, "nan"));
        assert_null(strstr(s.data, "inf"));
        mem_str_free(&s);
    }
}

static void text_is_escaped(void **state)
{
    mem_str s = {0};
    (void)state;
    plot_escape("<a href='x' title=\"y\">&\x01\n", &s);
    assert_string_equal(s.data, "&lt;a href=&#39;x&#39; title=&quot;y&quot;&gt;&amp; \n");
    mem_str_free(&s);
}

static void what_cannot_be_shown_is_left_out(void **state)
{
    const plot_point points[] = {{1, 1, "one"}, {NAN, 1, NULL}, {0, 5, NULL}, {10, INFINITY, NULL}, {100, -1, NULL}, {10, 4, "<two>"}};
    const plot_series series = {"name", points, ARRAY_LEN(points), false};
    plot p = {.title = "t", .x_label = "x", .y_label = "y", .log_x = true, .log_y = true, .series = &series, .n = 1};
    mem_str s = {0};
    (void)state;
    plot_put(&p, &s);
    assert_non_null(strstr(s.data, "<title>one</title>"));
    assert_non_null(strstr(s.data, "&lt;two&gt;"));
    assert_null(strstr(s.data, "nan"));
    assert_null(strstr(s.data, "inf"));
    int circles = 0;
    for (const char *at = s.data; (at = strstr(at, "<circle")) != NULL; at++)
        circles++;
    assert_int_equal(circles, 2 + 1); /* and the legend's */
    mem_str_free(&s);
    /* Nothing at all, where there is nothing; one place is enough. */
    p.series = &(plot_series){"none", points + 1, 3, false};
    plot_put(&p, &s);
    assert_int_equal(s.len, 0);
    p.series = &(plot_series){"one", points, 1, false};
    plot_put(&p, &s);
    assert_true(s.len > 0);
    mem_str_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ticks_are_round), cmocka_unit_test(hardly_any_range), cmocka_unit_test(all_numbers_there_are), cmocka_unit_test(text_is_escaped),
                                       cmocka_unit_test(what_cannot_be_shown_is_left_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
