/* shard/text/template_unicode.c - what Python's str knows of characters: classes, cases, lenient UTF-8.
 *
 * Classes and simple mappings come from utf8proc; the mappings to several characters (Unicode's SpecialCasing) are listed here. */
#include "shard/text/template_internal.h"

#include <utf8proc.h>

uint32_t tmpl_cp_next(const char **p, const char *end)
{
    const unsigned char *s = (const unsigned char *)*p;
    size_t left = (size_t)(end - *p);
    uint32_t c = s[0];
    int n = c < 0x80 ? 1 : c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf8 ? 4 : 1;
    if (n > 1) {
        c &= 0x7fu >> n;
        int i = 1;
        for (; i < n && (size_t)i < left && (s[i] & 0xc0) == 0x80; i++)
            c = c << 6 | (s[i] & 0x3fu);
        if (i < n) { /* broken: the bytes there are, as one character */
            c = 0xfffd;
            n = i;
        }
    }
    *p += n;
    return c;
}

uint32_t tmpl_cp_prev(const char *begin, const char **p)
{
    const char *end = *p, *q = end - 1;
    while (q > begin && end - q < 4 && ((unsigned char)*q & 0xc0) == 0x80)
        q--;
    *p = q;
    return tmpl_cp_next(&q, end);
}

int tmpl_cp_encode(uint32_t c, char out[4])
{
    return (int)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

bool tmpl_cp_space(uint32_t c)
{
    if (c < 0x80)
        return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

bool tmpl_cp_printable(uint32_t c)
{
    if (c < 0x80)
        return c >= 32 && c < 127;
    switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

bool tmpl_cp_alpha(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool tmpl_cp_decimal(uint32_t c)
{
    return c < 0x80 ? c >= '0' && c <= '9' : category(c) == UTF8PROC_CATEGORY_ND;
}

bool tmpl_cp_digit(uint32_t c) /* also superscripts, circled and other single digits */
{
    return tmpl_cp_decimal(c) || c == 0xb2 || c == 0xb3 || c == 0xb9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
           (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247c) || (c >= 0x2488 && c <= 0x2490) || c == 0x24ea ||
           (c >= 0x24f5 && c <= 0x24fd) || c == 0x24ff || (c >= 0x2776 && c <= 0x277e) || (c >= 0x2780 && c <= 0x2788) ||
           (c >= 0x278a && c <= 0x2792) || (c >= 0x1369 && c <= 0x1371) || c == 0x19da || (c >= 0x1f100 && c <= 0x1f10a) ||
           (c >= 0x10a40 && c <= 0x10a43) || (c >= 0x10e60 && c <= 0x10e68) || (c >= 0x11052 && c <= 0x1105a);
}

bool tmpl_cp_numeric(uint32_t c) /* also fractions and the common Han numerals */
{
    static const uint16_t han[] = {0x3007, 0x4e00, 0x4e03, 0x4e07, 0x4e09, 0x4e5d, 0x4e8c, 0x4e94, 0x4ebf, 0x5104,
                                   0x516b, 0x516d, 0x5341, 0x5343, 0x56db, 0x767e, 0x842c, 0x96f6};
    for (size_t i = 0; i < ARRAY_LEN(han); i++) {
        if (c == han[i])
            return true;
    }
    utf8proc_category_t k = category(c);
    return tmpl_cp_digit(c) || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool tmpl_cp_alnum(uint32_t c)
{
    return tmpl_cp_alpha(c) || tmpl_cp_numeric(c);
}

bool tmpl_cp_upper(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216f) || (c >= 0x24b6 && c <= 0x24cf) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

bool tmpl_cp_lower(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LL || c == 0xaa || c == 0xba || (c >= 0x2b0 && c <= 0x2b8) || c == 0x2c0 || c == 0x2c1 ||
           (c >= 0x2e0 && c <= 0x2e4) || c == 0x345 || c == 0x37a || (c >= 0x1d2c && c <= 0x1d6a) || c == 0x1d78 || (c >= 0x1d9b && c <= 0x1dbf) ||
           c == 0x2071 || c == 0x207f || (c >= 0x2090 && c <= 0x209c) || (c >= 0x2170 && c <= 0x217f) || (c >= 0x24d0 && c <= 0x24e9) ||
           c == 0x2c7c || c == 0x2c7d || c == 0xa69c || c == 0xa69d || c == 0xa770 || c == 0xa7f8 || c == 0xa7f9 || (c >= 0xab5c && c <= 0xab5f);
}

bool tmpl_cp_title(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LT;
}

bool tmpl_cp_word(uint32_t c)
{
    return c < 0x80 ? (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' : tmpl_cp_alnum(c);
}

bool tmpl_cp_id(uint32_t c, bool first)
{
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
    utf8proc_category_t k = category(c);
    if (tmpl_cp_alpha(c) || k == UTF8PROC_CATEGORY_NL)
        return true;
    return !first && (k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_PC || c == 0xb7);
}

/* Upper case and title case where they are more than one character. */
static const struct {
    uint16_t from, upper[3], title[3];
} special[] = {
    {0x00df, {0x53, 0x53, 0}, {0x53, 0x73, 0}}, {0x0149, {0x2bc, 0x4e, 0}, {0x2bc, 0x4e, 0}},
    {0x01f0, {0x4a, 0x30c, 0}, {0x4a, 0x30c, 0}}, {0x0390, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x03b0, {0x3a5, 0x308, 0x301}, {0x3a5, 0x308, 0x301}}, {0x0587, {0x535, 0x552, 0}, {0x535, 0x582, 0}},
    {0x1e96, {0x48, 0x331, 0}, {0x48, 0x331, 0}}, {0x1e97, {0x54, 0x308, 0}, {0x54, 0x308, 0}},
    {0x1e98, {0x57, 0x30a, 0}, {0x57, 0x30a, 0}}, {0x1e99, {0x59, 0x30a, 0}, {0x59, 0x30a, 0}},
    {0x1e9a, {0x41, 0x2be, 0}, {0x41, 0x2be, 0}}, {0x1f50, {0x3a5, 0x313, 0}, {0x3a5, 0x313, 0}},
    {0x1f52, {0x3a5, 0x313, 0x300}, {0x3a5, 0x313, 0x300}}, {0x1f54, {0x3a5, 0x313, 0x301}, {0x3a5, 0x313, 0x301}},
    {0x1f56, {0x3a5, 0x313, 0x342}, {0x3a5, 0x313, 0x342}}, {0x1f80, {0x1f08, 0x399, 0}, {0x1f88, 0, 0}},
    {0x1f81, {0x1f09, 0x399, 0}, {0x1f89, 0, 0}}, {0x1f82, {0x1f0a, 0x399, 0}, {0x1f8a, 0, 0}},
    {0x1f83, {0x1f0b, 0x399, 0}, {0x1f8b, 0, 0}}, {0x1f84, {0x1f0c, 0x399, 0}, {0x1f8c, 0, 0}},
    {0x1f85, {0x1f0d, 0x399, 0}, {0x1f8d, 0, 0}}, {0x1f86, {0x1f0e, 0x399, 0}, {0x1f8e, 0, 0}},
    {0x1f87, {0x1f0f, 0x399, 0}, {0x1f8f, 0, 0}}, {0x1f88, {0x1f08, 0x399, 0}, {0x1f88, 0, 0}},
    {0x1f89, {0x1f09, 0x399, 0}, {0x1f89, 0, 0}}, {0x1f8a, {0x1f0a, 0x399, 0}, {0x1f8a, 0, 0}},
    {0x1f8b, {0x1f0b, 0x399, 0}, {0x1f8b, 0, 0}}, {0x1f8c, {0x1f0c, 0x399, 0}, {0x1f8c, 0, 0}},
    {0x1f8d, {0x1f0d, 0x399, 0}, {0x1f8d, 0, 0}}, {0x1f8e, {0x1f0e, 0x399, 0}, {0x1f8e, 0, 0}},
    {0x1f8f, {0x1f0f, 0x399, 0}, {0x1f8f, 0, 0}}, {0x1f90, {0x1f28, 0x399, 0}, {0x1f98, 0, 0}},
    {0x1f91, {0x1f29, 0x399, 0}, {0x1f99, 0, 0}}, {0x1f92, {0x1f2a, 0x399, 0}, {0x1f9a, 0, 0}},
    {0x1f93, {0x1f2b, 0x399, 0}, {0x1f9b, 0, 0}}, {0x1f94, {0x1f2c, 0x399, 0}, {0x1f9c, 0, 0}},
    {0x1f95, {0x1f2d, 0x399, 0}, {0x1f9d, 0, 0}}, {0x1f96, {0x1f2e, 0x399, 0}, {0x1f9e, 0, 0}},
    {0x1f97, {0x1f2f, 0x399, 0}, {0x1f9f, 0, 0}}, {0x1f98, {0x1f28, 0x399, 0}, {0x1f98, 0, 0}},
    {0x1f99, {0x1f29, 0x399, 0}, {0x1f99, 0, 0}}, {0x1f9a, {0x1f2a, 0x399, 0}, {0x1f9a, 0, 0}},
    {0x1f9b, {0x1f2b, 0x399, 0}, {0x1f9b, 0, 0}}, {0x1f9c, {0x1f2c, 0x399, 0}, {0x1f9c, 0, 0}},
    {0x1f9d, {0x1f2d, 0x399, 0}, {0x1f9d, 0, 0}}, {0x1f9e, {0x1f2e, 0x399, 0}, {0x1f9e, 0, 0}},
    {0x1f9f, {0x1f2f, 0x399, 0}, {0x1f9f, 0, 0}}, {0x1fa0, {0x1f68, 0x399, 0}, {0x1fa8, 0, 0}},
    {0x1fa1, {0x1f69, 0x399, 0}, {0x1fa9, 0, 0}}, {0x1fa2, {0x1f6a, 0x399, 0}, {0x1faa, 0, 0}},
    {0x1fa3, {0x1f6b, 0x399, 0}, {0x1fab, 0, 0}}, {0x1fa4, {0x1f6c, 0x399, 0}, {0x1fac, 0, 0}},
    {0x1fa5, {0x1f6d, 0x399, 0}, {0x1fad, 0, 0}}, {0x1fa6, {0x1f6e, 0x399, 0}, {0x1fae, 0, 0}},
    {0x1fa7, {0x1f6f, 0x399, 0}, {0x1faf, 0, 0}}, {0x1fa8, {0x1f68, 0x399, 0}, {0x1fa8, 0, 0}},
    {0x1fa9, {0x1f69, 0x399, 0}, {0x1fa9, 0, 0}}, {0x1faa, {0x1f6a, 0x399, 0}, {0x1faa, 0, 0}},
    {0x1fab, {0x1f6b, 0x399, 0}, {0x1fab, 0, 0}}, {0x1fac, {0x1f6c, 0x399, 0}, {0x1fac, 0, 0}},
    {0x1fad, {0x1f6d, 0x399, 0}, {0x1fad, 0, 0}}, {0x1fae, {0x1f6e, 0x399, 0}, {0x1fae, 0, 0}},
    {0x1faf, {0x1f6f, 0x399, 0}, {0x1faf, 0, 0}}, {0x1fb2, {0x1fba, 0x399, 0}, {0x1fba, 0x345, 0}},
    {0x1fb3, {0x391, 0x399, 0}, {0x1fbc, 0, 0}}, {0x1fb4, {0x386, 0x399, 0}, {0x386, 0x345, 0}},
    {0x1fb6, {0x391, 0x342, 0}, {0x391, 0x342, 0}}, {0x1fb7, {0x391, 0x342, 0x399}, {0x391, 0x342, 0x345}},
    {0x1fbc, {0x391, 0x399, 0}, {0x1fbc, 0, 0}}, {0x1fc2, {0x1fca, 0x399, 0}, {0x1fca, 0x345, 0}},
    {0x1fc3, {0x397, 0x399, 0}, {0x1fcc, 0, 0}}, {0x1fc4, {0x389, 0x399, 0}, {0x389, 0x345, 0}},
    {0x1fc6, {0x397, 0x342, 0}, {0x397, 0x342, 0}}, {0x1fc7, {0x397, 0x342, 0x399}, {0x397, 0x342, 0x345}},
    {0x1fcc, {0x397, 0x399, 0}, {0x1fcc, 0, 0}}, {0x1fd2, {0x399, 0x308, 0x300}, {0x399, 0x308, 0x300}},
    {0x1fd3, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}}, {0x1fd6, {0x399, 0x342, 0}, {0x399, 0x342, 0}},
    {0x1fd7, {0x399, 0x308, 0x342}, {0x399, 0x308, 0x342}}, {0x1fe2, {0x3a5, 0x308, 0x300}, {0x3a5, 0x308, 0x300}},
    {0x1fe3, {0x3a5, 0x308, 0x301}, {0x3a5, 0x308, 0x301}}, {0x1fe4, {0x3a1, 0x313, 0}, {0x3a1, 0x313, 0}},
    {0x1fe6, {0x3a5, 0x342, 0}, {0x3a5, 0x342, 0}}, {0x1fe7, {0x3a5, 0x308, 0x342}, {0x3a5, 0x308, 0x342}},
    {0x1ff2, {0x1ffa, 0x399, 0}, {0x1ffa, 0x345, 0}}, {0x1ff3, {0x3a9, 0x399, 0}, {0x1ffc, 0, 0}},
    {0x1ff4, {0x38f, 0x399, 0}, {0x38f, 0x345, 0}}, {0x1ff6, {0x3a9, 0x342, 0}, {0x3a9, 0x342, 0}},
    {0x1ff7, {0x3a9, 0x342, 0x399}, {0x3a9, 0x342, 0x345}}, {0x1ffc, {0x3a9, 0x399, 0}, {0x1ffc, 0, 0}},
    {0xfb00, {0x46, 0x46, 0}, {0x46, 0x66, 0}}, {0xfb01, {0x46, 0x49, 0}, {0x46, 0x69, 0}},
    {0xfb02, {0x46, 0x4c, 0}, {0x46, 0x6c, 0}}, {0xfb03, {0x46, 0x46, 0x49}, {0x46, 0x66, 0x69}},
    {0xfb04, {0x46, 0x46, 0x4c}, {0x46, 0x66, 0x6c}}, {0xfb05, {0x53, 0x54, 0}, {0x53, 0x74, 0}},
    {0xfb06, {0x53, 0x54, 0}, {0x53, 0x74, 0}}, {0xfb13, {0x544, 0x546, 0}, {0x544, 0x576, 0}},
    {0xfb14, {0x544, 0x535, 0}, {0x544, 0x565, 0}}, {0xfb15, {0x544, 0x53b, 0}, {0x544, 0x56b, 0}},
    {0xfb16, {0x54e, 0x546, 0}, {0x54e, 0x576, 0}}, {0xfb17, {0x544, 0x53d, 0}, {0x544, 0x56d, 0}},
};

static void put_all(tbuf *b, const uint16_t *cps)
{
    for (int i = 0; i < 3 && cps[i] != 0; i++)
        tbuf_put_cp(b, cps[i]);
}

static void put_folded(tbuf *b, uint32_t c)
{
    utf8proc_int32_t out[8];
    int bound = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, out, 8, UTF8PROC_CASEFOLD, &bound);
    if (n <= 0 || n > 8)
        tbuf_put_cp(b, c);
    for (utf8proc_ssize_t i = 0; i < n && n <= 8; i++)
        tbuf_put_cp(b, (uint32_t)out[i]);
}

void tmpl_put_cased(tbuf *b, uint32_t c, int kind)
{
    if (c < 0x80) {
        bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
        tbuf_putc(b, (char)(kind == CASE_LOWER || kind == CASE_FOLD ? (upper ? c + 32 : c) : lower ? c - 32 : c));
        return;
    }
    if (kind == CASE_FOLD) {
        put_folded(b, c);
        return;
    }
    if (kind == CASE_LOWER) {
        if (c == 0x130)
            tbuf_puts(b, "i\xcc\x87");
        else
            tbuf_put_cp(b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
        return;
    }
    for (size_t i = 0; c < 0x10000 && i < ARRAY_LEN(special); i++) {
        if (special[i].from == c) {
            put_all(b, kind == CASE_UPPER ? special[i].upper : special[i].title);
            return;
        }
    }
    tbuf_put_cp(b, (uint32_t)(kind == CASE_UPPER ? utf8proc_toupper((utf8proc_int32_t)c) : utf8proc_totitle((utf8proc_int32_t)c)));
}

/* Neither starts nor ends a word: skipped when looking for the letters around a sigma. */
static bool case_ignorable(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM ||
           k == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xb7 || c == 0x2018 || c == 0x2019;
}

static bool cased(uint32_t c)
{
    return tmpl_cp_upper(c) || tmpl_cp_lower(c) || tmpl_cp_title(c);
}

/* A capital sigma ends a word when a letter stands before it and none after. */
static bool final_sigma(const char *begin, const char *at, const char *after, const char *end)
{
    bool before = false;
    for (const char *p = at; p > begin && at - p < 256;) {
        uint32_t c = tmpl_cp_prev(begin, &p);
        if (!case_ignorable(c)) {
            before = cased(c);
            break;
        }
    }
    for (const char *p = after; before && p < end && p - after < 256;) {
        uint32_t c = tmpl_cp_next(&p, end);
        if (!case_ignorable(c))
            return !cased(c);
    }
    return before;
}

void tmpl_put_lower_at(tbuf *b, const char *text, const char *at, const char *end)
{
    const char *p = at;
    uint32_t c = tmpl_cp_next(&p, end);
    if (c == 0x3a3)
        tbuf_put_cp(b, final_sigma(text, at, p, end) ? 0x3c2 : 0x3c3);
    else
        tmpl_put_cased(b, c, CASE_LOWER);
}

void tmpl_put_lower(tbuf *b, const char *text, size_t n)
{
    const char *end = text + n;
    for (const char *p = text, *at; p < end;) {
        at = p;
        tmpl_cp_next(&p, end);
        tmpl_put_lower_at(b, text, at, end);
    }
}
