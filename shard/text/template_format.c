/* shard/text/template_format.c - Python's two ways to format: "%-5s" % x and "{:>5}".format(x).
 *
 * Both end in one renderer of a number or text under a specification (fill, align, sign, width, precision, type). */
#include "shard/text/template_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_WIDTH 100000

typedef struct spec {
    uint32_t fill;
    char align;          /* '<' '>' '^' '=' or 0 */
    char sign;           /* '+' '-' ' ' */
    bool alt, zero;
    char group;          /* ',' '_' or 0 */
    int64_t width, precision; /* precision -1: none */
    char type;           /* 0: none */
} spec;

static int64_t bounded(tmpl_run *r, int64_t v)
{
    if (v > MAX_WIDTH || v < -MAX_WIDTH)
        tmpl_fail(r, ST_LIMIT, "formats wider than %d", MAX_WIDTH);
    return v;
}

static void put_fill(tbuf *b, uint32_t fill, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        tbuf_put_cp(b, fill);
}

/* sign, prefix and digits to the width asked for */
static void put_number(tbuf *b, const spec *s, const char *prefix, const char *digits, size_t n)
{
    int64_t pad = s->width - (int64_t)(strlen(prefix) + n);
    char align = s->align != 0 ? s->align : '>';
    if (align == '>' || align == '^')
        put_fill(b, s->fill, align == '^' ? pad / 2 : pad);
    tbuf_puts(b, prefix);
    if (align == '=')
        put_fill(b, s->fill, pad);
    tbuf_put(b, digits, n);
    if (align == '<' || align == '^')
        put_fill(b, s->fill, align == '^' ? pad - pad / 2 : pad);
}

/* Thousands separators into the digits before the point, zero padding included. */
static void group_digits(tbuf *b, const char *digits, size_t n, char sep, int every, int64_t min_width)
{
    size_t whole = 0;
    while (whole < n && ((digits[whole] >= '0' && digits[whole] <= '9') || (every == 4 && (digits[whole] | 32) >= 'a' && (digits[whole] | 32) <= 'f')))
        whole++;
    int64_t zeros = 0, rest = (int64_t)(n - whole);
    while ((int64_t)whole + zeros + ((int64_t)whole + zeros - 1) / every + rest < min_width)
        zeros++;
    int64_t total = (int64_t)whole + zeros;
    for (int64_t i = 0; i < total; i++) {
        if (i > 0 && (total - i) % every == 0)
            tbuf_putc(b, sep);
        tbuf_putc(b, i < zeros ? '0' : digits[i - zeros]);
    }
    tbuf_put(b, digits + whole, (size_t)rest);
}

static void put_grouped(tbuf *out, const spec *s, const char *prefix, const char *digits, size_t n, int every)
{
    tbuf g = {.r = out->r};
    int64_t min = s->align == '=' && s->fill == '0' ? s->width - (int64_t)strlen(prefix) : 0;
    group_digits(&g, digits, n, s->group, every, min);
    put_number(out, s, prefix, g.p, g.len);
}

static const char *sign_of(const spec *s, bool negative)
{
    return negative ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
}

static void format_int(tbuf *b, const spec *s, int64_t v)
{
    char digits[72], prefix[4];
    uint64_t u = v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v;
    int base = s->type == 'x' || s->type == 'X' ? 16 : s->type == 'o' ? 8 : s->type == 'b' ? 2 : 10, n = 0;
    do
        digits[sizeof(digits) - (size_t)++n] = (s->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % (uint64_t)base];
    while ((u /= (uint64_t)base) > 0);
    const char *mark = !s->alt || base == 10 ? "" : base == 16 ? (s->type == 'X' ? "0X" : "0x") : base == 8 ? "0o" : "0b";
    snprintf(prefix, sizeof(prefix), "%s%s", sign_of(s, v < 0), mark);
    const char *p = digits + sizeof(digits) - n;
    if (s->group != 0)
        put_grouped(b, s, prefix, p, (size_t)n, base == 10 ? 3 : 4);
    else
        put_number(b, s, prefix, p, (size_t)n);
}

/* Digits of |v| in style e, f, g (or repr's, for type 0 without precision). */
static void float_digits(tbuf *b, const spec *s, double v)
{
    char text[1200], type = s->type == 0 || s->type == 'n' || s->type == '%' ? (s->type == '%' ? 'f' : 'g') : s->type;
    if (s->type == 0 && s->precision < 0) {
        tmpl_put_float(b, v);
        return;
    }
    int precision = s->precision < 0 ? 6 : s->precision > 500 ? 500 : (int)s->precision;
    char format[16];
    snprintf(format, sizeof(format), s->alt ? "%%#.*%c" : "%%.*%c", type);
    if (s->type == 0) { /* like g, but with at least one digit after the point */
        int p = precision == 0 ? 1 : precision;
        snprintf(text, sizeof(text), "%.*e", p - 1, v);
        int exponent = atoi(strchr(text, 'e') + 1);
        snprintf(text, sizeof(text), "%.*g", p, v);
        tbuf_puts(b, text);
        if (strpbrk(text, ".e") == NULL && exponent < p - 1)
            tbuf_puts(b, ".0");
        return;
    }
    snprintf(text, sizeof(text), format, precision, v);
    tbuf_puts(b, text);
}

static void format_float(tbuf *b, const spec *s, double v)
{
    tbuf digits = {.r = b->r};
    if (isnan(v) || isinf(v)) {
        bool upper = s->type == 'F' || s->type == 'E' || s->type == 'G';
        tbuf_puts(&digits, isnan(v) ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf");
    } else {
        float_digits(&digits, s, fabs(s->type == '%' ? v * 100 : v));
    }
    if (s->type == '%')
        tbuf_putc(&digits, '%');
    const char *prefix = sign_of(s, signbit(v) && !isnan(v));
    if (s->group != 0)
        put_grouped(b, s, prefix, digits.p, digits.len, 3);
    else
        put_number(b, s, prefix, digits.p, digits.len);
}

static void format_text(tbuf *b, const spec *s, tv text)
{
    if (s->precision >= 0 && s->precision < tv_chars(text.u.s))
        text = tv_sub(b->r, text, 0, tv_offset(text.u.s, s->precision));
    int64_t pad = s->width - tv_chars(text.u.s);
    char align = s->align != 0 ? s->align : '<';
    if (align == '>' || align == '^')
        put_fill(b, s->fill, align == '^' ? pad / 2 : pad);
    tbuf_put(b, text.u.s->p, text.u.s->len);
    if (align == '<' || align == '^')
        put_fill(b, s->fill, align == '^' ? pad - pad / 2 : pad);
}

static tv repr(tmpl_run *r, tv v, bool ascii)
{
    tbuf b = {.r = r};
    tmpl_put_repr(&b, v);
    tv text = tbuf_take(&b);
    if (!ascii)
        return text;
    tbuf a = {.r = r};
    for (const char *p = text.u.s->p, *end = p + text.u.s->len; p < end;) {
        uint32_t c = tmpl_cp_next(&p, end);
        char hex[16];
        if (c < 128) {
            tbuf_putc(&a, (char)c);
            continue;
        }
        snprintf(hex, sizeof(hex), c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
        tbuf_puts(&a, hex);
    }
    return tbuf_take(&a);
}

/* ---- % ---- */

typedef struct percent {
    tmpl_run *r;
    const char *p, *end;
    tv args;
    size_t next;
    bool markup;
} percent;

static tv next_arg(percent *f)
{
    if (f->args.type == TV_TUPLE) {
        if (f->next >= f->args.u.l->n)
            tmpl_fail(f->r, ST_INVALID, "not enough arguments for format string");
        return f->args.u.l->v[f->next++];
    }
    if (f->next++ > 0)
        tmpl_fail(f->r, ST_INVALID, "not enough arguments for format string");
    return f->args;
}

static int64_t percent_number(percent *f)
{
    if (f->p < f->end && *f->p == '*') {
        f->p++;
        return bounded(f->r, tv_to_int(f->r, next_arg(f), "* wants int"));
    }
    int64_t v = 0;
    for (; f->p < f->end && *f->p >= '0' && *f->p <= '9'; f->p++)
        v = bounded(f->r, v * 10 + (*f->p - '0'));
    return v;
}

static void percent_int(percent *f, tbuf *b, spec *s, tv v)
{
    if (v.type == TV_FLOAT && (s->type == 'd' || s->type == 'i' || s->type == 'u'))
        v = tmpl_float_to_int(f->r, v.u.f);
    if (v.type != TV_INT && v.type != TV_BOOL)
        tmpl_fail(f->r, ST_INVALID, "%%%c format: a real number is required, not %s", s->type, tv_type_name(v));
    int64_t i = tv_whole(v);
    char digits[8];
    spec bare = {.type = s->type, .precision = -1};
    tbuf d = {.r = f->r};
    format_int(&d, &bare, i < 0 ? (i == INT64_MIN ? INT64_MAX : -i) : i);
    const char *prefix = s->alt ? (s->type == 'x' ? "0x" : s->type == 'X' ? "0X" : s->type == 'o' ? "0o" : "") : "";
    snprintf(digits, sizeof(digits), "%s%s", sign_of(s, i < 0), prefix);
    tbuf padded = {.r = f->r};
    put_fill(&padded, '0', s->precision - (int64_t)d.len);
    tbuf_put(&padded, d.p, d.len);
    put_number(b, s, digits, padded.p, padded.len);
}

static void percent_char(percent *f, tbuf *b, spec *s, tv v)
{
    char bytes[4];
    if (v.type == TV_INT || v.type == TV_BOOL) {
        if (tv_whole(v) < 0 || tv_whole(v) > 0x10ffff)
            tmpl_fail(f->r, ST_INVALID, "%%c arg not in range(0x110000)");
        v = tv_copy_of(f->r, bytes, (size_t)tmpl_cp_encode((uint32_t)tv_whole(v), bytes));
    } else if (v.type != TV_STR || tv_chars(v.u.s) != 1) {
        tmpl_fail(f->r, ST_INVALID, "%%c requires int or char");
    }
    s->precision = -1;
    format_text(b, s, v);
}

static double need_float(percent *f, tv v)
{
    if (v.type == TV_UNDEFINED)
        tmpl_fail_undefined(f->r, v);
    if (!tv_is_number(v))
        tmpl_fail(f->r, ST_INVALID, "must be real number, not %s", tv_type_name(v));
    return v.type == TV_FLOAT ? v.u.f : (double)tv_whole(v);
}

/* One conversion, after its percent sign. */
static void percent_one(percent *f, tbuf *b)
{
    spec s = {.fill = ' ', .precision = -1};
    tv v = tv_missing();
    if (f->p < f->end && *f->p == '(') {
        const char *name = ++f->p;
        int open = 1;
        for (; f->p < f->end && open > 0; f->p++)
            open += *f->p == '(' ? 1 : *f->p == ')' ? -1 : 0;
        if (open > 0)
            tmpl_fail(f->r, ST_INVALID, "incomplete format key");
        if (f->args.type == TV_UNDEFINED)
            tmpl_fail_undefined(f->r, f->args);
        if (f->args.type != TV_DICT)
            tmpl_fail(f->r, ST_INVALID, "format requires a mapping");
        const tv *found = tv_dict_get(f->r, f->args.u.d, tv_view_of(f->r, name, (size_t)(f->p - 1 - name)));
        if (found == NULL)
            tmpl_fail(f->r, ST_INVALID, "no key '%.*s' for the format string", (int)(f->p - 1 - name), name);
        v = *found;
        f->next = 1;
    }
    for (; f->p < f->end && strchr("#0- +", *f->p) != NULL && *f->p != '\0'; f->p++) {
        s.alt = s.alt || *f->p == '#';
        s.zero = s.zero || *f->p == '0';
        s.align = *f->p == '-' ? '<' : s.align;
        s.sign = *f->p == '+' ? '+' : *f->p == ' ' && s.sign != '+' ? ' ' : s.sign;
    }
    s.width = percent_number(f);
    if (s.width < 0) {
        s.width = -s.width;
        s.align = '<';
    }
    if (f->p < f->end && *f->p == '.') {
        f->p++;
        s.precision = percent_number(f);
        s.precision = s.precision < 0 ? 0 : s.precision;
    }
    while (f->p < f->end && (*f->p == 'l' || *f->p == 'h' || *f->p == 'L'))
        f->p++;
    if (f->p >= f->end)
        tmpl_fail(f->r, ST_INVALID, "incomplete format");
    s.type = *f->p++;
    if (s.type == '%') {
        tbuf_putc(b, '%');
        return;
    }
    if (strchr("sradiuxXoeEfFgGc", s.type) == NULL || s.type == '\0')
        tmpl_fail(f->r, ST_INVALID, "unsupported format character '%c'", s.type);
    if (v.type == TV_MISSING)
        v = next_arg(f);
    bool number = strchr("diuxXoeEfFgG", s.type) != NULL;
    if (s.align == 0)
        s.align = '>';
    if (s.zero && number && s.align != '<') {
        s.fill = '0';
        s.align = '=';
    }
    if (f->markup && s.type == 's')
        v = tmpl_escape(f->r, v);
    if (s.type == 's')
        format_text(b, &s, tmpl_str(f->r, v));
    else if (s.type == 'r' || s.type == 'a')
        format_text(b, &s, f->markup ? tmpl_escape(f->r, repr(f->r, v, s.type == 'a')) : repr(f->r, v, s.type == 'a'));
    else if (s.type == 'c')
        percent_char(f, b, &s, v);
    else if (strchr("diuxXo", s.type) != NULL)
        percent_int(f, b, &s, v);
    else
        format_float(b, &s, need_float(f, v));
}

tv tmpl_percent(tmpl_run *r, tv format, tv args)
{
    percent f = {.r = r, .p = format.u.s->p, .end = format.u.s->p + format.u.s->len, .args = args, .markup = format.markup};
    tbuf b = {.r = r};
    while (f.p < f.end) {
        const char *plain = memchr(f.p, '%', (size_t)(f.end - f.p));
        if (plain == NULL)
            plain = f.end;
        tbuf_put(&b, f.p, (size_t)(plain - f.p));
        f.p = plain;
        if (f.p < f.end) {
            f.p++;
            percent_one(&f, &b);
        }
    }
    bool indexed = args.type == TV_DICT || args.type == TV_LIST || args.type == TV_RANGE || args.type == TV_UNDEFINED; /* Python takes them for mappings */
    bool left = args.type == TV_TUPLE ? f.next < args.u.l->n : f.next == 0 && !indexed;
    if (left)
        tmpl_fail(r, ST_INVALID, "not all arguments converted during string formatting");
    tv out = tbuf_take(&b);
    out.markup = format.markup;
    return out;
}

/* ---- format ---- */

typedef struct formatter {
    tmpl_run *r;
    const targs *a;
    int64_t auto_next;   /* -1 once explicit numbers were used */
    bool autonumbered, markup;
} formatter;

static void format_into(formatter *f, tbuf *b, const char *p, const char *end, int level);

/* [[fill]align][sign][z][#][0][width][grouping][.precision][type] */
static spec parse_spec(tmpl_run *r, const tstr *text, bool number)
{
    spec s = {.fill = ' ', .precision = -1};
    const char *p = text->p, *end = text->p + text->len, *q = p;
    uint32_t first = p < end ? tmpl_cp_next(&q, end) : 0;
    if (q < end && p < end && strchr("<>=^", *q) != NULL && *q != '\0') {
        s.fill = first;
        s.align = *q;
        p = q + 1;
    } else if (p < end && strchr("<>=^", *p) != NULL && *p != '\0') {
        s.align = *p++;
    }
    if (p < end && (*p == '+' || *p == '-' || *p == ' '))
        s.sign = *p++;
    if (p < end && *p == '#')
        s.alt = *p++ == '#';
    if (p < end && *p == '0') {
        p++;
        if (s.align == 0) {
            s.fill = '0';
            s.align = number ? '=' : '<';
        }
    }
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        s.width = bounded(r, s.width * 10 + (*p - '0'));
    if (p < end && (*p == ',' || *p == '_'))
        s.group = *p++;
    if (p < end && *p == '.') {
        s.precision = 0;
        if (++p >= end || *p < '0' || *p > '9')
            tmpl_fail(r, ST_INVALID, "format specifier missing precision");
        for (; p < end && *p >= '0' && *p <= '9'; p++)
            s.precision = bounded(r, s.precision * 10 + (*p - '0'));
    }
    if (p < end)
        s.type = *p++;
    if (p < end)
        tmpl_fail(r, ST_INVALID, "invalid format specifier");
    return s;
}

static void format_value(formatter *f, tbuf *b, tv v, const tstr *text)
{
    if (v.type == TV_BOOL && text->len > 0)
        v = tv_int(v.u.b);
    bool number = v.type == TV_INT || v.type == TV_FLOAT;
    if (!number && v.type != TV_STR) {
        if (text->len > 0 && v.type != TV_BOOL)
            tmpl_fail(f->r, ST_INVALID, "unsupported format string passed to %s.__format__", tv_type_name(v));
        tv plain = tmpl_str(f->r, v);
        tbuf_put(b, plain.u.s->p, plain.u.s->len);
        return;
    }
    spec s = parse_spec(f->r, text, number);
    const char *kinds = v.type == TV_STR ? "s" : v.type == TV_FLOAT ? "eEfFgGn%" : "bcdoxXneEfFgG%";
    if (s.type != 0 && strchr(kinds, s.type) == NULL)
        tmpl_fail(f->r, ST_INVALID, "unknown format code '%c' for object of type '%s'", s.type, tv_type_name(v));
    if (v.type == TV_STR) {
        if (s.align == '=' || s.sign != 0 || s.alt || s.group != 0)
            tmpl_fail(f->r, ST_INVALID, "a format option that strings do not have");
        format_text(b, &s, v);
    } else if (v.type == TV_FLOAT || (s.type != 0 && strchr("eEfFgG%", s.type) != NULL)) {
        format_float(b, &s, v.type == TV_FLOAT ? v.u.f : (double)v.u.i);
    } else if (s.precision >= 0) {
        tmpl_fail(f->r, ST_INVALID, "precision not allowed in integer format specifier");
    } else if (s.type == 'c') {
        char bytes[4];
        if (v.u.i < 0 || v.u.i > 0x10ffff)
            tmpl_fail(f->r, ST_INVALID, "%%c arg not in range(0x110000)");
        format_text(b, &s, tv_copy_of(f->r, bytes, (size_t)tmpl_cp_encode((uint32_t)v.u.i, bytes)));
    } else {
        format_int(b, &s, v.u.i);
    }
}

static tv first_value(formatter *f, const char *p, size_t n)
{
    int64_t index;
    bool digits = n > 0;
    for (size_t i = 0; i < n; i++)
        digits = digits && p[i] >= '0' && p[i] <= '9';
    if (n == 0 || digits) {
        if (n == 0 ? f->auto_next < 0 : f->autonumbered)
            tmpl_fail(f->r, ST_INVALID, "cannot mix automatic and manual field numbering");
        if (n == 0) {
            f->autonumbered = true;
            index = f->auto_next++;
        } else {
            f->auto_next = -1;
            if (!tmpl_parse_int(tv_view_of(f->r, p, n).u.s, 10, &index))
                index = INT64_MAX;
        }
        if (index >= f->a->n)
            tmpl_fail(f->r, ST_INVALID, "Replacement index %" PRId64 " out of range for positional args tuple", index);
        return f->a->pos[index];
    }
    for (int i = 0; i < f->a->n_kw; i++) {
        if (f->a->kw_name[i].u.s->len == n && memcmp(f->a->kw_name[i].u.s->p, p, n) == 0)
            return f->a->kw[i];
    }
    tmpl_fail(f->r, ST_INVALID, "no argument '%.*s' for the format string", (int)n, p);
}

/* name(.attribute | [index])* */
static tv field_value(formatter *f, const char *p, const char *end)
{
    const char *q = p;
    while (q < end && *q != '.' && *q != '[')
        q++;
    tv v = first_value(f, p, (size_t)(q - p));
    while (q < end) {
        bool item = *q++ == '[';
        p = q;
        while (q < end && (item ? *q != ']' : *q != '.' && *q != '['))
            q++;
        if ((item && q == end) || q == p)
            tmpl_fail(f->r, ST_INVALID, "empty attribute in format string");
        tv name = tv_view_of(f->r, p, (size_t)(q - p));
        int64_t index;
        if (!item)
            v = tmpl_getattr(f->r, v, name);
        else if (tmpl_parse_int(name.u.s, 10, &index) && index >= 0)
            v = tmpl_getitem(f->r, v, tv_int(index));
        else
            v = tmpl_getitem(f->r, v, name);
        if (item && ++q < end && *q != '.' && *q != '[')
            tmpl_fail(f->r, ST_INVALID, "only '.' or '[' may follow ']' in format field specifier");
    }
    return v;
}

/* p stands after the opening brace; returns after the closing one. */
static const char *format_field(formatter *f, tbuf *b, const char *p, const char *end, int level)
{
    const char *name = p;
    int open = 1;
    bool bracket = false;
    for (; p < end; p++) {
        bracket = *p == '[' ? true : *p == ']' ? false : bracket;
        if (!bracket && (*p == ':' || *p == '!' || *p == '}' || *p == '{'))
            break;
    }
    const char *name_end = p;
    char conversion = 0;
    if (p < end && *p == '{')
        tmpl_fail(f->r, ST_INVALID, "unexpected '{' in field name");
    if (p < end && *p == '!') {
        if (p + 2 >= end || (p[2] != ':' && p[2] != '}'))
            tmpl_fail(f->r, ST_INVALID, "expected ':' after conversion specifier");
        conversion = p[1];
        p += 2;
    }
    const char *text = p < end && *p == ':' ? ++p : p;
    for (; p < end && (open += *p == '{' ? 1 : *p == '}' ? -1 : 0) > 0;)
        p++;
    if (p >= end)
        tmpl_fail(f->r, ST_INVALID, "expected '}' before end of string");
    tv v = field_value(f, name, name_end);
    if (conversion == 'r' || conversion == 'a')
        v = repr(f->r, v, conversion == 'a');
    else if (conversion == 's')
        v = tmpl_str(f->r, v);
    else if (conversion != 0)
        tmpl_fail(f->r, ST_INVALID, "unknown conversion specifier '%c'", conversion);
    tbuf nested = {.r = f->r};
    format_into(f, &nested, text, p, level + 1);
    if (f->markup) {
        tbuf plain = {.r = f->r};
        format_value(f, &plain, v, tbuf_take(&nested).u.s);
        tv escaped = v.type == TV_STR && v.markup ? tbuf_take(&plain) : tmpl_escape(f->r, tbuf_take(&plain));
        tbuf_put(b, escaped.u.s->p, escaped.u.s->len);
    } else {
        format_value(f, b, v, tbuf_take(&nested).u.s);
    }
    return p + 1;
}

static void format_into(formatter *f, tbuf *b, const char *p, const char *end, int level)
{
    if (level > 2)
        tmpl_fail(f->r, ST_INVALID, "Max string recursion exceeded");
    while (p < end) {
        char c = *p++;
        tmpl_charge(f->r, 0);
        if (c != '{' && c != '}') {
            tbuf_putc(b, c);
        } else if (p < end && *p == c && level == 0) {
            tbuf_putc(b, c);
            p++;
        } else if (c == '}' || p >= end) {
            tmpl_fail(f->r, ST_INVALID, "single '%c' encountered in format string", c);
        } else {
            p = format_field(f, b, p, end, level);
        }
    }
}

tv tmpl_format(tmpl_run *r, tv format, const targs *a)
{
    formatter f = {.r = r, .a = a, .markup = format.markup};
    tbuf b = {.r = r};
    format_into(&f, &b, format.u.s->p, format.u.s->p + format.u.s->len, 0);
    tv out = tbuf_take(&b);
    out.markup = format.markup;
    return out;
}
