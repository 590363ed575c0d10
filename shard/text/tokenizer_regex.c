#include "shard/text/tokenizer_regex.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/log.h"
#include "shard/text/tokenizer_text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Steps one match may take; a real split pattern takes a few per character. */
enum { MATCH_LIMIT = 50 * 1000 * 1000, DEPTH_LIMIT = 20000, HEAP_LIMIT_KIB = 256 * 1024, JIT_STACK_MAX = 16 << 20 };
/* Seconds that all matches of a text may take: some patterns look ahead to the end of the text at each match. */
#define SECONDS_BASE 5.0
#define SECONDS_PER_MIB 5.0

struct tok_regex {
    char *where;
    pcre2_code *code;
    bool jit;
};

struct tok_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    double deadline;
    unsigned matches;
};

static status compile(const char *where, const char *pcre, size_t pcre_len, const char *shown, size_t shown_len, tok_regex **out)
{
    tok_regex *re;
    TRY(mem_calloc(1, sizeof(*re), "tokenizer: pattern", &re));
    mem_str name = {0};
    mem_str_printf(&name, "%s: pattern \"%.*s\"", where, (int)(shown_len > 120 ? 120 : shown_len), shown);
    re->where = mem_str_take(&name);
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    if (re->where == NULL || cc == NULL) {
        pcre2_compile_context_free(cc);
        tok_regex_destroy(&re);
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a pattern");
    }
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, 100);
    int error;
    PCRE2_SIZE at;
    /* Multiline: in Ruby's syntax ^ and $ are always those of lines. */
    re->code = pcre2_compile((PCRE2_SPTR)pcre, pcre_len, PCRE2_UTF | PCRE2_MULTILINE, &error, &at, cc);
    pcre2_compile_context_free(cc);
    if (re->code == NULL) {
        char text[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof(text));
        status st = FAIL(ST_UNSUPPORTED, "%s cannot be used: %s", re->where, text);
        tok_regex_destroy(&re);
        return st;
    }
    re->jit = pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE) == 0;
    *out = re;
    return ST_OK;
}

status tok_regex_compile(const char *where, const char *pattern, size_t len, tok_regex **out)
{
    mem_str pcre = {.limit = 1u << 20};
    status st = tok_pattern_translate(where, pattern, len, &pcre);
    if (st == ST_OK && pcre.failed)
        st = FAIL(ST_LIMIT, "%s: a pattern of %zu bytes is too long", where, len);
    if (st == ST_OK)
        st = compile(where, pcre.len == 0 ? "" : pcre.data, pcre.len, pattern, len, out);
    mem_str_free(&pcre);
    return st;
}

status tok_regex_compile_native(const char *where, const char *pattern, size_t len, tok_regex **out)
{
    return compile(where, pattern, len, pattern, len, out);
}

void tok_regex_destroy(tok_regex **re)
{
    if (*re == NULL)
        return;
    pcre2_code_free((*re)->code);
    free((*re)->where);
    free(*re);
    *re = NULL;
}

status tok_matcher_create(size_t text_len, tok_matcher **out)
{
    tok_matcher *m;
    TRY(mem_calloc(1, sizeof(*m), "tokenizer: matcher", &m));
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_MAX, NULL);
    if (m->data == NULL || m->context == NULL || m->stack == NULL) {
        tok_matcher_destroy(&m);
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for matching");
    }
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    pcre2_set_depth_limit(m->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(m->context, HEAP_LIMIT_KIB);
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    m->deadline = log_clock() + SECONDS_BASE + SECONDS_PER_MIB * (double)text_len / (1 << 20);
    *out = m;
    return ST_OK;
}

void tok_matcher_destroy(tok_matcher **m)
{
    if (*m == NULL)
        return;
    pcre2_match_data_free((*m)->data);
    pcre2_match_context_free((*m)->context);
    pcre2_jit_stack_free((*m)->stack);
    free(*m);
    *m = NULL;
}

static status too_long(const tok_regex *re, size_t len)
{
    return FAIL(ST_LIMIT, "%s takes too long on this text (%zu bytes): shorten it or split it", re->where, len);
}

static int match_once(const tok_regex *re, tok_matcher *m, const tok_find *f)
{
    PCRE2_SPTR text = (PCRE2_SPTR)f->text;
    int rc = re->jit ? pcre2_jit_match(re->code, text, f->len, f->from, PCRE2_NO_UTF_CHECK, m->data, m->context)
                     : pcre2_match(re->code, text, f->len, f->from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(re->code, text, f->len, f->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, m->context);
    return rc;
}

status tok_regex_next(const tok_regex *re, tok_matcher *m, tok_find *f, bool *found)
{
    while (f->from <= f->len) {
        if ((++m->matches & 255) == 0 && log_clock() > m->deadline)
            return too_long(re, f->len);
        int rc = match_once(re, m, f);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc == PCRE2_ERROR_NOMEMORY)
            return FAIL(ST_NO_MEMORY, "%s: no memory for matching", re->where);
        if (rc < 0)
            return too_long(re, f->len);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(m->data);
        /* (?=..\K) can end before it begins; the reference would stop there with an error. */
        if (range[1] < range[0] || range[0] < f->from)
            return FAIL(ST_UNSUPPORTED, "%s matches backwards", re->where);
        if (range[0] == range[1] && range[1] == f->last_end) {
            /* An empty match right after a match is not one: go on behind the next character. */
            f->from += f->from < f->len ? tok_utf8_len(f->text[f->from]) : 1;
            continue;
        }
        f->begin = range[0];
        f->end = f->from = f->last_end = range[1];
        f->mark = (const char *)pcre2_get_mark(m->data);
        *found = true;
        return ST_OK;
    }
    f->from = f->len + 1;
    *found = false;
    return ST_OK;
}
