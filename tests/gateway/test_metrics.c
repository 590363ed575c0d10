/* tests/gateway/test_metrics.c - metrics and their text, and the access log.  With "--text ACCEPT" it prints a full exposition for exposition.py to check. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "coordinator/gateway/access.h"
#include "coordinator/gateway/metrics.h"

#define ENGINE ((const char *const[]){"m", "0"})

static char *text_of(metrics *m, const char *accept)
{
    mem_str s = {0};
    const char *type;
    assert_int_equal(metrics_text(m, accept, &s, &type), ST_OK);
    return mem_str_take(&s);
}

static void check_has(const char *text, const char *line)
{
    char with[512];
    snprintf(with, sizeof(with), "\n%s\n", line);
    if (strstr(text, with) == NULL)
        fail_msg("missing: %s", line);
}

static void values_are_shown_under_our_names_and_by_option_under_vllms(void **state)
{
    (void)state;
    for (int vllm = 0; vllm < 2; vllm++) {
        metrics *m;
        assert_int_equal(metrics_create(&(metrics_options){.vllm_names = vllm}, &m), ST_OK);
        metrics_set(metrics_get(m, METRIC_KV_CACHE_USAGE, ENGINE), 0.25);
        metrics_add(metrics_get(m, METRIC_PROMPT_TOKENS, ENGINE), 12);
        metrics_add(metrics_get(m, METRIC_PROMPT_TOKENS, ENGINE), 30);
        metrics_add(metrics_get(m, METRIC_REPLAYS, (const char *const[]){"m"}), 1);
        char *text = text_of(m, NULL);
        check_has(text, "# TYPE trireme:kv_cache_usage_perc gauge");
        check_has(text, "trireme:kv_cache_usage_perc{model_name=\"m\",engine=\"0\"} 0.25");
        check_has(text, "# TYPE trireme:prompt_tokens_total counter");
        check_has(text, "trireme:prompt_tokens_total{model_name=\"m\",engine=\"0\"} 42.0");
        check_has(text, "trireme:replays_total{model_name=\"m\"} 1.0");
        if (vllm) {
            check_has(text, "vllm:prompt_tokens_total{model_name=\"m\",engine=\"0\"} 42.0");
            check_has(text, "vllm:gpu_cache_usage_perc{model_name=\"m\",engine=\"0\"} 0.25");
            assert_null(strstr(text, "vllm:replays"));
        } else {
            assert_null(strstr(text, "vllm:"));
        }
        assert_null(strstr(text, "vllm:http_"));
        free(text);
        metrics_destroy(&m);
    }
}

static void a_histogram_counts_upwards_and_ends_at_all(void **state)
{
    (void)state;
    metrics *m;
    assert_int_equal(metrics_create(&(metrics_options){.max_model_len = 100}, &m), ST_OK);
    metrics_series *s = metrics_get(m, METRIC_REQUEST_PROMPT_TOKENS, ENGINE);
    const double values[] = {1, 1.5, 2, 50, 51, 100, 1000};
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        metrics_observe(s, values[i]);
    char *text = text_of(m, NULL);
    check_has(text, "trireme:request_prompt_tokens_bucket{model_name=\"m\",engine=\"0\",le=\"1.0\"} 1.0");
    check_has(text, "trireme:request_prompt_tokens_bucket{model_name=\"m\",engine=\"0\",le=\"2.0\"} 3.0");
    check_has(text, "trireme:request_prompt_tokens_bucket{model_name=\"m\",engine=\"0\",le=\"50.0\"} 4.0");
    check_has(text, "trireme:request_prompt_tokens_bucket{model_name=\"m\",engine=\"0\",le=\"100.0\"} 6.0");
    check_has(text, "trireme:request_prompt_tokens_bucket{model_name=\"m\",engine=\"0\",le=\"+Inf\"} 7.0");
    check_has(text, "trireme:request_prompt_tokens_count{model_name=\"m\",engine=\"0\"} 7.0");
    check_has(text, "trireme:request_prompt_tokens_sum{model_name=\"m\",engine=\"0\"} 1205.5");
    assert_null(strstr(text, "le=\"200.0\""));
    free(text);
    metrics_destroy(&m);
}

static void any_bytes_may_be_in_a_label(void **state)
{
    (void)state;
    metrics *m;
    assert_int_equal(metrics_create(&(metrics_options){0}, &m), ST_OK);
    metrics_set(metrics_get(m, METRIC_NUM_REQUESTS_RUNNING, (const char *const[]){"a\"b\\c\nd\xff\xc3\xa9\xed\xa0\x80", "0"}), 1);
    char *text = text_of(m, NULL);
    check_has(text, "trireme:num_requests_running{model_name=\"a\\\"b\\\\c\\nd\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\",engine=\"0\"} 1.0");
    free(text);
    metrics_destroy(&m);
}

static void series_are_bounded_and_hidden_ones_start_again(void **state)
{
    (void)state;
    metrics *m;
    char name[16];
    assert_int_equal(metrics_create(&(metrics_options){.max_series_per_family = 10}, &m), ST_OK);
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "%d", i);
        metrics_add(metrics_get(m, METRIC_GENERATION_TOKENS, (const char *const[]){"m", name}), 1);
    }
    char *text = text_of(m, NULL);
    check_has(text, "trireme:generation_tokens_total{model_name=\"m\",engine=\"9\"} 1.0");
    assert_null(strstr(text, "engine=\"10\""));
    free(text);
    metrics_hide(m, "engine", "9");
    text = text_of(m, NULL);
    assert_null(strstr(text, "engine=\"9\""));
    free(text);
    metrics_add(metrics_get(m, METRIC_GENERATION_TOKENS, (const char *const[]){"m", "9"}), 5);
    text = text_of(m, NULL);
    check_has(text, "trireme:generation_tokens_total{model_name=\"m\",engine=\"9\"} 5.0");
    free(text);
    metrics_destroy(&m);
}

static void a_stranger_cannot_make_series(void **state)
{
    (void)state;
    metrics *m;
    assert_int_equal(metrics_create(&(metrics_options){0}, &m), ST_OK);
    metrics_http(m, "/v1/models", "GET", 200, 0, 100, 0.004);
    metrics_http(m, "", "BREW", 404, 0, 100, 0.001);
    metrics_http(m, "/v1/completions", "POST", 0, 10, 0, 0.5);
    char *text = text_of(m, NULL);
    check_has(text, "http_requests_total{handler=\"/v1/models\",method=\"GET\",status=\"2xx\"} 1.0");
    check_has(text, "http_requests_total{handler=\"none\",method=\"other\",status=\"4xx\"} 1.0");
    check_has(text, "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"499\"} 1.0");
    check_has(text, "http_request_duration_highr_seconds_count 3.0");
    free(text);
    metrics_destroy(&m);
}

#define THREADS 4
#define UPDATES 20000

static void *update(void *arg)
{
    metrics *m = arg;
    for (int i = 0; i < UPDATES; i++) {
        metrics_add(metrics_get(m, METRIC_GENERATION_TOKENS, ENGINE), 1);
        metrics_observe(metrics_get(m, METRIC_INTER_TOKEN_LATENCY, ENGINE), 0.02);
    }
    return NULL;
}

static void no_update_is_lost(void **state)
{
    (void)state;
    metrics *m;
    pthread_t t[THREADS];
    char want[128];
    assert_int_equal(metrics_create(&(metrics_options){0}, &m), ST_OK);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, update, m);
    free(text_of(m, NULL));
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    char *text = text_of(m, NULL);
    snprintf(want, sizeof(want), "trireme:generation_tokens_total{model_name=\"m\",engine=\"0\"} %d.0", THREADS * UPDATES);
    check_has(text, want);
    snprintf(want, sizeof(want), "trireme:inter_token_latency_seconds_bucket{model_name=\"m\",engine=\"0\",le=\"0.025\"} %d.0", THREADS * UPDATES);
    check_has(text, want);
    free(text);
    metrics_destroy(&m);
}

/* Something in every family, so that the checker sees all of the table. */
static int print_all(const char *accept)
{
    metrics *m;
    if (metrics_create(&(metrics_options){.vllm_names = true}, &m) != ST_OK)
        return 1;
    const char *values[METRICS_MAX_LABELS];
    for (int i = 0; i < METRICS_MAX_LABELS; i++)
        values[i] = "a \"quoted\\\" \n \xff value";
#define FILL_COUNTER(s) metrics_add(s, 3)
#define FILL_GAUGE(s) metrics_set(s, 0.1)
#define FILL_HISTOGRAM(s) metrics_observe(s, 0.3), metrics_observe(s, 3e9)
#define FILL(id, kind, buckets, name, old, labels, help) FILL_##kind(metrics_get(m, METRIC_##id, values));
    METRICS_LIST(FILL)
    char *text = text_of(m, accept);
    fputs(text, stdout);
    free(text);
    metrics_destroy(&m);
    return 0;
}

/* ---- the access log ---- */

static void a_line_is_json_with_what_is_known(void **state)
{
    (void)state;
    char path[] = "/tmp/trireme-access-XXXXXX", *text;
    access_log *a;
    size_t n;
    close(mkstemp(path));
    assert_int_equal(access_open(path, &a), ST_OK);
    access_note note = ACCESS_NOTE_NONE;
    note.model = "a \"model\"\n\xff";
    note.digest = "sha256:abc";
    note.prompt_tokens = 7;
    note.ttft_ms = 1.5;
    char *members = access_note_text(&note);
    http_record r = {.request_id = "req-1", .method = "POST", .route = "/v1/completions", .address = "::1", .status = 200, .bytes_in = 5, .note = members, .head_read = 1000000, .body_read = 2500000,
                     .first_queued = 4000000, .first_written = 5000000, .ended = 9000000};
    access_write(a, &r, "alice");
    access_write(a, &(http_record){.request_id = "req-2", .method = "GET", .route = "", .address = "unix", .gone = true}, "");
    access_close(&a);
    assert_int_equal(file_read_all(path, 1 << 20, &text, &n), ST_OK);
    char *second = strchr(text, '\n') + 1;
    json_t *one, *two;
    assert_int_equal(json_parse("first", text, (size_t)(second - text), &one), ST_OK);
    assert_int_equal(json_parse("second", second, strlen(second), &two), ST_OK);
    assert_string_equal(json_string_value(json_object_get(one, "key")), "alice");
    assert_true(json_is_null(json_object_get(one, "model"))); /* not UTF-8 */
    assert_string_equal(json_string_value(json_object_get(one, "digest")), "sha256:abc");
    assert_int_equal(json_integer_value(json_object_get(one, "prompt_tokens")), 7);
    assert_null(json_object_get(one, "completion_tokens"));
    assert_true(json_real_value(json_object_get(one, "body_ms")) == 1.5);
    assert_true(json_real_value(json_object_get(one, "total_ms")) == 8.0);
    assert_true(json_is_false(json_object_get(two, "complete")));
    assert_null(json_object_get(two, "total_ms"));
    json_decref(one);
    json_decref(two);
    free(text);
    free(members);
    unlink(path);
}

static void a_log_that_was_moved_away_is_opened_again(void **state)
{
    (void)state;
    char path[] = "/tmp/trireme-access-XXXXXX", moved[64], *text;
    access_log *a;
    size_t n;
    close(mkstemp(path));
    snprintf(moved, sizeof(moved), "%s.1", path);
    assert_int_equal(access_open(path, &a), ST_OK);
    access_write(a, &(http_record){.request_id = "before", .method = "GET", .route = "", .address = ""}, "");
    do {
        usleep(1000);
        assert_int_equal(file_read_all(path, 1 << 20, &text, &n), ST_OK);
        free(text);
    } while (n == 0);
    rename(path, moved);
    access_reopen(a);
    while (!file_exists(path))
        usleep(1000);
    access_write(a, &(http_record){.request_id = "after", .method = "GET", .route = "", .address = ""}, "");
    access_close(&a);
    assert_int_equal(file_read_all(path, 1 << 20, &text, &n), ST_OK);
    assert_non_null(strstr(text, "\"after\""));
    assert_null(strstr(text, "\"before\""));
    free(text);
    unlink(path);
    unlink(moved);
}

static void nobody_waits_for_a_log_that_stands_still(void **state)
{
    (void)state;
    char path[] = "/tmp/trireme-access-XXXXXX";
    access_log *a;
    close(mkstemp(path));
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK); /* opens, but does not read */
    assert_int_equal(access_open(path, &a), ST_OK);
    for (int i = 0; i < 60000; i++)
        access_write(a, &(http_record){.request_id = "r", .method = "GET", .route = "/a/route/of/some/length/so/that/it/fills", .address = "192.0.2.1"}, "a-key-name");
    assert_true(access_dropped(a) > 0);
    close(reader); /* the writer gets EPIPE and ends */
    access_close(&a);
    unlink(path);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--text") == 0)
        return print_all(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_shown_under_our_names_and_by_option_under_vllms),
        cmocka_unit_test(a_histogram_counts_upwards_and_ends_at_all),
        cmocka_unit_test(any_bytes_may_be_in_a_label),
        cmocka_unit_test(series_are_bounded_and_hidden_ones_start_again),
        cmocka_unit_test(a_stranger_cannot_make_series),
        cmocka_unit_test(no_update_is_lost),
        cmocka_unit_test(a_line_is_json_with_what_is_known),
        cmocka_unit_test(a_log_that_was_moved_away_is_opened_again),
        cmocka_unit_test(nobody_waits_for_a_log_that_stands_still),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
