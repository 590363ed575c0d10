/* tests/comm_wire/test_wire_check.c - what passes for a message: the bounded codec, ranges and names, and which protocols fit each other. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/wire/wire_internal.h"
#include "pair.h"

static const wire_limits limits = {.vocab = 512, .max_model_len = 4096, .embedding_dim = 4};

static const char *judge(wire_side from, Trireme__Envelope__BodyCase body, void *message)
{
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    e.body_case = body;
    e.hello = message; /* any member of the union */
    return wire_check(&e, from, &limits);
}

static void wrong(const char *got, const char *word)
{
    if (got == NULL || strstr(got, word) == NULL)
        fail_msg("\"%s\" expected in: %s", word, got != NULL ? got : "(passed)");
}

static const char *judge_hello(Trireme__Hello *h)
{
    return judge(WIRE_FROM_REPLICA, TRIREME__ENVELOPE__BODY_HELLO, h);
}

static void names_are_checked(void **state)
{
    (void)state;
    char longest[WIRE_NAME + 1];
    memset(longest, 'a', sizeof(longest));
    longest[WIRE_NAME - 1] = '\0';
    const char *const good[] = {"a", "0", "node-7.rack_2", longest};
    const char *const bad[] = {"", "-a", ".a", "_a", "a b", "a/b", "a\n", "\xc3\xa4", "..", "a%"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        Trireme__Hello h = hello_of(good[i], 1);
        assert_null(judge_hello(&h));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        Trireme__Hello h = hello_of(bad[i], 1);
        wrong(judge_hello(&h), "replica");
    }
    longest[WIRE_NAME - 1] = 'a';
    longest[WIRE_NAME] = '\0';
    assert_false(wire_name_valid(longest));
}

static void numbers_of_a_hello_are_checked(void **state)
{
    (void)state;
    static const size_t at_least_one[] = {
        offsetof(Trireme__Hello, max_model_len), offsetof(Trireme__Hello, vocab), offsetof(Trireme__Hello, max_num_seqs),
        offsetof(Trireme__Hello, max_num_batched_tokens), offsetof(Trireme__Hello, block_tokens), offsetof(Trireme__Hello, tp), offsetof(Trireme__Hello, pp)};
    static const int32_t values[] = {0, -1, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(at_least_one); i++)
        for (size_t v = 0; v < ARRAY_LEN(values); v++) {
            Trireme__Hello h = hello_of("r", 1);
            memcpy((char *)&h + at_least_one[i], &values[v], sizeof(int32_t));
            wrong(judge_hello(&h), "out of range");
        }
    Trireme__Hello h = hello_of("r", 0);
    wrong(judge_hello(&h), "epoch");
    h = hello_of("r", 1);
    h.kv_blocks = 0;
    wrong(judge_hello(&h), "out of range");
    h = hello_of("r", 1);
    h.embedding_dim = -1;
    wrong(judge_hello(&h), "out of range");
}

static void texts_of_a_hello_are_checked(void **state)
{
    (void)state;
    static const char *const bad[] = {"a\nb", "a\x1b[2J", "\xff", "\xc3", "\xe2\x82", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80", "\x7f"};
    char longest[514];
    memset(longest, 'x', 513);
    longest[513] = '\0';
    for (size_t i = 0; i <= ARRAY_LEN(bad); i++) {
        Trireme__Hello h = hello_of("r", 1);
        h.model = i < ARRAY_LEN(bad) ? (char *)(uintptr_t)bad[i] : longest;
        wrong(judge_hello(&h), "text");
    }
    Trireme__Hello h = hello_of("r", 1);
    h.model = "org/M\xc3\xb6" "del \xe2\x82\xac \xf0\x9f\x9a\xa3";
    assert_null(judge_hello(&h));
    h.model = "";
    wrong(judge_hello(&h), "needed");
}

static void assets_of_a_hello_are_checked(void **state)
{
    (void)state;
    static const char *const good[] = {"tokenizer.json", "template/tool_use.jinja", "a/b/c"};
    static const char *const bad[] = {"", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a/.b", "a\\b", "a b"};
    uint8_t digest[32] = {1};
    Trireme__AssetName a[2] = {TRIREME__ASSET_NAME__INIT, TRIREME__ASSET_NAME__INIT}, *list[300];
    Trireme__Hello h = hello_of("r", 1);
    a[0].sha256 = a[1].sha256 = (ProtobufCBinaryData){32, digest};
    list[0] = &a[0];
    list[1] = &a[1];
    h.assets = list;
    h.n_assets = 1;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        a[0].name = (char *)(uintptr_t)good[i];
        assert_null(judge_hello(&h));
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        a[0].name = (char *)(uintptr_t)bad[i];
        wrong(judge_hello(&h), "asset");
    }
    a[0].name = a[1].name = "x";
    h.n_assets = 2;
    wrong(judge_hello(&h), "one name");
    h.n_assets = 1;
    a[0].sha256.len = 31;
    wrong(judge_hello(&h), "asset");
    a[0].sha256.len = 32;
    a[0].bytes = WIRE_MAX_ASSET + 1;
    wrong(judge_hello(&h), "asset");
    a[0].bytes = WIRE_MAX_ASSET;
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        list[i] = &a[0];
    h.n_assets = ARRAY_LEN(list);
    wrong(judge_hello(&h), "too many");
}

static const char *judge_event(Trireme__Event *e)
{
    Trireme__Event *list[] = {e};
    Trireme__Tokens t = TRIREME__TOKENS__INIT;
    t.events = list;
    t.n_events = 1;
    return judge(WIRE_FROM_REPLICA, TRIREME__ENVELOPE__BODY_TOKENS, &t);
}

static void events_are_checked(void **state)
{
    (void)state;
    Trireme__Event e = TRIREME__EVENT__INIT;
    e.token = 511;
    e.index = 4096;
    e.logprob = NAN; /* a broken checkpoint's; not the wire's business */
    assert_null(judge_event(&e));
    e.token = 512;
    wrong(judge_event(&e), "vocabulary");
    e.token = -1;
    wrong(judge_event(&e), "vocabulary");
    e.token = 0;
    e.finish = 3;
    wrong(judge_event(&e), "finish");
    e.finish = 2;
    e.index = -1;
    wrong(judge_event(&e), "index");
    e.index = 0;
    Trireme__LogProb lp = TRIREME__LOG_PROB__INIT, *top[] = {&lp};
    e.top = top;
    e.n_top = 1;
    lp.token = 512;
    wrong(judge_event(&e), "vocabulary");
    lp.token = 1;
    assert_null(judge_event(&e));
    float vector[5] = {NAN};
    e.embedding = vector;
    e.n_embedding = 5;
    wrong(judge_event(&e), "embedding_dim");
    e.n_embedding = 4;
    assert_null(judge_event(&e));
}

static void who_may_say_what(void **state)
{
    (void)state;
    Trireme__Cancel cancel = TRIREME__CANCEL__INIT;
    Trireme__Welcome w = TRIREME__WELCOME__INIT;
    Trireme__Health health = TRIREME__HEALTH__INIT;
    Trireme__Heartbeat beat = TRIREME__HEARTBEAT__INIT;
    wrong(judge(WIRE_FROM_REPLICA, TRIREME__ENVELOPE__BODY_CANCEL, &cancel), "only a gateway");
    wrong(judge(WIRE_FROM_REPLICA, TRIREME__ENVELOPE__BODY_WELCOME, &w), "only a gateway");
    wrong(judge(WIRE_FROM_GATEWAY, TRIREME__ENVELOPE__BODY_HEALTH, &health), "only a replica");
    assert_null(judge(WIRE_FROM_GATEWAY, TRIREME__ENVELOPE__BODY_CANCEL, &cancel));
    assert_null(judge(WIRE_FROM_REPLICA, TRIREME__ENVELOPE__BODY_HEALTH, &health));
    assert_null(judge(WIRE_FROM_REPLICA, TRIREME__ENVELOPE__BODY_HEARTBEAT, &beat));
    assert_null(judge(WIRE_FROM_GATEWAY, TRIREME__ENVELOPE__BODY_HEARTBEAT, &beat));
    health.detail = "a\nb";
    wrong(judge(WIRE_FROM_REPLICA, TRIREME__ENVELOPE__BODY_HEALTH, &health), "health");
}

static void submits_are_checked(void **state)
{
    (void)state;
    int32_t tokens[] = {1, 2, 511}, bias[] = {5}, outside[] = {512};
    float values[] = {1, 2};
    Trireme__Submit s = TRIREME__SUBMIT__INIT;
    Trireme__Sampling p = TRIREME__SAMPLING__INIT;
    wrong(wire_check_submit(&s, &limits), "no tokens");
    s.tokens = tokens;
    s.n_tokens = 3;
    s.n_prompt = 2;
    wrong(wire_check_submit(&s, &limits), "no sampling");
    s.sampling = &p;
    assert_null(wire_check_submit(&s, &limits));
    s.n_prompt = 4;
    wrong(wire_check_submit(&s, &limits), "n_prompt");
    s.n_prompt = 3;
    tokens[1] = 512;
    wrong(wire_check_submit(&s, &limits), "vocabulary");
    tokens[1] = 2;
    p.bias_tokens = bias;
    p.bias_values = values;
    p.n_bias_tokens = 1;
    p.n_bias_values = 2;
    wrong(wire_check_submit(&s, &limits), "bias");
    p.n_bias_values = 1;
    assert_null(wire_check_submit(&s, &limits));
    p.allowed_tokens = outside;
    p.n_allowed_tokens = 1;
    wrong(wire_check_submit(&s, &limits), "vocabulary");
    p.n_allowed_tokens = 0;
    Trireme__TokenList empty = TRIREME__TOKEN_LIST__INIT, *words[] = {&empty};
    p.bad_words = words;
    p.n_bad_words = 1;
    wrong(wire_check_submit(&s, &limits), "bad word");
    p.n_bad_words = 0;
    p.n_logprobs = -2;
    wrong(wire_check_submit(&s, &limits), "count");
    p.n_logprobs = -1;
    s.pooling = (Trireme__Pooling)3;
    wrong(wire_check_submit(&s, &limits), "pooling");
}

static void protocols_that_fit_are_found(void **state)
{
    (void)state;
    static const struct {
        wire_version theirs, ours;
        uint32_t agreed;
        const char *word;
    } cases[] = {
        {{1, 1}, {1, 1}, 1, ""},
        {{1, 1}, {1, 2}, 1, ""}, /* the previous still opens */
        {{2, 3}, {1, 2}, 2, ""}, /* a newer one that speaks ours too */
        {{0, 2}, {1, 2}, 2, ""},
        {{2, 2}, {1, 1}, 0, "upgrade the gateway"},
        {{0, 2}, {1, 1}, 0, "upgrade the gateway"},
        {{1, 1}, {2, 3}, 0, "upgrade the replica"},
        {{0, 0}, {1, 1}, 0, "upgrade the replica"},
    };
    char reason[WIRE_REASON];
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(wire_negotiate(cases[i].theirs, cases[i].ours, "the replica", "the gateway", reason), cases[i].agreed);
        if (strstr(reason, cases[i].word) == NULL)
            fail_msg("case %zu: \"%s\" expected in: %s", i, cases[i].word, reason);
    }
}

/* A message in bytes, as protobuf has it: field 7 (Tokens) with n empty events in field 2. */
static uint8_t *many_events(size_t n, size_t *bytes)
{
    uint8_t *p = malloc(2 * n + 16), *at = p;
    assert_non_null(p);
    *at++ = 7 << 3 | 2;
    size_t len = 2 * n;
    for (; len >= 128; len >>= 7)
        *at++ = (uint8_t)(len | 128);
    *at++ = (uint8_t)len;
    for (size_t i = 0; i < n; i++) {
        *at++ = 2 << 3 | 2;
        *at++ = 0;
    }
    *bytes = (size_t)(at - p);
    return p;
}

static void unpacking_takes_bounded_memory(void **state)
{
    (void)state;
    wire_message m;
    size_t n;
    uint8_t *few = many_events(400, &n);
    assert_int_equal(wire_unpack(few, n, &m), ST_OK);
    assert_int_equal(m.envelope->tokens->n_events, 400);
    wire_message_free(&m);
    free(few);
    uint8_t *many = many_events(WIRE_MAX_MESSAGE / 2 - 16, &n); /* would be more than a gigabyte of structs */
    assert_true(n <= WIRE_MAX_MESSAGE);
    assert_int_equal(wire_unpack(many, n, &m), ST_FORMAT);
    assert_null(m.envelope);
    free(many);
    /* What is really sent fits well: a whole frame of text, and of tokens. */
    Trireme__AssetChunk chunk = TRIREME__ASSET_CHUNK__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    e.body_case = TRIREME__ENVELOPE__BODY_ASSET_CHUNK;
    e.asset_chunk = &chunk;
    chunk.data = (ProtobufCBinaryData){WIRE_ASSET_CHUNK, calloc(1, WIRE_ASSET_CHUNK)};
    uint8_t *packed = malloc(trireme__envelope__get_packed_size(&e));
    n = trireme__envelope__pack(&e, packed);
    assert_int_equal(wire_unpack(packed, n, &m), ST_OK);
    assert_int_equal(m.envelope->asset_chunk->data.len, WIRE_ASSET_CHUNK);
    wire_message_free(&m);
    free(packed);
    free(chunk.data.data);
}

static void truncated_messages_do_not_unpack(void **state)
{
    (void)state;
    Trireme__Hello h = hello_of("replica", 1);
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    wire_message m;
    uint8_t packed[512];
    e.body_case = TRIREME__ENVELOPE__BODY_HELLO;
    e.hello = &h;
    size_t n = trireme__envelope__get_packed_size(&e);
    assert_true(n < sizeof(packed));
    trireme__envelope__pack(&e, packed);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut + 1); /* so that a read past the end is seen */
        memcpy(exact, packed, cut);
        assert_int_equal(wire_unpack(exact, cut, &m), ST_FORMAT);
        free(exact);
    }
    assert_int_equal(wire_unpack(packed, n, &m), ST_OK);
    assert_string_equal(m.envelope->hello->replica, "replica");
    wire_message_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(numbers_of_a_hello_are_checked),
        cmocka_unit_test(texts_of_a_hello_are_checked),
        cmocka_unit_test(assets_of_a_hello_are_checked),
        cmocka_unit_test(events_are_checked),
        cmocka_unit_test(who_may_say_what),
        cmocka_unit_test(submits_are_checked),
        cmocka_unit_test(protocols_that_fit_are_found),
        cmocka_unit_test(unpacking_takes_bounded_memory),
        cmocka_unit_test(truncated_messages_do_not_unpack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
