/* shard/text/tokenizer_normalise.c - the normalisers of tokenizer.json. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "shard/text/tokenizer_internal.h"
#include "shard/text/tokenizer_unicode.h"

status tok_string_copy(const char *s, size_t len, tok_string *out)
{
    out->data = malloc(len + 1);
    if (out->data == NULL)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a string of %zu bytes", len);
    memcpy(out->data, s, len);
    out->data[len] = '\0';
    out->len = len;
    return ST_OK;
}

void tok_pattern_free(tok_pattern *p)
{
    free(p->literal.data);
    tok_regex_destroy(&p->regex);
}

status tok_pattern_next(const tok_pattern *p, tok_matcher *m, tok_find *f, bool *found)
{
    if (p->regex != NULL)
        return tok_regex_next(p->regex, m, f, found);
    const char *hit = f->from > f->len ? NULL : memmem(f->text + f->from, f->len - f->from, p->literal.data, p->literal.len);
    *found = hit != NULL;
    if (hit != NULL) {
        f->begin = (size_t)(hit - f->text);
        f->end = f->from = f->begin + p->literal.len;
    }
    return ST_OK;
}

void tok_norm_free(tok_norm *n)
{
    tok_pattern_free(&n->pattern);
    free(n->content.data);
    tok_charsmap_destroy(&n->charsmap);
}

static bool all_ascii(const char *s, size_t len)
{
    uint64_t word;
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        memcpy(&word, s + i, 8);
        if ((word & 0x8080808080808080u) != 0)
            return false;
    }
    for (; i < len; i++) {
        if ((unsigned char)s[i] >= 0x80)
            return false;
    }
    return true;
}

/* ---- Unicode normal forms ----
 * utf8proc decomposes characters and composes sequences; the ordering of marks in between is ours, because utf8proc's
 * takes quadratic time on a long run of them. */

typedef struct code_points {
    utf8proc_int32_t *data, *spare;
    size_t n, cap;
} code_points;

/* Marks that the reference's tables do not know yet stay where they are. */
static uint8_t combining_class(utf8proc_int32_t c)
{
    return c < 0x300 || !tok_is_mark((uint32_t)c) ? 0 : (uint8_t)utf8proc_get_property(c)->combining_class;
}

static void order_marks(utf8proc_int32_t *c, utf8proc_int32_t *spare, size_t n)
{
    uint32_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[combining_class(c[i]) + 1]++;
    for (int k = 0; k < 256; k++)
        start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++)
        spare[start[combining_class(c[i])]++] = c[i];
    memcpy(c, spare, n * sizeof(*c));
}

static void order_all(code_points *p)
{
    for (size_t i = 0; i < p->n;) {
        size_t end = i;
        while (end < p->n && combining_class(p->data[end]) != 0)
            end++;
        if (end - i > 1)
            order_marks(p->data + i, p->spare + i, end - i);
        i = end + 1;
    }
}

static status reserve_points(code_points *p, size_t more)
{
    if (p->n + more <= p->cap)
        return ST_OK;
    size_t cap = (p->n + more) * 2 + 64;
    utf8proc_int32_t *data = realloc(p->data, cap * sizeof(*data));
    if (data != NULL)
        p->data = data;
    utf8proc_int32_t *spare = data == NULL ? NULL : realloc(p->spare, cap * sizeof(*spare));
    if (spare == NULL)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory to normalise a text");
    p->spare = spare;
    p->cap = cap;
    return ST_OK;
}

/* A run that begins with a starter and is followed by one (or by the end). */
static status normalise_run(tok_norm_kind kind, code_points *p, const char *text, size_t len, mem_str *out)
{
    int options = UTF8PROC_STABLE | (kind == TOK_NORM_NFKC || kind == TOK_NORM_NFKD ? UTF8PROC_COMPAT : 0);
    p->n = 0;
    for (size_t i = 0; i < len;) {
        uint32_t c = tok_utf8_next(text, &i);
        int last = 0;
        TRY(reserve_points(p, 32)); /* the longest decomposition has 18 */
        if (tok_in_ranges(&tok_ranges_undecomposed, c)) {
            p->data[p->n++] = (utf8proc_int32_t)c;
            continue;
        }
        utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, p->data + p->n, 32, (utf8proc_option_t)(options | UTF8PROC_DECOMPOSE), &last);
        if (n < 0 || n > 32)
            return FAIL(ST_INTERNAL, "tokenizer: cannot decompose U+%04X", c);
        p->n += (size_t)n;
    }
    order_all(p);
    if (kind == TOK_NORM_NFC || kind == TOK_NORM_NFKC) {
        utf8proc_ssize_t n = utf8proc_normalize_utf32(p->data, (utf8proc_ssize_t)p->n, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
        if (n < 0)
            return FAIL(ST_INTERNAL, "tokenizer: cannot compose a text");
        p->n = (size_t)n;
    }
    for (size_t i = 0; i < p->n; i++)
        tok_utf8_push(out, (uint32_t)p->data[i]);
    return ST_OK;
}

static status unicode_form(tok_norm_kind kind, const char *text, size_t len, mem_str *out)
{
    code_points points = {0};
    status st = ST_OK;
    /* ASCII is in every normal form, and a run may be cut before an ASCII character: nothing composes onto it from the left. */
    for (size_t i = 0; i < len && st == ST_OK;) {
        size_t plain = i;
        while (plain < len && (unsigned char)text[plain] < 0x80)
            plain++;
        if (plain < len && plain > i)
            plain--; /* its last character may compose with what follows */
        mem_str_append(out, text + i, plain - i);
        i = plain;
        size_t end = i;
        while (end < len && (end == i || (unsigned char)text[end] >= 0x80))
            end++;
        if (end > i)
            st = normalise_run(kind, &points, text + i, end - i, out);
        i = end;
    }
    free(points.data);
    free(points.spare);
    return st;
}

/* ---- characters one by one ---- */

static bool is_chinese(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static void bert_clean(uint32_t c, mem_str *out)
{
    bool blank = c == '\t' || c == '\n' || c == '\r';
    if (c == 0 || c == 0xfffd || (!blank && tok_is_other(c)))
        return;
    if (blank || tok_is_space(c))
        mem_str_putc(out, ' ');
    else
        tok_utf8_push(out, c);
}

static void bert_chinese(uint32_t c, mem_str *out)
{
    bool pad = is_chinese(c);
    if (pad)
        mem_str_putc(out, ' ');
    tok_utf8_push(out, c);
    if (pad)
        mem_str_putc(out, ' ');
}

static void lowercase(uint32_t c, mem_str *out)
{
    uint32_t lower[2];
    int n = tok_lower(c, lower);
    for (int i = 0; i < n; i++)
        tok_utf8_push(out, lower[i]);
}

static void drop_nonspacing(uint32_t c, mem_str *out)
{
    if (!tok_is_nonspacing(c))
        tok_utf8_push(out, c);
}

static void drop_marks(uint32_t c, mem_str *out)
{
    if (!tok_is_mark(c))
        tok_utf8_push(out, c);
}

static void nmt(uint32_t c, mem_str *out)
{
    if ((c >= 1 && c <= 8) || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f)
        return;
    if (c == 9 || c == 0x0a || c == 0x0c || c == 0x0d || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 ||
        c == 0x2581 || c == 0xfeff || c == 0xfffd)
        c = ' ';
    tok_utf8_push(out, c);
}

/* Maps every character on its own and swaps the result in. */
static void each_char(void (*map)(uint32_t c, mem_str *out), tok_buffer *b, mem_str *spare)
{
    size_t zero = 0;
    mem_str_clear(spare);
    for (size_t i = 0; i < b->text.len;) {
        bool first = i < b->zero;
        map(tok_utf8_next(b->text.data, &i), spare);
        if (first)
            zero = spare->len;
    }
    mem_str old = b->text;
    b->text = *spare;
    *spare = old;
    b->zero = zero;
}

static void swap_in(tok_buffer *b, mem_str *spare, size_t zero)
{
    mem_str old = b->text;
    b->text = *spare;
    *spare = old;
    b->zero = zero < b->text.len ? zero : b->text.len;
}

static status apply_form(tok_norm_kind kind, tok_buffer *b, mem_str *spare)
{
    if (all_ascii(b->text.data, b->text.len))
        return ST_OK;
    size_t zero = 0;
    mem_str_clear(spare);
    if (b->zero > 0) {
        TRY(unicode_form(kind, b->text.data, b->zero, spare));
        zero = spare->len;
        mem_str_clear(spare);
    }
    TRY(unicode_form(kind, b->text.data, b->text.len, spare));
    swap_in(b, spare, zero);
    return ST_OK;
}

static void apply_strip(const tok_norm *n, tok_buffer *b)
{
    size_t from = 0, end = b->text.len;
    while (n->left && from < end) {
        size_t next = from;
        if (!tok_is_space(tok_utf8_next(b->text.data, &next)))
            break;
        from = next;
    }
    while (n->right && end > from) {
        size_t last = end - 1, pos;
        while (((unsigned char)b->text.data[last] & 0xc0) == 0x80)
            last--;
        pos = last;
        if (!tok_is_space(tok_utf8_next(b->text.data, &pos)))
            break;
        end = last;
    }
    memmove(b->text.data, b->text.data + from, end - from);
    b->text.len = end - from;
    b->zero = b->zero > from ? b->zero - from : 0;
    if (b->zero > b->text.len)
        b->zero = b->text.len;
}

static status apply_replace(const tok_norm *n, tok_matcher *m, tok_buffer *b, mem_str *spare)
{
    tok_find f = tok_find_start(b->text.data, b->text.len);
    size_t done = 0, zero = b->zero;
    bool found;
    mem_str_clear(spare);
    for (;;) {
        TRY(tok_pattern_next(&n->pattern, m, &f, &found));
        if (!found)
            break;
        mem_str_append(spare, b->text.data + done, f.begin - done);
        /* What replaces the first character is aligned with it. */
        if (f.begin < b->zero || f.end == 0)
            zero = spare->len + n->content.len;
        mem_str_append(spare, n->content.data, n->content.len);
        done = f.end;
        if (spare->failed)
            return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a normalised text");
    }
    if (done == 0 && spare->len == 0)
        return ST_OK;
    mem_str_append(spare, b->text.data + done, b->text.len - done);
    swap_in(b, spare, zero);
    return ST_OK;
}

static void apply_bert(const tok_norm *n, tok_buffer *b, mem_str *spare)
{
    if (n->clean)
        each_char(bert_clean, b, spare);
    if (n->chinese)
        each_char(bert_chinese, b, spare);
}

void tok_bytes_to_chars(const char *text, size_t len, mem_str *out)
{
    for (size_t i = 0; i < len; i++)
        tok_utf8_push(out, tok_byte_char((uint8_t)text[i]));
}

static status apply(const tok_norm *n, tok_matcher *m, tok_buffer *b, mem_str *spare)
{
    switch (n->kind) {
    case TOK_NORM_NFC:
    case TOK_NORM_NFD:
    case TOK_NORM_NFKC:
    case TOK_NORM_NFKD:
        return apply_form(n->kind, b, spare);
    case TOK_NORM_LOWERCASE:
        each_char(lowercase, b, spare);
        return ST_OK;
    case TOK_NORM_STRIP:
        apply_strip(n, b);
        return ST_OK;
    case TOK_NORM_STRIP_ACCENTS:
        each_char(drop_marks, b, spare);
        return ST_OK;
    case TOK_NORM_REPLACE:
        return apply_replace(n, m, b, spare);
    case TOK_NORM_PREPEND:
        mem_str_clear(spare);
        mem_str_append(spare, n->content.data, n->content.len);
        mem_str_append(spare, b->text.data, b->text.len);
        swap_in(b, spare, b->zero == 0 ? 0 : b->zero + n->content.len);
        return ST_OK;
    case TOK_NORM_NMT:
        each_char(nmt, b, spare);
        return ST_OK;
    case TOK_NORM_BERT:
        apply_bert(n, b, spare);
        if (n->strip_accents) {
            TRY(apply_form(TOK_NORM_NFD, b, spare));
            each_char(drop_nonspacing, b, spare);
        }
        if (n->lowercase)
            each_char(lowercase, b, spare);
        return ST_OK;
    case TOK_NORM_CHARSMAP: {
        size_t zero;
        mem_str_clear(spare);
        tok_charsmap_apply(n->charsmap, b->text.data, b->zero, spare);
        zero = spare->len;
        mem_str_clear(spare);
        tok_charsmap_apply(n->charsmap, b->text.data, b->text.len, spare);
        swap_in(b, spare, zero);
        return ST_OK;
    }
    case TOK_NORM_BYTES: {
        size_t zero = 0;
        mem_str_clear(spare);
        for (size_t i = 0; i < b->text.len; i++) {
            tok_utf8_push(spare, tok_byte_char((uint8_t)b->text.data[i]));
            if (i < b->zero)
                zero = spare->len;
        }
        swap_in(b, spare, zero);
        return ST_OK;
    }
    }
    return ST_OK;
}

status tok_norm_apply(const tok_norm *n, tok_matcher *m, tok_buffer *b, mem_str *spare)
{
    if (b->text.len == 0)
        return ST_OK;
    TRY(apply(n, m, b, spare));
    if (b->text.failed || spare->failed)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a normalised text");
    return ST_OK;
}
