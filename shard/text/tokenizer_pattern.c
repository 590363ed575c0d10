/* shard/text/tokenizer_pattern.c - Oniguruma (Ruby syntax) patterns rewritten for PCRE2.
 *
 * A recursive descent over the pattern that writes the PCRE2 form as it goes.  A character class that PCRE2 classes
 * cannot say (nested, intersected, or holding \S, \W, \H) becomes a group of alternatives that each match one
 * character, which is the same set. */
#include "shard/text/tokenizer_regex.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "shard/text/tokenizer_text.h"
#include "shard/text/tokenizer_unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { MAX_DEPTH = 60 };

typedef struct parser {
    const char *where, *text;
    size_t len, pos;
    int depth;
    bool captures; /* the pattern refers back to its groups */
    bool newer;    /* properties name the characters that PCRE2's version of Unicode lacks */
} parser;

static status bad(const parser *p, status st, const char *what)
{
    return FAIL(st, "%s: pattern \"%.*s\": %s at offset %zu", p->where, (int)(p->len > 120 ? 120 : p->len), p->text, what, p->pos);
}

static bool more(const parser *p)
{
    return p->pos < p->len;
}
static char peek(const parser *p, size_t ahead)
{
    return p->pos + ahead < p->len ? p->text[p->pos + ahead] : '\0';
}
static bool starts(const parser *p, const char *s)
{
    size_t n = strlen(s);
    return p->len - p->pos >= n && memcmp(p->text + p->pos, s, n) == 0;
}

static void put_char(mem_str *out, uint32_t c)
{
    if (c < 0x80 && isalnum((int)c))
        mem_str_putc(out, (char)c);
    else
        mem_str_printf(out, "\\x{%x}", c);
}

#define CLASS_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside brackets the reference's \w takes these too. */
#define LONE_WORD_MORE "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define CLASS_SPACE "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Names whose meaning or spelling differs between the two; the right side is the inside of a class. */
static const struct { const char *name, *inside; } properties[] = {
    {"alpha", "\\p{Alphabetic}"}, {"alphabetic", "\\p{Alphabetic}"}, {"upper", "\\p{Uppercase}"}, {"uppercase", "\\p{Uppercase}"},
    {"lower", "\\p{Lowercase}"}, {"lowercase", "\\p{Lowercase}"}, {"digit", "\\p{Nd}"}, {"space", CLASS_SPACE},
    {"whitespace", CLASS_SPACE}, {"alnum", "\\p{Alphabetic}\\p{Nd}"}, {"word", CLASS_WORD}, {"punct", "\\p{P}"},
    {"cntrl", "\\p{Cc}"}, {"xdigit", "0-9a-fA-F"}, {"blank", "\\p{Zs}\\x{9}"}, {"ascii", "\\x{0}-\\x{7f}"}, {"any", "\\x{0}-\\x{10ffff}"},
    {"assigned", "\\P{Cn}"},
    {"letter", "\\p{L}"}, {"casedletter", "\\p{L&}"}, {"lc", "\\p{L&}"}, {"uppercaseletter", "\\p{Lu}"}, {"lowercaseletter", "\\p{Ll}"},
    {"titlecaseletter", "\\p{Lt}"}, {"modifierletter", "\\p{Lm}"}, {"otherletter", "\\p{Lo}"}, {"mark", "\\p{M}"},
    {"combiningmark", "\\p{M}"}, {"nonspacingmark", "\\p{Mn}"}, {"spacingmark", "\\p{Mc}"}, {"enclosingmark", "\\p{Me}"},
    {"number", "\\p{N}"}, {"decimalnumber", "\\p{Nd}"}, {"letternumber", "\\p{Nl}"}, {"othernumber", "\\p{No}"},
    {"punctuation", "\\p{P}"}, {"connectorpunctuation", "\\p{Pc}"}, {"dashpunctuation", "\\p{Pd}"}, {"openpunctuation", "\\p{Ps}"},
    {"closepunctuation", "\\p{Pe}"}, {"initialpunctuation", "\\p{Pi}"}, {"finalpunctuation", "\\p{Pf}"}, {"otherpunctuation", "\\p{Po}"},
    {"symbol", "\\p{S}"}, {"mathsymbol", "\\p{Sm}"}, {"currencysymbol", "\\p{Sc}"}, {"modifiersymbol", "\\p{Sk}"},
    {"othersymbol", "\\p{So}"}, {"separator", "\\p{Z}"}, {"spaceseparator", "\\p{Zs}"}, {"lineseparator", "\\p{Zl}"},
    {"paragraphseparator", "\\p{Zp}"}, {"other", "\\p{C}"}, {"control", "\\p{Cc}"}, {"format", "\\p{Cf}"}, {"privateuse", "\\p{Co}"},
    {"surrogate", "\\p{Cs}"}, {"unassigned", "\\p{Cn}"},
};
/* Two-part POSIX sets: what lies in the first and not in the second. */
#define CLASS_GRAPH_NOT CLASS_SPACE "\\p{Cc}\\p{Cn}\\p{Cs}"
#define CLASS_PRINT_NOT "\\x{2028}\\x{2029}\\p{Cc}\\p{Cn}\\p{Cs}"

static bool compiles(const char *pattern)
{
    int error;
    PCRE2_SIZE at;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &at, NULL);
    pcre2_code_free(code);
    return code != NULL;
}

/* A set of characters as the inside of a PCRE2 class. */
typedef struct char_set {
    mem_str inside;
    bool not;        /* `inside` lists what the set leaves out */
    bool unassigned; /* `inside` holds all unassigned characters: minus the newer ones */
} char_set;

static bool in_category(const char *name, size_t len, const char *category)
{
    if (len == 2 && memcmp(name, "L&", 2) == 0)
        return category[0] == 'L' && strchr("ult", category[1]) != NULL;
    return len <= 2 && memcmp(name, category, len) == 0;
}

static void add_ranges(const tok_ranges *r, mem_str *inside)
{
    for (size_t i = 0; i < r->n; i++)
        mem_str_printf(inside, "\\x{%x}-\\x{%x}", r->at[i].first, r->at[i].last);
}

/* name: "L", "Lu", "L&" ...; NULL: all. */
static void add_newer(const char *name, size_t len, mem_str *inside)
{
    for (size_t i = 0; i < tok_newer_characters.n; i++) {
        const tok_newer *c = &tok_newer_characters.at[i];
        if (name == NULL || in_category(name, len, c->category))
            mem_str_printf(inside, "\\x{%x}-\\x{%x}", c->first, c->last);
    }
}

/* Appends to a set the newer characters of the properties that it names: categories, Alphabetic, Uppercase, Lowercase and Han, which are
 * all that split patterns use; other properties keep to PCRE2's Unicode. */
static void complete(const parser *p, char_set *s)
{
    static const char han[] = "sc:han";
    size_t end = s->inside.len;
    for (size_t at = 0; p->newer && at + 4 < end && !s->inside.failed; at++) {
        if (memcmp(s->inside.data + at, "\\p{", 3) != 0 && memcmp(s->inside.data + at, "\\P{", 3) != 0)
            continue;
        char name[40] = "";
        size_t len = strcspn(s->inside.data + at + 3, "}");
        snprintf(name, sizeof(name), "%.*s", (int)len, s->inside.data + at + 3);
        if (s->inside.data[at + 1] == 'P')
            add_newer(NULL, 0, &s->inside); /* \P{Cn} */
        else if (strcasecmp(name, "Alphabetic") == 0)
            add_ranges(&tok_ranges_alphabetic, &s->inside);
        else if (strcasecmp(name, "Uppercase") == 0)
            add_ranges(&tok_ranges_uppercase, &s->inside);
        else if (strcasecmp(name, "Lowercase") == 0)
            add_ranges(&tok_ranges_lowercase, &s->inside);
        else if (strcasecmp(name, han) == 0)
            mem_str_puts(&s->inside, "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}");
        else if (len <= 2)
            add_newer(name, len, &s->inside);
        s->unassigned = s->unassigned || (s->inside.data[at + 1] == 'p' && (strcmp(name, "Cn") == 0 || strcmp(name, "C") == 0));
    }
}

/* A property by name. */
static status property(const parser *p, const char *name, size_t len, char_set *s)
{
    char key[40];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        if (c == '_' || c == ' ' || c == '-')
            continue;
        if (n + 1 == sizeof(key) || !isalnum((unsigned char)c))
            return bad(p, ST_UNSUPPORTED, "unknown character property");
        key[n++] = (char)tolower((unsigned char)c);
    }
    key[n] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(properties); i++) {
        if (strcmp(key, properties[i].name) == 0) {
            mem_str_puts(&s->inside, properties[i].inside);
            complete(p, s);
            return ST_OK;
        }
    }
    if (strcmp(key, "graph") == 0 || strcmp(key, "print") == 0) {
        s->not = true;
        mem_str_puts(&s->inside, key[0] == 'g' ? CLASS_GRAPH_NOT : CLASS_PRINT_NOT);
        complete(p, s);
        return ST_OK;
    }
    /* General categories; else scripts (not their extensions, which PCRE2 takes by default); else binary properties. */
    if (n <= 2 && n > 0)
        key[0] = (char)toupper((unsigned char)key[0]);
    static const char *const forms[] = {"\\p{sc:%s}", "\\p{%s}"};
    for (size_t i = n <= 2 ? 1 : 0; i < ARRAY_LEN(forms); i++) {
        char text[64];
        snprintf(text, sizeof(text), forms[i], key);
        if (compiles(text)) {
            mem_str_puts(&s->inside, text);
            complete(p, s);
            return ST_OK;
        }
    }
    return bad(p, ST_UNSUPPORTED, "unknown character property");
}

/* One member of a class being read: plain text for inside PCRE2's brackets, or else alternatives. */
typedef struct class_set {
    mem_str inside; /* what fits into one PCRE2 class */
    mem_str others; /* "|x|y": each matches one character */
} class_set;

static void class_set_free(class_set *s)
{
    mem_str_free(&s->inside);
    mem_str_free(&s->others);
}

static void class_add(class_set *s, const char_set *set)
{
    mem_str newer = {0};
    if (set->unassigned)
        add_newer(NULL, 0, &newer);
    if (set->inside.failed || newer.failed)
        s->inside.failed = true;
    else if (set->unassigned && set->not)
        mem_str_printf(&s->others, "|[^%s]|[%s]", set->inside.data, newer.data);
    else if (set->unassigned)
        mem_str_printf(&s->others, "|(?![%s])[%s]", newer.data, set->inside.data);
    else if (set->not)
        mem_str_printf(&s->others, "|[^%s]", set->inside.data);
    else
        mem_str_append(&s->inside, set->inside.data, set->inside.len);
    mem_str_free(&newer);
}

static void class_write(const class_set *s, mem_str *out)
{
    if (s->inside.len == 0 && s->others.len == 0)
        mem_str_puts(out, "(?!)");
    else if (s->others.len == 0)
        mem_str_printf(out, "[%s]", s->inside.data);
    else if (s->inside.len == 0)
        mem_str_printf(out, "(?:%s)", s->others.data + 1);
    else
        mem_str_printf(out, "(?:[%s]%s)", s->inside.data, s->others.data);
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static uint32_t read_digits(parser *p, int max, int base)
{
    uint32_t v = 0;
    for (int i = 0; i < max && more(p); i++, p->pos++) {
        int d = hex_value(p->text[p->pos]);
        if (d < 0 || d >= base || v > 0x1fffff)
            break;
        v = v * (uint32_t)base + (uint32_t)d;
    }
    return v;
}

/* After a backslash: an escape that stands for one character.  *is_char false: it is none (position unmoved). */
static status char_escape(parser *p, bool in_class, uint32_t *c, bool *is_char)
{
    static const struct { char letter; uint8_t c; } simple[] = {{'t', 9}, {'n', 10}, {'v', 11}, {'f', 12}, {'r', 13}, {'a', 7}, {'e', 27}};
    char e = peek(p, 0);
    *is_char = true;
    for (size_t i = 0; i < ARRAY_LEN(simple); i++) {
        if (e == simple[i].letter) {
            p->pos++;
            *c = simple[i].c;
            return ST_OK;
        }
    }
    if (e == 'b' && in_class) {
        p->pos++;
        *c = 8;
    } else if (e == 'x' && peek(p, 1) == '{') {
        p->pos += 2;
        *c = read_digits(p, 8, 16);
        if (peek(p, 0) != '}')
            return bad(p, ST_FORMAT, "\\x{...} is not closed");
        p->pos++;
    } else if (e == 'x' || e == 'u') {
        p->pos++;
        size_t from = p->pos;
        *c = read_digits(p, e == 'x' ? 2 : 4, 16);
        if (p->pos == from || (e == 'u' && p->pos - from < 4))
            return bad(p, ST_FORMAT, "a code point lacks digits");
    } else if (e == '0' || (in_class && e >= '1' && e <= '7')) {
        *c = read_digits(p, 3, 8);
    } else if (memchr("dDsSwWhHpPRXKNOAzZGbByYkgcCM123456789", e, 37) != NULL && e != '\0') {
        *is_char = false;
        return ST_OK;
    } else {
        *c = tok_utf8_next(p->text, &p->pos); /* any other character stands for itself */
    }
    if (*c > 0x10ffff || (*c >= 0xd800 && *c <= 0xdfff))
        return bad(p, ST_FORMAT, "no such character");
    return ST_OK;
}

/* After a backslash: \d \S \p{..} ... as a set.  *is_set false: it is none (position unmoved). */
static status set_escape(parser *p, char_set *s, bool *is_set)
{
    char e = peek(p, 0);
    *is_set = true;
    s->not = e >= 'A' && e <= 'Z';
    switch (e | 0x20) {
    case 'd':
        mem_str_puts(&s->inside, "\\p{Nd}");
        break;
    case 's':
        mem_str_puts(&s->inside, CLASS_SPACE);
        break;
    case 'w':
        mem_str_puts(&s->inside, CLASS_WORD);
        break;
    case 'h':
        mem_str_puts(&s->inside, "0-9a-fA-F");
        break;
    case 'p': {
        if (peek(p, 1) != '{')
            return bad(p, ST_FORMAT, "\\p needs {name}");
        const char *name = p->text + p->pos + 2, *close = memchr(name, '}', p->len - p->pos - 2);
        if (close == NULL)
            return bad(p, ST_FORMAT, "\\p{ is not closed");
        size_t len = (size_t)(close - name);
        bool caret = len > 0 && name[0] == '^', outer = s->not != caret;
        s->not = false;
        TRY(property(p, name + caret, len - caret, s));
        s->not = outer != s->not;
        p->pos += 3 + len;
        return ST_OK;
    }
    default:
        *is_set = s->not = false;
        return ST_OK;
    }
    complete(p, s);
    p->pos++;
    return ST_OK;
}

static status parse_class(parser *p, mem_str *out);

static status class_posix(parser *p, class_set *s, bool *taken)
{
    const char *from = p->text + p->pos + 2, *close = NULL;
    for (const char *q = from; q + 1 < p->text + p->len && q < from + 20; q++) {
        if (q[0] == ':' && q[1] == ']') {
            close = q;
            break;
        }
        if (*q != '^' && !isalpha((unsigned char)*q))
            break;
    }
    *taken = close != NULL;
    if (close == NULL)
        return ST_OK; /* "[:" that is no such name is an ordinary nested class */
    bool caret = *from == '^';
    size_t len = (size_t)(close - from) - caret;
    char_set set = {0};
    /* Between brackets "punct" has the symbols too. */
    bool punct = len == 5 && memcmp(from + caret, "punct", 5) == 0;
    status st = property(p, from + caret, len, &set);
    if (st == ST_OK && punct) {
        mem_str_puts(&set.inside, "\\p{S}");
        complete(p, &set);
    }
    set.not = set.not != caret;
    if (st == ST_OK)
        class_add(s, &set);
    mem_str_free(&set.inside);
    p->pos = (size_t)(close + 2 - p->text);
    return st;
}

/* One item of a class: a nested class, a set, a character or a range. */
static status class_item(parser *p, class_set *s)
{
    if (peek(p, 0) == '[') {
        bool posix = false;
        if (peek(p, 1) == ':')
            TRY(class_posix(p, s, &posix));
        if (posix)
            return ST_OK;
        p->pos++;
        mem_str_putc(&s->others, '|');
        return parse_class(p, &s->others);
    }
    uint32_t first, last;
    bool is_char = true, is_set;
    if (peek(p, 0) == '\\') {
        p->pos++;
        char_set set = {0};
        status st = set_escape(p, &set, &is_set);
        if (st == ST_OK && is_set)
            class_add(s, &set);
        mem_str_free(&set.inside);
        if (st != ST_OK || is_set)
            return st;
        TRY(char_escape(p, true, &first, &is_char));
        if (!is_char)
            first = tok_utf8_next(p->text, &p->pos);
    } else {
        first = tok_utf8_next(p->text, &p->pos);
    }
    last = first;
    if (peek(p, 0) == '-' && p->pos + 1 < p->len && peek(p, 1) != ']') {
        size_t dash = p->pos++;
        if (peek(p, 0) == '[' || (peek(p, 0) == '\\' && memchr("dDsSwWhHpP", peek(p, 1), 10) != NULL)) {
            p->pos = dash; /* "a-\d": the dash is a character */
        } else if (peek(p, 0) == '\\') {
            p->pos++;
            TRY(char_escape(p, true, &last, &is_char));
            if (!is_char)
                last = tok_utf8_next(p->text, &p->pos);
        } else {
            last = tok_utf8_next(p->text, &p->pos);
        }
    }
    if (last < first)
        return bad(p, ST_FORMAT, "a range runs backwards");
    put_char(&s->inside, first);
    if (last != first) {
        mem_str_putc(&s->inside, '-');
        put_char(&s->inside, last);
    }
    return ST_OK;
}

/* After "[": writes something that matches one character of the class. */
static status parse_class(parser *p, mem_str *out)
{
    if (++p->depth > MAX_DEPTH)
        return bad(p, ST_LIMIT, "nested too deeply");
    bool not = peek(p, 0) == '^', first = true;
    if (not)
        p->pos++;
    class_set s = {0};
    mem_str both = {0}; /* the operands of && so far, as lookaheads */
    status st = ST_OK;
    for (;; first = false) {
        if (!more(p)) {
            st = bad(p, ST_FORMAT, "a class is not closed");
            break;
        }
        if (peek(p, 0) == ']' && !(first && memchr(p->text + p->pos + 1, ']', p->len - p->pos - 1) != NULL)) {
            p->pos++;
            break;
        }
        if (starts(p, "&&")) {
            p->pos += 2;
            mem_str_puts(&both, "(?=");
            class_write(&s, &both);
            mem_str_putc(&both, ')');
            mem_str_clear(&s.inside);
            mem_str_clear(&s.others);
            continue;
        }
        TRY_GOTO(class_item(p, &s), done);
    }
    if (st == ST_OK && not && both.len == 0 && s.others.len == 0 && s.inside.len > 0) {
        mem_str_printf(out, "[^%s]", s.inside.data);
    } else if (st == ST_OK) {
        mem_str_puts(out, not ? "(?:(?!" : "(?:");
        mem_str_append(out, both.data, both.len);
        class_write(&s, out);
        mem_str_puts(out, not ? ")(?s:.))" : ")");
    }
done:
    p->depth--;
    if (s.inside.failed || s.others.failed || both.failed)
        out->failed = true;
    class_set_free(&s);
    mem_str_free(&both);
    return st;
}

static status parse_alternatives(parser *p, mem_str *out);

/* Ruby's bare (?i) holds for the rest of the enclosing group, alternatives included; Perl's stops at the next bar. */
static status parse_options(parser *p, mem_str *out, bool *rest_of_group)
{
    bool off = false, bare = false;
    mem_str_puts(out, "(?");
    for (;; p->pos++) {
        char c = peek(p, 0);
        if (c == '-' && !off) {
            off = true;
            mem_str_putc(out, '-');
        } else if (c == 'i') {
            mem_str_putc(out, 'i');
        } else if (c == 'm') {
            mem_str_putc(out, 's'); /* Ruby's m: the dot matches newlines */
        } else if (c == ':' || c == ')') {
            bare = c == ')';
            p->pos++;
            break;
        } else {
            return bad(p, ST_UNSUPPORTED, "this group option is not supported");
        }
    }
    mem_str_putc(out, ':');
    *rest_of_group = bare;
    return ST_OK;
}

/* After "(". */
static status parse_group(parser *p, mem_str *out)
{
    static const char *const plain[] = {"?:", "?=", "?!", "?>", "?<=", "?<!"};
    if (starts(p, "?#")) {
        const char *close = memchr(p->text + p->pos, ')', p->len - p->pos);
        if (close == NULL)
            return bad(p, ST_FORMAT, "a comment is not closed");
        p->pos = (size_t)(close + 1 - p->text);
        return ST_OK;
    }
    bool rest = false;
    size_t i = 0;
    while (i < ARRAY_LEN(plain) && !starts(p, plain[i]))
        i++;
    if (i < ARRAY_LEN(plain)) {
        mem_str_putc(out, '(');
        mem_str_puts(out, plain[i]);
        p->pos += strlen(plain[i]);
    } else if (starts(p, "?<") || starts(p, "?'")) {
        char end = peek(p, 1) == '<' ? '>' : '\'';
        const char *close = memchr(p->text + p->pos + 2, end, p->len - p->pos - 2);
        if (close == NULL)
            return bad(p, ST_FORMAT, "a group's name is not closed");
        mem_str_printf(out, "(?<%.*s>", (int)(close - (p->text + p->pos + 2)), p->text + p->pos + 2);
        p->pos = (size_t)(close + 1 - p->text);
    } else if (peek(p, 0) == '?') {
        p->pos++;
        TRY(parse_options(p, out, &rest));
    } else {
        mem_str_puts(out, p->captures ? "(" : "(?:");
    }
    TRY(parse_alternatives(p, out));
    mem_str_putc(out, ')');
    if (rest)
        return ST_OK; /* the enclosing group's ")" is still to come */
    if (peek(p, 0) != ')' || !more(p))
        return bad(p, ST_FORMAT, "a group is not closed");
    p->pos++;
    return ST_OK;
}

/* \b (or \B): between a word character and another (or not). */
static status word_boundary(const parser *p, bool not, mem_str *out)
{
    char_set s = {0};
    mem_str_puts(&s.inside, CLASS_WORD LONE_WORD_MORE);
    complete(p, &s);
    const char *w = s.inside.data;
    if (s.inside.failed)
        out->failed = true;
    else
        mem_str_printf(out, "(?:(?<=[%s])(?%c[%s])|(?<![%s])(?%c[%s]))", w, not ? '=' : '!', w, w, not ? '!' : '=', w);
    mem_str_free(&s.inside);
    return ST_OK;
}

/* After a backslash, outside classes. */
static status parse_escape(parser *p, mem_str *out)
{
    if (!more(p))
        return bad(p, ST_FORMAT, "a backslash ends it");
    bool is_set, is_char;
    char_set set = {0};
    status st = set_escape(p, &set, &is_set);
    if (st == ST_OK && is_set) {
        class_set one = {0};
        if (set.inside.len >= sizeof(CLASS_WORD) - 1 && memcmp(set.inside.data, CLASS_WORD, sizeof(CLASS_WORD) - 1) == 0)
            mem_str_puts(&set.inside, LONE_WORD_MORE);
        class_add(&one, &set);
        class_write(&one, out);
        out->failed = out->failed || one.inside.failed || one.others.failed;
        class_set_free(&one);
    }
    mem_str_free(&set.inside);
    if (st != ST_OK || is_set)
        return st;
    uint32_t c;
    TRY(char_escape(p, false, &c, &is_char));
    if (is_char) {
        put_char(out, c);
        return ST_OK;
    }
    char e = p->text[p->pos++];
    switch (e) {
    case 'b':
    case 'B':
        return word_boundary(p, e == 'B', out);
    case 'O':
        mem_str_puts(out, "(?s:.)");
        return ST_OK;
    case 'N':
        mem_str_puts(out, "(?-s:.)");
        return ST_OK;
    case 'R':
    case 'X':
    case 'K':
    case 'A':
    case 'z':
    case 'Z':
    case 'G':
        mem_str_printf(out, "\\%c", e);
        return ST_OK;
    case 'k': {
        const char *close = peek(p, 0) == '<' ? memchr(p->text + p->pos, '>', p->len - p->pos) : NULL;
        if (close == NULL)
            return bad(p, ST_FORMAT, "\\k needs <name>");
        mem_str_printf(out, "\\k%.*s", (int)(close + 1 - (p->text + p->pos)), p->text + p->pos);
        p->pos = (size_t)(close + 1 - p->text);
        return ST_OK;
    }
    default:
        if (e < '1' || e > '9')
            return bad(p, ST_UNSUPPORTED, "this escape is not supported");
        p->pos--;
        mem_str_printf(out, "\\g{%u}", read_digits(p, 3, 10));
        return ST_OK;
    }
}

static void wrap_from(mem_str *out, size_t from)
{
    mem_str_puts(out, "(?:)"); /* room for four more characters */
    if (out->failed)
        return;
    memmove(out->data + from + 3, out->data + from, out->len - 4 - from);
    memcpy(out->data + from, "(?:", 3);
    out->data[out->len - 1] = ')';
}

/* "{n}", "{n,}", "{,m}", "{n,m}" at the position?  Reads it. */
static bool read_interval(parser *p, uint32_t *low, uint32_t *high, bool *fixed)
{
    size_t from = p->pos;
    p->pos++;
    size_t digits = p->pos;
    *low = read_digits(p, 6, 10);
    bool has_low = p->pos > digits;
    *fixed = false;
    *high = *low;
    bool ok = has_low;
    if (peek(p, 0) == ',') {
        p->pos++;
        digits = p->pos;
        *high = read_digits(p, 6, 10);
        bool has_high = p->pos > digits;
        ok = has_low || has_high;
        if (!has_high)
            *high = UINT32_MAX;
    } else {
        *fixed = true;
    }
    ok = ok && peek(p, 0) == '}';
    if (!ok) {
        p->pos = from;
        return false;
    }
    p->pos++;
    return true;
}

/* The quantifiers after an atom that was written from `atom` on. */
static status parse_quantifiers(parser *p, mem_str *out, size_t atom)
{
    for (bool again = false; more(p); again = true) {
        char c = peek(p, 0);
        uint32_t low, high;
        bool fixed = false, interval = c == '{' && read_interval(p, &low, &high, &fixed);
        if (!interval && c != '*' && c != '+' && c != '?')
            return ST_OK;
        if (again)
            wrap_from(out, atom);
        if (!interval) {
            p->pos++;
            mem_str_putc(out, c);
            if (peek(p, 0) == '?' || peek(p, 0) == '+')
                mem_str_putc(out, p->text[p->pos++]);
            continue;
        }
        if (high == UINT32_MAX)
            mem_str_printf(out, "{%u,}", low);
        else if (low > high)
            return bad(p, ST_UNSUPPORTED, "an interval runs backwards");
        else
            mem_str_printf(out, "{%u,%u}", low, high);
        /* In Ruby "{n}?" makes the whole optional, and a plus after an interval is one more quantifier. */
        if (peek(p, 0) == '?' && !fixed)
            mem_str_putc(out, p->text[p->pos++]);
    }
    return ST_OK;
}

static status parse_atom(parser *p, mem_str *out)
{
    char c = peek(p, 0);
    switch (c) {
    case '\\':
        p->pos++;
        return parse_escape(p, out);
    case '[':
        p->pos++;
        return parse_class(p, out);
    case '(':
        p->pos++;
        return parse_group(p, out);
    case '.':
    case '^':
    case '$':
        p->pos++;
        mem_str_putc(out, c);
        return ST_OK;
    case '*':
    case '+':
    case '?':
        return bad(p, ST_FORMAT, "a quantifier has nothing to repeat");
    default:
        put_char(out, tok_utf8_next(p->text, &p->pos));
        return ST_OK;
    }
}

static status parse_alternatives(parser *p, mem_str *out)
{
    if (++p->depth > MAX_DEPTH)
        return bad(p, ST_LIMIT, "nested too deeply");
    while (more(p) && peek(p, 0) != ')') {
        if (peek(p, 0) == '|') {
            p->pos++;
            mem_str_putc(out, '|');
            continue;
        }
        size_t atom = out->len;
        TRY(parse_atom(p, out));
        TRY(parse_quantifiers(p, out, atom));
        if (out->failed)
            return bad(p, ST_LIMIT, "too long");
    }
    p->depth--;
    return ST_OK;
}

static bool refers_back(const char *s, size_t len)
{
    for (size_t i = 0; i + 1 < len; i++) {
        if (s[i] != '\\')
            continue;
        i++;
        if ((s[i] >= '1' && s[i] <= '9') || s[i] == 'k')
            return true;
    }
    return false;
}

status tok_pattern_translate(const char *where, const char *pattern, size_t len, bool newer, mem_str *out)
{
    if (len > (1u << 16))
        return FAIL(ST_LIMIT, "%s: a pattern of %zu bytes; at most 64 KiB is accepted", where, len);
    if (!tok_utf8_valid(pattern, len))
        return FAIL(ST_FORMAT, "%s: a pattern is not valid UTF-8", where);
    parser p = {.where = where, .text = pattern, .len = len, .captures = refers_back(pattern, len), .newer = newer};
    TRY(parse_alternatives(&p, out));
    if (more(&p))
        return bad(&p, ST_FORMAT, "unmatched ')'");
    return ST_OK;
}
