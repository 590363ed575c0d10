/* tests/client/test_figures.c - the figures of known times are those that can be computed by hand. */
#include "coordinator/client/figures.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void close_to(double got, double want)
{
    if (fabs(got - want) > 1e-9 * (1 + fabs(want)))
        fail_msg("got %.12g, want %.12g", got, want);
}

static void percentiles_lie_between_neighbours(void **state)
{
    (void)state;
    client_times t = {0};
    client_summary s;
    client_summarise(&t, &s);
    close_to(s.p99, 0);
    for (int i = 10; i >= 1; i--)
        client_times_add(&t, i);
    client_summarise(&t, &s);
    close_to(s.mean, 5.5);
    close_to(s.median, 5.5);
    close_to(s.p90, 9.1);
    close_to(s.p95, 9.55);
    close_to(s.p99, 9.91);
    close_to(s.max, 10);
    close_to(s.sd, sqrt(8.25));
    client_times_free(&t);
    client_times_add(&t, 3);
    client_summarise(&t, &s);
    close_to(s.p90, 3);
    client_times_free(&t);
}

/* Three requests that succeed, of 5, 1 and 0 tokens, and one that does not. */
static void a_run_by_hand(void **state)
{
    (void)state;
    client_record records[] = {
        {.ok = true, .n_prompt = 10, .n_output = 5, .n_asked = 5, .sent = 0.1, .due = 0, .ttft = 0.2, .e2e = 1.0},
        {.ok = true, .n_prompt = 20, .n_output = 1, .n_asked = 5, .sent = 0.5, .due = 0.5, .ttft = 0.4, .e2e = 0.4},
        {.ok = true, .n_prompt = 30, .n_output = 0, .n_asked = 0, .sent = 0.5, .due = 0.5, .ttft = 0.6, .e2e = 0.6},
        {.ok = false, .n_prompt = 99, .n_output = 99, .ttft = 99, .e2e = 99},
    };
    client_run r = {.records = records, .n = 4, .seconds = 2, .cpu_seconds = 0.1, .peak = 3, .counted_by_server = true};
    client_figures f;
    assert_int_equal(client_failures_add(&r.failures, "HTTP 500"), 0);
    client_times_add(&r.itl, 0.3);
    client_times_add(&r.itl, 0.5);
    assert_int_equal(client_figures_of(&r, &(client_slo){.ttft = 0.4, .tpot = 0.2}, &f), ST_OK);
    assert_int_equal(f.completed, 3);
    assert_int_equal(f.failed, 1);
    assert_int_equal(f.good, 2); /* the third is too late; without a second token there is no time per token to exceed */
    assert_int_equal(f.shorter, 1);
    close_to(f.request_rate, 1.5);
    close_to(f.goodput, 1);
    close_to(f.output_rate, 3);
    close_to(f.total_rate, 33);
    close_to(f.ttft.mean, 0.4);
    close_to(f.tpot.mean, 0.2); /* of the one that has it: (1.0 - 0.2) / 4 */
    close_to(f.itl.median, 0.4);
    close_to(f.e2e.max, 1.0);
    close_to(f.lateness.max, 0.1);
    json_t *o = client_figures_json(&r, &f, true);
    assert_non_null(o);
    close_to(json_number_value(json_object_get(o, "mean_tpot_ms")), 200);
    close_to(json_number_value(json_object_get(o, "p99_ttft_ms")), 1e3 * (0.4 + 0.98 * 0.2));
    close_to(json_number_value(json_object_get(o, "client_cpu")), 0.05);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "failures"), "HTTP 500")), 1);
    assert_int_equal(client_details_put(&r, o), ST_OK);
    assert_int_equal(json_array_size(json_object_get(o, "requests")), 4);
    json_decref(o);
    client_times_free(&r.itl);
}

static void reasons_are_counted_and_bounded(void **state)
{
    (void)state;
    client_failures f = {0};
    for (int i = 0; i < 100; i++) {
        char what[32];
        snprintf(what, sizeof(what), "reason %d", i % 50);
        client_failures_add(&f, what);
    }
    int32_t n = 0;
    for (int32_t i = 0; i < f.n; i++)
        n += f.of[i].n;
    assert_int_equal(n, 100);
    assert_int_equal(f.n, ARRAY_LEN(f.of));
    assert_int_equal(f.of[0].n, 2);
    assert_int_equal(f.lost, 2 * (50 - (int)ARRAY_LEN(f.of)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(percentiles_lie_between_neighbours), cmocka_unit_test(a_run_by_hand), cmocka_unit_test(reasons_are_counted_and_bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
