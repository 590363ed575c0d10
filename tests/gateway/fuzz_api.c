/* tests/gateway/fuzz_api.c - bytes as a body, and as what a replica says to the call that comes of it.
 *
 * The first byte picks the route, the second the template; the body ends at the first NUL byte, and the rest are tokens (a byte's high bits pick among
 * bytes, marks and ends).  Whole and streamed, the call must end in JSON that reads. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gateway/api_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const templates[] = {
    NULL,
    "{% for m in messages %}{{ m.role }}{{ m.content.split('</think>')[-1] }}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    "{{ tools }}<think>\n",
    "[TOOL_CALLS]{{ messages[-1].content }}{{ tools | tojson }}",
    "",
};

static const shard_text *text_of(uint8_t which)
{
    static shard_text *texts[ARRAY_LEN(templates)];
    which %= ARRAY_LEN(templates);
    if (texts[which] == NULL)
        texts[which] = fixture_text(templates[which], NULL, true);
    return texts[which];
}

/* Tokens of one sequence: one for each byte, until it ends; then its end. */
static void feed(api_call *c, int i, const uint8_t *data, size_t size, mem_str *out)
{
    const Trireme__Submit *s = api_call_sequence(c, i);
    int32_t vocab = 268;
    bool cancel = false;
    for (size_t at = 0; at <= size && !cancel && !api_call_ended(c); at++) {
        Trireme__Event e;
        Trireme__LogProb top, *tops[] = {&top};
        float v[4] = {1, 2, 3, 4};
        trireme__event__init(&e);
        trireme__log_prob__init(&top);
        e.index = (int32_t)at;
        e.token = at == size ? fixture_eos : data[at] < 0xf0 ? data[at] : 256 + (data[at] & 0xf) % (vocab - 256);
        e.finish = at == size ? 1 : (int32_t)at + 1 >= s->sampling->max_tokens ? 2 : 0;
        top.token = e.token;
        e.top = tops;
        e.n_top = s->sampling->n_logprobs > 0;
        if (s->pooling != TRIREME__POOLING__GENERATE)
            e.embedding = v, e.n_embedding = 4;
        if (api_call_event(c, i, &e, out, &cancel) != ST_OK)
            return;
        if (e.finish != 0)
            break;
    }
}

/* Whether it is JSON; jansson alone refuses a NUL in a key, which a token of legacy log-probabilities may be. */
static bool is_json(const char *text, size_t n, size_t flags)
{
    json_error_t e;
    json_t *v = json_loadb(text, n, flags | JSON_ALLOW_NUL, &e);
    bool fine = v != NULL || json_error_code(&e) == json_error_null_byte_in_key;
    json_decref(v);
    return fine;
}

static void check_answer(const api_call *c)
{
    mem_str answer = {0};
    int http;
    if (api_call_answer(c, &answer, &http) != ST_OK)
        abort();
    if (answer.len > 0 && !is_json(answer.data, answer.len, JSON_REJECT_DUPLICATES))
        abort();
    mem_str_free(&answer);
    json_decref(api_call_conversation(c));
}

/* Each block of a stream holds JSON, but for the last. */
static void check_stream(const mem_str *out)
{
    for (const char *at = out->data; at != NULL && at < out->data + out->len;) {
        const char *data = strstr(at, "data: "), *end = data == NULL ? NULL : strstr(data, "\n\n");
        if (end == NULL)
            abort();
        if (strncmp(data, "data: [DONE]", 12) != 0 && !is_json(data + 6, (size_t)(end - data) - 6, 0))
            abort();
        at = end + 2;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3 || size > 1 << 15)
        return 0;
    const uint8_t *body = data + 2, *nul = memchr(body, 0, size - 2);
    size_t len = nul == NULL ? size - 2 : (size_t)(nul - body);
    api_model model = fixture_model(text_of(data[1]));
    model.embedding_dim = 4;
    model.max_model_len = 2048;
    api_call_options options = {.model = &model, .request_id = "r", .max_sequences = 4};
    api_call *c = NULL;
    api_error e;
    mem_str out = {0};
    status_mute();
    if (api_call_create((api_route)(data[0] % 6), (const char *)body, len, &options, &c, &e) == ST_OK) {
        for (int i = 0; i < api_call_n_sequences(c); i++)
            feed(c, i, nul == NULL ? NULL : nul + 1, nul == NULL ? 0 : size - 3 - len, &out);
        if (!api_call_ended(c))
            api_call_fail(c, &(api_error){.http = 500, .type = "internal_error", .message = "cut"}, &out);
        check_answer(c);
        check_stream(&out);
        api_call_destroy(&c);
    } else {
        api_error_json(&e, &out);
        json_t *v = json_loadb(out.data, out.len, JSON_ALLOW_NUL, NULL);
        if (v == NULL || e.http < 400)
            abort();
        json_decref(v);
    }
    status_unmute();
    mem_str_free(&out);
    return 0;
}
