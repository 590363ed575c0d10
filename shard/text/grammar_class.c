/* shard/text/grammar_class.c - classes of characters, as regular expressions and GBNF write them. */
#include <string.h>
#include <utf8proc.h>

#include "shard/text/grammar_internal.h"
#include "shard/text/tokenizer_text.h"

status gram_scan_bad(const gram_scan *s, status st, const char *what)
{
    return FAIL(st, "%s: %s at offset %zu", s->what, what, s->pos);
}

status gram_scan_char(gram_scan *s, uint32_t *out)
{
    bool valid, open;
    if (s->pos >= s->len)
        return gram_scan_bad(s, ST_INVALID, "ends too early");
    tok_utf8_scan(s->text + s->pos, s->len - s->pos, &valid, &open);
    if (!valid)
        return gram_scan_bad(s, ST_INVALID, "is not UTF-8");
    *out = tok_utf8_next(s->text, &s->pos);
    return ST_OK;
}

/* ---- properties ---- */

static const struct { const char *name; const char *categories; } names[] = {
    {"Letter", "L"}, {"Lowercase_Letter", "Ll"}, {"Uppercase_Letter", "Lu"}, {"Titlecase_Letter", "Lt"}, {"Modifier_Letter", "Lm"}, {"Other_Letter", "Lo"},
    {"Mark", "M"}, {"Nonspacing_Mark", "Mn"}, {"Spacing_Mark", "Mc"}, {"Enclosing_Mark", "Me"}, {"Number", "N"}, {"Decimal_Number", "Nd"}, {"digit", "Nd"},
    {"Letter_Number", "Nl"}, {"Other_Number", "No"}, {"Punctuation", "P"}, {"punct", "P"}, {"Connector_Punctuation", "Pc"}, {"Dash_Punctuation", "Pd"},
    {"Open_Punctuation", "Ps"}, {"Close_Punctuation", "Pe"}, {"Initial_Punctuation", "Pi"}, {"Final_Punctuation", "Pf"}, {"Other_Punctuation", "Po"},
    {"Symbol", "S"}, {"Math_Symbol", "Sm"}, {"Currency_Symbol", "Sc"}, {"Modifier_Symbol", "Sk"}, {"Other_Symbol", "So"}, {"Separator", "Z"},
    {"Space_Separator", "Zs"}, {"Line_Separator", "Zl"}, {"Paragraph_Separator", "Zp"}, {"Other", "C"}, {"Control", "Cc"}, {"cntrl", "Cc"}, {"Format", "Cf"},
    {"Private_Use", "Co"}, {"Unassigned", "Cn"},
};

static bool in_categories(const char *category, const char *wanted)
{
    for (; *wanted != '\0'; wanted++) {
        if (*wanted == category[0] && (wanted[1] < 'a' || wanted[1] > 'z' || wanted[1] == category[1]))
            return true;
    }
    return false;
}

/* wanted: categories one after another, "LNdPc". */
static status add_categories(gram_ctx *c, const char *wanted, gram_set *set)
{
    uint32_t first = UINT32_MAX;
    TRY(gram_work(c, 0x110000 / 16));
    for (uint32_t u = 0; u <= 0x110000; u++) {
        bool in = u < 0x110000 && (u < 0xd800 || u > 0xdfff) && in_categories(utf8proc_category_string((utf8proc_int32_t)u), wanted);
        if (in && first == UINT32_MAX)
            first = u;
        if (!in && first != UINT32_MAX) {
            TRY(gram_set_add(c, set, first, u - 1));
            first = UINT32_MAX;
        }
    }
    return ST_OK;
}

status gram_property(gram_ctx *c, const char *name, size_t len, gram_set *set)
{
    char one[32] = "";
    if (len < sizeof(one))
        memcpy(one, name, len);
    if (strcmp(one, "Any") == 0)
        return gram_set_add(c, set, 0, 0x10ffff);
    if (strcmp(one, "ASCII") == 0)
        return gram_set_add(c, set, 0, 0x7f);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(one, names[i].name) == 0 || (len <= 2 && strcmp(one, names[i].categories) == 0))
            return add_categories(c, names[i].categories, set);
    }
    return FAIL(ST_UNSUPPORTED, "regex: \\p{%.*s} is not supported", (int)(len > 40 ? 40 : len), name);
}

status gram_letter_class(gram_ctx *c, char letter, bool wide, gram_set *set)
{
    switch (letter) {
    case 'd':
        return wide ? add_categories(c, "NdCn", set) : gram_set_add(c, set, '0', '9');
    case 'w':
        if (wide)
            return add_categories(c, "LNMPcCn", set);
        TRY(gram_set_add(c, set, '0', '9'));
        TRY(gram_set_add(c, set, 'A', 'Z'));
        TRY(gram_set_add(c, set, '_', '_'));
        return gram_set_add(c, set, 'a', 'z');
    default:
        if (wide) {
            TRY(gram_set_add(c, set, 0x1c, 0x1f));
            TRY(gram_set_add(c, set, 0x85, 0x85));
            TRY(gram_set_add(c, set, 0xfeff, 0xfeff));
            TRY(add_categories(c, "Z", set));
        }
        TRY(gram_set_add(c, set, '\t', '\r'));
        return gram_set_add(c, set, ' ', ' ');
    }
}

/* ---- escapes ---- */

static status hex(gram_scan *s, size_t digits, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < digits; i++, s->pos++) {
        char c = s->pos < s->len ? s->text[s->pos] : '\0';
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0)
            return gram_scan_bad(s, ST_INVALID, "needs a hexadecimal digit");
        *out = *out << 4 | (uint32_t)d;
    }
    return ST_OK;
}

/* \uXXXX, also as a pair of surrogates; \u{X...}. */
static status unicode_escape(gram_scan *s, uint32_t *out)
{
    if (s->pos < s->len && s->text[s->pos] == '{') {
        const char *close = memchr(s->text + s->pos, '}', s->len - s->pos);
        size_t digits = close == NULL ? 0 : (size_t)(close - s->text) - s->pos - 1;
        s->pos++;
        if (digits < 1 || digits > 6)
            return gram_scan_bad(s, ST_INVALID, "\\u{...} needs one to six digits");
        TRY(hex(s, digits, out));
        s->pos++;
        return ST_OK;
    }
    TRY(hex(s, 4, out));
    if (*out >= 0xd800 && *out <= 0xdbff && s->len - s->pos >= 6 && s->text[s->pos] == '\\' && s->text[s->pos + 1] == 'u') {
        uint32_t low;
        size_t before = s->pos;
        s->pos += 2;
        TRY(hex(s, 4, &low));
        if (low >= 0xdc00 && low <= 0xdfff)
            *out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
        else
            s->pos = before;
    }
    return ST_OK;
}

/* After a backslash: one character. */
status gram_scan_escape(gram_scan *s, uint32_t *out)
{
    static const char from[] = "nrtfvab0", to[] = "\n\r\t\f\v\a\b";
    uint32_t c;
    TRY(gram_scan_char(s, &c));
    const char *hit = c < 0x80 && c != 0 ? strchr(from, (int)c) : NULL;
    *out = c;
    if (hit != NULL)
        *out = (uint32_t)(unsigned char)to[hit - from];
    else if (c == 'x')
        return hex(s, 2, out);
    else if (c == 'u')
        TRY(unicode_escape(s, out));
    else if (c == 'U')
        TRY(hex(s, 8, out));
    else if (c == 'c' && s->pos < s->len)
        *out = (uint32_t)s->text[s->pos++] & 31;
    else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9'))
        return gram_scan_bad(s, c >= '1' && c <= '9' ? ST_UNSUPPORTED : ST_INVALID, c >= '1' && c <= '9' ? "a reference back to a group is not supported" : "unknown escape");
    return *out > 0x10ffff ? gram_scan_bad(s, ST_INVALID, "no such character") : ST_OK;
}

/* ---- [...] ---- */

status gram_scan_set_escape(gram_scan *s, bool inverted, gram_set *out, bool *found)
{
    char c = s->pos < s->len ? s->text[s->pos] : '\0';
    gram_set set = {0};
    *found = c != '\0' && strchr("dwsDWSpP", c) != NULL;
    if (!*found)
        return ST_OK;
    bool negated = c >= 'A' && c <= 'Z';
    s->pos++;
    if (c == 'p' || c == 'P') {
        const char *close = s->pos < s->len && s->text[s->pos] == '{' ? memchr(s->text + s->pos, '}', s->len - s->pos) : NULL;
        if (close == NULL)
            return gram_scan_bad(s, ST_INVALID, "\\p needs {name}");
        const char *name = s->text + s->pos + 1;
        s->pos = (size_t)(close - s->text) + 1;
        if (*name == '^') {
            negated = !negated;
            name++;
        }
        TRY(gram_property(s->ctx, name, (size_t)(close - name), &set));
    } else {
        TRY(gram_letter_class(s->ctx, (char)(c | 0x20), (negated != inverted) != s->wide, &set));
    }
    gram_set_finish(&set);
    if (negated)
        TRY(gram_set_invert(s->ctx, &set));
    return gram_set_add_all(s->ctx, out, &set);
}

static status class_member(gram_scan *s, bool inverted, gram_set *set, bool *single, uint32_t *c)
{
    bool found = false;
    *single = false;
    if (s->text[s->pos] == '[' && s->pos + 1 < s->len && strchr(":.=", s->text[s->pos + 1]) != NULL)
        return gram_scan_bad(s, ST_UNSUPPORTED, "a POSIX class is not supported");
    if (s->text[s->pos] == '\\') {
        s->pos++;
        TRY(gram_scan_set_escape(s, inverted, set, &found));
        if (!found)
            TRY(gram_scan_escape(s, c));
    } else {
        TRY(gram_scan_char(s, c));
    }
    *single = !found;
    return ST_OK;
}

status gram_scan_class(gram_scan *s, gram_set *out)
{
    gram_set set = {0};
    bool inverted = s->pos < s->len && s->text[s->pos] == '^';
    s->pos += inverted;
    while (s->pos < s->len && s->text[s->pos] != ']') {
        uint32_t first, last;
        bool single, single_end;
        TRY(class_member(s, inverted, &set, &single, &first));
        if (!single)
            continue;
        last = first;
        if (s->len - s->pos >= 2 && s->text[s->pos] == '-' && s->text[s->pos + 1] != ']') {
            size_t dash = s->pos++;
            TRY(class_member(s, inverted, &set, &single_end, &last));
            if (!single_end) { /* [a-\d]: the dash is one of the set */
                TRY(gram_set_add(s->ctx, &set, '-', '-'));
                last = first;
            } else if (last < first) {
                s->pos = dash;
                return gram_scan_bad(s, ST_INVALID, "a range runs backwards");
            }
        }
        TRY(gram_set_add(s->ctx, &set, first, last));
    }
    if (s->pos >= s->len)
        return gram_scan_bad(s, ST_INVALID, "a class is not closed");
    s->pos++;
    gram_set_finish(&set);
    if (inverted)
        TRY(gram_set_invert(s->ctx, &set));
    *out = set;
    return ST_OK;
}

/* ---- {m,n} ---- */

static bool number(gram_scan *s, uint32_t *out, bool *large)
{
    uint64_t v = 0;
    size_t from = s->pos;
    for (; s->pos < s->len && s->text[s->pos] >= '0' && s->text[s->pos] <= '9'; s->pos++) {
        v = v * 10 + (uint64_t)(s->text[s->pos] - '0');
        if (v >= 1000000000) {
            *large = true;
            v = 1000000000;
        }
    }
    *out = (uint32_t)v;
    return s->pos > from;
}

status gram_scan_counts(gram_scan *s, bool *found, uint32_t *min, uint32_t *max)
{
    size_t from = s->pos;
    bool large = false;
    *found = false;
    if (s->pos >= s->len || s->text[s->pos] != '{')
        return ST_OK;
    s->pos++;
    bool has_min = number(s, min, &large), has_max = has_min;
    *max = *min = has_min ? *min : 0;
    if (s->pos < s->len && s->text[s->pos] == ',') {
        s->pos++;
        has_max = number(s, max, &large);
        *max = has_max ? *max : GRAM_NO_LIMIT;
    }
    if (s->pos >= s->len || s->text[s->pos] != '}' || (!has_min && !has_max)) {
        s->pos = from;
        return ST_OK;
    }
    s->pos++;
    *found = true;
    if (large)
        return gram_scan_bad(s, ST_LIMIT, "a count is too large");
    return *max < *min ? gram_scan_bad(s, ST_INVALID, "counts run backwards") : ST_OK;
}
