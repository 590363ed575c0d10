/* tests/client/test_stream.c - a streamed answer means the same however its bytes are cut; what is no output, and what is an error. */
#include "coordinator/client/stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static client_stream read_whole(const char *text, size_t piece)
{
    client_stream s = {0};
    size_t n = strlen(text);
    int32_t outputs = 0;
    client_stream_begin(&s);
    for (size_t at = 0; at < n; at += piece)
        outputs += client_stream_feed(&s, text + at, n - at < piece ? n - at : piece);
    outputs += client_stream_end(&s);
    assert_int_equal(outputs, s.n_outputs);
    client_stream_free(&s);
    return s;
}

/* Chat: the role, two outputs, the reason of the end, the usage; comments, other fields, an event on two lines, all three line ends. */
static const char chat[] = "\xef\xbb\xbf: hello\r\n\r\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\r\nid: 4\nevent: message\n"
                           "data:{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":\rdata: [{\"delta\":{\"reasoning_content\":\"b\"}}]}\r\r"
                           "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n"
                           "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9}}\n\ndata: [DONE]\n\ndata: {\"choices\":[{\"text\":\"late\"}]}\n\n";

static void any_cut_means_the_same(void **state)
{
    (void)state;
    for (size_t piece = 1; piece <= sizeof(chat); piece++) {
        client_stream s = read_whole(chat, piece);
        assert_int_equal(s.n_choices, 4);
        assert_int_equal(s.n_outputs, 2);
        assert_true(s.finished && s.done && !s.failed);
        assert_int_equal(s.prompt_tokens, 7);
        assert_int_equal(s.completion_tokens, 9);
    }
}

static void what_an_output_is(void **state)
{
    (void)state;
    static const struct {
        const char *choice;
        int outputs;
    } cases[] = {
        {"{\"text\":\"x\"}", 1}, {"{\"text\":\"\"}", 0}, {"{\"text\":\"\",\"token_ids\":[5]}", 1}, {"{\"text\":\"\",\"token_ids\":[]}", 0}, {"{\"delta\":{\"tool_calls\":[{}]}}", 1},
        {"{\"delta\":{\"content\":null}}", 0}, {"{\"delta\":{\"reasoning\":\"x\"}}", 1}, {"{\"delta\":5}", 0}, {"7", 0}, {"{\"text\":\"\\u0000\"}", 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[256];
        snprintf(text, sizeof(text), "data: {\"choices\":[%s]}\n\n", cases[i].choice);
        client_stream s = read_whole(text, 1000);
        assert_int_equal(s.n_outputs, cases[i].outputs);
        assert_int_equal(s.n_choices, 1);
        assert_false(s.failed || s.done || s.finished);
        assert_int_equal(s.completion_tokens, -1);
    }
}

static void errors_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"data: {\"error\":{\"message\":\"no more\\nroom\"}}\n\n", "no more room"},
        {"data: {\"error\":\"lost\"}\n\n", "lost"},
        {"data: {\"error\":{}}\n\n", "an error without a message"},
        {"data: {\"error\":{\"message\":\"\"}}\n\n", "an error without a message"},
        {"data: {\"error\":{\"message\":\" \\n\\u0001\"}}\n\n", "an error without a message"},
        {"data: {\"choices\":[\n\n", "an event that is no JSON object"},
        {"data: [1]\n\n", "an event that is no JSON object"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        client_stream s = read_whole(cases[i].text, 3);
        assert_true(s.failed);
        assert_string_equal(s.error, cases[i].error);
    }
    assert_false(read_whole("data: {\"choices\":[{\"text\":\"x\"}],\"error\":null}\n\n", 9).failed);
    /* An end without a blank line counts, and one without a line end. */
    assert_true(read_whole("data: [DONE]\n", 4).done);
    assert_true(read_whole("data: [DONE]", 4).done);
}

static void an_endless_event_is_bounded(void **state)
{
    (void)state;
    static char piece[4096];
    client_stream s = {0};
    memset(piece, 'x', sizeof(piece));
    client_stream_begin(&s);
    size_t sent = 0;
    for (; !s.failed && sent < (size_t)1 << 30; sent += sizeof(piece))
        client_stream_feed(&s, piece, sizeof(piece));
    assert_true(s.failed && sent <= CLIENT_STREAM_EVENT + sizeof(piece));
    /* And it can be used again. */
    client_stream_begin(&s);
    client_stream_feed(&s, "data: [DONE]\n\n", 14);
    assert_true(s.done && !s.failed);
    client_stream_free(&s);
}

static void refusals_are_one_line(void **state)
{
    (void)state;
    static const struct {
        const char *body, *text;
    } cases[] = {
        {"{\"error\":{\"message\":\"too many\"}}", "too many"},
        {"{\"object\":\"error\",\"message\":\"too long\"}", "too long"},
        {"{\"detail\":\"Not Found\"}", "Not Found"},
        {"<html>\r\n  <b>502</b>\n", "<html> <b>502</b>"},
        {"", ""},
        {"\xff\xfe ok", "?? ok"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[CLIENT_STREAM_ERROR];
        client_error_text(cases[i].body, strlen(cases[i].body), text);
        assert_string_equal(text, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_cut_means_the_same),      cmocka_unit_test(what_an_output_is),     cmocka_unit_test(errors_are_named),
        cmocka_unit_test(an_endless_event_is_bounded), cmocka_unit_test(refusals_are_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
