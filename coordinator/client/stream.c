#include "coordinator/client/stream.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

void client_stream_begin(client_stream *s)
{
    mem_str line = s->line, data = s->data;
    mem_str_clear(&line);
    mem_str_clear(&data);
    line.failed = data.failed = false;
    line.limit = data.limit = CLIENT_STREAM_EVENT;
    *s = (client_stream){.line = line, .data = data, .prompt_tokens = -1, .completion_tokens = -1};
}

void client_stream_free(client_stream *s)
{
    mem_str_free(&s->line);
    mem_str_free(&s->data);
}

static void fail(client_stream *s, const char *text)
{
    if (!s->failed)
        snprintf(s->error, sizeof(s->error), "%s", text);
    s->failed = true;
}

/* ---- errors ---- */

static void put_printable(const char *text, size_t len, char out[CLIENT_STREAM_ERROR])
{
    size_t n = 0;
    for (size_t i = 0; i < len && n + 1 < CLIENT_STREAM_ERROR; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f)
            c = ' ';
        if (c != ' ' || (n > 0 && out[n - 1] != ' '))
            out[n++] = (char)c;
    }
    while (n > 0 && (out[n - 1] == ' ' || ((unsigned char)out[n - 1] & 0x80) != 0)) /* not in the middle of a character */
        n--;
    out[n] = '\0';
}

/* OpenAI's {"error": {"message"}}, vLLM's {"message"}, FastAPI's {"detail"}, and {"error": "text"}. */
static const json_t *message_of(const json_t *body)
{
    static const char *const names[] = {"message", "detail", "error"};
    const json_t *error = json_object_get(body, "error");
    if (json_is_object(error))
        body = error;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const json_t *v = json_object_get(body, names[i]);
        if (json_is_string(v))
            return v;
    }
    return NULL;
}

void client_error_text(const char *body, size_t len, char out[CLIENT_STREAM_ERROR])
{
    json_t *o = json_loadb(body, len, JSON_ALLOW_NUL, NULL);
    const json_t *message = message_of(o);
    if (message != NULL)
        put_printable(json_string_value(message), json_string_length(message), out);
    else
        put_printable(body, len, out);
    for (char *c = out; message == NULL && *c != '\0'; c++) { /* it may be no UTF-8 */
        if (((unsigned char)*c & 0x80) != 0)
            *c = '?';
    }
    json_decref(o);
}

/* ---- an event ---- */

static bool has_text(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return (json_is_string(v) && json_string_length(v) > 0) || json_array_size(v) > 0;
}

static bool is_output(const json_t *choice)
{
    static const char *const names[] = {"content", "reasoning_content", "reasoning", "tool_calls", "refusal"};
    const json_t *delta = json_object_get(choice, "delta");
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (has_text(delta, names[i]))
            return true;
    }
    return has_text(choice, "text") || has_text(choice, "token_ids");
}

static void take_usage(client_stream *s, const json_t *usage)
{
    const json_t *prompt = json_object_get(usage, "prompt_tokens"), *completion = json_object_get(usage, "completion_tokens");
    if (json_is_integer(prompt) && json_integer_value(prompt) >= 0)
        s->prompt_tokens = json_integer_value(prompt);
    if (json_is_integer(completion) && json_integer_value(completion) >= 0)
        s->completion_tokens = json_integer_value(completion);
}

static void take_error(client_stream *s, const json_t *event)
{
    const json_t *message = message_of(event);
    char text[CLIENT_STREAM_ERROR] = "";
    if (message != NULL)
        put_printable(json_string_value(message), json_string_length(message), text);
    fail(s, text[0] != '\0' ? text : "an error without a message"); /* nor one of nothing that can be printed */
}

static int32_t take_event(client_stream *s, const char *data, size_t len)
{
    if (s->done)
        return 0;
    if (len == 6 && memcmp(data, "[DONE]", 6) == 0) {
        s->done = true;
        return 0;
    }
    json_t *event = json_loadb(data, len, JSON_ALLOW_NUL, NULL);
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0), *error = json_object_get(event, "error");
    bool output = is_output(choice);
    if (!json_is_object(event)) {
        fail(s, "an event that is no JSON object");
    } else if (error != NULL && !json_is_null(error)) {
        take_error(s, event);
    } else {
        s->n_choices += choice != NULL;
        s->n_outputs += output;
        s->finished = s->finished || json_is_string(json_object_get(choice, "finish_reason"));
        take_usage(s, json_object_get(event, "usage"));
    }
    json_decref(event);
    return s->failed ? 0 : output;
}

/* ---- lines ---- */

static int32_t take_line(client_stream *s, const char *line, size_t n)
{
    int32_t outputs = 0;
    if (!s->begun_bytes && n >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
        line += 3;
        n -= 3;
    }
    s->begun_bytes = true;
    if (n == 0 && s->data.len > 0) { /* its last line's end is no part of it */
        outputs = take_event(s, s->data.data, s->data.len - 1);
        mem_str_clear(&s->data);
    } else if (n >= 5 && memcmp(line, "data:", 5) == 0) {
        size_t skip = n > 5 && line[5] == ' ' ? 6 : 5;
        mem_str_append(&s->data, line + skip, n - skip);
        mem_str_putc(&s->data, '\n');
    }
    return outputs;
}

int32_t client_stream_feed(client_stream *s, const char *bytes, size_t n)
{
    int32_t outputs = 0;
    for (size_t at = 0; at < n && !s->failed;) {
        if (s->after_cr && bytes[at] == '\n')
            at++;
        s->after_cr = false;
        size_t end = at;
        while (end < n && bytes[end] != '\n' && bytes[end] != '\r')
            end++;
        if (end == n) {
            mem_str_append(&s->line, bytes + at, n - at);
        } else if (s->line.len > 0) {
            mem_str_append(&s->line, bytes + at, end - at);
            if (!s->line.failed)
                outputs += take_line(s, s->line.data, s->line.len);
            mem_str_clear(&s->line);
        } else {
            outputs += take_line(s, bytes + at, end - at);
        }
        s->after_cr = end < n && bytes[end] == '\r';
        at = end + 1;
        if (s->line.failed || s->data.failed)
            fail(s, "an event of more than 1 MiB");
    }
    return outputs;
}

int32_t client_stream_end(client_stream *s)
{
    int32_t outputs = 0;
    if (s->line.len > 0)
        outputs = client_stream_feed(s, "\n", 1);
    return outputs + client_stream_feed(s, "\n", 1);
}
