#include "coordinator/gateway/api_prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { MAX_TOOLS = 1024, MAX_TOOL_NAME = 128, MAX_REQUEST_TEMPLATE = 1 << 20 };

/* A template that comes with a request has less time than the checkpoint's own. */
static const shard_template_limits request_limits = {.max_steps = 1000000, .max_memory = (size_t)16 << 20, .max_output = (size_t)4 << 20};

/* ---- text ---- */

static status tokenizer_of(const char *name, const shard_text *text, const shard_tokenizer **out, api_error *e)
{
    *out = shard_text_tokenizer(text);
    if (*out != NULL)
        return ST_OK;
    status_mute();
    status st = shard_text_tokenizer_get(text, out);
    status_unmute();
    return st == ST_NOT_FOUND ? api_refuse(e, st, name, "the checkpoint brings no tokenizer: prompts must be token ids") : api_refuse_message(e, st, name);
}

status api_prompt_text(const char *name, const char *s, size_t len, bool special, const shard_text *text, shard_ids *ids, api_error *e)
{
    const shard_tokenizer *t;
    TRY(tokenizer_of(name, text, &t, e));
    status_mute();
    status st = shard_tokenizer_encode(t, s, len, special ? SHARD_ENCODE_ADD_SPECIAL : 0, ids);
    status_unmute();
    return st == ST_OK ? ST_OK : api_refuse_message(e, st, name);
}

static status push(shard_ids *ids, int32_t id, api_error *e)
{
    int32_t *data = realloc(ids->data, (ids->n + 1) * sizeof(*data));
    if (data == NULL)
        return api_refuse(e, ST_NO_MEMORY, NULL, "no memory for a prompt");
    ids->data = data;
    ids->data[ids->n++] = id;
    ids->cap = ids->n;
    return ST_OK;
}

/* The beginning that the tokenizer puts before every text, if it is the checkpoint's bos. */
static status push_beginning(const shard_text *text, shard_ids *ids, api_error *e)
{
    shard_ids empty = {0};
    int32_t bos = shard_text_generation(text)->bos;
    status st = api_prompt_text("prompt", "", 0, true, text, &empty, e);
    if (st == ST_OK && empty.n > 0 && empty.data[0] == bos)
        st = push(ids, bos, e);
    shard_ids_free(&empty);
    return st;
}

status api_prompt_fill(const char *before, size_t before_len, const char *after, size_t after_len, const shard_text *text, shard_ids *ids, api_error *e)
{
    const shard_text_info *info = shard_text_info_get(text);
    const shard_tokenizer *t;
    TRY(tokenizer_of("suffix", text, &t, e)); /* and the tokens are known */
    if (info->fim_prefix < 0)
        return api_refuse(e, ST_UNSUPPORTED, "suffix", "suffix is not supported: the checkpoint has no fill-in-the-middle tokens");
    TRY(push_beginning(text, ids, e));
    if (info->fim_suffix_first) {
        TRY(push(ids, info->fim_suffix, e));
        TRY(api_prompt_text("suffix", after, after_len, false, text, ids, e));
        TRY(push(ids, info->fim_prefix, e));
        return api_prompt_text("prompt", before, before_len, false, text, ids, e);
    }
    TRY(push(ids, info->fim_prefix, e));
    TRY(api_prompt_text("prompt", before, before_len, false, text, ids, e));
    TRY(push(ids, info->fim_suffix, e));
    TRY(api_prompt_text("suffix", after, after_len, false, text, ids, e));
    return push(ids, info->fim_middle, e);
}

status api_prompt_truncate(const api_fields *f, int32_t max_model_len, shard_ids *ids, api_error *e)
{
    bool right = f->truncation_side != NULL && strcmp(f->truncation_side, "right") == 0;
    if (f->truncation_side != NULL && !right && strcmp(f->truncation_side, "left") != 0)
        return api_refuse(e, ST_INVALID, "truncation_side", "truncation_side must be \"left\" (the beginning goes) or \"right\"");
    if (f->truncate_prompt_tokens == API_ABSENT)
        return ST_OK;
    if (f->truncate_prompt_tokens == 0)
        return api_refuse(e, ST_INVALID, "truncate_prompt_tokens", "truncate_prompt_tokens must be at least 1, or -1 for what the context holds");
    size_t keep = f->truncate_prompt_tokens < 0 ? (size_t)max_model_len - 1 : (size_t)f->truncate_prompt_tokens;
    if (ids->n <= keep)
        return ST_OK;
    if (!right)
        memmove(ids->data, ids->data + ids->n - keep, keep * sizeof(*ids->data));
    ids->n = keep;
    return ST_OK;
}

/* ---- tools ---- */

status api_tools_check(const json_t *tools, api_error *e)
{
    size_t i;
    json_t *tool;
    if (json_array_size(tools) > MAX_TOOLS)
        return api_refuse(e, ST_INVALID, "tools", "%zu tools; at most %d are accepted", json_array_size(tools), MAX_TOOLS);
    json_array_foreach((json_t *)tools, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        const json_t *function = json_object_get(tool, "function"), *name = json_object_get(function, "name"), *schema = json_object_get(function, "parameters");
        size_t n = json_string_length(name);
        if (type == NULL || strcmp(type, "function") != 0)
            return api_refuse(e, ST_INVALID, "tools", "tools[%zu]: type \"%.40s\" is not supported (function is)", i, type == NULL ? "" : type);
        if (n == 0 || n > MAX_TOOL_NAME || strlen(json_string_value(name)) != n)
            return api_refuse(e, ST_INVALID, "tools", "tools[%zu]: function needs a name of 1 to %d bytes", i, MAX_TOOL_NAME);
        if (schema != NULL && !json_is_null(schema) && !json_is_object(schema))
            return api_refuse(e, ST_INVALID, "tools", "tools[%zu]: parameters must be a JSON schema", i);
    }
    return ST_OK;
}

/* ---- messages ---- */

static json_t *object_of(const char *text)
{
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(o))
        return o;
    json_decref(o);
    return NULL;
}

/* Calls of an assistant's message: templates want arguments as an object (most of them), users send a string. */
static status copy_calls(const char *name, const json_t *calls, size_t at, bool as_text, json_t *message, api_error *e)
{
    size_t i;
    json_t *call;
    if (calls == NULL || json_is_null(calls))
        return ST_OK;
    if (!json_is_array(calls))
        return api_refuse(e, ST_INVALID, name, "%s[%zu].tool_calls must be a list", name, at);
    json_t *out = json_deep_copy(calls);
    if (out == NULL || json_object_set_new(message, "tool_calls", out) != 0)
        return api_refuse(e, ST_NO_MEMORY, name, "no memory for messages");
    json_array_foreach(out, i, call)
    {
        json_t *function = json_object_get(call, "function"), *arguments = json_object_get(function, "arguments");
        if (!json_is_string(json_object_get(function, "name")) || (arguments != NULL && !json_is_string(arguments) && !json_is_object(arguments)))
            return api_refuse(e, ST_INVALID, name, "%s[%zu].tool_calls[%zu] needs a function with a name, and arguments as JSON text", name, at, i);
        if (as_text || json_is_object(arguments))
            continue;
        json_t *object = arguments == NULL || json_string_length(arguments) == 0 ? json_object() : object_of(json_string_value(arguments));
        if (object != NULL)
            json_object_set_new(function, "arguments", object);
    }
    return ST_OK;
}

/* Content as one text: a string, or text parts put together. */
static status content_text(const char *name, const json_t *content, size_t at, mem_str *out, api_error *e)
{
    size_t i;
    json_t *part;
    if (content == NULL || json_is_null(content))
        return ST_OK;
    if (json_is_string(content)) {
        mem_str_append(out, json_string_value(content), json_string_length(content));
        return ST_OK;
    }
    if (!json_is_array(content))
        return api_refuse(e, ST_INVALID, name, "%s[%zu].content must be a string or a list of parts", name, at);
    json_array_foreach((json_t *)content, i, part)
    {
        static const char *const types[] = {"text", "input_text", "output_text", "refusal"};
        const char *type = json_is_string(part) ? "text" : json_string_value(json_object_get(part, "type"));
        const json_t *text = json_is_string(part) ? part : json_object_get(part, type != NULL && strcmp(type, "refusal") == 0 ? "refusal" : "text");
        size_t k = 0;
        while (type != NULL && k < ARRAY_LEN(types) && strcmp(types[k], type) != 0)
            k++;
        if (type == NULL || k == ARRAY_LEN(types))
            return api_refuse(e, ST_INVALID, name, "%s[%zu].content[%zu]: type \"%.40s\" is not supported (text is)", name, at, i, type == NULL ? "" : type);
        if (!json_is_string(text))
            return api_refuse(e, ST_INVALID, name, "%s[%zu].content[%zu] needs a text", name, at, i);
        if (i > 0)
            mem_str_putc(out, '\n');
        mem_str_append(out, json_string_value(text), json_string_length(text));
    }
    return ST_OK;
}

static void copy_reasoning(const json_t *from, json_t *to)
{
    const json_t *r = json_object_get(from, "reasoning_content");
    r = r != NULL ? r : json_object_get(from, "reasoning");
    if (json_is_string(r)) /* templates call it so */
        json_object_set(to, "reasoning_content", (json_t *)r);
}

static status copy_message(const char *name, const json_t *from, size_t at, bool as_text, bool knows_developer, json_t *to, api_error *e)
{
    const char *role = json_string_value(json_object_get(from, "role"));
    mem_str content = {0};
    if (role == NULL)
        return api_refuse(e, ST_INVALID, name, "%s[%zu] must be an object with a role", name, at);
    json_object_update(to, (json_t *)from);
    if (strcmp(role, "developer") == 0 && !knows_developer)
        json_object_set_new(to, "role", json_string("system"));
    status st = content_text(name, json_object_get(from, "content"), at, &content, e);
    if (st == ST_OK) {
        json_object_set_new(to, "content", json_stringn(content.len == 0 ? "" : content.data, content.len));
        json_object_del(to, "tool_calls");
        st = copy_calls(name, json_object_get(from, "tool_calls"), at, as_text, to, e);
    }
    copy_reasoning(from, to);
    mem_str_free(&content);
    return st;
}

static status copy_messages(const api_chat *chat, bool as_text, const char *source, json_t **out, api_error *e)
{
    size_t i;
    json_t *m;
    status st = ST_OK;
    bool knows_developer = source != NULL && strstr(source, "developer") != NULL;
    *out = json_array();
    json_array_foreach((json_t *)chat->messages, i, m)
    {
        json_t *copy = json_object();
        if (json_array_append_new(*out, copy) != 0)
            st = api_refuse(e, ST_NO_MEMORY, chat->messages_name, "no memory for messages");
        if (st == ST_OK)
            st = copy_message(chat->messages_name, m, i, as_text, knows_developer, copy, e);
        if (st != ST_OK)
            break;
    }
    if (st == ST_OK && i == 0)
        st = api_refuse(e, ST_INVALID, chat->messages_name, "%s is empty: at least one is needed", chat->messages_name);
    if (st != ST_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return st;
}

/* ---- tools for a template that knows none: explained in words, as the models that were taught Hermes' format know them ---- */

static void set_text(json_t *message, const char *before, const char *after)
{
    mem_str s = {0};
    mem_str_printf(&s, "%s%s%s", before, before[0] != '\0' && after[0] != '\0' ? "\n\n" : "", after);
    json_object_set_new(message, "content", json_stringn(s.len == 0 ? "" : s.data, s.len));
    mem_str_free(&s);
}

static void explain_tools(const json_t *tools, mem_str *out)
{
    size_t i;
    json_t *tool;
    mem_str_puts(out, "You may call these functions, given as JSON schemas, where they help:\n<tools>");
    json_array_foreach((json_t *)tools, i, tool)
    {
        char *text = json_dumps(tool, 0);
        mem_str_printf(out, "\n%s", text == NULL ? "" : text);
        free(text);
    }
    mem_str_puts(out, "\n</tools>\nTo call one, answer with its name and arguments in JSON:\n"
                      "<tool_call>\n{\"name\": \"function\", \"arguments\": {\"argument\": \"value\"}}\n</tool_call>");
}

/* Calls and their results as text, since the template would lose them. */
static void spell_out(json_t *message)
{
    size_t i;
    json_t *call;
    mem_str s = {0};
    const char *role = json_string_value(json_object_get(message, "role")), *content = json_string_value(json_object_get(message, "content"));
    content = content == NULL ? "" : content;
    if (role != NULL && strcmp(role, "tool") == 0) {
        mem_str_printf(&s, "<tool_response>\n%s\n</tool_response>", content);
        json_object_set_new(message, "role", json_string("user"));
        set_text(message, "", s.data == NULL ? "" : s.data);
    }
    mem_str_clear(&s);
    json_array_foreach(json_object_get(message, "tool_calls"), i, call)
    {
        const json_t *f = json_object_get(call, "function");
        char *name = json_dumps(json_object_get(f, "name"), JSON_ENCODE_ANY), *arguments = json_dumps(json_object_get(f, "arguments"), JSON_ENCODE_ANY);
        mem_str_printf(&s, "%s<tool_call>\n{\"name\": %s, \"arguments\": %s}\n</tool_call>", s.len > 0 ? "\n" : "", name == NULL ? "\"\"" : name,
                       arguments == NULL ? "{}" : arguments);
        free(name);
        free(arguments);
    }
    if (s.len > 0)
        set_text(message, content, s.data);
    json_object_del(message, "tool_calls");
    mem_str_free(&s);
}

/* in_system: the explanation goes into the system message; else before the first user's. */
static void tools_in_words(json_t *messages, const json_t *tools, bool in_system)
{
    size_t i;
    json_t *m;
    mem_str words = {0};
    json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    json_array_foreach(messages, i, m)
        spell_out(m);
    explain_tools(tools, &words);
    bool system = role != NULL && strcmp(role, "system") == 0;
    if (in_system && !system) {
        json_array_insert_new(messages, 0, json_pack("{ss ss}", "role", "system", "content", words.data == NULL ? "" : words.data));
    } else if (in_system) {
        set_text(first, json_string_value(json_object_get(first, "content")), words.data == NULL ? "" : words.data);
    } else {
        m = json_array_get(messages, system && json_array_size(messages) > 1 ? 1 : 0);
        mem_str_puts(&words, "\n\n");
        if (system && json_array_size(messages) > 1) {
            mem_str_printf(&words, "%s\n\n", json_string_value(json_object_get(first, "content")));
            json_incref(m);
            json_array_remove(messages, 0);
            json_decref(m);
        }
        set_text(m, words.data == NULL ? "" : words.data, json_string_value(json_object_get(m, "content")));
    }
    mem_str_free(&words);
}

/* ---- rendering ---- */

typedef struct rendering {
    const api_fields *f;
    const api_chat *chat;
    const shard_template *template;
    const char *source;
    const json_t *variables;
    shard_template_input in;
    const shard_template_limits *limits;
    bool tools_known;
} rendering;

static status attempt(const rendering *r, bool arguments_as_text, bool in_system, mem_str *out, api_error *e)
{
    json_t *messages;
    shard_template_input in = r->in;
    TRY(copy_messages(r->chat, arguments_as_text, r->source, &messages, e));
    if (r->chat->tools != NULL && !r->tools_known)
        tools_in_words(messages, r->chat->tools, in_system);
    in.messages = messages;
    in.tools = r->tools_known ? r->chat->tools : NULL;
    mem_str_clear(out);
    status_mute();
    status st = shard_template_render(r->template, &in, r->limits, out);
    status_unmute();
    json_decref(messages);
    return st == ST_OK ? ST_OK : api_refuse_message(e, st, r->chat->messages_name);
}

static bool has_calls(const json_t *messages)
{
    size_t i;
    json_t *m;
    json_array_foreach((json_t *)messages, i, m)
    {
        if (json_array_size(json_object_get(m, "tool_calls")) > 0)
            return true;
    }
    return false;
}

/* Templates differ in what they take: arguments as an object or as text, a system message or none. */
static status render(const rendering *r, mem_str *out, api_error *e)
{
    status st = attempt(r, false, true, out, e);
    if (st != ST_INVALID)
        return st;
    api_error first = *e;
    if (has_calls(r->chat->messages) && attempt(r, true, true, out, e) == ST_OK)
        return ST_OK;
    if (r->chat->tools != NULL && !r->tools_known && attempt(r, false, false, out, e) == ST_OK)
        return ST_OK;
    *e = first;
    return st;
}

static status pick_template(const api_fields *f, const api_chat *chat, const shard_text *text, rendering *r, shard_template **own, api_error *e)
{
    const char *name = chat->tools != NULL && shard_text_template_source(text, "tool_use", NULL) != NULL ? "tool_use"
                       : f->documents != NULL && shard_text_template_source(text, "rag", NULL) != NULL   ? "rag"
                                                                                                         : NULL;
    status_mute();
    status st = shard_text_template(text, name, &r->template, &r->variables);
    r->source = shard_text_template_source(text, name, NULL);
    if (f->chat_template != NULL) {
        r->source = f->chat_template;
        r->limits = &request_limits;
        st = strlen(f->chat_template) > MAX_REQUEST_TEMPLATE ? FAIL(ST_LIMIT, "chat_template is longer than %d bytes", MAX_REQUEST_TEMPLATE)
                                                              : shard_template_parse("chat_template", f->chat_template, strlen(f->chat_template), own);
        r->template = *own;
    }
    status_unmute();
    if (st == ST_NOT_FOUND)
        return api_refuse(e, st, chat->messages_name, "%s", status_message());
    return st == ST_OK ? ST_OK : api_refuse_message(e, st, f->chat_template != NULL ? "chat_template" : chat->messages_name);
}

status api_prompt_chat(const api_fields *f, const api_chat *chat, const shard_text *text, mem_str *rendered, shard_ids *ids, api_error *e)
{
    shard_template *own = NULL;
    rendering r = {.f = f, .chat = chat};
    if (f->continue_final_message && f->add_generation_prompt)
        return api_refuse(e, ST_INVALID, "add_generation_prompt", "continue_final_message and add_generation_prompt cannot both be true");
    TRY(pick_template(f, chat, text, &r, &own, e));
    json_t *kwargs = f->chat_template_kwargs == NULL ? json_object() : json_copy((json_t *)f->chat_template_kwargs);
    if (f->reasoning_effort != NULL)
        json_object_set_new(kwargs, "reasoning_effort", json_string(f->reasoning_effort));
    r.tools_known = r.source != NULL && strstr(r.source, "tools") != NULL;
    r.in = (shard_template_input){.documents = f->documents, .kwargs = kwargs, .variables = r.variables, .continue_final_message = f->continue_final_message,
                                  .add_generation_prompt = f->has_add_generation_prompt ? f->add_generation_prompt : !f->continue_final_message};
    status st = render(&r, rendered, e);
    if (st == ST_OK) /* the template writes special tokens itself */
        st = api_prompt_text(chat->messages_name, rendered->data == NULL ? "" : rendered->data, rendered->len, f->has_add_special_tokens && f->add_special_tokens, text,
                             ids, e);
    json_decref(kwargs);
    shard_template_destroy(&own);
    return st;
}
