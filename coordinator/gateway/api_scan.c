#include "coordinator/gateway/api_scan.h"

#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/gateway/api_python.h"

enum { MAX_KEY = 64, MAX_NAME = 512, MAX_HEAD = 512, MAX_DEPTH = 128, MAX_STATEMENT = 1 << 20 };

typedef enum step {
    BEFORE,      /* between calls */
    KEY_OR_END,  /* after { or , */
    IN_KEY, COLON, VALUE, IN_VALUE, AFTER_VALUE,
    HEAD,        /* NAMED: the name and its decorations */
    STATEMENT,   /* PYTHONIC: up to the closing bracket of a call */
} step;

typedef enum target { SKIP, NAME, ARGUMENTS } target;

struct api_scan {
    api_scan_sink sink;
    api_scan_form form;
    step step;
    int nest;          /* objects of calls open: 1, or 2 inside "function" */
    bool has_name, told, any; /* told: the sink knows the name */
    mem_str key, name, held; /* held: arguments that came before the name; a string's text; a statement */
    target target;
    bool quoted;       /* the arguments are a string that holds JSON */
    bool had_arguments;
    /* the value under way */
    int depth;
    bool in_string, escaped;
    char quote;
};

status api_scan_create(const api_scan_sink *sink, api_scan **out)
{
    TRY(mem_calloc(1, sizeof(**out), "tool calls", out));
    (*out)->sink = *sink;
    return ST_OK;
}

void api_scan_destroy(api_scan **sp)
{
    api_scan *s = *sp;
    if (s == NULL)
        return;
    mem_str_free(&s->key);
    mem_str_free(&s->name);
    mem_str_free(&s->held);
    free(s);
    *sp = NULL;
}

static void begin_call(api_scan *s, step first)
{
    s->step = first;
    s->nest = 1;
    s->has_name = s->told = s->had_arguments = s->quoted = s->in_string = s->escaped = false;
    s->depth = 0;
    mem_str_clear(&s->key);
    mem_str_clear(&s->name);
    mem_str_clear(&s->held);
}

void api_scan_begin(api_scan *s, api_scan_form form)
{
    begin_call(s, BEFORE);
    s->form = form;
    s->any = false;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool begins_name(char c)
{
    return isalpha((unsigned char)c) || c == '_';
}

/* ---- what was found ---- */

static status give_arguments(api_scan *s, const char *text, size_t len)
{
    return len == 0 ? ST_OK : s->sink.arguments(s->sink.arg, text, len);
}

/* A string's text from its JSON spelling without the quotes; NULL if it is none.  Caller frees. */
static char *unquote(const mem_str *s, size_t *len)
{
    mem_str quoted = {0};
    char *out = NULL;
    mem_str_printf(&quoted, "\"%s\"", s->len == 0 ? "" : s->data);
    json_t *v = quoted.failed ? NULL : json_loadb(quoted.data, quoted.len, JSON_DECODE_ANY, NULL);
    if (json_is_string(v)) {
        *len = json_string_length(v);
        out = strndup(json_string_value(v), *len);
    }
    json_decref(v);
    mem_str_free(&quoted);
    return out;
}

/* A call is one when its name is known and its arguments have begun as they should, or it ends without any. */
static status tell(api_scan *s)
{
    if (!s->has_name || s->told)
        return ST_OK;
    TRY(s->sink.call(s->sink.arg, s->name.data, s->name.len));
    s->told = true;
    TRY(give_arguments(s, s->held.data, s->held.len));
    mem_str_clear(&s->held);
    return ST_OK;
}

static status found_name(api_scan *s, const char *name, size_t len)
{
    if (len == 0 || len > MAX_NAME)
        return ST_NOT_FOUND;
    mem_str_clear(&s->name);
    mem_str_append(&s->name, name, len);
    s->has_name = true;
    return s->had_arguments ? tell(s) : ST_OK;
}

static status end_value(api_scan *s)
{
    size_t len = 0;
    char *text;
    status st = ST_OK;
    s->step = AFTER_VALUE;
    if (s->target == NAME) {
        text = unquote(&s->name, &len);
        st = text == NULL ? ST_NOT_FOUND : found_name(s, text, len);
        free(text);
    } else if (s->target == ARGUMENTS && s->quoted) {
        text = unquote(&s->held, &len);
        mem_str_clear(&s->held);
        s->quoted = false;
        if (text == NULL)
            return ST_NOT_FOUND;
        mem_str_append(&s->held, text, len);
        free(text);
        st = tell(s);
    }
    return st;
}

static status end_call(api_scan *s)
{
    if (!s->has_name)
        return ST_NOT_FOUND;
    TRY(tell(s));
    s->step = BEFORE;
    s->any = true;
    return s->had_arguments ? ST_OK : give_arguments(s, "{}", 2);
}

/* ---- JSON ---- */

static status value_byte(api_scan *s, char c)
{
    if (s->target == SKIP)
        return ST_OK;
    if (s->target == NAME) {
        mem_str_putc(&s->name, c);
        return s->name.len > 6 * MAX_NAME ? ST_NOT_FOUND : ST_OK;
    }
    if (s->told && !s->quoted)
        return give_arguments(s, &c, 1);
    mem_str_putc(&s->held, c);
    return s->held.len > MAX_STATEMENT ? ST_NOT_FOUND : ST_OK;
}

static bool key_is(const api_scan *s, const char *name)
{
    return s->key.len == strlen(name) && memcmp(s->key.data, name, s->key.len) == 0;
}

static status begin_value(api_scan *s, char c)
{
    bool name = key_is(s, "name") || key_is(s, "tool_name") || (key_is(s, "function") && c == '"');
    bool arguments = key_is(s, "arguments") || key_is(s, "parameters");
    if (key_is(s, "function") && c == '{' && s->nest == 1) {
        s->nest = 2;
        s->step = KEY_OR_END;
        return ST_OK;
    }
    s->target = name && !s->has_name ? NAME : arguments && !s->had_arguments ? ARGUMENTS : SKIP;
    if ((s->target == NAME && c != '"') || (s->target == ARGUMENTS && c != '"' && c != '{' && c != 'n'))
        return ST_NOT_FOUND;
    if (s->target == ARGUMENTS && c == 'n')
        s->target = SKIP; /* null: none */
    s->had_arguments = s->had_arguments || s->target == ARGUMENTS;
    s->quoted = s->target == ARGUMENTS && c == '"';
    s->step = IN_VALUE;
    s->in_string = c == '"';
    s->escaped = false;
    s->depth = c == '{' || c == '[';
    if (s->target == ARGUMENTS && !s->quoted)
        TRY(tell(s));
    return s->in_string && s->target != SKIP ? ST_OK : value_byte(s, c); /* the quotes of a name or of quoted arguments are not kept */
}

static status in_value(api_scan *s, char c, bool *again)
{
    if (s->in_string) {
        bool ends = c == '"' && !s->escaped;
        s->escaped = c == '\\' && !s->escaped;
        s->in_string = !ends;
        if (ends && s->depth == 0)
            return end_value(s);
        return value_byte(s, c);
    }
    if (s->depth == 0) { /* a number or a word */
        if (c != ',' && c != '}' && !is_blank(c))
            return value_byte(s, c);
        *again = true;
        return end_value(s);
    }
    if (c == '"')
        s->in_string = true;
    else if (c == '{' || c == '[')
        s->depth++;
    else if (c == '}' || c == ']')
        s->depth--;
    if (s->depth > MAX_DEPTH)
        return ST_NOT_FOUND;
    TRY(value_byte(s, c));
    return s->depth == 0 ? end_value(s) : ST_OK;
}

static status close_object(api_scan *s)
{
    if (--s->nest > 0) {
        s->step = AFTER_VALUE;
        return ST_OK;
    }
    return end_call(s);
}

static status in_key(api_scan *s, char c)
{
    if (c == '"')
        s->step = COLON;
    else if (s->key.len < MAX_KEY)
        mem_str_putc(&s->key, c);
    return s->key.len < MAX_KEY ? ST_OK : ST_NOT_FOUND;
}

static status json_byte(api_scan *s, char c, bool *again)
{
    *again = false;
    switch (s->step) {
    case IN_KEY:
        return in_key(s, c);
    case IN_VALUE:
        return in_value(s, c, again);
    default:
        break;
    }
    if (is_blank(c))
        return ST_OK;
    switch (s->step) {
    case KEY_OR_END:
        if (c == '}')
            return close_object(s);
        mem_str_clear(&s->key);
        s->step = IN_KEY;
        return c == '"' ? ST_OK : ST_NOT_FOUND;
    case COLON:
        s->step = VALUE;
        return c == ':' ? ST_OK : ST_NOT_FOUND;
    case VALUE:
        return begin_value(s, c);
    default: /* AFTER_VALUE */
        if (c == '}')
            return close_object(s);
        s->step = KEY_OR_END;
        return c == ',' ? ST_OK : ST_NOT_FOUND;
    }
}

/* ---- NAMED ---- */

static void cut(mem_str *s, size_t from, size_t n)
{
    memmove(s->data + from, s->data + from + n, s->len - from - n + 1);
    s->len -= n;
}

/* What formats write around a name: "functions.NAME:0", "function<sep>NAME\n```json", "NAME[CALL_ID]x[ARGS]". */
static void strip_decorations(mem_str *name)
{
    static const char *const before[] = {"function<\xef\xbd\x9ctool\xe2\x96\x81sep\xef\xbd\x9c>", "functions."};
    static const char *const after[] = {"[CALL_ID]", "[ARGS]", "<|tool_call_argument_begin|>", "<\xef\xbd\x9ctool\xe2\x96\x81sep\xef\xbd\x9c>", "```json", "\n", ":"};
    mem_str_putc(name, '\0');
    name->len--;
    while (name->len > 0 && is_blank(name->data[0]))
        cut(name, 0, 1);
    for (size_t i = 0; i < ARRAY_LEN(before); i++) {
        if (strncmp(name->data, before[i], strlen(before[i])) == 0)
            cut(name, 0, strlen(before[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(after); i++) {
        char *at = strstr(name->data, after[i]);
        if (at != NULL)
            cut(name, (size_t)(at - name->data), name->len - (size_t)(at - name->data));
    }
    while (name->len > 0 && is_blank(name->data[name->len - 1]))
        name->data[--name->len] = '\0';
}

static status head_byte(api_scan *s, char c)
{
    if (c != '{') {
        mem_str_putc(&s->held, c);
        return s->held.len > MAX_HEAD ? ST_NOT_FOUND : ST_OK;
    }
    mem_str name = s->held;
    s->held = (mem_str){0};
    strip_decorations(&name);
    s->had_arguments = true;
    status st = found_name(s, name.data, name.len);
    mem_str_free(&name);
    TRY(st);
    s->target = ARGUMENTS;
    s->step = IN_VALUE;
    s->depth = 1;
    return value_byte(s, c);
}

static status named_byte(api_scan *s, char c)
{
    bool again;
    if (s->step == HEAD)
        return head_byte(s, c);
    TRY(in_value(s, c, &again));
    return s->step == AFTER_VALUE ? end_call(s) : ST_OK;
}

/* ---- PYTHONIC ---- */

static status statement_byte(api_scan *s, char c)
{
    mem_str_putc(&s->held, c);
    if (s->held.len > MAX_STATEMENT)
        return ST_NOT_FOUND;
    if (s->in_string) {
        s->in_string = !(c == s->quote && !s->escaped);
        s->escaped = c == '\\' && !s->escaped;
        return ST_OK;
    }
    if (c == '"' || c == '\'') {
        s->in_string = true;
        s->escaped = false;
        s->quote = c;
        return s->depth > 0 ? ST_OK : ST_NOT_FOUND;
    }
    if (c == '(' || c == '[' || c == '{')
        s->depth++;
    else if (c == ')' || c == ']' || c == '}')
        s->depth--;
    else if (s->depth == 0 && !isalnum((unsigned char)c) && c != '_' && c != '.' && c != '-')
        return ST_NOT_FOUND; /* a name, and nothing but a name */
    if (s->depth < 0 || s->depth > MAX_DEPTH)
        return ST_NOT_FOUND;
    if (c != ')' || s->depth > 0)
        return ST_OK;
    mem_str name = {0}, arguments = {0};
    status st = api_python_call(s->held.data, s->held.len, &name, &arguments);
    mem_str_clear(&s->held);
    s->had_arguments = true;
    if (st == ST_OK)
        st = found_name(s, name.data, name.len);
    if (st == ST_OK)
        st = give_arguments(s, arguments.data, arguments.len);
    mem_str_free(&name);
    mem_str_free(&arguments);
    return st == ST_OK ? end_call(s) : st;
}

/* ---- any form ---- */

static status between_byte(api_scan *s, char c)
{
    if (is_blank(c) || c == ']' || c == '[' || ((c == ',' || c == ';') && s->any))
        return c == ']' && !s->any ? ST_NOT_FOUND : ST_OK;
    if (s->form == API_SCAN_BARE)
        s->form = c == '{' ? API_SCAN_JSON : API_SCAN_PYTHONIC;
    if (s->form == API_SCAN_JSON && c == '{') {
        begin_call(s, KEY_OR_END);
        return ST_OK;
    }
    if (s->form == API_SCAN_PYTHONIC && begins_name(c)) {
        begin_call(s, STATEMENT);
        return statement_byte(s, c);
    }
    if (s->form == API_SCAN_NAMED && c != '{' && c != '<') {
        begin_call(s, HEAD);
        return head_byte(s, c);
    }
    return ST_NOT_FOUND;
}

status api_scan_byte(api_scan *s, char c, api_scan_state *state)
{
    status st;
    bool again = true;
    if (s->step == BEFORE)
        st = between_byte(s, c);
    else if (s->step == STATEMENT)
        st = statement_byte(s, c);
    else if (s->form == API_SCAN_NAMED)
        st = named_byte(s, c);
    else
        for (st = ST_OK; again && st == ST_OK;)
            st = json_byte(s, c, &again);
    if (s->key.failed || s->name.failed || s->held.failed)
        return FAIL(ST_NO_MEMORY, "no memory for a tool call");
    *state = st == ST_NOT_FOUND ? API_SCAN_BAD : s->step == BEFORE ? API_SCAN_BETWEEN : API_SCAN_INSIDE;
    return st == ST_NOT_FOUND ? ST_OK : st;
}
