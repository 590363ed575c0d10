/* tests/coordinator/test_cli_plan.c - `trireme plan` as scripts see it: output, exit codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/status.h"

#define CONFIG TEST_SOURCE_DIR "/coordinator/configs/llama-3.1-405b.json"

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
        {"/no/such/config.json", "/no/such/config.json"},
        {CONFIG " --frobnicate", "frobnicate"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int code = run(cases[i].args, true);
        if (code != 2 || strstr(output, cases[i].says) == NULL)
            fail_msg("plan %s: exit code %d, \"%s\"", cases[i].args, code, output);
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
