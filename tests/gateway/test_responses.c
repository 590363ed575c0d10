/* tests/gateway/test_responses.c - kept answers belong to the key that made them, and the oldest go first. */
#include "coordinator/gateway/responses.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static json_t *conversation(const char *text)
{
    return json_pack("[{ss}]", "content", text);
}

static void put(responses *r, int32_t owner, const char *id, const char *body)
{
    json_t *c = conversation(body);
    responses_put(r, owner, id, body, strlen(body), c);
    json_decref(c);
}

static bool has(responses *r, int32_t owner, const char *id, const char *body)
{
    mem_str s = {0};
    uint64_t call = 99;
    bool found = responses_get(r, owner, id, &s, &call);
    bool equal = found && call == 0 && s.data != NULL && strcmp(s.data, body) == 0;
    mem_str_free(&s);
    return equal;
}

static void an_answer_is_its_owners(void **state)
{
    (void)state;
    responses *r = NULL;
    mem_str s = {0};
    uint64_t call = 0;
    assert_int_equal(responses_create(1 << 20, &r), ST_OK);
    responses_begin(r, 1, "resp_a", 7);
    assert_true(responses_get(r, 1, "resp_a", &s, &call));
    assert_int_equal(call, 7); /* under way: to be cancelled by its call */
    assert_int_equal(s.len, 0);
    assert_null(responses_conversation(r, 1, "resp_a"));
    put(r, 1, "resp_a", "one");
    assert_true(has(r, 1, "resp_a", "one"));
    assert_false(responses_get(r, 2, "resp_a", &s, &call));
    assert_null(responses_conversation(r, 2, "resp_a"));
    json_t *c = responses_conversation(r, 1, "resp_a"), *want = conversation("one");
    assert_true(json_equal(c, want));
    json_decref(c);
    json_decref(want);
    put(r, 2, "resp_a", "two"); /* the same id of another key is another answer */
    assert_true(has(r, 1, "resp_a", "one"));
    responses_remove(r, 1, "resp_a");
    assert_false(responses_get(r, 1, "resp_a", &s, &call));
    assert_true(has(r, 2, "resp_a", "two"));
    responses_destroy(&r);
}

static void the_oldest_are_forgotten(void **state)
{
    (void)state;
    responses *r = NULL;
    char id[32];
    assert_int_equal(responses_create(4000, &r), ST_OK);
    for (int i = 0; i < 1000; i++) {
        snprintf(id, sizeof(id), "resp_%d", i);
        put(r, 0, id, "body");
    }
    assert_true(has(r, 0, "resp_999", "body"));
    assert_true(has(r, 0, "resp_990", "body"));
    assert_false(has(r, 0, "resp_900", "body"));
    char large[5000];
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    put(r, 0, "resp_large", large); /* larger than all of it: not kept, and nothing breaks */
    assert_false(has(r, 0, "resp_large", large));
    put(r, 0, "resp_after", "body");
    assert_true(has(r, 0, "resp_after", "body"));
    responses_destroy(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_answer_is_its_owners), cmocka_unit_test(the_oldest_are_forgotten)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
