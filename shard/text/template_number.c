/* shard/text/template_number.c - Python's arithmetic: floor division, mixed types, repetition; reading numbers from text. */
#include "shard/text/template_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const op_texts[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

_Noreturn static void fail_types(tmpl_run *r, int op, tv a, tv b)
{
    if (a.type == TV_UNDEFINED || b.type == TV_UNDEFINED)
        tmpl_fail_undefined(r, a.type == TV_UNDEFINED ? a : b);
    if (op == OP_ADD && a.type == TV_STR)
        tmpl_fail(r, ST_INVALID, "can only concatenate str (not \"%s\") to str", tv_type_name(b));
    tmpl_fail(r, ST_INVALID, "unsupported operand type(s) for %s: '%s' and '%s'", op_texts[op], tv_type_name(a), tv_type_name(b));
}

_Noreturn static void fail_overflow(tmpl_run *r)
{
    tmpl_fail(r, ST_LIMIT, "integers beyond 64 bits are not supported");
}

_Noreturn static void fail_zero(tmpl_run *r)
{
    tmpl_fail(r, ST_INVALID, "division by zero");
}

static double real_of(tv v)
{
    return v.type == TV_FLOAT ? v.u.f : (double)tv_whole(v);
}

static double float_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m != 0)
        return (b < 0) != (m < 0) ? m + b : m;
    return copysign(0.0, b);
}

static double float_floordiv(double a, double b)
{
    double div = (a - float_mod(a, b)) / b;
    if (div == 0)
        return copysign(0.0, a / b);
    double floored = floor(div);
    return div - floored > 0.5 ? floored + 1 : floored;
}

static tv int_pow(tmpl_run *r, int64_t base, int64_t exponent)
{
    if (exponent < 0) {
        if (base == 0)
            tmpl_fail(r, ST_INVALID, "0.0 cannot be raised to a negative power");
        return tv_float(pow((double)base, (double)exponent));
    }
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result))
            fail_overflow(r);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            fail_overflow(r);
    }
    return tv_int(result);
}

static tv int_op(tmpl_run *r, int op, int64_t a, int64_t b)
{
    int64_t v;
    bool bad = false;
    switch (op) {
    case OP_ADD:
        bad = __builtin_add_overflow(a, b, &v);
        break;
    case OP_SUB:
        bad = __builtin_sub_overflow(a, b, &v);
        break;
    case OP_MUL:
        bad = __builtin_mul_overflow(a, b, &v);
        break;
    case OP_DIV:
        if (b == 0)
            fail_zero(r);
        return tv_float((double)((long double)a / (long double)b));
    case OP_POW:
        return int_pow(r, a, b);
    default:
        if (b == 0)
            fail_zero(r);
        if (b == -1) { /* INT64_MIN / -1 traps */
            if (op == OP_MOD)
                return tv_int(0);
            bad = __builtin_sub_overflow((int64_t)0, a, &v);
            break;
        }
        v = a % b;
        if (v != 0 && (v < 0) != (b < 0))
            return tv_int(op == OP_MOD ? v + b : a / b - 1);
        return tv_int(op == OP_MOD ? v : a / b);
    }
    if (bad)
        fail_overflow(r);
    return tv_int(v);
}

static tv float_op(tmpl_run *r, int op, double a, double b)
{
    double v;
    if (b == 0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
        fail_zero(r);
    switch (op) {
    case OP_ADD:
        return tv_float(a + b);
    case OP_SUB:
        return tv_float(a - b);
    case OP_MUL:
        return tv_float(a * b);
    case OP_DIV:
        return tv_float(a / b);
    case OP_FLOORDIV:
        return tv_float(float_floordiv(a, b));
    case OP_MOD:
        return tv_float(float_mod(a, b));
    default:
        if (a == 0 && b < 0)
            tmpl_fail(r, ST_INVALID, "0.0 cannot be raised to a negative power");
        if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
            tmpl_fail(r, ST_UNSUPPORTED, "complex numbers are not supported");
        v = pow(a, b);
        if (isinf(v) && isfinite(a) && isfinite(b))
            tmpl_fail(r, ST_INVALID, "result too large");
        return tv_float(v);
    }
}

static tv repeat(tmpl_run *r, tv v, int64_t times)
{
    size_t n = v.type == TV_STR ? v.u.s->len : v.u.l->n, total;
    if (times <= 0 || n == 0)
        return v.type == TV_STR ? tv_text(r, "") : tv_list_of(r, v.type, 0);
    if (!mem_mul(n, (size_t)times, &total) || total > SIZE_MAX / 64)
        tmpl_fail(r, ST_LIMIT, "repeats too often");
    if (v.type == TV_STR) {
        char *p = tmpl_alloc(r, total);
        for (size_t i = 0; i < total; i += n)
            memcpy(p + i, v.u.s->p, n);
        tv out = tv_view_of(r, p, total);
        out.markup = v.markup;
        return out;
    }
    tv out = tv_list_of(r, v.type, total);
    for (size_t i = 0; i < total; i += n)
        memcpy(out.u.l->v + i, v.u.l->v, n * sizeof(tv));
    return out;
}

static tv join_seqs(tmpl_run *r, tv a, tv b)
{
    tv out = tv_list_of(r, a.type, 0);
    tlist *l = out.u.l;
    *l = *a.u.l; /* shares its items; pushing extends them in place when they are the newest */
    l->group = false;
    for (size_t i = 0; i < b.u.l->n; i++)
        tv_list_push(r, out, b.u.l->v[i]);
    return out;
}

static tv add_strings(tmpl_run *r, tv a, tv b)
{
    if (a.markup != b.markup) {
        if (a.markup)
            b = tmpl_escape(r, b);
        else
            a = tmpl_escape(r, a);
    }
    return tv_concat(r, a, b);
}

tv tmpl_binary(tmpl_run *r, int op, tv a, tv b)
{
    if (tv_is_number(a) && tv_is_number(b))
        return a.type == TV_FLOAT || b.type == TV_FLOAT ? float_op(r, op, real_of(a), real_of(b)) : int_op(r, op, tv_whole(a), tv_whole(b));
    if (op == OP_ADD && a.type == TV_STR && b.type == TV_STR)
        return add_strings(r, a, b);
    if (op == OP_ADD && tv_is_seq(a) && a.type == b.type)
        return join_seqs(r, a, b);
    if (op == OP_MOD && a.type == TV_STR)
        return tmpl_percent(r, a, b);
    if (op == OP_MUL) {
        bool left = a.type == TV_STR || tv_is_seq(a);
        tv seq = left ? a : b, times = left ? b : a;
        if ((seq.type == TV_STR || tv_is_seq(seq)) && (times.type == TV_INT || times.type == TV_BOOL))
            return repeat(r, seq, tv_whole(times));
    }
    if (op == OP_SUB && (a.type == TV_VIEW || b.type == TV_VIEW))
        tmpl_fail(r, ST_UNSUPPORTED, "sets are not supported");
    fail_types(r, op, a, b);
}

tv tmpl_negate(tmpl_run *r, tv v, bool minus)
{
    int64_t i;
    switch (v.type) {
    case TV_FLOAT:
        return tv_float(minus ? -v.u.f : v.u.f);
    case TV_INT:
    case TV_BOOL:
        if (!minus)
            return tv_int(tv_whole(v));
        if (__builtin_sub_overflow((int64_t)0, tv_whole(v), &i))
            fail_overflow(r);
        return tv_int(i);
    case TV_UNDEFINED:
        tmpl_fail_undefined(r, v);
    default:
        tmpl_fail(r, ST_INVALID, "bad operand type for unary %c: '%s'", minus ? '-' : '+', tv_type_name(v));
    }
}

/* ---- numbers in text ---- */

/* The text without blanks around it, in buf; single underscores between digits dropped.  false: too long or a stray underscore. */
static bool number_text(const tstr *s, char *buf, size_t cap)
{
    const char *p = s->p, *end = s->p + s->len;
    size_t n = 0;
    while (p < end) {
        const char *q = p;
        if (!tmpl_cp_space(tmpl_cp_next(&q, end)))
            break;
        p = q;
    }
    while (end > p) {
        const char *q = end;
        if (!tmpl_cp_space(tmpl_cp_prev(p, &q)))
            break;
        end = q;
    }
    for (; p < end; p++) {
        if (*p == '_') {
            bool before = n > 0 && buf[n - 1] != '_' && ((buf[n - 1] >= '0' && buf[n - 1] <= '9') || ((buf[n - 1] | 32) >= 'a' && (buf[n - 1] | 32) <= 'z'));
            bool after = p + 1 < end && ((p[1] >= '0' && p[1] <= '9') || ((p[1] | 32) >= 'a' && (p[1] | 32) <= 'z'));
            if (!before || !after)
                return false;
            continue;
        }
        if (n + 1 >= cap)
            return false;
        buf[n++] = *p;
    }
    buf[n] = '\0';
    return n > 0;
}

bool tmpl_parse_int(const tstr *s, int base, int64_t *out)
{
    char buf[128];
    if (!number_text(s, buf, sizeof(buf)))
        return false;
    const char *p = buf;
    bool minus = *p == '-';
    if (*p == '-' || *p == '+')
        p++;
    if (p[0] == '0' && p[1] != '\0') {
        char c = (char)(p[1] | 32);
        int prefix = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (prefix != 0 && (base == 0 || base == prefix)) {
            base = prefix;
            p += 2;
        }
    }
    if (base == 0)
        base = 10;
    if (*p == '\0')
        return false;
    int64_t v = 0;
    for (; *p != '\0'; p++) {
        char c = (char)(*p | 32);
        int d = *p >= '0' && *p <= '9' ? *p - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
        if (d >= base || __builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v))
            return false;
    }
    *out = minus ? -v : v;
    return true;
}

bool tmpl_parse_float(const tstr *s, double *out)
{
    char buf[512];
    if (!number_text(s, buf, sizeof(buf)))
        return false;
    const char *p = buf + (buf[0] == '-' || buf[0] == '+');
    if (*p != '.' && !(*p >= '0' && *p <= '9') && strcasecmp(p, "inf") != 0 && strcasecmp(p, "infinity") != 0 && strcasecmp(p, "nan") != 0)
        return false;
    if (strpbrk(p, "xXpP") != NULL)
        return false;
    char *end;
    *out = strtod(buf, &end);
    return *end == '\0';
}

tv tmpl_float_to_int(tmpl_run *r, double v)
{
    if (isinf(v))
        tmpl_fail(r, ST_INVALID, "cannot convert float infinity to integer");
    if (isnan(v))
        tmpl_fail(r, ST_INVALID, "cannot convert float NaN to integer");
    if (fabs(v) >= 0x1p63)
        fail_overflow(r);
    return tv_int((int64_t)v);
}

/* Round half to even of the exact binary value, as Python's round(). */
double tmpl_round(double v, int64_t digits)
{
    if (!isfinite(v) || digits > 323)
        return v;
    if (digits < -308)
        return copysign(0.0, v);
    if (digits >= 0) {
        char text[800];
        snprintf(text, sizeof(text), "%.*f", (int)digits, v);
        return strtod(text, NULL);
    }
    double scale = pow(10, (double)-digits), q = v / scale, rounded = nearbyint(q);
    return rounded * scale;
}
