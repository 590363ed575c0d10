#include "coordinator/gateway/api_parser.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "coordinator/gateway/api_scan.h"
#include "coordinator/gateway/api_tags.h"

enum { MAX_CALLS = 256 };

/* ---- marks ---- */

#define BAR "\xef\xbd\x9c"  /* DeepSeek's bar and blank */
#define BLANK "\xe2\x96\x81"

static const api_reasoning reasonings[] = {
    {"<think>", "</think>", {NULL, NULL}, "</think>"},
    {"<seed:think>", "</seed:think>", {NULL, NULL}, "</seed:think>"},
    {"[THINK]", "[/THINK]", {NULL, NULL}, "[/THINK]"},
    {"<thought>", "</thought>", {NULL, NULL}, "</thought>"},
    {"<|START_THINKING|>", "<|END_THINKING|>", {"<|START_RESPONSE|>", "<|END_RESPONSE|>"}, "<|END_THINKING|>"},
    {"<|channel|>analysis<|message|>", "<|end|>", {"<|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>"}, "<|channel|>"},
    {"<|channel>thought\n", "<channel|>", {NULL, NULL}, "<channel|>"},
    {"\xe2\x97\x81think\xe2\x96\xb7", "\xe2\x97\x81/think\xe2\x96\xb7", {NULL, NULL}, "\xe2\x97\x81/think\xe2\x96\xb7"},
};

typedef enum mark_kind { MARK_REASONING, MARK_CALL, MARK_DROP } mark_kind;

typedef struct mark {
    const char *start, *end; /* end NULL: the block ends where no further call follows */
    mark_kind kind;
    api_scan_form form;
    bool list_is_json;       /* a block that begins with a bracket is JSON, whatever the form */
    bool may_be_tags;        /* a block that begins otherwise holds calls as tags */
} mark;

static const mark call_marks[] = {
    {"<tool_call>", "</tool_call>", MARK_CALL, API_SCAN_JSON, true, true}, /* Hermes, Qwen, SmolLM, Granite: an object or a list; Qwen3-Coder, GLM: tags */
    {"<seed:tool_call>", "</seed:tool_call>", MARK_CALL, API_SCAN_JSON, true, true},
    {"<minimax:tool_call>", "</minimax:tool_call>", MARK_CALL, API_SCAN_JSON, true, true},
    {"<|tool_call|>", "<|/tool_call|>", MARK_CALL, API_SCAN_JSON, false, false},     /* Granite 3, Phi-4-mini */
    {"[TOOL_CALLS]", NULL, MARK_CALL, API_SCAN_NAMED, true, false},                  /* Mistral: a list, later name[ARGS]{...} */
    {"<|python_tag|>", NULL, MARK_CALL, API_SCAN_BARE, false, false},                /* Llama 3 */
    {"functools[", NULL, MARK_CALL, API_SCAN_JSON, false, false},                    /* Phi-4 */
    {"<TOOLCALL>", "</TOOLCALL>", MARK_CALL, API_SCAN_JSON, false, false},           /* Nemotron */
    {"<|tool_call_start|>", "<|tool_call_end|>", MARK_CALL, API_SCAN_BARE, false, false}, /* LFM2 */
    {"<|python_start|>", "<|python_end|>", MARK_CALL, API_SCAN_BARE, false, false},  /* Llama 4 */
    {"<function_calls>", "</function_calls>", MARK_CALL, API_SCAN_BARE, false, false}, /* OLMo 3 */
    {"<" BAR "tool" BLANK "call" BLANK "begin" BAR ">", "<" BAR "tool" BLANK "call" BLANK "end" BAR ">", MARK_CALL, API_SCAN_NAMED, false, false}, /* DeepSeek */
    {"<" BAR "tool" BLANK "calls" BLANK "begin" BAR ">", NULL, MARK_DROP, API_SCAN_JSON, false, false},
    {"<" BAR "tool" BLANK "calls" BLANK "end" BAR ">", NULL, MARK_DROP, API_SCAN_JSON, false, false},
    {"<|tool_call_begin|>", "<|tool_call_end|>", MARK_CALL, API_SCAN_NAMED, false, false}, /* Kimi */
    {"<|tool_calls_section_begin|>", NULL, MARK_DROP, API_SCAN_JSON, false, false},
    {"<|tool_calls_section_end|>", NULL, MARK_DROP, API_SCAN_JSON, false, false},
};
enum { MAX_MARKS = 24 };

static const mark bare = {"", NULL, MARK_CALL, API_SCAN_BARE, false, false}, whole = {"", NULL, MARK_CALL, API_SCAN_JSON, false, false};

const api_reasoning *api_reasoning_find(const char *source, const shard_tokenizer *t)
{
    for (size_t i = 0; i < ARRAY_LEN(reasonings); i++) {
        if (source != NULL && strstr(source, reasonings[i].sign) != NULL)
            return &reasonings[i];
    }
    for (size_t i = 0; t != NULL && i < ARRAY_LEN(reasonings); i++) {
        if (shard_tokenizer_id(t, reasonings[i].start) >= 0 && shard_tokenizer_id(t, reasonings[i].end) >= 0)
            return &reasonings[i];
    }
    return NULL;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool api_reasoning_is_open(const api_reasoning *r, const char *prompt, size_t len)
{
    size_t n = r == NULL ? 0 : strlen(r->start);
    while (n > 0 && is_blank(r->start[n - 1]))
        n--;
    while (len > 0 && is_blank(prompt[len - 1]))
        len--;
    return n > 0 && len >= n && memcmp(prompt + len - n, r->start, n) == 0;
}

/* ---- the parser ---- */

typedef enum where { SAYING, THINKING, CALLING, TAGGED /* gathering a block of tags */, SKIPPING /* to a block's end */ } where;

struct api_parser {
    api_parser_options o;
    mark marks[MAX_MARKS];
    int n_marks;
    where where;
    const mark *block;     /* CALLING, SKIPPING: which */
    mark resolved;         /* the block's mark, with the form that its first byte chose */
    api_scan *scan;
    api_scan_state scan_state;
    bool form_open;        /* the form is still to be chosen */
    api_scan_form form;
    bool no_memory;
    mem_str buffer;        /* text not looked at yet */
    mem_str raw;           /* of the call under way, in case it is none */
    mem_str blanks;        /* at the end of what was said: given only if more is said */
    bool trim;             /* blanks that come now are dropped */
    bool named;            /* the call under way has its name */
    bool any;              /* the block has had a call */
    size_t seen;           /* TAGGED: bytes of the buffer in which the block's end does not begin */
    bool done;
    api_parts parts;
};

static status no_memory(void)
{
    return FAIL(ST_NO_MEMORY, "no memory for an answer");
}

static bool is_tool(const json_t *tools, const char *name, size_t len)
{
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)tools, i, tool)
    {
        const json_t *known = json_object_get(json_object_get(tool, "function"), "name");
        if (json_string_length(known) == len && memcmp(json_string_value(known), name, len) == 0)
            return true;
    }
    return false;
}

static void begin_part(api_parser *p, api_part part)
{
    api_parts *parts = &p->parts;
    api_part *grown = realloc(parts->order, (parts->n_order + 1) * sizeof(*grown));
    p->no_memory = p->no_memory || grown == NULL;
    if (grown == NULL)
        return;
    parts->order = grown;
    parts->order[parts->n_order++] = part;
}

static void make_id(const api_parser *p, size_t index, char out[40])
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    uint64_t h = hash_fast(p->o.id, strlen(p->o.id), index + 1), g = hash_mix(h ^ 0x9e3779b97f4a7c15u);
    if (!p->o.short_ids) {
        snprintf(out, 40, "call_%016llx%08llx", (unsigned long long)h, (unsigned long long)(g & 0xffffffff));
        return;
    }
    for (int i = 0; i < 9; i++, h /= 36)
        out[i] = digits[h % 36];
    out[9] = '\0';
}

static status add_call(api_parser *p, const char *name, size_t len)
{
    api_parts *parts = &p->parts;
    if (parts->n_calls == MAX_CALLS)
        return ST_NOT_FOUND;
    api_tool_call *grown = realloc(parts->calls, (parts->n_calls + 1) * sizeof(*grown));
    if (grown == NULL)
        return no_memory();
    parts->calls = grown;
    api_tool_call *c = &grown[parts->n_calls];
    *c = (api_tool_call){.name = strndup(name, len)};
    if (c->name == NULL)
        return no_memory();
    make_id(p, parts->n_calls++, c->id);
    begin_part(p, API_PART_CALL);
    p->named = true;
    mem_str_clear(&p->raw);
    return ST_OK;
}

static status on_call(void *arg, const char *name, size_t len)
{
    api_parser *p = arg;
    static const char suffix[] = ".call"; /* Llama 3's built-in tools */
    if (p->block == &bare && !is_tool(p->o.tools, name, len))
        return ST_NOT_FOUND;
    if (len > sizeof(suffix) - 1 && memcmp(name + len - sizeof(suffix) + 1, suffix, sizeof(suffix) - 1) == 0)
        len -= sizeof(suffix) - 1;
    return add_call(p, name, len);
}

static status on_arguments(void *arg, const char *text, size_t len)
{
    api_parser *p = arg;
    mem_str_append(&p->parts.calls[p->parts.n_calls - 1].arguments, text, len);
    return ST_OK;
}

static void add_mark(api_parser *p, const char *start, const char *end, mark_kind kind)
{
    if (start != NULL && p->n_marks < MAX_MARKS)
        p->marks[p->n_marks++] = (mark){start, end, kind, API_SCAN_JSON, false, false};
}

static void begin_block(api_parser *p, const mark *m)
{
    p->where = CALLING;
    p->block = m;
    p->resolved = *m;
    p->form_open = m->list_is_json;
    p->form = m->form;
    p->scan_state = API_SCAN_BETWEEN;
    p->named = p->any = false;
    p->seen = 0;
    mem_str_clear(&p->raw);
    mem_str_puts(&p->raw, m->start);
    api_scan_begin(p->scan, m->form);
}

status api_parser_create(const api_parser_options *options, api_parser **out)
{
    api_parser *p;
    TRY(mem_calloc(1, sizeof(*p), "answer", &p));
    p->o = *options;
    const api_scan_sink sink = {on_call, on_arguments, p};
    status st = api_scan_create(&sink, &p->scan);
    if (p->o.reasoning != NULL) {
        add_mark(p, p->o.reasoning->start, p->o.reasoning->end, MARK_REASONING);
        add_mark(p, p->o.reasoning->drop[0], NULL, MARK_DROP);
        add_mark(p, p->o.reasoning->drop[1], NULL, MARK_DROP);
    }
    for (size_t i = 0; i < ARRAY_LEN(call_marks) && p->o.calls == API_CALLS_AUTO; i++)
        p->marks[p->n_marks++] = call_marks[i];
    p->where = p->o.reasoning_open ? THINKING : SAYING;
    p->trim = p->o.reasoning_open;
    if (st == ST_OK && p->o.calls == API_CALLS_LIST)
        begin_block(p, &whole);
    if (st == ST_OK && p->o.calls == API_CALLS_ONE)
        st = add_call(p, p->o.name, strlen(p->o.name));
    if (st != ST_OK)
        api_parser_destroy(&p);
    else
        *out = p;
    return st;
}

void api_parser_destroy(api_parser **pp)
{
    api_parser *p = *pp;
    if (p == NULL)
        return;
    for (size_t i = 0; i < p->parts.n_calls; i++) {
        free(p->parts.calls[i].name);
        mem_str_free(&p->parts.calls[i].arguments);
    }
    free(p->parts.calls);
    free(p->parts.order);
    mem_str_free(&p->parts.content);
    mem_str_free(&p->parts.reasoning);
    api_scan_destroy(&p->scan);
    mem_str_free(&p->buffer);
    mem_str_free(&p->raw);
    mem_str_free(&p->blanks);
    free(p);
    *pp = NULL;
}

const api_parts *api_parser_parts(const api_parser *p)
{
    return &p->parts;
}

int api_parser_mark_tokens(const api_parser_options *o, const shard_tokenizer *t, int32_t *ids, int cap)
{
    int n = 0;
    const char *names[2 * ARRAY_LEN(call_marks) + 12] = {"[ARGS]", "[CALL_ID]", "<|message|>", "<|channel|>", "<|start|>"};
    size_t n_names = o->calls == API_CALLS_AUTO || o->reasoning != NULL ? 5 : 0;
    for (size_t i = 0; i < ARRAY_LEN(call_marks) && o->calls == API_CALLS_AUTO; i++) {
        names[n_names++] = call_marks[i].start;
        if (call_marks[i].end != NULL)
            names[n_names++] = call_marks[i].end;
    }
    if (o->reasoning != NULL) {
        names[n_names++] = o->reasoning->start;
        names[n_names++] = o->reasoning->end;
        for (int i = 0; i < 2; i++) {
            if (o->reasoning->drop[i] != NULL)
                names[n_names++] = o->reasoning->drop[i];
        }
    }
    for (size_t i = 0; i < n_names && n < cap; i++) {
        int32_t id = shard_tokenizer_id(t, names[i]);
        if (id >= 0 && shard_tokenizer_is_special(t, id))
            ids[n++] = id;
    }
    return n;
}

/* ---- text ---- */

static void say_bytes(api_parser *p, mem_str *to, const char *text, size_t len)
{
    if (len > 0 && to->len == 0)
        begin_part(p, to == &p->parts.reasoning ? API_PART_REASONING : API_PART_CONTENT);
    mem_str_append(to, text, len);
}

/* Adds to what was said or thought; blanks at its end wait, blanks where nothing was said since a mark go. */
static void add_text(api_parser *p, const char *text, size_t len)
{
    mem_str *to = p->where == THINKING ? &p->parts.reasoning : &p->parts.content;
    while (p->trim && len > 0 && is_blank(*text))
        text++, len--;
    if (len == 0)
        return;
    p->trim = false;
    size_t end = len;
    while (end > 0 && is_blank(text[end - 1]))
        end--;
    if (end > 0) {
        say_bytes(p, to, p->blanks.data, p->blanks.len);
        mem_str_clear(&p->blanks);
        say_bytes(p, to, text, end);
    }
    mem_str_append(&p->blanks, text + end, len - end);
}

static void consume(api_parser *p, size_t n)
{
    if (n == 0)
        return;
    memmove(p->buffer.data, p->buffer.data + n, p->buffer.len - n + 1);
    p->buffer.len -= n;
}

/* How many bytes at the end of s may be the beginning of `sought`. */
static size_t may_begin(const mem_str *s, const char *sought)
{
    size_t n = strlen(sought), k = n - 1 < s->len ? n - 1 : s->len;
    while (k > 0 && memcmp(s->data + s->len - k, sought, k) != 0)
        k--;
    return k;
}

static const char *find(const mem_str *s, const char *sought)
{
    return s->len == 0 ? NULL : memmem(s->data, s->len, sought, strlen(sought));
}

/* Whether a message so far may be a call without a mark: 1 yes, 0 no, -1 not to be seen yet. */
static int bare_begins(const api_parser *p, bool last)
{
    const mem_str *b = &p->buffer;
    size_t at = 0;
    if (p->o.calls != API_CALLS_AUTO || p->parts.content.len > 0 || p->parts.n_calls > 0)
        return 0;
    while (at < b->len && is_blank(b->data[at]))
        at++;
    if (at == b->len)
        return last ? 0 : -1;
    if (b->data[at] != '{' && b->data[at] != '[')
        return 0;
    for (int i = 0; i < p->n_marks; i++) {
        size_t n = strlen(p->marks[i].start), have = b->len - at;
        if (memcmp(b->data + at, p->marks[i].start, n < have ? n : have) == 0)
            return n <= have || last ? 0 : -1;
    }
    return 1;
}

static void drop_blanks(api_parser *p)
{
    mem_str_clear(&p->blanks);
    p->trim = true;
}

/* true: something changed, look again. */
static bool say(api_parser *p, bool last)
{
    const mark *first = NULL;
    const char *at = NULL;
    int is_bare = bare_begins(p, last);
    if (is_bare == 1) {
        begin_block(p, &bare);
        return true;
    }
    if (is_bare < 0)
        return false;
    size_t held = 0;
    bool may_think = p->parts.content.len == 0 && p->parts.n_calls == 0; /* later its mark is text */
    for (int i = 0; i < p->n_marks; i++) {
        if (p->marks[i].kind == MARK_REASONING && !may_think)
            continue;
        const char *hit = find(&p->buffer, p->marks[i].start);
        size_t partial = last ? 0 : may_begin(&p->buffer, p->marks[i].start);
        if (hit != NULL && (at == NULL || hit < at)) {
            at = hit;
            first = &p->marks[i];
        }
        held = partial > held ? partial : held;
    }
    if (first == NULL) {
        add_text(p, p->buffer.data, p->buffer.len - held);
        consume(p, p->buffer.len - held);
        return false;
    }
    size_t before = (size_t)(at - p->buffer.data);
    add_text(p, p->buffer.data, before);
    consume(p, before + strlen(first->start));
    drop_blanks(p);
    if (first->kind == MARK_REASONING)
        p->where = THINKING;
    else if (first->kind == MARK_CALL)
        begin_block(p, first);
    return true;
}

static bool think(api_parser *p, bool last)
{
    const char *end = p->o.reasoning->end, *at = find(&p->buffer, end);
    size_t n = at != NULL ? (size_t)(at - p->buffer.data) : p->buffer.len - (last ? 0 : may_begin(&p->buffer, end));
    add_text(p, p->buffer.data, n);
    consume(p, n + (at != NULL ? strlen(end) : 0));
    if (at == NULL)
        return false;
    drop_blanks(p);
    p->where = SAYING;
    return true;
}

/* ---- calls ---- */

static void end_block(api_parser *p)
{
    p->where = SAYING;
    p->trim = true;
    mem_str_clear(&p->raw);
}

/* The block holds no call where one was to be: it is text. */
static void give_back(api_parser *p)
{
    mem_str raw = p->raw;
    p->raw = (mem_str){0};
    end_block(p);
    p->trim = false;
    add_text(p, raw.data, raw.len);
    mem_str_free(&raw);
}

static void complete_call(api_parser *p)
{
    p->parts.calls[p->parts.n_calls - 1].complete = true;
    p->named = false;
    p->any = true;
    p->done = p->o.one_call;
    mem_str_clear(&p->raw);
    if (p->form != API_SCAN_NAMED) /* of these, a block holds one */
        return;
    p->where = p->resolved.end != NULL ? SKIPPING : SAYING;
    p->trim = true;
}

/* The block's end is next in the buffer: 1 yes, 0 no, -1 not to be seen yet. */
static int end_is_next(const api_parser *p, size_t at, bool last)
{
    const char *end = p->resolved.end;
    size_t have = p->buffer.len - at, n = end == NULL ? 0 : strlen(end);
    if (n == 0 || memcmp(p->buffer.data + at, end, n < have ? n : have) != 0)
        return 0;
    return n <= have ? 1 : last ? 0 : -1;
}

static void choose_form(api_parser *p, char c)
{
    if (!p->form_open || is_blank(c))
        return;
    p->form_open = false;
    if (p->resolved.may_be_tags && c != '[' && c != '{')
        p->where = TAGGED;
    else if (c == '[' || c == '{')
        api_scan_begin(p->scan, p->form = API_SCAN_JSON);
}

/* A byte that no call can hold. */
static void bad_byte(api_parser *p)
{
    if (p->named) {
        p->named = false; /* what of it was given stays */
        p->where = p->resolved.end != NULL ? SKIPPING : SAYING;
    } else if (p->scan_state == API_SCAN_BETWEEN && p->any) {
        p->where = p->resolved.end != NULL ? SKIPPING : SAYING; /* behind a call */
        p->trim = true;
    } else {
        give_back(p);
    }
}

static status call(api_parser *p, bool last, bool *again)
{
    size_t at = 0;
    *again = false;
    while (at < p->buffer.len && p->where == CALLING && !p->done) {
        int ends = p->scan_state == API_SCAN_BETWEEN ? end_is_next(p, at, last) : 0;
        if (ends < 0)
            break;
        if (ends > 0) {
            at += strlen(p->resolved.end);
            end_block(p);
            break;
        }
        api_scan_state state;
        choose_form(p, p->buffer.data[at]);
        if (p->where == TAGGED)
            break;
        TRY(api_scan_byte(p->scan, p->buffer.data[at], &state));
        if (state == API_SCAN_BAD) {
            bad_byte(p);
            break;
        }
        if (!p->named && (!p->any || state == API_SCAN_INSIDE))
            mem_str_putc(&p->raw, p->buffer.data[at]);
        at++;
        p->scan_state = state;
        if (p->named && state == API_SCAN_BETWEEN)
            complete_call(p);
    }
    consume(p, at);
    *again = p->where != CALLING;
    return ST_OK;
}

/* Calls as tags come whole, with the end of their block. */
static status tagged(api_parser *p, bool *again)
{
    const char *end = p->resolved.end, *hit = memmem(p->buffer.data + p->seen, p->buffer.len - p->seen, end, strlen(end));
    size_t len = hit == NULL ? 0 : (size_t)(hit - p->buffer.data), n_calls = 0;
    status st = ST_OK;
    *again = hit != NULL;
    if (hit == NULL)
        p->seen = p->buffer.len - may_begin(&p->buffer, end);
    for (size_t at = 0; hit != NULL && st == ST_OK && !p->done;) {
        mem_str name = {0}, arguments = {0};
        st = api_tags_call(p->buffer.data, len, &at, p->o.tools, &name, &arguments);
        if (st == ST_OK)
            st = add_call(p, name.data, name.len);
        if (st == ST_OK) {
            on_arguments(p, arguments.data, arguments.len);
            complete_call(p);
            n_calls++;
        }
        mem_str_free(&name);
        mem_str_free(&arguments);
    }
    if (hit == NULL || (st != ST_OK && st != ST_NOT_FOUND))
        return st;
    if (n_calls == 0) {
        mem_str_append(&p->raw, p->buffer.data, len + strlen(end));
        give_back(p);
    } else {
        end_block(p);
    }
    consume(p, len + strlen(end));
    return ST_OK;
}

static bool skip(api_parser *p)
{
    const char *end = p->resolved.end, *at = find(&p->buffer, end);
    consume(p, at != NULL ? (size_t)(at - p->buffer.data) + strlen(end) : p->buffer.len - may_begin(&p->buffer, end));
    if (at != NULL)
        end_block(p);
    return at != NULL;
}

static status run(api_parser *p, bool last)
{
    for (bool again = true; again && !p->done && p->buffer.len > 0;) {
        switch (p->where) {
        case SAYING:
            again = say(p, last);
            break;
        case THINKING:
            again = think(p, last);
            break;
        case CALLING:
            TRY(call(p, last, &again));
            break;
        case TAGGED:
            TRY(tagged(p, &again));
            break;
        case SKIPPING:
            again = skip(p);
            break;
        }
    }
    bool failed = p->no_memory || p->buffer.failed || p->raw.failed || p->blanks.failed || p->parts.content.failed || p->parts.reasoning.failed;
    for (size_t i = 0; i < p->parts.n_calls; i++)
        failed = failed || p->parts.calls[i].arguments.failed;
    return failed ? no_memory() : ST_OK;
}

status api_parser_lead(api_parser *p, const char *text, size_t len)
{
    say_bytes(p, &p->parts.content, text, len);
    return p->parts.content.failed || p->no_memory ? no_memory() : ST_OK;
}

status api_parser_push(api_parser *p, const char *text, size_t len, bool *done)
{
    *done = p->done;
    if (p->done)
        return ST_OK;
    if (p->o.calls == API_CALLS_ONE) {
        mem_str_append(&p->parts.calls[0].arguments, text, len);
        return p->parts.calls[0].arguments.failed ? no_memory() : ST_OK;
    }
    if (p->n_marks == 0 && p->where == SAYING) /* nothing to look for */
        return api_parser_lead(p, text, len);
    mem_str_append(&p->buffer, text, len);
    status st = run(p, false);
    *done = p->done;
    return st;
}

status api_parser_end(api_parser *p)
{
    if (p->done)
        return ST_OK;
    TRY(run(p, true));
    if (p->where == TAGGED)
        mem_str_append(&p->raw, p->buffer.data, p->buffer.len);
    if ((p->where == CALLING || p->where == TAGGED) && !p->named && p->raw.len > 0)
        give_back(p);
    if (!p->trim)
        say_bytes(p, p->where == THINKING ? &p->parts.reasoning : &p->parts.content, p->blanks.data, p->blanks.len);
    mem_str_clear(&p->blanks);
    return p->parts.content.failed || p->parts.reasoning.failed ? no_memory() : ST_OK;
}
