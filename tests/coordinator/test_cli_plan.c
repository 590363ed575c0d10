/* tests/coordinator/test_cli_plan.c - `trireme plan` as scripts see it: output, exit codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/file.h"
#include "base/status.h"

#define CONFIG TEST_SOURCE_DIR "/coordinator/configs/llama-3.1-405b.json"
#define DEEPSEEK TEST_SOURCE_DIR "/coordinator/configs/deepseek-v3.json"
#define TINY TEST_SOURCE_DIR "/golden/llama-9h3kv-llama3rope"

static char output[1 << 20];

/* Runs `trireme plan ARGS`; standard output into `output` (standard error too with `errors`); returns the exit code. */
static int run(const char *args, bool errors)
{
    char command[2048];
    snprintf(command, sizeof(command), "%s/trireme plan %s %s", TEST_BINARY_DIR, args, errors ? "2>&1" : "2>/dev/null");
    FILE *p = popen(command, "r");
    assert_non_null(p);
    size_t n = fread(output, 1, sizeof(output) - 1, p);
    output[n] = '\0';
    int st = pclose(p);
    assert_true(WIFEXITED(st));
    return WEXITSTATUS(st);
}

static void json_says_everything(void **state)
{
    (void)state;
    assert_int_equal(run(CONFIG " --tp 8 --pp 16 --memory 80GiB --device h100 --ctx 32768 --seqs 64 --json", false), 0);
    json_t *v = json_loads(output, 0, NULL);
    assert_non_null(v);
    assert_int_equal(json_integer_value(json_object_get(v, "n_ranks")), 128);
    assert_true(json_is_true(json_object_get(v, "fits")));
    assert_true(json_number_value(json_object_get(v, "imbalance")) < 1.03);
    json_t *ranks = json_object_get(v, "ranks"), *r;
    assert_int_equal(json_array_size(ranks), 128);
    size_t i;
    int64_t layers = 0;
    json_array_foreach(ranks, i, r) {
        json_t *l = json_object_get(r, "layers"), *h = json_object_get(r, "heads");
        assert_int_equal(json_integer_value(json_object_get(r, "rank")), i);
        if (i % 8 == 0)
            layers += json_integer_value(json_array_get(l, 1)) - json_integer_value(json_array_get(l, 0));
        assert_int_equal(json_integer_value(json_array_get(h, 1)) - json_integer_value(json_array_get(h, 0)), 16);
        assert_true(json_integer_value(json_object_get(r, "total_bytes")) < 80ll << 30);
        assert_true(json_number_value(json_object_get(json_object_get(r, "cost"), "mlp")) > 0);
    }
    assert_int_equal(layers, 126);
    json_decref(v);
}

static void the_table_names_every_rank(void **state)
{
    (void)state;
    assert_int_equal(run(CONFIG " --tp 8 --pp 2 --memory 80GiB --device h100", false), 0);
    assert_non_null(strstr(output, "Imbalance"));
    assert_non_null(strstr(output, "\n   15 "));
    assert_non_null(strstr(output, "fits"));
}

static void too_little_memory_is_exit_code_1(void **state)
{
    (void)state;
    assert_int_equal(run(CONFIG " --tp 8 --pp 1 --memory 80GiB", false), 1);
    assert_non_null(strstr(output, "does NOT fit: rank"));
}

static void ranks_are_chosen(void **state)
{
    (void)state;
    assert_int_equal(run(CONFIG " --memory 80GiB --device h100 --json", false), 0);
    json_t *v = json_loads(output, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(v, "n_ranks")), 16);
    assert_int_equal(json_integer_value(json_object_get(v, "tp")), 8);
    json_decref(v);
}

static void wrong_use_is_exit_code_2(void **state)
{
    (void)state;
    static const struct {
        const char *args, *says;
    } cases[] = {
        {"", "which MODEL"},
        {CONFIG " --tp 0", "--tp 0"},
        {CONFIG " --tp 256", "query heads"},
        {CONFIG " --pp 127", "126 layers"},
        {CONFIG " --memory lots", "--memory lots"},
        {CONFIG " --kv-type f64", "--kv-type f64"},
        {CONFIG " --type q9", "--type q9"},
        {CONFIG " --device abacus", "--device abacus"},
        {CONFIG " --tp 2 --pp 1 --weights 1,2,3", "--weights"},
        {CONFIG " --tp 2 --pp 1 --weights 1,x", "--weights x"},
        {CONFIG " --ctx 200000", "--ctx"},
        {CONFIG " --devices 8", "which machine"},
        {CONFIG " --machine abacus", "neither a built-in machine"},
        {CONFIG " --machine h100 --tpot soon", "--tpot soon"},
        {CONFIG " --machine h100 --sums f64", "--sums f64"},
        {CONFIG " --machine h100 --ep 8", "no experts"},
        {CONFIG " --machine h100 --tp 16 --devices 8", "16 devices"},
        {CONFIG " --machine h100 --prompt-len 200000", "--prompt-len"},
        {DEEPSEEK " --machine here", "cannot be measured"},
        {DEEPSEEK " --tp 8", "--machine"},
        {"--check /no/such/results.jsonl", "/no/such/results.jsonl"},
        {"/no/such/config.json", "/no/such/config.json"},
        {CONFIG " --frobnicate", "frobnicate"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int code = run(cases[i].args, true);
        if (code != 2 || strstr(output, cases[i].says) == NULL)
            fail_msg("plan %s: exit code %d, \"%s\"", cases[i].args, code, output);
    }
}

static double number(const json_t *v, const char *key)
{
    return json_number_value(json_object_get(v, key));
}

/* All of DeepSeek-V3 over 1,024 GPUs: a front, and the best within an SLO. */
static void every_split_is_predicted(void **state)
{
    (void)state;
    assert_int_equal(run(DEEPSEEK " --machine h200 --devices 1024 --prompt-len 4000 --output-len 1000 --ttft 2s --tpot 50ms --json", false), 0);
    json_t *v = json_loads(output, 0, NULL), *front = json_object_get(v, "front"), *best = json_object_get(v, "best"), *p;
    assert_true(number(v, "weights") > 670e9 && number(v, "weights") < 672e9);
    assert_true(number(v, "splits") > 10000 && json_array_size(front) > 10 && json_is_true(json_object_get(json_object_get(v, "slo"), "kept")));
    assert_true(number(best, "tpot_seconds") <= 0.05 && number(best, "ttft_seconds") <= 2 && number(best, "price_per_million_tokens") > 0);
    assert_true(number(best, "tp") * number(best, "pp") * number(best, "ep") * number(best, "replicas") <= 1024);
    size_t i;
    json_array_foreach(front, i, p)
        assert_true(i == 0 || number(p, "tokens_per_second_device") > number(json_array_get(front, i - 1), "tokens_per_second_device"));
    printf("%g splits, %g predictions: %.3f s of a core\n", number(v, "splits"), number(v, "predictions"), number(v, "seconds"));
    json_decref(v);
    assert_int_equal(run(DEEPSEEK " --machine h200 --devices 16 --tpot 1us", false), 1);
    assert_non_null(strstr(output, "NOTHING keeps the SLO"));
    assert_int_equal(run(DEEPSEEK " --machine h100 --devices 4", false), 1);
    assert_non_null(strstr(output, "Nothing fits"));
    assert_int_equal(run(CONFIG " --machine a100 --tp 8 --pp 1 --batch 4", false), 1); /* 810 GB on 8 x 80 */
    assert_non_null(strstr(output, "does NOT fit"));
    assert_int_equal(run(CONFIG " --machine a100 --tp 8 --pp 2 --batch 4 --type q4_k --every", false), 0);
    assert_non_null(strstr(output, "Every split"));
}

static void a_machine_may_be_a_file(void **state)
{
    (void)state;
    char path[] = "/tmp/trireme_plan_XXXXXX", args[512];
    static const char text[] = "{\"machine\":\"slow-wire\",\"base\":\"h100\",\"between_hosts\":{\"bytes_per_second\":1e8}}";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(file_write_all(path, text, sizeof(text) - 1, 0600), ST_OK);
    snprintf(args, sizeof(args), CONFIG " --machine %s --tp 16 --pp 1 --batch 8 --type fp8 --json", path);
    assert_int_equal(run(args, false), 0);
    json_t *slow = json_loads(output, 0, NULL);
    assert_int_equal(run(CONFIG " --machine h100 --tp 16 --pp 1 --batch 8 --type fp8 --json", false), 0);
    json_t *fast = json_loads(output, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json_object_get(slow, "machine"), "machine")), "slow-wire");
    assert_true(number(json_object_get(slow, "best"), "tpot_seconds") > 2 * number(json_object_get(fast, "best"), "tpot_seconds"));
    json_decref(slow);
    json_decref(fast);
    unlink(path);
}

static void the_front_as_a_page(void **state)
{
    (void)state;
    char path[] = "/tmp/trireme_plan_XXXXXX", args[512], *page;
    size_t len;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(args, sizeof(args), DEEPSEEK " --machine h100 --devices 64 --tpot 50ms --html %s", path);
    assert_int_equal(run(args, false), 0);
    assert_int_equal(file_read_all(path, 16 << 20, &page, &len), ST_OK);
    static const char *const there[] = {"<!doctype html>", "<svg", "polyline class=\"front\"", "class=\"best\"", "prefers-color-scheme:dark", "<table>", "</html>"};
    static const char *const absent[] = {"http:", "https:", "<script", "nan", "inf\""};
    for (size_t i = 0; i < ARRAY_LEN(there); i++)
        assert_non_null(strstr(page, there[i]));
    for (size_t i = 0; i < ARRAY_LEN(absent); i++)
        assert_null(strstr(page, absent[i]));
    free(page);
    unlink(path);
    assert_int_equal(run(DEEPSEEK " --machine h100 --devices 64 --html /no/such/folder/x.html", true), 1);
    assert_non_null(strstr(output, "/no/such/folder"));
}

/* Writes lines of results and checks them; returns the exit code. */
static int check(const char *lines, const char *more)
{
    char path[] = "/tmp/trireme_plan_XXXXXX", args[1024];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(file_write_all(path, lines, strlen(lines), 0600), ST_OK);
    snprintf(args, sizeof(args), "--check %s %s", path, more);
    int code = run(args, true);
    unlink(path);
    return code;
}

#define LINE(test, tokens, batch, depth, rate, model, tp, backend)                                                                                        \
    "{\"test\":\"" test "\",\"tokens\":" tokens ",\"batch\":" batch ",\"depth\":" depth ",\"tokens_per_second\":" rate ",\"model\":\"" model "\",\"tp\":" tp \
    ",\"pp\":1,\"threads\":1,\"backend\":\"" backend "\",\"f32\":false,\"kv_type\":\"f16\"}\n"

static void results_are_checked(void **state)
{
    (void)state;
    /* Of GPUs, by the machine that is named; a rate a hundred times what is possible is a large error. */
    assert_int_equal(check(LINE("decode", "32", "1", "1000", "50", CONFIG, "8", "cuda") "\n" LINE("shared", "32", "1", "1000", "50", CONFIG, "8", "cuda")
                               LINE("prefill", "4096", "2", "0", "5000", CONFIG, "8", "cuda") LINE("decode", "32", "1", "1000", "5000", CONFIG, "8", "cuda"), "--machine h200"), 0);
    assert_non_null(strstr(output, "3 results: median error"));
    assert_int_equal(check(LINE("decode", "32", "1", "1000", "50", CONFIG, "8", "cuda"), ""), 2);
    assert_non_null(strstr(output, "--machine"));
    /* Of CPUs: measured here, whatever that gives. */
    assert_int_equal(check(LINE("decode", "8", "2", "16", "1000", TINY, "1", "cpu") LINE("prefill", "16", "2", "0", "1000", TINY, "1", "cpu"), "--json"), 0);
    assert_non_null(strstr(output, "\"median_error\""));
}

static void bad_results_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *lines, *says;
    } cases[] = {
        {"", "no line of"},
        {"{\"test\":\"among\"}\n", "no line of"},
        {"hello\n", ":1: not valid JSON"},
        {"{\"test\":\"decode\"}\n", "model is missing"},
        {LINE("decode", "32", "1", "1", "5", CONFIG, "8", "cuda") LINE("decode", "32", "0", "1", "5", CONFIG, "8", "cuda"), ":2: batch is 0"},
        {LINE("decode", "32", "1", "1", "-5", CONFIG, "8", "cuda"), "tokens_per_second is -5"},
        {LINE("decode", "32", "1", "1", "5", CONFIG, "999", "cuda"), "query heads"},
        {LINE("decode", "32", "1", "1", "5", "/no/such/model", "8", "cuda"), "/no/such/model"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int code = check(cases[i].lines, "--machine h100");
        if (code != 2 || strstr(output, cases[i].says) == NULL)
            fail_msg("%s: exit code %d, \"%s\"", cases[i].lines, code, output);
    }
}

static void help_teaches(void **state)
{
    (void)state;
    assert_int_equal(run("--help", false), 0);
    assert_non_null(strstr(output, "Examples:"));
    assert_non_null(strstr(output, "--tp"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_says_everything),     cmocka_unit_test(the_table_names_every_rank), cmocka_unit_test(too_little_memory_is_exit_code_1),
        cmocka_unit_test(ranks_are_chosen),         cmocka_unit_test(wrong_use_is_exit_code_2),   cmocka_unit_test(help_teaches),
        cmocka_unit_test(every_split_is_predicted), cmocka_unit_test(a_machine_may_be_a_file),         cmocka_unit_test(the_front_as_a_page),
        cmocka_unit_test(results_are_checked),      cmocka_unit_test(bad_results_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
