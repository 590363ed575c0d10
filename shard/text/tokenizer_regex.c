#include "shard/text/tokenizer_regex.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "shard/text/tokenizer_text.h"
#include "shard/text/tokenizer_unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Backtracking steps that a match from one position may take: a floor, and more for each byte of the text. */
enum { STEPS_BASE = 1000 * 1000, STEPS_PER_BYTE = 16 };
enum { DEPTH_LIMIT = 20000, HEAP_LIMIT_KIB = 256 * 1024, JIT_STACK_MAX = 16 << 20 };
/* Bytes from whose positions one call tries to match: that limit counts anew from each position, so between windows the
 * clock is looked at. */
enum { WINDOW = 64 };
/* Seconds that all matches of a text may take: some patterns look ahead to the end of the text from everywhere. */
#define SECONDS_BASE 5.0
#define SECONDS_PER_MIB 5.0

struct tok_regex {
    char *where;
    struct {
        pcre2_code *code;
        bool jit;
    } plain, newer; /* the second for texts with characters newer than PCRE2's Unicode; may be the first */
};

struct tok_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    bool newer;
    double deadline;
    unsigned matches;
};

static status compile(const tok_regex *re, const mem_str *pcre, pcre2_code **code, bool *jit)
{
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    if (cc == NULL)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a pattern");
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, 100);
    int error;
    PCRE2_SIZE at;
    /* Multiline: in Ruby's syntax ^ and $ are always those of lines. */
    *code = pcre2_compile((PCRE2_SPTR)(pcre->len == 0 ? "" : pcre->data), pcre->len, PCRE2_UTF | PCRE2_MULTILINE | PCRE2_USE_OFFSET_LIMIT, &error, &at, cc);
    pcre2_compile_context_free(cc);
    if (*code == NULL) {
        char text[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof(text));
        return FAIL(ST_UNSUPPORTED, "%s cannot be used: %s", re->where, text);
    }
    *jit = pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE) == 0;
    return ST_OK;
}

static status regex_new(const char *where, const char *pattern, size_t len, tok_regex **out)
{
    mem_str name = {0};
    TRY(mem_calloc(1, sizeof(**out), "tokenizer: pattern", out));
    mem_str_printf(&name, "%s: pattern \"%.*s\"", where, (int)(len > 120 ? 120 : len), pattern);
    (*out)->where = mem_str_take(&name);
    if ((*out)->where != NULL)
        return ST_OK;
    tok_regex_destroy(out);
    return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a pattern");
}

static status translate_and_compile(tok_regex *re, const char *where, const char *pattern, size_t len)
{
    mem_str plain = {.limit = 1u << 20}, newer = {.limit = 1u << 20};
    status st = tok_pattern_translate(where, pattern, len, false, &plain);
    if (st == ST_OK)
        st = tok_pattern_translate(where, pattern, len, true, &newer);
    if (st == ST_OK && (plain.failed || newer.failed))
        st = FAIL(ST_LIMIT, "%s: a pattern of %zu bytes is too long", where, len);
    if (st == ST_OK)
        st = compile(re, &plain, &re->plain.code, &re->plain.jit);
    if (st == ST_OK && (plain.len != newer.len || (plain.len > 0 && memcmp(plain.data, newer.data, plain.len) != 0)))
        st = compile(re, &newer, &re->newer.code, &re->newer.jit);
    mem_str_free(&plain);
    mem_str_free(&newer);
    return st;
}

status tok_regex_compile(const char *where, const char *pattern, size_t len, tok_regex **out)
{
    TRY(regex_new(where, pattern, len, out));
    status st = translate_and_compile(*out, where, pattern, len);
    if (st != ST_OK)
        tok_regex_destroy(out);
    return st;
}

status tok_regex_compile_native(const char *where, const char *pattern, size_t len, tok_regex **out)
{
    TRY(regex_new(where, pattern, len, out));
    const mem_str text = {.data = (char *)pattern, .len = len};
    status st = compile(*out, &text, &(*out)->plain.code, &(*out)->plain.jit);
    if (st != ST_OK)
        tok_regex_destroy(out);
    return st;
}

void tok_regex_destroy(tok_regex **re)
{
    if (*re == NULL)
        return;
    pcre2_code_free((*re)->plain.code);
    pcre2_code_free((*re)->newer.code);
    free((*re)->where);
    free(*re);
    *re = NULL;
}

bool tok_text_is_newer(const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        /* Below U+0345 nothing is newer; nor in the large old blocks of ideographs and Hangul. */
        if ((unsigned char)text[i] < 0xcd) {
            i++;
            continue;
        }
        uint32_t c = tok_utf8_next(text, &i);
        if ((c >= 0x3040 && c <= 0x9fff) || (c >= 0xac00 && c <= 0xd7a3) || (c >= 0x391 && c <= 0x52f))
            continue;
        size_t low = 0, high = tok_newer_characters.n;
        while (low < high) {
            size_t mid = (low + high) / 2;
            if (c > tok_newer_characters.at[mid].last)
                low = mid + 1;
            else
                high = mid;
        }
        if (low < tok_newer_characters.n && c >= tok_newer_characters.at[low].first)
            return true;
        if (tok_in_ranges(&tok_ranges_alphabetic, c) || tok_in_ranges(&tok_ranges_lowercase, c) || tok_in_ranges(&tok_ranges_uppercase, c))
            return true;
    }
    return false;
}

status tok_matcher_create(size_t text_len, bool newer, tok_matcher **out)
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
    size_t steps = text_len > UINT32_MAX / STEPS_PER_BYTE - STEPS_BASE ? UINT32_MAX : STEPS_BASE + text_len * STEPS_PER_BYTE;
    pcre2_set_match_limit(m->context, (uint32_t)steps);
    pcre2_set_depth_limit(m->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(m->context, HEAP_LIMIT_KIB);
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    m->newer = newer;
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
    bool newer = m->newer && re->newer.code != NULL, jit = newer ? re->newer.jit : re->plain.jit;
    const pcre2_code *code = newer ? re->newer.code : re->plain.code;
    int rc = jit ? pcre2_jit_match(code, text, f->len, f->from, PCRE2_NO_UTF_CHECK, m->data, m->context)
                 : pcre2_match(code, text, f->len, f->from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, text, f->len, f->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, m->context);
    return rc;
}

/* Where the next window begins: on a character, behind this one. */
static size_t after_window(const tok_find *f, size_t window)
{
    size_t at = window + 1;
    while (at < f->len && ((unsigned char)f->text[at] & 0xc0) == 0x80)
        at++;
    return at;
}

status tok_regex_next(const tok_regex *re, tok_matcher *m, tok_find *f, bool *found)
{
    while (f->from <= f->len) {
        size_t window = f->len - f->from > WINDOW ? f->from + WINDOW : f->len;
        pcre2_set_offset_limit(m->context, window);
        int rc = match_once(re, m, f);
        if ((rc == PCRE2_ERROR_NOMATCH || (++m->matches & 255) == 0) && log_clock() > m->deadline)
            return too_long(re, f->len);
        if (rc == PCRE2_ERROR_NOMATCH) {
            f->from = after_window(f, window);
            continue;
        }
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
        *found = true;
        return ST_OK;
    }
    *found = false;
    return ST_OK;
}
