/* tests/coordinator/test_compare.c - results that are read back, and verdicts that can be checked by hand or by drawing many times. */
#include "coordinator/compare.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "coordinator/results.h"

static json_t *rows_of(const char *text)
{
    json_t *rows;
    assert_int_equal(results_parse("rows", text, strlen(text), &rows), ST_OK);
    return rows;
}

static void rows_are_read(void **state)
{
    (void)state;
    json_t *rows = rows_of("{\"test\":\"a\"}\n \r\n{\"test\":\"b\",\"x\":1}");
    assert_int_equal(json_array_size(rows), 2);
    json_decref(rows);
    static const char *const bad[] = {"{\"test\":\"a\"}\n{", "[]", "{\"test\":5}", "{}", "{\"test\":\"a\"} x", "\"a\""};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(results_parse("rows", bad[i], strlen(bad[i]), &rows), ST_FORMAT);
    assert_int_equal(results_parse("rows", "", 0, &rows), ST_OK);
    json_decref(rows);
}

/* The environment leaves out what is secret and nothing else. */
static void secrets_are_left_out(void **state)
{
    (void)state;
    char *argv[] = {"trireme bench serve", "--api-key", "s3cret", "--api-k=s3cret", "--header", "Authorization: s3cret", "--url=http://me:s3cret@host:1/x", "--temperature", "1", "-m", "\xff"};
    json_t *e = results_environment(ARRAY_LEN(argv), argv);
    assert_non_null(e);
    char *text = json_line(e);
    assert_null(strstr(text, "s3cret"));
    assert_non_null(strstr(text, "\"--api-key\",\"...\",\"--api-k=...\",\"--header\",\"...\",\"--url=http://...@host:1/x\",\"--temperature\",\"1\",\"-m\""));
    static const char *const members[] = {"time", "version", "commit", "build", "host", "system", "cpu", "isa", "cores", "memory_bytes", "load"};
    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        assert_non_null(json_object_get(e, members[i]));
    free(text);
    json_decref(e);
}

/* Values from tables of Student's t. */
static void quantiles_are_the_tables(void **state)
{
    (void)state;
    static const struct {
        double df, p, t;
    } known[] = {{1, 0.025, 12.7062}, {2, 0.025, 4.3027}, {4, 0.025, 2.7764}, {8, 0.025, 2.3060}, {8, 0.005, 3.3554}, {30, 0.05, 1.6973}, {1000, 0.025, 1.9623}, {2.5, 0.025, 3.5747}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        double t = compare_t_quantile(known[i].df, known[i].p);
        if (fabs(t - known[i].t) > 1e-3)
            fail_msg("df %g, p %g: %g, want %g", known[i].df, known[i].p, t, known[i].t);
    }
}

static compare_table compare(const char *a, const char *b, compare_options o)
{
    compare_table t;
    json_t *x = rows_of(a), *y = rows_of(b);
    o.confidence = o.confidence > 0 ? o.confidence : 0.95;
    assert_int_equal(compare_results(x, y, &o, &t), ST_OK);
    json_decref(x);
    json_decref(y);
    return t;
}

static void verdicts_by_hand(void **state)
{
    (void)state;
    const char *slow = "{\"test\":\"decode\",\"tokens\":8,\"seconds\":[2.0,2.02,1.98],\"tokens_per_second\":4.0,\"rank0_step_ms\":{\"x\":1.0}}";
    const char *fast = "{\"test\":\"decode\",\"tokens\":8,\"seconds\":[1.0,1.01,0.99],\"tokens_per_second\":8.0,\"rank0_step_ms\":{\"x\":2.0},\"environment\":{}}";
    compare_table t = compare(slow, fast, (compare_options){0});
    assert_int_equal(t.n, 1); /* of the same runs the times are enough */
    assert_string_equal(t.rows[0].key, "test decode\ntokens 8\n");
    assert_string_equal(t.rows[0].figure, "seconds");
    assert_true(t.rows[0].n_a == 3 && fabs(t.rows[0].speed - 2) < 1e-3 && t.rows[0].verdict == COMPARE_FASTER);
    /* Both have a standard deviation of 1 % (of logarithms nearly so), hence an error of 0.01 * sqrt(2 / 3), 4 degrees of freedom and a half-width of 2.7764 errors. */
    assert_true(fabs(log(t.rows[0].high / t.rows[0].low) / 2 - 2.7764 * 0.01 * sqrt(2.0 / 3)) < 1e-4);
    compare_table_free(&t);
    t = compare(fast, slow, (compare_options){0});
    assert_int_equal(t.rows[0].verdict, COMPARE_SLOWER);
    compare_table_free(&t);
    t = compare(fast, slow, (compare_options){.tolerance = 0.6});
    assert_int_equal(t.rows[0].verdict, COMPARE_NOT_SHOWN);
    compare_table_free(&t);
    /* Rates go the other way; one run each says nothing. */
    static const char *const rate[] = {"tokens_per_second"};
    t = compare(slow, fast, (compare_options){.figures = rate, .n_figures = 1});
    assert_true(t.n == 1 && fabs(t.rows[0].speed - 2) < 1e-9 && t.rows[0].verdict == COMPARE_TOO_FEW && isnan(t.rows[0].low));
    compare_table_free(&t);
    /* Equal without any spread. */
    t = compare("{\"test\":\"x\",\"seconds\":[1,1]}", "{\"test\":\"x\",\"seconds\":[1,1]}", (compare_options){0});
    assert_true(t.rows[0].verdict == COMPARE_NOT_SHOWN && t.rows[0].low == 1);
    compare_table_free(&t);
}

static void rows_match_by_what_they_depend_on(void **state)
{
    (void)state;
    const char *a = "{\"test\":\"serve\",\"max_concurrency\":1,\"request_rate\":2.0,\"data\":{\"name\":\"random\",\"range_ratio\":0.5},\"run\":0,\"completed\":9,\"output_throughput\":5.0}\n"
                    "{\"test\":\"serve\",\"max_concurrency\":1,\"request_rate\":2.0,\"data\":{\"name\":\"random\",\"range_ratio\":0.5},\"run\":1,\"completed\":8,\"output_throughput\":5.1}\n"
                    "{\"test\":\"serve\",\"max_concurrency\":2,\"request_rate\":2.0,\"data\":{\"name\":\"random\",\"range_ratio\":0.5},\"output_throughput\":9.0}\n";
    const char *b = "{\"test\":\"serve\",\"max_concurrency\":1,\"request_rate\":2.0,\"data\":{\"name\":\"random\",\"range_ratio\":0.5},\"output_throughput\":5.0}\n"
                    "{\"test\":\"serve\",\"max_concurrency\":1,\"request_rate\":3.0,\"data\":{\"name\":\"random\",\"range_ratio\":0.5},\"output_throughput\":5.0}\n"
                    "{\"test\":\"serve\",\"max_concurrency\":1,\"request_rate\":2.0,\"data\":{\"name\":\"random\",\"range_ratio\":0.6},\"output_throughput\":5.0}\n";
    compare_table t = compare(a, b, (compare_options){0});
    assert_int_equal(t.n, 1);
    assert_true(t.rows[0].n_a == 2 && t.rows[0].n_b == 1 && t.unmatched_a == 1 && t.unmatched_b == 2);
    compare_table_free(&t);
    static const char *const across[] = {"max_concurrency", "request_rate", "data"};
    t = compare(a, b, (compare_options){.across = across, .n_across = 3});
    assert_true(t.n == 1 && t.rows[0].n_a == 3 && t.rows[0].n_b == 3 && t.unmatched_a + t.unmatched_b == 0);
    compare_table_free(&t);
    /* What has no logarithm is no figure to compare. */
    t = compare("{\"test\":\"x\",\"ms\":0.0}", "{\"test\":\"x\",\"ms\":1.0}", (compare_options){0});
    assert_int_equal(t.n, 0);
    compare_table_free(&t);
    assert_true(compare_more_is_better("output_throughput") && compare_more_is_better("busbw") && !compare_more_is_better("median_ttft_ms") && !compare_more_is_better("seconds"));
}

static double normal(uint64_t *i)
{
    double sum = 0;
    for (int k = 0; k < 12; k++)
        sum += (double)(hash_mix(0x9e3779b97f4a7c15u * ++*i) >> 11) * 0x1p-53;
    return sum - 6;
}

/* 400 tables of 8 figures without any difference, 5 runs each with 3 % of noise: about 5 % of the tables may raise an alarm; 9 % would be four standard deviations too many. */
static void false_alarms_are_as_rare_as_said(void **state)
{
    (void)state;
    uint64_t draws = 0;
    int alarms = 0;
    for (int table = 0; table < 400; table++) {
        mem_str text[2] = {{0}, {0}};
        for (int s = 0; s < 2; s++)
            for (int row = 0; row < 8; row++) {
                mem_str_printf(&text[s], "{\"test\":\"x\",\"n\":%d,\"seconds\":[", row);
                for (int k = 0; k < 5; k++)
                    mem_str_printf(&text[s], "%s%.9f", k > 0 ? "," : "", exp(0.03 * normal(&draws)));
                mem_str_puts(&text[s], "]}\n");
            }
        compare_table t = compare(text[0].data, text[1].data, (compare_options){0});
        bool any = false;
        for (size_t i = 0; i < t.n; i++)
            any = any || t.rows[i].verdict != COMPARE_NOT_SHOWN;
        alarms += any;
        compare_table_free(&t);
        mem_str_free(&text[0]);
        mem_str_free(&text[1]);
    }
    printf("%d of 400 tables without a difference raise an alarm\n", alarms);
    assert_in_range(alarms, 4, 36);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_read),    cmocka_unit_test(secrets_are_left_out),              cmocka_unit_test(quantiles_are_the_tables),
        cmocka_unit_test(verdicts_by_hand), cmocka_unit_test(rows_match_by_what_they_depend_on), cmocka_unit_test(false_alarms_are_as_rare_as_said),
    };
    status_mute();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
