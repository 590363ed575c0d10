/* tests/shard_files/test_files_cli.c - `trireme inspect`, `shard` and `pull` as scripts use them: output, exit codes, messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/shard_files/make.h"

#define TINY TEST_SOURCE_DIR "/golden/llama-9h3kv-llama3rope"

static char *folder;

/* Runs `trireme ARGS`; its exit code; *out and *err are what it printed, caller frees. */
static int run(const char *args, char **out, char **err)
{
    char command[2048], *o = make_path(folder, "out"), *e = make_path(folder, "err");
    size_t n;
    snprintf(command, sizeof(command), "cd '%s' && '%s/trireme' %s >'%s' 2>'%s'", folder, TEST_BINARY_DIR, args, o, e);
    int code = system(command);
    assert_int_equal(file_read_all(o, 1 << 24, out, &n), ST_OK);
    assert_int_equal(file_read_all(e, 1 << 24, err, &n), ST_OK);
    free(o);
    free(e);
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

static void expect(const char *args, int want, const char *in_out, const char *in_err)
{
    char *out, *err;
    int code = run(args, &out, &err);
    if (code != want || strstr(out, in_out) == NULL || strstr(err, in_err) == NULL)
        fail_msg("trireme %s: exit code %d, wanted %d\nstdout: %s\nstderr: %s", args, code, want, out, err);
    free(out);
    free(err);
}

static json_t *json_of(const char *args)
{
    char *out, *err;
    json_t *v;
    int code = run(args, &out, &err);
    if (code != 0)
        fail_msg("trireme %s: exit code %d: %s", args, code, err);
    assert_int_equal(json_parse(args, out, strlen(out), &v), ST_OK);
    free(out);
    free(err);
    return v;
}

static const char *text_of(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static int set_up(void **state)
{
    (void)state;
    folder = make_folder();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    make_remove(folder);
    free(folder);
    return 0;
}

static void inspect_says_what_is_known(void **state)
{
    (void)state;
    json_t *d = json_of("inspect --json " TINY);
    static const char *const keys[] = {"name", "source", "revision", "licence", "base", "parent", "recipe", "policies", "evaluations", "digest", "architecture",
                                       "parameters", "tensors", "tokenizer", "chat_templates", "generation"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (json_object_get(d, keys[i]) == NULL)
            fail_msg("%s is missing: unknown must be said as null", keys[i]);
    }
    assert_true(json_is_null(json_object_get(d, "licence")));
    assert_string_equal(text_of(json_object_get(d, "architecture"), "family"), "llama");
    assert_string_equal(text_of(d, "format"), "safetensors");
    json_decref(d);
    expect("inspect " TINY, 0, "licence         unknown", "");
    expect("inspect --tensors " TINY, 0, "model.embed_tokens.weight", "");
    expect("inspect " TINY "/config.json", 0, "Weights           none here", "");
    expect("inspect --verify " TINY, 2, "", "no hash of it is recorded");
    expect("inspect", 2, "", "give a MODEL");
    expect("inspect a b", 2, "", "one MODEL");
    expect("inspect no-such-thing", 2, "", "no-such-thing");
    expect("inspect --help", 0, "Examples:", "");
}

static void shard_cuts_and_inspect_checks(void **state)
{
    (void)state;
    json_t *was = json_of("inspect --json " TINY), *cut = json_of("shard --json --quiet --tp 3 --pp 2 " TINY " cut");
    assert_int_equal(json_integer_value(json_object_get(cut, "ranks")), 6);
    assert_string_equal(text_of(cut, "digest"), text_of(was, "digest"));
    json_t *is = json_of("inspect --json --verify cut");
    assert_string_equal(text_of(is, "format"), "trireme-shard");
    assert_string_equal(text_of(is, "digest"), text_of(was, "digest"));
    assert_string_equal(text_of(is, "name"), text_of(was, "name"));
    assert_true(json_is_true(json_object_get(is, "verified")));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(is, "cut"), "tp")), 3);
    assert_true(json_equal(json_object_get(is, "architecture"), json_object_get(was, "architecture")));
    assert_true(json_equal(json_object_get(is, "tokenizer"), json_object_get(was, "tokenizer")));
    json_decref(was);
    json_decref(cut);
    json_decref(is);
    expect("shard --tp 2 " TINY " cut", 2, "", "exists already");
    expect("shard --tp 2 cut other", 2, "", "is a cut itself");
    expect("shard --tp 0 " TINY " other", 2, "", "--tp 0");
    expect("shard --tp 99 " TINY " other", 2, "", "tp 99");
    expect("shard --rank-weights 1,x --tp 2 " TINY " other", 2, "", "--rank-weights");
    expect("shard --rank-weights 1,0.5 --tp 2 " TINY " weighted", 0, "weighted: 2 ranks", "");
    expect("shard --compute bf17 " TINY " other", 2, "", "auto or f32");
    expect("shard " TINY, 2, "", "TARGET");
    expect("shard --help", 0, "Examples:", "");
    expect("inspect --verify weighted", 0, "Verified", "");
    char *other = make_path(folder, "other");
    assert_false(file_exists(other));
    free(other);
}

static void pull_refuses_what_is_no_name(void **state)
{
    (void)state;
    setenv("HF_HUB_OFFLINE", "1", 1);
    setenv("HF_HOME", folder, 1);
    expect("pull ../etc", 2, "", "no hub name");
    expect("pull org/name", 2, "", "not in the cache");
    expect("inspect org/name", 2, "", "trireme pull org/name");
    expect("pull", 2, "", "give a NAME");
    expect("pull --help", 0, "HF_TOKEN", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(inspect_says_what_is_known), cmocka_unit_test(shard_cuts_and_inspect_checks),
                                       cmocka_unit_test(pull_refuses_what_is_no_name)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
