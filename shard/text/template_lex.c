/* shard/text/template_lex.c - template text to tokens, with Jinja's whitespace control.
 *
 * trim_blocks (a newline right after a block or comment is dropped), lstrip_blocks (blanks before one that starts a line are
 * dropped), "-" strips all white space on its side, "+" switches both off.  Line statements are off. */
#include "shard/text/template_internal.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct lexer {
    tmpl_run *r;
    const char *p, *end;
    tok *tokens;
    size_t n, cap;
    bool line_starting; /* the last token ended with a newline, or there was none */
} lexer;

static tok *push(lexer *x, tok_type type, int line)
{
    if (x->n == x->cap) {
        size_t cap = x->cap == 0 ? 256 : x->cap * 2;
        tok *wider = tmpl_alloc(x->r, cap * sizeof(*wider));
        if (x->n > 0)
            memcpy(wider, x->tokens, x->n * sizeof(*wider));
        x->tokens = wider;
        x->cap = cap;
    }
    x->tokens[x->n] = (tok){.type = (uint8_t)type, .line = line};
    return &x->tokens[x->n++];
}

/* Moves to `to`, counting lines. */
static void advance(lexer *x, const char *to)
{
    for (; x->p < to; x->p++)
        x->r->line += *x->p == '\n';
}

static const char *skip_space(const char *p, const char *end)
{
    while (p < end) {
        const char *q = p;
        if (!tmpl_cp_space(tmpl_cp_next(&q, end)))
            break;
        p = q;
    }
    return p;
}

static bool starts(const char *p, const char *end, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(end - p) >= n && memcmp(p, text, n) == 0;
}

/* "{%" sign? blanks NAME blanks, then an end of block: NULL if p is no such tag, else where it ends. */
static const char *lone_tag(const char *p, const char *end, const char *name, bool plus_end, bool trim, char *sign)
{
    if (!starts(p, end, "{%"))
        return NULL;
    p += 2;
    *sign = '\0';
    if (p < end && (*p == '-' || *p == '+'))
        *sign = *p++;
    p = skip_space(p, end);
    if (!starts(p, end, name))
        return NULL;
    p = skip_space(p + strlen(name), end);
    if (starts(p, end, "-%}"))
        return skip_space(p + 3, end);
    if (plus_end && starts(p, end, "+%}"))
        return p + 3;
    if (!starts(p, end, "%}"))
        return NULL;
    p += 2;
    return trim && p < end && *p == '\n' ? p + 1 : p;
}

/* Data before a tag, stripped as the tag's sign asks. */
static void push_data(lexer *x, const char *to, char sign, bool variable)
{
    const char *stop = to;
    if (sign == '-') {
        while (stop > x->p) {
            const char *q = stop;
            if (!tmpl_cp_space(tmpl_cp_prev(x->p, &q)))
                break;
            stop = q;
        }
    } else if (sign != '+' && !variable) {
        const char *line = to;
        while (line > x->p && line[-1] != '\n')
            line--;
        if ((line > x->p || x->line_starting) && skip_space(line, to) == to)
            stop = line;
    }
    if (stop > x->p) {
        tok *t = push(x, T_DATA, x->r->line);
        t->value = tv_view_of(x->r, x->p, (size_t)(stop - x->p));
    }
    advance(x, to);
}

static void lex_comment(lexer *x)
{
    int line = x->r->line;
    for (const char *p = x->p; p < x->end; p++) {
        const char *end = NULL;
        if (starts(p, x->end, "+#}"))
            end = p + 3;
        else if (starts(p, x->end, "-#}"))
            end = skip_space(p + 3, x->end);
        else if (starts(p, x->end, "#}"))
            end = p + 2 < x->end && p[2] == '\n' ? p + 3 : p + 2;
        if (end != NULL) {
            x->line_starting = end[-1] == '\n';
            advance(x, end);
            return;
        }
    }
    if (x->p == x->end) /* opened by the very last characters: Jinja lets it pass */
        return;
    x->r->line = line;
    tmpl_fail(x->r, ST_FORMAT, "missing end of comment tag");
}

static void lex_raw(lexer *x, const char *begin)
{
    x->line_starting = begin[-1] == '\n';
    advance(x, begin);
    int line = x->r->line;
    for (const char *p = x->p; p < x->end; p++) {
        char sign;
        const char *end = *p == '{' ? lone_tag(p, x->end, "endraw", true, true, &sign) : NULL;
        if (end != NULL) {
            push_data(x, p, sign, false);
            x->line_starting = end[-1] == '\n';
            advance(x, end);
            return;
        }
    }
    if (x->p == x->end)
        return;
    x->r->line = line;
    tmpl_fail(x->r, ST_FORMAT, "missing end of raw directive");
}

/* ---- inside tags ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* (\d+_)*\d+ : NULL if there is none. */
static const char *digits(const char *p, const char *end)
{
    if (p >= end || !is_digit(*p))
        return NULL;
    for (;;) {
        while (p < end && is_digit(*p))
            p++;
        if (p + 1 < end && *p == '_' && is_digit(p[1]))
            p++;
        else
            return p;
    }
}

static const char *match_float(const char *begin, const char *p, const char *end)
{
    if (p > begin && p[-1] == '.')
        return NULL;
    const char *q = digits(p, end), *f, *e;
    if (q == NULL)
        return NULL;
    f = q < end && *q == '.' ? digits(q + 1, end) : NULL;
    const char *at = f != NULL ? f : q;
    if (at < end && (*at == 'e' || *at == 'E')) {
        const char *s = at + 1;
        if (s < end && (*s == '+' || *s == '-'))
            s++;
        e = digits(s, end);
        if (e != NULL)
            return e;
    }
    return f;
}

static bool base_digit(char c, int base)
{
    int v = is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
    return v < base;
}

/* (_?digit)* from p */
static const char *more_digits(const char *p, const char *end, int base)
{
    for (;;) {
        if (p < end && base_digit(*p, base))
            p++;
        else if (p + 1 < end && *p == '_' && base_digit(p[1], base))
            p += 2;
        else
            return p;
    }
}

static const char *match_int(const char *p, const char *end, int *base)
{
    if (p >= end || !is_digit(*p))
        return NULL;
    *base = 10;
    if (*p == '0' && p + 1 < end) {
        char c = (char)(p[1] | 32);
        int b = c == 'b' ? 2 : c == 'o' ? 8 : c == 'x' ? 16 : 0;
        const char *q = b != 0 ? more_digits(p + 2, end, b) : NULL;
        if (b != 0 && q > p + 2) {
            *base = b;
            return q;
        }
    }
    return more_digits(p + 1, end, *p == '0' ? 1 : 10);
}

static char *without_underscores(lexer *x, const char *p, const char *end)
{
    char *text = tmpl_alloc(x->r, (size_t)(end - p) + 1), *w = text;
    for (; p < end; p++) {
        if (*p != '_')
            *w++ = *p;
    }
    return text;
}

static void lex_int(lexer *x, const char *end, int base)
{
    const char *text = without_underscores(x, base == 10 ? x->p : x->p + 2, end);
    int64_t v = 0;
    for (; *text != '\0'; text++) {
        int d = is_digit(*text) ? *text - '0' : (*text | 32) - 'a' + 10;
        if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v))
            tmpl_fail(x->r, ST_LIMIT, "an integer beyond 64 bits");
    }
    push(x, T_INT, x->r->line)->value = tv_int(v);
    advance(x, end);
}

/* Hex digits of an escape; Python's unicode-escape fails on fewer. */
static uint32_t hex_escape(lexer *x, const char **p, const char *end, int n)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++, (*p)++) {
        if (*p >= end || !base_digit(**p, 16))
            tmpl_fail(x->r, ST_FORMAT, "truncated escape in a string");
        v = v * 16 + (uint32_t)(is_digit(**p) ? **p - '0' : (**p | 32) - 'a' + 10);
    }
    if (v > 0x10ffff)
        tmpl_fail(x->r, ST_FORMAT, "illegal Unicode character in a string");
    return v;
}

/* *p is after the backslash */
static void unescape(lexer *x, tbuf *b, const char **p, const char *end)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *q = *p;
    uint32_t cp = tmpl_cp_next(&q, end);
    const char *known = cp < 128 && cp != 0 ? strchr(from, (int)cp) : NULL;
    *p = q;
    if (cp == '\n')
        return;
    if (known != NULL) {
        tbuf_putc(b, to[known - from]);
    } else if (cp == 'x' || cp == 'u' || cp == 'U') {
        tbuf_put_cp(b, hex_escape(x, p, end, cp == 'x' ? 2 : cp == 'u' ? 4 : 8));
    } else if (cp >= '0' && cp <= '7') {
        uint32_t v = cp - '0';
        for (int i = 0; i < 2 && *p < end && **p >= '0' && **p <= '7'; i++)
            v = v * 8 + (uint32_t)(*(*p)++ - '0');
        tbuf_put_cp(b, v);
    } else if (cp == 'N') {
        tmpl_fail(x->r, ST_UNSUPPORTED, "\\N{...} escapes are not supported");
    } else if (cp < 128) {
        tbuf_putc(b, '\\');
        tbuf_putc(b, (char)cp);
    } else { /* Python escapes what is not ASCII first, and then finds a backslash before that */
        char text[16];
        snprintf(text, sizeof(text), cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        tbuf_puts(b, text);
    }
}

static void lex_string(lexer *x, const char *close)
{
    int line = x->r->line;
    const char *p = x->p + 1;
    tbuf b = {.r = x->r};
    if (memchr(p, '\\', (size_t)(close - p)) == NULL) {
        push(x, T_STRING, line)->value = tv_view_of(x->r, p, (size_t)(close - p));
        advance(x, close + 1);
        return;
    }
    while (p < close) {
        const char *plain = memchr(p, '\\', (size_t)(close - p));
        if (plain == NULL)
            plain = close;
        tbuf_put(&b, p, (size_t)(plain - p));
        p = plain;
        if (p < close) {
            p++;
            unescape(x, &b, &p, close);
        }
    }
    push(x, T_STRING, line)->value = tbuf_take(&b);
    advance(x, close + 1);
}

static const char *string_close(const char *p, const char *end)
{
    char quote = *p++;
    while (p < end && *p != quote)
        p += *p == '\\' ? 2 : 1;
    return p < end ? p : NULL;
}

static void lex_name(lexer *x)
{
    const char *p = x->p;
    bool good = true;
    while (p < x->end) {
        const char *q = p;
        uint32_t cp = tmpl_cp_next(&q, x->end);
        if (!tmpl_cp_word(cp) && !tmpl_cp_id(cp, false))
            break;
        good = good && tmpl_cp_id(cp, p == x->p);
        p = q;
    }
    if (p == x->p) {
        const char *q = p;
        tmpl_cp_next(&q, x->end);
        tmpl_fail(x->r, ST_FORMAT, "unexpected character '%.*s'", (int)(q - p), p);
    }
    if (!good)
        tmpl_fail(x->r, ST_FORMAT, "invalid character in identifier \"%.*s\"", (int)(p - x->p), x->p);
    push(x, T_NAME, x->r->line)->value = tv_view_of(x->r, x->p, (size_t)(p - x->p));
    advance(x, p);
}

/* "" if there is no operator at p */
static const char *operator_at(const char *p, const char *end)
{
    static const char *const ops[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")",
                                      "{",  "}",  ">",  "<",  "=",  ".",  ":", "|", ",", ";"};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        if (starts(p, end, ops[i]))
            return ops[i];
    }
    return "";
}

static void balance(lexer *x, tbuf *open, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        tbuf_putc(open, c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
        if (open->len == 0)
            tmpl_fail(x->r, ST_FORMAT, "unexpected '%c'", c);
        char want = open->p[--open->len];
        if (want != c)
            tmpl_fail(x->r, ST_FORMAT, "unexpected '%c', expected '%c'", c, want);
    }
}

/* One tag, from after its opening to its end. */
static void lex_tag(lexer *x, const char *source, bool block)
{
    tbuf open = {.r = x->r};
    for (;;) {
        /* the end is looked for first, when no bracket is open */
        const char *close = block ? "%}" : "}}";
        if (open.len == 0) {
            const char *end = NULL;
            char minus[4] = {'-', close[0], close[1], '\0'}, plus[4] = {'+', close[0], close[1], '\0'};
            if (starts(x->p, x->end, minus))
                end = skip_space(x->p + 3, x->end);
            else if (block && starts(x->p, x->end, plus))
                end = x->p + 3;
            else if (starts(x->p, x->end, close))
                end = block && x->p + 2 < x->end && x->p[2] == '\n' ? x->p + 3 : x->p + 2;
            if (end != NULL) {
                push(x, block ? T_BLOCK_END : T_VAR_END, x->r->line);
                x->line_starting = end[-1] == '\n';
                advance(x, end);
                return;
            }
        }
        if (x->p >= x->end)
            return; /* the parser finds the end of the template where it wants a tag's end */
        const char *next = skip_space(x->p, x->end), *m;
        int base;
        tmpl_charge(x->r, 0);
        if (next > x->p) {
            advance(x, next);
        } else if ((m = match_float(source, x->p, x->end)) != NULL) {
            push(x, T_FLOAT, x->r->line)->value = tv_float(strtod(without_underscores(x, x->p, m), NULL));
            advance(x, m);
        } else if ((m = match_int(x->p, x->end, &base)) != NULL) {
            lex_int(x, m, base);
        } else if ((*x->p == '"' || *x->p == '\'') && (m = string_close(x->p, x->end)) != NULL) {
            lex_string(x, m);
        } else if (*(m = operator_at(x->p, x->end)) != '\0') {
            balance(x, &open, m[0]);
            memcpy(push(x, T_OP, x->r->line)->op, m, strlen(m) + 1);
            advance(x, x->p + strlen(m));
        } else {
            lex_name(x);
        }
    }
}

/* "\r\n" and "\r" become "\n"; one newline at the very end is dropped. */
static const char *normalise(tmpl_run *r, const char *source, size_t *len)
{
    char *text = tmpl_alloc(r, *len + 1);
    size_t n = 0;
    for (size_t i = 0; i < *len; i++) {
        if (source[i] == '\r') {
            text[n++] = '\n';
            i += i + 1 < *len && source[i + 1] == '\n';
        } else {
            text[n++] = source[i];
        }
    }
    if (n > 0 && text[n - 1] == '\n')
        n--;
    *len = n;
    return text;
}

tok *tmpl_lex(tmpl_run *r, const char *raw, size_t len)
{
    const char *source = normalise(r, raw, &len);
    lexer x = {.r = r, .p = source, .end = source + len, .line_starting = true};
    r->line = 1;
    while (x.p < x.end) {
        const char *tag = x.p;
        while (tag < x.end && !(tag + 1 < x.end && tag[0] == '{' && (tag[1] == '{' || tag[1] == '%' || tag[1] == '#')))
            tag++;
        tmpl_charge(r, (size_t)(tag - x.p));
        if (tag == x.end) {
            push(&x, T_DATA, r->line)->value = tv_view_of(r, x.p, (size_t)(x.end - x.p));
            advance(&x, x.end);
            break;
        }
        char sign, c = tag[1];
        const char *raw_end = c == '%' ? lone_tag(tag, x.end, "raw", false, false, &sign) : NULL;
        sign = tag + 2 < x.end && (tag[2] == '-' || tag[2] == '+') ? tag[2] : '\0';
        push_data(&x, tag, sign, c == '{');
        x.line_starting = false;
        if (raw_end != NULL) {
            lex_raw(&x, raw_end);
            continue;
        }
        if (c == '#') {
            advance(&x, tag + 2 + (sign != '\0'));
            lex_comment(&x);
            continue;
        }
        push(&x, c == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN, r->line);
        advance(&x, tag + 2 + (sign != '\0'));
        lex_tag(&x, source, c == '%');
    }
    push(&x, T_EOF, r->line);
    return x.tokens;
}
