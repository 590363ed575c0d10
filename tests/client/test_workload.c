/* tests/client/test_workload.c - what is drawn has the lengths, the shared parts and the moments that were asked for; files that are no data are refused. */
#include "coordinator/client/load.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The ids of a prompt, an array. */
static json_t *ids_of(const client_workload *w, int32_t i, uint64_t salt)
{
    mem_str s = {0};
    client_prompt_put(w, &w->items[i], salt, &s);
    json_t *ids = json_loads(s.data, 0, NULL);
    assert_true(json_is_array(ids));
    mem_str_free(&s);
    return ids;
}

static size_t shared(json_t *a, json_t *b)
{
    size_t n = 0;
    while (n < json_array_size(a) && n < json_array_size(b) && json_equal(json_array_get(a, n), json_array_get(b, n)))
        n++;
    return n;
}

static client_workload make(client_data_options o)
{
    client_workload w;
    o.vocab_size = 50000;
    assert_int_equal(client_workload_create(&o, NULL, NULL, &w), ST_OK);
    return w;
}

static void random_lengths_and_prefix(void **state)
{
    (void)state;
    client_workload w = make((client_data_options){.kind = CLIENT_RANDOM, .n = 2000, .seed = 7, .input_len = 100, .output_len = 10, .range_ratio = 0.3, .prefix_len = 20});
    double sum = 0;
    int32_t least = INT32_MAX, most = 0;
    for (int32_t i = 0; i < w.n; i++) {
        int32_t own = w.items[i].n_prompt - 20, out = w.items[i].n_output;
        json_t *ids = ids_of(&w, i, 0), *first = ids_of(&w, 0, 0);
        assert_int_equal(json_array_size(ids), w.items[i].n_prompt);
        if (i > 0)
            assert_int_equal(shared(ids, first), 20);
        least = own < least ? own : least;
        most = own > most ? own : most;
        sum += own;
        assert_in_range(out, 7, 13);
        json_decref(ids);
        json_decref(first);
    }
    assert_int_equal(least, 70);
    assert_int_equal(most, 130);
    assert_true(fabs(sum / w.n - 100) < 2); /* the mean's own deviation is 0.4 */
    /* The same seed gives the same, another salt other tokens of the same shape, another seed others. */
    client_workload again = make((client_data_options){.kind = CLIENT_RANDOM, .n = 2, .seed = 7, .input_len = 100, .output_len = 10, .range_ratio = 0.3, .prefix_len = 20});
    json_t *a = ids_of(&w, 1, 0), *b = ids_of(&again, 1, 0), *c = ids_of(&w, 1, 5);
    assert_true(json_equal(a, b));
    assert_int_equal(json_array_size(a), json_array_size(c));
    assert_int_equal(shared(a, c), 0);
    json_decref(a);
    json_decref(b);
    json_decref(c);
    client_workload_free(&again);
    client_workload_free(&w);
}

static void prefixes_are_shared_by_equal_parts(void **state)
{
    (void)state;
    client_workload w = make((client_data_options){.kind = CLIENT_PREFIX, .n = 30, .seed = 1, .prefix_len = 16, .input_len = 8, .n_prefixes = 3, .output_len = 4});
    int with_first = 0, in_order = 0;
    json_t *first = ids_of(&w, 0, 0);
    for (int32_t i = 0; i < w.n; i++) {
        json_t *ids = ids_of(&w, i, 0);
        assert_int_equal(json_array_size(ids), 24);
        size_t same = shared(ids, first);
        assert_true(same == 16 || same == 0 || (i == 0 && same == 24));
        with_first += same > 0;
        in_order += (same > 0) == (i % 3 == 0);
        json_decref(ids);
    }
    assert_int_equal(with_first, 10);
    assert_true(in_order < 30); /* in random order */
    json_decref(first);
    client_workload_free(&w);
}

static void a_trace_is_replayed(void **state)
{
    (void)state;
    static const char text[] = "{\"timestamp\": 3000, \"input_length\": 700, \"output_length\": 5, \"hash_ids\": [1, 2]}\n\n"
                               "{\"timestamp\": 1000, \"input_length\": 600, \"output_length\": 6, \"hash_ids\": [1, 3]}\r\n"
                               "{\"timestamp\": 2500, \"input_length\": 3, \"output_length\": 7}";
    client_workload w = {.vocab_size = 50000};
    client_data_options o = {.kind = CLIENT_TRACE, .trace_speed = 2};
    assert_int_equal(client_trace_parse("t", text, sizeof(text) - 1, &o, &w), ST_OK);
    assert_int_equal(w.n, 3);
    assert_true(w.items[0].at == 0 && fabs(w.items[1].at - 0.75) < 1e-12 && fabs(w.items[2].at - 1) < 1e-12);
    json_t *a = ids_of(&w, 0, 0), *b = ids_of(&w, 1, 0), *c = ids_of(&w, 2, 0);
    assert_int_equal(json_array_size(a), 600);
    assert_int_equal(json_array_size(b), 3);
    assert_int_equal(json_array_size(c), 700);
    assert_int_equal(shared(a, c), CLIENT_TRACE_BLOCK);
    assert_int_equal(w.items[2].n_output, 5);
    json_decref(a);
    json_decref(b);
    json_decref(c);
    client_workload_free(&w);
    static const char *const bad[] = {"", "\n \n", "[]", "{\"timestamp\": 1}", "{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}", "{",
        "{\"timestamp\": 1, \"input_length\": 99999999999, \"output_length\": 1}", "{\"timestamp\": 1, \"input_length\": 0, \"output_length\": 1}",
        "{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [\"x\"]}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        client_workload none = {0};
        assert_int_not_equal(client_trace_parse("t", bad[i], strlen(bad[i]), &o, &none), ST_OK);
        client_workload_free(&none);
    }
}

static void conversations_are_found(void **state)
{
    (void)state;
    json_t *pairs, *file = json_loads("[{\"conversations\": [{\"from\": \"human\", \"value\": \"q1\"}, {\"from\": \"gpt\", \"value\": \"a1\"}]}, {\"conversations\": []}, 5,"
                                      "{\"messages\": [{\"role\": \"user\", \"content\": \"q2\"}, {\"role\": \"assistant\", \"content\": \"a2\"}]},"
                                      "{\"conversations\": [{\"value\": \"\"}, {\"value\": \"a3\"}]}, {\"conversations\": [{\"value\": 4}, {\"value\": \"a4\"}]}]", 0, NULL);
    assert_int_equal(client_sharegpt_parse("f", file, 1, &pairs), ST_OK);
    assert_int_equal(json_array_size(pairs), 2);
    json_decref(pairs);
    json_decref(file);
    file = json_loads("{\"conversations\": []}", 0, NULL);
    assert_int_equal(client_sharegpt_parse("f", file, 1, &pairs), ST_FORMAT);
    json_decref(file);
    file = json_array();
    assert_int_equal(client_sharegpt_parse("f", file, 1, &pairs), ST_FORMAT);
    json_decref(file);
}

/* Gaps of a gamma distribution of shape k have a standard deviation of 1 / sqrt(k) of their mean. */
static void arrivals_have_rate_and_burstiness(void **state)
{
    (void)state;
    enum { N = 20000 };
    static double due[N];
    static const double shapes[] = {0.25, 1, 4};
    for (size_t s = 0; s < ARRAY_LEN(shapes); s++) {
        double squares = 0, before = 0;
        client_arrivals(N, 50, shapes[s], 3, due);
        assert_true(fabs(due[N - 1] - N / 50.0) < 1e-6);
        for (int i = 0; i < N; i++) {
            double gap = due[i] - before;
            assert_true(gap >= 0);
            squares += (gap - 0.02) * (gap - 0.02);
            before = due[i];
        }
        double deviation = sqrt(squares / N) / 0.02, want = 1 / sqrt(shapes[s]);
        if (fabs(deviation / want - 1) > 0.06)
            fail_msg("shape %g: deviation %g of the mean, want %g", shapes[s], deviation, want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_lengths_and_prefix), cmocka_unit_test(prefixes_are_shared_by_equal_parts), cmocka_unit_test(a_trace_is_replayed),
        cmocka_unit_test(conversations_are_found),   cmocka_unit_test(arrivals_have_rate_and_burstiness),
    };
    status_mute();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
