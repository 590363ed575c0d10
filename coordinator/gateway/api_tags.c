#include "coordinator/gateway/api_tags.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/gateway/api_python.h"

typedef struct form {
    const char *name_begin, *name_end, *key_begin, *key_end, *value_end, *end; /* key_end stands between key and value */
} form;

static const form forms[] = {
    {"<function=", ">", "<parameter=", ">", "</parameter>", "</function>"},
    {"<invoke name=\"", "\">", "<parameter name=\"", "\">", "</parameter>", "</invoke>"},
    {"", NULL, "<arg_key>", "</arg_key>", "</arg_value>", ""}, /* the name ends where a tag begins, the call where the text does */
};

typedef struct reader {
    const char *at, *end;
} reader;

static void skip_blanks(reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r'))
        r->at++;
}

static bool take(reader *r, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

/* Text up to `word`, which is taken too. */
static bool until(reader *r, const char *word, const char **text, size_t *len)
{
    const char *hit = memmem(r->at, (size_t)(r->end - r->at), word, strlen(word));
    *text = r->at;
    if (hit == NULL)
        return false;
    *len = (size_t)(hit - r->at);
    r->at = hit + strlen(word);
    return true;
}

static const json_t *function_of(const json_t *tools, const mem_str *name)
{
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)tools, i, tool)
    {
        const json_t *f = json_object_get(tool, "function"), *known = json_object_get(f, "name");
        if (json_string_length(known) == name->len && memcmp(json_string_value(known), name->data, name->len) == 0)
            return f;
    }
    return NULL;
}

static json_t *value_of(const json_t *properties, const char *key, size_t key_len, const char *text, size_t len)
{
    const json_t *property = json_object_getn(properties, key, key_len), *type = json_object_get(property, "type");
    if (property != NULL && !(json_is_string(type) && strcmp(json_string_value(type), "string") == 0)) {
        json_t *v = json_loadb(text, len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
        v = v != NULL ? v : api_python_value(text, len);
        if (v != NULL)
            return v;
    }
    return json_stringn(text, len);
}

static bool read_argument(reader *r, const form *f, const json_t *properties, json_t *out)
{
    const char *key, *text;
    size_t key_len, len;
    if (!until(r, f->key_end, &key, &key_len) || key_len == 0)
        return false;
    if (f->name_end == NULL) {
        skip_blanks(r);
        if (!take(r, "<arg_value>"))
            return false;
    }
    if (!until(r, f->value_end, &text, &len))
        return false;
    /* A line of its own is the template's, not the value's. */
    if (len > 0 && text[0] == '\n')
        text++, len--;
    if (len > 0 && text[len - 1] == '\n')
        len--;
    json_t *v = value_of(properties, key, key_len, text, len);
    return v != NULL && json_object_setn_new(out, key, key_len, v) == 0;
}

static bool read_name(reader *r, const form *f, mem_str *name)
{
    const char *text = r->at;
    size_t len;
    if (f->name_end != NULL) {
        if (!until(r, f->name_end, &text, &len))
            return false;
    } else {
        const char *tag = memchr(r->at, '<', (size_t)(r->end - r->at));
        r->at = tag == NULL ? r->end : tag;
        len = (size_t)(r->at - text);
        while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' ' || text[len - 1] == '\r'))
            len--;
    }
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] <= ' ' || text[i] == '"' || text[i] == '<' || text[i] == '{')
            return false;
    }
    mem_str_append(name, text, len);
    return len > 0 && len <= 128;
}

static json_t *read_call(reader *r, const form *f, const json_t *tools, mem_str *name)
{
    json_t *out = json_object();
    bool ok = out != NULL && read_name(r, f, name);
    const json_t *function = ok ? function_of(tools, name) : NULL, *properties = json_object_get(json_object_get(function, "parameters"), "properties");
    ok = ok && (function != NULL || f->name_end != NULL); /* a bare word is a call only of a tool on offer */
    for (skip_blanks(r); ok && take(r, f->key_begin); skip_blanks(r))
        ok = read_argument(r, f, properties, out);
    ok = ok && (f->name_end == NULL ? r->at == r->end : take(r, f->end));
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

status api_tags_call(const char *text, size_t len, size_t *at, const json_t *tools, mem_str *name, mem_str *arguments)
{
    reader r = {text + *at, text + len};
    size_t i = 0;
    skip_blanks(&r);
    while (i < ARRAY_LEN(forms) && !take(&r, forms[i].name_begin))
        i++;
    json_t *o = r.at == r.end || i == ARRAY_LEN(forms) ? NULL : read_call(&r, &forms[i], tools, name);
    char *json = o == NULL ? NULL : json_dumps(o, 0);
    json_decref(o);
    if (json == NULL)
        return ST_NOT_FOUND;
    mem_str_puts(arguments, json);
    free(json);
    *at = (size_t)(r.at - text);
    return name->failed || arguments->failed ? ST_NO_MEMORY : ST_OK;
}
